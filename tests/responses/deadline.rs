//! A batch's deadline is one moment for all of it: parts that hang or stall, waits, gates, and what the members end with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::ServiceExt;
use tower_ews::EwsStack;
use tower_ews::batch_splitter::{BatchReport, BatchStats};
use tower_ews::extensions::{Caller, Deadline};
use tower_ews::policy::ThrottlingPolicy;

use super::server::{Ask, Reply, client, envelope, good, messages, request};

const DEADLINE: Duration = Duration::from_secs(60);
const MEMBERS: usize = 300;

/// What a batch came to.
struct Ended {
    took: Duration,
    asks: Vec<Ask>,
    /// How many members have a message with each code; or the error.
    said: Result<BTreeMap<String, usize>, String>,
    status: u16,
    body: String,
    stats: BatchStats,
}

/// Sends a batch through the whole stack, after `before` calls that are still on their way.
async fn send(
    operation: &str,
    parallel: usize,
    before: usize,
    reply: impl Fn(&Ask) -> Reply + Send + Sync + 'static,
) -> Ended {
    let asks = Arc::new(Mutex::new(Vec::new()));
    // A wait that ends just before the deadline leaves an attempt no time to come back.
    fastrand::seed(1);
    let stack = EwsStack::new(ThrottlingPolicy::exchange_online())
        .caller(Caller::new("svc@contoso.com"))
        .batches(|batches| batches.parallel(parallel).start_members(50).seed(1))
        .service(client(Arc::clone(&asks), reply));
    for _ in 0..before {
        tokio::spawn(stack.clone().oneshot(request("GetItem", 1)));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut call = request(operation, MEMBERS);
    call.extensions_mut().insert(Deadline::within(DEADLINE));
    let begin = Instant::now();
    let mut stats = BatchStats::default();
    let (mut status, mut body) = (0, String::new());
    let said = match stack.clone().oneshot(call).await {
        Err(error) => Err(error.to_string()),
        Ok(response) => {
            status = response.status().as_u16();
            let report: Option<BatchReport> = response.extensions().get().cloned();
            let collected = response.into_body().collect().await.unwrap().to_bytes();
            stats = report.unwrap().stats();
            body = String::from_utf8(collected.to_vec()).unwrap();
            let mut said = BTreeMap::new();
            for code in body.split("ResponseCode>").skip(1).step_by(2) {
                *said
                    .entry(code.trim_end_matches("</m:").to_owned())
                    .or_insert(0) += 1;
            }
            Ok(said)
        }
    };
    let took = begin.elapsed();
    // Nothing of it goes on behind it.
    let of_batch = |ask: &&Ask| ask.operation == operation && ask.ids.len() > 1;
    let asked = asks.lock().unwrap().iter().filter(of_batch).count();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let asks = std::mem::take(&mut *asks.lock().unwrap());
    assert_eq!(asks.iter().filter(of_batch).count(), asked, "{operation}");
    Ended {
        took,
        asks,
        said,
        status,
        body,
        stats,
    }
}

/// What the server does after its first part, and what the last part that it had may end with.
struct Trouble {
    name: &'static str,
    response: fn(&Ask) -> Reply,
    /// Whether the part that is on its way at the deadline may have been executed.
    doubt: bool,
    /// What stands in the messages of those that were refused.
    word: &'static str,
}

fn troubles() -> Vec<Trouble> {
    let trouble = |name, response, doubt, word| Trouble {
        name,
        response,
        doubt,
        word,
    };
    vec![
        trouble("it hangs", |_| Reply::Hang, true, "before its deadline"),
        trouble(
            "its responses stall",
            |_| Reply::Stall(envelope("")[..200].to_owned()),
            true,
            "before its deadline",
        ),
        trouble("503", |_| Reply::status(503), false, "HTTP 503"),
        trouble(
            "503, and the wait is too long",
            |_| Reply::status(503).with("retry-after", "300"),
            false,
            "HTTP 503",
        ),
        trouble(
            "429, then it hangs",
            |ask| match ask.number {
                1..4 => Reply::status(429).with("retry-after", "5"),
                _ => Reply::Hang,
            },
            true,
            "HTTP 429",
        ),
        trouble(
            "each busy",
            |ask| messages(ask, |_| "ErrorServerBusy".to_owned()),
            false,
            ">ErrorServerBusy<",
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_one_deadline() {
    for Trouble {
        name,
        response,
        doubt,
        word,
    } in troubles()
    {
        for (operation, parallel) in [("GetItem", 1), ("GetItem", 4), ("CreateItem", 1)] {
            // Its first part is fine, or none.
            for first in [true, false] {
                let what = format!("{name}, {operation}, {parallel} at a time, {first}");
                let ended = send(operation, parallel, 0, move |ask| {
                    match ask.ids.contains(&"ID0000".to_owned()) && first {
                        true => good(ask),
                        false => response(ask),
                    }
                })
                .await;
                let step = Duration::from_millis(1);
                assert!(ended.took <= DEADLINE + step, "{what}: {:?}", ended.took);
                let asks = ended.asks.iter();
                let mut sent: Vec<&String> = asks.flat_map(|ask| &ask.ids).collect();
                sent.sort_unstable();
                sent.dedup();
                let stats = ended.stats;
                match &ended.said {
                    // The server's own response, since nothing else came.
                    Ok(_) if ended.status != 200 => {
                        assert!(!first && !doubt && name.starts_with("503"), "{what}");
                        assert_eq!((ended.status, stats.not_executed), (503, MEMBERS), "{what}");
                    }
                    Ok(said) => {
                        assert_eq!(said.values().sum::<usize>(), MEMBERS, "{what}: {said:?}");
                        let done = if first { 50 } else { 0 };
                        assert_eq!(said.get("NoError").copied().unwrap_or(0), done, "{what}");
                        let parts = stats.done + stats.unknown + stats.not_executed;
                        assert_eq!((stats.done, parts), (done, MEMBERS), "{what}");
                        let unknown = if doubt && operation == "CreateItem" {
                            50
                        } else {
                            0
                        };
                        assert_eq!(stats.unknown, unknown, "{what}");
                        let told = ended.body.matches("It is not known whether").count();
                        assert_eq!(told, unknown, "{what}");
                        if unknown == 0 {
                            assert!(ended.body.contains(word), "{what}: {}", ended.body);
                        }
                    }
                    // Nothing came.
                    Err(error) => {
                        let open = error.starts_with("outcome unknown");
                        assert_eq!(open, operation == "CreateItem", "{what}: {error}");
                        assert!(!first && doubt, "{what}: {error}");
                    }
                }
                if operation == "CreateItem" && doubt {
                    assert!(sent.len() <= 100, "{what}: {}", sent.len());
                }
            }
        }
    }
}

/// A call waits for a gate, or for permits that others hold, no longer than its deadline. Nothing was sent.
#[tokio::test(start_paused = true)]
async fn a_batch_that_is_not_admitted_before_its_deadline_was_not_sent() {
    type Case = (&'static str, usize, fn(&Ask) -> Reply);
    let cases: [Case; 2] = [
        ("a gate", 1, |_| {
            Reply::status(503).with("retry-after", "300")
        }),
        ("permits", 27, |_| Reply::Hang),
    ];
    for (name, before, response) in cases {
        for operation in ["GetItem", "CreateItem"] {
            let ended = send(operation, 1, before, response).await;
            let what = format!("{name}, {operation}: {:?}", ended.said);
            assert!(ended.took <= DEADLINE + Duration::from_millis(1), "{what}");
            // Of the batch, not of those before.
            let sent = ended.asks.iter().filter(|ask| ask.ids.len() > 1).count();
            assert_eq!(sent, 0, "{what}");
            let error = ended.said.unwrap_err();
            assert!(
                !error.contains("unknown") && !error.contains("may have"),
                "{error}"
            );
        }
    }
}

/// Each part is throttled once, for 25 s. Two came in time, the third one would come too late.
#[tokio::test(start_paused = true)]
async fn parts_that_came_before_the_deadline_count() {
    for operation in ["GetItem", "CreateItem"] {
        let ended = send(operation, 1, 0, |ask| match ask.number % 2 {
            0 => Reply::status(429).with("retry-after", "25"),
            _ => good(ask),
        })
        .await;
        let stats = ended.stats;
        assert_eq!(ended.said.unwrap()["NoError"], stats.done, "{operation}");
        let done = if operation == "CreateItem" { 100 } else { 150 };
        assert_eq!((stats.done, stats.unknown), (done, 0), "{operation}");
        assert_eq!(stats.not_executed, MEMBERS - done, "{operation}");
        // It does not wait for what would be too late.
        assert!(
            ended.took < Duration::from_secs(51),
            "{operation}: {:?}",
            ended.took
        );
        assert!(ended.body.contains("HTTP 429"), "{operation}");
    }
}
