//! Reading queries: the plain ones, which are nearly all, without a copy.
//!
//! ```text
//!  0        2        4        6        8        10       12
//! +--------+--------+--------+--------+--------+--------+----------
//! | id     | flags  | qd     | an     | ns     | ar     | question, records
//! +--------+--------+--------+--------+--------+--------+----------
//!
//! flags     QR 1  opcode 4  AA 1  TC 1  RD 1  RA 1  Z 1  AD 1  CD 1  rcode 4
//! question  name  type 2  class 2
//! OPT       0  type 2 (41)  payload 2  rcode 1  version 1  flags 2 (DO is the first)  len 2  options
//! ```
//!
//! Big endian all. Sources: RFC 1035, section 4.1, and RFC 6891, section 6.1.2. What is a query but
//! not a plain one is left to a complete parser.

use crate::name::{MAX_LABEL_LEN, MAX_NAME_LEN};

/// Length of the header.
pub const HEADER_LEN: usize = 12;

/// Types of records that mean something here.
pub mod rtype {
    #![expect(missing_docs, reason = "names of RFC 1035 and others")]
    pub const A: u16 = 1;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const HINFO: u16 = 13;
    pub const AAAA: u16 = 28;
    pub const OPT: u16 = 41;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// Classes that mean something here.
pub mod class {
    #![expect(missing_docs, reason = "names of RFC 1035")]
    pub const IN: u16 = 1;
    pub const ANY: u16 = 255;
}

/// Response codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Rcode {
    /// All is well.
    NoError = 0,
    /// The query could not be understood.
    FormErr = 1,
    /// It could not be answered now.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// An operation that is not implemented.
    NotImp = 4,
    /// Not for this client, or not by this server.
    Refused = 5,
}

pub(crate) const FLAG_RESPONSE: u16 = 0x8000;
pub(crate) const FLAG_AUTHORITATIVE: u16 = 0x0400;
pub(crate) const FLAG_TRUNCATED: u16 = 0x0200;
pub(crate) const FLAG_RECURSION_DESIRED: u16 = 0x0100;
pub(crate) const FLAG_RECURSION_AVAILABLE: u16 = 0x0080;
pub(crate) const FLAG_CHECKING_DISABLED: u16 = 0x0010;
pub(crate) const OPCODE_MASK: u16 = 0x7800;

/// What the client says about its abilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// The longest answer over UDP that it takes.
    pub payload_len: u16,
    /// Whether it wants DNSSEC records: copied, RFC 3225, section 3.
    pub dnssec_ok: bool,
}

/// A query with one question and nothing else but an OPT record.
#[derive(Debug, Clone)]
pub struct Query<'p> {
    /// Chosen by the client.
    pub id: u16,
    /// As in the header.
    pub flags: u16,
    /// Name, type and class as they came.
    pub question: &'p [u8],
    /// Type asked for.
    pub qtype: u16,
    /// Class asked for.
    pub qclass: u16,
    /// If the client speaks EDNS.
    pub edns: Option<Edns>,
    folded: Folded,
}

/// A name in lower case.
#[derive(Debug, Clone)]
struct Folded {
    bytes: [u8; MAX_NAME_LEN],
    len: usize,
}

/// What has arrived.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are of the large kind, and none is kept"
)]
pub enum Received<'p> {
    /// A query that can be answered as it is.
    Plain(Query<'p>),
    /// A query, maybe, that needs a complete parser.
    Odd,
    /// It can be refused from its header alone.
    Refused(Rcode),
    /// It gets no answer: too short, or a response itself (answering those could go on for ever).
    Ignored,
}

impl Query<'_> {
    /// The name in the form in which names are compared.
    pub fn name(&self) -> &[u8] {
        self.folded.bytes.get(..self.folded.len).unwrap_or_default()
    }
}

/// Reads a message.
pub fn read(packet: &[u8]) -> Received<'_> {
    let mut reader = Reader(packet);
    let (
        Some(id),
        Some(flags),
        Some(questions),
        Some(answers),
        Some(authorities),
        Some(additionals),
    ) = (
        reader.u16(),
        reader.u16(),
        reader.u16(),
        reader.u16(),
        reader.u16(),
        reader.u16(),
    )
    else {
        return Received::Ignored;
    };
    if flags & FLAG_RESPONSE != 0 {
        return Received::Ignored;
    }
    // Of other operations not even the sections are known.
    if flags & OPCODE_MASK != 0 {
        return Received::Refused(Rcode::NotImp);
    }
    // RFC 9619, section 4.
    if questions != 1 {
        return Received::Refused(Rcode::FormErr);
    }
    // A parser that believes the counts would reserve memory for them.
    let records = usize::from(answers) + usize::from(authorities) + usize::from(additionals);
    let least_len = HEADER_LEN + 5 + 11 * records;
    if packet.len() < least_len {
        return Received::Refused(Rcode::FormErr);
    }
    if answers != 0 || authorities != 0 || additionals > 1 {
        return Received::Odd;
    }
    let body = reader.0;
    let mut question = || {
        let folded = reader.name()?;
        let qtype = reader.u16()?;
        let qclass = reader.u16()?;
        let question = body.get(..body.len().checked_sub(reader.0.len())?)?;
        Some(Query {
            id,
            flags,
            question,
            qtype,
            qclass,
            edns: None,
            folded,
        })
    };
    let Some(mut query) = question() else {
        return Received::Odd;
    };
    if additionals == 1 {
        match reader.opt() {
            Some(Ok(edns)) => query.edns = Some(edns),
            Some(Err(NoOptions)) => return Received::Refused(Rcode::FormErr),
            None => return Received::Odd,
        }
    }
    if reader.0.is_empty() {
        Received::Plain(query)
    } else {
        Received::Odd
    }
}

/// Options that go beyond their record.
struct NoOptions;

struct Reader<'p>(&'p [u8]);

impl Reader<'_> {
    fn u8(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn u16(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*bytes))
    }

    /// A name without pointers; there is nothing before a question to which they could lead.
    fn name(&mut self) -> Option<Folded> {
        let mut len = 0_usize;
        loop {
            let label_len = usize::from(*self.0.get(len)?);
            if label_len > MAX_LABEL_LEN {
                return None;
            }
            len += 1 + label_len;
            if len > MAX_NAME_LEN {
                return None;
            }
            if label_len == 0 {
                break;
            }
        }
        let (name, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        let mut bytes = [0; MAX_NAME_LEN];
        // No length is as high as the code of a letter.
        for (into, byte) in bytes.iter_mut().zip(name) {
            *into = byte.to_ascii_lowercase();
        }
        Some(Folded { bytes, len })
    }

    /// An OPT record of the one version there is.
    fn opt(&mut self) -> Option<Result<Edns, NoOptions>> {
        let is_opt = self.u8()? == 0 && self.u16()? == rtype::OPT;
        let payload_len = self.u16()?;
        let _rcode = self.u8()?;
        let version = self.u8()?;
        let flags = self.u16()?;
        let options_len = self.u16()?;
        let (options, rest) = self.0.split_at_checked(usize::from(options_len))?;
        self.0 = rest;
        let edns = Edns {
            payload_len,
            dnssec_ok: flags & 0x8000 != 0,
        };
        (is_opt && version == 0).then(|| are_options(options).map(|()| edns).ok_or(NoOptions))
    }
}

/// None of them means anything to us, but they have to be options.
fn are_options(mut options: &[u8]) -> Option<()> {
    while !options.is_empty() {
        let (_code, after) = options.split_first_chunk::<2>()?;
        let (len, after) = after.split_first_chunk::<2>()?;
        options = after.get(usize::from(u16::from_be_bytes(*len))..)?;
    }
    Some(())
}
