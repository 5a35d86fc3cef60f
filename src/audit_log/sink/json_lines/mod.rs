//! [`JsonLinesSink`]: each record as one line of JSON, written by a thread of its own.

mod encode;
mod error;
mod file;
mod queue;
mod rotation;

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use jiff::tz::TimeZone;

pub use self::error::LogFileError;
use self::file::LogFile;
use self::queue::Queue;
pub use self::rotation::Rotation;
use super::Sink;
use crate::audit_log::Record;

/// Writes each record as one line of JSON, through a bounded queue and a thread, so that no task
/// waits for a disk.
///
/// The task that ends the call makes the line and puts it into the queue. The thread writes each
/// line with one `write`. A killed process therefore leaves lines that parse, and at most one half
/// line at the end, which is cut off when the file is opened again. A [`JsonLinesGuard`] writes what
/// is left at the end of the program.
///
/// A writer that fails, panics or has no room costs records, not calls. They are counted in
/// [`lost`](Self::lost), and `tracing` events report the first failure and the recovery. A line
/// that was partly written is finished when there is room again.
///
/// # Schema
///
/// Each line begins with the version of the schema, 1. What is not known is left out. Durations are
/// milliseconds with three decimals. Times are RFC 3339 with milliseconds and the local offset
/// (`+00:00` if the system has none). A later version may add keys; one that changes or removes a
/// key has another number.
///
/// | key | |
/// | --- | --- |
/// | `schema` | `1` |
/// | `time` | when the call began |
/// | `duration_ms`, `queued_ms`, `backed_off_ms`, `wire_ms`, `body_ms` | all of it, and of that: waiting for permits, backing off, from sending to the response's head, reading its body |
/// | `caller`, `principal`, `access`, `mailbox` | the account, who was charged, `owner`, `delegate` or `impersonation`, the target or its pseudonym |
/// | `charges`, `charges_left_out` | `[{principal, budget, amount}]`, and how many there were besides |
/// | `operation`, `members`, `parts` | `CreateItem`, how many items, in how many parts they were sent |
/// | `resent` | whether an attempt followed one that may have been executed |
/// | `http.request.method`, `server.address`, `server.port`, `url.path`, `http.request.body.size`, `http.response.status_code`, `http.response.body.size`, `user_agent.original`, `error.type` | as in OpenTelemetry's conventions; `url.path` with a redacted query |
/// | `outcome` | `ok`, `failed`, `error`, `unknown`, `not_sent`, `cancelled` or `body_dropped` |
/// | `code`, `signal` | the SOAP response code, the last throttle signal |
/// | `error` | the error and its sources, a text each |
/// | `attempts` | `[{part, started_ms, queued_ms, backed_off_ms, wire_ms, body_ms, total_ms, status, signal, resend, client_request_id, request_id, fe_server, be_server, diag_info}]`: the first and the last ones of very many |
/// | `attempts_left_out`, `left_out` | how many attempts there were besides, and `{queued_ms, backed_off_ms, wire_ms, body_ms, resends, signals: [{signal, attempts}]}` of those |
/// | `request_headers`, `response_headers` | `{name: value}`, at the levels `headers` and `full`; one that came several times with commas |
/// | `request_body`, `response_body` | `{text or base64, bytes, truncated, content_encoding}`, at the level `full` |
///
/// ```
/// use tower_ews::audit_log::{JsonLinesSink, Overflow, Record, Rotation, Sink};
///
/// # fn main() -> std::io::Result<()> {
/// # let folder = std::env::temp_dir().join(format!("tower-ews-{}", std::process::id()));
/// let (sink, guard) = JsonLinesSink::builder()
///     .overflow(Overflow::Drop)
///     .file(folder.join("audit.jsonl"), Rotation::new())?;
/// sink.record(&Record::default());
/// drop(guard); // at the end of `main`
/// assert!(std::fs::read_to_string(folder.join("audit.jsonl"))?.starts_with(r#"{"schema":1,"time":""#));
/// # std::fs::remove_dir_all(folder)
/// # }
/// ```
#[derive(Clone)]
pub struct JsonLinesSink {
    queue: Arc<Queue>,
    zone: Option<TimeZone>,
}

/// What happens to a record for which the queue has no room.
///
/// See [`JsonLinesBuilder`] for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The record is dropped, and counted in [`JsonLinesSink::lost`].
    #[default]
    Drop,
    /// The call waits until there is room, and blocks the thread that it runs on. No record is lost,
    /// but a disk that hangs stops the program.
    Block,
}

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

/// Returns the texts of an error and of its sources.
fn chain(error: &(dyn Error + 'static)) -> String {
    let sources = std::iter::successors(Some(error), |&error| error.source());
    let texts: Vec<_> = sources.map(ToString::to_string).collect();
    texts.join(": ")
}

impl JsonLinesSink {
    /// Creates a builder with the defaults.
    pub fn builder() -> JsonLinesBuilder {
        JsonLinesBuilder::default()
    }

    /// Returns how many records were lost: because the queue was full, the writer failed, or the
    /// guard had been dropped.
    pub fn lost(&self) -> u64 {
        self.queue.lost()
    }
}

thread_local! {
    /// Where a line is made, so that it need not be allocated each time.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a thread keeps of its line: a record with bodies may be long.
const KEPT: usize = 64 << 10;

impl Sink for JsonLinesSink {
    fn record(&self, record: &Record) {
        LINE.with_borrow_mut(|line| {
            line.clear();
            encode::line(record, self.zone.as_ref(), line);
            self.queue.push(line);
            if line.capacity() > KEPT {
                *line = Vec::new();
            }
        });
    }

    /// Blocks until what was recorded before is written.
    fn flush(&self) {
        self.queue.flush();
    }
}

impl fmt::Debug for JsonLinesSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLinesSink")
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}

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
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
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
