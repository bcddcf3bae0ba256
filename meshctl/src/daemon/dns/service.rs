//! The names and the server that answers queries about them.
//!
//! Unless the user says where, queries are answered at an address that containers reach on every
//! host, as Weave's script chose it: that of Docker's bridge, or else that of our own. Without any,
//! names are shared all the same, and each beat of the daemon looks again: Docker may start later.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use dns::server::{Config, Server};
use dns::stats::Stats;
use host::netlink::Netlink;

use super::Names;
use crate::daemon::config::{Listen, NamesConfig};
use crate::report::{ClockReport, DnsEntry, DnsReport, OwnDns, Report};

/// Names, and perhaps a server.
#[derive(Debug)]
pub struct NameService {
    names: Arc<Names>,
    config: NamesConfig,
    /// Our own bridge.
    bridge: Option<String>,
    server: Mutex<Serving>,
}

enum Serving {
    Yes(Server),
    /// Nowhere, for this reason.
    No(String),
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes(server) => f.debug_tuple("Yes").field(&server.addresses()).finish(),
            Self::No(reason) => f.debug_tuple("No").field(reason).finish(),
        }
    }
}

impl NameService {
    /// Starts answering, if it can be. An error means that the user wanted the impossible.
    pub async fn start(
        names: Arc<Names>,
        config: NamesConfig,
        bridge: Option<String>,
    ) -> anyhow::Result<Self> {
        let service = Self {
            names,
            config,
            bridge,
            server: Mutex::new(Serving::No(String::new())),
        };
        match service.config.listen {
            Listen::Given(address) => {
                let server = service
                    .listen(address)
                    .with_context(|| format!("--dns-listen-address {address} cannot be had"))?;
                *service.lock() = Serving::Yes(server);
            }
            Listen::Found { .. } => service.look_after().await,
        }
        Ok(service)
    }

    /// Starts answering as soon as there is an address to answer at.
    pub async fn look_after(&self) {
        let Listen::Found {
            docker_bridge,
            port,
        } = &self.config.listen
        else {
            return;
        };
        if matches!(&*self.lock(), Serving::Yes(_)) {
            return;
        }
        let bridges = [Some(docker_bridge.as_str()), self.bridge.as_deref()];
        let bridges: Vec<&str> = bridges.into_iter().flatten().collect();
        let serving = match address_of(&bridges).await {
            Some(ip) => match self.listen((ip, *port).into()) {
                Ok(server) => Serving::Yes(server),
                Err(error) => Serving::No(format!("{error:#}")),
            },
            None => Serving::No(format!(
                "as no bridge has an IPv4 address ({})",
                bridges.join(", ")
            )),
        };
        let mut known = self.lock();
        if let (Serving::No(reason), Serving::No(before)) = (&serving, &*known)
            && reason != before
        {
            tracing::warn!(
                "no queries for names are answered, {reason}; --dns-listen-address names \
                 another address, --no-dns does without"
            );
        }
        *known = serving;
    }

    fn listen(&self, address: SocketAddr) -> anyhow::Result<Server> {
        let config = Config {
            listen: vec![address],
            ttl: self.config.ttl,
            resolv_conf: self.config.resolv_conf.clone(),
            timeout: self.config.timeout,
            ..Config::default()
        };
        let server = Server::start(config, self.names.index())?;
        tracing::info!(
            "answering queries for names in {} at {address}",
            self.names.domain()
        );
        Ok(server)
    }

    /// The names.
    pub fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// Where queries are answered.
    pub fn address(&self) -> Option<SocketAddr> {
        match &*self.lock() {
            Serving::Yes(server) => server.addresses().first().copied(),
            Serving::No(_) => None,
        }
    }

    /// What was asked, and what came of it.
    pub fn stats(&self) -> Stats {
        match &*self.lock() {
            Serving::Yes(server) => server.stats(),
            Serving::No(_) => Stats::default(),
        }
    }

    /// Adds what there is to tell.
    pub fn report(&self, report: &mut Report) {
        let entries: Vec<_> = (self.names.entries().into_iter())
            .map(|entry| DnsEntry {
                hostname: entry.key.hostname,
                origin: entry.key.origin.to_string(),
                container_id: entry.key.container,
                address: entry.key.addr.to_string(),
                version: entry.mark.version,
                tombstone: entry.mark.tombstone,
            })
            .collect();
        let (address, upstream, problem) = match &*self.lock() {
            Serving::Yes(server) => {
                let address = server.addresses().first().map(ToString::to_string);
                (address.unwrap_or_default(), server.upstream(), None)
            }
            Serving::No(reason) => (String::new(), Vec::new(), Some(reason.clone())),
        };
        report.dns = Some(DnsReport {
            domain: self.names.domain().to_string(),
            upstream: upstream.iter().map(ToString::to_string).collect(),
            address,
            ttl: self.config.ttl,
            entries: (!entries.is_empty()).then_some(entries),
        });
        let mut queries: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for (kind, outcome, count) in self.stats().iter().filter(|(.., count)| *count > 0) {
            let of_kind = queries.entry(kind.label().to_owned()).or_default();
            of_kind.insert(outcome.label().to_owned(), count);
        }
        let nicknames: BTreeMap<_, _> = (report.router.peers.iter())
            .map(|peer| (peer.name.as_str(), peer.nick_name.as_str()))
            .collect();
        let clocks = (self.names.clocks().into_iter())
            .map(|clock| {
                let peer = clock.peer.to_string();
                ClockReport {
                    nick_name: nicknames
                        .get(peer.as_str())
                        .copied()
                        .unwrap_or("")
                        .to_owned(),
                    peer,
                    offset: clock.offset,
                    wrong: clock.is_wrong,
                }
            })
            .collect();
        report.meshctl.dns = Some(OwnDns {
            problem,
            queries,
            refused_updates: self.names.refused(),
            clocks,
        });
    }

    fn lock(&self) -> MutexGuard<'_, Serving> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The IPv4 address of the first of these links that has one.
async fn address_of(links: &[&str]) -> Option<IpAddr> {
    let netlink = Netlink::current().ok()?;
    for link in links {
        let addresses = netlink.addresses(link).await.unwrap_or_default();
        let mut addresses = addresses.into_iter().map(|cidr| cidr.address);
        if let Some(address) = addresses.find(IpAddr::is_ipv4) {
            return Some(address);
        }
    }
    None
}
