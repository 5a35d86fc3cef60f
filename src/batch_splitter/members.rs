//! [`Members`]: the members of one batch, what the server has said to each, and what they end with.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::format::{Batch, Explanation, Idempotency, MemberOutcome, Message, Retry};
use super::merge::Merge;
use super::plan::{LastError, PartError, Plan};
use super::stats::BatchReport;
use crate::body::rope::Rope;

/// The members of one batch: where each of them is, and the response that is made of their messages.
pub(super) struct Members<B> {
    pub(super) batch: B,
    pub(super) plan: Plan,
    pub(super) merge: Merge,
    pub(super) report: BatchReport,
}

/// What the messages of one response came to.
#[derive(Debug)]
pub(super) struct MessageSummary {
    /// Some member was done.
    pub(super) achieved: bool,
    /// Some member failed for good.
    pub(super) failed: bool,
    pub(super) throttled: Vec<usize>,
    /// How long the server asks to wait for these.
    pub(super) wait: Option<Duration>,
    /// Members that are tried a number of times.
    pub(super) counted: Vec<usize>,
    pub(super) again: Retry,
    pub(super) unknown: Vec<usize>,
    /// Not begun, because of another member.
    pub(super) stopped: Vec<usize>,
}

impl MessageSummary {
    /// Whether the server has settled a member.
    pub(super) fn is_settled(&self) -> bool {
        self.achieved || self.failed
    }

    pub(super) fn is_retried(&self) -> bool {
        !self.throttled.is_empty() || !self.counted.is_empty()
    }
}

impl<B: Batch> Members<B> {
    pub(super) fn new(batch: B) -> Self {
        let members = batch.members();
        Self {
            plan: Plan::new(&batch),
            merge: Merge::new(members, batch.separator()),
            report: BatchReport::new(members),
            batch,
        }
    }

    /// Whether the batch only reads. Its response is handed out while its parts come in.
    pub(super) fn only_reads(&self) -> bool {
        self.batch.idempotency() == Idempotency::Safe
    }

    /// A batch that only reads does no harm if it is executed twice: nobody has to know.
    pub(super) fn is_in_doubt(&mut self, member: usize) -> bool {
        let doubt_matters = !self.only_reads();
        let known = self.plan.member(member);
        doubt_matters && known.is_some_and(|known| known.maybe_executed)
    }

    /// Settles the members that are done or failed, and puts the others back.
    pub(super) fn put_messages(
        &mut self,
        members: &[usize],
        messages: Vec<Message>,
    ) -> MessageSummary {
        let mut summary = MessageSummary {
            achieved: false,
            failed: false,
            throttled: Vec::new(),
            wait: None,
            counted: Vec::new(),
            again: Retry::new(None).max_retries(0),
            unknown: Vec::new(),
            stopped: Vec::new(),
        };
        for (&member, message) in members.iter().zip(messages) {
            let Message {
                bytes,
                outcome,
                maybe_executed,
            } = message;
            match outcome {
                MemberOutcome::Done => {
                    summary.achieved = true;
                    self.settle(member, bytes, true);
                }
                MemberOutcome::Failed => {
                    summary.failed = true;
                    // It makes no difference to a read.
                    if maybe_executed && !self.only_reads() {
                        self.report.count_unknown();
                    }
                    self.settle(member, bytes, false);
                }
                MemberOutcome::Unknown => {
                    self.report.count_unknown();
                    self.settle(member, bytes, false);
                    summary.unknown.push(member);
                }
                MemberOutcome::Stopped => {
                    self.plan.send_again(member, LastError::Message(bytes));
                    summary.stopped.push(member);
                }
                MemberOutcome::Retry(retry) => {
                    self.retry(member, bytes, retry, &mut summary);
                }
            }
        }
        summary
    }

    fn retry(&mut self, member: usize, message: Rope, retry: Retry, summary: &mut MessageSummary) {
        if retry.maybe_executed {
            self.mark_maybe_executed(&[member]);
        }
        self.plan.send_again(member, LastError::Message(message));
        if retry.max_retries.is_some() {
            summary.again.retry_after = summary.again.retry_after.max(retry.retry_after);
            summary.again.max_retries = summary.again.max_retries.max(retry.max_retries);
            summary.counted.push(member);
        } else {
            summary.wait = summary.wait.max(retry.retry_after);
            summary.throttled.push(member);
        }
    }

    /// Whether one of these never failed by itself.
    pub(super) fn any_untried(&mut self, members: &[usize]) -> bool {
        members.iter().any(|member| {
            let known = self.plan.member(*member);
            known.is_some_and(|known| known.tries == 0)
        })
    }

    /// Counts that the server throttles these members. Returns how often it has throttled each of them before, at least.
    pub(super) fn count_throttled(&mut self, members: &[usize]) -> u32 {
        let mut least = u32::MAX;
        for &member in members {
            if let Some(known) = self.plan.member(member) {
                least = least.min(known.throttled);
                known.throttled = known.throttled.saturating_add(1);
            }
        }
        least
    }

    /// The server's message is the member's.
    pub(super) fn settle(&mut self, member: usize, message: Rope, done: bool) {
        if self.plan.settle(member, done) {
            if done {
                self.report.count_done();
            }
            self.merge.put(member, Some(message));
        }
    }

    /// These members may have been executed, and nothing more will be known.
    pub(super) fn settle_unknown(&mut self, members: &[usize], why: &PartError) {
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
    pub(super) fn settle_blocked(&mut self, member: usize, need: usize) {
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

    /// Does not send these members again because of `why`, whatever was said to them earlier.
    pub(super) fn reject(&mut self, members: &[usize], why: &Arc<PartError>) {
        for &member in members {
            if let Some(known) = self.plan.member(member) {
                known.last_error = None;
            }
        }
        self.give_up(members, why);
    }

    /// Does not send these members (again). They keep their last error; `why` is for those that have none.
    pub(super) fn give_up(&mut self, members: &[usize], why: &Arc<PartError>) {
        let doubt_matters = !self.only_reads();
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
            if in_doubt || doubt_matters && why.maybe_executed {
                self.settle_unknown(&[member], &why);
            } else {
                self.settle_not_executed(member, &why);
            }
        }
    }

    /// Settles members that are done, but have no messages of their own.
    pub(super) fn settle_without_message(&mut self, members: &[usize]) {
        for &member in members {
            if self.plan.settle(member, true) {
                self.report.count_done();
            }
        }
    }

    /// Whether these members cannot be sent in smaller parts.
    pub(super) fn is_one_piece(&self, part: &[usize]) -> bool {
        self.plan.is_one_piece(&self.batch, part)
    }

    /// Whether a part cannot be smaller, and has not come back before.
    pub(super) fn is_new_small(&mut self, part: &[usize]) -> bool {
        if !self.is_one_piece(part) {
            return false;
        }
        let first = part.first().and_then(|member| self.plan.member(*member));
        first.is_some_and(|first| !std::mem::replace(&mut first.was_alone, true))
    }

    /// These members are not sent before this time.
    pub(super) fn hold(&mut self, members: &[usize], until: Instant) {
        for member in members {
            self.plan.hold(*member, until);
        }
    }

    /// Puts the members of a part back among those that wait. What the server has said to them counts more than that it was
    /// not asked again.
    pub(super) fn put_back(&mut self, members: &[usize], why: &Arc<PartError>) {
        for &member in members {
            let known = self.plan.member(member);
            let earlier = known.and_then(|known| known.last_error.take());
            let error = match earlier {
                Some(earlier) if why.unsent => earlier,
                _ => LastError::Part(Arc::clone(why)),
            };
            self.plan.send_again(member, error);
        }
    }

    /// Sends these members in parts of at most half the size.
    pub(super) fn halve(&mut self, members: &[usize]) {
        for &member in members {
            if let Some(known) = self.plan.member(member) {
                known.cap = (members.len() / 2).max(1);
            }
        }
    }

    /// These members may have been executed, and are sent again.
    pub(super) fn mark_maybe_executed(&mut self, members: &[usize]) {
        for &member in members {
            if let Some(known) = self.plan.member(member) {
                known.maybe_executed = true;
            }
        }
    }
}
