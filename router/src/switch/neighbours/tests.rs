use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use etherparse::PacketBuilder;
use etherparse::icmpv6::NeighborAdvertisementHeader;
use proptest::prelude::*;

use super::*;

const OURS: PeerName = PeerName::from_bytes([0, 0, 0, 0, 0, 1]);
const OTHER: PeerName = PeerName::from_bytes([0, 0, 0, 0, 0, 2]);
const LOCAL: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const REMOTE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn arp(op: u8, from: MacAddr, sender: [u8; 4], to: MacAddr, target: [u8; 4]) -> Vec<u8> {
    [
        &to.0[..],
        &from.0,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, op],
        &from.0,
        &sender,
        &[0; 6],
        &target,
    ]
    .concat()
}

fn discovery(kind: u8, from: MacAddr, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.0, MacAddr::BROADCAST.0).ipv6(
        source.octets(),
        "ff02::1:ff00:2".parse::<Ipv6Addr>().unwrap().octets(),
        255,
    );
    let builder = match kind {
        SOLICITATION => builder.icmpv6(etherparse::Icmpv6Type::NeighborSolicitation),
        _ => builder.icmpv6(etherparse::Icmpv6Type::NeighborAdvertisement(
            NeighborAdvertisementHeader {
                router: false,
                solicited: true,
                r#override: true,
            },
        )),
    };
    let option = if kind == SOLICITATION { 1 } else { 2 };
    let payload = [&target.octets()[..], &[option, 1], &from.0].concat();
    let mut frame = Vec::new();
    builder.write(&mut frame, &payload).unwrap();
    frame
}

fn view(bytes: &[u8]) -> Frame<'_> {
    Frame::new_checked(bytes).unwrap()
}

fn macs(now: Instant) -> MacTable {
    let mut macs = MacTable::default();
    macs.learn(REMOTE, OTHER, now);
    macs.learn(LOCAL, OURS, now);
    macs
}

#[test]
fn arp_is_answered_for_others() {
    let now = Instant::now();
    let macs = macs(now);
    let mut neighbours = Neighbours::default();
    let (here, there) = ([10, 2, 0, 1], [10, 2, 0, 2]);
    let question = arp(1, LOCAL, here, MacAddr::BROADCAST, there);
    let answer = |neighbours: &Neighbours, question: &[u8], now| {
        neighbours.answer(&view(question), OURS, &macs, now)
    };
    assert_eq!(answer(&neighbours, &question, now), None);
    neighbours.learn(&view(&arp(2, REMOTE, there, LOCAL, here)), now);
    let expected = [
        &LOCAL.0[..],
        &REMOTE.0,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
        &REMOTE.0,
        &there,
        &LOCAL.0,
        &here,
    ]
    .concat();
    assert_eq!(answer(&neighbours, &question, now), Some(expected));
    // Probes, announcements and answers go their way.
    for other in [
        arp(1, LOCAL, [0; 4], MacAddr::BROADCAST, there),
        arp(1, LOCAL, there, MacAddr::BROADCAST, there),
        arp(2, LOCAL, here, REMOTE, there),
        arp(1, LOCAL, here, MacAddr::BROADCAST, [10, 2, 0, 3]),
    ] {
        assert_eq!(answer(&neighbours, &other, now), None);
    }
    // Not when it is too old, and not when nobody knows where the address is.
    let late = now + NEIGHBOUR_MAX_AGE + Duration::from_secs(1);
    assert_eq!(answer(&neighbours, &question, late), None);
    let nowhere = MacTable::default();
    let asked = neighbours.answer(&view(&question), OURS, &nowhere, now);
    assert_eq!(asked, None);
}

#[test]
fn neighbour_discovery_is_answered_for_others() {
    let now = Instant::now();
    let macs = macs(now);
    let mut neighbours = Neighbours::default();
    let here: Ipv6Addr = "fe80::1".parse().unwrap();
    let there: Ipv6Addr = "fe80::2".parse().unwrap();
    let question = discovery(SOLICITATION, LOCAL, here, there);
    assert_eq!(neighbours.answer(&view(&question), OURS, &macs, now), None);
    neighbours.learn(&view(&discovery(ADVERTISEMENT, REMOTE, there, there)), now);
    let answer = neighbours
        .answer(&view(&question), OURS, &macs, now)
        .unwrap();
    // It is what etherparse reads as an advertisement with a sound checksum.
    let sliced = etherparse::SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(etherparse::TransportSlice::Icmpv6(icmp)) = sliced.transport else {
        panic!("{sliced:?}")
    };
    assert!(icmp.is_checksum_valid(there.octets(), here.octets()));
    let message = parse(&view(&answer)).unwrap();
    assert_eq!(message.told, Some((IpAddr::V6(there), REMOTE)));
    // Who finds out whether an address is free is not answered.
    let probe = discovery(SOLICITATION, LOCAL, Ipv6Addr::UNSPECIFIED, there);
    assert_eq!(neighbours.answer(&view(&probe), OURS, &macs, now), None);
    // A broken checksum teaches nothing.
    let mut forged = discovery(ADVERTISEMENT, REMOTE, here, here);
    forged[60] ^= 1;
    neighbours.learn(&view(&forged), now);
    assert_eq!(neighbours.entries.len(), 1);
}

#[test]
fn who_speaks_for_others_is_not_believed() {
    let now = Instant::now();
    let mut neighbours = Neighbours::default();
    let mut frame = arp(2, REMOTE, [10, 2, 0, 2], LOCAL, [10, 2, 0, 1]);
    frame[11] ^= 1;
    neighbours.learn(&view(&frame), now);
    assert!(neighbours.entries.is_empty());
}

#[test]
fn the_table_is_bounded() {
    let now = Instant::now();
    let mut neighbours = Neighbours::default();
    let mut learn = |range: std::ops::Range<u32>, now| {
        for number in range {
            let address = Ipv4Addr::from(0x0a00_0000 + number).octets();
            let frame = arp(2, REMOTE, address, LOCAL, [10, 2, 0, 1]);
            neighbours.learn(&view(&frame), now);
        }
        neighbours.entries.len()
    };
    let most = u32::try_from(NEIGHBOUR_TABLE_LEN).unwrap();
    assert_eq!(learn(1..most + 100, now), NEIGHBOUR_TABLE_LEN);
    let later = now + NEIGHBOUR_MAX_AGE + Duration::from_secs(1);
    assert_eq!(learn(most + 200..most + 300, later), 100);
}

proptest! {
    #[test]
    fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 14..120), kind in 0..3_u8) {
        let mut bytes = bytes;
        match kind {
            0 => bytes[12..14].copy_from_slice(&ARP),
            1 => bytes[12..14].copy_from_slice(&IPV6),
            _ => {}
        }
        let now = Instant::now();
        let mut neighbours = Neighbours::default();
        neighbours.learn(&view(&bytes), now);
        let _ = neighbours.answer(&view(&bytes), OURS, &macs(now), now);
    }
}
