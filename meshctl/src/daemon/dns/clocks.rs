//! How far the clocks of other hosts are off.
//!
//! Every update tells the time of its sender, so the first one over a new connection shows a wrong
//! clock. The way of a message counts as well: seconds mean nothing. From [`NOTICEABLE`] on it is
//! told; beyond [`dns::MAX_CLOCK_SKEW`] the original refuses to talk.

use std::collections::BTreeMap;

use dns::MAX_CLOCK_SKEW;
use proto::PeerName;

/// Seconds from which on a clock counts as wrong. Updates wait for their connection at most this
/// long, unless it is about to break.
const NOTICEABLE: i64 = 60;
/// Seconds below which it counts as right again.
const RIGHT_AGAIN: i64 = 30;

/// How much a clock is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Right,
    /// Somebody should look at it.
    Wrong,
    /// The original would refuse it.
    Refusable,
}

/// The clock of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Whose.
    pub peer: PeerName,
    /// Seconds by which it is ahead of ours.
    pub offset: i64,
    /// Whether that is worth a remark.
    pub is_wrong: bool,
}

/// The clocks of all peers that were heard.
#[derive(Debug, Default)]
pub struct Clocks {
    by_peer: BTreeMap<PeerName, (i64, Grade)>,
}

impl Clocks {
    /// Takes the offset of a peer's clock; logs it when it becomes wrong, or right.
    pub fn note(&mut self, peer: PeerName, offset: i64) {
        let before = self
            .by_peer
            .get(&peer)
            .map_or(Grade::Right, |known| known.1);
        let grade = match offset.saturating_abs() {
            amount if amount > MAX_CLOCK_SKEW => Grade::Refusable,
            amount if amount > NOTICEABLE => Grade::Wrong,
            amount if amount > RIGHT_AGAIN && before != Grade::Right => Grade::Wrong,
            _ => Grade::Right,
        };
        self.by_peer.insert(peer, (offset, grade));
        if grade == before {
            return;
        }
        let suspect = if self.ours_is_suspect() {
            "; most other clocks disagree with ours in the same way: is it ours that is wrong?"
        } else {
            ""
        };
        let off = describe(offset);
        match grade {
            Grade::Right => tracing::info!("the clock of peer {peer} is right again"),
            Grade::Wrong => tracing::warn!("the clock of peer {peer} is {off} ours{suspect}"),
            Grade::Refusable => tracing::warn!(
                "the clock of peer {peer} is {off} ours: Weave Net routers refuse to talk over a \
                 difference of more than {MAX_CLOCK_SKEW} s; set the clocks right{suspect}"
            ),
        }
    }

    /// A peer is gone.
    pub fn forget(&mut self, peer: PeerName) {
        self.by_peer.remove(&peer);
    }

    /// All of them.
    pub fn all(&self) -> Vec<Clock> {
        (self.by_peer.iter())
            .map(|(peer, (offset, grade))| Clock {
                peer: *peer,
                offset: *offset,
                is_wrong: *grade != Grade::Right,
            })
            .collect()
    }

    /// Whether more than half of the clocks of two peers or more are off in the same direction.
    fn ours_is_suspect(&self) -> bool {
        let off = |ahead: bool| {
            let wrong = |known: &&(i64, Grade)| known.1 != Grade::Right && (known.0 > 0) == ahead;
            self.by_peer.values().filter(wrong).count()
        };
        let most = off(true).max(off(false));
        most >= 2 && most * 2 > self.by_peer.len()
    }
}

/// `20 s ahead of` or `20 s behind`.
pub fn describe(offset: i64) -> String {
    let side = if offset < 0 { "behind" } else { "ahead of" };
    format!("{} s {side}", offset.saturating_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u64) -> PeerName {
        PeerName::from_u64(number).unwrap()
    }

    #[test]
    fn small_differences_are_nothing_and_wrong_clocks_stay_wrong_for_a_while() {
        let mut clocks = Clocks::default();
        for (offset, is_wrong) in [
            (59, false),
            (-61, true),
            (-31, true),
            (-30, false),
            (31, false),
            (901, true),
            (i64::MIN, true),
            (0, false),
        ] {
            clocks.note(peer(1), offset);
            let all = clocks.all();
            assert_eq!((all[0].offset, all[0].is_wrong), (offset, is_wrong));
        }
        clocks.forget(peer(1));
        assert_eq!(clocks.all(), []);
    }

    #[test]
    fn who_disagrees_with_most_others_is_suspect() {
        let mut clocks = Clocks::default();
        clocks.note(peer(1), 100);
        assert!(!clocks.ours_is_suspect(), "one against one");
        clocks.note(peer(2), 100);
        assert!(clocks.ours_is_suspect());
        clocks.note(peer(3), 0);
        assert!(clocks.ours_is_suspect());
        clocks.note(peer(4), -100);
        assert!(!clocks.ours_is_suspect());
    }

    #[test]
    fn offsets_in_words() {
        assert_eq!(describe(5), "5 s ahead of");
        assert_eq!(describe(-5), "5 s behind");
        assert_eq!(describe(i64::MIN), "9223372036854775807 s behind");
    }
}
