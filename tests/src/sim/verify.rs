//! What every peer believes, compared with what is true.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use proto::PeerName;
use router::mesh::Mesh;

use super::{World, name};

/// A connection as one end must list it: remote address, and whether it dialled.
type Listed = (SocketAddr, bool);

/// One round of periodic gossip.
const GOSSIP_SECONDS: usize = 30;

/// What a run has cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Peers that are up.
    pub peers: usize,
    /// Connections between them.
    pub connections: usize,
    /// Virtual time from the last disturbance until no peer had anything new to tell.
    pub took: Duration,
    /// Most connections of one peer.
    pub degree: usize,
    /// Longest unicast route, in hops.
    pub diameter: usize,
    /// Bytes sent on all connections.
    pub bytes: u64,
    /// Messages per peer and second: mean over the whole run.
    pub mean: f64,
    /// The busiest second of any peer.
    pub peak: u32,
    /// The same at rest, over the last round of gossip.
    pub rest_mean: f64,
    /// See `rest_mean`.
    pub rest_peak: u32,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} peers, {} connections, up to {} of one peer, up to {} hops, at rest after {:?}; \
             {:.1} MB sent; messages per peer and second: mean {:.2}, peak {}; in the last {} s: \
             mean {:.2}, peak {}",
            self.peers,
            self.connections,
            self.degree,
            self.diameter,
            self.took,
            self.bytes as f64 / 1e6,
            self.mean,
            self.peak,
            GOSSIP_SECONDS,
            self.rest_mean,
            self.rest_peak,
        )
    }
}

impl World {
    /// Compares, at rest, all peers with the truth: each knows exactly the peers that can be reached
    /// and their connections, and routes lead to all of them, without loops and without doubles.
    pub fn verify(&self) -> Result<Summary, String> {
        let truth = self.truth()?;
        let up: Vec<(usize, &Mesh)> = (0..self.host_count())
            .filter_map(|host| Some((host, self.mesh(host)?)))
            .collect();
        for &(host, mesh) in &up {
            self.verify_records(host, mesh, &truth)?;
        }
        let mut diameter = 0;
        for &(host, _) in &up {
            diameter = diameter.max(self.verify_unicast(host, &truth)?);
            self.verify_flood(host, &truth)?;
        }
        let seconds = self.elapsed().as_secs();
        let seconds = usize::try_from(seconds).map_err(|_| "endless run")?.max(1);
        let per_second = |from: usize| {
            let counts = self
                .hosts
                .iter()
                .flat_map(|host| host.sent.iter().skip(from).take(seconds - from));
            let total: u64 = counts.clone().map(|&count| u64::from(count)).sum();
            let hosts = self.hosts.len() * (seconds - from);
            (
                total as f64 / hosts as f64,
                counts.max().copied().unwrap_or(0),
            )
        };
        let (mean, peak) = per_second(0);
        let (rest_mean, rest_peak) = per_second(seconds.saturating_sub(GOSSIP_SECONDS));
        Ok(Summary {
            peers: up.len(),
            took: Duration::ZERO,
            connections: truth.values().map(BTreeMap::len).sum::<usize>() / 2,
            degree: truth.values().map(BTreeMap::len).max().unwrap_or(0),
            diameter,
            bytes: self.bytes,
            mean,
            peak,
            rest_mean,
            rest_peak,
        })
    }

    /// The connections of every host that is up.
    fn truth(&self) -> Result<BTreeMap<PeerName, BTreeMap<PeerName, Listed>>, String> {
        let mut truth: BTreeMap<_, BTreeMap<_, _>> = (0..self.host_count())
            .filter(|&host| self.mesh(host).is_some())
            .map(|host| (name(host), BTreeMap::new()))
            .collect();
        for pipe in self.pipes.values() {
            let ends = &pipe.ends;
            if !ends.iter().all(|end| end.link.is_some() && end.established) {
                continue;
            }
            for (side, end) in ends.iter().enumerate() {
                let far = name(ends[1 - side].host);
                let listed = (end.remote, side == 0);
                let list = truth.entry(name(end.host)).or_default();
                if list.insert(far, listed).is_some() {
                    return Err(format!("{} has two connections to {far}", name(end.host)));
                }
            }
        }
        Ok(truth)
    }

    fn verify_records(
        &self,
        host: usize,
        mesh: &Mesh,
        truth: &BTreeMap<PeerName, BTreeMap<PeerName, Listed>>,
    ) -> Result<(), String> {
        let us = name(host);
        let mut reached = BTreeSet::from([us]);
        let mut edge = vec![us];
        while let Some(peer) = edge.pop() {
            for &next in truth[&peer].keys() {
                if reached.insert(next) {
                    edge.push(next);
                }
            }
        }
        let known: BTreeSet<PeerName> = mesh.peers().names();
        if known != reached {
            let missing: Vec<_> = reached.difference(&known).collect();
            let surplus: Vec<_> = known.difference(&reached).collect();
            return Err(format!(
                "{us} does not know {missing:?}, but does know {surplus:?}"
            ));
        }
        for peer in mesh.peers().iter() {
            let listed: BTreeMap<PeerName, Listed> = peer
                .connections
                .iter()
                .map(|connection| {
                    let address = connection.address.socket_addr();
                    let address = address.ok_or_else(|| "bad address".to_owned())?;
                    if !connection.established {
                        return Err(format!(
                            "{us} believes {} is not established with {}",
                            peer.name, connection.remote
                        ));
                    }
                    Ok((connection.remote, (address, connection.outbound)))
                })
                .collect::<Result<_, String>>()?;
            if listed != truth[&peer.name] {
                return Err(format!(
                    "{us} believes {} has {listed:?}, which has {:?}",
                    peer.name, truth[&peer.name]
                ));
            }
            let own = self
                .by_name(peer.name)
                .ok_or_else(|| format!("{us} knows {}, which is down", peer.name))?;
            let own = own.peers().ours();
            if (own.uid, own.version, own.short_id) != (peer.uid, peer.version, peer.short_id)
                || own.nickname != peer.nickname
            {
                return Err(format!("{us} has an old record of {}", peer.name));
            }
        }
        let short_ids: BTreeSet<_> = mesh.peers().iter().map(|peer| peer.short_id).collect();
        if short_ids.len() != known.len() {
            return Err(format!("{us} knows two peers with one short id"));
        }
        Ok(())
    }

    fn by_name(&self, peer: PeerName) -> Option<&Mesh> {
        let [_, _, _, _, high, low] = peer.to_bytes();
        self.mesh(usize::from(u16::from_be_bytes([high, low])))
    }

    /// Walks from `host` to every peer that it can reach, along everybody's routes.
    fn verify_unicast(
        &self,
        host: usize,
        truth: &BTreeMap<PeerName, BTreeMap<PeerName, Listed>>,
    ) -> Result<usize, String> {
        let us = name(host);
        let ours = self.mesh(host).ok_or("host is down")?;
        let mut longest = 0;
        for peer in ours.peers().iter() {
            for all in [false, true] {
                let mut at = us;
                let mut hops = 0;
                while at != peer.name {
                    let mesh = self.by_name(at).ok_or("route over a host that is down")?;
                    let routes = mesh.routes();
                    let next = if all {
                        routes.unicast_all(peer.name)
                    } else {
                        routes.unicast(peer.name)
                    };
                    at = next.ok_or_else(|| format!("{at} has no route to {}", peer.name))?;
                    hops += 1;
                    if hops > truth.len() {
                        return Err(format!("the route from {us} to {} circles", peer.name));
                    }
                }
                longest = longest.max(hops);
            }
        }
        Ok(longest)
    }

    /// Floods from `host` along everybody's broadcast trees: each peer must get one copy.
    fn verify_flood(
        &self,
        host: usize,
        truth: &BTreeMap<PeerName, BTreeMap<PeerName, Listed>>,
    ) -> Result<(), String> {
        let us = name(host);
        let known = self.mesh(host).ok_or("host is down")?.peers().names();
        for all in [false, true] {
            let mut got = BTreeSet::from([us]);
            let mut edge = vec![us];
            while let Some(at) = edge.pop() {
                let routes = self
                    .by_name(at)
                    .ok_or("flood to a host that is down")?
                    .routes();
                let hops = if all {
                    routes.broadcast_all(us)
                } else {
                    routes.broadcast(us)
                };
                for &hop in hops {
                    if !truth[&at].contains_key(&hop) {
                        return Err(format!("{at} floods to {hop} without a connection"));
                    }
                    if !got.insert(hop) {
                        return Err(format!("{hop} gets two copies of a flood from {us}"));
                    }
                    edge.push(hop);
                }
            }
            if got != known {
                return Err(format!(
                    "a flood from {us} reaches {} of {} peers",
                    got.len(),
                    known.len()
                ));
            }
        }
        Ok(())
    }
}
