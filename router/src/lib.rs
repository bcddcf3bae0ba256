//! The router of meshctl: one mesh with Weave Net 2.8.1 hosts, in two halves that share no lock.
//!
//! * The **control half** speaks TCP: [`connection`] is one control connection, [`topology`] the
//!   known graph and the routes through it, [`gossip`] the channels, [`connector`] decides whom to
//!   dial, and [`mesh`] joins them into one engine.
//! * The **data half** moves frames: [`switch`] gives each frame its verdict, [`overlay`] carries
//!   it over the path to one neighbour, and [`dataplane`] joins them into one engine.
//!
//! The control half sends the data half [`dataplane::Command`]s, among them immutable
//! [`topology::Routes`]; the data half answers with [`dataplane::Event`]s.
//!
//! Everything above is plain state machines: bytes, events and `now` go in; bytes, events and the
//! next deadline come out. Sockets, the TAP device, threads and tasks live in `io` (feature `io`),
//! the only module that may use `unsafe`.

pub mod connection;
pub mod connector;
pub mod constants;
pub mod crypto;
pub mod dataplane;
pub mod gossip;
mod hash;
#[cfg(feature = "io")]
pub mod io;
pub mod mesh;
pub mod offload;
pub mod overlay;
pub mod status;
pub mod switch;
#[cfg(test)]
mod testing;
pub mod topology;
pub mod wire;

/// One TCP connection of this process and the overlay link that belongs to it. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);
