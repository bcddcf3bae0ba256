//! Ethernet frames and the IPv4 header inside them, as checked views.
//!
//! ```text
//! frame   6 destination MAC | 6 source MAC | 2 EtherType | payload      (no FCS, no preamble)
//! IPv4    version, IHL | TOS | 2 total length | 2 id | 2 flags, offset | TTL | protocol
//!         2 checksum | 4 source | 4 destination | options (IHL * 4 - 20 bytes)
//! ```
//!
//! Lengths are bytes; the fragment offset is in units of 8 bytes. Frames come from the local bridge
//! and from neighbours, so nothing in them is trusted: a view checks its length once, and then its
//! accessors cannot fail. Source: Weave data plane, sections 1 and 6; RFC 791.

use proto::MacAddr;
use thiserror::Error;

/// Bytes of an Ethernet header.
pub const HEADER_LEN: usize = 14;
/// Frames are padded with zeros to this length when we make them.
pub const MIN_FRAME_LEN: usize = 60;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Bytes of an IPv4 header without options.
pub const IPV4_MIN_HEADER_LEN: usize = 20;

/// The bytes are fewer than an Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a frame of {0} bytes has no Ethernet header")]
pub struct TooShort(pub usize);

/// A frame with a whole Ethernet header.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    header: &'a [u8; HEADER_LEN],
}

impl<'a> Frame<'a> {
    /// A view of `bytes`, if they hold a header.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, TooShort> {
        match bytes.first_chunk() {
            Some(header) => Ok(Self { bytes, header }),
            None => Err(TooShort(bytes.len())),
        }
    }

    /// The whole frame.
    #[inline]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Destination address.
    #[inline]
    pub const fn destination(&self) -> MacAddr {
        let [a, b, c, d, e, f, ..] = *self.header;
        MacAddr([a, b, c, d, e, f])
    }

    /// Source address.
    #[inline]
    pub const fn source(&self) -> MacAddr {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.header;
        MacAddr([a, b, c, d, e, f])
    }

    /// EtherType, or a length below 0x0600. A VLAN tag shows as 0x8100.
    #[inline]
    pub const fn ether_type(&self) -> u16 {
        let [.., a, b] = *self.header;
        u16::from_be_bytes([a, b])
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or_default()
    }

    /// Whether both addresses and the type are zero: a frame that an overlay sends on its own
    /// account, never one of a container.
    #[inline]
    pub fn is_special(&self) -> bool {
        *self.header == [0; HEADER_LEN]
    }

    /// The IPv4 packet that follows the header directly, if it is well formed.
    #[inline]
    pub fn ipv4(&self) -> Option<Ipv4<'a>> {
        if self.ether_type() == ETHERTYPE_IPV4 {
            Ipv4::new_checked(self.payload())
        } else {
            None
        }
    }
}

/// A whole IPv4 packet: version 4, the header and all of the stated length are there.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4<'a> {
    fixed: &'a [u8; IPV4_MIN_HEADER_LEN],
    header: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// A view of the packet at the front of `bytes`; padding behind it is left out.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Option<Self> {
        let fixed: &[u8; IPV4_MIN_HEADER_LEN] = bytes.first_chunk()?;
        let [first, _, total_high, total_low, ..] = *fixed;
        let header_len = usize::from(first & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([total_high, total_low]));
        if first >> 4 != 4 || header_len < IPV4_MIN_HEADER_LEN {
            return None;
        }
        let (header, payload) = bytes.get(..total_len)?.split_at_checked(header_len)?;
        Some(Self {
            fixed,
            header,
            payload,
        })
    }

    /// The header with its options.
    #[inline]
    pub const fn header(&self) -> &'a [u8] {
        self.header
    }

    /// What follows the header, without padding.
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Type of service, with the ECN bits.
    #[inline]
    pub const fn tos(&self) -> u8 {
        let [_, tos, ..] = *self.fixed;
        tos
    }

    #[inline]
    const fn flags_and_offset(&self) -> u16 {
        let [_, _, _, _, _, _, high, low, ..] = *self.fixed;
        u16::from_be_bytes([high, low])
    }

    /// Whether routers must not fragment the packet.
    #[inline]
    pub const fn dont_fragment(&self) -> bool {
        self.flags_and_offset() & 0x4000 != 0
    }

    /// Whether another fragment follows this one.
    #[inline]
    pub const fn more_fragments(&self) -> bool {
        self.flags_and_offset() & 0x2000 != 0
    }

    /// Where the payload stands in the unfragmented packet's, in units of 8 bytes.
    #[inline]
    pub const fn fragment_offset(&self) -> u16 {
        self.flags_and_offset() & 0x1fff
    }

    /// Source address.
    #[inline]
    pub const fn source(&self) -> [u8; 4] {
        let [.., a, b, c, d, _, _, _, _] = *self.fixed;
        [a, b, c, d]
    }

    /// Destination address.
    #[inline]
    pub const fn destination(&self) -> [u8; 4] {
        let [.., a, b, c, d] = *self.fixed;
        [a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ether_type: [u8; 2], payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 0xb, 2, 0, 0, 0, 0, 0xa];
        bytes.extend(ether_type);
        bytes.extend(payload);
        bytes
    }

    fn packet(first: u8, total_len: u16, flags: u16, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        bytes[0] = first;
        bytes[1] = 0x28;
        bytes[2..4].copy_from_slice(&total_len.to_be_bytes());
        bytes[6..8].copy_from_slice(&flags.to_be_bytes());
        bytes[12..16].copy_from_slice(&[10, 2, 0, 1]);
        bytes[16..20].copy_from_slice(&[10, 2, 1, 2]);
        bytes
    }

    #[test]
    fn header_fields() {
        for len in 0..HEADER_LEN {
            assert_eq!(
                Frame::new_checked(&vec![0; len]).unwrap_err(),
                TooShort(len)
            );
        }
        let bytes = frame([0x86, 0xdd], &[1, 2, 3]);
        let view = Frame::new_checked(&bytes).unwrap();
        assert_eq!(view.destination(), MacAddr([2, 0, 0, 0, 0, 0xb]));
        assert_eq!(view.source(), MacAddr([2, 0, 0, 0, 0, 0xa]));
        assert_eq!(view.ether_type(), 0x86dd);
        assert_eq!(view.payload(), [1, 2, 3]);
        assert!(!view.is_special() && view.ipv4().is_none());
        assert!(Frame::new_checked(&[0; 14]).unwrap().is_special());
        assert!(Frame::new_checked(&[0; 99]).unwrap().is_special());
    }

    #[test]
    fn ipv4_fields() {
        let bytes = frame([8, 0], &packet(0x46, 30, 0x6123, 46));
        let ip = Frame::new_checked(&bytes).unwrap().ipv4().unwrap();
        assert!(ip.dont_fragment() && ip.more_fragments());
        assert_eq!(ip.fragment_offset(), 0x123);
        assert_eq!(ip.tos(), 0x28);
        assert_eq!((ip.header().len(), ip.payload().len()), (24, 6));
        assert_eq!(
            (ip.source(), ip.destination()),
            ([10, 2, 0, 1], [10, 2, 1, 2])
        );
    }

    #[test]
    fn malformed_ipv4_is_not_ipv4() {
        for (first, total_len, len) in [
            (0x45, 20, 19),
            (0x65, 20, 20),
            (0x44, 20, 20),
            (0x46, 20, 40),
            (0x4f, 40, 40),
            (0x45, 41, 40),
            (0x45, 0, 40),
        ] {
            let mut bytes = packet(first, total_len, 0x4000, len.max(20));
            bytes.truncate(len);
            assert!(
                Ipv4::new_checked(&bytes).is_none(),
                "{first:x} {total_len} {len}"
            );
        }
        let tagged = frame([0x81, 0], &packet(0x45, 20, 0, 20));
        assert!(Frame::new_checked(&tagged).unwrap().ipv4().is_none());
    }
}
