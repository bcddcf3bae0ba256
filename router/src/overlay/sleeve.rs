//! The sleeve link: frames in UDP datagrams on the mesh port.
//!
//! Both ends run the same machine:
//!
//! ```text
//! prepared --confirm--> confirmed --control 1--> established --60 s of silence--> failed
//!                       heartbeat                heartbeat every 10 s
//!                       every 500 ms             fragmentation test, MTU search
//! ```
//!
//! The dialler of the connection knows where to send from the start, the acceptor learns it from the
//! first heartbeat. Whoever hears the first heartbeat says so over the connection (control 1);
//! "established" therefore means that the neighbour has heard us, and each end learns it on its own.
//!
//! A neighbour of our own kind, with which frames can go over TCP as well, confirms every heartbeat.
//! A link to it does not fail of silence: it counts as heard only as long as confirmations come, and
//! is probed on otherwise.
//!
//! Frames travel on one of two lanes, each with its own sequence: datagrams with DF set, of known
//! path MTU, and datagrams that the underlay may fragment.
//!
//! Source: Weave data plane, sections 2, 4, 5 and 6; never-send rules: Weave mesh protocol,
//! section 9.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use proto::{ConnectionUid, PeerName};

use super::aggregate::{Lane, Limits, Packets as _};
use super::envelope::{Envelope, Number, Windows};
use super::fragment::fragment;
use super::pmtu::{Action, Pmtu};
use super::{Outputs, Refused, Taken};
use crate::LinkId;
use crate::constants::{
    FAST_HEARTBEAT, FRAG_TEST_INTERVAL, HEARTBEAT_TIMEOUT, MAX_UDP_PAYLOAD, SHUTTLE_PROBE_MAX,
    SLEEVE_ACK_TIMEOUT, SLOW_HEARTBEAT,
};
use crate::dataplane::{DropReason, Event, LinkConfig, LinkError, OverlayControl};
use crate::offload::Offload;
use crate::offload::segment::{Segments, Wanted};
use crate::status::LinkStatus;
use crate::wire::ethernet::{Frame, HEADER_LEN};
use crate::wire::sleeve::{FRAGMENTATION_TEST_LEN, HEARTBEAT_LEN, MTU_PROBE_LEN, Special};

/// Control: your heartbeat reached me.
const TAG_HEARTBEAT_HEARD: u8 = 1;
/// Control: your fragmentation test reached me.
const TAG_FRAGMENTS_HEARD: u8 = 2;
/// Control: your MTU test of this size, a u16, reached me.
const TAG_MTU_VERIFIED: u8 = 3;

/// Heartbeats at the short interval before they become rarer, with a neighbour of our own kind.
const EAGER_PROBES: u32 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// May not talk yet.
    Prepared,
    /// Talks; the neighbour has not heard us yet, as far as we know.
    Confirmed,
    /// The neighbour has heard us.
    Established,
}

/// The ways out of one worker.
#[derive(Debug)]
struct Lanes {
    with_df: Lane,
    without: Lane,
}

/// Sleeve on one connection.
#[derive(Debug)]
pub(crate) struct Sleeve {
    link: LinkId,
    index: u8,
    ours: PeerName,
    peer: PeerName,
    uid: ConnectionUid,
    state: State,
    /// Where the neighbour receives.
    remote: Option<SocketAddr>,
    /// Whether we have told the neighbour that we heard it.
    acknowledged: bool,
    /// Whether the neighbour confirms every heartbeat, and there is another way than UDP.
    has_stream: bool,
    /// When the last confirmation is too old, with such a neighbour.
    doubt_at: Option<Instant>,
    /// Heartbeats sent since the link was last heard.
    probe_count: u32,
    /// Whether the underlay carries fragmented datagrams, as far as we know.
    fragments: bool,
    pmtu: Pmtu,
    envelope: Arc<Envelope>,
    /// Of each worker.
    lanes: Box<[Lanes]>,
    windows: Windows,
    heartbeat_at: Option<Instant>,
    silence_at: Option<Instant>,
    fragment_test_at: Option<Instant>,
}

impl Sleeve {
    /// Prepares; sends nothing.
    pub(crate) fn new(ours: PeerName, index: u8, workers: usize, config: &LinkConfig) -> Self {
        let envelope = Envelope::new(config.link, ours, config.key.clone(), config.outbound)
            .sent_from(config.local.ip());
        Self {
            link: config.link,
            index,
            ours,
            peer: config.peer,
            uid: config.uid,
            state: State::Prepared,
            remote: config.remote,
            acknowledged: false,
            has_stream: config
                .overlays
                .iter()
                .any(|name| name == super::negotiate::STREAM),
            doubt_at: None,
            probe_count: 0,
            fragments: false,
            pmtu: Pmtu::new(config.peer, envelope.header_len()),
            envelope: Arc::new(envelope),
            lanes: (0..workers.max(1))
                .map(|_| Lanes {
                    with_df: Lane::new(true),
                    without: Lane::new(false),
                })
                .collect(),
            windows: Windows::default(),
            heartbeat_at: None,
            silence_at: None,
            fragment_test_at: None,
        }
    }

    #[inline]
    pub(crate) const fn is_established(&self) -> bool {
        matches!(self.state, State::Established)
    }

    /// The connection is part of the mesh: talk.
    pub(crate) fn confirm(&mut self, now: Instant, out: &mut Outputs) {
        if self.state != State::Prepared {
            return;
        }
        self.state = State::Confirmed;
        self.silence_at = Some(now + HEARTBEAT_TIMEOUT);
        if self.remote.is_some() {
            self.send_heartbeat(now, out);
        }
    }

    /// A control message of the neighbour. Unknown tags and short bodies are passed over.
    pub(crate) fn handle_control(
        &mut self,
        control: &OverlayControl,
        now: Instant,
        out: &mut Outputs,
    ) -> Result<(), LinkError> {
        match control.tag {
            TAG_HEARTBEAT_HEARD => self.handle_acknowledged(now, out)?,
            TAG_FRAGMENTS_HEARD => self.fragments = self.is_established(),
            TAG_MTU_VERIFIED => {
                if let Some(mtu) = control.body.first_chunk() {
                    let action = self.pmtu.handle_verified(u16::from_be_bytes(*mtu), now);
                    self.act(action, out);
                }
            }
            tag => tracing::debug!(peer = %self.peer, tag, "unknown sleeve control message"),
        }
        Ok(())
    }

    fn handle_acknowledged(&mut self, now: Instant, out: &mut Outputs) -> Result<(), LinkError> {
        if self.has_stream {
            self.doubt_at = Some(now + SLEEVE_ACK_TIMEOUT);
        }
        match self.state {
            State::Established => Ok(()),
            State::Confirmed if self.remote.is_some() => {
                self.state = State::Established;
                self.probe_count = 0;
                if !self.has_stream {
                    tracing::info!("->[{}] using sleeve", self.peer);
                }
                self.heartbeat_at = Some(now + SLOW_HEARTBEAT);
                self.send_fragment_test(now, out);
                self.send_special(true, &vec![0; MTU_PROBE_LEN], out);
                Ok(())
            }
            State::Prepared | State::Confirmed => Err(LinkError::UnexpectedAck),
        }
    }

    /// UDP may not reach the neighbour any more: it has to confirm anew. For a neighbour that does.
    pub(crate) fn doubt(&mut self, now: Instant, out: &mut Outputs) {
        if self.has_stream && self.is_established() {
            self.state = State::Confirmed;
            self.doubt_at = None;
            self.send_heartbeat(now, out);
        }
    }

    /// What opens a packet with the neighbour's name, if that is worth while.
    #[inline]
    pub(crate) fn opener(&self, packet: &[u8]) -> Result<Arc<Envelope>, DropReason> {
        if packet.len() < self.envelope.header_len() {
            return Err(DropReason::DatagramTooShort);
        }
        if self.envelope.is_sealed() && !self.windows.is_new(packet) {
            return Err(DropReason::Replayed);
        }
        Ok(Arc::clone(&self.envelope))
    }

    /// A packet has been opened by `envelope`: takes it, unless it was seen before.
    #[inline]
    pub(crate) fn accept(
        &mut self,
        envelope: &Arc<Envelope>,
        number: Option<Number>,
    ) -> Result<(), DropReason> {
        // It may have been opened for a link that is gone, to the same neighbour.
        if !Arc::ptr_eq(envelope, &self.envelope) {
            return Err(DropReason::NoLink);
        }
        number.map_or(Ok(()), |number| self.windows.accept(number))
    }

    /// A special frame from the neighbour to us.
    pub(crate) fn handle_special(
        &mut self,
        special: Special,
        from: SocketAddr,
        now: Instant,
        out: &mut Outputs,
    ) {
        match special {
            Special::Heartbeat(uid) if uid == self.uid => self.handle_heartbeat(from, now, out),
            Special::FragmentationTest { intact: true } => {
                out.answer(self.link, self.control(TAG_FRAGMENTS_HEARD, Vec::new()));
            }
            // The answer to a test of nothing would upset the original's own search.
            Special::MtuTest(mtu) if mtu > 0 => {
                out.answer(
                    self.link,
                    self.control(TAG_MTU_VERIFIED, mtu.to_be_bytes().to_vec()),
                );
            }
            _ => out.drops.count(DropReason::SpecialInvalid),
        }
    }

    fn handle_heartbeat(&mut self, from: SocketAddr, now: Instant, out: &mut Outputs) {
        match self.remote {
            None => {
                self.remote = Some(from);
                self.send_heartbeat(now, out);
            }
            Some(remote) if remote != from => {
                tracing::info!(
                    "->[{}] sleeve: remote address changed from {remote} to {from}",
                    self.peer
                );
                self.flush(out);
                self.remote = Some(from);
            }
            Some(_) => {}
        }
        self.silence_at = Some(now + HEARTBEAT_TIMEOUT);
        let control = self.control(TAG_HEARTBEAT_HEARD, Vec::new());
        if !self.acknowledged {
            // Said once per link, so never refused by a full queue.
            self.acknowledged = true;
            out.events.push_back(Event::Control(self.link, control));
        } else if self.has_stream {
            out.answer(self.link, control);
        }
    }

    /// A datagram was refused as longer than `path_mtu`.
    pub(crate) fn handle_too_long(&mut self, path_mtu: u16, now: Instant, out: &mut Outputs) {
        let action = self.pmtu.handle_too_long(path_mtu, now);
        self.act(action, out);
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        out: &mut Outputs,
    ) -> Result<(), LinkError> {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.silence_at) {
            if !self.has_stream {
                return Err(LinkError::HeartbeatTimeout);
            }
            self.silence_at = None;
        }
        if is_due(self.doubt_at) {
            self.doubt(now, out);
        }
        if is_due(self.heartbeat_at) {
            self.send_heartbeat(now, out);
        }
        if is_due(self.fragment_test_at) {
            self.send_fragment_test(now, out);
        }
        let action = self.pmtu.handle_timeout(now);
        self.act(action, out);
        Ok(())
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let timers = [
            self.heartbeat_at,
            self.silence_at,
            self.fragment_test_at,
            self.doubt_at,
            self.pmtu.next_timeout(),
        ];
        timers.into_iter().flatten().min()
    }

    /// Takes a frame from its origin to its destination peer, or fragments of it.
    #[inline]
    pub(crate) fn forward(
        &mut self,
        peers: (PeerName, PeerName),
        (frame, offload): (&Frame<'_>, &Offload),
        is_flood: bool,
        out: &mut Outputs,
    ) -> (Result<(), Refused>, Taken) {
        let mut taken = Taken::default();
        // A neighbour that speaks sleeve knows nothing of offloads.
        let result = match Segments::new(frame.bytes(), offload, Wanted::Complete) {
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
        let Some(to) = self.remote else {
            return Err(Refused::Drop(DropReason::NoAddress));
        };
        let mtu = self.pmtu.mtu();
        let is_too_big = pieces.longest() > usize::from(mtu) + HEADER_LEN;
        let max_payload = self.pmtu.max_payload();
        let df_limits = Limits {
            first: max_payload,
            more: max_payload,
        };
        let Some(lanes) = self.lanes.get_mut(out.worker.index) else {
            return Err(Refused::Next);
        };
        let (lane, limits) = match frame.ipv4() {
            Some(ip) if ip.dont_fragment() => {
                if is_too_big && is_flood {
                    return Err(Refused::Drop(DropReason::FloodTooBig));
                }
                if is_too_big {
                    return Err(Refused::TooLong { mtu });
                }
                (&mut lanes.with_df, df_limits)
            }
            Some(_) if !self.fragments => {
                if is_too_big {
                    while let Some(piece) = pieces.next() {
                        self.push_fragments(peers, &piece.to_vec(), (to, df_limits), mtu, out)
                            .map_err(Refused::Drop)?;
                        taken.count(&piece);
                    }
                    return Ok(());
                }
                (&mut lanes.with_df, df_limits)
            }
            _ => {
                let limits = Limits {
                    first: MAX_UDP_PAYLOAD,
                    more: max_payload,
                };
                (&mut lanes.without, limits)
            }
        };
        while let Some(piece) = pieces.next() {
            let parts = (piece.head, piece.body);
            lane.push(
                &self.envelope,
                to,
                limits,
                peers,
                parts,
                &mut out.worker.outbox,
            )
            .map_err(Refused::Drop)?;
            taken.count(&piece);
        }
        Ok(())
    }

    /// Takes an IPv4 frame of one packet that is too long, and that the underlay cannot fragment.
    #[cold]
    fn push_fragments(
        &mut self,
        peers: (PeerName, PeerName),
        frame: &[u8],
        (to, limits): (SocketAddr, Limits),
        mtu: u16,
        out: &mut Outputs,
    ) -> Result<(), DropReason> {
        let frame = Frame::new_checked(frame).map_err(|_| DropReason::FrameTooShort)?;
        let ip = frame.ipv4().ok_or(DropReason::TooBig)?;
        let mut result = Ok(());
        let emit = |part: &[u8]| {
            let Some(lanes) = self.lanes.get_mut(out.worker.index) else {
                return;
            };
            let (lane, outbox) = (&mut lanes.with_df, &mut out.worker.outbox);
            let pushed = lane.push(&self.envelope, to, limits, peers, (part, &[]), outbox);
            result = result.and(pushed);
        };
        if !fragment(&frame, &ip, mtu, &mut out.scratch, emit) {
            result = Err(DropReason::TooBig);
        }
        result
    }

    /// Sends what the worker has at hand on both lanes.
    #[inline]
    pub(crate) fn flush(&mut self, out: &mut Outputs) {
        let Some(to) = self.remote else { return };
        let Some(lanes) = self.lanes.get_mut(out.worker.index) else {
            return;
        };
        for lane in [&mut lanes.with_df, &mut lanes.without] {
            if lane.is_pending() {
                lane.flush(&self.envelope, to, &mut out.worker.outbox);
            }
        }
    }

    pub(crate) fn fill_status(&self, status: &mut LinkStatus) {
        status.overlay = super::negotiate::SLEEVE;
        status.encrypted = self.envelope.is_sealed();
        status.address = self.remote;
        status.mtu = self.pmtu.mtu();
        status.fragments = self.fragments;
    }

    fn control(&self, tag: u8, body: Vec<u8>) -> OverlayControl {
        OverlayControl {
            index: self.index,
            tag,
            body,
        }
    }

    fn act(&mut self, action: Action, out: &mut Outputs) {
        match action {
            Action::None => {}
            Action::Test(mtu) => {
                self.send_special(true, &vec![0; usize::from(mtu) + HEADER_LEN], out);
            }
        }
    }

    fn send_heartbeat(&mut self, now: Instant, out: &mut Outputs) {
        let interval = if self.is_established() {
            SLOW_HEARTBEAT
        } else {
            self.probe_count = self.probe_count.saturating_add(1);
            if self.has_stream && self.probe_count > EAGER_PROBES {
                SHUTTLE_PROBE_MAX
            } else {
                FAST_HEARTBEAT
            }
        };
        self.heartbeat_at = Some(now + interval);
        let mut heartbeat = [0; HEARTBEAT_LEN];
        if let Some(place) = heartbeat.last_chunk_mut() {
            *place = self.uid.0.to_be_bytes();
        }
        self.send_special(true, &heartbeat, out);
    }

    fn send_fragment_test(&mut self, now: Instant, out: &mut Outputs) {
        self.fragments = false;
        self.fragment_test_at = Some(now + FRAG_TEST_INTERVAL);
        self.send_special(false, &vec![0; FRAGMENTATION_TEST_LEN], out);
    }

    /// Sends a frame of our own in a packet of its own, behind what waits on the lane.
    fn send_special(&mut self, df: bool, frame: &[u8], out: &mut Outputs) {
        let Some(to) = self.remote else { return };
        let limits = Limits {
            first: MAX_UDP_PAYLOAD,
            more: 0,
        };
        let Some(lanes) = self.lanes.get_mut(out.worker.index) else {
            return;
        };
        let lane = if df {
            &mut lanes.with_df
        } else {
            &mut lanes.without
        };
        let (envelope, peers) = (&self.envelope, (self.ours, self.peer));
        lane.flush(envelope, to, &mut out.worker.outbox);
        if let Err(reason) = lane.push(
            envelope,
            to,
            limits,
            peers,
            (frame, &[]),
            &mut out.worker.outbox,
        ) {
            out.drops.count(reason);
        }
        lane.flush(envelope, to, &mut out.worker.outbox);
    }
}
