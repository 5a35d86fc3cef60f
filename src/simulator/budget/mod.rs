//! What each payer has used of its budgets, and when it is refused.

mod busy;
mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use self::busy::Busy;
use self::window::Window;
use super::policy::{OpenedBy, PercentTime, Policy};

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

/// What a call draws on besides the concurrency of plain calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum CallKind {
    #[default]
    Plain,
    /// SyncFolderItems and SyncFolderHierarchy.
    Sync,
    /// GetStreamingEvents: it hangs, and is no plain call.
    Hanging,
    /// SearchMailboxes.
    Discovery,
}

/// A message that was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Submission {
    InTime,
    /// Over the rate of messages: it is delivered later.
    Late,
}

/// Why a message is not submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Too many recipients within a day.
    Recipients,
    /// Too many messages within a minute; until there is room.
    Messages(Duration),
}

/// Why a call, or a member of one, is refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Refusal {
    /// Too many calls of one payer; the limit.
    Connections(u32),
    /// Too many hanging connections; the limit.
    Hanging(u32),
    /// Too many synchronisation calls; the limit.
    Syncs(u32),
    /// Too many searches of several mailboxes; the limit.
    Discoveries(u32),
    /// Locked out for this much policy time.
    Busy(Duration),
    /// Too much time of this budget within a minute; until it has room again.
    Time(&'static str, Duration),
    /// Too soon after the payer's last call.
    Spacing(Duration),
}

impl Refusal {
    /// The parameter that was exceeded, as the report names it.
    pub(super) fn parameter(&self) -> &'static str {
        match self {
            Self::Connections(_) => "EWSMaxConcurrency",
            Self::Hanging(_) => "HangingConnectionLimit",
            Self::Syncs(_) => "ConcurrentSyncCalls",
            Self::Discoveries(_) => "DiscoveryMaxConcurrency",
            Self::Busy(_) => "EwsCutoffBalance",
            Self::Time(parameter, _) => parameter,
            Self::Spacing(_) => "spacing",
        }
    }
}

/// All that is kept for one payer.
#[derive(Debug, Default)]
struct Account {
    in_flight: u32,
    peak: u32,
    syncs: u32,
    hanging: u32,
    peak_hanging: u32,
    discoveries: u32,
    find_rows: u32,
    busy: Busy,
    /// Microseconds in the directory, in client access and in the mailbox store.
    times: [Window; 3],
    messages: Window,
    recipients: Window,
    last_arrival: Option<Duration>,
    /// Until when somebody has locked it out by hand.
    locked_until: Option<Duration>,
}

/// The accounts of every payer, and the open mailboxes of every account. Times are policy time
/// since the start.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    accounts: BTreeMap<Payer, Account>,
    open: BTreeMap<String, BTreeMap<usize, Duration>>,
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The percentages of a minute, by name, in the order of [`Account::times`].
fn percentages(policy: &Policy) -> [(&'static str, Option<PercentTime>); 3] {
    [
        ("EWSPercentTimeInAD", policy.percent_time_in_ad),
        ("EWSPercentTimeInCAS", policy.percent_time_in_cas),
        (
            "EWSPercentTimeInMailboxRPC",
            policy.percent_time_in_mailbox_rpc,
        ),
    ]
}

impl Account {
    /// How long a lock-out still lasts, whatever has brought it on.
    fn locked_for(&self, policy: &Policy, now: Duration) -> Option<Duration> {
        let by_hand = self.locked_until.and_then(|until| until.checked_sub(now));
        self.busy
            .remaining(policy)
            .max(by_hand.filter(|time| !time.is_zero()))
    }
}

impl Budgets {
    /// Locks a payer out until then.
    pub(super) fn lock_out(&mut self, payer: &Payer, until: Duration) {
        let account = self.accounts.entry(payer.clone()).or_default();
        account.locked_until = Some(until);
    }

    /// Puts a call of all these payers in flight, or says why not and puts none.
    pub(super) fn arrive(
        &mut self,
        policy: &Policy,
        payers: &[Payer],
        kind: CallKind,
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
            account.refused_for_time(policy, now)?;
            account.refused_for_number(policy, kind, now)?;
        }
        for payer in payers {
            let account = self.accounts.entry(payer.clone()).or_default();
            account.last_arrival = Some(now);
            if let Some(calls) = account.calls(kind) {
                *calls += 1;
            }
            account.peak_hanging = account.peak_hanging.max(account.hanging);
            if kind != CallKind::Hanging {
                account.in_flight += 1;
                account.peak = account.peak.max(account.in_flight);
            }
        }
        Ok(())
    }

    /// Takes a call out of flight again, with the rows that it held.
    pub(super) fn leave(&mut self, payers: &[Payer], kind: CallKind, rows: u32) {
        for payer in payers {
            if let Some(account) = self.accounts.get_mut(payer) {
                if let Some(calls) = account.calls(kind) {
                    *calls = calls.saturating_sub(1);
                }
                if kind != CallKind::Hanging {
                    account.in_flight = account.in_flight.saturating_sub(1);
                }
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
            account.busy.recharge(policy, now);
            let locks = account.busy.drain(policy, time.as_secs_f64() * 1000.0);
            locked_out += u64::from(locks);
            let windows = account.times.iter_mut().zip(percentages(policy));
            for (window, (_, percent)) in windows {
                if let Some(percent) = percent {
                    window.add((time.as_micros() as f64 * percent.share) as u64, now);
                }
            }
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
                account.busy.recharge(policy, now);
                account.locked_for(policy, now)
            })
            .max()
    }

    /// How long a member of these payers is held up before it is executed, and by which parameter.
    pub(super) fn delay(
        &mut self,
        policy: &Policy,
        payers: &[Payer],
        now: Duration,
    ) -> Option<(&'static str, Duration)> {
        let delays = payers.iter().filter_map(|payer| {
            let account = self.accounts.get_mut(payer)?;
            account.busy.recharge(policy, now);
            let overdraft = account.busy.overdraft(policy);
            let overdrawn = policy.overdraft_delay.mul_f64(overdraft);
            let overdrawn = (overdraft > 0.0).then_some(("EwsMaxBurst", overdrawn));
            let over_time = account.over_time(policy, now);
            let over_time = over_time.map(|(name, wait)| (name, wait.min(policy.overdraft_delay)));
            overdrawn
                .into_iter()
                .chain(over_time)
                .max_by_key(|(_, delay)| *delay)
        });
        delays.max_by_key(|(_, delay)| *delay)
    }

    /// Counts a message with this many recipients for each payer; else the parameter that it would
    /// exceed. One that comes over the rate is counted, too, unless the rate refuses: it is late.
    pub(super) fn submit(
        &mut self,
        policy: &Policy,
        payers: &[Payer],
        recipients: u64,
        now: Duration,
    ) -> Result<Submission, Refused> {
        let mut submission = Submission::InTime;
        for payer in payers {
            let account = self.accounts.entry(payer.clone()).or_default();
            let today = account.recipients.sum(DAY, now);
            if policy
                .recipient_rate
                .is_some_and(|most| today + recipients > u64::from(most))
            {
                return Err(Refused::Recipients);
            }
            let most = policy.message_rate.map(u64::from);
            if let Some(most) = most.filter(|most| account.messages.sum(MINUTE, now) >= *most) {
                submission = Submission::Late;
                if policy.message_rate_refuses {
                    let wait = account.messages.wait(most, MINUTE, now);
                    return Err(Refused::Messages(wait));
                }
            }
        }
        for payer in payers {
            let account = self.accounts.entry(payer.clone()).or_default();
            account.recipients.add(recipients, now);
            account.messages.add(1, now);
        }
        Ok(submission)
    }

    fn refuse_while_locked(
        &mut self,
        policy: &Policy,
        payer: &Payer,
        now: Duration,
    ) -> Option<Duration> {
        let account = self.accounts.entry(payer.clone()).or_default();
        account.busy.recharge(policy, now);
        if account.busy.is_locked() {
            let cost = policy.busy_call_cost as f64;
            account.busy.drain(policy, cost);
        }
        account.locked_for(policy, now)
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

    /// The same of hanging calls, of those who have had any.
    pub(super) fn hanging_peaks(&self) -> BTreeMap<Payer, u32> {
        self.accounts
            .iter()
            .filter(|(_, account)| account.peak_hanging > 0)
            .map(|(payer, account)| (payer.clone(), account.peak_hanging))
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
            account.peak_hanging = account.hanging;
        }
    }
}

impl Account {
    /// What counts a call of this kind besides, or instead of, those in flight.
    fn calls(&mut self, kind: CallKind) -> Option<&mut u32> {
        match kind {
            CallKind::Plain => None,
            CallKind::Sync => Some(&mut self.syncs),
            CallKind::Hanging => Some(&mut self.hanging),
            CallKind::Discovery => Some(&mut self.discoveries),
        }
    }

    /// The percentage of a minute that is used up, and for how long.
    fn over_time(&mut self, policy: &Policy, now: Duration) -> Option<(&'static str, Duration)> {
        let windows = self.times.iter_mut().zip(percentages(policy));
        let over = windows.filter_map(|(window, (name, percent))| {
            let most = (percent?.percent / 100.0 * MINUTE.as_micros() as f64) as u64;
            let over = window.sum(MINUTE, now) >= most;
            over.then(|| (name, window.wait(most, MINUTE, now)))
        });
        over.max_by_key(|(_, wait)| *wait)
    }

    fn refused_for_time(&mut self, policy: &Policy, now: Duration) -> Result<(), Refusal> {
        if let Some((parameter, wait)) = self.over_time(policy, now) {
            return Err(Refusal::Time(parameter, wait));
        }
        let next = self.last_arrival.zip(policy.min_spacing);
        match next.map(|(last, spacing)| last.saturating_add(spacing)) {
            Some(next) if now < next => Err(Refusal::Spacing(next - now)),
            _ => Ok(()),
        }
    }

    fn refused_for_number(
        &self,
        policy: &Policy,
        kind: CallKind,
        now: Duration,
    ) -> Result<(), Refusal> {
        let others = policy.other_client.map_or(0, |other| other.calls_at(now));
        let full = |limit: Option<u32>, used: u32| limit.filter(|limit| used >= *limit);
        let refused = match kind {
            CallKind::Hanging => {
                full(policy.hanging_connections, self.hanging).map(Refusal::Hanging)
            }
            _ => full(policy.max_concurrency, self.in_flight + others).map(Refusal::Connections),
        };
        let of_kind = match kind {
            CallKind::Sync => full(policy.concurrent_sync_calls, self.syncs).map(Refusal::Syncs),
            CallKind::Discovery => {
                full(policy.discovery_concurrency, self.discoveries).map(Refusal::Discoveries)
            }
            _ => None,
        };
        refused.or(of_kind).map_or(Ok(()), Err)
    }
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

    fn arrives(budgets: &mut Budgets, policy: &Policy, payers: &[Payer]) {
        let arrived = budgets.arrive(policy, payers, CallKind::Plain, seconds(0));
        arrived.unwrap();
    }

    #[test]
    fn a_call_of_two_payers_takes_both_or_none() {
        let policy = Policy {
            max_concurrency: Some(1),
            ..Policy::unlimited()
        };
        let mut budgets = Budgets::default();
        let (a, ab) = (payers(&["a"]), payers(&["b", "a"]));
        arrives(&mut budgets, &policy, &a);
        assert_eq!(
            budgets.arrive(&policy, &ab, CallKind::Plain, seconds(0)),
            Err(Refusal::Connections(1))
        );
        assert_eq!(budgets.in_flight(&ab[0]), 0);
        budgets.leave(&a, CallKind::Plain, 0);
        arrives(&mut budgets, &policy, &ab);
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
        budgets
            .arrive(&policy, &a, CallKind::Sync, seconds(0))
            .unwrap();
        assert_eq!(
            budgets.arrive(&policy, &a, CallKind::Sync, seconds(0)),
            Err(Refusal::Syncs(1))
        );
        arrives(&mut budgets, &policy, &a);
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
        arrives(&mut budgets, &policy, &a);
        budgets.execute(&policy, &a, Duration::from_millis(1_500), seconds(0));
        assert_eq!(budgets.locked(&policy, &a, seconds(0)), None);
        budgets.execute(&policy, &a, Duration::from_millis(100), seconds(0));
        // From -600 up to the reopening level of 500 at half a millisecond per millisecond.
        assert_eq!(
            budgets.locked(&policy, &a, seconds(0)),
            Some(Duration::from_millis(2_200))
        );
        // A call meanwhile costs 100 more.
        let Err(Refusal::Busy(wait)) = budgets.arrive(&policy, &a, CallKind::Plain, seconds(1))
        else {
            panic!()
        };
        assert_eq!(wait, Duration::from_millis(1_400));
        assert_eq!(
            budgets.arrive(&policy, &payers(&["b"]), CallKind::Plain, seconds(1)),
            Ok(())
        );
        assert_eq!(
            budgets.arrive(&policy, &a, CallKind::Plain, Duration::from_millis(2_400)),
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
        arrives(&mut budgets, &policy, &a);
        budgets.execute(&policy, &a, seconds(1), seconds(0));
        assert_eq!(budgets.locked(&policy, &a, seconds(0)), Some(DAY));
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
        arrives(&mut budgets, &policy, &a);
        budgets.hold_rows(&a, 70);
        assert_eq!(budgets.rows_left(100, &a), 30);
        budgets.leave(&a, CallKind::Plain, 70);
        assert_eq!(budgets.rows_left(100, &a), 100);
    }
}
