//! meshctl against meshctl in network namespaces: refusals, losses, returns.

use tests::cases::restarts::End;
use tests::cases::{PASSWORD, refusals, restarts};
use tests::node::Kind::Meshctl as M;
use tests::{as_root, seed};

/// One test per line.
macro_rules! cases {
    ($($name:ident => $case:expr;)*) => {
        $(#[test] fn $name() { as_root(|| $case); })*
    };
}

cases! {
    wrong_password => refusals::wrong_password([M; 2]);
    missing_password => refusals::missing_password([M; 2]);
    wrong_version => refusals::wrong_version([M; 2]);
    shared_name => refusals::shared_name([M; 3]);
    namesakes => refusals::namesakes([M; 2]);
    connect_to_self => refusals::connect_to_self(M);
    connection_limit => refusals::connection_limit([M; 3]);

    crash_and_return_plain => restarts::restart([M; 3], None, End::Crash);
    crash_and_return_encrypted => restarts::restart([M; 3], PASSWORD, End::Crash);
    stop_and_return => restarts::restart([M; 3], PASSWORD, End::Stop);
    turmoil => restarts::turmoil([M; 4], PASSWORD, seed(1), 20);
    loss_and_return => restarts::loss([M; 3], PASSWORD);
}
