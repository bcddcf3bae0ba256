//! A network of engines and scripted neighbours in virtual time: no latency, no loss, everything in
//! order.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use proto::{PeerName, PeerUid, ShortId};
use tracing::field::{Field, Visit};

use crate::LinkId;
use crate::connection::{Connection, ConnectionEvent, Introduction, Local, Role};
use crate::constants::PORT;
use crate::crypto::session::Password;
use crate::dataplane::{Command, Event};
use crate::mesh::{Mesh, MeshConfig, Output};
use crate::overlay::negotiate::SLEEVE;
use crate::status::{ConnectionState, ConnectionStatus};
use crate::topology::Peers;
use crate::wire::control::Message;
use crate::wire::intro::Versions;

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn peer(number: usize) -> PeerName {
    PeerName::from_u64(number as u64).unwrap()
}

/// Hosts are numbered from 1; so are the names of their peers.
pub(super) fn address(host: usize) -> SocketAddr {
    SocketAddr::new([10, 0, 0, u8::try_from(host).unwrap()].into(), PORT)
}

pub(super) fn config(host: usize) -> MeshConfig {
    MeshConfig {
        name: peer(host),
        nickname: format!("host{host}"),
        password: None,
        versions: Versions::default(),
        overlays: vec![SLEEVE.to_owned()],
        port: PORT,
        discovery: true,
        conn_limit: 200,
        trusted_subnets: Vec::new(),
    }
}

pub(super) fn password(text: &str) -> Option<Password> {
    Password::new(text.as_bytes())
}

/// What a scripted neighbour says of itself.
pub(super) fn local(number: usize) -> Local {
    Local {
        name: peer(number),
        uid: PeerUid(1000 + number as u64),
        nickname: format!("probe{number}"),
        short_id: Some(ShortId(u16::try_from(number).unwrap())),
        password: None,
        versions: Versions::default(),
        overlays: vec![SLEEVE.to_owned()],
    }
}

/// The records in a topology payload: name, version, and the far ends of its connections with
/// whether they are established.
pub(super) type Records = BTreeSet<(PeerName, u64, Vec<(PeerName, bool)>)>;

pub(super) fn records(payload: &[u8]) -> Records {
    let nobody = PeerName::from_u64(u64::MAX >> 16).unwrap();
    let mut peers = Peers::new(nobody, "", PeerUid(1), ShortId(0));
    let mut rng = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(0);
    let applied = peers.apply(payload, &mut rng).unwrap();
    applied
        .named
        .iter()
        .map(|&name| {
            let record = peers.get(name).unwrap();
            let listed = record.connections.iter();
            let listed = listed.map(|listed| (listed.remote, listed.established));
            (name, record.version, listed.collect())
        })
        .collect()
}

/// Lines logged at level info and above.
#[derive(Default)]
pub(super) struct Log(Mutex<Vec<String>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

/// One for the whole process: the interest of several subscribers in a line is cached in one place,
/// and tests run side by side. Lines go to the host whose engine is being called on the thread.
struct LogSubscriber;

thread_local! {
    static LOGGING: RefCell<Option<Arc<Log>>> = const { RefCell::new(None) };
}

impl Log {
    fn during<R>(self: &Arc<Self>, call: impl FnOnce() -> R) -> R {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| tracing::subscriber::set_global_default(LogSubscriber).unwrap());
        LOGGING.set(Some(self.clone()));
        let result = call();
        LOGGING.set(None);
        result
    }
}

impl tracing::Subscriber for LogSubscriber {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        LOGGING.with_borrow(|log| {
            if let Some(log) = log {
                let mut text = Text(String::new());
                event.record(&mut text);
                log.0.lock().unwrap().push(text.0);
            }
        });
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

pub(super) struct Host {
    pub(super) mesh: Option<Mesh>,
    config: MeshConfig,
    seed: u8,
    log: Arc<Log>,
    links: BTreeMap<LinkId, (usize, usize)>,
    pub(super) commands: Vec<Command>,
    pub(super) targets_changed: Vec<Vec<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Party {
    Host(usize, LinkId),
    Probe(usize),
    Gone,
}

struct Pipe {
    ends: [Party; 2],
    confirmed: [bool; 2],
}

/// A scripted neighbour: one connection, nothing behind it.
pub(super) struct Probe {
    /// `None`: bytes as the test has them.
    pub(super) connection: Option<Connection>,
    pipe: usize,
    side: usize,
    pub(super) introduction: Option<Introduction>,
    pub(super) messages: Vec<Message>,
    pub(super) bytes: Vec<u8>,
    /// Why its connection ended.
    pub(super) closed: Option<String>,
}

enum Delivery {
    Bytes(Vec<u8>),
    Close,
}

pub(super) struct Net {
    pub(super) now: Instant,
    hosts: BTreeMap<usize, Host>,
    pub(super) probes: Vec<Probe>,
    pipes: Vec<Pipe>,
    deliveries: VecDeque<(usize, usize, Delivery)>,
    /// Dials that wait for `release_dials`, if `hold_dials`.
    held: Vec<(usize, LinkId, SocketAddr)>,
    pub(super) hold_dials: bool,
    /// Whether overlays work as soon as they are confirmed.
    pub(super) overlays_work: bool,
    /// Probes that accept connections, by address.
    listeners: BTreeMap<SocketAddr, (Local, u64)>,
    pub(super) names: BTreeMap<String, Vec<IpAddr>>,
    pub(super) dial_count: usize,
    next_port: u16,
}

impl Net {
    pub(super) fn new() -> Self {
        Self {
            now: Instant::now(),
            hosts: BTreeMap::new(),
            probes: Vec::new(),
            pipes: Vec::new(),
            deliveries: VecDeque::new(),
            held: Vec::new(),
            hold_dials: false,
            overlays_work: true,
            listeners: BTreeMap::new(),
            names: BTreeMap::new(),
            dial_count: 0,
            next_port: 40000,
        }
    }

    /// Hosts 1 to `count` with the usual configuration.
    pub(super) fn with_hosts(count: usize) -> Self {
        let mut net = Self::new();
        for host in 1..=count {
            net.add(host, config(host));
        }
        net
    }

    pub(super) fn add(&mut self, host: usize, config: MeshConfig) {
        let log = Arc::new(Log::default());
        let state = Host {
            mesh: None,
            config,
            seed: 0,
            log,
            links: BTreeMap::new(),
            commands: Vec::new(),
            targets_changed: Vec::new(),
        };
        self.hosts.insert(host, state);
        self.start(host);
    }

    /// Gives a host a new life.
    pub(super) fn start(&mut self, host: usize) {
        let now = self.now;
        let state = self.hosts.get_mut(&host).unwrap();
        state.seed += 1;
        let mut seed = [state.seed; 32];
        seed[0] = u8::try_from(host).unwrap();
        state.mesh = Some(Mesh::new(state.config.clone(), seed, now));
        self.settle();
    }

    /// Takes a host down; the others see their connections reset.
    pub(super) fn stop(&mut self, host: usize) {
        let state = self.hosts.get_mut(&host).unwrap();
        state.mesh = None;
        for (pipe, side) in std::mem::take(&mut state.links).into_values() {
            self.pipes[pipe].ends[side] = Party::Gone;
            self.deliveries.push_back((pipe, 1 - side, Delivery::Close));
        }
        self.settle();
    }

    pub(super) fn host(&self, host: usize) -> &Host {
        &self.hosts[&host]
    }

    pub(super) fn mesh(&self, host: usize) -> &Mesh {
        self.hosts[&host].mesh.as_ref().unwrap()
    }

    /// Calls the engine of a host, then lets things happen.
    pub(super) fn call<R>(&mut self, host: usize, call: impl FnOnce(&mut Mesh, Instant) -> R) -> R {
        let result = self.call_only(host, call);
        self.settle();
        result
    }

    fn call_only<R>(&mut self, host: usize, call: impl FnOnce(&mut Mesh, Instant) -> R) -> R {
        let now = self.now;
        let state = self.hosts.get_mut(&host).unwrap();
        let mesh = state.mesh.as_mut().unwrap();
        state.log.during(|| call(mesh, now))
    }

    pub(super) fn connect(&mut self, host: usize, target: &str) {
        let target = [target.to_owned()];
        self.call(host, |mesh, now| mesh.connect(&target, false, now))
            .unwrap();
    }

    /// Makes host `from` dial host `to`.
    pub(super) fn join(&mut self, from: usize, to: usize) {
        self.connect(from, &address(to).ip().to_string());
    }

    /// Whether a line with this text was logged by the host since the last look; forgets the log.
    pub(super) fn logged(&self, host: usize, text: &str) -> bool {
        let lines = std::mem::take(&mut *self.hosts[&host].log.0.lock().unwrap());
        let found = lines.iter().any(|line| line.contains(text));
        if !found {
            println!(
                "host {host} did not log {text:?}, but:\n{}",
                lines.join("\n")
            );
        }
        found
    }

    /// The connections and targets of a host.
    pub(super) fn connections(&self, host: usize) -> Vec<ConnectionStatus> {
        self.mesh(host).status(self.now).connections
    }

    /// Peers to which a host has a connection in this state.
    pub(super) fn peers_in(&self, host: usize, state: ConnectionState) -> Vec<PeerName> {
        self.connections(host)
            .into_iter()
            .filter(|connection| connection.state == state)
            .filter_map(|connection| connection.peer)
            .map(|(peer, _)| peer)
            .collect()
    }

    pub(super) fn established(&self, host: usize) -> Vec<PeerName> {
        self.peers_in(host, ConnectionState::Established)
    }

    /// The link of `host` to the peer called `number`.
    pub(super) fn link(&self, host: usize, number: usize) -> LinkId {
        self.mesh(host).by_peer[&peer(number)]
    }

    /// Cuts the connection between a host and the peer called `number`, as a reset would.
    pub(super) fn cut(&mut self, host: usize, number: usize) {
        let (pipe, _) = self.hosts[&host].links[&self.link(host, number)];
        self.deliveries.push_back((pipe, 0, Delivery::Close));
        self.deliveries.push_back((pipe, 1, Delivery::Close));
        self.settle();
    }

    // ------------------------------------------------------------ scripted neighbours

    /// A neighbour that dials `host` from `remote`.
    pub(super) fn probe(&mut self, host: usize, remote: SocketAddr, local: &Local) -> usize {
        self.probe_with_id(host, remote, local, 7)
    }

    pub(super) fn probe_with_id(
        &mut self,
        host: usize,
        remote: SocketAddr,
        local: &Local,
        conn_id: u64,
    ) -> usize {
        let connection = Connection::new(Role::Dialler, local, conn_id, [9; 32], false, self.now);
        self.open_probe(host, remote, Some(connection))
    }

    /// A neighbour that dials `host` and says what the test makes it say.
    pub(super) fn raw_probe(&mut self, host: usize, remote: SocketAddr) -> usize {
        self.open_probe(host, remote, None)
    }

    fn open_probe(
        &mut self,
        host: usize,
        remote: SocketAddr,
        connection: Option<Connection>,
    ) -> usize {
        let pipe = self.pipes.len();
        let id = self.probes.len();
        let link = self.call_only(host, |mesh, now| {
            mesh.handle_accepted(remote, address(host), now)
        });
        self.hosts
            .get_mut(&host)
            .unwrap()
            .links
            .insert(link, (pipe, 1));
        self.pipes.push(Pipe {
            ends: [Party::Probe(id), Party::Host(host, link)],
            confirmed: [true, false],
        });
        self.probes.push(Probe::new(connection, pipe, 0));
        self.settle();
        id
    }

    /// A neighbour that waits to be dialled at `address`, with this connection number.
    pub(super) fn listen(&mut self, address: SocketAddr, local: Local, conn_id: u64) {
        self.listeners.insert(address, (local, conn_id));
    }

    pub(super) fn probe_sends(&mut self, probe: usize, message: &Message) {
        let connection = self.probes[probe].connection.as_mut().unwrap();
        connection.send(message).unwrap();
        self.settle();
    }

    pub(super) fn probe_sends_bytes(&mut self, probe: usize, bytes: Vec<u8>) {
        let (pipe, side) = (self.probes[probe].pipe, self.probes[probe].side);
        self.deliveries
            .push_back((pipe, 1 - side, Delivery::Bytes(bytes)));
        self.settle();
    }

    pub(super) fn probe_hangs_up(&mut self, probe: usize) {
        let (pipe, side) = (self.probes[probe].pipe, self.probes[probe].side);
        self.pipes[pipe].ends[side] = Party::Gone;
        self.deliveries.push_back((pipe, 1 - side, Delivery::Close));
        self.settle();
    }

    /// The messages that a probe has received since the last look, heartbeats left out.
    pub(super) fn taken(&mut self, probe: usize) -> Vec<Message> {
        let messages = std::mem::take(&mut self.probes[probe].messages);
        let real = |message: &Message| *message != Message::Heartbeat;
        messages.into_iter().filter(real).collect()
    }

    // ------------------------------------------------------------ time

    /// Lets time pass, from deadline to deadline.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let hosts = self.hosts.values().filter_map(|host| host.mesh.as_ref());
            let probes = self.probes.iter();
            let probes = probes.filter_map(|probe| probe.connection.as_ref()?.poll_timeout());
            let due = hosts.filter_map(Mesh::poll_timeout).chain(probes).min();
            let Some(due) = due.filter(|due| *due <= until) else {
                break;
            };
            self.now = self.now.max(due);
            let running: Vec<usize> = self.hosts.keys().copied().collect();
            for host in running {
                let late = self.hosts[&host].mesh.as_ref().and_then(Mesh::poll_timeout);
                if late.is_some_and(|at| at <= self.now) {
                    self.call_only(host, Mesh::handle_timeout);
                    let next = self.hosts[&host].mesh.as_ref().and_then(Mesh::poll_timeout);
                    assert!(next.is_none_or(|at| at > self.now), "host {host} spins");
                }
            }
            for probe in &mut self.probes {
                if let Some(connection) = &mut probe.connection
                    && connection.poll_timeout().is_some_and(|at| at <= self.now)
                {
                    connection.handle_timeout(self.now);
                }
            }
            self.settle();
        }
        self.now = until;
    }

    /// Lets happen what happens without time.
    pub(super) fn settle(&mut self) {
        loop {
            let mut moved = false;
            let running: Vec<usize> = self.hosts.keys().copied().collect();
            for host in running {
                moved |= self.drain_host(host);
            }
            for probe in 0..self.probes.len() {
                moved |= self.drain_probe(probe);
            }
            while let Some((pipe, side, delivery)) = self.deliveries.pop_front() {
                moved = true;
                self.deliver(pipe, side, delivery);
            }
            if !moved {
                return;
            }
        }
    }

    pub(super) fn release_dials(&mut self) {
        self.hold_dials = false;
        for (host, link, to) in std::mem::take(&mut self.held) {
            self.dial(host, link, to);
        }
        self.settle();
    }

    fn drain_host(&mut self, host: usize) -> bool {
        let mut moved = false;
        loop {
            let state = self.hosts.get_mut(&host).unwrap();
            let Some(mesh) = state.mesh.as_mut() else {
                return moved;
            };
            let Some(output) = mesh.poll_output() else {
                return moved;
            };
            moved = true;
            match output {
                Output::Resolve { host: name } => {
                    let answer = self.names.get(&name).cloned();
                    let answer = answer.ok_or_else(|| "no such host".to_owned());
                    self.call_only(host, |mesh, now| mesh.handle_resolved(&name, answer, now));
                }
                Output::Dial { link, addr } if self.hold_dials => {
                    self.held.push((host, link, addr));
                }
                Output::Dial { link, addr } => self.dial(host, link, addr),
                Output::Close { link, last_words } => {
                    self.held.retain(|held| (held.0, held.1) != (host, link));
                    if let Some((pipe, side)) = state.links.remove(&link) {
                        self.pipes[pipe].ends[side] = Party::Gone;
                        let words = Delivery::Bytes(last_words);
                        self.deliveries.push_back((pipe, 1 - side, words));
                        self.deliveries.push_back((pipe, 1 - side, Delivery::Close));
                    }
                }
                Output::WantsWrite(link) => {
                    if let Some(&(pipe, side)) = state.links.get(&link) {
                        while let Some(bytes) = mesh.poll_transmit(link) {
                            let bytes = Delivery::Bytes(bytes);
                            self.deliveries.push_back((pipe, 1 - side, bytes));
                        }
                    }
                }
                Output::Data(command) => {
                    let confirmed = match command {
                        Command::Confirm(link) => state.links.get(&link).copied(),
                        _ => None,
                    };
                    state.commands.push(command);
                    if let Some((pipe, side)) = confirmed {
                        self.confirm(pipe, side);
                    }
                }
                Output::TargetsChanged(targets) => state.targets_changed.push(targets),
            }
        }
    }

    fn confirm(&mut self, pipe: usize, side: usize) {
        self.pipes[pipe].confirmed[side] = true;
        if self.pipes[pipe].confirmed != [true, true] || !self.overlays_work {
            return;
        }
        for end in self.pipes[pipe].ends {
            if let Party::Host(host, link) = end {
                let event = Event::Established(link);
                self.call_only(host, |mesh, now| mesh.handle_data_event(event, now));
            }
        }
    }

    fn dial(&mut self, host: usize, link: LinkId, to: SocketAddr) {
        self.dial_count += 1;
        self.next_port += 1;
        let from = SocketAddr::new(address(host).ip(), self.next_port);
        let pipe = self.pipes.len();
        let target = self
            .hosts
            .iter()
            .find(|(number, state)| address(**number) == to && state.mesh.is_some())
            .map(|(number, _)| *number);
        let far = if let Some(target) = target {
            let accepted = self.call_only(target, |mesh, now| mesh.handle_accepted(from, to, now));
            let links = &mut self.hosts.get_mut(&target).unwrap().links;
            links.insert(accepted, (pipe, 1));
            Party::Host(target, accepted)
        } else if let Some((local, conn_id)) = self.listeners.get(&to) {
            let connection =
                Connection::new(Role::Acceptor, local, *conn_id, [8; 32], false, self.now);
            self.probes.push(Probe::new(Some(connection), pipe, 1));
            Party::Probe(self.probes.len() - 1)
        } else {
            let refused = Err("connection refused".to_owned());
            self.call_only(host, |mesh, now| mesh.handle_dialled(link, refused, now));
            return;
        };
        self.pipes.push(Pipe {
            ends: [Party::Host(host, link), far],
            confirmed: [false, matches!(far, Party::Probe(_))],
        });
        let links = &mut self.hosts.get_mut(&host).unwrap().links;
        links.insert(link, (pipe, 0));
        self.call_only(host, |mesh, now| mesh.handle_dialled(link, Ok(from), now));
    }

    fn deliver(&mut self, pipe: usize, side: usize, delivery: Delivery) {
        match (self.pipes[pipe].ends[side], delivery) {
            (Party::Gone, _) => {}
            (Party::Host(host, link), Delivery::Bytes(bytes)) => {
                self.call_only(host, |mesh, now| mesh.handle_bytes(link, &bytes, now));
            }
            (Party::Host(host, link), Delivery::Close) => {
                self.pipes[pipe].ends[side] = Party::Gone;
                self.hosts.get_mut(&host).unwrap().links.remove(&link);
                let reason = "connection reset by peer".to_owned();
                self.call_only(host, |mesh, now| mesh.handle_closed(link, reason, now));
            }
            (Party::Probe(probe), Delivery::Bytes(bytes)) => {
                let now = self.now;
                let probe = &mut self.probes[probe];
                probe.bytes.extend_from_slice(&bytes);
                if let Some(connection) = &mut probe.connection {
                    connection.handle_bytes(&bytes, now);
                }
            }
            (Party::Probe(probe), Delivery::Close) => {
                self.pipes[pipe].ends[side] = Party::Gone;
                let probe = &mut self.probes[probe];
                let hung_up = "connection reset by peer";
                match &mut probe.connection {
                    Some(connection) => connection.handle_hangup(hung_up),
                    None => probe.closed = Some(hung_up.to_owned()),
                }
            }
        }
    }

    fn drain_probe(&mut self, id: usize) -> bool {
        let now = self.now;
        let probe = &mut self.probes[id];
        let (pipe, side) = (probe.pipe, probe.side);
        let Some(connection) = &mut probe.connection else {
            return false;
        };
        let mut moved = false;
        while let Some(event) = connection.poll_event() {
            moved = true;
            match event {
                ConnectionEvent::Introduced(introduction) => {
                    probe.introduction = Some(*introduction);
                    connection.admit(now);
                }
                ConnectionEvent::Message(message) => probe.messages.push(message),
                ConnectionEvent::Closed(error) => {
                    probe.closed = Some(error.to_string());
                    self.deliveries.push_back((pipe, 1 - side, Delivery::Close));
                }
            }
        }
        while let Some(bytes) = connection.poll_transmit() {
            moved = true;
            self.deliveries
                .push_back((pipe, 1 - side, Delivery::Bytes(bytes)));
        }
        moved
    }
}

impl Probe {
    fn new(connection: Option<Connection>, pipe: usize, side: usize) -> Self {
        Self {
            connection,
            pipe,
            side,
            introduction: None,
            messages: Vec::new(),
            bytes: Vec::new(),
            closed: None,
        }
    }
}
