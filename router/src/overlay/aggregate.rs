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
//! Each frame is copied once, into its place, and sealed there, when the run is on its way out: by
//! then the engine may be at work for another thread. An open packet that outgrows the packets before
//! it moves to a new buffer; a closed one that is shorter ends the run.
//!
//! What a packet looks like is said by its overlay, as [`Packets`].
//!
//! Source: Weave data plane, sections 2.1, 2.2, 2.4 and 9 (freedom of the sender).

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::outbox::{BUFFER_LEN, Buffer, Outbox, Run};
use crate::LinkId;
use crate::constants::{MAX_UDP_PAYLOAD, PACKET_RECORDS, RUN_LEN};
use crate::dataplane::DropReason;

/// What the packets of one overlay on one link look like, and the key that seals them with its
/// sequence: the two are one, so that no number is ever used twice under a key.
pub(crate) trait Packets: Debug + Send + Sync + 'static {
    /// The link.
    fn link(&self) -> LinkId;
    /// Source address of the datagrams, if it is not left to the kernel.
    fn from(&self) -> Option<IpAddr>;
    /// Bytes before the records of a packet.
    fn header_len(&self) -> usize;
    /// Bytes behind them.
    fn trailer_len(&self) -> usize;
    /// Whether the sequence is at its end.
    fn is_exhausted(&self, df: bool) -> bool;
    /// Gives a packet the next number of the sequence, fills in its header and trailer, and seals
    /// what stands between them. `queue` is the number of the queue by which it goes.
    fn close(&self, packet: &mut [u8], df: bool, queue: u8);
}

/// A record in parts that follow each other: its header and, in two parts, its frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) header: &'a [u8],
    pub(crate) head: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl Parts<'_> {
    #[inline]
    const fn len(&self) -> usize {
        self.header.len() + self.head.len() + self.body.len()
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
    fn append(&mut self, record: &Parts<'_>) {
        let start = self.closed_len + self.open_len;
        let rest = self.buffer.get_mut(start..).unwrap_or_default();
        if let Some((header, rest)) = rest.split_at_mut_checked(record.header.len())
            && let Some((head, rest)) = rest.split_at_mut_checked(record.head.len())
            && let Some(body) = rest.get_mut(..record.body.len())
        {
            header.copy_from_slice(record.header);
            head.copy_from_slice(record.head);
            body.copy_from_slice(record.body);
            self.open_len += record.len();
            self.open_records += 1;
        }
    }
}

/// One link's way out with DF set, or with it clear.
#[derive(Debug)]
pub(crate) struct Lane {
    df: bool,
    /// The queue by which its packets go.
    pub(crate) queue: u8,
    filling: Option<Filling>,
}

impl Lane {
    pub(crate) const fn new(df: bool) -> Self {
        Self {
            df,
            queue: 0,
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
    pub(crate) fn push_record<P: Packets>(
        &mut self,
        packets: &Arc<P>,
        to: SocketAddr,
        limits: Limits,
        record: &Parts<'_>,
        outbox: &mut Outbox,
    ) -> Result<(), DropReason> {
        if let Some(filling) = &mut self.filling
            && filling.open_len > 0
        {
            let len = filling.open_len + record.len() + packets.trailer_len();
            if len <= limits.more && filling.open_records < PACKET_RECORDS {
                if filling.closed_count > 0 && len > filling.segment_len {
                    self.split(packets, to, outbox)?;
                }
                if let Some(filling) = &mut self.filling {
                    filling.append(record);
                }
                return Ok(());
            }
            self.close(packets, to, outbox);
        }
        self.open(packets, to, limits, record.len(), outbox)?;
        if let Some(filling) = &mut self.filling {
            filling.append(record);
        }
        Ok(())
    }

    /// Sends what is at hand.
    pub(crate) fn flush<P: Packets>(
        &mut self,
        packets: &Arc<P>,
        to: SocketAddr,
        outbox: &mut Outbox,
    ) {
        self.close(packets, to, outbox);
        self.finish(packets, to, outbox);
    }

    /// Begins a packet that will have room for a record of `record_len`.
    #[inline]
    fn open<P: Packets>(
        &mut self,
        packets: &Arc<P>,
        to: SocketAddr,
        limits: Limits,
        record_len: usize,
        outbox: &mut Outbox,
    ) -> Result<(), DropReason> {
        let len = packets.header_len() + record_len + packets.trailer_len();
        if len > limits.first.min(BUFFER_LEN) {
            return Err(DropReason::TooBig);
        }
        if packets.is_exhausted(self.df) {
            return Err(DropReason::SequenceExhausted);
        }
        // A packet that the underlay has to fragment cannot be one of several in a run.
        if self.filling.as_ref().is_some_and(|filling| {
            !filling.takes(len) || filling.segment_len.max(len) > limits.more
        }) {
            self.finish(packets, to, outbox);
        }
        if self.filling.is_none() {
            let buffer = outbox.take().ok_or(DropReason::TransmitQueueFull)?;
            self.filling = Some(Filling::new(buffer));
        }
        if let Some(filling) = &mut self.filling {
            filling.open_len = packets.header_len();
            filling.open_records = 0;
        }
        Ok(())
    }

    /// Closes the open packet: it gets no more records. It ends the run if nothing can follow it
    /// there.
    #[inline]
    fn close<P: Packets>(&mut self, packets: &Arc<P>, to: SocketAddr, outbox: &mut Outbox) {
        let Some(filling) = &mut self.filling else {
            return;
        };
        let open_len = std::mem::take(&mut filling.open_len);
        if open_len == 0 {
            return;
        }
        let len = open_len + packets.trailer_len();
        filling.closed_len += len;
        filling.closed_count += 1;
        if filling.closed_count == 1 {
            filling.segment_len = len;
        } else if len < filling.segment_len {
            self.finish(packets, to, outbox);
        }
    }

    /// The open packet outgrows those before it: it moves to a buffer of its own.
    #[cold]
    fn split<P: Packets>(
        &mut self,
        packets: &Arc<P>,
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
        self.finish(packets, to, outbox);
        self.filling = Some(next);
        Ok(())
    }

    /// Hands the closed packets over.
    fn finish<P: Packets>(&mut self, packets: &Arc<P>, to: SocketAddr, outbox: &mut Outbox) {
        let Some(filling) = self.filling.take() else {
            return;
        };
        if filling.closed_count == 0 {
            outbox.give(filling.buffer);
            return;
        }
        outbox.push(Run {
            packets: Arc::<P>::clone(packets),
            to,
            df: self.df,
            queue: self.queue,
            segment_len: filling.segment_len,
            len: filling.closed_len,
            buffer: filling.buffer,
        });
    }
}

#[cfg(test)]
mod tests;
