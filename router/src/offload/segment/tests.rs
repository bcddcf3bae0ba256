use proptest::prelude::*;

use super::super::testing::{Spec, any_spec, assert_right, payload, reopen};
use super::*;
use crate::offload::Gso;
use crate::offload::checksum::complete;

fn kind(spec: &Spec) -> GsoKind {
    match (spec.is_udp, spec.is_ipv6) {
        (true, _) => GsoKind::Udp,
        (false, false) => GsoKind::Tcp4,
        (false, true) => GsoKind::Tcp6,
    }
}

fn gso(spec: &Spec, checksum: Checksum, size: u16) -> Offload {
    Offload {
        checksum,
        gso: Some(Gso {
            kind: kind(spec),
            size,
            ecn: false,
        }),
    }
}

fn pieces(
    frame: &[u8],
    offload: &Offload,
    wanted: Wanted,
) -> Result<Vec<(Vec<u8>, Checksum)>, Mismatch> {
    let mut segments = Segments::new(frame, offload, wanted)?;
    let mut longest = segments.longest();
    let mut pieces = Vec::new();
    while let Some(piece) = segments.next() {
        assert!(piece.len() <= longest);
        assert_eq!(piece.len(), piece.to_vec().len());
        pieces.push((piece.to_vec(), piece.checksum));
        longest = segments.longest();
    }
    assert_eq!(segments.next(), None);
    Ok(pieces)
}

#[test]
fn what_is_complete_passes_as_it_is() {
    let frame = Spec::tcp(1, 100).build();
    let expected = Ok(vec![(frame.clone(), Checksum::Complete)]);
    assert_eq!(pieces(&frame, &Offload::NONE, Wanted::Complete), expected);
    assert_eq!(pieces(&frame, &Offload::NONE, Wanted::AsIs), expected);
    // No packet at all.
    let none = Ok(vec![(Vec::new(), Checksum::Complete)]);
    assert_eq!(pieces(&[], &Offload::NONE, Wanted::Complete), none);
}

#[test]
fn flags_go_where_they_belong() {
    let spec = Spec {
        flags: 0xff,
        ..Spec::tcp(u32::MAX - 1000, 2500)
    };
    let frame = spec.build();
    for ecn in [false, true] {
        let mut offload = gso(&spec, Checksum::Complete, 1000);
        if let Some(gso) = &mut offload.gso {
            gso.ecn = ecn;
        }
        let pieces = pieces(&frame, &offload, Wanted::Complete).unwrap();
        let flags: Vec<u8> = pieces
            .iter()
            .map(|(piece, _)| piece[14 + 20 + 13])
            .collect();
        assert_eq!(flags, [0xf6, 0x76, 0x7f]);
        let sequences: Vec<_> = pieces
            .iter()
            .map(|(piece, _)| u32_at(piece, 14 + 20 + 4).unwrap())
            .collect();
        assert_eq!(sequences, [u32::MAX - 1000, u32::MAX, 999]);
        let ids: Vec<_> = pieces
            .iter()
            .map(|(piece, _)| u16_at(piece, 14 + 4).unwrap())
            .collect();
        assert_eq!(ids, [1, 2, 3]);
    }
}

#[test]
fn without_payload_it_is_one_piece() {
    let spec = Spec::tcp(5, 0);
    let frame = spec.build();
    let offload = gso(&spec, Checksum::Complete, 1000);
    let expected = Ok(vec![(frame.clone(), Checksum::Complete)]);
    assert_eq!(pieces(&frame, &offload, Wanted::Complete), expected);
}

#[test]
fn what_does_not_add_up_is_refused() {
    let spec = Spec::tcp(5, 3000);
    let mut frame = spec.build();
    let checksum = reopen(&mut frame);
    let good = gso(&spec, checksum, 1000);
    assert_eq!(pieces(&frame, &good, Wanted::Complete).unwrap().len(), 3);
    let refused = |frame: &[u8], offload: &Offload| {
        assert_eq!(pieces(frame, offload, Wanted::Complete), Err(Mismatch));
        assert_eq!(pieces(frame, offload, Wanted::AsIs), Err(Mismatch));
    };
    for other in [
        Spec {
            is_ipv6: true,
            ..spec.clone()
        },
        Spec {
            is_udp: true,
            ..spec.clone()
        },
    ] {
        refused(&frame, &gso(&other, checksum, 1000));
        refused(&frame, &gso(&other, Checksum::Complete, 1000));
    }
    for (start, offset) in [
        (34, 6),
        (33, 16),
        (38, 16),
        (0, 16),
        (34, 0),
        (u16::MAX, 16),
    ] {
        let checksum = Checksum::Partial { start, offset };
        refused(&frame, &gso(&spec, checksum, 1000));
    }
    // TCP header longer than the frame, or shorter than a header.
    for (offset, len) in [(0xf0, 60), (0x40, 1000)] {
        let mut frame = frame.clone();
        frame[14 + 20 + 12] = offset;
        refused(&frame[..len], &good);
    }
    for len in [0, 13, 14, 33, 34, 50, 53] {
        refused(&frame[..len], &good);
    }
    // A checksum outside of the frame.
    for (start, offset) in [(60, 0), (58, 6), (u16::MAX, u16::MAX)] {
        let checksum = Checksum::Partial { start, offset };
        let offload = Offload::single(checksum);
        assert_eq!(pieces(&[0; 60], &offload, Wanted::AsIs), Err(Mismatch));
        assert_eq!(pieces(&[0; 60], &offload, Wanted::Complete), Err(Mismatch));
    }
    // One so far inside that it cannot be copied there.
    let far = Checksum::Partial {
        start: 1000,
        offset: 16,
    };
    let frame = vec![0; 3000];
    assert_eq!(
        pieces(&frame, &Offload::single(far), Wanted::Complete),
        Err(Mismatch)
    );
    assert!(pieces(&frame, &Offload::single(far), Wanted::AsIs).is_ok());
}

#[test]
fn behind_a_routing_header_the_sum_is_adjusted() {
    // The pseudo-header has another destination than the IP header.
    let spec = Spec {
        is_ipv6: true,
        ..Spec::tcp(9, 2000)
    };
    let mut frame = spec.build();
    let extension = [6, 0, 0, 0, 0, 0, 0, 0];
    frame.splice(54..54, extension);
    frame[14 + 6] = 43;
    let len = u16_at(&frame, 18).unwrap() + 8;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    let field = 54 + 8 + 16;
    frame[field..field + 2].copy_from_slice(&[0x12, 0x34]);
    let checksum = Checksum::Partial {
        start: 62,
        offset: 16,
    };
    let offload = gso(&spec, checksum, 1500);
    let pieces = pieces(&frame, &offload, Wanted::AsIs).unwrap();
    let lens: Vec<_> = pieces
        .iter()
        .map(|(piece, _)| u16_at(piece, 18).unwrap())
        .collect();
    let header_len = u16::try_from(20 + spec.options.len()).unwrap();
    assert_eq!(lens, [8 + header_len + 1500, 8 + header_len + 500]);
    for ((piece, _), len) in pieces.iter().zip([1500, 500]) {
        let sum = u16_at(piece, field).unwrap();
        assert_eq!(sum, 0x1234 - (2000 - len), "{len}");
    }
}

proptest! {
    #[test]
    fn pieces_are_right_and_complete(
        spec in any_spec(5000),
        size in 1..2000_u16,
        is_partial in any::<bool>(),
    ) {
        let size = size.max(40);
        let mut frame = spec.build();
        let checksum = if is_partial { reopen(&mut frame) } else { Checksum::Complete };
        let offload = gso(&spec, checksum, size);
        let complete_ones = pieces(&frame, &offload, Wanted::Complete).unwrap();
        let count = spec.payload.len().div_ceil(usize::from(size));
        prop_assert_eq!(complete_ones.len(), count);
        let mut joined = Vec::new();
        for (index, (piece, checksum)) in complete_ones.iter().enumerate() {
            prop_assert_eq!(*checksum, Checksum::Complete);
            assert_right(piece);
            let bytes = payload(piece);
            prop_assert!(bytes.len() == usize::from(size) || index + 1 == count);
            joined.extend_from_slice(bytes);
            // Made by the same rules from scratch.
            let expected = Spec {
                id: spec.id.wrapping_add(u16::try_from(index).unwrap()),
                sequence: spec.sequence.wrapping_add(u32::try_from(index).unwrap() * u32::from(size)),
                flags: spec.flags
                    & if index + 1 == count { 0xff } else { !(FIN | PSH) }
                    & if index == 0 { 0xff } else { !CWR },
                payload: bytes.to_vec(),
                ..spec.clone()
            };
            prop_assert_eq!(&expected.build(), piece);
        }
        prop_assert_eq!(&joined, &spec.payload);
        // Left open, they are the same but for that.
        let open_ones = pieces(&frame, &offload, Wanted::AsIs).unwrap();
        prop_assert_eq!(open_ones.len(), complete_ones.len());
        for ((mut piece, checksum), (expected, _)) in open_ones.into_iter().zip(complete_ones) {
            prop_assert!(complete(&mut piece, checksum));
            prop_assert_eq!(piece, expected);
        }
    }

    #[test]
    fn single_frames_are_completed(spec in any_spec(1500)) {
        let expected = spec.build();
        let mut frame = expected.clone();
        let offload = Offload::single(reopen(&mut frame));
        prop_assert_eq!(
            pieces(&frame, &offload, Wanted::Complete),
            Ok(vec![(expected, Checksum::Complete)])
        );
        let as_is = Ok(vec![(frame.clone(), offload.checksum)]);
        prop_assert_eq!(pieces(&frame, &offload, Wanted::AsIs), as_is);
    }

    #[test]
    fn anything_is_cut_or_refused(
        spec in any_spec(300),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        kind in prop::sample::select(vec![GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp]),
        size in any::<u16>(),
        place in prop::option::of((0..100_u16, 0..20_u16)),
        len in any::<prop::sample::Index>(),
        is_single in any::<bool>(),
    ) {
        let mut frame = spec.build();
        for (at, byte) in noise {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        frame.truncate(len.index(frame.len() + 1));
        let checksum = place.map_or(Checksum::Complete, |(start, offset)| {
            Checksum::Partial { start, offset }
        });
        let gso = (!is_single).then_some(Gso { kind, size, ecn: false });
        for wanted in [Wanted::AsIs, Wanted::Complete] {
            let _ = pieces(&frame, &Offload { checksum, gso }, wanted);
        }
    }
}
