//! The log, on standard error, in the format of the original.
//!
//! ```text
//! INFO: 2006/01/02 15:04:05.000000 message key=value ...
//! ```
//!
//! The tag is the first four letters of the level; the time is UTC. With `--json` a line is an
//! object with `time`, `level`, `message` and the fields. Nothing in a line moves the cursor of a
//! terminal, whoever sent it.
//!
//! Source: feature inventory, section 5.5.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level as Severity, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::config::{Level, Logging};
use crate::text::printable;
use crate::time;

/// Crates whose lines are ours. Others are heard only when something is wrong.
const OURS: [&str; 6] = ["meshctl", "router", "host", "proto", "ipam", "dns"];

/// Starts the log. A second call is without effect.
pub fn start(logging: Logging) {
    let level = match logging.level {
        _ if logging.frames => Severity::TRACE,
        Level::Debug => Severity::DEBUG,
        Level::Info => Severity::INFO,
        Level::Warning => Severity::WARN,
        Level::Error => Severity::ERROR,
    };
    let others = level.min(Severity::WARN);
    let targets = OURS.map(|target| (target, level));
    let filter = Targets::new().with_default(others).with_targets(targets);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .event_format(Format { json: logging.json });
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
}

struct Format {
    json: bool,
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let severity = *event.metadata().level();
        let now = SystemTime::now();
        let line = match self.json {
            true => fields.json(severity, now),
            false => fields.text(severity, now),
        };
        writeln!(writer, "{line}")
    }
}

/// The parts of one line.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn text(&self, severity: Severity, now: SystemTime) -> String {
        let stamp = time::log_stamp(now);
        let mut line = format!("{}: {stamp} {}", tag(severity), self.message);
        for (name, value) in &self.others {
            let quoted = value.is_empty() || value.contains([' ', '"', '=']);
            let _ = match quoted {
                true => write!(line, " {name}={value:?}"),
                false => write!(line, " {name}={value}"),
            };
        }
        printable(&line).into_owned()
    }

    fn json(&self, severity: Severity, now: SystemTime) -> String {
        let mut object = Map::new();
        object.insert("time".to_owned(), time::rfc3339(now).into());
        object.insert("level".to_owned(), severity.as_str().to_lowercase().into());
        object.insert("message".to_owned(), self.message.as_str().into());
        for (name, value) in &self.others {
            object.insert((*name).to_owned(), value.as_str().into());
        }
        Value::Object(object).to_string()
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.others.push((field.name(), value.to_owned()));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn tag(severity: Severity) -> &'static str {
    match severity {
        Severity::ERROR => "ERRO",
        Severity::WARN => "WARN",
        Severity::INFO => "INFO",
        Severity::DEBUG => "DEBU",
        Severity::TRACE => "TRAC",
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn fields() -> Fields {
        Fields {
            message: "connection added\u{7}".to_owned(),
            others: vec![
                ("peer", "00:00:00:00:00:02(host2)".to_owned()),
                ("reason", "says \"no\"\n".to_owned()),
            ],
        }
    }

    #[test]
    fn lines_look_like_the_original() {
        let now = UNIX_EPOCH + Duration::from_micros(1_136_214_245_000_012);
        assert_eq!(
            fields().text(Severity::INFO, now),
            "INFO: 2006/01/02 15:04:05.000012 connection added\u{fffd} \
             peer=00:00:00:00:00:02(host2) reason=\"says \\\"no\\\"\\n\""
        );
        let json: Value = serde_json::from_str(&fields().json(Severity::WARN, now)).unwrap();
        assert_eq!(json["level"], "warn");
        assert_eq!(json["time"], "2006-01-02T15:04:05.000012Z");
        assert_eq!(json["reason"], "says \"no\"\n");
    }
}
