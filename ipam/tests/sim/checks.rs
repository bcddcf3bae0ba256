//! What must hold at all times, and in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use ipam::allocator::{Answer, Init, RequestId};
use ipam::range::{Address, Range};

use crate::clients::RequestKind;
use crate::world::{Life, World};

/// Who has what, across all peers.
pub(crate) struct Ownership {
    universe: Range,
    /// The peer that each address belongs to, as that peer itself sees it.
    peers: Vec<Option<usize>>,
    ranges: BTreeMap<usize, Vec<Range>>,
    /// The peer and identifier that think they have the address.
    holders: BTreeMap<Address, (usize, String)>,
    /// Versions last seen, by peer.
    versions: BTreeMap<usize, (u64, BTreeMap<Address, u32>)>,
    /// Answers to requests of which the number is not known yet.
    early: BTreeMap<(usize, RequestId), Answer>,
}

impl Ownership {
    pub(crate) fn new(universe: Range) -> Self {
        Self {
            universe,
            peers: vec![None; universe.size() as usize],
            ranges: BTreeMap::new(),
            holders: BTreeMap::new(),
            versions: BTreeMap::new(),
            early: BTreeMap::new(),
        }
    }

    fn slots(&mut self, range: Range) -> impl Iterator<Item = (Address, &mut Option<usize>)> {
        let first = (range.start.0 - self.universe.start.0) as usize;
        let slots = self.peers[first..first + range.size() as usize].iter_mut();
        (range.start.0..).map(Address).zip(slots)
    }

    /// Takes up which ranges a peer thinks are its own.
    fn set(&mut self, peer: usize, ranges: Vec<Range>) {
        if self.ranges.get(&peer) == Some(&ranges) {
            return;
        }
        self.forget(peer);
        for range in &ranges {
            for (address, slot) in self.slots(*range) {
                if let Some(other) = *slot {
                    panic!("{address} belongs to {other} and to {peer}");
                }
                *slot = Some(peer);
            }
        }
        self.ranges.insert(peer, ranges);
    }

    /// A peer owns nothing any more.
    pub(crate) fn forget(&mut self, peer: usize) {
        for range in self.ranges.remove(&peer).unwrap_or_default() {
            for (_, slot) in self.slots(range) {
                *slot = None;
            }
        }
    }

    /// Somebody was told that it has an address.
    pub(crate) fn hold(&mut self, address: Address, peer: usize, ident: &str) {
        let holder = (peer, ident.to_owned());
        let before = self.holders.insert(address, holder.clone());
        if let Some(before) = before.filter(|before| *before != holder) {
            panic!("{address} was given to {before:?} and to {holder:?}");
        }
    }

    /// Somebody does not use an address any more.
    pub(crate) fn let_go(&mut self, address: Address, peer: usize, ident: &str) {
        if self
            .holders
            .get(&address)
            .is_some_and(|(at, by)| *at == peer && by == ident)
        {
            self.holders.remove(&address);
        }
    }

    /// A host is gone, with all that used its addresses.
    pub(crate) fn let_go_all(&mut self, peer: usize) {
        self.holders.retain(|_, (at, _)| *at != peer);
    }
}

impl World {
    pub(crate) fn early_answer(&mut self, node: usize, id: RequestId) -> Option<Answer> {
        self.ownership.early.remove(&(node, id))
    }

    pub(crate) fn note_early(&mut self, node: usize, id: RequestId, answer: Answer) {
        self.ownership.early.insert((node, id), answer);
    }

    /// Checks a running peer.
    pub(crate) fn check(&mut self, index: usize) {
        let node = &self.nodes[index];
        let allocator = node.allocator.as_ref().unwrap();
        if let Err(error) = allocator.check_consistency() {
            panic!("peer {index}: {error}");
        }
        self.ownership.set(index, allocator.space().ours());
        let entries = allocator.ring().entries().iter();
        let now: BTreeMap<Address, u32> =
            entries.map(|entry| (entry.token, entry.version)).collect();
        let before = self
            .ownership
            .versions
            .insert(index, (node.process, now.clone()));
        // A crash may undo what nobody knew.
        if let Some((_, before)) = before.filter(|(process, _)| *process == node.process) {
            for (token, version) in before {
                assert!(
                    now.get(&token).is_some_and(|now| *now >= version),
                    "{token} went back"
                );
            }
        }
        // Whoever thinks it has an address of ours is known to us.
        let mut owners = BTreeMap::new();
        for (ident, owned) in allocator.owned() {
            owners.extend(owned.cidrs.iter().map(|cidr| (cidr.address, ident.clone())));
        }
        for (address, (_, holder)) in self
            .ownership
            .holders
            .iter()
            .filter(|held| held.1.0 == index)
        {
            let owner = owners.get(address);
            assert!(
                owner.is_some_and(|owner| **owner == **holder),
                "{address} of {holder} is {owner:?}'s"
            );
        }
    }

    /// Takes up what a stopped peer will own when it starts again.
    pub(crate) fn check_down(&mut self, index: usize) {
        let disk = &self.nodes[index].disk;
        let mut ours = ipam::space::Space::new();
        for range in disk.ring.owned_by(self.nodes[index].name) {
            ours.add(range);
        }
        self.ownership.set(index, ours.ours());
    }

    fn may_agree(&self) -> bool {
        let alive = |node: &crate::world::Node| node.life == Life::Up;
        let electors = self
            .nodes
            .iter()
            .filter(|node| alive(node) && matches!(node.init, Init::Consensus(_)));
        electors.count() >= self.quorum
    }

    fn rings(&self) -> impl Iterator<Item = &ipam::ring::Ring> {
        let allocators = self.nodes.iter().filter_map(|node| node.allocator.as_ref());
        allocators.map(ipam::allocator::Allocator::ring)
    }

    /// Whether everybody has the same ring and nothing that could end is waiting.
    pub(crate) fn is_at_rest(&self) -> bool {
        if !self.with_life(Life::Down).is_empty() {
            return false;
        }
        let mut rings = self.rings();
        let first = rings.next();
        if !rings.all(|ring| Some(ring) == first) {
            return false;
        }
        let saved = |node: &crate::world::Node| {
            node.allocator
                .as_ref()
                .is_none_or(ipam::allocator::Allocator::is_saved)
        };
        self.nodes.iter().all(saved) && self.stuck().is_none()
    }

    /// A request that should have ended.
    fn stuck(&self) -> Option<String> {
        let has_ring = self.rings().next().is_some_and(|ring| !ring.is_empty());
        for (index, node) in self.nodes.iter().enumerate() {
            for request in node.requests.values() {
                let waits_rightly = match request.kind {
                    _ if !has_ring => !self.may_agree(),
                    RequestKind::Allocate(subnet) => {
                        let allocators =
                            self.nodes.iter().filter_map(|node| node.allocator.as_ref());
                        let mut spaces = allocators.map(ipam::allocator::Allocator::space);
                        !spaces.any(|space| space.free_within(subnet.host_range()).next().is_some())
                    }
                    _ => false,
                };
                if !waits_rightly {
                    return Some(format!("peer {index}: {request:?}"));
                }
            }
        }
        None
    }

    pub(crate) fn check_end(&mut self) {
        let rings: Vec<_> = self.rings().collect();
        if let Some((first, rest)) = rings.split_first() {
            for ring in rest {
                assert_eq!(ring, first, "rings differ at rest");
            }
            self.totals.tokens += first.entries().len() as u64;
        }
        if let Some(stuck) = self.stuck() {
            panic!("still waiting: {stuck}");
        }
        let waiting = self.nodes.iter().map(|node| node.requests.len() as u64);
        self.totals.waiting_in_the_end += waiting.sum::<u64>();
    }

    /// How long peace may last until everything is settled.
    pub(crate) const PEACE: Duration = Duration::from_secs(1200);
}
