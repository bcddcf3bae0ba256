//! Traffic of all kinds between hosts whose TAP devices differ, byte for byte.

use tests::cases::{PASSWORD, stations, traffic};
use tests::{as_root, seed};

/// One test per line.
macro_rules! cases {
    ($($name:ident => $case:expr;)*) => {
        $(#[test] fn $name() { as_root(|| $case); })*
    };
}

cases! {
    offload_to_offload => traffic::all_kinds(["offload", "offload"], true, PASSWORD, seed(1));
    offload_to_offload_plain => traffic::all_kinds(["offload", "offload"], true, None, seed(2));
    offload_to_offload_from_containers_without => traffic::all_kinds(["offload", "offload"], false, PASSWORD, seed(3));
    offload_to_plain => traffic::all_kinds(["offload", "plain"], true, PASSWORD, seed(4));
    plain_to_offload => traffic::all_kinds(["plain", "offload"], true, PASSWORD, seed(5));
    plain_to_plain => traffic::all_kinds(["plain", "plain"], true, PASSWORD, seed(6));

    captured_offload_to_offload => stations::capture(["offload", "offload"], PASSWORD, seed(7));
    captured_plain_to_offload => stations::capture(["plain", "offload"], None, seed(8));
    captured_offload_to_plain => stations::capture(["offload", "plain"], PASSWORD, seed(9));
}
