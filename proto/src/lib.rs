//! Words that all crates of meshctl share: names of peers, addresses, Go's gob encoding, and the
//! traits by which the owner of a gossip channel is plugged into the mesh.
//!
//! Nothing here does IO, reads a clock or draws a random number.

pub mod addr;
pub mod codec;
pub mod gob;
pub mod gossip;
pub mod peer;

pub use addr::MacAddr;
pub use peer::{ConnectionUid, PeerName, PeerUid, ShortId};
