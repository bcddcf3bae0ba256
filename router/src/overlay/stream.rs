//! Frames inside the TCP connection: the overlay for two hosts between which no UDP passes.
//!
//! ```text
//! tag 1  frames  records, laid out as in packets of shuttle
//!     2  taken   u64   bytes of records that have come in since the connection began
//! ```
//!
//! Control messages of this overlay carry the frames. They are sealed, in order and complete, as all
//! that travels there; and slow, as TCP within TCP is when something gets lost. What the neighbour
//! has not confirmed is bounded: a connection that is too slow loses frames, as a path would, and
//! does not delay gossip by more than [`STREAM_WINDOW`].
//!
//! It is not used until UDP has had its chance, [`STREAM_DELAY`]. From then on it is always there,
//! behind the others.
//!
//! Source: docs/wire/shuttle.md.

use std::time::Instant;

use proto::PeerName;

use super::{Outputs, Refused, Taken};
use crate::LinkId;
use crate::constants::{STREAM_DELAY, STREAM_MESSAGE_LEN, STREAM_WINDOW};
use crate::dataplane::{DropReason, Event, LinkConfig, OverlayControl};
use crate::offload::segment::{Segments, Wanted};
use crate::offload::{Offload, Piece};
use crate::status::LinkStatus;
use crate::wire::ethernet::Frame;
use crate::wire::shuttle::RecordHeader;

/// Control: frames.
pub(crate) const TAG_FRAMES: u8 = 1;
/// Control: how much has come in.
const TAG_TAKEN: u8 = 2;

/// Frames over the TCP connection.
#[derive(Debug)]
pub(crate) struct Stream {
    link: LinkId,
    index: u8,
    ours: PeerName,
    peer: PeerName,
    is_sealed: bool,
    /// When it may be used.
    ready_at: Option<Instant>,
    is_ready: bool,
    /// Records of the next message.
    pending: Vec<u8>,
    /// Bytes of records in messages sent, and confirmed.
    sent: u64,
    confirmed: u64,
    /// Bytes of records that came in, and the neighbour knows of.
    taken: u64,
    told: u64,
}

impl Stream {
    pub(crate) fn new(ours: PeerName, index: u8, config: &LinkConfig) -> Self {
        Self {
            link: config.link,
            index,
            ours,
            peer: config.peer,
            // Whoever trusts the subnet has a sealed TCP connection all the same.
            is_sealed: config.key.is_some(),
            ready_at: None,
            is_ready: false,
            pending: Vec::new(),
            sent: 0,
            confirmed: 0,
            taken: 0,
            told: 0,
        }
    }

    /// Whether it may be used.
    #[inline]
    pub(crate) const fn is_established(&self) -> bool {
        self.is_ready
    }

    /// The connection is part of the mesh.
    pub(crate) fn confirm(&mut self, now: Instant) {
        self.ready_at = Some(now + STREAM_DELAY);
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.ready_at.is_some_and(|at| at <= now) {
            self.ready_at = None;
            self.is_ready = true;
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) const fn next_timeout(&self) -> Option<Instant> {
        self.ready_at
    }

    /// A control message that is not frames.
    pub(crate) fn handle_control(&mut self, control: &OverlayControl) {
        if control.tag == TAG_TAKEN
            && let Some(taken) = control.body.first_chunk().copied().map(u64::from_be_bytes)
            && (self.confirmed..=self.sent).contains(&taken)
        {
            self.confirmed = taken;
        }
    }

    /// Notes that a message with records of this length has come in.
    pub(crate) const fn note_taken(&mut self, len: usize) {
        self.taken = self.taken.saturating_add(len as u64);
    }

    /// Takes a frame from its origin to its destination peer.
    pub(crate) fn forward(
        &mut self,
        peers: (PeerName, PeerName),
        (frame, offload): (&Frame<'_>, &Offload),
        out: &mut Outputs,
    ) -> (Result<(), Refused>, Taken) {
        let mut taken = Taken::default();
        let mut result = Ok(());
        let Ok(mut pieces) = Segments::new(frame.bytes(), offload, Wanted::Complete) else {
            return (Err(Refused::Drop(DropReason::OffloadMismatch)), taken);
        };
        while let Some(piece) = pieces.next() {
            match self.push(peers, &piece, out) {
                Ok(()) => taken.count(&piece),
                Err(reason) => result = Err(Refused::Drop(reason)),
            }
        }
        (result, taken)
    }

    fn push(
        &mut self,
        peers: (PeerName, PeerName),
        piece: &Piece<'_>,
        out: &mut Outputs,
    ) -> Result<(), DropReason> {
        let frame_len = u16::try_from(piece.len()).map_err(|_| DropReason::TooBig)?;
        let names = (peers != (self.ours, self.peer)).then_some(peers);
        let header = RecordHeader::frame(frame_len, piece.checksum, names);
        let header = header.ok_or(DropReason::OffloadMismatch)?;
        let record_len = header.bytes().len() + piece.len();
        let waiting = self.sent - self.confirmed + (self.pending.len() + record_len) as u64;
        if waiting > STREAM_WINDOW {
            return Err(DropReason::StreamFull);
        }
        if !self.pending.is_empty() && self.pending.len() + record_len > STREAM_MESSAGE_LEN {
            self.send(out);
        }
        self.pending.extend_from_slice(header.bytes());
        self.pending.extend_from_slice(piece.head);
        self.pending.extend_from_slice(piece.body);
        Ok(())
    }

    /// Sends what is at hand, and tells the neighbour what has come in.
    pub(crate) fn flush(&mut self, out: &mut Outputs) {
        self.send(out);
        if self.told != self.taken {
            self.told = self.taken;
            let control = self.control(TAG_TAKEN, self.taken.to_be_bytes().to_vec());
            out.events.push_back(Event::Control(self.link, control));
        }
    }

    fn send(&mut self, out: &mut Outputs) {
        if self.pending.is_empty() {
            return;
        }
        let records = std::mem::take(&mut self.pending);
        self.sent = self.sent.saturating_add(records.len() as u64);
        let control = self.control(TAG_FRAMES, records);
        out.events.push_back(Event::Control(self.link, control));
    }

    pub(crate) const fn fill_status(&self, status: &mut LinkStatus) {
        status.overlay = super::negotiate::STREAM;
        status.encrypted = self.is_sealed;
        status.mtu = u16::MAX;
    }

    const fn control(&self, tag: u8, body: Vec<u8>) -> OverlayControl {
        OverlayControl {
            index: self.index,
            tag,
            body,
        }
    }
}
