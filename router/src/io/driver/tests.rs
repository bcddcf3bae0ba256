//! Whole routers against each other, each on a loopback address of its own.

use std::any::Any;
use std::net::TcpListener;
use std::time::Duration;

use proto::gossip::GossipRefused;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use super::*;
use crate::constants::CONN_LIMIT;
use crate::crypto::session::Password;
use crate::io::testing::{PATIENCE, fake_tap, frame, received};
use crate::status::ConnectionState;

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 77, 0, number)
}

fn name(number: u8) -> PeerName {
    PeerName::from_u64(number.into()).unwrap()
}

/// A port that is free at the moment, for all routers of a test.
fn free_port() -> u16 {
    let listener = TcpListener::bind((address(1), 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn config(number: u8, port: u16, password: Option<&str>) -> RouterConfig {
    RouterConfig {
        data: DataOptions::default(),
        mesh: MeshConfig {
            name: name(number),
            nickname: format!("host{number}"),
            password: password.and_then(|text| Password::new(text.as_bytes())),
            versions: Default::default(),
            overlays: vec!["sleeve".to_owned()],
            port,
            discovery: true,
            conn_limit: CONN_LIMIT,
            trusted_subnets: Vec::new(),
        },
        bind: address(number),
        queues: Vec::new(),
        udp_offload: true,
        channels: Vec::new(),
        seed: [number; 32],
    }
}

/// A router with a bridge.
fn start(number: u8, port: u16, password: Option<&str>) -> (Router, UnixDatagram) {
    let (device, bridge) = fake_tap();
    let config = RouterConfig {
        queues: vec![device],
        ..config(number, port, password)
    };
    (Router::start(config).unwrap(), bridge)
}

/// Looks at a router until it is as wanted.
async fn until(handle: &RouterHandle, wanted: impl Fn(&RouterStatus) -> bool) -> RouterStatus {
    let looking = async {
        loop {
            let status = handle.status().await.unwrap();
            if wanted(&status) {
                return status;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap()
}

fn established(status: &RouterStatus) -> usize {
    let connections = status.mesh.connections.iter();
    connections
        .filter(|connection| connection.state == ConnectionState::Established)
        .count()
}

async fn frames_cross(password: Option<&str>) {
    let port = free_port();
    let (one, bridge_one) = start(1, port, password);
    let (two, bridge_two) = start(2, port, password);
    two.handle()
        .connect(vec![address(1).to_string()], false)
        .await
        .unwrap();
    // Both directions become known as established independently of each other.
    let both = |status: &RouterStatus| {
        status.mesh.unicast_routes.len() == 2
            && established(status) == 1
            && status.data.links.iter().all(|link| link.fragments)
    };
    let status = until(&one.handle(), both).await;
    until(&two.handle(), both).await;

    let [connection] = status.mesh.connections.as_slice() else {
        panic!("{status:#?}");
    };
    assert_eq!(connection.peer, Some((name(2), "host2".to_owned())));
    let link = connection.link.as_ref().unwrap();
    assert_eq!((link.peer, link.established), (name(2), true));
    assert_eq!(link.encrypted, password.is_some());
    assert_eq!(link.address, Some(SocketAddr::from((address(2), port))));

    for len in [60, 1514, 40_000] {
        bridge_one.send(&frame(len, 1)).await.unwrap();
        assert!(received(&bridge_two).await == frame(len, 1), "{len}");
        bridge_two.send(&frame(len, 2)).await.unwrap();
        assert!(received(&bridge_one).await == frame(len, 2), "{len}");
    }

    // A clean stop is noticed at once, and nothing runs on.
    timeout(PATIENCE, two.handle().shutdown()).await.unwrap();
    assert_eq!(two.handle().status().await.unwrap_err(), Stopped);
    assert!(
        bridge_two.send(&frame(60, 2)).await.is_err(),
        "the device is still open"
    );
    let status = until(&one.handle(), |status| status.mesh.terminations == 1).await;
    assert_eq!((established(&status), status.data.links.len()), (0, 0));
}

#[tokio::test]
async fn frames_cross_in_plain() {
    frames_cross(None).await;
}

#[tokio::test]
async fn frames_cross_sealed() {
    frames_cross(Some("secret")).await;
}

#[tokio::test]
async fn frames_are_relayed_through_a_host_without_device() {
    let port = free_port();
    let quiet = |number| {
        let (device, bridge) = fake_tap();
        let mut config = config(number, port, Some("secret"));
        config.mesh.discovery = false;
        config.queues = vec![device];
        (Router::start(config).unwrap(), bridge)
    };
    let (one, bridge_one) = quiet(1);
    let (three, bridge_three) = quiet(3);
    let middle = Router::start(config(2, port, Some("secret"))).unwrap();
    let ends = vec![address(1).to_string(), format!("{}:{port}", address(3))];
    middle.handle().connect(ends.clone(), false).await.unwrap();
    for router in [&one, &middle, &three] {
        until(&router.handle(), |status| {
            status.mesh.unicast_routes.len() == 3
        })
        .await;
    }
    let mut targets = middle.targets();
    assert_eq!(*targets.borrow_and_update(), ends);
    bridge_one.send(&frame(1000, 1)).await.unwrap();
    assert!(received(&bridge_three).await == frame(1000, 1));
    bridge_three.send(&frame(1000, 3)).await.unwrap();
    assert!(received(&bridge_one).await == frame(1000, 3));

    middle
        .handle()
        .forget(vec![address(1).to_string()])
        .await
        .unwrap();
    timeout(PATIENCE, targets.changed()).await.unwrap().unwrap();
    assert_eq!(*targets.borrow_and_update(), ends[1..]);
    let bad = middle
        .handle()
        .connect(vec!["a:b:c".to_owned()], false)
        .await;
    assert!(matches!(bad, Err(ConnectError::BadTarget(_))), "{bad:?}");
}

#[tokio::test]
async fn other_password_is_refused_and_tried_again_later() {
    let port = free_port();
    let (one, _bridge_one) = start(1, port, Some("secret"));
    let (two, _bridge_two) = start(2, port, Some("other"));
    two.handle()
        .connect(vec![address(1).to_string()], false)
        .await
        .unwrap();
    let failed = |status: &RouterStatus| {
        let connections = status.mesh.connections.iter();
        connections
            .filter_map(|connection| connection.error.as_ref())
            .count()
            == 1
    };
    let status = until(&two.handle(), failed).await;
    let [connection] = status.mesh.connections.as_slice() else {
        panic!("{status:#?}");
    };
    assert_eq!(connection.state, ConnectionState::Failed);
    assert!(connection.retry_in.is_some());
    assert_eq!(
        until(&one.handle(), |_| true).await.mesh.connections.len(),
        0
    );
}

#[tokio::test]
async fn lost_device_is_a_failure_that_is_told() {
    let (mut router, bridge) = start(1, free_port(), None);
    bridge.send(&[]).await.unwrap();
    let reason = timeout(PATIENCE, router.failed()).await.unwrap();
    assert!(reason.starts_with("TAP device fake is gone"), "{reason}");
    // It still answers.
    assert_eq!(router.handle().status().await.unwrap().mesh.name, name(1));
}

#[tokio::test]
async fn taken_port_is_named() {
    let port = free_port();
    let taken = std::net::UdpSocket::bind((address(1), port)).unwrap();
    let udp = Router::start(config(1, port, None)).map(drop).unwrap_err();
    assert_eq!(
        udp.to_string(),
        format!(
            "cannot listen on UDP 127.77.0.1:{port}: address already in use; is another router \
             running on this host? Stop it, or choose another port"
        )
    );
    drop(taken);
    let _taken = TcpListener::bind((address(1), port)).unwrap();
    let tcp = Router::start(config(1, port, None)).map(drop).unwrap_err();
    assert!(
        tcp.to_string()
            .starts_with(&format!("cannot listen on TCP 127.77.0.1:{port}: "))
    );
}

#[tokio::test]
async fn router_ends_with_its_last_handle() {
    let (router, bridge) = start(1, free_port(), None);
    let handle = router.handle();
    drop(router);
    assert!(handle.status().await.is_ok());
    drop(handle);
    let gone = async {
        while bridge.send(&frame(60, 1)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}

/// What a channel has heard.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Unicast(PeerName, Vec<u8>),
    Broadcast(PeerName, Vec<u8>),
    Gossip(Vec<u8>),
}

/// Tells the test what it hears, and passes nothing on.
struct Ear(mpsc::UnboundedSender<Heard>);

impl GossipChannel for Ear {
    fn on_unicast(&mut self, source: PeerName, payload: &[u8]) -> Result<(), GossipRefused> {
        let _ = self.0.send(Heard::Unicast(source, payload.to_vec()));
        Ok(())
    }

    fn on_broadcast(
        &mut self,
        source: PeerName,
        payload: &[u8],
    ) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
        let _ = self.0.send(Heard::Broadcast(source, payload.to_vec()));
        Ok(None)
    }

    fn on_gossip(
        &mut self,
        _: PeerName,
        payload: &[u8],
    ) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
        let _ = self.0.send(Heard::Gossip(payload.to_vec()));
        Ok(None)
    }

    fn full_state(&mut self) -> Option<Box<dyn GossipData>> {
        None
    }

    fn on_peer_forgotten(&mut self, _: PeerName) {}
}

#[derive(Clone)]
struct Text(&'static str);

impl GossipData for Text {
    fn merge(&mut self, newer: Box<dyn GossipData>) {
        if let Ok(newer) = newer.into_any().downcast::<Self>() {
            *self = *newer;
        }
    }

    fn encode(&self) -> Vec<u8> {
        self.0.as_bytes().to_vec()
    }

    fn duplicate(&self) -> Box<dyn GossipData> {
        Box::new(self.clone())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[tokio::test]
async fn channel_owners_reach_each_other() {
    let port = free_port();
    let (heard, mut hears) = mpsc::unbounded_channel();
    let mut listening = config(1, port, None);
    listening
        .channels
        .push(("test".to_owned(), Box::new(Ear(heard.clone()))));
    let one = Router::start(listening).unwrap();
    let mut twice = config(3, port, None);
    for _ in 0..2 {
        twice
            .channels
            .push(("test".to_owned(), Box::new(Ear(heard.clone()))));
    }
    assert!(matches!(
        Router::start(twice).map(drop),
        Err(StartError::Channel(_))
    ));

    let two = Router::start(config(2, port, None)).unwrap().handle();
    let nowhere = two.unicast("test", name(1), Vec::new()).await;
    assert!(matches!(nowhere, Err(SendError::Unicast(_))), "{nowhere:?}");
    two.connect(vec![address(1).to_string()], false)
        .await
        .unwrap();
    for handle in [&one.handle(), &two] {
        until(handle, |status| status.mesh.unicast_routes.len() == 2).await;
    }
    let mut next = async || {
        timeout(Duration::from_secs(10), hears.recv())
            .await
            .unwrap()
            .unwrap()
    };
    two.unicast("test", name(1), b"you".to_vec()).await.unwrap();
    assert_eq!(next().await, Heard::Unicast(name(2), b"you".to_vec()));
    two.broadcast("test", Box::new(Text("all"))).await.unwrap();
    assert_eq!(next().await, Heard::Broadcast(name(2), b"all".to_vec()));
    two.gossip("test", Box::new(Text("some"))).await.unwrap();
    assert_eq!(next().await, Heard::Gossip(b"some".to_vec()));
}
