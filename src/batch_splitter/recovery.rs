//! [`Recovery`]: what is done about members that were refused or lost: they are sent again, alone, in smaller parts or after a
//! wait, or they are given up, and perhaps the rest with them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::fallback::{Candidate, Fallback};
use super::format::{Batch, Order, Retry};
use super::members::{Members, MessageSummary};
use super::pacing::Pacing;
use super::plan::PartError;
use super::trouble::Trouble;
use crate::retry::MAX_LOSS_RETRIES;

/// How often a member that is refused for good is asked for again because all others are refused as well.
pub(super) const MAX_SPARED: u8 = 3;

/// How a batch goes on after what its parts came to so far.
pub(super) struct Recovery {
    pacing: Pacing,
    trouble: Trouble,
    fallback: Fallback,
    /// The part that has come back last.
    part: u32,
    /// Why the rest of the batch is not sent.
    stopped: Option<Arc<PartError>>,
}

/// What is sent next, and what ends the batch.
impl Recovery {
    pub(super) fn new(pacing: Pacing, fallback: Fallback) -> Self {
        Self {
            pacing,
            trouble: Trouble::default(),
            fallback,
            part: 0,
            stopped: None,
        }
    }

    /// Returns until when the next part is held back, or `None` if it may be sent.
    pub(super) fn held_until(&mut self, now: Instant) -> Option<Instant> {
        self.pacing.held_until(now)
    }

    /// Returns why nothing is sent any more, if that was found out.
    pub(super) fn stopped(&self) -> Option<Arc<PartError>> {
        self.stopped.clone()
    }

    /// Returns why there is no time left to send anything, if that is so.
    pub(super) fn is_over(&self, now: Instant) -> Option<&'static str> {
        self.pacing.is_over(now)
    }

    /// Returns whether the next part has to go alone.
    pub(super) fn wants_alone(&self) -> bool {
        self.trouble.wants_alone()
    }

    /// Returns whether the next part is to be as small as can be.
    pub(super) fn wants_small(&self) -> bool {
        self.trouble.wants_small()
    }

    /// Returns how many members a part may leave in doubt, if that was learnt.
    pub(super) fn max_in_doubt(&self) -> usize {
        self.trouble.max_in_doubt()
    }

    /// A part is sent. Returns how long it was held back, and when the call gives up if nothing achieves anything before.
    pub(super) fn part_sent(&mut self, now: Instant) -> (Duration, Option<Instant>) {
        self.trouble.part_sent();
        let held_back = self.pacing.part_sent(now);
        (held_back, self.pacing.end(now))
    }

    /// Whether a part gave messages, so that no failure ends the batch.
    pub(super) fn gave_messages(&self) -> bool {
        self.fallback.is_obsolete()
    }

    /// Returns the failure that ends the batch, if there is one.
    pub(super) fn take_failure(&mut self) -> Option<Candidate> {
        self.fallback.take()
    }

    /// Nothing is sent again any more.
    pub(super) fn end_retries(&mut self) {
        self.fallback.end_retries();
    }
}

/// What parts came to.
impl Recovery {
    pub(super) fn part_came_back(&mut self, part: u32) {
        self.part = part;
    }

    /// The server has responded to a part, whatever it said.
    pub(super) fn response_came(&mut self) {
        self.trouble.response_came();
    }

    /// The server has said something about single members.
    pub(super) fn messages_came(&mut self) {
        self.fallback.forget();
    }

    /// The server has settled members.
    pub(super) fn progressed(&mut self) {
        self.trouble.response_came();
        self.trouble.messages_came();
        self.trouble.members_settled();
        self.pacing.progressed();
    }

    /// Members that may have been executed are sent again.
    pub(super) fn be_careful(&mut self) {
        self.trouble.be_careful();
    }

    /// A failure of members that are sent again.
    pub(super) fn add_retried(&mut self, failure: Candidate) {
        self.fallback.retry(failure);
    }

    /// A failure of members that are not sent again.
    pub(super) fn add_final(&mut self, failure: Candidate) {
        self.fallback.conclude(failure);
    }

    /// Nothing more is sent. The server's message is for the members that it has seen.
    pub(super) fn stop(&mut self, why: &PartError) {
        self.stopped = Some(Arc::new(PartError {
            message: None,
            ..why.clone()
        }));
    }

    /// After one error for a whole part, a member alone was refused as well: it may be the error of all.
    pub(super) fn refused_one_by_one<B: Batch>(
        &mut self,
        members: &mut Members<B>,
        part: &[usize],
        why: &PartError,
        now: Instant,
    ) {
        let is_new_small = members.is_new_small(part);
        self.trouble.response_came();
        self.pacing.progressed();
        let again = Retry::new(None).max_retries(0);
        self.one_more_failed(members, is_new_small, true, again, alike(why), now);
    }

    /// Messages came that settle no member of a part for good, or not all of them. `gave_up` if a layer further in has used up
    /// the time of the call.
    pub(super) fn messages_left<B: Batch>(
        &mut self,
        members: &mut Members<B>,
        part: &[usize],
        mut summary: MessageSummary,
        gave_up: bool,
        now: Instant,
    ) {
        let is_new_small = members.is_new_small(part);
        if !summary.counted.is_empty() {
            if gave_up {
                summary.again.max_retries = Some(0);
            }
            let is_new = members.any_untried(&summary.counted);
            if !summary.is_settled() && is_new && summary.throttled.is_empty() {
                let text = "the server responds to every member alike";
                let why = PartError::not_executed(text);
                self.one_more_failed(members, is_new_small, true, summary.again, why, now);
            }
            self.retry_alone(members, &summary.counted, summary.again, now);
        }
        if gave_up {
            self.give_up_all(members, &summary.throttled, summary.achieved);
        } else if !summary.throttled.is_empty() {
            self.trouble.messages_came();
            self.throttled(members, &summary, now);
        }
        match summary.unknown.is_empty() || summary.is_settled() {
            true => self.trouble.response_came(),
            false => {
                let cause = "the server has left open what was executed";
                self.doubt(members, summary.unknown.len(), cause, now);
            }
        }
    }

    /// Holds all parts back if the server throttles members, or those alone that it throttles again while others wait.
    fn throttled<B: Batch>(
        &mut self,
        members: &mut Members<B>,
        summary: &MessageSummary,
        now: Instant,
    ) {
        let earlier = members.count_throttled(&summary.throttled);
        let others = members.plan.waiting().len() > summary.throttled.len();
        if earlier == 0 || !others || !self.trouble.settled_some() {
            return self.hold_or_give_up(
                members,
                &summary.throttled,
                summary.wait,
                summary.achieved,
                now,
            );
        }
        // Beside others that go through, it would hold them up.
        members.plan.defer(&summary.throttled);
        match self.pacing.retry_one_at(earlier, summary.wait, now) {
            Some(until) => members.hold(&summary.throttled, until),
            None => self.give_up_all(members, &summary.throttled, true),
        }
    }

    /// Members may have been executed that must not be executed twice. Nothing is sent for a while, then one small part.
    pub(super) fn doubt<B: Batch>(
        &mut self,
        members: &mut Members<B>,
        lost: usize,
        cause: &str,
        now: Instant,
    ) {
        let may_go_on = self.trouble.outcome_lost(lost);
        match self.pacing.after_loss(now).filter(|_| may_go_on) {
            Some(until) => self.hold_until(members, until, now),
            None => {
                let text = format!("the outcome of the parts before it was lost: {cause}");
                self.stop(&PartError::not_executed(text));
            }
        }
    }

    fn hold_until<B: Batch>(&mut self, members: &Members<B>, until: Instant, now: Instant) {
        if self.pacing.hold_until(until, now) {
            members.report.count_wait(now, until);
        }
    }

    /// One more part in a row failed. All parts are held back for a while, if it `holds` them, or the rest is not sent because
    /// of `why`.
    fn one_more_failed<B: Batch>(
        &mut self,
        members: &mut Members<B>,
        is_new_small: bool,
        holds: bool,
        again: Retry,
        why: PartError,
        now: Instant,
    ) {
        let max_retries = again.max_retries.unwrap_or(MAX_LOSS_RETRIES);
        let next_part = members.plan.parts();
        self.trouble
            .part_failed(self.part, next_part, is_new_small, now);
        let done = members.report.stats().done;
        if self.trouble.is_general(max_retries, done, now) {
            self.fallback.end_retries();
            return self.stop(&why);
        }
        if self.trouble.is_waited_for(max_retries, now) && holds {
            // Without time for the wait, the members that wait are given up one by one.
            if let Some(until) = self.pacing.retry_at(again.retry_after, now) {
                self.hold_until(members, until, now);
            }
        }
    }

    /// A part failed as a whole, perhaps because of one of its members: they are sent in smaller parts. What cannot be sent
    /// in a smaller one is tried again as often as `again` says.
    pub(super) fn narrow<B: Batch>(
        &mut self,
        members: &mut Members<B>,
        part: &[usize],
        why: &Arc<PartError>,
        again: Retry,
        now: Instant,
    ) {
        let is_new_small = members.is_new_small(part);
        members.plan.count_failure(part);
        members.put_back(part, why);
        let alone = members.is_one_piece(part);
        // Where the others can go on meanwhile, one that fails again and again says nothing about them.
        let goes_on = self.trouble.settled_some() && members.batch.order() == Order::Free;
        // One that was sent again by itself has a wait of its own.
        let holds = !(alone && !is_new_small && self.trouble.settled_some());
        if !alone || is_new_small || !goes_on {
            self.one_more_failed(members, is_new_small, holds, again, alike(why), now);
        }
        match alone {
            true => self.retry_alone(members, part, again, now),
            false => members.halve(part),
        }
    }

    /// Sends members that failed by themselves once more, after a wait of their own, or gives them up.
    fn retry_alone<B: Batch>(
        &mut self,
        members: &mut Members<B>,
        failed: &[usize],
        again: Retry,
        now: Instant,
    ) {
        let max_retries = match again.max_retries.unwrap_or(MAX_LOSS_RETRIES) {
            // Others have used up the time that such a failure is worth.
            max_retries if self.trouble.lasts(max_retries, now) => 0,
            max_retries => max_retries,
        };
        let mut given_up = Vec::new();
        let mut longest = None;
        let mut retried = Vec::new();
        for &member in failed {
            let Some(known) = members.plan.member(member) else {
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
                Some(until) => members.hold(&retried, until),
                None => given_up.append(&mut retried),
            }
        }
        if !given_up.is_empty() {
            self.fallback.end_retries();
            let why = PartError::not_executed("the server goes on to fail at it");
            members.give_up(&given_up, &Arc::new(why));
        }
    }

    /// Holds all parts back before these members are sent again, or gives them up.
    pub(super) fn hold_or_give_up<B: Batch>(
        &mut self,
        members: &mut Members<B>,
        refused: &[usize],
        retry_after: Option<Duration>,
        achieved: bool,
        now: Instant,
    ) {
        match self.pacing.retry_at(retry_after, now) {
            Some(until) => self.hold_until(members, until, now),
            None => self.give_up_all(members, refused, achieved),
        }
    }

    /// There is no time left for these members. If no others were `achieved`, neither is there for the rest.
    pub(super) fn give_up_all<B: Batch>(
        &mut self,
        members: &mut Members<B>,
        refused: &[usize],
        achieved: bool,
    ) {
        let why = "the server refuses the batch for longer than the call may wait";
        let why = Arc::new(PartError::not_executed(why));
        self.fallback.end_retries();
        // If some members were not refused, it is not known whether others would be.
        if achieved {
            members.give_up(refused, &why);
        } else {
            let waiting = members.plan.waiting();
            members.give_up(&waiting, &why);
        }
    }
}

/// Why the rest is not sent if this is what every part gets.
fn alike(why: &PartError) -> PartError {
    let text = format!("the server responds to every part alike: {}", why.text);
    PartError {
        code: why.code.clone(),
        ..PartError::not_executed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_told_what_every_part_got() {
        let why = PartError {
            code: Some("ErrorServerBusy".into()),
            text: "busy".into(),
            maybe_executed: true,
            ..PartError::default()
        };
        let rest = alike(&why);
        assert_eq!(rest.code.as_deref(), Some("ErrorServerBusy"));
        assert_eq!(&*rest.text, "the server responds to every part alike: busy");
        // It is sent no more, so it was not executed.
        assert!(!rest.maybe_executed);
    }
}
