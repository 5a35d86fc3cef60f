//! [`JsonLinesSink`]: makes a line of each record, and queues it.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::encode;
use super::queue::Queue;
use crate::audit_log::record::Record;
use crate::audit_log::sink::traits::Sink;

/// Writes each record as one line of JSON, through a bounded queue and a thread, so that no task
/// waits for a disk.
///
/// The task that ends the call makes the line and puts it into the queue. The thread writes each
/// line with one `write`, a millisecond after the first that it has not written: one wake-up is enough
/// for all that come meanwhile. A killed process therefore leaves lines that parse, and at most one half
/// line at the end, which is cut off when the file is opened again. A [`JsonLinesGuard`](super::JsonLinesGuard) writes what
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
    pub(super) queue: Arc<Queue>,
    pub(super) zone: Option<TimeZone>,
}

impl JsonLinesSink {
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
