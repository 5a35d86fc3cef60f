//! Jobs of many calls: bounded concurrency, progress, and a journal from which an interrupted job goes on.
//!
//! A migration is thousands of calls, each to be made exactly once. [`Job`] makes them through any service, a stack of these layers
//! most of all. It keeps enough calls waiting for the ledger to group them by mailbox, and few enough to fit into memory.
//! Results come as a [`Stream`](futures_util::Stream), in the order in which calls end.
//!
//! ```
//! use futures_util::StreamExt;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use bytes::Bytes;
//! use tower::{Layer, service_fn};
//! use tower_ews::job::{Job, Journal, Past};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! # let client = service_fn(async |_: Request<String>| {
//! #     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("created")))
//! # });
//! // What an earlier run has written: one call was made, of another the response never came.
//! let mut past = Past::read(&b"begin item1 ;\ndone item1 ;\nbegin item2 ;\n"[..])?;
//! for key in past.in_doubt() {
//!     // Look whether the server has it, and say so.
//!     past.was_executed(&key);
//! }
//! // In a real job: the file, opened to append.
//! let journal = Journal::resume(Vec::new(), past);
//!
//! // Beneath all other layers, so that it notes what is sent, not what waits.
//! let service = journal.layer().layer(client);
//! let requests = ["item1", "item2", "item3"].map(|item| (item.to_owned(), Request::new(item.to_owned())));
//! let mut results = Job::new().concurrency(500).journal(journal).run(service, requests);
//! while let Some(result) = results.next().await {
//!     assert_eq!(result.key, "item3");
//!     assert_eq!(result.result?.body(), "created");
//! }
//! assert_eq!((results.progress().done, results.progress().skipped), (1, 2));
//! # Ok(())
//! # }
//! ```
//!
//! # The journal
//!
//! Lines of text, to any [`Write`](std::io::Write): `begin KEY ;` before a call is sent for the first time, then `done KEY ;`,
//! `failed KEY ;` (not executed) or `doubt KEY ;` (nobody knows). A line that was cut off by the end of its process counts for
//! nothing. Each line is written and flushed before the job goes on; whether that reaches the disk is left to the writer. A line
//! is written in the task that makes the call, so a writer should be as fast as a file.
//!
//! [`Past`] reads it. What was done is not made again, what failed is. The same holds for jobs that share a journal, or that are run
//! once more with it: it knows the keys of all that it has written. Two processes must not write to one: lock the file. Nothing in
//! it says which job it belongs to, so a key that is unique among all jobs is the safest. What was begun and has no end is *in doubt*: it is listed,
//! and left out until somebody says what became of it. Once a journal cannot be written, no further call is sent.
//!
//! # Cancellation
//!
//! Dropping the stream drops all calls. Those that were sent are in doubt when the journal is read.

mod journal;
mod layer;
mod line;
mod outcome;
mod past;
mod run;

pub use self::journal::Journal;
pub use self::layer::{JournalFuture, JournalLayer, JournalService};
pub use self::outcome::JobOutcome;
pub use self::past::Past;
pub use self::run::{Job, JobResult, Progress, Results};
pub use crate::errors::JournalError;

#[cfg(test)]
mod tests;
