//! A TAP device with the virtio-net header, by the kernel's own calls: no crate sets it up for
//! Ethernet frames.
//!
//! In order: open `/dev/net/tun`, attach with `IFF_VNET_HDR`, set the header's length, set what is
//! taken over. The last belongs to the device and not to the descriptor, so whoever attaches without
//! the header has to clear it.

// Requests of the TUN/TAP driver, which no safe wrapper offers.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{c_int, c_uint, c_ulong};

use super::{Offloads, TapDevice, TapError, check_name};
use crate::offload::Offload;
use crate::offload::coalesce::{Joined, MAX_JOINED};
use crate::offload::vnet;

/// Checksums, TCP over IPv4 and IPv6, with ECN.
const TCP: c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// `TUN_F_USO4` and `TUN_F_USO6` of linux/if_tun.h, since Linux 6.2.
const UDP: c_uint = 0x20 | 0x40;

/// A TAP device through which super-frames go, or one of its queues.
#[derive(Debug)]
pub struct OffloadTap {
    file: File,
    name: String,
    offloads: Offloads,
}

impl OffloadTap {
    /// Creates the device, or takes a persistent one that nobody holds, and opens that many queues of
    /// it, or one if a persistent device has no more. It is down and in no bridge, and gone from the
    /// kernel when the values are dropped, unless it was made persistent by others.
    pub fn open(name: &str, queue_count: usize) -> Result<Vec<Self>, TapError> {
        check_name(name)?;
        if queue_count > 1 {
            match Self::queue(name, true) {
                Ok(first) => {
                    let rest = (1..queue_count).map(|_| Self::queue(name, true));
                    return std::iter::once(Ok(first)).chain(rest).collect();
                }
                Err(TapError::NoOffloads { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(vec![Self::queue(name, false)?])
    }

    fn queue(name: &str, is_one_of_several: bool) -> Result<Self, TapError> {
        let explain = |source: io::Error| TapError::explain(name, source);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(explain)?;
        let refused = |request: &'static str| {
            move |source: io::Error| TapError::NoOffloads {
                name: name.to_owned(),
                request,
                source,
            }
        };
        let attached = attach(file.as_fd(), name, is_one_of_several);
        attached.map_err(|error| match error.raw_os_error() {
            // Of a kernel that has never heard of the header, as of a device of another kind; the
            // back end of plain frames will tell.
            Some(libc::EINVAL) => refused("TUNSETIFF")(error),
            _ => explain(error),
        })?;
        set_header_len(file.as_fd()).map_err(refused("TUNSETVNETHDRSZ"))?;
        let offloads = if set_offloads(file.as_fd(), TCP | UDP).is_ok() {
            Offloads::TcpAndUdp
        } else {
            set_offloads(file.as_fd(), TCP).map_err(refused("TUNSETOFFLOAD"))?;
            Offloads::Tcp
        };
        Ok(Self {
            file,
            name: name.to_owned(),
            offloads,
        })
    }
}

impl TapDevice for OffloadTap {
    fn name(&self) -> &str {
        &self.name
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn read(&mut self, frame: &mut [u8]) -> io::Result<(usize, Offload)> {
        let mut header = [0; vnet::LEN];
        let parts = &mut [IoSliceMut::new(&mut header), IoSliceMut::new(frame)];
        let len = self.file.read_vectored(parts)?;
        let offload = vnet::decode(&header)
            .map_err(|unknown| io::Error::new(io::ErrorKind::InvalidData, unknown))?;
        Ok((len.saturating_sub(vnet::LEN), offload))
    }

    fn write(&mut self, buffer: &[u8], frame: &Joined<'_>) -> io::Result<()> {
        let header = vnet::encode(&frame.offload, frame.header_len);
        let mut parts = [IoSlice::new(&[]); 1 + MAX_JOINED];
        let [first, rest @ ..] = &mut parts;
        *first = IoSlice::new(&header);
        let rest = rest
            .get_mut(..frame.parts.len())
            .ok_or(io::ErrorKind::InvalidInput)?;
        for (slice, part) in rest.iter_mut().zip(frame.parts) {
            *slice = IoSlice::new(buffer.get(part.clone()).unwrap_or_default());
        }
        let parts = parts.get(..=frame.parts.len()).unwrap_or_default();
        // A device takes a frame whole or not at all.
        self.file.write_vectored(parts).map(drop)
    }
}

/// Makes the descriptor one of the TAP device of this name, which is created if need be.
fn attach(tun: BorrowedFd<'_>, name: &str, is_one_of_several: bool) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The name was checked to leave a zero at the end.
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if is_one_of_several {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: this request takes a pointer to an ifreq, which outlives the call; the kernel may
    // write to it.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })
}

fn set_header_len(tun: BorrowedFd<'_>) -> io::Result<()> {
    let len = c_int::try_from(vnet::LEN).map_err(io::Error::other)?;
    // SAFETY: this request takes a pointer to an int, which outlives the call.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const len) })
}

/// Sets what the device of this descriptor takes over; 0 for nothing.
pub(super) fn set_offloads(tun: BorrowedFd<'_>, offloads: c_uint) -> io::Result<()> {
    // SAFETY: this request takes a number in place of a pointer.
    check(unsafe {
        libc::ioctl(
            tun.as_raw_fd(),
            libc::TUNSETOFFLOAD as _,
            c_ulong::from(offloads),
        )
    })
}

fn check(code: c_int) -> io::Result<()> {
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
