//! Address allocation in the daemon: `ipam`'s allocator with a disk, a mesh and clients around it.
//!
//! ```text
//!   HTTP ── Ipam ──┐                                ┌── Save ──► disk thread (one commit at a time)
//!                  ├──► Shared: the allocator ──────┤                │ saved, or not
//!   mesh ─ Channel ┘    behind one lock      ▲      ├── Answer ──► whoever waits for it
//!                                            └──────┼────────────────┘
//!                                                   └── Broadcast, Unicast ──► task ──► router
//! ```
//!
//! The lock is held for the allocator's own work alone, which is short: never across a commit, and
//! never while something is waited for. So the router's control task, which takes it to merge gossip
//! and to encode our state, is not held up by the disk. What the allocator has to say is left in
//! queues inside the lock; the disk thread and the task of [`task`] carry it out.
//!
//! A request that nobody waits for any more is cancelled: its future does that when it is dropped.
//!
//! [`found`] looks for addresses that are in use at the start, `disk` keeps what was given out,
//! `quorums` warns of hosts that may come to different rings, and [`http`] serves it all.
//!
//! Source: Weave IPAM protocol, sections 2, 8 and 13.

mod channel;
mod disk;
pub mod found;
pub mod http;
mod plan;
mod quorums;
mod shared;
mod task;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ipam::allocator::{
    ANONYMOUS, Allocator, Answer, Changes, Done, Init, Refusal, RequestId, Saved, StartError,
    TakeOverPlan,
};
pub use ipam::allocator::{Config, PreClaim};
use ipam::range::{Address, Cidr};
use ipam::status::Status;
use ipam::wire::persist::Owned;
use proto::PeerName;
use proto::gossip::GossipChannel;
use redb::WriteTransaction;
use router::io::RouterHandle;
use router::mesh::Members;
use thiserror::Error;
use tokio::sync::{oneshot, watch};

use super::store::{Store, StoreError};
use quorums::Quorums;
use shared::{Shared, Waiter};

/// Name of the gossip channel.
const CHANNEL: &str = "IPallocation";

/// Why a request was not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IpamError {
    /// The allocator says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The daemon is about to end.
    #[error("address allocation has stopped")]
    Stopped,
}

/// Why allocation cannot begin. Nothing has changed.
#[derive(Debug, Error)]
pub enum BeginError {
    /// What is on disk cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was asked for cannot be.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The disk thread does not start.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// The allocator of this host. Clones talk to the same.
#[derive(Debug, Clone)]
pub struct Ipam(Arc<Shared>);

impl Ipam {
    /// Starts with what is on disk. Nothing is sent before [`join`](Self::join).
    pub fn begin(config: Config, store: &Store) -> Result<Self, BeginError> {
        let saved = disk::load(store)?;
        let (default_subnet, name) = (config.default_subnet, config.name);
        let chosen = !matches!(config.init, Init::Consensus(None));
        let allocator = Allocator::start(config, saved, shared::now());
        let allocator = allocator.map_err(|error| match error {
            StartError::DamagedRing(reason) => BeginError::Store(store.damaged(&reason)),
            error => BeginError::Start(error),
        })?;
        let (saves, to_save) = std::sync::mpsc::channel();
        let shared = Arc::new(Shared::new(
            allocator,
            default_subnet,
            Quorums::new(name),
            chosen,
            saves,
        ));
        disk::start(store.clone(), to_save, &shared)?;
        Ok(Self(shared))
    }

    /// The gossip channels that the mesh is to have, by name.
    pub fn channels(&self) -> [(String, Box<dyn GossipChannel>); 2] {
        let addresses = channel::Channel::new(self.0.clone());
        [
            (CHANNEL.to_owned(), Box::new(addresses)),
            (
                quorums::CHANNEL.to_owned(),
                Box::new(self.0.quorums.clone()),
            ),
        ]
    }

    /// Takes part in the mesh from now on.
    pub fn join(&self, router: RouterHandle, members: watch::Receiver<Members>) {
        self.0.join(task::start(self.0.clone(), router, members));
    }

    /// Ends everything: whoever still waits is told so. What is on its way to the disk gets there
    /// first.
    pub async fn close(&self) {
        if let Some(thread) = self.0.close() {
            // A thread that panicked has told so already.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    /// Waits until all that was to be told to others so far is with the router.
    pub async fn sent(&self) {
        self.0.sent().await;
    }

    /// The subnet for those who ask for none.
    pub fn default_subnet(&self) -> Cidr {
        self.0.default_subnet
    }

    /// An address in `subnet`, or in the default one. Waits until there is one.
    pub async fn allocate(
        &self,
        ident: &str,
        subnet: Option<Cidr>,
        is_container: bool,
    ) -> Result<Cidr, IpamError> {
        let subnet = subnet.unwrap_or(self.0.default_subnet);
        let request = self.ask(ident == ANONYMOUS, |allocator, now| {
            allocator.allocate(ident, subnet, is_container, now)
        });
        match request.answer().await? {
            Done::Allocated(cidr) => Ok(cidr),
            other => Err(misunderstood(&other)),
        }
    }

    /// Makes an address belong to `ident`. Waits until it is known whose it is, unless
    /// `no_error_on_unknown`.
    pub async fn claim(
        &self,
        ident: &str,
        cidr: Cidr,
        is_container: bool,
        no_error_on_unknown: bool,
    ) -> Result<(), IpamError> {
        let request = self.ask(false, |allocator, now| {
            allocator.claim(ident, cidr, is_container, no_error_on_unknown, now)
        });
        request.answer().await.map(drop)
    }

    /// The addresses of `ident` that may be given out in `subnet`, or in the default one.
    pub async fn lookup(&self, ident: &str, subnet: Option<Cidr>) -> Result<Vec<Cidr>, IpamError> {
        let subnet = subnet.unwrap_or(self.0.default_subnet);
        let request = self.ask(false, |allocator, now| {
            allocator.lookup(ident, subnet.host_range(), now)
        });
        match request.answer().await? {
            Done::Addresses(cidrs) => Ok(cidrs),
            other => Err(misunderstood(&other)),
        }
    }

    /// All addresses that this host has given out, by identifier.
    pub async fn list(&self) -> Result<Vec<(Arc<str>, Owned)>, IpamError> {
        match self.ask(false, Allocator::list_owned).answer().await? {
            Done::Owned(owned) => Ok(owned),
            other => Err(misunderstood(&other)),
        }
    }

    /// Frees one address of `ident`.
    pub async fn release(&self, ident: &str, address: Address) -> Result<(), IpamError> {
        let request = self.ask(false, |allocator, now| {
            allocator.release(ident, address, now)
        });
        request.answer().await.map(drop)
    }

    /// Frees all addresses of `ident`.
    pub async fn release_all(&self, ident: &str) -> Result<(), IpamError> {
        let request = self.ask(false, |allocator, now| allocator.release_all(ident, now));
        request.answer().await.map(drop)
    }

    /// Waits until there is a ring.
    pub async fn prime(&self) -> Result<(), IpamError> {
        self.ask(false, Allocator::prime).answer().await.map(drop)
    }

    /// Takes over the ranges of a peer that is gone for good. Returns how many addresses that gives.
    pub async fn take_over(&self, who: &str, force: bool) -> Result<u32, IpamError> {
        let request = self.ask(false, |allocator, now| allocator.take_over(who, force, now));
        match request.answer().await? {
            Done::TakenOver(count) => Ok(count),
            other => Err(misunderstood(&other)),
        }
    }

    /// What [`take_over`](Self::take_over) would do.
    pub fn plan_take_over(&self, who: &str) -> TakeOverPlan {
        self.0.look(|allocator| allocator.plan_take_over(who))
    }

    /// Hands all ranges over to another peer, if there is one. All other requests are cancelled from
    /// now on.
    pub async fn shut_down(&self) -> Result<Option<PeerName>, IpamError> {
        match self.ask(false, Allocator::shut_down).answer().await? {
            Done::ShutDown(heir) => Ok(heir),
            other => Err(misunderstood(&other)),
        }
    }

    /// What people are shown.
    pub fn status(&self) -> Status {
        let mut status = self.0.look(Allocator::status);
        let warning = &mut status.quorum_warning;
        *warning = warning.take().or_else(|| self.0.quorums.warning());
        status
    }

    /// A container has died, started again, or is gone.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for the watcher of containers, once there is one")
    )]
    pub fn container(&self, ident: &str, event: ContainerEvent) {
        self.0.call(|allocator, now| match event {
            ContainerEvent::Died => allocator.container_died(ident, now),
            ContainerEvent::Started => allocator.container_started(ident, now),
            ContainerEvent::Destroyed => allocator.container_destroyed(ident, now),
        });
    }

    fn ask(
        &self,
        anonymous: bool,
        ask: impl FnOnce(&mut Allocator, ipam::allocator::Now) -> RequestId,
    ) -> Request {
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter { reply, anonymous };
        Request {
            id: self.0.ask(waiter, ask),
            shared: self.0.clone(),
            anonymous,
            answer: Some(answer),
        }
    }
}

/// What is on disk, if there ever was anything.
pub fn saved(store: &Store) -> Result<Option<Saved>, StoreError> {
    disk::load(store)
}

/// Makes `saved` take the place of whatever is on disk.
pub fn replace(transaction: &WriteTransaction, saved: &Saved) -> Result<(), redb::Error> {
    let entries = saved.ring.entries().iter();
    let owned = saved.owned.iter();
    disk::put(
        transaction,
        &Changes {
            anew: true,
            name: saved.name,
            universe: saved.ring.universe(),
            seeds: saved.ring.seeds().to_vec(),
            entries: entries.map(|entry| (entry.token, *entry)).collect(),
            owned: owned
                .map(|(ident, owned)| (ident.as_str().into(), Some(owned.clone())))
                .collect(),
            acceptor: Some(saved.acceptor.clone()),
        },
    )
}

/// What happens to containers.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "for the watcher of containers, once there is one")
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerEvent {
    /// It has died; it may be started again.
    Died,
    /// It has been started.
    Started,
    /// It is gone for good.
    Destroyed,
}

/// An answer that does not belong to its request, which would be a mistake of the allocator.
fn misunderstood(answer: &Done) -> IpamError {
    tracing::error!(?answer, "an answer to something else");
    IpamError::Stopped
}

/// Somebody waits for an answer. Dropped before it is there, the request is cancelled.
struct Request {
    id: RequestId,
    shared: Arc<Shared>,
    anonymous: bool,
    /// Taken when the answer has been received.
    answer: Option<oneshot::Receiver<Answer>>,
}

impl Request {
    async fn answer(mut self) -> Result<Done, IpamError> {
        let Some(answer) = self.answer.as_mut() else {
            return Err(IpamError::Stopped);
        };
        let answer = answer.await;
        self.answer = None;
        Ok(answer.map_err(|_| IpamError::Stopped)??)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let Some(mut answer) = self.answer.take() else {
            return;
        };
        if let Ok(answer) = answer.try_recv() {
            // It came too late for whoever waited.
            self.shared.nobody_took(self.anonymous, &answer);
        } else {
            drop(answer);
            self.shared.cancel(self.id);
        }
    }
}
