//! The known graph of peers and the routes through it.
//!
//! [`Peers`] is what this router believes: one record per peer, its own among them, each with the
//! connections that peer lists. Records travel as topology updates and are merged by version.
//! [`Routes`] is one immutable calculation over them, shared with the data half.
//!
//! Source: Weave mesh protocol, sections 3.6 (payload), 4 (state), 5 (routes) and 7.3 (random
//! neighbours).

#[cfg(test)]
mod fixtures;
mod graph;
mod peers;
mod record;
mod routes;
mod short_ids;
mod update;

pub use peers::{Applied, Collected, IntroduceError, Introduced, Peers};
pub use record::{Connections, Nickname, Peer, PeerConnection, RemoteAddress};
pub use routes::Routes;
pub use update::UpdateError;
