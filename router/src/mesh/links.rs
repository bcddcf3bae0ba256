//! The life of a connection within the mesh: dialled or accepted, introduced, added, established,
//! ended.
//!
//! The order of what follows an introduction matters; section 1.8 of the Weave mesh protocol says
//! why each step comes where it does, and both ends must come to the same result.

use std::net::SocketAddr;
use std::time::Instant;

use proto::gossip::GossipRefused;
use proto::{ConnectionUid, PeerName, PeerUid};
use rand::{Rng as _, RngExt as _};

use super::{Mesh, Output};
use crate::LinkId;
use crate::connection::{Connection, ConnectionEvent, Introduction, Role};
use crate::connector::Ending;
use crate::constants::{DIAL_TIMEOUT, GC_DELAY, MAX_LAST_WORDS_LEN, MAX_STRANGERS};
use crate::dataplane::{Command, LinkConfig, OverlayControl};
use crate::gossip::Outbox;
use crate::overlay::negotiate;
use crate::topology::{IntroduceError, Nickname, Peers};
use crate::wire::control::Message;

/// One TCP connection, or the attempt at it.
pub(super) struct Link {
    pub(super) outbound: bool,
    /// What we dialled, or where the caller called from.
    pub(super) remote: SocketAddr,
    /// Dialled because the user named the address: an unknown peer is welcome.
    accept_new: bool,
    stage: Stage,
    /// The writer has been woken and has not run dry since.
    awake: bool,
}

enum Stage {
    Dialling { until: Instant },
    Open(Box<Open>),
}

struct Open {
    connection: Connection,
    local: SocketAddr,
    /// Taken from the connection to see whether there is anything to write.
    ready: Option<Vec<u8>>,
    outbox: Outbox,
    met: Option<Met>,
}

/// The peer at the other end, once it has introduced itself. Its record is kept for us.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) peer: PeerName,
    pub(super) nickname: Nickname,
    /// The life that the peer is in.
    life: PeerUid,
    uid: ConnectionUid,
    overlay_count: usize,
    pub(super) sealed: bool,
    /// Listed as a connection of ours.
    added: bool,
    /// The overlay works.
    pub(super) established: bool,
}

/// Why a connection ends, and what the connector is to make of it.
#[derive(Debug)]
pub(super) struct End {
    error: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Broken,
    /// What the other end has told is refused. It will hear ours, and most likely refuse that.
    Refused,
    Duplicate(PeerName),
    Ourselves,
    NameCollision,
}

impl End {
    pub(super) fn broken(error: String) -> Self {
        Self {
            error,
            kind: Kind::Broken,
        }
    }
}

impl From<GossipRefused> for End {
    fn from(refused: GossipRefused) -> Self {
        Self {
            error: refused.0,
            kind: Kind::Refused,
        }
    }
}

impl From<IntroduceError> for End {
    fn from(error: IntroduceError) -> Self {
        let kind = match error {
            IntroduceError::Ourselves => Kind::Ourselves,
            IntroduceError::NameCollision(_) => Kind::NameCollision,
            IntroduceError::Unknown(_) | IntroduceError::Full(_) => Kind::Broken,
        };
        Self {
            error: error.to_string(),
            kind,
        }
    }
}

impl Link {
    pub(super) fn dialling(remote: SocketAddr, accept_new: bool, now: Instant) -> Self {
        Self {
            outbound: true,
            remote,
            accept_new,
            stage: Stage::Dialling {
                until: now + DIAL_TIMEOUT,
            },
            awake: false,
        }
    }

    fn open(&self) -> Option<&Open> {
        match &self.stage {
            Stage::Dialling { .. } => None,
            Stage::Open(open) => Some(open),
        }
    }

    fn open_mut(&mut self) -> Option<&mut Open> {
        match &mut self.stage {
            Stage::Dialling { .. } => None,
            Stage::Open(open) => Some(open),
        }
    }

    pub(super) fn connection(&mut self) -> Option<&mut Connection> {
        self.open_mut().map(|open| &mut open.connection)
    }

    pub(super) fn met(&self) -> Option<&Met> {
        self.open()?.met.as_ref()
    }

    fn met_mut(&mut self) -> Option<&mut Met> {
        self.open_mut()?.met.as_mut()
    }

    /// What waits for this neighbour, if it is part of the mesh.
    pub(super) fn outbox(&mut self) -> Option<&mut Outbox> {
        let open = self.open_mut()?;
        let added = open.met.as_ref().is_some_and(|met| met.added);
        added.then_some(&mut open.outbox)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Dialling { until } => Some(*until),
            Stage::Open(open) => open.connection.poll_timeout(),
        }
    }

    /// Whether there is something to write and the writer sleeps. It counts as awake from now on.
    pub(super) fn needs_wake(&mut self) -> bool {
        let Stage::Open(open) = &mut self.stage else {
            return false;
        };
        if open.ready.is_none() {
            open.ready = open.connection.poll_transmit();
        }
        let work = open.ready.is_some() || !open.outbox.is_empty();
        let wake = work && !self.awake;
        self.awake |= wake;
        wake
    }

    /// Whether there is nothing to write.
    pub(super) fn is_quiet(&self) -> bool {
        !self.awake
            && self
                .open()
                .is_none_or(|open| open.ready.is_none() && open.outbox.is_empty())
    }

    /// The next bytes to write. Gossip is encoded only now.
    pub(super) fn poll_transmit(&mut self, peers: &Peers) -> Option<Vec<u8>> {
        let remote = self.remote;
        let bytes = self.open_mut().and_then(|open| {
            let direct = open
                .ready
                .take()
                .or_else(|| open.connection.poll_transmit());
            if direct.is_some() {
                return direct;
            }
            while let Some(message) = open.outbox.next(peers) {
                if let Err(error) = open.connection.send(&Message::Gossip(message)) {
                    tracing::warn!("->[{remote}] message not sent: {error}");
                    continue;
                }
                let bytes = open.connection.poll_transmit();
                if bytes.is_some() {
                    return bytes;
                }
            }
            None
        });
        self.awake = bytes.is_some();
        bytes
    }

    /// What is left to be said in an introduction. Without it the other end would not know whom it
    /// has reached, and take for an accident what will be the same next time. After that, if we
    /// refuse what the other end says, all that we have to say: it may refuse that for the same
    /// reason, and then can show it as well.
    fn last_words(&mut self, kind: Kind, peers: &Peers) -> Vec<u8> {
        let added = self.met().is_some_and(|met| met.added);
        let mut words = Vec::new();
        if added && kind == Kind::Refused {
            while words.len() < MAX_LAST_WORDS_LEN
                && let Some(more) = self.poll_transmit(peers)
            {
                words.extend(more);
            }
        } else if !added && let Some(open) = self.open_mut() {
            words.extend(open.ready.take().unwrap_or_default());
            while let Some(more) = open.connection.poll_transmit() {
                words.extend(more);
            }
        }
        words
    }

    /// `address|name(nickname)`, as far as known, for the log.
    fn label(&self) -> String {
        match self.met() {
            Some(met) => format!("->[{}|{}({})]", self.remote, met.peer, met.nickname),
            None => format!("->[{}]", self.remote),
        }
    }
}

impl Mesh {
    pub(super) fn accept(&mut self, remote: SocketAddr, local: SocketAddr, now: Instant) -> LinkId {
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        tracing::info!("->[{remote}] connection accepted");
        let id = self.new_link_id();
        let connection = self.new_connection(Role::Acceptor, remote, now);
        let link = Link {
            outbound: false,
            remote,
            accept_new: true,
            stage: Stage::open(connection, local),
            awake: false,
        };
        self.links.insert(id, link);
        let strangers = self
            .links
            .values()
            .filter(|link| !link.outbound && link.met().is_none());
        if strangers.count() > MAX_STRANGERS {
            self.end(id, End::broken("too many callers".to_owned()), now);
        } else {
            self.wake(id);
        }
        id
    }

    pub(super) fn dialled(&mut self, id: LinkId, result: Result<SocketAddr, String>, now: Instant) {
        let Some(link) = self.links.get(&id) else {
            return;
        };
        if link.open().is_some() {
            return;
        }
        match result {
            Ok(local) => {
                let connection = self.new_connection(Role::Dialler, link.remote, now);
                if let Some(link) = self.links.get_mut(&id) {
                    link.stage = Stage::open(connection, local);
                }
                self.wake(id);
            }
            Err(error) => self.end(id, End::broken(error), now),
        }
    }

    fn new_connection(&mut self, role: Role, remote: SocketAddr, now: Instant) -> Connection {
        let conn_id = self.rng.next_u64();
        let secret = self.rng.random();
        let trusted = &self.config.trusted_subnets;
        let trusts = trusted.iter().any(|subnet| subnet.contains(remote.ip()));
        Connection::new(role, &self.local, conn_id, secret, trusts, now)
    }

    pub(super) fn link_timeout(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        match link.connection() {
            Some(connection) => {
                connection.handle_timeout(now);
                self.drain_connection(id, now);
            }
            None => self.end(
                id,
                End::broken("connection attempt timed out".to_owned()),
                now,
            ),
        }
    }

    /// The other end has closed the connection, or it broke.
    pub(super) fn hung_up(&mut self, id: LinkId, reason: String, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        match link.connection() {
            Some(connection) => {
                connection.handle_hangup(&reason);
                self.drain_connection(id, now);
            }
            None => self.end(id, End::broken(reason), now),
        }
    }

    /// Takes all that a connection has to tell, and wakes its writer.
    pub(super) fn drain_connection(&mut self, id: LinkId, now: Instant) {
        while let Some(event) = self
            .links
            .get_mut(&id)
            .and_then(Link::connection)
            .and_then(Connection::poll_event)
        {
            let result = match event {
                ConnectionEvent::Introduced(introduction) => {
                    self.introduced(id, *introduction, now)
                }
                ConnectionEvent::Message(message) => self.received(id, message, now),
                ConnectionEvent::Closed(error) => Err(End::broken(error.to_string())),
            };
            if let Err(end) = result {
                self.end(id, end, now);
                return;
            }
        }
        self.wake(id);
    }

    /// The other end has said who it is.
    fn introduced(
        &mut self,
        id: LinkId,
        introduction: Introduction,
        now: Instant,
    ) -> Result<(), End> {
        let Some(link) = self.links.get_mut(&id) else {
            return Ok(());
        };
        let (outbound, remote, accept_new) = (link.outbound, link.remote, link.accept_new);
        let Some(open) = link.open_mut() else {
            return Ok(());
        };
        let Introduction {
            version,
            name: peer,
            nickname,
            uid: peer_uid,
            connection: uid,
            short_id,
            overlays,
            session_key,
            plain_overlay,
        } = introduction;

        // 1 to 4: its record, name collision, ourselves, restarted.
        let nickname = Nickname::from(nickname);
        let found = self.peers.introduce(
            peer,
            peer_uid,
            nickname.clone(),
            short_id,
            accept_new,
            &mut self.rng,
        )?;
        let key = session_key.filter(|_| !plain_overlay);
        open.met = Some(Met {
            peer,
            nickname,
            life: peer_uid,
            uid,
            overlay_count: 0,
            sealed: key.is_some(),
            added: false,
            established: false,
        });
        let local = open.local;
        let label = link.label();
        if found.created {
            tracing::info!("{label}: found peer");
            self.channels.peer_learnt(peer);
        }
        if found.ours_changed {
            self.own_record_changed(None, now);
        }
        tracing::info!("{label}: connection ready; using protocol version {version}");

        // 5: the overlays.
        let overlays = negotiate::common(&self.config.overlays, overlays.as_deref())
            .map_err(|error| End::broken(error.to_string()))?;
        if let Some(met) = self.links.get_mut(&id).and_then(Link::met_mut) {
            met.overlay_count = overlays.len();
        }
        self.outputs
            .push_back(Output::Data(Command::AddLink(Box::new(LinkConfig {
                link: id,
                peer,
                uid,
                outbound,
                local,
                remote: outbound.then_some(remote),
                key,
                overlays,
            }))));

        // 6: add the connection, unless there is a better one, or there are too many.
        self.break_tie(peer, peer_uid, uid, now)?;
        self.check_limit().map_err(End::broken)?;
        let reachable = self.routes.unicast(peer).is_some();
        self.peers.add_connection(peer, remote, outbound);
        self.by_peer.insert(peer, id);
        if let Some(met) = self.links.get_mut(&id).and_then(Link::met_mut) {
            met.added = true;
        }
        if outbound {
            self.connector.handle_connected(remote);
        }
        self.survey = true;
        if found.restarted {
            tracing::info!("{label}: connection added (restarted peer)");
        } else if reachable {
            tracing::info!("{label}: connection added");
        } else {
            tracing::info!("{label}: connection added (new peer)");
        }
        if found.restarted || !reachable {
            self.send_all_gossip_down(id);
        }
        self.request_routes(now);
        self.own_record_changed(Some(peer), now);

        // 7 and 8: the overlay may talk; heartbeats, and what the other end has sent meanwhile.
        self.outputs.push_back(Output::Data(Command::Confirm(id)));
        if let Some(connection) = self.links.get_mut(&id).and_then(Link::connection) {
            connection.admit(now);
        }
        Ok(())
    }

    /// Of two connections to one peer that with the lower number lives; both ends see the same
    /// numbers. Equal ones both end.
    ///
    /// A connection to an earlier life of the peer is no match: its other end is gone, even if
    /// nobody was left to say so, and the peer does not know of it.
    pub(super) fn break_tie(
        &mut self,
        peer: PeerName,
        life: PeerUid,
        uid: ConnectionUid,
        now: Instant,
    ) -> Result<(), End> {
        let Some(&other) = self.by_peer.get(&peer) else {
            return Ok(());
        };
        let Some(held) = self.links.get(&other).and_then(Link::met) else {
            return Ok(());
        };
        let dead = held.life != life;
        let (ends_held, ends_new) = (dead || uid <= held.uid, !dead && uid >= held.uid);
        let end = || End {
            error: format!(
                "Multiple connections to {peer} added to {}",
                self.config.name
            ),
            kind: Kind::Duplicate(peer),
        };
        let result = if ends_new { Err(end()) } else { Ok(()) };
        if ends_held {
            let end = end();
            self.end(other, end, now);
        }
        result
    }

    /// The overlay of a link works.
    pub(super) fn establish(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let label = link.label();
        let Some(met) = link.met_mut().filter(|met| met.added && !met.established) else {
            return;
        };
        met.established = true;
        self.peers.establish_connection(met.peer);
        tracing::info!("{label}: connection fully established");
        self.request_routes(now);
        self.own_record_changed(None, now);
    }

    /// Sends an overlay control message. One with an index that the other end does not have would
    /// crash an original peer; it must never leave.
    pub(super) fn send_control(&mut self, id: LinkId, control: OverlayControl) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let label = link.label();
        if !link.met().is_some_and(|met| met.takes_control(&control)) {
            tracing::debug!("{label}: overlay control message not sent");
            return;
        }
        if let Some(connection) = link.connection()
            && let Err(error) = connection.send(&Message::Overlay(control))
        {
            tracing::warn!("{label}: overlay control message not sent: {error}");
        }
        self.wake(id);
    }

    pub(super) fn control_received(&mut self, id: LinkId, control: OverlayControl) {
        let met = self.links.get(&id).and_then(Link::met);
        if met.is_some_and(|met| met.takes_control(&control)) {
            let command = Command::Control(id, control);
            self.outputs.push_back(Output::Data(command));
        } else {
            tracing::debug!(link = id.0, index = control.index, "no such overlay");
        }
    }

    /// Drops a connection and all that hangs on it.
    pub(super) fn end(&mut self, id: LinkId, end: End, now: Instant) {
        let Some(mut link) = self.links.remove(&id) else {
            return;
        };
        let last_words = link.last_words(end.kind, &self.peers);
        self.outputs.push_back(Output::Close {
            link: id,
            last_words,
        });
        let label = link.label();
        let added = link.met().is_some_and(|met| met.added);
        match &link.stage {
            Stage::Dialling { .. } => {
                tracing::info!("{label} error during connection attempt: {}", end.error);
            }
            Stage::Open(open) => {
                let stage = if open.met.is_some() {
                    ""
                } else {
                    " during handshake"
                };
                tracing::info!(
                    "{label}: connection shutting down due to error{stage}: {}",
                    end.error
                );
                if end.kind != Kind::Ourselves {
                    self.terminations += 1;
                }
            }
        }
        if let Some(met) = link.met() {
            self.outputs
                .push_back(Output::Data(Command::RemoveLink(id)));
            self.peers.release(met.peer);
            if met.added {
                self.by_peer.remove(&met.peer);
                self.peers.remove_connection(met.peer);
                tracing::info!("{label}: connection deleted");
                // First of all: an update with peers out of reach in it may circle.
                self.collect_garbage(now);
                self.request_routes(now);
                self.own_record_changed(None, now);
                self.survey = true;
            } else {
                self.collect_at.get_or_insert(now + GC_DELAY);
            }
        }
        if link.outbound {
            let ending = match end.kind {
                Kind::Broken | Kind::Refused if added => Ending::Lost,
                Kind::Broken | Kind::Refused => Ending::Failed,
                Kind::Duplicate(peer) => Ending::Duplicate(peer),
                Kind::Ourselves | Kind::NameCollision => Ending::Never,
            };
            self.connector
                .handle_ended(link.remote, ending, end.error, now, &mut self.rng);
        }
    }
}

impl Stage {
    fn open(connection: Connection, local: SocketAddr) -> Self {
        Self::Open(Box::new(Open {
            connection,
            local: SocketAddr::new(local.ip().to_canonical(), local.port()),
            ready: None,
            outbox: Outbox::new(),
            met: None,
        }))
    }
}

impl Met {
    fn takes_control(&self, control: &OverlayControl) -> bool {
        self.added && usize::from(control.index) < self.overlay_count
    }
}
