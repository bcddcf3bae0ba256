//! One of the data threads.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::ops::{ControlFlow, Range};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::edge::{Edge, count};
use super::{Report, Request};
use crate::constants::{BATCH_BYTES, BATCH_LEN, SHUTTLE_HEARTBEAT};
use crate::dataplane::{self, DataPlane, DropReason, Opened, Opener};
use crate::io::tap::MAX_FRAME_LEN;
use crate::io::udp::Run;
use crate::offload::Delivery;
use crate::offload::coalesce::Coalescer;

/// How long to sleep at most while a report finds no room.
const REPORT_RETRY: Duration = Duration::from_millis(10);

/// What the threads have in common.
pub(super) struct Shared {
    pub(super) engine: Mutex<DataPlane>,
    /// What ends the sleep of each.
    pub(super) wakes: Vec<OwnedFd>,
    /// Whether the first has been told that the engine has news, and has not looked yet.
    pub(super) is_woken: AtomicBool,
    pub(super) stop: AtomicBool,
}

impl Shared {
    pub(super) fn wake(&self, index: usize) {
        if let Some(wake) = self.wakes.get(index) {
            let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
        }
    }

    /// Lets the engine work on behalf of a worker.
    #[inline]
    fn work<T>(&self, worker: &mut dataplane::Worker, work: impl FnOnce(&mut DataPlane) -> T) -> T {
        // What a panic has left behind is still sound, if not right; the other threads carry on.
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        engine.on_behalf_of(worker, work)
    }
}

/// When one thread ends, all do.
struct StopAll(Arc<Shared>);

impl Drop for StopAll {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
        for index in 0..self.0.wakes.len() {
            self.0.wake(index);
        }
    }
}

/// The ways to the control half.
pub(super) struct Control {
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) reports: mpsc::Sender<Report>,
}

pub(super) struct Worker {
    index: usize,
    shared: Arc<Shared>,
    worker: dataplane::Worker,
    edge: Edge,
    /// That of the first thread.
    control: Option<Control>,
    /// When the others test their queues.
    test_at: Option<Instant>,
    /// The frame just read.
    frame: Box<[u8]>,
    batch: Batch,
    coalescer: Coalescer,
}

/// The datagrams just received.
#[derive(Default)]
struct Batch {
    arrivals: Vec<Arrival>,
    openers: Vec<Opener>,
    /// Frames for the local bridge in them.
    deliveries: Vec<Delivery>,
}

struct Arrival {
    from: SocketAddrV4,
    /// Where it stands in the socket's buffers.
    range: Range<usize>,
    /// The place of its opener, or why there is none.
    opener: Result<usize, DropReason>,
    opened: Option<Result<Opened, DropReason>>,
}

/// What a sleep has found, or a batch has left.
#[derive(Clone, Copy)]
struct Ready {
    woken: bool,
    frames: bool,
    datagrams: bool,
}

const ALL_READY: Ready = Ready {
    woken: true,
    frames: true,
    datagrams: true,
};

impl Worker {
    pub(super) fn new(
        index: usize,
        shared: Arc<Shared>,
        edge: Edge,
        takes_udp: bool,
        control: Option<Control>,
    ) -> Self {
        Self {
            index,
            shared,
            worker: dataplane::Worker::new(index),
            edge,
            control,
            test_at: (index > 0).then(Instant::now),
            frame: vec![0; MAX_FRAME_LEN].into_boxed_slice(),
            batch: Batch::default(),
            coalescer: Coalescer::new(takes_udp),
        }
    }

    pub(super) fn run(mut self) {
        let _stop_all = StopAll(Arc::clone(&self.shared));
        let mut ready = ALL_READY;
        loop {
            let now = Instant::now();
            if ready.woken && self.take_requests(now).is_break() {
                return;
            }
            if ready.frames {
                ready.frames = self.take_frames(now);
            }
            if ready.datagrams {
                ready.datagrams = self.take_datagrams(now);
            }
            let Ok(due) = self.finish(now) else {
                return;
            };
            let wait = if ready.frames || ready.datagrams {
                Some(Duration::ZERO)
            } else {
                due.map(|at| at.saturating_duration_since(Instant::now()))
            };
            ready = self.sleep(wait, ready);
        }
    }

    /// Waits for anything. What a full batch has left behind is still ready.
    fn sleep(&self, wait: Option<Duration>, left: Ready) -> Ready {
        let device = self.edge.device.as_ref().map(|device| device.fd());
        let Some(wake) = self.shared.wakes.get(self.index).map(AsFd::as_fd) else {
            return ALL_READY;
        };
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
            return ALL_READY;
        }
        let [woken, socket, device_ready] = fds.map(|fd| !fd.revents().is_empty());
        Ready {
            woken,
            frames: left.frames || (device.is_some() && device_ready),
            datagrams: left.datagrams || socket,
        }
    }

    fn take_requests(&mut self, now: Instant) -> ControlFlow<()> {
        if let Some(wake) = self.shared.wakes.get(self.index) {
            let _ = rustix::io::read(wake, &mut [0_u8; 8]);
        }
        if self.shared.stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        // After the wake was taken back: what is asked from now on will be announced anew.
        while let Some(control) = &mut self.control {
            match control.requests.try_recv() {
                Ok(Request::Command(command)) => {
                    let handle = |engine: &mut DataPlane| engine.handle_command(command, now);
                    self.shared.work(&mut self.worker, handle);
                    self.send(now);
                }
                Ok(Request::Status(reply)) => {
                    let status = |engine: &mut DataPlane| engine.status(now);
                    let mut status = self.shared.work(&mut self.worker, status);
                    status.drops.extend(self.edge.drops.named());
                    let _ = reply.send(status);
                }
                Ok(Request::Stop) | Err(TryRecvError::Disconnected) => {
                    return ControlFlow::Break(());
                }
                Err(TryRecvError::Empty) => break,
            }
        }
        ControlFlow::Continue(())
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
                    self.shared.work(&mut self.worker, |engine| {
                        engine.handle_frame(frame, &offload, now);
                    });
                    self.send(now);
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
                    count(&self.edge.drops.frame_unknown, 1);
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
        let Batch {
            arrivals,
            openers,
            deliveries,
        } = &mut self.batch;
        arrivals.clear();
        let received = self.edge.socket.receive(|from, range| {
            arrivals.push(Arrival {
                from,
                range,
                opener: Err(DropReason::Malformed),
                opened: None,
            });
        });
        let received = match received {
            Ok(received) => received,
            Err(error) => {
                // An error of an earlier datagram; it is gone with this report.
                tracing::debug!(%error, "cannot receive datagrams");
                return false;
            }
        };
        count(&self.edge.drops.receive_cut, received.dropped);
        if arrivals.is_empty() {
            return received.more;
        }

        let buffers = self.edge.socket.buffers();
        self.shared.work(&mut self.worker, |engine| {
            for arrival in &mut *arrivals {
                let datagram = buffers.get(arrival.range.clone()).unwrap_or_default();
                arrival.opener = match openers.last() {
                    Some(last) if last.fits(datagram) => Ok(openers.len() - 1),
                    _ => engine.opener(datagram).map(|opener| {
                        openers.push(opener);
                        openers.len() - 1
                    }),
                };
            }
        });
        for arrival in &mut *arrivals {
            if let Ok(opener) = arrival.opener
                && let Some(opener) = openers.get(opener)
                && let Some(datagram) = buffers.get_mut(arrival.range.clone())
            {
                arrival.opened = Some(opener.open(datagram));
            }
        }
        deliveries.clear();
        self.shared.work(&mut self.worker, |engine| {
            for arrival in arrivals.drain(..) {
                let opener = match arrival.opener {
                    Ok(opener) => openers.get(opener),
                    Err(reason) => {
                        engine.count_drop(reason);
                        None
                    }
                };
                if let Some(opener) = opener
                    && let Some(opened) = arrival.opened
                    && let Some(datagram) = buffers.get(arrival.range.clone())
                {
                    let from = SocketAddr::V4(arrival.from);
                    let start = arrival.range.start;
                    let frames = engine.handle_opened(from, datagram, opener, opened, now);
                    deliveries.extend(frames.iter().map(|frame| Delivery {
                        range: start + frame.range.start..start + frame.range.end,
                        checksum: frame.checksum,
                    }));
                }
            }
        });
        // With them the keys, which may be over.
        openers.clear();
        self.edge.deliver(deliveries, &mut self.coalescer);
        self.send(now);
        received.more
    }

    /// Does what is due, and lets everything go that waits for more. Returns until when to sleep;
    /// fails when nobody listens any more.
    fn finish(&mut self, now: Instant) -> Result<Option<Instant>, ()> {
        let Self {
            shared,
            worker,
            edge,
            control,
            test_at,
            ..
        } = self;
        if control.is_some() {
            shared.is_woken.swap(false, Ordering::AcqRel);
        }
        let (has_news, next_timeout) = shared.work(worker, |engine| {
            if control.is_some() {
                if engine.poll_timeout().is_some_and(|at| at <= now) {
                    engine.handle_timeout(now);
                }
            } else if test_at.is_some_and(|at| at <= now) {
                let is_round = engine.test_queues(now);
                *test_at = Some(if is_round {
                    now + SHUTTLE_HEARTBEAT
                } else {
                    now
                });
            }
            engine.flush();
            while let Some(frame) = engine.poll_frame() {
                edge.inject(frame);
            }
            if control.is_some() {
                (false, engine.poll_timeout())
            } else {
                (engine.has_news(), *test_at)
            }
        });
        if has_news && !shared.is_woken.swap(true, Ordering::AcqRel) {
            shared.wake(0);
        }
        self.send(now);
        Ok(match self.report()? {
            true => next_timeout,
            false => {
                let retry_at = now + REPORT_RETRY;
                Some(next_timeout.map_or(retry_at, |due| due.min(retry_at)))
            }
        })
    }

    /// Sends what is ready.
    fn send(&mut self, now: Instant) {
        while let Some(transmit) = self.worker.poll_transmit() {
            let SocketAddr::V4(to) = transmit.to else {
                count(&self.edge.drops.send_failed, 1);
                continue;
            };
            let run = Run {
                to,
                from: match transmit.from {
                    Some(IpAddr::V4(from)) => Some(from),
                    _ => None,
                },
                df: transmit.df,
                own_port: transmit.queue > 0,
                segment_len: transmit.segment_len.unwrap_or(transmit.payload.len()),
                payload: transmit.payload,
            };
            let link = transmit.link;
            let sent = self.edge.socket.send(&run);
            self.edge.drops.add(&sent);
            if let Some(path_mtu) = sent.path_mtu {
                self.shared.work(&mut self.worker, |engine| {
                    engine.handle_too_long(link, path_mtu, now);
                });
                // It has a new deadline.
                self.shared.wake(0);
            }
        }
    }

    /// Reports what there is. Returns whether that was all; fails when nobody listens any more.
    fn report(&mut self) -> Result<bool, ()> {
        let Some(control) = &self.control else {
            return Ok(true);
        };
        loop {
            let permit = match control.reports.try_reserve() {
                Ok(permit) => permit,
                Err(mpsc::error::TrySendError::Full(())) => return Ok(false),
                Err(mpsc::error::TrySendError::Closed(())) => return Err(()),
            };
            let event = self.shared.work(&mut self.worker, DataPlane::poll_event);
            if let Some(event) = event {
                permit.send(Report::Event(event));
            } else if let Some(reason) = self.edge.lost.take() {
                permit.send(Report::DeviceLost(reason));
            } else {
                return Ok(true);
            }
        }
    }
}
