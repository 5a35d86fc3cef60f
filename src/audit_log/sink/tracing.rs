//! [`TracingSink`]: one `tracing` event per record.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::time::Duration;

use tracing::{Level, event};

use super::traits::Sink;
use super::visible::visible;
use crate::audit_log::{Captured, Outcome, Record};

/// Sends each record as one event of the target `tower_ews::audit`, with a field for each value.
/// Fields have OpenTelemetry's names where there are any. Durations are in milliseconds. What is not
/// known is left out.
///
/// The level depends on the outcome: a success and a call that its caller dropped are `INFO`, a
/// failure and an unknown outcome are `WARN`, a call without a response is `ERROR`. Headers, bodies
/// and attempts are text in the fields `request_headers`, `request_body`, `attempts` and so on, if
/// the level of the log has them. A JSON Lines sink is better for a log with all of them.
///
/// The subscriber runs in the task that ends the call, which is as fast as the subscriber is.
///
/// ```
/// use tower_ews::audit_log::{Record, Sink, TracingSink};
///
/// TracingSink::new().record(&Record::default());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingSink;

impl TracingSink {
    /// Creates a sink that sends to the current subscriber.
    pub fn new() -> Self {
        TracingSink
    }
}

/// The macro wants 32 fields at most, and a level that is a constant.
macro_rules! at_level {
    ($level:expr, $record:expr) => {{
        let record: &Record = $record;
        event!(
            target: "tower_ews::audit",
            $level,
            outcome = record.outcome.as_str(),
            duration_ms = millis(record.duration),
            queued_ms = millis(record.queued),
            backed_off_ms = millis(record.backed_off),
            wire_ms = millis(record.wire),
            body_ms = millis(record.body),
            caller = shown(&record.caller).as_deref(),
            principal = shown(&record.principal).as_deref(),
            access = record.access,
            mailbox = shown(&record.mailbox).as_deref(),
            charges = charges(record).map(all_visible),
            operation = shown(&record.operation).as_deref(),
            members = record.members,
            parts = record.parts,
            resent = record.resent(),
            http.request.method = &*visible(&record.method),
            server.address = shown(&record.server_address).as_deref(),
            server.port = record.server_port,
            url.path = &*visible(&record.url_path),
            http.request.body.size = record.request_bytes,
            http.response.status_code = record.status,
            http.response.body.size = record.response_bytes,
            user_agent.original = shown(&record.user_agent).as_deref(),
            "error.type" = record.error_type.as_deref(),
            code = shown(&record.code).as_deref(),
            signal = shown(&record.signal).as_deref(),
            error = (!record.error.is_empty()).then(|| all_visible(record.error.join(": "))),
            attempts = attempts(record).map(all_visible),
            request_headers = headers(&record.request_headers).map(all_visible),
            response_headers = headers(&record.response_headers).map(all_visible),
            request_body = body(&record.request_body).as_deref(),
            response_body = body(&record.response_body).as_deref(),
        );
    }};
}

impl Sink for TracingSink {
    fn record(&self, record: &Record) {
        match record.outcome {
            Outcome::Ok | Outcome::Cancelled | Outcome::BodyDropped => {
                at_level!(Level::INFO, record);
            }
            Outcome::Failed | Outcome::Unknown => at_level!(Level::WARN, record),
            Outcome::Error | Outcome::NotSent => at_level!(Level::ERROR, record),
        }
    }
}

fn shown(text: &Option<Box<str>>) -> Option<Cow<'_, str>> {
    text.as_deref().map(visible)
}

fn all_visible(text: String) -> String {
    match visible(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(shown) => shown,
    }
}

fn millis(duration: Duration) -> f64 {
    // Microseconds, so that no digits of a binary fraction follow.
    duration.as_micros() as f64 / 1e3
}

fn charges(record: &Record) -> Option<String> {
    let mut text = joined(&record.charges, |text, charge| {
        write!(
            text,
            "{} {} {}",
            charge.principal, charge.budget, charge.amount
        )
    })?;
    if record.charges_left_out > 0 {
        text += &format!(" and {} more", record.charges_left_out);
    }
    Some(text)
}

fn attempts(record: &Record) -> Option<String> {
    let mut text = joined(&record.attempts, |text, attempt| {
        match attempt.status {
            Some(status) => write!(text, "{status}")?,
            None => write!(text, "-")?,
        }
        write!(text, " {}ms", millis(attempt.total))?;
        for (name, value) in [
            ("signal", &attempt.signal),
            ("client-request-id", &attempt.client_request_id),
            ("request-id", &attempt.request_id),
            ("X-FEServer", &attempt.fe_server),
            ("X-BEServer", &attempt.be_server),
            ("X-DiagInfo", &attempt.diag_info),
        ] {
            if let Some(value) = value {
                write!(text, " {name}={value}")?;
            }
        }
        Ok(())
    })?;
    if record.attempts_left_out > 0 {
        text += &format!(" and {} more", record.attempts_left_out);
    }
    Some(text)
}

fn headers(headers: &Option<Vec<(Box<str>, Box<str>)>>) -> Option<String> {
    joined(headers.as_deref()?, |text, (name, value)| {
        write!(text, "{name}: {value}")
    })
}

fn body(body: &Option<Captured>) -> Option<String> {
    let body = body.as_ref()?;
    Some(all_visible(String::from_utf8_lossy(&body.bytes).into()))
}

/// `None` if there are none.
fn joined<T>(parts: &[T], one: impl Fn(&mut String, &T) -> fmt::Result) -> Option<String> {
    let mut text = String::new();
    for (n, part) in parts.iter().enumerate() {
        if n > 0 {
            text.push_str("; ");
        }
        // A `String` takes everything.
        let _ = one(&mut text, part);
    }
    (!parts.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use tracing::dispatcher::with_default;
    use tracing::field::{Field, Visit};
    use tracing::span;
    use tracing::{Event, Metadata, Subscriber};

    use super::*;
    use crate::audit_log::{AttemptRecord, ChargeRecord};

    type Seen = Vec<(Level, String, BTreeMap<String, String>)>;

    #[derive(Default)]
    struct Notes(Arc<Mutex<Seen>>);

    struct Fields(BTreeMap<String, String>);

    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0.insert(field.name().to_owned(), format!("{value:?}"));
        }
    }

    impl Subscriber for Notes {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut fields = Fields(BTreeMap::new());
            event.record(&mut fields);
            let metadata = event.metadata();
            self.0.lock().unwrap().push((
                *metadata.level(),
                metadata.target().to_owned(),
                fields.0,
            ));
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    fn seen(record: &Record) -> (Level, String, BTreeMap<String, String>) {
        let notes = Notes::default();
        let seen = Arc::clone(&notes.0);
        let notes = tracing::Dispatch::new(notes);
        // While there is one listener alone, an event that another thread is the first to come to never reaches anybody.
        let _silent = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        with_default(&notes, || TracingSink::new().record(record));
        let mut seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 1);
        seen.remove(0)
    }

    #[test]
    fn one_event_with_a_field_for_each_value() {
        let record = Record {
            duration: Duration::from_micros(1_234_500),
            queued: Duration::from_millis(7),
            caller: Some("svc@contoso.com".into()),
            charges: vec![ChargeRecord {
                principal: "svc".into(),
                budget: "EWSMaxConcurrency".into(),
                amount: 1,
            }],
            charges_left_out: 2,
            operation: Some("CreateItem".into()),
            members: Some(3),
            method: "POST".into(),
            url_path: "/EWS/Exchange.asmx".into(),
            server_port: Some(443),
            status: Some(200),
            outcome: Outcome::Failed,
            code: Some("ErrorItemNotFound".into()),
            error_type: Some("timeout".into()),
            error: vec!["outer\u{2028}".into(), "inner".into()],
            attempts: vec![AttemptRecord {
                status: Some(503),
                total: Duration::from_millis(20),
                request_id: Some("r1".into()),
                resend: true,
                ..AttemptRecord::default()
            }],
            attempts_left_out: 4,
            response_headers: Some(vec![("a".into(), "b".into())]),
            request_body: Some(Captured {
                bytes: "<a/>".into(),
                ..Captured::default()
            }),
            ..Record::default()
        };
        let (level, target, fields) = seen(&record);
        assert_eq!((level, &*target), (Level::WARN, "tower_ews::audit"));
        for (name, value) in [
            ("outcome", "\"failed\""),
            ("duration_ms", "1234.5"),
            ("queued_ms", "7.0"),
            ("caller", "\"svc@contoso.com\""),
            ("charges", "\"svc EWSMaxConcurrency 1 and 2 more\""),
            ("operation", "\"CreateItem\""),
            ("members", "3"),
            ("resent", "true"),
            ("http.request.method", "\"POST\""),
            ("server.port", "443"),
            ("url.path", "\"/EWS/Exchange.asmx\""),
            ("http.response.status_code", "200"),
            ("error.type", "\"timeout\""),
            ("code", "\"ErrorItemNotFound\""),
            ("error", "\"outer\\\\u{2028}: inner\""),
            ("attempts", "\"503 20ms request-id=r1 and 4 more\""),
            ("response_headers", "\"a: b\""),
            ("request_body", "\"<a/>\""),
        ] {
            assert_eq!(fields.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!fields.contains_key("mailbox"));
    }

    #[test]
    fn the_level_goes_by_the_outcome() {
        for (outcome, expected) in [
            (Outcome::Ok, Level::INFO),
            (Outcome::Cancelled, Level::INFO),
            (Outcome::BodyDropped, Level::INFO),
            (Outcome::Failed, Level::WARN),
            (Outcome::Unknown, Level::WARN),
            (Outcome::Error, Level::ERROR),
            (Outcome::NotSent, Level::ERROR),
        ] {
            let record = Record {
                outcome,
                ..Record::default()
            };
            assert_eq!(seen(&record).0, expected, "{outcome:?}");
        }
    }
}
