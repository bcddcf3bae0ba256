//! Datagrams: threads that answer from the names, a batch at a time.
//!
//! Each thread has a socket of its own on the same address, between which the kernel spreads the
//! clients (`SO_REUSEPORT`). It sleeps in `recvmmsg` until there is a query, takes all that are
//! there, and sends the answers with one `sendmmsg`. Nothing is allocated on that way. What cannot
//! be answered from the names is asked upstream, at once, and its answer sent on by a task.
//!
//! These threads have the kernel's policy for batches: one that is woken leaves whoever runs its
//! time, so more queries gather until its turn comes, and each costs less. Where a processor is free
//! it runs at once.
//!
//! Nearly all time is the kernel's, for each datagram that it sends. So answers of one length to one
//! client, a resolver that asks for many, are one message that the kernel cuts in the end
//! (`UDP_SEGMENT`).
//!
//! Bound to the unspecified address, an answer has to come from the address to which the query was
//! sent; the kernel notes it with each datagram.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::{StdRng, SysRng};
use rand::{SeedableRng, TryRng};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{Domain, Protocol, Socket, Type};

use super::shared::{Asked, Shared};
use crate::query::{self, Rcode, Received};
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
    if let Err(error) = sys::prefer_batches() {
        tracing::debug!(%error, "no scheduling policy for batches");
    }
    let mut inbox = Inbox::new();
    let mut desk = Desk {
        rng: random(),
        scratch: Scratch::default(),
        answers: Vec::new(),
        outbox: Vec::with_capacity(sys::BATCH),
        together: sys::can_segment(socket.as_fd()),
    };
    while !shared.stop.is_cancelled() {
        match inbox.receive(socket.as_fd()) {
            Ok(()) => desk.answer(&inbox, socket, counters, shared),
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                tracing::debug!(%error, "cannot receive queries");
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// What a thread works with.
struct Desk {
    rng: StdRng,
    scratch: Scratch,
    /// The answers of a batch, end to end.
    answers: Vec<u8>,
    /// Whose query has an answer, and where that is.
    outbox: Vec<(usize, Range<usize>)>,
    /// Whether answers to one client go out together.
    together: bool,
}

impl Desk {
    /// Answers a batch.
    fn answer(
        &mut self,
        inbox: &Inbox,
        socket: &Arc<Socket>,
        counters: &Counters,
        shared: &Arc<Shared>,
    ) {
        let begun = Instant::now();
        self.answers.clear();
        self.outbox.clear();
        for (index, (way, packet, cut)) in inbox.datagrams().enumerate() {
            let start = self.answers.len();
            // To port 0 nobody could get an answer.
            let action = if way.port() == 0 {
                Action::Ignore
            } else if cut {
                reply::write_refusal(packet, Rcode::FormErr, &mut self.answers);
                Action::Reply(Kind::Malformed, Outcome::Refused)
            } else {
                shared.responder.respond(
                    packet,
                    Transport::Udp,
                    &mut self.rng,
                    &mut self.scratch,
                    &mut self.answers,
                )
            };
            match action {
                Action::Reply(kind, outcome) => {
                    counters.count(Writers::One, kind, outcome);
                    self.outbox.push((index, start..self.answers.len()));
                }
                Action::Ignore => {
                    counters.count(Writers::One, Kind::Malformed, Outcome::Dropped);
                }
                Action::Forward | Action::Parse => defer(socket, *way, packet, begun, shared),
            }
        }
        if self.outbox.is_empty() {
            return;
        }
        let sent = self.send(inbox, socket);
        if sent.lost > 0 {
            tracing::debug!(count = sent.lost, "cannot send answers");
        }
        if sent.not_together {
            tracing::info!("UDP send offload does not work here; going on without it");
            self.together = false;
        }
        counters.took(Writers::One, begun.elapsed(), self.outbox.len() as u64);
    }

    fn send(&mut self, inbox: &Inbox, socket: &Socket) -> sys::Sent {
        if self.together && self.outbox.len() > 2 {
            // Those that can go together one after the other.
            self.outbox.sort_unstable_by_key(|(index, range)| {
                let way = inbox.way(*index);
                (way.port(), way.client(), range.len())
            });
        }
        let mut datagrams = [(inbox.way(0), &[][..]); sys::BATCH];
        for (datagram, (index, range)) in datagrams.iter_mut().zip(&self.outbox) {
            let bytes = self.answers.get(range.clone()).unwrap_or_default();
            *datagram = (inbox.way(*index), bytes);
        }
        let datagrams = datagrams.get(..self.outbox.len()).unwrap_or(&datagrams);
        sys::send(socket.as_fd(), datagrams, self.together)
    }
}

/// Sees to a query that takes longer: asks upstream if it is a plain one, else makes a task of it.
fn defer(socket: &Arc<Socket>, way: Way, packet: &[u8], begun: Instant, shared: &Arc<Shared>) {
    let asked = Asked {
        client: SocketAddr::new(way.client(), way.port()),
        transport: Transport::Udp,
        begun,
    };
    let Some(permit) = shared.admit(asked.client.ip()) else {
        let answer = shared.turn_away(packet);
        sys::send(socket.as_fd(), &[(&way, &answer)], false);
        return;
    };
    let send = {
        let socket = socket.clone();
        move |answer: &[u8]| {
            sys::send(socket.as_fd(), &[(&way, answer)], false);
            drop(permit);
        }
    };
    if let Received::Plain(query) = query::read(packet) {
        shared.forward(&query, packet, asked, send);
        return;
    }
    let task = {
        let (packet, shared) = (packet.to_vec(), shared.clone());
        async move {
            if let Some(answer) = shared.answer(packet, asked).await {
                send(&answer);
            }
        }
    };
    shared.spawn_query(task);
}

/// Whether an error of receiving is none of the socket: no query in time, or a signal.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The scheduling policy of this thread: the 41st of its numbers, the second being its name.
    fn policy() -> i32 {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, after_name) = stat.rsplit_once(") ").unwrap();
        after_name.split(' ').nth(38).unwrap().parse().unwrap()
    }

    #[test]
    fn threads_that_answer_let_queries_gather() {
        let before = policy();
        sys::prefer_batches().unwrap();
        // Another one was chosen by whoever runs the test.
        let wanted = match before {
            libc::SCHED_OTHER => libc::SCHED_BATCH,
            chosen => chosen,
        };
        assert_eq!(policy(), wanted);
        sys::prefer_batches().unwrap();
        assert_eq!(policy(), wanted);
    }
}
