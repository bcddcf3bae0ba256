//! Is it reachable, is it whole, is it fast: probes between network namespaces, for the tests and
//! the demonstration. They need no other program, block their thread, and are bounded in time.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, ipproto, recv, sendto,
    socket_with,
};

use crate::netns::Netns;

#[cfg(test)]
mod tests;

/// ICMP types.
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
/// Type, code, checksum, identifier, sequence number.
const ICMP_HEADER_LEN: usize = 8;
/// An IPv4 packet is no longer than this.
const MAX_PACKET_LEN: usize = 65535;
/// Most that an echo carries besides IP and ICMP headers.
pub const MAX_ECHO_LEN: usize = MAX_PACKET_LEN - 20 - ICMP_HEADER_LEN;

/// Bytes written and read at a time.
const CHUNK_LEN: usize = 64 * 1024;
/// Patience with a connection that does not move at all.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Sends an ICMP echo request with `payload_len` bytes from the calling thread's namespace, and
/// waits for the reply. Returns the round-trip time.
///
/// # Errors
///
/// `WouldBlock` or `TimedOut` when no reply came, `InvalidData` when it came damaged,
/// `PermissionDenied` without `CAP_NET_RAW`, and what the kernel says of the path.
pub fn ping(to: Ipv4Addr, payload_len: usize, timeout: Duration) -> io::Result<Duration> {
    static NEXT_IDENTIFIER: AtomicU16 = AtomicU16::new(1);
    if payload_len > MAX_ECHO_LEN {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let identifier = NEXT_IDENTIFIER.fetch_add(1, Ordering::Relaxed);
    let request = echo(ECHO_REQUEST, identifier, payload_len);
    let socket = icmp_socket()?;
    let started = Instant::now();
    sendto(
        &socket,
        &request,
        SendFlags::empty(),
        &SocketAddr::V4(SocketAddrV4::new(to, 0)),
    )?;
    let mut packet = vec![0; MAX_PACKET_LEN];
    loop {
        let left = timeout
            .checked_sub(started.elapsed())
            .filter(|left| !left.is_zero());
        let left = left.ok_or(io::ErrorKind::TimedOut)?;
        set_socket_timeout(
            &socket,
            Timeout::Recv,
            Some(left.max(Duration::from_millis(1))),
        )?;
        let (_, len) = recv(&socket, packet.as_mut_slice(), RecvFlags::empty())?;
        let Some((source, message)) = packet.get(..len).and_then(split_packet) else {
            continue;
        };
        if source == to && is_reply(message, identifier) {
            let rtt = started.elapsed();
            let whole = message.get(ICMP_HEADER_LEN..) == request.get(ICMP_HEADER_LEN..);
            return if whole {
                Ok(rtt)
            } else {
                Err(io::ErrorKind::InvalidData.into())
            };
        }
    }
}

fn icmp_socket() -> io::Result<OwnedFd> {
    let protocol = Some(ipproto::ICMP);
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    bind(
        &socket,
        &SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    )?;
    Ok(socket)
}

/// An echo message whose payload differs from byte to byte and from request to request.
fn echo(kind: u8, identifier: u16, payload_len: usize) -> Vec<u8> {
    let [high, low] = identifier.to_be_bytes();
    let mut message = vec![kind, 0, 0, 0, high, low, 0, 1];
    message.extend(
        (0..=250)
            .cycle()
            .take(payload_len)
            .map(|byte: u8| byte ^ low),
    );
    let sum = checksum(&message).to_be_bytes();
    message
        .iter_mut()
        .skip(2)
        .zip(sum)
        .for_each(|(byte, sum)| *byte = sum);
    message
}

/// The Internet checksum: the complement of the sum in ones' complement.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u16::from_be_bytes([high, low]),
        [high] => u16::from_be_bytes([high, 0]),
        _ => 0,
    });
    !words.fold(0u16, |sum, word| {
        let (sum, carry) = sum.overflowing_add(word);
        // After an overflow the sum is below its maximum.
        sum + u16::from(carry)
    })
}

/// Source and payload of an IPv4 packet.
fn split_packet(packet: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let source = <[u8; 4]>::try_from(packet.get(12..16)?).ok()?;
    Some((Ipv4Addr::from(source), packet.get(header_len..)?))
}

fn is_reply(message: &[u8], identifier: u16) -> bool {
    message.first() == Some(&ECHO_REPLY) && message.get(4..6) == Some(&identifier.to_be_bytes())
}

/// How much to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// As much as goes in this time.
    For(Duration),
}

/// What went through a connection.
#[derive(Debug, Clone, Copy)]
pub struct Transferred {
    /// Bytes received and found to be those that were sent.
    pub bytes: u64,
    /// From the first byte sent to the last one received.
    pub elapsed: Duration,
}

impl Transferred {
    /// Million bits per second.
    #[expect(clippy::cast_precision_loss, reason = "a figure to read")]
    pub fn megabits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e6 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Sends bytes over TCP from one namespace to `to`, an address of the other one, and checks each of
/// them there.
///
/// # Errors
///
/// When the connection cannot be made, breaks, does not move for a while (`WouldBlock` or
/// `TimedOut`), or delivers other bytes (`InvalidData`).
pub fn transfer(from: &Netns, at: &Netns, to: Ipv4Addr, amount: Amount) -> io::Result<Transferred> {
    let enter = |netns: &Netns| netns.enter().map_err(io::Error::other);
    let listener = at
        .run(|| TcpListener::bind(SocketAddrV4::new(to, 0)))
        .map_err(io::Error::other)
        .flatten()?;
    let address = listener.local_addr()?;
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            enter(from)?;
            send(TcpStream::connect_timeout(&address, STALL_TIMEOUT)?, amount)
        });
        let receiver = scope.spawn(move || receive(accept(&listener)?));
        let started = sender
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("sender panicked")));
        if started.is_err() {
            // A receiver that still waits for its caller is let go.
            drop(at.run(|| TcpStream::connect_timeout(&address, STALL_TIMEOUT)));
        }
        let received = receiver
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("receiver panicked")));
        let (started, (bytes, ended)) = (started?, received?);
        if matches!(amount, Amount::Bytes(wanted) if bytes != wanted) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Transferred {
            bytes,
            elapsed: ended.saturating_duration_since(started),
        })
    })
}

fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    // A sender that cannot connect says so at once; this is for one that cannot even do that.
    set_socket_timeout(listener, Timeout::Recv, Some(2 * STALL_TIMEOUT))?;
    let (stream, _) = listener.accept()?;
    Ok(stream)
}

/// The bytes that go through, over and over. The length of the period is prime, so that bytes that
/// were shifted or swapped do not look right.
fn pattern() -> Vec<u8> {
    (0..=250).cycle().take(CHUNK_LEN + PERIOD).collect()
}

/// Length after which the bytes repeat: those from 0 to 250.
const PERIOD: usize = 251;

/// Returns when it began.
fn send(mut stream: TcpStream, amount: Amount) -> io::Result<Instant> {
    stream.set_write_timeout(Some(STALL_TIMEOUT))?;
    let pattern = pattern();
    let started = Instant::now();
    let mut sent = 0u64;
    loop {
        let wanted = match amount {
            Amount::Bytes(bytes) => bytes.saturating_sub(sent),
            Amount::For(duration) if started.elapsed() < duration => CHUNK_LEN as u64,
            Amount::For(_) => 0,
        };
        let len = usize::try_from(wanted).unwrap_or(CHUNK_LEN).min(CHUNK_LEN);
        if len == 0 {
            return Ok(started);
        }
        let chunk = expected(&pattern, sent, len)?;
        stream.write_all(chunk)?;
        sent += chunk.len() as u64;
    }
}

/// Returns how many bytes came, and when the last one did.
fn receive(mut stream: TcpStream) -> io::Result<(u64, Instant)> {
    stream.set_read_timeout(Some(STALL_TIMEOUT))?;
    let pattern = pattern();
    let mut chunk = vec![0; CHUNK_LEN];
    let mut received = 0u64;
    loop {
        let len = stream.read(&mut chunk)?;
        if len == 0 {
            return Ok((received, Instant::now()));
        }
        if chunk.get(..len) != Some(expected(&pattern, received, len)?) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        received += len as u64;
    }
}

/// The `len` bytes after the first `position` ones.
fn expected(pattern: &[u8], position: u64, len: usize) -> io::Result<&[u8]> {
    let start = usize::try_from(position % PERIOD as u64).unwrap_or_default();
    pattern
        .get(start..start + len)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
