//! What each payer has used of its budgets, and when it is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::policy::{OpenedBy, Policy};

/// Who is charged for a call.
///
/// ```
/// use tower_ews::simulator::Payer;
/// assert_eq!(Payer::Account("svc@contoso.com".into()).to_string(), "account svc@contoso.com");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Payer {
    /// The calling account: its own mailbox, and delegate access.
    Account(String),
    /// The copy of a mailbox's budget on which every impersonating account draws.
    Copy(String),
}

impl fmt::Display for Payer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payer::Account(name) => write!(f, "account {name}"),
            Payer::Copy(name) => write!(f, "copy {name}"),
        }
    }
}

/// Why a call, or a member of one, is refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Refusal {
    /// Too many calls of one payer; the limit.
    Connections(u32),
    /// Too many synchronisation calls; the limit.
    Syncs(u32),
    /// Locked out for this much policy time.
    Busy(Duration),
}

/// All that is kept for one payer.
#[derive(Debug, Default)]
struct Account {
    in_flight: u32,
    peak: u32,
    syncs: u32,
    find_rows: u32,
    /// Milliseconds of execution left; negative when overdrawn. Meaningless until `since` is set.
    balance: f64,
    since: Option<Duration>,
    locked: bool,
}

/// The accounts of every payer, and the open mailboxes of every account. Times are policy time
/// since the start.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    accounts: BTreeMap<Payer, Account>,
    open: BTreeMap<String, BTreeMap<usize, Duration>>,
}

/// A lock-out without recharging ends some day.
const LONGEST_LOCKOUT: Duration = Duration::from_secs(24 * 3600);

impl Budgets {
    /// Puts a call of all these payers in flight, or says why not and puts none.
    pub(super) fn arrive(
        &mut self,
        policy: &Policy,
        payers: &[Payer],
        sync: bool,
        now: Duration,
    ) -> Result<(), Refusal> {
        let mut busy: Option<Duration> = None;
        for payer in payers {
            let wait = self.refuse_while_locked(policy, payer, now);
            busy = busy.max(wait);
        }
        if let Some(wait) = busy {
            return Err(Refusal::Busy(wait));
        }
        for payer in payers {
            let account = self.accounts.entry(payer.clone()).or_default();
            if let Some(limit) = policy
                .max_concurrency
                .filter(|limit| account.in_flight >= *limit)
            {
                return Err(Refusal::Connections(limit));
            }
            if let Some(limit) = policy
                .concurrent_sync_calls
                .filter(|limit| sync && account.syncs >= *limit)
            {
                return Err(Refusal::Syncs(limit));
            }
        }
        for payer in payers {
            let account = self.accounts.entry(payer.clone()).or_default();
            account.in_flight += 1;
            account.syncs += u32::from(sync);
            account.peak = account.peak.max(account.in_flight);
        }
        Ok(())
    }

    /// Takes a call out of flight again, with the rows that it held.
    pub(super) fn leave(&mut self, payers: &[Payer], sync: bool, rows: u32) {
        for payer in payers {
            if let Some(account) = self.accounts.get_mut(payer) {
                account.in_flight = account.in_flight.saturating_sub(1);
                account.syncs = account.syncs.saturating_sub(u32::from(sync));
                account.find_rows = account.find_rows.saturating_sub(rows);
            }
        }
    }

    /// Charges execution time to all payers, and says how many of them it locks out.
    pub(super) fn execute(
        &mut self,
        policy: &Policy,
        payers: &[Payer],
        time: Duration,
        now: Duration,
    ) -> u64 {
        let mut locked_out = 0;
        for payer in payers {
            let account = self.accounts.entry(payer.clone()).or_default();
            account.recharge(policy, now);
            let before = account.locked;
            account.drain(policy, time.as_secs_f64() * 1000.0);
            locked_out += u64::from(account.locked && !before);
        }
        locked_out
    }

    /// How long the longest lock-out among these payers still lasts.
    pub(super) fn locked(
        &mut self,
        policy: &Policy,
        payers: &[Payer],
        now: Duration,
    ) -> Option<Duration> {
        payers
            .iter()
            .filter_map(|payer| {
                let account = self.accounts.get_mut(payer)?;
                account.recharge(policy, now);
                account.remaining(policy)
            })
            .max()
    }

    fn refuse_while_locked(
        &mut self,
        policy: &Policy,
        payer: &Payer,
        now: Duration,
    ) -> Option<Duration> {
        let account = self.accounts.entry(payer.clone()).or_default();
        account.recharge(policy, now);
        if account.locked {
            account.drain(policy, policy.busy_call_cost as f64);
        }
        account.remaining(policy)
    }

    /// How many of `wanted` rows the payers may still have in memory.
    pub(super) fn rows_left(&self, limit: u32, payers: &[Payer]) -> u32 {
        let held = |payer| {
            self.accounts
                .get(payer)
                .map_or(0, |account| account.find_rows)
        };
        limit.saturating_sub(payers.iter().map(held).max().unwrap_or(0))
    }

    /// Takes rows into memory.
    pub(super) fn hold_rows(&mut self, payers: &[Payer], rows: u32) {
        for payer in payers {
            self.accounts.entry(payer.clone()).or_default().find_rows += rows;
        }
    }

    /// Opens a mailbox for a delegate account, or keeps it open; `false` when too many are.
    pub(super) fn open(
        &mut self,
        policy: &Policy,
        account: &str,
        mailbox: usize,
        writes: bool,
        now: Duration,
    ) -> bool {
        let Some(limit) = policy.open_mailboxes else {
            return true;
        };
        if policy.opened_by == OpenedBy::Writes && !writes {
            return true;
        }
        let open = self.open.entry(account.to_owned()).or_default();
        open.retain(|_, used| now < used.saturating_add(policy.open_mailbox_idle));
        if !open.contains_key(&mailbox) && open.len() >= limit as usize {
            return false;
        }
        open.insert(mailbox, now);
        true
    }

    /// The most calls that each payer had in flight.
    pub(super) fn peaks(&self) -> BTreeMap<Payer, u32> {
        self.accounts
            .iter()
            .map(|(payer, account)| (payer.clone(), account.peak))
            .collect()
    }

    /// Calls in flight now.
    pub(super) fn in_flight(&self, payer: &Payer) -> u32 {
        self.accounts
            .get(payer)
            .map_or(0, |account| account.in_flight)
    }

    /// Starts the peaks anew.
    pub(super) fn reset_peaks(&mut self) {
        for account in self.accounts.values_mut() {
            account.peak = account.in_flight;
        }
    }
}

impl Account {
    fn recharge(&mut self, policy: &Policy, now: Duration) {
        let Some(burst) = policy.max_burst else {
            return;
        };
        let Some(since) = self.since else {
            self.balance = burst as f64;
            self.since = Some(now);
            return;
        };
        let passed = now.saturating_sub(since);
        self.balance =
            (self.balance + passed.as_secs_f64() * 1000.0 * rate(policy)).min(burst as f64);
        self.since = Some(now);
        //  back-off was rounded up to whole milliseconds: half of one is no reason to lock a
        //  punctual client out again.
        if self.locked && self.balance + rate(policy) * 0.5 >= reopen_level(policy) {
            self.locked = false;
        }
    }

    fn drain(&mut self, policy: &Policy, milliseconds: f64) {
        if policy.max_burst.is_some() {
            self.balance -= milliseconds;
            self.locked |= self.balance < -(policy.cutoff_balance as f64);
        }
    }

    fn remaining(&self, policy: &Policy) -> Option<Duration> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn payers(names: &[&str]) -> Vec<Payer> {
        names
            .iter()
            .map(|name| Payer::Account((*name).to_owned()))
            .collect()
    }

    #[test]
    fn a_call_of_two_payers_takes_both_or_none() {
        let policy = Policy {
            max_concurrency: Some(1),
            ..Policy::unlimited()
        };
        let mut budgets = Budgets::default();
        let (a, ab) = (payers(&["a"]), payers(&["b", "a"]));
        budgets.arrive(&policy, &a, false, seconds(0)).unwrap();
        assert_eq!(
            budgets.arrive(&policy, &ab, false, seconds(0)),
            Err(Refusal::Connections(1))
        );
        assert_eq!(budgets.in_flight(&ab[0]), 0);
        budgets.leave(&a, false, 0);
        budgets.arrive(&policy, &ab, false, seconds(0)).unwrap();
        assert_eq!(budgets.peaks()[&ab[0]], 1);
    }

    #[test]
    fn synchronisation_has_its_own_limit() {
        let policy = Policy {
            concurrent_sync_calls: Some(1),
            ..Policy::unlimited()
        };
        let mut budgets = Budgets::default();
        let a = payers(&["a"]);
        budgets.arrive(&policy, &a, true, seconds(0)).unwrap();
        assert_eq!(
            budgets.arrive(&policy, &a, true, seconds(0)),
            Err(Refusal::Syncs(1))
        );
        budgets.arrive(&policy, &a, false, seconds(0)).unwrap();
    }

    #[test]
    fn the_busy_budget_locks_out_and_recharges() {
        let policy = Policy {
            max_burst: Some(1_000),
            recharge_rate: 1_800_000,
            cutoff_balance: 500,
            lockout: seconds(2),
            busy_call_cost: 100,
            ..Policy::unlimited()
        };
        let mut budgets = Budgets::default();
        let a = payers(&["a"]);
        budgets.arrive(&policy, &a, false, seconds(0)).unwrap();
        budgets.execute(&policy, &a, Duration::from_millis(1_500), seconds(0));
        assert_eq!(budgets.locked(&policy, &a, seconds(0)), None);
        budgets.execute(&policy, &a, Duration::from_millis(100), seconds(0));
        // From -600 up to the reopening level of 500 at half a millisecond per millisecond.
        assert_eq!(
            budgets.locked(&policy, &a, seconds(0)),
            Some(Duration::from_millis(2_200))
        );
        // A call meanwhile costs 100 more.
        let Err(Refusal::Busy(wait)) = budgets.arrive(&policy, &a, false, seconds(1)) else {
            panic!()
        };
        assert_eq!(wait, Duration::from_millis(1_400));
        assert_eq!(
            budgets.arrive(&policy, &payers(&["b"]), false, seconds(1)),
            Ok(())
        );
        assert_eq!(
            budgets.arrive(&policy, &a, false, Duration::from_millis(2_400)),
            Ok(())
        );
        // It never saves more than the burst.
        assert_eq!(budgets.locked(&policy, &a, seconds(9_000)), None);
        budgets.execute(&policy, &a, Duration::from_millis(1_501), seconds(9_000));
        assert!(budgets.locked(&policy, &a, seconds(9_000)).is_some());
    }

    #[test]
    fn a_lockout_without_recharge_is_finite() {
        let policy = Policy {
            max_burst: Some(0),
            recharge_rate: 0,
            cutoff_balance: 0,
            ..Policy::unlimited()
        };
        let mut budgets = Budgets::default();
        let a = payers(&["a"]);
        budgets.arrive(&policy, &a, false, seconds(0)).unwrap();
        budgets.execute(&policy, &a, seconds(1), seconds(0));
        assert_eq!(
            budgets.locked(&policy, &a, seconds(0)),
            Some(LONGEST_LOCKOUT)
        );
    }

    #[test]
    fn mailboxes_close_after_their_last_use() {
        let policy = Policy {
            open_mailboxes: Some(2),
            open_mailbox_idle: seconds(10),
            ..Policy::unlimited()
        };
        let mut budgets = Budgets::default();
        assert!(budgets.open(&policy, "a", 1, true, seconds(0)));
        assert!(budgets.open(&policy, "a", 2, true, seconds(0)));
        assert!(!budgets.open(&policy, "a", 3, true, seconds(0)));
        assert!(
            budgets.open(&policy, "a", 3, false, seconds(0)),
            "reads open nothing"
        );
        assert!(
            budgets.open(&policy, "b", 3, true, seconds(0)),
            "another account"
        );
        assert!(budgets.open(&policy, "a", 1, true, seconds(8)));
        assert!(
            budgets.open(&policy, "a", 3, true, seconds(10)),
            "2 has closed"
        );
        assert!(!budgets.open(&policy, "a", 2, true, seconds(17)));
        assert!(
            budgets.open(&policy, "a", 2, true, seconds(18)),
            "1 has closed"
        );
    }

    #[test]
    fn rows_are_held_until_the_call_leaves() {
        let policy = Policy::unlimited();
        let mut budgets = Budgets::default();
        let a = payers(&["a"]);
        budgets.arrive(&policy, &a, false, seconds(0)).unwrap();
        budgets.hold_rows(&a, 70);
        assert_eq!(budgets.rows_left(100, &a), 30);
        budgets.leave(&a, false, 70);
        assert_eq!(budgets.rows_left(100, &a), 100);
    }
}
