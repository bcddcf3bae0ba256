//! The internet checksum: the complement of the one's complement sum of 16-bit words.
//!
//! Sums are kept in the byte order of the host, since the order of bytes does not matter to them;
//! only fields are big-endian. An odd last byte counts as the first of its word. Source: RFC 1071;
//! for adjusting, RFC 1624.

use super::Checksum;

/// A sum in progress, not yet folded to 16 bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Of nothing.
    pub const ZERO: Self = Self(0);

    /// Adds bytes, of which an even number came before.
    #[inline]
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        // Words of 32 bits into sums of 64: no carry is lost, and the compiler uses vectors.
        let mut sums = [0_u64; 8];
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let (words, rest) = rest.as_chunks::<4>();
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum += u64::from(u32::from_ne_bytes(*word));
        }
        let last = match *rest {
            [a] => [a, 0, 0, 0],
            [a, b] => [a, b, 0, 0],
            [a, b, c] => [a, b, c, 0],
            _ => [0; 4],
        };
        let sum: u64 = sums.iter().sum();
        self.plus(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// Adds a number as it stands big-endian in a header.
    #[inline]
    #[must_use]
    pub const fn with_u16(self, word: u16) -> Self {
        self.plus(word.to_be() as u64)
    }

    /// Takes a number out again.
    #[inline]
    #[must_use]
    pub const fn without_u16(self, word: u16) -> Self {
        self.plus(!word.to_be() as u64)
    }

    #[inline]
    const fn plus(self, number: u64) -> Self {
        let (sum, carry) = self.0.overflowing_add(number);
        Self(sum + carry as u64)
    }

    /// Folded to 16 bits, in the byte order of a header: what a partial checksum holds.
    #[inline]
    #[must_use]
    pub const fn fold(self) -> [u8; 2] {
        let mut sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        let [a, b, ..] = (sum & 0xffff).to_le_bytes();
        u16::from_le_bytes([a, b]).to_ne_bytes()
    }

    /// The complement: what a checksum field holds.
    #[inline]
    #[must_use]
    pub const fn finish(self) -> [u8; 2] {
        let [a, b] = self.fold();
        [!a, !b]
    }
}

/// Completes the checksum of a frame in place. Returns false, and changes nothing, if its field
/// lies outside of the frame.
#[inline]
pub fn complete(frame: &mut [u8], checksum: Checksum) -> bool {
    let Checksum::Partial { start, offset } = checksum else {
        return true;
    };
    let (start, offset) = (usize::from(start), usize::from(offset));
    let Some(summed) = frame.get_mut(start..) else {
        return false;
    };
    let sum = Sum::ZERO.with(summed);
    match summed.get_mut(offset..).and_then(<[u8]>::first_chunk_mut) {
        Some(field) => {
            *field = for_udp(sum.finish(), offset);
            true
        }
        None => false,
    }
}

/// Zero in a UDP header means that there is no checksum; minus zero is sent instead.
#[inline]
pub(crate) const fn for_udp(field: [u8; 2], offset: usize) -> [u8; 2] {
    match field {
        [0, 0] if offset == UDP_FIELD => [0xff, 0xff],
        field => field,
    }
}

/// Where the checksum stands in a UDP header.
pub const UDP_FIELD: usize = 6;
/// Where the checksum stands in a TCP header.
pub const TCP_FIELD: usize = 16;

#[cfg(test)]
mod tests {
    use etherparse::checksum::Sum16BitWords;
    use proptest::prelude::*;

    use super::*;

    fn oracle(bytes: &[u8]) -> [u8; 2] {
        Sum16BitWords::new()
            .add_slice(bytes)
            .ones_complement()
            .to_ne_bytes()
    }

    /// The example of RFC 1071, section 3.
    #[test]
    fn known_sum() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::ZERO.with(&bytes).fold(), [0xdd, 0xf2]);
        assert_eq!(Sum::ZERO.with(&bytes).finish(), [0x22, 0x0d]);
    }

    #[test]
    fn field_outside_of_the_frame_changes_nothing() {
        for (start, offset) in [(61, 0), (59, 0), (40, 19), (u16::MAX, u16::MAX), (60, 0)] {
            let mut frame = [7; 60];
            assert!(!complete(&mut frame, Checksum::Partial { start, offset }));
            assert_eq!(frame, [7; 60]);
        }
        assert!(complete(&mut [7; 60], Checksum::Complete));
    }

    #[test]
    fn udp_has_no_zero() {
        // Sums up to all ones, whose complement is zero.
        let mut frame = [0, 0, 0, 0, 0, 0, 0xff, 0xff];
        let checksum = Checksum::Partial {
            start: 0,
            offset: 6,
        };
        assert!(complete(&mut frame, checksum));
        assert_eq!(frame[6..], [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn agrees_with_etherparse(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cut in any::<prop::sample::Index>(),
        ) {
            prop_assert_eq!(Sum::ZERO.with(&bytes).finish(), oracle(&bytes));
            let (a, b) = bytes.split_at(cut.index(bytes.len() + 1) & !1);
            prop_assert_eq!(Sum::ZERO.with(a).with(b).finish(), oracle(&bytes));
        }

        #[test]
        fn long_runs_of_ones_do_not_overflow(len in 0..70_000_usize) {
            let bytes = vec![0xff; len];
            prop_assert_eq!(Sum::ZERO.with(&bytes).finish(), oracle(&bytes));
        }

        #[test]
        fn words_go_in_and_out(words in prop::collection::vec(any::<u16>(), 1..20), out in any::<prop::sample::Index>()) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            let all = words.iter().fold(Sum::ZERO, |sum, &word| sum.with_u16(word));
            prop_assert_eq!(all.finish(), oracle(&bytes));
            let at = out.index(words.len());
            let mut rest = bytes.clone();
            rest[2 * at..2 * at + 2].fill(0);
            // Zero and minus zero are the same sum.
            let (got, want) = (all.without_u16(words[at]).finish(), oracle(&rest));
            prop_assert!(got == want || (got == [0, 0] && want == [0xff, 0xff]), "{:?} {:?}", got, want);
        }

        #[test]
        fn completes_in_its_field_alone(
            mut frame in prop::collection::vec(any::<u8>(), 60..1600),
            start in 0..40_u16,
            offset in prop::sample::select(vec![6_u16, 16]),
        ) {
            let before = frame.clone();
            let checksum = Checksum::Partial { start, offset };
            prop_assert!(complete(&mut frame, checksum));
            let field = usize::from(start + offset);
            let mut rest = frame[usize::from(start)..].to_vec();
            rest[usize::from(offset)..][..2].copy_from_slice(&before[field..][..2]);
            let want = oracle(&rest);
            let got = &frame[field..][..2];
            prop_assert!(got == want || (offset == 6 && want == [0, 0] && got == [0xff, 0xff]));
            frame[field..][..2].copy_from_slice(&before[field..][..2]);
            prop_assert_eq!(frame, before);
        }
    }
}
