//! What the router tells about itself: plain data, taken at one moment, from which the text, JSON
//! and metrics of the daemon are made.

use std::net::SocketAddr;

use proto::{MacAddr, PeerName, PeerUid, ShortId};
use serde::Serialize;

/// The control half.
#[derive(Debug, Clone, Serialize)]
pub struct MeshStatus {
    /// Protocol versions spoken, lowest and highest.
    pub protocol: (u8, u8),
    /// Own name.
    pub name: PeerName,
    /// Own nickname.
    pub nickname: String,
    /// Port of the mesh, TCP and UDP.
    pub port: u16,
    /// Whether a password is set.
    pub encryption: bool,
    /// Whether peers learnt of by gossip are dialled.
    pub discovery: bool,
    /// Connection limit; 0 means none.
    pub conn_limit: usize,
    /// Subnets in which peers are trusted, in CIDR notation.
    pub trusted_subnets: Vec<String>,
    /// Direct peers, as the user wrote them, sorted.
    pub targets: Vec<String>,
    /// Own connections, established or not, and addresses that are or will be dialled.
    pub connections: Vec<ConnectionStatus>,
    /// All known peers with the connections that they list, by name.
    pub peers: Vec<PeerStatus>,
    /// Next hop for frames to each peer; the own entry maps to name 0. By destination.
    pub unicast_routes: Vec<(PeerName, PeerName)>,
    /// Neighbours that get a frame flooded by each source. By source.
    pub broadcast_routes: Vec<(PeerName, Vec<PeerName>)>,
    /// Connections that have ended since the start.
    pub terminations: u64,
}

/// State of a connection or of an address to be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionState {
    /// Introduced, and the overlay works.
    Established,
    /// Introduced; the overlay does not work yet.
    Pending,
    /// Being dialled again, after an error.
    Retrying,
    /// Waiting for the next attempt, after an error.
    Failed,
    /// Being dialled for the first time.
    Connecting,
}

/// One own connection, or one address that is dialled.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionStatus {
    /// Whether this end dials.
    pub outbound: bool,
    /// The remote end, as `ip:port` or, unresolved, as the user wrote it.
    pub address: String,
    /// Its state.
    pub state: ConnectionState,
    /// The peer behind it, once introduced.
    pub peer: Option<(PeerName, String)>,
    /// Last error of a retrying or failed address.
    pub error: Option<String>,
    /// Seconds until the next attempt of a failed address; `None`: never.
    pub retry_in: Option<f64>,
    /// Whether frames on this link are sealed; `None` without a password.
    pub encrypted: Option<bool>,
    /// What the data half says about the link, once it is introduced.
    pub link: Option<LinkStatus>,
}

/// One known peer.
#[derive(Debug, Clone, Serialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: PeerName,
    /// Its nickname.
    pub nickname: String,
    /// The life it is in.
    pub uid: PeerUid,
    /// Its short id, if it has one.
    pub short_id: Option<ShortId>,
    /// Version of its record.
    pub version: u64,
    /// The connections it lists.
    pub connections: Vec<PeerConnectionStatus>,
}

/// A connection as another peer lists it.
#[derive(Debug, Clone, Serialize)]
pub struct PeerConnectionStatus {
    /// The far end.
    pub name: PeerName,
    /// Its nickname.
    pub nickname: String,
    /// Its address as that peer sees it.
    pub address: String,
    /// Whether that peer dialled.
    pub outbound: bool,
    /// Whether that peer says it is established.
    pub established: bool,
}

/// The data half.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DataStatus {
    /// Known MAC addresses.
    pub macs: Vec<MacStatus>,
    /// Overlay links by neighbour.
    pub links: Vec<LinkStatus>,
    /// Frames and bytes from and to the local bridge.
    pub local: Traffic,
    /// What was dropped, by reason, since the start. Names as in the metrics.
    pub drops: Vec<(&'static str, u64)>,
}

/// One line of the MAC table.
#[derive(Debug, Clone, Serialize)]
pub struct MacStatus {
    /// The address.
    pub mac: MacAddr,
    /// The peer behind it.
    pub peer: PeerName,
    /// Seconds since it was last seen, in steps of one.
    pub age: f64,
}

/// The overlay link to one neighbour.
#[derive(Debug, Clone, Serialize)]
pub struct LinkStatus {
    /// The neighbour.
    pub peer: PeerName,
    /// Overlay in use: `shuttle`, `sleeve`, or `stream`, which is over TCP.
    pub overlay: &'static str,
    /// Why it is not a better one that both ends know.
    pub fallback: Option<&'static str>,
    /// Cipher, if the overlay has a choice and frames are sealed.
    pub cipher: Option<&'static str>,
    /// Whether the overlay is established in our direction.
    pub established: bool,
    /// Whether frames are sealed.
    pub encrypted: bool,
    /// Where datagrams go, once known.
    pub address: Option<SocketAddr>,
    /// Overlay MTU: largest IP packet that crosses the link in one datagram.
    pub mtu: u16,
    /// Whether the path carries fragmented datagrams.
    pub fragments: bool,
    /// By how many ports frames go, the common one included.
    pub queues: usize,
    /// Frames and bytes that crossed the link.
    pub traffic: Traffic,
}

/// Frames and bytes in both directions, since the start of what they count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes in them.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes in them.
    pub tx_bytes: u64,
}

/// Both halves.
#[derive(Debug, Clone, Serialize)]
pub struct RouterStatus {
    /// The control half.
    pub mesh: MeshStatus,
    /// The data half.
    pub data: DataStatus,
}
