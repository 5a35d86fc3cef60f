//! [`retry_after`]: reads `Retry-After` in every form that servers send.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};

/// Returns how long a response with these `headers` asks its client to wait, from when it was sent.
///
/// Reads whole and decimal seconds and HTTP-dates. A date counts from the `Date` of the response, so that a wrong clock of
/// the client does no harm, or from now without one. A date that has passed is a wait of zero. Of several `Retry-After`
/// headers the longest counts. `None` if none can be read: negative numbers, words, units. Nothing is capped: a number that
/// is too large for a [`Duration`] is [`Duration::MAX`].
///
/// ```
/// use std::time::Duration;
/// use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};
/// use tower_ews::server_busy_backoff::retry_after;
///
/// let mut headers = HeaderMap::new();
/// headers.insert(RETRY_AFTER, HeaderValue::from_static("1.5"));
/// assert_eq!(retry_after(&headers), Some(Duration::from_millis(1500)));
/// ```
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all(RETRY_AFTER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .filter_map(|text| {
            let text = text.trim();
            seconds(text).or_else(|| until_date(text, headers))
        })
        .max()
}

/// Decimal seconds, rounded up to the nanosecond.
fn seconds(text: &str) -> Option<Duration> {
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

fn until_date(text: &str, headers: &HeaderMap) -> Option<Duration> {
    let then = httpdate::parse_http_date(text).ok()?;
    let sent = headers
        .get(DATE)
        .and_then(|date| date.to_str().ok())
        .and_then(|date| httpdate::parse_http_date(date.trim()).ok())
        .unwrap_or_else(SystemTime::now);
    Some(then.duration_since(sent).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(values: &[&str], date: Option<&str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(
                RETRY_AFTER,
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_str(date).unwrap());
        }
        retry_after(&headers)
    }

    #[test]
    fn numbers() {
        let cases: &[(&str, Option<Duration>)] = &[
            ("30", Some(Duration::from_secs(30))),
            (" 30\t", Some(Duration::from_secs(30))),
            ("0", Some(Duration::ZERO)),
            ("0.25", Some(Duration::from_millis(250))),
            (".5", Some(Duration::from_millis(500))),
            ("2.", Some(Duration::from_secs(2))),
            ("1.000000001", Some(Duration::new(1, 1))),
            ("0.9999999999", Some(Duration::from_secs(1))),
            ("0.0000000001", Some(Duration::from_nanos(1))),
            ("00300", Some(Duration::from_secs(300))),
            ("18446744073709551616", Some(Duration::MAX)),
            ("18446744073709551615.9999999999", Some(Duration::MAX)),
            ("-5", None),
            ("+5", None),
            ("5s", None),
            ("1e3", None),
            ("1,5", None),
            ("NaN", None),
            ("inf", None),
            ("soon", None),
            (".", None),
            ("", None),
            ("1.2.3", None),
            ("\u{ff11}", None),
        ];
        for (text, expected) in cases {
            assert_eq!(read(&[text], None), *expected, "{text:?}");
        }
        assert_eq!(read(&[], None), None);
    }

    #[test]
    fn a_date_counts_from_the_date_of_the_response() {
        let sent = Some("Tue, 06 Oct 2026 10:00:00 GMT");
        let in_two_minutes = Some(Duration::from_secs(120));
        assert_eq!(
            read(&["Tue, 06 Oct 2026 10:02:00 GMT"], sent),
            in_two_minutes
        );
        // The two older forms that RFC 9110 lets a server send.
        assert_eq!(
            read(&["Tuesday, 06-Oct-26 10:02:00 GMT"], sent),
            in_two_minutes
        );
        assert_eq!(read(&["Tue Oct  6 10:02:00 2026"], sent), in_two_minutes);
        assert_eq!(
            read(&["Tue, 06 Oct 2026 09:00:00 GMT"], sent),
            Some(Duration::ZERO)
        );
        assert_eq!(read(&["Tue, 32 Oct 2026 10:02:00 GMT"], sent), None);
    }

    #[test]
    fn a_date_without_date_counts_from_now() {
        let then = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(600));
        let wait = read(&[&then], None).unwrap();
        assert!(wait > Duration::from_secs(500) && wait <= Duration::from_secs(600));
        assert_eq!(
            read(&[&then], Some("yesterday")).map(|wait| wait > Duration::from_secs(500)),
            Some(true)
        );
    }

    #[test]
    fn the_longest_counts() {
        assert_eq!(
            read(&["3", "broken", "7.5", "5"], None),
            Some(Duration::from_millis(7500))
        );
    }
}
