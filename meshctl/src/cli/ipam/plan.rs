//! `ipam plan`: what would happen to addresses, without doing it.

use clap::Subcommand;
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::off;
use crate::cli::status::Entry;
use crate::cli::{Failure, Global, output};
use crate::client::Client;
use crate::form;
use crate::text::printable;

/// What would be done.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// What "rmpeer PEER" would take over, and whether it would be refused
    Rmpeer {
        /// Name or nickname of a host
        #[arg(value_name = "PEER")]
        peer: String,
    },
    /// To whom "reset" would hand over the addresses of this host
    Reset,
}

impl Verb {
    pub(super) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Rmpeer { peer } => rmpeer(global, client, &peer).await,
            Self::Reset => reset(global, client).await,
        }
    }
}

async fn rmpeer(global: &Global, client: &Client, peer: &str) -> Result<(), Failure> {
    let path = format!("/peer/{}/plan", form::segment(peer));
    let accept = global.json.then_some("application/json");
    let answer = client.call(Method::GET, &path, accept, &[]).await?;
    if answer.status == 404 {
        return Err(off());
    }
    let text = answer.text(&path)?;
    if global.json {
        let plan: Value = serde_json::from_str(&text)?;
        return output::print_json(&plan);
    }
    output::print(&text)
}

async fn reset(global: &Global, client: &Client) -> Result<(), Failure> {
    let report: Report = serde_json::from_str(&client.report_json().await?)?;
    let plan = report.plan().ok_or_else(off)?;
    if global.json {
        return output::print_json(&plan);
    }
    output::print(&plan.text())
}

/// What the report says, as far as it matters.
#[derive(Debug, Deserialize)]
struct Report {
    #[serde(rename = "IPAM", default)]
    ipam: Option<Allocation>,
    #[serde(rename = "Router")]
    router: Router,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Allocation {
    #[serde(rename = "ActiveIPs")]
    active_count: u32,
    entries: Option<Vec<Entry>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Router {
    name: String,
    peers: Vec<Peer>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Peer {
    name: String,
    nick_name: String,
}

/// What a reset would do.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Plan {
    /// How many addresses would change hands.
    #[serde(rename = "NumIPs")]
    address_count: u64,
    /// How many of those are in use here.
    #[serde(rename = "ActiveIPs")]
    active_count: u32,
    /// Who would get them.
    heir: Option<String>,
    /// What people call it.
    nickname: String,
    /// Whether it can be reached.
    in_reach: bool,
}

impl Report {
    /// The heir is chosen as the allocator does it: an owner in reach, or anyone in reach, or an
    /// owner at all.
    fn plan(&self) -> Option<Plan> {
        let status = self.ipam.as_ref()?;
        let own = &self.router.name;
        let entries = status.entries.as_deref().unwrap_or_default();
        let (ours, others): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.peer == *own);
        let of_entry = |entry: &&Entry| (entry.peer.clone(), entry.nickname.clone());
        let alive = others
            .iter()
            .find(|entry| entry.is_known_peer)
            .map(of_entry);
        let in_reach = alive.or_else(|| {
            let peers = self.router.peers.iter().filter(|peer| peer.name != *own);
            let first = peers.min_by_key(|peer| &peer.name)?;
            Some((first.name.clone(), first.nick_name.clone()))
        });
        let is_in_reach = in_reach.is_some();
        let heir = in_reach.or_else(|| others.first().map(of_entry));
        let (heir, nickname) = heir.unzip();
        Some(Plan {
            address_count: ours.iter().map(|entry| u64::from(entry.size)).sum(),
            active_count: status.active_count,
            heir,
            nickname: nickname.unwrap_or_default(),
            in_reach: is_in_reach,
        })
    }
}

impl Plan {
    fn text(&self) -> String {
        let (count, active) = (self.address_count, self.active_count);
        if count == 0 {
            return "reset: this host owns no addresses to hand over\n".to_owned();
        }
        let mut text = match &self.heir {
            Some(heir) => format!(
                "reset: {count} IPs would be handed over to {heir}({}){}\n",
                printable(&self.nickname),
                if self.in_reach {
                    ""
                } else {
                    ", which cannot be reached now"
                }
            ),
            None => format!("reset: nobody is known who could get the {count} IPs of this host\n"),
        };
        if active > 0 {
            text.push_str(&format!(
                "{active} of them are in use on this host; they would be given out again\n"
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(entries: &[(&str, u32, bool)], peers: &[&str]) -> Plan {
        let entries = entries.iter().map(|(peer, size, known)| {
            json!({"Size": size, "Peer": peer, "Nickname": peer, "IsKnownPeer": known})
        });
        let peers = peers
            .iter()
            .map(|peer| json!({"Name": peer, "NickName": peer}));
        let report = json!({
            "IPAM": {"ActiveIPs": 2, "Entries": entries.collect::<Value>()},
            "Router": {"Name": "us", "Peers": peers.collect::<Value>()},
        });
        serde_json::from_value::<Report>(report)
            .unwrap()
            .plan()
            .unwrap()
    }

    #[test]
    fn heirs() {
        let ours = ("us", 8, true);
        for (entries, peers, heir, in_reach) in [
            (
                &[ours, ("a", 4, false), ("b", 4, true)][..],
                &["us", "b", "c"][..],
                Some("b"),
                true,
            ),
            (&[ours, ("a", 4, false)], &["us", "d", "c"], Some("c"), true),
            (&[ours, ("a", 4, false)], &["us"], Some("a"), false),
            (&[ours], &["us"], None, false),
        ] {
            let plan = plan(entries, peers);
            assert_eq!(
                (plan.heir.as_deref(), plan.in_reach),
                (heir, in_reach),
                "{entries:?}"
            );
            assert_eq!((plan.address_count, plan.active_count), (8, 2));
        }
    }

    #[test]
    fn texts() {
        let text = plan(&[("us", 8, true), ("a", 4, false)], &["us"]).text();
        let expected = "reset: 8 IPs would be handed over to a(a), which cannot be reached now\n\
                        2 of them are in use on this host; they would be given out again\n";
        assert_eq!(text, expected);
        let text = plan(&[("us", 8, true)], &["us"]).text();
        assert!(text.starts_with("reset: nobody is known"), "{text}");
        let text = plan(&[("a", 8, true)], &["us"]).text();
        assert!(text.contains("no addresses"), "{text}");
    }

    #[test]
    fn without_allocation_there_is_no_plan() {
        let report = json!({"Router": {"Name": "us", "Peers": []}});
        let report: Report = serde_json::from_value(report).unwrap();
        assert!(report.plan().is_none());
    }
}
