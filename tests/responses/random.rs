//! Servers that response at random: any status, any fault, any cut, any stall. The whole stack, virtual time.
//!
//! `EWS_TEST_CALLS` sets the number of calls (a million in a full run), `EWS_TEST_SEED` the seed of the first one: a call
//! that goes wrong names its own.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::server::{Ask, Reply, envelope, fault, good, messages, request, send};

/// Calls that once went wrong.
const KEPT: [u64; 1] = [1825337495528374790];

/// What the server has done.
#[derive(Default)]
struct Done {
    /// How often each member was executed.
    executed: HashMap<String, u32>,
    /// Responses and connections of which the client cannot know what was executed.
    losses: u32,
}

/// Responds to one request, after executing some of it.
fn response(ask: &Ask, rng: &mut fastrand::Rng, kinds: &[u32], done: &Mutex<Done>) -> Reply {
    let done = &mut *done.lock().unwrap();
    let execute = |done: &mut Done, members: usize| {
        for id in &ask.ids[..members] {
            *done.executed.entry(id.clone()).or_default() += 1;
        }
    };
    let all = ask.ids.len();
    let some = rng.usize(0..=all);
    let kind = kinds[rng.usize(0..kinds.len())];
    let codes = [
        "ErrorServerBusy",
        "ErrorInternalServerError",
        "ErrorMailboxStoreUnavailable",
        "ErrorItemNotFound",
        "ErrorTimeoutExpired",
        "ErrorNobodyKnows",
        "ErrorMailboxMoveInProgress",
    ];
    let code = codes[rng.usize(0..codes.len())];
    let retry_after = match rng.u8(0..4) {
        0 => Some("1"),
        1 => Some("0,7"),
        2 => Some("soon"),
        _ => None,
    };
    let with_wait = |response: Reply| match retry_after {
        Some(retry_after) => response.with("retry-after", retry_after),
        None => response,
    };
    match kind {
        // Not executed.
        0 => with_wait(Reply::status([429, 503][rng.usize(0..2)])),
        1 => Reply::Refused,
        2 => {
            let statuses = [
                400, 401, 403, 404, 405, 408, 413, 418, 425, 440, 456, 501, 505, 507, 511, 302,
            ];
            with_wait(Reply::status(statuses[rng.usize(0..statuses.len())]))
        }
        3 => {
            let codes = [
                "ErrorServerBusy",
                "ErrorSchemaValidation",
                "ErrorAccessDenied",
            ];
            Reply::xml(500, fault(codes[rng.usize(0..codes.len())], ""))
        }
        // Perhaps executed.
        4 => {
            done.losses += 1;
            execute(done, some);
            Reply::Reset
        }
        5 => {
            done.losses += 1;
            execute(done, some);
            let statuses = [500, 502, 504, 509, 520, 599];
            with_wait(Reply::page(
                statuses[rng.usize(0..statuses.len())],
                "text/html",
                "<html>no</html>",
            ))
        }
        6 => {
            done.losses += 1;
            execute(done, some);
            let whole = match good(ask) {
                Reply::Response { body, .. } => body,
                _ => String::new(),
            };
            let cut = rng.usize(0..whole.len());
            match rng.u8(0..3) {
                0 => Reply::Cut(whole[..cut].to_owned()),
                1 => Reply::Stall(whole[..cut].to_owned()),
                _ => Reply::xml(200, &whole[..cut]),
            }
        }
        7 => {
            let odd = rng.u8(0..10);
            done.losses += 1;
            // A success that is told, whoever it is told of, was one.
            execute(done, if odd < 5 { some } else { all });
            let others = |operation: &str, ids: &[String]| {
                let ask = Ask {
                    operation: operation.to_owned(),
                    ids: ids.to_vec(),
                    ..ask.clone()
                };
                good(&ask)
            };
            match odd {
                0 => Reply::Hang,
                // To something else, with a message too many or too few, or with nothing behind the first one. A single call's is
                // handed on as it is.
                5 if ask.ids.len() > 1 => others("GetFolder", &ask.ids),
                6 => others(&ask.operation, &[&ask.ids[..], &ask.ids[..1]].concat()),
                7 => others(&ask.operation, &ask.ids[1..]),
                8 => match good(ask) {
                    Reply::Response { body, .. } => {
                        let end = body.find("ResponseMessage>").unwrap_or(0);
                        Reply::Stall(body[..end + 16].to_owned())
                    }
                    other => other,
                },
                9 => Reply::xml([200, 500][rng.usize(0..2)], fault("ErrorOfNextYear", "")),
                1 => Reply::xml(200, ""),
                2 => Reply::xml(200, envelope("")),
                3 => Reply::page(200, "text/html", "<html>Sign in</html>"),
                _ => Reply::xml(500, fault("ErrorInternalServerError", "")),
            }
        }
        // A message for each.
        8 | 9 => {
            let share = rng.u32(1..=10);
            let mut failed = HashSet::new();
            for id in &ask.ids {
                if rng.u32(0..10) < share {
                    failed.insert(id.clone());
                    // What these say leaves it open.
                    if ["ErrorInternalServerError", "ErrorMailboxStoreUnavailable"].contains(&code)
                        && rng.bool()
                    {
                        *done.executed.entry(id.clone()).or_default() += 1;
                    }
                } else {
                    *done.executed.entry(id.clone()).or_default() += 1;
                }
            }
            messages(ask, |id| match failed.contains(id) {
                true => code.to_owned(),
                false => "NoError".to_owned(),
            })
        }
        _ => {
            execute(done, all);
            good(ask)
        }
    }
}

async fn call(seed: u64) -> [usize; 3] {
    let mut rng = fastrand::Rng::with_seed(seed);
    let members = match rng.u8(0..4) {
        0 => 1,
        1 => rng.usize(2..10),
        _ => rng.usize(10..200),
    };
    let operation = ["GetItem", "CreateItem", "CreateItem"][rng.usize(0..3)];
    // Most servers do a few things wrong, some everything.
    let mut kinds: Vec<u32> = (0..10).filter(|_| rng.u8(0..5) == 0).collect();
    kinds.extend(std::iter::repeat_n(10, [0, 1, 4, 20][rng.usize(0..4)]));
    if kinds.is_empty() {
        kinds.push(rng.u32(0..10));
    }
    let deadline = (rng.u8(0..2) == 0).then(|| Duration::from_millis(rng.u64(1..400_000)));
    let done = Arc::new(Mutex::new(Done::default()));
    let server = {
        let (done, kinds) = (Arc::clone(&done), kinds.clone());
        let rng = Mutex::new(rng.fork());
        move |ask: &Ask| response(ask, &mut rng.lock().unwrap(), &kinds, &done)
    };
    let outcome = send(request(operation, members), deadline, server).await;
    let done = done.lock().unwrap();
    let case = || format!("{operation} of {members}, {kinds:?}, {deadline:?}: {outcome:?}");

    if let Some(deadline) = deadline {
        assert!(
            outcome.took <= deadline + Duration::from_millis(1),
            "late: {}",
            case()
        );
    }
    let bound = match members {
        1 => 100,
        // Each member alone, as often as a single call is sent, and the parts on the way there.
        _ => 150 + 9 * members,
    };
    assert!(
        outcome.requests() <= bound,
        "{} requests: {}",
        outcome.requests(),
        case()
    );
    let confirmed: HashSet<&str> = outcome
        .body
        .match_indices("ItemId Id=\"")
        .map(|(at, mark)| &outcome.body[at + mark.len()..at + mark.len() + 6])
        .collect();
    for id in &confirmed {
        assert!(done.executed.contains_key(*id), "invented {id}: {}", case());
    }
    if operation == "GetItem" {
        assert_eq!(outcome.unknown, 0, "a read in doubt: {}", case());
        return [confirmed.len(), members - confirmed.len(), 0];
    }
    for (id, times) in &done.executed {
        assert!(*times == 1, "{id} was executed {times} times: {}", case());
    }
    let hidden = done
        .executed
        .keys()
        .filter(|id| !confirmed.contains(id.as_str()));
    let hidden = hidden.count();
    let is_told = outcome.says_unknown();
    assert!(
        hidden == 0 || is_told,
        "{hidden} executed, and nobody says so: {}",
        case()
    );
    if members > 1 && outcome.body.contains("ResponseMessage") && outcome.status == Some(200) {
        assert!(hidden <= outcome.unknown, "{hidden} in doubt: {}", case());
    }
    // A loss leaves one part in doubt, and messages leave what they speak of.
    let by_message = kinds.contains(&8) || kinds.contains(&9);
    if !by_message {
        // So does a deadline that passes while a part is on its way.
        let cut = deadline.is_some_and(|deadline| outcome.took >= deadline);
        let most = 50 * (done.losses as usize + usize::from(cut));
        assert!(
            outcome.unknown <= most,
            "{} in doubt: {}",
            outcome.unknown,
            case()
        );
    }
    [confirmed.len(), members - confirmed.len(), outcome.unknown]
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_is_done_twice_and_nothing_goes_on_for_ever() {
    let calls = number("EWS_TEST_CALLS").unwrap_or(2_000);
    let first = number("EWS_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("EWS_TEST_SEED={first}");
    let mut sums = [0; 3];
    for seed in KEPT
        .into_iter()
        .chain((0..calls).map(|call| first.wrapping_add(call)))
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let outcome = std::panic::catch_unwind(|| runtime.block_on(call(seed)));
        match outcome {
            Ok(counts) => sums
                .iter_mut()
                .zip(counts)
                .for_each(|(sum, count)| *sum += count),
            Err(panic) => {
                eprintln!("EWS_TEST_SEED={seed} EWS_TEST_CALLS=1 shows it");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("members confirmed, not confirmed, in doubt: {sums:?}");
    assert!(calls < 1_000 || sums.iter().all(|sum| *sum > 0));
}
