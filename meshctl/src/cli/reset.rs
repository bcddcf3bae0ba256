//! `reset`: back to before the first launch.

use std::path::PathBuf;

use serde_json::json;

use super::stop::{Stopped, stop};
use super::{Exit, Failure, Global, output};
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

impl ResetArgs {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        // A daemon that runs knows best what is its own.
        let stopped = stop(&global.client(), &[("reset", "true")]).await?;
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
