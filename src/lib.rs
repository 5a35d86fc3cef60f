//! Independent [tower] layers that let a client live inside the throttling of Exchange Web Services (EWS), instead of
//! fighting it.
//!
//! Exchange limits the concurrent calls, open mailboxes and execution time of each account. Past the limits come
//! `ErrorServerBusy`, `ErrorExceededConnectionCount`, `ErrorTooManyObjectsOpened`, HTTP 503, and lock-outs of minutes. With
//! these layers around any HTTP client a job runs as fast as the server's policy allows, its caller sees no throttling error,
//! nothing is lost, and nothing is done twice.
//!
//! | layer | what it does |
//! | --- | --- |
//! | [`audit_log`] | makes one record of each call, all attempts and parts in it, without a secret |
//! | [`find_paging`] | adds page views to searches, and follows pages |
//! | [`batch_splitter`] | cuts a batch into parts that the server can take, and merges their responses |
//! | [`server_busy_backoff`] | waits and resends what the server did not execute |
//! | [`account_pool`] | picks the account of each attempt, where there are several |
//! | [`concurrency_by_principal`] | limits the concurrent calls of each identity that the server charges |
//! | [`anchor_headers`] | sets `X-AnchorMailbox` to the target mailbox |
//! | [`client_request_id`] | sets a new GUID for each attempt, and keeps the server's ids |
//! | [`http_span`] | makes a `tracing` span of each attempt, with OpenTelemetry's attributes |
//!
//! [`job`] makes the calls of a whole job through them, with a journal from which an interrupted one goes on. [`streaming`] listens to
//! thousands of mailboxes, and says where events may have got lost.
//!
//! [`EwsStack`] puts them in their order, from one [`ThrottlingPolicy`](policy::ThrottlingPolicy). Each layer also
//! works alone, without EWS: [`ServiceBuilderExt`]. What they share is a [`ledger`] of budgets and, if wanted, a
//! [`trail`] of what happened to a call. [`soap`] and [`body`] read requests and responses without parsing them in full.
//!
//! # A client
//!
//! ```no_run
//! # #[cfg(all(feature = "ews", feature = "https"))]
//! # mod example {
//! use http::Request;
//! use http_body_util::BodyExt;
//! use tower::ServiceExt;
//! use tower_ews::EwsStack;
//! use tower_ews::extensions::Caller;
//! use tower_ews::http_client::HttpsClient;
//! use tower_ews::policy::ThrottlingPolicy;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # pub async fn main() -> Result<(), tower::BoxError> {
//! # let soap = String::new();
//! // Make one, and clone it for each call: clones share the account's budgets.
//! let ews = EwsStack::new(ThrottlingPolicy::exchange_online())
//!     .caller(Caller::new("svc@contoso.com"))
//!     .service(HttpsClient::new()?);
//!
//! let request = Request::post("https://outlook.office365.com/EWS/Exchange.asmx")
//!     .header("content-type", "text/xml; charset=utf-8")
//!     .header("authorization", format!("Bearer {}", std::env::var("EWS_TOKEN")?))
//!     .body(soap)?;
//! let response = ews.clone().oneshot(request).await?;
//! let body = response.into_body().collect().await?.to_bytes();
//! println!("{}", String::from_utf8_lossy(&body));
//! # Ok(())
//! # }
//! # }
//! # #[cfg(all(feature = "ews", feature = "https"))]
//! # use example::main;
//! # #[cfg(not(all(feature = "ews", feature = "https")))]
//! # fn main() {}
//! ```
//!
//! [`HttpsClient`](http_client::HttpsClient) is a feature (`https`). Any other tower `Service` over HTTP requests will do.
//!
//! # A job without a server
//!
//! A job of 100 events in 20 mailboxes, through one account, against the `simulator` (a feature), whose time runs 60 times faster:
//!
//! ```
//! # #[cfg(all(feature = "ews", feature = "simulator"))]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! use http::Request;
//! use http_body_util::BodyExt;
//! use tower::ServiceExt;
//! use tower_ews::EwsStack;
//! use tower_ews::policy::ThrottlingPolicy;
//! use tower_ews::extensions::Caller;
//! use tower_ews::simulator::Exchange;
//!
//! let exchange = Exchange::builder().speed(60.0).build();
//! let ews = EwsStack::new(ThrottlingPolicy::exchange_online().faster(60.0))
//!     .caller(Caller::new("svc@contoso.com"))
//!     .service(exchange.clone());
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
//!     let response = call.await??.into_body().collect().await?.to_bytes();
//!     assert!(response.windows(7).any(|word| word == b"NoError"));
//! }
//! let report = exchange.report();
//! assert_eq!(report.items_created, 100);
//! assert_eq!(report.throttled_total(), 0);
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "ews", feature = "simulator")))]
//! # fn main() {}
//! ```
//!
//! # How layers talk to each other
//!
//! A layer never names another one. They meet in the extensions of requests and responses, and in a ledger that they share.
//! Without an extension a layer does what it can alone.
//!
//! | way | what | put there by | read by |
//! | --- | --- | --- | --- |
//! | down | [`Caller`](extensions::Caller): the account of the call | the caller, AccountPool for each attempt | `EwsCharges`, ServerBusyBackoff, AuditLog |
//! | down | [`Deadline`](extensions::Deadline): when the call is to end | the caller, else ServerBusyBackoff | FindPaging, BatchSplitter, ServerBusyBackoff, ConcurrencyByPrincipal |
//! | down | [`Priority`](extensions::Priority): how urgent the call is | the caller | ConcurrencyByPrincipal, ServerBusyBackoff |
//! | down | [`Paging`](find_paging::Paging): whether the pages of the request are followed | the caller | FindPaging |
//! | down | [`AnchorMailbox`](anchor_headers::AnchorMailbox), [`PublicFolderMailbox`](anchor_headers::PublicFolderMailbox), [`AffinityGroup`](anchor_headers::AffinityGroup) | the caller | AnchorHeaders |
//! | down | [`CallTrail`](trail::CallTrail): what happened to the call; each layer writes to it | the caller, or AuditLog | AuditLog, the caller |
//! | down | [`AdmissionSlot`](ledger::AdmissionSlot): what an attempt is to be charged | ServerBusyBackoff, BatchSplitter, FindPaging | ConcurrencyByPrincipal or AccountPool fills it |
//! | down | a permit that is there already, of one account of several | AccountPool | ConcurrencyByPrincipal takes it over |
//! | down | [`Requeue`](ledger::Requeue): the ticket of an earlier attempt, and not before when | ServerBusyBackoff, BatchSplitter, FindPaging | ConcurrencyByPrincipal, AccountPool |
//! | down | [`RetryAttempt`](trail::RetryAttempt): the request was sent before | ServerBusyBackoff, BatchSplitter, FindPaging | ClientRequestId |
//! | down | [`ResendCount`](trail::ResendCount): how often it was | ServerBusyBackoff | HttpSpan |
//! | down | [`PartOfBatch`](trail::PartOfBatch): its sender can send less, and counts failures | BatchSplitter | ServerBusyBackoff |
//! | up | [`RequestIds`](client_request_id::RequestIds): the ids of the attempt, and its servers | ClientRequestId | the caller |
//! | up | [`RetryInfo`](server_busy_backoff::RetryInfo): attempts, waits, whether the outcome is unknown | ServerBusyBackoff | the caller |
//! | up | [`MailboxMoved`](server_busy_backoff::MailboxMoved), [`AccessDenied`](server_busy_backoff::AccessDenied): what no retry cures | ServerBusyBackoff | the caller |
//! | up | [`BatchReport`](batch_splitter::BatchReport): what became of the members | BatchSplitter | the caller |
//! | up | [`PagingReport`](find_paging::PagingReport): how many pages came, and whether they are all | FindPaging | the caller |
//! | up | [typed errors](EwsStack#errors) | each layer | the layers further out, [`stack::busy_for`], [`stack::status_of`], [`stack::fault_of`] |
//! | sideways | [`Ledger`](ledger::Ledger): ServerBusyBackoff [reports](ledger::Ledger::report) what a response says of a budget, ConcurrencyByPrincipal or AccountPool acquires from it | both | every call of the principal |
//!
//! Layers that are put together in a way that cannot work as meant log one warning that names the cure, with the target
//! `tower_ews::wiring`.
//!
//! # More
//!
//! The [`guide`] has pages on symptoms, the order of layers, budgets, tuning, troubleshooting, responses, your own parts, fleets, and
//! the way to Microsoft Graph.
//!
//! [ARCHITECTURE](https://docs.rs/crate/tower-ews/latest/source/docs/ARCHITECTURE.md) has a picture of the modules, the way of a call
//! through them, and a table of where to find what.
//!
//! # Features
//!
//! `client` and `ews` are on by default. For an API that is not EWS, turn them off and pick: the layers need none.
//!
//! * `client`: recognises errors of hyper and hyper-util, so that a refused connection is told from a lost response.
//! * `ews`: reads SOAP requests and responses of Exchange Web Services.
//! * `graph`: splits Microsoft Graph's JSON batches too.
//! * `https`: a client over HTTPS with defaults that fit Exchange, [`http_client`].
//! * `json`: the audit log as JSON Lines, in files that rotate.
//! * `metrics`: counters and histograms of the calls, and gauges of the ledger, through the `metrics` facade.
//! * `redis`: one budget for a fleet of processes, in Redis or Valkey ([`ledger::redis`]).
//! * `reqwest`: as `client`, for reqwest, whose client becomes a service, [`http_client`].
//! * `serde`: reads a [`ThrottlingPolicy`](policy::ThrottlingPolicy) from a file, and writes a [`Snapshot`](ledger::Snapshot).
//! * `simulator`: an Exchange and a small Microsoft Graph that can be throttled on a laptop, as services and as servers.
//!
//! [tower]: https://docs.rs/tower
#![forbid(unsafe_code)]
// With fewer features, docs name items that are not there.
#![cfg_attr(
    not(all(
        feature = "graph",
        feature = "https",
        feature = "metrics",
        feature = "redis"
    )),
    allow(rustdoc::broken_intra_doc_links)
)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[macro_use]
mod macros;
pub mod account_pool;
mod address;
mod affinity;
pub mod anchor_headers;
pub mod audit_log;
pub mod batch_splitter;
pub mod body;
pub mod client_request_id;
pub mod concurrency_by_principal;
mod errors;
pub mod extensions;
#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
pub mod find_paging;
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub mod gauges;
#[cfg(doc)]
pub mod guide;
#[cfg(any(feature = "https", feature = "reqwest"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "https", feature = "reqwest"))))]
pub mod http_client;
pub mod http_span;
pub mod job;
pub mod ledger;
pub mod policy;
pub mod principal;
mod retry;
mod seconds;
pub mod server_busy_backoff;
mod service_builder_ext;
#[cfg(feature = "simulator")]
pub mod simulator;
#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
pub mod soap;
#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
pub mod stack;
#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
pub mod streaming;
pub mod trail;
mod wiring;

pub use service_builder_ext::ServiceBuilderExt;
#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
pub use stack::{EwsService, EwsStack};

/// The examples of the README.
#[cfg(all(
    doctest,
    feature = "client",
    feature = "ews",
    feature = "https",
    feature = "reqwest",
    feature = "simulator"
))]
#[doc = include_str!("../README.md")]
struct Readme;
