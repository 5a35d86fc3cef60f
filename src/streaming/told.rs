//! [`Told`]: the notifications that are to be taken, and who waits for room at the server.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::member::Member;
use super::notification::{Notification, SubscriptionError};
use crate::principal::Budget;
use crate::soap::notifications::ItemEvent;

/// What is told.
#[derive(Debug, Default)]
pub(super) struct Told {
    queue: VecDeque<Notification>,
    /// Mailboxes for whose subscription the server had no room.
    starving: usize,
}

impl Told {
    pub(super) fn take(&mut self) -> Option<Notification> {
        let next = self.queue.pop_front();
        if self.queue.is_empty() {
            // A message can have thousands of events. What they took is given back.
            self.queue.shrink_to(64);
        }
        next
    }

    /// Tells the gap of a member, if it owes one.
    pub(super) fn gap(&mut self, member: &mut Member, now: Instant) {
        if let Some(since) = member.gap(now) {
            let mailbox = Arc::clone(&member.mailbox);
            self.queue.push_back(Notification::Gap { mailbox, since });
        }
    }

    pub(super) fn events(&mut self, member: &Member, events: Vec<ItemEvent>) {
        let items = events.into_iter().map(|event| Notification::Item {
            mailbox: Arc::clone(&member.mailbox),
            event,
        });
        self.queue.extend(items);
    }

    pub(super) fn lost(&mut self, member: &mut Member, error: SubscriptionError) {
        self.has_room(member);
        let mailbox = Arc::clone(&member.mailbox);
        self.queue.push_back(Notification::Lost { mailbox, error });
    }

    pub(super) fn starved(&mut self, budget: Budget) {
        self.queue.push_back(Notification::Starved { budget });
    }

    /// A mailbox waits for room: the first one is told.
    pub(super) fn starves(&mut self, member: &mut Member, budget: Budget) {
        if !std::mem::replace(&mut member.starved, true) {
            self.starving += 1;
            if self.starving == 1 {
                self.starved(budget);
            }
        }
    }

    /// A mailbox is not listened to any more: nothing is told of it.
    pub(super) fn forget(&mut self, member: &mut Member) {
        self.has_room(member);
        self.queue.retain(|told| {
            !told
                .mailbox()
                .is_some_and(|of| Arc::ptr_eq(of, &member.mailbox))
        });
    }

    /// A mailbox waits for room no longer.
    pub(super) fn has_room(&mut self, member: &mut Member) {
        self.starving -= usize::from(std::mem::take(&mut member.starved));
    }
}
