//! [`rate_limit`]: reads how much of a rate a response says is left, in the forms that servers send.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

use super::retry_after::{Unit, date, decimal, scale, trim};

/// What a server says is left of its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimit {
    /// The number of requests.
    pub(crate) remaining: u32,
    /// Until all come back, from when the response was sent. Not zero.
    pub(crate) reset: Duration,
}

/// Numbers from here on are seconds since 1970, and from the second on milliseconds. As a time to wait the first is three years.
const EPOCH_SECONDS: u64 = 100_000_000;
const EPOCH_MILLIS: u64 = 100_000_000_000;

/// Returns how many requests are left by a response with these `headers`, and until when. Of several windows the one with the
/// least left counts; None if nothing can be read, or the window is over.
///
/// Reads `RateLimit` of draft-ietf-httpapi-ratelimit-headers, as parameters (`"default";r=50;t=30`) and in the older form
/// (`limit=100, remaining=50, reset=30`), and every pair of fields such as `RateLimit-Remaining` and `RateLimit-Reset`,
/// `X-RateLimit-Remaining`, `X-Rate-Limit-Remaining`, `x-ratelimit-remaining-requests` or
/// `anthropic-ratelimit-requests-remaining`. The reset is a number of seconds, a text like `6m0s`, a date, or a time since 1970, which
/// counts from the `Date` of the response.
pub(crate) fn rate_limit(headers: &HeaderMap) -> Option<RateLimit> {
    let sent = || {
        let sent = headers.get("date").and_then(|value| value.to_str().ok());
        sent.and_then(date).unwrap_or_else(SystemTime::now)
    };
    let mut tightest: Option<RateLimit> = None;
    for (name, value) in headers {
        let (name, Ok(value)) = (name.as_str(), value.to_str()) else {
            continue;
        };
        if name == "ratelimit" {
            of_field(value, headers, |found| tightest = tighter(tightest, found));
        } else if counts_requests_left(name) {
            let reset = reset_names(name).find_map(|name| headers.get(name)?.to_str().ok());
            let found = remaining(value).zip(reset.and_then(|reset| until(reset, sent)));
            tightest = tighter(tightest, found);
        }
    }
    tightest
}

fn tighter(known: Option<RateLimit>, found: Option<(u32, Duration)>) -> Option<RateLimit> {
    let found = found.map(|(remaining, reset)| RateLimit { remaining, reset });
    let found = found.filter(|found| !found.reset.is_zero());
    let of = |one: &RateLimit| (one.remaining, std::cmp::Reverse(one.reset));
    known.into_iter().chain(found).min_by_key(of)
}

/// Whether a field counts what is left of a rate of requests, and not of tokens or bytes.
fn counts_requests_left(name: &str) -> bool {
    let other_units = ["token", "byte", "point", "cost", "concurrent"];
    name.contains("remaining")
        && (name.contains("ratelimit") || name.contains("rate-limit"))
        && !other_units.iter().any(|unit| name.contains(unit))
}

/// The fields that may say when a window ends whose field of what is left has that name.
fn reset_names(remaining: &str) -> impl Iterator<Item = String> + '_ {
    ["reset-after", "reset"]
        .into_iter()
        .map(|reset| remaining.replace("remaining", reset))
}

/// Reads the field `RateLimit`: one window for each element, or all elements together.
fn of_field(value: &str, headers: &HeaderMap, mut found: impl FnMut(Option<(u32, Duration)>)) {
    let mut whole = (None, None);
    for element in pieces(value, ',') {
        let mut parameters = pieces(element, ';');
        let first = parameters.next().unwrap_or_default();
        let entry = first.split_once('=').filter(|_| !first.starts_with('"'));
        match entry {
            Some((key, value)) if key.trim() == "remaining" => whole.0 = remaining(value),
            Some((key, value)) if key.trim() == "reset" => whole.1 = seconds(value),
            Some(_) => {}
            None => {
                let of = |name: &str| {
                    let mut all = pieces(element, ';')
                        .skip(1)
                        .filter_map(|p| p.split_once('='));
                    all.find(|(key, _)| key.trim() == name)
                        .map(|(_, value)| value)
                };
                let window = of("r").and_then(remaining).zip(of("t").and_then(seconds));
                found(window.filter(|_| is_of_requests(first, headers)));
            }
        }
    }
    found(whole.0.zip(whole.1));
}

/// Whether the policy of that name counts requests: its unit is said in `RateLimit-Policy`, if it is another one.
fn is_of_requests(policy: &str, headers: &HeaderMap) -> bool {
    let policies = headers.get_all("ratelimit-policy").iter();
    let mut units = policies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| {
            pieces(value, ',').filter_map(|element| {
                let mut parts = pieces(element, ';');
                let name = parts.next()?;
                let unit = parts
                    .find_map(|part| part.split_once('=').filter(|(key, _)| key.trim() == "qu"));
                Some((name, trim(unit?.1)))
            })
        });
    !units.any(|(name, unit)| trim(name) == trim(policy) && unit != "requests")
}

/// The parts of `text` between separators that stand in no quotes.
fn pieces(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let parts = text.split(move |c| {
        quoted ^= c == '"';
        c == separator && !quoted
    });
    parts.map(str::trim)
}

/// A number of requests, rounded down. Less than none is none.
fn remaining(text: &str) -> Option<u32> {
    let text = text.split([',', ';']).next().map(trim)?;
    if let Some(below_zero) = text.strip_prefix('-') {
        return decimal(below_zero).map(|_| 0);
    }
    let number = decimal(text)?.as_secs();
    Some(u32::try_from(number).unwrap_or(u32::MAX))
}

fn seconds(text: &str) -> Option<Duration> {
    decimal(trim(text))
}

/// When a window ends, from when the response was sent.
fn until(text: &str, sent: impl Fn() -> SystemTime) -> Option<Duration> {
    let since = |then: SystemTime| then.duration_since(sent()).unwrap_or_default();
    let text = trim(text);
    if let Some(then) = date(text).or_else(|| internet_date(text)) {
        return Some(since(then));
    }
    let number = text.split([',', ';']).next().map(trim).and_then(decimal);
    let Some(number) = number else {
        return with_units(text);
    };
    let unit = match number.as_secs() {
        EPOCH_MILLIS.. => Unit::Millisecond,
        EPOCH_SECONDS.. => Unit::Second,
        _ => return Some(number),
    };
    SystemTime::UNIX_EPOCH
        .checked_add(scale(number, unit))
        .map(since)
}

/// A text like `1h30m`, `6m0s` or `120ms`.
fn with_units(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(end);
        let end = behind
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let unit = match unit {
            "ms" => Unit::Millisecond,
            "s" => Unit::Second,
            "m" => Unit::Minute,
            "h" => Unit::Hour,
            _ => return None,
        };
        sum = sum.saturating_add(scale(decimal(number)?, unit));
        rest = behind;
    }
    (!text.is_empty()).then_some(sum)
}

/// A date as `2026-11-30T12:00:00Z`, in UTC.
fn internet_date(text: &str) -> Option<SystemTime> {
    let text = text
        .strip_suffix('Z')
        .or_else(|| text.strip_suffix("+00:00"))?;
    let (day, time) = text.split_once('T')?;
    let mut day = day.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (day.next()??, day.next()??, day.next()??);
    let mut time = time.splitn(3, ':');
    let hours = decimal(time.next()?)?.checked_mul(3600)?;
    let minutes = decimal(time.next()?)?.checked_mul(60)?;
    let seconds = decimal(time.next()?)?;
    if !(1970..10_000).contains(&year) || !(1..13).contains(&month) || !(1..32).contains(&day) {
        return None;
    }
    // Years begin in March, so that the day that comes and goes is the last one.
    let (year, month) = match month {
        3.. => (year, month - 3),
        _ => (year - 1, month + 9),
    };
    let leaps = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leaps + (month * 153 + 2) / 5 + day - 1;
    let days = Duration::from_secs(days.checked_sub(719_468)? * 86_400);
    let since = days
        .checked_add(hours)?
        .checked_add(minutes)?
        .checked_add(seconds)?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    /// Noon on 30 November 2026: 1,796,040,000 s since 1970.
    const SENT: (&str, &str) = ("date", "Mon, 30 Nov 2026 12:00:00 GMT");

    fn read(fields: &[(&str, &str)]) -> Option<(u32, u64)> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().chain([&SENT]) {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let read = rate_limit(&headers)?;
        Some((
            read.remaining,
            u64::try_from(read.reset.as_millis()).unwrap(),
        ))
    }

    #[test]
    fn the_draft() {
        for (field, expected) in [
            (r#""default";r=50;t=30"#, Some((50, 30_000))),
            (r#""default"; r=50; t=30"#, Some((50, 30_000))),
            (r#"default;t=30;r=0"#, Some((0, 30_000))),
            (r#""a,b;r=1";r=50;t=30;pk=:c=:"#, Some((50, 30_000))),
            (
                r#""minute";r=7;t=30, "day";r=900;t=40000"#,
                Some((7, 30_000)),
            ),
            (
                r#""minute";r=7;t=30, "day";r=3;t=40000"#,
                Some((3, 40_000_000)),
            ),
            (
                r#""minute";r=3;t=30, "day";r=3;t=40000"#,
                Some((3, 40_000_000)),
            ),
            ("limit=100, remaining=50, reset=30", Some((50, 30_000))),
            ("limit=100,remaining=0,reset=30", Some((0, 30_000))),
            (r#""default";r=50"#, None),
            (r#""default";r=50;t=0"#, None),
            (r#""default";r=many;t=30"#, None),
            ("limit=100, remaining=50", None),
            ("", None),
            (r#"";;,,=;r=;t="#, None),
        ] {
            assert_eq!(read(&[("ratelimit", field)]), expected, "{field}");
        }
        let both = [
            (
                "ratelimit-policy",
                r#""bytes";q=1000;w=60;qu="content-bytes", "calls";q=9;w=60"#,
            ),
            ("ratelimit", r#""bytes";r=1;t=30, "calls";r=8;t=20"#),
        ];
        assert_eq!(read(&both), Some((8, 20_000)));
    }

    #[test]
    fn pairs_of_fields() {
        let names = [
            ("ratelimit-remaining", "ratelimit-reset"),
            ("x-ratelimit-remaining", "x-ratelimit-reset"),
            ("x-ratelimit-remaining", "x-ratelimit-reset-after"),
            ("x-rate-limit-remaining", "x-rate-limit-reset"),
            (
                "x-ratelimit-remaining-requests",
                "x-ratelimit-reset-requests",
            ),
            (
                "anthropic-ratelimit-requests-remaining",
                "anthropic-ratelimit-requests-reset",
            ),
            (
                "x-ratelimit-requests-remaining",
                "x-ratelimit-requests-reset",
            ),
        ];
        let resets = [
            ("30", 30_000),
            ("30.5", 30_500),
            ("30, 30;w=60", 30_000),
            ("1796040030", 30_000),
            ("1796040030.250", 30_250),
            ("1796040030000", 30_000),
            ("2026-11-30T12:00:30Z", 30_000),
            ("2026-11-30T12:00:30.5+00:00", 30_500),
            ("2028-02-29T00:00:00Z", 39_355_200_000),
            ("Mon, 30 Nov 2026 12:00:30 GMT", 30_000),
            ("30s", 30_000),
            ("120ms", 120),
            ("6m0s", 360_000),
            ("1h2m3.5s", 3_723_500),
        ];
        for (remaining, reset) in names {
            for (text, millis) in resets {
                let fields = [(remaining, "17"), (reset, text)];
                assert_eq!(read(&fields), Some((17, millis)), "{reset}: {text}");
            }
        }
        for (left, expected) in [
            ("598.0", Some((598, 1000))),
            ("0", Some((0, 1000))),
            ("-3", Some((0, 1000))),
            ("99999999999", Some((u32::MAX, 1000))),
            ("7, 7;w=1", Some((7, 1000))),
            ("unlimited", None),
            ("", None),
        ] {
            let fields = [("ratelimit-remaining", left), ("ratelimit-reset", "1")];
            assert_eq!(read(&fields), expected, "{left}");
        }
    }

    #[test]
    fn dates_that_are_none() {
        let seconds = |text| {
            let date = internet_date(text)?;
            Some(
                date.duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap()
                    .as_secs(),
            )
        };
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2026-11-30T12:00:00Z"), Some(1_796_040_000));
        assert_eq!(seconds("9999-12-31T00:00:00+00:00"), Some(253_402_214_400));
        for text in [
            "1969-12-31T00:00:00Z",
            "10000-01-01T00:00:00Z",
            "2026-00-30T12:00:00Z",
            "2026-13-30T12:00:00Z",
            "2026-11-00T12:00:00Z",
            "2026-11-32T12:00:00Z",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn what_says_nothing() {
        for fields in [
            &[("x-ratelimit-remaining", "5")][..],
            &[("x-ratelimit-reset", "5")],
            &[
                ("x-ratelimit-remaining", "5"),
                ("x-ratelimit-reset", "soon"),
            ],
            // It is over.
            &[
                ("x-ratelimit-remaining", "0"),
                ("x-ratelimit-reset", "1796039999"),
            ],
            &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "0")],
            // Not requests.
            &[
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "6m0s"),
            ],
            &[("remaining", "0"), ("reset", "5")],
        ] {
            assert_eq!(read(fields), None, "{fields:?}");
        }
        let several = [
            ("x-ratelimit-remaining", "80"),
            ("x-ratelimit-reset", "1796043600"),
            ("ratelimit-remaining", "2"),
            ("ratelimit-reset", "9"),
        ];
        assert_eq!(read(&several), Some((2, 9_000)));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(
            field in "[ -~]{0,40}",
            left in "[-0-9.a-zA-Z,;]{0,24}",
            reset in "[-0-9.:TZa-z+,;]{0,30}",
        ) {
            let _ = read(&[
                ("ratelimit", &field),
                ("x-ratelimit-remaining", &left),
                ("x-ratelimit-reset", &reset),
            ]);
        }
    }
}
