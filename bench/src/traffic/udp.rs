//! The highest rate of separate UDP datagrams that a path carries without loss.
//!
//! "Without loss" allows one datagram in a thousand, as queues of a few hundred packets and two
//! cores for everything make a stricter bound a matter of luck.
#![expect(
    unsafe_code,
    reason = "sendmmsg and recvmmsg have no safe wrapper that takes a batch"
)]

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use host::netns::Netns;

use crate::interrupt;

/// Datagrams per system call.
const BATCH: usize = 64;
/// Share that may be lost.
const TOLERATED_LOSS: f64 = 0.001;
/// Each probe lasts this long.
const PROBE: Duration = Duration::from_secs(1);
/// The search ends when the bounds are this close.
const PRECISION: f64 = 1.06;
/// A sender that falls this far behind its schedule is the limit itself.
const GENERATOR_LIMIT: f64 = 0.93;

/// Result of a search.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Datagrams per second, sent and received.
    pub pps: f64,
    /// Whether the generator, not the path, was the limit.
    pub generator_limited: bool,
}

/// What became of datagrams sent at one rate.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// Datagrams per second that went out.
    pub sent_per_second: f64,
    /// Share of them that did not arrive.
    pub loss: f64,
}

/// Searches by bisection, beginning near `guess` datagrams per second of `len` bytes.
pub fn search(
    client: &Netns,
    server: &Netns,
    to: SocketAddr,
    len: usize,
    guess: Option<f64>,
) -> Result<Rate> {
    let mut best = Rate {
        pps: 0.0,
        generator_limited: false,
    };
    let (mut low, mut high): (Option<f64>, Option<f64>) = (None, None);
    let mut rate = guess.map_or(20_000.0, |guess| guess * 0.8);
    // Bounded: 24 halvings of any range a machine can produce.
    for _ in 0..24 {
        match passes(client, server, to, len, rate)? {
            Some(sent) => {
                if sent > best.pps {
                    best.pps = sent;
                }
                low = Some(rate);
                if sent < rate * GENERATOR_LIMIT {
                    best.generator_limited = true;
                    break;
                }
            }
            None => high = Some(rate),
        }
        rate = match (low, high) {
            (Some(low), None) => low * if guess.is_some() { 1.5 } else { 2.0 },
            (None, Some(high)) if high > 500.0 => high / 2.0,
            (Some(low), Some(high)) if high / low > PRECISION => (low * high).sqrt(),
            _ => break,
        };
    }
    Ok(best)
}

/// The rate sent, if the path carried it. A try that fails narrowly gets another, since one burst
/// of foreign work spoils it.
fn passes(
    client: &Netns,
    server: &Netns,
    to: SocketAddr,
    len: usize,
    rate: f64,
) -> Result<Option<f64>> {
    for _ in 0..2 {
        interrupt::check()?;
        let probe = probe(client, server, to, len, rate, PROBE)?;
        if probe.loss < TOLERATED_LOSS {
            return Ok(Some(probe.sent_per_second));
        }
        if probe.loss > 0.03 {
            break;
        }
    }
    Ok(None)
}

/// Sends `rate` datagrams per second of `len` bytes for `duration`.
#[expect(clippy::cast_precision_loss, reason = "counts of seconds")]
pub fn probe(
    client: &Netns,
    server: &Netns,
    to: SocketAddr,
    len: usize,
    rate: f64,
    duration: Duration,
) -> Result<Probe> {
    let sink = server
        .run(move || UdpSocket::bind(to))?
        .context("cannot bind the sink")?;
    let source = client
        .run(move || -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            Ok(socket)
        })?
        .context("cannot reach the sink")?;
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&sink, 16 << 20);
    sink.set_nonblocking(true)?;
    let done = Arc::new(AtomicBool::new(false));
    let receiver = thread::spawn({
        let done = Arc::clone(&done);
        move || count(&sink, len, &done)
    });
    let started = Instant::now();
    let sent = send(&source, len, rate, duration);
    let seconds = started.elapsed().as_secs_f64();
    done.store(true, Ordering::Relaxed);
    let received = receiver.join().map_err(|_| anyhow!("the sink panicked"))?;
    let sent = sent?;
    Ok(Probe {
        sent_per_second: sent as f64 / seconds,
        loss: sent.saturating_sub(received) as f64 / sent.max(1) as f64,
    })
}

/// Sends `len` bytes at `rate` for `duration`; returns how many datagrams went out.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "counts of seconds"
)]
fn send(socket: &UdpSocket, len: usize, rate: f64, duration: Duration) -> Result<u64> {
    let mut batch = Batch::new(len, 0x5a);
    let mut sent = 0u64;
    let started = Instant::now();
    loop {
        let elapsed = started.elapsed();
        if elapsed >= duration {
            return Ok(sent);
        }
        let due = (elapsed.as_secs_f64() * rate) as u64;
        // After a stall the schedule is not made up for in one burst.
        let mut burst = due
            .saturating_sub(sent)
            .min((rate * 0.004) as u64 + BATCH as u64);
        if due.saturating_sub(sent) as f64 > rate * 0.02 + BATCH as f64 && burst == 0 {
            return Ok(sent);
        }
        while burst > 0 {
            let count = batch
                .send(socket, (burst as usize).min(BATCH))
                .context("cannot send")?;
            sent += count as u64;
            burst -= count as u64;
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// Counts datagrams until `done` and the socket has been quiet for a while.
fn count(socket: &UdpSocket, len: usize, done: &AtomicBool) -> u64 {
    let mut batch = Batch::new(len.max(64), 0);
    let mut received = 0;
    let mut quiet_since = Instant::now();
    loop {
        let count = batch.receive(socket).unwrap_or(0);
        received += count as u64;
        if count > 0 {
            quiet_since = Instant::now();
        } else if done.load(Ordering::Relaxed) && quiet_since.elapsed() > Duration::from_millis(150)
        {
            return received;
        }
        if count < BATCH / 2 {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A batch of message headers that all point at one buffer: contents do not matter.
struct Batch {
    headers: Vec<libc::mmsghdr>,
    // The headers point into these two; they live and die together, and are never resized.
    _iovec: Box<libc::iovec>,
    _buffer: Box<[u8]>,
}

impl Batch {
    fn new(len: usize, fill: u8) -> Self {
        let mut buffer = vec![fill; len].into_boxed_slice();
        let mut iovec = Box::new(libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: len,
        });
        // SAFETY: all-zero is a valid msghdr: no name, no vectors, no control data.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut *iovec;
        header.msg_iovlen = 1;
        let headers = vec![
            libc::mmsghdr {
                msg_hdr: header,
                msg_len: 0
            };
            BATCH
        ];
        Self {
            headers,
            _iovec: iovec,
            _buffer: buffer,
        }
    }

    fn send(&mut self, socket: &UdpSocket, count: usize) -> io::Result<usize> {
        let count = count.min(self.headers.len());
        let count = libc::c_uint::try_from(count).unwrap_or(0);
        // SAFETY: the first `count` headers are initialised and point at memory owned by `self`.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let count = libc::c_uint::try_from(self.headers.len()).unwrap_or(0);
        // SAFETY: as in `send`; all headers share one buffer, whose contents nobody reads.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }
}
