//! What follows an attempt that did not succeed: its error, its refusal, or a mailbox that has moved.

use std::error::Error as StdError;
use std::iter;

use bytes::Bytes;
use http::response;
use http_body::Body;
use tokio::time::Instant;
use tower::BoxError;

use super::super::attempt::Attempt;
use super::super::classify::Classify;
use super::super::decide::{FailurePhase, HeldBy, Wait};
use super::super::examine::{RefusedResponse, keep};
use super::super::moved::MailboxMoved;
use super::super::peek::{Prefix, Rest, Scan};
use super::{Call, CallResult};
use crate::errors::{AccessDenied, CredentialsError, DeadlineElapsed, JournalError, NoAccount};
use crate::extensions::Deadline;
use crate::ledger::AcquireError;
use crate::retry::{Failure, needs_a_person};

impl<S, C, B> Call<S, C, B>
where
    C: Classify<B>,
    B: Clone,
{
    /// Decides what follows an error.
    pub(super) fn after_failure<ResB>(
        &mut self,
        attempt: Attempt,
        error: BoxError,
        phase: FailurePhase,
    ) -> Result<Wait, CallResult<ResB>>
    where
        ResB: Body<Data = Bytes>,
        ResB::Error: Into<BoxError>,
    {
        if matches!(phase, FailurePhase::Ready | FailurePhase::Call) {
            if is_not_tried_again(&*error) {
                self.state.take_back_retry();
                attempt.record_end();
                let ending = self.state.after_no_credentials();
                return Err(self.end(ending, error));
            }
            if says::<AcquireError>(&*error) || says::<DeadlineElapsed>(&*error) {
                self.state.take_back_retry();
                attempt.record_end();
                return Err(self.not_admitted(error));
            }
        }
        if phase == FailurePhase::Deadline {
            let ending = self.state.after_no_response();
            attempt.record_signal(self.state.signal());
            attempt.record_end();
            return Err(self.end(ending, error));
        }
        let failure = self.request.classifier().error(self.state.class(), &*error);
        attempt.record_signal(phase.signal(failure));
        attempt.record_end();
        let retry = self.request.retry();
        let drawn = self.waits().drawn.max(retry.wait(Instant::now()));
        let decided = self
            .state
            .after_failure(failure, phase, drawn, Instant::now());
        // One or two can be connections that were closed just then.
        if decided.is_ok() && failure == Failure::NotSent && self.state.attempt_count() > 2 {
            let operation = &self.state.class().operation;
            self.request.config().warnings.not_sent(operation, &*error);
        }
        if decided.is_ok() {
            retry.take(Instant::now());
        }
        decided.map_err(|ending| self.end(ending, error))
    }

    /// Decides what follows a refusal, and keeps it if the request is sent again: then nothing of the attempt is held any
    /// more, its permit least of all.
    pub(super) async fn after_refusal<ResB>(
        &mut self,
        mut attempt: Attempt,
        mut head: response::Parts,
        mut refused: RefusedResponse<ResB>,
    ) -> Result<Wait, CallResult<ResB>>
    where
        ResB: Body<Data = Bytes>,
        ResB::Error: Into<BoxError>,
    {
        // The refusal was reported, so the next call at the gate knows it.
        attempt.refused();
        attempt.record_signal(Some(&refused.refusal.reason));
        if refused.refusal.about_caller && self.request.was_granted(self.state.class()) {
            refused.refusal.max_retries = Some(1);
        }
        if let Some(moved) = self.request.moved(&refused.refusal) {
            if self.request.can_move() && self.state.may_move(&refused.refusal, Instant::now()) {
                return self.after_move(attempt, head, refused, moved).await;
            }
            head.extensions.insert(moved);
        }
        let RefusedResponse {
            refusal,
            prefix,
            rest,
            classifier,
            reporter,
        } = refused;
        let (held_by, mut waits) = (reporter.held_by(&refusal), reporter.waits());
        let is_held = held_by != HeldBy::Nobody || refusal.server_wait().is_some();
        let retry = (!is_held).then(|| self.request.retry());
        if let Some(retry) = &retry {
            let now = Instant::now();
            // Reading the refusal took time, too.
            waits.drawn = self.state.cut(waits.drawn, now).max(retry.wait(now));
        }
        let decided = self
            .state
            .after_refusal(&refusal, held_by, waits, Instant::now());
        match decided {
            Ok(wait) => {
                if let Some(retry) = retry {
                    retry.take(Instant::now());
                }
                self.keep(head, prefix, rest).await;
                attempt.record_end();
                Ok(wait)
            }
            Err(info) => {
                let scan = classifier.map(|classifier| Scan {
                    classifier,
                    reporter,
                });
                Err(Ok(self.hand_on(head, prefix, rest, scan, Some(info))))
            }
        }
    }

    /// Asks the caller where the mailbox is, and decides what follows. Nothing of the attempt is held meanwhile.
    async fn after_move<ResB>(
        &mut self,
        attempt: Attempt,
        mut head: response::Parts,
        refused: RefusedResponse<ResB>,
        moved: MailboxMoved,
    ) -> Result<Wait, CallResult<ResB>>
    where
        ResB: Body<Data = Bytes>,
        ResB::Error: Into<BoxError>,
    {
        let RefusedResponse {
            refusal,
            prefix,
            rest,
            reporter,
            ..
        } = refused;
        head.extensions.insert(moved.clone());
        self.keep(head, prefix, rest).await;
        attempt.record_end();
        if self.request.move_on(moved.clone()).await {
            return Ok(self.state.after_move(&refusal, Instant::now()));
        }
        let (held_by, waits) = (reporter.held_by(&refusal), reporter.waits());
        let decided = self
            .state
            .after_refusal(&refusal, held_by, waits, Instant::now());
        match (decided, self.kept.take()) {
            (Ok(wait), kept) => {
                self.kept = kept;
                Ok(wait)
            }
            (Err(info), Some(kept)) => {
                let (head, prefix) = *kept;
                Err(Ok(self.hand_on(
                    head,
                    prefix,
                    Rest::Ended,
                    None,
                    Some(info),
                )))
            }
            // What the server said was too long to be kept.
            (Err(_), None) => Err(Err(moved.into())),
        }
    }

    /// Keeps a refusal, to be the response if nothing better comes, and gives back what it holds.
    async fn keep<ResB>(&mut self, head: response::Parts, prefix: Prefix, rest: Rest<ResB>)
    where
        ResB: Body<Data = Bytes>,
    {
        let max_buffered = self.request.config().read_limits.max_buffered;
        let deadline = Deadline(self.state.deadline());
        let kept = keep(head, prefix, rest, max_buffered, deadline).await;
        self.kept = kept.map(Box::new);
    }
}

/// Whether something further in could not send the request and knows best when it can, or nothing can before a person acts.
fn is_not_tried_again(error: &(dyn StdError + 'static)) -> bool {
    says::<CredentialsError>(error)
        || says::<AccessDenied>(error)
        || says::<NoAccount>(error)
        || says::<JournalError>(error)
        || needs_a_person(error)
}

/// Whether the error, or one of its sources, is of that type: something further in says that the request was not sent.
fn says<E: StdError + 'static>(error: &(dyn StdError + 'static)) -> bool {
    iter::successors(Some(error), |&error| error.source()).any(|error| error.is::<E>())
}
