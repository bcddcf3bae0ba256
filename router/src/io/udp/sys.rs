//! The socket calls of [`super`], wrapped: the only place that sees the kernel's message headers.

// `recvmmsg`, `sendmmsg` and control messages, which no safe wrapper offers together.
#![allow(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the kernel's types for sizes of small structs and for small numbers differ by platform"
)]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{
    c_int, c_uint, cmsghdr, iovec, mmsghdr, msghdr, sock_filter, sock_fprog, sockaddr_in, socklen_t,
};

use crate::wire::shuttle;

/// Messages taken from the kernel at once. Each needs a buffer of [`RECEIVE_LEN`], and one that was
/// filled once stays resident.
pub(super) const RECEIVE_COUNT: usize = 16;
/// With GRO a message is as long as an IP packet can be.
pub(super) const RECEIVE_LEN: usize = 1 << 16;
/// Messages given to the kernel at once.
const SEND_COUNT: usize = 64;

const FLAGS: c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
const ADDRESS_LEN: socklen_t = size_of::<sockaddr_in>() as socklen_t;
const NO_ADDRESS: sockaddr_in = sockaddr_in {
    sin_family: 0,
    sin_port: 0,
    sin_addr: libc::in_addr { s_addr: 0 },
    sin_zero: [0; 8],
};
const NO_PART: iovec = iovec {
    iov_base: ptr::null_mut(),
    iov_len: 0,
};

/// Room for the control messages of one message: segment length and source address.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sets an option of the UDP layer.
pub(super) fn set_udp_option(
    socket: BorrowedFd<'_>,
    option: c_int,
    value: c_int,
) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `value`, which outlives the call.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
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

/// Lets the kernel choose among `count` sockets of one port, of which this is the first: a datagram of
/// shuttle goes to that of its sender's queue, others and those of queue 0 are spread by the addresses
/// and ports of both ends.
pub(super) fn choose_by_queue(socket: BorrowedFd<'_>, count: usize) -> io::Result<()> {
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const SHIFT_RIGHT: u16 = (libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K) as u16;
    const MODULO: u16 = (libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const RETURN_RESULT: u16 = (libc::BPF_RET | 0x10) as u16;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    // It sees the datagram without its UDP header.
    let mut steps = [
        step(LOAD_BYTE, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 5, shuttle::MARK.into()),
        step(LOAD_BYTE, 0, 0, 1),
        step(SHIFT_RIGHT, 0, 0, shuttle::KIND_QUEUE_SHIFT),
        step(JUMP_IF_EQUAL, 2, 0, 0),
        step(MODULO, 0, 0, count as u32),
        step(RETURN_RESULT, 0, 0, 0),
        // There is no such socket, so that the kernel goes on as if there were no program.
        step(RETURN, 0, 0, u32::MAX),
    ];
    let program = sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the pointer and the length are those of `program`, which points to `steps` with their
    // number; both outlive the call, which copies them.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<sock_fprog>() as socklen_t,
        )
    };
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes messages into `buffers`, [`RECEIVE_COUNT`] of [`RECEIVE_LEN`] bytes, and shows each to
/// `handle`: the sender, how many bytes, and the length of the datagrams of which they are a run. One
/// that was cut or whose sender is no IPv4 address is shown without sender. Returns how many.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffers: &mut [u8],
    mut handle: impl FnMut(Option<SocketAddrV4>, usize, usize),
) -> io::Result<usize> {
    let mut addresses = [NO_ADDRESS; RECEIVE_COUNT];
    let mut controls = [Control([0; 64]); RECEIVE_COUNT];
    let mut parts = [NO_PART; RECEIVE_COUNT];
    let mut headers = [const { no_header() }; RECEIVE_COUNT];
    let mut total = 0;
    for ((((header, part), address), control), buffer) in headers
        .iter_mut()
        .zip(&mut parts)
        .zip(&mut addresses)
        .zip(&mut controls)
        .zip(buffers.chunks_exact_mut(RECEIVE_LEN))
    {
        part.iov_base = buffer.as_mut_ptr().cast();
        part.iov_len = buffer.len();
        let header = &mut header.msg_hdr;
        header.msg_name = ptr::from_mut(address).cast();
        header.msg_namelen = ADDRESS_LEN;
        header.msg_iov = part;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control.0.len() as _;
        total += 1;
    }
    let count = retry(|| {
        // SAFETY: the first `total` headers each point to an address, a control buffer, a part
        // and, through that, a data buffer of their own, with their true lengths. All outlive the
        // call, and nothing else refers to them during it.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                total as c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        count as isize
    })?;
    for (header, address) in headers.iter().zip(&addresses).take(count) {
        let whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
        let is_ipv4 = c_int::from(address.sin_family) == libc::AF_INET;
        let from = (whole && is_ipv4).then(|| {
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            SocketAddrV4::new(ip, u16::from_be(address.sin_port))
        });
        let len = RECEIVE_LEN.min(header.msg_len as usize);
        let segment_len = received_segment_len(&header.msg_hdr).unwrap_or(len);
        handle(from, len, segment_len);
    }
    Ok(count)
}

/// The length that the kernel reports for the datagrams of a received message, if it is a run.
fn received_segment_len(header: &msghdr) -> Option<usize> {
    // SAFETY: the header is one that `recvmmsg` has filled in, and its control buffer lives: the
    // macros stay within the length noted there, and a control message of this type carries an
    // int. It need not be aligned.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = control.as_ref() {
            if message.cmsg_level == libc::SOL_UDP && message.cmsg_type == libc::UDP_GRO {
                let len = libc::CMSG_DATA(control).cast::<c_int>().read_unaligned();
                return usize::try_from(len).ok().filter(|len| *len > 0);
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
}

/// Sends one message; with `segment_len` it is a run that the kernel cuts.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    to: SocketAddrV4,
    from: Option<Ipv4Addr>,
    segment_len: Option<u16>,
    payload: &[u8],
) -> io::Result<()> {
    let mut envelope = Envelope::new(to, from, segment_len);
    let mut part = part_of(payload);
    let mut header = envelope.header();
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    let send = || {
        // SAFETY: the header points into `envelope` and to `part` and, through that, to the
        // payload, with their true lengths. All outlive the call; the kernel only reads them.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, FLAGS) }
    };
    retry(send).map(drop)
}

/// Sends datagrams as a message each, as many as go at once. Returns how many went; an error is
/// about the first.
pub(super) fn send_each<'a>(
    socket: BorrowedFd<'_>,
    to: SocketAddrV4,
    from: Option<Ipv4Addr>,
    datagrams: impl Iterator<Item = &'a [u8]>,
) -> io::Result<usize> {
    let mut envelope = Envelope::new(to, from, None);
    let template = envelope.header();
    let mut parts = [NO_PART; SEND_COUNT];
    let mut headers = [const { no_header() }; SEND_COUNT];
    let mut total = 0;
    for ((header, part), datagram) in headers.iter_mut().zip(&mut parts).zip(datagrams) {
        *part = part_of(datagram);
        header.msg_hdr = template;
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
        total += 1;
    }
    retry(|| {
        // SAFETY: the first `total` headers are made as in `send`; they share the envelope, which
        // the kernel only reads. It writes to the headers alone.
        let count = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                total as c_uint,
                FLAGS as _,
            )
        };
        count as isize
    })
}

/// What the header of a message to be sent points to, besides the payload.
struct Envelope {
    address: sockaddr_in,
    control: Control,
    control_len: usize,
}

impl Envelope {
    fn new(to: SocketAddrV4, from: Option<Ipv4Addr>, segment_len: Option<u16>) -> Self {
        let address = sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: to.port().to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from(*to.ip()).to_be(),
            },
            ..NO_ADDRESS
        };
        let mut envelope = Self {
            address,
            control: Control([0; 64]),
            control_len: 0,
        };
        if let Some(len) = segment_len {
            envelope.push_control(libc::SOL_UDP, libc::UDP_SEGMENT, len);
        }
        if let Some(from) = from {
            let source = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from(from).to_be(),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            envelope.push_control(libc::IPPROTO_IP, libc::IP_PKTINFO, source);
        }
        envelope
    }

    /// Appends a control message. There are only two kinds, of 24 and 32 bytes with all padding.
    fn push_control<T>(&mut self, level: c_int, kind: c_int, value: T) {
        const { assert!(size_of::<T>() <= 16) };
        let value_len = size_of::<T>() as c_uint;
        // SAFETY: these two only calculate.
        let (len, space) = unsafe {
            (
                libc::CMSG_LEN(value_len),
                libc::CMSG_SPACE(value_len) as usize,
            )
        };
        let Some(room) = self
            .control
            .0
            .get_mut(self.control_len..self.control_len + space)
        else {
            return;
        };
        let message = room.as_mut_ptr().cast::<cmsghdr>();
        // SAFETY: the room is as large as a header and a value, and aligned as the buffer is,
        // since every message takes a multiple of that alignment. The value need not be aligned.
        unsafe {
            (*message).cmsg_len = len as _;
            (*message).cmsg_level = level;
            (*message).cmsg_type = kind;
            libc::CMSG_DATA(message).cast::<T>().write_unaligned(value);
        }
        self.control_len += space;
    }

    /// A header that points here, still without payload.
    fn header(&mut self) -> msghdr {
        let mut header = no_header().msg_hdr;
        header.msg_name = (&raw mut self.address).cast();
        header.msg_namelen = ADDRESS_LEN;
        if self.control_len > 0 {
            header.msg_control = (&raw mut self.control).cast();
            header.msg_controllen = self.control_len as _;
        }
        header
    }
}

/// A part of a message that is only sent: the kernel takes no `*const`.
fn part_of(payload: &[u8]) -> iovec {
    iovec {
        iov_base: payload.as_ptr().cast_mut().cast(),
        iov_len: payload.len(),
    }
}

const fn no_header() -> mmsghdr {
    // SAFETY: null pointers, zero lengths and zero flags make a valid, empty message. It is not
    // written out because some platforms have private padding in it.
    unsafe { mem::zeroed() }
}

/// Repeats a call until no signal interrupts it.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
