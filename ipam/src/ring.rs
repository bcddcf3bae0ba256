//! The ring: which peer owns which part of the universe.
//!
//! Every peer keeps a copy; copies are merged when they meet and end up the same. A [`Ring`] is a
//! list of [`Entry`]s sorted by token. An entry owns the addresses from its token up to the next
//! entry's token; the last one owns up to the universe's end and, as the list is circular, also
//! what lies before the first token. Tokens are added and never removed. An entry is changed by
//! its owner alone (or by whoever takes over from a dead owner), and each change raises its
//! version; so the newer of two versions is the truth.
//!
//! A ring without entries is one not established yet.
//!
//! Invariants, checked on every ring from outside ([`Ring::check`]) and kept by every method:
//! tokens are sorted, distinct and within the universe, and no entry claims more free addresses
//! than it has.
//!
//! Source: IPAM protocol, section 4.

use std::collections::{BTreeMap, BTreeSet};

use proto::PeerName;
use rand::{Rng, RngExt};
use thiserror::Error;

use crate::range::{Address, Range};

mod merge;

pub use merge::{MergeError, Merged};

/// Added to the version of an entry that changes hands at the word of a third peer, so that it
/// outruns what the old owner may have done unheard.
pub const TRANSFER_VERSION_STEP: u32 = 100;

/// One part of the universe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its first address.
    pub token: Address,
    /// Its owner.
    pub peer: PeerName,
    /// Raised with every change.
    pub version: u32,
    /// How many of its addresses are free, at most: a hint for whom to ask for space.
    pub free: u32,
}

/// One peer's copy of the ring. See the module.
#[derive(Debug, Clone, Default)]
pub struct Ring {
    universe: Range,
    entries: Vec<Entry>,
    seeds: Vec<PeerName>,
    /// Tokens of entries inserted or changed since [`take_changed`](Self::take_changed).
    changed: BTreeSet<Address>,
}

impl PartialEq for Ring {
    fn eq(&self, other: &Self) -> bool {
        self.universe == other.universe
            && self.entries == other.entries
            && self.seeds == other.seeds
    }
}

impl Eq for Ring {}

/// A ring that is no ring.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadRing {
    /// Tokens are not in order.
    #[error("Ring not sorted")]
    NotSorted,
    /// Two entries with one token.
    #[error("Token appears twice in ring")]
    TokenRepeated,
    /// A token outside the ring's own range.
    #[error("Token is out of range")]
    TokenOutOfRange,
    /// An entry that says it has more free addresses than it has addresses.
    #[error("Entry {token}-{next} reporting too much free space: {free} > {size}")]
    TooMuchFree {
        /// The entry.
        token: Address,
        /// The entry after it.
        next: Address,
        /// What it says.
        free: u32,
        /// What it has.
        size: u32,
    },
}

/// The ring cannot be divided or given away like that. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RingError {
    /// It is divided already.
    #[error("the ring is established already")]
    Established,
    /// There is nobody to divide it among.
    #[error("no peers to divide the ring among")]
    NoPeers,
    /// The range is empty, reaches out of the universe or is not all our own.
    #[error("{0} is not ours to give")]
    NotOwned(Range),
}

/// Number of addresses from `from` to `to`, across the end of `universe` if need be. All of it if
/// the two are the same.
fn distance(universe: Range, from: Address, to: Address) -> u32 {
    if to > from {
        to.0 - from.0
    } else {
        Range::new(from, universe.end).size() + Range::new(universe.start, to).size()
    }
}

/// The addresses of one entry: two ranges, that at the universe's start first, if they go across
/// the end of the universe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    parts: [Range; 2],
}

impl Span {
    /// From `from` up to `to` in the circle that is `universe`.
    fn new(universe: Range, from: Address, to: Address) -> Self {
        let parts = if to == universe.start {
            [Range::default(), Range::new(from, universe.end)]
        } else if to <= from {
            [
                Range::new(universe.start, to),
                Range::new(from, universe.end),
            ]
        } else {
            [Range::default(), Range::new(from, to)]
        };
        Self { parts }
    }

    /// The one or two ranges.
    pub fn as_slice(&self) -> &[Range] {
        let [first, _] = self.parts;
        &self.parts[usize::from(first.is_empty())..]
    }

    /// How many addresses there are.
    pub fn size(&self) -> u32 {
        self.parts.iter().map(|part| part.size()).sum()
    }
}

impl Ring {
    /// A ring without entries.
    pub fn new(universe: Range) -> Self {
        Self::from_parts(universe, Vec::new(), Vec::new())
    }

    /// A ring as it came from outside: to be [checked](Self::check) before anything else.
    pub fn from_parts(universe: Range, entries: Vec<Entry>, seeds: Vec<PeerName>) -> Self {
        Self {
            universe,
            entries,
            seeds,
            changed: BTreeSet::new(),
        }
    }

    /// All addresses there are.
    pub fn universe(&self) -> Range {
        self.universe
    }

    /// The entries, by token.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The peers among whom the ring was divided at first. Never changes.
    pub fn seeds(&self) -> &[PeerName] {
        &self.seeds
    }

    /// Whether the ring is not established yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Checks the invariants; the first that does not hold is reported.
    pub fn check(&self) -> Result<(), BadRing> {
        check_entries(self.universe, &self.entries)
    }

    /// The token of the entry after the one at `index`, which may be that one itself.
    fn next_token(&self, index: usize) -> Address {
        next_token(&self.entries, index)
    }

    /// Where the entry that owns `address` stands.
    fn index_of(&self, address: Address) -> Option<usize> {
        let after = self.entries.partition_point(|entry| entry.token <= address);
        // Before the first token: the last entry's.
        after.checked_sub(1).or(self.entries.len().checked_sub(1))
    }

    fn find(&self, token: Address) -> Result<usize, usize> {
        self.entries
            .binary_search_by_key(&token, |entry| entry.token)
    }

    /// The entry that owns `address`.
    pub fn entry_of(&self, address: Address) -> Option<&Entry> {
        self.entries.get(self.index_of(address)?)
    }

    /// The owner of `address`, if the ring is established and the address within.
    pub fn owner(&self, address: Address) -> Option<PeerName> {
        let entry = self.entry_of(address)?;
        self.universe.contains(address).then_some(entry.peer)
    }

    /// Each entry with the addresses it owns.
    pub fn spans(&self) -> impl Iterator<Item = (&Entry, Span)> {
        self.entries
            .iter()
            .enumerate()
            .map(|(index, entry)| (entry, self.span(index)))
    }

    fn span(&self, index: usize) -> Span {
        Span::new(
            self.universe,
            self.entries[index].token,
            self.next_token(index),
        )
    }

    /// The ranges of `peer`, by address, one per entry.
    pub fn owned_by(&self, peer: PeerName) -> Vec<Range> {
        let mut owned = Vec::new();
        for (_, span) in self.spans().filter(|(entry, _)| entry.peer == peer) {
            owned.extend_from_slice(span.as_slice());
        }
        owned.sort_unstable();
        owned
    }

    /// Number of addresses that are `peer`'s.
    pub fn size_of(&self, peer: PeerName) -> u32 {
        let owned = self.spans().filter(|(entry, _)| entry.peer == peer);
        owned.map(|(_, span)| span.size()).sum()
    }

    /// All owners.
    pub fn peers(&self) -> BTreeSet<PeerName> {
        self.entries.iter().map(|entry| entry.peer).collect()
    }

    /// The entries inserted or changed since the last call: what to put on disk.
    pub fn take_changed(&mut self) -> Vec<Entry> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .filter_map(|token| self.entries.get(self.find(token).ok()?).copied())
            .collect()
    }

    /// Whether an entry has changed since [`take_changed`](Self::take_changed).
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Sets entries as a copy of this ring that has been merged already has them, unless they are
    /// newer here; the seeds too, if there are none yet. Claims of free space that do not fit any
    /// more are cut.
    pub fn overlay(&mut self, entries: &[Entry], seeds: &[PeerName]) {
        for entry in entries {
            let index = match self.find(entry.token) {
                Ok(at) if self.entries[at].version > entry.version => continue,
                Ok(at) => {
                    self.entries[at] = *entry;
                    at
                }
                Err(at) => {
                    self.entries.insert(at, *entry);
                    self.cut_free(at.checked_sub(1).unwrap_or(self.entries.len() - 1));
                    at
                }
            };
            self.cut_free(index);
        }
        if self.seeds.is_empty() {
            self.seeds = seeds.to_vec();
        }
    }

    fn cut_free(&mut self, index: usize) {
        let size = self.span(index).size();
        let entry = &mut self.entries[index];
        entry.free = entry.free.min(size);
    }

    /// Divides the whole universe among `peers`, which must be sorted and distinct for all peers
    /// to come to the same result.
    pub fn divide(&mut self, peers: &[PeerName]) -> Result<(), RingError> {
        if !self.is_empty() {
            return Err(RingError::Established);
        }
        if peers.is_empty() {
            return Err(RingError::NoPeers);
        }
        divide(self.universe, peers, &mut self.entries);
        self.seeds = peers.to_vec();
        self.changed
            .extend(self.entries.iter().map(|entry| entry.token));
        Ok(())
    }

    fn update(&mut self, index: usize, peer: PeerName, free: u32) {
        let entry = &mut self.entries[index];
        entry.peer = peer;
        entry.version = entry.version.saturating_add(1);
        entry.free = free;
        self.changed.insert(entry.token);
    }

    fn insert(&mut self, index: usize, token: Address, peer: PeerName, free: u32) {
        let entry = Entry {
            token,
            peer,
            version: 0,
            free,
        };
        self.entries.insert(index, entry);
        self.changed.insert(token);
    }

    /// Gives `range`, all of which must be `me`'s, to the peer `to`.
    pub fn grant(&mut self, range: Range, me: PeerName, to: PeerName) -> Result<(), RingError> {
        let not_owned = RingError::NotOwned(range);
        let Range { start, end } = range;
        if range.is_empty() || self.universe.intersection(range) != range {
            return Err(not_owned);
        }
        let before = self.index_of(start).ok_or(not_owned)?;
        // Entries after the first that begin within the range.
        let inner = |ring: &Self| -> std::ops::Range<usize> {
            let first = ring.entries.partition_point(|entry| entry.token <= start);
            first
                ..ring
                    .entries
                    .partition_point(|entry| entry.token < end)
                    .max(first)
        };
        let all_mine = self.entries[before].peer == me
            && self.entries[inner(self)]
                .iter()
                .all(|entry| entry.peer == me);
        if !all_mine {
            return Err(not_owned);
        }

        let universe = self.universe;
        let free = distance(universe, start, self.next_token(before)).min(range.size());
        if self.entries[before].token == start {
            self.update(before, to, free);
        } else {
            let kept = distance(universe, self.entries[before].token, start);
            self.update(before, me, kept);
            let at = self.entries.partition_point(|entry| entry.token < start);
            self.insert(at, start, to, free);
        }
        for index in inner(self) {
            let entry = self.entries[index];
            let free = entry.free.min(distance(universe, entry.token, end));
            self.update(index, to, free);
        }
        // What follows the range stays ours. No token is ever the universe's end.
        let end = if end == universe.end {
            universe.start
        } else {
            end
        };
        if let Err(at) = self.find(end) {
            let next = self.entries.get(at).or(self.entries.first());
            let free = next.map_or(0, |next| distance(universe, end, next.token));
            self.insert(at, end, me, free);
        }
        Ok(())
    }

    /// Makes all entries of `from` those of `to`. Returns the ranges that changed hands.
    pub fn transfer(&mut self, from: PeerName, to: PeerName) -> Vec<Range> {
        let ranges = self.owned_by(from);
        for entry in self.entries.iter_mut().filter(|entry| entry.peer == from) {
            entry.peer = to;
            entry.version = entry.version.saturating_add(TRANSFER_VERSION_STEP);
            self.changed.insert(entry.token);
        }
        ranges
    }

    /// Takes up how many addresses are free now, by the range: raises the version of each entry
    /// of `me` where that has changed. Returns whether any has.
    pub fn report_free(&mut self, me: PeerName, free_within: impl Fn(Range) -> u32) -> bool {
        let mut changed = false;
        for index in 0..self.entries.len() {
            changed |= self.report_free_at(index, me, &free_within);
        }
        changed
    }

    /// Takes up that there are so many more or fewer free addresses at these places, all `me`'s:
    /// the same as counting them all again, but in less time.
    pub fn adjust_free(&mut self, changes: &BTreeMap<Address, i64>, me: PeerName) {
        let mut by_index = BTreeMap::<usize, i64>::new();
        for (address, change) in changes {
            if let Some(index) = self.index_of(*address) {
                *by_index.entry(index).or_default() += change;
            }
        }
        for (index, change) in by_index {
            let entry = self.entries[index];
            let free = i64::from(entry.free).saturating_add(change).max(0);
            let free = u32::try_from(free)
                .unwrap_or(u32::MAX)
                .min(self.span(index).size());
            if entry.peer == me && free != entry.free {
                self.update(index, me, free);
            }
        }
    }

    fn report_free_at(
        &mut self,
        index: usize,
        me: PeerName,
        free_within: &impl Fn(Range) -> u32,
    ) -> bool {
        let entry = self.entries[index];
        if entry.peer != me {
            return false;
        }
        let span = self.span(index);
        let free = span.as_slice().iter().copied().map(free_within).sum();
        if free == entry.free {
            return false;
        }
        self.update(index, me, free);
        true
    }

    /// The peers, except `me`, that own a part of `range`, with the free addresses that they
    /// are known to have in all the entries concerned.
    pub fn donors(&self, range: Range, me: PeerName) -> BTreeMap<PeerName, u64> {
        let mut donors = BTreeMap::new();
        for (index, entry) in self.entries.iter().enumerate() {
            // The last entry is never passed over, as it has no end before the universe's. (It
            // is not considered for the universe's start either, which does not occur: the first
            // token is the universe's start.)
            let ends_before = self
                .entries
                .get(index + 1)
                .is_some_and(|next| next.token <= range.start);
            if ends_before || entry.peer == me {
                continue;
            }
            if entry.token >= range.end {
                break;
            }
            *donors.entry(entry.peer).or_default() += u64::from(entry.free);
        }
        donors
    }

    /// The donors for `range`, with the free addresses they are known to have, in the order in
    /// which to ask them: at random, but those with more sooner. Those with none come last.
    pub fn choose_donors(
        &self,
        range: Range,
        me: PeerName,
        rng: &mut impl Rng,
    ) -> Vec<(PeerName, u64)> {
        let mut weighted: Vec<(bool, f64, (PeerName, u64))> = self
            .donors(range, me)
            .into_iter()
            .map(|(peer, free)| {
                #[expect(clippy::cast_precision_loss, reason = "a weight need not be exact")]
                let weight = free.max(1) as f64 * rng.random::<f64>();
                (free > 0, weight, (peer, free))
            })
            .collect();
        weighted.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)));
        weighted.into_iter().map(|(_, _, donor)| donor).collect()
    }
}

fn next_token(entries: &[Entry], index: usize) -> Address {
    entries
        .get(index + 1)
        .or(entries.first())
        .map_or(Address::default(), |entry| entry.token)
}

fn check_entries(universe: Range, entries: &[Entry]) -> Result<(), BadRing> {
    if !entries.is_sorted_by_key(|entry| entry.token) {
        return Err(BadRing::NotSorted);
    }
    let repeated = |pair: &[Entry]| matches!(pair, [a, b] if a.token == b.token);
    if entries.windows(2).any(repeated) {
        return Err(BadRing::TokenRepeated);
    }
    if !entries.iter().all(|entry| universe.contains(entry.token)) {
        return Err(BadRing::TokenOutOfRange);
    }
    for (index, entry) in entries.iter().enumerate() {
        let next = next_token(entries, index);
        let size = distance(universe, entry.token, next);
        if entry.free > size {
            return Err(BadRing::TooMuchFree {
                token: entry.token,
                next,
                free: entry.free,
                size,
            });
        }
    }
    Ok(())
}

fn divide(range: Range, peers: &[PeerName], entries: &mut Vec<Entry>) {
    let Some(first) = peers.first() else { return };
    let size = range.size();
    if size == 0 {
        return;
    }
    if size == 1 || peers.len() == 1 {
        entries.push(Entry {
            token: range.start,
            peer: *first,
            version: 0,
            free: size,
        });
        return;
    }
    let middle = range.start.saturating_add(size / 2);
    let (left, right) = peers.split_at(peers.len() / 2);
    divide(Range::new(range.start, middle), left, entries);
    divide(
        Range::new(middle.saturating_add(size % 2), range.end),
        right,
        entries,
    );
}

#[cfg(test)]
mod tests;
