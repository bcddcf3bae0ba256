//! The path of a frame, without the kernel: sealing, switching, and two engines back to back.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up must stop"
)]

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{AeadInPlace, KeyInit};
use proto::{ConnectionUid, MacAddr, PeerName, PeerUid, ShortId};
use rand::SeedableRng;
use rand::rngs::StdRng;
use router::LinkId;
use router::crypto::aead::{AeadKey, Suite};
use router::crypto::secretbox;
use router::crypto::session::{KeyPair, Password, SessionKey};
use router::dataplane::{Command, DataOptions, DataPlane, Event, LinkConfig};
use router::offload::coalesce::Coalescer;
use router::offload::segment::{Segments, Wanted};
use router::offload::{Checksum, Delivery, Gso, GsoKind, Offload, checksum};
use router::switch::Switch;
use router::topology::{Peers, Routes};
use router::wire::ethernet::Frame;

/// Frames in one batch, as the IO side takes them.
const BATCH_LEN: usize = 64;
const PATH_MTU: u16 = 1500;

fn name(index: usize) -> PeerName {
    PeerName::from_u64(index as u64 + 1).unwrap()
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 6783 + u16::try_from(index).unwrap()))
}

fn mac(host: u8, number: u16) -> MacAddr {
    let [a, b] = number.to_be_bytes();
    MacAddr([2, 0, 0, host, a, b])
}

fn key() -> SessionKey {
    let (ours, theirs) = (KeyPair::new([1; 32]), KeyPair::new([2; 32]));
    let password = Password::new(*b"secret").unwrap();
    ours.agree(theirs.public(), &password).unwrap()
}

/// An IPv4 frame with DF set.
fn frame(source: MacAddr, destination: MacAddr, len: usize) -> Vec<u8> {
    let mut frame = [&destination.0[..], &source.0, &[8, 0, 0x45, 0]].concat();
    frame.extend(u16::try_from(len - 14).unwrap().to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 2, 0, 1, 10, 2, 0, 2]);
    frame.resize(len, 0x55);
    frame
}

/// Routes of each peer in a chain of `count`.
fn routes(count: usize) -> Vec<Arc<Routes>> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut all: Vec<Peers> = Vec::new();
    for index in 0..count {
        let id = ShortId(u16::try_from(index).unwrap());
        let mut peers = Peers::new(name(index), "", PeerUid(index as u64 + 1), id);
        for other in [index.wrapping_sub(1), index + 1] {
            if other < count {
                let uid = PeerUid(other as u64 + 1);
                peers
                    .introduce(name(other), uid, "", None, true, &mut rng)
                    .unwrap();
                peers.add_connection(name(other), "10.0.0.1:6783", index < other);
                peers.establish_connection(name(other));
            }
        }
        all.push(peers);
    }
    let payloads: Vec<_> = all
        .iter()
        .map(|peers| peers.encode([peers.ours().name]))
        .collect();
    for peers in &mut all {
        for payload in &payloads {
            peers.apply(payload, &mut rng).unwrap();
        }
    }
    let routes = all.iter().map(|peers| Arc::new(Routes::calculate(peers)));
    routes.collect()
}

fn new_engine(name: PeerName, now: Instant) -> DataPlane {
    let entropy = Box::new(StdRng::seed_from_u64(name.as_u64()));
    DataPlane::new(name, DataOptions::default(), entropy, now)
}

/// A chain of engines with their links up.
struct Chain {
    engines: Vec<DataPlane>,
    now: Instant,
    /// Datagrams on their way: sender, address and bytes. The buffers are kept.
    wire: Vec<(usize, SocketAddr, Vec<u8>)>,
    used: usize,
}

impl Chain {
    fn new(count: usize, overlay: &str, key: Option<&SessionKey>) -> Self {
        let now = Instant::now();
        let mut chain = Self {
            engines: (0..count)
                .map(|index| new_engine(name(index), now))
                .collect(),
            now,
            wire: Vec::new(),
            used: 0,
        };
        for (engine, routes) in chain.engines.iter_mut().zip(routes(count)) {
            engine.handle_command(Command::Routes(routes), now);
        }
        for dialler in 0..count - 1 {
            for (index, other) in [(dialler, dialler + 1), (dialler + 1, dialler)] {
                let outbound = index == dialler;
                let config = LinkConfig {
                    link: LinkId(dialler as u64),
                    peer: name(other),
                    uid: ConnectionUid(7),
                    outbound,
                    local: address(index),
                    remote: outbound.then(|| address(other)),
                    key: key.cloned(),
                    overlays: vec![overlay.to_owned()],
                };
                let engine = &mut chain.engines[index];
                engine.handle_command(Command::AddLink(Box::new(config)), now);
            }
            for index in [dialler + 1, dialler] {
                let confirm = Command::Confirm(LinkId(dialler as u64));
                chain.engines[index].handle_command(confirm, now);
            }
        }
        while chain.step() > 0 {}
        let start = frame(mac(0, 1), MacAddr::BROADCAST, 64);
        let last = count - 1;
        let back = frame(mac(u8::try_from(last).unwrap(), 1), MacAddr::BROADCAST, 64);
        for (index, frame) in [(0, start), (last, back)] {
            chain.engines[index].handle_frame(&frame, &Offload::NONE, now);
            chain.engines[index].flush();
            while chain.step() > 0 {}
        }
        for engine in &chain.engines {
            let status = engine.status(now);
            assert!(
                status
                    .links
                    .iter()
                    .all(|link| link.mtu < PATH_MTU && link.established && link.overlay == overlay)
            );
            assert_eq!(status.macs.len(), 2);
        }
        chain
    }

    /// Takes a batch of frames at the first engine, and counts those that come out.
    fn carry(&mut self, frames: &[Vec<u8>]) -> usize {
        for frame in frames {
            self.engines[0].handle_frame(frame, &Offload::NONE, self.now);
        }
        self.engines[0].flush();
        let mut delivered = 0;
        loop {
            let (sent, got) = self.exchange();
            delivered += got;
            if sent == 0 {
                return delivered;
            }
        }
    }

    fn step(&mut self) -> usize {
        self.exchange().0
    }

    /// Hands over all datagrams and control messages once.
    fn exchange(&mut self) -> (usize, usize) {
        let mut sent = 0;
        for index in 0..self.engines.len() {
            let mut too_long = Vec::new();
            while let Some(transmit) = self.engines[index].poll_transmit() {
                for datagram in transmit.datagrams() {
                    if transmit.df && datagram.len() + 28 > usize::from(PATH_MTU) {
                        too_long.push(transmit.link);
                        continue;
                    }
                    if self.used == self.wire.len() {
                        self.wire.push((0, transmit.to, Vec::new()));
                    }
                    let place = &mut self.wire[self.used];
                    self.used += 1;
                    (place.0, place.1) = (index, transmit.to);
                    place.2.clear();
                    place.2.extend_from_slice(datagram);
                }
            }
            for link in too_long {
                self.engines[index].handle_too_long(link, PATH_MTU, self.now);
                sent += 1;
            }
            while let Some(event) = self.engines[index].poll_event() {
                if let Event::Control(link, control) = event {
                    let dialler = usize::try_from(link.0).unwrap();
                    let other = if index == dialler {
                        dialler + 1
                    } else {
                        dialler
                    };
                    self.engines[other].handle_command(Command::Control(link, control), self.now);
                    sent += 1;
                }
            }
        }
        let mut delivered = 0;
        for (from, to, bytes) in &mut self.wire[..self.used] {
            let index = usize::from(to.port() - 6783);
            let engine = &mut self.engines[index];
            for delivery in engine.handle_datagram(address(*from), bytes, self.now) {
                black_box(&bytes[delivery.range.clone()]);
                delivered += 1;
            }
            sent += 1;
        }
        self.used = 0;
        for engine in &mut self.engines {
            engine.flush();
        }
        (sent, delivered)
    }
}

fn seal_and_open(criterion: &mut Criterion) {
    let key = key();
    let nonce = [3; secretbox::NONCE_LEN];
    let mut group = criterion.benchmark_group("secretbox");
    for len in [64, 1400, 16_384] {
        group.throughput(Throughput::Bytes(len as u64));
        let mut message = vec![0x55; len];
        group.bench_function(BenchmarkId::new("seal", len), |bencher| {
            bencher.iter(|| black_box(secretbox::seal_in_place(&key, &nonce, &mut message)));
        });
        let tag = secretbox::seal_in_place(&key, &nonce, &mut message);
        let sealed = message.clone();
        group.bench_function(BenchmarkId::new("open", len), |bencher| {
            bencher.iter(|| {
                message.copy_from_slice(&sealed);
                secretbox::open_in_place(&key, &nonce, &mut message, &tag).unwrap();
                black_box(&message);
            });
        });
        // What the cipher costs elsewhere: the reason for the one that we use.
        let other = XSalsa20Poly1305::new(&[4; 32].into());
        group.bench_function(
            BenchmarkId::new("seal with crypto_secretbox", len),
            |bencher| {
                bencher.iter(|| {
                    let sealed = other.encrypt_in_place_detached(&nonce.into(), b"", &mut message);
                    black_box(sealed.unwrap());
                });
            },
        );
        let tag = other
            .encrypt_in_place_detached(&nonce.into(), b"", &mut message)
            .unwrap();
        let sealed = message.clone();
        group.bench_function(
            BenchmarkId::new("open with crypto_secretbox", len),
            |bencher| {
                bencher.iter(|| {
                    message.copy_from_slice(&sealed);
                    other
                        .decrypt_in_place_detached(&nonce.into(), b"", &mut message, &tag)
                        .unwrap();
                    black_box(&message);
                });
            },
        );
    }
    group.finish();
}

/// The seal of shuttle.
fn aead_seal_and_open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("aead");
    let header = [0x53; 16];
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        let key = AeadKey::new(suite, &[7; 32]);
        for len in [64, 1400, 16_384] {
            group.throughput(Throughput::Bytes(len as u64));
            let mut message = vec![0x55; len];
            let mut counter = 0;
            group.bench_function(
                BenchmarkId::new(format!("{} seal", suite.name()), len),
                |bencher| {
                    bencher.iter(|| {
                        counter += 1;
                        black_box(key.seal_in_place(counter, &header, &mut message))
                    });
                },
            );
            let tag = key.seal_in_place(7, &header, &mut message);
            let sealed = message.clone();
            group.bench_function(
                BenchmarkId::new(format!("{} open", suite.name()), len),
                |bencher| {
                    bencher.iter(|| {
                        message.copy_from_slice(&sealed);
                        black_box(key.open_in_place(7, &header, &mut message, &tag))
                    });
                },
            );
        }
    }
    group.finish();
}

fn switching(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("switch");
    group.throughput(Throughput::Elements(1));
    for count in [10, 10_000] {
        let now = Instant::now();
        let mut switch = Switch::new(name(0));
        let local: Vec<_> = (0..count)
            .map(|number| frame(mac(0, number), mac(1, (number * 7919) % count), 64))
            .collect();
        let remote: Vec<_> = (0..count)
            .map(|number| frame(mac(1, number), mac(0, (number * 7919) % count), 64))
            .collect();
        let (mut here, mut there) = (local.iter().cycle(), remote.iter().cycle());
        for _ in 0..count {
            let (out, back) = (here.next().unwrap(), there.next().unwrap());
            switch.captured(&Frame::new_checked(out).unwrap(), now);
            switch.arrived(name(1), &Frame::new_checked(back).unwrap(), now);
        }
        group.bench_function(BenchmarkId::new("captured", count), |bencher| {
            bencher.iter(|| {
                let frame = Frame::new_checked(here.next().unwrap()).unwrap();
                black_box(switch.captured(&frame, now))
            });
        });
        group.bench_function(BenchmarkId::new("arrived", count), |bencher| {
            bencher.iter(|| {
                let frame = Frame::new_checked(there.next().unwrap()).unwrap();
                black_box(switch.arrived(name(1), &frame, now))
            });
        });
    }
    group.finish();
}

/// Payload of a segment, and segments of a super-frame.
const SEGMENT_LEN: usize = 1358;
const SEGMENT_COUNT: usize = 46;

/// TCP over IPv4, as long as a packet can be, its checksum still open.
fn super_frame() -> (Vec<u8>, Offload) {
    let mut frame = frame(mac(0, 1), mac(1, 1), 14);
    let len = 40 + SEGMENT_LEN * SEGMENT_COUNT;
    frame[12..14].copy_from_slice(&[8, 0]);
    frame.extend([0x45, 0]);
    frame.extend(u16::try_from(len).unwrap().to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 2, 0, 1, 10, 2, 0, 2]);
    let header = Checksum::Partial {
        start: 0,
        offset: 10,
    };
    assert!(checksum::complete(&mut frame[14..], header));
    frame.extend([
        0, 80, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 1, 0, 0, 0, 0,
    ]);
    frame.resize(14 + len, 0x5a);
    let offload = Offload {
        checksum: Checksum::Complete,
        gso: Some(Gso {
            kind: GsoKind::Tcp4,
            size: u16::try_from(SEGMENT_LEN).unwrap(),
            ecn: false,
        }),
    };
    (frame, offload)
}

fn offloads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("offload");
    let (frame, offload) = super_frame();
    group.throughput(Throughput::Bytes(frame.len() as u64));
    let mut buffer = frame.clone();
    let open = Checksum::Partial {
        start: 34,
        offset: 16,
    };
    group.bench_function("checksum of 62 KB", |bencher| {
        bencher.iter(|| black_box(checksum::complete(&mut buffer, open)));
    });
    for (name, wanted) in [
        ("segment, checksums open", Wanted::AsIs),
        ("segment, checksums complete", Wanted::Complete),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut pieces = Segments::new(&frame, &offload, wanted).unwrap();
                while let Some(piece) = pieces.next() {
                    black_box(piece);
                }
            });
        });
    }
    // As they stand in datagrams: apart from each other.
    for (name, wanted) in [
        ("coalesce, checksums open", Wanted::AsIs),
        ("coalesce, checksums complete", Wanted::Complete),
    ] {
        let mut pieces = Segments::new(&frame, &offload, wanted).unwrap();
        let (mut buffer, mut deliveries) = (Vec::new(), Vec::new());
        while let Some(piece) = pieces.next() {
            buffer.extend([0; 44]);
            let start = buffer.len();
            buffer.extend(piece.to_vec());
            deliveries.push(Delivery {
                range: start..buffer.len(),
                checksum: piece.checksum,
            });
        }
        let first = buffer[deliveries[0].range.start..][..54].to_vec();
        let mut coalescer = Coalescer::new(true);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                // The first frame's headers are those of the whole afterwards.
                buffer[deliveries[0].range.start..][..54].copy_from_slice(&first);
                let mut count = 0;
                coalescer.join(&mut buffer, &deliveries, |_, joined| {
                    black_box(joined);
                    count += 1;
                });
                assert_eq!(count, 1);
            });
        });
    }
    group.finish();
}

fn engines(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame to frame");
    for (hops, count) in [("direct", 2), ("relayed", 3)] {
        for (overlay, key) in [
            ("sleeve", None),
            ("sleeve", Some(key())),
            ("shuttle", None),
            ("shuttle", Some(key())),
        ] {
            let mut chain = Chain::new(count, overlay, key.as_ref());
            let kind = if key.is_some() { "sealed" } else { "plain" };
            for len in [64, 1400] {
                for batch in [1, BATCH_LEN] {
                    let far = u8::try_from(count - 1).unwrap();
                    let frames = vec![frame(mac(0, 1), mac(far, 1), len); batch];
                    assert_eq!(chain.carry(&frames), batch);
                    group.throughput(Throughput::Elements(batch as u64));
                    let id = format!("{overlay}, {hops}, {kind}, {len} B, batch of {batch}");
                    group.bench_function(id, |bencher| {
                        bencher.iter(|| black_box(chain.carry(&frames)));
                    });
                }
            }
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = seal_and_open, aead_seal_and_open, switching, offloads, engines
}
criterion_main!(benches);
