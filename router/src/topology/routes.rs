//! Deterministic routes.
//!
//! Four tables come from one kind of walk over the known graph, breadth first and in ascending
//! order of names. Every peer that holds the same topology calculates the same walks; that is why
//! next hops lead to their destination and a broadcast reaches every peer once.
//!
//! | table | for | connections walked |
//! |---|---|---|
//! | [`unicast`](Routes::unicast) | frames | those that both ends list as established |
//! | [`unicast_all`](Routes::unicast_all) | gossip | all listed, by one end at least |
//! | [`broadcast`](Routes::broadcast) | frames | those that both ends list as established |
//! | [`broadcast_all`](Routes::broadcast_all) | gossip | all listed, by one end at least |
//!
//! Source: Weave mesh protocol, sections 5 and 7.3.

use std::sync::OnceLock;

use proto::PeerName;
use rand::{Rng, RngExt as _};

use super::graph::{self, Adjacency, Index, NONE, Walk};
use super::peers::Peers;

/// Immutable result of one route calculation, shared with the data half.
///
/// Unicast tables are complete; the row of a broadcast table is calculated when its source is
/// first asked for, and kept. A thousand peers in full mesh take about 5 MB.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    /// All known peers, ascending; the graph's indices count them.
    names: Box<[PeerName]>,
    /// Our place in `names`.
    ours: Index,
    data: Tables,
    gossip: Tables,
    /// Next hops of `gossip`, each with the number of destinations behind it, by ascending name.
    neighbours: Box<[(PeerName, usize)]>,
}

/// The tables over one choice of connections.
#[derive(Debug, Clone, Default)]
struct Tables {
    graph: Adjacency,
    unicast: Walk,
    broadcast: Box<[OnceLock<Box<[PeerName]>>]>,
}

impl Routes {
    /// Routes from our own place in `peers`.
    pub fn calculate(peers: &Peers) -> Self {
        let names = graph::names(peers);
        // Our own record is always there.
        let ours = graph::index_of(&names, peers.ours().name).unwrap_or_default();
        let data = Tables::new(graph::usable(peers, &names), ours);
        let gossip = Tables::new(graph::all(peers, &names), ours);
        let neighbours = gossip.weights(ours, &names);
        let routes = Self {
            names,
            ours,
            data,
            gossip,
            neighbours,
        };
        routes.broadcast(peers.ours().name);
        routes
    }

    /// Next hop for frames to `destination`. The own name maps to [`PeerName::UNKNOWN`].
    pub fn unicast(&self, destination: PeerName) -> Option<PeerName> {
        self.hop(&self.data, destination)
    }

    /// Next hop for gossip to `destination`. The own name maps to [`PeerName::UNKNOWN`].
    pub fn unicast_all(&self, destination: PeerName) -> Option<PeerName> {
        self.hop(&self.gossip, destination)
    }

    /// Neighbours to which a frame flooded by `source` is passed on, by ascending name.
    pub fn broadcast(&self, source: PeerName) -> &[PeerName] {
        self.row(&self.data, source)
    }

    /// Neighbours to which gossip broadcast by `source` is passed on, by ascending name.
    pub fn broadcast_all(&self, source: PeerName) -> &[PeerName] {
        self.row(&self.gossip, source)
    }

    /// Whether `peer` was known when the routes were calculated, with a route or without.
    pub fn knows(&self, peer: PeerName) -> bool {
        graph::index_of(&self.names, peer).is_some()
    }

    /// Number of peers that were known, ourselves included.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether nothing has been calculated yet.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The whole table of [`unicast`](Self::unicast), by ascending destination.
    pub fn unicast_routes(&self) -> impl Iterator<Item = (PeerName, PeerName)> {
        let names = self.names.iter();
        names.filter_map(|&name| self.unicast(name).map(|hop| (name, hop)))
    }

    /// Rows of [`broadcast`](Self::broadcast) that have been calculated: ours, and those of the
    /// sources asked for; by ascending source.
    pub fn broadcast_routes(&self) -> impl Iterator<Item = (PeerName, &[PeerName])> {
        let rows = self.names.iter().zip(&self.data.broadcast);
        rows.filter_map(|(&name, row)| row.get().map(|row| (name, &**row)))
    }

    /// Neighbours to gossip with: `floor(2 log2 n)` of them, where `n` is the number of peers that
    /// gossip reaches, or all if there are fewer. They are drawn without replacement, each weighted
    /// by how many destinations lie behind it, so that a bottleneck is not forgotten. `except` is
    /// never drawn.
    pub fn random_neighbours(
        &self,
        except: Option<PeerName>,
        rng: &mut (impl Rng + ?Sized),
    ) -> Vec<PeerName> {
        let candidates = self.neighbours.iter().copied();
        let mut candidates: Vec<_> = candidates
            .filter(|&(name, _)| Some(name) != except)
            .collect();
        let reached = self.gossip.unicast.reached;
        // floor(2 log2 n) = floor(log2 n²)
        let wanted = (reached * reached).checked_ilog2().unwrap_or(0) as usize;
        if candidates.len() <= wanted {
            return candidates.into_iter().map(|(name, _)| name).collect();
        }
        let mut total: usize = candidates.iter().map(|(_, weight)| weight).sum();
        let mut drawn = Vec::with_capacity(wanted);
        while drawn.len() < wanted {
            let mut point = rng.random_range(0..total);
            let hit = candidates.iter().position(|&(_, weight)| {
                let inside = point < weight;
                point = point.saturating_sub(weight);
                inside
            });
            // `point` is below the sum of all weights: there always is a hit.
            let Some(hit) = hit else { break };
            let (name, weight) = candidates.remove(hit);
            total -= weight;
            drawn.push(name);
        }
        drawn
    }

    fn hop(&self, tables: &Tables, destination: PeerName) -> Option<PeerName> {
        let index = graph::index_of(&self.names, destination)?;
        match *tables.unicast.hops.get(usize::from(index))? {
            NONE => None,
            hop if hop == self.ours => Some(PeerName::UNKNOWN),
            hop => self.names.get(usize::from(hop)).copied(),
        }
    }

    fn row<'a>(&'a self, tables: &'a Tables, source: PeerName) -> &'a [PeerName] {
        let Some(index) = graph::index_of(&self.names, source) else {
            return &[];
        };
        let Some(row) = tables.broadcast.get(usize::from(index)) else {
            return &[];
        };
        row.get_or_init(|| {
            let hops = tables.graph.flood(index, self.ours);
            let names = hops
                .into_iter()
                .filter_map(|hop| self.names.get(usize::from(hop)));
            names.copied().collect()
        })
    }
}

impl Tables {
    fn new(graph: Adjacency, ours: Index) -> Self {
        Self {
            unicast: graph.walk(ours),
            broadcast: (0..graph.len()).map(|_| OnceLock::new()).collect(),
            graph,
        }
    }

    /// The next hops, each with the number of destinations behind it.
    fn weights(&self, ours: Index, names: &[PeerName]) -> Box<[(PeerName, usize)]> {
        let mut counts = vec![0; names.len()];
        for &hop in &self.unicast.hops {
            if hop != ours && hop != NONE {
                counts[usize::from(hop)] += 1;
            }
        }
        let counted = names.iter().copied().zip(counts);
        counted.filter(|&(_, count)| count > 0).collect()
    }
}

#[cfg(test)]
mod tests;
