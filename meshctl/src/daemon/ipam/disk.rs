//! What allocation keeps on disk: three tables of the state file.
//!
//! | table | key | value |
//! |---|---|---|
//! | `ipam` | `head` | version 1, then JSON: name, universe, seeds |
//! | | `acceptor` | version 1, then what was promised and accepted, in gob |
//! | `ipam-ring` | token | owner, version, free addresses |
//! | `ipam-owned` | identifier | version 1, 1 for a container or 0, then 5 bytes for each address: the address, most significant octet first, and its prefix length |
//!
//! One transaction carries all that has changed since the one before, and only that. A thread of
//! its own commits one at a time, and what comes up meanwhile makes up the next: under load the cost
//! of a commit is shared by many requests.

use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Weak};

use ipam::allocator::{Changes, Save, Saved};
use ipam::range::{Address, Cidr, Range};
use ipam::ring::{Entry, Ring};
use ipam::wire::persist::{Owned, decode_claims, encode_claims};
use proto::PeerName;
use redb::{ReadableTable as _, TableDefinition, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::shared::Shared;
use crate::daemon::store::{Store, StoreError};

const HEAD: &str = "head";
const ACCEPTOR: &str = "acceptor";
/// The only layout of values so far.
const VERSION: u8 = 1;
/// Bytes of an address with its prefix length.
const CIDR_LEN: usize = 5;

const MAIN: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("ipam");
const RING: TableDefinition<'_, u32, (u64, u32, u32)> = TableDefinition::new("ipam-ring");
const OWNED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("ipam-owned");

#[derive(Serialize, Deserialize)]
struct Head {
    name: String,
    start: String,
    end: String,
    seeds: Vec<String>,
}

/// Starts the thread that carries out saves. It ends when nobody can send it any.
pub(super) fn start(
    store: Store,
    saves: mpsc::Receiver<Save>,
    shared: &Arc<Shared>,
) -> io::Result<()> {
    let weak = Arc::downgrade(shared);
    let thread = std::thread::Builder::new()
        .name("ipam-disk".to_owned())
        .spawn(move || run(&store, &saves, &weak))?;
    shared.set_disk(thread);
    Ok(())
}

fn run(store: &Store, saves: &mpsc::Receiver<Save>, shared: &Weak<Shared>) {
    while let Ok(Save { seq, changes }) = saves.recv() {
        let saved = save(store, &changes);
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.call(|allocator, now| match saved {
            Ok(()) => allocator.handle_saved(seq, now),
            Err(error) => allocator.handle_save_failed(seq, error.to_string(), now),
        });
    }
}

/// Puts changes on disk.
pub(super) fn save(store: &Store, changes: &Changes) -> Result<(), StoreError> {
    store.write(|transaction| put(transaction, changes))
}

/// Makes changes part of a transaction.
pub(super) fn put(transaction: &WriteTransaction, changes: &Changes) -> Result<(), redb::Error> {
    let head = Head {
        name: changes.name.to_string(),
        start: changes.universe.start.to_string(),
        end: changes.universe.end.to_string(),
        seeds: changes.seeds.iter().map(ToString::to_string).collect(),
    };
    let mut head_value = vec![VERSION];
    serde_json::to_writer(&mut head_value, &head)
        .map_err(|error| redb::Error::Corrupted(error.to_string()))?;
    let mut main = transaction.open_table(MAIN)?;
    let mut ring = transaction.open_table(RING)?;
    let mut owned = transaction.open_table(OWNED)?;
    if changes.anew {
        main.retain(|_, _| false)?;
        ring.retain(|_, _| false)?;
        owned.retain(|_, _| false)?;
    }
    let is_new = main.get(HEAD)?.is_none_or(|old| old.value() != head_value);
    if is_new {
        main.insert(HEAD, head_value.as_slice())?;
    }
    for (token, entry) in &changes.entries {
        ring.insert(token.0, (entry.peer.as_u64(), entry.version, entry.free))?;
    }
    for (ident, value) in &changes.owned {
        match value {
            Some(value) => owned.insert(&**ident, encode_owned(value).as_slice())?,
            None => owned.remove(&**ident)?,
        };
    }
    match &changes.acceptor {
        Some(Some((id, claims))) => {
            let mut value = vec![VERSION];
            value.extend(encode_claims(&[(*id, claims.clone())].into()));
            main.insert(ACCEPTOR, value.as_slice())?;
        }
        Some(None) => {
            main.remove(ACCEPTOR)?;
        }
        None => {}
    }
    Ok(())
}

/// What is on disk, if there ever was anything.
pub(super) fn load(store: &Store) -> Result<Option<Saved>, StoreError> {
    store.read(|transaction| {
        let main = match transaction.open_table(MAIN) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table.map_err(|error| store.damaged(&error))?,
        };
        let ring = transaction.open_table(RING);
        let ring = ring.map_err(|error| store.damaged(&error))?;
        let owned = transaction.open_table(OWNED);
        let owned = owned.map_err(|error| store.damaged(&error))?;
        let value = |key| -> Result<Option<Vec<u8>>, StoreError> {
            let value = main.get(key).map_err(|error| store.damaged(&error))?;
            let Some(value) = value else { return Ok(None) };
            Ok(Some(versioned(store, value.value())?.to_vec()))
        };
        let Some(head) = value(HEAD)? else {
            return Ok(None);
        };
        let head = serde_json::from_slice(&head).map_err(|error| store.damaged(&error))?;
        let (name, universe, seeds) = read_head(store, &head)?;
        let mut entries = Vec::new();
        for row in ring.iter().map_err(|error| store.damaged(&error))? {
            let (token, value) = row.map_err(|error| store.damaged(&error))?;
            let (peer, version, free) = value.value();
            entries.push(Entry {
                token: Address(token.value()),
                peer: PeerName::from_u64(peer).ok_or_else(|| store.damaged(&"no peer name"))?,
                version,
                free,
            });
        }
        let mut saved = Saved {
            name,
            ring: Ring::new(universe),
            ..Saved::default()
        };
        saved.ring.overlay(&entries, &seeds);
        for row in owned.iter().map_err(|error| store.damaged(&error))? {
            let (ident, value) = row.map_err(|error| store.damaged(&error))?;
            let value = decode_owned(store, versioned(store, value.value())?)?;
            saved.owned.insert(ident.value().to_owned(), value);
        }
        if let Some(claims) = value(ACCEPTOR)? {
            let claims = decode_claims(&claims).map_err(|error| store.damaged(&error))?;
            saved.acceptor = claims.into_iter().next();
        }
        Ok(Some(saved))
    })
}

fn read_head(store: &Store, head: &Head) -> Result<(PeerName, Range, Vec<PeerName>), StoreError> {
    let name = |text: &String| {
        let name = text.parse::<PeerName>();
        name.map_err(|error| store.damaged(&error))
    };
    let address = |text: &str| {
        let address = text.parse::<Address>();
        address.map_err(|error| store.damaged(&error))
    };
    let universe = Range::new(address(&head.start)?, address(&head.end)?);
    let seeds = head.seeds.iter().map(name).collect::<Result<_, _>>()?;
    Ok((name(&head.name)?, universe, seeds))
}

fn versioned<'a>(store: &Store, value: &'a [u8]) -> Result<&'a [u8], StoreError> {
    match value.split_first() {
        Some((&VERSION, rest)) => Ok(rest),
        Some((&version, _)) if version > VERSION => Err(StoreError::Newer(store.path().to_owned())),
        _ => Err(store.damaged(&"a value of IPAM has no version")),
    }
}

fn encode_owned(owned: &Owned) -> Vec<u8> {
    let mut value = Vec::with_capacity(2 + owned.cidrs.len() * CIDR_LEN);
    value.extend([VERSION, owned.is_container.into()]);
    for cidr in &owned.cidrs {
        value.extend(cidr.address.0.to_be_bytes());
        value.push(cidr.prefix_len());
    }
    value
}

fn decode_owned(store: &Store, value: &[u8]) -> Result<Owned, StoreError> {
    let damaged = || store.damaged(&"the addresses of an identifier cannot be read");
    let (is_container, list) = match value.split_first() {
        Some((0, list)) => (false, list),
        Some((1, list)) => (true, list),
        _ => return Err(damaged()),
    };
    let (cidrs, []) = list.as_chunks::<CIDR_LEN>() else {
        return Err(damaged());
    };
    let cidrs = cidrs.iter().map(|[a, b, c, d, len]| {
        let address = Address(u32::from_be_bytes([*a, *b, *c, *d]));
        (*len <= 32).then_some(Cidr::new(address, *len))
    });
    Ok(Owned {
        is_container,
        cidrs: cidrs.collect::<Option<_>>().ok_or_else(damaged)?,
    })
}
