//! TCP connections of a network namespace, ended from outside through the kernel's socket
//! diagnostics.
//!
//! This is what `ss --kill` does: as if the network had reset the connection, which saves waiting
//! for the timeout of an end that cannot know. For the demonstration of a broken link.
//!
//! Message layout, native byte order but for ports and addresses, which are in network order
//! (linux/inet_diag.h):
//!
//! ```text
//! nlmsghdr      length 4, type 2, flags 2, sequence 4, port id 4
//! request       family 1, protocol 1, extensions 1, pad 1, states 4, socket id 48
//! answer        family 1, state 1, timer 1, retransmits 1, socket id 48, ...
//! socket id     source port 2, destination port 2, source 16, destination 16, interface 4, cookie 8
//! ```

use std::io;
use std::net::Ipv4Addr;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

/// Message types.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

/// Message flags.
const REQUEST: u16 = 0x001;
const ACK: u16 = 0x004;
const DUMP: u16 = 0x300;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
/// The bit of the state "established".
const ESTABLISHED: u32 = 1 << 1;

const HEADER_LEN: usize = 16;
const ID_LEN: usize = 48;
/// Where the socket id begins in an answer.
const ANSWER_ID: usize = 4;
/// Where the remote address begins in a socket id.
const ID_DESTINATION: usize = 20;

/// Resets the established TCP connections of the calling thread's namespace whose other end has
/// this address, and returns how many there were.
///
/// # Errors
///
/// `Unsupported` by kernels without the feature, `PermissionDenied` without `CAP_NET_ADMIN`.
pub fn reset_connections(remote: Ipv4Addr) -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut count = 0;
    // Sockets that are open for both families carry the address in its mapped form.
    let families = [
        (AF_INET, remote.octets().to_vec()),
        (AF_INET6, remote.to_ipv6_mapped().octets().to_vec()),
    ];
    for (family, address) in families {
        let ids = established(&socket, family)?;
        let wanted = |id: &&[u8; ID_LEN]| {
            id.get(ID_DESTINATION..)
                .is_some_and(|tail| tail.starts_with(&address))
        };
        for id in ids.iter().filter(wanted) {
            socket.send(&request(SOCK_DESTROY, REQUEST | ACK, family, id), 0)?;
            let mut answers = Answers::default();
            answers.receive(&socket)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Ids of all established TCP sockets of a family.
fn established(socket: &Socket, family: u8) -> io::Result<Vec<[u8; ID_LEN]>> {
    socket.send(
        &request(SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, family, &[0; ID_LEN]),
        0,
    )?;
    let mut answers = Answers::default();
    while !answers.ended {
        answers.receive(socket)?;
    }
    Ok(answers.ids)
}

fn request(kind: u16, flags: u16, family: u8, id: &[u8; ID_LEN]) -> Vec<u8> {
    let mut payload = vec![family, TCP, 0, 0];
    payload.extend(ESTABLISHED.to_ne_bytes());
    payload.extend(id);
    let len = u32::try_from(HEADER_LEN + payload.len()).unwrap_or(u32::MAX);
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(payload);
    message
}

/// What the kernel has answered so far.
#[derive(Debug, Default)]
struct Answers {
    ids: Vec<[u8; ID_LEN]>,
    ended: bool,
}

impl Answers {
    /// Takes one datagram, which may hold several messages. The answer to anything but a dump is
    /// one message.
    fn receive(&mut self, socket: &Socket) -> io::Result<()> {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Some((kind, payload, next)) = split_message(rest) {
            match kind {
                DONE => self.ended = true,
                ERROR => check(payload)?,
                _ => {
                    let id = payload.get(ANSWER_ID..).and_then(|tail| tail.first_chunk());
                    self.ids.extend(id);
                }
            }
            rest = next;
        }
        Ok(())
    }
}

/// Type and payload of the first message, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let payload = bytes.get(HEADER_LEN..len)?;
    let next = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, payload, next))
}

/// An error message with number 0 is an acknowledgement.
fn check(payload: &[u8]) -> io::Result<()> {
    let number = payload
        .first_chunk()
        .map(|bytes| i32::from_ne_bytes(*bytes));
    match number {
        Some(0) => Ok(()),
        // A connection that has ended meanwhile is as good as reset.
        Some(number) if number == -libc::ENOENT => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{IpAddr, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;
    use crate::netlink::Netlink;
    use crate::netns::tests::may_run;
    use crate::netns::{Netns, name_for};

    #[test]
    fn both_families_are_reset_and_others_are_not() {
        if !may_run() {
            return;
        }
        let netns = Netns::create(&name_for("sockdiagtest", "1")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(async {
            Netlink::inside(netns.as_fd())
                .unwrap()
                .set_up("lo")
                .await
                .unwrap();
        });
        let done = netns.run(|| -> io::Result<()> {
            // Connections to 127.0.0.x come from there, too.
            let connect = |listen: &str, to: Ipv4Addr| -> io::Result<(TcpStream, TcpStream)> {
                let listener = TcpListener::bind((listen, 0))?;
                let port = listener.local_addr()?.port();
                let stream = TcpStream::connect((IpAddr::V4(to), port))?;
                Ok((stream, listener.accept()?.0))
            };
            let mut plain = connect("127.0.0.2", Ipv4Addr::new(127, 0, 0, 2))?;
            let mut mapped = connect("::", Ipv4Addr::new(127, 0, 0, 2))?;
            let mut other = connect("127.0.0.3", Ipv4Addr::new(127, 0, 0, 3))?;
            let reset = reset_connections(Ipv4Addr::new(127, 0, 0, 2))?;
            // Both ends of a loopback connection have it for their remote address or none has: the
            // dialling ends do, as 127.0.0.1 is where they come from.
            assert_eq!(reset, 2);
            assert!(plain.0.read(&mut [0]).is_err());
            assert!(mapped.0.read(&mut [0]).is_err());
            other.0.set_nonblocking(true)?;
            let alive = other.0.read(&mut [0]).unwrap_err();
            assert_eq!(alive.kind(), io::ErrorKind::WouldBlock);
            assert_eq!(reset_connections(Ipv4Addr::new(192, 0, 2, 1))?, 0);
            Ok(())
        });
        match done.unwrap() {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                println!("skipped: {error}");
            }
            other => other.unwrap(),
        }
    }
}
