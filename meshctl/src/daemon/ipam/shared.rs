//! The allocator behind its lock, and what waits beside it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use ipam::allocator::{Allocator, Answer, Done, Now, Output, RequestId, Save};
use ipam::range::Cidr;
use proto::PeerName;
use tokio::sync::{Notify, oneshot, watch};

use super::quorums::{Need, Quorums};

/// Most messages to single peers that wait for the router; more are dropped and counted. Peers cope
/// with that: whoever gets no answer asks again.
const MAX_UNICASTS: usize = 1024;

/// What all handles, the channel, the task and the disk thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) default_subnet: Cidr,
    pub(super) quorums: Quorums,
    /// Whether somebody has chosen how many peers are to agree upon a ring.
    quorum_is_chosen: bool,
    state: Mutex<State>,
    /// There is something to send, or another time to wait for.
    pub(super) woken: Notify,
    /// Nothing is left to be sent.
    quiet: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    allocator: Allocator,
    waiting: BTreeMap<RequestId, Waiter>,
    outgoing: Outgoing,
    /// To the disk thread; gone when everything ends.
    saves: Option<std::sync::mpsc::Sender<Save>>,
    disk: Option<JoinHandle<()>>,
    task: Option<tokio::task::AbortHandle>,
}

/// Somebody who waits for an answer.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) reply: oneshot::Sender<Answer>,
    /// Whether an address that nobody takes is of no use to anybody.
    pub(super) anonymous: bool,
}

/// What is to be sent.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Our state to everybody.
    pub(super) broadcast: bool,
    /// Messages to single peers.
    pub(super) unicasts: VecDeque<(PeerName, Vec<u8>)>,
    /// Messages that there was no room for.
    pub(super) dropped: u64,
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        !self.broadcast && self.unicasts.is_empty()
    }
}

/// This moment.
pub(super) fn now() -> Now {
    Now {
        at: Instant::now(),
        unix: unix_now(),
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
}

impl Shared {
    pub(super) fn new(
        allocator: Allocator,
        default_subnet: Cidr,
        quorums: Quorums,
        quorum_is_chosen: bool,
        saves: std::sync::mpsc::Sender<Save>,
    ) -> Self {
        let mut state = State {
            allocator,
            waiting: BTreeMap::new(),
            outgoing: Outgoing::default(),
            saves: Some(saves),
            disk: None,
            task: None,
        };
        // What the start itself had to say.
        state.settle();
        Self {
            default_subnet,
            quorums,
            quorum_is_chosen,
            state: Mutex::new(state),
            woken: Notify::new(),
            quiet: watch::Sender::new(true),
        }
    }

    /// An allocator that has panicked may be in the middle of something, and give an address out
    /// twice. On disk all is well: the next process begins from there.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|_| {
            tracing::error!("address allocation has failed; see above. Nothing on disk is wrong");
            std::process::abort()
        })
    }

    /// Has the allocator do something, and sees to what it says.
    pub(super) fn call<T>(&self, call: impl FnOnce(&mut Allocator, Now) -> T) -> T {
        let mut state = self.lock();
        let result = call(&mut state.allocator, now());
        self.finish(state);
        result
    }

    fn finish(&self, mut state: MutexGuard<'_, State>) {
        state.settle();
        if !state.outgoing.is_empty() {
            self.quiet.send_replace(false);
        }
        drop(state);
        self.woken.notify_one();
    }

    /// Looks at the allocator.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Allocator) -> T) -> T {
        look(&self.lock().allocator)
    }

    /// Our state as it goes to others.
    pub(super) fn encode(&self) -> Vec<u8> {
        self.look(|allocator| allocator.encode_state(unix_now()))
    }

    /// Makes a request, whose answer is for `waiter`.
    pub(super) fn ask(
        &self,
        waiter: Waiter,
        ask: impl FnOnce(&mut Allocator, Now) -> RequestId,
    ) -> RequestId {
        let mut state = self.lock();
        let id = ask(&mut state.allocator, now());
        state.waiting.insert(id, waiter);
        self.finish(state);
        id
    }

    /// Nobody waits for the answer any more.
    pub(super) fn cancel(&self, id: RequestId) {
        let mut state = self.lock();
        let Some(waiter) = state.waiting.get(&id) else {
            return;
        };
        // An address on its way to somebody unknown has to come back: so that answer is awaited.
        if !waiter.anonymous || state.allocator.is_pending(id) {
            state.waiting.remove(&id);
            state.allocator.cancel(id, now());
        }
        self.finish(state);
    }

    /// An answer has found nobody.
    pub(super) fn nobody_took(&self, anonymous: bool, answer: &Answer) {
        if anonymous {
            let mut state = self.lock();
            state.take_back(answer);
            self.finish(state);
        }
    }

    /// What it takes here to agree upon a ring.
    pub(super) fn need(&self) -> Need {
        let quorum = self.look(Allocator::quorum).unwrap_or(0);
        Need {
            quorum: quorum as u64,
            chosen: self.quorum_is_chosen,
        }
    }

    /// Waits until nothing is left to be sent.
    pub(super) async fn sent(&self) {
        let mut quiet = {
            // Whoever was answered may be here before the rest of what goes with the answer is in
            // its queue.
            let _settled = self.lock();
            self.quiet.subscribe()
        };
        // The sender is here.
        let _ = quiet.wait_for(|quiet| *quiet).await;
    }

    /// What was to be sent has been sent.
    pub(super) fn note_sent(&self) {
        let state = self.lock();
        if state.outgoing.is_empty() {
            self.quiet
                .send_if_modified(|quiet| !std::mem::replace(quiet, true));
        }
    }

    /// What is to be sent, and when the allocator wants to be called.
    pub(super) fn to_do(&self) -> (Outgoing, Option<Instant>) {
        let mut state = self.lock();
        let outgoing = std::mem::take(&mut state.outgoing);
        (outgoing, state.allocator.poll_timeout())
    }

    /// The disk thread is this one.
    pub(super) fn set_disk(&self, thread: JoinHandle<()>) {
        self.lock().disk = Some(thread);
    }

    /// The task is this one.
    pub(super) fn join(&self, task: tokio::task::AbortHandle) {
        self.lock().task = Some(task);
    }

    /// Lets go of everything. Returns the disk thread, which ends when it has done what it was told.
    pub(super) fn close(&self) -> Option<JoinHandle<()>> {
        let mut state = self.lock();
        if let Some(task) = state.task.take() {
            task.abort();
        }
        state.saves = None;
        state.waiting.clear();
        state.disk.take()
    }
}

impl State {
    /// Takes what the allocator has to say to where it belongs.
    fn settle(&mut self) {
        while let Some(output) = self.allocator.poll_output() {
            match output {
                Output::Save(save) => {
                    // Without a disk thread nothing is ever confirmed, and so nothing told.
                    if let Some(saves) = &self.saves {
                        let _ = saves.send(save);
                    }
                }
                Output::Answer(id, answer) => {
                    if let Some(waiter) = self.waiting.remove(&id)
                        && let Err(answer) = waiter.reply.send(answer)
                        && waiter.anonymous
                    {
                        self.take_back(&answer);
                    }
                }
                Output::Broadcast => self.outgoing.broadcast = true,
                Output::Unicast { to, payload } => {
                    if self.outgoing.unicasts.len() < MAX_UNICASTS {
                        self.outgoing.unicasts.push_back((to, payload));
                    } else {
                        self.outgoing.dropped += 1;
                    }
                }
            }
        }
    }

    /// Frees an address that nobody knows he has.
    fn take_back(&mut self, answer: &Answer) {
        if let Ok(Done::Allocated(cidr)) = answer {
            let ident = cidr.address.to_string();
            self.allocator.release_all(&ident, now());
        }
    }
}
