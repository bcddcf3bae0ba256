//! The control task: owns the mesh engine, and drives it with what sockets, clock, data half and
//! users bring.
//!
//! It never waits for any single one of them. Whatever might block is done by other tasks; see
//! [`super::tcp`] and [`super::data`].

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Instant;

use proto::PeerName;
use proto::gossip::{GossipChannel, GossipData};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;

use super::data::{self, DataThreads, Report, Request};
use super::tap::TapDevice;
use super::tcp::{self, INPUT_COUNT, Input, Links, Task};
use super::udp::UdpSocket;
use crate::LinkId;
use crate::connector::BadTarget;
use crate::crypto::aead;
use crate::dataplane::Command;
use crate::dataplane::DataOptions;
use crate::gossip::channels::ChannelTaken;
use crate::mesh::{Members, Mesh, MeshConfig, Output, UnicastError};
use crate::status::{DataStatus, RouterStatus};

#[cfg(test)]
mod tests;

/// How many requests of users may wait.
const ASK_COUNT: usize = 64;
/// Messages are written together up to about this length.
const WRITE_LEN: usize = 64 * 1024;

/// What a router is told at its start.
pub struct RouterConfig {
    /// The mesh, and the port, which is used for TCP and UDP.
    pub mesh: MeshConfig,
    /// Own address for both; unspecified: all. Sleeve knows IPv4 only.
    pub bind: Ipv4Addr,
    /// Queues of the device on the local bridge, each of which gets a thread. Without any the router
    /// only relays for others, with [`DataOptions::workers`] threads.
    pub queues: Vec<Box<dyn TapDevice>>,
    /// How frames travel.
    pub data: DataOptions,
    /// Whether several datagrams may go through the kernel as one, where it can.
    pub udp_offload: bool,
    /// The owners of gossip channels, by name.
    pub channels: Vec<(String, Box<dyn GossipChannel>)>,
    /// Random bytes from a good source; keys are drawn from it.
    pub seed: [u8; 32],
}

/// Why a router did not start. Nothing is left behind.
#[derive(Debug, Error)]
pub enum StartError {
    /// A port cannot be had.
    #[error("cannot listen on {protocol} {address}: {reason}{mend}")]
    Listen {
        /// `TCP` or `UDP`.
        protocol: &'static str,
        /// Where.
        address: SocketAddr,
        /// The kernel's answer.
        reason: String,
        /// What to do about it, if that is known.
        mend: &'static str,
    },
    /// Two owners for one gossip channel.
    #[error(transparent)]
    Channel(#[from] ChannelTaken),
    /// A cipher does not work here.
    #[error(transparent)]
    Cipher(#[from] aead::SelfTestFailed),
    /// A data thread did not start.
    #[error("cannot start a data thread: {0}")]
    Data(#[source] io::Error),
}

/// The router has been shut down, or its control task has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the router has stopped")]
pub struct Stopped;

/// Why direct peers have not been added.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// One of them cannot be a peer. None was added.
    #[error(transparent)]
    BadTarget(#[from] BadTarget),
    /// Too late.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Why a channel's owner could not send to one peer.
#[derive(Debug, Error)]
pub enum SendError {
    /// There is no way to it.
    #[error(transparent)]
    Unicast(#[from] UnicastError),
    /// Too late.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// A running router. It stops when this and all its handles are gone, or by
/// [`RouterHandle::shutdown`].
pub struct Router {
    handle: RouterHandle,
    targets: watch::Receiver<Vec<String>>,
    members: watch::Receiver<Members>,
    failure: oneshot::Receiver<String>,
}

/// To talk to a running router. Clones talk to the same.
#[derive(Debug, Clone)]
pub struct RouterHandle {
    asks: mpsc::Sender<Ask>,
}

/// What users ask for.
enum Ask {
    Connect {
        targets: Vec<String>,
        replace: bool,
        reply: oneshot::Sender<Result<(), BadTarget>>,
    },
    Forget {
        targets: Vec<String>,
        reply: oneshot::Sender<()>,
    },
    Status(oneshot::Sender<RouterStatus>),
    Gossip(String, Box<dyn GossipData>),
    Broadcast(String, Box<dyn GossipData>),
    Unicast {
        channel: String,
        destination: PeerName,
        payload: Vec<u8>,
        reply: oneshot::Sender<Result<(), UnicastError>>,
    },
    Flush(oneshot::Sender<()>),
    Shutdown(oneshot::Sender<()>),
}

impl Router {
    /// Opens the sockets, in the network namespace of the calling thread, and starts the control
    /// task on the current runtime and the data threads.
    pub fn start(config: RouterConfig) -> Result<Self, StartError> {
        aead::self_test()?;
        let address = SocketAddrV4::new(config.bind, config.mesh.port);
        let refused = |protocol, error: &io::Error| StartError::Listen {
            protocol,
            address: SocketAddr::V4(address),
            reason: tcp::describe(error),
            mend: match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "; is another router running on this host? Stop it, or choose another port"
                }
                io::ErrorKind::AddrNotAvailable => "; this host has no such address",
                io::ErrorKind::PermissionDenied => "; ports below 1024 need special rights",
                _ => "",
            },
        };
        let listener = tcp::listen(SocketAddr::V4(address));
        let listener = listener.map_err(|error| refused("TCP", &error))?;
        let thread_count = match config.queues.len() {
            0 => config.data.workers.max(1),
            count => count,
        };
        let sockets = UdpSocket::bind_all(address, thread_count);
        let mut sockets = sockets.map_err(|error| refused("UDP", &error))?;
        if !config.udp_offload {
            for socket in &mut sockets {
                socket.disable_offloads();
            }
        }
        let mut mesh = Mesh::new(config.mesh, config.seed, Instant::now());
        for (name, owner) in config.channels {
            mesh.register_channel(&name, owner)?;
        }
        let started = data::start(mesh.name(), config.data, config.queues, sockets);
        let (data, reports) = started.map_err(StartError::Data)?;
        let (inputs, received) = mpsc::channel(INPUT_COUNT);
        let (asks, asked) = mpsc::channel(ASK_COUNT);
        let (targets_changed, targets) = watch::channel(mesh.targets());
        let (members_changed, members) = watch::channel(mesh.members());
        let (failed, failure) = oneshot::channel();
        let accepting = tokio::spawn(tcp::accept(listener, inputs.clone()));
        let control = Control {
            mesh,
            links: Links::new(IpAddr::V4(config.bind), inputs),
            data,
            backlog: VecDeque::new(),
            targets: targets_changed,
            members: members_changed,
            flushes: Vec::new(),
            failed: Some(failed),
            _accepting: Task::of(&accepting),
        };
        tokio::spawn(control.run(asked, received, reports));
        Ok(Self {
            handle: RouterHandle { asks },
            targets,
            members,
            failure,
        })
    }

    /// To talk to it.
    pub fn handle(&self) -> RouterHandle {
        self.handle.clone()
    }

    /// The direct peers as the user wrote them, whenever they change: to be kept over restarts.
    pub fn targets(&self) -> watch::Receiver<Vec<String>> {
        self.targets.clone()
    }

    /// The peers that messages can be sent to, whenever they change.
    pub fn members(&self) -> watch::Receiver<Members> {
        self.members.clone()
    }

    /// Waits until the router cannot do its work any more, and tells why.
    pub async fn failed(&mut self) -> String {
        let failure = (&mut self.failure).await;
        failure.unwrap_or_else(|_| Stopped.to_string())
    }
}

impl RouterHandle {
    /// Adds direct peers, each as `host[:port]`, after dropping all others if `replace`.
    pub async fn connect(&self, targets: Vec<String>, replace: bool) -> Result<(), ConnectError> {
        let ask = |reply| Ask::Connect {
            targets,
            replace,
            reply,
        };
        Ok(self.ask(ask).await??)
    }

    /// Drops direct peers from the list. Live connections stay.
    pub async fn forget(&self, targets: Vec<String>) -> Result<(), Stopped> {
        self.ask(|reply| Ask::Forget { targets, reply }).await
    }

    /// Everything there is to tell, of both halves.
    pub async fn status(&self) -> Result<RouterStatus, Stopped> {
        self.ask(Ask::Status).await
    }

    /// Sends data of a channel to some neighbours, who pass on what is new to them.
    pub async fn gossip(&self, channel: &str, data: Box<dyn GossipData>) -> Result<(), Stopped> {
        self.tell(Ask::Gossip(channel.to_owned(), data)).await
    }

    /// Sends data of a channel to all peers.
    pub async fn broadcast(&self, channel: &str, data: Box<dyn GossipData>) -> Result<(), Stopped> {
        self.tell(Ask::Broadcast(channel.to_owned(), data)).await
    }

    /// Sends a message of a channel to one peer. It may get lost on the way.
    pub async fn unicast(
        &self,
        channel: &str,
        destination: PeerName,
        payload: Vec<u8>,
    ) -> Result<(), SendError> {
        let ask = |reply| Ask::Unicast {
            channel: channel.to_owned(),
            destination,
            payload,
            reply,
        };
        Ok(self.ask(ask).await??)
    }

    /// Waits until all that was to be sent to neighbours so far is with the kernel.
    pub async fn flush(&self) -> Result<(), Stopped> {
        self.ask(Ask::Flush).await
    }

    /// Closes all connections, the sockets and the device, and waits until that is done.
    pub async fn shutdown(&self) {
        // Someone else was faster.
        let _ = self.ask(Ask::Shutdown).await;
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.tell(ask(reply)).await?;
        answer.await.map_err(|_| Stopped)
    }

    async fn tell(&self, ask: Ask) -> Result<(), Stopped> {
        self.asks.send(ask).await.map_err(|_| Stopped)
    }
}

/// The control task.
struct Control {
    mesh: Mesh,
    links: Links,
    data: DataThreads,
    /// What the data half had no room for. While there is any, connections are not read.
    backlog: VecDeque<Request>,
    targets: watch::Sender<Vec<String>>,
    members: watch::Sender<Members>,
    /// Who waits until nothing is left to be sent.
    flushes: Vec<oneshot::Sender<()>>,
    /// Gone once a failure was reported.
    failed: Option<oneshot::Sender<String>>,
    _accepting: Task,
}

impl Control {
    async fn run(
        mut self,
        mut asks: mpsc::Receiver<Ask>,
        mut inputs: mpsc::Receiver<Input>,
        mut reports: mpsc::Receiver<Report>,
    ) {
        self.drain();
        loop {
            let due = self.mesh.poll_timeout();
            let timer = async {
                match due {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let is_full = !self.backlog.is_empty();
            tokio::select! {
                ask = asks.recv() => match ask {
                    Some(Ask::Shutdown(reply)) => {
                        self.stop().await;
                        let _ = reply.send(());
                        return;
                    }
                    Some(ask) => self.answer(ask),
                    // The last handle is gone.
                    None => return self.stop().await,
                },
                Some(input) = inputs.recv(), if !is_full => self.take_input(input),
                report = reports.recv() => match report {
                    Some(report) => self.take_report(report),
                    None => {
                        self.fail("a data thread has failed; see the log".to_owned());
                        return self.stop().await;
                    }
                },
                () = self.data.room(), if is_full => self.clear_backlog(),
                () = timer => self.mesh.handle_timeout(Instant::now()),
            }
            self.drain();
            if !self.flushes.is_empty() && self.mesh.is_quiet() && self.links.all_idle() {
                for reply in self.flushes.drain(..) {
                    let _ = reply.send(());
                }
            }
        }
    }

    fn answer(&mut self, ask: Ask) {
        let now = Instant::now();
        // Whoever does not wait for the answer does not need it.
        match ask {
            Ask::Connect {
                targets,
                replace,
                reply,
            } => {
                let _ = reply.send(self.mesh.connect(&targets, replace, now));
            }
            Ask::Forget { targets, reply } => {
                self.mesh.forget(&targets, now);
                let _ = reply.send(());
            }
            Ask::Status(reply) => self.show(reply, now),
            Ask::Gossip(channel, data) => self.mesh.gossip(&channel, data),
            Ask::Broadcast(channel, data) => self.mesh.broadcast(&channel, data),
            Ask::Unicast {
                channel,
                destination,
                payload,
                reply,
            } => {
                let _ = reply.send(self.mesh.unicast(&channel, destination, &payload));
            }
            Ask::Flush(reply) => self.flushes.push(reply),
            Ask::Shutdown(_) => {}
        }
    }

    /// Takes our own status, and has that of the data half joined to it when it comes.
    fn show(&mut self, reply: oneshot::Sender<RouterStatus>, now: Instant) {
        let mesh = self.mesh.status(now);
        let (data_reply, data_status) = oneshot::channel();
        self.ask_data(Request::Status(data_reply));
        tokio::spawn(async move {
            let data: DataStatus = data_status.await.unwrap_or_default();
            let _ = reply.send(join(RouterStatus { mesh, data }));
        });
    }

    fn take_input(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Accepted {
                stream,
                remote,
                local,
            } => {
                let link = self.mesh.handle_accepted(remote, local, now);
                self.links.adopt(link, stream);
            }
            Input::Dialled(link, result) => {
                // Closed before it was there.
                if !self.links.dial_ended(link) {
                    return;
                }
                let result = result.map(|(stream, local)| {
                    self.links.adopt(link, stream);
                    local
                });
                self.mesh.handle_dialled(link, result, now);
            }
            Input::Resolved(host, found) => self.mesh.handle_resolved(&host, found, now),
            Input::Bytes(link, bytes) => {
                if self.links.contains(link) {
                    self.mesh.handle_bytes(link, &bytes, now);
                }
            }
            Input::Written(link) => {
                self.links.written(link);
                self.write(link);
            }
            Input::Closed(link, reason) => {
                if self.links.contains(link) {
                    self.links.close(link, Vec::new());
                    self.mesh.handle_closed(link, reason, now);
                }
            }
        }
    }

    fn take_report(&mut self, report: Report) {
        match report {
            Report::Event(event) => self.mesh.handle_data_event(event, Instant::now()),
            Report::DeviceLost(reason) => self.fail(reason),
        }
    }

    fn fail(&mut self, reason: String) {
        if let Some(failed) = self.failed.take() {
            tracing::error!("{reason}");
            let _ = failed.send(reason);
        }
    }

    /// Does what the mesh wants done.
    fn drain(&mut self) {
        let mut routes_changed = false;
        while let Some(output) = self.mesh.poll_output() {
            routes_changed |= matches!(output, Output::Data(Command::Routes(_)));
            match output {
                Output::Resolve { host } => self.links.resolve(host),
                Output::Dial { link, addr } => self.links.dial(link, addr),
                Output::Close { link, last_words } => self.links.close(link, last_words),
                Output::WantsWrite(link) => self.write(link),
                Output::Data(command) => self.ask_data(Request::Command(command)),
                Output::TargetsChanged(targets) => {
                    self.targets.send_replace(targets);
                }
            }
        }
        if routes_changed || self.members.borrow().target_count != self.mesh.active_target_count() {
            let members = self.mesh.members();
            self.members.send_if_modified(|known| {
                let changed = *known != members;
                *known = members;
                changed
            });
        }
    }

    /// Takes what the mesh has for a connection, unless that is still busy.
    fn write(&mut self, link: LinkId) {
        if !self.links.is_idle(link) {
            return;
        }
        let Some(mut chunk) = self.mesh.poll_transmit(link) else {
            return;
        };
        while chunk.len() < WRITE_LEN
            && let Some(more) = self.mesh.poll_transmit(link)
        {
            chunk.extend_from_slice(&more);
        }
        self.links.write(link, chunk);
    }

    /// Asks the data half, after all that was asked before.
    fn ask_data(&mut self, request: Request) {
        if self.backlog.is_empty() {
            if let Err(request) = self.data.ask(request) {
                self.backlog.push_back(request);
            }
        } else {
            self.backlog.push_back(request);
        }
    }

    fn clear_backlog(&mut self) {
        while let Some(request) = self.backlog.pop_front() {
            if let Err(request) = self.data.ask(request) {
                self.backlog.push_front(request);
                return;
            }
        }
    }

    async fn stop(mut self) {
        self.mesh.shutdown(Instant::now());
        self.drain();
        self.data.stop().await;
    }
}

/// Shows each connection with what the data half says about its link.
fn join(mut status: RouterStatus) -> RouterStatus {
    for connection in &mut status.mesh.connections {
        if let Some((peer, _)) = &connection.peer {
            let mut links = status.data.links.iter();
            connection.link = links.find(|link| link.peer == *peer).cloned();
        }
    }
    status
}
