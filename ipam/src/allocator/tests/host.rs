//! One allocator, driven by hand.

use super::*;
use crate::wire::{GossipState, Unicast};

pub(super) fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

pub(super) fn name(number: u64) -> PeerName {
    PeerName::from_u64(number).unwrap()
}

pub(super) struct Host {
    pub(super) allocator: Allocator,
    pub(super) now: Now,
    pub(super) disk: Saved,
    /// Whether transactions are confirmed at once.
    pub(super) saves: bool,
    pub(super) saving: Option<Save>,
    pub(super) answers: BTreeMap<RequestId, Answer>,
    pub(super) broadcasts: usize,
    pub(super) unicasts: Vec<(PeerName, Unicast)>,
}

pub(super) fn config(number: u64, init: Init) -> Config {
    Config {
        name: name(number),
        uid: proto::PeerUid(100 + number),
        nickname: format!("host-{number}"),
        universe: cidr("10.32.0.0/24"),
        default_subnet: cidr("10.32.0.0/24"),
        init,
        pre_claims: Vec::new(),
        rng_seed: [7; 32],
    }
}

impl Host {
    pub(super) fn start(config: Config, saved: Option<Saved>) -> Self {
        let now = Now {
            at: Instant::now(),
            unix: 1_700_000_000,
        };
        let mut host = Self {
            disk: saved.clone().unwrap_or_default(),
            allocator: Allocator::start(config, saved, now).unwrap(),
            now,
            saves: true,
            saving: None,
            answers: BTreeMap::new(),
            broadcasts: 0,
            unicasts: Vec::new(),
        };
        host.poll();
        host
    }

    /// The only peer of a mesh, with a ring.
    pub(super) fn alone() -> Self {
        let mut host = Self::start(config(1, Init::Consensus(Some(1))), None);
        host.call(super::super::Allocator::prime);
        host
    }

    /// One of two with a ring divided among both.
    pub(super) fn one_of_two(number: u64) -> Self {
        let mut host = Self::start(config(number, Init::Seed(vec![name(1), name(2)])), None);
        let others = BTreeSet::from([name(3 - number)]);
        host.call(|allocator, now| allocator.handle_reachable(others, now));
        host.broadcasts = 0;
        host
    }

    pub(super) fn poll(&mut self) {
        while let Some(output) = self.allocator.poll_output() {
            match output {
                Output::Save(save) => {
                    assert!(self.saving.replace(save).is_none());
                    if self.saves {
                        self.save();
                    }
                }
                Output::Answer(id, answer) => {
                    assert!(self.answers.insert(id, answer).is_none());
                }
                Output::Broadcast => self.broadcasts += 1,
                Output::Unicast { to, payload } => {
                    self.unicasts.push((to, Unicast::decode(&payload).unwrap()));
                }
            }
        }
        self.allocator.check_consistency().unwrap();
    }

    pub(super) fn call<T>(&mut self, call: impl FnOnce(&mut Allocator, Now) -> T) -> T {
        let result = call(&mut self.allocator, self.now);
        self.poll();
        result
    }

    /// The transaction under way lands.
    pub(super) fn save(&mut self) {
        let save = self.saving.take().expect("a transaction under way");
        self.disk.apply(&save.changes);
        self.allocator.handle_saved(save.seq, self.now);
        self.poll();
    }

    pub(super) fn save_fails(&mut self) {
        let save = self.saving.take().expect("a transaction under way");
        let error = "disk full".to_owned();
        self.allocator.handle_save_failed(save.seq, error, self.now);
        self.poll();
    }

    /// Time passes, and what is due is done.
    pub(super) fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now.at += Duration::from_secs(1);
            let due = self.allocator.poll_timeout();
            if due.is_some_and(|at| at <= self.now.at) {
                self.call(super::super::Allocator::handle_timeout);
            }
        }
    }

    pub(super) fn allocate(&mut self, ident: &str) -> RequestId {
        let subnet = self.allocator.config.universe;
        self.call(|allocator, now| allocator.allocate(ident, subnet, true, now))
    }

    pub(super) fn claim(&mut self, ident: &str, address: &str) -> RequestId {
        let address = cidr(&format!("{address}/24"));
        self.call(|allocator, now| allocator.claim(ident, address, true, false, now))
    }

    pub(super) fn release_all(&mut self, ident: &str) -> RequestId {
        self.call(|allocator, now| allocator.release_all(ident, now))
    }

    /// Takes all addresses of ours there are to be had.
    pub(super) fn exhaust(&mut self) {
        for index in 0.. {
            let id = self.allocate(&format!("x{index}"));
            if self.answer(id).is_none() {
                self.call(|allocator, now| allocator.cancel(id, now));
                break;
            }
        }
        self.unicasts.clear();
        self.wait(5);
    }

    /// The text of an answer.
    pub(super) fn answer(&self, id: RequestId) -> Option<String> {
        Some(match self.answers.get(&id)? {
            Ok(Done::Allocated(cidr)) => cidr.address.to_string(),
            Ok(Done::TakenOver(count)) => count.to_string(),
            Ok(done) => format!("{done:?}")
                .split('(')
                .next()
                .unwrap()
                .to_lowercase(),
            Err(refusal) => refusal.to_string(),
        })
    }

    pub(super) fn state(&self) -> GossipState {
        GossipState::decode(&self.allocator.encode_state(0)).unwrap()
    }

    /// Hears what another has to say.
    pub(super) fn hear(&mut self, other: &Self) {
        let state = other.allocator.encode_state(0);
        self.call(|allocator, now| allocator.handle_gossip(&state, now))
            .unwrap();
    }

    pub(super) fn receive(&mut self, from: PeerName, message: &Unicast) {
        let payload = message.encode();
        self.call(|allocator, now| allocator.handle_unicast(from, &payload, now))
            .unwrap();
    }

    pub(super) fn is_waiting_for(&self, id: RequestId) -> bool {
        !self.answers.contains_key(&id)
    }
}

/// Exchanges what both have to say, until neither says anything more.
pub(super) fn talk(a: &mut Host, b: &mut Host) {
    loop {
        let (to_b, to_a) = (
            std::mem::take(&mut a.unicasts),
            std::mem::take(&mut b.unicasts),
        );
        if to_b.is_empty() && to_a.is_empty() {
            break;
        }
        for (to, message) in to_b {
            assert_eq!(to, b.allocator.config.name);
            b.receive(a.allocator.config.name, &message);
        }
        for (to, message) in to_a {
            assert_eq!(to, a.allocator.config.name);
            a.receive(b.allocator.config.name, &message);
        }
    }
}
