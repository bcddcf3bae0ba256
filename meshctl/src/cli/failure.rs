//! How a verb ends.

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};

/// Exit codes, the same for all verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// It was tried and did not work, or the daemon refused.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The daemon does not answer.
    NotRunning = 3,
    /// The daemon does not serve this: the service is off, or of another version.
    NotServed = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<&clap::Error> for Exit {
    fn from(error: &clap::Error) -> Self {
        if error.use_stderr() {
            Self::Usage
        } else {
            Self::Done
        }
    }
}

/// Why a verb failed, and what mends it.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(exit: Exit, message: impl Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
            hint: None,
        }
    }

    /// A wrong command line.
    pub fn usage(message: impl Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Tells the user, on standard error.
    pub fn report(&self, json: bool) -> ExitCode {
        let mut stderr = anstream::stderr().lock();
        // Where nobody listens there is nobody to tell.
        let _ = if json {
            let object = serde_json::json!({"error": self.message, "hint": self.hint});
            writeln!(stderr, "{object}")
        } else {
            let error = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
            let hint = Style::new().bold().fg_color(Some(AnsiColor::Cyan.into()));
            let told = writeln!(stderr, "{error}error:{error:#} {}", self.message);
            match &self.hint {
                Some(text) => writeln!(stderr, "{hint}hint:{hint:#} {text}"),
                None => told,
            }
        };
        self.exit.into()
    }
}

impl From<anyhow::Error> for Failure {
    /// Some errors tell their cause in their own text, others leave it to whoever shows them.
    fn from(error: anyhow::Error) -> Self {
        let mut message = String::new();
        for cause in error.chain() {
            let text = cause.to_string();
            if message.contains(&text) {
                continue;
            }
            if !message.is_empty() {
                message.push_str(": ");
            }
            message.push_str(&text);
        }
        Self::new(Exit::Failed, message)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(Exit::Failed, error)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn every_cause_is_told_once() {
        let error = anyhow!("no file")
            .context("cannot open: no file; make one")
            .context("bad day");
        let failure = Failure::from(error);
        assert_eq!(failure.message, "bad day: cannot open: no file; make one");
    }
}
