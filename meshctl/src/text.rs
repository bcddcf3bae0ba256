//! The status texts, to the letter of Weave Net 2.8.1.
//!
//! What came from other peers is made printable first: a nickname must not move the cursor of the
//! terminal that shows it, nor add a line that a script would read.
//!
//! Source: feature inventory, sections 5.1 and 5.2.

use std::borrow::Cow;
use std::fmt::Write as _;

use ipam::status::Status as Allocation;
use serde_json::Value;

use crate::report::{Connection, DnsReport, OwnDns, Report};

/// The states of connections, in the order in which they are counted.
const STATES: [&str; 5] = ["established", "pending", "retrying", "failed", "connecting"];

/// `status` without a topic.
pub fn status(report: &Report) -> String {
    let router = &report.router;
    let protocol = if router.protocol_min_version == router.protocol_max_version {
        router.protocol_max_version.to_string()
    } else {
        format!(
            "{}..{}",
            router.protocol_min_version, router.protocol_max_version
        )
    };
    let on = |flag| if flag { "enabled" } else { "disabled" };
    let connections = counts(STATES.map(|state| {
        let with = |conn: &&Connection| conn.state == state;
        (state, router.connections.iter().filter(with).count())
    }));
    let connections = match connections.as_str() {
        "" => String::new(),
        counts => format!(" ({counts})"),
    };
    let listed = || router.peers.iter().flat_map(|peer| &peer.connections);
    let established = listed().filter(|conn| conn.established).count();
    let peers = counts([
        ("established", established),
        ("pending", listed().count() - established),
    ]);
    let peers = match peers.as_str() {
        "" => String::new(),
        counts => format!(" (with {counts} connections)"),
    };
    let subnets = if router.trusted_subnets.is_empty() {
        "none".to_owned()
    } else {
        router.trusted_subnets.join(", ")
    };
    let mut text = format!(
        "        Version: {version} (version check update disabled)

        Service: router
       Protocol: {name} {protocol}
           Name: {peer}({nickname})
     Encryption: {encryption}
  PeerDiscovery: {discovery}
        Targets: {targets}
    Connections: {connection_count}{connections}
          Peers: {peer_count}{peers}
 TrustedSubnets: {subnets}
",
        version = report.version,
        name = router.protocol,
        peer = router.name,
        nickname = printable(&router.nick_name),
        encryption = on(router.encryption),
        discovery = on(router.peer_discovery),
        targets = router.targets.len(),
        connection_count = router.connections.len(),
        peer_count = router.peers.len(),
    );
    if let Some(ipam) = &report.ipam {
        allocation(&mut text, ipam);
    }
    if let Some(names) = &report.dns {
        dns(&mut text, names, report.meshctl.dns.as_ref());
    }
    text
}

/// The lines about allocation; those about what is wrong are our own.
fn allocation(text: &mut String, ipam: &Allocation) {
    let _ = write!(
        text,
        "
        Service: ipam
         Status: {}
          Range: {}
  DefaultSubnet: {}
",
        ipam.summary(),
        ipam.range,
        ipam.default_subnet,
    );
    for wrong in ipam.quorum_warning.iter().chain(&ipam.save_error) {
        let _ = writeln!(text, "        Warning: {}", printable(wrong));
    }
}

/// `status ipam`; a line about what is wrong is our own.
pub fn ipam(ipam: &Allocation) -> String {
    let mut ipam = ipam.clone();
    for entry in &mut ipam.entries {
        entry.nickname = printable(&entry.nickname).into_owned();
    }
    let mut text = ipam.shares_text();
    if let Some(wrong) = &ipam.save_error {
        let _ = writeln!(text, "Warning: {}", printable(wrong));
    }
    text
}

/// The lines about names; those about what is wrong are our own.
fn dns(text: &mut String, dns: &DnsReport, own: Option<&OwnDns>) {
    let upstream = if dns.upstream.is_empty() {
        "none".to_owned()
    } else {
        dns.upstream.join(", ")
    };
    let _ = write!(
        text,
        "
        Service: dns
         Domain: {domain}
       Upstream: {upstream}
            TTL: {ttl}
        Entries: {count}
",
        domain = dns.domain,
        ttl = dns.ttl,
        count = dns.live().count(),
    );
    let Some(own) = own else {
        return;
    };
    if let Some(problem) = &own.problem {
        let _ = writeln!(text, "        Address: none, {problem}");
    }
    for clock in own.clocks.iter().filter(|clock| clock.wrong) {
        let _ = writeln!(
            text,
            "      ClockSkew: {}({}) is {} s {}",
            clock.peer,
            printable(&clock.nick_name),
            clock.offset.unsigned_abs(),
            if clock.offset < 0 { "behind" } else { "ahead" },
        );
    }
}

/// `status dns`.
pub fn names(report: &Report) -> String {
    let mut text = String::new();
    let Some(dns) = &report.dns else {
        return text;
    };
    for entry in dns.live() {
        let _ = writeln!(
            text,
            "{:<12} {:<15} {:>12.12} {}",
            printable(dns.short(&entry.hostname)),
            entry.address,
            printable(&entry.container_id),
            entry.origin,
        );
    }
    text
}

/// `status targets`.
pub fn targets(report: &Report) -> String {
    let mut text = String::new();
    for target in &report.router.targets {
        let _ = writeln!(text, "{}", printable(target));
    }
    text
}

/// `status connections`.
pub fn connections(report: &Report) -> String {
    let mut text = String::new();
    for conn in &report.router.connections {
        let _ = writeln!(
            text,
            "{} {:<21} {:<11} {} {}",
            arrow(conn.outbound),
            printable(&conn.address),
            conn.state,
            printable(&conn.info),
            attributes(conn),
        );
    }
    text
}

/// `status peers`.
pub fn peers(report: &Report) -> String {
    let mut text = String::new();
    for peer in &report.router.peers {
        let _ = writeln!(text, "{}({})", peer.name, printable(&peer.nick_name));
        for conn in &peer.connections {
            let _ = writeln!(
                text,
                "   {} {:<21} {:<37} {}",
                arrow(conn.outbound),
                printable(&conn.address),
                format!("{}({})", conn.name, printable(&conn.nick_name)),
                if conn.established {
                    "established"
                } else {
                    "pending"
                },
            );
        }
    }
    text
}

/// `->` if we, or the peer that is spoken of, dialled.
pub fn arrow(outbound: bool) -> &'static str {
    if outbound { "->" } else { "<-" }
}

/// `text` without control characters.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        Cow::Owned(text.replace(char::is_control, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Sorted `key=value`, one straight after the other, as the original has it.
fn attributes(conn: &Connection) -> String {
    let (mut text, mut own) = (String::new(), String::new());
    for (key, value) in conn.attrs.iter().flatten() {
        let _ = match (key.as_str(), value) {
            ("name", _) => Ok(()),
            ("cipher", Value::String(value)) => write!(own, " cipher={}", printable(value)),
            ("fallback", Value::String(value)) => write!(own, " fallback={:?}", printable(value)),
            (key, Value::String(value)) => write!(text, "{key}={}", printable(value)),
            (key, value) => write!(text, "{key}={value}"),
        };
    }
    text + &own
}

fn counts<const N: usize>(counts: [(&str, usize); N]) -> String {
    let texts: Vec<_> = (counts.iter())
        .filter(|(_, count)| *count > 0)
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    texts.join(", ")
}

#[cfg(test)]
pub mod tests;
