//! Listens to thousands of mailboxes: streaming notifications in groups, with all that can go wrong looked after.
//!
//! Exchange tells what happens in a mailbox while a response hangs (`GetStreamingEvents`), for a subscription that was made
//! before (`Subscribe`). That is simple for one mailbox. For two thousand it takes groups by server, cookies, watchdogs,
//! reconnects and subscriptions that are made again. [`Subscriptions`] does that, through an [`EwsStack`](crate::EwsStack) or any
//! other client, and yields [`Notification`]s as a [`Stream`](futures_util::Stream):
//!
//! ```
//! # #[cfg(feature = "simulator")]
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), tower::BoxError> {
//! use std::time::Duration;
//!
//! use futures_util::StreamExt;
//! use http::header::AUTHORIZATION;
//! use tower_ews::EwsStack;
//! use tower_ews::extensions::Caller;
//! use tower_ews::policy::ThrottlingPolicy;
//! use tower_ews::simulator::Exchange;
//! use tower_ews::streaming::{Autodiscover, Notification, Subscriptions};
//!
//! // Stands for an HTTP client.
//! let exchange = Exchange::builder().servers(3).build();
//! let ews = EwsStack::new(ThrottlingPolicy::exchange_online())
//!     .caller(Caller::new("svc@contoso.com"))
//!     .service(exchange.clone());
//! let credentials = http::HeaderValue::from_static("Basic c3ZjQGNvbnRvc28uY29tOnNlY3JldA==");
//!
//! let autodiscover = "https://mail.contoso.com/autodiscover/autodiscover.svc".parse()?;
//! let autodiscover = Autodiscover::new(ews.clone(), autodiscover).header(AUTHORIZATION, credentials.clone());
//! let mut notifications = Subscriptions::new("https://mail.contoso.com/EWS/Exchange.asmx".parse()?)
//!     .header(AUTHORIZATION, credentials)
//!     .locate(autodiscover)
//!     .listen(ews, (0..50).map(|n| format!("user{n}@contoso.com")));
//!
//! let mut synchronised = 0;
//! while let Some(notification) = notifications.next().await {
//!     match notification {
//!         Notification::Gap { mailbox, .. } => {
//!             // Synchronise the mailbox here: at the start, and whenever something may have got lost.
//!             synchronised += 1;
//!             exchange.deliver(&mailbox, "news");
//!         }
//!         Notification::Item { mailbox, event } => {
//!             println!("{mailbox}: {:?} {}", event.kind, event.id);
//!             break;
//!         }
//!         other => panic!("{other:?}"),
//!     }
//! }
//! assert_eq!(synchronised, 50);
//! // The subscriptions are ended, so that the next process has room for its own.
//! assert_eq!(notifications.shutdown(Duration::from_secs(30)).await, 0);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "simulator"))]
//! # fn main() {}
//! ```
//!
//! # What is told
//!
//! [`Gap`](Notification::Gap) is the one to build on. It says that a mailbox is listened to from now on, and that something before
//! may not have been told. Each mailbox has one at the start. Then they come where events can have got lost: a connection broke or
//! fell silent (the server removes events from its queue when it sends them), or a subscription is gone (the server was restarted,
//! the mailbox was moved). Whoever synchronises a mailbox at each of its gaps (`SyncFolderItems`, from the last state) misses
//! nothing. Connections that end as they are to, every [ten minutes](Subscriptions::connection_time), make none.
//!
//! # How it is done
//!
//! - Each mailbox is subscribed to with impersonation. A subscription belongs to the account that has made it, but counts to the
//!   budget of the mailbox (`EWSMaxSubscriptions`).
//! - [`LocateMailboxes`] tells which server has a mailbox: [`Autodiscover`] by `GroupingInformation` and `ExternalEwsUrl`, or a
//!   closure. Mailboxes of one server are in groups of at most 200. The first of a group, by its name, is its anchor: all its
//!   calls have that `X-AnchorMailbox`, `X-PreferServerAffinity`, and the `X-BackEndOverrideCookie` that the first of them was
//!   given ([`AffinityGroup`](crate::anchor_headers::AffinityGroup)). The first Subscribe goes alone, the others with its cookie.
//! - Each group has one connection. The first ten are charged to the account. Those of further groups
//!   [impersonate their anchor](Subscriptions::hanging_connections).
//! - When the server closes a connection, the next one begins. One that says nothing for
//!   [two heartbeats](Subscriptions::heartbeat) is given up.
//! - A mailbox that is [added](Notifications::add), or subscribed to anew, while the connection of its group hangs needs another
//!   one. That is made beside the first one, impersonating the anchor, since the account may have no place for it. The server then
//!   ends the first one (`ErrorNewEventStreamConnectionOpened`), which is read to that end: nothing is lost.
//! - One that is [removed](Notifications::remove) is unsubscribed from at once.
//! - A subscription that is gone is made again. Its mailbox is looked for anew before: it may be with another server, and join a group
//!   there. If all of a group are gone, so are its anchor and its cookie, and new groups are made.
//! - Where connections do not work, or are not wanted, mailboxes can be [asked for their events](Subscriptions::poll) (GetEvents).
//! - What is refused is tried again later and later, up to five minutes, or when the server asks for it. A mailbox that is refused
//!   for good, or 100 times in a row, is [`Lost`](Notification::Lost).
//!
//! One account listens to some 2,000 mailboxes in the ten connections of its own. For more add [accounts](Subscriptions::caller):
//! 20,000 mailboxes on ten.
//!
//! # Where the numbers are from
//!
//! | number | source |
//! | --- | --- |
//! | 200 mailboxes in a group, 200 subscriptions in a connection | How to: Maintain affinity between a group of subscriptions and the Mailbox server, steps 2 and 7 |
//! | 10 connections (3 in Exchange 2013) | EWS throttling in Exchange, Table 1, `HangingConnectionLimit` |
//! | 10 calls of Subscribe at once, by each account | the same, "no more than ten open requests" |
//! | 1 to 30 minutes | Exchange's schema, `StreamingSubscriptionConnectionTimeoutType` |
//! | 45 seconds, and twice that | the EWS Managed API: its heartbeat, and when it gives up |
//!
//! # Microsoft Graph
//!
//! Graph has no connections that hang. It posts change notifications to a web address or to an event hub, and *delta queries*
//! (`/users/{id}/mailFolders/{id}/messages/delta`) tell what has changed since the last one. The same loop carries over: a
//! change notification, or the time for the next poll, stands for [`Item`](Notification::Item), and a delta query for
//! the synchronisation at a gap. When Graph does not know a delta token any more (HTTP 410), that is a gap too, from the beginning. The
//! layers beneath, [`concurrency_by_principal`](crate::concurrency_by_principal) and
//! [`server_busy_backoff`](crate::server_busy_backoff) above all, are the same.

mod agenda;
mod calls;
mod connection;
mod counts;
mod end;
mod group;
mod groups;
mod leaving;
mod lines;
mod locate;
mod locating;
mod member;
mod members;
mod notification;
mod notifications;
mod plan;
mod polling;
mod settings;
mod step;
mod subscriptions;
mod told;

pub use self::counts::Counts;
pub use self::locate::{Autodiscover, LocateMailboxes, Location, Locations};
pub use self::notification::{Notification, SubscriptionError};
pub use self::notifications::Notifications;
pub use self::subscriptions::Subscriptions;
pub use crate::soap::notifications::{EventKind, ItemEvent};
