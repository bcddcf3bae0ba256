//! `status`: the original's texts when piped; colours and tables for people.

use clap::ValueEnum;
use comfy_table::Cell;

use super::output::{GOOD, LABEL, state_colour};
use super::{Exit, Failure, Global, output};
use crate::report::Report;
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
    /// Names (not in this version)
    #[value(hide = true)]
    Dns,
    /// Addresses (not in this version)
    #[value(hide = true)]
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
            Some(Topic::Dns) => return Err(not_here("dns", "the name server")),
            Some(Topic::Ipam) => return Err(not_here("ipam", "the address allocator")),
        };
        if global.json {
            let report = client.report().await?;
            return match self.topic {
                Some(Topic::Targets) => output::print_json(&report.router.targets),
                Some(Topic::Connections) => output::print_json(&report.router.connections),
                Some(Topic::Peers) => output::print_json(&report.router.peers),
                _ => output::print_json(&report),
            };
        }
        if output::on_terminal() {
            let report = client.report().await?;
            return output::print(&match self.topic {
                Some(Topic::Connections) => connections(&report),
                Some(Topic::Peers) => peers(&report),
                Some(Topic::Targets) => text::targets(&report),
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

fn not_here(topic: &str, service: &str) -> Failure {
    Failure::new(
        Exit::NotServed,
        format!("\"status {topic}\" is about {service}, which this version lacks"),
    )
    .hint("the topics are targets, connections and peers")
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
