//! Engines wired to each other in virtual time, over an underlay with faults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proto::{ConnectionUid, MacAddr, PeerName, PeerUid, ShortId};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};

use crate::LinkId;
use crate::crypto::session::SessionKey;
use crate::dataplane::{
    Command, DataOptions, DataPlane, DropReason, Entropy, Event, LinkConfig, OverlayControl,
    Transmit,
};
use crate::offload::Offload;
use crate::status::LinkStatus;
use crate::topology::{Peers, Routes};
use crate::wire::ethernet::Frame;

/// What the underlay does to datagrams.
#[derive(Debug, Clone, Copy)]
pub(super) struct Underlay {
    /// The kernel's path MTU: longer datagrams with DF are refused at once.
    pub(super) local_mtu: usize,
    /// What really gets through in one piece.
    pub(super) real_mtu: usize,
    /// Whether fragments get through.
    pub(super) fragments: bool,
    /// Chances of each datagram.
    pub(super) loss: f64,
    pub(super) duplication: f64,
    pub(super) corruption: f64,
    /// Time on the way, and how much of it is random.
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
}

impl Underlay {
    pub(super) fn with_mtu(mtu: usize) -> Self {
        Self {
            local_mtu: mtu,
            real_mtu: mtu,
            fragments: true,
            loss: 0.0,
            duplication: 0.0,
            corruption: 0.0,
            delay: Duration::from_micros(200),
            jitter: Duration::ZERO,
        }
    }
}

enum Item {
    Datagram { from: SocketAddr, bytes: Vec<u8> },
    Control(LinkId, OverlayControl),
}

pub(super) struct Node {
    pub(super) name: PeerName,
    pub(super) engine: DataPlane,
    pub(super) address: SocketAddr,
    /// Frames that came out on the local bridge.
    pub(super) bridge: Vec<Vec<u8>>,
    /// What the control half was told, but for control messages.
    pub(super) events: Vec<Event>,
    /// Datagrams sent: DF flag and bytes.
    pub(super) sent: Vec<(bool, Vec<u8>)>,
}

pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) nodes: Vec<Node>,
    pub(super) underlay: Underlay,
    /// The two ends of each link.
    links: BTreeMap<LinkId, (usize, usize)>,
    queue: BTreeMap<(Instant, u64), (usize, Item)>,
    queued: u64,
    rng: StdRng,
}

pub(super) fn peer(index: usize) -> PeerName {
    PeerName::from_u64(index as u64 + 1).unwrap()
}

pub(super) fn key() -> Option<SessionKey> {
    Some(SessionKey([42; 32]))
}

/// MAC address of container `number` at node `index`.
pub(super) fn mac(index: usize, number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, u8::try_from(index).unwrap() + 1, number])
}

/// Routes of each node in the graph with these edges, all established.
pub(super) fn routes(count: usize, edges: &[(usize, usize)]) -> Vec<Routes> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut all: Vec<Peers> = Vec::new();
    for index in 0..count {
        let id = u16::try_from(index).unwrap();
        let mut peers = Peers::new(peer(index), "", PeerUid(index as u64 + 1), ShortId(id));
        for &(a, b) in edges {
            let Some(other) = [(a, b), (b, a)].into_iter().find(|end| end.0 == index) else {
                continue;
            };
            let uid = PeerUid(other.1 as u64 + 1);
            peers
                .introduce(peer(other.1), uid, "", None, true, &mut rng)
                .unwrap();
            peers.add_connection(peer(other.1), "10.0.0.1:6783", a == index);
            peers.establish_connection(peer(other.1));
        }
        all.push(peers);
    }
    let payloads: Vec<_> = all
        .iter()
        .map(|peers| peers.encode([peers.ours().name]))
        .collect();
    for peers in &mut all {
        for payload in &payloads {
            peers.apply(payload, &mut rng).unwrap();
        }
    }
    all.iter().map(Routes::calculate).collect()
}

/// Secrets that are the same in every run.
pub(super) fn entropy(index: usize) -> Entropy {
    Box::new(StdRng::seed_from_u64(index as u64))
}

impl Net {
    /// `count` engines, not linked yet.
    pub(super) fn new(count: usize, underlay: Underlay, seed: u64) -> Self {
        Self::with_options(count, DataOptions::default(), underlay, seed)
    }

    /// The same with options.
    pub(super) fn with_options(
        count: usize,
        options: DataOptions,
        underlay: Underlay,
        seed: u64,
    ) -> Self {
        println!("seed {seed}");
        let now = Instant::now();
        let node = |index| Node {
            name: peer(index),
            engine: DataPlane::new(peer(index), options, entropy(index), now),
            address: SocketAddr::from(([10, 0, 0, u8::try_from(index).unwrap() + 1], 6783)),
            bridge: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
        };
        Self {
            now,
            nodes: (0..count).map(node).collect(),
            underlay,
            links: BTreeMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Engines linked by these edges (dialler, acceptor), with routes, settled.
    pub(super) fn linked(
        count: usize,
        edges: &[(usize, usize)],
        underlay: Underlay,
        key: Option<&SessionKey>,
    ) -> Self {
        let mut net = Self::new(count, underlay, 1);
        net.publish_routes(edges);
        for (index, &(dialler, acceptor)) in edges.iter().enumerate() {
            net.link(
                LinkId(index as u64),
                dialler,
                acceptor,
                key.cloned(),
                key.cloned(),
            );
        }
        net.run_for(Duration::from_secs(60));
        net
    }

    pub(super) fn publish_routes(&mut self, edges: &[(usize, usize)]) {
        for (index, routes) in routes(self.nodes.len(), edges).into_iter().enumerate() {
            self.command(index, Command::Routes(routes.into()));
        }
    }

    /// Adds and confirms a link on both ends, the dialler first.
    pub(super) fn link(
        &mut self,
        link: LinkId,
        dialler: usize,
        acceptor: usize,
        dialler_key: Option<SessionKey>,
        acceptor_key: Option<SessionKey>,
    ) {
        let keys = (dialler_key, acceptor_key);
        self.link_over(&["sleeve"], link, (dialler, acceptor), keys);
    }

    /// The same with these overlays in common.
    pub(super) fn link_over(
        &mut self,
        overlays: &[&str],
        link: LinkId,
        (dialler, acceptor): (usize, usize),
        (dialler_key, acceptor_key): (Option<SessionKey>, Option<SessionKey>),
    ) {
        self.links.insert(link, (dialler, acceptor));
        let ends = [
            (dialler, acceptor, dialler_key),
            (acceptor, dialler, acceptor_key),
        ];
        for (index, other, key) in ends {
            let outbound = index == dialler;
            let config = LinkConfig {
                link,
                peer: self.nodes[other].name,
                uid: ConnectionUid(0x1234_5678 + link.0),
                outbound,
                local: self.nodes[index].address,
                remote: outbound.then_some(self.nodes[other].address),
                key,
                overlays: overlays.iter().map(|&name| name.to_owned()).collect(),
            };
            self.command(index, Command::AddLink(Box::new(config)));
        }
        for index in [dialler, acceptor] {
            self.command(index, Command::Confirm(link));
        }
    }

    pub(super) fn command(&mut self, index: usize, command: Command) {
        self.nodes[index].engine.handle_command(command, self.now);
        self.nodes[index].engine.flush();
        self.drain(index);
    }

    /// The bridge of a node hands over frames in one batch.
    pub(super) fn capture(&mut self, index: usize, frames: &[Vec<u8>]) {
        for frame in frames {
            self.nodes[index]
                .engine
                .handle_frame(frame, &Offload::NONE, self.now);
        }
        self.nodes[index].engine.flush();
        self.drain(index);
    }

    /// The bridge of a node hands over a frame for which something is left to do.
    pub(super) fn capture_offloaded(&mut self, index: usize, frame: &[u8], offload: &Offload) {
        let engine = &mut self.nodes[index].engine;
        engine.handle_frame(frame, offload, self.now);
        engine.flush();
        self.drain(index);
    }

    /// A datagram comes in at a node, from wherever.
    pub(super) fn receive(&mut self, index: usize, from: SocketAddr, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut bytes = bytes.to_vec();
        let node = &mut self.nodes[index];
        let deliveries = node.engine.handle_datagram(from, &mut bytes, self.now);
        let frames: Vec<_> = deliveries
            .iter()
            .map(|delivery| bytes[delivery.range.clone()].to_vec())
            .collect();
        node.bridge.extend(frames.iter().cloned());
        node.engine.flush();
        self.drain(index);
        frames
    }

    /// Lets virtual time pass.
    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        let mut turns = 0;
        loop {
            let timers = self
                .nodes
                .iter_mut()
                .enumerate()
                .filter_map(|(index, node)| Some((node.engine.poll_timeout()?, index)));
            let timer = timers.min();
            let arrival = self.queue.keys().next().map(|key| key.0);
            let next = timer.map(|timer| timer.0).into_iter().chain(arrival).min();
            let Some(next) = next.filter(|&next| next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            turns += 1;
            assert!(turns < 2_000_000, "time stands still");
            if arrival == Some(next) {
                let (_, (index, item)) = self.queue.pop_first().unwrap();
                match item {
                    Item::Datagram { from, bytes } => {
                        self.receive(index, from, &bytes);
                    }
                    Item::Control(link, control) => {
                        self.command(index, Command::Control(link, control));
                    }
                }
            } else if let Some((_, index)) = timer {
                self.nodes[index].engine.handle_timeout(self.now);
                self.drain(index);
            }
        }
        self.now = end;
    }

    /// Takes all that a node has to say, as the IO side would.
    pub(super) fn drain(&mut self, index: usize) {
        loop {
            let mut sent = Vec::new();
            while let Some(transmit) = self.nodes[index].engine.poll_transmit() {
                let Transmit { link, to, df, .. } = transmit;
                sent.extend(
                    transmit
                        .datagrams()
                        .map(|bytes| (link, to, df, bytes.to_vec())),
                );
            }
            while let Some(frame) = self.nodes[index].engine.poll_frame() {
                let frame = frame.to_vec();
                self.nodes[index].bridge.push(frame);
            }
            while let Some(event) = self.nodes[index].engine.poll_event() {
                if let Event::Control(link, control) = event {
                    let (a, b) = self.links[&link];
                    let other = if a == index { b } else { a };
                    let at = self.now + self.underlay.delay;
                    self.push(at, other, Item::Control(link, control));
                } else {
                    self.nodes[index].events.push(event);
                }
            }
            if sent.is_empty() {
                return;
            }
            for (link, to, df, bytes) in sent {
                self.send(index, link, to, df, bytes);
            }
        }
    }

    fn push(&mut self, at: Instant, index: usize, item: Item) {
        self.queued += 1;
        self.queue.insert((at, self.queued), (index, item));
    }

    fn send(&mut self, index: usize, link: LinkId, to: SocketAddr, df: bool, mut bytes: Vec<u8>) {
        let underlay = self.underlay;
        let len = bytes.len() + 28;
        if df && len > underlay.local_mtu {
            let mtu = u16::try_from(underlay.local_mtu).unwrap();
            return self.nodes[index]
                .engine
                .handle_too_long(link, mtu, self.now);
        }
        self.nodes[index].sent.push((df, bytes.clone()));
        if len > underlay.real_mtu && (df || !underlay.fragments) {
            return;
        }
        let Some(target) = self.nodes.iter().position(|node| node.address == to) else {
            return;
        };
        let copies = if self.rng.random_bool(underlay.duplication) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            if self.rng.random_bool(underlay.loss) {
                continue;
            }
            if self.rng.random_bool(underlay.corruption) {
                let at = self.rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << self.rng.random_range(0..8);
            }
            let at = self.now + underlay.delay + underlay.jitter.mul_f64(self.rng.random());
            let item = Item::Datagram {
                from: self.nodes[index].address,
                bytes: bytes.clone(),
            };
            self.push(at, target, item);
        }
    }

    /// A host is somewhere else from now on.
    pub(super) fn move_to(&mut self, index: usize, address: SocketAddr) {
        self.nodes[index].address = address;
    }

    pub(super) fn drops(&self, index: usize, reason: DropReason) -> u64 {
        let status = self.nodes[index].engine.status(self.now);
        let drop = status.drops.iter().find(|drop| drop.0 == reason.name());
        drop.unwrap().1
    }

    /// Everything that a node has dropped, by reason.
    pub(super) fn all_drops(&self, index: usize) -> Vec<(&'static str, u64)> {
        let drops = self.nodes[index].engine.status(self.now).drops;
        drops.into_iter().filter(|drop| drop.1 > 0).collect()
    }

    pub(super) fn status(&self, index: usize) -> LinkStatus {
        self.nodes[index].engine.status(self.now).links.remove(0)
    }

    /// Takes the frames that came out on a bridge.
    pub(super) fn bridge(&mut self, index: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.nodes[index].bridge)
    }

    /// Lets all nodes know where the containers numbered 1 are: each sends a frame to all.
    pub(super) fn introduce_containers(&mut self) {
        for index in 0..self.nodes.len() {
            self.capture(index, &[arp(mac(index, 1), MacAddr::BROADCAST, 42)]);
        }
        self.run_for(Duration::from_secs(1));
        for index in 0..self.nodes.len() {
            self.bridge(index);
        }
    }
}

/// A frame that is not IPv4, of this length.
pub(super) fn arp(source: MacAddr, destination: MacAddr, len: usize) -> Vec<u8> {
    let mut frame = [&destination.0[..], &source.0, &[8, 6]].concat();
    frame.extend((frame.len()..len).map(|at| at.to_le_bytes()[0]));
    frame
}

/// An IPv4 frame whose packet has `len` bytes.
pub(super) fn ipv4(source: MacAddr, destination: MacAddr, df: bool, len: usize) -> Vec<u8> {
    let mut frame = [&destination.0[..], &source.0, &[8, 0]].concat();
    let total_len = u16::try_from(len).unwrap().to_be_bytes();
    let flags = if df { 0x40 } else { 0 };
    frame.extend([
        0x45,
        0,
        total_len[0],
        total_len[1],
        0xab,
        0xcd,
        flags,
        0,
        64,
        17,
        0,
        0,
    ]);
    frame.extend([10, 2, 1, 1, 10, 2, 1, 2]);
    frame.extend((20..len).map(|at| at.to_le_bytes()[0]));
    let view = Frame::new_checked(&frame).unwrap();
    assert_eq!(view.ipv4().unwrap().dont_fragment(), df);
    frame
}
