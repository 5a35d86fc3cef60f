//! [`Polling`]: who is asked for its events now, by GetEvents, and what follows from the response. No I/O, no clock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::groups::Groups;
use super::member::{Member, State};
use super::members::Members;
use super::notification::SubscriptionError;
use super::step::{MemberId, Step};
use super::told::Told;
use crate::soap::notifications::StreamMessage;

/// The calls of GetEvents. There are none where connections tell the events.
#[derive(Debug)]
pub(super) struct Polling {
    /// How long after one call the next is made.
    every: Option<Duration>,
    /// Those that are to be asked now.
    due: VecDeque<MemberId>,
    max_calls: usize,
    /// Calls under way.
    calls: usize,
}

/// What a call has ended with.
pub(super) enum PollEnd {
    /// With events, perhaps none. The mailbox is asked again after this time.
    Events(StreamMessage, Duration),
    /// The subscription is gone.
    Gone,
    Failed(SubscriptionError),
}

impl Polling {
    pub(super) fn new(every: Option<Duration>, max_calls: usize) -> Self {
        Self {
            every,
            due: VecDeque::new(),
            max_calls,
            calls: 0,
        }
    }

    /// Whether events are asked for, so that no connection is made.
    pub(super) fn is_on(&self) -> bool {
        self.every.is_some()
    }

    /// Returns when a new subscription is first asked for its events: not all at once.
    pub(super) fn first_wait(&self, rng: &mut fastrand::Rng) -> Option<Duration> {
        self.every.map(|every| every.mul_f64(rng.f64()))
    }

    /// A mailbox is to be asked now.
    pub(super) fn push(&mut self, member: MemberId) {
        self.due.push_back(member);
    }

    /// Returns a call that is to be made now.
    pub(super) fn next(&mut self, members: &Members, groups: &Groups) -> Option<Step> {
        while self.calls < self.max_calls {
            let id = self.due.pop_front()?;
            if let Some(step) = poll(id, members.get(id)?, groups) {
                self.calls += 1;
                return Some(step);
            }
        }
        None
    }

    /// A call has ended.
    pub(super) fn call_ended(&mut self) {
        self.calls -= 1;
    }

    /// Takes in what a call that was made at the time `asked` has ended with.
    pub(super) fn take_in(
        &self,
        member: &mut Member,
        told: &mut Told,
        asked: Instant,
        result: Result<StreamMessage, SubscriptionError>,
        now: Instant,
    ) -> PollEnd {
        match result {
            Ok(mut message) => {
                member.failures = 0;
                member.losses = 0;
                told.gap(member, now);
                member.polled(asked, message.watermark.take());
                let wait = match message.more {
                    true => Duration::ZERO,
                    false => self.every.unwrap_or_default(),
                };
                PollEnd::Events(message, wait)
            }
            Err(error) if error.is_gone() => PollEnd::Gone,
            Err(error) => {
                if !matches!(error, SubscriptionError::Refused { .. }) {
                    member.miss();
                }
                // The timer of the next try finds it due.
                member.poll_at(now);
                PollEnd::Failed(error)
            }
        }
    }
}

/// The call that asks a mailbox for its events, if it still has a subscription.
fn poll(id: MemberId, member: &Member, groups: &Groups) -> Option<Step> {
    let State::Live {
        id: subscription,
        watermark,
        ..
    } = &member.state
    else {
        return None;
    };
    let group = member.group?;
    Some(Step::Poll {
        member: id,
        group,
        mailbox: Arc::clone(&member.mailbox),
        id: Arc::clone(subscription),
        watermark: watermark.clone(),
        route: groups.get(group)?.route.clone(),
    })
}
