//! A bound on frames that go to all neighbours.
//!
//! Broadcasts and frames to addresses that nobody knows cost every host of the mesh. What one bridge
//! may cause is bounded by a bucket that holds one second's worth, in units of one packet of some
//! 1500 bytes, so that super-frames count for what they are.

use std::time::{Duration, Instant};

/// Bytes that count as one.
const UNIT_LEN: usize = 1500;

/// A bucket of tokens. Time goes in, verdicts come out.
#[derive(Debug)]
pub struct FloodLimit {
    /// Units a second; `None`: no limit.
    rate: Option<u32>,
    /// When the bucket will be full. It is empty a second before that.
    full_at: Instant,
}

impl FloodLimit {
    /// Full at the beginning.
    pub const fn new(rate: Option<u32>, now: Instant) -> Self {
        Self { rate, full_at: now }
    }

    /// Whether a frame of this length may pass.
    #[inline]
    pub fn takes(&mut self, frame_len: usize, now: Instant) -> bool {
        let Some(rate) = self.rate else {
            return true;
        };
        let units = u32::try_from(1 + frame_len / UNIT_LEN).unwrap_or(u32::MAX);
        let price = Duration::from_secs(1).saturating_mul(units) / rate.max(1);
        let full_at = self.full_at.max(now) + price;
        let takes = full_at.saturating_duration_since(now) <= Duration::from_secs(1);
        if takes {
            self.full_at = full_at;
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_at_once_and_the_rate_afterwards() {
        let start = Instant::now();
        let mut limit = FloodLimit::new(Some(1000), start);
        assert_eq!((0..5000).filter(|_| limit.takes(60, start)).count(), 1000);
        // A tenth of a second later there is room for a tenth.
        let later = start + Duration::from_millis(100);
        assert_eq!((0..5000).filter(|_| limit.takes(60, later)).count(), 100);
        // Long silence fills it, and no more than that. Super-frames count as many.
        let later = start + Duration::from_secs(100);
        assert_eq!((0..5000).filter(|_| limit.takes(64_000, later)).count(), 23);
    }

    #[test]
    fn without_a_limit_all_pass() {
        let mut limit = FloodLimit::new(None, Instant::now());
        assert!((0..5000).all(|_| limit.takes(60_000, Instant::now())));
        // The smallest rate lets single frames pass.
        let now = Instant::now();
        let mut limit = FloodLimit::new(Some(1), now);
        assert!(limit.takes(60, now) && !limit.takes(60, now));
        assert!(limit.takes(60, now + Duration::from_secs(1)));
    }
}
