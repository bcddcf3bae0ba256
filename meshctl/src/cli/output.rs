//! What verbs print: plain text when piped, colour and tables on a terminal, JSON when asked.

use std::io::{self, IsTerminal as _, Write as _};

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::Failure;

/// Whether a person is looking.
pub fn on_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Prints `text` as it is.
pub fn print(text: &str) -> Result<(), Failure> {
    written(anstream::stdout().lock().write_all(text.as_bytes()))
}

/// Tells the user something besides, on standard error.
pub fn warn(text: &str) {
    let style = Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()));
    // Where nobody listens there is nobody to tell.
    let _ = writeln!(anstream::stderr().lock(), "{style}warning:{style:#} {text}");
}

/// Prints `value` as indented JSON, by four spaces as the original does.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = to_json(value)?;
    text.push('\n');
    print(&text)
}

/// `value` as indented JSON.
pub fn to_json(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, indent);
    value.serialize(&mut serializer)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Cells of a table are broken into lines if the terminal is at least this wide; in a narrower one
/// nothing would be left of them.
const MIN_WIDTH: u16 = 100;

/// A table with these headings, as wide as the terminal.
pub fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    let arrangement = match table.width() {
        Some(MIN_WIDTH..) => ContentArrangement::Dynamic,
        _ => ContentArrangement::Disabled,
    };
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(arrangement)
        .set_header(headings.iter().map(|heading| {
            comfy_table::Cell::new(heading).add_attribute(comfy_table::Attribute::Bold)
        }));
    table
}

/// Colour of a connection's state.
pub fn state_colour(state: &str) -> comfy_table::Color {
    match state {
        "established" => comfy_table::Color::Green,
        "pending" | "connecting" => comfy_table::Color::Yellow,
        _ => comfy_table::Color::Red,
    }
}

/// Style of labels.
pub const LABEL: Style = Style::new().bold();
/// Style of what works.
pub const GOOD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));

/// A number of bytes that a person can read.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut whole = count;
    let mut unit = 0;
    // One more step while four digits would stand before the point.
    while whole >= 1_000_000 {
        whole /= 1000;
        unit += 1;
    }
    let name = UNITS.get(unit).unwrap_or(&"EB");
    format!("{}.{} {name}", whole / 1000, whole % 1000 / 100)
}

/// A reader who has left is no failure of ours.
fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits_at_most() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_999, "999.9 kB"),
            (1_000_000, "1.0 MB"),
            (12_345_678_901, "12.3 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn json_is_indented_by_four() {
        let text = to_json(&serde_json::json!({"a": [1]})).unwrap();
        assert_eq!(text, "{\n    \"a\": [\n        1\n    ]\n}");
    }
}
