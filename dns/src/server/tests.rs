//! The server over real sockets, on loopback.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use proto::PeerName;

use super::{Config, Server};
use crate::name::WireName;
use crate::query::rtype;
use crate::stats::{Kind, Outcome};
use crate::{Nameserver, Selection};

mod abuse;
mod agreement;
mod asking;
mod conformance;
mod vectors;

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

/// `web` has an address, `two` has two, `six` an IPv6 one, and `many` have a hundred.
fn some_names() -> Nameserver {
    let mut nameserver = nameserver();
    add(&mut nameserver, "web.weave.local", "10.32.0.1");
    add(&mut nameserver, "two.weave.local", "10.32.0.3");
    add(&mut nameserver, "two.weave.local", "10.32.0.4");
    add(&mut nameserver, "six.weave.local", "fd00::6");
    add(&mut nameserver, "deep.below.weave.local", "10.32.0.9");
    for n in 0..100 {
        add(&mut nameserver, "many.weave.local", &format!("10.33.0.{n}"));
    }
    nameserver
}

fn loopback() -> Config {
    Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        timeout: Duration::from_millis(500),
        ..Config::default()
    }
}

/// A packet with one question.
pub(super) fn query(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend_from_slice(WireName::new(name).unwrap().as_bytes());
    packet.extend_from_slice(&qtype.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    packet
}

/// The same with an OPT record.
fn with_opt(mut packet: Vec<u8>, payload_len: u16, version: u8) -> Vec<u8> {
    packet[11] += 1;
    packet.extend_from_slice(&[0, 0, 41]);
    packet.extend_from_slice(&payload_len.to_be_bytes());
    packet.extend_from_slice(&[0, version, 0, 0, 0, 0]);
    packet
}

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut answer = vec![0; 65536];
    let len = socket.recv(&mut answer).unwrap();
    answer.truncate(len);
    answer
}

fn exchange(server: SocketAddr, packet: &[u8]) -> Vec<u8> {
    let socket = udp();
    socket.connect(server).unwrap();
    socket.send(packet).unwrap();
    receive(&socket)
}

/// The answer, if there is any: after the packet comes a query that has one.
fn maybe(server: SocketAddr, packet: &[u8]) -> Option<Vec<u8>> {
    let socket = udp();
    socket.connect(server).unwrap();
    socket.send(packet).unwrap();
    // From one client to one thread, and what is answered at once is answered in turn.
    socket
        .send(&query(0xbeef, "probe.weave.local", rtype::A))
        .unwrap();
    let first = receive(&socket);
    if first[..2] == [0xbe, 0xef] {
        return None;
    }
    Some(first)
}

fn framed(packet: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(packet.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(packet);
    bytes
}

fn tcp(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn exchange_tcp(server: SocketAddr, packet: &[u8]) -> Vec<u8> {
    let mut stream = tcp(server);
    stream.write_all(&framed(packet)).unwrap();
    read_framed(&mut stream).unwrap()
}

fn parsed(answer: &[u8]) -> Message {
    Message::from_vec(answer).unwrap_or_else(|error| panic!("{error}: {}", hex::encode(answer)))
}

/// What a made server does with a query: it is given the packet and says the answer.
type Script = dyn FnMut(&[u8]) -> Option<Vec<u8>> + Send;

/// A DNS server upstream that does what a test wants.
struct Upstream {
    address: SocketAddr,
    script: Arc<Mutex<Box<Script>>>,
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Upstream {
    /// At an address of loopback; with port 0 it is at any.
    fn start(address: &str) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let upstream = Self {
            address: socket.local_addr().unwrap(),
            script: Arc::new(Mutex::new(Box::new(|_| None))),
            asked: Arc::default(),
            stop: Arc::default(),
        };
        let (script, asked, stop) = (
            upstream.script.clone(),
            upstream.asked.clone(),
            upstream.stop.clone(),
        );
        thread::spawn(move || {
            let mut packet = vec![0; 65536];
            while !stop.load(Ordering::SeqCst) {
                if let Ok((len, from)) = socket.recv_from(&mut packet) {
                    asked.fetch_add(1, Ordering::SeqCst);
                    let answer = script.lock().unwrap()(&packet[..len]);
                    if let Some(answer) = answer {
                        socket.send_to(&answer, from).unwrap();
                    }
                }
            }
        });
        upstream
    }

    fn does(&self, script: impl FnMut(&[u8]) -> Option<Vec<u8>> + Send + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// An answer with one address.
pub(super) fn answer_to(packet: &[u8], addr: [u8; 4]) -> Vec<u8> {
    let question_len = packet[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let mut answer = packet[..12 + question_len].to_vec();
    answer[2] |= 0x80;
    answer[3] = 0x80;
    answer[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend_from_slice(&addr);
    answer
}

/// Writes a file of servers as editors do: a new one takes the place of the old one.
fn write_resolv_conf(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Waits until something holds.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_answered_and_gone_when_it_is_deleted() {
    let mut nameserver = some_names();
    let server = Server::start(loopback(), nameserver.names()).unwrap();
    let address = server.addresses()[0];
    let packet = query(7, "WEB.weave.local.", rtype::A);
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
    wait_for("latencies", || {
        server.stats().latency_buckets.iter().sum::<u64>() == 2
    });
    server.shutdown().await;
    // All of the address is free again.
    let again = Config {
        listen: vec![address],
        ..loopback()
    };
    let again = Server::start(again, nameserver.names()).unwrap();
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_told() {
    let names = nameserver().names();
    let server = Server::start(loopback(), names.clone()).unwrap();
    let with = |listen: SocketAddr| Config {
        listen: vec![listen],
        ..loopback()
    };
    let error = Server::start(with(server.addresses()[0]), names.clone()).err();
    let text = error.unwrap().to_string();
    assert!(
        text.contains("127.0.0.1") && text.contains("in use"),
        "{text}"
    );
    // Half of it is enough.
    let socket = udp();
    let error = Server::start(with(socket.local_addr().unwrap()), names.clone()).err();
    assert!(error.unwrap().to_string().contains("UDP"));
    let error = Server::start(with("192.0.2.1:53".parse().unwrap()), names).err();
    let text = error.unwrap().to_string();
    assert!(text.contains("192.0.2.1:53"), "{text}");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_from_the_address_that_was_asked() {
    let names = some_names().names();
    let config = Config {
        listen: vec!["0.0.0.0:0".parse().unwrap(), "[::]:0".parse().unwrap()],
        ..loopback()
    };
    let server = Server::start(config, names).unwrap();
    let packet = query(7, "web.weave.local", rtype::A);
    for (listen, to) in [(0, "127.0.0.1"), (0, "127.9.9.9"), (1, "::1")] {
        let to = SocketAddr::new(to.parse().unwrap(), server.addresses()[listen].port());
        let any = if to.is_ipv4() {
            "127.0.0.2:0"
        } else {
            "[::1]:0"
        };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // Connected, it takes answers from there alone.
        socket.connect(to).unwrap();
        socket.send(&packet).unwrap();
        assert_eq!(receive(&socket)[3] & 15, 0, "{to}");
        // The same for one that is answered by a task.
        let odd = with_opt(packet.clone(), 1232, 1);
        socket.send(&odd).unwrap();
        assert_eq!(parsed(&receive(&socket)).metadata.response_code.low(), 0);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_gets_many_answers_at_once() {
    let names = some_names().names();
    for listen in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
        let config = Config {
            listen: vec![listen.parse().unwrap()],
            udp_threads: 1,
            ..loopback()
        };
        let server = Server::start(config, names.clone()).unwrap();
        let port = server.addresses()[0].port();
        let is_ipv4 = server.addresses()[0].is_ipv4();
        let (to, any) = if is_ipv4 {
            ("127.0.0.1", "127.0.0.2:0")
        } else {
            ("::1", "[::1]:0")
        };
        let to = SocketAddr::new(to.parse().unwrap(), port);
        // Answers of three lengths, for two clients in turn.
        let clients = [any, any].map(|any| {
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(to).unwrap();
            socket
        });
        let names = ["web.weave.local", "two.weave.local", "nosuch.weave.local"];
        for id in 0..200_u16 {
            for client in &clients {
                let packet = query(id, names[usize::from(id % 3)], rtype::A);
                client.send(&packet).unwrap();
            }
        }
        for client in &clients {
            let mut ids: Vec<u16> = (0..200)
                .map(|_| {
                    let answer = receive(client);
                    let id = u16::from_be_bytes([answer[0], answer[1]]);
                    let count = [1, 2, 0][usize::from(id % 3)];
                    assert_eq!(parsed(&answer).answers.len(), count, "{listen} {id}");
                    id
                })
                .collect();
            ids.sort_unstable();
            assert_eq!(ids, (0..200).collect::<Vec<u16>>(), "{listen}");
        }
        server.shutdown().await;
    }
}
