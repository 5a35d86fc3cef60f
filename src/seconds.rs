//! Durations as people read them: [`Seconds`] in errors, decimal seconds in policy files.

use std::fmt;
use std::time::Duration;

#[cfg(feature = "serde")]
pub(crate) use self::policy_file::{deserialize, serialize};

/// A duration for people: `350 ms`, `2.4 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) struct Seconds(pub(crate) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, millis) = (self.0.as_secs(), self.0.subsec_millis());
        match (secs, millis) {
            (0, 0) if !self.0.is_zero() => f.write_str("less than 1 ms"),
            (0, 1..) => write!(f, "{millis} ms"),
            (0..60, 0..100) => write!(f, "{secs} s"),
            (0..60, _) => write!(f, "{secs}.{} s", millis / 100),
            (60..3600, _) => pair(f, (secs / 60, "min"), (secs % 60, "s")),
            _ => pair(f, (secs / 3600, "h"), (secs / 60 % 60, "min")),
        }
    }
}

/// Writes two units, without the smaller one if it is zero.
fn pair(f: &mut fmt::Formatter<'_>, large: (u64, &str), small: (u64, &str)) -> fmt::Result {
    write!(f, "{} {}", large.0, large.1)?;
    match small.0 {
        0 => Ok(()),
        number => write!(f, " {number} {}", small.1),
    }
}

#[cfg(feature = "serde")]
mod policy_file {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        time.as_secs_f64().serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(from)?;
        Duration::try_from_secs_f64(seconds).map_err(|error| {
            D::Error::custom(format!("{seconds} is no number of seconds: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_people_write() {
        for (duration, text) in [
            (Duration::ZERO, "0 s"),
            (Duration::from_nanos(1), "less than 1 ms"),
            (Duration::from_micros(999), "less than 1 ms"),
            (Duration::from_millis(1), "1 ms"),
            (Duration::from_nanos(350_000_123), "350 ms"),
            (Duration::from_secs(1), "1 s"),
            (Duration::from_nanos(2_400_000_123), "2.4 s"),
            (Duration::from_millis(2_099), "2 s"),
            (Duration::from_millis(59_999), "59.9 s"),
            (Duration::from_secs(60), "1 min"),
            (Duration::from_millis(200_500), "3 min 20 s"),
            (Duration::from_secs(3_599), "59 min 59 s"),
            (Duration::from_secs(3_600), "1 h"),
            (Duration::from_secs(7_530), "2 h 5 min"),
            (Duration::MAX, "5124095576030431 h"),
        ] {
            assert_eq!(Seconds(duration).to_string(), text, "{duration:?}");
        }
    }
}
