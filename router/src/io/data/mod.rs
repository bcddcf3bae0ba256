//! The data threads: the data engine between the TAP device and the UDP sockets.
//!
//! Each thread owns a queue of the device and a socket, and sleeps in one `poll`. Whatever wakes it,
//! it takes batches from both sides, lets the engine work, sends what comes out, and sleeps again when
//! nothing is left. Of what happens at the same moment nothing waits for a timer, and nothing is sent
//! singly that can go together.
//!
//! The engine is one for all, behind a lock that is held for decisions and for the copy into packets,
//! never for a system call or a cipher. A flow stays in order: the kernel puts it into one queue of the
//! device, whose thread sends it by a source port of its own, by which the receiving kernel chooses the
//! socket (see [`super::udp`]).
//!
//! The control half reaches the first thread through a bounded queue of [`Request`]s with an eventfd
//! that ends the sleep, and hears from it through a bounded queue of [`Report`]s. When that is full
//! the engine keeps its events until there is room.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use proto::PeerName;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{mpsc, oneshot};

use super::tap::{Offloads, TapDevice};
use super::udp::UdpSocket;
use crate::dataplane::{Command, DataOptions, DataPlane, Event};
use crate::status::DataStatus;

mod edge;
#[cfg(test)]
mod tests;
mod worker;

use edge::{Drops, Edge};
use worker::{Control, Shared, Worker};

/// How many requests, and how many reports, may wait.
const QUEUE_LEN: usize = 1024;

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

/// The running threads, as the control half holds them.
pub(super) struct DataThreads {
    requests: mpsc::Sender<Request>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts a thread for each of the sockets, for the peer `ours`. Each gets one of the device's queues;
/// without any they only relay.
pub(super) fn start(
    ours: PeerName,
    options: DataOptions,
    queues: Vec<Box<dyn TapDevice>>,
    sockets: Vec<UdpSocket>,
) -> io::Result<(DataThreads, mpsc::Receiver<Report>)> {
    let (requests, requested) = mpsc::channel(QUEUE_LEN);
    let (reports, reported) = mpsc::channel(QUEUE_LEN);
    let options = DataOptions {
        workers: sockets.len(),
        ..options
    };
    let wake = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let wakes: Result<Vec<OwnedFd>, _> = sockets.iter().map(|_| wake()).collect();
    let entropy = Box::new(UnwrapErr(SysRng));
    let shared = Arc::new(Shared {
        engine: Mutex::new(DataPlane::new(ours, options, entropy, Instant::now())),
        wakes: wakes?,
        is_woken: AtomicBool::new(false),
        stop: AtomicBool::new(false),
    });
    // Should not all of them start, the drop ends those that did.
    let mut data = DataThreads {
        requests,
        shared: Arc::clone(&shared),
        threads: Vec::new(),
    };
    let drops = Arc::new(Drops::default());
    let mut control = Some(Control {
        requests: requested,
        reports,
    });
    let mut queues = queues.into_iter();
    for (index, socket) in sockets.into_iter().enumerate() {
        let edge = Edge {
            device: queues.next(),
            socket,
            lost: None,
            joins_refused: false,
            drops: Arc::clone(&drops),
        };
        let takes_udp = edge
            .device
            .as_ref()
            .is_some_and(|device| device.offloads() == Offloads::TcpAndUdp);
        let worker = Worker::new(index, Arc::clone(&shared), edge, takes_udp, control.take());
        let name = if index == 0 {
            "data".to_owned()
        } else {
            format!("data {index}")
        };
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || worker.run())?;
        data.threads.push(thread);
    }
    Ok((data, reported))
}

impl DataThreads {
    /// Asks for something, or gives it back if too much waits already. Threads that have ended take
    /// everything and do nothing.
    pub(super) fn ask(&self, request: Request) -> Result<(), Request> {
        let asked = self.requests.try_send(request);
        // Also when there was no room: the thread had better be awake.
        self.shared.wake(0);
        match asked {
            Err(mpsc::error::TrySendError::Full(request)) => Err(request),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Waits until there is room for a request.
    pub(super) async fn room(&self) {
        let _ = self.requests.reserve().await;
    }

    /// Ends the threads, and waits until they have closed the device and their sockets.
    pub(super) async fn stop(mut self) {
        let _ = self.requests.send(Request::Stop).await;
        self.shared.wake(0);
        let threads = std::mem::take(&mut self.threads);
        let join = || threads.into_iter().all(|thread| thread.join().is_ok());
        if !matches!(tokio::task::spawn_blocking(join).await, Ok(true)) {
            tracing::error!("a data thread panicked");
        }
    }
}

impl Drop for DataThreads {
    fn drop(&mut self) {
        // Not stopped in order; the threads still must not stay.
        let _ = self.requests.try_send(Request::Stop);
        self.shared.wake(0);
    }
}
