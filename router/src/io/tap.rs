//! The device on the local bridge through which frames come and go.
//!
//! Behind [`TapDevice`] there is room for more than one kind. [`Tap`] carries plain Ethernet frames
//! without FCS, one per system call: whoever sends into it has checksums completed and large
//! segments cut by the kernel before. It has no part in the bridge until somebody makes it a port
//! of it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use rustix::io::ioctl_fionbio;
use thiserror::Error;
use tun_tap::{Iface, Mode};

/// Room for the longest frame: an IP packet of 65535 bytes behind an Ethernet header with one VLAN
/// tag.
pub const MAX_FRAME_LEN: usize = 65535 + 14 + 4;

/// A device that exchanges whole Ethernet frames with the kernel, never waiting.
pub trait TapDevice: Send {
    /// Its name in the kernel.
    fn name(&self) -> &str;

    /// Readable when there is a frame to read.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Takes the next frame, cut to the length of `frame`. `WouldBlock`: there is none.
    fn read(&mut self, frame: &mut [u8]) -> io::Result<usize>;

    /// Hands a frame to the kernel.
    fn write(&mut self, frame: &[u8]) -> io::Result<()>;
}

/// Why there is no TAP device.
#[derive(Debug, Error)]
pub enum TapError {
    /// The kernel would cut a longer name silently.
    #[error("{0:?} cannot be the name of a TAP device; use 1 to 15 bytes without blank and slash")]
    BadName(String),
    /// The process lacks the right to make one.
    #[error(
        "cannot create TAP device {0}: permission denied; run as root or with CAP_NET_ADMIN, and \
         let /dev/net/tun be opened"
    )]
    NotPermitted(String),
    /// The kernel has no TUN/TAP driver, or the container no such device file.
    #[error(
        "cannot create TAP device {0}: there is no /dev/net/tun; load the module with \
         \"modprobe tun\", or give the container this device"
    )]
    NoDriver(String),
    /// Somebody holds it.
    #[error("TAP device {0} is in use by another process; is the router running already?")]
    Busy(String),
    /// A device of another kind has the name.
    #[error(
        "network device {0} exists but is not a TAP device; remove it with \"ip link delete {0}\""
    )]
    NotATap(String),
    /// Everything else.
    #[error("cannot create TAP device {name}: {source}")]
    Failed {
        /// The name asked for.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A TAP device of plain frames. It is gone from the kernel when this value is dropped, unless it
/// was made persistent by others.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Creates the device, or takes a persistent one that nobody holds. It is down and in no
    /// bridge.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let bad =
            |byte: u8| byte == b'/' || byte == b'%' || byte == 0 || byte.is_ascii_whitespace();
        if name.is_empty() || name.len() > 15 || name.bytes().any(bad) {
            return Err(TapError::BadName(name.to_owned()));
        }
        let explain = |source: io::Error| {
            let name = name.to_owned();
            match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => TapError::NotPermitted(name),
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoDriver(name),
                Some(libc::EBUSY) => TapError::Busy(name),
                Some(libc::EINVAL) => TapError::NotATap(name),
                _ => TapError::Failed { name, source },
            }
        };
        let device = Iface::without_packet_info(name, Mode::Tap).map_err(explain)?;
        let name = device.name().to_owned();
        #[expect(
            unsafe_code,
            reason = "tun-tap hands its descriptor out as a number only"
        )]
        // SAFETY: `into_raw_fd` gives up the ownership of the open descriptor that it returns.
        let fd = unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) };
        ioctl_fionbio(&fd, true).map_err(|error| explain(error.into()))?;
        Ok(Self {
            file: File::from(fd),
            name,
        })
    }
}

impl TapDevice for Tap {
    fn name(&self) -> &str {
        &self.name
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn read(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        self.file.read(frame)
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        // A device takes a frame whole or not at all.
        self.file.write(frame).map(drop)
    }
}
