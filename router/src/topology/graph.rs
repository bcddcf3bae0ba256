//! The peers as a graph of small numbers, for walks that touch every connection.
//!
//! A peer's index is its place in ascending order of names, so to walk in order of indices is to
//! walk in order of names, as section 5 of the Weave mesh protocol wants it. All walks take time
//! proportional to the number of connections, and stop as soon as nothing can change any more.
//!
//! Indexing in this module is safe by construction: every [`Index`] in an [`Adjacency`] is below
//! its number of peers, and no index leaves this crate's topology.

use proto::PeerName;

use super::peers::Peers;
use crate::constants::MAX_PEERS;

/// A peer's place in ascending order of names.
pub(super) type Index = u16;

/// No peer.
pub(super) const NONE: Index = Index::MAX;

// Our own record is not counted in MAX_PEERS.
const _: () = assert!(MAX_PEERS + 1 < NONE as usize);

/// For each peer the peers it is connected to, both by index, ascending.
#[derive(Debug, Clone, Default)]
pub(super) struct Adjacency {
    /// Where each row begins in `targets`, and, last, where they all end.
    offsets: Box<[usize]>,
    targets: Box<[Index]>,
}

impl Adjacency {
    /// Number of peers.
    pub(super) fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The peers that `index` is connected to.
    pub(super) fn row(&self, index: Index) -> &[Index] {
        let index = usize::from(index);
        &self.targets[self.offsets[index]..self.offsets[index + 1]]
    }

    fn rows(&self) -> impl Iterator<Item = (Index, &[Index])> {
        let bounds = self.offsets.windows(2);
        (0..).zip(bounds.map(|bounds| &self.targets[bounds[0]..bounds[1]]))
    }

    /// The connections that both ends list.
    fn symmetric(&self) -> Self {
        let mut rows = Builder::with_room(self.len(), self.targets.len());
        // How far each row has been read: it is asked for ascending targets.
        let mut read: Vec<usize> = self.offsets.to_vec();
        for (index, row) in self.rows() {
            for &target in row {
                let end = self.offsets[usize::from(target) + 1];
                let read = &mut read[usize::from(target)];
                while *read < end && self.targets[*read] < index {
                    *read += 1;
                }
                if *read < end && self.targets[*read] == index {
                    rows.targets.push(target);
                }
            }
            rows.end_row();
        }
        rows.finish()
    }

    /// Breadth first from `start`: how to get to each peer.
    pub(super) fn walk(&self, start: Index) -> Walk {
        let mut hops = vec![NONE; self.len()];
        let mut reached = 1;
        hops[usize::from(start)] = start;
        let mut level = vec![start];
        let mut next_level = Vec::new();
        while !level.is_empty() && reached < hops.len() {
            for &current in &level {
                let via = hops[usize::from(current)];
                for &next in self.row(current) {
                    let hop = &mut hops[usize::from(next)];
                    if *hop == NONE {
                        *hop = if current == start { next } else { via };
                        reached += 1;
                        next_level.push(next);
                    }
                }
            }
            next_level.sort_unstable();
            level.clear();
            std::mem::swap(&mut level, &mut next_level);
        }
        Walk {
            hops: hops.into(),
            reached,
        }
    }

    /// To whom `ours` passes on what `source` broadcasts: the same walk from `source`, up to the
    /// moment when it visits `ours`; then every neighbour that it has not reached. Nobody, if it
    /// never visits `ours`.
    pub(super) fn flood(&self, source: Index, ours: Index) -> Vec<Index> {
        #[derive(Clone, Copy, PartialEq, Eq)]
        enum Mark {
            Unknown,
            /// A neighbour of ours, not reached.
            Neighbour,
            Reached,
        }
        let mut marks = vec![Mark::Unknown; self.len()];
        let mut left = self.row(ours).len();
        for &neighbour in self.row(ours) {
            marks[usize::from(neighbour)] = Mark::Neighbour;
        }
        let mut reach = |index: Index, level: &mut Vec<Index>| {
            let mark = &mut marks[usize::from(index)];
            if *mark == Mark::Reached {
                return false;
            }
            left -= usize::from(*mark == Mark::Neighbour);
            *mark = Mark::Reached;
            level.push(index);
            // With no neighbour left the answer is "nobody", whatever comes.
            left == 0
        };
        let mut level = Vec::new();
        let mut next_level = Vec::new();
        let mut nobody = reach(source, &mut level);
        'walk: while !level.is_empty() && !nobody {
            for &current in &level {
                if current == ours {
                    break 'walk;
                }
                for &next in self.row(current) {
                    nobody |= reach(next, &mut next_level);
                }
                if nobody {
                    break 'walk;
                }
            }
            next_level.sort_unstable();
            level.clear();
            std::mem::swap(&mut level, &mut next_level);
        }
        if nobody || level.is_empty() {
            return Vec::new();
        }
        let unreached = |neighbour: &&Index| marks[usize::from(**neighbour)] == Mark::Neighbour;
        self.row(ours).iter().filter(unreached).copied().collect()
    }
}

/// What a breadth-first walk has found.
#[derive(Debug, Clone, Default)]
pub(super) struct Walk {
    /// By destination the first peer on the way, [`NONE`] without a way; the start for the start.
    pub(super) hops: Box<[Index]>,
    /// Peers reached, the start included.
    pub(super) reached: usize,
}

impl Walk {
    /// Whether there is a way to `index`.
    pub(super) fn reaches(&self, index: Index) -> bool {
        self.hops
            .get(usize::from(index))
            .is_some_and(|&hop| hop != NONE)
    }
}

/// Adds rows one after the other.
struct Builder {
    offsets: Vec<usize>,
    targets: Vec<Index>,
}

impl Builder {
    /// Room for rows of `peer_count` peers with up to `connection_count` targets in all.
    fn with_room(peer_count: usize, connection_count: usize) -> Self {
        let mut offsets = Vec::with_capacity(peer_count + 1);
        offsets.push(0);
        Self {
            offsets,
            targets: Vec::with_capacity(connection_count),
        }
    }

    fn end_row(&mut self) {
        self.offsets.push(self.targets.len());
    }

    fn finish(self) -> Adjacency {
        Adjacency {
            offsets: self.offsets.into(),
            targets: self.targets.into(),
        }
    }
}

/// The names of all peers, ascending.
pub(super) fn names(peers: &Peers) -> Box<[PeerName]> {
    peers.iter().map(|peer| peer.name).collect()
}

/// All connections that some peer lists.
pub(super) fn all(peers: &Peers, names: &[PeerName]) -> Adjacency {
    select(peers, names, false)
}

/// The connections that both ends list as established.
pub(super) fn usable(peers: &Peers, names: &[PeerName]) -> Adjacency {
    select(peers, names, true).symmetric()
}

/// Connections to oneself and to peers without a record lead nowhere and are left out.
fn select(peers: &Peers, names: &[PeerName], only_established: bool) -> Adjacency {
    let connection_count = peers.iter().map(|peer| peer.connections.len()).sum();
    let mut rows = Builder::with_room(names.len(), connection_count);
    for peer in peers.iter() {
        let mut from = 0;
        for connection in &peer.connections {
            if connection.remote == peer.name || (only_established && !connection.established) {
                continue;
            }
            from += ahead(&names[from..], connection.remote);
            if names.get(from) == Some(&connection.remote) {
                // Cannot fail: Peers holds no more records than an Index can count.
                rows.targets.push(Index::try_from(from).unwrap_or(NONE));
            }
        }
        rows.end_row();
    }
    rows.finish()
}

/// How many of the ascending `names` are below `name`. Quick if they are few, as they are when
/// every peer is connected to nearly all others.
fn ahead(names: &[PeerName], name: PeerName) -> usize {
    let mut step = 1;
    while names.get(step - 1).is_some_and(|&known| known < name) {
        step *= 2;
    }
    let from = step / 2;
    let to = names.len().min(step);
    from + names[from..to].partition_point(|&known| known < name)
}

/// The index of `name` in ascending `names`.
pub(super) fn index_of(names: &[PeerName], name: PeerName) -> Option<Index> {
    let at = names.binary_search(&name).ok()?;
    Index::try_from(at).ok()
}
