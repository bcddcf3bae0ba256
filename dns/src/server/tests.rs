//! The server over real sockets, on loopback.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use proto::PeerName;

use super::{Config, Server};
use crate::name::WireName;
use crate::stats::{Kind, Outcome};
use crate::{Nameserver, Selection};

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

fn nameserver() -> Nameserver {
    let ours = PeerName::from_bytes([2, 0, 0, 0, 0, 1]);
    Nameserver::new(ours, "weave.local.".parse().unwrap())
}

fn add(nameserver: &mut Nameserver, name: &str, addr: &str) {
    let addr: IpAddr = addr.parse().unwrap();
    assert!(nameserver.add(name, "c1", addr, 100).unwrap().is_some());
}

fn loopback() -> Config {
    Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        ..Config::default()
    }
}

fn query(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend_from_slice(WireName::new(name).unwrap().as_bytes());
    packet.extend_from_slice(&qtype.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    packet
}

fn exchange(server: SocketAddr, packet: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(packet, server).unwrap();
    let mut answer = vec![0; 65536];
    let (len, from) = socket.recv_from(&mut answer).unwrap();
    assert_eq!(from, server);
    answer.truncate(len);
    answer
}

#[tokio::test]
async fn a_name_is_answered_and_gone_when_it_is_deleted() {
    let mut nameserver = nameserver();
    add(&mut nameserver, "web.weave.local", "10.32.0.1");
    let server = Server::start(loopback(), nameserver.names()).unwrap();
    let address = server.addresses()[0];
    let packet = query(7, "WEB.weave.local.", 1);
    let answer = exchange(address, &packet);
    assert_eq!(answer[..8], [0, 7, 0x85, 0x80, 0, 1, 0, 1]);
    assert_eq!(answer[12..packet.len()], packet[12..]);
    assert_eq!(answer[answer.len() - 4..], [10, 32, 0, 1]);
    nameserver.delete(&Selection::default(), 101);
    assert_eq!(exchange(address, &packet)[3] & 15, 3);
    let stats = server.stats();
    assert_eq!(stats.queries(Kind::A, Outcome::Answered), 1);
    assert_eq!(stats.queries(Kind::A, Outcome::NxDomain), 1);
    // This is noted when the answer has gone, so maybe after it has come.
    let deadline = Instant::now() + PATIENCE;
    while server.stats().latency_buckets.iter().sum::<u64>() != 2 {
        assert!(Instant::now() < deadline, "{:?}", server.stats());
        thread::yield_now();
    }
    server.shutdown().await;
    // All of the address is free again.
    let again = Config {
        listen: vec![address],
        ..Config::default()
    };
    Server::start(again, nameserver.names())
        .unwrap()
        .shutdown()
        .await;
}

#[tokio::test]
async fn an_address_in_use_is_told() {
    let nameserver = nameserver();
    let server = Server::start(loopback(), nameserver.names()).unwrap();
    let again = Config {
        listen: server.addresses().to_vec(),
        ..Config::default()
    };
    let error = Server::start(again, nameserver.names()).err().unwrap();
    let text = error.to_string();
    assert!(
        text.contains("127.0.0.1") && text.contains("in use"),
        "{text}"
    );
    server.shutdown().await;
}
