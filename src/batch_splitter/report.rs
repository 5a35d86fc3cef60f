//! [`BatchReport`]: what it took to get the answer to a batch.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A response extension: this answer was put together from those of several parts (or is the one that stands for all of
/// them). Clones share what they tell.
///
/// The answer of what only reads is handed out while its parts come in, so the figures grow until its body has ended:
/// [`BatchStats::complete`].
///
/// ```
/// use tower_ews::batch_splitter::BatchReport;
///
/// fn must_look<B>(answer: &http::Response<B>) -> bool {
///     answer
///         .extensions()
///         .get()
///         .is_some_and(|merged: &BatchReport| merged.stats().unknown > 0)
/// }
///
/// assert!(!must_look(&http::Response::new(())));
/// ```
#[derive(Clone, Debug)]
pub struct BatchReport(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    figures: BatchStats,
    /// The wait that is counted in already.
    until: Option<Instant>,
    cause: Option<Box<str>>,
}

/// What it took to get the answer to a batch.
///
/// See [`BatchReport`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchStats {
    /// The members of the batch.
    pub members: usize,
    /// How many parts were sent. Layers further in may have sent each of them several times.
    pub parts: u32,
    /// How many members were sent again, each counted as often as that.
    pub resent: usize,
    /// Members that were done.
    pub done: usize,
    /// Members of which it is not known whether they were executed.
    pub unknown: usize,
    /// Members that were given up and not executed: refused to the end, stopped, or not sent at all.
    pub not_executed: usize,
    /// How long parts were held back before they were sent again. Waits of the layers further in are not counted in.
    pub waited: Duration,
    /// All members have got what they get.
    pub complete: bool,
}

impl BatchReport {
    pub(super) fn new(members: usize) -> Self {
        let figures = BatchStats {
            members,
            ..BatchStats::default()
        };
        Self(Arc::new(Mutex::new(Inner {
            figures,
            ..Inner::default()
        })))
    }

    /// The figures as they are now.
    pub fn stats(&self) -> BatchStats {
        self.0.lock().figures
    }

    pub(super) fn sent(&self, again: usize) {
        let figures = &mut self.0.lock().figures;
        figures.parts = figures.parts.saturating_add(1);
        figures.resent += again;
    }

    /// A member got the server's own message.
    pub(super) fn answered(&self, done: bool) {
        self.0.lock().figures.done += usize::from(done);
    }

    pub(super) fn unknown(&self) {
        self.0.lock().figures.unknown += 1;
    }

    pub(super) fn not_executed(&self) {
        self.0.lock().figures.not_executed += 1;
    }

    /// Why the first member without an answer has none.
    pub(super) fn because(&self, cause: &str) {
        self.0.lock().cause.get_or_insert_with(|| cause.into());
    }

    pub(super) fn cause(&self) -> Box<str> {
        let inner = self.0.lock();
        inner
            .cause
            .clone()
            .unwrap_or_else(|| "no answer came".into())
    }

    pub(super) fn waits(&self, from: Instant, until: Instant) {
        let inner = &mut *self.0.lock();
        let from = inner.until.map_or(from, |counted| counted.max(from));
        inner.figures.waited += until.saturating_duration_since(from);
        inner.until = Some(until);
    }

    pub(super) fn complete(&self) {
        self.0.lock().figures.complete = true;
    }
}
