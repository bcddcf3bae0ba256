//! `reset`: back to before the first launch. The host's addresses go to another one first.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use serde_json::json;

use super::stop::{Stopped, stop};
use super::{Exit, Failure, Global, output};
use crate::client::Client;
use crate::daemon::bridge;
use crate::daemon::store::{self, DB_PREFIX};

/// Flags of `reset`.
#[derive(Debug, clap::Args)]
pub struct ResetArgs {
    /// Also if the daemon does not run: its bridge and its state are those named below
    #[arg(long)]
    force: bool,
    /// With --force: name of the bridge
    #[arg(long, default_value = bridge::NAME, value_name = "NAME")]
    weave_bridge: String,
    /// With --force: what the path of the state file begins with
    #[arg(long, default_value = DB_PREFIX, value_name = "PREFIX")]
    db_prefix: PathBuf,
}

/// The others need a moment to hear of it before the connections go down.
const HANDOVER_PAUSE: Duration = Duration::from_millis(500);

impl ResetArgs {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client();
        hand_over(&client).await;
        // A daemon that runs knows best what is its own.
        let stopped = stop(&client, &[("reset", "true")]).await?;
        if stopped == Stopped::NotRunning {
            if !self.force {
                return Err(Failure::new(Exit::NotRunning, "meshctl is not running")
                    .hint("launch it before reset, or use --force"));
            }
            bridge::remove(&self.weave_bridge).await?;
            store::remove(&self.db_prefix).map_err(anyhow::Error::from)?;
        }
        if global.json {
            output::print_json(&json!({"reset": true, "stopped": stopped == Stopped::Gone}))?;
        }
        Ok(())
    }
}

/// Has the daemon give its addresses to another host. What it cannot do is no reason to stop.
async fn hand_over(client: &Client) {
    let answer = client.call(Method::DELETE, "/peer", None, &[]).await;
    if answer.is_ok_and(|answer| answer.status == 204) {
        tokio::time::sleep(HANDOVER_PAUSE).await;
    }
}
