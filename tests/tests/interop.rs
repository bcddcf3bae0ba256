//! The original alone: proves the laboratory.

use tests::cases::{PASSWORD, links, meshes, paths, refusals, restarts};
use tests::node::Kind::Weaver as W;
use tests::with_weaver;

#[test]
fn full_mesh_encrypted() {
    with_weaver(|| meshes::full([W; 4], PASSWORD));
}
#[test]
fn full_mesh_plain() {
    with_weaver(|| meshes::full([W; 4], None));
}
#[test]
fn chain() {
    with_weaver(|| meshes::chain([W; 3], PASSWORD));
}
#[test]
fn long_chain() {
    with_weaver(|| meshes::long_chain([W; 4], None));
}
#[test]
fn detour() {
    with_weaver(|| meshes::detour([W; 3], PASSWORD));
}
#[test]
fn dial() {
    with_weaver(|| links::dial(W, W, PASSWORD, 2));
}
#[test]
fn both_dial() {
    with_weaver(|| links::both_dial([W; 2], PASSWORD));
}
#[test]
fn trusted() {
    with_weaver(|| links::trusted([W; 2], true));
}
#[test]
fn trusted_by_one() {
    with_weaver(|| links::trusted([W; 2], false));
}
#[test]
fn mtu_1500() {
    with_weaver(|| paths::underlay([W; 2], PASSWORD, 1500));
}
#[test]
fn mtu_1400() {
    with_weaver(|| paths::underlay([W; 2], PASSWORD, 1400));
}
#[test]
fn mtu_9000() {
    with_weaver(|| paths::underlay([W; 2], None, 9000));
}
#[test]
fn narrowing() {
    with_weaver(|| paths::narrowing([W; 2], None));
}
#[test]
fn wrong_password() {
    with_weaver(|| refusals::wrong_password([W; 2]));
}
#[test]
fn missing_password() {
    with_weaver(|| refusals::missing_password([W; 2]));
}
#[test]
fn shared_name() {
    with_weaver(|| refusals::shared_name([W; 3]));
}
#[test]
fn namesakes() {
    with_weaver(|| refusals::namesakes([W; 2]));
}
#[test]
fn connect_to_self() {
    with_weaver(|| refusals::connect_to_self(W));
}
#[test]
fn connection_limit() {
    with_weaver(|| refusals::connection_limit([W; 3]));
}
#[test]
fn restart_crash() {
    with_weaver(|| restarts::restart([W; 3], PASSWORD, restarts::End::Crash));
}
#[test]
fn restart_stop() {
    with_weaver(|| restarts::restart([W; 3], PASSWORD, restarts::End::Stop));
}
#[test]
fn loss() {
    with_weaver(|| restarts::loss([W; 3], PASSWORD));
}
