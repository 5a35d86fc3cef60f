//! What happened to a call, and what to tell support.
//!
//! # Request ids
//!
//! Each attempt has an id of its own (`client-request-id`); the server adds its `request-id` and the names of its servers. Microsoft's
//! support finds a request by them. A response has those of its last attempt:
//!
//! ```
//! use http::{Request, Response};
//! use tower::{ServiceExt, service_fn};
//! use tower_ews::EwsStack;
//! use tower_ews::body::ReplayBody;
//! use tower_ews::client_request_id::RequestIds;
//! use tower_ews::policy::ThrottlingPolicy;
//! use tower_ews::server_busy_backoff::RetryInfo;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
//! # let client = service_fn(async |_: Request<ReplayBody>| {
//! #     Ok::<_, tower::BoxError>(Response::builder().header("request-id", "4f1c").body(String::from("<s:Envelope/>"))?)
//! # });
//! let ews = EwsStack::new(ThrottlingPolicy::exchange_online()).service(client);
//! let response = ews.oneshot(Request::post("https://mail.contoso.com/EWS/Exchange.asmx").body(String::new())?).await?;
//! let ids = RequestIds::of(&response).ok_or("no ids")?;
//! println!("client-request-id {:?}, request-id {:?}", ids.sent(), ids.request_id());
//! assert_eq!(ids.request_id(), Some("4f1c"));
//! if let Some(info) = response.extensions().get::<RetryInfo>() {
//!     println!("{} attempts, waited {:?}, last signal {:?}", info.attempts, info.backed_off, info.signal);
//! }
//! # Ok(()) }
//! ```
//!
//! A call that ended in an error has no response. Its ids are in the [audit log](crate::audit_log), with those of all attempts.
//!
//! # One mailbox, for ten minutes
//!
//! The log of the stack is off until it is switched on, which needs no restart:
//!
//! ```
//! use std::time::Duration;
//!
//! use tokio::time::Instant;
//! use tower_ews::EwsStack;
//! use tower_ews::audit_log::{Level, Scope};
//! use tower_ews::policy::ThrottlingPolicy;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let stack = EwsStack::new(ThrottlingPolicy::exchange_online());
//! let until = Instant::now() + Duration::from_secs(600);
//! stack.audit_handle().set_until(Scope::Principal("amy@contoso.com"), Level::Full, until);
//! # }
//! ```
//!
//! # Traces and metrics
//!
//! [`HttpSpan`](crate::http_span) right around the client makes a span of each attempt, inside the span of the call and with
//! OpenTelemetry's attributes. A `traceparent` of the caller is sent with each attempt, untouched:
//!
//! ```
//! use http::{Request, Response};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_ews::body::ReplayBody;
//! use tower_ews::policy::ThrottlingPolicy;
//! use tower_ews::{EwsStack, ServiceBuilderExt};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
//! let client = service_fn(async |request: Request<ReplayBody>| {
//!     assert_eq!(request.headers()["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
//!     Ok::<_, tower::BoxError>(Response::new(String::from("<s:Envelope/>")))
//! });
//! let client = ServiceBuilder::new().http_span().service(client);
//! let ews = EwsStack::new(ThrottlingPolicy::exchange_online()).service(client);
//! let request = Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
//!     .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
//! ews.oneshot(request.body(String::new())?).await?;
//! # Ok(()) }
//! ```
//!
//! [`MetricsSink`](crate::audit_log::MetricsSink) counts calls, attempts and refusals, [`LedgerGauges`](crate::gauges::LedgerGauges) shows
//! what is held and waits. `docs/grafana.json` is a dashboard of both.
//!
//! # Read a record
//!
//! | field | what it tells |
//! | --- | --- |
//! | `queued` | The client's own limit held it back. Look at the [snapshot](super::tuning#see-what-limits-you). |
//! | `backed_off` | The server held it back; `signal` says by which code. |
//! | `wire` | The server or the network was slow. |
//! | `body` | The caller was slow to read, or the response long. |
//! | `attempts` | Each with its ids, servers, status and signal. The first one that failed is usually the cause. |
//! | `outcome` | `unknown`: it may have been executed. Look before you send it again. |
//!
//! | it is | because |
//! | --- | --- |
//! | one server's name in all failures | That server is ill: tell support its name (`be_server`). |
//! | failures of one mailbox alone | It moves, is corrupt, or has no licence: compare with another mailbox of its database. |
//! | an echo that differs ([`Echo`](crate::client_request_id::Echo)) | A proxy answered for the server, or mixed responses up. |
//! | `NotSent` and `queued` is the whole time | The deadline is shorter than the queue: submit less, or wait longer. |
//! | 403 for all mailboxes from one day on | [EWS was switched off](super::graph). |
