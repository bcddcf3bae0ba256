//! Which direct peers a launch begins with, and how they are kept.
//!
//! A launch that looks like the one before it (the same hosts on the command line, or none) is a
//! restart, and takes up the list where it was: with what `connect` added and without what `forget`
//! dropped. Any other launch begins with the hosts that it names, and so does one after `stop`.
//!
//! Source: feature inventory, R06.

use std::sync::{Mutex, PoisonError};

use super::config::Peers;
use super::store::{Store, StoreError, StoredPeers};

/// What a launch begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// To be kept.
    pub record: StoredPeers,
    /// Whether the list is the stored one.
    pub resumed: bool,
}

/// Decides for a launch with `peers` after one that left `stored`.
pub fn begin(peers: &Peers, stored: StoredPeers) -> Beginning {
    let given = match peers {
        Peers::Stored => return resume(stored),
        Peers::Given(given) => given,
    };
    let same = given.is_empty() || *given == stored.launched_with;
    if same && !stored.stopped {
        return resume(stored);
    }
    Beginning {
        record: StoredPeers {
            launched_with: given.clone(),
            targets: given.clone(),
            stopped: false,
        },
        resumed: false,
    }
}

fn resume(stored: StoredPeers) -> Beginning {
    Beginning {
        resumed: !stored.targets.is_empty() || !stored.launched_with.is_empty(),
        record: StoredPeers {
            stopped: false,
            ..stored
        },
    }
}

/// Keeps the record up to date, until it is closed.
#[derive(Debug)]
pub struct Keeper(Mutex<Option<(Store, StoredPeers)>>);

impl Keeper {
    /// Keeps `record` from now on.
    pub fn new(store: Store, record: StoredPeers) -> Result<Self, StoreError> {
        store.set_peers(&record)?;
        Ok(Self(Mutex::new(Some((store, record)))))
    }

    /// The direct peers are these now. On disk when it returns.
    pub fn changed(&self, targets: Vec<String>) -> Result<(), StoreError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.as_mut() {
            Some((store, record)) if record.targets != targets => {
                record.targets = targets;
                store.set_peers(record)
            }
            _ => Ok(()),
        }
    }

    /// Gives the state back; with `stopped` the next launch is to begin afresh.
    pub fn close(&self, stopped: bool) -> Result<Option<Store>, StoreError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((store, mut record)) = kept.take() else {
            return Ok(None);
        };
        if stopped {
            record.stopped = true;
            store.set_peers(&record)?;
        }
        Ok(Some(store))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn stored(launched_with: &str, targets: &str, stopped: bool) -> StoredPeers {
        StoredPeers {
            launched_with: list(launched_with),
            targets: list(targets),
            stopped,
        }
    }

    #[test]
    fn every_kind_of_launch() {
        let given = |text| Peers::Given(list(text));
        for (peers, before, record, resumed) in [
            // The first of all.
            (
                given("a"),
                stored("", "", false),
                stored("a", "a", false),
                false,
            ),
            (
                given(""),
                stored("", "", false),
                stored("", "", false),
                false,
            ),
            // The same again, after "connect b" and "forget a".
            (
                given("a"),
                stored("a", "b", false),
                stored("a", "b", false),
                true,
            ),
            (
                given("a"),
                stored("a", "", false),
                stored("a", "", false),
                true,
            ),
            (
                given(""),
                stored("a", "a b", false),
                stored("a", "a b", false),
                true,
            ),
            // Another one.
            (
                given("c"),
                stored("a", "a b", false),
                stored("c", "c", false),
                false,
            ),
            // After "stop".
            (
                given("a"),
                stored("a", "a b", true),
                stored("a", "a", false),
                false,
            ),
            (
                given(""),
                stored("a", "a b", true),
                stored("", "", false),
                false,
            ),
            // With --resume.
            (
                Peers::Stored,
                stored("a", "a b", true),
                stored("a", "a b", false),
                true,
            ),
        ] {
            let expected = Beginning { record, resumed };
            assert_eq!(
                begin(&peers, before.clone()),
                expected,
                "{peers:?} after {before:?}"
            );
        }
    }

    #[test]
    fn changes_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("")).unwrap();
        let keeper = Keeper::new(store, stored("a", "a", false)).unwrap();
        keeper.changed(list("a b")).unwrap();
        let store = keeper.close(false).unwrap().unwrap();
        assert_eq!(store.peers().unwrap(), stored("a", "a b", false));
        let keeper = Keeper::new(store, stored("a", "a b", false)).unwrap();
        let store = keeper.close(true).unwrap().unwrap();
        assert_eq!(store.peers().unwrap(), stored("a", "a b", true));
        // Too late, and no harm.
        keeper.changed(list("c")).unwrap();
        assert!(keeper.close(true).unwrap().is_none());
    }
}
