//! What clients may try, by mistake or on purpose.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::*;
use crate::server::Limits;

/// A server whose upstream server, at an address of its own, never answers, so queries wait.
struct Stuck {
    server: Server,
    upstream: Upstream,
    _directory: tempfile::TempDir,
}

fn stuck(limits: Limits) -> Stuck {
    let upstream = Upstream::start("127.0.0.1:0");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("resolv.conf");
    write_resolv_conf(&file, "nameserver 127.0.0.1\n");
    let config = Config {
        resolv_conf: Some(file),
        timeout: 10 * PATIENCE,
        limits,
        ..loopback()
    };
    let names = some_names().names();
    Stuck {
        server: Server::start_with(config, names, upstream.address.port()).unwrap(),
        upstream,
        _directory: directory,
    }
}

fn from(client: &str, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(client).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn who_makes_all_wait_does_not_keep_others_from_answers() {
    let stuck = stuck(Limits {
        waiting: 30,
        waiting_per_client: 20,
        ..Limits::default()
    });
    let address = stuck.server.addresses()[0];
    let greedy = from("127.0.0.2:0", address);
    for id in 0..21_u16 {
        let name = format!("n{id}.example.com");
        greedy.send(&query(id, &name, rtype::A)).unwrap();
    }
    // The last has no place, and is told so at once.
    let answer = receive(&greedy);
    assert_eq!((answer[1], answer[3] & 15), (20, 2));
    let other = from("127.0.0.3:0", address);
    for id in 0..11_u16 {
        let name = format!("m{id}.example.com");
        other.send(&query(id, &name, rtype::A)).unwrap();
    }
    let answer = receive(&other);
    assert_eq!((answer[1], answer[3] & 15), (10, 2));
    // Names of ours are answered all the same, also to the greedy one.
    for client in [&greedy, &other] {
        client
            .send(&query(99, "web.weave.local", rtype::A))
            .unwrap();
        assert_eq!(receive(client)[..4], [0, 99, 0x85, 0x80]);
    }
    wait_for("all to be on their way", || stuck.upstream.asked() == 30);
    // The end does not wait for them.
    stuck.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc7766_6_2_2_connections_are_bounded() {
    let stuck = stuck(Limits {
        connections: 8,
        connections_per_client: 3,
        ..Limits::default()
    });
    let address = stuck.server.addresses()[0];
    let packet = framed(&query(7, "web.weave.local", rtype::A));
    let mut held: Vec<TcpStream> = (0..3).map(|_| tcp(address)).collect();
    for stream in &mut held {
        stream.write_all(&packet).unwrap();
        read_framed(stream).unwrap();
    }
    // One more is closed at once.
    let mut refused = tcp(address);
    let _ = refused.write_all(&packet);
    assert!(read_framed(&mut refused).is_err());
    // When one ends there is a place again.
    held.pop();
    wait_for("a place", || {
        let mut stream = tcp(address);
        stream.write_all(&packet).is_ok() && read_framed(&mut stream).is_ok()
    });
    stuck.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc7766_6_2_3_idle_and_slow_connections_end() {
    let stuck = stuck(Limits {
        idle: Duration::from_millis(300),
        ..Limits::default()
    });
    let address = stuck.server.addresses()[0];
    let packet = framed(&query(7, "web.weave.local", rtype::A));
    let mut idle = tcp(address);
    idle.write_all(&packet).unwrap();
    read_framed(&mut idle).unwrap();
    assert!(read_framed(&mut idle).is_err(), "it is closed when idle");
    // A byte now and then is no query.
    let mut slow = tcp(address);
    slow.set_nodelay(true).unwrap();
    let mut bytes = packet.iter().cycle();
    let begun = Instant::now();
    let mut sent = 0;
    while sent < packet.len() - 1 {
        if slow.write_all(&[*bytes.next().unwrap()]).is_err() {
            break;
        }
        sent += 1;
        thread::sleep(Duration::from_millis(50));
        assert!(begun.elapsed() < PATIENCE);
    }
    assert!(read_framed(&mut slow).is_err(), "it was closed meanwhile");
    stuck.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_answers_is_left() {
    let stuck = stuck(Limits {
        idle: Duration::from_millis(300),
        ..Limits::default()
    });
    let address = stuck.server.addresses()[0];
    let mut deaf = tcp(address);
    deaf.set_write_timeout(Some(PATIENCE)).unwrap();
    let packet = framed(&query(7, "many.weave.local", rtype::A)).repeat(200);
    // Answers pile up until nothing moves, and then the connection ends.
    wait_for("the end of the connection", || {
        deaf.write_all(&packet).is_err()
    });
    stuck.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc7766_6_2_1_1_and_7_queries_need_not_wait_for_earlier_ones() {
    let stuck = stuck(Limits::default());
    let address = stuck.server.addresses()[0];
    let mut stream = tcp(address);
    let slow = framed(&query(1, "www.example.com", rtype::A));
    let quick = framed(&query(2, "web.weave.local", rtype::A));
    stream.write_all(&[slow.clone(), quick].concat()).unwrap();
    assert_eq!(read_framed(&mut stream).unwrap()[..2], [0, 2]);
    wait_for("the first to be asked", || stuck.upstream.asked() == 1);
    // It waits on. A hundred queries at once, all answered.
    stuck
        .upstream
        .does(|packet| Some(answer_to(packet, [192, 0, 2, 1])));
    let queries: Vec<u8> = (100..200)
        .flat_map(|id| framed(&query(id, &format!("n{id}.example.com"), rtype::A)))
        .collect();
    stream.write_all(&queries).unwrap();
    let mut ids: Vec<u8> = (100..200)
        .map(|_| read_framed(&mut stream).unwrap()[1])
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (100..200).collect::<Vec<u8>>());
    stuck.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_little_longer_than_queries_can_make_them() {
    let mut nameserver = some_names();
    for n in 0..1000 {
        let addr = format!("10.40.{}.{}", n / 250, n % 250);
        add(&mut nameserver, "crowd.weave.local", &addr);
    }
    let server = Server::start(loopback(), nameserver.names()).unwrap();
    let address = server.addresses()[0];
    for name in [
        "crowd.weave.local",
        "many",
        "weave.local",
        "nosuch.weave.local",
    ] {
        for qtype in (0..300).chain([0xffff]) {
            let packet = query(1, name, qtype);
            assert!(exchange(address, &packet).len() <= 512, "{name} {qtype}");
            let answer = exchange(address, &with_opt(packet, 65535, 0));
            assert!(answer.len() <= 1232, "{name} {qtype}");
        }
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_changes_nothing() {
    let seed = 0x1035;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let server = Server::start(loopback(), some_names().names()).unwrap();
    let address = server.addresses()[0];
    let client = from("127.0.0.2:0", address);
    client.set_nonblocking(true).unwrap();
    let mut answer = [0; 65536];
    for _ in 0..3000 {
        let mut packet = vec![0; rng.random_range(0..200)];
        rng.fill_bytes(&mut packet);
        if rng.random_ratio(3, 4) {
            // Something that looks like a query.
            let whole = with_opt(query(1, "web.weave.local", rtype::A), 1232, 0);
            packet = whole;
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..packet.len());
                packet[at] = rng.random();
            }
            packet.truncate(rng.random_range(0..=packet.len()));
        }
        let _ = client.send(&packet);
        while client.recv(&mut answer).is_ok() {}
    }
    let mut stream = tcp(address);
    let mut noise = vec![0; 100_000];
    rng.fill_bytes(&mut noise);
    let _ = stream.write_all(&noise);
    let answer = exchange(address, &query(7, "web.weave.local", rtype::A));
    assert_eq!(answer[..4], [0, 7, 0x85, 0x80]);
    server.shutdown().await;
}
