//! The TCP connections of the control half.
//!
//! A task reads each connection and another writes it; a third kind dials, and one task accepts.
//! They never touch the mesh engine: what happens goes as an [`Input`] through one bounded queue to
//! the control task, which alone owns the engine and the table of [`Links`]. When that queue is
//! full the readers stop reading, and TCP slows the neighbours down.
//!
//! Of each connection one chunk at most is on its way to the kernel. Only when it is written the
//! engine is asked for more, so that whatever waits longer is merged meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep_until, timeout};

use crate::LinkId;
use crate::constants::{ACCEPT_INTERVAL, ACCEPT_TOKENS, DIAL_TIMEOUT};

#[cfg(test)]
mod tests;

/// What is read from a connection at once.
const CHUNK_LEN: usize = 16 * 1024;
/// How many [`Input`]s may wait for the control task: with [`CHUNK_LEN`], 1 MB at most.
pub(super) const INPUT_COUNT: usize = 64;
/// Waiting connections that the kernel completes before they are accepted.
const BACKLOG: u32 = 128;
/// Rest after a failure to accept, which is mostly a want of file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How long the last chunk of a connection that we close may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Something happened to a connection, or to the wish for one.
#[derive(Debug)]
pub(super) enum Input {
    /// Somebody has connected.
    Accepted {
        /// The connection.
        stream: TcpStream,
        /// Its far end.
        remote: SocketAddr,
        /// Its near end.
        local: SocketAddr,
    },
    /// An attempt to connect has come to an end.
    Dialled(LinkId, Result<(TcpStream, SocketAddr), String>),
    /// A host name has been looked up.
    Resolved(String, Result<Vec<IpAddr>, String>),
    /// Bytes have come in.
    Bytes(LinkId, Vec<u8>),
    /// The chunk given to [`Links::write`] is with the kernel.
    Written(LinkId),
    /// The connection is broken, or the other end has closed it.
    Closed(LinkId, String),
}

/// Holds some tokens, and gets one back per interval. Bounds the rate of what takes one each.
#[derive(Debug)]
pub(super) struct TokenBucket {
    /// Tokens at `refilled_at`.
    tokens: u32,
    capacity: u32,
    interval: Duration,
    refilled_at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub(super) fn new(capacity: u32, interval: Duration, now: Instant) -> Self {
        Self {
            tokens: capacity,
            capacity,
            interval,
            refilled_at: now,
        }
    }

    /// Takes a token, or tells when there will be one.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        while self.tokens < self.capacity && now >= self.refilled_at + self.interval {
            self.tokens += 1;
            self.refilled_at += self.interval;
        }
        if self.tokens == self.capacity {
            // A full bucket collects no interval in advance.
            self.refilled_at = now;
        }
        match self.tokens.checked_sub(1) {
            Some(rest) => {
                self.tokens = rest;
                Ok(())
            }
            None => Err(self.refilled_at + self.interval),
        }
    }
}

/// Listens for connections.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket_for(address)?;
    // Connections of an earlier life of the process must not hold the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections for ever, no faster than the bucket allows.
pub(super) async fn accept(listener: TcpListener, inputs: mpsc::Sender<Input>) {
    let mut bucket = TokenBucket::new(ACCEPT_TOKENS, ACCEPT_INTERVAL, Instant::now());
    loop {
        let accepted = listener.accept().await;
        let accepted = accepted.and_then(|(stream, remote)| {
            stream.set_nodelay(true)?;
            let local = stream.local_addr()?;
            Ok(Input::Accepted {
                stream,
                remote,
                local,
            })
        });
        match accepted {
            Ok(input) => {
                if inputs.send(input).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(error = describe(&error), "cannot accept a connection");
                sleep_until((Instant::now() + ACCEPT_REST).into()).await;
            }
        }
        while let Err(at) = bucket.take(Instant::now()) {
            sleep_until(at.into()).await;
        }
    }
}

/// The connections that exist, and those being made.
pub(super) struct Links {
    inputs: mpsc::Sender<Input>,
    /// Source address of connections that we make.
    bind: IpAddr,
    dials: BTreeMap<LinkId, Task>,
    connections: BTreeMap<LinkId, Connection>,
}

/// A task that ends with this value.
pub(super) struct Task(AbortHandle);

impl Task {
    /// Takes charge of a task.
    pub(super) fn of<T>(task: &JoinHandle<T>) -> Self {
        Self(task.abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Connection {
    /// To the writing task.
    chunks: mpsc::Sender<Vec<u8>>,
    /// Whether the writing task has nothing to write.
    idle: bool,
    _reader: Task,
    writer: Task,
}

impl Links {
    /// None yet. All that happens to them goes to `inputs`.
    pub(super) fn new(bind: IpAddr, inputs: mpsc::Sender<Input>) -> Self {
        Self {
            inputs,
            bind,
            dials: BTreeMap::new(),
            connections: BTreeMap::new(),
        }
    }

    /// Looks a host name up, every time anew.
    pub(super) fn resolve(&self, host: String) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let found = match timeout(DIAL_TIMEOUT, lookup(&host)).await {
                Ok(found) => found.map_err(|error| describe(&error)),
                Err(_) => Err("timed out".to_owned()),
            };
            // Fails only when the control task has ended.
            let _ = inputs.send(Input::Resolved(host, found)).await;
        });
    }

    /// Begins to make a connection. Whoever loses patience closes it.
    pub(super) fn dial(&mut self, link: LinkId, to: SocketAddr) {
        let (inputs, bind) = (self.inputs.clone(), self.bind);
        let task = tokio::spawn(async move {
            let dialled = connect(bind, to).await;
            let dialled = dialled.map_err(|error| describe(&error));
            let _ = inputs.send(Input::Dialled(link, dialled)).await;
        });
        self.dials.insert(link, Task::of(&task));
    }

    /// Whether an attempt is still wanted, which it will not be a second time.
    pub(super) fn dial_ended(&mut self, link: LinkId) -> bool {
        self.dials.remove(&link).is_some()
    }

    /// Takes a connection over.
    pub(super) fn adopt(&mut self, link: LinkId, stream: TcpStream) {
        let (reader, writer) = stream.into_split();
        // One chunk, and the last words.
        let (chunks, next_chunk) = mpsc::channel(2);
        let reader = tokio::spawn(read(link, reader, self.inputs.clone()));
        let writer = tokio::spawn(write(link, writer, next_chunk, self.inputs.clone()));
        let connection = Connection {
            chunks,
            idle: true,
            _reader: Task::of(&reader),
            writer: Task::of(&writer),
        };
        self.connections.insert(link, connection);
    }

    /// Whether there is such a connection.
    pub(super) fn contains(&self, link: LinkId) -> bool {
        self.connections.contains_key(&link)
    }

    /// Whether the connection can take a chunk.
    pub(super) fn is_idle(&self, link: LinkId) -> bool {
        self.connections
            .get(&link)
            .is_some_and(|connection| connection.idle)
    }

    /// Whether nothing is being written.
    pub(super) fn all_idle(&self) -> bool {
        self.connections.values().all(|connection| connection.idle)
    }

    /// Writes a chunk to an idle connection.
    pub(super) fn write(&mut self, link: LinkId, chunk: Vec<u8>) {
        if let Some(connection) = self.connections.get_mut(&link) {
            // When the writing task has just failed, its report is on the way.
            connection.idle = false;
            let _ = connection.chunks.try_send(chunk);
        }
    }

    /// A chunk has been written.
    pub(super) fn written(&mut self, link: LinkId) {
        if let Some(connection) = self.connections.get_mut(&link) {
            connection.idle = true;
        }
    }

    /// Ends a connection or an attempt to make one. Nothing more is reported about it. The chunk
    /// that is being written and the last words may still reach the other end: it learns from them
    /// why.
    pub(super) fn close(&mut self, link: LinkId, last_words: Vec<u8>) {
        self.dials.remove(&link);
        let Some(connection) = self.connections.remove(&link) else {
            return;
        };
        if connection.idle && last_words.is_empty() {
            return;
        }
        // There is always room: a chunk is written only to an idle connection. The channel then
        // closes, which ends the writing task when all is written.
        let _ = connection.chunks.try_send(last_words);
        let writer = connection.writer;
        tokio::spawn(async move {
            sleep_until((Instant::now() + FAREWELL).into()).await;
            drop(writer);
        });
    }
}

/// Reads until the connection ends.
async fn read(link: LinkId, reader: OwnedReadHalf, inputs: mpsc::Sender<Input>) {
    let reason = loop {
        // No buffer is held while there is nothing to read: most connections are silent.
        if let Err(error) = reader.readable().await {
            break describe(&error);
        }
        let mut chunk = Vec::with_capacity(CHUNK_LEN);
        match reader.try_read_buf(&mut chunk) {
            Ok(0) => break "closed by the other end".to_owned(),
            Ok(_) => {
                if inputs.send(Input::Bytes(link, chunk)).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => break describe(&error),
        }
    };
    let _ = inputs.send(Input::Closed(link, reason)).await;
}

/// Writes chunk after chunk.
async fn write(
    link: LinkId,
    mut writer: OwnedWriteHalf,
    mut chunks: mpsc::Receiver<Vec<u8>>,
    inputs: mpsc::Sender<Input>,
) {
    while let Some(chunk) = chunks.recv().await {
        if let Err(error) = writer.write_all(&chunk).await {
            // The reading task meets the end as well, and reports it after what the other end had
            // to say before.
            tracing::debug!(?link, error = describe(&error), "cannot write");
            return;
        }
        if inputs.send(Input::Written(link)).await.is_err() {
            return;
        }
    }
}

async fn connect(from: IpAddr, to: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
    let socket = socket_for(to)?;
    if from.is_ipv4() == to.is_ipv4() {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    Ok((stream, local))
}

fn socket_for(address: SocketAddr) -> io::Result<TcpSocket> {
    match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

/// All addresses of a host; if it has any of IPv4, only those, which is all that sleeve speaks.
async fn lookup(host: &str) -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<_> = lookup_host((host, 0))
        .await?
        .map(|found| found.ip())
        .collect();
    if found.iter().any(IpAddr::is_ipv4) {
        found.retain(IpAddr::is_ipv4);
    }
    Ok(found)
}

/// The kernel's words without its number.
pub(super) fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(at) => text.get(..at).unwrap_or(&text).to_lowercase(),
        None => text,
    }
}
