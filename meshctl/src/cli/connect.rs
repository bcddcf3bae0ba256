//! `connect`: more direct peers.

use serde_json::json;

use super::{Failure, Global, output};

/// Flags of `connect`.
#[derive(Debug, clap::Args)]
pub struct ConnectArgs {
    /// Forget all other direct peers; their live connections stay
    #[arg(long)]
    replace: bool,
    /// Hosts, each with an optional port
    #[arg(value_name = "HOST[:PORT]", required_unless_present = "replace")]
    peers: Vec<String>,
}

impl ConnectArgs {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let mut form: Vec<_> = self
            .peers
            .iter()
            .map(|peer| ("peer", peer.as_str()))
            .collect();
        if self.replace {
            form.push(("replace", "true"));
        }
        global.client().post("/connect", &form).await?;
        if global.json {
            output::print_json(&json!({"connect": self.peers, "replace": self.replace}))?;
        }
        Ok(())
    }
}
