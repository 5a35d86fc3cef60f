//! Members that are to blame for the failure of their parts, and what fails everything alike.

use super::super::super::recovery::MAX_SPARED;
use super::*;
use crate::retry::MAX_LOSS_RETRIES;

/// How a part fails, and what that is worth.
struct Failing {
    name: &'static str,
    result: fn() -> SendResult,
    max_retries: u32,
    /// Whether it leaves open what was executed.
    unknown: bool,
}

const FAILING: [Failing; 9] = [
    Failing {
        name: "failed",
        result: || failure(PartOutcome::Failed),
        max_retries: 0,
        unknown: false,
    },
    Failing {
        name: "too large",
        result: || {
            let failure = PartFailure::new(PartOutcome::Failed, "too large").too_large();
            response(413, PartResponse::Failure(failure))
        },
        max_retries: 0,
        unknown: false,
    },
    Failing {
        name: "worth one more try",
        result: || failure(PartOutcome::Retry(Retry::new(None).max_retries(1))),
        max_retries: 1,
        unknown: false,
    },
    Failing {
        name: "worth three more tries",
        result: || failure(PartOutcome::Retry(Retry::new(Some(SECOND)).max_retries(3))),
        max_retries: 3,
        unknown: false,
    },
    Failing {
        name: "worth three more tries, perhaps executed",
        result: || {
            failure(PartOutcome::Retry(
                Retry::new(None).max_retries(3).maybe_executed(),
            ))
        },
        max_retries: 3,
        unknown: true,
    },
    Failing {
        name: "lost",
        result: lost,
        max_retries: MAX_LOSS_RETRIES,
        unknown: true,
    },
    Failing {
        name: "unknown",
        result: || failure(PartOutcome::Unknown),
        max_retries: MAX_LOSS_RETRIES,
        unknown: true,
    },
    Failing {
        name: "unclassified",
        result: || SendResult::Unclassified("no idea".into()),
        max_retries: 0,
        unknown: true,
    },
    Failing {
        name: "too long",
        result: || SendResult::TooLong,
        max_retries: 0,
        unknown: true,
    },
];

/// Every way to fail, for every kind of batch that may be sent again after it.
fn failing() -> impl Iterator<Item = (&'static Failing, Order, Idempotency)> {
    let orders = [Order::Free, Order::Kept];
    FAILING.iter().flat_map(move |failing| {
        KINDS
            .into_iter()
            .filter(|idempotency| *idempotency != Idempotency::NonIdempotent || !failing.unknown)
            .flat_map(move |idempotency| orders.map(|order| (failing, order, idempotency)))
    })
}

/// What 1,000 members get if all but these are done.
fn all_but(culprits: &[usize], with: &str) -> String {
    let each = (0..1000).map(|member| match culprits.contains(&member) {
        true => with,
        false => "done",
    });
    each.collect::<Vec<_>>().join(",")
}

/// Some of 1,000 members are to blame for each part that fails. The first part has `start` of them. Returns the parts with and
/// without them.
fn narrow_down(
    failing: &Failing,
    order: Order,
    idempotency: Idempotency,
    start: usize,
    culprits: &[usize],
) -> [Vec<Vec<usize>>; 2] {
    let what = format!("{}, {order:?}, {idempotency:?}, {culprits:?}", failing.name);
    let mut config = config(1000);
    config.start_members = start;
    config.max_in_doubt = 1000;
    let mut run = Run::new(numbers(1000, order, idempotency), config, None);
    // Fast, so that sizes grow again.
    let (parts, end) = run.finish_with(1, |members| {
        match members.iter().any(|member| culprits.contains(member)) {
            true => (failing.result)(),
            false => done(members),
        }
    });
    let doubt = failing.unknown && idempotency != Idempotency::Safe;
    let ending = if doubt { "unknown" } else { "not executed" };
    assert_eq!(end, Ok(all_but(culprits, ending)), "{what}");
    if order == Order::Kept {
        let firsts: Vec<usize> = parts.iter().map(|part| part[0]).collect();
        assert!(firsts.is_sorted(), "{what}: {firsts:?}");
    }
    let blamed = |part: &Vec<usize>| part.iter().any(|member| culprits.contains(member));
    let (with, without) = parts.into_iter().partition(blamed);
    [with, without]
}

#[test]
fn one_culprit_costs_itself_alone() {
    for (failing, order, idempotency) in failing() {
        for culprit in [0, 1, 30, 499, 500, 998, 999] {
            let what = format!("{}, {order:?}, {idempotency:?}, {culprit}", failing.name);
            let [with, without] = narrow_down(failing, order, idempotency, 1000, &[culprit]);
            let requests = with.len() + without.len();
            // 4 times log2(1000), and the retries of the one.
            let bound = 40 + failing.max_retries as usize;
            assert!(requests <= bound, "{what}: {requests}");
            let alone = with.iter().filter(|part| part.len() == 1).count();
            // Refusals in a row could be an outage.
            let most = 1 + failing.max_retries.max(u32::from(MAX_SPARED)) as usize;
            assert!(alone <= most, "{what}: {alone}");
            // The part that failed before, too, is a try of it.
            let tries = with.len();
            assert!(tries > failing.max_retries as usize, "{what}: {tries}");
        }
    }
}

#[test]
fn some_culprits_cost_themselves_alone() {
    for (failing, order, idempotency) in failing() {
        for culprits in [
            &[100, 500, 900][..],
            &[0, 400, 999],
            &[0, 1],
            &[0, 2, 4],
            &[998, 999],
        ] {
            let what = format!("{}, {order:?}, {idempotency:?}, {culprits:?}", failing.name);
            let [with, without] = narrow_down(failing, order, idempotency, 1000, culprits);
            let requests = with.len() + without.len();
            let bound = culprits.len() * (40 + failing.max_retries as usize);
            assert!(requests <= bound, "{what}: {requests}");
        }
        // In the first two parts, and at the beginning, the end and the middle.
        if order == Order::Free {
            narrow_down(failing, order, idempotency, 100, &[0, 150, 500, 999]);
            narrow_down(
                failing,
                order,
                idempotency,
                100,
                &[0, 150, 499, 500, 501, 998, 999],
            );
        }
        // In order, three in a row are taken for all. Otherwise other places are tried before.
        if order == Order::Free {
            narrow_down(
                failing,
                order,
                idempotency,
                1000,
                &[0, 1, 2, 3, 4, 5, 6, 7, 8],
            );
        }
    }
}

/// The places where a few members are to blame make no difference: whether they stand at the beginning of the first parts, in
/// all the places that a fixed order would try first, close together or anywhere.
#[test]
fn culprits_cost_themselves_alone_wherever_they_stand() {
    let (cases, first) = cases(60);
    for seed in first..first + cases {
        let mut rng = fastrand::Rng::with_seed(seed);
        let failing: Vec<_> = failing()
            .filter(|(_, order, _)| *order == Order::Free)
            .collect();
        let (failing, order, idempotency) = failing[rng.usize(..failing.len())];
        let start = [20, 100, 1000][rng.usize(..3)];
        // So that no part succeeds before single members are tried.
        let mut culprits = vec![rng.usize(..start), (start + rng.usize(..start)) % 1000];
        let near = rng.usize(..1000);
        for _ in 0..rng.usize(1..10) {
            culprits.push(match rng.u8(..5) {
                0 => rng.usize(..3),
                1 => 999 - rng.usize(..3),
                2 => 498 + rng.usize(..4),
                3 => (near + rng.usize(..10)) % 1000,
                _ => rng.usize(..1000),
            });
        }
        println!("EWS_TEST_SEED={seed}");
        let [with, without] = narrow_down(failing, order, idempotency, start, &culprits);
        let requests = with.len() + without.len();
        // Each is found among the parts that there would be without it.
        let parts = if start == 20 { 50 } else { 20 };
        let bound = parts + culprits.len() * (40 + failing.max_retries as usize);
        assert!(requests <= bound, "{culprits:?}: {requests} of {bound}");
    }
}

#[test]
fn members_that_are_tried_alone_are_drawn_from_all() {
    let drawn = |seed: u64| {
        let mut config = config(100);
        config.seed = Some(seed);
        let mut run = Run::new(numbers(1000, Order::Free, Idempotency::Safe), config, None);
        let (parts, _) = run.finish_with(0, |_| failure(PartOutcome::Failed));
        parts[2..].concat()
    };
    assert_eq!(drawn(7), drawn(7));
    let mut all: Vec<usize> = (0..100).flat_map(drawn).collect();
    assert_eq!(all.len(), 300);
    all.sort_unstable();
    for tenth in 0..10 {
        let here = all.iter().filter(|member| *member / 100 == tenth).count();
        assert!((10..60).contains(&here), "{tenth}: {here}");
    }
    all.dedup();
    assert!(all.len() > 200, "{}", all.len());
}

/// How many random cases to try, and the first seed.
fn cases(cases: u64) -> (u64, u64) {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse().expect("a number"));
    match number("EWS_TEST_SEED") {
        Some(seed) => (1, seed),
        None => (number("EWS_TEST_CASES").unwrap_or(cases), 0),
    }
}

#[test]
fn what_fails_everything_alike_is_recognised() {
    for (failing, order, idempotency) in failing() {
        for members in [5, 20, 1000] {
            let what = format!("{}, {order:?}, {idempotency:?}, {members}", failing.name);
            let mut run = Run::new(numbers(members, order, idempotency), config(100), None);
            let begin = run.now;
            let (parts, end) = run.finish_with(0, |_| (failing.result)());
            // Two parts, then small ones.
            let bound = match (failing.max_retries, order) {
                (0 | 1, _) => 5,
                (3, Order::Free) => 5,
                (_, Order::Free) => 8,
                // The first one has all its tries before two others fail.
                (max_retries, Order::Kept) => max_retries as usize + 5,
            };
            assert!(parts.len() <= bound, "{what}: {parts:?}");
            assert!(run.now - begin < 60 * SECOND, "{what}");
            // The first response, or its error, is that to the batch.
            end.expect_err(&what);
            let stats = run.stats();
            let unknown = match failing.unknown && idempotency != Idempotency::Safe {
                true => parts
                    .iter()
                    .flatten()
                    .collect::<std::collections::BTreeSet<_>>()
                    .len(),
                false => 0,
            };
            assert_eq!(stats.unknown, unknown, "{what}");
            assert_eq!(stats.not_executed, members - unknown, "{what}");
        }
    }
}

#[test]
fn members_that_fail_by_their_own_messages_stay_together() {
    for order in [Order::Free, Order::Kept] {
        // All of them, for ever.
        let mut run = Run::new(numbers(1000, order, Idempotency::Safe), config(100), None);
        let (parts, end) = run.finish_with(0, |members| messages(&"o".repeat(members.len())));
        assert!(parts.len() <= 6, "{order:?}: {parts:?}");
        let text = end.unwrap();
        assert!(text.starts_with("once,") || text.starts_with("not executed,"));
        // One in ten, for ever: as many parts again, and a few.
        let mut run = Run::new(numbers(1000, order, Idempotency::Safe), config(100), None);
        let (parts, end) = run.finish_with(15, |members| {
            let letter = |member: &usize| if member % 10 == 0 { 'o' } else { 'd' };
            messages(&members.iter().map(letter).collect::<String>())
        });
        assert!(parts.len() <= 25, "{order:?}: {}", parts.len());
        let text = end.unwrap();
        assert_eq!(text.matches("once").count(), 100);
        assert_eq!(text.matches("done").count(), 900);
        assert_eq!(run.stats().resent, 100);
    }
}

#[test]
fn one_error_for_all_is_the_response_to_the_batch() {
    for idempotency in KINDS {
        for order in [Order::Free, Order::Kept] {
            let mut run = Run::new(numbers(1000, order, idempotency), config(100), None);
            let (parts, end) = run.finish_with(0, one_error);
            let sizes: Vec<usize> = parts[2..].iter().map(Vec::len).collect();
            assert_eq!(sizes, [1, 1, 1], "{idempotency:?}, {order:?}");
            // As it came.
            assert_eq!(end, Err("200 OK".to_owned()), "{idempotency:?}, {order:?}");
            let stats = run.stats();
            assert_eq!((stats.done, stats.not_executed), (0, 1000));
        }
        // Of those that another folder is for.
        let mut run = Run::new(numbers(1000, Order::Free, idempotency), config(100), None);
        let wrong = |member: &usize| [3, 777, 778].contains(member);
        let (_, end) = run.finish_with(15, |members| match members.iter().any(wrong) {
            true => one_error(members),
            false => done(members),
        });
        assert_eq!(end, Ok(all_but(&[3, 777, 778], "failed")));
        assert_eq!(run.stats().done, 997);
    }
    // What was lost before may be done, so that it fails now: that says nothing about others.
    let batch = numbers(1000, Order::Free, Idempotency::Idempotent);
    let mut run = Run::new(batch, config(100), None);
    let mut number = 0;
    let (_, end) = run.finish_with(0, |members| {
        number += 1;
        match number {
            1 | 2 => lost(),
            _ if members.len() == 1 => messages("f"),
            _ => done(members),
        }
    });
    assert_eq!(end.unwrap().matches("not executed").count(), 0);
}

/// They may have been executed when their first response was lost, so that they fail now: the error of others is not theirs.
#[test]
fn one_error_for_all_is_no_error_of_members_in_doubt() {
    let config = Config {
        parallel: 2,
        ..config(2)
    };
    let mut run = Run::new(
        numbers(4, Order::Free, Idempotency::Idempotent),
        config,
        None,
    );
    assert_eq!((run.sent(), run.sent()), (vec![0, 1], vec![2, 3]));
    run.ended_after(0, &[0, 1], one_error(&[0, 1]));
    assert_eq!(run.sent(), [0]);
    run.ended_after(0, &[2, 3], lost());
    run.ended_after(0, &[0], messages("f"));
    let (_, end) = run.finish_with(0, |members| messages(&"f".repeat(members.len())));
    assert_eq!(end, Ok("failed,failed,failed,failed".to_owned()));
}

/// Messages for a part that could be smaller say nothing about the error of a larger one.
#[test]
fn one_error_for_all_is_no_error_of_smaller_parts() {
    for (first, second, expected) in [
        ("dd", "dd", "done,done,done,done"),
        ("fd", "dd", "failed,done,done,done"),
        ("ff", "dd", "failed,failed,done,done"),
        ("ff", "ff", "failed,failed,failed,failed"),
    ] {
        let batch = numbers(4, Order::Kept, Idempotency::NonIdempotent);
        let mut run = Run::new(batch, config(4), None);
        assert_eq!(run.sent(), [0, 1, 2, 3]);
        run.ended(&[0, 1, 2, 3], one_error(&[0, 1, 2, 3]));
        assert_eq!(run.sent(), [0, 1]);
        run.ended(&[0, 1], messages(first));
        assert_eq!(run.sent(), [2, 3]);
        run.ended(&[2, 3], messages(second));
        assert_eq!(run.finish(), (vec![], Ok(expected.to_owned())));
        assert_eq!(run.stats().done, expected.matches("done").count());
    }
}

/// In an outage behind members that were done, a batch costs little more than a single call, whatever the order. Where it is
/// kept, nothing goes on behind a member that fails, so that each of its failures counts for the rest.
#[test]
fn an_outage_is_recognised_behind_members_that_were_done() {
    for (failing, order, idempotency) in failing() {
        let what = format!("{}, {order:?}, {idempotency:?}", failing.name);
        let mut run = Run::new(numbers(50, order, idempotency), config(5), None);
        let first = run.sent();
        run.ended_after(1, &first, done(&first));
        let begin = run.now;
        let (parts, _) = run.finish_with(10, |_| (failing.result)());
        let most = match order {
            Order::Free => 7,
            // The first one has its tries, and those that an outage is worth.
            Order::Kept => 15,
        };
        assert!(parts.len() <= most, "{what}: {parts:?}");
        assert!(run.now - begin < 180 * SECOND, "{what}");
        assert_eq!(run.stats().done, 5, "{what}");
    }
}
