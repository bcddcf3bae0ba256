//! Moments of the wall clock as the texts of the daemon show them, all in UTC.
//!
//! Calendar arithmetic after the proleptic Gregorian calendar; leap seconds do not exist here, as
//! in Unix time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment, broken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Civil {
    year: i64,
    month: u32,
    day: u32,
    hour: u64,
    minute: u64,
    second: u64,
    nanos: u32,
}

/// As in log lines: `2006/01/02 15:04:05.000000`.
pub fn log_stamp(at: SystemTime) -> String {
    let c = civil(at);
    let micros = c.nanos / 1000;
    format!(
        "{:04}/{:02}/{:02} {:02}:{:02}:{:02}.{micros:06}",
        c.year, c.month, c.day, c.hour, c.minute, c.second
    )
}

/// As the original prints the next attempt to connect: `2006-01-02 15:04:05.999999999 +0000 UTC`,
/// the fraction without trailing zeros.
pub fn go_string(at: SystemTime) -> String {
    let c = civil(at);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}{} +0000 UTC",
        c.year,
        c.month,
        c.day,
        c.hour,
        c.minute,
        c.second,
        fraction(c.nanos)
    )
}

/// RFC 3339, the fraction without trailing zeros: moments in JSON.
pub fn rfc3339(at: SystemTime) -> String {
    let c = civil(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{}Z",
        c.year,
        c.month,
        c.day,
        c.hour,
        c.minute,
        c.second,
        fraction(c.nanos)
    )
}

/// The moment `seconds` from `at`, backwards if negative. What cannot be represented is `at`.
pub fn offset(at: SystemTime, seconds: f64) -> SystemTime {
    let Ok(distance) = Duration::try_from_secs_f64(seconds.abs()) else {
        return at;
    };
    let moved = if seconds < 0.0 {
        at.checked_sub(distance)
    } else {
        at.checked_add(distance)
    };
    moved.unwrap_or(at)
}

fn fraction(nanos: u32) -> String {
    if nanos == 0 {
        return String::new();
    }
    format!(".{nanos:09}").trim_end_matches('0').to_owned()
}

fn civil(at: SystemTime) -> Civil {
    // Nothing that is shown lies before 1970.
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    Civil {
        year,
        month,
        day,
        hour: seconds / 3600 % 24,
        minute: seconds / 60 % 60,
        second: seconds % 60,
        nanos: since.subsec_nanos(),
    }
}

/// The date `days` after 1970-01-01.
fn date(days: u64) -> (i64, u32, u32) {
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    // Whole 400-year cycles have the same number of days, whatever year they start in.
    const CYCLE: u64 = 146_097;
    let mut year = 1970 + 400 * i64::try_from(days / CYCLE).unwrap_or(0);
    let mut rest = days % CYCLE;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if rest < length {
            break;
        }
        rest -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, u32::try_from(rest).unwrap_or(0) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, nanos: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanos)
    }

    #[test]
    fn known_moments() {
        assert_eq!(log_stamp(at(0, 0)), "1970/01/01 00:00:00.000000");
        assert_eq!(
            log_stamp(at(1_136_214_245, 7_999)),
            "2006/01/02 15:04:05.000007"
        );
        assert_eq!(
            go_string(at(951_782_400, 0)),
            "2000-02-29 00:00:00 +0000 UTC"
        );
        assert_eq!(
            go_string(at(1_611_576_000, 120_000_000)),
            "2021-01-25 12:00:00.12 +0000 UTC"
        );
        assert_eq!(
            rfc3339(at(4_107_542_399, 1)),
            "2100-02-28T23:59:59.000000001Z"
        );
        assert_eq!(rfc3339(at(4_107_542_400, 0)), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut last = date(0);
        for day in 1..200_000 {
            let this = date(day);
            assert!(this > last, "{last:?} {this:?}");
            last = this;
        }
        assert_eq!(last, (2517, 7, 31));
    }

    #[test]
    fn offsets() {
        assert_eq!(offset(at(10, 0), 2.5), at(12, 500_000_000));
        assert_eq!(offset(at(10, 0), -2.0), at(8, 0));
        assert_eq!(offset(at(10, 0), f64::NAN), at(10, 0));
    }
}
