//! The outer side of a data thread: its queue of the TAP device and its socket, and what is dropped
//! there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::io::tap::{Offloads, TapDevice};
use crate::io::tcp::describe;
use crate::io::udp::{Sent, UdpSocket};
use crate::offload::coalesce::{Coalescer, Joined};
use crate::offload::segment::{Segments, Wanted};
use crate::offload::{Delivery, checksum};

/// What the engine's output goes to.
pub(super) struct Edge {
    /// A queue of it.
    pub(super) device: Option<Box<dyn TapDevice>>,
    pub(super) socket: UdpSocket,
    /// Why the device was given up, until the control half knows.
    pub(super) lost: Option<String>,
    /// Whether the device has refused a super-frame.
    pub(super) joins_refused: bool,
    pub(super) drops: Arc<Drops>,
}

/// What all threads drop here, beside what the engine counts.
#[derive(Debug, Default)]
pub(super) struct Drops {
    pub(super) too_long_for_path: AtomicU64,
    pub(super) send_congested: AtomicU64,
    pub(super) send_failed: AtomicU64,
    pub(super) receive_cut: AtomicU64,
    pub(super) inject_failed: AtomicU64,
    pub(super) frame_unknown: AtomicU64,
}

/// Counts more of them.
pub(super) fn count(counter: &AtomicU64, more: u64) {
    if more > 0 {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// Hands over the pieces of a super-frame that the device does not take as one.
#[cold]
fn write_cut(device: &mut dyn TapDevice, buffers: &[u8], joined: &Joined<'_>) -> io::Result<()> {
    let mut frame = Vec::with_capacity(joined.len());
    for part in joined.parts {
        frame.extend_from_slice(buffers.get(part.clone()).unwrap_or_default());
    }
    let mut pieces = Segments::new(&frame, &joined.offload, Wanted::Complete)
        .map_err(|mismatch| io::Error::new(io::ErrorKind::InvalidData, mismatch))?;
    while let Some(piece) = pieces.next() {
        device.write_frame(&piece.to_vec())?;
    }
    Ok(())
}

/// Whether the kernel does not take a frame as it is.
fn is_refused(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

/// Whether a TAP device will never work again, as when it was deleted.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBADFD | libc::EBADF | libc::ENXIO | libc::ENODEV)
    )
}

impl Edge {
    /// Hands over what stands in the socket's buffers, in the form that the device takes.
    pub(super) fn deliver(&mut self, deliveries: &[Delivery], coalescer: &mut Coalescer) {
        let Self {
            device: Some(device),
            socket,
            joins_refused,
            drops,
            ..
        } = self
        else {
            return;
        };
        let buffers = socket.buffers();
        let mut gone = None;
        let mut refused = false;
        let mut note = |written: io::Result<()>| {
            if let Err(error) = written {
                if is_gone(&error) {
                    gone = Some(error);
                } else {
                    // The device is down for now, or out of memory.
                    tracing::trace!(%error, "cannot inject a frame");
                    count(&drops.inject_failed, 1);
                }
            }
        };
        if device.offloads() == Offloads::None || *joins_refused {
            for delivery in deliveries {
                let Some(frame) = buffers.get_mut(delivery.range.clone()) else {
                    continue;
                };
                // One whose field is not in the frame goes as it is, and will be refused.
                checksum::complete(frame, delivery.checksum);
                note(device.write_frame(frame));
            }
        } else {
            coalescer.join(buffers, deliveries, |buffers, joined| {
                let mut written = device.write(buffers, joined);
                if joined.offload.gso.is_some() && written.as_ref().is_err_and(is_refused) {
                    refused = true;
                    written = write_cut(&mut **device, buffers, joined);
                }
                note(written);
            });
        }
        if refused {
            tracing::warn!("the TAP device does not take super-frames after all; going on without");
            *joins_refused = true;
        }
        if let Some(error) = gone {
            self.lose_device(&error);
        }
    }

    /// Hands over a frame of our own.
    pub(super) fn inject(&mut self, frame: &[u8]) {
        let Some(device) = &mut self.device else {
            return;
        };
        match device.write_frame(frame) {
            Ok(()) => {}
            Err(error) if is_gone(&error) => self.lose_device(&error),
            Err(error) => {
                tracing::trace!(%error, "cannot inject a frame");
                count(&self.drops.inject_failed, 1);
            }
        }
    }

    pub(super) fn lose_device(&mut self, error: &io::Error) {
        if let Some(device) = self.device.take() {
            let name = device.name();
            self.lost = Some(format!(
                "TAP device {name} is gone ({}); somebody has deleted it",
                describe(error)
            ));
        }
    }
}

impl Drops {
    pub(super) fn add(&self, sent: &Sent) {
        count(&self.too_long_for_path, sent.too_long);
        count(&self.send_congested, sent.congested);
        count(&self.send_failed, sent.failed);
    }

    pub(super) fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("too_long_for_path", &self.too_long_for_path),
            ("send_congested", &self.send_congested),
            ("send_failed", &self.send_failed),
            ("receive_cut", &self.receive_cut),
            ("inject_failed", &self.inject_failed),
            ("frame_unknown", &self.frame_unknown),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}
