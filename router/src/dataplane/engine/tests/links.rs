//! Links: how they come up, what they find out about the path, how they end.

use std::net::SocketAddr;
use std::time::Duration;

use proto::ConnectionUid;

use super::net::{Net, Underlay, key, peer};
use crate::LinkId;
use crate::dataplane::{Command, DropReason, Event, LinkConfig, LinkError, OverlayControl};

const MS: Duration = Duration::from_millis(1);
const LINK: LinkId = LinkId(0);

fn two(underlay: Underlay) -> Net {
    let mut net = Net::new(2, underlay, 1);
    net.publish_routes(&[(0, 1)]);
    net
}

#[test]
fn both_ends_establish_and_find_the_mtu() {
    for (key, mtu) in [(None, 1438), (key(), 1414)] {
        let mut net = two(Underlay::with_mtu(1500));
        net.link(LINK, 0, 1, key.clone(), key.clone());
        net.run_for(20 * MS);
        for index in [0, 1] {
            assert_eq!(net.nodes[index].events, [Event::Established(LINK)]);
            let status = net.status(index);
            assert_eq!((status.mtu, status.fragments), (mtu, true), "{index}");
            assert!(status.established);
            assert_eq!(status.encrypted, key.is_some());
            assert_eq!(status.address, Some(net.nodes[1 - index].address));
            assert_eq!((status.peer, status.overlay), (peer(1 - index), "sleeve"));
            assert_eq!(net.all_drops(index), []);
        }
        // Heartbeat, fragmentation test, MTU test; the probe was refused by the kernel.
        let lens = |index: usize| -> Vec<_> {
            let sent = net.nodes[index].sent.iter();
            sent.map(|(df, bytes)| (*df, bytes.len())).collect()
        };
        let header = if key.is_some() { 30 } else { 6 };
        let expected = [(true, header + 36), (false, header + 60015), (true, 1472)];
        assert_eq!(lens(0), expected);
        assert_eq!(lens(1), expected);
    }
}

#[test]
fn heartbeats_are_fast_until_heard_then_slow() {
    let mut net = two(Underlay::with_mtu(1500));
    net.underlay.loss = 1.0;
    net.link(LINK, 0, 1, None, None);
    net.run_for(2100 * MS);
    let heartbeats = |net: &Net, index: usize| {
        net.nodes[index]
            .sent
            .iter()
            .filter(|sent| sent.1.len() == 42)
            .count()
    };
    // At 0, 500, .. 2000 ms; the acceptor does not know where to send.
    assert_eq!((heartbeats(&net, 0), heartbeats(&net, 1)), (5, 0));
    net.underlay.loss = 0.0;
    net.run_for(1000 * MS);
    assert_eq!(net.nodes[0].events.len() + net.nodes[1].events.len(), 2);
    let before = heartbeats(&net, 0);
    net.run_for(Duration::from_secs(100));
    assert!((10..=11).contains(&(heartbeats(&net, 0) - before)));
    assert_eq!(net.nodes[0].events, [Event::Established(LINK)]);
}

#[test]
fn silence_fails_the_link() {
    let mut net = two(Underlay::with_mtu(1500));
    net.link(LINK, 0, 1, None, None);
    net.run_for(Duration::from_secs(100));
    net.underlay.loss = 1.0;
    net.run_for(Duration::from_secs(49));
    assert_eq!(net.nodes[0].events.len(), 1);
    net.run_for(Duration::from_secs(12));
    for index in [0, 1] {
        let failed = Event::Failed(LINK, LinkError::HeartbeatTimeout);
        assert_eq!(net.nodes[index].events[1..], [failed]);
        assert!(!net.status(index).established);
    }
    // Said once, and nothing is sent any more.
    let sent = net.nodes[0].sent.len();
    net.run_for(Duration::from_secs(1000));
    assert_eq!(
        (net.nodes[0].events.len(), net.nodes[0].sent.len()),
        (2, sent)
    );
    net.command(0, Command::RemoveLink(LINK));
    assert!(net.nodes[0].engine.status(net.now).links.is_empty());
}

#[test]
fn a_link_that_never_comes_up_fails_after_a_minute() {
    let mut net = two(Underlay::with_mtu(1500));
    net.underlay.loss = 1.0;
    net.link(LINK, 0, 1, key(), key());
    net.run_for(Duration::from_secs(60) - MS);
    assert_eq!(net.nodes[1].events, []);
    net.run_for(2 * MS);
    for index in [0, 1] {
        assert_eq!(
            net.nodes[index].events,
            [Event::Failed(LINK, LinkError::HeartbeatTimeout)]
        );
    }
}

#[test]
fn different_keys_never_establish() {
    let mut net = two(Underlay::with_mtu(1500));
    net.link(
        LINK,
        0,
        1,
        key(),
        Some(crate::crypto::session::SessionKey([1; 32])),
    );
    net.run_for(10_000 * MS);
    assert_eq!(net.nodes[0].events.len() + net.nodes[1].events.len(), 0);
    assert!(net.drops(1, DropReason::NotAuthentic) >= 20);
    // One end sealed, the other not: garbage to each other.
    let mut net = two(Underlay::with_mtu(1500));
    net.link(LINK, 0, 1, None, key());
    net.run_for(10_000 * MS);
    assert_eq!(net.nodes[0].events.len() + net.nodes[1].events.len(), 0);
    assert!(net.drops(1, DropReason::NotAuthentic) >= 20);
}

fn config(link: LinkId, remote: Option<SocketAddr>) -> Box<LinkConfig> {
    Box::new(LinkConfig {
        link,
        peer: peer(1),
        uid: ConnectionUid(9),
        outbound: remote.is_some(),
        local: SocketAddr::from(([10, 0, 0, 1], 6783)),
        remote,
        key: None,
        overlays: vec!["sleeve".to_owned()],
    })
}

fn control(tag: u8, body: &[u8]) -> OverlayControl {
    OverlayControl {
        index: 0,
        tag,
        body: body.to_vec(),
    }
}

#[test]
fn nothing_is_sent_or_heard_before_confirmation() {
    let mut net = two(Underlay::with_mtu(1500));
    let remote = net.nodes[1].address;
    net.command(0, Command::AddLink(config(LINK, Some(remote))));
    let heartbeat = [
        &[0, 0, 0, 0, 0, 2][..],
        &[0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 22],
    ]
    .concat();
    let heartbeat = [&heartbeat[..], &[0; 14], &9_u64.to_be_bytes()].concat();
    net.receive(0, remote, &heartbeat);
    net.run_for(100_000 * MS);
    assert!(net.nodes[0].sent.is_empty() && net.nodes[0].events.is_empty());
    assert_eq!(net.drops(0, DropReason::UnknownSender), 1);
    net.command(0, Command::Confirm(LINK));
    assert_eq!(net.nodes[0].sent.len(), 1);
    // Only the first confirmation counts.
    net.command(0, Command::Confirm(LINK));
    assert_eq!(net.nodes[0].sent.len(), 1);
}

#[test]
fn an_acknowledgement_of_nothing_fails_the_link() {
    let mut net = two(Underlay::with_mtu(1500));
    net.command(0, Command::AddLink(config(LINK, None)));
    net.command(0, Command::Confirm(LINK));
    net.command(0, Command::Control(LINK, control(1, &[])));
    assert_eq!(
        net.nodes[0].events,
        [Event::Failed(LINK, LinkError::UnexpectedAck)]
    );
    assert!(net.nodes[0].sent.is_empty());
}

#[test]
fn odd_control_messages_are_passed_over() {
    let mut net = two(Underlay::with_mtu(1500));
    net.link(LINK, 0, 1, None, None);
    net.run_for(100 * MS);
    let sent = net.nodes[0].sent.len();
    for control in [
        control(1, &[]),
        control(1, &[1, 2, 3]),
        control(2, &[]),
        control(3, &[]),
        control(3, &[5]),
        control(3, &[0, 0]),
        control(3, &[0xff, 0xff]),
        control(0, &[]),
        control(4, &[1; 64]),
        control(255, &[]),
        OverlayControl {
            index: 1,
            ..control(1, &[])
        },
        OverlayControl {
            index: 255,
            ..control(3, &[0, 0])
        },
    ] {
        net.command(0, Command::Control(LINK, control));
    }
    net.command(0, Command::Control(LinkId(99), control(1, &[])));
    assert_eq!((net.nodes[0].sent.len(), net.status(0).mtu), (sent, 1438));
    assert_eq!(net.nodes[0].events, [Event::Established(LINK)]);
}

#[test]
fn overlays_that_are_unknown_keep_their_index() {
    let mut net = two(Underlay::with_mtu(1500));
    let remote = net.nodes[1].address;
    let mut unknown = config(LINK, Some(remote));
    unknown.overlays = vec!["fastdp".to_owned(), "sleeve".to_owned()];
    net.command(0, Command::AddLink(unknown));
    net.command(0, Command::Confirm(LINK));
    net.command(0, Command::Control(LINK, control(1, &[])));
    assert_eq!(net.nodes[0].events, []);
    let acknowledged = OverlayControl {
        index: 1,
        ..control(1, &[])
    };
    net.command(0, Command::Control(LINK, acknowledged));
    assert_eq!(net.nodes[0].events, [Event::Established(LINK)]);

    let mut net = two(Underlay::with_mtu(1500));
    let mut unknown = config(LINK, Some(remote));
    unknown.overlays = vec!["fastdp".to_owned()];
    net.command(0, Command::AddLink(unknown));
    assert_eq!(net.nodes[0].events, []);
    net.command(0, Command::Confirm(LINK));
    assert_eq!(
        net.nodes[0].events,
        [Event::Failed(LINK, LinkError::NoOverlay)]
    );
}

#[test]
fn a_heartbeat_from_elsewhere_moves_the_link() {
    let mut net = two(Underlay::with_mtu(1500));
    net.link(LINK, 0, 1, key(), key());
    net.run_for(100 * MS);
    let elsewhere = SocketAddr::from(([192, 0, 2, 7], 40_001));
    net.nodes[1].address = elsewhere;
    net.run_for(Duration::from_secs(12));
    assert_eq!(net.status(0).address, Some(elsewhere));
    net.run_for(Duration::from_secs(300));
    assert_eq!(net.nodes[0].events, [Event::Established(LINK)]);
    assert_eq!(net.nodes[1].events, [Event::Established(LINK)]);
}

#[test]
fn a_second_connection_takes_over_from_the_first() {
    let mut net = two(Underlay::with_mtu(1500));
    net.link(LINK, 0, 1, key(), key());
    net.run_for(100 * MS);
    let second = LinkId(1);
    net.link(second, 1, 0, key(), key());
    for index in [0, 1] {
        net.command(index, Command::RemoveLink(LINK));
    }
    net.run_for(Duration::from_secs(300));
    for index in [0, 1] {
        let expected = [LINK, second].map(Event::Established);
        assert_eq!(net.nodes[index].events, expected);
        assert_eq!(net.nodes[index].engine.status(net.now).links.len(), 1);
    }
}

/// What the original answered to test frames, when tried live.
#[test]
fn tests_are_answered_as_by_the_original() {
    let mut tried = 0;
    for vector in crate::testing::vectors("live_checks.json") {
        let name = vector["name"].as_str().unwrap();
        let mut frame = match name.split_once(':') {
            Some(("send special frame", _)) => {
                let len = vector["inputs"]["frame_bytes"].as_u64().unwrap();
                vec![0; usize::try_from(len).unwrap()]
            }
            None if name == "send 60001 byte special frame that is not all zero" => vec![0; 60_001],
            None if name.starts_with("MTU test 700 from another UDP source port") => vec![0; 714],
            _ => continue,
        };
        if name.contains("not all zero") {
            frame[30_000] = 1;
        }
        let mut net = two(Underlay::with_mtu(1500));
        net.link(LINK, 0, 1, None, None);
        net.run_for(100 * MS);
        let len = u16::try_from(frame.len()).unwrap().to_be_bytes();
        let names = [
            &peer(0).to_bytes()[..],
            &peer(0).to_bytes(),
            &peer(1).to_bytes(),
            &len,
        ];
        let mut packet = [&names.concat()[..], &frame].concat();
        let elsewhere = SocketAddr::from(([10, 0, 0, 1], 40_001));
        let node = &mut net.nodes[1];
        assert!(
            node.engine
                .handle_datagram(elsewhere, &mut packet, net.now)
                .is_empty()
        );
        let mut answers = Vec::new();
        while let Some(Event::Control(_, control)) = node.engine.poll_event() {
            let body: String = control
                .body
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            answers.push(format!(
                "tag 7 {:02x}{:02x}{body}",
                control.index, control.tag
            ));
        }
        let mut expected = vector["meaning"]["tcp"].as_array().unwrap().clone();
        // The one that we keep to ourselves, because it would upset the original.
        expected.retain(|answer| answer != "tag 7 00030000");
        assert_eq!(answers, expected, "{name}");
        // Only a heartbeat moves the link.
        assert_eq!(net.status(1).address, Some(net.nodes[0].address));
        tried += 1;
    }
    assert_eq!(tried, 6);
}

#[test]
fn the_mtu_search_holds_on_every_path() {
    for key in [None, key()] {
        let overhead = if key.is_some() { 86 } else { 62 };
        for local_mtu in [552, 576, 1280, 1400, 1460, 1500, 9000, 60_000] {
            for real_mtu in [552, 640, 1280, 1492, 1500, 8999, 65_535] {
                let real_mtu = local_mtu.min(real_mtu);
                let underlay = Underlay {
                    real_mtu,
                    fragments: local_mtu % 8 == 0,
                    ..Underlay::with_mtu(local_mtu)
                };
                let mut net = two(underlay);
                net.link(LINK, 0, 1, key.clone(), key.clone());
                net.run_for(Duration::from_secs(60));
                let expected = if real_mtu == local_mtu {
                    local_mtu - overhead
                } else {
                    (real_mtu - overhead).max(552)
                };
                for index in [0, 1] {
                    let status = net.status(index);
                    assert_eq!(usize::from(status.mtu), expected, "{local_mtu} {real_mtu}");
                    assert_eq!(status.fragments, underlay.fragments);
                    let longest = net.nodes[index].sent.iter().filter(|sent| sent.0);
                    let longest = longest.map(|sent| sent.1.len() + 28).max().unwrap();
                    assert_eq!(longest, local_mtu, "tested up to the path's own MTU");
                }
            }
        }
    }
}

#[test]
fn a_path_without_limit_needs_no_search() {
    let mut net = two(Underlay::with_mtu(65_535));
    net.link(LINK, 0, 1, None, None);
    net.run_for(Duration::from_secs(60));
    for index in [0, 1] {
        assert_eq!(net.status(index).mtu, 65_535);
        // The neighbour answers the probe as a test; the answer means nothing to us.
        assert_eq!(net.all_drops(index), []);
    }
}

#[test]
fn links_come_up_over_a_bad_path() {
    for seed in 0..20 {
        let underlay = Underlay {
            loss: 0.3,
            duplication: 0.2,
            jitter: 20 * MS,
            ..Underlay::with_mtu(1500)
        };
        let mut net = Net::new(2, underlay, seed);
        net.link(LINK, 0, 1, key(), key());
        net.run_for(Duration::from_secs(25));
        for index in [0, 1] {
            assert_eq!(net.nodes[index].events, [Event::Established(LINK)]);
            // The first fragmentation test may be lost; it is repeated after 5 minutes.
            assert_eq!(net.status(index).mtu, 1414);
        }
        net.underlay.loss = 0.0;
        net.run_for(Duration::from_secs(600));
        assert!(net.status(0).fragments && net.status(1).fragments);
    }
}

#[test]
fn fragments_are_tested_again_and_again() {
    let mut net = two(Underlay::with_mtu(1500));
    net.link(LINK, 0, 1, None, None);
    net.run_for(Duration::from_secs(10));
    assert!(net.status(0).fragments);
    net.underlay.fragments = false;
    net.run_for(Duration::from_secs(300));
    assert!(!net.status(0).fragments);
    net.underlay.fragments = true;
    net.run_for(Duration::from_secs(300));
    assert!(net.status(0).fragments);
}
