//! The IO parts against real devices, each test in a network namespace of its own, which takes root;
//! without it they fail, unless `MESHCTL_TESTS_NO_ROOT` is set.

#![cfg(feature = "io")]
#![expect(clippy::unwrap_used, reason = "where the set-up fails the test fails")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::time::Duration;

use etherparse::PacketBuilder;
use host::netlink::{BRIDGE_MTU, Netlink};
use host::netns::{Netns, name_for};
use proto::PeerName;
use router::constants::{CONN_LIMIT, PORT};
use router::crypto::session::Password;
use router::io::tap::{
    self, Choice, MAX_FRAME_LEN, OffloadTap, Offloads, PlainTap, TapDevice, TapError,
};
use router::io::udp::{Run, Sent, UdpSocket};
use router::io::{Router, RouterConfig};
use router::mesh::MeshConfig;
use router::offload::coalesce::Joined;
use router::offload::segment::{Segments, Wanted};
use router::offload::{Checksum, Gso, GsoKind, Offload};
use router::overlay::negotiate::SUPPORTED;
use router::wire::intro::Versions;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// A new network namespace; `None` to skip the test.
fn namespace(name: &str) -> Option<Netns> {
    if rustix::process::geteuid().is_root() {
        return Some(Netns::create(&name_for("kernel", name)).unwrap());
    }
    assert!(
        std::env::var_os("MESHCTL_TESTS_NO_ROOT").is_some(),
        "network namespaces need root; set MESHCTL_TESTS_NO_ROOT=1 to skip this test"
    );
    eprintln!("skipped: not root");
    None
}

/// Runs `test` on a runtime whose only thread is in a new network namespace.
fn isolated(name: &str, test: impl AsyncFnOnce(Netlink) + Send) {
    if let Some(namespace) = namespace(name) {
        inside(&namespace, test);
    }
}

/// Runs `test` on a runtime whose only thread is in `namespace`.
fn inside<T: Send>(namespace: &Netns, test: impl AsyncFnOnce(Netlink) -> T + Send) -> T {
    let on_runtime = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { test(Netlink::current().unwrap()).await })
    };
    namespace.run(on_runtime).unwrap()
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
            own_port: false,
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
            receiver.receive(|_, range| lens.push(range.len())).unwrap();
        }
        let mut expected = vec![1472, 100];
        expected.extend([1472; 10]);
        expected.extend([2000, 2000, 2000, 100, 60_000]);
        assert_eq!(lens, expected);
    });
}

/// A device of either kind.
fn tap(name: &str, choice: Choice) -> Box<dyn TapDevice> {
    tap::open(name, choice, 1).unwrap().queues.remove(0)
}

/// A bridge as wide as can be, with these ports.
async fn bridge(netlink: &Netlink, ports: &[&str]) {
    netlink.ensure_bridge("br", None, None).await.unwrap();
    netlink.set_up("br").await.unwrap();
    // As the original leaves it. What is longer than a port takes would get lost in silence.
    netlink.set_mtu("br", 65535).await.unwrap();
    for port in ports {
        netlink.add_port("br", port).await.unwrap();
        for device in [*port, "br"] {
            assert_eq!(netlink.existing(device).await.unwrap().mtu, BRIDGE_MTU);
        }
    }
}

/// The next frame with the Ethernet header of `like`. The kernel's own, such as IPv6 neighbour
/// discovery, come along.
fn next_frame(tap: &mut dyn TapDevice, like: &[u8]) -> (Vec<u8>, Offload) {
    let mut buffer = vec![0; MAX_FRAME_LEN];
    loop {
        wait_readable(tap.fd());
        let (len, offload) = tap.read(&mut buffer).unwrap();
        if buffer[..14] == like[..14] {
            return (buffer[..len].to_vec(), offload);
        }
    }
}

#[test]
fn frames_cross_a_bridge_between_two_taps() {
    let kinds = [Choice::Plain, Choice::Offload];
    for (number, (one, other)) in kinds
        .into_iter()
        .flat_map(|one| kinds.map(|other| (one, other)))
        .enumerate()
    {
        isolated(&format!("tap{number}"), async |netlink: Netlink| {
            let mut left = tap("left", one);
            let mut right = tap("fifteen-letters", other);
            assert_eq!((left.name(), right.name()), ("left", "fifteen-letters"));
            bridge(&netlink, &["left", "fifteen-letters"]).await;
            for len in [60, 1514, BRIDGE_MTU as usize + 14] {
                // Experimental EtherType, so that nobody but the bridge takes an interest.
                let mut frame = vec![0x5a; len];
                frame[..12]
                    .copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9]);
                frame[12..14].copy_from_slice(&[0x88, 0xb5]);
                left.write_frame(&frame).unwrap();
                let got = next_frame(&mut *right, &frame);
                assert!(got == (frame, Offload::NONE), "{len} bytes changed");
            }
            let mut buffer = [0; 64];
            while let Ok((len, _)) = right.read(&mut buffer) {
                assert!(len > 0);
            }
            let empty = right.read(&mut buffer).unwrap_err();
            assert_eq!(empty.kind(), std::io::ErrorKind::WouldBlock);
        });
    }
}

/// TCP over IPv4, or UDP over IPv6, with much payload under one header.
fn super_frame(is_udp: bool) -> (Vec<u8>, Offload) {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [0xff; 6]);
    let payload: Vec<u8> = (0..=250).cycle().take(30_000).collect();
    let mut frame = Vec::new();
    if is_udp {
        let builder = builder.ipv6([0xfd; 16], [0xfc; 16], 64);
        builder.udp(1, 2).write(&mut frame, &payload).unwrap();
    } else {
        let builder = builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let builder = builder.tcp(1, 2, 3, 4).ack(5).psh();
        builder.write(&mut frame, &payload).unwrap();
    }
    let gso = Gso {
        kind: if is_udp { GsoKind::Udp } else { GsoKind::Tcp4 },
        size: 1000,
        ecn: false,
    };
    // The first piece, left open, is what the head of the whole looks like but for its length.
    let offload = Offload {
        checksum: Checksum::Complete,
        gso: Some(gso),
    };
    let whole = Offload {
        gso: Some(Gso {
            size: u16::MAX,
            ..gso
        }),
        ..offload
    };
    let mut pieces = Segments::new(&frame, &whole, Wanted::AsIs).unwrap();
    let piece = pieces.next().unwrap();
    let offload = Offload {
        checksum: piece.checksum,
        ..offload
    };
    (piece.to_vec(), offload)
}

/// What one device with offloads writes in one piece another reads so, and a plain one in segments
/// with their checksums right; and the kernel's segments are ours.
#[test]
fn super_frames_cross_a_bridge() {
    isolated("super", async |netlink: Netlink| {
        let mut left = tap("left", Choice::Offload);
        let mut right = tap("right", Choice::Offload);
        let mut plain = tap("plain", Choice::Plain);
        bridge(&netlink, &["left", "right", "plain"]).await;
        for is_udp in [false, true] {
            if is_udp && right.offloads() != Offloads::TcpAndUdp {
                eprintln!("skipped: the kernel has no segmentation of UDP for TAP devices");
                continue;
            }
            let (frame, offload) = super_frame(is_udp);
            let header_len = if is_udp { 14 + 40 + 8 } else { 14 + 20 + 20 };
            // In two parts, as joined frames are.
            let joined = Joined {
                offload,
                header_len,
                parts: &[0..1054, 1054..frame.len()],
            };
            left.write(&frame, &joined).unwrap();
            let got = next_frame(&mut *right, &frame);
            assert!(got == (frame.clone(), offload), "{:?}", got.1);
            let mut pieces = Segments::new(&frame, &offload, Wanted::Complete).unwrap();
            let mut count = 0;
            while let Some(piece) = pieces.next() {
                let got = next_frame(&mut *plain, &frame);
                assert!(got == (piece.to_vec(), Offload::NONE), "piece {count}");
                count += 1;
            }
            assert_eq!(count, 30);
        }
    });
}

/// Offloads belong to the device, which may outlive its user.
#[test]
fn plain_tap_takes_back_the_offloads_of_its_last_user() {
    isolated("reset", async |netlink: Netlink| {
        let made = std::process::Command::new("ip")
            .args(["tuntap", "add", "dev", "kept", "mode", "tap"])
            .status();
        assert!(made.unwrap().success());
        drop(OffloadTap::open("kept", 1).unwrap());
        let mut kept = PlainTap::open("kept").unwrap();
        let mut left = tap("left", Choice::Offload);
        bridge(&netlink, &["kept", "left"]).await;
        let (frame, offload) = super_frame(false);
        let whole = 0..frame.len();
        let joined = Joined {
            offload,
            header_len: 54,
            parts: std::slice::from_ref(&whole),
        };
        left.write(&frame, &joined).unwrap();
        let mut pieces = Segments::new(&frame, &offload, Wanted::Complete).unwrap();
        while let Some(piece) = pieces.next() {
            let (got, _) = next_frame(&mut kept, &frame);
            assert!(got == piece.to_vec());
        }
    });
}

#[test]
fn tap_that_cannot_be_had_is_explained() {
    isolated("badtap", async |netlink: Netlink| {
        let _held = PlainTap::open("held").unwrap();
        let busy = PlainTap::open("held").unwrap_err();
        assert!(
            matches!(&busy, TapError::Busy(name) if name == "held"),
            "{busy}"
        );
        netlink.add_veth("veth", "peer").await.unwrap();
        let other = PlainTap::open("veth").unwrap_err();
        assert!(matches!(&other, TapError::NotATap(_)), "{other}");
        for name in ["", "sixteen-letters-", "tap%d", "a b", "a/b"] {
            assert!(
                matches!(PlainTap::open(name), Err(TapError::BadName(_))),
                "{name:?}"
            );
        }
        // The same words whatever was asked for first.
        for (name, expected) in [("held", &busy), ("veth", &other)] {
            let error = tap::open(name, Choice::Auto, 1).err().unwrap();
            assert_eq!(error.to_string(), expected.to_string());
        }
    });
}

#[test]
fn deleted_or_downed_tap_is_noticed() {
    isolated("gone", async |netlink: Netlink| {
        let mut tap = PlainTap::open("tap").unwrap();
        let frame = [0xff; 60];
        let down = tap.write_frame(&frame).unwrap_err();
        assert_eq!(down.raw_os_error(), Some(libc::EIO), "{down}");
        netlink.set_up("tap").await.unwrap();
        tap.write_frame(&frame).unwrap();
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
            tap.write_frame(&frame).unwrap_err(),
        ];
        assert!(
            gone.iter()
                .all(|error| error.raw_os_error() == Some(libc::EBADFD)),
            "{gone:?}"
        );
    });
}

/// Bytes that TCP carries through the overlay and back.
const TRANSFER_LEN: usize = 8 << 20;

/// Two whole routers, hosts of their own, with an underlay between them that is narrower than the
/// bridges: TCP from bridge to bridge finds out how long its segments may be, and goes on.
#[test]
fn tcp_crosses_two_routers() {
    tcp_crosses(Choice::Offload, Choice::Offload);
    tcp_crosses(Choice::Offload, Choice::Plain);
    tcp_crosses(Choice::Plain, Choice::Offload);
    tcp_crosses(Choice::Plain, Choice::Plain);
}

fn tcp_crosses(left_kind: Choice, right_kind: Choice) {
    let (Some(left), Some(right)) = (namespace("left"), namespace("right")) else {
        return;
    };
    let underlay = async |netlink: Netlink| {
        netlink.add_veth("eth0", "far").await.unwrap();
        netlink
            .set_namespace("far", right.as_fd(), Some("eth0"))
            .await
            .unwrap();
    };
    inside(&left, underlay);
    let (left_ready, right_waits) = tokio::sync::oneshot::channel();
    let (right_ends, left_waits) = tokio::sync::oneshot::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            inside(&left, async |netlink: Netlink| {
                let router = host(&netlink, 1, left_kind).await;
                let listener = TcpListener::bind("10.9.0.1:1234").await.unwrap();
                left_ready.send(()).unwrap();
                let (mut stream, _) = patiently(listener.accept()).await.unwrap();
                let mut bytes = vec![0; TRANSFER_LEN];
                patiently(stream.read_exact(&mut bytes)).await.unwrap();
                patiently(stream.write_all(&bytes)).await.unwrap();
                let _ = left_waits.await;
                router.handle().shutdown().await;
                // The device goes with the router, the bridge stays.
                assert_eq!(netlink.link("tap").await.unwrap(), None);
                assert!(netlink.existing("weave").await.unwrap().up);
            });
        });
        inside(&right, async |netlink: Netlink| {
            let router = host(&netlink, 2, right_kind).await;
            patiently(right_waits).await.unwrap();
            let handle = router.handle();
            handle
                .connect(vec!["10.8.0.1".to_owned()], false)
                .await
                .unwrap();
            // Nobody is there until the routers have met.
            let mut stream = patiently(async {
                loop {
                    if let Ok(stream) = TcpStream::connect("10.9.0.1:1234").await {
                        return stream;
                    }
                }
            })
            .await;
            let sent: Vec<u8> = (0..=250).cycle().take(TRANSFER_LEN).collect();
            let mut echo = vec![0; TRANSFER_LEN];
            patiently(stream.write_all(&sent)).await.unwrap();
            patiently(stream.read_exact(&mut echo)).await.unwrap();
            assert!(echo == sent, "changed on the way");

            // Frames may cross by sleeve until shuttle is up.
            let status = patiently(async {
                loop {
                    let status = handle.status().await.unwrap();
                    if status
                        .data
                        .links
                        .iter()
                        .any(|link| link.overlay == "shuttle")
                    {
                        return status;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await;
            assert_eq!(status.data.links.len(), 1, "{status:#?}");
            let link = &status.data.links[0];
            // 1400 less the headers: IP, UDP, sealed packet, record, Ethernet.
            assert_eq!(
                (link.mtu, link.encrypted, link.overlay),
                (1400 - 78, true, "shuttle")
            );
            assert!(link.traffic.tx_bytes > TRANSFER_LEN as u64);
            handle.shutdown().await;
            drop(right_ends);
        });
    });
}

/// Fails the test when something takes too long.
async fn patiently<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), work).await.unwrap()
}

/// A host with an underlay address, a bridge with an address, and a router.
async fn host(netlink: &Netlink, number: u8, kind: Choice) -> Router {
    netlink.set_mtu("eth0", 1400).await.unwrap();
    netlink.ensure_bridge("weave", None, None).await.unwrap();
    let address = |text: String| text.parse().unwrap();
    netlink
        .add_address("eth0", address(format!("10.8.0.{number}/24")))
        .await
        .unwrap();
    netlink
        .add_address("weave", address(format!("10.9.0.{number}/24")))
        .await
        .unwrap();
    for device in ["lo", "eth0", "weave"] {
        netlink.set_up(device).await.unwrap();
    }
    let tap = tap("tap", kind);
    netlink.add_port("weave", "tap").await.unwrap();
    let config = RouterConfig {
        data: router::dataplane::DataOptions::default(),
        mesh: MeshConfig {
            name: PeerName::from_u64(number.into()).unwrap(),
            nickname: format!("host{number}"),
            password: Password::new(*b"secret"),
            versions: Versions::default(),
            overlays: SUPPORTED.iter().map(|name| (*name).to_owned()).collect(),
            port: PORT,
            discovery: true,
            conn_limit: CONN_LIMIT,
            trusted_subnets: Vec::new(),
        },
        bind: Ipv4Addr::UNSPECIFIED,
        queues: vec![tap],
        udp_offload: true,
        channels: Vec::new(),
        seed: [number; 32],
    };
    Router::start(config).unwrap()
}
