//! A cheap hash for tables that are looked into several times per frame.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Hashes one 64-bit word, such as a MAC address or a peer name, by one keyed multiplication; the
/// standard library's SipHash takes some ten times as long.
///
/// The key is random per table, so that nobody can choose addresses or names that collide. It
/// decides nothing but places in memory: such tables are never iterated. What collisions could
/// still cost is bounded by the bounds of the tables.
#[derive(Debug, Clone)]
pub(crate) struct WordHash {
    key: u64,
}

impl Default for WordHash {
    fn default() -> Self {
        Self {
            key: RandomState::new().hash_one(0),
        }
    }
}

impl BuildHasher for WordHash {
    type Hasher = WordHasher;

    #[inline]
    fn build_hasher(&self) -> WordHasher {
        WordHasher(self.key)
    }
}

/// Folded multiplication of the word and the key.
pub(crate) struct WordHasher(u64);

impl Hasher for WordHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "folds the two halves of the product"
    )]
    fn write_u64(&mut self, word: u64) {
        // The golden ratio: an odd constant whose bits are well mixed.
        let product = u128::from(word ^ self.0) * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn spreads_consecutive_words_over_all_bits() {
        let hash = WordHash {
            key: 0x0123_4567_89ab_cdef,
        };
        let mut low = BTreeSet::new();
        let mut high = BTreeSet::new();
        for word in 0..4096_u64 {
            let hashed = hash.hash_one(0x0242_ac11_0000 + word);
            assert_eq!(hashed, hash.hash_one(0x0242_ac11_0000 + word));
            low.insert(hashed & 0xffff);
            high.insert(hashed >> 48);
        }
        // 4096 draws from 65536 values hit some 3970 of them when they are random.
        assert!(
            low.len() > 3800 && high.len() > 3800,
            "{} {}",
            low.len(),
            high.len()
        );
    }
}
