//! What shuttle sends: frames of the bridge and of relays, and notes of its own.

use std::time::{Duration, Instant};

use proto::PeerName;

use super::{Shuttle, State};
use crate::constants::{FAST_HEARTBEAT, MAX_UDP_PAYLOAD, SHUTTLE_HEARTBEAT, SHUTTLE_PROBE_MAX};
use crate::dataplane::DropReason;
use crate::offload::segment::{Segments, Wanted};
use crate::offload::{Checksum, Offload, Piece, checksum};
use crate::overlay::aggregate::{Limits, Packets as _, Parts};
use crate::overlay::fragment::must_be_shorter;
use crate::overlay::{Outputs, Refused, Taken};
use crate::wire::ethernet::{self, Frame};
use crate::wire::shuttle::{
    HEADER_LEN, MTU_PROBE_LEN, NAMES_LEN, RECORD_HEADER_LEN, RecordHeader, heartbeat, mtu_test,
};

/// Heartbeats before they become rarer.
const EAGER_PROBES: u32 = 15;
/// The first of them follow each other faster, beginning with this interval, since the first may
/// overtake our hello.
const FIRST_PROBE: Duration = Duration::from_millis(20);

impl Shuttle {
    /// Takes a frame from its origin to its destination peer, or refuses all of it.
    #[inline]
    pub(crate) fn forward(
        &mut self,
        peers: (PeerName, PeerName),
        (frame, offload): (&Frame<'_>, &Offload),
        is_flood: bool,
        out: &mut Outputs,
    ) -> (Result<(), Refused>, Taken) {
        let mut taken = Taken::default();
        // Checksums may stay as they are: the seal watches over the bytes on the way.
        let result = match Segments::new(frame.bytes(), offload, Wanted::AsIs) {
            Ok(pieces) => self.forward_pieces(peers, frame, pieces, is_flood, &mut taken, out),
            Err(_) => Err(Refused::Drop(DropReason::OffloadMismatch)),
        };
        (result, taken)
    }

    #[inline]
    fn forward_pieces(
        &mut self,
        peers: (PeerName, PeerName),
        frame: &Frame<'_>,
        mut pieces: Segments<'_>,
        is_flood: bool,
        taken: &mut Taken,
        out: &mut Outputs,
    ) -> Result<(), Refused> {
        let State::Ready { outgoing, .. } = &self.state else {
            return Err(Refused::Next);
        };
        let Some(to) = self.remote.filter(|_| !self.is_worn) else {
            return Err(Refused::Next);
        };
        let names = (peers != (self.ours, self.peer)).then_some(peers);
        let names_len = if names.is_some() { NAMES_LEN } else { 0 };
        let max_payload = self.pmtu.max_payload();
        let overhead = HEADER_LEN + RECORD_HEADER_LEN + names_len + outgoing.trailer_len();
        if overhead + pieces.longest() > max_payload {
            // Those that nobody may cut their sender has to make shorter; others are for an overlay
            // that can.
            let mtu = self.mtu_for(names_len);
            return Err(if !is_flood && must_be_shorter(frame, mtu) {
                Refused::TooLong { mtu }
            } else {
                Refused::Next
            });
        }
        let limits = Limits {
            first: max_payload,
            more: max_payload,
        };
        let Some(lane) = self.queues.lane(out.worker.index) else {
            return Err(Refused::Next);
        };
        let mut result = Ok(());
        while let Some(piece) = pieces.next() {
            // It fits a datagram, so its length fits 16 bits.
            let Ok(frame_len) = u16::try_from(piece.len()) else {
                continue;
            };
            let pushed = match RecordHeader::frame(frame_len, piece.checksum, names) {
                Some(header) => {
                    let record = Parts {
                        header: header.bytes(),
                        head: piece.head,
                        body: piece.body,
                    };
                    lane.push_record(outgoing, to, limits, &record, &mut out.worker.outbox)
                }
                None => {
                    // A checksum field in an unusual place.
                    let header = RecordHeader::frame(frame_len, Checksum::Complete, names);
                    complete(&piece, &mut out.scratch);
                    let record = Parts {
                        header: header.as_ref().map_or(&[][..], RecordHeader::bytes),
                        head: &out.scratch,
                        body: &[],
                    };
                    lane.push_record(outgoing, to, limits, &record, &mut out.worker.outbox)
                }
            };
            match pushed {
                Ok(()) => taken.count(&piece),
                Err(reason) => result = Err(Refused::Drop(reason)),
            }
        }
        result
    }

    /// Longest IP packet of records with so many bytes of names.
    pub(super) fn mtu_for(&self, names_len: usize) -> u16 {
        let names_len = u16::try_from(names_len).unwrap_or(0);
        self.pmtu.mtu().saturating_sub(names_len)
    }

    /// Sends what is at hand.
    #[inline]
    pub(crate) fn flush(&mut self, out: &mut Outputs) {
        if let State::Ready { outgoing, .. } = &self.state
            && let Some(to) = self.remote
            && let Some(lane) = self.queues.lane(out.worker.index)
            && lane.is_pending()
        {
            lane.flush(outgoing, to, &mut out.worker.outbox);
        }
    }

    /// Provokes the kernel to tell the MTU of the path, if it knows one.
    pub(super) fn probe_mtu(&mut self, out: &mut Outputs) {
        let mtu = MTU_PROBE_LEN - ethernet::HEADER_LEN;
        self.send_note(&mtu_test(u16::try_from(mtu).unwrap_or(u16::MAX)), out);
    }

    pub(super) fn send_heartbeat(&mut self, now: Instant, out: &mut Outputs) {
        let interval = if self.is_heard {
            SHUTTLE_HEARTBEAT
        } else {
            self.probe_count = self.probe_count.saturating_add(1);
            let rarer = self.probe_count.saturating_sub(EAGER_PROBES).min(8);
            let first = FIRST_PROBE * (1 << self.probe_count.saturating_sub(1).min(8));
            let interval = (FAST_HEARTBEAT * (1 << rarer)).min(SHUTTLE_PROBE_MAX);
            // 20 ms doubled eight times is beyond the longest of these.
            interval.min(first)
        };
        self.heartbeat_at = Some(now + interval);
        self.send_note(&heartbeat(self.uid), out);
    }

    /// Sends a note in a packet of its own, behind what waits.
    pub(super) fn send_note(&mut self, note: &[u8], out: &mut Outputs) {
        let State::Ready { outgoing, .. } = &self.state else {
            return;
        };
        let (Some(to), Ok(len)) = (self.remote, u16::try_from(note.len())) else {
            return;
        };
        let limits = Limits {
            first: MAX_UDP_PAYLOAD,
            more: 0,
        };
        let header = RecordHeader::note(len);
        let record = Parts {
            header: header.bytes(),
            head: note,
            body: &[],
        };
        let Some(lane) = self.queues.lane(out.worker.index) else {
            return;
        };
        let outbox = &mut out.worker.outbox;
        lane.flush(outgoing, to, outbox);
        if let Err(reason) = lane.push_record(outgoing, to, limits, &record, outbox) {
            out.drops.count(reason);
        }
        lane.flush(outgoing, to, outbox);
    }
}

/// Puts a piece into `scratch` in one part, and completes its checksum there.
#[cold]
fn complete(piece: &Piece<'_>, scratch: &mut Vec<u8>) {
    scratch.clear();
    scratch.extend_from_slice(piece.head);
    scratch.extend_from_slice(piece.body);
    checksum::complete(scratch, piece.checksum);
}
