//! Overlays: how frames travel to one neighbour.
//!
//! A `Link` is one mesh connection seen from the data half. It has a forwarder for each overlay
//! that both ends speak, all set up side by side, and sends each frame over the first that is
//! established. There is one overlay so far, sleeve; a faster one joins as another variant of
//! `Forwarder` and another name in [`negotiate::SUPPORTED`].
//!
//! Source: Weave data plane, section 3.

mod aggregate;
mod envelope;
mod fragment;
pub mod negotiate;
mod outbox;
mod pmtu;
mod sleeve;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use proto::PeerName;

use crate::LinkId;
use crate::constants::ANSWER_QUEUE_LEN;
use crate::dataplane::{DropReason, Drops, Event, LinkConfig, LinkError, OverlayControl};
use crate::offload::{Offload, Piece};
use crate::status::{LinkStatus, Traffic};
use crate::wire::ethernet::Frame;
use crate::wire::sleeve::Special;

pub(crate) use fragment::{OwnFrame, fragmentation_needed};
pub(crate) use outbox::Outbox;
pub use outbox::Transmit;
pub(crate) use sleeve::Sleeve;

/// What links produce besides return values.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    pub(crate) outbox: Outbox,
    pub(crate) events: VecDeque<Event>,
    pub(crate) drops: Drops,
    /// For frames that have to be built; empty between calls.
    pub(crate) scratch: Vec<u8>,
}

impl Outputs {
    /// An answer to a test of the neighbour, who repeats the test if the answer is lost.
    fn answer(&mut self, link: LinkId, control: OverlayControl) {
        if self.events.len() < ANSWER_QUEUE_LEN {
            self.events.push_back(Event::Control(link, control));
        } else {
            self.drops.count(DropReason::AnswerQueueFull);
        }
    }
}

/// Why a link did not take a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Dropped, with nothing more to do.
    Drop(DropReason),
    /// Too long and not to be fragmented: its sender must be told this MTU.
    TooLong {
        /// Overlay MTU of the link.
        mtu: u16,
    },
}

/// What a forwarder has taken of a frame.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Taken {
    /// Frames of at most one packet.
    pub(crate) frames: u64,
    /// Bytes in them.
    pub(crate) bytes: u64,
}

impl Taken {
    #[inline]
    pub(crate) const fn count(&mut self, piece: &Piece<'_>) {
        self.frames += 1;
        self.bytes += piece.len() as u64;
    }
}

/// A way to the neighbour.
#[derive(Debug)]
pub(crate) enum Forwarder {
    /// Userspace, over UDP on the mesh port.
    Sleeve(Box<Sleeve>),
    /// Failed, or unknown to this program: keeps its index, and is never used.
    Dead,
}

/// One mesh connection, seen from the data half.
#[derive(Debug)]
pub(crate) struct Link {
    id: LinkId,
    peer: PeerName,
    forwarders: Vec<Forwarder>,
    established: bool,
    failed: bool,
    traffic: Traffic,
    /// Whether the engine has noted that this link wants a flush.
    pub(crate) wants_flush: bool,
}

impl Link {
    /// Prepares all overlays of the link, without sending yet.
    pub(crate) fn new(ours: PeerName, config: &LinkConfig) -> Self {
        let forwarder = |(index, name): (u8, &String)| match name.as_str() {
            negotiate::SLEEVE => Forwarder::Sleeve(Box::new(Sleeve::new(ours, index, config))),
            _ => Forwarder::Dead,
        };
        Self {
            id: config.link,
            peer: config.peer,
            forwarders: (0..=u8::MAX).zip(&config.overlays).map(forwarder).collect(),
            established: false,
            failed: false,
            traffic: Traffic::default(),
            wants_flush: false,
        }
    }

    pub(crate) const fn id(&self) -> LinkId {
        self.id
    }

    pub(crate) const fn peer(&self) -> PeerName {
        self.peer
    }

    /// The connection has been added to the mesh: the overlays may talk.
    pub(crate) fn confirm(&mut self, now: Instant, out: &mut Outputs) {
        for forwarder in &mut self.forwarders {
            if let Forwarder::Sleeve(sleeve) = forwarder {
                sleeve.confirm(now, out);
            }
        }
        // A link whose every overlay is unknown to us has never worked.
        self.note_failed(LinkError::NoOverlay, out);
    }

    /// A control message of the neighbour. Unknown indices and dead overlays are passed over.
    pub(crate) fn handle_control(
        &mut self,
        control: &OverlayControl,
        now: Instant,
        out: &mut Outputs,
    ) {
        let Some(forwarder) = self.forwarders.get_mut(usize::from(control.index)) else {
            return;
        };
        let result = match forwarder {
            Forwarder::Sleeve(sleeve) => sleeve.handle_control(control, now, out),
            Forwarder::Dead => Ok(()),
        };
        match result {
            Ok(()) => self.note_established(out),
            Err(error) => {
                *forwarder = Forwarder::Dead;
                self.note_failed(error, out);
            }
        }
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant, out: &mut Outputs) {
        for index in 0..self.forwarders.len() {
            if let Some(forwarder) = self.forwarders.get_mut(index)
                && let Forwarder::Sleeve(sleeve) = forwarder
                && let Err(error) = sleeve.handle_timeout(now, out)
            {
                *forwarder = Forwarder::Dead;
                self.note_failed(error, out);
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let timeouts = self
            .forwarders
            .iter()
            .filter_map(|forwarder| match forwarder {
                Forwarder::Sleeve(sleeve) => sleeve.next_timeout(),
                Forwarder::Dead => None,
            });
        timeouts.min()
    }

    /// The sleeve forwarder, if it is set up and works.
    #[inline]
    fn sleeve(&mut self) -> Option<&mut Sleeve> {
        self.forwarders
            .iter_mut()
            .find_map(|forwarder| match forwarder {
                Forwarder::Sleeve(sleeve) => Some(&mut **sleeve),
                Forwarder::Dead => None,
            })
    }

    /// Opens a sleeve packet in place. Returns where its records begin.
    #[inline]
    pub(crate) fn open_sleeve(&mut self, packet: &mut [u8]) -> Result<usize, DropReason> {
        self.sleeve().ok_or(DropReason::NoLink)?.open(packet)
    }

    /// A special frame of the neighbour, for us, in a sleeve packet.
    pub(crate) fn handle_special(
        &mut self,
        special: Special,
        from: SocketAddr,
        now: Instant,
        out: &mut Outputs,
    ) {
        if let Some(sleeve) = self.sleeve() {
            sleeve.handle_special(special, from, now, out);
        }
    }

    /// A datagram was refused as longer than `path_mtu`.
    pub(crate) fn handle_too_long(&mut self, path_mtu: u16, now: Instant, out: &mut Outputs) {
        if let Some(sleeve) = self.sleeve() {
            sleeve.handle_too_long(path_mtu, now, out);
        }
    }

    /// Counts a frame that came over this link.
    #[inline]
    pub(crate) fn count_received(&mut self, frame: &Frame<'_>) {
        self.traffic.rx_frames += 1;
        self.traffic.rx_bytes += frame.bytes().len() as u64;
    }

    /// Sends a frame to the neighbour: over the first established overlay, or, if none is, over the
    /// first that works. `is_flood` is said of frames that go to several neighbours.
    #[inline]
    pub(crate) fn forward(
        &mut self,
        peers: (PeerName, PeerName),
        frame: (&Frame<'_>, &Offload),
        is_flood: bool,
        out: &mut Outputs,
    ) -> Result<(), Refused> {
        let mut fallback = None;
        for forwarder in &mut self.forwarders {
            match forwarder {
                Forwarder::Sleeve(sleeve) => {
                    if sleeve.is_established() {
                        fallback = Some(sleeve);
                        break;
                    }
                    if fallback.is_none() {
                        fallback = Some(sleeve);
                    }
                }
                Forwarder::Dead => {}
            }
        }
        let Some(sleeve) = fallback else {
            return Err(Refused::Drop(DropReason::NoLink));
        };
        let (result, sent) = sleeve.forward(peers, frame, is_flood, out);
        self.traffic.tx_frames += sent.frames;
        self.traffic.tx_bytes += sent.bytes;
        result
    }

    /// Seals what waits for more, and queues it.
    #[inline]
    pub(crate) fn flush(&mut self, out: &mut Outputs) {
        self.wants_flush = false;
        for forwarder in &mut self.forwarders {
            match forwarder {
                Forwarder::Sleeve(sleeve) => sleeve.flush(out),
                Forwarder::Dead => {}
            }
        }
    }

    /// Tells the control half if the link has just become established.
    fn note_established(&mut self, out: &mut Outputs) {
        let is_established = self.forwarders.iter().any(|forwarder| match forwarder {
            Forwarder::Sleeve(sleeve) => sleeve.is_established(),
            Forwarder::Dead => false,
        });
        if is_established && !self.established {
            self.established = true;
            tracing::debug!(peer = %self.peer, "overlay established");
            out.events.push_back(Event::Established(self.id));
        }
    }

    /// Tells the control half if the link has just lost its last overlay, to `error`.
    fn note_failed(&mut self, error: LinkError, out: &mut Outputs) {
        let is_dead = self
            .forwarders
            .iter()
            .all(|forwarder| matches!(forwarder, Forwarder::Dead));
        if is_dead && !self.failed {
            self.failed = true;
            tracing::debug!(peer = %self.peer, %error, "overlay failed");
            out.events.push_back(Event::Failed(self.id, error));
        }
    }

    /// What to show about the link.
    pub(crate) fn status(&self) -> LinkStatus {
        let mut status = LinkStatus {
            peer: self.peer,
            overlay: "",
            established: self.established && !self.failed,
            encrypted: false,
            address: None,
            mtu: 0,
            fragments: false,
            traffic: self.traffic,
        };
        for forwarder in &self.forwarders {
            if let Forwarder::Sleeve(sleeve) = forwarder {
                sleeve.fill_status(&mut status);
                break;
            }
        }
        status
    }
}
