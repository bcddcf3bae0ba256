//! Gossip channels: dispatch to their owners, relay for others, and what waits for a neighbour.

pub mod channels;
pub mod outbox;
