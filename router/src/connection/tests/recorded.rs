//! Against bytes of the original.

use serde_json::Value as Json;

use super::*;

fn file(text: &str) -> Json {
    serde_json::from_str(text).unwrap()
}

pub(super) fn bytes(value: &Json) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn number(value: &Json) -> u64 {
    value.as_str().unwrap().parse().unwrap()
}

/// The end that has sent `features`.
fn recorded_end(
    role: Role,
    features: &Json,
    versions: Versions,
    password: &str,
    secret: [u8; 32],
) -> Connection {
    let text = |key: &str| features[key].as_str().unwrap().to_owned();
    let local = Local {
        name: text("Name").parse().unwrap(),
        uid: PeerUid(number(&features["UID"])),
        nickname: text("NickName"),
        short_id: Some(ShortId(text("ShortID").parse().unwrap())),
        password: Password::new(password.as_bytes()),
        versions,
        overlays: text("Overlays").split(' ').map(str::to_owned).collect(),
    };
    let conn_id = number(&features["ConnID"]);
    let trusts = text("Trusted") == "true";
    Connection::new(role, &local, conn_id, secret, trusts, Instant::now())
}

/// Whether `introduction` is what an end that has `features` should make of those of the other.
fn assert_introduces(introduction: &Introduction, theirs: &Json, ours: &Json) {
    let text = |key: &str| theirs[key].as_str();
    assert_eq!(introduction.name.to_string(), text("Name").unwrap());
    assert_eq!(introduction.nickname, text("NickName").unwrap().as_bytes());
    assert_eq!(introduction.uid.0, number(&theirs["UID"]));
    let conn_id = number(&theirs["ConnID"]) ^ number(&ours["ConnID"]);
    assert_eq!(introduction.connection, ConnectionUid(conn_id));
    let short_id = introduction.short_id.map(|id| id.to_string());
    assert_eq!(short_id.as_deref(), text("ShortID"));
    assert_eq!(introduction.overlays.as_deref(), text("Overlays"));
}

#[test]
fn recorded_introductions() {
    let vectors = file(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/vectors/handshake.json"
    )));
    let vectors = vectors["vectors"].as_array().unwrap();
    let streams: Vec<&Json> = vectors
        .iter()
        .filter(|vector| vector["name"].as_str().unwrap().contains("stream written"))
        .collect();
    assert_eq!(streams.len(), 8);
    for pair in streams.chunks(2) {
        let (dialler, acceptor) = (pair[0], pair[1]);
        for (role, own, other) in [
            (Role::Dialler, dialler, acceptor),
            (Role::Acceptor, acceptor, dialler),
        ] {
            let name = own["name"].as_str().unwrap();
            let inputs = &own["inputs"];
            let (features, key) = match role {
                Role::Dialler => ("features_dialler", "dialler_private"),
                Role::Acceptor => ("features_acceptor", "acceptor_private"),
            };
            let own_bytes = bytes(&own["hex"]);
            let versions = Versions {
                min: own_bytes[5],
                max: own_bytes[6],
            };
            let secret = inputs["keys"][key]
                .as_str()
                .map_or([0; 32], |key| hex::decode(key).unwrap().try_into().unwrap());
            let password = inputs["password_utf8"].as_str().unwrap();
            let mut end = recorded_end(role, &inputs[features], versions, password, secret);

            for chunk in bytes(&other["hex"]).chunks(5) {
                end.handle_bytes(chunk, Instant::now());
            }
            let introduction = introduction(&mut end);
            assert_eq!(u64::from(introduction.version), inputs["version"]);
            let received = &own["meaning"]["features_received_by_this_end"];
            assert_introduces(&introduction, received, &inputs[features]);
            if let Some(key) = introduction.session_key {
                assert_eq!(key.0[..], bytes(&inputs["keys"]["session_key"]));
            }
            end.admit(Instant::now());
            let after = own["meaning"]["after_intro_messages"].as_array().unwrap();
            let after: Vec<Message> = after
                .iter()
                .map(|hex| Message::decode(bytes(hex), ControlForm::Switch).unwrap())
                .collect();
            assert_eq!(messages(&mut end), after, "{name}");

            // What this end sends: the order of the features is free, all else is not.
            for message in &after {
                end.send(message).unwrap();
            }
            let sent: Vec<Vec<u8>> = std::iter::from_fn(|| end.poll_transmit()).collect();
            let writes = own["meaning"]["writes"].as_array().unwrap();
            let writes: Vec<Vec<u8>> = writes.iter().map(bytes).collect();
            assert_eq!(writes.concat(), own_bytes);
            assert_eq!(sent.concat().len(), own_bytes.len(), "{name}");
            assert_eq!(sent[0], writes[0], "{name}: header");
            if introduction.version == 2 {
                assert_eq!(sent[1], writes[1], "{name}: flag");
            }
            assert_eq!(
                sent[sent.len() - 2..],
                writes[writes.len() - 2..],
                "{name}: messages"
            );
        }
    }
}

/// Replays a recorded session to one of its ends.
pub(super) struct Replay {
    session: Json,
    /// `host1` or `host2`.
    host: &'static str,
}

impl Replay {
    pub(super) fn all() -> Vec<Self> {
        let plain = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/vectors/session-plain.json"
        ));
        let encrypted = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/vectors/session-encrypted.json"
        ));
        let mut all = Vec::new();
        for text in [plain, encrypted] {
            for host in ["host1", "host2"] {
                let session = file(text);
                all.push(Self { session, host });
            }
        }
        all
    }

    /// What was sent over TCP by this host, or to it.
    pub(super) fn events(&self, by_this: bool) -> impl Iterator<Item = &Json> {
        self.session["events"]
            .as_array()
            .unwrap()
            .iter()
            .filter(move |event| {
                let direction = event["direction"].as_str().unwrap();
                event["transport"] == "tcp"
                    && event["hex"] != ""
                    && direction.starts_with(self.host) == by_this
            })
    }

    fn features(&self, by_this: bool) -> &Json {
        let mut events = self.events(by_this);
        &events
            .find(|event| event["meaning"]["kind"] == "features")
            .unwrap()["meaning"]["features"]
    }

    pub(super) fn end(&self) -> Connection {
        let role = if self.session["connections"][0]["dialler"] == self.host {
            Role::Dialler
        } else {
            Role::Acceptor
        };
        let password = self.session["password"].as_str().unwrap_or_default();
        let secret = match &self.session["keys"]["private"][self.host] {
            Json::Null => [0; 32],
            key => bytes(key).try_into().unwrap(),
        };
        let versions = Versions::default();
        recorded_end(role, self.features(true), versions, password, secret)
    }

    /// The messages of this host, or to it, in plain text, with their recorded meaning.
    pub(super) fn messages(&self, by_this: bool) -> Vec<(Vec<u8>, &Json)> {
        self.events(by_this)
            .filter(|event| event["meaning"]["tag"].is_number())
            .map(|event| {
                let meaning = &event["meaning"];
                let text = match &meaning["plaintext"] {
                    Json::Null => bytes(&event["hex"])[4..].to_vec(),
                    text => bytes(text),
                };
                (text, meaning)
            })
            .collect()
    }
}

#[test]
fn recorded_sessions() {
    let mut counts = Vec::new();
    for replay in Replay::all() {
        let mut end = replay.end();
        let now = Instant::now();
        // In: every recorded byte, and the stated meaning of it.
        let mut received = Vec::new();
        for event in replay.events(false) {
            end.handle_bytes(&bytes(&event["hex"]), now);
            while let Some(event) = end.poll_event() {
                match event {
                    ConnectionEvent::Introduced(introduction) => {
                        assert_introduces(
                            &introduction,
                            replay.features(false),
                            replay.features(true),
                        );
                        let xor = number(&replay.session["connections"][0]["xor"]);
                        assert_eq!(introduction.connection, ConnectionUid(xor));
                        if let Some(key) = &introduction.session_key {
                            let recorded = bytes(&replay.session["keys"]["session_key"]);
                            assert_eq!(key.0[..], recorded);
                        }
                        end.admit(now);
                    }
                    ConnectionEvent::Message(message) => received.push(message),
                    ConnectionEvent::Closed(error) => panic!("{error}"),
                }
            }
        }
        let expected = replay.messages(false);
        assert_eq!(received.len(), expected.len());
        for (message, (text, meaning)) in received.iter().zip(expected) {
            assert_eq!(message.encode(ControlForm::Switch), text);
            assert_means(message, meaning);
        }

        // Out: the same bytes, but for the order of the features.
        for (text, _) in replay.messages(true) {
            let message = Message::decode(text, ControlForm::Switch).unwrap();
            end.send(&message).unwrap();
        }
        let recorded: Vec<Vec<u8>> = replay
            .events(true)
            .map(|event| bytes(&event["hex"]))
            .collect();
        let sent: Vec<Vec<u8>> = std::iter::from_fn(|| end.poll_transmit()).collect();
        assert_eq!(sent.len(), recorded.len());
        for (index, (sent, recorded)) in sent.iter().zip(&recorded).enumerate() {
            if index == 2 {
                assert_eq!(sent.len(), recorded.len(), "features");
            } else {
                assert_eq!(hex::encode(sent), hex::encode(recorded));
            }
        }
        counts.push(received.len());
    }
    assert_eq!(counts.iter().sum::<usize>(), 64);
}

fn assert_means(message: &Message, meaning: &Json) {
    let tag = meaning["tag"].as_u64().unwrap();
    match message {
        Message::Heartbeat => assert_eq!(tag, 0),
        Message::Overlay(control) => {
            assert_eq!(tag, 7);
            assert_eq!(u64::from(control.index), meaning["forwarder_index"]);
            assert_eq!(u64::from(control.tag), meaning["overlay_tag"]);
            if let Some(mtu) = meaning["mtu"].as_u64() {
                let mtu = u16::try_from(mtu).unwrap();
                assert_eq!(control.body, mtu.to_be_bytes());
            }
        }
        Message::Gossip(message) => {
            let kind = match message.kind() {
                GossipKind::Neighbours => 4,
                GossipKind::Unicast { .. } => 5,
                GossipKind::Broadcast => 6,
            };
            assert_eq!(tag, kind);
            assert_eq!(
                message.channel(),
                meaning["channel"].as_str().unwrap().as_bytes()
            );
            assert_eq!(message.source().to_string(), meaning["source"]);
            assert_eq!(
                message.payload().len() as u64,
                meaning["payload_bytes"].as_u64().unwrap()
            );
        }
        Message::Unknown { tag } => panic!("tag {tag}"),
    }
}

#[test]
fn recorded_framing() {
    let vectors = file(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/vectors/tcp_framing.json"
    )));
    for vector in vectors["vectors"].as_array().unwrap() {
        let framed = bytes(&vector["hex"]);
        let mut codec = Codec::new(Framing::LengthPrefix, false);
        let mut input = Input::default();
        input.extend(&framed);
        let next = codec.next(&mut input, MAX_MESSAGE_LEN);
        if vector["meaning"]["accepted"] == false {
            assert_eq!(
                next,
                Err(ConnectionError::TooLong {
                    len: MAX_MESSAGE_LEN as u64 + 1,
                    limit: MAX_MESSAGE_LEN
                })
            );
        } else {
            let message = bytes(&vector["inputs"]["message"]);
            assert_eq!(codec.frame(&message).as_ref(), Ok(&framed));
            assert_eq!(next, Ok(Some(message)));
            assert!(input.unread().is_empty());
        }
    }
}
