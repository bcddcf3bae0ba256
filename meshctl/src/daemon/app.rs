//! The life of the daemon: what starts in which order, and how it ends.
//!
//! Up: name, listeners of the API, address allocation, bridge and TAP device, router, API, "ready".
//! What can fail because the user asked for something impossible comes first, before anything is
//! changed. Down: router (which closes connections, sockets and the TAP device), allocation, state,
//! listeners. The bridge stays, unless it was `reset` that ended it; then our addresses are handed
//! over to another host before everything else.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use host::netlink::Netlink;
use proto::gossip::GossipChannel;
use proto::{PeerName, PeerUid};
use rand::TryRng as _;
use rand::rngs::SysRng;
use router::io::tap::{self, Offloads, TapDevice};
use router::io::{Router, RouterConfig, RouterHandle};
use router::mesh::MeshConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::adapter::{Adapter, sort_out};
use super::admin::guard::Guard;
use super::admin::server::{Listener, serve};
use super::admin::{self, Admin, Services, Stop};
use super::config::{Allocation, Config, Peers};
use super::control::Control as _;
use super::dns::{self as names, NameService, Names};
use super::identity::Sources;
use super::ipam::{self, Ipam, PreClaim};
use super::peers::{self, Beginning, Keeper};
use super::ports::Ports;
use super::store::Store;
use super::{bridge, identity, log, migrate, notify};
use crate::cli::to_json;
use crate::host_routes;
use crate::report::Facts;

/// Threads that serve the control half and the API.
const THREADS: usize = 2;
/// Open files: connections to the API, neighbours, and some more.
const FILE_COUNT: u64 = 4096;
/// A router that needs longer to tell how it is doing is in trouble.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// The router says goodbye to its neighbours in less.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// The hand-over of our addresses is given up after so long; others have to take them over then.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the daemon until it is told to end.
pub fn run(config: Config, store: Store) -> anyhow::Result<()> {
    log::start(config.logging);
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let result = runtime.block_on(live(config, store));
    // A look-up of a name may still be waiting for an answer that nobody needs.
    runtime.shutdown_background();
    result
}

async fn live(mut config: Config, store: Store) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    tracing::info!("meshctl {}", env!("CARGO_PKG_VERSION"));
    announce(&config);
    if store.was_empty() {
        tracing::warn!(
            "the state file {} was there, but empty: this host starts as one without a past; had it \
             one, a name, direct peers and addresses that it gave out are forgotten, so stop the \
             containers that have some",
            store.path().display()
        );
    }
    store.check()?;
    migrate::take_over(&config, &store).await?;
    let identity = identity::determine(&config.identity, &store).await?;
    let nickname = config.nickname.take().unwrap_or_else(host_name);
    tracing::info!(
        "Our name is {}({nickname}), {}",
        identity.name,
        identity.origin
    );
    let beginning = begin(&config, &store)?;

    let listeners = Listeners::bind(&config).await?;
    let seed = random_seed()?;
    let services = Services {
        ipam: match &config.allocation {
            Some(allocation) => {
                let has_state = ipam::saved(&store)?.is_some_and(|saved| !saved.ring.is_empty());
                check_range(allocation, config.bridge.as_deref(), has_state).await?;
                let uid = router::mesh::uid_of(seed);
                let us = (identity.name, uid, nickname.as_str());
                let found = ipam::found::in_use(config.bridge.as_deref()).await;
                Some(start_ipam(allocation, us, found, &store)?)
            }
            None => None,
        },
        names: start_names(&mut config, identity.name, &store).await?,
    };
    let (device, queues) = match &config.bridge {
        Some(name) => {
            let (device, queues) = Underside::make(name, identity.name, &config).await?;
            (Some(device), queues)
        }
        None => (None, Vec::new()),
    };
    let mut router = start(
        &mut config,
        (identity.name, &nickname),
        queues,
        &services,
        seed,
    )?;
    let handle = router.handle();
    if let Some(service) = &services.names {
        let names = service.names().clone();
        tokio::spawn(names::spread(names, handle.clone(), store.clone()));
    }
    if let Some(ipam) = &services.ipam {
        ipam.join(handle.clone(), router.members());
    }
    store.set_launch_options(&config.launch_options)?;
    // What cannot be dialled has been sorted out.
    handle
        .connect(beginning.record.targets.clone(), false)
        .await?;
    let state = store.path().display().to_string();
    let keeper = Arc::new(Keeper::new(store, beginning.record)?);

    let control = Arc::new(Adapter::new(handle.clone(), keeper.clone()));
    let (stop, mut stopped) = mpsc::channel(1);
    let facts = Facts {
        ready: false,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        interface: device
            .as_ref()
            .map_or_else(String::new, Underside::describe),
        pid: std::process::id(),
        bridge: config.bridge.clone().unwrap_or_default(),
        state,
    };
    let admin = Admin::new(control.clone(), services.clone(), facts, stop);
    let end = CancellationToken::new();
    let serving = listeners.serve(&admin, &nickname, &end);
    let ports = match &device {
        Some(device) if config.port_gro => Some(tokio::spawn(device.ports().run(end.clone()))),
        _ => None,
    };
    admin.set_ready(true);
    tracing::info!("ready");
    notify::ready();

    let mut beat = interval(notify::interval());
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let outcome = loop {
        tokio::select! {
            Some(stop) = stopped.recv() => break Ok(Some(stop)),
            signal = signals.next() => match signal {
                Sign::End(name) => {
                    tracing::info!("{name}: ending");
                    break Ok(None);
                }
                Sign::Show => show(&admin).await,
            },
            reason = router.failed() => break Err(anyhow!("the router has failed: {reason}")),
            _ = beat.tick() => {
                // No beat while the router does not answer: systemd's watchdog is to notice.
                if let Ok(Ok(status)) = timeout(STATUS_TIMEOUT, control.status()).await {
                    notify::alive(&status);
                }
                if let Some(device) = &device {
                    device.look_after().await;
                }
                if let Some(service) = &services.names {
                    service.look_after().await;
                }
            }
        }
    };

    admin.set_ready(false);
    notify::stopping();
    if let (Some(ipam), Ok(Some(Stop::Reset))) = (&services.ipam, &outcome) {
        hand_over(ipam, &handle).await;
    }
    if timeout(SHUTDOWN_TIMEOUT, handle.shutdown()).await.is_err() {
        tracing::error!("the router does not end; leaving it behind");
    }
    if let Some(ipam) = &services.ipam {
        ipam.close().await;
    }
    let store = keeper.close(matches!(outcome, Ok(Some(_))))?;
    if let Ok(Some(Stop::Reset)) = outcome {
        if let Some(name) = &config.bridge {
            bridge::remove(name).await?;
        }
        if let Some(store) = store {
            let Sources {
                db_prefix,
                host_root,
                ..
            } = &config.identity;
            let record = store.weave()?;
            store.destroy()?;
            migrate::after_reset(db_prefix, host_root, record)?;
        }
        tracing::info!("bridge and state are removed");
    } else {
        drop(store);
    }
    // Whoever waits for our end sees it by this.
    end.cancel();
    if let Some(ports) = ports {
        let _ = ports.await;
    }
    serving.join_all().await;
    outcome.map(drop)
}

/// Logs what the user asked for.
fn announce(config: &Config) {
    let mut options = config.launch_options.clone();
    if config.password.is_some() {
        options.push("password=<redacted>".to_owned());
    }
    tracing::info!("Command line options: [{}]", options.join(" "));
    for note in &config.notes {
        tracing::info!("{note}");
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if config.password.is_some() {
        tracing::info!("Communication between peers via untrusted networks is encrypted.");
    } else {
        tracing::info!("Communication between peers is unencrypted.");
    }
}

/// The direct peers to begin with; those on the command line must all make sense.
fn begin(config: &Config, store: &Store) -> anyhow::Result<Beginning> {
    let mut beginning = peers::begin(&config.peers, store.peers()?);
    let list = beginning.record.targets.join(" ");
    if beginning.resumed {
        tracing::info!("Restart/resume detected - using persisted peer list: [{list}]");
    } else {
        tracing::info!("Launch detected - using supplied peer list: [{list}]");
    }
    let (good, bad) = sort_out(std::mem::take(&mut beginning.record.targets));
    beginning.record.targets = good;
    match (&config.peers, beginning.resumed) {
        (Peers::Given(_), false) if !bad.is_empty() => Err(anyhow!(bad.join("\n"))),
        _ => {
            for error in bad {
                tracing::warn!("a stored peer is left out: {error}");
            }
            Ok(beginning)
        }
    }
}

/// The names of containers, and the server for them.
async fn start_names(
    config: &mut Config,
    ours: PeerName,
    store: &Store,
) -> anyhow::Result<Option<Arc<NameService>>> {
    let Some(names_config) = config.names.take() else {
        return Ok(None);
    };
    let former = names::former(store, ours)?;
    if !former.is_empty() {
        tracing::info!("{} names are those of the daemon before", former.len());
    }
    let names = Names::new(ours, names_config.domain.clone(), former);
    let service = NameService::start(names, names_config, config.bridge.clone()).await?;
    Ok(Some(Arc::new(service)))
}

fn random_seed() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    SysRng
        .try_fill_bytes(&mut seed)
        .context("the kernel gives no random numbers")?;
    Ok(seed)
}

/// Looks whether the range is in the way of the host's own networks. A range that nobody asked for
/// must not be, unless addresses are given out from it already.
async fn check_range(
    allocation: &Allocation,
    bridge: Option<&str>,
    has_state: bool,
) -> anyhow::Result<()> {
    let range = allocation.range;
    let conflicts = match host_routes::conflicts(bridge, range).await {
        Ok(conflicts) => conflicts.join(", "),
        Err(error) => {
            tracing::warn!("cannot tell whether {range} is in the way of the host: {error}");
            return Ok(());
        }
    };
    if conflicts.is_empty() {
        return Ok(());
    }
    anyhow::ensure!(
        has_state || !allocation.is_default,
        "Default --ipalloc-range {range} overlaps with {conflicts} on this host; pick another range \
         and set it on all hosts, or turn allocation off with --ipalloc-range="
    );
    tracing::warn!(
        "--ipalloc-range {range} overlaps with {conflicts} on this host: unless this is deliberate, \
         pick another range and set it on all hosts"
    );
    Ok(())
}

fn start_ipam(
    allocation: &Allocation,
    (name, uid, nickname): (PeerName, PeerUid, &str),
    pre_claims: Vec<PreClaim>,
    store: &Store,
) -> anyhow::Result<Ipam> {
    let Allocation {
        range,
        default_subnet,
        ..
    } = allocation;
    tracing::info!("Allocating addresses from {range}, by default from {default_subnet}");
    let config = ipam::Config {
        name,
        uid,
        nickname: nickname.to_owned(),
        universe: *range,
        default_subnet: *default_subnet,
        init: allocation.init.clone(),
        pre_claims,
        rng_seed: random_seed()?,
    };
    Ok(Ipam::begin(config, store)?)
}

/// Gives our addresses to another host, and waits until the others have been told.
async fn hand_over(ipam: &Ipam, router: &RouterHandle) {
    let told = async {
        let heir = ipam.shut_down().await;
        ipam.sent().await;
        // The router has stopped already.
        let _ = router.flush().await;
        heir
    };
    match timeout(HAND_OVER_TIMEOUT, told).await {
        Ok(Ok(Some(heir))) => tracing::info!("our addresses belong to {heir} now"),
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::error!("our addresses are not handed over: {error}"),
        Err(_) => tracing::error!(
            "our addresses are not handed over in time: use \"rmpeer\" on another host"
        ),
    }
}

fn start(
    config: &mut Config,
    (name, nickname): (PeerName, &str),
    queues: Vec<Box<dyn TapDevice>>,
    services: &Services,
    seed: [u8; 32],
) -> anyhow::Result<Router> {
    let mut channels: Vec<(String, Box<dyn GossipChannel>)> = Vec::new();
    if let Some(service) = &services.names {
        let channel = names::Channel::new(service.names().clone());
        channels.push((::dns::CHANNEL.to_owned(), Box::new(channel)));
    }
    if let Some(ipam) = &services.ipam {
        channels.extend(ipam.channels());
    }
    let router = Router::start(RouterConfig {
        data: config.data,
        mesh: MeshConfig {
            name,
            nickname: nickname.to_owned(),
            password: config.password.take(),
            versions: config.versions,
            overlays: std::mem::take(&mut config.overlays),
            port: config.port,
            discovery: config.discovery,
            conn_limit: config.conn_limit,
            trusted_subnets: std::mem::take(&mut config.trusted_subnets),
        },
        bind: config.bind,
        queues,
        udp_offload: config.udp_offload,
        channels,
        seed,
    })?;
    Ok(router)
}

/// Connections of peers and of waiting clients may be more than a process has files by default.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < FILE_COUNT) {
        let most = limit.maximum.unwrap_or(FILE_COUNT);
        limit.current = Some(most.min(FILE_COUNT));
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
}

fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// Logs all there is to know, as the original's dump on SIGQUIT did for its own developers.
async fn show(admin: &Admin) {
    match admin.report().await {
        Ok(report) => match to_json(&report) {
            Ok(json) => json.lines().for_each(|line| tracing::info!("{line}")),
            Err(error) => tracing::error!(%error, "cannot show the report"),
        },
        Err(error) => tracing::error!("{error}"),
    }
}

/// The signals that matter.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

/// What a signal asks for.
enum Sign {
    /// To end; with the name of the signal.
    End(&'static str),
    /// To log the report.
    Show,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) -> Sign {
        tokio::select! {
            _ = self.interrupt.recv() => Sign::End("SIGINT"),
            _ = self.terminate.recv() => Sign::End("SIGTERM"),
            _ = self.hangup.recv() => Sign::End("SIGHUP"),
            _ = self.quit.recv() => Sign::Show,
        }
    }
}

/// Where the API is served.
struct Listeners {
    control: Option<Listener>,
    status: Option<Listener>,
    metrics: Option<Listener>,
}

impl Listeners {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            control: Listener::bind(&config.http, "--http-addr").await?,
            status: Listener::bind(&config.status, "--status-addr").await?,
            metrics: Listener::bind(&config.metrics, "--metrics-addr").await?,
        })
    }

    fn serve(self, admin: &Arc<Admin>, nickname: &str, end: &CancellationToken) -> JoinSet<()> {
        let mut serving = JoinSet::new();
        if let Some(listener) = self.control {
            let guard = Guard::new([host_name(), nickname.to_owned()], listener.is_unix());
            let router = admin::control(admin.clone(), guard);
            serving.spawn(serve(listener, router, end.clone()));
        }
        if let Some(listener) = self.status {
            serving.spawn(serve(listener, admin::status(admin.clone()), end.clone()));
        }
        if let Some(listener) = self.metrics {
            serving.spawn(serve(listener, admin::metrics(admin.clone()), end.clone()));
        }
        serving
    }
}

/// The bridge, and the TAP device on it.
struct Underside {
    netlink: Netlink,
    bridge: String,
    tap: String,
    description: String,
    peer: PeerName,
    mtu: Option<u32>,
}

impl Underside {
    async fn make(
        bridge: &str,
        peer: PeerName,
        config: &Config,
    ) -> anyhow::Result<(Self, Vec<Box<dyn TapDevice>>)> {
        let mtu = config.mtu;
        let netlink = Netlink::current().context("cannot speak with the kernel")?;
        bridge::ensure(&netlink, bridge, peer, mtu).await?;
        let name = bridge::tap_name(bridge);
        let opened = tap::open(&name, config.tap, config.data.workers)?;
        let offloads = opened.queues.first().map(|queue| queue.offloads());
        let offloads = offloads.map_or("", Offloads::describe);
        let mut description = format!("{name} (via TAP, {offloads}");
        if opened.queues.len() > 1 {
            description.push_str(&format!(", {} queues", opened.queues.len()));
        }
        if let Some(reason) = opened.refused {
            tracing::warn!("going on with plain frames, at a fraction of the speed: {reason}");
            description.push_str(": ");
            description.push_str(&reason);
        }
        description.push(')');
        netlink.add_port(bridge, &name).await?;
        let made = Self {
            netlink,
            bridge: bridge.to_owned(),
            tap: name,
            description,
            peer,
            mtu,
        };
        Ok((made, opened.queues))
    }

    fn ports(&self) -> Ports {
        Ports::new(self.netlink.clone(), self.bridge.clone())
    }

    /// As the original names the device that it captures from.
    fn describe(&self) -> String {
        self.description.clone()
    }

    /// Makes the bridge again if somebody has removed it.
    async fn look_after(&self) {
        let repair = async {
            if bridge::holds(&self.netlink, &self.bridge, &self.tap).await? {
                return anyhow::Ok(());
            }
            tracing::warn!("bridge {} is gone or down: making it again", self.bridge);
            bridge::ensure(&self.netlink, &self.bridge, self.peer, self.mtu).await?;
            self.netlink.add_port(&self.bridge, &self.tap).await?;
            Ok(())
        };
        if let Err(error) = repair.await {
            tracing::error!("cannot look after bridge {}: {error:#}", self.bridge);
        }
    }
}
