//! meshctl against meshctl in network namespaces: meshes, relays, links and paths.

use tests::cases::{PASSWORD, links, meshes, paths, storms};
use tests::node::Kind::Meshctl as M;
use tests::{as_root, seed};

/// One test per line.
macro_rules! cases {
    ($($name:ident => $case:expr;)*) => {
        $(#[test] fn $name() { as_root(|| $case); })*
    };
}

cases! {
    full_mesh_plain => meshes::full([M; 4], None);
    full_mesh_encrypted => meshes::full([M; 4], PASSWORD);
    chain_plain => meshes::chain([M; 3], None);
    chain_encrypted => meshes::chain([M; 3], PASSWORD);
    long_chain => meshes::long_chain([M; 4], PASSWORD);
    detour => meshes::detour([M; 3], PASSWORD);
    moving_container => meshes::moving_container([M; 3], &[1, 2, 3, 1], PASSWORD);

    dial_plain_v2 => links::dial(M, M, None, 2);
    dial_plain_v1 => links::dial(M, M, None, 1);
    dial_encrypted_v2 => links::dial(M, M, PASSWORD, 2);
    dial_encrypted_v1 => links::dial(M, M, PASSWORD, 1);
    both_dial => links::both_dial([M; 2], PASSWORD);
    trusted_by_both => links::trusted([M; 2], true);
    trusted_by_one => links::trusted([M; 2], false);

    underlay_1500_plain => paths::underlay([M; 2], None, 1500);
    underlay_1500_encrypted => paths::underlay([M; 2], PASSWORD, 1500);
    underlay_1400_plain => paths::underlay([M; 2], None, 1400);
    underlay_1400_encrypted => paths::underlay([M; 2], PASSWORD, 1400);
    underlay_9000_plain => paths::underlay([M; 2], None, 9000);
    underlay_9000_encrypted => paths::underlay([M; 2], PASSWORD, 9000);
    narrowing => paths::narrowing([M; 2], PASSWORD);

    rough_underlay => storms::rough([M; 3], PASSWORD, seed(1));
    black_hole_plain => storms::black_hole([M; 2], None);
    black_hole_encrypted => storms::black_hole([M; 2], PASSWORD);
    no_udp_at_first => storms::no_udp([M; 2], PASSWORD);
    no_udp_any_more => storms::udp_lost([M; 3], PASSWORD);
}
