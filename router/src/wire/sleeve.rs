//! Sleeve packets: UDP payloads that carry frames to a neighbour.
//!
//! ```text
//! plain   6 name of the sending neighbour | records
//! sealed  6 name of the sending neighbour | 8 DF bit and sequence | 16 tag | sealed records
//! record  6 origin peer | 6 destination peer | 2 frame length | frame
//! ```
//!
//! Records repeat to the end of the packet. All integers are big-endian. In the 8 clear bytes of a
//! sealed packet bit 63 says which of the sender's two sequences, each from 0, the other bits
//! number. Nonce of the box: 24 bytes, byte 0 is `80` from the dialler of the connection and `00`
//! from the acceptor, bytes 1 to 15 are zero, bytes 16 to 23 are the 8 clear bytes as sent.
//!
//! Source: Weave data plane, sections 2.1, 2.2 and 2.6.

use std::ops::Range;

use proto::{ConnectionUid, PeerName};
use thiserror::Error;

use super::ethernet::{Frame, HEADER_LEN};

/// Bytes of a peer name.
pub const NAME_LEN: usize = 6;
/// Bytes before the frame in a record.
pub const RECORD_HEADER_LEN: usize = 2 * NAME_LEN + 2;
/// Bytes before the records in a plain packet.
pub const PLAIN_HEADER_LEN: usize = NAME_LEN;
/// Where the 8 clear bytes of a sealed packet begin.
pub const WORD_START: usize = NAME_LEN;
/// Where the tag of a sealed packet begins.
pub const TAG_START: usize = WORD_START + 8;
/// Bytes before the records in a sealed packet.
pub const SEALED_HEADER_LEN: usize = TAG_START + 16;
/// Set in the clear word when the packet belongs to the DF sequence.
pub const DF_BIT: u64 = 1 << 63;

/// Length of a heartbeat frame.
pub const HEARTBEAT_LEN: usize = HEADER_LEN + 8;
/// Length of the frame that tests whether the path carries fragments.
pub const FRAGMENTATION_TEST_LEN: usize = 60_001;
/// Length of the frame that provokes "message too long" and so starts the MTU search.
pub const MTU_PROBE_LEN: usize = 60_000;

/// The nonce of a sealed packet with these 8 clear bytes.
#[inline]
pub const fn nonce(from_dialler: bool, word: [u8; 8]) -> [u8; 24] {
    let first = if from_dialler { 0x80 } else { 0 };
    let [a, b, c, d, e, f, g, h] = word;
    [
        first, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h,
    ]
}

/// Name of the neighbour that says it sent the packet.
#[inline]
pub fn sender(packet: &[u8]) -> Option<PeerName> {
    packet.first_chunk().copied().map(PeerName::from_bytes)
}

/// Writes what goes before a frame of `frame_len` bytes.
#[inline]
pub fn record_header(
    origin: PeerName,
    destination: PeerName,
    frame_len: u16,
) -> [u8; RECORD_HEADER_LEN] {
    let [a, b, c, d, e, f] = origin.to_bytes();
    let [g, h, i, j, k, l] = destination.to_bytes();
    let [m, n] = frame_len.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n]
}

/// One frame in a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Peer where the frame entered the overlay.
    pub origin: PeerName,
    /// Peer where it leaves it, or the next hop of a flood.
    pub destination: PeerName,
    /// The frame; may be of any length, also 0.
    pub frame: &'a [u8],
    /// Where the frame stands in the slice that was walked.
    pub range: Range<usize>,
}

/// The rest of a packet is not a record. Records before it are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("sleeve packet ends within a record")]
pub struct Malformed;

/// Walks the records of a packet's body, opened if it was sealed.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    bytes: &'a [u8],
    next: usize,
}

impl<'a> Records<'a> {
    /// Walks `bytes` from position `start`; ranges count from the start of `bytes`.
    #[inline]
    pub const fn new(bytes: &'a [u8], start: usize) -> Self {
        Self { bytes, next: start }
    }

    #[inline]
    fn record(&self) -> Option<Record<'a>> {
        let header: &[u8; RECORD_HEADER_LEN] = self.bytes.get(self.next..)?.first_chunk()?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = *header;
        let start = self.next.checked_add(RECORD_HEADER_LEN)?;
        let end = start.checked_add(usize::from(u16::from_be_bytes([m, n])))?;
        Some(Record {
            origin: PeerName::from_bytes([a, b, c, d, e, f]),
            destination: PeerName::from_bytes([g, h, i, j, k, l]),
            frame: self.bytes.get(start..end)?,
            range: start..end,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.bytes.len() {
            return None;
        }
        if let Some(record) = self.record() {
            self.next = record.range.end;
            Some(Ok(record))
        } else {
            self.next = self.bytes.len();
            Some(Err(Malformed))
        }
    }
}

/// A frame that sleeve sends on its own account, told apart by its length alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// The sender lives and sends from the address where it wants to receive.
    Heartbeat(ConnectionUid),
    /// Larger than any path carries in one piece.
    FragmentationTest {
        /// Whether all of it is zero, as it must be to count.
        intact: bool,
    },
    /// A datagram of this overlay MTU got through.
    MtuTest(u16),
}

impl Special {
    /// What the frame is, if it is special at all.
    pub fn classify(frame: &Frame<'_>) -> Option<Self> {
        if !frame.is_special() {
            return None;
        }
        let payload = frame.payload();
        if let Ok(uid) = payload.try_into() {
            return Some(Self::Heartbeat(ConnectionUid(u64::from_be_bytes(uid))));
        }
        if frame.bytes().len() == FRAGMENTATION_TEST_LEN {
            let intact = payload.iter().all(|&byte| byte == 0);
            return Some(Self::FragmentationTest { intact });
        }
        // No frame of a packet is longer than its 16-bit length field.
        u16::try_from(payload.len()).ok().map(Self::MtuTest)
    }
}

#[cfg(test)]
mod tests;
