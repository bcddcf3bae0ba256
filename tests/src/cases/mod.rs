//! What has to work, whichever of the nodes is ours and whichever is the original.
//!
//! Each case is a function of the kinds of its nodes, in the order of their hosts, and mostly of
//! the password. It builds its lab, and panics where something does not hold.

pub mod addresses;
pub mod links;
pub mod meshes;
pub mod migration;
pub mod names;
pub mod paths;
pub mod queries;
pub mod refusals;
pub mod restarts;
pub mod stations;
pub mod storms;
pub mod targets;
pub mod traffic;

use crate::lab::{ContainerId, Lab};

/// A password for cases that take one.
pub const PASSWORD: Option<&str> = Some("correct horse battery staple");

/// Payload of a ping as people send it.
const SHORT: usize = 56;
/// Payload of a ping that is near the longest packet there is.
const LONG: usize = 65000;
/// Bytes of a TCP transfer: a few times what all buffers on the way hold.
const TRANSFER: u64 = 8 << 20;

/// A container on each of these hosts, with addresses 10.40.0.1/16 and so on.
#[track_caller]
fn attach_one_each(lab: &mut Lab, numbers: &[usize]) -> Vec<ContainerId> {
    numbers
        .iter()
        .map(|number| lab.attach(*number, &format!("10.40.0.{number}/16")))
        .collect()
}
