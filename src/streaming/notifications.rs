//! [`Notifications`]: the stream, which owns the calls and the timers.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered};
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tower::BoxError;

use super::calls::{CALL_TIME, Calls, Subscription};
use super::connection::Connection;
use super::counts::Counts;
use super::end::End;
use super::locate::{LocateMailboxes, Location};
use super::notification::{Notification, SubscriptionError};
use super::plan::Plan;
use super::settings::{MAX_CALLS, Settings};
use super::step::{GroupId, MemberId, Step};
use crate::soap::notifications::StreamMessage;

/// A call that has ended.
enum Done {
    /// In that round.
    Located(Vec<MemberId>, u64, Vec<Result<Location, BoxError>>),
    Subscribed(
        MemberId,
        Arc<str>,
        GroupId,
        Result<Subscription, SubscriptionError>,
    ),
    Unsubscribed,
    /// It was asked for at that time.
    Polled(
        MemberId,
        GroupId,
        Instant,
        Result<StreamMessage, SubscriptionError>,
    ),
    Connected(
        GroupId,
        u64,
        Vec<Arc<str>>,
        Result<(Connection, StreamMessage), End>,
    ),
    Read(GroupId, u64, Connection, Result<StreamMessage, End>),
}

type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// The notifications of many mailboxes, as a [`Stream`]. Made by [`Subscriptions::listen`](super::Subscriptions::listen).
///
/// Everything happens while it is polled: connections are read no faster than it is, and what a slow consumer leaves waits in the
/// connections and at the server. A pause of some minutes costs nothing; after half an hour without a connection the server
/// forgets subscriptions, and there are [gaps](Notification::Gap).
///
/// It ends when each mailbox is [lost](Notification::Lost) or [removed](Self::remove).
///
/// # Cancellation
///
/// Dropping it closes all connections, and leaves the subscriptions at the server, where they count until they expire, half an
/// hour later. [`shutdown`](Self::shutdown) ends them.
#[must_use = "streams do nothing unless they are polled"]
pub struct Notifications {
    plan: Plan,
    calls: Calls,
    locate: Arc<dyn LocateMailboxes>,
    work: FuturesUnordered<Work>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Notifications {
    pub(super) fn new(
        settings: Arc<Settings>,
        calls: Calls,
        locate: Arc<dyn LocateMailboxes>,
    ) -> Self {
        let rng = settings
            .seed
            .map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self {
            plan: Plan::new(settings, rng),
            calls,
            locate,
            work: FuturesUnordered::new(),
            timer: None,
        }
    }

    /// Adds a mailbox. It is listened to once its [`Gap`](Notification::Gap) has come.
    ///
    /// One that is listened to already is left as it is: addresses are the same in capital and in small letters. One that was
    /// [lost](Notification::Lost) or [removed](Self::remove) can be added again.
    pub fn add(&mut self, mailbox: &str) {
        self.plan.add(mailbox.into(), Instant::now());
    }

    /// Removes a mailbox, and returns whether it was listened to. Nothing comes of it any more, and its subscription is ended
    /// while the stream is polled on.
    pub fn remove(&mut self, mailbox: &str) -> bool {
        self.plan.remove(mailbox)
    }

    /// Returns how far it is. Takes a time that grows with the number of mailboxes.
    pub fn counts(&self) -> Counts {
        self.plan.counts()
    }

    /// Closes all connections and ends all subscriptions, so that they do not count when the next process subscribes. Returns
    /// how many may be left: calls that failed, or did not end `within` that time.
    ///
    /// Notifications that were not taken are dropped.
    ///
    /// # Cancellation
    ///
    /// Subscriptions whose end was not sent when the future is dropped expire by themselves.
    pub async fn shutdown(mut self, within: Duration) -> usize {
        let deadline = Instant::now()
            .checked_add(within)
            .unwrap_or_else(Instant::now);
        self.settle(deadline).await;
        let open = self.plan.subscriptions();
        // What has not ended by now may be left, too.
        let mut left = open.len() + self.plan.calls();
        let mut by_account: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (mailbox, id, route) in open {
            let account = route.caller.as_ref().map(|caller| caller.name().to_owned());
            let call = self.calls.clone().unsubscribe(mailbox, id, route);
            by_account.entry(account).or_default().push(call);
        }
        let accounts = by_account.into_values();
        let accounts = accounts.map(|calls| stream::iter(calls).buffer_unordered(MAX_CALLS));
        let mut ends = stream::select_all(accounts);
        while let Ok(Some(end)) = tokio::time::timeout_at(deadline, ends.next()).await {
            let gone = end.as_ref().is_err_and(SubscriptionError::is_gone);
            left -= usize::from(end.is_ok() || gone);
        }
        left
    }

    /// Waits for the calls of Subscribe and Unsubscribe under way, and drops the connections.
    async fn settle(&mut self, deadline: Instant) {
        let mut work = std::mem::take(&mut self.work);
        while self.plan.calls() > 0 {
            let Ok(Some(done)) = tokio::time::timeout_at(deadline, work.next()).await else {
                return;
            };
            if matches!(done, Done::Subscribed(..) | Done::Unsubscribed) {
                self.end(done);
            }
        }
    }

    /// Makes a call.
    fn begin(&mut self, step: Step) {
        let calls = self.calls.clone();
        let work: Work = match step {
            Step::Locate {
                members,
                mailboxes,
                fresh,
                round,
            } => {
                let found = timeout(CALL_TIME, self.locate.locate(&mailboxes, fresh));
                Box::pin(
                    async move { Done::Located(members, round, found.await.unwrap_or_default()) },
                )
            }
            Step::Subscribe {
                member,
                group,
                mailbox,
                route,
            } => Box::pin(async move {
                let subscribed = calls.subscribe(Arc::clone(&mailbox), route).await;
                Done::Subscribed(member, mailbox, group, subscribed)
            }),
            Step::Unsubscribe { mailbox, id, route } => Box::pin(async move {
                let _ = calls.unsubscribe(mailbox, id, route).await;
                Done::Unsubscribed
            }),
            Step::Poll {
                member,
                group,
                mailbox,
                id,
                watermark,
                route,
            } => {
                let asked = Instant::now();
                Box::pin(async move {
                    let polled = calls.poll(mailbox, id, watermark, route).await;
                    Done::Polled(member, group, asked, polled)
                })
            }
            Step::Connect {
                group,
                number,
                ids,
                impersonated,
                minutes,
                route,
            } => Box::pin(async move {
                let connected = calls.connect(&ids, impersonated, minutes, route).await;
                Done::Connected(group, number, ids, connected)
            }),
        };
        self.work.push(work);
    }

    /// Tells the plan what has come of a call.
    fn end(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Located(members, round, found) => {
                self.plan.located(&members, round, found, now);
            }
            Done::Subscribed(member, mailbox, place, result) => {
                self.plan.subscribed(member, mailbox, place, result, now);
            }
            Done::Unsubscribed => self.plan.unsubscribed(),
            Done::Polled(member, place, asked, result) => {
                self.plan.polled(member, place, asked, result, now);
            }
            Done::Connected(place, number, ids, Ok((connection, message))) => {
                let closed = message.closed;
                self.plan.connected(place, number, &ids, message, now);
                self.go_on(place, number, connection, closed);
            }
            Done::Read(place, number, connection, Ok(message)) => {
                let closed = message.closed;
                self.plan.message(place, number, message, now);
                self.go_on(place, number, connection, closed);
            }
            Done::Connected(place, number, _, Err(end))
            | Done::Read(place, number, _, Err(end)) => {
                self.plan.ended(place, number, end, now);
            }
        }
    }

    /// Reads on, if the connection is open.
    fn go_on(&mut self, place: GroupId, number: u64, mut connection: Connection, closed: bool) {
        if closed {
            // The server has its place free before the next one begins.
            drop(connection);
            self.plan.ended(place, number, End::Closed, Instant::now());
        } else if self.plan.is_open(place, number) {
            self.work.push(Box::pin(async move {
                let read = connection.next().await;
                Done::Read(place, number, connection, read)
            }));
        }
    }

    /// Whether the time of something has come. Wakes the task when it comes.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(at) = self.plan.wakes_at() else {
            self.timer = None;
            return false;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

impl Stream for Notifications {
    type Item = Notification;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notification>> {
        let this = &mut *self;
        loop {
            if let Some(notification) = this.plan.take() {
                return Poll::Ready(Some(notification));
            }
            if this.plan.is_over() {
                return Poll::Ready(None);
            }
            while let Some(step) = this.plan.next(Instant::now()) {
                this.begin(step);
            }
            if let Poll::Ready(Some(done)) = this.work.poll_next_unpin(cx) {
                this.end(done);
            } else if !this.poll_timer(cx) {
                return Poll::Pending;
            }
        }
    }
}

impl fmt::Debug for Notifications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifications")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
