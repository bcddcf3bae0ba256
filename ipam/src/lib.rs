//! Addresses for containers from one range that all hosts of a mesh share, with no coordinator.
//!
//! The range, called the universe, is divided among the peers by a [`ring`], of which each peer
//! has a copy and all copies become the same by gossip. How it was divided at first is agreed by
//! [`paxos`], or set from the outset. Which addresses of its own part are in use is each peer's own
//! affair and kept in its [`space`]. The [`allocator`] joins these: it gives out addresses of its
//! own part, asks others for space when that is used up, and takes over from peers that leave. It
//! speaks to others in the words of [`wire`], and shows itself in a [`status`].
//!
//! Nothing here does IO, reads a clock or draws a random number that was not passed in.
//!
//! Two things hold at all times, also across crashes, as long as people do not take ranges away
//! from living peers: no address belongs to two peers, and none is given to two containers. They
//! are checked by simulation, see `tests/sim`. What they cannot survive is a peer that loses its
//! disk, or is reset, and comes back under its old name while others still think that it owns
//! something: the messages have no room to tell that peer from its former self. The same holds for
//! one that was reset and is started with its old seed.

pub mod allocator;
pub mod paxos;
pub mod range;
pub mod ring;
pub mod space;
pub mod status;
pub mod wire;

#[cfg(test)]
mod testing;
