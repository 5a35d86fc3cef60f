//! [`EwsStack`]: the layers in their order, from one policy, as one service around a client.
//!
//! [`EwsService`] is what comes of it. Its body, its future and the types inside are opaque: a layer that is added inside breaks
//! nobody. [`busy_for`], [`status_of`] and [`fault_of`] tell what an error of it means.

mod body;
mod client;
mod credentials;
mod errors;
mod service;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderValue, Uri};
use tower::BoxError;
use tower_layer::Layer;

pub use self::body::EwsBody;
pub use self::client::EwsClient;
use self::credentials::{Authorize, Credentials};
pub use self::errors::{busy_for, fault_of, status_of};
pub use self::service::{EwsFuture, EwsService};
use crate::account_pool::{Account, AccountPoolLayer, AccountSnapshot};
use crate::anchor_headers::{AnchorHeadersLayer, AnchorMailbox, EwsAnchor};
use crate::audit_log::{AuditHandle, AuditLogLayer, EwsFacts, Level, TracingSink};
use crate::batch_splitter::{BatchSplitterLayer, EwsBatchFormat};
use crate::body::{BufferRequestLayer, InvalidCharacters};
use crate::client_request_id::ClientRequestIdLayer;
use crate::concurrency_by_principal::ConcurrencyByPrincipalLayer;
pub use crate::errors::CredentialsError;
use crate::extensions::Caller;
use crate::find_paging::{FindPagingLayer, Paging};
use crate::ledger::{Ledger, Limit};
use crate::policy::ThrottlingPolicy;
use crate::principal::{Budget, EwsCharges};
use crate::server_busy_backoff::{MailboxMoved, ServerBusyBackoffLayer};
use crate::soap::SidKind;
use crate::wiring::GRAPH_POLICY;

/// The layers in their order, from one [`ThrottlingPolicy`], around any client.
///
/// From the caller inwards:
///
/// | layer | what it does |
/// | --- | --- |
/// | [`audit_log`](crate::audit_log) | makes one record of each call; off until it is [switched on](Self::audit_handle) |
/// | [`BufferRequest`](crate::body::BufferRequest) | reads the request body, so that it can be sent again |
/// | [`find_paging`](crate::find_paging) | adds page views to searches, and follows pages; [off by default](Self::find_paging) |
/// | [`batch_splitter`](crate::batch_splitter) | cuts a batch into parts, and merges their responses |
/// | [`server_busy_backoff`](crate::server_busy_backoff) | waits and resends what the server did not execute |
/// | [`account_pool`](crate::account_pool) | picks the account of each attempt, where there are [several](Self::accounts) |
/// | [`concurrency_by_principal`](crate::concurrency_by_principal) | acquires a permit from the ledger that both share |
/// | [`anchor_headers`](crate::anchor_headers) | sets `X-AnchorMailbox` |
/// | [`client_request_id`](crate::client_request_id) | sets a new id for each attempt |
/// | [`credentials`](Self::credentials) | puts on `Authorization`, if a hook is set |
///
/// The client is an [`EwsClient`]: a `Service<http::Request<ReplayBody>>`. Where it takes another body, `map_request` turns one
/// into the other. The result is an [`EwsService`]. It is `Clone`, `Send` and `Sync` if the client is. All services that one
/// `EwsStack` makes, and their clones, share one ledger.
///
/// Usually one account calls through a stack: name it with [`caller`](Self::caller), or put a [`Caller`] into the extensions of each
/// request. Without either, all calls count as one account's. That is right as long as they are.
/// [`accounts`](Self::accounts) makes the calls with several accounts.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower::ServiceExt;
/// use tower_ews::EwsStack;
/// use tower_ews::body::ReplayBody;
/// use tower_ews::extensions::Caller;
/// use tower_ews::policy::ThrottlingPolicy;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// // Any client. This one takes `Full<Bytes>`.
/// let client = tower::service_fn(async |request: Request<Full<Bytes>>| {
///     assert!(request.headers().contains_key("client-request-id"));
///     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("<s:Envelope/>")))
/// });
/// let ews = EwsStack::new(ThrottlingPolicy::exchange_online())
///     .caller(Caller::new("svc@contoso.com"))
///     .service(client.map_request(|request: Request<ReplayBody>| request.map(Full::from)));
///
/// let request = Request::post("https://outlook.office365.com/EWS/Exchange.asmx")
///     .header("content-type", "text/xml; charset=utf-8")
///     .body(String::from("<s:Envelope .../>"))?;
/// let response = ews.oneshot(request).await?;
/// assert_eq!(response.into_body().collect().await?.to_bytes(), "<s:Envelope/>");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// A call ends with a response wherever the server gave one, refusals included: a response that is the last word of a busy
/// server has a [`RetryInfo`](crate::server_busy_backoff::RetryInfo) with `gave_up` in its extensions. Else it ends with a
/// [`BoxError`] of one of these types:
///
/// | type | when | sent? |
/// | --- | --- | --- |
/// | [`BufferRequestError`](crate::body::BufferRequestError) | the request body is too large, failed, or has a character that XML does not allow | no |
/// | [`AnchorError`](crate::anchor_headers::AnchorError) | the mailbox makes no header | no |
/// | [`CredentialsError`] | the hook failed | no |
/// | [`NoAccount`](crate::account_pool::NoAccount) | no account of several works | no |
/// | [`AcquireError`](crate::ledger::AcquireError) | too many calls wait, or the call waited too long for a permit | no |
/// | [`BackoffError`](crate::server_busy_backoff::BackoffError) | a lost response, or a deadline that passed | its variants tell |
/// | [`BatchError`](crate::batch_splitter::BatchError) | a batch without a response that could stand for all of it | its variants tell |
/// | [`PagingError`](crate::find_paging::PagingError) | a page that did not come, where pages are followed | it says where to go on |
/// | the client's own | an error that no layer knows, such as a request without a host | it may have been |
///
/// Three functions read them all: [`busy_for`] tells for how long the server is busy, [`status_of`] and [`fault_of`] which HTTP
/// status and which SOAP fault stand for the error, for a gateway that has to respond with one.
#[derive(Clone)]
#[must_use = "builders do nothing until they are built"]
pub struct EwsStack {
    policy: ThrottlingPolicy,
    ledger: Arc<dyn Ledger>,
    charges: EwsCharges,
    anchor: EwsAnchor,
    default_mailbox: Option<AnchorMailbox>,
    ids: ClientRequestIdLayer,
    find_paging: FindPagingLayer,
    batches: BatchSplitterLayer<EwsBatchFormat>,
    accounts: AccountPoolLayer<EwsCharges>,
    audit: AuditLogLayer,
    credentials: Option<Credentials>,
    characters: InvalidCharacters,
    find_endpoint: Option<FindEndpoint>,
}

/// What [`EwsStack::find_endpoint`] was given.
type FindEndpoint = Arc<dyn Fn(MailboxMoved) -> Finding + Send + Sync>;
type Finding = Pin<Box<dyn Future<Output = Option<Uri>> + Send>>;

impl EwsStack {
    /// Creates the stack of `policy`, with a ledger for this process.
    pub fn new(policy: ThrottlingPolicy) -> Self {
        if policy.name == ThrottlingPolicy::graph_outlook().name {
            GRAPH_POLICY.say();
        }
        let (ledger, charges): (Arc<dyn Ledger>, _) = (Arc::new(policy.ledger()), policy.charges());
        Self {
            accounts: accounts(&policy, Arc::clone(&ledger), charges.clone()),
            ledger,
            charges,
            anchor: EwsAnchor::new(),
            default_mailbox: None,
            ids: ClientRequestIdLayer::new(),
            find_paging: FindPagingLayer::new()
                .default_paging(Paging::off())
                .stall_timeout(policy.deadline)
                .backoff(policy.backoff_base, policy.backoff_cap),
            batches: BatchSplitterLayer::new(EwsBatchFormat::new())
                .target_time(policy.batch_time)
                .stall_timeout(policy.deadline)
                .backoff(policy.backoff_base, policy.backoff_cap),
            audit: AuditLogLayer::new(TracingSink::new()).level(Level::Off),
            credentials: None,
            characters: InvalidCharacters::Refuse,
            find_endpoint: None,
            policy,
        }
    }

    /// Puts the layers around `client`.
    ///
    /// A client that is no [`EwsClient`] does not compile here.
    pub fn service<S: EwsClient>(&self, client: S) -> EwsService<S> {
        let policy = &self.policy;
        let credentials = self.credentials.clone();
        let client = Authorize::new(client, credentials.map(|hook| (hook, self.charges.clone())));
        let anchored = AnchorHeadersLayer::new(self.anchor.clone())
            .default_mailbox(self.default_mailbox.clone())
            .layer(self.ids.layer(client));
        let charged =
            ConcurrencyByPrincipalLayer::new(Arc::clone(&self.ledger), self.charges.clone())
                .layer(anchored);
        let backoff = ServerBusyBackoffLayer::ews()
            .ledger(Arc::clone(&self.ledger))
            .deadline(policy.deadline)
            .attempt_timeout(policy.attempt_timeout)
            .backoff(policy.backoff_base, policy.backoff_cap);
        let backoff = match self.find_endpoint.clone() {
            Some(find) => backoff.find_endpoint(move |moved| find(moved)),
            None => backoff,
        };
        let accounts = self.accounts.clone();
        let pooled = accounts.of_stack(Arc::clone(&self.ledger), self.charges.clone());
        let backoff = backoff.layer(pooled.layer(charged).inner_is_always_ready());
        // ConcurrencyByPrincipal waits for the client to be ready. The layers around it are always ready.
        let batches = self.batches.layer(backoff).inner_is_always_ready();
        let paged = self.find_paging.layer(batches).inner_is_always_ready();
        let buffered = BufferRequestLayer::new(policy.max_request)
            .invalid_characters(self.characters)
            .layer(paged)
            .inner_is_always_ready();
        let facts = EwsFacts::new().charges(self.charges.clone());
        EwsService::new(self.audit.clone().facts(facts).layer(buffered))
    }

    /// Sets the account that calls are made with, unless a request's extensions name another one.
    pub fn caller(mut self, caller: Caller) -> Self {
        self.charges = self.charges.caller(caller);
        self
    }

    /// Makes the calls with several accounts: see [`account_pool`](crate::account_pool). Each attempt is made with the one that
    /// has the mailbox open, else with one that has room.
    ///
    /// A request whose extensions name one of them as its [`Caller`] is made with that one. The [`caller`](Self::caller) of the
    /// stack counts for nothing then. [`account_pool`](Self::account_pool) changes more than the accounts.
    ///
    /// ```
    /// use tower_ews::EwsStack;
    /// use tower_ews::account_pool::Account;
    /// use tower_ews::policy::ThrottlingPolicy;
    ///
    /// # fn main() -> Result<(), http::header::InvalidHeaderValue> {
    /// let stack = EwsStack::new(ThrottlingPolicy::exchange_2019()).accounts([
    ///     Account::new("svc1@contoso.com").authorization("Basic c3ZjMTpvbmU=".parse()?),
    ///     Account::new("svc2@contoso.com").authorization("Basic c3ZjMjp0d28=".parse()?),
    /// ]);
    /// assert!(stack.account_snapshots()[0].left_out.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn accounts(self, accounts: impl IntoIterator<Item = Account>) -> Self {
        self.account_pool(|pool| accounts.into_iter().fold(pool, AccountPoolLayer::account))
    }

    /// Changes the pool of accounts: how long mailboxes stay with an account, for example. `change` is given a layer without
    /// accounts, or with those that were added before. The stack's ledger and charges replace the layer's.
    pub fn account_pool(
        mut self,
        change: impl FnOnce(AccountPoolLayer<EwsCharges>) -> AccountPoolLayer<EwsCharges>,
    ) -> Self {
        self.accounts = change(self.accounts);
        self
    }

    /// Returns how each of the [`accounts`](Self::accounts) does: whether it is left out or locked out, and what it has open.
    pub fn account_snapshots(&self) -> Vec<AccountSnapshot> {
        let accounts = self.accounts.clone();
        let ledger = Arc::clone(&self.ledger);
        accounts.of_stack(ledger, self.charges.clone()).snapshot()
    }

    /// Sets another ledger than the policy's: one that other stacks share, for example. It has to know the policy's budgets.
    pub fn ledger(mut self, ledger: Arc<dyn Ledger>) -> Self {
        self.ledger = ledger;
        self
    }

    /// Asks `fetch` for the `Authorization` of each attempt, just before it is sent.
    ///
    /// A token that is put on a request by its caller can be out of date when the request is sent: a busy server can hold a call
    /// back for an hour. `fetch` is called after all waits, with the [`Caller`] in the request's extensions, or else the
    /// [`caller`](Self::caller) of the stack. It replaces an `Authorization` header that is there. The value is marked as
    /// [sensitive](HeaderValue::set_sensitive). `fetch` is called once for each attempt, so it should keep tokens that are still
    /// good; the permit of the call is held meanwhile. It is called once more after a 401. If it has another value then, the call
    /// is sent once more. Else nothing is sent with that value for a while: see
    /// [`AccessDenied`](crate::server_busy_backoff::AccessDenied).
    ///
    /// An error ends the call with [`CredentialsError`], and the attempt is not sent. A hook that is not done by the call's deadline
    /// is dropped, and ends the call as other waits do. It is not tried again: `fetch` knows best what can be.
    ///
    /// ```
    /// use http::HeaderValue;
    /// use tower_ews::EwsStack;
    /// use tower_ews::policy::ThrottlingPolicy;
    ///
    /// # async fn token_of(account: &str) -> Result<String, tower::BoxError> { Ok(account.into()) }
    /// let stack = EwsStack::new(ThrottlingPolicy::exchange_online()).credentials(async |caller| {
    ///     let token = token_of(caller.name()).await?;
    ///     Ok(HeaderValue::try_from(format!("Bearer {token}"))?)
    /// });
    /// # let _ = stack;
    /// ```
    pub fn credentials<F, Fut>(mut self, fetch: F) -> Self
    where
        F: Fn(Caller) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<HeaderValue, BoxError>> + Send + 'static,
    {
        self.credentials = Some(Credentials::new(fetch));
        self
    }

    /// Asks `find` where a mailbox is that another server has: see
    /// [`ServerBusyBackoffLayer::find_endpoint`](crate::server_busy_backoff::ServerBusyBackoffLayer::find_endpoint).
    pub fn find_endpoint<F, Fut>(mut self, find: F) -> Self
    where
        F: Fn(MailboxMoved) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<Uri>> + Send + 'static,
    {
        self.find_endpoint = Some(Arc::new(move |moved| Box::pin(find(moved))));
        self
    }

    /// Finds the SMTP address of an impersonated identity. With it all kinds of `ConnectingSID` are one principal, and
    /// `X-AnchorMailbox` is set for those that are no SMTP addresses.
    pub fn map_principal<F>(mut self, map: F) -> Self
    where
        F: Fn(SidKind, &str) -> Option<String> + Send + Sync + 'static,
    {
        let map = Arc::new(map);
        let same = Arc::clone(&map);
        self.charges = self
            .charges
            .map_principal(move |kind, value| map(kind, value));
        self.anchor = self
            .anchor
            .map_principal(move |kind, value| same(kind, value));
        self
    }

    /// Sets the mailbox that calls are routed to if they name none.
    pub fn default_mailbox(mut self, mailbox: AnchorMailbox) -> Self {
        self.default_mailbox = Some(mailbox);
        self
    }

    /// Sets the `User-Agent` of requests that have none. Tenants allow and block clients by it.
    pub fn user_agent(mut self, value: impl Into<Option<HeaderValue>>) -> Self {
        self.ids = self.ids.user_agent(value);
        self
    }

    /// Sets what happens to requests with characters that XML does not allow. Default: [`InvalidCharacters::Refuse`], an
    /// error that names the member.
    pub fn invalid_characters(mut self, characters: InvalidCharacters) -> Self {
        self.characters = characters;
        self
    }

    /// Changes how batches are split: with more concurrent parts, for example. `change` is given a layer with the policy's times.
    ///
    /// ```
    /// use tower_ews::EwsStack;
    /// use tower_ews::policy::ThrottlingPolicy;
    ///
    /// let stack = EwsStack::new(ThrottlingPolicy::exchange_online())
    ///     .batches(|batches| batches.parallel(4).max_members(200));
    /// # let _ = stack;
    /// ```
    pub fn batches(
        mut self,
        change: impl FnOnce(BatchSplitterLayer<EwsBatchFormat>) -> BatchSplitterLayer<EwsBatchFormat>,
    ) -> Self {
        self.batches = change(self.batches);
        self
    }

    /// Switches page views on, for searches that have none, and changes how pages are followed. `change` is given a layer
    /// with the policy's times, which adds a view and follows nothing.
    ///
    /// Without this call a [`Paging`] in the extensions of a request still switches them on for that request.
    ///
    /// ```
    /// use tower_ews::EwsStack;
    /// use tower_ews::find_paging::Paging;
    /// use tower_ews::policy::ThrottlingPolicy;
    ///
    /// let stack = EwsStack::new(ThrottlingPolicy::exchange_online())
    ///     .find_paging(|paging| paging.default_paging(Paging::all_pages()));
    /// # let _ = stack;
    /// ```
    pub fn find_paging(mut self, change: impl FnOnce(FindPagingLayer) -> FindPagingLayer) -> Self {
        self.find_paging = change(self.find_paging.default_paging(Paging::one_page()));
        self
    }

    /// Sets where the records of the audit log go, and their level, redaction and size. The stack adds what it knows of callers,
    /// accesses and mailboxes. Default: [`TracingSink`], at level [`Off`](Level::Off).
    ///
    /// ```
    /// use tower::ServiceExt;
    /// use tower_ews::EwsStack;
    /// use tower_ews::audit_log::{AuditLogLayer, MemorySink};
    /// # use http::{Request, Response};
    /// # use tower_ews::body::ReplayBody;
    /// use tower_ews::policy::ThrottlingPolicy;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// # let client = tower::service_fn(|_: Request<ReplayBody>| async {
    /// #     Ok::<_, std::convert::Infallible>(Response::new(String::from("<Envelope/>")))
    /// # });
    /// let sink = MemorySink::new();
    /// let ews = EwsStack::new(ThrottlingPolicy::exchange_online())
    ///     .audit_log(AuditLogLayer::new(sink.clone()))
    ///     .service(client);
    ///
    /// let request = Request::post("https://mail.contoso.com/EWS/Exchange.asmx").body(String::from("<Envelope/>"));
    /// drop(ews.oneshot(request.unwrap()).await.unwrap());
    /// assert_eq!(sink.records().len(), 1);
    /// # });
    /// ```
    pub fn audit_log(mut self, layer: AuditLogLayer) -> Self {
        self.audit = layer;
        self
    }

    /// Returns what switches the audit log on and off while calls go on. Call it after [`audit_log`](Self::audit_log).
    ///
    /// ```
    /// use tower_ews::EwsStack;
    /// use tower_ews::audit_log::{Level, Scope};
    /// use tower_ews::policy::ThrottlingPolicy;
    ///
    /// let stack = EwsStack::new(ThrottlingPolicy::exchange_online());
    /// let handle = stack.audit_handle();
    /// assert_eq!(handle.level(), Level::Off);
    /// handle.set(Scope::Principal("amy@contoso.com"), Level::Headers);
    /// ```
    pub fn audit_handle(&self) -> AuditHandle {
        self.audit.handle()
    }

    /// Returns the ledger that the stack's services acquire from, to look at or to share.
    pub fn shared_ledger(&self) -> &Arc<dyn Ledger> {
        &self.ledger
    }

    /// Returns who is charged: tells the access of a request, and learns mailbox GUIDs.
    pub fn charges(&self) -> &EwsCharges {
        &self.charges
    }
}

/// A pool without accounts: mailboxes stay with them for as long as the policy says that they are open.
fn accounts(
    policy: &ThrottlingPolicy,
    ledger: Arc<dyn Ledger>,
    charges: EwsCharges,
) -> AccountPoolLayer<EwsCharges> {
    let pool = AccountPoolLayer::ews(ledger, charges);
    match policy.limit(Budget::OpenMailboxes) {
        Some(Limit::Distinct { idle, .. }) => pool.stay(idle).spill_over(idle / 10),
        _ => pool,
    }
}

impl fmt::Debug for EwsStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EwsStack")
            .field("policy", &self.policy)
            .field("ledger", &self.ledger)
            .field("charges", &self.charges)
            .field("audit", &self.audit)
            .finish_non_exhaustive()
    }
}

/// For `ServiceBuilder`. [`EwsStack::service`] does the same.
impl<S: EwsClient> Layer<S> for EwsStack {
    type Service = EwsService<S>;

    fn layer(&self, client: S) -> Self::Service {
        self.service(client)
    }
}
