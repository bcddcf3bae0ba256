//! The UDP socket of the data plane: many datagrams per system call.
//!
//! Receiving: `recvmmsg`, and with `UDP_GRO` each message may be a run of datagrams of one sender,
//! laid end to end, all of the same length except a shorter last one. Sending: a [`Run`] of the
//! same shape goes out as one message with `UDP_SEGMENT`, or, where that does not work, datagram by
//! datagram through `sendmmsg`.
//!
//! One socket serves both sending paths of sleeve (Weave data plane, section 2.5): whether IP's
//! "don't fragment" flag is set is a property of the socket (`IP_MTU_DISCOVER`), switched between
//! runs when it has to be. Nearly all runs want it set. IPv4 only, as sleeve is.
//!
//! With several queues each has a socket on the common port (`SO_REUSEPORT`), and for sending also one
//! with a port of its own. A datagram of shuttle names the queue of its sender and is received by the
//! socket of the same number, or of that number modulo theirs, so that flows keep to one queue on both
//! hosts; others, and those of queue 0, are spread by peer. The own port keeps the queues apart where
//! only addresses and ports are looked at: in the receive queues of network cards, and in receive
//! offload.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::sockopt::set_socket_recv_buffer_size_force;

mod send;
mod sys;
#[cfg(test)]
mod tests;

use send::Sender;
pub use send::{Run, Sent};

/// Buffers of the kernel in each direction: some 60 runs of the greatest length. Their memory is
/// taken only while they are filled.
const KERNEL_BUFFER_LEN: usize = 4 << 20;

/// What one call of [`UdpSocket::receive`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// Messages taken from the kernel; each may have been several datagrams.
    pub messages: usize,
    /// Of these, messages that were cut or had no IPv4 sender.
    pub dropped: u64,
    /// Whether there may be more at once.
    pub more: bool,
}

/// A bound UDP socket that never blocks for long.
pub struct UdpSocket {
    address: SocketAddrV4,
    sender: Sender,
    /// With a port of its own, for all but the first of several.
    own: Option<Sender>,
    buffers: Box<[u8]>,
}

impl UdpSocket {
    /// Binds a socket. With port 0 the kernel chooses one.
    pub fn bind(address: SocketAddrV4) -> io::Result<Self> {
        let (sender, address) = Self::open(address, false)?;
        Ok(Self::new(sender, address, None))
    }

    /// Binds `count` sockets to one address, one for each queue. With port 0 the kernel chooses one
    /// for all.
    pub fn bind_all(address: SocketAddrV4, count: usize) -> io::Result<Vec<Self>> {
        let first = Self::bind(address)?;
        if count <= 1 {
            return Ok(vec![first]);
        }
        // Sharing is allowed only now: nobody who has the address already is joined by accident.
        first.sender.socket.set_reuse_port(true)?;
        let address = first.address;
        let mut sockets = vec![first];
        for _ in 1..count {
            let (sender, address) = Self::open(address, true)?;
            let own = Sender::new(KERNEL_BUFFER_LEN)?;
            let any_port = SocketAddrV4::new(*address.ip(), 0);
            own.socket.bind(&SocketAddr::V4(any_port).into())?;
            sockets.push(Self::new(sender, address, Some(own)));
        }
        if let Some(first) = sockets.first()
            && let Err(error) = sys::choose_by_queue(first.as_fd(), count)
        {
            tracing::info!(%error, "the kernel spreads datagrams by peer, not by queue");
        }
        Ok(sockets)
    }

    fn open(address: SocketAddrV4, is_shared: bool) -> io::Result<(Sender, SocketAddrV4)> {
        let sender = Sender::new(KERNEL_BUFFER_LEN)?;
        let socket = &sender.socket;
        // Beyond the usual limit with CAP_NET_ADMIN, else as far as that goes.
        if set_socket_recv_buffer_size_force(socket, KERNEL_BUFFER_LEN).is_err() {
            socket.set_recv_buffer_size(KERNEL_BUFFER_LEN)?;
        }
        if let Err(error) = sys::set_udp_option(socket.as_fd(), libc::UDP_GRO, 1) {
            tracing::info!(%error, "the kernel has no UDP receive offload");
        }
        if is_shared {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&SocketAddr::V4(address).into())?;
        let bound = socket.local_addr()?.as_socket_ipv4();
        let bound = bound.ok_or_else(|| io::Error::other("bound to no IPv4 address"))?;
        Ok((sender, bound))
    }

    fn new(sender: Sender, address: SocketAddrV4, own: Option<Sender>) -> Self {
        Self {
            address,
            sender,
            own,
            buffers: vec![0; sys::RECEIVE_COUNT * sys::RECEIVE_LEN].into_boxed_slice(),
        }
    }

    /// Sends and receives every datagram by itself from now on, for underlays whose devices get
    /// runs wrong.
    pub fn disable_offloads(&mut self) {
        self.sender.gso = false;
        if let Some(own) = &mut self.own {
            own.gso = false;
        }
        if let Err(error) = sys::set_udp_option(self.as_fd(), libc::UDP_GRO, 0) {
            tracing::debug!(%error, "cannot switch UDP receive offload off");
        }
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddrV4 {
        self.address
    }

    /// Takes what has arrived, up to a batch, and tells `note` of each datagram its sender and where
    /// it stands in [`buffers`](Self::buffers).
    pub fn receive(
        &mut self,
        mut note: impl FnMut(SocketAddrV4, Range<usize>),
    ) -> io::Result<Received> {
        let mut received = Received::default();
        let mut place = 0;
        let show = |from: Option<SocketAddrV4>, len: usize, segment_len: usize| {
            let end = place + len;
            let mut start = place;
            place += sys::RECEIVE_LEN;
            let Some(from) = from else {
                received.dropped += 1;
                return;
            };
            // An empty datagram is one as well.
            loop {
                let next = end.min(start + segment_len.max(1));
                note(from, start..next);
                start = next;
                if start >= end {
                    break;
                }
            }
        };
        match sys::receive(self.sender.socket.as_fd(), &mut self.buffers, show) {
            Ok(messages) => {
                received.messages = messages;
                received.more = messages == sys::RECEIVE_COUNT;
                Ok(received)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(received),
            Err(error) => Err(error),
        }
    }

    /// What the last [`receive`](Self::receive) has brought.
    pub fn buffers(&mut self) -> &mut [u8] {
        &mut self.buffers
    }

    /// Sends a run, and does not give up on the rest when a part of it fails.
    pub fn send(&mut self, run: &Run<'_>) -> Sent {
        match &mut self.own {
            Some(own) if run.own_port => own.send(run),
            _ => self.sender.send(run),
        }
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sender.socket.as_fd()
    }
}
