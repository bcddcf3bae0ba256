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
                check_load(&summary);
                assert_eq!(errors.load(Ordering::Relaxed), 0, "errors were logged");
                summary
            })
            .collect()
    })
}

/// There was no message storm.
fn check_load(summary: &Summary) {
    let (peers, degree) = (summary.peers as f64, summary.degree as f64);
    // To each neighbour what is passed on, some ten times a second as it waits for routes, and one's
    // own news; with all the other peers a handshake.
    let peak = 12.0 * degree + 4.0 * peers;
    assert!(f64::from(summary.peak) <= peak, "{summary}");
    assert!(summary.mean <= 20.0, "{summary}");
    // A heartbeat and gossip for each neighbour in half a minute; all of it may fall together.
    assert!(summary.rest_mean <= 2.0 * degree / 30.0, "{summary}");
    assert!(f64::from(summary.rest_peak) <= 2.0 * degree, "{summary}");
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
        // Each host to three of those before it, as far as there are so many.
        assert_eq!((summary.peers, summary.connections), (100, 1 + 2 + 97 * 3));
    }
}

#[test]
fn a_full_mesh_by_discovery() {
    let scenario = Scenario {
        discovery: true,
        conn_limit: 0,
        password: "secret",
        target_count: 1,
        ..Scenario::sparse(30)
    };
    let summaries = run("full mesh", &scenario, |world| {
        start_all(world, 10 * SECOND);
        world.run(30 * SECOND);
        world.partition(3);
        world.run(100 * SECOND);
        world.heal();
        restart_some(world, 5);
        world.break_connections(0.3);
    });
    for summary in summaries {
        assert_eq!((summary.peers, summary.connections), (30, 30 * 29 / 2));
        assert_eq!(summary.diameter, 1);
    }
}

#[test]
fn a_hundred_peers_with_a_connection_limit() {
    let scenario = Scenario {
        discovery: true,
        conn_limit: 8,
        target_count: 2,
        ..Scenario::sparse(100)
    };
    run("limited mesh", &scenario, |world| {
        start_all(world, 20 * SECOND);
        world.run(60 * SECOND);
        restart_some(world, 5);
        world.run(120 * SECOND);
        world.stop_dialling();
    });
}

#[test]
fn everybody_starts_at_once_with_all_the_others_behind_one_name() {
    let scenario = Scenario {
        target_count: 0,
        discovery: true,
        ..Scenario::sparse(20)
    };
    let summaries = run("one name", &scenario, |world| {
        let count = world.host_count();
        world.set_name("peers", &(0..count).collect::<Vec<_>>());
        for host in 0..count {
            world.add_target(host, "peers");
            world.start(host);
        }
    });
    for summary in summaries {
        assert_eq!(summary.connections, 20 * 19 / 2);
    }
}
