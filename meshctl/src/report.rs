//! The report: all that the daemon tells about itself, in the shape of Weave Net's JSON.
//!
//! The keys are those of the original's `/report`, so that what reads one reads the other; what
//! the original does not know is added under keys of its own, most of it under `Meshctl`. The
//! daemon makes the report and every text from it; the client reads it back for its tables.
//!
//! Source: feature inventory, sections 5.1 to 5.3.

use std::collections::BTreeMap;
use std::time::SystemTime;

use ipam::status::Status as Allocation;
use router::status::{ConnectionState, ConnectionStatus, LinkStatus, RouterStatus, Traffic};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::time;

/// All of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Report {
    /// Whether everything that the daemon serves is up.
    pub ready: bool,
    /// Version of the daemon.
    pub version: String,
    /// Kept for its readers: meshctl never asks anybody for newer versions.
    pub version_check: VersionCheck,
    /// The mesh and the data plane.
    pub router: RouterReport,
    /// Address allocation; null if it is off.
    #[serde(rename = "IPAM", default)]
    pub ipam: Option<Allocation>,
    /// Names of containers, where they are served.
    #[serde(rename = "DNS", default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsReport>,
    /// What the original does not have.
    pub meshctl: Own,
}

/// The check for new versions, which is off.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VersionCheck {
    /// Always false.
    pub enabled: bool,
    /// Always false.
    pub success: bool,
    /// Always empty.
    pub new_version: String,
    /// Always Go's zero time.
    pub next_check_at: String,
}

impl Default for VersionCheck {
    fn default() -> Self {
        Self {
            enabled: false,
            success: false,
            new_version: String::new(),
            next_check_at: "0001-01-01T00:00:00Z".to_owned(),
        }
    }
}

/// `Router`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RouterReport {
    /// `weave`.
    pub protocol: String,
    /// Lowest protocol version spoken.
    pub protocol_min_version: u8,
    /// Highest protocol version spoken.
    pub protocol_max_version: u8,
    /// Whether a password is set.
    pub encryption: bool,
    /// Whether peers learnt of by gossip are dialled.
    pub peer_discovery: bool,
    /// Own name.
    pub name: String,
    /// Own nickname.
    pub nick_name: String,
    /// Port of the mesh.
    pub port: u16,
    /// All known peers.
    pub peers: Vec<Peer>,
    /// Next hops.
    pub unicast_routes: Vec<UnicastRoute>,
    /// Next hops of flooded frames.
    pub broadcast_routes: Vec<BroadcastRoute>,
    /// Own connections and what is being dialled.
    pub connections: Vec<Connection>,
    /// Connections that have ended.
    pub termination_count: u64,
    /// Direct peers as the user wrote them.
    pub targets: Vec<String>,
    /// By overlay.
    pub overlay_diagnostics: BTreeMap<String, Value>,
    /// CIDRs.
    pub trusted_subnets: Vec<String>,
    /// Where frames are captured.
    pub interface: String,
    /// Counters of the capture.
    pub capture_stats: BTreeMap<String, u64>,
    /// The MAC table.
    #[serde(rename = "MACs")]
    pub macs: Vec<Mac>,
}

/// One known peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its nickname.
    pub nick_name: String,
    /// The life it is in.
    #[serde(rename = "UID")]
    pub uid: u64,
    /// Its short id.
    #[serde(rename = "ShortID")]
    pub short_id: u16,
    /// Version of its record.
    pub version: u64,
    /// The connections it lists.
    pub connections: Vec<PeerConnection>,
}

/// A connection that a peer lists.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PeerConnection {
    /// The far end.
    pub name: String,
    /// Its nickname.
    pub nick_name: String,
    /// Its address.
    pub address: String,
    /// Whether the peer dialled.
    pub outbound: bool,
    /// Whether the peer says it is established.
    pub established: bool,
}

/// A next hop.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UnicastRoute {
    /// Peer to reach.
    pub dest: String,
    /// Neighbour that leads there.
    pub via: String,
}

/// Next hops of flooded frames.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BroadcastRoute {
    /// Where the frame entered the mesh.
    pub source: String,
    /// Neighbours it goes on to.
    pub via: Vec<String>,
}

/// A connection of our own, or an address that is dialled.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Connection {
    /// The remote end.
    pub address: String,
    /// Whether we dial.
    pub outbound: bool,
    /// `established`, `pending`, `retrying`, `failed` or `connecting`.
    pub state: String,
    /// Who is there, or what went wrong.
    pub info: String,
    /// `name`, `mtu`, `encrypted`; own: `cipher`, `fallback`.
    pub attrs: Option<BTreeMap<String, Value>>,
    /// Own: name of the peer.
    #[serde(default)]
    pub peer: Option<String>,
    /// Own: nickname of the peer.
    #[serde(default)]
    pub nick_name: Option<String>,
    /// Own: the last error of an address that is dialled.
    #[serde(default)]
    pub error: Option<String>,
    /// Own: when it is dialled next; absent with an error means never.
    #[serde(default)]
    pub retry_at: Option<String>,
}

/// One line of the MAC table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Mac {
    /// The address.
    pub mac: String,
    /// The peer behind it.
    pub name: String,
    /// That peer's nickname.
    pub nick_name: String,
    /// When it was last seen.
    pub last_seen: String,
}

/// `DNS`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DnsReport {
    /// The domain of all names, with its final dot.
    pub domain: String,
    /// Servers that are asked for all other names.
    pub upstream: Vec<String>,
    /// Where queries are answered; empty: nowhere.
    pub address: String,
    /// Life of answers in the caches of others, in seconds.
    #[serde(rename = "TTL")]
    pub ttl: u32,
    /// All that is known, deleted ones included; null if there is none.
    pub entries: Option<Vec<DnsEntry>>,
}

/// A name of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DnsEntry {
    /// Fully qualified, with the final dot.
    pub hostname: String,
    /// The peer that it comes from.
    pub origin: String,
    /// The container.
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    /// The address behind the name.
    pub address: String,
    /// Raised by each change.
    pub version: i64,
    /// Unix seconds of the deletion; 0 is alive.
    pub tombstone: i64,
}

impl DnsReport {
    /// The entries that answer queries, in the order of the table.
    pub fn live(&self) -> impl Iterator<Item = &DnsEntry> {
        let all = self.entries.iter().flatten();
        all.filter(|entry| entry.tombstone == 0)
    }

    /// A host name without the domain, if it lies within.
    pub fn short<'n>(&self, hostname: &'n str) -> &'n str {
        let below = hostname.strip_suffix(self.domain.as_str());
        let host = below.and_then(|below| below.strip_suffix('.'));
        host.unwrap_or(hostname)
    }
}

/// What the original's report has no place for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Own {
    /// Process id of the daemon.
    pub pid: u32,
    /// Name of the bridge, empty without one.
    pub bridge: String,
    /// The state file.
    pub state: String,
    /// Connections held at most; 0 means no limit.
    pub conn_limit: usize,
    /// Overlay links.
    pub links: Vec<Link>,
    /// Frames from and to the bridge.
    pub local: Counters,
    /// Frames and datagrams dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// About names of containers, where they are served.
    #[serde(rename = "DNS", default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<OwnDns>,
}

/// What the original does not tell about names.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct OwnDns {
    /// Why queries are not answered, if they are not.
    #[serde(default)]
    pub problem: Option<String>,
    /// Queries by kind and result, those that there were.
    pub queries: BTreeMap<String, BTreeMap<String, u64>>,
    /// Updates of other peers that could not be read.
    pub refused_updates: u64,
    /// How far the clocks of other peers are off.
    pub clocks: Vec<ClockReport>,
}

/// The clock of a peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ClockReport {
    /// Whose.
    pub peer: String,
    /// Its nickname.
    pub nick_name: String,
    /// Seconds by which it is ahead of ours.
    pub offset: i64,
    /// Whether that needs attention.
    pub wrong: bool,
}

/// An overlay link to a neighbour.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Link {
    /// The neighbour.
    pub peer: String,
    /// Overlay in use.
    pub overlay: String,
    /// Why it is not a better one that both ends know.
    #[serde(default)]
    pub fallback: Option<String>,
    /// Cipher, if the overlay has a choice.
    #[serde(default)]
    pub cipher: Option<String>,
    /// Whether the neighbour hears us.
    pub established: bool,
    /// Whether frames are sealed.
    pub encrypted: bool,
    /// Where datagrams go.
    pub address: Option<String>,
    /// Largest IP packet that crosses in one datagram.
    #[serde(rename = "MTU")]
    pub mtu: u16,
    /// Whether the path carries fragmented datagrams.
    pub fragments: bool,
    /// By how many ports frames go.
    #[serde(default)]
    pub queues: usize,
    /// What crossed it.
    pub traffic: Counters,
}

/// Frames and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Counters {
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes in them.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes in them.
    pub tx_bytes: u64,
}

impl From<Traffic> for Counters {
    fn from(traffic: Traffic) -> Self {
        Self {
            rx_frames: traffic.rx_frames,
            rx_bytes: traffic.rx_bytes,
            tx_frames: traffic.tx_frames,
            tx_bytes: traffic.tx_bytes,
        }
    }
}

/// What a report says besides the state of the router.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Whether everything is up.
    pub ready: bool,
    /// Version of the daemon.
    pub version: String,
    /// Where frames are captured, as the original words it.
    pub interface: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Name of the bridge.
    pub bridge: String,
    /// The state file.
    pub state: String,
}

impl Report {
    /// Reads a report back.
    pub fn from_json(text: &str) -> serde_json::Result<Self> {
        let mut report: Self = serde_json::from_str(text)?;
        if let Some(ipam) = &mut report.ipam {
            // Told once in the report, by the router.
            ipam.name = report.router.name.parse().unwrap_or_default();
        }
        Ok(report)
    }

    /// The report about `status`, taken at `now`.
    pub fn new(facts: &Facts, status: &RouterStatus, now: SystemTime) -> Self {
        Self {
            ready: facts.ready,
            version: facts.version.clone(),
            version_check: VersionCheck::default(),
            router: router(facts, status, now),
            ipam: None,
            dns: None,
            meshctl: Own {
                pid: facts.pid,
                bridge: facts.bridge.clone(),
                state: facts.state.clone(),
                conn_limit: status.mesh.conn_limit,
                links: status.data.links.iter().map(link).collect(),
                local: status.data.local.into(),
                drops: (status.data.drops.iter())
                    .map(|(reason, count)| ((*reason).to_owned(), *count))
                    .collect(),
                dns: None,
            },
        }
    }
}

fn router(facts: &Facts, status: &RouterStatus, now: SystemTime) -> RouterReport {
    let mesh = &status.mesh;
    let nicknames: BTreeMap<_, _> = (mesh.peers.iter())
        .map(|peer| (peer.name, peer.nickname.as_str()))
        .collect();
    let dropped = status.data.drops.iter().map(|(_, count)| count).sum();
    RouterReport {
        protocol: "weave".to_owned(),
        protocol_min_version: mesh.protocol.0,
        protocol_max_version: mesh.protocol.1,
        encryption: mesh.encryption,
        peer_discovery: mesh.discovery,
        name: mesh.name.to_string(),
        nick_name: mesh.nickname.clone(),
        port: mesh.port,
        peers: (mesh.peers.iter())
            .map(|peer| Peer {
                name: peer.name.to_string(),
                nick_name: peer.nickname.clone(),
                uid: peer.uid.0,
                short_id: peer.short_id.map_or(0, |id| id.0),
                version: peer.version,
                connections: (peer.connections.iter())
                    .map(|connection| PeerConnection {
                        name: connection.name.to_string(),
                        nick_name: connection.nickname.clone(),
                        address: connection.address.clone(),
                        outbound: connection.outbound,
                        established: connection.established,
                    })
                    .collect(),
            })
            .collect(),
        unicast_routes: (mesh.unicast_routes.iter())
            .map(|(dest, via)| UnicastRoute {
                dest: dest.to_string(),
                via: via.to_string(),
            })
            .collect(),
        broadcast_routes: (mesh.broadcast_routes.iter())
            .map(|(source, via)| BroadcastRoute {
                source: source.to_string(),
                via: via.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        connections: (mesh.connections.iter())
            .map(|conn| connection(conn, now))
            .collect(),
        termination_count: mesh.terminations,
        targets: mesh.targets.clone(),
        overlay_diagnostics: BTreeMap::from([("sleeve".to_owned(), Value::Null)]),
        trusted_subnets: mesh.trusted_subnets.clone(),
        interface: facts.interface.clone(),
        capture_stats: BTreeMap::from([
            ("PacketsReceived".to_owned(), status.data.local.rx_frames),
            ("PacketsDropped".to_owned(), dropped),
        ]),
        macs: (status.data.macs.iter())
            .map(|entry| Mac {
                mac: entry.mac.to_string(),
                name: entry.peer.to_string(),
                nick_name: nicknames.get(&entry.peer).unwrap_or(&"").to_string(),
                last_seen: time::rfc3339(time::offset(now, -entry.age)),
            })
            .collect(),
    }
}

fn connection(conn: &ConnectionStatus, now: SystemTime) -> Connection {
    let retry = conn.retry_in.map(|seconds| time::offset(now, seconds));
    let attrs = conn.link.as_ref().map(|link| {
        let mut attrs = BTreeMap::from([
            ("name".to_owned(), Value::from(link.overlay)),
            ("mtu".to_owned(), Value::from(link.mtu)),
        ]);
        if conn.encrypted == Some(true) {
            attrs.insert("encrypted".to_owned(), Value::from(true));
        }
        if let Some(cipher) = link.cipher {
            attrs.insert("cipher".to_owned(), Value::from(cipher));
        }
        if let Some(reason) = link.fallback {
            attrs.insert("fallback".to_owned(), Value::from(reason));
        }
        attrs
    });
    let info = match (conn.state, &conn.peer) {
        (ConnectionState::Established | ConnectionState::Pending, Some((name, nickname))) => {
            let overlay = conn.link.as_ref().map_or("none", |link| link.overlay);
            let sealed = match conn.encrypted {
                None => "",
                Some(true) => "encrypted   ",
                Some(false) => "unencrypted ",
            };
            format!("{sealed}{overlay:<6} {name}({nickname})")
        }
        (ConnectionState::Failed, _) => {
            let error = conn.error.as_deref().unwrap_or("");
            let until = retry.map_or_else(|| "never".to_owned(), time::go_string);
            format!("{error}, retry: {until}")
        }
        _ => conn.error.clone().unwrap_or_default(),
    };
    Connection {
        address: conn.address.clone(),
        outbound: conn.outbound,
        state: state(conn.state).to_owned(),
        info,
        attrs,
        peer: conn.peer.as_ref().map(|(name, _)| name.to_string()),
        nick_name: conn.peer.as_ref().map(|(_, nickname)| nickname.clone()),
        error: conn.error.clone(),
        retry_at: retry.map(time::rfc3339),
    }
}

/// The original's word for a state.
pub fn state(state: ConnectionState) -> &'static str {
    match state {
        ConnectionState::Established => "established",
        ConnectionState::Pending => "pending",
        ConnectionState::Retrying => "retrying",
        ConnectionState::Failed => "failed",
        ConnectionState::Connecting => "connecting",
    }
}

fn link(link: &LinkStatus) -> Link {
    Link {
        peer: link.peer.to_string(),
        overlay: link.overlay.to_owned(),
        fallback: link.fallback.map(str::to_owned),
        cipher: link.cipher.map(str::to_owned),
        established: link.established,
        encrypted: link.encrypted,
        address: link.address.map(|address| address.to_string()),
        mtu: link.mtu,
        fragments: link.fragments,
        queues: link.queues,
        traffic: link.traffic.into(),
    }
}
