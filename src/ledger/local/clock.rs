//! [`Clock`]: the time, looked up at most once for each operation.

use std::time::Duration;

use tokio::time::Instant;

/// The time of one operation. Looking it up costs more than the rest of an uncontended admission.
#[derive(Debug, Default)]
pub(super) struct Clock(Option<Instant>);

impl Clock {
    pub(super) fn at(now: Instant) -> Self {
        Self(Some(now))
    }

    pub(super) fn now(&mut self) -> Instant {
        *self.0.get_or_insert_with(Instant::now)
    }
}

/// As good as for ever, and still a time that can be added to now.
pub(super) const LONGEST: Duration = Duration::from_secs(30 * 365 * 86_400);

/// `time` after `from`. Times at the end of what a clock can hold stay where they are.
pub(super) fn after(from: Instant, time: Duration) -> Instant {
    from.checked_add(time)
        .or_else(|| from.checked_add(time.min(LONGEST)))
        .unwrap_or(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_for_ever_lasts_for_thirty_years() {
        let now = Instant::now();
        let years = Duration::from_secs(946_080_000);
        assert_eq!(after(now, Duration::MAX), now + years);
    }
}
