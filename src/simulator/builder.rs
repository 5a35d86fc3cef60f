//! [`Builder`]: the settings of a simulated server.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::account::Account;
use super::affinity::Affinity;
use super::budget::Budgets;
use super::engine::{Engine, State};
use super::exchange::Exchange;
use super::faults::Faults;
use super::mailbox::Store;
use super::policy::Policy;
use super::report::Counters;
use super::subscription::Subscriptions;

/// The account of an exchange that was given none.
pub const DEFAULT_ACCOUNT: &str = "svc@contoso.com";
/// Its password, which is its bearer token too.
pub const DEFAULT_PASSWORD: &str = "secret";

impl Exchange {
    /// Starts to build one.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

/// Builds an [`Exchange`]. Without any setting it is Exchange Online with the account
/// [`DEFAULT_ACCOUNT`] (password and bearer token [`DEFAULT_PASSWORD`]), which may do everything,
/// and with a mailbox for every address that is asked for.
///
/// ```
/// use tower_ews::simulator::{Account, Exchange, Faults, Policy};
/// let exchange = Exchange::builder()
///     .policy(Policy::laptop())
///     .mailboxes((0..48).map(|n| format!("user{n}@contoso.com")))
///     .account("archive@contoso.com", "hunter2")
///     .faults(Faults::mixed(0.01))
///     .seed(7)
///     .build();
/// ```
#[derive(Clone, Debug)]
#[must_use = "builders do nothing until they are built"]
pub struct Builder {
    policy: Policy,
    speed: f64,
    seed: u64,
    faults: Faults,
    accounts: Vec<Account>,
    anonymous: Option<String>,
    mailboxes: Vec<String>,
    aliases: HashMap<String, String>,
    autocreate: Option<bool>,
    servers: usize,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            policy: Policy::exchange_online(),
            speed: 1.0,
            seed: 0,
            faults: Faults::none(),
            accounts: Vec::new(),
            anonymous: None,
            mailboxes: Vec::new(),
            aliases: HashMap::new(),
            autocreate: None,
            servers: 1,
        }
    }
}

impl Builder {
    /// The policy that it enforces. [`Policy::exchange_online`] by default.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// All times of the policy run that much faster: 1 by default, a millionth at least, a million
    /// at most; a number that is not above zero counts as 1. Timers have whole milliseconds: at 60,
    /// a member of 80 ms takes two instead of one and a third in an otherwise idle call, and the
    /// budget is charged 80.
    pub fn speed(mut self, speed: f64) -> Self {
        self.speed = if speed > 0.0 {
            speed.clamp(1e-6, 1e6)
        } else {
            1.0
        };
        self
    }

    /// The seed of everything random: jitter, faults, request ids, mailbox GUIDs. 0 by default.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Its faults. None by default.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// An account with a password that serves as its bearer token too. Any account given replaces
    /// the default one.
    pub fn account(self, name: impl Into<String>, password: impl Into<String>) -> Self {
        let password = password.into();
        self.with_account(
            Account::new(name)
                .password(password.clone())
                .token(password),
        )
    }

    /// An account with settings of its own.
    pub fn with_account(mut self, account: Account) -> Self {
        self.accounts.push(account);
        self
    }

    /// Calls without credentials are this account's; it is added if there is none of that name.
    /// By default they get HTTP 401.
    pub fn anonymous(mut self, account: impl Into<String>) -> Self {
        self.anonymous = Some(account.into().to_lowercase());
        self
    }

    /// A mailbox that exists. Mailboxes given here are the only ones, besides those of the
    /// accounts, unless [`autocreate`](Self::autocreate) says otherwise.
    pub fn mailbox(mut self, address: impl Into<String>) -> Self {
        self.mailboxes.push(address.into());
        self
    }

    /// Several mailboxes.
    pub fn mailboxes(mut self, addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.mailboxes.extend(addresses.into_iter().map(Into::into));
        self
    }

    /// Another name of a mailbox: a SID, a UPN, a proxy address.
    pub fn alias(mut self, name: impl Into<String>, address: impl Into<String>) -> Self {
        self.aliases
            .insert(name.into().to_lowercase(), address.into().to_lowercase());
        self
    }

    /// Whether a mailbox comes into being when it is first touched. True by default if no mailbox
    /// is given.
    pub fn autocreate(mut self, autocreate: bool) -> Self {
        self.autocreate = Some(autocreate);
        self
    }

    /// Sets how many servers there are. 1 by default. Mailbox n, in the order in which they were added, is at server n modulo
    /// this number. A subscription is made by the server that has its mailbox, and no other server knows it: with several of
    /// them the cookies and anchors of its calls matter.
    pub fn servers(mut self, servers: usize) -> Self {
        self.servers = servers;
        self
    }

    /// The server.
    pub fn build(mut self) -> Exchange {
        if self.accounts.is_empty() {
            self = self.account(DEFAULT_ACCOUNT, DEFAULT_PASSWORD);
        }
        if let Some(name) = self.anonymous.clone() {
            if !self.accounts.iter().any(|account| account.name() == name) {
                self.accounts.push(Account::new(name));
            }
        }
        let autocreate = self.autocreate.unwrap_or(self.mailboxes.is_empty());
        let mut store = Store::new(self.seed, autocreate, self.aliases);
        for address in &self.mailboxes {
            store.add(address);
        }
        for account in self
            .accounts
            .iter()
            .filter(|account| account.name().contains('@'))
        {
            store.add(account.name());
        }
        let threads = self
            .policy
            .server_threads
            .map(|threads| Semaphore::new(threads.max(1) as usize));
        Exchange {
            engine: Arc::new(Engine {
                policy: self.policy,
                speed: self.speed,
                accounts: self.accounts,
                anonymous: self.anonymous,
                threads,
                epoch: OnceLock::new(),
                state: Mutex::new(State {
                    store,
                    budgets: Budgets::default(),
                    subscriptions: Subscriptions::default(),
                    affinity: Affinity::new(self.servers),
                    refused: HashMap::new(),
                    faults: self.faults,
                    counters: Counters::default(),
                    rng: fastrand::Rng::with_seed(self.seed),
                    present: 0,
                    number: 0,
                }),
            }),
        }
    }
}
