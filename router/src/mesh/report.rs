//! The state of the control half, as plain data.

use std::time::Instant;

use super::Mesh;
use crate::status::{
    ConnectionState, ConnectionStatus, MeshStatus, PeerConnectionStatus, PeerStatus,
};

pub(super) fn status(mesh: &Mesh, now: Instant) -> MeshStatus {
    MeshStatus {
        protocol: (mesh.config.versions.min, mesh.config.versions.max),
        name: mesh.config.name,
        nickname: mesh.config.nickname.clone(),
        port: mesh.config.port,
        encryption: mesh.config.password.is_some(),
        discovery: mesh.config.discovery,
        conn_limit: mesh.config.conn_limit,
        trusted_subnets: mesh
            .config
            .trusted_subnets
            .iter()
            .map(ToString::to_string)
            .collect(),
        targets: mesh.targets(),
        connections: connections(mesh, now),
        peers: peers(mesh),
        unicast_routes: mesh.routes.unicast_routes().collect(),
        broadcast_routes: mesh
            .routes
            .broadcast_routes()
            .map(|(source, hops)| (source, hops.to_vec()))
            .collect(),
        terminations: mesh.terminations,
    }
}

/// Our connections, by name of the peer; then what is or will be dialled, by address.
fn connections(mesh: &Mesh, now: Instant) -> Vec<ConnectionStatus> {
    let live = mesh.by_peer.values().filter_map(|id| {
        let link = mesh.links.get(id)?;
        let met = link.met()?;
        Some(ConnectionStatus {
            outbound: link.outbound,
            address: link.remote.to_string(),
            state: if met.established {
                ConnectionState::Established
            } else {
                ConnectionState::Pending
            },
            peer: Some((met.peer, met.nickname.to_string())),
            error: None,
            retry_in: None,
            encrypted: mesh.config.password.is_some().then_some(met.sealed),
            link: None,
        })
    });
    let targets = mesh.connector.status(now).into_iter();
    let targets = targets.map(|target| ConnectionStatus {
        outbound: true,
        address: target.address,
        state: target.state,
        peer: None,
        error: target.error,
        retry_in: target.retry_in,
        encrypted: None,
        link: None,
    });
    live.chain(targets).collect()
}

fn peers(mesh: &Mesh) -> Vec<PeerStatus> {
    let connections = |peer: &crate::topology::Peer| {
        peer.connections
            .iter()
            .map(|connection| PeerConnectionStatus {
                name: connection.remote,
                nickname: mesh
                    .peers
                    .get(connection.remote)
                    .map(|remote| remote.nickname.to_string())
                    .unwrap_or_default(),
                address: connection.address.to_string(),
                outbound: connection.outbound,
                established: connection.established,
            })
            .collect()
    };
    mesh.peers
        .iter()
        .map(|peer| PeerStatus {
            name: peer.name,
            nickname: peer.nickname.to_string(),
            uid: peer.uid,
            short_id: peer.short_id,
            version: peer.version,
            connections: connections(peer),
        })
        .collect()
}
