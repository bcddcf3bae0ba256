//! IP addresses of devices, and routes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteScope, RouteType,
};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};

use super::{Cidr, Netlink, Result, errno, failed, refused};

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: Cidr,
    /// Next hop, if there is one in between.
    pub gateway: Option<IpAddr>,
    /// Index of the device through which it leads; absent for routes that lead nowhere.
    pub device: Option<u32>,
    /// Whether it reaches only what is directly connected.
    pub link_scope: bool,
}

impl Netlink {
    /// Adds an address to a device. Returns whether it was missing.
    pub async fn add_address(&self, name: &str, cidr: Cidr) -> Result<bool> {
        let index = self.existing(name).await?.index;
        let request = self
            .handle
            .address()
            .add(index, cidr.address, cidr.prefix_len);
        added(request.execute().await, || {
            format!("add address {cidr} to {name}")
        })
    }

    /// The addresses of a device, both families, in the kernel's order.
    pub async fn addresses(&self, name: &str) -> Result<Vec<Cidr>> {
        let index = self.existing(name).await?.index;
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .execute()
            .try_collect()
            .await
            .map_err(|error| refused(format!("list the addresses of {name}"), error))?;
        Ok(messages.iter().filter_map(parse_address).collect())
    }

    /// The addresses of all devices, each with the device's index.
    pub async fn all_addresses(&self) -> Result<Vec<(u32, Cidr)>> {
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| refused("list the addresses".to_owned(), error))?;
        let all = messages.iter();
        let all = all.filter_map(|message| Some((message.header.index, parse_address(message)?)));
        Ok(all.collect())
    }

    /// Removes an address from a device. Returns whether it was there.
    pub async fn delete_address(&self, name: &str, cidr: Cidr) -> Result<bool> {
        let index = self.existing(name).await?.index;
        let message = match cidr.address {
            IpAddr::V4(address) => AddressMessageBuilder::<Ipv4Addr>::new()
                .index(index)
                .address(address, cidr.prefix_len)
                .build(),
            IpAddr::V6(address) => AddressMessageBuilder::<Ipv6Addr>::new()
                .index(index)
                .address(address, cidr.prefix_len)
                .build(),
        };
        match self.handle.address().del(message).execute().await {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Some(libc::EADDRNOTAVAIL) => Ok(false),
            Err(error) => Err(refused(format!("remove address {cidr} from {name}"), error)),
        }
    }

    /// Adds a route to what is directly reachable through a device. Returns whether it was missing.
    pub async fn add_route(&self, destination: Cidr, name: &str) -> Result<bool> {
        let action = || format!("add a route to {destination} through {name}");
        let index = self.existing(name).await?.index;
        let route = route_to(destination, action)?
            .output_interface(index)
            .scope(RouteScope::Link)
            .build();
        added(self.handle.route().add(route).execute().await, action)
    }

    /// Adds a route through a gateway. Returns whether it was missing.
    pub async fn add_route_via(&self, destination: Cidr, gateway: IpAddr) -> Result<bool> {
        let action = || format!("add a route to {destination} through gateway {gateway}");
        let route = route_to(destination, action)?
            .gateway(gateway)
            .map_err(|error| failed(action(), io::Error::other(error)))?
            .build();
        added(self.handle.route().add(route).execute().await, action)
    }

    /// The unicast routes of the main table, IPv4.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        let filter = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages: Vec<_> = self
            .handle
            .route()
            .get(filter)
            .execute()
            .try_collect()
            .await
            .map_err(|error| refused("list the routes".to_owned(), error))?;
        let main = messages.iter().filter(|message| {
            message.header.table == RouteHeader::RT_TABLE_MAIN
                && message.header.kind == RouteType::Unicast
        });
        Ok(main
            .map(|message| {
                let mut route = Route {
                    destination: Cidr {
                        prefix_len: message.header.destination_prefix_length,
                        ..Cidr::ANY
                    },
                    gateway: None,
                    device: None,
                    link_scope: message.header.scope == RouteScope::Link,
                };
                for attribute in &message.attributes {
                    match attribute {
                        RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                            route.destination.address = IpAddr::V4(*address);
                        }
                        RouteAttribute::Gateway(RouteAddress::Inet(address)) => {
                            route.gateway = Some(IpAddr::V4(*address));
                        }
                        RouteAttribute::Oif(index) => route.device = Some(*index),
                        _ => {}
                    }
                }
                route
            })
            .collect())
    }
}

fn parse_address(message: &AddressMessage) -> Option<Cidr> {
    // Where both stand, the second is the far end of a point-to-point link.
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
    let address = local.or_else(|| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
    })?;
    Some(Cidr {
        address,
        prefix_len: message.header.prefix_len,
    })
}

fn route_to(
    destination: Cidr,
    action: impl FnOnce() -> String,
) -> Result<RouteMessageBuilder<IpAddr>> {
    RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination.address, destination.prefix_len)
        .map_err(|error| failed(action(), io::Error::other(error)))
}

/// Whether something was added or already there.
fn added(
    done: std::result::Result<(), rtnetlink::Error>,
    action: impl FnOnce() -> String,
) -> Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(refused(action(), error)),
    }
}
