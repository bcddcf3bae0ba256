//! One query and its answer, over UDP or TCP.
//!
//! An answer is taken only from the server that was asked, to the port from which it was asked, with
//! the id and the question that were sent (RFC 5452, section 9.1); sockets are connected, so the
//! kernel sees to the first two. Ids are random, and so are ports: a query goes out by any of
//! [`PORT_COUNT`] sockets, each of which is replaced by one at another port after
//! [`PORT_LIFE`].
//!
//! A datagram is sent by whoever asks, at once, and its answer is used by the task that receives it:
//! no thread is woken in between. What time does to queries, a task sees to that looks at all of
//! them now and then, so that none needs a timer of its own.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Then, lock};
use crate::relay;
use crate::server::udp::random;

/// Sockets for each server.
const PORT_COUNT: usize = 16;
/// For so long a socket takes new queries.
const PORT_LIFE: Duration = Duration::from_secs(10);
/// A datagram may be lost; after that time the query is sent once more.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// Queries that may wait at one socket: few enough that an id that is free is found at once.
const MAX_PENDING: usize = 4096;
/// An answer is as long as a datagram can be.
const ANSWER_LEN: usize = 1 << 16;
/// Answers that are taken from one socket before others have their turn.
const TURN: usize = 32;
/// So many times within the time for an answer it is looked if that is over, ...
const LOOKS: u32 = 16;
/// ... but not more often than that, and not less.
const LOOK_INTERVALS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));

/// The sockets by which one server is asked.
pub(super) struct Ports {
    server: SocketAddr,
    patience: Duration,
    stop: CancellationToken,
    runtime: Handle,
    tasks: TaskTracker,
    state: Mutex<State>,
}

struct State {
    ports: [Option<Arc<Port>>; PORT_COUNT],
    /// Too old for new queries, with some that still wait.
    retired: Vec<Arc<Port>>,
    /// Whether there is a task that looks what time it is.
    ticking: bool,
    rng: StdRng,
}

struct Port {
    socket: UdpSocket,
    born: Instant,
    pending: Mutex<HashMap<u16, Pending>>,
    closed: CancellationToken,
}

struct Pending {
    packet: Arc<[u8]>,
    question_len: usize,
    sent_at: Instant,
    resent: bool,
    then: Then,
}

/// A query that waits at a socket: to be sent there, and its id.
type Registered = (Arc<Port>, u16, Arc<[u8]>);

impl Ports {
    /// For a server that has so long for an answer. Its tasks end with `stop`.
    pub(super) fn new(
        server: SocketAddr,
        patience: Duration,
        stop: CancellationToken,
        runtime: Handle,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self {
            server,
            patience,
            stop,
            runtime,
            tasks,
            state: Mutex::new(State {
                ports: [const { None }; PORT_COUNT],
                retired: Vec::new(),
                ticking: false,
                rng: random(),
            }),
        })
    }

    /// Asks by any of the sockets, without a wait. What is to be done then may be done before this
    /// returns.
    pub(super) fn send(self: &Arc<Self>, packet: &[u8], question_len: usize, then: Then) {
        let now = Instant::now();
        let (port, id, packet) = match self.register(packet, question_len, then, now) {
            Ok(registered) => registered,
            Err(then) => return then(None),
        };
        // If it came too late to be dropped with the others.
        if self.stop.is_cancelled() {
            port.drop_all();
        } else if !port.send(&packet) {
            port.fail(id, &packet);
        }
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask(
        self: &Arc<Self>,
        packet: &[u8],
        question_len: usize,
    ) -> Option<Arc<[u8]>> {
        let (sender, answer) = oneshot::channel();
        let then = move |message| {
            // Who has asked may have gone.
            let _ = sender.send(message);
        };
        self.send(packet, question_len, Box::new(then));
        answer.await.ok().flatten()
    }

    /// Puts a query down at a socket, under an id that is free. It is done in one step with choosing
    /// the socket, so that this is not closed in between.
    fn register(
        self: &Arc<Self>,
        packet: &[u8],
        question_len: usize,
        then: Then,
        now: Instant,
    ) -> Result<Registered, Then> {
        let mut state = lock(&self.state);
        let Ok(port) = self.port(&mut state, now) else {
            return Err(then);
        };
        let first_id: u16 = state.rng.random();
        let mut pending = lock(&port.pending);
        let mut ids = (0..=u16::MAX).map(|step| first_id.wrapping_add(step));
        let id = match ids.find(|id| !pending.contains_key(id)) {
            Some(id) if pending.len() < MAX_PENDING => id,
            _ => return Err(then),
        };
        let packet: Arc<[u8]> = relay::with_id(packet, id).into();
        let query = Pending {
            packet: packet.clone(),
            question_len,
            sent_at: now,
            resent: false,
            then,
        };
        pending.insert(id, query);
        drop(pending);
        Ok((port, id, packet))
    }

    /// Any socket that is young enough, or a new one in its place.
    fn port(self: &Arc<Self>, state: &mut State, now: Instant) -> io::Result<Arc<Port>> {
        let place = state.rng.random_range(0..PORT_COUNT);
        let there = state.ports.get(place).and_then(Option::as_ref);
        if let Some(port) = there.filter(|port| port.is_young(now)) {
            return Ok(port.clone());
        }
        // Sockets of the runtime are made within it.
        let _context = self.runtime.enter();
        let port = match Port::open(self.server, now, self.stop.child_token()) {
            Ok(port) => port,
            // Out of descriptors, say: another one is better than none.
            Err(error) => {
                let mut others = state.ports.iter().flatten();
                let another = others.find(|port| port.is_young(now));
                return another.cloned().ok_or(error);
            }
        };
        if let Some(into) = state.ports.get_mut(place) {
            let before = into.replace(port.clone());
            state.retired.extend(before);
        }
        self.tasks.spawn(receive(port.clone()));
        if !state.ticking {
            state.ticking = true;
            self.tasks.spawn(tick(self.clone()));
        }
        Ok(port)
    }

    /// Sends again what may have been lost, gives up what has waited too long, and closes sockets
    /// that are of no more use. Returns whether any is left.
    fn look(&self, now: Instant) -> bool {
        let mut state = lock(&self.state);
        let State { ports, retired, .. } = &mut *state;
        for place in ports.iter_mut() {
            if let Some(port) = place.take_if(|port| !port.is_young(now)) {
                retired.push(port);
            }
        }
        // No query comes to these any more.
        retired.retain(|port| {
            let waits = !lock(&port.pending).is_empty();
            if !waits {
                port.closed.cancel();
            }
            waits
        });
        let all: Vec<_> = ports.iter().flatten().chain(&*retired).cloned().collect();
        state.ticking = !all.is_empty();
        drop(state);
        for port in &all {
            port.look(now, self.patience);
        }
        !all.is_empty()
    }
}

/// Looks what time it is, as long as there are sockets.
async fn tick(ports: Arc<Ports>) {
    let (least, most) = LOOK_INTERVALS;
    let mut looks = interval((ports.patience / LOOKS).clamp(least, most));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = ports.stop.clone();
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        if !ports.look(Instant::now()) {
            return;
        }
    }
}

/// Takes answers, until the socket is of no more use.
async fn receive(port: Arc<Port>) {
    let mut buffer = vec![0; ANSWER_LEN];
    let closed = port.closed.clone();
    while let Some(received) = closed
        .run_until_cancelled(port.socket.recv(&mut buffer))
        .await
    {
        let mut received = received;
        for _ in 0..TURN {
            match received {
                Ok(len) => port.take(buffer.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The server says that nobody listens there: no need to wait for more.
                Err(_) => {
                    port.fail_all();
                    break;
                }
            }
            received = port.socket.try_recv(&mut buffer);
        }
    }
    port.drop_all();
}

impl Port {
    fn open(server: SocketAddr, now: Instant, closed: CancellationToken) -> io::Result<Arc<Self>> {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // The kernel chooses the port at random.
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        Ok(Arc::new(Self {
            socket: UdpSocket::from_std(socket)?,
            born: now,
            pending: Mutex::default(),
            closed,
        }))
    }

    fn is_young(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.born) < PORT_LIFE
    }

    /// Sends a packet; false if that can never be. One for which there is no room now counts as lost
    /// on its way.
    fn send(&self, packet: &[u8]) -> bool {
        // Past the runtime, which would first have to hear that the socket can be written to.
        match SockRef::from(&self.socket).send(packet) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Uses an answer; what nobody has asked for is dropped.
    fn take(&self, message: &[u8]) {
        let Some(id) = message.first_chunk().map(|id| u16::from_be_bytes(*id)) else {
            return;
        };
        let asked = {
            let mut pending = lock(&self.pending);
            let is_answer = pending
                .get(&id)
                .is_some_and(|asked| relay::is_answer(&asked.packet, asked.question_len, message));
            if is_answer { pending.remove(&id) } else { None }
        };
        if let Some(asked) = asked {
            (asked.then)(Some(message.into()));
        }
    }

    /// Gives up a query, unless it has been answered meanwhile: another may have its id then.
    fn fail(&self, id: u16, packet: &Arc<[u8]>) {
        let asked = {
            let mut pending = lock(&self.pending);
            let is_it = pending
                .get(&id)
                .is_some_and(|asked| Arc::ptr_eq(&asked.packet, packet));
            if is_it { pending.remove(&id) } else { None }
        };
        if let Some(asked) = asked {
            (asked.then)(None);
        }
    }

    /// Gives all up: there will be no answers.
    fn fail_all(&self) {
        let all = std::mem::take(&mut *lock(&self.pending));
        for (_, asked) in all {
            (asked.then)(None);
        }
    }

    /// Forgets all: the server ends.
    fn drop_all(&self) {
        let all = std::mem::take(&mut *lock(&self.pending));
        drop(all);
    }

    /// What is due at a time.
    fn look(&self, now: Instant, patience: Duration) {
        let waited = |asked: &Pending| now.saturating_duration_since(asked.sent_at);
        let mut again = Vec::new();
        let over: Vec<_> = {
            let mut pending = lock(&self.pending);
            for asked in pending.values_mut() {
                if !asked.resent && waited(asked) >= RESEND_AFTER {
                    asked.resent = true;
                    again.push(asked.packet.clone());
                }
            }
            pending
                .extract_if(|_, asked| waited(asked) >= patience)
                .collect()
        };
        for packet in again {
            // Whichever answer comes first, it is the one to both. If it cannot be sent, the time
            // for the answer runs out.
            self.send(&packet);
        }
        for (_, asked) in over {
            (asked.then)(None);
        }
    }
}

/// Asks over a connection of its own.
pub(super) async fn ask_tcp(
    server: SocketAddr,
    packet: &[u8],
    question_len: usize,
    patience: Duration,
) -> Option<Arc<[u8]>> {
    let exchange = async {
        let packet = relay::with_id(packet, random().random());
        let mut framed = u16::try_from(packet.len()).ok()?.to_be_bytes().to_vec();
        framed.extend_from_slice(&packet);
        let mut stream = TcpStream::connect(server).await.ok()?;
        stream.write_all(&framed).await.ok()?;
        let len = stream.read_u16().await.ok()?;
        let mut message = vec![0; usize::from(len)];
        stream.read_exact(&mut message).await.ok()?;
        relay::is_answer(&packet, question_len, &message).then(|| message.into())
    };
    timeout(patience, exchange).await.ok()?
}

#[cfg(test)]
mod tests;
