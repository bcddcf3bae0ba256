//! Data that waits to be sent.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use proto::PeerName;
use proto::gossip::GossipData;

use crate::topology::Peers;

/// Bytes of topology after which the rest travels in a message of its own: far below the limit for
/// one message, even with the longest record after that.
const TOPOLOGY_PART_LEN: usize = 1 << 20;

/// Data on its way, in the form in which it merges. Becomes payloads only when it is sent.
pub enum Pending {
    /// The records of these peers, as they are when they are sent.
    Topology(BTreeSet<PeerName>),
    /// Data of a channel's owner.
    Client(Box<dyn GossipData>),
    /// Payloads of a channel that has no owner here, oldest first. Nobody here can merge them.
    Raw(VecDeque<Arc<[u8]>>),
}

impl Pending {
    /// One payload to be relayed as it is.
    pub fn raw(payload: &[u8]) -> Self {
        Self::Raw(VecDeque::from([payload.into()]))
    }

    /// Takes up `newer` data of the same channel. Data of another form takes the place of this:
    /// then the channel got an owner meanwhile, who knows better than what was to be relayed.
    pub fn merge(&mut self, newer: Self) {
        match (self, newer) {
            (Self::Topology(names), Self::Topology(newer)) => names.extend(newer),
            (Self::Client(data), Self::Client(newer)) => data.merge(newer),
            (Self::Raw(payloads), Self::Raw(newer)) => payloads.extend(newer),
            (this, newer) => *this = newer,
        }
    }

    /// The next payload to send, or `None` when there is none left.
    pub(super) fn next_payload(&mut self, peers: &Peers) -> Option<Vec<u8>> {
        match self {
            Self::Topology(names) => {
                let payload = peers.encode_some(names, TOPOLOGY_PART_LEN);
                // Nothing to tell if all the peers have been forgotten meanwhile.
                (!payload.is_empty()).then_some(payload)
            }
            Self::Client(data) => {
                let payload = data.encode();
                *self = Self::Raw(VecDeque::new()); // spent
                Some(payload)
            }
            Self::Raw(payloads) => payloads.pop_front().map(|payload| payload.to_vec()),
        }
    }

    /// Whether there surely is nothing to send any more.
    pub(super) fn is_spent(&self) -> bool {
        match self {
            Self::Topology(names) => names.is_empty(),
            Self::Client(_) => false,
            Self::Raw(payloads) => payloads.is_empty(),
        }
    }
}

/// Payloads to be relayed take room that must be watched.
impl Pending {
    /// Number of raw payloads.
    pub(super) fn raw_count(&self) -> usize {
        match self {
            Self::Raw(payloads) => payloads.len(),
            Self::Topology(_) | Self::Client(_) => 0,
        }
    }

    /// Takes out the oldest raw payload.
    pub(super) fn drop_oldest(&mut self) -> Option<Arc<[u8]>> {
        match self {
            Self::Raw(payloads) => payloads.pop_front(),
            Self::Topology(_) | Self::Client(_) => None,
        }
    }
}

impl Clone for Pending {
    /// For one more neighbour. Raw payloads are shared, not copied.
    fn clone(&self) -> Self {
        match self {
            Self::Topology(names) => Self::Topology(names.clone()),
            Self::Client(data) => Self::Client(data.duplicate()),
            Self::Raw(payloads) => Self::Raw(payloads.clone()),
        }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topology(names) => f.debug_tuple("Topology").field(names).finish(),
            Self::Client(_) => f.write_str("Client(..)"),
            Self::Raw(payloads) => {
                let lens: Vec<_> = payloads.iter().map(|payload| payload.len()).collect();
                f.debug_tuple("Raw").field(&lens).finish()
            }
        }
    }
}
