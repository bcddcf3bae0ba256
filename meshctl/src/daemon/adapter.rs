//! The router behind the control API.

use std::sync::Arc;

use router::connector::TargetSpec;
use router::io::{ConnectError, RouterHandle};
use router::status::RouterStatus;

use super::control::{BoxFuture, Control, NoRouter, Refusal};
use super::peers::Keeper;

/// A running router. What changes its direct peers is on disk before it is answered.
pub struct Adapter {
    router: RouterHandle,
    keeper: Arc<Keeper>,
}

impl Adapter {
    /// The router behind `router`, whose direct peers `keeper` keeps.
    pub fn new(router: RouterHandle, keeper: Arc<Keeper>) -> Self {
        Self { router, keeper }
    }

    async fn keep(&self) -> Result<(), NoRouter> {
        let targets = self.status().await?.mesh.targets;
        let keeper = self.keeper.clone();
        let kept = tokio::task::spawn_blocking(move || keeper.changed(targets)).await;
        match kept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!("the direct peers are not kept: {error}"),
            Err(error) => tracing::error!("the direct peers are not kept: {error}"),
        }
        Ok(())
    }
}

/// Those of `peers` that can be dialled, and one text for each other.
pub fn sort_out(peers: Vec<String>) -> (Vec<String>, Vec<String>) {
    let mut good = Vec::with_capacity(peers.len());
    let mut bad = Vec::new();
    for peer in peers {
        match peer.parse::<TargetSpec>() {
            Ok(_) => good.push(peer),
            Err(error) => bad.push(error.to_string()),
        }
    }
    (good, bad)
}

impl Control for Adapter {
    fn status(&self) -> BoxFuture<'_, Result<RouterStatus, NoRouter>> {
        Box::pin(async { self.router.status().await.map_err(|_| NoRouter) })
    }

    /// As in the original, the good ones are added even if there are bad ones among them.
    fn connect(&self, peers: Vec<String>, replace: bool) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            let (good, bad) = sort_out(peers);
            let bad = match self.router.connect(good, replace).await {
                Ok(()) => bad,
                Err(ConnectError::BadTarget(error)) => vec![error.to_string()],
                Err(ConnectError::Stopped(_)) => return Err(NoRouter.into()),
            };
            self.keep().await?;
            if bad.is_empty() {
                Ok(())
            } else {
                Err(Refusal::Bad(bad))
            }
        })
    }

    fn forget(&self, peers: Vec<String>) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            self.router.forget(peers).await.map_err(|_| NoRouter)?;
            Ok(self.keep().await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_peers_do_not_spoil_the_good_ones() {
        let peers = ["a", "b:x", "10.0.0.1:6784", ""].map(str::to_owned).into();
        let (good, bad) = sort_out(peers);
        assert_eq!(good, ["a", "10.0.0.1:6784"]);
        assert_eq!(bad.len(), 2);
        assert!(bad[0].contains("\"b:x\""), "{bad:?}");
    }
}
