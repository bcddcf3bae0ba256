//! What tests of this module share: a socket pair in place of a TAP device.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::time::timeout;

use super::tap::{MAX_FRAME_LEN, Offloads, TapDevice};
use crate::offload::Offload;
use crate::offload::coalesce::Joined;

/// When a test gives up.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A device whose other end the test holds, and what it says it takes over. It refuses super-frames
/// all the same.
struct FakeTap(UnixDatagram, Offloads);

impl TapDevice for FakeTap {
    fn name(&self) -> &str {
        "fake"
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn offloads(&self) -> Offloads {
        self.1
    }

    fn read(&mut self, frame: &mut [u8]) -> io::Result<(usize, Offload)> {
        match self.0.recv(frame)? {
            // What the test sends to say that the device is gone.
            0 => Err(io::Error::from_raw_os_error(libc::EBADFD)),
            len => Ok((len, Offload::NONE)),
        }
    }

    fn write(&mut self, buffer: &[u8], frame: &Joined<'_>) -> io::Result<()> {
        if frame.offload.gso.is_some() && self.1 != Offloads::None {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        assert_eq!((frame.offload, frame.parts.len()), (Offload::NONE, 1));
        let frame = &buffer[frame.parts[0].clone()];
        // A socket pair holds a few frames only, and a real device takes any number.
        loop {
            match self.0.send(frame) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)?;
                }
                sent => return sent.map(drop),
            }
        }
    }
}

/// A device, and the bridge that it is a port of. An empty datagram makes the device fail for good.
pub(super) fn fake_tap() -> (Box<dyn TapDevice>, tokio::net::UnixDatagram) {
    fake_tap_with(Offloads::None)
}

/// The same, which says that it takes something over.
pub(super) fn fake_tap_with(offloads: Offloads) -> (Box<dyn TapDevice>, tokio::net::UnixDatagram) {
    let (near, far) = UnixDatagram::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    (
        Box::new(FakeTap(near, offloads)),
        tokio::net::UnixDatagram::from_std(far).unwrap(),
    )
}

/// A broadcast frame of an experimental EtherType, not all zero.
pub(super) fn frame(len: usize, from: u8) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..=250).cycle().take(len).collect();
    frame[..6].copy_from_slice(&[0xff; 6]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, from]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

/// The next frame that the bridge gets.
pub(super) async fn received(bridge: &tokio::net::UnixDatagram) -> Vec<u8> {
    let mut frame = vec![0; MAX_FRAME_LEN];
    let len = timeout(PATIENCE, bridge.recv(&mut frame))
        .await
        .unwrap()
        .unwrap();
    frame.truncate(len);
    frame
}
