//! The path of a frame, without the kernel: sealing, switching, and two engines back to back.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up must stop"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bench::engines::{self, Net};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{AeadInPlace, KeyInit};
use proto::MacAddr;
use router::crypto::aead::{AeadKey, Suite};
use router::crypto::secretbox;
use router::crypto::session::{KeyPair, Password, SessionKey};
use router::offload::coalesce::Coalescer;
use router::offload::segment::{Segments, Wanted};
use router::offload::{Checksum, Delivery, Gso, GsoKind, Offload, checksum};
use router::switch::Switch;
use router::wire::ethernet::Frame;

/// Frames in one batch, as the IO side takes them.
const BATCH_LEN: usize = 64;

fn mac(host: u16) -> MacAddr {
    engines::mac(host)
}

fn frame(source: MacAddr, destination: MacAddr, len: usize) -> Vec<u8> {
    engines::frame(source, destination, len).unwrap()
}

/// A station of a big network.
fn station(host: u8, number: u16) -> MacAddr {
    let [a, b] = number.to_be_bytes();
    MacAddr([2, 1, 0, host, a, b])
}

fn key() -> SessionKey {
    let (ours, theirs) = (KeyPair::new([1; 32]), KeyPair::new([2; 32]));
    let password = Password::new(*b"secret").unwrap();
    ours.agree(theirs.public(), &password).unwrap()
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
        let mut switch = Switch::new(engines::name(0).unwrap());
        let local: Vec<_> = (0..count)
            .map(|number| {
                frame(
                    station(0, number),
                    station(1, number.wrapping_mul(7919) % count),
                    64,
                )
            })
            .collect();
        let remote: Vec<_> = (0..count)
            .map(|number| {
                frame(
                    station(1, number),
                    station(0, number.wrapping_mul(7919) % count),
                    64,
                )
            })
            .collect();
        let (mut here, mut there) = (local.iter().cycle(), remote.iter().cycle());
        for _ in 0..count {
            let (out, back) = (here.next().unwrap(), there.next().unwrap());
            switch.captured(&Frame::new_checked(out).unwrap(), now);
            switch.arrived(
                engines::name(1).unwrap(),
                &Frame::new_checked(back).unwrap(),
                now,
            );
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
                black_box(switch.arrived(engines::name(1).unwrap(), &frame, now))
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
    let mut frame = frame(mac(0), mac(1), 14);
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

fn chains(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame to frame");
    for (hops, count) in [("direct", 2), ("relayed", 3)] {
        for (overlay, key) in [
            ("sleeve", None),
            ("sleeve", Some(key())),
            ("shuttle", None),
            ("shuttle", Some(key())),
        ] {
            let mut chain = Net::chain(count, overlay, key.as_ref()).unwrap();
            let kind = if key.is_some() { "sealed" } else { "plain" };
            for len in [64, 1400] {
                for batch in [1, BATCH_LEN] {
                    let far = u16::try_from(count - 1).unwrap();
                    let frames = vec![frame(mac(0), mac(far), len); batch];
                    assert_eq!(chain.carry(0, &frames).unwrap(), batch);
                    group.throughput(Throughput::Elements(batch as u64));
                    let id = format!("{overlay}, {hops}, {kind}, {len} B, batch of {batch}");
                    group.bench_function(id, |bencher| {
                        bencher.iter(|| black_box(chain.carry(0, &frames).unwrap()));
                    });
                }
            }
        }
    }
    group.finish();
}

/// What a frame costs a host with many neighbours, to and from each in turn.
fn many_peers(criterion: &mut Criterion) {
    const LEN: usize = 1400;
    // The same number of frames whatever the number of neighbours, long enough for a clock.
    const FRAME_COUNT: usize = 1600;
    let mut group = criterion.benchmark_group("many peers");
    group.throughput(Throughput::Elements(FRAME_COUNT as u64));
    let key = key();
    for peers in [2, 20, 200] {
        let mut star = Net::star(peers, "shuttle", Some(&key)).unwrap();
        for burst in [1, 8] {
            let to = |number: usize| 1 + number / burst % peers;
            let senders: Vec<_> = (0..FRAME_COUNT).map(to).collect();
            let host = |index: &usize| mac(u16::try_from(*index).unwrap());
            let outward = |index| frame(mac(0), host(index), LEN);
            let frames: Vec<_> = senders.iter().map(outward).collect();
            let id = BenchmarkId::new(format!("send, bursts of {burst}"), peers);
            group.bench_function(id, |bencher| {
                bencher.iter(|| {
                    let batches = frames.chunks(burst);
                    let sent = batches.map(|batch| star.send_only(0, batch)).sum::<usize>();
                    assert_eq!(sent, FRAME_COUNT);
                });
            });
            let inward = |index| frame(host(index), mac(0), LEN);
            let frames: Vec<_> = senders.iter().map(inward).collect();
            let id = BenchmarkId::new(format!("receive, bursts of {burst}"), peers);
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut took = Duration::ZERO;
                    for _ in 0..rounds {
                        let mut arriving = star.prepare(&senders, &frames).unwrap();
                        let started = Instant::now();
                        let received = star.receive(0, &mut arriving).unwrap();
                        took += started.elapsed();
                        assert_eq!(received, FRAME_COUNT);
                    }
                    took
                });
            });
        }
    }
    group.finish();
    memory_of_links(&key);
}

/// Says what memory a link takes: what is free once an engine is gone, with many and with few.
#[expect(clippy::print_stdout, reason = "a result of the bench")]
fn memory_of_links(key: &SessionKey) {
    // Of each neighbour, there and back: more than the replay window has in one piece.
    const FRAMES: usize = 2000;
    const ROUNDS: usize = 20;
    for busy in [false, true] {
        let of = |peers: usize| {
            let mut star = Net::star(peers, "shuttle", Some(key)).unwrap();
            if busy {
                let senders: Vec<_> = (0..peers * FRAMES).map(|n| 1 + n % peers).collect();
                let host = |index: &usize| mac(u16::try_from(*index).unwrap());
                let inward = senders.iter().map(|index| frame(host(index), mac(0), 64));
                let inward: Vec<_> = inward.collect();
                for _ in 0..ROUNDS {
                    let mut arriving = star.prepare(&senders, &inward).unwrap();
                    star.receive(0, &mut arriving).unwrap();
                    for index in &senders {
                        star.send_only(0, &[frame(mac(0), host(index), 64)]);
                    }
                }
            }
            let before = heap::in_use();
            let first = star.remove_first();
            drop(first);
            f64::from(u32::try_from(before - heap::in_use()).unwrap()) / 1e3
        };
        let (few, many) = (of(2), of(200));
        let each = (many - few) / 198.0;
        let kind = if busy { "after traffic" } else { "idle" };
        println!(
            "memory of an engine, {kind}: with 2 links {few:.0} KB, with 200 links {many:.0} KB, \
             {each:.1} KB for each further one"
        );
    }
}

/// An allocator that counts.
#[expect(unsafe_code, reason = "an allocator is unsafe to implement")]
mod heap {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Counting(AtomicUsize);

    #[global_allocator]
    static COUNTING: Counting = Counting(AtomicUsize::new(0));

    /// Bytes that are allocated and not freed.
    pub(super) fn in_use() -> usize {
        COUNTING.0.load(Ordering::Relaxed)
    }

    // SAFETY: all is left to the system's allocator, as it was asked for.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            self.0.fetch_add(layout.size(), Ordering::Relaxed);
            // SAFETY: the caller's promises are those that the system's allocator asks for.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
            self.0.fetch_sub(layout.size(), Ordering::Relaxed);
            // SAFETY: `place` comes from `alloc` above, with this layout.
            unsafe { System.dealloc(place, layout) }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = seal_and_open, aead_seal_and_open, switching, offloads, chains, many_peers
}
criterion_main!(benches);
