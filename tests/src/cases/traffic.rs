//! Traffic of all kinds, byte for byte, whatever the devices at either end take over.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use host::ethtool::{feature, set_features};
use host::netns::Netns;
use host::stage::INTERFACE;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use crate::lab::{ContainerId, Lab, address};
use crate::node::{Kind, Options, at};
use crate::wait;

/// What a container's interface leaves to others.
const OFFLOADS: [&str; 5] = [
    "tx-checksum-ip-generic",
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-udp-segmentation",
];
/// Lengths of datagrams around everything that might matter.
const LENGTHS: [usize; 22] = [
    0, 1, 2, 17, 18, 19, 100, 511, 512, 1357, 1358, 1386, 1387, 1400, 1472, 1473, 2800, 9000,
    20_001, 40_000, 65_000, 65_507,
];
/// Bytes of a transfer over TCP.
const TRANSFER: usize = 4 << 20;
/// Datagrams that are sent in one go; they fit into the receiver's buffer.
const BURST: u32 = 40;
/// How long a datagram may take before it is sent again.
const ARRIVAL: Duration = Duration::from_millis(300);

/// Two hosts with these options, and containers with or without offloads.
pub fn all_kinds(extra: [&[&str]; 2], offloads: bool, password: Option<&str>, seed: u64) {
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut lab = two_hosts(extra, password);
    let containers = [lab.attach(1, "10.40.0.1/16"), lab.attach(2, "10.40.0.2/16")];
    for id in containers {
        furnish(&lab, id, offloads);
    }
    lab.ping_all(&containers, 56);
    let ends = containers.map(|id| lab.container_netns(id));
    let addresses: [[IpAddr; 2]; 2] = [
        [[10, 40, 0, 1].into(), [10, 40, 0, 2].into()],
        ["fd00:40::1".parse().unwrap(), "fd00:40::2".parse().unwrap()],
    ];
    for pair in addresses {
        for (from, to) in [(0, 1), (1, 0)] {
            let (sender, receiver, to) = (ends[from], ends[to], pair[to]);
            transfer(sender, receiver, to, &mut rng);
            datagrams(sender, receiver, to, &mut rng);
        }
    }
    // Longer than the path takes in one piece.
    for id in containers {
        let (port, number) = (lab.port(id).to_owned(), number(id, &containers));
        lab.with_net(number, async |net| net.set_mtu(&port, 9000).await.unwrap());
        run(
            lab.container_netns(id),
            &["link", "set", INTERFACE, "mtu", "9000"],
        );
    }
    for pair in addresses {
        transfer(ends[0], ends[1], pair[1], &mut rng);
        datagrams(ends[1], ends[0], pair[0], &mut rng);
    }
}

/// Two hosts with these options.
pub(super) fn two_hosts(extra: [&[&str]; 2], password: Option<&str>) -> Lab {
    let mut lab = Lab::new(2, 1500);
    for (number, extra, peers) in [(1, extra[0], &[][..]), (2, extra[1], &[address(1)])] {
        let mut options = Options::new(password, peers);
        options.extra = extra.iter().map(ToString::to_string).collect();
        lab.start(number, Kind::Meshctl, &options);
        let report = lab.report(number);
        let interface = report["Router"]["Interface"].as_str().unwrap();
        let is_plain = interface.contains("plain frames");
        assert_eq!(is_plain, extra.contains(&"plain"), "{interface}");
    }
    lab.await_full_mesh(&[1, 2]);
    lab
}

/// A neighbour that may know nothing of offloads: containers of ours have them all the same.
pub fn beside(kinds: [Kind; 2], password: Option<&str>, seed: u64) {
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut lab = Lab::new(2, 1500);
    lab.start(1, kinds[0], &Options::new(password, &[]));
    lab.start(2, kinds[1], &Options::new(password, &[address(1)]));
    lab.await_full_mesh(&[1, 2]);
    let containers = [lab.attach(1, "10.40.0.1/16"), lab.attach(2, "10.40.0.2/16")];
    for (id, kind) in containers.into_iter().zip(kinds) {
        // The original cannot send what a container with offloads leaves to it.
        furnish(&lab, id, kind == Kind::Meshctl);
    }
    lab.ping_all(&containers, 56);
    let ends = containers.map(|id| lab.container_netns(id));
    for (from, to) in [(0, 1), (1, 0)] {
        let address = IpAddr::V4(lab.container_address(containers[to]));
        transfer(ends[from], ends[to], address, &mut rng);
        datagrams(ends[from], ends[to], address, &mut rng);
    }
}

/// Containers without offloads send every segment by itself; their ports join them before they reach
/// the TAP device, unless told not to.
pub fn joined_by_ports(joined: bool) {
    let mut lab = Lab::new(2, 1500);
    for (number, peers) in [(1, &[][..]), (2, &[address(1)])] {
        let mut options = Options::new(None, peers);
        options.extra = vec![format!("--port-gro={joined}")];
        lab.start(number, Kind::Meshctl, &options);
    }
    lab.await_full_mesh(&[1, 2]);
    let containers = [lab.attach(1, "10.40.0.1/16"), lab.attach(2, "10.40.0.2/16")];
    for id in containers {
        furnish(&lab, id, false);
    }
    lab.ping_all(&containers, 56);
    let taken = || {
        let report = lab.report(1);
        let count = |name| at(&report, name).as_u64().unwrap();
        [
            count("/Meshctl/Local/RxFrames"),
            count("/Meshctl/Local/RxBytes"),
        ]
    };
    let average = || {
        let before = taken();
        lab.transfer(containers[0], containers[1], 4 << 20);
        let after = taken();
        (after[1] - before[1]) / (after[0] - before[0])
    };
    let port = lab.port(containers[0]).to_owned();
    let is_on = |lab: &Lab| {
        lab.netns(1)
            .run(|| feature(&port, "rx-gro").unwrap())
            .unwrap()
    };
    if joined {
        // A port is switched soon after it has come.
        wait::until("segments to be joined", || {
            let average = average();
            wait::check(average > 4000, || format!("{average} bytes in a frame"))
        });
        assert!(is_on(&lab));
        // Whoever captures frames after us must not get joined ones.
        lab.stop(1);
        assert!(!is_on(&lab));
    } else {
        assert!(average() < 1500 && !is_on(&lab));
    }
}

fn number(id: ContainerId, containers: &[ContainerId]) -> usize {
    1 + containers.iter().position(|other| *other == id).unwrap()
}

/// An address of IPv6, and offloads or none.
fn furnish(lab: &Lab, id: ContainerId, offloads: bool) {
    let netns = lab.container_netns(id);
    let [.., last] = lab.container_address(id).octets();
    let ipv6 = format!("fd00:40::{last}/64");
    // No waiting for somebody else who might have the address.
    run(netns, &["address", "add", &ipv6, "dev", INTERFACE, "nodad"]);
    run(netns, &["link", "set", INTERFACE, "mtu", "1410"]);
    let features = OFFLOADS.map(|name| (name, offloads));
    let done = netns.run(|| set_features(INTERFACE, &features));
    done.unwrap().unwrap();
}

#[track_caller]
fn run(netns: &Netns, args: &[&str]) {
    let mut command = Command::new("ip");
    command.args(args);
    let status = netns.run(|| command.status()).unwrap().unwrap();
    assert!(status.success(), "ip {args:?}");
}

fn bytes(len: usize, rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Bytes over TCP, there and back.
#[track_caller]
fn transfer(sender: &Netns, receiver: &Netns, to: IpAddr, rng: &mut StdRng) {
    let listener = receiver
        .run(|| TcpListener::bind((to, 0)))
        .unwrap()
        .unwrap();
    let to = listener.local_addr().unwrap();
    let sent = bytes(TRANSFER, rng);
    let mut back = vec![0; TRANSFER];
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
            let mut got = vec![0; TRANSFER];
            stream.read_exact(&mut got).unwrap();
            stream.write_all(&got).unwrap();
        });
        let connect = || TcpStream::connect_timeout(&to, wait::PATIENCE);
        let mut stream = sender.run(connect).unwrap().unwrap();
        stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        stream.write_all(&sent).unwrap();
        stream.read_exact(&mut back).unwrap();
    });
    assert!(back == sent, "TCP to {to} was changed on the way");
}

/// Datagrams of all lengths one by one, and in bursts that may be joined on the way.
#[track_caller]
fn datagrams(sender: &Netns, receiver: &Netns, to: IpAddr, rng: &mut StdRng) {
    let any: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let target = receiver.run(|| UdpSocket::bind((to, 0))).unwrap().unwrap();
    let source = sender.run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
    let to: SocketAddr = target.local_addr().unwrap();
    target.set_read_timeout(Some(ARRIVAL)).unwrap();
    source.connect(to).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let random = (0..10)
        .map(|_| rng.random_range(0..3000))
        .collect::<Vec<_>>();
    for len in LENGTHS.into_iter().chain(random) {
        let sent = bytes(len, rng);
        wait::until(&format!("{len} bytes to {to}"), || {
            source.send(&sent)?;
            let got = target.recv(&mut buffer)?;
            assert!(buffer[..got] == sent, "{got} of {len} bytes, or changed");
            Ok::<_, std::io::Error>(())
        });
        // One that came late and was sent again.
        target.set_nonblocking(true).unwrap();
        while target.recv(&mut buffer).is_ok() {}
        target.set_nonblocking(false).unwrap();
    }
    for len in [4, 60, 700, 1300] {
        let payload = bytes(len, rng);
        wait::until(&format!("a burst of {len} bytes to {to}"), || {
            for number in 0..BURST {
                let mut sent = payload.clone();
                sent[..4].copy_from_slice(&number.to_be_bytes());
                // The last is shorter, as the last of a run may be.
                if number == BURST - 1 {
                    sent.truncate(4);
                }
                source.send(&sent)?;
            }
            let mut next = 0;
            while next < BURST {
                let got = target.recv(&mut buffer)?;
                // Of one flow, so none overtakes another; what is left of a burst that got lost
                // in part is passed over.
                if buffer[..4] != u32::to_be_bytes(next) {
                    assert_eq!(next, 0, "{:?} before {next}", &buffer[..4]);
                    continue;
                }
                let is_last = next == BURST - 1;
                assert_eq!(got, if is_last { 4 } else { len });
                assert!(buffer[4..got] == payload[4..got]);
                next += 1;
            }
            Ok::<_, std::io::Error>(())
        });
    }
}
