use std::net::Ipv6Addr;

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
                hex::encode(&answer),
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
        let view = Frame::new_checked(&answer).unwrap();
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

/// A frame with an IPv6 packet between these addresses, of a protocol with these bytes behind the
/// header.
fn ipv6(addresses: [&str; 2], protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
    let [source, destination] = addresses.map(|text| text.parse::<Ipv6Addr>().unwrap().octets());
    let header = Ipv6Header {
        payload_length: u16::try_from(payload.len()).unwrap(),
        next_header: protocol,
        hop_limit: 64,
        source,
        destination,
        ..Ipv6Header::default()
    };
    let ethernet = [2, 0, 0, 0, 0, 0xb, 2, 0, 0, 0, 0, 0xa, 0x86, 0xdd];
    [&ethernet[..], &header.to_bytes(), payload].concat()
}

#[test]
fn an_ipv6_sender_is_told() {
    let ends = ["2001:db8::1", "2001:db8::2"];
    for payload_len in [1400, 1300, 4] {
        let payload: Vec<u8> = (0..=250).cycle().take(payload_len).collect();
        let mut whole = ipv6(ends, IpNumber::TCP, &payload);
        let packet = whole[HEADER_LEN..].to_vec();
        whole.extend([0xee; 9]);
        let view = Frame::new_checked(&whole).unwrap();
        assert!(must_be_shorter(&view, 1300));
        let answer = too_long_answer(&view, 1300).unwrap();
        assert!(answer.len() <= HEADER_LEN + 1280);
        let parsed = etherparse::PacketHeaders::from_ethernet_slice(&answer).unwrap();
        let link = parsed.link.unwrap().ethernet2().unwrap();
        assert_eq!(
            (link.source, link.destination),
            ([2, 0, 0, 0, 0, 0xb], [2, 0, 0, 0, 0, 0xa])
        );
        let Some(etherparse::NetHeaders::Ipv6(header, _)) = parsed.net else {
            panic!("{answer:?}");
        };
        assert_eq!(header.source_addr(), ends[1].parse::<Ipv6Addr>().unwrap());
        assert_eq!(
            header.destination_addr(),
            ends[0].parse::<Ipv6Addr>().unwrap()
        );
        let Some(etherparse::TransportHeader::Icmpv6(icmp)) = parsed.transport else {
            panic!("{answer:?}");
        };
        assert_eq!(icmp.icmp_type, Icmpv6Type::PacketTooBig { mtu: 1300 });
        let quoted = parsed.payload.slice();
        assert_eq!(quoted, &packet[..packet.len().min(1232)]);
        let checksum = icmp
            .icmp_type
            .calc_checksum(header.source, header.destination, quoted);
        assert_eq!(checksum.unwrap(), icmp.checksum);
        // Nobody is told of the answer.
        assert!(!must_be_shorter(
            &Frame::new_checked(&answer).unwrap(),
            1300
        ));
    }
}

#[test]
fn some_ipv6_senders_are_not_told() {
    let ends = ["2001:db8::1", "2001:db8::2"];
    let echo = ipv6(ends, IpNumber::IPV6_ICMP, &[128; 1400]);
    assert!(must_be_shorter(&Frame::new_checked(&echo).unwrap(), 1280));
    // Below the least MTU it is the path's task to carry the packet.
    assert!(!must_be_shorter(&Frame::new_checked(&echo).unwrap(), 1279));
    let mut cut = echo.clone();
    cut.pop();
    let mut other_version = echo.clone();
    other_version[HEADER_LEN] = 0x45;
    for silent in [
        ipv6(ends, IpNumber::IPV6_ICMP, &[3; 1400]),
        ipv6(ends, IpNumber::IPV6_ICMP, &[]),
        ipv6(["::", ends[1]], IpNumber::UDP, &[0; 1400]),
        ipv6(["ff02::1", ends[1]], IpNumber::UDP, &[0; 1400]),
        ipv6([ends[0], "ff02::1"], IpNumber::UDP, &[0; 1400]),
        cut,
        other_version,
        echo[..HEADER_LEN + 39].to_vec(),
    ] {
        let view = Frame::new_checked(&silent).unwrap();
        assert!(!must_be_shorter(&view, 1300));
        assert_eq!(too_long_answer(&view, 1300), None);
    }
}
