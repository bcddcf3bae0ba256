//! What becomes of queries at a socket, with times given.

use std::net::UdpSocket as Peer;
use std::sync::mpsc;

use super::*;
use crate::query::{HEADER_LEN, rtype};
use crate::server::tests::{answer_to, query};

const PATIENCE: Duration = Duration::from_secs(3);

/// A server that does nothing by itself, and the sockets by which it is asked.
fn silent_server() -> (Peer, Arc<Ports>) {
    let peer = Peer::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(10 * PATIENCE)).unwrap();
    let address = peer.local_addr().unwrap();
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let ports = Ports::new(address, PATIENCE, stop, Handle::current(), tasks);
    // It is for the test to look what time it is.
    lock(&ports.state).ticking = true;
    (peer, ports)
}

fn received(peer: &Peer) -> Vec<u8> {
    let mut packet = vec![0; 512];
    let len = peer.recv(&mut packet).unwrap();
    packet.truncate(len);
    packet
}

/// Asks, and returns where the end of it is told.
fn ask(ports: &Arc<Ports>, packet: &[u8]) -> mpsc::Receiver<Option<Arc<[u8]>>> {
    let (sender, told) = mpsc::channel();
    let then = Box::new(move |answer| sender.send(answer).unwrap());
    ports.send(packet, packet.len() - HEADER_LEN, then);
    told
}

fn waiting(port: &Port) -> usize {
    lock(&port.pending).len()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_in_use_again_is_another_query() {
    let (peer, _) = silent_server();
    let address = peer.local_addr().unwrap();
    let port = Port::open(address, Instant::now(), CancellationToken::new()).unwrap();
    let put_down = |name: &str| {
        let packet: Arc<[u8]> = query(7, name, rtype::A).into();
        let (sender, told) = mpsc::channel();
        let pending = Pending {
            packet: packet.clone(),
            question_len: packet.len() - HEADER_LEN,
            sent_at: Instant::now(),
            resent: false,
            then: Box::new(move |answer| sender.send(answer).unwrap()),
        };
        lock(&port.pending).insert(7, pending);
        (packet, told)
    };
    let (first, told_first) = put_down("one.example.net");
    let answer = answer_to(&first, [192, 0, 2, 1]);
    port.take(&answer);
    assert_eq!(told_first.try_recv().unwrap().as_deref(), Some(&answer[..]));

    let (second, told_second) = put_down("two.example.net");
    port.fail(7, &first);
    port.take(&answer);
    assert_eq!(waiting(&port), 1, "the end of one is not that of the other");
    let answer = answer_to(&second, [192, 0, 2, 2]);
    port.take(&answer);
    assert_eq!(
        told_second.try_recv().unwrap().as_deref(),
        Some(&answer[..])
    );

    let (third, told_third) = put_down("three.example.net");
    port.fail(7, &third);
    assert_eq!(told_third.try_recv().unwrap(), None);
    assert_eq!(waiting(&port), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_repeated_once_and_then_given_up() {
    let (peer, ports) = silent_server();
    let told = ask(&ports, &query(1, "lost.example.net", rtype::A));
    let asked = received(&peer);
    let sent_at = {
        let state = lock(&ports.state);
        let mut all = state.ports.iter().flatten();
        let sent_at = all.find_map(|port| Some(lock(&port.pending).values().next()?.sent_at));
        sent_at.unwrap()
    };
    assert!(ports.look(sent_at + RESEND_AFTER));
    assert_eq!(received(&peer), asked, "the same, for either answer to do");
    assert!(ports.look(sent_at + 2 * RESEND_AFTER));
    assert!(told.try_recv().is_err(), "there is still time");
    assert!(ports.look(sent_at + PATIENCE));
    assert_eq!(told.try_recv().unwrap(), None);
    peer.set_nonblocking(true).unwrap();
    assert!(peer.recv(&mut [0; 512]).is_err(), "no third time");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_sockets_take_no_queries_and_go() {
    let (peer, ports) = silent_server();
    let packet = query(1, "www.example.net", rtype::A);
    let opened = Instant::now();
    for _ in 0..16 * PORT_COUNT {
        let then = Box::new(|_| {});
        assert!(ports.register(&packet, 21, then, opened).is_ok());
    }
    let count = |ports: &Ports| {
        let state = lock(&ports.state);
        (state.ports.iter().flatten().count(), state.retired.len())
    };
    let (young, 0) = count(&ports) else {
        panic!("old at once: {:?}", count(&ports));
    };
    assert!(young > PORT_COUNT / 2, "{young}");
    let later = opened + PORT_LIFE;
    let then = Box::new(|_| {});
    let (port, ..) = ports.register(&packet, 21, then, later).ok().unwrap();
    assert_eq!(port.born, later);
    assert!(ports.look(later));
    assert_eq!(count(&ports), (1, young), "as long as queries wait there");
    // They have waited for too long by then.
    assert!(ports.look(later));
    assert_eq!(count(&ports), (1, 0));
    drop(peer);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_listens_nobody_waits() {
    let (peer, ports) = silent_server();
    drop(peer);
    let told = ask(&ports, &query(1, "www.example.net", rtype::A));
    assert_eq!(told.recv_timeout(10 * PATIENCE).unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_server_is_the_end_of_all_waiting() {
    let (peer, ports) = silent_server();
    let packet = query(1, "www.example.net", rtype::A);
    let before = ask(&ports, &packet);
    received(&peer);
    ports.stop.cancel();
    ports.tasks.close();
    ports.tasks.wait().await;
    assert!(before.try_recv().is_err(), "dropped, not told");
    let after = ask(&ports, &packet);
    assert!(matches!(
        after.try_recv(),
        Err(mpsc::TryRecvError::Disconnected)
    ));
}
