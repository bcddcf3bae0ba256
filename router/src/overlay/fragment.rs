//! Frames that are too long for a link: ICMP "fragmentation needed", ICMPv6 "packet too big", and our
//! own IPv4 fragments.
//!
//! ```text
//! answer   Ethernet, addresses swapped | IPv4, 20 bytes | ICMP 3/4, 8 bytes with the MTU
//!          original IPv4 header with options | 8 bytes of its payload
//!          Ethernet, addresses swapped | IPv6, 40 bytes | ICMPv6 2/0, 8 bytes with the MTU
//!          original packet as far as 1280 bytes go
//! fragment Ethernet | IPv4 header with all options | part of the payload | zeros up to 60 bytes
//! ```
//!
//! Source: Weave data plane, sections 6.1 and 6.2; RFC 792 and RFC 1191; RFC 791, section 2.3;
//! RFC 4443, sections 2.4 and 3.2; RFC 8200, section 5.

use etherparse::checksum::Sum16BitWords;
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{
    Ethernet2Header, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpDscp, IpEcn,
    IpFragOffset, IpNumber, Ipv4Header, Ipv6Header,
};

use crate::wire::ethernet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, HEADER_LEN, Ipv4, MIN_FRAME_LEN,
};

/// Bytes of the original's payload that an answer quotes.
const QUOTED_LEN: usize = 8;
const TTL: u8 = 64;

/// Every IPv6 path carries packets of this length, and an answer is no longer.
const IPV6_MIN_MTU: u16 = 1280;
const IPV6_HEADER_LEN: usize = 40;
/// ICMPv6 messages below are errors.
const FIRST_QUESTION: u8 = 128;

/// Whether a frame that is longer than `mtu` has to be made shorter by its sender, who can be told so:
/// IPv4 with DF, and IPv6. Others are for overlays that can cut them.
pub(crate) fn must_be_shorter(frame: &Frame<'_>, mtu: u16) -> bool {
    match frame.ipv4() {
        Some(ip) => ip.dont_fragment(),
        None => mtu >= IPV6_MIN_MTU && answerable(frame).is_some(),
    }
}

/// The answer to a frame that is too long for a link of this MTU, if there may be one. It says that it
/// comes from the frame's destination.
pub(crate) fn too_long_answer(frame: &Frame<'_>, mtu: u16) -> Option<Vec<u8>> {
    match frame.ipv4() {
        Some(ip) => fragmentation_needed(frame, &ip, mtu),
        None => packet_too_big(frame, mtu),
    }
}

/// The IPv6 packet in a frame, if its sender may get an answer about it: it is itself no error, and
/// both addresses are of one host.
fn answerable<'a>(frame: &Frame<'a>) -> Option<(Ipv6Header, &'a [u8])> {
    if frame.ether_type() != ETHERTYPE_IPV6 {
        return None;
    }
    let (header, rest) = Ipv6Header::from_slice(frame.payload()).ok()?;
    let rest = rest.get(..usize::from(header.payload_length))?;
    let is_error = header.next_header == IpNumber::IPV6_ICMP
        && rest.first().is_none_or(|&kind| kind < FIRST_QUESTION);
    let (source, destination) = (header.source_addr(), header.destination_addr());
    let is_of_one_host =
        !source.is_unspecified() && !source.is_multicast() && !destination.is_multicast();
    let packet = frame.payload().get(..IPV6_HEADER_LEN + rest.len())?;
    (!is_error && is_of_one_host).then_some((header, packet))
}

fn packet_too_big(frame: &Frame<'_>, mtu: u16) -> Option<Vec<u8>> {
    let (offending, packet) = answerable(frame)?;
    let room = usize::from(IPV6_MIN_MTU) - IPV6_HEADER_LEN - 8;
    let quoted = packet.get(..packet.len().min(room))?;
    let ethernet = Ethernet2Header {
        source: frame.destination().0,
        destination: frame.source().0,
        ether_type: etherparse::EtherType(ETHERTYPE_IPV6),
    };
    let header = Ipv6Header {
        payload_length: u16::try_from(8 + quoted.len()).ok()?,
        next_header: IpNumber::IPV6_ICMP,
        hop_limit: TTL,
        source: offending.destination,
        destination: offending.source,
        ..Ipv6Header::default()
    };
    let kind = Icmpv6Type::PacketTooBig { mtu: mtu.into() };
    let icmp = Icmpv6Header::with_checksum(kind, header.source, header.destination, quoted).ok()?;
    let parts = [
        &ethernet.to_bytes()[..],
        &header.to_bytes(),
        &icmp.to_bytes(),
        quoted,
    ];
    Some(parts.concat())
}

fn fragmentation_needed(frame: &Frame<'_>, ip: &Ipv4<'_>, mtu: u16) -> Option<Vec<u8>> {
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

    let parts = [
        &ethernet.to_bytes()[..],
        &header.to_bytes(),
        &icmp.to_bytes(),
        ip.header(),
        quoted,
    ];
    Some(parts.concat())
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
