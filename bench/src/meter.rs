//! CPU seconds and memory, read from `/proc`.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};

/// Clock ticks per second of `/proc` times: 100 on every Linux since 2.6 (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU use over an interval.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Seconds that passed.
    pub wall: f64,
    /// CPU seconds of the processes that were watched.
    pub router: f64,
    /// CPU seconds of the whole machine: user, system, interrupts.
    pub machine: f64,
    /// CPU seconds of other programs than this one and those watched: what they take, the
    /// measurement lacks.
    pub foreign: f64,
}

/// Measures from its creation to [`Meter::stop`].
#[derive(Debug)]
pub struct Meter {
    pids: Vec<u32>,
    started: Instant,
    router: f64,
    machine: f64,
    foreign: f64,
}

impl Meter {
    /// Starts to watch these processes and the machine.
    pub fn start(pids: &[u32]) -> Result<Self> {
        Ok(Self {
            pids: pids.to_vec(),
            foreign: cpu_of_others(pids)?,
            router: cpu_of(pids)?,
            machine: cpu_of_machine()?,
            started: Instant::now(),
        })
    }

    /// What was used since the start.
    pub fn stop(&self) -> Result<Usage> {
        Ok(Usage {
            wall: self.started.elapsed().as_secs_f64(),
            machine: cpu_of_machine()? - self.machine,
            router: cpu_of(&self.pids)? - self.router,
            // Less than nothing only if a program ended and nobody waited for it.
            foreign: (cpu_of_others(&self.pids)? - self.foreign).max(0.0),
        })
    }
}

fn cpu_of(pids: &[u32]) -> Result<f64> {
    let of = |pid: &u32| -> Result<f64> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Ok(Times::parse(&stat)
            .with_context(|| format!("cannot understand {path}"))?
            .own)
    };
    pids.iter().map(of).sum()
}

/// CPU seconds of all programs but this one and `pids`. With what their ended children used, so
/// that nothing is lost when a short-lived one ends: its parent inherits it.
fn cpu_of_others(pids: &[u32]) -> Result<f64> {
    let mut sum = 0.0;
    for entry in fs::read_dir("/proc")
        .context("cannot read /proc")?
        .flatten()
    {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() || pids.contains(&pid) {
            continue;
        }
        // A process may end between the two steps.
        let stat = fs::read_to_string(entry.path().join("stat"));
        if let Some(times) = stat.ok().and_then(|stat| Times::parse(&stat))
            && !(pid == KTHREADD || times.parent == KTHREADD)
        {
            sum += times.own + times.children;
        }
    }
    Ok(sum)
}

/// The parent of all threads of the kernel, whose work is nobody else's.
const KTHREADD: u32 = 2;

/// What `/proc/PID/stat` says of a process.
#[derive(Debug)]
struct Times {
    parent: u32,
    /// User and system CPU seconds, of all threads.
    own: f64,
    /// Those of children that have ended.
    children: f64,
}

impl Times {
    fn parse(stat: &str) -> Option<Self> {
        // The command name may contain anything, but it ends at the last parenthesis.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace().skip(1);
        let parent = fields.next()?.parse().ok()?;
        let mut ticks = fields.skip(9).map_while(|field| field.parse::<f64>().ok());
        let mut pair = || Some((ticks.next()? + ticks.next()?) / TICKS_PER_SECOND);
        Some(Self {
            parent,
            own: pair()?,
            children: pair()?,
        })
    }
}

/// CPU seconds that the machine has not been idle, since it started.
fn cpu_of_machine() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let fields: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq
    let busy = [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|index| fields.get(*index))
        .sum::<f64>();
    Ok(busy / TICKS_PER_SECOND)
}

/// Resident memory of a process, in MB (10^6 bytes).
pub fn resident_mb(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no VmRSS in {path}"))?;
    Ok(kib * 1024.0 / 1e6)
}

/// Processes that descend from `root`, itself included: a program may run under a supervisor.
pub fn descendants(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        found.extend(
            children
                .unwrap_or_default()
                .split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat() {
        let line = "7 (a) b) S 1 7 7 0 -1 4194560 5 6 0 0 250 50 300 100 20 0 1 0 1 2 3";
        let times = Times::parse(line).unwrap();
        assert_eq!(times.parent, 1);
        assert!((times.own - 3.0).abs() < 1e-9 && (times.children - 4.0).abs() < 1e-9);
        assert!(Times::parse("7 (a) S 1").is_none());
    }

    #[test]
    fn measures_this_process() {
        let pid = std::process::id();
        assert!(resident_mb(pid).unwrap() > 0.1);
        assert_eq!(descendants(pid).first(), Some(&pid));
        let meter = Meter::start(&[pid]).unwrap();
        let mut sum = 0u64;
        while meter.stop().unwrap().router < 0.05 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let usage = meter.stop().unwrap();
        assert!(usage.machine >= 0.0 && usage.wall > 0.0);
    }
}
