//! The allocator as the owner of a gossip channel.
//!
//! What waits to be sent is "our state", encoded when the connection can take it: two updates that
//! wait for one neighbour are one. A broadcast of another is passed on in the same way, as our own
//! state under its name. Plain gossip is not passed on.
//!
//! Source: Weave IPAM protocol, sections 2 and 7.

use std::any::Any;
use std::sync::Arc;

use proto::PeerName;
use proto::gossip::{GossipChannel, GossipData, GossipRefused};

use super::shared::Shared;

/// See the [module](self).
pub(super) struct Channel(Arc<Shared>);

impl Channel {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    fn state(&self) -> Box<dyn GossipData> {
        Box::new(OurState(self.0.clone()))
    }
}

impl GossipChannel for Channel {
    fn on_unicast(&mut self, source: PeerName, payload: &[u8]) -> Result<(), GossipRefused> {
        self.0
            .call(|allocator, now| allocator.handle_unicast(source, payload, now))
    }

    fn on_broadcast(
        &mut self,
        source: PeerName,
        payload: &[u8],
    ) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
        self.0
            .call(|allocator, now| allocator.handle_broadcast(source, payload, now))?;
        Ok(Some(self.state()))
    }

    fn on_gossip(
        &mut self,
        _neighbour: PeerName,
        payload: &[u8],
    ) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
        self.0
            .call(|allocator, now| allocator.handle_gossip(payload, now))?;
        Ok(None)
    }

    fn full_state(&mut self) -> Option<Box<dyn GossipData>> {
        Some(self.state())
    }

    fn on_peer_forgotten(&mut self, peer: PeerName) {
        self.0
            .call(|allocator, now| allocator.handle_peer_forgotten(peer, now));
    }
}

/// Our state, whatever it is when it is sent.
pub(super) struct OurState(pub(super) Arc<Shared>);

impl GossipData for OurState {
    fn merge(&mut self, _newer: Box<dyn GossipData>) {}

    fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    fn duplicate(&self) -> Box<dyn GossipData> {
        Box::new(Self(self.0.clone()))
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
