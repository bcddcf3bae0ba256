//! The original's answers, recorded: ours are the same but where the table says so and why.

use std::collections::BTreeMap;
use std::fmt;

use hickory_proto::op::Message;
use serde_json::Value;

use super::*;
use crate::query::{self, Received};
use crate::relay;
use crate::reply::Transport;

/// What of an answer matters; not how its names are written.
#[derive(Clone, PartialEq, Eq)]
struct Summary {
    rcode: String,
    flags: BTreeMap<&'static str, bool>,
    opcode: u64,
    question_count: u64,
    answer_count: usize,
    answers: Vec<String>,
    authority_count: u64,
    additional_count: u64,
}

impl fmt::Debug for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |(name, value): (&&'static str, &bool)| value.then_some(*name);
        let flags: Vec<&str> = self.flags.iter().filter_map(set).collect();
        write!(
            f,
            "{} {flags:?} opcode {} qd {} an {} {:?} ns {} ar {}",
            self.rcode,
            self.opcode,
            self.question_count,
            self.answer_count,
            self.answers,
            self.authority_count,
            self.additional_count
        )
    }
}

const FLAGS: [&str; 7] = ["aa", "tc", "rd", "ra", "ad", "cd", "all"];

impl Summary {
    fn expected(value: &Value) -> Option<Self> {
        let summary = value.as_object()?;
        let answers = summary["answers"].as_array()?.iter();
        let mut answers: Vec<String> = answers.filter_map(Value::as_str).map(Into::into).collect();
        answers.sort();
        let answer_count = usize::try_from(summary["answer_count"].as_u64()?).ok()?;
        let cut = summary["tc"].as_bool()? || answers.len() != answer_count;
        Some(Self {
            rcode: summary["rcode"].as_str()?.to_owned(),
            flags: FLAGS[..6]
                .iter()
                .map(|flag| (*flag, summary[*flag].as_bool().unwrap()))
                .collect(),
            opcode: summary["opcode"].as_u64()?,
            question_count: summary["questions"].as_u64()?,
            answer_count,
            // Which of them it is, is chance.
            answers: if cut { Vec::new() } else { answers },
            authority_count: summary["authority_count"].as_u64()?,
            additional_count: summary["additional_count"].as_u64()?,
        })
    }

    fn of(message: &Message, with_answers: bool) -> Self {
        let mut answers: Vec<String> = message
            .answers
            .iter()
            .map(|record| {
                let (name, ttl, class) = (&record.name, record.ttl, record.dns_class);
                let (rtype, data) = (record.record_type(), &record.data);
                format!("{name} {ttl} {class} {rtype} {data}")
            })
            .collect();
        answers.sort();
        let metadata = &message.metadata;
        let flags = [
            metadata.authoritative,
            metadata.truncation,
            metadata.recursion_desired,
            metadata.recursion_available,
            metadata.authentic_data,
            metadata.checking_disabled,
        ];
        let additional_count = message.additionals.len() + usize::from(message.edns.is_some());
        Self {
            rcode: match metadata.response_code.low() {
                0 => "NOERROR",
                1 => "FORMERR",
                2 => "SERVFAIL",
                3 => "NXDOMAIN",
                4 => "NOTIMP",
                5 => "REFUSED",
                _ => "other",
            }
            .to_owned(),
            flags: FLAGS.into_iter().zip(flags).collect(),
            opcode: u8::from(metadata.op_code).into(),
            question_count: message.queries.len() as u64,
            answer_count: message.answers.len(),
            answers: if with_answers { answers } else { Vec::new() },
            authority_count: message.authorities.len() as u64,
            additional_count: additional_count as u64,
        }
    }
}

type Change = fn(&mut Summary);

/// RFC 2308, section 3: the SOA tells how long there is nothing, on our authority.
fn with_soa(summary: &mut Summary) {
    summary.authority_count = 1;
    summary.flags.insert("aa", true);
}

/// RFC 6891, section 6.1.1: who sends an OPT record gets one.
fn with_opt_record(summary: &mut Summary) {
    summary.additional_count = 1;
}

/// As many addresses as fit when names are compressed; not over 1232 bytes.
fn cut_to<const COUNT: usize>(summary: &mut Summary) {
    summary.answer_count = COUNT;
    summary.answers.clear();
    summary.flags.insert("tc", true);
}

fn cut_to_74_with_opt(summary: &mut Summary) {
    cut_to::<74>(summary);
    with_opt_record(summary);
}

fn refused_from_header(summary: &mut Summary, rcode: &str) {
    summary.rcode = rcode.to_owned();
    summary.question_count = 0;
    summary.answer_count = 0;
    summary.answers.clear();
    summary.flags.insert("aa", false);
    summary.flags.insert("ra", false);
}

/// Where and why we answer otherwise.
const DIFFERENCES: &[(&str, Change)] = &[
    ("a-unknown", with_soa),
    ("a-tombstoned", with_soa),
    ("a-subdomain-of-known", with_soa),
    ("mx-unknown", with_soa),
    ("aaaa-known", |summary| summary.authority_count = 1),
    // The owner of an SOA exists.
    ("a-domain-apex", |summary| {
        with_soa(summary);
        summary.rcode = "NOERROR".to_owned();
    }),
    // RFC 8482, section 4.2.
    ("any-known", |summary| {
        summary.answer_count = 1;
        summary.answers = vec!["web.weave.local. 1 IN HINFO RFC8482 ".to_owned()];
    }),
    // RFC 4035, section 3.1.4.1: they stay here.
    ("ds-domain", ds),
    ("ds-known", ds),
    // RFC 1035, section 3.2.4: there is nothing of ours in other classes.
    ("a-class-chaos", |summary| {
        summary.rcode = "REFUSED".to_owned();
        summary.answer_count = 0;
        summary.answers.clear();
        summary.flags.insert("aa", false);
    }),
    ("a-edns0", with_opt_record),
    // 16 bytes for an address instead of 32.
    ("many-udp-512", cut_to::<29>),
    ("many-udp-edns-1232", cut_to_74_with_opt),
    ("many-udp-edns-4096", cut_to_74_with_opt),
    ("huge-udp-edns-65535", cut_to_74_with_opt),
    // RFC 6891, section 6.2.3: less than 512 is 512.
    ("many-udp-edns-100", |summary| {
        cut_to::<29>(summary);
        with_opt_record(summary);
    }),
    ("one-udp-edns-20", with_opt_record),
    ("two-udp-edns-20", |summary| {
        with_opt_record(summary);
        summary.answer_count = 2;
        summary.answers = ["3", "4"]
            .map(|n| format!("two.weave.local. 1 IN A 10.32.0.{n}"))
            .to_vec();
        summary.flags.insert("tc", false);
    }),
    // The name exists: RFC 2308, section 2.2.
    ("ptr-non-ptr-type", |summary| {
        summary.rcode = "NOERROR".to_owned();
        summary.flags.insert("aa", true);
    }),
    // RFC 9619, section 4: one question, or it is no query.
    ("two-questions-local", formerr),
    ("two-questions-upstream", formerr),
    ("no-question", formerr),
    // RFC 1035, section 4.1.1: it is not implemented.
    ("opcode-update", notimp),
    ("opcode-notify", notimp),
    // RD is copied also then.
    ("garbage-body", |summary| {
        summary.flags.insert("rd", true);
    }),
    // We ask over UDP whatever the client uses.
    ("upstream-tcp", |summary| {
        summary.rcode = "NOERROR".to_owned();
        summary.answer_count = 1;
        summary.answers = vec!["www.example.com. 60 IN A 192.0.2.55".to_owned()];
    }),
    // RFC 1035, section 4.2.1: not more than 512 bytes, unless the client takes them.
    ("upstream-big", cut_to::<0>),
];

fn ds(summary: &mut Summary) {
    with_soa(summary);
    summary.answer_count = 0;
    summary.answers.clear();
}

fn formerr(summary: &mut Summary) {
    refused_from_header(summary, "FORMERR");
}

fn notimp(summary: &mut Summary) {
    refused_from_header(summary, "NOTIMP");
    summary.flags.insert("rd", true);
}

/// Of these the original asks upstream, or not, and we do it the other way round.
const ASKED_OTHERWISE: [&str; 4] = [
    "ds-domain",
    "ds-known",
    "two-questions-upstream",
    "upstream-tcp",
];

fn vectors() -> Vec<Value> {
    let text = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/vectors/dns-server.json"
    ));
    serde_json::from_str(text).unwrap()
}

fn text_of<'v>(vector: &'v Value, key: &str) -> &'v str {
    vector[key].as_str().unwrap_or_default()
}

/// The table of the recordings.
fn table() -> Nameserver {
    let mut nameserver = nameserver();
    for (name, addr) in [
        ("web", "10.32.0.1"),
        ("Mixed", "10.32.0.2"),
        ("two", "10.32.0.3"),
        ("two", "10.32.0.4"),
        ("dead", "10.32.0.5"),
        ("shared0", "10.32.0.50"),
        ("shared1", "10.32.0.50"),
    ] {
        add(&mut nameserver, &format!("{name}.weave.local."), addr);
    }
    for n in 0..100 {
        add(&mut nameserver, "many.weave.local", &format!("10.33.0.{n}"));
    }
    for n in 0..2100 {
        let addr = format!("10.34.{}.{}", n / 256, n % 256);
        add(&mut nameserver, "huge.weave.local", &addr);
    }
    let dead = Selection {
        hostname: Some("dead.weave.local."),
        ..Selection::default()
    };
    assert!(nameserver.delete(&dead, 101).is_some());
    nameserver
}

#[tokio::test(flavor = "multi_thread")]
async fn we_answer_as_the_original_does() {
    let names = table().names();
    let directory = tempfile::tempdir().unwrap();
    let upstream = Upstream::start("127.0.0.1:0");
    let start = |text: &str| {
        let file = directory.path().join(text.len().to_string());
        std::fs::write(&file, text).unwrap();
        let config = Config {
            resolv_conf: Some(file),
            ..loopback()
        };
        Server::start_with(config, names.clone(), upstream.address.port()).unwrap()
    };
    let usual = start("nameserver 127.0.0.1\n");
    let without = start("# nobody\n");
    let behind_ipv6 = start("nameserver 2001:db8::1\nnameserver 127.0.0.1\n");
    let mut count = 0;
    for vector in vectors() {
        let name = text_of(&vector, "name");
        let packet = hex::decode(text_of(&vector, "hex")).unwrap();
        if name == "_table" {
            continue;
        }
        let server = match name {
            "no-upstream-servers" | "ptr-unknown-no-upstream" => &without,
            "ipv6-upstream-skipped" => &behind_ipv6,
            _ => &usual,
        };
        let inputs = &vector["inputs"];
        let response = hex::decode(text_of(&vector["expected"], "response_hex")).unwrap();
        let scripted = match (
            text_of(inputs, "upstream_mode"),
            text_of(inputs, "transport"),
        ) {
            ("drop", _) => None,
            (_, "tcp") => Some(answer_to(&packet, [192, 0, 2, 55])),
            _ => Some(response),
        };
        upstream.does(move |packet| {
            let mut answer = scripted.clone()?;
            answer[..2].copy_from_slice(&packet[..2]);
            Some(answer)
        });
        let asked_before = upstream.asked();
        let address = server.addresses()[0];
        let mut expected = Summary::expected(&vector["expected"]["summary"]);
        let answer = if text_of(inputs, "transport") == "tcp" {
            Some(exchange_tcp(address, &packet))
        } else if expected.is_none() {
            maybe(address, &packet)
        } else {
            Some(exchange(address, &packet))
        };
        if let (Some(expected), Some((_, change))) = (
            &mut expected,
            DIFFERENCES.iter().find(|(differs, _)| *differs == name),
        ) {
            change(expected);
        }
        if name == "huge-tcp" {
            // The original says nothing, for it would be longer than 64 KiB.
            assert_eq!(parsed(&answer.unwrap()).answers.len(), 2100);
            continue;
        }
        let with_answers = expected
            .as_ref()
            .is_some_and(|expected| expected.answers.len() == expected.answer_count);
        let summary = answer.map(|answer| {
            assert_eq!(answer[..2], packet[..2], "{name}: id");
            Summary::of(&parsed(&answer), with_answers)
        });
        assert_eq!(summary, expected, "{name}");
        let asked = (upstream.asked() - asked_before) as u64;
        let expected = vector["expected"]["forwarded_upstream"].as_u64().unwrap();
        let otherwise = ASKED_OTHERWISE.contains(&name);
        assert_eq!(
            asked,
            if otherwise { 1 - expected } else { expected },
            "{name}: asked"
        );
        count += 1;
    }
    assert_eq!(count, 56);
    for server in [usual, without, behind_ipv6] {
        server.shutdown().await;
    }
}

/// The other direction: what the original says is an answer to what it was asked, and reaches our
/// clients as it is.
#[test]
fn answers_of_the_original_are_relayed_as_they_are() {
    let mut count = 0;
    for vector in vectors() {
        let name = text_of(&vector, "name");
        let packet = hex::decode(text_of(&vector, "hex")).unwrap();
        let response = hex::decode(text_of(&vector["expected"], "response_hex")).unwrap();
        let Received::Plain(query) = query::read(&packet) else {
            continue;
        };
        if response.is_empty() {
            continue;
        }
        assert!(
            relay::is_answer(&packet, query.question.len(), &response),
            "{name}"
        );
        let relayed = relay::relay((&query).into(), Transport::Tcp, &response);
        assert_eq!(relayed, response, "{name}");
        count += 1;
    }
    assert!(count >= 40, "{count}");
}
