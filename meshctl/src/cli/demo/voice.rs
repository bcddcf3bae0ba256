//! How the demonstration speaks: a spinner while something is being done, on a terminal; a line
//! when it is; nothing at all when the outcome is asked for as JSON.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::ValueEnum as _;
use indicatif::{ProgressBar, ProgressStyle};

use super::super::status::Topic;
use super::super::{Failure, output};

/// Time between two pictures of the spinner.
const TICK: Duration = Duration::from_millis(100);

pub(super) struct Voice {
    silent: bool,
    spinner: Option<ProgressBar>,
}

impl Voice {
    pub(super) fn new(silent: bool) -> Self {
        Self {
            silent,
            spinner: None,
        }
    }

    /// Whether it says nothing.
    pub(super) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Something is being done.
    pub(super) fn step(&mut self, what: &str) {
        self.quiet();
        if self.silent || !std::io::stderr().is_terminal() {
            return;
        }
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
        let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
        if let Ok(style) = style {
            spinner.set_style(style);
        }
        spinner.enable_steady_tick(TICK);
        self.spinner = Some(spinner);
    }

    /// It is done.
    pub(super) fn done(&mut self, what: &str) -> Result<(), Failure> {
        self.quiet();
        let mark = if output::on_terminal() { "✓" } else { "*" };
        let style = output::GOOD;
        self.print(&format!("{style}{mark}{style:#} {what}\n"))
    }

    /// Says something.
    pub(super) fn say(&mut self, what: &str) -> Result<(), Failure> {
        self.quiet();
        self.print(&format!("{what}\n"))
    }

    /// The command line whose output follows.
    pub(super) fn command(&mut self, verb: &str, topic: Option<Topic>) -> Result<(), Failure> {
        let topic = topic.and_then(|topic| topic.to_possible_value());
        let topic = topic.map_or_else(String::new, |topic| format!(" {}", topic.get_name()));
        let style = output::LABEL;
        self.say(&format!("{style}$ meshctl {verb}{topic}{style:#}"))
    }

    /// Stops the spinner.
    pub(super) fn quiet(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }

    fn print(&self, text: &str) -> Result<(), Failure> {
        if self.silent {
            Ok(())
        } else {
            output::print(text)
        }
    }
}
