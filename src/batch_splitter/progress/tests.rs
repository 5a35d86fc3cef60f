//! Tables of decisions. No runtime: time is what the test says.

mod culprits;
mod doubt;
mod hand_out;
mod part_ends;

use std::collections::BTreeMap;

use http::{Response, StatusCode};

use super::super::config::Config;
use super::super::format::{
    Explanation, MemberOutcome, Message, PartFailure, PartOutcome, PartResponse, Retry,
};
use super::super::part::SendResult;
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

/// A success that does not say anything of what was asked for.
fn odd_success(outcome: PartOutcome) -> SendResult {
    let failure = PartFailure::new(outcome, "odd");
    response(200, PartResponse::Failure(failure))
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
fn part_sizes_follow_the_time_and_the_refusals() {
    // How long a part takes, what comes of it, and the size of the next one.
    type Case = (u32, fn(usize) -> SendResult, usize);
    let done: fn(usize) -> SendResult = |members| messages(&"d".repeat(members));
    let busy: fn(usize) -> SendResult = |members| messages(&("d".repeat(members - 1) + "r"));
    let cases: [(&str, Vec<Case>); 7] = [
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
        (
            "and its members stay in small parts while others grow",
            vec![
                (1, |_| too_large(), 4),
                (1, done, 4),
                (1, done, 8),
                (1, done, 16),
            ],
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
