use std::sync::atomic::Ordering;

use proptest::prelude::*;
use proto::PeerName;
use serde_json::Value as Json;

use super::super::envelope::{Envelope, Windows};
use super::*;
use crate::crypto::session::SessionKey;
use crate::testing::{bytes, vectors};
use crate::wire::sleeve::{DF_BIT, RECORD_HEADER_LEN, Records, SEALED_HEADER_LEN};

const LINK: LinkId = LinkId(7);
const ME: PeerName = PeerName::from_bytes([0, 0, 0, 0, 0, 1]);

fn to() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 2], 6783))
}

fn key(text: &Json) -> SessionKey {
    SessionKey(bytes(text).try_into().unwrap())
}

fn peer(text: &Json) -> PeerName {
    PeerName::from_bytes(bytes(text).try_into().unwrap())
}

/// A link's envelope.
fn envelope(sender: PeerName, key: Option<SessionKey>, from_dialler: bool) -> Arc<Envelope> {
    Arc::new(Envelope::new(LINK, sender, key, from_dialler))
}

fn open(
    envelope: &Envelope,
    windows: &mut Windows,
    packet: &mut [u8],
) -> Result<usize, DropReason> {
    if !windows.is_new(packet) {
        return Err(DropReason::Replayed);
    }
    let (start, number) = envelope.open(packet)?;
    if let Some(number) = number {
        windows.accept(number)?;
        assert_eq!(windows.accept(number), Err(DropReason::Replayed));
    }
    Ok(start)
}

#[test]
fn sealed_vectors_both_ways() {
    let mut state: Option<(Arc<Envelope>, Arc<Envelope>, Lane, Windows)> = None;
    for vector in vectors("sleeve_encrypted.json") {
        let name = vector["name"].as_str().unwrap();
        let inputs = &vector["inputs"];
        let df = inputs["df"].as_bool().unwrap();
        let from_dialler = inputs["sender_outbound"].as_bool().unwrap();
        let sender = peer(&inputs["sender_name"]);
        // Four packets in a row share one encryptor.
        if inputs["sequence"] == 0 {
            let key = || Some(key(&inputs["session_key"]));
            state = Some((
                envelope(sender, key(), from_dialler),
                envelope(ME, key(), !from_dialler),
                Lane::new(df),
                Windows::default(),
            ));
        }
        let (ours, theirs, lane, windows) = state.as_mut().unwrap();
        let mut outbox = Outbox::default();
        let limits = Limits {
            first: 1472,
            more: 1472,
        };
        let frames = inputs["frames"].as_array().unwrap();
        for frame in frames {
            let peers = (peer(&frame["src_peer"]), peer(&frame["dst_peer"]));
            let frame = bytes(&frame["frame"]);
            lane.push(ours, to(), limits, peers, (&frame, &[]), &mut outbox)
                .unwrap();
        }
        lane.flush(ours, to(), &mut outbox);
        let expected = bytes(&vector["hex"]);
        let sent = outbox.next().unwrap();
        assert_eq!(
            (sent.payload, sent.segment_len, sent.df),
            (&expected[..], None, df),
            "{name}"
        );

        let mut packet = expected.clone();
        let start = open(theirs, windows, &mut packet).unwrap();
        let records: Vec<_> = Records::new(&packet, start).map(Result::unwrap).collect();
        assert_eq!(records.len(), frames.len(), "{name}");
        for (record, frame) in records.iter().zip(frames) {
            assert_eq!(record.frame, bytes(&frame["frame"]), "{name}");
        }
        assert_eq!(
            open(theirs, windows, &mut expected.clone()),
            Err(DropReason::Replayed)
        );
        // The sender itself does not take its own packets for the neighbour's.
        let mut own = expected.clone();
        assert_eq!(
            open(ours, &mut Windows::default(), &mut own),
            Err(DropReason::NotAuthentic)
        );
    }
}

#[test]
fn replay_vectors() {
    let mut sequences = 0;
    for vector in vectors("sleeve_replay.json") {
        let name = vector["name"].as_str().unwrap();
        let inputs = &vector["inputs"];
        let outbound = inputs["receiver_outbound"].as_bool().unwrap_or(false);
        let envelope = envelope(ME, Some(key(&inputs["session_key"])), outbound);
        let mut windows = Windows::default();
        let packets = vector["hex"].as_array().unwrap();
        let meanings = vector["meaning"].as_array().unwrap();
        assert_eq!(packets.len(), meanings.len());
        for (packet, meaning) in packets.iter().zip(meanings) {
            let opened = open(&envelope, &mut windows, &mut bytes(packet));
            let error = meaning["error"].as_bool().unwrap();
            let expected = match (meaning["accepted"].as_bool().unwrap(), error) {
                (true, _) => Ok(SEALED_HEADER_LEN),
                (false, true) => Err(DropReason::NotAuthentic),
                (false, false) => Err(DropReason::Replayed),
            };
            assert_eq!(opened, expected, "{name} {meaning}");
        }
        sequences += 1;
    }
    assert!(sequences >= 10);
}

#[test]
fn special_packet_vectors() {
    for vector in vectors("sleeve_special.json") {
        let name = vector["name"].as_str().unwrap();
        let expected = vector["hex"].as_str().unwrap();
        let key = vector["inputs"]["session_key"].as_str();
        let mut frame = vec![0; 14];
        if name.starts_with("heartbeat in ") {
            frame.extend(0x0123_4567_89ab_cdef_u64.to_be_bytes());
        } else if name.starts_with("MTU test for candidate 600") {
            frame.resize(614, 0);
        } else {
            continue;
        }
        let key = key.map(|key| SessionKey(hex::decode(key).unwrap().try_into().unwrap()));
        let sender = PeerName::from_bytes([0x7a, 0x9f, 0xeb, 0xb6, 0x0c, 0x6e]);
        let envelope = envelope(sender, key, name.contains("outbound"));
        let mut outbox = Outbox::default();
        let mut lane = Lane::new(true);
        let limits = Limits {
            first: MAX_UDP_PAYLOAD,
            more: 0,
        };
        let peers = (sender, PeerName::from_bytes([0, 0, 0, 0, 0, 2]));
        lane.push(&envelope, to(), limits, peers, (&frame, &[]), &mut outbox)
            .unwrap();
        lane.flush(&envelope, to(), &mut outbox);
        assert_eq!(
            hex::encode(outbox.next().unwrap().payload),
            expected,
            "{name}"
        );
    }
}

/// Pushes frames of these lengths and returns the runs: segment length and datagrams.
fn runs(
    envelope: &Arc<Envelope>,
    lane: &mut Lane,
    limits: Limits,
    lens: &[usize],
) -> Vec<Vec<usize>> {
    let mut outbox = Outbox::default();
    for &len in lens {
        lane.push(
            envelope,
            to(),
            limits,
            (ME, ME),
            (&vec![1; len], &[]),
            &mut outbox,
        )
        .unwrap();
    }
    lane.flush(envelope, to(), &mut outbox);
    let mut runs = Vec::new();
    while let Some(run) = outbox.next() {
        runs.push(run.datagrams().map(<[u8]>::len).collect());
    }
    runs
}

#[test]
fn equal_packets_make_runs() {
    let envelope = envelope(ME, None, true);
    let mut lane = Lane::new(true);
    let limits = Limits {
        first: 1472,
        more: 1472,
    };
    let mut runs = |lens: &[usize]| runs(&envelope, &mut lane, limits, lens);
    // Header 6, record header 14.
    assert_eq!(runs(&[1452; 5]), [vec![1472; 5]]);
    assert_eq!(runs(&[1452, 1452, 100]), [vec![1472, 1472, 120]]);
    assert_eq!(runs(&[100, 1452, 1452]), [vec![120], vec![1472, 1472]]);
    assert_eq!(runs(&[1452, 100, 1452]), [vec![1472, 120], vec![1472]]);
    assert_eq!(runs(&[100, 100]), [vec![234]]);
    // A packet that outgrows those before it moves.
    assert_eq!(runs(&[800, 700, 600]), [vec![820], vec![1334]]);
    // 64 at most, and no more than fit a send.
    assert_eq!(
        runs(&[1300; 100]),
        [vec![1320; 49], vec![1320; 49], vec![1320; 2]]
    );
    // 100 records at most.
    assert_eq!(runs(&[0; 250]), [vec![1406, 1406, 706]]);
    let most = Limits {
        first: 200,
        more: 200,
    };
    let mut lane = Lane::new(true);
    assert_eq!(
        super::tests::runs(&envelope, &mut lane, most, &[180; 130]),
        [vec![200; 64], vec![200; 64], vec![200; 2]]
    );
}

#[test]
fn what_the_underlay_must_fragment_travels_alone() {
    let envelope = envelope(ME, None, true);
    let mut lane = Lane::new(false);
    let limits = Limits {
        first: MAX_UDP_PAYLOAD,
        more: 1472,
    };
    let runs = runs(
        &envelope,
        &mut lane,
        limits,
        &[3000, 3000, 100, 100, 3000, 200, 65487],
    );
    let expected = [3020, 3020, 234, 3020, 220, 65507].map(|len| vec![len]);
    assert_eq!(runs, expected);
}

#[test]
fn refusals() {
    let envelope = envelope(ME, None, true);
    let mut lane = Lane::new(true);
    let mut outbox = Outbox::default();
    let limits = |first| Limits { first, more: 100 };
    let push = |lane: &mut Lane, len, first, outbox: &mut Outbox| {
        lane.push(
            &envelope,
            to(),
            limits(first),
            (ME, ME),
            (&[], &vec![0; len]),
            outbox,
        )
    };
    assert_eq!(
        push(&mut lane, 81, 100, &mut outbox),
        Err(DropReason::TooBig)
    );
    assert_eq!(
        push(&mut lane, 65488, 70_000, &mut outbox),
        Err(DropReason::TooBig)
    );
    assert_eq!(
        push(&mut lane, 65536, 70_000, &mut outbox),
        Err(DropReason::TooBig)
    );
    assert!(!lane.is_pending());
    assert_eq!(push(&mut lane, 80, 100, &mut outbox), Ok(()));
    // The refused frame leaves the open packet and the sequence alone.
    assert_eq!(
        push(&mut lane, 81, 100, &mut outbox),
        Err(DropReason::TooBig)
    );
    lane.flush(&envelope, to(), &mut outbox);
    assert_eq!(outbox.next().unwrap().payload.len(), 100);
    assert_eq!(envelope.next(true).load(Ordering::Relaxed), 1);
    envelope.next(true).store(DF_BIT - 1, Ordering::Relaxed);
    assert_eq!(
        push(&mut lane, 1, 100, &mut outbox),
        Err(DropReason::SequenceExhausted)
    );
}

#[test]
fn buffers_are_bounded_and_reused() {
    use crate::constants::{TRANSMIT_POOL_LEN, TRANSMIT_QUEUE_LEN};
    let envelope = envelope(ME, None, true);
    let mut lane = Lane::new(false);
    let mut outbox = Outbox::default();
    let limits = Limits {
        first: MAX_UDP_PAYLOAD,
        more: 100,
    };
    let mut push = |outbox: &mut Outbox| {
        lane.push(
            &envelope,
            to(),
            limits,
            (ME, ME),
            (&[0; 500], &[0; 500]),
            outbox,
        )
    };
    for _ in 0..TRANSMIT_QUEUE_LEN {
        push(&mut outbox).unwrap();
    }
    assert_eq!(push(&mut outbox), Err(DropReason::TransmitQueueFull));
    let mut sent = 0;
    while outbox.next().is_some() {
        sent += 1;
    }
    assert_eq!(sent, TRANSMIT_QUEUE_LEN);
    assert!(outbox.buffer_count() <= TRANSMIT_POOL_LEN + 1);
    for _ in 0..10 * TRANSMIT_QUEUE_LEN {
        push(&mut outbox).unwrap();
        while outbox.next().is_some() {}
    }
    assert!(outbox.buffer_count() <= TRANSMIT_POOL_LEN + 1);
}

proptest! {
    #[test]
    fn frames_out_are_frames_in(
        steps in prop::collection::vec(
            (prop_oneof![0..100_usize, 1300..1500_usize, 0..3000_usize, Just(1424_usize)], 0..8_u8),
            1..200,
        ),
        is_sealed: bool,
        df: bool,
        max_payload in 600..4000_usize,
    ) {
        let key = || is_sealed.then(|| SessionKey([9; 32]));
        let (ours, theirs) = (envelope(ME, key(), true), envelope(ME, key(), false));
        let limits = Limits { first: if df { max_payload } else { MAX_UDP_PAYLOAD }, more: max_payload };
        let mut lane = Lane::new(df);
        let mut outbox = Outbox::default();
        let mut windows = Windows::default();
        let (mut pushed, mut got) = (Vec::new(), Vec::new());
        let mut datagrams = 0;
        let mut drain = |outbox: &mut Outbox| {
            while let Some(run) = outbox.next() {
                prop_assert_eq!((run.link, run.to, run.df), (LINK, to(), df));
                let all: Vec<_> = run.datagrams().map(<[u8]>::to_vec).collect();
                prop_assert!(all.len() <= RUN_LEN && run.payload.len() <= MAX_UDP_PAYLOAD);
                prop_assert_eq!(run.segment_len.is_some(), all.len() > 1);
                for (index, mut packet) in all.iter().cloned().enumerate() {
                    prop_assert!(packet.len() == all[0].len() || index + 1 == all.len());
                    if packet.len() > max_payload {
                        prop_assert!(!df && all.len() == 1);
                    }
                    datagrams += 1;
                    let start = open(&theirs, &mut windows, &mut packet).unwrap();
                    let records: Vec<_> = Records::new(&packet, start).map(Result::unwrap).collect();
                    prop_assert!(!records.is_empty() && records.len() <= PACKET_RECORDS);
                    prop_assert!(packet.len() <= max_payload || records.len() == 1);
                    for record in records {
                        got.push((record.origin, record.destination, record.frame.to_vec()));
                    }
                }
            }
            Ok(())
        };
        for (index, (len, action)) in steps.into_iter().enumerate() {
            let number = u64::try_from(index).unwrap();
            let peers = (PeerName::from_u64(number).unwrap(), PeerName::from_u64(number / 3).unwrap());
            let frame: Vec<u8> = (0..len).map(|at| (at ^ index).to_le_bytes()[0]).collect();
            let fits = ours.header_len() + RECORD_HEADER_LEN + len <= limits.first;
            prop_assert_eq!(lane.push(&ours, to(), limits, peers, (&frame, &[]), &mut outbox).is_ok(), fits);
            if fits {
                pushed.push((peers.0, peers.1, frame));
            }
            if action == 0 {
                lane.flush(&ours, to(), &mut outbox);
            }
            if action <= 1 {
                drain(&mut outbox)?;
            }
        }
        lane.flush(&ours, to(), &mut outbox);
        drain(&mut outbox)?;
        prop_assert_eq!(&got, &pushed);
        prop_assert_eq!(ours.next(df).load(Ordering::Relaxed), datagrams);
        prop_assert!(!lane.is_pending());
    }
}
