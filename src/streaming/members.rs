//! [`Members`]: all mailboxes, and which of them a subscription belongs to.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::calls::Subscription;
use super::member::{Member, State};
use super::step::MemberId;

/// All mailboxes.
#[derive(Debug, Default)]
pub(super) struct Members {
    all: Vec<Member>,
    by_id: HashMap<Arc<str>, MemberId>,
    /// Mailboxes that are given up.
    lost: usize,
}

impl Members {
    /// Adds a mailbox.
    pub(super) fn add(&mut self, mailbox: Arc<str>, now: Instant) -> MemberId {
        self.all.push(Member::new(mailbox, now));
        self.all.len() - 1
    }

    pub(super) fn get(&self, member: MemberId) -> Option<&Member> {
        self.all.get(member)
    }

    pub(super) fn get_mut(&mut self, member: MemberId) -> Option<&mut Member> {
        self.all.get_mut(member)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.all.iter()
    }

    /// How many are not given up.
    pub(super) fn left(&self) -> usize {
        self.all.len() - self.lost
    }

    /// How many have a subscription.
    pub(super) fn subscribed(&self) -> usize {
        self.by_id.len()
    }

    /// The mailbox that a subscription belongs to.
    pub(super) fn find(&mut self, id: &str) -> Option<&mut Member> {
        self.all.get_mut(*self.by_id.get(id)?)
    }

    /// Which of these mailboxes the subscriptions belong to.
    pub(super) fn named(&self, ids: &[Box<str>], among: &[MemberId]) -> Vec<MemberId> {
        let named = ids.iter().filter_map(|id| self.by_id.get(&**id).copied());
        named.filter(|member| among.contains(member)).collect()
    }

    /// The ids of their subscriptions.
    pub(super) fn ids(&self, members: &[MemberId]) -> Vec<Arc<str>> {
        let ids = members.iter();
        ids.filter_map(|member| self.all.get(*member)?.id().cloned())
            .collect()
    }

    /// A mailbox has a subscription.
    pub(super) fn set_live(&mut self, member: MemberId, (id, watermark): Subscription) {
        let id: Arc<str> = id.into();
        self.by_id.insert(Arc::clone(&id), member);
        if let Some(member) = self.all.get_mut(member) {
            member.failures = 0;
            member.state = State::Live {
                id,
                connected: false,
                watermark,
                poll_at: None,
            };
        }
    }

    /// A mailbox has no subscription any more.
    pub(super) fn lose(&mut self, member: MemberId) {
        let lost = self.all.get_mut(member).and_then(Member::lose);
        if let Some(id) = lost {
            self.by_id.remove(&id);
        }
    }

    /// A mailbox is given up.
    pub(super) fn give_up(&mut self, member: MemberId) {
        self.lose(member);
        if let Some(member) = self.all.get_mut(member) {
            member.state = State::Lost;
            self.lost += 1;
        }
    }
}
