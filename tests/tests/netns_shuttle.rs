//! The overlay between two of ours, on real devices: what is to be seen of it from outside, and
//! keys that change under way.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, a panic is how a failure is reported"
)]

use std::net::UdpSocket;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;

use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};
use tests::as_root;
use tests::cases::PASSWORD;
use tests::lab::{ContainerId, Lab, address};
use tests::node::{Kind, Options};
use tests::wait;

/// What containers send to each other, to be looked for on the wire.
const SECRET: &str = "746f70736563726574"; // topsecret

#[test]
fn with_password_nothing_is_seen() {
    as_root(|| seen_on_the_wire(PASSWORD, None, false));
}

#[test]
fn without_password_all_is_seen() {
    as_root(|| seen_on_the_wire(None, None, true));
}

#[test]
fn what_both_trust_is_seen() {
    as_root(|| {
        seen_on_the_wire(
            PASSWORD,
            Some("10.0.0.0/8,192.168.0.0/16,172.16.0.0/12"),
            true,
        );
    });
}

/// All that the host's interfaces send and receive from now on.
fn capture(lab: &Lab, number: usize) -> OwnedFd {
    // ETH_P_ALL, in the byte order of the network.
    let every = Protocol::from_raw(NonZeroU32::new(u32::from(3_u16.to_be())).unwrap());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let open = || socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(every));
    lab.netns(number).run(open).unwrap().unwrap()
}

/// Of what was captured, the packets of the mesh: UDP or TCP, from or to its port.
fn mesh_packets(capture: &OwnedFd) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut buffer = vec![0; 70_000];
    while let Ok((len, _)) = recv(capture, &mut buffer[..], RecvFlags::empty()) {
        let packet = &buffer[..len];
        let is_ipv4 = packet.get(12..15) == Some(&[8, 0, 0x45]);
        let has_port = |at: usize| packet.get(at..at + 2) == Some(&6783_u16.to_be_bytes());
        if is_ipv4 && (has_port(34) || has_port(36)) {
            packets.push(packet.to_vec());
        }
    }
    packets
}

fn pair(password: Option<&str>, trusted: Option<&str>, extra: &[&str]) -> (Lab, [ContainerId; 2]) {
    let mut lab = Lab::new(2, 1500);
    for number in [1, 2] {
        let peers = if number == 1 {
            vec![]
        } else {
            vec![address(1)]
        };
        let options = Options {
            trusted_subnets: trusted.map(str::to_owned),
            extra: extra.iter().map(|&argument| argument.to_owned()).collect(),
            ..Options::new(password, &peers)
        };
        lab.start(number, Kind::Meshctl, &options);
    }
    lab.await_full_mesh(&[1, 2]);
    for number in [1, 2] {
        lab.await_connection(number, "established", "shuttle");
    }
    let containers = [1, 2].map(|number| lab.attach(number, &format!("10.32.0.{number}/12")));
    lab.ping_all(&containers, 56);
    (lab, containers)
}

fn seen_on_the_wire(password: Option<&str>, trusted: Option<&str>, expected: bool) {
    let (lab, [from, to]) = pair(password, trusted, &[]);
    let capture = capture(&lab, 1);
    let mut ping = Command::new("ping");
    let target = lab.container_address(to).to_string();
    ping.args(["-c", "3", "-i", "0.2", "-s", "1000", "-p", SECRET, &target]);
    let output = lab.run_in_container(from, ping);
    assert!(output.status.success(), "{output:?}");
    let packets = mesh_packets(&capture);
    assert!(packets.len() >= 6, "{} packets", packets.len());
    let secret = hex::decode(SECRET).unwrap();
    let is_seen = |packet: &&Vec<u8>| packet.windows(secret.len()).any(|window| window == secret);
    let count = packets.iter().filter(is_seen).count();
    assert_eq!(count > 0, expected, "{count} of {} packets", packets.len());
}

/// Keys change every second; nothing that is sent meanwhile gets lost, late or twice.
#[test]
fn keys_change_under_way() {
    as_root(|| {
        let (lab, containers) = pair(PASSWORD, None, &["--rekey-interval", "1"]);
        let have_changed = || {
            [1, 2]
                .map(|n| lab.node(n).log())
                .iter()
                .all(|log| log.contains("epoch=10"))
        };
        let count = bounce(&lab, containers, have_changed);
        eprintln!("{count} datagrams there and back");
        lab.transfer(containers[0], containers[1], 64 << 20);
        for number in [1, 2] {
            let report = lab.report(number);
            let drops = &report["Meshctl"]["Drops"];
            for reason in ["unknown_key", "not_authentic", "replayed"] {
                assert_eq!(drops[reason].as_u64().unwrap_or(0), 0, "{drops}");
            }
            lab.await_connection(number, "established", "shuttle");
        }
    });
}

/// Sends datagrams as fast as they come back until something is done, and returns how many. So few
/// are under way at a time that no queue loses one.
fn bounce(lab: &Lab, [from, to]: [ContainerId; 2], is_done: impl Fn() -> bool) -> u32 {
    const UNDER_WAY: u32 = 32;
    const LEN: usize = 1200;
    let bind = |id: ContainerId| {
        let address = (lab.container_address(id), 0);
        let socket = lab.container_netns(id).run(|| UdpSocket::bind(address));
        let socket = socket.unwrap().unwrap();
        socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        socket
    };
    let (near, far) = (bind(from), bind(to));
    near.connect(far.local_addr().unwrap()).unwrap();
    far.connect(near.local_addr().unwrap()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut datagram = [0; LEN];
            // The last one is empty.
            while let Ok(len) = far.recv(&mut datagram)
                && len > 0
            {
                far.send(&datagram[..len]).unwrap();
            }
        });
        let (mut sent, mut back) = (0_u32, 0_u32);
        let mut enough = false;
        while back < sent || !enough {
            while sent < back + UNDER_WAY && !enough {
                let mut datagram = [0x5a; LEN];
                datagram[..4].copy_from_slice(&sent.to_be_bytes());
                near.send(&datagram).unwrap();
                sent += 1;
            }
            let mut datagram = [0; LEN];
            let len = near.recv(&mut datagram);
            assert_eq!(len.ok(), Some(LEN), "datagram {back} did not come back");
            let number = u32::from_be_bytes(*datagram.first_chunk().unwrap());
            assert_eq!(number, back, "another datagram came back than the next");
            back += 1;
            if back % 1000 == 0 {
                enough = is_done();
            }
        }
        near.send(&[]).unwrap();
        back
    })
}
