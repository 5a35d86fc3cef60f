//! What follows from what came back: who is settled, and who is sent again when.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use tower::BoxError;
use tower_service::Service;

use super::drive::{Ending, Job, Verdict};
use super::errors::{BatchError, describe};
use super::format::{
    Batch, BatchFormat, Explanation, Idempotency, MemberOutcome, Message, PartFailure, PartOutcome,
    PartResponse,
};
use super::merge::fits;
use super::part::{Answer, Outcome, Returned};
use super::plan::{Last, PartError};
use crate::body::ReplayBody;
use crate::body::rope::Rope;

/// How often a part that cannot be made smaller is tried.
const ALONE: u8 = 3;

/// How a part that has no messages goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Halve {
    /// At the same size.
    No,
    /// In smaller parts.
    Yes,
}

impl<S, F, B> Job<S, F>
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    F: BatchFormat,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// A part has come back.
    pub(super) fn returned(&mut self, returned: Returned) {
        let Returned {
            members,
            outcome,
            slot,
            began,
        } = returned;
        self.ticket = self.ticket.or_else(|| slot.ticket());
        // Without the time that it was held back.
        let since = slot.since().map_or(began, |since| since.max(began));
        let took = since.elapsed();
        match outcome {
            Outcome::Answered(answer) => self.answered(&members, answer, took),
            Outcome::NotSent(error) => {
                let why = suffered(&error, false);
                self.refused(Verdict::error(error, false));
                self.part_again(&members, why, None, Halve::No);
            }
            Outcome::Unsendable(error) => {
                let why = suffered(&error, false);
                self.offer(Verdict::error(error, false));
                self.refuse(&members, &why);
            }
            Outcome::Lost(error) => {
                let (shared, key) = (self.shared(), &self.key);
                shared.sizing.lost(key, &shared.config, members.len(), took);
                let why = suffered(&error, true);
                self.lost(&members, why, Verdict::error(error, true));
            }
            Outcome::Failed(error) => {
                let why = suffered(&error, true);
                self.offer(Verdict::error(error, true));
                self.unknown(&members, &why);
            }
            Outcome::TooLong => {
                let most = self.shared().config.max_response;
                let error = BatchError::AnswerTooLong { most }.into();
                let why = suffered(&error, true);
                self.too_large(members.len());
                self.lost(&members, why, Verdict::error(error, true));
            }
        }
    }

    fn answered(&mut self, members: &[usize], answer: Box<Answer>, took: Duration) {
        let read = self
            .batch
            .answer(members, &answer.head, answer.body.clone());
        let (smoothly, whole) = match read {
            PartResponse::Messages { frame, messages } if fits(members, &messages) => {
                if self.merge.is_messages(&answer.head, frame) {
                    let smoothly = self.messages(members, messages);
                    (smoothly, None)
                } else {
                    (false, Some(unreadable()))
                }
            }
            PartResponse::Messages { .. } => (false, Some(unreadable())),
            PartResponse::Lists { frame, lists } => {
                let first = members.first().copied().unwrap_or_default();
                if self.merge.put_lists(&answer.head, first, frame, lists) {
                    for member in members {
                        if self.plan.settle(*member, true) {
                            self.report.answered(true);
                        }
                    }
                    self.progressed();
                    (true, None)
                } else {
                    (false, Some(unreadable()))
                }
            }
            PartResponse::Whole(whole) => (false, Some(whole)),
        };
        match whole {
            None => {
                let (shared, key) = (self.shared(), &self.key);
                let config = &shared.config;
                let sizing = &shared.sizing;
                sizing.answered(key, config, members.len(), took, smoothly);
            }
            Some(whole) => self.whole(members, answer, whole),
        }
    }

    /// Says whether no member was refused.
    fn messages(&mut self, members: &[usize], messages: Vec<Message>) -> bool {
        // Nothing of it can be the answer any more.
        self.verdict = None;
        self.refusal = None;
        let any = |of: &[bool]| of.contains(&true);
        let done: Vec<bool> = messages
            .iter()
            .map(|m| m.fate == MemberOutcome::Done)
            .collect();
        let failed: Vec<bool> = messages
            .iter()
            .map(|m| m.fate == MemberOutcome::Failed)
            .collect();
        let hints: Vec<Option<Duration>> = messages
            .iter()
            .filter_map(|message| match message.fate {
                MemberOutcome::Again { hint } | MemberOutcome::Repeat { hint } => Some(hint),
                _ => None,
            })
            .collect();
        let achieved = any(&done);
        if achieved || any(&failed) {
            self.progressed();
        }
        // Only a member that failed for good stops others: a round that achieved nothing ends it.
        let stopped_again = achieved || !any(&failed) && !hints.is_empty();
        let mut again = Vec::new();
        let mut stopped = Vec::new();
        for (&member, message) in members.iter().zip(messages) {
            match message.fate {
                MemberOutcome::Done => self.settle(member, message.bytes, true),
                MemberOutcome::Failed => self.settle(member, message.bytes, false),
                MemberOutcome::Again { .. } | MemberOutcome::Repeat { .. } => {
                    if let (MemberOutcome::Repeat { .. }, Some(known)) =
                        (message.fate, self.plan.member(member))
                    {
                        known.maybe = true;
                    }
                    self.plan.again(member, Last::Message(message.bytes));
                    again.push(member);
                }
                MemberOutcome::Stopped => {
                    self.plan.again(member, Last::Message(message.bytes));
                    stopped.push(member);
                }
            }
        }
        let smoothly = again.is_empty() && stopped.is_empty();
        if !stopped_again {
            self.give_up(&stopped, &Arc::default());
        }
        if !again.is_empty() {
            let hint = hints.into_iter().flatten().max();
            self.wait(&again, hint, achieved);
        }
        smoothly
    }

    fn whole(&mut self, members: &[usize], answer: Box<Answer>, whole: PartFailure) {
        let (fate, too_large) = (whole.fate, whole.too_large);
        if too_large {
            self.too_large(members.len());
        }
        let why = Arc::new(PartError {
            message: whole.message,
            code: whole.code,
            text: whole.text,
            unknown: matches!(fate, PartOutcome::Unknown | PartOutcome::Repeat { .. }),
        });
        let looks_good = answer.head.status.is_success() && why.code.is_none();
        let verdict = |unknown| Verdict {
            ending: Ending::PartFailure(answer),
            unknown,
            looks_good,
        };
        match fate {
            PartOutcome::Failed => {
                self.offer(verdict(false));
                self.progressed();
                self.refuse(members, &why);
            }
            PartOutcome::FailedForAll => {
                self.offer(verdict(false));
                self.refuse(members, &why);
                // The server's message is for those that it has seen.
                self.stopped = Some(Arc::new(PartError {
                    message: None,
                    ..PartError::clone(&why)
                }));
            }
            PartOutcome::Again { hint } | PartOutcome::Repeat { hint } => {
                let maybe = matches!(fate, PartOutcome::Repeat { .. });
                if maybe {
                    self.in_doubt(members);
                }
                self.refused(verdict(maybe));
                let halve = match too_large {
                    true => Halve::Yes,
                    false => Halve::No,
                };
                self.part_again(members, why, hint, halve);
            }
            PartOutcome::Unknown => self.lost(members, why, verdict(true)),
        }
    }

    /// A part may have been executed.
    fn lost(&mut self, members: &[usize], why: Arc<PartError>, verdict: Verdict) {
        if self.batch.idempotency() == Idempotency::NonIdempotent {
            self.offer(verdict);
            self.unknown(members, &why);
            return;
        }
        self.in_doubt(members);
        self.refused(verdict);
        self.part_again(members, why, None, Halve::Yes);
    }

    /// These members are sent again, although they may have been executed.
    fn in_doubt(&mut self, members: &[usize]) {
        for &member in members {
            if let Some(member) = self.plan.member(member) {
                member.maybe = true;
            }
        }
    }

    /// A part is sent again, if there is time for it.
    fn part_again(
        &mut self,
        members: &[usize],
        why: Arc<PartError>,
        hint: Option<Duration>,
        halve: Halve,
    ) {
        let mut worn_out = false;
        if halve == Halve::Yes {
            let one_piece = self.plan.is_one_piece(&self.batch, members);
            for &member in members {
                if let Some(member) = self.plan.member(member) {
                    member.cap = (members.len() / 2).max(1);
                    member.alone += u8::from(one_piece);
                    worn_out |= member.alone >= ALONE;
                }
            }
        }
        if worn_out {
            self.last_refusal();
            self.refuse(members, &why);
            return;
        }
        for &member in members {
            self.plan.again(member, Last::Part(Arc::clone(&why)));
        }
        self.wait(members, hint, false);
    }

    /// Waits before these members are sent again, or gives them up.
    fn wait(&mut self, members: &[usize], hint: Option<Duration>, achieved: bool) {
        let hint = hint.filter(|hint| !hint.is_zero());
        let wait = hint.unwrap_or_else(|| {
            let backoff = self.shared().config.backoff;
            let earlier = self.hintless;
            self.hintless = self.hintless.saturating_add(1);
            backoff.wait(earlier, &mut self.rng)
        });
        if let Some(until) = self.in_time(wait) {
            self.pause_until(until);
            return;
        }
        let why = PartError {
            text: "the server refuses the batch for longer than the call may wait".into(),
            ..PartError::default()
        };
        self.last_refusal();
        // Whether others would be refused, too, is not known if some were not.
        if achieved {
            self.give_up(members, &Arc::new(why));
        } else {
            let waiting = self.plan.waiting();
            self.give_up(&waiting, &Arc::new(why));
        }
    }

    fn progressed(&mut self) {
        self.stalled = None;
        self.hintless = 0;
    }

    fn too_large(&self, members: usize) {
        let (shared, key) = (self.shared(), &self.key);
        shared.sizing.too_large(key, &shared.config, members);
    }

    /// The answer is this, if no part gives messages and nothing says more.
    fn offer(&mut self, verdict: Verdict) {
        if self.merge.streams() {
            return;
        }
        let doubtful = self.batch.idempotency() != Idempotency::Safe;
        // Of an outcome that is unknown, nothing else may be said.
        let lost = self.refusal.take_if(|refusal| doubtful && refusal.unknown);
        for verdict in lost.into_iter().chain([verdict]) {
            match &self.verdict {
                Some(known) if known.unknown || !verdict.unknown || !doubtful => {}
                _ => self.verdict = Some(verdict),
            }
        }
    }

    fn refused(&mut self, verdict: Verdict) {
        let doubtful = self.batch.idempotency() != Idempotency::Safe;
        match &self.refusal {
            Some(known) if doubtful && known.unknown && !verdict.unknown => {}
            _ => self.refusal = Some(verdict),
        }
    }

    /// The last refusal becomes final.
    pub(super) fn last_refusal(&mut self) {
        if let Some(verdict) = self.refusal.take() {
            self.offer(verdict);
        }
    }

    fn settle(&mut self, member: usize, message: Rope, done: bool) {
        if self.plan.settle(member, done) {
            self.report.answered(done);
            self.merge.put(member, Some(message));
        }
    }

    /// These members may have been executed, and nothing more will be known.
    fn unknown(&mut self, members: &[usize], why: &PartError) {
        for &member in members {
            self.settle_unknown(member, why);
        }
    }

    fn settle_unknown(&mut self, member: usize, why: &PartError) {
        if self.plan.settle(member, false) {
            self.say_unknown(member, why);
        }
    }

    fn say_unknown(&mut self, member: usize, why: &PartError) {
        let cause = &*why.text;
        let explained = Explanation::OutcomeUnknown { cause };
        let message = self.batch.explain(member, &explained);
        self.report.unknown();
        self.report.because(cause);
        self.merge
            .put(member, message.or_else(|| why.message.clone()));
    }

    /// A member that it needs did not succeed: the plan does not send it any more.
    pub(super) fn doomed(&mut self, member: usize, need: usize) {
        let doubtful = self.batch.idempotency() != Idempotency::Safe;
        let known = self.plan.member(member);
        if doubtful && known.is_some_and(|known| known.maybe) {
            let text = "its answer was lost, and a member that it needs did not succeed".into();
            let why = PartError {
                text,
                ..PartError::default()
            };
            self.say_unknown(member, &why);
            return;
        }
        let why = Explanation::DependencyFailed { member: need };
        let message = self.batch.explain(member, &why);
        self.report.not_executed();
        self.report.because("a member that it needs failed");
        self.merge.put(member, message);
    }

    /// These members came back, and are not sent again because of `why`.
    fn refuse(&mut self, members: &[usize], why: &Arc<PartError>) {
        for &member in members {
            if let Some(member) = self.plan.member(member) {
                member.last = None;
            }
        }
        self.give_up(members, why);
    }

    /// These members are not sent (again). They keep what was said to them last; `why` is for the others. Says how many
    /// there were.
    pub(super) fn give_up(&mut self, members: &[usize], why: &Arc<PartError>) -> usize {
        let doubtful = self.batch.idempotency() != Idempotency::Safe;
        for &member in members {
            let Some(known) = self.plan.member(member) else {
                continue;
            };
            let maybe = known.maybe && doubtful;
            let why = match known.last.take() {
                Some(Last::Message(message)) if !maybe => {
                    self.report.not_executed();
                    self.settle(member, message, false);
                    continue;
                }
                Some(Last::Part(last)) => last,
                _ => Arc::clone(why),
            };
            if maybe || why.unknown {
                self.settle_unknown(member, &why);
            } else if self.plan.settle(member, false) {
                let (code, cause) = (why.code.as_deref(), &*why.text);
                let message = why.message.clone().or_else(|| {
                    self.batch
                        .explain(member, &Explanation::NotExecuted { code, cause })
                });
                self.report.not_executed();
                self.report.because(cause);
                self.merge.put(member, message);
            }
        }
        members.len()
    }
}

impl Verdict {
    fn error(error: BoxError, unknown: bool) -> Self {
        Self {
            ending: Ending::Error(error),
            unknown,
            looks_good: false,
        }
    }
}

fn suffered(error: &BoxError, unknown: bool) -> Arc<PartError> {
    Arc::new(PartError {
        text: describe(error),
        unknown,
        ..PartError::default()
    })
}

/// What an answer means that the format should not have read like this.
fn unreadable() -> PartFailure {
    PartFailure {
        fate: PartOutcome::Unknown,
        too_large: false,
        message: None,
        code: None,
        text: "the answer does not fit to what was sent".into(),
    }
}
