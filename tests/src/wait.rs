//! Waiting for a condition: polled, with a deadline, and with the last reason in the failure.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for anything that should happen soon, on a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(50);

/// Looks again and again until there is a result. The test fails, with the last reason, when there
/// is none within [`PATIENCE`].
#[track_caller]
pub fn until<T, E: Display>(what: &str, look: impl FnMut() -> Result<T, E>) -> T {
    until_within(PATIENCE, what, look)
}

/// As [`until`], with a patience of its own.
#[track_caller]
pub fn until_within<T, E: Display>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    let started = Instant::now();
    loop {
        match look() {
            Ok(result) => return result,
            Err(reason) if started.elapsed() >= patience => {
                panic!(
                    "waited {} s for {what}; at last: {reason}",
                    patience.as_secs()
                );
            }
            Err(_) => thread::sleep(INTERVAL),
        }
    }
}

/// For conditions without a result: `Ok` when it holds, otherwise the reason.
pub fn check(holds: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason()) }
}
