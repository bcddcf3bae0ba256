//! Whole-system tests: what they have in common.
//!
//! [`lab`] builds hosts and containers out of network namespaces, [`node`] runs daemons in them,
//! [`cases`] says what has to work, for any mixture of ours and the original. The tests themselves
//! are in `tests/`: `netns_*` runs the cases with ours alone, `interop` with either side swapped
//! for the original, whose path is taken from `WEAVER`.
//!
//! [`fuzz`] holds the fuzz targets. All else needs root. Failures are panics, as in any test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, a panic with a message is how a failure is reported"
)]

pub mod cases;
pub mod dig;
pub mod fuzz;
pub mod http;
pub mod lab;
pub mod node;
pub mod sim;
pub mod units;
pub mod wait;
pub mod weather;

use std::io::Write as _;
use std::str::FromStr;

/// Set to let tests that need root be skipped.
const NO_ROOT: &str = "MESHCTL_TESTS_NO_ROOT";

/// Runs a test that needs root. Without it the test fails, or is skipped where that was asked for.
#[track_caller]
pub fn as_root(test: impl FnOnce()) {
    if rustix::process::geteuid().is_root() {
        test();
    } else if std::env::var_os(NO_ROOT).is_some() {
        skip("it needs root");
    } else {
        panic!("network namespaces need root; set {NO_ROOT}=1 to skip the tests that use them");
    }
}

/// Runs a test that needs root and the original, or says that it is skipped.
#[track_caller]
pub fn with_weaver(test: impl FnOnce()) {
    if node::weaver().is_some() {
        as_root(test);
    } else {
        skip("WEAVER does not name the original's program");
    }
}

/// The seed of a test: this one, or the one in `MESHCTL_SEED`.
pub fn seed(default: u64) -> u64 {
    number_from("MESHCTL_SEED", default)
}

/// A number from the environment, or this one.
pub fn number_from<T: FromStr>(variable: &str, default: T) -> T {
    let Ok(text) = std::env::var(variable) else {
        return default;
    };
    let number = text.parse().ok();
    number.unwrap_or_else(|| panic!("{variable} is no number: {text:?}"))
}

/// Says so past the test harness, which would swallow what a passing test prints.
fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("test");
    // Nobody is there to tell when standard error is closed.
    _ = writeln!(std::io::stderr(), "{test}: skipped, {reason}");
}
