//! [`JsonLinesGuard`]: closes the log when it is dropped.

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::queue::Queue;

/// Writes what is left when it is dropped. Keep it until the end of `main`.
///
/// Dropping it waits for the writer, as long as that takes. Records that come later are lost and
/// counted, and a `tracing` event warns of the first one.
///
/// ```
/// use tower_ews::audit_log::JsonLinesSink;
///
/// fn main() -> std::io::Result<()> {
///     let (sink, _guard) = JsonLinesSink::builder().writer(std::io::sink())?;
///     // Calls, with `sink` in their layer.
///     Ok(())
/// }
/// ```
#[must_use = "the log is closed when its guard is dropped"]
pub struct JsonLinesGuard {
    pub(super) queue: Arc<Queue>,
    pub(super) thread: Option<JoinHandle<()>>,
}

impl Drop for JsonLinesGuard {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // It catches what panics.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for JsonLinesGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the lines that wait: they may be megabytes.
        f.debug_struct("JsonLinesGuard")
            .field("lost", &self.queue.lost())
            .finish_non_exhaustive()
    }
}
