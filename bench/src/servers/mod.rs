//! Name servers side by side: the same records, the same load, one server at a time.
//!
//! ```text
//! host 2: dnsperf, knot (upstream) ---- veth ---- host 1: the server under test
//! ```
//!
//! Local names are A records in `weave.local`; forwarded ones lie in `example.net`, for which a
//! knot on the other host has the authority, with a TTL of 0, so that no cache can answer instead.
//!
//! [`load`] makes the load, [`table`] the tables. What the servers are told keeps them comparable:
//! no logging of queries, no cache, as many threads as there are cores.

pub mod load;
pub mod table;

use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use host::netns::Resident;
use tests::lab::{Lab, address};
use tests::node::{Kind, Options};
use tests::wait;

/// Names that are forwarded.
pub const FORWARDED_COUNT: usize = 1000;
/// The host of the server, and that of the load.
const HOSTS: (usize, usize) = (1, 2);

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Server {
    /// Ours.
    Meshctl,
    /// The original, at the path in WEAVER.
    Weaver,
    /// dnsmasq, with the names as a hosts file.
    Dnsmasq,
    /// unbound, with the names as local data.
    Unbound,
    /// knot, with the names as a zone; it does not forward.
    Knot,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Meshctl => "meshctl",
            Self::Weaver => "weaver",
            Self::Dnsmasq => "dnsmasq",
            Self::Unbound => "unbound",
            Self::Knot => "knot",
        })
    }
}

impl Server {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Meshctl,
        Self::Weaver,
        Self::Dnsmasq,
        Self::Unbound,
        Self::Knot,
    ];

    /// Whether it forwards what it does not know.
    pub fn forwards(self) -> bool {
        self != Self::Knot
    }

    /// Why it cannot be measured here.
    pub fn missing(self) -> Option<String> {
        let program = match self {
            Self::Meshctl => return None,
            Self::Weaver if tests::node::weaver().is_some() => return None,
            Self::Weaver => return Some("WEAVER does not name it".to_owned()),
            Self::Dnsmasq => "dnsmasq",
            Self::Unbound => "unbound",
            Self::Knot => "knotd",
        };
        let places = ["/usr/sbin", "/usr/bin", "/usr/local/sbin"];
        let found = places
            .iter()
            .any(|place| Path::new(place).join(program).exists());
        (!found).then(|| format!("{program} is not installed"))
    }
}

/// A server with names, the load's host, and a server upstream. It ends with the value.
pub struct Stage {
    lab: Lab,
    /// Ours and the original's end with the lab.
    _servers: Vec<Process>,
}

/// A program that is killed when it is dropped.
struct Process(Resident);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// A name of the local domain.
pub fn local_name(index: usize) -> String {
    format!("host-{index:05}.weave.local")
}

/// A name that is forwarded.
pub fn forwarded_name(index: usize) -> String {
    format!("host-{index:05}.example.net")
}

/// The address behind either.
fn address_of(index: usize) -> String {
    format!(
        "10.{}.{}.{}",
        index >> 16 & 255,
        index >> 8 & 255,
        index & 255
    )
}

impl Stage {
    /// Builds the hosts, and starts the server with so many names.
    pub fn build(server: Server, count: usize, meshctl: &Path) -> Result<Self> {
        let mut lab = Lab::back_to_back(1500);
        let mut servers = vec![knot(&lab, HOSTS.1, "example.net", FORWARDED_COUNT, 0)?];
        await_answer(&lab, HOSTS.1, HOSTS.1, &forwarded_name(0));
        match server {
            Server::Meshctl => daemon(&mut lab, Kind::Meshctl, count, Some(meshctl))?,
            Server::Weaver => daemon(&mut lab, Kind::Weaver, count, None)?,
            Server::Dnsmasq => servers.push(dnsmasq(&lab, count)?),
            Server::Unbound => servers.push(unbound(&lab, count)?),
            Server::Knot => servers.push(knot(&lab, HOSTS.0, "weave.local", count, 1)?),
        }
        let stage = Self {
            lab,
            _servers: servers,
        };
        stage.await_names(count);
        if server.forwards() {
            await_answer(&stage.lab, HOSTS.1, HOSTS.0, &forwarded_name(0));
        }
        Ok(stage)
    }

    /// Waits until the first and the last name are answered.
    fn await_names(&self, count: usize) {
        for index in [0, count.saturating_sub(1)] {
            await_answer(&self.lab, HOSTS.1, HOSTS.0, &local_name(index));
        }
    }

    /// Directory for the load's files.
    fn directory(&self) -> &Path {
        self.lab.directory(HOSTS.1)
    }

    fn run(&self, command: Command) -> tests::lab::Output {
        self.lab.run(HOSTS.1, command)
    }
}

/// Asks host `to` from host `from` until an answer comes.
fn await_answer(lab: &Lab, from: usize, to: usize, name: &str) {
    wait::until(&format!("host {to} to answer for {name}"), || {
        let server = format!("@{}", address(to));
        let answer = lab.dig(from, &["+time=1", &server, name]);
        wait::check(!answer.answers.is_empty(), || answer.text)
    });
}

fn daemon(lab: &mut Lab, kind: Kind, count: usize, program: Option<&Path>) -> Result<()> {
    let number = HOSTS.0;
    let resolv_conf = lab.directory(number).join("resolv.conf");
    fs::write(&resolv_conf, format!("nameserver {}\n", address(HOSTS.1)))?;
    let mut extra = vec![
        "--dns-listen-address".to_owned(),
        format!("{}:53", address(number)),
        "--resolv-conf".to_owned(),
        resolv_conf.display().to_string(),
    ];
    if kind == Kind::Meshctl {
        extra.extend(["--weave-db", "none"].map(str::to_owned));
    }
    let options = Options {
        names: true,
        log_level: Some("warning".to_owned()),
        program: program.map(PathBuf::from),
        extra,
        ..Options::default()
    };
    lab.start(number, kind, &options);
    for index in 0..count {
        let path = format!("/name/c{index}/{}", address_of(index));
        let body = format!("fqdn={}", local_name(index));
        let answer = lab.request(number, "PUT", &path, &body);
        ensure!(
            answer.status == 204,
            "{kind} refuses a name: {}",
            answer.body
        );
    }
    Ok(())
}

fn dnsmasq(lab: &Lab, count: usize) -> Result<Process> {
    let directory = lab.directory(HOSTS.0);
    let hosts = directory.join("hosts");
    let mut text = String::new();
    for index in 0..count {
        writeln!(text, "{} {}", address_of(index), local_name(index))?;
    }
    fs::write(&hosts, text)?;
    let mut command = Command::new("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        "--pid-file=",
        "--cache-size=0",
        "--dns-forward-max=10000",
        "--local=/weave.local/",
        "--local-ttl=1",
    ]);
    command.arg(format!("--addn-hosts={}", hosts.display()));
    command.arg(format!("--server={}", address(HOSTS.1)));
    spawn(lab, HOSTS.0, command)
}

fn unbound(lab: &Lab, count: usize) -> Result<Process> {
    let directory = lab.directory(HOSTS.0);
    let mut text = format!(
        "server:\n  interface: {own}\n  access-control: 0.0.0.0/0 allow\n  do-daemonize: no\n  \
         username: \"\"\n  chroot: \"\"\n  directory: \"{directory}\"\n  pidfile: \"\"\n  \
         use-syslog: no\n  verbosity: 0\n  num-threads: {threads}\n  so-reuseport: yes\n  \
         do-ip6: no\n  module-config: \"iterator\"\n  cache-max-ttl: 0\n  num-queries-per-thread: \
         4096\n  outgoing-range: 8192\n  local-zone: \"weave.local.\" static\n",
        own = address(HOSTS.0),
        directory = directory.display(),
        threads = threads(),
    );
    for index in 0..count {
        let (name, addr) = (local_name(index), address_of(index));
        writeln!(text, "  local-data: \"{name}. 1 IN A {addr}\"")?;
    }
    writeln!(
        text,
        "forward-zone:\n  name: \".\"\n  forward-addr: {}\nremote-control:\n  control-enable: no",
        address(HOSTS.1)
    )?;
    let config = directory.join("unbound.conf");
    fs::write(&config, text)?;
    let mut command = Command::new("unbound");
    command.arg("-d").arg("-c").arg(config);
    spawn(lab, HOSTS.0, command)
}

fn knot(lab: &Lab, number: usize, zone: &str, count: usize, ttl: u32) -> Result<Process> {
    let directory = lab.directory(number).join(format!("knot-{zone}"));
    fs::create_dir_all(&directory)?;
    let mut text = format!(
        "$ORIGIN {zone}.\n$TTL {ttl}\n@ SOA ns.{zone}. x.{zone}. 1 1 1 1 1\n@ NS ns\nns A 192.0.2.1\n"
    );
    for index in 0..count {
        writeln!(text, "host-{index:05} A {}", address_of(index))?;
    }
    fs::write(directory.join("zone"), text)?;
    let config = format!(
        "server:\n  rundir: {dir}\n  listen: {own}@53\n  udp-workers: {threads}\n  tcp-workers: 1\n  \
         background-workers: 1\ndatabase:\n  storage: {dir}\nlog:\n  - target: stderr\n    any: \
         error\nzone:\n  - domain: {zone}\n    file: {dir}/zone\n",
        dir = directory.display(),
        own = address(number),
        threads = threads(),
    );
    let path = directory.join("knot.conf");
    fs::write(&path, config)?;
    let mut command = Command::new("knotd");
    command.arg("-c").arg(path);
    spawn(lab, number, command)
}

/// As many as there are cores.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn spawn(lab: &Lab, number: usize, mut command: Command) -> Result<Process> {
    let what = format!("{command:?}");
    let log = lab.directory(number).join("server.log");
    let log = fs::File::options().create(true).append(true).open(log)?;
    command.stdin(std::process::Stdio::null());
    command.stdout(log.try_clone()?).stderr(log);
    let process = lab.netns(number).spawn(command).with_context(|| what)?;
    Ok(Process(process))
}
