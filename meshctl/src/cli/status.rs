//! `status`: the original's texts when piped; colours and tables for people.

use std::collections::BTreeMap;

use clap::ValueEnum;
use comfy_table::Cell;
use serde::Deserialize;
use serde_json::Value;

use super::output::{GOOD, LABEL, state_colour};
use super::{Exit, Failure, Global, output};
use crate::client::Client;
use crate::report::{DnsReport, Report};
use crate::text::{self, arrow, printable};

/// Flags of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Only this part
    #[arg(value_enum)]
    topic: Option<Topic>,
}

/// Parts of the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Topic {
    /// Direct peers, as they were given
    Targets,
    /// Own connections, and what is being dialled
    Connections,
    /// All peers of the mesh with the connections they list
    Peers,
    /// Names of containers, of all hosts
    Dns,
    /// Which peer owns how many addresses
    Ipam,
}

impl StatusArgs {
    /// As if the user had asked for this part, or for all.
    pub fn about(topic: Option<Topic>) -> Self {
        Self { topic }
    }

    pub(super) async fn run(&self, global: &Global) -> Result<(), Failure> {
        let client = global.client();
        let path = match self.topic {
            None => "/status",
            Some(Topic::Targets) => "/status/targets",
            Some(Topic::Connections) => "/status/connections",
            Some(Topic::Peers) => "/status/peers",
            Some(Topic::Dns) => "/status/dns",
            Some(Topic::Ipam) => return ipam(global, &client).await,
        };
        if global.json {
            let report = client.report().await?;
            return match self.topic {
                Some(Topic::Targets) => output::print_json(&report.router.targets),
                Some(Topic::Connections) => output::print_json(&report.router.connections),
                Some(Topic::Peers) => output::print_json(&report.router.peers),
                Some(Topic::Dns) => output::print_json(served(&report)?),
                _ => output::print_json(&report),
            };
        }
        if output::on_terminal() {
            let report = client.report().await?;
            return output::print(&match self.topic {
                Some(Topic::Connections) => connections(&report),
                Some(Topic::Peers) => peers(&report),
                Some(Topic::Targets) => text::targets(&report),
                Some(Topic::Dns) => names(&report, served(&report)?),
                _ => format!("\n{}\n", coloured(&text::status(&report))),
            });
        }
        let text = client.text(path, &[]).await?;
        match self.topic {
            None => output::print(&format!("\n{text}\n")),
            Some(_) => output::print(&text),
        }
    }
}

async fn ipam(global: &Global, client: &Client) -> Result<(), Failure> {
    if global.json {
        let report = client.report().await?;
        return output::print_json(&report.ipam.ok_or_else(super::ipam::off)?);
    }
    let report: IpamReport = serde_json::from_str(&client.report_json().await?)?;
    let Some(status) = report.ipam else {
        return Err(super::ipam::off());
    };
    if output::on_terminal() {
        let own = &report.router.name;
        return output::print(&shares(&serde_json::from_value(status)?, own));
    }
    output::print(&client.text("/status/ipam", &[]).await?)
}

/// What the report says about addresses, as far as the table shows it.
#[derive(Debug, Deserialize)]
struct IpamReport {
    #[serde(rename = "IPAM", default)]
    ipam: Option<Value>,
    #[serde(rename = "Router")]
    router: Own,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Own {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Allocation {
    range: String,
    #[serde(rename = "RangeNumIPs")]
    range_size: u32,
    #[serde(rename = "ActiveIPs")]
    active_count: u32,
    paxos: Option<Paxos>,
    entries: Option<Vec<Entry>>,
    pending_claims: Option<Vec<Value>>,
    pending_allocates: Option<Vec<String>>,
    save_error: Option<String>,
    quorum_warning: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Paxos {
    elector: bool,
    known_nodes: usize,
    quorum: usize,
}

/// A part of the range and its owner, as the report has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry {
    pub(super) size: u32,
    pub(super) peer: String,
    pub(super) nickname: String,
    pub(super) is_known_peer: bool,
}

/// Who owns how much, ourselves first, and what keeps anybody waiting.
fn shares(status: &Allocation, own: &str) -> String {
    let mut owners: BTreeMap<(bool, &str), (u64, &Entry)> = BTreeMap::new();
    for entry in status.entries.iter().flatten() {
        let owner = owners.entry((entry.peer != own, &entry.peer));
        owner.or_insert((0, entry)).0 += u64::from(entry.size);
    }
    let mut text = String::new();
    if owners.is_empty() {
        text = match &status.paxos {
            Some(paxos) if paxos.elector => format!(
                "{} is not divided yet: awaiting consensus (quorum: {}, known: {})\n",
                status.range, paxos.quorum, paxos.known_nodes
            ),
            _ => format!(
                "{} is not divided yet: that is done when the first address is asked for\n",
                status.range
            ),
        };
    } else {
        let mut table = output::table(&["PEER", "NICKNAME", "ADDRESSES", "SHARE", "IN USE", ""]);
        for ((other, peer), (size, entry)) in owners {
            let permille = size * 1000 / u64::from(status.range_size).max(1);
            let in_use = if other {
                String::new()
            } else {
                status.active_count.to_string()
            };
            let reachable = if other && !entry.is_known_peer {
                Cell::new("unreachable").fg(comfy_table::Color::Red)
            } else {
                Cell::new("")
            };
            table.add_row([
                Cell::new(peer),
                Cell::new(printable(&entry.nickname)),
                Cell::new(size),
                Cell::new(format!("{}.{} %", permille / 10, permille % 10)),
                Cell::new(in_use),
                reachable,
            ]);
        }
        text.push_str(&format!("{table}\n"));
    }
    let waiting = status.pending_allocates.iter().flatten().count();
    let claims = status.pending_claims.iter().flatten().count();
    if waiting + claims > 0 {
        text.push_str(&format!("waiting: {waiting} requests, {claims} claims\n"));
    }
    for trouble in [&status.save_error, &status.quorum_warning]
        .into_iter()
        .flatten()
    {
        text.push_str(&format!("{}\n", printable(trouble)));
    }
    text
}

/// The text of `status` with its labels set off.
fn coloured(text: &str) -> String {
    let mut coloured = String::with_capacity(text.len() * 2);
    for line in text.lines() {
        match line.split_once(": ") {
            Some((label, "enabled")) => {
                coloured.push_str(&format!("{LABEL}{label}:{LABEL:#} {GOOD}enabled{GOOD:#}"));
            }
            Some((label, value)) => {
                coloured.push_str(&format!("{LABEL}{label}:{LABEL:#} {value}"));
            }
            None => coloured.push_str(line),
        }
        coloured.push('\n');
    }
    coloured
}

fn connections(report: &Report) -> String {
    let headings = [
        "", "ADDRESS", "STATE", "PEER", "OVERLAY", "MTU", "RECEIVED", "SENT", "NOTE",
    ];
    let mut table = output::table(&headings);
    for conn in &report.router.connections {
        let peer = match (&conn.peer, &conn.nick_name) {
            (Some(name), Some(nickname)) => format!("{name}({})", printable(nickname)),
            _ => String::new(),
        };
        let links = &report.meshctl.links;
        let link = links
            .iter()
            .find(|link| Some(&link.peer) == conn.peer.as_ref());
        let overlay = link.map_or_else(String::new, |link| {
            let sealed = if link.encrypted { "encrypted" } else { "plain" };
            format!("{} {sealed}", link.overlay)
        });
        let note = match (&conn.error, &conn.retry_at) {
            (Some(error), Some(at)) => format!("{}, retry: {at}", printable(error)),
            (Some(error), None) => printable(error).into_owned(),
            _ => String::new(),
        };
        let of_link =
            |text: fn(&crate::report::Link) -> String| link.map_or_else(String::new, text);
        table.add_row([
            Cell::new(arrow(conn.outbound)),
            Cell::new(printable(&conn.address)),
            Cell::new(&conn.state).fg(state_colour(&conn.state)),
            Cell::new(peer),
            Cell::new(overlay),
            Cell::new(of_link(|link| link.mtu.to_string())),
            Cell::new(of_link(|link| output::bytes(link.traffic.rx_bytes))),
            Cell::new(of_link(|link| output::bytes(link.traffic.tx_bytes))),
            Cell::new(note),
        ]);
    }
    format!("{table}\n")
}

fn served(report: &Report) -> Result<&DnsReport, Failure> {
    report.dns.as_ref().ok_or_else(|| {
        Failure::new(Exit::NotServed, "the daemon serves no names")
            .hint("it was launched with --no-dns")
    })
}

fn names(report: &Report, dns: &DnsReport) -> String {
    let mut table = output::table(&["NAME", "ADDRESS", "CONTAINER", "HOST"]);
    for entry in dns.live() {
        let peers = &report.router.peers;
        let origin = peers.iter().find(|peer| peer.name == entry.origin);
        let nickname = origin.map_or("", |peer| peer.nick_name.as_str());
        table.add_row([
            Cell::new(printable(dns.short(&entry.hostname))),
            Cell::new(&entry.address),
            Cell::new(printable(&entry.container_id)),
            Cell::new(format!("{}({})", entry.origin, printable(nickname))),
        ]);
    }
    format!("{table}\n")
}

fn peers(report: &Report) -> String {
    let mut table = output::table(&["PEER", "NICKNAME", "", "CONNECTED TO", "ADDRESS", "STATE"]);
    for peer in &report.router.peers {
        let mut name = (Cell::new(&peer.name), Cell::new(printable(&peer.nick_name)));
        if peer.connections.is_empty() {
            table.add_row([name.0, name.1]);
            continue;
        }
        for conn in &peer.connections {
            let state = if conn.established {
                "established"
            } else {
                "pending"
            };
            let (own, nickname) = std::mem::replace(&mut name, (Cell::new(""), Cell::new("")));
            table.add_row([
                own,
                nickname,
                Cell::new(arrow(conn.outbound)),
                Cell::new(format!("{}({})", conn.name, printable(&conn.nick_name))),
                Cell::new(printable(&conn.address)),
                Cell::new(state).fg(state_colour(state)),
            ]);
        }
    }
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn allocation(changes: &Value) -> Allocation {
        let mut status = json!({
            "Paxos": null, "Range": "10.32.0.0/12", "RangeNumIPs": 1_048_576, "ActiveIPs": 2,
            "DefaultSubnet": "10.32.0.0/12", "Entries": null, "PendingClaims": null,
            "PendingAllocates": null,
        });
        for (key, value) in changes.as_object().unwrap() {
            status[key] = value.clone();
        }
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn owners_are_shown_once_and_ourselves_first() {
        let entry = |peer: &str, size: u32, known: bool| {
            json!({"Token": "10.32.0.0", "Size": size, "Peer": peer, "Nickname": "n",
                   "IsKnownPeer": known, "Version": 0})
        };
        let entries = [
            entry("a", 262_144, true),
            entry("b", 524_288, true),
            entry("c", 131_072, false),
            entry("a", 131_072, true),
        ];
        let status = allocation(&json!({"Entries": entries, "PendingAllocates": ["x"]}));
        let text = shares(&status, "b");
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(
            lines[1].starts_with('b') && lines[1].contains("50.0 %"),
            "{text}"
        );
        assert!(
            lines[2].starts_with('a') && lines[2].contains("393216"),
            "{text}"
        );
        assert!(
            lines[3].starts_with('c') && lines[3].contains("unreachable"),
            "{text}"
        );
        assert_eq!(lines[4], "waiting: 1 requests, 0 claims");
    }

    #[test]
    fn a_range_that_nobody_owns() {
        let text = shares(&allocation(&json!({})), "b");
        assert!(text.contains("when the first address"), "{text}");
        let paxos = json!({"Elector": true, "KnownNodes": 1, "Quorum": 2});
        let trouble = json!({"Paxos": paxos, "SaveError": "no space"});
        let text = shares(&allocation(&trouble), "b");
        assert!(text.contains("(quorum: 2, known: 1)\nno space"), "{text}");
    }
}
