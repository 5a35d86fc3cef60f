//! What may have been executed, and must not be executed twice.

use super::*;

/// A batch that must not be executed twice, 200 members, and its first part is in flight.
fn two_hundred(order: Order) -> (Run, Vec<usize>) {
    let batch = numbers(200, order, Idempotency::NonIdempotent);
    let mut run = Run::new(batch, config(100), None);
    let first = run.sent();
    assert_eq!(
        first,
        (0..50).collect::<Vec<_>>(),
        "no more may be in doubt"
    );
    (run, first)
}

#[test]
fn after_doubt_one_small_part_goes_alone() {
    let open: [fn() -> SendResult; 5] = [
        lost,
        || failure(PartOutcome::Unknown),
        || SendResult::TooLong,
        || SendResult::Unclassified("no idea".into()),
        || odd_success(PartOutcome::Unknown),
    ];
    for order in [Order::Free, Order::Kept] {
        for open in open {
            let (mut run, first) = two_hundred(order);
            run.ended(&first, open());
            let begin = run.now;
            let next = run.next().unwrap();
            let wait = 10 * SECOND..=20 * SECOND;
            assert_eq!(next.members.len(), 1);
            assert!(wait.contains(&(run.now - begin)) && wait.contains(&next.held_back));
            assert!(matches!(run.step(), Step::Wait(None)), "it is alone");
            // Its response ends it, whatever it says of the member.
            run.ended(&next.members, messages("f"));
            let begin = run.now;
            let next = run.sent();
            // Half of what was lost is the most that may be lost again.
            assert_eq!((next.len(), run.now), (25, begin));
            run.ended(&next, done(&next));
            let (_, end) = run.finish();
            let text = end.unwrap();
            assert_eq!(text.matches("unknown").count(), 50);
            assert_eq!(text.matches("done").count(), 149);
            assert_eq!(run.stats().unknown, 50);
        }
    }
}

#[test]
fn doubt_does_not_spread() {
    for order in [Order::Free, Order::Kept] {
        for open in [lost, || failure(PartOutcome::Unknown), || messages("u")] {
            let (mut run, first) = two_hundred(order);
            run.ended(&first, lost());
            let small = run.sent();
            assert_eq!(small.len(), 1);
            run.ended(&small, open());
            let (parts, end) = run.finish();
            assert_eq!(parts, Vec::<Vec<usize>>::new(), "the rest is not sent");
            match end {
                Ok(text) => {
                    assert_eq!(text.matches("unknown").count(), 51);
                    assert_eq!(text.matches("not executed").count(), 149);
                }
                Err(error) => assert_eq!(error, "the connection was reset"),
            }
            let stats = run.stats();
            assert_eq!((stats.unknown, stats.not_executed), (51, 149));
        }
    }
}

#[test]
fn what_was_not_sent_or_is_busy_does_not_end_doubt_too_soon() {
    let (mut run, first) = two_hundred(Order::Free);
    run.ended(&first, lost());
    let small = run.sent();
    run.ended(&small, SendResult::NotSent("no connection".into()));
    let small = run.sent();
    assert_eq!(small.len(), 1, "nobody has responded");
    run.ended(&small, lost());
    assert_eq!(run.finish().0, Vec::<Vec<usize>>::new());

    // A refusal says that the server is there.
    let (mut run, first) = two_hundred(Order::Free);
    run.ended(&first, lost());
    let small = run.sent();
    run.ended(&small, failure(PartOutcome::retry(Some(SECOND))));
    assert_eq!(run.sent().len(), 25);
}

#[test]
fn several_parts_in_flight_may_be_lost_but_no_more() {
    let batch = numbers(400, Order::Free, Idempotency::NonIdempotent);
    let mut config = config(100);
    config.parallel = 3;
    let mut run = Run::new(batch, config, None);
    let parts = [(); 3].map(|()| run.sent());
    run.ended_after(1, &parts[0], lost());
    assert!(
        matches!(run.step(), Step::Wait(None)),
        "others are in flight"
    );
    run.ended_after(1, &parts[1], done(&parts[1]));
    assert!(matches!(run.step(), Step::Wait(None)));
    run.ended_after(1, &parts[2], lost());
    let small = run.sent();
    assert_eq!(small.len(), 1);
    assert!(matches!(run.step(), Step::Wait(None)), "it goes alone");
    run.ended(&small, done(&small));
    let next = [(); 3].map(|()| run.sent().len());
    assert_eq!(next, [25; 3]);
    assert_eq!(run.stats().unknown, 100);
}
