//! Flags about how frames travel.

use std::num::NonZero;
use std::time::Duration;

use clap::{ArgAction, ValueEnum};
use router::constants::{FLOOD_LIMIT, REKEY_INTERVAL, REKEY_VOLUME};
use router::crypto::aead::Suites;
use router::dataplane::{DataOptions, MAX_WORKERS, RekeyLimits, ShuttleOptions};
use router::overlay::negotiate::SUPPORTED;

/// Which overlays, and how they work.
#[derive(Debug, Clone, clap::Args)]
pub struct Overlays {
    /// Overlays to offer to neighbours, of shuttle, sleeve and stream [default: all]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = overlay)]
    overlays: Vec<&'static str>,
    /// Cipher of the overlay shuttle, if the neighbour agrees
    #[arg(long, value_enum, value_name = "CIPHER", default_value_t = Cipher::Auto)]
    cipher: Cipher,
    /// Seconds after which shuttle changes its keys
    #[arg(long, value_name = "SECONDS", default_value_t = REKEY_INTERVAL.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    rekey_interval: u64,
    /// Threads that carry frames, each with a queue of the TAP device
    /// [default: one for two processors, up to 4]
    #[arg(long, value_name = "COUNT",
          value_parser = clap::value_parser!(u8).range(1..=MAX_WORKERS as i64))]
    data_threads: Option<u8>,
    /// Frames a second that a bridge may send to all hosts at once; 0 means any number
    #[arg(long, value_name = "COUNT", default_value_t = FLOOD_LIMIT)]
    flood_limit: u32,
    /// Answer ARP and neighbour discovery for containers of other hosts, from what they said before
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", hide_default_value = true, hide_possible_values = true,
          action = ArgAction::Set, value_parser = super::go_bool, value_name = "BOOL")]
    arp_proxy: bool,
    /// Bytes after which shuttle changes its keys
    #[arg(long, value_name = "BYTES", default_value_t = REKEY_VOLUME, hide = true,
          value_parser = clap::value_parser!(u64).range(1 << 20..=REKEY_VOLUME))]
    rekey_volume: u64,
}

/// Ciphers by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Cipher {
    /// AES-256-GCM where both processors are good at it, else ChaCha20-Poly1305
    Auto,
    /// AES-256-GCM where the neighbour wants it too, else ChaCha20-Poly1305
    Aes,
    /// ChaCha20-Poly1305
    Chacha20,
}

fn overlay(name: &str) -> Result<&'static str, String> {
    let known = SUPPORTED.iter().copied().find(|&known| known == name);
    known.ok_or_else(|| format!("no such overlay; there are {}", SUPPORTED.join(", ")))
}

/// The other processors are for the containers, and for the kernel's part.
fn usual_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    (processors / 2).clamp(1, 4)
}

impl Overlays {
    /// The overlays to offer. Their order is not the user's to choose: both ends must have the same.
    pub fn names(&self) -> Vec<String> {
        let wanted = |name: &&str| self.overlays.is_empty() || self.overlays.contains(name);
        let names = SUPPORTED.iter().copied().filter(wanted);
        names.map(str::to_owned).collect()
    }

    /// How they work.
    pub fn options(&self) -> DataOptions {
        DataOptions {
            shuttle: ShuttleOptions {
                suites: match self.cipher {
                    Cipher::Auto => Suites::of_this_machine(),
                    Cipher::Aes => Suites::ALL,
                    Cipher::Chacha20 => Suites::CHACHA_ONLY,
                },
                rekey: RekeyLimits {
                    interval: Duration::from_secs(self.rekey_interval),
                    volume: self.rekey_volume,
                },
            },
            flood_limit: (self.flood_limit > 0).then_some(self.flood_limit),
            answer_neighbours: self.arp_proxy,
            workers: self.data_threads.map_or_else(usual_threads, usize::from),
        }
    }
}
