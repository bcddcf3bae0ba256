//! The allocator: requests of this host, messages of other peers, and time go in; answers,
//! messages and transactions come out.
//!
//! A peer gives out addresses of its own ranges alone. It has got them when the ring was first
//! divided, from peers that it asked for space, or from peers that have left. What it cannot do
//! at once waits: for the ring to come into being, or for space.
//!
//! How to drive an [`Allocator`]: after each call of a method that takes `&mut self`, take all
//! [`Output`]s from [`poll_output`](Allocator::poll_output), and call
//! [`handle_timeout`](Allocator::handle_timeout) when the time of
//! [`poll_timeout`](Allocator::poll_timeout) has come.
//!
//! * [`Output::Save`] is a transaction to be carried out and then confirmed, in the background.
//!   All other outputs come only when what they tell is on disk. There is never more than one
//!   transaction under way. What is not confirmed at a crash may or may not be on disk.
//! * [`Output::Broadcast`] says that our state is to be sent to everybody. It is to be
//!   [encoded](Allocator::encode_state) at the moment of sending, and is always fit to be sent.
//! * [`Output::Answer`] ends a request. Each request has exactly one, unless it is
//!   [cancelled](Allocator::cancel).
//!
//! A broadcast of others is passed on as our own state under their name, also if it is refused.
//! What [`handle_gossip`](Allocator::handle_gossip) is given is not passed on.
//!
//! Source: IPAM protocol, sections 2 and 6 to 10.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::PeerName;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tracing::{info, warn};

use crate::paxos::{Elector, NodeClaims, NodeId, normalise};
use crate::range::{Address, Cidr, Range};
use crate::ring::Ring;
use crate::space::Space;
use crate::status::{ClaimStatus, EntryStatus, PaxosStatus, Status};
use crate::wire;
use crate::wire::persist::Owned;

mod answer;
mod config;
mod exchange;
mod journal;
mod members;
mod owned;
mod requests;

pub use answer::{Answer, Done, Refusal};
pub use config::{BadInit, Config, Init, Now, PreClaim, StartError, check_universe};
pub use journal::{Acceptor, Changes, Save, Saved};
pub use members::TakeOverPlan;

use exchange::Asked;
use journal::Journal;
use owned::OwnedTable;
use requests::{Allocate, Claim};

/// Proposals and requests are made again after so long.
pub const TICK_INTERVAL: Duration = Duration::from_secs(5);

/// Addresses of a container that died are kept so long, in case it is started again.
pub const CONTAINER_GRACE: Duration = Duration::from_secs(30);

/// A claim of an address whose owner cannot be reached fails after more than so many tries.
pub const MAX_CLAIM_TRIES: u32 = 5;

/// Most requests that wait at a time; more are refused.
pub const MAX_WAITING: usize = 65_536;

/// Most nicknames that are remembered.
const MAX_NICKNAMES: usize = 16_384;

/// The identifier of those who have none. Their addresses are filed under the address itself.
pub const ANONYMOUS: &str = "_";

/// Names a request until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// What is to be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Carry out this transaction, then call [`Allocator::handle_saved`] or
    /// [`Allocator::handle_save_failed`].
    Save(Save),
    /// The end of a request. If there is nobody any more to tell that an [`ANONYMOUS`] request got
    /// an address, the address is to be [released](Allocator::release_all) again.
    Answer(RequestId, Answer),
    /// Send our state to everybody.
    Broadcast,
    /// Send this to one peer.
    Unicast {
        /// To whom. Only peers that are known are addressed.
        to: PeerName,
        /// What. If the first byte is 2, it is not for a peer that speaks only protocol version 1,
        /// whose reader it would stop.
        payload: Vec<u8>,
    },
}

/// Free addresses to be reported.
#[derive(Debug, Default)]
enum FreeChanges {
    /// Those of all entries of ours are to be counted again.
    Recount,
    /// There are so many more or fewer at these addresses.
    At(BTreeMap<Address, i64>),
    #[default]
    None,
}

/// What has become of a peer that is gone.
#[derive(Debug)]
struct TakenOver {
    /// Who has its ranges.
    by: PeerName,
    /// What people called it.
    nickname: Vec<u8>,
}

/// A suspicion that others reckon with another quorum than we do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct QuorumConflict {
    /// How many peers shared the first ring elsewhere.
    agreed_among: usize,
    /// How many it takes here.
    our_quorum: usize,
}

impl std::fmt::Display for QuorumConflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            agreed_among,
            our_quorum,
        } = self;
        write!(
            f,
            "the ring was agreed upon among {agreed_among} peers where it takes {our_quorum} \
             here; give all hosts the same number of peers"
        )
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Allocator {
    config: Config,
    rng: StdRng,
    ring: Ring,
    /// The ring as others may know it: without what we have changed and not saved yet.
    public: Ring,
    space: Space,
    /// The ranges in `space`.
    ours: Vec<Range>,
    owned: OwnedTable,
    nicknames: BTreeMap<PeerName, Vec<u8>>,
    /// The peers that can be reached.
    reachable: BTreeSet<PeerName>,
    /// Peers whose ranges others have taken over.
    taken_over: BTreeMap<PeerName, TakenOver>,
    /// Until others know of our ring; never for observers.
    elector: Option<Elector>,
    /// What `elector` has said and saved.
    saved_claims: Option<NodeClaims>,
    claims_changed: bool,
    awaiting_consensus: bool,
    /// Whether anything new was heard of the agreement since the last tick.
    heard_of_agreement: bool,
    quorum_conflict: Option<QuorumConflict>,
    /// How many peers we were told to connect to.
    target_count: usize,
    primes: Vec<RequestId>,
    claims: Vec<Claim>,
    allocates: Vec<Allocate>,
    asked: BTreeMap<Range, Asked>,
    /// Containers that died, and when.
    dead: BTreeMap<Arc<str>, Instant>,
    free_changes: FreeChanges,
    shutting_down: bool,
    /// Shut down without an heir: the ring here is not the one on disk any more.
    ring_detached: bool,
    last_request: u64,
    tick_at: Option<Instant>,
    said: Vec<Output>,
    /// Whether the disk is to be cleared of what was there before us.
    anew: bool,
    journal: Journal,
}

impl Allocator {
    /// Starts from what is on disk, if anything is and if it belongs to us and our universe.
    pub fn start(config: Config, saved: Option<Saved>, now: Now) -> Result<Self, StartError> {
        let Config {
            universe,
            default_subnet,
            ..
        } = config;
        check_universe(universe)?;
        if !universe.range().overlaps(default_subnet.range()) {
            return Err(StartError::NoOverlap {
                subnet: default_subnet,
                universe,
            });
        }
        let ring = Ring::new(universe.range());
        let mut nicknames = BTreeMap::new();
        nicknames.insert(config.name, config.nickname.clone().into_bytes());
        let claims = config.pre_claims.iter().map(Claim::found_at_start);
        let mut allocator = Self {
            rng: StdRng::from_seed(config.rng_seed),
            public: ring.clone(),
            ring,
            space: Space::new(),
            ours: Vec::new(),
            owned: OwnedTable::default(),
            nicknames,
            reachable: BTreeSet::new(),
            taken_over: BTreeMap::new(),
            elector: None,
            saved_claims: None,
            claims_changed: false,
            awaiting_consensus: false,
            heard_of_agreement: false,
            quorum_conflict: None,
            target_count: 0,
            primes: Vec::new(),
            claims: claims.collect(),
            allocates: Vec::new(),
            asked: BTreeMap::new(),
            dead: BTreeMap::new(),
            free_changes: FreeChanges::None,
            shutting_down: false,
            ring_detached: false,
            last_request: 0,
            tick_at: None,
            said: Vec::new(),
            anew: false,
            journal: Journal::default(),
            config,
        };
        allocator.restore(saved.unwrap_or_default())?;
        allocator.finish(now);
        Ok(allocator)
    }

    fn restore(&mut self, saved: Saved) -> Result<(), StartError> {
        let universe = self.config.universe.range();
        let ours = saved.name == self.config.name;
        let same_universe = saved.ring.universe() == universe;
        let has_ring = !saved.ring.is_empty();
        if ours && same_universe && has_ring {
            saved.ring.check().map_err(StartError::DamagedRing)?;
            if matches!(self.config.init, Init::Seed(_)) {
                info!("found persisted IPAM data, ignoring the seed");
            } else {
                info!("initialising with persisted data");
            }
            self.public = saved.ring.clone();
            self.ring = saved.ring;
            self.owned = OwnedTable::restore(saved.owned);
            self.sync_space();
            let inside = |cidr: &&Cidr| universe.contains(cidr.address);
            let owned: Vec<(Arc<str>, Cidr)> = self
                .owned
                .iter()
                .flat_map(|(ident, owned)| {
                    let cidrs = owned.cidrs.iter().filter(inside);
                    cidrs.map(|cidr| (ident.clone(), *cidr))
                })
                .collect();
            for (ident, cidr) in owned {
                if self.space.claim(cidr.address).is_err() {
                    // Handed over in a reset that did not come to its end, most likely. Whoever
                    // has it now must not see it given out here.
                    warn!(%ident, %cidr, "dropping a saved address that is not ours");
                    self.owned.remove(&ident, cidr.address);
                }
            }
            // Free counts are right on disk, except those of a database of others.
            self.free_changes = FreeChanges::Recount;
            self.try_claims();
            return Ok(());
        }

        if saved != Saved::default() {
            if !ours {
                warn!(name = %saved.name, "dropping persisted data of another peer name");
            } else if !same_universe && has_ring {
                let old = saved.ring.universe();
                warn!(%old, new = %universe, "dropping persisted data for another range");
            }
        }
        self.anew = true;
        if ours {
            // Addresses outside of all ranges do not depend on any ring.
            for (ident, owned) in saved.owned {
                for cidr in owned.cidrs {
                    let theirs = universe.contains(cidr.address)
                        || saved.ring.universe().contains(cidr.address);
                    if !theirs {
                        self.owned.add(&ident, cidr, owned.is_container);
                    }
                }
            }
        }
        match &self.config.init {
            Init::Seed(peers) => {
                info!("initialising with the supplied seed");
                let peers = normalise(peers);
                self.create_ring(&peers);
            }
            Init::Consensus(_) => {
                info!("initialising via deferred consensus");
                let fresh = NodeId {
                    name: self.config.name,
                    uid: self.config.uid,
                };
                self.elector = Some(match saved.acceptor {
                    Some((id, claims)) if ours && same_universe && id.name == fresh.name => {
                        self.saved_claims = Some(claims.clone());
                        // What was dropped with everything else.
                        self.claims_changed = true;
                        Elector::resume(id, claims)
                    }
                    _ => Elector::new(fresh),
                });
            }
            Init::Observer => {
                info!("initialising as observer, awaiting IPAM data from another peer");
            }
        }
        Ok(())
    }

    /// The next thing to do, if there is anything.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.journal.poll()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.tick_at, self.journal.retry_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.journal.handle_timeout(now.at);
        if self.tick_at.take_if(|at| *at <= now.at).is_some() {
            if self.awaiting_consensus {
                self.press_on();
            } else if self.is_waiting() {
                if self.ring.is_empty() {
                    self.establish();
                } else {
                    self.begin_round();
                    self.try_waiting();
                }
            }
            self.drop_dead_containers(now);
        }
        self.finish(now);
    }

    /// A transaction is on disk.
    pub fn handle_saved(&mut self, seq: u64, now: Now) {
        if self.journal.error().is_some() {
            info!("IPAM data can be saved again");
        }
        if let Some(changes) = self.journal.confirm(seq) {
            let entries: Vec<_> = changes.entries.into_values().collect();
            self.public.overlay(&entries, &changes.seeds);
            match changes.acceptor {
                Some(Some((_, claims))) => self.saved_claims = Some(claims),
                Some(None) => self.saved_claims = None,
                None => {}
            }
            if !self.public.is_empty() {
                self.elector = None;
            }
        }
        self.finish(now);
    }

    /// A transaction has failed, and nothing of it is on disk. It is tried again, with what has
    /// come up since, after a while; until then nothing that depends on it is told.
    pub fn handle_save_failed(&mut self, seq: u64, error: String, now: Now) {
        if self.journal.error() != Some(&error) {
            warn!(error, "cannot save IPAM data; trying again every second");
        }
        self.journal.fail(seq, error, now.at);
        self.finish(now);
    }

    /// The payload of gossip and broadcasts: what we know and may tell.
    pub fn encode_state(&self, unix_now: i64) -> Vec<u8> {
        if !self.public.is_empty() {
            let ring = (self.config.name, &self.public);
            return wire::encode_gossip(unix_now, &self.nicknames, None, Some(ring));
        }
        let paxos = self.elector.as_ref().map(|elector| {
            let mut claims = elector.claims().clone();
            match &self.saved_claims {
                Some(saved) => claims.insert(elector.id(), saved.clone()),
                None => claims.remove(&elector.id()),
            };
            claims
        });
        wire::encode_gossip(unix_now, &self.nicknames, paxos.as_ref(), None)
    }

    /// Checks that the ring, the space and the addresses given out fit together. They always do
    /// unless there is a bug; this is for simulations, as it takes a time that grows with
    /// everything there is.
    pub fn check_consistency(&self) -> Result<(), &'static str> {
        let check = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        check(self.ring.check().is_ok(), "our ring is none")?;
        check(
            self.public.check().is_ok(),
            "the ring that others see is none",
        )?;
        let mut ours = Space::new();
        for range in self.ring.owned_by(self.config.name) {
            ours.add(range);
        }
        check(self.space.ours() == ours.ours(), "space and ring differ")?;
        let mut counted = self.ring.clone();
        counted.report_free(self.config.name, |range| {
            self.space.free_count_within(range)
        });
        check(self.ring == counted, "free addresses are miscounted")?;
        if self.shutting_down {
            return Ok(());
        }
        let universe = self.config.universe.range();
        let mut used_count = 0;
        for (_, owned) in self.owned.iter() {
            for cidr in owned
                .cidrs
                .iter()
                .filter(|cidr| universe.contains(cidr.address))
            {
                check(
                    self.space.is_used(cidr.address),
                    "address given out but not in use",
                )?;
                used_count += 1;
            }
        }
        check(
            used_count == self.space.used_count(),
            "address in use but not given out",
        )
    }

    /// Who has which addresses, also where that is not on disk yet. What others are told comes
    /// from [`list_owned`](Self::list_owned).
    pub fn owned(&self) -> impl Iterator<Item = (&Arc<str>, &Owned)> {
        self.owned.iter()
    }

    /// Whether everything we know is on disk.
    pub fn is_saved(&self) -> bool {
        self.journal.is_clean()
    }

    /// What people are shown.
    pub fn status(&self) -> Status {
        let paxos = self.awaiting_consensus.then(|| {
            let elector = self.elector.as_ref();
            PaxosStatus {
                elector: elector.is_some(),
                known_nodes: elector.map_or(0, |elector| elector.claims().len()),
                quorum: elector.map_or(0, Elector::quorum),
            }
        });
        let mut entries = Vec::with_capacity(self.ring.entries().len());
        for (entry, span) in self.ring.spans() {
            let nickname = self.nicknames.get(&entry.peer).map_or(&[][..], |name| name);
            let nickname = String::from_utf8_lossy(nickname);
            entries.extend(span.as_slice().iter().map(|range| EntryStatus {
                token: range.start,
                size: range.size(),
                peer: entry.peer,
                nickname: nickname.clone().into_owned(),
                is_known_peer: self.is_reachable(entry.peer),
                version: entry.version,
            }));
        }
        let claims = self.claims.iter().map(|claim| ClaimStatus {
            ident: claim.ident.clone(),
            cidr: claim.cidr,
        });
        let allocates = self.allocates.iter();
        let allocates = allocates.map(|request| format!("{} {}", request.ident, request.subnet));
        Status {
            paxos,
            range: self.config.universe,
            range_size: self.config.universe.range().size(),
            active_count: self.space.used_count(),
            default_subnet: self.config.default_subnet,
            entries,
            pending_claims: claims.collect(),
            pending_allocates: allocates.collect(),
            name: self.config.name,
            save_error: self.journal.error().map(str::to_owned),
            quorum: self.quorum(),
            quorum_warning: self.quorum_conflict.as_ref().map(ToString::to_string),
        }
    }

    /// Whether a peer can be reached; we always can.
    fn is_reachable(&self, peer: PeerName) -> bool {
        peer == self.config.name || self.reachable.contains(&peer)
    }

    /// Our copy of the ring.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Which of our addresses are in use.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Ends a call: reports what is free, and hands over to the journal what has changed and
    /// what was said.
    fn finish(&mut self, now: Now) {
        self.report_free();
        let mut changes = Changes {
            anew: std::mem::take(&mut self.anew),
            owned: self.owned.take_changed(),
            ..Changes::default()
        };
        if self.ring.has_changed() && !self.ring_detached {
            let entries = self.ring.take_changed().into_iter();
            changes.entries = entries.map(|entry| (entry.token, entry)).collect();
        }
        if std::mem::take(&mut self.claims_changed) {
            let elector = self.elector.as_ref().filter(|_| self.ring.is_empty());
            changes.acceptor = Some(elector.and_then(|elector| {
                let claims = elector.own_claims()?;
                Some((elector.id(), claims.clone()))
            }));
        }
        if !changes.is_empty() {
            changes.name = self.config.name;
            changes.universe = self.config.universe.range();
            changes.seeds = self.ring.seeds().to_vec();
        }
        let said = std::mem::take(&mut self.said);
        self.journal.commit(changes, said);
        if self.claims.is_empty() && self.allocates.is_empty() {
            self.asked.clear();
        }
        let busy = self.awaiting_consensus || self.is_waiting() || !self.dead.is_empty();
        if !busy {
            self.tick_at = None;
        } else if self.tick_at.is_none() {
            self.tick_at = Some(now.at + TICK_INTERVAL);
        }
    }

    fn is_waiting(&self) -> bool {
        !(self.primes.is_empty() && self.claims.is_empty() && self.allocates.is_empty())
    }

    /// Notes that there is one free address more (or less, if negative).
    fn count_free(&mut self, address: Address, change: i64) {
        match &mut self.free_changes {
            FreeChanges::Recount => {}
            FreeChanges::At(changes) => *changes.entry(address).or_default() += change,
            none @ FreeChanges::None => {
                *none = FreeChanges::At(BTreeMap::from([(address, change)]));
            }
        }
    }

    fn report_free(&mut self) {
        let me = self.config.name;
        match std::mem::take(&mut self.free_changes) {
            FreeChanges::None => {}
            FreeChanges::At(changes) => self.ring.adjust_free(&changes, me),
            FreeChanges::Recount => {
                let space = &self.space;
                self.ring
                    .report_free(me, |range| space.free_count_within(range));
            }
        }
    }

    /// Makes the space have exactly the ranges that the ring says are ours.
    fn sync_space(&mut self) {
        let (mut gained, mut lost) = (Space::new(), Space::new());
        let ours = self.ring.owned_by(self.config.name);
        for range in &ours {
            gained.add(*range);
        }
        for range in &self.ours {
            gained.remove(*range);
            lost.add(*range);
        }
        for range in &ours {
            lost.remove(*range);
        }
        for range in lost.free() {
            self.space.remove(range);
        }
        for range in gained.free() {
            self.space.add(range);
        }
        self.ours = ours;
        self.free_changes = FreeChanges::Recount;
    }

    fn broadcast(&mut self) {
        self.said.push(Output::Broadcast);
    }

    fn answer(&mut self, id: RequestId, answer: Answer) {
        self.said.push(Output::Answer(id, answer));
    }

    /// As in `02:00:00:00:00:0a(host-a)`.
    fn annotated(&self, peer: PeerName) -> String {
        match self.nicknames.get(&peer) {
            Some(nickname) => format!("{peer}({})", String::from_utf8_lossy(nickname)),
            None => peer.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
