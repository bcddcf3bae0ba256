use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::topology::fixtures::{
    Link, config, connections, mesh, name, names, number, ragged, symmetric, vectors,
};

fn table(value: &serde_json::Value) -> BTreeMap<PeerName, &serde_json::Value> {
    let entries = value.as_object().unwrap().iter();
    entries
        .map(|(key, value)| (key.parse().unwrap(), value))
        .collect()
}

#[test]
fn golden_topologies() {
    for vector in vectors("routes.json") {
        let note = vector["name"].as_str().unwrap();
        let count = vector["inputs"]["peers"].as_u64().unwrap();
        let mut links = Vec::new();
        for link in vector["inputs"]["links"].as_array().unwrap() {
            let (a, b) = (name(&link["a"]).as_u64(), name(&link["b"]).as_u64());
            if link["a_lists_b"].as_bool().unwrap() {
                links.push((a, b, link["a_established"].as_bool().unwrap()));
            }
            if link["b_lists_a"].as_bool().unwrap() {
                links.push((b, a, link["b_established"].as_bool().unwrap()));
            }
        }
        let views = vector["meaning"].as_array().unwrap();
        assert_eq!(views.len() as u64, count);
        for view in views {
            let ours = name(&view["ourself"]);
            let routes = Routes::calculate(&mesh(count, &links, ours.as_u64()));
            let all: Vec<_> = (1..=count).map(number).collect();
            let hops = |hop: &dyn Fn(PeerName) -> Option<PeerName>| -> BTreeMap<_, _> {
                all.iter()
                    .filter_map(|&to| hop(to).map(|hop| (to, hop)))
                    .collect()
            };
            let expected = |key: &str| -> BTreeMap<_, _> {
                table(&view[key])
                    .into_iter()
                    .map(|(to, hop)| (to, name(hop)))
                    .collect()
            };
            assert_eq!(
                hops(&|to| routes.unicast(to)),
                expected("unicast"),
                "{note} {ours}"
            );
            assert_eq!(
                hops(&|to| routes.unicast_all(to)),
                expected("unicast_all"),
                "{note} {ours}"
            );
            assert_eq!(
                routes.unicast_routes().collect::<BTreeMap<_, _>>(),
                expected("unicast")
            );
            for (source, hops) in table(&view["broadcast"]) {
                let hops: Vec<_> = names(hops);
                assert_eq!(routes.broadcast(source), hops, "{note} {ours} {source}");
            }
            for (source, hops) in table(&view["broadcast_all"]) {
                let hops: Vec<_> = names(hops);
                assert_eq!(routes.broadcast_all(source), hops, "{note} {ours} {source}");
            }
            assert_eq!(routes.broadcast_routes().count() as u64, count);
        }
    }
}

#[test]
fn nothing_known_and_nobody_asked() {
    let routes = Routes::default();
    assert_eq!((routes.len(), routes.is_empty()), (0, true));
    assert_eq!(routes.unicast(number(1)), None);
    assert_eq!(routes.broadcast(number(1)), &[]);
    let routes = Routes::calculate(&mesh(1, &[], 1));
    assert_eq!(routes.unicast(number(1)), Some(PeerName::UNKNOWN));
    assert_eq!(routes.unicast(number(2)), None);
    assert!(routes.knows(number(1)) && !routes.knows(number(2)));
    assert_eq!(
        routes.random_neighbours(None, &mut StdRng::seed_from_u64(1)),
        []
    );
    // Our own broadcast row is there without being asked for.
    let rows: Vec<_> = routes.broadcast_routes().collect();
    assert_eq!(rows, [(number(1), &[][..])]);
}

/// Section 5, word by word, over maps of names. The model for what runs over indices.
struct Model(BTreeMap<u64, BTreeMap<u64, bool>>);

impl Model {
    fn new(count: u64, links: &[Link]) -> Self {
        let mut lists: BTreeMap<_, BTreeMap<_, _>> =
            (1..=count).map(|peer| (peer, BTreeMap::new())).collect();
        for &(from, to, established) in links {
            lists.get_mut(&from).unwrap().insert(to, established);
        }
        Self(lists)
    }

    fn usable(&self, from: u64, established: bool) -> impl Iterator<Item = u64> {
        self.0[&from].iter().filter_map(move |(&to, &here)| {
            let there = self.0[&to].get(&from).is_some_and(|&there| there);
            (!established || (here && there)).then_some(to)
        })
    }

    fn walk(&self, start: u64, stop: Option<u64>, established: bool) -> (bool, BTreeMap<u64, u64>) {
        let mut hops = BTreeMap::from([(start, 0)]);
        let mut level = BTreeSet::from([start]);
        while !level.is_empty() {
            let mut next_level = BTreeSet::new();
            for current in level {
                if Some(current) == stop {
                    return (true, hops);
                }
                for next in self.usable(current, established) {
                    if !hops.contains_key(&next) {
                        let hop = if current == start {
                            next
                        } else {
                            hops[&current]
                        };
                        hops.insert(next, hop);
                        next_level.insert(next);
                    }
                }
            }
            level = next_level;
        }
        (false, hops)
    }

    fn broadcast(&self, source: u64, ours: u64, established: bool) -> Vec<PeerName> {
        match self.walk(source, Some(ours), established) {
            (false, _) => Vec::new(),
            (true, reached) => {
                let unreached = |to: &u64| !reached.contains_key(to);
                self.usable(ours, established)
                    .filter(unreached)
                    .map(number)
                    .collect()
            }
        }
    }
}

fn views(count: u64, links: &[Link]) -> BTreeMap<PeerName, Routes> {
    let view = |ours| (number(ours), Routes::calculate(&mesh(count, links, ours)));
    (1..=count).map(view).collect()
}

/// One delivery to each peer that there is a way to, but not to `source`.
fn everybody_else(
    source: PeerName,
    count: u64,
    route: impl Fn(PeerName) -> Option<PeerName>,
) -> BTreeMap<PeerName, usize> {
    let all = (1..=count).map(number).filter(|&to| to != source);
    all.filter(|&to| route(to).is_some())
        .map(|to| (to, 1))
        .collect()
}

/// Who gets what `source` broadcasts, and how often, if everybody passes it on.
fn deliveries(
    views: &BTreeMap<PeerName, Routes>,
    source: PeerName,
    row: impl Fn(&Routes) -> &[PeerName],
) -> BTreeMap<PeerName, usize> {
    let mut counts = BTreeMap::new();
    let mut under_way = vec![source];
    while let Some(at) = under_way.pop() {
        for &next in row(&views[&at]) {
            let count = counts.entry(next).or_insert(0);
            *count += 1;
            assert!(*count < 100, "circles");
            under_way.push(next);
        }
    }
    counts
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn tables_are_those_of_the_model((count, links) in ragged(14)) {
        let model = Model::new(count, &links);
        for ours in 1..=count {
            let routes = Routes::calculate(&mesh(count, &links, ours));
            let (_, unicast) = model.walk(ours, None, true);
            let (_, unicast_all) = model.walk(ours, None, false);
            for peer in 1..=count {
                let name = number(peer);
                let hop = |table: &BTreeMap<u64, u64>| table.get(&peer).copied().map(number);
                prop_assert_eq!(routes.unicast(name), hop(&unicast));
                prop_assert_eq!(routes.unicast_all(name), hop(&unicast_all));
                prop_assert_eq!(routes.broadcast(name), model.broadcast(peer, ours, true));
                prop_assert_eq!(routes.broadcast_all(name), model.broadcast(peer, ours, false));
            }
        }
    }

    #[test]
    fn next_hops_lead_to_the_destination((count, links) in ragged(20)) {
        let views = views(count, &links);
        for (&from, view) in &views {
            for to in (1..=count).map(number) {
                for table in [Routes::unicast, Routes::unicast_all] {
                    let mut at = from;
                    let mut left = count;
                    while at != to && table(view, to).is_some() {
                        prop_assert!(left > 0, "from {} to {} circles", from, to);
                        left -= 1;
                        at = table(&views[&at], to).unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn a_frame_flooded_reaches_everybody_once((count, links) in ragged(20)) {
        let views = views(count, &links);
        for (&source, view) in &views {
            let reached = everybody_else(source, count, |to| view.unicast(to));
            let counts = deliveries(&views, source, |view| view.broadcast(source));
            prop_assert_eq!(counts, reached, "source {}", source);
        }
    }

    // Where only one end lists a connection, gossip may come twice or not at all.
    #[test]
    fn gossip_broadcast_reaches_everybody_once((count, links) in symmetric(20)) {
        let views = views(count, &links);
        for (&source, view) in &views {
            let reached = everybody_else(source, count, |to| view.unicast_all(to));
            let counts = deliveries(&views, source, |view| view.broadcast_all(source));
            prop_assert_eq!(counts, reached, "source {}", source);
        }
    }

    #[test]
    fn random_neighbours_are_distinct_and_as_many_as_wanted(
        (count, links) in symmetric(40),
        except in proptest::option::of(1..40_u64),
        seed: u64,
    ) {
        let routes = Routes::calculate(&mesh(count, &links, 1));
        let except = except.map(number);
        let drawn = routes.random_neighbours(except, &mut StdRng::seed_from_u64(seed));
        let all = (1..=count).map(number);
        let hops: Vec<_> = all.filter_map(|to| routes.unicast_all(to)).collect();
        let reached = hops.len();
        let candidates: BTreeSet<_> = hops
            .into_iter()
            .filter(|&hop| hop != PeerName::UNKNOWN && Some(hop) != except)
            .collect();
        let wanted = (2.0 * f64::from(u32::try_from(reached).unwrap()).log2()).floor();
        prop_assert_eq!(drawn.len() as f64, wanted.min(candidates.len() as f64));
        let distinct: BTreeSet<_> = drawn.iter().copied().collect();
        prop_assert_eq!(distinct.len(), drawn.len());
        prop_assert!(distinct.is_subset(&candidates));
    }
}

#[test]
fn a_bottleneck_is_drawn_more_often() {
    // 1 has neighbours 2..=21; behind 21 lie 100 more.
    let spokes = (2..=21).map(|peer| (1, peer));
    let behind = (22..=121).map(|peer| (21, peer));
    let links: Vec<_> = spokes
        .chain(behind)
        .flat_map(|(a, b)| [(a, b, true), (b, a, true)])
        .collect();
    let routes = Routes::calculate(&mesh(121, &links, 1));
    let mut rng = StdRng::seed_from_u64(7);
    let rounds = 1000;
    let mut hits = BTreeMap::new();
    for _ in 0..rounds {
        let drawn = routes.random_neighbours(None, &mut rng);
        assert_eq!(drawn.len(), 13); // floor(2 log2 121)
        for name in drawn {
            *hits.entry(name).or_insert(0) += 1;
        }
    }
    let expected = rounds * 12 / 19;
    assert!(hits[&number(21)] > rounds * 99 / 100, "{hits:?}");
    for peer in 2..=20 {
        let hits = hits[&number(peer)];
        assert!(
            (expected - 80..expected + 80).contains(&hits),
            "{peer}: {hits}"
        );
    }
}

#[test]
fn a_thousand_peers_in_full_mesh() {
    let count = 1000;
    let mut peers = mesh(0, &[], 500);
    for own in 1..=count {
        let others = (1..=count).filter(|&other| other != own);
        let list = connections(others.map(|other| (other, true)));
        if own == 500 {
            peers.set_own(list);
        } else {
            peers.put(number(own), list);
        }
    }
    let routes = Routes::calculate(&peers);
    assert_eq!(routes.len(), 1000);
    for peer in (1..=count).map(number) {
        if peer == number(500) {
            assert_eq!(routes.unicast(peer), Some(PeerName::UNKNOWN));
            assert_eq!(routes.broadcast(peer).len(), 999);
            assert_eq!(routes.broadcast_all(peer).len(), 999);
        } else {
            assert_eq!(routes.unicast(peer), Some(peer));
            assert!(routes.broadcast(peer).is_empty());
            assert!(routes.broadcast_all(peer).is_empty());
        }
    }
    assert_eq!(
        routes
            .random_neighbours(None, &mut StdRng::seed_from_u64(3))
            .len(),
        19
    );
}
