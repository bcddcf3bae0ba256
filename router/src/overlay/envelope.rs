//! What packets of sleeve look like on one link, and how they are sealed and opened.
//!
//! Source: Weave data plane, sections 2.1 to 2.4.

use std::net::{IpAddr, SocketAddr};

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
}

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

    /// Opens a packet of the neighbour in place, if they are sealed, unless it was seen before.
    /// Returns where its records begin.
    #[inline]
    pub(crate) fn open(
        &self,
        packet: &mut [u8],
        df_window: &mut ReplayWindow,
        window: &mut ReplayWindow,
    ) -> Result<usize, DropReason> {
        let Some(key) = &self.key else {
            return if packet.len() < PLAIN_HEADER_LEN {
                Err(DropReason::DatagramTooShort)
            } else {
                Ok(PLAIN_HEADER_LEN)
            };
        };
        let (header, body) = packet
            .split_first_chunk_mut::<SEALED_HEADER_LEN>()
            .ok_or(DropReason::DatagramTooShort)?;
        let [_, _, _, _, _, _, a, b, c, d, e, f, g, h, tag @ ..] = *header;
        let word = [a, b, c, d, e, f, g, h];
        let number = u64::from_be_bytes(word);
        let (window, sequence) = if number & DF_BIT == 0 {
            (window, number)
        } else {
            (df_window, number & !DF_BIT)
        };
        if !window.is_new(sequence) {
            return Err(DropReason::Replayed);
        }
        secretbox::open_in_place(key, &nonce(!self.from_dialler, word), body, &tag)
            .map_err(|_| DropReason::NotAuthentic)?;
        window.mark(sequence);
        Ok(SEALED_HEADER_LEN)
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
    fn sequence_end(&self) -> u64 {
        DF_BIT
    }

    #[inline]
    fn close(&self, packet: &mut [u8], df: bool, sequence: u64) {
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
        envelope: &Envelope,
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
