//! Answers to ARP and neighbour discovery from what passed by: in a big mesh each question would go
//! to every host.
//!
//! What containers of other hosts say of themselves in ARP messages and in neighbour solicitations
//! and advertisements is kept for [`NEIGHBOUR_MAX_AGE`]. A question of a local container about such
//! an address is answered here, in the name of the one asked for, as long as its MAC address is
//! known at another host. Never answered are questions by which somebody finds out whether an
//! address is free (their sender has none yet, or asks for its own).
//!
//! An address that passes to another container without a word is answered for wrongly until the
//! entry expires. That is why all this is off by default.
//!
//! ```text
//! ARP    Ethernet | 0001 0800 06 04 | op u16 (1 question, 2 answer) | sender MAC, IP | target MAC, IP
//! ICMPv6 Ethernet | IPv6, hop limit 255 | type (135 question, 136 answer) 0 | checksum | flags
//!        | target address (16) | options: 1 source's MAC, 2 target's MAC, each 8 bytes
//! ```
//!
//! Source: RFC 826, RFC 5227 (probes), RFC 4861.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use proto::{MacAddr, PeerName};

use super::MacTable;
use crate::constants::{NEIGHBOUR_MAX_AGE, NEIGHBOUR_TABLE_LEN};
use crate::offload::checksum::Sum;
use crate::wire::ethernet::{Frame, HEADER_LEN};

const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ARP_START: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_LEN: usize = 28;
const IPV6_LEN: usize = 40;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;
/// Solicited, and not to override what the asker knows better.
const SOLICITED: u8 = 0x40;

/// Who has which address, as far as heard.
#[derive(Debug, Default)]
pub struct Neighbours {
    entries: HashMap<IpAddr, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    mac: MacAddr,
    heard_at: Instant,
}

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    /// Address and MAC address of somebody who says so itself.
    told: Option<(IpAddr, MacAddr)>,
    /// What is asked for, by whom.
    asked: Option<Question>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Question {
    target: IpAddr,
    asker: IpAddr,
    asker_mac: MacAddr,
}

impl Neighbours {
    /// Learns from a frame that came from another host.
    pub fn learn(&mut self, frame: &Frame<'_>, now: Instant) {
        let Some((address, mac)) = parse(frame).and_then(|message| message.told) else {
            return;
        };
        let entry = Entry { mac, heard_at: now };
        if let Some(known) = self.entries.get_mut(&address) {
            *known = entry;
            return;
        }
        if self.entries.len() >= NEIGHBOUR_TABLE_LEN {
            self.sweep(now);
        }
        if self.entries.len() < NEIGHBOUR_TABLE_LEN {
            self.entries.insert(address, entry);
        }
    }

    /// The answer to a frame from the local bridge, if it is a question that can be answered.
    pub fn answer(
        &self,
        frame: &Frame<'_>,
        ours: PeerName,
        macs: &MacTable,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let question = parse(frame)?.asked?;
        let entry = self.entries.get(&question.target)?;
        let age = now.saturating_duration_since(entry.heard_at);
        let is_elsewhere = macs.peer(entry.mac).is_some_and(|peer| peer != ours);
        if age > NEIGHBOUR_MAX_AGE || !is_elsewhere {
            return None;
        }
        Some(match (question.target, question.asker) {
            (IpAddr::V4(target), IpAddr::V4(asker)) => {
                let mut answer = Vec::with_capacity(HEADER_LEN + ARP_LEN);
                answer.extend(question.asker_mac.0);
                answer.extend(entry.mac.0);
                answer.extend(ARP);
                answer.extend(ARP_START);
                answer.extend([0, 2]);
                answer.extend(entry.mac.0);
                answer.extend(target.octets());
                answer.extend(question.asker_mac.0);
                answer.extend(asker.octets());
                answer
            }
            (IpAddr::V6(target), IpAddr::V6(asker)) => {
                let mut icmp = vec![ADVERTISEMENT, 0, 0, 0, SOLICITED, 0, 0, 0];
                icmp.extend(target.octets());
                icmp.extend([TARGET_MAC, 1]);
                icmp.extend(entry.mac.0);
                // 32 bytes.
                let sum = Sum::ZERO
                    .with(&target.octets())
                    .with(&asker.octets())
                    .with(&[0, 32, 0, ICMPV6])
                    .with(&icmp)
                    .finish();
                if let Some(field) = icmp.get_mut(2..4) {
                    field.copy_from_slice(&sum);
                }
                let mut answer = Vec::with_capacity(HEADER_LEN + IPV6_LEN + icmp.len());
                answer.extend(question.asker_mac.0);
                answer.extend(entry.mac.0);
                answer.extend(IPV6);
                answer.extend([0x60, 0, 0, 0, 0, 32, ICMPV6, 255]);
                answer.extend(target.octets());
                answer.extend(asker.octets());
                answer.extend(icmp);
                answer
            }
            _ => return None,
        })
    }

    /// Drops what is too old to be told.
    pub fn sweep(&mut self, now: Instant) {
        self.entries
            .retain(|_, entry| now.saturating_duration_since(entry.heard_at) <= NEIGHBOUR_MAX_AGE);
    }
}

fn parse(frame: &Frame<'_>) -> Option<Message> {
    let bytes = frame.bytes();
    match *bytes.get(12..14)?.first_chunk()? {
        ARP => parse_arp(frame, bytes.get(HEADER_LEN..)?.first_chunk()?),
        IPV6 => parse_discovery(frame, bytes.get(HEADER_LEN..)?),
        _ => None,
    }
}

fn parse_arp(frame: &Frame<'_>, arp: &[u8; ARP_LEN]) -> Option<Message> {
    let [a, b, c, d, e, f, 0, op, rest @ ..] = *arp else {
        return None;
    };
    let [
        m0,
        m1,
        m2,
        m3,
        m4,
        m5,
        s0,
        s1,
        s2,
        s3,
        _,
        _,
        _,
        _,
        _,
        _,
        t0,
        t1,
        t2,
        t3,
    ] = rest;
    let mac = MacAddr([m0, m1, m2, m3, m4, m5]);
    let (sender, target) = ([s0, s1, s2, s3], [t0, t1, t2, t3]);
    // Whoever speaks for others is not to be believed.
    if [a, b, c, d, e, f] != ARP_START || mac != frame.source() || mac.is_group() {
        return None;
    }
    let has_address = sender != [0; 4];
    let is_question = op == 1 && has_address && sender != target;
    Some(Message {
        told: has_address.then_some((sender.into(), mac)),
        asked: is_question.then_some(Question {
            target: target.into(),
            asker: sender.into(),
            asker_mac: mac,
        }),
    })
}

fn parse_discovery(frame: &Frame<'_>, packet: &[u8]) -> Option<Message> {
    let (header, icmp) = packet.split_first_chunk::<IPV6_LEN>()?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let icmp = icmp.get(..len)?;
    if header[0] >> 4 != 6 || header[6] != ICMPV6 || header[7] != 255 {
        return None;
    }
    let source: [u8; 16] = *header.get(8..)?.first_chunk()?;
    let (head, mut options) = icmp.split_first_chunk::<24>()?;
    let (kind, target): (u8, [u8; 16]) = (head[0], *head.get(8..)?.first_chunk()?);
    let wanted = match kind {
        SOLICITATION => SOURCE_MAC,
        ADVERTISEMENT => TARGET_MAC,
        _ => return None,
    };
    // Summed with the pseudo-header it comes to minus zero.
    let sum = Sum::ZERO
        .with(header.get(8..)?)
        .with(&[header[4], header[5], 0, ICMPV6])
        .with(icmp)
        .finish();
    if sum != [0, 0] {
        return None;
    }
    let mut mac = None;
    while let Some(&[option, units]) = options.first_chunk() {
        let option_len = usize::from(units) * 8;
        if option_len == 0 {
            return None;
        }
        if option == wanted && units == 1 {
            mac = options.get(2..)?.first_chunk().copied().map(MacAddr);
        }
        options = options.get(option_len..)?;
    }
    let mac = mac.filter(|&mac| mac == frame.source() && !mac.is_group());
    let has_address = source != [0; 16];
    let about = if kind == SOLICITATION { source } else { target };
    let is_question = kind == SOLICITATION && has_address && source != target;
    Some(Message {
        told: mac
            .filter(|_| has_address)
            .map(|mac| (IpAddr::from(about), mac)),
        asked: is_question.then_some(Question {
            target: target.into(),
            asker: source.into(),
            asker_mac: frame.source(),
        }),
    })
}

#[cfg(test)]
mod tests;
