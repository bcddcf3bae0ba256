//! Building packets: frames that are there together travel together.
//!
//! A [`Lane`] is one link's way out with the DF flag set, or with it clear. Frames are appended as
//! records to the lane's open packet as long as they fit what the path carries in one piece; the
//! first frame of a packet may be larger where the underlay fragments. Nothing ever waits to fill a
//! packet: whoever drives the lane flushes it when nothing more is at hand.
//!
//! Packets of equal length follow each other in one buffer, so that they can be handed to the
//! kernel in one piece:
//!
//! ```text
//! buffer   | sealed packet | sealed packet | .. | open packet: header, records .. |
//!            `------- segment_len each -------'   no longer than segment_len
//! ```
//!
//! Each frame is copied once, into its place, and sealed there. An open packet that outgrows the
//! packets before it moves to a new buffer; a finished one that is shorter ends the run.
//!
//! Source: Weave data plane, sections 2.1, 2.2, 2.4 and 9 (freedom of the sender).

use std::net::{IpAddr, SocketAddr};

use proto::PeerName;

use super::outbox::{BUFFER_LEN, Buffer, Outbox, Run};
use crate::LinkId;
use crate::constants::{MAX_UDP_PAYLOAD, PACKET_RECORDS, RUN_LEN};
use crate::crypto::replay::ReplayWindow;
use crate::crypto::secretbox;
use crate::crypto::session::SessionKey;
use crate::dataplane::DropReason;
use crate::wire::sleeve::{
    DF_BIT, NAME_LEN, PLAIN_HEADER_LEN, RECORD_HEADER_LEN, SEALED_HEADER_LEN, TAG_START, nonce,
    record_header,
};

/// What the packets of one link have in common.
#[derive(Debug)]
pub(crate) struct Envelope {
    link: LinkId,
    /// Source address of the datagrams, if it is not left to the kernel.
    from: Option<IpAddr>,
    name: [u8; NAME_LEN],
    key: Option<SessionKey>,
    from_dialler: bool,
}

impl Envelope {
    pub(crate) fn new(
        link: LinkId,
        ours: PeerName,
        key: Option<SessionKey>,
        from_dialler: bool,
    ) -> Self {
        Self {
            link,
            from: None,
            name: ours.to_bytes(),
            key,
            from_dialler,
        }
    }

    /// With this source address.
    pub(crate) fn sent_from(self, from: IpAddr) -> Self {
        Self {
            from: Some(from),
            ..self
        }
    }

    /// Bytes before the records of a packet.
    #[inline]
    pub(crate) const fn header_len(&self) -> usize {
        if self.key.is_some() {
            SEALED_HEADER_LEN
        } else {
            PLAIN_HEADER_LEN
        }
    }

    /// Whether packets are sealed.
    pub(crate) const fn is_sealed(&self) -> bool {
        self.key.is_some()
    }

    /// Opens a packet of the neighbour in place, if they are sealed, unless it was seen before.
    /// Returns where its records begin.
    #[inline]
    pub(crate) fn open(
        &self,
        packet: &mut [u8],
        df_window: &mut ReplayWindow,
        window: &mut ReplayWindow,
    ) -> Result<usize, DropReason> {
        let Some(key) = &self.key else {
            return if packet.len() < PLAIN_HEADER_LEN {
                Err(DropReason::DatagramTooShort)
            } else {
                Ok(PLAIN_HEADER_LEN)
            };
        };
        let (header, body) = packet
            .split_first_chunk_mut::<SEALED_HEADER_LEN>()
            .ok_or(DropReason::DatagramTooShort)?;
        let [_, _, _, _, _, _, a, b, c, d, e, f, g, h, tag @ ..] = *header;
        let word = [a, b, c, d, e, f, g, h];
        let number = u64::from_be_bytes(word);
        let (window, sequence) = if number & DF_BIT == 0 {
            (window, number)
        } else {
            (df_window, number & !DF_BIT)
        };
        if !window.is_new(sequence) {
            return Err(DropReason::Replayed);
        }
        secretbox::open_in_place(key, &nonce(!self.from_dialler, word), body, &tag)
            .map_err(|_| DropReason::NotAuthentic)?;
        window.mark(sequence);
        Ok(SEALED_HEADER_LEN)
    }

    /// Fills in the header of a packet and seals what follows it.
    #[inline]
    fn close(&self, packet: &mut [u8], word: u64) {
        let Some(key) = &self.key else {
            if let Some(name) = packet.first_chunk_mut() {
                *name = self.name;
            }
            return;
        };
        let [a, b, c, d, e, f] = self.name;
        let [g, h, i, j, k, l, m, n] = word.to_be_bytes();
        // Every packet of a link with a key was begun with room for the header.
        if let Some((header, body)) = packet.split_first_chunk_mut::<SEALED_HEADER_LEN>() {
            let word = [g, h, i, j, k, l, m, n];
            let tag = secretbox::seal_in_place(key, &nonce(self.from_dialler, word), body);
            let clear = [a, b, c, d, e, f, g, h, i, j, k, l, m, n];
            let (clear_place, tag_place) = header.split_at_mut(TAG_START);
            clear_place.copy_from_slice(&clear);
            tag_place.copy_from_slice(&tag);
        }
    }
}

/// How long a packet may become.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// With its first record.
    pub(crate) first: usize,
    /// With more: what the path carries in one piece.
    pub(crate) more: usize,
}

/// A buffer being filled.
#[derive(Debug)]
struct Filling {
    buffer: Buffer,
    /// Bytes of closed packets.
    closed_len: usize,
    closed_count: usize,
    /// Length of the first closed packet.
    segment_len: usize,
    /// Bytes of the open packet behind them; 0 if there is none.
    open_len: usize,
    open_records: usize,
}

impl Filling {
    const fn new(buffer: Buffer) -> Self {
        Self {
            buffer,
            closed_len: 0,
            closed_count: 0,
            segment_len: 0,
            open_len: 0,
            open_records: 0,
        }
    }

    /// Whether a packet that will have at least `len` bytes may begin in this buffer. If so it may
    /// also grow to the length of those before it.
    #[inline]
    fn takes(&self, len: usize) -> bool {
        self.closed_count == 0
            || (len <= self.segment_len
                && self.closed_count < RUN_LEN
                && self.closed_len + self.segment_len <= MAX_UDP_PAYLOAD)
    }

    /// Appends to the open packet. The caller has checked the length against the limits, which are
    /// within the buffer.
    #[inline]
    fn append(&mut self, header: &[u8], frame: &[u8]) {
        let start = self.closed_len + self.open_len;
        let rest = self.buffer.get_mut(start..).unwrap_or_default();
        if let Some((head, rest)) = rest.split_at_mut_checked(header.len())
            && let Some(body) = rest.get_mut(..frame.len())
        {
            head.copy_from_slice(header);
            body.copy_from_slice(frame);
            self.open_len += header.len() + frame.len();
            self.open_records += 1;
        }
    }
}

/// One link's way out with DF set, or with it clear, with a sequence of its own.
#[derive(Debug)]
pub(crate) struct Lane {
    df: bool,
    next_sequence: u64,
    filling: Option<Filling>,
}

impl Lane {
    pub(crate) const fn new(df: bool) -> Self {
        Self {
            df,
            next_sequence: 0,
            filling: None,
        }
    }

    /// Whether a flush would do anything.
    #[inline]
    pub(crate) const fn is_pending(&self) -> bool {
        self.filling.is_some()
    }

    /// Appends a record to the open packet, or opens one for it.
    #[inline]
    pub(crate) fn push(
        &mut self,
        envelope: &Envelope,
        to: SocketAddr,
        limits: Limits,
        (origin, destination): (PeerName, PeerName),
        frame: &[u8],
        outbox: &mut Outbox,
    ) -> Result<(), DropReason> {
        let frame_len = u16::try_from(frame.len()).map_err(|_| DropReason::TooBig)?;
        let header = record_header(origin, destination, frame_len);
        let record_len = RECORD_HEADER_LEN + frame.len();
        if let Some(filling) = &mut self.filling
            && filling.open_len > 0
        {
            let len = filling.open_len + record_len;
            if len <= limits.more && filling.open_records < PACKET_RECORDS {
                if filling.closed_count > 0 && len > filling.segment_len {
                    self.split(envelope, to, outbox)?;
                }
                if let Some(filling) = &mut self.filling {
                    filling.append(&header, frame);
                }
                return Ok(());
            }
            self.close(envelope, to, outbox);
        }
        self.open(envelope, to, limits, record_len, outbox)?;
        if let Some(filling) = &mut self.filling {
            filling.append(&header, frame);
        }
        Ok(())
    }

    /// Sends what is at hand.
    pub(crate) fn flush(&mut self, envelope: &Envelope, to: SocketAddr, outbox: &mut Outbox) {
        self.close(envelope, to, outbox);
        self.finish(envelope, to, outbox);
    }

    /// Begins a packet that will have room for a record of `record_len`.
    #[inline]
    fn open(
        &mut self,
        envelope: &Envelope,
        to: SocketAddr,
        limits: Limits,
        record_len: usize,
        outbox: &mut Outbox,
    ) -> Result<(), DropReason> {
        let len = envelope.header_len() + record_len;
        if len > limits.first.min(BUFFER_LEN) {
            return Err(DropReason::TooBig);
        }
        if self.next_sequence >= DF_BIT {
            return Err(DropReason::SequenceExhausted);
        }
        // A packet that the underlay has to fragment cannot be one of several in a run.
        if self.filling.as_ref().is_some_and(|filling| {
            !filling.takes(len) || filling.segment_len.max(len) > limits.more
        }) {
            self.finish(envelope, to, outbox);
        }
        if self.filling.is_none() {
            let buffer = outbox.take().ok_or(DropReason::TransmitQueueFull)?;
            self.filling = Some(Filling::new(buffer));
        }
        if let Some(filling) = &mut self.filling {
            filling.open_len = envelope.header_len();
            filling.open_records = 0;
        }
        Ok(())
    }

    /// Closes the open packet. It ends the run if nothing can follow it there.
    #[inline]
    fn close(&mut self, envelope: &Envelope, to: SocketAddr, outbox: &mut Outbox) {
        let Some(filling) = &mut self.filling else {
            return;
        };
        let len = std::mem::take(&mut filling.open_len);
        if len == 0 {
            return;
        }
        let df_bit = if self.df { DF_BIT } else { 0 };
        let start = filling.closed_len;
        if let Some(packet) = filling.buffer.get_mut(start..start + len) {
            envelope.close(packet, self.next_sequence | df_bit);
        }
        self.next_sequence += 1;
        filling.closed_len += len;
        filling.closed_count += 1;
        if filling.closed_count == 1 {
            filling.segment_len = len;
        } else if len < filling.segment_len {
            self.finish(envelope, to, outbox);
        }
    }

    /// The open packet outgrows those before it: it moves to a buffer of its own.
    #[cold]
    fn split(
        &mut self,
        envelope: &Envelope,
        to: SocketAddr,
        outbox: &mut Outbox,
    ) -> Result<(), DropReason> {
        let Some(filling) = &mut self.filling else {
            return Ok(());
        };
        let mut next = Filling::new(outbox.take().ok_or(DropReason::TransmitQueueFull)?);
        next.open_len = std::mem::take(&mut filling.open_len);
        next.open_records = filling.open_records;
        let start = filling.closed_len;
        if let Some(target) = next.buffer.get_mut(..next.open_len)
            && let Some(source) = filling.buffer.get(start..start + next.open_len)
        {
            target.copy_from_slice(source);
        }
        self.finish(envelope, to, outbox);
        self.filling = Some(next);
        Ok(())
    }

    /// Hands the closed packets over.
    fn finish(&mut self, envelope: &Envelope, to: SocketAddr, outbox: &mut Outbox) {
        let Some(filling) = self.filling.take() else {
            return;
        };
        if filling.closed_count == 0 {
            outbox.give(filling.buffer);
            return;
        }
        outbox.push(Run {
            link: envelope.link,
            from: envelope.from,
            to,
            df: self.df,
            segment_len: filling.segment_len,
            len: filling.closed_len,
            buffer: filling.buffer,
        });
    }
}

#[cfg(test)]
mod tests;
