//! What packets of sleeve look like on one link, and how they are sealed and opened.
//!
//! Source: Weave data plane, sections 2.1 to 2.4.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::PeerName;

use super::aggregate::{Lane, Limits, Packets, Parts};
use super::outbox::Outbox;
use crate::LinkId;
use crate::crypto::replay::ReplayWindow;
use crate::crypto::secretbox;
use crate::crypto::session::SessionKey;
use crate::dataplane::DropReason;
use crate::wire::sleeve::{
    DF_BIT, NAME_LEN, PLAIN_HEADER_LEN, SEALED_HEADER_LEN, TAG_START, nonce, record_header,
};

/// What the packets of one link have in common.
#[derive(Debug)]
pub(crate) struct Envelope {
    link: LinkId,
    /// Source address of the datagrams, if it is not left to the kernel.
    from: Option<IpAddr>,
    name: [u8; NAME_LEN],
    key: Option<SessionKey>,
    from_dialler: bool,
    /// Numbers of the next packets with DF, and without.
    next: [AtomicU64; 2],
}

/// Numbers that are left unused, for the packets that are on their way out when that is noticed.
const SPARE: u64 = 1 << 32;

impl Envelope {
    pub(crate) fn new(
        link: LinkId,
        ours: PeerName,
        key: Option<SessionKey>,
        from_dialler: bool,
    ) -> Self {
        Self {
            link,
            from: None,
            name: ours.to_bytes(),
            key,
            from_dialler,
            next: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }

    /// With this source address.
    pub(crate) fn sent_from(self, from: IpAddr) -> Self {
        Self {
            from: Some(from),
            ..self
        }
    }

    /// Whether packets are sealed.
    pub(crate) const fn is_sealed(&self) -> bool {
        self.key.is_some()
    }

    /// Opens a packet of the neighbour in place, if they are sealed. Returns where its records begin
    /// and its number, if it has one.
    #[inline]
    pub(crate) fn open(&self, packet: &mut [u8]) -> Result<(usize, Option<Number>), DropReason> {
        let Some(key) = &self.key else {
            return if packet.len() < PLAIN_HEADER_LEN {
                Err(DropReason::DatagramTooShort)
            } else {
                Ok((PLAIN_HEADER_LEN, None))
            };
        };
        let number = Number::of(packet).ok_or(DropReason::DatagramTooShort)?;
        let (header, body) = packet
            .split_first_chunk_mut::<SEALED_HEADER_LEN>()
            .ok_or(DropReason::DatagramTooShort)?;
        let [_, _, _, _, _, _, a, b, c, d, e, f, g, h, tag @ ..] = *header;
        let word = [a, b, c, d, e, f, g, h];
        secretbox::open_in_place(key, &nonce(!self.from_dialler, word), body, &tag)
            .map_err(|_| DropReason::NotAuthentic)?;
        Ok((SEALED_HEADER_LEN, Some(number)))
    }

    /// The number of the next packet.
    #[inline]
    pub(crate) fn next(&self, df: bool) -> &AtomicU64 {
        let [with_df, without] = &self.next;
        if df { with_df } else { without }
    }
}

/// The number of a sealed packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number {
    df: bool,
    sequence: u64,
}

impl Number {
    #[inline]
    fn of(packet: &[u8]) -> Option<Self> {
        let word = packet.get(NAME_LEN..)?.first_chunk()?;
        let number = u64::from_be_bytes(*word);
        Some(Self {
            df: number & DF_BIT != 0,
            sequence: number & !DF_BIT,
        })
    }
}

/// Which packets of the neighbour have been seen, with DF and without.
#[derive(Debug, Default)]
pub(crate) struct Windows([ReplayWindow; 2]);

impl Windows {
    /// Whether a packet may be worth opening.
    #[inline]
    pub(crate) fn is_new(&self, packet: &[u8]) -> bool {
        let [with_df, without] = &self.0;
        Number::of(packet).is_none_or(|number| {
            let window = if number.df { with_df } else { without };
            window.is_new(number.sequence)
        })
    }

    /// Remembers a packet that has been opened, unless it was seen before.
    #[inline]
    pub(crate) fn accept(&mut self, number: Number) -> Result<(), DropReason> {
        let [with_df, without] = &mut self.0;
        let window = if number.df { with_df } else { without };
        if !window.is_new(number.sequence) {
            return Err(DropReason::Replayed);
        }
        window.mark(number.sequence);
        Ok(())
    }
}

impl Packets for Envelope {
    fn link(&self) -> LinkId {
        self.link
    }

    fn from(&self) -> Option<IpAddr> {
        self.from
    }

    #[inline]
    fn header_len(&self) -> usize {
        if self.key.is_some() {
            SEALED_HEADER_LEN
        } else {
            PLAIN_HEADER_LEN
        }
    }

    #[inline]
    fn trailer_len(&self) -> usize {
        0
    }

    #[inline]
    fn is_exhausted(&self, df: bool) -> bool {
        self.next(df).load(Ordering::Relaxed) >= DF_BIT - SPARE
    }

    #[inline]
    fn close(&self, packet: &mut [u8], df: bool, _queue: u8) {
        let sequence = self.next(df).fetch_add(1, Ordering::Relaxed);
        let Some(key) = &self.key else {
            if let Some(name) = packet.first_chunk_mut() {
                *name = self.name;
            }
            return;
        };
        let df_bit = if df { DF_BIT } else { 0 };
        let [a, b, c, d, e, f] = self.name;
        let [g, h, i, j, k, l, m, n] = (sequence | df_bit).to_be_bytes();
        // Every packet of a link with a key was begun with room for the header.
        if let Some((header, body)) = packet.split_first_chunk_mut::<SEALED_HEADER_LEN>() {
            let word = [g, h, i, j, k, l, m, n];
            let tag = secretbox::seal_in_place(key, &nonce(self.from_dialler, word), body);
            let clear = [a, b, c, d, e, f, g, h, i, j, k, l, m, n];
            let (clear_place, tag_place) = header.split_at_mut(TAG_START);
            clear_place.copy_from_slice(&clear);
            tag_place.copy_from_slice(&tag);
        }
    }
}

impl Lane {
    /// Appends a frame from its origin to its destination peer, in two parts, to a packet of
    /// sleeve.
    #[inline]
    pub(crate) fn push(
        &mut self,
        envelope: &Arc<Envelope>,
        to: SocketAddr,
        limits: Limits,
        (origin, destination): (PeerName, PeerName),
        (head, body): (&[u8], &[u8]),
        outbox: &mut Outbox,
    ) -> Result<(), DropReason> {
        let frame_len = u16::try_from(head.len() + body.len()).map_err(|_| DropReason::TooBig)?;
        let header = record_header(origin, destination, frame_len);
        let record = Parts {
            header: &header,
            head,
            body,
        };
        self.push_record(envelope, to, limits, &record, outbox)
    }
}
