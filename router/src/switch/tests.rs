use std::time::Duration;

use super::*;
use crate::constants::{MAC_MAX_AGE, MAC_MOVE_HOLD, MAC_REFRESH};

const OURS: PeerName = PeerName::from_bytes([0, 0, 0, 0, 0, 1]);
const PEER: PeerName = PeerName::from_bytes([0, 0, 0, 0, 0, 2]);
const OTHER: PeerName = PeerName::from_bytes([0, 0, 0, 0, 0, 3]);
const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);

fn frame(source: MacAddr, destination: MacAddr) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&destination.0);
    frame[6..12].copy_from_slice(&source.0);
    frame[12] = 8;
    frame
}

struct Fixture {
    switch: Switch,
    now: Instant,
}

impl Fixture {
    fn new() -> Self {
        Self {
            switch: Switch::new(OURS),
            now: Instant::now(),
        }
    }

    fn captured(&mut self, source: MacAddr, destination: MacAddr) -> Verdict {
        let bytes = frame(source, destination);
        self.switch
            .captured(&Frame::new_checked(&bytes).unwrap(), self.now)
    }

    fn arrived(&mut self, origin: PeerName, source: MacAddr, destination: MacAddr) -> Verdict {
        let bytes = frame(source, destination);
        self.switch
            .arrived(origin, &Frame::new_checked(&bytes).unwrap(), self.now)
    }

    fn at(&self, mac: MacAddr) -> Option<PeerName> {
        self.switch.table().peer(mac)
    }
}

#[test]
fn captured_frames() {
    let mut test = Fixture::new();
    assert_eq!(test.captured(A, B), Verdict::Flood);
    assert_eq!(test.at(A), Some(OURS));
    assert_eq!(
        test.captured(B, A),
        Verdict::Drop(DropReason::LocalDestination)
    );
    assert_eq!(test.captured(A, MacAddr::BROADCAST), Verdict::Flood);
    assert_eq!(
        test.captured(A, MacAddr([0x33, 0x33, 0, 0, 0, 1])),
        Verdict::Flood
    );
    assert_eq!(
        test.captured(A, MacAddr::STP),
        Verdict::Drop(DropReason::SpanningTree)
    );
    // Other link-local groups pass, as in the original.
    assert_eq!(
        test.captured(A, MacAddr([1, 0x80, 0xc2, 0, 0, 0xe])),
        Verdict::Flood
    );
    test.arrived(PEER, C, A);
    assert_eq!(test.captured(A, C), Verdict::Unicast(PEER));
}

#[test]
fn arrived_frames() {
    let mut test = Fixture::new();
    assert_eq!(test.arrived(PEER, B, A), Verdict::Flood);
    assert_eq!(test.at(B), Some(PEER));
    test.captured(A, B);
    assert_eq!(test.arrived(PEER, B, A), Verdict::Deliver);
    assert_eq!(test.arrived(PEER, B, MacAddr::BROADCAST), Verdict::Flood);
    // Known, but at another peer: flooded on.
    test.arrived(OTHER, C, A);
    assert_eq!(test.arrived(PEER, B, C), Verdict::Flood);
    // Known at the very peer it came from: flooded on, too.
    assert_eq!(test.arrived(PEER, B, B), Verdict::Flood);
}

#[test]
fn addresses_move_with_what_arrives() {
    let mut test = Fixture::new();
    test.captured(A, B);
    test.arrived(PEER, A, B);
    assert_eq!(test.at(A), Some(PEER));
    test.arrived(OTHER, A, B);
    assert_eq!(test.at(A), Some(OTHER));
    // A frame of ours that comes back: the original goes on, and so do we.
    test.arrived(OURS, A, B);
    assert_eq!(test.at(A), Some(OURS));
}

#[test]
fn addresses_move_here_once_silent_there() {
    let mut test = Fixture::new();
    test.arrived(PEER, A, B);
    assert_eq!(
        test.captured(A, B),
        Verdict::Drop(DropReason::SourceElsewhere)
    );
    test.now += MAC_MOVE_HOLD - MAC_REFRESH;
    // Heard again at the peer: the time starts anew.
    test.arrived(PEER, A, B);
    test.now += MAC_MOVE_HOLD - Duration::from_millis(1);
    assert_eq!(
        test.captured(A, B),
        Verdict::Drop(DropReason::SourceElsewhere)
    );
    assert_eq!(test.at(A), Some(PEER));
    test.now += Duration::from_millis(1);
    assert_eq!(test.captured(A, B), Verdict::Flood);
    assert_eq!(test.at(A), Some(OURS));
}

#[test]
fn sources_that_no_station_has() {
    let mut test = Fixture::new();
    for source in [
        MacAddr::BROADCAST,
        MacAddr::ZERO,
        MacAddr([0x33, 0x33, 0, 0, 0, 1]),
    ] {
        assert_eq!(
            test.captured(source, B),
            Verdict::Drop(DropReason::InvalidSource)
        );
        assert_eq!(
            test.arrived(PEER, source, B),
            Verdict::Drop(DropReason::InvalidSource)
        );
    }
    assert!(test.switch.table().is_empty());
}

#[test]
fn peers_and_addresses_are_forgotten() {
    let mut test = Fixture::new();
    test.captured(A, B);
    test.arrived(PEER, B, A);
    test.arrived(OTHER, C, A);
    test.switch.forget(PEER);
    assert_eq!((test.at(B), test.at(C)), (None, Some(OTHER)));
    test.now += MAC_MAX_AGE - Duration::from_millis(1);
    test.captured(A, B);
    test.switch.sweep(test.now);
    assert_eq!(test.at(C), Some(OTHER));
    test.now += Duration::from_millis(1);
    test.switch.sweep(test.now);
    assert_eq!((test.at(A), test.at(C)), (Some(OURS), None));
}
