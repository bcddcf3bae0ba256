//! The three hosts of the demonstration: their namespaces, daemons and containers.

use std::env;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use host::netlink::Cidr;
use host::netns::{self, Netns, Resident, Signal};
use host::sockdiag;
use host::stage::{Error, Place, Switch};
use rand::TryRng as _;
use rustix::process::geteuid;
use tokio::time::sleep;

use super::super::{Exit, Failure, Global};
use crate::address::Address;
use crate::client::Client;
use crate::daemon;
use crate::report::Report;

/// How many there are. The link between the first and the third is cut.
pub(super) const HOSTS: usize = 3;

/// Tag of the namespaces' names.
const TAG: &str = "meshctl-demo";
/// As most of the world has it.
const UNDERLAY_MTU: u32 = 1500;
/// Longest wait for the daemons to find each other.
const MESH_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for the way around a broken link. A link that is merely silent is given up after a
/// minute, and then some.
const DETOUR_TIMEOUT: Duration = Duration::from_secs(120);
/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long a daemon may take to end in good order.
const GRACE: Duration = Duration::from_secs(5);
/// Lines of a daemon's log that are shown when it fails.
const LOG_TAIL: usize = 10;

/// All of it. The daemons go first, and the files last.
pub(super) struct Stage {
    daemons: Vec<Resident>,
    containers: Vec<Place>,
    hosts: Vec<Place>,
    switch: Switch,
    directory: Directory,
}

/// Name of a host.
pub(super) fn name(index: usize) -> String {
    format!("h{}", index + 1)
}

/// Last byte of the addresses of a host and its container.
fn number(index: usize) -> u8 {
    u8::try_from(index + 1).unwrap_or(u8::MAX)
}

fn underlay_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, number(index))
}

fn cidr(address: Ipv4Addr, prefix_len: u8) -> Cidr {
    Cidr {
        address: address.into(),
        prefix_len,
    }
}

async fn build_hosts() -> Result<(Switch, Vec<Place>), Error> {
    let switch = Switch::new(TAG, "switch", UNDERLAY_MTU).await?;
    let mut hosts = Vec::new();
    for index in 0..HOSTS {
        let (name, address) = (name(index), cidr(underlay_address(index), 24));
        hosts.push(switch.add_host(&name, address, &name).await?);
    }
    Ok((switch, hosts))
}

fn explain(error: &Error) -> Failure {
    let failure = Failure::new(Exit::Failed, format!("cannot build the hosts: {error}"));
    if error.is_permission_denied() {
        return failure.hint(
            "inside a container, give it the right to do so: docker run --privileged; otherwise \
             run it as root or as a user who may make user namespaces",
        );
    }
    failure
}

impl Stage {
    /// Builds the hosts; no daemons yet.
    pub(super) async fn new() -> Result<Self, Failure> {
        netns::remove_stale(TAG);
        let directory = Directory::new()?;
        let (switch, hosts) = build_hosts().await.map_err(|error| explain(&error))?;
        Ok(Self {
            daemons: Vec::new(),
            containers: Vec::new(),
            hosts,
            switch,
            directory,
        })
    }

    /// Who they are.
    pub(super) fn introduction(&self) -> String {
        let told = (0..HOSTS).map(|index| format!("{} ({})", name(index), underlay_address(index)));
        told.collect::<Vec<_>>().join(", ")
    }

    /// Starts the daemons. All but the first are told of the first.
    pub(super) fn launch(&mut self) -> Result<(), Failure> {
        let program = env::current_exe()?;
        let password = random_password()?;
        for (index, host) in self.hosts.iter().enumerate() {
            let log = File::create(self.directory.log(index))?;
            let mut command = Command::new(&program);
            command.args([
                "launch",
                "--ipalloc-range=",
                "--no-dns",
                "--weave-db=none",
                "--name",
                &format!("::{}", number(index)),
            ]);
            command.args(["--nickname", &name(index), "--status-addr", ""]);
            command.arg("--http-addr").arg(self.directory.socket(index));
            command.arg("--db-prefix").arg(self.directory.state(index));
            if index > 0 {
                command.arg(underlay_address(0).to_string());
            }
            command.env_clear().env("WEAVE_PASSWORD", &password);
            command
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            // Ctrl-C is for the demonstration, which then ends them.
            command.process_group(0);
            let daemon = host.netns.spawn(command);
            self.daemons
                .push(daemon.map_err(|error| Failure::new(Exit::Failed, error))?);
        }
        Ok(())
    }

    /// Waits until every daemon is connected to every other.
    pub(super) async fn await_full_mesh(&self) -> Result<(), Failure> {
        let connected = |report: &Report| {
            let all = report.router.connections.iter();
            let established = all
                .filter(|connection| connection.state == "established")
                .count();
            established + 1 == HOSTS
        };
        for index in 0..HOSTS {
            self.wait(index, "find the others", MESH_TIMEOUT, connected)
                .await?;
        }
        Ok(())
    }

    /// Waits until the first and the third host reach each other through the second.
    pub(super) async fn await_detour(&self) -> Result<(), Failure> {
        let own = |report: &Report| report.router.name.clone();
        let names = [
            self.report(0).await?,
            self.report(1).await?,
            self.report(2).await?,
        ];
        let [first, second, third] = names.map(|report| own(&report));
        for (index, end) in [(0, third), (2, first)] {
            let around = |report: &Report| {
                let routes = &report.router.unicast_routes;
                let same = |text: &str, name: &str| text.starts_with(name);
                routes
                    .iter()
                    .any(|route| same(&route.dest, &end) && same(&route.via, &second))
            };
            self.wait(index, "find a way around", DETOUR_TIMEOUT, around)
                .await?;
        }
        Ok(())
    }

    /// Puts a container on the bridge of each host.
    pub(super) async fn attach(&mut self) -> Result<(), Failure> {
        for (index, host) in self.hosts.iter().enumerate() {
            let (address, rest) = (container_address(index), format!("c{}", index + 1));
            let cidr = cidr(address, 16);
            let container = host.attach(daemon::BRIDGE, &rest, cidr, TAG, &rest).await;
            self.containers
                .push(container.map_err(|error| explain(&error))?);
        }
        Ok(())
    }

    /// Their addresses.
    pub(super) fn containers(&self) -> String {
        let told = (0..self.containers.len())
            .map(|index| format!("{} on {}", container_address(index), name(index)));
        told.collect::<Vec<_>>().join(", ")
    }

    /// A handle on the namespace of a container.
    pub(super) fn container(&self, index: usize) -> Result<Netns, Failure> {
        let container = self.containers.get(index);
        let container = container.ok_or_else(|| Failure::new(Exit::Failed, "no such container"))?;
        container
            .netns
            .handle()
            .map_err(|error| Failure::new(Exit::Failed, error))
    }

    /// Cuts the link between the first and the third host, or mends it.
    pub(super) async fn cut(&self, cut: bool) -> Result<(), Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, error);
        for index in [0, 2] {
            let done = self.switch.set_apart(&name(index), cut).await;
            done.map_err(|error| failed(&error))?;
        }
        for (index, other) in [(0, 2), (2, 0)] {
            let Some(host) = self.hosts.get(index).filter(|_| cut) else {
                continue;
            };
            // As if the network had told both ends. Where the kernel cannot, they find out by the
            // silence of the other end.
            let reset = host
                .netns
                .run(|| sockdiag::reset_connections(underlay_address(other)));
            if let Err(error) = reset.map_err(|error| failed(&error))? {
                tracing::debug!(%error, "cannot reset the connection");
            }
        }
        Ok(())
    }

    /// Flags by which verbs find the daemon of a host.
    pub(super) fn global(&self, index: usize) -> Global {
        let http_addr = Address::Unix(self.directory.socket(index));
        Global {
            http_addr,
            json: false,
            local: false,
        }
    }

    async fn report(&self, index: usize) -> Result<Report, Failure> {
        Client::new(&self.global(index).http_addr).report().await
    }

    /// Looks at the report of a host until it is as it should be.
    async fn wait(
        &self,
        index: usize,
        what: &str,
        timeout: Duration,
        holds: impl Fn(&Report) -> bool,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        loop {
            if self.report(index).await.is_ok_and(|report| holds(&report)) {
                return Ok(());
            }
            let ended = self.daemons.get(index).and_then(Resident::try_wait);
            if ended.is_some() || started.elapsed() > timeout {
                let why = match ended {
                    Some(status) => format!("the daemon of {} ended with {status}", name(index)),
                    None => format!("the daemon of {} did not {what}", name(index)),
                };
                let log = fs::read_to_string(self.directory.log(index)).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let tail = lines
                    .get(lines.len().saturating_sub(LOG_TAIL)..)
                    .unwrap_or_default();
                let message = format!("{why}; the end of its log:\n{}", tail.join("\n"));
                return Err(Failure::new(Exit::Failed, message));
            }
            sleep(INTERVAL).await;
        }
    }

    /// What to do with a stage that is kept.
    pub(super) fn hints(&self, in_user_namespace: bool) -> String {
        let (pid, socket) = (std::process::id(), self.directory.socket(0));
        let enter = if in_user_namespace {
            format!("nsenter --preserve-credentials --user --mount --target {pid} ")
        } else {
            String::new()
        };
        let container = netns::name_for(TAG, "c1");
        let host = netns::name_for(TAG, "h1");
        let third = container_address(2);
        format!(
            "All of it stays up, the link mended, until you press Ctrl-C. In another terminal:\n\n  \
             meshctl --http-addr {socket} status           # of h1; there is a socket for h2 and h3, too\n  \
             {enter}ip netns exec {container} ping {third}\n  \
             {enter}ip netns exec {host} ip address        # the host with its bridge\n\n\
             Logs and state are in {directory}.",
            socket = socket.display(),
            directory = self.directory.0.display(),
        )
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // All at once, so that the slowest decides how long it takes.
        for daemon in &self.daemons {
            daemon.signal(Signal::TERM);
        }
        for daemon in self.daemons.drain(..) {
            daemon.wait_timeout(GRACE);
        }
    }
}

/// Address of the container on a host.
pub(super) fn container_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 40, 0, number(index))
}

/// Runs what blocks on a thread of its own, which nobody waits for should the demonstration end
/// before it does.
pub(super) async fn off_thread<T: Send + 'static>(
    task: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Nobody wants it any more when the demonstration has ended.
        let _ = sender.send(task());
    });
    receiver
        .await
        .map_err(|_| Failure::new(Exit::Failed, "a step of the demonstration panicked"))
}

/// A password for one show.
fn random_password() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    let filled = rand::rngs::SysRng.try_fill_bytes(&mut bytes);
    filled.map_err(|error| Failure::new(Exit::Failed, format!("no random numbers: {error}")))?;
    Ok(hex::encode(bytes))
}

/// Where logs, sockets and state are; removed on drop.
struct Directory(PathBuf);

impl Directory {
    fn new() -> std::io::Result<Self> {
        remove_stale_directories();
        let path = env::temp_dir().join(format!("{TAG}-{}", std::process::id()));
        // Must not exist: in a directory that all may write to, another user could have made it.
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn path(&self, index: usize, suffix: &str) -> PathBuf {
        self.0.join(format!("{}{suffix}", name(index)))
    }

    fn socket(&self, index: usize) -> PathBuf {
        self.path(index, ".sock")
    }

    fn log(&self, index: usize) -> PathBuf {
        self.path(index, ".log")
    }

    fn state(&self, index: usize) -> PathBuf {
        self.path(index, "-")
    }
}

/// Removes what demonstrations of the same user left behind that were killed.
fn remove_stale_directories() {
    let entries = fs::read_dir(env::temp_dir())
        .into_iter()
        .flatten()
        .flatten();
    for entry in entries {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(TAG)?.strip_prefix('-'));
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        let own = entry
            .metadata()
            .is_ok_and(|found| found.uid() == geteuid().as_raw());
        if own && !Path::new("/proc").join(pid.to_string()).exists() {
            // What cannot be removed harms nobody.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(directory = %self.0.display(), %error, "cannot remove the files");
        }
    }
}
