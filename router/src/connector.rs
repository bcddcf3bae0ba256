//! Whom to dial, and when to try again.
//!
//! A *direct* peer is one the user named, as `host[:port]`; a *discovered* address is one that
//! another peer lists for a peer to which we have no connection. Both become *targets*, keyed by
//! IP and port. Rules and numbers: Weave mesh protocol, section 6.
//!
//! A target waits, is attempted, or is connected:
//!
//! ```text
//!            due                    added to the mesh
//!  waiting ───────► attempting ─────────────────────► connected
//!     ▲                 │ failed: later, at growing        │ lost: at once after a long life,
//!     └─────────────────┴──────── intervals ◄──────────────┘       else like a failure
//! ```
//!
//! Two things go beyond the original:
//!
//! * A host name is looked up again before every try, and all its addresses are targets: those of
//!   IPv4 if it has any. The original keeps the one address that it found first.
//! * Two addresses of one peer do not fight: the target whose connection lost the tie rests for as
//!   long as we are connected to that peer. The original dials again and again, and each time has
//!   an even chance to cut the connection that works.
//!
//! The machine does no IO. Its owner passes in events, calls [`Connector::survey`] while
//! [`Connector::needs_survey`] and [`Connector::handle_timeout`] at [`Connector::poll_timeout`], and
//! after each of these takes [`Action`]s from [`Connector::poll_action`] until there is none.

mod spec;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use proto::PeerName;
use rand::{Rng, RngExt};

use crate::constants::{
    MAX_ADDRESSES_PER_NAME, MAX_DIALS, MAX_TARGETS, RETRY_INITIAL, RETRY_MAX, RETRY_RESET_AFTER,
};
use crate::status::ConnectionState;

pub use spec::{BadTarget, Host, TargetSpec};

/// What the owner of a [`Connector`] has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Look up all addresses of this name; answer with [`Connector::handle_resolved`].
    Resolve {
        /// The name, as the user wrote it.
        host: String,
    },
    /// Dial. Answer with [`Connector::handle_connected`] when the connection has been added to the
    /// mesh, and with [`Connector::handle_ended`] when the attempt or the connection is over.
    Dial {
        /// Where to.
        address: SocketAddr,
        /// The user named this address: a peer whose name is unknown is welcome there.
        accept_new: bool,
    },
}

/// How an attempt, or the connection it led to, came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Never became a connection of the mesh.
    Failed,
    /// Was a connection of the mesh, and broke.
    Lost,
    /// Gave way to another connection to the same peer.
    Duplicate(PeerName),
    /// Reached ourselves, or a peer with our name: not to be tried again.
    Never,
}

/// One of our connections, as a survey needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnConnection {
    /// The peer at the other end.
    pub peer: PeerName,
    /// Remote end of the TCP connection.
    pub remote: SocketAddr,
    /// Whether this end dialled.
    pub outbound: bool,
}

/// An address at which some peer sees another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// The peer that was seen.
    pub peer: PeerName,
    /// Its address as listed.
    pub address: SocketAddr,
    /// Whether the peer that lists it dialled that address. If not, its port means nothing.
    pub outbound: bool,
}

/// A target as the status shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetStatus {
    /// `ip:port`, or as the user wrote it while no address of it is known.
    pub address: String,
    /// Failed, retrying or connecting.
    pub state: ConnectionState,
    /// The last error.
    pub error: Option<String>,
    /// Seconds until the next attempt, of a failed target only. `None`: never.
    pub retry_in: Option<f64>,
}

/// Decides whom to dial. See the module.
#[derive(Debug)]
pub struct Connector {
    port: u16,
    discovery: bool,
    /// By the text that the user wrote.
    direct: BTreeMap<String, TargetSpec>,
    /// Host names among the direct peers.
    names: BTreeMap<String, Name>,
    targets: BTreeMap<SocketAddr, Target>,
    attempting_count: usize,
    needs_survey: bool,
    actions: VecDeque<Action>,
}

/// Delay between attempts: uniform in 0.5 to 1.5 of an interval that grows by half each time.
#[derive(Debug, Clone, Copy)]
struct Backoff {
    interval: Duration,
}

/// What we know of a host name.
#[derive(Debug)]
struct Name {
    /// As of the last successful look-up.
    addresses: BTreeSet<IpAddr>,
    asking: bool,
    /// Time of the last answer, good or bad.
    answered_at: Option<Instant>,
    /// Why the last look-up failed.
    error: Option<String>,
    /// Next look-up, even if none of the addresses is due.
    ask_at: Instant,
    backoff: Backoff,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Attempting,
    Connected,
}

#[derive(Debug)]
struct Target {
    state: State,
    last_error: Option<String>,
    /// Earliest next attempt, kept while it runs; `None`: never.
    try_after: Option<Instant>,
    backoff: Backoff,
    /// Gave way to another connection to this peer.
    duplicate_of: Option<PeerName>,
    /// As of the last survey: worth trying.
    valid: bool,
    /// As of the last survey: stands for a direct peer.
    direct: bool,
    /// As of the last survey: the names it comes from, empty if it is known otherwise too.
    names: Vec<String>,
}

/// What a survey finds out about one address.
#[derive(Debug, Default)]
struct Finding {
    valid: bool,
    direct: bool,
    /// Known as an address, not only through names.
    plain: bool,
    names: Vec<String>,
}

impl Backoff {
    const NEW: Self = Self {
        interval: RETRY_INITIAL,
    };

    fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let delay = self.interval / 2 + self.interval.mul_f64(rng.random::<f64>());
        self.interval = (self.interval * 3 / 2).min(RETRY_MAX);
        delay
    }
}

impl Name {
    fn new(now: Instant) -> Self {
        Self {
            addresses: BTreeSet::new(),
            asking: false,
            answered_at: None,
            error: None,
            ask_at: now,
            backoff: Backoff::NEW,
        }
    }
}

impl Target {
    fn new(now: Instant) -> Self {
        Self {
            state: State::Waiting,
            last_error: None,
            try_after: Some(now),
            backoff: Backoff::NEW,
            duplicate_of: None,
            valid: true,
            direct: false,
            names: Vec::new(),
        }
    }

    fn try_now(&mut self, now: Instant) {
        self.try_after = Some(now);
        self.backoff = Backoff::NEW;
    }

    fn try_later(&mut self, now: Instant, rng: &mut impl Rng) {
        self.try_after = Some(now + self.backoff.next(rng));
    }

    fn is_due(&self, now: Instant) -> bool {
        self.state == State::Waiting && self.valid && self.try_after.is_some_and(|at| at <= now)
    }
}

impl Connector {
    /// Nobody to dial yet. `port` is ours, and everybody's whose port is not known.
    pub fn new(port: u16, discovery: bool) -> Self {
        Self {
            port,
            discovery,
            direct: BTreeMap::new(),
            names: BTreeMap::new(),
            targets: BTreeMap::new(),
            attempting_count: 0,
            needs_survey: false,
            actions: VecDeque::new(),
        }
    }

    /// Whether addresses learnt from other peers are dialled.
    pub fn discovery(&self) -> bool {
        self.discovery
    }

    /// Adds direct peers, after dropping all others if `replace`. Those that wait are tried at once,
    /// also those that were never to be tried again. Changes nothing if one of them is not
    /// `host[:port]`.
    pub fn connect(
        &mut self,
        peers: &[String],
        replace: bool,
        now: Instant,
    ) -> Result<(), BadTarget> {
        let specs = peers
            .iter()
            .map(|peer| peer.parse::<TargetSpec>().map(|spec| (peer.clone(), spec)))
            .collect::<Result<Vec<_>, _>>()?;
        if replace {
            self.direct.clear();
        }
        for (peer, spec) in specs {
            match &spec.host {
                Host::Address(ip) => self.retry_now(*ip, spec.port, now),
                Host::Name(host) => {
                    let name = self
                        .names
                        .entry(host.clone())
                        .or_insert_with(|| Name::new(now));
                    name.ask_at = now;
                    name.backoff = Backoff::NEW;
                    for ip in name.addresses.clone() {
                        self.retry_now(ip, spec.port, now);
                    }
                }
            }
            self.direct.insert(peer, spec);
        }
        self.prune_names();
        self.needs_survey = true;
        Ok(())
    }

    fn retry_now(&mut self, ip: IpAddr, port: Option<u16>, now: Instant) {
        let address = SocketAddr::new(ip, port.unwrap_or(self.port));
        if let Some(target) = self.targets.get_mut(&address) {
            target.try_now(now);
            target.duplicate_of = None;
        }
    }

    /// Drops direct peers from the list, by the text with which they were added. Connections to
    /// them live on.
    pub fn forget(&mut self, peers: &[String]) {
        for peer in peers {
            self.direct.remove(peer);
        }
        self.prune_names();
        self.needs_survey = true;
    }

    fn prune_names(&mut self) {
        let used: BTreeSet<&String> = self
            .direct
            .values()
            .filter_map(|spec| spec.name())
            .collect();
        self.names.retain(|host, _| used.contains(host));
    }

    /// The direct peers as the user wrote them, sorted.
    pub fn targets(&self) -> Vec<String> {
        self.direct.keys().cloned().collect()
    }

    /// How many direct peers have not turned out to be ourselves or to bear our name.
    pub fn active_count(&self) -> usize {
        let never = |ip: IpAddr, port: Option<u16>| {
            let address = SocketAddr::new(ip, port.unwrap_or(self.port));
            self.targets
                .get(&address)
                .is_some_and(|target| target.try_after.is_none())
        };
        self.direct
            .values()
            .filter(|spec| match &spec.host {
                Host::Address(ip) => !never(*ip, spec.port),
                Host::Name(host) => self.names.get(host).is_none_or(|name| {
                    name.addresses.is_empty()
                        || name.addresses.iter().any(|ip| !never(*ip, spec.port))
                }),
            })
            .count()
    }

    /// The answer to [`Action::Resolve`]. After a failure the addresses known before are tried.
    pub fn handle_resolved(
        &mut self,
        host: &str,
        answer: Result<Vec<IpAddr>, String>,
        now: Instant,
        rng: &mut impl Rng,
    ) {
        let Some(name) = self.names.get_mut(host) else {
            return; // forgotten meanwhile
        };
        name.asking = false;
        name.answered_at = Some(now);
        match answer {
            Ok(addresses) if addresses.is_empty() => {
                name.error = Some(format!("{host} has no address"));
            }
            Ok(addresses) => {
                name.error = None;
                let addresses = usable(addresses);
                if name.addresses != addresses {
                    tracing::debug!(host, ?addresses, "name resolved");
                    name.addresses = addresses;
                    name.backoff = Backoff::NEW;
                }
            }
            Err(error) => name.error = Some(error),
        }
        name.ask_at = now + name.backoff.next(rng);
        self.needs_survey = true;
    }

    /// Our connection to this target has been added to the mesh.
    pub fn handle_connected(&mut self, address: SocketAddr) {
        if let Some(target) = self.targets.get_mut(&address) {
            if target.state == State::Attempting {
                self.attempting_count = self.attempting_count.saturating_sub(1);
            }
            target.state = State::Connected;
        }
        self.needs_survey = true;
    }

    /// The attempt at this target, or the connection it led to, is over.
    pub fn handle_ended(
        &mut self,
        address: SocketAddr,
        ending: Ending,
        error: String,
        now: Instant,
        rng: &mut impl Rng,
    ) {
        self.needs_survey = true;
        let Some(target) = self.targets.get_mut(&address) else {
            return;
        };
        if target.state == State::Attempting {
            self.attempting_count = self.attempting_count.saturating_sub(1);
        }
        target.state = State::Waiting;
        target.last_error = Some(error);
        target.duplicate_of = None;
        match ending {
            Ending::Never => {
                target.try_after = None;
                target.backoff.interval = RETRY_MAX;
            }
            Ending::Lost
                if target
                    .try_after
                    .is_some_and(|due| now > due + RETRY_RESET_AFTER) =>
            {
                target.try_now(now);
            }
            Ending::Lost | Ending::Failed => target.try_later(now, rng),
            Ending::Duplicate(peer) => {
                target.duplicate_of = Some(peer);
                target.try_later(now, rng);
            }
        }
    }

    /// Something that decides which targets are valid has changed here. The owner knows by itself
    /// when an inbound connection came or went, or the topology has changed.
    pub fn needs_survey(&self) -> bool {
        self.needs_survey
    }

    /// Looks again at which addresses are worth dialling, and dials those that are due. `own` are
    /// our connections; `sightings` where other peers see peers, best without those to whom we are
    /// connected.
    pub fn survey(
        &mut self,
        own: &[OwnConnection],
        sightings: impl IntoIterator<Item = Sighting>,
        now: Instant,
    ) {
        self.needs_survey = false;
        let connected_peers: BTreeSet<PeerName> = own.iter().map(|own| own.peer).collect();
        let connected_addresses: BTreeSet<SocketAddr> =
            own.iter().map(|own| canonical(own.remote)).collect();
        let inbound_ips: BTreeSet<IpAddr> = own
            .iter()
            .filter(|own| !own.outbound)
            .map(|own| own.remote.ip().to_canonical())
            .collect();

        let mut findings: BTreeMap<SocketAddr, Finding> = BTreeMap::new();
        for spec in self.direct.values() {
            let (addresses, name) = match &spec.host {
                Host::Address(ip) => (BTreeSet::from([*ip]), None),
                Host::Name(host) => match self.names.get(host) {
                    Some(name) => (name.addresses.clone(), Some(host)),
                    None => continue,
                },
            };
            for ip in addresses {
                let finding = findings
                    .entry(SocketAddr::new(ip, spec.port.unwrap_or(self.port)))
                    .or_default();
                finding.direct = true;
                finding.valid |= spec.port.is_some() || !inbound_ips.contains(&ip);
                match name {
                    Some(host) => finding.names.push(host.clone()),
                    None => finding.plain = true,
                }
            }
        }
        if self.discovery {
            for sighting in sightings {
                if connected_peers.contains(&sighting.peer) {
                    continue;
                }
                if let Some(address) = self.dialable(sighting) {
                    if findings.len() >= MAX_TARGETS && !findings.contains_key(&address) {
                        break;
                    }
                    let finding = findings.entry(address).or_default();
                    finding.valid = true;
                    finding.plain = true;
                }
            }
        }

        self.targets.retain(|address, target| {
            let finding = findings.remove(address).unwrap_or_default();
            if target
                .duplicate_of
                .is_some_and(|peer| !connected_peers.contains(&peer))
            {
                target.duplicate_of = None;
            }
            target.direct = finding.direct;
            target.valid = finding.valid
                && target.duplicate_of.is_none()
                && !connected_addresses.contains(address);
            target.names = if finding.plain {
                Vec::new()
            } else {
                finding.names
            };
            target.valid || target.direct || target.state != State::Waiting
        });
        for (address, finding) in findings {
            if finding.valid && !connected_addresses.contains(&address) {
                let target = self.targets.entry(address).or_insert(Target::new(now));
                target.direct = finding.direct;
                if !finding.plain {
                    target.names = finding.names;
                }
            }
        }
        self.handle_timeout(now);
    }

    /// Where to dial the peer of a sighting.
    fn dialable(&self, sighting: Sighting) -> Option<SocketAddr> {
        let listed = canonical(sighting.address);
        let port = if sighting.outbound {
            listed.port()
        } else {
            self.port
        };
        let ip = listed.ip();
        let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        if port == 0 || ip.is_unspecified() || ip.is_multicast() || broadcast {
            return None;
        }
        Some(SocketAddr::new(ip, port))
    }

    /// Dials what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut ask: BTreeSet<String> = BTreeSet::new();
        for (host, name) in &self.names {
            if !name.asking && name.ask_at <= now {
                ask.insert(host.clone());
            }
        }
        for (address, target) in &mut self.targets {
            if !target.is_due(now) {
                continue;
            }
            // An address that comes from names alone is tried with a fresh answer only.
            let fresh = target.names.is_empty()
                || target.names.iter().any(|host| {
                    self.names.get(host).is_some_and(|name| {
                        !name.asking
                            && name.answered_at.is_some()
                            && name.answered_at >= target.try_after
                    })
                });
            if !fresh {
                ask.extend(target.names.iter().cloned());
                continue;
            }
            if self.attempting_count >= MAX_DIALS {
                continue; // until another attempt is over
            }
            self.attempting_count += 1;
            target.state = State::Attempting;
            self.actions.push_back(Action::Dial {
                address: *address,
                accept_new: target.direct,
            });
        }
        for host in ask {
            if let Some(name) = self.names.get_mut(&host)
                && !name.asking
            {
                name.asking = true;
                self.actions.push_back(Action::Resolve { host });
            }
        }
    }

    /// When to call [`Self::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let names = self
            .names
            .values()
            .filter(|name| !name.asking)
            .map(|name| name.ask_at);
        let targets = self
            .targets
            .values()
            .filter(|target| target.state == State::Waiting && target.valid)
            .filter(|target| self.attempting_count < MAX_DIALS && !self.is_asked_for(target))
            .filter_map(|target| target.try_after);
        names.chain(targets).min()
    }

    /// Whether a target waits for the answer to a look-up.
    fn is_asked_for(&self, target: &Target) -> bool {
        target
            .names
            .iter()
            .any(|host| self.names.get(host).is_some_and(|name| name.asking))
    }

    /// The next thing to do, until `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// All targets that are not connected and not at rest, and names without address.
    pub fn status(&self, now: Instant) -> Vec<TargetStatus> {
        let entry = |address: String, active, error: &Option<String>, retry: Option<Instant>| {
            let (state, retry) = match (active, error) {
                (true, None) => (ConnectionState::Connecting, None),
                (true, Some(_)) => (ConnectionState::Retrying, None),
                (false, _) => (ConnectionState::Failed, retry),
            };
            TargetStatus {
                address,
                state,
                error: error.clone(),
                retry_in: retry.map(|at| at.saturating_duration_since(now).as_secs_f64()),
            }
        };
        let mut all = Vec::new();
        for (text, spec) in &self.direct {
            if let Some(name) = spec.name().and_then(|host| self.names.get(host))
                && name.addresses.is_empty()
            {
                let active = name.asking || name.error.is_none();
                all.push(entry(text.clone(), active, &name.error, Some(name.ask_at)));
            }
        }
        for (address, target) in &self.targets {
            let active = match target.state {
                State::Connected => continue,
                State::Waiting if !target.valid => continue,
                State::Waiting => target.is_due(now) || target.last_error.is_none(),
                State::Attempting => true,
            };
            all.push(entry(
                address.to_string(),
                active,
                &target.last_error,
                target.try_after,
            ));
        }
        all
    }
}

/// The addresses of a name that are worth dialling. The overlay needs IPv4, so IPv6 is only for names
/// that have nothing else; a connection over each would be one too many.
fn usable(addresses: Vec<IpAddr>) -> BTreeSet<IpAddr> {
    let addresses = addresses.into_iter().map(|ip| ip.to_canonical());
    let (v4, v6): (BTreeSet<_>, BTreeSet<_>) = addresses.partition(IpAddr::is_ipv4);
    let chosen = if v4.is_empty() { v6 } else { v4 };
    chosen.into_iter().take(MAX_ADDRESSES_PER_NAME).collect()
}

/// IPv4 as IPv4, however the socket shows it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
