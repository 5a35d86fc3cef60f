//! [`AuditLogLayer`]: the layer, with its settings.

use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use super::facts::HttpFacts;
use super::levels::{AuditHandle, Level, Scope};
use super::redact::Redaction;
use super::service::AuditLog;
use super::shared::{BODY_LIMIT, Shared};
use super::sink::Sink;

/// Puts [`AuditLog`] around a service.
///
/// All services that one layer (or its clones) makes share its levels and its sink.
///
/// ```
/// use tower_ews::audit_log::{AuditLogLayer, EwsFacts, Level, MemorySink};
///
/// let layer = AuditLogLayer::new(MemorySink::new())
///     .facts(EwsFacts::new())
///     .level(Level::Headers)
///     .body_limit(16 * 1024);
/// assert_eq!(layer.handle().level(), Level::Headers);
/// ```
#[must_use = "layers do nothing until they are applied to a service"]
pub struct AuditLogLayer<F = HttpFacts> {
    shared: Shared,
    facts: Arc<F>,
}

impl AuditLogLayer {
    /// The default of [`body_limit`](Self::body_limit): 64 KiB.
    pub const DEFAULT_BODY_LIMIT: usize = BODY_LIMIT;

    /// Creates a layer that sends records to `sink`, at level [`Summary`](Level::Summary), with the
    /// facts of any HTTP API.
    pub fn new(sink: impl Sink) -> Self {
        Self {
            shared: Shared::new(sink),
            facts: Arc::new(HttpFacts),
        }
    }
}

impl<F> AuditLogLayer<F> {
    /// Sets the level for all calls, also of clones of the layer and of services that it made before.
    pub fn level(self, level: Level) -> Self {
        self.shared.control.set(Scope::All, level, None);
        self
    }

    /// Returns a handle that changes levels later.
    pub fn handle(&self) -> AuditHandle {
        AuditHandle {
            control: Arc::clone(&self.shared.control),
            sink: Arc::clone(&self.shared.sink),
        }
    }

    /// Sets what is masked in headers, bodies, URLs and texts.
    pub fn redact(mut self, redaction: Redaction) -> Self {
        self.shared.redaction = Arc::new(redaction);
        self
    }

    /// Sets how many bytes of each body are kept at level [`Full`](Level::Full). Default: 64 KiB.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.shared.body_limit = bytes;
        self
    }

    /// Sets what tells operations, mailboxes and codes: a [`Facts`](super::Facts), such as
    /// [`EwsFacts`](super::EwsFacts).
    pub fn facts<G>(self, facts: G) -> AuditLogLayer<G> {
        AuditLogLayer {
            shared: self.shared,
            facts: Arc::new(facts),
        }
    }
}

impl<S, F> Layer<S> for AuditLogLayer<F> {
    type Service = AuditLog<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        let shared = Arc::new(self.shared.clone());
        AuditLog::with(inner, shared, Arc::clone(&self.facts))
    }
}

impl<F> Clone for AuditLogLayer<F> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            facts: Arc::clone(&self.facts),
        }
    }
}

impl<F> fmt::Debug for AuditLogLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLogLayer")
            .field("handle", &self.handle())
            .field("body_limit", &self.shared.body_limit)
            .finish_non_exhaustive()
    }
}
