//! Super-frames and open checksums from the local bridge.

use std::time::Duration;

use proto::MacAddr;

use super::net::{Net, Underlay, key, mac};
use super::shuttle::{ALL, linked};
use crate::dataplane::{DataOptions, DropReason};
use crate::offload::segment::{Segments, Wanted};
use crate::offload::testing::{Spec, assert_right, reopen};
use crate::offload::{Checksum, Gso, GsoKind, Offload};
use crate::wire::ethernet::{Frame, HEADER_LEN};

const SECOND: Duration = Duration::from_secs(1);
const DF: u16 = 0x4000;

fn pair(underlay: Underlay) -> Net {
    let mut net = Net::linked(2, &[(0, 1)], underlay, key().as_ref());
    net.introduce_containers();
    net
}

/// A super-frame from container to container.
fn super_frame(spec: &Spec, destination: MacAddr, size: u16) -> (Vec<u8>, Offload) {
    let mut frame = spec.build();
    frame[..6].copy_from_slice(&destination.0);
    frame[6..12].copy_from_slice(&mac(0, 1).0);
    let kind = match (spec.is_udp, spec.is_ipv6) {
        (true, _) => GsoKind::Udp,
        (false, false) => GsoKind::Tcp4,
        (false, true) => GsoKind::Tcp6,
    };
    let offload = Offload {
        checksum: reopen(&mut frame),
        gso: Some(Gso {
            kind,
            size,
            ecn: false,
        }),
    };
    (frame, offload)
}

/// What should arrive.
fn pieces(frame: &[u8], offload: &Offload) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(frame, offload, Wanted::Complete).unwrap();
    let mut pieces = Vec::new();
    while let Some(piece) = segments.next() {
        assert_right(&piece.to_vec());
        pieces.push(piece.to_vec());
    }
    pieces
}

#[test]
fn super_frames_arrive_in_pieces() {
    let mut net = pair(Underlay::with_mtu(1500));
    for is_ipv6 in [false, true] {
        for is_udp in [false, true] {
            for fragment in [0, DF] {
                let spec = Spec {
                    is_ipv6,
                    is_udp,
                    fragment,
                    ..Spec::tcp(7, 50_000)
                };
                for destination in [mac(1, 1), MacAddr::BROADCAST] {
                    let (frame, offload) = super_frame(&spec, destination, 1300);
                    let expected = pieces(&frame, &offload);
                    assert_eq!(expected.len(), 39);
                    let before = net.status(0).traffic;
                    net.capture_offloaded(0, &frame, &offload);
                    net.run_for(SECOND);
                    assert!(net.bridge(1) == expected);
                    let after = net.status(0).traffic;
                    assert_eq!(after.tx_frames - before.tx_frames, 39);
                    let bytes: usize = expected.iter().map(Vec::len).sum();
                    assert_eq!(after.tx_bytes - before.tx_bytes, bytes as u64);
                }
            }
        }
    }
    assert_eq!(net.all_drops(0), []);
    assert_eq!(net.all_drops(1), []);
}

#[test]
fn open_checksums_are_completed() {
    let mut net = pair(Underlay::with_mtu(1500));
    for vlans in [vec![], vec![5]] {
        let spec = Spec {
            vlans,
            ..Spec::udp(700)
        };
        let (frame, offload) = super_frame(&spec, mac(1, 1), 1);
        let offload = Offload::single(offload.checksum);
        let expected = pieces(&frame, &offload);
        assert_eq!(expected.len(), 1);
        net.capture_offloaded(0, &frame, &offload);
        net.run_for(SECOND);
        assert_eq!(net.bridge(1), expected);
    }
}

#[test]
fn too_long_pieces_are_answered_cut_or_dropped() {
    let underlay = Underlay {
        fragments: false,
        ..Underlay::with_mtu(1500)
    };
    let mut net = pair(underlay);
    let mtu = net.status(0).mtu;
    let spec = |fragment| Spec {
        fragment,
        ..Spec::tcp(7, 20_000)
    };
    // 20 and 32 bytes of headers: one too many.
    let size = mtu - 52 + 1;
    let (frame, offload) = super_frame(&spec(DF), mac(1, 1), size);
    net.capture_offloaded(0, &frame, &offload);
    net.run_for(SECOND);
    assert_eq!(net.bridge(1).len(), 0);
    assert_eq!(net.drops(0, DropReason::FragmentationNeeded), 1);
    let answers = net.bridge(0);
    assert_eq!(answers.len(), 1);
    let answer = Frame::new_checked(&answers[0]).unwrap().ipv4().unwrap();
    assert_eq!(answer.payload()[..2], [3, 4]);
    assert_eq!(answer.payload()[6..8], mtu.to_be_bytes());
    // Just fits.
    let (frame, offload) = super_frame(&spec(DF), mac(1, 1), size - 1);
    net.capture_offloaded(0, &frame, &offload);
    net.run_for(SECOND);
    assert!(net.bridge(1) == pieces(&frame, &offload));
    // In a flood nobody is told.
    let (frame, offload) = super_frame(&spec(DF), MacAddr::BROADCAST, size);
    net.capture_offloaded(0, &frame, &offload);
    assert_eq!(net.drops(0, DropReason::FloodTooBig), 1);
    // Without DF every piece is fragmented, here since the underlay does not.
    let (frame, offload) = super_frame(&spec(0), mac(1, 1), size);
    net.capture_offloaded(0, &frame, &offload);
    net.run_for(SECOND);
    let got = net.bridge(1);
    let expected = pieces(&frame, &offload);
    // All but the last, which is short.
    assert_eq!(got.len(), 2 * expected.len() - 1);
    let payload = |frames: &[Vec<u8>]| -> Vec<u8> {
        let ip = |frame| Frame::new_checked(frame).unwrap().ipv4().unwrap();
        frames
            .iter()
            .flat_map(|frame| ip(frame).payload().to_vec())
            .collect()
    };
    assert!(payload(&got) == payload(&expected));
    assert!(
        got.iter()
            .all(|frame| frame.len() <= usize::from(mtu) + HEADER_LEN)
    );
}

#[test]
fn what_does_not_add_up_is_counted() {
    let mut net = pair(Underlay::with_mtu(1500));
    let (frame, offload) = super_frame(&Spec::tcp(7, 20_000), mac(1, 1), 1000);
    let wrong = Offload {
        checksum: Checksum::Partial {
            start: 35,
            offset: 16,
        },
        ..offload
    };
    net.capture_offloaded(0, &frame, &wrong);
    net.run_for(SECOND);
    assert_eq!(net.bridge(1).len(), 0);
    assert_eq!(net.drops(0, DropReason::OffloadMismatch), 1);
    net.capture_offloaded(0, &frame, &offload);
    net.run_for(SECOND);
    assert_eq!(net.bridge(1).len(), 20);
}

/// What shuttle cannot carry in one piece does not go by another overlay in fragments.
#[test]
fn an_ipv6_sender_is_told_what_fits() {
    let options = DataOptions::default();
    let underlay = Underlay::with_mtu(1500);
    let mut net = linked(2, &[(0, 1, ALL)], options, underlay, key().as_ref());
    net.introduce_containers();
    let mtu = net.status(0).mtu;
    let spec = Spec {
        is_ipv6: true,
        ..Spec::tcp(7, 20_000)
    };
    // 40 and 32 bytes of headers: one too many, and as many as fit.
    for (size, expected) in [(mtu - 72 + 1, 0), (mtu - 72, 15)] {
        let (frame, offload) = super_frame(&spec, mac(1, 1), size);
        net.capture_offloaded(0, &frame, &offload);
        net.run_for(SECOND);
        assert_eq!(net.bridge(1).len(), expected, "{size}");
        let answers = net.bridge(0);
        assert_eq!(answers.len(), usize::from(expected == 0));
        for answer in answers {
            // ICMPv6, type 2, with the MTU.
            let told = [answer[54], answer[55], answer[60], answer[61]];
            assert_eq!((answer[20], told[..2].to_vec()), (58, vec![2, 0]));
            assert_eq!(u16::from_be_bytes([told[2], told[3]]), mtu);
        }
    }
    assert_eq!(net.drops(0, DropReason::FragmentationNeeded), 1);
}
