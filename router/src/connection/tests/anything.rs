//! Whatever comes in, and in whatever pieces.

use proptest::prelude::*;

use super::recorded::{Replay, bytes};
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn recorded_sessions_cut_anyhow(which in 0..4_usize, lens in prop::collection::vec(1..5000_usize, 1..20)) {
        let replay = Replay::all().swap_remove(which);
        let stream: Vec<u8> = replay
            .events(false)
            .flat_map(|event| bytes(&event["hex"]))
            .collect();
        let mut end = replay.end();
        let now = Instant::now();
        let mut rest = &stream[..];
        let mut received = Vec::new();
        for len in lens.iter().cycle() {
            let (chunk, after) = rest.split_at((*len).min(rest.len()));
            rest = after;
            end.handle_bytes(chunk, now);
            while let Some(event) = end.poll_event() {
                match event {
                    ConnectionEvent::Introduced(_) => end.admit(now),
                    ConnectionEvent::Message(message) => {
                        received.push(message.encode(ControlForm::Switch));
                    }
                    ConnectionEvent::Closed(error) => prop_assert!(false, "{error}"),
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        let expected: Vec<Vec<u8>> =
            replay.messages(false).into_iter().map(|(text, _)| text).collect();
        prop_assert_eq!(received, expected);
    }

    #[test]
    fn damaged_streams_never_panic(
        password in any::<bool>(),
        version in 1..=2_u8,
        damage in prop::collection::vec((0..400_usize, any::<u8>()), 1..4),
        chunk_len in 1..400_usize,
    ) {
        let password = if password { "x" } else { "" };
        let alice = only_version(version, with_password(1, password));
        let bob = with_password(2, password);
        // What Alice would send to Bob.
        let mut pair = Pair::new(&alice, &bob);
        let mut stream = Vec::new();
        for _ in 0..4 {
            let to_bob = transmitted(&mut pair.alice);
            pair.bob.handle_bytes(&to_bob, pair.now);
            stream.extend(to_bob);
            pair.alice.handle_bytes(&transmitted(&mut pair.bob), pair.now);
        }
        introduction(&mut pair.alice);
        pair.alice.admit(pair.now);
        for message in [gossip(), control(), Message::Heartbeat] {
            pair.alice.send(&message).unwrap();
        }
        stream.extend(transmitted(&mut pair.alice));
        for (at, byte) in damage {
            let len = stream.len();
            stream[at % len] = byte;
        }
        feed_anything(&bob, &stream, chunk_len);
    }

    #[test]
    fn garbage_never_panics(
        password in any::<bool>(),
        start in 0..4_usize,
        garbage in prop::collection::vec(any::<u8>(), 0..600),
        chunk_len in 1..600_usize,
    ) {
        let starts: [&[u8]; 4] = [b"", b"weave\x01\x01", b"weave\x01\x02\x00", b"weave\x01\x02\x01"];
        let bob = with_password(2, if password { "x" } else { "" });
        feed_anything(&bob, &[starts[start], &garbage].concat(), chunk_len);
    }
}

/// Feeds an end that admits whoever introduces itself. Memory follows what has come in.
fn feed_anything(local: &Local, stream: &[u8], chunk_len: usize) {
    let now = Instant::now();
    let mut end = Connection::new(Role::Acceptor, local, 6, BOB_SECRET, false, now);
    let mut fed_len = 0;
    for chunk in stream.chunks(chunk_len) {
        end.handle_bytes(chunk, now);
        fed_len += chunk.len();
        let mut closed = false;
        while let Some(event) = end.poll_event() {
            assert!(!closed, "an event after the last");
            match event {
                ConnectionEvent::Introduced(_) => end.admit(now),
                ConnectionEvent::Message(_) => {}
                ConnectionEvent::Closed(_) => closed = true,
            }
        }
        assert_eq!(end.poll_timeout().is_none(), end.close_reason().is_some());
        assert!(end.input.capacity() <= 2 * fed_len + 64);
        transmitted(&mut end);
    }
}
