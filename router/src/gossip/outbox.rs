//! What waits to be sent over one connection.
//!
//! Per channel there is a slot for gossip and one for each source of broadcasts. New data merges
//! into a slot that is still filled, and is encoded only when the connection can take it: a slow
//! connection gets fewer messages with fresher data, not a longer queue.
//!
//! Unicasts do not wait for any of this. Then channels take turns; within a channel gossip comes
//! first, then broadcasts by ascending source. Nothing else is ordered.
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | unicasts | [`MAX_OUTBOX_UNICASTS`] messages, [`MAX_OUTBOX_UNICAST_LEN`] bytes | the new one is dropped |
//! | sources of broadcasts | [`MAX_OUTBOX_BROADCASTS`] slots | data of further sources is dropped |
//! | payloads of channels without owner | [`MAX_OUTBOX_RELAY_LEN`] bytes | the oldest in the slot are dropped, then the new one |
//!
//! [`Drops`] counts what was dropped. Data of channels with an owner is bounded by what it
//! describes.
//!
//! Source: Weave mesh protocol, sections 7.2 and 7.4.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use proto::PeerName;

use super::{ChannelName, Pending};
use crate::constants::{
    MAX_OUTBOX_BROADCASTS, MAX_OUTBOX_RELAY_LEN, MAX_OUTBOX_UNICAST_LEN, MAX_OUTBOX_UNICASTS,
};
use crate::topology::Peers;
use crate::wire::control::{GossipKind, GossipMessage};

/// What a message or slot takes besides its bytes, roughly.
const OVERHEAD: usize = 256;

/// What was dropped since the connection began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drops {
    /// Unicasts.
    pub unicasts: u64,
    /// Broadcasts from too many sources.
    pub broadcasts: u64,
    /// Payloads of channels that have no owner here.
    pub relayed: u64,
}

/// What waits to be sent over one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    unicasts: VecDeque<GossipMessage>,
    /// Bytes in `unicasts`.
    unicast_len: usize,
    /// No channel here is without a filled slot.
    channels: BTreeMap<ChannelName, Slots>,
    /// The channel whose turn it was.
    last: Option<ChannelName>,
    /// Filled broadcast slots of all channels.
    broadcast_count: usize,
    /// Bytes in raw payloads of all channels.
    relay_len: usize,
    drops: Drops,
}

#[derive(Debug, Default)]
struct Slots {
    gossip: Option<Pending>,
    broadcasts: BTreeMap<PeerName, Pending>,
}

impl Outbox {
    /// Nothing waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.unicasts.is_empty() && self.channels.is_empty()
    }

    /// What was dropped so far.
    pub fn drops(&self) -> Drops {
        self.drops
    }

    /// A message for one peer, ours or one to be passed on as it is.
    pub fn queue_unicast(&mut self, message: GossipMessage) {
        let len = unicast_len(&message);
        if self.unicasts.len() >= MAX_OUTBOX_UNICASTS
            || self.unicast_len + len > MAX_OUTBOX_UNICAST_LEN
        {
            self.drops.unicasts += 1;
            return;
        }
        self.unicast_len += len;
        self.unicasts.push_back(message);
    }

    /// Gossip from ourselves to this neighbour.
    pub fn queue_gossip(&mut self, channel: &ChannelName, data: Pending) {
        self.queue(channel, None, data);
    }

    /// A broadcast that began at `source`.
    pub fn queue_broadcast(&mut self, channel: &ChannelName, source: PeerName, data: Pending) {
        self.queue(channel, Some(source), data);
    }

    /// The next message to send, encoded from what `peers` and the channels' owners know now.
    pub fn next(&mut self, peers: &Peers) -> Option<GossipMessage> {
        if let Some(message) = self.unicasts.pop_front() {
            self.unicast_len -= unicast_len(&message);
            return Some(message);
        }
        while let Some(channel) = self.next_channel() {
            let taken = self.take(&channel, peers);
            self.last = Some(channel.clone());
            if let Some((source, payload)) = taken {
                let kind = match source {
                    None => GossipKind::Neighbours,
                    Some(_) => GossipKind::Broadcast,
                };
                let source = source.unwrap_or(peers.ours().name);
                return Some(GossipMessage::new(
                    channel.as_bytes(),
                    kind,
                    source,
                    &payload,
                ));
            }
        }
        None
    }

    /// `source`: `None` for the slot of gossip.
    fn queue(&mut self, channel: &ChannelName, source: Option<PeerName>, data: Pending) {
        if data.is_spent() {
            return;
        }
        let slots = self.channels.get_mut(channel);
        let mut slot = slots.and_then(|slots| slots.get_mut(source));
        if source.is_some() && slot.is_none() && self.broadcast_count >= MAX_OUTBOX_BROADCASTS {
            self.drops.broadcasts += 1;
            return;
        }
        let len = raw_len(channel, &data);
        if self.relay_len + len > MAX_OUTBOX_RELAY_LEN && len > 0 {
            let waiting = slot.as_deref().map_or(0, |slot| raw_len(channel, slot));
            if self.relay_len - waiting + len > MAX_OUTBOX_RELAY_LEN {
                self.drops.relayed += data.raw_count() as u64;
                return;
            }
            while self.relay_len + len > MAX_OUTBOX_RELAY_LEN {
                let Some(oldest) = slot.as_deref_mut().and_then(Pending::drop_oldest) else {
                    break;
                };
                self.relay_len -= payload_len(channel, &oldest);
                self.drops.relayed += 1;
            }
        }
        match slot {
            Some(slot) => {
                if len == 0 {
                    // Raw payloads give way to an owner's data.
                    self.relay_len -= raw_len(channel, slot);
                }
                slot.merge(data);
            }
            None => {
                let slots = self.channels.entry(channel.clone()).or_default();
                match source {
                    None => slots.gossip = Some(data),
                    Some(source) => {
                        slots.broadcasts.insert(source, data);
                        self.broadcast_count += 1;
                    }
                }
            }
        }
        self.relay_len += len;
    }

    /// The channel after the one whose turn it was.
    fn next_channel(&self) -> Option<ChannelName> {
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self
            .channels
            .range::<ChannelName, _>((after, Bound::Unbounded));
        let next = rest.next().or_else(|| self.channels.first_key_value());
        next.map(|(channel, _)| channel.clone())
    }

    /// Takes one payload from the first slot of `channel`, with its source unless it is gossip.
    /// None, if there was nothing to tell any more.
    fn take(
        &mut self,
        channel: &ChannelName,
        peers: &Peers,
    ) -> Option<(Option<PeerName>, Vec<u8>)> {
        let slots = self.channels.get_mut(channel)?;
        let (source, slot) = slots.first()?;
        let raw = slot.raw_count() > 0;
        let payload = slot.next_payload(peers);
        if let Some(payload) = payload.as_ref().filter(|_| raw) {
            self.relay_len -= payload_len(channel, payload);
        }
        if slot.is_spent() {
            match source {
                None => slots.gossip = None,
                Some(source) => {
                    slots.broadcasts.remove(&source);
                    self.broadcast_count -= 1;
                }
            }
            if slots.first().is_none() {
                self.channels.remove(channel);
            }
        }
        payload.map(|payload| (source, payload))
    }
}

impl Slots {
    fn get_mut(&mut self, source: Option<PeerName>) -> Option<&mut Pending> {
        match source {
            None => self.gossip.as_mut(),
            Some(source) => self.broadcasts.get_mut(&source),
        }
    }

    /// The slot to be emptied first.
    fn first(&mut self) -> Option<(Option<PeerName>, &mut Pending)> {
        match &mut self.gossip {
            Some(slot) => Some((None, slot)),
            None => {
                let mut broadcasts = self.broadcasts.iter_mut();
                broadcasts
                    .next()
                    .map(|(source, slot)| (Some(*source), slot))
            }
        }
    }
}

fn unicast_len(message: &GossipMessage) -> usize {
    message.encoded().len() + OVERHEAD
}

fn payload_len(channel: &ChannelName, payload: &[u8]) -> usize {
    channel.as_bytes().len() + payload.len() + OVERHEAD
}

fn raw_len(channel: &ChannelName, data: &Pending) -> usize {
    match data {
        Pending::Raw(payloads) => payloads
            .iter()
            .map(|payload| payload_len(channel, payload))
            .sum(),
        Pending::Topology(_) | Pending::Client(_) => 0,
    }
}

#[cfg(test)]
mod tests;
