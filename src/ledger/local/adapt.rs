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
//! - *Calls that are given up* may hold their places for longer, as those of another client do. How long is not known, so nothing is
//!   counted for them: refusals tell, and so do tries.
//! - *Streams and mailboxes* have a good response once they are open, and hold their place ever after. They count in spite of it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::clock::after;

/// A higher level that was not tried for so long, though it might have been, is not wanted: the limit is forgotten. It is the longest
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

/// What a limit says about more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// Not before something is given back, or until then.
    Full(Option<Instant>),
}

impl AdaptiveLimit {
    /// Begins with `top`. `hanging`: what is held goes on for long after its response has begun. `pace`: nothing is tried sooner
    /// than so long after a refusal.
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
    pub(super) fn room(&self, held: u32, amount: u32, configured: u32, now: Instant) -> Room {
        let used = held.saturating_add(amount);
        if used <= self.limit || held == 0 && self.limit > 0 {
            Room::Free
        } else if held > 0 && used > configured {
            Room::Full(None)
        } else if now >= self.next_try || self.quiet >= QUIET_PER_RAISE {
            Room::Free
        } else {
            Room::Full(Some(self.next_try))
        }
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

    /// A call was refused; so much is held with it. `last` is the last number among the admissions.
    pub(super) fn refused(
        &mut self,
        sequence: u64,
        held: u32,
        amount: u32,
        last: u64,
        now: Instant,
    ) {
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
        self.lower(self.limit.saturating_sub(amount), now);
    }

    /// Lowers the limit because what was in flight was too much, by other news than a refusal of one call.
    pub(super) fn cut(&mut self, level: u32, now: Instant) {
        self.lower(self.limit.min(level.max(1)), now);
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
mod tests {
    use std::ops::RangeInclusive;

    use super::*;

    /// What happens, to calls by their numbers from 1 on.
    #[derive(Clone, Debug)]
    enum Event {
        /// So many calls are admitted before there is anything to adapt.
        AdmitBefore(u32),
        /// So many calls are admitted. There is room for each.
        Admit(u32),
        /// There is no room for one more before so many milliseconds have passed; then it is admitted.
        AdmitAfter(u64),
        /// There is no room for one more, however long one waits.
        Full,
        Sleep(u64),
        Refused(RangeInclusive<u64>),
        /// The response has begun.
        Accepted(RangeInclusive<u64>),
        /// The response has come, and was read.
        Good(RangeInclusive<u64>),
        GivenUp(RangeInclusive<u64>),
        Cut(u32),
    }
    use Event::{
        Accepted, Admit, AdmitAfter, AdmitBefore, Cut, Full, GivenUp, Good, Refused, Sleep,
    };

    const TOP: u32 = 27;

    struct Line {
        limit: AdaptiveLimit,
        now: Instant,
        held: u32,
        last: u64,
    }

    impl Line {
        fn new(hanging: bool, pace: Duration) -> Self {
            let now = Instant::now();
            Self {
                limit: AdaptiveLimit::new(TOP, hanging, pace, now),
                now,
                held: 0,
                last: 0,
            }
        }

        fn room(&self) -> Room {
            self.limit.room(self.held, 1, TOP, self.now)
        }

        fn sleep(&mut self, millis: u64) {
            self.now += Duration::from_millis(millis);
        }

        fn admit(&mut self) {
            assert_eq!(self.room(), Room::Free);
            self.held += 1;
            self.last += 1;
            let (held, now) = (self.held, self.now);
            self.limit.admitted(self.last, held, 1, TOP, now);
        }

        fn each(&mut self, calls: RangeInclusive<u64>, end: impl Fn(&mut Self, u64)) {
            for call in calls {
                end(self, call);
                self.limit.released(call);
                self.held -= 1;
            }
        }

        fn happens(&mut self, event: Event) {
            let good = |line: &mut Self, call| line.limit.accepted(call, line.now);
            match event {
                AdmitBefore(calls) => {
                    self.held += calls;
                    self.last += u64::from(calls);
                }
                Admit(calls) => (0..calls).for_each(|_| self.admit()),
                AdmitAfter(millis) => {
                    let then = self.now + Duration::from_millis(millis);
                    assert_eq!(self.room(), Room::Full(Some(then)), "{millis} ms");
                    self.now = then;
                    self.admit();
                }
                Full => assert_eq!(self.room(), Room::Full(None)),
                Sleep(millis) => self.sleep(millis),
                Refused(calls) => self.each(calls, |line, call| {
                    let (held, last, now) = (line.held, line.last, line.now);
                    line.limit.refused(call, held, 1, last, now);
                }),
                Accepted(calls) => calls.for_each(|call| good(self, call)),
                Good(calls) => self.each(calls, good),
                GivenUp(calls) => self.each(calls, |_, _| {}),
                Cut(level) => self.limit.cut(level, self.now),
            }
        }
    }

    /// Runs events, and checks the limit after each.
    fn check(rule: &str, line: &mut Line, events: &[(Event, u32)]) {
        println!("{rule}");
        for (event, limit) in events {
            println!("  {event:?}");
            line.happens(event.clone());
            assert_eq!(line.limit.limit, *limit, "{rule}: {event:?}");
        }
    }

    fn calls(rule: &str, events: &[(Event, u32)]) {
        check(rule, &mut Line::new(false, Duration::ZERO), events);
    }

    #[test]
    fn what_refusals_tell() {
        calls(
            "what was under way is too much by one",
            &[(Admit(10), 27), (Refused(3..=3), 9)],
        );
        calls(
            "it was under way with the call, not when the refusal is read",
            &[(Admit(10), 27), (Good(1..=6), 27), (Refused(10..=10), 9)],
        );
        calls(
            "each call of a burst counts once, whatever has ended before it is read",
            &[
                (AdmitBefore(27), 27),
                (Refused(14..=20), 20),
                (Good(1..=9), 20),
                (Refused(21..=27), 13),
            ],
        );
        calls(
            "calls that have their response do not count",
            &[
                (Admit(6), 27),
                (Accepted(1..=4), 27),
                (Admit(4), 27),
                (Refused(10..=10), 5),
            ],
        );
        calls(
            "a call that was alone leaves nothing",
            &[(Admit(1), 27), (Refused(1..=1), 0)],
        );
    }

    #[test]
    fn streams_hold_their_places() {
        let events = [
            (Admit(6), 27),
            (Accepted(1..=4), 27),
            (Admit(4), 27),
            (Refused(10..=10), 9),
        ];
        let rule = "streams count though they have a response";
        check(rule, &mut Line::new(true, Duration::ZERO), &events);
    }

    /// After that 20 of 27 go, refusals take 10 ms and responses 100 ms: 200 ms from the start, and 90 ms after the cut. The next
    /// call is the 49th.
    fn twenty() -> Vec<(Event, u32)> {
        vec![
            (Admit(1), 27),
            (Sleep(100), 27),
            (Good(1..=1), 27),
            (Admit(27), 27),
            (Sleep(10), 27),
            (Refused(22..=28), 20),
            (Sleep(90), 20),
            (Good(2..=21), 20),
            (Admit(20), 20),
        ]
    }

    fn from_twenty(rule: &str, events: &[(Event, u32)]) {
        calls(rule, &[&twenty(), events].concat());
    }

    #[test]
    fn how_a_higher_level_is_found() {
        from_twenty(
            "one more after a round trip; what is let in is known after a quarter of one, and twice as many follow",
            &[
                (AdmitAfter(10), 21),
                (AdmitAfter(25), 23),
                (Admit(1), 23),
                (AdmitAfter(25), 27),
                (Admit(3), 27),
                (Full, 27),
            ],
        );
        from_twenty(
            "where refusals take longer, it is known after twice as long as they take",
            &[
                (AdmitAfter(10), 21),
                (Sleep(20), 21),
                (Refused(49..=49), 20),
                (AdmitAfter(100), 21),
                (AdmitAfter(40), 23),
            ],
        );
        calls(
            "where none was seen, after two round trips",
            &[
                (Admit(20), 27),
                (Cut(10), 10),
                (Sleep(100), 10),
                (Good(1..=20), 10),
                (Admit(10), 10),
                (Admit(1), 11),
                (AdmitAfter(200), 13),
            ],
        );
        from_twenty(
            "what a try overshoots comes back, and what was let in stays",
            &[
                (AdmitAfter(10), 21),
                (AdmitAfter(25), 23),
                (Admit(1), 23),
                (Sleep(10), 23),
                (Refused(50..=51), 21),
            ],
        );
        from_twenty(
            "calls that are given up have left, until a refusal says that they have not",
            &[
                (GivenUp(29..=31), 20),
                (Admit(3), 20),
                (Sleep(5), 20),
                (Refused(49..=51), 17),
            ],
        );
    }

    #[test]
    fn how_long_a_level_lasts() {
        from_twenty(
            "a refused try leaves the level: the next one comes when it has lasted a third longer",
            &[
                (Sleep(8_000), 20),
                (Admit(1), 21),
                (Sleep(10), 21),
                (Refused(49..=49), 20),
                (AdmitAfter(8_100 / 3), 21),
                (Sleep(30), 21),
                (Refused(50..=50), 20),
                (AdmitAfter(10_830 / 3), 21),
            ],
        );
        from_twenty(
            "a try that succeeds by luck, too",
            &[
                (Sleep(8_000), 20),
                (Admit(1), 21),
                (AdmitAfter(25), 23),
                (Admit(1), 23),
                (Sleep(6), 23),
                (Refused(49..=51), 20),
                (AdmitAfter(8_121 / 3), 21),
            ],
        );
        from_twenty(
            "it lasts on if it moves a little",
            &[
                (AdmitAfter(10), 21),
                (Sleep(10), 21),
                (Refused(49..=49), 20),
                (Sleep(7_990), 20),
                (Refused(47..=48), 18),
                (AdmitAfter(8_100 / 3), 19),
            ],
        );
        calls(
            "not if twice as much was let in",
            &[
                (Admit(27), 27),
                (Refused(2..=27), 1),
                (Sleep(60_000), 1),
                (Admit(1), 2),
                (Sleep(20), 2),
                (Admit(2), 4),
                (Sleep(20), 4),
                (Admit(1), 8),
                (Refused(28..=31), 1),
                (AdmitAfter(50), 2),
            ],
        );
        from_twenty(
            "one that lasts begins a new level, and so does a fall",
            &[
                (Sleep(8_000), 20),
                (Admit(1), 21),
                (AdmitAfter(25), 23),
                (Admit(1), 23),
                (AdmitAfter(25), 27),
                (Admit(3), 27),
                (Sleep(4_000), 27),
                (Refused(49..=55), 20),
                (AdmitAfter(100), 21),
            ],
        );
    }
    #[test]
    fn many_good_responses_are_reason_enough() {
        let mut line = Line::new(false, Duration::ZERO);
        // The response to a call that was sent before the refusal does not count.
        let begin = [(Admit(2), 27), (Refused(2..=2), 1), (Good(1..=1), 1)];
        check("a limit of one", &mut line, &begin);
        // In no time at all.
        for call in 3..=402 {
            line.happens(Admit(1));
            assert_ne!(line.room(), Room::Free, "call {call}");
            line.happens(Good(call..=call));
        }
        check("one more is tried", &mut line, &[(Admit(2), 2)]);
    }

    #[test]
    fn the_less_goes_the_sooner_more_is_tried() {
        let hours = |hours: u64| hours * 3_600_000;
        for (level, lasted, wait) in [
            (20, 21_600, 7_200),
            (3, 21_600, 4_800),
            (1, 21_600, 2_700),
            (0, 21_600, 2_700),
            // No wait is endless.
            (20, hours(24), hours(1) / 4),
            (0, hours(24), 30_000),
        ] {
            calls(
                &format!("{level} of 27 for {lasted} ms"),
                &[
                    (Admit(27), 27),
                    (Refused(u64::from(level) + 1..=27), level),
                    (Sleep(lasted - 10), level),
                    (Admit(1), level + 1),
                    (Sleep(10), level + 1),
                    (Refused(28..=28), level),
                    (AdmitAfter(wait), level + 1),
                ],
            );
        }
    }

    #[test]
    fn where_nothing_goes_single_calls_try() {
        calls(
            "one that is let in begins a new level, however short",
            &[
                (Admit(1), 27),
                (Sleep(100), 27),
                (Good(1..=1), 27),
                (Admit(1), 27),
                (Sleep(10), 27),
                (Refused(2..=2), 0),
                (AdmitAfter(50), 1),
                (Sleep(10), 1),
                (Refused(3..=3), 0),
                (Sleep(30_000), 0),
                (Admit(1), 1),
                (AdmitAfter(25), 3),
                (Sleep(10), 3),
                (Refused(5..=5), 1),
                (GivenUp(4..=4), 1),
                (Admit(1), 1),
                (Sleep(10), 1),
                (Refused(6..=6), 0),
                (AdmitAfter(50), 1),
            ],
        );
    }

    #[test]
    fn places_that_come_free_slowly_are_tried_slowly() {
        let events = [
            (Admit(12), 27),
            (Refused(11..=12), 10),
            (AdmitAfter(37_500), 11),
        ];
        let pace = Duration::from_millis(37_500);
        check("the pace is kept", &mut Line::new(true, pace), &events);
    }

    #[test]
    fn a_limit_is_kept_until_it_has_held_or_nobody_wants_more() {
        let mut line = Line::new(false, Duration::ZERO);
        let kept = |line: &Line| line.limit.keep_until(TOP, line.now);
        check(
            "a cut",
            &mut line,
            &[(Admit(27), 27), (Refused(26..=27), 25)],
        );
        let then = line.now + ROUND_TRIP + FORGET;
        assert_eq!(kept(&line), Some(then));
        let events = [
            (Sleep(8_000), 25),
            (Admit(1), 26),
            (Sleep(100), 26),
            (Admit(1), 27),
        ];
        check("the way back", &mut line, &events);
        // The level below had lasted for eight seconds.
        for (sleep, keeps) in [(100, true), (7_000, true), (1_200, false)] {
            line.sleep(sleep);
            assert_eq!(kept(&line).is_some(), keeps, "{sleep}");
        }
    }
}
