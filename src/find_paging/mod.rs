//! Adds page views to searches, and follows the pages of searches and synchronisations.
//!
//! Exchange returns at most 1,000 entries of an unpaged `FindItem` or `FindFolder`, or refuses it
//! (`ErrorExceededFindCountLimit`). Behind this layer such a request has a page view. On request its pages are followed, and
//! come as one response, in the server's own bytes. `SyncFolderItems` and `SyncFolderHierarchy`, which return at most 512
//! changes at once, are followed likewise.
//!
//! ```
//! # #[cfg(feature = "simulator")]
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), tower::BoxError> {
//! use http::Request;
//! use http_body_util::BodyExt;
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_ews::body::ReplayBody;
//! use tower_ews::find_paging::{FindPagingLayer, Paging, PagingReport};
//! use tower_ews::simulator::Exchange;
//!
//! let exchange = Exchange::builder().anonymous("svc@contoso.com").build();
//! let ews = ServiceBuilder::new()
//!     .layer(FindPagingLayer::new().default_paging(Paging::all_pages()).page_size(10))
//!     .service(exchange);
//! # let envelope = |body: &str| format!(
//! #     r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
//! #          xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"
//! #          xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Body>{body}</s:Body></s:Envelope>"#
//! # );
//! # let items = "<t:Message><t:Subject>x</t:Subject></t:Message>".repeat(35);
//! # let create = Request::post("https://mail.contoso.com/EWS/Exchange.asmx").body(ReplayBody::from(envelope(&format!(
//! #     "<m:CreateItem MessageDisposition='SaveOnly'><m:SavedItemFolderId><t:DistinguishedFolderId Id='inbox'/>\
//! #      </m:SavedItemFolderId><m:Items>{items}</m:Items></m:CreateItem>"
//! # ))))?;
//! # ews.clone().oneshot(create).await?;
//!
//! // An inbox with 35 messages.
//! let find = envelope(
//!     r#"<m:FindItem Traversal="Shallow">
//!          <m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape>
//!          <m:ParentFolderIds><t:DistinguishedFolderId Id="inbox"/></m:ParentFolderIds>
//!        </m:FindItem>"#,
//! );
//! let request = Request::post("https://mail.contoso.com/EWS/Exchange.asmx").body(ReplayBody::from(find))?;
//! let response = ews.oneshot(request).await?;
//! let report = response.extensions().get::<PagingReport>().unwrap().clone();
//! let body = response.into_body().collect().await?.to_bytes();
//! assert_eq!((report.pages(), report.entries()), (4, 35));
//! assert_eq!(body.windows(11).filter(|bytes| bytes == b"<t:Message>").count(), 35);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "simulator"))]
//! # fn main() {}
//! ```
//!
//! # Which requests
//!
//! The view goes behind the shape, where the schema has it, with the prefix that the request uses. Every other byte stays.
//! A page has [1,000 entries](FindPagingLayer::page_size), or [250](FindPagingLayer::restricted_page_size) with a
//! restriction or a query string. Several folders get the same view: Exchange counts the offset in each of them.
//!
//! These go through unchanged:
//!
//! | request | because |
//! | --- | --- |
//! | with a view of its own (indexed, fractional, seek to condition) | the caller pages, and wants no more than that page |
//! | with a `CalendarView` or a `ContactsView` | it stands at the place of a page view, and expands recurring events or narrows names |
//! | with `GroupBy` or `DistinguishedGroupBy` | a page can cut a group, whose summary is then that of a part |
//! | without a shape or a folder, with one twice, or with elements of another namespace | the schema does not allow it: the server is to say so |
//! | any other operation, and what cannot be read: compressed, not UTF-8, malformed, with a DTD | nothing is known about its pages |
//!
//! A synchronisation has its page size in `MaxChangesReturned`, which stays.
//!
//! [`Paging`] in the extensions of a request decides for that request alone, else the layer's
//! [`default_paging`](FindPagingLayer::default_paging). Within [`EwsStack`](crate::EwsStack) the default is
//! [`Paging::off`], until [`find_paging`](crate::EwsStack::find_paging) changes it.
//!
//! # Following the pages of a search
//!
//! The response begins with the first page, and asks for the next one when all of it was read: no page is asked for ahead
//! of the reader, and one page is in memory. Each page is read to its end before it is handed out, so that none of its
//! permits is held while the reader is slow, and a page that breaks off is asked for again: six times, with growing waits.
//!
//! The next offset is the server's `IndexedPagingOffset`, else what came. A page smaller than asked is not the end: under
//! `EWSFindCountLimit` Exchange returns what the budget has left. Only `IncludesLastItemInRange="true"` ends a folder. A
//! page that leads no further, without an entry or by its `IndexedPagingOffset`, is asked for again, six times.
//!
//! `RootFolder` of the response is that of the first page with `IncludesLastItemInRange="true"` and without
//! `IndexedPagingOffset`, as no page follows. `TotalItemsInView` is what the server said at first. Offsets count in the
//! view as it is at each call: an item that is created or deleted meanwhile moves the others. [`PagingReport::view_changed`]
//! tells. For a copy of a folder that must be exact, synchronise it.
//!
//! Several folders are asked for one by one, since a page view cannot have an offset for each. The response has the message
//! of each folder, in the order of the request. An error message of one folder is its message, and the others follow.
//!
//! When a page does not come, the body ends with a [`PagingError`] behind everything that came: it names the folder and the
//! offset to go on at ([`Paging::from_offset`]). An error, a fault or a failure instead of the very first page is the
//! response, or the error of the call, as it is.
//!
//! # Following a synchronisation
//!
//! `SyncState` stands before the changes, so that the response begins when the last page has come. It is the first page with
//! the changes of all pages and the last state. At most [64 MiB](FindPagingLayer::max_sync) are collected. A state that was
//! there before ends it: the same changes would come again ([`PageFailure::NoProgress`]).
//!
//! Where it ends early, the response has the changes and the state of the last page that came, and says
//! `IncludesLastItemInRange` false, as any single page does: whoever goes on with that state loses nothing and gets nothing
//! twice. An error in the body could not do that: a caller who collects bodies would lose the changes, and keep the state.
//! [`PagingReport::error`] has the [`PagingError`].
//!
//! # Where it stands
//!
//! Outside of [`server_busy_backoff`](crate::server_busy_backoff), so that each page is a call with retries of its own, and
//! outside of [`batch_splitter`](crate::batch_splitter), which would keep all pages of a part in memory. The pages of one call
//! share its [`Deadline`](crate::extensions::Deadline), its place in the ledger's queue and its
//! [`CallTrail`](crate::trail::CallTrail), in which each page is a part. The request body is a
//! [`ReplayBody`](crate::body::ReplayBody): [`BufferRequest`](crate::body::BufferRequest) goes outside.
//!
//! A response that is followed must be read without compression: its requests have no `Accept-Encoding`.
//!
//! # Readiness and cancellation
//!
//! `poll_ready` is always ready and takes nothing; a clone of the inner service is made ready for each page. Dropping the
//! response future or the body drops the page that is on its way. Nothing goes on in the background.

mod body;
mod calls;
mod config;
mod errors;
mod find;
mod layer;
mod paging;
mod report;
mod service;
mod sync;

pub use self::body::PagedBody;
pub use self::errors::{NextPage, PageFailure, PagingError};
pub use self::layer::FindPagingLayer;
pub use self::paging::Paging;
pub use self::report::PagingReport;
pub use self::service::{FindPaging, ResponseFuture};
