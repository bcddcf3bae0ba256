//! Hosts and containers on one machine, made of network namespaces: the stage on which the tests,
//! the benchmarks and the demonstration play.
//!
//! ```text
//!        container            container
//!            |                    |
//!   host h1: bridge      host h2: bridge       each box a namespace
//!           eth0                 eth0
//!            |                    |
//!         +-----------------------------+
//!         |  switch: bridge "underlay"  |
//!         +-----------------------------+
//! ```
//!
//! Namespaces are named by [`netns::name_for`], and go away with the values. Calls are made on the
//! tokio runtime that the first was made on, as [`Netlink`] demands.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use crate::ethtool::disable_tx_checksum;
use crate::netlink::{self, Cidr, Netlink};
use crate::netns::{self, Netns};

/// The bridge inside the switch.
const UNDERLAY: &str = "underlay";
/// What interfaces of hosts and containers are called.
pub const INTERFACE: &str = "eth0";

/// The stage could not be built; what there is of it goes away by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No namespace.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// No device, address or route.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The offloads of a device cannot be switched.
    #[error("cannot switch off checksum offload: {0}")]
    Ethtool(#[source] io::Error),
}

impl Error {
    /// Whether what is missing is the right to do it.
    pub fn is_permission_denied(&self) -> bool {
        match self {
            Self::Netns(error) => error.kind() == io::ErrorKind::PermissionDenied,
            Self::Netlink(error) => matches!(error, netlink::Error::NotPermitted(_)),
            Self::Ethtool(error) => error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
}

/// A namespace with its devices; the loopback is up.
pub struct Place {
    /// Its devices.
    pub net: Netlink,
    /// The namespace.
    pub netns: Netns,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.netns.name()).finish()
    }
}

impl Place {
    /// Makes a namespace; `tag` and `rest` as for [`netns::name_for`].
    pub async fn new(tag: &str, rest: &str) -> Result<Self, Error> {
        let netns = Netns::create(&netns::name_for(tag, rest))?;
        let net = Netlink::inside(netns.as_fd())?;
        net.set_up("lo").await?;
        Ok(Self { net, netns })
    }

    /// Puts a container on this host's `bridge`: a namespace named after `rest` whose interface has
    /// the address `cidr` and leads to `port` on the bridge.
    pub async fn attach(
        &self,
        bridge: &str,
        port: &str,
        cidr: Cidr,
        tag: &str,
        rest: &str,
    ) -> Result<Self, Error> {
        // The far end has a name of its own until it is moved, for the host has an interface, too.
        let inner = format!("{port}-in");
        let container = Self::new(tag, rest).await?;
        self.net.add_veth(port, &inner).await?;
        self.net.add_port(bridge, port).await?;
        let mtu = self.net.existing(port).await?.mtu;
        self.net.set_mtu(&inner, mtu).await?;
        self.net
            .set_namespace(&inner, container.netns.as_fd(), Some(INTERFACE))
            .await?;
        container.net.add_address(INTERFACE, cidr).await?;
        container.net.set_up(INTERFACE).await?;
        // The original captures frames from the bridge and would send them with what checksum they
        // have, which is none while the interface leaves it to hardware.
        container
            .netns
            .run(|| disable_tx_checksum(INTERFACE))?
            .map_err(Error::Ethtool)?;
        Ok(container)
    }
}

/// Two hosts with a veth between them in the place of a switch, which carries IP packets of length
/// `mtu`. Each has an address and a `rest` of its name, as for [`netns::name_for`].
pub async fn back_to_back(
    tag: &str,
    mtu: u32,
    hosts: [(Cidr, &str); 2],
) -> Result<[Place; 2], Error> {
    let [(first_cidr, first), (second_cidr, second)] = hosts;
    let (first, second) = (
        Place::new(tag, first).await?,
        Place::new(tag, second).await?,
    );
    let net = &first.net;
    net.add_veth(INTERFACE, "far").await?;
    net.set_mtu(INTERFACE, mtu).await?;
    net.set_mtu("far", mtu).await?;
    net.set_namespace("far", second.netns.as_fd(), Some(INTERFACE))
        .await?;
    for (host, cidr) in [(&first, first_cidr), (&second, second_cidr)] {
        host.net.add_address(INTERFACE, cidr).await?;
        host.net.set_up(INTERFACE).await?;
    }
    Ok([first, second])
}

/// The underlay: a switch that hosts are plugged into.
#[derive(Debug)]
pub struct Switch {
    place: Place,
    tag: String,
    mtu: u32,
}

impl Switch {
    /// A switch that carries IP packets of this length; `tag` and `rest` as for
    /// [`netns::name_for`].
    pub async fn new(tag: &str, rest: &str, mtu: u32) -> Result<Self, Error> {
        let place = Place::new(tag, rest).await?;
        place.net.ensure_bridge(UNDERLAY, None, Some(mtu)).await?;
        place.net.set_up(UNDERLAY).await?;
        Ok(Self {
            place,
            tag: tag.to_owned(),
            mtu,
        })
    }

    /// Adds a host with this address: a namespace named after `rest`, plugged into `port`.
    pub async fn add_host(&self, port: &str, cidr: Cidr, rest: &str) -> Result<Place, Error> {
        let host = Place::new(&self.tag, rest).await?;
        let net = &self.place.net;
        let inner = format!("{port}-in");
        net.add_veth(port, &inner).await?;
        net.set_mtu(port, self.mtu).await?;
        net.set_mtu(&inner, self.mtu).await?;
        net.add_port(UNDERLAY, port).await?;
        net.set_namespace(&inner, host.netns.as_fd(), Some(INTERFACE))
            .await?;
        host.net.add_address(INTERFACE, cidr).await?;
        host.net.set_up(INTERFACE).await?;
        Ok(host)
    }

    /// Plugs a host in, or pulls its plug.
    pub async fn plug(&self, port: &str, plugged: bool) -> Result<(), Error> {
        let net = &self.place.net;
        Ok(if plugged {
            net.set_up(port).await
        } else {
            net.set_down(port).await
        }?)
    }

    /// Keeps this host and all others that are set apart from reaching each other, or lets it.
    pub async fn set_apart(&self, port: &str, apart: bool) -> Result<(), Error> {
        Ok(self.place.net.set_isolated(port, apart).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::netns::tests::may_run;
    use crate::probe::{Amount, ping, transfer};

    const TAG: &str = "stagetest";

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_reach_each_other_unless_parted() {
        if !may_run() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(async {
            let switch = Switch::new(TAG, "sw", 1400).await.unwrap();
            let mut hosts = Vec::new();
            for number in 1..=3 {
                let (port, cidr) = (
                    format!("h{number}"),
                    cidr(&format!("192.168.7.{number}/24")),
                );
                hosts.push(switch.add_host(&port, cidr, &port).await.unwrap());
            }
            let reaches = |from: usize, to: u8, patience| {
                let to = Ipv4Addr::new(192, 168, 7, to);
                hosts[from - 1]
                    .netns
                    .run(|| ping(to, 3000, patience))
                    .unwrap()
                    .is_ok()
            };
            let (soon, briefly) = (Duration::from_secs(60), Duration::from_millis(100));
            assert!(reaches(1, 2, soon) && reaches(2, 3, soon) && reaches(3, 1, soon));
            switch.set_apart("h1", true).await.unwrap();
            switch.set_apart("h3", true).await.unwrap();
            assert!(reaches(1, 2, soon) && reaches(2, 3, soon) && !reaches(3, 1, briefly));
            switch.set_apart("h1", false).await.unwrap();
            assert!(reaches(3, 1, soon));
            switch.plug("h2", false).await.unwrap();
            assert!(reaches(3, 1, soon) && !reaches(2, 1, briefly));
            switch.plug("h2", true).await.unwrap();
            assert!(reaches(2, 1, soon));
        });
    }

    #[test]
    fn two_hosts_back_to_back_reach_each_other() {
        if !may_run() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        let ends = [
            (cidr("192.168.8.1/24"), "left"),
            (cidr("192.168.8.2/24"), "right"),
        ];
        let [left, right] = runtime.block_on(back_to_back(TAG, 1400, ends)).unwrap();
        for (from, to) in [(&left, 2), (&right, 1)] {
            let to = Ipv4Addr::new(192, 168, 8, to);
            let answer = from.netns.run(|| ping(to, 3000, Duration::from_secs(60)));
            assert!(answer.unwrap().is_ok());
        }
    }

    #[test]
    fn containers_of_a_host_reach_each_other() {
        if !may_run() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(async {
            let host = Place::new(TAG, "one").await.unwrap();
            host.net.ensure_bridge("br", None, None).await.unwrap();
            host.net.set_up("br").await.unwrap();
            let mut containers = Vec::new();
            for number in 1..=2 {
                let (port, cidr) = (format!("c{number}"), cidr(&format!("10.40.0.{number}/16")));
                containers.push(host.attach("br", &port, cidr, TAG, &port).await.unwrap());
            }
            let to = Ipv4Addr::new(10, 40, 0, 2);
            let [first, second] = &containers[..] else {
                unreachable!()
            };
            let answer = first
                .netns
                .run(|| ping(to, 65000, Duration::from_secs(60)))
                .unwrap();
            assert!(answer.is_ok(), "{answer:?}");
            let amount = Amount::Bytes(1 << 20);
            assert!(transfer(&first.netns, &second.netns, to, amount).is_ok());
        });
    }
}
