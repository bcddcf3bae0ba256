//! What threads and tasks of the server have in common, and the queries that take longer.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Limits;
use super::handler::Handler;
use super::upstream::Upstream;
use crate::query::{self, Query, Rcode, Received};
use crate::relay;
use crate::reply::{self, Transport};
use crate::responder::Responder;
use crate::stats::{Counters, Kind, Outcome, Writers};

/// The parts that do not belong to one thread.
pub(super) struct Shared {
    pub(super) responder: Responder,
    pub(super) upstream: Arc<Upstream>,
    pub(super) handler: Handler,
    pub(super) limits: Limits,
    pub(super) stop: CancellationToken,
    /// Counted by tasks.
    pub(super) counters: Counters,
    pub(super) waiting: Arc<Shares>,
    pub(super) runtime: Handle,
    pub(super) tasks: TaskTracker,
}

/// Who asked, how, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) client: SocketAddr,
    pub(super) transport: Transport,
    pub(super) begun: Instant,
}

impl Shared {
    /// Room for one more query that takes longer, unless the client or all have too many.
    pub(super) fn admit(&self, client: IpAddr) -> Option<Share> {
        Shares::take(&self.waiting, client)
    }

    /// The answer to a query for which there is no room.
    pub(super) fn turn_away(&self, packet: &[u8]) -> Vec<u8> {
        let mut answer = Vec::new();
        let kind = match query::read(packet) {
            Received::Plain(query) => {
                reply::write_failure((&query).into(), Rcode::ServFail, &mut answer);
                Kind::of_type(query.qtype)
            }
            _ => {
                reply::write_refusal(packet, Rcode::ServFail, &mut answer);
                Kind::Malformed
            }
        };
        self.count(kind, Outcome::ServFail);
        answer
    }

    /// Starts a task for a query, which ends by itself: no wait for an answer goes on when the server
    /// ends.
    pub(super) fn spawn_query(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// Starts a task that the end of the server ends.
    pub(super) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let task = async move {
            tokio::select! {
                () = task => {}
                () = stop.cancelled() => {}
            }
        };
        self.tasks.spawn_on(task, &self.runtime);
    }

    pub(super) fn count(&self, kind: Kind, outcome: Outcome) {
        self.counters.count(Writers::Many, kind, outcome);
    }

    /// Notes how long an answer took.
    pub(super) fn took(&self, begun: Instant) {
        self.counters.took(Writers::Many, begun.elapsed(), 1);
    }

    /// Asks upstream for the answer to a plain query, without a wait. Who gets the answer must not
    /// take long.
    pub(super) fn forward(
        self: &Arc<Self>,
        query: &Query<'_>,
        packet: &[u8],
        asked: Asked,
        send: impl FnOnce(&[u8]) + Send + 'static,
    ) {
        let question_len = query.question.len();
        let (shared, own) = (self.clone(), packet.to_vec());
        let then = move |message: Option<Arc<[u8]>>| {
            if let Received::Plain(query) = query::read(&own) {
                send(&shared.finish(&query, asked, message.as_deref()));
            }
        };
        self.upstream.ask_then(packet, question_len, Box::new(then));
    }

    /// The answer to a plain query from that of the servers upstream, or from their silence.
    fn finish(&self, query: &Query<'_>, asked: Asked, message: Option<&[u8]>) -> Vec<u8> {
        let (outcome, answer) = match message {
            Some(message) => {
                let answer = relay::relay(query.into(), asked.transport, message);
                (Outcome::Forwarded, answer)
            }
            None => {
                let mut answer = Vec::new();
                reply::write_failure(query.into(), Rcode::ServFail, &mut answer);
                (Outcome::ServFail, answer)
            }
        };
        self.count(Kind::of_type(query.qtype), outcome);
        self.took(asked.begun);
        answer
    }

    /// Answers a query for which the names alone are not enough: by asking upstream, or with the
    /// complete parser.
    pub(super) async fn answer(&self, packet: Vec<u8>, asked: Asked) -> Option<Vec<u8>> {
        if let Received::Plain(query) = query::read(&packet) {
            let message = self.upstream.ask(&packet, query.question.len()).await;
            return Some(self.finish(&query, asked, message.as_deref()));
        }
        let Asked {
            client, transport, ..
        } = asked;
        let (kind, outcome, answer) = self.handler.answer(packet, client, transport).await;
        self.count(kind, outcome);
        if answer.is_some() {
            self.took(asked.begun);
        }
        answer
    }
}

/// A number of things at a time, in all and for each address.
#[derive(Debug)]
pub(super) struct Shares {
    in_all: usize,
    for_each: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    by_addr: HashMap<IpAddr, usize>,
}

/// One of them; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    shares: Arc<Shares>,
    addr: IpAddr,
}

impl Shares {
    pub(super) fn new(in_all: usize, for_each: usize) -> Arc<Self> {
        Arc::new(Self {
            in_all,
            for_each,
            taken: Mutex::default(),
        })
    }

    /// How many are taken.
    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        self.taken.lock().unwrap().in_all
    }

    /// Takes one for an address, if there is one left.
    pub(super) fn take(this: &Arc<Self>, addr: IpAddr) -> Option<Share> {
        let addr = network_of(addr);
        let mut taken = this.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.in_all >= this.in_all {
            return None;
        }
        let of_addr = taken.by_addr.entry(addr).or_default();
        if *of_addr >= this.for_each {
            return None;
        }
        *of_addr += 1;
        taken.in_all += 1;
        Some(Share {
            shares: this.clone(),
            addr,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let taken = self.shares.taken.lock();
        let mut taken = taken.unwrap_or_else(PoisonError::into_inner);
        taken.in_all = taken.in_all.saturating_sub(1);
        if let Some(of_addr) = taken.by_addr.get_mut(&self.addr) {
            *of_addr = of_addr.saturating_sub(1);
            if *of_addr == 0 {
                taken.by_addr.remove(&self.addr);
            }
        }
    }
}

/// One client may have all addresses of an IPv6 network.
fn network_of(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => {
            let network = addr.to_bits() >> 64 << 64;
            IpAddr::V6(network.into())
        }
        addr => addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_bounded_and_come_back() {
        let shares = Shares::new(3, 2);
        let addr = |n| IpAddr::from([10, 0, 0, n]);
        let one = Shares::take(&shares, addr(1)).unwrap();
        let _two = Shares::take(&shares, addr(1)).unwrap();
        assert!(Shares::take(&shares, addr(1)).is_none(), "two for each");
        let _three = Shares::take(&shares, addr(2)).unwrap();
        assert!(Shares::take(&shares, addr(3)).is_none(), "three in all");
        drop(one);
        let _four = Shares::take(&shares, addr(3)).unwrap();
        let taken = shares.taken.lock().unwrap();
        assert_eq!(taken.by_addr.len(), 3, "no address without a share stays");
    }

    #[test]
    fn a_network_is_one_client() {
        let addr = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(addr("fd00::1"), addr("fd00::ffff:0:0:1"));
        assert_ne!(addr("fd00::1"), addr("fd00:0:0:1::1"));
        assert_eq!(addr("::ffff:10.0.0.1"), addr("10.0.0.1"));
    }
}
