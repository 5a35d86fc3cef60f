//! A small Microsoft Graph for tests and examples: the messages of mailboxes, batches, delta queries and
//! upload sessions, under limits that the client is not told.
//!
//! [`Graph`] is a tower [`Service`](tower_service::Service) and a [server on a
//! socket](Graph::serve_on_loopback), like [`Exchange`](super::Exchange). Everything waits on tokio's
//! clock.
//!
//! # What it enforces
//!
//! The numbers of [`GraphPolicy`], for each application in each mailbox. A request over one of them gets
//! 429 `ApplicationThrottled` with `Retry-After`, in whole seconds. The application is the bearer
//! token. A request is in flight until its response is made, also if the client has gone.
//!
//! # What it can do
//!
//! Messages of `/users/{id}` (list with `$top` and `$skip`, get, create, change, delete), their delta
//! (`/mailFolders/{id}/messages/delta`; all messages are in each folder), `createUploadSession` for
//! attachments, and `/$batch`: four of its requests run at the same time, `dependsOn` is kept to.
//! An upload URL needs no token, and takes the ranges of the file in their order.

mod limits;
mod mailbox;
mod policy;
mod reply;
mod report;
mod request;
mod server;

pub use self::policy::GraphPolicy;
pub use self::report::GraphReport;
pub use self::server::{Graph, GraphFuture};

#[cfg(test)]
mod tests;
