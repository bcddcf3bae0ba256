//! Merging another peer's copy of the ring into ours.
//!
//! Of two entries with one token the newer version counts, and tokens that are new to us are
//! taken up. But a merge must not take an address from us that we have given out. Where it would,
//! it is refused as a whole, and the connection that brought it is closed until people have
//! sorted out who owns what.
//!
//! Refusals and results are those of the original, with two exceptions which stay on our side of
//! the wire. First, every range that the merge would take from us is checked for addresses in
//! use; the original overlooks some. Second, a token inserted into the last entry is judged like
//! any other insertion, and not refused outright.
//!
//! Source: IPAM protocol, sections 4.6 and 17.

use std::cmp::Ordering;

use proto::PeerName;
use thiserror::Error;

use super::{BadRing, Entry, Ring, Span, check_entries, distance, next_token};
use crate::range::{Address, Range};
use crate::space::Space;

/// What a merge brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merged {
    /// The entries that are now as the other copy had them. If there are none, nobody needs to
    /// hear of the merge.
    pub taken: Vec<Entry>,
    /// Of these, the ones that have another owner now: as they were, and as they are.
    pub moved: Vec<(Entry, Entry)>,
}

/// The other copy is refused. Ours is as before, except that versions of entries of our own that
/// the other copy had a newer version of have been raised above that one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MergeError {
    /// It is no ring.
    #[error(transparent)]
    Bad(#[from] BadRing),
    /// It came into being by another agreement than ours.
    #[error("Received ring was seeded differently from ours")]
    DifferentSeeds,
    /// It divides another universe.
    #[error("Received range differs from ours")]
    DifferentRange,
    /// A range of ours, with addresses in use, belongs to another peer there.
    #[error("Peer {peer} says it owns the IP range from {token}, which I think I own")]
    EntryInMyRange {
        /// Who owns it there.
        peer: PeerName,
        /// Its token there.
        token: Address,
    },
    /// Two owners for one version of an entry of ours that has addresses in use.
    #[error("Inconsistent entries for {token}: owned by {ours} but incoming message says {theirs}")]
    Inconsistent {
        /// The entry.
        token: Address,
        /// Its owner here.
        ours: PeerName,
        /// Its owner there.
        theirs: PeerName,
    },
    /// Somebody has changed the owner of an entry of ours that has addresses in use.
    #[error(
        "Received update for IP range I own at {token} v{version}: \
         incoming message says owner {theirs} v{their_version}"
    )]
    NewerVersion {
        /// The entry.
        token: Address,
        /// Its version here.
        version: u32,
        /// Its owner there.
        theirs: PeerName,
        /// Its version there.
        their_version: u32,
    },
    /// Each copy is a ring, but both together are not.
    #[error("Merge of incoming data causes: {0}")]
    Causes(BadRing),
}

/// The walk through both lists.
struct Walk<'a, B> {
    universe: Range,
    mine: &'a mut [Entry],
    theirs: &'a [Entry],
    me: PeerName,
    busy: B,
    /// The owner of the last entry in the result if that one was mine.
    before: Option<PeerName>,
    result: Vec<Entry>,
    taken: Vec<Entry>,
    moved: Vec<(Entry, Entry)>,
    raised: Vec<Address>,
}

impl<B: FnMut(&[Range]) -> bool> Walk<'_, B> {
    fn keep(&mut self, entry: Entry) {
        self.result.push(entry);
        self.before = Some(entry.peer);
    }

    fn take(&mut self, entry: Entry) {
        self.result.push(entry);
        self.taken.push(entry);
        self.before = None;
    }

    fn replace(&mut self, mine: Entry, theirs: Entry) {
        if mine.peer != theirs.peer {
            self.moved.push((mine, theirs));
        }
        self.take(theirs);
    }

    fn busy(&mut self, from: Address, to: Address) -> bool {
        (self.busy)(Span::new(self.universe, from, to).as_slice())
    }

    /// Decides on a token that only they have; `next` is my token that follows it.
    fn insert(&mut self, theirs: Entry, next: Address) -> Result<(), MergeError> {
        let splits_mine = self.before == Some(self.me) && theirs.peer != self.me;
        if splits_mine && self.busy(theirs.token, next) {
            return Err(MergeError::EntryInMyRange {
                peer: theirs.peer,
                token: theirs.token,
            });
        }
        self.take(theirs);
        Ok(())
    }

    /// Decides on a token that both have; mine is at `index`.
    fn decide(&mut self, index: usize, theirs: Entry) -> Result<(), MergeError> {
        let mine = self.mine[index];
        let next = next_token(self.mine, index);
        let is_mine = mine.peer == self.me;
        match mine.version.cmp(&theirs.version) {
            Ordering::Equal if mine.peer != theirs.peer => {
                if is_mine && self.busy(mine.token, next) {
                    return Err(MergeError::Inconsistent {
                        token: mine.token,
                        ours: mine.peer,
                        theirs: theirs.peer,
                    });
                }
                // Both sides must come to the same answer.
                if mine.free >= theirs.free {
                    self.keep(mine);
                } else {
                    self.replace(mine, theirs);
                }
            }
            Ordering::Equal | Ordering::Greater => self.keep(mine),
            Ordering::Less if is_mine && theirs.peer == self.me => {
                // A trace of what we were in an earlier life. What we are now must prevail.
                let mine = &mut self.mine[index];
                mine.version = theirs.version.saturating_add(1);
                self.raised.push(mine.token);
                self.result.push(*mine);
            }
            Ordering::Less => {
                if is_mine && self.busy(mine.token, next) {
                    return Err(MergeError::NewerVersion {
                        token: mine.token,
                        version: mine.version,
                        theirs: theirs.peer,
                        their_version: theirs.version,
                    });
                }
                self.replace(mine, theirs);
            }
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), MergeError> {
        let (mut index, mut theirs) = (0, self.theirs.iter().copied().peekable());
        while let Some(mine) = self.mine.get(index).copied() {
            match theirs.peek().map(|theirs| mine.token.cmp(&theirs.token)) {
                None | Some(Ordering::Less) => {
                    self.keep(mine);
                    index += 1;
                }
                Some(order) => {
                    let Some(theirs) = theirs.next() else { break };
                    if order == Ordering::Greater {
                        self.insert(theirs, mine.token)?;
                    } else {
                        self.decide(index, theirs)?;
                        index += 1;
                    }
                }
            }
        }
        for theirs in theirs {
            let next = self.mine.first().map_or(theirs.token, |first| first.token);
            self.insert(theirs, next)?;
        }
        Ok(())
    }
}

impl Ring {
    /// Merges `theirs` into this ring, which is that of the peer `me`. `busy` tells whether any
    /// address of some ranges is in use, or not ours.
    pub fn merge(
        &mut self,
        theirs: &Self,
        me: PeerName,
        mut busy: impl FnMut(&[Range]) -> bool,
    ) -> Result<Merged, MergeError> {
        theirs.check()?;
        if !self.seeds.is_empty() && !theirs.seeds.is_empty() && self.seeds != theirs.seeds {
            return Err(MergeError::DifferentSeeds);
        }
        if self.universe != theirs.universe {
            return Err(MergeError::DifferentRange);
        }

        let mut walk = Walk {
            universe: self.universe,
            mine: &mut self.entries,
            theirs: &theirs.entries,
            me,
            busy: &mut busy,
            before: None,
            result: Vec::with_capacity(theirs.entries.len()),
            taken: Vec::new(),
            moved: Vec::new(),
            raised: Vec::new(),
        };
        let walked = walk.run();
        let Walk {
            mut result,
            taken,
            moved,
            raised,
            ..
        } = walk;
        self.changed.extend(raised);
        walked?;

        // An entry of ours may have been cut by a token in it.
        let mut cut = Vec::new();
        for index in 0..result.len() {
            let next = next_token(&result, index);
            let entry = &mut result[index];
            let size = distance(self.universe, entry.token, next);
            if entry.peer == me && entry.free > size {
                entry.free = size;
                cut.push(entry.token);
            }
        }
        check_entries(self.universe, &result).map_err(MergeError::Causes)?;
        let merged = Self::from_parts(self.universe, result, Vec::new());
        if !taken.is_empty() {
            let mut lost = Space::new();
            for range in self.owned_by(me) {
                lost.add(range);
            }
            for range in merged.owned_by(me) {
                lost.remove(range);
            }
            for range in lost.free() {
                if busy(&[range])
                    && let Some(new) = merged.entry_of(range.start)
                {
                    return Err(MergeError::EntryInMyRange {
                        peer: new.peer,
                        token: new.token,
                    });
                }
            }
        }

        if self.seeds.is_empty() {
            self.seeds.clone_from(&theirs.seeds);
        }
        self.entries = merged.entries;
        self.changed.extend(taken.iter().map(|entry| entry.token));
        self.changed.extend(cut);
        Ok(Merged { taken, moved })
    }
}
