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
    Batch, Explanation, Idempotency, MemberOutcome, Message, Order, PartFailure, PartOutcome,
    PartResponse,
};
use super::merge::{Merge, fits};
use super::pacing::Pacing;
use super::part::{CollectedResponse, SendResult};
use super::plan::{Bounds, LastError, NextPart, PartError, Plan};
use super::sizing::Sizing;
use super::stats::BatchReport;
use crate::body::ReplayBody;
use crate::body::rope::Rope;
use crate::errors::describe;
use crate::retry::backoff::Jitter;

/// How often a part that cannot be made smaller is tried.
const MAX_FAILURES_ALONE: u8 = 3;

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
    /// Whether its members can be sent in smaller parts.
    pub(super) can_shrink: bool,
}

/// How sending a part ended.
#[derive(Debug)]
pub(super) struct PartEnd {
    pub(super) members: Vec<usize>,
    pub(super) result: SendResult,
    /// How long the server worked on it.
    pub(super) took: Duration,
}

/// The state of one batch.
pub(super) struct Progress<B> {
    batch: B,
    shared: Arc<Shared>,
    sizing_key: Box<str>,
    plan: Plan,
    merge: Merge,
    pacing: Pacing,
    fallback: Fallback,
    in_flight: usize,
    /// Why the rest of the batch is not sent.
    stopped: Option<Arc<PartError>>,
    /// Whether the response was begun.
    responded: bool,
    report: BatchReport,
}

impl<B: Batch> Progress<B> {
    pub(super) fn new(batch: B, shared: Arc<Shared>, deadline: Option<Instant>) -> Self {
        let members = batch.members();
        let config = &shared.config;
        let rng = shared.jitter.rng();
        Self {
            sizing_key: batch.sizing_key().into(),
            plan: Plan::new(&batch),
            merge: Merge::new(members, batch.separator()),
            pacing: Pacing::new(config.backoff, rng, deadline, config.stall_timeout),
            fallback: Fallback::new(batch.idempotency() != Idempotency::Safe),
            in_flight: 0,
            stopped: None,
            responded: false,
            report: BatchReport::new(members),
            batch,
            shared,
        }
    }

    pub(super) fn operation(&self) -> &str {
        self.batch.operation()
    }

    pub(super) fn report(&self) -> &BatchReport {
        &self.report
    }

    /// Whether everything was handed out.
    pub(super) fn is_at_end(&self) -> bool {
        self.merge.is_at_end()
    }

    /// Returns how many bytes are still to be handed out, if that is known.
    pub(super) fn bytes_left(&self) -> Option<u64> {
        self.merge.left(&self.plan)
    }

    /// Whether the batch only reads. Its response is handed out while its parts come in.
    fn only_reads(&self) -> bool {
        self.batch.idempotency() == Idempotency::Safe
    }

    /// Returns how many parts may be in flight.
    fn max_in_flight(&self) -> usize {
        match self.batch.order() {
            Order::Free => self.shared.config.parallel,
            Order::Kept => 1,
        }
    }

    /// Whether the reader has something to take before anything more is needed.
    fn has_unread(&self) -> bool {
        let streams = self.only_reads() && self.merge.can_stream();
        streams && self.merge.next_member() < self.plan.first_open()
    }
}

/// What comes next.
impl<B: Batch> Progress<B> {
    /// Returns what to do next. Ends of parts are to be reported first.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        // One part at a time is sent only when the reader waits for it: it may make other calls while it has enough to
        // read, and a part in flight would hold what they need. Several parts go on meanwhile.
        while self.responded && self.max_in_flight() > 1 && !self.plan.is_complete() {
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
        let complete = self.plan.is_complete();
        let can_begin = complete || self.only_reads() && self.merge.can_stream();
        if !can_begin {
            return None;
        }
        self.responded = true;
        if complete {
            self.report.set_complete();
        }
        let has_envelope = self.merge.has_envelope();
        if has_envelope && !self.is_incomplete() {
            if let Some(head) = self.merge.take_head(&self.plan) {
                return Some(Output::Head(Box::new(head)));
            }
        }
        // Nobody would notice that such a response lacks what other parts gave.
        let hides_others = |fallback: &Candidate| has_envelope && fallback.looks_good;
        let fallback = self.fallback.take();
        Some(match fallback.filter(|fallback| !hides_others(fallback)) {
            Some(fallback) => match fallback.result {
                Ok(response) => Output::OnePart(response),
                Err(error) => Output::Error(error),
            },
            None => Output::Error(self.incomplete()),
        })
    }

    /// Returns what the reader gets next, if it came.
    fn read(&mut self) -> Option<Output> {
        if self.plan.is_complete() {
            self.report.set_complete();
        }
        if self.is_incomplete() {
            return Some(Output::Error(self.incomplete()));
        }
        if let Some(bytes) = self.merge.next(&self.plan) {
            return Some(Output::Bytes(bytes));
        }
        self.merge.is_at_end().then_some(Output::End)
    }

    /// Whether the response of a batch that only reads lacks members, and cannot say so.
    fn is_incomplete(&self) -> bool {
        self.only_reads() && self.merge.missing() > 0
    }

    fn incomplete(&self) -> BoxError {
        let operation = self.batch.operation().into();
        let cause = self.report.cause();
        match self.plan.parts() {
            0 => BatchError::NotBegun { operation, cause },
            _ => BatchError::Incomplete {
                operation,
                missing: self.merge.missing(),
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
        if self.in_flight >= self.max_in_flight() || self.plan.nothing_waits() {
            return Some(Step::Wait(None));
        }
        if let Some(until) = self.pacing.held_until(now) {
            return Some(Step::Wait(Some(until)));
        }
        if self.pacing.deadline_passed(now) {
            let why = PartError::not_executed("the deadline of the call has passed");
            return self.give_up_waiting(&Arc::new(why));
        }
        match self.next_part() {
            NextPart::Members(members) => Some(Step::Send(self.part(members, now))),
            NextPart::Blocked(blocked) => {
                for (member, need) in blocked {
                    self.settle_blocked(member, need);
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

    fn next_part(&mut self) -> NextPart {
        let config = &self.shared.config;
        let size = self.shared.sizing.members(&self.sizing_key, config);
        let members = size.min(self.batch.max_members()).max(1);
        let must_send = self.in_flight == 0 && !self.has_unread();
        let mut bounds = Bounds {
            members,
            bytes: config.max_bytes,
            end: usize::MAX,
            patient: !must_send,
        };
        if self.only_reads() && !self.plan.is_by_group() {
            // What the reader has not taken yet, and what cannot be handed out yet, has to be kept.
            let ahead = members.saturating_mul(self.max_in_flight().saturating_add(1));
            let from = match self.merge.can_stream() {
                true => self.merge.next_member(),
                false => self.plan.first_open(),
            };
            bounds.end = from.saturating_add(ahead);
        }
        let next = self.plan.next(&self.batch, bounds);
        if next == NextPart::Nothing && must_send {
            bounds.end = usize::MAX;
            return self.plan.next(&self.batch, bounds);
        }
        next
    }

    fn part(&mut self, members: Vec<usize>, now: Instant) -> Part {
        let mut resent = 0;
        let mut maybe_executed = false;
        for &member in &members {
            if let Some(known) = self.plan.member(member) {
                resent += usize::from(known.last_error.is_some());
                maybe_executed |= known.maybe_executed;
            }
        }
        self.in_flight += 1;
        self.report.count_part(resent);
        Part {
            number: self.plan.parts().saturating_sub(1),
            body: self.batch.part(&members),
            resent,
            maybe_executed,
            held_back: self.pacing.part_sent(now),
            can_shrink: !self.plan.is_one_piece(&self.batch, &members),
            members,
        }
    }
}

/// What follows from the end of a part.
impl<B: Batch> Progress<B> {
    /// Takes in how sending a part ended.
    pub(super) fn part_ended(&mut self, end: PartEnd, now: Instant) {
        let PartEnd {
            members,
            result,
            took,
        } = end;
        self.in_flight = self.in_flight.saturating_sub(1);
        match result {
            SendResult::Response(response) => self.read_response(&members, response, took, now),
            SendResult::NotSent(error) => {
                let why = part_error(&error, false);
                self.fallback.retry(Candidate::error(error, false));
                self.retry_part(&members, &why, None, now);
            }
            SendResult::Unsendable(error) => {
                let why = part_error(&error, false);
                self.fallback.conclude(Candidate::error(error, false));
                self.reject(&members, &why);
            }
            SendResult::Lost(error) => {
                let (sizing, config) = (&self.shared.sizing, &self.shared.config);
                sizing.record_loss(&self.sizing_key, config, members.len(), took);
                let why = part_error(&error, true);
                self.outcome_unknown(&members, &why, Candidate::error(error, true), now);
            }
            SendResult::Unclassified(error) => {
                let why = part_error(&error, true);
                self.fallback.conclude(Candidate::error(error, true));
                self.settle_unknown(&members, &why);
            }
            SendResult::TooLong => {
                self.shrink(members.len());
                let max_response = self.shared.config.max_response;
                let error = BatchError::ResponseTooLong { max_response }.into();
                let why = part_error(&error, true);
                self.outcome_unknown(&members, &why, Candidate::error(error, true), now);
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
        let read = self.batch.response(members, head, body.clone());
        match self.merge_response(members, head, read, now) {
            Ok(smoothly) => {
                let (sizing, config) = (&self.shared.sizing, &self.shared.config);
                let key = &self.sizing_key;
                sizing.record_response(key, config, members.len(), took, smoothly);
            }
            Err(failure) => self.part_failed(members, response, failure, now),
        }
    }

    /// Merges a response to these members. Returns whether none of them has to be sent again.
    fn merge_response(
        &mut self,
        members: &[usize],
        head: &response::Parts,
        read: PartResponse,
        now: Instant,
    ) -> Result<bool, PartFailure> {
        match read {
            PartResponse::Messages { frame, messages } => {
                if !fits(members, &messages) || !self.merge.put_frame(head, frame) {
                    return Err(unreadable());
                }
                Ok(self.put_messages(members, messages, now))
            }
            PartResponse::Lists { frame, lists } => {
                let first = members.first().copied().unwrap_or_default();
                if !self.merge.put_lists(head, first, frame, lists) {
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
            if self.plan.settle(member, true) {
                self.report.count_done();
            }
        }
        self.pacing.progressed();
    }

    /// Puts messages in. Returns whether no member has to be sent again.
    fn put_messages(&mut self, members: &[usize], messages: Vec<Message>, now: Instant) -> bool {
        self.fallback.forget();
        let any = |outcome| messages.iter().any(|message| message.outcome == outcome);
        let achieved = any(MemberOutcome::Done);
        let failed = any(MemberOutcome::Failed);
        if achieved || failed {
            self.pacing.progressed();
        }
        let mut retried = Vec::new();
        let mut stopped = Vec::new();
        let mut longest = None;
        for (&member, message) in members.iter().zip(messages) {
            match message.outcome {
                MemberOutcome::Done => self.settle(member, message.bytes, true),
                MemberOutcome::Failed => self.settle(member, message.bytes, false),
                MemberOutcome::Retry {
                    retry_after,
                    maybe_executed,
                } => {
                    if maybe_executed {
                        self.mark_maybe_executed(&[member]);
                    }
                    self.plan
                        .send_again(member, LastError::Message(message.bytes));
                    longest = longest.max(retry_after);
                    retried.push(member);
                }
                MemberOutcome::Stopped => {
                    self.plan
                        .send_again(member, LastError::Message(message.bytes));
                    stopped.push(member);
                }
            }
        }
        let smoothly = retried.is_empty() && stopped.is_empty();
        // Only a member that failed for good stops others: a round that achieved nothing ends it.
        if !achieved && (failed || retried.is_empty()) {
            self.give_up(&stopped, &Arc::default());
        }
        if !retried.is_empty() {
            self.hold_or_give_up(&retried, longest, achieved, now);
        }
        smoothly
    }

    /// A response speaks of its part as a whole.
    fn part_failed(
        &mut self,
        members: &[usize],
        response: Box<CollectedResponse>,
        failure: PartFailure,
        now: Instant,
    ) {
        let PartFailure {
            outcome, too_large, ..
        } = failure;
        if too_large {
            self.shrink(members.len());
        }
        let maybe_executed = match outcome {
            PartOutcome::Unknown => true,
            PartOutcome::Retry { maybe_executed, .. } => maybe_executed,
            PartOutcome::Failed | PartOutcome::FailedForAll => false,
        };
        let looks_good = response.head.status.is_success() && failure.code.is_none();
        let candidate = Candidate {
            result: Ok(response),
            maybe_executed,
            looks_good,
        };
        let why = Arc::new(PartError {
            message: failure.message,
            code: failure.code,
            text: failure.text,
            maybe_executed,
        });
        match outcome {
            PartOutcome::Failed => {
                self.fallback.conclude(candidate);
                self.pacing.progressed();
                self.reject(members, &why);
            }
            PartOutcome::FailedForAll => {
                self.fallback.conclude(candidate);
                self.reject(members, &why);
                // The server's message is for the members that it has seen.
                self.stopped = Some(Arc::new(PartError {
                    message: None,
                    ..PartError::clone(&why)
                }));
            }
            PartOutcome::Retry { retry_after, .. } => {
                if maybe_executed {
                    self.mark_maybe_executed(members);
                }
                self.fallback.retry(candidate);
                if too_large && !self.split_further(members) {
                    return self.reject_finally(members, &why);
                }
                self.retry_part(members, &why, retry_after, now);
            }
            PartOutcome::Unknown => self.outcome_unknown(members, &why, candidate, now),
        }
    }

    /// A part may have been executed. It is sent again in smaller parts if that does no harm.
    fn outcome_unknown(
        &mut self,
        members: &[usize],
        why: &Arc<PartError>,
        candidate: Candidate,
        now: Instant,
    ) {
        if self.batch.idempotency() == Idempotency::NonIdempotent {
            self.fallback.conclude(candidate);
            self.settle_unknown(members, why);
            return;
        }
        self.mark_maybe_executed(members);
        self.fallback.retry(candidate);
        if !self.split_further(members) {
            return self.reject_finally(members, why);
        }
        self.retry_part(members, why, None, now);
    }

    /// These members may have been executed, and are sent again.
    fn mark_maybe_executed(&mut self, members: &[usize]) {
        for &member in members {
            if let Some(known) = self.plan.member(member) {
                known.maybe_executed = true;
            }
        }
    }

    /// Sends these members in parts of at most half the size. Returns false if they failed too often in a part that cannot
    /// be made smaller.
    fn split_further(&mut self, members: &[usize]) -> bool {
        let alone = self.plan.is_one_piece(&self.batch, members);
        let mut may_go_on = true;
        for &member in members {
            if let Some(known) = self.plan.member(member) {
                known.cap = (members.len() / 2).max(1);
                known.failures_alone += u8::from(alone);
                may_go_on &= known.failures_alone < MAX_FAILURES_ALONE;
            }
        }
        may_go_on
    }

    /// Sends the members of a part again, if there is time for it.
    fn retry_part(
        &mut self,
        members: &[usize],
        why: &Arc<PartError>,
        retry_after: Option<Duration>,
        now: Instant,
    ) {
        for &member in members {
            self.plan
                .send_again(member, LastError::Part(Arc::clone(why)));
        }
        self.hold_or_give_up(members, retry_after, false, now);
    }

    /// Holds all parts back before these members are sent again, or gives them up.
    fn hold_or_give_up(
        &mut self,
        members: &[usize],
        retry_after: Option<Duration>,
        achieved: bool,
        now: Instant,
    ) {
        if let Some(until) = self.pacing.retry_at(retry_after, now) {
            if self.pacing.hold_until(until, now) {
                self.report.count_wait(now, until);
            }
            return;
        }
        let why = "the server refuses the batch for longer than the call may wait";
        let why = Arc::new(PartError::not_executed(why));
        self.fallback.end_retries();
        // If some members were not refused, it is not known whether others would be.
        if achieved {
            self.give_up(members, &why);
        } else {
            let waiting = self.plan.waiting();
            self.give_up(&waiting, &why);
        }
    }

    /// Later parts are smaller than one of this size.
    fn shrink(&self, members: usize) {
        let (sizing, config) = (&self.shared.sizing, &self.shared.config);
        sizing.shrink(&self.sizing_key, config, members);
    }
}

/// What members end with.
impl<B: Batch> Progress<B> {
    /// A batch that only reads does no harm if it is executed twice: nobody has to know.
    fn is_in_doubt(&mut self, member: usize) -> bool {
        let doubt_matters = !self.only_reads();
        let known = self.plan.member(member);
        doubt_matters && known.is_some_and(|known| known.maybe_executed)
    }

    /// The server's message is the member's.
    fn settle(&mut self, member: usize, message: Rope, done: bool) {
        if self.plan.settle(member, done) {
            if done {
                self.report.count_done();
            }
            self.merge.put(member, Some(message));
        }
    }

    /// These members may have been executed, and nothing more will be known.
    fn settle_unknown(&mut self, members: &[usize], why: &PartError) {
        for &member in members {
            if self.plan.settle(member, false) {
                self.explain_unknown(member, why);
            }
        }
    }

    fn explain_unknown(&mut self, member: usize, why: &PartError) {
        let cause = &*why.text;
        let explanation = Explanation::OutcomeUnknown { cause };
        let message = self.batch.explain(member, &explanation);
        self.report.count_unknown();
        self.report.set_cause(cause);
        self.merge
            .put(member, message.or_else(|| why.message.clone()));
    }

    fn settle_not_executed(&mut self, member: usize, why: &PartError) {
        if !self.plan.settle(member, false) {
            return;
        }
        let (code, cause) = (why.code.as_deref(), &*why.text);
        let message = why.message.clone().or_else(|| {
            let explanation = Explanation::NotExecuted { code, cause };
            self.batch.explain(member, &explanation)
        });
        self.report.count_not_executed();
        self.report.set_cause(cause);
        self.merge.put(member, message);
    }

    /// A member that it needs has failed, so the plan has settled it.
    fn settle_blocked(&mut self, member: usize, need: usize) {
        if self.is_in_doubt(member) {
            let text = "its response was lost, and a member that it needs did not succeed";
            return self.explain_unknown(member, &PartError::not_executed(text));
        }
        let explanation = Explanation::DependencyFailed { member: need };
        let message = self.batch.explain(member, &explanation);
        self.report.count_not_executed();
        self.report.set_cause("a member that it needs failed");
        self.merge.put(member, message);
    }

    /// As [`Progress::reject`], for members that were sent again so far.
    fn reject_finally(&mut self, members: &[usize], why: &Arc<PartError>) {
        self.fallback.end_retries();
        self.reject(members, why);
    }

    /// Does not send these members again because of `why`, whatever was said to them earlier.
    fn reject(&mut self, members: &[usize], why: &Arc<PartError>) {
        for &member in members {
            if let Some(known) = self.plan.member(member) {
                known.last_error = None;
            }
        }
        self.give_up(members, why);
    }

    /// Gives up all members that wait. Returns what to wait for if there are none.
    fn give_up_waiting(&mut self, why: &Arc<PartError>) -> Option<Step> {
        // A part that was lost meanwhile says more than the refusal of all.
        self.fallback.end_retries();
        let waiting = self.plan.waiting();
        if waiting.is_empty() {
            return Some(Step::Wait(None));
        }
        self.give_up(&waiting, why);
        None
    }

    /// Does not send these members (again). They keep their last error; `why` is for those that have none.
    fn give_up(&mut self, members: &[usize], why: &Arc<PartError>) {
        for &member in members {
            let in_doubt = self.is_in_doubt(member);
            let Some(known) = self.plan.member(member) else {
                continue;
            };
            let why = match known.last_error.take() {
                Some(LastError::Message(message)) if !in_doubt => {
                    self.report.count_not_executed();
                    self.settle(member, message, false);
                    continue;
                }
                Some(LastError::Part(last)) => last,
                _ => Arc::clone(why),
            };
            if in_doubt || why.maybe_executed {
                self.settle_unknown(&[member], &why);
            } else {
                self.settle_not_executed(member, &why);
            }
        }
    }
}

fn part_error(error: &BoxError, maybe_executed: bool) -> Arc<PartError> {
    Arc::new(PartError {
        text: describe(&**error),
        maybe_executed,
        ..PartError::default()
    })
}

/// The failure of a part whose response the format has read wrongly.
fn unreadable() -> PartFailure {
    PartFailure::new(
        PartOutcome::Unknown,
        "the response does not match the members that were sent",
    )
}
