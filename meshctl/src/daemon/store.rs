//! The state of a host, kept over restarts: one redb database.
//!
//! One table, `state`, maps a name to a value: one byte that tells the version of the value's
//! layout, here always 1, then JSON. Address allocation has tables of its own beside it. Every
//! change is one transaction, on disk when the call returns; a kill at any moment leaves the state
//! before the change or after it.
//!
//! The database is locked while it is open, so two daemons never share a state. Damage is found
//! when it is opened or read. A file that is damaged or not ours is left as it is: until the first
//! change nothing is written ([`backend`]). After a failure of the disk the database has to be opened
//! again, which is tried before the next use.

mod backend;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use proto::PeerName;
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase as _, TableDefinition, TableError,
    WriteTransaction,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use backend::Backend;

/// What the path of the state file begins with, unless told otherwise.
pub const DB_PREFIX: &str = "/var/lib/meshctl/";

/// What the path ends in.
const SUFFIX: &str = "data.redb";
/// The only layout of values so far.
const VERSION: u8 = 1;
/// The first bytes of a file of redb.
const MAGIC: &[u8] = b"redb";
/// Where a bolt database, which Weave Net keeps, has its magic number, and what it is.
const BOLT: (usize, [u8; 4]) = (16, [0xed, 0xda, 0x0c, 0xed]);
/// Pages that redb keeps in memory: the whole state has a few kilobytes.
const CACHE_LEN: usize = 1 << 20;

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
const IDENTITY: &str = "identity";
const PEERS: &str = "direct-peers";
const OPTIONS: &str = "launch-options";
const WEAVE: &str = "weave";

/// What is said of a database that redb does not understand.
const NONSENSE: &str = "it makes no sense";

/// An open state. Clones share it.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    was_empty: bool,
    database: RwLock<Handle>,
}

#[derive(Debug)]
enum Handle {
    Open(Database, Backend),
    /// The disk has failed under it; to be opened again.
    Lost,
    /// Damaged so that it has panicked.
    GivenUp,
    /// Closed for good.
    Closed,
    /// The disk is full, or worse, as long as a test likes.
    #[cfg(test)]
    Broken(io::ErrorKind),
}

/// The name of this host, and the machine that it was stored on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredIdentity {
    /// The name.
    pub name: PeerName,
    /// Mark of the machine's hardware, if it could be read.
    pub machine: Option<String>,
}

/// Direct peers, and what the launch that had them was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPeers {
    /// Hosts on the command line of that launch.
    pub launched_with: Vec<String>,
    /// Direct peers since, as the user wrote them.
    pub targets: Vec<String>,
    /// Whether the daemon was told to stop, so that the next launch begins afresh.
    pub stopped: bool,
}

/// The state file of Weave Net that our state was taken over from, or handed back to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredWeave {
    /// The file.
    pub path: String,
    /// Number of its last transaction then.
    pub transaction: u64,
    /// Whether we wrote it, for Weave to go on with, and have not run since.
    pub handed_back: bool,
    /// What was in it that has no meaning here: keys and values, in hexadecimal.
    pub others: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct IdentityRecord {
    name: String,
    machine: Option<String>,
}

impl From<&StoredIdentity> for IdentityRecord {
    fn from(identity: &StoredIdentity) -> Self {
        Self {
            name: identity.name.to_string(),
            machine: identity.machine.clone(),
        }
    }
}

/// Why the state cannot be used. Nothing on disk has changed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The directory or the file cannot be made or opened.
    #[error("cannot open the state file {}: {source}; {mend}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
        /// What the user can do.
        mend: &'static str,
    },
    /// Somebody holds it.
    #[error(
        "the state file {} is in use: another meshctl runs with it; see \"meshctl status\", end it \
         with \"meshctl stop\", or give this one a --db-prefix of its own", .0.display()
    )]
    Locked(PathBuf),
    /// It belongs to another program.
    #[error(
        "{} is {what}, not a state file of meshctl; it is left as it is: choose another \
         --db-prefix, or move it away", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it seems to be.
        what: &'static str,
    },
    /// It is broken.
    #[error(
        "the state file {} is damaged ({reason}); move it away and launch again: the host keeps \
         its name if it was not chosen by hand or at random, and forgets its direct peers and the \
         addresses that it gave out: before that, stop the containers that have some",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It cannot be written.
    #[error("cannot write the state file {}: {source}; {mend}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
        /// What the user can do.
        mend: &'static str,
    },
    /// It has been closed.
    #[error("the state file {} has been closed", .0.display())]
    Closed(PathBuf),
    /// It was written by a version to come.
    #[error(
        "the state file {} was written by a newer meshctl; launch that one, or choose another \
         --db-prefix", .0.display()
    )]
    Newer(PathBuf),
}

/// Path of the state file.
pub fn path(prefix: &Path) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(SUFFIX);
    path.into()
}

/// Removes the state, unless somebody holds it or it belongs to another program. Damaged, it goes
/// as well.
pub fn remove(prefix: &Path) -> Result<bool, StoreError> {
    let path = path(prefix);
    if !path.exists() {
        return Ok(false);
    }
    match Store::open(prefix) {
        Ok(_) | Err(StoreError::Damaged { .. }) => {}
        Err(error) => return Err(error),
    }
    fs::remove_file(&path).map_err(|source| cannot_open(&path, source))?;
    Ok(true)
}

impl Store {
    /// Opens the state, or makes it, with the directories above it.
    pub fn open(prefix: &Path) -> Result<Self, StoreError> {
        let path = path(prefix);
        let was_empty = recognise(&path)?;
        if let Some(directory) = path
            .parent()
            .filter(|directory| !directory.as_os_str().is_empty())
        {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory);
            made.map_err(|source| cannot_open(&path, source))?;
        }
        let handle = open_database(&path)?;
        Ok(Self(Arc::new(Inner {
            path,
            was_empty,
            database: RwLock::new(handle),
        })))
    }

    /// Opens the state, if there is one.
    pub fn open_existing(prefix: &Path) -> Result<Option<Self>, StoreError> {
        if !path(prefix).exists() {
            return Ok(None);
        }
        Self::open(prefix).map(Some)
    }

    /// Reads all of it, to find damage that would show only later.
    pub fn check(&self) -> Result<(), StoreError> {
        let mut handle = (self.0.database.write()).unwrap_or_else(PoisonError::into_inner);
        let Handle::Open(database, _) = &mut *handle else {
            return Ok(());
        };
        match unless_it_panics(|| database.check_integrity()) {
            Some(Ok(true)) => Ok(()),
            Some(Ok(false)) => Err(self.damaged(&"its checksums do not agree")),
            Some(Err(error)) => Err(explain(self.path(), error)),
            None => {
                give_up(&mut handle);
                Err(self.damaged(&NONSENSE))
            }
        }
    }

    /// Closes the state, for all who share it, and removes it.
    pub fn destroy(self) -> Result<(), StoreError> {
        let mut handle = (self.0.database.write()).unwrap_or_else(PoisonError::into_inner);
        *handle = Handle::Closed;
        let path = &self.0.path;
        fs::remove_file(path).map_err(|source| cannot_open(path, source))
    }

    /// Where the state is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether the file was there, with nothing in it: a kill at the very first start leaves one, and
    /// so may a disk that has lost what was written.
    pub fn was_empty(&self) -> bool {
        self.0.was_empty
    }

    /// The name of this host.
    pub fn identity(&self) -> Result<Option<StoredIdentity>, StoreError> {
        let Some(record) = self.load::<IdentityRecord>(IDENTITY)? else {
            return Ok(None);
        };
        let name = record.name.parse().map_err(|error| self.damaged(&error))?;
        Ok(Some(StoredIdentity {
            name,
            machine: record.machine,
        }))
    }

    /// Keeps the name of this host.
    pub fn set_identity(&self, identity: &StoredIdentity) -> Result<(), StoreError> {
        self.save(IDENTITY, &IdentityRecord::from(identity))
    }

    /// The direct peers.
    pub fn peers(&self) -> Result<StoredPeers, StoreError> {
        Ok(self.load(PEERS)?.unwrap_or_default())
    }

    /// Keeps the direct peers.
    pub fn set_peers(&self, peers: &StoredPeers) -> Result<(), StoreError> {
        self.save(PEERS, peers)
    }

    /// Options of the last launch.
    pub fn launch_options(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.load(OPTIONS)?.unwrap_or_default())
    }

    /// Keeps the options of a launch.
    pub fn set_launch_options(&self, options: &[String]) -> Result<(), StoreError> {
        self.save(OPTIONS, &options)
    }

    /// What there was to do with Weave Net's state file, if anything.
    pub fn weave(&self) -> Result<Option<StoredWeave>, StoreError> {
        self.load(WEAVE)
    }

    /// Keeps what there was to do with Weave Net's state file.
    pub fn set_weave(&self, weave: &StoredWeave) -> Result<(), StoreError> {
        self.save(WEAVE, weave)
    }

    fn load<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        self.read(|transaction| {
            let table = match transaction.open_table(TABLE) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table.map_err(|error| self.foreign_table(&error))?,
            };
            let Some(value) = table.get(key).map_err(|error| self.damaged(&error))? else {
                return Ok(None);
            };
            match value.value().split_first() {
                Some((&VERSION, json)) => serde_json::from_slice(json)
                    .map(Some)
                    .map_err(|error| self.damaged(&error)),
                Some((&version, _)) if version > VERSION => {
                    Err(StoreError::Newer(self.path().to_owned()))
                }
                _ => Err(self.damaged(&format!("{key} has no version"))),
            }
        })
    }

    /// Keeps what was taken over from Weave Net, all of it or nothing: the name, if it has one, the
    /// direct peers, unless there are own ones, what is put down by `more`, and that it was done.
    pub(super) fn take_over(
        &self,
        identity: Option<&StoredIdentity>,
        peers: Option<&StoredPeers>,
        weave: &StoredWeave,
        more: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            more(transaction)?;
            if let Some(identity) = identity {
                put(transaction, IDENTITY, &IdentityRecord::from(identity))?;
            }
            if let Some(peers) = peers {
                put(transaction, PEERS, peers)?;
            }
            put(transaction, WEAVE, weave)
        })
    }

    fn save(&self, key: &str, value: &impl Serialize) -> Result<(), StoreError> {
        self.write(|transaction| put(transaction, key, value))
    }

    /// Reads what `read` wants from one moment's state.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.with(|database, _| {
            let transaction = database.begin_read();
            read(&transaction.map_err(|error| self.damaged(&error))?)
        })
    }

    /// Makes changes, all or none. On disk when it returns.
    pub(super) fn write(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let result = self.with(|database, backend| {
            let commit = || -> Result<(), redb::Error> {
                backend.release()?;
                let transaction = database.begin_write()?;
                write(&transaction)?;
                transaction.commit()?;
                Ok(())
            };
            Ok(unless_it_panics(commit))
        })?;
        let error = match result {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => error,
            None => {
                let mut handle = (self.0.database.write()).unwrap_or_else(PoisonError::into_inner);
                give_up(&mut handle);
                return Err(self.damaged(&NONSENSE));
            }
        };
        let source = match error {
            redb::Error::Io(source) => source,
            redb::Error::PreviousIo => io::Error::other("it has failed a moment ago"),
            error => return Err(self.damaged(&error)),
        };
        // redb lets nobody go on after that.
        let mut handle = (self.0.database.write()).unwrap_or_else(PoisonError::into_inner);
        if matches!(*handle, Handle::Open(..)) {
            *handle = Handle::Lost;
        }
        let mend = mend(source.kind());
        Err(StoreError::Write {
            path: self.0.path.clone(),
            source,
            mend,
        })
    }

    fn with<T>(
        &self,
        call: impl FnOnce(&Database, &Backend) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let handle = (self.0.database.read()).unwrap_or_else(PoisonError::into_inner);
            match &*handle {
                Handle::Open(database, backend) => return call(database, backend),
                Handle::GivenUp => return Err(self.damaged(&NONSENSE)),
                Handle::Closed => return Err(StoreError::Closed(self.0.path.clone())),
                Handle::Lost => {}
                #[cfg(test)]
                Handle::Broken(kind) => {
                    return Err(StoreError::Write {
                        path: self.0.path.clone(),
                        source: (*kind).into(),
                        mend: mend(*kind),
                    });
                }
            }
            drop(handle);
            let mut handle = (self.0.database.write()).unwrap_or_else(PoisonError::into_inner);
            if matches!(*handle, Handle::Lost) {
                *handle = open_database(&self.0.path)?;
            }
        }
    }

    /// Has every use fail until what this returns is dropped.
    #[cfg(test)]
    pub(super) fn break_down(&self, kind: io::ErrorKind) -> impl Drop {
        struct Broken(Store);
        impl Drop for Broken {
            fn drop(&mut self) {
                *self.0.0.database.write().unwrap() = Handle::Lost;
            }
        }
        *self.0.database.write().unwrap() = Handle::Broken(kind);
        Broken(self.clone())
    }

    /// The state is damaged, for this reason.
    pub(super) fn damaged(&self, reason: &impl ToString) -> StoreError {
        StoreError::Damaged {
            path: self.0.path.clone(),
            reason: reason.to_string(),
        }
    }

    fn foreign_table(&self, error: &TableError) -> StoreError {
        match error {
            TableError::Storage(error) => self.damaged(error),
            _ => StoreError::Foreign {
                path: self.0.path.clone(),
                what: "the database of another program",
            },
        }
    }
}

/// Makes a value of the main table part of a transaction.
fn put(
    transaction: &WriteTransaction,
    key: &str,
    value: &impl Serialize,
) -> Result<(), redb::Error> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, value)
        .map_err(|error| redb::Error::Corrupted(error.to_string()))?;
    transaction
        .open_table(TABLE)?
        .insert(key, bytes.as_slice())?;
    Ok(())
}

/// Refuses a file that is not a redb database, before anything is written to it.
fn recognise(path: &Path) -> Result<bool, StoreError> {
    let mut head = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(64).read_to_end(&mut head));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(cannot_open(path, source)),
        // An empty file becomes a database.
        Ok(0) => return Ok(true),
        Ok(_) => {}
    }
    if head.starts_with(MAGIC) {
        return Ok(false);
    }
    let bolt = head.get(BOLT.0..BOLT.0 + 4) == Some(&BOLT.1);
    Err(StoreError::Foreign {
        path: path.to_owned(),
        what: if bolt {
            "a database of Weave Net"
        } else {
            "a file of another program"
        },
    })
}

fn open_database(path: &Path) -> Result<Handle, StoreError> {
    let file = (fs::File::options().read(true).write(true))
        .create(true)
        .truncate(false)
        .open(path);
    let file = file.map_err(|source| cannot_open(path, source))?;
    let backend = Backend::new(file).map_err(|error| explain(path, error))?;
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_LEN);
    match unless_it_panics(|| builder.create_with_backend(backend.clone())) {
        Some(Ok(database)) => Ok(Handle::Open(database, backend)),
        Some(Err(error)) => Err(explain(path, error)),
        None => Err(StoreError::Damaged {
            path: path.to_owned(),
            reason: NONSENSE.to_owned(),
        }),
    }
}

/// Closes a database that has panicked without a word to it: what state it is in nobody knows.
fn give_up(handle: &mut Handle) {
    std::mem::forget(std::mem::replace(handle, Handle::GivenUp));
}

/// redb trusts what it has once written, and panics at some kinds of damage.
fn unless_it_panics<T>(call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

fn explain(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Locked(path.to_owned()),
        DatabaseError::UpgradeRequired(_) => StoreError::Newer(path.to_owned()),
        DatabaseError::Storage(redb::StorageError::Io(source))
            if source.kind() != io::ErrorKind::InvalidData
                && source.kind() != io::ErrorKind::UnexpectedEof =>
        {
            cannot_open(path, source)
        }
        error => StoreError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        },
    }
}

fn cannot_open(path: &Path, source: io::Error) -> StoreError {
    StoreError::Open {
        path: path.to_owned(),
        mend: mend(source.kind()),
        source,
    }
}

fn mend(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied => "run as root, or choose another place with --db-prefix",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on that disk",
        io::ErrorKind::ReadOnlyFilesystem => "choose a place that can be written with --db-prefix",
        _ => "choose another place with --db-prefix",
    }
}

#[cfg(test)]
mod tests;
