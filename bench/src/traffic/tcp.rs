//! Bulk TCP in one direction.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use host::netns::Netns;
use socket2::SockRef;

use crate::interrupt;
use crate::meter::{Meter, Usage};

/// Bytes per write and read, as iperf3 does it.
const CHUNK: usize = 128 * 1024;

/// What came through.
#[derive(Debug, Clone, Copy)]
pub struct Throughput {
    /// Bytes that the receiver read.
    pub bytes: u64,
    /// In this many seconds.
    pub seconds: f64,
    /// What it cost meanwhile.
    pub usage: Usage,
}

impl Throughput {
    /// Gigabits per second.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub fn gbps(self) -> f64 {
        self.bytes as f64 * 8e-9 / self.seconds
    }

    /// What `cpu_seconds` are per gigabyte (10^9 bytes).
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub fn per_gb(self, cpu_seconds: f64) -> f64 {
        cpu_seconds / (self.bytes as f64 * 1e-9)
    }
}

/// Between whom, and how.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// Where the sender is.
    pub client: &'a Netns,
    /// Where the receiver is.
    pub server: &'a Netns,
    /// Address of the receiver.
    pub to: SocketAddr,
    /// Congestion control of the sender.
    pub congestion: &'a str,
}

/// Sends over `streams` connections for `duration`, and watches the processes `pids` meanwhile.
pub fn run(way: Way<'_>, streams: usize, duration: Duration, pids: &[u32]) -> Result<Throughput> {
    let Way {
        client,
        server,
        to,
        congestion,
    } = way;
    let listener = server
        .run(move || TcpListener::bind(to))?
        .context("cannot listen")?;
    let received = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for _ in 0..streams {
        let stream = client
            .run(move || TcpStream::connect_timeout(&to, Duration::from_secs(10)))?
            .with_context(|| format!("cannot connect to {to}"))?;
        SockRef::from(&stream)
            .set_tcp_congestion(congestion.as_bytes())
            .with_context(|| format!("no congestion control {congestion:?} here"))?;
        let (accepted, _) = listener.accept().context("cannot accept")?;
        workers.push(thread::spawn({
            let stop = Arc::clone(&stop);
            move || send(stream, &stop)
        }));
        workers.push(thread::spawn({
            let received = Arc::clone(&received);
            move || receive(accepted, &received)
        }));
    }
    let meter = Meter::start(pids)?;
    let started = Instant::now();
    let before = received.load(Ordering::Relaxed);
    let slept = interrupt::sleep(duration);
    let bytes = received.load(Ordering::Relaxed) - before;
    let seconds = started.elapsed().as_secs_f64();
    let usage = meter.stop()?;
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().map_err(|_| anyhow!("a stream panicked"))??;
    }
    slept?;
    Ok(Throughput {
        bytes,
        seconds,
        usage,
    })
}

fn send(mut stream: TcpStream, stop: &AtomicBool) -> Result<()> {
    // A path that breaks must not hold the benchmark up for TCP's own quarter of an hour.
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let chunk = vec![0x5a; CHUNK];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&chunk).context("cannot send")?;
    }
    Ok(())
}

fn receive(mut stream: TcpStream, received: &AtomicU64) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(len) => received.fetch_add(len as u64, Ordering::Relaxed),
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => return Err(error).context("cannot receive"),
        };
    }
}
