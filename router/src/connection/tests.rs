use std::time::Duration;

use proto::gob;

use super::*;
use crate::crypto::session::LowOrderKey;
use crate::dataplane::OverlayControl;
use crate::wire::control::{BadMessage, GossipKind, GossipMessage};
use crate::wire::intro::{BadFeatures, BadHeader};

mod anything;
mod recorded;

const ALICE_SECRET: [u8; 32] = [0x31; 32];
const BOB_SECRET: [u8; 32] = [0x32; 32];

fn local(name: u64) -> Local {
    Local {
        name: PeerName::from_u64(name).unwrap(),
        uid: PeerUid(1000 + name),
        nickname: format!("host{name}"),
        short_id: Some(ShortId(7)),
        password: None,
        versions: Versions::default(),
        overlays: vec!["fastdp".into(), "sleeve".into()],
    }
}

fn with_password(name: u64, password: &str) -> Local {
    Local {
        password: Password::new(password.as_bytes()),
        ..local(name)
    }
}

fn only_version(version: u8, local: Local) -> Local {
    Local {
        versions: Versions {
            min: version,
            max: version,
        },
        ..local
    }
}

/// Two ends and what has come out of them.
struct Pair {
    now: Instant,
    alice: Connection,
    bob: Connection,
}

impl Pair {
    /// Alice dials Bob.
    fn new(alice: &Local, bob: &Local) -> Self {
        let now = Instant::now();
        Self {
            now,
            alice: Connection::new(Role::Dialler, alice, 11, ALICE_SECRET, true, now),
            bob: Connection::new(Role::Acceptor, bob, 6, BOB_SECRET, true, now),
        }
    }

    /// Carries bytes both ways, `chunk_len` at a time, until nothing more comes.
    fn exchange(&mut self, chunk_len: usize) {
        loop {
            let to_bob = transmitted(&mut self.alice);
            let to_alice = transmitted(&mut self.bob);
            if to_bob.is_empty() && to_alice.is_empty() {
                return;
            }
            for chunk in to_bob.chunks(chunk_len) {
                self.bob.handle_bytes(chunk, self.now);
            }
            for chunk in to_alice.chunks(chunk_len) {
                self.alice.handle_bytes(chunk, self.now);
            }
        }
    }

    /// Both ends introduced and admitted.
    fn joined(alice: &Local, bob: &Local) -> Self {
        let mut pair = Self::new(alice, bob);
        pair.exchange(usize::MAX);
        for end in [&mut pair.alice, &mut pair.bob] {
            introduction(end);
            end.admit(pair.now);
        }
        pair
    }

    /// What Alice sends comes out at Bob's end, and the reverse.
    fn carries(&mut self, message: &Message) {
        self.alice.send(message).unwrap();
        self.bob.send(message).unwrap();
        self.exchange(3);
        for end in [&mut self.alice, &mut self.bob] {
            assert_eq!(messages(end), std::slice::from_ref(message));
        }
    }

    fn errors(&self) -> (Option<&ConnectionError>, Option<&ConnectionError>) {
        (self.alice.close_reason(), self.bob.close_reason())
    }
}

fn transmitted(end: &mut Connection) -> Vec<u8> {
    std::iter::from_fn(|| end.poll_transmit())
        .flatten()
        .collect()
}

fn introduction(end: &mut Connection) -> Introduction {
    match end.poll_event() {
        Some(ConnectionEvent::Introduced(introduction)) => *introduction,
        other => panic!("not introduced: {other:?}"),
    }
}

fn messages(end: &mut Connection) -> Vec<Message> {
    std::iter::from_fn(|| match end.poll_event() {
        Some(ConnectionEvent::Message(message)) => Some(message),
        None => None,
        other => panic!("not a message: {other:?}"),
    })
    .collect()
}

fn gossip() -> Message {
    let source = PeerName::from_u64(1).unwrap();
    Message::Gossip(GossipMessage::new(
        b"nameserver",
        GossipKind::Neighbours,
        source,
        b"payload",
    ))
}

fn control() -> Message {
    Message::Overlay(OverlayControl {
        index: 0,
        tag: 3,
        body: vec![5, 0x9e],
    })
}

// ------------------------------------------------------------------ introductions

#[test]
fn ends_introduce_themselves() {
    for (password, version) in [("", 1), ("", 2), ("secret", 1), ("secret", 2)] {
        let alice = with_password(1, password);
        let bob = only_version(version, with_password(2, password));
        for chunk_len in [1, 7, usize::MAX] {
            let mut pair = Pair::new(&alice, &bob);
            pair.exchange(chunk_len);
            let of_bob = introduction(&mut pair.alice);
            let of_alice = introduction(&mut pair.bob);
            for (seen, is) in [(&of_alice, &alice), (&of_bob, &bob)] {
                assert_eq!(seen.version, version);
                assert_eq!(seen.name, is.name);
                assert_eq!(seen.nickname, is.nickname.as_bytes());
                assert_eq!(seen.uid, is.uid);
                assert_eq!(seen.connection, ConnectionUid(11 ^ 6));
                let extended = version == 2;
                assert_eq!(seen.short_id, is.short_id.filter(|_| extended));
                assert_eq!(
                    seen.overlays.as_deref(),
                    Some("fastdp sleeve").filter(|_| extended)
                );
                assert_eq!(seen.plain_overlay, extended);
                assert_eq!(seen.session_key.is_some(), !password.is_empty());
            }
            let keys = [of_alice, of_bob].map(|seen| seen.session_key.map(|key| key.0));
            assert_eq!(keys[0], keys[1]);
            assert!(pair.alice.is_drained() && pair.bob.is_drained());
        }
    }
}

#[test]
fn overlays_are_plain_only_if_both_ends_trust() {
    for (alice_trusts, bob_trusts) in [(false, true), (true, false), (false, false)] {
        let mut pair = Pair::new(&local(1), &local(2));
        let now = pair.now;
        pair.alice = Connection::new(Role::Dialler, &local(1), 1, [1; 32], alice_trusts, now);
        pair.bob = Connection::new(Role::Acceptor, &local(2), 2, [2; 32], bob_trusts, now);
        pair.exchange(usize::MAX);
        assert!(!introduction(&mut pair.alice).plain_overlay);
        assert!(!introduction(&mut pair.bob).plain_overlay);
    }
}

#[test]
fn messages_pass_both_ways() {
    for (password, version) in [("", 1), ("", 2), ("secret", 1), ("secret", 2)] {
        let alice = only_version(version, with_password(1, password));
        let mut pair = Pair::joined(&alice, &with_password(2, password));
        for message in [gossip(), control(), Message::Heartbeat, gossip()] {
            pair.carries(&message);
        }
    }
}

#[test]
fn overlay_control_takes_the_form_that_both_know() {
    let sent_first = |alice: &Local, bob: &Local| {
        let mut pair = Pair::joined(alice, bob);
        pair.carries(&control());
        pair.alice.send(&control()).unwrap();
        transmitted(&mut pair.alice)
    };
    let silent = Local {
        overlays: Vec::new(),
        ..local(2)
    };
    let switch = [0, 0, 0, 5, 7, 0, 3, 5, 0x9e];
    assert_eq!(sent_first(&local(1), &local(2)), switch);
    let legacy = [0, 0, 0, 3, 3, 5, 0x9e];
    assert_eq!(sent_first(&local(1), &silent), legacy);
    assert_eq!(sent_first(&silent, &local(2)), legacy);
    let old = [6, 10, 0, 3, 3, 5, 0x9e];
    assert_eq!(sent_first(&only_version(1, local(1)), &local(2)), old);
}

#[test]
fn messages_wait_until_admission() {
    let mut pair = Pair::joined(&local(1), &local(2));
    let now = pair.now;
    pair.bob = Connection::new(Role::Acceptor, &local(2), 6, BOB_SECRET, true, now);
    pair.alice = Connection::new(Role::Dialler, &local(1), 11, ALICE_SECRET, true, now);
    pair.exchange(usize::MAX);
    introduction(&mut pair.alice);
    pair.alice.admit(now);
    pair.alice.send(&gossip()).unwrap();
    pair.alice.send(&control()).unwrap();
    pair.exchange(usize::MAX);
    introduction(&mut pair.bob);
    assert!(pair.bob.poll_event().is_none());
    pair.bob.admit(now);
    assert_eq!(messages(&mut pair.bob), [gossip(), control()]);
    // But not without end.
    let mut pair = Pair::new(&local(1), &local(2));
    pair.exchange(usize::MAX);
    introduction(&mut pair.bob);
    for _ in 0..MAX_UNREAD_LEN / 65_536 {
        pair.bob.handle_bytes(&[0; 65_536], now);
        assert!(pair.bob.close_reason().is_none());
    }
    pair.bob.handle_bytes(&[0], now);
    assert_eq!(
        pair.bob.close_reason(),
        Some(&ConnectionError::TooMuchUnread)
    );
}

#[test]
fn nothing_is_sent_before_the_introduction() {
    let mut pair = Pair::new(&local(1), &local(2));
    assert_eq!(
        pair.alice.send(&Message::Heartbeat),
        Err(SendError::NotIntroduced)
    );
}

// ------------------------------------------------------------------ refusals

#[test]
fn passwords_must_agree() {
    for version in [1, 2] {
        let pairs = [("x", ""), ("", "x")].map(|(alice, bob)| {
            let alice = only_version(version, with_password(1, alice));
            let mut pair = Pair::new(&alice, &with_password(2, bob));
            pair.exchange(usize::MAX);
            pair
        });
        let (with, without) = (
            Some(&ConnectionError::ExpectedCrypto),
            Some(&ConnectionError::ExpectedNoCrypto),
        );
        assert_eq!(pairs[0].errors(), (with, without), "version {version}");
        assert_eq!(pairs[1].errors(), (without, with), "version {version}");
    }
    let mut pair = Pair::new(&with_password(1, "x"), &with_password(2, "y"));
    pair.exchange(usize::MAX);
    let wrong = Some(&ConnectionError::WrongPassword);
    assert_eq!(pair.errors(), (wrong, wrong));
    // Version 1 shows it only with the first message.
    let old = only_version(1, with_password(1, "x"));
    let mut pair = Pair::joined(&old, &with_password(2, "y"));
    pair.alice.send(&Message::Heartbeat).unwrap();
    pair.exchange(usize::MAX);
    assert!(matches!(
        pair.bob.poll_event(),
        Some(ConnectionEvent::Closed(ConnectionError::WrongPassword))
    ));
    assert!(pair.bob.poll_event().is_none());
    assert_eq!(pair.errors(), (None, wrong));
}

/// What an acceptor makes of `bytes` after the header of version 2.
fn refusal(local: &Local, bytes: &[u8]) -> ConnectionError {
    let now = Instant::now();
    let mut end = Connection::new(Role::Acceptor, local, 6, BOB_SECRET, false, now);
    end.handle_bytes(b"weave\x01\x02", now);
    end.handle_bytes(bytes, now);
    end.close_reason().expect("refused").clone()
}

#[test]
fn bad_introductions_are_refused() {
    let now = Instant::now();
    let header = |bytes: &[u8]| {
        let mut end = Connection::new(Role::Acceptor, &local(2), 6, BOB_SECRET, false, now);
        end.handle_bytes(bytes, now);
        // A refused connection sends what it had to say, no more, and stays as it is.
        assert_eq!(end.poll_transmit().as_deref(), Some(&b"weave\x01\x02"[..]));
        end.handle_bytes(b"weave\x01\x02", now);
        assert!(end.poll_transmit().is_none() && end.poll_timeout().is_none());
        end.close_reason().expect("refused").clone()
    };
    assert_eq!(
        header(b"GET / H"),
        ConnectionError::Header(BadHeader::NotRecognised(*b"GET /"))
    );
    assert!(matches!(
        header(b"weave\x03\x09"),
        ConnectionError::Header(BadHeader::Incompatible { .. })
    ));

    let plain = local(2);
    let sealed = with_password(2, "secret");
    for flag in 2..=255 {
        assert_eq!(refusal(&plain, &[flag]), ConnectionError::BadFlag(flag));
        assert_eq!(refusal(&sealed, &[flag]), ConnectionError::BadFlag(flag));
    }
    assert_eq!(
        refusal(&sealed, &[&[1][..], &[0; 32]].concat()),
        ConnectionError::LowOrderKey(LowOrderKey)
    );
    // Features: nothing, no map, a needed key missing; and announced too long.
    assert_eq!(
        refusal(&plain, &[0, 0, 0, 0, 0]),
        ConnectionError::Stream(gob::Error::Truncated)
    );
    assert_eq!(
        refusal(&plain, &[0, 0, 0, 0, 4, 3, 6, 0, 1]),
        ConnectionError::Features(BadFeatures::Gob(gob::Error::WrongKind {
            expected: gob::Kind::Map,
            found: gob::Kind::Uint,
        }))
    );
    let empty_map = "00 00000014 0eff81040102ff8200010c010c0000 04ff820000";
    let empty_map = hex::decode(empty_map.replace(' ', "")).unwrap();
    assert_eq!(
        refusal(&plain, &empty_map),
        ConnectionError::Features(BadFeatures::Missing("PeerNameFlavour"))
    );
    assert_eq!(
        refusal(&plain, &[0, 0, 1, 0, 1]),
        ConnectionError::TooLong {
            len: 0x0001_0001,
            limit: MAX_FEATURES_LEN
        }
    );
}

#[test]
fn refusals_name_the_mend() {
    for (error, text) in [
        (
            ConnectionError::ExpectedCrypto,
            "password specified, but peer requested an unencrypted connection \
             (give the same password to all peers)",
        ),
        (
            ConnectionError::HungUpDuringIntroduction("Connection reset by peer".into()),
            "peer hung up during the introduction: Connection reset by peer (it may have another \
             password or protocol version, or refuse us for a reason that its log shows)",
        ),
        (
            ConnectionError::HeaderTimeout,
            "failed to receive remote protocol header: nothing within 10 s",
        ),
        (ConnectionError::ReadTimeout, "no message received for 60 s"),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn a_broken_seal_ends_the_connection() {
    let mut pair = Pair::joined(&with_password(1, "x"), &with_password(2, "x"));
    pair.carries(&gossip());
    pair.alice.send(&gossip()).unwrap();
    let mut bytes = transmitted(&mut pair.alice);
    *bytes.last_mut().unwrap() ^= 1;
    pair.bob.handle_bytes(&bytes, pair.now);
    assert!(matches!(
        pair.bob.poll_event(),
        // The features were number 0.
        Some(ConnectionEvent::Closed(ConnectionError::BadSeal {
            sequence: 2
        }))
    ));
    // A closed connection swallows what is sent.
    pair.bob.send(&gossip()).unwrap();
    assert!(pair.bob.poll_transmit().is_none());
}

#[test]
fn a_bad_message_ends_the_connection() {
    let mut pair = Pair::joined(&local(1), &local(2));
    pair.bob.handle_bytes(&[0, 0, 0, 2, 4, 9], pair.now);
    assert!(pair.bob.poll_event().is_some());
    assert_eq!(
        pair.bob.close_reason(),
        Some(&ConnectionError::Message(BadMessage::Gossip(
            gob::Error::Truncated
        )))
    );
}

#[test]
fn hanging_up_is_told_apart() {
    let mut pair = Pair::new(&local(1), &local(2));
    pair.alice.handle_hangup("reset");
    assert_eq!(
        pair.alice.close_reason(),
        Some(&ConnectionError::HungUpDuringIntroduction("reset".into()))
    );
    // With keys agreed on, and no features yet.
    let mut pair = Pair::new(&with_password(1, "x"), &with_password(2, "y"));
    let public_key = KeyPair::new(BOB_SECRET).public();
    let bytes = [&b"weave\x01\x02\x01"[..], &public_key].concat();
    pair.alice.handle_bytes(&bytes, pair.now);
    pair.alice.handle_hangup("reset");
    assert_eq!(
        pair.alice.close_reason(),
        Some(&ConnectionError::HungUpOnceSealed("reset".into()))
    );
    let mut pair = Pair::joined(&local(1), &local(2));
    pair.alice.handle_hangup("reset");
    assert_eq!(
        pair.alice.close_reason(),
        Some(&ConnectionError::HungUp("reset".into()))
    );
    pair.alice.handle_hangup("again");
    assert!(matches!(
        pair.alice.poll_event(),
        Some(ConnectionEvent::Closed(_))
    ));
    assert!(pair.alice.poll_event().is_none());
}

// ------------------------------------------------------------------ time

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_header_has_ten_seconds() {
    let mut pair = Pair::new(&local(1), &local(2));
    let due = pair.now + 10 * SECOND;
    assert_eq!(pair.alice.poll_timeout(), Some(due));
    pair.alice.handle_bytes(b"weave\x01", pair.now + 9 * SECOND);
    pair.alice.handle_timeout(due - SECOND);
    assert!(pair.alice.close_reason().is_none());
    pair.alice.handle_timeout(due);
    assert_eq!(
        pair.alice.close_reason(),
        Some(&ConnectionError::HeaderTimeout)
    );
    assert_eq!(pair.alice.poll_timeout(), None);
}

#[test]
fn the_rest_of_the_introduction_has_sixty_seconds_in_all() {
    let mut pair = Pair::new(&local(1), &local(2));
    let header_at = pair.now + 5 * SECOND;
    pair.alice.handle_bytes(b"weave\x01\x02", header_at);
    pair.alice.handle_bytes(&[0], header_at + 40 * SECOND);
    pair.alice.handle_bytes(&[0], header_at + 59 * SECOND);
    assert_eq!(pair.alice.poll_timeout(), Some(header_at + 60 * SECOND));
    pair.alice.handle_timeout(header_at + 60 * SECOND);
    assert_eq!(
        pair.alice.close_reason(),
        Some(&ConnectionError::IntroductionTimeout)
    );
}

#[test]
fn heartbeats_are_sent_and_expected() {
    let mut pair = Pair::joined(&local(1), &local(2));
    let start = pair.now;
    assert_eq!(pair.alice.poll_timeout(), Some(start + 30 * SECOND));
    pair.alice.handle_timeout(start + 29 * SECOND);
    assert!(pair.alice.is_drained());
    pair.alice.handle_timeout(start + 30 * SECOND);
    assert_eq!(transmitted(&mut pair.alice), [0, 0, 0, 1, 0]);
    assert_eq!(pair.alice.poll_timeout(), Some(start + 60 * SECOND));

    // Bytes alone are no message; a message, even an empty one, renews the deadline.
    pair.alice.handle_bytes(&[0, 0, 0, 1], start + 40 * SECOND);
    assert!(pair.alice.poll_event().is_none());
    pair.alice.handle_bytes(&[0], start + 45 * SECOND);
    assert_eq!(messages(&mut pair.alice), [Message::Heartbeat]);
    pair.alice.handle_timeout(start + 60 * SECOND);
    assert_eq!(transmitted(&mut pair.alice), [0, 0, 0, 1, 0]);
    pair.alice.handle_bytes(&[0, 0, 0, 0], start + 70 * SECOND);
    assert!(pair.alice.poll_event().is_none());

    // While something waits to be sent, heartbeats do not pile up.
    pair.alice.send(&gossip()).unwrap();
    pair.alice.handle_timeout(start + 90 * SECOND);
    pair.alice.handle_timeout(start + 120 * SECOND);
    assert!(pair.alice.poll_transmit().is_some());
    assert!(pair.alice.is_drained());

    assert_eq!(pair.alice.poll_timeout(), Some(start + 130 * SECOND));
    pair.alice.handle_timeout(start + 130 * SECOND);
    assert_eq!(
        pair.alice.close_reason(),
        Some(&ConnectionError::ReadTimeout)
    );
}

// ------------------------------------------------------------------ limits

#[test]
fn long_messages_are_refused_before_their_bodies_come() {
    for version in [1, 2] {
        let alice = only_version(version, local(1));
        let mut pair = Pair::joined(&alice, &local(2));
        // The longest message that may be: nothing is set aside for it.
        let longest: &[u8] = match version {
            1 => &[0xfd, 0xa0, 0, 5, 10, 0, 0xfd, 0xa0, 0, 0],
            _ => &[0, 0xa0, 0, 0],
        };
        pair.bob.handle_bytes(longest, pair.now);
        assert!(pair.bob.poll_event().is_none());
        assert!(pair.bob.input.capacity() < 1000);
        let mut pair = Pair::joined(&alice, &local(2));
        let too_long: &[u8] = match version {
            1 => &[0xfd, 0xa0, 0, 0x11],
            _ => &[0, 0xa0, 0, 1],
        };
        pair.bob.handle_bytes(too_long, pair.now);
        assert!(matches!(
            pair.bob.poll_event(),
            Some(ConnectionEvent::Closed(ConnectionError::TooLong { .. }))
        ));
    }
}

#[test]
fn the_longest_message_passes_and_longer_ones_are_not_sent() {
    let source = PeerName::from_u64(1).unwrap();
    let of_len = |payload_len: usize| {
        let payload = vec![0xaa; payload_len];
        Message::Gossip(GossipMessage::new(
            b"x",
            GossipKind::Broadcast,
            source,
            &payload,
        ))
    };
    let overhead = of_len(1 << 20).encode(ControlForm::Switch).len() - (1 << 20);
    for (version, password, seal_len) in [(1, "", 0), (2, "", 0), (1, "x", 16), (2, "x", 16)] {
        let alice = only_version(version, with_password(1, password));
        let mut pair = Pair::joined(&alice, &with_password(2, password));
        let longest = MAX_MESSAGE_LEN - overhead - seal_len;
        assert_eq!(
            pair.alice.send(&of_len(longest + 1)),
            Err(SendError::TooLong {
                len: MAX_MESSAGE_LEN + 1
            })
        );
        // The sequence of sealed messages has no gap.
        pair.alice.send(&of_len(longest)).unwrap();
        for chunk in transmitted(&mut pair.alice).chunks(65_536) {
            assert!(pair.bob.poll_event().is_none());
            pair.bob.handle_bytes(chunk, pair.now);
        }
        assert_eq!(messages(&mut pair.bob), [of_len(longest)]);
        // The long buffer is given back.
        pair.carries(&gossip());
        assert!(pair.bob.input.capacity() < 100_000);
    }
}
