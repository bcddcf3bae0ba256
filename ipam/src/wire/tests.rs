use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::persist::{
    Owned, decode_claims, decode_name, decode_owned, decode_ring, encode_claims, encode_name,
    encode_owned, encode_ring,
};
use super::*;
use crate::testing::{claims, list, peer, range, ring, vectors};

fn bytes(value: &Json) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn ring_copy(value: &Json) -> RingCopy {
    RingCopy {
        holder: peer(&value["peer"]),
        ring: ring(value),
    }
}

pub(crate) fn state(value: &Json) -> GossipState {
    let nicknames = value["nicknames"].as_object().unwrap().iter();
    let present = |key: &str| (!value[key].is_null()).then_some(&value[key]);
    GossipState {
        now: value["now"].as_i64().unwrap(),
        nicknames: nicknames
            .map(|(peer, name)| (peer.parse().unwrap(), name.as_str().unwrap().into()))
            .collect(),
        paxos: present("paxos").map(claims),
        ring: present("ring").map(ring_copy),
    }
}

pub(crate) fn unicast(value: &Json) -> Unicast {
    match value["kind"].as_str().unwrap() {
        "space-request" => Unicast::SpaceRequest(range(value)),
        "space-request-denied" => Unicast::SpaceRequestDenied(range(value)),
        "ring-update" => Unicast::RingUpdate(state(&value["state"])),
        other => panic!("{other}"),
    }
}

/// Whether the order of the pairs of its maps leaves only one way to write a state.
fn has_one_form(state: &GossipState) -> bool {
    state.nicknames.len() < 2 && state.paxos.as_ref().is_none_or(|claims| claims.len() < 2)
}

fn sorted(bytes: &[u8]) -> Vec<u8> {
    let mut sorted = bytes.to_vec();
    sorted.sort_unstable();
    sorted
}

/// Checks a state in both directions. Where `same_ids`, our bytes must be those recorded, but for
/// the order of the pairs of maps.
fn check_state(name: &str, payload: &[u8], expected: &GossipState, same_ids: bool) {
    assert_eq!(GossipState::decode(payload).unwrap(), *expected, "{name}");
    let encoded = expected.encode();
    assert_eq!(GossipState::decode(&encoded).unwrap(), *expected, "{name}");
    if same_ids && has_one_form(expected) {
        assert_eq!(hex::encode(&encoded), hex::encode(payload), "{name}");
    } else if same_ids {
        assert_eq!(encoded[..500], payload[..500], "{name}");
        assert_eq!(sorted(&encoded), sorted(payload), "{name}");
    }
}

#[test]
fn gossip_as_recorded() {
    let mut count = 0;
    for vector in vectors("ipam-gossip.json") {
        let name = vector["name"].as_str().unwrap();
        let same_ids = !name.starts_with("foreign");
        check_state(
            name,
            &bytes(&vector["hex"]),
            &state(&vector["expected"]),
            same_ids,
        );
        count += 1;
    }
    assert_eq!(count, 15);
}

#[test]
fn unicasts_as_recorded() {
    for vector in vectors("ipam-unicast.json") {
        let payload = bytes(&vector["hex"]);
        let expected = unicast(&vector["expected"]);
        assert_eq!(Unicast::decode(&payload).unwrap(), expected);
        assert_eq!(Unicast::decode(&expected.encode()).unwrap(), expected);
        // In the recorded requests the type has another id where it is the first of a process.
        let known = bytes(&Json::from("ffa1"));
        if payload.windows(2).any(|pair| pair == known) {
            assert_eq!(hex::encode(expected.encode()), hex::encode(&payload));
        }
    }
}

#[test]
fn payloads_of_running_routers() {
    let mut kinds = BTreeSet::new();
    for vector in vectors("ipam-captured.json") {
        let name = vector["name"].as_str().unwrap();
        let payload = bytes(&vector["hex"]);
        let kind = vector["inputs"]["kind"].as_str().unwrap();
        kinds.insert(kind.to_owned());
        if kind == "unicast" {
            let expected = unicast(&vector["expected"]);
            assert_eq!(Unicast::decode(&payload).unwrap(), expected, "{name}");
            assert_eq!(
                Unicast::decode(&expected.encode()).unwrap(),
                expected,
                "{name}"
            );
        } else {
            check_state(name, &payload, &state(&vector["expected"]), false);
        }
    }
    assert_eq!(kinds.len(), 3);
}

#[test]
fn tolerates_and_refuses_what_the_original_does() {
    for vector in vectors("ipam-gob-tolerance.json") {
        let name = vector["name"].as_str().unwrap();
        let decoded = GossipState::decode(&bytes(&vector["hex"]));
        if vector["expected"].get("error").is_some() {
            assert!(decoded.is_err(), "{name}: {decoded:?}");
        } else {
            assert_eq!(decoded.unwrap(), state(&vector["expected"]), "{name}");
        }
    }
}

#[test]
fn messages_of_whole_scenarios() {
    let mut count = 0;
    for scenario in vectors("ipam-scenarios.json") {
        for step in scenario["steps"].as_array().unwrap() {
            for message in step["messages"].as_array().unwrap() {
                let name = scenario["name"].as_str().unwrap();
                let payload = bytes(&message["hex"]);
                if message.get("to").is_some() {
                    let expected = unicast(&message["decoded"]);
                    assert_eq!(Unicast::decode(&payload).unwrap(), expected, "{name}");
                    assert_eq!(sorted(&expected.encode()), sorted(&payload), "{name}");
                } else {
                    check_state(name, &payload, &state(&message["decoded"]), true);
                }
                count += 1;
            }
        }
    }
    assert!(count > 50, "{count}");
}

fn owned(value: &Json) -> BTreeMap<String, Owned> {
    let all = value.as_object().unwrap().iter();
    all.map(|(ident, owned)| {
        let owned = Owned {
            is_container: owned["is_container"].as_bool().unwrap(),
            cidrs: list(&owned["cidrs"], |cidr| {
                cidr.as_str().unwrap().parse().unwrap()
            }),
        };
        (ident.clone(), owned)
    })
    .collect()
}

#[test]
fn database_values_as_recorded() {
    let mut count = 0;
    let mut check = |values: &Json| {
        let value = |key: &str| (bytes(&values[key]["hex"]), values[key]["decoded"].clone());
        let (name, expected) = value("peername");
        assert_eq!(decode_name(&name).unwrap(), peer(&expected));
        assert_eq!(encode_name(peer(&expected)), name);
        let (ring, expected) = value("ring");
        let expected = ring_copy(&expected);
        assert_eq!(decode_ring(&ring).unwrap(), expected);
        assert_eq!(encode_ring(expected.holder, &expected.ring), ring);
        let (addresses, expected) = value("ownedAddresses");
        let expected = owned(&expected);
        assert_eq!(decode_owned(&addresses).unwrap(), expected);
        let encoded = encode_owned(expected.iter());
        assert_eq!(sorted(&encoded), sorted(&addresses));
        assert_eq!(decode_owned(&encoded).unwrap(), expected);
        count += 1;
    };
    for vector in vectors("ipam-persist.json") {
        let expected = &vector["expected"];
        check(expected.get("persisted_after").unwrap_or(expected));
        if let Some(before) = vector["inputs"].get("persisted") {
            check(before);
        }
    }
    assert_eq!(count, 12);
}

#[test]
fn claims_stand_alone() {
    for vector in vectors("ipam-paxos.json") {
        let decoded = decode_claims(&bytes(&vector["hex"])).unwrap();
        assert!(!decoded.is_empty());
        assert_eq!(decode_claims(&encode_claims(&decoded)).unwrap(), decoded);
    }
}

#[test]
fn rings_made_by_operations() {
    for vector in vectors("ipam-ring-ops.json") {
        let payload = bytes(&vector["hex"]);
        if !payload.is_empty() {
            let expected = ring_copy(&vector["expected"]["ring"]);
            assert_eq!(decode_ring(&payload).unwrap(), expected);
            assert_eq!(encode_ring(expected.holder, &expected.ring), payload);
        }
    }
}

#[test]
fn messages_that_kill_others_are_merely_refused() {
    assert_eq!(Unicast::decode(&[]), Err(WireError::EmptyUnicast));
    assert_eq!(Unicast::decode(&[3, 1]), Err(WireError::UnknownKind(3)));
    assert!(matches!(Unicast::decode(&[0]), Err(WireError::Gob(_))));
    assert!(matches!(GossipState::decode(&[]), Err(WireError::Gob(_))));
}

#[test]
fn names_beyond_48_bits_are_refused() {
    let mut out = Encoder::new();
    out.uint(1 << 48);
    let name = out.finish();
    assert_eq!(decode_name(&name), Err(WireError::BadPeerName(1 << 48)));
}

#[test]
fn truncated_and_flipped_payloads_do_no_harm() {
    for vector in vectors("ipam-gossip.json") {
        let payload = bytes(&vector["hex"]);
        for len in 0..payload.len() {
            let _ = GossipState::decode(&payload[..len]);
        }
        for at in 0..payload.len() {
            for bit in [1, 0x10, 0x80] {
                let mut flipped = payload.clone();
                flipped[at] ^= bit;
                if let Ok(state) = GossipState::decode(&flipped) {
                    let _ = state.ring.map(|copy| copy.ring.check());
                }
            }
        }
    }
}
