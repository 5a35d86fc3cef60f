//! What is handed out, and when.

use super::*;

#[test]
fn what_only_reads_is_handed_out_while_it_comes() {
    for (idempotency, parallel) in [
        (Idempotency::Safe, 1),
        (Idempotency::Safe, 2),
        (Idempotency::Idempotent, 1),
    ] {
        let batch = numbers(6, Order::Free, idempotency);
        let mut config = config(2);
        config.parallel = parallel;
        let mut run = Run::new(batch, config, None);
        let what = format!("{idempotency:?}, {parallel}");
        assert_eq!(run.sent(), [0, 1]);
        if parallel > 1 {
            assert_eq!(run.sent(), [2, 3]);
        }
        run.ended(&[0, 1], messages("dd"));
        match (run.step(), idempotency) {
            (Step::HandOut(Output::Head(head)), Idempotency::Safe) => {
                assert!(!head.headers.contains_key("content-length"));
            }
            (Step::Send(part), Idempotency::Idempotent) => {
                run.ended(&part.members, messages("dd"));
            }
            (other, _) => panic!("{what}: {other:?}"),
        }
        assert_eq!(run.progress.bytes_left(), None, "{what}");
        assert!(!run.stats().complete && !run.progress.is_at_end(), "{what}");
        if idempotency == Idempotency::Safe {
            // Several parts go on while the reader has something to read; a single one does not.
            match (run.step(), parallel) {
                (Step::Send(part), 2) => assert_eq!(part.members, [4, 5]),
                (Step::HandOut(Output::Bytes(bytes)), 1) => assert_eq!(bytes, "done"),
                (other, _) => panic!("{what}: {other:?}"),
            }
        }
        if parallel == 1 {
            assert!(
                run.finish().1.unwrap().ends_with("done,done,done"),
                "{what}"
            );
            assert!(run.stats().complete && run.progress.is_at_end(), "{what}");
        }
    }
}

#[test]
fn lists_have_no_place_for_what_failed() {
    for (idempotency, expected) in KINDS.into_iter().zip([
        Err("500 Internal Server Error".to_owned()),
        Ok("[a]".to_owned()),
        Ok("[a]".to_owned()),
    ]) {
        let mut run = two_of_four(idempotency, false, None);
        run.ended(&[0, 1], lists("a"));
        assert_eq!(run.stats().done, 2);
        assert_eq!(run.sent(), [2, 3]);
        run.ended(&[2, 3], failure(PartOutcome::Failed));
        let (parts, end) = run.finish_with(15, |_| failure(PartOutcome::Failed));
        assert_eq!(
            (parts, end),
            // The second one could be an outage.
            (vec![vec![2], vec![3], vec![3], vec![3], vec![3]], expected),
            "{idempotency:?}"
        );
    }
    // A response that looks like a success is not handed out if it lacks what other parts gave.
    for (status, code, expected) in [
        (
            200,
            None,
            "the response to Numbers is incomplete: 2 members are missing: odd",
        ),
        (500, None, "500 Internal Server Error"),
        (200, Some("ErrorOfPart"), "200 OK"),
    ] {
        let mut run = two_of_four(Idempotency::Safe, false, None);
        run.ended(&[0, 1], lists("a"));
        let (_, end) = run.finish_with(15, |_| {
            let mut odd = PartFailure::new(PartOutcome::Failed, "odd");
            odd.code = code.map(Into::into);
            response(status, PartResponse::Failure(odd))
        });
        assert_eq!(end, Err(expected.to_owned()));
    }
}

#[test]
fn members_without_messages_of_their_own_end_a_batch_that_only_reads() {
    for idempotency in KINDS {
        let mut batch = numbers(4, Order::Kept, idempotency);
        batch.explains = false;
        let mut run = Run::new(batch, config(2), None);
        assert_eq!(run.sent(), [0, 1]);
        run.ended(&[0, 1], messages("dd"));
        let expected = match idempotency {
            Idempotency::Safe => Err(
                "the response to Numbers is incomplete: 1 members are missing: a fault".to_owned(),
            ),
            _ => Ok("done,done".to_owned()),
        };
        let (_, end) = run.finish_with(15, |_| failure(PartOutcome::Failed));
        assert_eq!(end, expected);
    }
}

#[test]
fn no_more_is_sent_ahead_than_the_reader_leaves_room_for() {
    let batch = numbers(10, Order::Free, Idempotency::Safe);
    let mut config = config(1);
    config.parallel = 2;
    let mut run = Run::new(batch, config, None);
    assert_eq!((run.sent(), run.sent()), (vec![0], vec![1]));
    run.ended(&[0], messages("d"));
    run.ended(&[1], messages("d"));
    assert!(matches!(run.step(), Step::HandOut(Output::Head(_))));
    assert_eq!(run.sent(), [2]);
    run.ended(&[2], messages("d"));
    // Nothing is in flight, but two parts and one more wait for the reader.
    let step = run.step();
    assert!(matches!(step, Step::HandOut(Output::Bytes(_))), "{step:?}");
}

#[test]
fn a_part_is_not_cut_where_the_room_ends_while_another_is_in_flight() {
    let mut config = config(2);
    config.parallel = 2;
    let mut run = Run::new(numbers(20, Order::Free, Idempotency::Safe), config, None);
    run.progress.members.plan.member(0).unwrap().cap = 1;
    assert_eq!((run.sent(), run.sent()), (vec![0], vec![1, 2]));
    run.ended(&[1, 2], messages("dd"));
    assert_eq!(run.sent(), [3, 4]);
    run.ended(&[3, 4], messages("dd"));
    // There is room for six members, and five were sent.
    let step = run.step();
    assert!(matches!(step, Step::Wait(None)), "{step:?}");
    // The reader takes the first one, and makes room for one more.
    run.ended(&[0], messages("d"));
    assert_eq!(run.sent(), [5, 6]);
}
