//! The shuttle link: frames in UDP datagrams on the mesh port, between two of our own kind.
//!
//! ```text
//! prepared --confirm--> greeting --hello--> ready
//!                                             |  heartbeats: often, until the neighbour has heard
//!                                             v  one; again when it says that it hears us no more
//!                              unheard <----------------> established
//!                                        heard / lost
//! ```
//!
//! Each end watches what comes in, and tells the other over the TCP connection: *heard* with the
//! first genuine packet, *lost* when none has come for [`SHUTTLE_SILENCE`]. "Established" therefore
//! means that the neighbour hears us, at this time; each end learns it on its own. A link that is
//! not established is probed on: it never fails as long as the TCP connection lives and frames can
//! travel there.
//!
//! The dialler of the connection knows where to send from the start, the acceptor learns it from the
//! first packet. If packets are sealed, every genuine one that is later than all before tells where
//! the neighbour is; if not, heartbeats with the connection's number do.
//!
//! All packets have DF set. The MTU is searched as for sleeve, and checked again now and then.
//! Frames that do not fit are refused: the next overlay may know how to send them in pieces.
//!
//! Source: docs/wire/shuttle.md.

mod queues;
mod rekey;
mod send;
mod session;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use proto::{ConnectionUid, PeerName};

use super::Outputs;
use super::pmtu::{Action, Pmtu};
use crate::LinkId;
use crate::constants::{
    HEARTBEAT_TIMEOUT, KEY_VOLUME_MAX, SHUTTLE_HEARTBEAT, SHUTTLE_MTU_CHECK, SHUTTLE_MTU_RAISE,
    SHUTTLE_SILENCE,
};
use crate::crypto::aead::{AeadKey, TAG_LEN};
use crate::crypto::keys::Ephemeral;
use crate::crypto::session::{PUBLIC_KEY_LEN, SessionKey};
use crate::dataplane::{DropReason, Event, LinkConfig, LinkError, OverlayControl, ShuttleOptions};
use crate::status::LinkStatus;
use crate::wire::ethernet;
use crate::wire::shuttle::{
    Control, HEADER_LEN, Header, Hello, Note, RECORD_HEADER_LEN, heartbeat, mtu_test,
};

use queues::Queues;
use rekey::Keys;
pub use rekey::RekeyLimits;
use session::{Incoming, Outgoing};

#[derive(Debug)]
enum State {
    /// May not talk yet.
    Prepared,
    /// We have said hello.
    Greeting {
        hello: Vec<u8>,
        ephemeral: Option<Ephemeral>,
    },
    /// So has the neighbour, and keys are agreed on.
    Ready {
        outgoing: Arc<Outgoing>,
        incoming: Box<Incoming>,
        /// `None`: packets are not sealed.
        keys: Option<Box<Keys>>,
    },
    /// We do not understand each other.
    Refused(&'static str),
}

/// Shuttle on one connection.
#[derive(Debug)]
pub(crate) struct Shuttle {
    link: LinkId,
    index: u8,
    ours: PeerName,
    peer: PeerName,
    uid: ConnectionUid,
    local: IpAddr,
    is_dialler: bool,
    options: ShuttleOptions,
    /// Whether there is another way than UDP, so that silence is not the end.
    has_stream: bool,
    /// Our number of the link.
    session: u32,
    /// Gone once the first keys are made.
    secret: Option<SessionKey>,
    is_sealed: bool,
    state: State,
    /// The ways out, one for each worker.
    queues: Queues,
    pmtu: Pmtu,
    /// Where the neighbour receives.
    remote: Option<SocketAddr>,
    /// Whether the neighbour hears us.
    is_heard: bool,
    was_heard: bool,
    /// Whether we hear the neighbour, and have said so.
    hears: bool,
    heard_at: Instant,
    silence_at: Option<Instant>,
    heartbeat_at: Option<Instant>,
    probe_count: u32,
    mtu_check_at: Option<Instant>,
    mtu_checks: u32,
    /// Whether the keys have become too old, or sealed too much.
    is_worn: bool,
}

impl Shuttle {
    /// Prepares; sends nothing. `session` is the number by which packets find this link.
    pub(crate) fn new(
        ours: PeerName,
        index: u8,
        session: u32,
        workers: usize,
        options: ShuttleOptions,
        config: &LinkConfig,
        now: Instant,
    ) -> Self {
        let is_sealed = config.key.is_some();
        let tag_len = if is_sealed { TAG_LEN } else { 0 };
        let has_stream = config
            .overlays
            .iter()
            .any(|name| name == super::negotiate::STREAM);
        let overhead = HEADER_LEN + RECORD_HEADER_LEN + ethernet::HEADER_LEN + tag_len;
        Self {
            link: config.link,
            index,
            ours,
            peer: config.peer,
            uid: config.uid,
            local: config.local.ip(),
            is_dialler: config.outbound,
            options,
            has_stream,
            session,
            secret: config.key.clone(),
            is_sealed,
            state: State::Prepared,
            queues: Queues::new(workers),
            pmtu: Pmtu::with_overhead(config.peer, super::negotiate::SHUTTLE, overhead),
            remote: config.remote,
            is_heard: false,
            was_heard: false,
            hears: false,
            heard_at: now,
            silence_at: None,
            heartbeat_at: None,
            probe_count: 0,
            mtu_check_at: None,
            mtu_checks: 0,
            is_worn: false,
        }
    }

    /// The number by which packets find this link.
    pub(crate) const fn session(&self) -> u32 {
        self.session
    }

    /// Whether the neighbour hears us.
    #[inline]
    pub(crate) const fn is_established(&self) -> bool {
        self.is_heard && !self.is_worn
    }

    /// Why it is not established.
    pub(crate) fn trouble(&self) -> Option<&'static str> {
        match &self.state {
            State::Refused(reason) => Some(reason),
            State::Prepared | State::Greeting { .. } => Some("shuttle: no answer to our hello"),
            State::Ready { .. } if self.is_worn => Some("shuttle: no new keys in time"),
            State::Ready { .. } if self.is_heard => None,
            State::Ready { .. } if !self.hears => Some("no UDP comes from the neighbour"),
            State::Ready { .. } => Some("UDP does not reach the neighbour"),
        }
    }

    /// The connection is part of the mesh: talk.
    pub(crate) fn confirm(&mut self, now: Instant, out: &mut Outputs) {
        if !matches!(self.state, State::Prepared) {
            return;
        }
        let ephemeral = self.is_sealed.then(|| Ephemeral::new(&out.random()));
        let hello = Hello {
            suites: self.options.suites,
            session: self.session,
            public: ephemeral
                .as_ref()
                .map_or([0; PUBLIC_KEY_LEN], Ephemeral::public),
        };
        let hello = Control::Hello(hello);
        self.send_control(&hello, out);
        self.state = State::Greeting {
            hello: hello.encode().1,
            ephemeral,
        };
        self.heard_at = now;
        if !self.has_stream {
            self.silence_at = Some(now + HEARTBEAT_TIMEOUT);
        }
    }

    /// A control message of the neighbour. Those that are unknown or out of turn are passed over.
    /// Returns whether the neighbour has just stopped to hear us.
    pub(crate) fn handle_control(
        &mut self,
        control: &OverlayControl,
        now: Instant,
        out: &mut Outputs,
    ) -> bool {
        let Ok(message) = Control::decode(control.tag, &control.body) else {
            tracing::debug!(peer = %self.peer, tag = control.tag, "unknown shuttle control message");
            if control.tag == 1 && matches!(self.state, State::Greeting { .. }) {
                self.state = State::Refused("shuttle: the neighbour speaks another version");
            }
            return false;
        };
        match message {
            Control::Hello(hello) => self.handle_hello(&hello, &control.body, now, out),
            Control::Heard => self.handle_heard(now, out),
            Control::Lost => return self.handle_lost(now, out),
            Control::MtuVerified(mtu) => {
                let action = self.pmtu.handle_verified(mtu, now);
                self.act(action, out);
            }
            Control::Key(epoch, public) => self.handle_key(epoch, &public, out),
            Control::KeyAnswer(epoch, public) => self.handle_key_answer(epoch, &public, now, out),
            Control::Done(epoch) => self.handle_done(epoch, now),
            Control::QueueHeard(queue) => self.queues.note_heard(queue, now),
        }
        false
    }

    fn handle_hello(&mut self, theirs: &Hello, body: &[u8], now: Instant, out: &mut Outputs) {
        if !matches!(self.state, State::Greeting { .. }) {
            return;
        }
        let refused = State::Refused("shuttle: no cipher in common");
        let State::Greeting { hello, ephemeral } = std::mem::replace(&mut self.state, refused)
        else {
            return;
        };
        let mut key = None;
        let mut incoming = Box::new(Incoming::new(self.is_sealed));
        let mut keys = None;
        if let (Some(secret), Some(ephemeral)) = (self.secret.take(), ephemeral) {
            let Some(suite) = self.options.suites.common(theirs.suites) else {
                return;
            };
            let agreed = Keys::first(
                &secret,
                suite,
                self.is_dialler,
                (&hello, body),
                (ephemeral, &theirs.public),
                self.options.rekey,
                now,
            );
            let Ok((made, seal, open)) = agreed else {
                self.state = State::Refused("shuttle: the neighbour's key is of low order");
                return;
            };
            key = Some(seal);
            incoming.install(0, open);
            keys = Some(Box::new(made));
        }
        let outgoing = Outgoing::new(self.link, self.local, theirs.session, key);
        self.state = State::Ready {
            outgoing: Arc::new(outgoing),
            incoming,
            keys,
        };
        if self.remote.is_some() {
            self.send_heartbeat(now, out);
        }
    }

    fn handle_heard(&mut self, now: Instant, out: &mut Outputs) {
        if self.is_heard || self.remote.is_none() || !matches!(self.state, State::Ready { .. }) {
            return;
        }
        self.is_heard = true;
        self.probe_count = 0;
        self.heartbeat_at = Some(now + SHUTTLE_HEARTBEAT);
        if std::mem::replace(&mut self.was_heard, true) {
            tracing::info!("->[{}] shuttle: UDP works again", self.peer);
        }
        self.mtu_check_at = Some(now + SHUTTLE_MTU_CHECK);
        self.mtu_checks = 0;
        self.probe_mtu(out);
    }

    /// Tests the worker's own queue, and gives it up if the last tests were not heard.
    pub(crate) fn test_queue(&mut self, now: Instant, out: &mut Outputs) {
        self.flush(out);
        let index = out.worker.index;
        self.queues.look(index, now);
        let in_use = self.queues.begin_test(index);
        self.send_note(&heartbeat(self.uid), out);
        self.queues.end_test(index, in_use);
    }

    /// Returns whether this is news.
    fn handle_lost(&mut self, now: Instant, out: &mut Outputs) -> bool {
        if !std::mem::replace(&mut self.is_heard, false) {
            return false;
        }
        tracing::info!(
            "->[{}] shuttle: UDP does not reach the neighbour any more",
            self.peer
        );
        self.mtu_check_at = None;
        self.send_heartbeat(now, out);
        true
    }

    fn handle_key(&mut self, epoch: u16, theirs: &[u8; PUBLIC_KEY_LEN], out: &mut Outputs) {
        let State::Ready {
            incoming,
            keys: Some(keys),
            ..
        } = &mut self.state
        else {
            return;
        };
        let answered = keys.answer(epoch, theirs, || out.random());
        if let Some((fresh, public)) = answered {
            incoming.install(fresh.epoch, fresh.open);
            self.send_control(&Control::KeyAnswer(epoch, public), out);
        }
    }

    fn handle_key_answer(
        &mut self,
        epoch: u16,
        theirs: &[u8; PUBLIC_KEY_LEN],
        now: Instant,
        out: &mut Outputs,
    ) {
        let State::Ready {
            incoming,
            keys: Some(keys),
            ..
        } = &mut self.state
        else {
            return;
        };
        if let Some((fresh, seal)) = keys.answered(epoch, theirs, now) {
            incoming.install(fresh.epoch, fresh.open);
            self.switch(epoch, seal);
            self.send_control(&Control::Done(epoch), out);
        }
    }

    fn handle_done(&mut self, epoch: u16, now: Instant) {
        if let State::Ready {
            keys: Some(keys), ..
        } = &mut self.state
            && let Some(seal) = keys.done(epoch, now)
        {
            self.switch(epoch, seal);
        }
    }

    /// Seals under new keys from now on, what waits as well.
    fn switch(&mut self, epoch: u16, seal: AeadKey) {
        if let State::Ready { outgoing, .. } = &mut self.state {
            *outgoing = Arc::new(outgoing.renewed(epoch, seal));
            self.is_worn = false;
            tracing::debug!(peer = %self.peer, epoch, "shuttle: new keys");
        }
    }

    /// The key that opens a packet, if that is worth while; `None`: packets are not sealed.
    #[inline]
    pub(crate) fn opener(&self, header: &Header) -> Result<Option<Arc<AeadKey>>, DropReason> {
        match &self.state {
            State::Ready { incoming, .. } => incoming.opener(header),
            _ => Err(DropReason::NoLink),
        }
    }

    /// A packet of `len` bytes has been opened with `key`: takes it, unless it was seen before.
    /// Returns whether something has happened that changes deadlines.
    #[inline]
    pub(crate) fn accept(
        &mut self,
        (header, key, len): (&Header, Option<&Arc<AeadKey>>, usize),
        from: SocketAddr,
        now: Instant,
        out: &mut Outputs,
    ) -> Result<bool, DropReason> {
        let State::Ready { incoming, .. } = &mut self.state else {
            return Err(DropReason::NoLink);
        };
        let is_latest = incoming.accept(header, key, len, now)?;
        let mut is_news = false;
        // The other queues say nothing of whether the common port gets through.
        if self.is_sealed && header.queue == 0 {
            self.heard_at = now;
            if is_latest && self.remote != Some(from) {
                self.follow(from, now, out);
                is_news = true;
            }
            is_news |= self.note_hearing(now, out);
        }
        Ok(is_news)
    }

    /// A note in a packet of the neighbour.
    pub(crate) fn handle_note(
        &mut self,
        note: Note,
        queue: u8,
        from: SocketAddr,
        now: Instant,
        out: &mut Outputs,
    ) {
        match note {
            Note::Heartbeat(uid) if uid == self.uid && queue > 0 => {
                let (tag, body) = Control::QueueHeard(queue).encode();
                out.answer(self.link, self.control(tag, body));
            }
            Note::Heartbeat(uid) if uid == self.uid => {
                if !self.is_sealed {
                    self.heard_at = now;
                    if self.remote != Some(from) {
                        self.follow(from, now, out);
                    }
                    self.note_hearing(now, out);
                }
            }
            Note::MtuTest(mtu) => {
                let (tag, body) = Control::MtuVerified(mtu).encode();
                out.answer(self.link, self.control(tag, body));
            }
            Note::Heartbeat(_) | Note::Unknown => out.drops.count(DropReason::SpecialInvalid),
        }
    }

    /// The neighbour is somewhere else than we thought, or somewhere at all.
    #[cold]
    fn follow(&mut self, from: SocketAddr, now: Instant, out: &mut Outputs) {
        if let Some(remote) = self.remote {
            tracing::info!(
                "->[{}] shuttle: remote address changed from {remote} to {from}",
                self.peer
            );
            self.remote = Some(from);
            // What lets the other queues through may not be on the new way.
            self.queues.forget();
        } else {
            self.remote = Some(from);
            self.send_heartbeat(now, out);
        }
    }

    /// Tells the neighbour when we begin to hear it. Returns whether that was now.
    #[inline]
    fn note_hearing(&mut self, now: Instant, out: &mut Outputs) -> bool {
        if self.hears {
            return false;
        }
        self.hears = true;
        self.silence_at = Some(now + SHUTTLE_SILENCE);
        self.send_control(&Control::Heard, out);
        true
    }

    /// A datagram was refused as longer than `path_mtu`.
    pub(crate) fn handle_too_long(&mut self, path_mtu: u16, now: Instant, out: &mut Outputs) {
        if matches!(self.state, State::Ready { .. }) {
            let action = self.pmtu.handle_too_long(path_mtu, now);
            self.act(action, out);
        }
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        out: &mut Outputs,
    ) -> Result<(), LinkError> {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.silence_at) {
            self.handle_silence(now, out)?;
        }
        self.rekey(now, out);
        if is_due(self.heartbeat_at) {
            self.send_heartbeat(now, out);
        }
        if is_due(self.mtu_check_at) {
            self.mtu_check_at = Some(now + SHUTTLE_MTU_CHECK);
            self.mtu_checks = self.mtu_checks.wrapping_add(1);
            if self.mtu_checks.is_multiple_of(SHUTTLE_MTU_RAISE) {
                self.probe_mtu(out);
            } else {
                let action = self.pmtu.check(now);
                self.act(action, out);
            }
        }
        let action = self.pmtu.handle_timeout(now);
        self.act(action, out);
        Ok(())
    }

    fn handle_silence(&mut self, now: Instant, out: &mut Outputs) -> Result<(), LinkError> {
        let limit = if self.hears {
            SHUTTLE_SILENCE
        } else {
            HEARTBEAT_TIMEOUT
        };
        let due_at = self.heard_at + limit;
        if due_at > now {
            self.silence_at = Some(due_at);
            return Ok(());
        }
        self.silence_at = None;
        if self.hears {
            self.hears = false;
            tracing::info!(
                "->[{}] shuttle: no UDP from the neighbour any more",
                self.peer
            );
            self.send_control(&Control::Lost, out);
        }
        if !self.has_stream {
            let end_at = self.heard_at + HEARTBEAT_TIMEOUT;
            if end_at <= now {
                return Err(LinkError::HeartbeatTimeout);
            }
            self.silence_at = Some(end_at);
        }
        Ok(())
    }

    /// Sees to new keys.
    fn rekey(&mut self, now: Instant, out: &mut Outputs) {
        let State::Ready {
            outgoing,
            incoming,
            keys: Some(keys),
        } = &mut self.state
        else {
            return;
        };
        incoming.retire(now);
        self.is_worn = keys.is_expired(now) || outgoing.volume() >= KEY_VOLUME_MAX;
        let volume = outgoing.volume().max(incoming.volume());
        if let Some((epoch, public)) = keys.offer(volume, now, || out.random()) {
            self.send_control(&Control::Key(epoch, public), out);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let mut timers = [
            self.silence_at,
            self.heartbeat_at,
            self.mtu_check_at,
            self.pmtu.next_timeout(),
            None,
            None,
            None,
        ];
        if let State::Ready { incoming, keys, .. } = &self.state
            && let [.., a, b, c] = &mut timers
        {
            *a = incoming.next_timeout();
            if let Some(keys) = keys {
                *b = keys.next_timeout();
                *c = (!self.is_worn).then(|| keys.expires_at());
            }
        }
        timers.into_iter().flatten().min()
    }

    pub(crate) fn fill_status(&self, status: &mut LinkStatus) {
        status.overlay = super::negotiate::SHUTTLE;
        status.encrypted = self.is_sealed;
        status.address = self.remote;
        status.mtu = self.pmtu.mtu();
        status.queues = self.queues.count();
        status.cipher = match &self.state {
            State::Ready {
                keys: Some(keys), ..
            } => Some(keys.suite().name()),
            _ => None,
        };
    }

    fn control(&self, tag: u8, body: Vec<u8>) -> OverlayControl {
        OverlayControl {
            index: self.index,
            tag,
            body,
        }
    }

    /// Messages of which there are never many; they are not refused by a full queue.
    fn send_control(&self, control: &Control, out: &mut Outputs) {
        let (tag, body) = control.encode();
        let control = self.control(tag, body);
        out.events.push_back(Event::Control(self.link, control));
    }

    fn act(&mut self, action: Action, out: &mut Outputs) {
        match action {
            Action::None => {}
            Action::Test(mtu) => self.send_note(&mtu_test(mtu), out),
        }
    }
}
