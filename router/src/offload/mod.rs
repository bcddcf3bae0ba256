//! Work that a device leaves to whoever takes its frames, or takes over from whoever gives it some:
//! checksums and segmentation.
//!
//! A device with offloads hands out TCP and UDP in *super-frames* of up to 64 KB, many segments
//! under one header, and leaves checksums open; it takes the same. What is true of one frame is
//! said by an [`Offload`] beside it, which on the device itself is the virtio-net header:
//!
//! ```text
//! byte 0   flags: 1 the checksum is partial, 2 it was verified
//!      1   kind of segmentation: 0 none, 1 TCP over IPv4, 4 TCP over IPv6, 5 UDP; 0x80: ECN
//!      2   bytes of all headers together, a hint
//!      4   payload bytes of each segment but the last
//!      6   where the checksum begins to be summed up, counted from the frame's start
//!      8   where its field stands, counted from there
//!     10   number of buffers, 0
//! ```
//!
//! All in the byte order of the host. Modules, all pure:
//!
//! * [`checksum`] completes, verifies and adjusts checksums,
//! * [`segment`] cuts a super-frame into frames of at most one packet, each a [`Piece`],
//! * [`coalesce`] joins received frames to super-frames,
//! * [`vnet`] reads and writes the header.
//!
//! Source: the Virtual I/O Device specification 1.2, section 5.1.6; Linux, `tun.c` and
//! `virtio_net.h`.

pub mod checksum;
pub mod coalesce;
mod headers;
pub mod segment;
#[cfg(test)]
pub(crate) mod testing;
pub mod vnet;

use std::ops::Range;

/// State of the transport checksum of a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Checksum {
    /// As it should be on the wire; or the frame has none.
    #[default]
    Complete,
    /// Its field holds the sum of the pseudo-header only. Whoever wants it complete sums up the
    /// frame from `start` to its end, the field included, and puts the complement at
    /// `start + offset`.
    Partial {
        /// Where summing begins, from the start of the frame.
        start: u16,
        /// Where the field stands, from `start`.
        offset: u16,
    },
}

/// What the segments of a super-frame are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either; every segment is a datagram.
    Udp,
}

/// How a super-frame is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// What it is.
    pub kind: GsoKind,
    /// Payload bytes of each segment but the last, behind all headers. Not 0.
    pub size: u16,
    /// The TCP flag CWR belongs to the first segment only.
    pub ecn: bool,
}

/// What is left to do for a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offload {
    /// Its checksum.
    pub checksum: Checksum,
    /// How it is to be cut, if it is a super-frame.
    pub gso: Option<Gso>,
}

impl Offload {
    /// Nothing is left: a frame as it stands on a wire.
    pub const NONE: Self = Self {
        checksum: Checksum::Complete,
        gso: None,
    };

    /// A single frame with this checksum.
    #[must_use]
    pub const fn single(checksum: Checksum) -> Self {
        Self {
            checksum,
            gso: None,
        }
    }
}

/// A frame of at most one packet, in two parts that follow each other: `head` was made anew, `body`
/// is part of the frame it was cut from. Either may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The first part.
    pub head: &'a [u8],
    /// The rest.
    pub body: &'a [u8],
    /// Its checksum. If partial, the field stands in `head`, or `head` is empty.
    pub checksum: Checksum,
}

impl Piece<'_> {
    /// Bytes of the frame.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub const fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// The frame in one part.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        [self.head, self.body].concat()
    }
}

/// A received frame that goes to the local bridge: where it stands in the receive buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The frame.
    pub range: Range<usize>,
    /// Its checksum.
    pub checksum: Checksum,
}
