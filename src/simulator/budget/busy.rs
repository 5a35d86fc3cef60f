//! [`Busy`]: the balance of execution time, by burst, recharge rate and cutoff.

use std::time::Duration;

use super::super::policy::Policy;

/// What one payer has left of its busy budget.
#[derive(Debug, Default)]
pub(super) struct Busy {
    /// Milliseconds of execution left; negative when overdrawn. Meaningless until `since` is set.
    balance: f64,
    since: Option<Duration>,
    locked: bool,
}

/// A lock-out without recharging ends some day.
const LONGEST_LOCKOUT: Duration = Duration::from_secs(24 * 3600);

impl Busy {
    /// Brings the balance up to now.
    pub(super) fn recharge(&mut self, policy: &Policy, now: Duration) {
        let Some(burst) = policy.max_burst else {
            return;
        };
        let Some(since) = self.since else {
            self.balance = burst as f64;
            self.since = Some(now);
            return;
        };
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        let gained = milliseconds(now.saturating_sub(since)) * rate(policy);
        let others = policy
            .other_client
            .map_or(0.0, |other| milliseconds(other.executed(since, now)));
        self.balance = (self.balance + gained - others).min(burst as f64);
        self.since = Some(now);
        //  back-off was rounded up to whole milliseconds: half of one is no reason to lock a
        //  punctual client out again.
        if self.locked && self.balance + rate(policy) * 0.5 >= reopen_level(policy) {
            self.locked = false;
        }
    }

    /// Takes execution time, and returns whether that locks the payer out.
    pub(super) fn drain(&mut self, policy: &Policy, milliseconds: f64) -> bool {
        let before = self.locked;
        if policy.max_burst.is_some() {
            self.balance -= milliseconds;
            self.locked |= self.balance < -(policy.cutoff_balance as f64);
        }
        self.locked && !before
    }

    pub(super) fn is_locked(&self) -> bool {
        self.locked
    }

    /// How long the lock-out still lasts.
    pub(super) fn remaining(&self, policy: &Policy) -> Option<Duration> {
        if !self.locked {
            return None;
        }
        let missing = (reopen_level(policy) - self.balance).max(0.0);
        let seconds = missing / rate(policy) / 1000.0;
        // `try_from` refuses the infinity that a recharge rate of zero gives.
        Some(
            Duration::try_from_secs_f64(seconds)
                .unwrap_or(LONGEST_LOCKOUT)
                .min(LONGEST_LOCKOUT),
        )
    }

    /// How far the balance is between zero and the cutoff: 0 to 1.
    pub(super) fn overdraft(&self, policy: &Policy) -> f64 {
        if policy.max_burst.is_none() || self.balance >= 0.0 {
            return 0.0;
        }
        (-self.balance / policy.cutoff_balance.max(1) as f64).min(1.0)
    }
}

/// Milliseconds of balance gained in a millisecond.
fn rate(policy: &Policy) -> f64 {
    policy.recharge_rate as f64 / 3_600_000.0
}

/// The balance at which a lock-out ends: what recharges from the cutoff within the lock-out's least
/// length.
fn reopen_level(policy: &Policy) -> f64 {
    let recharged = policy.lockout.as_secs_f64() * 1000.0 * rate(policy);
    (recharged - policy.cutoff_balance as f64).min(policy.max_burst.unwrap_or(0) as f64)
}
