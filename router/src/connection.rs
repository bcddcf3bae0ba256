//! One control connection: introduction, framing, sealing and heartbeats, without the socket.
//!
//! ```text
//! version 2, each way                         version 1, each way
//!   header (7)                                  header (7)
//!   0            | without a password           gob stream:
//!   1 public key | with one (1 + 32)              features, never sealed, with the public key
//!   features   as the first message               messages, each a []byte, sealed
//!   messages
//! message  length (u32, big-endian) | body, sealed with a password
//! ```
//!
//! Neither end waits for the other before it sends its header, its flag with the public key, and
//! its features; each needs the other's previous part to make its next. Then the owner
//! [admits](Connection::admit) the connection to the mesh, or drops it. What the other end has
//! sent meanwhile stays unread until then: it tells of peers that are out of reach before the
//! connection counts.
//!
//! After any `handle_*`, [`admit`](Connection::admit) or [`send`](Connection::send), poll
//! [`poll_event`](Connection::poll_event), [`poll_transmit`](Connection::poll_transmit) and
//! [`poll_timeout`](Connection::poll_timeout) until there is nothing left. Messages are cut from
//! the input only as they are polled for, so that memory is bounded by the bytes that have come
//! in, whatever they claim.
//!
//! Source: Weave mesh protocol, sections 1, 2 and 8.

mod error;
mod framing;

use std::collections::VecDeque;
use std::time::Instant;

use proto::gob::{Decoder, Limits};
use proto::{ConnectionUid, PeerName, PeerUid, ShortId};

pub use error::{ConnectionError, SendError};
use framing::{Codec, Framing, Input};

use crate::constants::{
    HEADER_TIMEOUT, MAX_FEATURES_LEN, MAX_MESSAGE_LEN, MAX_UNREAD_LEN, READ_TIMEOUT, TCP_HEARTBEAT,
};
use crate::crypto::session::{KeyPair, PUBLIC_KEY_LEN, Password, SessionKey};
use crate::wire::control::{ControlForm, Message};
use crate::wire::intro::{Features, HEADER_LEN, Versions};

/// What this end says of itself on all its connections.
#[derive(Debug, Clone)]
pub struct Local {
    /// Own name.
    pub name: PeerName,
    /// The life this process is in.
    pub uid: PeerUid,
    /// Free text by which people know this peer.
    pub nickname: String,
    /// Own short id.
    pub short_id: Option<ShortId>,
    /// Needed by both ends or by neither. Default: none.
    pub password: Option<Password>,
    /// Protocol versions to speak. Default: all.
    pub versions: Versions,
    /// Names of the overlays that we speak, in order of preference.
    pub overlays: Vec<String>,
}

/// Which end of the TCP connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We opened it.
    Dialler,
    /// We took it.
    Acceptor,
}

/// What has come in.
#[derive(Debug)]
pub enum ConnectionEvent {
    /// The other end has introduced itself. [`Connection::admit`] it, or drop the connection.
    Introduced(Box<Introduction>),
    /// A message, in the order of arrival.
    Message(Message),
    /// The connection must be closed; nothing follows. Comes once.
    Closed(ConnectionError),
}

/// The other end, and what was agreed with it.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// Protocol version in use.
    pub version: u8,
    /// Name of the other end.
    pub name: PeerName,
    /// Its nickname, which should be UTF-8 but may be any bytes.
    pub nickname: Vec<u8>,
    /// The life it is in.
    pub uid: PeerUid,
    /// Identifies the connection on both ends, for the tie-break and for overlay heartbeats.
    pub connection: ConnectionUid,
    /// Its short id, if it has one.
    pub short_id: Option<ShortId>,
    /// The overlays that it speaks, separated by single blanks; `None` if it knows only sleeve.
    pub overlays: Option<String>,
    /// Seals this connection, and its overlay unless `plain_overlay`. `None` without a password.
    pub session_key: Option<SessionKey>,
    /// Both ends trust the other's address, so that overlays need not seal. TCP is sealed anyway.
    pub plain_overlay: bool,
}

/// The machine. See the module for how to drive it.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    versions: Versions,
    /// With the password, the key pair of this connection.
    secrets: Option<(Password, KeyPair)>,
    /// What we say of ourselves.
    features: Features,
    state: State,
    input: Input,
    /// When bytes last came in.
    heard_at: Instant,
    /// When the connection fails unless the other end has sent what is expected of it.
    deadline: Instant,
    events: VecDeque<ConnectionEvent>,
    transmits: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
enum State {
    /// Waiting for the header.
    Header,
    /// Version 2: waiting for the flag that tells whether a public key follows.
    Flag,
    /// Waiting for the features.
    Features(Box<Codec>),
    /// Introduced.
    Session(Box<Session>),
    /// Failed or refused.
    Closed(ConnectionError),
}

#[derive(Debug)]
struct Session {
    codec: Codec,
    form: ControlForm,
    /// When the next heartbeat is due; `None` until admitted.
    heartbeat_at: Option<Instant>,
}

impl Connection {
    /// Starts with a TCP connection that has just been opened. `conn_id` is random, as is
    /// `ephemeral_secret`, of which nothing else may be made. `trusts_remote`: the other end's
    /// address lies in a trusted subnet.
    pub fn new(
        role: Role,
        local: &Local,
        conn_id: u64,
        ephemeral_secret: [u8; 32],
        trusts_remote: bool,
        now: Instant,
    ) -> Self {
        let secrets = local
            .password
            .clone()
            .map(|password| (password, KeyPair::new(ephemeral_secret)));
        let features = Features {
            name: local.name,
            nickname: local.nickname.clone().into_bytes(),
            uid: local.uid,
            conn_id,
            short_id: local.short_id,
            trusted: trusts_remote,
            overlays: match &local.overlays[..] {
                [] => None,
                names => Some(names.join(" ")),
            },
            public_key: secrets.as_ref().map(|(_, keys)| keys.public()),
        };
        Self {
            role,
            versions: local.versions,
            secrets,
            features,
            state: State::Header,
            input: Input::default(),
            heard_at: now,
            deadline: now + HEADER_TIMEOUT,
            events: VecDeque::new(),
            transmits: VecDeque::from([local.versions.header().to_vec()]),
        }
    }

    /// Bytes have come in: one read's worth, at most 256 KiB, after which events are to be polled.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        if matches!(self.state, State::Closed(_)) {
            return;
        }
        if self.input.unread().len().saturating_add(bytes.len()) > MAX_UNREAD_LEN {
            return self.fail(ConnectionError::TooMuchUnread);
        }
        self.input.extend(bytes);
        self.heard_at = now;
        loop {
            match self.introduce(now) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.fail(error),
            }
        }
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) gave has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.deadline {
            let error = match &self.state {
                State::Header => ConnectionError::HeaderTimeout,
                State::Flag | State::Features(_) => ConnectionError::IntroductionTimeout,
                State::Session(_) => ConnectionError::ReadTimeout,
                State::Closed(_) => return,
            };
            return self.fail(error);
        }
        let State::Session(session) = &mut self.state else {
            return;
        };
        if session.heartbeat_at.is_some_and(|at| now >= at) {
            session.heartbeat_at = Some(now + TCP_HEARTBEAT);
            // What still waits to be sent shows as well that we are alive.
            if self.transmits.is_empty() {
                // A heartbeat is never too long.
                let _ = self.send(&Message::Heartbeat);
            }
        }
    }

    /// The other end has closed the connection, or the connection broke: `reason`, in the words
    /// of the system.
    pub fn handle_hangup(&mut self, reason: &str) {
        let reason = reason.to_owned();
        match self.state {
            State::Closed(_) => {}
            State::Session(_) => self.fail(ConnectionError::HungUp(reason)),
            State::Features(ref codec) if codec.session_key().is_some() => {
                self.fail(ConnectionError::HungUpOnceSealed(reason));
            }
            State::Header | State::Flag | State::Features(_) => {
                self.fail(ConnectionError::HungUpDuringIntroduction(reason));
            }
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Closed(_) => None,
            State::Session(session) => session
                .heartbeat_at
                .map_or(Some(self.deadline), |at| Some(at.min(self.deadline))),
            _ => Some(self.deadline),
        }
    }

    /// The next bytes to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// What has come in.
    pub fn poll_event(&mut self) -> Option<ConnectionEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        match self.next_message() {
            Ok(message) => message.map(ConnectionEvent::Message),
            Err(error) => {
                self.fail(error);
                self.events.pop_front()
            }
        }
    }

    /// The connection has been added to the mesh: starts heartbeats and lets messages in. Does
    /// nothing unless the other end has introduced itself and is still waiting.
    pub fn admit(&mut self, now: Instant) {
        if let State::Session(session) = &mut self.state
            && session.heartbeat_at.is_none()
        {
            session.heartbeat_at = Some(now + TCP_HEARTBEAT);
            self.deadline = now + READ_TIMEOUT;
        }
    }

    /// Queues a message behind those queued before. The caller bounds how many: it sends the next
    /// when [`poll_transmit`](Self::poll_transmit) has nothing left. Does nothing on a connection
    /// that is closed.
    pub fn send(&mut self, message: &Message) -> Result<(), SendError> {
        let session = match &mut self.state {
            State::Session(session) => session,
            State::Closed(_) => return Ok(()),
            _ => return Err(SendError::NotIntroduced),
        };
        let body = message.encode(session.form);
        self.transmits.push_back(session.codec.frame(&body)?);
        Ok(())
    }

    /// Whether all that was queued has been handed out.
    pub fn is_drained(&self) -> bool {
        self.transmits.is_empty()
    }

    /// Why the connection must be closed, if it must.
    pub fn close_reason(&self) -> Option<&ConnectionError> {
        match &self.state {
            State::Closed(error) => Some(error),
            _ => None,
        }
    }

    fn fail(&mut self, error: ConnectionError) {
        self.input = Input::default();
        if let State::Session(_) = self.state {
            self.transmits.clear();
        } // else the other end should still hear what it may find wrong itself
        self.events
            .push_back(ConnectionEvent::Closed(error.clone()));
        self.state = State::Closed(error);
    }

    /// One step of the introduction. Whether there may be another with the bytes that are here.
    fn introduce(&mut self, now: Instant) -> Result<bool, ConnectionError> {
        match &mut self.state {
            State::Header => self.read_header(now),
            State::Flag => self.read_flag(),
            State::Features(_) => self.read_features(now),
            State::Session(_) | State::Closed(_) => Ok(false),
        }
    }

    fn read_header(&mut self, now: Instant) -> Result<bool, ConnectionError> {
        let Some(header) = self.input.unread().first_chunk::<HEADER_LEN>() else {
            return Ok(false);
        };
        let version = self.versions.choose(*header)?;
        self.input.consume(HEADER_LEN);
        self.deadline = now + READ_TIMEOUT;
        if version == 1 {
            self.transmits.push_back(self.features.encode(1));
            let codec = Codec::new(Framing::gob(), self.role == Role::Dialler);
            self.state = State::Features(Box::new(codec));
        } else {
            let mut flag = vec![u8::from(self.secrets.is_some())];
            flag.extend(self.features.public_key.iter().flatten());
            self.transmits.push_back(flag);
            self.state = State::Flag;
        }
        Ok(true)
    }

    fn read_flag(&mut self) -> Result<bool, ConnectionError> {
        let mut codec = Codec::new(Framing::LengthPrefix, self.role == Role::Dialler);
        match (self.input.unread(), &self.secrets) {
            ([], _) => return Ok(false),
            ([0, ..], None) => self.input.consume(1),
            ([0, ..], Some(_)) => return Err(ConnectionError::ExpectedCrypto),
            ([1, ..], None) => return Err(ConnectionError::ExpectedNoCrypto),
            ([1, rest @ ..], Some((password, keys))) => {
                let Some(public_key) = rest.first_chunk::<PUBLIC_KEY_LEN>() else {
                    return Ok(false);
                };
                codec.seal_with(keys.agree(*public_key, password)?);
                self.input.consume(1 + PUBLIC_KEY_LEN);
            }
            ([flag, ..], _) => return Err(ConnectionError::BadFlag(*flag)),
        }
        let features = codec.frame(&self.features.encode(2));
        self.transmits
            .push_back(features.map_err(|_| ConnectionError::OwnFeaturesTooLong)?);
        self.state = State::Features(Box::new(codec));
        Ok(true)
    }

    fn read_features(&mut self, now: Instant) -> Result<bool, ConnectionError> {
        let State::Features(codec) = &mut self.state else {
            return Ok(false);
        };
        let (version, features) = match &mut codec.framing {
            Framing::LengthPrefix => {
                let Some(message) = codec.next(&mut self.input, MAX_FEATURES_LEN)? else {
                    return Ok(false);
                };
                let mut stream = Decoder::new(&message, Limits::GOSSIP);
                let value = stream.require_value().map_err(ConnectionError::from_gob)?;
                (2, Features::decode(value, 2)?)
            }
            Framing::Gob(types) => {
                let read = framing::gob_value(&mut self.input, MAX_FEATURES_LEN, types, |value| {
                    Ok(Features::decode(value, 1)?)
                })?;
                let Some(features) = read else {
                    return Ok(false);
                };
                match (features.public_key, &self.secrets) {
                    (None, None) => {}
                    (None, Some(_)) => return Err(ConnectionError::ExpectedCrypto),
                    (Some(_), None) => return Err(ConnectionError::ExpectedNoCrypto),
                    (Some(key), Some((password, keys))) => {
                        codec.seal_with(keys.agree(key, password)?);
                    }
                }
                (1, features)
            }
        };
        self.become_session(version, features, now);
        Ok(true)
    }

    /// Both ends have said all of their introductions.
    fn become_session(&mut self, version: u8, theirs: Features, now: Instant) {
        let State::Features(codec) = std::mem::replace(&mut self.state, State::Header) else {
            return;
        };
        // Spent: the session key is all that is needed from here on.
        self.secrets = None;
        let form = if theirs.overlays.is_some() && self.features.overlays.is_some() {
            ControlForm::Switch
        } else {
            ControlForm::Legacy
        };
        self.events
            .push_back(ConnectionEvent::Introduced(Box::new(Introduction {
                version,
                name: theirs.name,
                nickname: theirs.nickname,
                uid: theirs.uid,
                connection: ConnectionUid(self.features.conn_id ^ theirs.conn_id),
                short_id: theirs.short_id,
                overlays: theirs.overlays,
                session_key: codec.session_key().cloned(),
                plain_overlay: theirs.trusted && self.features.trusted,
            })));
        self.deadline = now + READ_TIMEOUT;
        self.state = State::Session(Box::new(Session {
            codec: *codec,
            form,
            heartbeat_at: None,
        }));
    }

    fn next_message(&mut self) -> Result<Option<Message>, ConnectionError> {
        let State::Session(session) = &mut self.state else {
            return Ok(None);
        };
        if session.heartbeat_at.is_none() {
            return Ok(None);
        }
        while let Some(body) = session.codec.next(&mut self.input, MAX_MESSAGE_LEN)? {
            self.deadline = self.heard_at + READ_TIMEOUT;
            // An empty message is legal and means nothing.
            if !body.is_empty() {
                return Ok(Some(Message::decode(body, session.form)?));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
