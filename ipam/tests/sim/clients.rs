//! Containers and their requests.

use ipam::allocator::{ANONYMOUS, Answer, Done, Refusal, RequestId};
use ipam::range::{Address, Cidr};
use rand::RngExt;

use crate::world::{Event, Life, World, trace};

/// A container, or whoever else has addresses. It is there as long as its process runs.
#[derive(Debug, Default)]
pub(crate) struct Container {
    pub(crate) is_container: bool,
    /// What it was told it has.
    pub(crate) addresses: Vec<Cidr>,
}

/// A request that was not answered yet.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) ident: String,
    pub(crate) kind: RequestKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    Allocate(Cidr),
    /// `true`: answered before it is settled, so that the answer means nothing.
    Claim(Cidr, bool),
    Prime,
    Release,
    ShutDown,
    TakeOver,
}

impl World {
    fn new_ident(&mut self) -> String {
        self.last_ident += 1;
        format!("c{}", self.last_ident)
    }

    fn asked(&mut self, node: usize, ident: &str, kind: RequestKind, id: RequestId) {
        let request = Request {
            ident: ident.to_owned(),
            kind,
        };
        // Most answers come later, but some were there at once.
        if let Some(answer) = self.early_answer(node, id) {
            self.take_answer(node, &request, answer);
        } else {
            self.nodes[node].requests.insert(id, request);
        }
    }

    /// A subnet to ask for: mostly all there is.
    fn subnet(&mut self) -> Cidr {
        if self.rng.random_bool(0.8) {
            return self.universe;
        }
        let universe = self.universe.range();
        let at = universe.start.0 + self.rng.random_range(0..universe.size());
        let len = self.rng.random_range(self.universe.prefix_len()..31);
        Cidr::new(Address(at), len).masked()
    }

    pub(crate) fn new_container(&mut self, node: usize) {
        let ident = self.new_ident();
        let is_container = self.rng.random_bool(0.5);
        let container = Container {
            is_container,
            addresses: Vec::new(),
        };
        self.nodes[node].containers.insert(ident.clone(), container);
        let subnet = self.subnet();
        self.allocate(node, &ident, subnet);
    }

    pub(crate) fn allocate(&mut self, node: usize, ident: &str, subnet: Cidr) {
        let now = self.now();
        let Some(container) = self.nodes[node].containers.get(ident) else {
            return;
        };
        let is_container = container.is_container;
        trace!(self, "{node} allocate {ident} in {subnet}");
        let id = self.with_allocator(node, |allocator| {
            allocator.allocate(ident, subnet, is_container, now)
        });
        if let Some(id) = id {
            self.asked(node, ident, RequestKind::Allocate(subnet), id);
        }
    }

    pub(crate) fn claim(&mut self, node: usize) {
        let universe = self.universe.range();
        let at = universe.start.0 + self.rng.random_range(0..universe.size());
        let cidr = Cidr::new(Address(at), self.universe.prefix_len());
        let early = self.rng.random_bool(0.3);
        let ident = self.new_ident();
        let is_container = self.rng.random_bool(0.5);
        let container = Container {
            is_container,
            addresses: Vec::new(),
        };
        self.nodes[node].containers.insert(ident.clone(), container);
        trace!(self, "{node} claim {cidr} for {ident}, early: {early}");
        let now = self.now();
        let id = self.with_allocator(node, |allocator| {
            allocator.claim(&ident, cidr, is_container, early, now)
        });
        if let Some(id) = id {
            self.asked(node, &ident, RequestKind::Claim(cidr, early), id);
        }
    }

    /// Somebody asks who never tells who it is, and holds the address for good.
    pub(crate) fn allocate_anonymously(&mut self, node: usize) {
        let now = self.now();
        let subnet = self.universe;
        let id = self.with_allocator(node, |allocator| {
            allocator.allocate(ANONYMOUS, subnet, false, now)
        });
        if let Some(id) = id {
            self.asked(node, ANONYMOUS, RequestKind::Allocate(subnet), id);
        }
    }

    pub(crate) fn prime(&mut self, node: usize) {
        let now = self.now();
        if let Some(id) = self.with_allocator(node, |allocator| allocator.prime(now)) {
            self.asked(node, "", RequestKind::Prime, id);
        }
    }

    pub(crate) fn cancel(&mut self, node: usize) {
        let ids: Vec<RequestId> = self.nodes[node]
            .requests
            .iter()
            .filter(|(_, request)| {
                !matches!(request.kind, RequestKind::ShutDown | RequestKind::TakeOver)
            })
            .map(|(id, _)| *id)
            .collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.rng.random_range(0..ids.len())];
        let request = self.nodes[node].requests.remove(&id).unwrap();
        trace!(self, "{node} cancel {request:?}");
        self.totals.cancelled += 1;
        let now = self.now();
        self.with_allocator(node, |allocator| allocator.cancel(id, now));
    }

    fn some_ident(&mut self, node: usize, settled: bool) -> Option<String> {
        let asking = |ident: &str| {
            let mut requests = self.nodes[node].requests.values();
            requests.any(|request| request.ident == ident)
        };
        let containers = self.nodes[node].containers.keys();
        let idents: Vec<String> = containers
            .filter(|ident| !settled || !asking(ident))
            .cloned()
            .collect();
        (!idents.is_empty()).then(|| idents[self.rng.random_range(0..idents.len())].clone())
    }

    pub(crate) fn ask_again(&mut self, node: usize) {
        if let Some(ident) = self.some_ident(node, false) {
            let subnet = self.subnet();
            self.allocate(node, &ident, subnet);
        }
    }

    /// A container stops using its addresses, and says so.
    pub(crate) fn release(&mut self, node: usize) {
        let Some(ident) = self.some_ident(node, true) else {
            return;
        };
        let now = self.now();
        let container = self.nodes[node].containers.get_mut(&ident).unwrap();
        let one = container.addresses.len() > 1;
        let released = if one {
            vec![container.addresses.remove(0)]
        } else {
            self.nodes[node]
                .containers
                .remove(&ident)
                .unwrap()
                .addresses
        };
        trace!(self, "{node} release {released:?} of {ident}");
        for cidr in &released {
            self.ownership.let_go(cidr.address, node, &ident);
        }
        let id = self.with_allocator(node, |allocator| match released[..] {
            [cidr] if one => allocator.release(&ident, cidr.address, now),
            _ => allocator.release_all(&ident, now),
        });
        if let Some(id) = id {
            self.asked(node, &ident, RequestKind::Release, id);
        }
    }

    fn forget_container(&mut self, node: usize, ident: &str) -> Option<Container> {
        let container = self.nodes[node].containers.remove(ident)?;
        for cidr in &container.addresses {
            self.ownership.let_go(cidr.address, node, ident);
        }
        Some(container)
    }

    pub(crate) fn forget_all_containers(&mut self, node: usize) {
        let idents: Vec<String> = self.nodes[node].containers.keys().cloned().collect();
        for ident in idents {
            self.forget_container(node, &ident);
        }
        self.ownership.let_go_all(node);
    }

    /// A container dies; perhaps it is started again within its grace.
    pub(crate) fn container_dies(&mut self, node: usize) {
        let containers = &self.nodes[node].containers;
        let idents: Vec<String> = containers
            .iter()
            .filter(|(_, container)| container.is_container)
            .map(|(ident, _)| ident.clone())
            .collect();
        if idents.is_empty() {
            return;
        }
        let ident = idents[self.rng.random_range(0..idents.len())].clone();
        let asking = self.nodes[node]
            .requests
            .values()
            .any(|request| request.ident == ident);
        self.forget_container(node, &ident);
        let now = self.now();
        if self.rng.random_bool(0.4) {
            trace!(self, "{node} {ident} destroyed");
            self.with_allocator(node, |allocator| allocator.container_destroyed(&ident, now));
            return;
        }
        trace!(self, "{node} {ident} died");
        self.with_allocator(node, |allocator| allocator.container_died(&ident, now));
        if !asking && self.rng.random_bool(0.5) {
            let process = self.nodes[node].process;
            let delay = self.millis(0..25_000);
            self.after(
                delay,
                Event::ContainerBack {
                    node,
                    process,
                    ident,
                },
            );
        }
    }

    /// It has what it had before.
    pub(crate) fn container_back(&mut self, node: usize, process: u64, ident: &str) {
        let requests = &self.nodes[node].requests;
        // Nobody starts containers on a host that is being reset.
        let leaving = requests
            .values()
            .any(|request| request.kind == RequestKind::ShutDown);
        let same = self.nodes[node].process == process && self.nodes[node].life == Life::Up;
        if !same || leaving {
            return;
        }
        trace!(self, "{node} {ident} started again");
        let now = self.now();
        self.with_allocator(node, |allocator| allocator.container_started(ident, now));
        let container = Container {
            is_container: true,
            addresses: Vec::new(),
        };
        self.nodes[node]
            .containers
            .insert(ident.to_owned(), container);
        let owned: Vec<Cidr> = self
            .with_allocator(node, |allocator| {
                let owned = allocator.owned().find(|(owner, _)| ***owner == *ident);
                owned.map(|(_, owned)| owned.cidrs.clone())
            })
            .flatten()
            .unwrap_or_default();
        for cidr in owned {
            self.hold(node, ident, cidr);
        }
    }

    /// A container is told that it has an address.
    fn hold(&mut self, node: usize, ident: &str, cidr: Cidr) {
        if ident == ANONYMOUS {
            let ident = cidr.address.to_string();
            self.ownership.hold(cidr.address, node, &ident);
            // Somebody who goes by the address may be there already, with another one.
            let container = self.nodes[node].containers.entry(ident).or_default();
            container.addresses.push(cidr);
            return;
        }
        // Nobody there any more to use it.
        let Some(container) = self.nodes[node].containers.get_mut(ident) else {
            return;
        };
        if container
            .addresses
            .iter()
            .all(|held| held.address != cidr.address)
        {
            container.addresses.push(cidr);
        }
        self.ownership.hold(cidr.address, node, ident);
    }

    pub(crate) fn answered(&mut self, node: usize, id: RequestId, answer: Answer) {
        match self.nodes[node].requests.remove(&id) {
            Some(request) => self.take_answer(node, &request, answer),
            // The request is still being made.
            None => self.note_early(node, id, answer),
        }
    }

    fn take_answer(&mut self, node: usize, request: &Request, answer: Answer) {
        trace!(self, "{node} {request:?}: {answer:?}");
        match (request.kind, answer) {
            (RequestKind::Allocate(subnet), Ok(Done::Allocated(cidr))) => {
                assert_eq!(cidr.prefix_len(), subnet.prefix_len());
                assert!(subnet.range().contains(cidr.address));
                self.totals.allocated += 1;
                self.hold(node, &request.ident, cidr);
            }
            (RequestKind::Claim(cidr, early), Ok(Done::Claimed(claimed))) => {
                assert_eq!(claimed, cidr);
                self.totals.claimed += 1;
                if !early {
                    self.hold(node, &request.ident, cidr);
                }
            }
            (RequestKind::Prime, Ok(Done::Primed))
            | (
                RequestKind::Release,
                Ok(Done::Released) | Err(Refusal::NothingOwned(_) | Refusal::NotFound { .. }),
            )
            | (RequestKind::TakeOver, Err(_)) => {}
            (RequestKind::ShutDown, Ok(Done::ShutDown(heir))) => self.shut_down(node, heir),
            (RequestKind::TakeOver, Ok(Done::TakenOver(_))) => self.totals.take_overs += 1,
            (RequestKind::Allocate(_) | RequestKind::Claim(..), Err(refusal)) => {
                self.totals.refused += 1;
                let expected = matches!(
                    refusal,
                    Refusal::Cancelled { .. }
                        | Refusal::OtherPeer { .. }
                        | Refusal::AlreadyOwned { .. }
                        | Refusal::InUse(_)
                );
                assert!(expected, "{refusal}");
            }
            (kind, answer) => panic!("{kind:?}: {answer:?}"),
        }
    }

    pub(crate) fn make_request(
        &mut self,
        node: usize,
        kind: RequestKind,
        call: impl FnOnce(&mut ipam::allocator::Allocator) -> RequestId,
    ) {
        if let Some(id) = self.with_allocator(node, call) {
            self.asked(node, "", kind, id);
        }
    }
}
