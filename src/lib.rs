//! Independent [tower] layers that let a client live inside the throttling of Exchange Web Services (EWS), instead of
//! fighting it.
//!
//! Exchange allows so many calls at a time per account, so many open mailboxes, so much execution time; past that come
//! `ErrorServerBusy`, `ErrorExceededConnectionCount`, `ErrorTooManyObjectsOpened`, HTTP 503, and lock-outs of minutes.
//! With these layers around any HTTP client a job runs as fast as the server's policy allows, its caller sees no
//! throttling error, nothing is lost, and nothing is done twice.
//!
//! | layer | what it does |
//! | --- | --- |
//! | [`audit_log`] | one record of each call, all attempts and parts in it, without a secret |
//! | [`batch_splitter`] | cuts a batch into parts that the server can take, and makes one answer of theirs |
//! | [`batch_splitter`] | one big batch, parts that the server can take, one answer |
//! | [`server_busy_backoff`] | waits and resends what the server did not execute |
//! | [`concurrency_by_principal`] | so many calls at a time for each identity that the server charges |
//! | [`anchor_headers`] | `X-AnchorMailbox`, from the target mailbox |
//! | [`client_request_id`] | a new GUID for each attempt, and the server's ids |
//!
//! [`EwsStack`] puts them in their order, from one [`ThrottlingPolicy`](policy::ThrottlingPolicy). Each layer also
//! works alone, without EWS: [`ServiceBuilderExt`]. What they share is a [`ledger`] of budgets and, if wanted, a
//! [`trail`] of what happened to a call. [`soap`] and [`body`] read requests and answers without parsing them in full.
//!
//! # Example
//!
//! A job of 100 events in 20 mailboxes, through one account, against the `simulator` (a feature), whose time runs 60 times faster:
//!
//! ```
//! # #[cfg(feature = "simulator")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! use http::Request;
//! use http_body_util::BodyExt;
//! use tower::{Layer, ServiceExt};
//! use tower_ews::EwsStack;
//! use tower_ews::policy::ThrottlingPolicy;
//! use tower_ews::principal::Caller;
//! use tower_ews::simulator::Exchange;
//!
//! let exchange = Exchange::builder().speed(60.0).build();
//! let ews = EwsStack::new(ThrottlingPolicy::exchange_online().faster(60.0))
//!     .caller(Caller::new("svc@contoso.com"))
//!     .layer(exchange.clone());
//!
//! let calls = (0..100).map(|n| {
//!     let body = format!(
//!         r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
//!              xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"
//!              xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Body>
//!            <CreateItem SendMeetingInvitations="SendToNone"><SavedItemFolderId>
//!              <t:DistinguishedFolderId Id="calendar"><t:Mailbox>
//!                <t:EmailAddress>user{}@contoso.com</t:EmailAddress>
//!              </t:Mailbox></t:DistinguishedFolderId></SavedItemFolderId>
//!              <Items><t:CalendarItem><t:Subject>event {n}</t:Subject>
//!                <t:Start>2026-01-08T10:00:00Z</t:Start><t:End>2026-01-08T11:00:00Z</t:End>
//!              </t:CalendarItem></Items></CreateItem></s:Body></s:Envelope>"#,
//!         n % 20
//!     );
//!     let request = Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
//!         .header("content-type", "text/xml; charset=utf-8")
//!         .header("authorization", "Basic c3ZjQGNvbnRvc28uY29tOnNlY3JldA==")
//!         .body(body)
//!         .unwrap();
//!     tokio::spawn(ews.clone().oneshot(request))
//! });
//! for call in calls.collect::<Vec<_>>() {
//!     let answer = call.await??.into_body().collect().await?.to_bytes();
//!     assert!(answer.windows(7).any(|word| word == b"NoError"));
//! }
//! let report = exchange.report();
//! assert_eq!(report.items_created, 100);
//! assert_eq!(report.throttled_total(), 0);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "simulator"))]
//! # fn main() {}
//! ```
//!
//! # Features
//!
//! None is on by default; the layers need none.
//!
//! * `client`: recognises errors of hyper and hyper-util, so that a refused connection is told from a lost answer.
//! * `graph`: splits Microsoft Graph's JSON batches too.
//! * `json`: the audit log as JSON Lines, in files that rotate.
//! * `metrics`: counters and histograms of the calls, through the `metrics` facade.
//! * `reqwest`: as `client`, for reqwest, and request bodies for it.
//! * `serde`: reads a [`ThrottlingPolicy`](policy::ThrottlingPolicy) from a file.
//! * `simulator`: an Exchange that can be throttled on a laptop, as a service and as a server.
//!
//! [tower]: https://docs.rs/tower
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod anchor_headers;
pub mod audit_log;
pub mod batch_splitter;
pub mod body;
pub mod client_request_id;
pub mod concurrency_by_principal;
mod errors;
pub mod ledger;
pub mod policy;
pub mod principal;
mod retry;
mod seconds;
pub mod server_busy_backoff;
mod service_builder_ext;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod soap;
mod stack;
pub mod trail;

pub use service_builder_ext::ServiceBuilderExt;
pub use stack::{EwsService, EwsStack};

/// The examples of the README.
#[cfg(all(
    doctest,
    feature = "client",
    feature = "reqwest",
    feature = "simulator"
))]
#[doc = include_str!("../README.md")]
struct Readme;
