//! An Exchange server that can be throttled on a laptop: in-memory mailboxes, Exchange's limits enforced and counted,
//! faults on demand.
//!
//! [`Exchange`] is a tower [`Service`](tower_service::Service) for tests in virtual time, an axum
//! [router](Exchange::router), and a [server on a socket](Exchange::serve). It is no part of the layers: it shares no
//! code with them, so that what they believe is tested against something else.
//!
//! ```
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::{BodyExt, Full};
//! use tower::ServiceExt;
//! use tower_ews::simulator::{Exchange, Policy};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let exchange = Exchange::builder().policy(Policy::laptop()).speed(60.0).build();
//! let create = r#"
//!   <s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
//!               xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"
//!               xmlns="http://schemas.microsoft.com/exchange/services/2006/messages">
//!     <s:Body>
//!       <CreateItem SendMeetingInvitations="SendToNone">
//!         <SavedItemFolderId>
//!           <t:DistinguishedFolderId Id="calendar">
//!             <t:Mailbox><t:EmailAddress>anna@contoso.com</t:EmailAddress></t:Mailbox>
//!           </t:DistinguishedFolderId>
//!         </SavedItemFolderId>
//!         <Items><t:CalendarItem><t:Subject>Stand-up</t:Subject></t:CalendarItem></Items>
//!       </CreateItem>
//!     </s:Body>
//!   </s:Envelope>"#;
//! let request = Request::post("/EWS/Exchange.asmx")
//!     .header("authorization", "Basic c3ZjQGNvbnRvc28uY29tOnNlY3JldA==") // svc@contoso.com:secret
//!     .body(Full::<Bytes>::from(create))?;
//! let response = exchange.clone().oneshot(request).await?;
//! let body = response.into_body().collect().await?.to_bytes();
//! assert!(body.windows(7).any(|text| text == b"NoError"));
//!
//! let report = exchange.report();
//! assert_eq!((report.calls, report.created["Stand-up"]), (1, 1));
//! # Ok(())
//! # }
//! ```
//!
//! # What it enforces
//!
//! The fields of [`Policy`] say what, and where the numbers come from. Who is charged: without impersonation the calling
//! account; with it the impersonated mailbox's copy, which all service accounts share; a call that impersonates one
//! mailbox and touches another, by address or by id, draws on the copy and on the calling account. A call is in flight
//! from its arrival until the last frame of its answer has been taken or the answer is dropped.
//!
//! **Busy budget.** A payer's balance starts at `max_burst`. It grows by `recharge_rate` milliseconds per hour, never
//! above `max_burst`, and every member's execution time is taken from it. Below `-cutoff_balance` the payer is locked
//! out until the balance has recharged by what `lockout` brings from the cutoff; calls that were still running
//! overdraw it further, and every call during the lock-out costs `busy_call_cost`, so that both prolong it. Calls
//! during the lock-out are answered `ErrorServerBusy` with the remaining time; in a batch the budget is looked at before
//! each member, and the members after a lock-out has begun come back throttled.
//!
//! **Batches.** The members of a call are executed one after another, each taking its time. A call with several of
//! them that has taken `batch_limit` is cut there, and `batch_cut` says what comes back: the member that ran then is
//! done, though its answer is lost, and those after it are not. A member that fails with certain codes
//! (`ErrorAccessDenied`, `ErrorQuotaExceeded`, ...) stops the batch: those after it come back
//! `ErrorBatchProcessingStopped`, a warning. A wrong target folder, or a wrong mailbox of a delegate call, is one
//! error for the whole batch. Faults on demand for single members: [`Fault::ThrottledMembers`],
//! [`Fault::MemberCode`], [`Fault::SlowMembers`].
//!
//! # What it can do
//!
//! Items (Find, Get, Create, Update, Delete, Send, Move, Copy, Archive, MarkAsJunk, Export, Upload), attachments
//! (Create, Get, Delete, with the item's new change key in each answer), folders (Find, Get, Create, Update, Delete,
//! Move, Copy, Empty, MarkAllItemsAsRead), SyncFolderItems and SyncFolderHierarchy, delegates (Get, Add, Update,
//! Remove; a list that gives nobody any rights), ConvertId between EWS and entry ids, ResolveNames, GetMailTips,
//! GetServerTimeZones, GetUserAvailability. An exported item is its XML in base64; any other data that is uploaded
//! becomes a message with that text as its subject.
//!
//! [`Report::done`] says by operation what was done how often, so that a test sees what a client did twice or never.
//!
//! ```
//! use tower_ews::simulator::{BatchCut, Exchange, Policy};
//! use std::time::Duration;
//! let policy = Policy::unlimited().with(|policy| {
//!     policy.member_time = Duration::from_millis(500);
//!     policy.member_times.insert("ExportItems".to_owned(), Duration::from_secs(4));
//!     policy.batch_limit = Some(Duration::from_secs(60));
//!     policy.batch_cut = BatchCut::ConnectionLost;
//! });
//! let exchange = Exchange::builder().policy(policy).build();
//! let report = exchange.report();
//! assert_eq!((report.cut_batches, report.stopped_members), (0, 0));
//! assert_eq!(report.not_done("CreateItem", ["Stand-up"]), ["Stand-up"]);
//! ```
//!
//! # Time
//!
//! Everything waits on tokio's clock: under a paused clock a day passes in milliseconds, and two runs with one seed
//! give the same report. [`Builder::speed`] divides every time of the policy. Hints in answers (`BackOffMilliseconds`,
//! `Retry-After`) are written already divided, since a client obeys them in its own time; `Retry-After` is rounded up to
//! whole seconds.
//!
//! # What it leaves out
//!
//! Notifications (and with them `HangingConnectionLimit` and `EWSMaxSubscriptions`), what permissions allow, delivery
//! (sent mail is counted, not delivered), archive mailboxes (archived items go to a folder of the same one),
//! attachments of attachments, query strings beyond a phrase in the subject, recurrence. An operation that it does
//! not know is answered with the fault `ErrorSchemaValidation`.

mod account;
mod arrival;
mod body;
mod budget;
mod clock;
mod engine;
mod execution;
mod faults;
mod http;
mod id;
mod mailbox;
mod operation;
mod policy;
mod report;
mod schema;
mod shape;
mod soap;
mod xml;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use ::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub use self::account::Account;
pub use self::body::{Body, ConnectionLost};
pub use self::budget::Payer;
pub use self::faults::{Fault, Faults};
pub use self::http::{ResponseFuture, Server};
pub use self::policy::{BatchCut, BusyShape, OpenedBy, Policy};
pub use self::report::{Call, Report};

use self::engine::{Engine, State};

/// The account of an exchange that was given none.
pub const DEFAULT_ACCOUNT: &str = "svc@contoso.com";
/// Its password, which is its bearer token too.
pub const DEFAULT_PASSWORD: &str = "secret";

/// The simulated server. Clones are handles of the same one.
///
/// See the [module](self) for an example.
#[derive(Clone, Debug)]
pub struct Exchange {
    engine: Arc<Engine>,
}

/// An item as the store holds it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let exchange = tower_ews::simulator::Exchange::builder().build();
/// let drafts = exchange.items("anna@contoso.com").into_iter().filter(|item| item.folder == "Drafts");
/// assert_eq!(drafts.count(), 0);
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredItem {
    /// Its EWS id.
    pub id: String,
    /// Its kind: `CalendarItem`, `Message`, ...
    pub kind: String,
    /// Its subject, empty when it has none.
    pub subject: String,
    /// The name of its folder.
    pub folder: String,
}

impl Exchange {
    /// Starts to build one.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What it saw so far.
    pub fn report(&self) -> Report {
        let state = self.engine.state.lock();
        let mut report = state.counters.report.clone();
        report.peak_in_flight = state.budgets.peaks();
        for item in state
            .store
            .iter()
            .flat_map(|mailbox| mailbox.items.values())
        {
            *report.existing.entry(item.subject()).or_default() += 1;
        }
        report
    }

    /// Starts the counters and the record of calls anew. Items and budgets stay.
    pub fn reset_report(&self) {
        let mut state = self.engine.state.lock();
        state.counters.reset();
        state.budgets.reset_peaks();
    }

    /// Every call that it saw, in order of arrival; the last 200,000 of them.
    pub fn calls(&self) -> Vec<Call> {
        self.engine.state.lock().counters.calls()
    }

    /// What a mailbox holds, by folder and age. Empty when there is no such mailbox.
    pub fn items(&self, mailbox: &str) -> Vec<StoredItem> {
        let state = self.engine.state.lock();
        let Some(mailbox) = state.store.existing(mailbox) else {
            return Vec::new();
        };
        mailbox
            .items
            .iter()
            .map(|(place, item)| StoredItem {
                id: mailbox.item_id(*place),
                kind: item.element.clone(),
                subject: item.subject(),
                folder: mailbox
                    .folders
                    .get(&place.0)
                    .map(|folder| folder.name.clone())
                    .unwrap_or_default(),
            })
            .collect()
    }

    /// Calls of this payer that are in flight now.
    pub fn in_flight(&self, payer: &Payer) -> u32 {
        self.engine.state.lock().budgets.in_flight(payer)
    }

    /// The policy that it enforces.
    pub fn policy(&self) -> &Policy {
        &self.engine.policy
    }

    /// The next call that has nothing scripted yet suffers this.
    pub fn inject(&self, fault: Fault) {
        self.engine.state.lock().faults.push(fault);
    }

    /// The next call that has nothing scripted yet gets this answer.
    pub fn respond_next(&self, status: StatusCode, headers: HeaderMap, body: impl Into<Bytes>) {
        self.inject(Fault::Answer {
            status,
            headers,
            body: body.into(),
        });
    }
}

/// Builds an [`Exchange`]. Without any setting it is Exchange Online with the account [`DEFAULT_ACCOUNT`] (password and
/// bearer token [`DEFAULT_PASSWORD`]), which may do everything, and with a mailbox for every address that is asked for.
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
#[must_use]
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
        }
    }
}

impl Builder {
    /// The policy that it enforces. [`Policy::exchange_online`] by default.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// All times of the policy run that much faster: 1 by default, a millionth at least, a million at most; a number
    /// that is not above zero counts as 1. Timers have whole milliseconds: at 60, a member of 80 ms takes two instead of
    /// one and a third in an otherwise idle call, and the budget is charged 80.
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

    /// An account with a password that serves as its bearer token too. Any account given replaces the default one.
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
    /// By default they are answered 401.
    pub fn anonymous(mut self, account: impl Into<String>) -> Self {
        self.anonymous = Some(account.into().to_lowercase());
        self
    }

    /// A mailbox that exists. Mailboxes given here are the only ones, besides those of the accounts, unless
    /// [`autocreate`](Self::autocreate) says otherwise.
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

    /// Whether a mailbox comes into being when it is first touched. True by default if no mailbox is given.
    pub fn autocreate(mut self, autocreate: bool) -> Self {
        self.autocreate = Some(autocreate);
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
        let mut store = mailbox::Store::new(self.seed, autocreate, self.aliases);
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
                    budgets: budget::Budgets::default(),
                    faults: self.faults,
                    counters: report::Counters::default(),
                    rng: fastrand::Rng::with_seed(self.seed),
                    present: 0,
                    number: 0,
                }),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
