//! Tables of decisions. No runtime: time is what the test says.

use std::collections::BTreeMap;

use http::{Response, StatusCode};

use super::super::format::Explanation;
use super::*;
use crate::body::rope::Rope;

const SECOND: Duration = Duration::from_secs(1);

/// Members are numbers. The test puts what the response to a part says into its extensions.
struct Numbers {
    members: usize,
    order: Order,
    idempotency: Idempotency,
    needs: BTreeMap<usize, Vec<usize>>,
    joined: bool,
    explains: bool,
}

impl Batch for Numbers {
    fn operation(&self) -> &str {
        "Numbers"
    }

    fn sizing_key(&self) -> &str {
        "Numbers"
    }

    fn members(&self) -> usize {
        self.members
    }

    fn member_bytes(&self, _: usize) -> u64 {
        1
    }

    fn shared_bytes(&self) -> u64 {
        0
    }

    fn order(&self) -> Order {
        self.order
    }

    fn idempotency(&self) -> Idempotency {
        self.idempotency
    }

    fn joined(&self, _: usize) -> bool {
        self.joined
    }

    fn needs(&self, member: usize) -> &[usize] {
        self.needs.get(&member).map_or(&[], Vec::as_slice)
    }

    fn separator(&self) -> &'static str {
        ","
    }

    fn part(&mut self, _: &[usize]) -> ReplayBody {
        ReplayBody::from("a part")
    }

    fn response(&mut self, _: &[usize], head: &response::Parts, _: Rope) -> PartResponse {
        head.extensions.get::<PartResponse>().unwrap().clone()
    }

    fn explain(&mut self, _: usize, why: &Explanation<'_>) -> Option<Rope> {
        let text = match why {
            Explanation::OutcomeUnknown { .. } => "unknown".to_owned(),
            Explanation::NotExecuted { .. } => "not executed".to_owned(),
            Explanation::DependencyFailed { member } => format!("needs {member}"),
        };
        self.explains.then(|| text.into())
    }
}

/// A response that says this.
fn response(status: u16, says: PartResponse) -> SendResult {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.extensions_mut().insert(says);
    SendResult::Response(Box::new(CollectedResponse {
        head: response.into_parts().0,
        body: Rope::new(),
        trailers: None,
    }))
}

/// A response with a message for each letter: done, failed, failed but perhaps executed, unknown, retry, retry once, maybe
/// executed, stopped.
fn messages(letters: &str) -> SendResult {
    let messages = letters.chars().map(|letter| {
        let retry_after = Some(SECOND);
        let (text, outcome) = match letter {
            'd' => ("done", MemberOutcome::Done),
            'f' | 'F' => ("failed", MemberOutcome::Failed),
            'u' => ("unknown", MemberOutcome::Unknown),
            'o' => (
                "once",
                MemberOutcome::Retry(Retry::new(retry_after).max_retries(1)),
            ),
            'r' => ("busy", MemberOutcome::retry(retry_after)),
            'm' => (
                "maybe",
                MemberOutcome::Retry(Retry::new(retry_after).maybe_executed()),
            ),
            's' => ("stopped", MemberOutcome::Stopped),
            other => panic!("{other}"),
        };
        let message = Message::new(text, outcome);
        match letter {
            'F' => message.maybe_executed(),
            _ => message,
        }
    });
    let frame = ("".into(), "".into());
    let messages = messages.collect();
    response(200, PartResponse::Messages { frame, messages })
}

fn lists(list: &'static str) -> SendResult {
    let frame = vec!["[".into(), "]".into()];
    let lists = vec![list.into()];
    response(200, PartResponse::Lists { frame, lists })
}

fn failure(outcome: PartOutcome) -> SendResult {
    let failure = PartFailure::new(outcome, "a fault").with_code("ErrorOfPart");
    response(500, PartResponse::Failure(failure))
}

fn done(members: &[usize]) -> SendResult {
    messages(&"d".repeat(members.len()))
}

fn lost() -> SendResult {
    SendResult::Lost("the connection was reset".into())
}

fn too_large() -> SendResult {
    let failure = PartFailure::new(PartOutcome::retry(Some(SECOND)), "too large").too_large();
    response(413, PartResponse::Failure(failure))
}

/// A batch on its way.
struct Run {
    progress: Progress<Numbers>,
    now: Instant,
    /// What was handed out.
    text: String,
}

impl Run {
    fn new(batch: Numbers, config: Config, deadline: Option<Duration>) -> Self {
        let now = Instant::now();
        let shared = Arc::new(Shared::new(config, Arc::default()));
        let deadline = deadline.map(|deadline| now + deadline);
        Self {
            progress: Progress::new(batch, shared, deadline),
            now,
            text: String::new(),
        }
    }

    fn step(&mut self) -> Step {
        self.progress.step(self.now)
    }

    /// Waits, and takes what is handed out, until a part is sent or nothing follows.
    fn next(&mut self) -> Result<Part, Result<String, String>> {
        loop {
            match self.step() {
                Step::Send(part) => return Ok(part),
                Step::Wait(until) => self.now = until.expect("no part in flight"),
                Step::HandOut(Output::Head(_)) => {}
                Step::HandOut(Output::Bytes(bytes)) => {
                    self.text += std::str::from_utf8(&bytes).unwrap();
                }
                Step::HandOut(Output::End) => return Err(Ok(std::mem::take(&mut self.text))),
                Step::HandOut(Output::OnePart(response)) => {
                    return Err(Err(response.head.status.to_string()));
                }
                Step::HandOut(Output::Error(error)) => return Err(Err(error.to_string())),
            }
        }
    }

    /// The members of the part that is sent next.
    fn sent(&mut self) -> Vec<usize> {
        self.next().unwrap().members
    }

    /// The part came back after `seconds`.
    fn ended_after(&mut self, seconds: u32, members: &[usize], result: SendResult) {
        self.now += seconds * SECOND;
        let end = PartEnd {
            number: u32::MAX,
            members: members.to_vec(),
            result,
            took: seconds * SECOND,
        };
        self.progress.part_ended(end, self.now);
    }

    /// The part came back after a time that changes no sizes.
    fn ended(&mut self, members: &[usize], result: SendResult) {
        self.ended_after(15, members, result);
    }

    /// Drives the batch to its end. All members of later parts are done. Returns those parts, and what the caller gets.
    fn finish(&mut self) -> (Vec<Vec<usize>>, Result<String, String>) {
        self.finish_with(15, done)
    }

    /// Drives the batch to its end. Each part comes back after `seconds`, as `server` says.
    fn finish_with(
        &mut self,
        seconds: u32,
        mut server: impl FnMut(&[usize]) -> SendResult,
    ) -> (Vec<Vec<usize>>, Result<String, String>) {
        let mut parts = Vec::new();
        loop {
            match self.next() {
                Ok(part) => {
                    let result = server(&part.members);
                    self.ended_after(seconds, &part.members, result);
                    parts.push(part.members);
                }
                Err(end) => return (parts, end),
            }
        }
    }

    fn stats(&self) -> super::super::BatchStats {
        self.progress.report().stats()
    }
}

fn numbers(members: usize, order: Order, idempotency: Idempotency) -> Numbers {
    Numbers {
        members,
        order,
        idempotency,
        needs: BTreeMap::new(),
        joined: false,
        explains: true,
    }
}

fn config(members: usize) -> Config {
    Config {
        start_members: members,
        max_members: members,
        seed: Some(1),
        ..Config::default()
    }
}

const KINDS: [Idempotency; 3] = [
    Idempotency::Safe,
    Idempotency::Idempotent,
    Idempotency::NonIdempotent,
];

/// A batch of four members, whose first two are in flight. In doubt: for the second time, after a first one that may have
/// executed them.
fn two_of_four(idempotency: Idempotency, in_doubt: bool, deadline: Option<Duration>) -> Run {
    let batch = numbers(4, Order::Kept, idempotency);
    let mut run = Run::new(batch, config(2), deadline);
    assert_eq!(run.sent(), [0, 1]);
    if in_doubt {
        run.ended_after(0, &[0, 1], messages("mm"));
        assert_eq!(run.sent(), [0, 1]);
    }
    run
}

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

#[test]
fn part_sizes_follow_the_time_and_the_refusals() {
    // How long a part takes, what comes of it, and the size of the next one.
    type Case = (u32, fn(usize) -> SendResult, usize);
    let done: fn(usize) -> SendResult = |members| messages(&"d".repeat(members));
    let busy: fn(usize) -> SendResult = |members| messages(&("d".repeat(members - 1) + "r"));
    let cases: [(&str, Vec<Case>); 6] = [
        ("fast parts double", vec![(10, done, 16), (10, done, 32)]),
        ("others stay", vec![(11, done, 8), (20, done, 8)]),
        ("slow parts halve", vec![(21, done, 4), (21, done, 2)]),
        (
            "a refusal keeps the size",
            vec![(1, busy, 8), (1, done, 16)],
        ),
        (
            "a connection that breaks late halves",
            // Little at first, since it may have been executed.
            vec![(46, |_| SendResult::Lost("".into()), 1), (15, done, 4)],
        ),
        (
            "what is too large halves",
            vec![(1, |_| too_large(), 4), (15, done, 4), (15, done, 4)],
        ),
    ];
    for (name, cases) in cases {
        let batch = numbers(200, Order::Kept, Idempotency::Idempotent);
        let mut config = config(8);
        config.max_members = 100;
        let mut run = Run::new(batch, config, None);
        let mut members = run.sent();
        assert_eq!(members.len(), 8);
        for (seconds, result, next) in cases {
            run.ended_after(seconds, &members, result(members.len()));
            members = run.sent();
            assert_eq!(members.len(), next, "{name}, after {seconds} s");
            assert!(members.is_sorted());
        }
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
fn parts_are_in_flight_together_only_where_order_is_free() {
    for (order, parallel, in_flight) in [
        (Order::Kept, 3, 1),
        (Order::Free, 1, 1),
        (Order::Free, 3, 3),
    ] {
        let batch = numbers(10, order, Idempotency::NonIdempotent);
        let mut config = config(2);
        config.parallel = parallel;
        let mut run = Run::new(batch, config, None);
        let mut sent = Vec::new();
        while let Step::Send(part) = run.step() {
            assert_eq!(part.number as usize, sent.len());
            sent.push(part.members);
        }
        assert_eq!(sent.len(), in_flight, "{order:?}, {parallel}");
        assert!(sent.concat().is_sorted());
        // Once one has come back, the next one is sent.
        run.ended(&sent[in_flight - 1], messages("dd"));
        assert_eq!(run.sent(), [in_flight * 2, in_flight * 2 + 1]);
        assert!(matches!(run.step(), Step::Wait(None)));
    }
}

#[test]
fn a_wait_holds_all_parts_back_and_is_reported() {
    let batch = numbers(4, Order::Kept, Idempotency::NonIdempotent);
    let mut run = Run::new(batch, config(2), None);
    assert_eq!(run.sent(), [0, 1]);
    run.ended_after(0, &[0, 1], messages("dr"));
    let begin = run.now;
    assert!(matches!(run.step(), Step::Wait(Some(until)) if until == begin + SECOND));
    run.now = begin + 3 * SECOND;
    let Step::Send(part) = run.step() else {
        panic!("the wait is over")
    };
    assert_eq!((part.members, part.held_back), (vec![1, 2], 3 * SECOND));
    assert_eq!(
        (part.number, part.resent, part.maybe_executed),
        (1, 1, false)
    );
    let stats = run.stats();
    assert_eq!(
        (stats.waited, stats.parts, stats.resent, stats.done),
        (SECOND, 2, 1, 1)
    );
}

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
fn a_member_is_blocked_by_one_that_failed() {
    for (in_doubt, expected) in [
        (false, "failed,needs 0,done"),
        (true, "failed,unknown,done"),
    ] {
        let mut batch = numbers(3, Order::Free, Idempotency::Idempotent);
        batch.needs = [(1, vec![0])].into();
        let mut run = Run::new(batch, config(3), None);
        assert_eq!(run.sent(), [0, 1, 2]);
        let first = if in_doubt { "mmd" } else { "rrd" };
        run.ended(&[0, 1, 2], messages(first));
        // Alone, so that the other one is decided by what becomes of it.
        run.progress.members.plan.member(0).unwrap().cap = 1;
        assert_eq!(run.sent(), [0]);
        run.ended(&[0], messages("f"));
        assert_eq!(run.finish(), (vec![], Ok(expected.to_owned())));
        let stats = run.stats();
        let counts = (stats.unknown, stats.not_executed);
        assert_eq!(counts, if in_doubt { (1, 0) } else { (0, 1) });
    }
    let mut batch = numbers(2, Order::Free, Idempotency::Idempotent);
    batch.needs = [(0, vec![1]), (1, vec![0])].into();
    let mut run = Run::new(batch, config(3), None);
    let error = run.finish().1.unwrap_err();
    assert_eq!(
        error,
        "no part of Numbers was sent: members need each other in a circle"
    );
}

#[test]
fn nothing_is_sent_after_the_deadline() {
    for (deadline, expected) in [
        (
            0,
            Err("no part of Numbers was sent: the deadline of the call has passed".to_owned()),
        ),
        (15, Ok("done,done,not executed,not executed".to_owned())),
        (16, Ok("done,done,done,done".to_owned())),
    ] {
        let batch = numbers(4, Order::Kept, Idempotency::NonIdempotent);
        let mut run = Run::new(batch, config(2), Some(deadline * SECOND));
        assert_eq!(run.finish().1, expected, "{deadline}");
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

/// A success that does not say anything of what was asked for.
fn odd_success(outcome: PartOutcome) -> SendResult {
    let failure = PartFailure::new(outcome, "odd");
    response(200, PartResponse::Failure(failure))
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
    let cases: [Case; 5] = [
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

/// While small parts are tried, what needs a member that failed is told so.
#[test]
fn what_is_blocked_is_found_among_failures_too() {
    let mut batch = numbers(4, Order::Free, Idempotency::Idempotent);
    batch.needs = [(2, vec![0]), (3, vec![1])].into();
    let mut run = Run::new(batch, config(1), None);
    let (parts, end) = run.finish_with(0, |_| failure(PartOutcome::Failed));
    assert_eq!(parts, [[0], [1]]);
    assert_eq!(end, Err("500 Internal Server Error".to_owned()));
    let mut batch = numbers(4, Order::Free, Idempotency::NonIdempotent);
    batch.needs = [(2, vec![1]), (3, vec![2])].into();
    let mut run = Run::new(batch, config(1), None);
    assert_eq!(run.sent(), [0]);
    run.ended(&[0], messages("d"));
    assert_eq!(run.sent(), [1]);
    run.ended(&[1], lost());
    assert_eq!(
        run.finish().1,
        Ok("done,unknown,needs 1,needs 2".to_owned())
    );
}

/// A part ends at the deadline of the call, or when nothing was achieved for long.
#[test]
fn each_part_has_a_deadline() {
    let batch = || numbers(4, Order::Kept, Idempotency::Safe);
    let mut config = config(1);
    config.stall_timeout = 100 * SECOND;
    for (deadline, first, second) in [(None, 100, 130), (Some(120), 100, 120), (Some(50), 50, 50)] {
        let deadline = deadline.map(|deadline| deadline * SECOND);
        let mut run = Run::new(batch(), config.clone(), deadline);
        let begin = run.now;
        let at = |part: &Part| part.deadline.unwrap() - begin;
        let part = run.next().unwrap();
        assert_eq!(at(&part), first * SECOND);
        // Nothing is achieved by a refusal.
        run.ended_after(15, &[0], messages("r"));
        let part = run.next().unwrap();
        assert_eq!(at(&part), first * SECOND);
        run.now = begin + 30 * SECOND;
        run.ended_after(0, &[0], messages("d"));
        run.text.clear();
        // The next part begins anew.
        let mut part = None;
        while part.is_none() {
            part = match run.step() {
                Step::Send(part) => Some(part),
                Step::HandOut(_) => None,
                Step::Wait(until) => panic!("{until:?}"),
            };
        }
        assert_eq!(at(&part.unwrap()), second * SECOND);
    }
    // A server that takes long to refuse.
    let mut run = Run::new(batch(), config, None);
    let (parts, end) = run.finish_with(60, |_| failure(PartOutcome::Failed));
    assert_eq!(parts, [[0], [1]]);
    assert_eq!(end, Err("500 Internal Server Error".to_owned()));
    assert_eq!(run.stats().not_executed, 4);
}

/// One error for all of a part, and for a member alone as its message.
fn one_error(members: &[usize]) -> SendResult {
    if members.len() == 1 {
        return messages("f");
    }
    let failure = PartFailure::new(PartOutcome::Failed, "no such folder")
        .with_code("ErrorToFolderNotFound")
        .with_message("failed");
    response(200, PartResponse::Failure(failure))
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
