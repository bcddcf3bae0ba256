//! One name of one container.

use std::cmp::Ordering;
use std::net::IpAddr;

use proto::PeerName;

/// What makes an entry the same entry: all four, the host name with its case.
///
/// Ordered by the host name without its case, then origin, container, address, and at last by the
/// case: the order in which the original keeps its table, so reverse lookups agree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Fully qualified, with the final dot, in the spelling of its registration.
    pub hostname: String,
    /// The only peer that may change the entry.
    pub origin: PeerName,
    /// Container id, `weave:expose`, `weave:extern`, or any text.
    pub container: String,
    /// The address behind the name. The wire carries IPv4 only.
    pub addr: IpAddr,
}

/// What changes in the life of an entry. A higher version wins, then the later tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark {
    /// From 0, raised by each change.
    pub version: i64,
    /// Unix seconds of the deletion; 0 is alive.
    pub tombstone: i64,
}

/// A name of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its identity.
    pub key: Key,
    /// Its state.
    pub mark: Mark,
}

impl Mark {
    /// Whether the entry answers queries.
    pub const fn is_live(self) -> bool {
        self.tombstone == 0
    }
}

/// Lower case, as far as names of hosts have it.
pub(crate) fn fold(hostname: &str) -> String {
    hostname.to_ascii_lowercase()
}

/// Compares two names without regard to ASCII case.
fn compare_folded(a: &str, b: &str) -> Ordering {
    let folded = |byte: u8| byte.to_ascii_lowercase();
    a.bytes().map(folded).cmp(b.bytes().map(folded))
}

impl Key {
    /// Whether both differ in nothing but the case of the host name. A 2.8.1 process that meets two
    /// such entries in one message multiplies them until it ends.
    pub fn is_case_variant_of(&self, other: &Self) -> bool {
        self.origin == other.origin
            && self.container == other.container
            && self.addr == other.addr
            && self.hostname.eq_ignore_ascii_case(&other.hostname)
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_folded(&self.hostname, &other.hostname)
            .then_with(|| self.origin.cmp(&other.origin))
            .then_with(|| self.container.cmp(&other.container))
            .then_with(|| self.addr.cmp(&other.addr))
            .then_with(|| self.hostname.cmp(&other.hostname))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
