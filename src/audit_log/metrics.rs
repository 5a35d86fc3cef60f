//! [`MetricsSink`]: counters and histograms of the calls, through the `metrics` facade.
use std::borrow::Cow;

use metrics::{
    Label, SharedString, Unit, counter, describe_counter, describe_histogram, histogram,
};

use super::{Outcome, Record, Sink};

/// Counts calls through the installed recorder of the `metrics` facade. Labels are low in
/// cardinality: they name no mailbox, account or server.
///
/// | metric | kind, unit | labels |
/// | --- | --- | --- |
/// | `ews_calls_total` | counter | `operation`, `outcome` |
/// | `ews_attempts_total` | counter | `operation` |
/// | `ews_throttled_total` | counter: attempts that were held back | `operation`, `signal` |
/// | `ews_resent_total` | counter: attempts after one that may have been executed | `operation` |
/// | `ews_call_duration_seconds` | histogram, seconds: until the response's body has ended | `operation`, `outcome` |
/// | `ews_call_queued_seconds`, `ews_call_backed_off_seconds`, `ews_call_wire_seconds` | histogram, seconds: of that | `operation` |
///
/// An operation or a signal that is not known is `unknown`. One that is not a plain name of at most
/// 64 letters is `other`, so that a request cannot make labels up.
///
/// ```
/// use tower_ews::audit_log::{MetricsSink, Record, Sink};
///
/// MetricsSink::new().record(&Record::default());
/// ```
/// # The prefix
///
/// `ews` is the default prefix of all names: [`prefix`](Self::prefix). The rest of a name is by Prometheus's conventions: the unit in base
/// units, and `_total` for counters. OpenTelemetry has names of its own for a single HTTP request
/// (`http.client.request.duration`); these count calls with all their attempts, so they have others.
#[derive(Clone, Debug)]
pub struct MetricsSink {
    names: Names,
}

/// The names with their prefix, made once.
#[derive(Clone, Debug)]
struct Names {
    calls: SharedString,
    attempts: SharedString,
    throttled: SharedString,
    resent: SharedString,
    duration: SharedString,
    queued: SharedString,
    backed_off: SharedString,
    wire: SharedString,
}

impl Names {
    fn new(prefix: &str) -> Self {
        let name = |name| SharedString::from_shared(format!("{prefix}_{name}").into());
        Self {
            calls: name("calls_total"),
            attempts: name("attempts_total"),
            throttled: name("throttled_total"),
            resent: name("resent_total"),
            duration: name("call_duration_seconds"),
            queued: name("call_queued_seconds"),
            backed_off: name("call_backed_off_seconds"),
            wire: name("call_wire_seconds"),
        }
    }

    fn describe(&self) {
        for (name, what) in [
            (&self.calls, "Calls, by how they ended."),
            (&self.attempts, "Attempts that were sent."),
            (&self.throttled, "Attempts that the server held back."),
            (
                &self.resent,
                "Attempts after one that may have been executed.",
            ),
        ] {
            describe_counter!(name.clone(), Unit::Count, what);
        }
        for (name, what) in [
            (&self.duration, "From the call to the end of its response."),
            (&self.queued, "Waiting for permits."),
            (&self.backed_off, "Backing off between attempts."),
            (&self.wire, "From sending to the head of the response."),
        ] {
            describe_histogram!(name.clone(), Unit::Seconds, what);
        }
    }
}

impl MetricsSink {
    /// Creates the sink, and describes its metrics to the installed recorder. Install yours before.
    pub fn new() -> Self {
        Self::prefix("ews")
    }

    /// Creates the sink with other names: `prefix` and `_` instead of `ews_`, as
    /// [`LedgerGauges::prefix`](crate::gauges::LedgerGauges::prefix) does for the gauges. Two applications that share a recorder
    /// are told apart by it, and a client of another API need not count its calls as `ews`.
    ///
    /// ```
    /// use tower_ews::audit_log::{MetricsSink, Record, Sink};
    ///
    /// // `calendar_calls_total`, ...
    /// MetricsSink::prefix("calendar").record(&Record::default());
    /// ```
    pub fn prefix(prefix: &str) -> Self {
        let names = Names::new(prefix);
        names.describe();
        Self { names }
    }
}

impl Default for MetricsSink {
    fn default() -> Self {
        Self::new()
    }
}

/// A value that can be a label.
fn name(value: Option<&str>) -> Cow<'static, str> {
    match value {
        None | Some("") => Cow::Borrowed("unknown"),
        Some(value) if value.len() <= 64 && value.bytes().all(plain) => {
            Cow::Owned(value.to_owned())
        }
        Some(_) => Cow::Borrowed("other"),
    }
}

fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

impl Sink for MetricsSink {
    fn record(&self, record: &Record) {
        let operation = || Label::new("operation", name(record.operation.as_deref()));
        let outcome = || Label::new("outcome", record.outcome.as_str());

        let names = &self.names;
        counter!(names.calls.clone(), vec![operation(), outcome()]).increment(1);
        histogram!(names.duration.clone(), vec![operation(), outcome()]).record(record.duration);
        for (metric, duration) in [
            (&names.queued, record.queued),
            (&names.backed_off, record.backed_off),
            (&names.wire, record.wire),
        ] {
            histogram!(metric.clone(), vec![operation()]).record(duration);
        }

        let attempts = record.attempts.len() as u64 + record.attempts_left_out;
        let sent = if record.outcome == Outcome::NotSent && attempts <= 1 {
            0
        } else {
            attempts
        };
        let resent = record.attempts.iter().filter(|attempt| attempt.resend);
        for (metric, count) in [
            (&names.attempts, sent),
            (
                &names.resent,
                resent.count() as u64 + record.left_out.resends,
            ),
        ] {
            if count > 0 {
                counter!(metric.clone(), vec![operation()]).increment(count);
            }
        }
        let listed = record.attempts.iter().filter_map(|a| a.signal.as_deref());
        let left_out = record.left_out.signals.iter();
        let left_out = left_out.map(|(signal, count)| (&**signal, *count));
        for (signal, count) in listed.map(|signal| (signal, 1)).chain(left_out) {
            let labels = vec![operation(), Label::new("signal", name(Some(signal)))];
            counter!(names.throttled.clone(), labels).increment(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::*;
    use crate::audit_log::{AttemptRecord, LeftOutRecord};

    #[test]
    fn what_a_call_adds() {
        let record = Record {
            duration: Duration::from_millis(2_500),
            queued: Duration::from_millis(500),
            backed_off: Duration::from_secs(1),
            wire: Duration::from_millis(250),
            operation: Some("CreateItem".into()),
            mailbox: Some("ann@contoso.com".into()),
            caller: Some("svc@contoso.com".into()),
            outcome: Outcome::Failed,
            attempts: vec![
                AttemptRecord {
                    signal: Some("ErrorServerBusy".into()),
                    ..AttemptRecord::default()
                },
                AttemptRecord {
                    signal: Some("ann@contoso.com".into()),
                    resend: true,
                    ..AttemptRecord::default()
                },
                AttemptRecord::default(),
            ],
            attempts_left_out: 40,
            left_out: LeftOutRecord {
                resends: 5,
                signals: vec![("ErrorServerBusy".into(), 10)],
                ..LeftOutRecord::default()
            },
            ..Record::default()
        };
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        metrics::with_local_recorder(&recorder, || {
            let sink = MetricsSink::new();
            sink.record(&record);
            sink.record(&record);
        });

        let mut seen = Vec::new();
        for (key, unit, description, value) in snapshotter.snapshot().into_vec() {
            assert!(unit.is_some() && description.is_some());
            let (_, key) = key.into_parts();
            let labels: Vec<String> = key
                .labels()
                .map(|label| format!("{}={}", label.key(), label.value()))
                .collect();
            let value = match value {
                DebugValue::Histogram(values) => format!("{:?}", values[0].into_inner()),
                value => format!("{value:?}"),
            };
            seen.push(format!("{}{{{}}} {value}", key.name(), labels.join(",")));
        }
        seen.sort();
        assert_eq!(
            seen,
            [
                "ews_attempts_total{operation=CreateItem} Counter(86)",
                "ews_call_backed_off_seconds{operation=CreateItem} 1.0",
                "ews_call_duration_seconds{operation=CreateItem,outcome=failed} 2.5",
                "ews_call_queued_seconds{operation=CreateItem} 0.5",
                "ews_call_wire_seconds{operation=CreateItem} 0.25",
                "ews_calls_total{operation=CreateItem,outcome=failed} Counter(2)",
                "ews_resent_total{operation=CreateItem} Counter(12)",
                "ews_throttled_total{operation=CreateItem,signal=ErrorServerBusy} Counter(22)",
                "ews_throttled_total{operation=CreateItem,signal=other} Counter(2)",
            ]
        );
    }
    #[test]
    fn a_prefix_replaces_the_usual_one() {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        metrics::with_local_recorder(&recorder, || {
            MetricsSink::prefix("calendar").record(&Record::default());
        });
        let seen = snapshotter.snapshot().into_vec();
        assert!(seen.len() >= 5, "{seen:?}");
        for (key, unit, description, _) in &seen {
            let name = key.key().name();
            assert!(name.starts_with("calendar_"), "{name}");
            assert!(unit.is_some() && description.is_some(), "{name}");
        }
    }
}
