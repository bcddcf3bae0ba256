//! The server: sockets, threads and tasks around [`Responder`].
//!
//! - `udp`: threads that answer batches of datagrams from the names; nearly all of the load.
//! - `tcp`: a task for each connection.
//! - `upstream`: asks other servers about names that are not ours.
//! - `handler`: the handler on `hickory-server`, with a complete parser, for all that is not plain.
//!
//! What is not answered at once becomes a task, of which there are so many at most, for each client
//! and in all.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use socket2::Socket;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::names::Names;
use crate::responder::Responder;
use crate::stats::{Counters, Stats};

mod handler;
mod shared;
mod tcp;
mod udp;
mod upstream;

use handler::Handler;
use shared::{Shared, Shares};
use upstream::Upstream;

/// How to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen, on UDP and TCP. With port 0 the kernel chooses one, the same for both.
    pub listen: Vec<SocketAddr>,
    /// Seconds for which answers hold.
    pub ttl: u32,
    /// The file that names the servers upstream; without it there are none.
    pub resolv_conf: Option<PathBuf>,
    /// How long to wait for each of them.
    pub timeout: Duration,
    /// What bounds the work.
    pub limits: Limits,
    /// Threads for UDP, at each address; 0 is as many as there are processors, up to 4.
    pub udp_threads: usize,
}

/// What bounds the work that clients can cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Queries at a time that wait for servers upstream.
    pub waiting: usize,
    /// Of these, from one address.
    pub waiting_per_client: usize,
    /// TCP connections.
    pub connections: usize,
    /// Of these, from one address.
    pub connections_per_client: usize,
    /// Queries at a time of one connection.
    pub pipelined: usize,
    /// How long a connection may take for a whole query, or to take an answer.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            waiting: 4096,
            waiting_per_client: 1024,
            connections: 512,
            connections_per_client: 64,
            pipelined: 64,
            idle: Duration::from_secs(10),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            ttl: 1,
            resolv_conf: None,
            timeout: Duration::from_secs(5),
            limits: Limits::default(),
            udp_threads: 0,
        }
    }
}

/// Why it does not serve.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be had.
    #[error("cannot serve DNS at {address} ({transport}): {source}")]
    Bind {
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// The address.
        address: SocketAddr,
        /// In use, or not an address of this host, or not allowed.
        source: io::Error,
    },
    /// A thread cannot be had.
    #[error("cannot start a thread for DNS: {0}")]
    Thread(io::Error),
}

/// More threads than this have nothing to do.
const MAX_UDP_THREADS: usize = 4;
/// The port of all servers upstream, since their file has no place for another.
const UPSTREAM_PORT: u16 = 53;
/// With port 0, how often to look for one that is free on UDP and TCP.
const PORT_TRIES: usize = 16;

/// A server that runs. It ends with [`Server::shutdown`], or when dropped.
pub struct Server {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    sockets: Vec<Arc<Socket>>,
    counters: Vec<Arc<Counters>>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// What is bound to one address.
struct Bound {
    address: SocketAddr,
    udp: Vec<Socket>,
    tcp: TcpListener,
}

impl Server {
    /// Binds all addresses and serves. Has to be called on a runtime of tokio, in the network
    /// namespace in which to listen.
    pub fn start(config: Config, names: Names) -> Result<Self, StartError> {
        Self::start_with(config, names, UPSTREAM_PORT)
    }

    fn start_with(config: Config, names: Names, upstream_port: u16) -> Result<Self, StartError> {
        let threads = match config.udp_threads {
            0 => {
                thread::available_parallelism().map_or(1, |count| count.get().min(MAX_UDP_THREADS))
            }
            count => count,
        };
        let bound = config
            .listen
            .iter()
            .map(|address| bind(*address, threads))
            .collect::<Result<Vec<_>, _>>()?;
        let addresses: Vec<SocketAddr> = bound.iter().map(|bound| bound.address).collect();
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let limits = config.limits;
        let responder = Responder::new(names, config.ttl);
        let upstream = Arc::new(Upstream::new(
            config.resolv_conf,
            upstream_port,
            addresses.clone(),
            config.timeout,
            stop.clone(),
            tasks.clone(),
        ));
        let shared = Arc::new(Shared {
            handler: Handler::new(responder.clone(), upstream.clone()),
            responder,
            upstream,
            limits,
            stop,
            counters: Counters::default(),
            waiting: Shares::new(limits.waiting, limits.waiting_per_client),
            runtime: Handle::current(),
            tasks,
        });
        let mut server = Self {
            addresses,
            shared: shared.clone(),
            sockets: Vec::new(),
            counters: Vec::new(),
            threads: Vec::new(),
        };
        let connections = Shares::new(limits.connections, limits.connections_per_client);
        for Bound { udp, tcp, .. } in bound {
            shared.spawn(tcp::serve(tcp, connections.clone(), shared.clone()));
            for socket in udp {
                server.start_thread(socket)?;
            }
        }
        Ok(server)
    }

    fn start_thread(&mut self, socket: Socket) -> Result<(), StartError> {
        let socket = Arc::new(socket);
        let counters = Arc::new(Counters::default());
        self.sockets.push(socket.clone());
        self.counters.push(counters.clone());
        let shared = self.shared.clone();
        let thread = thread::Builder::new()
            .name("dns".to_owned())
            .spawn(move || udp::serve(&socket, &counters, &shared))
            .map_err(StartError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Where it listens, with the ports that the kernel has chosen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The servers upstream, as of now.
    pub fn upstream(&self) -> Vec<IpAddr> {
        self.shared.upstream.servers()
    }

    /// All that has been counted since the start.
    pub fn stats(&self) -> Stats {
        let of_threads = self.counters.iter().map(Arc::as_ref);
        Stats::sum(of_threads.chain([&self.shared.counters]))
    }

    /// Stops, and waits until all threads and tasks have ended: the addresses are free then.
    pub async fn shutdown(mut self) {
        self.stop();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A thread that has panicked has said so.
                let _ = thread.join();
            }
        });
        let _ = joined.await;
    }

    fn stop(&self) {
        self.shared.stop.cancel();
        for socket in &self.sockets {
            // A datagram socket that is not connected has nothing to shut down, says the error; who
            // sleeps in it is woken all the same.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn bind(address: SocketAddr, threads: usize) -> Result<Bound, StartError> {
    let failed = |transport, source| StartError::Bind {
        transport,
        address,
        source,
    };
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries = tries.saturating_sub(1);
        let udp = udp::bind(address, threads).map_err(|error| failed("UDP", error))?;
        let local = udp.first().map(Socket::local_addr);
        let bound = match local {
            Some(Ok(local)) => local.as_socket().unwrap_or(address),
            Some(Err(error)) => return Err(failed("UDP", error)),
            None => address,
        };
        match tcp::bind(bound) {
            Ok(tcp) => {
                return Ok(Bound {
                    address: bound,
                    udp,
                    tcp,
                });
            }
            Err(_) if tries > 0 => {}
            Err(error) => return Err(failed("TCP", error)),
        }
    }
}

#[cfg(test)]
mod tests;
