//! Datagrams that nobody honest sends, and an underlay that does its worst.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use proto::{MacAddr, PeerName};

use super::net::{Net, Underlay, arp, ipv4, key, mac, peer};
use crate::LinkId;
use crate::constants::ANSWER_QUEUE_LEN;
use crate::dataplane::{DropReason, Event};
use crate::wire::sleeve::{FRAGMENTATION_TEST_LEN, record_header};

const SECOND: Duration = Duration::from_secs(1);

fn elsewhere() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 40_001))
}

/// A plain packet of node `sender`.
fn packet(sender: usize, records: &[(PeerName, PeerName, &[u8])]) -> Vec<u8> {
    let mut packet = peer(sender).to_bytes().to_vec();
    for (origin, destination, frame) in records {
        let len = u16::try_from(frame.len()).unwrap();
        packet.extend(record_header(*origin, *destination, len));
        packet.extend(*frame);
    }
    packet
}

/// Three nodes in a chain, plain; node 1 is the one under attack.
fn chain() -> Net {
    let mut net = Net::linked(3, &[(0, 1), (1, 2)], Underlay::with_mtu(1500), None);
    net.introduce_containers();
    net
}

#[test]
fn faults_in_a_packet_cost_only_what_follows() {
    let mut net = chain();
    let frame = arp(mac(0, 1), mac(1, 1), 60);
    let good = packet(0, &[(peer(0), peer(1), &frame), (peer(0), peer(1), &frame)]);
    assert_eq!(net.receive(1, elsewhere(), &good).len(), 2);
    for (cut, frames) in [
        (good.len() - 1, 1),
        (81, 1),
        (80, 1),
        (79, 0),
        (7, 0),
        (6, 0),
    ] {
        assert_eq!(
            net.receive(1, elsewhere(), &good[..cut]).len(),
            frames,
            "{cut}"
        );
    }
    assert_eq!(net.drops(1, DropReason::Malformed), 4);
    for len in 0..6 {
        assert_eq!(net.receive(1, elsewhere(), &good[..len]).len(), 0);
    }
    assert_eq!(net.drops(1, DropReason::DatagramTooShort), 6);
    let mut unknown = good.clone();
    unknown[0] = 1;
    assert_eq!(net.receive(1, elsewhere(), &unknown).len(), 0);
    assert_eq!(net.drops(1, DropReason::UnknownSender), 1);
    // Runts between good frames.
    let runts = [&[][..], &[1; 13], &frame];
    let runts = packet(0, &runts.map(|frame| (peer(0), peer(1), frame)));
    assert_eq!(net.receive(1, elsewhere(), &runts), [frame]);
    assert_eq!(net.drops(1, DropReason::FrameTooShort), 2);
}

#[test]
fn peers_must_be_known() {
    let mut net = chain();
    let frame = arp(mac(0, 1), mac(1, 1), 60);
    for (origin, destination) in [(peer(9), peer(1)), (peer(0), peer(9)), (peer(9), peer(9))] {
        let packet = packet(0, &[(origin, destination, &frame)]);
        assert_eq!(net.receive(1, elsewhere(), &packet).len(), 0);
    }
    let nobody = packet(0, &[(PeerName::UNKNOWN, peer(1), &frame)]);
    assert_eq!(net.receive(1, elsewhere(), &nobody).len(), 0);
    assert_eq!(net.drops(1, DropReason::UnknownPeer), 4);
}

#[test]
fn what_would_go_back_is_dropped() {
    let mut net = chain();
    net.nodes[1].sent.clear();
    // For node 0, says node 0.
    let frame = arp(mac(2, 1), mac(0, 1), 60);
    let packet = packet(0, &[(peer(2), peer(0), &frame)]);
    net.receive(1, elsewhere(), &packet);
    assert_eq!(net.drops(1, DropReason::SentBack), 1);
    assert!(net.nodes[1].sent.is_empty());
}

#[test]
fn special_frames_are_for_neighbours_only() {
    let mut net = chain();
    net.nodes[1].sent.clear();
    let test = [0; 600];
    for (origin, destination) in [
        (peer(2), peer(1)),
        (peer(0), peer(2)),
        (peer(1), peer(1)),
        (peer(9), peer(1)),
    ] {
        net.receive(1, elsewhere(), &packet(0, &[(origin, destination, &test)]));
    }
    assert_eq!(net.drops(1, DropReason::SpecialMisdirected), 4);
    let mut spoilt = vec![0; FRAGMENTATION_TEST_LEN];
    spoilt[60_000] = 1;
    let mut heartbeat = [0; 22];
    heartbeat[21] = 1;
    // A test of nothing would earn an answer that upsets the original.
    for frame in [&spoilt[..], &heartbeat, &[0; 14]] {
        net.receive(1, elsewhere(), &packet(0, &[(peer(0), peer(1), frame)]));
    }
    assert_eq!(net.drops(1, DropReason::SpecialInvalid), 3);
    assert!(net.nodes[1].sent.is_empty());
    assert_eq!(net.status(1).address, Some(net.nodes[0].address));
    assert_eq!(net.bridge(1).len(), 0);
}

#[test]
fn answers_to_tests_are_bounded() {
    let mut net = chain();
    let tests = vec![(peer(0), peer(1), &[0; 15][..]); 2000];
    let mut datagram = packet(0, &tests);
    let node = &mut net.nodes[1];
    node.engine
        .handle_datagram(elsewhere(), &mut datagram, net.now);
    let mut answers = 0;
    while let Some(event) = node.engine.poll_event() {
        assert!(matches!(event, Event::Control(LinkId(0), control) if control.body == [0, 1]));
        answers += 1;
    }
    assert_eq!(answers, ANSWER_QUEUE_LEN);
    assert_eq!(
        net.drops(1, DropReason::AnswerQueueFull),
        2000 - answers as u64
    );
}

#[test]
fn sealed_packets_count_once() {
    let mut net = Net::linked(2, &[(0, 1)], Underlay::with_mtu(1500), key().as_ref());
    net.introduce_containers();
    net.nodes[0].sent.clear();
    let frames: Vec<_> = (0..20)
        .map(|number| ipv4(mac(0, 1), mac(1, 1), number % 2 == 0, 1000 + number))
        .collect();
    net.capture(0, &frames);
    net.run_for(SECOND);
    assert_eq!(net.bridge(1).len(), 20);
    let sent: Vec<_> = net.nodes[0]
        .sent
        .iter()
        .map(|sent| sent.1.clone())
        .collect();
    assert_eq!(sent.len(), 20);
    for packet in &sent {
        assert_eq!(net.receive(1, elsewhere(), packet).len(), 0);
        for at in [6, 7, 13, 14, 29, 30, packet.len() - 1] {
            let mut forged = packet.clone();
            forged[at] ^= 0x10;
            assert_eq!(net.receive(1, elsewhere(), &forged).len(), 0);
        }
        for len in 6..30 {
            assert_eq!(net.receive(1, elsewhere(), &packet[..len]).len(), 0);
        }
    }
    assert_eq!(net.drops(1, DropReason::DatagramTooShort), 20 * 24);
    // A forged number may be one that was seen.
    let refused = net.drops(1, DropReason::Replayed) + net.drops(1, DropReason::NotAuthentic);
    assert_eq!(refused, 20 * 8);
    // The forgeries have not moved the window.
    net.capture(0, &frames);
    net.run_for(SECOND);
    assert_eq!(net.bridge(1).len(), 20);
}

#[test]
fn frames_arrive_at_most_once_over_a_bad_path() {
    for seed in 0..10 {
        let mut net = Net::new(2, Underlay::with_mtu(1500), seed);
        net.publish_routes(&[(0, 1)]);
        net.link(LinkId(0), 0, 1, key(), key());
        net.run_for(5 * SECOND);
        net.introduce_containers();
        net.underlay = Underlay {
            loss: 0.1,
            duplication: 0.3,
            corruption: 0.1,
            jitter: Duration::from_millis(30),
            ..net.underlay
        };
        let mut sent: Vec<Vec<u8>> = Vec::new();
        for batch in 0..50 {
            let frame = |index: usize| {
                let len = 100 + (batch * 37 + index * 291) % 1300;
                let mut frame = ipv4(mac(0, 1), mac(1, 1), !index.is_multiple_of(3), len);
                let number = u32::try_from(sent.len() + index).unwrap();
                frame[40..44].copy_from_slice(&number.to_be_bytes());
                frame
            };
            let frames: Vec<_> = (0..20).map(frame).collect();
            net.capture(0, &frames);
            sent.extend(frames);
            net.run_for(Duration::from_millis(5));
        }
        net.underlay.corruption = 0.0;
        net.run_for(SECOND);
        let mut counts: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        for frame in net.bridge(1) {
            *counts.entry(frame).or_default() += 1;
        }
        assert!(counts.values().all(|&count| count == 1));
        assert!(counts.keys().all(|frame| sent.contains(frame)));
        assert!(counts.len() > 600, "{} of {}", counts.len(), sent.len());
        assert!(net.drops(1, DropReason::Replayed) > 0);
        assert!(net.drops(1, DropReason::NotAuthentic) > 0);
    }
}

#[test]
fn views_that_differ_do_not_loop_for_ever() {
    // Each node believes that the way to node 0 leads over the other.
    let mut net = Net::linked(3, &[(1, 2), (0, 1)], Underlay::with_mtu(1500), None);
    net.introduce_containers();
    let wrong = super::net::routes(3, &[(1, 2), (2, 0)]);
    net.command(
        1,
        crate::dataplane::Command::Routes(wrong[1].clone().into()),
    );
    net.capture(2, &[arp(mac(2, 1), mac(0, 1), 60)]);
    net.run_for(SECOND);
    assert_eq!(net.drops(1, DropReason::SentBack), 1);
    assert_eq!(net.bridge(0).len(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_datagram_is_survived(
        datagrams in prop::collection::vec(
            (0..4_u8, prop::collection::vec(any::<u8>(), 0..200)), 1..30
        ),
        is_sealed: bool,
    ) {
        let key = is_sealed.then(|| key().unwrap());
        let mut net = Net::linked(3, &[(0, 1), (1, 2)], Underlay::with_mtu(1500), key.as_ref());
        net.introduce_containers();
        for (sender, bytes) in datagrams {
            // Mostly with the name of a neighbour, so that more is looked at than the name.
            let name = PeerName::from_u64(u64::from(sender)).unwrap().to_bytes();
            let datagram = [&name[..], &bytes].concat();
            let before: u64 = net.all_drops(1).iter().map(|drop| drop.1).sum();
            let frames = net.receive(1, elsewhere(), &datagram);
            let after: u64 = net.all_drops(1).iter().map(|drop| drop.1).sum();
            prop_assert!(!is_sealed || (frames.is_empty() && after == before + 1));
            prop_assert!(after > before || !frames.is_empty() || bytes.is_empty());
        }
        net.run_for(SECOND);
    }

    #[test]
    fn any_mutation_of_a_good_packet_is_survived(
        mutations in prop::collection::vec((0..200_usize, any::<u8>()), 1..5),
        cut in 0..200_usize,
    ) {
        let mut net = chain();
        let frame = arp(mac(0, 1), MacAddr::BROADCAST, 60);
        let mut datagram = packet(0, &[(peer(0), peer(1), &frame), (peer(0), peer(2), &frame), (peer(0), peer(1), &[0; 22])]);
        for (at, value) in mutations {
            let at = 6 + at % (datagram.len() - 6);
            datagram[at] = value;
        }
        datagram.truncate(datagram.len() - cut.min(datagram.len()));
        net.receive(1, elsewhere(), &datagram);
        net.run_for(SECOND);
    }

    #[test]
    fn any_frame_from_the_bridge_is_survived(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..20),
        ether_type in prop_oneof![Just([8, 0]), Just([0x86, 0xdd]), Just([0, 0]), Just([0x81, 0])],
    ) {
        let mut net = Net::linked(2, &[(0, 1)], Underlay { fragments: false, ..Underlay::with_mtu(200) }, key().as_ref());
        for mut frame in frames {
            if let Some(place) = frame.get_mut(12..14) {
                place.copy_from_slice(&ether_type);
            }
            net.capture(0, &[frame]);
        }
        net.run_for(SECOND);
    }
}
