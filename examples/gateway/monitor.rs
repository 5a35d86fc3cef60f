//! What the page shows of calls that have ended: a sink of the audit log.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;
use tower_ews::audit_log::{JsonLinesSink, MetricsSink, Outcome, Record, Sink};

/// How many failures are kept.
const FAILURES: usize = 50;

/// How many kinds of signals, of all operations, are told apart.
const SIGNALS: usize = 200;

/// Sums over all calls since the start, and the last failures.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Totals {
    pub(crate) calls: u64,
    pub(crate) parts: u64,
    pub(crate) attempts: u64,
    pub(crate) by_outcome: BTreeMap<&'static str, u64>,
    /// Of which signal, to which operation, how many.
    pub(crate) throttled: Vec<Throttled>,
    /// In seconds.
    pub(crate) queued: f64,
    pub(crate) backed_off: f64,
    pub(crate) wire: f64,
    pub(crate) body: f64,
    /// The last one first.
    pub(crate) failures: VecDeque<Failure>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Throttled {
    pub(crate) signal: Box<str>,
    pub(crate) operation: Box<str>,
    pub(crate) count: u64,
}

/// A call that failed, with what Microsoft's support asks for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    /// Seconds since 1970.
    at: u64,
    caller: Option<Box<str>>,
    mailbox: Option<Box<str>>,
    operation: Option<Box<str>>,
    outcome: &'static str,
    status: Option<u16>,
    code: Option<Box<str>>,
    error: String,
    seconds: f64,
    client_request_id: Option<Box<str>>,
    request_id: Option<Box<str>>,
    server: Option<Box<str>>,
}

/// Where the records of the stack go: the page, the metrics, and a file where one is asked for.
#[derive(Debug)]
pub(crate) struct Monitor {
    totals: Mutex<Totals>,
    metrics: MetricsSink,
    file: Option<JsonLinesSink>,
}

impl Monitor {
    pub(crate) fn new(file: Option<JsonLinesSink>) -> Self {
        Self {
            totals: Mutex::default(),
            metrics: MetricsSink::new(),
            file,
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals.lock().clone()
    }
}

impl Sink for Monitor {
    fn record(&self, record: &Record) {
        self.totals.lock().add(record);
        self.metrics.record(record);
        if let Some(file) = &self.file {
            file.record(record);
        }
    }

    fn flush(&self) {
        if let Some(file) = &self.file {
            file.flush();
        }
    }
}

impl Totals {
    fn add(&mut self, record: &Record) {
        self.calls += 1;
        self.parts += u64::from(record.parts.unwrap_or(1));
        self.attempts += record.attempts.len() as u64 + record.attempts_left_out;
        *self.by_outcome.entry(record.outcome.as_str()).or_default() += 1;
        for (sum, time) in [
            (&mut self.queued, record.queued),
            (&mut self.backed_off, record.backed_off),
            (&mut self.wire, record.wire),
            (&mut self.body, record.body),
        ] {
            *sum += time.as_secs_f64();
        }
        let operation = record.operation.as_deref().unwrap_or("other");
        for attempt in &record.attempts {
            if let Some(signal) = &attempt.signal {
                self.throttled(signal, operation, 1);
            }
        }
        for (signal, count) in &record.left_out.signals {
            self.throttled(signal, operation, *count);
        }
        if !matches!(
            record.outcome,
            Outcome::Ok | Outcome::Cancelled | Outcome::BodyDropped
        ) {
            self.failures.truncate(FAILURES - 1);
            self.failures.push_front(Failure::of(record));
        }
    }

    fn throttled(&mut self, signal: &str, operation: &str, count: u64) {
        let known = self.throttled.iter_mut();
        let mut known = known.filter(|row| *row.signal == *signal && *row.operation == *operation);
        if let Some(row) = known.next() {
            row.count += count;
        } else if self.throttled.len() < SIGNALS {
            self.throttled.push(Throttled {
                signal: signal.into(),
                operation: operation.into(),
                count,
            });
        }
    }
}

impl Failure {
    fn of(record: &Record) -> Self {
        let attempt = record.attempts.last();
        let since_1970 = record
            .time
            .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        Self {
            at: since_1970.as_ref().map_or(0, Duration::as_secs),
            caller: record.caller.clone(),
            mailbox: record.mailbox.clone(),
            operation: record.operation.clone(),
            outcome: record.outcome.as_str(),
            status: record.status,
            code: record.code.clone(),
            error: record.error.join(": "),
            seconds: record.duration.as_secs_f64(),
            client_request_id: attempt.and_then(|attempt| attempt.client_request_id.clone()),
            request_id: attempt.and_then(|attempt| attempt.request_id.clone()),
            server: attempt.and_then(|attempt| attempt.be_server.clone()),
        }
    }
}
