//! What this router believes about all peers: its own record and everybody else's.
//!
//! Every peer writes its own record and counts its version up; all others only pass it on. A
//! record that is newer replaces the known one whole. A peer that was restarted begins with version
//! 0 again and stays ignored until it hears of its older life's version and jumps past it.
//!
//! Records of peers that we cannot reach over anybody's listed connections are garbage, unless a
//! connection of our own refers to them.
//!
//! Nothing here knows time. Whoever drives it sends our record on when `ours_changed` says so, and
//! collects garbage 1 s after the first update since the last collection and whenever a connection
//! of our own was removed.
//!
//! Source: Weave mesh protocol, sections 1.8 and 4.

use std::collections::{BTreeMap, BTreeSet};

use proto::{PeerName, PeerUid, ShortId};
use rand::Rng;
use thiserror::Error;

use super::graph;
use super::record::{Connections, Nickname, Peer, PeerConnection, RemoteAddress};
use super::short_ids::{Change, ShortIds};
use super::update::{self, PeerUpdate, Update, UpdateError};
use crate::constants::{MAX_PEER_CONNECTIONS, MAX_PEERS};

/// All known peers, ourselves included.
///
/// Bounded by [`MAX_PEERS`] records with [`MAX_PEER_CONNECTIONS`] connections in all; what would
/// exceed that is ignored and counted.
#[derive(Debug, Clone)]
pub struct Peers {
    ours: Peer,
    /// Everybody else.
    others: BTreeMap<PeerName, Other>,
    short_ids: ShortIds,
    /// Connections in the records of all others.
    connection_count: usize,
    ignored: u64,
}

#[derive(Debug, Clone)]
struct Other {
    peer: Peer,
    /// Connections of our own that refer to this record.
    references: usize,
}

/// What a neighbour says about itself when it is introduced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduced {
    /// The record names another life of this peer, or none.
    pub restarted: bool,
    /// There was no record before.
    pub created: bool,
    /// Our short id was lost to the new peer: our record has changed.
    pub ours_changed: bool,
    /// What others remember about short ids has become wrong.
    pub short_ids_invalidated: bool,
}

/// Why a neighbour cannot be introduced. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IntroduceError {
    /// It has our name and is in our life.
    #[error("cannot connect to ourself")]
    Ourselves,
    /// It has our name but is somebody else.
    #[error("peer name collision: {0} is our name too; start one of both with another --name")]
    NameCollision(PeerName),
    /// It was dialled on a hint of some peer, but no peer of this name is known.
    #[error("Found unknown remote name: {0}, at an address that other peers told of")]
    Unknown(PeerName),
    /// There are [`MAX_PEERS`] peers already.
    #[error("no room for peer {0}: {MAX_PEERS} peers are known already")]
    Full(PeerName),
}

/// What an update has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Peers described by the update, new or not. What a broadcast passes on.
    pub named: BTreeSet<PeerName>,
    /// Peers that the update told something new about. What gossip passes on.
    pub improved: BTreeSet<PeerName>,
    /// Peers not known before, those that are only named as somebody's far end included.
    pub created: BTreeSet<PeerName>,
    /// Our own record has changed and must be sent on.
    pub ours_changed: bool,
    /// What others remember about short ids has become wrong.
    pub short_ids_invalidated: bool,
}

/// What a garbage collection has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collected {
    /// Peers that are no longer known, ascending.
    pub forgotten: Vec<PeerName>,
    /// Our own record has changed and must be sent on.
    pub ours_changed: bool,
    /// What others remember about short ids has become wrong.
    pub short_ids_invalidated: bool,
}

/// What a change to the table means for short ids.
#[derive(Debug, Default)]
struct Pending {
    invalidated: bool,
    ours_lost: bool,
}

impl Peers {
    /// Ourselves alone. `uid` is random and not 0, `short_id` random.
    pub fn new(
        name: PeerName,
        nickname: impl Into<Nickname>,
        uid: PeerUid,
        short_id: ShortId,
    ) -> Self {
        let mut short_ids = ShortIds::default();
        // The first claim of all harms nobody.
        let _ = short_ids.claim(short_id, name);
        Self {
            ours: Peer {
                name,
                nickname: nickname.into(),
                uid,
                version: 0,
                short_id: Some(short_id),
                connections: Connections::default(),
            },
            others: BTreeMap::new(),
            short_ids,
            connection_count: 0,
            ignored: 0,
        }
    }

    /// Our own record.
    pub fn ours(&self) -> &Peer {
        &self.ours
    }

    /// The record of `name`, which may be ourselves.
    pub fn get(&self, name: PeerName) -> Option<&Peer> {
        if name == self.ours.name {
            Some(&self.ours)
        } else {
            self.others.get(&name).map(|other| &other.peer)
        }
    }

    /// All records, ours included, by ascending name.
    pub fn iter<'a>(&'a self) -> impl Iterator<Item = &'a Peer> {
        let below = self.others.range(..self.ours.name);
        let above = self.others.range(self.ours.name..);
        let others = |(_, other): (&'a PeerName, &'a Other)| &other.peer;
        below
            .map(others)
            .chain(Some(&self.ours))
            .chain(above.map(others))
    }

    /// The names of all known peers, ours included.
    pub fn names(&self) -> BTreeSet<PeerName> {
        self.iter().map(|peer| peer.name).collect()
    }

    /// Number of records, ours included.
    pub fn len(&self) -> usize {
        self.others.len() + 1
    }

    /// Never: there is always our own record.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The peer that holds short id `id`: of all that claim it, the one with the lowest name.
    pub fn by_short_id(&self, id: ShortId) -> Option<PeerName> {
        self.short_ids.holder(id)
    }

    /// Records ignored since the start, because the table was full or they were out of bounds.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// A neighbour has introduced itself. Its record is found, and left as it is, or, if
    /// `may_create`, created; then it is kept until [`release`](Self::release), once per call.
    pub fn introduce(
        &mut self,
        name: PeerName,
        uid: PeerUid,
        nickname: impl Into<Nickname>,
        short_id: Option<ShortId>,
        may_create: bool,
        rng: &mut (impl Rng + ?Sized),
    ) -> Result<Introduced, IntroduceError> {
        if name == self.ours.name {
            return Err(if uid == self.ours.uid {
                IntroduceError::Ourselves
            } else {
                IntroduceError::NameCollision(name)
            });
        }
        if let Some(known) = self.others.get_mut(&name) {
            known.references += 1;
            return Ok(Introduced {
                restarted: known.peer.uid != uid,
                created: false,
                ours_changed: false,
                short_ids_invalidated: false,
            });
        }
        if !may_create {
            return Err(IntroduceError::Unknown(name));
        }
        if self.others.len() >= MAX_PEERS {
            return Err(IntroduceError::Full(name));
        }
        let peer = Peer {
            name,
            nickname: nickname.into(),
            uid,
            version: 0,
            short_id,
            connections: Connections::default(),
        };
        let mut pending = Pending::default();
        self.claim(short_id, name, &mut pending);
        let references = 1;
        self.others.insert(name, Other { peer, references });
        let ours_changed = pending.ours_lost && self.draw_short_id(&mut pending, rng);
        Ok(Introduced {
            restarted: false,
            created: true,
            ours_changed,
            short_ids_invalidated: pending.invalidated,
        })
    }

    /// The connection for which `name` was introduced has ended.
    pub fn release(&mut self, name: PeerName) {
        if let Some(other) = self.others.get_mut(&name) {
            other.references = other.references.saturating_sub(1);
        }
    }

    /// A connection of our own has been added; it replaces an older one to the same peer.
    pub fn add_connection(
        &mut self,
        remote: PeerName,
        address: impl Into<RemoteAddress>,
        outbound: bool,
    ) {
        self.ours.connections.insert(PeerConnection {
            remote,
            address: address.into(),
            outbound,
            established: false,
        });
        self.bump_version();
    }

    /// The overlay of our connection to `remote` works. Says whether there is such a connection.
    pub fn establish_connection(&mut self, remote: PeerName) -> bool {
        let Some(connection) = self.ours.connections.get_mut(remote) else {
            return false;
        };
        connection.established = true;
        self.bump_version();
        true
    }

    /// Our connection to `remote` has ended. Says whether there was one.
    ///
    /// Garbage must be collected before our record is sent on: with peers in it that cannot be
    /// reached any more, updates may circle.
    pub fn remove_connection(&mut self, remote: PeerName) -> bool {
        if self.ours.connections.remove(remote).is_none() {
            return false;
        }
        self.bump_version();
        true
    }

    /// Merges a topology payload. An error applies nothing; the connection that brought it closes.
    pub fn apply(
        &mut self,
        payload: &[u8],
        rng: &mut (impl Rng + ?Sized),
    ) -> Result<Applied, UpdateError> {
        let update = Update::decode(payload)?;
        self.ignored += update.ignored;
        let mut applied = Applied::default();
        let mut pending = Pending::default();
        for news in &update.peers {
            applied.named.insert(news.name);
            if news.name == self.ours.name {
                applied.ours_changed |= self.outlive(news);
            } else if self.take(&update, news, &mut applied, &mut pending) {
                applied.improved.insert(news.name);
            }
        }
        for name in update.far_ends() {
            self.mention(name, &mut applied);
        }
        applied.ours_changed |= pending.ours_lost && self.draw_short_id(&mut pending, rng);
        applied.short_ids_invalidated = pending.invalidated;
        Ok(applied)
    }

    /// A topology payload that describes those of the peers called `names` that are known.
    pub fn encode(&self, names: impl IntoIterator<Item = PeerName>) -> Vec<u8> {
        let mut encoder = update::Encoder::default();
        for peer in names.into_iter().filter_map(|name| self.get(name)) {
            encoder.push(peer);
        }
        encoder.finish()
    }

    /// Like [`encode`](Self::encode), but takes names out of `names` only until the payload has
    /// some `enough_len` bytes: a large topology travels in several payloads, each complete in itself.
    pub fn encode_some(&self, names: &mut BTreeSet<PeerName>, enough_len: usize) -> Vec<u8> {
        let mut encoder = update::Encoder::default();
        while encoder.len() < enough_len {
            let Some(name) = names.pop_first() else { break };
            if let Some(peer) = self.get(name) {
                encoder.push(peer);
            }
        }
        encoder.finish()
    }

    /// Forgets the peers that are out of reach: not to be got to over listed connections,
    /// established or not, and not [introduced](Self::introduce) either.
    pub fn collect_garbage(&mut self, rng: &mut (impl Rng + ?Sized)) -> Collected {
        let names = graph::names(self);
        let Some(ours) = graph::index_of(&names, self.ours.name) else {
            return Collected::default();
        };
        let reach = graph::all(self, &names).walk(ours);
        let mut collected = Collected::default();
        let mut pending = Pending::default();
        for (index, &name) in (0..).zip(&names) {
            let unused = |other: &Other| other.references == 0;
            if reach.reaches(index) || !self.others.get(&name).is_some_and(unused) {
                continue;
            }
            if let Some(other) = self.others.remove(&name) {
                self.connection_count -= other.peer.connections.len();
                self.unclaim(other.peer.short_id, name, &mut pending);
                collected.forgotten.push(name);
            }
        }
        let holder = self.ours.short_id.and_then(|id| self.short_ids.holder(id));
        if !collected.forgotten.is_empty() && holder != Some(self.ours.name) {
            // There was no free id when we lost ours; there may be now.
            collected.ours_changed = self.draw_short_id(&mut pending, rng);
        }
        collected.short_ids_invalidated = pending.invalidated;
        collected
    }

    /// An update describes ourselves. If that is an older life of ours, our version jumps past it,
    /// so that others take our record instead. Says whether it did.
    fn outlive(&mut self, news: &PeerUpdate<'_>) -> bool {
        if news.uid == self.ours.uid || news.version < self.ours.version {
            return false;
        }
        self.ours.version = news.version.saturating_add(1);
        true
    }

    /// An update describes another peer. Says whether that was news.
    fn take(
        &mut self,
        update: &Update<'_>,
        news: &PeerUpdate<'_>,
        applied: &mut Applied,
        pending: &mut Pending,
    ) -> bool {
        let known = self.others.get(&news.name).map(|other| &other.peer);
        if known.is_some_and(|known| !news.supersedes(known)) {
            return false;
        }
        let old_count = known.map_or(0, |known| known.connections.len());
        let full = known.is_none() && self.others.len() >= MAX_PEERS;
        let count = self.connection_count - old_count + news.connection_count();
        if full || count > MAX_PEER_CONNECTIONS {
            self.ignored += 1;
            return false;
        }
        let old_short_id = known.and_then(|known| known.short_id);
        let peer = update.record(news);
        self.connection_count = self.connection_count - old_count + peer.connections.len();
        if old_short_id != peer.short_id {
            self.unclaim(old_short_id, peer.name, pending);
            self.claim(peer.short_id, peer.name, pending);
        }
        match self.others.get_mut(&news.name) {
            Some(known) => known.peer = peer,
            None => {
                applied.created.insert(news.name);
                let references = 0;
                self.others.insert(news.name, Other { peer, references });
            }
        }
        true
    }

    /// Somebody lists a connection to `name`: if nothing is known of it, hold its place.
    fn mention(&mut self, name: PeerName, applied: &mut Applied) {
        if name == self.ours.name || self.others.contains_key(&name) {
            return;
        }
        if self.others.len() >= MAX_PEERS {
            self.ignored += 1;
            return;
        }
        applied.created.insert(name);
        let other = Other {
            peer: Peer::placeholder(name),
            references: 0,
        };
        self.others.insert(name, other);
    }

    fn claim(&mut self, id: Option<ShortId>, name: PeerName, pending: &mut Pending) {
        let Some(id) = id else { return };
        let held = self.short_ids.holder(id) == Some(self.ours.name);
        pending.invalidated |= self.short_ids.claim(id, name) == Change::Invalidates;
        pending.ours_lost |= held && self.short_ids.holder(id) != Some(self.ours.name);
    }

    fn unclaim(&mut self, id: Option<ShortId>, name: PeerName, pending: &mut Pending) {
        let Some(id) = id else { return };
        pending.invalidated |= self.short_ids.release(id, name) == Change::Invalidates;
    }

    /// Takes a short id that is free. Says whether there was one.
    fn draw_short_id(&mut self, pending: &mut Pending, rng: &mut (impl Rng + ?Sized)) -> bool {
        let Some(id) = self.short_ids.draw(rng) else {
            return false;
        };
        self.unclaim(self.ours.short_id, self.ours.name, pending);
        self.ours.short_id = Some(id);
        self.claim(Some(id), self.ours.name, pending);
        self.bump_version();
        true
    }

    fn bump_version(&mut self) {
        // Saturates: after an update that claims the highest version for an older life of ours.
        self.ours.version = self.ours.version.saturating_add(1);
    }
}

#[cfg(test)]
impl Peers {
    /// Sets our own list, without a new version.
    pub(super) fn set_own(&mut self, connections: Connections) {
        self.ours.connections = connections;
    }

    /// Puts in a record of which only the connections matter.
    pub(super) fn put(&mut self, name: PeerName, connections: Connections) {
        self.connection_count += connections.len();
        let mut peer = Peer::placeholder(name);
        peer.connections = connections;
        let references = 0;
        self.others.insert(name, Other { peer, references });
    }
}

#[cfg(test)]
mod tests;
