//! Tests of the trail: who writes where, what is listed, and that what is left out adds up.

use super::log::{FIRST, LAST, LIVE};
use super::*;
use crate::ledger::{AcquireRequest, Admission};
use crate::principal::{Principal, counted};
use tokio::time::Instant;

fn charge(trail: &CallTrail, ticket: u64) {
    let request = AcquireRequest::new(Principal::new("x"));
    trail.record(|attempt| attempt.admission = Some(Admission::new(request, ticket, 0)));
}

fn parts(trail: &CallTrail) -> Vec<(Option<u32>, bool)> {
    let attempts = trail.attempts();
    attempts
        .iter()
        .map(|attempt| (attempt.part, attempt.resend))
        .collect()
}

/// The tickets of the attempts that `trail` sees.
fn tickets(trail: &CallTrail) -> Vec<Option<u64>> {
    let mut tickets = Vec::new();
    trail.each(|attempt| tickets.push(attempt.admission.as_ref().map(Admission::ticket)));
    tickets
}

fn end(trail: &CallTrail) {
    trail.record(|attempt| attempt.ended = Some(Instant::now()));
}

#[test]
fn parts_see_their_own_attempts_alone() {
    let trail = CallTrail::new();
    let (one, other) = (trail.part(0, false), trail.part(1, true));
    let first = one.begin_attempt();
    charge(&other.begin_attempt(), 7);
    charge(&first, 5);
    charge(&other.begin_attempt(), 8);
    // A part writes to its last attempt.
    charge(&other, 9);
    assert_eq!(tickets(&one), [Some(5)]);
    assert_eq!(tickets(&first), [Some(5)]);
    assert_eq!(tickets(&other), [Some(7), Some(9)]);
    assert_eq!(tickets(&trail), [Some(5), Some(7), Some(9)]);
    assert_eq!((other.read_all().parts, trail.read_all().parts), (1, 2));
    let expected = [(Some(0), false), (Some(1), true), (Some(1), true)];
    assert_eq!(parts(&trail), expected);
}

#[test]
fn the_first_attempt_of_a_part_tells_how_long_it_was_held_back() {
    let trail = CallTrail::new();
    let part = trail.part(0, false).held_back(Duration::from_secs(3));
    part.begin_attempt();
    part.begin_attempt();
    trail.part(1, false).begin_attempt();
    let held: Vec<_> = trail.attempts().iter().map(|a| a.backed_off).collect();
    assert_eq!(
        held,
        [Duration::from_secs(3), Duration::ZERO, Duration::ZERO]
    );
}

#[test]
fn a_part_without_an_attempt_gets_one_when_it_is_written_to() {
    let trail = CallTrail::new();
    let part = trail.part(3, true);
    assert!(tickets(&part).is_empty());
    charge(&part, 1);
    charge(&part.clone(), 2);
    assert_eq!(parts(&trail), [(Some(3), true)]);
    assert_eq!(tickets(&part), [Some(2)]);
    trail.record(|attempt| attempt.signal = Some("whole".into()));
    assert_eq!(parts(&trail), [(Some(3), true), (None, false)]);
}

#[test]
fn an_id_that_is_sent_begins_an_attempt_if_the_last_one_was_sent() {
    let trail = CallTrail::new();
    let one = trail.record_id(Some("a"));
    let two = trail.record_id(Some("b"));
    one.record(|attempt| attempt.request_id = Some("1".into()));
    two.record(|attempt| attempt.request_id = Some("2".into()));
    let ids: Vec<_> = trail
        .attempts()
        .into_iter()
        .map(|a| (a.client_request_id.unwrap(), a.request_id.unwrap()))
        .collect();
    assert_eq!(ids, [("a".into(), "1".into()), ("b".into(), "2".into())]);
}

#[test]
fn what_is_on_its_way_stays_listed() {
    let trail = CallTrail::new();
    let live: Vec<_> = (0..LIVE as u32 + 100)
        .map(|number| trail.part(number, false).begin_attempt())
        .collect();
    // The first ones are listed anyway, and 36 more than there is room for count as over.
    assert_eq!(trail.attempts().len(), live.len());
    let whole = trail.begin_attempt();
    for _ in 0..10_000 {
        end(&trail.begin_attempt());
    }
    let attempts = trail.attempts();
    let ended = attempts.iter().filter(|attempt| attempt.ended.is_some());
    assert_eq!(ended.count(), LAST);
    assert_eq!(attempts.len(), FIRST + LAST + LIVE - 1);
    // Their ends count as soon as they are told.
    for attempt in &live {
        charge(attempt, 1);
        end(attempt);
    }
    let admitted = trail
        .attempts()
        .iter()
        .filter(|a| a.admission.is_some())
        .count();
    let left_out = trail.left_out();
    assert_eq!(
        left_out.attempts + trail.attempts().len() as u64,
        10_000 + 613
    );
    assert_eq!(admitted as u64 + left_out.admitted, 612 - 37);
    // It was left out.
    whole.record(|attempt| attempt.signal = Some("lost".into()));
    assert!(trail.attempts().iter().all(|a| a.signal.is_none()));
}

#[test]
fn who_watches_an_attempt_is_told_when_it_is_left_out() {
    let trail = CallTrail::new();
    for _ in 0..FIRST {
        trail.begin_attempt();
    }
    let watched = trail.part(0, false).begin_attempt();
    // A layer further in sends it twice.
    let again = watched.begin_attempt();
    charge(&again, 7);
    for attempt in [&watched, &again] {
        end(attempt);
    }
    assert_eq!(watched.read_all().attempts.len(), 2);
    for _ in 0..1_000 {
        end(&trail.begin_attempt());
    }
    let snapshot = watched.read_all();
    assert_eq!(
        (snapshot.attempts.len(), snapshot.left_out.attempts),
        (0, 2)
    );
    assert_eq!((snapshot.left_out.admitted, snapshot.parts), (1, 1));
    assert_eq!(again.read_all().left_out.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn whatever_is_left_out_the_sums_are_those_of_all_attempts() {
    let seed = std::env::var("EWS_TEST_SEED").ok();
    let seed = seed.map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("EWS_TEST_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..20 {
        let trail = CallTrail::new();
        let mut model = Vec::new();
        // One part has many attempts of its own.
        let long = trail.part(0, false);
        let mut running: Vec<(CallTrail, usize)> = Vec::new();
        let mut last: Option<CallTrail> = None;
        let (steps, most) = (rng.usize(1..4_000), rng.usize(2..LIVE));
        for step in 0..steps {
            tokio::time::advance(Duration::from_nanos(rng.u64(..3_000_000))).await;
            let own = rng.bool();
            if running.len() + usize::from(last.is_some()) < most
                && rng.bool()
                && !(own && last.is_some())
            {
                let part = if own {
                    long.clone()
                } else {
                    trail.part(1 + step as u32, rng.bool())
                };
                let attempt = part.begin_attempt();
                let mut written = Attempt::default();
                attempt.record(|attempt| {
                    attempt.backed_off = Duration::from_nanos(rng.u64(..1_000_000));
                    attempt.queued = Duration::from_nanos(rng.u64(..1_000_000));
                    attempt.responded = Some(Instant::now() + Duration::from_micros(700));
                    attempt.signal = (rng.u8(..3) == 0).then(|| format!("{step}").into());
                    written = attempt.clone();
                });
                if own {
                    last = Some(attempt);
                    model.push((written, true));
                } else {
                    running.push((attempt, model.len()));
                    model.push((written, false));
                }
            } else if own {
                if let Some(attempt) = last.take() {
                    end(&attempt);
                    let own = model.iter_mut().rev().find(|(_, own)| *own);
                    own.unwrap().0.ended = Some(Instant::now());
                }
            } else if !running.is_empty() {
                let (attempt, number) = running.swap_remove(rng.usize(..running.len()));
                end(&attempt);
                model[number].0.ended = Some(Instant::now());
            }
        }
        let end = Instant::now();
        let all: Vec<_> = model.iter().map(|(attempt, _)| attempt).collect();
        adds_up(&trail.read_all(), &all, end);
        let own: Vec<_> = model
            .iter()
            .filter(|(_, own)| *own)
            .map(|(attempt, _)| attempt)
            .collect();
        adds_up(&long.read_all(), &own, end);
    }
}

fn adds_up(snapshot: &TrailSnapshot, all: &[&Attempt], end: Instant) {
    let left_out = &snapshot.left_out;
    let listed = || snapshot.attempts.iter().map(|told| &told.attempt);
    let sums = |sums, attempts: &mut dyn Iterator<Item = (&Attempt, Option<Instant>)>| {
        attempts.fold(
            sums,
            |[backed_off, queued, wire, body]: [Duration; 4], (one, next)| {
                let times = Times::of(one, end, one.responded, one.end(next, end));
                [
                    backed_off + times.backed_off,
                    queued + times.queued,
                    wire + times.wire,
                    body + times.body,
                ]
            },
        )
    };
    let expected = sums([Duration::ZERO; 4], &mut all.iter().map(|one| (*one, None)));
    let kept = [
        left_out.backed_off,
        left_out.queued,
        left_out.wire,
        left_out.body,
    ];
    let told = &mut snapshot
        .attempts
        .iter()
        .map(|told| (&told.attempt, told.next_began));
    assert_eq!(sums(kept, told), expected);
    assert_eq!(
        listed().count() as u64 + left_out.attempts,
        all.len() as u64
    );
    assert!(listed().count() <= FIRST + LAST + LIVE);
    let resends = |attempts: &mut dyn Iterator<Item = &Attempt>| {
        attempts.filter(|one| one.resend).count() as u64
    };
    assert_eq!(
        resends(&mut listed()) + left_out.resends,
        resends(&mut all.iter().copied())
    );
    let signals = |attempts: &mut dyn Iterator<Item = &Attempt>| {
        attempts.filter(|one| one.signal.is_some()).count() as u64
    };
    let kept: u64 = left_out.signals.iter().map(|(_, count)| count).sum();
    assert_eq!(
        signals(&mut listed()) + kept,
        signals(&mut all.iter().copied())
    );
    assert!(left_out.signals.len() <= 17);
    let last = listed().rev().find_map(|one| one.signal.clone());
    let last = last.map(|signal| signal.parse::<u64>().unwrap());
    let earlier = left_out
        .signal
        .as_ref()
        .map(|(_, signal)| signal.parse::<u64>().unwrap());
    let expected = all.iter().rev().find_map(|one| one.signal.as_ref());
    assert_eq!(
        last.max(earlier),
        expected.map(|signal| signal.parse().unwrap())
    );
}

#[test]
fn a_write_costs_the_same_however_many_parts_there_are() {
    let cost = |parts: u32| {
        let (work, trail) = counted::during(|| {
            let trail = CallTrail::new();
            for number in 0..parts {
                let part = trail.part(number, false);
                charge(&part.begin_attempt(), 1);
                end(&part);
            }
            trail
        });
        assert_eq!(
            trail.left_out().attempts + trail.attempts().len() as u64,
            u64::from(parts)
        );
        work / u64::from(parts)
    };
    let (few, many) = (cost(1_000), cost(100_000));
    println!("steps per part: {few} of 1,000, {many} of 100,000");
    assert!(many <= 60 && many <= few * 2, "{few}, then {many}");
    // Nor if nobody tells when they end.
    let (work, _) = counted::during(|| {
        let trail = CallTrail::new();
        for number in 0..100_000 {
            trail.part(number, false).begin_attempt();
        }
    });
    assert!(work <= 100_000 * (LAST as u64 + 60), "{work}");
}
