//! Samples of name servers to a table: medians, their spread, and ratios to the original.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Server;

/// Values by server and column.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<(usize, String), Vec<f64>>);

/// A column.
#[derive(Debug, Clone)]
pub struct Column {
    /// Key of its values.
    pub key: String,
    /// Heading.
    pub title: String,
}

impl Samples {
    /// Adds a value.
    pub fn push(&mut self, server: Server, key: &str, value: f64) {
        let values = self.0.entry((index(server), key.to_owned())).or_default();
        values.push(value);
        values.sort_by(f64::total_cmp);
    }

    fn median(&self, server: Server, key: &str) -> Option<f64> {
        let values = self.0.get(&(index(server), key.to_owned()))?;
        let (low, high) = (
            values.get((values.len() - 1) / 2)?,
            values.get(values.len() / 2)?,
        );
        Some(f64::midpoint(*low, *high))
    }

    /// Medians, with the lowest and highest value.
    pub fn medians(&self, columns: &[Column]) -> String {
        self.table(columns, |server, key| {
            let values = self.0.get(&(index(server), key.to_owned()))?;
            let (first, last) = (values.first()?, values.last()?);
            Some(format!(
                "{:.0} ({first:.0}–{last:.0})",
                self.median(server, key)?
            ))
        })
    }

    /// Medians as multiples of one server's.
    pub fn ratios(&self, columns: &[Column], reference: Server) -> String {
        self.table(columns, |server, key| {
            let ratio = self.median(server, key)? / self.median(reference, key)?;
            Some(format!("{ratio:.2}"))
        })
    }

    /// Whether there is anything about a server.
    pub fn has(&self, server: Server) -> bool {
        self.0.keys().any(|(own, _)| *own == index(server))
    }

    fn table(&self, columns: &[Column], cell: impl Fn(Server, &str) -> Option<String>) -> String {
        let mut text = String::from("| server |");
        let titles = columns.iter().map(|column| format!(" {} |", column.title));
        text.extend(titles);
        text.push_str("\n|---|");
        text.push_str(&"---:|".repeat(columns.len()));
        text.push('\n');
        for server in Server::ALL.into_iter().filter(|server| self.has(*server)) {
            // A String takes everything.
            let _ = write!(text, "| {server} |");
            for column in columns {
                let value = cell(server, &column.key).unwrap_or_else(|| "–".to_owned());
                let _ = write!(text, " {value} |");
            }
            text.push('\n');
        }
        text
    }
}

fn index(server: Server) -> usize {
    let all = Server::ALL.iter();
    all.take_while(|other| **other != server).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let mut samples = Samples::default();
        for value in [3.0, 1.0, 2.0, 10.0] {
            samples.push(Server::Meshctl, "k", value);
        }
        samples.push(Server::Weaver, "k", 0.5);
        let columns = [Column {
            key: "k".to_owned(),
            title: "t".to_owned(),
        }];
        let table = samples.medians(&columns);
        assert!(table.contains("| meshctl | 2 (1–10) |"), "{table}");
        assert!(!table.contains("knot"));
        let table = samples.ratios(&columns, Server::Weaver);
        assert!(table.contains("| meshctl | 5.00 |"), "{table}");
        assert!(
            samples
                .ratios(&columns, Server::Knot)
                .contains("| meshctl | – |")
        );
    }
}
