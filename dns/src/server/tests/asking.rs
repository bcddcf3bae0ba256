//! Names that are not ours: which servers are asked, and what of their answers comes through.

use std::net::{Ipv4Addr, TcpListener};

use super::*;
use crate::server::upstream::Upstream as Asking;

/// A server that asks those in a file, all at the port of the first.
struct Bench {
    server: Option<Server>,
    directory: tempfile::TempDir,
    port: u16,
}

impl Bench {
    fn start(upstream: &[&Upstream], change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config {
            resolv_conf: Some(directory.path().join("resolv.conf")),
            ..loopback()
        };
        change(&mut config);
        let port = upstream[0].address.port();
        let bench = Self {
            server: None,
            directory,
            port,
        };
        bench.set_servers(upstream.iter().map(|upstream| upstream.address.ip()));
        let server = Server::start_with(config, some_names().names(), port).unwrap();
        Self {
            server: Some(server),
            ..bench
        }
    }

    fn set_servers(&self, servers: impl Iterator<Item = IpAddr>) {
        let lines: String = servers.map(|addr| format!("nameserver {addr}\n")).collect();
        write_resolv_conf(&self.directory.path().join("resolv.conf"), &lines);
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn address(&self) -> SocketAddr {
        self.server().addresses()[0]
    }

    async fn end(mut self) {
        self.server.take().unwrap().shutdown().await;
    }
}

/// Servers at one port of several addresses.
fn upstreams<const COUNT: usize>() -> [Upstream; COUNT] {
    let first = Upstream::start("127.0.0.1:0");
    let port = first.address.port();
    let mut first = Some(first);
    std::array::from_fn(|index| {
        first
            .take()
            .unwrap_or_else(|| Upstream::start(&format!("127.0.0.{}:{port}", index + 1)))
    })
}

fn rcode(answer: &[u8]) -> u8 {
    answer[3] & 15
}

fn addresses(answer: &[u8]) -> Vec<String> {
    let records = parsed(answer).answers;
    records
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

/// An answer that says just this.
fn saying(packet: &[u8], rcode: u8) -> Vec<u8> {
    let mut answer = answer_to(packet, [0; 4]);
    answer.truncate(answer.len() - 16);
    answer[7] = 0;
    answer[3] |= rcode;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_read_again_when_it_changes() {
    let [one, two] = upstreams();
    one.does(|packet| Some(answer_to(packet, [192, 0, 2, 1])));
    two.does(|packet| Some(answer_to(packet, [192, 0, 2, 2])));
    let bench = Bench::start(&[&one], |_| {});
    let packet = query(1, "www.example.com", rtype::A);
    assert_eq!(
        addresses(&exchange(bench.address(), &packet)),
        ["192.0.2.1"]
    );
    assert_eq!(bench.server().upstream(), [one.address.ip()]);
    bench.set_servers([two.address.ip()].into_iter());
    wait_for("the new server", || {
        addresses(&exchange(bench.address(), &packet)) == ["192.0.2.2"]
    });
    // While it is away, what was known holds.
    std::fs::remove_file(bench.directory.path().join("resolv.conf")).unwrap();
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(
        addresses(&exchange(bench.address(), &packet)),
        ["192.0.2.2"]
    );
    // What is no file is not waited for.
    let path = bench.directory.path().join("resolv.conf");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(
        addresses(&exchange(bench.address(), &packet)),
        ["192.0.2.2"]
    );
    bench.set_servers(std::iter::empty());
    wait_for("no server", || {
        rcode(&exchange(bench.address(), &packet)) == 2
    });
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_after_the_other_until_one_answers() {
    let [silent, failing, good] = upstreams();
    failing.does(|packet| Some(saying(packet, 2)));
    good.does(|packet| Some(answer_to(packet, [192, 0, 2, 3])));
    let bench = Bench::start(&[&silent, &failing, &good], |_| {});
    let packet = query(1, "www.example.com", rtype::A);
    assert_eq!(
        addresses(&exchange(bench.address(), &packet)),
        ["192.0.2.3"]
    );
    assert_eq!((silent.asked(), failing.asked(), good.asked()), (1, 1, 1));
    // The silent one is the last now.
    assert_eq!(
        addresses(&exchange(bench.address(), &packet)),
        ["192.0.2.3"]
    );
    assert_eq!((silent.asked(), failing.asked(), good.asked()), (1, 2, 2));
    // If none does better, what the first said is the answer.
    good.does(|packet| Some(saying(packet, 5)));
    assert_eq!(rcode(&exchange(bench.address(), &packet)), 2);
    good.does(|_| None);
    failing.does(|_| None);
    assert_eq!(rcode(&exchange(bench.address(), &packet)), 2);
    // "No such name" is an answer.
    failing.does(|packet| Some(saying(packet, 3)));
    let before = good.asked();
    wait_for(
        "all count as silent, so the order is that of the file",
        || rcode(&exchange(bench.address(), &packet)) == 3,
    );
    assert_eq!(good.asked(), before);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listens_there() {
    let [gone, good] = upstreams();
    good.does(|packet| Some(answer_to(packet, [192, 0, 2, 2])));
    let closed = gone.address;
    drop(gone);
    wait_for("the port to be closed", || UdpSocket::bind(closed).is_ok());
    let bench = Bench::start(&[&good], |config| config.timeout = PATIENCE);
    bench.set_servers([closed.ip(), good.address.ip()].into_iter());
    let packet = query(1, "www.example.com", rtype::A);
    wait_for("the file", || bench.server().upstream().len() == 2);
    // Long before the time-out.
    assert_eq!(
        addresses(&exchange(bench.address(), &packet)),
        ["192.0.2.2"]
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_query_is_sent_once_more() {
    let [upstream] = upstreams();
    let mut seen: Vec<Vec<u8>> = Vec::new();
    upstream.does(move |packet| {
        seen.push(packet.to_vec());
        // The same packet, so the answer to it is the same whichever was lost.
        (seen.len() == 2 && seen[0] == seen[1]).then(|| answer_to(packet, [192, 0, 2, 1]))
    });
    let bench = Bench::start(&[&upstream], |config| config.timeout = PATIENCE);
    let packet = query(1, "www.example.com", rtype::A);
    assert_eq!(
        addresses(&exchange(bench.address(), &packet)),
        ["192.0.2.1"]
    );
    assert_eq!(upstream.asked(), 2);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc5452_9_1_only_the_answer_to_the_question() {
    let [upstream] = upstreams();
    let bench = Bench::start(&[&upstream], |_| {});
    let packet = query(0x4242, "www.example.com", rtype::A);
    let wrong: [fn(&mut Vec<u8>); 6] = [
        |answer| answer[1] ^= 1,
        |answer| answer[2] &= 0x7f,
        |answer| answer[2] |= 0x10,
        |answer| answer[13] = b'x',
        |answer| answer.truncate(11),
        |answer| answer[5] = 2,
    ];
    for spoil in wrong {
        upstream.does(move |packet| {
            let mut answer = answer_to(packet, [203, 0, 113, 66]);
            spoil(&mut answer);
            Some(answer)
        });
        let answer = exchange(bench.address(), &packet);
        assert_eq!(rcode(&answer), 2, "{}", hex::encode(&answer));
        assert_eq!(answer[..2], [0x42, 0x42]);
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    upstream.does(move |packet| {
        noted.lock().unwrap().push(packet[..2].to_vec());
        None
    });
    // Ids are not the client's, nor one after the other.
    for _ in 0..4 {
        exchange(bench.address(), &packet);
    }
    let ids = seen.lock().unwrap().clone();
    let differing: std::collections::HashSet<_> = ids.iter().collect();
    assert!(differing.len() > 1, "{ids:?}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_through_as_they_are() {
    let [upstream] = upstreams();
    let bench = Bench::start(&[&upstream], |_| {});
    // AA, AD, an unknown type with unknown data, and an option in the OPT record.
    let tail = [
        &b"\xc0\x0c\xff\x12\x00\x01\x00\x00\x00\x3c\x00\x03\x01\x02\x03"[..],
        &b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x06\xfd\xe9\x00\x02hi"[..],
    ]
    .concat();
    let (seen, noted) = {
        let seen = Arc::new(Mutex::new(Vec::new()));
        (seen.clone(), seen)
    };
    let end = tail.clone();
    upstream.does(move |packet| {
        *noted.lock().unwrap() = packet.to_vec();
        let mut answer = saying(packet, 0);
        answer[2] |= 4;
        answer[3] |= 0x20;
        answer[7] = 1;
        answer[11] = 1;
        // Not every server keeps the case.
        answer[12..].make_ascii_lowercase();
        answer.extend_from_slice(&end);
        Some(answer)
    });
    let mut packet = with_opt(query(0x4242, "wWw.eXample.com", 0xff12), 4096, 0);
    // DO, CD, and an option of the client's.
    let len = packet.len();
    packet[len - 4] = 0x80;
    packet[3] |= 0x10;
    packet[len - 1] = 4;
    packet.extend_from_slice(&[0xfd, 0xea, 0, 0]);
    for answer in [
        exchange(bench.address(), &packet),
        exchange_tcp(bench.address(), &packet),
    ] {
        let asked = seen.lock().unwrap().clone();
        assert_eq!(
            asked[2..],
            packet[2..],
            "all but the id goes out as it came"
        );
        assert_eq!(answer[..2], packet[..2]);
        assert_eq!(answer[2..4], [0x85, 0xa0]);
        let question = &packet[12..12 + 21];
        assert_eq!(answer[12..], [question, &tail].concat());
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let [upstream] = upstreams();
    let listener = TcpListener::bind(upstream.address).unwrap();
    upstream.does(|packet| {
        let mut answer = saying(packet, 0);
        answer[2] |= 2;
        Some(answer)
    });
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let packet = read_framed(&mut stream).unwrap();
            let mut answer = answer_to(&packet, [192, 0, 2, 0]);
            for n in 1..50 {
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, n]);
            }
            answer[7] = 50;
            stream.write_all(&framed(&answer)).unwrap();
        }
    });
    let bench = Bench::start(&[&upstream], |_| {});
    let packet = query(1, "www.example.com", rtype::A);
    assert_eq!(addresses(&exchange_tcp(bench.address(), &packet)).len(), 50);
    let roomy = with_opt(packet.clone(), 1232, 0);
    assert_eq!(addresses(&exchange(bench.address(), &roomy)).len(), 50);
    // For who does not take so much over UDP there is the note to use TCP.
    let answer = parsed(&exchange(bench.address(), &packet));
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc5452_5_equal_queries_are_asked_once() {
    let [upstream] = upstreams();
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap();
    let through = gate.clone();
    upstream.does(move |packet| {
        drop(through.lock().unwrap());
        Some(answer_to(packet, [192, 0, 2, 1]))
    });
    let bench = Bench::start(&[&upstream], |config| config.timeout = PATIENCE);
    let clients: Vec<UdpSocket> = (0..20).map(|_| udp()).collect();
    for (client, id) in clients.iter().zip(0..) {
        let packet = query(id, "www.example.com", rtype::A);
        client.send_to(&packet, bench.address()).unwrap();
    }
    wait_for("the first to ask", || upstream.asked() == 1);
    // A query of another kind shows that all before it have been taken up: one for each thread.
    let waiting = || bench.server().shared.waiting.in_use();
    wait_for("all to wait", || waiting() == 20);
    drop(closed);
    for (client, id) in clients.iter().zip(0_u16..) {
        let answer = receive(client);
        assert_eq!(answer[..2], id.to_be_bytes());
        assert_eq!(addresses(&answer), ["192.0.2.1"]);
    }
    assert_eq!(upstream.asked(), 1);
    wait_for("no trace of them", || waiting() == 0);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_that_ask_each_other_give_up() {
    let placeholder = Upstream::start("127.0.0.1:0");
    let port = placeholder.address.port();
    drop(placeholder);
    let address = |n| SocketAddr::from((Ipv4Addr::new(127, 0, 0, n), port));
    wait_for("a port", || UdpSocket::bind(address(1)).is_ok());
    let directory = tempfile::tempdir().unwrap();
    let start = |n: u8, other: u8| {
        let file = directory.path().join(n.to_string());
        write_resolv_conf(&file, &format!("nameserver 127.0.0.{other}\n"));
        let config = Config {
            listen: vec![address(n)],
            resolv_conf: Some(file),
            ..loopback()
        };
        Server::start_with(config, nameserver().names(), port).unwrap()
    };
    let (one, two) = (start(1, 2), start(2, 1));
    let packet = query(1, "www.example.com", rtype::A);
    assert_eq!(rcode(&exchange(address(1), &packet)), 2);
    let asked = |server: &Server| {
        let stats = server.stats();
        stats.queries(Kind::A, Outcome::ServFail) + stats.queries(Kind::A, Outcome::Forwarded)
    };
    // The client's query and its return; the other one has seen it once.
    wait_for("the query to come to rest", || {
        asked(&one) == 2 && asked(&two) == 1
    });
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_never_ask_ourselves() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("resolv.conf");
    let text = "nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 192.0.2.7\n\
                nameserver 0.0.0.0\nnameserver ::1\n";
    write_resolv_conf(&file, text);
    let servers = |listen: &str, port: u16| {
        let asking = Asking::new(
            Some(file.clone()),
            port,
            vec![listen.parse().unwrap()],
            PATIENCE,
            tokio_util::sync::CancellationToken::new(),
            tokio_util::task::TaskTracker::new(),
        );
        let servers = asking.servers();
        servers.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let all = ["127.0.0.1", "127.0.0.2", "192.0.2.7", "::1"];
    assert_eq!(servers("127.0.0.1:53", 53), all[1..]);
    assert_eq!(servers("127.0.0.1:5353", 53), all);
    // All addresses of the host are ours then.
    assert_eq!(servers("0.0.0.0:53", 53), ["192.0.2.7", "::1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_stopped_the_original_do_no_harm() {
    let [upstream] = upstreams();
    upstream.does(|packet| Some(answer_to(packet, [192, 0, 2, 1])));
    let bench = Bench::start(&[&upstream], |_| {});
    let text = "nameserver 127.0.0.1\noptions edns0 trust-ad\nsearch .\n";
    write_resolv_conf(&bench.directory.path().join("resolv.conf"), text);
    let packet = query(1, "www.example.com", rtype::A);
    assert_eq!(bench.port, upstream.address.port());
    assert_eq!(
        addresses(&exchange(bench.address(), &packet)),
        ["192.0.2.1"]
    );
    bench.end().await;
}
