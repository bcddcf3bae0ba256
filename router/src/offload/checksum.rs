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
    pub fn add(self, bytes: &[u8]) -> Self {
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
    pub const fn add_u16(self, word: u16) -> Self {
        self.plus(word.to_be() as u64)
    }

    /// Takes a number out again.
    #[inline]
    #[must_use]
    pub const fn remove_u16(self, word: u16) -> Self {
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
    let sum = Sum::ZERO.add(summed);
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
