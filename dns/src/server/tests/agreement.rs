//! The short way and the complete parser say the same, to whatever both can answer.

use std::sync::Arc;

use hickory_proto::op::Message;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

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
        edns.as_ref().map(|edns| edns.flags())
    );
    (head, sorted(answers), sorted(authorities), edns.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_say_the_same() {
    let seed = 8482;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let responder = Responder::new(some_names().names(), 30);
    let asking = Asking::new(None, 53, Vec::new(), PATIENCE, CancellationToken::new());
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
