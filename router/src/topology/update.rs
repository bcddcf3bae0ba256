//! The payload of gossip on channel `topology`.
//!
//! One gob stream of pairs, one pair per peer, until the end of the data. No bytes: no peers. A
//! summary without its list at the very end is dropped.
//!
//! ```text
//! summary  struct  NameByte bytes | NickName string | UID uint | Version uint | ShortID uint |
//!                  HasShortID bool
//! list     slice of
//!          struct  NameByte bytes | RemoteTCPAddr string | Outbound bool | Established bool
//! ```
//!
//! A name is a big-endian number, in 6 bytes as a rule. Fields are matched by name and others are
//! skipped. The short id counts only with `HasShortID`, since 0 is one too.
//!
//! Source: Weave mesh protocol, section 3.6.

use std::ops::Range;

use proto::gob::{self, Decoder, Limits, StructWriter, TypeId, put_uint};
use proto::{PeerName, PeerUid, ShortId};
use thiserror::Error;

use super::record::{Connections, Nickname, Peer, PeerConnection};
use crate::constants::MAX_TOPOLOGY_TEXT_LEN;

/// A payload that cannot be decoded. Nothing of it was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("bad topology update: {0}")]
pub struct UpdateError(#[from] gob::Error);

/// A decoded payload; texts are borrowed from it.
#[derive(Debug, Default)]
pub(super) struct Update<'a> {
    /// The peers described, in order; a name may come twice.
    pub(super) peers: Vec<PeerUpdate<'a>>,
    /// The lists of all of them, one after the other.
    connections: Vec<ConnectionUpdate<'a>>,
    /// Records and connections left out: a name of more than 48 bits, an endless text.
    pub(super) ignored: u64,
}

/// One peer's record.
#[derive(Debug)]
pub(super) struct PeerUpdate<'a> {
    pub(super) name: PeerName,
    pub(super) uid: PeerUid,
    pub(super) version: u64,
    short_id: Option<ShortId>,
    nickname: &'a [u8],
    connections: Range<usize>,
}

#[derive(Debug)]
struct ConnectionUpdate<'a> {
    remote: PeerName,
    address: &'a [u8],
    outbound: bool,
    established: bool,
}

impl<'a> Update<'a> {
    /// Decodes all of `payload`, or nothing.
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, UpdateError> {
        let mut update = Self::default();
        let mut decoder = Decoder::new(payload, Limits::GOSSIP);
        while let Some(summary) = decoder.next_value()? {
            let summary = Summary::decode(summary)?;
            let Some(list) = decoder.next_value()? else {
                break;
            };
            update.push(&summary, list)?;
        }
        Ok(update)
    }

    fn push(&mut self, summary: &Summary<'a>, list: gob::Value<'_, 'a>) -> Result<(), UpdateError> {
        let start = self.connections.len();
        let mut sound = summary.nickname.len() <= MAX_TOPOLOGY_TEXT_LEN;
        let mut list = list.into_slice()?;
        while let Some(element) = list.next_element()? {
            let connection = ConnectionSummary::decode(element)?;
            sound &= connection.address.len() <= MAX_TOPOLOGY_TEXT_LEN;
            if let Some(remote) = name_from_bytes(connection.name) {
                self.connections.push(ConnectionUpdate {
                    remote,
                    address: connection.address,
                    outbound: connection.outbound,
                    established: connection.established,
                });
            } else {
                self.ignored += 1;
            }
        }
        match name_from_bytes(summary.name).filter(|_| sound) {
            Some(name) => self.peers.push(PeerUpdate {
                name,
                uid: PeerUid(summary.uid),
                version: summary.version,
                short_id: summary.has_short_id.then_some(ShortId(summary.short_id)),
                nickname: summary.nickname,
                connections: start..self.connections.len(),
            }),
            None => {
                self.connections.truncate(start);
                self.ignored += 1;
            }
        }
        Ok(())
    }

    /// The record that `news` describes.
    pub(super) fn record(&self, news: &PeerUpdate<'_>) -> Peer {
        let listed = self.connections.get(news.connections.clone());
        let connections = listed.unwrap_or_default().iter();
        Peer {
            name: news.name,
            nickname: Nickname::from(news.nickname),
            uid: news.uid,
            version: news.version,
            short_id: news.short_id,
            connections: connections
                .map(|connection| PeerConnection {
                    remote: connection.remote,
                    address: connection.address.into(),
                    outbound: connection.outbound,
                    established: connection.established,
                })
                .collect::<Connections>(),
        }
    }

    /// The far ends of all connections, ascending, each once.
    pub(super) fn far_ends(&self) -> Vec<PeerName> {
        let remotes = self.connections.iter();
        let mut names: Vec<_> = remotes.map(|connection| connection.remote).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl PeerUpdate<'_> {
    /// Connections listed, before doubles are dropped.
    pub(super) fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Whether this record replaces the `known` one of the same peer. The version comes before
    /// the life: a restarted peer has to jump past its old version first.
    pub(super) fn supersedes(&self, known: &Peer) -> bool {
        let gains_short_id = self.short_id.is_some() && known.short_id.is_none();
        (self.version, self.uid, gains_short_id) > (known.version, known.uid, false)
    }
}

/// The name of a peer, as a big-endian number of any length. `None`: it has more than 48 bits.
fn name_from_bytes(bytes: &[u8]) -> Option<PeerName> {
    let (head, tail) = bytes.split_at(bytes.len().saturating_sub(6));
    if head.iter().any(|&byte| byte != 0) {
        return None;
    }
    let number = tail
        .iter()
        .fold(0, |number, &byte| number << 8 | u64::from(byte));
    PeerName::from_u64(number)
}

#[derive(Debug, Default)]
struct Summary<'a> {
    name: &'a [u8],
    nickname: &'a [u8],
    uid: u64,
    version: u64,
    short_id: u16,
    has_short_id: bool,
}

impl<'a> Summary<'a> {
    fn decode(value: gob::Value<'_, 'a>) -> Result<Self, gob::Error> {
        let mut summary = Self::default();
        let mut fields = value.into_struct()?;
        while let Some((name, value)) = fields.next_field()? {
            match name {
                b"NameByte" => summary.name = value.bytes()?,
                b"NickName" => summary.nickname = value.string()?,
                b"UID" => summary.uid = value.uint()?,
                b"Version" => summary.version = value.uint()?,
                b"ShortID" => summary.short_id = value.uint_as()?,
                b"HasShortID" => summary.has_short_id = value.bool()?,
                _ => value.skip()?,
            }
        }
        Ok(summary)
    }
}

#[derive(Debug, Default)]
struct ConnectionSummary<'a> {
    name: &'a [u8],
    address: &'a [u8],
    outbound: bool,
    established: bool,
}

impl<'a> ConnectionSummary<'a> {
    fn decode(value: gob::Value<'_, 'a>) -> Result<Self, gob::Error> {
        let mut summary = Self::default();
        let mut fields = value.into_struct()?;
        while let Some((name, value)) = fields.next_field()? {
            match name {
                b"NameByte" => summary.name = value.bytes()?,
                b"RemoteTCPAddr" => summary.address = value.string()?,
                b"Outbound" => summary.outbound = value.bool()?,
                b"Established" => summary.established = value.bool()?,
                _ => value.skip()?,
            }
        }
        Ok(summary)
    }
}

const PEER: TypeId = TypeId(65);
const CONNECTION: TypeId = TypeId(66);
const LIST: TypeId = TypeId(67);

/// Writes a payload. Ids of types are ours to choose, and their names may be left out.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    stream: gob::Encoder,
}

impl Encoder {
    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.stream.len()
    }

    /// Appends the record of `peer`.
    pub(super) fn push(&mut self, peer: &Peer) {
        let first = self.stream.is_empty();
        if first {
            self.stream.define_struct(
                PEER,
                "",
                &[
                    ("NameByte", TypeId::BYTES),
                    ("NickName", TypeId::STRING),
                    ("UID", TypeId::UINT),
                    ("Version", TypeId::UINT),
                    ("ShortID", TypeId::UINT),
                    ("HasShortID", TypeId::BOOL),
                ],
            );
        }
        self.stream.struct_value(PEER, |fields| {
            fields
                .bytes(&peer.name.to_bytes())
                .bytes(peer.nickname.as_bytes())
                .uint(peer.uid.0)
                .uint(peer.version)
                .uint(peer.short_id.map_or(0, |id| id.0.into()))
                .bool(peer.short_id.is_some());
        });
        if first {
            self.stream
                .define_slice(LIST, "", CONNECTION)
                .define_struct(
                    CONNECTION,
                    "",
                    &[
                        ("NameByte", TypeId::BYTES),
                        ("RemoteTCPAddr", TypeId::STRING),
                        ("Outbound", TypeId::BOOL),
                        ("Established", TypeId::BOOL),
                    ],
                );
        }
        self.stream.value(LIST, |out| {
            put_uint(out, peer.connections.len() as u64);
            for connection in &peer.connections {
                StructWriter::write(out, |fields| {
                    fields.bytes(&connection.remote.to_bytes());
                    connection.address.with_bytes(|address| {
                        fields.bytes(address);
                    });
                    fields
                        .bool(connection.outbound)
                        .bool(connection.established);
                });
            }
        });
    }

    /// The payload.
    pub(super) fn finish(self) -> Vec<u8> {
        self.stream.finish()
    }
}

#[cfg(test)]
mod tests;
