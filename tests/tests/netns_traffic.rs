//! Traffic of all kinds between hosts whose devices differ, byte for byte, by each overlay.

use tests::cases::{PASSWORD, stations, traffic};
use tests::{as_root, seed};

/// One test per line.
macro_rules! cases {
    ($($name:ident => $case:expr;)*) => {
        $(#[test] fn $name() { as_root(|| $case); })*
    };
}

cases! {
    segments_are_joined => traffic::joined_by_ports(true);
    segments_are_left_alone => traffic::joined_by_ports(false);
}

/// The same by an overlay.
macro_rules! overlay {
    ($name:ident, $overlays:expr) => {
        mod $name {
            use super::*;

            const OFFLOAD: &[&str] = &["--tap=offload", "--overlays", $overlays];
            const PLAIN: &[&str] = &["--tap", "plain", "--overlays", $overlays];
            const NOTHING: &[&str] = &[
                "--tap",
                "plain",
                "--udp-offload=false",
                "--overlays",
                $overlays,
            ];

            cases! {
                offload_to_offload => traffic::all_kinds([OFFLOAD, OFFLOAD], true, PASSWORD, seed(1));
                offload_to_offload_open => traffic::all_kinds([OFFLOAD, OFFLOAD], true, None, seed(2));
                containers_without => traffic::all_kinds([OFFLOAD, OFFLOAD], false, PASSWORD, seed(3));
                offload_to_plain => traffic::all_kinds([OFFLOAD, PLAIN], true, PASSWORD, seed(4));
                plain_to_offload => traffic::all_kinds([PLAIN, OFFLOAD], true, PASSWORD, seed(5));
                no_offloads_at_all => traffic::all_kinds([NOTHING, NOTHING], true, PASSWORD, seed(6));

                captured_offload_to_offload => stations::capture([OFFLOAD, OFFLOAD], PASSWORD, seed(7));
                captured_plain_to_offload => stations::capture([PLAIN, OFFLOAD], None, seed(8));
                captured_offload_to_plain => stations::capture([OFFLOAD, PLAIN], PASSWORD, seed(9));
            }
        }
    };
}

overlay!(sleeve, "sleeve");
// What its datagrams cannot take goes by sleeve.
overlay!(shuttle, "shuttle,sleeve");
