//! The IO parts against real devices, each test in a network namespace of its own. Skipped where
//! none can be made.

#![cfg(feature = "io")]
#![expect(clippy::unwrap_used, reason = "where the set-up fails the test fails")]

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;

use host::netlink::{BRIDGE_MTU, Netlink};
use host::netns::{Netns, name_for};
use router::io::tap::{MAX_FRAME_LEN, Tap, TapDevice, TapError};
use router::io::udp::{Run, Sent, UdpSocket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Runs `test` on a runtime whose only thread is in a new network namespace.
fn isolated<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Netlink) -> F + Send) {
    let namespace = match Netns::create(&name_for("kernel", name)) {
        Ok(namespace) => namespace,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    let inside = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { test(Netlink::current().unwrap()).await });
    };
    namespace.run(inside).unwrap();
}

/// Waits until a descriptor is readable; fails the test when that takes too long.
fn wait_readable(fd: impl AsFd) {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let patience = Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    assert_ne!(poll(&mut fds, Some(&patience)).unwrap(), 0, "nothing came");
}

#[test]
fn too_long_for_the_path_tells_the_mtu_and_the_rest_still_goes() {
    isolated("mtu", async |netlink: Netlink| {
        netlink.set_mtu("lo", 1500).await.unwrap();
        netlink.set_up("lo").await.unwrap();
        let loopback = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let mut sender = UdpSocket::bind(loopback).unwrap();
        let mut receiver = UdpSocket::bind(loopback).unwrap();
        let payload = vec![7; 60_000];
        let run = |df, segment_len, total| Run {
            to: receiver.local_addr(),
            from: Some(Ipv4Addr::LOCALHOST),
            df,
            segment_len,
            payload: &payload[..total],
        };

        // One byte too long; then the longest that fits.
        let too_long = Sent {
            too_long: 1,
            path_mtu: Some(1500),
            ..Sent::default()
        };
        assert_eq!(sender.send(&run(true, 1473, 1473)), too_long);
        assert_eq!(sender.send(&run(true, 60_000, 60_000)), too_long);
        assert_eq!(
            sender.send(&run(true, 1472, 1472)),
            Sent {
                sent: 1,
                ..Sent::default()
            }
        );
        // A run of them: only its shorter last one passes, and offload is not to blame.
        let mixed = Sent {
            sent: 1,
            too_long: 3,
            path_mtu: Some(1500),
            ..Sent::default()
        };
        assert_eq!(sender.send(&run(true, 2000, 6100)), mixed);
        assert_eq!(
            sender.send(&run(true, 1472, 14_720)),
            Sent {
                sent: 10,
                ..Sent::default()
            }
        );
        // Without DF the kernel fragments whatever it is.
        assert_eq!(
            sender.send(&run(false, 2000, 6100)),
            Sent {
                sent: 4,
                ..Sent::default()
            }
        );
        assert_eq!(
            sender.send(&run(false, 60_000, 60_000)),
            Sent {
                sent: 1,
                ..Sent::default()
            }
        );

        let mut lens = Vec::new();
        while lens.iter().sum::<usize>() < 1472 + 100 + 14_720 + 6100 + 60_000 {
            wait_readable(&receiver);
            receiver
                .receive(|_, datagram| lens.push(datagram.len()))
                .unwrap();
        }
        let mut expected = vec![1472, 100];
        expected.extend([1472; 10]);
        expected.extend([2000, 2000, 2000, 100, 60_000]);
        assert_eq!(lens, expected);
    });
}

#[test]
fn frames_cross_a_bridge_between_two_taps() {
    isolated("tap", async |netlink: Netlink| {
        let mut left = Tap::open("left").unwrap();
        let mut right = Tap::open("fifteen-letters").unwrap();
        assert_eq!((left.name(), right.name()), ("left", "fifteen-letters"));
        netlink.ensure_bridge("br", None, None).await.unwrap();
        netlink.set_up("br").await.unwrap();
        // As the original leaves it. What is longer than a port takes would get lost in silence.
        netlink.set_mtu("br", 65535).await.unwrap();
        for port in ["left", "fifteen-letters"] {
            netlink.add_port("br", port).await.unwrap();
            for device in [port, "br"] {
                assert_eq!(netlink.existing(device).await.unwrap().mtu, BRIDGE_MTU);
            }
        }
        for len in [60, 1514, BRIDGE_MTU as usize + 14] {
            // Experimental EtherType, so that nobody but the bridge takes an interest.
            let mut frame = vec![0x5a; len];
            frame[..12].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9]);
            frame[12..14].copy_from_slice(&[0x88, 0xb5]);
            left.write(&frame).unwrap();
            let mut buffer = vec![0; MAX_FRAME_LEN];
            // The kernel's own frames, such as IPv6 neighbour discovery, come along.
            loop {
                wait_readable(right.fd());
                let read = right.read(&mut buffer).unwrap();
                if buffer[12..14] == [0x88, 0xb5] {
                    assert!(
                        buffer[..read] == frame[..],
                        "{read} of {len} bytes, or changed"
                    );
                    break;
                }
            }
        }
        let mut buffer = [0; 64];
        while let Ok(len) = right.read(&mut buffer) {
            assert!(len > 0);
        }
        let empty = right.read(&mut buffer).unwrap_err();
        assert_eq!(empty.kind(), std::io::ErrorKind::WouldBlock);
    });
}

#[test]
fn tap_that_cannot_be_had_is_explained() {
    isolated("badtap", async |netlink: Netlink| {
        let _held = Tap::open("held").unwrap();
        let busy = Tap::open("held").unwrap_err();
        assert!(
            matches!(&busy, TapError::Busy(name) if name == "held"),
            "{busy}"
        );
        netlink.add_veth("veth", "peer").await.unwrap();
        let other = Tap::open("veth").unwrap_err();
        assert!(matches!(&other, TapError::NotATap(_)), "{other}");
        for name in ["", "sixteen-letters-", "tap%d", "a b", "a/b"] {
            assert!(
                matches!(Tap::open(name), Err(TapError::BadName(_))),
                "{name:?}"
            );
        }
    });
}

#[test]
fn deleted_or_downed_tap_is_noticed() {
    isolated("gone", async |netlink: Netlink| {
        let mut tap = Tap::open("tap").unwrap();
        let frame = [0xff; 60];
        let down = tap.write(&frame).unwrap_err();
        assert_eq!(down.raw_os_error(), Some(libc::EIO), "{down}");
        netlink.set_up("tap").await.unwrap();
        tap.write(&frame).unwrap();
        netlink.delete_link("tap").await.unwrap();
        let fd = tap.fd();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut fds, Some(&at_once)).unwrap(), 1);
        assert_eq!(fds[0].revents(), PollFlags::ERR);
        let gone = [
            tap.read(&mut [0; 64]).unwrap_err(),
            tap.write(&frame).unwrap_err(),
        ];
        assert!(
            gone.iter()
                .all(|error| error.raw_os_error() == Some(libc::EBADFD)),
            "{gone:?}"
        );
    });
}
