//! Hosts, connections and virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use router::LinkId;
use router::crypto::session::Password;
use router::dataplane::{Command, Event as DataEvent};
use router::mesh::{Mesh, MeshConfig, Output};
use router::overlay::negotiate::SLEEVE;
use router::wire::intro::Versions;

use super::{Scenario, Summary, address, name};

/// Bytes that a connection takes per second.
const BANDWIDTH: f64 = 10e6;

/// How long nothing must change before all counts as at rest: a round of periodic gossip, and a
/// little more.
pub(super) const REST: Duration = Duration::from_secs(40);

/// How a host goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The process ends; its host resets the connections.
    Stop,
    /// The power fails; the others have to find out.
    PowerFailure,
}

/// A connection between two hosts; side 0 has dialled.
pub(super) struct Pipe {
    pub(super) ends: [End; 2],
    latency: Duration,
}

pub(super) struct End {
    pub(super) host: usize,
    life: u32,
    /// `None`: closed here, or not yet open.
    pub(super) link: Option<LinkId>,
    pub(super) confirmed: bool,
    pub(super) established: bool,
    /// Remote address as this end sees it.
    pub(super) remote: SocketAddr,
    writing: bool,
    /// Nothing arrives here before that.
    arrives_at: Instant,
    /// Sent to this end while a partition lasts.
    held: VecDeque<Vec<u8>>,
}

pub(super) struct Host {
    config: MeshConfig,
    targets: Vec<String>,
    pub(super) mesh: Option<Mesh>,
    life: u32,
    links: BTreeMap<LinkId, (PipeId, usize)>,
    dialling: BTreeSet<LinkId>,
    timer: Option<Instant>,
    next_port: u16,
    group: u32,
    /// Messages sent, by second.
    pub(super) sent: Vec<u32>,
}

pub(super) type PipeId = u64;

enum Event {
    Timer {
        host: usize,
    },
    /// A connection request arrives.
    Syn {
        host: usize,
        life: u32,
        link: LinkId,
        to: SocketAddr,
        latency: Duration,
    },
    /// The answer to it: a pipe, or a refusal.
    Dialled {
        host: usize,
        life: u32,
        link: LinkId,
        result: Result<PipeId, String>,
    },
    Arrive {
        pipe: PipeId,
        side: usize,
        bytes: Vec<u8>,
    },
    Reset {
        pipe: PipeId,
        side: usize,
    },
    Written {
        pipe: PipeId,
        side: usize,
    },
    Established {
        pipe: PipeId,
        side: usize,
    },
    Resolved {
        host: usize,
        life: u32,
        name: String,
    },
}

struct Scheduled {
    at: Instant,
    sequence: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// All hosts, and what is on its way between them.
pub struct World {
    scenario: Scenario,
    start: Instant,
    now: Instant,
    rng: StdRng,
    pub(super) hosts: Vec<Host>,
    pub(super) pipes: BTreeMap<PipeId, Pipe>,
    next_pipe: PipeId,
    events: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    pub(super) bytes: u64,
    dialling_stopped: bool,
    /// Addresses behind host names.
    names: BTreeMap<String, Vec<IpAddr>>,
}

impl World {
    /// Hosts of a scenario, all down, each with some others as targets, such that dialling
    /// alone connects them all.
    pub fn new(scenario: Scenario, seed: u64) -> Self {
        let now = Instant::now();
        let mut rng = StdRng::seed_from_u64(seed);
        let hosts = (0..scenario.host_count)
            .map(|index| {
                let mut targets = BTreeSet::new();
                while index > 0 && targets.len() < scenario.target_count.min(index) {
                    targets.insert(rng.random_range(0..index));
                }
                Host {
                    config: MeshConfig {
                        name: name(index),
                        nickname: format!("host{index}"),
                        password: Password::new(scenario.password.as_bytes()),
                        versions: Versions::default(),
                        overlays: vec![SLEEVE.into()],
                        port: super::PORT,
                        discovery: scenario.discovery,
                        conn_limit: scenario.conn_limit,
                        trusted_subnets: Vec::new(),
                    },
                    targets: targets
                        .into_iter()
                        .map(|target| address(target).ip().to_string())
                        .collect(),
                    mesh: None,
                    life: 0,
                    links: BTreeMap::new(),
                    dialling: BTreeSet::new(),
                    timer: None,
                    next_port: 32768,
                    group: 0,
                    sent: Vec::new(),
                }
            })
            .collect();
        Self {
            scenario,
            start: now,
            now,
            rng,
            hosts,
            pipes: BTreeMap::new(),
            next_pipe: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            bytes: 0,
            dialling_stopped: false,
            names: BTreeMap::new(),
        }
    }

    /// Number of hosts.
    pub fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// For whatever else a test draws.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// The engine of a host, if it is up.
    pub fn mesh(&self, host: usize) -> Option<&Mesh> {
        self.hosts.get(host)?.mesh.as_ref()
    }

    /// Makes `host` look up `name` as one of its targets.
    pub fn add_target(&mut self, host: usize, target: &str) {
        self.hosts[host].targets.push(target.to_owned());
    }

    /// What `name` resolves to from now on.
    pub fn set_name(&mut self, name: &str, hosts: &[usize]) {
        let addresses = hosts.iter().map(|&host| address(host).ip()).collect();
        self.names.insert(name.to_owned(), addresses);
    }

    /// Starts a host that is down. It gets a new UID.
    pub fn start(&mut self, host: usize) {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let now = self.now;
        let state = &mut self.hosts[host];
        assert!(state.mesh.is_none(), "host {host} is up");
        state.life += 1;
        let mut mesh = Mesh::new(state.config.clone(), seed, now);
        mesh.connect(&state.targets, true, now)
            .expect("targets are well-formed");
        state.mesh = Some(mesh);
        self.drain(host);
    }

    /// Takes a host down.
    pub fn stop(&mut self, host: usize, death: Death) {
        let state = &mut self.hosts[host];
        state.mesh = None;
        state.timer = None;
        state.dialling.clear();
        for (pipe, side) in std::mem::take(&mut state.links).into_values() {
            self.close_end(pipe, side, death == Death::Stop);
        }
    }

    /// Puts hosts into groups; connections between groups hang until [`heal`](Self::heal).
    pub fn partition(&mut self, group_count: u32) {
        for host in 0..self.hosts.len() {
            self.hosts[host].group = self.rng.random_range(0..group_count);
        }
    }

    /// Ends a partition: what was sent meanwhile arrives.
    pub fn heal(&mut self) {
        for host in &mut self.hosts {
            host.group = 0;
        }
        let pipes: Vec<PipeId> = self.pipes.keys().copied().collect();
        for pipe in pipes {
            for side in 0..2 {
                let held = match self.pipes.get_mut(&pipe) {
                    Some(state) => std::mem::take(&mut state.ends[side].held),
                    None => continue,
                };
                for bytes in held {
                    self.send(pipe, side, bytes);
                }
            }
        }
    }

    /// Breaks each connection with the given probability. Both ends notice.
    pub fn break_connections(&mut self, probability: f64) {
        let pipes: Vec<PipeId> = self.pipes.keys().copied().collect();
        for pipe in pipes {
            if self.rng.random_bool(probability) {
                self.schedule(Duration::ZERO, Event::Reset { pipe, side: 0 });
                self.schedule(Duration::ZERO, Event::Reset { pipe, side: 1 });
            }
        }
    }

    /// Lets time pass until no peer has anything new to tell of itself; then everybody must know the
    /// truth. `limit` bounds the wait.
    pub fn settle(&mut self, limit: Duration) -> Result<Summary, String> {
        let began = self.now;
        let mut changed_at = self.now;
        let mut versions = self.versions();
        while self.now - changed_at < REST {
            self.run(Duration::from_secs(1));
            let newer = self.versions();
            if newer != versions {
                versions = newer;
                changed_at = self.now;
            }
            if self.now - began > limit {
                return Err(format!("not at rest after {limit:?}"));
            }
        }
        let summary = self.verify()?;
        Ok(Summary {
            took: changed_at - began,
            ..summary
        })
    }

    fn versions(&self) -> Vec<u64> {
        let meshes = self.hosts.iter().filter_map(|host| host.mesh.as_ref());
        meshes.map(|mesh| mesh.peers().ours().version).collect()
    }

    /// From now on dials get no answer. Where peers may not have the connections that they want, they
    /// would dial for ever, and each attempt is part of the dialler's record until it is refused.
    pub fn stop_dialling(&mut self) {
        self.dialling_stopped = true;
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(Reverse(next)) = self.events.peek()
            && next.at <= until
        {
            let Some(Reverse(Scheduled { at, event, .. })) = self.events.pop() else {
                break;
            };
            self.now = at;
            self.handle(event);
        }
        self.now = until;
    }

    fn schedule(&mut self, delay: Duration, event: Event) {
        self.schedule_at(self.now + delay, event);
    }

    fn schedule_at(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse(Scheduled {
            at,
            sequence: self.sequence,
            event,
        }));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Timer { host } => {
                let state = &mut self.hosts[host];
                if state.timer.is_some_and(|at| at <= self.now) {
                    state.timer = None;
                    if let Some(mesh) = &mut state.mesh {
                        mesh.handle_timeout(self.now);
                        self.drain(host);
                    }
                }
            }
            Event::Syn {
                host,
                life,
                link,
                to,
                latency,
            } => self.request(host, life, link, to, latency),
            Event::Dialled {
                host,
                life,
                link,
                result,
            } => self.answer(host, life, link, result),
            Event::Arrive { pipe, side, bytes } => self.arrive(pipe, side, bytes),
            Event::Reset { pipe, side } => self.reset(pipe, side),
            Event::Written { pipe, side } => {
                if let Some(state) = self.pipes.get_mut(&pipe) {
                    state.ends[side].writing = false;
                    self.write(pipe, side);
                }
            }
            Event::Established { pipe, side } => {
                let Some(state) = self.pipes.get_mut(&pipe) else {
                    return;
                };
                let end = &mut state.ends[side];
                let (host, link) = (end.host, end.link);
                if let (Some(link), Some(mesh)) = (link, &mut self.hosts[host].mesh) {
                    end.established = true;
                    mesh.handle_data_event(DataEvent::Established(link), self.now);
                    self.drain(host);
                }
            }
            Event::Resolved { host, life, name } => {
                let answer = self.names.get(&name).cloned();
                let answer = answer.ok_or_else(|| "no such host".to_owned());
                let state = &mut self.hosts[host];
                if state.life == life
                    && let Some(mesh) = &mut state.mesh
                {
                    mesh.handle_resolved(&name, answer, self.now);
                    self.drain(host);
                }
            }
        }
    }

    /// Does what a host's engine wants, and sets its timer.
    fn drain(&mut self, host: usize) {
        loop {
            let state = &mut self.hosts[host];
            let life = state.life;
            let Some(mesh) = &mut state.mesh else { return };
            let Some(output) = mesh.poll_output() else {
                let timer = mesh.poll_timeout();
                if let Some(at) = timer
                    && state.timer.is_none_or(|set| at < set)
                {
                    state.timer = Some(at);
                    self.schedule_at(at.max(self.now), Event::Timer { host });
                }
                return;
            };
            match output {
                Output::Resolve { host: name } => {
                    let delay = Duration::from_millis(self.rng.random_range(1..30));
                    self.schedule(delay, Event::Resolved { host, life, name });
                }
                Output::Dial { link, addr } => {
                    state.dialling.insert(link);
                    let latency = self.rng.random_range(self.scenario.latency.clone());
                    let to = addr;
                    self.schedule(
                        latency,
                        Event::Syn {
                            host,
                            life,
                            link,
                            to,
                            latency,
                        },
                    );
                }
                Output::Close { link, last_words } => {
                    state.dialling.remove(&link);
                    if let Some((pipe, side)) = state.links.remove(&link) {
                        if !last_words.is_empty() {
                            self.send(pipe, 1 - side, last_words);
                        }
                        self.close_end(pipe, side, true);
                    }
                }
                Output::WantsWrite(link) => {
                    if let Some(&(pipe, side)) = state.links.get(&link) {
                        self.write(pipe, side);
                    }
                }
                Output::Data(Command::Confirm(link)) => {
                    if let Some(&(pipe, side)) = state.links.get(&link) {
                        self.confirm(pipe, side);
                    }
                }
                Output::Data(_) | Output::TargetsChanged(_) => {}
            }
        }
    }

    /// A connection request arrives where it is meant to.
    fn request(&mut self, host: usize, life: u32, link: LinkId, to: SocketAddr, latency: Duration) {
        let target = (0..self.hosts.len()).find(|&index| address(index) == to);
        let Some(target) = target else {
            let result = Err("no route to host".to_owned());
            self.schedule(
                latency,
                Event::Dialled {
                    host,
                    life,
                    link,
                    result,
                },
            );
            return;
        };
        if self.hosts[host].group != self.hosts[target].group || self.dialling_stopped {
            return; // lost; the dialler gives up by itself
        }
        if self.hosts[target].mesh.is_none() {
            let result = Err("connection refused".to_owned());
            self.schedule(
                latency,
                Event::Dialled {
                    host,
                    life,
                    link,
                    result,
                },
            );
            return;
        }
        let state = &mut self.hosts[host];
        state.next_port = state.next_port.checked_add(1).unwrap_or(32768);
        let from = SocketAddr::new(address(host).ip(), state.next_port);
        let pipe = self.next_pipe;
        self.next_pipe += 1;
        let end = |host: usize, life: u32, remote: SocketAddr| End {
            host,
            life,
            link: None,
            confirmed: false,
            established: false,
            remote,
            writing: false,
            arrives_at: self.now,
            held: VecDeque::new(),
        };
        let target_life = self.hosts[target].life;
        let ends = [end(host, life, to), end(target, target_life, from)];
        self.pipes.insert(pipe, Pipe { ends, latency });
        let result = Ok(pipe);
        self.schedule(
            latency,
            Event::Dialled {
                host,
                life,
                link,
                result,
            },
        );
        self.pipes.get_mut(&pipe).expect("just made").ends[0].arrives_at = self.now + latency;
        let now = self.now;
        let mesh = self.hosts[target].mesh.as_mut().expect("host is up");
        let accepted = mesh.handle_accepted(from, to, now);
        self.hosts[target].links.insert(accepted, (pipe, 1));
        self.pipes.get_mut(&pipe).expect("just made").ends[1].link = Some(accepted);
        self.drain(target);
    }

    /// The answer to a connection request arrives.
    fn answer(&mut self, host: usize, life: u32, link: LinkId, result: Result<PipeId, String>) {
        let state = &mut self.hosts[host];
        let wanted = state.life == life && state.dialling.remove(&link);
        let Some(mesh) = state.mesh.as_mut().filter(|_| wanted) else {
            if let Ok(pipe) = result {
                self.close_end(pipe, 0, true);
            }
            return;
        };
        match result {
            Ok(pipe) => {
                let Some(found) = self.pipes.get_mut(&pipe) else {
                    return;
                };
                found.ends[0].link = Some(link);
                state.links.insert(link, (pipe, 0));
                let local = found.ends[1].remote;
                mesh.handle_dialled(link, Ok(local), self.now);
            }
            Err(error) => mesh.handle_dialled(link, Err(error), self.now),
        }
        self.drain(host);
    }

    /// Puts bytes on their way to one end of a pipe.
    fn send(&mut self, pipe: PipeId, side: usize, bytes: Vec<u8>) {
        let jitter = self.rng.random_range(Duration::ZERO..=self.scenario.jitter);
        let Some(state) = self.pipes.get_mut(&pipe) else {
            return;
        };
        let at = self.now + state.latency + jitter;
        let end = &mut state.ends[side];
        end.arrives_at = end.arrives_at.max(at);
        let at = end.arrives_at;
        // Now and then in two pieces.
        if bytes.len() > 1 && self.rng.random_bool(0.2) {
            let cut = self.rng.random_range(1..bytes.len());
            let (head, tail) = bytes.split_at(cut);
            let (head, tail) = (head.to_vec(), tail.to_vec());
            self.schedule_at(
                at,
                Event::Arrive {
                    pipe,
                    side,
                    bytes: head,
                },
            );
            self.schedule_at(
                at,
                Event::Arrive {
                    pipe,
                    side,
                    bytes: tail,
                },
            );
        } else {
            self.schedule_at(at, Event::Arrive { pipe, side, bytes });
        }
    }

    fn arrive(&mut self, pipe: PipeId, side: usize, bytes: Vec<u8>) {
        let parted = self.parted(pipe);
        let Some(state) = self.pipes.get_mut(&pipe) else {
            return;
        };
        let end = &mut state.ends[side];
        if parted {
            end.held.push_back(bytes);
            return;
        }
        let (host, link) = (end.host, end.link);
        let state = &mut self.hosts[host];
        match (link, &mut state.mesh) {
            (Some(link), Some(mesh)) => {
                mesh.handle_bytes(link, &bytes, self.now);
                self.drain(host);
            }
            // Nobody knows this connection here. A host without power says nothing.
            (None, Some(_)) => self.schedule_reset(pipe, 1 - side),
            (_, None) => {}
        }
    }

    /// Takes what a host has to write on a connection, one message at a time.
    fn write(&mut self, pipe: PipeId, side: usize) {
        let second = usize::try_from(self.elapsed().as_secs()).expect("short runs");
        let Some(state) = self.pipes.get_mut(&pipe) else {
            return;
        };
        let end = &mut state.ends[side];
        if end.writing {
            return;
        }
        let host = &mut self.hosts[end.host];
        let (Some(link), Some(mesh)) = (end.link, &mut host.mesh) else {
            return;
        };
        let Some(bytes) = mesh.poll_transmit(link) else {
            return;
        };
        end.writing = true;
        if host.sent.len() <= second {
            host.sent.resize(second + 1, 0);
        }
        host.sent[second] += 1;
        self.bytes += bytes.len() as u64;
        #[expect(clippy::cast_precision_loss, reason = "no message has 2^52 bytes")]
        let time = Duration::from_secs_f64(bytes.len() as f64 / BANDWIDTH);
        self.send(pipe, 1 - side, bytes);
        self.schedule(time, Event::Written { pipe, side });
    }

    fn confirm(&mut self, pipe: PipeId, side: usize) {
        let Some(state) = self.pipes.get_mut(&pipe) else {
            return;
        };
        state.ends[side].confirmed = true;
        if state.ends.iter().all(|end| end.confirmed) {
            let latency = state.latency;
            self.schedule(latency, Event::Established { pipe, side });
            self.schedule(
                latency * 2,
                Event::Established {
                    pipe,
                    side: 1 - side,
                },
            );
        }
    }

    /// One end has closed a connection.
    fn close_end(&mut self, pipe: PipeId, side: usize, tell: bool) {
        let Some(state) = self.pipes.get_mut(&pipe) else {
            return;
        };
        state.ends[side].link = None;
        if tell {
            self.schedule_reset(pipe, 1 - side);
        }
        self.forget_pipe(pipe);
    }

    /// A reset follows what was sent before it.
    fn schedule_reset(&mut self, pipe: PipeId, side: usize) {
        let Some(state) = self.pipes.get(&pipe) else {
            return;
        };
        let at = state.ends[side].arrives_at.max(self.now + state.latency);
        self.schedule_at(at, Event::Reset { pipe, side });
    }

    fn reset(&mut self, pipe: PipeId, side: usize) {
        let parted = self.parted(pipe);
        let Some(state) = self.pipes.get_mut(&pipe) else {
            return;
        };
        if parted {
            return; // lost
        }
        let end = &mut state.ends[side];
        let host = end.host;
        if let Some(link) = end.link.take() {
            let state = &mut self.hosts[host];
            state.links.remove(&link);
            if let Some(mesh) = &mut state.mesh {
                mesh.handle_closed(link, "connection reset by peer".to_owned(), self.now);
                self.drain(host);
            }
        }
        self.forget_pipe(pipe);
    }

    /// Drops a pipe that both ends have closed.
    fn forget_pipe(&mut self, pipe: PipeId) {
        let over = |pipe: &Pipe| {
            let [dialler, acceptor] = &pipe.ends;
            let dialling = self.hosts[dialler.host].life == dialler.life
                && dialler.link.is_none()
                && acceptor.link.is_some();
            dialler.link.is_none() && acceptor.link.is_none() && !dialling
        };
        if self.pipes.get(&pipe).is_some_and(over) {
            self.pipes.remove(&pipe);
        }
    }

    fn parted(&self, pipe: PipeId) -> bool {
        self.pipes.get(&pipe).is_some_and(|pipe| {
            let [a, b] = &pipe.ends;
            self.hosts[a.host].group != self.hosts[b.host].group
        })
    }
}
