//! What the responder counts: queries by kind and result, and how long answers took.
//!
//! Counters are written by one thread each and read by any: no locked instruction per query.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Type A.
    A,
    /// Type AAAA.
    Aaaa,
    /// Type PTR.
    Ptr,
    /// Any other type.
    Other,
    /// No query that could be read.
    Malformed,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Records from the table of names.
    Answered,
    /// The name exists, but has no such record.
    NoData,
    /// There is no such name.
    NxDomain,
    /// The answer of an upstream server was relayed.
    Forwarded,
    /// No upstream server answered.
    ServFail,
    /// We do not do that: FORMERR, NOTIMP, REFUSED, BADVERS.
    Refused,
    /// No answer was given.
    Dropped,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::A, Self::Aaaa, Self::Ptr, Self::Other, Self::Malformed];

    /// Of a type in a question.
    pub const fn of_type(qtype: u16) -> Self {
        match qtype {
            1 => Self::A,
            28 => Self::Aaaa,
            12 => Self::Ptr,
            _ => Self::Other,
        }
    }

    /// As a label of a metric.
    pub const fn label(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::Aaaa => "aaaa",
            Self::Ptr => "ptr",
            Self::Other => "other",
            Self::Malformed => "malformed",
        }
    }
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Answered,
        Self::NoData,
        Self::NxDomain,
        Self::Forwarded,
        Self::ServFail,
        Self::Refused,
        Self::Dropped,
    ];

    /// As a label of a metric.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NoData => "nodata",
            Self::NxDomain => "nxdomain",
            Self::Forwarded => "forwarded",
            Self::ServFail => "servfail",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }
}

/// Upper bounds of the buckets of latency, in microseconds; one more bucket has no bound.
pub const LATENCY_BOUNDS_US: [u64; 12] = [
    25, 50, 100, 250, 500, 1_000, 5_000, 10_000, 50_000, 250_000, 1_000_000, 5_000_000,
];
const BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;
const CELLS: usize = Kind::ALL.len() * Outcome::ALL.len();

/// Counters.
#[derive(Debug)]
pub struct Counters {
    cells: [AtomicU64; CELLS],
    buckets: [AtomicU64; BUCKETS],
    latency_us: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            cells: [const { AtomicU64::new(0) }; CELLS],
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            latency_us: AtomicU64::new(0),
        }
    }
}

/// Whether more than one thread adds to the same counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// Only this thread.
    One,
    /// Several.
    Many,
}

impl Counters {
    /// Counts a query.
    pub fn count(&self, writers: Writers, kind: Kind, outcome: Outcome) {
        if let Some(cell) = self.cells.get(cell(kind, outcome)) {
            add(writers, cell, 1);
        }
    }

    /// Notes that `count` answers took so long each.
    pub fn took(&self, writers: Writers, latency: Duration, count: u64) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get(bucket) {
            add(writers, bucket, count);
        }
        add(writers, &self.latency_us, micros.saturating_mul(count));
    }
}

fn add(writers: Writers, counter: &AtomicU64, by: u64) {
    match writers {
        Writers::One => {
            let now = counter.load(Ordering::Relaxed).wrapping_add(by);
            counter.store(now, Ordering::Relaxed);
        }
        Writers::Many => {
            counter.fetch_add(by, Ordering::Relaxed);
        }
    }
}

const fn cell(kind: Kind, outcome: Outcome) -> usize {
    kind as usize * Outcome::ALL.len() + outcome as usize
}

/// Sums of counters at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    cells: [[u64; Outcome::ALL.len()]; Kind::ALL.len()],
    /// Answers by latency: one bucket for each of [`LATENCY_BOUNDS_US`], and one for the rest. Not
    /// cumulative.
    pub latency_buckets: [u64; BUCKETS],
    /// Sum of all latencies, in microseconds.
    pub latency_sum_us: u64,
}

impl Stats {
    /// Sums counters up.
    pub fn sum<'c>(all: impl IntoIterator<Item = &'c Counters>) -> Self {
        let mut stats = Self::default();
        let take = |into: &mut u64, counter: &AtomicU64| {
            *into = into.wrapping_add(counter.load(Ordering::Relaxed));
        };
        for counters in all {
            let cells = stats.cells.as_flattened_mut();
            for (into, counter) in cells.iter_mut().zip(&counters.cells) {
                take(into, counter);
            }
            for (into, counter) in stats.latency_buckets.iter_mut().zip(&counters.buckets) {
                take(into, counter);
            }
            take(&mut stats.latency_sum_us, &counters.latency_us);
        }
        stats
    }

    /// Queries of a kind with a result.
    pub fn queries(&self, kind: Kind, outcome: Outcome) -> u64 {
        let cells = self.cells.as_flattened();
        cells.get(cell(kind, outcome)).copied().unwrap_or_default()
    }

    /// All queries.
    pub fn total(&self) -> u64 {
        self.cells.as_flattened().iter().sum()
    }

    /// All counts with their labels.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, Outcome, u64)> + '_ {
        Kind::ALL.into_iter().flat_map(move |kind| {
            Outcome::ALL
                .into_iter()
                .map(move |outcome| (kind, outcome, self.queries(kind, outcome)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_meet_in_their_cells() {
        let (one, two) = (Counters::default(), Counters::default());
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
            for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
                assert_eq!(outcome as usize, index);
                one.count(Writers::One, kind, outcome);
                two.count(Writers::Many, kind, outcome);
            }
        }
        let stats = Stats::sum([&one, &two]);
        assert!(stats.iter().all(|(.., count)| count == 2));
        assert_eq!(stats.total(), 2 * CELLS as u64);
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let counters = Counters::default();
        for micros in [0, 25, 26, 5_000_000, 5_000_001] {
            counters.took(Writers::One, Duration::from_micros(micros), 2);
        }
        let stats = Stats::sum([&counters]);
        let mut buckets = [0; BUCKETS];
        buckets[0] = 4;
        buckets[1] = 2;
        buckets[11] = 2;
        buckets[12] = 2;
        assert_eq!(stats.latency_buckets, buckets);
        assert_eq!(stats.latency_sum_us, 2 * (25 + 26 + 10_000_001));
    }
}
