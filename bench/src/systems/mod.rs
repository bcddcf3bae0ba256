//! What is measured: systems that carry packets between two hosts, each on a stage of its own.
//!
//! ```text
//!   container          container
//!      |                   |
//!    bridge              bridge
//!      |                   |
//!   the system   ...   the system      a router's device, a VXLAN device, or the underlay itself
//!      |                   |
//!    host 1 ---- veth ---- host 2
//! ```
//!
//! The hosts and their daemons are those of the tests' [`Lab`], whose calls panic when something
//! does not work; so do [`Stage::build`] and what else says so.

pub mod mesh;
pub mod peers;
mod underlay;

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use host::netns::{Netns, Resident};
use host::stage::INTERFACE;
use tests::lab::{self, ContainerId, Lab};
use tests::node::{self, Kind};

use mesh::Mesh;
use peers::{Layer, Peer};
use underlay::{VXLAN, VXLAN_MTU, add_vxlan, join_bridges, kernel_has_vxlan, restore_offloads};

pub use underlay::{Underlay, Wire};

/// MTU between the hosts.
pub const UNDERLAY_MTU: u32 = 1500;
/// IP and ICMP headers.
const PING_HEADERS: usize = 28;

/// A system to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// From host to host: neither container nor overlay.
    RawVeth,
    /// The containers' bridges joined by the underlay itself.
    RawBridge,
    /// The kernel's VXLAN, not encrypted.
    Vxlan,
    /// Another program.
    Peer(Peer),
    /// Routers, ours or the original's.
    Mesh(&'static Mesh),
}

impl System {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 22] = [
        Self::RawVeth,
        Self::RawBridge,
        Self::Vxlan,
        Self::Mesh(Mesh::WEAVER),
        Self::Mesh(Mesh::WEAVER_CLEAR),
        Self::Mesh(Mesh::TO_WEAVER),
        Self::Mesh(Mesh::FROM_WEAVER),
        Self::Mesh(Mesh::MESHCTL),
        Self::Mesh(Mesh::TX_OFF),
        Self::Mesh(Mesh::CHACHA),
        Self::Mesh(Mesh::REKEY),
        Self::Mesh(Mesh::THREADS),
        Self::Mesh(Mesh::CLEAR),
        Self::Mesh(Mesh::BY_SLEEVE),
        Self::Mesh(Mesh::BY_SLEEVE_TX_OFF),
        Self::Mesh(Mesh::NO_OFFLOAD),
        Self::Mesh(Mesh::STREAM),
        Self::Peer(Peer::WireguardGo),
        Self::Peer(Peer::Nebula),
        Self::Peer(Peer::Tinc),
        Self::Peer(Peer::Vpncloud),
        Self::Peer(Peer::Fastd),
    ];

    /// Those of a run that nobody has named any for: what users have the choice of.
    pub fn usual() -> Vec<Self> {
        let particular = [
            Self::Mesh(Mesh::WEAVER_CLEAR),
            Self::Mesh(Mesh::REKEY),
            Self::Mesh(Mesh::THREADS),
            Self::Mesh(Mesh::CLEAR),
            Self::Mesh(Mesh::STREAM),
        ];
        let mut systems = Self::ALL.to_vec();
        systems.retain(|system| !particular.contains(system));
        systems
    }

    /// Those of a short run: ours, and what it is compared with.
    pub const SHORT: [Self; 6] = [
        Self::RawBridge,
        Self::Vxlan,
        Self::Mesh(Mesh::WEAVER),
        Self::Mesh(Mesh::MESHCTL),
        Self::Mesh(Mesh::TX_OFF),
        Self::Mesh(Mesh::BY_SLEEVE),
    ];

    /// Those that others are divided by.
    pub const REFERENCES: [Self; 5] = [
        Self::RawVeth,
        Self::RawBridge,
        Self::Vxlan,
        Self::Mesh(Mesh::WEAVER),
        Self::Peer(Peer::WireguardGo),
    ];

    /// As it is called on the command line and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RawVeth => "raw-veth",
            Self::RawBridge => "raw-bridge",
            Self::Vxlan => "vxlan",
            Self::Peer(peer) => peer.name(),
            Self::Mesh(mesh) => mesh.name,
        }
    }

    /// What it is, in a line.
    pub const fn about(self) -> &'static str {
        match self {
            Self::RawVeth => "from host to host, neither container nor overlay",
            Self::RawBridge => "containers bridged straight onto the underlay",
            Self::Vxlan => "the kernel's VXLAN, not encrypted",
            Self::Peer(peer) => peer.about(),
            Self::Mesh(mesh) => mesh.about,
        }
    }

    /// Why it cannot be measured here, if so.
    pub fn missing(self, programs: &Programs) -> Option<&'static str> {
        let kinds = match self {
            Self::Mesh(mesh) => mesh.kinds,
            Self::Peer(peer) if !peer.is_installed() => return Some("it is not installed"),
            Self::Vxlan if !kernel_has_vxlan() => return Some("the kernel has none"),
            _ => return None,
        };
        if kinds.contains(&Kind::Weaver) && node::weaver().is_none() {
            Some("WEAVER does not name the original's program")
        } else if kinds.contains(&Kind::Meshctl) && !programs.meshctl.exists() {
            Some("there is no meshctl: build it, or name it with --meshctl")
        } else {
            None
        }
    }
}

impl ValueEnum for System {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(self.name().into())
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Ours. The original is in `WEAVER`.
    pub meshctl: PathBuf,
}

/// A system that runs, ready for load. It goes away with the value.
#[derive(Debug)]
pub struct Stage {
    system: System,
    lab: Lab,
    /// The containers of sender and receiver; without them, the hosts take their part.
    containers: Option<[ContainerId; 2]>,
    routers: Vec<u32>,
    /// Programs that the lab does not know of.
    _peers: Vec<Resident>,
}

impl Stage {
    /// Builds the stage and waits until packets of full length go through.
    ///
    /// # Errors
    ///
    /// When a device cannot be set up.
    ///
    /// # Panics
    ///
    /// When anything else does not work.
    pub fn build(system: System, underlay: &Underlay, programs: &Programs) -> Result<Self> {
        let mut lab = underlay.build()?;
        let mut routers = Vec::new();
        let mut running = Vec::new();
        match system {
            System::RawVeth => {}
            System::RawBridge => join_bridges(&lab, INTERFACE, UNDERLAY_MTU)?,
            System::Vxlan => {
                for number in [1, 2] {
                    add_vxlan(&lab, number)?;
                }
                join_bridges(&lab, VXLAN, VXLAN_MTU)?;
            }
            System::Peer(peer) => {
                running = peer.start(&lab)?;
                routers.extend(running.iter().map(Resident::pid));
            }
            System::Mesh(mesh) => {
                mesh.start(&mut lab, programs);
                routers.extend([1, 2].map(|number| lab.node(number).pid()));
            }
        }
        let containers = match system {
            System::RawVeth => None,
            System::Peer(peer) if peer.layer() == Layer::Ip => {
                Some([peers::attach(&mut lab, 1)?, peers::attach(&mut lab, 2)?])
            }
            _ => Some([1, 2].map(|number| lab.attach(number, &format!("10.40.0.{number}/16")))),
        };
        if let Some([client, server]) = containers {
            let mtu = match system {
                System::RawVeth | System::RawBridge => UNDERLAY_MTU,
                System::Vxlan => VXLAN_MTU,
                System::Peer(peer) => peer.mtu(),
                System::Mesh(mesh) => mesh.mtu(),
            };
            for container in [client, server] {
                if !matches!(system, System::Mesh(mesh) if !mesh.offloads) {
                    restore_offloads(lab.container_netns(container))?;
                }
                if let System::Peer(peer) = system
                    && peer.layer() == Layer::Ip
                {
                    peers::route(&lab, container, mtu)?;
                }
            }
            lab.ping(client, server, usize::try_from(mtu)? - PING_HEADERS);
        }
        Ok(Self {
            system,
            lab,
            containers,
            routers,
            _peers: running,
        })
    }

    /// Where the sender is.
    pub fn client(&self) -> &Netns {
        match self.containers {
            Some([client, _]) => self.lab.container_netns(client),
            None => self.lab.netns(1),
        }
    }

    /// Where the receiver is.
    pub fn server(&self) -> &Netns {
        match self.containers {
            Some([_, server]) => self.lab.container_netns(server),
            None => self.lab.netns(2),
        }
    }

    /// Address of the receiver.
    pub fn server_address(&self) -> Ipv4Addr {
        match self.containers {
            Some([_, server]) => self.lab.container_address(server),
            None => lab::address(2),
        }
    }

    /// Process ids of the routers, the sender's first; none where the kernel does it all.
    pub fn routers(&self) -> &[u32] {
        &self.routers
    }

    /// Frames and datagrams that the routers have dropped so far, if they say.
    pub fn dropped(&self) -> Option<u64> {
        match self.system {
            System::Mesh(mesh) => mesh.dropped(&self.lab),
            _ => None,
        }
    }
}
