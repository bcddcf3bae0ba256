//! Addresses without the kernel and the disk: giving them out, merging rings, and what a change
//! costs on the wire and in memory.
//!
//! Before the timings it prints what is no time: bytes of gossip after an allocation, and memory
//! of a range of which every address is given out.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot be set up must stop; what is not timed is printed"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipam::allocator::{Allocator, Config, Init, Now, Output};
use ipam::range::{Address, Cidr};
use ipam::ring::{Entry, Ring};
use ipam::wire::encode_gossip;
use proto::{PeerName, PeerUid};

/// Peers that share the large ring, and its tokens.
const PEER_COUNT: u32 = 1000;
const TOKEN_COUNT: u32 = 10_000;

fn name(index: u32) -> PeerName {
    PeerName::from_u64(u64::from(index) + 1).unwrap()
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn now() -> Now {
    Now {
        at: Instant::now(),
        unix: 1_700_000_000,
    }
}

/// The allocator of a peer that has all of `universe` to itself.
fn alone(universe: &str) -> Allocator {
    let config = Config {
        name: name(0),
        uid: PeerUid(1),
        nickname: "host-0".to_owned(),
        universe: cidr(universe),
        default_subnet: cidr(universe),
        init: Init::Seed(vec![name(0)]),
        pre_claims: Vec::new(),
        rng_seed: [1; 32],
    };
    let mut allocator = Allocator::start(config, None, now()).unwrap();
    settle(&mut allocator);
    allocator
}

/// Takes all that is to be done, on a disk that needs no time. Returns how many answers were given.
fn settle(allocator: &mut Allocator) -> usize {
    let mut answers = 0;
    while let Some(output) = allocator.poll_output() {
        match output {
            Output::Save(save) => allocator.handle_saved(save.seq, now()),
            Output::Answer(_, answer) => {
                answer.unwrap();
                answers += 1;
            }
            Output::Broadcast | Output::Unicast { .. } => {}
        }
    }
    answers
}

/// Gives addresses to `count` containers, `first` and those after it.
fn allocate(allocator: &mut Allocator, subnet: Cidr, first: u32, count: u32) {
    let now = now();
    for index in first..first + count {
        // As long as Docker's.
        allocator.allocate(&format!("{index:064x}"), subnet, true, now);
    }
    assert_eq!(settle(allocator), count as usize);
}

/// Memory of this process that is not on disk, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

fn memory() {
    for universe in ["10.32.0.0/16", "10.32.0.0/12"] {
        let subnet = cidr(universe);
        let before = resident();
        let mut allocator = alone(universe);
        let count = subnet.range().size() - 2;
        let mut done = 0;
        while done < count {
            let batch = (count - done).min(10_000);
            allocate(&mut allocator, subnet, done, batch);
            done += batch;
        }
        let grown = resident().saturating_sub(before);
        println!(
            "every address of {universe} given out: {:.1} MB, {} bytes each",
            grown as f64 / 1e6,
            grown / count as usize
        );
    }
}

fn gossip_bytes() {
    let subnet = cidr("10.32.0.0/12");
    let mut allocator = alone("10.32.0.0/12");
    let payload = allocator.encode_state(1_700_000_000).len();
    let mut broadcasts = 0;
    for index in 0..1000 {
        allocator.allocate(&format!("{index:064x}"), subnet, true, now());
        while let Some(output) = allocator.poll_output() {
            match output {
                Output::Save(save) => allocator.handle_saved(save.seq, now()),
                Output::Broadcast => broadcasts += 1,
                Output::Answer(..) | Output::Unicast { .. } => {}
            }
        }
    }
    println!(
        "1000 allocations from own space: {broadcasts} broadcasts; the state of a ring of one \
         entry has {payload} bytes"
    );
    let ring = large_ring(0);
    let state = encode_gossip(
        1_700_000_000,
        &Default::default(),
        None,
        Some((name(0), &ring)),
    );
    println!(
        "the state of a ring of {TOKEN_COUNT} tokens has {} bytes, once per donation",
        state.len()
    );
}

/// A ring of [`TOKEN_COUNT`] tokens among [`PEER_COUNT`] peers, a tenth of which have changed
/// `generation` times.
fn large_ring(generation: u32) -> Ring {
    let universe = cidr("10.32.0.0/12").range();
    let step = universe.size() / TOKEN_COUNT;
    let entry = |index: u32| {
        let changes = if index.is_multiple_of(10) {
            generation
        } else {
            0
        };
        Entry {
            token: Address(universe.start.0 + index * step),
            peer: name(index % PEER_COUNT),
            version: 1 + changes,
            free: step - changes.min(step),
        }
    };
    let seeds = (0..PEER_COUNT).map(name).collect();
    Ring::from_parts(universe, (0..TOKEN_COUNT).map(entry).collect(), seeds)
}

fn allocation(criterion: &mut Criterion) {
    gossip_bytes();
    memory();
    let mut group = criterion.benchmark_group("allocate");
    let subnet = cidr("10.32.0.0/12");
    for held in [0, 60_000] {
        let batch = 1000;
        group.throughput(Throughput::Elements(u64::from(batch)));
        group.bench_function(
            BenchmarkId::new("1000 addresses, already given out", held),
            |bencher| {
                bencher.iter_batched(
                    || {
                        let mut allocator = alone("10.32.0.0/12");
                        allocate(&mut allocator, subnet, 0, held);
                        allocator
                    },
                    |mut allocator| {
                        allocate(&mut allocator, subnet, held, batch);
                        allocator
                    },
                    BatchSize::PerIteration,
                );
            },
        );
    }
    group.finish();
}

fn rings(criterion: &mut Criterion) {
    let (ours, theirs) = (large_ring(0), large_ring(1));
    let me = PeerName::from_u64(u64::from(PEER_COUNT) + 1).unwrap();
    let mut group = criterion.benchmark_group("ring of 10,000 tokens, 1000 peers");
    group.throughput(Throughput::Elements(u64::from(TOKEN_COUNT)));
    for (what, theirs) in [("no news", &ours), ("a tenth is news", &theirs)] {
        group.bench_function(BenchmarkId::new("merge", what), |bencher| {
            bencher.iter_batched_ref(
                || ours.clone(),
                |ring| black_box(ring.merge(theirs, me, |_| false).unwrap()),
                BatchSize::LargeInput,
            );
        });
    }
    group.bench_function("encode", |bencher| {
        let nicknames = Default::default();
        bencher.iter(|| black_box(encode_gossip(0, &nicknames, None, Some((me, &ours)))));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);
    targets = allocation, rings
}
criterion_main!(benches);
