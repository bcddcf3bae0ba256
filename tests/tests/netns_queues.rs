//! Several data threads on each host, with real devices: flows spread over them and stay in order.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, a panic is how a failure is reported"
)]

use std::collections::{BTreeSet, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::thread;

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};
use tests::as_root;
use tests::cases::PASSWORD;
use tests::lab::{ContainerId, Lab, address};
use tests::node::{Kind, Options};
use tests::wait;
use tests::weather::Weather;

/// The port of the mesh.
const PORT: u16 = 6783;
const FLOWS: u32 = 24;
/// Datagrams of each flow.
const DATAGRAMS: u32 = 2000;
/// Of each flow that are on their way at most, so that no queue loses one.
const UNDER_WAY: u32 = 8;

/// Starts two hosts with so many threads, and waits until they use so many ports to each other.
fn start(lab: &mut Lab, threads: [usize; 2], queues: [u64; 2]) -> [ContainerId; 2] {
    for (number, threads) in [1, 2].into_iter().zip(threads) {
        let peers: &[_] = if number == 1 { &[] } else { &[address(1)] };
        let options = Options {
            extra: vec!["--data-threads".to_owned(), threads.to_string()],
            ..Options::new(PASSWORD, peers)
        };
        lab.start(number, Kind::Meshctl, &options);
    }
    lab.await_full_mesh(&[1, 2]);
    for (number, expected) in [1, 2].into_iter().zip(queues) {
        lab.await_connection(number, "established", "shuttle");
        wait::until("all queues", || {
            let queues = lab.report(number)["Meshctl"]["Links"][0]["Queues"].as_u64();
            wait::check(queues == Some(expected), || {
                format!("{queues:?} on {number}")
            })
        });
    }
    let containers = [1, 2].map(|number| lab.attach(number, &format!("10.32.0.{number}/12")));
    lab.ping_all(&containers, 56);
    containers
}

/// All that the host's interfaces send and receive from now on.
fn capture(lab: &Lab, number: usize) -> OwnedFd {
    // ETH_P_ALL, in the byte order of the network.
    let every = Protocol::from_raw(NonZeroU32::new(u32::from(3_u16.to_be())).unwrap());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let open = || socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(every));
    lab.netns(number).run(open).unwrap().unwrap()
}

/// Source ports of captured datagrams to the port of the mesh.
fn source_ports(capture: &OwnedFd) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    let mut buffer = [0; 64];
    while recv(capture, &mut buffer[..], RecvFlags::empty()).is_ok() {
        let port = |at: usize| u16::from_be_bytes([buffer[at], buffer[at + 1]]);
        let is_udp = buffer[12..15] == [8, 0, 0x45] && buffer[23] == 17;
        if is_udp && port(36) == PORT {
            ports.insert(port(34));
        }
    }
    ports
}

/// Many flows of numbered datagrams at once, each acknowledged by a flow back: all arrive, each once,
/// in the order in which they were sent.
fn flows_stay_in_order(lab: &Lab, [from, to]: [ContainerId; 2]) {
    let bind = |id: ContainerId| {
        let address = (lab.container_address(id), 0);
        let socket = lab.container_netns(id).run(|| UdpSocket::bind(address));
        let socket = socket.unwrap().unwrap();
        socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        socket
    };
    let server = bind(to);
    set_socket_recv_buffer_size_force(&server, 16 << 20).unwrap();
    let target = server.local_addr().unwrap();
    let clients: Vec<_> = (0..FLOWS).map(|_| bind(from)).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut next: HashMap<SocketAddr, u32> = HashMap::new();
            for _ in 0..FLOWS * DATAGRAMS {
                let mut datagram = [0; 1200];
                let (len, client) = server.recv_from(&mut datagram).unwrap();
                let expected = next.entry(client).or_default();
                let number = u32::from_be_bytes(*datagram.first_chunk().unwrap());
                assert_eq!((number, len), (*expected, datagram.len()), "of {client}");
                *expected += 1;
                server.send_to(&datagram[..4], client).unwrap();
            }
        });
        for client in &clients {
            scope.spawn(move || {
                client.connect(target).unwrap();
                let mut sent = 0;
                for back in 0..DATAGRAMS {
                    // A flow may change its queue when the first answers come.
                    let under_way = if back < 3 { 1 } else { UNDER_WAY };
                    while sent < DATAGRAMS && sent < back + under_way {
                        let mut datagram = [0x5a; 1200];
                        datagram[..4].copy_from_slice(&sent.to_be_bytes());
                        client.send(&datagram).unwrap();
                        sent += 1;
                    }
                    let mut answer = [0; 4];
                    client.recv(&mut answer).unwrap();
                    assert_eq!(u32::from_be_bytes(answer), back);
                }
            });
        }
    });
}

#[test]
fn flows_spread_over_threads_and_stay_in_order() {
    as_root(|| {
        for threads in [[4, 4], [4, 1], [2, 3]] {
            let mut lab = Lab::new(2, 1500);
            let queues = threads.map(|count| u64::try_from(count).unwrap());
            let containers = start(&mut lab, threads, queues);
            let capture = capture(&lab, 1);
            flows_stay_in_order(&lab, containers);
            let ports = source_ports(&capture);
            // Each flow is as likely to be in one queue as in another, until it comes back by one.
            assert!(ports.len() > 1, "{threads:?}: {ports:?}");
            lab.transfer(containers[0], containers[1], 32 << 20);
            lab.transfer(containers[1], containers[0], 32 << 20);
        }
    });
}

/// Where only what comes from the common port gets through, that is what is used.
#[test]
fn other_ports_are_used_only_if_they_get_through() {
    as_root(|| {
        let mut lab = Lab::outdoors(2, 1);
        lab.set_weather(Weather {
            only_udp_from: Some(PORT),
            ..Weather::default()
        });
        let containers = start(&mut lab, [3, 3], [1, 1]);
        flows_stay_in_order(&lab, containers);
        lab.set_weather(Weather::default());
        let queues = |number| lab.report(number)["Meshctl"]["Links"][0]["Queues"].as_u64();
        for number in [1, 2] {
            wait::until("all queues", || {
                wait::check(queues(number) == Some(3), || {
                    format!("{:?}", queues(number))
                })
            });
        }
        // A queue that gets lost again is given up.
        lab.set_weather(Weather {
            only_udp_from: Some(PORT),
            ..Weather::default()
        });
        for number in [1, 2] {
            wait::until("one queue", || {
                wait::check(queues(number) == Some(1), || {
                    format!("{:?}", queues(number))
                })
            });
        }
        flows_stay_in_order(&lab, containers);
    });
}
