//! The layer, with its settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::classify::HttpClassifier;
use super::config::{Config, Shared};
#[cfg(feature = "ews")]
use super::ews::EwsClassifier;
use super::service::ServerBusyBackoff;
use crate::ledger::Ledger;

/// Puts [`ServerBusyBackoff`] around a service.
///
/// ```
/// use std::time::Duration;
/// use tower_ews::server_busy_backoff::ServerBusyBackoffLayer;
///
/// let layer = ServerBusyBackoffLayer::ews()
///     .deadline(Duration::from_secs(120))
///     .max_buffered(256 * 1024);
/// # let _ = layer;
/// ```
#[must_use = "a layer does nothing until a service is put into it"]
pub struct ServerBusyBackoffLayer<C> {
    classifier: Arc<C>,
    config: Config,
}

#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
impl ServerBusyBackoffLayer<EwsClassifier> {
    /// For Exchange Web Services.
    pub fn ews() -> Self {
        Self::new(EwsClassifier)
    }
}

impl ServerBusyBackoffLayer<HttpClassifier> {
    /// For plain HTTP: 429 and 503 with `Retry-After`.
    pub fn http() -> Self {
        Self::new(HttpClassifier)
    }
}

impl<C> ServerBusyBackoffLayer<C> {
    /// With a classifier of your own.
    pub fn new(classifier: C) -> Self {
        Self {
            classifier: Arc::new(classifier),
            config: Config::default(),
        }
    }

    /// Reports signals to `ledger`, which then holds the principal's calls back. None by default: the layer holds them
    /// back itself, at gates that all services of this layer and its clones share.
    ///
    /// It must be the ledger of the `ConcurrencyByPrincipal` further in: a call that is to wait for a gate of the ledger
    /// is sent on at once, to wait there.
    pub fn ledger(mut self, ledger: Arc<dyn Ledger>) -> Self {
        self.config.ledger = Some(ledger);
        self
    }

    /// How long a call may take, its waits and resends included; 15 minutes by default. The request extension
    /// [`Deadline`](crate::extensions::Deadline) sets another for one call.
    ///
    /// It bounds waiting: an attempt that is on its way is never cut off (streaming answers last longer than this).
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.config.deadline = deadline;
        self
    }

    /// The waits without a hint: the n-th of a call is drawn evenly from nothing to `base` times 2 to the power of n-1,
    /// `cap` at most. 500 ms and 60 s by default.
    pub fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.config.backoff.base = base;
        self.config.backoff.cap = cap;
        self
    }

    /// How many bytes of an answer are read before it is handed over, to decide on them; 64 KiB by default. An answer
    /// that is shorter is read to its end first.
    pub fn max_prefix(mut self, bytes: usize) -> Self {
        self.config.max_prefix = bytes;
        self
    }

    /// How many bytes of a refusal are kept, so that it can be the answer if nothing better comes; 1 MiB by default.
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.config.max_buffered = bytes;
        self
    }

    /// Makes the random part of waits the same in each run, for tests.
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.seed = Some(seed);
        self
    }
}

impl<S, C> Layer<S> for ServerBusyBackoffLayer<C> {
    type Service = ServerBusyBackoff<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let shared = Shared::new(Arc::clone(&self.classifier), self.config.clone());
        ServerBusyBackoff::new(inner, Arc::new(shared))
    }
}

impl<C> Clone for ServerBusyBackoffLayer<C> {
    fn clone(&self) -> Self {
        Self {
            classifier: Arc::clone(&self.classifier),
            config: self.config.clone(),
        }
    }
}

impl<C> fmt::Debug for ServerBusyBackoffLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBusyBackoffLayer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
