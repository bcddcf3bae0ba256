//! How the owner of a gossip channel is plugged into the mesh.
//!
//! The mesh moves payloads; what they mean, how they merge and what is new in them is the
//! channel owner's business. All calls are made from the one task that drives the mesh.

use std::any::Any;

use thiserror::Error;

use crate::PeerName;

/// Data on its way to a neighbour. It waits, merged, until the connection can take it, and is
/// encoded only then: it may be a mere "my current state".
pub trait GossipData: Send {
    /// Takes up `newer`, which is of the same concrete type, queued after `self`.
    fn merge(&mut self, newer: Box<dyn GossipData>);

    /// The payload as it goes on the wire.
    fn encode(&self) -> Vec<u8>;

    /// The same once more: every neighbour has a queue of its own.
    fn duplicate(&self) -> Box<dyn GossipData>;

    /// For [`merge`](Self::merge) to reach the concrete type.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

/// A received payload that its channel refuses. The mesh closes the connection that brought it
/// and shows the text as the reason.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct GossipRefused(pub String);

/// The owner of one gossip channel.
pub trait GossipChannel: Send {
    /// A message for this peer alone.
    fn on_unicast(&mut self, source: PeerName, payload: &[u8]) -> Result<(), GossipRefused>;

    /// A message that `source` sent to everybody. Returns what to pass on under the same source.
    fn on_broadcast(
        &mut self,
        source: PeerName,
        payload: &[u8],
    ) -> Result<Option<Box<dyn GossipData>>, GossipRefused>;

    /// State from a neighbour. Returns what was new in it, or `None`, which ends the spread.
    fn on_gossip(
        &mut self,
        neighbour: PeerName,
        payload: &[u8],
    ) -> Result<Option<Box<dyn GossipData>>, GossipRefused>;

    /// Everything this channel knows, for new neighbours and the periodic round.
    fn full_state(&mut self) -> Option<Box<dyn GossipData>>;

    /// The topology has learnt of a peer, which may be a neighbour or far away. Every peer is
    /// told of once until it is forgotten; we ourselves are not.
    fn on_peer_learnt(&mut self, _peer: PeerName) {}

    /// The topology has forgotten a peer that can no longer be reached.
    fn on_peer_forgotten(&mut self, peer: PeerName);
}
