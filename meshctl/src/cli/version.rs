//! `version`: of this program, and of the daemon if it runs.

use serde_json::json;

use super::{Failure, Global, output};

/// Prints one line for the program and, if a daemon answers, one for it.
pub async fn run(global: &Global) -> Result<(), Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let daemon = global.client().report().await.ok();
    let daemon = daemon.map(|report| report.version);
    if global.json {
        return output::print_json(&json!({"meshctl": own, "daemon": daemon}));
    }
    let mut text = format!("meshctl {own}\n");
    if let Some(version) = daemon {
        text.push_str(&format!("daemon  {version}\n"));
    }
    output::print(&text)
}
