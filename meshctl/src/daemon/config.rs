//! What the daemon is told to do, checked.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use dns::Domain;
use ipam::allocator::Init;
use ipam::range::Cidr;
use router::crypto::session::Password;
use router::dataplane::DataOptions;
use router::io::tap::Choice;
use router::mesh::Subnet;
use router::wire::intro::Versions;

use super::identity::Sources;
use crate::address::Address;

/// Everything that `launch` decides.
#[derive(Debug)]
pub struct Config {
    /// Address of the sockets of the mesh; unspecified: all.
    pub bind: Ipv4Addr,
    /// Port of the mesh, TCP and UDP: 1 to 65535.
    pub port: u16,
    /// Protocol versions spoken: from 1 or 2 to 1 or 2.
    pub versions: Versions,
    /// Where the own name comes from.
    pub identity: Sources,
    /// Own nickname; `None`: the host name.
    pub nickname: Option<String>,
    /// Password of the mesh.
    pub password: Option<Password>,
    /// What is logged and how.
    pub logging: Logging,
    /// Connections held at most; 0: no limit.
    pub conn_limit: usize,
    /// Overlays to offer, in the order that all peers share. Default: all.
    pub overlays: Vec<String>,
    /// How they work.
    pub data: DataOptions,
    /// Whether peers learnt of by gossip are dialled.
    pub discovery: bool,
    /// Where the control API is served.
    pub http: Address,
    /// Where status and metrics are served.
    pub status: Address,
    /// Where metrics alone are served.
    pub metrics: Address,
    /// Name of the bridge; `None`: there is none, nor a TAP device.
    pub bridge: Option<String>,
    /// Kind of TAP device.
    pub tap: Choice,
    /// Whether frames of containers that leave no work to the TAP device are joined on its bridge.
    pub port_gro: bool,
    /// Whether several datagrams may go through the kernel as one.
    pub udp_offload: bool,
    /// MTU of the bridge, at most 65535; `None`: as large as its TAP device can have.
    pub mtu: Option<u32>,
    /// Subnets whose hosts are trusted.
    pub trusted_subnets: Vec<Subnet>,
    /// Allocation of addresses; `None`: not here.
    pub allocation: Option<Allocation>,
    /// Names of containers; `None`: they are not served.
    pub names: Option<NamesConfig>,
    /// Direct peers.
    pub peers: Peers,
    /// Options to store for `--resume`.
    pub launch_options: Vec<String>,
    /// To be logged once the log is there: harmless.
    pub notes: Vec<String>,
    /// To be logged once the log is there: the user may have meant something else.
    pub warnings: Vec<String>,
}

/// Allocation of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// The range that all hosts of the mesh share; without host bits.
    pub range: Cidr,
    /// Whether nobody asked for this range in particular.
    pub is_default: bool,
    /// Where addresses come from if no subnet is asked for. Overlaps `range`.
    pub default_subnet: Cidr,
    /// How the first owners of the range are found.
    pub init: Init,
}

/// How names of containers are served.
#[derive(Debug, Clone)]
pub struct NamesConfig {
    /// The domain of all names.
    pub domain: Domain,
    /// Where queries are answered.
    pub listen: Listen,
    /// Seconds for which answers hold, up to 2^31 - 1.
    pub ttl: u32,
    /// How long to wait for each server upstream.
    pub timeout: Duration,
    /// The file that names the servers upstream; `None`: there are none.
    pub resolv_conf: Option<PathBuf>,
}

/// Where queries are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// Here, or the daemon does not start.
    Given(SocketAddr),
    /// Where containers can reach it: at the address of Docker's bridge, or else of our own. As
    /// long as there is none, nowhere.
    Found {
        /// Name of Docker's bridge.
        docker_bridge: String,
        /// The port.
        port: u16,
    },
}

/// Where the direct peers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// The command line; a launch like the one before takes up where that one was.
    Given(Vec<String>),
    /// The state, whatever it says.
    Stored,
}

/// What is logged and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logging {
    /// Lowest level.
    pub level: Level,
    /// Whether each frame is logged.
    pub frames: bool,
    /// One JSON object per line.
    pub json: bool,
}

/// Levels of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Level {
    /// Everything but frames.
    Debug,
    /// Changes of state.
    Info,
    /// What somebody should look at.
    #[value(alias = "warn")]
    Warning,
    /// What failed.
    #[value(aliases = ["fatal", "panic"])]
    Error,
}
