//! [`Plan`]: what is to be done next, and what is told. It does no I/O and reads no clock.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::agenda::{Agenda, Due};
use super::calls::Subscription;
use super::counts::Counts;
use super::end::End;
use super::group::{GroupStep, Link};
use super::groups::Groups;
use super::locate::Location;
use super::locating::Locating;
use super::member::State;
use super::members::Members;
use super::notification::{Advice, Notification, SubscriptionError};
use super::polling::{PollEnd, Polling};
use super::settings::{MAX_CALLS, Settings};
use super::step::{GroupId, MemberId, Route, Step};
use super::told::Told;
use crate::retry::backoff::Backoff;
use crate::soap::notifications::StreamMessage;
use tower::BoxError;

/// Refusals of a mailbox in a row before it is given up: some four hours, in which a move of a mailbox ends.
const MAX_FAILURES: u32 = 100;
/// Connections in a row that come to nothing before the group is dissolved, with its cookie.
const MAX_CONNECTIONS: u32 = 4;
/// A connection that ends sooner is a failure, in whatever way it ends.
const SHORTEST: Duration = Duration::from_secs(5);
/// The connection of a group of which some mailbox has no subscription yet.
const SHORT_CONNECTION: u64 = 2;
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
    agenda: Agenda,
    /// Calls of Subscribe under way.
    subscribing: usize,
    told: Told,
    rng: fastrand::Rng,
}

impl Plan {
    pub(super) fn new(settings: Arc<Settings>, rng: fastrand::Rng) -> Self {
        Self {
            groups: Groups::new(Arc::clone(&settings)),
            polling: Polling::new(settings.poll),
            settings,
            members: Members::default(),
            locating: Locating::default(),
            agenda: Agenda::default(),
            subscribing: 0,
            told: Told::default(),
            rng,
        }
    }

    /// Adds a mailbox.
    pub(super) fn add(&mut self, mailbox: Arc<str>, now: Instant) {
        let member = self.members.add(mailbox, now);
        self.locating.push(member, false);
    }

    /// Returns what is told next.
    pub(super) fn take(&mut self) -> Option<Notification> {
        self.told.take()
    }

    /// Whether nothing can come any more.
    pub(super) fn is_over(&self) -> bool {
        self.members.left() == 0
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            mailboxes: self.members.left(),
            subscribed: self.members.subscribed(),
            groups: self.groups.len(),
            connections: self.groups.open(),
        }
    }

    /// The subscriptions that there are: mailbox, id, and where calls about them go.
    pub(super) fn subscriptions(&self) -> Vec<(Arc<str>, Arc<str>, Route)> {
        let all = self.members.iter().filter_map(|member| {
            let group = self.groups.get(member.group?)?;
            Some((
                Arc::clone(&member.mailbox),
                Arc::clone(member.id()?),
                group.route.clone(),
            ))
        });
        all.collect()
    }

    /// When there is something to do that is not to be done before.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.agenda.wakes_at()
    }

    /// Whether a Subscribe is under way.
    pub(super) fn is_subscribing(&self) -> bool {
        self.subscribing > 0
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
        for _ in 0..self.agenda.groups() {
            let group = self.agenda.pop()?;
            if self.subscribing >= MAX_CALLS && self.wants_to_subscribe(group) {
                self.look_at(group);
                continue;
            }
            if let Some(step) = self.next_of(group) {
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
                Due::Poll(id) => {
                    let member = self.members.get_mut(id);
                    if member.is_some_and(|member| member.is_due(now)) {
                        self.polling.push(id);
                    }
                }
                Due::Connect(place) => {
                    if let Some(group) = self.groups.get_mut(place) {
                        group.link = Link::Off;
                        self.look_at(place);
                    }
                }
            }
        }
    }

    fn next_location(&mut self) -> Option<Step> {
        let (members, fresh) = self.locating.next()?;
        let mailboxes = members
            .iter()
            .filter_map(|member| self.members.get(*member));
        Some(Step::Locate {
            mailboxes: mailboxes
                .map(|member| Arc::clone(&member.mailbox))
                .collect(),
            members,
            fresh,
        })
    }

    /// It is known where these mailboxes are, or not.
    pub(super) fn located(
        &mut self,
        members: &[MemberId],
        found: Vec<Result<Location, BoxError>>,
        now: Instant,
    ) {
        let mut found = found.into_iter();
        for member in members {
            let missing = || Err("nothing was said of it".into());
            match found.next().unwrap_or_else(missing) {
                Ok(location) => self.locating.found(*member, location),
                Err(error) => {
                    let error = SubscriptionError::NotLocated(error);
                    self.try_again(*member, Due::Locate(*member), error, now);
                }
            }
        }
        let mut located = self.locating.end();
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
            self.look_at(id);
        }
    }

    fn next_of(&mut self, id: GroupId) -> Option<Step> {
        let group = self.groups.get_mut(id)?;
        let step = group.next()?;
        let route = group.route.clone();
        match step {
            GroupStep::Subscribe(member) => {
                self.subscribing += 1;
                let subscriber = self.members.get_mut(member)?;
                subscriber.state = State::Subscribing;
                Some(Step::Subscribe {
                    member,
                    group: id,
                    mailbox: Arc::clone(&subscriber.mailbox),
                    route,
                })
            }
            GroupStep::Connect if self.polling.is_on() => None,
            GroupStep::Connect => {
                let ids = self.members.ids(&group.members);
                if ids.is_empty() {
                    return None;
                }
                let minutes = match ids.len() < group.members.len() {
                    true => self.settings.connection_minutes.min(SHORT_CONNECTION),
                    false => self.settings.connection_minutes,
                };
                group.link = Link::Opening;
                let anchor = Arc::clone(&group.anchor);
                let impersonated = (!group.charged_to_account).then_some(anchor);
                Some(Step::Connect {
                    group: id,
                    ids,
                    impersonated,
                    minutes,
                    route,
                })
            }
        }
    }

    /// A Subscribe has ended.
    pub(super) fn subscribed(
        &mut self,
        member: MemberId,
        place: GroupId,
        result: Result<Subscription, SubscriptionError>,
        now: Instant,
    ) {
        self.subscribing -= 1;
        self.look_at(place);
        let Some(group) = self.groups.get_mut(place) else {
            return;
        };
        group.subscribing -= 1;
        match result {
            Ok(subscription) => {
                group.anchored = true;
                self.members.set_live(member, subscription);
                if let Some(subscriber) = self.members.get_mut(member) {
                    self.told.has_room(subscriber);
                    self.told.gap(subscriber, now);
                }
                if let Some(first) = self.polling.first_wait(&mut self.rng) {
                    self.poll_after(member, first, now);
                }
            }
            Err(error) => {
                if let Some(subscriber) = self.members.get_mut(member) {
                    subscriber.state = State::Without;
                }
                let relocates = matches!(error.advice(), Advice::Relocate | Advice::Resubscribe);
                if relocates {
                    self.leave(member);
                }
                let due = match relocates {
                    true => Due::Locate(member),
                    false => Due::Subscribe(member),
                };
                self.try_again(member, due, error, now);
            }
        }
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
            self.members.give_up(member);
            self.leave(member);
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

    /// A connection has begun, with this message.
    pub(super) fn connected(
        &mut self,
        place: GroupId,
        ids: &[Arc<str>],
        message: StreamMessage,
        now: Instant,
    ) {
        let Some(group) = self.groups.get_mut(place) else {
            return;
        };
        group.opened(now);
        group.starved = false;
        for id in ids {
            if let Some(member) = self.members.find(id) {
                member.set_connected(true);
                self.told.gap(member, now);
            }
        }
        self.tell_events(message);
    }

    /// A connection has brought a message.
    pub(super) fn message(&mut self, place: GroupId, message: StreamMessage, now: Instant) {
        if let Some(group) = self.groups.get_mut(place) {
            group.hear(now);
            self.tell_events(message);
        }
    }

    /// Whether a connection is the one that its group has.
    pub(super) fn is_open(&mut self, place: GroupId) -> bool {
        self.groups
            .get_mut(place)
            .is_some_and(|group| matches!(group.link, Link::Open(_)))
    }

    fn tell_events(&mut self, message: StreamMessage) {
        for notification in message.notifications {
            if let Some(member) = self.members.find(&notification.id) {
                self.told.events(member, notification.events);
            }
        }
    }

    /// A connection has ended, or was refused.
    pub(super) fn ended(&mut self, place: GroupId, end: End, now: Instant) {
        let Some(group) = self.groups.get_mut(place) else {
            return;
        };
        let brief = group.end(now, SHORTEST);
        let (covered, members) = (group.covered(), group.members.clone());
        let advice = end.advice(brief);
        for member in &members {
            if let Some(member) = self.members.get_mut(*member) {
                member.disconnect(covered, end.is_lossy(), brief);
            }
        }
        let Some(advice) = advice else {
            return self.look_at(place);
        };
        let lost = match advice {
            Advice::Resubscribe => self.named_by(&end, &members),
            _ => Vec::new(),
        };
        if !lost.is_empty() && lost.len() < members.len() {
            // The others have done nothing wrong.
            return self.lost(place, &lost, end.retry_after(), now);
        }
        let Some(group) = self.groups.get_mut(place) else {
            return;
        };
        group.failures += 1;
        let failures = group.failures;
        if let Advice::Starved(budget) = advice {
            if !std::mem::replace(&mut group.starved, true) {
                self.told.starved(budget);
            }
        }
        let hopeless = failures % MAX_CONNECTIONS == 0 && !matches!(advice, Advice::Starved(_));
        if hopeless || !lost.is_empty() {
            return self.lost(place, &members, end.retry_after(), now);
        }
        group.link = Link::Pausing;
        let wait = BACKOFF.wait(failures - 1, &mut self.rng);
        let wait = wait.max(end.retry_after());
        self.agenda.after(wait, Due::Connect(place), now);
    }

    /// The members whose subscriptions an error names; all of them if it names none.
    fn named_by(&self, end: &End, members: &[MemberId]) -> Vec<MemberId> {
        let End::Refused(_, ids) = end else {
            return Vec::new();
        };
        let named = self.members.named(ids, members);
        match named.is_empty() {
            true => members.to_vec(),
            false => named,
        }
    }

    /// Subscriptions of a group are gone: their mailboxes are looked for anew. If all of them leave, so do its anchor and its
    /// cookie: its server has lost them, or the cookie leads nowhere.
    fn lost(&mut self, group: GroupId, lost: &[MemberId], least: Duration, now: Instant) {
        let losses = lost
            .iter()
            .filter_map(|id| Some(self.members.get(*id)?.losses));
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

#[cfg(test)]
mod tests;
