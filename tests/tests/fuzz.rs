//! Replays the golden bytes and mutations of them through every fuzz target.
//!
//! `MESHCTL_FUZZ_RUNS=n` sets the number of mutated inputs per target, `MESHCTL_SEED=n` the seed,
//! `MESHCTL_FUZZ_TARGET=name` leaves out all targets but one.
#![allow(
    clippy::expect_used,
    reason = "in a test, a panic with a message is how a failure is reported"
)]

use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::fuzz::{TARGETS, mutate, seeds};

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn no_target_panics() {
    let seeds = seeds(&Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors"));
    assert!(seeds.len() > 100, "only {} seeds", seeds.len());
    let runs = number("MESHCTL_FUZZ_RUNS", 20_000);
    let seed = number("MESHCTL_SEED", 1);
    println!("MESHCTL_SEED={seed} MESHCTL_FUZZ_RUNS={runs}");
    let only = std::env::var("MESHCTL_FUZZ_TARGET").ok();
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only == name);
    assert!(TARGETS.iter().any(|(name, _)| wanted(name)), "{only:?}");
    for (name, target) in TARGETS.iter().filter(|(name, _)| wanted(name)) {
        for seed in &seeds {
            target(seed);
        }
        let mut rng = StdRng::seed_from_u64(seed);
        // What passed once is mutated further now and then, so that damage accumulates.
        let mut pool = seeds.clone();
        for _ in 0..runs {
            let mut input = pool[rng.random_range(0..pool.len())].clone();
            let other = &seeds[rng.random_range(0..seeds.len())];
            mutate(&mut input, other, &mut rng);
            target(&input);
            if rng.random_range(0..16) == 0 {
                let place = rng.random_range(0..pool.len());
                pool[place] = input;
            }
        }
        println!("{name}: {} seeds, {runs} mutations", seeds.len());
    }
}
