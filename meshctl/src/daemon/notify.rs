//! Tells systemd how the daemon is doing. Without systemd nothing happens.

use std::time::Duration;

use router::status::{ConnectionState, RouterStatus};
use sd_notify::NotifyState;

/// How often the daemon looks after itself if nobody watches it.
const INTERVAL: Duration = Duration::from_secs(10);

/// Everything is up: bridge, router and API.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("ready")]);
}

/// The end has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// The router answers: this is how it is doing.
pub fn alive(status: &RouterStatus) {
    let established = |state| state == ConnectionState::Established;
    let connections = status.mesh.connections.iter();
    let established = connections.filter(|conn| established(conn.state)).count();
    let peers = status.mesh.peers.len();
    let text = format!("{peers} peers known, {established} connections established");
    tell(&[NotifyState::Watchdog, NotifyState::Status(&text)]);
}

/// How often to call [`alive`]: twice within the time after which systemd gives up.
pub fn interval() -> Duration {
    let watchdog = sd_notify::watchdog_enabled();
    watchdog.map_or(INTERVAL, |watchdog| (watchdog / 2).min(INTERVAL))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot tell systemd");
    }
}
