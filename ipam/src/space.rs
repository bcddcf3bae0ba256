//! Which addresses of our own ranges are in use and which are free.
//!
//! A [`Space`] holds two sets of addresses, *used* and *free*, that never overlap; together they
//! are the ranges which the ring says are ours. Each set is kept as its maximal runs, so that a
//! full subnet costs as much as one address, and every question takes a time that grows with the
//! logarithm of the number of runs, not with the number of addresses.
//!
//! Source: IPAM protocol, section 5.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::range::{Address, Range};

/// A set of addresses, kept as maximal runs: start to (exclusive) end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct AddressSet {
    runs: BTreeMap<Address, Address>,
    count: u32,
}

impl AddressSet {
    /// The runs that have addresses in `range`, cut to it, in order.
    fn within(&self, range: Range) -> impl Iterator<Item = Range> + '_ {
        let before = self
            .runs
            .range(..range.start)
            .next_back()
            .filter(|_| !range.is_empty());
        let rest = (!range.is_empty()).then(|| self.runs.range(range.start..range.end));
        before
            .into_iter()
            .chain(rest.into_iter().flatten())
            .map(move |(start, end)| Range::new(*start, *end).intersection(range))
            .filter(|run| !run.is_empty())
    }

    fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.runs
            .iter()
            .map(|(start, end)| Range::new(*start, *end))
    }

    fn contains(&self, address: Address) -> bool {
        self.covers(Range::single(address))
    }

    /// Whether all of `range` is in the set.
    fn covers(&self, range: Range) -> bool {
        range.is_empty() || self.within(range).next() == Some(range)
    }

    fn count_within(&self, range: Range) -> u32 {
        self.within(range).map(Range::size).sum()
    }

    fn insert(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        // Take out what overlaps or touches, and put one run in its place.
        let Range { mut start, mut end } = range;
        if let Some((run_start, run_end)) = self.runs.range(..start).next_back()
            && *run_end >= start
        {
            start = *run_start;
        }
        while let Some((run_start, run_end)) =
            self.runs.range(start..=end).next().map(|(s, e)| (*s, *e))
        {
            end = end.max(run_end);
            self.runs.remove(&run_start);
            self.count -= Range::new(run_start, run_end).size();
        }
        self.runs.insert(start, end);
        self.count += Range::new(start, end).size();
    }

    fn remove(&mut self, range: Range) {
        // A run may stick out on either side; what sticks out goes back in.
        loop {
            let Some(cut) = self.within(range).next() else {
                return;
            };
            let Some((start, end)) = self.runs.range(..=cut.start).next_back() else {
                return;
            };
            let (start, end) = (*start, *end);
            self.runs.remove(&start);
            self.count -= cut.size();
            if start < cut.start {
                self.runs.insert(start, cut.start);
            }
            if cut.end < end {
                self.runs.insert(cut.end, end);
            }
        }
    }
}

/// An address cannot change sides. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SpaceError {
    /// In use already, or not in our ranges.
    #[error("Address {0} is not free to claim")]
    NotFree(Address),
    /// Not in use.
    #[error("Address {0} is not ours")]
    NotUsed(Address),
}

/// The addresses of our own ranges. See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Space {
    used: AddressSet,
    free: AddressSet,
}

impl Space {
    /// No addresses at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many addresses are in use.
    pub fn used_count(&self) -> u32 {
        self.used.count
    }

    /// How many addresses are free.
    pub fn free_count(&self) -> u32 {
        self.free.count
    }

    /// How many addresses in `range` are free.
    pub fn free_count_within(&self, range: Range) -> u32 {
        self.free.count_within(range)
    }

    /// Whether an address in `range` is in use or not ours.
    pub fn is_busy(&self, range: Range) -> bool {
        !self.free.covers(range)
    }

    /// Whether an address in `range` is in use.
    pub fn has_used(&self, range: Range) -> bool {
        self.used.within(range).next().is_some()
    }

    /// Whether `address` is in use.
    pub fn is_used(&self, address: Address) -> bool {
        self.used.contains(address)
    }

    /// The maximal runs of free addresses.
    pub fn free(&self) -> impl Iterator<Item = Range> + '_ {
        self.free.iter()
    }

    /// The maximal runs of free addresses in `range`.
    pub fn free_within(&self, range: Range) -> impl Iterator<Item = Range> + '_ {
        self.free.within(range)
    }

    /// The maximal runs of addresses in use.
    pub fn used(&self) -> impl Iterator<Item = Range> + '_ {
        self.used.iter()
    }

    /// The maximal runs of addresses that are ours, used or free.
    pub fn ours(&self) -> Vec<Range> {
        let mut all = self.used.clone();
        for run in self.free.iter() {
            all.insert(run);
        }
        all.iter().collect()
    }

    /// Adds the addresses of `range` that are in neither set, as free ones.
    pub fn add(&mut self, range: Range) {
        self.free.insert(range);
        let used: Vec<Range> = self.used.within(range).collect();
        for run in used {
            self.free.remove(run);
        }
    }

    /// Drops the addresses of `range` from both sets.
    pub fn remove(&mut self, range: Range) {
        self.free.remove(range);
        self.used.remove(range);
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes the lowest free address in `range`.
    pub fn allocate(&mut self, range: Range) -> Option<Address> {
        let address = self.free.within(range).next()?.start;
        self.take(address);
        Some(address)
    }

    /// Takes this free address.
    pub fn claim(&mut self, address: Address) -> Result<(), SpaceError> {
        if !self.free.contains(address) {
            return Err(SpaceError::NotFree(address));
        }
        self.take(address);
        Ok(())
    }

    fn take(&mut self, address: Address) {
        self.free.remove(Range::single(address));
        self.used.insert(Range::single(address));
    }

    /// Puts an address that is in use back.
    pub fn release(&mut self, address: Address) -> Result<(), SpaceError> {
        if !self.used.contains(address) {
            return Err(SpaceError::NotUsed(address));
        }
        self.used.remove(Range::single(address));
        self.free.insert(Range::single(address));
        Ok(())
    }

    /// Removes a piece of the free addresses in `range`, to be given to another peer: the biggest
    /// aligned block, or its upper half if it is more than half of all there is.
    pub fn donate(&mut self, range: Range) -> Option<Range> {
        let mut best = Range::default();
        let mut total = 0_u32;
        for run in self.free.within(range) {
            total += run.size();
            if run.size() >= best.size() {
                let block = run.aligned_block();
                if block.size() >= best.size() {
                    best = block;
                }
            }
        }
        if best.is_empty() {
            return None;
        }
        if best.size() > total / 2 {
            best.start = best.start.saturating_add(best.size() / 2);
        }
        self.free.remove(best);
        Some(best)
    }
}

#[cfg(test)]
mod tests;
