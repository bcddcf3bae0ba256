//! Names of containers: the table that all hosts of a mesh share.
//!
//! Every host holds all names of the mesh. Each [`Entry`] has an origin, the one host that may
//! change it; entries spread by gossip on the channel [`CHANNEL`] and merge by version, and what is
//! deleted leaves a tombstone. [`Table`] is that replicated set, [`Nameserver`] is one host's part
//! in keeping it, [`wire`] its encoding.
//!
//! Pure state machines: clock and knowledge of the topology are arguments.

mod entry;
mod nameserver;
mod table;
pub mod wire;

pub use entry::{Entry, Key, Mark};
pub use nameserver::{
    BadName, Domain, MAX_CLOCK_SKEW, Nameserver, Received, Selection, TOMBSTONE_LIFE,
};
pub use table::Table;
pub use wire::Update;

/// Name of the gossip channel, an exact string on the wire.
pub const CHANNEL: &str = "nameserver";
