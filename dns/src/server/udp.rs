//! Datagrams: threads that answer from the names, a batch at a time.
//!
//! Each thread has a socket of its own on the same address, between which the kernel spreads the
//! clients (`SO_REUSEPORT`). It sleeps in `recvmmsg` until there is a query, takes all that are
//! there, and sends the answers with one `sendmmsg`. Nothing is allocated on that way. What cannot
//! be answered from the names becomes a task.
//!
//! Bound to the unspecified address, an answer has to come from the address to which the query was
//! sent; the kernel notes it with each datagram.

use std::io;
use std::iter;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::{StdRng, SysRng};
use rand::{SeedableRng, TryRng};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{Domain, Protocol, Socket, Type};

use super::shared::{Asked, Shared};
use crate::query::Rcode;
use crate::reply::{self, Scratch, Transport};
use crate::responder::Action;
use crate::stats::{Counters, Kind, Outcome, Writers};

mod sys;

use sys::{Inbox, Way};

/// What may wait while all threads are busy: some thousand queries.
const KERNEL_BUFFER_LEN: usize = 2 << 20;
/// A sleeping thread looks up that often, in case the call that wakes it has come too early.
const LOOK_UP: Duration = Duration::from_secs(1);
/// An error that stays, such as memory that has run out, must not make a busy loop.
const PAUSE: Duration = Duration::from_millis(10);

/// Binds `count` sockets to one address.
pub(super) fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<Socket>> {
    let first = open(address)?;
    // Sharing is allowed only now: nobody who has the address already is joined by accident.
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let bound = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        let socket = open(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&bound)?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if address.ip().is_unspecified() {
        sys::want_destination(socket.as_fd(), address.is_ipv4())?;
    }
    // Beyond the usual limit with CAP_NET_ADMIN, else as far as that goes.
    if set_socket_recv_buffer_size_force(&socket, KERNEL_BUFFER_LEN).is_err() {
        socket.set_recv_buffer_size(KERNEL_BUFFER_LEN)?;
    }
    socket.set_read_timeout(Some(LOOK_UP))?;
    Ok(socket)
}

/// A random generator for the order of addresses.
pub(super) fn random() -> StdRng {
    let mut seed = [0; 8];
    // Without it the order is still one that changes from answer to answer.
    let _ = SysRng.try_fill_bytes(&mut seed);
    StdRng::seed_from_u64(u64::from_ne_bytes(seed))
}

/// Answers what arrives at a socket, until it is to stop.
pub(super) fn serve(socket: &Arc<Socket>, counters: &Counters, shared: &Arc<Shared>) {
    let mut inbox = Inbox::new();
    let mut rng = random();
    let mut scratch = Scratch::default();
    let mut answers = Vec::new();
    let mut outbox: Vec<(Way, usize)> = Vec::with_capacity(sys::BATCH);
    while !shared.stop.is_cancelled() {
        match inbox.receive(socket.as_fd()) {
            Ok(()) => {}
            Err(error) if is_passing(&error) => continue,
            Err(error) => {
                tracing::debug!(%error, "cannot receive queries");
                std::thread::sleep(PAUSE);
                continue;
            }
        }
        let begun = Instant::now();
        answers.clear();
        outbox.clear();
        for (way, packet, cut) in inbox.datagrams() {
            if way.port() == 0 {
                // Nobody could get the answer.
                counters.count(Writers::One, Kind::Malformed, Outcome::Dropped);
                continue;
            }
            let action = if cut {
                reply::write_refusal(packet, Rcode::FormErr, &mut answers);
                Action::Reply(Kind::Malformed, Outcome::Refused)
            } else {
                let responder = &shared.responder;
                responder.respond(packet, Transport::Udp, &mut rng, &mut scratch, &mut answers)
            };
            match action {
                Action::Reply(kind, outcome) => {
                    counters.count(Writers::One, kind, outcome);
                    outbox.push((*way, answers.len()));
                }
                Action::Ignore => {
                    counters.count(Writers::One, Kind::Malformed, Outcome::Dropped);
                }
                Action::Forward | Action::Parse => {
                    defer(socket, *way, packet, begun, shared);
                }
            }
        }
        if outbox.is_empty() {
            continue;
        }
        let mut start = 0;
        let datagrams = outbox.iter().map(|(way, end)| {
            let bytes = answers.get(start..*end).unwrap_or_default();
            start = *end;
            (way, bytes)
        });
        let unsent = sys::send(socket.as_fd(), datagrams);
        if unsent > 0 {
            tracing::debug!(unsent, "cannot send answers");
        }
        counters.took(Writers::One, begun.elapsed(), outbox.len() as u64);
    }
}

/// Makes a task of a query that takes longer.
fn defer(socket: &Arc<Socket>, way: Way, packet: &[u8], begun: Instant, shared: &Arc<Shared>) {
    let asked = Asked {
        client: SocketAddr::new(way.client(), way.port()),
        transport: Transport::Udp,
        begun,
    };
    let Some(permit) = shared.admit(asked.client.ip()) else {
        let mut answer = Vec::new();
        reply::write_refusal(packet, Rcode::ServFail, &mut answer);
        shared.count(Kind::Other, Outcome::ServFail);
        sys::send(socket.as_fd(), iter::once((&way, answer.as_slice())));
        return;
    };
    let task = {
        let (socket, packet, shared) = (socket.clone(), packet.to_vec(), shared.clone());
        async move {
            if let Some(answer) = shared.answer(packet, asked).await {
                sys::send(socket.as_fd(), iter::once((&way, answer.as_slice())));
            }
            drop(permit);
        }
    };
    shared.spawn(task);
}

/// Whether an error of receiving is none of the socket: no query in time, or a signal.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
