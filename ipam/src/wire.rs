//! What goes over the wire and onto the disk, all in Go's gob encoding.
//!
//! ```text
//! gossip and broadcasts:  gossip state
//! unicasts:               00 | range           space request
//!                         01 | gossip state    ring update
//!                         02 | range           space request denied
//! ```
//!
//! * gossip state: a struct of `Now` (the sender's clock, Unix seconds), `Nicknames` (peer to
//!   name), `Paxos` (what is known of all electors; absent if the sender is no elector, but
//!   present and empty if it is one who knows of none) and `Ring`. Either of the latter two is
//!   there, or neither.
//! * range: `Start`, and `End` exclusive.
//!
//! On disk there are the ring and a map from identifiers to addresses; see [`persist`].
//!
//! Every payload brings the definitions of all its types. Their ids are those of the recorded
//! vectors; they mean nothing to a reader.
//!
//! Source: IPAM protocol, sections 3 and 11.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proto::gob::{
    Decoder, Encoder, Error as GobError, Limits, StructReader, StructWriter, TypeId, Value,
    put_bytes, put_uint,
};
use proto::{PeerName, PeerUid};
use thiserror::Error;

use crate::paxos::{AcceptedValue, Claims, NodeClaims, NodeId, ProposalId};
use crate::range::{Address, Range};
use crate::ring::{Entry, Ring};

pub mod persist;

/// Name of the gossip channel.
pub const CHANNEL: &str = "IPallocation";

/// A payload that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// Not the gob stream of such a value.
    #[error(transparent)]
    Gob(#[from] GobError),
    /// A number that is no peer's name, as it has more than 48 bits.
    #[error("peer name out of range: {0:#x}")]
    BadPeerName(u64),
    /// More entries than anyone could need.
    #[error("ring with too many entries: {0}")]
    RingTooLong(usize),
    /// A unicast without its first byte. Peers of the original die of it.
    #[error("empty unicast message")]
    EmptyUnicast,
    /// A unicast of a kind that does not exist.
    #[error("unicast message of unknown kind {0}")]
    UnknownKind(u8),
}

/// Most entries of a ring that are read.
pub const MAX_RING_ENTRIES: usize = 1 << 18;

/// Most bytes of a nickname that are kept.
const MAX_NICKNAME_LEN: usize = 256;

/// One peer's copy of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingCopy {
    /// Whose copy it is. Means nothing to a receiver.
    pub holder: PeerName,
    /// The ring, [not checked](Ring::check) yet if received.
    pub ring: Ring,
}

/// What peers tell each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GossipState {
    /// The sender's clock in Unix seconds. Means nothing to a receiver.
    pub now: i64,
    /// What peers are called by people.
    pub nicknames: BTreeMap<PeerName, Vec<u8>>,
    /// What is known of all electors. `None`: the sender is no elector, or has a ring.
    pub paxos: Option<Claims>,
    /// The ring, once there is one.
    pub ring: Option<RingCopy>,
}

/// A message to one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unicast {
    /// Asks for some of the addresses in a range.
    SpaceRequest(Range),
    /// The sender's state.
    RingUpdate(GossipState),
    /// There are none to give in that range.
    SpaceRequestDenied(Range),
}

mod id {
    use proto::gob::TypeId;

    pub(super) const RING: TypeId = TypeId(65);
    pub(super) const ENTRY: TypeId = TypeId(66);
    pub(super) const ENTRIES: TypeId = TypeId(67);
    pub(super) const SEEDS: TypeId = TypeId(68);
    pub(super) const GOSSIP_STATE: TypeId = TypeId(73);
    pub(super) const NICKNAMES: TypeId = TypeId(74);
    pub(super) const NODE_ID: TypeId = TypeId(75);
    pub(super) const NODE_CLAIMS: TypeId = TypeId(76);
    pub(super) const PROPOSAL_ID: TypeId = TypeId(77);
    pub(super) const ACCEPTED_VALUE: TypeId = TypeId(78);
    pub(super) const PEERS: TypeId = TypeId(79);
    pub(super) const CLAIMS: TypeId = TypeId(80);
    pub(super) const RANGE: TypeId = TypeId(81);
}

fn define_ring(out: &mut Encoder) {
    let uint = TypeId::UINT;
    out.define_struct(
        id::RING,
        "Ring",
        &[
            ("Start", uint),
            ("End", uint),
            ("Peer", uint),
            ("Entries", id::ENTRIES),
            ("Seeds", id::SEEDS),
        ],
    );
    out.define_slice(id::ENTRIES, "entries", id::ENTRY);
    let entry = [
        ("Token", uint),
        ("Peer", uint),
        ("Version", uint),
        ("Free", uint),
    ];
    out.define_struct(id::ENTRY, "", &entry);
    out.define_slice(id::SEEDS, "[]mesh.PeerName", uint);
}

fn define_claims(out: &mut Encoder) {
    let uint = TypeId::UINT;
    out.define_map(id::CLAIMS, "GossipState", id::NODE_ID, id::NODE_CLAIMS);
    out.define_struct(id::NODE_ID, "", &[("Name", uint), ("UID", uint)]);
    let claims = [
        ("Promise", id::PROPOSAL_ID),
        ("Accepted", id::PROPOSAL_ID),
        ("AcceptedVal", id::ACCEPTED_VALUE),
    ];
    out.define_struct(id::NODE_CLAIMS, "", &claims);
    let proposal = [("Round", uint), ("Proposer", id::NODE_ID)];
    out.define_struct(id::PROPOSAL_ID, "ProposalID", &proposal);
    let value = [("Value", id::PEERS), ("Origin", id::PROPOSAL_ID)];
    out.define_struct(id::ACCEPTED_VALUE, "AcceptedValue", &value);
    out.define_slice(id::PEERS, "Value", uint);
}

static GOSSIP_DEFINITIONS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut out = Encoder::new();
    let fields = [
        ("Now", TypeId::INT),
        ("Nicknames", id::NICKNAMES),
        ("Paxos", id::CLAIMS),
        ("Ring", id::RING),
    ];
    out.define_struct(id::GOSSIP_STATE, "gossipState", &fields);
    let name = "map[mesh.PeerName]string";
    out.define_map(id::NICKNAMES, name, TypeId::UINT, TypeId::STRING);
    define_claims(&mut out);
    define_ring(&mut out);
    out.finish()
});

fn write_ring(out: &mut StructWriter<'_>, holder: PeerName, ring: &Ring) {
    let universe = ring.universe();
    out.uint(universe.start.0.into())
        .uint(universe.end.0.into())
        .uint(holder.as_u64())
        .slice(ring.entries(), |out, entry| {
            StructWriter::write(out, |out| {
                out.uint(entry.token.0.into())
                    .uint(entry.peer.as_u64())
                    .uint(entry.version.into())
                    .uint(entry.free.into());
            });
        })
        .slice(ring.seeds(), |out, peer| put_uint(out, peer.as_u64()));
}

fn write_node_id(out: &mut StructWriter<'_>, id: NodeId) {
    out.uint(id.name.as_u64()).uint(id.uid.0);
}

fn write_proposal(out: &mut StructWriter<'_>, id: ProposalId) {
    out.uint(id.round)
        .nested(|out| write_node_id(out, id.proposer));
}

fn write_claims(out: &mut Vec<u8>, claims: &Claims) {
    put_uint(out, claims.len() as u64);
    for (id, claims) in claims {
        StructWriter::write(out, |out| write_node_id(out, *id));
        StructWriter::write(out, |out| {
            out.nested(|out| write_proposal(out, claims.promise))
                .nested(|out| write_proposal(out, claims.accepted))
                .nested(|out| {
                    let accepted = &claims.accepted_value;
                    out.slice(&accepted.value, |out, peer| put_uint(out, peer.as_u64()))
                        .nested(|out| write_proposal(out, accepted.origin));
                });
        });
    }
}

/// Encodes a gossip state from its parts; see [`GossipState`].
pub fn encode_gossip(
    now: i64,
    nicknames: &BTreeMap<PeerName, Vec<u8>>,
    paxos: Option<&Claims>,
    ring: Option<(PeerName, &Ring)>,
) -> Vec<u8> {
    let mut out = Encoder::new();
    out.raw(&GOSSIP_DEFINITIONS);
    out.struct_value(id::GOSSIP_STATE, |out| {
        out.int(now);
        // Go leaves out no map but the one that does not exist.
        if nicknames.is_empty() {
            out.omit();
        } else {
            out.field(|out| {
                put_uint(out, nicknames.len() as u64);
                for (peer, nickname) in nicknames {
                    put_uint(out, peer.as_u64());
                    put_bytes(out, nickname);
                }
            });
        }
        match paxos {
            None => out.omit(),
            Some(claims) => out.field(|out| write_claims(out, claims)),
        };
        match ring {
            None => out.omit(),
            Some((holder, ring)) => out.nested(|out| write_ring(out, holder, ring)),
        };
    });
    out.finish()
}

impl GossipState {
    /// The payload of gossip and broadcasts.
    pub fn encode(&self) -> Vec<u8> {
        encode_gossip(
            self.now,
            &self.nicknames,
            self.paxos.as_ref(),
            self.ring.as_ref().map(|copy| (copy.holder, &copy.ring)),
        )
    }

    /// Reads the payload of gossip and broadcasts.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut decoder = Decoder::new(payload, Limits::GOSSIP);
        let mut fields = decoder.require_value()?.into_struct()?;
        let mut state = Self::default();
        while let Some((name, value)) = fields.next_field()? {
            match name {
                b"Now" => state.now = value.int()?,
                b"Nicknames" => {
                    let mut pairs = value.into_map()?;
                    while let Some(peer) = pairs.next_key()? {
                        let peer = read_peer(peer)?;
                        let name = pairs.value()?.string()?;
                        let name = name.get(..MAX_NICKNAME_LEN).unwrap_or(name);
                        state.nicknames.insert(peer, name.to_vec());
                    }
                }
                b"Paxos" => state.paxos = Some(read_claims(value)?),
                b"Ring" => state.ring = Some(read_ring(value.into_struct()?)?),
                _ => value.skip()?,
            }
        }
        Ok(state)
    }
}

fn read_peer(value: Value<'_, '_>) -> Result<PeerName, WireError> {
    let number = value.uint()?;
    PeerName::from_u64(number).ok_or(WireError::BadPeerName(number))
}

fn read_address(value: Value<'_, '_>) -> Result<Address, WireError> {
    Ok(Address(value.uint_as()?))
}

fn read_peers(value: Value<'_, '_>) -> Result<Vec<PeerName>, WireError> {
    let mut list = value.into_slice()?;
    let mut peers = Vec::new();
    while let Some(peer) = list.next_element()? {
        peers.push(read_peer(peer)?);
    }
    Ok(peers)
}

fn read_ring(mut fields: StructReader<'_, '_>) -> Result<RingCopy, WireError> {
    let mut universe = Range::default();
    let mut holder = PeerName::UNKNOWN;
    let mut entries = Vec::new();
    let mut seeds = Vec::new();
    while let Some((name, value)) = fields.next_field()? {
        match name {
            b"Start" => universe.start = read_address(value)?,
            b"End" => universe.end = read_address(value)?,
            b"Peer" => holder = read_peer(value)?,
            b"Entries" => {
                let mut list = value.into_slice()?;
                if list.len() > MAX_RING_ENTRIES {
                    return Err(WireError::RingTooLong(list.len()));
                }
                entries.reserve_exact(list.len());
                while let Some(entry) = list.next_element()? {
                    entries.push(read_entry(entry.into_struct()?)?);
                }
            }
            b"Seeds" => seeds = read_peers(value)?,
            _ => value.skip()?,
        }
    }
    let ring = Ring::from_parts(universe, entries, seeds);
    Ok(RingCopy { holder, ring })
}

fn read_entry(mut fields: StructReader<'_, '_>) -> Result<Entry, WireError> {
    let mut entry = Entry {
        token: Address::default(),
        peer: PeerName::UNKNOWN,
        version: 0,
        free: 0,
    };
    while let Some((name, value)) = fields.next_field()? {
        match name {
            b"Token" => entry.token = read_address(value)?,
            b"Peer" => entry.peer = read_peer(value)?,
            b"Version" => entry.version = value.uint_as()?,
            b"Free" => entry.free = value.uint_as()?,
            _ => value.skip()?,
        }
    }
    Ok(entry)
}

fn read_node_id(value: Value<'_, '_>) -> Result<NodeId, WireError> {
    let mut fields = value.into_struct()?;
    let mut id = NodeId::default();
    while let Some((name, value)) = fields.next_field()? {
        match name {
            b"Name" => id.name = read_peer(value)?,
            b"UID" => id.uid = PeerUid(value.uint()?),
            _ => value.skip()?,
        }
    }
    Ok(id)
}

fn read_proposal(value: Value<'_, '_>) -> Result<ProposalId, WireError> {
    let mut fields = value.into_struct()?;
    let mut id = ProposalId::default();
    while let Some((name, value)) = fields.next_field()? {
        match name {
            b"Round" => id.round = value.uint()?,
            b"Proposer" => id.proposer = read_node_id(value)?,
            _ => value.skip()?,
        }
    }
    Ok(id)
}

fn read_claims(value: Value<'_, '_>) -> Result<Claims, WireError> {
    let mut pairs = value.into_map()?;
    let mut all = Claims::new();
    while let Some(id) = pairs.next_key()? {
        let id = read_node_id(id)?;
        let mut claims = NodeClaims::default();
        let mut fields = pairs.value()?.into_struct()?;
        while let Some((name, value)) = fields.next_field()? {
            match name {
                b"Promise" => claims.promise = read_proposal(value)?,
                b"Accepted" => claims.accepted = read_proposal(value)?,
                b"AcceptedVal" => claims.accepted_value = read_accepted_value(value)?,
                _ => value.skip()?,
            }
        }
        all.insert(id, claims);
    }
    Ok(all)
}

fn read_accepted_value(value: Value<'_, '_>) -> Result<AcceptedValue, WireError> {
    let mut accepted = AcceptedValue::default();
    let mut fields = value.into_struct()?;
    while let Some((name, value)) = fields.next_field()? {
        match name {
            b"Value" => accepted.value = read_peers(value)?,
            b"Origin" => accepted.origin = read_proposal(value)?,
            _ => value.skip()?,
        }
    }
    Ok(accepted)
}

fn encode_range(kind: u8, range: Range) -> Vec<u8> {
    let mut out = Encoder::new();
    out.raw(&[kind]);
    let fields = [("Start", TypeId::UINT), ("End", TypeId::UINT)];
    out.define_struct(id::RANGE, "Range", &fields);
    out.struct_value(id::RANGE, |out| {
        out.uint(range.start.0.into()).uint(range.end.0.into());
    });
    out.finish()
}

fn decode_range(payload: &[u8]) -> Result<Range, WireError> {
    let mut decoder = Decoder::new(payload, Limits::GOSSIP);
    let mut fields = decoder.require_value()?.into_struct()?;
    let mut range = Range::default();
    while let Some((name, value)) = fields.next_field()? {
        match name {
            b"Start" => range.start = read_address(value)?,
            b"End" => range.end = read_address(value)?,
            _ => value.skip()?,
        }
    }
    Ok(range)
}

impl Unicast {
    const SPACE_REQUEST: u8 = 0;
    const RING_UPDATE: u8 = 1;
    const SPACE_REQUEST_DENIED: u8 = 2;

    /// The payload of a unicast.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::SpaceRequest(range) => encode_range(Self::SPACE_REQUEST, *range),
            Self::RingUpdate(state) => Self::ring_update(&state.encode()),
            Self::SpaceRequestDenied(range) => encode_range(Self::SPACE_REQUEST_DENIED, *range),
        }
    }

    /// The payload of a ring update, from an encoded gossip state.
    pub fn ring_update(state: &[u8]) -> Vec<u8> {
        [&[Self::RING_UPDATE], state].concat()
    }

    /// Reads the payload of a unicast.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let (kind, rest) = payload.split_first().ok_or(WireError::EmptyUnicast)?;
        Ok(match *kind {
            Self::SPACE_REQUEST => Self::SpaceRequest(decode_range(rest)?),
            Self::RING_UPDATE => Self::RingUpdate(GossipState::decode(rest)?),
            Self::SPACE_REQUEST_DENIED => Self::SpaceRequestDenied(decode_range(rest)?),
            kind => return Err(WireError::UnknownKind(kind)),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
