//! The control engine: joins connections, topology, gossip and the connector into one mesh peer.
//!
//! ```text
//!   sockets ──bytes──► Connection ──messages──► topology / channels ──► waiting relays ─┐
//!      ▲                    ▲                         │                                 │
//!      │                    │ seals                   ▼ changes                         ▼
//!      └───── poll_transmit ┴──── Outbox ◄── recalculated Routes ──────────► neighbours chosen
//!                                                     │
//!   data half ◄── Commands (links, routes, forgotten peers)       Events (established, failed) ──►
//! ```
//!
//! The engine does no IO. Every `handle_*` takes the time; after each of them the driver takes
//! [`Output`]s from [`Mesh::poll_output`] until there is none, and calls
//! [`Mesh::handle_timeout`] at [`Mesh::poll_timeout`]. Bytes for a connection are asked for, one
//! piece at a time, with [`Mesh::poll_transmit`] after [`Output::WantsWrite`]: what waits for a slow
//! neighbour is merged meanwhile, not queued.
//!
//! Timers, all of them fixed by the protocol: a topology change of our own is sent 1 s after the
//! first one; routes are calculated 100 ms after the first request, and gossip that is to be passed
//! on waits for that; garbage is collected 1 s after an update; every 30 s each channel's whole
//! state goes to some neighbours.
//!
//! Source: Weave mesh protocol, sections 1.8, 4.5 and 6 to 8.

mod links;
mod relay;
mod report;
mod subnet;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use proto::gossip::{GossipChannel, GossipData};
use proto::{PeerName, PeerUid, ShortId};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use thiserror::Error;

use crate::LinkId;
use crate::connection::Local;
use crate::connector::{Action, BadTarget, Connector, Ending, OwnConnection, Sighting};
use crate::constants::GOSSIP_INTERVAL;
use crate::crypto::session::Password;
use crate::dataplane::{Command, Event};
use crate::gossip::channels::ChannelTaken;
use crate::gossip::{Channels, Pending};
use crate::status::MeshStatus;
use crate::topology::{Peers, Routes};
use crate::wire::intro::Versions;

use links::Link;
use relay::Waiting;
pub use subnet::{BadSubnet, Subnet};

/// What a mesh peer is told at its start.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// Our name; must be unique in the mesh.
    pub name: PeerName,
    /// Free text by which people know this host.
    pub nickname: String,
    /// Password that all peers share; `None`: nothing is sealed.
    pub password: Option<Password>,
    /// Protocol versions to speak. Default: all.
    pub versions: Versions,
    /// Overlays that the data half speaks, in order of preference. All versions of this program must
    /// list those that they share in the same order.
    pub overlays: Vec<String>,
    /// Our port, TCP and UDP; also the one at which peers of unknown port are dialled.
    pub port: u16,
    /// Whether peers learnt of by gossip are dialled.
    pub discovery: bool,
    /// Connections to hold at most, established or not; 0: no limit.
    pub conn_limit: usize,
    /// Frames to and from peers in these subnets are not sealed, if they trust us as well.
    pub trusted_subnets: Vec<Subnet>,
}

/// What the driver of a [`Mesh`] has to do.
#[derive(Debug)]
pub enum Output {
    /// Look up all addresses of this name; answer with [`Mesh::handle_resolved`].
    Resolve {
        /// The name, as the user wrote it.
        host: String,
    },
    /// Open a TCP connection; answer with [`Mesh::handle_dialled`].
    Dial {
        /// What to call it.
        link: LinkId,
        /// Where to.
        addr: SocketAddr,
    },
    /// Drop this connection, or the attempt at it. Nothing more is expected from it.
    Close {
        /// Which.
        link: LinkId,
        /// To be written before, if there is anything: the other end learns from it why it is
        /// refused. It is not worth waiting for long.
        last_words: Vec<u8>,
    },
    /// There may be bytes to write: ask [`Mesh::poll_transmit`] until it has none.
    WantsWrite(LinkId),
    /// For the data half, in this order.
    Data(Command),
    /// The direct peers have been changed; these are they, as the user wrote them.
    TargetsChanged(Vec<String>),
}

/// What the owners of channels have to know of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// The other peers that messages can be sent to.
    pub peers: BTreeMap<PeerName, Member>,
    /// How many direct peers have not turned out to be ourselves or to bear our name.
    pub target_count: usize,
}

/// A peer that messages can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Whether it has a short id. All have one that are younger than protocol version 2.
    pub has_short_id: bool,
}

/// Why an owner's unicast could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UnicastError {
    /// No such peer, or no way to it.
    #[error("no route to peer {0}")]
    NoRoute(PeerName),
}

/// The UID of a [`Mesh`] that is made with this seed.
pub fn uid_of(seed: [u8; 32]) -> PeerUid {
    draw_uid(&mut StdRng::from_seed(seed))
}

fn draw_uid(rng: &mut StdRng) -> PeerUid {
    loop {
        // 0 stands for "unknown" in the records of others.
        let uid = rng.next_u64();
        if uid != 0 {
            return PeerUid(uid);
        }
    }
}

/// The control half of a router. See the module.
pub struct Mesh {
    config: MeshConfig,
    local: Local,
    rng: StdRng,
    peers: Peers,
    routes: Arc<Routes>,
    channels: Channels,
    connector: Connector,
    links: BTreeMap<LinkId, Link>,
    /// The connections that are part of the mesh.
    by_peer: BTreeMap<PeerName, LinkId>,
    next_link: u64,
    outputs: VecDeque<Output>,
    waiting: Waiting,
    /// Peers to be sent with our own record in the next topology update.
    changed: BTreeSet<PeerName>,
    update_at: Option<Instant>,
    routes_at: Option<Instant>,
    collect_at: Option<Instant>,
    gossip_at: Instant,
    /// What the connector wants to be called for, as of the last call.
    connector_at: Option<Instant>,
    /// The connector has to look at connections and topology again.
    survey: bool,
    stopped: bool,
    terminations: u64,
}

impl Mesh {
    /// A peer alone in its mesh. `seed` must come from a good source: session keys, our
    /// UID and the numbers of connections are drawn from it.
    pub fn new(config: MeshConfig, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let uid = draw_uid(&mut rng);
        let short_id = ShortId(rng.random_range(0..ShortId::COUNT));
        let peers = Peers::new(config.name, config.nickname.as_str(), uid, short_id);
        let routes = Arc::new(Routes::calculate(&peers));
        let local = Local {
            name: config.name,
            uid,
            nickname: config.nickname.clone(),
            short_id: Some(short_id),
            password: config.password.clone(),
            versions: config.versions,
            overlays: config.overlays.clone(),
        };
        Self {
            local,
            peers,
            channels: Channels::new(rng.next_u64()),
            connector: Connector::new(config.port, config.discovery),
            links: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            next_link: 0,
            outputs: VecDeque::from([Output::Data(Command::Routes(routes.clone()))]),
            routes,
            waiting: Waiting::default(),
            changed: BTreeSet::new(),
            update_at: None,
            routes_at: None,
            collect_at: None,
            gossip_at: now + GOSSIP_INTERVAL,
            connector_at: None,
            survey: false,
            stopped: false,
            terminations: 0,
            rng,
            config,
        }
    }

    /// Our own name.
    pub fn name(&self) -> PeerName {
        self.config.name
    }

    /// Our number in this life.
    pub fn uid(&self) -> PeerUid {
        self.local.uid
    }

    /// What we believe about all peers.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The routes in force.
    pub fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    // ------------------------------------------------------------ what users want

    /// Adds direct peers, each as `host[:port]`, after dropping all others if `replace`. Changes
    /// nothing if one of them is malformed.
    pub fn connect(
        &mut self,
        targets: &[String],
        replace: bool,
        now: Instant,
    ) -> Result<(), BadTarget> {
        self.connector.connect(targets, replace, now)?;
        self.targets_changed();
        self.settle(now);
        Ok(())
    }

    /// Drops direct peers from the list, by the text with which they were added. Live connections
    /// stay.
    pub fn forget(&mut self, targets: &[String], now: Instant) {
        self.connector.forget(targets);
        self.targets_changed();
        self.settle(now);
    }

    fn targets_changed(&mut self) {
        let targets = self.targets();
        tracing::info!(?targets, "direct peers changed");
        self.outputs.push_back(Output::TargetsChanged(targets));
    }

    /// The direct peers, as the user wrote them, sorted.
    pub fn targets(&self) -> Vec<String> {
        self.connector.targets()
    }

    /// How many direct peers have not turned out to be ourselves or to bear our name.
    pub fn active_target_count(&self) -> usize {
        self.connector.active_count()
    }

    /// The peers that messages can be sent to, and what the owners of channels have to know of them.
    pub fn members(&self) -> Members {
        let others = self.peers.iter().filter(|peer| {
            peer.name != self.config.name && self.routes.unicast_all(peer.name).is_some()
        });
        Members {
            peers: others
                .map(|peer| {
                    let member = Member {
                        has_short_id: peer.short_id.is_some(),
                    };
                    (peer.name, member)
                })
                .collect(),
            target_count: self.active_target_count(),
        }
    }

    /// Whether all that was to be sent has been handed out by [`Self::poll_transmit`].
    pub fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.links.values().all(Link::is_quiet)
    }

    /// Everything there is to tell.
    pub fn status(&self, now: Instant) -> MeshStatus {
        report::status(self, now)
    }

    // ------------------------------------------------------------ what channel owners want

    /// Plugs in the owner of a channel.
    pub fn register_channel(
        &mut self,
        name: &str,
        owner: Box<dyn GossipChannel>,
    ) -> Result<(), ChannelTaken> {
        self.channels.register(name, owner)
    }

    /// Sends data of a channel to some neighbours, who pass on what is new to them.
    pub fn gossip(&mut self, channel: &str, data: Box<dyn GossipData>) {
        self.send_gossip(channel.into(), Pending::Client(data));
    }

    /// Sends data of a channel to all peers.
    pub fn broadcast(&mut self, channel: &str, data: Box<dyn GossipData>) {
        self.send_broadcast(channel.into(), Pending::Client(data));
    }

    /// Sends a message of a channel to one peer. It may get lost on the way.
    pub fn unicast(
        &mut self,
        channel: &str,
        destination: PeerName,
        payload: &[u8],
    ) -> Result<(), UnicastError> {
        self.send_unicast(channel, destination, payload)
    }

    // ------------------------------------------------------------ what happens outside

    /// Answers [`Output::Resolve`].
    pub fn handle_resolved(
        &mut self,
        host: &str,
        answer: Result<Vec<IpAddr>, String>,
        now: Instant,
    ) {
        if let Err(error) = &answer {
            tracing::info!("cannot resolve {host}: {error}");
        }
        self.connector
            .handle_resolved(host, answer, now, &mut self.rng);
        self.settle(now);
    }

    /// Somebody has connected to us. `local` is the address at which.
    pub fn handle_accepted(
        &mut self,
        remote: SocketAddr,
        local: SocketAddr,
        now: Instant,
    ) -> LinkId {
        let id = self.accept(remote, local, now);
        self.settle(now);
        id
    }

    /// Answers [`Output::Dial`], with the local address of the new connection.
    pub fn handle_dialled(
        &mut self,
        link: LinkId,
        result: Result<SocketAddr, String>,
        now: Instant,
    ) {
        self.dialled(link, result, now);
        self.settle(now);
    }

    /// Bytes have come in.
    pub fn handle_bytes(&mut self, link: LinkId, bytes: &[u8], now: Instant) {
        if let Some(connection) = self.links.get_mut(&link).and_then(Link::connection) {
            connection.handle_bytes(bytes, now);
            self.drain_connection(link, now);
            self.settle(now);
        }
    }

    /// The connection is closed, or broken.
    pub fn handle_closed(&mut self, link: LinkId, reason: String, now: Instant) {
        self.hung_up(link, reason, now);
        self.settle(now);
    }

    /// The data half has something to say about a link.
    pub fn handle_data_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Established(link) => self.establish(link, now),
            Event::Failed(link, error) => {
                self.end(link, links::End::broken(error.to_string()), now);
            }
            Event::Control(link, control) => self.send_control(link, control),
        }
        self.settle(now);
    }

    /// Does what is due. Call it at [`Self::poll_timeout`], or at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let late: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| due(link.poll_timeout()))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.link_timeout(id, now);
        }
        if due(self.collect_at) {
            self.collect_garbage(now);
        }
        if due(self.routes_at) {
            self.calculate_routes();
        }
        if due(self.update_at) {
            self.send_update();
        }
        if self.gossip_at <= now {
            // Not one round per period missed: after a pause one is enough.
            while self.gossip_at <= now {
                self.gossip_at += GOSSIP_INTERVAL;
            }
            self.send_all_gossip();
        }
        self.settle(now);
    }

    /// When to call [`Self::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.stopped {
            return None;
        }
        let links = self.links.values().filter_map(Link::poll_timeout);
        [
            self.collect_at,
            self.routes_at,
            self.update_at,
            Some(self.gossip_at),
            self.connector_at,
        ]
        .into_iter()
        .flatten()
        .chain(links)
        .min()
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next bytes for a connection, to be written before asking again. `None`: nothing now; an
    /// [`Output::WantsWrite`] will tell when there is.
    pub fn poll_transmit(&mut self, link: LinkId) -> Option<Vec<u8>> {
        self.links.get_mut(&link)?.poll_transmit(&self.peers)
    }

    /// Drops all connections, and does nothing more.
    pub fn shutdown(&mut self, now: Instant) {
        self.stopped = true;
        while let Some((&link, _)) = self.links.first_key_value() {
            self.end(link, links::End::broken("shutting down".to_owned()), now);
        }
    }

    // ------------------------------------------------------------ afterwards

    /// Lets the connector look and act until it is content.
    fn settle(&mut self, now: Instant) {
        if self.stopped {
            return;
        }
        loop {
            if self.survey || self.connector.needs_survey() {
                self.survey = false;
                self.survey(now);
            } else if self.connector_at.is_some_and(|at| at <= now) {
                self.connector.handle_timeout(now);
            } else {
                return;
            }
            while let Some(action) = self.connector.poll_action() {
                match action {
                    Action::Resolve { host } => self.outputs.push_back(Output::Resolve { host }),
                    Action::Dial {
                        address,
                        accept_new,
                    } => self.dial(address, accept_new, now),
                }
            }
            self.connector_at = self.connector.poll_timeout();
        }
    }

    fn survey(&mut self, now: Instant) {
        let own: Vec<OwnConnection> = self
            .by_peer
            .iter()
            .filter_map(|(&peer, id)| {
                let link = self.links.get(id)?;
                Some(OwnConnection {
                    peer,
                    remote: link.remote,
                    outbound: link.outbound,
                })
            })
            .collect();
        // In a full mesh there is nobody to discover.
        let look = self.connector.discovery() && self.by_peer.len() + 1 < self.peers.len();
        let others = self
            .peers
            .iter()
            .filter(|peer| look && peer.name != self.config.name);
        let sightings = others
            .flat_map(|peer| &peer.connections)
            .filter(|seen| {
                seen.remote != self.config.name && !self.by_peer.contains_key(&seen.remote)
            })
            .filter_map(|seen| {
                Some(Sighting {
                    peer: seen.remote,
                    address: seen.address.socket_addr()?,
                    outbound: seen.outbound,
                })
            });
        self.connector.survey(&own, sightings, now);
    }

    /// Dials, unless we have connections enough.
    fn dial(&mut self, address: SocketAddr, accept_new: bool, now: Instant) {
        if let Err(error) = self.check_limit() {
            tracing::debug!("->[{address}] not dialled: {error}");
            self.connector
                .handle_ended(address, Ending::Failed, error, now, &mut self.rng);
            return;
        }
        let link = self.new_link_id();
        tracing::info!("->[{address}] attempting connection");
        self.links
            .insert(link, Link::dialling(address, accept_new, now));
        self.outputs.push_back(Output::Dial {
            link,
            addr: address,
        });
    }

    fn check_limit(&self) -> Result<(), String> {
        let limit = self.config.conn_limit;
        if limit != 0 && self.by_peer.len() >= limit {
            return Err(format!("Connection limit reached ({limit})"));
        }
        Ok(())
    }

    fn new_link_id(&mut self) -> LinkId {
        self.next_link += 1;
        LinkId(self.next_link)
    }

    /// Wakes the writer of a link, once.
    fn wake(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id)
            && link.needs_wake()
        {
            self.outputs.push_back(Output::WantsWrite(id));
        }
    }
}
