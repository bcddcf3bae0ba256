//! One host's part in the shared table: its own entries, and what it makes of gossip.
//!
//! Source: Weave nameserver protocol, sections 4 and 5.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use proto::PeerName;
use thiserror::Error;

use crate::entry::{Entry, Key, Mark};
use crate::name::WireName;
use crate::names::{Names, Publisher};
use crate::table::Table;
use crate::wire::{DecodeError, Update};

/// Clocks may differ by this many seconds. Beyond it the original refuses an update and closes the
/// connection; tombstones rely on it.
pub const MAX_CLOCK_SKEW: i64 = 900;

/// Tombstones live this many seconds at least.
pub const TOMBSTONE_LIFE: i64 = 1800;

/// The domain of container names, fully qualified: `weave.local.`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain(String);

/// Not a name that the DNS can carry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a host name: labels of 1 to 63 characters, separated by dots, 253 in all")]
pub struct BadName(String);

impl Domain {
    /// Whether a fully qualified name is the domain or within it, in any case.
    pub fn contains(&self, hostname: &str) -> bool {
        let Some(split) = hostname.len().checked_sub(self.0.len()) else {
            return false;
        };
        let Some((host, domain)) = hostname.split_at_checked(split) else {
            return false;
        };
        domain.eq_ignore_ascii_case(&self.0) && (host.is_empty() || host.ends_with('.'))
    }
}

impl Domain {
    /// In wire form, folded.
    fn to_wire(&self) -> WireName {
        // It was checked when it was read; the root stands for what cannot be.
        WireName::folded(&self.0).unwrap_or_else(WireName::root)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Domain {
    type Err = BadName;

    /// The final dot is optional.
    fn from_str(text: &str) -> Result<Self, BadName> {
        qualify(text).map(Self)
    }
}

/// Adds the final dot if it is missing, and checks the lengths of labels and name.
fn qualify(name: &str) -> Result<String, BadName> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let valid = !bare.is_empty()
        && bare.len() <= 253
        && bare.split('.').all(|label| (1..=63).contains(&label.len()));
    if valid {
        Ok(format!("{bare}."))
    } else {
        Err(BadName(name.to_owned()))
    }
}

/// Which of the own entries to delete; `None` means any.
#[derive(Debug, Clone, Default)]
pub struct Selection<'a> {
    /// Fully qualified host name; its case counts.
    pub hostname: Option<&'a str>,
    /// Container id.
    pub container: Option<&'a str>,
    /// Address.
    pub addr: Option<IpAddr>,
}

/// What a received update leads to.
#[derive(Debug, Default)]
pub struct Received {
    /// To pass on.
    pub pass_on: Option<Update>,
    /// Own entries that others had wrong: to be broadcast.
    pub corrected: Option<Update>,
    /// Seconds by which the sender's clock is ahead of ours, the way of the message included.
    pub offset: i64,
    /// Whether the update was not used because that is more than [`MAX_CLOCK_SKEW`]. Only without
    /// [`Nameserver::tolerating_skew`].
    pub refused: bool,
}

/// The names that this host knows, and its own among them.
#[derive(Debug)]
pub struct Nameserver {
    ours: PeerName,
    domain: Domain,
    table: Table,
    tolerates_skew: bool,
    publisher: Publisher,
}

impl Nameserver {
    /// Without any names yet.
    pub fn new(ours: PeerName, domain: Domain) -> Self {
        let publisher = Publisher::new(domain.to_wire());
        Self {
            ours,
            domain,
            table: Table::default(),
            tolerates_skew: false,
            publisher,
        }
    }

    /// Uses what peers send whose clocks differ too much from ours, which the original refuses.
    ///
    /// What such a peer says of its names is ordered by versions, which no clock has a part in. Its
    /// tombstones are as old as its clock has them, so they may be collected too early or too late:
    /// a name deleted there may come back for one round of gossip, until its origin repeats what it
    /// said. It is passed on under our own time, for others would refuse it.
    #[must_use]
    pub fn tolerating_skew(mut self) -> Self {
        self.tolerates_skew = true;
        self
    }

    /// The names as queries see them: a handle that stays up to date and can be read anywhere,
    /// while this changes.
    pub fn names(&self) -> Names {
        self.publisher.names().clone()
    }

    /// All names.
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// The domain.
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Registers a name. Returns what to broadcast; `None` if the name lies outside the domain,
    /// which is no error: containers have names of all sorts.
    pub fn add(
        &mut self,
        hostname: &str,
        container: &str,
        addr: IpAddr,
        now: i64,
    ) -> Result<Option<Update>, BadName> {
        let hostname = qualify(hostname)?;
        if !self.domain.contains(&hostname) {
            return Ok(None);
        }
        let mut key = Key {
            hostname,
            origin: self.ours,
            container: container.to_owned(),
            addr,
        };
        if let Some(known) = self.table.spelling_of(&key) {
            // Two spellings of one entry would harm peers of the original.
            key = known.clone();
        }
        let mark = match self.table.mark(&key) {
            None => Mark::default(),
            Some(mark) if mark.is_live() => mark,
            Some(mark) => Mark {
                version: mark.version.saturating_add(1),
                tombstone: 0,
            },
        };
        let entry = Entry { key, mark };
        self.table.merge(entry.clone());
        self.publish();
        Ok(Some(Update::new(now, [entry])))
    }

    /// Takes up own names of a former life, with their versions. What lies outside of the domain is
    /// left out, and so is what is nobody's or somebody else's.
    pub fn restore(&mut self, former: impl IntoIterator<Item = Entry>) {
        for entry in former {
            let is_ours = entry.key.origin == self.ours && entry.mark.is_live();
            if is_ours
                && self.domain.contains(&entry.key.hostname)
                && self.table.spelling_of(&entry.key).is_none()
            {
                self.table.merge(entry);
            }
        }
        self.publish();
    }

    /// Deletes own entries. Returns what to broadcast, if any matched.
    pub fn delete(&mut self, which: &Selection<'_>, now: i64) -> Option<Update> {
        // The shortest way to all that may match.
        let candidates: Vec<&Key> = match (which.hostname, which.addr) {
            (Some(hostname), _) => self.table.named(hostname).collect(),
            (None, Some(addr)) => self.table.at(addr).collect(),
            (None, None) => self.table.live_of(self.ours).collect(),
        };
        let matching: Vec<Key> = candidates
            .into_iter()
            .filter(|key| key.origin == self.ours)
            .filter(|key| {
                which
                    .hostname
                    .is_none_or(|hostname| hostname == key.hostname)
            })
            .filter(|key| {
                which
                    .container
                    .is_none_or(|container| container == key.container)
            })
            .filter(|key| which.addr.is_none_or(|addr| addr == key.addr))
            .cloned()
            .collect();
        let mut changed = Vec::with_capacity(matching.len());
        for key in matching {
            let version = self
                .table
                .mark(&key)
                .unwrap_or_default()
                .version
                .saturating_add(1);
            let entry = Entry {
                key,
                mark: Mark {
                    version,
                    tombstone: now,
                },
            };
            self.table.merge(entry.clone());
            changed.push(entry);
        }
        self.publish();
        (!changed.is_empty()).then(|| Update::new(now, changed))
    }

    /// The topology has forgotten a peer: its entries go, without a trace. They come back from the
    /// peer itself.
    pub fn forget_peer(&mut self, peer: PeerName) -> usize {
        let count = self.table.remove(|key, _| key.origin == peer);
        self.publish();
        count
    }

    /// Removes tombstones whose time is over.
    pub fn collect(&mut self, now: i64) -> usize {
        self.table.remove(|_, mark| {
            !mark.is_live() && now.saturating_sub(mark.tombstone) > TOMBSTONE_LIFE
        })
    }

    /// Everything, tombstones included.
    pub fn full_state(&self, now: i64) -> Update {
        Update::new(
            now,
            self.table.iter().map(|(key, mark)| Entry {
                key: key.clone(),
                mark,
            }),
        )
    }

    /// State from a neighbour: what was new in it is passed on.
    pub fn on_gossip(
        &mut self,
        payload: &[u8],
        now: i64,
        is_known: impl Fn(PeerName) -> bool,
    ) -> Result<Received, DecodeError> {
        let (mut received, _, delta) = self.receive(payload, now, is_known)?;
        received.pass_on = (!delta.is_empty()).then(|| Update::new(now, delta));
        Ok(received)
    }

    /// An update from its origin to everybody: passed on in any case, corrected where it was wrong
    /// about us, with its own timestamp.
    pub fn on_broadcast(
        &mut self,
        payload: &[u8],
        now: i64,
        is_known: impl Fn(PeerName) -> bool,
    ) -> Result<Received, DecodeError> {
        let (mut received, update, _) = self.receive(payload, now, is_known)?;
        received.pass_on = (!received.refused).then_some(update);
        Ok(received)
    }

    /// Merges an update. Returns it as corrected, and what changed the table.
    fn receive(
        &mut self,
        payload: &[u8],
        now: i64,
        is_known: impl Fn(PeerName) -> bool,
    ) -> Result<(Received, Update, Vec<Entry>), DecodeError> {
        let update = Update::decode(payload)?;
        let offset = update.timestamp.saturating_sub(now);
        let skewed = offset.saturating_abs() > MAX_CLOCK_SKEW;
        if skewed && !self.tolerates_skew {
            let received = Received {
                offset,
                refused: true,
                ..Received::default()
            };
            return Ok((received, Update::default(), Vec::new()));
        }
        let mut corrected = Vec::new();
        let mut entries = Vec::new();
        // What a peer says whose own record has not reached us yet would be dropped with it.
        for mut entry in update
            .entries()
            .filter(|entry| entry.key.origin == self.ours || is_known(entry.key.origin))
        {
            if entry.key.origin == self.ours
                && let Some(mark) = self.correction(&entry, now)
            {
                entry.mark = mark;
                corrected.push(entry.clone());
            }
            entries.push(entry);
        }
        let delta = entries
            .iter()
            .filter(|entry| self.table.merge((*entry).clone()))
            .cloned()
            .collect();
        self.publish();
        let received = Received {
            corrected: (!corrected.is_empty()).then(|| Update::new(now, corrected)),
            offset,
            ..Received::default()
        };
        let timestamp = if skewed { now } else { update.timestamp };
        Ok((received, Update::new(timestamp, entries), delta))
    }

    /// Shows to queries what has changed.
    fn publish(&mut self) {
        let changes = self.table.take_changes();
        for name in &changes.names {
            let addresses = self.table.named(name).map(|key| key.addr).collect();
            self.publisher.set_addresses(name, addresses);
        }
        for addr in changes.addrs {
            self.publisher.set_name(addr, self.table.name_of(addr));
        }
    }

    /// What others say of our own entries may stem from an earlier life of ours: where it would win
    /// over what we know, what we know gets a higher version.
    fn correction(&self, entry: &Entry, now: i64) -> Option<Mark> {
        let version = entry.mark.version.saturating_add(1);
        match self.table.mark(&entry.key) {
            Some(ours)
                if ours.version < entry.mark.version
                    || (ours.version == entry.mark.version
                        && ours.tombstone != entry.mark.tombstone) =>
            {
                Some(Mark {
                    version,
                    tombstone: ours.tombstone,
                })
            }
            Some(_) => None,
            None => entry.mark.is_live().then_some(Mark {
                version,
                tombstone: now,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
