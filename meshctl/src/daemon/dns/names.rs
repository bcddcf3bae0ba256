//! The names that this host knows, shared between the mesh, the control API and queries.
//!
//! Mesh and API take a lock for moments; queries take none.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use dns::{BadName, Domain, Entry, Nameserver, Received, Selection, Update};
use proto::PeerName;
use proto::gossip::{GossipData, GossipRefused};
use tokio::sync::Notify;

use super::clocks::{Clock, Clocks};

/// Names, ours among them.
#[derive(Debug)]
pub struct Names {
    ours: PeerName,
    domain: Domain,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    nameserver: Nameserver,
    /// The peers of the mesh besides ourselves.
    peers: BTreeSet<PeerName>,
    clocks: Clocks,
    /// What waits to be broadcast, merged.
    outgoing: Option<Update>,
    refused: u64,
}

/// What became of a name that was to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// All hosts are told of it.
    Registered,
    /// It lies outside of the domain: nothing was done.
    Foreign,
}

impl Names {
    /// The names that the peer `ours` had before, if any.
    pub fn new(ours: PeerName, domain: Domain, former: Vec<Entry>) -> Arc<Self> {
        let mut nameserver = Nameserver::new(ours, domain.clone()).tolerating_skew();
        nameserver.restore(former);
        Arc::new(Self {
            ours,
            domain,
            state: Mutex::new(State {
                nameserver,
                peers: BTreeSet::new(),
                clocks: Clocks::default(),
                outgoing: None,
                refused: 0,
            }),
            changed: Notify::new(),
        })
    }

    /// The domain in which names lie.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The names as queries see them.
    pub fn index(&self) -> dns::Names {
        self.lock().nameserver.names()
    }

    /// Registers a name of a container.
    pub fn add(&self, hostname: &str, container: &str, addr: IpAddr) -> Result<Added, BadName> {
        let mut state = self.lock();
        let update = state.nameserver.add(hostname, container, addr, now())?;
        Ok(match update {
            Some(update) => {
                tracing::info!(hostname, container, %addr, "adding a name");
                self.send(&mut state, update);
                Added::Registered
            }
            None => {
                let domain = &self.domain;
                tracing::info!("ignoring the name {hostname:?}, which is outside of {domain}");
                Added::Foreign
            }
        })
    }

    /// Deletes own names.
    pub fn delete(&self, which: &Selection<'_>) {
        let mut state = self.lock();
        if let Some(update) = state.nameserver.delete(which, now()) {
            tracing::info!("deleting {} names: {which:?}", update.entries().len());
            self.send(&mut state, update);
        }
    }

    /// Removes tombstones whose time is over.
    pub fn collect(&self) {
        let count = self.lock().nameserver.collect(now());
        if count > 0 {
            tracing::info!("collected {count} tombstones of names");
        }
    }

    /// All entries, tombstones included, in table order.
    pub fn entries(&self) -> Vec<Entry> {
        let state = self.lock();
        let table = state.nameserver.table().iter();
        table
            .map(|(key, mark)| Entry {
                key: key.clone(),
                mark,
            })
            .collect()
    }

    /// Number of live entries: own ones, and all.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        let table = state.nameserver.table();
        (table.live_of(self.ours).count(), table.live_count())
    }

    /// The clocks of the peers that were heard.
    pub fn clocks(&self) -> Vec<Clock> {
        self.lock().clocks.all()
    }

    /// Updates that could not be read.
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// Waits for something to broadcast.
    pub async fn outgoing(&self) -> Update {
        loop {
            if let Some(update) = self.lock().outgoing.take() {
                return update;
            }
            self.changed.notified().await;
        }
    }

    /// Everything that we know, as of now.
    pub(super) fn full_state(&self) -> Update {
        self.lock().nameserver.full_state(now())
    }

    /// An update from `source`, of its own or only by its hand. Returns what to pass on.
    pub(super) fn receive(
        &self,
        source: PeerName,
        merge: impl FnOnce(
            &mut Nameserver,
            i64,
            &dyn Fn(PeerName) -> bool,
        ) -> Result<Received, dns::wire::DecodeError>,
    ) -> Result<Option<Update>, GossipRefused> {
        let mut state = self.lock();
        let State {
            nameserver,
            peers,
            clocks,
            ..
        } = &mut *state;
        let received = merge(nameserver, now(), &|peer| peers.contains(&peer));
        let received = match received {
            Ok(received) => received,
            Err(error) => {
                // The original closes the connection, and with it all that works over it.
                state.refused = state.refused.saturating_add(1);
                tracing::warn!(%source, "ignoring an update: {error}");
                return Ok(None);
            }
        };
        if peers.contains(&source) {
            clocks.note(source, received.offset);
        }
        if let Some(update) = received.corrected {
            tracing::info!(
                "correcting what {source} says of {} names of ours",
                update.entries().len()
            );
            self.send(&mut state, update);
        }
        Ok(received.pass_on)
    }

    pub(super) fn learn_peer(&self, peer: PeerName) {
        self.lock().peers.insert(peer);
    }

    pub(super) fn forget_peer(&self, peer: PeerName) {
        let mut state = self.lock();
        state.peers.remove(&peer);
        state.clocks.forget(peer);
        let count = state.nameserver.forget_peer(peer);
        if count > 0 {
            tracing::info!("peer {peer} is gone, and {count} names with it");
        }
    }

    fn send(&self, state: &mut State, update: Update) {
        match &mut state.outgoing {
            Some(waiting) => waiting.merge(Box::new(update)),
            waiting => *waiting = Some(update),
        }
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unix seconds of the wall clock.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}
