//! The replicated table of names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proto::PeerName;

use crate::entry::{Entry, Key, Mark, fold};

/// All entries that a host knows, the dead ones included.
#[derive(Debug, Clone, Default)]
pub struct Table {
    entries: BTreeMap<Key, Mark>,
    by_name: BTreeMap<String, BTreeSet<Key>>,
    by_addr: BTreeMap<IpAddr, BTreeSet<Key>>,
    changes: Changes,
}

/// What lookups may see differently since the last time somebody asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    /// Folded host names.
    pub(crate) names: BTreeSet<String>,
    pub(crate) addrs: BTreeSet<IpAddr>,
}

impl Changes {
    fn note(&mut self, key: &Key) {
        self.names.insert(fold(&key.hostname));
        self.addrs.insert(key.addr);
    }
}

impl Table {
    /// All entries, in table order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Key, Mark)> {
        self.entries.iter().map(|(key, mark)| (key, *mark))
    }

    /// State of an entry.
    pub fn mark(&self, key: &Key) -> Option<Mark> {
        self.entries.get(key).copied()
    }

    /// Takes an entry up. Returns whether that changed anything.
    pub fn merge(&mut self, entry: Entry) -> bool {
        let Entry { key, mark } = entry;
        match self.entries.get_mut(&key) {
            Some(known) if mark > *known => {
                if mark.is_live() != known.is_live() {
                    self.changes.note(&key);
                }
                *known = mark;
            }
            Some(_) => return false,
            None => {
                if mark.is_live() {
                    self.changes.note(&key);
                }
                self.by_name
                    .entry(fold(&key.hostname))
                    .or_default()
                    .insert(key.clone());
                self.by_addr
                    .entry(key.addr)
                    .or_default()
                    .insert(key.clone());
                self.entries.insert(key, mark);
            }
        }
        true
    }

    /// Removes entries for good, without a tombstone. Returns how many.
    pub fn remove(&mut self, mut which: impl FnMut(&Key, Mark) -> bool) -> usize {
        let before = self.entries.len();
        let Self {
            entries,
            by_name,
            by_addr,
            changes,
        } = self;
        entries.retain(|key, mark| {
            let keep = !which(key, *mark);
            if !keep {
                unindex(by_name, &fold(&key.hostname), key);
                unindex(by_addr, &key.addr, key);
                if mark.is_live() {
                    changes.note(key);
                }
            }
            keep
        });
        before - self.entries.len()
    }

    /// What has changed for lookups since the last call.
    pub(crate) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Whether any live entry has this name, whatever its kind of address.
    pub fn knows(&self, hostname: &str) -> bool {
        self.named(hostname).next().is_some()
    }

    /// Live entries of a fully qualified name, in any case.
    pub fn named(&self, hostname: &str) -> impl Iterator<Item = &Key> {
        self.live(self.by_name.get(&fold(hostname)))
    }

    /// First name of an address, in table order.
    pub fn name_of(&self, addr: IpAddr) -> Option<&str> {
        self.live(self.by_addr.get(&addr))
            .next()
            .map(|key| key.hostname.as_str())
    }

    /// The spelling under which the origin already has this name, container and address.
    pub fn spelling_of(&self, key: &Key) -> Option<&Key> {
        self.by_name
            .get(&fold(&key.hostname))?
            .iter()
            .find(|known| known.is_case_variant_of(key))
    }

    /// Live entries of one origin.
    pub fn live_of(&self, origin: PeerName) -> impl Iterator<Item = &Key> {
        self.entries
            .iter()
            .filter(move |(key, mark)| key.origin == origin && mark.is_live())
            .map(|(key, _)| key)
    }

    /// Number of live entries.
    pub fn live_count(&self) -> usize {
        self.entries.values().filter(|mark| mark.is_live()).count()
    }

    fn live<'t>(&'t self, keys: Option<&'t BTreeSet<Key>>) -> impl Iterator<Item = &'t Key> {
        keys.into_iter()
            .flatten()
            .filter(|key| self.mark(key).is_some_and(Mark::is_live))
    }
}

fn unindex<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Key>>, by: &K, key: &Key) {
    if let Some(keys) = index.get_mut(by) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(by);
        }
    }
}
