//! The bridge that containers are on, and its addresses and routes.
//!
//! The bridge outlives the daemon: containers hang on it. The TAP device, by which frames reach the
//! daemon, does not. Every step may be repeated.

use anyhow::Context as _;
use host::netlink::{Cidr, Link, LinkKind, Netlink};
use proto::{MacAddr, PeerName};

/// Name of the bridge, unless told otherwise.
pub const NAME: &str = "weave";
/// What the host ends of containers' links are called, before the number of a process.
const CONTAINER_LINK: &str = "vethwepl";

/// Name of the TAP device on a bridge. A device's name has 15 bytes at most.
pub fn tap_name(bridge: &str) -> String {
    let mut len = bridge.len().min(11);
    while !bridge.is_char_boundary(len) {
        len -= 1;
    }
    format!("{}-tap", &bridge[..len])
}

/// Makes the bridge what it has to be, whether it is there or not.
pub async fn ensure(
    netlink: &Netlink,
    name: &str,
    peer: PeerName,
    mtu: Option<u32>,
) -> anyhow::Result<Link> {
    let bridge = netlink
        .ensure_bridge(name, Some(MacAddr::from(peer)), mtu)
        .await?;
    netlink.set_up(name).await?;
    // The neighbour table is a matter of how soon moved addresses are found; not of life and death.
    if let Err(error) = netlink.tune(name).await {
        tracing::warn!(bridge = name, %error, "cannot tune the bridge");
    }
    Ok(bridge)
}

/// Whether the bridge is there and `port` is a port of it.
pub async fn holds(netlink: &Netlink, name: &str, port: &str) -> anyhow::Result<bool> {
    let bridge = netlink.link(name).await?;
    let port = netlink.link(port).await?;
    Ok(match (bridge, port) {
        (Some(bridge), Some(port)) => port.master == Some(bridge.index) && bridge.up,
        _ => false,
    })
}

/// Gives the bridge an address and routes. What is there already stays. Returns what was added.
pub async fn furnish(
    netlink: &Netlink,
    name: &str,
    address: Option<Cidr>,
    routes: &[Cidr],
) -> anyhow::Result<Vec<String>> {
    let mut added = Vec::new();
    if let Some(address) = address
        && netlink.add_address(name, address).await?
    {
        added.push(format!("address {address}"));
    }
    for route in routes {
        if netlink.add_route(*route, name).await? {
            added.push(format!("route {route}"));
        }
    }
    Ok(added)
}

/// Removes the bridge and the links of containers on it. Returns whether it was there.
pub async fn remove(name: &str) -> anyhow::Result<bool> {
    let netlink = Netlink::current().context("cannot speak with the kernel")?;
    let Some(bridge) = netlink.link(name).await? else {
        return Ok(false);
    };
    anyhow::ensure!(
        bridge.kind == LinkKind::Bridge,
        "network device {name} is not a bridge; it is left as it is"
    );
    for link in netlink.links().await? {
        if link.master == Some(bridge.index) && link.name.starts_with(CONTAINER_LINK) {
            netlink.delete_link(&link.name).await?;
        }
    }
    Ok(netlink.delete_link(name).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tap_names_fit() {
        assert_eq!(tap_name("weave"), "weave-tap");
        assert_eq!(tap_name("a-long-bridge-1"), "a-long-brid-tap");
        assert_eq!(tap_name("ééééééé"), "ééééé-tap");
    }
}
