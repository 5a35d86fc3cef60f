//! [`Attempt`]: what was sent once, and what its times add up to.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::ledger::Admission;

/// One attempt of a call: what was sent once.
///
/// ```
/// use tower_ews::trail::CallTrail;
///
/// let trail = CallTrail::new();
/// trail.begin_attempt().record(|attempt| attempt.signal = Some("ErrorServerBusy".into()));
/// let attempt = &trail.attempts()[0];
/// assert!(attempt.started.is_some() && attempt.ended.is_none());
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Attempt {
    /// When the attempt began, before any queue.
    pub started: Option<Instant>,
    /// How long the call backed off before this attempt, outside the ledger's queue.
    pub backed_off: Duration,
    /// How long it waited for its permit, including gates.
    pub queued: Duration,
    /// When it began to wait for its permit. None once the wait is over.
    pub waiting_since: Option<Instant>,
    /// When the head of the response came.
    pub responded: Option<Instant>,
    /// When it was over: it failed, or the layer that sends it again or merges its response had read
    /// or dropped the body. None while it is under way, and where the caller of the call reads the
    /// body.
    pub ended: Option<Instant>,
    /// What it was charged.
    pub admission: Option<Admission>,
    /// `client-request-id` of the attempt.
    pub client_request_id: Option<Box<str>>,
    /// `request-id` of the response.
    pub request_id: Option<Box<str>>,
    /// `client-request-id` of the response, where it is not the one that was sent.
    pub different_echo: Option<Box<str>>,
    /// `X-FEServer` of the response.
    pub fe_server: Option<Box<str>>,
    /// `X-BEServer` of the response, or another header that names the back end.
    pub be_server: Option<Box<str>>,
    /// `X-DiagInfo` of the response.
    pub diag_info: Option<Box<str>>,
    /// The response's status.
    pub status: Option<StatusCode>,
    /// What the response or error says, in a few words such as `ErrorServerBusy`.
    pub signal: Option<Box<str>>,
    /// The number of the part of a batch, from 0, in the order in which parts were begun. None if the
    /// call was sent whole.
    pub part: Option<u32>,
    /// Whether an earlier attempt of this call may have been executed: "not found" or "exists" can mean success.
    pub resend: bool,
}

impl Attempt {
    /// Returns when it ended. If nobody told: not later than `next`, when the next attempt of its part
    /// began, or else at `end`.
    pub(crate) fn end(&self, next: Option<Instant>, end: Instant) -> Instant {
        self.ended
            .unwrap_or_else(|| next.map_or(end, |next| self.responded.unwrap_or(next).min(next)))
    }
}

/// The times of one attempt. What is in an attempt is never more than the attempt, whatever the layers have written.
#[derive(Debug)]
pub(crate) struct Times {
    pub(crate) started: Duration,
    pub(crate) backed_off: Duration,
    pub(crate) queued: Duration,
    pub(crate) wire: Duration,
    pub(crate) body: Duration,
    pub(crate) total: Duration,
}

impl Times {
    /// The times of an attempt that ended then, in a call that began at `begin`.
    pub(crate) fn of(
        attempt: &Attempt,
        begin: Instant,
        responded: Option<Instant>,
        ended: Instant,
    ) -> Self {
        let started = attempt.started.unwrap_or(begin);
        let ended = ended.max(started);
        let alive = ended.duration_since(started);
        let waits = attempt
            .waiting_since
            .map(|since| ended.saturating_duration_since(since));
        let queued = attempt
            .queued
            .saturating_add(waits.unwrap_or_default())
            .min(alive);
        let on_its_way = alive.saturating_sub(queued);
        let body = responded.map(|responded| ended.saturating_duration_since(responded));
        let body = body.unwrap_or_default().min(on_its_way);
        Self {
            started: whole_micros(started.saturating_duration_since(begin)),
            backed_off: whole_micros(attempt.backed_off),
            queued: whole_micros(queued),
            wire: whole_micros(on_its_way.saturating_sub(body)),
            body: whole_micros(body),
            total: whole_micros(attempt.backed_off.saturating_add(alive)),
        }
    }
}

/// Cut to microseconds, so that what adds up still does when it is written with three digits of milliseconds.
pub(crate) fn whole_micros(of: Duration) -> Duration {
    Duration::new(of.as_secs(), of.subsec_micros() * 1000)
}
