//! Own names on disk, over a restart of the daemon.
//!
//! What was told to this host is told again by nobody when the daemon starts anew, so it is kept,
//! and written down before others are told. It is kept for one life of the machine only: after a
//! boot there are other containers. Two tables:
//!
//! | table | key | value |
//! |---|---|---|
//! | `names` | host name, container, address | version |
//! | `names-life` | `boot` | id of the machine's boot |
//!
//! Deleted names are not kept: what others still have of them is corrected when it is heard.

use dns::{Entry, Key, Mark, Update};
use proto::PeerName;
use redb::{ReadableTable as _, TableDefinition, TableError};

use crate::daemon::store::{Store, StoreError};

const NAMES: TableDefinition<'_, (&str, &str, &str), i64> = TableDefinition::new("names");
const LIFE: TableDefinition<'_, &str, &str> = TableDefinition::new("names-life");
const BOOT: &str = "boot";

/// The id of the machine's boot; empty if the kernel does not tell.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// The names of an earlier daemon in this life of the machine, as names of `ours`. Those of
/// another life are removed.
pub fn begin(store: &Store, ours: PeerName, boot: &str) -> Result<Vec<Entry>, StoreError> {
    let mut entries = Vec::new();
    let same_life = store.read(|transaction| {
        let damaged = |error: &dyn std::fmt::Display| store.damaged(&error);
        let life = match transaction.open_table(LIFE) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(false),
            table => table.map_err(|error| damaged(&error))?,
        };
        let known = life.get(BOOT).map_err(|error| damaged(&error))?;
        if known.is_none_or(|known| boot.is_empty() || known.value() != boot) {
            return Ok(false);
        }
        let names = transaction.open_table(NAMES);
        let names = names.map_err(|error| damaged(&error))?;
        for row in names.iter().map_err(|error| damaged(&error))? {
            let (key, version) = row.map_err(|error| damaged(&error))?;
            let (hostname, container, addr) = key.value();
            entries.push(Entry {
                key: Key {
                    hostname: hostname.to_owned(),
                    origin: ours,
                    container: container.to_owned(),
                    addr: addr.parse().map_err(|error| damaged(&error))?,
                },
                mark: Mark {
                    version: version.value(),
                    tombstone: 0,
                },
            });
        }
        Ok(true)
    })?;
    if !same_life {
        store.write(|transaction| {
            transaction.delete_table(NAMES)?;
            transaction.open_table(NAMES)?;
            transaction.open_table(LIFE)?.insert(BOOT, boot)?;
            Ok(())
        })?;
    }
    Ok(entries)
}

/// Keeps what has changed: own entries.
pub fn save(store: &Store, update: &Update) -> Result<(), StoreError> {
    store.write(|transaction| {
        let mut names = transaction.open_table(NAMES)?;
        for Entry { key, mark } in update.entries() {
            let addr = key.addr.to_string();
            let key = (key.hostname.as_str(), key.container.as_str(), addr.as_str());
            if mark.is_live() {
                names.insert(key, mark.version)?;
            } else {
                names.remove(key)?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_last_for_a_life_of_the_machine() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("state-")).unwrap();
        let (ours, other) = ("::1".parse().unwrap(), "::2".parse().unwrap());
        let entry = |host: &str, addr: [u8; 4], mark: (i64, i64)| Entry {
            key: Key {
                hostname: host.to_owned(),
                origin: ours,
                container: "c".to_owned(),
                addr: addr.into(),
            },
            mark: Mark {
                version: mark.0,
                tombstone: mark.1,
            },
        };
        assert_eq!(begin(&store, ours, "one").unwrap(), []);
        let kept = entry("Web.a.", [10, 0, 0, 1], (3, 0));
        let gone = [(0, 0), (1, 77)].map(|mark| entry("b.a.", [10, 0, 0, 2], mark));
        let [before, after] = gone;
        save(&store, &Update::new(1, [kept.clone(), before])).unwrap();
        assert_eq!(begin(&store, ours, "one").unwrap().len(), 2);
        save(&store, &Update::new(2, [after])).unwrap();
        assert_eq!(begin(&store, ours, "one").unwrap(), [kept]);
        // This host has another name now; the names are its own all the same.
        assert_eq!(begin(&store, other, "one").unwrap()[0].key.origin, other);
        assert_eq!(begin(&store, ours, "two").unwrap(), []);
        assert_eq!(begin(&store, ours, "two").unwrap(), []);
        // Who does not know in which life he is keeps nothing.
        save(
            &store,
            &Update::new(1, [entry("c.", [10, 0, 0, 3], (0, 0))]),
        )
        .unwrap();
        assert_eq!(begin(&store, ours, "").unwrap(), []);
    }
}
