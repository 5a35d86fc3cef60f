//! When the next part may be sent, and whether it is worth waiting for.

use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

use crate::retry::backoff::Backoff;
use crate::retry::{cut_to, with_margin};

/// How long nothing is sent after the outcome of a part was lost, in milliseconds: most outages, as the restart of a proxy,
/// are over then.
const LOSS_PAUSE: RangeInclusive<u64> = 10_000..=20_000;

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
    /// How many waits with one.
    hinted_waits: u32,
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
            hinted_waits: 0,
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
        self.hinted_waits = 0;
    }

    /// Returns when the call gives up, if nothing achieves anything before.
    pub(super) fn end(&self, now: Instant) -> Option<Instant> {
        let stalled_since = self.stalled_since.unwrap_or(now);
        let stall_end = stalled_since.checked_add(self.stall_timeout);
        [self.deadline, stall_end].into_iter().flatten().min()
    }

    /// Returns when one member may be sent again after `earlier` tries of it, or `None` if that is later than the call may
    /// last.
    pub(super) fn retry_one_at(
        &mut self,
        earlier: u32,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Option<Instant> {
        let drawn = self.draw(earlier, now);
        let wait = retry_after.map_or(drawn, |wait| with_margin(wait).max(drawn));
        self.in_time(wait, now)
    }

    /// Returns when something may be sent after the outcome of a part was lost, or `None` if that is later than the call may
    /// last.
    pub(super) fn after_loss(&mut self, now: Instant) -> Option<Instant> {
        let wait = Duration::from_millis(self.rng.u64(LOSS_PAUSE));
        self.in_time(wait, now)
    }

    /// Draws a wait after `earlier` ones that leaves time for a response.
    fn draw(&mut self, earlier: u32, now: Instant) -> Duration {
        let drawn = self.backoff.wait(earlier, &mut self.rng);
        let end = self.end(now);
        end.map_or(drawn, |end| cut_to(end, drawn, now))
    }

    fn in_time(&self, wait: Duration, now: Instant) -> Option<Instant> {
        let until = now.checked_add(wait)?;
        self.end(now)
            .is_none_or(|end| until <= end)
            .then_some(until)
    }

    /// Returns when members may be sent again, or `None` if that is later than the call may last.
    pub(super) fn retry_at(
        &mut self,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Option<Instant> {
        let wait = match retry_after.filter(|wait| !wait.is_zero()) {
            Some(wait) => {
                let shortest = self.backoff.shortest(self.hinted_waits);
                self.hinted_waits = self.hinted_waits.saturating_add(1);
                with_margin(wait).max(shortest)
            }
            None => {
                let earlier = self.unhinted_waits;
                self.unhinted_waits = self.unhinted_waits.saturating_add(1);
                self.draw(earlier, now)
            }
        };
        self.in_time(wait, now)
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

    /// Returns why nothing is sent any more, if that is so.
    pub(super) fn is_over(&self, now: Instant) -> Option<&'static str> {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Some("the deadline of the call has passed");
        }
        let stalled = self.stalled_since.is_some() && self.end(now).is_some_and(|end| now >= end);
        stalled.then_some("no part has achieved anything for as long as the call may wait")
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
            // The deadline and the stall timeout of 100 seconds are the last moments that count. From 30 seconds on, a wait
            // is a hundredth longer than the server asks for.
            (Some(10), 0, 10, true),
            (Some(10), 0, 11, false),
            (None, 0, 99, true),
            (None, 0, 100, false),
            (None, 71, 29, true),
            (None, 71, 30, false),
            (None, 40, 59, true),
            (None, 40, 60, false),
            (Some(200), 0, 101, false),
            (Some(10), 40, 60, false),
        ] {
            let deadline = deadline.map(|seconds| now + seconds * SECOND);
            let mut pacing = pacing(deadline);
            pacing.part_sent(now - sent * SECOND);
            let until = pacing.retry_at(Some(wait * SECOND), now);
            let expected = expected.then(|| now + with_margin(wait * SECOND));
            assert_eq!(until, expected, "{deadline:?}, {sent}, {wait}");
        }
        // Without a part that was sent, the stall begins now.
        assert!(pacing(None).retry_at(Some(99 * SECOND), now).is_some());
        assert_eq!(pacing(None).retry_at(Some(Duration::MAX), now), None);
    }

    #[test]
    fn progress_ends_the_stall() {
        let now = Instant::now();
        let mut pacing = pacing(None);
        pacing.part_sent(now);
        // The first part since the last progress counts.
        pacing.part_sent(now + 50 * SECOND);
        assert_eq!(pacing.retry_at(Some(50 * SECOND), now + 50 * SECOND), None);
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
        // A wait that the server asks for does not make later ones without longer, and one of zero counts as none.
        pacing.progressed();
        for _ in 0..20 {
            assert!(pacing.retry_at(Some(SECOND), now) >= Some(now + SECOND));
        }
        assert!(pacing.retry_at(Some(Duration::ZERO), now).unwrap() <= now + SECOND);
        assert!(longest(&mut pacing, 9) > 8 * SECOND);
    }

    #[test]
    fn a_server_that_asks_for_short_waits_for_ever_is_asked_ever_less_often() {
        let now = Instant::now();
        let mut pacing = pacing(None);
        let waits = |pacing: &mut Pacing, retry_after: Duration| -> Vec<u128> {
            let until = (0..8).filter_map(|_| pacing.retry_at(Some(retry_after), now));
            until.map(|until| (until - now).as_millis()).collect()
        };
        // A quarter of the longest wait that would be drawn without a `Retry-After`.
        let short = waits(&mut pacing, Duration::from_millis(1));
        assert_eq!(short, [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
        pacing.progressed();
        let long = waits(&mut pacing, 5 * SECOND);
        assert_eq!(long, [5000, 5000, 5000, 5000, 5000, 8000, 15_000, 15_000]);
    }

    #[test]
    fn one_member_waits_longer_each_time() {
        let now = Instant::now();
        let mut pacing = pacing(None);
        let longest = |pacing: &mut Pacing, earlier| {
            let until = (0..50).filter_map(|_| pacing.retry_one_at(earlier, None, now));
            until.map(|until| until - now).max().unwrap()
        };
        for (earlier, bound) in [(0, 1), (1, 2), (3, 8), (9, 60)] {
            let longest = longest(&mut pacing, earlier);
            let bound = bound * SECOND;
            assert!(
                longest <= bound && longest > bound / 2,
                "{earlier}: {longest:?}"
            );
        }
        // At least what the server asks for, and no longer than the call lasts.
        let until = pacing.retry_one_at(0, Some(20 * SECOND), now);
        assert_eq!(until, Some(now + 20 * SECOND));
        let until = pacing.retry_one_at(0, Some(50 * SECOND), now);
        assert_eq!(until, Some(now + 50 * SECOND + SECOND / 2));
        assert_eq!(pacing.retry_one_at(0, Some(100 * SECOND), now), None);
    }

    #[test]
    fn a_loss_pauses_for_ten_to_twenty_seconds() {
        let now = Instant::now();
        let mut long = pacing(None);
        for _ in 0..50 {
            let wait = long.after_loss(now).unwrap() - now;
            assert!((10 * SECOND..=20 * SECOND).contains(&wait), "{wait:?}");
        }
        assert_eq!(pacing(Some(now + 9 * SECOND)).after_loss(now), None);
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
    fn it_is_over_when_the_deadline_or_the_stall_timeout_is_reached() {
        let now = Instant::now();
        let reason = |deadline, now| pacing(deadline).is_over(now).unwrap_or("");
        assert_eq!(reason(None, now), "");
        assert_eq!(reason(Some(now + SECOND), now), "");
        assert!(reason(Some(now), now).contains("deadline"));
        assert!(reason(Some(now), now + SECOND).contains("deadline"));
        let mut pacing = pacing(None);
        pacing.part_sent(now);
        assert_eq!(pacing.is_over(now + 99 * SECOND), None);
        let over = pacing.is_over(now + 100 * SECOND).unwrap();
        assert!(over.contains("achieved"), "{over}");
        pacing.progressed();
        assert_eq!(pacing.is_over(now + 100 * SECOND), None);
    }
}
