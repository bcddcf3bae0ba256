//! Measures name servers side by side; see the library for how, and `bench/names`.

#![expect(clippy::print_stdout, reason = "the tables are what it is for")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use bench::interrupt;
use bench::program;
use bench::rounds;
use bench::servers::load::Rate;
use bench::servers::table::{Column, Samples};
use bench::servers::{FORWARDED_COUNT, Server, Stage, forwarded_name, local_name};
use clap::Parser;

/// Measures how many queries per second name servers answer, and how late, over a veth between two
/// hosts made of network namespaces. Needs root, and dnsperf and knot from Debian. WEAVER in the
/// environment names the original's program.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds; each takes every server once, every other round in reverse order
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..1000))]
    rounds: u32,
    /// Seconds of each load
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..600))]
    secs: u64,
    /// One round of one second, with few names: whether it works at all
    #[arg(long)]
    short: bool,
    /// How many names the servers have, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "10,10000")]
    names: Vec<usize>,
    /// Queries per second at which latencies are noted
    #[arg(long, default_value_t = 5000)]
    rate: u32,
    /// The same for forwarded names
    #[arg(long, default_value_t = 1000)]
    forwarded_rate: u32,
    /// Servers to measure, separated by commas [default: all that are here]
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Vec<Server>,
    /// Our program [default: meshctl beside this one]
    #[arg(long)]
    meshctl: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let mut args = Args::parse();
    ensure!(
        rustix::process::geteuid().is_root(),
        "network namespaces need root"
    );
    interrupt::listen()?;
    if args.short {
        (args.rounds, args.secs, args.names) = (1, 1, vec![10]);
    }
    let meshctl = program::meshctl(args.meshctl.as_deref())?;
    let given = args.servers.clone();
    let all = if given.is_empty() {
        Server::ALL.to_vec()
    } else {
        given.clone()
    };
    let mut servers = Vec::new();
    for server in all {
        match server.missing() {
            None => servers.push(server),
            Some(why) if given.is_empty() => eprintln!("without {server}: {why}"),
            Some(why) => return Err(anyhow!("{server}: {why}")),
        }
    }
    let mut samples = Samples::default();
    let counts = || args.names.iter().copied().enumerate();
    let tasks = |server: Server| {
        let of = move |(index, count)| (format!("{server}, {count} names"), (server, index, count));
        counts().map(of)
    };
    let tasks: Vec<_> = servers.into_iter().flat_map(tasks).collect();
    let failures = rounds::alternate(0..args.rounds, &tasks, |_, (server, index, count)| {
        measure(*server, *count, *index == 0, &args, &meshctl, &mut samples)
    });
    print(&args, &samples);
    for (task, text) in &failures {
        println!("{task} failed: {text}");
    }
    Ok(if interrupt::asked() {
        ExitCode::from(interrupt::EXIT_CODE)
    } else if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn measure(
    server: Server,
    count: usize,
    forwards: bool,
    args: &Args,
    meshctl: &std::path::Path,
    samples: &mut Samples,
) -> Result<()> {
    let stage = Stage::build(server, count, meshctl)?;
    let duration = Duration::from_secs(args.secs);
    let names: Vec<_> = (0..count).map(local_name).collect();
    let mut take = |what: &str, names: &[String], rate: u32| -> Result<()> {
        let full = stage.load(names, Rate::Full, duration, 1)?;
        interrupt::check()?;
        let fixed = stage.load(names, Rate::Fixed(rate), duration, 2)?;
        interrupt::check()?;
        samples.push(server, &format!("{what}-rate"), full.per_second);
        samples.push(
            server,
            &format!("{what}-lost"),
            (full.lost + fixed.lost) * 1e6,
        );
        let p99 = fixed.p99_us.context("no latencies were noted")?;
        samples.push(server, &format!("{what}-p99"), p99);
        Ok(())
    };
    take(&format!("local{count}"), &names, args.rate)?;
    if forwards && server.forwards() {
        let names: Vec<_> = (0..FORWARDED_COUNT).map(forwarded_name).collect();
        take("forwarded", &names, args.forwarded_rate)?;
    }
    Ok(())
}

fn print(args: &Args, samples: &Samples) {
    let mut columns = Vec::new();
    let mut add = |what: String, title: &str, rate: u32| {
        for (key, title) in [
            ("rate", format!("{title}, queries/s")),
            ("p99", format!("p99 at {rate}/s, µs")),
            ("lost", "lost, ppm".to_owned()),
        ] {
            columns.push(Column {
                key: format!("{what}-{key}"),
                title,
            });
        }
    };
    for count in &args.names {
        add(
            format!("local{count}"),
            &format!("{count} local names"),
            args.rate,
        );
    }
    add("forwarded".to_owned(), "forwarded", args.forwarded_rate);
    println!("{}", samples.medians(&columns));
    columns.retain(|column| !column.key.ends_with("lost"));
    for reference in [Server::Weaver, Server::Knot] {
        if samples.has(reference) {
            println!(
                "Divided by {reference}:\n\n{}",
                samples.ratios(&columns, reference)
            );
        }
    }
}
