//! The payload of the gossip channel.
//!
//! ```text
//! GossipData { Timestamp int, Entries []Entry }
//! Entry      { ContainerID string, Origin uint, Addr uint, Hostname string,
//!              Version int, Tombstone int }
//! ```
//!
//! One gob value. Entries are sorted by host name (with its case), origin, container and address.
//! Source: Weave nameserver protocol, section 2.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use proto::PeerName;
use proto::gob::{self, Decoder, Encoder, Limits, StructWriter, TypeId};
use proto::gossip::GossipData;
use thiserror::Error;

use crate::entry::{Entry, Key, Mark};

const GOSSIP_DATA: TypeId = TypeId(65);
const ENTRIES: TypeId = TypeId(67);
const ENTRY: TypeId = TypeId(66);

/// A payload that is no table of names.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Not the gob value above.
    #[error("names in gossip: {0}")]
    Gob(#[from] gob::Error),
    /// An origin that has more than 48 bits.
    #[error("names in gossip: {0} is not a peer name")]
    Origin(u64),
    /// A host name or container id that is not UTF-8.
    #[error("names in gossip: text that is not UTF-8")]
    Text,
}

/// Entries on their way, with the sender's clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Unix seconds of the sender when it made this.
    pub timestamp: i64,
    entries: BTreeMap<Key, Mark>,
}

impl Update {
    /// Entries as of `timestamp`. Of an entry that comes twice the marks are merged.
    pub fn new(timestamp: i64, entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut update = Self {
            timestamp,
            entries: BTreeMap::new(),
        };
        for entry in entries {
            update.insert(entry);
        }
        update
    }

    fn insert(&mut self, Entry { key, mark }: Entry) {
        let known = self.entries.entry(key).or_insert(mark);
        *known = mark.max(*known);
    }

    /// The entries, in table order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry> + '_ {
        self.entries.iter().map(|(key, mark)| Entry {
            key: key.clone(),
            mark: *mark,
        })
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Reads a payload; entries come in any order, and unknown fields are skipped.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut update = Self::default();
        let mut decoder = Decoder::new(payload, Limits::GOSSIP);
        let mut data = decoder.require_value()?.into_struct()?;
        while let Some((name, value)) = data.next_field()? {
            match name {
                b"Timestamp" => update.timestamp = value.int()?,
                b"Entries" => {
                    let mut entries = value.into_slice()?;
                    while let Some(entry) = entries.next_element()? {
                        update.insert(decode_entry(entry)?);
                    }
                }
                _ => value.skip()?,
            }
        }
        Ok(update)
    }

    /// What goes on the wire: IPv4 only, and of entries that differ in nothing but case just one,
    /// since two of them end a 2.8.1 process. A live one is preferred, then the higher mark, then
    /// the first in order.
    fn sendable(&self) -> Vec<(&Key, Ipv4Addr, Mark)> {
        let mut chosen: Vec<(&Key, Ipv4Addr, Mark)> = Vec::with_capacity(self.entries.len());
        for (key, mark) in &self.entries {
            let IpAddr::V4(addr) = key.addr else {
                continue;
            };
            // Variants of one name are neighbours in table order.
            match chosen.last_mut() {
                Some(last) if last.0.is_case_variant_of(key) => {
                    if (mark.is_live(), *mark) > (last.2.is_live(), last.2) {
                        *last = (key, addr, *mark);
                    }
                }
                _ => chosen.push((key, addr, *mark)),
            }
        }
        chosen.sort_by(|(a, ..), (b, ..)| {
            (&a.hostname, a.origin, &a.container, a.addr).cmp(&(
                &b.hostname,
                b.origin,
                &b.container,
                b.addr,
            ))
        });
        chosen
    }
}

fn decode_entry(value: gob::Value<'_, '_>) -> Result<Entry, DecodeError> {
    let mut key = Key {
        hostname: String::new(),
        origin: PeerName::UNKNOWN,
        container: String::new(),
        addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let mut mark = Mark::default();
    let text = |bytes: &[u8]| {
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| DecodeError::Text)
    };
    let mut fields = value.into_struct()?;
    while let Some((name, value)) = fields.next_field()? {
        match name {
            b"ContainerID" => key.container = text(value.string()?)?,
            b"Origin" => {
                let number = value.uint()?;
                key.origin = PeerName::from_u64(number).ok_or(DecodeError::Origin(number))?;
            }
            b"Addr" => key.addr = Ipv4Addr::from_bits(value.uint_as()?).into(),
            b"Hostname" => key.hostname = text(value.string()?)?,
            b"Version" => mark.version = value.int()?,
            b"Tombstone" => mark.tombstone = value.int()?,
            _ => value.skip()?,
        }
    }
    Ok(Entry { key, mark })
}

impl GossipData for Update {
    fn merge(&mut self, newer: Box<dyn GossipData>) {
        // Channels never mix, so it is an Update.
        if let Ok(newer) = newer.into_any().downcast::<Self>() {
            self.timestamp = self.timestamp.max(newer.timestamp);
            for (key, mark) in newer.entries {
                self.insert(Entry { key, mark });
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder
            .define_struct(
                GOSSIP_DATA,
                "GossipData",
                &[("Timestamp", TypeId::INT), ("Entries", ENTRIES)],
            )
            .define_slice(ENTRIES, "Entries", ENTRY)
            .define_struct(
                ENTRY,
                "Entry",
                &[
                    ("ContainerID", TypeId::STRING),
                    ("Origin", TypeId::UINT),
                    ("Addr", TypeId::UINT),
                    ("Hostname", TypeId::STRING),
                    ("Version", TypeId::INT),
                    ("Tombstone", TypeId::INT),
                ],
            )
            .struct_value(GOSSIP_DATA, |data| {
                data.int(self.timestamp)
                    .slice(self.sendable(), |out, (key, addr, mark)| {
                        StructWriter::write(out, |entry| {
                            entry
                                .bytes(key.container.as_bytes())
                                .uint(key.origin.as_u64())
                                .uint(addr.to_bits().into())
                                .bytes(key.hostname.as_bytes())
                                .int(mark.version)
                                .int(mark.tombstone);
                        });
                    });
            });
        encoder.finish()
    }

    fn duplicate(&self) -> Box<dyn GossipData> {
        Box::new(self.clone())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
