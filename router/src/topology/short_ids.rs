//! Who holds which short id.
//!
//! Every peer draws its own 12-bit id at random, so two may claim the same one. Then the peer with
//! the lowest name holds it and the others queue behind. A peer that loses its own id this way
//! draws another.
//!
//! Source: Weave mesh protocol, section 4.4.

use std::collections::{BTreeMap, BTreeSet};

use proto::{PeerName, ShortId};
use rand::{Rng, RngExt as _};

/// Random draws before the free ids are counted.
const DRAWS: usize = 10;

/// The claims on all short ids.
///
/// Bounded: a claim per known peer, and a key per 16-bit number that was ever claimed.
#[derive(Debug, Clone, Default)]
pub(super) struct ShortIds {
    /// All claimants by id; the lowest name holds it. An empty set marks an id that was used once:
    /// somebody may still remember its old holder.
    claims: BTreeMap<ShortId, BTreeSet<PeerName>>,
}

/// Whether what others remember about ids has become wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Change {
    /// Everything remembered still holds.
    Harmless,
    /// An id has changed hands, or was taken again after its holder had left.
    Invalidates,
}

impl ShortIds {
    /// Who holds `id`.
    pub(super) fn holder(&self, id: ShortId) -> Option<PeerName> {
        self.claims
            .get(&id)
            .and_then(|claimants| claimants.first())
            .copied()
    }

    /// `name` claims `id`.
    pub(super) fn claim(&mut self, id: ShortId, name: PeerName) -> Change {
        let Some(claimants) = self.claims.get_mut(&id) else {
            self.claims.insert(id, BTreeSet::from([name]));
            return Change::Harmless;
        };
        let holder = claimants.first().copied();
        claimants.insert(name);
        if holder.is_none_or(|holder| name < holder) {
            Change::Invalidates
        } else {
            Change::Harmless
        }
    }

    /// `name` no longer claims `id`.
    pub(super) fn release(&mut self, id: ShortId, name: PeerName) -> Change {
        let Some(claimants) = self.claims.get_mut(&id) else {
            return Change::Harmless;
        };
        let held = claimants.first() == Some(&name);
        claimants.remove(&name);
        if held && !claimants.is_empty() {
            Change::Invalidates
        } else {
            Change::Harmless
        }
    }

    /// A random id that nobody claims, if there is one.
    pub(super) fn draw(&self, rng: &mut (impl Rng + ?Sized)) -> Option<ShortId> {
        let free = |id: &ShortId| self.holder(*id).is_none();
        let drawn = (0..DRAWS)
            .map(|_| ShortId(rng.random_range(0..ShortId::COUNT)))
            .find(free);
        drawn.or_else(|| {
            let all = || (0..ShortId::COUNT).map(ShortId).filter(free);
            let count = all().count();
            if count == 0 {
                None
            } else {
                all().nth(rng.random_range(0..count))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    fn name(number: u64) -> PeerName {
        PeerName::from_u64(number).unwrap()
    }

    #[test]
    fn the_lowest_name_holds_and_others_queue() {
        let id = ShortId(7);
        let mut ids = ShortIds::default();
        assert_eq!(ids.claim(id, name(5)), Change::Harmless);
        assert_eq!(ids.claim(id, name(9)), Change::Harmless);
        assert_eq!(ids.holder(id), Some(name(5)));
        assert_eq!(ids.claim(id, name(3)), Change::Invalidates);
        assert_eq!(ids.holder(id), Some(name(3)));
        assert_eq!(ids.release(id, name(9)), Change::Harmless);
        assert_eq!(ids.release(id, name(3)), Change::Invalidates);
        assert_eq!(ids.holder(id), Some(name(5)));
        assert_eq!(ids.release(id, name(5)), Change::Harmless);
        assert_eq!(ids.holder(id), None);
        // Taken again: somebody may remember the old holder.
        assert_eq!(ids.claim(id, name(9)), Change::Invalidates);
        assert_eq!(ids.release(ShortId(8), name(9)), Change::Harmless);
    }

    #[test]
    fn the_last_free_id_is_found() {
        let mut ids = ShortIds::default();
        let mut rng = StdRng::seed_from_u64(1);
        for id in 0..ShortId::COUNT {
            if id != 1234 {
                let _ = ids.claim(ShortId(id), name(1));
            }
        }
        // Ids that cannot be drawn do not count as taken.
        let _ = ids.claim(ShortId(5000), name(2));
        assert_eq!(ids.draw(&mut rng), Some(ShortId(1234)));
        let _ = ids.claim(ShortId(1234), name(1));
        assert_eq!(ids.draw(&mut rng), None);
    }
}
