//! One round of one system: every metric of the tables.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use crate::interrupt;
use crate::meter::{descendants, resident_mb};
use crate::report::{LIMITED, Sample};
use crate::systems::Stage;
use crate::traffic::{rtt, tcp, udp};

/// Ports of the receiver; each load has its own.
const TCP_PORT: u16 = 5201;
const RTT_PORT: u16 = 5301;
const UDP_PORT: u16 = 5401;
/// Load before anything is measured, so that addresses and path MTU are known and TCP is fast.
const WARM_UP: Duration = Duration::from_secs(1);
/// Bytes of payload for which packet rates are searched, with the key of their metric.
const UDP_SIZES: [(usize, &str); 2] = [(64, "udp64_kpps"), (1200, "udp1200_kpps")];

/// How to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Of each TCP load.
    pub duration: Duration,
    /// Of the round trips.
    pub rtt_duration: Duration,
    /// Whether to search for packet rates, which takes longest.
    pub udp: bool,
    /// Congestion control of TCP.
    pub congestion: String,
}

/// Packet rates found by earlier rounds, by the length of the payload: where to search first.
pub type Guesses = std::collections::BTreeMap<usize, f64>;

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

    let way = tcp::Way {
        client,
        server,
        to: to(TCP_PORT),
        congestion: &plan.congestion,
    };
    let tcp = |streams, duration| tcp::run(way, streams, duration, &routers);
    tcp(1, WARM_UP)?;
    let one = tcp(1, plan.duration)?;
    note("tcp1_gbps", one.gbps());
    if !routers.is_empty() {
        note("router_cpu_s_per_gb", one.per_gb(one.usage.router));
    }
    let own = (one.usage.machine - one.usage.foreign).max(0.0);
    note("machine_cpu_s_per_gb", one.per_gb(own));
    let four = tcp(4, plan.duration)?;
    note("tcp4_gbps", four.gbps());

    interrupt::check()?;
    let trips = rtt::run(client, server, to(RTT_PORT), plan.rtt_duration)?;
    note("rtt_p50_us", trips.p50);
    note("rtt_p99_us", trips.p99);

    if plan.udp {
        for (len, key) in UDP_SIZES {
            let guess = guesses.get(&len).copied();
            let rate = udp::search(client, server, to(UDP_PORT), len, guess)?;
            note(key, rate.pps / 1e3);
            if rate.generator_limited {
                note(&format!("{key}{LIMITED}"), 1.0);
            }
            if rate.pps > 0.0 {
                guesses.insert(len, rate.pps);
            }
        }
    }
    if let Some(first) = routers.first() {
        note("resident_mb", resident_mb(*first)?);
    }
    let foreign = (one.usage.foreign + four.usage.foreign) / (one.usage.wall + four.usage.wall);
    note(crate::report::FOREIGN, foreign);
    Ok(sample)
}
