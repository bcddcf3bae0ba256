//! Nothing is told before it is on disk.
//!
//! Changes pile up while an earlier [`Save`] is under way, and make up the next one: so there is
//! one transaction at a time, and under load each carries many requests. Whatever the engine says
//! is held back until the save that covers what it knows has been confirmed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::PeerName;

use super::{Output, RequestId};
use crate::paxos::{NodeClaims, NodeId};
use crate::range::Range;
use crate::ring::{Entry, Ring};
use crate::wire::persist::Owned;

/// How long after a failed save the next is tried.
pub(super) const SAVE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Most messages to others that wait for a save; more are dropped, which peers have to cope with
/// anyway.
const MAX_HELD_UNICASTS: usize = 1024;

/// What this peer has promised and accepted, and under which id.
pub type Acceptor = (NodeId, NodeClaims);

/// What a save puts on disk, all of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Whether everything there is to be dropped first.
    pub anew: bool,
    /// Our own name.
    pub name: PeerName,
    /// The range that the ring divides.
    pub universe: Range,
    /// The peers the ring was first divided among.
    pub seeds: Vec<PeerName>,
    /// Entries of the ring that are new or have changed, by token. None is ever removed.
    pub entries: BTreeMap<crate::range::Address, Entry>,
    /// Identifiers whose addresses have changed; `None` if they have none any more.
    pub owned: BTreeMap<Arc<str>, Option<Owned>>,
    /// What we have promised and accepted, if that has changed; `Some(None)` if it does not
    /// matter any more.
    pub acceptor: Option<Option<Acceptor>>,
}

impl Changes {
    /// Whether there is nothing to put on disk.
    pub fn is_empty(&self) -> bool {
        !self.anew && self.entries.is_empty() && self.owned.is_empty() && self.acceptor.is_none()
    }

    /// Takes up later changes.
    fn extend(&mut self, later: Self) {
        if later.anew {
            *self = later;
            return;
        }
        self.name = later.name;
        self.universe = later.universe;
        self.seeds = later.seeds;
        self.entries.extend(later.entries);
        self.owned.extend(later.owned);
        if later.acceptor.is_some() {
            self.acceptor = later.acceptor;
        }
    }
}

/// A transaction to be carried out, and then confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Save {
    /// For the confirmation.
    pub seq: u64,
    /// What to put on disk.
    pub changes: Changes,
}

/// What is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Saved {
    /// Whose it is.
    pub name: PeerName,
    /// The ring; empty if it was not established.
    pub ring: Ring,
    /// The addresses given out.
    pub owned: BTreeMap<String, Owned>,
    /// What was promised and accepted, if it still matters.
    pub acceptor: Option<Acceptor>,
}

impl Saved {
    /// Carries out a save, for a store that keeps everything in one piece.
    pub fn apply(&mut self, changes: &Changes) {
        if changes.anew {
            *self = Self::default();
        }
        if self.ring.universe() != changes.universe {
            self.ring = Ring::new(changes.universe);
        }
        self.name = changes.name;
        let entries: Vec<Entry> = changes.entries.values().copied().collect();
        self.ring.overlay(&entries, &changes.seeds);
        for (ident, owned) in &changes.owned {
            match owned {
                Some(owned) => self.owned.insert((**ident).to_owned(), owned.clone()),
                None => self.owned.remove(&**ident),
            };
        }
        if let Some(acceptor) = &changes.acceptor {
            self.acceptor.clone_from(acceptor);
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Journal {
    /// What the save under way carries.
    saving: Option<Save>,
    /// Not carried by any save yet.
    unsaved: Changes,
    /// Number of the last save.
    last_seq: u64,
    /// Outputs, and the save that each waits for.
    held: VecDeque<(u64, Output)>,
    held_unicasts: usize,
    ready: VecDeque<Output>,
    /// When to save again after a failure.
    retry_at: Option<Instant>,
    /// What went wrong with the last save.
    error: Option<String>,
    /// Messages dropped because too many waited.
    pub(super) dropped: u64,
}

impl Journal {
    /// Adds changes and what was said after they were made, and starts a save if none is under
    /// way.
    pub(super) fn commit(&mut self, changes: Changes, said: Vec<Output>) {
        if !changes.is_empty() {
            self.unsaved.extend(changes);
        }
        let barrier = if self.unsaved.is_empty() {
            self.saving.as_ref().map(|save| save.seq)
        } else {
            Some(self.last_seq + 1)
        };
        for output in said {
            match barrier {
                None => self.ready.push_back(output),
                Some(seq) => self.hold(seq, output),
            }
        }
        self.begin();
    }

    fn hold(&mut self, seq: u64, output: Output) {
        match output {
            Output::Unicast { .. } if self.held_unicasts >= MAX_HELD_UNICASTS => {
                self.dropped += 1;
                return;
            }
            Output::Unicast { .. } => self.held_unicasts += 1,
            // Our state is what it is when sent; saying so once is enough.
            Output::Broadcast => {
                let same = |(held, output): &(u64, Output)| {
                    *held == seq && matches!(output, Output::Broadcast)
                };
                if self.held.iter().rev().any(same) {
                    return;
                }
            }
            Output::Answer(..) | Output::Save(_) => {}
        }
        self.held.push_back((seq, output));
    }

    fn begin(&mut self) {
        if self.saving.is_some() || self.retry_at.is_some() || self.unsaved.is_empty() {
            return;
        }
        self.last_seq += 1;
        let save = Save {
            seq: self.last_seq,
            changes: std::mem::take(&mut self.unsaved),
        };
        self.ready.push_back(Output::Save(save.clone()));
        self.saving = Some(save);
    }

    /// The save is on disk. Returns what it carried.
    pub(super) fn confirm(&mut self, seq: u64) -> Option<Changes> {
        let save = self.saving.take_if(|save| save.seq == seq)?;
        self.error = None;
        while let Some((_, output)) = self.held.pop_front_if(|(barrier, _)| *barrier <= seq) {
            self.held_unicasts -= usize::from(matches!(output, Output::Unicast { .. }));
            self.ready.push_back(output);
        }
        self.begin();
        Some(save.changes)
    }

    /// The save has failed. Nothing of it is on disk.
    pub(super) fn fail(&mut self, seq: u64, error: String, now: Instant) {
        if let Some(save) = self.saving.take_if(|save| save.seq == seq) {
            let mut changes = save.changes;
            let later = std::mem::take(&mut self.unsaved);
            if !later.is_empty() {
                changes.extend(later);
            }
            self.unsaved = changes;
            self.retry_at = Some(now + SAVE_RETRY_INTERVAL);
            self.error = Some(error);
        }
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Why the last save failed, until one succeeds.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.retry_at.take_if(|at| *at <= now).is_some() {
            self.begin();
        }
    }

    pub(super) fn poll(&mut self) -> Option<Output> {
        self.ready.pop_front()
    }

    /// Whether everything is on disk.
    pub(super) fn is_clean(&self) -> bool {
        self.saving.is_none() && self.unsaved.is_empty()
    }

    /// Changes answers that were not given yet.
    pub(super) fn revise(&mut self, revise: impl Fn(&mut super::Answer)) {
        let held = self.held.iter_mut().map(|(_, output)| output);
        for output in held.chain(&mut self.ready) {
            if let Output::Answer(_, answer) = output {
                revise(answer);
            }
        }
    }

    /// Drops the answer to a request that nobody waits for any more.
    pub(super) fn forget(&mut self, id: RequestId) {
        let answers = |output: &Output| matches!(output, Output::Answer(to, _) if *to == id);
        self.held.retain(|(_, output)| !answers(output));
        self.ready.retain(|output| !answers(output));
    }
}
