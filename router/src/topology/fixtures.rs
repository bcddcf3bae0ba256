//! What the tests of this module share: golden bytes, and graphs to walk.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use proto::{PeerName, PeerUid, ShortId};
use serde_json::Value;

use super::{Connections, Peer, PeerConnection, Peers};

/// The vectors of one file of golden bytes.
pub(super) fn vectors(file: &str) -> Vec<Value> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors");
    let text = std::fs::read_to_string(format!("{directory}/{file}")).unwrap();
    let mut all: Value = serde_json::from_str(&text).unwrap();
    let Value::Array(vectors) = all["vectors"].take() else {
        panic!("{file} has no vectors");
    };
    assert!(!vectors.is_empty());
    vectors
}

pub(super) fn bytes(vector: &Value) -> Vec<u8> {
    hex::decode(vector.as_str().unwrap()).unwrap()
}

pub(super) fn name(text: &Value) -> PeerName {
    text.as_str().unwrap().parse().unwrap()
}

pub(super) fn names<C: FromIterator<PeerName>>(list: &Value) -> C {
    list.as_array().into_iter().flatten().map(name).collect()
}

pub(super) fn number(number: u64) -> PeerName {
    PeerName::from_u64(number).unwrap()
}

/// A record as the vectors describe it.
pub(super) fn record(peer: &Value) -> Peer {
    let connection = |connection: &Value| PeerConnection {
        remote: name(&connection["remote"]),
        address: connection["remote_tcp_addr"].as_str().unwrap().into(),
        outbound: connection["outbound"].as_bool().unwrap(),
        established: connection["established"].as_bool().unwrap(),
    };
    let short_id = u16::try_from(peer["short_id"].as_u64().unwrap()).unwrap();
    Peer {
        name: name(&peer["name"]),
        nickname: peer["nickname"].as_str().unwrap().into(),
        uid: PeerUid(peer["uid"].as_str().unwrap().parse().unwrap()),
        version: peer["version"].as_u64().unwrap(),
        short_id: peer["has_short_id"]
            .as_bool()
            .unwrap()
            .then_some(ShortId(short_id)),
        connections: peer["connections"]
            .as_array()
            .unwrap()
            .iter()
            .map(connection)
            .collect(),
    }
}

pub(super) fn records(list: &Value) -> Vec<Peer> {
    list.as_array().unwrap().iter().map(record).collect()
}

/// The same cases in every run, unless `PROPTEST_RNG_SEED` says otherwise.
pub(super) fn config() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config.failure_persistence = None;
    config
}

/// A directed link: `.0` lists `.1`, established or not.
pub(super) type Link = (u64, u64, bool);

/// Connections to these peers, each established or not.
pub(super) fn connections(list: impl IntoIterator<Item = (u64, bool)>) -> Connections {
    let connection = |(to, established)| PeerConnection {
        remote: number(to),
        address: "".into(),
        outbound: false,
        established,
    };
    list.into_iter().map(connection).collect()
}

/// What peer `ours` knows in a mesh of peers 1..=`count` with these links.
pub(super) fn mesh(count: u64, links: &[Link], ours: u64) -> Peers {
    let mut peers = Peers::new(number(ours), "", PeerUid(1), ShortId(0));
    for peer in 1..=count {
        let listed = links.iter().filter(|(from, ..)| *from == peer);
        let list = connections(listed.map(|&(_, to, established)| (to, established)));
        if peer == ours {
            peers.set_own(list);
        } else {
            peers.put(number(peer), list);
        }
    }
    peers
}

/// A graph of 1..=`max` peers whose links both ends list as established.
pub(super) fn symmetric(max: u64) -> impl Strategy<Value = (u64, Vec<Link>)> {
    graph(max, Just((true, true)))
}

/// A graph of 1..=`max` peers in which any end may lack a link or not have established it.
pub(super) fn ragged(max: u64) -> impl Strategy<Value = (u64, Vec<Link>)> {
    graph(max, any::<(bool, bool)>())
}

/// `end`: whether an end lists the link, and whether as established.
fn graph(
    max: u64,
    end: impl Strategy<Value = (bool, bool)> + Clone,
) -> impl Strategy<Value = (u64, Vec<Link>)> {
    (1..=max).prop_flat_map(move |count| {
        let pair = (1..=count, 1..=count, end.clone(), end.clone());
        let most = usize::try_from(count * 3).unwrap();
        let pairs = proptest::collection::vec(pair, 0..=most);
        pairs.prop_map(move |pairs| {
            let both = |(a, b, one, other): (u64, u64, (bool, bool), (bool, bool))| {
                let forth = one.0.then_some((a, b, one.1));
                let back = other.0.then_some((b, a, other.1));
                forth.into_iter().chain(back)
            };
            (count, pairs.into_iter().flat_map(both).collect())
        })
    })
}
