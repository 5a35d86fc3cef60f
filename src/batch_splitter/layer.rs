//! The layer, with its settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::Config;
use super::service::BatchSplitter;
use super::shared::Shared;
use super::sizing::Sizing;

/// Applies [`BatchSplitter`] to a service.
///
/// The services of one layer and its clones learn part sizes together.
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
#[must_use = "layers do nothing until they are applied to a service"]
pub struct BatchSplitterLayer<F> {
    format: Arc<F>,
    config: Config,
    sizing: Arc<Sizing>,
}

impl<F> BatchSplitterLayer<F> {
    /// Creates a new layer that splits the batches of `format`.
    pub fn new(format: F) -> Self {
        Self {
            format: Arc::new(format),
            config: Config::default(),
            sizing: Arc::default(),
        }
    }

    /// Replaces the format, and keeps all other settings.
    ///
    /// ```
    /// use tower_ews::EwsStack;
    /// use tower_ews::batch_splitter::EwsBatchFormat;
    /// use tower_ews::policy::ThrottlingPolicy;
    ///
    /// let stack = EwsStack::new(ThrottlingPolicy::exchange_online())
    ///     .batches(|batches| batches.format(EwsBatchFormat::new().stop_after_error(true)));
    /// # let _ = stack;
    /// ```
    pub fn format(mut self, format: F) -> Self {
        self.format = Arc::new(format);
        self
    }

    /// Sets how many members a part has before anything is known about the server. 100 by default, as open clients have
    /// it; at least 1.
    pub fn start_members(mut self, members: usize) -> Self {
        self.config.start_members = members.max(1);
        self
    }

    /// Sets how many members a part may have, however fast the server is. 1,000 by default; at least 1. A format can have
    /// a lower bound of its own.
    pub fn max_members(mut self, members: usize) -> Self {
        self.config.max_members = members.max(1);
        self
    }

    /// Sets how many members a part may have of an operation that is not idempotent: as many are in doubt when its response
    /// is lost. 50 by default, so that a reset of the connection leaves a number that somebody can look through; at least 1.
    pub fn max_in_doubt(mut self, members: usize) -> Self {
        self.config.max_in_doubt = members.max(1);
        self
    }

    /// Sets how many bytes a part may have. 16 MiB by default. A member that is larger goes alone.
    ///
    /// Exchange accepts 64 MiB ("client-specific message size limits"), but `UploadItems` only 25 MB, and executes a
    /// request for one minute at most ("Throttling implications for EWS batch requests").
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.config.max_bytes = bytes;
        self
    }

    /// Sets how many bytes of the response to one part are accepted. 256 MiB by default. A longer response counts as lost:
    /// a batch that only reads asks for its members again in smaller parts.
    pub fn max_response(mut self, bytes: u64) -> Self {
        self.config.max_response = bytes;
        self
    }

    /// Sets how long the server is to work on a part. 20 seconds by default, a third of what Exchange allows. Parts that
    /// take less than half of it double the size of later ones; parts that take longer halve it.
    pub fn target_time(mut self, time: Duration) -> Self {
        self.config.target_time = time;
        self
    }

    /// Sets how many parts of a batch may be in flight at the same time, where the order of execution does not matter
    /// ([`Order::Free`](super::Order::Free)). 1 by default; at least 1.
    pub fn parallel(mut self, parts: usize) -> Self {
        self.config.parallel = parts.max(1);
        self
    }

    /// Sets how long a batch goes on that makes no progress. 15 minutes by default; in `EwsStack` the policy's `deadline`.
    ///
    /// A caller's [`Deadline`](crate::extensions::Deadline) is one moment for a whole batch: its waits, its parts and their
    /// responses. A batch without one has this time since the server last settled one of its members, so that it goes on for as
    /// long as it gets on.
    ///
    /// What is in flight then is given up: see [`BatchSplitter`]. So this is to be longer than a part takes.
    pub fn stall_timeout(mut self, stall_timeout: Duration) -> Self {
        self.config.stall_timeout = stall_timeout;
        self
    }

    backoff_setters!();
}

impl<S, F> Layer<S> for BatchSplitterLayer<F> {
    type Service = BatchSplitter<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        let shared = Shared::new(self.config.clone(), Arc::clone(&self.sizing));
        BatchSplitter::with_shared(inner, Arc::clone(&self.format), Arc::new(shared))
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
