//! What each host needs to agree upon the first ring, told to all others.
//!
//! The original's hosts do not tell, and come to different rings if they reckon with different
//! numbers of peers. So ours tell each other, on a gossip channel of their own that the original's
//! hosts merely pass on, and warn people before it is too late. Nothing depends on it.
//!
//! A payload is JSON: one list `[name, stamp, quorum, chosen]` for each host that the sender knows
//! of, itself included. `stamp` is when the host said so, in milliseconds since 1970 by its own
//! clock, and made to grow; the greatest counts. `quorum` is 0 for a host that has a ring, or no
//! say. `chosen` tells whether somebody has chosen the number of peers, or it was guessed. What
//! cannot be read is ignored.
//!
//! Two rings can come about if the two hosts that need the fewest votes can get them from different
//! hosts. And whoever has chosen a number meant all hosts to have the same.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use proto::PeerName;
use proto::gossip::{GossipChannel, GossipData, GossipRefused};

/// Name of the gossip channel.
pub const CHANNEL: &str = "meshctl-quorum";

/// Most hosts that are remembered.
const MAX_HOSTS: usize = 4096;

/// What a host needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    /// How many votes; 0: none.
    pub(super) quorum: u64,
    /// Whether somebody has chosen the number.
    pub(super) chosen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    stamp: u64,
    need: Need,
}

type Table = BTreeMap<PeerName, Told>;

/// What all hosts need, as far as we know. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Quorums(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    me: PeerName,
    hosts: Table,
    /// The hosts that can be reached; what others have said does not count.
    members: BTreeSet<PeerName>,
    /// What was warned of last.
    warned: Option<String>,
}

impl Quorums {
    pub(super) fn new(me: PeerName) -> Self {
        Self(Arc::new(Mutex::new(State {
            me,
            hosts: Table::new(),
            members: BTreeSet::new(),
            warned: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What we need ourselves. Returns what to tell others, if that is new.
    pub(super) fn set_own(&self, need: Need) -> Option<Box<dyn GossipData>> {
        let mut state = self.lock();
        let me = state.me;
        let old = state.hosts.get(&me).copied();
        if old.map_or(need.quorum == 0, |old| old.need == need) {
            return None;
        }
        let stamp = old.map_or(0, |old| old.stamp + 1).max(unix_millis());
        let told = Told { stamp, need };
        state.hosts.insert(me, told);
        state.warn();
        Some(Box::new(Delta([(me, told)].into())))
    }

    /// Who can be reached now.
    pub(super) fn set_members(&self, members: BTreeSet<PeerName>) {
        let mut state = self.lock();
        let me = state.me;
        state
            .hosts
            .retain(|peer, _| *peer == me || members.contains(peer));
        state.members = members;
        state.warn();
    }

    /// What people should know.
    pub(super) fn warning(&self) -> Option<String> {
        self.lock().warning()
    }

    /// Takes what another says. Returns what was new in it.
    fn merge(&self, payload: &[u8]) -> Option<Box<dyn GossipData>> {
        let theirs = decode(payload)?;
        let mut state = self.lock();
        let mut new = Table::new();
        for (peer, mut told) in theirs {
            let full = state.hosts.len() >= MAX_HOSTS;
            match state.hosts.get(&peer) {
                Some(known) if known.stamp >= told.stamp => continue,
                // What we have said in an earlier life.
                Some(known) if peer == state.me => {
                    told.need = known.need;
                    told.stamp = told.stamp.saturating_add(1);
                }
                None if peer == state.me || full => continue,
                _ => {}
            }
            state.hosts.insert(peer, told);
            new.insert(peer, told);
        }
        if new.is_empty() {
            return None;
        }
        state.warn();
        Some(Box::new(Delta(new)))
    }
}

impl State {
    fn warning(&self) -> Option<String> {
        let ours = self.hosts.get(&self.me)?.need;
        if ours.quorum == 0 {
            return None;
        }
        let mut votes: Vec<(u64, bool, PeerName)> = self
            .hosts
            .iter()
            .filter(|(peer, _)| **peer == self.me || self.members.contains(peer))
            .filter(|(_, told)| told.need.quorum > 0)
            .map(|(peer, told)| (told.need.quorum, told.need.chosen, *peer))
            .collect();
        votes.sort_unstable();
        let [(one, _, first), (other, _, second), ..] = votes[..] else {
            return None;
        };
        let advice = "give all hosts the same --ipalloc-init consensus=N";
        let count = votes.len();
        if one.saturating_add(other) <= count as u64 {
            return Some(format!(
                "two rings may come about: {first} needs {one} and {second} needs {other} of the \
                 votes of {count} hosts to divide the range; {advice}"
            ));
        }
        let chosen = votes.iter().any(|(_, chosen, _)| *chosen);
        let differs = votes.iter().find(|(quorum, _, _)| *quorum != ours.quorum);
        let (quorum, _, peer) = differs.filter(|_| chosen)?;
        Some(format!(
            "{peer} needs the votes of {quorum} hosts to divide the range, and this host needs {}; \
             {advice}",
            ours.quorum
        ))
    }

    /// Logs what people should know, once.
    fn warn(&mut self) {
        let warning = self.warning();
        if let Some(warning) = &warning
            && self.warned.as_ref() != Some(warning)
        {
            tracing::warn!("{warning}");
        }
        self.warned = warning.or(self.warned.take());
    }
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

fn decode(payload: &[u8]) -> Option<Table> {
    let list: Vec<(String, u64, u64, bool)> = serde_json::from_slice(payload).ok()?;
    let hosts = list.into_iter().map(|(peer, stamp, quorum, chosen)| {
        let need = Need { quorum, chosen };
        Some((peer.parse().ok()?, Told { stamp, need }))
    });
    hosts.collect()
}

impl GossipChannel for Quorums {
    fn on_unicast(&mut self, _: PeerName, _: &[u8]) -> Result<(), GossipRefused> {
        Ok(())
    }

    fn on_broadcast(
        &mut self,
        _: PeerName,
        payload: &[u8],
    ) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
        Ok(self.merge(payload))
    }

    fn on_gossip(
        &mut self,
        _: PeerName,
        payload: &[u8],
    ) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
        Ok(self.merge(payload))
    }

    fn full_state(&mut self) -> Option<Box<dyn GossipData>> {
        let hosts = self.lock().hosts.clone();
        if hosts.is_empty() {
            return None;
        }
        Some(Box::new(Delta(hosts)))
    }

    fn on_peer_forgotten(&mut self, peer: PeerName) {
        self.lock().hosts.remove(&peer);
    }
}

/// What some hosts have said.
#[derive(Clone)]
struct Delta(Table);

impl GossipData for Delta {
    fn merge(&mut self, newer: Box<dyn GossipData>) {
        if let Ok(newer) = newer.into_any().downcast::<Self>() {
            for (peer, told) in newer.0 {
                let known = self.0.entry(peer).or_insert(told);
                if known.stamp < told.stamp {
                    *known = told;
                }
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        let list: Vec<(String, u64, u64, bool)> = self
            .0
            .iter()
            .map(|(peer, told)| {
                let Need { quorum, chosen } = told.need;
                (peer.to_string(), told.stamp, quorum, chosen)
            })
            .collect();
        // A list of texts and numbers always can.
        serde_json::to_vec(&list).unwrap_or_default()
    }

    fn duplicate(&self) -> Box<dyn GossipData> {
        Box::new(self.clone())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u64) -> PeerName {
        PeerName::from_u64(number).unwrap()
    }

    fn host(number: u64, quorum: u64, chosen: bool) -> Quorums {
        let host = Quorums::new(peer(number));
        let told = host.set_own(Need { quorum, chosen });
        assert_eq!(told.is_some(), quorum > 0);
        host
    }

    /// All hear all.
    fn meet(hosts: &mut [Quorums]) -> Vec<Option<String>> {
        let names = hosts.iter().map(|host| host.lock().me);
        let names: BTreeSet<PeerName> = names.collect();
        for host in &mut *hosts {
            host.set_members(names.clone());
        }
        for _ in 0..2 {
            for from in 0..hosts.len() {
                let state = hosts[from].full_state().map(|state| state.encode());
                for host in &mut *hosts {
                    if let Some(state) = &state {
                        host.on_gossip(peer(1), state).unwrap();
                    }
                }
            }
        }
        hosts.iter().map(Quorums::warning).collect()
    }

    #[test]
    fn hosts_that_differ_are_warned_of() {
        // One was told of six hosts, the other has guessed.
        let warnings = meet(&mut [host(1, 4, true), host(2, 2, false)]);
        assert_eq!(
            warnings[0].as_deref().unwrap(),
            "00:00:00:00:00:02 needs the votes of 2 hosts to divide the range, and this host needs \
             4; give all hosts the same --ipalloc-init consensus=N"
        );
        assert!(warnings[1].is_some());
        let mut two = [host(1, 4, true), host(2, 2, false)];
        assert!(meet(&mut two)[1].is_some());
        two[1].set_members(BTreeSet::new());
        assert_eq!(two[1].warning(), None);
        // Two of the others could divide the range without the first, and two more again.
        let all: Vec<_> = (1..6).map(|number| host(number, 2, number == 1)).collect();
        let warnings = meet(&mut { all });
        for warning in warnings {
            assert!(warning.unwrap().starts_with("two rings may come about"));
        }
    }

    #[test]
    fn hosts_that_fit_are_not() {
        let three = [host(1, 2, true), host(2, 2, true), host(3, 2, true)];
        // The first was launched alone and the second with the first as its peer.
        let guessed = [host(1, 1, false), host(2, 2, false)];
        let with_ring = [host(1, 0, true), host(2, 2, true), host(3, 2, true)];
        for mut hosts in [Vec::from(three), guessed.into(), with_ring.into()] {
            for warning in meet(&mut hosts) {
                assert_eq!(warning, None);
            }
        }
    }

    #[test]
    fn the_last_word_counts() {
        let mut hosts = [host(1, 4, true), host(2, 2, false)];
        assert!(meet(&mut hosts)[0].is_some());
        // There is a ring.
        let need = Need {
            quorum: 0,
            chosen: true,
        };
        let told = hosts[0].set_own(need).unwrap().encode();
        assert!(hosts[0].set_own(need).is_none());
        assert!(hosts[1].on_gossip(peer(1), &told).unwrap().is_some());
        assert!(hosts[1].on_gossip(peer(1), &told).unwrap().is_none());
        assert_eq!(meet(&mut hosts), [None, None]);
        // Another life, with a clock that has been put back: its old word is outdone.
        let mut again = host(1, 2, true);
        let old = hosts[1].lock().hosts[&peer(1)].stamp;
        hosts[1].lock().hosts.get_mut(&peer(1)).unwrap().stamp = old + 1_000_000;
        let state = hosts[1].full_state().unwrap().encode();
        let news = again.on_gossip(peer(2), &state).unwrap().unwrap();
        hosts[1].on_gossip(peer(1), &news.encode()).unwrap();
        let told = hosts[1].lock().hosts[&peer(1)];
        assert_eq!((told.need.quorum, told.stamp), (2, old + 1_000_001));
        again.on_peer_forgotten(peer(2));
        assert_eq!(again.lock().hosts.len(), 1);
    }

    #[test]
    fn nonsense_is_ignored() {
        let mut host = host(1, 2, true);
        for payload in [&b""[..], b"{}", b"[[\"x\",1,1,true]]", b"[[1,2,3]]", b"[]"] {
            assert!(host.on_gossip(peer(2), payload).unwrap().is_none());
            assert!(host.on_broadcast(peer(2), payload).unwrap().is_none());
        }
        assert_eq!(host.lock().hosts.len(), 1);
    }
}
