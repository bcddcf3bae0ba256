//! Who has which address.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::range::{Address, Cidr, Range};
use crate::wire::persist::Owned;

/// Identifiers and their addresses, findable both ways. Remembers which identifiers have changed,
/// for the disk.
#[derive(Debug, Default)]
pub(super) struct OwnedTable {
    by_ident: BTreeMap<Arc<str>, Owned>,
    by_address: BTreeMap<Address, Arc<str>>,
    changed: BTreeSet<Arc<str>>,
}

impl OwnedTable {
    /// The table as it was on disk. Of several owners of one address, which there never should
    /// be, the first is found.
    pub(super) fn restore(owned: BTreeMap<String, Owned>) -> Self {
        let mut table = Self::default();
        for (ident, owned) in owned {
            let ident: Arc<str> = ident.into();
            for cidr in &owned.cidrs {
                let owner = table.by_address.entry(cidr.address);
                owner.or_insert_with(|| ident.clone());
            }
            table.by_ident.insert(ident, owned);
        }
        table
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Owned)> {
        self.by_ident.iter()
    }

    pub(super) fn get(&self, ident: &str) -> Option<&Owned> {
        self.by_ident.get(ident)
    }

    /// Who has `address`.
    pub(super) fn owner(&self, address: Address) -> Option<&Arc<str>> {
        self.by_address.get(&address)
    }

    /// The addresses of `ident` in `range`, in the order in which they were given out.
    pub(super) fn within(&self, ident: &str, range: Range) -> Vec<Cidr> {
        let owned = self.get(ident).map_or(&[][..], |owned| &owned.cidrs);
        let within = owned.iter().filter(|cidr| range.contains(cidr.address));
        within.copied().collect()
    }

    /// Whether `ident` is a container that has addresses.
    pub(super) fn is_container(&self, ident: &str) -> bool {
        self.get(ident).is_some_and(|owned| owned.is_container)
    }

    /// Notes an address that nobody has yet.
    pub(super) fn add(&mut self, ident: &str, cidr: Cidr, is_container: bool) {
        let ident: Arc<str> = match self.by_ident.get_key_value(ident) {
            Some((ident, _)) => ident.clone(),
            None => ident.into(),
        };
        let owned = self.by_ident.entry(ident.clone()).or_default();
        owned.is_container = is_container;
        owned.cidrs.push(cidr);
        self.by_address.insert(cidr.address, ident.clone());
        self.changed.insert(ident);
    }

    /// Forgets one address of `ident`. Returns whether it had it.
    pub(super) fn remove(&mut self, ident: &str, address: Address) -> bool {
        let Some((key, owned)) = self.by_ident.get_key_value(ident) else {
            return false;
        };
        let Some(at) = owned.cidrs.iter().position(|cidr| cidr.address == address) else {
            return false;
        };
        let key = key.clone();
        if let Some(owned) = self.by_ident.get_mut(ident) {
            owned.cidrs.remove(at);
            if owned.cidrs.is_empty() {
                self.by_ident.remove(ident);
            }
        }
        self.forget_owner(&key, address);
        self.changed.insert(key);
        true
    }

    /// Forgets all addresses of `ident`, and returns them.
    pub(super) fn remove_all(&mut self, ident: &str) -> Vec<Cidr> {
        let Some((key, owned)) = self.by_ident.remove_entry(ident) else {
            return Vec::new();
        };
        for cidr in &owned.cidrs {
            self.forget_owner(&key, cidr.address);
        }
        self.changed.insert(key);
        owned.cidrs
    }

    fn forget_owner(&mut self, ident: &str, address: Address) {
        if self.owner(address).is_some_and(|owner| **owner == *ident) {
            self.by_address.remove(&address);
        }
    }

    /// The identifiers that have changed since the last call, as they are now; `None`: no
    /// addresses any more.
    pub(super) fn take_changed(&mut self) -> BTreeMap<Arc<str>, Option<Owned>> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .map(|ident| {
                let owned = self.by_ident.get(&ident).cloned();
                (ident, owned)
            })
            .collect()
    }
}
