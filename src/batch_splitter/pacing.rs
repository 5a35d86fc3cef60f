//! When the next part may be sent, and whether it is worth waiting for.

use std::time::Duration;

use tokio::time::Instant;

use crate::retry::backoff::Backoff;

/// The waits of one batch.
#[derive(Debug)]
pub(super) struct Pacing {
    backoff: Backoff,
    rng: fastrand::Rng,
    deadline: Option<Instant>,
    stall_timeout: Duration,
    /// When the first part was sent since the last progress.
    stalled_since: Option<Instant>,
    /// How many waits without a `Retry-After` there were since the last progress.
    unhinted_waits: u32,
    /// No part is sent before this time.
    held_until: Option<Instant>,
    held_since: Option<Instant>,
    /// How long the next part was held back.
    held_back: Duration,
}

impl Pacing {
    pub(super) fn new(
        backoff: Backoff,
        rng: fastrand::Rng,
        deadline: Option<Instant>,
        stall_timeout: Duration,
    ) -> Self {
        Self {
            backoff,
            rng,
            deadline,
            stall_timeout,
            stalled_since: None,
            unhinted_waits: 0,
            held_until: None,
            held_since: None,
            held_back: Duration::ZERO,
        }
    }

    /// Records that a part is sent. Returns how long it was held back.
    pub(super) fn part_sent(&mut self, now: Instant) -> Duration {
        self.stalled_since.get_or_insert(now);
        std::mem::take(&mut self.held_back)
    }

    /// Records that some member was settled by the server.
    pub(super) fn progressed(&mut self) {
        self.stalled_since = None;
        self.unhinted_waits = 0;
    }

    /// Returns when members may be sent again, or `None` if that is later than the call may last.
    pub(super) fn retry_at(
        &mut self,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Option<Instant> {
        let retry_after = retry_after.filter(|wait| !wait.is_zero());
        let wait = retry_after.unwrap_or_else(|| {
            let earlier = self.unhinted_waits;
            self.unhinted_waits = self.unhinted_waits.saturating_add(1);
            self.backoff.wait(earlier, &mut self.rng)
        });
        let until = now.checked_add(wait)?;
        let stalled_since = self.stalled_since.unwrap_or(now);
        let stall_end = stalled_since.checked_add(self.stall_timeout);
        let bounds = [self.deadline, stall_end];
        let in_time = bounds.iter().flatten().all(|end| until <= *end);
        in_time.then_some(until)
    }

    /// Holds back all parts until then. Returns whether that is later than they were held back already.
    pub(super) fn hold_until(&mut self, until: Instant, now: Instant) -> bool {
        let is_later = self.held_until.is_none_or(|held_until| held_until < until);
        if is_later {
            self.held_since.get_or_insert(now);
            self.held_until = Some(until);
        }
        is_later
    }

    /// Returns until when the next part is held back, or `None` if it may be sent.
    pub(super) fn held_until(&mut self, now: Instant) -> Option<Instant> {
        let until = self.held_until?;
        if now < until {
            return Some(until);
        }
        self.held_until = None;
        self.held_back = self
            .held_since
            .take()
            .map_or(Duration::ZERO, |since| now - since);
        None
    }

    pub(super) fn deadline_passed(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pacing(deadline: Option<Instant>) -> Pacing {
        let backoff = Backoff {
            base: SECOND,
            cap: 60 * SECOND,
        };
        Pacing::new(backoff, fastrand::Rng::with_seed(1), deadline, 100 * SECOND)
    }

    #[test]
    fn a_wait_ends_within_the_deadline_and_the_stall_timeout() {
        let now = Instant::now();
        for (deadline, sent, wait, expected) in [
            // The deadline and the stall timeout of 100 seconds are the last moments that count.
            (Some(10), 0, 10, true),
            (Some(10), 0, 11, false),
            (None, 0, 100, true),
            (None, 0, 101, false),
            (None, 40, 60, true),
            (None, 40, 61, false),
            (Some(200), 0, 101, false),
            (Some(10), 40, 60, false),
        ] {
            let deadline = deadline.map(|seconds| now + seconds * SECOND);
            let mut pacing = pacing(deadline);
            pacing.part_sent(now - sent * SECOND);
            let until = pacing.retry_at(Some(wait * SECOND), now);
            let expected = expected.then(|| now + wait * SECOND);
            assert_eq!(until, expected, "{deadline:?}, {sent}, {wait}");
        }
        // Without a part that was sent, the stall begins now.
        assert!(pacing(None).retry_at(Some(100 * SECOND), now).is_some());
        assert_eq!(pacing(None).retry_at(Some(Duration::MAX), now), None);
    }

    #[test]
    fn progress_ends_the_stall() {
        let now = Instant::now();
        let mut pacing = pacing(None);
        pacing.part_sent(now);
        // The first part since the last progress counts.
        pacing.part_sent(now + 50 * SECOND);
        assert_eq!(pacing.retry_at(Some(51 * SECOND), now + 50 * SECOND), None);
        pacing.progressed();
        pacing.part_sent(now + 50 * SECOND);
        assert!(
            pacing
                .retry_at(Some(51 * SECOND), now + 50 * SECOND)
                .is_some()
        );
    }

    #[test]
    fn waits_without_retry_after_grow_until_there_is_progress() {
        let now = Instant::now();
        let mut pacing = pacing(None);
        let longest = |pacing: &mut Pacing, waits: usize| {
            let until = (0..waits).filter_map(|_| pacing.retry_at(None, now));
            until.map(|until| until - now).max().unwrap()
        };
        assert!(longest(&mut pacing, 1) <= SECOND);
        assert!(longest(&mut pacing, 9) > 8 * SECOND);
        pacing.progressed();
        assert!(longest(&mut pacing, 1) <= SECOND);
        // A wait that the server asks for does not make later ones longer, and one of zero counts as none.
        pacing.progressed();
        for _ in 0..20 {
            assert_eq!(pacing.retry_at(Some(SECOND), now), Some(now + SECOND));
        }
        assert!(pacing.retry_at(Some(Duration::ZERO), now).unwrap() <= now + SECOND);
        assert!(longest(&mut pacing, 9) > 8 * SECOND);
    }

    #[test]
    fn the_longest_hold_counts() {
        let now = Instant::now();
        let mut pacing = pacing(None);
        assert_eq!(pacing.held_until(now), None);
        assert!(pacing.hold_until(now + 5 * SECOND, now));
        assert!(!pacing.hold_until(now + 5 * SECOND, now + SECOND));
        assert!(!pacing.hold_until(now + 4 * SECOND, now + SECOND));
        assert!(pacing.hold_until(now + 8 * SECOND, now + SECOND));
        assert_eq!(pacing.held_until(now + 7 * SECOND), Some(now + 8 * SECOND));
        assert_eq!(pacing.held_until(now + 8 * SECOND), None);
        // Only the part that was held back is told so.
        assert_eq!(pacing.part_sent(now + 9 * SECOND), 8 * SECOND);
        assert_eq!(pacing.part_sent(now + 9 * SECOND), Duration::ZERO);
    }

    #[test]
    fn the_deadline_has_passed_when_it_is_reached() {
        let now = Instant::now();
        assert!(!pacing(None).deadline_passed(now));
        assert!(!pacing(Some(now + SECOND)).deadline_passed(now));
        assert!(pacing(Some(now)).deadline_passed(now));
        assert!(pacing(Some(now)).deadline_passed(now + SECOND));
    }
}
