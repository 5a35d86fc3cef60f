//! [`LocalLedger`] and its builder: a configuration, and a state behind one lock.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::clock::LONGEST;
use super::config::Config;
use super::notice::Notice;
use super::state::State;
use crate::ledger::{Learnt, Limit};
use crate::principal::{Budget, Principal};
use crate::wiring::ledger_dropped;

/// Keeps the budgets of one process.
///
/// Budgets that the ledger was not told of are unlimited. A principal costs memory only as long as something of it is
/// held, queued, gated, learnt, open or set from outside.
///
/// # Fairness
///
/// First come, first served among the calls of one [priority](crate::extensions::Priority) that can run now, the more urgent ones
/// first. While more urgent calls wait for the same thing, a less urgent one goes each `max_overtake`. A call that needs a new value of a
/// [`Limit::Distinct`] budget waits until a place is free, and calls whose value is open overtake it, for
/// [`max_overtake`](LocalLedgerBuilder::max_overtake) at most: then an open value takes in no new calls, so that its
/// place comes free. A call that was admitted and is not polled for a second loses its turn to those behind it, and asks again
/// once it is polled. The next one's turn is held for half as long, and so on, until one is polled: however many are not, those behind
/// them wait two seconds longer.
///
/// # Adaptive limits
///
/// A report of [`Signal::Exceeded`](crate::ledger::Signal::Exceeded) lowers the limit of that budget to what the server evidently took, and the ledger finds the
/// way back by itself, up to the configured number:
///
/// | what happens | what is known | what follows |
/// | --- | --- | --- |
/// | one call is refused | the server had no room for one more beside what was under way | the limit is what was under way, less that call |
/// | several calls that were under way together are refused | none of them had a place on the server | each lowers the limit once, whatever has ended by the time it is read |
/// | a level lasts | nothing of what is above it | one call more is tried: after a round trip, then each time the level has lasted a third longer (an eighth where hardly anything goes), after 400 good responses or 15 minutes at the latest |
/// | the call more is refused | the level is the limit still | back to the level, at the cost of one resend |
/// | the call more is not refused for twice as long as refusals take | it was let in | twice as many more are tried next |
/// | a call is refused that was alone | others hold all places | single calls try, each an eighth later than the last (30 s at most) |
/// | calls are given up without a response, where a limit is learnt | the server works on them for the usual time, and perhaps longer | they count until they would have had their response; what holds places for longer is told by refusals |
/// | a stream is refused | as for a call; streams that run hold their places | as for a call; the first notification is its good response |
/// | a mailbox is refused ([`Limit::Distinct`]) | as for a stream | as for a stream, but no try sooner than an eighth of the time that an idle mailbox takes to close |
///
/// Of a bucket ([`Limit::PerWindow`]) the server's own size and rate are found by lock-outs
/// ([`Signal::Busy`](crate::ledger::Signal::Busy), for the time of the server or else for requests;
/// [`Signal::Exceeded`](crate::ledger::Signal::Exceeded) for the one that it names):
///
/// | what happens | what is known | what follows |
/// | --- | --- | --- |
/// | the first lock-out | what was drawn from a full bucket by then | nothing yet: one number says nothing of two |
/// | the second one | what was drawn between the two came back between them, wherever the server locks out and opens: that is its rate; with the first one, its size | calls keep to 97 % of that, never above the policy, and leave what the calls in flight may cost on top |
/// | one when nothing is left by the configured numbers either, after as much was drawn as they say comes back | they are the server's, and a call cost more than others | nothing |
/// | none for eight times as long | somebody else may have left the account | an eighth more, and again |
/// | nothing drawn for an hour | | it is forgotten |
///
/// A limit that might have been tried for 15 minutes, and was not, is forgotten. So is one that is back at the configured number, and
/// has held there for as long as the level before. An endpoint that is overloaded again and again gets half as many calls at a
/// time, and finds its way back in the same manner; calls that hang ([`Budget::HangingConnections`]) do not count there. After a gate has opened one call goes first, and each good response lets one more go
/// at the same time.
///
/// How long a job takes by that, in times of what a client needs that knows the server's limits. It is the longest time of all
/// cases of `tests/adaptation`, with several seeds each. There calls take 50 ms to 3 s, and the ways there and back up to 20 ms each:
///
/// | where the server's limits are not the configured ones | times the least |
/// | --- | --- |
/// | a lower limit of calls, a small job | 1.00 |
/// | the same for a large job or one large batch | 1.10 |
/// | calls of a client that was killed run on for 1 to 30 s | 1.15 |
/// | calls are given up, the first ten or a tenth of all, and run on for 1 to 10 s | 1.07 |
/// | streams are closed, and hold their places for 30 s to 5 min | 1.12 |
/// | the endpoint was overloaded, an hour or a month ago | 1.00 |
/// | fewer mailboxes open than configured, for 5 s or 5 min each | 1.08 |
/// | another client on the account takes half, most or all of it, every other 3 or 10 s | 1.12 |
/// | the same each other second, which is ten round trips | 1.23 |
/// | bodies that do not tell their end | 1.08 |
/// | any of that with numbers at random, 10,800 cases, but for another client and for calls to many mailboxes in turn | 1.20, and one of them 1.30 |
/// | the same with another client, but for one time that it is there | 1.18 |
///
/// What is left is mostly the time until a higher level is tried. A client cannot do better than that where another one comes
/// and goes within a few round trips: a try and the calls that follow it take two of them each time. A job that is not done when the other client comes back may have to
/// wait until it is gone again.
///
/// # Cost
///
/// The uncontended call of one charge takes no clock and allocates nothing but its request. Under the lock no operation costs
/// more than `O(log n)` in the calls that wait; what a change brings up for many calls is worked off in small portions.
///
/// ```
/// use std::sync::Arc;
/// use tower_ews::ledger::{AcquireRequest, Ledger, Limit, LocalLedger, Permit};
/// use tower_ews::principal::{Budget, Principal};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let ledger = Arc::new(LocalLedger::builder().budget(Budget::Concurrency, Limit::InFlight(1)).build());
/// let contoso = AcquireRequest::new(Principal::new("contoso"));
/// let fabrikam = AcquireRequest::new(Principal::new("fabrikam"));
///
/// let first = Permit::try_acquire(ledger.clone(), &contoso).unwrap();
/// // A second call of the same principal has to wait, another principal has not.
/// assert!(Permit::try_acquire(ledger.clone(), &contoso).is_none());
/// assert!(Permit::try_acquire(ledger.clone(), &fabrikam).is_some());
///
/// drop(first);
/// let second = ledger.clone().acquire(contoso).await.unwrap();
/// # drop(second);
/// # }
/// ```
pub struct LocalLedger {
    pub(super) config: Config,
    pub(super) state: Mutex<State>,
    /// Wakes the keeper before its time.
    pub(super) hurry: Arc<Notify>,
    /// Wakes a fleet's ledger: there is news for it.
    pub(super) news: Arc<Notify>,
}

/// Configures a [`LocalLedger`].
///
/// ```
/// use std::time::Duration;
/// use tower_ews::ledger::{Limit, LocalLedger};
/// use tower_ews::principal::Budget;
///
/// let ledger = LocalLedger::builder()
///     .budget(Budget::Concurrency, Limit::InFlight(27))
///     .max_queued(10_000)
///     .max_wait(Duration::from_secs(60))
///     .build();
/// # let _ = ledger;
/// ```
#[derive(Clone, Debug)]
#[must_use = "builders do nothing until they are built"]
pub struct LocalLedgerBuilder {
    pub(super) config: Config,
}

impl LocalLedgerBuilder {
    /// Adds a budget, the same for each principal.
    ///
    /// Each call that draws on a budget whose limit [is zero](Limit::is_zero) ends with [`AcquireError::ZeroLimit`](crate::ledger::AcquireError::ZeroLimit),
    /// and each that draws on one that was added twice with
    /// [`AcquireError::DuplicateBudget`](crate::ledger::AcquireError::DuplicateBudget).
    pub fn budget(mut self, budget: Budget, limit: Limit) -> Self {
        self.config.add(budget, limit.bounded(LONGEST));
        self
    }

    /// Keeps `amount` of a budget free for calls of [`Priority::Interactive`](crate::extensions::Priority): others leave so much of a limit of
    /// amounts in flight, or of a bucket, whatever the limit is now. They run, one at a time, even where the limit is not larger than
    /// that. A limit of different values has no reserve. Default: none. A second one of the same budget replaces the first.
    ///
    /// ```
    /// use tower_ews::ledger::{Limit, LocalLedger};
    /// use tower_ews::principal::Budget;
    ///
    /// // Of 27 concurrent calls 25 may be those of a migration.
    /// let ledger = LocalLedger::builder()
    ///     .budget(Budget::Concurrency, Limit::InFlight(27))
    ///     .reserve(Budget::Concurrency, 2)
    ///     .build();
    /// # let _ = ledger;
    /// ```
    pub fn reserve(mut self, budget: Budget, amount: u32) -> Self {
        let reserves = &mut self.config.reserves;
        reserves.retain(|(known, _)| *known != budget);
        if amount > 0 {
            reserves.push((budget, amount));
        }
        self
    }

    /// How many calls may wait in this ledger. Default: 100,000.
    pub fn max_queued(mut self, calls: usize) -> Self {
        self.config.max_queued = calls;
        self
    }

    /// How long one call may wait, gates included. Default: 15 minutes. A call's own deadline may be sooner.
    pub fn max_wait(mut self, time: Duration) -> Self {
        self.config.max_wait = time.min(LONGEST);
        self
    }

    /// How long calls may be overtaken by others that came later. Default: 5 minutes.
    ///
    /// It bounds three things: calls to open mailboxes overtaking one that needs a new mailbox, calls that draw on
    /// one budget overtaking one that needs several, and urgent calls overtaking less urgent ones. The default was measured, with steady calls to 20 to 40 mailboxes
    /// of which 16 may be open until five minutes after their last use: shorter, and calls wait longer on average, since
    /// places stand idle more often; twice as long, and some time out.
    pub fn max_overtake(mut self, time: Duration) -> Self {
        self.config.max_overtake = time.min(LONGEST);
        self
    }

    /// Builds the ledger.
    #[must_use]
    pub fn build(self) -> LocalLedger {
        let state = State::new(self.config.leased);
        LocalLedger {
            config: self.config,
            state: Mutex::new(state),
            hurry: Arc::default(),
            news: Arc::default(),
        }
    }
}

/// Why a limit cannot be set.
///
/// ```
/// use tower_ews::ledger::{LocalLedger, SetLimitError};
/// use tower_ews::principal::{Budget, Principal};
///
/// let ledger = LocalLedger::in_flight(4);
/// let error = ledger.set_limit(&Principal::new("contoso"), Budget::SyncCalls, 2).unwrap_err();
/// assert_eq!(error, SetLimitError::UnknownBudget { budget: Budget::SyncCalls });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetLimitError {
    /// The ledger does not keep that budget.
    #[error("the ledger keeps no budget {budget}: configure it with `LocalLedgerBuilder::budget`")]
    UnknownBudget {
        /// Which budget.
        budget: Budget,
    },
    /// A limit of 0 would let no call run.
    #[error("a limit of 0 for {budget} would let no call run: allow at least 1")]
    Zero {
        /// Which budget.
        budget: Budget,
    },
}

impl LocalLedger {
    /// Starts to configure a ledger without budgets.
    pub fn builder() -> LocalLedgerBuilder {
        LocalLedgerBuilder {
            config: Config {
                budgets: SmallVec::new(),
                wrong: Vec::new(),
                reserves: Vec::new(),
                max_queued: 100_000,
                max_wait: Duration::from_secs(15 * 60),
                max_overtake: Duration::from_secs(5 * 60),
                leased: false,
            },
        }
    }

    /// Creates a ledger with one limit: that many calls of each principal at the same time.
    ///
    /// With a limit of 0 each call ends with [`AcquireError::ZeroLimit`](crate::ledger::AcquireError::ZeroLimit).
    #[must_use]
    pub fn in_flight(limit: u32) -> Self {
        Self::builder()
            .budget(Budget::Concurrency, Limit::InFlight(limit))
            .build()
    }

    /// Sets the number of one budget of one principal, at run time. `None` is the configured one again. What was learnt of it is
    /// forgotten; what is held above a lower number runs to its end.
    ///
    /// The principal is kept in memory until its number is the configured one again.
    ///
    /// # Errors
    ///
    /// [`SetLimitError`] if the ledger does not keep that budget, or if the number is 0.
    ///
    /// ```
    /// use tower_ews::ledger::LocalLedger;
    /// use tower_ews::principal::{Budget, Principal};
    ///
    /// let ledger = LocalLedger::in_flight(27);
    /// ledger.set_limit(&Principal::account("svc"), Budget::Concurrency, 5)?;
    /// ledger.set_limit(&Principal::account("svc"), Budget::Concurrency, None)?;
    /// # Ok::<_, tower_ews::ledger::SetLimitError>(())
    /// ```
    pub fn set_limit(
        &self,
        principal: &Principal,
        budget: Budget,
        number: impl Into<Option<u32>>,
    ) -> Result<(), SetLimitError> {
        let policy = self.config.limit(budget);
        let policy = policy.ok_or(SetLimitError::UnknownBudget { budget })?;
        let number = number.into();
        if number == Some(0) {
            return Err(SetLimitError::Zero { budget });
        }
        self.with(|state, config| {
            state.set_limit(principal, budget, number, policy, Instant::now(), config);
        });
        Ok(())
    }

    /// Returns what the next process would have to find out again: see [`Learnt`].
    ///
    /// What is in flight counts as ended now. The gates of endpoints are not in it.
    pub fn export(&self) -> Learnt {
        self.swept(State::export)
    }

    /// Takes in what the ledger of another process knew. Budgets that this one does not keep are left out, with one warning in the log,
    /// and so is what has passed since or is counted otherwise here. Nothing of it holds a call back for more than a day.
    pub fn import(&self, learnt: &Learnt) {
        let now = Instant::now();
        let left_out = self.with(|state, config| state.import(learnt, now, config));
        if let Some((budget, principal)) = left_out.first() {
            let budget = budget.map_or_else(|| "a gate".to_owned(), |budget| format!("{budget:?}"));
            tracing::warn!(
                left_out = left_out.len(),
                of = learnt.len(),
                first = format_args!("{budget} of {principal}"),
                "some of what another process has learnt is left out: this ledger keeps no such budget, or the principal cannot be read"
            );
        }
    }

    /// Closes the gate of a principal until then. Never opens it sooner than it would.
    pub fn close_gate(&self, principal: &Principal, until: Instant) {
        let now = Instant::now();
        self.with(|state, config| state.lock_out(principal, until, now, config));
    }

    /// Closes the gate of an endpoint until then, for everybody's calls to it. Never opens it sooner than it would.
    pub fn close_endpoint_gate(&self, endpoint: &Authority, until: Instant) {
        let now = Instant::now();
        self.with(|state, config| state.close_endpoint(endpoint, until, now, config));
    }

    /// Forgets what has passed, in portions, so that nobody waits for the lock for long. Then looks at the rest.
    pub(super) fn swept<T>(&self, look: impl FnOnce(&State, Instant) -> T) -> T {
        let now = Instant::now();
        while self.with(|state, _| state.sweep(now)) {}
        self.with(|state, _| look(state, now))
    }

    /// Runs `change` on the state, then tells the log and wakes who was admitted or armed, outside the lock.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut State, &Config) -> T) -> T {
        let mut state = self.state.lock();
        let out = change(&mut state, &self.config);
        let hurry = state.hurries_keeper();
        let news = state.news.is_fresh();
        if !hurry && !news && !state.queue.has_wakers() && state.notices.is_empty() {
            return out;
        }
        let [wakers, spent] = state.queue.take_wakers();
        let notices = std::mem::take(&mut state.notices);
        drop(state);
        drop(spent);
        wakers.into_iter().for_each(std::task::Waker::wake);
        if hurry {
            self.hurry.notify_one();
        }
        if news {
            self.news.notify_one();
        }
        notices.iter().for_each(Notice::log);
        out
    }
}

impl Drop for LocalLedger {
    fn drop(&mut self) {
        ledger_dropped(self.state.get_mut().admitted());
    }
}

impl fmt::Debug for LocalLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLedger")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
