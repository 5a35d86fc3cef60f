//! Tests of [`Distinct`] by itself: who is told what.

use super::*;
use crate::extensions::Priority;
use crate::principal::Charge;

fn at(ticket: u64) -> Position {
    Position {
        priority: Priority::default(),
        ticket,
        key: 0,
    }
}

const IDLE: Duration = Duration::from_secs(300);

/// What a verdict comes to, whatever the times and values in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Overtakes,
    Room,
    Full,
}
use Says::{Full, Overtakes, Room as HasRoom};

/// A meter, and calls on it by their numbers from 1 on.
struct Line {
    meter: Distinct,
    now: Instant,
    last: u64,
}

impl Line {
    fn new(limit: u32) -> Self {
        Self {
            meter: Distinct::new(limit, IDLE),
            now: Instant::now(),
            last: 0,
        }
    }

    fn with<T>(
        &mut self,
        (ticket, sequence): (u64, u64),
        values: &[&str],
        what: impl FnOnce(&mut Distinct, Ask<'_>, &mut Clock) -> T,
    ) -> T {
        let open = |value: &&str| {
            let (payer, value) = (Principal::account("svc"), Principal::mailbox(value));
            Charge::of_value(payer, Budget::OpenMailboxes, value)
        };
        let charges: Vec<Charge> = values.iter().map(open).collect();
        let ask = Ask {
            charges: &charges,
            position: at(ticket),
            sequence,
            reserve: 0,
        };
        what(&mut self.meter, ask, &mut Clock::at(self.now))
    }

    /// What a call with that ticket is told.
    fn ask(&mut self, ticket: u64, values: &[&str]) -> Says {
        let verdict = self.with((ticket, 0), values, |meter, ask, clock| {
            meter.admit(ask, clock)
        });
        match verdict {
            Verdict::Overtakes => Overtakes,
            Verdict::Room { .. } => HasRoom,
            Verdict::Full { .. } => Full,
        }
    }

    fn take(&mut self, values: &[&str]) -> u64 {
        self.last += 1;
        self.with((0, self.last), values, |meter, ask, clock| {
            meter.take(ask, clock)
        });
        self.last
    }

    fn end(&mut self, call: u64, values: &[&str], end: End) {
        self.with((0, call), values, |meter, ask, clock| {
            meter.give_back(ask, end, clock);
        });
    }

    fn refused(&mut self, call: u64, values: &[&str]) {
        let last = self.last;
        self.with((0, call), values, |meter, ask, clock| {
            meter.exceeded(ask, last, clock);
        });
    }

    /// Keeps values for a waiting call. Returns whether any was kept.
    fn keep(&mut self, ticket: u64, values: &[&str]) -> bool {
        self.with((ticket, 0), values, |meter, ask, clock| {
            meter.keep_place(ask, clock);
            meter.kept.contains_key(&ask.position)
        })
    }

    fn leave(&mut self, ticket: u64) -> bool {
        self.meter.leave_place(at(ticket))
    }

    fn held(&self) -> u32 {
        self.meter.snapshot(Budget::OpenMailboxes, self.now).held
    }
}

/// After a refusal: `a` and `b` are in use, and there is a place for one more.
fn careful() -> Line {
    let mut line = Line::new(5);
    let calls = ["a", "b", "c", "w"].map(|value| (value, line.take(&[value])));
    line.refused(calls[3].1, &["w"]);
    for (value, call) in &calls[2..] {
        line.end(*call, &[value], End::Complete);
    }
    line.now += IDLE;
    assert_eq!(line.ask(1, &["x"]), HasRoom);
    line
}

#[test]
fn after_a_refusal_a_value_is_open_to_others_once_it_has_worked() {
    let mut line = careful();
    let first = line.take(&["x"]);
    assert_eq!(line.ask(1, &["x"]), Full);
    line.end(first, &["x"], End::Complete);
    assert_eq!(line.ask(1, &["x"]), Overtakes);

    // Its first call says nothing of it, and nobody uses it: it is tried again.
    let mut line = careful();
    let first = line.take(&["x"]);
    line.end(first, &["x"], End::Dropped);
    assert_eq!(line.ask(1, &["x"]), HasRoom);

    // It is kept for a waiting call, which is the one to try it.
    let mut line = careful();
    assert!(line.keep(7, &["x"]));
    assert_eq!(line.ask(8, &["x"]), Full);
    assert_eq!(line.ask(7, &["x"]), Overtakes);
    assert!(line.leave(7));
    assert_eq!(line.ask(8, &["x"]), HasRoom);
}

#[test]
fn a_value_is_open_until_it_was_idle_for_long_enough() {
    let mut line = Line::new(2);
    let call = line.take(&["x"]);
    line.end(call, &["x"], End::Complete);
    line.now += IDLE - Duration::from_millis(1);
    assert_eq!(line.held(), 1);
    line.now += Duration::from_millis(1);
    assert_eq!(line.held(), 0);
}

#[test]
fn a_refused_value_waits_for_the_end_of_its_calls() {
    let mut line = Line::new(5);
    let call = line.take(&["y"]);
    let others = ["a", "b"].map(|value| (value, line.take(&[value])));
    line.refused(call, &["y"]);
    for (value, other) in others {
        line.end(other, &[value], End::Complete);
    }
    line.now += IDLE;
    // It is alone, so that there is room for one.
    assert_eq!(line.ask(1, &["y"]), Full);
    assert!(!line.keep(1, &["y"]));
    line.end(call, &["y"], End::Complete);
    assert_eq!(line.held(), 0);
    assert_eq!(line.ask(1, &["y"]), HasRoom);
}

#[test]
fn of_several_values_those_that_work_are_not_the_refused_ones() {
    let mut line = Line::new(5);
    let first = line.take(&["x"]);
    line.end(first, &["x"], End::Complete);
    let both = line.take(&["x", "y"]);
    line.refused(both, &["x", "y"]);
    assert_eq!(line.ask(1, &["x"]), Overtakes);
    assert_eq!(line.ask(1, &["y"]), Full);
}

#[test]
fn a_late_refusal_does_not_hide_that_of_a_call_in_use() {
    let mut line = Line::new(5);
    let calls = [line.take(&["x"]), line.take(&["x"])];
    line.end(calls[0], &["x"], End::Complete);
    line.refused(calls[0], &["x"]);
    line.refused(calls[1], &["x"]);
    line.refused(calls[1], &["x"]);
    line.end(calls[1], &["x"], End::Complete);
    assert_eq!(line.held(), 0);
}

#[test]
fn a_call_that_was_never_sent_does_not_keep_a_refused_value() {
    let mut line = Line::new(5);
    let calls = [line.take(&["x"]), line.take(&["x"])];
    line.refused(calls[0], &["x"]);
    line.end(calls[0], &["x"], End::Complete);
    line.end(calls[1], &["x"], End::NotSent);
    assert_eq!(line.held(), 0);
}

#[test]
fn the_value_that_is_open_for_longest_closes_for_calls_that_starve() {
    let mut line = Line::new(2);
    line.take(&["x"]);
    let other = line.take(&["y"]);
    line.meter.starved(1, 10);
    // Older calls than those that come from now on still find it open.
    assert_eq!(line.ask(9, &["x"]), Overtakes);
    assert_eq!(line.ask(10, &["x"]), Full);
    assert_eq!(line.ask(10, &["y"]), Overtakes);
    assert!(!line.keep(10, &["x"]));
    assert!(line.keep(9, &["x"]));
    assert!(line.leave(9));
    // There may be room, and nobody may wait any more: it closes first.
    line.end(other, &["y"], End::Complete);
    line.now += IDLE;
    assert_eq!(line.ask(10, &["x"]), Full);
    assert_eq!(line.ask(9, &["x", "z"]), HasRoom);
    // What is kept besides does not open it.
    assert!(line.keep(12, &["x", "z"]));
    assert_eq!(line.ask(12, &["x", "z"]), Full);
}

#[test]
fn a_refused_value_is_not_the_one_that_closes() {
    let mut line = Line::new(3);
    let refused = line.take(&["y"]);
    let works = line.take(&["x"]);
    line.end(works, &["x"], End::Complete);
    line.take(&["x"]);
    line.refused(refused, &["y"]);
    assert_eq!(line.ask(10, &["x"]), Overtakes);
    line.meter.starved(1, 10);
    assert_eq!(line.ask(10, &["x"]), Full);
}

#[test]
fn values_are_kept_within_the_limit() {
    let mut line = Line::new(2);
    line.take(&["x"]);
    assert!(line.keep(5, &["y"]));
    assert_eq!(line.held(), 2);
    assert!(line.leave(5));
    // It was not used.
    assert_eq!(line.held(), 1);
    assert!(!line.keep(5, &["y", "z"]));
    line.take(&["y"]);
    assert!(!line.keep(5, &["z"]));
    assert_eq!(line.held(), 2);
    assert!(line.keep(5, &["x"]));
    assert!(line.keep(6, &["x", "y"]));
}

#[test]
fn a_kept_value_is_open_for_as_long_as_it_is_kept() {
    let mut line = Line::new(1);
    let call = line.take(&["x"]);
    line.end(call, &["x"], End::Complete);
    assert!(line.keep(5, &["x"]));
    line.now += IDLE * 2;
    assert_eq!(line.ask(6, &["y"]), Full);
    assert_eq!(line.ask(5, &["x"]), Overtakes);
}

#[test]
fn above_the_limit_a_kept_value_is_open_as_long_as_on_the_server() {
    let mut line = Line::new(2);
    let call = line.take(&["x"]);
    line.end(call, &["x"], End::Complete);
    assert!(line.keep(5, &["x"]));
    line.take(&["y"]);
    let policy = Limit::Distinct {
        limit: 2,
        idle: IDLE,
    };
    line.meter.set_limit(Some(1), policy);
    line.now += IDLE - Duration::from_millis(1);
    assert_eq!(line.ask(6, &["z"]), Full);
    assert_eq!(line.held(), 2);
    line.now += Duration::from_millis(1);
    assert_eq!(line.ask(6, &["z"]), Full);
    assert_eq!(line.held(), 1);
}

#[test]
fn a_value_that_was_opened_anew_is_not_the_one_that_was_kept() {
    let mut line = Line::new(2);
    assert!(line.keep(5, &["v"]));
    let refused = line.take(&["w"]);
    line.refused(refused, &["w"]);
    // There is one place less: the one that is only kept goes.
    assert_eq!(line.ask(6, &["z"]), Full);
    line.end(refused, &["w"], End::Complete);
    assert_eq!(line.held(), 0);
    line.take(&["v"]);
    assert_eq!(line.ask(5, &["v"]), Full);
}

#[test]
fn what_the_next_process_has_to_know() {
    let stays = |line: &Line| {
        let Some(Known::Open { values, limit }) = line.meter.export(line.now) else {
            return (Vec::new(), None);
        };
        let mut stays: Vec<_> = values.iter().map(|open| open.stays).collect();
        stays.sort();
        (stays, limit)
    };
    let mut line = Line::new(3);
    assert_eq!(stays(&line), (vec![], None));
    // What was opened for a call that waits, and not used yet, is free at once.
    assert!(line.keep(7, &["kept"]));
    assert_eq!(stays(&line), (vec![], None));
    let [running, ended] = [["a"], ["b"]].map(|values| line.take(&values));
    line.end(ended, &["b"], End::Complete);
    line.now += IDLE / 4;
    assert_eq!(stays(&line), (vec![IDLE / 4 * 3, IDLE], None));
    // It may be in use until now, whenever it was used before.
    line.end(running, &["a"], End::Complete);
    assert_eq!(stays(&line), (vec![IDLE / 4 * 3, IDLE], None));
    assert!(line.leave(7));

    let mut line = careful();
    line.now += IDLE;
    assert_eq!(stays(&line), (vec![IDLE; 2], Some(line.meter.limit_now())));
}

#[test]
fn values_close_for_those_that_starve_again_and_again() {
    let mut line = Line::new(2);
    for round in 0..3 {
        let values = ["a", "b"];
        let calls = values.map(|value| line.take(&[value]));
        line.meter.starved(1, 10 * round);
        assert_eq!(line.ask(10 * round, &["a"]), Full, "it closes");
        for (call, value) in calls.into_iter().zip(values) {
            line.end(call, &[value], End::Complete);
        }
        line.now += IDLE;
        assert_eq!(line.held(), 0);
        assert_eq!(line.ask(0, &["x"]), HasRoom);
    }
}

#[test]
fn a_limit_of_another_process_is_tried_at_the_pace_of_a_learnt_one() {
    let mut line = Line::new(5);
    let known = Known::Open {
        values: Vec::new(),
        limit: Some(2),
    };
    line.meter.import(&known, Duration::ZERO, line.now);
    let mut learnt = AdaptiveLimit::new(5, true, IDLE / 8, line.now);
    learnt.cut(2, line.now);
    let imported = line.meter.adaptive.as_ref().expect("a limit");
    let kept = imported.keep_until(5, line.now);
    assert_eq!(kept, learnt.keep_until(5, line.now));
}
