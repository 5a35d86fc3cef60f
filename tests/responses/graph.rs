//! The same responses to a Graph batch of 20 requests: the layers alone, virtual time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::{BoxError, Layer, ServiceExt};
use tower_ews::batch_splitter::{BatchReport, BatchSplitterLayer, GraphBatchFormat};
use tower_ews::body::ReplayBody;
use tower_ews::server_busy_backoff::ServerBusyBackoffLayer;

use super::server::{Ask, Reply, respond};
use super::{Row, Worth, rows};

pub(crate) fn batch(method: &str) -> Request<ReplayBody> {
    let requests: Vec<String> = (0..20)
        .map(|id| format!(r#"{{"id":"{id}","method":"{method}","url":"/me/messages/{id}"}}"#))
        .collect();
    let body = format!(r#"{{"requests":[{}]}}"#, requests.join(","));
    Request::post("https://graph.microsoft.com/v1.0/$batch")
        .header("content-type", "application/json")
        .body(ReplayBody::from(body))
        .unwrap()
}

/// What a batch came to.
struct Outcome {
    asks: Vec<Ask>,
    took: Duration,
    told: String,
    unknown: usize,
}

async fn send(method: &str, reply: fn(&Ask) -> Reply) -> Outcome {
    let asks = Arc::new(Mutex::new(Vec::new()));
    let begin = Instant::now();
    let server = {
        let asks = Arc::clone(&asks);
        tower::service_fn(move |request: Request<ReplayBody>| {
            let body = request.into_body().to_bytes();
            let batch: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let ids = batch["requests"].as_array().unwrap().iter();
            let mut asks = asks.lock().unwrap();
            let ask = Ask {
                operation: "$batch".to_owned(),
                ids: ids.map(|one| one["id"].to_string()).collect(),
                number: asks.len(),
                at: begin.elapsed(),
            };
            asks.push(ask.clone());
            respond(reply(&ask))
        })
    };
    let inner = ServerBusyBackoffLayer::http().layer(server);
    let service = BatchSplitterLayer::new(GraphBatchFormat::new()).layer(inner);
    let mut unknown = 0;
    let told = async {
        let response = service.oneshot(batch(method)).await?;
        let status = response.status();
        let report: Option<BatchReport> = response.extensions().get().cloned();
        let body = response.into_body().collect().await?.to_bytes();
        unknown = report.map_or(0, |report| report.stats().unknown);
        Ok::<_, BoxError>(format!("{status}: {}", String::from_utf8_lossy(&body)))
    };
    let told = told.await.unwrap_or_else(|error| format!("{error:?}"));
    let took = begin.elapsed();
    let asks = std::mem::take(&mut *asks.lock().unwrap());
    Outcome {
        asks,
        took,
        told,
        unknown,
    }
}

/// What Graph does not send, and 509, by which it throttles.
fn is_of_ews(row: &Row) -> bool {
    [
        "509",
        "fault ",
        "each ",
        "a coding",
        "an empty SOAP",
        "a response without",
    ]
    .iter()
    .any(|begin| row.name.starts_with(begin))
}

#[tokio::test(start_paused = true)]
async fn a_graph_batch_hears_the_same() {
    let mut wrong = Vec::new();
    for row in rows().into_iter().filter(|row| !is_of_ews(row)) {
        for method in ["GET", "POST"] {
            let outcome = send(method, row.response).await;
            let sizes: Vec<usize> = outcome.asks.iter().map(|ask| ask.ids.len()).collect();
            let mut case = format!(
                "{method}, {}: {sizes:?}, {:?}, unknown {}, {}",
                row.name, outcome.took, outcome.unknown, outcome.told
            );
            case.truncate(500);
            println!("{case}");
            let most = match row.worth {
                // What Graph says of one request of several it says of the whole batch.
                Worth::Final => Worth::FinalForPart.requests_of_batch(),
                worth => worth.requests_of_batch(),
            };
            if outcome.asks.len() > most || outcome.took > row.worth.time() {
                wrong.push(format!("too much: {case}"));
            }
            if method == "GET" && outcome.unknown > 0 {
                wrong.push(format!("a read in doubt: {case}"));
            }
            let mut times = HashMap::new();
            for id in outcome.asks.iter().flat_map(|ask| &ask.ids) {
                *times.entry(id).or_insert(0) += 1;
            }
            let twice = times.values().any(|times| *times > 1);
            if method == "POST" && row.executed && twice {
                wrong.push(format!("twice: {case}"));
            }
            // The client's own error of a connection that was lost.
            let told = &outcome.told;
            let lost = told.contains("ConnectionReset") || told.contains("Stalled");
            let doubt = lost || outcome.unknown > 0 || outcome.told.contains("OutcomeUnknown");
            if method == "POST" && row.executed != doubt && !outcome.told.starts_with("5") {
                wrong.push(format!("doubt {doubt}: {case}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A status that refuses the whole batch, around responses to some of it: these count, and nothing is done twice.
#[tokio::test(start_paused = true)]
async fn what_was_done_inside_of_a_refusal_is_not_done_again() {
    for status in [400, 424, 429, 500, 503, 504] {
        let done = Arc::new(Mutex::new(HashMap::new()));
        let server = {
            let done = Arc::clone(&done);
            tower::service_fn(move |request: Request<ReplayBody>| {
                let body = request.into_body().to_bytes();
                let batch: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let mut done = done.lock().unwrap();
                let is_first = done.is_empty();
                let responses = batch["requests"].as_array().unwrap().iter().enumerate();
                let responses: Vec<String> = responses
                    .map(|(at, one)| {
                        let id = one["id"].as_str().unwrap().to_owned();
                        // Every second one is throttled at first.
                        let status = if is_first && at % 2 == 1 { 429 } else { 201 };
                        if status == 201 {
                            *done.entry(id.clone()).or_insert(0) += 1;
                        }
                        format!(
                            r#"{{"id":"{id}","status":{status},"headers":{{"Retry-After":"2"}}}}"#
                        )
                    })
                    .collect();
                let body = format!(r#"{{"responses":[{}]}}"#, responses.join(","));
                let outer = if is_first { status } else { 200 };
                respond(Reply::page(outer, "application/json", body))
            })
        };
        let inner = ServerBusyBackoffLayer::http().layer(server);
        let service = BatchSplitterLayer::new(GraphBatchFormat::new()).layer(inner);
        let response = service.oneshot(batch("POST")).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(
            body.matches(r#""status":201"#).count(),
            20,
            "{status}: {body}"
        );
        let done = done.lock().unwrap();
        assert!(done.values().all(|times| *times == 1), "{status}: {done:?}");
    }
}
