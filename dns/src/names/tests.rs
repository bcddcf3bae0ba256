use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proto::PeerName;
use proto::gossip::GossipData;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::{Entry, Key, Mark, Nameserver, Selection, TOMBSTONE_LIFE, Update};

const NAMES: [&str; 7] = [
    "a.weave.local.",
    "A.weave.local.",
    "b.a.weave.local.",
    "d.c.b.a.weave.local.",
    "e.f.weave.local.",
    "weave.local.",
    "a.elsewhere.org.",
];

fn peer(last: u8) -> PeerName {
    PeerName::from_bytes([2, 0, 0, 0, 0, last])
}

fn nameserver() -> Nameserver {
    Nameserver::new(peer(1), "weave.local".parse().unwrap())
}

fn addresses(names: &Names, name: &str) -> Option<Addresses> {
    let name = WireName::folded(name).unwrap();
    names.with_addresses(name.as_bytes(), |found| Some(found?.clone()))
}

/// What the index should hold, from the table alone.
fn check(nameserver: &Nameserver, names: &Names, addrs: &[IpAddr]) {
    let live: Vec<(&str, IpAddr)> = nameserver
        .table()
        .iter()
        .filter(|(_, mark)| mark.is_live())
        .map(|(key, _)| (key.hostname.as_str(), key.addr))
        .collect();
    let ours = |name: &str| name.to_lowercase().ends_with(".weave.local.");
    let mut all: BTreeSet<String> = NAMES.iter().map(|name| name.to_lowercase()).collect();
    for name in ["c.b.a", "f", "nosuch"] {
        all.insert(format!("{name}.weave.local."));
    }
    for name in all {
        let of_name = live
            .iter()
            .filter(|(live, _)| live.eq_ignore_ascii_case(&name));
        let expected: Addresses = of_name.map(|(_, addr)| *addr).collect();
        let below = |live: &str| {
            let live = live.to_lowercase();
            live.strip_suffix(&name)
                .is_some_and(|host| host.ends_with('.'))
        };
        let has_below = live.iter().any(|(live, _)| below(live));
        let found = addresses(names, &name);
        if ours(&name) {
            let exists = !expected.is_empty() || has_below;
            assert_eq!(found, exists.then_some(expected), "{name}");
        } else if name == "weave.local." {
            assert_eq!(found.unwrap_or_default(), expected);
        } else {
            assert_eq!(found, None, "{name} is not of the domain");
        }
    }
    for addr in addrs {
        let expected = nameserver.table().name_of(*addr).and_then(WireName::new);
        let found = names.with_name(*addr, |found| Some(found?.clone()));
        assert_eq!(found, expected, "{addr}");
    }
}

#[test]
fn the_index_is_what_the_table_says() {
    let seed = 8020;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut addrs: Vec<IpAddr> = (1..5).map(|last| [10, 32, 0, last].into()).collect();
    addrs.push("fd00::1".parse().unwrap());
    for _ in 0..20 {
        let mut nameserver = nameserver();
        let names = nameserver.names();
        let mut now = 1000;
        for _ in 0..200 {
            now += rng.random_range(0..100);
            let name = NAMES[rng.random_range(0..NAMES.len())];
            let addr = addrs[rng.random_range(0..addrs.len())];
            match rng.random_range(0..10) {
                0..4 => {
                    let _ = nameserver.add(name, "c1", addr, now).unwrap();
                }
                4..6 => {
                    let hostname = rng.random::<bool>().then_some(name);
                    let which = Selection {
                        hostname,
                        container: None,
                        addr: (hostname.is_none() || rng.random()).then_some(addr),
                    };
                    nameserver.delete(&which, now);
                }
                6..8 => {
                    let entry = Entry {
                        key: Key {
                            hostname: name.to_owned(),
                            origin: peer(rng.random_range(1..4)),
                            container: "c2".to_owned(),
                            addr: [10, 32, 0, rng.random_range(1..5)].into(),
                        },
                        mark: Mark {
                            version: rng.random_range(0..4),
                            tombstone: now * i64::from(rng.random::<bool>()),
                        },
                    };
                    let payload = Update::new(now, [entry]).encode();
                    nameserver.on_gossip(&payload, now, |_| true).unwrap();
                }
                8 => {
                    nameserver.forget_peer(peer(rng.random_range(2..4)));
                }
                _ => {
                    now += TOMBSTONE_LIFE / 4;
                    nameserver.collect(now);
                }
            }
            check(&nameserver, &names, &addrs);
        }
    }
}

#[test]
fn names_that_the_dns_cannot_carry_are_left_out() {
    let mut nameserver = nameserver();
    let names = nameserver.names();
    let entry = |hostname: &str| Entry {
        key: Key {
            hostname: hostname.to_owned(),
            origin: peer(2),
            container: "c".to_owned(),
            addr: [10, 32, 0, 1].into(),
        },
        mark: Mark::default(),
    };
    let long = format!("{}.weave.local.", "a".repeat(64));
    let hosts = [
        "",
        ".",
        "..weave.local.",
        "a..weave.local.",
        &long,
        "ok.weave.local.",
    ];
    let payload = Update::new(1, hosts.map(entry)).encode();
    nameserver.on_gossip(&payload, 1, |_| true).unwrap();
    assert_eq!(
        nameserver.table().len(),
        hosts.len(),
        "they are passed on all the same"
    );
    assert!(addresses(&names, "ok.weave.local").is_some());
    assert_eq!(names.0.by_name.pin().len(), 1);
}

#[test]
fn who_reads_meanwhile_sees_all_or_nothing_of_a_change() {
    let mut nameserver = nameserver();
    let names = nameserver.names();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let count = addresses(&names, "a.weave.local.").map(|found| found.v4.len());
                assert!(matches!(count, None | Some(3)), "{count:?}");
            }
        });
        let entries = |version: i64| {
            (1..=3).map(move |last| Entry {
                key: Key {
                    hostname: "a.weave.local.".to_owned(),
                    origin: peer(2),
                    container: "c".to_owned(),
                    addr: [10, 32, 0, last].into(),
                },
                mark: Mark {
                    version,
                    tombstone: version % 2,
                },
            })
        };
        for version in 0..2000 {
            let payload = Update::new(1, entries(version)).encode();
            nameserver.on_gossip(&payload, 1, |_| true).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}
