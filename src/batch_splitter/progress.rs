//! Decides what happens to the members of one batch: what is sent, given up and handed out next. No I/O, no timers.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::response;
use tokio::time::Instant;
use tower::BoxError;

use super::draft::Bounds;
use super::errors::BatchError;
use super::fallback::Fallback;
use super::format::{Batch, Idempotency, Order};
use super::members::Members;
use super::pacing::Pacing;
use super::part_end::{PartEnd, PartEnds};
use super::plan::{NextPart, PartError};
use super::recovery::Recovery;
use super::shared::Shared;
use super::sizing::PartSizes;
use super::stats::BatchReport;
use crate::body::ReplayBody;
use crate::body::collected::CollectedResponse;
use crate::errors::BackoffError;

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

/// The state of one batch.
pub(super) struct Progress<B> {
    members: Members<B>,
    shared: Arc<Shared>,
    sizes: PartSizes,
    part_ends: PartEnds,
    recovery: Recovery,
    /// Draws the members that are tried alone.
    places: fastrand::Rng,
    in_flight: usize,
    /// Whether the response was begun.
    responded: bool,
}

impl<B: Batch> Progress<B> {
    pub(super) fn new(batch: B, shared: Arc<Shared>, deadline: Option<Instant>) -> Self {
        let config = &shared.config;
        let sizing = Arc::clone(&shared.sizing);
        let sizes = PartSizes::new(sizing, config.clone(), batch.sizing_key());
        let pacing = Pacing::new(config.backoff, shared.rng(), deadline, config.stall_timeout);
        let fallback = Fallback::new(batch.idempotency() != Idempotency::Safe);
        Self {
            members: Members::new(batch),
            part_ends: PartEnds::new(sizes.clone(), config.max_response),
            recovery: Recovery::new(pacing, fallback),
            places: shared.rng(),
            sizes,
            shared,
            in_flight: 0,
            responded: false,
        }
    }

    /// Takes in how sending a part ended.
    pub(super) fn part_ended(&mut self, end: PartEnd, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.part_ends
            .take_in(&mut self.members, &mut self.recovery, end, now);
    }

    pub(super) fn operation(&self) -> &str {
        self.members.batch.operation()
    }

    pub(super) fn report(&self) -> &BatchReport {
        &self.members.report
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
            && self.recovery.gave_messages();
        if !(complete || streams) {
            return None;
        }
        self.responded = true;
        if complete {
            self.members.report.set_complete();
        }
        // Nobody would notice that such a response is none to what was asked.
        let is_obsolete = self.recovery.gave_messages();
        let fallback = self
            .recovery
            .take_failure()
            .filter(|fallback| !fallback.looks_good);
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
        if let Some(why) = self.recovery.stopped() {
            return self.give_up_waiting(&why);
        }
        let max_in_flight = match self.recovery.wants_alone() {
            true => 1,
            false => self.max_in_flight(),
        };
        if self.in_flight >= max_in_flight || self.members.plan.nothing_waits() {
            return Some(Step::Wait(None));
        }
        if let Some(until) = self.recovery.held_until(now) {
            return Some(Step::Wait(Some(until)));
        }
        if let Some(why) = self.recovery.is_over(now) {
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

    /// Gives up all members that wait. Returns what to wait for if there are none.
    fn give_up_waiting(&mut self, why: &Arc<PartError>) -> Option<Step> {
        // A part that was lost meanwhile says more than the refusal of all.
        self.recovery.end_retries();
        let waiting = self.members.plan.waiting();
        if waiting.is_empty() {
            return Some(Step::Wait(None));
        }
        self.members.give_up(&waiting, why);
        None
    }

    fn next_part(&mut self, now: Instant) -> NextPart {
        let config = &self.shared.config;
        let most = self.members.batch.max_members();
        let mut members = self.sizes.members().min(most).max(1);
        if self.members.batch.idempotency() == Idempotency::NonIdempotent {
            members = members
                .min(config.max_in_doubt)
                .min(self.recovery.max_in_doubt());
        }
        if self.recovery.wants_small() {
            if self.members.batch.order() == Order::Free {
                let (batch, places) = (&self.members.batch, &mut self.places);
                let next = self.members.plan.next_alone(batch, places, now);
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
            whole_only: !must_send,
        };
        if self.members.only_reads() && !self.members.plan.is_by_group() {
            // What the reader has not taken yet, and what cannot be handed out yet, has to be kept.
            let ahead = members.saturating_mul(self.max_in_flight().saturating_add(1));
            // One that the server throttles again and again does not hold up those behind it.
            let throttled = self.members.plan.first_open_throttled();
            let ahead = ahead.saturating_mul(throttled.saturating_add(1));
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
        self.members.report.count_part(resent);
        let (held_back, deadline) = self.recovery.part_sent(now);
        Part {
            number: self.members.plan.parts().saturating_sub(1),
            body: self.members.batch.part(&members),
            resent,
            maybe_executed,
            held_back,
            deadline,
            members,
        }
    }
}
