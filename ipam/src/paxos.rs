//! Agreeing on the peers among whom the ring is first divided.
//!
//! Paxos in which all messages are one: every elector gossips what it knows of every elector's
//! promise and acceptance, and takes up what is greater. An elector that has to, proposes; when a
//! quorum has promised its proposal it accepts it itself, with a value that an earlier proposal may
//! have brought as far, else with all electors it knows; those who have promised follow. A value
//! accepted by a quorum is agreed.
//!
//! An elector must not forget what it promised or accepted. So its own [`NodeClaims`] go to disk
//! before anyone hears of them, and a restarted process goes on under its old [`NodeId`]. Without
//! its claims it must take a fresh one.
//!
//! Stricter than the original in one thing, which others cannot see: an acceptance counts only
//! together with those of the same proposal, not with those that brought the same value at other
//! times, since the latter can coexist with another agreed value.
//!
//! Source: IPAM protocol, section 6.

use std::collections::{BTreeMap, BTreeSet};

use proto::{PeerName, PeerUid};

/// Most electors that are kept track of; more are ignored.
pub const MAX_ELECTORS: usize = 4096;

/// One life of one elector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct NodeId {
    /// The peer.
    pub name: PeerName,
    /// Random number of the process that first had these claims.
    pub uid: PeerUid,
}

/// Names a proposal. Greater ones supersede lesser ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ProposalId {
    /// From 1; 0 stands for no proposal.
    pub round: u64,
    /// Who proposes.
    pub proposer: NodeId,
}

impl ProposalId {
    /// Whether this is a proposal at all.
    pub const fn is_valid(self) -> bool {
        self.round > 0
    }
}

/// A value, and the proposal for which it was picked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AcceptedValue {
    /// Peers, in no order, possibly repeated.
    pub value: Vec<PeerName>,
    /// For which proposal it was picked: equal origins mean equal values.
    pub origin: ProposalId,
}

impl AcceptedValue {
    /// The peers, sorted and distinct.
    pub fn peers(&self) -> Vec<PeerName> {
        normalise(&self.value)
    }
}

/// Sorts peers and removes repetitions: the ring is divided the same everywhere only then.
pub fn normalise(peers: &[PeerName]) -> Vec<PeerName> {
    let distinct: BTreeSet<PeerName> = peers.iter().copied().collect();
    distinct.into_iter().collect()
}

/// What one elector has said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeClaims {
    /// It accepts nothing before this proposal any more.
    pub promise: ProposalId,
    /// The last proposal it accepted.
    pub accepted: ProposalId,
    /// What that proposal brought.
    pub accepted_value: AcceptedValue,
}

/// What is known of all electors.
pub type Claims = BTreeMap<NodeId, NodeClaims>;

/// One elector.
#[derive(Debug, Clone)]
pub struct Elector {
    id: NodeId,
    /// 0 until known: then nothing is ever agreed, as far as we can see.
    quorum: usize,
    claims: Claims,
}

impl Elector {
    /// An elector that has said nothing yet under this id.
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            quorum: 0,
            claims: Claims::new(),
        }
    }

    /// An elector that goes on where `id` left off.
    pub fn resume(id: NodeId, claims: NodeClaims) -> Self {
        let mut elector = Self::new(id);
        elector.claims.insert(id, claims);
        elector
    }

    /// Our own id.
    pub const fn id(&self) -> NodeId {
        self.id
    }

    /// How many electors it takes to agree, or 0 if not known yet.
    pub const fn quorum(&self) -> usize {
        self.quorum
    }

    /// Sets how many electors it takes.
    pub const fn set_quorum(&mut self, quorum: usize) {
        self.quorum = quorum;
    }

    /// What is known of all electors: our share of the gossip.
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Our own claims: what must not be forgotten.
    pub fn own_claims(&self) -> Option<&NodeClaims> {
        self.claims.get(&self.id)
    }

    /// Takes up what another elector knows. Returns whether anything was new.
    pub fn update(&mut self, received: &Claims) -> bool {
        let mut changed = false;
        for (id, theirs) in received {
            if let Some(known) = self.claims.get_mut(id) {
                if known.promise < theirs.promise {
                    known.promise = theirs.promise;
                    changed = true;
                }
                if known.accepted < theirs.accepted {
                    known.accepted = theirs.accepted;
                    known.accepted_value = theirs.accepted_value.clone();
                    changed = true;
                }
            } else if self.claims.len() < MAX_ELECTORS {
                self.claims.insert(*id, theirs.clone());
                changed = true;
            }
        }
        changed
    }

    /// Makes a proposal that supersedes all that are known.
    pub fn propose(&mut self) {
        let rounds = self.claims.values().flat_map(|claims| {
            let NodeClaims {
                promise, accepted, ..
            } = claims;
            [promise.round, accepted.round]
        });
        let round = rounds.max().unwrap_or(0).saturating_add(1);
        self.claims.entry(self.id).or_default().promise = ProposalId {
            round,
            proposer: self.id,
        };
        if self.quorum == 1 {
            self.think();
        }
    }

    /// Promises and accepts whatever is due. Returns whether our own claims have changed.
    pub fn think(&mut self) -> bool {
        let before = self.own_claims().cloned().unwrap_or_default();
        let mut ours = before.clone();
        let promises = self.claims.values().map(|claims| claims.promise);
        ours.promise = promises.max().unwrap_or_default().max(ours.promise);

        // As proposer. Once we have promised something else our proposal is out of the race. It is
        // ours but not of this life if we do not know the quorum.
        let proposing = ours.promise.is_valid() && ours.promise.proposer == self.id;
        if proposing && self.quorum > 0 {
            let promised = || {
                let others = self.claims.iter().filter(|(id, _)| **id != self.id);
                let others = others.map(|(_, claims)| claims);
                let promised = others.filter(|claims| claims.promise == ours.promise);
                promised.chain([&ours])
            };
            if promised().count() >= self.quorum {
                // Of equally great ones any will do; the first is as good as another.
                let last = promised()
                    .filter(|claims| claims.accepted.is_valid())
                    .reduce(|best, claims| {
                        if claims.accepted > best.accepted {
                            claims
                        } else {
                            best
                        }
                    });
                let value = match last {
                    Some(claims) => claims.accepted_value.clone(),
                    None => AcceptedValue {
                        value: self.electors(),
                        origin: ours.promise,
                    },
                };
                ours.accepted = ours.promise;
                ours.accepted_value = value;
            }
        }

        // As acceptor.
        if ours.accepted != ours.promise
            && let Some(claims) = self
                .claims
                .values()
                .find(|claims| claims.accepted.is_valid() && claims.accepted == ours.promise)
        {
            ours.accepted = claims.accepted;
            ours.accepted_value = claims.accepted_value.clone();
        }

        let changed = ours != before;
        if changed {
            self.claims.insert(self.id, ours);
        }
        changed
    }

    /// Everybody whose claims we know.
    fn electors(&self) -> Vec<PeerName> {
        self.claims.keys().map(|id| id.name).collect()
    }

    /// What is agreed, as far as we know.
    pub fn agreed(&self) -> Option<&AcceptedValue> {
        if self.quorum == 0 {
            return None;
        }
        let mut counts = BTreeMap::<ProposalId, usize>::new();
        self.claims.values().find_map(|claims| {
            if !claims.accepted.is_valid() {
                return None;
            }
            let count = counts.entry(claims.accepted).or_default();
            *count += 1;
            (*count >= self.quorum).then_some(&claims.accepted_value)
        })
    }
}

#[cfg(test)]
mod tests;
