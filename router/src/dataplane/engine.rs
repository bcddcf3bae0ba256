//! One engine per host, driven by one thread, or by several in turn.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use proto::PeerName;

use super::links::{LinkIndex, Links};
use super::{Command, DataOptions, DropReason, Entropy, Event, OverlayControl, Transmit, Worker};
use crate::LinkId;
use crate::constants::{INJECT_QUEUE_LEN, MAC_SWEEP, QUEUE_TESTS};
use crate::offload::{Delivery, Offload, checksum};
use crate::overlay::{Link, Outputs, Refused, too_long_answer};
use crate::status::{DataStatus, MacStatus, Traffic};
use crate::switch::{FloodLimit, Neighbours, Switch, Verdict};
use crate::topology::Routes;
use crate::wire::ethernet::Frame;
use crate::wire::shuttle;

/// Moves frames between the local bridge and the neighbours.
///
/// # Contract
///
/// * After every call of a `handle_*` method, take what [`poll_transmit`](Self::poll_transmit),
///   [`poll_frame`](Self::poll_frame) and [`poll_event`](Self::poll_event) have until each says
///   `None`. They are cheap when there is nothing.
/// * After a batch of frames and datagrams, and before waiting for more, call
///   [`flush`](Self::flush) and take what it made ready: until then frames may wait for others to
///   share their packet.
/// * Call [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) says.
///
/// No call allocates per frame, and nothing here blocks. What is dropped is counted by
/// [`DropReason`].
///
/// # Several threads
///
/// Each has a [`Worker`], and calls the engine [on behalf of it](Self::on_behalf_of), one at a time.
/// What takes time needs no engine: opening datagrams, between [`opener`](Self::opener) and
/// [`handle_opened`](Self::handle_opened), and sealing them, [`Worker::poll_transmit`]. Worker 0, that
/// of an engine with one thread, has commands, timeouts and events; the others
/// [test](Self::test_queues) their own queues from time to time.
#[derive(Debug)]
pub struct DataPlane {
    ours: PeerName,
    options: DataOptions,
    routes: Arc<Routes>,
    switch: Switch,
    flood_limit: FloodLimit,
    /// `None`: questions for neighbours are left to them.
    neighbours: Option<Neighbours>,
    links: Links,
    out: Outputs,
    /// Where the frames to deliver stand in the last datagram.
    delivered: Vec<Delivery>,
    /// Frames for the local bridge that stand in no datagram.
    injected: VecDeque<Vec<u8>>,
    /// The one handed out by the last `poll_frame`.
    lent: Option<Vec<u8>>,
    local: Traffic,
    sweep_at: Instant,
    /// The next deadline; `None` if it has to be looked for.
    next_timeout: Option<Instant>,
}

impl DataPlane {
    /// The engine of peer `ours`, without links and routes.
    pub fn new(ours: PeerName, options: DataOptions, entropy: Entropy, now: Instant) -> Self {
        Self {
            ours,
            options,
            routes: Arc::default(),
            switch: Switch::new(ours),
            flood_limit: FloodLimit::new(options.flood_limit, now),
            neighbours: options.answer_neighbours.then(Neighbours::default),
            links: Links::default(),
            out: Outputs::new(entropy),
            delivered: Vec::new(),
            injected: VecDeque::new(),
            lent: None,
            local: Traffic::default(),
            sweep_at: now + MAC_SWEEP,
            next_timeout: None,
        }
    }

    /// Works on behalf of this worker instead of the engine's own.
    #[inline]
    pub fn on_behalf_of<T>(&mut self, worker: &mut Worker, work: impl FnOnce(&mut Self) -> T) -> T {
        std::mem::swap(&mut self.out.worker, worker);
        let result = work(self);
        std::mem::swap(&mut self.out.worker, worker);
        result
    }

    /// The control half has something to say.
    pub fn handle_command(&mut self, command: Command, now: Instant) {
        self.next_timeout = None;
        match command {
            Command::AddLink(config) => {
                let links = &self.links;
                let session = self
                    .out
                    .session(|session| links.by_session(session).is_some());
                let link = Link::new(self.ours, session, &self.options, &config, now);
                self.links.insert(link);
            }
            Command::Confirm(id) => self.links.confirm(id, now, &mut self.out),
            Command::Control(id, control) => self.handle_control(id, &control, now),
            Command::RemoveLink(id) => self.links.remove(id),
            Command::Routes(routes) => self.routes = routes,
            Command::PeerForgotten(peer) => self.switch.forget(peer),
        }
    }

    fn handle_control(&mut self, id: LinkId, control: &OverlayControl, now: Instant) {
        let Some(index) = self.links.by_id(id) else {
            return;
        };
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        if !link.takes_frames(control) {
            return link.handle_control(control, now, &mut self.out);
        }
        // The answer is sent with the next flush.
        let neighbour = link.peer();
        self.links.note_unflushed(index, &mut self.out.worker);
        for record in shuttle::Records::new(&control.body, 0) {
            let result = match record {
                Err(_) => Err(DropReason::Malformed),
                Ok(shuttle::Record::Note(_)) => Err(DropReason::SpecialInvalid),
                Ok(shuttle::Record::Frame {
                    names,
                    checksum,
                    frame,
                    ..
                }) => {
                    let peers = names.unwrap_or((neighbour, self.ours));
                    let from = (index, neighbour);
                    self.handle_relayed(from, peers, frame, checksum, now)
                        .map(|is_ours| is_ours.then_some((frame, checksum)))
                }
            };
            match result {
                Ok(Some((frame, checksum))) => {
                    let mut frame = frame.to_vec();
                    checksum::complete(&mut frame, checksum);
                    self.inject(frame);
                }
                Ok(None) => {}
                Err(reason) => self.out.drops.count(reason),
            }
        }
    }

    /// A frame captured from the local bridge, and what is left to do for it. A super-frame is one
    /// frame to the switch; each overlay gets it as it can take it.
    #[inline]
    pub fn handle_frame(&mut self, frame: &[u8], offload: &Offload, now: Instant) {
        self.local.rx_frames += 1;
        self.local.rx_bytes += frame.len() as u64;
        let Ok(frame) = Frame::new_checked(frame) else {
            return self.out.drops.count(DropReason::FrameTooShort);
        };
        // The original lets these through; a container could then talk to its neighbour's overlay.
        if frame.is_special() {
            return self.out.drops.count(DropReason::SpecialFromBridge);
        }
        match self.switch.captured(&frame, now) {
            Verdict::Drop(reason) => self.out.drops.count(reason),
            Verdict::Unicast(peer) => {
                self.unicast((self.ours, peer), &frame, offload, None, now);
            }
            Verdict::Flood => self.flood_captured(&frame, offload, now),
            Verdict::Deliver => {}
        }
    }

    /// A frame of the local bridge for everybody.
    fn flood_captured(&mut self, frame: &Frame<'_>, offload: &Offload, now: Instant) {
        if let Some(neighbours) = &self.neighbours
            && let Some(answer) = neighbours.answer(frame, self.ours, self.switch.table(), now)
        {
            self.out.drops.count(DropReason::Answered);
            self.inject(answer);
        } else if self.flood_limit.takes(frame.bytes().len(), now) {
            self.flood(self.ours, frame, offload, None);
        } else {
            self.out.drops.count(DropReason::FloodLimit);
        }
    }

    /// Tests the queue of the worker to the next neighbours, so that its packets go by a port of their
    /// own where they get through. Returns whether all have had their turn: then the next round is due
    /// in [`SHUTTLE_HEARTBEAT`](crate::constants::SHUTTLE_HEARTBEAT), else go on once these tests are
    /// sent. For all workers but the first.
    pub fn test_queues(&mut self, now: Instant) -> bool {
        let start = self.out.worker.tested;
        let mut links = self.links.iter_mut().skip(start);
        for link in links.by_ref().take(QUEUE_TESTS) {
            link.test_queue(now, &mut self.out);
        }
        let is_round = links.next().is_none();
        self.out.worker.tested = if is_round { 0 } else { start + QUEUE_TESTS };
        is_round
    }

    /// Whether worker 0 should look at deadlines and events.
    #[inline]
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.next_timeout.is_none() || !self.out.events.is_empty()
    }

    /// Seals and queues what waits for more.
    #[inline]
    pub fn flush(&mut self) {
        self.links.flush(&mut self.out);
    }

    /// A datagram of this link with DF set was refused because it is longer than the path MTU,
    /// which the kernel says is `path_mtu`.
    pub fn handle_too_long(&mut self, link: LinkId, path_mtu: u16, now: Instant) {
        self.next_timeout = None;
        if let Some(index) = self.links.by_id(link)
            && let Some(link) = self.links.get_mut(index)
        {
            link.handle_too_long(path_mtu, now, &mut self.out);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.next_timeout = None;
        if self.sweep_at <= now {
            self.sweep_at = now + MAC_SWEEP;
            self.switch.sweep(now);
            if let Some(neighbours) = &mut self.neighbours {
                neighbours.sweep(now);
            }
        }
        for link in self.links.iter_mut() {
            link.handle_timeout(now, &mut self.out);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        if self.next_timeout.is_none() {
            let timeouts = self.links.iter().filter_map(Link::next_timeout);
            self.next_timeout = timeouts.chain([self.sweep_at]).min();
        }
        self.next_timeout
    }

    /// The next datagrams to send. The bytes are lent until the next call.
    #[inline]
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        self.out.worker.poll_transmit()
    }

    /// The next frame of our own for the local bridge. The bytes are lent until the next call.
    #[inline]
    pub fn poll_frame(&mut self) -> Option<&[u8]> {
        self.lent = Some(self.injected.pop_front()?);
        self.lent.as_deref()
    }

    /// The next thing that the control half should know.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    /// What to show: addresses and links in order of their names.
    pub fn status(&self, now: Instant) -> DataStatus {
        let age = |seen_at| now.saturating_duration_since(seen_at).as_secs_f64();
        let mut macs: Vec<_> = self.switch.table().iter().collect();
        macs.sort_unstable_by_key(|entry| entry.mac);
        let mut links: Vec<_> = self.links.iter().map(Link::status).collect();
        links.sort_by_key(|link| link.peer);
        DataStatus {
            macs: macs
                .into_iter()
                .map(|entry| MacStatus {
                    mac: entry.mac,
                    peer: entry.peer,
                    age: age(entry.seen_at),
                })
                .collect(),
            links,
            local: self.local,
            drops: self
                .out
                .drops
                .iter()
                .map(|(reason, count)| (reason.name(), count))
                .collect(),
        }
    }

    /// Puts a frame into the queue for the local bridge.
    fn inject(&mut self, frame: Vec<u8>) {
        if self.injected.len() < INJECT_QUEUE_LEN {
            self.local.tx_frames += 1;
            self.local.tx_bytes += frame.len() as u64;
            self.injected.push_back(frame);
        } else {
            self.out.drops.count(DropReason::InjectQueueFull);
        }
    }

    /// A frame that came over the overlay, by the link `from`. Returns whether it goes to the
    /// local bridge.
    #[inline]
    fn receive(
        &mut self,
        (origin, destination): (PeerName, PeerName),
        frame: &Frame<'_>,
        offload: &Offload,
        from: Option<LinkIndex>,
        now: Instant,
    ) -> Result<bool, DropReason> {
        if origin == self.ours {
            tracing::debug!(source = %frame.source(), "an own frame came back over the overlay");
        }
        if destination != self.ours {
            self.unicast((origin, destination), frame, offload, from, now);
            return Ok(false);
        }
        if let Some(neighbours) = &mut self.neighbours
            && origin != self.ours
        {
            neighbours.learn(frame, now);
        }
        match self.switch.arrived(origin, frame, now) {
            Verdict::Drop(reason) => Err(reason),
            Verdict::Deliver => Ok(true),
            Verdict::Flood | Verdict::Unicast(_) => {
                self.flood(origin, frame, offload, from);
                Ok(true)
            }
        }
    }

    /// Sends a frame towards its destination peer. If it came by the link `from` it does not go
    /// back there: views of the topology that differ for a moment would toss it to and fro.
    #[inline]
    fn unicast(
        &mut self,
        peers: (PeerName, PeerName),
        frame: &Frame<'_>,
        offload: &Offload,
        from: Option<LinkIndex>,
        now: Instant,
    ) {
        let (_, destination) = peers;
        let forwarded = match self.routes.unicast(destination) {
            None => Err(Refused::Drop(DropReason::NoRoute)),
            Some(hop) => match self.links.by_peer(hop) {
                None => Err(Refused::Drop(DropReason::NoLink)),
                index if index == from => Err(Refused::Drop(DropReason::SentBack)),
                Some(index) => Self::forward(
                    &mut self.links,
                    index,
                    peers,
                    (frame, offload),
                    false,
                    &mut self.out,
                ),
            },
        };
        match forwarded {
            Ok(()) => {}
            Err(Refused::Next) => self.out.drops.count(DropReason::NoLink),
            Err(Refused::Drop(reason)) => self.out.drops.count(reason),
            Err(Refused::TooLong { mtu }) => {
                self.out.drops.count(DropReason::FragmentationNeeded);
                self.answer_too_long(peers, frame, mtu, now);
            }
        }
    }

    /// Sends a frame along the broadcast tree of its origin.
    #[inline]
    fn flood(
        &mut self,
        origin: PeerName,
        frame: &Frame<'_>,
        offload: &Offload,
        from: Option<LinkIndex>,
    ) {
        for &hop in self.routes.broadcast(origin) {
            let forwarded = match self.links.by_peer(hop) {
                None => Err(Refused::Drop(DropReason::NoLink)),
                index if index == from => Err(Refused::Drop(DropReason::SentBack)),
                Some(index) => Self::forward(
                    &mut self.links,
                    index,
                    (origin, hop),
                    (frame, offload),
                    true,
                    &mut self.out,
                ),
            };
            match forwarded {
                Ok(()) => {}
                Err(Refused::Next) => self.out.drops.count(DropReason::NoLink),
                Err(Refused::Drop(reason)) => self.out.drops.count(reason),
                Err(Refused::TooLong { .. }) => self.out.drops.count(DropReason::FloodTooBig),
            }
        }
    }

    #[inline]
    fn forward(
        links: &mut Links,
        index: LinkIndex,
        peers: (PeerName, PeerName),
        frame: (&Frame<'_>, &Offload),
        is_flood: bool,
        out: &mut Outputs,
    ) -> Result<(), Refused> {
        let link = links
            .get_mut(index)
            .ok_or(Refused::Drop(DropReason::NoLink))?;
        let result = link.forward(peers, frame, is_flood, out);
        links.note_unflushed(index, &mut out.worker);
        result
    }

    /// Tells the sender of a frame that is too long for a link. The answer is handled as if it had
    /// come from the frame's destination peer to its origin peer. It may be fragmented, so it never
    /// gets such an answer itself.
    #[cold]
    fn answer_too_long(
        &mut self,
        (origin, destination): (PeerName, PeerName),
        frame: &Frame<'_>,
        mtu: u16,
        now: Instant,
    ) {
        let Some(answer) = too_long_answer(frame, mtu) else {
            return;
        };
        let Ok(view) = Frame::new_checked(&answer) else {
            return;
        };
        match self.receive((destination, origin), &view, &Offload::NONE, None, now) {
            Ok(true) => self.inject(answer),
            Ok(false) => {}
            Err(reason) => self.out.drops.count(reason),
        }
    }
}

mod receive;
#[cfg(test)]
mod tests;
