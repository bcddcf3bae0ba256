//! Round trips of small UDP datagrams, one outstanding.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use host::netns::Netns;

/// Length of a datagram's payload.
const LEN: usize = 64;

/// Percentiles of the round trip, in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct RoundTrip {
    /// Half of them were faster.
    pub p50: f64,
    /// 99 of 100 were faster.
    pub p99: f64,
    /// Datagrams that did not come back.
    pub lost: u64,
}

/// Bounces datagrams between `client` and `server` for `duration`.
pub fn run(
    client: &Netns,
    server: &Netns,
    to: SocketAddr,
    duration: Duration,
) -> Result<RoundTrip> {
    let echo = server
        .run(move || UdpSocket::bind(to))?
        .context("cannot bind the echo")?;
    let socket = client
        .run(move || -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            Ok(socket)
        })?
        .context("cannot reach the echo")?;
    let stop = Arc::new(AtomicBool::new(false));
    echo.set_read_timeout(Some(Duration::from_millis(100)))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let echo = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut datagram = [0; LEN];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((len, from)) = echo.recv_from(&mut datagram) {
                    // A reply that cannot be sent shows as lost.
                    let _ = echo.send_to(datagram.get(..len).unwrap_or_default(), from);
                }
            }
        }
    });
    let result = bounce(&socket, duration);
    stop.store(true, Ordering::Relaxed);
    echo.join().map_err(|_| anyhow!("the echo panicked"))?;
    result
}

fn bounce(socket: &UdpSocket, duration: Duration) -> Result<RoundTrip> {
    let mut trips = Vec::with_capacity(1 << 16);
    let mut lost = 0;
    let mut sequence = 0u64;
    let started = Instant::now();
    while started.elapsed() < duration {
        let mut datagram = [0; LEN];
        if let Some(head) = datagram.first_chunk_mut() {
            *head = sequence.to_be_bytes();
        }
        let sent = Instant::now();
        socket.send(&datagram).context("cannot send")?;
        loop {
            match socket.recv(&mut datagram) {
                Ok(_) if datagram.first_chunk() == Some(&sequence.to_be_bytes()) => {
                    trips.push(sent.elapsed().as_secs_f64() * 1e6);
                    break;
                }
                Ok(_) => {} // late answer to one that was given up
                Err(_) => {
                    lost += 1;
                    break;
                }
            }
        }
        sequence += 1;
    }
    trips.sort_by(f64::total_cmp);
    ensure!(!trips.is_empty(), "no datagram came back");
    let percentile = |percent: usize| trips.get(trips.len() * percent / 100).copied();
    Ok(RoundTrip {
        p50: percentile(50).unwrap_or_default(),
        p99: percentile(99).unwrap_or_default(),
        lost,
    })
}
