//! `forget`: fewer direct peers.

use serde_json::json;

use super::{Failure, Global, output};

/// Flags of `forget`.
#[derive(Debug, clap::Args)]
pub struct ForgetArgs {
    /// Hosts, as they were given to launch or connect
    #[arg(value_name = "HOST[:PORT]", required = true)]
    peers: Vec<String>,
}

impl ForgetArgs {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let form: Vec<_> = self
            .peers
            .iter()
            .map(|peer| ("peer", peer.as_str()))
            .collect();
        global.client().post("/forget", &form).await?;
        if global.json {
            output::print_json(&json!({"forget": self.peers}))?;
        }
        Ok(())
    }
}
