//! Dispatch of received gossip.
//!
//! | message | channel with an owner | channel without |
//! |---|---|---|
//! | unicast to us | the owner takes it | dropped |
//! | unicast to another | relayed as it is | relayed as it is |
//! | broadcast | the owner says what to pass on | passed on as it is |
//! | gossip | the owner says what was new | passed on unless seen before |
//!
//! Channel `topology` belongs to [`Peers`]. An error of an owner closes the connection that brought
//! the message.
//!
//! Nobody here can tell what is new on a channel without owner. So that gossip does not circle
//! there, a hash of every payload is remembered for [`SURROGATE_MEMORY`] and the same payload is
//! not passed on again. The memory is one for all such channels, bounded by [`MAX_RELAY_MEMORY`];
//! when it is full of younger payloads, a new one is dropped and counted.
//!
//! Source: Weave mesh protocol, sections 7.1 and 7.2.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher as _};
use std::time::Instant;

use proto::PeerName;
use proto::gossip::{GossipChannel, GossipRefused};
use rand::Rng;
use thiserror::Error;
use tracing::{debug, info};

use super::{ChannelName, Pending};
use crate::constants::{
    MAX_CHANNEL_NAME_LEN, MAX_RELAY_MEMORY, MAX_RELAYED_CHANNELS, SURROGATE_MEMORY,
};
use crate::topology::{Applied, Peers};
use crate::wire::control::{GossipKind, GossipMessage};

/// The channels that this peer knows.
pub struct Channels {
    owners: BTreeMap<ChannelName, Box<dyn GossipChannel>>,
    /// Channels without owner on which something came.
    relayed: BTreeSet<ChannelName>,
    memory: Memory,
    dropped: u64,
}

/// What to do with a received message, besides what its channel has done with it.
#[derive(Debug, Default)]
pub enum Verdict {
    /// Nothing: it has arrived, or it told nothing new.
    #[default]
    Nothing,
    /// Send the same message on to the next hop for gossip to this peer.
    Relay(PeerName),
    /// Gossip this to random neighbours, except the sender, as from ourselves.
    Gossip(Pending),
    /// Pass this on along the broadcast tree of the message's source.
    Broadcast(Pending),
}

/// A message that was taken.
#[derive(Debug, Default)]
pub struct Received {
    /// What to do with it.
    pub verdict: Verdict,
    /// What it did to the topology, if it was about that.
    pub topology: Option<Applied>,
}

/// The name is taken, or that of the topology. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("gossip channel {0} has an owner already")]
pub struct ChannelTaken(pub ChannelName);

impl Channels {
    /// Without any owner. `hash_key` is random, so that nobody can foresee which payloads are
    /// taken for the same.
    pub fn new(hash_key: u64) -> Self {
        Self {
            owners: BTreeMap::new(),
            relayed: BTreeSet::new(),
            memory: Memory {
                key: hash_key,
                order: VecDeque::new(),
                known: BTreeSet::new(),
            },
            dropped: 0,
        }
    }

    /// Gives a channel its owner.
    pub fn register(
        &mut self,
        name: impl Into<ChannelName>,
        owner: Box<dyn GossipChannel>,
    ) -> Result<(), ChannelTaken> {
        let name = name.into();
        if name.as_bytes() == ChannelName::TOPOLOGY {
            return Err(ChannelTaken(name));
        }
        match self.owners.entry(name) {
            Entry::Occupied(taken) => Err(ChannelTaken(taken.key().clone())),
            Entry::Vacant(free) => {
                self.relayed.remove(free.key());
                free.insert(owner);
                Ok(())
            }
        }
    }

    /// Channels that were relayed though they have no owner, by name; at most
    /// [`MAX_RELAYED_CHANNELS`] of them.
    pub fn relayed(&self) -> impl Iterator<Item = &ChannelName> {
        self.relayed.iter()
    }

    /// Messages on channels without owner that were dropped for want of room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes a message. An error closes the connection that brought it; nothing is passed
    /// on then.
    pub fn receive(
        &mut self,
        message: &GossipMessage,
        peers: &mut Peers,
        now: Instant,
        rng: &mut (impl Rng + ?Sized),
    ) -> Result<Received, GossipRefused> {
        match message.kind() {
            GossipKind::Unicast { destination } if destination != peers.ours().name => {
                Ok(Received::just(Verdict::Relay(destination)))
            }
            kind if message.channel() == ChannelName::TOPOLOGY => {
                let received = topology(kind, message, peers, rng)?;
                for peer in received.topology.iter().flat_map(|it| &it.created) {
                    self.peer_learnt(*peer);
                }
                Ok(received)
            }
            kind => {
                let owner = self.owners.get_mut(message.channel());
                let verdict = match owner {
                    Some(owner) => owned(kind, message, owner.as_mut())?,
                    None => self.unowned(kind, message, now),
                };
                Ok(Received::just(verdict))
            }
        }
    }

    /// All that every channel knows: for a new neighbour, and for the periodic round.
    pub fn full_state(&mut self, peers: &Peers) -> Vec<(ChannelName, Pending)> {
        let topology = Pending::Topology(peers.names());
        let mut all = vec![(ChannelName::TOPOLOGY.into(), topology)];
        for (name, owner) in &mut self.owners {
            if let Some(data) = owner.full_state() {
                all.push((name.clone(), Pending::Client(data)));
            }
        }
        all
    }

    /// Tells all owners that the topology has learnt of `peer`. What [`receive`](Self::receive)
    /// learns it tells by itself.
    pub fn peer_learnt(&mut self, peer: PeerName) {
        for owner in self.owners.values_mut() {
            owner.on_peer_learnt(peer);
        }
    }

    /// Tells all owners that the topology has forgotten `peer`.
    pub fn peer_forgotten(&mut self, peer: PeerName) {
        for owner in self.owners.values_mut() {
            owner.on_peer_forgotten(peer);
        }
    }

    fn unowned(&mut self, kind: GossipKind, message: &GossipMessage, now: Instant) -> Verdict {
        if message.channel().len() > MAX_CHANNEL_NAME_LEN {
            self.dropped += 1;
            return Verdict::Nothing;
        }
        self.list(message.channel());
        match kind {
            GossipKind::Unicast { .. } => Verdict::Nothing,
            GossipKind::Broadcast => Verdict::Broadcast(Pending::raw(message.payload())),
            GossipKind::Neighbours => {
                match self.memory.look(message.channel(), message.payload(), now) {
                    Sight::First => Verdict::Gossip(Pending::raw(message.payload())),
                    Sight::Again => Verdict::Nothing,
                    Sight::Unsure => {
                        self.dropped += 1;
                        Verdict::Nothing
                    }
                }
            }
        }
    }

    fn list(&mut self, channel: &[u8]) {
        if self.relayed.contains(channel) {
            return;
        }
        let channel = ChannelName::from(channel);
        if self.relayed.len() < MAX_RELAYED_CHANNELS {
            info!(%channel, "relaying a gossip channel that has no owner here");
            self.relayed.insert(channel);
        } else {
            debug!(%channel, "relaying yet another gossip channel that has no owner here");
        }
    }
}

impl std::fmt::Debug for Channels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let owned: Vec<_> = self.owners.keys().collect();
        f.debug_struct("Channels")
            .field("owned", &owned)
            .field("relayed", &self.relayed)
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

impl Received {
    fn just(verdict: Verdict) -> Self {
        Self {
            verdict,
            topology: None,
        }
    }
}

fn topology(
    kind: GossipKind,
    message: &GossipMessage,
    peers: &mut Peers,
    rng: &mut (impl Rng + ?Sized),
) -> Result<Received, GossipRefused> {
    if let GossipKind::Unicast { .. } = kind {
        return Err(GossipRefused(
            "unexpected topology gossip unicast".to_owned(),
        ));
    }
    let applied = peers.apply(message.payload(), rng);
    let applied = applied.map_err(|error| GossipRefused(error.to_string()))?;
    let verdict = match kind {
        GossipKind::Broadcast if !applied.named.is_empty() => {
            Verdict::Broadcast(Pending::Topology(applied.named.clone()))
        }
        GossipKind::Neighbours if !applied.improved.is_empty() => {
            Verdict::Gossip(Pending::Topology(applied.improved.clone()))
        }
        _ => Verdict::Nothing,
    };
    Ok(Received {
        verdict,
        topology: Some(applied),
    })
}

fn owned(
    kind: GossipKind,
    message: &GossipMessage,
    owner: &mut dyn GossipChannel,
) -> Result<Verdict, GossipRefused> {
    let payload = message.payload();
    let passed_on = |data: Option<_>, verdict: fn(Pending) -> Verdict| {
        data.map_or(Verdict::Nothing, |data| verdict(Pending::Client(data)))
    };
    Ok(match kind {
        GossipKind::Unicast { .. } => {
            owner.on_unicast(message.source(), payload)?;
            Verdict::Nothing
        }
        GossipKind::Broadcast => passed_on(
            owner.on_broadcast(message.source(), payload)?,
            Verdict::Broadcast,
        ),
        GossipKind::Neighbours => {
            passed_on(owner.on_gossip(message.source(), payload)?, Verdict::Gossip)
        }
    })
}

/// Which payloads have come by lately.
#[derive(Debug)]
struct Memory {
    key: u64,
    /// By the time they came.
    order: VecDeque<(Instant, Digest)>,
    /// The same.
    known: BTreeSet<Digest>,
}

/// Hash and length.
type Digest = (u64, usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    First,
    Again,
    /// There is no room to remember it.
    Unsure,
}

impl Memory {
    /// Looks at a payload, and remembers it.
    fn look(&mut self, channel: &[u8], payload: &[u8], now: Instant) -> Sight {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.key);
        hasher.write_usize(channel.len());
        hasher.write(channel);
        hasher.write(payload);
        let digest = (hasher.finish(), payload.len());
        if self.known.contains(&digest) {
            return Sight::Again;
        }
        let is_old = |&(seen_at, _): &(Instant, Digest)| {
            now.saturating_duration_since(seen_at) >= SURROGATE_MEMORY
        };
        while let Some((_, old)) = self.order.pop_front_if(|entry| is_old(entry)) {
            self.known.remove(&old);
        }
        if self.order.len() >= MAX_RELAY_MEMORY {
            return Sight::Unsure;
        }
        self.order.push_back((now, digest));
        self.known.insert(digest);
        Sight::First
    }
}

#[cfg(test)]
mod tests;
