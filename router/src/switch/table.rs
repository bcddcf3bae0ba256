//! Bounded table of MAC addresses, the one unseen for longest first to go.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proto::{MacAddr, PeerName};

use crate::constants::{MAC_MAX_AGE, MAC_MOVE_HOLD, MAC_REFRESH, MAC_TABLE_LEN};
use crate::hash::WordHash;

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacEntry {
    /// The address.
    pub mac: MacAddr,
    /// Where it was last seen.
    pub peer: PeerName,
    /// When, in steps of [`MAC_REFRESH`].
    pub seen_at: Instant,
}

/// What a sighting changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sighting {
    /// Nothing but perhaps the time.
    Known,
    /// The address was not in the table.
    New,
    /// It was at another peer.
    Moved {
        /// That peer.
        from: PeerName,
    },
    /// It was at another peer a moment ago, and stays there.
    Refused {
        /// That peer.
        peer: PeerName,
    },
}

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Slot {
    entry: MacEntry,
    older: u32,
    newer: u32,
}

/// Addresses and the peers behind them.
///
/// Slots form a list from the longest unseen to the last seen, so that expiry and eviction take
/// from its front and cost nothing for those that stay. A sighting moves its slot to the back, but
/// only when its time is at least [`MAC_REFRESH`] old: the list stays sorted by `seen_at`, and most
/// frames write nothing.
#[derive(Debug)]
pub struct MacTable {
    slots: Vec<Slot>,
    /// Slot of each address.
    index: HashMap<u64, u32, WordHash>,
    /// Slots without an address.
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
    capacity: usize,
}

impl Default for MacTable {
    fn default() -> Self {
        Self::with_capacity(MAC_TABLE_LEN)
    }
}

impl MacTable {
    /// An empty table of at most `capacity` addresses. Memory is taken as they come.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            slots: Vec::new(),
            index: HashMap::default(),
            free: Vec::new(),
            oldest: NONE,
            newest: NONE,
            capacity: capacity.clamp(1, NONE as usize - 1),
        }
    }

    /// How many addresses it knows.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Where the address was last seen.
    #[inline]
    pub fn peer(&self, mac: MacAddr) -> Option<PeerName> {
        let slot = self.index.get(&key(mac))?;
        self.slots.get(*slot as usize).map(|slot| slot.entry.peer)
    }

    /// All rows, the longest unseen first.
    pub fn iter(&self) -> impl Iterator<Item = MacEntry> + '_ {
        let mut next = self.oldest;
        std::iter::from_fn(move || {
            let slot = self.slots.get(next as usize)?;
            next = slot.newer;
            Some(slot.entry)
        })
    }

    /// The address was seen at `peer`.
    #[inline]
    pub(super) fn learn(&mut self, mac: MacAddr, peer: PeerName, now: Instant) -> Sighting {
        self.sight(mac, peer, Duration::ZERO, now)
    }

    /// The address was seen on the local bridge, as what `ours` captured.
    #[inline]
    pub(super) fn learn_captured(
        &mut self,
        mac: MacAddr,
        ours: PeerName,
        now: Instant,
    ) -> Sighting {
        self.sight(mac, ours, MAC_MOVE_HOLD, now)
    }

    #[inline]
    fn sight(&mut self, mac: MacAddr, peer: PeerName, hold: Duration, now: Instant) -> Sighting {
        let Some(&at) = self.index.get(&key(mac)) else {
            self.insert(mac, peer, now);
            return Sighting::New;
        };
        // The index only holds slots that exist.
        let entry = &mut self.slots[at as usize].entry;
        let unseen = now.saturating_duration_since(entry.seen_at);
        let from = entry.peer;
        if from != peer && unseen < hold {
            return Sighting::Refused { peer: from };
        }
        entry.peer = peer;
        if unseen >= MAC_REFRESH {
            entry.seen_at = now;
            self.unlink(at);
            self.link_newest(at);
        }
        if from == peer {
            Sighting::Known
        } else {
            Sighting::Moved { from }
        }
    }

    /// Forgets all addresses at `peer`.
    pub(super) fn forget(&mut self, peer: PeerName) {
        let mut next = self.oldest;
        while let Some(slot) = self.slots.get(next as usize) {
            let at = next;
            next = slot.newer;
            if slot.entry.peer == peer {
                self.remove(at);
            }
        }
    }

    /// Forgets what was not seen for [`MAC_MAX_AGE`].
    pub(super) fn sweep(&mut self, now: Instant) {
        while let Some(slot) = self.slots.get(self.oldest as usize) {
            if now.saturating_duration_since(slot.entry.seen_at) < MAC_MAX_AGE {
                break;
            }
            tracing::debug!(mac = %slot.entry.mac, peer = %slot.entry.peer, "MAC expired");
            self.remove(self.oldest);
        }
    }

    #[cold]
    fn insert(&mut self, mac: MacAddr, peer: PeerName, now: Instant) {
        if self.index.len() >= self.capacity {
            self.remove(self.oldest);
        }
        let slot = Slot {
            entry: MacEntry {
                mac,
                peer,
                seen_at: now,
            },
            older: NONE,
            newer: NONE,
        };
        let at = if let Some(at) = self.free.pop() {
            self.slots[at as usize] = slot;
            at
        } else {
            self.slots.push(slot);
            // No more slots than the capacity, which fits.
            u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
        };
        self.index.insert(key(mac), at);
        self.link_newest(at);
    }

    fn remove(&mut self, at: u32) {
        if let Some(slot) = self.slots.get(at as usize) {
            self.index.remove(&key(slot.entry.mac));
            self.unlink(at);
            self.free.push(at);
        }
    }

    fn unlink(&mut self, at: u32) {
        let Slot { older, newer, .. } = self.slots[at as usize];
        match self.slots.get_mut(older as usize) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
        match self.slots.get_mut(newer as usize) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let older = self.newest;
        match self.slots.get_mut(older as usize) {
            Some(slot) => slot.newer = at,
            None => self.oldest = at,
        }
        let slot = &mut self.slots[at as usize];
        slot.older = older;
        slot.newer = NONE;
        self.newest = at;
    }
}

#[inline]
const fn key(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn mac(number: u16) -> MacAddr {
        let [a, b] = number.to_be_bytes();
        MacAddr([2, 0, 0, 0, a, b])
    }

    fn peer(number: u8) -> PeerName {
        PeerName::from_bytes([0, 0, 0, 0, 0, number])
    }

    #[test]
    fn the_longest_unseen_makes_room() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut table = MacTable::with_capacity(3);
        for number in 1..=3 {
            assert_eq!(
                table.learn(mac(number), peer(1), at(u64::from(number))),
                Sighting::New
            );
        }
        assert_eq!(table.learn(mac(1), peer(1), at(5)), Sighting::Known);
        assert_eq!(table.learn(mac(4), peer(1), at(6)), Sighting::New);
        assert_eq!(table.peer(mac(2)), None);
        let order: Vec<_> = table.iter().map(|entry| entry.mac).collect();
        assert_eq!(order, [mac(3), mac(1), mac(4)]);
        table.sweep(at(3) + MAC_MAX_AGE);
        assert_eq!(table.len(), 2);
        table.sweep(at(6) + MAC_MAX_AGE);
        assert!(table.is_empty());
        assert_eq!(table.iter().count(), 0);
        assert_eq!(table.learn(mac(9), peer(2), at(7)), Sighting::New);
        assert_eq!(table.peer(mac(9)), Some(peer(2)));
        assert!(table.slots.len() <= 3);
    }

    #[test]
    fn a_sighting_within_the_refresh_time_writes_nothing() {
        let start = Instant::now();
        let mut table = MacTable::default();
        table.learn(mac(1), peer(1), start);
        let later = start + MAC_REFRESH - Duration::from_millis(1);
        table.learn(mac(1), peer(1), later);
        assert_eq!(table.iter().next().unwrap().seen_at, start);
        // Time that runs backwards is no time at all.
        table.learn(mac(1), peer(1), start - Duration::from_secs(1));
        assert_eq!(table.iter().next().unwrap().seen_at, start);
        table.learn(mac(1), peer(1), start + MAC_REFRESH);
        assert_eq!(table.iter().next().unwrap().seen_at, start + MAC_REFRESH);
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(
            steps in prop::collection::vec((0..5_u8, 0..12_u16, 0..3_u8, 0..400_u64), 0..200)
        ) {
            const CAPACITY: usize = 6;
            let mut now = Instant::now();
            let mut table = MacTable::with_capacity(CAPACITY);
            // Address to peer, time of the last sighting and its place in the order of sightings.
            let mut model: BTreeMap<MacAddr, (PeerName, Instant, usize)> = BTreeMap::new();
            for (turn, (action, number, place, secs)) in steps.into_iter().enumerate() {
                let (mac, peer) = (mac(number), peer(place));
                match action {
                    0 => {
                        table.sweep(now);
                        model.retain(|_, (_, seen_at, _)| now - *seen_at < MAC_MAX_AGE);
                    }
                    1 => {
                        table.forget(peer);
                        model.retain(|_, (at, ..)| *at != peer);
                    }
                    _ => {
                        now += Duration::from_secs(secs);
                        let oldest = model.iter().min_by_key(|(_, (.., turn))| *turn).map(|(mac, _)| *mac);
                        if model.len() >= CAPACITY && !model.contains_key(&mac) {
                            model.remove(&oldest.unwrap());
                        }
                        let was = model.get(&mac).copied();
                        let captured = action == 2;
                        let sighting = if captured {
                            table.learn_captured(mac, peer, now)
                        } else {
                            table.learn(mac, peer, now)
                        };
                        match was {
                            None => {
                                prop_assert_eq!(sighting, Sighting::New);
                                model.insert(mac, (peer, now, turn));
                            }
                            Some((from, seen_at, _)) if captured && from != peer && now - seen_at < MAC_MOVE_HOLD => {
                                prop_assert_eq!(sighting, Sighting::Refused { peer: from });
                            }
                            Some((from, seen_at, before)) => {
                                let expected = if from == peer { Sighting::Known } else { Sighting::Moved { from } };
                                prop_assert_eq!(sighting, expected);
                                let fresh = now - seen_at < MAC_REFRESH;
                                let seen = if fresh { (seen_at, before) } else { (now, turn) };
                                model.insert(mac, (peer, seen.0, seen.1));
                            }
                        }
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                let mut rows: Vec<_> = model.iter().map(|(&mac, &(peer, seen_at, turn))| (turn, MacEntry { mac, peer, seen_at })).collect();
                rows.sort_by_key(|row| row.0);
                let rows: Vec<_> = rows.into_iter().map(|row| row.1).collect();
                prop_assert_eq!(table.iter().collect::<Vec<_>>(), rows);
            }
        }
    }
}
