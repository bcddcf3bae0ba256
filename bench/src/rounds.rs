//! Rounds in alternation: each takes everything once, every other one in reverse order, so that
//! what changes on the machine meanwhile meets all alike.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::interrupt;

/// Whose turn it is.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// Number of the round.
    pub round: u32,
    /// Place in the list of what is measured.
    pub index: usize,
    /// Its name.
    pub name: &'a str,
}

/// Measures each of `items`, which have names, in each of these rounds, and returns what did not
/// work, by name. A panic counts as such; [`interrupt::asked`] ends it early.
pub fn alternate<T>(
    rounds: Range<u32>,
    items: &[(String, T)],
    mut measure: impl FnMut(Turn<'_>, &T) -> Result<()>,
) -> Vec<(String, String)> {
    let mut failures = Vec::new();
    for round in rounds.clone() {
        let mut order: Vec<_> = items.iter().enumerate().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (index, (name, item)) in order {
            let started = Instant::now();
            let turn = Turn { round, index, name };
            let outcome = catch_unwind(AssertUnwindSafe(|| measure(turn, item)));
            if interrupt::asked() {
                return failures;
            }
            let outcome = outcome.unwrap_or_else(|panic| Err(anyhow!(text_of(&*panic))));
            if let Err(error) = outcome {
                let text = format!("{error:#}");
                eprintln!("{name}: {text}");
                failures.push((name.clone(), text));
            }
            eprintln!(
                "round {} of {}: {name:<22} {:>4} s",
                round + 1,
                rounds.end,
                started.elapsed().as_secs()
            );
        }
    }
    failures
}

/// Message of a panic.
fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("panicked").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_round_is_reversed_and_failures_do_not_end_it() {
        let items = ["a", "b"].map(|name| (name.to_owned(), ()));
        let mut order = String::new();
        let failures = alternate(0..3, &items, |turn, ()| {
            order.push_str(&format!("{}{} ", turn.name, turn.index));
            match order.len() {
                6 => Err(anyhow!("no")),
                9 => panic!("never"),
                _ => Ok(()),
            }
        });
        assert_eq!(order, "a0 b1 b1 a0 a0 b1 ");
        let expected = [("b", "no"), ("b", "never")];
        assert_eq!(
            failures,
            expected.map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
    }
}
