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

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::relay;

mod exchange;
mod servers;

use exchange::Ports;
use servers::Servers;

/// For so long a silent server is asked last.
const SILENT_FOR: Duration = Duration::from_secs(15);

/// The answer to a query on its way, when it has come: `None` inside is that there is none.
type Flight = watch::Receiver<Option<Option<Arc<[u8]>>>>;

/// Asks servers upstream.
pub(super) struct Upstream {
    servers: Servers,
    port: u16,
    timeout: Duration,
    ports: Mutex<HashMap<SocketAddr, Arc<Ports>>>,
    silent: Mutex<HashMap<IpAddr, Instant>>,
    /// By all of the query but its id.
    flights: Mutex<HashMap<Box<[u8]>, Flight>>,
    stop: CancellationToken,
}

impl Upstream {
    /// Servers from a file, never one of those that listen at `ours`.
    pub(super) fn new(
        file: Option<PathBuf>,
        port: u16,
        ours: Vec<SocketAddr>,
        timeout: Duration,
        stop: CancellationToken,
    ) -> Self {
        Self {
            stop,
            servers: Servers::new(file, ours, port),
            port,
            timeout,
            ports: Mutex::default(),
            silent: Mutex::default(),
            flights: Mutex::default(),
        }
    }

    /// The servers, in the order of the file.
    pub(super) fn servers(&self) -> Vec<IpAddr> {
        self.servers.current()
    }

    /// Asks for the answer to a plain query; its id is any.
    pub(super) async fn ask(&self, packet: &[u8], question_len: usize) -> Option<Arc<[u8]>> {
        let key = packet.get(2..)?;
        let (sender, mut flight) = {
            let mut flights = lock(&self.flights);
            match flights.get(key) {
                Some(flight) => (None, flight.clone()),
                None => {
                    let (sender, flight) = watch::channel(None);
                    flights.insert(key.into(), flight.clone());
                    (Some(sender), flight)
                }
            }
        };
        let Some(sender) = sender else {
            // If whoever leads gives up, there is no answer.
            let landed = flight.wait_for(Option::is_some).await.ok()?;
            return landed.clone().flatten();
        };
        let _landing = Landing {
            upstream: self,
            key,
        };
        let answer = self.ask_all(packet, question_len).await;
        sender.send_replace(Some(answer.clone()));
        answer
    }

    async fn ask_all(&self, packet: &[u8], question_len: usize) -> Option<Arc<[u8]>> {
        let mut second_best = None;
        for server in self.in_order() {
            if self.stop.is_cancelled() {
                return None;
            }
            match self.ask_one(server, packet, question_len).await {
                Some(answer) if relay::is_failure(&answer) => {
                    second_best = second_best.or(Some(answer));
                }
                Some(answer) => return Some(answer),
                None => tracing::debug!(%server, "no answer from a DNS server upstream"),
            }
        }
        second_best
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

    async fn ask_one(
        &self,
        server: IpAddr,
        packet: &[u8],
        question_len: usize,
    ) -> Option<Arc<[u8]>> {
        let address = SocketAddr::new(server, self.port);
        let ports = lock(&self.ports)
            .entry(address)
            .or_insert_with(|| Ports::new(address, self.stop.clone()))
            .clone();
        let answer = ports.ask(packet, question_len, self.timeout).await;
        let Some(answer) = answer else {
            lock(&self.silent).insert(server, Instant::now());
            return None;
        };
        if !relay::is_truncated(&answer) {
            return Some(answer);
        }
        // Better a part, with the note that it is one, than nothing.
        let whole = exchange::ask_tcp(address, packet, question_len, self.timeout);
        let whole = self.stop.run_until_cancelled(whole).await.flatten();
        Some(whole.unwrap_or(answer))
    }
}

/// Takes a query off the list of those on their way, however that ends.
struct Landing<'u> {
    upstream: &'u Upstream,
    key: &'u [u8],
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        lock(&self.upstream.flights).remove(self.key);
    }
}

/// Nothing that holds these locks can panic half way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
