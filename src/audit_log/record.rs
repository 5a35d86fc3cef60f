//! [`Record`]: everything that is known about one call when it has ended.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// The version of the schema, which each line of JSON begins with.
pub const SCHEMA: u32 = 1;

/// What happened to one call, with all its attempts and parts. It is redacted before a sink sees it.
///
/// Durations are in whole microseconds.
///
/// The record of a large call is small. Names of callers, principals and mailboxes are cut after 2,048
/// bytes, that of an unknown operation after 64, charges are summed up and limited in number ([`charges`](Self::charges)),
/// bodies are cut ([`Captured`]), and of very many [`attempts`](Self::attempts) the first and the
/// last ones are listed ([`attempts_left_out`](Self::attempts_left_out)). Times and counts are those
/// of all attempts.
///
/// ```
/// use tower_ews::audit_log::{Outcome, Record};
///
/// /// What to tell support.
/// fn case(record: &Record) -> Option<String> {
///     let attempt = record.attempts.last()?;
///     let asked_for = matches!(record.outcome, Outcome::Failed | Outcome::Error | Outcome::Unknown);
///     asked_for.then(|| format!("{:?} {:?} on {:?}", record.code, attempt.request_id, attempt.be_server))
/// }
///
/// assert_eq!(case(&Record::default()), None);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Record {
    /// When the call began.
    pub time: Option<SystemTime>,
    /// From the call to the end of its response's body.
    pub duration: Duration,
    /// Of that: waiting for permits. This and the following are sums over all attempts. Where parts
    /// are under way at the same time, they can exceed the duration.
    pub queued: Duration,
    /// Of that: backing off between attempts.
    pub backed_off: Duration,
    /// Of that: from sending to the response's head.
    pub wire: Duration,
    /// Of that: reading bodies.
    pub body: Duration,
    /// The authenticated account.
    pub caller: Option<Box<str>>,
    /// The principal of the first charge.
    pub principal: Option<Box<str>>,
    /// `owner`, `delegate` or `impersonation`.
    pub access: Option<&'static str>,
    /// The target mailbox, or its pseudonym.
    pub mailbox: Option<Box<str>>,
    /// The charges of the last attempt: one entry for each budget of each principal, 64 at most.
    pub charges: Vec<ChargeRecord>,
    /// The number of charges that are not listed.
    pub charges_left_out: u64,
    /// The operation, such as `CreateItem`.
    pub operation: Option<Box<str>>,
    /// The number of members of the batch.
    pub members: Option<u64>,
    /// The number of parts, if the batch was split.
    pub parts: Option<u32>,
    /// `http.request.method`
    pub method: Box<str>,
    /// `server.address`
    pub server_address: Option<Box<str>>,
    /// `server.port`
    pub server_port: Option<u16>,
    /// `url.path`, with a redacted query.
    pub url_path: Box<str>,
    /// `http.request.body.size`
    pub request_bytes: Option<u64>,
    /// `http.response.status_code`
    pub status: Option<u16>,
    /// `http.response.body.size`: the bytes that were read.
    pub response_bytes: u64,
    /// `user_agent.original`
    pub user_agent: Option<Box<str>>,
    /// How the call ended.
    pub outcome: Outcome,
    /// The SOAP response code that counts, such as `ErrorItemNotFound`.
    pub code: Option<Box<str>>,
    /// The last throttle signal.
    pub signal: Option<Box<str>>,
    /// `error.type`: the type or kind of the error, low in cardinality.
    pub error_type: Option<Box<str>>,
    /// The error and its sources, from the outside inwards.
    pub error: Vec<Box<str>>,
    /// The attempts in order: the first 64, the 448 later ones that ended last, and those under way
    /// at the end.
    pub attempts: Vec<AttemptRecord>,
    /// The number of attempts that are not listed.
    pub attempts_left_out: u64,
    /// The sums of those.
    pub left_out: LeftOutRecord,
    /// At levels `headers` and `full`.
    pub request_headers: Option<Vec<(Box<str>, Box<str>)>>,
    /// At levels `headers` and `full`.
    pub response_headers: Option<Vec<(Box<str>, Box<str>)>>,
    /// At level `full`.
    pub request_body: Option<Captured>,
    /// At level `full`.
    pub response_body: Option<Captured>,
}

impl Record {
    /// Returns whether an attempt was made after an earlier one that may have been executed.
    ///
    /// ```
    /// assert!(!tower_ews::audit_log::Record::default().resent());
    /// ```
    pub fn resent(&self) -> bool {
        self.left_out.resends > 0 || self.attempts.iter().any(|attempt| attempt.resend)
    }
}

/// How a call ended.
///
/// ```
/// use tower_ews::audit_log::{Outcome, Record};
///
/// fn has_to_be_checked_by_hand(record: &Record) -> bool {
///     record.outcome == Outcome::Unknown
/// }
///
/// assert!(!has_to_be_checked_by_hand(&Record::default()));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It succeeded.
    #[default]
    Ok,
    /// The response says that the call, or some member of it, failed.
    Failed,
    /// It ended in an error, without a complete response.
    Error,
    /// It may have been executed or not.
    Unknown,
    /// It failed before anything was sent.
    NotSent,
    /// The caller dropped the call before its response came.
    Cancelled,
    /// The caller dropped the response before it had read the body.
    BodyDropped,
}

impl Outcome {
    /// Returns its word in a log: `ok`, `failed`, `error`, `unknown`, `not_sent`, `cancelled` or `body_dropped`.
    ///
    /// ```
    /// assert_eq!(tower_ews::audit_log::Outcome::NotSent.as_str(), "not_sent");
    /// ```
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Failed => "failed",
            Outcome::Error => "error",
            Outcome::Unknown => "unknown",
            Outcome::NotSent => "not_sent",
            Outcome::Cancelled => "cancelled",
            Outcome::BodyDropped => "body_dropped",
        }
    }
}

/// What a call was charged on one budget.
///
/// ```
/// use tower_ews::audit_log::Record;
///
/// /// How many rows the searches of one account have asked for.
/// fn rows(record: &Record) -> u32 {
///     let searches = record.charges.iter().filter(|charge| &*charge.budget == "find-count");
///     searches.map(|charge| charge.amount).sum()
/// }
///
/// assert_eq!(rows(&Record::default()), 0);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChargeRecord {
    /// The principal that was charged.
    pub principal: Box<str>,
    /// The budget.
    pub budget: Box<str>,
    /// The sum of the charges on the budget. In a budget that counts distinct mailboxes it is their
    /// number.
    pub amount: u32,
}

/// One attempt: what was sent once. `backed_off + queued + wire + body <= total`, in whole
/// microseconds.
///
/// ```
/// use tower_ews::audit_log::AttemptRecord;
///
/// fn waited(attempt: &AttemptRecord) -> std::time::Duration {
///     attempt.backed_off + attempt.queued
/// }
///
/// assert!(waited(&AttemptRecord::default()).is_zero());
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AttemptRecord {
    /// The part of a batch that it carried.
    pub part: Option<u32>,
    /// From the beginning of the call to that of the attempt, after its back-off.
    pub started: Duration,
    /// How long the call backed off before it.
    pub backed_off: Duration,
    /// Waiting for its permit.
    pub queued: Duration,
    /// From sending to the response's head.
    pub wire: Duration,
    /// Reading the response's body.
    pub body: Duration,
    /// The back-off before it, and the time from its beginning to its end.
    pub total: Duration,
    /// The response's status.
    pub status: Option<u16>,
    /// The signal of the response, such as `ErrorServerBusy`.
    pub signal: Option<Box<str>>,
    /// Whether an earlier attempt may have been executed.
    pub resend: bool,
    /// `client-request-id`
    pub client_request_id: Option<Box<str>>,
    /// `request-id`
    pub request_id: Option<Box<str>>,
    /// `X-FEServer`
    pub fe_server: Option<Box<str>>,
    /// `X-BEServer`
    pub be_server: Option<Box<str>>,
    /// `X-DiagInfo`
    pub diag_info: Option<Box<str>>,
}

/// The sums of the attempts that are not listed.
///
/// Together with the times of the listed [`attempts`](Record::attempts) they are those of the
/// [`Record`].
///
/// ```
/// use tower_ews::audit_log::Record;
///
/// fn on_the_wire(record: &Record) -> std::time::Duration {
///     let listed = record.attempts.iter().map(|attempt| attempt.wire);
///     listed.sum::<std::time::Duration>() + record.left_out.wire
/// }
///
/// assert!(on_the_wire(&Record::default()).is_zero());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftOutRecord {
    /// How many of them followed one that may have been executed.
    pub resends: u64,
    /// How long the call backed off before them.
    pub backed_off: Duration,
    /// Waiting for their permits.
    pub queued: Duration,
    /// From sending to the heads of their responses.
    pub wire: Duration,
    /// Reading the bodies of their responses.
    pub body: Duration,
    /// How many of them had which signal: 16 by name, further ones as `other`.
    pub signals: Vec<(Box<str>, u64)>,
}

/// What was kept of a body.
///
/// ```
/// use tower_ews::audit_log::Captured;
///
/// fn text(body: &Captured) -> String {
///     let more = if body.truncated { " ..." } else { "" };
///     format!("{}{more}", String::from_utf8_lossy(&body.bytes))
/// }
///
/// assert_eq!(text(&Captured::default()), "");
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Captured {
    /// The first bytes, redacted.
    pub bytes: Bytes,
    /// The number of bytes that there were.
    pub total: u64,
    /// Whether more came than was kept.
    pub truncated: bool,
    /// The `Content-Encoding` of a body that was neither read nor kept because of it.
    pub encoding: Option<Box<str>>,
}
