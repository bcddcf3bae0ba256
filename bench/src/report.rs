//! Samples to tables: medians with their spread, and ratios of medians.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// What one round on one system gave: value by metric.
pub type Sample = BTreeMap<String, f64>;

/// All rounds of all systems, and where they were taken.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// Processor, number of cores, kernel.
    pub machine: String,
    /// The command that took them.
    pub command: String,
    /// Samples by system, in the order in which the systems were named.
    pub systems: Vec<(String, Vec<Sample>)>,
    /// What did not work, by system.
    pub failures: Vec<(String, String)>,
}

/// A column of the table.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Key in a [`Sample`].
    pub key: &'static str,
    /// Heading, with unit.
    pub title: &'static str,
    /// Digits after the point.
    pub digits: usize,
}

/// Ending of the key that says, if it is there, that a value was limited by the load generator.
pub const LIMITED: &str = "_limited";

/// What a column of [`METRICS`] is when it says nothing about the system but about the machine.
pub const FOREIGN: &str = "foreign_cores";

/// The columns, in order. Those that nobody has measured are left out.
pub const METRICS: [Metric; 12] = [
    Metric {
        key: "tcp1_gbps",
        title: "TCP 1 stream, Gbit/s",
        digits: 2,
    },
    Metric {
        key: "tcp4_gbps",
        title: "TCP 4 streams, Gbit/s",
        digits: 2,
    },
    Metric {
        key: "udp64_kpps",
        title: "UDP 64 B, kpps",
        digits: 0,
    },
    Metric {
        key: "udp1200_kpps",
        title: "UDP 1200 B, kpps",
        digits: 0,
    },
    Metric {
        key: "rtt_p50_us",
        title: "round trip p50, us",
        digits: 0,
    },
    Metric {
        key: "rtt_p99_us",
        title: "round trip p99, us",
        digits: 0,
    },
    Metric {
        key: "router_cpu_s_per_gb",
        title: "router CPU, s/GB",
        digits: 2,
    },
    Metric {
        key: "machine_cpu_s_per_gb",
        title: "machine CPU, s/GB",
        digits: 2,
    },
    Metric {
        key: "resident_mb",
        title: "resident, MB",
        digits: 1,
    },
    Metric {
        key: "steady_lost_ppm",
        title: "lost at a steady rate, ppm",
        digits: 0,
    },
    Metric {
        key: "steady_dropped",
        title: "of it by routers, packets",
        digits: 0,
    },
    Metric {
        key: FOREIGN,
        title: "busy with other things, cores",
        digits: 2,
    },
];

impl Results {
    /// Names a system, which fixes its place in the tables.
    pub fn announce(&mut self, system: &str) {
        if !self.systems.iter().any(|(name, _)| name == system) {
            self.systems.push((system.to_owned(), Vec::new()));
        }
    }

    /// Adds what another run has given.
    pub fn merge(&mut self, other: Self) {
        if self.machine.is_empty() {
            self.machine = other.machine;
        }
        if !self.command.is_empty() {
            self.command.push_str("; ");
        }
        self.command.push_str(&other.command);
        for (system, samples) in other.systems {
            self.announce(&system);
            for sample in samples {
                self.push(&system, sample);
            }
        }
        self.failures.extend(other.failures);
    }

    /// Adds one round of a system.
    pub fn push(&mut self, system: &str, sample: Sample) {
        match self.systems.iter_mut().find(|(name, _)| name == system) {
            Some((_, samples)) => samples.push(sample),
            None => self.systems.push((system.to_owned(), vec![sample])),
        }
    }

    /// Median of a metric of a system.
    pub fn median(&self, system: &str, key: &str) -> Option<f64> {
        let (_, samples) = self.systems.iter().find(|(name, _)| name == system)?;
        Spread::of(samples, key).map(|spread| spread.median)
    }

    /// Medians with minimum and maximum, as a Markdown table.
    pub fn table(&self) -> String {
        self.render(|samples, metric| {
            Spread::of(samples, metric.key).map(|Spread { low, median, high }| {
                // A slow path has figures, too.
                let digits = metric.digits + if high < 0.1 { 2 } else { 0 };
                let at_least = if is_limited(samples, metric.key) {
                    "≥ "
                } else {
                    ""
                };
                if samples.len() == 1 {
                    format!("{at_least}{median:.digits$}")
                } else {
                    format!("{at_least}{median:.digits$} ({low:.digits$}-{high:.digits$})")
                }
            })
        })
    }

    /// Medians divided by those of `reference`, as a Markdown table.
    pub fn ratios(&self, reference: &str) -> String {
        self.render(|samples, metric| {
            if metric.key == FOREIGN {
                return None;
            }
            let median = Spread::of(samples, metric.key)?.median;
            let base = self
                .median(reference, metric.key)
                .filter(|base| *base > 0.0)?;
            let ratio = median / base;
            let digits = if ratio < 0.1 { 3 } else { 2 };
            Some(format!("{ratio:.digits$}"))
        })
    }

    /// The metrics that any system has.
    pub fn measured(&self) -> Vec<&'static Metric> {
        let samples = || self.systems.iter().flat_map(|(_, samples)| samples);
        let mut metrics = METRICS.iter().collect::<Vec<_>>();
        metrics.retain(|metric| samples().any(|sample| sample.contains_key(metric.key)));
        metrics
    }

    fn render(&self, cell: impl Fn(&[Sample], &Metric) -> Option<String>) -> String {
        let metrics = self.measured();
        let mut table = String::from("| system |");
        for metric in &metrics {
            let _ = write!(table, " {} |", metric.title);
        }
        table.push_str("\n|---|");
        table.push_str(&"---|".repeat(metrics.len()));
        for (system, samples) in &self.systems {
            let _ = write!(table, "\n| {system} |");
            for metric in &metrics {
                let _ = write!(
                    table,
                    " {} |",
                    cell(samples, metric).as_deref().unwrap_or("-")
                );
            }
        }
        table.push('\n');
        table
    }
}

/// Whether most samples of a metric were limited by the load generator.
fn is_limited(samples: &[Sample], key: &str) -> bool {
    let key = format!("{key}{LIMITED}");
    let limited = samples.iter().filter(|sample| sample.contains_key(&key));
    limited.count() * 2 > samples.len()
}

/// The values of a metric over all rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The least.
    pub low: f64,
    /// The one in the middle, or the mean of the two.
    pub median: f64,
    /// The greatest.
    pub high: f64,
}

impl Spread {
    /// Of those samples that have the metric; `None` if none has.
    pub fn of(samples: &[Sample], key: &str) -> Option<Self> {
        let mut values: Vec<f64> = samples
            .iter()
            .filter_map(|sample| sample.get(key).copied())
            .collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            *values.get(middle)?
        } else {
            (values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0
        };
        Some(Self { low, median, high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value: f64) -> Sample {
        Sample::from([("tcp1_gbps".to_owned(), value)])
    }

    #[test]
    fn medians_and_ratios() {
        let mut results = Results::default();
        for value in [4.0, 1.0, 3.0] {
            results.push("a", sample(value));
        }
        results.push("b", sample(1.5));
        results.push("b", sample(0.5));
        assert_eq!(results.median("a", "tcp1_gbps"), Some(3.0));
        assert_eq!(results.median("b", "tcp1_gbps"), Some(1.0));
        assert_eq!(results.median("c", "tcp1_gbps"), None);
        assert!(results.table().contains("| a | 3.00 (1.00-4.00) |\n"));
        assert!(results.ratios("b").contains("| a | 3.00 |"));
    }

    #[test]
    fn runs_are_put_together() {
        let mut results = Results::default();
        for (first, second) in [("a", 1.0), ("b", 2.0), ("a", 3.0)].map(|(name, value)| {
            let mut run = Results::default();
            run.push(name, sample(value));
            (name, run)
        }) {
            results.merge(second);
            assert!(results.median(first, "tcp1_gbps").is_some());
        }
        assert_eq!(results.median("a", "tcp1_gbps"), Some(2.0));
        assert_eq!(results.systems.len(), 2);
    }

    #[test]
    fn what_the_generator_limits_is_a_lower_bound() {
        let mut results = Results::default();
        results.announce("late");
        results.announce("fast");
        let rate = ("udp64_kpps".to_owned(), 100.0);
        let limited = ("udp64_kpps_limited".to_owned(), 1.0);
        results.push("fast", Sample::from([rate.clone(), limited.clone()]));
        results.push("late", Sample::from([rate.clone()]));
        let table = results.table();
        assert!(table.contains("| fast | ≥ 100 |\n"), "{table}");
        assert!(table.contains("| late | 100 |"), "{table}");
        assert!(table.find("late") < table.find("fast"));
    }
}
