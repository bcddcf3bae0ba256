//! The values of a state database, as the original writes them: one bucket `top` with the keys
//! below, each holding one gob value.
//!
//! | key | value |
//! |---|---|
//! | `peername` | the peer's name |
//! | `ring` | its copy of the ring |
//! | `ownedAddresses` | identifier to its addresses, and whether it is a container's |
//!
//! [`encode_claims`] is our own: the original keeps no such value.
//!
//! Source: IPAM protocol, section 11.

use std::collections::BTreeMap;

use proto::PeerName;
use proto::gob::{Decoder, Encoder, Limits, StructWriter, TypeId, put_bytes, put_uint};

use super::{RingCopy, WireError, id, read_claims, read_peer, read_ring, write_claims, write_ring};
use super::{define_claims, define_ring};
use crate::paxos::Claims;
use crate::range::{Address, Cidr};
use crate::ring::Ring;

/// Key of the peer's name.
pub const KEY_PEER_NAME: &str = "peername";
/// Key of the ring.
pub const KEY_RING: &str = "ring";
/// Key of the addresses given out.
pub const KEY_OWNED: &str = "ownedAddresses";

/// No bounds but the input's own: it comes from our own disk.
const LIMITS: Limits = Limits {
    message_len: usize::MAX,
    elements: usize::MAX,
    ..Limits::GOSSIP
};

/// The addresses of one identifier.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owned {
    /// Whether the identifier is that of a container, whose death frees the addresses.
    pub is_container: bool,
    /// The addresses, in the order in which they were given out, each with the prefix length of
    /// the subnet that was asked for.
    pub cidrs: Vec<Cidr>,
}

/// Encodes the peer's name.
pub fn encode_name(name: PeerName) -> Vec<u8> {
    let mut out = Encoder::new();
    out.uint(name.as_u64());
    out.finish()
}

/// Reads the peer's name.
pub fn decode_name(value: &[u8]) -> Result<PeerName, WireError> {
    read_peer(Decoder::new(value, LIMITS).require_value()?)
}

/// Encodes the ring.
pub fn encode_ring(holder: PeerName, ring: &Ring) -> Vec<u8> {
    let mut out = Encoder::new();
    define_ring(&mut out);
    out.struct_value(id::RING, |out| write_ring(out, holder, ring));
    out.finish()
}

/// Reads the ring.
pub fn decode_ring(value: &[u8]) -> Result<RingCopy, WireError> {
    read_ring(Decoder::new(value, LIMITS).require_value()?.into_struct()?)
}

mod own {
    use proto::gob::TypeId;

    pub(super) const OWNED: TypeId = TypeId(69);
    pub(super) const CIDR: TypeId = TypeId(70);
    pub(super) const CIDRS: TypeId = TypeId(71);
    pub(super) const ALL: TypeId = TypeId(72);
}

/// Encodes the addresses given out.
pub fn encode_owned<'a, I: AsRef<str> + 'a>(
    owned: impl ExactSizeIterator<Item = (&'a I, &'a Owned)>,
) -> Vec<u8> {
    let mut out = Encoder::new();
    out.define_map(own::ALL, "", TypeId::STRING, own::OWNED);
    let fields = [("IsContainer", TypeId::BOOL), ("Cidrs", own::CIDRS)];
    out.define_struct(own::OWNED, "", &fields);
    out.define_slice(own::CIDRS, "[]address.CIDR", own::CIDR);
    let fields = [("Addr", TypeId::UINT), ("PrefixLen", TypeId::INT)];
    out.define_struct(own::CIDR, "CIDR", &fields);
    out.value(own::ALL, |out| {
        put_uint(out, owned.len() as u64);
        for (ident, owned) in owned {
            put_bytes(out, ident.as_ref().as_bytes());
            StructWriter::write(out, |out| {
                out.bool(owned.is_container)
                    .slice(&owned.cidrs, |out, cidr| {
                        StructWriter::write(out, |out| {
                            out.uint(cidr.address.0.into())
                                .int(cidr.prefix_len().into());
                        });
                    });
            });
        }
    });
    out.finish()
}

/// Reads the addresses given out. An identifier that is no UTF-8 is made so.
pub fn decode_owned(value: &[u8]) -> Result<BTreeMap<String, Owned>, WireError> {
    let mut decoder = Decoder::new(value, LIMITS);
    let mut pairs = decoder.require_value()?.into_map()?;
    let mut all = BTreeMap::new();
    while let Some(ident) = pairs.next_key()? {
        let ident = String::from_utf8_lossy(ident.string()?).into_owned();
        let mut owned = Owned::default();
        let mut fields = pairs.value()?.into_struct()?;
        while let Some((name, value)) = fields.next_field()? {
            match name {
                b"IsContainer" => owned.is_container = value.bool()?,
                b"Cidrs" => {
                    let mut list = value.into_slice()?;
                    while let Some(cidr) = list.next_element()? {
                        let mut fields = cidr.into_struct()?;
                        let (mut address, mut prefix_len) = (Address::default(), 0);
                        while let Some((name, value)) = fields.next_field()? {
                            match name {
                                b"Addr" => address = Address(value.uint_as()?),
                                b"PrefixLen" => prefix_len = value.int_as()?,
                                _ => value.skip()?,
                            }
                        }
                        owned.cidrs.push(Cidr::new(address, prefix_len));
                    }
                }
                _ => value.skip()?,
            }
        }
        all.insert(ident, owned);
    }
    Ok(all)
}

/// Encodes what this peer has promised and accepted.
pub fn encode_claims(claims: &Claims) -> Vec<u8> {
    let mut out = Encoder::new();
    define_claims(&mut out);
    out.value(id::CLAIMS, |out| write_claims(out, claims));
    out.finish()
}

/// Reads what this peer has promised and accepted.
pub fn decode_claims(value: &[u8]) -> Result<Claims, WireError> {
    read_claims(Decoder::new(value, LIMITS).require_value()?)
}
