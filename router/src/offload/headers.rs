//! Where the headers of a TCP or UDP frame stand.

use super::GsoKind;
use super::checksum::{Sum, TCP_FIELD, UDP_FIELD};
use crate::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, HEADER_LEN, IPV4_MIN_HEADER_LEN};

const VLAN_TAGS: [u16; 2] = [0x8100, 0x88a8];
const VLAN_LEN: usize = 4;
const MAX_VLAN_TAGS: usize = 2;
pub(super) const IPV6_HEADER_LEN: usize = 40;
pub(super) const TCP_MIN_HEADER_LEN: usize = 20;
pub(super) const UDP_HEADER_LEN: usize = 8;

/// Protocol above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub(super) const fn of(kind: GsoKind) -> Self {
        match kind {
            GsoKind::Tcp4 | GsoKind::Tcp6 => Self::Tcp,
            GsoKind::Udp => Self::Udp,
        }
    }

    /// Where the checksum stands in its header.
    pub(super) const fn field(self) -> usize {
        match self {
            Self::Tcp => TCP_FIELD,
            Self::Udp => UDP_FIELD,
        }
    }

    /// Its number.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// A big-endian number in a frame.
#[inline]
pub(super) fn u16_at(frame: &[u8], at: usize) -> Option<u16> {
    frame
        .get(at..)?
        .first_chunk()
        .map(|bytes| u16::from_be_bytes(*bytes))
}

/// A big-endian number in a frame.
#[inline]
pub(super) fn u32_at(frame: &[u8], at: usize) -> Option<u32> {
    frame
        .get(at..)?
        .first_chunk()
        .map(|bytes| u32::from_be_bytes(*bytes))
}

/// Where the IP header begins, behind up to two VLAN tags, and whether it is one of IPv6.
#[inline]
pub(super) fn network(frame: &[u8]) -> Option<(usize, bool)> {
    let mut at = HEADER_LEN;
    for _ in 0..=MAX_VLAN_TAGS {
        match u16_at(frame, at - 2)? {
            ETHERTYPE_IPV4 => return Some((at, false)),
            ETHERTYPE_IPV6 => return Some((at, true)),
            tag if VLAN_TAGS.contains(&tag) => at += VLAN_LEN,
            _ => return None,
        }
    }
    None
}

/// The sum of addresses and protocol number, without the length.
#[inline]
pub(super) fn pseudo_header(
    frame: &[u8],
    network: usize,
    is_ipv6: bool,
    transport: Transport,
) -> Option<Sum> {
    let addresses = if is_ipv6 {
        frame.get(network + 8..network + 40)?
    } else {
        frame.get(network + 12..network + 20)?
    };
    let number = u16::from(transport.number());
    Some(Sum::ZERO.with(addresses).with_u16(number))
}

/// A whole TCP or UDP packet in a frame, no fragment, the transport header directly behind that of
/// IPv4 with its options or that of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Where the IP header begins.
    pub(super) network: usize,
    pub(super) is_ipv6: bool,
    /// Where the transport header begins.
    pub(super) start: usize,
    pub(super) transport: Transport,
    /// Where its payload begins.
    pub(super) payload: usize,
    /// Where the packet ends; padding may follow.
    pub(super) end: usize,
}

impl Layout {
    #[inline]
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let (network, is_ipv6) = network(frame)?;
        let ip = frame.get(network..)?;
        let (number, start, end) = if is_ipv6 {
            let header: &[u8; IPV6_HEADER_LEN] = ip.first_chunk()?;
            let [first, _, _, _, len_high, len_low, next, ..] = *header;
            if first >> 4 != 6 {
                return None;
            }
            let len = usize::from(u16::from_be_bytes([len_high, len_low]));
            let start = network + IPV6_HEADER_LEN;
            (next, start, start + len)
        } else {
            let header: &[u8; IPV4_MIN_HEADER_LEN] = ip.first_chunk()?;
            let [
                first,
                _,
                len_high,
                len_low,
                _,
                _,
                flags,
                offset,
                _,
                protocol,
                ..,
            ] = *header;
            let header_len = usize::from(first & 0x0f) * 4;
            // Neither more fragments nor an offset.
            if first >> 4 != 4
                || header_len < IPV4_MIN_HEADER_LEN
                || flags & 0x3f != 0
                || offset != 0
            {
                return None;
            }
            let len = usize::from(u16::from_be_bytes([len_high, len_low]));
            (protocol, network + header_len, network + len)
        };
        let packet = frame.get(..end)?;
        let (transport, payload) = match number {
            6 => (Transport::Tcp, start + tcp_header_len(packet, start)?),
            17 => (Transport::Udp, start + UDP_HEADER_LEN),
            _ => return None,
        };
        if payload > end {
            return None;
        }
        Some(Self {
            network,
            is_ipv6,
            start,
            transport,
            payload,
            end,
        })
    }

    /// Whether the complete checksum of the packet is right. One of UDP that is not there is not.
    pub(super) fn verify(&self, frame: &[u8]) -> bool {
        let verify = || {
            let packet = frame.get(self.start..self.end)?;
            let field = self.transport.field();
            if self.transport == Transport::Udp && u16_at(packet, field)? == 0 {
                return None;
            }
            let pseudo = pseudo_header(frame, self.network, self.is_ipv6, self.transport)?;
            let len = u16::try_from(packet.len()).ok()?;
            Some(pseudo.with_u16(len).with(packet).finish() == [0, 0])
        };
        verify() == Some(true)
    }
}

/// Bytes of the TCP header at `start`, all of them there.
#[inline]
pub(super) fn tcp_header_len(packet: &[u8], start: usize) -> Option<usize> {
    let header_len = usize::from(packet.get(start + 12)? >> 4) * 4;
    (header_len >= TCP_MIN_HEADER_LEN && start + header_len <= packet.len()).then_some(header_len)
}
