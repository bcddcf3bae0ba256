//! Frames that are too long for a link: ICMP "fragmentation needed", and our own IPv4 fragments.
//!
//! ```text
//! answer   Ethernet, addresses swapped | IPv4, 20 bytes | ICMP 3/4, 8 bytes with the MTU
//!          original IPv4 header with options | 8 bytes of its payload
//! fragment Ethernet | IPv4 header with all options | part of the payload | zeros up to 60 bytes
//! ```
//!
//! Source: Weave data plane, sections 6.1 and 6.2; RFC 792 and RFC 1191; RFC 791, section 2.3.

use etherparse::checksum::Sum16BitWords;
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{
    Ethernet2Header, Icmpv4Header, Icmpv4Type, IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header,
};

use crate::wire::ethernet::{ETHERTYPE_IPV4, Frame, HEADER_LEN, Ipv4, MIN_FRAME_LEN};

/// Bytes of the original's payload that an answer quotes.
const QUOTED_LEN: usize = 8;
const TTL: u8 = 64;

/// Longest answer: all headers, with the longest quoted one.
const ANSWER_MAX: usize = HEADER_LEN + 20 + 8 + 60 + QUOTED_LEN;

/// A small frame of our own.
#[derive(Debug, Clone)]
pub(crate) struct OwnFrame {
    bytes: [u8; ANSWER_MAX],
    len: usize,
}

impl OwnFrame {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn append(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len())?;
        self.bytes.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }
}

/// The answer to a frame that may not be fragmented and is too long for a link of this MTU. It says
/// that it comes from the frame's destination.
pub(crate) fn fragmentation_needed(frame: &Frame<'_>, ip: &Ipv4<'_>, mtu: u16) -> Option<OwnFrame> {
    let quoted_len = ip.payload().len().min(QUOTED_LEN);
    let quoted = ip.payload().get(..quoted_len)?;

    let ethernet = Ethernet2Header {
        source: frame.destination().0,
        destination: frame.source().0,
        ether_type: etherparse::EtherType(ETHERTYPE_IPV4),
    };
    let mut icmp = Icmpv4Header::new(Icmpv4Type::DestinationUnreachable(
        DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu },
    ));
    // Two slices, which the checksum needs as one: the header's length is a multiple of 4.
    icmp.checksum = Sum16BitWords::new()
        .add_slice(&icmp.to_bytes())
        .add_slice(ip.header())
        .add_slice(quoted)
        .ones_complement()
        .to_be();
    let total_len = 20 + 8 + ip.header().len() + quoted.len();
    let mut header = Ipv4Header {
        dscp: IpDscp::try_new(ip.tos() >> 2).ok()?,
        ecn: IpEcn::try_new(ip.tos() & 3).ok()?,
        total_len: u16::try_from(total_len).ok()?,
        identification: 0,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: IpFragOffset::ZERO,
        time_to_live: TTL,
        protocol: IpNumber::ICMP,
        header_checksum: 0,
        source: ip.destination(),
        destination: ip.source(),
        ..Ipv4Header::default()
    };
    header.header_checksum = header.calc_header_checksum();

    let mut answer = OwnFrame {
        bytes: [0; ANSWER_MAX],
        len: 0,
    };
    answer.append(&ethernet.to_bytes())?;
    answer.append(&header.to_bytes())?;
    answer.append(&icmp.to_bytes())?;
    answer.append(ip.header())?;
    answer.append(quoted)?;
    Some(answer)
}

/// Cuts a frame into fragments that fit `mtu` and gives each to `emit`, built in `scratch`. Returns
/// false if the MTU leaves no room for a payload, or if the offset would not fit its field.
pub(crate) fn fragment(
    frame: &Frame<'_>,
    ip: &Ipv4<'_>,
    mtu: u16,
    scratch: &mut Vec<u8>,
    mut emit: impl FnMut(&[u8]),
) -> bool {
    let header_len = ip.header().len();
    let part_len = usize::from(mtu).saturating_sub(header_len) & !7;
    let Some((ethernet, _)) = frame.bytes().split_at_checked(HEADER_LEN) else {
        return false;
    };
    let end = usize::from(ip.fragment_offset()) * 8 + ip.payload().len();
    if part_len == 0 || end > usize::from(u16::MAX) {
        return false;
    }
    let count = ip.payload().len().div_ceil(part_len);
    for (index, part) in ip.payload().chunks(part_len).enumerate() {
        let offset = usize::from(ip.fragment_offset()) + index * part_len / 8;
        let is_last = index + 1 == count;
        scratch.clear();
        scratch.extend_from_slice(ethernet);
        scratch.extend_from_slice(ip.header());
        if let Some(header) = scratch.get_mut(HEADER_LEN..) {
            let more_fragments = !is_last || ip.more_fragments();
            rewrite(header, header_len + part.len(), offset, more_fragments);
        }
        scratch.extend_from_slice(part);
        if scratch.len() < MIN_FRAME_LEN {
            scratch.resize(MIN_FRAME_LEN, 0);
        }
        emit(scratch);
    }
    true
}

/// Sets total length, MF and offset in an IPv4 header and renews its checksum. Lengths and offsets
/// of parts of a packet fit 16 bits.
fn rewrite(header: &mut [u8], total_len: usize, offset: usize, more_fragments: bool) {
    let Some(fixed) = header.first_chunk_mut::<20>() else {
        return;
    };
    let [offset_high, offset_low] = u16::try_from(offset).unwrap_or_default().to_be_bytes();
    [fixed[2], fixed[3]] = u16::try_from(total_len).unwrap_or_default().to_be_bytes();
    // The reserved bit stays; DF is clear in what we fragment.
    fixed[6] = (fixed[6] & 0xc0) | (u8::from(more_fragments) << 5) | (offset_high & 0x1f);
    fixed[7] = offset_low;
    fixed[10] = 0;
    fixed[11] = 0;
    let checksum = Sum16BitWords::new()
        .add_slice(header)
        .ones_complement()
        .to_ne_bytes();
    if let Some(place) = header.get_mut(10..12) {
        place.copy_from_slice(&checksum);
    }
}

#[cfg(test)]
mod tests;
