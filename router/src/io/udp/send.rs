//! Sending runs of datagrams, with segmentation offload or without.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::connect_unspec;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, ip_mtu, set_ip_mtu_discover, set_socket_send_buffer_size_force,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::sys;
use crate::constants::MAX_UDP_PAYLOAD;

/// The kernel refuses longer runs; newer ones would take 128.
const MAX_SEGMENTS: usize = 64;
/// How long to wait when the kernel's buffer is full before datagrams are dropped. Bounds how long
/// a stuck interface can hold up all others.
const WRITABLE_TIMEOUT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};
/// IPv4 and UDP header.
const HEADERS_LEN: usize = 28;

/// Datagrams for one destination.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Where they go.
    pub to: SocketAddrV4,
    /// Source address, if it must not be left to the kernel's choice.
    pub from: Option<Ipv4Addr>,
    /// Whether they carry the "don't fragment" flag.
    pub df: bool,
    /// Whether they go by the queue's own port instead of the common one.
    pub own_port: bool,
    /// Length of each but the last, which may be shorter. Not 0.
    pub segment_len: usize,
    /// All of them, end to end.
    pub payload: &'a [u8],
}

/// What became of the datagrams of a [`Run`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// How many the kernel took.
    pub sent: u64,
    /// How many it refused as too long for the path.
    pub too_long: u64,
    /// The MTU of the path, headers included, if any was too long.
    pub path_mtu: Option<u16>,
    /// How many were dropped because the kernel's buffer stayed full.
    pub congested: u64,
    /// How many could not be sent for other reasons, such as a missing route.
    pub failed: u64,
}

/// A bound socket for sending.
pub(super) struct Sender {
    pub(super) socket: Socket,
    /// Whether runs are sent as one message. Cleared for good when the kernel or a device refuses.
    pub(super) gso: bool,
    /// Whether IP_MTU_DISCOVER is DO; else it is DONT.
    df: bool,
    /// Asks for the MTU of paths. It is opened in time because a socket stays in the network
    /// namespace of the thread that opened it.
    scout: Socket,
}

impl Sender {
    /// A socket that is not bound yet, with buffers of the kernel for so many bytes.
    pub(super) fn new(buffer_len: usize) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // Beyond the usual limit with CAP_NET_ADMIN, else as far as that goes.
        if set_socket_send_buffer_size_force(&socket, buffer_len).is_err() {
            socket.set_send_buffer_size(buffer_len)?;
        }
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?;
        // 0 stands for "no segments by default". A kernel that does not know the option would
        // ignore it in a control message too, and send the whole run as one datagram.
        let gso = sys::set_udp_option(socket.as_fd(), libc::UDP_SEGMENT, 0);
        if let Err(error) = &gso {
            tracing::info!(%error, "the kernel has no UDP send offload");
        }
        Ok(Self {
            socket,
            gso: gso.is_ok(),
            df: true,
            scout: Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?,
        })
    }

    /// Sends a run, and does not give up on the rest when a part of it fails.
    pub(super) fn send(&mut self, run: &Run<'_>) -> Sent {
        let mut outcome = Sent::default();
        if self.df != run.df {
            let discover = if run.df {
                Ipv4PathMtuDiscovery::DO
            } else {
                Ipv4PathMtuDiscovery::DONT
            };
            if let Err(error) = set_ip_mtu_discover(&self.socket, discover) {
                tracing::debug!(%error, df = run.df, "cannot switch the DF flag");
                outcome.failed += run.count();
                return outcome;
            }
            self.df = run.df;
        }
        // What the kernel cuts it never fragments on top, whether DF is set or not. So one of several
        // datagrams always fits the path as far as it is known, and a single one may be longer.
        let is_single = run.payload.len() <= run.segment_len;
        if !self.gso || (!run.df && is_single) {
            self.send_singly(run, &mut outcome);
            return outcome;
        }
        let segment_count = (MAX_UDP_PAYLOAD / run.segment_len.max(1)).clamp(1, MAX_SEGMENTS);
        for payload in run.payload.chunks(segment_count * run.segment_len.max(1)) {
            let part = Run { payload, ..*run };
            let mut sent = self.send_as_one(&part);
            if sent.as_ref().is_err_and(is_full) && self.wait_writable() {
                sent = self.send_as_one(&part);
            }
            match sent {
                Ok(()) => outcome.sent += part.count(),
                Err(error) if is_full(&error) => outcome.congested += part.count(),
                Err(error) => self.recover(&part, &error, &mut outcome),
            }
        }
        outcome
    }

    /// Sends a run that is short enough as one message.
    fn send_as_one(&self, run: &Run<'_>) -> io::Result<()> {
        let segment_len = if run.payload.len() > run.segment_len {
            Some(u16::try_from(run.segment_len).map_err(|_| io::ErrorKind::InvalidInput)?)
        } else {
            None
        };
        sys::send(
            self.socket.as_fd(),
            run.to,
            run.from,
            segment_len,
            run.payload,
        )
    }

    /// Tries the datagrams of a run by themselves after it was refused as a whole.
    fn recover(&mut self, run: &Run<'_>, error: &io::Error, outcome: &mut Sent) {
        let mut singly = Sent::default();
        self.send_singly(run, &mut singly);
        // The kernel refuses runs because of too long datagrams too, with errors that have other
        // causes as well. Only if every datagram passes by itself the run was the problem.
        // Without DF they may have passed in fragments.
        let is_proof = run.df || error.raw_os_error() == Some(libc::EIO);
        if is_proof && run.count() > 1 && singly.sent == run.count() {
            tracing::info!(%error, "UDP send offload does not work here; going on without it");
            self.gso = false;
        }
        outcome.add(singly);
    }

    /// Sends the datagrams of a run as a message each.
    fn send_singly(&self, run: &Run<'_>, outcome: &mut Sent) {
        let mut rest = run.payload;
        let mut waited = false;
        while !rest.is_empty() {
            let datagrams = Run {
                payload: rest,
                ..*run
            };
            let done = match sys::send_each(self.socket.as_fd(), run.to, run.from, datagrams.iter())
            {
                Ok(count) => {
                    waited = false;
                    outcome.sent += count as u64;
                    count.max(1)
                }
                Err(error) if is_full(&error) => {
                    if !waited && self.wait_writable() {
                        waited = true;
                        continue;
                    }
                    outcome.congested += datagrams.count();
                    return;
                }
                Err(error) if run.df && error.raw_os_error() == Some(libc::EMSGSIZE) => {
                    let len = rest.len().min(run.segment_len);
                    outcome.too_long += 1;
                    outcome.path_mtu = outcome
                        .path_mtu
                        .or_else(|| Some(self.path_mtu(run.to, len)));
                    1
                }
                Err(error) => {
                    tracing::trace!(to = %run.to, %error, "cannot send a datagram");
                    outcome.failed += 1;
                    1
                }
            };
            rest = rest
                .get(done * run.segment_len.max(1)..)
                .unwrap_or_default();
        }
    }

    /// The MTU of the path, headers included, after the kernel refused a datagram of this length.
    fn path_mtu(&self, to: SocketAddrV4, datagram_len: usize) -> u16 {
        // It belongs to the route to one destination, so it takes a connected socket to ask. The
        // source address stays from one connect to the next, unless that is undone.
        let ask = || -> io::Result<u32> {
            connect_unspec(&self.scout)?;
            self.scout.connect(&SocketAddr::V4(to).into())?;
            Ok(ip_mtu(&self.scout)?)
        };
        // The path may have become wider in between; this datagram was too long all the same.
        let below_refused = (datagram_len + HEADERS_LEN).saturating_sub(1);
        let mtu = ask().map_or(below_refused, |mtu| below_refused.min(mtu as usize));
        u16::try_from(mtu).unwrap_or(u16::MAX)
    }

    /// Waits a little for room in the kernel's buffer.
    fn wait_writable(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
        poll(&mut fds, Some(&WRITABLE_TIMEOUT)).is_ok_and(|ready| ready > 0)
    }
}

impl<'a> Run<'a> {
    fn iter(&self) -> std::slice::Chunks<'a, u8> {
        self.payload.chunks(self.segment_len.max(1))
    }

    fn count(&self) -> u64 {
        self.iter().len() as u64
    }
}

impl Sent {
    /// Adds what became of more datagrams for the same destination.
    pub fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.too_long += other.too_long;
        self.path_mtu = other.path_mtu.or(self.path_mtu);
        self.congested += other.congested;
        self.failed += other.failed;
    }
}

/// Whether a send failed for want of room, which passes.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM)
    )
}
