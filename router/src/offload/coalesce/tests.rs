use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::segment::{Segments, Wanted};
use super::super::testing::{Spec, partial, reopen};
use super::*;

/// What came out: the frame as written, and what was said of it.
#[derive(Debug, PartialEq)]
struct Out {
    frame: Vec<u8>,
    offload: Offload,
    count: usize,
}

/// Lays frames into one buffer with gaps, as records in datagrams do, and joins them.
fn join(udp: bool, frames: &[(Vec<u8>, Checksum)]) -> Vec<Out> {
    let mut coalescer = Coalescer::new(udp);
    let mut first = Vec::new();
    // A second time: nothing must be left of the first.
    for _ in 0..2 {
        let mut buffer = Vec::new();
        let mut deliveries = Vec::new();
        for (frame, checksum) in frames {
            buffer.extend([0xee; 30]);
            let range = buffer.len()..buffer.len() + frame.len();
            buffer.extend(frame);
            deliveries.push(Delivery {
                range,
                checksum: *checksum,
            });
        }
        let mut out = Vec::new();
        coalescer.join(&mut buffer, &deliveries, |buffer, joined| {
            let frame: Vec<u8> = joined
                .parts
                .iter()
                .flat_map(|part| buffer[part.clone()].to_vec())
                .collect();
            assert_eq!(frame.len(), joined.len());
            let header_len = if joined.offload.gso.is_some() {
                Layout::parse(&frame).unwrap().payload
            } else {
                0
            };
            assert_eq!(usize::from(joined.header_len), header_len);
            out.push(Out {
                frame,
                offload: joined.offload,
                count: joined.parts.len(),
            });
        });
        if !first.is_empty() {
            assert_eq!(first, out);
        }
        first = out;
    }
    first
}

fn complete(frames: impl IntoIterator<Item = Spec>) -> Vec<(Vec<u8>, Checksum)> {
    frames
        .into_iter()
        .map(|spec| (spec.build(), Checksum::Complete))
        .collect()
}

fn counts(out: &[Out]) -> Vec<usize> {
    out.iter().map(|out| out.count).collect()
}

/// Segments of one flow that follow each other.
fn stream(count: u16, payload_len: usize) -> Vec<Spec> {
    (0..count)
        .map(|index| Spec {
            id: 100 + index,
            ..Spec::tcp(u32::MAX - 3000, payload_len)
        })
        .zip(0_u32..)
        .map(|(spec, index)| Spec {
            sequence: spec
                .sequence
                .wrapping_add(index * u32::try_from(payload_len).unwrap()),
            ..spec
        })
        .collect()
}

#[test]
fn a_stream_becomes_one_frame() {
    for is_ipv6 in [false, true] {
        let specs: Vec<Spec> = stream(20, 1000)
            .into_iter()
            .map(|spec| Spec { is_ipv6, ..spec })
            .collect();
        let out = join(false, &complete(specs.clone()));
        assert_eq!(counts(&out), [20]);
        let mut expected = Spec {
            payload: specs.iter().flat_map(|spec| spec.payload.clone()).collect(),
            ..specs[0].clone()
        }
        .build();
        let checksum = reopen(&mut expected);
        assert_eq!(out[0].frame, expected);
        let kind = if is_ipv6 {
            GsoKind::Tcp6
        } else {
            GsoKind::Tcp4
        };
        let gso = Some(Gso {
            kind,
            size: 1000,
            ecn: false,
        });
        assert_eq!(out[0].offload, Offload { checksum, gso });
    }
}

#[test]
fn datagrams_become_one_frame_if_the_device_takes_it() {
    for is_ipv6 in [false, true] {
        let specs = (0..10).map(|index| Spec {
            is_ipv6,
            id: 100 + index,
            ..Spec::udp(if index == 9 { 1 } else { 500 })
        });
        let frames = complete(specs);
        let out = join(true, &frames);
        assert_eq!(counts(&out), [10]);
        assert_eq!(out[0].offload.gso.unwrap().kind, GsoKind::Udp);
        assert_eq!(out[0].offload.checksum, partial(&out[0].frame));
        assert_eq!(counts(&join(false, &frames)), [1; 10]);
    }
}

#[test]
fn identification_counts_on_or_means_nothing() {
    let with = |ids: &[u16], fragment: u16| {
        let specs = stream(u16::try_from(ids.len()).unwrap(), 100)
            .into_iter()
            .zip(ids)
            .map(|(spec, &id)| Spec {
                id,
                fragment,
                ..spec
            });
        counts(&join(false, &complete(specs)))
    };
    let df = 0x4000;
    assert_eq!(with(&[0xfffe, 0xffff, 0, 1], 0), [4]);
    assert_eq!(with(&[5, 6, 7], df), [3]);
    assert_eq!(with(&[0, 0, 0], df), [3]);
    assert_eq!(with(&[0, 0, 1], df), [2, 1]);
    assert_eq!(with(&[0, 1, 1], df), [2, 1]);
    assert_eq!(with(&[0, 0, 0], 0), [1, 1, 1]);
    assert_eq!(with(&[5, 7, 8], df), [1, 2]);
    // The reserved bit; fragments.
    for fragment in [0x8000, 0x2000, 1, 0x6000, 0x4001] {
        assert_eq!(with(&[5, 6, 7], fragment), [1, 1, 1], "{fragment:x}");
    }
}

/// Each change keeps the frame apart from the one before.
#[test]
fn what_must_not_be_joined_is_not() {
    type Change = (&'static str, fn(&mut Spec));
    let changes: &[Change] = &[
        ("host", |spec| spec.host = 2),
        ("port", |spec| spec.port = 2),
        ("TOS", |spec| spec.tos = 0x20),
        ("ECN", |spec| spec.tos = 3),
        ("TTL", |spec| spec.ttl = 63),
        ("IP options", |spec| spec.ip_options = vec![1; 4]),
        ("DF", |spec| spec.fragment = 0),
        ("fragment", |spec| spec.fragment = 0x2000),
        ("VLAN", |spec| spec.vlans = vec![7]),
        ("acknowledgement", |spec| spec.acknowledged += 1),
        ("window", |spec| spec.window += 1),
        ("timestamp", |spec| spec.options[7] += 1),
        ("options", |spec| spec.options = Vec::new()),
        ("FIN", |spec| spec.flags |= 1),
        ("SYN", |spec| spec.flags |= 2),
        ("RST", |spec| spec.flags |= 4),
        ("URG", |spec| spec.flags |= 0x20),
        ("ECE", |spec| spec.flags |= 0x40),
        ("CWR", |spec| spec.flags |= 0x80),
        ("no ACK", |spec| spec.flags = 0),
        ("gap", |spec| spec.sequence = spec.sequence.wrapping_add(1)),
        ("again", |spec| {
            spec.sequence = spec.sequence.wrapping_sub(100);
        }),
        ("longer", |spec| spec.payload.push(1)),
        ("empty", |spec| spec.payload.clear()),
        ("UDP", |spec| spec.is_udp = true),
        ("IPv6", |spec| spec.is_ipv6 = true),
    ];
    for (name, change) in changes {
        let mut specs = stream(2, 100);
        change(&mut specs[1]);
        let out = join(true, &complete(specs.clone()));
        assert_eq!(counts(&out), [1, 1], "{name}");
        let mut frames: Vec<_> = specs.iter().map(Spec::build).collect();
        // Another flow may overtake.
        if out[0].frame != frames[0] {
            frames.reverse();
        }
        for (out, frame) in out.iter().zip(&frames) {
            assert_eq!((&out.frame, out.offload), (frame, Offload::NONE), "{name}");
        }
        // Neither if all frames are so, unless it is something that is equal then.
        let mut specs = stream(2, 100);
        specs.iter_mut().for_each(change);
        let may = [
            "host",
            "port",
            "TOS",
            "ECN",
            "TTL",
            "DF",
            "acknowledgement",
            "window",
            "timestamp",
            "options",
            "gap",
            "again",
            "IPv6",
        ];
        let expected: &[usize] = match *name {
            "longer" => &[1, 1],
            "UDP" => &[2],
            name if may.contains(&name) => &[2],
            _ => &[1, 1],
        };
        let out = join(true, &complete(specs));
        assert_eq!(counts(&out), expected, "all: {name}");
    }
}

#[test]
fn push_and_a_shorter_one_end_it() {
    let mut specs = stream(6, 100);
    specs[2].flags |= PSH;
    let out = join(false, &complete(specs));
    assert_eq!(counts(&out), [3, 3]);
    assert_eq!(out[0].frame[14 + 20 + 13], ACK | PSH);
    assert_eq!(out[1].frame[14 + 20 + 13], ACK);

    let mut specs = stream(4, 100);
    specs[1].payload.truncate(50);
    specs[2].sequence = specs[2].sequence.wrapping_sub(50);
    specs[3].sequence = specs[3].sequence.wrapping_sub(50);
    assert_eq!(counts(&join(false, &complete(specs))), [2, 2]);

    // One that is pushed at once has nothing to wait for.
    let mut specs = stream(3, 100);
    specs[0].flags |= PSH;
    assert_eq!(counts(&join(false, &complete(specs))), [1, 2]);
}

#[test]
fn a_wrong_checksum_stays_visible() {
    for broken in 0..3 {
        let mut frames = complete(stream(3, 100));
        frames[broken].0[100] ^= 1;
        let out = join(false, &frames);
        let expected: &[usize] = match broken {
            0 => &[1, 2],
            1 => &[1, 1, 1],
            _ => &[2, 1],
        };
        assert_eq!(counts(&out), expected);
        let at = if broken == 0 { 0 } else { 1 };
        assert_eq!(out[at].frame, frames[broken].0);
        assert_eq!(out[at].offload, Offload::NONE);
    }
    // Of the IPv4 header; and none in UDP.
    let mut frames = complete(stream(2, 100));
    frames[1].0[14 + 10] ^= 1;
    assert_eq!(counts(&join(false, &frames)), [1, 1]);
    let mut frames = complete((0..3).map(|id| Spec { id, ..Spec::udp(9) }));
    for (frame, _) in &mut frames {
        frame[14 + 20 + 6..][..2].fill(0);
    }
    assert_eq!(counts(&join(true, &frames)), [1, 1, 1]);
}

#[test]
fn padding_keeps_frames_apart() {
    let mut frames = complete(stream(3, 2));
    for (frame, _) in &mut frames {
        frame.push(0);
    }
    assert_eq!(counts(&join(false, &frames)), [1, 1, 1]);
}

#[test]
fn partial_checksums_are_taken_as_they_are() {
    let mut frames = complete(stream(4, 100));
    for (frame, checksum) in &mut frames[1..3] {
        *checksum = reopen(frame);
    }
    let expected = join(false, &complete(stream(4, 100)));
    assert_eq!(join(false, &frames), expected);
    // Alone it stays partial.
    let out = join(false, &frames[1..2]);
    assert_eq!(out[0].offload, Offload::single(frames[1].1));
    // One that is about something else is nothing to join.
    frames[1].1 = Checksum::Partial {
        start: 14,
        offset: 10,
    };
    assert_eq!(counts(&join(false, &frames)), [1, 1, 2]);
}

#[test]
fn no_longer_than_a_packet_can_be() {
    let specs: Vec<Spec> = stream(60, 1400);
    let out = join(false, &complete(specs));
    // 65535 less the headers, in whole segments.
    assert_eq!(counts(&out), [46, 14]);
    assert!(out.iter().all(|out| out.frame.len() <= 65535 + 14));
    let out = join(false, &complete(stream(200, 10)));
    assert_eq!(counts(&out), [64, 64, 64, 8]);
}

#[test]
fn flows_wait_side_by_side() {
    let flows = u16::try_from(MAX_FLOWS).unwrap() + 1;
    let specs = |flows: u16| {
        stream(5, 100)
            .into_iter()
            .flat_map(move |spec| {
                (0..flows).map(move |port| Spec {
                    port,
                    ..spec.clone()
                })
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(counts(&join(false, &complete(specs(4)))), [5; 4]);
    assert_eq!(counts(&join(false, &complete(specs(flows)))), [1; 45]);
    // What is neither TCP nor UDP waits for all before it.
    let mut frames = complete(specs(2));
    let arp = vec![1; 42];
    frames.insert(4, (arp.clone(), Checksum::Complete));
    let out = join(false, &frames);
    assert_eq!(counts(&out), [2, 2, 1, 3, 3]);
    assert_eq!(out[2].frame, arp);
    // An acknowledgement only for those of its own flow.
    let mut ack = Spec {
        port: 1,
        ..Spec::tcp(1, 0)
    };
    ack.payload.clear();
    let mut frames = complete(specs(2));
    frames.insert(4, (ack.build(), Checksum::Complete));
    let out = join(false, &frames);
    assert_eq!(counts(&out), [2, 1, 5, 3]);
}

#[test]
fn ranges_outside_of_the_buffer_are_passed_over() {
    let deliveries = [0..70, 60..61, usize::MAX - 1..usize::MAX].map(|range| Delivery {
        range,
        checksum: Checksum::Complete,
    });
    Coalescer::new(true).join(&mut [0; 60], &deliveries, |_, _| panic!());
}

/// Small differences around one flow.
fn any_frames() -> impl Strategy<Value = Vec<(Vec<u8>, Checksum)>> {
    let step = (
        prop::sample::select(vec![1_u16, 1, 1, 2]),
        prop::sample::select(vec![40_usize, 40, 40, 40, 17, 0, 41]),
        prop::sample::select(vec![0x10_u8, 0x10, 0x10, 0x10, 0x18, 0x11, 0x90]),
        prop::sample::select(vec![0_u8, 0, 0, 0, 0, 1, 2]),
        any::<bool>(),
        0..24_u8,
    );
    (
        any::<bool>(),
        any::<bool>(),
        prop::sample::select(vec![0x4000_u16, 0]),
        any::<u32>(),
        prop::collection::vec(step, 1..40),
    )
        .prop_map(|(is_udp, is_ipv6, fragment, sequence, steps)| {
            let mut sequences = [sequence; 3];
            let mut ids = [7_u16; 3];
            let mut frames = Vec::new();
            for (number, (id_step, len, flags, flow, is_partial, odd)) in (0_u8..).zip(steps) {
                let at = usize::from(flow);
                ids[at] = ids[at].wrapping_add(id_step);
                let mut spec = Spec {
                    is_udp,
                    is_ipv6,
                    fragment,
                    flags,
                    id: ids[at],
                    sequence: sequences[at],
                    port: flow.into(),
                    payload: vec![number; len],
                    ..Spec::tcp(0, 0)
                };
                match odd {
                    0 => spec.tos = 1,
                    1 => spec.window = 1,
                    2 => spec.ttl = 1,
                    3 => spec.sequence = spec.sequence.wrapping_add(40),
                    _ => {}
                }
                sequences[at] = sequences[at].wrapping_add(u32::try_from(len).unwrap());
                let mut frame = spec.build();
                let checksum = if odd == 4 {
                    let last = frame.len() - 1;
                    frame[last] ^= 4;
                    Checksum::Complete
                } else if is_partial {
                    reopen(&mut frame)
                } else {
                    Checksum::Complete
                };
                if odd == 5 {
                    frame.extend([0; 5]);
                }
                if odd == 6 {
                    frame = vec![number; 42];
                }
                let checksum = if odd > 4 {
                    Checksum::Complete
                } else {
                    checksum
                };
                frames.push((frame, checksum));
            }
            frames
        })
}

/// The flow of a frame; what is no TCP and no UDP is in one of its own.
fn flow(frame: &[u8]) -> Option<(u32, bool)> {
    let layout = Layout::parse(frame)?;
    Some((u32_at(frame, layout.start)?, layout.is_ipv6))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Cutting what was joined gives back the frames, all of them, in order within their flows.
    #[test]
    fn joining_loses_nothing(frames in any_frames(), udp in any::<bool>()) {
        let completed = |frame: &[u8], checksum: Checksum| {
            let mut frame = frame.to_vec();
            prop_assert!(super::super::checksum::complete(&mut frame, checksum));
            Ok(frame)
        };
        let mut expected: BTreeMap<_, Vec<Vec<u8>>> = BTreeMap::new();
        for (frame, checksum) in &frames {
            expected.entry(flow(frame)).or_default().push(completed(frame, *checksum)?);
        }
        let mut got: BTreeMap<_, Vec<Vec<u8>>> = BTreeMap::new();
        let mut order = Vec::new();
        for out in join(udp, &frames) {
            let mut segments = Segments::new(&out.frame, &out.offload, Wanted::Complete).unwrap();
            while let Some(piece) = segments.next() {
                let piece = piece.to_vec();
                order.push(piece.clone());
                got.entry(flow(&piece)).or_default().push(piece);
            }
        }
        prop_assert_eq!(got, expected);
        // Nothing has overtaken what is neither.
        let others = frames.iter().enumerate().filter(|(_, (frame, _))| flow(frame).is_none());
        for (index, (frame, _)) in others {
            prop_assert_eq!(&order[index], frame);
        }
    }

    #[test]
    fn anything_is_passed_on(
        frames in any_frames(),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..40),
    ) {
        let mut frames = frames;
        for (which, at, byte) in noise {
            let which = which.index(frames.len());
            let frame = &mut frames[which].0;
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        let count: usize = join(true, &frames).iter().map(|out| out.count).sum();
        prop_assert_eq!(count, frames.len());
    }
}
