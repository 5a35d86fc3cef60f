//! What follows from a connection of a group: its first message, its events, and its end, in whatever way.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::agenda::Due;
use super::super::end::End;
use super::super::lines::{Ended, Line};
use super::super::notification::Advice;
use super::super::step::{GroupId, MemberId};
use super::{BACKOFF, MAX_CONNECTIONS, Plan};
use crate::soap::notifications::StreamMessage;

/// A connection that ends sooner is a failure, in whatever way it ends.
const SHORTEST: Duration = Duration::from_secs(5);

impl Plan {
    /// A connection has begun, with this message.
    pub(in super::super) fn connected(
        &mut self,
        place: GroupId,
        number: u64,
        ids: &[Arc<str>],
        message: StreamMessage,
        now: Instant,
    ) {
        let Some(group) = self.groups.get_mut(place) else {
            return;
        };
        group.lines.opened(number, now);
        group.starved = false;
        for id in ids {
            if let Some(member) = self.members.find(id) {
                member.set_connected(true);
                self.told.gap(member, now);
            }
        }
        if self.members.any_unheard(&group.members) {
            self.renew(place, now);
        }
        self.tell_events(message);
    }

    /// A mailbox has a subscription that the open connection does not have.
    pub(super) fn renew(&mut self, place: GroupId, now: Instant) {
        let group = self.groups.get_mut(place);
        if let Some(at) = group.and_then(|group| group.lines.renew(now)) {
            self.agenda.at(at, Due::Renew(place));
        }
    }

    /// A connection has brought a message.
    pub(in super::super) fn message(
        &mut self,
        place: GroupId,
        number: u64,
        message: StreamMessage,
        now: Instant,
    ) {
        if let Some(group) = self.groups.get_mut(place) {
            group.lines.hear(number, now);
            self.tell_events(message);
        }
    }

    /// Whether a connection is to be read on.
    pub(in super::super) fn is_open(&self, place: GroupId, number: u64) -> bool {
        let group = self.groups.get(place);
        group.is_some_and(|group| group.lines.has(number))
    }

    pub(super) fn tell_events(&mut self, message: StreamMessage) {
        for notification in message.notifications {
            if let Some(member) = self.members.find(&notification.id) {
                self.told.events(member, notification.events);
            }
        }
    }

    /// A connection has ended, or was refused.
    pub(in super::super) fn ended(&mut self, place: GroupId, number: u64, end: End, now: Instant) {
        let Some(group) = self.groups.get_mut(place) else {
            return;
        };
        match group.lines.end(number) {
            Some(Ended::Open(line)) => self.closed(place, &line, &end, now),
            Some(Ended::Opening(_)) if group.lines.is_open() => self.not_renewed(place, &end, now),
            Some(Ended::Opening(line)) => {
                if end.may_have_begun() {
                    self.members.all_miss(&line.ids);
                }
                self.follow(place, &line, &end, true, now);
            }
            // What the new one was told is not lost.
            Some(Ended::Replaced(line)) if end.is_lossy() && !end.is_replaced() => {
                for id in &line.ids {
                    if let Some(member) = self.members.find(id) {
                        member.miss_since(line.covered());
                        self.told.gap(member, now);
                    }
                }
            }
            Some(Ended::Replaced(_)) | None => {}
        }
        self.groups.drop_if_over(place);
        self.look_at(place);
    }

    /// The connection of a group has ended.
    fn closed(&mut self, place: GroupId, line: &Line, end: &End, now: Instant) {
        let Some(group) = self.groups.get_mut(place) else {
            return;
        };
        let brief = line.is_shorter_than(SHORTEST, now);
        if !brief {
            group.failures = 0;
        }
        // The next one is being made: it will say what is gone.
        let renewed = group.lines.is_opening();
        let lossy = end.is_lossy() && !(renewed && end.is_replaced());
        for member in &group.members {
            if let Some(member) = self.members.get_mut(*member) {
                member.disconnect(line.covered(), lossy, brief);
            }
        }
        if !renewed {
            self.follow(place, line, end, brief, now);
        }
    }

    /// The open connection could not be replaced. It goes on, and it is tried again.
    fn not_renewed(&mut self, place: GroupId, end: &End, now: Instant) {
        let Some(group) = self.groups.get_mut(place) else {
            return;
        };
        let lost = match end.is_about_subscriptions() {
            true => self.members.with_ids(end.ids(), &group.members),
            false => Vec::new(),
        };
        let wait = BACKOFF.wait(group.lines.renewal_failed(), &mut self.rng);
        let wait = wait.max(end.retry_after());
        let at = group.lines.renew_at(now.checked_add(wait).unwrap_or(now));
        self.agenda.at(at, Due::Renew(place));
        if !lost.is_empty() {
            self.lost(place, &lost, end.retry_after(), now);
        }
    }

    /// Does what follows from the end of a group's only connection.
    fn follow(&mut self, place: GroupId, line: &Line, end: &End, brief: bool, now: Instant) {
        let (Some(group), Some(advice)) = (self.groups.get_mut(place), end.advice(brief)) else {
            return;
        };
        let mut lost = Vec::new();
        if end.is_about_subscriptions() {
            lost = self.members.with_ids(end.ids(), &group.members);
            if lost.is_empty() && self.members.any_removed(&line.ids) {
                // One that was removed is gone. If there are others, the next connection is told.
                return;
            }
            if lost.is_empty() && advice == Advice::Resubscribe {
                lost.clone_from(&group.members);
            }
            if !lost.is_empty() && lost.len() < group.members.len() {
                // The others have done nothing wrong.
                return self.lost(place, &lost, end.retry_after(), now);
            }
        }
        group.failures += 1;
        let failures = group.failures;
        if let Advice::Starved(budget) = advice {
            if !std::mem::replace(&mut group.starved, true) {
                self.told.starved(budget);
            }
        }
        let hopeless = failures % MAX_CONNECTIONS == 0 && !matches!(advice, Advice::Starved(_));
        if hopeless || !lost.is_empty() {
            let all = group.members.clone();
            return self.lost(place, &all, end.retry_after(), now);
        }
        group.lines.pause();
        let wait = BACKOFF.wait(failures - 1, &mut self.rng);
        let wait = wait.max(end.retry_after());
        self.agenda.after(wait, Due::Connect(place), now);
    }

    /// Subscriptions of a group are gone: their mailboxes are looked for anew. If all of them leave, so do its anchor and its
    /// cookie: its server has lost them, or the cookie leads nowhere.
    pub(super) fn lost(
        &mut self,
        group: GroupId,
        lost: &[MemberId],
        least: Duration,
        now: Instant,
    ) {
        let losses = lost
            .iter()
            .filter_map(|id| Some(self.members.get(*id)?.losses));
        if self.groups.has_no_others(group, lost) {
            self.groups.close(group);
        }
        let wait = BACKOFF.wait(losses.max().unwrap_or_default(), &mut self.rng);
        for id in lost {
            if let Some(member) = self.members.get_mut(*id) {
                member.losses = member.losses.saturating_add(1);
            }
            self.members.lose(*id);
            self.leave(*id);
            // At the same time, so that their groups are made in the order of their names.
            self.agenda.after(wait.max(least), Due::Locate(*id), now);
        }
        self.look_at(group);
    }
}
