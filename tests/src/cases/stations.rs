//! Frames of all kinds between two stations, captured and compared: what a host joins and cuts on
//! the way must not show at the other end.
//!
//! A station is a TAP device of plain frames on the bridge, whose other end the test holds.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use router::io::tap::{MAX_FRAME_LEN, PlainTap, TapDevice as _};
use router::offload::checksum::Sum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::traffic::two_hosts;
use crate::lab::Lab;
use crate::wait;

/// Frames that are sent, in bursts of up to so many.
const FRAMES: usize = 6000;
const BURST: usize = 40;
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0xa1], [2, 0, 0, 0, 0, 0xa2]];
/// An EtherType for experiments.
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// Between hosts with these options.
pub fn capture(extra: [&[&str]; 2], password: Option<&str>, seed: u64) {
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let lab = two_hosts(extra, password);
    let mut stations = [1, 2].map(|number| station(&lab, number));
    let [one, two] = &mut stations;
    introduce(one, two, MACS[0]);
    introduce(two, one, MACS[1]);
    let mut flows = Flows::new(&mut rng);
    let mut count = 0;
    while count < FRAMES {
        let burst: Vec<_> = (0..rng.random_range(1..=BURST))
            .map(|_| flows.next_frame(&mut rng))
            .collect();
        count += burst.len();
        for frame in &burst {
            one.write_frame(frame).unwrap();
        }
        let got = receive(two, MACS[0], burst.len());
        compare(&burst, &got);
    }
}

/// A station on the bridge of a host.
fn station(lab: &Lab, number: usize) -> PlainTap {
    let tap = lab.netns(number).run(|| PlainTap::open("station"));
    let tap = tap.unwrap().unwrap();
    lab.with_net(number, async |net| {
        net.add_port("weave", "station").await.unwrap();
    });
    tap
}

/// Lets both hosts know where a station is.
fn introduce(from: &mut PlainTap, to: &mut PlainTap, mac: [u8; 6]) {
    let mut frame = [&[0xff; 6], &mac[..], &EXPERIMENT].concat();
    frame.resize(60, 0);
    wait::until("the stations to hear each other", || {
        from.write_frame(&frame)
            .map_err(|error| error.to_string())?;
        let mut buffer = vec![0; MAX_FRAME_LEN];
        next(to, mac, &mut buffer).ok_or("nothing heard".to_owned())
    });
    // What was sent meanwhile.
    while next(to, mac, &mut vec![0; MAX_FRAME_LEN]).is_some() {}
}

/// The next frame of a source, if one comes soon.
fn next(tap: &mut PlainTap, source: [u8; 6], buffer: &mut [u8]) -> Option<usize> {
    loop {
        match tap.read(buffer) {
            Ok((len, _)) if buffer[6..12] == source => return Some(len),
            // The host's own, such as neighbour discovery.
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                let fd = tap.fd();
                let soon = Timespec {
                    tv_sec: 0,
                    tv_nsec: 20_000_000,
                };
                if poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&soon)).unwrap() == 0 {
                    return None;
                }
            }
        }
    }
}

fn receive(tap: &mut PlainTap, source: [u8; 6], count: usize) -> Vec<Vec<u8>> {
    let mut buffer = vec![0; MAX_FRAME_LEN];
    let mut got = Vec::new();
    let end = Instant::now() + wait::PATIENCE;
    while got.len() < count {
        if let Some(len) = next(tap, source, &mut buffer) {
            got.push(buffer[..len].to_vec());
        }
        assert!(Instant::now() < end, "{} of {count} frames came", got.len());
    }
    got
}

/// The same frames, in the same order within their flow.
fn compare(sent: &[Vec<u8>], got: &[Vec<u8>]) {
    let sort = |frames: &[Vec<u8>]| {
        let mut flows: BTreeMap<(u8, bool), Vec<Vec<u8>>> = BTreeMap::new();
        for frame in frames {
            let frame = normal(frame.clone());
            flows.entry(flow_of(&frame)).or_default().push(frame);
        }
        flows
    };
    let (sent, got) = (sort(sent), sort(got));
    for (flow, frames) in &sent {
        let others = got.get(flow).map_or(&[][..], Vec::as_slice);
        assert_eq!(frames.len(), others.len(), "of flow {flow:?}");
        for (index, (frame, other)) in frames.iter().zip(others).enumerate() {
            assert!(
                frame == other,
                "frame {index} of flow {flow:?}:\n{frame:02x?}\n{other:02x?}"
            );
        }
    }
    assert_eq!(sent.len(), got.len());
}

/// Without what means nothing: the identification of a packet that must not be fragmented, and
/// padding behind a packet, which a bridge with netfilter cuts off.
fn normal(mut frame: Vec<u8>) -> Vec<u8> {
    let len_at = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let end = match frame[12..14] {
        [8, 0] => 14 + len_at(16),
        [0x86, 0xdd] => 54 + len_at(18),
        _ => frame.len(),
    };
    frame.truncate(end);
    if frame.len() >= 34 && frame[12..14] == [8, 0] && frame[20] & 0x40 != 0 {
        frame[18..20].fill(0);
        // Right or wrong as it was.
        let right = Sum::ZERO.with(&frame[14..34]).finish();
        frame[24..26].copy_from_slice(&right);
    }
    frame
}

/// Every flow has its own destination address, in the last byte of its MAC address. What may be
/// fragmented has a way of its own and may be overtaken.
fn flow_of(frame: &[u8]) -> (u8, bool) {
    (frame[5], frame[12..14] == [8, 0] && frame[20] & 0x40 != 0)
}

/// Senders that mostly go on as segmentation would.
struct Flows {
    sequences: [u32; 8],
    ids: [u16; 8],
}

impl Flows {
    fn new(rng: &mut StdRng) -> Self {
        Self {
            sequences: std::array::from_fn(|_| rng.random()),
            ids: std::array::from_fn(|_| rng.random()),
        }
    }

    fn next_frame(&mut self, rng: &mut StdRng) -> Vec<u8> {
        let flow: u8 = rng.random_range(0..8);
        let at = usize::from(flow);
        let is_odd = rng.random_bool(0.1);
        let len = match rng.random_range(0..10) {
            0 => rng.random_range(1..1300),
            1 => 0,
            _ => 700,
        };
        let mut payload = vec![0; len];
        rng.fill_bytes(&mut payload);
        let (is_udp, is_ipv6, is_tagged) = (flow & 1 != 0, flow & 2 != 0, flow & 4 != 0);
        let mut transport = [[0x10, flow], [0x20, 1]].concat();
        if is_udp {
            let udp_len = u16::try_from(8 + len).unwrap();
            transport.extend(udp_len.to_be_bytes());
            transport.extend([0; 2]);
        } else {
            transport.extend(self.sequences[at].to_be_bytes());
            self.sequences[at] = self.sequences[at].wrapping_add(u32::try_from(len).unwrap());
            // Flags: mostly ACK, and sometimes any.
            let flags = match rng.random_range(0..20) {
                0 => rng.random(),
                1 => 0x18,
                _ => 0x10,
            };
            transport.extend([0, 0, 0, 7, 0x80, flags, 1, u8::from(is_odd), 0, 0, 0, 0]);
            let stamp = u8::from(rng.random_bool(0.05));
            transport.extend([1, 1, 8, 10, 0, 0, 0, stamp, 0, 0, 0, 0]);
        }
        transport.extend(payload);
        let number = if is_udp { 17 } else { 6 };
        let transport_len = u16::try_from(transport.len()).unwrap();
        let addresses: Vec<u8> = if is_ipv6 {
            [[0xfd; 16], [0xfc; 16]].concat()
        } else {
            [[10, 9, 0, 1], [10, 9, 0, flow]].concat()
        };
        let pseudo = Sum::ZERO.with(&addresses).with_u16(number);
        let sum = pseudo.with_u16(transport_len).with(&transport);
        let field = if is_udp { 6 } else { 16 };
        let mut checksum = sum.finish();
        if is_odd && rng.random_bool(0.3) {
            // A wrong one, or none.
            checksum = if is_udp { [0, 0] } else { [1, 2] };
        }
        transport[field..field + 2].copy_from_slice(&checksum);

        let mut frame = [&[2, 0, 0, 0, 1, flow], &MACS[0][..]].concat();
        if rng.random_bool(0.02) {
            // For everybody.
            frame[0] = 0x33;
        }
        if is_tagged {
            frame.extend([0x81, 0, 0, u8::from(is_odd)]);
        }
        let tos = u8::from(rng.random_bool(0.05));
        if is_ipv6 {
            frame.extend([0x86, 0xdd, 0x60, tos << 4, 0, 0]);
            frame.extend(transport_len.to_be_bytes());
            frame.extend([u8::try_from(number).unwrap(), 64]);
            frame.extend(addresses);
        } else {
            self.ids[at] = self.ids[at].wrapping_add(if is_odd { 2 } else { 1 });
            let fragment: u16 = match rng.random_range(0..20) {
                0 => 0x2000,
                1 => 0x0010,
                2..=7 => 0x0000,
                _ => 0x4000,
            };
            let start = frame.len() + 2;
            frame.extend([8, 0, 0x45, tos]);
            frame.extend((transport_len + 20).to_be_bytes());
            frame.extend(self.ids[at].to_be_bytes());
            frame.extend(fragment.to_be_bytes());
            frame.extend([64, u8::try_from(number).unwrap(), 0, 0]);
            frame.extend(addresses);
            let sum = Sum::ZERO.with(&frame[start..]).finish();
            frame[start + 10..start + 12].copy_from_slice(&sum);
        }
        frame.extend(transport);
        if is_odd && rng.random_bool(0.3) {
            // Padding, or no packet at all.
            let len = frame.len() + 6;
            frame.resize(len, 0);
        }
        if rng.random_bool(0.02) {
            let at = frame.len().min(14);
            frame[12..at].copy_from_slice(&EXPERIMENT);
        }
        frame
    }
}
