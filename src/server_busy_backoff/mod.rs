//! Waits and resends what the server did not execute, and nothing else.
//!
//! A busy Exchange says so in many ways: as a SOAP fault, in single messages of an answer that is a success by its status,
//! as HTTP 503 with or without `Retry-After`. [`ServerBusyBackoffLayer::ews`] reads them all. Other APIs have
//! [`ServerBusyBackoffLayer::http`] (429 and 503), or a [`Classify`] of their own:
//!
//! ```
//! use std::convert::Infallible;
//! use std::sync::atomic::{AtomicU32, Ordering};
//!
//! use http::{Request, Response, StatusCode};
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_ews::server_busy_backoff::{ServerBusyBackoffLayer, RetryInfo};
//!
//! static CALLS: AtomicU32 = AtomicU32::new(0);
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! // A server that is busy at first.
//! let server = service_fn(|_: Request<()>| async {
//!     let mut answer = Response::new(String::new());
//!     if CALLS.fetch_add(1, Ordering::Relaxed) == 0 {
//!         *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
//!         answer.headers_mut().insert("retry-after", "2.5".parse().unwrap());
//!     }
//!     Ok::<_, Infallible>(answer)
//! });
//!
//! let mut service = ServiceBuilder::new()
//!     .layer(ServerBusyBackoffLayer::http())
//!     .service(server);
//! let request = Request::post("https://graph.microsoft.com/v1.0/me/events").body(()).unwrap();
//! let answer = service.ready().await.unwrap().call(request).await.unwrap();
//!
//! assert_eq!(answer.status(), StatusCode::OK);
//! let tried: &RetryInfo = answer.extensions().get().unwrap();
//! assert_eq!(tried.attempts, 2);
//! assert_eq!(tried.backed_off.as_millis(), 2500);
//! # });
//! ```
//!
//! # What is sent again
//!
//! Two questions are kept apart: *was it executed?* and *may it be sent again?*
//!
//! - What was certainly not executed is sent again, whatever it is: the server refused it, or nothing was sent at all
//!   (name resolution, connecting, TLS, a refused HTTP/2 stream). See [`Failure::of`].
//! - What may have been executed (the connection broke off, the server reported a failure that leaves it open) is sent
//!   again only if twice does no harm: [`Idempotency`]. Else the call ends in [`BackoffError::OutcomeUnknown`], or in the
//!   server's answer, with [`RetryInfo::outcome_unknown`].
//! - After a resend that may be a second execution, "not found" or "exists" can mean success:
//!   [`Attempt::resend`](crate::trail::Attempt::resend) and [`RetryInfo::maybe_repeated`] tell.
//! - An answer of which only some members are refused is never sent again, which would create the others twice.
//! - What no waiting can cure (401, 403, schema errors, denied impersonation) is handed over at once.
//!
//! # How long it waits
//!
//! As long as the server asks, never less; without a hint it backs off exponentially with full jitter. There is no cap on
//! attempts, but a deadline ([`ServerBusyBackoffLayer::deadline`]). A wait that would end after it is not begun: the
//! caller gets the server's last response at once, byte for byte, with [`RetryInfo`] in its extensions. Where nothing was
//! sent yet, the call ends in [`BackoffError::NotSent`].
//!
//! # Who waits with it
//!
//! A lock-out concerns all calls of a principal, a 503 all calls to an endpoint. The layer closes a gate for them:
//! calls that are made meanwhile wait too, before anything of them is sent. When it opens one call goes first, and each
//! good response lets one more go at the same time. Calls of other principals do not wait.
//! [`Classify::principal`] says whose calls they are: for EWS those of the impersonated mailbox, or of the
//! [`Caller`](crate::extensions::Caller), else all to the same authority. What is left of a gate is forgotten a minute
//! after it has opened.
//!
//! A call is held back until it is sent on: calls that wait further in, for a permit of a ledger that this layer does
//! not know, are sent once more. A refusal that only says that too much was drawn on a budget (too many connections)
//! closes no gate: its call backs off by itself.
//!
//! # With a ledger
//!
//! Signals go to the [ledger](crate::ledger), charged to whom the attempt was charged, the moment that they are read. The
//! ledger then holds back all calls of that principal, this one among them: a lock-out is not waited for here but
//! in the ledger's queue, further in, where one call goes first to try. A call that the ledger refuses to wait for ends with
//! the server's last response. A call that was not charged to that ledger waits at the layer's own gates.
//!
//! # Bodies
//!
//! Request bodies are cloned for each attempt: use one that is cheap to clone, such as
//! [`ReplayBody`](crate::body::ReplayBody) or `Full<Bytes>`. Of a response at most [`ServerBusyBackoffLayer::max_prefix`]
//! bytes are kept back to decide; short answers are read to their end, so that one that is cut short can be asked for
//! again. Long ones stream: see [`PeekBody`]. An answer with a `Content-Encoding` is judged by its head alone: put a
//! decompressing layer further in.

mod attempts;
mod classify;
mod config;
#[cfg(feature = "ews")]
mod ews;
mod examine;
mod gate;
mod layer;
mod peek;
mod report;
mod service;
#[cfg(test)]
mod tests;

pub use self::classify::{
    BodyClassifier, ClassifiedResponse, Classify, HttpClassifier, Idempotency, Outcome, Reading,
    Refusal, RefusalScope, RequestClass,
};
#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
pub use self::ews::EwsClassifier;
pub use self::layer::ServerBusyBackoffLayer;
pub use self::peek::PeekBody;
pub use self::service::{ResponseFuture, ServerBusyBackoff};
pub use crate::errors::{BackoffError, DeadlineElapsed};
pub use crate::retry::{Failure, RetryInfo, retry_after};
