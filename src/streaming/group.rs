//! [`Group`]: mailboxes of one server that share an anchor, a cookie and a connection.

use std::collections::{BTreeSet, VecDeque};

use super::lines::Lines;
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
    pub(super) route: Route,
    pub(super) members: Vec<MemberId>,
    /// Those that are to be subscribed now.
    pub(super) waiting: VecDeque<MemberId>,
    /// Those of whom the connection waits, to have them too: they are to be subscribed for the first time since they had a
    /// subscription. One that was refused, or has not responded, keeps nobody waiting.
    pub(super) awaited: BTreeSet<MemberId>,
    /// Calls of Subscribe under way.
    pub(super) subscribing: usize,
    /// A Subscribe has succeeded: the others may go, with its cookie.
    pub(super) anchored: bool,
    pub(super) lines: Lines,
    /// Connections in a row that came to nothing.
    pub(super) failures: u32,
    /// `Starved` was told, and no connection has succeeded since.
    pub(super) starved: bool,
}

/// What a group is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroupStep {
    Subscribe(MemberId),
    Connect,
}

impl Group {
    /// `charged_to`: the account, and whether its connection is charged to it.
    pub(super) fn new(location: Location, charged_to: (usize, bool), route: Route) -> Self {
        let (account, charged_to_account) = charged_to;
        Self {
            location,
            account,
            charged_to_account,
            route,
            members: Vec::new(),
            waiting: VecDeque::new(),
            awaited: BTreeSet::new(),
            subscribing: 0,
            anchored: false,
            lines: Lines::default(),
            failures: 0,
            starved: false,
        }
    }

    /// Returns what comes next, if the calls under way leave something to do. `has_room`: for another call of Subscribe.
    pub(super) fn next(&mut self, has_room: bool) -> Option<GroupStep> {
        // The first one brings the cookie for the others.
        if has_room && (self.anchored || self.subscribing == 0) {
            if let Some(member) = self.waiting.pop_front() {
                self.subscribing += 1;
                return Some(GroupStep::Subscribe(member));
            }
        }
        (self.awaited.is_empty() && self.anchored && self.lines.may_connect())
            .then_some(GroupStep::Connect)
    }

    /// Whether nobody is in it and nothing of it is under way.
    pub(super) fn is_over(&self) -> bool {
        self.members.is_empty() && self.subscribing == 0 && self.lines.is_empty()
    }
}
