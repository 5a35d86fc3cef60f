//! What the report reads of a record.

use std::borrow::Cow;
use std::ops::Deref;

use serde::Deserialize;

/// The version of the schema that this program reads.
pub(crate) const SCHEMA: u64 = 1;

/// Text that is borrowed from the line where it has no escapes: serde borrows a bare `Cow` in an `Option` never.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// One call. Whatever else stands in the record (headers, bodies) is passed over.
#[derive(Debug, Deserialize)]
pub(crate) struct Record<'a> {
    pub(crate) schema: u64,
    #[serde(borrow)]
    pub(crate) time: Text<'a>,
    pub(crate) duration_ms: Option<f64>,
    pub(crate) queued_ms: Option<f64>,
    pub(crate) backed_off_ms: Option<f64>,
    pub(crate) wire_ms: Option<f64>,
    pub(crate) body_ms: Option<f64>,
    pub(crate) caller: Option<Text<'a>>,
    pub(crate) principal: Option<Text<'a>>,
    pub(crate) access: Option<Text<'a>>,
    pub(crate) mailbox: Option<Text<'a>>,
    pub(crate) operation: Option<Text<'a>>,
    pub(crate) members: Option<u64>,
    pub(crate) parts: Option<u64>,
    #[serde(rename = "http.request.method")]
    pub(crate) method: Option<Text<'a>>,
    #[serde(rename = "server.address")]
    pub(crate) server: Option<Text<'a>>,
    #[serde(rename = "url.path")]
    pub(crate) path: Option<Text<'a>>,
    #[serde(rename = "http.response.status_code")]
    pub(crate) status: Option<u64>,
    #[serde(rename = "user_agent.original")]
    pub(crate) user_agent: Option<Text<'a>>,
    #[serde(rename = "error.type")]
    pub(crate) error_type: Option<Text<'a>>,
    pub(crate) outcome: Text<'a>,
    pub(crate) code: Option<Text<'a>>,
    pub(crate) signal: Option<Text<'a>>,
    pub(crate) error: Option<Vec<Text<'a>>>,
    pub(crate) attempts: Option<Vec<Attempt<'a>>>,
    pub(crate) attempts_left_out: Option<u64>,
    pub(crate) left_out: Option<LeftOut<'a>>,
}

/// What the attempts add up to that are not listed.
#[derive(Debug, Deserialize)]
pub(crate) struct LeftOut<'a> {
    #[serde(borrow)]
    pub(crate) signals: Option<Vec<SignalCount<'a>>>,
}

/// How many of them had a signal.
#[derive(Debug, Deserialize)]
pub(crate) struct SignalCount<'a> {
    #[serde(borrow)]
    pub(crate) signal: Text<'a>,
    pub(crate) attempts: u64,
}

/// What was sent once.
#[derive(Debug, Deserialize)]
pub(crate) struct Attempt<'a> {
    pub(crate) part: Option<u64>,
    pub(crate) started_ms: Option<f64>,
    pub(crate) total_ms: Option<f64>,
    pub(crate) status: Option<u64>,
    #[serde(borrow)]
    pub(crate) signal: Option<Text<'a>>,
    pub(crate) resend: Option<bool>,
    pub(crate) client_request_id: Option<Text<'a>>,
    pub(crate) request_id: Option<Text<'a>>,
    pub(crate) fe_server: Option<Text<'a>>,
    pub(crate) be_server: Option<Text<'a>>,
    pub(crate) diag_info: Option<Text<'a>>,
}

/// Why a line is no record of ours.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It is broken, cut off, or something else.
    Broken,
    /// It is a record of another schema.
    OtherSchema(u64),
}

/// The record in this line.
pub(crate) fn read(line: &[u8]) -> Result<Record<'_>, Unread> {
    #[derive(Deserialize)]
    struct Version {
        schema: u64,
    }
    let other = |schema: u64| schema != SCHEMA;
    match serde_json::from_slice::<Record<'_>>(line) {
        Ok(record) if other(record.schema) => Err(Unread::OtherSchema(record.schema)),
        Ok(record) => Ok(record),
        // Another schema may well look so different that it is no `Record`.
        Err(_) => match serde_json::from_slice::<Version>(line) {
            Ok(version) if other(version.schema) => Err(Unread::OtherSchema(version.schema)),
            _ => Err(Unread::Broken),
        },
    }
}

/// How the call ended, as the report sorts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Well,
    /// A response that says so, an error instead of a response, or nothing sent.
    Failed,
    /// Perhaps executed, perhaps not.
    Unknown,
    /// By its caller, who did not wait for the response or its end.
    GivenUp,
}

impl Record<'_> {
    pub(crate) fn outcome(&self) -> Outcome {
        match &*self.outcome {
            "ok" => Outcome::Well,
            "unknown" => Outcome::Unknown,
            "cancelled" | "body_dropped" => Outcome::GivenUp,
            // "failed", "error", "not_sent", and what a later writer of this schema may add.
            _ => Outcome::Failed,
        }
    }

    /// Who called: the account, else whoever was charged.
    pub(crate) fn account(&self) -> &str {
        let named = self.caller.as_deref().or(self.principal.as_deref());
        named
            .filter(|name| !name.is_empty())
            .unwrap_or("(unnamed account)")
    }

    /// The operation, else the method of HTTP.
    pub(crate) fn operation(&self) -> &str {
        let named = self.operation.as_deref().or(self.method.as_deref());
        named
            .filter(|name| !name.is_empty())
            .unwrap_or("(unnamed operation)")
    }

    pub(crate) fn attempts(&self) -> &[Attempt<'_>] {
        self.attempts.as_deref().unwrap_or_default()
    }

    /// How many attempts there were, listed or not.
    pub(crate) fn all_attempts(&self) -> u64 {
        let left_out = self.attempts_left_out.unwrap_or(0);
        left_out.saturating_add(self.attempts().len() as u64)
    }

    /// The signals of the responses that throttled this call, and how many attempts had them.
    pub(crate) fn signals(&self) -> impl Iterator<Item = (&str, u64)> {
        let of_attempts = self
            .attempts()
            .iter()
            .filter_map(|attempt| Some((attempt.signal.as_deref()?, 1)));
        let left_out = self.left_out.iter().flat_map(|sums| &sums.signals);
        let left_out = left_out.flatten().map(|one| (&*one.signal, one.attempts));
        // Without a trail there are no attempts, but a response all the same.
        let none = self
            .attempts()
            .iter()
            .all(|attempt| attempt.signal.is_none());
        let none = none && self.attempts_left_out.is_none();
        let own = self.signal.as_deref().filter(|_| none);
        of_attempts.chain(left_out).chain(own.map(|own| (own, 1)))
    }
}

/// Milliseconds of a log as microseconds: within a day, whatever stands there.
pub(crate) fn micros(ms: Option<f64>) -> u64 {
    // `as` takes a NaN for 0 and stops at the ends.
    (ms.unwrap_or(0.0).clamp(0.0, 86_400_000.0) * 1000.0).round() as u64
}

/// `text` to this many characters, and without what would break out of its line.
pub(crate) fn clip(text: &str, characters: usize) -> Cow<'_, str> {
    let longer = text.char_indices().nth(characters).map(|(at, _)| at);
    let kept = &text[..longer.unwrap_or(text.len())];
    if longer.is_none() && !kept.contains(hostile) {
        return Cow::Borrowed(text);
    }
    let mut clipped: String = kept
        .chars()
        .map(|c| if hostile(c) { '\u{fffd}' } else { c })
        .collect();
    if longer.is_some() {
        clipped.push('…');
    }
    Cow::Owned(clipped)
}

/// Control characters, and those that turn the direction of the text around them.
fn hostile(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
