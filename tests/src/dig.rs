//! Queries with `dig`, and what it prints.

use std::collections::BTreeSet;
use std::process::Command;

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// `NOERROR`, `NXDOMAIN`, ...; empty if there was no answer.
    pub status: String,
    /// `qr`, `aa`, ...
    pub flags: BTreeSet<String>,
    /// The records of the answer section, in order.
    pub answers: Vec<Record>,
    /// Those of the authority section.
    pub authority: Vec<Record>,
    /// All that was printed.
    pub text: String,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Owner, with its final dot.
    pub name: String,
    /// Seconds that it holds.
    pub ttl: u32,
    /// `A`, ...
    pub kind: String,
    /// The rest.
    pub data: String,
}

/// The command for a query; `args` are dig's own.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new("dig");
    let style = [
        "+noall",
        "+comments",
        "+answer",
        "+authority",
        "+time=8",
        "+tries=1",
    ];
    command.args(style).args(args);
    command
}

impl Answer {
    /// Reads what dig has printed.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut answer = Self {
            text: text.to_owned(),
            ..Self::default()
        };
        let mut in_authority = false;
        for line in text.lines() {
            if let Some((_, rest)) = line.split_once("status: ") {
                answer.status = rest.split(',').next().unwrap_or_default().to_owned();
            } else if let Some(rest) = line.strip_prefix(";; flags: ") {
                let flags = rest.split(';').next().unwrap_or_default();
                answer.flags = flags.split_whitespace().map(str::to_owned).collect();
            } else if line.starts_with(";; AUTHORITY") {
                in_authority = true;
            } else if !line.starts_with(';') && !line.is_empty() {
                let mut words = line.split_whitespace();
                let mut word = || words.next().unwrap_or_default().to_owned();
                let (name, ttl, _class, kind) = (word(), word(), word(), word());
                let record = Record {
                    name,
                    ttl: ttl.parse().unwrap(),
                    kind,
                    data: words.collect::<Vec<_>>().join(" "),
                };
                if in_authority {
                    answer.authority.push(record);
                } else {
                    answer.answers.push(record);
                }
            }
        }
        answer
    }

    /// What the records of the answer say, sorted.
    pub fn data(&self) -> Vec<&str> {
        let mut data: Vec<_> = self.answers.iter().map(|it| it.data.as_str()).collect();
        data.sort_unstable();
        data
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }
}
