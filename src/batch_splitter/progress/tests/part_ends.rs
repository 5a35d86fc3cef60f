//! What the end of a part means for its members, and what ends a batch.

use super::*;
use crate::errors::NoResponseInTime;
use crate::retry::RetryInfo;

/// What happens to the members of a part, by how it ended, whether it may be sent again, and whether it may have been
/// executed before.
#[test]
fn what_follows_for_the_members_of_a_part() {
    let retry = PartOutcome::retry(Some(SECOND));
    let maybe = PartOutcome::Retry(Retry::new(Some(SECOND)).maybe_executed());
    let error = || BoxError::from("reset");
    let refused = "not executed, not executed";
    let unknown = "unknown, unknown";
    // What the members end with: of a safe batch, of an idempotent one, of any other, and of those two after an earlier
    // attempt that may have been executed. It makes no difference to a safe batch.
    type Case<'a> = (
        &'a str,
        fn(&dyn Fn() -> BoxError, [PartOutcome; 2]) -> SendResult,
        [&'a str; 5],
    );
    let cases: &[Case<'_>] = &[
        (
            "not sent",
            |error, _| SendResult::NotSent(error()),
            ["again"; 5],
        ),
        (
            "unsendable",
            |error, _| SendResult::Unsendable(error()),
            [refused, refused, refused, unknown, unknown],
        ),
        (
            "lost",
            |error, _| SendResult::Lost(error()),
            ["halved", "halved", unknown, "halved", unknown],
        ),
        (
            "unclassified",
            |error, _| SendResult::Unclassified(error()),
            ["halved", "halved", unknown, "halved", unknown],
        ),
        (
            "too long",
            |_, _| SendResult::TooLong,
            ["halved", "halved", unknown, "halved", unknown],
        ),
        (
            "a fault",
            |_, _| failure(PartOutcome::Failed),
            ["halved"; 5],
        ),
        (
            "a fault that may pass",
            |_, _| failure(PartOutcome::Retry(Retry::new(None).max_retries(1))),
            ["halved"; 5],
        ),
        ("a busy fault", |_, [retry, _]| failure(retry), ["again"; 5]),
        (
            "a fault that may have executed it",
            |_, [_, maybe]| failure(maybe),
            ["again"; 5],
        ),
        ("too large", |_, _| too_large(), ["halved"; 5]),
        (
            "a fault of unknown outcome",
            |_, _| failure(PartOutcome::Unknown),
            ["halved", "halved", unknown, "halved", unknown],
        ),
        (
            "a message too few",
            |_, _| messages("d"),
            ["halved", "halved", unknown, "halved", unknown],
        ),
        (
            "lists instead of messages",
            |_, _| {
                response(
                    200,
                    PartResponse::Lists {
                        frame: vec![],
                        lists: vec!["".into()],
                    },
                )
            },
            ["halved", "halved", unknown, "halved", unknown],
        ),
        ("done", |_, _| messages("dd"), ["done, done"; 5]),
        ("failed", |_, _| messages("ff"), ["failed, failed"; 5]),
        ("busy", |_, _| messages("rr"), ["again"; 5]),
        ("worth another try", |_, _| messages("oo"), ["again"; 5]),
        ("left open", |_, _| messages("uu"), [unknown; 5]),
        (
            "one left open, one busy",
            |_, _| messages("ur"),
            ["unknown, again"; 5],
        ),
        (
            "may have been executed",
            |_, _| messages("mm"),
            ["again"; 5],
        ),
        ("one busy", |_, _| messages("dr"), ["done, again"; 5]),
        (
            "one busy, one failed",
            |_, _| messages("fr"),
            ["failed, again"; 5],
        ),
        (
            "stopped by one that is busy",
            |_, _| messages("rs"),
            ["again"; 5],
        ),
        (
            "stopped after one that was done",
            |_, _| messages("ds"),
            ["done, again"; 5],
        ),
        (
            "stopped by one that failed",
            |_, _| messages("fs"),
            [
                "failed, stopped",
                "failed, stopped",
                "failed, stopped",
                "failed, unknown",
                "failed, unknown",
            ],
        ),
        (
            "stopped by nobody",
            |_, _| messages("ss"),
            [
                "stopped, stopped",
                "stopped, stopped",
                "stopped, stopped",
                unknown,
                unknown,
            ],
        ),
    ];
    for (name, result, expected) in cases {
        let [safe, idempotent, other, doubted_idempotent, doubted_other] = *expected;
        for (idempotency, in_doubt, expected) in [
            (Idempotency::Safe, false, safe),
            (Idempotency::Safe, true, safe),
            (Idempotency::Idempotent, false, idempotent),
            (Idempotency::NonIdempotent, false, other),
            (Idempotency::Idempotent, true, doubted_idempotent),
            (Idempotency::NonIdempotent, true, doubted_other),
        ] {
            let what = format!("{name}, {idempotency:?}, in doubt: {in_doubt}");
            let mut run = two_of_four(idempotency, in_doubt, None);
            run.ended(&[0, 1], result(&error, [retry, maybe]));
            let (parts, text) = run.finish();
            let text = text.expect(&what);
            let (mine, others) = text.rsplit_once(",done,done").expect(&what);
            // The other members are not affected, and come after those that are sent again.
            assert_eq!(others, "", "{what}");
            assert!(parts.concat().ends_with(&[3]), "{what}: {parts:?}");
            let again = |member| parts.iter().find(|part| part.contains(&member));
            let ends: Vec<&str> = mine.split(',').collect();
            let described = match (again(0), again(1)) {
                (Some(part), Some(_)) if part.len() == 1 => "halved".to_owned(),
                (Some(_), Some(_)) => "again".to_owned(),
                (None, Some(_)) => format!("{}, again", ends[0]),
                _ => ends.join(", "),
            };
            assert_eq!(described, expected, "{what}");
            let unknown = ends.iter().filter(|end| **end == "unknown").count();
            assert_eq!(run.stats().unknown, unknown, "{what}");
        }
    }
}

/// What members end with that cannot be sent again before the deadline.
#[test]
fn what_stays_if_there_is_no_time_to_send_again() {
    // The deadline is 20 seconds after the first part was sent, and parts come back after 19.5.
    let retry = PartOutcome::retry(Some(SECOND));
    let late = "not executed";
    type Case<'a> = (&'a str, fn(PartOutcome) -> SendResult, [&'a str; 4]);
    let cases: &[Case<'_>] = &[
        // Each member, of a batch without and with doubt. The rest was not sent.
        (
            "rr",
            |_| messages("rr"),
            ["busy,busy", late, "unknown,unknown", late],
        ),
        (
            "mm",
            |_| messages("mm"),
            ["unknown,unknown", late, "unknown,unknown", late],
        ),
        // A round that achieved something does not speak for the rest.
        (
            "dr",
            |_| messages("dr"),
            ["done,busy", "done", "done,unknown", "done"],
        ),
        (
            "fr",
            |_| messages("fr"),
            ["failed,busy", late, "failed,unknown", "done"],
        ),
        ("retry", failure, [late, late, "unknown,unknown", late]),
    ];
    for (name, result, [mine, rest, doubted, doubted_rest]) in cases {
        for (in_doubt, mine, rest) in [(false, mine, rest), (true, doubted, doubted_rest)] {
            let mut run = two_of_four(Idempotency::Idempotent, in_doubt, Some(20 * SECOND));
            run.now = run.now + 3 * SECOND + SECOND / 2;
            run.ended_after(if in_doubt { 15 } else { 16 }, &[0, 1], result(retry));
            let (_, text) = run.finish();
            let what = format!("{name}, in doubt: {in_doubt}");
            match (text, in_doubt) {
                (Ok(text), _) => {
                    let mine = if *mine == late {
                        "not executed,not executed"
                    } else {
                        mine
                    };
                    assert_eq!(text, format!("{mine},{rest},{rest}"), "{what}");
                }
                // No part gave messages.
                (Err(error), false) => {
                    assert_eq!((&**name, &*error), ("retry", "500 Internal Server Error"));
                }
                (Err(error), true) => panic!("{what}: {error}"),
            }
        }
    }
}

#[test]
fn what_fails_for_all_ends_the_batch_but_spreads_no_doubt() {
    for idempotency in KINDS {
        for in_doubt in [false, true] {
            let mut run = two_of_four(idempotency, in_doubt, None);
            // A message first, so that the fault does not stand for the batch.
            run.ended(&[0, 1], messages("dr"));
            assert_eq!(run.sent(), [1, 2]);
            run.ended(&[1, 2], failure(PartOutcome::FailedForAll));
            let (parts, text) = run.finish();
            let doubt = in_doubt && idempotency != Idempotency::Safe;
            let mine = if doubt { "unknown" } else { "not executed" };
            let expected = format!("done,{mine},not executed,not executed");
            assert_eq!(
                (parts, text),
                (vec![], Ok(expected)),
                "{idempotency:?}, {in_doubt}"
            );
            assert_eq!(run.stats().unknown, usize::from(doubt));
        }
    }
}

/// An earlier attempt that may have been executed is not hidden by a later refusal, when no part gives messages.
#[test]
fn what_ends_a_batch_without_messages() {
    let fault = "500 Internal Server Error";
    let reset = "the connection was reset";
    type Ends = Vec<fn() -> SendResult>;
    let cases: [(&str, Ends, [&str; 3]); 8] = [
        ("refused", vec![|| failure(PartOutcome::Failed)], [fault; 3]),
        (
            "unknown",
            vec![|| SendResult::Unclassified("the connection was reset".into())],
            [reset; 3],
        ),
        (
            "lost, then refused",
            vec![lost, || failure(PartOutcome::Failed)],
            [fault, reset, reset],
        ),
        (
            "lost, then busy",
            vec![lost, || failure(PartOutcome::retry(Some(1000 * SECOND)))],
            [fault, reset, reset],
        ),
        (
            "busy, then lost to the end",
            vec![|| failure(PartOutcome::retry(Some(SECOND))), lost, || {
                failure(PartOutcome::retry(Some(1000 * SECOND)))
            }],
            [fault, reset, reset],
        ),
        (
            "busy, then busy to the end",
            vec![|| failure(PartOutcome::retry(Some(SECOND))), || {
                failure(PartOutcome::retry(Some(1000 * SECOND)))
            }],
            [fault; 3],
        ),
        // That nothing was sent later is not what the server said.
        (
            "busy, then not sent to the end",
            vec![|| failure(PartOutcome::retry(Some(SECOND))), || {
                SendResult::NotSent("no connection".into())
            }],
            [fault; 3],
        ),
        (
            "not sent, then busy to the end",
            vec![|| SendResult::NotSent("no connection".into()), || {
                failure(PartOutcome::retry(Some(1000 * SECOND)))
            }],
            [fault; 3],
        ),
    ];
    for (name, ends, expected) in cases {
        for (idempotency, expected) in KINDS.into_iter().zip(expected) {
            let batch = numbers(2, Order::Kept, idempotency);
            let mut run = Run::new(batch, config(2), None);
            // The last one goes on.
            let last = ends[ends.len() - 1];
            let mut ends = ends.iter();
            let (_, end) = run.finish_with(0, |_| ends.next().copied().unwrap_or(last)());
            assert_eq!(end.unwrap_err(), expected, "{name}, {idempotency:?}");
        }
    }
}

/// What was in flight when the time of the call was over: in doubt, unless it only reads. Then the server's earlier word counts.
#[test]
fn what_is_in_flight_at_the_deadline() {
    let fault = Err("500 Internal Server Error");
    let open = Err("outcome unknown: no complete response to Numbers came");
    let passed = Err("no response to Numbers before its deadline");
    type Case = (
        &'static str,
        fn() -> SendResult,
        [Result<&'static str, &'static str>; 3],
    );
    let cases: [Case; 5] = [
        ("too late", || SendResult::TooLate, [passed, open, open]),
        (
            "busy, then too late",
            || failure(PartOutcome::retry(Some(SECOND))),
            [fault, open, open],
        ),
        (
            "each busy, then too late",
            || messages("rr"),
            [
                Ok("busy,busy,not executed,not executed"),
                Ok("unknown,unknown,not executed,not executed"),
                Ok("unknown,unknown,not executed,not executed"),
            ],
        ),
        (
            "one busy, then too late",
            || messages("dr"),
            [
                Ok("done,busy,not executed,not executed"),
                Ok("done,unknown,unknown,not executed"),
                Ok("done,unknown,unknown,not executed"),
            ],
        ),
        (
            "done, then too late",
            || messages("dd"),
            [
                Ok("done,done,not executed,not executed"),
                Ok("done,done,unknown,unknown"),
                Ok("done,done,unknown,unknown"),
            ],
        ),
    ];
    for (name, first, expected) in cases {
        for (idempotency, expected) in KINDS.into_iter().zip(expected) {
            let what = format!("{name}, {idempotency:?}");
            let mut run = two_of_four(idempotency, false, Some(20 * SECOND));
            let begin = run.now;
            if name == "too late" {
                run.ended_after(20, &[0, 1], first());
            } else {
                run.ended_after(1, &[0, 1], first());
                let part = run.next().unwrap();
                assert_eq!(part.deadline, Some(begin + 20 * SECOND), "{what}");
                run.now = begin + 20 * SECOND;
                run.ended_after(0, &part.members, SendResult::TooLate);
            }
            let (parts, end) = run.finish();
            assert_eq!((parts, run.now), (vec![], begin + 20 * SECOND), "{what}");
            match (end, expected) {
                (Ok(text), Ok(expected)) => assert_eq!(text, expected, "{what}"),
                (Err(error), Err(expected)) => {
                    assert!(error.starts_with(expected), "{what}: {error}");
                }
                (end, _) => panic!("{what}: {end:?}"),
            }
            let stats = run.stats();
            assert_eq!(stats.unknown + stats.not_executed + stats.done, 4, "{what}");
        }
    }
    // A part that hangs is not all of the call, as long as others achieve something.
    for idempotency in KINDS {
        let mut config = config(2);
        config.parallel = 2;
        config.stall_timeout = 100 * SECOND;
        config.target_time = 100 * SECOND;
        let mut run = Run::new(numbers(8, Order::Free, idempotency), config, None);
        let hangs = run.sent();
        for seconds in [90, 9] {
            let part = run.sent();
            run.ended_after(seconds, &part, done(&part));
        }
        run.ended_after(1, &hangs, SendResult::TooLate);
        let text = run.finish().1.unwrap();
        let unknown = if idempotency == Idempotency::NonIdempotent {
            2
        } else {
            0
        };
        assert_eq!(text.matches("unknown").count(), unknown, "{idempotency:?}");
        assert_eq!(text.matches("done").count(), 8 - unknown, "{idempotency:?}");
    }
}

#[test]
fn a_part_that_cannot_be_made_smaller_is_tried_as_often_as_its_failure_is_worth() {
    for (joined, expected) in [
        (true, vec![vec![0, 1]; 7]),
        // The part of both has failed as well. The second one fails like the first, so it is not tried as long again.
        (
            false,
            [vec![vec![0, 1]], vec![vec![0]; 6], vec![vec![1]]].concat(),
        ),
    ] {
        let mut batch = numbers(2, Order::Kept, Idempotency::Idempotent);
        batch.joined = joined;
        let mut run = Run::new(batch, config(2), None);
        let mut parts = Vec::new();
        let begin = run.now;
        let error = loop {
            match run.next() {
                Ok(part) => {
                    let again = !parts.is_empty();
                    let resent = if again { part.members.len() } else { 0 };
                    assert_eq!((part.resent, part.maybe_executed), (resent, again));
                    run.ended_after(0, &part.members, lost());
                    parts.push(part.members);
                }
                Err(end) => break end.unwrap_err(),
            }
        };
        assert_eq!(error, "the connection was reset");
        assert_eq!(parts, expected);
        assert_eq!(run.stats().unknown, 2);
        assert!(run.now - begin < 60 * SECOND);
    }
}

#[test]
fn a_response_that_is_too_long_names_the_limit() {
    let batch = numbers(2, Order::Kept, Idempotency::NonIdempotent);
    let mut run = Run::new(batch, config(2), None);
    assert_eq!(run.sent(), [0, 1]);
    run.ended(&[0, 1], SendResult::TooLong);
    let error = run.finish().1.unwrap_err();
    assert!(error.contains("268435456 bytes"), "{error}");
}

#[test]
fn a_success_that_says_nothing_is_not_the_response_to_the_batch() {
    let incomplete = "the response to Numbers is incomplete: 4 members are missing: odd";
    let open = "outcome unknown: no complete response to Numbers came";
    for (outcome, expected) in [
        (PartOutcome::Failed, [incomplete; 3]),
        (PartOutcome::Unknown, [incomplete, open, open]),
    ] {
        for (idempotency, expected) in KINDS.into_iter().zip(expected) {
            let batch = numbers(4, Order::Free, idempotency);
            let mut run = Run::new(batch, config(4), None);
            let (_, end) = run.finish_with(0, |_| odd_success(outcome));
            let error = end.unwrap_err();
            assert!(error.starts_with(expected), "{idempotency:?}: {error}");
        }
    }
}

/// A layer further in has used up the time of the call.
#[test]
fn what_was_given_up_further_in_is_not_sent_again() {
    let gave_up = |result| match result {
        SendResult::Response(mut response) => {
            response.head.extensions.insert(RetryInfo {
                attempts: 7,
                backed_off: SECOND,
                retry_after: None,
                signal: None,
                gave_up: true,
                outcome_unknown: false,
                maybe_repeated: false,
            });
            SendResult::Response(response)
        }
        other => other,
    };
    type Case = (
        &'static str,
        fn() -> SendResult,
        Result<&'static str, &'static str>,
    );
    let fault = Err("500 Internal Server Error");
    let cases: [Case; 6] = [
        (
            "not sent",
            || {
                let error = BackoffError::DeadlinePassed {
                    operation: "Numbers".into(),
                    attempts: 7,
                    source: NoResponseInTime.into(),
                };
                SendResult::NotSent(error.into())
            },
            Err(
                "no response to Numbers before its deadline, after 7 attempts: allow more time, or see the source for the cause",
            ),
        ),
        ("busy", || failure(PartOutcome::retry(Some(SECOND))), fault),
        (
            "worth another try",
            || failure(PartOutcome::Retry(Retry::new(None).max_retries(6))),
            fault,
        ),
        (
            "each worth another try",
            || messages("oo"),
            Ok("once,once,not executed,not executed"),
        ),
        (
            "each busy",
            || messages("rr"),
            Ok("busy,busy,not executed,not executed"),
        ),
        // What others would get is not known.
        ("one busy", || messages("dr"), Ok("done,busy,done,done")),
    ];
    for (name, result, expected) in cases {
        for idempotency in KINDS {
            let mut run = two_of_four(idempotency, false, None);
            run.ended(&[0, 1], gave_up(result()));
            let (parts, end) = run.finish();
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(end, expected, "{name}, {idempotency:?}");
            let rest = if name == "one busy" {
                vec![vec![2, 3]]
            } else {
                vec![]
            };
            assert_eq!(parts, rest, "{name}, {idempotency:?}");
        }
    }
}

/// What a member's message says of that member is counted. The batch goes on as after any other error of a member.
#[test]
fn a_member_that_failed_and_may_have_been_executed_holds_up_nobody() {
    for (idempotency, unknown) in KINDS.into_iter().zip([0, 6, 6]) {
        for order in [Order::Free, Order::Kept] {
            let mut run = Run::new(numbers(20, order, idempotency), config(2), None);
            let begin = run.now;
            let (parts, end) = run.finish_with(1, |members| {
                let letters = members
                    .iter()
                    .map(|member| if *member < 6 { 'F' } else { 'd' });
                messages(&letters.collect::<String>())
            });
            assert_eq!((parts.len(), run.now - begin), (10, 10 * SECOND));
            let expected = [["failed"; 6].join(","), ["done"; 14].join(",")].join(",");
            assert_eq!(end, Ok(expected), "{idempotency:?}");
            let stats = run.stats();
            assert_eq!(
                (stats.done, stats.unknown),
                (14, unknown),
                "{idempotency:?}"
            );
            assert_eq!(stats.not_executed, 0);
        }
    }
    // What stopped behind it stays so if nothing was achieved.
    let mut run = two_of_four(Idempotency::NonIdempotent, false, None);
    run.ended(&[0, 1], messages("Fs"));
    assert_eq!(run.finish().1, Ok("failed,stopped,done,done".to_owned()));
    assert_eq!(run.stats().unknown, 1);
    // One error for all proves that nothing was executed: it does not stand for a member that may have been.
    let mut run = two_of_four(Idempotency::NonIdempotent, false, None);
    run.ended(&[0, 1], one_error(&[0, 1]));
    let (_, end) = run.finish_with(0, |members| messages(&"F".repeat(members.len())));
    assert_eq!(end, Ok("failed,failed,failed,failed".to_owned()));
    assert_eq!(run.stats().unknown, 4);
}

/// Where others were done, a member that is worth another try waits by itself.
#[test]
fn a_member_that_is_tried_again_holds_up_nobody() {
    let batch = numbers(6, Order::Free, Idempotency::Idempotent);
    let mut run = Run::new(batch, config(2), None);
    let begin = run.now;
    assert_eq!(run.sent(), [0, 1]);
    run.ended_after(0, &[0, 1], messages("do"));
    for members in [[2, 3], [4, 5]] {
        assert_eq!((run.sent(), run.now), (members.to_vec(), begin));
        run.ended_after(0, &members, messages("dd"));
    }
    assert_eq!(run.sent(), [1]);
    assert!(run.now >= begin + SECOND);
    run.ended_after(0, &[1], messages("o"));
    let text = "done,once,done,done,done,done".to_owned();
    assert_eq!(run.finish(), (vec![], Ok(text)));
    assert_eq!(run.stats().not_executed, 1);
}

/// Messages that ask for a number of retries.
fn retries(members: &[usize], max_retries: u32) -> SendResult {
    let retry = Retry::new(None).max_retries(max_retries);
    let message = |_| Message::new("later", MemberOutcome::Retry(retry));
    let frame = ("".into(), "".into());
    let messages = members.iter().map(message).collect();
    response(200, PartResponse::Messages { frame, messages })
}

#[test]
fn members_that_fail_again_are_no_new_failure_of_the_batch() {
    let batch = numbers(2, Order::Free, Idempotency::Idempotent);
    let mut run = Run::new(batch, config(2), None);
    let (parts, end) = run.finish_with(0, |members| retries(members, 6));
    assert_eq!(parts, vec![[0, 1]; 7]);
    assert_eq!(end, Ok("later,later".to_owned()));
}

#[test]
fn a_later_failure_that_the_server_has_seen_replaces_its_earlier_word() {
    for (later, expected) in [
        (
            failure(PartOutcome::retry(None)),
            "not executed,not executed",
        ),
        (SendResult::NotSent("no route".into()), "busy,busy"),
    ] {
        let batch = numbers(2, Order::Kept, Idempotency::NonIdempotent);
        let mut run = Run::new(batch, config(2), Some(20 * SECOND));
        assert_eq!(run.sent(), [0, 1]);
        run.ended_after(0, &[0, 1], messages("rr"));
        assert_eq!(run.sent(), [0, 1]);
        run.ended_after(60, &[0, 1], later);
        assert_eq!(run.finish(), (vec![], Ok(expected.to_owned())));
    }
}

#[test]
fn members_that_are_throttled_again_hold_the_batch_back_where_no_others_wait() {
    let mut run = two_of_four(Idempotency::NonIdempotent, false, None);
    run.ended_after(0, &[0, 1], messages("dd"));
    for _ in 0..2 {
        assert_eq!(run.sent(), [2, 3]);
        run.ended_after(0, &[2, 3], messages("rr"));
    }
    let begin = run.now;
    let part = run.next().unwrap();
    assert_eq!(
        (part.members, part.held_back),
        (vec![2, 3], run.now - begin)
    );
    assert!(run.stats().waited >= 2 * SECOND);
}

#[test]
fn where_others_go_on_a_member_that_goes_on_to_fail_has_all_its_retries() {
    let batch = numbers(4, Order::Free, Idempotency::Idempotent);
    let mut run = Run::new(batch, config(2), None);
    assert_eq!(run.sent(), [0, 1]);
    run.ended_after(0, &[0, 1], messages("dd"));
    let again = Retry::new(None).max_retries(3);
    let (parts, _) = run.finish_with(30, |_| failure(PartOutcome::Retry(again)));
    for member in [2, 3] {
        let alone = parts.iter().filter(|part| **part == [member]).count();
        assert_eq!(alone, 4, "{parts:?}");
    }
}
