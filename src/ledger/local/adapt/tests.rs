//! Tests of [`AdaptiveLimit`]: what happens, and what the limit is then.

use std::ops::RangeInclusive;

use super::*;

/// What happens, to calls by their numbers from 1 on.
#[derive(Clone, Debug)]
enum Event {
    /// A number of calls is admitted before there is anything to adapt.
    AdmitBefore(u32),
    /// A number of calls is admitted. There is room for each.
    Admit(u32),
    /// There is no room for one more before this number of milliseconds has passed; then it is admitted.
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
use Event::{Accepted, Admit, AdmitAfter, AdmitBefore, Cut, Full, GivenUp, Good, Refused, Sleep};

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

    fn room(&mut self) -> Room {
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
            GivenUp(calls) => self.each(calls, |line, call| line.limit.given_up(call, line.now)),
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
        "refusals that come one by one are one fall: what was in between is no level",
        &[
            (Admit(27), 27),
            (Refused(24..=27), 23),
            (Sleep(8_000), 23),
            (Refused(23..=23), 22),
            (AdmitAfter(50), 23),
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
    calls(
        "up to the last place",
        &[
            (Admit(27), 27),
            (Refused(27..=27), 26),
            (AdmitAfter(50), 27),
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
        "how long responses take follows what they took of late",
        &[
            (Admit(1), 27),
            (Sleep(100), 27),
            (Good(1..=1), 27),
            (Admit(1), 27),
            (Sleep(20), 27),
            (Good(2..=2), 27),
            (Admit(27), 27),
            (Refused(29..=29), 26),
            (AdmitAfter((7 * 100 + 20) / 8), 27),
        ],
    );
    calls(
        "and so does how long refusals take",
        &[
            (Admit(1), 27),
            (Sleep(100), 27),
            (Good(1..=1), 27),
            (Admit(27), 27),
            (Sleep(40), 27),
            (Refused(22..=28), 20),
            (AdmitAfter(100), 21),
            (Sleep(8), 21),
            (Refused(29..=29), 20),
            (AdmitAfter(100), 21),
            (AdmitAfter(2 * (7 * 40 + 8) / 8), 23),
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
        "calls that are given up leave no room for others: one is tried as if they were there",
        &[(GivenUp(29..=31), 20), (AdmitAfter(10), 21)],
    );
    from_twenty(
        "they count in a refusal, and until the usual round trip is over",
        &[
            (GivenUp(29..=31), 20),
            (Sleep(5), 20),
            (Refused(48..=48), 19),
            (AdmitAfter(95), 19),
            (Admit(2), 19),
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
    from_twenty(
        "not if it moves by more than an eighth",
        &[
            (AdmitAfter(10), 21),
            (Sleep(10), 21),
            (Refused(49..=49), 20),
            (Sleep(7_990), 20),
            (Refused(46..=48), 17),
            (AdmitAfter(100), 18),
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
    calls(
        "exactly twice as much may be luck",
        &[
            (Admit(27), 27),
            (Refused(2..=27), 1),
            (Sleep(60_000), 1),
            (Admit(1), 2),
            (Sleep(24), 2),
            (Admit(1), 4),
            (Refused(28..=29), 1),
            (AdmitAfter(60_024 / 8), 2),
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
    from_twenty(
        "and it lasts on if one call is refused",
        &[
            (Sleep(8_000), 20),
            (Admit(1), 21),
            (AdmitAfter(25), 23),
            (Admit(1), 23),
            (AdmitAfter(25), 27),
            (Admit(3), 27),
            (Sleep(4_000), 27),
            (Refused(49..=49), 26),
            // The time in which the try might have been refused is not its own.
            (AdmitAfter((4_000 - 25) / 3), 27),
        ],
    );
}
#[test]
fn many_good_responses_are_reason_enough() {
    // The response to a call that was sent before the refusal does not count.
    for (refused, good) in [(2, 1), (1, 2)] {
        let mut line = Line::new(false, Duration::ZERO);
        let begin = [
            (Admit(2), 27),
            (Refused(refused..=refused), 1),
            (Good(good..=good), 1),
        ];
        check("a limit of one", &mut line, &begin);
        // In no time at all.
        for call in 3..=402 {
            line.happens(Admit(1));
            assert_ne!(line.room(), Room::Free, "call {call}");
            line.happens(Good(call..=call));
        }
        check("one more is tried", &mut line, &[(Admit(2), 2)]);
    }
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
            (AdmitAfter(65), 1),
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

#[test]
fn a_large_call_runs_alone_and_tells_nothing() {
    let now = Instant::now();
    let mut limit = AdaptiveLimit::new(10, false, Duration::ZERO, now);
    (1..=4).for_each(|call| limit.admitted(u64::from(call), call, 1, 10, now));
    limit.refused(4, 4, 1, 4, now);
    (1..=4).for_each(|call| limit.released(call));
    assert_eq!(limit.limit, 3);
    assert_eq!(
        limit.room(1, 5, 10, now),
        Room::Full(Some(now + ROUND_TRIP))
    );
    assert_eq!(limit.room(0, 5, 10, now), Room::Free);
    limit.admitted(5, 5, 5, 10, now);
    assert_eq!(limit.limit, 3);
}

#[test]
fn a_call_above_the_configured_limit_is_tried_again_though_it_was_refused() {
    let now = Instant::now();
    let mut limit = AdaptiveLimit::new(10, false, Duration::ZERO, now);
    limit.admitted(1, 20, 20, 10, now);
    limit.refused(1, 20, 20, 1, now);
    limit.released(1);
    assert_eq!(limit.limit, 0);
    let then = now + ROUND_TRIP / 2;
    assert_eq!(limit.room(0, 20, 10, now), Room::Full(Some(then)));
    assert_eq!(limit.room(0, 20, 10, then), Room::Free);
}

/// A call of several values may take more than there are, if it is alone.
#[test]
fn what_goes_beyond_the_configured_limit_is_no_try() {
    let begin = Instant::now();
    let mut limit = AdaptiveLimit::new(2, true, Duration::ZERO, begin);
    let now = begin + Duration::from_secs(1);
    assert_eq!(limit.keep_until(2, now), None);
    (1..=3).for_each(|value| limit.admitted(u64::from(value), value, 1, 2, now));
    assert_eq!(limit.keep_until(2, now), None);
}

#[test]
fn a_number_that_the_server_names_is_where_the_limit_begins() {
    let mut line = Line::new(false, Duration::ZERO);
    (0..27).for_each(|_| line.admit());
    line.happens(Refused(27..=27));
    line.limit.named(13);
    assert_eq!(line.limit.limit, 13);
    let events = [
        // Refusals that were on their way say no more.
        (Refused(14..=26), 13),
        (Sleep(100), 13),
        (Good(1..=13), 13),
        (Admit(13), 13),
    ];
    for (event, limit) in events {
        line.happens(event.clone());
        assert_eq!(line.limit.limit, limit, "{event:?}");
    }
    line.happens(Refused(28..=28));
    line.limit.named(13);
    assert_eq!(line.limit.limit, 12, "somebody else holds a place");
    line.sleep(3_600_000);
    assert_eq!(line.room(), Room::Free, "one more is tried");
    line.admit();
    line.sleep(1_000);
    line.admit();
    assert_eq!(line.limit.limit, 15, "it was let in");
    line.limit.named(13);
    assert_eq!(line.limit.limit, 15, "named again it is no news");
}

#[test]
fn a_limit_is_kept_for_a_quarter_of_an_hour_after_the_next_try() {
    let now = Instant::now();
    let mut limit = AdaptiveLimit::new(10, true, Duration::ZERO, now);
    limit.cut(5, now);
    let until = limit.next_try + Duration::from_secs(900);
    assert_eq!(limit.keep_until(10, now), Some(until));
}
