//! Connections: queries and answers behind their lengths, several on their way at a time.
//!
//! ```text
//!  0        2
//! +--------+----------------
//! | length | message
//! +--------+----------------
//! ```
//!
//! Source: RFC 7766. Queries may come before earlier ones are answered, and answers go out as they
//! are ready (sections 6.2.1.1 and 7). A connection ends when no whole query has come for a time,
//! however many bytes of one, and when the client takes no answer for that time; so nobody can hold
//! one for nothing. There are so many at a time, for each client and in all.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use super::shared::{Asked, Shared, Shares};
use super::udp::random;
use crate::reply::{Scratch, Transport};
use crate::responder::Action;
use crate::stats::{Kind, Outcome};

/// An error that stays, such as descriptors that have run out, must not make a busy loop.
const PAUSE: Duration = Duration::from_millis(50);
/// Answers are sent together up to this length.
const CHUNK_LEN: usize = 16 << 10;
/// Answers that wait to be sent; few, as each may be as long as 64 KiB.
const QUEUE: usize = 8;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;

/// Binds a listener.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier life may still be winding down.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections until it is to stop.
pub(super) async fn serve(listener: TcpListener, shares: Arc<Shares>, shared: Arc<Shared>) {
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept DNS connections");
                sleep(PAUSE).await;
                continue;
            }
        };
        // Too many: it is closed at once, and the client can use UDP.
        let Some(share) = Shares::take(&shares, client.ip()) else {
            shared.count(Kind::Malformed, Outcome::Dropped);
            continue;
        };
        let connection = {
            let shared = shared.clone();
            async move {
                if let Err(error) = converse(stream, client, &shared).await {
                    tracing::debug!(%client, %error, "DNS connection ended");
                }
                drop(share);
            }
        };
        shared.spawn(connection);
    }
}

async fn converse(stream: TcpStream, client: SocketAddr, shared: &Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let (answers, queue) = mpsc::channel(QUEUE);
    let idle = shared.limits.idle;
    // Each side ends the other: no more answers to come, or nobody who takes them.
    let (read, written) = tokio::join!(
        read(BufReader::new(reader), client, answers, shared),
        write(writer, queue, idle),
    );
    read.and(written)
}

/// Reads queries, answers what can be at once, and makes tasks of the others.
async fn read(
    mut reader: BufReader<OwnedReadHalf>,
    client: SocketAddr,
    answers: mpsc::Sender<Vec<u8>>,
    shared: &Arc<Shared>,
) -> io::Result<()> {
    let mut rng = random();
    let mut scratch = Scratch::default();
    let pipelined = Arc::new(Semaphore::new(shared.limits.pipelined.max(1)));
    let mut packet = Vec::new();
    loop {
        let query = async {
            let len = match reader.read_u16().await {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error),
            };
            packet.resize(usize::from(len), 0);
            reader.read_exact(&mut packet).await.map(|_| true)
        };
        let has_query = tokio::select! {
            query = timeout(shared.limits.idle, query) => query??,
            () = answers.closed() => false,
        };
        if !has_query {
            return Ok(());
        }
        let begun = Instant::now();
        let mut answer = Vec::new();
        let action =
            shared
                .responder
                .respond(&packet, Transport::Tcp, &mut rng, &mut scratch, &mut answer);
        match action {
            Action::Reply(kind, outcome) => {
                shared.count(kind, outcome);
                shared.took(begun);
            }
            Action::Ignore => {
                shared.count(Kind::Malformed, Outcome::Dropped);
                continue;
            }
            Action::Forward | Action::Parse => {
                let asked = Asked {
                    client,
                    transport: Transport::Tcp,
                    begun,
                };
                if let Some(permit) = shared.admit(client.ip()) {
                    // No more queries are read while so many wait.
                    let Ok(place) = pipelined.clone().acquire_owned().await else {
                        return Ok(());
                    };
                    let (packet, answers) = (packet.clone(), answers.clone());
                    let task = {
                        let shared = shared.clone();
                        async move {
                            if let Some(answer) = shared.answer(packet, asked).await {
                                // The client may have gone.
                                let _ = answers.send(answer).await;
                            }
                            drop((place, permit));
                        }
                    };
                    shared.spawn_query(task);
                    continue;
                }
                answer = shared.turn_away(&packet);
            }
        }
        if answers.send(answer).await.is_err() {
            return Ok(());
        }
    }
}

/// Writes answers as they come, those that are there together.
async fn write(
    mut writer: OwnedWriteHalf,
    mut answers: mpsc::Receiver<Vec<u8>>,
    patience: Duration,
) -> io::Result<()> {
    let mut chunk = Vec::new();
    while let Some(answer) = answers.recv().await {
        push(&mut chunk, &answer);
        while chunk.len() < CHUNK_LEN
            && let Ok(answer) = answers.try_recv()
        {
            push(&mut chunk, &answer);
        }
        timeout(patience, writer.write_all(&chunk)).await??;
        chunk.clear();
    }
    Ok(())
}

/// Appends an answer behind its length; none is longer than that can say.
fn push(chunk: &mut Vec<u8>, answer: &[u8]) {
    if let Ok(len) = u16::try_from(answer.len()) {
        chunk.extend_from_slice(&len.to_be_bytes());
        chunk.extend_from_slice(answer);
    }
}
