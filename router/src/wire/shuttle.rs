//! Shuttle packets: UDP payloads that carry frames to a neighbour, and the control messages that
//! prepare for them.
//!
//! ```text
//! packet  header (16) | records | tag (16), if sealed
//! header  53 | kind u8 | epoch u16 | session u32 | counter u64
//! record  frame length u16 | checksum start u8 | flags u8 | names (12), if flagged | frame
//! names   6 origin peer | 6 destination peer
//! ```
//!
//! Records repeat to the end of the packet. All integers are big-endian; lengths and positions are
//! in bytes.
//!
//! * The first byte is odd. That of a sleeve packet is the first of a peer name, which usually is a
//!   unicast MAC address and so even: the two share a port. A neighbour whose name begins like this
//!   is still told apart, since its packets are of no known session.
//! * `kind`: bit 0 says that records are sealed, the upper four bits number the sender's queue; the
//!   other bits are zero.
//! * `session` is the number that the *receiver* has given the link.
//! * `epoch` says which of the link's keys, `counter` which packet under it. Unsealed packets are
//!   of epoch 0.
//! * The header is sealed along with the records, but readable.
//! * `checksum start` is 0 if the frame's transport checksum is complete, else the position in the
//!   frame where it begins to be summed; its field, which holds the sum of the pseudo-header, is 6
//!   bytes further (UDP), or 16 with flag bit 0 (TCP).
//! * Without names (flag bit 1) the frame is from the neighbour's own bridge for ours.
//! * With flag bit 7 the record is no frame but a note of the overlay's own:
//!
//! ```text
//! heartbeat  1 | connection id u64
//! MTU test   2 | overlay MTU u16 | zeros, up to the length of the longest frame of that MTU
//! ```
//!
//! Control messages, over the TCP connection, in the body of an overlay control message:
//!
//! ```text
//! tag 1  hello       version u8 (1) | suites u8 | session u32 | ephemeral public key (32)
//!     2  heard       -          your packets reach me
//!     3  lost        -          they do not any more
//!     4  MTU         u16        your test of this overlay MTU reached me
//!     5  key         epoch u16 | ephemeral public key (32)     dialler: let us have new keys
//!     6  key answer  epoch u16 | ephemeral public key (32)     acceptor: I can open them
//!     7  done        epoch u16                                 dialler: so can I
//!     8  queue       u8         your heartbeat by this queue, not 0, reached me
//! ```
//!
//! Bytes after what is described are ignored, and so are other tags.
//!
//! Source: docs/wire/shuttle.md.

use std::ops::Range;

use proto::{ConnectionUid, PeerName};
use thiserror::Error;

use super::ethernet;
use crate::crypto::aead::Suites;
use crate::crypto::session::PUBLIC_KEY_LEN;
use crate::offload::Checksum;

pub use crate::crypto::aead::TAG_LEN;

/// First byte of every packet.
pub const MARK: u8 = 0x53;
/// Bytes before the records.
pub const HEADER_LEN: usize = 16;
/// Bytes before the frame in a record without names.
pub const RECORD_HEADER_LEN: usize = 4;
/// Bytes of the two names in a record.
pub const NAMES_LEN: usize = 12;
/// The version of all that is described here.
pub const VERSION: u8 = 1;
/// Bytes of a heartbeat note.
pub const HEARTBEAT_LEN: usize = 9;
/// Length of the MTU test that is longer than any path, and so makes the kernel tell its MTU.
pub const MTU_PROBE_LEN: usize = 60_000;

/// Most queues that a sender can have.
pub const MAX_QUEUES: usize = 16;

const KIND_SEALED: u8 = 1;
/// Position of the sender's queue in the second byte of a packet.
pub const KIND_QUEUE_SHIFT: u32 = 4;
const FLAG_OFFSET_16: u8 = 1;
const FLAG_NAMES: u8 = 2;
const FLAG_NOTE: u8 = 0x80;
const NOTE_HEARTBEAT: u8 = 1;
const NOTE_MTU: u8 = 2;

/// It is no packet, record or control message of shuttle, or of a later version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("malformed shuttle packet")]
pub struct Malformed;

/// The readable part of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether the records are sealed.
    pub is_sealed: bool,
    /// By which of the sender's queues it has come, below [`MAX_QUEUES`].
    pub queue: u8,
    /// Which keys.
    pub epoch: u16,
    /// The receiver's number of the link.
    pub session: u32,
    /// Number of the packet.
    pub counter: u64,
}

impl Header {
    /// Reads the header of a packet. Whether there is a tag behind is not looked at.
    #[inline]
    pub fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        let header: &[u8; HEADER_LEN] = packet.first_chunk().ok_or(Malformed)?;
        let [mark, kind, a, b, c, d, e, f, counter @ ..] = *header;
        let queue = kind >> KIND_QUEUE_SHIFT;
        if mark != MARK || kind & !KIND_SEALED != queue << KIND_QUEUE_SHIFT {
            return Err(Malformed);
        }
        Ok(Self {
            is_sealed: kind & KIND_SEALED != 0,
            queue,
            epoch: u16::from_be_bytes([a, b]),
            session: u32::from_be_bytes([c, d, e, f]),
            counter: u64::from_be_bytes(counter),
        })
    }

    /// The header as it stands in the packet.
    #[inline]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let sealed = if self.is_sealed { KIND_SEALED } else { 0 };
        let kind = sealed | self.queue << KIND_QUEUE_SHIFT;
        let [a, b] = self.epoch.to_be_bytes();
        let [c, d, e, f] = self.session.to_be_bytes();
        let [g, h, i, j, k, l, m, n] = self.counter.to_be_bytes();
        [MARK, kind, a, b, c, d, e, f, g, h, i, j, k, l, m, n]
    }
}

/// Whether a datagram wants to be a shuttle packet, and not one of sleeve.
#[inline]
pub fn is_shuttle(datagram: &[u8]) -> bool {
    datagram.first() == Some(&MARK)
}

/// What goes before a frame.
#[derive(Debug, Clone, Copy)]
pub struct RecordHeader {
    bytes: [u8; RECORD_HEADER_LEN + NAMES_LEN],
    len: usize,
}

impl RecordHeader {
    /// For a frame of `frame_len` bytes. `None` if a partial checksum cannot be said: it must be
    /// completed.
    #[inline]
    pub fn frame(
        frame_len: u16,
        checksum: Checksum,
        names: Option<(PeerName, PeerName)>,
    ) -> Option<Self> {
        let (start, mut flags) = match checksum {
            Checksum::Complete => (0, 0),
            Checksum::Partial { start, offset } => {
                let start = u8::try_from(start).ok().filter(|&start| start > 0)?;
                match offset {
                    6 => (start, 0),
                    16 => (start, FLAG_OFFSET_16),
                    _ => return None,
                }
            }
        };
        let mut bytes = [0; RECORD_HEADER_LEN + NAMES_LEN];
        let mut len = RECORD_HEADER_LEN;
        if let Some((origin, destination)) = names {
            flags |= FLAG_NAMES;
            len += NAMES_LEN;
            let (first, second) = bytes[RECORD_HEADER_LEN..].split_at_mut(NAMES_LEN / 2);
            first.copy_from_slice(&origin.to_bytes());
            second.copy_from_slice(&destination.to_bytes());
        }
        let [high, low] = frame_len.to_be_bytes();
        bytes[..RECORD_HEADER_LEN].copy_from_slice(&[high, low, start, flags]);
        Some(Self { bytes, len })
    }

    /// For a note of `len` bytes.
    pub fn note(len: u16) -> Self {
        let mut bytes = [0; RECORD_HEADER_LEN + NAMES_LEN];
        let [high, low] = len.to_be_bytes();
        bytes[..RECORD_HEADER_LEN].copy_from_slice(&[high, low, 0, FLAG_NOTE]);
        Self {
            bytes,
            len: RECORD_HEADER_LEN,
        }
    }

    /// As it stands in the packet.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// A frame.
    Frame {
        /// Peer where it entered the overlay and peer where it leaves it; `None`: the neighbour and
        /// ourselves.
        names: Option<(PeerName, PeerName)>,
        /// State of its transport checksum.
        checksum: Checksum,
        /// Its bytes.
        frame: &'a [u8],
        /// Where they stand in the slice that was walked.
        range: Range<usize>,
    },
    /// A note of the overlay's own.
    Note(Note),
}

/// What the overlay sends on its own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// The sender lives, and sends from the address where it wants to receive.
    Heartbeat(ConnectionUid),
    /// A packet for this overlay MTU has arrived.
    MtuTest(u16),
    /// Of a later version.
    Unknown,
}

/// A heartbeat note.
pub fn heartbeat(uid: ConnectionUid) -> [u8; HEARTBEAT_LEN] {
    let [a, b, c, d, e, f, g, h] = uid.0.to_be_bytes();
    [NOTE_HEARTBEAT, a, b, c, d, e, f, g, h]
}

/// An MTU test note: as long as the longest frame of this MTU.
pub fn mtu_test(mtu: u16) -> Vec<u8> {
    let mut note = vec![0; usize::from(mtu) + ethernet::HEADER_LEN];
    let [high, low] = mtu.to_be_bytes();
    if let Some(place) = note.first_chunk_mut() {
        *place = [NOTE_MTU, high, low];
    }
    note
}

impl Note {
    fn decode(note: &[u8]) -> Self {
        match *note {
            [NOTE_HEARTBEAT, a, b, c, d, e, f, g, h, ..] => {
                Self::Heartbeat(ConnectionUid(u64::from_be_bytes([a, b, c, d, e, f, g, h])))
            }
            [NOTE_MTU, high, low, ..] => {
                let mtu = u16::from_be_bytes([high, low]);
                if note.len() == usize::from(mtu) + ethernet::HEADER_LEN {
                    Self::MtuTest(mtu)
                } else {
                    Self::Unknown
                }
            }
            _ => Self::Unknown,
        }
    }
}

/// Walks the records of an opened packet.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    bytes: &'a [u8],
    next: usize,
}

impl<'a> Records<'a> {
    /// Walks `bytes` from position `start` to their end; ranges count from the start of `bytes`.
    #[inline]
    pub const fn new(bytes: &'a [u8], start: usize) -> Self {
        Self { bytes, next: start }
    }

    #[inline]
    fn record(&mut self) -> Option<Record<'a>> {
        let rest = self.bytes.get(self.next..)?;
        let [high, low, start, flags] = *rest.first_chunk()?;
        let mut at = self.next.checked_add(RECORD_HEADER_LEN)?;
        let names = if flags & FLAG_NAMES != 0 {
            let [a, b, c, d, e, f, g, h, i, j, k, l] =
                *rest.get(RECORD_HEADER_LEN..)?.first_chunk::<NAMES_LEN>()?;
            at = at.checked_add(NAMES_LEN)?;
            Some((
                PeerName::from_bytes([a, b, c, d, e, f]),
                PeerName::from_bytes([g, h, i, j, k, l]),
            ))
        } else {
            None
        };
        let end = at.checked_add(usize::from(u16::from_be_bytes([high, low])))?;
        let frame = self.bytes.get(at..end)?;
        self.next = end;
        if flags & FLAG_NOTE != 0 {
            return Some(Record::Note(Note::decode(frame)));
        }
        if flags & !(FLAG_OFFSET_16 | FLAG_NAMES) != 0 {
            return None;
        }
        let checksum = match start {
            0 => Checksum::Complete,
            start => {
                let offset: u16 = if flags & FLAG_OFFSET_16 != 0 { 16 } else { 6 };
                let start = u16::from(start);
                // The field must stand within the frame.
                if usize::from(start) + usize::from(offset) + 2 > frame.len() {
                    return None;
                }
                Checksum::Partial { start, offset }
            }
        };
        Some(Record::Frame {
            names,
            checksum,
            frame,
            range: at..end,
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
        let record = self.record();
        if record.is_none() {
            self.next = self.bytes.len();
        }
        Some(record.ok_or(Malformed))
    }
}

/// What an end says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The suites it wants.
    pub suites: Suites,
    /// Its number for the link; what we send carries it.
    pub session: u32,
    /// Its public key of epoch 0; zeros if packets are not sealed.
    pub public: [u8; PUBLIC_KEY_LEN],
}

/// A control message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The beginning.
    Hello(Hello),
    /// Your packets reach me.
    Heard,
    /// They do not any more.
    Lost,
    /// Your test of this overlay MTU reached me.
    MtuVerified(u16),
    /// The dialler's public key of a new epoch.
    Key(u16, [u8; PUBLIC_KEY_LEN]),
    /// The acceptor's.
    KeyAnswer(u16, [u8; PUBLIC_KEY_LEN]),
    /// The dialler has both keys of the new epoch.
    Done(u16),
    /// The heartbeat by this queue has arrived.
    QueueHeard(u8),
}

impl Control {
    /// Tag and body.
    pub fn encode(&self) -> (u8, Vec<u8>) {
        let key = |epoch: &u16, public: &[u8]| [&epoch.to_be_bytes(), public].concat();
        match self {
            Self::Hello(hello) => {
                let head = [VERSION, hello.suites.0];
                (
                    1,
                    [&head[..], &hello.session.to_be_bytes(), &hello.public].concat(),
                )
            }
            Self::Heard => (2, Vec::new()),
            Self::Lost => (3, Vec::new()),
            Self::MtuVerified(mtu) => (4, mtu.to_be_bytes().to_vec()),
            Self::Key(epoch, public) => (5, key(epoch, public)),
            Self::KeyAnswer(epoch, public) => (6, key(epoch, public)),
            Self::Done(epoch) => (7, epoch.to_be_bytes().to_vec()),
            Self::QueueHeard(queue) => (8, vec![*queue]),
        }
    }

    /// Reads what came in.
    pub fn decode(tag: u8, body: &[u8]) -> Result<Self, Malformed> {
        let epoch = || body.first_chunk().copied().map(u16::from_be_bytes);
        let key = || Some((epoch()?, *body.get(2..)?.first_chunk()?));
        let control = match tag {
            1 => Hello::decode(body).map(Self::Hello),
            2 => Some(Self::Heard),
            3 => Some(Self::Lost),
            4 => epoch().map(Self::MtuVerified),
            5 => key().map(|(epoch, public)| Self::Key(epoch, public)),
            6 => key().map(|(epoch, public)| Self::KeyAnswer(epoch, public)),
            7 => epoch().map(Self::Done),
            8 => body.first().copied().map(Self::QueueHeard),
            _ => None,
        };
        control.ok_or(Malformed)
    }
}

impl Hello {
    fn decode(body: &[u8]) -> Option<Self> {
        let [version, suites, a, b, c, d] = *body.first_chunk()?;
        if version != VERSION {
            return None;
        }
        Some(Self {
            suites: Suites(suites),
            session: u32::from_be_bytes([a, b, c, d]),
            public: *body.get(6..)?.first_chunk()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(number: u64) -> PeerName {
        PeerName::from_u64(number).unwrap()
    }

    #[test]
    fn the_layouts_byte_by_byte() {
        let header = Header {
            is_sealed: true,
            queue: 5,
            epoch: 0x0102,
            session: 0x0304_0506,
            counter: 0x0708_090a_0b0c_0d0e,
        };
        assert_eq!(
            hex::encode(header.encode()),
            "53510102030405060708090a0b0c0d0e"
        );
        let plain = Header {
            is_sealed: false,
            queue: 0,
            epoch: 0,
            ..header
        };
        assert_eq!(
            hex::encode(plain.encode()),
            "53000000030405060708090a0b0c0d0e"
        );

        let record = |checksum, names| {
            let header = RecordHeader::frame(0x0102, checksum, names)?;
            Some(hex::encode(header.bytes()))
        };
        let tcp = Checksum::Partial {
            start: 34,
            offset: 16,
        };
        let udp = Checksum::Partial {
            start: 54,
            offset: 6,
        };
        assert_eq!(record(Checksum::Complete, None).unwrap(), "01020000");
        assert_eq!(record(tcp, None).unwrap(), "01022201");
        assert_eq!(record(udp, None).unwrap(), "01023600");
        assert_eq!(
            record(tcp, Some((name(0x0a0b), name(0x0c0d)))).unwrap(),
            "01022203000000000a0b000000000c0d"
        );
        for (start, offset) in [(0, 16), (256, 16), (34, 7), (34, 0)] {
            assert_eq!(record(Checksum::Partial { start, offset }, None), None);
        }
        assert_eq!(hex::encode(RecordHeader::note(9).bytes()), "00090080");
        assert_eq!(
            hex::encode(heartbeat(ConnectionUid(0x0102_0304_0506_0708))),
            "010102030405060708"
        );
        assert_eq!(mtu_test(1422).len(), 1436);
        assert_eq!(mtu_test(1422)[..4], [2, 5, 0x8e, 0]);
    }

    #[test]
    fn control_messages_byte_by_byte() {
        let cases = [
            (
                Control::Hello(Hello {
                    suites: Suites(3),
                    session: 0x0102_0304,
                    public: [0xaa; 32],
                }),
                1,
                format!("010301020304{}", "aa".repeat(32)),
            ),
            (Control::Heard, 2, String::new()),
            (Control::Lost, 3, String::new()),
            (Control::MtuVerified(1422), 4, "058e".to_owned()),
            (
                Control::Key(7, [1; 32]),
                5,
                format!("0007{}", "01".repeat(32)),
            ),
            (
                Control::KeyAnswer(7, [2; 32]),
                6,
                format!("0007{}", "02".repeat(32)),
            ),
            (Control::Done(7), 7, "0007".to_owned()),
            (Control::QueueHeard(3), 8, "03".to_owned()),
        ];
        for (control, tag, body) in cases {
            let encoded = control.encode();
            assert_eq!((encoded.0, hex::encode(&encoded.1)), (tag, body));
            assert_eq!(Control::decode(tag, &encoded.1), Ok(control));
            // More may follow in a later version; less may not.
            let longer = [&encoded.1[..], &[1, 2, 3]].concat();
            assert_eq!(Control::decode(tag, &longer), Ok(control));
            for len in 0..encoded.1.len() {
                assert_eq!(Control::decode(tag, &encoded.1[..len]), Err(Malformed));
            }
        }
        assert_eq!(Control::decode(0, &[]), Err(Malformed));
        assert_eq!(Control::decode(9, &[0; 99]), Err(Malformed));
        assert_eq!(Control::decode(1, &[2; 38]), Err(Malformed));
    }

    #[test]
    fn what_is_no_packet() {
        let good = [MARK, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(Header::decode(&good).is_ok() && is_shuttle(&good));
        for len in 0..16 {
            assert_eq!(Header::decode(&good[..len]), Err(Malformed));
        }
        for kind in (0..=255).filter(|kind| kind & 0x0e != 0) {
            let mut bad = good;
            bad[1] = kind;
            assert_eq!(Header::decode(&bad), Err(Malformed));
        }
        let mut bad = good;
        bad[0] = 0x52;
        assert_eq!(Header::decode(&bad), Err(Malformed));
        assert!(!is_shuttle(&bad) && !is_shuttle(&[]));
    }

    #[test]
    fn a_checksum_field_outside_the_frame_is_refused() {
        for (frame_len, good) in [(52, true), (51, false), (0, false)] {
            let mut bytes = vec![0, frame_len, 34, 1];
            bytes.resize(4 + usize::from(frame_len), 7);
            let first = Records::new(&bytes, 0).next().unwrap();
            assert_eq!(first.is_ok(), good, "{frame_len}");
        }
        // Flags of a later version.
        let later = Records::new(&[0, 0, 0, 4], 0).next().unwrap();
        assert_eq!(later, Err(Malformed));
    }

    fn any_checksum() -> impl Strategy<Value = Checksum> {
        prop_oneof![
            Just(Checksum::Complete),
            (1..20_u16, prop_oneof![Just(6_u16), Just(16)])
                .prop_map(|(start, offset)| Checksum::Partial { start, offset }),
        ]
    }

    proptest! {
        #[test]
        fn records_out_are_records_in(
            frames in prop::collection::vec(
                (
                    prop::collection::vec(any::<u8>(), 38..200),
                    any_checksum(),
                    prop::option::of((0..1_u64 << 48, 0..1_u64 << 48)),
                ),
                0..20,
            ),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = vec![0xee; HEADER_LEN];
            let mut ends = vec![bytes.len()];
            for (frame, checksum, names) in &frames {
                let names = names.map(|(a, b)| (name(a), name(b)));
                let len = u16::try_from(frame.len()).unwrap();
                let header = RecordHeader::frame(len, *checksum, names).unwrap();
                bytes.extend(header.bytes());
                bytes.extend(frame);
                ends.push(bytes.len());
            }
            let records: Vec<_> = Records::new(&bytes, HEADER_LEN).map(Result::unwrap).collect();
            prop_assert_eq!(records.len(), frames.len());
            for (record, (frame, checksum, names)) in records.iter().zip(&frames) {
                let Record::Frame { names: n, checksum: c, frame: f, range } = record else {
                    panic!("a note")
                };
                prop_assert_eq!(*n, names.map(|(a, b)| (name(a), name(b))));
                prop_assert_eq!((c, *f), (checksum, &frame[..]));
                prop_assert_eq!(&bytes[range.clone()], &frame[..]);
            }
            // Cut anywhere, the records before the cut are good, and the rest is malformed.
            let cut = HEADER_LEN + cut.index(bytes.len() - HEADER_LEN + 1);
            let whole = ends.iter().filter(|&&end| end <= cut).count() - 1;
            let walked: Vec<_> = Records::new(&bytes[..cut], HEADER_LEN).collect();
            prop_assert!(walked[..whole].iter().all(Result::is_ok));
            prop_assert_eq!(walked.len() - whole, usize::from(!ends.contains(&cut)));
        }

        #[test]
        fn anything_is_walked_to_its_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let count = Records::new(&bytes, 0).count();
            prop_assert!(count <= bytes.len() / RECORD_HEADER_LEN + 1);
            let _ = Header::decode(&bytes);
            for tag in 0..10 {
                let _ = Control::decode(tag, &bytes);
            }
        }

        #[test]
        fn headers_and_notes_survive(sealed: bool, queue in 0..16_u8, epoch: u16, session: u32, counter: u64, mtu in 0..2000_u16) {
            let header = Header { is_sealed: sealed, queue, epoch, session, counter };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
            for (note, expected) in [
                (heartbeat(ConnectionUid(counter)).to_vec(), Note::Heartbeat(ConnectionUid(counter))),
                (mtu_test(mtu), Note::MtuTest(mtu)),
            ] {
                let len = u16::try_from(note.len()).unwrap();
                let bytes = [RecordHeader::note(len).bytes(), &note].concat();
                let records: Vec<_> = Records::new(&bytes, 0).collect();
                prop_assert_eq!(records, vec![Ok(Record::Note(expected))]);
            }
        }
    }
}
