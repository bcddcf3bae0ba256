//! An underlay whose weather the test makes: frames get lost, late, twice, out of order, or are too
//! long for a path that says nothing about it.
//!
//! Hosts have a TAP device for their interface to it; a thread carries the frames between them.
//! Which ones suffer is decided by a seeded generator, though not when they come.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use router::io::tap::{MAX_FRAME_LEN, PlainTap, TapDevice};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Longest time without a look at whether it is over, and at what the weather is like.
const LOOK: Duration = Duration::from_millis(20);
/// Frames on their way at most; what comes on top is lost.
const AIRBORNE: usize = 10_000;
/// How long a frame may wait where the rate is bounded, some two round trips of a long way.
const PATIENCE: Duration = Duration::from_millis(100);
/// Frames taken from a host before the others get their turn.
const BATCH: usize = 64;

/// Ethernet header: addresses and type.
const ETHERNET_LEN: usize = 14;
/// Where an IPv4 packet in a frame names its protocol.
const PROTOCOL: usize = ETHERNET_LEN + 9;
const UDP: u8 = 17;
/// Where its source port is, if the IP header has no options.
const SOURCE_PORT: usize = ETHERNET_LEN + 20;

/// What happens to frames. The default is fair.
#[derive(Debug, Clone, PartialEq)]
pub struct Weather {
    /// Share of frames that are lost.
    pub loss: f64,
    /// Share of frames that come twice.
    pub duplicates: f64,
    /// Time that each frame takes.
    pub delay: Duration,
    /// What may come on top, a different time for each frame, so that they overtake each other.
    pub jitter: Duration,
    /// Bytes a second that pass in each direction, Ethernet headers included. What waits longer than
    /// `PATIENCE` for its turn is lost.
    pub rate: Option<f64>,
    /// Longest IP packet that gets through. Nobody is told of longer ones.
    pub longest: usize,
    /// Pairs of hosts, by number, between which no UDP gets through.
    pub no_udp: Vec<(usize, usize)>,
    /// The only port from which UDP gets through, as with a firewall that knows who talks to whom.
    pub only_udp_from: Option<u16>,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            loss: 0.0,
            duplicates: 0.0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            rate: None,
            longest: usize::MAX,
            no_udp: Vec::new(),
            only_udp_from: None,
        }
    }
}

/// The underlay. It ends with this value.
#[derive(Debug)]
pub struct Sky {
    weather: Arc<Mutex<Option<Weather>>>,
    carrier: Option<JoinHandle<()>>,
}

impl Sky {
    /// Joins these devices, which are those of hosts 1, 2, and so on.
    pub fn new(devices: Vec<PlainTap>, seed: u64) -> Self {
        let weather = Arc::new(Mutex::new(Some(Weather::default())));
        let carrier = Carrier {
            devices,
            rng: StdRng::seed_from_u64(seed),
            airborne: BinaryHeap::new(),
            places: HashMap::new(),
            free_at: HashMap::new(),
            sequence: 0,
        };
        let carrier = std::thread::spawn({
            let weather = Arc::clone(&weather);
            move || carrier.run(&weather)
        });
        Self {
            weather,
            carrier: Some(carrier),
        }
    }

    /// Changes the weather.
    pub fn set(&self, weather: Weather) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = Some(weather);
    }
}

impl Drop for Sky {
    fn drop(&mut self) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(carrier) = self.carrier.take()
            && carrier.join().is_err()
        {
            eprintln!("the underlay has panicked");
        }
    }
}

/// A frame on its way: when it arrives, its place among those that left before, where, and itself.
type Flight = (Instant, u64, usize, Vec<u8>);

/// The thread's own.
struct Carrier {
    devices: Vec<PlainTap>,
    rng: StdRng,
    /// The next to arrive on top.
    airborne: BinaryHeap<Reverse<Flight>>,
    /// Hosts by Ethernet address.
    places: HashMap<Vec<u8>, usize>,
    /// When the way from a host to another is free again, where the rate is bounded.
    free_at: HashMap<(usize, usize), Instant>,
    sequence: u64,
}

impl Carrier {
    fn run(mut self, weather: &Mutex<Option<Weather>>) {
        let mut buffer = vec![0; MAX_FRAME_LEN];
        loop {
            let weather = weather
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let Some(weather) = weather else { return };
            self.wait();
            for host in 0..self.devices.len() {
                for _ in 0..BATCH {
                    match self.devices[host].read(&mut buffer) {
                        Ok((len, _)) => self.take(host, &buffer[..len], &weather),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        // The host is gone, or not there yet.
                        Err(_) => break,
                    }
                }
            }
            self.deliver();
        }
    }

    /// Waits for a frame, or for the next one to arrive.
    fn wait(&self) {
        let next = self.airborne.peek().map(|Reverse((due, ..))| *due);
        let timeout = next.map_or(LOOK, |due| due.saturating_duration_since(Instant::now()));
        let timeout = Timespec::try_from(timeout.min(LOOK)).ok();
        let mut fds: Vec<_> = self
            .devices
            .iter()
            .map(|device| PollFd::from_borrowed_fd(device.fd(), PollFlags::IN))
            .collect();
        // An interrupted wait is as good as one that is over.
        _ = poll(&mut fds, timeout.as_ref());
    }

    /// Decides what becomes of a frame.
    fn take(&mut self, from: usize, frame: &[u8], weather: &Weather) {
        let (Some(destination), Some(source)) = (frame.get(..6), frame.get(6..12)) else {
            return;
        };
        self.places.insert(source.to_vec(), from);
        let to: Vec<usize> = match self.places.get(destination) {
            Some(host) => vec![*host],
            None => (0..self.devices.len())
                .filter(|host| *host != from)
                .collect(),
        };
        if frame.len() - ETHERNET_LEN > weather.longest {
            return;
        }
        let udp = frame.get(12..14) == Some(&[8, 0]) && frame.get(PROTOCOL) == Some(&UDP);
        if let Some(port) = weather.only_udp_from
            && udp
            && frame.get(SOURCE_PORT..SOURCE_PORT + 2) != Some(&port.to_be_bytes())
        {
            return;
        }
        for to in to {
            let barred =
                |pair: &(usize, usize)| [(from + 1, to + 1), (to + 1, from + 1)].contains(pair);
            if udp && weather.no_udp.iter().any(barred) {
                continue;
            }
            let Some(left_at) = self.leave(from, to, frame.len(), weather) else {
                continue;
            };
            let copies = 1 + usize::from(self.rng.random_bool(weather.duplicates));
            for _ in 0..copies {
                if self.airborne.len() >= AIRBORNE || self.rng.random_bool(weather.loss) {
                    continue;
                }
                let jitter = weather.jitter.mul_f64(self.rng.random_range(0.0..=1.0));
                let due = left_at + weather.delay + jitter;
                self.sequence += 1;
                self.airborne
                    .push(Reverse((due, self.sequence, to, frame.to_vec())));
            }
        }
    }

    /// When a frame of this length is on its way, if it need not wait too long for that.
    fn leave(&mut self, from: usize, to: usize, len: usize, weather: &Weather) -> Option<Instant> {
        let now = Instant::now();
        let Some(rate) = weather.rate else {
            return Some(now);
        };
        let free_at = self.free_at.entry((from, to)).or_insert(now);
        let begin = now.max(*free_at);
        if begin - now > PATIENCE {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "the length of a frame")]
        let takes = Duration::from_secs_f64(len as f64 / rate);
        *free_at = begin + takes;
        Some(*free_at)
    }

    /// Lets arrive what is due.
    fn deliver(&mut self) {
        let now = Instant::now();
        while self
            .airborne
            .peek()
            .is_some_and(|Reverse((due, ..))| *due <= now)
        {
            let Some(Reverse((.., to, frame))) = self.airborne.pop() else {
                return;
            };
            // A host whose queue is full loses it.
            _ = self.devices[to].write_frame(&frame);
        }
    }
}
