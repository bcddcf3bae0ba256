//! Measures how addresses are given out: how many a second through HTTP, and what the others are
//! told for each. Ours and, if `WEAVER` names its program, the original, in turns.
//!
//! ```sh
//! cargo build --release -p meshctl -p bench && WEAVER=/path/to/weaver target/release/addresses
//! ```

#![expect(clippy::print_stdout, reason = "the table is what it is for")]
#![expect(
    clippy::unwrap_used,
    reason = "a measurement that fails has no result: its panic says why"
)]

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bench::interrupt;
use bench::meter::{Meter, resident_mb};
use bench::program;
use bench::report::{Sample, Spread};
use clap::Parser;
use host::netns::Netns;
use host::stage::INTERFACE;
use tests::lab::{Lab, address};
use tests::node::{self, Kind, Options, name_of};

/// Measures how fast addresses are given out through HTTP, and how much the hosts of a mesh tell
/// each other for it. Needs root. WEAVER in the environment names the original's program.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds; each takes every program once, every other round in reverse order
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..1000))]
    rounds: u32,
    /// Seconds of each load
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..600))]
    secs: u64,
    /// Seconds over which the talk of two hosts is counted, once with and once without load; hosts
    /// tell each other everything every 30 seconds. 0: do not count it
    #[arg(long, default_value_t = 62, value_parser = clap::value_parser!(u64).range(0..3600))]
    talk_secs: u64,
    /// Our program [default: meshctl beside this one]
    #[arg(long)]
    meshctl: Option<PathBuf>,
}

/// What is measured, and how it is called.
const METRICS: [(&str, &str, usize); 9] = [
    ("one", "addresses a second, 1 client", 0),
    ("many", "addresses a second, 16 clients", 0),
    (
        "cpu_one",
        "CPU time of the daemon for an address, 1 client, us",
        0,
    ),
    (
        "cpu_many",
        "CPU time of the daemon for an address, 16 clients, us",
        0,
    ),
    ("resident", "resident after these, MB", 1),
    (
        "own",
        "bytes between two hosts for an address of the own space",
        1,
    ),
    (
        "asked",
        "bytes between two hosts for an address, drawn where all space is the other's",
        0,
    ),
    (
        "claimed",
        "bytes between two hosts for a claim of an address that is the other's",
        0,
    ),
    ("foreign", "busy with other things, cores", 2),
];
/// Clients of the second load.
const CLIENTS: usize = 16;
/// Addresses whose talk is counted.
const TALKED_OF: u32 = 1000;
/// Claims whose talk is counted. Each one adds two entries to the ring.
const CLAIMS: u32 = 100;
/// Where a daemon answers, in its own namespace.
const HTTP: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 6784);
/// Nothing takes longer, or it has failed.
const TIMEOUT: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let args = Args::parse();
    let is_root = rustix::process::geteuid().is_root();
    ensure!(is_root, "network namespaces need root");
    interrupt::listen()?;
    let mut kinds = vec![Kind::Meshctl];
    match node::weaver() {
        Some(_) => kinds.push(Kind::Weaver),
        None => eprintln!("without the original: WEAVER does not name its program"),
    }
    let program = program::meshctl(args.meshctl.as_deref())?;
    let mut samples: Vec<(Kind, Vec<Sample>)> =
        kinds.iter().map(|kind| (*kind, Vec::new())).collect();
    for number in 0..args.rounds {
        let mut order: Vec<_> = samples.iter_mut().collect();
        if number % 2 == 1 {
            order.reverse();
        }
        for (kind, samples) in order {
            interrupt::check()?;
            let mut sample = rate(*kind, &program, args.secs)?;
            if number == 0 && args.talk_secs > 0 {
                sample.append(&mut talk(*kind, &program, args.talk_secs)?);
            }
            eprintln!("round {} of {}: {kind}", number + 1, args.rounds);
            samples.push(sample);
        }
    }
    println!("{}", table(&samples));
    Ok(())
}

fn options(program: &std::path::Path, peers: &[usize]) -> Options {
    let peers: Vec<_> = peers.iter().map(|number| address(*number)).collect();
    Options {
        services: Some("10.32.0.0/12".to_owned()),
        extra: vec!["--ipalloc-init".to_owned(), format!("seed={}", name_of(1))],
        log_level: Some("warning".to_owned()),
        program: Some(program.to_owned()),
        ..Options::new(None, &peers)
    }
}

/// Addresses that one host gives out, alone.
fn rate(kind: Kind, program: &std::path::Path, secs: u64) -> Result<Sample> {
    let mut lab = Lab::new(1, 1500);
    lab.start(1, kind, &options(program, &[]));
    // What it starts for an instant at its beginning does not count.
    let pids = [lab.node(1).pid()];
    let mut sample = Sample::new();
    let mut foreign = 0.0;
    for (clients, key) in [(1, "one"), (CLIENTS, "many")] {
        let meter = Meter::start(&pids)?;
        let count = load(lab.netns(1), key, clients, Duration::from_secs(secs))?;
        let usage = meter.stop()?;
        sample.insert(key.to_owned(), count / usage.wall);
        sample.insert(format!("cpu_{key}"), usage.router * 1e6 / count);
        foreign += usage.foreign / usage.wall / 2.0;
    }
    sample.insert("resident".to_owned(), resident_mb(lab.node(1).pid())?);
    sample.insert("foreign".to_owned(), foreign);
    Ok(sample)
}

/// Draws addresses for so long. Returns how many there were.
fn load(netns: &Netns, label: &str, clients: usize, duration: Duration) -> Result<f64> {
    let (count, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let count_of = |mut client: Client, index: usize| -> Result<()> {
        let mut own = 0_u64;
        while !is_over.load(Ordering::Relaxed) {
            client.draw(&format!("{label}-{index}-{own}"))?;
            own += 1;
        }
        count.fetch_add(own, Ordering::Relaxed);
        Ok(())
    };
    let ended: Result<Vec<()>> = thread::scope(|scope| {
        let connected: Result<Vec<_>> = (0..clients).map(|_| Client::connect(netns)).collect();
        let running = connected?.into_iter().zip(0..);
        let count_of = &count_of;
        let running: Vec<_> = running
            .map(|(client, index)| scope.spawn(move || count_of(client, index)))
            .collect();
        thread::sleep(duration);
        is_over.store(true, Ordering::Relaxed);
        running
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    ended?;
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    Ok(count.into_inner() as f64)
}

/// What two hosts, of which the first has all the space at first, say for addresses.
fn talk(kind: Kind, program: &std::path::Path, secs: u64) -> Result<Sample> {
    let mut lab = Lab::back_to_back(1500);
    lab.start(1, kind, &options(program, &[]));
    lab.start(2, kind, &options(program, &[1]));
    lab.await_full_mesh(&[1, 2]);
    let window = Duration::from_secs(secs);
    let counted = |act: &mut dyn FnMut() -> Result<()>| -> Result<(f64, f64)> {
        let (before, started) = (underlay_bytes(lab.netns(1))?, Instant::now());
        act()?;
        Ok((
            underlay_bytes(lab.netns(1))? - before,
            started.elapsed().as_secs_f64(),
        ))
    };
    let (idle, idle_secs) = counted(&mut || interrupt::sleep(window))?;
    let idle_rate = idle / idle_secs;

    let mut client = Client::connect(lab.netns(1))?;
    let (own, own_secs) = counted(&mut || {
        let started = Instant::now();
        for index in 0..TALKED_OF {
            client.draw(&format!("own-{index}"))?;
        }
        interrupt::sleep(window.saturating_sub(started.elapsed()))
    })?;
    let mut client = Client::connect(lab.netns(2))?;
    let (asked, asked_secs) = counted(&mut || {
        for index in 0..TALKED_OF {
            client.draw(&format!("asked-{index}"))?;
        }
        Ok(())
    })?;
    let (claimed, claimed_secs) = counted(&mut || {
        for index in 0..CLAIMS {
            // Far apart, in the part that the first host has kept.
            let (upper, lower) = (index / 16, index % 16 * 16 + 7);
            let claim = format!("/ip/claimed-{index}/10.33.{upper}.{lower}/12");
            let status = client.call("PUT", &claim)?.0;
            ensure!(status == 204, "PUT {claim}: {status}");
        }
        Ok(())
    })?;
    let each = |bytes: f64, secs: f64, count: u32| {
        ((bytes - idle_rate * secs) / f64::from(count)).max(0.0)
    };
    Ok(Sample::from([
        ("own".to_owned(), each(own, own_secs, TALKED_OF)),
        ("asked".to_owned(), each(asked, asked_secs, TALKED_OF)),
        ("claimed".to_owned(), each(claimed, claimed_secs, CLAIMS)),
    ]))
}

/// Bytes that have gone in and out of a host, frames and all.
fn underlay_bytes(netns: &Netns) -> Result<f64> {
    // The files in /sys are those of the namespace in which that was mounted.
    let table = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
    let line = table
        .lines()
        .find_map(|line| line.trim().strip_prefix(INTERFACE)?.strip_prefix(':'))
        .context("the underlay's interface is not there")?;
    let columns: Vec<f64> = line
        .split_whitespace()
        .map(|text| text.parse().unwrap())
        .collect();
    let (Some(received), Some(sent)) = (columns.first(), columns.get(8)) else {
        anyhow::bail!("not as it is known: {line}");
    };
    Ok(received + sent)
}

/// A connection to a daemon that is used again and again, as Docker's plugins do.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(netns: &Netns) -> Result<Self> {
        let stream = netns.run(|| TcpStream::connect(HTTP))??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let stream = BufReader::new(stream);
        Ok(Self { stream })
    }

    fn draw(&mut self, ident: &str) -> Result<()> {
        let (status, body) = self.call("POST", &format!("/ip/{ident}"))?;
        ensure!(
            status == 200 && body.ends_with("/12"),
            "{ident}: {status} {body}"
        );
        Ok(())
    }

    fn call(&mut self, method: &str, path: &str) -> Result<(u16, String)> {
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("no HTTP: {line:?}"))?;
        let mut len = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                len = value.trim().parse()?;
            }
        }
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body)?;
        let body = String::from_utf8(body).map_err(io::Error::other)?;
        Ok((status, body))
    }
}

/// Medians with their ranges, and ours divided by the original's.
fn table(samples: &[(Kind, Vec<Sample>)]) -> String {
    let mut text = String::from("| |");
    for (kind, _) in samples {
        text += &format!(" {kind} |");
    }
    text += " ratio |\n|---|---|---|";
    text += if samples.len() > 1 { "---|\n" } else { "\n" };
    for (key, title, digits) in METRICS {
        let spreads: Vec<_> = samples
            .iter()
            .map(|(_, samples)| Spread::of(samples, key))
            .collect();
        text += &format!("| {title} |");
        for spread in &spreads {
            text += &match spread {
                Some(Spread { low, median, high }) if low < high => {
                    format!(" {median:.digits$} ({low:.digits$}-{high:.digits$}) |")
                }
                Some(Spread { median, .. }) => format!(" {median:.digits$} |"),
                None => " - |".to_owned(),
            };
        }
        text += &match spreads[..] {
            [Some(ours), Some(theirs)] if theirs.median > 0.0 && key != "foreign" => {
                format!(" {:.2} |\n", ours.median / theirs.median)
            }
            _ => " - |\n".to_owned(),
        };
    }
    text
}
