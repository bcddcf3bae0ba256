//! Two data threads over loopback, with socket pairs in place of TAP devices. The test stands in
//! for both control halves.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use proto::{ConnectionUid, PeerUid, ShortId};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::timeout;

use super::*;
use crate::LinkId;
use crate::crypto::session::{KeyPair, Password};
use crate::dataplane::{LinkConfig, OverlayControl};
use crate::io::tap::Offloads;
use crate::io::testing::{PATIENCE, fake_tap_with, frame, received};
use crate::offload::testing::Spec;
use crate::topology::{Peers, Routes};

const LINK: LinkId = LinkId(7);

fn name(number: u64) -> PeerName {
    PeerName::from_u64(number).unwrap()
}

/// What peer `ours` believes of a mesh of two whose connection is established.
fn routes(ours: u64, other: u64) -> Arc<Routes> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut peers = [(ours, other), (other, ours)].map(|(ours, other)| {
        let id = |number| (PeerUid(number), ShortId(u16::try_from(number).unwrap()));
        let (uid, short_id) = id(ours);
        let mut peers = Peers::new(name(ours), "", uid, short_id);
        let (uid, short_id) = id(other);
        peers
            .introduce(name(other), uid, "", Some(short_id), true, &mut rng)
            .unwrap();
        peers.add_connection(name(other), "127.0.0.1:1", ours < other);
        assert!(peers.establish_connection(name(other)));
        peers
    });
    let [mine, theirs] = &mut peers;
    let update = theirs.encode([name(other)]);
    mine.apply(&update, &mut rng).unwrap();
    Arc::new(Routes::calculate(mine))
}

struct Host {
    data: DataThreads,
    reports: mpsc::Receiver<Report>,
    bridge: tokio::net::UnixDatagram,
    address: SocketAddrV4,
}

impl Host {
    fn start(ours: u64) -> Self {
        Self::with_device(ours, Offloads::None)
    }

    fn with_device(ours: u64, offloads: Offloads) -> Self {
        let (device, bridge) = fake_tap_with(offloads);
        let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr();
        let (data, reports) = start(
            name(ours),
            crate::dataplane::DataOptions::default(),
            vec![device],
            vec![socket],
        )
        .unwrap();
        Self {
            data,
            reports,
            bridge,
            address,
        }
    }

    fn command(&self, command: Command) {
        self.data.ask(Request::Command(command)).unwrap();
    }

    async fn status(&self) -> DataStatus {
        let (reply, status) = oneshot::channel();
        self.data.ask(Request::Status(reply)).unwrap();
        timeout(PATIENCE, status).await.unwrap().unwrap()
    }

    async fn report(&mut self) -> Report {
        timeout(PATIENCE, self.reports.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

/// Two hosts with an established link, host 1 being the dialler.
async fn mesh_of_two(sealed: bool) -> (Host, Host) {
    link(Host::start(1), Host::start(2), sealed).await
}

async fn link(mut one: Host, mut two: Host, sealed: bool) -> (Host, Host) {
    let pairs = [KeyPair::new([1; 32]), KeyPair::new([2; 32])];
    let password = Password::new(*b"secret").unwrap();
    let publics = pairs.each_ref().map(KeyPair::public);
    let [mine, theirs] = pairs;
    let my_key = mine.agree(publics[1], &password).unwrap();
    let their_key = theirs.agree(publics[0], &password).unwrap();
    for (host, peer, key, remote) in [
        (&one, 2, my_key, Some(two.address)),
        (&two, 1, their_key, None),
    ] {
        host.command(Command::AddLink(Box::new(LinkConfig {
            link: LINK,
            peer: name(peer),
            uid: ConnectionUid(99),
            outbound: remote.is_some(),
            local: host.address.into(),
            remote: remote.map(SocketAddr::from),
            key: sealed.then_some(key),
            overlays: vec!["sleeve".to_owned()],
        })));
        host.command(Command::Confirm(LINK));
        host.command(Command::Routes(routes(3 - peer, peer)));
    }
    // The control halves carry the overlays' messages until both links are established.
    let mut established = [false; 2];
    let mut verified = [false; 2];
    while established != [true; 2] || verified != [true; 2] {
        let (at, report) = tokio::select! {
            report = one.report() => (0, report),
            report = two.report() => (1, report),
        };
        match report {
            Report::Event(Event::Established(LINK)) => established[at] = true,
            Report::Event(Event::Control(LINK, control)) => {
                // The answer to the fragmentation test.
                verified[at] |= control.tag == 2;
                relay(if at == 0 { &two } else { &one }, control);
            }
            other => panic!("{other:?}"),
        }
    }
    (one, two)
}

fn relay(to: &Host, control: OverlayControl) {
    to.command(Command::Control(LINK, control));
}

async fn frames_of_all_lengths_arrive(sealed: bool) {
    let (one, two) = mesh_of_two(sealed).await;
    for round in 0..3 {
        for len in [14, 60, 61, 1400, 1514, 9014, 65_000] {
            let there = frame(len + round, 1);
            one.bridge.send(&there).await.unwrap();
            assert!(received(&two.bridge).await == there, "{len}");
            let back = frame(len + round, 2);
            two.bridge.send(&back).await.unwrap();
            assert!(received(&one.bridge).await == back, "{len}");
        }
    }
    let status = one.status().await;
    assert_eq!((status.local.rx_frames, status.local.tx_frames), (21, 21));
    assert_eq!(status.macs.len(), 2);
    let [link] = status.links.as_slice() else {
        panic!("{status:?}");
    };
    assert_eq!(
        (link.peer, link.established, link.encrypted),
        (name(2), true, sealed)
    );
    let dropped: Vec<_> = status
        .drops
        .iter()
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(dropped, Vec::<&(&str, u64)>::new());
    one.data.stop().await;
    two.data.stop().await;
}

#[tokio::test]
async fn plain_frames_cross() {
    frames_of_all_lengths_arrive(false).await;
}

#[tokio::test]
async fn sealed_frames_cross() {
    frames_of_all_lengths_arrive(true).await;
}

#[tokio::test]
async fn burst_arrives_in_order() {
    let (one, two) = mesh_of_two(true).await;
    // More than a batch; the socket pair makes the sender wait for the receiver.
    let send = async {
        for number in 0..500 {
            one.bridge.send(&frame(64 + number, 1)).await.unwrap();
        }
    };
    let receive = async {
        for number in 0..500 {
            assert_eq!(received(&two.bridge).await.len(), 64 + number);
        }
    };
    tokio::join!(send, receive);
}

#[tokio::test]
async fn refused_super_frames_are_cut() {
    let two = Host::with_device(2, Offloads::Tcp);
    let (one, two) = link(Host::start(1), two, true).await;
    for round in 0..20 {
        let frames: Vec<_> = (0..10)
            .map(|number| {
                Spec {
                    id: u16::try_from(number).unwrap(),
                    ..Spec::tcp(round + 500 * number, 500)
                }
                .build()
            })
            .collect();
        for frame in &frames {
            one.bridge.send(frame).await.unwrap();
        }
        for frame in frames {
            assert_eq!(received(&two.bridge).await, frame);
        }
    }
    let status = two.status().await;
    let failed = status.drops.iter().find(|drop| drop.0 == "inject_failed");
    assert_eq!(failed, Some(&("inject_failed", 0)));
}

#[tokio::test]
async fn lost_device_is_reported_and_the_thread_goes_on() {
    let (mut one, _two) = mesh_of_two(false).await;
    one.bridge.send(&[]).await.unwrap();
    loop {
        match one.report().await {
            Report::DeviceLost(reason) => {
                assert!(reason.starts_with("TAP device fake is gone"), "{reason}");
                break;
            }
            Report::Event(event) => assert!(matches!(event, Event::Control(..)), "{event:?}"),
        }
    }
    assert_eq!(one.status().await.links.len(), 1);
}

#[tokio::test]
async fn full_queue_gives_the_request_back_and_drains() {
    let host = Host::start(1);
    let refused = loop {
        if let Err(refused) = host.data.ask(Request::Command(Command::RemoveLink(LINK))) {
            break refused;
        }
    };
    assert!(matches!(
        refused,
        Request::Command(Command::RemoveLink(LINK))
    ));
    timeout(PATIENCE, host.data.room()).await.unwrap();
    assert_eq!(host.status().await.links.len(), 0);
}

#[tokio::test]
async fn thread_ends_when_nobody_holds_it() {
    let Host {
        data,
        mut reports,
        bridge,
        ..
    } = Host::start(1);
    drop(data);
    assert!(timeout(PATIENCE, reports.recv()).await.unwrap().is_none());
    // Its device is closed as well.
    assert!(bridge.send(&frame(64, 1)).await.is_err());

    let Host {
        data, mut reports, ..
    } = Host::start(1);
    timeout(PATIENCE, data.stop()).await.unwrap();
    assert!(reports.recv().await.is_none());
}
