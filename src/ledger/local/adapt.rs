//! [`AdaptiveLimit`]: finds how much a server really allows at the same time.
//!
//! What is known, and from what:
//!
//! - *One refusal* says that the server had no room for one more. So the limit is what was under way at the most while that call
//!   was, less the call itself. Calls that have their response do not count, since the server is done with them.
//! - *Several refusals* of calls that were under way together lower the limit once each. What counts is their number and not what
//!   is held when each is read: each took a place in the count that it never had on the server, and others have ended meanwhile.
//!   So a limit that was used up never falls below what the server took, however late a refusal is read.
//! - *A higher level* is only known by trying it. One call more is tried when the level has lasted a third longer, sooner the less of
//!   what is configured goes, down to an eighth; and at the latest after [`QUIET_PER_RAISE`] good responses. If that call is refused,
//!   nothing is lost but its way to the server and back.
//! - *A call that is let in* is known sooner than by its response: it was not refused for twice as long as refusals take. Then two
//!   more are tried, then four, and so on. Where places have come free the way back takes a few times as long as a refusal, and
//!   what it overshoots comes back as refusals.
//! - *A level lasts* though the limit moves by up to an eighth, or leaves it for up to an eighth of the time that it has lasted. Calls
//!   that are on their way hold no place, so that a full server seems to have room for a moment: a try that succeeds by that luck
//!   must not begin the waits anew. Where more than twice as much is let in, it was no luck.
//! - *A refusal of a call that was alone* says that others hold all places. Single calls try, since nothing of ours would tell when
//!   places come free.
//! - *Calls that are given up* hold their places on the server until it is done with them. They count until they would have had their
//!   response, by the usual round trip. How much longer one takes is not known: refusals tell, and so do tries.
//! - *A number that the server names* with its first refusal is where the limit begins: refusals of calls that were under way then say no
//!   more. From there it goes on as ever, since the number may count other things than these calls.
//! - *Streams and mailboxes* have a good response once they are open, and hold their place ever after. They count in spite of it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::clock::after;

/// A higher level that was not tried for this long, though it might have been, is not wanted: the limit is forgotten. It is the longest
/// wait between two tries, too.
const FORGET: Duration = Duration::from_secs(15 * 60);
/// The longest wait between two tries while others hold all places.
const LONGEST_ALONE: Duration = Duration::from_secs(30);
/// Good responses after which one more call is tried, however long the level has lasted.
const QUIET_PER_RAISE: u32 = 400;
/// What counts as a round trip until one was measured.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// A level has moved once it differs by more than this part of it, or has been left for more than this part of the time that it had
/// lasted. It is the least part of that time after which a higher one is tried, too.
const MOVED: u32 = 8;
/// The largest part of the time that a level has lasted after which a higher one is tried.
const SELDOM: u32 = 3;

/// A limit that follows what the server takes, between 0 and a configured one.
#[derive(Debug)]
pub(super) struct AdaptiveLimit {
    limit: u32,
    /// What it was at first.
    top: u32,
    /// The level that has lasted since then.
    level: u32,
    since: Instant,
    /// How much more is tried next, in calls; 1 until a try has succeeded.
    step: u32,
    /// When a higher level may be tried.
    next_try: Instant,
    lowered: Instant,
    /// Admissions up to this one belong to the last cut.
    epoch: u64,
    /// Good responses since the last cut or try.
    quiet: u32,
    calls: HashMap<u64, Call>,
    /// What is held here and has its response.
    responded: u32,
    lost: Lost,
    /// The number that the server has named.
    named: Option<Named>,
    /// The usual time from an admission to its good response.
    round_trip: Option<Duration>,
    /// The longest time from an admission to its refusal, of late.
    refusal: Option<Duration>,
    hanging: bool,
    pace: Duration,
}

/// What was admitted and is still held.
#[derive(Debug)]
struct Call {
    admitted: Instant,
    /// What was under way then, with it.
    used: u32,
    amount: u32,
    responded: bool,
}

/// A number that the server has named.
#[derive(Clone, Copy, Debug)]
struct Named {
    number: u32,
    /// Refusals of admissions up to this one say no more than the number does.
    epoch: u64,
}

/// Calls that were given up, and that the server may be at work on.
#[derive(Debug, Default)]
struct Lost {
    amount: u32,
    /// Until when each counts.
    calls: BinaryHeap<Reverse<(Instant, u32)>>,
}

impl Lost {
    fn add(&mut self, until: Instant, amount: u32) {
        self.amount = self.amount.saturating_add(amount);
        self.calls.push(Reverse((until, amount)));
    }

    /// What counts now, and until when.
    fn at(&mut self, now: Instant) -> (u32, Option<Instant>) {
        while let Some(&Reverse((until, amount))) = self.calls.peek() {
            if until > now {
                return (self.amount, Some(until));
            }
            self.calls.pop();
            self.amount = self.amount.saturating_sub(amount);
        }
        (0, None)
    }
}

/// What a limit says about more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// Not before something is given back, or until then.
    Full(Option<Instant>),
}

impl AdaptiveLimit {
    /// Begins with `top`. `hanging`: what is held goes on for long after its response has begun. `pace`: nothing is tried sooner
    /// than this long after a refusal.
    pub(super) fn new(top: u32, hanging: bool, pace: Duration, now: Instant) -> Self {
        Self {
            limit: top,
            top,
            level: top,
            since: now,
            step: 1,
            next_try: now,
            lowered: now,
            epoch: 0,
            quiet: 0,
            calls: HashMap::new(),
            responded: 0,
            lost: Lost::default(),
            named: None,
            round_trip: None,
            refusal: None,
            hanging,
            pace,
        }
    }

    /// The limit now, for those who look.
    pub(super) fn limit(&self) -> u32 {
        self.limit.max(1)
    }

    /// Whether `amount` may be added to what is `held`.
    pub(super) fn room(&mut self, held: u32, amount: u32, configured: u32, now: Instant) -> Room {
        let (lost, until) = self.lost.at(now);
        let held = held.saturating_add(lost);
        let used = held.saturating_add(amount);
        if used <= self.limit || held == 0 && self.limit > 0 {
            Room::Free
        } else if held > 0 && used > configured {
            Room::Full(until)
        } else if now >= self.next_try || self.quiet >= QUIET_PER_RAISE {
            Room::Free
        } else {
            let next = until.map_or(self.next_try, |until| until.min(self.next_try));
            Room::Full(Some(next))
        }
    }

    /// Something was admitted: `held` is held with it.
    pub(super) fn admitted(
        &mut self,
        sequence: u64,
        held: u32,
        amount: u32,
        configured: u32,
        now: Instant,
    ) {
        let held = held.saturating_add(self.lost.at(now).0);
        // A call above the limit that is alone tells nothing.
        let more = held > self.limit && (held > amount || self.limit == 0);
        if more && self.limit < configured {
            self.note_level(now);
            let raise = self.step.saturating_mul(amount.max(1));
            self.limit = self.limit.saturating_add(raise).max(held).min(configured);
            self.step = self.step.saturating_mul(2);
            self.quiet = 0;
            self.next_try = after(now, self.let_in());
        }
        let call = Call {
            admitted: now,
            used: self.under_way(held),
            amount,
            responded: false,
        };
        self.calls.insert(sequence, call);
    }

    /// A call was refused; `held` is held with it. `last` is the last number among the admissions.
    pub(super) fn refused(
        &mut self,
        sequence: u64,
        held: u32,
        amount: u32,
        last: u64,
        now: Instant,
    ) {
        let held = held.saturating_add(self.lost.at(now).0);
        let mut used = self.under_way(held);
        if let Some(call) = self.take(sequence) {
            used = used.max(call.used);
            let took = now.saturating_duration_since(call.admitted);
            let late = |longest: Duration| (longest * 7 + took) / 8;
            self.refusal = Some(self.refusal.map_or(took, late).max(took));
        }
        if self.step > 1 {
            self.note_level(now);
        }
        if sequence > self.epoch {
            self.epoch = last;
            self.limit = self.limit.min(used);
        }
        let named = self.named.filter(|named| sequence <= named.epoch);
        let least = named.map_or(0, |named| named.number.min(self.limit));
        self.lower(self.limit.saturating_sub(amount).max(least), now);
    }

    /// Lowers the limit because what was in flight was too much, by other news than a refusal of one call.
    pub(super) fn cut(&mut self, level: u32, now: Instant) {
        self.lower(self.limit.min(level.max(1)), now);
    }

    /// The server says that this is its limit. Named again it is no news.
    pub(super) fn named(&mut self, number: u32) {
        if self.named.is_none() {
            let number = number.max(1);
            self.named = Some(Named {
                number,
                epoch: self.epoch,
            });
            self.limit = self.limit.min(number);
        }
    }

    fn lower(&mut self, limit: u32, now: Instant) {
        self.limit = limit;
        self.step = 1;
        self.quiet = 0;
        self.lowered = now;
        self.next_try = after(now, self.wait(now));
    }

    /// A good response has begun.
    pub(super) fn accepted(&mut self, sequence: u64, now: Instant) {
        let Some(call) = self.calls.get_mut(&sequence).filter(|c| !c.responded) else {
            return;
        };
        call.responded = true;
        self.responded = self.responded.saturating_add(call.amount);
        let took = now.saturating_duration_since(call.admitted);
        let usual = |usual: Duration| (usual * 7 + took) / 8;
        self.round_trip = Some(self.round_trip.map_or(took, usual));
        if sequence > self.epoch {
            self.quiet = self.quiet.saturating_add(1);
        }
    }

    /// Something was given back.
    pub(super) fn released(&mut self, sequence: u64) {
        self.take(sequence);
    }

    /// A call was given up before its response came.
    pub(super) fn given_up(&mut self, sequence: u64, now: Instant) {
        let Some(call) = self.take(sequence) else {
            return;
        };
        // A stream ends on the server once it writes the next time.
        if let Some(usual) = self.round_trip.filter(|_| !self.hanging) {
            let until = after(call.admitted, usual);
            if until > now {
                self.lost.add(until, call.amount);
            }
        }
    }

    fn take(&mut self, sequence: u64) -> Option<Call> {
        let call = self.calls.remove(&sequence)?;
        if call.responded {
            self.responded = self.responded.saturating_sub(call.amount);
        }
        Some(call)
    }

    /// What the server is at work on, of what is held.
    fn under_way(&self, held: u32) -> u32 {
        match self.hanging {
            true => held,
            false => held.saturating_sub(self.responded),
        }
    }

    /// Begins a new level if the limit has moved to one that lasts.
    fn note_level(&mut self, now: Instant) {
        let since = match self.step {
            1 => self.lowered,
            _ if self.has_held(MOVED, now) => self.next_try,
            _ => return,
        };
        if self.has_moved() {
            (self.level, self.since) = (self.limit, since);
        }
    }

    fn has_moved(&self) -> bool {
        self.limit.abs_diff(self.level) > self.level / MOVED
    }

    /// Whether the limit has held for so large a part of the time that the level before it had lasted, and a round trip.
    fn has_held(&self, part: u32, now: Instant) -> bool {
        if self.limit > self.level.saturating_mul(2) {
            // So much was let in by no luck.
            return now >= self.next_try;
        }
        let before = self.next_try.saturating_duration_since(self.since);
        now >= after(self.next_try, (before / part).max(self.round_trip()))
    }

    fn round_trip(&self) -> Duration {
        self.round_trip.unwrap_or(ROUND_TRIP)
    }

    /// How long to wait until a call that is not refused was let in.
    fn let_in(&self) -> Duration {
        let round_trip = self.round_trip();
        let refusal = self.refusal.unwrap_or(round_trip);
        // Some came at once: that the others do, too, is not known.
        (refusal * 2).clamp(round_trip / 4, round_trip * 2)
    }

    /// How long to wait before a higher level is tried.
    fn wait(&self, now: Instant) -> Duration {
        let lasted = match self.has_moved() {
            true => Duration::ZERO,
            false => now.saturating_duration_since(self.since),
        };
        // The less goes, the more there is to win.
        let part = lasted.saturating_mul(self.limit.saturating_mul(2)) / self.top.max(1);
        let wait = part.clamp(lasted / MOVED, lasted / SELDOM);
        let (longest, least) = match self.limit {
            0 => (LONGEST_ALONE, self.round_trip() / 2),
            _ => (FORGET, self.round_trip()),
        };
        wait.min(longest).max(least).max(self.pace)
    }

    /// Until when it has to be kept. None once the configured limit has held for as long as the level before.
    pub(super) fn keep_until(&self, configured: u32, now: Instant) -> Option<Instant> {
        let holds = self.limit >= configured && self.has_held(1, now);
        (!holds).then(|| after(self.next_try, FORGET))
    }
}

#[cfg(test)]
mod tests;
