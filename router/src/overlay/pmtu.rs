//! Search for the path MTU of one link.
//!
//! Sending a datagram that may not be fragmented fails locally when it is longer than the kernel's
//! path MTU, `P`. That starts a search for the largest overlay MTU that really gets through: a test
//! frame of the candidate's size is sent up to 8 times, with timeouts of 10, 20, .. 1280 ms; the
//! neighbour answers over the connection; the interval between the highest good and the lowest bad
//! value is halved until it is empty. The candidate `P - overhead` comes first and usually is it.
//!
//! Overlay MTU: the largest IP packet that crosses the link in one datagram, in bytes. Payload: the
//! UDP payload of that datagram, `P - 28`.
//!
//! Source: Weave data plane, section 5.

use std::time::Instant;

use proto::PeerName;

use crate::constants::{MAX_UDP_PAYLOAD, MTU_FLOOR, MTU_TEST_COUNT, MTU_TEST_TIMEOUT, MTU_UNKNOWN};
use crate::wire::ethernet::HEADER_LEN;
use crate::wire::sleeve::{FRAGMENTATION_TEST_LEN, RECORD_HEADER_LEN};

/// Bytes of an IPv4 and a UDP header.
const UDP_OVERHEAD: u16 = 28;

/// The smallest candidate: IPv4 demands that every link carries 68 bytes. It also keeps the test
/// frame apart from a heartbeat, which has the length of a test for 8 bytes, and from a test for 0
/// bytes, whose answer would upset the original.
const CANDIDATE_MIN: u16 = 68;

/// What is to be done after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Action {
    /// Nothing.
    None,
    /// Send a test frame for this overlay MTU.
    Test(u16),
}

/// The test frame of one length would be taken for a fragmentation test: one byte less does.
const fn testable(mtu: u16) -> u16 {
    if mtu as usize + HEADER_LEN == FRAGMENTATION_TEST_LEN {
        mtu - 1
    } else {
        mtu
    }
}

#[derive(Debug, Clone, Copy)]
struct Search {
    candidate: u16,
    highest_good: u16,
    lowest_bad: u16,
    tests_sent: u32,
    timeout_at: Instant,
}

/// What is known of the path to one neighbour.
#[derive(Debug)]
pub(super) struct Pmtu {
    /// For the log.
    peer: PeerName,
    overlay: &'static str,
    /// Bytes that turn an IP packet of the overlay into one of the underlay.
    overhead: u16,
    mtu: u16,
    max_payload: usize,
    search: Option<Search>,
    /// Whether a search has ended.
    verified: bool,
}

impl Pmtu {
    /// For sleeve, of which nothing is known yet. `header_len` is that of the link's packets.
    pub(super) const fn new(peer: PeerName, header_len: usize) -> Self {
        Self::with_overhead(peer, "sleeve", header_len + RECORD_HEADER_LEN + HEADER_LEN)
    }

    /// Nothing is known yet. `overhead` is what an overlay adds to an IP packet to make a UDP
    /// payload of it; the overlay's name is for the log.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "header lengths are constants far below 64 KB"
    )]
    pub(super) const fn with_overhead(
        peer: PeerName,
        overlay: &'static str,
        overhead: usize,
    ) -> Self {
        Self {
            peer,
            overlay,
            overhead: UDP_OVERHEAD + overhead as u16,
            mtu: MTU_UNKNOWN,
            max_payload: MAX_UDP_PAYLOAD,
            search: None,
            verified: false,
        }
    }

    /// Overlay MTU, as good as it is known.
    #[inline]
    pub(super) const fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Longest UDP payload that the path carries in one piece, as good as it is known.
    #[inline]
    pub(super) const fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.search.map(|search| search.timeout_at)
    }

    /// A datagram was refused as longer than the path MTU `path_mtu`.
    pub(super) fn handle_too_long(&mut self, path_mtu: u16, now: Instant) -> Action {
        let candidate = testable(path_mtu.saturating_sub(self.overhead).max(CANDIDATE_MIN));
        if self
            .search
            .is_some_and(|search| candidate >= search.candidate)
        {
            return Action::None;
        }
        // A longer one must prove itself first.
        let highest_good = if candidate <= self.mtu {
            self.set_mtu(candidate);
            MTU_FLOOR
        } else {
            self.mtu
        };
        tracing::debug!(path_mtu, candidate, "MTU search starts");
        self.search(candidate, highest_good, now)
    }

    /// Makes sure that the MTU is still good, if it was ever searched for. A path that has become
    /// narrower without telling is noticed so.
    pub(super) fn check(&mut self, now: Instant) -> Action {
        if self.search.is_some() || self.mtu == MTU_UNKNOWN || self.mtu <= MTU_FLOOR {
            return Action::None;
        }
        self.search(self.mtu, MTU_FLOOR, now)
    }

    fn search(&mut self, candidate: u16, highest_good: u16, now: Instant) -> Action {
        self.search = Some(Search {
            candidate,
            highest_good,
            lowest_bad: candidate.saturating_add(1),
            tests_sent: 0,
            timeout_at: now,
        });
        self.test(now)
    }

    /// The neighbour says that the test for `mtu` has arrived.
    pub(super) fn handle_verified(&mut self, mtu: u16, now: Instant) -> Action {
        match &mut self.search {
            Some(search) if search.candidate == mtu => {
                search.highest_good = mtu;
                self.next(now)
            }
            _ => Action::None,
        }
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Action {
        match &mut self.search {
            Some(search) if search.timeout_at <= now => {
                if search.tests_sent < MTU_TEST_COUNT {
                    return self.test(now);
                }
                search.lowest_bad = search.candidate;
                self.next(now)
            }
            _ => Action::None,
        }
    }

    fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
        self.max_payload = usize::from(mtu) + usize::from(self.overhead - UDP_OVERHEAD);
    }

    fn test(&mut self, now: Instant) -> Action {
        let Some(search) = &mut self.search else {
            return Action::None;
        };
        let factor = 1_u32.checked_shl(search.tests_sent).unwrap_or(u32::MAX);
        search.timeout_at = now + MTU_TEST_TIMEOUT.saturating_mul(factor);
        search.tests_sent = search.tests_sent.saturating_add(1);
        Action::Test(search.candidate)
    }

    fn next(&mut self, now: Instant) -> Action {
        let Some(search) = &mut self.search else {
            return Action::None;
        };
        let candidate = testable(search.highest_good.midpoint(search.lowest_bad));
        if search.highest_good.saturating_add(1) >= search.lowest_bad
            || candidate == search.highest_good
        {
            let mtu = search.highest_good;
            self.search = None;
            let is_news = mtu != self.mtu || !self.verified;
            self.verified = true;
            self.set_mtu(mtu);
            if is_news {
                let (peer, overlay) = (self.peer, self.overlay);
                tracing::info!("->[{peer}] {overlay}: Effective MTU verified at {mtu}");
            }
            return Action::None;
        }
        search.candidate = candidate;
        search.tests_sent = 0;
        self.test(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::sleeve::{PLAIN_HEADER_LEN, SEALED_HEADER_LEN};

    const MS: Duration = Duration::from_millis(1);

    /// Runs a search to its end against a path that carries overlay packets of up to `real` bytes.
    /// Returns the candidates in turn with the number of tests of each, and the time taken.
    fn run(
        pmtu: &mut Pmtu,
        mut action: Action,
        start: Instant,
        real: u16,
    ) -> (Vec<(u16, u32)>, Duration) {
        let mut tests: Vec<(u16, u32)> = Vec::new();
        let mut now = start;
        while let Action::Test(candidate) = action {
            match tests.last_mut() {
                Some((last, count)) if *last == candidate => *count += 1,
                _ => tests.push((candidate, 1)),
            }
            assert!(tests.len() < 40, "no end: {tests:?}");
            action = if candidate <= real {
                pmtu.handle_verified(candidate, now)
            } else {
                now = pmtu.next_timeout().unwrap();
                assert_eq!(pmtu.handle_timeout(now - MS), Action::None);
                pmtu.handle_timeout(now)
            };
        }
        assert_eq!(pmtu.next_timeout(), None);
        (tests, now - start)
    }

    #[test]
    fn arithmetic_vectors() {
        let mut checked = 0;
        for vector in crate::testing::vectors("sleeve_special.json") {
            let Some(path_mtu) = vector["inputs"]["underlay_pmtu"].as_u64() else {
                continue;
            };
            let path_mtu = u16::try_from(path_mtu).unwrap();
            let meaning = &vector["meaning"];
            for (header_len, overhead, candidate) in [
                (PLAIN_HEADER_LEN, "overhead_plain", "first_candidate_plain"),
                (
                    SEALED_HEADER_LEN,
                    "overhead_encrypted",
                    "first_candidate_encrypted",
                ),
            ] {
                let mut pmtu = Pmtu::new(PeerName::UNKNOWN, header_len);
                assert_eq!(meaning[overhead], pmtu.overhead);
                let Action::Test(first) = pmtu.handle_too_long(path_mtu, Instant::now()) else {
                    panic!("no test");
                };
                assert_eq!(meaning[candidate], first);
                assert_eq!(meaning["max_udp_payload"], pmtu.max_payload());
            }
            checked += 1;
        }
        assert_eq!(checked, 5);
    }

    #[test]
    fn the_recorded_searches() {
        // Plain, path MTU 1500: answered at once.
        let now = Instant::now();
        let mut pmtu = Pmtu::new(PeerName::UNKNOWN, PLAIN_HEADER_LEN);
        assert_eq!((pmtu.mtu(), pmtu.max_payload()), (65535, 65507));
        let action = pmtu.handle_too_long(1500, now);
        assert_eq!((pmtu.mtu(), pmtu.max_payload()), (1438, 1472));
        assert_eq!(
            run(&mut pmtu, action, now, 9000),
            (vec![(1438, 1)], Duration::ZERO)
        );
        assert_eq!((pmtu.mtu(), pmtu.max_payload()), (1438, 1472));

        // Unanswered until 662, then all good: as tried against the original.
        let mut pmtu = Pmtu::new(PeerName::UNKNOWN, PLAIN_HEADER_LEN);
        let action = pmtu.handle_too_long(1500, now);
        let (tests, taken) = run(&mut pmtu, action, now, 772);
        let candidates: Vec<_> = tests.iter().map(|test| test.0).collect();
        assert_eq!(candidates[..4], [1438, 995, 773, 662]);
        assert_eq!(candidates[4..], [717, 745, 759, 766, 769, 771, 772]);
        assert!(
            tests[..3].iter().all(|test| test.1 == 8) && tests[3..].iter().all(|test| test.1 == 1)
        );
        assert_eq!(taken, 3 * 2550 * MS);
        assert_eq!((pmtu.mtu(), pmtu.max_payload()), (772, 772 + 62 - 28));
    }

    #[test]
    fn an_unanswered_search_ends_at_the_floor() {
        let now = Instant::now();
        let mut pmtu = Pmtu::new(PeerName::UNKNOWN, SEALED_HEADER_LEN);
        let action = pmtu.handle_too_long(1500, now);
        assert_eq!(pmtu.mtu(), 1414);
        let (tests, _) = run(&mut pmtu, action, now, 0);
        assert_eq!(tests.last().unwrap().0, 553);
        assert_eq!(pmtu.mtu(), MTU_FLOOR);
    }

    #[test]
    fn only_a_smaller_path_restarts_a_running_search() {
        let now = Instant::now();
        let mut pmtu = Pmtu::new(PeerName::UNKNOWN, PLAIN_HEADER_LEN);
        assert_eq!(pmtu.handle_too_long(1500, now), Action::Test(1438));
        assert_eq!(pmtu.handle_too_long(1500, now), Action::None);
        assert_eq!(pmtu.handle_too_long(9000, now), Action::None);
        assert_eq!(pmtu.handle_too_long(1400, now), Action::Test(1338));
        for other in [0, 1337, 1339, 1438, 65535] {
            assert_eq!(pmtu.handle_verified(other, now), Action::None);
        }
        assert_eq!(pmtu.handle_verified(1338, now), Action::None);
        assert_eq!(pmtu.mtu(), 1338);
        // Over: nothing is due, and an answer that comes late changes nothing.
        assert_eq!(pmtu.handle_timeout(now + 10_000 * MS), Action::None);
        assert_eq!(pmtu.handle_verified(0, now), Action::None);
        assert_eq!(pmtu.mtu(), 1338);
        // A path that shrinks later is searched again.
        assert_eq!(pmtu.handle_too_long(1280, now), Action::Test(1218));
    }

    #[test]
    fn a_wider_path_is_used_once_it_has_proved_itself() {
        let now = Instant::now();
        let mut pmtu = Pmtu::with_overhead(PeerName::UNKNOWN, "shuttle", 50);
        assert_eq!(pmtu.check(now), Action::None);
        let action = pmtu.handle_too_long(1500, now);
        run(&mut pmtu, action, now, 9000);
        assert_eq!(pmtu.mtu(), 1422);
        let action = pmtu.handle_too_long(9000, now);
        assert_eq!((action, pmtu.mtu()), (Action::Test(8922), 1422));
        run(&mut pmtu, action, now, 8922);
        assert_eq!(pmtu.mtu(), 8922);
        // Still good, and then silently not any more.
        let action = pmtu.check(now);
        assert_eq!(action, Action::Test(8922));
        assert_eq!(run(&mut pmtu, action, now, 8922).0, [(8922, 1)]);
        let action = pmtu.check(now);
        run(&mut pmtu, action, now, 1300);
        assert_eq!(pmtu.mtu(), 1300);
    }

    proptest! {
        #[test]
        fn finds_what_the_path_carries(path_mtu in 0..=u16::MAX, real in 0..=u16::MAX) {
            let now = Instant::now();
            for header_len in [PLAIN_HEADER_LEN, SEALED_HEADER_LEN] {
                let mut pmtu = Pmtu::new(PeerName::UNKNOWN, header_len);
                let action = pmtu.handle_too_long(path_mtu, now);
                let top = pmtu.mtu();
                let (tests, taken) = run(&mut pmtu, action, now, real);
                for (candidate, _) in tests {
                    prop_assert!(candidate >= 68 && candidate != 59_987);
                }
                prop_assert!(taken <= 17 * 2550 * MS);
                let expected = if real >= top { top } else { real.max(MTU_FLOOR) };
                // The one length that cannot be tested may cost a byte.
                prop_assert!(pmtu.mtu() == expected || expected == 59_987);
                prop_assert_eq!(pmtu.max_payload(), usize::from(pmtu.mtu()) + header_len + 28);
            }
        }
    }
}
