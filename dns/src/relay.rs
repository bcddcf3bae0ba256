//! Passing on what upstream servers answer: is it the answer to what was asked, and does it fit?
//!
//! Answers stay the bytes that they are, so that records and options of which nothing is known here
//! pass unharmed. Only the id and the spelling of the question become the client's own.

use crate::query::{FLAG_RESPONSE, FLAG_TRUNCATED, HEADER_LEN, OPCODE_MASK, Rcode};
use crate::reply::{self, Asker, MIN_UDP_LEN, Transport};

/// Where the number of questions is.
const QUESTION_COUNT: std::ops::Range<usize> = 4..6;

/// Whether a message answers the packet: the same id, and the same question in any case, or none at
/// all but an error (RFC 5452, section 9.1). That it came from the server that was asked is for the
/// socket to see to.
pub fn is_answer(packet: &[u8], question_len: usize, message: &[u8]) -> bool {
    let (Some([id_0, id_1, ..]), Some([said_0, said_1, flags_0, flags_1, ..])) = (
        packet.first_chunk::<HEADER_LEN>(),
        message.first_chunk::<HEADER_LEN>(),
    ) else {
        return false;
    };
    let flags = u16::from_be_bytes([*flags_0, *flags_1]);
    if (id_0, id_1) != (said_0, said_1) || flags & (FLAG_RESPONSE | OPCODE_MASK) != FLAG_RESPONSE {
        return false;
    }
    let question = HEADER_LEN..HEADER_LEN.saturating_add(question_len);
    match message.get(QUESTION_COUNT) {
        Some([0, 0]) => rcode_of(message) != Rcode::NoError as u8,
        Some([0, 1]) => match (packet.get(question.clone()), message.get(question)) {
            (Some(asked), Some(said)) => asked.eq_ignore_ascii_case(said),
            _ => false,
        },
        _ => false,
    }
}

/// The lower four bits of the response code.
pub fn rcode_of(message: &[u8]) -> u8 {
    message.get(3).map_or(0, |flags| flags & 0x0f)
}

/// Whether the TC bit is set.
pub fn is_truncated(message: &[u8]) -> bool {
    let flags = message.get(2..4).and_then(|flags| flags.try_into().ok());
    flags.is_some_and(|flags| u16::from_be_bytes(flags) & FLAG_TRUNCATED != 0)
}

/// Whether another server may do better: it failed, does not want to, or cannot.
pub fn is_failure(message: &[u8]) -> bool {
    let failures = [Rcode::ServFail, Rcode::NotImp, Rcode::Refused];
    failures
        .iter()
        .any(|rcode| *rcode as u8 == rcode_of(message))
}

/// The answer for the client: `message`, once [`is_answer`] has been found true, or what stands for
/// it. One that is too long is not cut to a part that may mislead, but to nothing.
pub fn relay(asker: Asker<'_>, transport: Transport, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let limit = match transport {
        Transport::Tcp => usize::from(u16::MAX),
        // Here the client's own limit holds: how long answers are is up to the upstream server.
        Transport::Udp => usize::from(
            asker
                .edns
                .map_or(MIN_UDP_LEN, |edns| edns.payload_len.max(MIN_UDP_LEN)),
        ),
    };
    if message.get(QUESTION_COUNT) != Some(&[0, 1]) {
        let rcode = match rcode_of(message) {
            1 => Rcode::FormErr,
            4 => Rcode::NotImp,
            5 => Rcode::Refused,
            _ => Rcode::ServFail,
        };
        reply::write_failure(asker, rcode, &mut out);
    } else if message.len() > limit {
        reply::write_truncated(asker, &mut out);
    } else {
        out.extend_from_slice(message);
        overwrite(&mut out, 0, &asker.id.to_be_bytes());
        overwrite(&mut out, HEADER_LEN, asker.question);
    }
    out
}

fn overwrite(bytes: &mut [u8], at: usize, by: &[u8]) {
    if let Some(into) = bytes.get_mut(at..at.saturating_add(by.len())) {
        into.copy_from_slice(by);
    }
}

/// The packet with another id.
pub fn with_id(packet: &[u8], id: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    overwrite(&mut packet, 0, &id.to_be_bytes());
    packet
}
