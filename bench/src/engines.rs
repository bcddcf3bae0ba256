//! Engines of the data plane back to back, without the kernel: all that benches know of their API.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use proto::{ConnectionUid, MacAddr, PeerName, PeerUid, ShortId};
use rand::SeedableRng;
use rand::rngs::StdRng;
use router::LinkId;
use router::crypto::session::SessionKey;
use router::dataplane::{Command, DataOptions, DataPlane, Event, LinkConfig};
use router::offload::Offload;
use router::topology::{Peers, Routes};

/// What the path between two engines takes.
pub const PATH_MTU: u16 = 1500;
/// IPv4 and UDP headers.
const HEADERS: usize = 28;
/// Port of the first engine; each has its own.
const PORT: u16 = 6783;

/// Engines with their links up, which know where the container of each is.
#[derive(Debug)]
pub struct Net {
    engines: Vec<DataPlane>,
    /// The two ends of each link, the dialler first.
    links: Vec<(usize, usize)>,
    now: Instant,
    wire: Wire,
}

/// Datagrams on their way. The buffers are kept.
#[derive(Debug, Default)]
struct Wire {
    /// Sender, address and bytes.
    datagrams: Vec<(usize, SocketAddr, Vec<u8>)>,
    used: usize,
}

impl Wire {
    fn push(&mut self, from: usize, to: SocketAddr, bytes: &[u8]) {
        if self.used == self.datagrams.len() {
            self.datagrams.push((from, to, Vec::new()));
        }
        if let Some(place) = self.datagrams.get_mut(self.used) {
            (place.0, place.1) = (from, to);
            place.2.clear();
            place.2.extend_from_slice(bytes);
            self.used += 1;
        }
    }
}

impl Net {
    /// So many engines, each linked to the next.
    ///
    /// # Errors
    ///
    /// When they do not come up with this overlay.
    pub fn chain(count: usize, overlay: &str, key: Option<&SessionKey>) -> Result<Self> {
        let links = (1..count).map(|other| (other - 1, other)).collect();
        Self::new(count, links, overlay, key)
    }

    /// One engine, the first, with so many neighbours that have no other.
    ///
    /// # Errors
    ///
    /// When they do not come up with this overlay.
    pub fn star(neighbours: usize, overlay: &str, key: Option<&SessionKey>) -> Result<Self> {
        let links = (1..=neighbours).map(|other| (0, other)).collect();
        Self::new(neighbours + 1, links, overlay, key)
    }

    /// So many pairs of engines.
    ///
    /// # Errors
    ///
    /// When they do not come up with this overlay.
    pub fn pairs(count: usize, overlay: &str, key: Option<&SessionKey>) -> Result<Self> {
        let links = (0..count).map(|pair| (2 * pair, 2 * pair + 1)).collect();
        Self::new(2 * count, links, overlay, key)
    }

    fn new(
        count: usize,
        links: Vec<(usize, usize)>,
        overlay: &str,
        key: Option<&SessionKey>,
    ) -> Result<Self> {
        let now = Instant::now();
        let engine = |index| -> Result<DataPlane> {
            let name = name(index)?;
            let entropy = Box::new(StdRng::seed_from_u64(name.as_u64()));
            Ok(DataPlane::new(name, DataOptions::default(), entropy, now))
        };
        let mut net = Self {
            engines: (0..count).map(engine).collect::<Result<_>>()?,
            links: links.clone(),
            now,
            wire: Wire::default(),
        };
        let routes = routes(count, &links)?;
        for (engine, routes) in net.engines.iter_mut().zip(routes) {
            engine.handle_command(Command::Routes(routes), now);
        }
        for (id, (dialler, acceptor)) in (0..).zip(links) {
            for (ours, other) in [(dialler, acceptor), (acceptor, dialler)] {
                let outbound = ours == dialler;
                let config = LinkConfig {
                    link: LinkId(id),
                    peer: name(other)?,
                    uid: ConnectionUid(7),
                    outbound,
                    local: address(ours)?,
                    remote: outbound.then(|| address(other)).transpose()?,
                    key: key.cloned(),
                    overlays: vec![overlay.to_owned()],
                };
                net.command(ours, Command::AddLink(Box::new(config)));
            }
            for end in [acceptor, dialler] {
                net.command(end, Command::Confirm(LinkId(id)));
            }
        }
        net.settle()?;
        for index in 0..count {
            let host = u16::try_from(index)?;
            let hello = frame(mac(host), MacAddr::BROADCAST, 64)?;
            net.send(index, &[hello])?;
            net.settle()?;
        }
        for engine in &net.engines {
            let status = engine.status(now);
            let is_up = status
                .links
                .iter()
                .all(|link| link.mtu < PATH_MTU && link.established && link.overlay == overlay);
            ensure!(is_up, "a link is not up: {:?}", status.links);
        }
        Ok(net)
    }

    fn command(&mut self, index: usize, command: Command) {
        if let Some(engine) = self.engines.get_mut(index) {
            engine.handle_command(command, self.now);
        }
    }

    /// Takes a batch of frames at an engine, and counts those that come out at others.
    ///
    /// # Errors
    ///
    /// When there is no such engine.
    pub fn carry(&mut self, from: usize, frames: &[Vec<u8>]) -> Result<usize> {
        self.send(from, frames)?;
        self.settle()
    }

    /// Hands over datagrams and control messages until there are none, and counts the frames that
    /// come out.
    fn settle(&mut self) -> Result<usize> {
        let mut delivered = 0;
        loop {
            let mut is_idle = true;
            for index in 0..self.engines.len() {
                is_idle &= !self.collect(index)?;
            }
            if is_idle && self.wire.used == 0 {
                return Ok(delivered);
            }
            delivered += self.deliver()?;
        }
    }

    fn send(&mut self, from: usize, frames: &[Vec<u8>]) -> Result<()> {
        let engine = self.engines.get_mut(from).context("no such engine")?;
        for frame in frames {
            engine.handle_frame(frame, &Offload::NONE, self.now);
        }
        engine.flush();
        Ok(())
    }

    /// Puts what an engine sends on the wire, and hands over its control messages. Whether there
    /// were any, or datagrams too long for the wire.
    fn collect(&mut self, index: usize) -> Result<bool> {
        let engine = self.engines.get_mut(index).context("no such engine")?;
        let mut too_long = Vec::new();
        while let Some(transmit) = engine.poll_transmit() {
            for datagram in transmit.datagrams() {
                if transmit.df && datagram.len() + HEADERS > usize::from(PATH_MTU) {
                    too_long.push(transmit.link);
                } else {
                    self.wire.push(index, transmit.to, datagram);
                }
            }
        }
        let mut controls = Vec::new();
        while let Some(event) = engine.poll_event() {
            if let Event::Control(link, control) = event {
                controls.push((link, control));
            }
        }
        let is_any = !too_long.is_empty() || !controls.is_empty();
        for link in too_long {
            engine.handle_too_long(link, PATH_MTU, self.now);
        }
        for (link, control) in controls {
            let ends = self.links.get(usize::try_from(link.0)?);
            let (dialler, acceptor) = *ends.context("no such link")?;
            let other = if index == dialler { acceptor } else { dialler };
            self.command(other, Command::Control(link, control));
        }
        Ok(is_any)
    }

    /// Delivers what is on the wire, and counts the frames that come out.
    fn deliver(&mut self) -> Result<usize> {
        let mut delivered = 0;
        let datagrams = self.wire.datagrams.iter_mut().take(self.wire.used);
        for (from, to, bytes) in datagrams {
            let index = usize::from(to.port() - PORT);
            let engine = self.engines.get_mut(index).context("no such engine")?;
            for delivery in engine.handle_datagram(address(*from)?, bytes, self.now) {
                black_box(bytes.get(delivery.range.clone()));
                delivered += 1;
            }
        }
        self.wire.used = 0;
        self.engines.iter_mut().for_each(DataPlane::flush);
        Ok(delivered)
    }

    /// Takes a batch of frames at an engine, and throws away the datagrams that it sends; returns
    /// how many.
    pub fn send_only(&mut self, from: usize, frames: &[Vec<u8>]) -> usize {
        let Some(engine) = self.engines.get_mut(from) else {
            return 0;
        };
        for frame in frames {
            engine.handle_frame(frame, &Offload::NONE, self.now);
        }
        engine.flush();
        let mut count = 0;
        while let Some(transmit) = engine.poll_transmit() {
            count += transmit.datagrams().map(black_box).count();
        }
        count
    }

    /// What the engines `from` send for these frames, to be received by their neighbour in this
    /// order.
    ///
    /// # Errors
    ///
    /// When there is no such engine.
    pub fn prepare(&mut self, from: &[usize], frames: &[Vec<u8>]) -> Result<Arriving> {
        let mut arriving = Arriving(Vec::new());
        for (index, frame) in from.iter().zip(frames) {
            self.send(*index, std::slice::from_ref(frame))?;
            self.collect(*index)?;
            let sent = self.wire.datagrams.iter().take(self.wire.used);
            arriving
                .0
                .extend(sent.map(|(from, _, bytes)| (*from, bytes.clone())));
            self.wire.used = 0;
        }
        Ok(arriving)
    }

    /// Takes the first engine out. The rest is of no use afterwards.
    pub fn remove_first(&mut self) -> DataPlane {
        self.engines.remove(0)
    }

    /// Receives what was prepared, once; returns the number of frames.
    ///
    /// # Errors
    ///
    /// When there is no such engine.
    pub fn receive(&mut self, at: usize, arriving: &mut Arriving) -> Result<usize> {
        let engine = self.engines.get_mut(at).context("no such engine")?;
        let mut delivered = 0;
        for (from, bytes) in &mut arriving.0 {
            for delivery in engine.handle_datagram(address(*from)?, bytes, self.now) {
                black_box(bytes.get(delivery.range.clone()));
                delivered += 1;
            }
        }
        Ok(delivered)
    }
}

/// Datagrams with their senders.
#[derive(Debug)]
pub struct Arriving(Vec<(usize, Vec<u8>)>);

/// Name of an engine.
///
/// # Errors
///
/// Never for numbers that there are engines of.
pub fn name(index: usize) -> Result<PeerName> {
    PeerName::from_u64(index as u64 + 1).context("not a name")
}

fn address(index: usize) -> Result<SocketAddr> {
    let port = PORT.checked_add(u16::try_from(index)?);
    Ok(SocketAddr::from((
        [10, 0, 0, 1],
        port.context("too many engines")?,
    )))
}

/// Address of the container of an engine.
pub const fn mac(host: u16) -> MacAddr {
    let [a, b] = host.to_be_bytes();
    MacAddr([2, 0, 0, 0, a, b])
}

/// An IPv4 frame with DF set.
///
/// # Errors
///
/// When it is too long for IPv4, or too short.
pub fn frame(source: MacAddr, destination: MacAddr, len: usize) -> Result<Vec<u8>> {
    let packet_len = len.checked_sub(14).context("shorter than a header")?;
    let mut frame = [&destination.0[..], &source.0, &[8, 0, 0x45, 0]].concat();
    frame.extend(u16::try_from(packet_len)?.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 2, 0, 1, 10, 2, 0, 2]);
    frame.resize(len, 0x55);
    Ok(frame)
}

/// Routes of each engine.
fn routes(count: usize, links: &[(usize, usize)]) -> Result<Vec<Arc<Routes>>> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut all: Vec<Peers> = Vec::new();
    for index in 0..count {
        let id = ShortId(u16::try_from(index)?);
        let mut peers = Peers::new(name(index)?, "", PeerUid(index as u64 + 1), id);
        for (dialler, acceptor) in links {
            let (other, outbound) = match index {
                _ if index == *dialler => (*acceptor, true),
                _ if index == *acceptor => (*dialler, false),
                _ => continue,
            };
            let (other_name, uid) = (name(other)?, PeerUid(other as u64 + 1));
            peers.introduce(other_name, uid, "", None, true, &mut rng)?;
            peers.add_connection(other_name, "10.0.0.1:6783", outbound);
            peers.establish_connection(other_name);
        }
        all.push(peers);
    }
    let payloads: Vec<_> = all
        .iter()
        .map(|peers| peers.encode([peers.ours().name]))
        .collect();
    for peers in &mut all {
        for payload in &payloads {
            peers.apply(payload, &mut rng)?;
        }
    }
    let routes = all.iter().map(|peers| Arc::new(Routes::calculate(peers)));
    Ok(routes.collect())
}
