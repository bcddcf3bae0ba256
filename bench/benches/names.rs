//! Names of containers: answers to queries, and the table behind them.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up must stop"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dns::name::WireName;
use dns::query::rtype;
use dns::reply::{Scratch, Transport};
use dns::responder::{Action, Responder};
use dns::{Entry, Key, Mark, Nameserver, Update};
use proto::PeerName;
use proto::gossip::GossipData;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Sizes of tables.
const NAME_COUNTS: [u32; 2] = [10, 10_000];
/// Unix time, all along.
const NOW: i64 = 1_700_000_000;

fn peer(number: u32) -> PeerName {
    PeerName::from_u64(u64::from(number) + 1).unwrap()
}

fn addr(index: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a20_0000 + index).into()
}

fn hostname(index: u32) -> String {
    format!("container-{index}.weave.local.")
}

/// What a mesh of ten other hosts knows.
fn update(count: u32) -> Update {
    let entry = |index: u32| Entry {
        key: Key {
            hostname: hostname(index),
            origin: peer(1 + index % 10),
            container: format!("{index:064x}"),
            addr: addr(index),
        },
        mark: Mark::default(),
    };
    Update::new(NOW, (0..count).map(entry))
}

fn empty() -> Nameserver {
    Nameserver::new(peer(0), "weave.local".parse().unwrap())
}

fn with_names(count: u32) -> Nameserver {
    let mut nameserver = empty();
    let payload = update(count).encode();
    nameserver.on_gossip(&payload, NOW, |_| true).unwrap();
    assert_eq!(nameserver.table().live_count(), count as usize);
    nameserver
}

fn query(name: &str, qtype: u16) -> Vec<u8> {
    let mut packet = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packet.extend_from_slice(WireName::new(name).unwrap().as_bytes());
    packet.extend_from_slice(&qtype.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    packet
}

fn lookup(criterion: &mut Criterion) {
    let mut rng = StdRng::seed_from_u64(1);
    let mut scratch = Scratch::default();
    let mut answer = Vec::new();
    for count in NAME_COUNTS {
        let mut nameserver = with_names(count);
        for index in 0..100 {
            let name = "many.weave.local";
            let added = nameserver.add(name, "c1", addr(0x1_0000 + index), NOW);
            assert!(added.unwrap().is_some());
        }
        let responder = Responder::new(nameserver.names(), 1);
        let mut group = criterion.benchmark_group(format!("answer from {count} names"));
        let mut measure = |kind: &str, packets: &[Vec<u8>]| {
            let mut next = packets.iter().cycle();
            group.bench_function(kind, |bencher| {
                bencher.iter(|| {
                    answer.clear();
                    let packet = next.next().unwrap();
                    let action = responder.respond(
                        black_box(packet),
                        Transport::Udp,
                        &mut rng,
                        &mut scratch,
                        &mut answer,
                    );
                    assert!(matches!(action, Action::Reply(..)));
                    black_box(answer.len())
                });
            });
        };
        // Strides over all of them, as no two clients ask for the same.
        let known: Vec<Vec<u8>> = (0..count)
            .map(|index| query(&hostname(index * 7919 % count), rtype::A))
            .collect();
        measure("an address", &known);
        measure("no such record", &[query(&hostname(0), rtype::AAAA)]);
        measure("no such name", &[query("nosuch.weave.local", rtype::A)]);
        measure(
            "a reverse name",
            &[query("1.0.32.10.in-addr.arpa", rtype::PTR)],
        );
        measure(
            "29 of a hundred addresses",
            &[query("many.weave.local", rtype::A)],
        );
        group.finish();
    }
}

fn merge(criterion: &mut Criterion) {
    for count in NAME_COUNTS {
        let payload = update(count).encode();
        let mut group = criterion.benchmark_group(format!("merge {count} names"));
        group.throughput(Throughput::Elements(count.into()));
        if count > 1000 {
            group.sample_size(20);
        }
        group.bench_function("all new", |bencher| {
            bencher.iter_batched_ref(
                empty,
                |nameserver| nameserver.on_gossip(&payload, NOW, |_| true).unwrap(),
                BatchSize::LargeInput,
            );
        });
        let mut known = with_names(count);
        group.bench_function("nothing new", |bencher| {
            bencher.iter(|| known.on_gossip(&payload, NOW, |_| true).unwrap());
        });
        group.bench_function("encode", |bencher| {
            bencher.iter(|| black_box(known.full_state(NOW).encode()));
        });
        group.finish();
        let mut group = criterion.benchmark_group("one name");
        let mut nameserver = with_names(count);
        let mut index = 0;
        group.bench_function(BenchmarkId::new("add and delete", count), |bencher| {
            bencher.iter(|| {
                index += 1;
                let container = format!("c{}", index % 100);
                let name = "one.weave.local";
                let added = nameserver.add(name, &container, addr(1 << 20), NOW);
                assert!(added.unwrap().is_some());
                let selection = dns::Selection {
                    container: Some(&container),
                    ..dns::Selection::default()
                };
                black_box(nameserver.delete(&selection, NOW).unwrap())
            });
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = lookup, merge
}
criterion_main!(benches);
