//! meshctl against meshctl in network namespaces: names of containers.

use tests::as_root;
use tests::cases::restarts::End;
use tests::cases::{PASSWORD, names, queries};
use tests::node::Kind::Meshctl as M;

/// One test per line.
macro_rules! cases {
    ($($name:ident => $case:expr;)*) => {
        $(#[test] fn $name() { as_root(|| $case); })*
    };
}

cases! {
    come_and_go_plain => names::come_and_go([M; 3], None);
    come_and_go_encrypted => names::come_and_go([M; 3], PASSWORD);
    host_crashes => names::host_ends([M; 3], End::Crash);
    host_stops => names::host_ends([M; 3], End::Stop);
    quick_return => names::quick_return([M; 2]);
    short_partition => names::partition([M; 3], false);
    long_partition => names::partition([M; 3], true);
    five_thousand => names::many([M; 2], 5000);
    relayed_without_names => names::relayed([M; 3]);

    answers => queries::answers(M);
    in_containers => queries::in_containers(M);
    upstream => queries::upstream(M);
    broken_upstream => queries::broken_upstream();
    domain_and_ttl => queries::domain_and_ttl(M);
    listening => queries::listening();
    verbs => queries::verbs(M);
    without_names => queries::without_names();
    skewed_clock => queries::skewed_clock(M);
}
