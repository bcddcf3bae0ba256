//! What packets of shuttle look like on one link, and the keys that open them.
//!
//! Packets go out under the keys of one epoch, and are opened under those of up to four: while both
//! ends change to new ones, and a while after for packets that are late. Each epoch has a window of
//! its own against packets seen before.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Instant;

use super::super::aggregate::Packets;
use crate::LinkId;
use crate::constants::SHUTTLE_OLD_KEYS;
use crate::crypto::aead::{AeadKey, TAG_LEN};
use crate::crypto::replay::ReplayWindow;
use crate::dataplane::DropReason;
use crate::wire::shuttle::{HEADER_LEN, Header};

/// Epochs whose packets are opened. Divides 2^16, so that numbers that wrap keep their places.
const EPOCH_COUNT: usize = 4;

/// The way out.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) link: LinkId,
    pub(super) from: IpAddr,
    /// The neighbour's number of the link.
    pub(super) session: u32,
    pub(super) epoch: u16,
    /// `None`: packets are not sealed.
    pub(super) key: Option<AeadKey>,
}

impl Packets for Outgoing {
    fn link(&self) -> LinkId {
        self.link
    }

    fn from(&self) -> Option<IpAddr> {
        Some(self.from)
    }

    #[inline]
    fn header_len(&self) -> usize {
        HEADER_LEN
    }

    #[inline]
    fn trailer_len(&self) -> usize {
        if self.key.is_some() { TAG_LEN } else { 0 }
    }

    #[inline]
    fn sequence_end(&self) -> u64 {
        u64::MAX
    }

    #[inline]
    fn close(&self, packet: &mut [u8], _df: bool, sequence: u64) {
        let header = Header {
            is_sealed: self.key.is_some(),
            epoch: self.epoch,
            session: self.session,
            counter: sequence,
        };
        let header = header.encode();
        // Every packet was begun with room for the header and ended with room for the tag.
        let Some((place, rest)) = packet.split_first_chunk_mut::<HEADER_LEN>() else {
            return;
        };
        *place = header;
        if let Some(key) = &self.key
            && let Some((records, tag)) = rest.split_last_chunk_mut::<TAG_LEN>()
        {
            *tag = key.seal_in_place(sequence, &header, records);
        }
    }
}

/// The way in.
#[derive(Debug)]
pub(super) struct Incoming {
    /// By the low bits of their numbers; empty if packets are not sealed.
    epochs: [Option<Epoch>; EPOCH_COUNT],
    is_sealed: bool,
    /// The latest epoch in which a genuine packet came, and its highest counter.
    latest: (u16, Option<u64>),
    /// When earlier epochs are forgotten.
    retire_at: Option<Instant>,
}

#[derive(Debug)]
struct Epoch {
    number: u16,
    key: AeadKey,
    window: ReplayWindow,
    /// Bytes opened.
    volume: u64,
}

/// A packet that has been opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opened {
    /// Where its records stand.
    pub(super) records: Range<usize>,
    /// Genuine, and later than all before: it tells where the neighbour is now.
    pub(super) is_latest: bool,
}

impl Incoming {
    pub(super) fn new(is_sealed: bool) -> Self {
        Self {
            epochs: [None, None, None, None],
            is_sealed,
            latest: (0, None),
            retire_at: None,
        }
    }

    /// From now on packets of this epoch are opened.
    pub(super) fn install(&mut self, number: u16, key: AeadKey) {
        if let Some(place) = self.epochs.get_mut(usize::from(number) % EPOCH_COUNT) {
            *place = Some(Epoch {
                number,
                key,
                window: ReplayWindow::default(),
                volume: 0,
            });
        }
    }

    /// Bytes opened in the latest epoch.
    pub(super) fn volume(&self) -> u64 {
        let (latest, _) = self.latest;
        let epochs = self.epochs.iter().flatten();
        epochs
            .filter(|epoch| epoch.number == latest)
            .map(|epoch| epoch.volume)
            .sum()
    }

    /// Opens a packet in place, unless it was seen before.
    #[inline]
    pub(super) fn open(
        &mut self,
        header: &Header,
        packet: &mut [u8],
        now: Instant,
    ) -> Result<Opened, DropReason> {
        let len = packet.len();
        if header.is_sealed != self.is_sealed {
            return Err(DropReason::NotAuthentic);
        }
        if !self.is_sealed {
            return Ok(Opened {
                records: HEADER_LEN..len,
                is_latest: false,
            });
        }
        let place = self
            .epochs
            .get_mut(usize::from(header.epoch) % EPOCH_COUNT)
            .and_then(Option::as_mut);
        let epoch = place
            .filter(|epoch| epoch.number == header.epoch)
            .ok_or(DropReason::UnknownKey)?;
        let (clear, rest) = packet
            .split_first_chunk_mut::<HEADER_LEN>()
            .ok_or(DropReason::DatagramTooShort)?;
        let (records, tag) = rest
            .split_last_chunk_mut::<TAG_LEN>()
            .ok_or(DropReason::DatagramTooShort)?;
        if !epoch.window.is_new(header.counter) {
            return Err(DropReason::Replayed);
        }
        epoch
            .key
            .open_in_place(header.counter, clear, records, tag)
            .map_err(|_| DropReason::NotAuthentic)?;
        epoch.window.mark(header.counter);
        epoch.volume += len as u64;
        let is_latest = self.note(header, now);
        Ok(Opened {
            records: HEADER_LEN..len - TAG_LEN,
            is_latest,
        })
    }

    /// Notes a genuine packet. Returns whether it is later than all before.
    #[inline]
    fn note(&mut self, header: &Header, now: Instant) -> bool {
        let (latest, highest) = self.latest;
        if header.epoch == latest {
            let is_latest = highest.is_none_or(|highest| header.counter > highest);
            if is_latest {
                self.latest = (latest, Some(header.counter));
            }
            return is_latest;
        }
        // At most four epochs are here at once: half of the numbers are ahead.
        let is_ahead = header.epoch.wrapping_sub(latest) < 0x8000;
        if is_ahead {
            self.latest = (header.epoch, Some(header.counter));
            self.retire_at = Some(now + SHUTTLE_OLD_KEYS);
        }
        is_ahead
    }

    /// When [`retire`](Self::retire) is due.
    pub(super) const fn next_timeout(&self) -> Option<Instant> {
        self.retire_at
    }

    /// Forgets the keys of epochs that are over, if it is time.
    pub(super) fn retire(&mut self, now: Instant) {
        if self.retire_at.is_none_or(|at| at > now) {
            return;
        }
        self.retire_at = None;
        let (latest, _) = self.latest;
        for place in &mut self.epochs {
            let is_over =
                |epoch: &Epoch| latest.wrapping_sub(epoch.number).wrapping_sub(1) < 0x7fff;
            if place.as_ref().is_some_and(is_over) {
                *place = None;
            }
        }
    }
}
