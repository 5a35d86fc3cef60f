//! Cuts a batch into parts that a server can take, and makes one answer of theirs.
//!
//! A server that executes batches has a time limit for one, throttles in the middle of one, and cuts the connection of one that
//! takes too long. Behind this layer a caller sends one request with as many members as it likes, and gets one answer with
//! a message for each of them, in its order, in the server's own bytes. What a batch looks like comes from a
//! [`BatchFormat`]. Here is one for a server that executes line by line:
//!
//! ```
//! use http::{Request, Response, response};
//! use http_body_util::BodyExt;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_ews::batch_splitter::{
//!     Batch, BatchFormat, BatchSplitterLayer, Explanation, MemberOutcome, BatchReport, Message, Order, PartResponse, Idempotency,
//! };
//! use tower_ews::body::ReplayBody;
//! use tower_ews::body::Rope;
//!
//! struct Lines;
//! struct Batched(Vec<bytes::Bytes>);
//!
//! impl BatchFormat for Lines {
//!     type Batch = Batched;
//!
//!     fn batch(&self, request: &Request<ReplayBody>) -> Option<Batched> {
//!         let body = request.body().to_bytes();
//!         let lines = body.split_inclusive(|byte| *byte == b'\n');
//!         Some(Batched(lines.map(|line| body.slice_ref(line)).collect()))
//!     }
//! }
//!
//! impl Batch for Batched {
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
//!     fn answer(&mut self, _: &[usize], _: &response::Parts, body: Rope) -> PartResponse {
//!         let body = body.to_bytes();
//!         let messages = body.split_inclusive(|byte| *byte == b'\n').map(|line| Message {
//!             bytes: body.slice_ref(line).into(),
//!             fate: if line.starts_with(b"busy") { MemberOutcome::Again { hint: None } } else { MemberOutcome::Done },
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
//! // Executes three lines of a request at most.
//! let server = service_fn(|request: Request<ReplayBody>| async move {
//!     let body = String::from_utf8(request.into_body().to_bytes().to_vec()).unwrap();
//!     let answers = body.lines().enumerate().map(|(at, line)| match at {
//!         0..3 => format!("done {line}\n"),
//!         _ => String::from("busy\n"),
//!     });
//!     Ok::<_, std::convert::Infallible>(Response::new(answers.collect::<String>()))
//! });
//! let service = ServiceBuilder::new()
//!     .layer(BatchSplitterLayer::new(Lines).start_members(4))
//!     .service(server);
//!
//! let answer = service.oneshot(Request::new("1\n2\n3\n4\n5\n".into())).await.unwrap();
//! let merged = answer.extensions().get::<BatchReport>().unwrap().stats();
//! assert_eq!((merged.parts, merged.resent), (2, 1));
//! let answer = answer.into_body().collect().await.unwrap().to_bytes();
//! assert_eq!(answer, "done 1\ndone 2\ndone 3\ndone 4\ndone 5\n");
//! # });
//! ```
//!
//! # Parts
//!
//! A part has as many members as fit: as the time that earlier parts took shows
//! ([`target_time`](BatchSplitterLayer::target_time)), and within [`max_members`](BatchSplitterLayer::max_members) and
//! [`max_bytes`](BatchSplitterLayer::max_bytes). It touches 16 different [groups](Batch::group) at most; a batch with more of
//! them goes group by group, if the order of execution does not matter. Parts are sent one after another, or
//! [several at a time](BatchSplitterLayer::parallel).
//!
//! Each part has the caller's headers and extensions, but for what speaks of one body alone (`Content-Length`,
//! `Transfer-Encoding`, `Trailer`, digests) and for `Accept-Encoding`: compressed answers cannot be put together.
//!
//! # What is sent again
//!
//! - Members that were throttled, and only they, after the wait that the server asks for: together with members that were not
//!   sent yet, until the call's [`Deadline`](crate::extensions::Deadline), or until nothing has been achieved for as long as
//!   [`stall_timeout`](BatchSplitterLayer::stall_timeout) says. Then the server's last word stands in the answer at their place.
//! - Members that were stopped by another one that failed, as long as a round achieves something.
//! - The members of a part that was lost, in parts of half the size, if the batch only reads or converges ([`Idempotency`]); three
//!   times if it cannot be made smaller. Else their outcome is unknown, and a message at their places says so.
//! - What was certainly not sent.
//!
//! What may have been executed when it was sent again is never called refused later: unless the server says what became of
//! it, its outcome is unknown.
//!
//! What one part suffers never hides what another one achieved. When no part gave any message, the first fault or error is
//! the answer, unchanged; one that leaves the outcome unknown goes before one that does not.
//!
//! # The answer
//!
//! It has the head of the first part's that gave messages, with a [`BatchReport`] in its extensions. A batch that changes something
//! is driven to its end before its answer begins: nothing is lost if its body is not read. A batch that only reads answers
//! with its first part, and sends the others while the body is read; no further ahead of the
//! reader than one part more than may be on their way, so that a slow one keeps no more (if it goes group by group, all messages
//! that cannot be handed out yet are kept). With one part at a time, none is on its way while the reader has something to read, so that it can call again for the same principal; it cannot with several.
//!
//! Lists ([`PartResponse::Lists`]) have no place for errors: when a part of such a batch fails, a batch that only reads fails,
//! and one that changes something lists what was achieved. [`BatchStats`] tell.
//!
//! # Readiness and cancellation
//!
//! `poll_ready` is always ready and takes nothing; a clone of the inner service is made ready for each part. Dropping the
//! response future, or the body of a reading batch, drops the parts that are on their way: see [`ResponseFuture`].
//!
//! All parts have the place in line of the first one, where a ledger further in keeps one: later calls for other mailboxes do
//! not get between the parts of a batch.

mod body;
mod config;
mod drive;
mod errors;
#[cfg(feature = "ews")]
mod ews;
mod follow;
mod format;
#[cfg(feature = "graph")]
mod graph;
mod layer;
mod merge;
mod part;
mod plan;
mod report;
mod service;
mod sizing;
#[cfg(test)]
mod tests;

pub use self::body::MergedBody;
pub use self::errors::BatchError;
#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
pub use self::ews::{EwsBatch, EwsBatchFormat};
pub use self::format::{
    Batch, BatchFormat, Explanation, Idempotency, MemberOutcome, Message, Order, PartFailure,
    PartOutcome, PartResponse,
};
#[cfg(feature = "graph")]
#[cfg_attr(docsrs, doc(cfg(feature = "graph")))]
pub use self::graph::{GraphBatch, GraphBatchFormat};
pub use self::layer::BatchSplitterLayer;
pub use self::report::{BatchReport, BatchStats};
pub use self::service::{BatchSplitter, ResponseFuture};
