//! Meshes of up to a hundred peers in virtual time: whatever happens to them, afterwards every peer
//! knows the truth.
//!
//! `MESHCTL_SEED` repeats a run; `MESHCTL_SIM_RUNS` makes each case run so many times, with
//! successive seeds. Every run prints its seed and what it cost.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test reports by panics, and prints the seed with which to repeat it"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use tests::sim::{Death, Scenario, Summary, World};
use tracing_subscriber::layer::{Context, SubscriberExt as _};

const SECOND: Duration = Duration::from_secs(1);

/// Counts errors in the log: there must be none.
struct Errors(Arc<AtomicU64>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Errors {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == tracing::Level::ERROR {
            self.0.fetch_add(1, Ordering::Relaxed);
            eprintln!("logged: {event:?}");
        }
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::ERROR)
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// Runs a case with one or more seeds, and checks that all peers agree with the truth in the end.
fn run(case: &str, scenario: &Scenario, play: impl Fn(&mut World)) -> Vec<Summary> {
    let errors = Arc::new(AtomicU64::new(0));
    let subscriber = tracing_subscriber::registry().with(Errors(errors.clone()));
    let first = number("MESHCTL_SEED").unwrap_or(1);
    let seeds = first..first + number("MESHCTL_SIM_RUNS").unwrap_or(1);
    tracing::subscriber::with_default(subscriber, || {
        seeds
            .map(|seed| {
                println!("{case}: MESHCTL_SEED={seed}");
                let mut world = World::new(scenario.clone(), seed);
                play(&mut world);
                let summary = match world.settle(600 * SECOND) {
                    Ok(summary) => summary,
                    Err(error) => panic!("{case}, MESHCTL_SEED={seed}: {error}"),
                };
                println!("{case}: {summary}");
                assert_eq!(errors.load(Ordering::Relaxed), 0, "errors were logged");
                summary
            })
            .collect()
    })
}

/// Starts all hosts within `time`.
fn start_all(world: &mut World, time: Duration) {
    let count = world.host_count();
    for host in 0..count {
        world.start(host);
        world.run(time / u32::try_from(count).expect("few hosts"));
    }
}

/// Restarts some hosts, one after the other.
fn restart_some(world: &mut World, count: usize) {
    for _ in 0..count {
        let host_count = world.host_count();
        let host = world.rng().random_range(0..host_count);
        let death = if world.rng().random() {
            Death::Stop
        } else {
            Death::PowerFailure
        };
        world.stop(host, death);
        let down = world.rng().random_range(0.1..20.0);
        world.run(Duration::from_secs_f64(down));
        world.start(host);
        let up = world.rng().random_range(0.0..5.0);
        world.run(Duration::from_secs_f64(up));
    }
}

#[test]
fn a_hundred_peers_through_loss_partition_and_restarts() {
    let scenario = Scenario::sparse(100);
    let summaries = run("sparse mesh", &scenario, |world| {
        start_all(world, 10 * SECOND);
        world.run(30 * SECOND);
        world.break_connections(0.2);
        world.run(10 * SECOND);
        restart_some(world, 10);
        world.partition(2);
        world.run(90 * SECOND);
        world.heal();
        world.run(20 * SECOND);
        restart_some(world, 5);
    });
    for summary in summaries {
        assert_eq!(summary.peers, 100);
    }
}
