//! `export-weave-db`: the way back to Weave Net.

use std::path::PathBuf;

use serde_json::json;

use super::{Exit, Failure, Global, output};
use crate::daemon::migrate::{self, MigrateError};
use crate::daemon::store::{DB_PREFIX, StoreError};
use crate::weave_file;

/// Flags of `export-weave-db`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// File to write, such as /weavedb/weavedata.db [default: the one that was taken over]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Replace the file if it is there; it is put aside
    #[arg(long)]
    force: bool,
    /// What the path of the own state file begins with
    #[arg(long, default_value = DB_PREFIX, value_name = "PREFIX")]
    db_prefix: PathBuf,
}

impl ExportArgs {
    pub(super) fn run(&self, global: &Global) -> Result<(), Failure> {
        let exported = migrate::export(&self.db_prefix, self.file.as_deref(), self.force);
        let done = exported.map_err(|error| {
            let exit = match &error {
                MigrateError::NoPath => Exit::Usage,
                _ => Exit::Failed,
            };
            let failure = Failure::new(exit, &error);
            match &error {
                MigrateError::Store(StoreError::Locked(_)) => {
                    failure.hint("the daemon's state changes all the time: end it first")
                }
                MigrateError::File(weave_file::Error::InUse(_)) => {
                    failure.hint("Weave would not see what is written: end it first")
                }
                _ => failure,
            }
        })?;
        let path = done.path.display();
        if global.json {
            return output::print_json(&json!({
                "file": path.to_string(),
                "aside": done.aside.map(|aside| aside.display().to_string()),
                "name": done.name.map(|name| name.to_string()),
                "range": done.range,
                "addresses": done.address_count,
                "peers": done.peers,
            }));
        }
        let mut text = format!("wrote {path}");
        if let Some(aside) = done.aside {
            text.push_str(&format!("; the old one is {} now", aside.display()));
        }
        let name = done
            .name
            .map_or_else(|| "none".to_owned(), |name| name.to_string());
        text.push_str(&format!("\nname {name}\n"));
        match done.range {
            Some(range) => text.push_str(&format!(
                "ring of {range}, {} addresses in use\n",
                done.address_count
            )),
            None => text.push_str("no ring\n"),
        }
        text.push_str(&format!("direct peers [{}]\n", done.peers.join(" ")));
        output::print(&text)
    }
}
