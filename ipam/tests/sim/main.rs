//! Whole meshes of allocators in virtual time, with everything that can go wrong.
//!
//! Each run is made by its seed alone: up to 20 peers; messages that are lost, delayed out of
//! order and repeated; partitions; crashes at any moment, also between a transaction's start and
//! its end; disks that fail; peers that die for good and are taken over, or are reset and come
//! back. After every event it is checked that
//!
//! * no address is in the ranges of two peers, as each sees its own,
//! * no address has been given to two containers, as they were told,
//! * ring, space and addresses given out of the peer concerned fit together, and no version of an
//!   entry has gone back.
//!
//! In the end the faults stop, and every peer must come to the same ring, and every request to its
//! end if a quorum and space exist.
//!
//! `MESHCTL_SIM_RUNS` sets the number of runs. `MESHCTL_SEED` repeats the run of that seed, or as
//! many from there on; `MESHCTL_SIM_TRACE=1` prints every event.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test"
)]

use std::sync::atomic::{AtomicU64, Ordering};

mod checks;
mod clients;
mod network;
mod operator;
mod world;

/// Runs of a plain `cargo test`.
const DEFAULT_RUNS: u64 = 2000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect(variable))
}

/// Names the seed if its run fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("failed: MESHCTL_SEED={} MESHCTL_SIM_TRACE=1", self.0);
        }
    }
}

#[test]
fn no_address_twice() {
    let first = number("MESHCTL_SEED");
    let runs = number("MESHCTL_SIM_RUNS");
    let runs = runs.unwrap_or(if first.is_some() { 1 } else { DEFAULT_RUNS });
    let first = first.unwrap_or(1);
    let trace = number("MESHCTL_SIM_TRACE").is_some_and(|level| level > 0);
    println!("seeds {first} to {}", first + runs.saturating_sub(1));
    let next = AtomicU64::new(0);
    let totals = std::sync::Mutex::new(world::Totals::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let run = next.fetch_add(1, Ordering::Relaxed);
                    if run >= runs {
                        return;
                    }
                    let seed = Seed(first + run);
                    let done = world::World::new(seed.0, trace).run();
                    totals.lock().unwrap().add(&done);
                }
            });
        }
    });
    println!("{:#?}", totals.lock().unwrap());
}
