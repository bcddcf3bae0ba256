//! To and from Weave Net's state file.
//!
//! A host that has no state yet takes over what Weave left behind: name, ring, the addresses given
//! out, direct peers, and whatever else is in the file, for the way back. The file is left as it
//! is. Which file that was, and the number of its last transaction, is remembered: if the number has
//! changed at a later launch, then Weave has run in between and knows better than we do.
//!
//! [`export`] is the way back. After it the word of Weave's file counts, if Weave has changed it.
//!
//! Taking over is one transaction. A launch that is killed in the middle of either has changed nothing
//! that a repetition would not make good.
//!
//! Source: Weave IPAM protocol, section 11; feature inventory, I21.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipam::allocator::Saved;
use ipam::range::{Cidr, Range};
use proto::PeerName;
use redb::WriteTransaction;
use thiserror::Error;
use weavedb::State;

use super::config::{Allocation, Config, Peers};
use super::identity::{self, Sources};
use super::ipam as allocation;
use super::store::{Store, StoreError, StoredPeers, StoredWeave};
use crate::weave_file::{self, Error as FileError};

/// Where Weave keeps its state, below the root directory: its router's own default, and what hosts
/// mount there for Docker's plugin and for Kubernetes.
const USUAL: [&str; 4] = [
    "weavedb/weavedata.db",
    "weavedb/weave-netdata.db",
    "var/lib/weave/weavedata.db",
    "var/lib/weave/weave-netdata.db",
];
/// What the original appends to its own prefix.
const SUFFIX: &str = "data.db";

/// Which state file of Weave to take over from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum WeaveDb {
    /// One at the usual places, if there is one.
    #[default]
    Usual,
    /// None.
    None,
    /// This one.
    File(PathBuf),
}

impl FromStr for WeaveDb {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "" => Self::Usual,
            "none" => Self::None,
            file => Self::File(file.into()),
        })
    }
}

/// Why a state cannot be taken over or handed back. Nothing has changed.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// Of our own state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Of Weave's.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is more than one.
    #[error(
        "there are several state files of Weave Net: {}; name the right one with --weave-db FILE, \
         or begin without with --weave-db none", list(.0)
    )]
    Several(Vec<PathBuf>),
    /// It is of another host, or of one that had another name.
    #[error(
        "Weave Net's state file {} belongs to a host named {theirs}, but {whose} is {ours}; launch \
         with --name {theirs} to take it over, or with --weave-db none to begin without it",
        path.display()
    )]
    OtherName {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        theirs: PeerName,
        /// Who we are.
        ours: PeerName,
        /// Where that comes from.
        whose: &'static str,
    },
    /// It is about another range.
    #[error(
        "Weave Net's state file {} divides the range {theirs}, not {ours}; launch with \
         --ipalloc-range {theirs}, or with --weave-db none to begin without it", path.display()
    )]
    OtherRange {
        /// The file.
        path: PathBuf,
        /// Its range.
        theirs: String,
        /// What was asked for.
        ours: Cidr,
    },
    /// Weave has run, though nobody told us that it would.
    #[error(
        "Weave Net has run on this host and changed {file} since that was taken over; launch with \
         --weave-db {file} to take it over again, in place of the state here, or with --weave-db \
         none to go on with the state here", file = .0.display()
    )]
    Changed(PathBuf),
    /// There is nothing to hand back.
    #[error("there is no state at {}; name its place with --db-prefix", .0.display())]
    NoState(PathBuf),
    /// Nobody knows where to.
    #[error("no state was ever taken over from Weave Net here: name the file to write")]
    NoPath,
}

fn list(paths: &[PathBuf]) -> String {
    let texts = paths.iter().map(|path| path.display().to_string());
    texts.collect::<Vec<_>>().join(", ")
}

/// Takes over from Weave if that is to be done at this launch.
pub async fn take_over(config: &Config, store: &Store) -> anyhow::Result<()> {
    let bridge = identity::bridge_name(&config.identity).await?;
    let import = Import {
        sources: &config.identity,
        allocation: config.allocation.as_ref(),
        peers: &config.peers,
        store,
        bridge,
    };
    Ok(import.run()?)
}

/// The name that would be taken over, if the host has no state yet.
pub fn name_to_be(sources: &Sources, store: &Store) -> Result<Option<PeerName>, MigrateError> {
    if store.identity()?.is_some() || store.weave()?.is_some() {
        return Ok(None);
    }
    let Some(path) = find(sources)? else {
        return Ok(None);
    };
    Ok(weave_file::read(&path)?.name)
}

/// For a reset, after which what Weave left behind is out of date; the original's own reset deletes
/// it. To be called when our own state, of which `record` is the last, has been removed.
///
/// Files that a launch could take over are put aside; returns where they are now. If one stays where
/// it is, because it is in use or cannot be moved, a state is left that says not to take it over.
pub fn after_reset(
    prefix: &Path,
    root: &Path,
    record: Option<StoredWeave>,
) -> Result<Vec<PathBuf>, StoreError> {
    let recorded = record.map(|record| PathBuf::from(record.path));
    let (mut moved, mut left) = (Vec::new(), None);
    for path in existing(prefix, root, recorded) {
        match weave_file::set_aside(&path) {
            Ok(aside) => {
                let path = path.display();
                tracing::info!("{path} is out of date, and is {} now", aside.display());
                moved.push(aside);
            }
            Err(error) => {
                tracing::warn!("{error}; it will not be taken over");
                left = Some(path);
            }
        }
    }
    if let Some(path) = left {
        let state = weave_file::read(&path);
        Store::open(prefix)?.set_weave(&StoredWeave {
            path: absolute(&path).to_string_lossy().into_owned(),
            transaction: state.map_or(0, |state| state.transaction),
            ..StoredWeave::default()
        })?;
    }
    Ok(moved)
}

/// The state files of Weave that are there: at the usual places, and `one_more`.
fn existing(prefix: &Path, root: &Path, one_more: Option<PathBuf>) -> Vec<PathBuf> {
    let mut beside = prefix.as_os_str().to_owned();
    beside.push(SUFFIX);
    // Two ways to one file are one file.
    let mut seen = BTreeSet::new();
    std::iter::once(PathBuf::from(beside))
        .chain(USUAL.iter().map(|path| root.join(path)))
        .chain(one_more)
        .filter(|path| path.canonicalize().is_ok_and(|real| seen.insert(real)))
        .collect()
}

/// The file to take over from.
fn find(sources: &Sources) -> Result<Option<PathBuf>, MigrateError> {
    let mut found = match &sources.weave_db {
        WeaveDb::None => return Ok(None),
        WeaveDb::File(path) => return Ok(Some(path.clone())),
        WeaveDb::Usual => existing(&sources.db_prefix, &sources.host_root, None),
    };
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => Err(MigrateError::Several(found)),
    }
}

/// One launch that may have something to take over.
struct Import<'a> {
    sources: &'a Sources,
    /// Allocation as it is asked for.
    allocation: Option<&'a Allocation>,
    /// Direct peers as they are asked for.
    peers: &'a Peers,
    store: &'a Store,
    /// What the bridge says our name is, if it is asked.
    bridge: Option<PeerName>,
}

impl Import<'_> {
    fn run(self) -> Result<(), MigrateError> {
        match self.store.weave()? {
            Some(record) => self.again(record),
            None => self.first(),
        }
    }

    /// Nothing was taken over so far.
    fn first(self) -> Result<(), MigrateError> {
        let sources = self.sources;
        let explicit = matches!(sources.weave_db, WeaveDb::File(_));
        if allocation::saved(self.store)?.is_some() {
            if explicit {
                tracing::info!("there is a state already: --weave-db has no effect");
            }
            return Ok(());
        }
        let Some(path) = find(sources)? else {
            return Ok(());
        };
        let state = weave_file::read(&path)?;
        let stored = self.store.identity()?;
        if let (Some(stored), Some(theirs)) = (&stored, state.name)
            && stored.name != theirs
        {
            let error = MigrateError::OtherName {
                path,
                theirs,
                ours: stored.name,
                whose: "the stored name",
            };
            if explicit {
                return Err(error);
            }
            tracing::warn!("{error}");
            return Ok(());
        }
        self.import(&path, &state, stored.is_none())
    }

    /// `record` tells what was taken over, or handed back, before.
    fn again(self, mut record: StoredWeave) -> Result<(), MigrateError> {
        let path = PathBuf::from(&record.path);
        let mut explicit = false;
        match &self.sources.weave_db {
            WeaveDb::Usual => {}
            WeaveDb::File(named) if absolute(named) == path => explicit = true,
            WeaveDb::File(_) => {
                tracing::info!(
                    "the state was taken over from {} already: --weave-db has no effect",
                    path.display()
                );
            }
            WeaveDb::None => {
                if let Ok(state) = weave_file::read(&path) {
                    record.transaction = state.transaction;
                }
                record.handed_back = false;
                return Ok(self.store.set_weave(&record)?);
            }
        }
        let state = match weave_file::read(&path) {
            Ok(state) => state,
            Err(error @ FileError::InUse(_)) => return Err(error.into()),
            Err(error) if record.handed_back && !error.is_missing() => return Err(error.into()),
            Err(error) => {
                if record.handed_back {
                    tracing::warn!("{error}; going on with the state from before it was written");
                    record.handed_back = false;
                    self.store.set_weave(&record)?;
                }
                return Ok(());
            }
        };
        if state.transaction == record.transaction {
            if record.handed_back {
                tracing::warn!(
                    "Weave Net has not opened {0} since it was written here, so the state here \
                     counts; if Weave ran with a copy of it, stop, put that copy in its place, and \
                     launch with --weave-db {0}",
                    record.path
                );
                record.handed_back = false;
                self.store.set_weave(&record)?;
            }
            return Ok(());
        }
        if !record.handed_back && !explicit {
            return Err(MigrateError::Changed(path));
        }
        self.import(&path, &state, true)
    }

    fn import(self, path: &Path, state: &State, peers_too: bool) -> Result<(), MigrateError> {
        let file = path.display();
        let name = self.agree(path, state)?;
        if let Some(oddity) = state.oddity {
            tracing::warn!("Weave Net's state file {file}: {oddity}");
        }
        let before = allocation::saved(self.store)?;
        let mut saved = None;
        if let Some(name) = name
            && (before.is_some() || !state.ring.is_empty())
        {
            let acceptor = before.filter(|before| before.name == name);
            saved = Some(Saved {
                name,
                ring: state.ring.clone(),
                owned: state.owned.clone(),
                // Once there is a ring it does not matter.
                acceptor: acceptor.and_then(|before| before.acceptor),
            });
        }
        let identity = name.map(|name| identity::of_this_machine(self.sources, name));
        let peers = peers_too.then(|| self.peers(&state.direct_peers));
        let record = StoredWeave {
            path: absolute(path).to_string_lossy().into_owned(),
            transaction: state.transaction,
            handed_back: false,
            others: (state.others.iter())
                .map(|(key, value)| (hex::encode(key), hex::encode(value)))
                .collect(),
        };
        let also = |transaction: &WriteTransaction| match &saved {
            Some(saved) => allocation::replace(transaction, saved),
            None => Ok(()),
        };
        (self.store).take_over(identity.as_ref(), peers.as_ref(), &record, also)?;
        let peers = state.direct_peers.join(" ");
        match name {
            Some(name) if !state.ring.is_empty() => {
                let count: usize = state.owned.values().map(|owned| owned.cidrs.len()).sum();
                tracing::info!(
                    "Took over from Weave Net's state file {file}, which stays as it is: name {name}, \
                     the ring of {}, {count} addresses of {} owners, direct peers [{peers}]",
                    range_text(state.ring.universe()),
                    state.owned.len(),
                );
            }
            Some(name) => tracing::info!(
                "Took over from Weave Net's state file {file}, which stays as it is: name {name}, no \
                 ring, direct peers [{peers}]"
            ),
            None => tracing::info!(
                "Took over from Weave Net's state file {file}, which stays as it is: direct peers \
                 [{peers}]; it never allocated addresses"
            ),
        }
        Ok(())
    }

    /// The name in the file, unless that or its range is not what it has to be.
    fn agree(&self, path: &Path, state: &State) -> Result<Option<PeerName>, MigrateError> {
        let Some(theirs) = state.name else {
            return Ok(None);
        };
        let chosen = self.sources.name.map(|name| (name, "--name"));
        let ours = chosen.or(self.bridge.map(|name| (name, "the address of the bridge")));
        if let Some((ours, whose)) = ours
            && ours != theirs
        {
            return Err(MigrateError::OtherName {
                path: path.to_owned(),
                theirs,
                ours,
                whose,
            });
        }
        if let Some(allocation) = self.allocation
            && !state.ring.is_empty()
            && state.ring.universe() != allocation.range.range()
        {
            return Err(MigrateError::OtherRange {
                path: path.to_owned(),
                theirs: range_text(state.ring.universe()),
                ours: allocation.range,
            });
        }
        Ok(Some(theirs))
    }

    /// The direct peers from now on: Weave's and those of this launch, which then counts as a
    /// restart.
    fn peers(&self, theirs: &[String]) -> StoredPeers {
        let mut targets = theirs.to_vec();
        let launched_with = match self.peers {
            Peers::Given(given) => {
                let more = given.iter().filter(|peer| !theirs.contains(peer));
                targets.extend(more.cloned());
                given.clone()
            }
            Peers::Stored => theirs.to_vec(),
        };
        StoredPeers {
            launched_with,
            targets,
            stopped: false,
        }
    }
}

fn range_text(range: Range) -> String {
    let subnet = range.as_subnet();
    subnet.map_or_else(|| range.to_string(), |subnet| subnet.to_string())
}

/// The path as it is found from anywhere.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What [`export`] has done.
#[derive(Debug, PartialEq, Eq)]
pub struct Exported {
    /// The file.
    pub path: PathBuf,
    /// Where the file is now that was there before.
    pub aside: Option<PathBuf>,
    /// The host's name.
    pub name: Option<PeerName>,
    /// The range, if it has been divided.
    pub range: Option<String>,
    /// How many addresses are given out.
    pub address_count: usize,
    /// The direct peers.
    pub peers: Vec<String>,
}

/// Writes the state behind `prefix` as a state file of Weave: at `path`, or in the place of the one
/// that was taken over. One that is there is put aside, if it may be `replace`d. Fails while a daemon
/// has the state.
pub fn export(prefix: &Path, path: Option<&Path>, replace: bool) -> Result<Exported, MigrateError> {
    let store = Store::open_existing(prefix)?;
    let store = store.ok_or_else(|| MigrateError::NoState(super::store::path(prefix)))?;
    let record = store.weave()?;
    let path = match (path, &record) {
        (Some(path), _) => absolute(path),
        (None, Some(record)) => PathBuf::from(&record.path),
        (None, None) => return Err(MigrateError::NoPath),
    };
    let before = match weave_file::read(&path) {
        Ok(state) => state.transaction,
        Err(error @ FileError::InUse(_)) => return Err(error.into()),
        Err(_) => 0,
    };
    let known = record.as_ref().map_or(0, |record| record.transaction);
    let others = record.map(|record| record.others).unwrap_or_default();
    let saved = allocation::saved(&store)?.unwrap_or_default();
    let identity = store.identity()?;
    let name = identity.map(|identity| identity.name);
    // Of a host that had another name once, the ring is not ours any more.
    let ours = name == Some(saved.name);
    let state = State {
        name,
        ring: if ours {
            saved.ring
        } else {
            State::default().ring
        },
        owned: if ours { saved.owned } else { BTreeMap::new() },
        direct_peers: store.peers()?.targets,
        others: (others.iter())
            .filter_map(|(key, value)| Some((hex::decode(key).ok()?, hex::decode(value).ok()?)))
            .collect(),
        transaction: before.max(known).saturating_add(1),
        oddity: None,
    };
    let mut record = StoredWeave {
        path: path.to_string_lossy().into_owned(),
        transaction: state.transaction,
        handed_back: false,
        others,
    };
    if path.exists() && !replace {
        return Err(FileError::Exists(path).into());
    }
    // If we die in between, the next launch sees that the file is not the one that is meant here,
    // and asks.
    store.set_weave(&record)?;
    let aside = weave_file::write(&path, &state, replace)?;
    record.handed_back = true;
    store.set_weave(&record)?;
    Ok(Exported {
        path,
        aside,
        name,
        range: (!state.ring.is_empty()).then(|| range_text(state.ring.universe())),
        address_count: state.owned.values().map(|owned| owned.cidrs.len()).sum(),
        peers: state.direct_peers,
    })
}

#[cfg(test)]
mod tests;
