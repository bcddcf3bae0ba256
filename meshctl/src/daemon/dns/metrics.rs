//! Metrics about names and queries.
//!
//! `weave_dns_entries` is the original's and counts, as there, this host's own names.
//!
//! Source: feature inventory, section 5.4.

use std::collections::BTreeMap;

use dns::stats::{LATENCY_BOUNDS_US, Stats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use router::status::RouterStatus;

use super::NameService;
use crate::daemon::metrics::{Labels, labels};

/// Adds the metrics of this moment.
pub fn register(registry: &mut Registry, service: &NameService, status: &RouterStatus) {
    let (own, all) = service.names().counts();
    for (name, help, value) in [
        ("weave_dns_entries", "Number of DNS entries", own),
        ("meshctl_dns_entries", "Names of all hosts", all),
        (
            "meshctl_dns_listening",
            "Whether queries are answered",
            usize::from(service.address().is_some()),
        ),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    let refused = Counter::<u64>::default();
    refused.inc_by(service.names().refused());
    registry.register(
        "meshctl_dns_refused_updates",
        "Updates of other peers that could not be read",
        refused,
    );
    let nicknames: BTreeMap<_, _> = (status.mesh.peers.iter())
        .map(|peer| (peer.name, peer.nickname.as_str()))
        .collect();
    let clocks = Family::<Labels, Gauge>::default();
    for clock in service.names().clocks() {
        let peer = clock.peer.to_string();
        let nickname = nicknames.get(&clock.peer).copied().unwrap_or("");
        let labels = labels(&[("peer", peer.as_str()), ("nickname", nickname)]);
        clocks.get_or_create(&labels).set(clock.offset);
    }
    registry.register_with_unit(
        "meshctl_dns_clock_offset",
        "By how much the clock of a peer is ahead of ours; the way of its last message counts in",
        Unit::Seconds,
        clocks,
    );
    let stats = service.stats();
    let queries = Family::<Labels, Counter>::default();
    for (kind, outcome, count) in stats.iter() {
        let labels = labels(&[("kind", kind.label()), ("result", outcome.label())]);
        queries.get_or_create(&labels).inc_by(count);
    }
    registry.register(
        "meshctl_dns_queries",
        "Queries, by kind and result",
        queries,
    );
    registry.register_collector(Box::new(Latency(stats)));
}

/// A histogram that is filled already.
#[derive(Debug)]
struct Latency(Stats);

impl Collector for Latency {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let encoder = encoder.encode_descriptor(
            "meshctl_dns_latency",
            "Time from query to answer",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        EncodeMetric::encode(self, encoder)
    }
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let seconds = |micros: u64| micros as f64 / 1e6;
        let bounds = LATENCY_BOUNDS_US.iter().map(|bound| seconds(*bound));
        let buckets: Vec<(f64, u64)> = bounds
            .chain([f64::MAX])
            .zip(self.0.latency_buckets.iter().copied())
            .collect();
        let count = self.0.latency_buckets.iter().sum();
        encoder.encode_histogram::<NoLabelSet>(
            seconds(self.0.latency_sum_us),
            count,
            &buckets,
            None,
        )
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
