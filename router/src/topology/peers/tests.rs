use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;

use super::*;
use crate::topology::fixtures::{
    bytes, config, connections, names, number, record, records, vectors,
};

fn rng() -> StdRng {
    StdRng::seed_from_u64(42)
}

fn all(peers: &Peers) -> Vec<Peer> {
    peers.iter().cloned().collect()
}

/// The state in which the golden scenarios begin: ours, and neighbours known from the handshake.
fn initial(inputs: &Value) -> Peers {
    let state = records(&inputs["initial_state"]);
    let ours = inputs["ourself"].as_str().unwrap().parse().unwrap();
    let own = state.iter().find(|peer| peer.name == ours).unwrap();
    let short_id = own.short_id.unwrap();
    let mut peers = Peers::new(ours, own.nickname.as_bytes(), own.uid, short_id);
    peers.ours.version = own.version;
    peers.ours.connections = own.connections.clone();
    for peer in state.iter().filter(|peer| peer.name != ours) {
        let nickname = peer.nickname.as_bytes();
        let introduced = peers.introduce(
            peer.name,
            peer.uid,
            nickname,
            peer.short_id,
            true,
            &mut rng(),
        );
        assert!(introduced.unwrap().created);
    }
    assert_eq!(all(&peers), state);
    peers
}

#[test]
fn golden_merges() {
    for vector in vectors("topology_merge.json") {
        let scenario = vector["name"].as_str().unwrap();
        let mut peers = initial(&vector["inputs"]);
        let steps = vector["hex"].as_array().unwrap().iter();
        for (payload, step) in steps.zip(vector["meaning"].as_array().unwrap()) {
            let invalidated = step["short_id_invalidations"].as_u64().unwrap() > 0;
            let own_id = peers.ours().short_id.unwrap();
            let own_version = peers.ours().version;
            if step["action"] == "garbage collect" {
                let collected = peers.collect_garbage(&mut rng());
                assert_eq!(
                    collected.forgotten,
                    names::<Vec<_>>(&step["removed"]),
                    "{scenario}"
                );
                assert_eq!(collected.short_ids_invalidated, invalidated, "{scenario}");
                assert!(!collected.ours_changed);
            } else {
                let applied = peers.apply(&bytes(payload), &mut rng()).unwrap();
                let expected: BTreeSet<_> = names(&step["update_names"]);
                assert_eq!(applied.named, expected, "{scenario}");
                let expected: BTreeSet<_> = names(&step["improved_names"]);
                assert_eq!(applied.improved, expected, "{scenario}");
                assert_eq!(applied.short_ids_invalidated, invalidated, "{scenario}");
                assert_eq!(applied.ours_changed, peers.ours().version != own_version);
            }
            let mut expected = records(&step["state_after"]);
            if step["own_short_id_changed"] == Value::Bool(true) {
                // The new one is random.
                let new_id = peers.ours().short_id.unwrap();
                assert_ne!(new_id, own_id);
                assert_eq!(peers.by_short_id(new_id), Some(peers.ours().name));
                let own = expected
                    .iter_mut()
                    .find(|peer| peer.name == peers.ours().name);
                own.unwrap().short_id = Some(new_id);
            }
            assert_eq!(all(&peers), expected, "{scenario}");
            // What we know, told to somebody who knows nothing, is all of it.
            let mut other = Peers::new(number(1), "", PeerUid(1), ShortId(4000));
            other
                .apply(&peers.encode(peers.names()), &mut rng())
                .unwrap();
            other.others.remove(&other.ours.name);
            let told: Vec<_> = other.others.into_values().map(|other| other.peer).collect();
            assert_eq!(told, expected, "{scenario}");
        }
    }
}

fn fresh(ours: u64) -> Peers {
    Peers::new(
        number(ours),
        "us",
        PeerUid(100 + ours),
        ShortId(u16::try_from(ours).unwrap()),
    )
}

#[test]
fn own_connections_count_the_version_up() {
    let mut peers = fresh(1);
    let (two, address) = (number(2), "10.0.0.2:6783");
    assert!(
        peers
            .introduce(two, PeerUid(7), "two", None, true, &mut rng())
            .unwrap()
            .created
    );
    peers.add_connection(two, address, true);
    let connection = |peers: &Peers| peers.ours().connections.get(two).cloned();
    assert_eq!(peers.ours().version, 1);
    assert!(!connection(&peers).unwrap().established);
    assert!(peers.establish_connection(two) && connection(&peers).unwrap().established);
    assert_eq!(peers.ours().version, 2);
    peers.release(two);
    assert_eq!(peers.collect_garbage(&mut rng()).forgotten, []);
    assert!(peers.remove_connection(two));
    assert_eq!((peers.ours().version, connection(&peers)), (3, None));
    assert!(!peers.remove_connection(two) && !peers.establish_connection(two));
    assert_eq!(peers.ours().version, 3);
    assert_eq!(peers.collect_garbage(&mut rng()).forgotten, [two]);
    assert_eq!(all(&peers).len(), 1);
}

#[test]
fn introductions() {
    let mut peers = fresh(1);
    let introduce = |peers: &mut Peers, name, uid, may_create| {
        peers.introduce(
            number(name),
            PeerUid(uid),
            "nick",
            Some(ShortId(9)),
            may_create,
            &mut rng(),
        )
    };
    assert_eq!(
        introduce(&mut peers, 1, 101, true),
        Err(IntroduceError::Ourselves)
    );
    let collision = IntroduceError::NameCollision(number(1));
    assert_eq!(introduce(&mut peers, 1, 5, true), Err(collision));
    assert_eq!(
        introduce(&mut peers, 2, 5, false),
        Err(IntroduceError::Unknown(number(2)))
    );
    assert_eq!(peers.len(), 1);
    let first = introduce(&mut peers, 2, 5, true).unwrap();
    assert!(first.created && !first.restarted);
    let again = introduce(&mut peers, 2, 5, false).unwrap();
    assert!(!again.created && !again.restarted);
    // Another life: the record stays as it is until the peer's own update comes.
    let restarted = introduce(&mut peers, 2, 6, false).unwrap();
    assert!(!restarted.created && restarted.restarted);
    assert_eq!(peers.get(number(2)).unwrap().uid, PeerUid(5));
    // Kept until each introduction is released.
    for left in (0..3).rev() {
        assert_eq!(peers.collect_garbage(&mut rng()).forgotten, []);
        peers.release(number(2));
        assert_eq!(peers.others[&number(2)].references, left);
    }
    assert_eq!(peers.collect_garbage(&mut rng()).forgotten, [number(2)]);
    peers.release(number(2));
}

#[test]
fn a_neighbour_may_take_our_short_id() {
    let mut peers = fresh(5);
    let id = Some(ShortId(5));
    let higher = peers
        .introduce(number(6), PeerUid(1), "", id, true, &mut rng())
        .unwrap();
    assert!(!higher.ours_changed && !higher.short_ids_invalidated);
    let lower = peers
        .introduce(number(4), PeerUid(1), "", id, true, &mut rng())
        .unwrap();
    assert!(lower.ours_changed && lower.short_ids_invalidated);
    assert_eq!(peers.ours().version, 1);
    assert_eq!(peers.by_short_id(ShortId(5)), Some(number(4)));
    let own = peers.ours().short_id.unwrap();
    assert_ne!(own, ShortId(5));
    assert_eq!(peers.by_short_id(own), Some(number(5)));
}

#[test]
fn without_a_free_short_id_ours_waits_for_a_garbage_collection() {
    let ours = 10_000;
    let mut peers = Peers::new(number(ours), "", PeerUid(1), ShortId(7));
    for id in 0..ShortId::COUNT {
        let (name, id) = (number(u64::from(id) + 1), Some(ShortId(id)));
        peers
            .introduce(name, PeerUid(1), "", id, true, &mut rng())
            .unwrap();
    }
    // The one that came when ours was lost found a free id; the last ones took that one too.
    let mut lost = peers.ours().short_id.unwrap();
    assert_ne!(peers.by_short_id(lost), Some(number(ours)));
    let version = peers.ours().version;
    peers.release(number(100));
    let collected = peers.collect_garbage(&mut rng());
    assert_eq!(collected.forgotten, [number(100)]);
    assert!(collected.ours_changed);
    std::mem::swap(&mut lost, peers.ours.short_id.as_mut().unwrap());
    assert_eq!(lost, ShortId(99));
    assert_eq!(peers.by_short_id(ShortId(99)), Some(number(ours)));
    assert_eq!(peers.ours().version, version + 1);
}

#[test]
fn a_bad_update_applies_nothing() {
    let mut teller = fresh(2);
    teller.add_connection(number(1), "10.0.0.1:6783", true);
    let mut payload = teller.encode(teller.names());
    payload.extend([1, 2, 3]);
    let mut peers = fresh(1);
    assert!(peers.apply(&payload, &mut rng()).is_err());
    assert_eq!(all(&peers), all(&fresh(1)));
}

#[test]
fn an_old_life_with_the_highest_version_does_no_harm() {
    let mut old = fresh(1);
    old.ours.uid = PeerUid(3);
    old.ours.version = u64::MAX;
    let mut peers = fresh(1);
    let applied = peers.apply(&old.encode(old.names()), &mut rng()).unwrap();
    assert!(applied.ours_changed && applied.improved.is_empty() && applied.created.is_empty());
    peers.add_connection(number(2), "", true);
    assert_eq!(peers.ours().version, u64::MAX);
}

#[test]
fn a_full_table_ignores_further_peers() {
    let mut peers = fresh(1);
    for other in 0..MAX_PEERS as u64 {
        peers.put(number(1000 + other), connections([]));
    }
    let mut teller = fresh(2);
    teller.add_connection(number(3), "", true);
    let applied = peers
        .apply(&teller.encode(teller.names()), &mut rng())
        .unwrap();
    assert_eq!(
        (
            applied.named.len(),
            applied.improved.len(),
            applied.created.len()
        ),
        (1, 0, 0)
    );
    assert_eq!(peers.ignored(), 2);
    let refused = peers.introduce(number(2), PeerUid(2), "", None, true, &mut rng());
    assert_eq!(refused, Err(IntroduceError::Full(number(2))));
    // Known peers are still heard.
    let mut teller = fresh(1000);
    teller.add_connection(number(1), "", true);
    let applied = peers
        .apply(&teller.encode(teller.names()), &mut rng())
        .unwrap();
    assert_eq!(applied.improved.len(), 1);
    assert_eq!(peers.collect_garbage(&mut rng()).forgotten.len(), MAX_PEERS);
    assert_eq!(peers.connection_count, 0);
}

#[test]
fn connections_are_bounded_over_all_records() {
    let mut peers = fresh(1);
    peers.connection_count = MAX_PEER_CONNECTIONS - 1;
    let mut teller = fresh(2);
    teller.add_connection(number(1), "", true);
    teller.add_connection(number(3), "", true);
    let applied = peers
        .apply(&teller.encode([number(2)]), &mut rng())
        .unwrap();
    assert!(applied.improved.is_empty());
    assert_eq!((peers.get(number(2)), peers.ignored()), (None, 1));
    teller.remove_connection(number(3));
    let applied = peers
        .apply(&teller.encode([number(2)]), &mut rng())
        .unwrap();
    assert_eq!(applied.improved.len(), 1);
    assert_eq!(peers.connection_count, MAX_PEER_CONNECTIONS);
    teller.remove_connection(number(1));
    peers
        .apply(&teller.encode([number(2)]), &mut rng())
        .unwrap();
    assert_eq!(peers.connection_count, MAX_PEER_CONNECTIONS - 1);
}

#[test]
fn a_large_topology_travels_in_parts() {
    let mut teller = fresh(1);
    for other in 2..=50 {
        teller.put(number(other), connections((1..=50).map(|to| (to, true))));
    }
    let mut names = teller.names();
    let mut peers = fresh(60);
    let mut parts = 0;
    while !names.is_empty() {
        let part = teller.encode_some(&mut names, 2000);
        assert!(part.len() < 3000, "{}", part.len());
        peers.apply(&part, &mut rng()).unwrap();
        parts += 1;
    }
    assert!(parts > 5, "{parts}");
    assert_eq!(peers.len(), 51);
    assert!(teller.encode_some(&mut names, 2000).is_empty());
    assert!(teller.encode([number(77)]).is_empty());
}

/// A small world in which everything happens: seven peers, four short ids, three lives.
fn arbitrary_record() -> impl Strategy<Value = Peer> {
    let id = proptest::option::of((0..4_u16).prop_map(ShortId));
    let list = proptest::collection::vec((1..8_u64, any::<bool>()), 0..4);
    (1..8_u64, 1..4_u64, 0..4_u64, id, list).prop_map(|(name, uid, version, short_id, list)| {
        // A peer writes one record per life and version, except that it may gain a short id.
        let mut connections: Connections = connections(list);
        if version == 0 {
            connections = Connections::default();
        }
        let text = format!("{name}/{uid}/{version}");
        Peer {
            name: number(name),
            nickname: text.into(),
            uid: PeerUid(uid),
            version,
            short_id,
            connections,
        }
    })
}

fn payload(records: &[Peer]) -> Vec<u8> {
    let mut encoder = update::Encoder::default();
    for record in records {
        encoder.push(record);
    }
    encoder.finish()
}

/// Of two records with the same name, life and version all but the first go.
fn consistent(mut records: Vec<Peer>) -> Vec<Peer> {
    let mut seen = BTreeSet::new();
    records.retain(|peer| seen.insert((peer.name, peer.uid, peer.version)));
    records
}

fn others(peers: &Peers) -> Vec<Peer> {
    let ours = peers.ours().name;
    peers
        .iter()
        .filter(|peer| peer.name != ours)
        .cloned()
        .collect()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn order_and_repetition_do_not_matter(
        records in proptest::collection::vec(arbitrary_record(), 0..20).prop_map(consistent),
        order in any::<u64>(),
        split in 1..5_usize,
    ) {
        let mut forth = fresh(7);
        for part in records.chunks(split) {
            forth.apply(&payload(part), &mut rng()).unwrap();
        }
        let mut shuffled: Vec<_> = records.iter().chain(&records).cloned().collect();
        rand::seq::SliceRandom::shuffle(&mut shuffled[..], &mut StdRng::seed_from_u64(order));
        let mut back = fresh(7);
        for part in shuffled.chunks(3) {
            back.apply(&payload(part), &mut rng()).unwrap();
        }
        prop_assert_eq!(others(&forth), others(&back));
        // Once more changes nothing.
        let before = all(&forth);
        let applied = forth.apply(&payload(&records), &mut rng()).unwrap();
        prop_assert_eq!(applied.improved, BTreeSet::new());
        prop_assert_eq!(applied.created, BTreeSet::new());
        prop_assert!(!applied.ours_changed);
        prop_assert_eq!(all(&forth), before);
    }

    #[test]
    fn the_table_stays_sound(
        steps in proptest::collection::vec(
            (0..5_u8, proptest::collection::vec(arbitrary_record(), 0..4)),
            0..20,
        ),
        seed: u64,
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut peers = fresh(3);
        for (action, records) in steps {
            let version = peers.ours().version;
            let changed = match (action, records.first()) {
                (0, _) => {
                    let collected = peers.collect_garbage(&mut rng);
                    prop_assert!(collected.forgotten.iter().all(|&name| peers.get(name).is_none()));
                    collected.ours_changed
                }
                (1, Some(peer)) => {
                    let nickname = peer.nickname.clone();
                    let introduced =
                        peers.introduce(peer.name, peer.uid, nickname, peer.short_id, true, &mut rng);
                    introduced.is_ok_and(|introduced| introduced.ours_changed)
                }
                (2, Some(peer)) => {
                    peers.release(peer.name);
                    false
                }
                _ => peers.apply(&payload(&records), &mut rng).unwrap().ours_changed,
            };
            prop_assert_eq!(changed, peers.ours().version != version);
            let count: usize = others(&peers).iter().map(|peer| peer.connections.len()).sum();
            prop_assert_eq!(peers.connection_count, count);
            // Whoever claims an id with the lowest name holds it; ours is always held.
            for id in (0..4).map(ShortId).chain(peers.ours().short_id) {
                let claimants = peers.iter().filter(|peer| peer.short_id == Some(id));
                let lowest = claimants.map(|peer| peer.name).min();
                prop_assert_eq!(peers.by_short_id(id), lowest);
            }
            let own_id = peers.ours().short_id.unwrap();
            prop_assert_eq!(peers.by_short_id(own_id), Some(peers.ours().name));
        }
    }

    #[test]
    fn after_a_collection_everybody_is_reached(
        records in proptest::collection::vec(arbitrary_record(), 0..20),
        neighbour in 1..8_u64,
    ) {
        let mut peers = fresh(7);
        peers.add_connection(number(neighbour), "", true);
        peers.apply(&payload(&records), &mut rng()).unwrap();
        peers.collect_garbage(&mut rng());
        let mut reached = BTreeSet::from([number(7)]);
        let mut open = vec![number(7)];
        while let Some(peer) = open.pop().and_then(|name| peers.get(name)) {
            for connection in &peer.connections {
                let known = peers.get(connection.remote).is_some();
                if known && reached.insert(connection.remote) {
                    open.push(connection.remote);
                }
            }
        }
        prop_assert_eq!(peers.names(), reached);
        prop_assert_eq!(peers.collect_garbage(&mut rng()).forgotten, []);
    }
}

#[test]
fn a_record_survives_the_golden_form() {
    // The helper that reads golden records must not lose anything that the merge looks at.
    let state = vectors("topology_merge.json");
    let peer = record(&state[0]["inputs"]["initial_state"][0]);
    assert_eq!(
        (peer.version, peer.uid, peer.short_id),
        (10, PeerUid(555), Some(ShortId(50)))
    );
    assert_eq!(peer.connections.len(), 1);
}
