//! Overlays: how frames travel to one neighbour.
//!
//! A `Link` is one mesh connection seen from the data half. It has a forwarder for each overlay
//! that both ends speak, all set up side by side, and sends each frame over the first that is
//! established. If that one cannot take a frame, the next one is tried.
//!
//! | overlay | neighbour | frames travel |
//! |---|---|---|
//! | shuttle | of our own kind | in UDP datagrams, sealed by what the processors do best |
//! | sleeve | any | in UDP datagrams, as those of Weave |
//! | stream | of our own kind | in the TCP connection, for want of UDP |
//!
//! Source: Weave data plane, section 3.

mod aggregate;
mod envelope;
mod fragment;
pub mod negotiate;
mod opener;
mod outbox;
mod pmtu;
mod shuttle;
mod sleeve;
mod stream;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use proto::PeerName;
use zeroize::Zeroizing;

use crate::LinkId;
use crate::constants::ANSWER_QUEUE_LEN;
use crate::dataplane::{
    DataOptions, DropReason, Drops, Entropy, Event, LinkConfig, LinkError, OverlayControl, Worker,
};
use crate::offload::{Offload, Piece};
use crate::status::{LinkStatus, Traffic};
use crate::wire::ethernet::Frame;
use crate::wire::shuttle::{Header, MAX_QUEUES, Note};
use crate::wire::sleeve::Special;

pub(crate) use fragment::too_long_answer;
pub(crate) use opener::{Id, Kind};
pub use opener::{Opened, Opener};
pub(crate) use outbox::Outbox;
pub use outbox::Transmit;
pub use shuttle::RekeyLimits;
pub(crate) use shuttle::Shuttle;
pub(crate) use sleeve::Sleeve;
pub(crate) use stream::Stream;

/// What links produce besides return values.
pub(crate) struct Outputs {
    /// On whose behalf the engine is at work.
    pub(crate) worker: Worker,
    pub(crate) events: VecDeque<Event>,
    pub(crate) drops: Drops,
    /// For frames that have to be built; of no meaning between calls.
    pub(crate) scratch: Vec<u8>,
    entropy: Entropy,
}

impl Outputs {
    pub(crate) fn new(entropy: Entropy) -> Self {
        Self {
            worker: Worker::default(),
            events: VecDeque::new(),
            drops: Drops::default(),
            scratch: Vec::new(),
            entropy,
        }
    }

    /// Fresh secret bytes.
    fn random(&mut self) -> Zeroizing<[u8; 32]> {
        let mut bytes = Zeroizing::new([0; 32]);
        self.entropy.fill_bytes(&mut *bytes);
        bytes
    }

    /// A number for a session that is in no other use, as `is_taken` says.
    pub(crate) fn session(&mut self, is_taken: impl Fn(u32) -> bool) -> u32 {
        loop {
            let session = self.entropy.next_u32();
            if !is_taken(session) {
                return session;
            }
        }
    }

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
    /// Not by this overlay; another one may take it.
    Next,
    /// Too long and not to be fragmented: its sender must be told this MTU.
    TooLong {
        /// Overlay MTU of the link.
        mtu: u16,
    },
}

impl std::fmt::Debug for Outputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outputs")
            .field("events", &self.events)
            .field("drops", &self.drops)
            .finish_non_exhaustive()
    }
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
    /// Our own, over UDP on the mesh port.
    Shuttle(Box<Shuttle>),
    /// Userspace, over UDP on the mesh port.
    Sleeve(Box<Sleeve>),
    /// Over the TCP connection.
    Stream(Box<Stream>),
    /// Failed, or unknown to this program: keeps its index, and is never used.
    Dead,
}

impl Forwarder {
    #[inline]
    fn is_established(&self) -> bool {
        match self {
            Self::Shuttle(shuttle) => shuttle.is_established(),
            Self::Sleeve(sleeve) => sleeve.is_established(),
            Self::Stream(stream) => stream.is_established(),
            Self::Dead => false,
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Shuttle(_) => negotiate::SHUTTLE,
            Self::Sleeve(_) => negotiate::SLEEVE,
            Self::Stream(_) => negotiate::STREAM,
            Self::Dead => "",
        }
    }

    /// Takes a frame, as many of them as a super-frame is made of.
    #[inline]
    fn forward(
        &mut self,
        peers: (PeerName, PeerName),
        frame: (&Frame<'_>, &Offload),
        is_flood: bool,
        out: &mut Outputs,
    ) -> (Result<(), Refused>, Taken) {
        match self {
            Self::Shuttle(shuttle) => shuttle.forward(peers, frame, is_flood, out),
            Self::Sleeve(sleeve) => sleeve.forward(peers, frame, is_flood, out),
            Self::Stream(stream) => stream.forward(peers, frame, out),
            Self::Dead => (Err(Refused::Next), Taken::default()),
        }
    }
}

/// The bit of a worker in a set of them.
pub(crate) const fn worker_bit(index: usize) -> u16 {
    1 << (index % MAX_QUEUES)
}

/// One mesh connection, seen from the data half.
#[derive(Debug)]
pub(crate) struct Link {
    id: LinkId,
    peer: PeerName,
    forwarders: Vec<Forwarder>,
    /// Position of the overlay in use.
    active: Option<usize>,
    established: bool,
    failed: bool,
    traffic: Traffic,
    /// Workers that have noted that this link wants a flush, a bit for each.
    pub(crate) wants_flush: u16,
}

impl Link {
    /// Prepares all overlays of the link, without sending yet. `session` is a number that no other
    /// link has.
    pub(crate) fn new(
        ours: PeerName,
        session: u32,
        options: &DataOptions,
        config: &LinkConfig,
        now: Instant,
    ) -> Self {
        let forwarder = |(index, name): (u8, &String)| match name.as_str() {
            negotiate::SHUTTLE => {
                let workers = options.workers;
                let shuttle =
                    Shuttle::new(ours, index, session, workers, options.shuttle, config, now);
                Forwarder::Shuttle(Box::new(shuttle))
            }
            negotiate::SLEEVE => {
                Forwarder::Sleeve(Box::new(Sleeve::new(ours, index, options.workers, config)))
            }
            negotiate::STREAM => Forwarder::Stream(Box::new(Stream::new(ours, index, config))),
            _ => Forwarder::Dead,
        };
        Self {
            id: config.link,
            peer: config.peer,
            forwarders: (0..=u8::MAX).zip(&config.overlays).map(forwarder).collect(),
            active: None,
            established: false,
            failed: false,
            traffic: Traffic::default(),
            wants_flush: 0,
        }
    }

    pub(crate) const fn id(&self) -> LinkId {
        self.id
    }

    pub(crate) const fn peer(&self) -> PeerName {
        self.peer
    }

    /// The number by which shuttle packets find this link, if it has shuttle.
    pub(crate) fn session(&self) -> Option<u32> {
        let mut forwarders = self.forwarders.iter();
        forwarders.find_map(|forwarder| match forwarder {
            Forwarder::Shuttle(shuttle) => Some(shuttle.session()),
            _ => None,
        })
    }

    /// The connection has been added to the mesh: the overlays may talk.
    pub(crate) fn confirm(&mut self, now: Instant, out: &mut Outputs) {
        for forwarder in &mut self.forwarders {
            match forwarder {
                Forwarder::Shuttle(shuttle) => shuttle.confirm(now, out),
                Forwarder::Sleeve(sleeve) => sleeve.confirm(now, out),
                Forwarder::Stream(stream) => stream.confirm(now),
                Forwarder::Dead => {}
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
        match forwarder {
            Forwarder::Shuttle(shuttle) => {
                // The same path, so most probably the same trouble.
                if shuttle.handle_control(control, now, out)
                    && let Some(sleeve) = self.sleeve()
                {
                    sleeve.doubt(now, out);
                }
            }
            Forwarder::Sleeve(sleeve) => {
                if let Err(error) = sleeve.handle_control(control, now, out) {
                    *forwarder = Forwarder::Dead;
                    self.note_failed(error, out);
                }
            }
            Forwarder::Stream(stream) => stream.handle_control(control),
            Forwarder::Dead => {}
        }
        self.note_established(out);
    }

    /// Whether a control message brings frames over TCP. If so they are as good as received.
    pub(crate) fn takes_frames(&mut self, control: &OverlayControl) -> bool {
        match self.forwarders.get_mut(usize::from(control.index)) {
            Some(Forwarder::Stream(stream)) if control.tag == stream::TAG_FRAMES => {
                stream.note_taken(control.body.len());
                true
            }
            _ => false,
        }
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant, out: &mut Outputs) {
        for index in 0..self.forwarders.len() {
            let Some(forwarder) = self.forwarders.get_mut(index) else {
                continue;
            };
            let result = match forwarder {
                Forwarder::Shuttle(shuttle) => shuttle.handle_timeout(now, out),
                Forwarder::Sleeve(sleeve) => sleeve.handle_timeout(now, out),
                Forwarder::Stream(stream) => {
                    stream.handle_timeout(now);
                    Ok(())
                }
                Forwarder::Dead => Ok(()),
            };
            if let Err(error) = result {
                *forwarder = Forwarder::Dead;
                self.note_failed(error, out);
            }
        }
        self.note_established(out);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let timeouts = self
            .forwarders
            .iter()
            .filter_map(|forwarder| match forwarder {
                Forwarder::Shuttle(shuttle) => shuttle.next_timeout(),
                Forwarder::Sleeve(sleeve) => sleeve.next_timeout(),
                Forwarder::Stream(stream) => stream.next_timeout(),
                Forwarder::Dead => None,
            });
        timeouts.min()
    }

    /// The sleeve forwarder, if it is set up and works.
    #[inline]
    pub(crate) fn sleeve(&mut self) -> Option<&mut Sleeve> {
        let mut forwarders = self.forwarders.iter_mut();
        forwarders.find_map(|forwarder| match forwarder {
            Forwarder::Sleeve(sleeve) => Some(&mut **sleeve),
            _ => None,
        })
    }

    /// The shuttle forwarder, if it is set up and works.
    #[inline]
    pub(crate) fn shuttle(&mut self) -> Option<&mut Shuttle> {
        let mut forwarders = self.forwarders.iter_mut();
        forwarders.find_map(|forwarder| match forwarder {
            Forwarder::Shuttle(shuttle) => Some(&mut **shuttle),
            _ => None,
        })
    }

    /// What opens a sleeve packet of the neighbour, if that is worth while.
    #[inline]
    pub(crate) fn sleeve_opener(&self, packet: &[u8]) -> Result<Opener, DropReason> {
        let mut forwarders = self.forwarders.iter();
        let envelope = forwarders.find_map(|forwarder| match forwarder {
            Forwarder::Sleeve(sleeve) => Some(sleeve.opener(packet)),
            _ => None,
        });
        Ok(Opener(Kind::Sleeve {
            sender: self.peer,
            envelope: envelope.unwrap_or(Err(DropReason::NoLink))?,
        }))
    }

    /// What opens a shuttle packet of the neighbour, if that is worth while.
    #[inline]
    pub(crate) fn shuttle_opener(&self, header: &Header) -> Result<Opener, DropReason> {
        let mut forwarders = self.forwarders.iter();
        let key = forwarders.find_map(|forwarder| match forwarder {
            Forwarder::Shuttle(shuttle) => Some(shuttle.opener(header)),
            _ => None,
        });
        Ok(Opener(Kind::Shuttle {
            header: *header,
            key: key.unwrap_or(Err(DropReason::NoLink))?,
        }))
    }

    /// A note of the neighbour in a shuttle packet that came by this queue of its.
    pub(crate) fn handle_note(
        &mut self,
        note: Note,
        queue: u8,
        from: SocketAddr,
        now: Instant,
        out: &mut Outputs,
    ) {
        if let Some(shuttle) = self.shuttle() {
            shuttle.handle_note(note, queue, from, now, out);
        }
    }

    /// Tests the worker's own queue to the neighbour.
    pub(crate) fn test_queue(&mut self, now: Instant, out: &mut Outputs) {
        if let Some(shuttle) = self.shuttle()
            && shuttle.is_established()
        {
            shuttle.test_queue(now, out);
        }
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

    /// A datagram was refused as longer than `path_mtu`. It does not matter of which overlay: they
    /// share the path.
    pub(crate) fn handle_too_long(&mut self, path_mtu: u16, now: Instant, out: &mut Outputs) {
        if let Some(shuttle) = self.shuttle() {
            shuttle.handle_too_long(path_mtu, now, out);
        }
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

    /// Sends a frame to the neighbour: over the first established overlay that takes it, or, if
    /// none is established, over the first that works. `is_flood` is said of frames that go to
    /// several neighbours.
    #[inline]
    pub(crate) fn forward(
        &mut self,
        peers: (PeerName, PeerName),
        frame: (&Frame<'_>, &Offload),
        is_flood: bool,
        out: &mut Outputs,
    ) -> Result<(), Refused> {
        let all = self.active.is_none();
        let mut refused = Refused::Drop(DropReason::NoLink);
        for forwarder in &mut self.forwarders {
            if !all && !forwarder.is_established() {
                continue;
            }
            let (result, sent) = forwarder.forward(peers, frame, is_flood, out);
            self.traffic.tx_frames += sent.frames;
            self.traffic.tx_bytes += sent.bytes;
            match result {
                Err(Refused::Next) => {
                    if !all {
                        refused = Refused::Drop(DropReason::TooBig);
                    }
                }
                result => return result,
            }
        }
        Err(refused)
    }

    /// Seals what waits for more, and queues it.
    #[inline]
    pub(crate) fn flush(&mut self, out: &mut Outputs) {
        self.wants_flush &= !worker_bit(out.worker.index);
        for forwarder in &mut self.forwarders {
            match forwarder {
                Forwarder::Shuttle(shuttle) => shuttle.flush(out),
                Forwarder::Sleeve(sleeve) => sleeve.flush(out),
                Forwarder::Stream(stream) => stream.flush(out),
                Forwarder::Dead => {}
            }
        }
    }

    /// Notes which overlay is in use, and tells the control half if the link has just become
    /// established.
    fn note_established(&mut self, out: &mut Outputs) {
        let active = self.forwarders.iter().position(Forwarder::is_established);
        if active == self.active {
            return;
        }
        self.active = active;
        let Some(forwarder) = active.and_then(|active| self.forwarders.get(active)) else {
            tracing::info!("->[{}] no overlay works", self.peer);
            return;
        };
        let name = forwarder.name();
        match self.fallback() {
            None if name == negotiate::SLEEVE => {} // it says so itself
            None => tracing::info!("->[{}] using {name}", self.peer),
            Some(reason) => tracing::info!("->[{}] using {name}: {reason}", self.peer),
        }
        if !self.established {
            self.established = true;
            tracing::debug!(peer = %self.peer, "overlay established");
            out.events.push_back(Event::Established(self.id));
        }
    }

    /// Why the overlay in use is not the best that both ends speak.
    fn fallback(&self) -> Option<&'static str> {
        match self.forwarders.first()? {
            _ if self.active == Some(0) => None,
            Forwarder::Shuttle(shuttle) => shuttle.trouble(),
            Forwarder::Sleeve(_) => Some("UDP does not reach the neighbour"),
            Forwarder::Dead => Some("the best overlay has failed"),
            Forwarder::Stream(_) => None,
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
            fallback: self.active.and_then(|_| self.fallback()),
            cipher: None,
            established: self.established && !self.failed,
            encrypted: false,
            address: None,
            mtu: 0,
            fragments: false,
            queues: 1,
            traffic: self.traffic,
        };
        let in_use = match self.active {
            Some(active) => self.forwarders.get(active),
            // The first that may come to work.
            None => self
                .forwarders
                .iter()
                .find(|forwarder| !matches!(forwarder, Forwarder::Dead)),
        };
        match in_use {
            Some(Forwarder::Shuttle(shuttle)) => shuttle.fill_status(&mut status),
            Some(Forwarder::Sleeve(sleeve)) => sleeve.fill_status(&mut status),
            Some(Forwarder::Stream(stream)) => stream.fill_status(&mut status),
            Some(Forwarder::Dead) | None => {}
        }
        status
    }
}
