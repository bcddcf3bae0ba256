//! What becomes of messages.

use std::collections::BTreeSet;

use proto::PeerName;
use rand::rngs::StdRng;
use rand::{RngExt, seq::SliceRandom};

use crate::world::{Event, Life, World, trace};

/// How bad things are in a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    loss: f64,
    repetition: f64,
    max_delay_ms: u64,
    pub(crate) failing_save: f64,
}

impl Faults {
    pub(crate) fn draw(rng: &mut StdRng) -> Self {
        let mut one_of = |choices: &[f64]| choices[rng.random_range(0..choices.len())];
        let loss = one_of(&[0.0, 0.02, 0.3]);
        let repetition = one_of(&[0.0, 0.1]);
        let failing_save = one_of(&[0.0, 0.0, 0.05, 0.4]);
        let delays = [20, 500, MAX_DELAY_MS];
        Self {
            loss,
            repetition,
            max_delay_ms: delays[rng.random_range(0..delays.len())],
            failing_save,
        }
    }
}

/// Longest time that a message is under way.
pub(crate) const MAX_DELAY_MS: u64 = 3_000;

/// A message under way.
pub(crate) struct Flight {
    from: usize,
    to: usize,
    kind: Kind,
}

enum Kind {
    Unicast(Vec<u8>),
    Gossip(Vec<u8>),
    Broadcast {
        origin: usize,
        payload: Vec<u8>,
        /// Whom the receiver passes it on to, in its own words.
        children: Vec<Branch>,
    },
}

/// A part of the tree along which a broadcast spreads.
pub(crate) struct Branch {
    node: usize,
    children: Vec<Branch>,
}

impl World {
    /// Whether messages pass between two peers now.
    pub(crate) fn connected(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.nodes[a], &self.nodes[b]);
        a.name != b.name && a.life == Life::Up && b.life == Life::Up && a.part == b.part
    }

    pub(crate) fn neighbours(&self, of: usize) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|other| self.connected(of, *other))
            .collect()
    }

    fn send(&mut self, from: usize, to: usize, kind: Kind) {
        self.totals.messages += 1;
        if !self.calm && self.rng.random_bool(self.faults.loss) {
            trace!(self, "{from} to {to}: lost");
            return;
        }
        let max_delay_ms = if self.calm {
            100
        } else {
            self.faults.max_delay_ms
        };
        let delay = self.millis(0..max_delay_ms);
        if !self.calm && self.rng.random_bool(self.faults.repetition) {
            let copy = match &kind {
                Kind::Unicast(payload) => Kind::Unicast(payload.clone()),
                Kind::Gossip(payload) => Kind::Gossip(payload.clone()),
                Kind::Broadcast {
                    origin, payload, ..
                } => Kind::Broadcast {
                    origin: *origin,
                    payload: payload.clone(),
                    children: Vec::new(),
                },
            };
            let delay = self.millis(0..max_delay_ms);
            self.after(
                delay,
                Event::Deliver(Flight {
                    from,
                    to,
                    kind: copy,
                }),
            );
        }
        self.after(delay, Event::Deliver(Flight { from, to, kind }));
    }

    pub(crate) fn unicast(&mut self, from: usize, to: PeerName, payload: Vec<u8>) {
        let Some(to) = self.index_of(to) else {
            panic!("message to nobody");
        };
        trace!(self, "{from} to {to}: unicast of kind {}", payload[0]);
        if self.connected(from, to) {
            self.send(from, to, Kind::Unicast(payload));
        }
    }

    fn state_of(&self, index: usize) -> Option<Vec<u8>> {
        let allocator = self.nodes[index].allocator.as_ref()?;
        Some(allocator.encode_state(self.now().unix))
    }

    pub(crate) fn broadcast(&mut self, from: usize) {
        trace!(self, "{from} broadcasts");
        // A random tree over all that are connected.
        let mut others = self.neighbours(from);
        others.shuffle(&mut self.rng);
        let mut roots: Vec<Branch> = Vec::new();
        let direct = self.rng.random_bool(0.5);
        for node in others {
            let mut list = &mut roots;
            while !direct && !list.is_empty() && self.rng.random_bool(0.5) {
                let at = self.rng.random_range(0..list.len());
                list = &mut list[at].children;
            }
            list.push(Branch {
                node,
                children: Vec::new(),
            });
        }
        self.pass_on(from, from, roots);
    }

    fn pass_on(&mut self, origin: usize, from: usize, branches: Vec<Branch>) {
        for branch in branches {
            if let Some(payload) = self.state_of(from)
                && self.connected(from, branch.node)
            {
                let children = branch.children;
                self.send(
                    from,
                    branch.node,
                    Kind::Broadcast {
                        origin,
                        payload,
                        children,
                    },
                );
            }
        }
    }

    pub(crate) fn gossip_to(&mut self, from: usize, to: usize) {
        if let Some(payload) = self.state_of(from) {
            self.send(from, to, Kind::Gossip(payload));
        }
    }

    pub(crate) fn gossip_round(&mut self, index: usize, process: u64) {
        if self.nodes[index].process != process {
            return;
        }
        let mut neighbours = self.neighbours(index);
        neighbours.shuffle(&mut self.rng);
        for to in neighbours.into_iter().take(3) {
            self.gossip_to(index, to);
        }
        self.after(
            std::time::Duration::from_secs(30),
            Event::Gossip {
                node: index,
                process,
            },
        );
    }

    pub(crate) fn deliver(&mut self, flight: Flight) {
        let Flight { from, to, kind } = flight;
        // What was sent arrives, even if the sender is gone by now.
        if self.nodes[to].life != Life::Up {
            return;
        }
        let now = self.now();
        let name = self.nodes[from].name;
        let result = match kind {
            Kind::Unicast(payload) => self.with_allocator(to, |allocator| {
                allocator.handle_unicast(name, &payload, now)
            }),
            Kind::Gossip(payload) => {
                self.with_allocator(to, |allocator| allocator.handle_gossip(&payload, now))
            }
            Kind::Broadcast {
                origin,
                payload,
                children,
            } => {
                let origin_name = self.nodes[origin].name;
                let result = self.with_allocator(to, |allocator| {
                    allocator.handle_broadcast(origin_name, &payload, now)
                });
                self.pass_on(origin, to, children);
                result
            }
        };
        // Nobody has done anything wrong.
        if let Some(Err(error)) = result {
            if self.is_traced() {
                for index in [from, to] {
                    let allocator = self.nodes[index].allocator.as_ref();
                    println!(
                        "peer {index}: {:#?}",
                        allocator.map(ipam::allocator::Allocator::ring)
                    );
                }
            }
            panic!("{to} refuses a message from {from}: {error}");
        }
    }

    /// Processes have come or gone, or the partition is another: the mesh notices after a while,
    /// and new connections begin with an exchange of states.
    pub(crate) fn reachability_changed(&mut self) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].life == Life::Up {
                let delay = self.millis(0..5_000);
                self.after(delay, Event::Notice { node: index });
            }
        }
    }

    pub(crate) fn notice(&mut self, index: usize) {
        if self.nodes[index].life != Life::Up {
            return;
        }
        let neighbours = self.neighbours(index);
        let names: BTreeSet<PeerName> = neighbours
            .iter()
            .map(|other| self.nodes[*other].name)
            .collect();
        let now = self.now();
        let before = self
            .with_allocator(index, |allocator| {
                allocator.handle_reachable(names.clone(), now);
            })
            .is_some();
        assert!(before);
        for other in neighbours {
            if self.rng.random_bool(0.3) || self.calm {
                self.gossip_to(index, other);
            }
        }
    }

    pub(crate) fn partition(&mut self) {
        let parts = self.rng.random_range(2..4);
        trace!(self, "partition into {parts}");
        self.totals.partitions += 1;
        for index in 0..self.nodes.len() {
            self.nodes[index].part = self.rng.random_range(0..parts);
        }
        self.reachability_changed();
    }

    pub(crate) fn heal(&mut self) {
        trace!(self, "partition healed");
        for node in &mut self.nodes {
            node.part = 0;
        }
        self.reachability_changed();
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.nodes.iter().all(|node| node.part == 0)
    }
}
