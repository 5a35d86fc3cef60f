//! AuditLog: one record per call, with all its attempts and parts, and without a secret in it.
//!
//! [`AuditLog`] stands outermost. It measures what it can see by itself: method, URL, status, sizes,
//! times, errors, and on demand headers and bodies. What happened further in it reads from the
//! [`CallTrail`](crate::trail::CallTrail) of the call: charges, queues, back-offs, attempts, parts,
//! ids, servers and signals. Without those layers it works as well, for any HTTP API. Each record
//! goes through a [`Redaction`] to a [`Sink`].
//!
//! ```
//! use http::{Request, Response};
//! use http_body_util::BodyExt;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_ews::audit_log::{AuditLogLayer, EwsFacts, MemorySink};
//! use tower_ews::body::ReplayBody;
//! use tower_ews::client_request_id::ClientRequestIdLayer;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
//! // Stands for an HTTP client and a server.
//! let client = service_fn(async |_: Request<ReplayBody>| {
//!     Ok::<_, tower::BoxError>(Response::builder().header("x-feserver", "AM6PR01CA0041").body(String::from(
//!         "<Envelope><Body><GetFolderResponse><ResponseMessages><GetFolderResponseMessage ResponseClass='Error'>\
//!          <ResponseCode>ErrorFolderNotFound</ResponseCode></GetFolderResponseMessage></ResponseMessages>\
//!          </GetFolderResponse></Body></Envelope>",
//!     ))?)
//! });
//! let sink = MemorySink::new();
//! let service = ServiceBuilder::new()
//!     .layer(AuditLogLayer::new(sink.clone()).facts(EwsFacts::new()))
//!     .layer(ClientRequestIdLayer::new())
//!     .service(client);
//!
//! let body = ReplayBody::from(
//!     r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
//!          <GetFolder xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"/>
//!        </s:Body></s:Envelope>"#,
//! );
//! let response = service.oneshot(Request::post("https://mail.contoso.com/EWS/Exchange.asmx").body(body)?).await?;
//! response.into_body().collect().await?;
//!
//! let record = &sink.records()[0];
//! assert_eq!(record.operation.as_deref(), Some("GetFolder"));
//! assert_eq!(record.code.as_deref(), Some("ErrorFolderNotFound"));
//! assert_eq!(record.attempts[0].fe_server.as_deref(), Some("AM6PR01CA0041"));
//! # Ok(()) }
//! ```
//!
//! # When a record is made
//!
//! There is exactly one record for each call at a level above [`Off`](Level::Off). It is made when
//! the body of the response has ended, failed or was dropped, when the call ended in an error, or
//! when its future was dropped. It begins before the request's body is read, so that an upload
//! that is too large or is cancelled has a record too. An error of `poll_ready` is not a call.
//!
//! # Levels
//!
//! [`Level`]s are changed while calls go on, through an [`AuditHandle`]: for all calls, for one
//! principal or for one operation, and for a limited time if wanted. A call at level `Off` costs one
//! load of an atomic number.
//!
//! # Spans
//!
//! Each call that is recorded has a `tracing` span of its own, `call` of the target
//! `tower_ews::audit` (`INFO`), inside the span that the caller is in. Events of the layers and of
//! the client further in are inside of it, and so is the event of a [`TracingSink`], wherever the
//! body of the response is read.
//!
//! # Bodies
//!
//! Nothing is collected or held up. Frames of the response are cloned as they pass, up to a size
//! ([`AuditLogLayer::body_limit`]); trailers and size hints are the inner body's.
//!
//! The request's body is not touched, so that it keeps its type. The log learns what is in it when a
//! [`BufferRequest`](crate::body::BufferRequest) further in has read it, whatever its type is; a
//! [`ReplayBody`](crate::body::ReplayBody), a `Full<Bytes>` and a `String` need none. A body that
//! streams to the server is not read: the record has no operation, members or mailbox then.
//! Compressed bodies are neither read nor kept, and the record says so.
//!
//! Where the type of the inner service spells out a `BoxError`, as that of a
//! `BoxCloneService<_, Response<BoxBody<Bytes, BoxError>>, _>` does, a spawned task cannot hold
//! [`oneshot`](tower::ServiceExt::oneshot) of this layer's service over an `.await` ("implementation
//! of `From` is not general enough"). Box the service, or call it with `ready` and `call`.
//!
//! # Errors
//!
//! The inner service's, boxed. The layer has none of its own: a sink or facts that fail or panic
//! never fail a call ([`AuditHandle::lost`]).

mod assemble;
mod body;
mod call;
mod capture;
#[cfg(feature = "ews")]
mod ews;
mod facts;
mod failed;
mod future;
mod layer;
mod levels;
#[cfg(feature = "metrics")]
mod metrics;
mod record;
mod redact;
mod request;
mod server_ids;
mod service;
mod shared;
mod sink;
mod text;

pub use self::body::AuditBody;
#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
pub use self::ews::EwsFacts;
pub use self::facts::{Facts, HttpFacts, RequestFacts, ResponseFacts, ResponseInspector};
pub use self::future::ResponseFuture;
pub use self::layer::AuditLogLayer;
pub use self::levels::{AuditHandle, Level, ParseLevelError, Scope};
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use self::metrics::MetricsSink;
pub use self::record::{
    AttemptRecord, Captured, ChargeRecord, LeftOutRecord, Outcome, Record, SCHEMA,
};
pub use self::redact::Redaction;
pub use self::service::AuditLog;
#[cfg(feature = "json")]
#[cfg_attr(docsrs, doc(cfg(feature = "json")))]
pub use self::sink::{
    JsonLinesBuilder, JsonLinesGuard, JsonLinesSink, LogFileError, Overflow, Rotation,
};
pub use self::sink::{MemorySink, Sink, TracingSink};

#[cfg(test)]
mod tests;
