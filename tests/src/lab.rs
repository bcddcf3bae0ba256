//! Hosts on one machine: each is a network namespace, joined to the others by an underlay switch,
//! with a daemon in it and containers on its bridge.
//!
//! Everything is taken down when the lab is dropped, also by a test that fails; then the end of each
//! daemon's log is printed, and the whole logs are kept. What a killed test run leaves behind, the
//! next one removes.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use host::netlink::{Cidr, Netlink};
use host::netns::{self, Netns};
use host::probe::{self, Amount, Transferred};
use host::stage::{self, INTERFACE, Place, Switch};
use proto::MacAddr;
use router::io::tap::PlainTap;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::http::Response;
use crate::node::{self, Caller, Connection, Kind, Node, Options};
use crate::wait;
use crate::weather::{Sky, Weather};

/// Tag of the namespaces' names.
const TAG: &str = "meshlab";
/// The bridge that daemons make.
const BRIDGE: &str = "weave";
/// Lines of each log that a failed test prints.
const LOG_TAIL: usize = 40;
/// An answer to a ping comes sooner, or the ping is sent anew.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// The whole lab.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    /// `None`: two hosts, back to back.
    switch: Option<Switch>,
    sky: Option<Sky>,
    runtime: Runtime,
    directory: PathBuf,
    label: String,
}

/// A host. Its daemon goes before its namespace.
#[derive(Debug)]
struct Host {
    node: Option<Node>,
    containers: Vec<Container>,
    place: Place,
    directory: PathBuf,
}

/// A namespace on the bridge of a host.
#[derive(Debug)]
struct Container {
    place: Place,
    address: Ipv4Addr,
    /// Its interface in the host's namespace.
    port: String,
}

/// How a program ended, and what it said.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its end.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Names a container: its host's number, and how many the host had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerId(usize, usize);

impl ContainerId {
    /// Number of its host.
    pub const fn host(self) -> usize {
        self.0
    }
}

/// Underlay address of a host; the first is number 1.
pub fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, u8::try_from(number).unwrap())
}

fn cidr_of(number: usize) -> Cidr {
    format!("{}/24", address(number)).parse().unwrap()
}

impl Lab {
    /// Hosts on a switch with this underlay MTU; no daemons yet.
    #[track_caller]
    pub fn new(hosts: usize, mtu: u32) -> Self {
        let mut lab = Self::empty();
        let rest = format!("{}-switch", lab.label);
        let switch = lab.runtime.block_on(Switch::new(TAG, &rest, mtu)).unwrap();
        for number in 1..=hosts {
            let (port, rest) = (format!("h{number}"), lab.host_label(number));
            let added = switch.add_host(&port, cidr_of(number), &rest);
            let place = lab.runtime.block_on(added).unwrap();
            lab.add_host(place);
        }
        lab.switch = Some(switch);
        lab
    }

    /// Two hosts joined by a veth with this MTU instead of a switch, which would cost time of its
    /// own: for benchmarks. They can be neither unplugged nor parted.
    #[track_caller]
    pub fn back_to_back(mtu: u32) -> Self {
        let mut lab = Self::empty();
        let (first, second) = (lab.host_label(1), lab.host_label(2));
        let ends = [(cidr_of(1), first.as_str()), (cidr_of(2), second.as_str())];
        let joined = stage::back_to_back(TAG, mtu, ends);
        let places = lab.runtime.block_on(joined).unwrap();
        places.into_iter().for_each(|place| lab.add_host(place));
        lab
    }

    /// Hosts under a sky whose weather [`Self::set_weather`] makes. It is fair at first, and takes
    /// IP packets of 1500 bytes. The hosts can be neither unplugged nor parted.
    #[track_caller]
    pub fn outdoors(hosts: usize, seed: u64) -> Self {
        eprintln!("seed {seed}");
        let mut lab = Self::empty();
        let mut devices = Vec::new();
        for number in 1..=hosts {
            let made = lab
                .runtime
                .block_on(Place::new(TAG, &lab.host_label(number)));
            let place = made.unwrap();
            devices.push(
                place
                    .netns
                    .run(|| PlainTap::open(INTERFACE))
                    .unwrap()
                    .unwrap(),
            );
            lab.runtime.block_on(async {
                place
                    .net
                    .add_address(INTERFACE, cidr_of(number))
                    .await
                    .unwrap();
                place.net.set_up(INTERFACE).await.unwrap();
            });
            lab.add_host(place);
        }
        lab.sky = Some(Sky::new(devices, seed));
        lab
    }

    /// Changes the weather of a lab that is outdoors.
    #[track_caller]
    pub fn set_weather(&self, weather: Weather) {
        self.sky
            .as_ref()
            .expect("the hosts are outdoors")
            .set(weather);
    }

    #[track_caller]
    fn empty() -> Self {
        static SWEEP: Once = Once::new();
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        SWEEP.call_once(|| drop(netns::remove_stale(TAG)));
        let label = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let directory = std::env::temp_dir().join(netns::name_for(TAG, &label));
        fs::create_dir_all(&directory).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            hosts: Vec::new(),
            switch: None,
            sky: None,
            runtime,
            directory,
            label,
        }
    }

    fn host_label(&self, number: usize) -> String {
        format!("{}-h{number}", self.label)
    }

    fn add_host(&mut self, place: Place) {
        let number = self.hosts.len() + 1;
        let directory = self.directory.join(format!("h{number}"));
        fs::create_dir_all(&directory).unwrap();
        self.hosts.push(Host {
            node: None,
            containers: Vec::new(),
            place,
            directory,
        });
    }

    #[track_caller]
    fn switch(&self) -> &Switch {
        self.switch.as_ref().expect("the hosts are on a switch")
    }

    #[track_caller]
    fn host(&self, number: usize) -> &Host {
        self.hosts
            .get(number - 1)
            .expect("the lab has that many hosts")
    }

    #[track_caller]
    fn host_mut(&mut self, number: usize) -> &mut Host {
        self.hosts
            .get_mut(number - 1)
            .expect("the lab has that many hosts")
    }

    /// Namespace of a host.
    #[track_caller]
    pub fn netns(&self, number: usize) -> &Netns {
        &self.host(number).place.netns
    }

    /// Where a host keeps its files.
    #[track_caller]
    pub fn directory(&self, number: usize) -> &Path {
        &self.host(number).directory
    }

    /// Does something with the devices of a host.
    #[track_caller]
    pub fn with_net<T>(&self, number: usize, task: impl AsyncFnOnce(&Netlink) -> T) -> T {
        self.runtime.block_on(task(&self.host(number).place.net))
    }

    /// Starts a daemon on a host and waits until it answers.
    #[track_caller]
    pub fn start(&mut self, number: usize, kind: Kind, options: &Options) {
        let started = self.try_start(number, kind, options);
        started.unwrap_or_else(|log| panic!("{log}"));
    }

    /// Starts a daemon on a host and waits until it answers, or ends: then this is what it logged.
    #[track_caller]
    pub fn try_start(
        &mut self,
        number: usize,
        kind: Kind,
        options: &Options,
    ) -> Result<(), String> {
        let host = self.host_mut(number);
        assert!(host.node.is_none(), "host {number} runs a daemon already");
        let node = Node::start(kind, &host.place.netns, number, &host.directory, options)?;
        host.node = Some(node);
        Ok(())
    }

    /// The daemon of a host.
    #[track_caller]
    pub fn node(&self, number: usize) -> &Node {
        self.host(number)
            .node
            .as_ref()
            .expect("the host runs a daemon")
    }

    /// Ends a daemon in good order.
    #[track_caller]
    pub fn stop(&mut self, number: usize) {
        let node = self
            .host_mut(number)
            .node
            .take()
            .expect("the host runs a daemon");
        let kind = node.kind();
        let status = node.stop();
        // The original, as it is told to end by a signal, says so in its exit code.
        assert!(
            status.success() || kind == Kind::Weaver,
            "host {number} ended with {status}"
        );
    }

    /// Waits until a daemon that something else ended is gone, in good order.
    #[track_caller]
    pub fn await_end(&mut self, number: usize) {
        let node = self
            .host_mut(number)
            .node
            .take()
            .expect("the host runs a daemon");
        let status = node.await_end();
        assert!(
            status.success(),
            "host {number} ended with {status}:\n{}",
            node.log()
        );
    }

    /// Kills a daemon.
    #[track_caller]
    pub fn crash(&mut self, number: usize) {
        self.host_mut(number)
            .node
            .take()
            .expect("the host runs a daemon")
            .crash();
    }

    /// Body of a GET, which has to succeed.
    #[track_caller]
    pub fn get(&self, number: usize, path: &str) -> String {
        let response = self.request(number, "GET", path, "");
        assert_eq!(
            response.status, 200,
            "GET {path} of host {number}: {}",
            response.body
        );
        response.body
    }

    /// Asks a daemon anything.
    #[track_caller]
    pub fn request(&self, number: usize, method: &str, path: &str, body: &str) -> Response {
        let host = self.host(number);
        let answer = self
            .node(number)
            .request(&host.place.netns, method, path, body);
        answer.unwrap_or_else(|error| panic!("{method} {path} of host {number}: {error}"))
    }

    /// For asking the daemons of a host, also from other threads.
    #[track_caller]
    pub fn caller(&self, number: usize) -> Caller {
        Caller::new(self.netns(number))
    }

    /// Runs a program on a host and waits for its end.
    #[track_caller]
    pub fn run(&self, number: usize, mut command: Command) -> Output {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        self.run_as_it_is(number, command)
    }

    /// Runs a program on a host with the environment it was given, and waits for its end.
    #[track_caller]
    pub fn run_as_it_is(&self, number: usize, command: Command) -> Output {
        Self::run_within(self.netns(number), command)
    }

    /// Runs a program in the network namespace of a container and waits for its end.
    #[track_caller]
    pub fn run_in_container(&self, id: ContainerId, command: Command) -> Output {
        Self::run_within(self.container_netns(id), command)
    }

    #[track_caller]
    fn run_within(netns: &Netns, mut command: Command) -> Output {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let what = format!("{command:?}");
        let mut process = netns.spawn(command).unwrap();
        let (mut stdout, mut stderr) = (String::new(), String::new());
        thread::scope(|scope| {
            let errors = process.stderr.take().unwrap();
            scope.spawn(|| io::read_to_string(errors).map(|text| stderr = text));
            stdout = io::read_to_string(process.stdout.take().unwrap()).unwrap();
        });
        let status = process.wait_timeout(wait::PATIENCE);
        let status = status.unwrap_or_else(|| panic!("{what} closed its output and stayed"));
        Output {
            status,
            stdout,
            stderr,
        }
    }

    /// Runs a verb of meshctl on a host.
    #[track_caller]
    pub fn meshctl(&self, number: usize, args: &[&str]) -> Output {
        let mut command = Command::new(node::meshctl());
        command.args(args);
        self.run(number, command)
    }

    /// Lines of `status connections`.
    #[track_caller]
    pub fn connections(&self, number: usize) -> Vec<Connection> {
        node::parse_connections(&self.get(number, "/status/connections"))
    }

    /// Everything that a daemon reports.
    #[track_caller]
    pub fn report(&self, number: usize) -> Value {
        serde_json::from_str(&self.get(number, "/report")).unwrap()
    }

    /// Plugs a host into the underlay, or pulls the plug.
    #[track_caller]
    pub fn plug(&self, number: usize, plugged: bool) {
        let port = format!("h{number}");
        let done = self.runtime.block_on(self.switch().plug(&port, plugged));
        done.unwrap();
    }

    /// Keeps these hosts from reaching each other, or lets them. They reach all others.
    #[track_caller]
    pub fn part(&self, numbers: &[usize], parted: bool) {
        self.runtime.block_on(async {
            for number in numbers {
                self.switch()
                    .set_apart(&format!("h{number}"), parted)
                    .await
                    .unwrap();
            }
        });
    }

    /// Puts a container on the bridge of a host, with this address.
    #[track_caller]
    pub fn attach(&mut self, number: usize, address: &str) -> ContainerId {
        let count = self.host(number).containers.len();
        let (port, rest) = (
            format!("port{count}"),
            format!("{}-h{number}c{count}", self.label),
        );
        let cidr: Cidr = address.parse().unwrap();
        let attach = self
            .host(number)
            .place
            .attach(BRIDGE, &port, cidr, TAG, &rest);
        let place = self.runtime.block_on(attach).unwrap();
        let std::net::IpAddr::V4(address) = cidr.address else {
            panic!("not IPv4: {cidr}")
        };
        self.host_mut(number).containers.push(Container {
            place,
            address,
            port,
        });
        ContainerId(number, count)
    }

    #[track_caller]
    fn container(&self, id: ContainerId) -> &Container {
        self.host(id.0)
            .containers
            .get(id.1)
            .expect("a container of this lab")
    }

    /// Interface of a container in the namespace of its host.
    #[track_caller]
    pub fn port(&self, id: ContainerId) -> &str {
        &self.container(id).port
    }

    /// Gives a container's interface this Ethernet address.
    #[track_caller]
    pub fn set_container_mac(&self, id: ContainerId, mac: MacAddr) {
        let net = &self.container(id).place.net;
        let done = self.runtime.block_on(net.set_mac(INTERFACE, mac));
        done.unwrap();
    }

    /// Takes a container off its bridge. Its id stays valid, and it can talk to nobody.
    #[track_caller]
    pub fn detach(&self, id: ContainerId) {
        let port = self.port(id);
        let deleted = self.with_net(id.0, async |net| net.delete_link(port).await.unwrap());
        assert!(deleted, "{id:?} was detached before");
    }

    /// Namespace of a container.
    #[track_caller]
    pub fn container_netns(&self, id: ContainerId) -> &Netns {
        &self.container(id).place.netns
    }

    /// Address of a container.
    #[track_caller]
    pub fn container_address(&self, id: ContainerId) -> Ipv4Addr {
        self.container(id).address
    }

    /// Pings from container to container until an answer comes.
    #[track_caller]
    pub fn ping(&self, from: ContainerId, to: ContainerId, payload_len: usize) {
        let what = format!("{to:?} to answer {from:?}'s ping of {payload_len} bytes");
        wait::until(&what, || self.try_ping(from, to, payload_len));
    }

    /// Pings once.
    pub fn try_ping(
        &self,
        from: ContainerId,
        to: ContainerId,
        payload_len: usize,
    ) -> Result<Duration, String> {
        let to = self.container(to).address;
        let ping = || probe::ping(to, payload_len, PING_TIMEOUT);
        let answer = self.container_netns(from).run(ping);
        answer
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }

    /// Pings between all pairs, in both directions.
    #[track_caller]
    pub fn ping_all(&self, containers: &[ContainerId], payload_len: usize) {
        for from in containers {
            for to in containers.iter().filter(|to| *to != from) {
                self.ping(*from, *to, payload_len);
            }
        }
    }

    /// Sends bytes over TCP from container to container, and checks what arrives.
    #[track_caller]
    pub fn transfer(&self, from: ContainerId, to: ContainerId, bytes: u64) {
        let done = self.try_transfer(from, to, bytes);
        done.unwrap_or_else(|error| panic!("TCP from {from:?} to {to:?}: {error}"));
    }

    /// Tries to, once.
    pub fn try_transfer(
        &self,
        from: ContainerId,
        to: ContainerId,
        bytes: u64,
    ) -> io::Result<Transferred> {
        let (sender, receiver) = (self.container(from), self.container(to));
        probe::transfer(
            &sender.place.netns,
            &receiver.place.netns,
            receiver.address,
            Amount::Bytes(bytes),
        )
    }

    /// Waits until a host has established connections to these peers, by nickname, and no others.
    #[track_caller]
    pub fn await_neighbours(&self, number: usize, nicknames: &[&str]) {
        self.await_neighbours_within(wait::PATIENCE, number, nicknames);
    }

    #[track_caller]
    fn await_neighbours_within(&self, patience: Duration, number: usize, nicknames: &[&str]) {
        let what = format!("host {number} to be connected to {nicknames:?}");
        wait::until_within(patience, &what, || {
            let connections = self.connections(number);
            let established = connections
                .iter()
                .filter(|found| found.state == "established");
            let mut found: Vec<_> = established
                .filter_map(|found| nickname(&found.info))
                .collect();
            found.sort_unstable();
            wait::check(found == nicknames, || format!("{connections:#?}"))
        });
    }

    /// Waits until each of these hosts is connected to all others of them, and every one of them
    /// knows it.
    #[track_caller]
    pub fn await_full_mesh(&self, numbers: &[usize]) {
        self.await_full_mesh_within(wait::PATIENCE, numbers);
    }

    /// As [`Self::await_full_mesh`], with a patience of its own.
    #[track_caller]
    pub fn await_full_mesh_within(&self, patience: Duration, numbers: &[usize]) {
        for number in numbers {
            let others = numbers.iter().filter(|other| *other != number);
            let mut others: Vec<_> = others.map(|other| format!("h{other}")).collect();
            others.sort_unstable();
            let others: Vec<_> = others.iter().map(String::as_str).collect();
            self.await_neighbours_within(patience, *number, &others);
        }
        for number in numbers {
            let degrees = vec![numbers.len() - 1; numbers.len()];
            self.await_peers(*number, &degrees);
        }
    }

    /// Waits until a host knows as many peers as `degrees` has entries, with so many established
    /// connections each; ascending.
    #[track_caller]
    pub fn await_peers(&self, number: usize, degrees: &[usize]) {
        wait::until(
            &format!("host {number} to know peers of degrees {degrees:?}"),
            || {
                let report = self.report(number);
                let peers = node::at(&report, "/Router/Peers")
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                let mut found: Vec<_> = peers.iter().map(established_count).collect();
                found.sort_unstable();
                wait::check(found == degrees, || {
                    format!("{found:?} in {}", self.get(number, "/status/peers"))
                })
            },
        );
    }

    /// Waits until a connection of a host is in this state with an info that contains `info`.
    #[track_caller]
    pub fn await_connection(&self, number: usize, state: &str, info: &str) -> Connection {
        wait::until(
            &format!("host {number} to have a connection {state}: {info}"),
            || {
                let connections = self.connections(number);
                let found = connections
                    .iter()
                    .find(|c| c.state == state && c.info.contains(info));
                found.cloned().ok_or_else(|| format!("{connections:#?}"))
            },
        )
    }

    /// Waits until the log of a host contains `text`.
    #[track_caller]
    pub fn await_log(&self, number: usize, text: &str) {
        wait::until(&format!("host {number} to log {text:?}"), || {
            wait::check(self.node(number).log().contains(text), || {
                "it has not".to_owned()
            })
        });
    }

    /// Prints what helps to understand a failure.
    fn explain(&self) {
        for (host, number) in self.hosts.iter().zip(1..) {
            let Some(node) = &host.node else { continue };
            eprintln!("==== host {number}, {}", node.kind());
            for path in [
                "/status",
                "/status/connections",
                "/status/peers",
                "/status/ipam",
            ] {
                if let Ok(response) = node.request(&host.place.netns, "GET", path, "") {
                    eprintln!("-- {path}\n{}", response.body);
                }
            }
            let log = node.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines
                .get(lines.len().saturating_sub(LOG_TAIL)..)
                .unwrap_or_default();
            eprintln!("-- log\n{}", tail.join("\n"));
        }
        eprintln!("==== whole logs are in {}", self.directory.display());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            self.explain();
        }
        // In this order: daemons, what they serve, and only then their files.
        self.hosts
            .iter_mut()
            .for_each(|host| drop(host.node.take()));
        self.hosts.clear();
        if !thread::panicking()
            && let Err(error) = fs::remove_dir_all(&self.directory)
        {
            eprintln!("cannot remove {}: {error}", self.directory.display());
        }
    }
}

/// Nickname in `... mac(nickname) ...`.
fn nickname(info: &str) -> Option<&str> {
    Some(info.split_once('(')?.1.split_once(')')?.0)
}

/// Established connections that a peer of a report lists.
fn established_count(peer: &Value) -> usize {
    let connections = node::at(peer, "/Connections").as_array().map(Vec::as_slice);
    let established = |connection: &&Value| node::at(connection, "/Established") == true;
    connections
        .unwrap_or_default()
        .iter()
        .filter(established)
        .count()
}
