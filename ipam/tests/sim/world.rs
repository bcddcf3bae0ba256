//! Peers, their disks, and the events that drive them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use ipam::allocator::{Allocator, Config, Init, Now, Output, PreClaim, RequestId, Save, Saved};
use ipam::range::Cidr;
use proto::{PeerName, PeerUid};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::checks::Ownership;
use crate::clients::{Container, Request};
use crate::network::{Faults, Flight};

/// What happened in a run, or in all of them.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) runs: u64,
    pub(crate) events: u64,
    pub(crate) messages: u64,
    pub(crate) saves: u64,
    pub(crate) failed_saves: u64,
    pub(crate) crashes: u64,
    pub(crate) crashes_while_saving: u64,
    pub(crate) partitions: u64,
    pub(crate) deaths: u64,
    pub(crate) take_overs: u64,
    pub(crate) resets: u64,
    pub(crate) rejoins: u64,
    pub(crate) allocated: u64,
    pub(crate) claimed: u64,
    pub(crate) refused: u64,
    pub(crate) cancelled: u64,
    pub(crate) waiting_in_the_end: u64,
    pub(crate) tokens: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.events += other.events;
        self.messages += other.messages;
        self.saves += other.saves;
        self.failed_saves += other.failed_saves;
        self.crashes += other.crashes;
        self.crashes_while_saving += other.crashes_while_saving;
        self.partitions += other.partitions;
        self.deaths += other.deaths;
        self.take_overs += other.take_overs;
        self.resets += other.resets;
        self.rejoins += other.rejoins;
        self.allocated += other.allocated;
        self.claimed += other.claimed;
        self.refused += other.refused;
        self.cancelled += other.cancelled;
        self.waiting_in_the_end += other.waiting_in_the_end;
        self.tokens += other.tokens;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Up,
    /// Will be restarted.
    Down,
    /// Its disk is empty; may come back.
    Reset,
    /// Never comes back.
    Dead,
}

pub(crate) struct Node {
    pub(crate) name: PeerName,
    pub(crate) init: Init,
    pub(crate) life: Life,
    /// Counts processes: what belongs to an earlier one is of no interest any more.
    pub(crate) process: u64,
    pub(crate) allocator: Option<Allocator>,
    pub(crate) disk: Saved,
    pub(crate) saving: Option<Save>,
    pub(crate) timer_at: Option<Instant>,
    pub(crate) requests: BTreeMap<RequestId, Request>,
    pub(crate) containers: BTreeMap<String, Container>,
    /// Which part of a partitioned mesh it is in.
    pub(crate) part: u32,
    pub(crate) died_at: Option<Instant>,
}

pub(crate) enum Event {
    Deliver(Flight),
    Saved {
        node: usize,
        process: u64,
        seq: u64,
    },
    Timer {
        node: usize,
        process: u64,
    },
    /// A round of periodic gossip.
    Gossip {
        node: usize,
        process: u64,
    },
    /// The mesh notices who can be reached.
    Notice {
        node: usize,
    },
    Restart {
        node: usize,
    },
    /// Something of the many things that can happen.
    Happening,
    ContainerBack {
        node: usize,
        process: u64,
        ident: String,
    },
}

pub(crate) struct World {
    pub(crate) rng: StdRng,
    pub(crate) at: Instant,
    start: Instant,
    trace: bool,
    pub(crate) universe: Cidr,
    pub(crate) nodes: Vec<Node>,
    pub(crate) quorum: usize,
    pub(crate) faults: Faults,
    pub(crate) ownership: Ownership,
    pub(crate) totals: Totals,
    pub(crate) last_ident: u64,
    pub(crate) last_uid: u64,
    /// Whether faults are many while the ring comes into being.
    pub(crate) hard_birth: bool,
    /// Whether faults and new requests have stopped.
    pub(crate) calm: bool,
    happenings_left: u32,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    events: BTreeMap<u64, Event>,
    last_event: u64,
}

/// Prints what happens, if wanted.
macro_rules! trace {
    ($world:expr, $($args:tt)*) => {
        if $world.is_traced() {
            $world.print(&format!($($args)*));
        }
    };
}
pub(crate) use trace;

impl World {
    pub(crate) fn new(seed: u64, trace: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let start = Instant::now();
        let count = match rng.random_range(0..10) {
            0 => 1,
            1..7 => rng.random_range(2..6),
            7..9 => rng.random_range(6..12),
            _ => rng.random_range(12..21),
        };
        let universe = [
            "10.32.0.0/28",
            "10.32.0.0/26",
            "10.32.0.0/24",
            "10.32.0.0/25",
        ];
        let universe: Cidr = universe[rng.random_range(0..universe.len())]
            .parse()
            .unwrap();
        let observers = if rng.random_bool(0.3) {
            rng.random_range(0..count)
        } else {
            0
        };
        let electors = count - observers;
        let name = |index: usize| PeerName::from_u64(0x0200_0000_0000 + index as u64 + 1).unwrap();
        let seeds: Vec<PeerName> = (0..electors).map(name).collect();
        let seeded = rng.random_bool(0.15);
        let nodes = (0..count)
            .map(|index| Node {
                name: name(index),
                init: if seeded {
                    Init::Seed(seeds.clone())
                } else if index < electors {
                    Init::Consensus(Some(electors))
                } else {
                    Init::Observer
                },
                life: Life::Down,
                process: 0,
                allocator: None,
                disk: Saved::default(),
                saving: None,
                timer_at: None,
                requests: BTreeMap::new(),
                containers: BTreeMap::new(),
                part: 0,
                died_at: None,
            })
            .collect();
        let mut world = Self {
            at: start,
            start,
            trace,
            universe,
            nodes,
            quorum: electors / 2 + 1,
            faults: Faults::draw(&mut rng),
            ownership: Ownership::new(universe.range()),
            totals: Totals {
                runs: 1,
                ..Totals::default()
            },
            last_ident: 0,
            last_uid: 0,
            hard_birth: rng.random_bool(0.3),
            calm: false,
            happenings_left: rng.random_range(50..400),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            last_event: 0,
            rng,
        };
        trace!(
            world,
            "{count} peers, {observers} of them observers, {universe}, seeded: {seeded}, {:?}",
            world.faults
        );
        for index in 0..count {
            let delay = if world.rng.random_bool(0.8) {
                0
            } else {
                world.rng.random_range(0..60_000)
            };
            world.after(Duration::from_millis(delay), Event::Restart { node: index });
        }
        world.after(Duration::from_millis(1), Event::Happening);
        world
    }

    pub(crate) fn is_traced(&self) -> bool {
        self.trace
    }

    pub(crate) fn print(&self, text: &str) {
        println!(
            "{:>10.3} {text}",
            self.at.duration_since(self.start).as_secs_f64()
        );
    }

    pub(crate) fn now(&self) -> Now {
        let since = self.at.duration_since(self.start).as_secs();
        Now {
            at: self.at,
            unix: 1_700_000_000 + i64::try_from(since).unwrap(),
        }
    }

    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.last_event += 1;
        self.queue.push(Reverse((self.at + delay, self.last_event)));
        self.events.insert(self.last_event, event);
    }

    pub(crate) fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.random_range(range))
    }

    pub(crate) fn with_life(&self, life: Life) -> Vec<usize> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter(|(_, node)| node.life == life)
            .map(|(index, _)| index)
            .collect()
    }

    pub(crate) fn pick(&mut self, from: &[usize]) -> Option<usize> {
        (!from.is_empty()).then(|| from[self.rng.random_range(0..from.len())])
    }

    pub(crate) fn index_of(&self, name: PeerName) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    pub(crate) fn run(mut self) -> Totals {
        let mut calm_since = None;
        while let Some(event) = self.next_event() {
            self.handle(event);
            if self.calm {
                let since = *calm_since.get_or_insert(self.at);
                let peace = self.at.duration_since(since);
                if peace > Self::PEACE
                    || (self.totals.events.is_multiple_of(16) && self.is_at_rest())
                {
                    break;
                }
            }
        }
        self.check_end();
        self.totals
    }

    fn next_event(&mut self) -> Option<Event> {
        let Reverse((at, number)) = self.queue.pop()?;
        self.at = at;
        self.totals.events += 1;
        self.events.remove(&number)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver(flight) => self.deliver(flight),
            Event::Saved { node, process, seq } => self.saved(node, process, seq),
            Event::Timer { node, process } => {
                let now = self.now();
                if self.nodes[node].process == process
                    && self.nodes[node].timer_at.is_some_and(|at| at <= now.at)
                {
                    self.nodes[node].timer_at = None;
                    self.with_allocator(node, |allocator| allocator.handle_timeout(now));
                }
            }
            Event::Gossip { node, process } => self.gossip_round(node, process),
            Event::Notice { node } => self.notice(node),
            Event::Restart { node } => self.restart(node),
            Event::Happening => self.happening(),
            Event::ContainerBack {
                node,
                process,
                ident,
            } => {
                self.container_back(node, process, &ident);
            }
        }
    }

    fn happening(&mut self) {
        if self.happenings_left == 0 {
            self.calm_down();
            return;
        }
        self.happenings_left -= 1;
        self.something_happens();
        let delay = match self.rng.random_range(0..10) {
            0 => self.millis(5_000..40_000),
            1..4 => self.millis(100..2_000),
            _ => self.millis(1..100),
        };
        self.after(delay, Event::Happening);
    }

    /// Calls the allocator of a peer, does what it says, and checks it.
    pub(crate) fn with_allocator<T>(
        &mut self,
        index: usize,
        call: impl FnOnce(&mut Allocator) -> T,
    ) -> Option<T> {
        let mut allocator = self.nodes[index].allocator.take()?;
        let result = call(&mut allocator);
        let mut outputs = Vec::new();
        while let Some(output) = allocator.poll_output() {
            outputs.push(output);
        }
        let timer_at = allocator.poll_timeout();
        self.nodes[index].allocator = Some(allocator);
        if timer_at != self.nodes[index].timer_at {
            self.nodes[index].timer_at = timer_at;
            if let Some(at) = timer_at {
                let process = self.nodes[index].process;
                let delay = at.saturating_duration_since(self.at);
                self.after(
                    delay,
                    Event::Timer {
                        node: index,
                        process,
                    },
                );
            }
        }
        self.check(index);
        let process = self.nodes[index].process;
        for output in outputs {
            // What it said may have ended it.
            if self.nodes[index].process != process {
                break;
            }
            match output {
                Output::Save(save) => self.save(index, save),
                Output::Answer(id, answer) => self.answered(index, id, answer),
                Output::Broadcast => self.broadcast(index),
                Output::Unicast { to, payload } => self.unicast(index, to, payload),
            }
        }
        Some(result)
    }

    fn save(&mut self, index: usize, save: Save) {
        let node = &mut self.nodes[index];
        assert!(node.saving.is_none(), "two transactions at a time");
        let (seq, process) = (save.seq, node.process);
        node.saving = Some(save);
        let delay = match self.rng.random_range(0..20) {
            0 => self.millis(500..3_000),
            1..5 => self.millis(5..100),
            _ => self.millis(0..5),
        };
        self.after(
            delay,
            Event::Saved {
                node: index,
                process,
                seq,
            },
        );
    }

    fn saved(&mut self, index: usize, process: u64, seq: u64) {
        if self.nodes[index].process != process {
            return;
        }
        let save = self.nodes[index].saving.take().unwrap();
        let now = self.now();
        if !self.calm && self.rng.random_bool(self.faults.failing_save) {
            trace!(self, "{index} save {seq} fails");
            self.totals.failed_saves += 1;
            let error = "no space left on device".to_owned();
            self.with_allocator(index, |allocator| {
                allocator.handle_save_failed(seq, error, now);
            });
        } else {
            self.totals.saves += 1;
            self.nodes[index].disk.apply(&save.changes);
            self.with_allocator(index, |allocator| allocator.handle_saved(seq, now));
        }
    }

    /// The process of a peer ends, without warning.
    pub(crate) fn stop(&mut self, index: usize, life: Life) {
        let lands = self.rng.random_bool(0.5);
        let node = &mut self.nodes[index];
        node.process += 1;
        node.allocator = None;
        node.timer_at = None;
        node.requests.clear();
        node.life = life;
        if let Some(save) = node.saving.take() {
            self.totals.crashes_while_saving += 1;
            if lands {
                node.disk.apply(&save.changes);
            }
        }
        self.check_down(index);
        self.reachability_changed();
    }

    pub(crate) fn restart(&mut self, index: usize) {
        if self.nodes[index].life != Life::Down {
            return;
        }
        self.last_uid += 1;
        let seed = self.rng.random();
        let now = self.now();
        let tells = self.rng.random_bool(0.5);
        let node = &mut self.nodes[index];
        let pre_claims = node.containers.iter().filter(|_| tells);
        let pre_claims = pre_claims.flat_map(|(ident, container)| {
            container.addresses.iter().map(|cidr| PreClaim {
                ident: ident.clone(),
                cidr: *cidr,
                is_container: container.is_container,
            })
        });
        let config = Config {
            name: node.name,
            uid: PeerUid(self.last_uid),
            nickname: format!("host-{index}"),
            universe: self.universe,
            default_subnet: self.universe,
            init: node.init.clone(),
            pre_claims: pre_claims.collect(),
            rng_seed: seed,
        };
        let saved = (node.disk != Saved::default()).then(|| node.disk.clone());
        let allocator = Allocator::start(config, saved, now).expect("the disk is sound");
        node.allocator = Some(allocator);
        node.life = Life::Up;
        node.process += 1;
        let process = node.process;
        let alive: BTreeSet<String> = node.containers.keys().cloned().collect();
        trace!(self, "{index} starts");
        self.with_allocator(index, |allocator| {
            allocator.prune(|ident| alive.contains(ident), now);
        });
        self.reachability_changed();
        let delay = self.millis(0..30_000);
        self.after(
            delay,
            Event::Gossip {
                node: index,
                process,
            },
        );
    }

    pub(crate) fn crash(&mut self, index: usize) {
        trace!(self, "{index} crashes");
        self.totals.crashes += 1;
        self.stop(index, Life::Down);
        let delay = if self.rng.random_bool(0.7) {
            self.millis(0..3_000)
        } else {
            self.millis(3_000..90_000)
        };
        self.after(delay, Event::Restart { node: index });
    }
}
