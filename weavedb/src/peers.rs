//! The value of direct peers: a list of texts.

use ipam::wire::WireError;
use proto::gob::{Decoder, Encoder, Limits, TypeId, put_bytes, put_uint};

/// More than anyone has; a longer list is no list of peers.
const MAX_PEERS: usize = 1 << 20;

pub(crate) fn encode(peers: &[String]) -> Vec<u8> {
    const LIST: TypeId = TypeId(65);
    let mut out = Encoder::new();
    out.define_slice(LIST, "[]string", TypeId::STRING);
    out.value(LIST, |out| {
        put_uint(out, peers.len() as u64);
        for peer in peers {
            put_bytes(out, peer.as_bytes());
        }
    });
    out.finish()
}

/// A peer that is no UTF-8 is made so.
pub(crate) fn decode(value: &[u8]) -> Result<Vec<String>, WireError> {
    let limits = Limits {
        message_len: usize::MAX,
        elements: MAX_PEERS,
        ..Limits::GOSSIP
    };
    let mut decoder = Decoder::new(value, limits);
    let mut list = decoder.require_value()?.into_slice()?;
    let mut peers = Vec::new();
    while let Some(peer) = list.next_element()? {
        peers.push(String::from_utf8_lossy(peer.string()?).into_owned());
    }
    Ok(peers)
}
