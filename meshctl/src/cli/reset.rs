//! `reset`: back to before the first launch. The host's addresses go to another one first.

use std::path::PathBuf;

use serde_json::json;

use super::stop::{Stopped, stop};
use super::{Exit, Failure, Global, output};
use crate::daemon::bridge;
use crate::daemon::migrate;
use crate::daemon::store::{self, DB_PREFIX, Store};

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
    /// With --force: root directory of the usual places of Weave's state
    #[arg(long, default_value = "/", hide = true, value_name = "DIRECTORY")]
    host_root: PathBuf,
}

impl ResetArgs {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let mut aside = Vec::new();
        // A daemon that runs knows best what is its own, and hands its addresses over first.
        let stopped = stop(&global.client(), &[("reset", "true")]).await?;
        if stopped == Stopped::NotRunning {
            if !self.force {
                return Err(Failure::new(Exit::NotRunning, "meshctl is not running")
                    .hint("launch it before reset, or use --force"));
            }
            bridge::remove(&self.weave_bridge).await?;
            // What is damaged goes as well, and takes its secrets with it.
            let store = Store::open_existing(&self.db_prefix).ok().flatten();
            let record = store.and_then(|store| store.weave().ok()).flatten();
            store::remove(&self.db_prefix).map_err(anyhow::Error::from)?;
            aside = migrate::after_reset(&self.db_prefix, &self.host_root, record)
                .map_err(anyhow::Error::from)?;
        }
        if global.json {
            let mut done = json!({"reset": true, "stopped": stopped == Stopped::Gone});
            if !aside.is_empty() {
                done["aside"] = json!(aside);
            }
            return output::print_json(&done);
        }
        for aside in aside {
            output::print(&format!(
                "the state file of Weave Net is out of date: it is {} now\n",
                aside.display()
            ))?;
        }
        Ok(())
    }
}
