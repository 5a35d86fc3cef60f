//! A record as one line of JSON.

use std::borrow::Cow;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hashbrown::HashMap;
use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use jiff::tz::{Offset, TimeZone};

use crate::audit_log::record::{AttemptRecord, Captured, LeftOutRecord, Record, SCHEMA};
use crate::audit_log::sink::visible::is_hidden;

const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));

/// Appends the record and a newline. JSON escapes the newlines of texts, so the line has no other.
pub(super) fn line(record: &Record, zone: Option<&TimeZone>, out: &mut Vec<u8>) {
    let mut object = Object::new(out);
    object.number("schema", u64::from(SCHEMA));
    object.time("time", record.time.unwrap_or_else(SystemTime::now), zone);
    object.millis("duration_ms", record.duration);
    object.millis("queued_ms", record.queued);
    object.millis("backed_off_ms", record.backed_off);
    object.millis("wire_ms", record.wire);
    object.millis("body_ms", record.body);
    object.text("caller", record.caller.as_deref());
    object.text("principal", record.principal.as_deref());
    object.text("access", record.access);
    object.text("mailbox", record.mailbox.as_deref());
    object.list("charges", &record.charges, |charge, out| {
        let mut object = Object::new(out);
        object.text("principal", Some(&charge.principal));
        object.text("budget", Some(&charge.budget));
        object.number("amount", u64::from(charge.amount));
        object.end();
    });
    let left_out = Some(record.charges_left_out).filter(|left_out| *left_out > 0);
    object.number("charges_left_out", left_out);
    object.text("operation", record.operation.as_deref());
    object.number("members", record.members);
    object.number("parts", record.parts.map(u64::from));
    object.truth("resent", record.resent());
    object.text("http.request.method", Some(&record.method));
    object.text("server.address", record.server_address.as_deref());
    object.number("server.port", record.server_port.map(u64::from));
    object.text("url.path", Some(&record.url_path));
    object.number("http.request.body.size", record.request_bytes);
    object.number("http.response.status_code", record.status.map(u64::from));
    object.number("http.response.body.size", record.response_bytes);
    object.text("user_agent.original", record.user_agent.as_deref());
    object.text("error.type", record.error_type.as_deref());
    object.text("outcome", Some(record.outcome.as_str()));
    object.text("code", record.code.as_deref());
    object.text("signal", record.signal.as_deref());
    object.list("error", &record.error, |text, out| string(text, out));
    object.list("attempts", &record.attempts, attempt);
    if record.attempts_left_out > 0 {
        object.number("attempts_left_out", record.attempts_left_out);
        sums(&record.left_out, object.key("left_out"));
    }
    object.headers("request_headers", record.request_headers.as_deref());
    object.headers("response_headers", record.response_headers.as_deref());
    object.captured("request_body", record.request_body.as_ref());
    object.captured("response_body", record.response_body.as_ref());
    object.end();
    out.push(b'\n');
}

fn attempt(attempt: &AttemptRecord, out: &mut Vec<u8>) {
    let mut object = Object::new(out);
    object.number("part", attempt.part.map(u64::from));
    object.millis("started_ms", attempt.started);
    object.millis("queued_ms", attempt.queued);
    object.millis("backed_off_ms", attempt.backed_off);
    object.millis("wire_ms", attempt.wire);
    object.millis("body_ms", attempt.body);
    object.millis("total_ms", attempt.total);
    object.number("status", attempt.status.map(u64::from));
    object.text("signal", attempt.signal.as_deref());
    object.truth("resend", attempt.resend);
    object.text("client_request_id", attempt.client_request_id.as_deref());
    object.text("request_id", attempt.request_id.as_deref());
    object.text("fe_server", attempt.fe_server.as_deref());
    object.text("be_server", attempt.be_server.as_deref());
    object.text("diag_info", attempt.diag_info.as_deref());
    object.end();
}

fn sums(sums: &LeftOutRecord, out: &mut Vec<u8>) {
    let mut object = Object::new(out);
    object.millis("queued_ms", sums.queued);
    object.millis("backed_off_ms", sums.backed_off);
    object.millis("wire_ms", sums.wire);
    object.millis("body_ms", sums.body);
    object.number("resends", sums.resends);
    object.list("signals", &sums.signals, |(signal, count), out| {
        let mut object = Object::new(out);
        object.text("signal", Some(signal));
        object.number("attempts", *count);
        object.end();
    });
    object.end();
}

/// Appends a string, in which nothing is hidden and no reader sees the end of a line.
fn string(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    // Writing into a `Vec` never fails, and neither does a string as JSON.
    let _ = serde_json::to_writer(&mut *out, text);
    if text.is_ascii() || !text.contains(is_hidden) {
        return;
    }
    let plain = out.split_off(start);
    for letter in String::from_utf8_lossy(&plain).chars() {
        let mut units = [0; 2];
        match is_hidden(letter) {
            true => letter.encode_utf16(&mut units).iter().for_each(|unit| {
                let _ = write!(out, "\\u{unit:04x}");
            }),
            false => out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Appends a number with at least `least` digits. `benches/audit`, `summary`, watches it: a record has a
/// dozen of them.
fn decimal(mut number: u64, least: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        if number == 0 && used >= least {
            break;
        }
        *slot = b'0' + (number % 10) as u8;
        number /= 10;
        used += 1;
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

/// Writes an object. Unknown values are left out.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    fn new(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Object { out, empty: true }
    }

    fn end(self) {
        self.out.push(b'}');
    }

    /// Appends a key of the schema, which needs no escaping.
    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        self.comma();
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    fn comma(&mut self) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
    }

    fn text(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            string(text, self.key(key));
        }
    }

    fn number(&mut self, key: &str, number: impl Into<Option<u64>>) {
        if let Some(number) = number.into() {
            decimal(number, 1, self.key(key));
        }
    }

    fn truth(&mut self, key: &str, truth: bool) {
        let word: &[u8] = if truth { b"true" } else { b"false" };
        self.key(key).extend_from_slice(word);
    }

    fn millis(&mut self, key: &str, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let out = self.key(key);
        decimal(micros / 1000, 1, out);
        out.push(b'.');
        decimal(micros % 1000, 3, out);
    }

    fn time(&mut self, key: &str, time: SystemTime, zone: Option<&TimeZone>) {
        let time = Timestamp::try_from(time).unwrap_or_default();
        let offset = zone.map_or(Offset::UTC, |zone| zone.to_offset(time));
        let out = self.key(key);
        out.push(b'"');
        let _ = PRINTER.print_timestamp_with_offset(&time, offset, &mut *out);
        out.push(b'"');
    }

    /// Appends a list. An empty one is left out.
    fn list<T>(&mut self, key: &str, items: &[T], one: impl Fn(&T, &mut Vec<u8>)) {
        if items.is_empty() {
            return;
        }
        let out = self.key(key);
        for (n, item) in items.iter().enumerate() {
            out.push(if n == 0 { b'[' } else { b',' });
            one(item, out);
        }
        out.push(b']');
    }

    fn header(&mut self, name: &str, value: &str) {
        self.comma();
        string(name, self.out);
        self.out.push(b':');
        string(value, self.out);
    }

    /// Appends headers. Values of the same name are joined with commas, as in HTTP, since an object has each
    /// key once.
    fn headers(&mut self, key: &str, headers: Option<&[(Box<str>, Box<str>)]>) {
        let Some(headers) = headers else {
            return;
        };
        let mut places = HashMap::with_capacity(headers.len());
        let mut values: Vec<(&str, Cow<'_, str>)> = Vec::with_capacity(headers.len());
        for (name, value) in headers {
            let next = values.len();
            match values.get_mut(*places.entry(&**name).or_insert(next)) {
                None => values.push((name, Cow::Borrowed(value))),
                Some((_, values)) => {
                    let values = values.to_mut();
                    values.push_str(", ");
                    values.push_str(value);
                }
            }
        }
        let mut object = Object::new(self.key(key));
        for (name, value) in &values {
            object.header(name, value);
        }
        object.end();
    }

    fn captured(&mut self, key: &str, body: Option<&Captured>) {
        let Some(body) = body else {
            return;
        };
        let mut object = Object::new(self.key(key));
        match std::str::from_utf8(&body.bytes) {
            Ok(text) => object.text("text", Some(text)),
            Err(_) => object.text("base64", Some(&BASE64_STANDARD.encode(&body.bytes))),
        }
        object.number("bytes", body.total);
        object.truth("truncated", body.truncated);
        object.text("content_encoding", body.encoding.as_deref());
        object.end();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::audit_log::record::{ChargeRecord, Outcome};

    fn parsed(record: &Record, zone: Option<&TimeZone>) -> (String, Value) {
        let mut out = Vec::new();
        line(record, zone, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        let value = serde_json::from_str(&text).unwrap();
        (text, value)
    }

    #[test]
    fn everything_is_in_it() {
        let millis = Duration::from_millis;
        let record = Record {
            time: Some(SystemTime::UNIX_EPOCH + Duration::from_micros(1_767_225_600_123_456)),
            duration: Duration::from_micros(1_234_567),
            queued: millis(1),
            backed_off: millis(2),
            wire: millis(3),
            body: Duration::from_micros(4),
            caller: Some("svc".into()),
            principal: Some("ann".into()),
            access: Some("delegate"),
            mailbox: Some("mbx".into()),
            charges: vec![ChargeRecord {
                principal: "svc".into(),
                budget: "b".into(),
                amount: 2,
            }],
            charges_left_out: 3,
            operation: Some("CreateItem".into()),
            members: Some(7),
            parts: Some(2),
            method: "POST".into(),
            server_address: Some("mail".into()),
            server_port: Some(443),
            url_path: "/EWS".into(),
            request_bytes: Some(10),
            status: Some(500),
            response_bytes: 11,
            user_agent: Some("ua".into()),
            outcome: Outcome::Unknown,
            code: Some("ErrorX".into()),
            signal: Some("ErrorServerBusy".into()),
            error_type: Some("timeout".into()),
            error: vec!["a\nb\u{2028}\"".into(), "c".into()],
            attempts: vec![AttemptRecord {
                part: Some(1),
                started: millis(5),
                backed_off: millis(6),
                queued: millis(7),
                wire: millis(8),
                body: millis(9),
                total: millis(30),
                status: Some(503),
                signal: Some("503".into()),
                resend: true,
                client_request_id: Some("1".into()),
                request_id: Some("2".into()),
                fe_server: Some("3".into()),
                be_server: Some("4".into()),
                diag_info: Some("5".into()),
            }],
            attempts_left_out: 9,
            left_out: LeftOutRecord {
                resends: 1,
                backed_off: millis(2),
                queued: millis(3),
                wire: millis(4),
                body: millis(5),
                signals: vec![("503".into(), 6)],
            },
            request_headers: Some(vec![("x".into(), "1".into())]),
            response_headers: Some(vec![
                ("a".into(), "1".into()),
                ("b".into(), "2".into()),
                ("a".into(), "3".into()),
            ]),
            request_body: Some(Captured {
                bytes: "<a>\r\n</a>".into(),
                total: 99,
                truncated: true,
                encoding: None,
            }),
            response_body: Some(Captured {
                bytes: vec![0xff, 0xfe].into(),
                total: 2,
                truncated: false,
                encoding: Some("gzip".into()),
            }),
        };
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let (text, value) = parsed(&record, Some(&zone));
        assert!(text.starts_with(
            r#"{"schema":1,"time":"2026-01-01T02:00:00.123+02:00","duration_ms":1234.567,"#
        ));
        let expected = r#"{
            "schema": 1, "time": "2026-01-01T02:00:00.123+02:00",
            "duration_ms": 1234.567, "queued_ms": 1.0, "backed_off_ms": 2.0, "wire_ms": 3.0, "body_ms": 0.004,
            "caller": "svc", "principal": "ann", "access": "delegate", "mailbox": "mbx",
            "charges": [{"principal": "svc", "budget": "b", "amount": 2}], "charges_left_out": 3,
            "operation": "CreateItem", "members": 7, "parts": 2, "resent": true,
            "http.request.method": "POST", "server.address": "mail", "server.port": 443, "url.path": "/EWS",
            "http.request.body.size": 10, "http.response.status_code": 500, "http.response.body.size": 11,
            "user_agent.original": "ua", "error.type": "timeout",
            "outcome": "unknown", "code": "ErrorX", "signal": "ErrorServerBusy", "error": ["a\nb\u2028\"", "c"],
            "attempts": [{"part": 1, "started_ms": 5.0, "queued_ms": 7.0, "backed_off_ms": 6.0, "wire_ms": 8.0, "body_ms": 9.0, "total_ms": 30.0,
                "status": 503, "signal": "503", "resend": true, "client_request_id": "1", "request_id": "2", "fe_server": "3", "be_server": "4",
                "diag_info": "5"}],
            "attempts_left_out": 9, "left_out": {"queued_ms": 3.0, "backed_off_ms": 2.0, "wire_ms": 4.0, "body_ms": 5.0,
                "resends": 1, "signals": [{"signal": "503", "attempts": 6}]},
            "request_headers": {"x": "1"}, "response_headers": {"a": "1, 3", "b": "2"},
            "request_body": {"text": "<a>\r\n</a>", "bytes": 99, "truncated": true},
            "response_body": {"base64": "//4=", "bytes": 2, "truncated": false, "content_encoding": "gzip"}
        }"#;
        assert_eq!(value, serde_json::from_str::<Value>(expected).unwrap());
    }

    #[test]
    fn what_is_hidden_is_escaped() {
        for (text, expected) in [
            ("a\u{2028}b", r#""a\u2028b""#),
            ("\u{202e}gpj\"", r#""\u202egpj\"""#),
            ("\u{85}\u{e0041}ä", r#""\u0085\udb40\udc41ä""#),
        ] {
            let mut out = Vec::new();
            string(text, &mut out);
            assert_eq!(String::from_utf8(out.clone()).unwrap(), expected);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn decimals() {
        for (number, least, expected) in [
            (0, 1, "0"),
            (0, 3, "000"),
            (7, 3, "007"),
            (1234, 3, "1234"),
            (u64::MAX, 1, "18446744073709551615"),
        ] {
            let mut out = Vec::new();
            decimal(number, least, &mut out);
            assert_eq!(out, expected.as_bytes());
        }
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let record = Record {
            time: Some(SystemTime::UNIX_EPOCH),
            ..Record::default()
        };
        let (_, value) = parsed(&record, None);
        let expected = json!({
            "schema": 1, "time": "1970-01-01T00:00:00.000+00:00",
            "duration_ms": 0.0, "queued_ms": 0.0, "backed_off_ms": 0.0, "wire_ms": 0.0, "body_ms": 0.0,
            "resent": false, "http.request.method": "", "url.path": "", "http.response.body.size": 0, "outcome": "ok",
        });
        assert_eq!(value, expected);
    }
}
