//! Peers that find each other, lose each other and come back.

use std::net::SocketAddr;

use proto::PeerUid;
use proto::gossip::{GossipChannel, GossipData, GossipRefused};

use super::kit::{Net, SECOND, address, config, local, password, peer};
use crate::LinkId;
use crate::dataplane::{Command, Event, LinkConfig, LinkError, OverlayControl};
use crate::mesh::Mesh;
use crate::status::ConnectionState;
use crate::topology::Peer;
use crate::wire::control::Message;

fn added(net: &Net, host: usize) -> Vec<&LinkConfig> {
    let commands = net.host(host).commands.iter();
    commands
        .filter_map(|command| match command {
            Command::AddLink(config) => Some(&**config),
            _ => None,
        })
        .collect()
}

/// What commands of a host were about, in order.
fn outline(net: &Net, host: usize) -> Vec<&'static str> {
    let commands = net.host(host).commands.iter();
    commands
        .map(|command| match command {
            Command::AddLink(_) => "add",
            Command::Confirm(_) => "confirm",
            Command::Control(..) => "control",
            Command::RemoveLink(_) => "remove",
            Command::Routes(_) => "routes",
            Command::PeerForgotten(_) => "forgotten",
        })
        .collect()
}

fn all_agree(net: &Net, hosts: &[usize]) {
    let records = |host: usize| -> Vec<Peer> { net.mesh(host).peers().iter().cloned().collect() };
    for &host in hosts {
        assert_eq!(records(host), records(hosts[0]), "host {host}");
    }
}

#[test]
fn two_peers_meet() {
    let mut net = Net::with_hosts(2);
    net.overlays_work = false;
    net.join(1, 2);
    assert_eq!(net.peers_in(1, ConnectionState::Pending), [peer(2)]);
    assert_eq!(net.mesh(1).routes().unicast(peer(2)), None);

    let (one, two) = (added(&net, 1)[0], added(&net, 2)[0]);
    assert!(one.outbound && !two.outbound);
    assert_eq!((one.peer, two.peer), (peer(2), peer(1)));
    assert_eq!(one.uid, two.uid);
    assert_eq!(one.remote, Some(address(2)));
    assert_eq!(
        two.remote, None,
        "an acceptor learns it from the first datagram"
    );
    assert_eq!(one.local.ip(), address(1).ip());
    assert_eq!(two.local, address(2));
    assert!(one.key.is_none() && two.key.is_none());
    assert_eq!(
        (&one.overlays, &two.overlays),
        (&vec!["sleeve".into()], &vec!["sleeve".into()])
    );
    for host in [1, 2] {
        assert_eq!(outline(&net, host), ["routes", "add", "confirm"]);
        let (link, far) = (net.link(host, 3 - host), 3 - host);
        net.call(host, |mesh, now| {
            mesh.handle_data_event(Event::Established(link), now);
            // Once is enough.
            mesh.handle_data_event(Event::Established(link), now);
        });
        assert_eq!(net.established(host), [peer(far)]);
        assert!(net.logged(host, "connection added (new peer)"));
    }
    net.pass(SECOND / 10);
    assert_eq!(
        net.mesh(1).routes().unicast(peer(2)),
        None,
        "host 2's side is not known yet"
    );
    net.pass(SECOND + SECOND / 10);
    for host in [1, 2] {
        let far = peer(3 - host);
        let routes = net.mesh(host).routes();
        assert_eq!(routes.unicast(far), Some(far));
        assert_eq!(routes.broadcast(peer(host)), [far]);
        let ours = net.mesh(host).peers().ours();
        assert_eq!((ours.version, ours.connections.len()), (2, 1));
    }
    all_agree(&net, &[1, 2]);
    let status = net.mesh(1).status(net.now);
    assert_eq!(status.peers.len(), 2);
    assert_eq!(status.connections[0].address, address(2).to_string());
    assert_eq!(
        status.connections[0].peer,
        Some((peer(2), "host2".to_owned()))
    );
    assert_eq!(status.connections[0].encrypted, None);
    assert_eq!(status.peers[0].connections[0].nickname, "host2");
    assert_eq!(status.targets, ["10.0.0.2"]);
    assert_eq!(net.host(1).targets_changed, [["10.0.0.2"]]);
}

#[test]
fn discovery_closes_the_triangle_and_without_it_there_is_a_chain() {
    for discovery in [true, false] {
        let mut net = Net::new();
        for host in 1..=3 {
            let mut config = config(host);
            config.discovery = discovery;
            net.add(host, config);
        }
        net.join(1, 2);
        net.join(3, 2);
        net.pass(5 * SECOND);
        all_agree(&net, &[1, 2, 3]);
        if discovery {
            assert_eq!(net.established(1), [peer(2), peer(3)]);
            assert_eq!(net.established(3), [peer(1), peer(2)]);
        } else {
            assert_eq!(net.established(1), [peer(2)]);
            assert_eq!(net.mesh(1).routes().unicast(peer(3)), Some(peer(2)));
            assert_eq!(net.mesh(2).routes().broadcast(peer(1)), [peer(3)]);
        }
        net.pass(1000 * SECOND);
        assert_eq!(net.mesh(1).status(net.now).terminations, 0);
        all_agree(&net, &[1, 2, 3]);
    }
}

#[test]
fn of_two_simultaneous_dials_both_ends_keep_the_same() {
    for encrypted in [false, true] {
        let mut net = Net::new();
        for host in [1, 2] {
            let mut config = config(host);
            config.password = password(if encrypted { "secret" } else { "" });
            net.add(host, config);
        }
        net.hold_dials = true;
        net.connect(1, "10.0.0.2:6783");
        net.connect(2, "10.0.0.1:6783");
        net.release_dials();
        assert_eq!(net.dial_count, 2);
        let uid = |host: usize| {
            let link = net.link(host, 3 - host);
            let found = added(&net, host)
                .into_iter()
                .find(|config| config.link == link);
            found.unwrap().uid
        };
        let lowest = added(&net, 1)
            .iter()
            .map(|config| config.uid)
            .min()
            .unwrap();
        assert_eq!((uid(1), uid(2)), (lowest, lowest));
        assert_eq!(net.established(1), [peer(2)]);
        assert_eq!(net.established(2), [peer(1)]);
        net.pass(5 * SECOND);
        all_agree(&net, &[1, 2]);
        // The one that lost does not try for as long as the other lives.
        net.pass(3600 * SECOND);
        assert_eq!(net.dial_count, 2);
        assert_eq!(net.established(1), [peer(2)]);
        net.cut(1, 2);
        net.pass(5 * SECOND);
        assert_eq!(net.established(1), [peer(2)]);
        all_agree(&net, &[1, 2]);
    }
}

#[test]
fn of_two_connections_to_one_peer_that_with_the_lower_number_lives() {
    let mut net = Net::with_hosts(1);
    let uid = |net: &Net, probe: usize| {
        let introduction = net.probes[probe].introduction.as_ref().unwrap();
        introduction.connection
    };
    let mut holder = net.probe_with_id(1, "10.9.0.1:1".parse().unwrap(), &local(9), 0);
    for attempt in 0..20 {
        let remote = SocketAddr::new([10, 9, 0, 1].into(), 100 + attempt);
        let newcomer = net.probe_with_id(1, remote, &local(9), u64::from(attempt));
        let loser = if uid(&net, newcomer) < uid(&net, holder) {
            std::mem::replace(&mut holder, newcomer)
        } else {
            newcomer
        };
        assert!(net.probes[loser].closed.is_some());
        assert!(net.logged(1, "Multiple connections to 00:00:00:00:00:09 added to"));
        assert_eq!(net.probes[holder].closed, None);
        assert_eq!(net.established(1), [peer(9)]);
        assert_eq!(net.mesh(1).peers().ours().connections.len(), 1);
    }
    // With equal numbers both go.
    let same = uid(&net, holder);
    let life = local(9).uid;
    let refused = net.call(1, |mesh, now| {
        mesh.break_tie(peer(9), life, same, now).is_err()
    });
    assert!(refused && net.probes[holder].closed.is_some());
    assert_eq!(net.established(1), []);
}

#[test]
fn a_connection_to_an_earlier_life_of_the_peer_gives_way_whatever_its_number() {
    let mut net = Net::with_hosts(1);
    let mut neighbour = local(9);
    let mut holder = net.probe(1, "10.9.0.1:1".parse().unwrap(), &neighbour);
    for life in 0..20 {
        neighbour.uid = PeerUid(5000 + life);
        let remote = SocketAddr::new([10, 9, 0, 1].into(), 100);
        let newcomer = net.probe_with_id(1, remote, &neighbour, life);
        assert!(net.probes[holder].closed.is_some());
        assert_eq!(net.probes[newcomer].closed, None);
        holder = newcomer;
    }
    assert_eq!(net.established(1), [peer(9)]);
}

#[test]
fn the_connection_limit_holds_for_both_directions() {
    let mut net = Net::new();
    let mut limited = config(1);
    limited.conn_limit = 1;
    net.add(1, limited);
    for host in 2..=4 {
        let mut config = config(host);
        config.discovery = false;
        config.conn_limit = 0;
        net.add(host, config);
    }
    net.join(1, 2);
    net.join(3, 1);
    assert_eq!(net.established(1), [peer(2)]);
    assert_eq!(net.established(3), []);
    assert!(net.logged(1, "Connection limit reached (1)"));
    let dials = net.dial_count;
    net.join(1, 4);
    assert_eq!(net.dial_count, dials, "not even dialled");
    let failed = net
        .connections(1)
        .into_iter()
        .find(|entry| entry.peer.is_none())
        .unwrap();
    assert_eq!(failed.state, ConnectionState::Failed);
    assert_eq!(
        failed.error.as_deref(),
        Some("Connection limit reached (1)")
    );
    // Peers of refused connections are not kept for good.
    net.call(3, |mesh, now| mesh.forget(&["10.0.0.1".into()], now));
    net.call(1, |mesh, now| mesh.forget(&["10.0.0.4".into()], now));
    net.pass(3 * SECOND);
    assert_eq!(net.mesh(1).peers().len(), 2);
    net.cut(1, 2);
    net.pass(600 * SECOND);
    assert_eq!(net.established(1).len(), 1);
}

#[test]
fn a_restarted_peer_is_believed_again() {
    let mut net = Net::with_hosts(3);
    net.join(1, 2);
    net.join(3, 2);
    net.pass(10 * SECOND);
    for _ in 0..3 {
        net.cut(3, 1); // some versions more
        net.pass(10 * SECOND);
    }
    let (old, version) = {
        let old = net.mesh(1).peers().get(peer(3)).unwrap();
        (old.uid, old.version)
    };
    assert!(version > 4);
    net.stop(3);
    net.start(3);
    net.join(3, 2);
    assert!(net.logged(2, "connection added (restarted peer)") || net.mesh(2).peers().len() == 3);
    net.pass(10 * SECOND);
    let new = net.mesh(1).peers().get(peer(3)).unwrap();
    assert_ne!(new.uid, old);
    all_agree(&net, &[1, 2, 3]);
    assert_eq!(net.established(3), [peer(1), peer(2)]);
}

#[test]
fn a_peer_restarted_before_it_was_missed_jumps_past_its_old_version() {
    let mut net = Net::new();
    for host in 1..=3 {
        let mut config = config(host);
        config.discovery = false;
        net.add(host, config);
    }
    // 3 keeps 1 reachable for 2 while 1 restarts its connection with 2 only.
    net.join(1, 2);
    net.join(1, 3);
    net.join(2, 3);
    net.pass(10 * SECOND);
    let version = net.mesh(2).peers().get(peer(1)).unwrap().version;
    net.hold_dials = true; // 3 cannot come back yet
    net.stop(1);
    net.start(1);
    net.join(1, 2);
    net.release_dials();
    net.pass(10 * SECOND);
    let record = net.mesh(3).peers().get(peer(1)).unwrap();
    assert_eq!(record.uid, net.mesh(1).uid());
    assert!(record.version > 0 && version > 0);
    all_agree(&net, &[1, 2, 3]);
}

#[test]
fn a_lost_peer_is_forgotten_at_once_and_the_routes_follow() {
    struct Owner(std::sync::mpsc::Sender<(bool, proto::PeerName)>);
    impl GossipChannel for Owner {
        fn on_unicast(&mut self, _: proto::PeerName, _: &[u8]) -> Result<(), GossipRefused> {
            Ok(())
        }
        fn on_broadcast(
            &mut self,
            _: proto::PeerName,
            _: &[u8],
        ) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
            Ok(None)
        }
        fn on_gossip(
            &mut self,
            _: proto::PeerName,
            _: &[u8],
        ) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
            Ok(None)
        }
        fn full_state(&mut self) -> Option<Box<dyn GossipData>> {
            None
        }
        fn on_peer_learnt(&mut self, peer: proto::PeerName) {
            self.0.send((true, peer)).unwrap();
        }
        fn on_peer_forgotten(&mut self, peer: proto::PeerName) {
            self.0.send((false, peer)).unwrap();
        }
    }
    let mut net = Net::new();
    for host in 1..=3 {
        let mut config = config(host);
        config.discovery = false;
        net.add(host, config);
    }
    let (sender, told) = std::sync::mpsc::channel();
    net.call(1, |mesh, _| {
        mesh.register_channel("mine", Box::new(Owner(sender)))
    })
    .unwrap();
    net.join(1, 2);
    net.join(2, 3);
    net.pass(10 * SECOND);
    assert_eq!(net.mesh(1).routes().unicast(peer(3)), Some(peer(2)));
    // Peer 3 may have been forgotten once, before 2 said that it is connected to it.
    let told_so_far: Vec<_> = told.try_iter().collect();
    assert!(told_so_far.iter().filter(|(learnt, _)| !learnt).count() <= 1);
    for host in [2, 3] {
        let last = told_so_far
            .iter()
            .rfind(|(_, peer)| *peer == self::peer(host));
        assert_eq!(last, Some(&(true, peer(host))));
    }
    net.stop(2);
    assert_eq!(net.mesh(1).peers().len(), 1, "2 and what was behind it");
    let forgotten: Vec<_> = told.try_iter().collect();
    assert_eq!(forgotten, [(false, peer(2)), (false, peer(3))]);
    let tail: Vec<_> = outline(&net, 1).into_iter().rev().take(3).collect();
    assert_eq!(tail, ["forgotten", "forgotten", "remove"]);
    net.pass(SECOND / 5);
    assert_eq!(outline(&net, 1).last(), Some(&"routes"));
    assert_eq!(net.mesh(1).routes().unicast(peer(3)), None);
    assert_eq!(net.mesh(1).status(net.now).terminations, 1);
    let failed = &net.connections(1)[0];
    assert_eq!(failed.state, ConnectionState::Failed);
    assert!(
        failed
            .error
            .as_deref()
            .unwrap()
            .contains("connection reset by peer")
    );
    assert!(failed.retry_in.is_some());
}

#[test]
fn a_failed_overlay_ends_the_connection() {
    let mut net = Net::with_hosts(2);
    net.join(1, 2);
    net.pass(5 * SECOND);
    let link = net.link(2, 1);
    let event = Event::Failed(link, LinkError::HeartbeatTimeout);
    net.call(2, |mesh, now| mesh.handle_data_event(event, now));
    assert!(net.logged(2, "timed out waiting for UDP heartbeat"));
    assert_eq!(net.established(1), []);
    net.pass(5 * SECOND);
    assert_eq!(net.established(1), [peer(2)]);
    // The link is gone: nothing it says counts.
    let version = net.mesh(2).peers().ours().version;
    for event in [
        Event::Failed(link, LinkError::HeartbeatTimeout),
        Event::Established(link),
        Event::Control(
            link,
            OverlayControl {
                index: 0,
                tag: 1,
                body: vec![],
            },
        ),
    ] {
        net.call(2, |mesh, now| mesh.handle_data_event(event, now));
    }
    assert_eq!(net.mesh(2).peers().ours().version, version);
}

#[test]
fn a_silent_neighbour_is_dropped_after_a_minute() {
    let mut net = Net::with_hosts(1);
    let probe = net.raw_probe(1, "10.9.0.1:1".parse().unwrap());
    net.probe_sends_bytes(probe, b"weave\x01\x02".to_vec());
    net.pass(59 * SECOND);
    assert_eq!(net.probes[probe].closed, None);
    net.pass(2 * SECOND);
    assert!(net.probes[probe].closed.is_some());
    // One that has been introduced sends heartbeats, and gets them.
    let probe = net.probe(1, "10.9.0.1:2".parse().unwrap(), &local(9));
    net.pass(600 * SECOND);
    assert_eq!(net.established(1), [peer(9)]);
    let heartbeats = net.probes[probe].messages.iter();
    assert!(
        heartbeats
            .filter(|&message| *message == Message::Heartbeat)
            .count()
            >= 18
    );
}

#[test]
fn a_dial_without_answer_is_given_up() {
    let mut net = Net::with_hosts(2);
    net.hold_dials = true;
    net.join(1, 2);
    assert_eq!(net.connections(1)[0].state, ConnectionState::Connecting);
    net.pass(21 * SECOND);
    assert_eq!(net.connections(1)[0].state, ConnectionState::Failed);
    assert_eq!(
        net.connections(1)[0].error.as_deref(),
        Some("connection attempt timed out")
    );
    net.pass(4 * SECOND);
    assert_eq!(net.connections(1)[0].state, ConnectionState::Retrying);
    net.release_dials();
    assert_eq!(net.established(1), [peer(2)]);
}

#[test]
fn names_are_followed_to_their_new_address() {
    let mut net = Net::with_hosts(3);
    net.names.insert("other".into(), vec![address(2).ip()]);
    net.connect(1, "other");
    net.pass(70 * SECOND);
    assert_eq!(net.established(1), [peer(2)]);
    net.stop(2);
    net.names.insert("other".into(), vec![address(3).ip()]);
    net.pass(15 * SECOND);
    assert_eq!(net.established(1), [peer(3)]);
    assert_eq!(net.mesh(1).targets(), ["other"]);
}

#[test]
fn forgotten_targets_are_not_dialled_again() {
    let mut net = Net::with_hosts(2);
    net.join(1, 2);
    net.call(1, |mesh, now| mesh.forget(&["10.0.0.2".into()], now));
    assert_eq!(net.established(1), [peer(2)]);
    assert_eq!(net.host(1).targets_changed.last(), Some(&vec![]));
    net.cut(1, 2);
    net.pass(600 * SECOND);
    assert_eq!(net.established(1), []);
    let bad = ["a b".to_owned()];
    net.call(1, |mesh, now| mesh.connect(&bad, true, now))
        .unwrap_err();
}

#[test]
fn after_shutdown_nothing_happens_any_more() {
    let mut net = Net::with_hosts(3);
    net.join(1, 2);
    net.hold_dials = true;
    net.join(1, 3);
    let probe = net.raw_probe(1, "10.9.0.1:1".parse().unwrap());
    net.call(1, Mesh::shutdown);
    assert_eq!(net.mesh(1).poll_timeout(), None);
    assert!(net.probes[probe].closed.is_some());
    assert_eq!(net.established(2), []);
    assert_eq!(
        outline(&net, 1)
            .iter()
            .filter(|&&what| what == "remove")
            .count(),
        1
    );
    let link = LinkId(1);
    net.call(1, |mesh, now| {
        mesh.handle_bytes(link, b"weave", now);
        mesh.handle_closed(link, String::new(), now);
        mesh.handle_timeout(now + 1000 * SECOND);
    });
    assert_eq!(net.mesh(1).poll_timeout(), None);
}
