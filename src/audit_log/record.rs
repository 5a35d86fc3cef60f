//! [`Record`]: everything that is known about one call when it has ended.
use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// The version of the schema, which stands in each record.
pub const SCHEMA: u32 = 1;

/// What happened to one call of the caller, all attempts and parts in it. Nothing in it is secret: it was redacted before a sink sees it.
///
/// Durations are in whole microseconds.
///
/// A record of a large call is small: names of callers, principals, mailboxes and operations are cut after 2,048 bytes, charges are summed up
/// and limited in number ([`charges`](Self::charges)), bodies are cut ([`Captured`]), and of very many
/// [`attempts`](Self::attempts) the first and the last ones are listed ([`attempts_left_out`](Self::attempts_left_out)). Times
/// and counts are those of all attempts.
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
    /// From the call to the end of its answer's body.
    pub duration: Duration,
    /// Of that: waiting for permits. This and the following are sums over all attempts: those of parts that are on their way at the same
    /// time can be more than the duration.
    pub queued: Duration,
    /// Of that: backing off between attempts.
    pub backed_off: Duration,
    /// Of that: from sending to the answer's head.
    pub wire: Duration,
    /// Of that: reading bodies.
    pub body: Duration,
    /// The authenticated account.
    pub caller: Option<Box<str>>,
    /// Who was charged first.
    pub principal: Option<Box<str>>,
    /// `owner`, `delegate` or `impersonation`.
    pub access: Option<&'static str>,
    /// The target mailbox, or its pseudonym.
    pub mailbox: Option<Box<str>>,
    /// What the last attempt was charged: one entry for each budget of each principal, 64 at most.
    pub charges: Vec<ChargeRecord>,
    /// How many entries more there were.
    pub charges_left_out: u64,
    /// `CreateItem`, or what else the facts say.
    pub operation: Option<Box<str>>,
    /// Members of the request's array.
    pub members: Option<u64>,
    /// Parts that were sent, if it was cut.
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
    /// `http.response.body.size`: what was read of it.
    pub response_bytes: u64,
    /// `user_agent.original`
    pub user_agent: Option<Box<str>>,
    /// How it ended.
    pub outcome: Outcome,
    /// The SOAP response code that counts, such as `ErrorItemNotFound`.
    pub code: Option<Box<str>>,
    /// The last throttle signal.
    pub signal: Option<Box<str>>,
    /// `error.type`: the type or kind of the error, low in cardinality.
    pub error_type: Option<Box<str>>,
    /// The error and its sources, from the outside inwards.
    pub error: Vec<Box<str>>,
    /// The attempts in order: the first 64, the 448 later ones that ended last, and what was on its way at the end.
    pub attempts: Vec<AttemptRecord>,
    /// How many attempts more there were.
    pub attempts_left_out: u64,
    /// What those add up to.
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
    /// Whether an attempt was made after an earlier one that may have been executed.
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
/// See [`Record`] for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// With a success.
    #[default]
    Ok,
    /// With an answer that says that it, or some member of it, failed.
    Failed,
    /// With an error instead of an answer.
    Error,
    /// It may or may not have been executed.
    Unknown,
    /// It failed before anything was sent.
    NotSent,
    /// The caller gave it up before its answer came.
    Cancelled,
    /// The caller gave its answer up before it had read the body.
    BodyDropped,
}

impl Outcome {
    /// As it stands in a log: `ok`, `failed`, `error`, `unknown`, `not_sent`, `cancelled` or `body_dropped`.
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

/// What a call was charged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChargeRecord {
    /// Who.
    pub principal: Box<str>,
    /// Out of which budget.
    pub budget: Box<str>,
    /// How much, all charges on the budget together: in a budget that counts different mailboxes, so many of them.
    pub amount: u32,
}

/// One attempt: what was sent once. `backed_off + queued + wire + body <= total`, in whole microseconds.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AttemptRecord {
    /// The part of a batch that it carried.
    pub part: Option<u32>,
    /// From the begin of the call to that of the attempt, which comes after its back-off.
    pub started: Duration,
    /// How long the call backed off before it.
    pub backed_off: Duration,
    /// Waiting for its permit.
    pub queued: Duration,
    /// From sending to the answer's head.
    pub wire: Duration,
    /// Reading the answer's body.
    pub body: Duration,
    /// The back-off before it, and from its begin to its end.
    pub total: Duration,
    /// The answer's status.
    pub status: Option<u16>,
    /// What the answer told, such as `ErrorServerBusy`.
    pub signal: Option<Box<str>>,
    /// An earlier attempt may have been executed.
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

/// What the attempts add up to that are not listed.
///
/// With them, the times of the listed [`attempts`](Record::attempts) add up to those of the [`Record`].
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
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Captured {
    /// Its first bytes, redacted.
    pub bytes: Bytes,
    /// How many there were.
    pub total: u64,
    /// More came than was kept.
    pub truncated: bool,
    /// `Content-Encoding`, if it is still encoded: it was not read, and not kept.
    pub encoding: Option<Box<str>>,
}
