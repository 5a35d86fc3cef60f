//! [`RedisLedger`] and its builder.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::connect::RedisConnect;
use super::driver::{Driver, Health, Message, Parts, WhenUnavailable};
use super::member::Terms;
use super::store::Store;
use crate::ledger::local::{LocalLedger, LocalLedgerBuilder};
use crate::ledger::{Acquire, AcquireRequest, Admission, End, Ledger, Limit, Signal, Snapshot};
use crate::principal::{Budget, Charges, Principal};

/// Keeps one budget for a fleet of processes, in Redis or Valkey.
///
/// See [the module](super) for how it works and what it needs. Each process has one, built alike: same budgets, same prefix.
///
/// ```no_run
/// use std::sync::Arc;
/// use tower_ews::ledger::redis::{RedisLedger, RedisServer};
/// use tower_ews::ledger::{AcquireRequest, Limit, Permit};
/// use tower_ews::principal::{Budget, Principal};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = RedisServer::new(redis::Client::open("redis://127.0.0.1/")?);
/// let ledger = RedisLedger::builder()
///     .budget(Budget::Concurrency, Limit::InFlight(27))
///     .build(server);
/// let svc = AcquireRequest::new(Principal::account("svc@contoso.com"));
/// let permit = Permit::acquire(Arc::new(ledger), svc).await?;
/// permit.complete();
/// # Ok(())
/// # }
/// ```
pub struct RedisLedger {
    inner: Arc<LocalLedger>,
    messages: mpsc::UnboundedSender<Message>,
    health: Arc<watch::Sender<Health>>,
    /// Until the first call that waits.
    parts: Mutex<Option<Parts>>,
    terms: Terms,
}

/// Configures a [`RedisLedger`].
///
/// ```
/// use std::time::Duration;
/// use tower_ews::ledger::Limit;
/// use tower_ews::ledger::redis::{RedisLedger, RedisServer, WhenUnavailable};
/// use tower_ews::principal::Budget;
///
/// let server = RedisServer::new(redis::Client::open("redis://127.0.0.1/")?);
/// let ledger = RedisLedger::builder()
///     .budget(Budget::Concurrency, Limit::InFlight(27))
///     .lease(Duration::from_secs(10))
///     .when_unavailable(WhenUnavailable::FailFast)
///     .prefix("mail-sync")
///     .build(server);
/// # let _ = ledger;
/// # Ok::<_, redis::RedisError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "builders do nothing until they are built"]
pub struct RedisLedgerBuilder {
    inner: LocalLedgerBuilder,
    lease: Duration,
    overtake: Duration,
    prefix: String,
    when_unavailable: WhenUnavailable,
}

impl RedisLedgerBuilder {
    /// Adds a budget, the same for each principal. Processes with different limits go by the lowest one.
    pub fn budget(mut self, budget: Budget, limit: Limit) -> Self {
        self.inner = self.inner.budget(budget, limit);
        self
    }

    /// How many calls may wait in this process. Default: 100,000.
    pub fn max_queued(mut self, calls: usize) -> Self {
        self.inner = self.inner.max_queued(calls);
        self
    }

    /// How long one call may wait, gates included. Default: 15 minutes. A call's own deadline may be sooner.
    pub fn max_wait(mut self, time: Duration) -> Self {
        self.inner = self.inner.max_wait(time);
        self
    }

    /// How long calls may be overtaken by others that came later, in this process, and how long processes may wait for a value until
    /// one that is open takes in no new calls. Default: 5 minutes.
    pub fn max_overtake(mut self, time: Duration) -> Self {
        self.inner = self.inner.max_overtake(time);
        self.overtake = time;
        self
    }

    /// How long a lease is good for. Default: 10 seconds; 300 milliseconds at least.
    ///
    /// It is renewed three times as often. A process that is killed gives back what it had once it has passed; one that does not reach
    /// Redis goes on for so long.
    pub fn lease(mut self, time: Duration) -> Self {
        self.lease = time.clamp(Duration::from_millis(300), Duration::from_secs(3600));
        self
    }

    /// Sets what all keys and channels begin with. Default: `tower-ews`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets what to do when Redis cannot be asked. Default: [`WhenUnavailable::Wait`].
    pub fn when_unavailable(mut self, choice: WhenUnavailable) -> Self {
        self.when_unavailable = choice;
        self
    }

    /// Builds the ledger. It connects with the first call that waits, whose runtime renews the leases from then on.
    #[must_use]
    pub fn build(self, connect: impl RedisConnect) -> RedisLedger {
        let terms = Terms {
            process: uuid::Uuid::new_v4().simple().to_string(),
            prefix: self.prefix,
            ttl: self.lease,
            overtake: self.overtake,
        };
        let inner = Arc::new(self.inner.leased().build());
        let (sender, messages) = mpsc::unbounded_channel();
        let health = Arc::new(watch::Sender::new(None));
        let parts = Parts {
            inner: Arc::clone(&inner),
            store: Store::new(Arc::new(connect), self.lease / 4),
            terms: terms.clone(),
            when_unavailable: self.when_unavailable,
            messages,
            health: Arc::clone(&health),
        };
        RedisLedger {
            inner,
            messages: sender,
            health,
            parts: Mutex::new(Some(parts)),
            terms,
        }
    }
}

impl RedisLedger {
    /// Starts to configure a ledger without budgets.
    pub fn builder() -> RedisLedgerBuilder {
        RedisLedgerBuilder {
            inner: LocalLedger::builder(),
            lease: Duration::from_secs(10),
            overtake: Duration::from_secs(5 * 60),
            prefix: String::from("tower-ews"),
            when_unavailable: WhenUnavailable::default(),
        }
    }

    /// Returns the name of this process in Redis: a field of each principal that it has a lease of.
    pub fn process(&self) -> &str {
        &self.terms.process
    }

    fn start(&self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if let Some(parts) = self.parts.lock().take() {
            runtime.spawn(Driver::run(parts));
        }
    }
}

/// The same charges, principals in the order of their keys: calls of several principals wait for them in the same order in each
/// process, so that no two hold what the other one waits for.
fn in_order(request: AcquireRequest) -> AcquireRequest {
    let charges = request.charges();
    let several = charges
        .first()
        .is_some_and(|first| charges.iter().any(|c| c.principal() != first.principal()));
    if !several {
        return request;
    }
    let mut sorted = charges.to_vec();
    sorted.sort_by_cached_key(|charge| charge.principal().key());
    let sorted: Charges = sorted.into_iter().collect();
    request.with_charges(sorted)
}

impl Ledger for RedisLedger {
    fn try_acquire(&self, request: AcquireRequest) -> Result<Admission, AcquireRequest> {
        self.inner.try_acquire(request)
    }

    fn acquire(self: Arc<Self>, request: AcquireRequest) -> Acquire {
        self.start();
        let waits = Arc::clone(&self.inner).acquire(in_order(request));
        let mut health = self.health.subscribe();
        Box::pin(async move {
            let down = async {
                // The sender lives as long as the ledger.
                while health.borrow_and_update().is_none() && health.changed().await.is_ok() {}
                health.borrow().clone()
            };
            tokio::select! {
                biased;
                permit = waits => Ok(permit?.of_ledger(self)),
                Some(error) = down => Err(error),
            }
        })
    }

    fn report(&self, admission: &Admission, signal: Signal) {
        self.inner.report(admission, signal);
        let message = match signal {
            Signal::Busy { until } => {
                let charged: Vec<Principal> = admission.charged().cloned().collect();
                Message::Gate(charged, until)
            }
            Signal::EndpointBusy { until } => match admission.endpoint() {
                Some(endpoint) => Message::Endpoint(endpoint.clone(), until),
                None => return,
            },
            // The local ledger hears of it, and what the fleet has to know goes with the next request.
            Signal::Accepted
            | Signal::Exceeded(_)
            | Signal::Limit { .. }
            | Signal::Spent { .. }
            | Signal::Unspent { .. }
            | Signal::Remaining { .. } => return,
        };
        // Nobody listens once the runtime has ended.
        let _ = self.messages.send(message);
    }

    fn release(&self, admission: &Admission, end: End) {
        self.inner.release(admission, end);
    }

    fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }
}

impl fmt::Debug for RedisLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLedger")
            .field("inner", &self.inner)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}
