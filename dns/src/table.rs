//! The replicated table of names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proto::PeerName;

use crate::entry::{Entry, Key, Mark, fold};

/// All entries that a host knows, the dead ones included.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// By folded host name, which is first in the order of keys too.
    by_name: BTreeMap<String, BTreeMap<Key, Mark>>,
    by_addr: BTreeMap<IpAddr, BTreeSet<Key>>,
    len: usize,
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
    pub fn iter(&self) -> impl Iterator<Item = (&Key, Mark)> {
        let entries = self.by_name.values().flatten();
        entries.map(|(key, mark)| (key, *mark))
    }

    /// Number of entries.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// State of an entry.
    pub fn mark(&self, key: &Key) -> Option<Mark> {
        self.by_name.get(&fold(&key.hostname))?.get(key).copied()
    }

    /// Takes an entry up. Returns whether that changed anything.
    pub fn merge(&mut self, entry: Entry) -> bool {
        let Entry { key, mark } = entry;
        let of_name = self.by_name.entry(fold(&key.hostname)).or_default();
        match of_name.get_mut(&key) {
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
                self.by_addr
                    .entry(key.addr)
                    .or_default()
                    .insert(key.clone());
                of_name.insert(key, mark);
                self.len += 1;
            }
        }
        true
    }

    /// Removes entries for good, without a tombstone. Returns how many.
    pub fn remove(&mut self, mut which: impl FnMut(&Key, Mark) -> bool) -> usize {
        let before = self.len;
        let Self {
            by_name,
            by_addr,
            len,
            changes,
        } = self;
        by_name.retain(|_, of_name| {
            of_name.retain(|key, mark| {
                let keep = !which(key, *mark);
                if !keep {
                    unindex(by_addr, key);
                    *len -= 1;
                    if mark.is_live() {
                        changes.note(key);
                    }
                }
                keep
            });
            !of_name.is_empty()
        });
        before - self.len
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
        let entries = self.by_name.get(&fold(hostname)).into_iter().flatten();
        entries.filter_map(|(key, mark)| mark.is_live().then_some(key))
    }

    /// Live entries of an address, in table order.
    pub fn at(&self, addr: IpAddr) -> impl Iterator<Item = &Key> {
        let keys = self.by_addr.get(&addr).into_iter().flatten();
        keys.filter(|key| self.mark(key).is_some_and(Mark::is_live))
    }

    /// First name of an address, in table order.
    pub fn name_of(&self, addr: IpAddr) -> Option<&str> {
        self.at(addr).next().map(|key| key.hostname.as_str())
    }

    /// The spelling under which the origin already has this name, container and address.
    pub fn spelling_of(&self, key: &Key) -> Option<&Key> {
        self.by_name
            .get(&fold(&key.hostname))?
            .keys()
            .find(|known| known.is_case_variant_of(key))
    }

    /// Live entries of one origin.
    pub fn live_of(&self, origin: PeerName) -> impl Iterator<Item = &Key> {
        self.iter()
            .filter(move |(key, mark)| key.origin == origin && mark.is_live())
            .map(|(key, _)| key)
    }

    /// Number of live entries.
    pub fn live_count(&self) -> usize {
        self.iter().filter(|(_, mark)| mark.is_live()).count()
    }
}

fn unindex(by_addr: &mut BTreeMap<IpAddr, BTreeSet<Key>>, key: &Key) {
    if let Some(keys) = by_addr.get_mut(&key.addr) {
        keys.remove(key);
        if keys.is_empty() {
            by_addr.remove(&key.addr);
        }
    }
}
