//! The data thread: the data engine between the TAP device and the UDP socket.
//!
//! One thread owns all three and sleeps in one `poll`. Whatever wakes it, it takes batches from
//! both sides, lets the engine work, sends what comes out, and sleeps again when nothing is left.
//! Of what happens at the same moment nothing waits for a timer, and nothing is sent singly that
//! can go together.
//!
//! The control half reaches it through a bounded queue of [`Request`]s with an eventfd that ends
//! the sleep, and hears from it through a bounded queue of [`Report`]s. When that is full the
//! engine keeps its events until there is room.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proto::PeerName;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use super::tap::{MAX_FRAME_LEN, Offloads, TapDevice};
use super::tcp::describe;
use super::udp::{Run, Sent, UdpSocket};
use crate::constants::{BATCH_BYTES, BATCH_LEN};
use crate::dataplane::{Command, DataOptions, DataPlane, Event};
use crate::offload::coalesce::{Coalescer, Joined};
use crate::offload::segment::{Segments, Wanted};
use crate::offload::{Delivery, checksum};
use crate::status::DataStatus;

#[cfg(test)]
mod tests;

/// How many requests, and how many reports, may wait.
const QUEUE_LEN: usize = 1024;
/// How long to sleep at most while a report finds no room.
const REPORT_RETRY: Duration = Duration::from_millis(10);

/// What the control half asks for.
#[derive(Debug)]
pub(super) enum Request {
    /// Tell the engine.
    Command(Command),
    /// Show yourself.
    Status(oneshot::Sender<DataStatus>),
    /// End.
    Stop,
}

/// What the control half hears.
#[derive(Debug)]
pub(super) enum Report {
    /// From the engine.
    Event(Event),
    /// The TAP device does not work any more. Frames of others are still relayed.
    DeviceLost(String),
}

/// The running thread, as the control half holds it.
pub(super) struct DataThread {
    requests: mpsc::Sender<Request>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the thread for the peer `ours`. Without a device it only relays.
pub(super) fn start(
    ours: PeerName,
    options: DataOptions,
    device: Option<Box<dyn TapDevice>>,
    socket: UdpSocket,
) -> io::Result<(DataThread, mpsc::Receiver<Report>)> {
    let takes_udp = device
        .as_ref()
        .is_some_and(|device| device.offloads() == Offloads::TcpAndUdp);
    let (requests, requested) = mpsc::channel(QUEUE_LEN);
    let (reports, reported) = mpsc::channel(QUEUE_LEN);
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let worker = Worker {
        engine: DataPlane::new(ours, options, Box::new(UnwrapErr(SysRng)), Instant::now()),
        edge: Edge {
            device,
            socket,
            lost: None,
            joins_refused: false,
            drops: Drops::default(),
        },
        wake: Arc::clone(&wake),
        requests: requested,
        reports,
        frame: vec![0; MAX_FRAME_LEN].into_boxed_slice(),
        deliveries: Vec::new(),
        coalescer: Coalescer::new(takes_udp),
    };
    let thread = std::thread::Builder::new()
        .name("data".to_owned())
        .spawn(move || worker.run())?;
    let thread = DataThread {
        requests,
        wake,
        thread: Some(thread),
    };
    Ok((thread, reported))
}

impl DataThread {
    /// Asks for something, or gives it back if too much waits already. A thread that has ended
    /// takes everything and does nothing.
    pub(super) fn ask(&self, request: Request) -> Result<(), Request> {
        let asked = self.requests.try_send(request);
        // Also when there was no room: the thread had better be awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        match asked {
            Err(mpsc::error::TrySendError::Full(request)) => Err(request),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Waits until there is room for a request.
    pub(super) async fn room(&self) {
        let _ = self.requests.reserve().await;
    }

    /// Ends the thread, and waits until it has closed its device and its socket.
    pub(super) async fn stop(mut self) {
        let _ = self.requests.send(Request::Stop).await;
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(|| thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the data thread panicked");
            }
        }
    }
}

impl Drop for DataThread {
    fn drop(&mut self) {
        // Not stopped in order; the thread still must not stay.
        let _ = self.requests.try_send(Request::Stop);
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

struct Worker {
    engine: DataPlane,
    edge: Edge,
    wake: Arc<OwnedFd>,
    requests: mpsc::Receiver<Request>,
    reports: mpsc::Sender<Report>,
    /// The frame just read.
    frame: Box<[u8]>,
    /// Frames for the local bridge in the datagrams just received.
    deliveries: Vec<Delivery>,
    coalescer: Coalescer,
}

/// What the engine's output goes to.
struct Edge {
    device: Option<Box<dyn TapDevice>>,
    socket: UdpSocket,
    /// Why the device was given up, until the control half knows.
    lost: Option<String>,
    /// Whether the device has refused a super-frame.
    joins_refused: bool,
    drops: Drops,
}

/// What is dropped here, beside what the engine counts.
#[derive(Default)]
struct Drops {
    too_long_for_path: u64,
    send_congested: u64,
    send_failed: u64,
    receive_cut: u64,
    inject_failed: u64,
    frame_unknown: u64,
}

/// What a sleep has found, or a batch has left.
#[derive(Clone, Copy)]
struct Ready {
    requests: bool,
    frames: bool,
    datagrams: bool,
}

impl Worker {
    fn run(mut self) {
        let mut ready = Ready {
            requests: true,
            frames: true,
            datagrams: true,
        };
        loop {
            let now = Instant::now();
            if ready.requests && self.take_requests(now).is_break() {
                return;
            }
            if ready.frames {
                ready.frames = self.take_frames(now);
            }
            if ready.datagrams {
                ready.datagrams = self.take_datagrams(now);
            }
            if self.engine.poll_timeout().is_some_and(|at| at <= now) {
                self.engine.handle_timeout(now);
            }
            self.engine.flush();
            self.drain(now);
            let reported = self.report();
            let Ok(all_reported) = reported else {
                return;
            };
            let wait = if ready.frames || ready.datagrams {
                Some(Duration::ZERO)
            } else {
                let due = self.engine.poll_timeout();
                let due = due.map(|at| at.saturating_duration_since(Instant::now()));
                if all_reported {
                    due
                } else {
                    Some(due.map_or(REPORT_RETRY, |due| due.min(REPORT_RETRY)))
                }
            };
            ready = self.sleep(wait, ready);
        }
    }

    /// Waits for anything. What a full batch has left behind is still ready.
    fn sleep(&mut self, wait: Option<Duration>, left: Ready) -> Ready {
        let device = self.edge.device.as_ref().map(|device| device.fd());
        let wake = self.wake.as_fd();
        let socket = self.edge.socket.as_fd();
        let mut fds = [
            PollFd::new(&wake, PollFlags::IN),
            PollFd::new(&socket, PollFlags::IN),
            PollFd::new(device.as_ref().unwrap_or(&wake), PollFlags::IN),
        ];
        let timeout = wait.and_then(|wait| Timespec::try_from(wait).ok());
        if let Err(error) = poll(&mut fds, timeout.as_ref()) {
            // Only a signal; try everything.
            tracing::trace!(%error, "poll");
            return Ready {
                requests: true,
                frames: device.is_some(),
                datagrams: true,
            };
        }
        let [wake, socket, device_ready] = fds.map(|fd| !fd.revents().is_empty());
        let has_device = device.is_some();
        Ready {
            requests: wake,
            frames: left.frames || (has_device && device_ready),
            datagrams: left.datagrams || socket,
        }
    }

    fn take_requests(&mut self, now: Instant) -> ControlFlow<()> {
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
        // After the wake was taken back: what is asked from now on will be announced anew.
        loop {
            match self.requests.try_recv() {
                Ok(Request::Command(command)) => {
                    self.engine.handle_command(command, now);
                    self.drain(now);
                }
                Ok(Request::Status(reply)) => {
                    let mut status = self.engine.status(now);
                    status.drops.extend(self.edge.drops.named());
                    let _ = reply.send(status);
                }
                Ok(Request::Stop) | Err(TryRecvError::Disconnected) => {
                    return ControlFlow::Break(());
                }
                Err(TryRecvError::Empty) => return ControlFlow::Continue(()),
            }
        }
    }

    /// Takes a batch of frames. Returns whether there may be more.
    fn take_frames(&mut self, now: Instant) -> bool {
        let mut taken_len = 0;
        for _ in 0..BATCH_LEN {
            let Some(device) = &mut self.edge.device else {
                return false;
            };
            match device.read(&mut self.frame) {
                Ok((len, offload)) => {
                    let frame = self.frame.get(..len).unwrap_or_default();
                    self.engine.handle_frame(frame, &offload, now);
                    self.drain(now);
                    // Super-frames fill a batch sooner.
                    taken_len += len;
                    if taken_len >= BATCH_BYTES {
                        return true;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::debug!(%error, "cannot take a frame");
                    self.edge.drops.frame_unknown += 1;
                }
                Err(error) => {
                    self.edge.lose_device(&error);
                    return false;
                }
            }
        }
        true
    }

    /// Takes a batch of datagrams. Returns whether there may be more.
    fn take_datagrams(&mut self, now: Instant) -> bool {
        let Self {
            engine,
            edge,
            deliveries,
            coalescer,
            ..
        } = self;
        deliveries.clear();
        let received = edge.socket.receive(|from, datagram, at| {
            let frames = engine.handle_datagram(SocketAddr::V4(from), datagram, now);
            deliveries.extend(frames.iter().map(|frame| Delivery {
                range: at + frame.range.start..at + frame.range.end,
                checksum: frame.checksum,
            }));
        });
        edge.deliver(deliveries, coalescer);
        self.drain(now);
        match received {
            Ok(received) => {
                self.edge.drops.receive_cut += received.dropped;
                received.more
            }
            Err(error) => {
                // An error of an earlier datagram; it is gone with this report.
                tracing::debug!(%error, "cannot receive datagrams");
                false
            }
        }
    }

    /// Sends and injects what the engine has ready.
    fn drain(&mut self, now: Instant) {
        loop {
            let mut idle = true;
            while let Some(transmit) = self.engine.poll_transmit() {
                idle = false;
                let SocketAddr::V4(to) = transmit.to else {
                    self.edge.drops.send_failed += 1;
                    continue;
                };
                let run = Run {
                    to,
                    from: match transmit.from {
                        Some(IpAddr::V4(from)) => Some(from),
                        _ => None,
                    },
                    df: transmit.df,
                    segment_len: transmit.segment_len.unwrap_or(transmit.payload.len()),
                    payload: transmit.payload,
                };
                let link = transmit.link;
                let sent = self.edge.socket.send(&run);
                self.edge.drops.add(&sent);
                if let Some(path_mtu) = sent.path_mtu {
                    self.engine.handle_too_long(link, path_mtu, now);
                }
            }
            while let Some(frame) = self.engine.poll_frame() {
                idle = false;
                self.edge.inject(frame);
            }
            if idle {
                return;
            }
        }
    }

    /// Reports what there is. Returns whether that was all; fails when nobody listens any more.
    fn report(&mut self) -> Result<bool, ()> {
        loop {
            let permit = match self.reports.try_reserve() {
                Ok(permit) => permit,
                Err(mpsc::error::TrySendError::Full(())) => return Ok(false),
                Err(mpsc::error::TrySendError::Closed(())) => return Err(()),
            };
            if let Some(event) = self.engine.poll_event() {
                permit.send(Report::Event(event));
            } else if let Some(reason) = self.edge.lost.take() {
                permit.send(Report::DeviceLost(reason));
            } else {
                return Ok(true);
            }
        }
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
    fn deliver(&mut self, deliveries: &[Delivery], coalescer: &mut Coalescer) {
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
                    drops.inject_failed += 1;
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
    fn inject(&mut self, frame: &[u8]) {
        let Some(device) = &mut self.device else {
            return;
        };
        match device.write_frame(frame) {
            Ok(()) => {}
            Err(error) if is_gone(&error) => self.lose_device(&error),
            Err(error) => {
                tracing::trace!(%error, "cannot inject a frame");
                self.drops.inject_failed += 1;
            }
        }
    }

    fn lose_device(&mut self, error: &io::Error) {
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
    fn add(&mut self, sent: &Sent) {
        self.too_long_for_path += sent.too_long;
        self.send_congested += sent.congested;
        self.send_failed += sent.failed;
    }

    fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("too_long_for_path", self.too_long_for_path),
            ("send_congested", self.send_congested),
            ("send_failed", self.send_failed),
            ("receive_cut", self.receive_cut),
            ("inject_failed", self.inject_failed),
            ("frame_unknown", self.frame_unknown),
        ]
    }
}
