//! Servers upstream: who they are, in which order they are asked, and what counts as an answer.
//!
//! A query goes to one server after the other until one answers; each has the configured time. One
//! that says it cannot, will not or failed is not believed before the others have been asked. One
//! that was silent is asked last for a while, so that only the first query pays for it. A truncated
//! answer is asked for again over TCP.
//!
//! Equal queries that come while one is on its way share its answer: the packet that leaves us is
//! the same, and sending it twice would double the chance of who tries to guess its id (RFC 5452,
//! section 5). It is also the end of a loop, should a server upstream ask us in turn: the query
//! that comes back waits for itself, once, and fails.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::relay;

mod exchange;
mod servers;

use exchange::Ports;
use servers::Servers;

/// For so long a silent server is asked last.
const SILENT_FOR: Duration = Duration::from_secs(15);

/// What is to be done with an answer; `None` is that there will be none. It is dropped unused when
/// the server ends.
pub(super) type Then = Box<dyn FnOnce(Option<Arc<[u8]>>) + Send>;

/// Asks servers upstream.
pub(super) struct Upstream {
    servers: Servers,
    port: u16,
    timeout: Duration,
    ports: Mutex<HashMap<SocketAddr, Arc<Ports>>>,
    silent: Mutex<HashMap<IpAddr, Instant>>,
    /// Who waits for the answer to a query, by all of it but its id.
    flights: Mutex<HashMap<Box<[u8]>, Vec<Then>>>,
    stop: CancellationToken,
    runtime: Handle,
    tasks: TaskTracker,
}

impl Upstream {
    /// Servers from a file, never one of those that listen at `ours`. Has to be called on a runtime,
    /// where there are `tasks` of it then, until they find `stop`.
    pub(super) fn new(
        file: Option<PathBuf>,
        port: u16,
        ours: Vec<SocketAddr>,
        timeout: Duration,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            servers: Servers::new(file, ours, port),
            port,
            timeout,
            ports: Mutex::default(),
            silent: Mutex::default(),
            flights: Mutex::default(),
            stop,
            runtime: Handle::current(),
            tasks,
        }
    }

    /// The servers, in the order of the file.
    pub(super) fn servers(&self) -> Vec<IpAddr> {
        self.servers.current()
    }

    /// Asks for the answer to a plain query, whose id is any, without a wait. What is to be done
    /// then is done by whoever has the answer; it must not take long.
    pub(super) fn ask_then(self: &Arc<Self>, packet: &[u8], question_len: usize, then: Then) {
        let key = packet.get(2..).unwrap_or_default();
        {
            let mut flights = lock(&self.flights);
            if let Some(waiting) = flights.get_mut(key) {
                waiting.push(then);
                return;
            }
            flights.insert(key.into(), vec![then]);
        }
        let flight = Flight {
            upstream: self.clone(),
            packet: packet.into(),
            question_len,
            answer: None,
        };
        flight.begin();
    }

    /// The same, with a wait.
    pub(super) async fn ask(
        self: &Arc<Self>,
        packet: &[u8],
        question_len: usize,
    ) -> Option<Arc<[u8]>> {
        let (sender, answer) = oneshot::channel();
        let then = move |message| {
            // Who has asked may have gone.
            let _ = sender.send(message);
        };
        self.ask_then(packet, question_len, Box::new(then));
        answer.await.ok().flatten()
    }

    /// Those that were silent lately come last.
    fn in_order(&self) -> Vec<IpAddr> {
        let mut servers = self.servers.current();
        let mut silent = lock(&self.silent);
        if !silent.is_empty() {
            silent.retain(|_, since| since.elapsed() < SILENT_FOR);
            servers.sort_by_key(|server| silent.contains_key(server));
        }
        servers
    }

    /// The sockets by which a server is asked.
    fn ports(&self, server: IpAddr) -> Arc<Ports> {
        let address = SocketAddr::new(server, self.port);
        let mut all = lock(&self.ports);
        let ports = all.entry(address).or_insert_with(|| {
            let (stop, tasks) = (self.stop.clone(), self.tasks.clone());
            Ports::new(address, self.timeout, stop, self.runtime.clone(), tasks)
        });
        ports.clone()
    }
}

/// A query on its way. All who wait for it hear the end when it is dropped, with an answer or
/// without.
struct Flight {
    upstream: Arc<Upstream>,
    packet: Arc<[u8]>,
    question_len: usize,
    answer: Option<Arc<[u8]>>,
}

impl Flight {
    /// Asks the first server. Where that is not the end of it, a task goes on.
    fn begin(self) {
        let servers = self.upstream.in_order();
        let Some(first) = servers.first() else {
            return;
        };
        let ports = self.upstream.ports(*first);
        let (packet, question_len) = (self.packet.clone(), self.question_len);
        let then = move |answer: Option<Arc<[u8]>>| {
            let is_plain =
                |answer: &Arc<[u8]>| !relay::is_failure(answer) && !relay::is_truncated(answer);
            if answer.as_ref().is_some_and(is_plain) {
                self.land(answer);
            } else {
                let upstream = self.upstream.clone();
                let task = self.go_on(servers, answer);
                upstream.tasks.spawn_on(task, &upstream.runtime);
            }
        };
        ports.send(&packet, question_len, Box::new(then));
    }

    /// Looks at what the first server said, and asks the others.
    async fn go_on(self, servers: Vec<IpAddr>, first: Option<Arc<[u8]>>) {
        let mut said = Some(first);
        let mut second_best = None;
        for server in servers {
            if self.upstream.stop.is_cancelled() {
                return;
            }
            let said = match said.take() {
                Some(first) => first,
                None => {
                    let ports = self.upstream.ports(server);
                    ports.ask(&self.packet, self.question_len).await
                }
            };
            match self.whole(server, said).await {
                Some(answer) if relay::is_failure(&answer) => {
                    second_best = second_best.or(Some(answer));
                }
                Some(answer) => return self.land(Some(answer)),
                None => tracing::debug!(%server, "no answer from a DNS server upstream"),
            }
        }
        self.land(second_best);
    }

    fn land(mut self, answer: Option<Arc<[u8]>>) {
        self.answer = answer;
    }

    /// The whole of what a server said, if it was truncated; notes if it said nothing.
    async fn whole(&self, server: IpAddr, said: Option<Arc<[u8]>>) -> Option<Arc<[u8]>> {
        let Self { upstream, .. } = self;
        let Some(answer) = said else {
            lock(&upstream.silent).insert(server, Instant::now());
            return None;
        };
        if !relay::is_truncated(&answer) {
            return Some(answer);
        }
        // Better a part, with the note that it is one, than nothing.
        let address = SocketAddr::new(server, upstream.port);
        let whole = exchange::ask_tcp(address, &self.packet, self.question_len, upstream.timeout);
        let whole = upstream.stop.run_until_cancelled(whole).await.flatten();
        Some(whole.unwrap_or(answer))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let key = self.packet.get(2..).unwrap_or_default();
        let waiting = lock(&self.upstream.flights).remove(key);
        for then in waiting.into_iter().flatten() {
            then(self.answer.clone());
        }
    }
}

/// Nothing that holds these locks can panic half way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
