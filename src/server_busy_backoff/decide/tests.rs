//! Tables of decisions. None needs a runtime.

use super::*;

const NOW: Duration = Duration::from_secs(100);
const DEADLINE: Duration = Duration::from_secs(1000);

/// A call, and the time that it began at.
struct Call {
    state: CallState,
    begin: Instant,
    now: Instant,
}

impl Call {
    /// A call in its first attempt, 900 seconds before its deadline.
    fn new(idempotency: Idempotency) -> Self {
        let mut call = Self::unsent(idempotency);
        call.state.begin_attempt();
        call
    }

    fn unsent(idempotency: Idempotency) -> Self {
        Self::of(RequestClass::new("Operation", idempotency), false)
    }

    fn of(class: RequestClass, is_part: bool) -> Self {
        let begin = Instant::now();
        Self {
            state: CallState::new(class, is_part, begin + DEADLINE),
            begin,
            now: begin + NOW,
        }
    }

    fn part_of_batch(idempotency: Idempotency) -> Self {
        let mut class = RequestClass::new("Operation", idempotency);
        class.expects_soap = true;
        let mut call = Self::of(class, true);
        call.state.begin_attempt();
        call
    }

    fn after(mut self, end: End) -> Self {
        end.apply(&mut self).expect("a retry");
        self.state.begin_attempt();
        self
    }
}

/// What an attempt ends with.
#[derive(Clone, Debug)]
enum End {
    Failed(Failure, FailurePhase),
    Refused(Refusal, HeldBy),
}

/// What is decided then. A wait counts from now.
#[derive(Clone, Debug, PartialEq)]
enum Ended {
    Response(RetryInfo),
    Error(EndError),
    Kept(RetryInfo, EndError),
}

const DRAWN: Duration = Duration::from_secs(7);
const WAITS: Waits = Waits {
    drawn: DRAWN,
    shortest: Duration::ZERO,
};

impl End {
    /// Returns the wait from now, and whether somebody else does the waiting.
    fn apply(&self, call: &mut Call) -> Result<(Duration, bool), Ended> {
        let now = call.now;
        let decided = match self {
            Self::Failed(failure, phase) => call
                .state
                .after_failure(*failure, *phase, DRAWN, now)
                .map_err(Ended::from),
            Self::Refused(refusal, held_by) => call
                .state
                .after_refusal(refusal, *held_by, WAITS, now)
                .map_err(Ended::Response),
        };
        decided.map(|wait| (wait.until - now, wait.held))
    }
}

impl From<Ending> for Ended {
    fn from(ending: Ending) -> Self {
        match ending.kept_response {
            Some(info) => Self::Kept(info, ending.error),
            None => Self::Error(ending.error),
        }
    }
}

impl Ended {
    fn info(&self) -> &RetryInfo {
        match self {
            Self::Response(info) | Self::Kept(info, _) => info,
            Self::Error(error) => panic!("{error:?}"),
        }
    }
}

fn failed(failure: Failure) -> End {
    End::Failed(failure, FailurePhase::Call)
}

fn busy() -> Refusal {
    Refusal::new("ErrorServerBusy")
}

fn refused(refusal: Refusal) -> End {
    End::Refused(refusal, HeldBy::Nobody)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const ALL: [Idempotency; 3] = [
    Idempotency::Safe,
    Idempotency::Idempotent,
    Idempotency::NonIdempotent,
];

#[test]
fn whether_a_failed_attempt_is_repeated_depends_on_what_it_proves() {
    use Failure::{Lost, NotSent, Permanent};
    use FailurePhase::{Body, Call as InCall, Ready};
    /// What follows for requests that are safe, idempotent and not idempotent. `None`: a retry.
    type Row = (Failure, FailurePhase, [Option<EndError>; 3]);
    const UNKNOWN: Option<EndError> = Some(EndError::OutcomeUnknown);
    const INNER: Option<EndError> = Some(EndError::Inner);
    let table: [Row; 9] = [
        (NotSent, Ready, [None, None, None]),
        (NotSent, InCall, [None, None, None]),
        // A response had begun, whatever its error says.
        (NotSent, Body, [None, None, UNKNOWN]),
        // The service was not called at all.
        (Lost, Ready, [None, None, None]),
        (Lost, InCall, [None, None, UNKNOWN]),
        (Lost, Body, [None, None, UNKNOWN]),
        (Permanent, Ready, [INNER, INNER, INNER]),
        (Permanent, InCall, [INNER, INNER, INNER]),
        (Permanent, Body, [INNER, UNKNOWN, UNKNOWN]),
    ];
    for (failure, phase, expected) in table {
        for (idempotency, expected) in ALL.into_iter().zip(expected) {
            let mut call = Call::new(idempotency);
            let decided = End::Failed(failure, phase).apply(&mut call);
            let case = format!("{failure:?} in {phase:?}, {idempotency:?}");
            match expected {
                None => assert_eq!(decided, Ok((DRAWN, false)), "{case}"),
                Some(error) => assert_eq!(decided, Err(Ended::Error(error)), "{case}"),
            }
            let signal = call.state.signal();
            assert_eq!(signal, phase.signal(failure), "{case}");
        }
    }
}

#[test]
fn what_a_failure_is_called() {
    use Failure::{Lost, NotSent, Permanent};
    use FailurePhase::{Body, Call, Deadline, Ready, TimedOut};
    for (failure, phase, signal) in [
        (NotSent, Ready, Some("not sent")),
        (NotSent, Call, Some("not sent")),
        (NotSent, Body, Some("response lost")),
        (Lost, Ready, Some("not sent")),
        (Lost, Call, Some("response lost")),
        (Permanent, Ready, None),
        (Permanent, Body, None),
        (Lost, TimedOut, Some("attempt timed out")),
        (Permanent, TimedOut, Some("attempt timed out")),
        (Lost, Deadline, Some("no response before the deadline")),
    ] {
        assert_eq!(phase.signal(failure), signal, "{failure:?} in {phase:?}");
    }
}

#[test]
fn whether_a_refused_request_is_repeated_depends_on_its_outcome() {
    let not_executed = busy();
    let unknown = busy().outcome_unknown();
    for (refusal, idempotency, is_part, repeated) in [
        (&not_executed, Idempotency::Safe, false, true),
        (&not_executed, Idempotency::Idempotent, false, true),
        (&not_executed, Idempotency::NonIdempotent, false, true),
        (&not_executed, Idempotency::NonIdempotent, true, true),
        (&unknown, Idempotency::Safe, false, true),
        (&unknown, Idempotency::Idempotent, false, true),
        (&unknown, Idempotency::NonIdempotent, false, false),
        // The caller sends less the next time.
        (&unknown, Idempotency::Safe, true, false),
        (&unknown, Idempotency::Idempotent, true, false),
    ] {
        let mut call = match is_part {
            true => Call::part_of_batch(idempotency),
            false => Call::new(idempotency),
        };
        let case = format!("{refusal:?}, {idempotency:?}, {is_part}");
        let decided = refused(refusal.clone()).apply(&mut call);
        assert_eq!(decided.is_ok(), repeated, "{case}");
        let Err(ended) = decided else { continue };
        let info = ended.info();
        assert!(!info.gave_up && !info.maybe_repeated, "{case}");
        assert_eq!(
            info.outcome_unknown,
            idempotency != Idempotency::Safe,
            "{case}"
        );
        assert_eq!(info.signal.as_deref(), Some("ErrorServerBusy"), "{case}");
    }
}

/// Its body may speak of single members, which only its sender reads.
#[test]
fn a_refused_part_that_is_no_soap_is_handed_on() {
    let mut call = Call::of(RequestClass::new("POST", Idempotency::NonIdempotent), true);
    call.state.begin_attempt();
    assert!(refused(busy()).apply(&mut call).is_err());
}

#[test]
fn what_is_lost_is_handed_on_if_the_caller_can_send_less() {
    for (idempotency, error) in [
        (Idempotency::Safe, EndError::Inner),
        (Idempotency::Idempotent, EndError::OutcomeUnknown),
    ] {
        let mut call = Call::part_of_batch(idempotency);
        let decided = failed(Failure::Lost).apply(&mut call);
        assert_eq!(decided, Err(Ended::Error(error)));
        let mut call = Call::part_of_batch(idempotency);
        assert!(failed(Failure::NotSent).apply(&mut call).is_ok());
    }
}

#[test]
fn the_wait_of_the_server_is_never_shortened() {
    let asks = |retry_after| refused(busy().retry_after(retry_after));
    let left = DEADLINE - NOW;
    for (retry_after, wait) in [
        (None, Some(DRAWN)),
        // A wait of nothing is none.
        (Some(Duration::ZERO), Some(DRAWN)),
        (Some(Duration::from_nanos(1)), Some(Duration::from_nanos(1))),
        (Some(secs(1)), Some(secs(1))),
        (Some(left), Some(left)),
        // Nor is it begun if the deadline comes first.
        (Some(left + Duration::from_nanos(1)), None),
        (Some(Duration::MAX), None),
    ] {
        let mut call = Call::new(Idempotency::NonIdempotent);
        match (asks(retry_after).apply(&mut call), wait) {
            (Ok(decided), Some(wait)) => assert_eq!(decided, (wait, false), "{retry_after:?}"),
            (Err(ended), None) => {
                let info = ended.info();
                assert!(info.gave_up && !info.outcome_unknown, "{retry_after:?}");
            }
            (decided, _) => panic!("{retry_after:?}: {decided:?}"),
        }
    }
}

#[test]
fn waits_grow_where_the_server_sets_none() {
    let backoff = Backoff {
        base: secs(1),
        cap: secs(60),
    };
    let named = busy().retry_after(Some(secs(1)));
    // What came, and how many waits count after it.
    let table = [
        (failed(Failure::NotSent), 1),
        (failed(Failure::Lost), 2),
        (refused(busy()), 3),
        (refused(named), 3),
        (End::Refused(busy(), HeldBy::LedgerQueue), 3),
        (refused(busy().retry_after(Some(Duration::ZERO))), 4),
    ];
    let mut call = Call::new(Idempotency::Safe);
    for (end, counted) in table {
        call = call.after(end.clone());
        for seed in 0..20 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let drawn = call.state.waits(backoff, &mut rng, call.now).drawn;
            let expected = backoff.wait(counted, &mut fastrand::Rng::with_seed(seed));
            assert_eq!(drawn, expected, "{end:?}");
        }
    }
}

#[test]
fn refusals_are_retried_as_often_as_they_allow() {
    let at_most = |max_retries| refused(busy().max_retries(max_retries));
    for max_retries in [0, 1, 3] {
        let mut call = Call::new(Idempotency::Safe);
        for _ in 0..max_retries {
            // Others do not count.
            call = call.after(at_most(max_retries)).after(refused(busy()));
        }
        let ended = at_most(max_retries).apply(&mut call).unwrap_err();
        assert!(!ended.info().gave_up, "{max_retries}");
        assert_eq!(ended.info().attempts, 1 + 2 * max_retries);
    }
    // A number of retries does not allow what the outcome forbids, nor does a forbidden one count.
    let mut call = Call::new(Idempotency::NonIdempotent);
    let doubtful = refused(busy().outcome_unknown().max_retries(1));
    assert!(doubtful.apply(&mut call).is_err());
    assert!(at_most(1).apply(&mut call).is_ok());
}

/// What a part is told is for the sender of the batch, unless it is about who asks.
#[test]
fn a_part_is_sent_again_for_a_counted_refusal_only_where_it_is_about_who_asks() {
    for (about_caller, is_part, repeated) in [
        (false, true, false),
        (true, true, true),
        (false, false, true),
    ] {
        let mut call = match is_part {
            true => Call::part_of_batch(Idempotency::Safe),
            false => Call::new(Idempotency::Safe),
        };
        let mut refusal = busy().max_retries(1);
        refusal.about_caller = about_caller;
        let decided = refused(refusal).apply(&mut call);
        assert_eq!(decided.is_ok(), repeated, "{about_caller}, {is_part}");
    }
}

#[test]
fn a_retry_that_was_not_sent_does_not_count() {
    let mut call = Call::new(Idempotency::Safe)
        .after(refused(busy()))
        .after(refused(busy()));
    // The first attempt stays: nothing was sent before it.
    for attempts in [3, 2, 1, 1] {
        assert_eq!(call.state.attempt_count(), attempts);
        call.state.take_back_retry();
    }
}

#[test]
fn another_server_is_asked_for_what_may_be_repeated_and_in_time() {
    let (not_executed, unknown) = (busy(), busy().outcome_unknown());
    for (refusal, idempotency, may) in [
        (&not_executed, Idempotency::NonIdempotent, true),
        (&not_executed, Idempotency::Safe, true),
        (&unknown, Idempotency::Idempotent, true),
        (&unknown, Idempotency::NonIdempotent, false),
    ] {
        let call = Call::new(idempotency);
        let case = format!("{refusal:?}, {idempotency:?}");
        assert_eq!(call.state.may_move(refusal, call.now), may, "{case}");
        let late = call.begin + DEADLINE + Duration::from_nanos(1);
        assert!(!call.state.may_move(refusal, late), "{case}");
    }
    // What the first server may have done is not forgotten.
    for (refusals, repeated) in [
        (vec![&not_executed], false),
        (vec![&unknown], true),
        (vec![&unknown, &not_executed], true),
    ] {
        let mut call = Call::new(Idempotency::Idempotent);
        for refusal in refusals {
            let wait = call.state.after_move(refusal, call.now);
            assert_eq!((wait.until, wait.held), (call.now, false));
            call.state.begin_attempt();
        }
        assert_eq!(call.state.maybe_repeated(), repeated);
    }
}

#[test]
fn a_wait_past_the_deadline_is_not_begun() {
    let mut call = Call::new(Idempotency::Safe);
    call.now = call.begin + DEADLINE - DRAWN;
    assert!(failed(Failure::NotSent).apply(&mut call).is_ok());
    call.now += Duration::from_nanos(1);
    let decided = failed(Failure::NotSent).apply(&mut call);
    assert_eq!(decided, Err(Ended::Error(EndError::DeadlinePassed)));
}

#[test]
fn a_call_that_gives_up_ends_with_the_last_refusal_if_it_counts() {
    let refusal = || refused(busy());
    let unknown = || refused(busy().outcome_unknown());
    let not_sent = || failed(Failure::NotSent);
    let lost = || failed(Failure::Lost);
    let passed = EndError::DeadlinePassed;
    // What came before, whether the last refusal counts, the error without it, for safe and for idempotent requests.
    type Row = (Vec<End>, [(bool, EndError); 2]);
    let table: [Row; 6] = [
        (vec![], [(false, passed); 2]),
        (vec![not_sent()], [(false, passed); 2]),
        (vec![refusal(), not_sent()], [(true, passed); 2]),
        (
            vec![refusal(), lost()],
            [(true, passed), (false, EndError::OutcomeUnknown)],
        ),
        (
            vec![lost(), refusal()],
            [(true, passed), (true, EndError::OutcomeUnknown)],
        ),
        (
            vec![unknown()],
            [(true, passed), (true, EndError::OutcomeUnknown)],
        ),
    ];
    for (before, ends) in table {
        for (idempotency, (counts, error)) in ALL.into_iter().zip(ends) {
            let mut call = Call::new(idempotency);
            for end in &before {
                call = call.after(end.clone());
            }
            call.now = call.begin + DEADLINE;
            let ended = not_sent().apply(&mut call).unwrap_err();
            let case = format!("{before:?}, {idempotency:?}: {ended:?}");
            match &ended {
                Ended::Kept(info, kind) => {
                    assert!(counts && info.gave_up && *kind == error, "{case}");
                    let unknown = error == EndError::OutcomeUnknown;
                    assert_eq!(info.outcome_unknown, unknown, "{case}");
                    assert_eq!(info.signal.as_deref(), Some("not sent"), "{case}");
                }
                Ended::Error(kind) => assert!(!counts && *kind == error, "{case}"),
                Ended::Response(_) => panic!("{case}"),
            }
            // So does one that a ledger does not admit, with the ledger's own error.
            let admitted = Ended::from(call.state.after_not_admitted(None, call.now));
            let inner = match error {
                EndError::DeadlinePassed => EndError::Inner,
                other => other,
            };
            match admitted {
                Ended::Kept(info, kind) => assert!(counts && info.gave_up && kind == inner),
                Ended::Error(kind) => assert!(!counts && kind == inner, "{case}"),
                Ended::Response(_) => panic!("{case}"),
            }
        }
    }
}

#[test]
fn an_error_that_no_wait_cures_outweighs_an_earlier_refusal() {
    let mut call = Call::new(Idempotency::NonIdempotent).after(refused(busy()));
    let decided = failed(Failure::Permanent).apply(&mut call);
    assert_eq!(decided, Err(Ended::Error(EndError::Inner)));
    assert_eq!(call.state.signal(), Some("ErrorServerBusy"));
    let mut call = Call::new(Idempotency::Idempotent).after(failed(Failure::Lost));
    let decided = failed(Failure::Permanent).apply(&mut call);
    assert_eq!(decided, Err(Ended::Error(EndError::OutcomeUnknown)));
}

#[test]
fn a_call_that_is_not_admitted_at_first_was_not_sent() {
    let call = Call::unsent(Idempotency::NonIdempotent);
    for (opens_in, closed_until) in [
        (None, None),
        (Some(secs(3)), Some(call.now + secs(3))),
        (Some(Duration::MAX), None),
    ] {
        let ending = call.state.after_not_admitted(opens_in, call.now);
        let error = EndError::NotSent { closed_until };
        assert_eq!(Ended::from(ending), Ended::Error(error));
    }
}

#[test]
fn a_second_execution_is_told_if_it_matters() {
    let lost = || failed(Failure::Lost);
    // What came before, whether an execution before the last attempt is possible.
    let table = [
        (vec![], false),
        (vec![refused(busy())], false),
        (vec![failed(Failure::NotSent)], false),
        (vec![lost()], true),
        (vec![lost(), refused(busy())], true),
        (vec![refused(busy().outcome_unknown())], true),
    ];
    for (before, repeated) in table {
        for idempotency in [Idempotency::Safe, Idempotency::Idempotent] {
            let mut call = Call::new(idempotency);
            for end in &before {
                call = call.after(end.clone());
            }
            let case = format!("{before:?}, {idempotency:?}");
            assert_eq!(call.state.maybe_repeated(), repeated, "{case}");
            let info = call.state.accept();
            assert_eq!(info.is_some(), !before.is_empty(), "{case}");
            let Some(info) = info else { continue };
            let told = repeated && idempotency != Idempotency::Safe;
            assert_eq!(info.maybe_repeated, told, "{case}");
            assert!(!info.gave_up && !info.outcome_unknown, "{case}");
            assert_eq!(info.attempts as usize, 1 + before.len(), "{case}");
        }
    }
    // The attempt that leaves it open is not a second one yet.
    let mut call = Call::new(Idempotency::Idempotent);
    assert!(lost().apply(&mut call).is_ok());
    assert!(!call.state.maybe_repeated());
}

#[test]
fn a_closed_gate_holds_a_retry_back() {
    let mut call = Call::new(Idempotency::Safe);
    let gate = call.now + secs(5);
    let busy_for = |seconds| busy().retry_after(Some(secs(seconds)));
    let held = End::Refused(busy_for(4), HeldBy::Gate(gate));
    assert_eq!(held.apply(&mut call), Ok((secs(4), true)));
    assert_eq!(call.state.held_until(), Some(gate));
    // It was held back until then.
    call.now = gate;
    call.state.begin_attempt();
    assert_eq!(refused(busy_for(3)).apply(&mut call), Ok((secs(3), false)));
    assert_eq!(call.state.held_until(), None);
    let gate = call.now + secs(9);
    let held = End::Refused(busy_for(9), HeldBy::Gate(gate));
    assert_eq!(held.apply(&mut call), Ok((secs(9), true)));
    // It was not held back: the call waits by itself from now on.
    call.now = gate - Duration::from_nanos(1);
    for gate in [call.now + secs(9), call.now + secs(99)] {
        let held = End::Refused(busy_for(9), HeldBy::Gate(gate));
        assert_eq!(held.apply(&mut call), Ok((secs(9), false)));
        call.now = gate;
    }
}

#[test]
fn in_the_queue_of_a_ledger_the_wait_grows_with_the_time_of_the_refusals() {
    let mut call = Call::new(Idempotency::Safe);
    let over_limit = End::Refused(busy(), HeldBy::LedgerQueue);
    let first = call.now;
    for (since, wait) in [(0, SHORTEST_QUEUE_WAIT), (8, secs(1)), (80, secs(10))] {
        call.now = first + secs(since);
        assert_eq!(over_limit.apply(&mut call), Ok((wait, true)), "{since}");
        assert_eq!(call.state.held_until(), Some(call.now + wait));
    }
    // Another refusal begins it anew.
    call.now = first + secs(200);
    assert!(refused(busy()).apply(&mut call).is_ok());
    let decided = over_limit.apply(&mut call);
    assert_eq!(decided, Ok((SHORTEST_QUEUE_WAIT, true)));
    // The deadline holds there, too.
    call.now = call.begin + DEADLINE;
    let ended = over_limit.apply(&mut call).unwrap_err();
    assert!(ended.info().gave_up);
}

#[test]
fn waits_and_attempts_are_counted() {
    let mut call = Call::new(Idempotency::Safe);
    assert_eq!(
        (call.state.attempt_count(), call.state.deadline()),
        (1, call.begin + DEADLINE)
    );
    call.state.add_wait(secs(2));
    call.state.begin_attempt();
    call.state.add_wait(secs(3));
    assert_eq!(call.state.attempt_count(), 2);
    let info = call.state.accept().unwrap();
    assert_eq!((info.attempts, info.backed_off), (2, secs(5)));
    assert_eq!(info.signal, None);
    assert_eq!(call.state.class().operation, "Operation");
    call.state.add_wait(Duration::MAX);
    assert_eq!(call.state.accept().unwrap().backed_off, Duration::MAX);
}

#[test]
fn errors_carry_the_operation_the_attempts_and_the_source() {
    let mut call = Call::new(Idempotency::Safe);
    call.state.begin_attempt();
    let now = call.now;
    let error = |kind| call.state.error(kind, "the source".into(), now);
    let text = |source: &BoxError| source.to_string() == "the source";
    assert!(text(&error(EndError::Inner)));
    for kind in [
        EndError::OutcomeUnknown,
        EndError::DeadlinePassed,
        EndError::NotSent {
            closed_until: Some(now + secs(2)),
        },
    ] {
        let error = error(kind);
        let made = match error.downcast_ref().unwrap() {
            BackoffError::OutcomeUnknown {
                operation,
                attempts,
                source,
            } if kind == EndError::OutcomeUnknown => (operation, *attempts, source),
            BackoffError::DeadlinePassed {
                operation,
                attempts,
                source,
            } if kind == EndError::DeadlinePassed => (operation, *attempts, source),
            BackoffError::NotSent {
                operation,
                at,
                closed_until,
                source,
            } => {
                let closed_until = *closed_until;
                assert_eq!((*at, kind), (now, EndError::NotSent { closed_until }));
                (operation, 2, source)
            }
            other => panic!("{kind:?}: {other:?}"),
        };
        assert_eq!((&**made.0, made.1, text(made.2)), ("Operation", 2, true));
    }
}

#[test]
fn a_drawn_wait_leaves_time_for_one_more_attempt() {
    let call = Call::new(Idempotency::Safe);
    let at = |left: Duration| call.begin + DEADLINE - left;
    for (left, cut) in [
        (secs(900), 60_000),
        (secs(61), 60_000),
        (secs(60), 59_000),
        (secs(2), 1_000),
        (Duration::from_millis(1_001), 1),
        // There is no time for an attempt, however short the wait.
        (secs(1), 60_000),
        (secs(0), 60_000),
    ] {
        let drawn = call.state.cut(secs(60), at(left));
        assert_eq!(drawn, Duration::from_millis(cut), "{left:?}");
    }
    let backoff = Backoff {
        base: secs(1000),
        cap: secs(1000),
    };
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..100 {
        let waits = call.state.waits(backoff, &mut rng, at(secs(3)));
        assert!(waits.drawn <= secs(2));
    }
}
