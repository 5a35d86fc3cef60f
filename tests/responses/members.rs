//! What the members of a batch get where the server tells one of them what was collected from the documents and from other clients.
//!
//! What is right comes from the tables beside the samples: the class and the wait of the sample, and whether its code leaves open that the
//! member was executed. `EWS_FACTS_DIR` names their folder; without it the tests say that they skip.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};
use tower_ews::batch_splitter::{BatchReport, BatchSplitterLayer, GraphBatchFormat};
use tower_ews::body::ReplayBody;
use tower_ews::server_busy_backoff::ServerBusyBackoffLayer;

use super::Worth;
use super::collected::{Sample, samples, worth};
use super::server::{Ask, Outcome, Reply, envelope, good, message, request, respond, send};

const ONE: &str = "ID0007";

/// The error that a sample tells one member.
struct Told {
    sample: String,
    message: String,
    /// The code that counts: the inner one, where there is one.
    code: String,
    wait: Duration,
}

/// What the table of codes says of a code: its class, and what became of its member.
type Codes = HashMap<String, (String, String)>;

fn codes() -> Option<Codes> {
    let folder = PathBuf::from(std::env::var_os("EWS_FACTS_DIR")?);
    let table = fs::read_to_string(folder.join("response-codes.tsv")).unwrap();
    let rows = table.lines().skip(1).map(|line| {
        let cells: Vec<&str> = line.split('\t').collect();
        let facts = (cells[1].to_owned(), cells[3].to_owned());
        (cells[0].to_owned(), facts)
    });
    Some(rows.collect())
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    Some(rest.split_once(end)?.0)
}

/// The errors in a sample that are said to single members, as `operation` would have them.
fn told(sample: &Sample, operation: &str) -> Vec<Told> {
    let Reply::Response { body, .. } = sample.said_to(operation) else {
        return Vec::new();
    };
    let (begin, end) = (
        format!("<m:{operation}ResponseMessage "),
        format!("</m:{operation}ResponseMessage>"),
    );
    let pieces = body.split(&*begin).skip(1);
    let all = pieces.filter_map(|piece| {
        let inside = piece.split_once(&*end)?.0;
        let code = between(inside, "<m:ResponseCode>", "<")?;
        let inner = between(inside, "\"InnerErrorResponseCode\">", "<");
        let wait = between(inside, "\"BackOffMilliseconds\">", "<");
        let is_error = inside.starts_with("ResponseClass=\"Error\"");
        is_error.then(|| Told {
            sample: sample.name.clone(),
            message: format!("{begin}{inside}{end}"),
            code: inner.unwrap_or(code).trim().to_owned(),
            wait: Duration::from_millis(wait.map_or(0, |wait| wait.parse().unwrap())),
        })
    });
    all.collect()
}

/// A response in which one member is told what `told` says, and the others are done.
fn to_one(ask: &Ask, told: &str) -> Reply {
    let operation = &ask.operation;
    let each: String = ask
        .ids
        .iter()
        .map(|id| match id == ONE {
            true => told.to_owned(),
            false => message(operation, id, "NoError"),
        })
        .collect();
    let list = format!(
        "<m:{operation}Response><m:ResponseMessages>{each}</m:ResponseMessages></m:{operation}Response>"
    );
    Reply::xml(200, envelope(&list))
}

fn asked_for_one(outcome: &Outcome) -> usize {
    let asks = outcome.asks.iter();
    asks.filter(|ask| ask.ids.iter().any(|id| id == ONE))
        .count()
}

/// Each of the others is done once, and told so once.
fn others_are_done(outcome: &Outcome, members: usize, case: &str) {
    for member in (0..members).filter(|member| *member != 7) {
        let id = format!("ID{member:04}");
        let told = format!("<t:ItemId Id=\"{id}\"");
        assert_eq!(outcome.body.matches(&told).count(), 1, "{id}: {case}");
        let asks = outcome.asks.iter().filter(|ask| ask.ids.contains(&id));
        assert_eq!(asks.count(), 1, "{id}: {case}");
    }
}

/// A member that is told so for good has that error, as often as its class is worth, and the others are done. What may have been executed
/// and must not be done twice is sent once.
#[tokio::test(start_paused = true)]
async fn a_member_gets_what_its_sample_says() {
    let (Some(samples), Some(codes)) = (samples(), codes()) else {
        println!("skipped: EWS_FACTS_DIR is not set");
        return;
    };
    let mut tried = 0;
    for operation in ["GetItem", "CreateItem"] {
        for told in samples.iter().flat_map(|sample| told(sample, operation)) {
            tried += 1;
            let (class, became) = &codes[&told.code];
            let unknown = operation == "CreateItem" && became == "unknown";
            let worth = worth(class);
            for members in [20, 300] {
                let text = told.message.clone();
                let reply = move |ask: &Ask| to_one(ask, &text);
                let outcome = send(request(operation, members), None, reply).await;
                let asked = asked_for_one(&outcome);
                let case = format!(
                    "{}, {} ({class}, {became}), {operation} of {members}: {asked} times, {:?}, {outcome:?}",
                    told.sample, told.code, outcome.took
                );
                assert_eq!(outcome.done(), members - 1, "{case}");
                assert_eq!(outcome.unknown, usize::from(unknown), "{case}");
                others_are_done(&outcome, members, &case);
                let told_once = outcome.body.matches("ResponseClass=\"Error\"").count();
                assert_eq!(told_once, 1, "{case}");
                assert!(outcome.body.contains(&told.code), "{case}");
                let most = match unknown {
                    true => 1,
                    false => worth.requests(),
                };
                // Without a deadline of the caller the time counts from when the last other one was settled.
                let longest = worth.time() + 8 * told.wait + Duration::from_secs(31);
                assert!(asked <= most && outcome.took <= longest, "{case}");
                assert!(
                    asked > 1 || unknown || worth == Worth::FinalForPart,
                    "{case}"
                );
            }
        }
    }
    assert!(tried >= 20, "{tried}");
}

/// A member that is told so once is done after the wait that it was told, and nobody else is sent again.
#[tokio::test(start_paused = true)]
async fn a_member_that_was_refused_once_is_done() {
    let (Some(samples), Some(codes)) = (samples(), codes()) else {
        println!("skipped: EWS_FACTS_DIR is not set");
        return;
    };
    let mut waits = 0;
    for operation in ["GetItem", "CreateItem"] {
        for told in samples.iter().flat_map(|sample| told(sample, operation)) {
            let (class, became) = &codes[&told.code];
            let unknown = operation == "CreateItem" && became == "unknown";
            if unknown || worth(class) == Worth::FinalForPart {
                continue;
            }
            waits += usize::from(!told.wait.is_zero());
            for members in [20, 300] {
                let text = told.message.clone();
                let first = Mutex::new(true);
                let outcome = send(request(operation, members), None, move |ask| {
                    let mut first = first.lock().unwrap();
                    let is_told = *first && ask.ids.iter().any(|id| id == ONE);
                    *first &= !is_told;
                    if is_told {
                        to_one(ask, &text)
                    } else {
                        good(ask)
                    }
                })
                .await;
                let case = format!("{}, {operation} of {members}: {outcome:?}", told.sample);
                assert_eq!((outcome.done(), outcome.unknown), (members, 0), "{case}");
                others_are_done(&outcome, members, &case);
                assert_eq!(asked_for_one(&outcome), 2, "{case}");
                assert!(outcome.took >= told.wait, "{case}");
                assert!(
                    outcome.took <= told.wait + Duration::from_secs(31),
                    "{case}"
                );
            }
        }
    }
    assert!(waits >= 6, "{waits}");
}

/// Exchange stops behind a member: what it left undone is sent again, and what it did is not.
#[tokio::test(start_paused = true)]
async fn what_was_stopped_is_sent_again_and_what_was_done_is_not() {
    let Some(samples) = samples() else {
        println!("skipped: EWS_FACTS_DIR is not set");
        return;
    };
    let stopping = samples
        .iter()
        .filter(|sample| sample.name.contains("ProcessingStopped"));
    let mut tried = 0;
    for sample in stopping {
        for operation in ["GetItem", "CreateItem"] {
            let cause = told(sample, operation).remove(0);
            let Reply::Response { body, .. } = sample.said_to(operation) else {
                panic!("{}", sample.name);
            };
            let begin = format!("<m:{operation}ResponseMessage ResponseClass=\"Warning\"");
            let end = format!("</m:{operation}ResponseMessage>");
            let stopped = format!("{begin}{}{end}", between(&body, &begin, &end).unwrap());
            let cured = cause.code == "ErrorInsufficientResources";
            tried += 1;
            let outcome = send(request(operation, 20), None, move |ask| {
                let Some(at) = ask.ids.iter().position(|id| id == ONE) else {
                    return good(ask);
                };
                if cured && ask.number > 0 {
                    return good(ask);
                }
                let each: String = ask.ids.iter().enumerate().map(|(index, id)| match index.cmp(&at) {
                    std::cmp::Ordering::Less => message(&ask.operation, id, "NoError"),
                    std::cmp::Ordering::Equal => cause.message.clone(),
                    std::cmp::Ordering::Greater => stopped.clone(),
                }).collect();
                let operation = &ask.operation;
                let list = format!("<m:{operation}Response><m:ResponseMessages>{each}</m:ResponseMessages></m:{operation}Response>");
                Reply::xml(200, envelope(&list))
            })
            .await;
            let case = format!("{}, {operation}: {outcome:?}", sample.name);
            let done = if cured { 20 } else { 19 };
            assert_eq!((outcome.done(), outcome.unknown), (done, 0), "{case}");
            for member in 0..20 {
                let id = format!("ID{member:04}");
                let asks = outcome
                    .asks
                    .iter()
                    .filter(|ask| ask.ids.contains(&id))
                    .count();
                let most = if member < 7 || member == 7 && !cured {
                    1
                } else {
                    2
                };
                assert_eq!(asks, most, "{id}: {case}");
            }
        }
    }
    assert_eq!(tried, 4);
}

/// One message for all members refuses all of them, and each is told so.
#[tokio::test(start_paused = true)]
async fn one_error_for_a_whole_batch_is_the_error_of_each() {
    let Some(samples) = samples() else {
        println!("skipped: EWS_FACTS_DIR is not set");
        return;
    };
    let name = "200-CreateItem-one-error-for-whole-batch.xml";
    let sample = samples.iter().find(|sample| sample.name == name).unwrap();
    for members in [3, 20, 300] {
        let response = sample.response.clone();
        let outcome = send(request("CreateItem", members), None, move |_| {
            response.clone()
        })
        .await;
        let case = format!("{members}: {outcome:?}");
        assert_eq!((outcome.done(), outcome.unknown), (0, 0), "{case}");
        assert!(outcome.requests() <= 5, "{case}");
        assert!(
            outcome.body.contains("ErrorSavedItemFolderNotFound"),
            "{case}"
        );
    }
}

/// The same in a Graph batch: what a server says with a status, said to one request of it.
#[tokio::test(start_paused = true)]
async fn a_request_of_a_graph_batch_gets_what_its_sample_says() {
    let Some(samples) = samples() else {
        println!("skipped: EWS_FACTS_DIR is not set");
        return;
    };
    let mut tried = 0;
    for sample in samples
        .iter()
        .filter(|sample| sample.name.ends_with(".http"))
    {
        let Reply::Response {
            status, headers, ..
        } = &sample.response
        else {
            continue;
        };
        // What says more than its status is of EWS.
        if *status < 400 || sample.name.contains("cas-error") {
            continue;
        }
        let wait = headers.iter().find(|(name, _)| *name == "retry-after");
        let wait = wait.map_or(0, |(_, wait)| wait.parse().unwrap());
        tried += 1;
        for method in ["GET", "POST"] {
            for for_good in [false, true] {
                let (sent, took, body, unknown) = graph(method, *status, wait, for_good).await;
                let case = format!(
                    "{}, {method}, {for_good}: {sent:?}, {took:?}, {unknown}, {body}",
                    sample.name
                );
                let in_doubt = method == "POST" && sample.class.contains("unknown outcome");
                let permanent = sample.class.contains("permanent") || *status == 401;
                let retried = !in_doubt && !permanent;
                let done = if retried && !for_good { 20 } else { 19 };
                assert_eq!(body.matches("\"status\":200").count(), done, "{case}");
                let told = format!("\"status\":{status}");
                assert_eq!(body.matches(&told).count(), 20 - done, "{case}");
                assert_eq!(unknown, usize::from(in_doubt), "{case}");
                let tries = sent["7"];
                let most = match (retried, for_good) {
                    (false, _) => 1,
                    (true, false) => 2,
                    (true, true) => 90,
                };
                assert!(tries <= most && (tries > 1) == retried, "{case}");
                assert!(
                    sent.iter().all(|(id, times)| id == "7" || *times == 1),
                    "{case}"
                );
                assert!(
                    for_good || !retried || took >= Duration::from_secs(wait),
                    "{case}"
                );
                assert!(took <= Duration::from_secs(901 + wait), "{case}");
            }
        }
    }
    assert!(tried >= 8, "{tried}");
}

/// Sends a batch of 20 of which the seventh is told a status, once or for good. Returns how often each was sent, the time, the response and
/// the number in doubt.
async fn graph(
    method: &str,
    status: u16,
    wait: u64,
    for_good: bool,
) -> (HashMap<String, usize>, Duration, String, usize) {
    let sent = Arc::new(Mutex::new(HashMap::new()));
    let begin = Instant::now();
    let server = {
        let sent = Arc::clone(&sent);
        tower::service_fn(move |request: Request<ReplayBody>| {
            let body = request.into_body().to_bytes();
            let batch: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let mut sent = sent.lock().unwrap();
            let each = batch["requests"].as_array().unwrap().iter().map(|one| {
                let id = one["id"].as_str().unwrap().to_owned();
                let times: &mut usize = sent.entry(id.clone()).or_default();
                *times += 1;
                let is_told = id == "7" && (for_good || *times == 1);
                match (is_told, wait) {
                    (false, _) => format!(r#"{{"id":"{id}","status":200,"body":{{}}}}"#),
                    (true, 0) => format!(r#"{{"id":"{id}","status":{status}}}"#),
                    (true, wait) => format!(
                        r#"{{"id":"{id}","status":{status},"headers":{{"Retry-After":"{wait}"}}}}"#
                    ),
                }
            });
            let each: Vec<String> = each.collect();
            let body = format!(r#"{{"responses":[{}]}}"#, each.join(","));
            respond(Reply::page(200, "application/json", body))
        })
    };
    fastrand::seed(1);
    let inner = ServerBusyBackoffLayer::http().layer(server);
    let service = BatchSplitterLayer::new(GraphBatchFormat::new()).layer(inner);
    let response = service.oneshot(super::graph::batch(method)).await.unwrap();
    let report: BatchReport = response.extensions().get().cloned().unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    let sent = sent.lock().unwrap().clone();
    (sent, begin.elapsed(), body, report.stats().unknown)
}
/// A member that is throttled for good, with a wait that the server sets, holds up its neighbours no longer than it takes to see that they go
/// through.
#[tokio::test(start_paused = true)]
async fn a_member_that_is_throttled_for_good_holds_up_nobody() {
    for wait in [0, 500, 5_000, 30_000] {
        for members in [300, 1000] {
            let told = format!(
                r#"<m:GetItemResponseMessage ResponseClass="Error"><m:MessageText>busy</m:MessageText><m:ResponseCode>ErrorServerBusy</m:ResponseCode><m:MessageXml><t:Value Name="BackOffMilliseconds">{wait}</t:Value></m:MessageXml><m:Items/></m:GetItemResponseMessage>"#
            );
            let reply = move |ask: &Ask| to_one(ask, &told);
            let outcome = send(request("GetItem", members), None, reply).await;
            let case = format!("{wait} ms, GetItem of {members}: {outcome:?}");
            assert_eq!(outcome.done(), members - 1, "{case}");
            others_are_done(&outcome, members, &case);
            let longest = Duration::from_millis(3 * wait) + Duration::from_secs(10);
            let alone = |ask: &&Ask| *ask.ids == [ONE.to_owned()];
            let others = outcome.asks.iter().filter(|ask| !alone(ask));
            assert!(others.map(|ask| ask.at).max().unwrap() <= longest, "{case}");
            assert!(outcome.requests() <= 90, "{case}");
        }
    }
}
