//! Connections that must not be, and what both ends say of it.

use std::net::SocketAddr;

use super::kit::{Net, SECOND, address, config, local, password, peer};
use crate::constants::MAX_STRANGERS;
use crate::dataplane::{Command, Event, LinkConfig, OverlayControl};
use crate::status::ConnectionState;
use crate::wire::control::Message;
use crate::wire::intro::Versions;

fn pair(first: &str, second: &str) -> Net {
    let mut net = Net::new();
    for (host, text) in [(1, first), (2, second)] {
        let mut config = config(host);
        config.password = password(text);
        net.add(host, config);
    }
    net
}

fn last_link(net: &Net, host: usize) -> &LinkConfig {
    let commands = net.host(host).commands.iter().rev();
    let mut links = commands.filter_map(|command| match command {
        Command::AddLink(config) => Some(&**config),
        _ => None,
    });
    links.next().expect("no link")
}

#[test]
fn the_password_must_be_the_same() {
    let mut net = pair("secret", "secret");
    net.join(1, 2);
    assert_eq!(net.established(1), [peer(2)]);
    let (one, two) = (last_link(&net, 1), last_link(&net, 2));
    assert_eq!(one.key.as_ref().unwrap().0, two.key.as_ref().unwrap().0);
    assert_eq!(net.connections(1)[0].encrypted, Some(true));

    for (first, second, at_1, at_2) in [
        ("secret", "other", "another password", "another password"),
        (
            "secret",
            "",
            "password specified, but peer requested an unencrypted connection",
            "no password specified, but peer requested an encrypted connection",
        ),
        (
            "",
            "secret",
            "no password specified, but peer requested an encrypted connection",
            "password specified, but peer requested an unencrypted connection",
        ),
    ] {
        let mut net = pair(first, second);
        net.join(1, 2);
        assert_eq!(net.established(1), []);
        let status = &net.connections(1)[0];
        assert_eq!(status.state, ConnectionState::Failed);
        assert!(status.error.as_ref().unwrap().contains(at_1));
        assert!(status.retry_in.is_some(), "passwords can be mended");
        assert!(net.logged(1, at_1) && net.logged(2, at_2));
        assert!(!net.logged(1, "secret"));
        assert_eq!(net.mesh(1).status(net.now).terminations, 1);
    }
}

#[test]
fn versions_must_overlap() {
    let mut net = Net::new();
    for (host, versions) in [
        (1, Versions { min: 1, max: 1 }),
        (2, Versions { min: 2, max: 2 }),
        (3, Versions::default()),
    ] {
        let mut config = config(host);
        config.versions = versions;
        config.discovery = false;
        config.password = password("secret");
        net.add(host, config);
    }
    net.join(1, 2);
    assert_eq!(net.established(1), []);
    assert!(net.logged(1, "version") && net.logged(2, "version"));
    net.join(1, 3);
    assert_eq!(net.established(1), [peer(3)]);
    // With version 1 nobody can say what overlays it speaks, nor that it trusts anybody.
    assert_eq!(last_link(&net, 1).overlays, ["sleeve"]);
    assert_eq!(
        last_link(&net, 1).key.as_ref().unwrap().0,
        last_link(&net, 3).key.as_ref().unwrap().0
    );
}

#[test]
fn a_peer_of_our_name_is_refused_and_not_tried_again() {
    let mut net = Net::new();
    net.add(1, config(1));
    let mut twin = config(2);
    twin.name = peer(1);
    net.add(2, twin);
    net.join(1, 2);
    let dials = net.dial_count;
    assert!(net.logged(1, "peer name collision"));
    assert!(net.logged(2, "peer name collision"));
    net.pass(4000 * SECOND);
    assert_eq!(net.dial_count, dials);
    assert_eq!(net.mesh(1).active_target_count(), 0);
    let status = &net.connections(1)[0];
    assert_eq!(status.state, ConnectionState::Failed);
    assert_eq!(status.retry_in, None);
    net.join(1, 2);
    assert_eq!(net.dial_count, dials + 1, "the user may insist");
}

#[test]
fn we_do_not_connect_to_ourselves() {
    let mut net = Net::with_hosts(1);
    net.join(1, 1);
    assert!(net.logged(1, "cannot connect to ourself"));
    assert_eq!(net.established(1), []);
    net.pass(4000 * SECOND);
    assert_eq!(net.dial_count, 1);
    let status = net.mesh(1).status(net.now);
    assert_eq!(status.terminations, 0, "not a failure");
    let error = status.connections[0].error.as_deref();
    assert_eq!(error, Some("cannot connect to ourself"));
    assert_eq!(status.connections[0].retry_in, None);
    assert_eq!(status.peers.len(), 1);
}

#[test]
fn discovery_does_not_bring_strangers_in() {
    let mut net = Net::with_hosts(2);
    // Where host 2 believes peer 9 to be, somebody else answers.
    let there = "10.9.0.9:6783".parse().unwrap();
    net.listen(there, local(8), 1);
    let probe = net.probe(2, "10.9.0.9:50000".parse().unwrap(), &local(9));
    net.join(1, 2);
    net.pass(2 * SECOND);
    assert!(net.logged(1, "Found unknown remote name: 00:00:00:00:00:08"));
    assert!(net.mesh(1).peers().get(peer(8)).is_none());
    // Named by the user, it may be anybody.
    net.connect(1, "10.9.0.9");
    assert_eq!(net.established(1), [peer(2), peer(8)]);
    net.probe_hangs_up(probe);
}

#[test]
fn both_ends_must_trust_each_other() {
    for (first, second, plain) in [
        ("10.0.0.0/24", "10.0.0.0/24", true),
        ("10.0.0.0/24", "10.1.0.0/24", false),
        ("", "10.0.0.1/32", false),
        ("10.0.0.2/32", "10.0.0.1/32", true),
    ] {
        let mut net = Net::new();
        for (host, subnets) in [(1, first), (2, second)] {
            let mut config = config(host);
            config.password = password("secret");
            let subnets = subnets.split(',').filter(|subnet| !subnet.is_empty());
            config.trusted_subnets = subnets.map(|subnet| subnet.parse().unwrap()).collect();
            net.add(host, config);
        }
        net.join(1, 2);
        assert_eq!(net.established(1), [peer(2)]);
        for host in [1, 2] {
            assert_eq!(last_link(&net, host).key.is_none(), plain);
            assert_eq!(net.connections(host)[0].encrypted, Some(!plain));
        }
    }
}

#[test]
fn overlays_are_those_that_both_ends_speak_in_our_order() {
    let link = |ours: &[&str], theirs: Option<&[&str]>| {
        let mut net = Net::new();
        let mut config = config(1);
        config.overlays = ours.iter().map(|&name| name.to_owned()).collect();
        net.add(1, config);
        let mut neighbour = local(9);
        neighbour.overlays = theirs
            .unwrap_or_default()
            .iter()
            .map(|&name| name.to_owned())
            .collect();
        net.probe(1, "10.9.0.1:1".parse().unwrap(), &neighbour);
        if net.established(1).is_empty() {
            assert!(net.logged(1, "no overlay in common"));
            return None;
        }
        Some(last_link(&net, 1).overlays.join(" "))
    };
    assert_eq!(
        link(&["sleeve"], Some(&["fastdp", "sleeve"])).as_deref(),
        Some("sleeve")
    );
    assert_eq!(
        link(&["new", "sleeve"], Some(&["sleeve", "new"])).as_deref(),
        Some("new sleeve")
    );
    assert_eq!(link(&["new", "sleeve"], None).as_deref(), Some("sleeve"));
    assert_eq!(link(&["sleeve"], Some(&["awsvpc"])), None);
    assert_eq!(link(&["new"], None), None);
    assert_eq!(link(&["sleeve"], Some(&["", "Sleeve"])), None);
}

#[test]
fn overlay_control_never_names_an_overlay_that_is_not_common() {
    let mut net = Net::with_hosts(1);
    let probe = net.probe(1, "10.9.0.1:1".parse().unwrap(), &local(9));
    let link = net.link(1, 9);
    net.taken(probe);
    let control = |index, tag| OverlayControl {
        index,
        tag,
        body: vec![],
    };
    for index in [1, 255, 0] {
        let event = Event::Control(link, control(index, 1));
        net.call(1, |mesh, now| mesh.handle_data_event(event, now));
    }
    assert_eq!(net.taken(probe), [Message::Overlay(control(0, 1))]);
    // And we survive what would crash the original.
    for index in [7, 0, 255] {
        net.probe_sends(probe, &Message::Overlay(control(index, 2)));
    }
    let received: Vec<_> = net
        .host(1)
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::Control(_, control) => Some(control.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(received, [control(0, 2)]);
    assert_eq!(net.established(1), [peer(9)]);
}

#[test]
fn an_end_without_overlays_is_spoken_to_in_the_old_form() {
    let mut net = Net::with_hosts(1);
    let mut old = local(9);
    old.overlays = Vec::new();
    let probe = net.probe(1, address(9), &old);
    let link = net.link(1, 9);
    net.probes[probe].bytes.clear();
    let control = OverlayControl {
        index: 0,
        tag: 3,
        body: vec![5, 0x9e],
    };
    let event = Event::Control(link, control);
    net.call(1, |mesh, now| mesh.handle_data_event(event, now));
    assert_eq!(net.probes[probe].bytes, [0, 0, 0, 3, 3, 5, 0x9e]);
}

#[test]
fn callers_that_say_nothing_are_bounded() {
    let mut net = Net::with_hosts(2);
    let probes: Vec<_> = (0..MAX_STRANGERS + 5)
        .map(|number| {
            let port = 1000 + u16::try_from(number).unwrap();
            net.raw_probe(1, SocketAddr::new([10, 9, 0, 1].into(), port))
        })
        .collect();
    let open = |net: &Net| {
        let probes = probes
            .iter()
            .filter(|&&probe| net.probes[probe].closed.is_none());
        probes.count()
    };
    assert_eq!(open(&net), MAX_STRANGERS);
    net.pass(11 * SECOND);
    assert_eq!(open(&net), 0);
    net.join(2, 1);
    assert_eq!(net.established(1), [peer(2)]);
}
