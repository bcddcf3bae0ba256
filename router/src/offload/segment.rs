//! Cutting super-frames into frames of at most one packet.
//!
//! Each piece gets a copy of all headers with what differs from segment to segment:
//!
//! ```text
//! IPv4   total length, identification counted on, header checksum
//! IPv6   payload length
//! TCP    sequence number counted on; FIN and PSH on the last only, CWR on the first only
//! UDP    length
//! both   the checksum: complete, or the pseudo-header's sum for the new length
//! ```
//!
//! The payload is not copied. Frames come from the local bridge, so what does not add up is refused,
//! not trusted. Source: Linux, `tcp_offload.c` and `udp_offload.c`, whose results these are.

use thiserror::Error;

use super::checksum::{Sum, for_udp};
use super::headers::{
    IPV6_HEADER_LEN, Layout, Transport, UDP_HEADER_LEN, network, pseudo_header, tcp_header_len,
    u16_at, u32_at,
};
use super::{Checksum, GsoKind, Offload, Piece};
use crate::wire::ethernet::{HEADER_LEN, IPV4_MIN_HEADER_LEN};

/// Longest headers that can be rewritten: two VLAN tags, IPv4 and TCP with all options, or IPv6
/// with extensions, and some more.
pub const MAX_HEADERS_LEN: usize = 256;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The frame is not what its [`Offload`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a frame is not what its offload header says")]
pub struct Mismatch;

/// What the checksums of the pieces shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Complete.
    Complete,
    /// Partial ones may stay so.
    AsIs,
}

/// How the headers of a super-frame are rewritten.
#[derive(Debug, Clone, Copy)]
struct Cut {
    network: usize,
    is_ipv6: bool,
    start: usize,
    transport: Transport,
    /// Sum of the pseudo-header without the length.
    pseudo: Sum,
    /// Sum of the IPv4 header without length, identification and checksum.
    ip_sum: Sum,
    id: u16,
    sequence: u32,
    /// Byte 13 of the TCP header.
    flags: u8,
    size: usize,
    /// Payload bytes of the pieces before.
    done_len: usize,
    done_count: u16,
}

/// The pieces of a frame, one after the other. A frame that is no super-frame is a single one.
#[derive(Debug)]
pub struct Segments<'a> {
    head: [u8; MAX_HEADERS_LEN],
    head_len: usize,
    /// What is left to hand out.
    body: &'a [u8],
    /// `None`: the only piece is ready.
    cut: Option<Cut>,
    wanted: Wanted,
    checksum: Checksum,
    more: bool,
}

impl<'a> Segments<'a> {
    /// Prepares the pieces of `frame`, of which `offload` is true.
    #[inline]
    pub fn new(frame: &'a [u8], offload: &Offload, wanted: Wanted) -> Result<Self, Mismatch> {
        let mut segments = Self {
            head: [0; MAX_HEADERS_LEN],
            head_len: 0,
            body: frame,
            cut: None,
            wanted,
            checksum: offload.checksum,
            more: true,
        };
        match (offload.gso, offload.checksum) {
            (None, Checksum::Partial { start, offset }) => {
                segments.prepare_single(frame, start, offset)?;
            }
            (None, Checksum::Complete) => {}
            (Some(gso), checksum) => {
                let cut = Cut::new(frame, gso.kind, usize::from(gso.size.max(1)), checksum)?;
                segments.prepare_cut(frame, cut)?;
            }
        }
        Ok(segments)
    }

    fn prepare_single(&mut self, frame: &'a [u8], start: u16, offset: u16) -> Result<(), Mismatch> {
        let (start, offset) = (usize::from(start), usize::from(offset));
        let field = start + offset;
        let (head, body) = frame.split_at_checked(field + 2).ok_or(Mismatch)?;
        if self.wanted == Wanted::AsIs {
            return Ok(());
        }
        let place = self.head.get_mut(..head.len()).ok_or(Mismatch)?;
        place.copy_from_slice(head);
        let sum = Sum::ZERO.with(frame.get(start..).ok_or(Mismatch)?);
        let field = place.get_mut(field..).ok_or(Mismatch)?;
        field.copy_from_slice(&for_udp(sum.finish(), offset));
        self.head_len = head.len();
        self.body = body;
        self.checksum = Checksum::Complete;
        Ok(())
    }

    fn prepare_cut(&mut self, frame: &'a [u8], cut: Cut) -> Result<(), Mismatch> {
        let header_len = match cut.transport {
            Transport::Tcp => tcp_header_len(frame, cut.start).ok_or(Mismatch)?,
            Transport::Udp => UDP_HEADER_LEN,
        };
        let (head, body) = frame
            .split_at_checked(cut.start + header_len)
            .ok_or(Mismatch)?;
        let place = self.head.get_mut(..head.len()).ok_or(Mismatch)?;
        place.copy_from_slice(head);
        // Counted as part of the header in every piece.
        let field = cut.start + cut.transport.field();
        if let Some(field) = place.get_mut(field..).and_then(<[u8]>::first_chunk_mut) {
            *field = [0, 0];
        }
        self.head_len = head.len();
        self.body = body;
        self.checksum = match self.wanted {
            Wanted::Complete => Checksum::Complete,
            Wanted::AsIs => Checksum::Partial {
                start: u16::try_from(cut.start).map_err(|_| Mismatch)?,
                offset: u16::try_from(cut.transport.field()).map_err(|_| Mismatch)?,
            },
        };
        self.cut = Some(cut);
        Ok(())
    }

    /// Bytes of the longest piece that is left.
    #[inline]
    #[must_use]
    pub fn longest(&self) -> usize {
        let size = self.cut.as_ref().map_or(usize::MAX, |cut| cut.size);
        self.head_len + self.body.len().min(size)
    }

    /// The next piece.
    #[inline]
    #[expect(
        clippy::should_implement_trait,
        reason = "pieces borrow from here, which an iterator's items cannot"
    )]
    pub fn next(&mut self) -> Option<Piece<'_>> {
        if !std::mem::replace(&mut self.more, false) {
            return None;
        }
        let mut body = self.body;
        if let Some(cut) = &mut self.cut {
            let rest;
            (body, rest) = self.body.split_at(self.body.len().min(cut.size));
            self.body = rest;
            self.more = !rest.is_empty();
            let head = self.head.get_mut(..self.head_len)?;
            cut.rewrite(head, body, self.more, self.wanted)?;
        }
        Some(Piece {
            head: self.head.get(..self.head_len)?,
            body,
            checksum: self.checksum,
        })
    }
}

impl Cut {
    fn new(frame: &[u8], kind: GsoKind, size: usize, checksum: Checksum) -> Result<Self, Mismatch> {
        let transport = Transport::of(kind);
        let (network, is_ipv6) = network(frame).ok_or(Mismatch)?;
        match (kind, is_ipv6) {
            (GsoKind::Tcp4, false) | (GsoKind::Tcp6, true) | (GsoKind::Udp, _) => {}
            _ => return Err(Mismatch),
        }
        let (start, pseudo) = match checksum {
            // The header's sum has the right addresses even behind an IPv6 routing header.
            Checksum::Partial { start, offset } => {
                let (start, field) = (usize::from(start), transport.field());
                let len = frame.len().checked_sub(start).ok_or(Mismatch)?;
                let len = u16::try_from(len).map_err(|_| Mismatch)?;
                let sum = u16_at(frame, start + field).ok_or(Mismatch)?;
                if usize::from(offset) != field {
                    return Err(Mismatch);
                }
                (start, Sum::ZERO.with_u16(sum).without_u16(len))
            }
            Checksum::Complete => {
                let layout = Layout::parse(frame).ok_or(Mismatch)?;
                if layout.transport != transport {
                    return Err(Mismatch);
                }
                let pseudo = pseudo_header(frame, network, is_ipv6, transport);
                (layout.start, pseudo.ok_or(Mismatch)?)
            }
        };
        let mut ip_sum = Sum::ZERO;
        let mut id = 0;
        if is_ipv6 {
            if start < network + IPV6_HEADER_LEN {
                return Err(Mismatch);
            }
        } else {
            let header = frame.get(network..start).ok_or(Mismatch)?;
            let fixed: &[u8; IPV4_MIN_HEADER_LEN] = header.first_chunk().ok_or(Mismatch)?;
            if usize::from(fixed[0] & 0x0f) * 4 != header.len() || fixed[9] != transport.number() {
                return Err(Mismatch);
            }
            let [
                _,
                _,
                len_high,
                len_low,
                id_high,
                id_low,
                _,
                _,
                _,
                _,
                sum_high,
                sum_low,
                ..,
            ] = *fixed;
            id = u16::from_be_bytes([id_high, id_low]);
            ip_sum = Sum::ZERO
                .with(header)
                .without_u16(u16::from_be_bytes([len_high, len_low]))
                .without_u16(id)
                .without_u16(u16::from_be_bytes([sum_high, sum_low]));
        }
        let (sequence, flags) = match transport {
            Transport::Tcp => (
                u32_at(frame, start + 4).ok_or(Mismatch)?,
                *frame.get(start + 13).ok_or(Mismatch)?,
            ),
            Transport::Udp => (0, 0),
        };
        Ok(Self {
            network,
            is_ipv6,
            start,
            transport,
            pseudo,
            ip_sum,
            id,
            sequence,
            flags,
            size,
            done_len: 0,
            done_count: 0,
        })
    }

    /// Makes the headers those of the next piece. They were checked to be there.
    #[inline]
    fn rewrite(&mut self, head: &mut [u8], body: &[u8], more: bool, wanted: Wanted) -> Option<()> {
        let len = u16::try_from(head.len() - self.start + body.len()).ok()?;
        let (before, transport) = head.split_at_mut_checked(self.start)?;
        let ip = before.get_mut(self.network..)?;
        if self.is_ipv6 {
            let extensions = u16::try_from(ip.len() - IPV6_HEADER_LEN).ok()?;
            let field = ip.get_mut(4..6)?.first_chunk_mut()?;
            *field = len.checked_add(extensions)?.to_be_bytes();
        } else {
            let total_len = len.checked_add(u16::try_from(ip.len()).ok()?)?;
            let id = self.id.wrapping_add(self.done_count);
            let sum = self.ip_sum.with_u16(total_len).with_u16(id).finish();
            let fixed: &mut [u8; IPV4_MIN_HEADER_LEN] = ip.first_chunk_mut()?;
            [fixed[2], fixed[3]] = total_len.to_be_bytes();
            [fixed[4], fixed[5]] = id.to_be_bytes();
            [fixed[10], fixed[11]] = sum;
        }
        let pseudo = self.pseudo.with_u16(len);
        let field = self.transport.field();
        match self.transport {
            Transport::Tcp => {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "a super-frame has less than 4 GB"
                )]
                let sequence = self.sequence.wrapping_add(self.done_len as u32);
                *transport.get_mut(4..8)?.first_chunk_mut()? = sequence.to_be_bytes();
                let mut flags = self.flags;
                if more {
                    flags &= !(FIN | PSH);
                }
                if self.done_count > 0 {
                    flags &= !CWR;
                }
                *transport.get_mut(13)? = flags;
            }
            Transport::Udp => {
                *transport.get_mut(4..6)?.first_chunk_mut()? = len.to_be_bytes();
            }
        }
        let place = transport.get_mut(field..field + 2)?;
        place.copy_from_slice(&[0, 0]);
        let sum = match wanted {
            Wanted::AsIs => pseudo.fold(),
            // The header has an even length, so the payload's words follow on.
            Wanted::Complete => {
                let sum = pseudo.with(transport).with(body).finish();
                for_udp(sum, field)
            }
        };
        transport.get_mut(field..field + 2)?.copy_from_slice(&sum);
        self.done_len += body.len();
        self.done_count = self.done_count.wrapping_add(1);
        Some(())
    }
}

const _: () = assert!(MAX_HEADERS_LEN >= HEADER_LEN + 8 + 60 + 60);

#[cfg(test)]
mod tests;
