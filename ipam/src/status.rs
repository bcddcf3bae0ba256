//! What people are shown.
//!
//! [`Status`] serialises as the `IPAM` object of the report, from which it can be read back but for
//! the own name; [`Status::summary`] and
//! [`Status::shares_text`] are the texts of `status` and `status ipam`.
//!
//! Source: IPAM protocol, section 15.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use proto::PeerName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::range::{Address, Cidr};

/// The state of an allocator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Status {
    /// How far the agreement on the first ring is, while it is sought.
    pub paxos: Option<PaxosStatus>,
    /// The universe.
    pub range: Cidr,
    /// Number of addresses in it.
    #[serde(rename = "RangeNumIPs")]
    pub range_size: u32,
    /// Number of our addresses in use.
    #[serde(rename = "ActiveIPs")]
    pub active_count: u32,
    /// Where addresses come from if no subnet is asked for.
    pub default_subnet: Cidr,
    /// The ring.
    #[serde(serialize_with = "null_if_empty", deserialize_with = "empty_if_null")]
    pub entries: Vec<EntryStatus>,
    /// Claims that wait.
    #[serde(serialize_with = "null_if_empty", deserialize_with = "empty_if_null")]
    pub pending_claims: Vec<ClaimStatus>,
    /// Requests for addresses that wait, as `identifier subnet`.
    #[serde(serialize_with = "null_if_empty", deserialize_with = "empty_if_null")]
    pub pending_allocates: Vec<String>,
    /// Our own name.
    #[serde(skip)]
    pub name: PeerName,
    /// Why nothing can be saved, and so nothing be given out, if that is so.
    #[serde(rename = "SaveError", default, skip_serializing_if = "Option::is_none")]
    pub save_error: Option<String>,
    /// How many peers it takes here to agree upon the first ring, as long as there is none and we
    /// have a say.
    #[serde(rename = "Quorum", default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<usize>,
    /// What is odd about the quorum, if anything is.
    #[serde(
        rename = "QuorumWarning",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub quorum_warning: Option<String>,
}

/// The agreement on the first ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PaxosStatus {
    /// Whether we vote.
    pub elector: bool,
    /// How many electors we know of.
    pub known_nodes: usize,
    /// How many it takes.
    pub quorum: usize,
}

/// One range of the ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EntryStatus {
    /// First address.
    pub token: Address,
    /// Number of addresses.
    pub size: u32,
    /// Owner.
    #[serde(deserialize_with = "from_text")]
    pub peer: PeerName,
    /// What people call the owner; empty if not known.
    pub nickname: String,
    /// Whether the owner can be reached.
    pub is_known_peer: bool,
    /// Version of the entry.
    pub version: u32,
}

/// A claim that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimStatus {
    /// For whom.
    #[serde(rename = "Ident")]
    pub ident: String,
    /// Of what.
    #[serde(
        rename = "CIDR",
        serialize_with = "cidr_in_parts",
        deserialize_with = "cidr_of_parts"
    )]
    pub cidr: Cidr,
}

fn null_if_empty<T: Serialize, S: Serializer>(list: &[T], to: S) -> Result<S::Ok, S::Error> {
    if list.is_empty() {
        to.serialize_none()
    } else {
        list.serialize(to)
    }
}

fn empty_if_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn from_text<'de, D: Deserializer<'de>>(from: D) -> Result<PeerName, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(serde::de::Error::custom)
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CidrParts {
    addr: Address,
    prefix_len: u8,
}

fn cidr_in_parts<S: Serializer>(cidr: &Cidr, to: S) -> Result<S::Ok, S::Error> {
    let parts = CidrParts {
        addr: cidr.address,
        prefix_len: cidr.prefix_len(),
    };
    parts.serialize(to)
}

fn cidr_of_parts<'de, D: Deserializer<'de>>(from: D) -> Result<Cidr, D::Error> {
    let parts = CidrParts::deserialize(from)?;
    Ok(Cidr::new(parts.addr, parts.prefix_len))
}

/// What one peer owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The peer.
    pub peer: PeerName,
    /// What people call it.
    pub nickname: String,
    /// Number of its addresses.
    pub size: u32,
    /// Whether it can be reached.
    pub is_reachable: bool,
}

impl Status {
    /// The state in a few words.
    pub fn summary(&self) -> String {
        let reachable = |entry: &EntryStatus| entry.size > 0 && entry.is_known_peer;
        if !self.entries.is_empty() {
            let text = if !self.entries.iter().any(reachable) {
                "all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead"
            } else if !self.pending_allocates.is_empty() {
                "waiting for IP(s) to become available"
            } else {
                "ready"
            };
            return text.to_owned();
        }
        match self.paxos {
            Some(PaxosStatus {
                elector: true,
                known_nodes,
                quorum,
            }) => format!("awaiting consensus (quorum: {quorum}, known: {known_nodes})"),
            Some(_) => "priming".to_owned(),
            None => "idle".to_owned(),
        }
    }

    /// Fills in nicknames that owners have not told yet, from what else is known.
    pub fn name_owners(&mut self, nickname: impl Fn(PeerName) -> Option<String>) {
        for entry in &mut self.entries {
            if entry.nickname.is_empty()
                && let Some(nickname) = nickname(entry.peer)
            {
                entry.nickname = nickname;
            }
        }
    }

    /// What each peer owns, ourselves first.
    pub fn shares(&self) -> Vec<Share> {
        let mut shares = BTreeMap::<(bool, PeerName), Share>::new();
        for entry in &self.entries {
            let share = shares.entry((entry.peer != self.name, entry.peer));
            let share = share.or_insert_with(|| Share {
                peer: entry.peer,
                nickname: entry.nickname.clone(),
                size: 0,
                is_reachable: entry.is_known_peer,
            });
            share.size += entry.size;
        }
        shares.into_values().collect()
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "shown with one digit, as the original reckons it"
    )]
    fn percentage(&self, count: u32) -> f32 {
        count as f32 * 100.0 / self.range_size as f32
    }

    /// What each peer owns, one line for each.
    pub fn shares_text(&self) -> String {
        let mut text = String::new();
        for share in self.shares() {
            let Share {
                peer,
                nickname,
                size,
                ..
            } = &share;
            let info = if *peer == self.name {
                format!("({} active)", self.active_count)
            } else if share.is_reachable {
                String::new()
            } else {
                "- unreachable!".to_owned()
            };
            let name = format!("{peer}({nickname})");
            let percentage = self.percentage(*size);
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{name:<37} {size:>8} IPs ({percentage:04.1}% of total) {info}"
            );
        }
        text
    }

    /// Number of addresses that belong to peers out of reach.
    pub fn unreachable_count(&self) -> u32 {
        let unreachable = self.entries.iter().filter(|entry| !entry.is_known_peer);
        unreachable.map(|entry| entry.size).sum()
    }

    /// The same in percent of all addresses.
    pub fn unreachable_percentage(&self) -> f32 {
        self.percentage(self.unreachable_count())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(token: &str, size: u32, peer: &str, nickname: &str, known: bool) -> EntryStatus {
        EntryStatus {
            token: token.parse().unwrap(),
            size,
            peer: peer.parse().unwrap(),
            nickname: nickname.to_owned(),
            is_known_peer: known,
            version: 3,
        }
    }

    fn status() -> Status {
        Status {
            paxos: None,
            range: "10.32.0.0/12".parse().unwrap(),
            range_size: 1 << 20,
            active_count: 0,
            default_subnet: "10.32.0.0/12".parse().unwrap(),
            entries: Vec::new(),
            pending_claims: Vec::new(),
            pending_allocates: Vec::new(),
            name: "2::b".parse().unwrap(),
            save_error: None,
            quorum: None,
            quorum_warning: None,
        }
    }

    #[test]
    fn summaries() {
        let mut status = status();
        assert_eq!(status.summary(), "idle");
        let mut paxos = PaxosStatus {
            elector: false,
            known_nodes: 1,
            quorum: 2,
        };
        status.paxos = Some(paxos);
        assert_eq!(status.summary(), "priming");
        paxos.elector = true;
        status.paxos = Some(paxos);
        assert_eq!(status.summary(), "awaiting consensus (quorum: 2, known: 1)");
        status.entries = vec![entry("10.32.0.0", 9, "2::a", "host-a", false)];
        assert_eq!(
            status.summary(),
            "all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead"
        );
        status
            .entries
            .push(entry("10.32.0.9", 7, "2::b", "host-b", true));
        assert_eq!(status.summary(), "ready");
        status.pending_allocates.push("c 10.32.0.0/12".to_owned());
        assert_eq!(status.summary(), "waiting for IP(s) to become available");
    }

    #[test]
    fn one_line_for_each_owner() {
        let mut status = status();
        assert_eq!(status.shares_text(), "");
        status.active_count = 2;
        status.entries = vec![
            entry("10.32.0.0", 1 << 18, "2::a", "host-a", false),
            entry("10.36.0.0", 1 << 18, "2::b", "host-b", true),
            entry("10.40.0.0", 1 << 18, "2::b", "host-b", true),
            entry("10.44.0.0", 1 << 15, "2::c", "", true),
        ];
        assert_eq!(
            status.shares_text(),
            "02:00:00:00:00:0b(host-b)               524288 IPs (50.0% of total) (2 active)\n\
             02:00:00:00:00:0a(host-a)               262144 IPs (25.0% of total) - unreachable!\n\
             02:00:00:00:00:0c()                      32768 IPs (03.1% of total) \n"
        );
        status.name_owners(|peer| Some(format!("nick-{peer}")));
        assert_eq!(status.entries[0].nickname, "host-a");
        assert_eq!(status.entries[3].nickname, "nick-02:00:00:00:00:0c");
        assert_eq!(status.unreachable_count(), 1 << 18);
        assert!((status.unreachable_percentage() - 25.0).abs() < 1e-6);
    }

    #[test]
    fn report() {
        let mut status = status();
        assert_eq!(
            serde_json::to_value(&status).unwrap(),
            json!({
                "Paxos": null, "Range": "10.32.0.0/12", "RangeNumIPs": 1_048_576, "ActiveIPs": 0,
                "DefaultSubnet": "10.32.0.0/12", "Entries": null, "PendingClaims": null,
                "PendingAllocates": null,
            })
        );
        status.paxos = Some(PaxosStatus {
            elector: true,
            known_nodes: 1,
            quorum: 2,
        });
        status.entries = vec![entry("10.32.0.0", 16, "2::a", "host-a", true)];
        status.pending_claims = vec![ClaimStatus {
            ident: "c".to_owned(),
            cidr: "10.32.0.1/12".parse().unwrap(),
        }];
        status.pending_allocates = vec!["c 10.32.0.0/12".to_owned()];
        let report = serde_json::to_value(&status).unwrap();
        let mut read: Status = serde_json::from_value(report.clone()).unwrap();
        read.name = status.name;
        assert_eq!(read, status);
        assert_eq!(
            report["Paxos"],
            json!({"Elector": true, "KnownNodes": 1, "Quorum": 2})
        );
        assert_eq!(
            report["Entries"],
            json!([{
                "Token": "10.32.0.0", "Size": 16, "Peer": "02:00:00:00:00:0a",
                "Nickname": "host-a", "IsKnownPeer": true, "Version": 3,
            }])
        );
        assert_eq!(
            report["PendingClaims"],
            json!([{"Ident": "c", "CIDR": {"Addr": "10.32.0.1", "PrefixLen": 12}}])
        );
        assert_eq!(report["PendingAllocates"], json!(["c 10.32.0.0/12"]));
    }
}
