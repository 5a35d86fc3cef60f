//! [`JsonLinesBuilder`]: the settings of a [`JsonLinesSink`].

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use jiff::tz::TimeZone;

use super::error::LogFileError;
use super::file::LogFile;
use super::guard::JsonLinesGuard;
use super::overflow::Overflow;
use super::queue::Queue;
use super::rotation::Rotation;
use super::sink::JsonLinesSink;

/// Builds a [`JsonLinesSink`].
///
/// ```
/// use tower_ews::audit_log::{JsonLinesSink, Overflow};
///
/// let (sink, _guard) = JsonLinesSink::builder()
///     .capacity(64 << 20)
///     .overflow(Overflow::Block)
///     .writer(std::io::stderr())?;
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "builders do nothing until they are built"]
pub struct JsonLinesBuilder {
    capacity: usize,
    overflow: Overflow,
}

impl JsonLinesSink {
    /// Creates a builder with the defaults.
    pub fn builder() -> JsonLinesBuilder {
        JsonLinesBuilder::default()
    }
}

impl Default for JsonLinesBuilder {
    fn default() -> Self {
        JsonLinesBuilder {
            capacity: 8 << 20,
            overflow: Overflow::Drop,
        }
    }
}

impl JsonLinesBuilder {
    /// Sets how many bytes of lines may wait, and as many again may be with the writer. Default:
    /// 8 MiB, some ten thousand summaries.
    pub fn capacity(mut self, bytes: usize) -> Self {
        self.capacity = bytes;
        self
    }

    /// Sets what happens when the queue is full. Default: [`Overflow::Drop`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Creates a sink that appends to a file, which is put aside as the rotation says.
    ///
    /// Folders on the way are created. A file that is created is readable by its owner alone, where
    /// the system has such permissions; one that is there keeps its own.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened, is a symbolic link, a folder or a device, or has a last line
    /// that is not one of an audit log; and if no thread can be started.
    pub fn file(
        self,
        path: impl AsRef<Path>,
        rotation: Rotation,
    ) -> Result<(JsonLinesSink, JsonLinesGuard), LogFileError> {
        let path = path.as_ref();
        let file = LogFile::open(path, rotation)?;
        self.writer(file).map_err(|source| LogFileError::Thread {
            path: path.to_owned(),
            source,
        })
    }

    /// Creates a sink that writes to any writer, which gets each line in one `write`, and a `flush`
    /// when no more lines wait.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn writer(
        self,
        writer: impl Write + Send + 'static,
    ) -> io::Result<(JsonLinesSink, JsonLinesGuard)> {
        let queue = Arc::new(Queue::new(self.capacity, self.overflow));
        let thread = thread::Builder::new()
            .name("tower-ews-audit".to_owned())
            .spawn({
                let queue = Arc::clone(&queue);
                move || queue.write_to(writer)
            })?;
        let guard = JsonLinesGuard {
            queue: Arc::clone(&queue),
            thread: Some(thread),
        };
        let zone = TimeZone::try_system().ok();
        Ok((JsonLinesSink { queue, zone }, guard))
    }
}
