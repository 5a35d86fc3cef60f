//! Back-off times: `BackOffMilliseconds`, and what a message's text says of it.
use std::time::Duration;

/// A back-off above this counts as this: larger ones do not fit the arithmetic of every platform's
/// clock.
const MAX_BACK_OFF: Duration = Duration::from_secs(100 * 365 * 86_400);

/// So far behind its name a number may stand: `backoff time of at least 5000 ms`.
const MAX_GAP: usize = 32;

/// Milliseconds, as the server writes them.
pub(super) fn milliseconds(text: &str) -> Option<Duration> {
    if let Ok(milliseconds) = text.parse() {
        return Some(Duration::from_millis(milliseconds).min(MAX_BACK_OFF));
    }
    let number = text
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'+' | b'-' | b'e' | b'E'));
    let milliseconds: f64 = text.parse().ok().filter(|_| number)?;
    if milliseconds.is_sign_negative() && milliseconds != 0.0 {
        return None;
    }
    let back_off =
        Duration::try_from_secs_f64((milliseconds / 1000.0).abs()).unwrap_or(Duration::MAX);
    Some(back_off.min(MAX_BACK_OFF))
}

/// What a text says of how long to wait, in the words of Exchange (`Suggested backoff time 5000 ms.`), by the name of the
/// value (`BackOffMilliseconds=5000`), or in those of a proxy (`retry after 30 seconds`). The longest, should there be
/// several.
pub(super) fn in_text(text: &str) -> Option<Duration> {
    // The unit of a bare number, in milliseconds, behind each of the names.
    const NAMES: [(&str, f64); 7] = [
        ("backoff", 1.0),
        ("back-off", 1.0),
        ("back off", 1.0),
        ("retry after", 1000.0),
        ("retry-after", 1000.0),
        ("try again after", 1000.0),
        ("try again in", 1000.0),
    ];
    if !text.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let text = text.to_ascii_lowercase();
    let found = NAMES.iter().flat_map(|(name, unit)| {
        let ends = text.match_indices(name).map(|(at, name)| at + name.len());
        ends.filter_map(|end| number_behind(text.get(end..)?, *unit))
    });
    found.max()
}

/// The first number of `rest`, if it is in the same sentence, not far, and not negative.
fn number_behind(rest: &str, unit: f64) -> Option<Duration> {
    let at = rest.find(|c: char| c.is_ascii_digit())?;
    let gap = rest.get(..at).filter(|gap| gap.len() <= MAX_GAP)?;
    if gap.contains(". ") || gap.ends_with('-') {
        return None;
    }
    let (number, behind) = number(rest.get(at..)?);
    let behind = behind.trim_start();
    let word = behind.find(|c: char| !c.is_ascii_alphabetic());
    let word = behind.get(..word.unwrap_or(behind.len()))?;
    // A date or a time of day.
    if matches!(behind.as_bytes(), [b'-' | b':' | b'/', b'0'..=b'9', ..]) {
        return None;
    }
    let unit = unit_of(word).or_else(|| unit_in_name(gap)).unwrap_or(unit);
    let milliseconds: f64 = number.parse().ok()?;
    let back_off = Duration::try_from_secs_f64(milliseconds * unit / 1000.0);
    Some(back_off.unwrap_or(Duration::MAX).min(MAX_BACK_OFF))
}

/// Splits off a number that may have a fraction and commas between thousands.
fn number(text: &str) -> (String, &str) {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut end = 0;
    while let Some(byte) = bytes.get(end) {
        let part = match byte {
            b'0'..=b'9' => true,
            b'.' => digit(end + 1),
            b',' => (1..=3).all(|place| digit(end + place)) && !digit(end + 4),
            _ => false,
        };
        if !part {
            break;
        }
        end += 1;
    }
    let (number, behind) = text.split_at(end);
    (number.replace(',', ""), behind)
}

/// A unit behind a number, in milliseconds.
fn unit_of(word: &str) -> Option<f64> {
    match word {
        "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => Some(1.0),
        "s" | "sec" | "secs" | "second" | "seconds" => Some(1000.0),
        "m" | "min" | "mins" | "minute" | "minutes" => Some(60_000.0),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some(3_600_000.0),
        _ => None,
    }
}

/// A unit in a name, as in `BackOffMilliseconds` or `BackOffSeconds`.
fn unit_in_name(gap: &str) -> Option<f64> {
    if gap.contains("millisecond") {
        Some(1.0)
    } else if gap.contains("second") {
        Some(1000.0)
    } else if gap.contains("minute") {
        Some(60_000.0)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let cases: &[(&str, Option<u64>)] = &[
            ("Suggested backoff time 5000 ms.", Some(5000)),
            (
                "The server is busy. Back-off time: 1.5 seconds.",
                Some(1500),
            ),
            ("Please back off for 2 minutes", Some(120_000)),
            ("suggested backoff time of at least 5,000 ms", Some(5000)),
            ("BackOffMilliseconds: 297749", Some(297_749)),
            ("BackOffMilliseconds=297749;Policy=x", Some(297_749)),
            ("{\"BackOffMilliseconds\":\"297749\"}", Some(297_749)),
            (
                "<t:Value Name=\"BackOffMilliseconds\">297749</t:Value>",
                Some(297_749),
            ),
            ("BACKOFFSECONDS 30", Some(30_000)),
            ("Retry after 30 seconds.", Some(30_000)),
            ("Retry-After: 30", Some(30_000)),
            ("Rate limit exceeded. Try again in 12 s", Some(12_000)),
            ("backoff time 0 ms", Some(0)),
            ("backoff 100 ms, then backoff 200 ms", Some(200)),
            (
                "back-off 9999999999999999999999 ms",
                Some(100 * 365 * 86_400_000),
            ),
            ("backoff time -5 ms", None),
            ("Try again later. Error 5000.", None),
            ("Use a backoff. See policy 12", None),
            ("Retry after 2026-10-06", None),
            ("Try again after 10:30", None),
            ("backoff", None),
            (
                "backoff time unknown, and a long way from here to 5000",
                None,
            ),
            ("5000 ms", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(Duration::from_millis);
            assert_eq!(in_text(text), expected, "{text}");
        }
    }
}
