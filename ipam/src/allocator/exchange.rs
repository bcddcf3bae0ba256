//! What peers tell each other: how the ring comes into being, spreads and is merged, and how
//! space changes hands.

use std::collections::BTreeSet;

use proto::PeerName;
use proto::gossip::GossipRefused;
use tracing::{debug, info, warn};

use super::{Allocator, FreeChanges, Init, MAX_NICKNAMES, Now, Output, QuorumConflict, TakenOver};
use crate::paxos::{Claims, Elector};
use crate::range::{MIN_SUBNET_SIZE, Range};
use crate::ring::{MergeError, Ring, TRANSFER_VERSION_STEP};
use crate::wire::{GossipState, Unicast, WireError, encode_gossip};

/// Most peers known to have nothing free that are asked in one interval.
const MAX_HOPELESS: usize = 3;

/// Where we have got to with asking for space in a range.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Who has not answered yet.
    waiting_for: Option<PeerName>,
    /// Who had nothing to give in this interval.
    refused: BTreeSet<PeerName>,
    /// Whether there is nobody left to ask in this interval.
    exhausted: bool,
    /// Whether peers that are known to have nothing free may be asked too: what is known of them
    /// may be old.
    hopeless_too: bool,
    hopeless_count: usize,
}

impl Allocator {
    /// State from a neighbour.
    pub fn handle_gossip(&mut self, payload: &[u8], now: Now) -> Result<(), GossipRefused> {
        let result = self.take_payload(None, payload, now);
        self.finish(now);
        result
    }

    /// State that `source` sent to everybody.
    pub fn handle_broadcast(
        &mut self,
        source: PeerName,
        payload: &[u8],
        now: Now,
    ) -> Result<(), GossipRefused> {
        let source = Some(source).filter(|source| *source != PeerName::UNKNOWN);
        let result = self.take_payload(source, payload, now);
        self.finish(now);
        result
    }

    /// A message for us alone.
    pub fn handle_unicast(
        &mut self,
        source: PeerName,
        payload: &[u8],
        now: Now,
    ) -> Result<(), GossipRefused> {
        let result = self.take_unicast(source, payload, now);
        self.finish(now);
        result
    }

    fn take_payload(
        &mut self,
        sender: Option<PeerName>,
        payload: &[u8],
        now: Now,
    ) -> Result<(), GossipRefused> {
        let state = GossipState::decode(payload).map_err(refuse)?;
        self.take_state(sender, state, now)
    }

    fn take_unicast(
        &mut self,
        source: PeerName,
        payload: &[u8],
        now: Now,
    ) -> Result<(), GossipRefused> {
        let message = match Unicast::decode(payload) {
            Ok(message) => message,
            Err(error @ (WireError::EmptyUnicast | WireError::UnknownKind(_))) => {
                debug!(%source, %error, "ignored");
                return Ok(());
            }
            Err(error) => return Err(refuse(error)),
        };
        match message {
            Unicast::SpaceRequest(range) => {
                if !self.ring.is_empty() && source != self.config.name {
                    self.donate(range, source, now);
                }
            }
            Unicast::SpaceRequestDenied(range) => {
                self.deny_claims(range, source);
                self.note_reply(source, |asked| *asked == range);
            }
            Unicast::RingUpdate(state) => {
                self.take_state(Some(source), state, now)?;
                self.note_reply(source, |_| true);
            }
        }
        Ok(())
    }

    fn take_state(
        &mut self,
        sender: Option<PeerName>,
        state: GossipState,
        now: Now,
    ) -> Result<(), GossipRefused> {
        for (peer, nickname) in state.nicknames {
            let known = self.nicknames.contains_key(&peer);
            let is_us = peer == self.config.name;
            if !is_us && (known || self.nicknames.len() < MAX_NICKNAMES) {
                self.nicknames.insert(peer, nickname);
            }
        }
        if let Some(copy) = state.ring {
            return self.merge(&copy.ring);
        }
        if !self.ring.is_empty() {
            // The sender has no ring yet.
            if let Some(sender) = sender {
                self.send_ring(sender, now);
            }
        } else if let Some(claims) = state.paxos {
            self.take_claims(&claims);
        } else if sender.is_some() && self.elector.is_some() {
            // Somebody who does not vote needs a ring.
            self.establish();
        }
        Ok(())
    }

    fn take_claims(&mut self, claims: &Claims) {
        let Some(elector) = &mut self.elector else {
            return;
        };
        if !elector.update(claims) {
            return;
        }
        self.heard_of_agreement = true;
        if elector.think() {
            self.claims_changed = true;
            self.broadcast();
        }
        self.watch_quorum();
        self.conclude();
    }

    /// Creates the ring if it is agreed upon.
    fn conclude(&mut self) {
        let agreed = self.elector.as_ref().and_then(|elector| elector.agreed());
        if let Some(agreed) = agreed
            && self.ring.is_empty()
        {
            let peers = agreed.peers();
            self.create_ring(&peers);
        }
    }

    /// Notices when others are content with fewer votes than we are.
    fn watch_quorum(&mut self) {
        let Some(elector) = &self.elector else {
            return;
        };
        let accepted = elector
            .claims()
            .values()
            .map(|claims| &claims.accepted_value);
        let fewest = accepted
            .filter(|accepted| accepted.origin.is_valid())
            .map(|accepted| accepted.peers().len())
            .min();
        let quorum = elector.quorum();
        if let Some(fewest) = fewest
            && fewest < quorum
        {
            self.warn_of_quorum(fewest, quorum);
        }
    }

    fn warn_of_quorum(&mut self, agreed_among: usize, our_quorum: usize) {
        let conflict = QuorumConflict {
            agreed_among,
            our_quorum,
        };
        if self.quorum_conflict.is_none() {
            warn!("{conflict}");
            self.quorum_conflict = Some(conflict);
        }
    }

    /// Sees to it that the ring comes into being, if there is none.
    pub(super) fn establish(&mut self) {
        if !self.ring.is_empty() || self.awaiting_consensus {
            return;
        }
        self.awaiting_consensus = true;
        let quorum = self.reckon_quorum();
        if let Some(elector) = &mut self.elector {
            elector.set_quorum(quorum);
            if self.config.init == Init::Consensus(None) {
                info!("Assuming quorum size of {quorum}");
            }
        }
        self.propose();
    }

    /// How many peers it takes to agree upon a ring.
    fn reckon_quorum(&self) -> usize {
        let members = match self.config.init {
            Init::Consensus(Some(members)) => members,
            _ => self.target_count.saturating_add(1),
        };
        members / 2 + 1
    }

    /// How many peers it takes here to agree upon the first ring: `None` if there is one, or we
    /// have no say. Until it comes to it this may change with the number of targets.
    pub fn quorum(&self) -> Option<usize> {
        let elector = self.elector.as_ref().filter(|_| self.ring.is_empty())?;
        Some(match elector.quorum() {
            0 => self.reckon_quorum(),
            quorum => quorum,
        })
    }

    /// The agreement takes long. A new proposal supersedes all others, which is a pity if one of
    /// them was getting on: then it is enough to repeat what was said, as some may have missed it.
    /// (The original proposes at every tick; many peers who do get in each other's way.)
    pub(super) fn press_on(&mut self) {
        if std::mem::take(&mut self.heard_of_agreement) {
            self.broadcast();
        } else {
            self.propose();
        }
    }

    fn propose(&mut self) {
        if let Some(elector) = &mut self.elector {
            elector.propose();
            self.claims_changed = true;
        }
        // An observer says that it has nothing, which makes others answer.
        self.broadcast();
        self.conclude();
    }

    /// Divides the universe among `peers`, sorted and distinct.
    pub(super) fn create_ring(&mut self, peers: &[PeerName]) {
        match self.ring.divide(peers) {
            Ok(()) => info!(?peers, "ring established"),
            Err(error) => {
                warn!(%error, "cannot divide the ring");
                return;
            }
        }
        self.ring_updated();
        self.broadcast();
    }

    /// Follows up a change of owners.
    pub(super) fn ring_updated(&mut self) {
        self.awaiting_consensus = false;
        // What we have promised does not matter any more.
        if self.elector.is_some() {
            self.claims_changed = true;
        }
        self.sync_space();
        for asked in self.asked.values_mut() {
            asked.exhausted = false;
        }
        self.try_waiting();
    }

    fn merge(&mut self, theirs: &Ring) -> Result<(), GossipRefused> {
        let space = &self.space;
        let busy = |ranges: &[Range]| ranges.iter().any(|range| space.is_busy(*range));
        let merged = match self.ring.merge(theirs, self.config.name, busy) {
            Ok(merged) => merged,
            Err(error) => {
                let text = self.explain(&error, theirs);
                warn!("refused a ring: {text}");
                return Err(GossipRefused(text));
            }
        };
        if merged.taken.is_empty() {
            return Ok(());
        }
        if let Some(quorum) = self.elector.as_ref().map(Elector::quorum)
            && theirs.seeds().len() < quorum
        {
            self.warn_of_quorum(theirs.seeds().len(), quorum);
        }
        for (old, new) in &merged.moved {
            if new.version.saturating_sub(old.version) >= TRANSFER_VERSION_STEP {
                info!(token = %old.token, from = %old.peer, to = %new.peer, "ranges taken over");
                let nickname = self.nicknames.get(&old.peer).cloned();
                let taken_over = TakenOver {
                    by: new.peer,
                    nickname: nickname.unwrap_or_default(),
                };
                self.taken_over.insert(old.peer, taken_over);
            }
        }
        // What others know already may be told at once.
        self.public.overlay(&merged.taken, self.ring.seeds());
        if !self.public.is_empty() && self.elector.take().is_some() {
            self.claims_changed = true;
        }
        self.prune_nicknames();
        self.ring_updated();
        Ok(())
    }

    fn explain(&self, error: &MergeError, theirs: &Ring) -> String {
        let names = |peers: &[PeerName]| {
            let names = peers.iter().map(|peer| self.annotated(*peer));
            names.collect::<Vec<_>>().join(" ")
        };
        match error {
            MergeError::DifferentSeeds => format!(
                "IP allocation was seeded by different peers (received: [{}], ours: [{}])",
                names(theirs.seeds()),
                names(self.ring.seeds())
            ),
            MergeError::DifferentRange => format!(
                "Incompatible IP allocation ranges (received: {}, ours: {})",
                theirs.universe().cidr_text(),
                self.ring.universe().cidr_text()
            ),
            other => other.to_string(),
        }
    }

    fn prune_nicknames(&mut self) {
        let owners = self.ring.peers();
        let me = self.config.name;
        let reachable = &self.reachable;
        self.nicknames
            .retain(|peer, _| *peer == me || owners.contains(peer) || reachable.contains(peer));
    }

    fn unicast(&mut self, to: PeerName, payload: Vec<u8>) {
        self.said.push(Output::Unicast { to, payload });
    }

    fn send_ring(&mut self, to: PeerName, now: Now) {
        // It waits until everything in it is on disk.
        let ring = (self.config.name, &self.ring);
        let state = encode_gossip(now.unix, &self.nicknames, None, Some(ring));
        self.unicast(to, Unicast::ring_update(&state));
    }

    /// Gives some of the free addresses in `range` to `peer`, if there are any. Either way the
    /// peer gets our ring, so that it knows where else to look.
    fn donate(&mut self, range: Range, peer: PeerName, now: Now) {
        let granted = if self.is_useless(range) {
            None
        } else {
            self.space.donate(range)
        };
        if let Some(granted) = granted {
            match self.ring.grant(granted, self.config.name, peer) {
                Ok(()) => {
                    debug!(%granted, %peer, "gave space");
                    self.ours = self.ring.owned_by(self.config.name);
                    self.free_changes = FreeChanges::Recount;
                    self.broadcast();
                }
                // Not ours after all: it must not stay in the space, either.
                Err(error) => warn!(%error, "space and ring disagree"),
            }
        } else {
            self.unicast(peer, Unicast::SpaceRequestDenied(range).encode());
        }
        self.send_ring(peer, now);
    }

    /// Whether all we have in `range` is the first or the last address of a subnet, which whoever
    /// wants an address in that subnet could only hand on to the next.
    fn is_useless(&self, range: Range) -> bool {
        range.size() >= MIN_SUBNET_SIZE
            && range
                .as_subnet()
                .is_some_and(|subnet| self.space.free_within(subnet.host_range()).next().is_none())
    }

    /// Asks one peer for space in `range`, unless an answer is due or nobody is left to ask.
    pub(super) fn ask_for_space(&mut self, range: Range) {
        if self.ring.is_empty() {
            return;
        }
        let asked = self.asked.entry(range).or_default();
        if asked.waiting_for.is_some() || asked.exhausted {
            return;
        }
        let me = self.config.name;
        let donors = self.ring.choose_donors(range, me, &mut self.rng);
        let hopeless_too = asked.hopeless_too && asked.hopeless_count < MAX_HOPELESS;
        let donor = donors.into_iter().find(|(peer, free)| {
            self.reachable.contains(peer)
                && !asked.refused.contains(peer)
                && (*free > 0 || hopeless_too)
        });
        match donor {
            Some((peer, free)) => {
                asked.waiting_for = Some(peer);
                asked.hopeless_count += usize::from(free == 0);
                debug!(%peer, %range, "asking for space");
                self.unicast(peer, Unicast::SpaceRequest(range).encode());
            }
            None => asked.exhausted = true,
        }
    }

    /// Asks this peer for space in `range`, unless it was asked in this interval.
    pub(super) fn ask_peer_for_space(&mut self, range: Range, peer: PeerName) {
        let asked = self.asked.entry(range).or_default();
        if asked.waiting_for != Some(peer) && !asked.refused.contains(&peer) {
            asked.waiting_for = Some(peer);
            self.unicast(peer, Unicast::SpaceRequest(range).encode());
        }
    }

    /// A peer has answered. If what it was asked for is still not there, it is the next one's
    /// turn.
    fn note_reply(&mut self, peer: PeerName, concerned: impl Fn(&Range) -> bool) {
        let mut replied = false;
        for (range, asked) in &mut self.asked {
            if asked.waiting_for == Some(peer) && concerned(range) {
                asked.waiting_for = None;
                asked.refused.insert(peer);
                replied = true;
            }
        }
        if replied {
            self.try_waiting();
        }
    }

    /// A new interval: everybody may be asked again.
    pub(super) fn begin_round(&mut self) {
        self.count_tries();
        self.asked.retain(|_, asked| {
            // What was not asked for in the last interval is not wanted any more.
            let used = asked.waiting_for.is_some() || asked.exhausted || !asked.refused.is_empty();
            *asked = Asked {
                hopeless_too: true,
                ..Asked::default()
            };
            used
        });
    }

    /// Peers that were asked have gone.
    pub(super) fn forget_unreachable(&mut self) {
        let mut gone = false;
        for asked in self.asked.values_mut() {
            let reachable = &self.reachable;
            let waiting_for = &mut asked.waiting_for;
            gone |= waiting_for
                .take_if(|peer| !reachable.contains(peer))
                .is_some();
        }
        if gone {
            self.try_waiting();
        }
    }
}

fn refuse(error: WireError) -> GossipRefused {
    GossipRefused(error.to_string())
}
