//! What comes from the network: datagrams, the records in them, and what becomes of each.

use std::net::SocketAddr;
use std::time::Instant;

use proto::PeerName;

use super::DataPlane;
use crate::dataplane::links::LinkIndex;
use crate::dataplane::{DropReason, Opened, Opener};
use crate::offload::{Checksum, Delivery, Offload};
use crate::overlay::{Id, Kind};
use crate::wire::ethernet::Frame;
use crate::wire::shuttle::{self, Header};
use crate::wire::sleeve::{self, Record, Records, Special};

impl DataPlane {
    /// A datagram came in. It is opened in place; returned is where the frames for the local
    /// bridge stand in it.
    #[inline]
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
    ) -> &[Delivery] {
        match self.opener(datagram) {
            Ok(opener) => {
                let opened = opener.open(datagram);
                self.handle_opened(from, datagram, &opener, opened, now)
            }
            Err(reason) => {
                self.out.drops.count(reason);
                &[]
            }
        }
    }

    /// What opens this datagram, and those for which it [fits](Opener::fits); or why it is not worth
    /// opening, which the caller passes on to [`count_drop`](Self::count_drop).
    #[inline]
    pub fn opener(&self, datagram: &[u8]) -> Result<Opener, DropReason> {
        match self.session(datagram) {
            Some(Ok((header, index))) => {
                let link = self.links.get(index).ok_or(DropReason::UnknownSession)?;
                link.shuttle_opener(&header)
            }
            Some(Err(reason)) => Err(reason),
            None => {
                let sender = sleeve::sender(datagram).ok_or(DropReason::DatagramTooShort)?;
                let index = self.links.by_peer(sender);
                let link = index.and_then(|index| self.links.get(index));
                link.ok_or(DropReason::UnknownSender)?
                    .sleeve_opener(datagram)
            }
        }
    }

    /// Counts a datagram that was dropped on the way to the engine.
    pub fn count_drop(&mut self, reason: DropReason) {
        self.out.drops.count(reason);
    }

    /// What has become of a datagram of which `opener` was told. Returned is where the frames for the
    /// local bridge stand in it.
    #[inline]
    pub fn handle_opened(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        opener: &Opener,
        opened: Result<Opened, DropReason>,
        now: Instant,
    ) -> &[Delivery] {
        self.delivered.clear();
        let walked = opened.and_then(|opened| {
            let records = datagram.get(..opened.records.end).unwrap_or_default();
            let start = opened.records.start;
            match (&opener.0, opened.id) {
                (Kind::Shuttle { key, .. }, Id::Shuttle(header)) => {
                    let index = self.links.by_session(header.session);
                    let index = index.ok_or(DropReason::UnknownSession)?;
                    let link = self.links.get_mut(index);
                    let link = link.ok_or(DropReason::UnknownSession)?;
                    let shuttle = link.shuttle().ok_or(DropReason::NoLink)?;
                    let packet = (&header, key.as_ref(), datagram.len());
                    if shuttle.accept(packet, from, now, &mut self.out)? {
                        self.next_timeout = None;
                    }
                    self.walk_shuttle(index, header.queue, from, records, start, now)
                }
                (Kind::Sleeve { sender, envelope }, Id::Sleeve(number)) => {
                    let index = self.links.by_peer(*sender);
                    let index = index.ok_or(DropReason::UnknownSender)?;
                    let link = self.links.get_mut(index);
                    let link = link.ok_or(DropReason::UnknownSender)?;
                    let sleeve = link.sleeve().ok_or(DropReason::NoLink)?;
                    sleeve.accept(envelope, number)?;
                    self.walk(index, *sender, from, records, start, now)
                }
                _ => Err(DropReason::Malformed),
            }
        });
        if let Err(reason) = walked {
            self.out.drops.count(reason);
        }
        &self.delivered
    }

    /// Handles the records of a packet of sleeve.
    #[inline]
    fn walk(
        &mut self,
        index: LinkIndex,
        sender: PeerName,
        from: SocketAddr,
        packet: &[u8],
        start: usize,
        now: Instant,
    ) -> Result<(), DropReason> {
        for record in Records::new(packet, start) {
            let record = record.map_err(|_| DropReason::Malformed)?;
            match self.handle_record(index, sender, from, &record, now) {
                Ok(true) => {
                    self.local.tx_frames += 1;
                    self.local.tx_bytes += record.frame.len() as u64;
                    self.delivered.push(Delivery {
                        range: record.range,
                        checksum: Checksum::Complete,
                    });
                }
                Ok(false) => {}
                Err(reason) => self.out.drops.count(reason),
            }
        }
        Ok(())
    }

    /// The session of shuttle that a datagram belongs to; `None` if it is for sleeve.
    #[inline]
    fn session(&self, datagram: &[u8]) -> Option<Result<(Header, LinkIndex), DropReason>> {
        if !shuttle::is_shuttle(datagram) {
            return None;
        }
        let reason = match Header::decode(datagram) {
            Ok(header) => match self.links.by_session(header.session) {
                Some(index) => return Some(Ok((header, index))),
                None => DropReason::UnknownSession,
            },
            Err(_) => DropReason::Malformed,
        };
        // A neighbour whose name begins like a shuttle packet, in a packet of sleeve.
        let sender = sleeve::sender(datagram);
        if sender.is_some_and(|sender| self.links.by_peer(sender).is_some()) {
            return None;
        }
        Some(Err(reason))
    }

    /// Handles the records of a packet of shuttle that came by this queue.
    #[inline]
    fn walk_shuttle(
        &mut self,
        index: LinkIndex,
        queue: u8,
        from: SocketAddr,
        packet: &[u8],
        start: usize,
        now: Instant,
    ) -> Result<(), DropReason> {
        let link = self.links.get(index).ok_or(DropReason::UnknownSession)?;
        let neighbour = link.peer();
        for record in shuttle::Records::new(packet, start) {
            match record.map_err(|_| DropReason::Malformed)? {
                shuttle::Record::Note(note) => {
                    self.next_timeout = None;
                    if let Some(link) = self.links.get_mut(index) {
                        link.handle_note(note, queue, from, now, &mut self.out);
                    }
                }
                shuttle::Record::Frame {
                    names,
                    checksum,
                    frame,
                    range,
                } => {
                    let peers = names.unwrap_or((neighbour, self.ours));
                    match self.handle_relayed((index, neighbour), peers, frame, checksum, now) {
                        Ok(true) => {
                            self.local.tx_frames += 1;
                            self.local.tx_bytes += frame.len() as u64;
                            self.delivered.push(Delivery { range, checksum });
                        }
                        Ok(false) => {}
                        Err(reason) => self.out.drops.count(reason),
                    }
                }
            }
        }
        Ok(())
    }

    /// A frame of the neighbour by the link, in an overlay whose frames are nothing but frames.
    /// Returns whether it goes to the local bridge.
    #[inline]
    pub(super) fn handle_relayed(
        &mut self,
        (index, neighbour): (LinkIndex, PeerName),
        peers: (PeerName, PeerName),
        frame: &[u8],
        checksum: Checksum,
        now: Instant,
    ) -> Result<bool, DropReason> {
        let frame = Frame::new_checked(frame).map_err(|_| DropReason::FrameTooShort)?;
        // On the way out by sleeve it would be taken for one of the overlay's own.
        if frame.is_special() {
            return Err(DropReason::SpecialMisdirected);
        }
        for peer in [peers.0, peers.1] {
            if peer != self.ours && peer != neighbour && !self.routes.knows(peer) {
                return Err(DropReason::UnknownPeer);
            }
        }
        if let Some(link) = self.links.get_mut(index) {
            link.count_received(&frame);
        }
        self.receive(peers, &frame, &Offload::single(checksum), Some(index), now)
    }

    /// Returns whether the frame goes to the local bridge.
    #[inline]
    fn handle_record(
        &mut self,
        index: LinkIndex,
        neighbour: PeerName,
        from: SocketAddr,
        record: &Record<'_>,
        now: Instant,
    ) -> Result<bool, DropReason> {
        let frame = Frame::new_checked(record.frame).map_err(|_| DropReason::FrameTooShort)?;
        let link = self.links.get_mut(index).ok_or(DropReason::NoLink)?;
        if let Some(special) = Special::classify(&frame) {
            if record.origin != neighbour || record.destination != self.ours {
                return Err(DropReason::SpecialMisdirected);
            }
            self.next_timeout = None;
            link.handle_special(special, from, now, &mut self.out);
            return Ok(false);
        }
        for peer in [record.origin, record.destination] {
            if peer != self.ours && peer != neighbour && !self.routes.knows(peer) {
                return Err(DropReason::UnknownPeer);
            }
        }
        link.count_received(&frame);
        let peers = (record.origin, record.destination);
        self.receive(peers, &frame, &Offload::NONE, Some(index), now)
    }
}
