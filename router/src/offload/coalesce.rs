//! Joining received frames to super-frames, without copying their payload.
//!
//! Frames of one flow that follow each other are joined if cutting the result gives the same frames
//! back: equal headers but for what segmentation counts on, every payload but the last of the same
//! length. What must stay visible keeps frames apart:
//!
//! | | joined only if |
//! |---|---|
//! | Ethernet | addresses are equal; no VLAN tag |
//! | IPv4 | 20 bytes of header with a right checksum, equal TOS (with ECN), TTL and DF; no fragment; identification counts on, or stays with DF set, where it means nothing (RFC 6864) |
//! | IPv6 | equal traffic class (with ECN), flow label and hop limit; no extension header |
//! | TCP | next sequence number; equal acknowledgement, window and options, timestamps among them; no flag but ACK; PSH ends the super-frame |
//! | UDP | there is a checksum |
//! | all | the checksum is right, or partial; nothing behind the packet |
//!
//! A right checksum of a joined frame is replaced by a partial one, so each is verified before; one
//! that is wrong goes on alone as it is, for the receiver to count.
//!
//! The order within a flow stays. Frames of different flows may overtake each other within one
//! batch, by at most [`MAX_FLOWS`]; anything that is neither TCP nor UDP is overtaken by nothing.
//!
//! Source: Linux, `tcp_offload.c`, `udp_offload.c` and `af_inet.c`.

use std::ops::Range;

use super::checksum::Sum;
use super::headers::{Layout, Transport, pseudo_header, u16_at, u32_at};
use super::{Checksum, Delivery, Gso, GsoKind, Offload};
use crate::wire::ethernet::{HEADER_LEN, IPV4_MIN_HEADER_LEN};

/// Flows in which frames may wait for more of their batch.
pub const MAX_FLOWS: usize = 8;
/// Frames in one super-frame. The kernel cuts UDP into this many at most.
pub const MAX_JOINED: usize = 64;
/// Bytes of a joined IP packet.
const MAX_PACKET_LEN: usize = 65535;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// What goes to the device in one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined<'a> {
    /// What is left to do for it.
    pub offload: Offload,
    /// Bytes of all its headers, if it is a super-frame.
    pub header_len: u16,
    /// Where its parts stand in the buffer, in order: the first frame, then payloads.
    pub parts: &'a [Range<usize>],
}

impl Joined<'_> {
    /// Bytes of the frame.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.parts.iter().map(Range::len).sum()
    }
}

/// Joins what is delivered in one batch.
#[derive(Debug)]
pub struct Coalescer {
    /// Whether the device takes UDP.
    udp: bool,
    pending: Vec<Pending>,
    /// Lists to be reused.
    spare: Vec<Vec<Range<usize>>>,
}

/// A frame that could be joined with others.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    layout: Layout,
    /// Where the frame begins in the buffer.
    at: usize,
    checksum: Checksum,
    payload_len: usize,
    /// Identification of IPv4, else 0.
    id: u16,
    /// Sequence number of TCP, else 0.
    sequence: u32,
    is_pushed: bool,
    /// What an equal flow has equal, among others: the ports.
    ports: u32,
}

/// The beginning of a super-frame, or a single frame.
#[derive(Debug)]
struct Pending {
    first: Candidate,
    /// Whether the checksum of the first is known to be right.
    verified: bool,
    /// Whether identifications count on; not known before the second frame.
    id_step: Option<u16>,
    /// Bytes of the packet joined so far.
    packet_len: usize,
    /// What would be the next sequence number.
    sequence: u32,
    /// Whether the last frame had the flag PSH.
    is_pushed: bool,
    /// Whether the last frame was a shorter one.
    is_ended: bool,
    parts: Vec<Range<usize>>,
}

impl Coalescer {
    /// For a device that takes super-frames of TCP, and with `udp` of UDP.
    #[must_use]
    pub const fn new(udp: bool) -> Self {
        Self {
            udp,
            pending: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Joins the frames that stand in `buffer`, and hands each result to `emit`, which finds its
    /// parts in the bytes beside it. Headers of super-frames are written over those of their first
    /// frame.
    pub fn join(
        &mut self,
        buffer: &mut [u8],
        deliveries: &[Delivery],
        mut emit: impl FnMut(&[u8], &Joined<'_>),
    ) {
        for delivery in deliveries {
            let Some(frame) = buffer.get(delivery.range.clone()) else {
                continue;
            };
            // Alone in its batch: nothing to find out.
            let layout = if deliveries.len() == 1 {
                None
            } else {
                Layout::parse(frame)
            };
            let Some(layout) = layout else {
                self.flush(buffer, &mut emit);
                emit_single(buffer, delivery, &mut emit);
                continue;
            };
            let candidate = Candidate::new(frame, layout, delivery, self.udp);
            let ports = u32_at(frame, layout.start).unwrap_or_default();
            let same = self
                .pending
                .iter()
                .position(|pending| pending.is_flow(buffer, ports, &layout, delivery.range.start));
            if let (Some(index), Some(candidate)) = (same, &candidate)
                && let Some(pending) = self.pending.get_mut(index)
                && pending.join(buffer, candidate)
            {
                if pending.is_full() {
                    self.emit(index, buffer, &mut emit);
                }
                continue;
            }
            if let Some(index) = same {
                self.emit(index, buffer, &mut emit);
            }
            match candidate {
                Some(candidate) if !candidate.is_pushed => {
                    if self.pending.len() == MAX_FLOWS {
                        self.emit(0, buffer, &mut emit);
                    }
                    let parts = self.spare.pop().unwrap_or_default();
                    self.pending.push(Pending::new(candidate, delivery, parts));
                }
                _ => emit_single(buffer, delivery, &mut emit),
            }
        }
        self.flush(buffer, &mut emit);
    }

    fn flush(&mut self, buffer: &mut [u8], emit: &mut impl FnMut(&[u8], &Joined<'_>)) {
        while !self.pending.is_empty() {
            self.emit(0, buffer, emit);
        }
    }

    fn emit(&mut self, index: usize, buffer: &mut [u8], emit: &mut impl FnMut(&[u8], &Joined<'_>)) {
        let mut pending = self.pending.remove(index);
        let joined = pending.finish(buffer);
        emit(buffer, &joined);
        pending.parts.clear();
        self.spare.push(pending.parts);
    }
}

fn emit_single(buffer: &[u8], delivery: &Delivery, emit: &mut impl FnMut(&[u8], &Joined<'_>)) {
    emit(
        buffer,
        &Joined {
            offload: Offload::single(delivery.checksum),
            header_len: 0,
            parts: std::slice::from_ref(&delivery.range),
        },
    );
}

impl Candidate {
    /// If the frame can be joined with others at all.
    fn new(frame: &[u8], layout: Layout, delivery: &Delivery, udp: bool) -> Option<Self> {
        let payload_len = layout.end - layout.payload;
        if layout.network != HEADER_LEN || payload_len == 0 || layout.end != frame.len() {
            return None;
        }
        let expected = Checksum::Partial {
            start: u16::try_from(layout.start).ok()?,
            offset: u16::try_from(layout.transport.field()).ok()?,
        };
        if delivery.checksum != Checksum::Complete && delivery.checksum != expected {
            return None;
        }
        let mut id = 0;
        if !layout.is_ipv6 {
            let header: &[u8; IPV4_MIN_HEADER_LEN] =
                frame.get(layout.network..layout.start)?.try_into().ok()?;
            // The reserved bit would get lost.
            if header[6] & 0x80 != 0 || Sum::ZERO.with(header).finish() != [0, 0] {
                return None;
            }
            id = u16::from_be_bytes([header[4], header[5]]);
        }
        let mut candidate = Self {
            layout,
            at: delivery.range.start,
            checksum: delivery.checksum,
            payload_len,
            id,
            sequence: 0,
            is_pushed: false,
            ports: u32_at(frame, layout.start)?,
        };
        match layout.transport {
            Transport::Tcp => {
                let header: &[u8; 20] = frame.get(layout.start..)?.first_chunk()?;
                let [
                    _,
                    _,
                    _,
                    _,
                    a,
                    b,
                    c,
                    d,
                    _,
                    _,
                    _,
                    _,
                    offset,
                    flags,
                    _,
                    _,
                    _,
                    _,
                    urgent @ ..,
                ] = *header;
                if offset & 0x0f != 0 || flags & !PSH != ACK || urgent != [0, 0] {
                    return None;
                }
                candidate.sequence = u32::from_be_bytes([a, b, c, d]);
                candidate.is_pushed = flags & PSH != 0;
            }
            Transport::Udp => {
                let udp_len = u16_at(frame, layout.start + 4)?;
                if !udp
                    || usize::from(udp_len) != layout.end - layout.start
                    || u16_at(frame, layout.start + 6)? == 0
                        && delivery.checksum == Checksum::Complete
                {
                    return None;
                }
            }
        }
        Some(candidate)
    }

    /// The part of the frame in the buffer.
    fn part<'a>(&self, buffer: &'a [u8], range: Range<usize>) -> &'a [u8] {
        buffer
            .get(self.at + range.start..self.at + range.end)
            .unwrap_or_default()
    }

    /// What the next frame of the flow has as its sequence number.
    fn next_sequence(&self) -> u32 {
        match self.layout.transport {
            Transport::Tcp => {
                let len = u32::try_from(self.payload_len).unwrap_or_default();
                self.sequence.wrapping_add(len)
            }
            Transport::Udp => 0,
        }
    }

    fn is_right(&self, buffer: &[u8]) -> bool {
        self.checksum != Checksum::Complete
            || self.layout.verify(self.part(buffer, 0..self.layout.end))
    }
}

impl Pending {
    fn new(first: Candidate, delivery: &Delivery, mut parts: Vec<Range<usize>>) -> Self {
        parts.push(delivery.range.clone());
        Self {
            first,
            verified: false,
            id_step: None,
            packet_len: first.layout.end - first.layout.network,
            sequence: first.next_sequence(),
            is_pushed: false,
            is_ended: false,
            parts,
        }
    }

    /// Whether a frame at `at` is of the same flow.
    #[inline]
    fn is_flow(&self, buffer: &[u8], ports: u32, layout: &Layout, at: usize) -> bool {
        let ours = &self.first.layout;
        let addresses = |layout: &Layout, at: usize| {
            let start = layout.network + if layout.is_ipv6 { 8 } else { 12 };
            let len = if layout.is_ipv6 { 32 } else { 8 };
            buffer.get(at + start..at + start + len)
        };
        self.first.ports == ports
            && (ours.transport, ours.is_ipv6, ours.network)
                == (layout.transport, layout.is_ipv6, layout.network)
            && addresses(ours, self.first.at) == addresses(layout, at)
    }

    /// Joins the next frame of the flow, unless it has to stay apart.
    #[inline]
    fn join(&mut self, buffer: &[u8], next: &Candidate) -> bool {
        let first = &self.first;
        if (first.layout.start, first.layout.payload) != (next.layout.start, next.layout.payload)
            || first.payload_len < next.payload_len
            || self.sequence != next.sequence
            || self.packet_len + next.payload_len > MAX_PACKET_LEN
        {
            return false;
        }
        let same = |range: Range<usize>| {
            first.part(buffer, range.clone()) == next.part(buffer, range.clone())
        };
        let (network, start) = (first.layout.network, first.layout.start);
        let ip_same = if first.layout.is_ipv6 {
            // Version, traffic class and flow label; next header and hop limit.
            same(network..network + 4) && same(network + 6..network + 8)
        } else {
            let step = next.id.wrapping_sub(first.id);
            let counted = u16::try_from(self.parts.len()).unwrap_or_default();
            let dont_fragment = first
                .part(buffer, network + 6..network + 7)
                .first()
                .is_some_and(|flags| flags & 0x40 != 0);
            let step_same = match self.id_step {
                None if step == 0 && dont_fragment => 0,
                Some(0) if step == 0 => 0,
                None | Some(1) if step == counted => 1,
                _ => return false,
            };
            self.id_step = Some(step_same);
            // Version and length, TOS; flags, offset, TTL and protocol.
            same(network..network + 2) && same(network + 6..network + 10)
        };
        let transport_same = match first.layout.transport {
            // Acknowledgement and offset; window; options.
            Transport::Tcp => {
                same(start + 8..start + 13)
                    && same(start + 14..start + 16)
                    && same(start + 20..first.layout.payload)
            }
            Transport::Udp => true,
        };
        if !(ip_same && transport_same && same(0..HEADER_LEN)) {
            return false;
        }
        if !self.verified && !first.is_right(buffer) || !next.is_right(buffer) {
            return false;
        }
        self.verified = true;
        let payload = next.at + next.layout.payload..next.at + next.layout.end;
        self.parts.push(payload);
        self.packet_len += next.payload_len;
        self.sequence = next.next_sequence();
        self.is_pushed = next.is_pushed;
        self.is_ended = next.payload_len < first.payload_len;
        true
    }

    /// Whether nothing can follow.
    fn is_full(&self) -> bool {
        self.is_pushed || self.is_ended || self.parts.len() == MAX_JOINED
    }

    /// Writes the headers of the super-frame.
    fn finish(&mut self, buffer: &mut [u8]) -> Joined<'_> {
        let header_len = self.first.layout.payload;
        let single = Joined {
            offload: Offload::single(self.first.checksum),
            header_len: 0,
            parts: &self.parts,
        };
        if self.parts.len() < 2 {
            return single;
        }
        match self.rewrite(buffer) {
            Some(offload) => Joined {
                offload,
                header_len: u16::try_from(header_len).unwrap_or_default(),
                parts: &self.parts,
            },
            // Cannot be: all of it was checked before.
            None => single,
        }
    }

    fn rewrite(&self, buffer: &mut [u8]) -> Option<Offload> {
        let layout = &self.first.layout;
        let len: usize = self.parts.iter().map(Range::len).sum();
        let len = u16::try_from(len - layout.start).ok()?;
        let frame = buffer.get_mut(self.first.at..)?;
        let pseudo = pseudo_header(frame, layout.network, layout.is_ipv6, layout.transport)?;
        let (before, transport) = frame.split_at_mut_checked(layout.start)?;
        let ip = before.get_mut(layout.network..)?;
        if layout.is_ipv6 {
            *ip.get_mut(4..6)?.first_chunk_mut()? = len.to_be_bytes();
        } else {
            let total_len = len.checked_add(u16::try_from(ip.len()).ok()?)?;
            let fixed: &mut [u8; IPV4_MIN_HEADER_LEN] = ip.first_chunk_mut()?;
            [fixed[2], fixed[3]] = total_len.to_be_bytes();
            [fixed[10], fixed[11]] = [0, 0];
            [fixed[10], fixed[11]] = Sum::ZERO.with(&fixed[..]).finish();
        }
        let kind = match (layout.transport, layout.is_ipv6) {
            (Transport::Tcp, false) => GsoKind::Tcp4,
            (Transport::Tcp, true) => GsoKind::Tcp6,
            (Transport::Udp, _) => GsoKind::Udp,
        };
        match layout.transport {
            Transport::Tcp if self.is_pushed => *transport.get_mut(13)? |= PSH,
            Transport::Tcp => {}
            Transport::Udp => {
                *transport.get_mut(4..6)?.first_chunk_mut()? = len.to_be_bytes();
            }
        }
        let field = layout.transport.field();
        *transport.get_mut(field..)?.first_chunk_mut()? = pseudo.with_u16(len).fold();
        Some(Offload {
            checksum: Checksum::Partial {
                start: u16::try_from(layout.start).ok()?,
                offset: u16::try_from(field).ok()?,
            },
            gso: Some(Gso {
                kind,
                size: u16::try_from(self.first.payload_len).ok()?,
                ecn: false,
            }),
        })
    }
}

#[cfg(test)]
mod tests;
