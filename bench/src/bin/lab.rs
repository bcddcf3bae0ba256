//! Measures overlays end to end, side by side; see the library for how, and `bench/run`.

#![expect(clippy::print_stdout, reason = "the tables are what it is for")]

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use bench::interrupt;
use bench::measure::{self, Load, Plan};
use bench::plot;
use bench::program;
use bench::report::Results;
use bench::rounds;
use bench::systems::{Programs, Stage, System, Underlay, Wire};
use clap::Parser;

/// Measures throughput, packet rate, round trips, CPU time and memory of overlays between two
/// hosts made of network namespaces, side by side. Needs root. WEAVER in the environment names
/// the original's program.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds; each takes every system once, every other round in reverse order; 0: only show what
    /// earlier runs found
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(..1000))]
    rounds: u32,
    /// Seconds of each TCP load
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..600))]
    secs: u64,
    /// One short round, without packet rates, of what matters most: whether it works at all
    #[arg(long)]
    short: bool,
    /// Systems to measure, separated by commas [default: all of the usual ones that are here]
    #[arg(long, value_enum, value_delimiter = ',', hide_possible_values = true)]
    systems: Vec<System>,
    /// List the systems, and what is missing for those that cannot be measured here
    #[arg(long)]
    list: bool,
    /// Loads to put on, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "tcp,rtt,udp")]
    loads: Vec<Load>,
    /// What the underlay lets through
    #[arg(long, value_enum, default_value = "veth")]
    wire: Wire,
    /// Share of frames that the underlay loses, of 1
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    loss: f64,
    /// Milliseconds that each frame spends on the underlay
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..10_000))]
    delay: u64,
    /// Megabits per second that the underlay carries in each direction
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..100_000))]
    mbit: Option<u32>,
    /// Congestion control of TCP [default: this machine's]
    #[arg(long)]
    congestion: Option<String>,
    /// Send so many thousand datagrams per second, too, and count those that get lost
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..1000))]
    steady: Option<u32>,
    /// Write all samples to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Add to what earlier runs wrote to that file, and show all of it
    #[arg(long, requires = "json")]
    append: bool,
    /// Draw medians and ranges into this file
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Our program [default: meshctl beside this one]
    #[arg(long)]
    meshctl: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let programs = Programs {
        meshctl: program::meshctl(args.meshctl.as_deref())?,
    };
    if args.list {
        list(&programs);
        return Ok(ExitCode::SUCCESS);
    }
    let results = if args.rounds == 0 {
        earlier(&args)?
    } else {
        ensure!(
            rustix::process::geteuid().is_root(),
            "network namespaces need root"
        );
        interrupt::listen()?;
        measure_all(&args, &programs)?
    };
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

fn measure_all(args: &Args, programs: &Programs) -> Result<Results> {
    let congestion = match &args.congestion {
        Some(congestion) => congestion.clone(),
        None => fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?,
    };
    let congestion = congestion.trim().to_owned();
    let duration = Duration::from_secs(if args.short { 1 } else { args.secs });
    let mut plan = Plan {
        loads: args.loads.clone(),
        duration,
        rtt_duration: duration.min(Duration::from_secs(2)),
        steady: args.steady.map(|thousands| f64::from(thousands) * 1e3),
        congestion: congestion.clone(),
    };
    if args.short {
        plan.loads.retain(|load| *load != Load::Udp);
    }
    let underlay = Underlay {
        wire: args.wire,
        loss: args.loss,
        delay: Duration::from_millis(args.delay),
        rate: args.mbit.map(|mbit| f64::from(mbit) * 125e3),
        seed: 0,
    };
    let systems = chosen(args, programs)?;
    let mut results = if args.append {
        earlier(args)?
    } else {
        Results::default()
    };
    let already = results.systems.iter().map(|(_, samples)| samples.len());
    let already = u32::try_from(already.max().unwrap_or(0))?;
    let mut guesses: Vec<_> = systems
        .iter()
        .map(|(name, _)| measure::guesses(&results, name))
        .collect();
    let mut run = Results {
        machine: format!("{}, TCP {congestion}", machine()?),
        command: command(),
        ..Results::default()
    };
    for (name, _) in &systems {
        run.announce(name);
    }
    results.merge(run);
    let rounds = if args.short { 1 } else { args.rounds };
    let rounds = already..already + rounds;
    let failures = rounds::alternate(rounds, &systems, |turn, system| {
        let guesses = guesses.get_mut(turn.index).context("too few guesses")?;
        // Another order of losses in every round, the same for all systems.
        let underlay = Underlay {
            seed: turn.round.into(),
            ..underlay
        };
        let stage = Stage::build(*system, &underlay, programs)?;
        results.push(turn.name, measure::round(&stage, &plan, guesses)?);
        save(args, &results)
    });
    results.failures.extend(failures);
    save(args, &results)?;
    Ok(results)
}

/// What earlier runs have written.
fn earlier(args: &Args) -> Result<Results> {
    let path = args.json.as_ref().context("no --json to read from")?;
    match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| path.display().to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound && args.rounds > 0 => {
            Ok(Results::default())
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn save(args: &Args, results: &Results) -> Result<()> {
    let Some(path) = &args.json else {
        return Ok(());
    };
    let text = serde_json::to_string_pretty(results)?;
    fs::write(path, text).with_context(|| path.display().to_string())
}

fn list(programs: &Programs) {
    let usual = System::usual();
    for system in System::ALL {
        let note = match system.missing(programs) {
            Some(why) => format!(" (not here: {why})"),
            None if usual.contains(&system) => String::new(),
            None => " (only when named)".to_owned(),
        };
        println!("{system:<24}{}{note}", system.about());
    }
}

/// A number from 0 to below 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("not a number from 0 to below 1".to_owned()),
    }
}

/// The systems asked for, or those that can be measured here, with their names.
fn chosen(args: &Args, programs: &Programs) -> Result<Vec<(String, System)>> {
    let mut systems = args.systems.clone();
    if systems.is_empty() {
        systems = if args.short {
            System::SHORT.to_vec()
        } else {
            System::usual()
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
    let named = |system: System| (system.name().to_owned(), system);
    Ok(systems.into_iter().map(named).collect())
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

fn print(results: &Results) {
    println!("{}\n`{}`\n", results.machine, results.command);
    println!("{}", results.table());
    for reference in System::REFERENCES {
        let samples = |name: &str| results.systems.iter().find(|(found, _)| found == name);
        if samples(reference.name()).is_some_and(|(_, samples)| !samples.is_empty()) {
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
