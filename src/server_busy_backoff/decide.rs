//! [`CallState`]: decides what follows an attempt. It knows no futures, services or bodies, so its tests need no runtime.

use std::time::Duration;

use tokio::time::Instant;
use tower::BoxError;

use super::classify::{Idempotency, Outcome, Refusal, RequestClass};
use crate::errors::BackoffError;
use crate::retry::backoff::Backoff;
use crate::retry::{
    Failure, MAX_LOSS_RETRIES, MAX_TIMEOUT_RETRIES, RetryInfo, cut_to, with_margin,
};

/// The shortest wait of a call that waits in the ledger's queue. A ledger that does not hold it back must not cause a
/// hot loop.
const SHORTEST_QUEUE_WAIT: Duration = Duration::from_millis(10);

/// The largest number of attempts of one call, whatever the server says and however short the waits are set. The waits of
/// the defaults end before: some seventy fit into 15 minutes.
const MAX_ATTEMPTS: u32 = 100;

/// How far an attempt had come when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailurePhase {
    /// The service did not become ready. Nothing was sent.
    Ready,
    /// The call failed before the head of a response came.
    Call,
    /// The body of the response broke off.
    Body,
    /// The body of the response cannot be read: it is in a coding that nobody asked for.
    Coding,
    /// The attempt took too long.
    TimedOut,
    /// So did the call.
    Deadline,
}

impl FailurePhase {
    /// Returns whether a response was lost. Else nothing was sent. `None` if no wait cures the failure.
    fn is_lost(self, failure: Failure) -> Option<bool> {
        match (failure, self) {
            // The layer itself says so.
            (_, Self::TimedOut | Self::Deadline | Self::Coding) => Some(true),
            (Failure::Permanent, _) => None,
            (_, Self::Ready) => Some(false),
            (_, Self::Body) => Some(true),
            (failure, Self::Call) => Some(failure == Failure::Lost),
        }
    }

    /// Returns what the failure is called. `None` if no wait cures it.
    pub(super) fn signal(self, failure: Failure) -> Option<&'static str> {
        Some(match self.is_lost(failure)? {
            true if self == Self::TimedOut => "attempt timed out",
            true if self == Self::Deadline => "no response before the deadline",
            true if self == Self::Coding => "unreadable response",
            true => "response lost",
            false => "not sent",
        })
    }
}

/// Who holds a retry back, besides the call itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeldBy {
    Nobody,
    /// A gate of the ledger or of this layer, closed until then.
    Gate(Instant),
    /// The ledger has lowered the limit of a budget, so the retry waits in its queue.
    LedgerQueue,
}

/// The wait before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) until: Instant,
    /// A gate or a ledger's queue holds the request back, so it can be sent on at once.
    pub(super) held: bool,
}

/// How a call ends without a response of its last attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    /// What the last refusal is handed on with, if it was kept. `None` if it does not count any more.
    pub(super) kept_response: Option<RetryInfo>,
    /// The error, if no response is handed on.
    pub(super) error: EndError,
}

/// The error that a call ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndError {
    /// The attempt's own error.
    Inner,
    OutcomeUnknown,
    DeadlinePassed,
    RetriesExhausted,
    NotSent {
        closed_until: Option<Instant>,
    },
}

/// What a call remembers of its attempts.
#[derive(Debug)]
pub(super) struct CallState {
    class: RequestClass,
    /// The request is a part of a batch, whose sender counts what fails.
    is_part: bool,
    deadline: Instant,
    attempts: u32,
    backed_off: Duration,
    /// The number of waits that the server did not set.
    drawn_waits: u32,
    /// The number of waits that the server set.
    server_waits: u32,
    /// The number of retries after lost responses, and after refusals that set `max_retries`.
    counted_retries: u32,
    /// When the first of the last refusals came that exceeded a budget, without another refusal since.
    over_limit_since: Option<Instant>,
    /// An attempt may have been executed.
    maybe_executed: bool,
    /// An attempt before the current one may have been executed.
    maybe_repeated: bool,
    /// What the last refusal asked for.
    retry_after: Option<Duration>,
    /// The last refusal or failure.
    signal: Option<Box<str>>,
    /// No response has been lost since the last refusal.
    kept_response_counts: bool,
    /// The time until which a gate or a ledger's queue was to hold the current attempt back.
    held_until: Option<Instant>,
    /// An attempt ended before that time: nothing holds requests back.
    not_held: bool,
}

impl CallState {
    pub(super) fn new(class: RequestClass, is_part: bool, deadline: Instant) -> Self {
        Self {
            class,
            is_part,
            deadline,
            attempts: 0,
            backed_off: Duration::ZERO,
            drawn_waits: 0,
            server_waits: 0,
            counted_retries: 0,
            over_limit_since: None,
            maybe_executed: false,
            maybe_repeated: false,
            retry_after: None,
            signal: None,
            kept_response_counts: false,
            held_until: None,
            not_held: false,
        }
    }

    pub(super) fn class(&self) -> &RequestClass {
        &self.class
    }

    /// Whether the request is a part of a batch, whose sender judges what it cannot read.
    pub(super) fn is_part(&self) -> bool {
        self.is_part
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn attempt_count(&self) -> u32 {
        self.attempts
    }

    /// Returns the last refusal or failure.
    pub(super) fn signal(&self) -> Option<&str> {
        self.signal.as_deref()
    }

    /// Returns the time before which a ledger is not to admit the next attempt.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// Returns whether an attempt before the current one may have been executed.
    pub(super) fn maybe_repeated(&self) -> bool {
        self.maybe_repeated
    }

    /// Begins an attempt.
    pub(super) fn begin_attempt(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
        self.maybe_repeated = self.maybe_executed;
    }

    /// Adds a wait before an attempt that is not the first one.
    pub(super) fn add_wait(&mut self, waited: Duration) {
        self.backed_off = self.backed_off.saturating_add(waited);
    }

    /// Returns the waits that can follow the current attempt, from `now`.
    pub(super) fn waits(&self, backoff: Backoff, rng: &mut fastrand::Rng, now: Instant) -> Waits {
        Waits {
            drawn: self.cut(backoff.wait(self.drawn_waits, rng), now),
            shortest: backoff.shortest(self.server_waits),
        }
    }

    /// Cuts a drawn wait that leaves no time for another attempt, unless there is none in any case. A wait of the server is
    /// never shortened.
    pub(super) fn cut(&self, drawn: Duration, now: Instant) -> Duration {
        cut_to(self.deadline, drawn, now)
    }

    /// Returns what an accepted response is handed on with.
    pub(super) fn accept(&self) -> Option<RetryInfo> {
        (self.attempts > 1).then(|| self.retry_info(false, false))
    }

    /// Decides how a call ends that a ledger or a gate did not let through in time. `opens_in` is how long the gate stays
    /// closed.
    pub(super) fn after_not_admitted(&self, opens_in: Option<Duration>, now: Instant) -> Ending {
        if self.attempts == 0 {
            let closed_until = opens_in.and_then(|wait| now.checked_add(wait));
            return self.fail(EndError::NotSent { closed_until });
        }
        self.give_up(EndError::Inner)
    }

    /// Decides how a call ends whose credentials could not be fetched: with that error, whatever the server said before.
    pub(super) fn after_no_credentials(&self) -> Ending {
        self.fail(EndError::Inner)
    }

    /// The retry that was begun was not sent.
    pub(super) fn take_back_retry(&mut self) {
        if self.attempts > 1 {
            self.attempts -= 1;
        }
    }

    /// Decides how a call ends whose deadline passed during an attempt.
    pub(super) fn after_no_response(&mut self) -> Ending {
        self.response_lost();
        let signal = FailurePhase::Deadline.signal(Failure::Lost);
        self.signal = signal.map(Into::into);
        self.give_up(EndError::DeadlinePassed)
    }

    /// Decides what follows an attempt that failed: another one after a wait, or the end of the call. `drawn` is the wait
    /// that was [drawn](Self::waits) for this attempt.
    pub(super) fn after_failure(
        &mut self,
        failure: Failure,
        phase: FailurePhase,
        drawn: Duration,
        now: Instant,
    ) -> Result<Wait, Ending> {
        self.maybe_executed |= matches!(phase, FailurePhase::Body | FailurePhase::Coding);
        let Some(lost) = phase.is_lost(failure) else {
            return Err(self.fail(EndError::Inner));
        };
        self.signal = phase.signal(failure).map(Into::into);
        if lost {
            self.response_lost();
            if !self.may_repeat() {
                return Err(self.fail(EndError::Inner));
            }
            let max_retries = match phase {
                FailurePhase::TimedOut => MAX_TIMEOUT_RETRIES,
                // The same server codes the next one alike.
                FailurePhase::Coding => 0,
                _ => MAX_LOSS_RETRIES,
            };
            if !self.count_retry(max_retries) {
                return Err(self.give_up(EndError::RetriesExhausted));
            }
        }
        let Some(until) = self.in_time(drawn, now) else {
            return Err(self.give_up(EndError::DeadlinePassed));
        };
        self.drawn_waits += 1;
        Ok(Wait { until, held: false })
    }

    /// Decides what follows a refusal: another attempt after a wait, or the end of the call, with the refusal as its
    /// response. `waits` are the [waits](Self::waits) of this attempt.
    pub(super) fn after_refusal(
        &mut self,
        refusal: &Refusal,
        held_by: HeldBy,
        waits: Waits,
        now: Instant,
    ) -> Result<Wait, RetryInfo> {
        self.signal = Some((*refusal.reason).into());
        self.retry_after = refusal.retry_after;
        self.maybe_executed |= refusal.outcome == Outcome::Unknown;
        if !self.may_retry(refusal) {
            return Err(self.retry_info(false, true));
        }
        let wait = match held_by {
            HeldBy::LedgerQueue => self.queue_wait(now),
            HeldBy::Nobody | HeldBy::Gate(_) => {
                self.over_limit_since = None;
                waits.after(refusal)
            }
        };
        // A margin that does not fit in is left out.
        let bare = refusal.server_wait().filter(|bare| *bare < wait);
        let in_time = [Some(wait), bare].into_iter().flatten();
        let Some(until) = in_time.filter_map(|wait| self.in_time(wait, now)).next() else {
            return Err(self.retry_info(true, true));
        };
        match refusal.server_wait() {
            Some(_) => self.server_waits += 1,
            None if held_by != HeldBy::LedgerQueue => self.drawn_waits += 1,
            None => {}
        }
        self.kept_response_counts = true;
        let held_until = match held_by {
            HeldBy::Nobody => None,
            HeldBy::Gate(gate) => Some(gate),
            HeldBy::LedgerQueue => Some(until),
        };
        let held = self.hold(held_until, now);
        Ok(Wait { until, held })
    }

    /// Returns whether a refusal that names another server can be followed by an attempt that goes there.
    pub(super) fn may_move(&self, refusal: &Refusal, now: Instant) -> bool {
        let may = refusal.outcome == Outcome::NotExecuted || self.may_repeat();
        may && self.in_time(Duration::ZERO, now).is_some()
    }

    /// Another server is to be asked, at once.
    pub(super) fn after_move(&mut self, refusal: &Refusal, now: Instant) -> Wait {
        self.signal = Some((*refusal.reason).into());
        self.retry_after = refusal.retry_after;
        self.maybe_executed |= refusal.outcome == Outcome::Unknown;
        self.kept_response_counts = true;
        let held = self.hold(None, now);
        Wait { until: now, held }
    }

    /// A response was lost. A refusal before it is the server's last word only on what changes nothing.
    fn response_lost(&mut self) {
        self.maybe_executed = true;
        self.kept_response_counts &= !self.outcome_matters();
    }

    /// Whether the request may be sent again although it may have been executed.
    fn may_repeat(&self) -> bool {
        !self.is_part && self.class.idempotency != Idempotency::NonIdempotent
    }

    fn may_retry(&mut self, refusal: &Refusal) -> bool {
        if refusal.outcome == Outcome::Unknown && !self.may_repeat() {
            return false;
        }
        match refusal.max_retries {
            Some(max_retries) if refusal.about_caller => self.count_retry(max_retries),
            Some(max_retries) => !self.is_part && self.count_retry(max_retries),
            // What single members are told is for their sender, and so is a body that nobody has read.
            None if self.is_part => self.class.expects_soap && !refusal.of_members,
            None => true,
        }
    }

    /// Counts a retry, if there were fewer than `max`.
    fn count_retry(&mut self, max: u32) -> bool {
        let allowed = self.counted_retries < max;
        self.counted_retries += u32::from(allowed);
        allowed
    }

    /// How long a call waits that exceeded a budget whose limit the ledger lowers. Hardly at first, since permits become
    /// free while it waits in the ledger's queue. The wait grows while the refusals go on.
    fn queue_wait(&mut self, now: Instant) -> Duration {
        let first = *self.over_limit_since.get_or_insert(now);
        (now.saturating_duration_since(first) / 8).max(SHORTEST_QUEUE_WAIT)
    }

    /// The end of a wait that begins now. `None` if it is past the deadline, or no attempt is left.
    fn in_time(&self, wait: Duration, now: Instant) -> Option<Instant> {
        let until = now.checked_add(wait)?;
        (until <= self.deadline && self.attempts < MAX_ATTEMPTS).then_some(until)
    }

    /// Returns whether the next attempt is held back until `until` by somebody else.
    fn hold(&mut self, until: Option<Instant>, now: Instant) -> bool {
        self.not_held |= self.held_until.is_some_and(|until| now < until);
        self.held_until = until;
        until.is_some() && !self.not_held
    }

    /// Ends the call with an error, whatever was kept.
    fn fail(&self, error: EndError) -> Ending {
        Ending {
            kept_response: None,
            error: self.unless_unknown(error),
        }
    }

    /// Ends the call with the last refusal, else with an error.
    fn give_up(&self, error: EndError) -> Ending {
        let counts = self.kept_response_counts;
        Ending {
            kept_response: counts.then(|| self.retry_info(true, true)),
            error: self.unless_unknown(error),
        }
    }

    /// Whether a caller has to be told that the request may have been executed.
    fn outcome_matters(&self) -> bool {
        self.class.idempotency != Idempotency::Safe
    }

    fn unless_unknown(&self, error: EndError) -> EndError {
        match self.maybe_executed && self.outcome_matters() {
            true => EndError::OutcomeUnknown,
            false => error,
        }
    }

    fn retry_info(&self, gave_up: bool, refused: bool) -> RetryInfo {
        RetryInfo {
            attempts: self.attempts,
            backed_off: self.backed_off,
            retry_after: self.retry_after,
            signal: self.signal.clone(),
            gave_up,
            outcome_unknown: refused && self.maybe_executed && self.outcome_matters(),
            maybe_repeated: self.maybe_repeated && self.outcome_matters(),
        }
    }

    /// Makes the error of a call that ends at `now`. `source` is the error of the last attempt.
    pub(super) fn error(&self, kind: EndError, source: BoxError, now: Instant) -> BoxError {
        let operation = (*self.class.operation).into();
        let attempts = self.attempts;
        match kind {
            EndError::Inner => source,
            EndError::OutcomeUnknown => BackoffError::OutcomeUnknown {
                operation,
                attempts,
                source,
            }
            .into(),
            EndError::DeadlinePassed => BackoffError::DeadlinePassed {
                operation,
                attempts,
                source,
            }
            .into(),
            EndError::RetriesExhausted => BackoffError::RetriesExhausted {
                operation,
                attempts,
                source,
            }
            .into(),
            EndError::NotSent { closed_until } => BackoffError::NotSent {
                operation,
                at: now,
                closed_until,
                source,
            }
            .into(),
        }
    }
}

/// The waits that can follow an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// The wait if the server sets none.
    pub(super) drawn: Duration,
    /// The shortest wait that the server can set.
    pub(super) shortest: Duration,
}

impl Waits {
    /// Returns how long to wait after `refusal`, from when it came.
    pub(super) fn after(self, refusal: &Refusal) -> Duration {
        match refusal.server_wait() {
            Some(wait) => with_margin(wait).max(self.shortest),
            None => self.drawn,
        }
    }
}

#[cfg(test)]
mod tests;
