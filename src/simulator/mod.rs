//! An Exchange server that can be throttled on a laptop: in-memory mailboxes, Exchange's limits
//! enforced and counted, faults on demand. [`Graph`] is a small Microsoft Graph of the same kind.
//!
//! [`Exchange`] is a tower [`Service`](tower_service::Service) for tests in virtual time, an axum
//! [router](Exchange::router), and a [server on a socket](Exchange::serve). It is no part of the
//! layers: it shares no code with them, so that what they believe is tested against something else.
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
//! The fields of [`Policy`] say what, and where the numbers come from. Who is charged: without
//! impersonation the calling account; with it the impersonated mailbox's copy, which all service
//! accounts share; a call that impersonates one mailbox and touches another, by address or by id,
//! draws on the copy and on the calling account. A call is in flight from its arrival until the
//! last frame of its response has been taken or the response is dropped.
//!
//! **Busy budget.** A payer's balance starts at `max_burst`. It grows by `recharge_rate`
//! milliseconds per hour, never above `max_burst`, and every member's execution time is taken from
//! it. Below zero each member but the first of a call is held up before it is executed, by more the
//! lower the balance is: `overdraft_delay` at the cutoff. Below `-cutoff_balance` the payer is locked out until the
//! balance has recharged by what `lockout` brings from the cutoff; calls that were still running
//! overdraw it further, and every call during the lock-out costs `busy_call_cost`, so that both
//! prolong it. Calls during the lock-out get `ErrorServerBusy` with the remaining time; in a batch
//! the budget is looked at before each member, and the members after a lock-out has begun come back
//! throttled. Exchange 2010 has percentages of a minute instead: over one of them members are held
//! up, and further calls get `ErrorServerBusy` until the minute has room again.
//!
//! **Accounts.** [`Exchange::refuse_account`] makes one fail from now on, [`Exchange::lock_out`] locks one out as the busy budget
//! does.
//!
//! **Rates.** Messages count for a minute and recipients for a day from when they were sent. A
//! message over the rate is late, which nobody is told; a member with too many recipients comes back
//! `ErrorSubmissionQuotaExceeded`.
//!
//! **Notifications.** A subscription counts until it is ended or expires: a pull subscription its
//! timeout after it was last asked, one for streams half an hour after its stream was closed. Events
//! of items are told, those of folders are not. [`Exchange::lose_subscriptions`] loses all of them.
//!
//! **Somebody else.** [`Policy::other_client`] is another application on the same accounts.
//!
//! **Batches.** The members of a call are executed one after another, each taking its time. A call
//! with several of them that has taken `batch_limit` is cut there, and `batch_cut` says what comes
//! back: the member that ran then is done, though its response is lost, and those after it are not.
//! A member that fails with certain codes (`ErrorAccessDenied`, `ErrorQuotaExceeded`, ...) stops
//! the batch: those after it come back `ErrorBatchProcessingStopped`, a warning. A wrong target
//! folder, or a wrong mailbox of a delegate call, is one error for the whole batch. Faults on
//! demand for single members: [`Fault::ThrottledMembers`], [`Fault::MemberCode`],
//! [`Fault::SlowMembers`].
//!
//! # What it can do
//!
//! Items (Find, Get, Create, Update, Delete, Send, Move, Copy, Archive, MarkAsJunk, Export,
//! Upload), attachments (Create, Get, Delete, with the item's new change key in each response),
//! folders (Find, Get, Create, Update, Delete, Move, Copy, Empty, MarkAllItemsAsRead),
//! SyncFolderItems and SyncFolderHierarchy, delegates (Get, Add, Update, Remove; a list that gives
//! nobody any rights), ConvertId between EWS and entry ids, ResolveNames, GetMailTips,
//! GetServerTimeZones, GetUserAvailability, Subscribe, Unsubscribe, GetEvents, GetStreamingEvents,
//! SearchMailboxes (how many subjects have the phrase). An exported item is its XML in base64; any other data
//! that is uploaded becomes a message with that text as its subject.
//!
//! [`Report::done`] says by operation what was done how often, so that a test sees what a client
//! did twice or never.
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
//! Everything waits on tokio's clock: under a paused clock a day passes in milliseconds, and two
//! runs with one seed give the same report. [`Builder::speed`] divides every time of the policy.
//! Hints in responses (`BackOffMilliseconds`, `Retry-After`) are written already divided, since a
//! client obeys them in its own time; `Retry-After` is rounded up to whole seconds.
//!
//! # What it leaves out
//!
//! Push notifications (a push subscription counts, and nothing is pushed), events of folders, what
//! permissions allow, delivery (sent mail is counted, not delivered), archive mailboxes (archived
//! items go to a folder of the same one), attachments of attachments, query strings beyond a phrase
//! in the subject, recurrence. An operation that it does not know gets the fault
//! `ErrorSchemaValidation`.

mod account;
mod affinity;
mod arrival;
mod autodiscover;
mod body;
mod budget;
mod builder;
mod call;
mod clock;
mod engine;
mod exchange;
mod execution;
mod failure;
mod faults;
mod fields;
mod graph;
mod http;
mod id;
mod item_xml;
mod mailbox;
mod operation;
mod other_client;
mod policy;
mod reply;
mod report;
mod response_shape;
mod schema;
mod soap;
mod stream;
mod subscription;
mod xml;

pub use self::account::{Account, AccountRefusal};
pub use self::body::{Body, ConnectionLost};
pub use self::budget::Payer;
pub use self::builder::{Builder, DEFAULT_ACCOUNT, DEFAULT_PASSWORD};
pub use self::exchange::{Exchange, StoredItem};
pub use self::faults::{Fault, Faults};
pub use self::graph::{Graph, GraphFuture, GraphPolicy, GraphReport};
pub use self::http::{ResponseFuture, Server};
pub use self::other_client::OtherClient;
pub use self::policy::{BatchCut, BusyResponse, OpenedBy, PercentTime, Policy, SubscriptionPayer};
pub use self::report::{Call, Report};

#[cfg(test)]
mod tests;
