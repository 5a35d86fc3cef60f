//! Any batch, any schedule of faults, any cancellation: each member's message at its place, and nothing done twice.
//!
//! `EWS_TEST_CASES` sets the number of cases, `EWS_TEST_SEED` the seed of the first one: a case that fails names its own.

use std::collections::{BTreeSet, HashMap};

use super::*;
use crate::retry::Failure;

/// Cases that failed once.
const KEPT: [u64; 5] = [
    // Stopped, and needing what failed, after a response that was lost.
    6286870065952526845,
    8003428352513366711,
    2890361777391250424,
    12114680170116474060,
    // A part was lost after another one was refused for all.
    5596477088594501381,
];

/// What the server has done.
#[derive(Default)]
struct Done {
    /// How often each member was executed.
    executed: HashMap<usize, u32>,
    /// Members of which a response said that they were done.
    confirmed: BTreeSet<usize>,
    order: Vec<usize>,
    faults: u32,
    /// Whether a reply came after the deadline.
    late: bool,
    /// How many replies in a row have settled nothing.
    barren: u32,
    doubt: Doubt,
}

/// What a client that must do nothing twice has to bear in mind.
#[derive(Default)]
struct Doubt {
    /// When the replies to the calls come, their numbers, and what they are.
    replies: Vec<(Instant, usize, Knowledge)>,
    state: DoubtState,
    /// A call that went alone had a reply: single members are to blame, and one more of these calls may be lost.
    recovered: bool,
    /// How many calls that went alone were lost since.
    lost_tests: usize,
}

/// What a reply says of what was executed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    Certain,
    /// Nothing was sent.
    NotSent,
    Lost,
}

#[derive(Clone, Copy, Debug, Default)]
enum DoubtState {
    #[default]
    None,
    /// Since a reply was lost.
    Lost(Instant),
    /// The part that goes alone was not sent.
    NotSent,
    /// This call goes alone.
    Testing(usize),
    /// Its reply was lost, too, and that of one more if an earlier one had one.
    Over,
}

impl Doubt {
    /// A call begins, as one of `running`. `is_small` if it cannot be smaller.
    fn begin(&mut self, number: usize, running: usize, is_small: bool) {
        let now = Instant::now();
        self.replies.sort_by_key(|(at, ..)| *at);
        // One that is lost at this very moment may come after this call was begun.
        let came = |(at, _, knowledge): &_| match knowledge {
            Knowledge::Lost => *at < now,
            _ => *at <= now,
        };
        let replies = std::mem::take(&mut self.replies);
        let (came, open): (Vec<_>, Vec<_>) = replies.into_iter().partition(came);
        self.replies = open;
        for (at, number, knowledge) in came {
            let tested = matches!(self.state, DoubtState::Testing(tested) if tested == number);
            if tested && knowledge == Knowledge::Certain {
                (self.recovered, self.lost_tests) = (true, 0);
            }
            self.lost_tests += usize::from(tested && knowledge == Knowledge::Lost);
            let is_over = self.lost_tests > usize::from(self.recovered);
            self.state = match (knowledge, self.state) {
                (_, DoubtState::Over) => DoubtState::Over,
                (Knowledge::Lost, _) if tested && is_over => DoubtState::Over,
                (Knowledge::Lost, _) => DoubtState::Lost(at),
                (Knowledge::NotSent, _) if tested => DoubtState::NotSent,
                (Knowledge::Certain, _) if tested => DoubtState::None,
                (_, state) => state,
            };
        }
        match self.state {
            DoubtState::None => return,
            DoubtState::Lost(at) => assert!(now >= at + seconds(10), "no pause"),
            DoubtState::NotSent => {}
            DoubtState::Testing(_) | DoubtState::Over => panic!("doubt spreads: {:?}", self.state),
        }
        assert!(is_small && running == 1, "{is_small}, one of {running}");
        self.state = DoubtState::Testing(number);
    }
}

/// Whether these members have to be in one part.
fn is_one_unit(members: &[usize], joined: &[usize]) -> bool {
    let together = |pair: &[usize]| (pair[0]..pair[1]).all(|member| joined.contains(&member));
    members.windows(2).all(together)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_is_lost_and_nothing_is_done_twice() {
    let cases = number("EWS_TEST_CASES").unwrap_or(2_000);
    let first = number("EWS_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("EWS_TEST_SEED={first}");
    let seeds = (0..cases).map(|case| first.wrapping_add(case));
    let mut seen = [0; 5];
    for seed in KEPT.into_iter().chain(seeds) {
        let case = std::panic::catch_unwind(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(case(seed))
        });
        match case {
            Ok(ended) => seen[ended] += 1,
            Err(panic) => {
                eprintln!("EWS_TEST_SEED={seed} EWS_TEST_CASES=1 shows it");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("merged, whole, error, cancelled, dropped unread: {seen:?}");
    if cases >= 1_000 {
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }
}

/// A fault of the server; the numbers are the weights of what can happen.
fn reply(
    call: &Call,
    rng: &mut fastrand::Rng,
    faults: u32,
    idempotency: Idempotency,
    done: &Mutex<Done>,
) -> Reply {
    let done = &mut *done.lock();
    let execute = |done: &mut Done, member: usize| {
        *done.executed.entry(member).or_default() += 1;
        done.order.push(member);
    };
    let after = rng.u64(0..30_000);
    let comes = Instant::now() + Duration::from_millis(after);
    // Nobody reads a reply that comes later.
    let in_time = call.deadline.is_none_or(|deadline| comes <= deadline);
    done.late |= !in_time;
    let confirm = |done: &mut Done, member: usize| {
        if in_time {
            done.confirmed.insert(member);
        }
    };
    // Some faults are before the execution, some after a part of it.
    let executed = rng.usize(0..=call.members.len());
    let fault = if done.faults < faults {
        rng.u32(0..20)
    } else {
        20
    };
    if fault < 20 {
        done.faults += 1;
    }
    let reply = match fault {
        0 => refused(),
        1 => text("FAULT failed"),
        2 => text(format!("FAULT again {}", rng.u32(0..5_000))),
        3 => text("FAULT large"),
        4 if rng.u32(0..10) == 0 => text("FAULT forall"),
        5 | 6 => {
            for member in &call.members[..executed] {
                execute(done, *member);
            }
            let cut = Reply {
                after: Duration::ZERO,
                what: What::Cut,
            };
            let said = match idempotency {
                Idempotency::Idempotent if rng.bool() => "FAULT repeat",
                _ => "FAULT unknown",
            };
            [reset(), cut, text(said)]
                .into_iter()
                .nth(rng.usize(0..3))
                .unwrap()
        }
        7 => {
            // One fails, and stops the others.
            let outcomes: HashMap<usize, &str> = call
                .members
                .iter()
                .enumerate()
                .map(|(at, member)| match at.cmp(&executed) {
                    std::cmp::Ordering::Less => {
                        execute(done, *member);
                        confirm(done, *member);
                        (*member, "ok")
                    }
                    std::cmp::Ordering::Equal => (*member, "failed"),
                    std::cmp::Ordering::Greater => (*member, "stopped"),
                })
                .collect();
            call.each(|member| outcomes[&member].to_owned())
        }
        _ => {
            let busy = if fault < 20 { rng.u32(0..4) } else { 0 };
            let outcomes: HashMap<usize, String> = call
                .members
                .iter()
                .map(|member| {
                    let outcome = match rng.u32(0..10) {
                        0..4 if rng.u32(0..4) < busy => {
                            let retry_after = rng.u32(0..3_000);
                            if retry_after < 1_000 {
                                "busy".to_owned()
                            } else {
                                format!("busy {retry_after}")
                            }
                        }
                        9 if busy > 1 => "failed".to_owned(),
                        _ => {
                            execute(done, *member);
                            confirm(done, *member);
                            "ok".to_owned()
                        }
                    };
                    (*member, outcome)
                })
                .collect();
            call.each(|member| outcomes[&member].clone())
        }
    };
    let settles = match &reply.what {
        What::Response(text) => text.contains(" ok\n") || text.contains(" failed\n"),
        _ => false,
    };
    done.barren = if settles { 0 } else { done.barren + 1 };
    let knowledge = match fault {
        0 if in_time => Knowledge::NotSent,
        5 | 6 => Knowledge::Lost,
        _ if in_time => Knowledge::Certain,
        _ => Knowledge::Lost,
    };
    let comes = call.deadline.map_or(comes, |deadline| comes.min(deadline));
    done.doubt.replies.push((comes, call.number, knowledge));
    reply.after(after)
}

async fn case(seed: u64) -> usize {
    let mut rng = fastrand::Rng::with_seed(seed);
    let members = rng.usize(2..60);
    let order = [Order::Kept, Order::Free][rng.usize(0..2)];
    let idempotency = [
        Idempotency::NonIdempotent,
        Idempotency::NonIdempotent,
        Idempotency::Idempotent,
        Idempotency::Safe,
    ][rng.usize(0..4)];
    let mut format = Lines::new(order, idempotency);
    if rng.u8(0..3) == 0 {
        format.groups = Some(rng.u64(1..40));
    }
    if rng.u8(0..3) == 0 {
        format.joined = (0..members).filter(|_| rng.u8(0..4) == 0).collect();
    }
    if rng.u8(0..3) == 0 {
        let mut needs = BTreeMap::new();
        for member in 1..members {
            if rng.u8(0..5) == 0 {
                needs.insert(member, vec![rng.usize(0..member)]);
            }
        }
        format.needs = needs;
    }
    // Of its own, so that the cases that are kept stay what they are.
    let max_in_doubt = fastrand::Rng::with_seed(!seed).usize(1..40);
    let layer = BatchSplitterLayer::new(format.clone())
        .max_in_doubt(max_in_doubt)
        .start_members(rng.usize(1..20))
        .max_members(rng.usize(1..40))
        .max_bytes(rng.u64(20..2_000))
        .parallel(rng.usize(1..5))
        .seed(seed);
    let faults = [0, 3, 30, u32::MAX][rng.usize(0..4)];
    let cancel = (rng.u8(0..3) == 0).then(|| Duration::from_millis(rng.u64(0..200_000)));
    let unread = rng.u8(0..8) == 0;
    let mut request = batch(members);
    if rng.u8(0..4) == 0 {
        let deadline = Duration::from_millis(rng.u64(0..300_000));
        request.extensions_mut().insert(Deadline::within(deadline));
    }

    let done = Arc::new(Mutex::new(Done::default()));
    let server = Server::new({
        let done = Arc::clone(&done);
        let mut rng = rng.fork();
        let joined = format.joined.clone();
        move |call| {
            if idempotency == Idempotency::NonIdempotent {
                let is_small = is_one_unit(&call.members, &joined);
                assert!(is_small || call.members.len() <= max_in_doubt);
                let doubt = &mut done.lock().doubt;
                doubt.begin(call.number, call.running, is_small);
            }
            let reply = reply(call, &mut rng, faults, idempotency, &done);
            assert!(done.lock().barren < 100, "it asks and asks");
            reply
        }
    });
    let service = layer.layer(server.clone());
    let whole = async {
        let response = service.oneshot(request).await?;
        let stats = response.extensions().get::<BatchReport>().unwrap().clone();
        if unread {
            return Ok((stats, None));
        }
        let length = response.headers().get("content-length").cloned();
        let body = response.into_body().collect().await?.to_bytes();
        if let Some(length) = length {
            assert_eq!(length, body.len().to_string());
        }
        Ok::<_, BoxError>((stats, Some(String::from_utf8(body.to_vec()).unwrap())))
    };
    let ended = match cancel {
        Some(cancel) => tokio::time::timeout(cancel, whole).await.ok(),
        None => Some(whole.await),
    };

    assert_eq!(server.running(), 0, "nothing is left on its way");
    let done = done.lock();
    let requests = server.calls().len();
    let bound = members + 4 * done.faults as usize;
    assert!(requests <= bound, "{requests} requests, {bound} at most");
    if idempotency == Idempotency::NonIdempotent {
        assert!(
            done.executed.values().all(|times| *times == 1),
            "{:?}",
            done.executed
        );
    }
    let at_once = if order == Order::Kept { 1 } else { 4 };
    assert!(server.peak() <= at_once);
    if order == Order::Kept && done.faults == 0 && format.needs.is_empty() {
        assert!(done.order.is_sorted());
    }
    match ended {
        None => 3,
        Some(Err(error)) => {
            // Without a single message.
            assert!(done.confirmed.is_empty());
            if Failure::of(&*error) != Failure::Lost && !error.to_string().contains("cut off") {
                assert!(
                    done.executed.is_empty() || idempotency == Idempotency::Safe,
                    "{error}"
                );
            }
            2
        }
        Some(Ok((stats, None))) => {
            assert!(idempotency == Idempotency::Safe || stats.stats().complete);
            4
        }
        Some(Ok((stats, Some(body)))) => {
            let stats = stats.stats();
            assert!(stats.complete);
            if body.starts_with("FAULT") {
                assert!(done.confirmed.is_empty());
                let unknown = ["FAULT unknown", "FAULT repeat"];
                let unknown = unknown.iter().any(|fault| body.starts_with(fault));
                if !unknown && idempotency != Idempotency::Safe {
                    assert!(done.executed.is_empty(), "{body}: {:?}", done.executed);
                }
                return 1;
            }
            let lines = body
                .strip_prefix("RESPONSE\n")
                .unwrap()
                .strip_suffix("END\n")
                .unwrap();
            assert_eq!(lines.lines().count(), members);
            let (mut oks, mut unknown) = (0, 0);
            for (member, line) in lines.lines().enumerate() {
                let outcome = line
                    .strip_prefix(&format!("{member} "))
                    .expect("its own message");
                let executed = done.executed.contains_key(&member);
                match outcome.split(' ').next().unwrap() {
                    "ok" => {
                        oks += 1;
                        assert!(done.confirmed.contains(&member), "invented: {line}");
                    }
                    "unknown" => {
                        unknown += 1;
                        assert!(!done.confirmed.contains(&member), "{line}");
                    }
                    // The server's own word, after a resend.
                    "failed" if idempotency != Idempotency::NonIdempotent => {}
                    _ if idempotency == Idempotency::Safe => {}
                    _ => assert!(!executed, "{line}"),
                }
                assert!(
                    !done.confirmed.contains(&member) || outcome == "ok",
                    "lost: {line}"
                );
            }
            assert_eq!((stats.done, stats.unknown), (oks, unknown));
            if faults == 0 && cancel.is_none() && stats.parts > 0 && !done.late {
                assert!(stats.resent == 0 && unknown == 0);
            }
            0
        }
    }
}
