//! `prime`: waits until addresses can be allocated, so that scripts can start what needs them.

use hyper::Method;
use serde_json::json;

use super::{Failure, Global, ipam, output};

/// Flags of `prime`.
#[derive(Debug, clap::Args)]
pub struct PrimeArgs {}

pub async fn run(global: &Global) -> Result<(), Failure> {
    let client = global.client().patient();
    ipam::call(&client, Method::GET, "/ring", &[]).await?;
    if global.json {
        output::print_json(&json!({"primed": true}))?;
    }
    Ok(())
}
