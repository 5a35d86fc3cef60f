//! [`OtherClient`]: somebody else on the same accounts.

use std::time::Duration;

/// Another application on the same accounts, which is there for one period and away for the next.
///
/// ```
/// use std::time::Duration;
/// use tower_ews::simulator::{OtherClient, Policy};
/// let policy = Policy::exchange_online().with(|policy| {
///     policy.other_client = Some(OtherClient { period: Duration::from_secs(60), calls: 14, execution: 0.5 });
/// });
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OtherClient {
    /// How long it is there, and then away. It is there at the start.
    pub period: Duration,
    /// How many calls of each payer it has in flight meanwhile.
    pub calls: u32,
    /// How many milliseconds of execution they take from each payer's busy budget in a millisecond.
    pub execution: f64,
}

impl OtherClient {
    /// The calls that it has in flight at this time.
    pub(super) fn calls_at(&self, now: Duration) -> u32 {
        match self.periods(now) % 2 {
            0 => self.calls,
            _ => 0,
        }
    }

    /// What it executes between two times.
    pub(super) fn executed(&self, from: Duration, to: Duration) -> Duration {
        let there = |until: Duration| {
            let whole = self.period * u32::try_from(self.periods(until) / 2).unwrap_or(u32::MAX);
            let rest = until.saturating_sub(whole * 2).min(self.period);
            whole + rest
        };
        let there = there(to).saturating_sub(there(from));
        there.mul_f64(self.execution.max(0.0))
    }

    fn periods(&self, at: Duration) -> u128 {
        at.as_nanos() / self.period.as_nanos().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_client_comes_and_goes() {
        let seconds = Duration::from_secs;
        let other = OtherClient {
            period: seconds(10),
            calls: 3,
            execution: 0.5,
        };
        let calls = [0, 9, 10, 19, 20].map(|at| other.calls_at(seconds(at)));
        assert_eq!(calls, [3, 3, 0, 0, 3]);
        for (from, to, executed) in [(0, 10, 5), (4, 14, 3), (10, 20, 0), (8, 44, 8)] {
            let executed = seconds(executed);
            assert_eq!(
                other.executed(seconds(from), seconds(to)),
                executed,
                "{from} {to}"
            );
        }
    }
}
