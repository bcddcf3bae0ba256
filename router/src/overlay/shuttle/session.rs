//! What packets of shuttle look like on one link, and the keys that open them.
//!
//! Packets go out under the keys of one epoch, and are opened under those of up to four: while both
//! ends change to new ones, and a while after for packets that are late. Each epoch has a window of
//! its own against packets seen before.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// The way out, in one epoch.
#[derive(Debug)]
pub(super) struct Outgoing {
    link: LinkId,
    from: IpAddr,
    /// The neighbour's number of the link.
    session: u32,
    epoch: u16,
    /// `None`: packets are not sealed.
    key: Option<AeadKey>,
    /// Number of the next packet.
    next: AtomicU64,
    /// Bytes sent.
    volume: AtomicU64,
}

impl Outgoing {
    /// In epoch 0.
    pub(super) const fn new(
        link: LinkId,
        from: IpAddr,
        session: u32,
        key: Option<AeadKey>,
    ) -> Self {
        Self {
            link,
            from,
            session,
            epoch: 0,
            key,
            next: AtomicU64::new(0),
            volume: AtomicU64::new(0),
        }
    }

    /// In another epoch.
    pub(super) fn renewed(&self, epoch: u16, key: AeadKey) -> Self {
        Self {
            epoch,
            ..Self::new(self.link, self.from, self.session, Some(key))
        }
    }

    /// Bytes sent in this epoch.
    pub(super) fn volume(&self) -> u64 {
        self.volume.load(Ordering::Relaxed)
    }
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
    fn is_exhausted(&self, _df: bool) -> bool {
        // The bound on the volume of a key comes long before.
        false
    }

    #[inline]
    fn close(&self, packet: &mut [u8], _df: bool, queue: u8) {
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        self.volume
            .fetch_add(packet.len() as u64, Ordering::Relaxed);
        let header = Header {
            is_sealed: self.key.is_some(),
            queue,
            epoch: self.epoch,
            session: self.session,
            counter,
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
            *tag = key.seal_in_place(counter, &header, records);
        }
    }
}

/// The way in.
#[derive(Debug)]
pub(super) struct Incoming {
    /// By the low bits of their numbers; empty if packets are not sealed.
    epochs: [Option<Epoch>; EPOCH_COUNT],
    is_sealed: bool,
    /// The latest epoch in which a genuine packet came, and the highest counter of those by queue 0.
    latest: (u16, Option<u64>),
    /// When earlier epochs are forgotten.
    retire_at: Option<Instant>,
}

#[derive(Debug)]
struct Epoch {
    number: u16,
    key: Arc<AeadKey>,
    window: ReplayWindow,
    /// Bytes opened.
    volume: u64,
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
                key: Arc::new(key),
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

    /// The key that opens a packet, if that is worth while; `None`: packets are not sealed.
    #[inline]
    pub(super) fn opener(&self, header: &Header) -> Result<Option<Arc<AeadKey>>, DropReason> {
        if header.is_sealed != self.is_sealed {
            return Err(DropReason::NotAuthentic);
        }
        if !self.is_sealed {
            return Ok(None);
        }
        let place = self
            .epochs
            .get(usize::from(header.epoch) % EPOCH_COUNT)
            .and_then(Option::as_ref);
        let epoch = place
            .filter(|epoch| epoch.number == header.epoch)
            .ok_or(DropReason::UnknownKey)?;
        if !epoch.window.is_new(header.counter) {
            return Err(DropReason::Replayed);
        }
        Ok(Some(Arc::clone(&epoch.key)))
    }

    /// A packet of `len` bytes has been opened with `key`: takes it, unless it was seen before.
    /// Returns whether it tells where the neighbour is now: it is genuine, came by queue 0, and is
    /// later than all before.
    #[inline]
    pub(super) fn accept(
        &mut self,
        header: &Header,
        key: Option<&Arc<AeadKey>>,
        len: usize,
        now: Instant,
    ) -> Result<bool, DropReason> {
        let Some(key) = key else {
            return if self.is_sealed {
                Err(DropReason::NotAuthentic)
            } else {
                Ok(false)
            };
        };
        let place = self
            .epochs
            .get_mut(usize::from(header.epoch) % EPOCH_COUNT)
            .and_then(Option::as_mut);
        // It may have been opened for a link that is gone, or with a key that is.
        let epoch = place
            .filter(|epoch| Arc::ptr_eq(&epoch.key, key))
            .ok_or(DropReason::UnknownKey)?;
        if !epoch.window.is_new(header.counter) {
            return Err(DropReason::Replayed);
        }
        epoch.window.mark(header.counter);
        epoch.volume += len as u64;
        Ok(self.note(header, now))
    }

    /// Notes a genuine packet. Returns whether it came by queue 0, and later than all before there.
    #[inline]
    fn note(&mut self, header: &Header, now: Instant) -> bool {
        let (latest, highest) = self.latest;
        let counter = (header.queue == 0).then_some(header.counter);
        if header.epoch == latest {
            let is_latest = counter.is_some() && highest < counter;
            if is_latest {
                self.latest = (latest, counter);
            }
            return is_latest;
        }
        // At most four epochs are here at once: half of the numbers are ahead.
        let is_ahead = header.epoch.wrapping_sub(latest) < 0x8000;
        if is_ahead {
            self.latest = (header.epoch, counter);
            self.retire_at = Some(now + SHUTTLE_OLD_KEYS);
        }
        is_ahead && counter.is_some()
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
