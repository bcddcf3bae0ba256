//! Datagrams ready to be sent, in pooled buffers.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::aggregate::Packets;
use crate::LinkId;
use crate::constants::{MAX_UDP_PAYLOAD, TRANSMIT_POOL_LEN, TRANSMIT_QUEUE_LEN};

/// Datagrams to one address.
///
/// `payload` is one datagram, or, if `segment_len` is set, a run of datagrams of that length laid
/// end to end, of which the last may be shorter: what UDP segmentation offload takes as it is.
/// There are at most [`RUN_LEN`](crate::constants::RUN_LEN) in a run and 65507 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Transmit<'a> {
    /// The link it belongs to; for
    /// [`handle_too_long`](crate::dataplane::DataPlane::handle_too_long).
    pub link: LinkId,
    /// Source address: where the neighbour reaches us by TCP, so that hosts with several addresses
    /// answer from the one they were asked at.
    pub from: Option<IpAddr>,
    /// Where to.
    pub to: SocketAddr,
    /// Whether routers must not fragment it: set DF on the IP header, else clear it.
    pub df: bool,
    /// The queue by which they go. Each has a source port of its own, that of the mesh for queue 0,
    /// so that the neighbour's device and kernel tell the queues apart.
    pub queue: u8,
    /// Length of every datagram but the last, if there are several.
    pub segment_len: Option<usize>,
    /// The bytes.
    pub payload: &'a [u8],
}

impl Transmit<'_> {
    /// The datagrams one by one.
    pub fn datagrams(&self) -> std::slice::Chunks<'_, u8> {
        let len = self.segment_len.unwrap_or(self.payload.len());
        self.payload.chunks(len.max(1))
    }
}

/// Memory for one run.
pub(crate) type Buffer = Box<[u8]>;

/// Bytes of a [`Buffer`].
pub(crate) const BUFFER_LEN: usize = MAX_UDP_PAYLOAD;

/// A finished run. Its packets are sealed when it is handed out.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) packets: Arc<dyn Packets>,
    pub(crate) to: SocketAddr,
    pub(crate) df: bool,
    pub(crate) queue: u8,
    /// Length of the first datagram.
    pub(crate) segment_len: usize,
    pub(crate) len: usize,
    pub(crate) buffer: Buffer,
}

/// The queue of finished runs and the pool that their buffers come from and return to.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    ready: VecDeque<Run>,
    /// Handed out by the last `next`, to be reused at the next call.
    lent: Option<Run>,
    free: Vec<Buffer>,
    /// Buffers in existence.
    count: usize,
}

impl Outbox {
    /// A buffer of [`BUFFER_LEN`] bytes with arbitrary content, unless too many are in use.
    pub(crate) fn take(&mut self) -> Option<Buffer> {
        if let Some(buffer) = self.free.pop() {
            return Some(buffer);
        }
        if self.count >= TRANSMIT_QUEUE_LEN {
            return None;
        }
        self.count += 1;
        Some(vec![0; BUFFER_LEN].into_boxed_slice())
    }

    /// Gives back a buffer that is not needed after all.
    pub(crate) fn give(&mut self, buffer: Buffer) {
        if self.free.len() < TRANSMIT_POOL_LEN {
            self.free.push(buffer);
        } else {
            self.count = self.count.saturating_sub(1);
        }
    }

    /// Queues a finished run.
    pub(crate) fn push(&mut self, run: Run) {
        self.ready.push_back(run);
    }

    /// Seals the next run to send.
    pub(crate) fn next(&mut self) -> Option<Transmit<'_>> {
        if let Some(run) = self.lent.take() {
            self.give(run.buffer);
        }
        let run = self.lent.insert(self.ready.pop_front()?);
        let payload = run.buffer.get_mut(..run.len).unwrap_or_default();
        for packet in payload.chunks_mut(run.segment_len.max(1)) {
            run.packets.close(packet, run.df, run.queue);
        }
        Some(Transmit {
            link: run.packets.link(),
            from: run.packets.from(),
            to: run.to,
            df: run.df,
            queue: run.queue,
            segment_len: (run.len > run.segment_len).then_some(run.segment_len),
            payload,
        })
    }

    #[cfg(test)]
    pub(crate) fn buffer_count(&self) -> usize {
        self.count
    }
}
