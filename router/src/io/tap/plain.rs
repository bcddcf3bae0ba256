//! A TAP device of plain frames, by the crate tun-tap.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use rustix::io::ioctl_fionbio;
use tun_tap::{Iface, Mode};

use super::offload::set_offloads;
use super::{Offloads, TapDevice, TapError, check_name};
use crate::offload::Offload;
use crate::offload::coalesce::Joined;

/// A TAP device of plain frames.
#[derive(Debug)]
pub struct PlainTap {
    file: File,
    name: String,
}

impl PlainTap {
    /// Creates the device, or takes a persistent one that nobody holds. It is down and in no
    /// bridge, and gone from the kernel when this value is dropped, unless it was made persistent
    /// by others.
    pub fn open(name: &str) -> Result<Self, TapError> {
        check_name(name)?;
        let explain = |source: io::Error| TapError::explain(name, source);
        let device = Iface::without_packet_info(name, Mode::Tap).map_err(explain)?;
        let name = device.name().to_owned();
        #[expect(
            unsafe_code,
            reason = "tun-tap hands its descriptor out as a number only"
        )]
        // SAFETY: `into_raw_fd` gives up the ownership of the open descriptor that it returns.
        let fd = unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) };
        // They belong to the device, not to the descriptor: on a persistent one those of its last
        // user are still there, and frames would come with checksums open and no word of it.
        set_offloads(fd.as_fd(), 0).map_err(explain)?;
        ioctl_fionbio(&fd, true).map_err(|error| explain(error.into()))?;
        Ok(Self {
            file: File::from(fd),
            name,
        })
    }
}

impl TapDevice for PlainTap {
    fn name(&self) -> &str {
        &self.name
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn offloads(&self) -> Offloads {
        Offloads::None
    }

    fn read(&mut self, frame: &mut [u8]) -> io::Result<(usize, Offload)> {
        let len = self.file.read(frame)?;
        Ok((len, Offload::NONE))
    }

    fn write(&mut self, buffer: &[u8], frame: &Joined<'_>) -> io::Result<()> {
        let ([whole], Offload::NONE) = (frame.parts, frame.offload) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // A device takes a frame whole or not at all.
        let bytes = buffer.get(whole.clone()).unwrap_or_default();
        self.file.write(bytes).map(drop)
    }
}
