//! Writing the answers that we give ourselves.
//!
//! The owner of all answers is the name of the question, so a pointer to it stands for it (RFC 1035,
//! section 4.1.4): 16 bytes for an address. What does not fit is cut with the TC bit, the order
//! being a random one, and the OPT record stays (RFC 6891, section 7).

use std::net::{Ipv4Addr, Ipv6Addr};

use rand::{Rng, RngExt};

use crate::name::{MAX_NAME_LEN, WireName};
use crate::query::{
    Edns, FLAG_AUTHORITATIVE, FLAG_CHECKING_DISABLED, FLAG_RECURSION_AVAILABLE,
    FLAG_RECURSION_DESIRED, FLAG_RESPONSE, FLAG_TRUNCATED, HEADER_LEN, OPCODE_MASK, Query, Rcode,
    class, rtype,
};
use crate::zone::Verdict;

/// The longest answer that goes out over UDP, however much the client takes: it passes nearly
/// everywhere in one piece, and is of little use to who asks in somebody else's name.
pub const MAX_UDP_LEN: u16 = 1232;
/// What every client takes over UDP (RFC 1035, section 4.2.1).
pub const MIN_UDP_LEN: u16 = 512;
/// Times in the SOA record that only secondaries would follow, and there are none.
pub(crate) const SOA_REFRESH: u32 = 3600;
pub(crate) const SOA_RETRY: u32 = 600;
pub(crate) const SOA_EXPIRE: u32 = 86_400;
pub(crate) const SOA_SERIAL: u32 = 1;
/// A pointer to the name of the question.
const QUESTION_NAME: u16 = 0xc00c;
pub(crate) const OPT_LEN: usize = 11;
/// RFC 8482, section 4.2: a CPU of that name, an operating system without one.
const HINFO: &[u8] = b"\x07RFC8482\x00";

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// As a datagram.
    Udp,
    /// In a stream, behind its length.
    Tcp,
}

impl Transport {
    /// How long an answer may be.
    pub fn max_len(self, edns: Option<Edns>) -> usize {
        let len = match (self, edns) {
            (Self::Tcp, _) => u16::MAX,
            (Self::Udp, None) => MIN_UDP_LEN,
            // RFC 6891, section 6.2.3: less than 512 means 512.
            (Self::Udp, Some(edns)) => edns.payload_len.clamp(MIN_UDP_LEN, MAX_UDP_LEN),
        };
        usize::from(len)
    }
}

/// What all answers have in common.
#[derive(Debug, Clone, Copy)]
pub struct Style<'d> {
    /// The domain in wire form.
    pub domain: &'d [u8],
    /// Seconds for which answers hold, also those that there is nothing.
    pub ttl: u32,
}

/// Scratch space for shuffling.
#[derive(Debug, Default)]
pub struct Scratch {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

/// Appends the answer to a plain query; nothing if the verdict is to forward it. `limit` is the
/// length of the longest allowed answer.
pub fn write(
    query: &Query<'_>,
    verdict: Verdict<'_>,
    style: Style<'_>,
    limit: usize,
    rng: &mut impl Rng,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    let mut flags = FLAG_RESPONSE
        | FLAG_RECURSION_AVAILABLE
        | (query.flags & (FLAG_RECURSION_DESIRED | FLAG_CHECKING_DISABLED));
    let authoritative = match verdict {
        Verdict::Forward => return,
        Verdict::Refused | Verdict::NxDomain { in_domain: false } => false,
        // RFC 1034, section 6.2.2: nobody has authority over all classes.
        _ => query.qclass != class::ANY,
    };
    if authoritative {
        flags |= FLAG_AUTHORITATIVE;
    }
    let rcode = match verdict {
        Verdict::NxDomain { .. } => Rcode::NxDomain,
        Verdict::Refused => Rcode::Refused,
        _ => Rcode::NoError,
    };
    flags |= u16::from(rcode as u8);

    out.extend_from_slice(&query.id.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(query.edns.is_some())]);
    out.extend_from_slice(query.question);
    let reserved = if query.edns.is_some() { OPT_LEN } else { 0 };
    let room = limit
        .saturating_sub(out.len().saturating_sub(start))
        .saturating_sub(reserved);
    let mut answer_count = 0;
    let mut authority_count = 0;
    match verdict {
        Verdict::A(addrs) => {
            let (count, cut) =
                write_addresses(addrs, room, rtype::A, style.ttl, rng, &mut scratch.v4, out);
            answer_count = count;
            flags |= cut;
        }
        Verdict::Aaaa(addrs) => {
            let (count, cut) = write_addresses(
                addrs,
                room,
                rtype::AAAA,
                style.ttl,
                rng,
                &mut scratch.v6,
                out,
            );
            answer_count = count;
            flags |= cut;
        }
        Verdict::Ptr(name) => {
            write_ptr(name, style.ttl, out);
            answer_count = 1;
        }
        Verdict::Hinfo => {
            write_record(rtype::HINFO, style.ttl, HINFO, out);
            answer_count = 1;
        }
        Verdict::Soa => {
            write_soa(query.name().len(), style, out);
            answer_count = 1;
        }
        Verdict::NoData { in_domain: true } | Verdict::NxDomain { in_domain: true } => {
            write_soa(query.name().len(), style, out);
            authority_count = 1;
        }
        Verdict::NoData { .. } | Verdict::NxDomain { .. } | Verdict::Refused | Verdict::Forward => {
        }
    }
    if let Some(edns) = query.edns {
        write_opt(edns, out);
    }
    patch(out, start, 2, flags);
    patch(out, start, 6, answer_count);
    patch(out, start, 8, authority_count);
}

/// A refusal that has nothing of the query but what is in its header.
pub fn write_refusal(packet: &[u8], rcode: Rcode, out: &mut Vec<u8>) {
    let Some(([id_0, id_1, flags_0, flags_1], _)) = packet.split_first_chunk() else {
        return;
    };
    let flags = u16::from_be_bytes([*flags_0, *flags_1]);
    let flags =
        FLAG_RESPONSE | (flags & (OPCODE_MASK | FLAG_RECURSION_DESIRED)) | u16::from(rcode as u8);
    out.extend_from_slice(&[*id_0, *id_1]);
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
}

/// What of a query is in every answer.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'q> {
    /// Chosen by the client.
    pub id: u16,
    /// As in the header.
    pub flags: u16,
    /// Name, type and class as they came.
    pub question: &'q [u8],
    /// If the client speaks EDNS.
    pub edns: Option<Edns>,
}

impl<'q> From<&Query<'q>> for Asker<'q> {
    fn from(query: &Query<'q>) -> Self {
        Self {
            id: query.id,
            flags: query.flags,
            question: query.question,
            edns: query.edns,
        }
    }
}

/// A failure to answer.
pub fn write_failure(asker: Asker<'_>, rcode: Rcode, out: &mut Vec<u8>) {
    write_empty(asker, u16::from(rcode as u8), out);
}

/// An answer that only says that the real one is too long.
pub fn write_truncated(asker: Asker<'_>, out: &mut Vec<u8>) {
    write_empty(asker, FLAG_TRUNCATED, out);
}

fn write_empty(asker: Asker<'_>, flags: u16, out: &mut Vec<u8>) {
    let flags = FLAG_RESPONSE
        | FLAG_RECURSION_AVAILABLE
        | (asker.flags & (FLAG_RECURSION_DESIRED | FLAG_CHECKING_DISABLED))
        | flags;
    out.extend_from_slice(&asker.id.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(asker.edns.is_some())]);
    out.extend_from_slice(asker.question);
    if let Some(edns) = asker.edns {
        write_opt(edns, out);
    }
}

/// An address in a record.
trait Address: Copy {
    const LEN: usize;
    fn write(self, out: &mut Vec<u8>);
}

impl Address for Ipv4Addr {
    const LEN: usize = 4;

    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.octets());
    }
}

impl Address for Ipv6Addr {
    const LEN: usize = 16;

    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.octets());
    }
}

/// Appends as many as fit, in random order. Returns how many, and the TC bit if that is not all.
fn write_addresses<T: Address>(
    addrs: &[T],
    room: usize,
    rtype: u16,
    ttl: u32,
    rng: &mut impl Rng,
    shuffled: &mut Vec<T>,
    out: &mut Vec<u8>,
) -> (u16, u16) {
    let count = (room / (12 + T::LEN)).min(addrs.len());
    let mut write = |addr: T| {
        write_head(rtype, ttl, T::LEN, out);
        addr.write(out);
    };
    match addrs {
        [addr] if count == 1 => write(*addr),
        _ => {
            shuffled.clear();
            shuffled.extend_from_slice(addrs);
            // Only as far as it is needed: each place takes one of those that are left.
            for place in 0..count {
                shuffled.swap(place, rng.random_range(place..addrs.len()));
            }
            for addr in shuffled.iter().take(count) {
                write(*addr);
            }
        }
    }
    let cut = if count < addrs.len() {
        FLAG_TRUNCATED
    } else {
        0
    };
    (u16::try_from(count).unwrap_or(u16::MAX), cut)
}

/// All of a record about the name of the question but its data.
fn write_head(rtype: u16, ttl: u32, data_len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&QUESTION_NAME.to_be_bytes());
    write_head_end(rtype, ttl, data_len, out);
}

/// What comes between the owner and the data of a record.
fn write_head_end(rtype: u16, ttl: u32, data_len: usize, out: &mut Vec<u8>) {
    let [c, d] = rtype.to_be_bytes();
    let [e, f] = class::IN.to_be_bytes();
    let [g, h, i, j] = ttl.to_be_bytes();
    // No data of ours is as long as that.
    let [k, l] = u16::try_from(data_len).unwrap_or(u16::MAX).to_be_bytes();
    out.extend_from_slice(&[c, d, e, f, g, h, i, j, k, l]);
}

fn write_record(rtype: u16, ttl: u32, data: &[u8], out: &mut Vec<u8>) {
    write_head(rtype, ttl, data.len(), out);
    out.extend_from_slice(data);
}

fn write_ptr(name: &WireName, ttl: u32, out: &mut Vec<u8>) {
    write_record(rtype::PTR, ttl, name.as_bytes(), out);
}

/// The SOA record of the domain, about a question within it: pointers to the end of its name stand
/// for the domain.
fn write_soa(name_len: usize, style: Style<'_>, out: &mut Vec<u8>) {
    const HOSTMASTER: &[u8] = b"\x0ahostmaster";
    // A very long domain has no room before it.
    let fits = HOSTMASTER.len() + style.domain.len() <= MAX_NAME_LEN;
    let mailbox = if fits { HOSTMASTER } else { &[] };
    let at = HEADER_LEN + name_len.saturating_sub(style.domain.len());
    let domain = (0xc000 | u16::try_from(at).unwrap_or_default()).to_be_bytes();
    let data_len = 2 + mailbox.len() + 2 + 20;
    out.extend_from_slice(&domain);
    write_head_end(rtype::SOA, style.ttl, data_len, out);
    out.extend_from_slice(&domain);
    out.extend_from_slice(mailbox);
    out.extend_from_slice(&domain);
    for number in [SOA_SERIAL, SOA_REFRESH, SOA_RETRY, SOA_EXPIRE, style.ttl] {
        out.extend_from_slice(&number.to_be_bytes());
    }
}

fn write_opt(edns: Edns, out: &mut Vec<u8>) {
    let [b, c] = rtype::OPT.to_be_bytes();
    let [d, e] = MAX_UDP_LEN.to_be_bytes();
    let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
    out.extend_from_slice(&[0, b, c, d, e, 0, 0, dnssec_ok, 0, 0, 0]);
}

fn patch(out: &mut [u8], start: usize, at: usize, value: u16) {
    let at = start.saturating_add(at);
    if let Some(field) = out.get_mut(at..at.saturating_add(2)) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}
