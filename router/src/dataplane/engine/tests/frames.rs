//! Frames: which way they take, whole or in pieces.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::MacAddr;

use super::net::{Net, Underlay, arp, ipv4, key, mac};
use crate::constants::MAC_MAX_AGE;
use crate::dataplane::DropReason;
use crate::wire::ethernet::{Frame, HEADER_LEN};

const SECOND: Duration = Duration::from_secs(1);
/// A group address that is not the broadcast address.
const GROUP: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

fn pair(underlay: Underlay) -> Net {
    let mut net = Net::linked(2, &[(0, 1)], underlay, key().as_ref());
    net.introduce_containers();
    net
}

#[test]
fn frames_of_every_kind_cross() {
    for key in [None, key()] {
        let mut net = Net::linked(2, &[(0, 1)], Underlay::with_mtu(1500), key.as_ref());
        net.introduce_containers();
        let mtu = usize::from(net.status(0).mtu);
        let (a, b) = (mac(0, 1), mac(1, 1));
        let frames = [
            arp(a, b, 42),
            arp(a, b, 14),
            arp(a, MacAddr::BROADCAST, 42),
            arp(a, GROUP, 9000),
            ipv4(a, b, true, 84),
            ipv4(a, b, true, mtu),
            ipv4(a, b, false, 84),
            ipv4(a, b, false, mtu + 1),
            ipv4(a, b, false, 60_000),
            ipv4(a, GROUP, false, 3000),
            arp(a, mac(1, 9), 60),
        ];
        for frame in &frames {
            net.capture(0, std::slice::from_ref(frame));
            net.run_for(SECOND);
            assert_eq!(net.bridge(1), std::slice::from_ref(frame));
        }
        // All at once: each lane keeps its order.
        net.capture(0, &frames);
        net.run_for(SECOND);
        let mut got = net.bridge(1);
        got.sort();
        let mut expected = frames.to_vec();
        expected.sort();
        assert_eq!(got, expected);
        assert_eq!(net.all_drops(0), []);
        assert_eq!(net.all_drops(1), []);
        let status = net.status(0);
        let bytes: usize = frames.iter().map(Vec::len).sum();
        // The containers' introductions are counted as well.
        assert_eq!(status.traffic.tx_frames, 23);
        assert_eq!(status.traffic.tx_bytes, 2 * bytes as u64 + 42);
        assert_eq!(net.status(1).traffic.rx_bytes, status.traffic.tx_bytes);
        let local = net.nodes[0].engine.status(net.now).local;
        assert_eq!((local.rx_frames, local.tx_frames), (23, 1));
    }
}

#[test]
fn the_df_flag_of_a_frame_decides_its_lane() {
    let mut net = pair(Underlay::with_mtu(1500));
    let (a, b) = (mac(0, 1), mac(1, 1));
    let mut lane = |frame: Vec<u8>| {
        net.nodes[0].sent.clear();
        net.capture(0, &[frame]);
        net.nodes[0]
            .sent
            .iter()
            .map(|sent| sent.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(lane(ipv4(a, b, true, 100)), [true]);
    assert_eq!(lane(ipv4(a, b, false, 100)), [false]);
    assert_eq!(lane(arp(a, b, 100)), [false]);
    net.underlay.fragments = false;
    net.run_for(Duration::from_secs(300));
    let mut lane = |frame: Vec<u8>| {
        net.nodes[0].sent.clear();
        net.capture(0, &[frame]);
        net.nodes[0]
            .sent
            .iter()
            .map(|sent| sent.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(lane(ipv4(a, b, true, 100)), [true]);
    assert_eq!(lane(ipv4(a, b, false, 100)), [true]);
    assert_eq!(lane(ipv4(a, b, false, 3000)), [true; 3]);
    assert_eq!(lane(arp(a, b, 100)), [false]);
    // A tagged frame is not looked into.
    let mut tagged = ipv4(a, b, true, 100);
    tagged[12] = 0x81;
    assert_eq!(lane(tagged), [false]);
}

#[test]
fn too_long_and_not_to_be_fragmented() {
    let mut net = pair(Underlay::with_mtu(1500));
    let (a, b) = (mac(0, 1), mac(1, 1));
    let frame = ipv4(a, b, true, 1415);
    net.capture(0, std::slice::from_ref(&frame));
    net.run_for(SECOND);
    assert_eq!(net.bridge(1), Vec::<Vec<u8>>::new());
    let answers = net.bridge(0);
    assert_eq!(answers.len(), 1);
    let answer = Frame::new_checked(&answers[0]).unwrap();
    assert_eq!((answer.source(), answer.destination()), (b, a));
    let ip = answer.ipv4().unwrap();
    assert_eq!(
        (ip.source(), ip.destination()),
        ([10, 2, 1, 2], [10, 2, 1, 1])
    );
    assert_eq!(ip.payload()[..2], [3, 4]);
    assert_eq!(ip.payload()[6..8], 1414_u16.to_be_bytes());
    assert_eq!(ip.payload()[8..], frame[HEADER_LEN..HEADER_LEN + 28]);
    assert_eq!(net.all_drops(0), [("fragmentation_needed", 1)]);

    // In a flood nobody is told.
    net.capture(
        0,
        &[ipv4(a, GROUP, true, 1415), ipv4(a, mac(1, 9), true, 1415)],
    );
    net.run_for(SECOND);
    assert_eq!(net.bridge(0).len() + net.bridge(1).len(), 0);
    assert_eq!(net.drops(0, DropReason::FloodTooBig), 2);
}

#[test]
fn a_relay_tells_the_origin() {
    // The second hop has the smaller MTU: node 1 learns it while node 0 thinks 9000 will do.
    let edges = [(0, 1), (1, 2)];
    let mut net = Net::linked(3, &edges, Underlay::with_mtu(9000), key().as_ref());
    net.introduce_containers();
    let second = crate::LinkId(1);
    net.underlay.local_mtu = 1500;
    net.nodes[1].engine.handle_too_long(second, 1500, net.now);
    net.drain(1);
    net.underlay.local_mtu = 9000;
    net.run_for(SECOND);
    let (a, c) = (mac(0, 1), mac(2, 1));
    net.capture(0, &[ipv4(a, c, true, 5000)]);
    net.run_for(SECOND);
    assert_eq!(net.bridge(1).len() + net.bridge(2).len(), 0);
    let answers = net.bridge(0);
    assert_eq!(answers.len(), 1);
    let answer = Frame::new_checked(&answers[0]).unwrap();
    assert_eq!((answer.source(), answer.destination()), (c, a));
    assert_eq!(
        answer.ipv4().unwrap().payload()[6..8],
        1414_u16.to_be_bytes()
    );
    assert_eq!(net.all_drops(1), [("fragmentation_needed", 1)]);
}

#[test]
fn fragments_are_made_where_the_underlay_makes_none() {
    let underlay = Underlay {
        fragments: false,
        ..Underlay::with_mtu(1500)
    };
    let mut net = pair(underlay);
    let (a, b) = (mac(0, 1), mac(1, 1));
    let frame = ipv4(a, b, false, 4000);
    net.capture(0, std::slice::from_ref(&frame));
    net.run_for(SECOND);
    let parts = net.bridge(1);
    assert_eq!(parts.len(), 3);
    let mut joined: Vec<u8> = Vec::new();
    for part in &parts {
        let view = Frame::new_checked(part).unwrap();
        let ip = view.ipv4().unwrap();
        assert_eq!(usize::from(ip.fragment_offset()) * 8, joined.len());
        assert_eq!(
            ip.more_fragments(),
            joined.len() + ip.payload().len() < 3980
        );
        joined.extend(ip.payload());
    }
    assert_eq!(joined, frame[HEADER_LEN + 20..]);
    // A group gets fragments too; what is not IPv4 is left to the underlay, which loses it.
    net.capture(
        0,
        &[
            ipv4(a, GROUP, false, 4000),
            arp(a, b, 4000),
            arp(a, b, 1000),
        ],
    );
    net.run_for(SECOND);
    assert_eq!(net.bridge(1).len(), 4);
}

/// Sends a broadcast, a unicast to each and a unicast to nobody from every node; counts arrivals.
fn check_reach(count: usize, edges: &[(usize, usize)]) {
    let mut net = Net::linked(count, edges, Underlay::with_mtu(1500), key().as_ref());
    for origin in 0..count {
        for destination in [MacAddr::BROADCAST, GROUP, mac(99, 9)] {
            let frame = arp(mac(origin, 1), destination, 60 + origin);
            net.capture(origin, std::slice::from_ref(&frame));
            net.run_for(SECOND);
            for index in 0..count {
                let expected = if index == origin {
                    vec![]
                } else {
                    vec![frame.clone()]
                };
                assert_eq!(net.bridge(index), expected, "{origin} to {index}");
            }
        }
    }
    for origin in 0..count {
        for target in 0..count {
            let frame = ipv4(mac(origin, 1), mac(target, 1), true, 100 + origin);
            net.capture(origin, std::slice::from_ref(&frame));
            net.run_for(SECOND);
            for index in 0..count {
                let expected = if index == target && target != origin {
                    vec![frame.clone()]
                } else {
                    vec![]
                };
                assert_eq!(
                    net.bridge(index),
                    expected,
                    "{origin} to {target} at {index}"
                );
            }
        }
    }
    for index in 0..count {
        assert_eq!(net.all_drops(index), [("local_destination", 1)]);
        assert_eq!(net.nodes[index].engine.status(net.now).macs.len(), count);
    }
}

#[test]
fn a_chain_relays() {
    check_reach(3, &[(0, 1), (1, 2)]);
    check_reach(5, &[(0, 1), (2, 1), (2, 3), (4, 3)]);
}

#[test]
fn floods_reach_everybody_once() {
    check_reach(4, &[(0, 1), (1, 2), (2, 3), (3, 0)]);
    check_reach(5, &[(0, 1), (0, 2), (0, 3), (0, 4)]);
    let full: Vec<_> = (0..5).flat_map(|a| (0..a).map(move |b| (a, b))).collect();
    check_reach(5, &full);
    check_reach(
        7,
        &[
            (0, 1),
            (1, 2),
            (2, 0),
            (2, 3),
            (3, 4),
            (4, 5),
            (5, 3),
            (6, 0),
            (6, 4),
        ],
    );
}

#[test]
fn a_unicast_for_an_unknown_address_is_flooded_on() {
    // Node 1 has forgotten container 2 at node 2, node 0 has not.
    let mut net = Net::linked(3, &[(0, 1), (1, 2)], Underlay::with_mtu(1500), None);
    let (a, c) = (mac(0, 1), mac(2, 1));
    net.introduce_containers();
    // Node 0 believes that container c is at node 1.
    net.capture(1, &[arp(c, a, 60)]);
    net.run_for(SECOND);
    assert_eq!(net.drops(1, DropReason::SourceElsewhere), 1);
    net.run_for(4 * SECOND);
    net.capture(1, &[arp(c, a, 60)]);
    net.run_for(SECOND);
    net.bridge(0);
    net.capture(2, &[arp(c, mac(9, 9), 61)]);
    net.run_for(SECOND);
    for index in 0..3 {
        net.bridge(index);
    }
    // Everybody has learnt that it is back at node 2 by now.
    let frame = arp(a, c, 62);
    net.capture(0, std::slice::from_ref(&frame));
    net.run_for(SECOND);
    assert_eq!((net.bridge(1).len(), net.bridge(2)), (0, vec![frame]));
}

#[test]
fn addresses_expire() {
    let mut net = pair(Underlay::with_mtu(1500));
    assert_eq!(net.nodes[0].engine.status(net.now).macs.len(), 2);
    net.run_for(MAC_MAX_AGE / 2);
    net.capture(0, &[arp(mac(0, 1), GROUP, 60)]);
    net.run_for(MAC_MAX_AGE / 2 + Duration::from_secs(60));
    let macs = net.nodes[0].engine.status(net.now).macs;
    assert_eq!(
        macs.iter().map(|row| row.mac).collect::<Vec<_>>(),
        [mac(0, 1)]
    );
    assert!(macs[0].age > 300.0);
    net.run_for(MAC_MAX_AGE);
    assert!(net.nodes[0].engine.status(net.now).macs.is_empty());
}

#[test]
fn batches_share_packets_and_runs() {
    let mut net = pair(Underlay::with_mtu(1500));
    let (a, b) = (mac(0, 1), mac(1, 1));
    let sizes = |net: &mut Net, frames: &[Vec<u8>]| {
        net.nodes[0].sent.clear();
        net.capture(0, frames);
        net.run_for(SECOND);
        let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
        for (_, bytes) in &net.nodes[0].sent {
            *sizes.entry(bytes.len()).or_default() += 1;
        }
        assert_eq!(net.bridge(1), frames);
        sizes
    };
    // Eleven records of 128 bytes fit 1472.
    let small = vec![ipv4(a, b, true, 100); 64];
    assert_eq!(
        sizes(&mut net, &small),
        BTreeMap::from([(30 + 11 * 128, 5), (30 + 9 * 128, 1)])
    );
    let large = vec![ipv4(a, b, true, 1400); 64];
    assert_eq!(sizes(&mut net, &large), BTreeMap::from([(1458, 64)]));
    let single = vec![ipv4(a, b, true, 100)];
    assert_eq!(sizes(&mut net, &single), BTreeMap::from([(158, 1)]));
}

#[test]
fn frames_that_go_nowhere_are_counted() {
    let mut net = Net::new(3, Underlay::with_mtu(1500), 1);
    let (a, b) = (mac(0, 1), mac(1, 1));
    // Alone: a flood reaches nobody, which is no fault.
    net.capture(0, &[arp(a, GROUP, 60)]);
    assert_eq!(net.all_drops(0), []);
    // Routes, but no link.
    net.publish_routes(&[(0, 1), (1, 2)]);
    net.capture(0, &[arp(a, GROUP, 60)]);
    assert_eq!(net.drops(0, DropReason::NoLink), 1);
    // A link whose other end has not been heard.
    net.link(crate::LinkId(0), 1, 0, None, None);
    net.capture(0, &[arp(a, GROUP, 60)]);
    assert_eq!(net.drops(0, DropReason::NoAddress), 1);
    net.run_for(SECOND);
    net.capture(1, &[arp(b, GROUP, 60)]);
    net.run_for(SECOND);
    // The peer is known, but no route leads there any more.
    net.publish_routes(&[]);
    net.capture(0, &[arp(a, b, 60)]);
    assert_eq!(net.drops(0, DropReason::NoRoute), 1);
    for (frame, reason) in [
        (vec![], DropReason::FrameTooShort),
        (vec![1; 13], DropReason::FrameTooShort),
        (vec![0; 14], DropReason::SpecialFromBridge),
        (vec![0; 22], DropReason::SpecialFromBridge),
        (vec![0; 60_001], DropReason::SpecialFromBridge),
        (arp(a, MacAddr::STP, 60), DropReason::SpanningTree),
        (arp(GROUP, b, 60), DropReason::InvalidSource),
        (arp(b, a, 60), DropReason::SourceElsewhere),
        (arp(a, a, 60), DropReason::LocalDestination),
    ] {
        let before = net.drops(0, reason);
        net.nodes[0].sent.clear();
        net.capture(0, &[frame]);
        assert_eq!(net.drops(0, reason), before + 1, "{reason:?}");
        assert!(net.nodes[0].sent.is_empty());
    }
    // The topology forgets node 1, and the table its addresses.
    net.command(
        0,
        crate::dataplane::Command::PeerForgotten(super::net::peer(1)),
    );
    let macs = net.nodes[0].engine.status(net.now).macs;
    assert!(macs.iter().all(|row| row.mac == a));
}
