//! Whether addresses for containers are in the way of the host's own networks.
//!
//! A host that has a route or an address in the range of its containers reaches either the one or
//! the other. The bridge itself does not count: its routes lead to the containers. Neither does the
//! default route, which leads everywhere.
//!
//! Source: Weave IPAM protocol, section 14; feature inventory, I02 and H18.

use std::net::IpAddr;

use host::netlink::{Cidr, Netlink, Result};
use ipam::range::Cidr as Subnet;

/// What of the host a subnet, or an address in one, is in the way of: in words, one for each.
///
/// A subnet is in the way of what it overlaps with. An address with host bits is one address, and
/// in the way of the networks that it lies in.
pub async fn conflicts(bridge: Option<&str>, with: Subnet) -> Result<Vec<String>> {
    let netlink = Netlink::current()?;
    let links = netlink.links().await?;
    let name_of = |index: u32| {
        let link = links.iter().find(|link| link.index == index);
        link.map_or_else(|| format!("device {index}"), |link| link.name.clone())
    };
    let own = bridge.and_then(|bridge| links.iter().find(|link| link.name == bridge));
    let own = own.map(|link| link.index);
    let (mut found, mut devices) = (Vec::new(), Vec::new());
    for route in netlink.routes().await? {
        let foreign = route.device.is_none() || route.device != own;
        if foreign && is_in_the_way(with, route.destination) {
            let via = route
                .device
                .map_or_else(String::new, |index| format!(" through {}", name_of(index)));
            found.push(format!("the route to {}{via}", route.destination));
            devices.extend(route.device);
        }
    }
    for (device, address) in netlink.all_addresses().await? {
        let single = Cidr {
            prefix_len: 32,
            ..address
        };
        // Next to a route through the same device it says nothing new.
        let foreign = Some(device) != own && !devices.contains(&device);
        if foreign && is_in_the_way(with, single) {
            let device = name_of(device);
            found.push(format!("the address {} of {device}", address.address));
        }
    }
    Ok(found)
}

fn is_in_the_way(with: Subnet, of: Cidr) -> bool {
    let IpAddr::V4(address) = of.address else {
        return false;
    };
    if of.prefix_len == 0 {
        return false;
    }
    let network = Subnet::new(address.into(), of.prefix_len).masked();
    let contains = |subnet: Subnet, address| {
        Subnet::new(address, subnet.prefix_len()).masked().address == subnet.address
    };
    let inside = contains(network, with.address);
    inside || with.is_subnet() && contains(with, network.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps() {
        let way = |with: &str, of: &str| is_in_the_way(with.parse().unwrap(), of.parse().unwrap());
        for (with, of, expected) in [
            ("10.32.0.0/12", "10.0.0.0/8", true),
            ("10.32.0.0/12", "10.40.3.0/24", true),
            ("10.32.0.0/12", "10.47.255.255/32", true),
            ("10.32.0.0/12", "10.32.0.0/12", true),
            ("10.32.0.0/12", "10.48.0.0/12", false),
            ("10.32.0.0/12", "192.168.0.0/16", false),
            ("10.32.0.0/12", "0.0.0.0/0", false),
            ("10.32.0.0/12", "fd00::/8", false),
            // One address in its subnet.
            ("10.32.0.1/12", "10.32.0.0/24", true),
            ("10.32.0.1/12", "10.40.0.0/24", false),
            ("10.32.0.1/12", "10.32.0.1/32", true),
        ] {
            assert_eq!(way(with, of), expected, "{with} in the way of {of}");
        }
    }
}
