//! EWS ends in Exchange Online: what a refused caller sees, what to do until then, and how the layers go along to Graph.
//!
//! Exchange Server keeps EWS. In Exchange Online:
//!
//! | date | what happens |
//! | --- | --- |
//! | 30 June 2026 | mailboxes with kiosk licences (F1, F3, Kiosk) are refused |
//! | end of August 2026 | until then an administrator can set `EWSEnabled` to `True` and name the applications that are allowed |
//! | September 2026 | Microsoft fills the lists of allowed applications from what is in use |
//! | from 1 October 2026 | where `EWSEnabled` is not set it becomes `False`, tenant by tenant; an administrator can switch it on again |
//! | 1 April 2027 | the end, for everybody |
//!
//! # What a refusal looks like
//!
//! An HTTP 403. Microsoft has not published its headers or its body, so nothing in it tells a mailbox from an application or a tenant.
//! The layers judge by what else is refused, and remember it, so that a job does not ask ten thousand times:
//!
//! | refused is | you see | ask an administrator for |
//! | --- | --- | --- |
//! | one mailbox | a 403 for it, and none for others: [`AccessScope::Mailbox`](crate::server_busy_backoff::AccessScope::Mailbox) | its licence, `Set-CASMailbox -EwsEnabled` |
//! | an application | 403 for three mailboxes in a row: [`AccessScope::Caller`](crate::server_busy_backoff::AccessScope::Caller). Another application still works | `EwsAllowedAppIDs` (application ids) and `EwsAllowList` (user agents) |
//! | a tenant | the same, for every application | `Set-OrganizationConfig -EwsEnabled $true`; it takes up to 24 hours |
//!
//! Before the end Microsoft refuses parts of a tenant for a while, as a test. A 403 that goes away by itself was one of those.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use http::{Request, Response};
//! use tower::{ServiceExt, service_fn};
//! use tower_ews::EwsStack;
//! use tower_ews::body::ReplayBody;
//! use tower_ews::policy::ThrottlingPolicy;
//! use tower_ews::server_busy_backoff::AccessDenied;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
//! let refuses = service_fn(async |_: Request<ReplayBody>| {
//!     Ok::<_, Infallible>(Response::builder().status(403).body(String::new()).unwrap())
//! });
//! let ews = EwsStack::new(ThrottlingPolicy::exchange_online()).service(refuses);
//! let soap = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
//!     <GetFolder xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"/></s:Body></s:Envelope>"#;
//! let request = Request::post("https://outlook.office365.com/EWS/Exchange.asmx").body(soap.to_owned())?;
//! let response = ews.oneshot(request).await?;
//! let denied = response.extensions().get::<AccessDenied>().ok_or("a 403 without its scope")?;
//! println!("{denied}");
//! # Ok(()) }
//! ```
//!
//! # What to do until 1 April 2027
//!
//! 1. **Know what you use.** Switch the [audit log](crate::audit_log) on, write JSON Lines for some weeks, and let
//!    `cargo run --release --example audit_report -- LOG --out REPORT.html` make the inventory: each operation, how often, with the call
//!    of Graph that replaces it. Microsoft's usage reports in the admin center name applications by their id: it is
//!    the `appid` of the token that you authenticate with.
//! 2. **Stay allowed meanwhile.** Have the application id put on `EwsAllowedAppIDs`, and keep a
//!    [`User-Agent`](crate::client_request_id) of your own that does not change.
//! 3. **Move what has an equivalent**, operation by operation. The same layers stand around a client of Graph; below.
//! 4. **Decide about the rest.**
//!
//! # What has no equivalent
//!
//! | EWS | in Graph |
//! | --- | --- |
//! | streaming notifications (`GetStreamingEvents`) | webhooks, Event Hubs or Event Grid; a delta query instead of pull subscriptions |
//! | export and import of archives, public folders and groups | none; of primary and shared mailboxes since May 2026 |
//! | public folders (`FindItem`, `FindFolder`) | none |
//! | `GetUserConfiguration` and its kin, `MarkAsJunk` | beta only |
//! | delegates (`AddDelegate` ...) | calendars only; other folders by the Exchange Online Admin API, a preview |
//! | `EmptyFolder`, `MarkAllItemsAsRead`, conversations | one request for each message, twenty in a batch |
//! | client extensions, Skype's contact lists, retention tags, Unified Messaging, site mailboxes | none |
//!
//! The report has a row for each operation, and says which rows are uncertain.
//!
//! # The same layers around Graph
//!
//! An application may have four requests at a time in a mailbox, 10,000 in ten minutes, and may upload 150 MB in five. A refusal is
//! a 429 with `Retry-After`; in a `$batch` of twenty it is in single responses:
//!
//! ```
//! use std::sync::Arc;
//!
//! use http::Request;
//! use http_body_util::BodyExt;
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_ews::ServiceBuilderExt;
//! use tower_ews::batch_splitter::GraphBatchFormat;
//! use tower_ews::policy::ThrottlingPolicy;
//! use tower_ews::server_busy_backoff::HttpClassifier;
//! use tower_ews::simulator::{Graph, GraphPolicy};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
//! let server = Graph::new(GraphPolicy::outlook());
//! let policy = ThrottlingPolicy::graph_outlook();
//! let ledger = Arc::new(policy.ledger());
//! let graph = ServiceBuilder::new()
//!     .buffer_request(policy.max_request)
//!     .batch_splitter(GraphBatchFormat::new())
//!     .server_busy_backoff_with_ledger(ledger.clone(), HttpClassifier)
//!     .concurrency_by_principal_with_ledger(ledger, policy.graph_charges("application"))
//!     .client_request_id()
//!     .service(server.clone());
//!
//! let calls = (0..20).map(async |n| {
//!     let request = Request::post("https://graph.microsoft.com/v1.0/users/amy@contoso.com/messages")
//!         .header("authorization", "Bearer application")
//!         .body(format!(r#"{{"subject":"message {n}"}}"#))?;
//!     let response = graph.clone().oneshot(request).await?;
//!     assert_eq!(response.status(), 201);
//!     Ok::<_, tower::BoxError>(response.into_body().collect().await?)
//! });
//! futures_util::future::try_join_all(calls).await?;
//! let report = server.report();
//! assert_eq!((report.created.len(), report.throttled, report.peak_in_flight), (20, 0, 4));
//! # Ok(()) }
//! ```
//!
//! | in EWS | in Graph |
//! | --- | --- |
//! | `EwsStack` | the layers above |
//! | `EwsCharges`, by account or impersonated mailbox | [`GraphCharges`](crate::principal::GraphCharges), by application and mailbox |
//! | a batch of any size | `$batch`, cut into twenties |
//! | `SyncFolderItems` | a delta query: follow `@odata.nextLink`, keep `@odata.deltaLink` |
//! | attachments in the item | from 3 MB on an upload session, in ranges that follow each other |
//!
//! `cargo run --example graph` does all of these against a server that allows less than it says.
