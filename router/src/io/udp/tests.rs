//! Over loopback, and in a network namespace where its MTU is small.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

const LOOPBACK: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

fn pair() -> (UdpSocket, UdpSocket) {
    (
        UdpSocket::bind(LOOPBACK).unwrap(),
        UdpSocket::bind(LOOPBACK).unwrap(),
    )
}

/// Bytes that tell where they belong.
fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

/// Waits for the next datagrams until `total` bytes are there.
fn collect(socket: &mut UdpSocket, from: SocketAddrV4, total: usize) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    let mut len = 0;
    while len < total {
        let mut fds = [PollFd::new(&socket.sender.socket, PollFlags::IN)];
        let patience = Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        assert_ne!(
            poll(&mut fds, Some(&patience)).unwrap(),
            0,
            "{len} of {total} bytes came"
        );
        let mut ranges = Vec::new();
        let received = socket.receive(|sender, range| {
            assert_eq!(sender, from);
            ranges.push(range);
        });
        assert_eq!(received.unwrap().dropped, 0);
        for range in ranges {
            len += range.len();
            datagrams.push(socket.buffers()[range].to_vec());
        }
    }
    datagrams
}

/// Sends a run and checks that exactly its datagrams arrive.
fn round_trip(
    sender: &mut UdpSocket,
    receiver: &mut UdpSocket,
    df: bool,
    segment_len: usize,
    total: usize,
) {
    let payload = pattern(total);
    let run = Run {
        to: receiver.local_addr(),
        from: None,
        df,
        own_port: false,
        segment_len,
        payload: &payload,
    };
    let count = total.div_ceil(segment_len) as u64;
    let sent = sender.send(&run);
    assert_eq!(
        sent,
        Sent {
            sent: count,
            ..Sent::default()
        },
        "{segment_len} of {total}"
    );
    let arrived = collect(receiver, sender.local_addr(), total);
    let expected: Vec<_> = payload.chunks(segment_len).map(<[u8]>::to_vec).collect();
    assert_eq!(arrived, expected, "{segment_len} of {total}");
}

/// Lengths of datagrams, and of all of them together.
const SHAPES: [(usize, usize); 16] = [
    (1, 1),
    (1, 64),
    (1, 200),
    (100, 99),
    (100, 100),
    (100, 101),
    (1400, 64 * 1400),
    (1400, 64 * 1400 + 1),
    (1472, 44 * 1472 + 7),
    (1472, 130 * 1472 + 700),
    (9000, 7 * 9000),
    (9000, 8 * 9000),
    (32_753, 65_506),
    (32_754, 65_508),
    (65_507, 65_507),
    (65_507, 2 * 65_507),
];

#[test]
fn runs_of_all_shapes_arrive_whole_with_and_without_offload() {
    for (df, gso) in [(true, true), (true, false), (false, true), (false, false)] {
        let (mut sender, mut receiver) = pair();
        if !gso {
            sender.disable_offloads();
            receiver.disable_offloads();
        }
        for (segment_len, total) in SHAPES {
            round_trip(&mut sender, &mut receiver, df, segment_len, total);
        }
    }
}

#[test]
fn df_flag_may_change_between_runs() {
    let (mut sender, mut receiver) = pair();
    for df in [true, false, false, true, true] {
        round_trip(&mut sender, &mut receiver, df, 1000, 2500);
    }
}

#[test]
fn run_is_sent_again_singly_when_offload_fails() {
    let (mut sender, mut receiver) = pair();
    if !sender.sender.gso {
        return;
    }
    // Without checksums the kernel refuses runs, with EINVAL, and nothing else.
    without_checksum(&sender);
    round_trip(&mut sender, &mut receiver, true, 1000, 1000);
    assert!(sender.sender.gso, "a single datagram proves nothing");
    round_trip(&mut sender, &mut receiver, true, 1000, 70_500);
    assert!(!sender.sender.gso);
    round_trip(&mut sender, &mut receiver, true, 1000, 70_500);
}

fn without_checksum(socket: &UdpSocket) {
    let on = 1_i32;
    #[expect(unsafe_code, reason = "no safe wrapper has this option")]
    // SAFETY: the pointer and the length are those of `on`, which outlives the call.
    let code = unsafe {
        libc::setsockopt(
            socket.sender.socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            4,
        )
    };
    assert_eq!(code, 0);
}

#[test]
fn source_address_is_used_and_a_foreign_one_fails_alone() {
    let any = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    let (mut sender, mut receiver) = (any.unwrap(), UdpSocket::bind(LOOPBACK).unwrap());
    let payload = pattern(3000);
    let second = Ipv4Addr::new(127, 0, 0, 2);
    for segment_len in [3000, 1000] {
        let run = Run {
            to: receiver.local_addr(),
            from: Some(second),
            own_port: false,
            df: true,
            segment_len,
            payload: &payload,
        };
        assert_eq!(sender.send(&run).failed, 0);
        let from = SocketAddrV4::new(second, sender.local_addr().port());
        assert_eq!(collect(&mut receiver, from, 3000).concat(), payload);

        let foreign = Run {
            from: Some(Ipv4Addr::new(192, 0, 2, 1)),
            ..run
        };
        let failed = foreign.payload.chunks(foreign.segment_len).len() as u64;
        assert_eq!(
            sender.send(&foreign),
            Sent {
                failed,
                ..Sent::default()
            }
        );
    }
    assert!(sender.sender.gso);
}

#[test]
fn nothing_to_receive_is_no_error() {
    let (_, mut receiver) = pair();
    let received = receiver.receive(|_, _| panic!("nobody sent anything"));
    assert_eq!(received.unwrap(), Received::default());
}

#[test]
fn taken_port_is_an_error() {
    let (taken, _) = pair();
    let error = UdpSocket::bind(taken.local_addr()).map(drop).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}
