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
}

/// Measures from its creation to [`Meter::stop`].
#[derive(Debug)]
pub struct Meter {
    pids: Vec<u32>,
    started: Instant,
    router: f64,
    machine: f64,
}

impl Meter {
    /// Starts to watch these processes and the machine.
    pub fn start(pids: &[u32]) -> Result<Self> {
        Ok(Self {
            pids: pids.to_vec(),
            started: Instant::now(),
            router: cpu_of(pids)?,
            machine: cpu_of_machine()?,
        })
    }

    /// What was used since the start.
    pub fn stop(&self) -> Result<Usage> {
        Ok(Usage {
            wall: self.started.elapsed().as_secs_f64(),
            router: cpu_of(&self.pids)? - self.router,
            machine: cpu_of_machine()? - self.machine,
        })
    }
}

fn cpu_of(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|pid| process_cpu(*pid)).sum()
}

/// User and system CPU seconds of one process, all threads.
fn process_cpu(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The command name may contain anything, but it ends at the last parenthesis.
    let (_, fields) = stat
        .rsplit_once(')')
        .context("no command in /proc/PID/stat")?;
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    Ok(ticks / TICKS_PER_SECOND)
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
