//! Addresses for containers from one range that all hosts of a mesh share, with no coordinator.
//!
//! Nothing here does IO, reads a clock or draws a random number that was not passed in.

pub mod allocator;
pub mod paxos;
pub mod range;
pub mod ring;
pub mod space;
pub mod status;
pub mod wire;

#[cfg(test)]
mod testing;
