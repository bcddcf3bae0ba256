//! The state file of Weave Net 2: what a host takes along when it changes over, and back.
//!
//! The file is a [`bolt`] database with one bucket, `top`:
//!
//! | key | value |
//! |---|---|
//! | `version` | two bytes, major and minor version: 1, 0 |
//! | `peername` | the host's name in the mesh |
//! | `ring` | its copy of the ring |
//! | `ownedAddresses` | the addresses that it gave out |
//! | `directPeers` | the hosts that it was told to connect to |
//! | `flag:NAME` | a text each, kept for scripts |
//!
//! All values but the first are gob streams; see [`ipam::wire::persist`]. Keys that are not known
//! here are carried along as they are.
//!
//! Nothing here does IO. No bytes, however damaged, make it panic, loop, or use more memory than a
//! small multiple of their number.
//!
//! Source: Weave IPAM protocol, section 11.

pub mod bolt;
mod peers;

use std::collections::BTreeMap;

use ipam::ring::{BadRing, Ring};
use ipam::wire::WireError;
use ipam::wire::persist::{
    KEY_OWNED, KEY_PEER_NAME, KEY_RING, Owned, decode_name, decode_owned, decode_ring, encode_name,
    encode_owned, encode_ring,
};
use proto::PeerName;
use thiserror::Error;

/// The one bucket.
const BUCKET: &[u8] = b"top";
/// Key of the version.
const KEY_VERSION: &str = "version";
/// Key of the direct peers.
const KEY_PEERS: &str = "directPeers";
/// Major and minor version of what is in the bucket.
const VERSION: [u8; 2] = [1, 0];

/// What a state file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// The host's name in the mesh; a host that never allocated addresses has stored none.
    pub name: Option<PeerName>,
    /// Its copy of the ring, checked; empty if there was none.
    pub ring: Ring,
    /// The addresses that it gave out, by identifier.
    pub owned: BTreeMap<String, Owned>,
    /// The hosts that it was told to connect to, as the user wrote them.
    pub direct_peers: Vec<String>,
    /// All other keys, with their values as they are.
    pub others: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Number of the transaction that wrote it; of two states of one file, the later has the higher.
    /// 0 is written as 1.
    pub transaction: u64,
    /// What is odd about the file, though it can be used.
    pub oddity: Option<bolt::Oddity>,
}

/// A file that cannot be used. The texts go on from "the file ...".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// Not a sound bolt database.
    #[error(transparent)]
    Bolt(#[from] bolt::Error),
    /// A bolt database, but not of Weave.
    #[error("is a database, but not one of Weave Net: there is no bucket \"top\" in it")]
    NotWeave,
    /// Written by a Weave that there never was.
    #[error("has major version {0} where Weave Net has 1")]
    Version(u8),
    /// A value that cannot be read.
    #[error("is damaged: its value {key:?} cannot be read: {source}")]
    Value {
        /// Its key.
        key: &'static str,
        /// Why not.
        source: WireError,
    },
    /// A ring that contradicts itself.
    #[error("is damaged: {0}")]
    Ring(BadRing),
}

impl State {
    /// Reads the content of a state file.
    pub fn decode(file: &[u8]) -> Result<Self, Error> {
        let database = bolt::Database::open(file)?;
        let values = database.bucket(BUCKET)?.ok_or(Error::NotWeave)?;
        let mut state = Self {
            transaction: database.transaction(),
            oddity: database.oddity(),
            ..Self::default()
        };
        for (key, value) in values {
            let bad = |key| move |source| Error::Value { key, source };
            match str::from_utf8(key) {
                Ok(KEY_VERSION) => match value.first() {
                    Some(&major) if major != VERSION[0] => return Err(Error::Version(major)),
                    _ => {}
                },
                Ok(KEY_PEER_NAME) => {
                    state.name = Some(decode_name(value).map_err(bad(KEY_PEER_NAME))?);
                }
                Ok(KEY_RING) => state.ring = decode_ring(value).map_err(bad(KEY_RING))?.ring,
                Ok(KEY_OWNED) => state.owned = decode_owned(value).map_err(bad(KEY_OWNED))?,
                Ok(KEY_PEERS) => {
                    state.direct_peers = peers::decode(value).map_err(bad(KEY_PEERS))?;
                }
                _ => {
                    state.others.insert(key.to_vec(), value.to_vec());
                }
            }
        }
        state.ring.check().map_err(Error::Ring)?;
        Ok(state)
    }

    /// The content of a new state file, with pages of `page_len` bytes: the size of the kernel's
    /// pages, so that the original finds its way also where the first page is lost.
    pub fn encode(&self, page_len: bolt::PageLen) -> Result<Vec<u8>, bolt::TooBig> {
        let mut values = self.others.clone();
        let mut put = |key: &str, value| values.insert(key.into(), value);
        put(KEY_VERSION, VERSION.to_vec());
        put(KEY_PEERS, peers::encode(&self.direct_peers));
        if let Some(name) = self.name {
            put(KEY_PEER_NAME, encode_name(name));
        }
        put(
            KEY_RING,
            encode_ring(self.name.unwrap_or_default(), &self.ring),
        );
        put(KEY_OWNED, encode_owned(self.owned.iter()));
        bolt::encode(page_len, self.transaction, BUCKET, &values)
    }
}

#[cfg(test)]
mod tests;
