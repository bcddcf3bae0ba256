//! The socket calls of [`super`], wrapped: the only place that sees the kernel's message headers.

// `recvmmsg`, `sendmmsg` and control messages, which no safe wrapper offers together.
#![allow(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "sizes of small structs and small numbers, of which the kernel's types differ by platform"
)]

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{
    c_int, c_uint, c_void, cmsghdr, iovec, mmsghdr, msghdr, sockaddr_in, sockaddr_in6,
    sockaddr_storage, socklen_t,
};

/// Datagrams taken from the kernel at once, and given to it.
pub(super) const BATCH: usize = 32;
/// Longest query that is read; what is longer arrives cut, with a note of that.
pub(super) const QUERY_LEN: usize = 4096;
/// Room for control messages: the address to which a query was sent, of 32 or 40 bytes, and the
/// length of datagrams, of 24.
const CONTROL_LEN: usize = 64;

/// From where a datagram came, and to which of our addresses; and so the way back.
#[derive(Clone, Copy)]
pub(super) struct Way {
    peer: sockaddr_storage,
    peer_len: socklen_t,
    control: Control,
    control_len: usize,
}

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

impl Way {
    const fn new() -> Self {
        Self {
            // SAFETY: all zero is a valid address of no family.
            peer: unsafe { mem::zeroed() },
            peer_len: 0,
            control: Control([0; CONTROL_LEN]),
            control_len: 0,
        }
    }

    /// The client's address; unspecified if it is of no known family.
    pub(super) fn client(&self) -> IpAddr {
        let at = &raw const self.peer;
        match c_int::from(self.peer.ss_family) {
            libc::AF_INET if self.peer_len as usize >= size_of::<sockaddr_in>() => {
                // SAFETY: the storage is larger than, and aligned for, every kind of address, and
                // the family says that it is this one.
                let address = unsafe { &*at.cast::<sockaddr_in>() };
                Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into()
            }
            libc::AF_INET6 if self.peer_len as usize >= size_of::<sockaddr_in6>() => {
                // SAFETY: as above.
                let address = unsafe { &*at.cast::<sockaddr_in6>() };
                Ipv6Addr::from(address.sin6_addr.s6_addr).into()
            }
            _ => Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    /// The client's port.
    pub(super) fn port(&self) -> u16 {
        let at = &raw const self.peer;
        // SAFETY: as in `client`; the port is at the same place in both kinds, and zero in the
        // storage if it is of no kind.
        u16::from_be(unsafe { &*at.cast::<sockaddr_in>() }.sin_port)
    }

    /// Whether it leads from the same of our addresses to the same client.
    fn is_same(&self, other: &Self) -> bool {
        self.port() == other.port()
            && self.client() == other.client()
            && self.control_len == other.control_len
            && self.control.0.get(..self.control_len) == other.control.0.get(..self.control_len)
    }

    /// Writes the control messages of a message that goes this way: our address, if it has to be
    /// said, and the length of the datagrams into which it is to be cut, unless that is 0. Returns
    /// their length.
    fn write_control(&self, segment_len: usize, into: &mut Control) -> usize {
        *into = self.control;
        if segment_len == 0 {
            return self.control_len;
        }
        // SAFETY: these two only calculate.
        let (len, space) = unsafe {
            let value_len = size_of::<u16>() as c_uint;
            (
                libc::CMSG_LEN(value_len),
                libc::CMSG_SPACE(value_len) as usize,
            )
        };
        let start = self.control_len;
        let Some(room) = into.0.get_mut(start..start.saturating_add(space)) else {
            return self.control_len;
        };
        let message = room.as_mut_ptr().cast::<cmsghdr>();
        // SAFETY: the room is as large as a header and a value, and aligned as the buffer is, since
        // the message before takes a multiple of that alignment. The value need not be aligned.
        unsafe {
            (*message).cmsg_len = len as _;
            (*message).cmsg_level = libc::SOL_UDP;
            (*message).cmsg_type = libc::UDP_SEGMENT;
            libc::CMSG_DATA(message)
                .cast::<u16>()
                .write_unaligned(segment_len as u16);
        }
        start + space
    }

    /// Makes the note of the address to which the query was sent one of the address from which the
    /// answer goes: by whatever interface, not just the one by which the query came.
    fn turn(&mut self, control_len: usize) {
        let header = msghdr {
            msg_control: self.control.0.as_mut_ptr().cast(),
            msg_controllen: control_len.min(CONTROL_LEN) as _,
            ..no_header().msg_hdr
        };
        self.control_len = 0;
        // SAFETY: the control buffer is as long as noted, and the kernel has written its messages
        // there; the macros stay within. These types carry these structs, which need not be
        // aligned.
        unsafe {
            let Some(message) = libc::CMSG_FIRSTHDR(&raw const header).as_ref() else {
                return;
            };
            let data = libc::CMSG_DATA(message);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let mut info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    info.ipi_ifindex = 0;
                    data.cast::<libc::in_pktinfo>().write_unaligned(info);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let mut info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    let addr = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    if !addr.is_unicast_link_local() {
                        info.ipi6_ifindex = 0;
                    }
                    data.cast::<libc::in6_pktinfo>().write_unaligned(info);
                }
                _ => return,
            }
        }
        self.control_len = control_len.min(CONTROL_LEN);
    }
}

/// Asks the kernel to note with every datagram the address to which it was sent.
pub(super) fn want_destination(socket: BorrowedFd<'_>, is_ipv4: bool) -> io::Result<()> {
    if is_ipv4 {
        set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    } else {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    }
}

fn set_option(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `value`, which outlives the call.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<c_int>() as socklen_t,
        )
    };
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives the calling thread the kernel's policy for work that comes in batches, unless somebody has
/// chosen another one for it.
pub(super) fn prefer_batches() -> io::Result<()> {
    // SAFETY: it takes a number, of which 0 is the calling thread.
    if unsafe { libc::sched_getscheduler(0) } != libc::SCHED_OTHER {
        return Ok(());
    }
    // SAFETY: all zero is a valid value; on some platforms it has more fields than the priority,
    // which is 0 for this policy.
    let parameters: libc::sched_param = unsafe { mem::zeroed() };
    // SAFETY: 0 is the calling thread, and the pointer that of a value that outlives the call.
    let code = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Datagrams as they arrived.
pub(super) struct Inbox {
    ways: Box<[Way]>,
    lens: Box<[(usize, bool)]>,
    buffers: Box<[u8]>,
    count: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            ways: vec![Way::new(); BATCH].into(),
            lens: vec![(0, false); BATCH].into(),
            buffers: vec![0; BATCH * QUERY_LEN].into(),
            count: 0,
        }
    }

    /// Waits for datagrams, and takes as many as there are. The wait ends without any when the
    /// socket is shut down, or its time-out is over.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.count = 0;
        let mut parts = [NO_PART; BATCH];
        let mut headers = [const { no_header() }; BATCH];
        for (((header, part), way), buffer) in headers
            .iter_mut()
            .zip(&mut parts)
            .zip(&mut self.ways)
            .zip(self.buffers.chunks_exact_mut(QUERY_LEN))
        {
            part.iov_base = buffer.as_mut_ptr().cast();
            part.iov_len = buffer.len();
            let header = &mut header.msg_hdr;
            header.msg_name = (&raw mut way.peer).cast();
            header.msg_namelen = size_of::<sockaddr_storage>() as socklen_t;
            header.msg_iov = part;
            header.msg_iovlen = 1;
            header.msg_control = way.control.0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_LEN as _;
        }
        // SAFETY: each header points to an address, a control buffer, a part and, through that, a
        // data buffer of its own, with their true lengths. All outlive the call, and nothing else
        // refers to them during it.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as c_uint,
                libc::MSG_WAITFORONE as _,
                ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            return Err(io::Error::last_os_error());
        };
        for ((header, way), len) in headers
            .iter()
            .zip(&mut self.ways)
            .zip(&mut self.lens)
            .take(count)
        {
            let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            *len = (QUERY_LEN.min(header.msg_len as usize), cut);
            way.peer_len = header.msg_hdr.msg_namelen;
            #[allow(clippy::unnecessary_cast, reason = "narrower on other platforms")]
            way.turn(header.msg_hdr.msg_controllen as usize);
        }
        self.count = count;
        Ok(())
    }

    /// The way back of a datagram; of any if there are not so many.
    pub(super) fn way(&self, index: usize) -> &Way {
        let ways = &self.ways;
        ways.get(index).unwrap_or(&NO_WAY)
    }

    /// What has arrived: the way back, the bytes, and whether some of them are missing.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = (&Way, &[u8], bool)> {
        self.ways
            .iter()
            .zip(self.buffers.chunks_exact(QUERY_LEN))
            .zip(&self.lens)
            .take(self.count)
            .map(|((way, buffer), (len, cut))| (way, buffer.get(..*len).unwrap_or_default(), *cut))
    }
}

/// Whether the kernel can cut long messages into datagrams.
pub(super) fn can_segment(socket: BorrowedFd<'_>) -> bool {
    // 0 stands for "not unless asked for". A kernel that does not know the option would ignore it in
    // a control message too, and send all as one datagram.
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()
}

/// A datagram to be sent.
pub(super) type Datagram<'d> = (&'d Way, &'d [u8]);

/// What became of datagrams.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sent {
    /// How many could not be sent. DNS over UDP has to live with that.
    pub(super) lost: usize,
    /// Whether datagrams were refused together, and not one by one.
    pub(super) not_together: bool,
}

/// Sends datagrams, [`BATCH`] at most. With `together`, such as follow each other with one length
/// and one client are one message to the kernel, which cuts it at the end of its own way.
pub(super) fn send(socket: BorrowedFd<'_>, datagrams: &[Datagram<'_>], together: bool) -> Sent {
    let mut sent = Sent::default();
    let mut parts = [NO_PART; BATCH];
    let mut controls = [Control([0; CONTROL_LEN]); BATCH];
    let mut headers = [const { no_header() }; BATCH];
    for (part, (_, bytes)) in parts.iter_mut().zip(datagrams) {
        // The kernel takes no `*const`, but only reads.
        part.iov_base = bytes.as_ptr().cast_mut().cast::<c_void>();
        part.iov_len = bytes.len();
    }
    let runs = datagrams.chunk_by(|(way, bytes), (next_way, next_bytes)| {
        together && bytes.len() == next_bytes.len() && way.is_same(next_way)
    });
    let mut total = 0;
    let mut rest = parts.as_mut_slice();
    for ((header, control), run) in headers.iter_mut().zip(&mut controls).zip(runs) {
        let Some((run_parts, after)) = rest.split_at_mut_checked(run.len()) else {
            break;
        };
        rest = after;
        let Some((way, bytes)) = run.first() else {
            break;
        };
        let header = &mut header.msg_hdr;
        header.msg_name = (&raw const way.peer).cast_mut().cast();
        header.msg_namelen = way.peer_len;
        header.msg_iov = run_parts.as_mut_ptr();
        header.msg_iovlen = run.len() as _;
        let segment_len = if run.len() > 1 { bytes.len() } else { 0 };
        let control_len = way.write_control(segment_len, control);
        if control_len > 0 {
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = control_len as _;
        }
        total += 1;
    }
    let mut rest = headers.get_mut(..total).unwrap_or_default();
    let mut done = 0_usize;
    while !rest.is_empty() {
        // SAFETY: each header points to an address, a control buffer, and to parts that point to the
        // bytes of datagrams, with their true lengths. All outlive the call; the kernel writes to the
        // headers alone.
        let count = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                rest.as_mut_ptr(),
                rest.len() as c_uint,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        let passed = match usize::try_from(count) {
            Ok(count) => count.max(1),
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => 0,
            // The error is about the first of them.
            Err(_) => {
                #[allow(clippy::unnecessary_cast, reason = "narrower on other platforms")]
                let len = rest
                    .first()
                    .map_or(0, |header| header.msg_hdr.msg_iovlen as usize);
                let refused = datagrams.get(done..done.saturating_add(len));
                match refused.unwrap_or_default() {
                    [] | [_] => sent.lost += 1,
                    run => {
                        let singly = send(socket, run, false);
                        sent.lost += singly.lost;
                        sent.not_together |= singly.lost == 0;
                    }
                }
                1
            }
        };
        #[allow(clippy::unnecessary_cast, reason = "narrower on other platforms")]
        for header in rest.iter().take(passed) {
            done += header.msg_hdr.msg_iovlen as usize;
        }
        rest = rest.get_mut(passed..).unwrap_or_default();
    }
    sent
}

static NO_WAY: Way = Way::new();

const NO_PART: iovec = iovec {
    iov_base: ptr::null_mut(),
    iov_len: 0,
};

const fn no_header() -> mmsghdr {
    // SAFETY: null pointers, zero lengths and zero flags make a valid, empty message. It is not
    // written out because some platforms have private padding in it.
    unsafe { mem::zeroed() }
}
