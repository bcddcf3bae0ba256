//! Peers that come, go, and leave for good.

use std::collections::BTreeSet;

use proto::PeerName;
use tracing::{info, warn};

use super::{Allocator, Answer, Done, Now, Refusal, RequestId};
use crate::range::Range;

/// What taking over from a peer would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeOverPlan {
    /// The peer, if one is meant at all.
    pub peer: Option<PeerName>,
    /// What people call it.
    pub nickname: String,
    /// The ranges that would become ours.
    pub ranges: Vec<Range>,
    /// Why it is refused unless forced.
    pub refusal: Option<Refusal>,
    /// Other peers with ranges of their own that cannot be reached. If the peer gave space to one
    /// of them that we have not heard of, and that one is alive, taking over would make two
    /// owners of it.
    pub unheard: Vec<PeerName>,
}

impl Allocator {
    /// Whom we can reach now.
    pub fn handle_reachable(&mut self, peers: BTreeSet<PeerName>, now: Now) {
        self.reachable = peers;
        self.forget_unreachable();
        self.finish(now);
    }

    /// How many peers we are told to connect to now, not counting ourselves.
    pub fn handle_target_count(&mut self, count: usize) {
        self.target_count = count;
    }

    /// The mesh has forgotten a peer that it cannot reach. What it owns it keeps.
    pub fn handle_peer_forgotten(&mut self, peer: PeerName, now: Now) {
        self.reachable.remove(&peer);
        if peer != self.config.name && !self.ring.peers().contains(&peer) {
            self.nicknames.remove(&peer);
        }
        self.forget_unreachable();
        self.finish(now);
    }

    /// Hands all our ranges over to another peer. From now on all requests are cancelled.
    pub fn shut_down(&mut self, now: Now) -> RequestId {
        let id = self.new_request();
        info!("shutting down IP allocation");
        self.shutting_down = true;
        self.cancel_all();
        let heir = self.heir();
        // What changed before belongs on disk in any case. But what nobody was told yet it need
        // not be told any more, since it will not be true.
        self.finish(now);
        let owned = &self.owned;
        let universe = self.config.universe.range();
        self.journal.revise(|answer| {
            let (what, cidr) = match answer {
                Ok(Done::Allocated(cidr)) => ("Allocate", *cidr),
                Ok(Done::Claimed(cidr)) => ("Claim", *cidr),
                _ => return,
            };
            if universe.contains(cidr.address) {
                let ident = owned.owner(cidr.address);
                let ident = ident.map_or_else(String::new, ToString::to_string);
                *answer = Err(Refusal::Cancelled { what, ident });
            }
        });
        let me = self.config.name;
        self.ring.transfer(me, heir.unwrap_or_default());
        self.space.clear();
        self.ours.clear();
        match heir {
            Some(heir) => {
                info!(heir = %self.annotated(heir), "handed over our ranges");
                self.broadcast();
            }
            // Nobody there: the disk keeps the ring as it was.
            None => self.ring_detached = true,
        }
        self.answer(id, Ok(Done::ShutDown(heir)));
        self.finish(now);
        id
    }

    /// Who is to get our ranges: somebody alive, if there is anybody, and better one who has
    /// ranges already.
    pub(super) fn heir(&self) -> Option<PeerName> {
        let me = self.config.name;
        let owners = || {
            let owners = self.ring.entries().iter().map(|entry| entry.peer);
            owners.filter(move |peer| *peer != me)
        };
        let named = || {
            self.nicknames
                .keys()
                .copied()
                .filter(move |peer| *peer != me)
        };
        let alive = |peer: &PeerName| self.reachable.contains(peer);
        owners()
            .find(alive)
            .or_else(|| named().find(alive))
            .or_else(|| owners().next())
            .or_else(|| named().next())
    }

    /// Takes over all ranges of a peer that is gone for good, named by name or nickname. Refused
    /// if the peer is alive or another was faster, unless `force`d. Of a peer nobody knows there
    /// is nothing to take over.
    pub fn take_over(&mut self, who: &str, force: bool, now: Now) -> RequestId {
        let id = self.new_request();
        let answer = self.try_take_over(who, force);
        self.answer(id, answer);
        self.finish(now);
        id
    }

    fn try_take_over(&mut self, who: &str, force: bool) -> Answer {
        let plan = self.plan_take_over(who);
        if let Some(refusal) = plan.refusal
            && !force
        {
            warn!("rmpeer {who}: {refusal}");
            return Err(refusal);
        }
        let Some(peer) = plan.peer else {
            warn!("attempt to take over range from unknown peer '{who}'");
            return Ok(Done::TakenOver(0));
        };
        let me = self.config.name;
        if peer == me {
            warn!("attempt to take over range from ourself");
            return Ok(Done::TakenOver(0));
        }
        if self.ring.transfer(peer, me).is_empty() {
            return Ok(Done::TakenOver(0));
        }
        let before = self.space.free_count();
        self.ring_updated();
        let gained = self.space.free_count().saturating_sub(before);
        info!(peer = %self.annotated(peer), gained, "took over ranges");
        self.broadcast();
        Ok(Done::TakenOver(gained))
    }

    /// What [`take_over`](Self::take_over) would do.
    pub fn plan_take_over(&self, who: &str) -> TakeOverPlan {
        let mut plan = TakeOverPlan {
            peer: None,
            nickname: String::new(),
            ranges: Vec::new(),
            refusal: None,
            unheard: Vec::new(),
        };
        let peer = match self.find_peer(who) {
            Ok(Some(peer)) => peer,
            Ok(None) => return plan,
            Err(refusal) => {
                plan.refusal = Some(refusal);
                return plan;
            }
        };
        plan.peer = Some(peer);
        if let Some(nickname) = self.nicknames.get(&peer) {
            plan.nickname = String::from_utf8_lossy(nickname).into_owned();
        }
        if peer == self.config.name {
            return plan;
        }
        plan.ranges = self.ring.owned_by(peer);
        if self.reachable.contains(&peer) {
            plan.refusal = Some(Refusal::StillReachable(self.annotated(peer)));
        } else if plan.ranges.is_empty()
            && let Some(taken) = self.taken_over.get(&peer)
        {
            plan.refusal = Some(Refusal::AlreadyTaken {
                peer: self.annotated(peer),
                by: self.annotated(taken.by),
            });
        }
        let others = self.ring.peers().into_iter();
        plan.unheard = others
            .filter(|other| *other != peer && *other != self.config.name)
            .filter(|other| !self.reachable.contains(other))
            .collect();
        plan
    }

    /// By nickname, or else by name. Of several with one nickname, those that can be reached are
    /// not meant.
    fn find_peer(&self, who: &str) -> Result<Option<PeerName>, Refusal> {
        let named = |reachable_too: bool| -> Vec<PeerName> {
            let called = self
                .nicknames
                .iter()
                .filter(|(_, name)| *name == who.as_bytes());
            called
                .map(|(peer, _)| *peer)
                .filter(|peer| reachable_too || !self.reachable.contains(peer))
                .filter(|peer| reachable_too || *peer != self.config.name)
                .collect()
        };
        let all = named(true);
        let gone = named(false);
        match (&all[..], &gone[..]) {
            ([], _) => {
                let mut taken_over = self.taken_over.iter();
                let gone = taken_over.find(|(_, taken)| taken.nickname == who.as_bytes());
                Ok(gone.map(|(peer, _)| *peer).or(who.parse().ok()))
            }
            ([peer], _) | (_, [peer]) => Ok(Some(*peer)),
            (several, _) => {
                let peers = several.iter().map(ToString::to_string);
                Err(Refusal::Ambiguous {
                    name: who.to_owned(),
                    peers: peers.collect::<Vec<_>>().join(", "),
                })
            }
        }
    }
}
