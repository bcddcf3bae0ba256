//! Recordings of the original, played against an engine in the place of one of the hosts.
//!
//! The engine gets what that host got, at the recorded times: datagrams, control messages, and the
//! frames that its containers sent. It must send what that host sent: byte for byte, in the same
//! order on each lane, and the same control messages. Only the instants of its own timers may
//! differ by some milliseconds.
//!
//! The original sometimes reads a control message a tenth of a second after it came in. The one
//! that starts all tests is therefore given to the engine when that host began its tests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proto::{ConnectionUid, PeerName};
use serde_json::Value as Json;

use super::net::{peer, routes};
use crate::LinkId;
use crate::crypto::secretbox;
use crate::crypto::session::SessionKey;
use crate::dataplane::{Command, DataPlane, Event, LinkConfig, OverlayControl};
use crate::offload::Offload;
use crate::testing::{bytes, golden};
use crate::wire::sleeve::{TAG_START, nonce};

const UNDERLAY_MTU: usize = 1500;
/// Bytes of large packets that the recordings kept.
const KEPT: usize = 64;

/// What a host sent to one neighbour.
#[derive(Debug, Default)]
struct Sent {
    /// Length and first bytes of the datagrams, with DF and without.
    df: Vec<(usize, Vec<u8>)>,
    fragmentable: Vec<(usize, Vec<u8>)>,
    controls: Vec<OverlayControl>,
}

impl Sent {
    fn note(&mut self, df: bool, datagram: &[u8]) {
        let lane = if df {
            &mut self.df
        } else {
            &mut self.fragmentable
        };
        lane.push((
            datagram.len(),
            datagram[..datagram.len().min(KEPT)].to_vec(),
        ));
        if datagram.len() < 60_000 && datagram.len() > KEPT {
            // Kept whole: compare whole.
            lane.last_mut().unwrap().1 = datagram.to_vec();
        }
    }
}

struct Player {
    engine: DataPlane,
    now: Instant,
    /// The other ends, by link.
    peers: BTreeMap<LinkId, PeerName>,
    sent: BTreeMap<PeerName, Sent>,
    bridge: Vec<Vec<u8>>,
}

impl Player {
    fn drain(&mut self) {
        self.engine.flush();
        loop {
            let mut too_long = Vec::new();
            while let Some(transmit) = self.engine.poll_transmit() {
                for datagram in transmit.datagrams() {
                    if transmit.df && datagram.len() + 28 > UNDERLAY_MTU {
                        too_long.push(transmit.link);
                    } else {
                        let other = self.peers[&transmit.link];
                        self.sent
                            .entry(other)
                            .or_default()
                            .note(transmit.df, datagram);
                    }
                }
            }
            while let Some(event) = self.engine.poll_event() {
                if let Event::Control(link, control) = event {
                    self.sent
                        .entry(self.peers[&link])
                        .or_default()
                        .controls
                        .push(control);
                }
            }
            if too_long.is_empty() {
                return;
            }
            for link in too_long {
                let mtu = u16::try_from(UNDERLAY_MTU).unwrap();
                self.engine.handle_too_long(link, mtu, self.now);
            }
        }
    }

    fn command(&mut self, command: Command) {
        self.engine.handle_command(command, self.now);
        self.drain();
    }

    fn run_until(&mut self, time: Instant) {
        while let Some(at) = self.engine.poll_timeout().filter(|&at| at <= time) {
            self.now = self.now.max(at);
            self.engine.handle_timeout(self.now);
            self.drain();
        }
        self.now = time;
    }
}

fn is_udp(event: &Json) -> bool {
    event["transport"] == "udp"
}

fn number(text: &Json) -> u64 {
    text.as_str().unwrap().parse().unwrap()
}

/// Sender and receiver of an event: `host1 -> host2`.
fn ends(event: &Json) -> (usize, usize) {
    let (from, to) = event["direction"]
        .as_str()
        .unwrap()
        .split_once(" -> ")
        .unwrap();
    let host = |name: &str| name.strip_prefix("host").unwrap().parse::<usize>().unwrap() - 1;
    (host(from), host(to))
}

/// The control message in an event, if that is what it is.
fn control(event: &Json) -> Option<OverlayControl> {
    let meaning = &event["meaning"];
    if meaning["kind"] != "overlay control" {
        return None;
    }
    let byte = |value: &Json| u8::try_from(value.as_u64().unwrap()).unwrap();
    let mtu = meaning["mtu"]
        .as_u64()
        .map(|mtu| u16::try_from(mtu).unwrap());
    Some(OverlayControl {
        index: byte(&meaning["forwarder_index"]),
        tag: byte(&meaning["overlay_tag"]),
        body: mtu
            .map(|mtu| mtu.to_be_bytes().to_vec())
            .unwrap_or_default(),
    })
}

/// The bytes of a datagram. Of large ones only the first were kept; the rest is zero, sealed with
/// the key if there is one.
fn datagram(event: &Json, key: Option<&SessionKey>, from_dialler: bool) -> Vec<u8> {
    let Some(kept) = event["hex_first_64_bytes"].as_str() else {
        return bytes(&event["hex"]);
    };
    let kept = hex::decode(kept).unwrap();
    let mut datagram = kept.clone();
    datagram.resize(
        usize::try_from(event["bytes"].as_u64().unwrap()).unwrap(),
        0,
    );
    if let Some(key) = key {
        let frame = &event["meaning"]["frames"][0];
        let name = |text: &Json| {
            text.as_str()
                .unwrap()
                .parse::<PeerName>()
                .unwrap()
                .to_bytes()
        };
        let len = u16::try_from(frame["length"].as_u64().unwrap())
            .unwrap()
            .to_be_bytes();
        let word = kept[6..TAG_START].try_into().unwrap();
        let mut body = [
            &name(&frame["src_peer"])[..],
            &name(&frame["dst_peer"]),
            &len,
        ]
        .concat();
        body.resize(datagram.len() - TAG_START - 16, 0);
        let tag = secretbox::seal_in_place(key, &nonce(from_dialler, word), &mut body);
        datagram = [&kept[..TAG_START], &tag, &body].concat();
        assert_eq!(datagram[..KEPT], kept, "sealing a large packet");
    }
    datagram
}

/// Plays a recording with the engine in the place of host `us`, until `end_s` seconds.
fn play(file: &str, us: usize, count: usize, edges: &[(usize, usize)], end_s: f64) {
    let recording = golden(file);
    let key = recording["keys"]["session_key"].as_str();
    let key = key.map(|key| SessionKey(hex::decode(key).unwrap().try_into().unwrap()));
    let all = recording["events"].as_array().unwrap();
    let recorded = all
        .iter()
        .filter(|event| event["time_s"].as_f64().unwrap() <= end_s);
    let mut events: Vec<&Json> = recorded
        .filter(|event| is_udp(event) || control(event).is_some())
        .filter(|event| [ends(event).0, ends(event).1].contains(&us))
        .collect();
    events.sort_by(|a, b| {
        a["time_s"]
            .as_f64()
            .unwrap()
            .total_cmp(&b["time_s"].as_f64().unwrap())
    });

    let start = Instant::now();
    let mut player = Player {
        engine: DataPlane::new(
            peer(us),
            crate::dataplane::DataOptions::default(),
            super::net::entropy(us),
            start,
        ),
        now: start,
        peers: BTreeMap::new(),
        sent: BTreeMap::new(),
        bridge: Vec::new(),
    };
    let address =
        |host: usize| SocketAddr::from(([192, 168, 88, u8::try_from(host).unwrap() + 1], 6783));
    player.command(Command::Routes(routes(count, edges).swap_remove(us).into()));

    // When each link was confirmed: an acceptor answers the first heartbeat that it looks at.
    let mut confirm_before: BTreeMap<usize, LinkId> = BTreeMap::new();
    let mut links = BTreeMap::new();
    let mut diallers = BTreeMap::new();
    for (index, connection) in recording["connections"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let host = |name: &Json| name.as_str().unwrap()[4..].parse::<usize>().unwrap() - 1;
        let between = connection["between"].as_array().unwrap();
        let Some(other) = between.iter().map(host).find(|&host| host != us) else {
            continue;
        };
        let (link, dialler) = (LinkId(index as u64), host(&connection["dialler"]));
        links.insert(other, link);
        diallers.insert(other, dialler);
        player.peers.insert(link, peer(other));
        player.command(Command::AddLink(Box::new(LinkConfig {
            link,
            peer: peer(other),
            uid: ConnectionUid(number(&connection["xor"])),
            outbound: dialler == us,
            local: address(us),
            remote: (dialler == us).then(|| address(other)),
            key: key.clone(),
            overlays: vec!["sleeve".to_owned()],
        })));
        let first_own = events
            .iter()
            .position(|event| is_udp(event) && ends(event) == (us, other));
        let first_own = first_own.unwrap();
        let at = if dialler == us {
            first_own
        } else {
            let heard = |event: &&Json| is_udp(event) && ends(event) == (other, us);
            events[..first_own].iter().rposition(heard).unwrap()
        };
        confirm_before.insert(at, link);
    }

    let mut expected: BTreeMap<PeerName, Sent> = BTreeMap::new();
    let mut delivered = Vec::new();
    let mut acknowledged = BTreeMap::new();
    for (position, &event) in events.iter().enumerate() {
        player.run_until(start + Duration::from_secs_f64(event["time_s"].as_f64().unwrap()));
        if let Some(&link) = confirm_before.get(&position) {
            player.command(Command::Confirm(link));
        }
        let (from, to) = ends(event);
        let other = if from == us { to } else { from };
        let df = event["ip_df"] == true;
        match control(event) {
            Some(control) if from == us => {
                expected.entry(peer(to)).or_default().controls.push(control);
            }
            Some(control) if control.tag == 1 => {
                acknowledged.insert(from, control);
            }
            Some(control) => player.command(Command::Control(links[&from], control)),
            None => {
                let mut datagram = datagram(event, key.as_ref(), diallers[&other] == from);
                let frames = event["meaning"]["frames"].as_array().unwrap();
                if from == us {
                    if frames[0]["length"] == 60_001
                        && let Some(control) = acknowledged.remove(&to)
                    {
                        player.command(Command::Control(links[&to], control));
                    }
                    expected.entry(peer(to)).or_default().note(df, &datagram);
                    for frame in frames {
                        let is_own = frame["src_peer"].as_str() == Some(&peer(us).to_string());
                        if is_own && frame["frame"]["special"].is_null() {
                            let frame = own_frame(event, frame, key.is_some());
                            player
                                .engine
                                .handle_frame(&frame, &Offload::NONE, player.now);
                        }
                    }
                } else {
                    for frame in frames {
                        let is_for_us = frame["dst_peer"].as_str() == Some(&peer(us).to_string());
                        if is_for_us && frame["frame"]["special"].is_null() {
                            delivered.push(frame["length"].as_u64().unwrap());
                        }
                    }
                    let deliveries =
                        player
                            .engine
                            .handle_datagram(address(from), &mut datagram, player.now);
                    player.bridge.extend(
                        deliveries
                            .iter()
                            .map(|delivery| datagram[delivery.range.clone()].to_vec()),
                    );
                }
                player.drain();
            }
        }
    }
    for (other, expected) in &expected {
        let sent = &player.sent[other];
        assert_eq!(sent.df, expected.df, "with DF to {other}");
        assert_eq!(
            sent.fragmentable, expected.fragmentable,
            "without DF to {other}"
        );
        assert_eq!(sent.controls, expected.controls, "controls to {other}");
    }
    assert_eq!(player.sent.len(), expected.len());
    let got: Vec<_> = player
        .bridge
        .iter()
        .map(|frame| frame.len() as u64)
        .collect();
    assert_eq!(got, delivered);
}

/// A frame that a container of ours sent, found in the datagram that carried it.
fn own_frame(event: &Json, frame: &Json, is_sealed: bool) -> Vec<u8> {
    let records = if is_sealed {
        bytes(&event["meaning"]["plaintext"])
    } else {
        bytes(&event["hex"])[6..].to_vec()
    };
    let len = usize::try_from(frame["length"].as_u64().unwrap()).unwrap();
    let mut rest = &records[..];
    loop {
        let stated = usize::from(u16::from_be_bytes([rest[12], rest[13]]));
        let (record, tail) = rest[14..].split_at(stated);
        let origin = PeerName::from_bytes(rest[..6].try_into().unwrap()).to_string();
        if stated == len && frame["src_peer"].as_str() == Some(&origin) {
            return record.to_vec();
        }
        rest = tail;
    }
}

#[test]
fn plain() {
    play("session-plain.json", 0, 2, &[(1, 0)], 84.0);
    play("session-plain.json", 1, 2, &[(1, 0)], 84.0);
}

#[test]
fn encrypted() {
    play("session-encrypted.json", 0, 2, &[(1, 0)], 44.0);
    play("session-encrypted.json", 1, 2, &[(1, 0)], 44.0);
}

#[test]
fn relay() {
    play("session-relay.json", 1, 3, &[(0, 1), (2, 1)], 24.0);
}
