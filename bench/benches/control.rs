//! The control half without the kernel: handshakes, gob, merging of topologies, and routes.
//!
//! The topologies are rings in which every peer is connected to its nearest [`MOST_CONNECTIONS`]
//! others, or to all of them if there are fewer.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up must stop"
)]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dns::{Entry, Key, Mark, Update};
use proto::gob::{self, Decoder, Limits};
use proto::{PeerName, PeerUid, ShortId};
use rand::SeedableRng;
use rand::rngs::StdRng;
use router::connection::{Connection, ConnectionEvent, Local, Role};
use router::crypto::session::Password;
use router::topology::{Peers, Routes};
use router::wire::intro::{Features, Versions};

/// Sizes of topologies.
const PEER_COUNTS: [usize; 3] = [10, 100, 1000];
/// As many as a peer takes unless it is told otherwise.
const MOST_CONNECTIONS: usize = 200;

fn name(index: usize) -> PeerName {
    PeerName::from_u64(index as u64 + 1).unwrap()
}

fn uid(index: usize) -> PeerUid {
    // Real ones are random: nine bytes in gob, not one.
    PeerUid((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn short_id(index: usize) -> ShortId {
    ShortId(u16::try_from(index).unwrap())
}

/// What peer `index` of `count` knows before it has heard anything: itself and its neighbours.
fn alone(index: usize, count: usize, rng: &mut StdRng) -> Peers {
    let mut peers = Peers::new(
        name(index),
        format!("host-{index}"),
        uid(index),
        short_id(index),
    );
    let reach = (count - 1).min(MOST_CONNECTIONS);
    for step in 0..reach {
        // One to the right, one to the left, and so on: both ends agree on who is near.
        let distance = step / 2 + 1;
        let outbound = step % 2 == 0;
        let other = (index + if outbound { distance } else { count - distance }) % count;
        let [_, _, c, d] = u32::try_from(other).unwrap().to_be_bytes();
        let address = format!("10.20.{c}.{d}:6783");
        peers
            .introduce(
                name(other),
                uid(other),
                "",
                Some(short_id(other)),
                true,
                rng,
            )
            .unwrap();
        peers.add_connection(name(other), address.as_str(), outbound);
        peers.establish_connection(name(other));
    }
    peers
}

/// What the first peer of `count` knows in the end.
fn converged(count: usize) -> Peers {
    let mut rng = StdRng::seed_from_u64(1);
    let mut first = alone(0, count, &mut rng);
    for index in 1..count {
        let other = alone(index, count, &mut rng);
        let payload = other.encode([name(index)]);
        first.apply(&payload, &mut rng).unwrap();
    }
    assert_eq!(first.len(), count);
    first
}

fn local(index: usize, version: u8, password: Option<&Password>) -> Local {
    Local {
        name: name(index),
        uid: uid(index),
        nickname: format!("host-{index}"),
        short_id: Some(short_id(index)),
        password: password.cloned(),
        versions: Versions {
            min: version,
            max: version,
        },
        overlays: vec!["sleeve".to_owned()],
    }
}

/// From two new TCP connections to two introductions.
fn shake_hands(dialler: &Local, acceptor: &Local, now: Instant) -> [Connection; 2] {
    let mut ends = [
        Connection::new(Role::Dialler, dialler, 11, [1; 32], true, now),
        Connection::new(Role::Acceptor, acceptor, 6, [2; 32], true, now),
    ];
    loop {
        let mut idle = true;
        for from in 0..2 {
            while let Some(bytes) = ends[from].poll_transmit() {
                ends[1 - from].handle_bytes(&bytes, now);
                idle = false;
            }
        }
        if idle {
            break;
        }
    }
    for end in &mut ends {
        let introduced = end.poll_event();
        assert!(matches!(introduced, Some(ConnectionEvent::Introduced(_))));
    }
    ends
}

fn handshake(criterion: &mut Criterion) {
    let now = Instant::now();
    let password = Password::new(*b"correct horse battery staple").unwrap();
    let mut group = criterion.benchmark_group("handshake, both ends");
    for version in [1, 2] {
        for (kind, password) in [("plain", None), ("sealed", Some(&password))] {
            let (dialler, acceptor) = (local(1, version, password), local(2, version, password));
            group.bench_function(format!("version {version}, {kind}"), |bencher| {
                bencher.iter(|| black_box(shake_hands(&dialler, &acceptor, now)));
            });
        }
    }
    group.finish();
}

fn features(criterion: &mut Criterion) {
    let features = Features {
        name: name(1),
        nickname: b"host-1".to_vec(),
        uid: uid(1),
        conn_id: 0x1234_5678_9abc_def0,
        short_id: Some(short_id(1)),
        trusted: false,
        overlays: Some("sleeve".to_owned()),
        public_key: None,
    };
    let stream = features.encode(2);
    let decode = || {
        let mut decoder = Decoder::new(&stream, Limits::GOSSIP);
        Features::decode(decoder.require_value().unwrap(), 2).unwrap()
    };
    assert_eq!(decode(), features);
    let mut group = criterion.benchmark_group("gob features");
    group.bench_function("encode", |bencher| {
        bencher.iter(|| black_box(black_box(&features).encode(2)));
    });
    group.bench_function("decode", |bencher| bencher.iter(|| black_box(decode())));
    group.finish();
}

/// Reads every field of every peer and connection, and keeps nothing; counts them.
fn walk(payload: &[u8]) -> Result<usize, gob::Error> {
    let mut count = 0;
    let mut decoder = Decoder::new(payload, Limits::GOSSIP);
    while let Some(summary) = decoder.next_value()? {
        count += fields(summary)?;
        let mut list = decoder.require_value()?.into_slice()?;
        while let Some(element) = list.next_element()? {
            count += fields(element)?;
        }
    }
    Ok(count)
}

fn fields(value: gob::Value<'_, '_>) -> Result<usize, gob::Error> {
    let mut count = 0;
    let mut fields = value.into_struct()?;
    while let Some((name, value)) = fields.next_field()? {
        match name {
            b"NameByte" => drop(black_box(value.bytes()?)),
            b"NickName" | b"RemoteTCPAddr" => drop(black_box(value.string()?)),
            b"UID" | b"Version" | b"ShortID" => drop(black_box(value.uint()?)),
            _ => drop(black_box(value.bool()?)),
        }
        count += 1;
    }
    Ok(count)
}

fn topology(criterion: &mut Criterion) {
    let mut rng = StdRng::seed_from_u64(2);
    for count in PEER_COUNTS {
        let full = converged(count);
        let payload = full.encode(full.names());
        let start = alone(0, count, &mut rng);
        let mut group = criterion.benchmark_group(format!("topology of {count}"));
        group.throughput(Throughput::Bytes(payload.len() as u64));
        if count == 1000 {
            group.sample_size(20);
        }
        group.bench_function("encode", |bencher| {
            bencher.iter(|| black_box(full.encode(full.names())));
        });
        assert!(walk(&payload).unwrap() > count);
        group.bench_function("read gob", |bencher| {
            bencher.iter(|| black_box(walk(black_box(&payload)).unwrap()));
        });
        group.bench_function("apply, all new", |bencher| {
            bencher.iter_batched_ref(
                || start.clone(),
                |peers| black_box(peers.apply(&payload, &mut rng).unwrap()),
                BatchSize::LargeInput,
            );
        });
        let mut known = full.clone();
        group.bench_function("apply, nothing new", |bencher| {
            bencher.iter(|| black_box(known.apply(&payload, &mut rng).unwrap()));
        });
        group.finish();
    }
}

fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("routes");
    for count in PEER_COUNTS {
        let peers = converged(count);
        let names = peers.names();
        group.bench_function(BenchmarkId::new("calculate", count), |bencher| {
            bencher.iter(|| black_box(Routes::calculate(&peers)));
        });
        let routes = Routes::calculate(&peers);
        assert!(routes.unicast(name(count / 2)).is_some());
        // A row is calculated once per table: each iteration gets a table of its own.
        group.bench_function(BenchmarkId::new("one broadcast row", count), |bencher| {
            let source = name(count / 2);
            bencher.iter_batched_ref(
                || routes.clone(),
                |routes| black_box(routes.broadcast(source).len()),
                BatchSize::LargeInput,
            );
        });
        if count == 1000 {
            group.sample_size(10);
        }
        group.bench_function(BenchmarkId::new("all broadcast rows", count), |bencher| {
            bencher.iter_batched_ref(
                || routes.clone(),
                |routes| {
                    for name in &names {
                        black_box(routes.broadcast(*name));
                    }
                },
                BatchSize::LargeInput,
            );
        });
        group.bench_function(BenchmarkId::new("unicast lookup", count), |bencher| {
            let destination = name(count / 2);
            bencher.iter(|| black_box(routes.unicast(black_box(destination))));
        });
    }
    group.finish();
}

fn names(criterion: &mut Criterion) {
    let entry = |index: u32| Entry {
        key: Key {
            hostname: format!("container-{index}.weave.local."),
            origin: name(index as usize % 10),
            container: format!("{index:064x}"),
            addr: Ipv4Addr::from_bits(0x0a20_0000 + index).into(),
        },
        mark: Mark {
            version: 0,
            tombstone: 0,
        },
    };
    let update = Update::new(1_700_000_000, (0..1000).map(entry));
    let payload = proto::gossip::GossipData::encode(&update);
    assert_eq!(Update::decode(&payload).unwrap(), update);
    let mut group = criterion.benchmark_group("1000 container names");
    group.throughput(Throughput::Bytes(payload.len() as u64));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| black_box(Update::decode(&payload).unwrap()));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = handshake, features, topology, routes, names
}
criterion_main!(benches);
