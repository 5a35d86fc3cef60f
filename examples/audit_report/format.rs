//! Numbers and times for people.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

/// `1,234,567`
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `≈ 1,234` unless it is exact.
pub(crate) fn estimate((number, exact): (u64, bool)) -> String {
    let text = count(number);
    if exact { text } else { format!("≈ {text}") }
}

/// `0 %`, `< 0.1 %`, `12.3 %`
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0\u{a0}%".to_owned();
    }
    match part as f64 * 100.0 / whole as f64 {
        share if share < 0.1 => "<\u{a0}0.1\u{a0}%".to_owned(),
        share => format!("{share:.1}\u{a0}%"),
    }
}

/// `840 µs`, `12.3 ms`, `4.56 s`, `2 min 5 s`, `3 h 12 min`, `4 d 2 h`
pub(crate) fn duration(micros: u64) -> String {
    let seconds = micros as f64 / 1e6;
    let whole = (seconds).round() as u64;
    match micros {
        0 => "0".to_owned(),
        1..1_000 => format!("{micros} µs"),
        1_000..100_000 => format!("{:.1} ms", seconds * 1e3),
        100_000..999_500 => format!("{:.0} ms", seconds * 1e3),
        999_500..9_995_000 => format!("{seconds:.2} s"),
        9_995_000..59_950_000 => format!("{seconds:.1} s"),
        _ => match whole {
            0..3_600 => format!("{} min {} s", whole / 60, whole % 60),
            3_600..172_800 => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
            _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3_600),
        },
    }
}

/// A width of buckets: `15 minutes`.
pub(crate) fn width(seconds: i64) -> String {
    let (number, unit) = match seconds {
        s if s % 86_400 == 0 => (s / 86_400, "day"),
        s if s % 3_600 == 0 => (s / 3_600, "hour"),
        s if s % 60 == 0 => (s / 60, "minute"),
        s => (s, "second"),
    };
    if number == 1 {
        unit.to_owned()
    } else {
        format!("{number} {unit}s")
    }
}

/// The clock of the log: the offset from UTC of its first record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// In seconds.
    pub(crate) offset: i32,
}

impl Clock {
    /// `local`: seconds since 1970 on this clock.
    pub(crate) fn show(self, local: i64, format: &str) -> String {
        // Already local: UTC is only what it is written with.
        let Ok(time) = Timestamp::from_second(local) else {
            return "?".to_owned();
        };
        time.to_zoned(TimeZone::UTC).strftime(format).to_string()
    }

    /// `2026-11-22 14:05:09`
    pub(crate) fn time(self, local: i64) -> String {
        self.show(local, "%Y-%m-%d %H:%M:%S")
    }

    /// `UTC+01:00`
    pub(crate) fn name(self) -> String {
        let sign = if self.offset < 0 { '-' } else { '+' };
        let minutes = self.offset.unsigned_abs() / 60;
        match minutes {
            0 => "UTC".to_owned(),
            _ => format!("UTC{sign}{:02}:{:02}", minutes / 60, minutes % 60),
        }
    }

    /// Seconds since 1970 on this clock.
    pub(crate) fn local(self, time: Timestamp) -> i64 {
        time.as_second() + i64::from(self.offset)
    }

    /// The clock that wrote this time.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let offset: Offset = match text.as_bytes().last()? {
            b'Z' | b'z' => Offset::UTC,
            _ => jiff::fmt::temporal::Pieces::parse(text)
                .ok()?
                .to_numeric_offset()?,
        };
        Some(Self {
            offset: offset.seconds(),
        })
    }
}
