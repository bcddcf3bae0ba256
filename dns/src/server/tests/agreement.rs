//! The short way and the complete parser say the same, to whatever both can answer.

use std::sync::Arc;

use hickory_proto::op::{Edns, Message};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::reply::{Scratch, Transport};
use crate::responder::{Action, Responder};
use crate::server::handler::Handler;
use crate::server::upstream::Upstream as Asking;

/// All of an answer but the order of records.
fn summary(answer: &[u8]) -> (String, Vec<String>, Vec<String>, bool) {
    let Message {
        metadata,
        queries,
        answers,
        authorities,
        edns,
        ..
    } = parsed(answer);
    // If cut, which of them is chance.
    let sorted = |records: Vec<hickory_proto::rr::Record>| {
        let mut texts: Vec<String> = records
            .iter()
            .map(|record| record.to_string().to_lowercase())
            .collect();
        if metadata.truncation {
            texts.clear();
        }
        texts.sort();
        texts
    };
    let head = format!(
        "{metadata:?} {queries:?} {:?}",
        edns.as_ref().map(Edns::flags)
    );
    (head, sorted(answers), sorted(authorities), edns.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_say_the_same() {
    let seed = 8482;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let responder = Responder::new(some_names().names(), 30);
    let asking = Asking::new(
        None,
        53,
        Vec::new(),
        PATIENCE,
        CancellationToken::new(),
        TaskTracker::new(),
    );
    let handler = Handler::new(responder.clone(), Arc::new(asking));
    let names = [
        "web.weave.local",
        "WEB.weave.LOCAL",
        "two.weave.local",
        "six.weave.local",
        "many.weave.local",
        "below.weave.local",
        "weave.local",
        "nosuch.weave.local",
        "web",
        "many",
        "nosuch",
        ".",
        "1.0.32.10.in-addr.arpa",
        "0.32.10.in-addr.arpa",
        "x.0.32.10.in-addr.arpa",
    ];
    let qtypes = [1, 2, 6, 12, 13, 15, 28, 41, 43, 251, 252, 255, 256, 65535];
    let client = "127.0.0.1:9".parse().unwrap();
    let mut compared = 0;
    for name in names {
        for qtype in qtypes {
            for class in [1, 3, 255] {
                let mut packet = query(rng.random(), name, qtype);
                let len = packet.len();
                packet[len - 1] = class;
                packet[2] = rng.random_range(0..2);
                packet[3] = 16 * rng.random_range(0..2);
                if rng.random() {
                    packet = with_opt(packet, rng.random(), 0);
                }
                for transport in [Transport::Udp, Transport::Tcp] {
                    let mut short = Vec::new();
                    let mut scratch = Scratch::default();
                    let action =
                        responder.respond(&packet, transport, &mut rng, &mut scratch, &mut short);
                    let Action::Reply(kind, outcome) = action else {
                        // Of another class such names are not ours.
                        assert!(name.ends_with("arpa") && class == 3, "{name} {qtype}");
                        continue;
                    };
                    let complete = handler.answer(packet.clone(), client, transport).await;
                    assert_eq!((complete.0, complete.1), (kind, outcome), "{name} {qtype}");
                    let complete = complete.2.unwrap();
                    assert_eq!(
                        summary(&short),
                        summary(&complete),
                        "{name} {qtype} {class}"
                    );
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 1000, "{compared}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_complete_parser_bears_anything() {
    let seed = 6891;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let responder = Responder::new(some_names().names(), 30);
    let asking = Asking::new(
        None,
        53,
        Vec::new(),
        PATIENCE,
        CancellationToken::new(),
        TaskTracker::new(),
    );
    let handler = Handler::new(responder.clone(), Arc::new(asking));
    let client = "127.0.0.1:9".parse().unwrap();
    let mut handled = 0;
    for _ in 0..20_000 {
        let mut packet = with_opt(query(1, "many.weave.local", rtype::A), 1232, 0);
        // A record of data before the OPT record, and damage to all of it.
        if rng.random() {
            packet[11] += 1;
            packet.extend_from_slice(b"\xc0\x0c\0\x10\0\x01\0\0\0\x01\0\x03\x02hi");
        }
        for _ in 0..rng.random_range(0..4) {
            let at = rng.random_range(12..packet.len());
            packet[at] = rng.random();
        }
        if rng.random_ratio(1, 8) {
            packet.truncate(rng.random_range(12..=packet.len()));
        }
        let mut answer = Vec::new();
        let mut scratch = Scratch::default();
        let action =
            responder.respond(&packet, Transport::Udp, &mut rng, &mut scratch, &mut answer);
        if action != Action::Parse {
            continue;
        }
        let (.., answer) = handler.answer(packet.clone(), client, Transport::Udp).await;
        let answer = answer.unwrap_or_else(|| panic!("no answer to {}", hex::encode(&packet)));
        assert!(answer.len() <= 1232, "{}", hex::encode(&packet));
        assert_eq!(answer[..2], packet[..2]);
        handled += 1;
    }
    assert!(handled > 5000, "{handled}");
}
