//! The gossip channel `nameserver`.
//!
//! Everything waits to be sent as [`Data`]: the whole state is written down only when a connection
//! can take it, so that tables of thousands of names are not copied for neighbours that wait.
//!
//! Source: Weave nameserver protocol, sections 2 to 5.

use std::any::Any;
use std::sync::Arc;

use dns::Update;
use proto::PeerName;
use proto::gossip::{GossipChannel, GossipData, GossipRefused};

use super::Names;

/// The channel's owner.
#[derive(Debug)]
pub struct Channel(Arc<Names>);

impl Channel {
    /// The channel of these names.
    pub fn new(names: Arc<Names>) -> Self {
        Self(names)
    }
}

/// What waits for a connection.
#[derive(Debug, Clone)]
enum Data {
    /// These entries.
    Some(Update),
    /// Whatever there is then. All that was received before is in it.
    All(Arc<Names>),
}

impl GossipChannel for Channel {
    /// The original sends none, and ignores them.
    fn on_unicast(&mut self, source: PeerName, _: &[u8]) -> Result<(), GossipRefused> {
        tracing::debug!(%source, "ignoring a message about names to us alone");
        Ok(())
    }

    fn on_broadcast(
        &mut self,
        source: PeerName,
        payload: &[u8],
    ) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
        let pass_on = self.0.receive(source, |nameserver, now, is_known| {
            nameserver.on_broadcast(payload, now, is_known)
        })?;
        Ok(pass_on.map(boxed))
    }

    fn on_gossip(
        &mut self,
        neighbour: PeerName,
        payload: &[u8],
    ) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
        let pass_on = self.0.receive(neighbour, |nameserver, now, is_known| {
            nameserver.on_gossip(payload, now, is_known)
        })?;
        Ok(pass_on.map(boxed))
    }

    fn full_state(&mut self) -> Option<Box<dyn GossipData>> {
        Some(Box::new(Data::All(self.0.clone())))
    }

    fn on_peer_learnt(&mut self, peer: PeerName) {
        self.0.learn_peer(peer);
    }

    fn on_peer_forgotten(&mut self, peer: PeerName) {
        self.0.forget_peer(peer);
    }
}

/// An update as it waits.
pub(super) fn boxed(update: Update) -> Box<dyn GossipData> {
    Box::new(Data::Some(update))
}

impl GossipData for Data {
    fn merge(&mut self, newer: Box<dyn GossipData>) {
        // Channels never mix, so it is Data.
        let Ok(newer) = newer.into_any().downcast::<Self>() else {
            return;
        };
        match (&mut *self, *newer) {
            (Self::Some(own), Self::Some(newer)) => own.merge(Box::new(newer)),
            (Self::Some(_), all @ Self::All(_)) => *self = all,
            (Self::All(_), _) => {}
        }
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Some(update) => update.encode(),
            Self::All(names) => names.full_state().encode(),
        }
    }

    fn duplicate(&self) -> Box<dyn GossipData> {
        Box::new(self.clone())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
