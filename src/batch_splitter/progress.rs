//! Decides what happens to the members of one batch: what is sent, given up and handed out next. No I/O, no timers.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::response;
use tokio::time::Instant;
use tower::BoxError;

use super::config::Config;
use super::errors::BatchError;
use super::fallback::{Candidate, Fallback};
use super::format::{
    Batch, Idempotency, MemberOutcome, Message, Order, PartFailure, PartOutcome, PartResponse,
    Retry,
};
use super::members::{Came, Members};
use super::merge::fits;
use super::pacing::Pacing;
use super::part::SendResult;
use super::plan::{Bounds, NextPart, PartError};
use super::sizing::Sizing;
use super::stats::BatchReport;
use super::trouble::Trouble;
use crate::body::ReplayBody;
use crate::body::collected::CollectedResponse;
use crate::errors::{BackoffError, NoResponseInTime, describe};
use crate::retry::backoff::Jitter;
use crate::retry::{MAX_LOSS_RETRIES, RetryInfo};

/// How often a member that is refused for good is asked for again because all others are refused as well.
const MAX_SPARED: u8 = 3;

/// What all batches of a service and its clones share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    sizing: Arc<Sizing>,
    jitter: Jitter,
}

impl Shared {
    pub(super) fn new(config: Config, sizing: Arc<Sizing>) -> Self {
        Self {
            jitter: Jitter::new(config.seed),
            config,
            sizing,
        }
    }
}

/// What the job does next.
#[derive(Debug)]
pub(super) enum Step {
    /// Send this part.
    Send(Part),
    /// Wait for a part that is in flight, and no longer than until this time, if there is one.
    Wait(Option<Instant>),
    /// Hand this out.
    HandOut(Output),
}

/// What the caller gets next.
#[derive(Debug)]
pub(super) enum Output {
    /// The head of the merged response.
    Head(Box<response::Parts>),
    /// The response of one part, which stands for the batch. Nothing follows.
    OnePart(Box<CollectedResponse>),
    /// Bytes of the merged response's body.
    Bytes(Bytes),
    /// The body has ended.
    End,
    /// The call has failed, or its body.
    Error(BoxError),
}

/// A part to be sent.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) number: u32,
    pub(super) members: Vec<usize>,
    pub(super) body: ReplayBody,
    /// How many members were sent before.
    pub(super) resent: usize,
    /// Whether some of them may have been executed then.
    pub(super) maybe_executed: bool,
    /// How long it was held back.
    pub(super) held_back: Duration,
    /// When the call gives up, if nothing achieves anything before.
    pub(super) deadline: Option<Instant>,
}

/// How sending a part ended.
#[derive(Debug)]
pub(super) struct PartEnd {
    pub(super) number: u32,
    pub(super) members: Vec<usize>,
    pub(super) result: SendResult,
    /// How long the server worked on it.
    pub(super) took: Duration,
}

/// The state of one batch.
pub(super) struct Progress<B> {
    members: Members<B>,
    shared: Arc<Shared>,
    sizing_key: Box<str>,
    pacing: Pacing,
    trouble: Trouble,
    fallback: Fallback,
    in_flight: usize,
    /// The part that has come back last.
    part: u32,
    /// The one error for all members of the last part that failed.
    one_error: Option<Arc<PartError>>,
    /// Why the rest of the batch is not sent.
    stopped: Option<Arc<PartError>>,
    /// Whether the response was begun.
    responded: bool,
}

impl<B: Batch> Progress<B> {
    pub(super) fn new(batch: B, shared: Arc<Shared>, deadline: Option<Instant>) -> Self {
        let config = &shared.config;
        let rng = shared.jitter.rng();
        Self {
            sizing_key: batch.sizing_key().into(),
            pacing: Pacing::new(config.backoff, rng, deadline, config.stall_timeout),
            trouble: Trouble::default(),
            fallback: Fallback::new(batch.idempotency() != Idempotency::Safe),
            in_flight: 0,
            part: 0,
            one_error: None,
            stopped: None,
            responded: false,
            members: Members::new(batch),
            shared,
        }
    }

    pub(super) fn operation(&self) -> &str {
        self.members.batch.operation()
    }

    pub(super) fn report(&self) -> &BatchReport {
        &self.members.report
    }

    /// Returns the error of a part that was in flight when the deadline passed.
    pub(super) fn too_late(&self) -> BackoffError {
        let (operation, attempts) = (self.members.batch.operation().into(), 1);
        let source = NoResponseInTime.into();
        match self.members.only_reads() {
            true => BackoffError::DeadlinePassed {
                operation,
                attempts,
                source,
            },
            false => BackoffError::OutcomeUnknown {
                operation,
                attempts,
                source,
            },
        }
    }

    /// Whether everything was handed out.
    pub(super) fn is_at_end(&self) -> bool {
        self.members.merge.is_at_end()
    }

    /// Returns how many bytes are still to be handed out, if that is known.
    pub(super) fn bytes_left(&self) -> Option<u64> {
        self.members.merge.left(&self.members.plan)
    }

    /// Returns how many parts may be in flight.
    fn max_in_flight(&self) -> usize {
        match self.members.batch.order() {
            Order::Free => self.shared.config.parallel,
            Order::Kept => 1,
        }
    }

    /// Whether the reader has something to take before anything more is needed.
    fn has_unread(&self) -> bool {
        let streams =
            self.responded && self.members.only_reads() && self.members.merge.can_stream();
        streams && self.members.merge.next_member() < self.members.plan.first_open()
    }
}

/// What comes next.
impl<B: Batch> Progress<B> {
    /// Returns what to do next. Ends of parts are to be reported first.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        // One part at a time is sent only when the reader waits for it: it may make other calls while it has enough to
        // read, and a part in flight would hold what they need. Several parts go on meanwhile.
        while self.responded && self.max_in_flight() > 1 && !self.members.plan.is_complete() {
            match self.advance(now) {
                Some(Step::Send(part)) => return Step::Send(part),
                Some(_) => break,
                None => {}
            }
        }
        loop {
            let output = match self.responded {
                false => self.respond(),
                true => self.read(),
            };
            if let Some(output) = output {
                return Step::HandOut(output);
            }
            match self.advance(now) {
                Some(Step::Wait(None)) if self.in_flight == 0 => {
                    // Nobody would wake the call up.
                    debug_assert!(false, "a batch that waits for nothing");
                    return Step::HandOut(Output::Error(self.incomplete()));
                }
                Some(step) => return step,
                None => {}
            }
        }
    }

    /// Begins the response, if it can be begun.
    fn respond(&mut self) -> Option<Output> {
        let complete = self.members.plan.is_complete();
        let streams = self.members.only_reads()
            && self.members.merge.can_stream()
            && self.fallback.is_obsolete();
        if !(complete || streams) {
            return None;
        }
        self.responded = true;
        if complete {
            self.members.report.set_complete();
        }
        // Nobody would notice that such a response is none to what was asked.
        let is_obsolete = self.fallback.is_obsolete();
        let fallback = self.fallback.take().filter(|fallback| !fallback.looks_good);
        // One error for all is handed out as it came, although single members had it as a message.
        let merges = is_obsolete || self.members.report.stats().done > 0 || fallback.is_none();
        if merges && self.members.merge.has_envelope() && !self.is_incomplete() {
            if let Some(head) = self.members.merge.take_head(&self.members.plan) {
                return Some(Output::Head(Box::new(head)));
            }
        }
        Some(match fallback {
            Some(fallback) => {
                // Messages that are not handed out.
                self.members.report.count_rest_not_executed();
                match fallback.result {
                    Ok(response) => Output::OnePart(response),
                    Err(error) => Output::Error(error),
                }
            }
            None => Output::Error(self.incomplete()),
        })
    }

    /// Returns what the reader gets next, if it came.
    fn read(&mut self) -> Option<Output> {
        if self.members.plan.is_complete() {
            self.members.report.set_complete();
        }
        if self.is_incomplete() {
            return Some(Output::Error(self.incomplete()));
        }
        if let Some(bytes) = self.members.merge.next(&self.members.plan) {
            return Some(Output::Bytes(bytes));
        }
        self.members.merge.is_at_end().then_some(Output::End)
    }

    /// Whether the response of a batch that only reads lacks members, and cannot say so.
    fn is_incomplete(&self) -> bool {
        self.members.only_reads() && self.members.merge.missing() > 0
    }

    fn incomplete(&self) -> BoxError {
        let operation = self.members.batch.operation().into();
        let cause = self.members.report.cause();
        if self.members.report.stats().unknown > 0 {
            return BackoffError::OutcomeUnknown {
                operation,
                attempts: self.members.plan.parts(),
                source: String::from(cause).into(),
            }
            .into();
        }
        match self.members.plan.parts() {
            0 => BatchError::NotBegun { operation, cause },
            _ => BatchError::Incomplete {
                operation,
                missing: match self.members.merge.has_envelope() {
                    true => self.members.merge.missing(),
                    false => self.members.report.stats().members,
                },
                cause,
            },
        }
        .into()
    }

    /// Returns what to send or to wait for, or `None` if members were settled instead.
    fn advance(&mut self, now: Instant) -> Option<Step> {
        if let Some(why) = self.stopped.clone() {
            return self.give_up_waiting(&why);
        }
        let max_in_flight = match self.trouble.wants_alone() {
            true => 1,
            false => self.max_in_flight(),
        };
        if self.in_flight >= max_in_flight || self.members.plan.nothing_waits() {
            return Some(Step::Wait(None));
        }
        if let Some(until) = self.pacing.held_until(now) {
            return Some(Step::Wait(Some(until)));
        }
        if let Some(why) = self.pacing.is_over(now) {
            return self.give_up_waiting(&Arc::new(PartError::not_executed(why)));
        }
        match self.next_part(now) {
            NextPart::Members(members) => Some(Step::Send(self.part(members, now))),
            NextPart::NotBefore(until) => Some(Step::Wait(Some(until))),
            NextPart::Blocked(blocked) => {
                for (member, need) in blocked {
                    self.members.settle_blocked(member, need);
                }
                None
            }
            NextPart::Nothing if self.in_flight == 0 && !self.has_unread() => {
                let why = PartError::not_executed("members need each other in a circle");
                self.give_up_waiting(&Arc::new(why))
            }
            NextPart::Nothing => Some(Step::Wait(None)),
        }
    }

    fn next_part(&mut self, now: Instant) -> NextPart {
        let config = &self.shared.config;
        let size = self.shared.sizing.members(&self.sizing_key, config);
        let mut members = size.min(self.members.batch.max_members()).max(1);
        if self.members.batch.idempotency() == Idempotency::NonIdempotent {
            members = members
                .min(config.max_in_doubt)
                .min(self.trouble.max_in_doubt());
        }
        if self.trouble.wants_small() {
            if self.members.batch.order() == Order::Free {
                let turn = self.trouble.turns();
                let next = self.members.plan.next_alone(&self.members.batch, turn, now);
                // Those that wait may be blocked.
                if next != NextPart::Nothing {
                    return next;
                }
            }
            members = 1;
        }
        let must_send = self.in_flight == 0 && !self.has_unread();
        let mut bounds = Bounds {
            members,
            bytes: config.max_bytes,
            end: usize::MAX,
            patient: !must_send,
        };
        if self.members.only_reads() && !self.members.plan.is_by_group() {
            // What the reader has not taken yet, and what cannot be handed out yet, has to be kept.
            let ahead = members.saturating_mul(self.max_in_flight().saturating_add(1));
            let from = match self.members.merge.can_stream() {
                true => self.members.merge.next_member(),
                false => self.members.plan.first_open(),
            };
            bounds.end = from.saturating_add(ahead);
        }
        let next = self.members.plan.next(&self.members.batch, bounds, now);
        if next == NextPart::Nothing && must_send {
            bounds.end = usize::MAX;
            return self.members.plan.next(&self.members.batch, bounds, now);
        }
        next
    }

    fn part(&mut self, members: Vec<usize>, now: Instant) -> Part {
        let mut resent = 0;
        let mut maybe_executed = false;
        for &member in &members {
            if let Some(known) = self.members.plan.member(member) {
                resent += usize::from(known.last_error.is_some());
                maybe_executed |= known.maybe_executed;
            }
        }
        self.in_flight += 1;
        self.trouble.part_sent();
        self.members.report.count_part(resent);
        Part {
            number: self.members.plan.parts().saturating_sub(1),
            body: self.members.batch.part(&members),
            resent,
            maybe_executed,
            held_back: self.pacing.part_sent(now),
            deadline: self.pacing.end(now),
            members,
        }
    }
}

/// What follows from the end of a part.
impl<B: Batch> Progress<B> {
    /// Takes in how sending a part ended.
    pub(super) fn part_ended(&mut self, end: PartEnd, now: Instant) {
        let PartEnd {
            number,
            members,
            result,
            took,
        } = end;
        self.part = number;
        self.in_flight = self.in_flight.saturating_sub(1);
        let again = Retry::new(None).max_retries(MAX_LOSS_RETRIES);
        match result {
            SendResult::Response(response) => self.read_response(&members, response, took, now),
            SendResult::NotSent(error) => {
                let why = part_error(&error, false);
                // A layer further in has used up the time of the call.
                let gave_up = error.is::<BackoffError>();
                self.fallback.retry(Candidate::unsent(error));
                self.members.put_back(&members, &why);
                match gave_up {
                    true => self.give_up_all(&members, false),
                    false => self.hold_or_give_up(&members, None, false, now),
                }
            }
            SendResult::Unsendable(error) => {
                let why = part_error(&error, false);
                self.fallback.conclude(Candidate::error(error, false));
                self.members.reject(&members, &why);
            }
            SendResult::Lost(error) => {
                let (sizing, config) = (&self.shared.sizing, &self.shared.config);
                sizing.record_loss(&self.sizing_key, config, members.len(), took);
                let why = part_error(&error, true);
                self.outcome_unknown(&members, &why, Candidate::error(error, true), again, now);
            }
            SendResult::Unclassified(error) => {
                let why = part_error(&error, true);
                // Nobody knows whether waiting helps.
                let again = Retry::new(None).max_retries(0);
                self.outcome_unknown(&members, &why, Candidate::error(error, true), again, now);
            }
            SendResult::TooLong => {
                self.shrink(members.len());
                let max_response = self.shared.config.max_response;
                let error = BatchError::ResponseTooLong { max_response }.into();
                let why = part_error(&error, true);
                // The same member alone gets the same response.
                let again = Retry::new(None).max_retries(0);
                self.outcome_unknown(&members, &why, Candidate::error(error, true), again, now);
            }
        }
    }

    fn read_response(
        &mut self,
        members: &[usize],
        response: Box<CollectedResponse>,
        took: Duration,
        now: Instant,
    ) {
        let CollectedResponse { head, body, .. } = &*response;
        let info: Option<&RetryInfo> = head.extensions.get();
        // A layer further in has used up the time of the call.
        let gave_up = info.is_some_and(|info| info.gave_up);
        let read = self.members.batch.response(members, head, body.clone());
        match self.merge_response(members, head, read, gave_up, now) {
            Ok(smoothly) => {
                let (sizing, config) = (&self.shared.sizing, &self.shared.config);
                let key = &self.sizing_key;
                sizing.record_response(key, config, members.len(), took, smoothly);
            }
            Err(failure) => self.part_failed(members, response, failure, gave_up, now),
        }
    }

    /// Merges a response to these members. Returns whether none of them has to be sent again.
    fn merge_response(
        &mut self,
        members: &[usize],
        head: &response::Parts,
        read: PartResponse,
        gave_up: bool,
        now: Instant,
    ) -> Result<bool, PartFailure> {
        match read {
            PartResponse::Messages { frame, messages } => {
                if !fits(members, &messages) || !self.members.merge.put_frame(head, frame) {
                    return Err(unreadable());
                }
                Ok(self.put_messages(members, messages, gave_up, now))
            }
            PartResponse::Lists { frame, lists } => {
                let first = members.first().copied().unwrap_or_default();
                if !self.members.merge.put_lists(head, first, frame, lists) {
                    return Err(unreadable());
                }
                self.settle_without_message(members);
                Ok(true)
            }
            PartResponse::Failure(failure) => Err(failure),
        }
    }

    /// Settles members that are done, but have no messages of their own.
    fn settle_without_message(&mut self, members: &[usize]) {
        for &member in members {
            if self.members.plan.settle(member, true) {
                self.members.report.count_done();
            }
        }
        self.progressed();
    }

    /// The server has settled members.
    fn progressed(&mut self) {
        self.trouble.response_came();
        self.trouble.messages_came();
        self.trouble.members_settled();
        self.pacing.progressed();
    }

    /// Puts messages in. Returns whether no member has to be sent again.
    fn put_messages(
        &mut self,
        members: &[usize],
        messages: Vec<Message>,
        gave_up: bool,
        now: Instant,
    ) -> bool {
        if let Some(why) = self.refused_again(members, &messages) {
            self.refused_one_by_one(members, messages, &why, now);
            return false;
        }
        self.one_error = None;
        self.fallback.forget();
        let is_new_small = self.is_new_small(members);
        let mut came = self.members.put_messages(members, messages);
        let settled = came.achieved || came.failed;
        if settled {
            self.progressed();
        }
        // Only a member that failed for good stops others: a round that achieved nothing ends it.
        if !came.achieved && (came.failed || !came.is_retried()) {
            self.members.give_up(&came.stopped, &Arc::default());
        }
        if !came.counted.is_empty() {
            if gave_up {
                came.again.max_retries = Some(0);
            }
            let is_new = self.members.any_untried(&came.counted);
            if !settled && is_new && came.throttled.is_empty() {
                let text = "the server responds to every member alike";
                let why = PartError::not_executed(text);
                self.one_more_failed(is_new_small, true, came.again, why, now);
            }
            self.retry_alone(&came.counted, came.again, now);
        }
        if gave_up {
            self.give_up_all(&came.throttled, came.achieved);
        } else if !came.throttled.is_empty() {
            self.trouble.messages_came();
            self.throttled(&came, now);
        }
        match came.unknown.is_empty() || settled {
            true => self.trouble.response_came(),
            false => {
                let cause = "the server has left open what was executed";
                self.doubt(came.unknown.len(), cause, now);
            }
        }
        !came.is_retried() && came.stopped.is_empty() && came.unknown.is_empty()
    }

    /// Holds all parts back if the server throttles members, or those alone that it throttles again while others wait.
    fn throttled(&mut self, came: &Came, now: Instant) {
        let earlier = self.members.count_throttled(&came.throttled);
        let others = self.members.plan.waiting().len() > came.throttled.len();
        if earlier == 0 || !others || !self.trouble.settled_some() {
            return self.hold_or_give_up(&came.throttled, came.wait, came.achieved, now);
        }
        match self.pacing.retry_one_at(earlier, came.wait, now) {
            Some(until) => {
                for member in &came.throttled {
                    self.members.plan.hold(*member, until);
                }
            }
            None => self.give_up_all(&came.throttled, true),
        }
    }

    /// Returns the one error for all members of the part before, if what cannot be smaller is refused by messages now.
    fn refused_again(&self, members: &[usize], messages: &[Message]) -> Option<Arc<PartError>> {
        let failed = |message: &Message| message.outcome == MemberOutcome::Failed;
        let refused = messages.iter().all(failed);
        let alone = refused && self.members.plan.is_one_piece(&self.members.batch, members);
        self.one_error.clone().filter(|_| alone)
    }

    /// After one error for a whole part, a member alone is refused as well: it may be the error of all.
    fn refused_one_by_one(
        &mut self,
        members: &[usize],
        messages: Vec<Message>,
        why: &PartError,
        now: Instant,
    ) {
        let is_new_small = self.is_new_small(members);
        for (&member, message) in members.iter().zip(messages) {
            self.members.settle(member, message.bytes, false);
        }
        self.trouble.response_came();
        self.pacing.progressed();
        let again = Retry::new(None).max_retries(0);
        self.one_more_failed(is_new_small, true, again, alike(why), now);
    }

    /// A response speaks of its part as a whole.
    fn part_failed(
        &mut self,
        members: &[usize],
        response: Box<CollectedResponse>,
        failure: PartFailure,
        gave_up: bool,
        now: Instant,
    ) {
        if failure.outcome != PartOutcome::Unknown {
            self.trouble.response_came();
        }
        if failure.too_large {
            self.shrink(members.len());
        }
        let maybe_executed = match failure.outcome {
            PartOutcome::Unknown => true,
            PartOutcome::Retry(retry) => retry.maybe_executed,
            PartOutcome::Failed | PartOutcome::FailedForAll => false,
        };
        let candidate = Candidate {
            looks_good: response.head.status.is_success() && failure.code.is_none(),
            result: Ok(response),
            maybe_executed,
            unsent: false,
        };
        let why = Arc::new(PartError {
            message: failure.message,
            code: failure.code,
            text: failure.text,
            maybe_executed,
            unsent: false,
        });
        self.one_error = None;
        match failure.outcome {
            PartOutcome::Failed => {
                self.one_error = Some(Arc::clone(&why)).filter(|why| why.message.is_some());
                self.fallback.conclude(candidate);
                self.narrow(members, &why, Retry::new(None).max_retries(0), now);
            }
            PartOutcome::FailedForAll => {
                self.fallback.conclude(candidate);
                self.members.reject(members, &why);
                self.stop(&why);
            }
            PartOutcome::Retry(retry) => {
                if maybe_executed {
                    self.members.mark_maybe_executed(members);
                }
                self.fallback.retry(candidate);
                if gave_up {
                    self.members.put_back(members, &why);
                    return self.give_up_all(members, false);
                }
                match retry.max_retries {
                    Some(_) => self.narrow(members, &why, retry, now),
                    None => {
                        if failure.too_large {
                            self.members.halve(members);
                        }
                        self.members.put_back(members, &why);
                        self.hold_or_give_up(members, retry.retry_after, false, now);
                    }
                }
            }
            PartOutcome::Unknown => {
                let again = Retry::new(None).max_retries(MAX_LOSS_RETRIES);
                self.outcome_unknown(members, &why, candidate, again, now);
            }
        }
    }

    /// A part may have been executed. It is sent again in smaller parts if that does no harm.
    fn outcome_unknown(
        &mut self,
        members: &[usize],
        why: &Arc<PartError>,
        candidate: Candidate,
        again: Retry,
        now: Instant,
    ) {
        if self.members.batch.idempotency() != Idempotency::NonIdempotent {
            self.members.mark_maybe_executed(members);
            self.fallback.retry(candidate);
            if !self.members.only_reads() {
                self.trouble.be_careful();
            }
            return self.narrow(members, why, again, now);
        }
        self.fallback.conclude(candidate);
        self.members.settle_unknown(members, why);
        self.doubt(members.len(), &why.text, now);
    }

    /// Members may have been executed that must not be executed twice. Nothing is sent for a while, then one small part.
    fn doubt(&mut self, members: usize, cause: &str, now: Instant) {
        let may_go_on = self.trouble.outcome_lost(members);
        match self.pacing.after_loss(now).filter(|_| may_go_on) {
            Some(until) => self.hold_until(until, now),
            None => {
                let text = format!("the outcome of the parts before it was lost: {cause}");
                self.stop(&PartError::not_executed(text));
            }
        }
    }

    fn hold_until(&mut self, until: Instant, now: Instant) {
        if self.pacing.hold_until(until, now) {
            self.members.report.count_wait(now, until);
        }
    }

    /// Whether a part cannot be smaller, and has not come back before.
    fn is_new_small(&mut self, members: &[usize]) -> bool {
        if !self.members.plan.is_one_piece(&self.members.batch, members) {
            return false;
        }
        let first = members
            .first()
            .and_then(|member| self.members.plan.member(*member));
        first.is_some_and(|first| !std::mem::replace(&mut first.was_alone, true))
    }

    /// One more part in a row failed. All parts are held back for a while, if it `holds` them, or the rest is not sent because
    /// of `why`.
    fn one_more_failed(
        &mut self,
        is_new_small: bool,
        holds: bool,
        again: Retry,
        why: PartError,
        now: Instant,
    ) {
        let max_retries = again.max_retries.unwrap_or(MAX_LOSS_RETRIES);
        let next_part = self.members.plan.parts();
        self.trouble
            .part_failed(self.part, next_part, is_new_small, now);
        if self.trouble.is_general(max_retries, now) {
            self.fallback.end_retries();
            return self.stop(&why);
        }
        if self.trouble.retries(max_retries) > 0 && holds {
            // Without time for the wait, the members that wait are given up one by one.
            if let Some(until) = self.pacing.retry_at(again.retry_after, now) {
                self.hold_until(until, now);
            }
        }
    }

    /// A part failed as a whole, perhaps because of one of its members: they are sent in smaller parts. What cannot be sent
    /// in a smaller one is tried again as often as `again` says.
    fn narrow(&mut self, members: &[usize], why: &Arc<PartError>, again: Retry, now: Instant) {
        let is_new_small = self.is_new_small(members);
        self.members.plan.count_failure(members);
        self.members.put_back(members, why);
        let alone = self.members.plan.is_one_piece(&self.members.batch, members);
        // Where the others can go on meanwhile, one that fails again and again says nothing about them.
        let goes_on = self.trouble.settled_some() && self.members.batch.order() == Order::Free;
        // One that was sent again by itself has a wait of its own.
        let holds = !(alone && !is_new_small && self.trouble.settled_some());
        if !alone || is_new_small || !goes_on {
            self.one_more_failed(is_new_small, holds, again, alike(why), now);
        }
        match alone {
            true => self.retry_alone(members, again, now),
            false => self.members.halve(members),
        }
    }

    /// Sends members that failed by themselves once more, after a wait of their own, or gives them up.
    fn retry_alone(&mut self, members: &[usize], again: Retry, now: Instant) {
        let max_retries = match again.max_retries.unwrap_or(MAX_LOSS_RETRIES) {
            // Others have used up the time that such a failure is worth.
            max_retries if self.trouble.lasts(max_retries, now) => 0,
            max_retries => max_retries,
        };
        let mut given_up = Vec::new();
        let mut longest = None;
        let mut retried = Vec::new();
        for &member in members {
            let Some(known) = self.members.plan.member(member) else {
                continue;
            };
            // In an outage everything is refused for good, as it seems.
            if max_retries == 0 && self.trouble.is_suspect() && known.spared < MAX_SPARED {
                known.spared += 1;
                longest = longest.max(Some(u32::from(known.spared)));
                retried.push(member);
                continue;
            }
            let earlier = known.tries;
            known.tries = earlier.saturating_add(1);
            match earlier < max_retries {
                true => {
                    longest = longest.max(Some(earlier));
                    retried.push(member);
                }
                false => given_up.push(member),
            }
        }
        // They stay together, so that few parts are sent.
        if let Some(earlier) = longest {
            match self.pacing.retry_one_at(earlier, again.retry_after, now) {
                Some(until) => retried
                    .iter()
                    .for_each(|member| self.members.plan.hold(*member, until)),
                None => given_up.append(&mut retried),
            }
        }
        if !given_up.is_empty() {
            self.fallback.end_retries();
            let why = PartError::not_executed("the server goes on to fail at it");
            self.members.give_up(&given_up, &Arc::new(why));
        }
    }

    /// Holds all parts back before these members are sent again, or gives them up.
    fn hold_or_give_up(
        &mut self,
        members: &[usize],
        retry_after: Option<Duration>,
        achieved: bool,
        now: Instant,
    ) {
        match self.pacing.retry_at(retry_after, now) {
            Some(until) => {
                if self.pacing.hold_until(until, now) {
                    self.members.report.count_wait(now, until);
                }
            }
            None => self.give_up_all(members, achieved),
        }
    }

    /// There is no time left for these members. If no others were `achieved`, neither is there for the rest.
    fn give_up_all(&mut self, members: &[usize], achieved: bool) {
        let why = "the server refuses the batch for longer than the call may wait";
        let why = Arc::new(PartError::not_executed(why));
        self.fallback.end_retries();
        // If some members were not refused, it is not known whether others would be.
        if achieved {
            self.members.give_up(members, &why);
        } else {
            let waiting = self.members.plan.waiting();
            self.members.give_up(&waiting, &why);
        }
    }

    /// Nothing more is sent. The server's message is for the members that it has seen.
    fn stop(&mut self, why: &PartError) {
        self.stopped = Some(Arc::new(PartError {
            message: None,
            ..why.clone()
        }));
    }

    /// Later parts are smaller than one of this size. A single member says nothing about sizes.
    fn shrink(&self, members: usize) {
        let (sizing, config) = (&self.shared.sizing, &self.shared.config);
        if members > 1 {
            sizing.shrink(&self.sizing_key, config, members);
        }
    }

    /// Gives up all members that wait. Returns what to wait for if there are none.
    fn give_up_waiting(&mut self, why: &Arc<PartError>) -> Option<Step> {
        // A part that was lost meanwhile says more than the refusal of all.
        self.fallback.end_retries();
        let waiting = self.members.plan.waiting();
        if waiting.is_empty() {
            return Some(Step::Wait(None));
        }
        self.members.give_up(&waiting, why);
        None
    }
}

fn part_error(error: &BoxError, maybe_executed: bool) -> Arc<PartError> {
    Arc::new(PartError {
        text: describe(&**error),
        maybe_executed,
        unsent: !maybe_executed,
        ..PartError::default()
    })
}

/// Why the rest is not sent if this is what every part gets.
fn alike(why: &PartError) -> PartError {
    let text = format!("the server responds to every part alike: {}", why.text);
    PartError {
        code: why.code.clone(),
        ..PartError::not_executed(text)
    }
}

/// The failure of a part whose response the format has read wrongly.
fn unreadable() -> PartFailure {
    PartFailure::new(
        PartOutcome::Unknown,
        "the response does not match the members that were sent",
    )
}
