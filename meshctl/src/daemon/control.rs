//! What the daemon's other parts ask of the router, so that they can be tested without one.

use std::pin::Pin;

use router::status::RouterStatus;
use thiserror::Error;

/// A future that may be sent between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The router has ended or does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the router does not answer")]
pub struct NoRouter;

/// A request that the router refuses, with one text for the user each.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Some of what was given makes no sense; the rest was done.
    #[error("{}", .0.join("\n"))]
    Bad(Vec<String>),
    /// Nobody to refuse.
    #[error(transparent)]
    NoRouter(#[from] NoRouter),
}

/// The router, as the control API sees it.
pub trait Control: Send + Sync {
    /// All that the router tells.
    fn status(&self) -> BoxFuture<'_, Result<RouterStatus, NoRouter>>;

    /// More direct peers, or, with `replace`, others.
    fn connect(&self, peers: Vec<String>, replace: bool) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Fewer direct peers.
    fn forget(&self, peers: Vec<String>) -> BoxFuture<'_, Result<(), Refusal>>;
}
