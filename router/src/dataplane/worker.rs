//! What one of the threads that drive an engine has of its own.

use super::links::LinkIndex;
use crate::overlay::{Outbox, Transmit};

/// The part of an engine that belongs to one of the threads that drive it: packets on their way out.
///
/// Each thread has a queue of the device, and so the flows that the kernel puts there; each flow
/// stays in order because one thread takes it from there to the network. The expensive part, sealing,
/// happens in [`poll_transmit`](Self::poll_transmit), for which the engine is not needed.
#[derive(Debug, Default)]
pub struct Worker {
    /// From 0; below [`DataOptions::workers`](super::DataOptions::workers).
    pub(crate) index: usize,
    pub(crate) outbox: Outbox,
    /// Links with packets that wait for more.
    pub(super) unflushed: Vec<LinkIndex>,
    /// Links that have had their turn in this round of tests.
    pub(super) tested: usize,
}

impl Worker {
    /// The worker of this number.
    #[must_use]
    pub fn new(index: usize) -> Self {
        Self {
            index,
            ..Self::default()
        }
    }

    /// Seals the next datagrams to send. The bytes are lent until the next call.
    #[inline]
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        self.outbox.next()
    }
}
