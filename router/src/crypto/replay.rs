//! The window that refuses packets seen before.
//!
//! Sequence numbers are taken in blocks of 2^20. The window knows the block it is in and the one
//! before, a bit per number. A number of a later block moves it: by one block, the current becomes
//! the one before; by more, both start empty. Older blocks are refused.
//!
//! The two steps are apart because only an authentic packet may move the window:
//! [`ReplayWindow::is_new`] before the packet is opened, [`ReplayWindow::mark`] after.
//!
//! A block is kept as 32 pages of 2^15 bits, each allocated when its first number is seen and given
//! back when its last is: a link that only sends heartbeats holds one page of 4 KB, a busy one
//! without loss hardly more, and the worst case is two blocks of 128 KB.
//!
//! Source: Weave data plane, section 2.3.

/// Numbers in a block, as a power of 2.
const BLOCK_BITS: u32 = 20;
/// Numbers in a page, as a power of 2.
const PAGE_BITS: u32 = 15;
const PAGE_COUNT: usize = 1 << (BLOCK_BITS - PAGE_BITS);
const WORD_COUNT: usize = 1 << (PAGE_BITS - 6);

/// Which numbers of one sequence have been seen.
#[derive(Debug, Default)]
pub struct ReplayWindow {
    /// Number of the current block.
    block: u64,
    current: Block,
    /// There is none before the very first block.
    before: Option<Block>,
}

impl ReplayWindow {
    /// Whether `sequence` is neither seen nor too old.
    #[inline]
    pub fn is_new(&self, sequence: u64) -> bool {
        let block = sequence >> BLOCK_BITS;
        if block > self.block {
            true
        } else if block == self.block {
            !self.current.contains(sequence)
        } else if block + 1 == self.block {
            self.before
                .as_ref()
                .is_some_and(|before| !before.contains(sequence))
        } else {
            false
        }
    }

    /// Remembers `sequence`, that of an authentic packet which [`is_new`](Self::is_new) let pass.
    #[inline]
    pub fn mark(&mut self, sequence: u64) {
        let block = sequence >> BLOCK_BITS;
        if block > self.block {
            let current = std::mem::take(&mut self.current);
            self.before = Some(if block - self.block == 1 {
                current
            } else {
                Block::default()
            });
            self.block = block;
        }
        if block == self.block {
            self.current.insert(sequence);
        } else if let Some(before) = &mut self.before {
            before.insert(sequence);
        }
    }
}

/// A set of the numbers of one block.
#[derive(Debug, Default)]
struct Block {
    pages: [Page; PAGE_COUNT],
}

impl Block {
    #[inline]
    fn contains(&self, sequence: u64) -> bool {
        let (page, word, bit) = position(sequence);
        match &self.pages[page] {
            Page::Empty => false,
            Page::Some(bits) => bits.words[word] & bit != 0,
            Page::Full => true,
        }
    }

    #[inline]
    fn insert(&mut self, sequence: u64) {
        let (page, word, bit) = position(sequence);
        let page = &mut self.pages[page];
        if matches!(page, Page::Empty) {
            *page = Page::Some(Box::new(Bits {
                missing: 1 << PAGE_BITS,
                words: [0; WORD_COUNT],
            }));
        }
        if let Page::Some(bits) = page {
            if bits.words[word] & bit == 0 {
                bits.words[word] |= bit;
                bits.missing -= 1;
            }
            if bits.missing == 0 {
                *page = Page::Full;
            }
        }
    }
}

#[derive(Debug, Default)]
enum Page {
    #[default]
    Empty,
    Some(Box<Bits>),
    Full,
}

#[derive(Debug)]
struct Bits {
    /// Numbers of the page not seen yet.
    missing: u32,
    words: [u64; WORD_COUNT],
}

/// Page, word in it and bit in that. Masked, so always within the arrays.
#[inline]
const fn position(sequence: u64) -> (usize, usize, u64) {
    let page = (sequence >> PAGE_BITS) as usize & (PAGE_COUNT - 1);
    let word = (sequence >> 6) as usize & (WORD_COUNT - 1);
    (page, word, 1 << (sequence & 63))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    impl ReplayWindow {
        fn accept(&mut self, sequence: u64) -> bool {
            let new = self.is_new(sequence);
            if new {
                self.mark(sequence);
            }
            new
        }

        fn allocated_pages(&self) -> usize {
            let blocks = [Some(&self.current), self.before.as_ref()];
            let pages = blocks.into_iter().flatten().flat_map(|block| &block.pages);
            pages.filter(|page| matches!(page, Page::Some(_))).count()
        }
    }

    const BLOCK: u64 = 1 << BLOCK_BITS;

    #[test]
    fn memory_follows_use() {
        let mut window = ReplayWindow::default();
        assert_eq!(window.allocated_pages(), 0);
        for sequence in 0..3 * BLOCK {
            assert!(window.accept(sequence));
            assert!(window.allocated_pages() <= 1);
        }
        for sequence in [2 * BLOCK, 3 * BLOCK - 1, 2 * BLOCK - 1, 0] {
            assert!(!window.is_new(sequence));
        }
        // Every second lost: nothing can be given back, and it stays within the bound.
        for sequence in (3 * BLOCK..8 * BLOCK).step_by(2) {
            assert!(window.accept(sequence));
            assert!(window.allocated_pages() <= 2 * PAGE_COUNT);
        }
        assert!(window.is_new(8 * BLOCK - 1) && window.is_new(6 * BLOCK + 1));
    }

    #[test]
    fn the_last_number_there_is() {
        let mut window = ReplayWindow::default();
        let last = (1 << 63) - 1;
        assert!(window.accept(0) && window.accept(last));
        assert!(!window.accept(last) && !window.accept(1));
        assert!(window.accept(last - 1) && window.accept(last - BLOCK));
    }

    /// The rule, written down once more and slowly.
    #[derive(Default)]
    struct Model {
        block: u64,
        current: HashSet<u64>,
        before: Option<HashSet<u64>>,
    }

    impl Model {
        fn accept(&mut self, sequence: u64) -> bool {
            let block = sequence >> 20;
            match i128::from(block) - i128::from(self.block) {
                0 => self.current.insert(sequence),
                -1 => self
                    .before
                    .as_mut()
                    .is_some_and(|before| before.insert(sequence)),
                ahead @ 1.. => {
                    let current = std::mem::take(&mut self.current);
                    self.before = Some(if ahead == 1 { current } else { HashSet::new() });
                    self.block = block;
                    self.current.insert(sequence)
                }
                _ => false,
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(steps in prop::collection::vec((0..4_u64, 0..40_u64), 0..400)) {
            let (mut window, mut model) = (ReplayWindow::default(), Model::default());
            let mut base = 0;
            for (jump, offset) in steps {
                // Jumps of up to two blocks forward; offsets fall on both sides of block borders.
                base += jump * (BLOCK / 4 + 3);
                let sequence = (base + offset * (BLOCK / 16)).saturating_sub(20 * (BLOCK / 16));
                prop_assert_eq!(window.accept(sequence), model.accept(sequence), "{}", sequence);
            }
        }
    }
}
