//! Splits a batch into parts that a server can take, and merges their responses.
//!
//! A server limits the time of one batch, throttles in the middle of one, and cuts the connection of one that takes too
//! long. Behind this layer a caller sends one request with any number of members, and gets one response with a message for
//! each of them, in its order and in the server's own bytes. A [`BatchFormat`] knows what a batch looks like. Here is one
//! for a server that executes line by line:
//!
//! ```
//! use http::{Request, Response, response};
//! use http_body_util::BodyExt;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_ews::batch_splitter::{
//!     Batch, BatchFormat, BatchReport, BatchSplitterLayer, Explanation, Idempotency, MemberOutcome, Message, Order,
//!     PartResponse,
//! };
//! use tower_ews::body::{ReplayBody, Rope};
//!
//! struct Lines;
//! struct LinesBatch(Vec<bytes::Bytes>);
//!
//! impl BatchFormat for Lines {
//!     type Batch = LinesBatch;
//!
//!     fn batch(&self, request: &Request<ReplayBody>) -> Option<LinesBatch> {
//!         let body = request.body().to_bytes();
//!         let lines = body.split_inclusive(|byte| *byte == b'\n');
//!         Some(LinesBatch(lines.map(|line| body.slice_ref(line)).collect()))
//!     }
//! }
//!
//! impl Batch for LinesBatch {
//!     fn operation(&self) -> &str { "lines" }
//!     fn sizing_key(&self) -> &str { "lines" }
//!     fn members(&self) -> usize { self.0.len() }
//!     fn member_bytes(&self, member: usize) -> u64 { self.0[member].len() as u64 }
//!     fn shared_bytes(&self) -> u64 { 0 }
//!     fn order(&self) -> Order { Order::Kept }
//!     fn idempotency(&self) -> Idempotency { Idempotency::NonIdempotent }
//!
//!     fn part(&mut self, members: &[usize]) -> ReplayBody {
//!         ReplayBody::from_pieces(members.iter().map(|member| self.0[*member].clone()))
//!     }
//!
//!     fn response(&mut self, _: &[usize], _: &response::Parts, body: Rope) -> PartResponse {
//!         let body = body.to_bytes();
//!         let messages = body.split_inclusive(|byte| *byte == b'\n').map(|line| {
//!             let outcome = match line.starts_with(b"busy") {
//!                 true => MemberOutcome::retry(None),
//!                 false => MemberOutcome::Done,
//!             };
//!             Message::new(body.slice_ref(line), outcome)
//!         });
//!         PartResponse::Messages { frame: (Rope::new(), Rope::new()), messages: messages.collect() }
//!     }
//!
//!     fn explain(&mut self, _: usize, why: &Explanation<'_>) -> Option<Rope> {
//!         Some(format!("{why:?}\n").into())
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! // Executes the first three lines of a request.
//! let server = service_fn(|request: Request<ReplayBody>| async move {
//!     let body = String::from_utf8(request.into_body().to_bytes().to_vec()).unwrap();
//!     let messages = body.lines().enumerate().map(|(at, line)| match at {
//!         0..3 => format!("done {line}\n"),
//!         _ => String::from("busy\n"),
//!     });
//!     Ok::<_, std::convert::Infallible>(Response::new(messages.collect::<String>()))
//! });
//! let service = ServiceBuilder::new()
//!     .layer(BatchSplitterLayer::new(Lines).start_members(4))
//!     .service(server);
//!
//! let response = service.oneshot(Request::new("1\n2\n3\n4\n5\n".into())).await.unwrap();
//! let stats = response.extensions().get::<BatchReport>().unwrap().stats();
//! assert_eq!((stats.parts, stats.resent), (2, 1));
//! let body = response.into_body().collect().await.unwrap().to_bytes();
//! assert_eq!(body, "done 1\ndone 2\ndone 3\ndone 4\ndone 5\n");
//! # });
//! ```
//!
//! # Parts
//!
//! The size of a part depends on the time that earlier parts took ([`target_time`](BatchSplitterLayer::target_time)), within
//! [`max_members`](BatchSplitterLayer::max_members) and [`max_bytes`](BatchSplitterLayer::max_bytes). A part touches 16
//! different [groups](Batch::group) at most; a batch with more of them is sent group by group if the order of execution does
//! not matter. Parts are sent one after another, or [several at a time](BatchSplitterLayer::parallel).
//!
//! Each part has the caller's headers and extensions, except those that describe one body alone (`Content-Length`,
//! `Transfer-Encoding`, `Trailer`, digests) and `Accept-Encoding`: compressed responses cannot be merged.
//!
//! # What is sent again
//!
//! - Members that were throttled, and only those, after the wait that the server asks for: together with members that were
//!   not sent yet, until the [deadline](BatchSplitter#deadline) of the batch. Then the server's last error stands in for their
//!   messages.
//! - Members that were stopped by another one that failed, as long as a round achieves something.
//! - The members of a part that was lost, in parts of half the size, if the batch is safe or idempotent ([`Idempotency`]);
//!   three times if it cannot be made smaller. Otherwise their outcome is unknown, and their messages say so.
//! - What was certainly not sent.
//!
//! A member that may have been executed when it was sent again is never reported as refused later: unless the server gives
//! it a message, its outcome is unknown.
//!
//! The failure of one part never hides what another one achieved. If no part gives any message, the first fault or error is
//! the response, unchanged; one that leaves the outcome unknown goes before one that does not.
//!
//! # The response
//!
//! Its head is that of the first response with messages, with a [`BatchReport`] in its extensions. A batch that changes
//! something is complete before its response begins: nothing is lost if its body is not read. A batch that only reads
//! responds with its first part, and sends the others while the body is read. It gets ahead of the reader by one part more
//! than may be in flight, so that a slow reader keeps no more in memory, and by as much again each time that the server throttles
//! the member whose message comes next (if it goes group by group, all messages that cannot be handed out yet are kept). With one part at a time, none is in flight while the reader has something to read, so that
//! the reader can make other calls for the same principal. With several parts it cannot.
//!
//! Lists ([`PartResponse::Lists`]) have no place for errors: if a part of such a batch fails, a batch that only reads fails,
//! and one that changes something lists what was achieved. [`BatchStats`] tell.
//!
//! # Readiness and cancellation
//!
//! `poll_ready` is always ready and takes nothing; a clone of the inner service is made ready for each part. Dropping the
//! response future, or the body of a batch that only reads, drops the parts in flight: see [`ResponseFuture`].
//!
//! All parts have the ticket of the first one in a ledger's queue: later calls for other mailboxes do not get between the
//! parts of a batch.

mod body;
mod config;
mod draft;
mod errors;
#[cfg(feature = "ews")]
mod ews;
mod fallback;
mod format;
#[cfg(feature = "graph")]
mod graph;
mod job;
mod layer;
mod members;
mod merge;
mod pacing;
mod part;
mod part_end;
mod plan;
mod progress;
#[cfg(any(feature = "ews", feature = "graph"))]
mod quote;
mod recovery;
mod service;
mod shared;
mod sizing;
mod stats;
#[cfg(test)]
mod tests;
mod trouble;

pub use self::body::MergedBody;
pub use self::errors::BatchError;
#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
pub use self::ews::{EwsBatch, EwsBatchFormat};
pub use self::format::{
    Batch, BatchFormat, Explanation, Idempotency, MemberOutcome, Message, Order, PartFailure,
    PartOutcome, PartResponse, Retry,
};
#[cfg(feature = "graph")]
#[cfg_attr(docsrs, doc(cfg(feature = "graph")))]
pub use self::graph::{GraphBatch, GraphBatchFormat};
pub use self::layer::BatchSplitterLayer;
pub use self::service::{BatchSplitter, ResponseFuture};
pub use self::stats::{BatchReport, BatchStats};
