//! What RFCs ask of a server, each test named by the section.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};

use super::*;

/// A server over [`some_names`], and its end.
async fn with_server<T>(test: impl FnOnce(SocketAddr) -> T) -> T {
    let nameserver = some_names();
    let server = Server::start(loopback(), nameserver.names()).unwrap();
    let result = test(server.addresses()[0]);
    server.shutdown().await;
    result
}

fn code(answer: &[u8]) -> ResponseCode {
    parsed(answer).metadata.response_code
}

/// The same over UDP and TCP.
fn both(server: SocketAddr, packet: &[u8]) -> [Vec<u8>; 2] {
    [exchange(server, packet), exchange_tcp(server, packet)]
}

fn addresses(message: &Message) -> Vec<String> {
    let mut addresses: Vec<String> = message
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    addresses.sort();
    addresses
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc1035_2_3_3_case_is_kept_and_ignored() {
    with_server(|server| {
        let packet = query(1, "wEb.WEAVE.local", rtype::A);
        for answer in both(server, &packet) {
            assert_eq!(answer[12..packet.len()], packet[12..]);
            let message = parsed(&answer);
            assert_eq!(message.answers[0].name.to_string(), "wEb.WEAVE.local.");
            assert_eq!(addresses(&message), ["10.32.0.1"]);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc1035_2_3_4_lengths_of_names_and_labels() {
    with_server(|server| {
        let with_name = |name: &[u8]| {
            let mut packet = query(1, ".", rtype::A);
            packet.splice(12..13, name.iter().copied());
            packet
        };
        // The longest there can be, and one byte more.
        let mut name = [&[63][..], &[b'a'; 63]].concat().repeat(3);
        name.extend([&[61][..], &[b'a'; 61], &[0]].concat());
        assert_eq!(name.len(), 255);
        assert_eq!(
            code(&exchange(server, &with_name(&name))),
            ResponseCode::ServFail
        );
        name[192] = 62;
        name.insert(193, b'a');
        assert_eq!(
            code(&exchange(server, &with_name(&name))),
            ResponseCode::FormErr
        );
        // Kinds of labels that there are not.
        for first in [0x40, 0x41, 0x80, 0xbf] {
            let answer = exchange(server, &with_name(&[first, b'a', 0]));
            assert_eq!(code(&answer), ResponseCode::FormErr, "{first:#x}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc1035_3_2_5_classes() {
    with_server(|server| {
        for (class, expected) in [
            (1, ResponseCode::NoError),
            (255, ResponseCode::NoError),
            (3, ResponseCode::Refused),
            (4, ResponseCode::Refused),
            (254, ResponseCode::Refused),
            (0, ResponseCode::Refused),
            (0xffff, ResponseCode::Refused),
        ] {
            let mut packet = query(1, "web.weave.local", rtype::A);
            let at = packet.len() - 2;
            packet[at..].copy_from_slice(&u16::to_be_bytes(class));
            for answer in both(server, &packet) {
                let message = parsed(&answer);
                assert_eq!(message.metadata.response_code, expected, "{class}");
                // RFC 1035, section 6.2: never about all classes.
                assert_eq!(message.metadata.authoritative, class == 1, "{class}");
                let count = usize::from(expected == ResponseCode::NoError);
                assert_eq!(message.answers.len(), count, "{class}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc1035_4_1_1_operations_that_are_not_implemented() {
    with_server(|server| {
        for opcode in 1..16 {
            let mut packet = query(0x1234, "web.weave.local", rtype::A);
            packet[2] |= opcode << 3;
            for answer in both(server, &packet) {
                assert_eq!(answer.len(), 12, "{opcode}");
                assert_eq!(answer[..2], [0x12, 0x34]);
                assert_eq!(answer[2], 0x81 | opcode << 3, "{opcode}");
                assert_eq!(answer[3], 4, "{opcode}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc1035_4_1_1_responses_and_fragments_are_not_answered() {
    with_server(|server| {
        let mut response = query(1, "web.weave.local", rtype::A);
        response[2] |= 0x80;
        assert_eq!(maybe(server, &response), None);
        for len in 0..12 {
            assert_eq!(maybe(server, &response[..len]), None, "{len}");
        }
        // Over TCP the connection goes on.
        let mut stream = tcp(server);
        stream.write_all(&framed(&response)).unwrap();
        stream.write_all(&framed(&[])).unwrap();
        let probe = query(7, "web.weave.local", rtype::A);
        stream.write_all(&framed(&probe)).unwrap();
        assert_eq!(read_framed(&mut stream).unwrap()[..2], [0, 7]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc1035_4_1_1_flags_that_mean_nothing_in_a_query() {
    with_server(|server| {
        let mut packet = query(1, "web.weave.local", rtype::A);
        // AA, TC, RA, Z, AD, and a response code.
        packet[2] |= 0b110;
        packet[3] |= 0b1110_1111;
        for answer in both(server, &packet) {
            assert_eq!(answer[2..4], [0x85, 0x80]);
        }
        // RD and CD are copied (RFC 6895, section 2).
        packet[2] = 0;
        packet[3] = 0x10;
        for answer in both(server, &packet) {
            assert_eq!(answer[2..4], [0x84, 0x90]);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc1035_4_1_2_a_question_that_ends_too_early() {
    with_server(|server| {
        let packet = query(1, "web.weave.local", rtype::A);
        for len in 12..packet.len() {
            for answer in both(server, &packet[..len]) {
                assert_eq!(answer[3] & 15, 1, "{len}");
                assert_eq!(answer.len(), 12, "{len}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc1035_4_1_3_sections_that_are_not_there() {
    with_server(|server| {
        for section in [6, 8, 10] {
            for count in [1, 2, 0xffff_u16] {
                let mut packet = query(1, "web.weave.local", rtype::A);
                packet[section..section + 2].copy_from_slice(&count.to_be_bytes());
                for answer in both(server, &packet) {
                    assert_eq!(code(&answer), ResponseCode::FormErr, "{section} {count}");
                }
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc1035_4_1_4_pointers_in_a_question() {
    with_server(|server| {
        for pointer in [[0xc0, 12], [0xc0, 0], [0xff, 0xff], [0xc0, 14]] {
            let mut packet = query(1, ".", rtype::A);
            packet.splice(12..13, pointer);
            for answer in both(server, &packet) {
                assert_ne!(code(&answer), ResponseCode::NoError, "{pointer:x?}");
                assert!(answer.len() <= 512);
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc1035_4_2_1_over_udp_not_more_than_512_bytes() {
    with_server(|server| {
        let answer = exchange(server, &query(1, "many.weave.local", rtype::A));
        let message = parsed(&answer);
        assert!(answer.len() <= 512 && message.metadata.truncation);
        assert_eq!(message.answers.len(), 29, "as many as fit");
        // All over TCP, where nothing is cut.
        let answer = exchange_tcp(server, &query(1, "many.weave.local", rtype::A));
        let message = parsed(&answer);
        assert!(!message.metadata.truncation);
        assert_eq!(message.answers.len(), 100);
        // A query that is too long for what we read.
        let mut long = query(1, "web.weave.local", rtype::A);
        long.resize(5000, 0);
        assert_eq!(code(&exchange(server, &long)), ResponseCode::FormErr);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc1035_4_2_2_messages_over_tcp_in_pieces() {
    with_server(|server| {
        let mut stream = tcp(server);
        stream.set_nodelay(true).unwrap();
        for byte in framed(&query(1, "web.weave.local", rtype::A)) {
            stream.write_all(&[byte]).unwrap();
        }
        let answer = read_framed(&mut stream).unwrap();
        assert_eq!(addresses(&parsed(&answer)), ["10.32.0.1"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc2181_5_an_address_comes_once_and_all_with_one_ttl() {
    let mut nameserver = nameserver();
    for container in ["c1", "c2"] {
        for addr in ["10.32.0.1", "10.32.0.2"] {
            let addr = addr.parse().unwrap();
            let added = nameserver.add("web.weave.local", container, addr, 100);
            assert!(added.unwrap().is_some());
        }
    }
    let config = Config {
        ttl: 77,
        ..loopback()
    };
    let server = Server::start(config, nameserver.names()).unwrap();
    let answer = exchange(
        server.addresses()[0],
        &query(1, "web.weave.local", rtype::A),
    );
    let message = parsed(&answer);
    assert_eq!(addresses(&message), ["10.32.0.1", "10.32.0.2"]);
    assert!(message.answers.iter().all(|record| record.ttl == 77));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc2308_2_1_and_2_2_no_name_and_no_data_have_the_soa() {
    with_server(|server| {
        for (name, qtype, rcode) in [
            ("nosuch.weave.local", rtype::A, ResponseCode::NXDomain),
            ("x.web.weave.local", rtype::A, ResponseCode::NXDomain),
            ("web.weave.local", rtype::AAAA, ResponseCode::NoError),
            ("web.weave.local", 15, ResponseCode::NoError),
            ("six.weave.local", rtype::A, ResponseCode::NoError),
            ("weave.local", rtype::A, ResponseCode::NoError),
            // RFC 4035, section 3.1.4.1.
            ("web.weave.local", 43, ResponseCode::NoError),
        ] {
            for answer in both(server, &query(1, name, qtype)) {
                let message = parsed(&answer);
                assert_eq!(message.metadata.response_code, rcode, "{name}");
                assert!(message.metadata.authoritative && message.answers.is_empty());
                let [record] = &message.authorities[..] else {
                    panic!("{name}: {message:?}");
                };
                assert_eq!(record.name.to_string(), "weave.local.", "{name}");
                let RData::SOA(soa) = &record.data else {
                    panic!("{record}");
                };
                // Section 3: for no longer than the record itself.
                assert_eq!((record.ttl, soa.minimum), (1, 1));
                assert_eq!(soa.rname.to_string(), "hostmaster.weave.local.");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc2308_5_what_is_not_ours_to_deny_can_not_be_kept() {
    with_server(|server| {
        for name in ["nosuch", "com", "."] {
            for answer in both(server, &query(1, name, rtype::A)) {
                let message = parsed(&answer);
                assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
                assert!(message.authorities.is_empty() && !message.metadata.authoritative);
            }
        }
        let answer = exchange(server, &query(1, "web", rtype::A));
        assert_eq!(parsed(&answer).answers[0].name.to_string(), "web.");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc3596_addresses_of_ipv6_and_their_names() {
    with_server(|server| {
        let answer = exchange(server, &query(1, "six.weave.local", rtype::AAAA));
        assert_eq!(addresses(&parsed(&answer)), ["fd00::6"]);
        let reverse = format!("6.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
        let answer = exchange(server, &query(1, &reverse, rtype::PTR));
        assert_eq!(addresses(&parsed(&answer)), ["six.weave.local."]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc5936_2_2_1_no_transfers() {
    with_server(|server| {
        for qtype in [rtype::AXFR, rtype::IXFR] {
            for name in ["weave.local", "example.com"] {
                for answer in both(server, &query(1, name, qtype)) {
                    assert_eq!(code(&answer), ResponseCode::Refused, "{name}");
                }
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6891_6_1_1_an_opt_record_for_an_opt_record() {
    with_server(|server| {
        for name in [
            "web.weave.local",
            "nosuch.weave.local",
            "nosuch",
            "example.com",
        ] {
            let packet = query(1, name, rtype::A);
            for answer in both(server, &packet) {
                assert!(parsed(&answer).edns.is_none(), "{name}");
            }
            for answer in both(server, &with_opt(packet, 4096, 0)) {
                let edns = parsed(&answer).edns.unwrap();
                assert_eq!((edns.version(), edns.max_payload()), (0, 1232), "{name}");
                assert!(!edns.flags().dnssec_ok);
            }
        }
        // Two of them.
        let mut packet = with_opt(query(1, "web.weave.local", rtype::A), 4096, 0);
        packet[11] = 2;
        packet.extend_from_slice(&[0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
        for answer in both(server, &packet) {
            assert_eq!(code(&answer), ResponseCode::FormErr);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6891_6_1_2_options_that_nobody_knows() {
    with_server(|server| {
        let mut packet = with_opt(query(1, "web.weave.local", rtype::A), 4096, 0);
        let at = packet.len() - 1;
        packet[at] = 9;
        packet.extend_from_slice(&[0xfd, 0xe9, 0, 5, 1, 2, 3, 4, 5]);
        for answer in both(server, &packet) {
            let message = parsed(&answer);
            assert_eq!(addresses(&message), ["10.32.0.1"]);
            assert!(message.edns.unwrap().options().as_ref().is_empty());
        }
        // One that is longer than its record.
        let len = packet.len();
        packet[len - 6] = 6;
        for answer in both(server, &packet) {
            assert_eq!(code(&answer), ResponseCode::FormErr);
        }
        // The DO bit is copied (RFC 3225, section 3).
        let mut packet = with_opt(query(1, "web.weave.local", rtype::A), 4096, 0);
        let len = packet.len();
        packet[len - 4] = 0x80;
        for answer in both(server, &packet) {
            assert!(parsed(&answer).edns.unwrap().flags().dnssec_ok);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6891_6_1_3_versions_that_nobody_knows() {
    with_server(|server| {
        for version in [1, 2, 255] {
            let packet = with_opt(query(1, "web.weave.local", rtype::A), 4096, version);
            for answer in both(server, &packet) {
                let message = parsed(&answer);
                // The same number has another name in signatures.
                assert_eq!(u16::from(message.metadata.response_code), 16);
                assert!(message.answers.is_empty());
                assert_eq!(
                    message.edns.unwrap().version(),
                    0,
                    "the highest that we know"
                );
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6891_6_2_3_sizes_and_7_the_opt_record_of_a_cut_answer() {
    with_server(|server| {
        let packet = query(1, "many.weave.local", rtype::A);
        for (payload_len, count) in [
            (0, 29),
            (100, 29),
            (512, 29),
            (700, 40),
            (1232, 73),
            (4096, 73),
            (65535, 73),
        ] {
            let answer = exchange(server, &with_opt(packet.clone(), payload_len, 0));
            assert!(answer.len() <= usize::from(payload_len.clamp(512, 1232)));
            let message = parsed(&answer);
            assert!(message.metadata.truncation);
            assert!(message.edns.is_some(), "{payload_len}");
            let fewer = message.answers.len().abs_diff(count);
            assert!(fewer <= 1, "{payload_len}: {}", message.answers.len());
        }
        let whole = exchange_tcp(server, &with_opt(packet, 512, 0));
        assert_eq!(parsed(&whole).answers.len(), 100);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc8020_2_a_name_above_others_exists() {
    let mut nameserver = some_names();
    let server = Server::start(loopback(), nameserver.names()).unwrap();
    let address = server.addresses()[0];
    let ask = |name: &str| code(&exchange(address, &query(1, name, rtype::A)));
    assert_eq!(ask("below.weave.local"), ResponseCode::NoError);
    assert_eq!(ask("deep.below.weave.local"), ResponseCode::NoError);
    assert_eq!(ask("other.below.weave.local"), ResponseCode::NXDomain);
    // Own addresses come and go; it stays as long as there is something below it.
    add(&mut nameserver, "below.weave.local", "10.32.0.8");
    let deletion = |hostname| Selection {
        hostname: Some(hostname),
        ..Selection::default()
    };
    nameserver.delete(&deletion("below.weave.local."), 101);
    assert_eq!(ask("below.weave.local"), ResponseCode::NoError);
    nameserver.delete(&deletion("deep.below.weave.local."), 101);
    assert_eq!(ask("below.weave.local"), ResponseCode::NXDomain);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc8482_4_2_one_record_stands_for_any() {
    with_server(|server| {
        for name in [
            "many.weave.local",
            "weave.local",
            "web",
            "1.0.32.10.in-addr.arpa",
        ] {
            for answer in both(server, &query(1, name, rtype::ANY)) {
                let message = parsed(&answer);
                let [record] = &message.answers[..] else {
                    panic!("{name}: {message:?}");
                };
                assert_eq!(record.record_type(), RecordType::HINFO);
                assert!(answer.len() < 100);
            }
        }
        let answer = exchange(server, &query(1, "nosuch.weave.local", rtype::ANY));
        assert_eq!(code(&answer), ResponseCode::NXDomain);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9619_4_one_question() {
    with_server(|server| {
        for count in [0, 2, 3, 0xffff_u16] {
            let mut packet = query(1, "web.weave.local", rtype::A);
            let question = packet[12..].to_vec();
            packet[4..6].copy_from_slice(&count.to_be_bytes());
            packet.extend_from_slice(&question);
            for answer in both(server, &packet) {
                assert_eq!(answer[3] & 15, 1, "{count}");
                assert_eq!(answer.len(), 12);
            }
        }
    })
    .await;
}

/// More in a query than we look at does no harm: a TSIG record, of which we know no key.
#[tokio::test(flavor = "multi_thread")]
async fn other_records_do_not_hide_the_question() {
    with_server(|server| {
        let mut packet = with_opt(query(1, "web.weave.local", rtype::A), 1232, 0);
        packet[11] = 2;
        packet.extend_from_slice(b"\x03key\0\x00\xfa\x00\xff\0\0\0\0\0\x11");
        // No algorithm, time, nor signature.
        packet.extend_from_slice(&[0; 17]);
        for answer in both(server, &packet) {
            let message = parsed(&answer);
            assert_eq!(addresses(&message), ["10.32.0.1"], "{message:?}");
            assert!(message.edns.is_some());
        }
        let mut packet = query(1, "many.weave.local", rtype::A);
        packet[11] = 1;
        packet.extend_from_slice(b"\x01x\0\0\x01\0\x01\0\0\0\0\0\x04\x01\x02\x03\x04");
        let answer = exchange(server, &packet);
        let message = parsed(&answer);
        assert!(answer.len() <= 512 && message.metadata.truncation);
        assert!(message.answers.len() >= 28);
    })
    .await;
}

/// The original sends all names of such a domain to servers upstream.
#[tokio::test(flavor = "multi_thread")]
async fn rfc4343_domains_with_capitals_and_of_one_label() {
    for domain in ["Weave.LOCAL", "corp"] {
        let ours = PeerName::from_bytes([2, 0, 0, 0, 0, 1]);
        let mut nameserver = Nameserver::new(ours, domain.parse().unwrap());
        let name = format!("web.{domain}");
        add(&mut nameserver, &name, "10.32.0.1");
        let server = Server::start(loopback(), nameserver.names()).unwrap();
        let ask = |name: &str| parsed(&exchange(server.addresses()[0], &query(1, name, rtype::A)));
        for name in [name.clone(), name.to_lowercase(), "web".to_owned()] {
            assert_eq!(addresses(&ask(&name)), ["10.32.0.1"], "{name}");
        }
        let apex = ask(domain);
        assert_eq!(
            apex.metadata.response_code,
            ResponseCode::NoError,
            "{domain}"
        );
        assert_eq!(apex.authorities.len(), 1, "{domain}");
        server.shutdown().await;
    }
}
