//! The load, by dnsperf, and what it tells.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Duration;

use ::tests::lab::address;
use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use super::{HOSTS, Stage};

/// Queries in the file that dnsperf goes through again and again.
const FILE_COUNT: usize = 20_000;
/// Clients, each with a port of its own.
const CLIENTS: usize = 20;
/// Queries that wait for an answer at a time, when the load is as high as it can be.
const OUTSTANDING: usize = 100;

/// What a load has given.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Answers per second.
    pub per_second: f64,
    /// Share of queries without an answer.
    pub lost: f64,
    /// Latency of 99 of 100 answers, in microseconds; only where each query was noted.
    pub p99_us: Option<f64>,
}

/// How much to ask.
#[derive(Debug, Clone, Copy)]
pub enum Rate {
    /// As much as is answered.
    Full,
    /// So many queries per second, each noted.
    Fixed(u32),
}

impl Stage {
    /// Asks for names for so long.
    pub fn load(
        &self,
        names: &[String],
        rate: Rate,
        duration: Duration,
        seed: u64,
    ) -> Result<Outcome> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut order: Vec<_> = names.iter().collect();
        order.shuffle(&mut rng);
        let mut text = String::new();
        for index in 0..FILE_COUNT.max(order.len()) {
            let name = match order.get(index) {
                Some(name) => name,
                None => order
                    .get(rng.random_range(0..order.len()))
                    .context("there are no names")?,
            };
            writeln!(text, "{name} A")?;
        }
        let file = self.directory().join(format!("queries-{}", rng.next_u64()));
        fs::write(&file, text)?;
        let mut command = Command::new("dnsperf");
        command
            .args(["-s", &address(HOSTS.0).to_string(), "-d"])
            .arg(&file);
        command.args(["-l", &duration.as_secs().max(1).to_string()]);
        command.args(["-c", &CLIENTS.to_string(), "-T", "1", "-t", "2"]);
        command.args(["-q", &OUTSTANDING.to_string()]);
        if let Rate::Fixed(rate) = rate {
            command.args(["-Q", &rate.to_string(), "-v"]);
        }
        let ran = self.run(command);
        fs::remove_file(&file)?;
        ensure!(ran.status.success(), "dnsperf failed: {}", ran.stderr);
        parse(&ran.stdout)
    }
}

fn parse(text: &str) -> Result<Outcome> {
    let mut latencies = Vec::new();
    let mut of = std::collections::BTreeMap::new();
    for line in text.lines() {
        if let Some(noted) = line.strip_prefix("> ") {
            let seconds: f64 = noted.split(' ').next_back().unwrap_or_default().parse()?;
            ensure!(noted.starts_with("NOERROR "), "a wrong answer: {noted}");
            latencies.push(seconds * 1e6);
        } else if let Some((key, value)) = line.split_once(':') {
            of.insert(key.trim(), value.trim());
        }
    }
    let number = |key: &str| -> Result<f64> {
        let value = of
            .get(key)
            .with_context(|| format!("dnsperf tells no {key}: {text}"))?;
        Ok(value.split(' ').next().unwrap_or_default().parse()?)
    };
    let codes = of.get("Response codes").copied().unwrap_or_default();
    ensure!(
        codes.starts_with("NOERROR") && !codes.contains(','),
        "wrong answers: {codes}"
    );
    let (sent, done) = (number("Queries sent")?, number("Queries completed")?);
    latencies.sort_by(f64::total_cmp);
    Ok(Outcome {
        per_second: number("Queries per second")?,
        lost: if sent > 0.0 {
            (sent - done) / sent
        } else {
            0.0
        },
        p99_us: latencies.get(latencies.len() * 99 / 100).copied(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dnsperf_is_understood() {
        let text = "> NOERROR a A 0.000105\n> NOERROR a A 0.000057\n\n  Queries sent:         4\n  \
                    Queries completed:    3 (75.00%)\n  Response codes:       NOERROR 3 (100.00%)\n  \
                    Queries per second:   585.937500\n";
        let outcome = parse(text).unwrap();
        assert_eq!((outcome.per_second, outcome.lost), (585.9375, 0.25));
        assert_eq!(outcome.p99_us, Some(105.0));
        let wrong = text.replace(
            "NOERROR 3 (100.00%)",
            "NOERROR 2 (66.00%), SERVFAIL 1 (33.00%)",
        );
        assert!(parse(&wrong).is_err());
        assert!(parse("").is_err());
    }
}
