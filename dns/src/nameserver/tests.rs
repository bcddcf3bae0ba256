//! Against the golden bytes, and random histories against each other.

use proptest::prelude::*;
use proto::gossip::GossipData;
use serde_json::Value;

use super::*;

fn vectors(json: &str) -> Vec<Value> {
    serde_json::from_str(json).unwrap()
}

fn gossip_vectors() -> Vec<Value> {
    vectors(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/vectors/dns-gossip.json"
    )))
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value, "hex")).unwrap()
}

fn entry(value: &Value) -> Entry {
    Entry {
        key: Key {
            hostname: text(value, "hostname").to_owned(),
            origin: text(value, "origin").parse().unwrap(),
            container: text(value, "container_id").to_owned(),
            addr: text(value, "addr").parse().unwrap(),
        },
        mark: Mark {
            version: value["version"].as_i64().unwrap(),
            tombstone: value["tombstone"].as_i64().unwrap(),
        },
    }
}

fn entries(list: &Value) -> Vec<Entry> {
    list.as_array().into_iter().flatten().map(entry).collect()
}

fn update(value: &Value) -> Update {
    Update::new(
        value["timestamp"].as_i64().unwrap(),
        entries(&value["entries"]),
    )
}

fn table_of(nameserver: &Nameserver) -> Vec<Entry> {
    nameserver.full_state(0).entries().collect()
}

#[test]
fn payloads_decode_to_their_meaning_and_encode_to_the_same_bytes() {
    for vector in gossip_vectors() {
        let name = text(&vector, "name");
        let decoded = Update::decode(&bytes(&vector));
        if vector["expected"]["error"].is_string() {
            assert!(decoded.is_err(), "{name}");
            continue;
        }
        let decoded = decoded.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(decoded, update(&vector["expected"]), "{name}");
        if vector["inputs"]["timestamp"].is_i64() {
            assert_eq!(
                hex::encode(decoded.encode()),
                text(&vector, "hex"),
                "{name}"
            );
        }
    }
}

#[test]
fn payloads_of_running_routers_decode_to_their_meaning() {
    let captured = vectors(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/vectors/dns-captured.json"
    )));
    for vector in captured {
        let decoded = Update::decode(&bytes(&vector)).unwrap();
        assert_eq!(decoded, update(&vector["expected"]), "{}", vector["name"]);
        assert_eq!(Update::decode(&decoded.encode()).unwrap(), decoded);
    }
}

#[test]
fn tables_merge_as_the_original_where_it_survives() {
    let merges = vectors(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/vectors/dns-merge.json"
    )));
    let mut compared = 0;
    for vector in merges {
        let (name, expected) = (text(&vector, "name"), &vector["expected"]);
        if expected["result"].is_array() && expected["panic"] == "" {
            let mut table = Table::default();
            for entry in entries(&vector["inputs"]["mine"]) {
                table.merge(entry);
            }
            let delta: Vec<_> = entries(&vector["inputs"]["theirs"])
                .into_iter()
                .filter(|entry| table.merge(entry.clone()))
                .collect();
            let result: Vec<_> = table
                .iter()
                .map(|(key, mark)| Entry {
                    key: key.clone(),
                    mark,
                })
                .collect();
            assert_eq!(delta, entries(&expected["delta"]), "{name}");
            assert_eq!(result, entries(&expected["result"]), "{name}");
            compared += 1;
        } else if vector["inputs"]["first"].is_object() {
            let mut pending = update(&vector["inputs"]["first"]);
            pending.merge(Box::new(update(&vector["inputs"]["second"])));
            assert_eq!(pending, update(expected), "{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 12, "the others show how the original ends");
}

#[test]
fn what_ends_the_original_is_repaired_here() {
    let ours: PeerName = "::a".parse().unwrap();
    let mut nameserver = Nameserver::new(ours, "weave.local".parse().unwrap());
    let addr = IpAddr::from([10, 32, 0, 1]);
    // Two spellings of one own entry stay one.
    for spelling in [
        "Foo.weave.local.",
        "foo.weave.local.",
        "Foo.weave.local",
        "FOO.weave.local.",
    ] {
        nameserver.add(spelling, "c1", addr, 5).unwrap().unwrap();
    }
    assert_eq!(table_of(&nameserver).len(), 1);
    assert_eq!(table_of(&nameserver)[0].key.hostname, "Foo.weave.local.");

    // Duplicates and variants from others are taken, but never sent on as such.
    let foreign = |hostname: &str, version| Entry {
        key: Key {
            hostname: hostname.to_owned(),
            origin: "::b".parse().unwrap(),
            container: "c2".to_owned(),
            addr,
        },
        mark: Mark {
            version,
            tombstone: 0,
        },
    };
    let update = Update::new(
        5,
        [
            foreign("a.", 0),
            foreign("Web.", 1),
            foreign("web.", 2),
            foreign("web.", 3),
        ],
    );
    let sent = Update::decode(&update.encode()).unwrap();
    assert_eq!(
        sent.entries().collect::<Vec<_>>(),
        [foreign("a.", 0), foreign("web.", 3)]
    );
}

/// Plays the recorded histories of single name servers step by step.
#[test]
fn histories_go_as_recorded() {
    let sequences = vectors(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/vectors/dns-sequences.json"
    )));
    for sequence in sequences {
        let Some(steps) = sequence["expected"].as_array() else {
            continue;
        };
        let inputs = &sequence["inputs"];
        let known: Vec<PeerName> = inputs["known_peers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().parse().unwrap())
            .collect();
        let mut nameserver = Nameserver::new(
            text(inputs, "our_name").parse().unwrap(),
            text(inputs, "domain").parse().unwrap(),
        );
        for (index, step) in steps.iter().enumerate() {
            let at = format!(
                "{} step {index}: {}",
                sequence["name"], step["action"]["op"]
            );
            let broadcasts = play(&mut nameserver, step, &known, &at);
            let expected: Vec<Update> = step["broadcasts"]
                .as_array()
                .unwrap()
                .iter()
                .map(|broadcast| {
                    assert_eq!(
                        Update::decode(&bytes(broadcast)).unwrap(),
                        update(&broadcast["decoded"])
                    );
                    update(&broadcast["decoded"])
                })
                .collect();
            assert_eq!(broadcasts, expected, "{at}");
            assert_eq!(
                table_of(&nameserver),
                entries(&step["entries_after"]),
                "{at}"
            );
        }
    }
}

fn play(nameserver: &mut Nameserver, step: &Value, known: &[PeerName], at: &str) -> Vec<Update> {
    let (action, result) = (&step["action"], &step["result"]);
    let now = step["clock"].as_i64().unwrap();
    let one = |key: &str| match action[key].as_str() {
        None | Some("*") => None,
        Some(one) => Some(one),
    };
    let addr = one("ip").map(|addr| addr.parse::<IpAddr>().unwrap());
    match text(action, "op") {
        "add" => {
            // An empty name is told apart from one outside the domain; the original ignores both.
            let added = nameserver.add(
                text(action, "fqdn"),
                text(action, "container"),
                addr.unwrap(),
                now,
            );
            assert_eq!(added.is_err(), action["fqdn"] == "", "{at}");
            added.ok().flatten().into_iter().collect()
        }
        "delete" => {
            let which = Selection {
                hostname: one("hostname"),
                container: one("container"),
                addr,
            };
            nameserver.delete(&which, now).into_iter().collect()
        }
        "container-died" => {
            let which = Selection {
                container: one("container"),
                ..Selection::default()
            };
            nameserver.delete(&which, now).into_iter().collect()
        }
        "container-started" | "container-destroyed" => Vec::new(),
        "peer-gone" => {
            nameserver.forget_peer(text(action, "peer").parse().unwrap());
            Vec::new()
        }
        "lookup" => {
            let found: Vec<_> = nameserver
                .table()
                .named(text(action, "hostname"))
                .map(|key| key.addr.to_string())
                .collect();
            assert_eq!(serde_json::json!(found), *result, "{at}");
            Vec::new()
        }
        "reverse-lookup" => {
            let found = nameserver.table().name_of(addr.unwrap());
            assert_eq!(
                found.unwrap_or("ERROR Not found"),
                result.as_str().unwrap(),
                "{at}"
            );
            Vec::new()
        }
        "gossip-encode" => {
            let state = nameserver.full_state(now);
            assert_eq!(state, update(&result["decoded"]), "{at}");
            assert_eq!(hex::encode(state.encode()), text(result, "hex"), "{at}");
            Vec::new()
        }
        "receive-gossip-garbage" => {
            assert!(
                nameserver.on_gossip(&bytes(action), now, |_| true).is_err(),
                "{at}"
            );
            Vec::new()
        }
        op @ ("receive-gossip" | "receive-broadcast") => {
            let is_known = |peer| known.contains(&peer);
            let received = if op == "receive-gossip" {
                nameserver.on_gossip(&bytes(action), now, is_known)
            } else {
                nameserver.on_broadcast(&bytes(action), now, is_known)
            }
            .unwrap();
            assert_eq!(received.refused, result["error"].is_string(), "{at}");
            let expected = result["propagate"]
                .is_object()
                .then(|| update(&result["propagate"]));
            assert_eq!(received.pass_on, expected, "{at}");
            received.corrected.into_iter().collect()
        }
        other => panic!("{at}: unknown action {other}"),
    }
}

#[test]
fn tombstones_live_half_an_hour() {
    let mut nameserver = Nameserver::new("::a".parse().unwrap(), "weave.local.".parse().unwrap());
    nameserver
        .add("a.weave.local", "c", [10, 0, 0, 1].into(), 100)
        .unwrap();
    nameserver.delete(&Selection::default(), 100).unwrap();
    assert_eq!(nameserver.collect(100 + TOMBSTONE_LIFE), 0);
    assert_eq!(nameserver.collect(101 + TOMBSTONE_LIFE), 1);
    assert_eq!(nameserver.table().len(), 0);
}

#[test]
fn a_former_life_goes_on() {
    let ours: PeerName = "::a".parse().unwrap();
    let mut nameserver = Nameserver::new(ours, "weave.local.".parse().unwrap());
    let entry = |host: &str, origin: &str, version, tombstone| Entry {
        key: Key {
            hostname: host.to_owned(),
            origin: origin.parse().unwrap(),
            container: "c".to_owned(),
            addr: [10, 0, 0, 1].into(),
        },
        mark: Mark { version, tombstone },
    };
    let former = entry("a.weave.local.", "::a", 4, 0);
    nameserver.restore([
        former.clone(),
        entry("A.weave.local.", "::a", 9, 0),
        entry("b.weave.local.", "::b", 0, 0),
        entry("c.weave.local.", "::a", 1, 5),
        entry("d.example.com.", "::a", 0, 0),
    ]);
    assert_eq!(table_of(&nameserver), [former]);
    // Others know it at the same version: no news.
    let payload = Update::new(9, table_of(&nameserver)).encode();
    let received = nameserver.on_gossip(&payload, 9, |_| true).unwrap();
    assert!(received.pass_on.is_none() && received.corrected.is_none());
}

#[test]
fn skewed_clocks_are_told_of_and_tolerated() {
    let origin: PeerName = "::b".parse().unwrap();
    let entry = |host: &str, tombstone| Entry {
        key: Key {
            hostname: format!("{host}.weave.local."),
            origin,
            container: "c".to_owned(),
            addr: [10, 0, 0, 1].into(),
        },
        mark: Mark {
            version: i64::from(tombstone != 0),
            tombstone,
        },
    };
    for offset in [MAX_CLOCK_SKEW + 1, -MAX_CLOCK_SKEW - 1, i64::MIN] {
        let now = 2_000_000;
        let sent_at = offset.saturating_add(now);
        let payload = Update::new(sent_at, [entry("a", 0), entry("b", 1_999_000)]).encode();
        let ours = "::a".parse().unwrap();
        let domain: Domain = "weave.local.".parse().unwrap();

        let mut strict = Nameserver::new(ours, domain.clone());
        let received = strict.on_broadcast(&payload, now, |_| true).unwrap();
        assert!(received.refused && received.pass_on.is_none());
        assert_eq!(strict.table().len(), 0);

        let mut tolerant = Nameserver::new(ours, domain).tolerating_skew();
        let received = tolerant.on_broadcast(&payload, now, |_| true).unwrap();
        assert!(!received.refused);
        assert_eq!(received.offset, sent_at.saturating_sub(now));
        assert_eq!(received.pass_on.unwrap().timestamp, now);
        assert_eq!(tolerant.table().len(), 2);
        assert_eq!(tolerant.table().live_count(), 1);
    }
}

#[test]
fn domains_match_by_labels() {
    let domain: Domain = "Weave.local".parse().unwrap();
    for inside in ["weave.local.", "a.weave.LOCAL.", "a.b.weave.local."] {
        assert!(domain.contains(inside), "{inside}");
    }
    for outside in [
        "local.",
        "xweave.local.",
        "weave.local",
        "a.weave.local.com.",
        "",
    ] {
        assert!(!domain.contains(outside), "{outside}");
    }
    for bad in ["", ".", "a..b", &"x".repeat(64)] {
        assert!(bad.parse::<Domain>().is_err(), "{bad}");
    }
}

fn any_entry() -> impl Strategy<Value = Entry> {
    (0..3u8, 1..3u64, 0..2u8, 1..3u8, 0..4i64, 0..3i64).prop_map(
        |(host, origin, container, addr, version, tombstone)| Entry {
            key: Key {
                hostname: ["a.", "A.", "b."][usize::from(host)].to_owned(),
                origin: PeerName::from_u64(origin).unwrap(),
                container: format!("c{container}"),
                addr: [10, 0, 0, addr].into(),
            },
            mark: Mark { version, tombstone },
        },
    )
}

proptest! {
    /// The order in which entries arrive, and how often, does not matter.
    #[test]
    fn merging_commutes_and_is_idempotent(
        list in prop::collection::vec(any_entry(), 0..40),
        seed in any::<u64>(),
    ) {
        let table = |list: &[Entry]| {
            let mut table = Table::default();
            for entry in list {
                table.merge(entry.clone());
            }
            let all: Vec<_> = table.iter().map(|(key, mark)| (key.clone(), mark)).collect();
            (all, table)
        };
        let mut shuffled = list.clone();
        for index in (1..shuffled.len()).rev() {
            let other = usize::try_from(seed.rotate_left(u32::try_from(index).unwrap()) % (index as u64 + 1)).unwrap();
            shuffled.swap(index, other);
        }
        shuffled.extend(list.iter().cloned());
        let (straight, table_a) = table(&list);
        let (mixed, table_b) = table(&shuffled);
        prop_assert_eq!(&straight, &mixed);
        // The indexes agree with the table.
        for name in ["a.", "b."] {
            let expected = straight
                .iter()
                .filter(|(key, mark)| mark.is_live() && key.hostname.eq_ignore_ascii_case(name))
                .count();
            prop_assert_eq!(table_a.named(name).count(), expected);
            prop_assert_eq!(table_b.knows(name), expected > 0);
        }
        prop_assert_eq!(table_a.live_count(), straight.iter().filter(|(_, mark)| mark.is_live()).count());
    }

    #[test]
    fn garbage_is_refused_without_panic(payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Update::decode(&payload);
    }

    #[test]
    fn damaged_payloads_never_panic(index in any::<prop::sample::Index>(), byte in any::<u8>(), which in any::<prop::sample::Index>()) {
        let vectors = gossip_vectors();
        let mut payload = bytes(which.get(&vectors));
        let at = index.index(payload.len());
        payload[at] = byte;
        let _ = Update::decode(&payload);
    }
}
