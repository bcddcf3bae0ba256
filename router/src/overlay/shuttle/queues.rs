//! The ways out of one link, one for each worker.
//!
//! Queue 0 goes by the port of the mesh, the others by ports of their own as long as the neighbour says
//! that it gets what is sent there. A queue of which it does not goes by the port of the mesh too.

use std::time::Instant;

use super::super::aggregate::Lane;
use crate::constants::SHUTTLE_SILENCE;

/// The ways out of all workers.
#[derive(Debug)]
pub(super) struct Queues(Box<[Queue]>);

#[derive(Debug)]
struct Queue {
    lane: Lane,
    /// When the neighbour has last said that packets by this queue reach it.
    heard_at: Option<Instant>,
}

impl Queues {
    pub(super) fn new(workers: usize) -> Self {
        let queue = |_| Queue {
            lane: Lane::new(true),
            heard_at: None,
        };
        Self((0..workers.max(1)).map(queue).collect())
    }

    /// That of a worker.
    #[inline]
    pub(super) fn lane(&mut self, worker: usize) -> Option<&mut Lane> {
        Some(&mut self.0.get_mut(worker)?.lane)
    }

    /// The neighbour gets packets by this queue.
    pub(super) fn note_heard(&mut self, queue: u8, now: Instant) {
        if let Some(place) = self.0.get_mut(usize::from(queue)) {
            place.heard_at = Some(now);
            place.lane.queue = queue;
        }
    }

    /// Gives a queue up that has not been heard for a while.
    pub(super) fn look(&mut self, worker: usize, now: Instant) {
        if let Some(queue) = self.0.get_mut(worker) {
            let is_heard = |at: Instant| now.saturating_duration_since(at) < SHUTTLE_SILENCE;
            if !queue.heard_at.is_some_and(is_heard) {
                queue.lane.queue = 0;
            }
        }
    }

    /// What is sent from now on goes by the worker's own port, used or not. Returns by which queue it
    /// went before.
    pub(super) fn begin_test(&mut self, worker: usize) -> u8 {
        let own = u8::try_from(worker).unwrap_or(0);
        let lane = self.lane(worker);
        lane.map_or(0, |lane| std::mem::replace(&mut lane.queue, own))
    }

    /// The test is sent.
    pub(super) fn end_test(&mut self, worker: usize, in_use: u8) {
        if let Some(lane) = self.lane(worker) {
            lane.queue = in_use;
        }
    }

    /// The neighbour is somewhere else: what lets the other queues through may not be on the way there.
    pub(super) fn forget(&mut self) {
        for queue in &mut self.0 {
            queue.heard_at = None;
            queue.lane.queue = 0;
        }
    }

    /// By how many ports packets go.
    pub(super) fn count(&self) -> usize {
        1 + self.0.iter().filter(|queue| queue.lane.queue > 0).count()
    }
}
