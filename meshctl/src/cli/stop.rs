//! `stop`: ends the daemon and waits until it is gone.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};

use super::{Exit, Failure, Global, output};
use crate::client::{Client, NoAnswer};

/// The daemon needs a second at most; this is for a machine under load.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks whether it is gone.
const PAUSE: Duration = Duration::from_millis(20);

/// Flags of `stop`.
#[derive(Debug, clap::Args)]
pub struct StopArgs {}

/// What became of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It ran, and is gone now.
    Gone,
    /// It did not run.
    NotRunning,
}

/// Stops the daemon. That it does not run is no failure, as in the original.
pub async fn run(global: &Global) -> Result<(), Failure> {
    let stopped = stop(&global.client(), &[]).await?;
    if global.json {
        output::print_json(&json!({"stopped": stopped == Stopped::Gone}))?;
    } else if stopped == Stopped::NotRunning {
        eprint("meshctl is not running.");
    }
    Ok(())
}

/// Asks the daemon to end and waits until it has let go of everything.
pub async fn stop(client: &Client, form: &[(&str, &str)]) -> Result<Stopped, Failure> {
    let answer = match client.call(Method::POST, "/stop", None, form).await {
        Ok(answer) => answer,
        Err(NoAnswer::NotRunning(..)) => return Ok(Stopped::NotRunning),
        Err(error) => return Err(error.into()),
    };
    if answer.status == 404 {
        return Err(
            Failure::new(Exit::NotServed, "what answers there is not meshctl")
                .hint("end a Weave Net container with \"docker stop weave\""),
        );
    }
    if answer.status != 200 {
        return Err(Failure::new(Exit::Failed, answer.body.trim_end()));
    }
    let pid = serde_json::from_str::<Value>(&answer.body)
        .ok()
        .and_then(|answer| answer.get("pid")?.as_u64())
        .map_or_else(|| "?".to_owned(), |pid| pid.to_string());
    // The daemon closes its listener last of all.
    let asked = Instant::now();
    while asked.elapsed() < PATIENCE {
        match client.call(Method::GET, "/status/targets", None, &[]).await {
            Err(NoAnswer::NotRunning(..)) => return Ok(Stopped::Gone),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
    let waited = PATIENCE.as_secs();
    Err(Failure::new(
        Exit::Failed,
        format!("the daemon is still there after {waited} s"),
    )
    .hint(format!(
        "its log says why; \"kill -9 {pid}\" ends it, and loses nothing"
    )))
}

fn eprint(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}
