//! `peers`: short for `status peers`.

use super::status::{StatusArgs, Topic};
use super::{Failure, Global};

/// Shows the peers.
pub async fn run(global: &Global) -> Result<(), Failure> {
    StatusArgs::about(Some(Topic::Peers)).run(global).await
}
