//! Retries what the server did not execute.
//!
//! Exchange says that it is busy in many ways: in a SOAP fault, in single messages of a response whose status is 200, and by
//! HTTP 503 with or without `Retry-After`. [`ServerBusyBackoffLayer::ews`] reads them all. For other APIs there are
//! [`ServerBusyBackoffLayer::http`] (429 and 503) and your own [`Classify`]:
//!
//! ```
//! use std::convert::Infallible;
//! use std::sync::atomic::{AtomicU32, Ordering};
//!
//! use http::{Request, Response, StatusCode};
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_ews::server_busy_backoff::{RetryInfo, ServerBusyBackoffLayer};
//!
//! static CALLS: AtomicU32 = AtomicU32::new(0);
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! // A server that is busy at first.
//! let server = service_fn(|_: Request<()>| async {
//!     let mut response = Response::new(String::new());
//!     if CALLS.fetch_add(1, Ordering::Relaxed) == 0 {
//!         *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
//!         response.headers_mut().insert("retry-after", "2.5".parse().unwrap());
//!     }
//!     Ok::<_, Infallible>(response)
//! });
//!
//! let mut service = ServiceBuilder::new()
//!     .layer(ServerBusyBackoffLayer::http())
//!     .service(server);
//! let request = Request::post("https://graph.microsoft.com/v1.0/me/events").body(()).unwrap();
//! let response = service.ready().await.unwrap().call(request).await.unwrap();
//!
//! assert_eq!(response.status(), StatusCode::OK);
//! let info: &RetryInfo = response.extensions().get().unwrap();
//! assert_eq!(info.attempts, 2);
//! assert_eq!(info.backed_off.as_millis(), 2500);
//! # });
//! ```
//!
//! # What is retried
//!
//! Two questions are kept apart: *was it executed?* and *may it be sent again?*
//!
//! - A request that was certainly not executed is retried, whatever it is: the server refused it, or it was not sent at
//!   all (name resolution, connect, TLS, a refused HTTP/2 stream). See [`Failure::of`]. But a certificate that is not trusted, and a
//!   scheme that the client does not take, are told at once.
//! - A request that may have been executed (the connection broke, or the server reported a failure that leaves it open)
//!   is retried only if a second execution does no harm: [`Idempotency`]. Otherwise the call ends in
//!   [`BackoffError::OutcomeUnknown`], or in the server's response with [`RetryInfo::outcome_unknown`].
//! - After a retry that may be a second execution, "not found" or "exists" can mean success:
//!   [`RetryInfo::maybe_repeated`] and [`Attempt::resend`](crate::trail::Attempt::resend) say so.
//! - A response in which only some members are refused is never retried: that would create the other members twice.
//! - A refusal that no wait can cure (401, 403, schema errors, denied impersonation) is handed on at once. Impersonation that was
//!   granted before is tried once more. Nothing like what a 401 or a 403 refused is sent for a while, not even by calls that
//!   wait already: [`AccessDenied`]. A credential that was good before is held back after its second 401 in a row.
//! - A mailbox that another server has is asked for there, if [`ServerBusyBackoffLayer::find_endpoint`] knows where that is. Else
//!   the response goes on, with [`MailboxMoved`] in its extensions.
//!
//! # How long it waits
//!
//! As long as the server asks, never less. If the server does not say, it backs off exponentially with full jitter. The
//! number of attempts is bounded by the deadline ([`ServerBusyBackoffLayer::deadline`]), and for some refusals by
//! [`Refusal::max_retries`]. A wait that would end after the deadline is not begun: the caller gets the server's last
//! response at once, byte for byte, with [`RetryInfo`] in its extensions. If nothing was sent yet, the call ends in
//! [`BackoffError::NotSent`].
//!
//! # Who waits with it
//!
//! A lock-out concerns all calls of a principal, a 503 all calls to an endpoint. The layer closes a gate for them: calls
//! that are made meanwhile wait before they are sent. When the gate opens, one call goes first, and each accepted
//! response lets one more go at the same time. Calls of other principals do not wait. [`Classify::principal`] tells whose
//! a call is. For EWS it is the impersonated mailbox or the [`Caller`](crate::extensions::Caller), else the authority of
//! the URI. A gate is forgotten a minute after it has opened.
//!
//! A call is held back only until it is sent on. Calls that wait further in, for a permit of a ledger that this layer does
//! not know, are sent once more. A refusal that only says that a budget was exceeded (too many connections) closes no
//! gate: its call backs off by itself.
//!
//! # With a ledger
//!
//! Signals go to the [ledger](crate::ledger) as soon as they are read, for the principal that the attempt was charged to.
//! The ledger then holds back all calls of that principal, this one included: the call waits out a lock-out in the
//! ledger's queue further in, where one call goes first to try. A call that the ledger does not let wait ends with the
//! server's last response. A call that was not charged to that ledger waits at the layer's own gates. A layer
//! that reads a wait of the server and has no ledger warns of it once.
//!
//! Of calls that draw on [`Budget::Requests`](crate::principal::Budget::Requests) the ledger also hears what `RateLimit` and
//! `X-RateLimit-*` fields say is left, so that requests wait before they are refused.
//!
//! # Bounds
//!
//! | what | bound | why |
//! | --- | --- | --- |
//! | a call | its deadline, 15 minutes by default | |
//! | an attempt | [100 s](ServerBusyBackoffLayer::attempt_timeout) until its response begins, and two more like it | a connection that died unnoticed must not cost the whole deadline |
//! | attempts of a call | 100, whatever waits are set | a server that is broken is not asked without end |
//! | retries after a lost response, or one that leaves open what was executed | 6, and fewer for some codes | the waits between them add up to half a minute at most: a restart lasts that long |
//! | waits that the server sets | a quarter of the longest wait that would be drawn, at least | a server that goes on to ask for a millisecond |
//! | a pause of a response that was handed on | five minutes, unless it streams notifications | servers and proxies give up sooner |
//! | retries that nobody holds back, of all calls | 100 at once and 10 a second for an endpoint, 20 at once and 2 a second for a principal | an outage is not multiplied |
//!
//! # Bodies
//!
//! Request bodies are cloned for each attempt. Use one that is cheap to clone, such as
//! [`ReplayBody`](crate::body::ReplayBody) or `Full<Bytes>`. At most [`ServerBusyBackoffLayer::max_prefix`] bytes of a
//! response are kept back to decide on it. Shorter responses are read to their end, so that one that is cut short can be
//! retried. Longer ones stream: see [`PeekBody`]. A response that is compressed with gzip or deflate is read like others,
//! and its bytes go on as they came. One with another `Content-Encoding` is judged by its head alone, and the layer warns
//! of it once: put a decompressing layer further in. Where SOAP is expected and the request has no `Accept-Encoding` of its
//! own, such a success is an error: nobody can read it, so that the outcome of a write is unknown.

mod access;
mod attempt;
mod attempt_time;
mod call;
mod call_request;
mod classify;
mod config;
mod decide;
mod endpoint;
#[cfg(feature = "ews")]
mod ews;
#[cfg(feature = "ews")]
mod ews_body;
mod examine;
mod gate;
mod http;
mod layer;
mod moved;
mod peek;
mod report;
mod retry_budget;
mod service;
#[cfg(test)]
mod tests;
mod warnings;

pub use self::access::Access;
pub use self::classify::{
    BodyClassifier, ClassifiedResponse, Classify, Idempotency, Outcome, Reading, Refusal,
    RefusalScope, RequestClass,
};
#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
pub use self::ews::EwsClassifier;
pub use self::http::HttpClassifier;
pub use self::layer::ServerBusyBackoffLayer;
pub use self::moved::MailboxMoved;
pub use self::peek::PeekBody;
pub use self::service::{ResponseFuture, ServerBusyBackoff};
pub use crate::errors::{
    AccessDenied, AccessScope, BackoffError, CredentialsError, DeadlineElapsed,
};
pub use crate::retry::{Failure, RetryInfo, retry_after};
