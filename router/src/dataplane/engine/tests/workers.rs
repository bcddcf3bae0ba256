//! Several workers that drive one engine in turn.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};

use super::net::{Net, Underlay, key};
use super::shuttle::{ALL, linked, number_of, numbered};
use crate::constants::{QUEUE_TESTS, SHUTTLE_HEARTBEAT, SHUTTLE_SILENCE};
use crate::dataplane::{DataOptions, DataPlane, RekeyLimits, ShuttleOptions, Worker};
use crate::offload::Offload;
use crate::wire::shuttle::Header;

const WORKERS: usize = 3;
const MS: Duration = Duration::from_millis(1);

fn pair(is_sealed: bool) -> Net {
    let options = DataOptions {
        workers: WORKERS,
        shuttle: ShuttleOptions {
            rekey: RekeyLimits {
                interval: Duration::from_secs(1),
                ..RekeyLimits::default()
            },
            ..ShuttleOptions::default()
        },
        ..DataOptions::default()
    };
    let key = key().filter(|_| is_sealed);
    let underlay = Underlay::with_mtu(1500);
    let mut net = linked(2, &[(0, 1, ALL)], options, underlay, key.as_ref());
    net.introduce_containers();
    net
}

/// The address from which a host sends by a queue.
fn source(net: &Net, queue: u8) -> SocketAddr {
    let mut address = net.nodes[0].address;
    if queue > 0 {
        address.set_port(40_000 + u16::from(queue));
    }
    address
}

/// Takes what a worker of the first node has ready to the second. Returns the packets' headers.
fn send(net: &mut Net, worker: &mut Worker) -> Vec<Header> {
    let mut headers = Vec::new();
    while let Some(transmit) = worker.poll_transmit() {
        let from = source(net, transmit.queue);
        for datagram in transmit.datagrams() {
            let header = Header::decode(datagram).unwrap();
            assert_eq!(header.queue, transmit.queue);
            headers.push(header);
            net.receive(1, from, datagram);
        }
    }
    headers
}

fn test_queues(net: &mut Net, worker: &mut Worker) -> Vec<Header> {
    let (engine, now) = (&mut net.nodes[0].engine, net.now);
    engine.on_behalf_of(worker, |engine| {
        assert!(engine.test_queues(now), "there is one link");
        engine.flush();
    });
    send(net, worker)
}

/// What workers send is in order for each of them, whole, and under numbers used once, while keys
/// change and each flushes when it likes.
#[test]
fn each_keeps_its_order_and_no_number_is_used_twice() {
    for is_sealed in [true, false] {
        let mut net = pair(is_sealed);
        let mut workers: Vec<_> = (0..WORKERS).map(Worker::new).collect();
        for worker in &mut workers[1..] {
            let headers = test_queues(&mut net, worker);
            assert!(
                headers
                    .iter()
                    .all(|header| usize::from(header.queue) == worker.index)
            );
        }
        net.run_for(10 * MS);
        assert_eq!(net.status(0).queues, WORKERS);
        let seed = 7;
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut next = [0; WORKERS];
        let mut numbers = BTreeSet::new();
        let mut epochs = BTreeSet::new();
        for _ in 0..5000 {
            let index = rng.random_range(0..WORKERS);
            let worker = &mut workers[index];
            let count = rng.random_range(1..5);
            let must_flush = rng.random_bool(0.5);
            for _ in 0..count {
                let number = u32::try_from(index).unwrap() << 24 | next[index];
                next[index] += 1;
                let frame = numbered(0, 1, number, rng.random_range(60..1400));
                let now = net.now;
                net.nodes[0].engine.on_behalf_of(worker, |engine| {
                    engine.handle_frame(&frame, &Offload::NONE, now);
                });
            }
            if must_flush {
                let engine = &mut net.nodes[0].engine;
                engine.on_behalf_of(worker, DataPlane::flush);
            }
            for header in send(&mut net, worker) {
                assert_eq!(usize::from(header.queue), index);
                epochs.insert(header.epoch);
                let id = (header.epoch, header.counter);
                assert!(numbers.insert(id), "{id:?} twice");
            }
            // Heartbeats and new keys, by the engine's own worker.
            net.run_for(MS);
        }
        for worker in &mut workers {
            let engine = &mut net.nodes[0].engine;
            engine.on_behalf_of(worker, DataPlane::flush);
            send(&mut net, worker);
        }
        assert!(!is_sealed || epochs.len() >= 4, "{epochs:?}");
        let mut expected = [0; WORKERS];
        for frame in net.bridge(1) {
            let number = number_of(&frame);
            let index = usize::try_from(number >> 24).unwrap();
            assert_eq!(number & 0xff_ffff, expected[index], "of worker {index}");
            expected[index] += 1;
        }
        assert_eq!(expected, next);
        assert_eq!(net.all_drops(1), []);
        // What comes from the queues' own ports does not say where the neighbour is.
        assert_eq!(net.status(1).address, Some(net.nodes[0].address));
    }
}

/// A queue is used from the first answer until answers stay away.
#[test]
fn a_queue_is_used_while_it_is_heard() {
    let mut net = pair(true);
    let mut worker = Worker::new(2);
    let queue_of_a_frame = |net: &mut Net, worker: &mut Worker| {
        let frame = numbered(0, 1, 1, 100);
        let now = net.now;
        net.nodes[0].engine.on_behalf_of(worker, |engine| {
            engine.handle_frame(&frame, &Offload::NONE, now);
            engine.flush();
        });
        let headers = send(net, worker);
        assert_eq!(headers.len(), 1);
        headers[0].queue
    };
    assert_eq!(queue_of_a_frame(&mut net, &mut worker), 0);
    test_queues(&mut net, &mut worker);
    assert_eq!(queue_of_a_frame(&mut net, &mut worker), 0);
    net.run_for(10 * MS);
    assert_eq!(queue_of_a_frame(&mut net, &mut worker), 2);
    // From now on tests get lost.
    let mut passed = Duration::ZERO;
    while queue_of_a_frame(&mut net, &mut worker) == 2 {
        assert!(passed < SHUTTLE_SILENCE + SHUTTLE_HEARTBEAT, "{passed:?}");
        net.run_for(SHUTTLE_HEARTBEAT);
        passed += SHUTTLE_HEARTBEAT;
        let (engine, now) = (&mut net.nodes[0].engine, net.now);
        engine.on_behalf_of(&mut worker, |engine| engine.test_queues(now));
        while worker.poll_transmit().is_some() {}
    }
    assert!(passed >= SHUTTLE_SILENCE, "{passed:?}");
    assert_eq!(net.status(0).queues, 1);
    // The neighbour is somewhere else: queues have to be heard anew.
    test_queues(&mut net, &mut worker);
    net.run_for(10 * MS);
    assert_eq!(queue_of_a_frame(&mut net, &mut worker), 2);
    net.nodes[1].address.set_port(7000);
    net.capture(1, &[numbered(1, 0, 1, 100)]);
    net.run_for(10 * MS);
    assert_eq!(net.status(0).address, Some(net.nodes[1].address));
    assert_eq!(queue_of_a_frame(&mut net, &mut worker), 0);
}

/// Tests of many neighbours do not take all transmit buffers at once.
#[test]
fn many_queues_are_tested_in_turns() {
    const PEERS: usize = 2 * QUEUE_TESTS + 5;
    let options = DataOptions {
        workers: 2,
        ..DataOptions::default()
    };
    let edges: Vec<_> = (1..PEERS + 1).map(|other| (0, other, ALL)).collect();
    let underlay = Underlay::with_mtu(1500);
    let mut net = linked(PEERS + 1, &edges, options, underlay, None);
    let mut worker = Worker::new(1);
    for expected in [QUEUE_TESTS, QUEUE_TESTS, 5, QUEUE_TESTS] {
        let now = net.now;
        let is_round = net.nodes[0]
            .engine
            .on_behalf_of(&mut worker, |engine| engine.test_queues(now));
        assert_eq!(is_round, expected == 5);
        let mut count = 0;
        while worker.poll_transmit().is_some() {
            count += 1;
        }
        assert_eq!(count, expected);
    }
}
