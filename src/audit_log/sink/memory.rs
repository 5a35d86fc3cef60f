//! [`MemorySink`]: keeps records, for tests.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::traits::Sink;
use crate::audit_log::record::Record;

/// Keeps the last records in memory, for tests. Clones share them.
///
/// ```
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Empty};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_ews::ServiceBuilderExt;
/// use tower_ews::audit_log::{MemorySink, Outcome};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
/// let sink = MemorySink::new();
/// let service = ServiceBuilder::new().audit_log(sink.clone()).service(service_fn(
///     async |_: Request<Empty<bytes::Bytes>>| Ok::<_, tower::BoxError>(Response::new(String::from("hello"))),
/// ));
/// let response = service.oneshot(Request::new(Empty::new())).await?;
/// // The record is made when the body has ended.
/// assert!(sink.records().is_empty());
/// response.into_body().collect().await?;
/// let records = sink.take();
/// assert_eq!((records[0].outcome, records[0].response_bytes), (Outcome::Ok, 5));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MemorySink(Arc<Inner>);

struct Inner {
    most: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    records: VecDeque<Record>,
    seen: u64,
}

impl MemorySink {
    /// Creates a sink that keeps the last 10,000 records.
    pub fn new() -> Self {
        Self::holding(10_000)
    }

    /// Creates a sink that keeps the last `most` records.
    pub fn holding(most: usize) -> Self {
        Self(Arc::new(Inner {
            most,
            held: Mutex::default(),
        }))
    }

    /// Returns the records that are kept, the oldest first.
    pub fn records(&self) -> Vec<Record> {
        self.0.held.lock().records.iter().cloned().collect()
    }

    /// Removes and returns the records that are kept.
    pub fn take(&self) -> Vec<Record> {
        std::mem::take(&mut self.0.held.lock().records).into()
    }

    /// Returns how many records there have been, whether they are kept or not.
    pub fn seen(&self) -> u64 {
        self.0.held.lock().seen
    }
}

impl Default for MemorySink {
    fn default() -> Self {
        Self::new()
    }
}

impl Sink for MemorySink {
    fn record(&self, record: &Record) {
        let record = record.clone();
        let held = &mut *self.0.held.lock();
        held.seen += 1;
        if held.records.len() >= self.0.most {
            held.records.pop_front();
        }
        if self.0.most > 0 {
            held.records.push_back(record);
        }
    }
}

impl fmt::Debug for MemorySink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySink")
            .field("seen", &self.seen())
            .finish_non_exhaustive()
    }
}
