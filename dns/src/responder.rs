//! From a packet to the answer, for all that can be answered here and at once.

use rand::Rng;

use crate::names::Names;
use crate::query::{self, Received};
use crate::reply::{self, Scratch, Style, Transport};
use crate::stats::{Kind, Outcome};
use crate::zone::{self, Question, Verdict};

/// Answers from the names.
#[derive(Debug, Clone)]
pub struct Responder {
    names: Names,
    ttl: u32,
}

/// What is to be done with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The answer has been written; to be counted so.
    Reply(Kind, Outcome),
    /// Upstream servers are to be asked.
    Forward,
    /// A complete parser has to look at it.
    Parse,
    /// Nothing.
    Ignore,
}

impl Responder {
    /// With answers that hold for `ttl` seconds.
    pub const fn new(names: Names, ttl: u32) -> Self {
        Self { names, ttl }
    }

    /// The names.
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// Seconds for which answers hold.
    pub const fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Looks at a packet, and appends the answer to `out` if it is one that can be given here.
    pub fn respond(
        &self,
        packet: &[u8],
        transport: Transport,
        rng: &mut impl Rng,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Action {
        let query = match query::read(packet) {
            Received::Plain(query) => query,
            Received::Odd => return Action::Parse,
            Received::Ignored => return Action::Ignore,
            Received::Refused(rcode) => {
                reply::write_refusal(packet, rcode, out);
                return Action::Reply(Kind::Malformed, Outcome::Refused);
            }
        };
        let question = Question {
            name: query.name(),
            qtype: query.qtype,
            qclass: query.qclass,
        };
        let style = Style {
            domain: self.names.domain(),
            ttl: self.ttl,
        };
        let limit = transport.max_len(query.edns);
        let outcome = zone::decide(&self.names, question, |verdict| {
            reply::write(&query, verdict, style, limit, rng, scratch, out);
            outcome_of(verdict)
        });
        outcome.map_or(Action::Forward, |outcome| {
            Action::Reply(Kind::of_type(query.qtype), outcome)
        })
    }
}

/// How a verdict is counted; `None` if it is not the last word.
pub const fn outcome_of(verdict: Verdict<'_>) -> Option<Outcome> {
    match verdict {
        Verdict::A(_) | Verdict::Aaaa(_) | Verdict::Ptr(_) | Verdict::Soa | Verdict::Hinfo => {
            Some(Outcome::Answered)
        }
        Verdict::NoData { .. } => Some(Outcome::NoData),
        Verdict::NxDomain { .. } => Some(Outcome::NxDomain),
        Verdict::Refused => Some(Outcome::Refused),
        Verdict::Forward => None,
    }
}
