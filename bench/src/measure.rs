//! One round of one system: every metric of the tables.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::interrupt;
use crate::meter::{Meter, descendants, resident_mb};
use crate::report::{FOREIGN, LIMITED, Results, Sample};
use crate::systems::Stage;
use crate::traffic::{rtt, tcp, udp};

/// Ports of the receiver; each load has its own.
const TCP_PORT: u16 = 5201;
const RTT_PORT: u16 = 5301;
const UDP_PORT: u16 = 5401;
const STEADY_PORT: u16 = 5501;
/// Load before anything is measured, so that addresses and path MTU are known and TCP is fast.
const WARM_UP: Duration = Duration::from_secs(1);
/// Bytes of payload for which packet rates are searched, with the key of their metric.
const UDP_SIZES: [(usize, &str); 2] = [(64, "udp64_kpps"), (1200, "udp1200_kpps")];

/// Length of the datagrams of a steady rate.
const STEADY_LEN: usize = 1200;

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Load {
    /// One TCP stream, then four, and what they cost.
    Tcp,
    /// Round trips.
    Rtt,
    /// The highest packet rates without loss; takes longest.
    Udp,
}

/// How to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What to put on.
    pub loads: Vec<Load>,
    /// Of each TCP load.
    pub duration: Duration,
    /// Of the round trips.
    pub rtt_duration: Duration,
    /// Datagrams of 1200 bytes per second to send besides, for as long as a TCP load, and to count
    /// the loss of.
    pub steady: Option<f64>,
    /// Congestion control of TCP.
    pub congestion: String,
}

/// Packet rates found by earlier rounds, by metric: where to search first.
pub type Guesses = BTreeMap<&'static str, f64>;

/// Guesses from what earlier runs have found.
pub fn guesses(results: &Results, system: &str) -> Guesses {
    let of = |(_, key)| Some((key, results.median(system, key)? * 1e3));
    UDP_SIZES.into_iter().filter_map(of).collect()
}

/// Takes every metric once.
pub fn round(stage: &Stage, plan: &Plan, guesses: &mut Guesses) -> Result<Sample> {
    let mut sample = Sample::new();
    let mut note = |key: &str, value: f64| sample.insert(key.to_owned(), value);
    let (client, server) = (stage.client(), stage.server());
    let to = |port| SocketAddr::from((stage.server_address(), port));
    let routers: Vec<u32> = stage
        .routers()
        .iter()
        .copied()
        .flat_map(descendants)
        .collect();
    let whole = Meter::start(&routers)?;

    let way = tcp::Way {
        client,
        server,
        to: to(TCP_PORT),
        congestion: &plan.congestion,
    };
    let tcp = |streams, duration| tcp::run(way, streams, duration, &routers);
    tcp(1, WARM_UP)?;
    if plan.loads.contains(&Load::Tcp) {
        let one = tcp(1, plan.duration)?;
        note("tcp1_gbps", one.gbps());
        if !routers.is_empty() {
            note("router_cpu_s_per_gb", one.per_gb(one.usage.router));
        }
        let own = (one.usage.machine - one.usage.foreign).max(0.0);
        note("machine_cpu_s_per_gb", one.per_gb(own));
        note("tcp4_gbps", tcp(4, plan.duration)?.gbps());
    }
    interrupt::check()?;
    if plan.loads.contains(&Load::Rtt) {
        let trips = rtt::run(client, server, to(RTT_PORT), plan.rtt_duration)?;
        note("rtt_p50_us", trips.p50);
        note("rtt_p99_us", trips.p99);
    }
    if let Some(rate) = plan.steady {
        let before = stage.dropped();
        let to = to(STEADY_PORT);
        let steady = udp::probe(client, server, to, STEADY_LEN, rate, plan.duration)?;
        note("steady_lost_ppm", steady.loss * 1e6);
        if let (Some(before), Some(after)) = (before, stage.dropped()) {
            note("steady_dropped", count(after - before));
        }
        ensure!(
            steady.sent_per_second > rate * 0.9,
            "the generator cannot send {rate} datagrams per second"
        );
    }
    if plan.loads.contains(&Load::Udp) {
        for (len, key) in UDP_SIZES {
            let guess = guesses.get(key).copied();
            let rate = udp::search(client, server, to(UDP_PORT), len, guess)?;
            note(key, rate.pps / 1e3);
            if rate.generator_limited {
                note(&format!("{key}{LIMITED}"), 1.0);
            }
            if rate.pps > 0.0 {
                guesses.insert(key, rate.pps);
            }
        }
    }
    if let Some(first) = routers.first() {
        note("resident_mb", resident_mb(*first)?);
    }
    let usage = whole.stop()?;
    note(FOREIGN, usage.foreign / usage.wall);
    Ok(sample)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn count(packets: u64) -> f64 {
    packets as f64
}
