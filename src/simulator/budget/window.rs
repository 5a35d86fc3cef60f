//! [`Window`]: what was used within the last while.

use std::collections::VecDeque;
use std::time::Duration;

/// Amounts with their times. An amount counts for one period from when it was used.
#[derive(Debug, Default)]
pub(super) struct Window {
    used: VecDeque<(Duration, u64)>,
    sum: u64,
}

impl Window {
    /// What counts now.
    pub(super) fn sum(&mut self, period: Duration, now: Duration) -> u64 {
        while let Some((at, amount)) = self.used.front() {
            if now < at.saturating_add(period) {
                break;
            }
            self.sum -= amount;
            self.used.pop_front();
        }
        self.sum
    }

    pub(super) fn add(&mut self, amount: u64, now: Duration) {
        self.sum += amount;
        match self.used.back_mut() {
            Some((at, last)) if *at == now => *last += amount,
            _ => self.used.push_back((now, amount)),
        }
    }

    /// How long it takes until less than `most` counts.
    pub(super) fn wait(&mut self, most: u64, period: Duration, now: Duration) -> Duration {
        let mut left = self.sum(period, now);
        for (at, amount) in &self.used {
            if left < most {
                break;
            }
            left -= amount;
            if left < most {
                return at.saturating_add(period).saturating_sub(now);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_count_for_one_period() {
        let seconds = Duration::from_secs;
        let minute = seconds(60);
        let mut window = Window::default();
        window.add(2, seconds(0));
        window.add(3, seconds(10));
        window.add(1, seconds(10));
        assert_eq!(window.sum(minute, seconds(59)), 6);
        assert_eq!(window.wait(6, minute, seconds(59)), seconds(1));
        assert_eq!(window.wait(4, minute, seconds(59)), seconds(11));
        assert_eq!(window.wait(7, minute, seconds(59)), Duration::ZERO);
        assert_eq!(window.sum(minute, seconds(60)), 4);
        assert_eq!(window.sum(minute, seconds(70)), 0);
    }
}
