//! One query and its answer, over UDP or TCP.
//!
//! An answer is taken only from the server that was asked, to the port from which it was asked, with
//! the id and the question that were sent (RFC 5452, section 9.1); sockets are connected, so the
//! kernel sees to the first two. Ids are random, and so are ports: a query goes out by any of
//! [`PORT_COUNT`] sockets, each of which is replaced by one at another port after
//! [`PORT_LIFE`].

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::lock;
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

/// The sockets by which one server is asked.
pub(super) struct Ports {
    server: SocketAddr,
    stop: CancellationToken,
    state: Mutex<State>,
}

struct State {
    /// Each is kept by the task that receives from it, as long as that is of use.
    ports: [Weak<Port>; PORT_COUNT],
    rng: StdRng,
}

struct Port {
    socket: UdpSocket,
    born: Instant,
    pending: Mutex<HashMap<u16, Pending>>,
}

struct Pending {
    packet: Vec<u8>,
    question_len: usize,
    answer: oneshot::Sender<Arc<[u8]>>,
}

impl Ports {
    pub(super) fn new(server: SocketAddr, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            server,
            stop,
            state: Mutex::new(State {
                ports: [const { Weak::new() }; PORT_COUNT],
                rng: random(),
            }),
        })
    }

    /// Asks by any of the sockets.
    pub(super) async fn ask(
        &self,
        packet: &[u8],
        question_len: usize,
        patience: Duration,
    ) -> Option<Arc<[u8]>> {
        let (port, first_id) = self.port().ok()?;
        let (answer, mut receiver) = oneshot::channel();
        let (id, packet) = {
            let mut pending = lock(&port.pending);
            if pending.len() >= MAX_PENDING {
                return None;
            }
            let mut ids = (0..=u16::MAX).map(|step| first_id.wrapping_add(step));
            let id = ids.find(|id| !pending.contains_key(id))?;
            let packet = relay::with_id(packet, id);
            let query = Pending {
                packet: packet.clone(),
                question_len,
                answer,
            };
            pending.insert(id, query);
            (id, packet)
        };
        let _forget = Forget { port: &port, id };
        // If it came too late to be taken off the list with the others.
        if self.stop.is_cancelled() {
            return None;
        }
        let begun = Instant::now();
        let wait = sleep(RESEND_AFTER.min(patience));
        tokio::pin!(wait);
        port.socket.send(&packet).await.ok()?;
        tokio::select! {
            answer = &mut receiver => return answer.ok(),
            () = &mut wait => {}
        }
        let left = patience.checked_sub(begun.elapsed())?;
        // Whichever answer comes first, it is the one to both.
        port.socket.send(&packet).await.ok()?;
        wait.as_mut().reset((Instant::now() + left).into());
        tokio::select! {
            answer = receiver => answer.ok(),
            () = wait => None,
        }
    }

    /// Any socket that is young enough, or a new one in its place; and a random id.
    fn port(&self) -> io::Result<(Arc<Port>, u16)> {
        let mut state = lock(&self.state);
        let id = state.rng.random();
        let place = state.rng.random_range(0..PORT_COUNT);
        let young = |port: &Weak<Port>| {
            let port = port.upgrade()?;
            (port.born.elapsed() < PORT_LIFE).then_some(port)
        };
        if let Some(port) = state.ports.get(place).and_then(young) {
            return Ok((port, id));
        }
        let port = match Port::open(self.server) {
            Ok(port) => port,
            // Out of descriptors, say: another one is better than none.
            Err(error) => {
                let another = state.ports.iter().find_map(young);
                return another.map(|port| (port, id)).ok_or(error);
            }
        };
        if let Some(into) = state.ports.get_mut(place) {
            *into = Arc::downgrade(&port);
        }
        tokio::spawn(receive(port.clone(), self.stop.clone()));
        Ok((port, id))
    }
}

/// Hands answers to who waits for them, until the socket is of no more use.
async fn receive(port: Arc<Port>, stop: CancellationToken) {
    let mut buffer = vec![0; ANSWER_LEN];
    let mut look_up = interval(PORT_LIFE);
    let stopped = stop.cancelled();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            received = port.socket.recv(&mut buffer) => match received {
                Ok(len) => port.take(buffer.get(..len).unwrap_or_default()),
                // The server says that nobody listens there: no need to wait for more.
                Err(_) => lock(&port.pending).clear(),
            },
            _ = look_up.tick() => {
                // Once it is old there are no new queries, but for one that was about to come.
                if port.born.elapsed() > 2 * PORT_LIFE && lock(&port.pending).is_empty() {
                    return;
                }
            }
            () = &mut stopped => {
                lock(&port.pending).clear();
                return;
            }
        }
    }
}

impl Port {
    fn open(server: SocketAddr) -> io::Result<Arc<Self>> {
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
            born: Instant::now(),
            pending: Mutex::default(),
        }))
    }

    /// Hands an answer to who waits for it; what nobody has asked for is dropped.
    fn take(&self, message: &[u8]) {
        let Some(id) = message.first_chunk().map(|id| u16::from_be_bytes(*id)) else {
            return;
        };
        let mut pending = lock(&self.pending);
        let is_answer = pending
            .get(&id)
            .is_some_and(|asked| relay::is_answer(&asked.packet, asked.question_len, message));
        if is_answer && let Some(asked) = pending.remove(&id) {
            // If nobody waits any more, it is too late.
            let _ = asked.answer.send(message.into());
        }
    }
}

/// Makes an id free again, however the wait for its answer ends.
struct Forget<'p> {
    port: &'p Port,
    id: u16,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.port.pending).remove(&self.id);
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
