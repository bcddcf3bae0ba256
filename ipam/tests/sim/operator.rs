//! What happens, and what people do about it.

use std::time::Duration;

use ipam::allocator::{Init, Saved};
use proto::PeerName;
use rand::RngExt;

use crate::clients::RequestKind;
use crate::network::MAX_DELAY_MS;
use crate::world::{Event, Life, World, trace};

/// How long people wait until they believe that a host is gone for good. Nothing that it has sent
/// is under way any more by then.
const PATIENCE: Duration = Duration::from_millis(10 * MAX_DELAY_MS);

impl World {
    pub(crate) fn something_happens(&mut self) {
        let up = self.with_life(Life::Up);
        let Some(node) = self.pick(&up) else {
            return;
        };
        // The birth of the ring is short and critical: in some runs it is made a hard one.
        if self.hard_birth && !up.iter().all(|node| self.has_ring(*node)) {
            match self.rng.random_range(0..10) {
                0..3 => self.prime(node),
                3 => self.new_container(node),
                4..7 => self.crash(node),
                7 => self.partition(),
                _ => self.heal(),
            }
            return;
        }
        match self.rng.random_range(0..1000) {
            0..330 => self.new_container(node),
            330..390 => self.ask_again(node),
            390..450 => self.claim(node),
            450..640 => self.release(node),
            640..700 => self.container_dies(node),
            700..740 => self.cancel(node),
            740..750 => self.allocate_anonymously(node),
            750..765 => self.prime(node),
            765..820 => self.crash(node),
            820..850 => self.partition(),
            850..910 => self.heal(),
            910..920 => self.dies(node),
            920..965 => self.take_over(node),
            965..975 => self.reset(node),
            975..990 => self.rejoin(),
            // Everybody goes at once.
            990..993 => up.into_iter().for_each(|node| self.crash(node)),
            _ => {}
        }
    }

    /// A host is lost, with its disk and its containers.
    fn dies(&mut self, node: usize) {
        let dead = self.with_life(Life::Dead).len();
        if dead * 3 >= self.nodes.len() {
            return;
        }
        trace!(self, "{node} dies");
        self.totals.deaths += 1;
        self.stop(node, Life::Dead);
        self.forget_all_containers(node);
        self.ownership.forget(node);
        self.nodes[node].disk = Saved::default();
        self.nodes[node].died_at = Some(self.at);
    }

    /// Whether all hosts but dead ones are up, connected and have nothing unsaved, and nobody is
    /// about to change the ring by hand.
    fn is_settled(&self) -> bool {
        self.is_whole()
            && self.nodes.iter().all(|node| match node.life {
                Life::Up => node.allocator.as_ref().is_some_and(|allocator| {
                    let waits = node.requests.values().any(|request| {
                        matches!(request.kind, RequestKind::ShutDown | RequestKind::TakeOver)
                    });
                    allocator.is_saved() && !waits
                }),
                Life::Down => false,
                Life::Reset | Life::Dead => true,
            })
    }

    /// People see to it that this host knows what all others know.
    fn hear_all(&mut self, node: usize) {
        let now = self.now();
        for other in self.neighbours(node) {
            let other = self.nodes[other].allocator.as_ref();
            let Some(state) = other.map(|allocator| allocator.encode_state(now.unix)) else {
                continue;
            };
            let heard = self.with_allocator(node, |allocator| allocator.handle_gossip(&state, now));
            heard
                .expect("it is up")
                .expect("nobody has done anything wrong");
        }
    }

    fn has_ring(&self, node: usize) -> bool {
        let allocator = self.nodes[node].allocator.as_ref();
        allocator.is_some_and(|allocator| !allocator.ring().is_empty())
    }

    /// Somebody takes over from a host that is lost.
    fn take_over(&mut self, node: usize) {
        let lost: Vec<usize> = self
            .with_life(Life::Dead)
            .into_iter()
            .filter(|lost| {
                let died_at = self.nodes[*lost].died_at;
                died_at.is_some_and(|at| self.at.duration_since(at) > PATIENCE)
            })
            .collect();
        let Some(lost) = self.pick(&lost) else {
            return;
        };
        if !self.is_settled() || !self.has_ring(node) {
            return;
        }
        self.hear_all(node);
        self.notice(node);
        let name = self.nodes[lost].name.to_string();
        let allocator = self.nodes[node].allocator.as_ref().unwrap();
        let plan = allocator.plan_take_over(&name);
        assert_eq!(plan.peer, Some(self.nodes[lost].name));
        let dead = |name: &PeerName| {
            let other = self.index_of(*name).unwrap();
            self.nodes[other].life == Life::Dead
        };
        if plan.refusal.is_some() || !plan.unheard.iter().all(dead) {
            return;
        }
        trace!(self, "{node} takes over from {lost}");
        let now = self.now();
        self.make_request(node, RequestKind::TakeOver, |allocator| {
            allocator.take_over(&name, false, now)
        });
    }

    /// A host hands its ranges over and forgets everything.
    fn reset(&mut self, node: usize) {
        // One that never had a ring may have voted, which must not be forgotten.
        let everybody_has_one = self
            .with_life(Life::Up)
            .into_iter()
            .all(|node| self.has_ring(node));
        if !everybody_has_one || !self.with_life(Life::Down).is_empty() {
            return;
        }
        trace!(self, "{node} is reset");
        self.forget_all_containers(node);
        let now = self.now();
        self.make_request(node, RequestKind::ShutDown, |allocator| {
            allocator.shut_down(now)
        });
    }

    /// The ranges are handed over.
    pub(crate) fn shut_down(&mut self, node: usize, heir: Option<PeerName>) {
        trace!(self, "{node} has handed over to {heir:?}");
        self.totals.resets += 1;
        // Perhaps the last words are heard, perhaps not; without an heir it never comes back.
        self.stop(
            node,
            if heir.is_some() {
                Life::Reset
            } else {
                Life::Dead
            },
        );
        self.nodes[node].died_at = Some(self.at);
        self.ownership.forget(node);
        self.nodes[node].disk = Saved::default();
    }

    /// A host that was reset starts afresh, once nobody thinks that it owns anything.
    fn rejoin(&mut self) {
        let reset = self.with_life(Life::Reset);
        let Some(node) = self.pick(&reset) else {
            return;
        };
        let name = self.nodes[node].name;
        let up = self.with_life(Life::Up);
        let waited = self.nodes[node]
            .died_at
            .is_some_and(|at| self.at.duration_since(at) > PATIENCE);
        let forgotten = up.iter().all(|other| {
            let allocator = self.nodes[*other].allocator.as_ref().unwrap();
            self.has_ring(*other) && !allocator.ring().peers().contains(&name)
        });
        if up.is_empty() || !waited || !forgotten || !self.is_settled() {
            return;
        }
        trace!(self, "{node} comes back");
        self.totals.rejoins += 1;
        self.nodes[node].life = Life::Down;
        // With its old seed it would believe in the first ring again, until it hears better.
        if matches!(self.nodes[node].init, Init::Seed(_)) {
            self.nodes[node].init = Init::Observer;
        }
        self.restart(node);
        // It is not to vote on a ring when there is one, wherever a partition may put it.
        self.hear_all(node);
        if let Some(save) = self.nodes[node].saving.clone() {
            self.nodes[node].disk.apply(&save.changes);
        }
        while !self.nodes[node].allocator.as_ref().unwrap().is_saved() {
            let save = self.nodes[node].saving.take().unwrap();
            self.nodes[node].disk.apply(&save.changes);
            let now = self.now();
            self.with_allocator(node, |allocator| allocator.handle_saved(save.seq, now));
        }
        self.nodes[node].process += 1;
        let process = self.nodes[node].process;
        self.after(Duration::from_secs(1), Event::Gossip { node, process });
        self.nodes[node].timer_at = None;
        self.with_allocator(node, |_| ());
    }

    /// From here on nothing goes wrong.
    pub(crate) fn calm_down(&mut self) {
        if self.calm {
            return;
        }
        trace!(self, "calm");
        self.calm = true;
        for node in self.with_life(Life::Down) {
            self.restart(node);
        }
        self.heal();
    }
}
