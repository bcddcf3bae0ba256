use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;
use crate::testing::{bytes, vectors};

/// The offending frame of a vector: its first bytes are given, the rest counts up.
fn offending(inputs: &Json) -> Vec<u8> {
    let mut frame = bytes(&inputs["offending_frame_first_64"]);
    let total_len = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    frame.resize(HEADER_LEN + total_len, 0);
    frame
}

fn fragments(frame: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    let view = Frame::new_checked(frame).unwrap();
    let mut all = Vec::new();
    let mut scratch = Vec::new();
    let fits = fragment(&view, &view.ipv4().unwrap(), mtu, &mut scratch, |part| {
        all.push(part.to_vec());
    });
    assert_eq!(fits, !all.is_empty());
    all
}

#[test]
fn every_vector() {
    let (mut answers, mut fragmented) = (0, 0);
    for vector in vectors("icmp_and_fragmentation.json") {
        let name = vector["name"].as_str().unwrap();
        let mtu = u16::try_from(vector["inputs"]["mtu"].as_u64().unwrap()).unwrap();
        if let Some(expected) = vector["hex"].as_array() {
            let expected: Vec<_> = expected.iter().map(bytes).collect();
            assert_eq!(
                fragments(&bytes(&vector["inputs"]["frame"]), mtu),
                expected,
                "{name}"
            );
            fragmented += 1;
        } else {
            let frame = offending(&vector["inputs"]);
            let view = Frame::new_checked(&frame).unwrap();
            let answer = fragmentation_needed(&view, &view.ipv4().unwrap(), mtu).unwrap();
            assert_eq!(
                hex::encode(answer.bytes()),
                vector["hex"].as_str().unwrap(),
                "{name}"
            );
            answers += 1;
        }
    }
    assert_eq!((answers, fragmented), (4, 4));
}

/// An IPv4 frame with `options` times 4 bytes of options.
fn frame(
    options: u8,
    offset: u16,
    more_fragments: bool,
    payload: &[u8],
    padding: usize,
) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 0xb, 2, 0, 0, 0, 0, 0xa, 8, 0];
    let header_len = 20 + 4 * usize::from(options);
    let total_len = u16::try_from(header_len + payload.len())
        .unwrap()
        .to_be_bytes();
    let [high, low] = (offset | if more_fragments { 0x2000 } else { 0 }).to_be_bytes();
    frame.extend([
        0x45 + options,
        0x12,
        total_len[0],
        total_len[1],
        0xab,
        0xcd,
        high,
        low,
        9,
        17,
    ]);
    frame.extend([0, 0, 10, 2, 1, 1, 10, 2, 1, 2]);
    frame.extend(vec![1; 4 * usize::from(options)]);
    frame.extend(payload);
    frame.extend(vec![0xee; padding]);
    frame
}

fn checksum(header: &[u8]) -> u16 {
    Sum16BitWords::new().add_slice(header).ones_complement()
}

proptest! {
    #[test]
    fn fragments_are_the_whole(
        options in 0..=10_u8,
        offset in 0..100_u16,
        more_fragments: bool,
        payload in prop::collection::vec(any::<u8>(), 1..3000),
        padding in 0..40_usize,
        mtu in 0..1600_u16,
    ) {
        let whole = frame(options, offset, more_fragments, &payload, padding);
        let header_len = 20 + 4 * usize::from(options);
        let parts = fragments(&whole, mtu);
        if usize::from(mtu) < header_len + 8 {
            prop_assert!(parts.is_empty());
            return Ok(());
        }
        let mut joined: Vec<u8> = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let view = Frame::new_checked(part).unwrap();
            let ip = view.ipv4().unwrap();
            prop_assert!(ip.header().len() + ip.payload().len() <= usize::from(mtu));
            prop_assert!(part.len() >= MIN_FRAME_LEN);
            prop_assert_eq!(checksum(ip.header()), 0);
            prop_assert_eq!(&part[..HEADER_LEN], &whole[..HEADER_LEN]);
            prop_assert_eq!(usize::from(ip.fragment_offset()), usize::from(offset) + joined.len() / 8);
            prop_assert_eq!(ip.more_fragments(), more_fragments || index + 1 < parts.len());
            prop_assert!(!ip.dont_fragment());
            joined.extend(ip.payload());
        }
        prop_assert_eq!(joined, payload);
    }

    #[test]
    fn answers_are_well_formed(options in 0..=10_u8, payload in prop::collection::vec(any::<u8>(), 0..20), mtu: u16) {
        let whole = frame(options, 0, false, &payload, 0);
        let view = Frame::new_checked(&whole).unwrap();
        let answer = fragmentation_needed(&view, &view.ipv4().unwrap(), mtu).unwrap();
        let view = Frame::new_checked(answer.bytes()).unwrap();
        let ip = view.ipv4().unwrap();
        prop_assert_eq!(checksum(ip.header()), 0);
        prop_assert_eq!(checksum(ip.payload()), 0);
        prop_assert_eq!(&ip.payload()[..2], &[3, 4]);
        prop_assert_eq!(&ip.payload()[4..8], &[0, 0, mtu.to_be_bytes()[0], mtu.to_be_bytes()[1]]);
    }
}

#[test]
fn an_offset_that_overflows_is_refused() {
    assert!(fragments(&frame(0, 0x1fff, false, &[0; 100], 0), 100).is_empty());
}
