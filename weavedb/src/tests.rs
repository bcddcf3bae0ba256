use std::path::PathBuf;

use ipam::range::Cidr;
use serde_json::Value;

use super::bolt::PageLen;
use super::*;

fn vector(name: &str) -> Vec<u8> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors");
    std::fs::read(PathBuf::from(directory).join(name)).unwrap()
}

fn cidrs(owned: &Owned) -> Vec<String> {
    owned.cidrs.iter().map(Cidr::to_string).collect()
}

/// What a Weave Net 2.8.1 left behind which gave out six addresses, took two back, and was told of
/// one inside and one outside of its range.
#[test]
fn a_file_of_the_original() {
    let file = vector("weave-data.db");
    let state = State::decode(&file).unwrap();
    assert_eq!(state.name, Some("2::a".parse().unwrap()));
    assert_eq!(state.direct_peers, ["192.0.2.1", "192.0.2.7:6799"]);
    assert_eq!(state.oddity, None);
    assert_eq!(state.others, BTreeMap::new());
    let universe = state.ring.universe();
    assert_eq!(universe.as_subnet().unwrap().to_string(), "10.32.0.0/16");
    assert_eq!(state.ring.seeds(), ["2::a".parse().unwrap()]);
    let [entry] = state.ring.entries() else {
        panic!("{:?}", state.ring);
    };
    assert_eq!(
        (entry.token, entry.peer),
        (universe.start, "2::a".parse().unwrap())
    );
    assert_eq!(entry.free, 65536 - 6);
    let owned = |ident: &str| cidrs(&state.owned[ident]);
    assert_eq!(state.owned.len(), 7);
    assert_eq!(owned("weave:expose"), ["10.32.200.1/16"]);
    assert_eq!(owned("outside"), ["192.168.5.1/24"]);
    assert_eq!(owned("10.32.0.3"), ["10.32.0.3/16"]);
    let container = |number: u64| format!("{:064x}", number * 7919);
    for (number, address, is_container) in [
        (1, "10.32.0.1/16", false),
        (2, "10.32.0.2/16", true),
        (4, "10.32.0.4/16", true),
        (5, "10.32.0.5/16", false),
    ] {
        let owned = &state.owned[&container(number)];
        assert_eq!(cidrs(owned), [address]);
        assert_eq!(owned.is_container, is_container);
    }
    assert_eq!(
        State::decode(&state.encode(PageLen::USUAL).unwrap()),
        Ok(state)
    );
}

/// The same with 240 addresses, 80 of them taken back: a value of several pages.
#[test]
fn a_file_of_the_original_with_long_values() {
    let state = State::decode(&vector("weave-data-large.db")).unwrap();
    assert_eq!(state.owned.len(), 160 + 3);
    let mut all: Vec<_> = state
        .owned
        .values()
        .flat_map(|owned| &owned.cidrs)
        .collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 160 + 3);
    assert_eq!(
        State::decode(&state.encode(PageLen::USUAL).unwrap()),
        Ok(state)
    );
}

#[test]
fn recorded_values() {
    let vectors: Value = serde_json::from_slice(&vector("ipam-persist.json")).unwrap();
    let mut count = 0;
    for vector in vectors.as_array().unwrap() {
        let expected = &vector["expected"];
        let expected = expected.get("persisted_after").unwrap_or(expected);
        let mut values = BTreeMap::new();
        for key in [KEY_PEER_NAME, KEY_RING, KEY_OWNED] {
            let value = hex::decode(expected[key]["hex"].as_str().unwrap()).unwrap();
            values.insert(key.as_bytes().to_vec(), value);
        }
        let file = bolt::encode(PageLen::USUAL, 1, BUCKET, &values).unwrap();
        let state = State::decode(&file).unwrap();
        let name = expected[KEY_PEER_NAME]["decoded"].as_str().unwrap();
        assert_eq!(state.name.unwrap().to_string(), name);
        let owned = expected[KEY_OWNED]["decoded"].as_object();
        assert_eq!(state.owned.len(), owned.map_or(0, serde_json::Map::len));
        let again = state.encode(PageLen::USUAL).unwrap();
        assert_eq!(State::decode(&again), Ok(state));
        count += 1;
    }
    assert!(count >= 6, "{count}");
}

#[test]
fn what_is_unknown_is_carried_along() {
    let flag = (b"flag:peer-reclaim".to_vec(), b"\x05\x0c\0\x02ok".to_vec());
    let state = State {
        direct_peers: vec!["host".to_owned()],
        others: [flag].into(),
        transaction: 8,
        ..State::default()
    };
    let file = state.encode(PageLen::USUAL).unwrap();
    assert_eq!(State::decode(&file), Ok(state));
}

fn decode(values: &[(&str, Vec<u8>)]) -> Result<State, Error> {
    let values = values.iter();
    let values = values.map(|(key, value)| (key.as_bytes().to_vec(), value.clone()));
    State::decode(&bolt::encode(PageLen::USUAL, 1, BUCKET, &values.collect()).unwrap())
}

#[test]
fn files_that_cannot_be_used() {
    let text = |result: Result<State, Error>| result.unwrap_err().to_string();
    let other = bolt::encode(PageLen::USUAL, 1, b"other", &BTreeMap::new()).unwrap();
    assert_eq!(State::decode(&other), Err(Error::NotWeave));
    assert_eq!(decode(&[(KEY_VERSION, vec![2, 0])]), Err(Error::Version(2)));
    let told = text(decode(&[(KEY_RING, vec![1, 2, 3])]));
    assert!(
        told.starts_with("is damaged: its value \"ring\" cannot be read"),
        "{told}"
    );
    let universe: Cidr = "10.32.0.0/16".parse().unwrap();
    let ring = |tokens: &[u32]| {
        let entries = tokens.iter().map(|token| ipam::ring::Entry {
            token: universe.address.saturating_add(*token),
            peer: PeerName::UNKNOWN,
            version: 0,
            free: 0,
        });
        let ring = Ring::from_parts(universe.range(), entries.collect(), Vec::new());
        vec![(KEY_RING, encode_ring(PeerName::UNKNOWN, &ring))]
    };
    assert!(decode(&ring(&[0, 5])).is_ok());
    assert_eq!(decode(&ring(&[5, 0])), Err(Error::Ring(BadRing::NotSorted)));
    let empty = State {
        transaction: 1,
        ..State::default()
    };
    assert_eq!(decode(&[]), Ok(empty));
}
