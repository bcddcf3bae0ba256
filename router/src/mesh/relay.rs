//! Gossip on its way through this peer: taken from connections, passed on, and sent for the first
//! time.
//!
//! What is to be passed on picks its neighbours from the routes. If these are to be calculated
//! anew it waits for that, at most 100 ms, and merges with what else waits for the same neighbours.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use proto::PeerName;

use super::links::End;
use super::{Mesh, Output, UnicastError};
use crate::LinkId;
use crate::constants::{GC_DELAY, MAX_WAITING_RELAY_LEN, ROUTES_DELAY, TOPOLOGY_DELAY};
use crate::dataplane::Command;
use crate::gossip::channels::Verdict;
use crate::gossip::{ChannelName, Pending};
use crate::topology::{Applied, Routes};
use crate::wire::control::{GossipKind, GossipMessage, Message};

/// What waits for the next calculation of routes.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    slots: BTreeMap<(ChannelName, Spread), Pending>,
    /// Bytes in the messages that brought it.
    len: usize,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// Whom something is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spread {
    /// Random neighbours, but not this one.
    Neighbours { except: Option<PeerName> },
    /// The next peers in the broadcast tree of this one.
    Tree { source: PeerName },
}

impl Mesh {
    /// A message has come in over a connection that is part of the mesh.
    pub(super) fn received(
        &mut self,
        id: LinkId,
        message: Message,
        now: Instant,
    ) -> Result<(), End> {
        match message {
            Message::Heartbeat => {}
            Message::Overlay(control) => self.control_received(id, control),
            Message::Gossip(message) => self.gossip_received(id, message, now)?,
            Message::Unknown { tag } => {
                tracing::debug!(link = id.0, tag, "ignoring unknown protocol tag");
            }
        }
        Ok(())
    }

    fn gossip_received(
        &mut self,
        id: LinkId,
        message: GossipMessage,
        now: Instant,
    ) -> Result<(), End> {
        let neighbour = self.links.get(&id).and_then(|link| link.met());
        let except = neighbour.map(|met| met.peer);
        let received = self
            .channels
            .receive(&message, &mut self.peers, now, &mut self.rng)?;
        if let Some(applied) = received.topology {
            self.topology_applied(&applied, now);
        }
        let channel = || ChannelName::from(message.channel());
        let len = message.payload().len();
        match received.verdict {
            Verdict::Nothing => {}
            Verdict::Relay(destination) => {
                if let Err(error) = self.forward(destination, message) {
                    tracing::debug!(%error, "unicast dropped");
                }
            }
            Verdict::Gossip(data) => {
                let spread = Spread::Neighbours { except };
                self.spread(channel(), spread, data, len);
            }
            Verdict::Broadcast(data) => {
                let source = message.source();
                self.spread(channel(), Spread::Tree { source }, data, len);
            }
        }
        Ok(())
    }

    fn topology_applied(&mut self, applied: &Applied, now: Instant) {
        for &name in &applied.created {
            if let Some(peer) = self.peers.get(name) {
                tracing::info!("found peer {name}({})", peer.nickname);
            }
        }
        self.collect_at.get_or_insert(now + GC_DELAY);
        if !applied.improved.is_empty() {
            self.request_routes(now);
        }
        if applied.ours_changed {
            self.own_record_changed(None, now);
        }
    }

    // ------------------------------------------------------------ sending

    /// A unicast of an owner here.
    pub(super) fn send_unicast(
        &mut self,
        channel: &str,
        destination: PeerName,
        payload: &[u8],
    ) -> Result<(), UnicastError> {
        let kind = GossipKind::Unicast { destination };
        let message = GossipMessage::new(channel.as_bytes(), kind, self.config.name, payload);
        self.forward(destination, message)
    }

    /// Sends a unicast on its way, or one step further.
    fn forward(
        &mut self,
        destination: PeerName,
        message: GossipMessage,
    ) -> Result<(), UnicastError> {
        let no_route = UnicastError::NoRoute(destination);
        let hop = self.routes.unicast_all(destination).ok_or(no_route)?;
        let id = *self.by_peer.get(&hop).ok_or(no_route)?;
        let link = self.links.get_mut(&id).ok_or(no_route)?;
        link.outbox().ok_or(no_route)?.queue_unicast(message);
        self.wake(id);
        Ok(())
    }

    /// Data of ours for random neighbours.
    pub(super) fn send_gossip(&mut self, channel: ChannelName, data: Pending) {
        self.spread(channel, Spread::Neighbours { except: None }, data, 0);
    }

    /// Data of ours for everybody.
    pub(super) fn send_broadcast(&mut self, channel: ChannelName, data: Pending) {
        let source = self.config.name;
        self.spread(channel, Spread::Tree { source }, data, 0);
    }

    /// Every channel's whole state, for random neighbours.
    pub(super) fn send_all_gossip(&mut self) {
        for (channel, data) in self.channels.full_state(&self.peers) {
            self.send_gossip(channel, data);
        }
    }

    /// Every channel's whole state, for one neighbour.
    pub(super) fn send_all_gossip_down(&mut self, id: LinkId) {
        let Some(outbox) = self.links.get_mut(&id).and_then(|link| link.outbox()) else {
            return;
        };
        for (channel, data) in self.channels.full_state(&self.peers) {
            outbox.queue_gossip(&channel, data);
        }
        self.wake(id);
    }

    /// Our own record, and those of peers newly connected, for random neighbours.
    pub(super) fn send_update(&mut self) {
        self.update_at = None;
        let mut names = std::mem::take(&mut self.changed);
        names.insert(self.config.name);
        self.send_gossip(ChannelName::TOPOLOGY.into(), Pending::Topology(names));
    }

    /// Sends `data` where it belongs, now or after the routes have been calculated. `len` is what it
    /// took to bring it here.
    fn spread(&mut self, channel: ChannelName, spread: Spread, data: Pending, len: usize) {
        if self.routes_at.is_none() {
            self.deliver(&channel, spread, &data);
            return;
        }
        match self.waiting.slots.get_mut(&(channel.clone(), spread)) {
            Some(slot) => slot.merge(data),
            None => {
                self.waiting.slots.insert((channel, spread), data);
            }
        }
        self.waiting.len = self.waiting.len.saturating_add(len);
        if self.waiting.len > MAX_WAITING_RELAY_LEN {
            self.calculate_routes();
        }
    }

    fn deliver(&mut self, channel: &ChannelName, spread: Spread, data: &Pending) {
        let routes = self.routes.clone();
        let random;
        let neighbours = match spread {
            Spread::Neighbours { except } => {
                random = routes.random_neighbours(except, &mut self.rng);
                &random[..]
            }
            Spread::Tree { source } => routes.broadcast_all(source),
        };
        for neighbour in neighbours {
            let Some(&id) = self.by_peer.get(neighbour) else {
                continue;
            };
            let Some(outbox) = self.links.get_mut(&id).and_then(|link| link.outbox()) else {
                continue;
            };
            match spread {
                Spread::Neighbours { .. } => outbox.queue_gossip(channel, data.clone()),
                Spread::Tree { source } => outbox.queue_broadcast(channel, source, data.clone()),
            }
            self.wake(id);
        }
    }

    // ------------------------------------------------------------ consequences

    /// Our record has changed: tell others of it within a second, and of `neighbour` as well.
    pub(super) fn own_record_changed(&mut self, neighbour: Option<PeerName>, now: Instant) {
        self.local.short_id = self.peers.ours().short_id;
        self.changed.extend(neighbour);
        self.update_at.get_or_insert(now + TOPOLOGY_DELAY);
    }

    /// Routes are out of date.
    pub(super) fn request_routes(&mut self, now: Instant) {
        self.routes_at.get_or_insert(now + ROUTES_DELAY);
    }

    pub(super) fn calculate_routes(&mut self) {
        self.routes_at = None;
        self.survey = true;
        self.routes = Arc::new(Routes::calculate(&self.peers));
        let command = Command::Routes(self.routes.clone());
        self.outputs.push_back(Output::Data(command));
        let waiting = std::mem::take(&mut self.waiting);
        for ((channel, spread), data) in &waiting.slots {
            self.deliver(channel, *spread, data);
        }
    }

    pub(super) fn collect_garbage(&mut self, now: Instant) {
        self.collect_at = None;
        let collected = self.peers.collect_garbage(&mut self.rng);
        for peer in collected.forgotten {
            tracing::info!("removed unreachable peer {peer}");
            self.channels.peer_forgotten(peer);
            let command = Command::PeerForgotten(peer);
            self.outputs.push_back(Output::Data(command));
        }
        if collected.ours_changed {
            self.own_record_changed(None, now);
        }
    }
}
