//! Results as a picture: one panel for each metric, one bar for each system that has it, with
//! the range of its samples. SVG, so that it can be shown by the documentation and compared as text.

use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::{Metric, Results, Spread};

/// Metrics that are drawn if anybody has measured them, in two columns.
const DRAWN: [&str; 8] = [
    "tcp1_gbps",
    "tcp4_gbps",
    "udp64_kpps",
    "udp1200_kpps",
    "rtt_p50_us",
    "rtt_p99_us",
    "router_cpu_s_per_gb",
    "resident_mb",
];

const WIDTH: u32 = 1000;
/// Of one bar with its distance to the next, and of a panel's heading and margins.
const BAR_HEIGHT: u32 = 18;
const HEADING_HEIGHT: u32 = 36;
/// Room for the names of systems, and for the figure behind the longest bar.
const NAMES_WIDTH: i32 = 165;
const FIGURE_WIDTH: i32 = 60;

const FONT: &str = "sans-serif";
const OURS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const OTHERS: RGBColor = RGBColor(0xb0, 0xb0, 0xb0);
const INK: RGBColor = RGBColor(0x20, 0x20, 0x20);

/// The picture.
///
/// # Errors
///
/// When it cannot be drawn, which says that there is a mistake here.
pub fn svg(results: &Results) -> Result<String> {
    let mut metrics = results.measured();
    metrics.retain(|metric| DRAWN.contains(&metric.key));
    // Two panels side by side are as high as the one with more bars.
    let mut ends = Vec::new();
    let mut height = 0;
    for pair in metrics.chunks(2) {
        let count = |metric: &&Metric| spreads(results, metric).len();
        let bars = u32::try_from(pair.iter().map(count).max().unwrap_or(0))?;
        height += HEADING_HEIGHT + bars * BAR_HEIGHT;
        ends.push(height.cast_signed());
    }
    ends.pop();
    let mut picture = String::new();
    {
        let root = SVGBackend::with_string(&mut picture, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE).map_err(|error| anyhow!("{error}"))?;
        let middle = [WIDTH.cast_signed() / 2];
        for (panel, metric) in root.split_by_breakpoints(middle, ends).iter().zip(metrics) {
            draw(panel, metric, results).map_err(|error| anyhow!("{error}"))?;
        }
        root.present().map_err(|error| anyhow!("{error}"))?;
    }
    Ok(picture)
}

/// The systems for which a metric was measured, and what it was.
fn spreads<'a>(results: &'a Results, metric: &Metric) -> Vec<(&'a str, Spread)> {
    let of = |(name, samples): &'a (String, Vec<_>)| {
        Some((name.as_str(), Spread::of(samples, metric.key)?))
    };
    results.systems.iter().filter_map(of).collect()
}

/// A panel, as drawn into a string.
type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// An error of drawing into a string.
type DrawError = DrawingAreaErrorKind<std::io::Error>;

#[expect(clippy::cast_possible_truncation, reason = "places in the picture")]
fn draw(panel: &Panel<'_>, metric: &Metric, results: &Results) -> Result<(), DrawError> {
    let (width, _) = panel.dim_in_pixel();
    let title = TextStyle::from((FONT, 15).into_font().style(FontStyle::Bold)).color(&INK);
    panel.draw(&Text::new(metric.title, (8, 8), title))?;

    let spreads = spreads(results, metric);
    let most = spreads.iter().map(|(_, spread)| spread.high);
    let most = most.fold(f64::MIN_POSITIVE, f64::max);
    let room = f64::from(width.cast_signed() - NAMES_WIDTH - FIGURE_WIDTH);
    let place = |value: f64| NAMES_WIDTH + (value / most * room) as i32;

    let text = TextStyle::from((FONT, 12).into_font()).color(&INK);
    let right = text.pos(Pos::new(HPos::Right, VPos::Center));
    let left = text.pos(Pos::new(HPos::Left, VPos::Center));
    let tops = (HEADING_HEIGHT.cast_signed()..).step_by(BAR_HEIGHT as usize);
    for ((name, spread), top) in spreads.iter().zip(tops) {
        let middle = top + BAR_HEIGHT.cast_signed() / 2;
        panel.draw(&Text::new(*name, (NAMES_WIDTH - 6, middle), right.clone()))?;
        let Spread { low, median, high } = *spread;
        let color = if name.contains("meshctl") {
            OURS
        } else {
            OTHERS
        };
        let bar: Range<i32> = top + 3..top + BAR_HEIGHT.cast_signed() - 3;
        let corners = [(NAMES_WIDTH, bar.start), (place(median), bar.end)];
        panel.draw(&Rectangle::new(corners, color.filled()))?;
        let range = vec![(place(low), middle), (place(high), middle)];
        panel.draw(&PathElement::new(range, INK.stroke_width(1)))?;
        let figure = format!("{median:.digits$}", digits = metric.digits);
        let behind = place(high.max(median)) + 5;
        panel.draw(&Text::new(figure, (behind, middle), left.clone()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Sample;

    #[test]
    fn bars_are_as_long_as_their_medians() {
        let mut results = Results::default();
        for (name, value) in [("meshctl", 4.0), ("weaver", 1.0)] {
            results.push(name, Sample::from([("tcp1_gbps".to_owned(), value)]));
        }
        results.push("raw", Sample::from([("tcp4_gbps".to_owned(), 3.0)]));
        let picture = svg(&results).unwrap();
        assert!(picture.contains("TCP 1 stream, Gbit/s"), "{picture}");
        let width_of = |color: &str| -> f64 {
            let bar = picture
                .lines()
                .find(|line| line.starts_with("<rect") && line.contains(color));
            let (_, rest) = bar.unwrap().split_once(" width=\"").unwrap();
            rest.split_once('"').unwrap().0.parse().unwrap()
        };
        let ratio = width_of("#1F77B4") / width_of("#B0B0B0");
        assert!((3.9..4.1).contains(&ratio), "{ratio}");
        // Who lacks a metric has no place in its panel, and one that nobody has has no panel.
        assert_eq!(picture.matches("\nmeshctl\n").count(), 1, "{picture}");
        assert!(!picture.contains("kpps"), "{picture}");
    }
}
