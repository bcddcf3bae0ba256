//! Network devices, addresses and routes, through the kernel's rtnetlink.
//!
//! [`Netlink`] is a handle on one network namespace. Making something that is already there as
//! asked for is no error, so every step may be repeated after a crash. Errors name the device and,
//! where there is one, the mend.
//!
//! A netlink socket stays in the namespace in which it was opened. To act inside another one, a
//! short-lived thread enters it, opens the socket there and ends; the threads of the runtime never
//! change their namespace.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};
use proto::MacAddr;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::{LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;

pub use addresses::Route;
pub use cidr::{BadCidr, Cidr};
pub use watch::Watch;

mod addresses;
mod cidr;
mod sysctl;
#[cfg(test)]
mod tests;
mod watch;

/// Largest MTU of the overlay's bridge, and what it gets if nothing else is asked for: the overlay
/// finds the MTU of each path itself and tells senders, so the bridge must not be in the way.
///
/// The original has 65535. A TAP device takes 14 bytes less, and a bridge drops silently what a port
/// does not take: a TCP connection between two interfaces of 65535 would never learn why its first
/// long segment got lost.
pub const BRIDGE_MTU: u32 = 65535 - 14;

/// Why a network device, address or route is not as asked for. Earlier steps of the same call may
/// have been done; repeating the call is safe.
#[derive(Debug, Error)]
pub enum Error {
    /// The process lacks the right to do it.
    #[error("cannot {0}: permission denied; run as root or with CAP_NET_ADMIN")]
    NotPermitted(String),
    /// There is no such device in this namespace.
    #[error("there is no network device named {0:?}")]
    NoDevice(String),
    /// The name is taken by a device of another kind.
    #[error(
        "network device {0:?} exists but is not a bridge; remove it with \"ip link delete {0}\" \
         or choose another name for the bridge"
    )]
    NotABridge(String),
    /// The kernel would refuse, or cut, this name.
    #[error(
        "{0:?} cannot be the name of a network device; use 1 to 15 bytes without blank, slash \
         and colon"
    )]
    BadName(String),
    /// Everything else.
    #[error("cannot {action}: {source}")]
    Failed {
        /// What was being done, and to which device.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What the calls of this module return.
pub type Result<T> = std::result::Result<T, Error>;

/// Kinds of network devices, as far as they matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// An Ethernet bridge.
    Bridge,
    /// One end of a veth pair.
    Veth,
    /// A TUN or TAP device.
    Tun,
    /// Any other.
    Other,
}

/// A network device at the moment it was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in the kernel; another device may get it later.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: LinkKind,
    /// Its Ethernet address, if it has one.
    pub mac: Option<MacAddr>,
    /// Largest IP packet it takes.
    pub mtu: u32,
    /// Largest MTU it can be set to, if the kernel says.
    pub max_mtu: Option<u32>,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// Index of the device that it hangs on; of a veth: of its other end, which may be in another
    /// namespace.
    pub peer: Option<u32>,
    /// Number of that other namespace in this one; see [`Netlink::number_of`].
    pub peer_namespace: Option<i32>,
    /// Whether it is set up (not: whether it has a carrier).
    pub up: bool,
}

/// The devices of one network namespace. Clones share one socket.
///
/// Made within a tokio runtime, which then runs its socket; all calls must be made on that runtime.
#[derive(Clone)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    /// The namespace it acts in, unless it is the process's own.
    namespace: Option<Arc<OwnedFd>>,
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netlink")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Netlink {
    /// Of the calling thread's network namespace.
    pub fn current() -> Result<Self> {
        let handle = open().map_err(|error| failed("open a netlink socket", error))?;
        Ok(Self {
            handle,
            namespace: None,
        })
    }

    /// Of the namespace to which `namespace` refers: an open `/proc/PID/ns/net` or a bind mount of
    /// it.
    pub fn inside(namespace: BorrowedFd<'_>) -> Result<Self> {
        let action = "open a netlink socket inside a network namespace";
        let namespace = namespace
            .try_clone_to_owned()
            .map_err(|error| failed(action, error))?;
        let runtime = tokio::runtime::Handle::current();
        let handle = in_namespace(Some(namespace.as_fd()), || {
            let _entered = runtime.enter();
            open()
        });
        let handle = handle.map_err(|error| failed(action, error))?;
        Ok(Self {
            handle,
            namespace: Some(Arc::new(namespace)),
        })
    }

    /// The device of this name, if there is one.
    pub async fn link(&self, name: &str) -> Result<Option<Link>> {
        check_name(name)?;
        let mut found = std::pin::pin!(self.handle.link().get().match_name(name).execute());
        match found.try_next().await {
            Ok(message) => Ok(message.map(|message| parse_link(&message))),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(refused(format!("look up network device {name}"), error)),
        }
    }

    /// The device of this name, which has to be there.
    pub async fn existing(&self, name: &str) -> Result<Link> {
        self.link(name)
            .await?
            .ok_or_else(|| Error::NoDevice(name.to_owned()))
    }

    /// All devices.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let messages: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| refused("list the network devices".to_owned(), error))?;
        Ok(messages.iter().map(parse_link).collect())
    }

    /// Makes sure there is a bridge of this name, and returns it. It is not set up yet.
    ///
    /// `mac` and `mtu` are enforced on an existing bridge as well; without them it keeps its own,
    /// and a new one gets a random address and [`BRIDGE_MTU`], which is also the most that it can
    /// get. Either way both stay as they are when ports come and go. Ports, addresses and all other
    /// settings are left alone.
    pub async fn ensure_bridge(
        &self,
        name: &str,
        mac: Option<MacAddr>,
        mtu: Option<u32>,
    ) -> Result<Link> {
        let (bridge, created) = match self.link(name).await? {
            Some(bridge) => (bridge, false),
            None => (self.add_bridge(name).await?, true),
        };
        if bridge.kind != LinkKind::Bridge {
            return Err(Error::NotABridge(name.to_owned()));
        }
        // A bridge takes the lowest address of its ports, and the lowest MTU, until each has been
        // set by hand. Setting the address to what it was counts; setting the MTU so does not,
        // but that of a new bridge is never BRIDGE_MTU.
        if let Some(mac) = mac.or(bridge.mac) {
            self.set_mac(name, mac).await?;
        }
        if let Some(mtu) = mtu.or(created.then_some(BRIDGE_MTU)) {
            self.set_mtu(name, mtu.min(BRIDGE_MTU)).await?;
        }
        self.existing(name).await
    }

    async fn add_bridge(&self, name: &str) -> Result<Link> {
        // Not `LinkBridge::new`, which also sets it up, before its address is final.
        let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Bridge)
            .name(name)
            .build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(|error| refused(format!("create bridge {name}"), error))?;
        tracing::info!(bridge = name, "created the bridge");
        self.existing(name).await
    }

    /// Makes a device a port of a bridge, as wide as it goes up to the bridge's own MTU, and sets
    /// it up. The bridge keeps its MTU, unless the device cannot have as much: then the bridge gets
    /// what the device has, since it would drop what is longer without a word.
    pub async fn add_port(&self, bridge: &str, port: &str) -> Result<()> {
        let master = self.existing(bridge).await?;
        if master.kind != LinkKind::Bridge {
            return Err(Error::NotABridge(bridge.to_owned()));
        }
        let link = self.existing(port).await?;
        let mtu = link.max_mtu.map_or(master.mtu, |most| most.min(master.mtu));
        if link.mtu != mtu {
            self.set_mtu(port, mtu).await?;
        }
        if link.master != Some(master.index) {
            self.set_master(port, Some(bridge)).await?;
        }
        self.set_up(port).await?;
        // A bridge whose MTU nobody ever set has just taken that of its narrowest port.
        if self.existing(bridge).await?.mtu != mtu {
            if mtu < master.mtu {
                tracing::warn!(
                    bridge,
                    port,
                    mtu,
                    "the bridge's MTU is lowered to what the port can take; interfaces of containers \
                     must not have more"
                );
            }
            self.set_mtu(bridge, mtu).await?;
        }
        Ok(())
    }

    /// Makes a veth pair; neither end may exist. Both are down.
    pub async fn add_veth(&self, name: &str, peer: &str) -> Result<()> {
        check_name(name)?;
        check_name(peer)?;
        let message = LinkVeth::new(name, peer).build();
        let done = self.handle.link().add(message).execute().await;
        done.map_err(|error| refused(format!("create veth pair {name} and {peer}"), error))
    }

    /// Makes a device a port of `bridge`, or of none.
    pub async fn set_master(&self, name: &str, bridge: Option<&str>) -> Result<()> {
        let (index, action) = match bridge {
            Some(bridge) => (
                self.existing(bridge).await?.index,
                format!("make {name} a port of bridge {bridge}"),
            ),
            None => (0, format!("take {name} out of its bridge")),
        };
        self.change(name, action, |link| link.controller(index))
            .await
    }

    /// Sets a device up.
    pub async fn set_up(&self, name: &str) -> Result<()> {
        self.change(name, format!("set {name} up"), LinkMessageBuilder::up)
            .await
    }

    /// Sets a device down.
    pub async fn set_down(&self, name: &str) -> Result<()> {
        self.change(name, format!("set {name} down"), LinkMessageBuilder::down)
            .await
    }

    /// Gives a device this Ethernet address.
    pub async fn set_mac(&self, name: &str, mac: MacAddr) -> Result<()> {
        let action = format!("set the address of {name} to {mac}");
        self.change(name, action, |link| link.address(mac.0.to_vec()))
            .await
    }

    /// Gives a device this MTU.
    pub async fn set_mtu(&self, name: &str, mtu: u32) -> Result<()> {
        let action = format!("set the MTU of {name} to {mtu}");
        self.change(name, action, |link| link.mtu(mtu)).await
    }

    /// Gives a device another name. It must be down.
    pub async fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        check_name(new_name)?;
        let action = format!("rename {name} to {new_name}");
        self.change(name, action, |link| link.name(new_name)).await
    }

    /// Whether a bridge may send a frame back through the port it came from.
    pub async fn set_hairpin(&self, port: &str, hairpin: bool) -> Result<()> {
        let index = self.existing(port).await?.index;
        let message = LinkBridgePort::new(index).hairpin(hairpin).build();
        let done = self.handle.link().set_port(message).execute().await;
        done.map_err(|error| refused(format!("set hairpin mode of {port}"), error))
    }

    /// Whether a bridge keeps frames of this port from all other isolated ports.
    pub async fn set_isolated(&self, port: &str, isolated: bool) -> Result<()> {
        let index = self.existing(port).await?.index;
        let message = LinkBridgePort::new(index).isolated(isolated).build();
        let done = self.handle.link().set_port(message).execute().await;
        done.map_err(|error| refused(format!("set isolation of {port}"), error))
    }

    /// Moves a device to another network namespace, where it may get another name. It arrives
    /// there down, without addresses and in no bridge.
    pub async fn set_namespace(
        &self,
        name: &str,
        namespace: BorrowedFd<'_>,
        new_name: Option<&str>,
    ) -> Result<()> {
        new_name.map_or(Ok(()), check_name)?;
        let action = format!("move {name} to another network namespace");
        self.change(name, action, |link| {
            let link = link.setns_by_fd(namespace.as_raw_fd());
            match new_name {
                Some(new_name) => link.name(new_name),
                None => link,
            }
        })
        .await
    }

    /// Removes a device, with the other end of a veth pair. Returns whether it was there.
    pub async fn delete_link(&self, name: &str) -> Result<bool> {
        let Some(link) = self.link(name).await? else {
            return Ok(false);
        };
        match self.handle.link().del(link.index).execute().await {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(refused(format!("delete network device {name}"), error)),
        }
    }

    /// The number by which the kernel calls another namespace in this one. It has one from the moment
    /// on when a device of the one hangs on a device of the other.
    pub async fn number_of(&self, namespace: BorrowedFd<'_>) -> Result<Option<i32>> {
        let action = || "look up a network namespace".to_owned();
        let mut asked = NsidMessage::default();
        let fd = u32::try_from(namespace.as_raw_fd());
        let fd = fd.map_err(|error| failed(action(), io::Error::other(error)))?;
        asked.attributes.push(NsidAttribute::Fd(fd));
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(asked));
        message.header.flags = NLM_F_REQUEST;
        let mut handle = self.handle.clone();
        let answers = handle.request(message);
        let mut answers = answers.map_err(|error| refused(action(), error))?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::Error(error) => return Err(failed(action(), error.to_io())),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(told)) => {
                    let number = told
                        .attributes
                        .iter()
                        .find_map(|attribute| match attribute {
                            NsidAttribute::Id(number) => Some(*number),
                            _ => None,
                        });
                    return Ok(number.filter(|number| *number >= 0));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    async fn change(
        &self,
        name: &str,
        action: String,
        what: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<()> {
        let index = self.existing(name).await?.index;
        let message = what(LinkUnspec::new_with_index(index)).build();
        let done = self.handle.link().change(message).execute().await;
        done.map_err(|error| refused(action, error))
    }

    /// Tells the kernel to notice soon when an IP address moves to another MAC address behind this
    /// device, and to take no IPv6 router advertisements on it. For the bridge, and for the
    /// interface inside a container.
    pub async fn tune(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let (namespace, owned) = (self.namespace.clone(), name.to_owned());
        // Which namespace /proc/sys/net shows depends on the thread that opens it.
        let written = tokio::task::spawn_blocking(move || {
            let namespace = namespace.as_ref().map(|namespace| namespace.as_fd());
            in_namespace(namespace, || sysctl::tune(&owned))
        });
        let written = written.await.map_err(io::Error::other).flatten();
        written.map_err(|error| failed(format!("set the ARP timing of {name}"), error))
    }
}

/// Opens a connection on the current runtime, in the thread's namespace.
fn open() -> io::Result<rtnetlink::Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    // Ends when the last handle is dropped.
    tokio::spawn(connection);
    Ok(handle)
}

/// Runs `work` on a thread of its own, inside the namespace.
fn in_namespace<T: Send>(
    namespace: Option<BorrowedFd<'_>>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let Some(namespace) = namespace else {
        return work();
    };
    let enter_and_work = || {
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("in-namespace".to_owned());
        thread
            .spawn_scoped(scope, enter_and_work)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
    })
}

fn check_name(name: &str) -> Result<()> {
    let bad = |byte: u8| byte == b'/' || byte == b':' || byte == 0 || byte.is_ascii_whitespace();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.bytes().any(bad) {
        return Err(Error::BadName(name.to_owned()));
    }
    Ok(())
}

fn parse_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: LinkKind::Other,
        mac: None,
        mtu: 0,
        max_mtu: None,
        master: None,
        peer: None,
        peer_namespace: None,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => {
                link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            // 0 stands for "no limit known".
            LinkAttribute::MaxMtu(mtu) => link.max_mtu = Some(*mtu).filter(|mtu| *mtu != 0),
            LinkAttribute::Link(index) => link.peer = Some(*index),
            LinkAttribute::LinkNetNsId(number) => link.peer_namespace = Some(*number),
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = match kind {
                            InfoKind::Bridge => LinkKind::Bridge,
                            InfoKind::Veth => LinkKind::Veth,
                            InfoKind::Tun => LinkKind::Tun,
                            _ => LinkKind::Other,
                        };
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().abs()),
        _ => None,
    }
}

fn refused(action: String, error: rtnetlink::Error) -> Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => failed(action, message.to_io()),
        error => failed(action, io::Error::other(error)),
    }
}

fn failed(action: impl Into<String>, error: io::Error) -> Error {
    let action = action.into();
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Error::NotPermitted(action);
    }
    Error::Failed {
        action,
        source: error,
    }
}
