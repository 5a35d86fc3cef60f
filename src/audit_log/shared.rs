//! [`Shared`]: what all calls of a service have in common.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::levels::Control;
use super::redact::Redaction;
use super::sink::Sink;

/// The default of [`AuditLogLayer::body_limit`](super::AuditLogLayer::body_limit).
pub(super) const BODY_LIMIT: usize = 64 * 1024;

/// The settings of a service, its levels and its sink.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) control: Arc<Control>,
    pub(super) redaction: Arc<Redaction>,
    pub(super) body_limit: usize,
}

impl Shared {
    /// Creates the defaults, with records that go to `sink`.
    pub(super) fn new(sink: impl Sink) -> Self {
        Self {
            sink: Arc::new(sink),
            control: Arc::new(Control::new()),
            redaction: Arc::default(),
            body_limit: BODY_LIMIT,
        }
    }
}

/// Runs code of a user of the crate, whose panic must not become the call's.
pub(super) fn guarded<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}
