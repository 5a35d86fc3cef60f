//! [`AdaptiveLimit`]: finds how much a server really allows at the same time.
//!
//! What is known, and from what:
//!
//! - *One refusal* says that the server had no room for one more. What it had of ours at that moment is not known; what is
//!   still held when the refusal is read is the nearest to it. Calls of a burst arrive in another order than they were
//!   admitted, so the order of admissions says nothing. Calls that have their response do not count, since the server is done with
//!   them; calls that were given up without a response do, for a usual round trip.
//! - *Several refusals* of calls that were under way together are one piece of news. Each is read when fewer of the refused are
//!   left, so the least of what they say is the nearest to what the server took. Refusals of calls that were sent before
//!   that are old news.
//! - *Good responses* beside refusals say nothing about the level above. Those of calls that were sent after the last refusal say that
//!   the level holds.
//! - *A higher level* is only known by trying it. One call more is tried after a round trip at first, then whenever the level
//!   has lasted an eighth longer, and at the latest after [`QUIET_PER_RAISE`] good responses. If that call is refused, nothing is lost
//!   but a round trip of one call. If all that are under way get good responses, twice as many more are tried next: where places were held by calls
//!   that are gone by now, the way back takes a few round trips.
//! - *A refusal of a call that was alone* says that others hold all places. Single calls try, each an eighth later than the
//!   last; nothing of ours would tell when places come free.
//! - *Streams* get a good response once they begin and hold their place ever after. They are counted as held in spite of it, and time
//!   alone decides when to try one more.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::clock::after;

/// A limit that was neither refused nor raised for this long is forgotten.
const FORGET: Duration = Duration::from_secs(15 * 60);
/// Good responses after which one more call is tried, however long the level has lasted.
const QUIET_PER_RAISE: u32 = 400;
/// The wait before the next try, until a round trip was measured.
const FIRST_TRY: Duration = Duration::from_millis(50);
/// The longest wait between two tries while others hold all places.
const LONGEST_TRY: Duration = Duration::from_secs(30);
/// The part of the time that a level has lasted after which a higher one is tried: while nothing goes, and while calls go.
const NOTHING: u32 = 8;
const SOMETHING: u32 = 3;

/// A limit that follows what the server takes, between 0 and a configured one.
#[derive(Debug)]
pub(super) struct AdaptiveLimit {
    limit: u32,
    /// The level that holds; below `limit` while a higher one is tried.
    base: u32,
    /// What is tried next, in calls.
    step: u32,
    /// The first admission above `base`.
    raised: Option<u64>,
    /// Once `limit` was reached: how many good responses to admissions since `raised` are missing until the level holds.
    missing: Option<u32>,
    /// Calls that were admitted after `counted` and are not back.
    outstanding: u32,
    counted: u64,
    /// Calls that were admitted since `raised`.
    new: u32,
    /// Refusals of admissions up to the first number are old; those up to the second belong to the last cut.
    epoch: (u64, u64),
    /// What refusals of the last cut cannot lower the limit below.
    floor: u32,
    /// When the level began.
    since: Instant,
    /// When a higher level may be tried.
    next_try: Instant,
    /// Good responses since the last cut or try.
    quiet: u32,
    touched: Instant,
    round_trip: RoundTrip,
    /// Admissions that have their response and are still held here.
    responded: HashSet<u64>,
    /// Until when calls that were given up may still hold a place on the server.
    given_up: VecDeque<(Instant, u32)>,
    hanging: bool,
}

/// The usual time from an admission to its good response, measured on one call at a time.
#[derive(Debug, Default)]
struct RoundTrip {
    measured: Option<(u64, Instant)>,
    usual: Option<Duration>,
}

impl RoundTrip {
    fn begin(&mut self, sequence: u64, now: Instant) {
        self.measured.get_or_insert((sequence, now));
    }

    fn end(&mut self, sequence: u64, good: bool, now: Instant) {
        let Some((_, began)) = self.measured.take_if(|(measured, _)| *measured == sequence) else {
            return;
        };
        if good {
            let took = now.saturating_duration_since(began);
            self.usual = Some(self.usual.map_or(took, |usual| (usual * 3 + took) / 4));
        }
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
    /// Begins with what is configured. `hanging`: what is held goes on for long after its response has begun.
    ///
    /// Counts admissions after `last`.
    pub(super) fn new(configured: u32, hanging: bool, last: u64, now: Instant) -> Self {
        Self {
            limit: configured,
            base: configured,
            step: 1,
            raised: None,
            missing: None,
            outstanding: 0,
            counted: last,
            new: 0,
            epoch: (0, 0),
            floor: 0,
            since: now,
            next_try: now,
            quiet: 0,
            touched: now,
            round_trip: RoundTrip::default(),
            responded: HashSet::new(),
            given_up: VecDeque::new(),
            hanging,
        }
    }

    /// The limit now, for those who look.
    pub(super) fn limit(&self) -> u32 {
        self.limit.max(1)
    }

    /// Whether `amount` may be added to what is `held`.
    pub(super) fn room(&mut self, held: u32, amount: u32, configured: u32, now: Instant) -> Room {
        while self
            .given_up
            .front()
            .is_some_and(|(until, _)| *until <= now)
        {
            self.given_up.pop_front();
        }
        let elsewhere = self.elsewhere();
        let used = held.saturating_add(elsewhere);
        if used == 0 && self.limit > 0 || used.saturating_add(amount) <= self.limit {
            return Room::Free;
        }
        let given_up = self.given_up.front().map(|(until, _)| *until);
        let above = used > 0 && used.saturating_add(amount) > configured;
        if self.raised.is_some() || self.limit >= configured || above {
            return Room::Full(given_up);
        }
        // Without a good response since the last cut the level itself is not known to hold, unless time alone can tell.
        let known = self.hanging || self.quiet > 0 || held == 0;
        if !known {
            return Room::Full(given_up);
        }
        if now >= self.next_try || self.quiet >= QUIET_PER_RAISE {
            return Room::Free;
        }
        let next = given_up.map_or(self.next_try, |until| until.min(self.next_try));
        Room::Full(Some(next))
    }

    fn elsewhere(&self) -> u32 {
        let amounts = self.given_up.iter().map(|(_, amount)| *amount);
        amounts.fold(0, u32::saturating_add)
    }

    /// Something was admitted: so much is held with it.
    pub(super) fn admitted(
        &mut self,
        sequence: u64,
        held: u32,
        amount: u32,
        configured: u32,
        now: Instant,
    ) {
        let used = held.saturating_add(self.elsewhere());
        // A call above the limit that is alone tells nothing.
        let more = used > self.limit && (used > amount || self.limit == 0);
        if more && self.raised.is_none() && self.limit < configured {
            self.base = self.limit;
            let raise = self.step.saturating_mul(amount.max(1));
            self.limit = self.limit.saturating_add(raise).max(used).min(configured);
            self.raised = Some(sequence);
            self.missing = None;
            self.new = 0;
            self.quiet = 0;
            self.touched = now;
        }
        self.outstanding += 1;
        self.new += 1;
        if self.raised.is_some() && used.saturating_add(amount) > self.limit {
            // Any of those under way may be the one that is refused, but for streams that run.
            let all = match self.hanging {
                true => self.new,
                false => self.outstanding,
            };
            self.missing.get_or_insert(all);
        }
        self.round_trip.begin(sequence, now);
    }

    /// A call was refused; `others` are what is held besides it.
    pub(super) fn refused(&mut self, sequence: u64, others: u32, last: u64, now: Instant) {
        if sequence <= self.epoch.0 {
            return;
        }
        self.touched = now;
        self.round_trip.end(sequence, false, now);
        let responded = match self.hanging {
            true => 0,
            false => u32::try_from(self.responded.len()).unwrap_or(u32::MAX),
        };
        let evident = others
            .saturating_sub(responded)
            .saturating_add(self.elsewhere());
        if sequence > self.epoch.1 {
            self.epoch = (self.epoch.1, last);
            if self.raised.is_some_and(|raised| raised <= sequence) {
                // The level before it holds still.
                self.floor = self.base;
            } else {
                self.floor = 0;
                self.since = now;
            }
            self.step = 1;
            self.quiet = 0;
            self.raised = None;
            self.missing = None;
        }
        self.limit = self.limit.min(evident).max(self.floor);
        self.base = self.limit;
        self.next_try = after(now, self.wait(now));
    }

    /// How long to wait before a higher level is tried.
    fn wait(&self, now: Instant) -> Duration {
        let lasted = now.saturating_duration_since(self.since);
        let round_trip = self.round_trip.usual.unwrap_or(FIRST_TRY);
        match self.limit {
            0 => (lasted / NOTHING)
                .max(round_trip)
                .min(LONGEST_TRY.max(round_trip)),
            _ => (lasted / SOMETHING).max(round_trip * 2),
        }
    }

    /// A good response has begun.
    pub(super) fn accepted(&mut self, sequence: u64, now: Instant) {
        if self.responded.insert(sequence) {
            self.good(sequence, now);
        }
    }

    /// Something was given back, `complete` after a response that was read to its end.
    pub(super) fn released(&mut self, sequence: u64, complete: bool, now: Instant) {
        let responded = self.responded.remove(&sequence);
        self.back(sequence);
        if complete && !responded {
            self.good(sequence, now);
        }
        self.round_trip.end(sequence, false, now);
    }

    fn back(&mut self, sequence: u64) {
        if sequence > self.counted {
            self.outstanding = self.outstanding.saturating_sub(1);
        }
    }

    fn good(&mut self, sequence: u64, now: Instant) {
        self.round_trip.end(sequence, sequence > self.epoch.1, now);
        if sequence <= self.epoch.1 {
            return;
        }
        self.quiet = self.quiet.saturating_add(1);
        if self.raised.is_none_or(|raised| sequence < raised) {
            return;
        }
        let missing = self.missing.map(|missing| missing.saturating_sub(1));
        self.missing = missing;
        if missing == Some(0) {
            self.base = self.limit;
            self.floor = 0;
            self.raised = None;
            self.missing = None;
            self.step = self.step.saturating_mul(2);
            self.since = now;
            self.next_try = now;
            self.touched = now;
        }
    }

    /// A call was given up without a response: the server may still be at work on it.
    pub(super) fn given_up(&mut self, sequence: u64, amount: u32, now: Instant) {
        self.round_trip.end(sequence, false, now);
        self.responded.remove(&sequence);
        self.back(sequence);
        if let Some(usual) = self.round_trip.usual {
            self.given_up.push_back((after(now, usual), amount));
        }
    }

    /// Lowers the limit because what was in flight was too much, by other news than a refusal of one call.
    pub(super) fn cut(&mut self, level: u32, last: u64, now: Instant) {
        self.limit = self.limit.min(level.max(1));
        self.base = self.limit;
        self.epoch = (self.epoch.1, last);
        self.floor = self.limit;
        self.step = 1;
        self.raised = None;
        self.missing = None;
        self.quiet = 0;
        self.since = now;
        self.touched = now;
        self.next_try = after(now, self.wait(now));
    }

    /// Until when it has to be kept. None once the configured limit holds.
    pub(super) fn keep_until(&self, configured: u32) -> Option<Instant> {
        let holds = self.limit >= configured && self.raised.is_none();
        (!holds).then(|| after(self.touched, FORGET))
    }
}
