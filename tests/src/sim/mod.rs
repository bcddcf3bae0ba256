//! A mesh of many peers in virtual time, without a kernel.
//!
//! [`World`] holds the control engines of all hosts and carries their bytes. Connections have
//! latency with jitter, so that different connections overtake each other; they deliver in pieces
//! of any size, take time to write, break, or hang while a partition lasts. Hosts restart, with or
//! without telling anybody. The data half is replaced by a stub: the overlay of a connection works
//! as soon as both ends have confirmed it.
//!
//! Everything is drawn from one seed, so that a run can be repeated. [`verify`](World::verify)
//! compares what every peer believes with what is true.

mod verify;
mod world;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use proto::PeerName;

pub use verify::Summary;
pub use world::{Death, World};

/// Port of the mesh on every host.
pub const PORT: u16 = 6783;

/// What a mesh is made of.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Number of hosts.
    pub host_count: usize,
    /// Whether peers dial those of whom they hear.
    pub discovery: bool,
    /// Connections per host; 0: no limit.
    pub conn_limit: usize,
    /// Password of the mesh; empty: none.
    pub password: &'static str,
    /// Other hosts that each host is told to dial.
    pub target_count: usize,
    /// Latency of a connection, drawn once for each.
    pub latency: std::ops::Range<Duration>,
    /// Added to the latency anew for each piece delivered.
    pub jitter: Duration,
}

impl Scenario {
    /// Hosts that dial only what they are told: a sparse mesh, with relays on most paths.
    pub fn sparse(host_count: usize) -> Self {
        Self {
            host_count,
            discovery: false,
            conn_limit: 200,
            password: "",
            target_count: 3,
            latency: Duration::from_micros(200)..Duration::from_millis(60),
            jitter: Duration::from_millis(20),
        }
    }
}

/// Address of host number `index`.
pub fn address(index: usize) -> SocketAddr {
    let [.., high, low] = index.to_be_bytes();
    SocketAddr::new(Ipv4Addr::new(10, 77, high, low).into(), PORT)
}

/// Name of the peer on host number `index`.
pub fn name(index: usize) -> PeerName {
    let [.., high, low] = index.to_be_bytes();
    PeerName::from_bytes([0x02, 0, 0, 0, high, low])
}
