//! The links, found by connection and by neighbour.

use std::collections::HashMap;
use std::time::Instant;

use proto::PeerName;

use super::Worker;
use crate::LinkId;
use crate::hash::WordHash;
use crate::overlay::{Link, Outputs, worker_bit};

/// Position of a link in the table; a later link may take it over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkIndex(usize);

/// All links. Their number is bounded by the control half's connection limit.
#[derive(Debug, Default)]
pub(super) struct Links {
    slots: Vec<Option<Link>>,
    by_id: HashMap<LinkId, usize, WordHash>,
    /// Confirmed links only: the others may not send, and what comes in for them is not looked at.
    by_peer: HashMap<PeerName, usize, WordHash>,
    /// Sessions of shuttle. Links that are not confirmed have no keys yet.
    by_session: HashMap<u64, usize, WordHash>,
}

impl Links {
    /// Adds a link, not yet confirmed. An older one of the same id goes.
    pub(super) fn insert(&mut self, link: Link) {
        self.remove(link.id());
        let id = link.id();
        let slot = self.slots.iter().position(Option::is_none);
        let slot = slot.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if let Some(place) = self.slots.get_mut(slot) {
            if let Some(session) = link.session() {
                self.by_session.insert(u64::from(session), slot);
            }
            *place = Some(link);
            self.by_id.insert(id, slot);
        }
    }

    /// The link of this connection.
    pub(super) fn by_id(&self, id: LinkId) -> Option<LinkIndex> {
        self.by_id.get(&id).copied().map(LinkIndex)
    }

    /// The confirmed link to this neighbour.
    #[inline]
    pub(super) fn by_peer(&self, peer: PeerName) -> Option<LinkIndex> {
        self.by_peer.get(&peer).copied().map(LinkIndex)
    }

    /// The link with this session of shuttle.
    #[inline]
    pub(super) fn by_session(&self, session: u32) -> Option<LinkIndex> {
        self.by_session
            .get(&u64::from(session))
            .copied()
            .map(LinkIndex)
    }

    #[inline]
    pub(super) fn get(&self, index: LinkIndex) -> Option<&Link> {
        self.slots.get(index.0)?.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: LinkIndex) -> Option<&mut Link> {
        self.slots.get_mut(index.0)?.as_mut()
    }

    /// Makes the link the one to its neighbour.
    pub(super) fn confirm(&mut self, id: LinkId, now: Instant, out: &mut Outputs) {
        if let Some(index) = self.by_id(id)
            && let Some(link) = self.get_mut(index)
        {
            let peer = link.peer();
            link.confirm(now, out);
            self.by_peer.insert(peer, index.0);
        }
    }

    /// Forgets a link and what it still had to send.
    pub(super) fn remove(&mut self, id: LinkId) {
        let Some(slot) = self.by_id.remove(&id) else {
            return;
        };
        if let Some(link) = self.slots.get_mut(slot).and_then(Option::take) {
            if self.by_peer.get(&link.peer()) == Some(&slot) {
                self.by_peer.remove(&link.peer());
            }
            if let Some(session) = link.session() {
                self.by_session.remove(&u64::from(session));
            }
        }
    }

    /// Notes that something of the worker's waits on this link.
    #[inline]
    pub(super) fn note_unflushed(&mut self, index: LinkIndex, worker: &mut Worker) {
        let bit = worker_bit(worker.index);
        if let Some(link) = self.get_mut(index)
            && link.wants_flush & bit == 0
        {
            link.wants_flush |= bit;
            worker.unflushed.push(index);
        }
    }

    /// Queues everything of the worker's that waits.
    #[inline]
    pub(super) fn flush(&mut self, out: &mut Outputs) {
        while let Some(index) = out.worker.unflushed.pop() {
            if let Some(link) = self.get_mut(index) {
                link.flush(out);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.slots.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.slots.iter_mut().flatten()
    }
}
