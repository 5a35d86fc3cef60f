//! [`PartEnds`]: what the end of a part means for its members, and what is learnt from it.

use std::sync::Arc;
use std::time::Duration;

use http::response;
use tokio::time::Instant;
use tower::BoxError;

use super::errors::BatchError;
use super::fallback::Candidate;
use super::format::{
    Batch, Idempotency, MemberOutcome, Message, PartFailure, PartOutcome, PartResponse, Retry,
};
use super::members::Members;
use super::merge::fits;
use super::part::SendResult;
use super::plan::PartError;
use super::recovery::Recovery;
use super::sizing::PartSizes;
use crate::body::collected::CollectedResponse;
use crate::errors::{BackoffError, NoResponseInTime, Stalled, describe};
use crate::retry::{MAX_LOSS_RETRIES, RetryInfo, retries_of_loss};

/// How sending a part ended.
#[derive(Debug)]
pub(super) struct PartEnd {
    pub(super) number: u32,
    pub(super) members: Vec<usize>,
    pub(super) result: SendResult,
    /// How long the server worked on it.
    pub(super) took: Duration,
}

/// What is remembered from one end to the next.
pub(super) struct PartEnds {
    sizes: PartSizes,
    max_response: u64,
    /// The one error for all members of the last part that failed.
    one_error: Option<Arc<PartError>>,
}

impl PartEnds {
    pub(super) fn new(sizes: PartSizes, max_response: u64) -> Self {
        Self {
            sizes,
            max_response,
            one_error: None,
        }
    }

    /// Takes in how sending a part ended.
    pub(super) fn take_in<B: Batch>(
        &mut self,
        members: &mut Members<B>,
        recovery: &mut Recovery,
        end: PartEnd,
        now: Instant,
    ) {
        recovery.part_came_back(end.number);
        let ending = Ending {
            part: &end.members,
            ends: self,
            members,
            recovery,
            now,
        };
        ending.take_in(end.result, end.took);
    }
}

/// One part that has come back.
struct Ending<'a, B> {
    ends: &'a mut PartEnds,
    members: &'a mut Members<B>,
    recovery: &'a mut Recovery,
    /// The members of the part.
    part: &'a [usize],
    now: Instant,
}

impl<B: Batch> Ending<'_, B> {
    fn take_in(self, result: SendResult, took: Duration) {
        let again = Retry::new(None).max_retries(MAX_LOSS_RETRIES);
        match result {
            SendResult::Response(response) => self.read_response(response, took),
            SendResult::NotSent(error) => self.not_sent(error),
            SendResult::Unsendable(error) => {
                let why = part_error(&error, false);
                self.recovery.add_final(Candidate::error(error, false));
                self.members.reject(self.part, &why);
            }
            SendResult::Lost(error) => {
                self.ends.sizes.record_loss(self.part.len(), took);
                let again = again.max_retries(retries_of_loss(&*error));
                self.lost(error, again);
            }
            SendResult::TooLate => {
                self.ends.sizes.record_loss(self.part.len(), took);
                self.too_late(again);
            }
            // Nobody knows whether waiting helps.
            SendResult::Unclassified(error) => self.lost(error, again.max_retries(0)),
            SendResult::TooLong => {
                self.ends.sizes.shrink(self.part.len());
                let max_response = self.ends.max_response;
                let error = BatchError::ResponseTooLong { max_response };
                // The same member alone gets the same response.
                self.lost(error.into(), again.max_retries(0));
            }
        }
    }

    /// Nothing was executed, and the server has said nothing.
    fn not_sent(mut self, error: BoxError) {
        let why = part_error(&error, false);
        // A layer further in, or this one, has used up the time of the call.
        let gave_up = error.is::<BackoffError>();
        self.recovery.add_retried(Candidate::unsent(error));
        self.members.put_back(self.part, &why);
        match gave_up {
            true => self.recovery.give_up_all(self.members, self.part, false),
            false => self.hold_or_give_up(None),
        }
    }

    /// The time of a part was over before it came back. If that of the call is over with it, it makes no difference whether a
    /// read was executed: what the server has said before counts.
    fn too_late(self, again: Retry) {
        let source = NoResponseInTime.into();
        if !self.members.only_reads() {
            return self.lost(source, again);
        }
        let is_over = self.recovery.is_over(self.now).is_some();
        let error = BackoffError::DeadlinePassed {
            operation: self.members.batch.operation().into(),
            attempts: 1,
            source,
        };
        match is_over {
            true => self.not_sent(error.into()),
            false => self.lost(error.into(), again),
        }
    }

    fn lost(self, error: BoxError, again: Retry) {
        let why = part_error(&error, true);
        // What this layer has given up itself.
        let given_up = error.is::<Stalled>() || error.is::<NoResponseInTime>();
        let error = match given_up && !self.members.only_reads() {
            true => BackoffError::OutcomeUnknown {
                operation: self.members.batch.operation().into(),
                attempts: 1,
                source: error,
            }
            .into(),
            false => error,
        };
        self.outcome_unknown(&why, Candidate::error(error, true), again);
    }

    fn read_response(mut self, response: Box<CollectedResponse>, took: Duration) {
        let CollectedResponse { head, body, .. } = &*response;
        let info: Option<&RetryInfo> = head.extensions.get();
        // A layer further in has used up the time of the call.
        let gave_up = info.is_some_and(|info| info.gave_up);
        let read = self.members.batch.response(self.part, head, body.clone());
        match self.merge_response(head, read, gave_up) {
            Ok(smoothly) => {
                let members = self.part.len();
                self.ends.sizes.record_response(members, took, smoothly);
            }
            Err(failure) => self.part_failed(response, failure, gave_up),
        }
    }

    /// Merges a response. Returns whether none of the members has to be sent again.
    fn merge_response(
        &mut self,
        head: &response::Parts,
        read: PartResponse,
        gave_up: bool,
    ) -> Result<bool, PartFailure> {
        match read {
            PartResponse::Messages { frame, messages } => {
                if !fits(self.part, &messages) || !self.members.merge.put_frame(head, frame) {
                    return Err(unreadable());
                }
                Ok(self.put_messages(messages, gave_up))
            }
            PartResponse::Lists { frame, lists } => {
                let first = self.part.first().copied().unwrap_or_default();
                if !self.members.merge.put_lists(head, first, frame, lists) {
                    return Err(unreadable());
                }
                self.members.settle_without_message(self.part);
                self.recovery.progressed();
                Ok(true)
            }
            PartResponse::Failure(failure) => Err(failure),
        }
    }

    /// Puts messages in. Returns whether no member has to be sent again.
    fn put_messages(&mut self, messages: Vec<Message>, gave_up: bool) -> bool {
        if let Some(why) = self.refused_again(&messages) {
            for (&member, message) in self.part.iter().zip(messages) {
                self.members.settle(member, message.bytes, false);
            }
            self.recovery
                .refused_one_by_one(self.members, self.part, &why, self.now);
            return false;
        }
        self.ends.one_error = None;
        self.recovery.messages_came();
        let summary = self.members.put_messages(self.part, messages);
        if summary.is_settled() {
            self.recovery.progressed();
        }
        // Only a member that failed for good stops others: a round that achieved nothing ends it.
        if !summary.achieved && (summary.failed || !summary.is_retried()) {
            self.members.give_up(&summary.stopped, &Arc::default());
        }
        let smoothly =
            !summary.is_retried() && summary.stopped.is_empty() && summary.unknown.is_empty();
        self.recovery
            .messages_left(self.members, self.part, summary, gave_up, self.now);
        smoothly
    }

    /// Returns the one error for all members of the part before, if what cannot be smaller is refused by messages now.
    fn refused_again(&mut self, messages: &[Message]) -> Option<Arc<PartError>> {
        let one_error = self.ends.one_error.clone()?;
        // One that may have been executed, now or before, has another error than one for all that proves the contrary.
        let failed =
            |message: &Message| message.outcome == MemberOutcome::Failed && !message.maybe_executed;
        let alone = messages.iter().all(failed) && self.members.is_one_piece(self.part);
        let in_doubt = self.part.iter().any(|one| self.members.is_in_doubt(*one));
        (alone && !in_doubt).then_some(one_error)
    }

    /// A response speaks of its part as a whole.
    fn part_failed(
        mut self,
        response: Box<CollectedResponse>,
        failure: PartFailure,
        gave_up: bool,
    ) {
        if failure.outcome != PartOutcome::Unknown {
            self.recovery.response_came();
        }
        if failure.too_large {
            self.ends.sizes.shrink(self.part.len());
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
        let too_large = failure.too_large;
        let why = Arc::new(PartError {
            message: failure.message,
            code: failure.code,
            text: failure.text,
            maybe_executed,
            unsent: false,
        });
        self.ends.one_error = None;
        match failure.outcome {
            PartOutcome::Failed => {
                self.ends.one_error = Some(Arc::clone(&why)).filter(|why| why.message.is_some());
                self.recovery.add_final(candidate);
                self.narrow(&why, Retry::new(None).max_retries(0));
            }
            PartOutcome::FailedForAll => {
                self.recovery.add_final(candidate);
                self.members.reject(self.part, &why);
                self.recovery.stop(&why);
            }
            PartOutcome::Retry(retry) => {
                self.refused(&why, candidate, retry, too_large, gave_up);
            }
            PartOutcome::Unknown => {
                let again = Retry::new(None).max_retries(MAX_LOSS_RETRIES);
                self.outcome_unknown(&why, candidate, again);
            }
        }
    }

    /// All members are to be sent again.
    fn refused(
        mut self,
        why: &Arc<PartError>,
        candidate: Candidate,
        retry: Retry,
        too_large: bool,
        gave_up: bool,
    ) {
        if retry.maybe_executed {
            self.members.mark_maybe_executed(self.part);
        }
        self.recovery.add_retried(candidate);
        if gave_up {
            self.members.put_back(self.part, why);
            return self.recovery.give_up_all(self.members, self.part, false);
        }
        if retry.max_retries.is_some() {
            return self.narrow(why, retry);
        }
        if too_large {
            self.members.halve(self.part);
        }
        self.members.put_back(self.part, why);
        self.hold_or_give_up(retry.retry_after);
    }

    /// A part may have been executed. It is sent again in smaller parts if that does no harm.
    fn outcome_unknown(mut self, why: &Arc<PartError>, candidate: Candidate, again: Retry) {
        if self.members.batch.idempotency() != Idempotency::NonIdempotent {
            self.members.mark_maybe_executed(self.part);
            self.recovery.add_retried(candidate);
            if !self.members.only_reads() {
                self.recovery.be_careful();
            }
            return self.narrow(why, again);
        }
        self.recovery.add_final(candidate);
        self.members.settle_unknown(self.part, why);
        self.recovery
            .doubt(self.members, self.part.len(), &why.text, self.now);
    }

    fn narrow(&mut self, why: &Arc<PartError>, again: Retry) {
        self.recovery
            .narrow(self.members, self.part, why, again, self.now);
    }

    fn hold_or_give_up(&mut self, retry_after: Option<Duration>) {
        self.recovery
            .hold_or_give_up(self.members, self.part, retry_after, false, self.now);
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

/// The failure of a part whose response the format has read wrongly.
fn unreadable() -> PartFailure {
    PartFailure::new(
        PartOutcome::Unknown,
        "the response does not match the members that were sent",
    )
}
