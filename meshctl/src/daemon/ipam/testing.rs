//! An allocator with a disk, alone in its mesh.

use std::path::Path;

use ipam::allocator::Init;
use ipam::range::Cidr;
use proto::PeerUid;

use super::{Config, Ipam};
use crate::daemon::store::Store;

pub(super) fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

pub(super) fn config(init: Init, universe: &str) -> Config {
    Config {
        name: "2::a".parse().unwrap(),
        uid: PeerUid(7),
        nickname: "host-a".to_owned(),
        universe: cidr(universe),
        default_subnet: cidr(universe),
        init,
        pre_claims: Vec::new(),
        rng_seed: [7; 32],
    }
}

/// With its state in `directory`.
pub(super) fn begin(directory: &Path, config: Config) -> Ipam {
    let store = Store::open(&directory.join("")).unwrap();
    Ipam::begin(config, &store).unwrap()
}
