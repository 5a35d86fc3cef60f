//! Dates as Exchange writes and reads them.

/// 2026-01-01T00:00:00Z: when every simulation starts.
const START: i64 = 1_767_225_600;

/// The date and time that many seconds after the simulation's start.
pub(super) fn stamp(seconds: u64) -> String {
    let at = START.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX / 4));
    let (day, second) = (at.div_euclid(86_400), at.rem_euclid(86_400));
    // Days to a civil date, counted in years that begin in March and eras of 400 years.
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// Seconds since 1970 of an `xs:dateTime`; a time without a zone is UTC.
pub(super) fn parse(text: &str) -> Option<i64> {
    let (date, time) = text.trim().split_once('T')?;
    let mut date = date.splitn(3, '-');
    let year: i64 = number(date.next()?)?;
    let month: i64 = number(date.next()?)?;
    let day: i64 = number(date.next()?)?;
    let zone_at = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (clock, zone) = time.split_at_checked(zone_at)?;
    let mut clock = clock.splitn(3, ':');
    let hours: i64 = number(clock.next()?)?;
    let minutes: i64 = number(clock.next()?)?;
    let seconds: i64 = number(clock.next()?.split('.').next()?)?;
    if !(1..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let offset = match zone.as_bytes().first() {
        Some(sign @ (b'+' | b'-')) => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let offset = number(hours)? * 3_600 + number(minutes)? * 60;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => 0,
    };
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    let days = era * 146_097 + of_era - 719_468;
    Some(days * 86_400 + hours * 3_600 + minutes * 60 + seconds - offset)
}

/// Digits of at most four places, so that no sum overflows.
fn number(text: &str) -> Option<i64> {
    (!text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        assert_eq!(stamp(0), "2026-01-01T00:00:00Z");
        for seconds in [
            0,
            59,
            86_399,
            86_400,
            58 * 86_400,
            59 * 86_400,
            900 * 86_400 + 3_661,
        ] {
            assert_eq!(
                parse(&stamp(seconds)),
                Some(START + i64::try_from(seconds).unwrap())
            );
        }
        assert_eq!(stamp(789 * 86_400), "2028-02-29T00:00:00Z");
        assert_eq!(parse("1970-01-01T01:00:00+01:00"), Some(0));
        assert_eq!(parse("1970-01-01T00:00:00.25"), Some(0));
        assert_eq!(parse("1969-12-31T19:00:00-05:00"), Some(0));
        for text in [
            "",
            "T",
            "2026-01-01",
            "2026-13-01T00:00:00Z",
            "20266-01-01T00:00:00",
            "2026-01-01T00:00",
            "2026-01-01T00:00:00+",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
