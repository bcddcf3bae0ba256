//! Addresses that are in use on this host before anybody has asked for them.
//!
//! They are those of the bridge itself, and those of the containers that hang on it: of every
//! network namespace that a process is in, the veth devices whose other end is a port of the bridge.
//! Who these containers are is not known here. What the state knows already is as it was; this is
//! for addresses that were given by hand, and for a state that was lost.
//!
//! Source: Weave IPAM protocol, section 7.4; feature inventory, I16.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use host::netlink::{self, LinkKind, Netlink};
use ipam::allocator::{ANONYMOUS, PreClaim};
use ipam::range::Cidr;

/// The identifier of the host itself, whose addresses are on the bridge.
const EXPOSE: &str = "weave:expose";

/// Most network namespaces that are looked into.
const MAX_NAMESPACES: usize = 4096;

/// Ports of the bridge, and the other end of each: its index, and the number of its namespace.
type Ports = BTreeMap<u32, (Option<u32>, Option<i32>)>;

/// The addresses on `bridge` and behind it.
pub async fn in_use(bridge: Option<&str>) -> Vec<PreClaim> {
    let Some(bridge) = bridge else {
        return Vec::new();
    };
    let looked = async {
        let netlink = Netlink::current()?;
        let (found, ports) = on_bridge(&netlink, bridge).await?;
        netlink::Result::Ok((netlink, found, ports))
    };
    let (netlink, mut found, ports) = match looked.await {
        Ok(looked) => looked,
        Err(error) => {
            tracing::warn!(%error, "cannot look for addresses on bridge {bridge}");
            return Vec::new();
        }
    };
    if ports.is_empty() {
        return found;
    }
    let namespaces = match namespaces(Path::new("/proc")) {
        Ok(namespaces) => namespaces,
        Err(error) => {
            tracing::warn!(%error, "cannot look for addresses of containers");
            return found;
        }
    };
    for namespace in namespaces {
        match behind(&netlink, &namespace, &ports).await {
            Ok(addresses) => found.extend(claims(ANONYMOUS, &addresses)),
            // It has gone meanwhile, most likely.
            Err(error) => tracing::debug!(%error, "cannot look into a network namespace"),
        }
    }
    for claim in &found {
        tracing::info!(ident = claim.ident, cidr = %claim.cidr, "found an address in use");
    }
    found
}

/// The addresses of the bridge, if there is one, and its ports.
async fn on_bridge(netlink: &Netlink, name: &str) -> netlink::Result<(Vec<PreClaim>, Ports)> {
    let Some(bridge) = netlink.link(name).await? else {
        return Ok((Vec::new(), Ports::new()));
    };
    let addresses = netlink.addresses(name).await?;
    let links = netlink.links().await?.into_iter();
    let ports = links
        .filter(|link| link.master == Some(bridge.index) && link.kind == LinkKind::Veth)
        .map(|link| (link.index, (link.peer, link.peer_namespace)));
    Ok((claims(EXPOSE, &addresses), ports.collect()))
}

/// The network namespaces that processes are in, but for our own.
fn namespaces(proc: &Path) -> io::Result<Vec<File>> {
    let own = fs::metadata(proc.join("self/ns/net"))?;
    let mut seen = BTreeSet::from([(own.dev(), own.ino())]);
    let mut namespaces = Vec::new();
    for entry in fs::read_dir(proc)? {
        let name = entry?.file_name();
        let is_process = name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
        if !is_process {
            continue;
        }
        // Processes end, and threads of the kernel have none.
        let path = proc.join(name).join("ns/net");
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        if !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        if namespaces.len() >= MAX_NAMESPACES {
            tracing::warn!(
                "too many network namespaces; not all are searched for addresses in use"
            );
            break;
        }
        namespaces.extend(File::open(&path));
    }
    Ok(namespaces)
}

/// The addresses of devices in `namespace` whose other end is one of `ports`.
async fn behind(
    own: &Netlink,
    namespace: &File,
    ports: &Ports,
) -> netlink::Result<Vec<host::netlink::Cidr>> {
    // Indices alone are the same in many namespaces.
    let number = own.number_of(namespace.as_fd()).await?;
    if number.is_none() || !ports.values().any(|(_, of)| *of == number) {
        return Ok(Vec::new());
    }
    let netlink = Netlink::inside(namespace.as_fd())?;
    let links = netlink.links().await?.into_iter();
    let ours: BTreeSet<u32> = links
        .filter(|link| {
            let port = link.peer.and_then(|peer| ports.get(&peer));
            link.kind == LinkKind::Veth && port == Some(&(Some(link.index), number))
        })
        .map(|link| link.index)
        .collect();
    if ours.is_empty() {
        return Ok(Vec::new());
    }
    let addresses = netlink.all_addresses().await?.into_iter();
    let addresses = addresses.filter(|(index, _)| ours.contains(index));
    Ok(addresses.map(|(_, cidr)| cidr).collect())
}

fn claims(ident: &str, addresses: &[host::netlink::Cidr]) -> Vec<PreClaim> {
    let claims = addresses.iter().filter_map(|cidr| match cidr.address {
        IpAddr::V4(address) => Some(PreClaim {
            ident: ident.to_owned(),
            cidr: Cidr::new(address.into(), cidr.prefix_len),
            is_container: false,
        }),
        IpAddr::V6(_) => None,
    });
    claims.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_namespace_is_searched_once_and_ours_is_not() {
        // Every process here is in our own namespace, or in one of a few others.
        let found = namespaces(Path::new("/proc")).unwrap();
        let inode = |file: &File| file.metadata().unwrap().ino();
        let inodes: BTreeSet<u64> = found.iter().map(inode).collect();
        assert_eq!(inodes.len(), found.len());
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert!(!inodes.contains(&own));
    }

    #[test]
    fn only_ipv4_is_claimed() {
        let addresses = ["10.32.0.9/12", "fe80::1/64"].map(|text| text.parse().unwrap());
        let claims = claims("_", &addresses);
        let [claim] = &claims[..] else {
            panic!("{claims:?}")
        };
        assert_eq!(claim.cidr.to_string(), "10.32.0.9/12");
        assert!(!claim.is_container);
    }
}
