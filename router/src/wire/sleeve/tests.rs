use proptest::prelude::*;
use proto::ConnectionUid;
use serde_json::Value as Json;

use super::*;
use crate::testing::{bytes, vectors};

fn peer(value: &Json) -> PeerName {
    PeerName::from_bytes(bytes(value).try_into().unwrap())
}

#[test]
fn plain_vectors_both_ways() {
    let mut packets = 0;
    for vector in vectors("sleeve_plain.json") {
        let name = vector["name"].as_str().unwrap();
        let packet = bytes(&vector["hex"]);
        let records: Vec<_> = Records::new(&packet, PLAIN_HEADER_LEN).collect();
        let Some(frames) = vector["inputs"]["frames"].as_array() else {
            let delivered = records.iter().flatten().count() as u64;
            let failed = records.iter().any(Result::is_err);
            assert_eq!(vector["meaning"]["frames_delivered"], delivered, "{name}");
            assert_eq!(vector["meaning"]["error"], failed, "{name}");
            continue;
        };
        packets += 1;
        let own_name = peer(&vector["inputs"]["sender_name"]);
        assert_eq!(sender(&packet), Some(own_name), "{name}");
        assert_eq!(records.len(), frames.len(), "{name}");
        let mut encoded = own_name.to_bytes().to_vec();
        for (frame, record) in frames.iter().zip(records) {
            let record = record.unwrap();
            assert_eq!(record.origin, peer(&frame["src_peer"]), "{name}");
            assert_eq!(record.destination, peer(&frame["dst_peer"]), "{name}");
            assert_eq!(record.frame, bytes(&frame["frame"]), "{name}");
            assert_eq!(&packet[record.range.clone()], record.frame, "{name}");
            let len = u16::try_from(record.frame.len()).unwrap();
            encoded.extend(record_header(record.origin, record.destination, len));
            encoded.extend(record.frame);
        }
        assert_eq!(encoded, packet, "{name}");
    }
    assert_eq!(packets, 4);
}

#[test]
fn nonce_vectors() {
    for vector in vectors("sleeve_encrypted.json") {
        let Some(expected) = vector["meaning"]["nonce"].as_str() else {
            continue;
        };
        let word = bytes(&vector["hex"])[NAME_LEN..TAG_START]
            .try_into()
            .unwrap();
        let number = u64::from_be_bytes(word);
        assert_eq!(vector["inputs"]["sequence"], number & !DF_BIT);
        assert_eq!(vector["inputs"]["df"], number & DF_BIT != 0);
        let from_dialler = vector["inputs"]["sender_outbound"].as_bool().unwrap();
        assert_eq!(hex::encode(nonce(from_dialler, word)), expected);
    }
}

#[test]
fn special_vectors() {
    let mut classified = 0;
    for vector in vectors("sleeve_special.json") {
        let name = vector["name"].as_str().unwrap();
        let meaning = &vector["meaning"];
        if name.contains(" packet") {
            // Whole packets are for the tests that build them.
            continue;
        }
        let Some(is_special) = meaning["special"].as_bool() else {
            if name == "sizes" {
                let lens = [FRAGMENTATION_TEST_LEN, MTU_PROBE_LEN, HEARTBEAT_LEN];
                assert_eq!(meaning["fragmentation_test_frame_bytes"], lens[0]);
                assert_eq!(meaning["pmtu_discovery_frame_bytes"], lens[1]);
                assert_eq!(meaning["heartbeat_frame_bytes"], lens[2]);
                let payload = lens[0] + RECORD_HEADER_LEN;
                let [plain, sealed] =
                    [PLAIN_HEADER_LEN, SEALED_HEADER_LEN].map(|len| len + payload);
                assert_eq!(meaning["fragmentation_test_udp_payload_plain"], plain);
                assert_eq!(meaning["fragmentation_test_udp_payload_encrypted"], sealed);
            }
            continue;
        };
        let frame = match vector["inputs"]["length"].as_u64() {
            Some(len) => vec![0; usize::try_from(len).unwrap()],
            None => bytes(&vector["hex"]),
        };
        let kind = match Frame::new_checked(&frame).map(|frame| Special::classify(&frame)) {
            Err(_) | Ok(None) => "not special",
            Ok(Some(Special::Heartbeat(uid))) => {
                if let Some(expected) = vector["inputs"]["conn_uid"].as_str() {
                    assert_eq!(format!("{:016x}", uid.0), expected, "{name}");
                }
                "heartbeat"
            }
            Ok(Some(Special::FragmentationTest { intact })) => {
                assert!(intact, "{name}");
                "fragmentation test"
            }
            Ok(Some(Special::MtuTest(mtu))) => {
                assert_eq!(usize::from(mtu) + HEADER_LEN, frame.len(), "{name}");
                "MTU test"
            }
        };
        assert_eq!(meaning["kind"], kind, "{name}");
        assert_eq!(is_special, kind != "not special", "{name}");
        classified += 1;
    }
    assert!(classified >= 12);
}

#[test]
fn a_fragmentation_test_must_be_all_zero() {
    let mut frame = vec![0; FRAGMENTATION_TEST_LEN];
    let classify = |frame: &[u8]| Special::classify(&Frame::new_checked(frame).unwrap());
    assert_eq!(
        classify(&frame),
        Some(Special::FragmentationTest { intact: true })
    );
    for at in [
        HEADER_LEN,
        FRAGMENTATION_TEST_LEN / 2,
        FRAGMENTATION_TEST_LEN - 1,
    ] {
        frame[at] = 1;
        assert_eq!(
            classify(&frame),
            Some(Special::FragmentationTest { intact: false })
        );
        frame[at] = 0;
    }
    let heartbeat = [[0; 14].as_slice(), &7_u64.to_be_bytes()].concat();
    assert_eq!(
        classify(&heartbeat),
        Some(Special::Heartbeat(ConnectionUid(7)))
    );
}

proptest! {
    #[test]
    fn any_bytes_can_be_walked(packet in prop::collection::vec(any::<u8>(), 0..300), start in 0..40_usize) {
        let mut end = start;
        let mut malformed = false;
        for record in Records::new(&packet, start) {
            prop_assert!(!malformed, "nothing follows a fault");
            match record {
                Ok(record) => {
                    prop_assert_eq!(record.range.start, end + RECORD_HEADER_LEN);
                    end = record.range.end;
                    prop_assert!(end <= packet.len());
                }
                Err(Malformed) => malformed = true,
            }
        }
        prop_assert!(malformed || end >= packet.len());
    }
}
