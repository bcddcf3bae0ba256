//! A recording of three 2.8.1 routers in a line, with our engine in the place of the middle one.

use std::time::Duration;

use proto::{PeerUid, ShortId};
use serde_json::Value as Json;

use super::kit::{Net, Records, config, peer, records};
use crate::dataplane::{Command, Event};
use crate::topology::Peers;
use crate::wire::control::{ControlForm, GossipKind, Message};

fn recording() -> Json {
    serde_json::from_str(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/vectors/session-relay.json"
    )))
    .unwrap()
}

/// Topology in the messages among `bytes`, which begin with the introduction. Other messages are
/// left out.
fn told(bytes: &[u8]) -> Vec<Records> {
    assert_eq!(&bytes[..8], b"weave\x01\x02\x00");
    let mut rest = &bytes[8..];
    let mut told = Vec::new();
    let mut first = true;
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let (body, tail) = tail.split_at(u32::from_be_bytes(*len) as usize);
        rest = tail;
        if std::mem::take(&mut first) {
            continue; // features
        }
        if let Message::Gossip(message) =
            Message::decode(body.to_vec(), ControlForm::Switch).unwrap()
        {
            assert_eq!(message.channel(), b"topology");
            assert_eq!(message.kind(), GossipKind::Neighbours);
            assert_eq!(message.source(), peer(2));
            told.push(records(message.payload()));
        }
    }
    told
}

/// All that anybody says in the recording.
fn records_in(recording: &Json) -> Records {
    let name = |name: &Json| name.as_str().unwrap().parse().unwrap();
    let events = recording["events"].as_array().unwrap().iter();
    let told = events.filter_map(|event| event["meaning"]["topology"].as_array());
    told.flatten()
        .map(|record| {
            let listed = record["connections"].as_array().unwrap().iter();
            let mut listed: Vec<_> = listed
                .map(|listed| (name(&listed["remote"]), listed["established"] == true))
                .collect();
            listed.sort();
            (
                name(&record["name"]),
                record["version"].as_u64().unwrap(),
                listed,
            )
        })
        .collect()
}

/// What the messages taken together say: with the newest record of each peer last.
fn merged(told: &[Records]) -> Records {
    let mut newest = std::collections::BTreeMap::new();
    for (name, version, connections) in told.iter().flatten() {
        newest.insert(*name, (*version, connections.clone()));
    }
    newest
        .into_iter()
        .map(|(name, (version, connections))| (name, version, connections))
        .collect()
}

#[test]
fn the_middle_of_a_line_of_three() {
    let recording = recording();
    let mut net = Net::new();
    let mut middle = config(2);
    middle.discovery = false;
    net.add(2, middle);
    // In the recorded life, so that what the others say of it is not taken for an older one.
    net.call(2, |mesh, _| {
        mesh.local.uid = PeerUid(11_501_989_115_723_879_374);
        mesh.local.short_id = Some(ShortId(2920));
        mesh.peers = Peers::new(peer(2), "host2", mesh.local.uid, ShortId(2920));
    });
    net.overlays_work = false;
    let start = net.now;
    let mut seen_commands = 0;
    // By neighbour: our stand-in for it, and what the recorded middle had told it.
    let mut probes = [None; 4];
    let mut recorded = [const { Vec::new() }; 4];
    let recorded_records = records_in(&recording);
    let mut compared = 0;
    for event in recording["events"].as_array().unwrap() {
        if event["transport"] != "tcp" {
            continue;
        }
        let at = start + Duration::from_secs_f64(event["time_s"].as_f64().unwrap());
        net.pass(at.saturating_duration_since(net.now));
        let direction = event["direction"].as_str().unwrap();
        let bytes = hex::decode(event["hex"].as_str().unwrap()).unwrap();
        let kind = event["meaning"]["kind"].as_str().unwrap();
        let (from, to) = direction.split_once(" -> ").unwrap();
        if from == "host2" {
            let neighbour: usize = to.strip_prefix("host").unwrap().parse().unwrap();
            recorded[neighbour].extend(bytes);
            continue;
        }
        let neighbour: usize = from.strip_prefix("host").unwrap().parse().unwrap();
        if kind.starts_with("connection opened") {
            let port = event["meaning"]["from_port"].as_u64().unwrap();
            let ip = if neighbour == 1 {
                "192.168.88.1"
            } else {
                "192.168.89.3"
            };
            let remote = format!("{ip}:{port}").parse().unwrap();
            probes[neighbour] = Some(net.raw_probe(2, remote));
        } else if kind == "TCP reset" {
            // Before that, everything must have been told that the recorded middle told. It sent
            // some things in two messages which we merge into one.
            for neighbour in [1, 3] {
                let ours = told(&net.probes[probes[neighbour].unwrap()].bytes);
                let theirs = told(&recorded[neighbour]);
                assert_eq!(ours[0], theirs[0], "on introduction");
                assert_eq!(merged(&ours), merged(&theirs));
                assert!(ours.len() <= theirs.len() && ours.len() + 2 >= theirs.len());
                for record in ours.into_iter().flatten() {
                    assert!(
                        recorded_records.contains(&record),
                        "{record:?} was never so"
                    );
                }
                compared += 1;
            }
            net.probe_hangs_up(probes[neighbour].unwrap());
        } else {
            net.probe_sends_bytes(probes[neighbour].unwrap(), bytes);
        }
        // The overlay works once the other end says that it has heard us.
        let commands = &net.host(2).commands[seen_commands..];
        let heard: Vec<_> = commands
            .iter()
            .filter_map(|command| match command {
                Command::Control(link, control) if control.tag == 1 => Some(*link),
                _ => None,
            })
            .collect();
        seen_commands = net.host(2).commands.len();
        for link in heard {
            net.call(2, |mesh, now| {
                mesh.handle_data_event(Event::Established(link), now);
            });
        }
    }
    assert_eq!(compared, 2);
    assert_eq!(net.established(2), [peer(1)]);
    net.pass(Duration::from_secs(2));
    let ours = told(&net.probes[probes[1].unwrap()].bytes);
    let theirs = told(&recorded[1]);
    assert_eq!(ours.last(), theirs.last(), "host 3 is gone");
}
