//! [`Group`]: mailboxes of one server that share an anchor, a cookie and a connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::locate::Location;
use super::step::{MemberId, Route};

/// One group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) location: Location,
    /// Which of the accounts.
    pub(super) account: usize,
    /// Its connection is charged to the account. Else it impersonates the anchor, and is charged to that one's copy.
    pub(super) charged_to_account: bool,
    pub(super) anchor: Arc<str>,
    pub(super) route: Route,
    pub(super) members: Vec<MemberId>,
    /// Those that are to be subscribed now.
    pub(super) waiting: VecDeque<MemberId>,
    /// Calls of Subscribe under way.
    pub(super) subscribing: usize,
    /// A Subscribe has succeeded: the others may go, with its cookie.
    pub(super) anchored: bool,
    pub(super) link: Link,
    /// Connections in a row that came to nothing.
    pub(super) failures: u32,
    /// `Starved` was told, and no connection has succeeded since.
    pub(super) starved: bool,
    heard: Heard,
}

/// The connection of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Off,
    Opening,
    /// Since then.
    Open(Instant),
    /// The next try has its time.
    Pausing,
}

/// When the last messages came. What the last one but one had seen was certainly told when the last one was read.
#[derive(Debug, Default)]
struct Heard {
    last: Option<Instant>,
    before: Option<Instant>,
}

/// What a group is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroupStep {
    Subscribe(MemberId),
    Connect,
}

impl Group {
    /// `charged_to`: the account, and whether its connection is charged to it.
    pub(super) fn new(
        location: Location,
        anchor: Arc<str>,
        charged_to: (usize, bool),
        route: Route,
    ) -> Self {
        let (account, charged_to_account) = charged_to;
        Self {
            location,
            account,
            charged_to_account,
            anchor,
            route,
            members: Vec::new(),
            waiting: VecDeque::new(),
            subscribing: 0,
            anchored: false,
            link: Link::Off,
            failures: 0,
            starved: false,
            heard: Heard::default(),
        }
    }

    /// Returns what comes next, if the calls under way leave something to do.
    pub(super) fn next(&mut self) -> Option<GroupStep> {
        // The first one brings the cookie for the others.
        let may_subscribe = self.anchored || self.subscribing == 0;
        if may_subscribe {
            if let Some(member) = self.waiting.pop_front() {
                self.subscribing += 1;
                return Some(GroupStep::Subscribe(member));
            }
        }
        let settled = self.waiting.is_empty() && self.subscribing == 0;
        (settled && self.link == Link::Off && self.anchored).then_some(GroupStep::Connect)
    }

    pub(super) fn opened(&mut self, now: Instant) {
        self.link = Link::Open(now);
        self.heard = Heard::default();
        self.hear(now);
    }

    /// The connection has ended, or was not made. Returns whether it came to nothing or was shorter than that.
    pub(super) fn end(&mut self, now: Instant, shortest: Duration) -> bool {
        let brief = match std::mem::replace(&mut self.link, Link::Off) {
            Link::Open(since) => now.saturating_duration_since(since) < shortest,
            _ => true,
        };
        if !brief {
            self.failures = 0;
        }
        brief
    }

    /// A message has come.
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard.before = self.heard.last.replace(now);
    }

    /// Up to when all was told that came by the connection.
    pub(super) fn covered(&self) -> Option<Instant> {
        self.heard.before
    }
}
