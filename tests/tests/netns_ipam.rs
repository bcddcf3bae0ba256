//! meshctl against meshctl in network namespaces: addresses for containers.

use tests::cases::addresses::{births, claims, departures, draws, kills, quarrels, waits};
use tests::cases::restarts::End;
use tests::node::Kind::Meshctl as M;
use tests::{as_root, number_from, seed};

/// One test per line.
macro_rules! cases {
    ($($name:ident => $case:expr;)*) => {
        $(#[test] fn $name() { as_root(|| $case); })*
    };
}

cases! {
    consensus => births::consensus([M; 3]);
    older_flag => births::older_flag([M; 3]);
    seeds => births::seeds([M; 3]);
    observer => births::observer([M; 3]);
    relayed => births::relayed([M; 3]);
    masked_range => births::masked([M; 2]);

    drained => draws::drained([M; 2]);
    parted => draws::parted([M; 3]);

    foreign_claim => claims::foreign([M; 2]);
    claim_of_the_dead => claims::of_the_dead([M; 2]);
    claim_before_birth => claims::before_birth([M; 2]);

    restart_after_crash => departures::restart([M; 3], End::Crash);
    restart_after_stop => departures::restart([M; 3], End::Stop);
    rmpeer => departures::rmpeer([M; 3]);
    reset => departures::reset([M; 3]);
    kills => kills::in_a_loop([M; 3], seed(1), number_from("MESHCTL_KILLS", 20));

    different_ranges => quarrels::ranges([M; 2]);
    different_seeds => quarrels::seeds([M; 2]);
    different_quorums => quarrels::quorums([M; 2]);

    client_gone => waits::client_gone(M);
    containers => waits::containers(M);
}
