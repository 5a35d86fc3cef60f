//! [`retry_after`]: reads `Retry-After` in every form that servers send.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

/// The fields that say how long to wait, in lower case, and the unit of a bare number in each. The two in milliseconds are
/// those of Azure's services and of OpenAI's.
const FIELDS: [(&str, Unit); 3] = [
    ("retry-after", Unit::Second),
    ("retry-after-ms", Unit::Millisecond),
    ("x-ms-retry-after-ms", Unit::Millisecond),
];
const DATE: &str = "date";

/// Hints from here on get a margin, of a hundredth, up to `MAX_MARGIN`.
const LONG: Duration = Duration::from_secs(30);
const MAX_MARGIN: Duration = Duration::from_secs(5);

#[derive(Clone, Copy)]
pub(super) enum Unit {
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    /// These two are as long as the longest, so that no wait is too short.
    Month,
    Year,
}

/// Returns how long a response with these `headers` asks its client to wait, from when it was sent.
///
/// Reads `Retry-After`, `retry-after-ms` and `x-ms-retry-after-ms`: decimals, HTTP-dates, times like `00:02:00`, units
/// (`500 ms`, `30s`, `2 minutes`, `1m 30s`), durations of ISO 8601 (`PT30S`), a plus sign and quotes. Of several headers, and of the elements of a list (`30,120`), the longest that
/// can be read counts. A date counts from the `Date` of the response, so that a wrong clock of the client does no harm, or
/// from now without one. A date that has passed is a wait of zero. `None` if nothing can be read: negative numbers, words.
/// Nothing is capped: a number that is too large for a [`Duration`] is [`Duration::MAX`].
///
/// ```
/// use std::time::Duration;
/// use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};
/// use tower_ews::server_busy_backoff::retry_after;
///
/// let mut headers = HeaderMap::new();
/// headers.insert(RETRY_AFTER, HeaderValue::from_static("1.5"));
/// assert_eq!(retry_after(&headers), Some(Duration::from_millis(1500)));
/// headers.append(RETRY_AFTER, HeaderValue::from_static("30, 120"));
/// assert_eq!(retry_after(&headers), Some(Duration::from_secs(120)));
/// ```
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let names = FIELDS.iter().map(|(name, _)| *name).chain([DATE]);
    let values = names.flat_map(|name| {
        let values = headers.get_all(name).iter();
        values.map(move |value| (name, value.as_bytes()))
    });
    retry_after_among(values)
}

/// As [`retry_after`], for headers that are no [`HeaderMap`], such as those of a response inside a batch.
///
/// Names count in any case. Of several `Date`s the first that can be read counts, so a caller may append the one of the
/// response around this one.
pub(crate) fn retry_after_among<N, V>(fields: impl IntoIterator<Item = (N, V)>) -> Option<Duration>
where
    N: AsRef<str>,
    V: AsRef<[u8]>,
{
    let mut longest = None;
    let mut latest = None;
    let mut sent = None;
    for (name, value) in fields {
        let name = name.as_ref();
        let value = String::from_utf8_lossy(value.as_ref());
        if name.eq_ignore_ascii_case(DATE) {
            sent = sent.or_else(|| date(trim(&value)));
        }
        let mut known = FIELDS.iter();
        let Some((_, unit)) = known.find(|(known, _)| name.eq_ignore_ascii_case(known)) else {
            continue;
        };
        each_element(&value, |element| {
            longest = longest.max(span(element, *unit));
            latest = latest.max(date(element));
        });
    }
    let until_latest = latest.map(|latest: SystemTime| {
        let sent = sent.unwrap_or_else(SystemTime::now);
        latest.duration_since(sent).unwrap_or_default()
    });
    longest.max(until_latest)
}

/// Returns how long to wait where the server asks for `retry_after`: a little longer if that is long.
///
/// A server that counts in whole seconds may round down, the one that sent a date need not be the one whose clock opens the
/// gate, and a call that arrives a moment early is refused and begins the wait anew. From 30 s on a hundredth is added, 5 s
/// at most; that costs little beside the wait itself. A shorter wait is as cheap to repeat as it is to stretch, so it stays.
pub(crate) fn with_margin(retry_after: Duration) -> Duration {
    if retry_after < LONG {
        return retry_after;
    }
    // In whole milliseconds, like the timer's.
    let margin = u64::try_from(retry_after.as_millis() / 100).unwrap_or(u64::MAX);
    retry_after.saturating_add(Duration::from_millis(margin).min(MAX_MARGIN))
}

/// Calls `read` with each element of a list. The comma behind the day of the week in a date separates nothing.
fn each_element(value: &str, mut read: impl FnMut(&str)) {
    let mut pieces = value.split([',', ';']).map(trim);
    while let Some(piece) = pieces.next() {
        match pieces.clone().next() {
            Some(rest) if is_weekday(piece) => {
                pieces.next();
                read(&format!("{piece}, {rest}"));
            }
            _ => read(piece),
        }
    }
}

fn is_weekday(text: &str) -> bool {
    const DAYS: [&str; 7] = [
        "Monday",
        "Tuesday",
        "Wednesday",
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
    ];
    let short = |day: &'static str| day.get(..3).unwrap_or(day);
    DAYS.iter().any(|day| text == *day || text == short(day))
}

/// Takes off white space, quotes and brackets.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || "\"'`[]()".contains(c))
}

/// A number, numbers with units, a duration of ISO 8601, or hours, minutes and seconds with colons.
fn span(text: &str, unit: Unit) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Some(text) = text.strip_prefix(['P', 'p']) {
        return iso_8601(text);
    }
    if let Some((hours, (minutes, seconds))) = text
        .split_once(':')
        .and_then(|(hours, rest)| Some((hours, rest.split_once(':')?)))
    {
        let of = |text, unit| Some(scale(decimal(text)?, unit));
        let hours = of(hours, Unit::Hour)?;
        let minutes = of(minutes, Unit::Minute)?;
        let seconds = of(seconds, Unit::Second)?;
        return Some(hours.saturating_add(minutes).saturating_add(seconds));
    }
    with_units(text, unit)
}

/// A number alone, which is in `unit`, or one or more with units: `1m 30s`.
fn with_units(text: &str, unit: Unit) -> Option<Duration> {
    let (number, mut rest) = split_number(text);
    if trim(rest).is_empty() {
        return Some(scale(decimal(number)?, unit));
    }
    let mut number = number;
    let mut sum = Duration::ZERO;
    loop {
        let end = rest.find(|c: char| c.is_ascii_digit());
        let (name, more) = rest.split_at(end.unwrap_or(rest.len()));
        let part = scale(decimal(number)?, unit_of(name)?);
        sum = sum.saturating_add(part);
        if more.is_empty() {
            return Some(sum);
        }
        (number, rest) = split_number(more);
    }
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    text.split_at(end.unwrap_or(text.len()))
}

fn unit_of(name: &str) -> Option<Unit> {
    let name = trim(trim(name).trim_end_matches('.')).to_ascii_lowercase();
    Some(match name.as_str() {
        "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => Unit::Millisecond,
        "s" | "sec" | "secs" | "second" | "seconds" => Unit::Second,
        "m" | "min" | "mins" | "minute" | "minutes" => Unit::Minute,
        "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Hour,
        "d" | "day" | "days" => Unit::Day,
        _ => return None,
    })
}

/// What follows the `P` of a duration of ISO 8601: `T1M30S`, `1DT12H`.
fn iso_8601(mut text: &str) -> Option<Duration> {
    let mut sum = None;
    let mut in_time = false;
    while !text.is_empty() {
        if let Some(time) = text.strip_prefix(['T', 't']).filter(|_| !in_time) {
            (text, in_time) = (time, true);
            continue;
        }
        let (number, rest) = split_number(text);
        let designator = rest.chars().next()?;
        let unit = match (in_time, designator.to_ascii_uppercase()) {
            (false, 'Y') => Unit::Year,
            (false, 'M') => Unit::Month,
            (false, 'W') => Unit::Week,
            (false, 'D') => Unit::Day,
            (true, 'H') => Unit::Hour,
            (true, 'M') => Unit::Minute,
            (true, 'S') => Unit::Second,
            _ => return None,
        };
        let part = scale(decimal(number)?, unit);
        sum = Some(part.saturating_add(sum.unwrap_or_default()));
        text = rest.get(designator.len_utf8()..)?;
    }
    sum
}

/// Converts seconds to `unit`, rounded up to the nanosecond.
pub(super) fn scale(seconds: Duration, unit: Unit) -> Duration {
    match unit {
        Unit::Millisecond => seconds.saturating_add(Duration::from_nanos(999)) / 1000,
        Unit::Second => seconds,
        Unit::Minute => seconds.saturating_mul(60),
        Unit::Hour => seconds.saturating_mul(3600),
        Unit::Day => seconds.saturating_mul(86_400),
        Unit::Week => seconds.saturating_mul(7 * 86_400),
        Unit::Month => seconds.saturating_mul(31 * 86_400),
        Unit::Year => seconds.saturating_mul(366 * 86_400),
    }
}

/// Decimal seconds, rounded up to the nanosecond.
pub(super) fn decimal(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let Ok(secs) = format!("0{whole}").parse::<u64>() else {
        return Some(Duration::MAX);
    };
    let mut nanos = 0;
    for place in 0..9 {
        let digit = fraction.as_bytes().get(place).map_or(0, |byte| byte - b'0');
        nanos = nanos * 10 + u32::from(digit);
    }
    let rest = fraction.bytes().skip(9).any(|byte| byte != b'0');
    Some(
        Duration::from_secs(secs)
            .saturating_add(Duration::from_nanos(u64::from(nanos) + u64::from(rest))),
    )
}

/// An HTTP-date, with the other names of its zone as well.
pub(super) fn date(text: &str) -> Option<SystemTime> {
    let mut other_names = [" UTC", " +0000", " -0000"].iter();
    match other_names.find_map(|zone| text.strip_suffix(zone)) {
        Some(text) => httpdate::parse_http_date(&format!("{text} GMT")),
        None => httpdate::parse_http_date(text),
    }
    .ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const SENT: (&str, &str) = ("date", "Tue, 06 Oct 2026 10:00:00 GMT");

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        headers
    }

    /// Both forms of the parser must agree.
    fn read(fields: &[(&str, &str)]) -> Option<Duration> {
        let by_map = retry_after(&headers(fields));
        assert_eq!(by_map, retry_after_among(fields.iter().copied()));
        by_map
    }

    const fn secs(secs: u64) -> Option<Duration> {
        Some(Duration::from_secs(secs))
    }

    const fn millis(millis: u64) -> Option<Duration> {
        Some(Duration::from_millis(millis))
    }

    #[test]
    fn numbers() {
        let cases: &[(&str, Option<Duration>)] = &[
            ("30", secs(30)),
            (" 30\t", secs(30)),
            ("0", secs(0)),
            ("0.25", millis(250)),
            (".5", millis(500)),
            ("2.", secs(2)),
            ("1.000000001", Some(Duration::new(1, 1))),
            ("0.9999999999", secs(1)),
            ("0.0000000001", Some(Duration::from_nanos(1))),
            ("00300", secs(300)),
            ("18446744073709551616", Some(Duration::MAX)),
            ("18446744073709551615.9999999999", Some(Duration::MAX)),
            ("-5", None),
            ("+5", secs(5)),
            ("++5", None),
            ("+-5", None),
            ("1e3", None),
            ("NaN", None),
            ("inf", None),
            ("soon", None),
            (".", None),
            ("", None),
            ("1.2.3", None),
            ("\u{ff11}", None),
        ];
        for (text, expected) in cases {
            assert_eq!(read(&[("retry-after", text)]), *expected, "{text:?}");
        }
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn units_and_quotes() {
        let cases: &[(&str, Option<Duration>)] = &[
            ("5s", secs(5)),
            ("5 S", secs(5)),
            ("1.5 seconds", millis(1500)),
            ("120 (seconds)", secs(120)),
            ("500ms", millis(500)),
            ("500 milliseconds", millis(500)),
            ("2m", secs(120)),
            ("2 minutes", secs(120)),
            ("1 hour", secs(3600)),
            ("\"120\"", secs(120)),
            ("'120'", secs(120)),
            ("[\"30\", \"120\"]", secs(120)),
            ("00:02:00", secs(120)),
            ("01:00:00.5", millis(3_600_500)),
            ("18446744073709551615 h", Some(Duration::MAX)),
            ("1m30s", secs(90)),
            ("1 minute 30 seconds", secs(90)),
            ("1h 1m 1s 1ms", millis(3_661_001)),
            ("30 sec.", secs(30)),
            ("+30s", secs(30)),
            ("1 day", secs(86_400)),
            ("PT30S", secs(30)),
            ("pt30s", secs(30)),
            ("\"PT30S\"", secs(30)),
            ("PT0.25S", millis(250)),
            ("PT1M30S", secs(90)),
            ("P1DT1H", secs(90_000)),
            ("P1W", secs(604_800)),
            ("P1M", secs(31 * 86_400)),
            ("P1Y", secs(366 * 86_400)),
            ("PT18446744073709551616S", Some(Duration::MAX)),
            ("PT30S, 20", secs(30)),
            ("-PT30S", None),
            ("PT-30S", None),
            ("P", None),
            ("PT", None),
            ("PT30", None),
            ("P30S", None),
            ("PT1H1", None),
            ("PTTS", None),
            ("PT\u{fffd}", None),
            ("1m 30", None),
            ("1m 30 parsecs", None),
            ("02:00", None),
            ("1:2:3:4", None),
            ("-1:00:00", None),
            ("5 parsecs", None),
            ("s", None),
            ("ms", None),
            ("5s5", None),
        ];
        for (text, expected) in cases {
            assert_eq!(read(&[("retry-after", text)]), *expected, "{text:?}");
        }
    }

    #[test]
    fn of_a_list_the_longest_counts() {
        let cases: &[(&str, Option<Duration>)] = &[
            ("30,120", secs(120)),
            ("0,120", secs(120)),
            ("120, 30", secs(120)),
            ("1,5", secs(5)),
            (",,7,", secs(7)),
            ("soon, 3, -9", secs(3)),
            ("120; from=gateway", secs(120)),
            ("\"30\", \"120\"", secs(120)),
            ("500ms, 2", secs(2)),
            ("\u{fffd}, 4", secs(4)),
            ("30, Tue, 06 Oct 2026 10:02:00 GMT", secs(120)),
            ("Tue, 06 Oct 2026 10:02:00 GMT, 300", secs(300)),
            (
                "Tue, 06 Oct 2026 10:02:00 GMT, Tuesday, 06-Oct-26 10:01:00 GMT",
                secs(120),
            ),
            ("Tue, 120", None),
            ("Tue", None),
            (", ;", None),
        ];
        for (text, expected) in cases {
            assert_eq!(read(&[SENT, ("retry-after", text)]), *expected, "{text:?}");
        }
        let values = [&b"\xff"[..], b"4, \xff"];
        let fields = values.map(|value| ("retry-after", value));
        assert_eq!(retry_after_among(fields), secs(4));
    }

    #[test]
    fn of_several_headers_the_longest_counts() {
        type Fields = [(&'static str, &'static str)];
        let cases: &[(&Fields, Option<Duration>)] = &[
            (
                &[
                    ("retry-after", "3"),
                    ("retry-after", "broken"),
                    ("retry-after", "7.5"),
                    ("retry-after", "5"),
                ],
                millis(7500),
            ),
            (&[("retry-after-ms", "1500")], millis(1500)),
            (
                &[("x-ms-retry-after-ms", "0.5")],
                Some(Duration::from_micros(500)),
            ),
            (&[("retry-after-ms", "30s")], secs(30)),
            (
                &[("retry-after", "1"), ("retry-after-ms", "300")],
                millis(1000),
            ),
            (
                &[("retry-after", "0"), ("x-ms-retry-after-ms", "300, 400")],
                millis(400),
            ),
            (
                &[("retry-after", "later"), ("retry-after-ms", "300")],
                millis(300),
            ),
            (&[("retry-after-s", "3"), ("x-retry-after", "3")], None),
        ];
        for (fields, expected) in cases {
            assert_eq!(read(fields), *expected, "{fields:?}");
        }
        assert_eq!(
            retry_after_among([("Retry-After", "1"), ("RETRY-AFTER-MS", "2000")]),
            secs(2)
        );
    }

    #[test]
    fn a_date_counts_from_the_date_of_the_response() {
        let cases: &[(&str, Option<Duration>)] = &[
            ("Tue, 06 Oct 2026 10:02:00 GMT", secs(120)),
            ("\"Tue, 06 Oct 2026 10:02:00 GMT\"", secs(120)),
            // The two older forms that RFC 9110 lets a server send.
            ("Tuesday, 06-Oct-26 10:02:00 GMT", secs(120)),
            ("Tue Oct  6 10:02:00 2026", secs(120)),
            ("Tue, 06 Oct 2026 10:02:00 UTC", secs(120)),
            ("Tue, 06 Oct 2026 10:02:00 +0000", secs(120)),
            ("Tue, 06 Oct 2026 09:00:00 GMT", secs(0)),
            ("Tue, 32 Oct 2026 10:02:00 GMT", None),
            ("Tue, 06 Oct 2026 10:02:00 +0200", None),
        ];
        for (text, expected) in cases {
            assert_eq!(read(&[SENT, ("retry-after", text)]), *expected, "{text:?}");
            // In whichever order they come, and whatever is wrong with another `Date`.
            let fields = [("Retry-After", *text), ("Date", "noon"), SENT];
            assert_eq!(retry_after_among(fields), *expected, "{text:?}");
        }
    }

    #[test]
    fn a_date_without_date_counts_from_now() {
        let then = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(600));
        let fields = headers(&[("retry-after", &then), ("date", "yesterday")]);
        let wait = retry_after(&fields).unwrap();
        assert!(wait > Duration::from_secs(500) && wait <= Duration::from_secs(600));
    }

    #[test]
    fn long_hints_get_a_margin() {
        let cases = [
            (0, 0),
            (1, 1),
            (29_999, 29_999),
            (30_000, 30_300),
            (297_749, 300_726),
            (500_000, 505_000),
            (900_000, 905_000),
        ];
        for (retry_after, wait) in cases {
            let wait = Duration::from_millis(wait);
            let margin = with_margin(Duration::from_millis(retry_after)).abs_diff(wait);
            assert!(margin < Duration::from_millis(1), "{retry_after} {wait:?}");
        }
        assert_eq!(with_margin(Duration::MAX), Duration::MAX);
    }

    /// Whatever a server sends, a readable value beside it is never shortened.
    #[test]
    fn odd_values_do_no_harm() {
        let mut rng = fastrand::Rng::with_seed(11);
        let alphabet: Vec<char> = "0123456789.,;:+-PTWDHMSYptsmh \"()[]\u{fffd}\u{e9}"
            .chars()
            .collect();
        for _ in 0..20_000 {
            let length = rng.usize(0..12);
            let odd: String = (0..length)
                .filter_map(|_| rng.choice(alphabet.iter()))
                .collect();
            let together = retry_after_among([("retry-after", &*odd), ("retry-after", "60")]);
            assert!(together >= secs(60), "{odd:?}");
        }
    }
}
