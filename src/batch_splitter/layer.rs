//! The layer, with its settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::{Config, Shared};
use super::service::BatchSplitter;
use super::sizing::Sizing;
use crate::retry::backoff::Jitter;

/// Puts [`BatchSplitter`] around a service.
///
/// The services that one layer (or its clones) makes learn fitting sizes together.
///
/// ```
/// use std::time::Duration;
/// use tower_ews::batch_splitter::{BatchFormat, BatchSplitterLayer};
///
/// fn layer<F: BatchFormat>(format: F) -> BatchSplitterLayer<F> {
///     BatchSplitterLayer::new(format)
///         .start_members(50)
///         .max_bytes(4 * 1024 * 1024)
///         .target_time(Duration::from_secs(10))
///         .parallel(4)
/// }
/// ```
#[must_use = "a layer does nothing until a service is put into it"]
pub struct BatchSplitterLayer<F> {
    format: Arc<F>,
    config: Config,
    sizing: Arc<Sizing>,
}

impl<F> BatchSplitterLayer<F> {
    /// Splits what is a batch of `format`.
    pub fn new(format: F) -> Self {
        Self {
            format: Arc::new(format),
            config: Config::default(),
            sizing: Arc::default(),
        }
    }

    /// How many members a part has as long as nothing is learnt; 100 by default, as open clients have it. At least 1.
    pub fn start_members(mut self, members: usize) -> Self {
        self.config.start_members = members.max(1);
        self
    }

    /// How many members a part may have at most, however fast the server is; 1,000 by default. At least 1. A format can
    /// have a lower bound of its own.
    pub fn max_members(mut self, members: usize) -> Self {
        self.config.max_members = members.max(1);
        self
    }

    /// How many bytes a part may have at most; 16 MiB by default. A member that is larger by itself goes alone.
    ///
    /// Exchange takes 64 MiB ("client-specific message size limits"), but `UploadItems` only 25 MB, and executes a
    /// request for one minute at most ("Throttling implications for EWS batch requests").
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.config.max_bytes = bytes;
        self
    }

    /// How many bytes of the answer to one part are taken in; 256 MiB by default. What answers with more counts as lost:
    /// what only reads is asked for again in smaller parts.
    pub fn max_response(mut self, bytes: u64) -> Self {
        self.config.max_response = bytes;
        self
    }

    /// How long the server is to work on a part; 20 seconds by default, a third of what Exchange allows. Parts that take
    /// less than half of it let sizes grow twofold, those that take longer halve them.
    pub fn target_time(mut self, time: Duration) -> Self {
        self.config.target_time = time;
        self
    }

    /// How many parts of a batch may be on their way at the same time, where the order of execution does not matter
    /// ([`Order::Free`](super::Order::Free)); 1 by default, at least 1.
    pub fn parallel(mut self, parts: usize) -> Self {
        self.config.parallel = parts.max(1);
        self
    }

    /// How long members are sent again while the batch makes no progress at all; 15 minutes by default. The request
    /// extension [`Deadline`](crate::extensions::Deadline) bounds the whole call besides.
    ///
    /// It bounds waiting: a part that is on its way is never cut off.
    pub fn stall_timeout(mut self, stall_timeout: Duration) -> Self {
        self.config.stall_timeout = stall_timeout;
        self
    }

    /// The waits without a hint: the n-th since the last progress is drawn evenly from nothing to `base` times 2 to the
    /// power of n-1, `cap` at most. 500 ms and 60 s by default.
    pub fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.config.backoff.base = base;
        self.config.backoff.cap = cap;
        self
    }

    /// Makes the random part of waits the same in each run, for tests.
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.seed = Some(seed);
        self
    }
}

impl<S, F> Layer<S> for BatchSplitterLayer<F> {
    type Service = BatchSplitter<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        let shared = Shared {
            format: Arc::clone(&self.format),
            config: self.config.clone(),
            sizing: Arc::clone(&self.sizing),
            jitter: Jitter::new(self.config.seed),
        };
        BatchSplitter::new(inner, Arc::new(shared))
    }
}

impl<F> Clone for BatchSplitterLayer<F> {
    fn clone(&self) -> Self {
        Self {
            format: Arc::clone(&self.format),
            config: self.config.clone(),
            sizing: Arc::clone(&self.sizing),
        }
    }
}

impl<F> fmt::Debug for BatchSplitterLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchSplitterLayer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
