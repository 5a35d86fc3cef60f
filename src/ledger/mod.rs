//! Who keeps the budgets: the [`Ledger`] trait, what goes in and out of it, and [`LocalLedger`] for one process.
//!
//! Layers hold an `Arc<dyn Ledger>`. Two layers that share one act together:
//! [`ServerBusyBackoff`](crate::server_busy_backoff) reports what answers say about a budget, and
//! [`ConcurrencyByPrincipal`](crate::concurrency_by_principal) gets no permit for that principal before its gate opens.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::principal::{Budget, Charges, Principal};

mod local;

pub use local::{LocalLedger, LocalLedgerBuilder};

/// How a budget is counted, and its number.
///
/// ```
/// use std::time::Duration;
/// use tower_ews::ledger::Shape;
///
/// // Sixteen mailboxes open per delegate account, each until five minutes after its last use.
/// let open = Shape::Distinct { limit: 16, idle: Duration::from_secs(300) };
/// # let _ = open;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Shape {
    /// Amounts held at the same time.
    InFlight(u32),
    /// Different values in use: a value stays in use for `idle` after its last use.
    Distinct {
        /// How many values.
        limit: u32,
        /// How long a value stays open after its last use. In a file: seconds.
        #[cfg_attr(feature = "serde", serde(with = "crate::seconds"))]
        idle: Duration,
    },
}

/// A future permit: what [`Ledger::acquire`] returns.
pub type Acquire = Pin<Box<dyn Future<Output = Result<Permit, AcquireError>> + Send>>;

/// Keeps budgets: hands out permits, takes in signals.
///
/// Object safe; implementations are shared as `Arc<dyn Ledger>`.
pub trait Ledger: fmt::Debug + Send + Sync + 'static {
    /// Takes all charges of `draw` now, and the draw with them, or leaves it as it is. [`Permit::try_acquire`] makes a permit of the
    /// grant.
    fn try_acquire(&self, draw: &mut Draw) -> Option<Grant>;

    /// Waits until all charges of `draw` can be taken at once.
    ///
    /// # Cancellation
    ///
    /// A waiting call holds nothing. Dropping the future leaves the queue; a permit that was granted meanwhile goes to
    /// the next in line.
    fn acquire(self: Arc<Self>, draw: Draw) -> Acquire;

    /// What `grant` stands for. None if it was given back.
    fn receipt(&self, grant: Grant) -> Option<Receipt>;

    /// Tells what an answer said about a budget that `receipt` drew on.
    fn report(&self, receipt: &Receipt, signal: Signal);

    /// Gives `grant` back. Called by [`Permit`] exactly once.
    fn release(&self, grant: Grant, end: End);

    /// What is held, queued, gated and learnt now.
    fn snapshot(&self) -> Snapshot;
}

/// What a call asks a ledger for.
///
/// ```
/// use std::time::Duration;
/// use tokio::time::Instant;
/// use tower_ews::ledger::Draw;
/// use tower_ews::principal::Principal;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let mut draw = Draw::new(Principal::new("contoso"));
/// draw.deadline = Some(Instant::now() + Duration::from_secs(30));
/// # });
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Draw {
    /// What to take, all or nothing.
    pub charges: Charges,
    /// Where the call goes to: a gated endpoint holds it back.
    pub endpoint: Option<Authority>,
    /// When waiting is no use any more. The ledger has a bound of its own besides.
    pub deadline: Option<Instant>,
    /// The place in line that an earlier attempt of the same call had ([`Receipt::place`]).
    pub place: Option<u64>,
}

impl Draw {
    /// Asks for `charges`.
    pub fn new(charges: impl Into<Charges>) -> Self {
        Self {
            charges: charges.into(),
            ..Self::default()
        }
    }
}

/// What a permit stands for: which charges were taken, and when, in the ledger's order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Receipt {
    /// The charges that were taken.
    pub charges: Charges,
    /// The endpoint of the call.
    pub endpoint: Option<Authority>,
    /// The call's place in line: smaller came first.
    pub place: u64,
    /// The number of this grant: later grants have larger ones.
    pub grant: u64,
    /// How much was in flight on each charge's budget when this permit was granted, itself included.
    pub in_flight: InFlight,
    /// Whether this call tests a gate that has just opened: others wait for [`Signal::Accepted`] or its end.
    pub probe: bool,
}

impl Receipt {
    /// The receipt of a ledger's grant number `grant` for a call at `place`.
    pub fn new(draw: Draw, place: u64, grant: u64) -> Self {
        Self {
            charges: draw.charges,
            endpoint: draw.endpoint,
            place,
            grant,
            in_flight: InFlight::default(),
            probe: false,
        }
    }
}

/// How much was in flight, charge by charge.
///
/// ```
/// use tower_ews::ledger::InFlight;
///
/// let in_flight: InFlight = [3, 200].into_iter().collect();
/// assert_eq!(in_flight.get(1), Some(200));
/// assert_eq!(in_flight.get(2), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight(Amounts);

/// One amount is the usual case; it takes little room, since permits are moved about with it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Amounts {
    One(u32),
    Many(Box<[u32]>),
}

impl InFlight {
    /// The amount for the charge at that place.
    pub fn get(&self, at: usize) -> Option<u32> {
        match &self.0 {
            Amounts::One(amount) => (at == 0).then_some(*amount),
            Amounts::Many(amounts) => amounts.get(at).copied(),
        }
    }

    pub(crate) fn one(amount: u32) -> Self {
        Self(Amounts::One(amount))
    }
}

impl Default for InFlight {
    fn default() -> Self {
        Self(Amounts::Many(Box::default()))
    }
}

impl FromIterator<u32> for InFlight {
    fn from_iter<I: IntoIterator<Item = u32>>(iter: I) -> Self {
        let amounts: SmallVec<[u32; 4]> = iter.into_iter().collect();
        Self(match amounts[..] {
            [amount] => Amounts::One(amount),
            _ => Amounts::Many(amounts.into_boxed_slice()),
        })
    }
}

/// What an answer says about a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// The charged principals are locked out until then. Never shortens an earlier one.
    Busy {
        /// When the gate opens.
        until: Instant,
    },
    /// The whole endpoint is overloaded until then: everybody's calls to it wait. Never shortens an earlier one.
    EndpointBusy {
        /// When the gate opens.
        until: Instant,
    },
    /// The answer was a good one, though its body may go on for long: a probe need not end to be a success.
    Accepted,
    /// Too many calls (or streaming connections) at the same time: the limit is learnt to be lower.
    TooManyConnections,
    /// Too many rows of `Find*` answers at the same time.
    TooManyFound,
    /// Too many different mailboxes open.
    TooManyOpenMailboxes,
}

/// How a permit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The answer ended. If no signal was reported for it, it counts as a quiet success.
    Complete,
    /// The call was cancelled or failed: it tells nothing about the budget.
    Dropped,
}

/// What a ledger calls something that it has granted, until it is given back: it keeps the [`Receipt`] itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant(pub u64);

/// What was taken from a ledger; given back when it is completed or dropped.
///
/// ```
/// use std::sync::Arc;
/// use tower_ews::ledger::{Draw, LocalLedger, Permit};
/// use tower_ews::principal::Principal;
///
/// let ledger = Arc::new(LocalLedger::in_flight(1));
/// let permit = Permit::try_acquire(ledger.clone(), Draw::new(Principal::new("contoso"))).unwrap();
/// assert_eq!(permit.receipt().unwrap().charges.len(), 1);
/// permit.complete();
/// assert!(Permit::try_acquire(ledger, Draw::new(Principal::new("contoso"))).is_ok());
/// ```
// Small, since it is moved about: into the response future, into the body, and with both.
#[must_use = "dropping the permit gives it back at once"]
pub struct Permit {
    ledger: Arc<dyn Ledger>,
    grant: Option<Grant>,
    end: End,
}

impl Permit {
    /// A permit for what `ledger` has granted, which gets it back exactly once.
    pub fn new(ledger: Arc<dyn Ledger>, grant: Grant) -> Self {
        Self {
            ledger,
            grant: Some(grant),
            end: End::Dropped,
        }
    }

    /// Takes all charges of `draw` now, or gives the draw back.
    ///
    /// # Errors
    ///
    /// The draw, if its call would have to wait.
    pub fn try_acquire(ledger: Arc<dyn Ledger>, mut draw: Draw) -> Result<Self, Draw> {
        let mut permit = Self::vacant(ledger);
        match permit.fill(&mut draw) {
            true => Ok(permit),
            false => Err(draw),
        }
    }

    /// A permit for nothing yet, so that the ledger need not be cloned once more to get one.
    pub(crate) fn vacant(ledger: Arc<dyn Ledger>) -> Self {
        Self {
            ledger,
            grant: None,
            end: End::Dropped,
        }
    }

    /// Takes all charges of `draw` now, and the draw with them, or leaves it as it is. For a vacant permit.
    pub(crate) fn fill(&mut self, draw: &mut Draw) -> bool {
        self.grant = self.ledger.try_acquire(draw);
        self.grant.is_some()
    }

    /// Whom it is given back to.
    pub(crate) fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.ledger
    }

    /// What was taken. None if the ledger knows nothing of it.
    pub fn receipt(&self) -> Option<Receipt> {
        self.ledger.receipt(self.grant?)
    }

    /// Gives it back because the answer has ended.
    pub fn complete(mut self) {
        self.set_complete();
    }

    /// As [`complete`](Self::complete), once it is dropped: where it is now, since moving it costs more than the rest.
    pub(crate) fn set_complete(&mut self) {
        self.end = End::Complete;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(grant) = self.grant {
            self.ledger.release(grant, self.end);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.receipt()).finish()
    }
}

/// Why a call did not get its permit. In each case nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// Too many calls wait already.
    #[error(
        "{queued} calls wait in the ledger already, which is its bound: \
         send fewer calls at once or raise `max_queued`"
    )]
    QueueFull {
        /// How many wait.
        queued: usize,
    },
    /// The call waited as long as it may.
    #[error(
        "no permit within {waited:?} for {principal}: \
         its budgets allow no more; send fewer calls or allow a longer wait"
    )]
    TimedOut {
        /// How long it waited.
        waited: Duration,
        /// The principal that it waited for.
        principal: Principal,
    },
    /// The gate of a principal opens too late for this call.
    #[error("{principal} is locked out for {wait:?}, longer than this call may wait")]
    GateTooLate {
        /// How long the gate stays closed.
        wait: Duration,
        /// The principal that is locked out.
        principal: Principal,
    },
}

/// A request extension: when a call, all its waits and attempts included, is to end.
///
/// ```
/// use std::time::Duration;
/// use tower_ews::ledger::Deadline;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(Deadline::within(Duration::from_secs(60)));
/// # });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// From now on for `time`.
    pub fn within(time: Duration) -> Self {
        let now = Instant::now();
        // An absurdly long bound is a year, as tokio's own timers do it.
        Self(
            now.checked_add(time)
                .unwrap_or(now + Duration::from_secs(365 * 86_400)),
        )
    }
}

/// What a ledger holds at one moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// The principals that it knows something about, in no particular order.
    pub principals: Vec<PrincipalSnapshot>,
    /// How many calls wait, over all principals.
    pub queued: usize,
    /// The endpoints that are gated, and for how long still.
    pub gated_endpoints: Vec<(Authority, Duration)>,
}

/// What a ledger knows about one principal.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PrincipalSnapshot {
    /// Who.
    pub principal: Principal,
    /// How long its gate stays closed, if it is.
    pub gated: Option<Duration>,
    /// Its budgets.
    pub budgets: Vec<BudgetSnapshot>,
    /// How many calls wait for it.
    pub queued: usize,
}

/// What a ledger knows about one budget.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BudgetSnapshot {
    /// Which one.
    pub budget: Budget,
    /// How much is held, or how many different values are open.
    pub held: u32,
    /// The limit as it is now: the policy's, or a lower one that was learnt.
    pub limit: u32,
}
