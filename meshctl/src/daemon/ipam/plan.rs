//! What taking over the ranges of a peer would do, for people and programs.

use std::fmt;

use ipam::allocator::TakeOverPlan;
use serde::Serialize;

use super::Ipam;
use crate::text::printable;

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Plan {
    /// Who was asked about.
    who: String,
    /// The peer, if anybody knows it.
    peer: Option<String>,
    /// What people call it.
    nickname: String,
    /// The ranges that would become ours, as subnets.
    ranges: Vec<String>,
    /// How many addresses those are.
    #[serde(rename = "NumIPs")]
    address_count: u64,
    /// Why it is refused unless forced.
    refusal: Option<String>,
    /// Other owners out of reach. If one of them got space from the peer that we have not heard of,
    /// and is alive, there would be two owners.
    unheard: Vec<String>,
}

impl Plan {
    pub(super) fn new(ipam: &Ipam, who: String) -> Self {
        let TakeOverPlan {
            peer,
            nickname,
            ranges,
            refusal,
            unheard,
        } = ipam.plan_take_over(&who);
        Self {
            who,
            peer: peer.map(|peer| peer.to_string()),
            nickname,
            ranges: ranges
                .iter()
                .flat_map(|range| range.subnets())
                .map(|subnet| subnet.to_string())
                .collect(),
            address_count: ranges.iter().map(|range| u64::from(range.size())).sum(),
            refusal: refusal.map(|refusal| refusal.to_string()),
            unheard: unheard.iter().map(ToString::to_string).collect(),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = printable(&self.who);
        let Some(peer) = &self.peer else {
            writeln!(f, "rmpeer {who}: no peer is known by this name")?;
            return match &self.refusal {
                Some(refusal) => writeln!(f, "refused: {}", printable(refusal)),
                None => Ok(()),
            };
        };
        let count = self.address_count;
        let nickname = printable(&self.nickname);
        writeln!(
            f,
            "rmpeer {who}: {count} IPs would be taken over from {peer}({nickname})"
        )?;
        for range in &self.ranges {
            writeln!(f, "  {range}")?;
        }
        if let Some(refusal) = &self.refusal {
            writeln!(f, "refused unless forced: {}", printable(refusal))?;
        }
        if !self.unheard.is_empty() {
            writeln!(
                f,
                "out of reach as well: {}; what {peer} may have given them lately is not known here",
                self.unheard.join(", ")
            )?;
        }
        Ok(())
    }
}
