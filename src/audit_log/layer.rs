//! [`AuditLogLayer`]: the layer, with its settings.

use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use super::call::Shared;
use super::facts::HttpFacts;
use super::levels::{AuditHandle, Control, Level, Scope};
use super::redact::Redaction;
use super::service::AuditLog;
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
    sink: Arc<dyn Sink>,
    control: Arc<Control>,
    redaction: Arc<Redaction>,
    body_limit: usize,
    facts: Arc<F>,
}

impl AuditLogLayer {
    /// The default of [`body_limit`](Self::body_limit): 64 KiB.
    pub const DEFAULT_BODY_LIMIT: usize = 64 * 1024;

    /// Creates a layer that sends records to `sink`, at level [`Summary`](Level::Summary), with the
    /// facts of any HTTP API.
    pub fn new(sink: impl Sink) -> Self {
        Self {
            sink: Arc::new(sink),
            control: Arc::new(Control::new()),
            redaction: Arc::default(),
            body_limit: Self::DEFAULT_BODY_LIMIT,
            facts: Arc::new(HttpFacts),
        }
    }
}

impl<F> AuditLogLayer<F> {
    /// Sets the level for all calls, also of clones of the layer and of services that it made before.
    pub fn level(self, level: Level) -> Self {
        self.control.set(Scope::All, level, None);
        self
    }

    /// Returns a handle that changes levels later.
    pub fn handle(&self) -> AuditHandle {
        AuditHandle {
            control: Arc::clone(&self.control),
            sink: Arc::clone(&self.sink),
        }
    }

    /// Sets what is masked in headers, bodies, URLs and texts.
    pub fn redact(mut self, redaction: Redaction) -> Self {
        self.redaction = Arc::new(redaction);
        self
    }

    /// Sets how many bytes of each body are kept at level [`Full`](Level::Full). Default: 64 KiB.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Sets what tells operations, mailboxes and codes: a [`Facts`](super::Facts), such as
    /// [`EwsFacts`](super::EwsFacts).
    pub fn facts<G>(self, facts: G) -> AuditLogLayer<G> {
        AuditLogLayer {
            sink: self.sink,
            control: self.control,
            redaction: self.redaction,
            body_limit: self.body_limit,
            facts: Arc::new(facts),
        }
    }
}

impl<S, F> Layer<S> for AuditLogLayer<F> {
    type Service = AuditLog<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        let shared = Shared {
            sink: Arc::clone(&self.sink),
            control: Arc::clone(&self.control),
            redaction: Arc::clone(&self.redaction),
            body_limit: self.body_limit,
        };
        AuditLog::with(inner, Arc::new(shared), Arc::clone(&self.facts))
    }
}

impl<F> Clone for AuditLogLayer<F> {
    fn clone(&self) -> Self {
        Self {
            sink: Arc::clone(&self.sink),
            control: Arc::clone(&self.control),
            redaction: Arc::clone(&self.redaction),
            body_limit: self.body_limit,
            facts: Arc::clone(&self.facts),
        }
    }
}

impl<F> fmt::Debug for AuditLogLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLogLayer")
            .field("handle", &self.handle())
            .field("body_limit", &self.body_limit)
            .finish_non_exhaustive()
    }
}
