//! Names of containers in the daemon.
//!
//! [`Names`] holds the table that all hosts share and this host's part in it; the mesh reaches it
//! through a gossip [`Channel`], users through the control API, and queries through an index of
//! their own that is read without a lock. What changes here goes out as broadcasts, in order, by
//! [`spread`]. [`clocks`] watches how far the clocks of other hosts are off.
//!
//! What leaves, and when:
//!
//! | event | what happens to names |
//! |---|---|
//! | a container dies, or a user removes a name | a tombstone, told to all at once |
//! | a peer is out of reach | its names are dropped here, and return with it |
//! | this daemon ends | nothing is sent; others drop our names with us |
//! | this daemon starts anew | its names are read from [`disk`]; others that are said to be ours get a tombstone |
//! | the machine boots | its names are gone, as its containers are |
//! | half an hour after its deletion | a tombstone is collected, an hour after at the latest |

mod channel;
mod clocks;
mod disk;
pub mod metrics;
mod names;
mod service;

pub use channel::Channel;
pub use names::{Added, Names};
pub use service::NameService;

use std::sync::Arc;
use std::time::Duration;

use dns::Entry;
use proto::PeerName;
use router::io::RouterHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::store::{Store, StoreError};

/// How often tombstones are collected, as the original does it.
const COLLECT_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// The names that this host had before its daemon was started anew.
pub fn former(store: &Store, ours: PeerName) -> Result<Vec<Entry>, StoreError> {
    disk::begin(store, ours, &disk::boot_id())
}

/// Keeps what changes here and sends it to all peers, and collects tombstones, for as long as there
/// is a router.
pub async fn spread(names: Arc<Names>, router: RouterHandle, store: Store) {
    let mut collect = interval(COLLECT_INTERVAL);
    collect.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            update = names.outgoing() => {
                let (update, store) = (Arc::new(update), store.clone());
                let kept = update.clone();
                let kept = tokio::task::spawn_blocking(move || disk::save(&store, &kept)).await;
                match kept {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!("names are not kept: {error}"),
                    Err(error) => tracing::error!("names are not kept: {error}"),
                }
                let data = channel::boxed(Arc::unwrap_or_clone(update));
                if router.broadcast(dns::CHANNEL, data).await.is_err() {
                    return;
                }
            }
            _ = collect.tick() => names.collect(),
        }
    }
}
