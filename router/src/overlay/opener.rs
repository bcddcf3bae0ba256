//! Opening datagrams: the expensive part of receiving them, for which the engine is not needed.

use std::ops::Range;
use std::sync::Arc;

use proto::PeerName;

use super::envelope::{Envelope, Number};
use crate::crypto::aead::{AeadKey, TAG_LEN};
use crate::dataplane::DropReason;
use crate::wire::shuttle::{HEADER_LEN, Header};
use crate::wire::sleeve;

/// Opens datagrams of one link, under one key.
#[derive(Debug)]
pub struct Opener(pub(crate) Kind);

#[derive(Debug)]
pub(crate) enum Kind {
    Sleeve {
        sender: PeerName,
        envelope: Arc<Envelope>,
    },
    Shuttle {
        /// Of the datagram that it was asked for.
        header: Header,
        /// `None`: packets are not sealed.
        key: Option<Arc<AeadKey>>,
    },
}

/// A datagram that has been opened, by nobody knows whom until the engine has seen it.
#[derive(Debug)]
pub struct Opened {
    /// Where its records stand.
    pub(crate) records: Range<usize>,
    pub(crate) id: Id,
}

/// Which packet of its sender it is.
#[derive(Debug)]
pub(crate) enum Id {
    Sleeve(Option<Number>),
    Shuttle(Header),
}

impl Opener {
    /// Whether it is the opener of this datagram as well.
    #[inline]
    #[must_use]
    pub fn fits(&self, datagram: &[u8]) -> bool {
        match &self.0 {
            Kind::Sleeve { sender, .. } => sleeve::sender(datagram) == Some(*sender),
            Kind::Shuttle { header, .. } => Header::decode(datagram).is_ok_and(|other| {
                (other.is_sealed, other.epoch, other.session)
                    == (header.is_sealed, header.epoch, header.session)
            }),
        }
    }

    /// Opens a datagram in place. If that fails its content is arbitrary afterwards.
    #[inline]
    pub fn open(&self, datagram: &mut [u8]) -> Result<Opened, DropReason> {
        match &self.0 {
            Kind::Sleeve { envelope, .. } => {
                let (start, number) = envelope.open(datagram)?;
                Ok(Opened {
                    records: start..datagram.len(),
                    id: Id::Sleeve(number),
                })
            }
            Kind::Shuttle { key, .. } => {
                let header = Header::decode(datagram).map_err(|_| DropReason::Malformed)?;
                let mut records = HEADER_LEN..datagram.len();
                if let Some(key) = key {
                    let (clear, rest) = datagram
                        .split_first_chunk_mut::<HEADER_LEN>()
                        .ok_or(DropReason::DatagramTooShort)?;
                    let (sealed, tag) = rest
                        .split_last_chunk_mut::<TAG_LEN>()
                        .ok_or(DropReason::DatagramTooShort)?;
                    key.open_in_place(header.counter, clear, sealed, tag)
                        .map_err(|_| DropReason::NotAuthentic)?;
                    records.end -= TAG_LEN;
                }
                Ok(Opened {
                    records,
                    id: Id::Shuttle(header),
                })
            }
        }
    }
}
