//! [`Members`]: all mailboxes, and which of them a subscription belongs to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use tokio::time::Instant;

use super::calls::Subscription;
use super::member::{Member, State};
use super::step::MemberId;

/// All mailboxes.
#[derive(Debug, Default)]
pub(super) struct Members {
    all: HashMap<MemberId, Member>,
    /// By their addresses in small letters.
    by_name: HashMap<Box<str>, MemberId>,
    /// By their subscriptions.
    by_id: HashMap<Arc<str>, MemberId>,
    added: MemberId,
}

impl Members {
    /// Adds a mailbox, unless it is there.
    pub(super) fn add(&mut self, mailbox: Arc<str>, now: Instant) -> Option<MemberId> {
        let Entry::Vacant(name) = self.by_name.entry(name_of(&mailbox)) else {
            return None;
        };
        self.added += 1;
        name.insert(self.added);
        self.all.insert(self.added, Member::new(mailbox, now));
        Some(self.added)
    }

    /// The mailbox with that address.
    pub(super) fn named(&self, mailbox: &str) -> Option<MemberId> {
        self.by_name.get(&name_of(mailbox)).copied()
    }

    /// Takes a mailbox out.
    pub(super) fn remove(&mut self, member: MemberId) -> Option<Member> {
        let removed = self.all.remove(&member)?;
        self.by_name.remove(&name_of(&removed.mailbox));
        if let Some(id) = removed.id() {
            self.by_id.remove(id);
        }
        Some(removed)
    }

    pub(super) fn get(&self, member: MemberId) -> Option<&Member> {
        self.all.get(&member)
    }

    pub(super) fn get_mut(&mut self, member: MemberId) -> Option<&mut Member> {
        self.all.get_mut(&member)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.all.values()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// How many have a subscription.
    pub(super) fn subscribed(&self) -> usize {
        self.by_id.len()
    }

    /// The mailbox that a subscription belongs to.
    pub(super) fn find(&mut self, id: &str) -> Option<&mut Member> {
        self.all.get_mut(self.by_id.get(id)?)
    }

    /// Which of these mailboxes the subscriptions belong to.
    pub(super) fn with_ids(&self, ids: &[Box<str>], among: &[MemberId]) -> Vec<MemberId> {
        let named = ids.iter().filter_map(|id| self.by_id.get(&**id).copied());
        named.filter(|member| among.contains(member)).collect()
    }

    /// The ids of their subscriptions.
    pub(super) fn ids(&self, members: &[MemberId]) -> Vec<Arc<str>> {
        let ids = members.iter();
        ids.filter_map(|member| self.all.get(member)?.id().cloned())
            .collect()
    }

    /// The first one of these that has a subscription, which is the anchor unless that one is refused or removed.
    pub(super) fn first_live(&self, members: &[MemberId]) -> Option<Arc<str>> {
        let mut members = members.iter().filter_map(|member| self.all.get(member));
        let first = members.find(|member| member.id().is_some())?;
        Some(Arc::clone(&first.mailbox))
    }

    /// Whether one of these has a subscription that no connection has.
    pub(super) fn any_unheard(&self, members: &[MemberId]) -> bool {
        let mut members = members.iter().filter_map(|member| self.all.get(member));
        members.any(Member::is_unheard)
    }

    /// Whether one of these subscriptions is none any more.
    pub(super) fn any_removed(&self, ids: &[Arc<str>]) -> bool {
        ids.iter().any(|id| !self.by_id.contains_key(id))
    }

    /// Events of these subscriptions may have got lost.
    pub(super) fn all_miss(&mut self, ids: &[Arc<str>]) {
        for id in ids {
            if let Some(member) = self.find(id) {
                member.miss();
            }
        }
    }

    /// A mailbox has a subscription.
    pub(super) fn set_live(&mut self, member: MemberId, (id, watermark): Subscription) {
        let id: Arc<str> = id.into();
        self.by_id.insert(Arc::clone(&id), member);
        if let Some(member) = self.all.get_mut(&member) {
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
        let lost = self.all.get_mut(&member).and_then(Member::lose);
        if let Some(id) = lost {
            self.by_id.remove(&id);
        }
    }
}

/// Addresses are the same in capital and in small letters.
fn name_of(mailbox: &str) -> Box<str> {
    mailbox.to_lowercase().into()
}
