//! The order of the layers, and what goes wrong otherwise.
//!
//! From the caller inwards: AuditLog, BufferRequest, FindPaging, BatchSplitter, ServerBusyBackoff, AccountPool,
//! ConcurrencyByPrincipal, AnchorHeaders, ClientRequestId, decompression, the HTTP client. [`EwsStack`](crate::EwsStack) builds
//! this. In a [`ServiceBuilder`](tower::ServiceBuilder) the first layer is the outermost one:
//!
//! ```
//! use std::sync::Arc;
//!
//! use http::{Request, Response};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_ews::ServiceBuilderExt;
//! use tower_ews::audit_log::MemorySink;
//! use tower_ews::batch_splitter::GraphBatchFormat;
//! use tower_ews::body::ReplayBody;
//! use tower_ews::policy::ThrottlingPolicy;
//! use tower_ews::server_busy_backoff::HttpClassifier;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
//! # let client = service_fn(async |_: Request<ReplayBody>| Ok::<_, tower::BoxError>(Response::new(String::from("{}"))));
//! let policy = ThrottlingPolicy::graph_outlook();
//! let ledger = Arc::new(policy.ledger());
//! let graph = ServiceBuilder::new()
//!     .audit_log(MemorySink::new())
//!     .buffer_request(policy.max_request)
//!     .batch_splitter(GraphBatchFormat::new())
//!     .server_busy_backoff_with_ledger(ledger.clone(), HttpClassifier)
//!     .concurrency_by_principal_with_ledger(ledger, policy.graph_charges("application"))
//!     .client_request_id()
//!     .service(client);
//! # let request = Request::get("https://graph.microsoft.com/v1.0/users/amy@contoso.com/messages");
//! # graph.oneshot(request.body(String::new())?).await?;
//! # Ok(()) }
//! ```
//!
//! | if | then |
//! | --- | --- |
//! | ServerBusyBackoff is inside of ConcurrencyByPrincipal | A call that backs off keeps its permit: a few refused calls hold up all others. |
//! | the two have different ledgers, or the back-off has none | A refusal holds back one call. The others run into the same wall, and prolong the lock-out. |
//! | BatchSplitter is inside of ConcurrencyByPrincipal | A batch is charged once, whatever its parts do. |
//! | ClientRequestId is outside of what sends again | All attempts have one id, and support finds the wrong one. |
//! | BufferRequest is missing | A body that streams cannot be cloned: the layers that send again do not compile around it. |
//! | AuditLog is inside of ServerBusyBackoff | One record for each attempt, none for the call. |
//! | decompression is outside | Layers see bytes that they cannot read; the log warns once. |
//! | tower's `ConcurrencyLimit` is around it | A permit that an idle clone reserves in `poll_ready` starves everyone. |
//! | tower's `Timeout` is around it | It drops calls in the middle: what was executed is unknown. Use a [`Deadline`](crate::extensions::Deadline), which the layers keep to. |
//!
//! Wirings that cannot work as meant log one warning that names the cure, with the target `tower_ews::wiring`.
//!
//! # A body is part of its call
//!
//! The server works on a call until its response has ended, so the permit lasts as long. Whoever collects many responses first and
//! reads their bodies afterwards waits for ever: the bodies hold what the next calls need. Read each body in the task of its call:
//!
//! ```
//! use http::{Request, Response};
//! use http_body_util::BodyExt;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_ews::ServiceBuilderExt;
//! use tower_ews::principal::Principal;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
//! let client = ServiceBuilder::new()
//!     .concurrency_by_principal(2, |_: &Request<String>| Principal::new("one tenant"))
//!     .service(service_fn(async |_| Ok::<_, tower::BoxError>(Response::new(String::from("{}")))));
//! let calls = (0..10).map(async |_| {
//!     let response = client.clone().oneshot(Request::new(String::new())).await?;
//!     Ok::<_, tower::BoxError>(response.into_body().collect().await?)
//! });
//! let bodies = futures_util::future::try_join_all(calls).await?;
//! assert_eq!(bodies.len(), 10);
//! # Ok(()) }
//! ```
