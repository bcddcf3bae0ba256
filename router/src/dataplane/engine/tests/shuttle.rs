//! Links of shuttle and stream: engines against each other, and against an adversary.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng};

use super::net::{Net, Underlay, arp, ipv4, key, mac};
use crate::LinkId;
use crate::crypto::aead::Suites;
use crate::crypto::session::SessionKey;
use crate::dataplane::{DataOptions, DropReason, Event, RekeyLimits, ShuttleOptions};

pub(super) const ALL: &[&str] = &["shuttle", "sleeve", "stream"];
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn options(suites: Suites, rekey: RekeyLimits) -> DataOptions {
    DataOptions {
        shuttle: ShuttleOptions { suites, rekey },
        ..DataOptions::default()
    }
}

/// Engines linked over these overlays, each edge with its own list, settled.
pub(super) fn linked(
    count: usize,
    edges: &[(usize, usize, &[&str])],
    options: DataOptions,
    underlay: Underlay,
    key: Option<&SessionKey>,
) -> Net {
    let mut net = Net::with_options(count, options, underlay, 1);
    let plain: Vec<_> = edges.iter().map(|edge| (edge.0, edge.1)).collect();
    net.publish_routes(&plain);
    for (index, &(dialler, acceptor, overlays)) in edges.iter().enumerate() {
        let keys = (key.cloned(), key.cloned());
        net.link_over(overlays, LinkId(index as u64), (dialler, acceptor), keys);
    }
    net.run_for(2 * SECOND);
    net
}

fn pair(key: Option<&SessionKey>) -> Net {
    let underlay = Underlay::with_mtu(1500);
    let mut net = linked(2, &[(0, 1, ALL)], DataOptions::default(), underlay, key);
    net.introduce_containers();
    net
}

/// A frame from the container at one node to that at another, with a number in it.
pub(super) fn numbered(from: usize, to: usize, number: u32, len: usize) -> Vec<u8> {
    let mut frame = arp(mac(from, 1), mac(to, 1), len.max(18));
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    frame
}

pub(super) fn number_of(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[14..18].try_into().unwrap())
}

#[test]
fn two_of_our_kind_use_it_at_once() {
    for (suites, cipher) in [
        (Suites::ALL, "AES-256-GCM"),
        (Suites::CHACHA_ONLY, "ChaCha20-Poly1305"),
    ] {
        for key in [key(), None] {
            let options = options(suites, RekeyLimits::default());
            let underlay = Underlay::with_mtu(1500);
            let mut net = linked(2, &[(0, 1, ALL)], options, underlay, key.as_ref());
            for index in [0, 1] {
                let status = net.status(index);
                assert_eq!((status.overlay, status.fallback), ("shuttle", None));
                assert_eq!(status.encrypted, key.is_some());
                assert_eq!(status.cipher, key.as_ref().map(|_| cipher));
                assert_eq!(status.mtu, if key.is_some() { 1422 } else { 1438 });
                assert!(status.established && status.address.is_some());
                let established = Event::Established(LinkId(0));
                assert_eq!(net.nodes[index].events, [established]);
            }
            net.introduce_containers();
            for (from, to) in [(0, 1), (1, 0)] {
                net.nodes[from].sent.clear();
                let mut frames: Vec<_> = (0..100).map(|n| numbered(from, to, n, 64)).collect();
                frames.push(ipv4(mac(from, 1), mac(to, 1), true, 1422));
                net.capture(from, &frames);
                net.run_for(10 * MS);
                assert!(net.bridge(to) == frames);
                for (df, datagram) in &net.nodes[from].sent {
                    assert!(*df && datagram[0] == 0x53 && datagram.len() <= 1472);
                    // Nothing of a frame is to be seen from outside.
                    let source = mac(from, 1).0;
                    let seen = datagram.windows(6).any(|window| window == source);
                    assert!(!seen || key.is_none());
                }
                assert!(net.nodes[from].sent.len() < 10, "frames travel together");
            }
            for index in [0, 1] {
                assert_eq!(net.all_drops(index), []);
            }
        }
    }
}

#[test]
fn without_aes_at_one_end_it_is_chacha_at_both() {
    let underlay = Underlay::with_mtu(1500);
    let mut net = Net::with_options(
        2,
        options(Suites::CHACHA_ONLY, RekeyLimits::default()),
        underlay,
        1,
    );
    net.nodes[1].engine = crate::dataplane::DataPlane::new(
        net.nodes[1].name,
        options(Suites::ALL, RekeyLimits::default()),
        super::net::entropy(1),
        net.now,
    );
    net.publish_routes(&[(0, 1)]);
    net.link_over(ALL, LinkId(0), (0, 1), (key(), key()));
    net.run_for(2 * SECOND);
    for index in [0, 1] {
        assert_eq!(net.status(index).cipher, Some("ChaCha20-Poly1305"));
        assert_eq!(net.status(index).overlay, "shuttle");
    }
}

#[test]
fn nothing_in_common_leaves_it_to_sleeve() {
    let underlay = Underlay::with_mtu(1500);
    let options = options(Suites(0), RekeyLimits::default());
    let mut net = linked(2, &[(0, 1, ALL)], options, underlay, key().as_ref());
    net.introduce_containers();
    let status = net.status(0);
    assert_eq!(status.overlay, "sleeve");
    assert_eq!(status.fallback, Some("shuttle: no cipher in common"));
    let frame = numbered(0, 1, 1, 100);
    net.capture(0, std::slice::from_ref(&frame));
    net.run_for(SECOND);
    assert_eq!(net.bridge(1), [frame]);
}

/// Shuttle, relay, and sleeve as to a real weaver: frames cross both ways, whichever comes first.
#[test]
fn a_relay_mixes_overlays() {
    let kinds: [&[&str]; 3] = [ALL, &["sleeve"], &["shuttle", "stream"]];
    for first in kinds {
        for second in kinds {
            for key in [key(), None] {
                let edges = [(0, 1, first), (1, 2, second)];
                let underlay = Underlay::with_mtu(1500);
                let options = DataOptions::default();
                let mut net = linked(3, &edges, options, underlay, key.as_ref());
                net.introduce_containers();
                for (from, to) in [(0, 2), (2, 0)] {
                    let mut frames: Vec<_> = (0..50)
                        .map(|number| numbered(from, to, number, 60 + 20 * number as usize))
                        .collect();
                    frames.push(ipv4(mac(from, 1), mac(to, 1), true, 1380));
                    net.capture(from, &frames);
                    net.run_for(SECOND);
                    let mut got = net.bridge(to);
                    // Sleeve has two lanes, of which either may be sent first.
                    got.sort();
                    frames.sort();
                    assert!(got == frames, "{first:?} {second:?}: {} frames", got.len());
                }
                assert!(net.bridge(1).is_empty());
                for index in 0..3 {
                    assert_eq!(net.all_drops(index), []);
                }
            }
        }
    }
}

#[test]
fn too_long_frames_are_answered_or_left_to_sleeve() {
    let mut net = pair(key().as_ref());
    net.run_for(60 * SECOND);
    net.bridge(0);
    // DF: the sender hears of the MTU, that of shuttle.
    net.capture(0, &[ipv4(mac(0, 1), mac(1, 1), true, 1423)]);
    net.run_for(SECOND);
    let answers = net.bridge(0);
    assert_eq!(answers.len(), 1);
    assert_eq!(
        answers[0][34..42],
        [3, 4, answers[0][36], answers[0][37], 0, 0, 5, 0x8e]
    );
    assert!(net.bridge(1).is_empty());
    // Not DF, and not IPv4 at all: in one piece or several, by sleeve.
    let frames = [
        ipv4(mac(0, 1), mac(1, 1), false, 4000),
        numbered(0, 1, 1, 3000),
    ];
    net.capture(0, &frames);
    net.run_for(SECOND);
    assert!(net.bridge(1) == frames);
}

#[test]
fn a_relayed_frame_is_told_the_smaller_mtu() {
    let edges: [(usize, usize, &[&str]); 2] = [(0, 1, ALL), (1, 2, ALL)];
    let underlay = Underlay::with_mtu(1500);
    let mut net = linked(3, &edges, DataOptions::default(), underlay, key().as_ref());
    net.introduce_containers();
    for (len, arrives) in [(1410, true), (1411, false)] {
        let frame = ipv4(mac(0, 1), mac(2, 1), true, len);
        net.capture(0, std::slice::from_ref(&frame));
        net.run_for(SECOND);
        assert_eq!(net.bridge(2).len(), usize::from(arrives));
        let answers = net.bridge(0);
        assert_eq!(answers.len(), usize::from(!arrives));
        if let Some(answer) = answers.first() {
            assert_eq!(answer[40..42], 1410_u16.to_be_bytes());
        }
    }
}

#[test]
fn underlays_of_all_sizes() {
    for mtu in [1280, 1400, 1500, 9000] {
        for key in [key(), None] {
            let underlay = Underlay::with_mtu(mtu);
            let options = DataOptions::default();
            let net = linked(2, &[(0, 1, ALL)], options, underlay, key.as_ref());
            let overhead = if key.is_some() { 78 } else { 62 };
            for index in [0, 1] {
                assert_eq!(usize::from(net.status(index).mtu), mtu - overhead);
            }
        }
    }
}

#[test]
fn a_path_that_changes_is_followed() {
    let mut net = pair(key().as_ref());
    // It becomes narrower, and nobody says so.
    net.underlay.real_mtu = 1400;
    net.run_for(200 * SECOND);
    assert_eq!(net.status(0).mtu, 1322);
    // And wider.
    net.underlay = Underlay::with_mtu(9000);
    net.run_for(700 * SECOND);
    assert_eq!(net.status(0).mtu, 8922);
}

/// Keys change every second under traffic, over a path that delays and reorders: no frame is lost.
#[test]
fn rekeying_loses_nothing() {
    for volume in [u64::MAX, 200_000] {
        let rekey = RekeyLimits {
            interval: if volume == u64::MAX {
                SECOND
            } else {
                1000 * SECOND
            },
            volume,
        };
        let underlay = Underlay {
            delay: 30 * MS,
            jitter: 200 * MS,
            ..Underlay::with_mtu(1500)
        };
        let options = options(Suites::ALL, rekey);
        let mut net = linked(2, &[(0, 1, ALL)], options, underlay, key().as_ref());
        net.run_for(5 * SECOND);
        net.introduce_containers();
        net.run_for(SECOND);
        net.bridge(0);
        net.bridge(1);
        for index in [0, 1] {
            net.nodes[index].sent.clear();
        }
        let mut number = 0;
        for _ in 0..1200 {
            for (from, to) in [(0, 1), (1, 0)] {
                let frames: Vec<_> = (0..20)
                    .map(|i| numbered(from, to, number + i, 300))
                    .collect();
                net.capture(from, &frames);
            }
            number += 20;
            net.run_for(25 * MS);
        }
        net.run_for(5 * SECOND);
        for index in [0, 1] {
            let mut got: Vec<_> = net
                .bridge(index)
                .iter()
                .map(|frame| number_of(frame))
                .collect();
            got.sort_unstable();
            assert!(
                got.iter().copied().eq(0..number),
                "{} of {number}",
                got.len()
            );
            assert_eq!(net.all_drops(index), []);
            let epochs: std::collections::BTreeSet<_> = net.nodes[index]
                .sent
                .iter()
                .filter(|sent| sent.1[0] == 0x53)
                .map(|sent| [sent.1[2], sent.1[3]])
                .collect();
            assert!(epochs.len() >= 8, "{} epochs", epochs.len());
        }
    }
}

/// Whatever the underlay does: what comes out went in, and not twice.
#[test]
fn an_unkind_underlay() {
    for seed in 0..8 {
        let underlay = Underlay {
            loss: 0.05,
            duplication: 0.05,
            corruption: 0.02,
            delay: 10 * MS,
            jitter: 30 * MS,
            ..Underlay::with_mtu(1500)
        };
        let rekey = RekeyLimits {
            interval: SECOND,
            ..RekeyLimits::default()
        };
        let options = options(Suites::ALL, rekey);
        let mut net = Net::with_options(2, options, underlay, seed);
        net.publish_routes(&[(0, 1)]);
        net.link_over(ALL, LinkId(0), (0, 1), (key(), key()));
        net.run_for(10 * SECOND);
        net.introduce_containers();
        net.introduce_containers();
        net.run_for(SECOND);
        net.bridge(1);
        let mut sent = BTreeMap::new();
        for number in 0..3000 {
            let len = 18 + (number as usize * 37) % 1400;
            let frame = numbered(0, 1, number, len);
            net.capture(0, std::slice::from_ref(&frame));
            sent.insert(number, frame);
            net.run_for(3 * MS);
        }
        net.run_for(SECOND);
        let got = net.bridge(1);
        assert!(got.len() > 2500, "{}", got.len());
        for frame in got {
            let original = sent.remove(&number_of(&frame));
            assert_eq!(original.as_ref(), Some(&frame));
        }
        assert!(net.drops(1, DropReason::NotAuthentic) + net.drops(1, DropReason::UnknownKey) > 0);
        assert!(net.drops(1, DropReason::Replayed) > 0);
        assert_eq!(net.status(0).overlay, "shuttle");
    }
}

#[test]
fn without_udp_frames_go_over_tcp_and_return() {
    for key in [key(), None] {
        let mut underlay = Underlay::with_mtu(1500);
        underlay.loss = 1.0;
        let options = DataOptions::default();
        let mut net = linked(2, &[(0, 1, ALL)], options, underlay, key.as_ref());
        assert!(net.nodes[0].events.is_empty());
        net.run_for(2 * SECOND);
        let check = |net: &mut Net, overlay: &str| {
            for (from, to) in [(0, 1), (1, 0)] {
                let status = net.status(from);
                assert_eq!(status.overlay, overlay);
                assert_eq!(status.fallback.is_some(), overlay == "stream");
                assert!(status.established);
                let frames: Vec<_> = (0..500).map(|n| numbered(from, to, n, 1000)).collect();
                net.capture(from, &frames);
                net.run_for(SECOND);
                assert!(net.bridge(to) == frames, "{overlay}");
            }
        };
        assert_eq!(net.nodes[0].events, [Event::Established(LinkId(0))]);
        net.introduce_containers();
        check(&mut net, "stream");
        // Longer than any packet, too.
        let long = numbered(0, 1, 7, 9000);
        net.capture(0, std::slice::from_ref(&long));
        net.run_for(SECOND);
        assert!(net.bridge(1) == [long]);
        // The link lives for as long as the TCP connection does.
        net.run_for(600 * SECOND);
        check(&mut net, "stream");
        // UDP works, and is used as soon as it does.
        net.underlay.loss = 0.0;
        net.run_for(6 * SECOND);
        check(&mut net, "shuttle");
        // It stops to work.
        net.underlay.loss = 1.0;
        net.run_for(15 * SECOND);
        check(&mut net, "stream");
        net.underlay.loss = 0.0;
        net.run_for(6 * SECOND);
        check(&mut net, "shuttle");
        for index in [0, 1] {
            assert_eq!(net.nodes[index].events, [Event::Established(LinkId(0))]);
        }
    }
}

#[test]
fn without_stream_silence_is_the_end() {
    let mut underlay = Underlay::with_mtu(1500);
    underlay.loss = 1.0;
    let overlays: &[&str] = &["shuttle", "sleeve"];
    let options = DataOptions::default();
    let mut net = linked(2, &[(0, 1, overlays)], options, underlay, key().as_ref());
    net.run_for(70 * SECOND);
    for index in [0, 1] {
        assert!(matches!(net.nodes[index].events[..], [Event::Failed(..)]));
    }
}

/// A connection that takes nothing loses frames, and holds no more than its window.
#[test]
fn a_slow_connection_is_not_flooded() {
    let mut underlay = Underlay::with_mtu(1500);
    underlay.loss = 1.0;
    let options = DataOptions::default();
    let mut net = linked(
        2,
        &[(0, 1, &["shuttle", "stream"])],
        options,
        underlay,
        None,
    );
    net.run_for(10 * SECOND);
    net.introduce_containers();
    let frames: Vec<_> = (0..2000).map(|n| numbered(0, 1, n, 1000)).collect();
    net.capture(0, &frames);
    net.run_for(SECOND);
    let got = net.bridge(1);
    assert!(got.len() > 400 && got.len() < 600, "{}", got.len());
    assert_eq!(
        net.drops(0, DropReason::StreamFull),
        2000 - got.len() as u64
    );
    // Confirmed, so that there is room again.
    net.capture(0, &frames[..400]);
    net.run_for(SECOND);
    assert!(net.bridge(1) == frames[..400]);
}

#[test]
fn one_direction_without_udp() {
    let mut net = pair(key().as_ref());
    // Datagrams to node 1 get lost; those from it arrive.
    let reachable = net.nodes[1].address;
    net.move_to(1, SocketAddr::from(([10, 9, 9, 9], 1)));
    net.nodes[1].engine.flush();
    net.run_for(SECOND);
    // Node 0 has followed a genuine packet from the new address.
    net.run_for(5 * SECOND);
    assert_eq!(net.status(0).address, Some(net.nodes[1].address));
    let frame = numbered(0, 1, 1, 100);
    net.capture(0, std::slice::from_ref(&frame));
    net.run_for(SECOND);
    assert_eq!(net.bridge(1), [frame]);
    net.move_to(1, reachable);
    net.run_for(5 * SECOND);
    assert_eq!(net.status(0).address, Some(reachable));
}

#[test]
fn floods_are_bounded_and_cost_one_packet_for_each_neighbour() {
    let options = DataOptions {
        flood_limit: Some(100),
        ..DataOptions::default()
    };
    let edges: [(usize, usize, &[&str]); 3] = [(0, 1, ALL), (0, 2, ALL), (0, 3, ALL)];
    let underlay = Underlay::with_mtu(1500);
    let mut net = linked(4, &edges, options, underlay, key().as_ref());
    net.introduce_containers();
    net.run_for(2 * SECOND);
    net.nodes[0].sent.clear();
    let frames = vec![arp(mac(0, 1), proto::MacAddr::BROADCAST, 60); 20];
    net.capture(0, &frames);
    // 20 frames of 60 bytes share a packet to each of three neighbours.
    assert_eq!(net.nodes[0].sent.len(), 3);
    net.capture(0, &vec![frames[0].clone(); 1000]);
    net.run_for(SECOND);
    assert_eq!(net.drops(0, DropReason::FloodLimit), 1020 - 100);
    for index in 1..4 {
        assert_eq!(net.bridge(index).len(), 100);
    }
}

#[test]
fn questions_are_answered_from_what_was_heard() {
    let options = DataOptions {
        answer_neighbours: true,
        ..DataOptions::default()
    };
    let underlay = Underlay::with_mtu(1500);
    let mut net = linked(2, &[(0, 1, ALL)], options, underlay, key().as_ref());
    let message = |op: u8, from: usize, to: usize, destination: proto::MacAddr| {
        let address = |index: usize| [10, 2, 0, u8::try_from(index).unwrap()];
        let (sender, target) = (address(from), address(to));
        let mut frame = [&destination.0[..], &mac(from, 1).0].concat();
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, op]);
        frame.extend(mac(from, 1).0);
        frame.extend(sender);
        frame.extend([0; 6]);
        frame.extend(target);
        frame
    };
    let question = message(1, 0, 1, proto::MacAddr::BROADCAST);
    net.capture(0, std::slice::from_ref(&question));
    net.run_for(SECOND);
    assert_eq!(net.bridge(1), std::slice::from_ref(&question));
    net.capture(1, &[message(2, 1, 0, mac(0, 1))]);
    net.run_for(SECOND);
    assert_eq!(net.bridge(0).len(), 1);
    // From now on it is answered on the spot.
    net.capture(0, std::slice::from_ref(&question));
    net.run_for(SECOND);
    assert!(net.bridge(1).is_empty());
    let answers = net.bridge(0);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0][6..12], mac(1, 1).0);
    // A minute later the other host is asked again.
    net.run_for(90 * SECOND);
    net.capture(0, std::slice::from_ref(&question));
    net.run_for(SECOND);
    assert_eq!(net.bridge(1), [question]);
}

/// How many datagrams of each kind the adversary sends.
fn attacks() -> usize {
    let text = std::env::var("MESHCTL_ATTACKS").ok();
    text.map_or(2_000, |text| text.parse().unwrap())
}

/// Replayed, truncated, bit-flipped, reflected, old-key and random datagrams, from anywhere: each
/// is dropped and counted, none moves an address, and genuine traffic goes on in between.
#[test]
fn an_adversary_gets_nowhere() {
    let rekey = RekeyLimits {
        interval: 20 * SECOND,
        ..RekeyLimits::default()
    };
    let underlay = Underlay::with_mtu(1500);
    let options = options(Suites::ALL, rekey);
    let mut net = linked(2, &[(0, 1, ALL)], options, underlay, key().as_ref());
    net.introduce_containers();
    let mut rng = StdRng::seed_from_u64(7);
    // A recording of genuine traffic, under keys that are forgotten by now, and under those in use.
    let record = |net: &mut Net, from: usize, to: usize| {
        net.nodes[from].sent.clear();
        for number in 0..64 {
            net.capture(
                from,
                &[numbered(from, to, number, 40 + 20 * number as usize)],
            );
        }
        net.run_for(SECOND);
        assert_eq!(net.bridge(to).len(), 64);
        let sent = net.nodes[from].sent.iter().map(|sent| sent.1.clone());
        let sent: Vec<_> = sent.filter(|datagram| datagram[0] == 0x53).collect();
        assert!(sent.len() >= 64);
        sent
    };
    let old = record(&mut net, 0, 1);
    net.run_for(45 * SECOND);
    let current = record(&mut net, 0, 1);
    let reverse = record(&mut net, 1, 0);
    assert_ne!(old[0][2..4], current[0][2..4]);

    let genuine = net.nodes[0].address;
    let attacker = SocketAddr::from(([6, 6, 6, 6], 666));
    type Attack<'a> = Box<dyn FnMut(&mut StdRng, usize) -> Vec<u8> + 'a>;
    let pick = |rng: &mut StdRng, all: &[Vec<u8>]| all[rng.random_range(0..all.len())].clone();
    let kinds: Vec<(&str, Attack<'_>, &[DropReason])> = vec![
        (
            "replayed",
            Box::new(|_, n| current[n % current.len()].clone()),
            &[DropReason::Replayed],
        ),
        (
            "reordered",
            Box::new(|rng, _| pick(rng, &current)),
            &[DropReason::Replayed],
        ),
        (
            "truncated",
            Box::new(|rng, _| {
                let mut datagram = pick(rng, &current);
                datagram.truncate(rng.random_range(0..datagram.len()));
                // A counter that is new, so that the seal decides.
                if datagram.len() > 8 {
                    datagram[8] = 1;
                }
                datagram
            }),
            &[
                DropReason::DatagramTooShort,
                DropReason::NotAuthentic,
                DropReason::Malformed,
                DropReason::UnknownSession,
            ],
        ),
        (
            "bit-flipped",
            Box::new(|rng, _| {
                let mut datagram = pick(rng, &current);
                let at = rng.random_range(0..datagram.len());
                datagram[at] ^= 1 << rng.random_range(0..8);
                datagram
            }),
            &[
                DropReason::NotAuthentic,
                DropReason::Replayed,
                DropReason::Malformed,
                DropReason::UnknownKey,
                DropReason::UnknownSession,
                DropReason::UnknownSender,
            ],
        ),
        (
            "reflected",
            Box::new(|rng, _| pick(rng, &reverse)),
            &[DropReason::UnknownSession],
        ),
        (
            "reflected into the right session",
            Box::new(|rng, _| {
                let mut datagram = pick(rng, &reverse);
                datagram[4..8].copy_from_slice(&current[0][4..8]);
                datagram[8] = 2;
                datagram
            }),
            &[DropReason::NotAuthentic],
        ),
        (
            "old keys",
            Box::new(|rng, _| pick(rng, &old)),
            &[DropReason::UnknownKey],
        ),
        (
            "random behind a right header",
            Box::new(|rng, _| {
                let mut datagram = pick(rng, &current);
                rng.fill_bytes(&mut datagram[8..]);
                datagram
            }),
            &[DropReason::NotAuthentic],
        ),
        (
            "plain",
            Box::new(|rng, _| {
                let mut datagram = pick(rng, &current);
                datagram[1] = 0;
                datagram
            }),
            &[DropReason::NotAuthentic],
        ),
        (
            "random",
            Box::new(|rng, _| {
                let mut datagram = vec![0; rng.random_range(0..1500)];
                rng.fill_bytes(&mut datagram);
                if rng.random_bool(0.5)
                    && let Some(first) = datagram.first_mut()
                {
                    *first = 0x53;
                }
                datagram
            }),
            &[
                DropReason::DatagramTooShort,
                DropReason::Malformed,
                DropReason::UnknownSession,
                DropReason::UnknownSender,
            ],
        ),
    ];
    let attacks = attacks();
    let mut number = 1000;
    for (name, mut attack, reasons) in kinds {
        let count = |net: &Net| -> u64 { reasons.iter().map(|&reason| net.drops(1, reason)).sum() };
        let total = |net: &Net| -> u64 { net.all_drops(1).iter().map(|drop| drop.1).sum() };
        let (before, all_before) = (count(&net), total(&net));
        for n in 0..attacks {
            let datagram = attack(&mut rng, n);
            let from = if n % 2 == 0 { attacker } else { genuine };
            assert!(net.receive(1, from, &datagram).is_empty(), "{name}");
            if n % 500 == 0 {
                assert_eq!(net.status(1).address, Some(genuine), "{name}");
                let frame = numbered(0, 1, number, 100);
                net.capture(0, std::slice::from_ref(&frame));
                // Time on the way only: nothing has delayed it.
                net.run_for(Duration::from_micros(200));
                assert_eq!(net.bridge(1), [frame], "{name}");
                number += 1;
            }
        }
        assert_eq!(
            count(&net) - before,
            attacks as u64,
            "{name}: {:?}",
            net.all_drops(1)
        );
        assert_eq!(total(&net) - all_before, attacks as u64, "{name}");
        assert_eq!(net.status(1).address, Some(genuine), "{name}");
        assert_eq!(net.status(1).overlay, "shuttle");
    }
}

/// Control messages of any kind at any time: a neighbour that has gone mad harms itself only.
#[test]
fn any_control_message_at_any_time() {
    use crate::dataplane::{Command, OverlayControl};
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..200 {
        let mut net = pair(key().as_ref());
        for _ in 0..200 {
            let mut body = vec![0; rng.random_range(0..60)];
            rng.fill_bytes(&mut body);
            if rng.random_bool(0.5)
                && let [first, second, ..] = &mut body[..]
            {
                (*first, *second) = (0, rng.random_range(0..3));
            }
            let control = OverlayControl {
                index: rng.random_range(0..4),
                tag: rng.random_range(0..10),
                body,
            };
            net.command(0, Command::Control(LinkId(0), control));
            net.run_for(10 * MS);
        }
        let _ = net.status(0);
    }
}
