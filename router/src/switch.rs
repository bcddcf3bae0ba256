//! The MAC table, and one verdict per frame.
//!
//! The table says at which peer each MAC address was last seen as a source. It is bounded: when
//! full, the address unseen for longest makes room; an address unseen for
//! [`MAC_MAX_AGE`](crate::constants::MAC_MAX_AGE) is forgotten.
//!
//! # Addresses that move
//!
//! A frame that comes over the overlay moves its source address to its origin at once. A frame from
//! the local bridge whose source is known at another peer is dropped by the original until that
//! entry expires after ten minutes, because its packet capture also sees the frames that it has
//! injected itself. A TAP device does not hand its own writes back: what is read from it was sent
//! by the bridge, so the address really is here, for instance because a container was moved to this
//! host with its address. What remains to guard against is a bridge port in hairpin mode or a
//! second path between the bridges, where copies of overlay frames come in from the bridge within
//! moments of the original. Therefore such a frame is still dropped while the address was heard at
//! the other peer within the last [`MAC_MOVE_HOLD`](crate::constants::MAC_MOVE_HOLD), and moves the
//! address after that.
//!
//! Addresses that no station can have as its source (groups, zero) are neither learnt nor passed
//! on: a learnt broadcast address would turn every broadcast into a unicast. A Linux bridge refuses
//! them as well.
//!
//! Source: Weave data plane, sections 7.1 to 7.3.

mod flood;
mod neighbours;
mod table;

use std::time::Instant;

use proto::{MacAddr, PeerName};

use crate::dataplane::DropReason;
use crate::wire::ethernet::Frame;

pub use flood::FloodLimit;
pub use neighbours::Neighbours;
use table::Sighting;
pub use table::{MacEntry, MacTable};

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It ends here.
    Drop(DropReason),
    /// It goes to the local bridge.
    Deliver,
    /// It goes to this peer.
    Unicast(PeerName),
    /// It goes along the broadcast tree of its origin, and if it came over the overlay also to the
    /// local bridge.
    Flood,
}

/// Decides about frames by what it learnt from their source addresses.
#[derive(Debug)]
pub struct Switch {
    ours: PeerName,
    table: MacTable,
}

impl Switch {
    /// The switch of peer `ours`, which knows no address yet.
    pub fn new(ours: PeerName) -> Self {
        Self {
            ours,
            table: MacTable::default(),
        }
    }

    /// The table.
    pub const fn table(&self) -> &MacTable {
        &self.table
    }

    /// A frame captured from the local bridge. Never says `Deliver`.
    #[inline]
    pub fn captured(&mut self, frame: &Frame<'_>, now: Instant) -> Verdict {
        let source = frame.source();
        if !is_station(source) {
            return Verdict::Drop(DropReason::InvalidSource);
        }
        match self.table.learn_captured(source, self.ours, now) {
            Sighting::Known => {}
            Sighting::New => tracing::info!("Discovered local MAC {source}"),
            Sighting::Moved { from } => {
                tracing::info!("Discovered local MAC {source} (was at {from})");
            }
            Sighting::Refused { peer } => {
                tracing::debug!(mac = %source, %peer, "captured frame of a MAC at another peer");
                return Verdict::Drop(DropReason::SourceElsewhere);
            }
        }
        let destination = frame.destination();
        if destination.is_group() {
            return if destination == MacAddr::STP {
                Verdict::Drop(DropReason::SpanningTree)
            } else {
                Verdict::Flood
            };
        }
        match self.table.peer(destination) {
            Some(peer) if peer == self.ours => Verdict::Drop(DropReason::LocalDestination),
            Some(peer) => Verdict::Unicast(peer),
            None => Verdict::Flood,
        }
    }

    /// A frame that came over the overlay from `origin` and whose destination peer is us: the end
    /// of its way, or a stop in a flood. Never says `Unicast`.
    #[inline]
    pub fn arrived(&mut self, origin: PeerName, frame: &Frame<'_>, now: Instant) -> Verdict {
        let source = frame.source();
        if !is_station(source) {
            return Verdict::Drop(DropReason::InvalidSource);
        }
        match self.table.learn(source, origin, now) {
            Sighting::New => tracing::info!("Discovered remote MAC {source} at {origin}"),
            Sighting::Moved { from } => {
                tracing::info!("Discovered remote MAC {source} at {origin} (was at {from})");
            }
            Sighting::Known | Sighting::Refused { .. } => {}
        }
        let destination = frame.destination();
        if !destination.is_group() && self.table.peer(destination) == Some(self.ours) {
            Verdict::Deliver
        } else {
            Verdict::Flood
        }
    }

    /// The topology has forgotten this peer, and with it go its addresses.
    pub fn forget(&mut self, peer: PeerName) {
        self.table.forget(peer);
    }

    /// Forgets the addresses that were not seen for too long.
    pub fn sweep(&mut self, now: Instant) {
        self.table.sweep(now);
    }
}

/// Whether a station can have this address as its own.
#[inline]
fn is_station(mac: MacAddr) -> bool {
    !mac.is_group() && mac != MacAddr::ZERO
}

#[cfg(test)]
mod tests;
