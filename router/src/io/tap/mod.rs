//! The device on the local bridge through which frames come and go.
//!
//! Behind [`TapDevice`] there are two kinds. [`OffloadTap`] has the virtio-net header: TCP and UDP
//! cross it in super-frames of up to 64 KB, and checksums stay open (see [`crate::offload`]).
//! [`PlainTap`] carries plain Ethernet frames, one per system call: whoever sends into it has
//! checksums completed and large segments cut by the kernel before. [`open`] takes the first, and
//! where the kernel or a sandbox refuses that the second.
//!
//! A device has no part in the bridge until somebody makes it a port of it.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use thiserror::Error;

use crate::offload::Offload;
use crate::offload::coalesce::Joined;

mod offload;
mod plain;
#[cfg(test)]
mod tests;

pub use offload::OffloadTap;
pub use plain::PlainTap;

/// Room for the longest frame: an IP packet of 65535 bytes behind an Ethernet header with two VLAN
/// tags.
pub const MAX_FRAME_LEN: usize = 65535 + 14 + 8;

/// What a device takes over, besides plain frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offloads {
    /// Nothing: each frame is a packet with its checksums complete.
    None,
    /// Checksums, and super-frames of TCP.
    Tcp,
    /// Super-frames of UDP as well.
    TcpAndUdp,
}

impl Offloads {
    /// As it is shown.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::None => "plain frames",
            Self::Tcp => "TCP offload",
            Self::TcpAndUdp => "TCP and UDP offload",
        }
    }
}

/// A device that exchanges whole Ethernet frames with the kernel, never waiting; or one of its queues.
/// Of several the kernel chooses one for each flow, and stays with it: that in which a frame of the
/// flow in the other direction was last written, else any.
pub trait TapDevice: Send {
    /// Its name in the kernel.
    fn name(&self) -> &str;

    /// Readable when there is a frame to read.
    fn fd(&self) -> BorrowedFd<'_>;

    /// What it takes over. It hands out nothing else.
    fn offloads(&self) -> Offloads;

    /// Takes the next frame, cut to the length of `frame`, and says what is left to do for it.
    /// `WouldBlock`: there is none.
    fn read(&mut self, frame: &mut [u8]) -> io::Result<(usize, Offload)>;

    /// Hands a frame to the kernel, whose parts stand in `buffer`. Nothing may be left to do for it
    /// but what the device takes over.
    fn write(&mut self, buffer: &[u8], frame: &Joined<'_>) -> io::Result<()>;

    /// Hands a frame to the kernel for which nothing is left to do.
    fn write_frame(&mut self, frame: &[u8]) -> io::Result<()> {
        let whole: Range<usize> = 0..frame.len();
        let joined = Joined {
            offload: Offload::NONE,
            header_len: 0,
            parts: std::slice::from_ref(&whole),
        };
        self.write(frame, &joined)
    }
}

/// Which kind of device is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// With offloads, or if that is refused a plain one.
    #[default]
    Auto,
    /// With offloads, or none.
    Offload,
    /// Plain.
    Plain,
}

/// A device, and how it came to be this one.
pub struct Opened {
    /// The queues of the device, at least one.
    pub queues: Vec<Box<dyn TapDevice>>,
    /// Why there are no offloads although they were wanted.
    pub refused: Option<String>,
}

/// Creates a device, or takes a persistent one that nobody holds. It is down and in no bridge, and
/// gone from the kernel when the value is dropped, unless it was made persistent by others. A plain
/// device has one queue, and so has a persistent one that was made for one; others get `queue_count`.
pub fn open(name: &str, choice: Choice, queue_count: usize) -> Result<Opened, TapError> {
    choose(
        choice,
        || OffloadTap::open(name, queue_count),
        || PlainTap::open(name).map(|tap| Box::new(tap) as Box<dyn TapDevice>),
    )
}

fn choose<T: TapDevice + 'static>(
    choice: Choice,
    offload: impl FnOnce() -> Result<Vec<T>, TapError>,
    plain: impl FnOnce() -> Result<Box<dyn TapDevice>, TapError>,
) -> Result<Opened, TapError> {
    let refused = match choice {
        Choice::Plain => None,
        Choice::Auto | Choice::Offload => match offload() {
            Ok(queues) => {
                let boxed = queues.into_iter().map(|queue| Box::new(queue) as _);
                return Ok(Opened {
                    queues: boxed.collect(),
                    refused: None,
                });
            }
            Err(error) if choice == Choice::Offload => return Err(error),
            Err(error) => Some(error.to_string()),
        },
    };
    // If that fails too its error is the one that matters.
    let queues = vec![plain()?];
    Ok(Opened { queues, refused })
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
    /// The device is there, and the kernel refuses its offloads.
    #[error("the kernel refuses offloads on TAP device {name} ({request}: {source})")]
    NoOffloads {
        /// The name asked for.
        name: String,
        /// What was refused.
        request: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Everything else.
    #[error("cannot create TAP device {name}: {source}")]
    Failed {
        /// The name asked for.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl TapError {
    /// Why a device of this name could not be had.
    fn explain(name: &str, source: io::Error) -> Self {
        let name = name.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted(name),
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Self::NoDriver(name),
            Some(libc::EBUSY) => Self::Busy(name),
            Some(libc::EINVAL) => Self::NotATap(name),
            _ => Self::Failed { name, source },
        }
    }
}

/// Refuses names that the kernel would change.
fn check_name(name: &str) -> Result<(), TapError> {
    let bad = |byte: u8| byte == b'/' || byte == b'%' || byte == 0 || byte.is_ascii_whitespace();
    if name.is_empty() || name.len() > 15 || name.bytes().any(bad) {
        return Err(TapError::BadName(name.to_owned()));
    }
    Ok(())
}
