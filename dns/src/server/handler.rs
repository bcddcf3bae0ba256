//! The handler on `hickory-server`: a complete parser, for whatever is not a plain query.
//!
//! It gives the same answers as [`Responder`], from the same verdicts, and could serve alone: it is
//! a [`RequestHandler`]. What comes here in fact are queries that are wrong (a name that is none,
//! two OPT records, an EDNS version that nobody knows), and such as have more in them than a
//! question and an OPT record, signatures for example.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hickory_proto::op::{Edns, Header, HeaderCounts, Message, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, HINFO, PTR, SOA};
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::{BinDecodable, BinEncodable, BinEncoder};
use hickory_server::net::NetError;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder};
use rand::RngExt;

use super::udp::random;
use super::upstream::Upstream;
use crate::query::{HEADER_LEN, Rcode, class};
use crate::relay;
use crate::reply::{self, Asker, Transport};
use crate::responder::{Responder, outcome_of};
use crate::stats::{Kind, Outcome};
use crate::zone::{self, Question, Verdict};

/// Answers requests that `hickory-server` has read.
#[derive(Clone)]
pub(super) struct Handler {
    responder: Responder,
    upstream: Arc<Upstream>,
}

/// The parts of a response.
struct Parts {
    metadata: Metadata,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
    edns: Option<Edns>,
    outcome: Outcome,
}

impl Handler {
    pub(super) const fn new(responder: Responder, upstream: Arc<Upstream>) -> Self {
        Self {
            responder,
            upstream,
        }
    }

    /// Answers a packet that is a query, as far as its header goes.
    pub(super) async fn answer(
        &self,
        packet: Vec<u8>,
        client: SocketAddr,
        transport: Transport,
    ) -> (Kind, Outcome, Option<Vec<u8>>) {
        let protocol = match transport {
            Transport::Udp => Protocol::Udp,
            Transport::Tcp => Protocol::Tcp,
        };
        let header = packet.get(..HEADER_LEN).unwrap_or_default().to_vec();
        let Ok(request) = Request::from_bytes(packet, client, protocol) else {
            let mut answer = Vec::new();
            reply::write_refusal(&header, Rcode::FormErr, &mut answer);
            return (Kind::Malformed, Outcome::Refused, Some(answer));
        };
        let (kind, outcome, answer) = self.answer_request(&request, transport).await;
        (kind, outcome, answer)
    }

    async fn answer_request(
        &self,
        request: &Request,
        transport: Transport,
    ) -> (Kind, Outcome, Option<Vec<u8>>) {
        let kind = match request.request_info() {
            Ok(info) => Kind::of_type(info.query.query_type().into()),
            Err(_) => Kind::Malformed,
        };
        let Some(parts) = self.decide(request) else {
            // As bytes, so that signatures stay.
            let question = request.queries.as_bytes();
            let asked = self.upstream.ask(request.as_slice(), question.len()).await;
            let asker = Asker {
                id: request.metadata.id,
                question,
                flags: request.as_slice().get(2..4).map_or(0, |flags| {
                    flags
                        .iter()
                        .fold(0, |flags, byte| flags << 8 | u16::from(*byte))
                }),
                edns: edns_of(request),
            };
            return match asked {
                Some(message) => {
                    let answer = relay::relay(asker, transport, &message);
                    (kind, Outcome::Forwarded, Some(answer))
                }
                None => {
                    let mut answer = Vec::new();
                    reply::write_failure(asker, Rcode::ServFail, &mut answer);
                    (kind, Outcome::ServFail, Some(answer))
                }
            };
        };
        let letter = Letter::default();
        let outcome = parts.outcome;
        if let Err(error) = parts.send(request, letter.clone()).await {
            tracing::debug!(%error, "cannot encode a DNS answer");
        }
        (kind, outcome, letter.take())
    }

    /// The response, unless upstream servers are to be asked.
    fn decide(&self, request: &Request) -> Option<Parts> {
        let mut parts = Parts::new(request);
        let refuse = |mut parts: Parts, code| {
            parts.metadata.response_code = code;
            parts.outcome = Outcome::Refused;
            Some(parts)
        };
        let Ok(info) = request.request_info() else {
            return refuse(parts, ResponseCode::FormErr);
        };
        if request.metadata.op_code != OpCode::Query {
            return refuse(parts, ResponseCode::NotImp);
        }
        // RFC 6891, section 6.1.3.
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return refuse(parts, ResponseCode::BADVERS);
        }
        let name = info.query.original().name();
        let Ok(folded) = name.to_lowercase().to_bytes() else {
            return refuse(parts, ResponseCode::FormErr);
        };
        let question = Question {
            name: &folded,
            qtype: info.query.query_type().into(),
            qclass: info.query.query_class().into(),
        };
        let names = self.responder.names();
        let decided = zone::decide(names, question, |verdict| {
            let outcome = outcome_of(verdict)?;
            parts.outcome = outcome;
            self.fill(&mut parts, verdict, name, request);
            Some(())
        });
        if question.qclass == class::ANY {
            parts.metadata.authoritative = false;
        }
        decided.map(|()| parts)
    }

    /// Puts a verdict into records.
    fn fill(&self, parts: &mut Parts, verdict: Verdict<'_>, owner: &Name, request: &Request) {
        let ttl = self.responder.ttl();
        let record = |data| Record::from_rdata(owner.clone(), ttl, data);
        parts.metadata.authoritative = true;
        match verdict {
            Verdict::A(addrs) => {
                let chosen = parts.choose(addrs, 4, request);
                let data = chosen.into_iter().map(|addr| RData::A(A(addr)));
                parts.answers = data.map(record).collect();
            }
            Verdict::Aaaa(addrs) => {
                let chosen = parts.choose(addrs, 16, request);
                let data = chosen.into_iter().map(|addr| RData::AAAA(AAAA(addr)));
                parts.answers = data.map(record).collect();
            }
            Verdict::Ptr(name) => {
                let name = Name::from_bytes(name.as_bytes());
                parts.answers = name
                    .map(|name| vec![record(RData::PTR(PTR(name)))])
                    .unwrap_or_default();
            }
            Verdict::Hinfo => {
                let hinfo = HINFO::new("RFC8482".to_owned(), String::new());
                parts.answers = vec![record(RData::HINFO(hinfo))];
            }
            Verdict::Soa => parts.answers = self.soa(),
            Verdict::NoData { in_domain } => {
                parts.authorities = if in_domain { self.soa() } else { Vec::new() };
            }
            Verdict::NxDomain { in_domain } => {
                parts.metadata.response_code = ResponseCode::NXDomain;
                parts.metadata.authoritative = in_domain;
                parts.authorities = if in_domain { self.soa() } else { Vec::new() };
            }
            Verdict::Refused => {
                parts.metadata.response_code = ResponseCode::Refused;
                parts.metadata.authoritative = false;
            }
            Verdict::Forward => {}
        }
    }

    fn soa(&self) -> Vec<Record> {
        let ttl = self.responder.ttl();
        let Ok(domain) = Name::from_bytes(self.responder.names().domain()) else {
            return Vec::new();
        };
        let mailbox = domain
            .prepend_label("hostmaster")
            .unwrap_or_else(|_| domain.clone());
        let time = |seconds: u32| i32::try_from(seconds).unwrap_or(i32::MAX);
        let soa = SOA::new(
            domain.clone(),
            mailbox,
            reply::SOA_SERIAL,
            time(reply::SOA_REFRESH),
            time(reply::SOA_RETRY),
            time(reply::SOA_EXPIRE),
            ttl,
        );
        vec![Record::from_rdata(domain, ttl, RData::SOA(soa))]
    }

    /// Asks upstream, and takes the answer apart.
    async fn forward(&self, request: &Request) -> Parts {
        let mut parts = Parts::new(request);
        let question_len = request.queries.as_bytes().len();
        let asked = self.upstream.ask(request.as_slice(), question_len).await;
        let message = asked.and_then(|message| Message::from_vec(&message).ok());
        let Some(message) = message else {
            parts.metadata.response_code = ResponseCode::ServFail;
            parts.outcome = Outcome::ServFail;
            return parts;
        };
        parts.metadata = message.metadata;
        parts.metadata.id = request.metadata.id;
        parts.answers = message.answers;
        parts.authorities = message.authorities;
        parts.additionals = message.additionals;
        parts.edns = message.edns;
        parts.outcome = Outcome::Forwarded;
        parts
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        response_handle: R,
    ) -> ResponseInfo {
        let parts = match self.decide(request) {
            Some(parts) => parts,
            None => self.forward(request).await,
        };
        let failed = || {
            let mut metadata = Metadata::response_from_request(&request.metadata);
            metadata.response_code = ResponseCode::ServFail;
            ResponseInfo::from(Header {
                metadata,
                counts: HeaderCounts::default(),
            })
        };
        let sent = parts.send(request, response_handle).await;
        sent.unwrap_or_else(|_| failed())
    }
}

impl Parts {
    /// An answer without anything in it.
    fn new(request: &Request) -> Self {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(reply::MAX_UDP_LEN);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        Self {
            metadata,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            edns,
            outcome: Outcome::Answered,
        }
    }

    /// As many as fit, in random order. The encoder would drop the OPT record for what does not.
    fn choose<T: Copy>(&mut self, addrs: &[T], addr_len: usize, request: &Request) -> Vec<T> {
        let transport = match request.protocol() {
            Protocol::Udp => Transport::Udp,
            _ => Transport::Tcp,
        };
        let opt_len = if self.edns.is_some() {
            reply::OPT_LEN
        } else {
            0
        };
        let question_len = request.queries.as_bytes().len();
        // The first owner is written in full: the encoder does not look for it in the question.
        let taken = HEADER_LEN + 2 * question_len + opt_len;
        let room = transport.max_len(edns_of(request)).saturating_sub(taken);
        let count = (room / (12 + addr_len)).min(addrs.len());
        self.metadata.truncation = count < addrs.len();
        let mut rng = random();
        let mut chosen = addrs.to_vec();
        for place in 0..count {
            chosen.swap(place, rng.random_range(place..addrs.len()));
        }
        chosen.truncate(count);
        chosen
    }

    async fn send<R: ResponseHandler>(
        self,
        request: &Request,
        mut to: R,
    ) -> Result<ResponseInfo, NetError> {
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &self.edns {
            builder.edns(edns);
        }
        let response = builder.build(
            self.metadata,
            &self.answers,
            &self.authorities,
            &[],
            &self.additionals,
        );
        to.send_response(response).await
    }
}

/// What the client says about its abilities.
fn edns_of(request: &Request) -> Option<crate::query::Edns> {
    let edns = request.edns.as_ref()?;
    Some(crate::query::Edns {
        payload_len: edns.max_payload(),
        dnssec_ok: edns.flags().dnssec_ok,
    })
}

/// Takes a response and keeps its bytes.
#[derive(Clone, Default)]
struct Letter {
    bytes: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Letter {
    fn take(&self) -> Option<Vec<u8>> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.take()
    }
}

#[async_trait]
impl ResponseHandler for Letter {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::new();
        let mut encoder = BinEncoder::new(&mut bytes);
        // What goes in has been chosen to fit; the encoder's own limit counts names in full.
        encoder.set_max_size(u16::MAX);
        let info = response.destructive_emit(&mut encoder)?;
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        Ok(info)
    }
}
