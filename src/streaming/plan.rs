//! [`Plan`]: what is to be done next, and what is told. It does no I/O and reads no clock.
//!
//! Here are the mailboxes and their subscriptions; [`connections`] has what follows from a connection.

mod connections;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::agenda::{Agenda, Due};
use super::calls::Subscription;
use super::counts::Counts;
use super::group::GroupStep;
use super::groups::Groups;
use super::leaving::{Held, Leaving};
use super::locate::Location;
use super::locating::Locating;
use super::member::{Member, State};
use super::members::Members;
use super::notification::{Advice, Notification, SubscriptionError};
use super::polling::{PollEnd, Polling};
use super::settings::Settings;
use super::step::{GroupId, MemberId, Step};
use super::told::Told;
use crate::retry::backoff::Backoff;
use crate::soap::notifications::StreamMessage;
use tower::BoxError;

/// Refusals of a mailbox in a row before it is given up: some four hours, in which a move of a mailbox ends.
const MAX_FAILURES: u32 = 100;
/// Connections in a row that come to nothing before the group is dissolved, with its cookie.
const MAX_CONNECTIONS: u32 = 4;
/// How long others wait for a Subscribe: it is a small call, whose response takes a second at most.
const PATIENCE: Duration = Duration::from_secs(10);
const BACKOFF: Backoff = Backoff {
    base: Duration::from_secs(1),
    cap: Duration::from_secs(300),
};

/// All mailboxes and groups.
#[derive(Debug)]
pub(super) struct Plan {
    settings: Arc<Settings>,
    members: Members,
    groups: Groups,
    locating: Locating,
    polling: Polling,
    leaving: Leaving,
    agenda: Agenda,
    /// Calls of Subscribe under way.
    subscribing: usize,
    /// Those of them for which nobody waits any more.
    overdue: BTreeSet<(MemberId, GroupId)>,
    told: Told,
    rng: fastrand::Rng,
}

impl Plan {
    pub(super) fn new(settings: Arc<Settings>, rng: fastrand::Rng) -> Self {
        Self {
            groups: Groups::new(Arc::clone(&settings)),
            polling: Polling::new(settings.poll, settings.max_calls()),
            settings,
            members: Members::default(),
            locating: Locating::default(),
            leaving: Leaving::default(),
            agenda: Agenda::default(),
            subscribing: 0,
            overdue: BTreeSet::new(),
            told: Told::default(),
            rng,
        }
    }

    /// Adds a mailbox, unless it is there.
    pub(super) fn add(&mut self, mailbox: Arc<str>, now: Instant) {
        if let Some(member) = self.members.add(mailbox, now) {
            self.locating.push(member, false);
        }
    }

    /// Takes a mailbox out, and ends its subscription. Returns whether it was there.
    pub(super) fn remove(&mut self, mailbox: &str) -> bool {
        let member = self.members.named(mailbox);
        let removed = member.and_then(|member| self.take_out(member));
        if let Some(mut removed) = removed {
            self.told.forget(&mut removed);
            return true;
        }
        false
    }

    fn take_out(&mut self, member: MemberId) -> Option<Member> {
        let removed = self.members.remove(member)?;
        if let Some(place) = removed.group {
            if let (Some(group), Some(id)) = (self.groups.get(place), removed.id()) {
                let (mailbox, id) = (Arc::clone(&removed.mailbox), Arc::clone(id));
                self.leaving.push((mailbox, id, group.route.clone()));
            }
            self.groups.leave(place, member);
            self.look_at(place);
        }
        Some(removed)
    }

    /// Returns what is told next.
    pub(super) fn take(&mut self) -> Option<Notification> {
        self.told.take()
    }

    /// Whether nothing can come any more.
    pub(super) fn is_over(&self) -> bool {
        self.members.len() == 0 && self.leaving.is_empty()
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            mailboxes: self.members.len(),
            subscribed: self.members.subscribed(),
            groups: self.groups.len(),
            connections: self.groups.open(),
        }
    }

    /// The subscriptions that there are, and those that nobody wants any more.
    pub(super) fn subscriptions(&self) -> Vec<Held> {
        let all = self.members.iter().filter_map(|member| {
            let group = self.groups.get(member.group?)?;
            Some((
                Arc::clone(&member.mailbox),
                Arc::clone(member.id()?),
                group.route.clone(),
            ))
        });
        all.chain(self.leaving.iter().cloned()).collect()
    }

    /// When there is something to do that is not to be done before.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.agenda.wakes_at()
    }

    /// How many calls of Subscribe and Unsubscribe are under way.
    pub(super) fn calls(&self) -> usize {
        self.subscribing + self.leaving.calls()
    }

    /// An Unsubscribe has ended.
    pub(super) fn unsubscribed(&mut self) {
        self.leaving.call_ended();
    }

    /// Returns a call that is to be made now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Step> {
        self.wake(now);
        if let Some(step) = self.next_location() {
            return Some(step);
        }
        if let Some(step) = self.polling.next(&self.members, &self.groups) {
            return Some(step);
        }
        if let Some(step) = self.leaving.next(self.settings.max_calls()) {
            return Some(step);
        }
        for _ in 0..self.agenda.groups() {
            let group = self.agenda.pop()?;
            let awaited = self.subscribing - self.overdue.len();
            let has_room = awaited < self.settings.max_calls();
            if !has_room && self.wants_to_subscribe(group) {
                self.look_at(group);
            }
            if let Some(step) = self.next_of(group, has_room, now) {
                self.look_at(group);
                return Some(step);
            }
        }
        None
    }

    /// A group may have something to do.
    fn look_at(&mut self, id: GroupId) {
        if self.groups.get(id).is_some() {
            self.agenda.push(id);
        }
    }

    fn wants_to_subscribe(&self, group: GroupId) -> bool {
        let group = self.groups.get(group);
        group.is_some_and(|group| !group.waiting.is_empty())
    }

    /// Does what has come up.
    fn wake(&mut self, now: Instant) {
        while let Some(due) = self.agenda.due(now) {
            match due {
                Due::Locate(member) => self.locating.push(member, true),
                Due::Subscribe(member) => self.enqueue(member),
                Due::GiveWay(member, place) => self.give_way(member, place),
                Due::Poll(id) => {
                    let member = self.members.get_mut(id);
                    if member.is_some_and(|member| member.is_due(now)) {
                        self.polling.push(id);
                    }
                }
                Due::Connect(place) => {
                    if let Some(group) = self.groups.get_mut(place) {
                        group.lines.resume();
                        self.look_at(place);
                    }
                }
                Due::Renew(place) => {
                    let group = self.groups.get_mut(place);
                    if group.is_some_and(|group| group.lines.renewal_is_due(now)) {
                        self.look_at(place);
                    }
                }
            }
        }
    }

    fn next_location(&mut self) -> Option<Step> {
        let (members, fresh, round) = self.locating.next(|id| self.members.get(*id).is_some())?;
        let mailboxes = members
            .iter()
            .filter_map(|member| self.members.get(*member));
        Some(Step::Locate {
            mailboxes: mailboxes
                .map(|member| Arc::clone(&member.mailbox))
                .collect(),
            members,
            fresh,
            round,
        })
    }

    /// It is known where these mailboxes are, or not.
    pub(super) fn located(
        &mut self,
        members: &[MemberId],
        round: u64,
        found: Vec<Result<Location, BoxError>>,
        now: Instant,
    ) {
        let mut found = found.into_iter();
        for member in members {
            let missing = || Err("nothing was said of it".into());
            match found.next().unwrap_or_else(missing) {
                Ok(location) => self.locating.found(*member, round, location),
                Err(error) => {
                    let error = SubscriptionError::NotLocated(error);
                    self.try_again(*member, Due::Locate(*member), error, now);
                }
            }
        }
        let mut located = self.locating.end(round);
        let name = |member: &MemberId| self.members.get(*member).map(|member| &member.mailbox);
        located.sort_by(|(a, _), (b, _)| name(a).cmp(&name(b)));
        for (id, location) in located {
            if let Some(member) = self.members.get_mut(id) {
                member.group = Some(self.groups.join(id, &member.mailbox, location));
            }
            self.enqueue(id);
        }
    }

    /// A member's subscription is to be made now.
    fn enqueue(&mut self, member: MemberId) {
        let Some(subscriber) = self.members.get(member) else {
            return;
        };
        let (Some(id), State::Without) = (subscriber.group, &subscriber.state) else {
            return;
        };
        // One that has joined another group may have had a time of its own.
        if let Some(group) = self
            .groups
            .get_mut(id)
            .filter(|group| !group.waiting.contains(&member))
        {
            group.waiting.push_back(member);
            if subscriber.failures == 0 {
                group.awaited.insert(member);
            }
            self.look_at(id);
        }
    }

    /// A Subscribe has had its time. Nobody waits for it any more: if it is the first one of its group, the others go to a
    /// group with another anchor, since that of this one may be what does not respond.
    fn give_way(&mut self, member: MemberId, place: GroupId) {
        let subscriber = self.members.get(member);
        let subscribes = subscriber.is_some_and(|subscriber| subscriber.subscribes_in(place));
        let Some(group) = self.groups.get_mut(place).filter(|_| subscribes) else {
            return;
        };
        self.overdue.insert((member, place));
        group.awaited.remove(&member);
        if !group.anchored {
            let others = group.members.iter().copied();
            let others: Vec<MemberId> = others.filter(|other| *other != member).collect();
            self.groups.close(place);
            for other in others {
                self.move_from(place, other);
            }
        }
        self.look_at(place);
    }

    /// Takes a member without a subscription from its group to another one at the same location.
    fn move_from(&mut self, place: GroupId, member: MemberId) {
        let Some(group) = self.groups.get(place) else {
            return;
        };
        let (location, waits) = (group.location.clone(), group.waiting.contains(&member));
        self.groups.leave(place, member);
        if let Some(moved) = self.members.get_mut(member) {
            moved.group = Some(self.groups.join(member, &moved.mailbox, location));
        }
        if waits {
            self.enqueue(member);
        }
    }

    fn next_of(&mut self, id: GroupId, has_room: bool, now: Instant) -> Option<Step> {
        let group = self.groups.get_mut(id)?;
        let step = group.next(has_room)?;
        let route = group.route.clone();
        match step {
            GroupStep::Subscribe(member) => {
                self.subscribing += 1;
                let subscriber = self.members.get_mut(member)?;
                subscriber.state = State::Subscribing;
                self.agenda.after(PATIENCE, Due::GiveWay(member, id), now);
                Some(Step::Subscribe {
                    member,
                    group: id,
                    mailbox: Arc::clone(&subscriber.mailbox),
                    route,
                })
            }
            GroupStep::Connect if self.polling.is_on() => None,
            GroupStep::Connect => {
                let renews = group.lines.is_open();
                if renews && !self.members.any_unheard(&group.members) {
                    group.lines.need_no_renewal();
                    return None;
                }
                let ids = self.members.ids(&group.members);
                if ids.is_empty() {
                    return None;
                }
                // The account may have no place for one more while the old one hangs.
                let impersonates = renews || !group.charged_to_account;
                let impersonated = self.members.first_live(&group.members);
                Some(Step::Connect {
                    group: id,
                    number: group.lines.begin(ids.clone(), now),
                    ids,
                    impersonated: impersonated.filter(|_| impersonates),
                    minutes: self.settings.connection_minutes,
                    route,
                })
            }
        }
    }

    /// A Subscribe has ended.
    pub(super) fn subscribed(
        &mut self,
        member: MemberId,
        mailbox: Arc<str>,
        place: GroupId,
        result: Result<Subscription, SubscriptionError>,
        now: Instant,
    ) {
        self.subscribing -= 1;
        let overdue = self.overdue.remove(&(member, place));
        self.look_at(place);
        let Some(group) = self.groups.get_mut(place) else {
            return;
        };
        group.subscribing -= 1;
        group.awaited.remove(&member);
        // The others have another anchor by now.
        let left_behind = overdue && !group.anchored;
        let subscriber = self.members.get(member);
        let counts = subscriber.is_some_and(|subscriber| subscriber.subscribes_in(place));
        match result {
            Ok((id, _)) if !counts => {
                // It was removed, or has another group by now.
                let route = group.route.clone();
                self.leaving.push((mailbox, id.into(), route));
                self.groups.drop_if_over(place);
            }
            Err(_) if !counts => self.groups.drop_if_over(place),
            Ok((id, _)) if left_behind && self.groups.has_another(place) => {
                self.rejoins(member, mailbox, id, place);
            }
            Ok(subscription) => self.is_live(member, place, subscription, now),
            Err(error) => self.is_refused(member, error, left_behind, now),
        }
    }

    /// The subscription of a member that was left behind has come. Its server may not be that of the others, so it is made anew with
    /// their cookie.
    fn rejoins(&mut self, member: MemberId, mailbox: Arc<str>, id: Box<str>, place: GroupId) {
        let (Some(group), Some(subscriber)) =
            (self.groups.get_mut(place), self.members.get_mut(member))
        else {
            return;
        };
        subscriber.state = State::Without;
        group.waiting.push_back(member);
        let route = group.route.clone();
        self.leaving.push((mailbox, id.into(), route));
        self.move_from(place, member);
    }

    /// A member has a subscription.
    fn is_live(
        &mut self,
        member: MemberId,
        place: GroupId,
        subscription: Subscription,
        now: Instant,
    ) {
        if let Some(group) = self.groups.get_mut(place) {
            group.anchored = true;
        }
        self.groups.reopen(place);
        if let Some(subscriber) = self.members.get_mut(member) {
            self.told.has_room(subscriber);
            self.told.gap(subscriber, now);
        }
        self.members.set_live(member, subscription);
        self.renew(place, now);
        if let Some(first) = self.polling.first_wait(&mut self.rng) {
            self.poll_after(member, first, now);
        }
    }

    /// A Subscribe was refused, or had no response. `elsewhere`: its group is not that of the others any more.
    fn is_refused(
        &mut self,
        member: MemberId,
        error: SubscriptionError,
        elsewhere: bool,
        now: Instant,
    ) {
        if let Some(subscriber) = self.members.get_mut(member) {
            subscriber.state = State::Without;
        }
        let advice = error.advice();
        let relocates = matches!(advice, Advice::Relocate | Advice::Resubscribe) || elsewhere;
        if relocates {
            self.leave(member);
        }
        let due = match relocates {
            true => Due::Locate(member),
            false => Due::Subscribe(member),
        };
        self.try_again(member, due, error, now);
    }

    /// Tries a member again later, or gives it up.
    fn try_again(&mut self, member: MemberId, due: Due, error: SubscriptionError, now: Instant) {
        let Some(refused) = self.members.get_mut(member) else {
            return;
        };
        refused.failures += 1;
        let failures = refused.failures;
        let advice = error.advice();
        if advice == Advice::GiveUp || failures >= MAX_FAILURES {
            self.told.lost(refused, error);
            self.take_out(member);
            return;
        }
        if let Advice::Starved(budget) = advice {
            self.told.starves(refused, budget);
        }
        let wait = BACKOFF.wait(failures - 1, &mut self.rng);
        self.agenda.after(wait.max(error.retry_after()), due, now);
    }

    fn leave(&mut self, member: MemberId) {
        let left = self.members.get_mut(member);
        if let Some(group) = left.and_then(|member| member.group.take()) {
            self.groups.leave(group, member);
        }
    }

    /// A mailbox was asked for its events, at that time.
    pub(super) fn polled(
        &mut self,
        id: MemberId,
        place: GroupId,
        asked: Instant,
        result: Result<StreamMessage, SubscriptionError>,
        now: Instant,
    ) {
        self.polling.call_ended();
        let (Some(group), Some(member)) = (self.groups.get_mut(place), self.members.get_mut(id))
        else {
            return;
        };
        if result.is_ok() {
            group.failures = 0;
        }
        match self
            .polling
            .take_in(member, &mut self.told, asked, result, now)
        {
            PollEnd::Events(message, wait) => {
                self.tell_events(message);
                self.poll_after(id, wait, now);
            }
            PollEnd::Gone => self.gone(place, id, now),
            PollEnd::Failed(error) => self.try_again(id, Due::Poll(id), error, now),
        }
    }

    fn poll_after(&mut self, id: MemberId, wait: Duration, now: Instant) {
        if let Some(member) = self.members.get_mut(id) {
            member.poll_at(now.checked_add(wait).unwrap_or(now));
            self.agenda.after(wait, Due::Poll(id), now);
        }
    }

    /// A pull subscription is gone: with its mailbox, or with its server if that is so of one after the other.
    fn gone(&mut self, place: GroupId, id: MemberId, now: Instant) {
        let Some(group) = self.groups.get_mut(place) else {
            return;
        };
        group.failures += 1;
        let lost = match group.failures % MAX_CONNECTIONS {
            0 => group.members.clone(),
            _ => vec![id],
        };
        self.lost(place, &lost, Duration::ZERO, now);
    }
}

#[cfg(test)]
mod tests;
