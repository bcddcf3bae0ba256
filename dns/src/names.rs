//! The names as queries see them: an index that is read while it is being written.
//!
//! [`Names`] is a handle that [`Nameserver`](crate::Nameserver) keeps up to date, name by name. A
//! lookup takes no lock and never waits for gossip to be merged; it sees each name either before
//! or after a change. Only live entries are here.
//!
//! A name without addresses of its own that has names below it exists too (RFC 8020): to deny
//! `b.weave.local` would deny `a.b.weave.local` with it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::name::{self, WireName};

/// Addresses behind a name, each once, as RFC 2181, section 5 wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// For type A.
    pub v4: Box<[Ipv4Addr]>,
    /// For type AAAA. Peers of the original cannot carry them.
    pub v6: Box<[Ipv6Addr]>,
}

impl Addresses {
    const fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<T: IntoIterator<Item = IpAddr>>(addrs: T) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for addr in addrs {
            match addr {
                IpAddr::V4(addr) => v4.push(addr),
                IpAddr::V6(addr) => v6.push(addr),
            }
        }
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();
        Self {
            v4: v4.into(),
            v6: v6.into(),
        }
    }
}

/// A handle for lookups. Clones see the same names.
#[derive(Debug, Clone)]
pub struct Names(Arc<Index>);

#[derive(Debug)]
struct Index {
    domain: WireName,
    /// By folded name in wire form; only what lies in the domain.
    by_name: papaya::HashMap<Box<[u8]>, Addresses>,
    by_addr: papaya::HashMap<IpAddr, WireName>,
}

impl Names {
    /// The domain in which they lie, folded.
    pub fn domain(&self) -> &[u8] {
        self.0.domain.as_bytes()
    }

    /// Shows the addresses of a name in folded wire form; none if there is no such name, and an
    /// empty set if there only are names below it.
    pub fn with_addresses<T>(&self, name: &[u8], show: impl FnOnce(Option<&Addresses>) -> T) -> T {
        show(self.0.by_name.pin().get(name))
    }

    /// Shows the first name of an address, in wire form.
    pub fn with_name<T>(&self, addr: IpAddr, show: impl FnOnce(Option<&WireName>) -> T) -> T {
        show(self.0.by_addr.pin().get(&addr))
    }
}

/// The writing end. There is one for an index.
#[derive(Debug)]
pub(crate) struct Publisher {
    names: Names,
    /// How many names with addresses there are below a name.
    below: HashMap<Box<[u8]>, usize>,
}

impl Publisher {
    pub(crate) fn new(domain: WireName) -> Self {
        Self {
            names: Names(Arc::new(Index {
                domain,
                by_name: papaya::HashMap::new(),
                by_addr: papaya::HashMap::new(),
            })),
            below: HashMap::new(),
        }
    }

    pub(crate) const fn names(&self) -> &Names {
        &self.names
    }

    /// Sets the addresses of a name; an empty set removes it. What the DNS cannot carry or lies
    /// outside of the domain is left out.
    pub(crate) fn set_addresses(&mut self, hostname: &str, addresses: Addresses) {
        let Some(name) = WireName::folded(hostname) else {
            return;
        };
        let name = name.as_bytes();
        if name::strip_zone(name, self.names.domain()).is_none() {
            return;
        }
        let exists = !addresses.is_empty();
        let existed = {
            let by_name = self.names.0.by_name.pin();
            let before = if exists || self.below.contains_key(name) {
                by_name.insert(name.into(), addresses)
            } else {
                by_name.remove(name)
            };
            before.is_some_and(|before| !before.is_empty())
        };
        if exists != existed {
            self.count_below(name, exists);
        }
    }

    /// Notes for all names above one that it has come, or gone.
    fn count_below(&mut self, name: &[u8], exists: bool) {
        let by_name = self.names.0.by_name.pin();
        let domain = self.names.domain();
        let above = std::iter::successors(name::parent(name), |name| name::parent(name))
            .take_while(|name| name.len() > domain.len());
        for name in above {
            let count = self.below.entry(name.into()).or_default();
            if exists {
                *count = count.saturating_add(1);
                by_name.get_or_insert_with(name.into(), Addresses::default);
            } else {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.below.remove(name);
                    // Nobody else writes, so it does not change in between.
                    if by_name.get(name).is_some_and(Addresses::is_empty) {
                        by_name.remove(name);
                    }
                }
            }
        }
    }

    /// Sets the name of an address.
    pub(crate) fn set_name(&self, addr: IpAddr, hostname: Option<&str>) {
        let by_addr = self.names.0.by_addr.pin();
        match hostname.and_then(WireName::new) {
            Some(name) => by_addr.insert(addr, name),
            None => by_addr.remove(&addr),
        };
    }
}

#[cfg(test)]
mod tests;
