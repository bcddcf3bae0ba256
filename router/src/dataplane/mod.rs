//! The data engine: switch and overlays over a snapshot of routes.
//!
//! Here are the words that both halves share; [`DataPlane`] is the engine.

mod drops;
mod engine;
mod links;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;

use proto::{ConnectionUid, PeerName};

use crate::LinkId;
use crate::constants::FLOOD_LIMIT;
use crate::crypto::aead::Suites;
use crate::crypto::session::SessionKey;
use crate::topology::Routes;

pub use crate::overlay::{Opened, Opener, RekeyLimits, Transmit};
pub use crate::wire::shuttle::MAX_QUEUES as MAX_WORKERS;
pub use drops::{DropReason, Drops};
pub use engine::DataPlane;
pub use worker::Worker;

/// Where the data half gets secrets from. It must be the system's source, or as good: nothing that
/// is kept may lead back to what it has given.
pub type Entropy = Box<dyn rand::CryptoRng + Send>;

/// How the data half works. The default is good for everybody.
#[derive(Debug, Clone, Copy)]
pub struct DataOptions {
    /// The overlay shuttle.
    pub shuttle: ShuttleOptions,
    /// Frames a second from the local bridge that may go to all neighbours, in units of a packet.
    /// Default: [`FLOOD_LIMIT`]; `None`: any number.
    pub flood_limit: Option<u32>,
    /// Whether to answer ARP and neighbour discovery for containers of other hosts. Default: no.
    pub answer_neighbours: bool,
    /// How many [`Worker`]s may drive the engine, from 1 to [`MAX_WORKERS`]. Default: 1.
    pub workers: usize,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            shuttle: ShuttleOptions::default(),
            flood_limit: Some(FLOOD_LIMIT),
            answer_neighbours: false,
            workers: 1,
        }
    }
}

/// How shuttle works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShuttleOptions {
    /// Ciphers to offer. Default: what this processor is good at.
    pub suites: Suites,
    /// How long keys are used.
    pub rekey: RekeyLimits,
}

impl Default for ShuttleOptions {
    fn default() -> Self {
        Self {
            suites: Suites::of_this_machine(),
            rekey: RekeyLimits::default(),
        }
    }
}

/// What the control half tells the data half, in order.
#[derive(Debug)]
pub enum Command {
    /// A connection has been introduced: prepare its overlays, but do not send yet.
    AddLink(Box<LinkConfig>),
    /// The connection has been added to the mesh: the overlays may talk.
    Confirm(LinkId),
    /// An overlay control message came in over the connection.
    Control(LinkId, OverlayControl),
    /// The connection has ended. Nothing more about it will be reported.
    RemoveLink(LinkId),
    /// Routes have been calculated anew.
    Routes(Arc<Routes>),
    /// The topology has forgotten this peer.
    PeerForgotten(PeerName),
}

/// What the data half tells the control half about a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The neighbour has heard our datagrams: frames may be routed over this link.
    Established(LinkId),
    /// No overlay of this link works any more: the connection must end.
    Failed(LinkId, LinkError),
    /// Send this overlay control message over the connection.
    Control(LinkId, OverlayControl),
}

/// Why a link failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No datagram of the neighbour for [`crate::constants::HEARTBEAT_TIMEOUT`].
    #[error("timed out waiting for UDP heartbeat")]
    HeartbeatTimeout,
    /// The neighbour acknowledged a heartbeat before we could have sent one.
    #[error("sleeve: heartbeat acknowledged before any was sent")]
    UnexpectedAck,
    /// None of the overlays that the connection agreed on is known to the data half.
    #[error("no overlay of the connection can be set up")]
    NoOverlay,
}

/// An overlay control message: tag 7 `index, tag, body`, or the legacy tags 1, 2, 3 with `index` 0.
/// The connection knows which of the two forms its other end reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayControl {
    /// Position of the overlay in the list common to both ends.
    pub index: u8,
    /// Tag within the overlay.
    pub tag: u8,
    /// The rest.
    pub body: Vec<u8>,
}

/// All that an overlay needs to know of its connection.
#[derive(Debug)]
pub struct LinkConfig {
    /// The connection.
    pub link: LinkId,
    /// The neighbour.
    pub peer: PeerName,
    /// Number of the connection, the same on both ends; goes into heartbeats.
    pub uid: ConnectionUid,
    /// Whether this end dialled.
    pub outbound: bool,
    /// Local address of the TCP connection.
    pub local: SocketAddr,
    /// Where the neighbour's datagrams come from: known to the dialler only.
    pub remote: Option<SocketAddr>,
    /// Seals frames; `None` without a password or when both ends trust each other.
    pub key: Option<SessionKey>,
    /// Names of the overlays common to both ends, in order of our preference; their positions are
    /// the `index` of control messages.
    pub overlays: Vec<String>,
}
