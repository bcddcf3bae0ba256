//! Random bytes at a running host cost it nothing but counted drops.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, a panic is how a failure is reported"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use host::netns::Netns;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::Value;
use tests::as_root;
use tests::cases::PASSWORD;
use tests::lab::{Lab, address};
use tests::node::{Kind, Options, at, name_of};

/// Datagrams that are sent, in rounds between which the host is looked at.
const ROUNDS: usize = 4;
const DATAGRAMS: usize = 20_000;
/// Connections of each kind in a round.
const CONNECTIONS: usize = 25;
/// What the host's memory may grow by, in KiB: buffers that come into use for the first time.
const GROWTH: u64 = 8 * 1024;

#[test]
fn with_password() {
    as_root(|| flood(PASSWORD, 1));
}

#[test]
fn without_password() {
    as_root(|| flood(None, 2));
}

/// Two hosts talk while a third floods the first.
fn flood(password: Option<&str>, seed: u64) {
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut lab = Lab::new(3, 1500);
    lab.start(1, Kind::Meshctl, &Options::new(password, &[]));
    lab.start(2, Kind::Meshctl, &Options::new(password, &[address(1)]));
    lab.await_full_mesh(&[1, 2]);
    let containers = [lab.attach(1, "10.40.0.1/16"), lab.attach(2, "10.40.0.2/16")];
    lab.ping_all(&containers, 56);
    lab.transfer(containers[0], containers[1], 4 << 20);
    let to = SocketAddr::new(address(1).into(), 6783);
    // The first round brings everything into use.
    datagrams(lab.netns(3), to, &mut rng);
    connections(lab.netns(3), to, &mut rng);
    let (memory, dropped) = (lab.node(1).resident_kib(), drops(&lab));
    for _ in 0..ROUNDS {
        datagrams(lab.netns(3), to, &mut rng);
        connections(lab.netns(3), to, &mut rng);
        lab.await_neighbours(1, &["h2"]);
        lab.ping_all(&containers, 56);
    }
    let (grown, more) = (
        lab.node(1).resident_kib().saturating_sub(memory),
        drops(&lab) - dropped,
    );
    assert!(grown < GROWTH, "memory grew by {grown} KiB");
    assert!(more > 0, "nothing was counted");
    lab.transfer(containers[0], containers[1], 4 << 20);
    lab.transfer(containers[1], containers[0], 4 << 20);
    // And it takes new connections.
    lab.crash(2);
    lab.await_neighbours(1, &[]);
    lab.start(2, Kind::Meshctl, &Options::new(password, &[address(1)]));
    lab.await_full_mesh(&[1, 2]);
    lab.ping_all(&containers, 56);
    let log = lab.node(1).log();
    assert!(!log.contains("panicked"), "{log}");
}

/// Random lengths and bytes; every other one begins with the name of a peer that is connected.
fn datagrams(from: &Netns, to: SocketAddr, rng: &mut StdRng) {
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    let name: Vec<u8> = name_of(2)
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    let mut bytes = [0; 2000];
    for number in 0..DATAGRAMS {
        let len = rng.random_range(0..bytes.len());
        let datagram = &mut bytes[..len];
        rng.fill_bytes(datagram);
        if number % 2 == 0 && len >= name.len() {
            datagram[..name.len()].copy_from_slice(&name);
        }
        // A full queue is no matter here.
        _ = socket.send_to(datagram, to);
    }
}

/// Connections that bring random bytes, that bring them after a proper header, that promise a long
/// message, and that bring nothing.
fn connections(from: &Netns, to: SocketAddr, rng: &mut StdRng) {
    let beginnings: [&[u8]; 4] = [
        b"",
        b"weave\x01\x02",
        b"weave\x02\x02\x00\x00\xa0\x00\x00",
        b"w",
    ];
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        for beginning in beginnings {
            let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(10));
            let Ok(mut stream) = from.run(connect).unwrap() else {
                continue;
            };
            let mut bytes = vec![0; rng.random_range(0..5000)];
            rng.fill_bytes(&mut bytes);
            stream
                .set_write_timeout(Some(Duration::from_secs(1)))
                .unwrap();
            // It may hang up on us at any time.
            _ = stream.write_all(beginning);
            if beginning != b"w" {
                _ = stream.write_all(&bytes);
            }
            stream
                .set_read_timeout(Some(Duration::from_millis(1)))
                .unwrap();
            _ = stream.read(&mut [0; 64]);
            open.push(stream);
        }
    }
}

/// All drops that the first host has counted.
fn drops(lab: &Lab) -> u64 {
    let report = lab.report(1);
    let drops = at(&report, "/Meshctl/Drops").as_object().unwrap();
    drops.values().filter_map(Value::as_u64).sum()
}
