use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::topology::fixtures::{self, bytes, config, vectors};
use crate::topology::record::RemoteAddress;

fn decode(payload: &[u8]) -> Result<Vec<Peer>, UpdateError> {
    let update = Update::decode(payload)?;
    assert_eq!(update.ignored, 0);
    Ok(update
        .peers
        .iter()
        .map(|news| update.record(news))
        .collect())
}

fn encode(peers: &[Peer]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    for peer in peers {
        encoder.push(peer);
    }
    encoder.finish()
}

/// `short_id` of the vectors without `has_short_id` is 0 and means nothing.
fn expected(vector: &Value) -> Vec<Peer> {
    fixtures::records(&vector["meaning"]["peers_in_order"])
}

#[test]
fn golden_updates() {
    let (mut accepted, mut refused) = (0, 0);
    for vector in vectors("topology_updates.json") {
        let name = vector["name"].as_str().unwrap();
        let payload = bytes(&vector["hex"]);
        if vector["meaning"]["accepted"] == Value::Bool(false) {
            assert!(decode(&payload).is_err(), "{name}");
            refused += 1;
            continue;
        }
        let peers = expected(&vector);
        assert_eq!(decode(&payload).as_ref(), Ok(&peers), "{name}");
        assert_eq!(decode(&encode(&peers)), Ok(peers), "{name}, encoded by us");
        accepted += 1;
    }
    assert_eq!((accepted, refused), (18, 2));
}

#[test]
fn our_descriptors_are_the_minimal_ones() {
    let vectors = vectors("topology_updates.json");
    let minimal = vectors.iter().find(|vector| {
        let name = vector["name"].as_str().unwrap();
        name.starts_with("minimal anonymous descriptors")
    });
    let minimal = minimal.unwrap();
    assert_eq!(
        hex::encode(encode(&expected(minimal))),
        minimal["hex"].as_str().unwrap()
    );
    assert!(encode(&[]).is_empty());
}

#[test]
fn recorded_gossip() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors");
    let text = std::fs::read_to_string(format!("{directory}/session-relay.json")).unwrap();
    let session: Value = serde_json::from_str(&text).unwrap();
    let mut seen = 0;
    for event in session["events"].as_array().unwrap() {
        let topology = &event["meaning"]["topology"];
        if topology.is_null() {
            continue;
        }
        let message = bytes(&event["hex"]);
        let payload_len = event["meaning"]["payload_bytes"].as_u64().unwrap();
        let start = message.len() - usize::try_from(payload_len).unwrap();
        assert_eq!(decode(&message[start..]), Ok(fixtures::records(topology)));
        seen += 1;
    }
    assert!(seen >= 10, "{seen}");
}

#[test]
fn names_of_unusual_length() {
    let mut seen = 0;
    for vector in vectors("peer_names.json") {
        if vector["inputs"]["op"] != "from_binary" {
            continue;
        }
        let number: u64 = vector["meaning"]["u64"].as_str().unwrap().parse().unwrap();
        let bytes = bytes(&vector["inputs"]["bytes"]);
        // The original keeps 64 bits, of which it prints 48.
        assert_eq!(
            name_from_bytes(&bytes),
            PeerName::from_u64(number),
            "{vector}"
        );
        seen += 1;
    }
    assert_eq!(seen, 6);
    let short = name_from_bytes(&[0, 0, 0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(short, Some(PeerName::from_bytes([1, 2, 3, 4, 5, 6])));
}

/// A payload of one peer, its name and one connection written as these bytes.
fn odd(name: &[u8], remote: &[u8], address: &[u8]) -> Vec<u8> {
    let text = ("RemoteTCPAddr", TypeId::STRING);
    let mut stream = gob::Encoder::new();
    stream
        .define_struct(PEER, "", &[("NameByte", TypeId::BYTES)])
        .struct_value(PEER, |fields| {
            fields.bytes(name);
        })
        .define_slice(LIST, "", CONNECTION)
        .define_struct(CONNECTION, "", &[("NameByte", TypeId::BYTES), text])
        .value(LIST, |out| {
            put_uint(out, 1);
            StructWriter::write(out, |fields| {
                fields.bytes(remote).bytes(address);
            });
        });
    stream.finish()
}

#[test]
fn what_we_cannot_hold_is_left_out() {
    let count = |payload: &[u8]| {
        let update = Update::decode(payload).unwrap();
        (update.peers.len(), update.far_ends().len(), update.ignored)
    };
    assert_eq!(count(&odd(&[1], &[2], b"a")), (1, 1, 0));
    assert_eq!(count(&odd(&[1; 7], &[2], b"a")), (0, 0, 1));
    assert_eq!(count(&odd(&[1], &[2; 7], b"a")), (1, 0, 1));
    assert_eq!(
        count(&odd(&[1], &[2], &[b'a'; MAX_TOPOLOGY_TEXT_LEN])),
        (1, 1, 0)
    );
    assert_eq!(
        count(&odd(&[1], &[2], &[b'a'; MAX_TOPOLOGY_TEXT_LEN + 1])),
        (0, 0, 1)
    );
}

#[test]
fn every_cut_is_refused_or_drops_whole_peers() {
    for vector in vectors("topology_updates.json") {
        let payload = bytes(&vector["hex"]);
        let Ok(all) = decode(&payload) else { continue };
        for len in 0..payload.len() {
            if let Ok(some) = decode(&payload[..len]) {
                assert_eq!(some, all[..some.len()]);
            }
        }
    }
}

fn arbitrary_peer() -> impl Strategy<Value = Peer> {
    let address = prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| RemoteAddress::from(std::net::SocketAddr::from((ip, 6783)))),
        proptest::collection::vec(any::<u8>(), 0..30).prop_map(|bytes| (&bytes[..]).into()),
    ];
    let name = any::<[u8; 6]>().prop_map(PeerName::from_bytes);
    let connection = (name.clone(), address, any::<bool>(), any::<bool>()).prop_map(
        |(remote, address, outbound, established)| PeerConnection {
            remote,
            address,
            outbound,
            established,
        },
    );
    let connections = proptest::collection::vec(connection, 0..5);
    let nickname = proptest::collection::vec(any::<u8>(), 0..20);
    let rest = (any::<u64>(), any::<u64>(), any::<Option<u16>>());
    (name, nickname, connections, rest).prop_map(|(name, nickname, connections, rest)| Peer {
        name,
        nickname: nickname.into(),
        uid: PeerUid(rest.0),
        version: rest.1,
        short_id: rest.2.map(ShortId),
        connections: connections.into_iter().collect(),
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_encoded_is_decoded(peers in proptest::collection::vec(arbitrary_peer(), 0..5)) {
        prop_assert_eq!(decode(&encode(&peers)), Ok(peers));
    }

    #[test]
    fn no_bytes_do_harm(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        at in 0..400_usize,
    ) {
        let _ = Update::decode(&bytes);
        let mut payload = encode(&[Peer::placeholder(PeerName::UNKNOWN)]);
        payload.splice(at.min(payload.len()).., bytes);
        let _ = Update::decode(&payload);
    }
}
