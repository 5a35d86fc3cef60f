//! [`BatchReport`]: what it took to get the response to a batch.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A response extension: this response was merged from those of several parts, or is one part's that stands for the whole
/// batch. Clones share the same numbers.
///
/// The response to a batch that only reads is handed out while its parts come in. Its numbers grow until the body has
/// ended: [`BatchStats::complete`].
///
/// ```
/// use tower_ews::batch_splitter::BatchReport;
///
/// fn must_look<B>(response: &http::Response<B>) -> bool {
///     response
///         .extensions()
///         .get()
///         .is_some_and(|report: &BatchReport| report.stats().unknown > 0)
/// }
///
/// assert!(!must_look(&http::Response::new(())));
/// ```
#[derive(Clone, Debug)]
pub struct BatchReport(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    stats: BatchStats,
    /// The end of the waits that are counted already.
    waited_until: Option<Instant>,
    cause: Option<Box<str>>,
}

/// What it took to get the response to a batch. See [`BatchReport`].
///
/// ```
/// use tower_ews::batch_splitter::BatchStats;
///
/// fn all_done(stats: &BatchStats) -> bool {
///     stats.complete && stats.done == stats.members
/// }
///
/// assert!(!all_done(&BatchStats::default()));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchStats {
    /// The members of the batch.
    pub members: usize,
    /// The parts that were sent. Layers further in may have sent each of them several times.
    pub parts: u32,
    /// The members that were sent again, each counted as often as that.
    pub resent: usize,
    /// The members that were done.
    pub done: usize,
    /// The members whose outcome is unknown: they may have been executed.
    pub unknown: usize,
    /// The members that were given up and not executed: refused to the end, stopped, or not sent at all.
    pub not_executed: usize,
    /// How long parts were held back before they were sent again. Waits of the layers further in are not included.
    pub waited: Duration,
    /// Whether every member has its final outcome.
    pub complete: bool,
}

impl BatchReport {
    pub(super) fn new(members: usize) -> Self {
        let stats = BatchStats {
            members,
            ..BatchStats::default()
        };
        Self(Arc::new(Mutex::new(Inner {
            stats,
            ..Inner::default()
        })))
    }

    /// Returns the numbers as they are now.
    pub fn stats(&self) -> BatchStats {
        self.0.lock().stats
    }

    /// Counts a part, with `resent` members that were sent before.
    pub(super) fn count_part(&self, resent: usize) {
        let stats = &mut self.0.lock().stats;
        stats.parts = stats.parts.saturating_add(1);
        stats.resent += resent;
    }

    /// Counts a member that was done.
    pub(super) fn count_done(&self) {
        self.0.lock().stats.done += 1;
    }

    pub(super) fn count_unknown(&self) {
        self.0.lock().stats.unknown += 1;
    }

    pub(super) fn count_not_executed(&self) {
        self.0.lock().stats.not_executed += 1;
    }

    /// Counts the members that were not counted yet.
    pub(super) fn count_rest_not_executed(&self) {
        let stats = &mut self.0.lock().stats;
        let others = stats.done + stats.unknown;
        stats.not_executed = stats.members.saturating_sub(others);
    }

    /// Counts a wait that may overlap with earlier ones.
    pub(super) fn count_wait(&self, from: Instant, until: Instant) {
        let inner = &mut *self.0.lock();
        let from = inner.waited_until.map_or(from, |counted| counted.max(from));
        inner.stats.waited += until.saturating_duration_since(from);
        inner.waited_until = Some(until);
    }

    /// Keeps the reason why the first member without a message has none.
    pub(super) fn set_cause(&self, cause: &str) {
        self.0.lock().cause.get_or_insert_with(|| cause.into());
    }

    pub(super) fn cause(&self) -> Box<str> {
        let inner = self.0.lock();
        inner
            .cause
            .clone()
            .unwrap_or_else(|| "no response came".into())
    }

    pub(super) fn set_complete(&self) {
        self.0.lock().stats.complete = true;
    }
}
