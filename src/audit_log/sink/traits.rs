//! [`Sink`]: takes records.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use crate::audit_log::record::Record;

/// Takes records.
///
/// A sink is called on the thread that ends a call, so it should neither block nor take long. A panic
/// in it is caught and counted ([`AuditHandle::lost`](crate::audit_log::AuditHandle::lost)), and never fails a
/// call.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use tower_ews::audit_log::{Record, Sink};
///
/// /// Counts what was throttled.
/// #[derive(Default)]
/// struct Throttled(AtomicU64);
///
/// impl Sink for Throttled {
///     fn record(&self, record: &Record) {
///         self.0.fetch_add(u64::from(record.signal.is_some()), Ordering::Relaxed);
///     }
/// }
///
/// let sink = Arc::new(Throttled::default());
/// let layer = tower_ews::audit_log::AuditLogLayer::new(Arc::clone(&sink));
/// ```
pub trait Sink: Send + Sync + 'static {
    /// Takes one record.
    fn record(&self, record: &Record);

    /// Writes what is buffered. Does nothing by default.
    fn flush(&self) {}
}

impl<S: Sink + ?Sized> Sink for Arc<S> {
    fn record(&self, record: &Record) {
        (**self).record(record);
    }

    fn flush(&self) {
        (**self).flush();
    }
}

/// Sends each record to both sinks in order. A panic of the first one counts as a loss, and the second
/// one gets the record all the same.
impl<A: Sink, B: Sink> Sink for (A, B) {
    fn record(&self, record: &Record) {
        let first = catch_unwind(AssertUnwindSafe(|| self.0.record(record)));
        self.1.record(record);
        if let Err(panic) = first {
            resume_unwind(panic);
        }
    }

    fn flush(&self) {
        self.0.flush();
        self.1.flush();
    }
}
