//! [`Attempt`]: what was sent once, and what its times add up to.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::ledger::Admission;

/// One attempt of a call: what was sent once.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Attempt {
    /// When the attempt began, before any queue.
    pub started: Option<Instant>,
    /// How long the call backed off before this attempt, outside the ledger's queue.
    pub backed_off: Duration,
    /// How long it waited for its permit, gates included.
    pub queued: Duration,
    /// Since when it waits for its permit. None once it has one or was refused one.
    pub waiting_since: Option<Instant>,
    /// When the head of its answer came.
    pub answered: Option<Instant>,
    /// When it was over: it failed, or the layer that sends it again or puts its answer together had read (or dropped) the body. None
    /// while it is on its way, and where the caller of the call reads the body.
    pub ended: Option<Instant>,
    /// What it was charged for.
    pub admission: Option<Admission>,
    /// `client-request-id` of the attempt.
    pub client_request_id: Option<Box<str>>,
    /// `request-id` of the answer.
    pub request_id: Option<Box<str>>,
    /// `client-request-id` of the answer, where it is not the one that was sent.
    pub different_echo: Option<Box<str>>,
    /// `X-FEServer` of the answer.
    pub fe_server: Option<Box<str>>,
    /// `X-BEServer` of the answer, or another header that names the back end.
    pub be_server: Option<Box<str>>,
    /// `X-DiagInfo` of the answer.
    pub diag_info: Option<Box<str>>,
    /// The answer's status.
    pub status: Option<StatusCode>,
    /// What the answer or error told, in a few words such as `ErrorServerBusy`.
    pub signal: Option<Box<str>>,
    /// The part of a batch that was sent, in the order in which parts were begun, from 0. None if the call was sent whole.
    pub part: Option<u32>,
    /// Whether an earlier attempt of this call may have been executed: "not found" or "exists" can mean success.
    pub resend: bool,
}

impl Attempt {
    /// When it ended. Without word of its end: not later than `next`, when the next attempt of its part began, or else at `end`.
    pub(crate) fn end(&self, next: Option<Instant>, end: Instant) -> Instant {
        self.ended
            .unwrap_or_else(|| next.map_or(end, |next| self.answered.unwrap_or(next).min(next)))
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
        answered: Option<Instant>,
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
        let body = answered.map(|answered| ended.saturating_duration_since(answered));
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
