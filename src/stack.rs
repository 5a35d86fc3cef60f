//! [`EwsStack`]: the layers in order, from one policy.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use tower_layer::Layer;

use crate::anchor_headers::{AnchorHeaders, AnchorHeadersLayer, AnchorMailbox, EwsAnchor};
use crate::audit_log::{AuditLogLayer, EwsFacts, Sink};
use crate::batch_splitter::{BatchSplitter, BatchSplitterLayer, EwsBatchFormat};
use crate::body::{BufferRequest, BufferRequestLayer};
use crate::client_request_id::{ClientRequestId, ClientRequestIdLayer};
use crate::concurrency_by_principal::{ConcurrencyByPrincipal, ConcurrencyByPrincipalLayer};
use crate::ledger::Ledger;
use crate::policy::ThrottlingPolicy;
use crate::principal::{Caller, EwsCharges};
use crate::server_busy_backoff::{EwsClassifier, ServerBusyBackoff, ServerBusyBackoffLayer};
use crate::soap::SidKind;

/// What [`EwsStack`] makes of a client.
pub type EwsService<S> = BufferRequest<
    BatchSplitter<
        ServerBusyBackoff<
            ConcurrencyByPrincipal<AnchorHeaders<ClientRequestId<S>, EwsAnchor>, EwsCharges>,
            EwsClassifier,
        >,
        EwsBatchFormat,
    >,
>;

/// The layers in their order, from one [`ThrottlingPolicy`], around any client.
///
/// From the caller inwards: the body is buffered, [`batch_splitter`](crate::batch_splitter) cuts batches into parts and makes
/// one answer of theirs, [`server_busy_backoff`](crate::server_busy_backoff) waits and
/// resends, [`concurrency_by_principal`](crate::concurrency_by_principal) draws on the ledger that both share,
/// [`anchor_headers`](crate::anchor_headers), and [`client_request_id`](crate::client_request_id).
///
/// The client is a `Service<http::Request<ReplayBody>>` ([`ReplayBody`](crate::body::ReplayBody)); where it takes
/// another body, `map_request` turns one into the other. The result is `Clone`, `Send` and `Sync` if the client is.
/// All services that one `EwsStack` makes, and their clones, share one ledger.
///
/// One account calls through a stack: name it with [`caller`](Self::caller), or put a [`Caller`] in each request's
/// extensions. Without either, all calls count as one account's, which is right as long as they are.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_ews::EwsStack;
/// use tower_ews::body::ReplayBody;
/// use tower_ews::policy::ThrottlingPolicy;
/// use tower_ews::principal::Caller;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// // Any client: this one takes `Full<Bytes>`.
/// let client = tower::service_fn(|request: Request<Full<Bytes>>| async move {
///     assert!(request.headers().contains_key("client-request-id"));
///     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("<answer/>")))
/// });
/// let ews = ServiceBuilder::new()
///     .layer(EwsStack::new(ThrottlingPolicy::exchange_online()).caller(Caller::new("svc@contoso.com")))
///     .map_request(|request: Request<ReplayBody>| request.map(Full::from))
///     .service(client);
///
/// let request = Request::post("https://outlook.office365.com/EWS/Exchange.asmx")
///     .header("content-type", "text/xml; charset=utf-8")
///     .body(String::from("<s:Envelope .../>"))?;
/// let answer = ews.oneshot(request).await?;
/// assert_eq!(answer.into_body().collect().await?.to_bytes(), "<answer/>");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a stack does nothing until it is applied to a client"]
pub struct EwsStack {
    policy: ThrottlingPolicy,
    ledger: Arc<dyn Ledger>,
    charges: EwsCharges,
    anchor: EwsAnchor,
    default_mailbox: Option<AnchorMailbox>,
    ids: ClientRequestIdLayer,
    batches: BatchSplitterLayer<EwsBatchFormat>,
}

impl EwsStack {
    /// The stack of `policy`, with a ledger for this process.
    pub fn new(policy: ThrottlingPolicy) -> Self {
        Self {
            ledger: Arc::new(policy.ledger()),
            charges: policy.charges(),
            anchor: EwsAnchor::new(),
            default_mailbox: None,
            ids: ClientRequestIdLayer::new(),
            batches: BatchSplitterLayer::new(EwsBatchFormat)
                .target_time(policy.batch_time)
                .stall_timeout(policy.deadline)
                .backoff(policy.backoff_base, policy.backoff_cap),
            policy,
        }
    }

    /// The account that calls are made with, unless a request's extensions say another.
    pub fn caller(mut self, caller: Caller) -> Self {
        self.charges = self.charges.caller(caller);
        self
    }

    /// Another ledger than the policy's: shared with other stacks, for example. It has to know the policy's budgets.
    pub fn ledger(mut self, ledger: Arc<dyn Ledger>) -> Self {
        self.ledger = ledger;
        self
    }

    /// Finds the SMTP address of an impersonated identity: so that all kinds of `ConnectingSID` are one principal, and
    /// so that `X-AnchorMailbox` can be set for those that are no SMTP addresses.
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

    /// The mailbox that a call is routed to which names none.
    pub fn default_mailbox(mut self, mailbox: AnchorMailbox) -> Self {
        self.default_mailbox = Some(mailbox);
        self
    }

    /// The `User-Agent` of requests that have none. Tenants allow and block clients by it.
    pub fn user_agent(mut self, value: impl Into<Option<HeaderValue>>) -> Self {
        self.ids = self.ids.user_agent(value);
        self
    }

    /// How batches are cut: with more parts at a time, for example. What `change` is given has the policy's times.
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

    /// The audit log that fits the stack, to be put around it: it tells callers, accesses and mailboxes as the stack does.
    ///
    /// ```
    /// use tower::{Layer, ServiceExt};
    /// use tower_ews::EwsStack;
    /// use tower_ews::audit_log::MemorySink;
    /// # use http::{Request, Response};
    /// use tower_ews::body::ReplayBody;
    /// use tower_ews::policy::ThrottlingPolicy;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// # let client = tower::service_fn(|_: Request<ReplayBody>| async {
    /// #     Ok::<_, std::convert::Infallible>(Response::new(String::from("<Envelope/>")))
    /// # });
    /// let sink = MemorySink::new();
    /// let stack = EwsStack::new(ThrottlingPolicy::exchange_online());
    /// let ews = stack.audit_log(sink.clone()).layer(stack.layer(client));
    ///
    /// let request = Request::post("https://mail.contoso.com/EWS/Exchange.asmx").body(String::from("<Envelope/>"));
    /// drop(ews.oneshot(request.unwrap()).await.unwrap());
    /// assert_eq!(sink.records().len(), 1);
    /// # });
    /// ```
    pub fn audit_log(&self, sink: impl Sink) -> AuditLogLayer<EwsFacts> {
        AuditLogLayer::new(sink).facts(EwsFacts::new().charges(self.charges.clone()))
    }

    /// The ledger that the stack's services draw on, to look at or to share.
    pub fn shared_ledger(&self) -> &Arc<dyn Ledger> {
        &self.ledger
    }

    /// Who is charged: tells the access of a request, and learns mailbox GUIDs.
    pub fn charges(&self) -> &EwsCharges {
        &self.charges
    }
}

impl fmt::Debug for EwsStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EwsStack")
            .field("policy", &self.policy)
            .field("ledger", &self.ledger)
            .field("charges", &self.charges)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for EwsStack {
    type Service = EwsService<S>;

    fn layer(&self, client: S) -> Self::Service {
        let policy = &self.policy;
        let anchor = AnchorHeadersLayer::new(self.anchor.clone())
            .default_mailbox(self.default_mailbox.clone());
        let client = anchor.layer(self.ids.layer(client));
        let charged =
            ConcurrencyByPrincipalLayer::new(Arc::clone(&self.ledger), self.charges.clone());
        let backoff = ServerBusyBackoffLayer::ews()
            .ledger(Arc::clone(&self.ledger))
            .deadline(policy.deadline)
            .backoff(policy.backoff_base, policy.backoff_cap);
        // What waits for the client to be ready is the innermost of these: the others are always ready.
        let batches = self.batches.layer(backoff.layer(charged.layer(client)));
        BufferRequestLayer::new(policy.max_request)
            .layer(batches.inner_is_always_ready())
            .inner_is_always_ready()
    }
}
