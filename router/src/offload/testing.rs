//! Frames for the tests of this module, built byte by byte; etherparse tells whether they are right.

use etherparse::{LaxSlicedPacket, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::headers::Layout;

/// What a frame is made of.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) vlans: Vec<u16>,
    pub(crate) is_ipv6: bool,
    pub(crate) is_udp: bool,
    /// Of IPv4; a multiple of 4.
    pub(crate) ip_options: Vec<u8>,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    /// Flags and offset of IPv4.
    pub(crate) fragment: u16,
    pub(crate) host: u8,
    pub(crate) port: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// Of TCP; a multiple of 4.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Spec {
    /// An ordinary segment.
    pub(crate) fn tcp(sequence: u32, payload_len: usize) -> Self {
        Self {
            vlans: Vec::new(),
            is_ipv6: false,
            is_udp: false,
            ip_options: Vec::new(),
            tos: 0,
            ttl: 64,
            id: 1,
            fragment: 0x4000,
            host: 1,
            port: 5001,
            sequence,
            acknowledged: 77,
            flags: 0x10,
            window: 500,
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            payload: (0..=250).cycle().take(payload_len).collect(),
        }
    }

    /// An ordinary datagram.
    pub(crate) fn udp(payload_len: usize) -> Self {
        Self {
            is_udp: true,
            ..Self::tcp(0, payload_len)
        }
    }

    /// With complete checksums.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend(self.port.to_be_bytes());
        transport.extend(80_u16.to_be_bytes());
        if self.is_udp {
            let len = u16::try_from(8 + self.payload.len()).unwrap();
            transport.extend(len.to_be_bytes());
            transport.extend([0; 2]);
        } else {
            transport.extend(self.sequence.to_be_bytes());
            transport.extend(self.acknowledged.to_be_bytes());
            transport.push(u8::try_from((20 + self.options.len()) / 4).unwrap() << 4);
            transport.push(self.flags);
            transport.extend(self.window.to_be_bytes());
            transport.extend([0; 4]);
            transport.extend(&self.options);
        }
        transport.extend(&self.payload);
        let len = u16::try_from(transport.len()).unwrap();
        let number = if self.is_udp { 17 } else { 6 };

        let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, self.host];
        for vlan in &self.vlans {
            frame.extend([0x81, 0]);
            frame.extend(vlan.to_be_bytes());
        }
        if self.is_ipv6 {
            frame.extend([0x86, 0xdd]);
            frame.extend([0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([number, self.ttl]);
            frame.extend([0xfd; 15]);
            frame.push(self.host);
            frame.extend([0xfc; 16]);
        } else {
            frame.extend([8, 0]);
            let start = frame.len();
            let header_len = 20 + u8::try_from(self.ip_options.len()).unwrap();
            frame.extend([0x40 | (header_len / 4), self.tos]);
            frame.extend((len + u16::from(header_len)).to_be_bytes());
            frame.extend(self.id.to_be_bytes());
            frame.extend(self.fragment.to_be_bytes());
            frame.extend([self.ttl, number, 0, 0]);
            frame.extend([10, 2, 0, self.host, 10, 2, 0, 99]);
            frame.extend(&self.ip_options);
            let sum = etherparse::checksum::Sum16BitWords::new()
                .add_slice(&frame[start..])
                .ones_complement();
            frame[start + 10..start + 12].copy_from_slice(&sum.to_ne_bytes());
        }
        let start = frame.len();
        frame.extend(transport);
        // A fragment has none of its own.
        if self.fragment & 0x3fff == 0 {
            let field = start + if self.is_udp { 6 } else { 16 };
            let sum = checksum(&frame);
            frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        frame
    }
}

/// The transport checksum of a frame, as etherparse calculates it.
pub(crate) fn checksum(frame: &[u8]) -> u16 {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    match (packet.net.unwrap(), packet.transport.unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
            let ip = ip.header();
            tcp.calc_checksum_ipv4(ip.source(), ip.destination())
                .unwrap()
        }
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
            let ip = ip.header();
            tcp.calc_checksum_ipv6(ip.source(), ip.destination())
                .unwrap()
        }
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            let (ip, header) = (ip.header().to_header(), udp.to_header());
            header.calc_checksum_ipv4(&ip, udp.payload()).unwrap()
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
            let (ip, header) = (ip.header().to_header(), udp.to_header());
            header.calc_checksum_ipv6(&ip, udp.payload()).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

/// Fails unless all lengths and checksums of a frame are right.
pub(crate) fn assert_right(frame: &[u8]) {
    // Fails if a length does.
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
        let header = ip.header().to_header();
        assert_eq!(header.calc_header_checksum(), header.header_checksum);
    }
    let field = match packet.transport.unwrap() {
        TransportSlice::Tcp(tcp) => tcp.checksum(),
        TransportSlice::Udp(udp) => udp.checksum(),
        other => panic!("{other:?}"),
    };
    assert_eq!(field, checksum(frame));
}

/// Where the transport header of a frame begins and where its checksum stands in it.
pub(crate) fn partial(frame: &[u8]) -> super::Checksum {
    let layout = Layout::parse(frame).unwrap();
    super::Checksum::Partial {
        start: u16::try_from(layout.start).unwrap(),
        offset: u16::try_from(layout.transport.field()).unwrap(),
    }
}

/// Leaves the checksum of a frame open.
pub(crate) fn reopen(frame: &mut [u8]) -> super::Checksum {
    let layout = Layout::parse(frame).unwrap();
    let pseudo =
        super::headers::pseudo_header(frame, layout.network, layout.is_ipv6, layout.transport);
    let len = u16::try_from(layout.end - layout.start).unwrap();
    let field = layout.start + layout.transport.field();
    let sum = pseudo.unwrap().with_u16(len).fold();
    frame[field..field + 2].copy_from_slice(&sum);
    partial(frame)
}

/// The payload of TCP or UDP.
pub(crate) fn payload(frame: &[u8]) -> &[u8] {
    let packet = LaxSlicedPacket::from_ethernet(frame).unwrap();
    match packet.transport.unwrap() {
        TransportSlice::Tcp(tcp) => tcp.payload(),
        TransportSlice::Udp(udp) => udp.payload(),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn any_spec(max_len: usize) -> impl Strategy<Value = Spec> {
    let ip = (
        prop::collection::vec(0..4096_u16, 0..3),
        any::<bool>(),
        0..=10_usize,
        any::<u8>(),
        1..=255_u8,
        any::<u16>(),
        any::<bool>(),
    );
    let tcp = (
        any::<bool>(),
        any::<u32>(),
        any::<u8>(),
        any::<u16>(),
        0..=10_usize,
        prop::collection::vec(any::<u8>(), 1..=max_len),
    );
    (ip, tcp).prop_map(|(ip, tcp)| {
        let (vlans, is_ipv6, ip_words, tos, ttl, id, df) = ip;
        let (is_udp, sequence, flags, window, words, payload) = tcp;
        Spec {
            vlans,
            is_ipv6,
            is_udp,
            ip_options: vec![1; 4 * ip_words],
            tos,
            ttl,
            id,
            fragment: if df { 0x4000 } else { 0 },
            sequence,
            flags,
            window,
            options: vec![1; 4 * words],
            payload,
            ..Spec::tcp(0, 0)
        }
    })
}
