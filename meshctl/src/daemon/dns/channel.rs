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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::dns::Names;

    fn names(ours: &str) -> Arc<Names> {
        let domain = "weave.local".parse().unwrap();
        Names::new(ours.parse().unwrap(), domain, Vec::new())
    }

    fn payload(data: Option<Box<dyn GossipData>>) -> Vec<u8> {
        data.unwrap().encode()
    }

    #[test]
    fn what_one_tells_the_other_knows() {
        let (first, second): (PeerName, PeerName) =
            ("::1".parse().unwrap(), "::2".parse().unwrap());
        let (names1, names2) = (names("::1"), names("::2"));
        let mut channel1 = Channel::new(names1.clone());
        let mut channel2 = Channel::new(names2.clone());
        names1
            .add("a.weave.local", "c", [10, 0, 0, 1].into())
            .unwrap();
        let state = payload(channel1.full_state());
        // Nobody has heard of the origin yet.
        assert!(channel2.on_gossip(first, &state).unwrap().is_none());
        assert_eq!(names2.entries(), []);
        channel2.on_peer_learnt(first);
        let passed_on = channel2.on_gossip(first, &state).unwrap();
        assert_eq!(
            Update::decode(&payload(passed_on)).unwrap().entries().len(),
            1
        );
        assert!(
            channel2.on_gossip(first, &state).unwrap().is_none(),
            "no news"
        );
        assert!(channel2.on_broadcast(first, &state).unwrap().is_some());
        assert_eq!(names2.entries(), names1.entries());
        assert_eq!(names2.counts(), (0, 1));
        assert_eq!(names2.clocks()[0].peer, first);
        channel2.on_peer_forgotten(first);
        assert_eq!((names2.entries().len(), names2.clocks().len()), (0, 0));
        channel1.on_unicast(second, b"x").unwrap();
    }

    #[test]
    fn garbage_ends_no_connection_and_changes_nothing() {
        let names = names("::1");
        let mut channel = Channel::new(names.clone());
        names
            .add("a.weave.local", "c", [10, 0, 0, 1].into())
            .unwrap();
        let before = names.entries();
        let peer = "::2".parse().unwrap();
        channel.on_peer_learnt(peer);
        let good = payload(channel.full_state());
        let mut count = 0;
        for len in 0..good.len() {
            let cut = good.get(..len).unwrap();
            let broadcast = channel.on_broadcast(peer, cut).unwrap();
            let gossip = channel.on_gossip(peer, cut).unwrap();
            assert!(broadcast.is_none() && gossip.is_none(), "{len} bytes");
            count += 2;
        }
        assert_eq!(names.entries(), before);
        assert_eq!(names.refused(), count);
        assert_eq!(names.clocks(), []);
    }

    #[test]
    fn the_whole_takes_the_place_of_parts() {
        let names = names("::1");
        for host in ["a", "b"] {
            let host = format!("{host}.weave.local");
            names.add(&host, "c", [10, 0, 0, 1].into()).unwrap();
        }
        let all = names.full_state();
        let parts: Vec<_> = all.entries().map(|entry| Update::new(1, [entry])).collect();
        let count = |data: &dyn GossipData| Update::decode(&data.encode()).unwrap().entries().len();
        let [one, two] = [0, 1].map(|index| boxed(parts[index].clone()));
        let mut data = one.duplicate();
        data.merge(two.duplicate());
        assert_eq!(count(data.as_ref()), 2);
        let whole: Box<dyn GossipData> = Box::new(Data::All(names.clone()));
        let mut data = one.duplicate();
        data.merge(whole.duplicate());
        // What comes until it is sent is in it, too.
        names
            .add("c.weave.local", "c", [10, 0, 0, 1].into())
            .unwrap();
        assert_eq!(count(data.as_ref()), 3);
        data.merge(two);
        assert_eq!(count(data.as_ref()), 3);
    }
}
