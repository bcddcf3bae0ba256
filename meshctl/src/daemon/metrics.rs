//! Metrics, in the OpenMetrics text format.
//!
//! Names that begin with `weave_` are Weave Net's, with its labels; those of services that are not
//! there are left out. Names that begin with `meshctl_` are our own: traffic, MTU and state by
//! neighbour, drops by reason, and the size of what the router keeps.
//!
//! Source: feature inventory, section 5.4.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::AtomicU64;

use ipam::status::Status as Allocation;
use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use router::status::{LinkStatus, RouterStatus};

use super::dns::NameService;
use crate::report::state;

/// Media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Names and values.
pub(super) type Labels = Vec<(String, String)>;

/// The metrics of one moment.
pub fn encode(
    status: &RouterStatus,
    ipam: Option<&Allocation>,
    names: Option<&NameService>,
    version: &str,
) -> String {
    let mut registry = Registry::default();
    original(&mut registry, status);
    if let Some(ipam) = ipam {
        allocation(&mut registry, ipam);
    }
    by_neighbour(&mut registry, status);
    totals(&mut registry, status);
    if let Some(names) = names {
        super::dns::metrics::register(&mut registry, names, status);
    }
    process(&mut registry, version);
    let mut text = String::new();
    // A String takes everything.
    let _ = encode_text(&mut text, &registry);
    text
}

fn original(registry: &mut Registry, status: &RouterStatus) {
    let mut counts: BTreeMap<(&str, &str), [i64; 2]> = BTreeMap::new();
    for conn in &status.mesh.connections {
        let overlay = conn.link.as_ref().map_or("unknown", |link| link.overlay);
        let counts = counts.entry((state(conn.state), overlay)).or_default();
        counts[usize::from(conn.encrypted == Some(true))] += 1;
    }
    let connections = Family::<Labels, Gauge>::default();
    for ((state, overlay), [plain, sealed]) in counts {
        for (encryption, count) in [("", plain), ("yes", sealed)] {
            let labels = [
                ("state", state),
                ("type", overlay),
                ("encryption", encryption),
            ];
            connections.get_or_create(&self::labels(&labels)).set(count);
        }
    }
    registry.register(
        "weave_connections",
        "Number of peer-to-peer connections",
        connections,
    );
    let terminations = Counter::<u64>::default();
    terminations.inc_by(status.mesh.terminations);
    registry.register(
        "weave_connection_terminations",
        "Number of peer-to-peer connections terminated",
        terminations,
    );
}

fn allocation(registry: &mut Registry, ipam: &Allocation) {
    let used = Family::<Labels, Gauge>::default();
    let labels = labels(&[("state", "local-used")]);
    used.get_or_create(&labels).set(ipam.active_count.into());
    registry.register("weave_ips", "Number of IP addresses", used);
    let shares = ipam.shares();
    let unreachable = shares.iter().filter(|share| !share.is_reachable);
    for (name, help, value) in [
        (
            "weave_max_ips",
            "Size of IP address space used by allocator",
            i64::from(ipam.range_size),
        ),
        (
            "weave_ipam_pending_allocates",
            "Number of pending allocates",
            count(ipam.pending_allocates.len()),
        ),
        (
            "weave_ipam_pending_claims",
            "Number of pending claims",
            count(ipam.pending_claims.len()),
        ),
        (
            "weave_ipam_unreachable_count",
            "Number of unreachable peers",
            count(unreachable.count()),
        ),
        (
            "meshctl_ipam_ring_entries",
            "Entries of the ring",
            count(ipam.entries.len()),
        ),
        (
            "meshctl_ipam_save_failing",
            "Whether nothing can be given out because nothing can be saved",
            ipam.save_error.is_some().into(),
        ),
        (
            "meshctl_ipam_quorum_conflict",
            "Whether others agreed on the ring with fewer peers than it takes here",
            ipam.quorum_warning.is_some().into(),
        ),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
    let percentage = Gauge::<f64, AtomicU64>::default();
    percentage.set(ipam.unreachable_percentage().into());
    registry.register(
        "weave_ipam_unreachable_percentage",
        "Percentage of IP addresses owned by unreachable peers",
        percentage,
    );
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn by_neighbour(registry: &mut Registry, status: &RouterStatus) {
    let nicknames: BTreeMap<_, _> = (status.mesh.peers.iter())
        .map(|peer| (peer.name, peer.nickname.as_str()))
        .collect();
    let of = |link: &LinkStatus| {
        let peer = link.peer.to_string();
        let nickname = nicknames.get(&link.peer).copied().unwrap_or("");
        labels(&[
            ("peer", peer.as_str()),
            ("nickname", nickname),
            ("overlay", link.overlay),
        ])
    };
    let counter = |value: fn(&LinkStatus) -> u64| {
        let family = Family::<Labels, Counter>::default();
        for link in &status.data.links {
            family.get_or_create(&of(link)).inc_by(value(link));
        }
        family
    };
    let gauge = |value: fn(&LinkStatus) -> i64| {
        let family = Family::<Labels, Gauge>::default();
        for link in &status.data.links {
            family.get_or_create(&of(link)).set(value(link));
        }
        family
    };
    registry.register(
        "meshctl_peer_received_frames",
        "Frames received from a neighbour",
        counter(|link| link.traffic.rx_frames),
    );
    registry.register_with_unit(
        "meshctl_peer_received",
        "Bytes of frames received from a neighbour",
        Unit::Bytes,
        counter(|link| link.traffic.rx_bytes),
    );
    registry.register(
        "meshctl_peer_sent_frames",
        "Frames sent to a neighbour",
        counter(|link| link.traffic.tx_frames),
    );
    registry.register_with_unit(
        "meshctl_peer_sent",
        "Bytes of frames sent to a neighbour",
        Unit::Bytes,
        counter(|link| link.traffic.tx_bytes),
    );
    registry.register_with_unit(
        "meshctl_peer_mtu",
        "Largest IP packet that reaches a neighbour in one datagram",
        Unit::Bytes,
        gauge(|link| link.mtu.into()),
    );
    registry.register(
        "meshctl_peer_established",
        "Whether the overlay to a neighbour works",
        gauge(|link| link.established.into()),
    );
    registry.register(
        "meshctl_peer_fallback",
        "Whether frames to a neighbour travel by another overlay than the best that both know",
        gauge(|link| link.fallback.is_some().into()),
    );
}

fn totals(registry: &mut Registry, status: &RouterStatus) {
    let drops = Family::<Labels, Counter>::default();
    for (reason, count) in &status.data.drops {
        drops
            .get_or_create(&labels(&[("reason", reason)]))
            .inc_by(*count);
    }
    registry.register(
        "meshctl_drops",
        "Frames and datagrams dropped, by reason",
        drops,
    );
    let local = status.data.local;
    for (name, help, value) in [
        (
            "meshctl_bridge_received_frames",
            "Frames taken from the bridge",
            local.rx_frames,
        ),
        (
            "meshctl_bridge_received_bytes",
            "Bytes of frames taken from the bridge",
            local.rx_bytes,
        ),
        (
            "meshctl_bridge_sent_frames",
            "Frames given to the bridge",
            local.tx_frames,
        ),
        (
            "meshctl_bridge_sent_bytes",
            "Bytes of frames given to the bridge",
            local.tx_bytes,
        ),
    ] {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    for (name, help, value) in [
        (
            "meshctl_peers",
            "Peers known, this one included",
            status.mesh.peers.len(),
        ),
        (
            "meshctl_macs",
            "MAC addresses known",
            status.data.macs.len(),
        ),
        ("meshctl_targets", "Direct peers", status.mesh.targets.len()),
        (
            "meshctl_routes",
            "Peers that can be reached",
            status.mesh.unicast_routes.len(),
        ),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(count(value));
        registry.register(name, help, gauge);
    }
}

fn process(registry: &mut Registry, version: &str) {
    registry.register(
        "meshctl_build",
        "Version of the daemon",
        Info::new(labels(&[("version", version)])),
    );
    // Field 2: resident pages.
    let resident = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| {
            let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
            i64::try_from(pages * rustix::param::page_size() as u64).ok()
        });
    if let Some(resident) = resident {
        let gauge = Gauge::<i64>::default();
        gauge.set(resident);
        let help = "Resident memory size in bytes";
        registry.register("process_resident_memory_bytes", help, gauge);
    }
}

/// Labels of a metric.
pub(super) fn labels(labels: &[(&str, impl Display)]) -> Labels {
    (labels.iter())
        .map(|(name, value)| ((*name).to_owned(), value.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tests::{allocating, alone, busy};

    fn lines(text: &str, prefix: &str) -> Vec<String> {
        let with = text.lines().filter(|line| line.starts_with(prefix));
        with.map(str::to_owned).collect()
    }

    #[test]
    fn connections_are_counted_as_the_original_does() {
        let text = encode(&busy(), None, None, "0.1.0");
        let mut lines = lines(&text, "weave_");
        lines.sort();
        assert_eq!(
            lines,
            [
                r#"weave_connection_terminations_total 0"#,
                r#"weave_connections{state="connecting",type="unknown",encryption=""} 1"#,
                r#"weave_connections{state="connecting",type="unknown",encryption="yes"} 0"#,
                r#"weave_connections{state="established",type="sleeve",encryption=""} 0"#,
                r#"weave_connections{state="established",type="sleeve",encryption="yes"} 1"#,
                r#"weave_connections{state="failed",type="unknown",encryption=""} 2"#,
                r#"weave_connections{state="failed",type="unknown",encryption="yes"} 0"#,
                r#"weave_connections{state="pending",type="sleeve",encryption=""} 1"#,
                r#"weave_connections{state="pending",type="sleeve",encryption="yes"} 0"#,
                r#"weave_connections{state="retrying",type="unknown",encryption=""} 1"#,
                r#"weave_connections{state="retrying",type="unknown",encryption="yes"} 0"#,
            ]
        );
    }

    #[test]
    fn neighbours_and_drops_have_their_own() {
        let mut status = busy();
        status.mesh.peers[1].nickname = "ho\"st\n2".to_owned();
        let text = encode(&status, None, None, "0.1.0");
        let peer = r#"{peer="00:00:00:00:00:02",nickname="ho\"st\n2",overlay="sleeve"}"#;
        for line in [
            format!("meshctl_peer_received_bytes_total{peer} 100"),
            format!("meshctl_peer_sent_frames_total{peer} 2"),
            format!("meshctl_peer_mtu_bytes{peer} 1414"),
            r#"meshctl_drops_total{reason="queue_full"} 4"#.to_owned(),
            "meshctl_macs 1".to_owned(),
            "meshctl_bridge_received_frames_total 10".to_owned(),
            r#"meshctl_build_info{version="0.1.0"} 1"#.to_owned(),
        ] {
            assert!(text.lines().any(|own| own == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert_eq!(lines(&text, "process_resident_memory_bytes ").len(), 1);
    }

    #[test]
    fn allocation_has_the_metrics_of_the_original() {
        let text = encode(&alone(), Some(&allocating()), None, "0.1.0");
        let mut lines = lines(&text, "weave_");
        lines.sort();
        assert_eq!(
            lines,
            [
                "weave_connection_terminations_total 0",
                "weave_ipam_pending_allocates 1",
                "weave_ipam_pending_claims 0",
                "weave_ipam_unreachable_count 1",
                "weave_ipam_unreachable_percentage 50.0",
                r#"weave_ips{state="local-used"} 2"#,
                "weave_max_ips 256",
            ]
        );
    }

    #[test]
    fn a_host_alone_has_no_connections() {
        let text = encode(&alone(), None, None, "0.1.0");
        assert_eq!(
            lines(&text, "weave_"),
            ["weave_connection_terminations_total 0"]
        );
        assert_eq!(lines(&text, "meshctl_peers"), ["meshctl_peers 1"]);
    }
}
