//! Measures overlays end to end, side by side; see the library for how, and `bench/run`.

#![expect(clippy::print_stdout, reason = "the tables are what it is for")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bench::interrupt;
use bench::measure::{self, Guesses, Plan};
use bench::plot;
use bench::program;
use bench::report::{Results, Sample};
use bench::systems::{Programs, Stage, System, Underlay, Wire};
use clap::Parser;

/// Measures throughput, packet rate, round trips, CPU time and memory of overlays between two
/// hosts made of network namespaces, side by side. Needs root. WEAVER in the environment names
/// the original's program.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds; each takes every system once, every other round in reverse order
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..1000))]
    rounds: u32,
    /// Seconds of each TCP load
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..600))]
    secs: u64,
    /// One short round, without packet rates, of what matters most: whether it works at all
    #[arg(long)]
    short: bool,
    /// Systems to measure, separated by commas [default: all that are here]
    #[arg(long, value_enum, value_delimiter = ',')]
    systems: Vec<System>,
    /// What the underlay lets through
    #[arg(long, value_enum, default_value = "veth")]
    wire: Wire,
    /// Share of frames that the underlay loses, of 1
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    loss: f64,
    /// Milliseconds that each frame spends on the underlay
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..10_000))]
    delay: u64,
    /// Congestion control of TCP [default: this machine's]
    #[arg(long)]
    congestion: Option<String>,
    /// Leave out the search for packet rates
    #[arg(long)]
    no_udp: bool,
    /// Write all samples to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw medians and ranges into this file
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Our program [default: meshctl beside this one]
    #[arg(long)]
    meshctl: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(
        rustix::process::geteuid().is_root(),
        "network namespaces need root"
    );
    interrupt::listen()?;
    let programs = Programs {
        meshctl: program::meshctl(args.meshctl.as_deref())?,
    };
    let congestion = match &args.congestion {
        Some(congestion) => congestion.clone(),
        None => fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?,
    };
    let congestion = congestion.trim().to_owned();
    let plan = Plan {
        duration: Duration::from_secs(if args.short { 1 } else { args.secs }),
        rtt_duration: Duration::from_secs(if args.short { 1 } else { 2 }),
        udp: !args.short && !args.no_udp,
        congestion: congestion.clone(),
    };
    let underlay = Underlay {
        wire: args.wire,
        loss: args.loss,
        delay: Duration::from_millis(args.delay),
    };
    let rounds = if args.short { 1 } else { args.rounds };
    let systems = chosen(&args, &programs)?;
    let mut results = Results {
        machine: format!("{}, TCP {congestion}", machine()?),
        command: command(),
        ..Results::default()
    };
    for system in &systems {
        results.announce(system.name());
    }

    let mut guesses = vec![Guesses::new(); systems.len()];
    'rounds: for number in 0..rounds {
        let mut order: Vec<_> = systems.iter().copied().zip(0_usize..).collect();
        if number % 2 == 1 {
            order.reverse();
        }
        for (system, index) in order {
            let started = Instant::now();
            let guesses: &mut Guesses = guesses.get_mut(index).context("too few guesses")?;
            let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<Sample> {
                let stage = Stage::build(system, &underlay, &programs)?;
                measure::round(&stage, &plan, guesses)
            }));
            if interrupt::asked() {
                break 'rounds;
            }
            match outcome.unwrap_or_else(|panic| Err(anyhow!(text_of(&*panic)))) {
                Ok(sample) => results.push(system.name(), sample),
                Err(error) => {
                    let text = format!("{error:#}");
                    eprintln!("{system}: {text}");
                    results.failures.push((system.name().to_owned(), text));
                }
            }
            let seconds = started.elapsed().as_secs();
            eprintln!(
                "round {} of {rounds}: {system:<20} {seconds:>4} s",
                number + 1
            );
            if let Some(path) = &args.json {
                let text = serde_json::to_string_pretty(&results)?;
                fs::write(path, text).with_context(|| path.display().to_string())?;
            }
        }
    }
    print(&results);
    if let Some(path) = &args.svg {
        fs::write(path, plot::svg(&results)?).with_context(|| path.display().to_string())?;
    }
    Ok(if interrupt::asked() {
        ExitCode::from(interrupt::EXIT_CODE)
    } else if results.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A number from 0 to below 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("not a number from 0 to below 1".to_owned()),
    }
}

/// The systems asked for, or those that can be measured here.
fn chosen(args: &Args, programs: &Programs) -> Result<Vec<System>> {
    let mut systems = args.systems.clone();
    if systems.is_empty() {
        systems = if args.short {
            System::SHORT.to_vec()
        } else {
            System::ALL.to_vec()
        };
        systems.retain(|system| match system.missing(programs) {
            None => true,
            Some(why) => {
                eprintln!("without {system}: {why}");
                false
            }
        });
    }
    for system in &systems {
        if let Some(why) = system.missing(programs) {
            return Err(anyhow!("{system}: {why}"));
        }
    }
    Ok(systems)
}

/// Processor, cores and kernel.
fn machine() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |line| {
            line.trim_start_matches([' ', '\t', ':'])
        });
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!("{model}, {cores} cores, Linux {}", kernel.trim()))
}

/// The command line, without the directories of this machine.
fn command() -> String {
    let base = |word: String| match Path::new(&word).file_name() {
        Some(name) if word.contains('/') => name.to_string_lossy().into_owned(),
        _ => word,
    };
    std::env::args().map(base).collect::<Vec<_>>().join(" ")
}

/// Message of a panic.
fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("panicked").to_owned()
}

fn print(results: &Results) {
    println!("{}\n`{}`\n", results.machine, results.command);
    println!("{}", results.table());
    for reference in [
        System::RawVeth,
        System::Sleeve {
            kinds: [tests::node::Kind::Weaver; 2],
            sealed: true,
        },
    ] {
        if results.median(reference.name(), "tcp1_gbps").is_some() {
            println!(
                "Divided by {reference}:\n\n{}",
                results.ratios(reference.name())
            );
        }
    }
    for (system, text) in &results.failures {
        println!("{system} failed: {text}");
    }
}
