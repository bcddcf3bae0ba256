//! One fuzz target for each decoder and each engine: bytes in, no panic, and what decodes must
//! survive the way back.
//!
//! The same functions are driven three ways: by libFuzzer (`fuzz/`), by the test `fuzz`, which
//! replays the seeds and mutates them from a printed seed, and by the same test with
//! `MESHCTL_FUZZ_RUNS` for as long as one likes.

use std::path::Path;

use proto::gob::{Decoder, Limits};
use proto::gossip::GossipData;
use proto::{PeerName, PeerUid, ShortId};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use router::topology::{Peers, Routes};
use router::wire::control::{ControlForm, Message};

/// A target.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("gob", gob),
    ("control", control),
    ("topology", topology),
    ("names", names),
    ("ring", ring),
];

/// Any gob stream.
pub fn gob(data: &[u8]) {
    let mut decoder = Decoder::new(data, Limits::GOSSIP);
    while let Ok(Some(value)) = decoder.next_value() {
        if value.skip().is_err() {
            break;
        }
    }
}

/// One control message, in both forms.
pub fn control(data: &[u8]) {
    for form in [ControlForm::Legacy, ControlForm::Switch] {
        if let Ok(message) = Message::decode(data.to_vec(), form)
            && !matches!(message, Message::Unknown { .. })
        {
            let again = Message::decode(message.encode(form), form);
            assert_eq!(again.as_ref(), Ok(&message), "{form:?}");
        }
    }
}

/// A topology update, applied, routed over, passed on and collected.
pub fn topology(data: &[u8]) {
    let mut rng = StdRng::seed_from_u64(1);
    let name = PeerName::from_bytes([0, 0, 0, 0, 0, 1]);
    let mut peers = Peers::new(name, "us", PeerUid(7), ShortId(5));
    if peers.apply(data, &mut rng).is_err() {
        assert_eq!(peers.len(), 1, "a refused update changes nothing");
        return;
    }
    let routes = Routes::calculate(&peers);
    for peer in peers.names() {
        let _ = (routes.unicast(peer), routes.broadcast(peer));
    }
    let payload = peers.encode(peers.names());
    let other = PeerName::from_bytes([0, 0, 0, 0, 0, 2]);
    let mut others = Peers::new(other, "them", PeerUid(8), ShortId(6));
    assert!(
        others.apply(&payload, &mut rng).is_ok(),
        "what we pass on can be read"
    );
    peers.collect_garbage(&mut rng);
}

/// A table of names.
pub fn names(data: &[u8]) {
    if let Ok(update) = dns::Update::decode(data) {
        let sent = update.encode();
        let again = dns::Update::decode(&sent).expect("what we send can be read");
        assert_eq!(again.encode(), sent);
    }
}

/// The ring's messages and stored values.
pub fn ring(data: &[u8]) {
    use ipam::wire::{GossipState, Unicast, persist};
    if let Ok(state) = GossipState::decode(data) {
        assert_eq!(GossipState::decode(&state.encode()).as_ref(), Ok(&state));
    }
    if let Ok(message) = Unicast::decode(data) {
        assert_eq!(Unicast::decode(&message.encode()).as_ref(), Ok(&message));
    }
    let _ = persist::decode_name(data);
    let _ = persist::decode_ring(data);
    let _ = persist::decode_owned(data);
}

/// Every string of hex digits under a key `hex` in the golden vectors.
pub fn seeds(vectors: &Path) -> Vec<Vec<u8>> {
    fn collect(value: &serde_json::Value, in_hex: bool, found: &mut Vec<Vec<u8>>) {
        match value {
            serde_json::Value::String(text) if in_hex => found.extend(hex::decode(text)),
            serde_json::Value::Array(list) => {
                list.iter().for_each(|item| collect(item, in_hex, found));
            }
            serde_json::Value::Object(map) => {
                map.iter()
                    .for_each(|(key, item)| collect(item, key == "hex", found));
            }
            _ => {}
        }
    }
    let mut files: Vec<_> = std::fs::read_dir(vectors)
        .expect("tests/vectors is there")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a vector file can be read");
        collect(
            &serde_json::from_str(&text).expect("a vector file is JSON"),
            false,
            &mut found,
        );
    }
    found
}

/// Damages `input`: bytes changed, inserted, removed, repeated, cut off, or taken from `other`.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
    const INTERESTING: [u8; 10] = [0, 1, 2, 0x7f, 0x80, 0xf8, 0xfc, 0xfe, 0xff, b':'];
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=input.len());
        match rng.random_range(0..7) {
            0 if at < input.len() => input[at] = rng.random(),
            1 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            2 if at < input.len() => {
                input[at] = INTERESTING[rng.random_range(0..INTERESTING.len())]
            }
            3 => input.insert(at, rng.random()),
            4 => {
                let end = input.len().min(at + rng.random_range(0..9));
                input.drain(at..end);
            }
            5 => {
                let from = rng.random_range(0..=other.len());
                let to = other.len().min(from + rng.random_range(0..64));
                let piece: Vec<u8> = other[from..to].to_vec();
                input.splice(at..at, piece);
            }
            _ => {
                if rng.random_range(0..8) == 0 {
                    input.truncate(at);
                } else {
                    let mut noise = [0; 4];
                    rng.fill_bytes(&mut noise);
                    input.splice(at..at, noise);
                }
            }
        }
    }
    input.truncate(1 << 16);
}
