//! Names of containers: the table that all hosts of a mesh share.
//!
//! Every host holds all names of the mesh. Each [`Entry`] has an origin, the one host that may
//! change it; entries spread by gossip on the channel [`CHANNEL`] and merge by version, and what is
//! deleted leaves a tombstone. [`Table`] is that replicated set, [`Nameserver`] is one host's part
//! in keeping it, [`wire`] its encoding.
//!
//! Pure state machines: clock and knowledge of the topology are arguments.
//!
//! [`Names`] is the same names as queries see them. Behind the feature `io` there is the server that
//! answers queries with it.

mod entry;
pub mod name;
mod names;
mod nameserver;
pub mod query;
pub mod relay;
pub mod reply;
pub mod resolv;
pub mod responder;
#[cfg(feature = "io")]
pub mod server;
pub mod stats;
mod table;
pub mod wire;
pub mod zone;

pub use entry::{Entry, Key, Mark};
pub use names::{Addresses, Names};
pub use nameserver::{
    BadName, Domain, MAX_CLOCK_SKEW, Nameserver, Received, Selection, TOMBSTONE_LIFE,
};
pub use table::Table;
pub use wire::Update;

/// Name of the gossip channel, an exact string on the wire.
pub const CHANNEL: &str = "nameserver";
