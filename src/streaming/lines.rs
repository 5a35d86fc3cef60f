//! [`Lines`]: the connections of one group. It has one; while that is replaced it has two.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// A connection is replaced this long after its beginning at the earliest.
const RENEW_AFTER: Duration = Duration::from_secs(10);

/// The connections of a group.
///
/// A mailbox that is subscribed to while the connection hangs is not in it. So another one is made, with all of them. The server
/// then ends the first one with `ErrorNewEventStreamConnectionOpened`, and what it has sent by it is read to that end: nothing is
/// lost.
#[derive(Debug, Default)]
pub(super) struct Lines {
    opening: Option<Line>,
    open: Option<Line>,
    /// The server is about to end it.
    replaced: Option<Line>,
    /// The next try has its time.
    pausing: bool,
    renewal: Renewal,
    /// Renewals in a row that came to nothing.
    failures: u32,
    begun: Option<Instant>,
    made: u64,
}

/// Whether the connection is to be replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Renewal {
    #[default]
    No,
    At(Instant),
    Now,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    number: u64,
    /// The subscriptions that it was made with.
    pub(super) ids: Vec<Arc<str>>,
    since: Instant,
    heard: Option<Instant>,
    heard_before: Option<Instant>,
}

/// Which connection has ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The one that the group had.
    Open(Line),
    /// One that was not made.
    Opening(Line),
    /// One in whose place there is another.
    Replaced(Line),
}

impl Line {
    pub(super) fn is_shorter_than(&self, shortest: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < shortest
    }

    /// Up to when all was told that came by it: what the last message but one had seen was certainly told when the last one was
    /// read.
    pub(super) fn covered(&self) -> Option<Instant> {
        self.heard_before
    }

    fn hear(&mut self, now: Instant) {
        self.heard_before = self.heard.replace(now);
    }
}

impl Lines {
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn is_opening(&self) -> bool {
        self.opening.is_some()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.opening.is_none() && self.open.is_none() && self.replaced.is_none()
    }

    /// Whether a connection is one of these that are read.
    pub(super) fn has(&self, number: u64) -> bool {
        let lines = [&self.open, &self.replaced];
        lines
            .into_iter()
            .flatten()
            .any(|line| line.number == number)
    }

    /// Whether one may be made now.
    pub(super) fn may_connect(&self) -> bool {
        if self.pausing || self.opening.is_some() {
            return false;
        }
        match self.open {
            Some(_) => self.renewal == Renewal::Now && self.replaced.is_none(),
            None => true,
        }
    }

    /// Begins one, and returns its number.
    pub(super) fn begin(&mut self, ids: Vec<Arc<str>>, now: Instant) -> u64 {
        self.made += 1;
        self.begun = Some(now);
        self.renewal = Renewal::No;
        self.opening = Some(Line {
            number: self.made,
            ids,
            since: now,
            heard: None,
            heard_before: None,
        });
        self.made
    }

    /// One is open, which takes the place of the one before.
    pub(super) fn opened(&mut self, number: u64, now: Instant) {
        let Some(mut line) = self.opening.take_if(|line| line.number == number) else {
            return;
        };
        line.since = now;
        line.hear(now);
        self.failures = 0;
        self.replaced = self.open.replace(line).or(self.replaced.take());
    }

    /// A message has come.
    pub(super) fn hear(&mut self, number: u64, now: Instant) {
        let lines = [&mut self.open, &mut self.replaced];
        let mut lines = lines.into_iter().flatten();
        if let Some(line) = lines.find(|line| line.number == number) {
            line.hear(now);
        }
    }

    /// One has ended, or was not made.
    pub(super) fn end(&mut self, number: u64) -> Option<Ended> {
        let is_it = |line: &mut Line| line.number == number;
        if let Some(line) = self.open.take_if(is_it) {
            self.renewal = Renewal::No;
            return Some(Ended::Open(line));
        }
        let opening = self.opening.take_if(is_it).map(Ended::Opening);
        opening.or_else(|| self.replaced.take_if(is_it).map(Ended::Replaced))
    }

    /// The next one has its time.
    pub(super) fn pause(&mut self) {
        self.pausing = true;
    }

    pub(super) fn resume(&mut self) {
        self.pausing = false;
    }

    /// The open one is to be replaced: returns when, if that is not decided yet.
    pub(super) fn renew(&mut self, now: Instant) -> Option<Instant> {
        if self.open.is_none() || self.renewal != Renewal::No {
            return None;
        }
        Some(self.renew_at(now))
    }

    /// A renewal has come to nothing: how often in a row.
    pub(super) fn renewal_failed(&mut self) -> u32 {
        self.failures += 1;
        self.failures
    }

    /// The open one is to be replaced then, or as soon as it may be. Returns when.
    pub(super) fn renew_at(&mut self, at: Instant) -> Instant {
        let earliest = self.begun.and_then(|begun| begun.checked_add(RENEW_AFTER));
        let at = earliest.map_or(at, |earliest| earliest.max(at));
        self.renewal = Renewal::At(at);
        at
    }

    /// The time of a renewal has come. Returns whether it is that of the one that is wanted.
    pub(super) fn renewal_is_due(&mut self, now: Instant) -> bool {
        let due = matches!(self.renewal, Renewal::At(at) if at <= now);
        if due {
            self.renewal = Renewal::Now;
        }
        due
    }

    /// The open one has all subscriptions.
    pub(super) fn need_no_renewal(&mut self) {
        self.renewal = Renewal::No;
    }
}
