//! [`AccountPoolLayer`]: the layer, with its accounts and settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::account::Account;
use super::member::AccountSnapshot;
use super::refusal::Api;
use super::service::AccountPool;
use super::shared::Shared;
use crate::ledger::{Ledger, LocalLedger};

/// Applies [`AccountPool`] to a service.
///
/// The layer, its clones and all services that they make share one pool: what accounts have open, and which are left out.
///
#[cfg_attr(feature = "ews", doc = "```")]
#[cfg_attr(not(feature = "ews"), doc = "```ignore")]
/// use std::sync::Arc;
/// use tower_ews::account_pool::{Account, AccountPoolLayer};
/// use tower_ews::policy::ThrottlingPolicy;
///
/// let policy = ThrottlingPolicy::exchange_2019();
/// let pool = AccountPoolLayer::ews(Arc::new(policy.ledger()), policy.charges())
///     .account(Account::new("svc1@contoso.com").authorization("Basic c3ZjMTpvbmU=".parse()?))
///     .account(Account::new("svc2@contoso.com").authorization("Basic c3ZjMjp0d28=".parse()?));
/// assert_eq!(pool.snapshot().len(), 2);
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
#[derive(Clone)]
#[must_use = "layers do nothing until they are applied to a service"]
pub struct AccountPoolLayer<M> {
    shared: Shared<M>,
}

impl<M> AccountPoolLayer<M> {
    /// Creates a pool without accounts for any HTTP API, whose calls acquire what `make_charges` says from `ledger`. It is asked
    /// for the charges of a request once for each account, which is the [`Caller`](crate::extensions::Caller) in the request's extensions then.
    ///
    /// Without accounts all calls pass untouched.
    pub fn http(ledger: Arc<dyn Ledger>, make_charges: M) -> Self {
        Self::new(ledger, make_charges, Api::Http)
    }

    /// The same for Exchange Web Services, whose response codes can tell that an account does not work.
    #[cfg(feature = "ews")]
    #[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
    pub fn ews(ledger: Arc<dyn Ledger>, make_charges: M) -> Self {
        Self::new(ledger, make_charges, Api::Ews)
    }

    /// Allows `limit` concurrent calls of each principal, in a [`LocalLedger`] of its own, for any HTTP API.
    pub fn in_flight(limit: u32, make_charges: M) -> Self {
        Self::http(Arc::new(LocalLedger::in_flight(limit)), make_charges)
    }

    fn new(ledger: Arc<dyn Ledger>, make_charges: M, api: Api) -> Self {
        Self {
            shared: Shared::new(ledger, make_charges, api),
        }
    }

    /// Adds an account. Services and clones that were made before do not have it.
    pub fn account(mut self, account: Account) -> Self {
        self.shared.add(account);
        self
    }

    /// Sets how long a mailbox stays with the account that has opened it, after its last call. 5 minutes by default, for as long as
    /// Exchange keeps it open. With zero, each call goes to the account with the least load.
    pub fn stay(mut self, time: Duration) -> Self {
        self.shared.stay = time;
        self
    }

    /// Sets how long a call waits for the account of its mailbox before it asks the others, too. 30 seconds by default. A
    /// mailbox that spills over counts as open for both. [`Duration::MAX`] keeps each mailbox with its account.
    pub fn spill_over(mut self, after: Duration) -> Self {
        self.shared.spill_over = after;
        self
    }

    /// Returns how each account does, in the order in which they were added, those that are reserved last.
    pub fn snapshot(&self) -> Vec<AccountSnapshot> {
        self.shared.snapshot()
    }

    /// The same pool with another ledger and other charges.
    #[cfg(feature = "ews")]
    pub(crate) fn of_stack(mut self, ledger: Arc<dyn Ledger>, make_charges: M) -> Self {
        self.shared.ledger = ledger;
        self.shared.make_charges = make_charges;
        self
    }
}

impl<M> fmt::Debug for AccountPoolLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountPoolLayer")
            .field("accounts", &self.shared.members)
            .field("stay", &self.shared.stay)
            .field("spill_over", &self.shared.spill_over)
            .finish_non_exhaustive()
    }
}

impl<S, M: Clone> Layer<S> for AccountPoolLayer<M> {
    type Service = AccountPool<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        AccountPool::with_shared(inner, Arc::new(self.shared.clone()))
    }
}
