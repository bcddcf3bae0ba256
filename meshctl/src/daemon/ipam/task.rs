//! Sends what the allocator has to say, wakes it when its time has come, and tells it whom the mesh
//! can reach.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipam::allocator::Allocator;
use proto::PeerName;
use router::io::{RouterHandle, SendError, Stopped};
use router::mesh::Members;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep_until;

use super::channel::OurState;
use super::shared::{Outgoing, Shared};
use super::{CHANNEL, quorums};

/// First byte of a message that stops the reader of a peer that knows protocol version 1 only.
const DENIED: u8 = 2;

/// Runs until it is aborted, or the router has stopped.
pub(super) fn start(
    shared: Arc<Shared>,
    router: RouterHandle,
    mut members: watch::Receiver<Members>,
) -> AbortHandle {
    members.mark_changed();
    let task = tokio::spawn(async move {
        // The router has stopped: whoever started it knows.
        let _ = run(&shared, &router, members).await;
    });
    task.abort_handle()
}

async fn run(
    shared: &Arc<Shared>,
    router: &RouterHandle,
    mut members: watch::Receiver<Members>,
) -> Result<(), Stopped> {
    loop {
        let (outgoing, due) = shared.to_do();
        send(shared, router, &members, outgoing).await?;
        shared.note_sent();
        if let Some(told) = shared.quorums.set_own(shared.need()) {
            router.gossip(quorums::CHANNEL, told).await?;
        }
        let timer = async {
            match due {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.woken.notified() => {}
            () = timer => shared.call(Allocator::handle_timeout),
            changed = members.changed() => {
                changed.map_err(|_| Stopped)?;
                let (peers, target_count) = {
                    let members = members.borrow_and_update();
                    let peers: BTreeSet<PeerName> = members.peers.keys().copied().collect();
                    (peers, members.target_count)
                };
                shared.quorums.set_members(peers.clone());
                shared.call(|allocator, now| {
                    allocator.handle_target_count(target_count);
                    allocator.handle_reachable(peers, now);
                });
            }
        }
    }
}

async fn send(
    shared: &Arc<Shared>,
    router: &RouterHandle,
    members: &watch::Receiver<Members>,
    outgoing: Outgoing,
) -> Result<(), Stopped> {
    let Outgoing {
        broadcast,
        unicasts,
        dropped,
    } = outgoing;
    if dropped > 0 {
        tracing::warn!(dropped, "too many messages to peers waited to be sent");
    }
    for (to, payload) in unicasts {
        if !is_fit_for(&members.borrow(), to, &payload) {
            continue;
        }
        match router.unicast(CHANNEL, to, payload).await {
            Ok(()) => {}
            // It has gone meanwhile; whoever wants something asks again.
            Err(SendError::Unicast(error)) => tracing::debug!(%error, "message not sent"),
            Err(SendError::Stopped(stopped)) => return Err(stopped),
        }
    }
    if broadcast {
        let state = Box::new(OurState(shared.clone()));
        router.broadcast(CHANNEL, state).await?;
    }
    Ok(())
}

/// Whether a peer survives this message. The oldest, which have no short ids, do not know them all.
fn is_fit_for(members: &Members, peer: PeerName, payload: &[u8]) -> bool {
    let is_old = (members.peers.get(&peer)).is_some_and(|member| !member.has_short_id);
    !is_old || payload.first() != Some(&DENIED)
}

#[cfg(test)]
mod tests {
    use ipam::wire::Unicast;
    use router::mesh::Member;

    use super::*;
    use crate::daemon::ipam::testing::cidr;

    #[test]
    fn the_oldest_peers_are_not_denied_in_words() {
        let [old, young] = ["::1", "::2"].map(|name| name.parse().unwrap());
        let members = Members {
            peers: [(old, false), (young, true)]
                .map(|(peer, has_short_id)| (peer, Member { has_short_id }))
                .into(),
            target_count: 0,
        };
        let range = cidr("10.32.0.0/24").range();
        let denied = Unicast::SpaceRequestDenied(range).encode();
        assert!(!is_fit_for(&members, old, &denied));
        assert!(is_fit_for(&members, young, &denied));
        let request = Unicast::SpaceRequest(range).encode();
        assert!(is_fit_for(&members, old, &request));
        let update = Unicast::ring_update(b"");
        assert!(is_fit_for(&members, old, &update));
    }
}
