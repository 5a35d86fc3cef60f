//! Graph's batches as a format: generated ones, against a server that is as strict as Graph and as moody.
#![cfg(feature = "graph")]

mod graph_server;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_ews::batch_splitter::{
    self, Batch, BatchFormat, BatchSplitterLayer, BatchStats, Explanation, GraphBatch,
    GraphBatchFormat, Idempotency, MemberOutcome, PartOutcome, PartResponse, Retry,
};
use tower_ews::body::{ReplayBody, Rope};
use tower_ews::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::GraphCharges;

use self::graph_server::{Faults, GraphServer};

/// Runs a test with many seeds, or with the one in EWS_TEST_SEED.
fn seeds(cases: u64, test: impl Fn(u64, &mut fastrand::Rng)) {
    let replay = std::env::var("EWS_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let first = replay.unwrap_or_else(|| fastrand::u64(..u64::MAX - cases));
    let cases = if replay.is_some() { 1 } else { cases };
    for seed in first..first + cases {
        let told = Told(seed);
        test(seed, &mut fastrand::Rng::with_seed(seed));
        std::mem::forget(told);
    }
}

/// Says the seed if the test panics.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("failed with EWS_TEST_SEED={}", self.0);
    }
}

/// A batch as it was written.
struct Written {
    body: String,
    members: Vec<WrittenMember>,
}

struct WrittenMember {
    text: String,
    id: String,
    url: String,
    reads: bool,
    needs: Vec<usize>,
}

/// One of the ways to write a JSON string.
fn quoted(text: &str, rng: &mut fastrand::Rng) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match rng.u8(..8) {
            0 if c <= '\u{ffff}' => quoted += &format!("\\u{:04x}", c as u32),
            _ => {
                let one = Value::from(c.to_string()).to_string();
                quoted += &one[1..one.len() - 1];
            }
        }
    }
    quoted + "\""
}

fn space(rng: &mut fastrand::Rng) -> &'static str {
    rng.choice(["", "", "", " ", "\n  ", "\t"]).unwrap_or("")
}

fn write(rng: &mut fastrand::Rng) -> Written {
    let count = rng.usize(2..120);
    let mostly_reads = rng.f64();
    let (tied, chained) = (rng.f64() * 0.7, rng.bool());
    let mut members: Vec<WrittenMember> = Vec::new();
    for at in 0..count {
        let id = match rng.u8(..4) {
            0 => format!("{at}é]}}"),
            1 => format!("Req-{at}"),
            _ => at.to_string(),
        };
        let url = format!("/users/{at}/messages?$select=\"id\",[{{");
        let reads = rng.f64() < mostly_reads;
        let method = match reads {
            true => "GET",
            false => rng.choice(["POST", "PATCH"]).unwrap(),
        };
        let mut needs = Vec::new();
        if at > 0 && rng.f64() < tied {
            needs = match chained {
                true => vec![at - 1],
                false => (0..rng.usize(1..5)).map(|_| rng.usize(..at)).collect(),
            };
        }
        let mut properties = vec![
            format!("\"id\"{}:{}", space(rng), quoted(&id, rng)),
            format!("\"method\":{}\"{method}\"", space(rng)),
            format!("\"url\":{}", quoted(&url, rng)),
        ];
        if rng.bool() {
            properties.push(r#""body":{"id":"x","dependsOn":["y"],"t":"],}\\\""}"#.to_owned());
        }
        if !needs.is_empty() || rng.u8(..8) == 0 {
            let entries: Vec<String> = needs
                .iter()
                .map(|need| {
                    let id = match rng.bool() {
                        true => members[*need].id.to_uppercase(),
                        false => members[*need].id.clone(),
                    };
                    format!("{}{}{}", space(rng), quoted(&id, rng), space(rng))
                })
                .collect();
            properties.push(format!("\"dependsOn\" :[{}]", entries.join(",")));
        }
        rng.shuffle(&mut properties);
        let separator = format!("{},{}", space(rng), space(rng));
        let text = format!("{{{}{}}}", properties.join(&separator), space(rng));
        members.push(WrittenMember {
            text,
            id,
            url,
            reads,
            needs,
        });
    }
    let texts: Vec<&str> = members.iter().map(|member| &*member.text).collect();
    let separator = format!("{},{}", space(rng), space(rng));
    let body = format!(
        r#"{{"x":"requests",{}"requests":{}[{}{}]{},"y":[1]}}"#,
        space(rng),
        space(rng),
        texts.join(&separator),
        space(rng),
        space(rng)
    );
    Written { body, members }
}

fn read(body: impl Into<ReplayBody>) -> Option<GraphBatch> {
    let request = Request::post("https://graph.microsoft.com/v1.0/$batch")
        .body(body.into())
        .unwrap();
    GraphBatchFormat::new().batch(&request)
}

/// A part has these members, each as it was written, but for what its `dependsOn` names elsewhere.
fn check_part(part: &[u8], members: &[usize], written: &Written) {
    let part = std::str::from_utf8(part).unwrap();
    let value: Value = serde_json::from_str(part).unwrap();
    assert_eq!(value["x"], "requests");
    assert_eq!(value["y"], serde_json::json!([1]));
    let requests = value["requests"].as_array().unwrap();
    assert_eq!(requests.len(), members.len());
    for (request, at) in requests.iter().zip(members) {
        let member = &written.members[*at];
        let mut expected: Value = serde_json::from_str(&member.text).unwrap();
        let is_here = |need: &usize| members.contains(need);
        if member.needs.iter().all(is_here) {
            assert!(part.contains(&member.text));
        } else if !member.needs.iter().any(is_here) {
            expected.as_object_mut().unwrap().remove("dependsOn");
        } else {
            let needs = expected["dependsOn"].as_array_mut().unwrap();
            let mut here = member.needs.iter().map(is_here);
            needs.retain(|_| here.next().unwrap());
        }
        assert_eq!(*request, expected);
    }
}

struct Driven {
    /// In the order of the members.
    messages: Vec<Rope>,
    frame: Option<(Rope, Rope)>,
}

enum State {
    Waiting,
    Settled(Rope, bool),
}

/// Sends a batch part by part, as simply as can be.
async fn drive(
    batch: &mut GraphBatch,
    server: &GraphServer,
    written: &Written,
    rng: &mut fastrand::Rng,
) -> Driven {
    let mut states: Vec<State> = (0..batch.members()).map(|_| State::Waiting).collect();
    let mut frame = None;
    let size = rng.usize(1..=batch.max_members());
    for round in 0.. {
        let mut part = Vec::new();
        for member in 0..states.len() {
            if !matches!(states[member], State::Waiting) || part.len() == size {
                continue;
            }
            let needs = batch.needs(member).to_vec();
            let failed = needs
                .iter()
                .find(|need| matches!(states[**need], State::Settled(_, false)));
            if let Some(need) = failed {
                let why = Explanation::DependencyFailed { member: *need };
                states[member] = State::Settled(batch.explain(member, &why).unwrap(), false);
            } else if needs
                .iter()
                .all(|need| part.contains(need) || matches!(states[*need], State::Settled(_, true)))
            {
                part.push(member);
            }
        }
        if part.is_empty() {
            break;
        }
        let body = batch.part(&part);
        check_part(&body.to_bytes(), &part, written);
        let request = Request::post("https://graph.microsoft.com/v1.0/$batch");
        let request = request.body(body).unwrap();
        let mut settle = |batch: &mut GraphBatch, why: &Explanation<'_>| {
            for member in &part {
                states[*member] = State::Settled(batch.explain(*member, why).unwrap(), false);
            }
        };
        let response = server.clone().oneshot(request).await;
        let (head, body) = match response {
            Ok(response) => response.into_parts(),
            Err(_) if batch.idempotency() == Idempotency::Safe && round < 1000 => continue,
            Err(error) => {
                let cause = &*error.to_string();
                settle(batch, &Explanation::OutcomeUnknown { cause });
                continue;
            }
        };
        let body = body.collect().await.unwrap().to_bytes();
        let cut = rng.usize(..=body.len());
        let rope: Rope = [body.slice(..cut), body.slice(cut..)].into_iter().collect();
        let mut wait = Duration::ZERO;
        match batch.response(&part, &head, rope) {
            PartResponse::Messages {
                frame: around,
                messages,
            } => {
                assert_eq!(messages.len(), part.len());
                frame.get_or_insert(around);
                for (member, message) in part.iter().zip(messages) {
                    states[*member] = match message.outcome {
                        MemberOutcome::Retry(Retry { retry_after, .. }) if round < 1000 => {
                            wait = wait.max(retry_after.unwrap_or_default());
                            State::Waiting
                        }
                        outcome => State::Settled(message.bytes, outcome == MemberOutcome::Done),
                    };
                }
            }
            PartResponse::Failure(whole) => {
                let cause = &*whole.text;
                let code = whole.code.as_deref();
                match whole.outcome {
                    PartOutcome::Retry(Retry { retry_after, .. }) if round < 1000 => {
                        wait = retry_after.unwrap_or_default();
                    }
                    PartOutcome::Unknown => settle(batch, &Explanation::OutcomeUnknown { cause }),
                    _ => settle(batch, &Explanation::NotExecuted { code, cause }),
                }
            }
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(wait).await;
    }
    let messages = states.into_iter().map(|state| match state {
        State::Settled(message, _) => message,
        State::Waiting => panic!("a member was left behind"),
    });
    Driven {
        messages: messages.collect(),
        frame,
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

fn faults(rng: &mut fastrand::Rng) -> Faults {
    let mut some = |most: f64| if rng.bool() { rng.f64() * most } else { 0.0 };
    Faults {
        throttled: some(0.5),
        refused: some(0.2),
        open: some(0.2),
        missing: some(0.2),
        stray: some(0.3),
        page: some(0.1),
        outer: some(0.3),
        busy: some(0.3),
        outage: some(0.2),
        lost: some(0.2),
    }
}

fn check(written: &Written, driven: &Driven, server: &GraphServer, faults: Faults) {
    server.report(|report| {
        assert!(report.violations.is_empty(), "{:?}", report.violations);
        let mut times: HashMap<&str, usize> = HashMap::new();
        let mut first: HashMap<&str, usize> = HashMap::new();
        for (at, url) in report.executed.iter().enumerate() {
            *times.entry(url).or_default() += 1;
            first.entry(url).or_insert(at);
        }
        for (member, message) in written.members.iter().zip(&driven.messages) {
            let text = String::from_utf8(message.to_bytes().to_vec()).unwrap();
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["id"], *member.id, "{text}");
            let status = value["status"].as_u64().unwrap();
            let done = times.get(&*member.url).copied().unwrap_or_default();
            let said = report.said.get(&member.url).and_then(|said| said.last());
            if value["body"]["error"].is_null() {
                assert_eq!(Some(&text), said, "the server's own bytes");
                assert_eq!(value["body"]["of"], *member.url);
            }
            if !member.reads {
                assert!(done <= 1, "{} was done {done} times", member.url);
                match status {
                    200..=299 => assert_eq!(done, 1, "{text}"),
                    500 | 502 | 504 => {}
                    _ => assert_eq!(done, 0, "{text}"),
                }
            }
            if done > 0 {
                for need in &member.needs {
                    let need = first.get(&*written.members[*need].url);
                    assert!(need.is_some_and(|need| *need < first[&*member.url]));
                }
            }
            let unfailing = Faults {
                throttled: 0.0,
                busy: 0.0,
                ..faults
            };
            if format!("{unfailing:?}") == format!("{:?}", Faults::default()) {
                assert!(status < 300, "waiting cures it: {text}");
            }
        }
        if let Some((before, after)) = &driven.frame {
            let mut merged = before.clone();
            for (at, message) in driven.messages.iter().enumerate() {
                if at > 0 {
                    merged.push(",".into());
                }
                merged.append(message.clone());
            }
            merged.append(after.clone());
            let merged: Value = serde_json::from_slice(&merged.to_bytes()).unwrap();
            assert_eq!(merged["@odata.context"], "[]");
            let responses = merged["responses"].as_array().unwrap();
            assert_eq!(responses.len(), written.members.len());
        }
    });
}

#[test]
fn generated_batches_under_faults() {
    let cases = std::env::var("EWS_TEST_CASES").map_or(500, |cases| cases.parse().unwrap());
    seeds(cases, |seed, rng| {
        let written = write(rng);
        let faults = faults(rng);
        let server = GraphServer::new(seed, faults);
        let mut batch = read(written.body.clone()).expect("a batch");
        assert_eq!(batch.members(), written.members.len());
        let driven = run(drive(&mut batch, &server, &written, rng));
        check(&written, &driven, &server, faults);
    });
}

/// Creations; `tie` gives what each has besides.
fn creations(count: usize, tie: impl Fn(usize) -> String) -> Written {
    let members: Vec<WrittenMember> = (0..count)
        .map(|at| WrittenMember {
            text: format!(
                r#"{{"id":"{at}","method":"POST","url":"/users/{at}"{}}}"#,
                tie(at)
            ),
            id: at.to_string(),
            url: format!("/users/{at}"),
            reads: false,
            needs: Vec::new(),
        })
        .collect();
    let texts: Vec<&str> = members.iter().map(|member| &*member.text).collect();
    let body = format!(
        r#"{{"x":"requests","requests":[{}],"y":[1]}}"#,
        texts.join(",")
    );
    Written { body, members }
}

#[test]
fn a_large_batch_that_is_throttled_succeeds() {
    let written = creations(10_000, |_| String::new());
    let faults = Faults {
        throttled: 0.05,
        ..Faults::default()
    };
    let server = GraphServer::new(7, faults);
    let mut batch = read(written.body.clone()).unwrap();
    let mut rng = fastrand::Rng::with_seed(3);
    let driven = run(drive(&mut batch, &server, &written, &mut rng));
    check(&written, &driven, &server, faults);
    server.report(|report| {
        assert_eq!(report.executed.len(), 10_000);
        assert!(report.throttled > 300);
        println!("{} parts, {} throttled", report.batches, report.throttled);
    });
}

#[test]
fn a_sequential_batch_has_sequential_parts() {
    let mut written = creations(200, |at| match at.checked_sub(1) {
        Some(before) => format!(r#","dependsOn":["{before}"]"#),
        None => String::new(),
    });
    for (at, member) in written.members.iter_mut().enumerate().skip(1) {
        member.needs = vec![at - 1];
    }
    seeds(20, |seed, rng| {
        let faults = Faults {
            throttled: 0.1,
            busy: 0.1,
            ..Faults::default()
        };
        let server = GraphServer::new(seed, faults);
        let mut batch = read(written.body.clone()).unwrap();
        let driven = run(drive(&mut batch, &server, &written, rng));
        check(&written, &driven, &server, faults);
        server.report(|report| {
            assert_eq!(report.sequential, report.batches, "Graph wants all or none");
            let order: Vec<String> = (0..200).map(|at| format!("/users/{at}")).collect();
            assert_eq!(report.executed, order);
        });
    });
}

#[test]
fn the_server_takes_offence() {
    let ask = |server: &GraphServer, body: &'static str| {
        let request = Request::post("/").body(ReplayBody::from(body)).unwrap();
        run(server.clone().oneshot(request)).unwrap().status()
    };
    let twenty_one = vec![r#"{"id":"X","method":"GET","url":"/"}"#; 21].join(",");
    let twenty_one = format!(r#"{{"requests":[{twenty_one}]}}"#).leak();
    for body in [
        "{",
        "{}",
        r#"{"requests":[]}"#,
        twenty_one,
        r#"{"requests":[{"id":"1","method":"GET","url":"/"},{"id":"1","method":"GET","url":"/"}]}"#,
        r#"{"requests":[{"id":"1","method":"GET","url":"/","dependsOn":["2"]},{"id":"2","method":"GET","url":"/"}]}"#,
        r#"{"requests":[{"id":"1","method":"GET"}]}"#,
    ] {
        let server = GraphServer::new(0, Faults::default());
        assert_eq!(ask(&server, body), 400, "{body}");
        server.report(|report| assert_eq!(report.violations.len(), 1));
    }
    let throttles = Faults {
        throttled: 1.0,
        ..Faults::default()
    };
    let server = GraphServer::new(0, throttles);
    let body = r#"{"requests":[{"id":"1","method":"GET","url":"/"}]}"#;
    run(async {
        for _ in 0..2 {
            let request = Request::post("/").body(ReplayBody::from(body)).unwrap();
            server.clone().oneshot(request).await.unwrap();
        }
    });
    server.report(|report| assert_eq!(report.violations, ["/ is too early"]));
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..bytes.len().max(1)).min(bytes.len());
        match rng.u8(..4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.choice(*b"\"\\{}[],:0 \xff\nn").unwrap()),
            2 if at < bytes.len() => {
                bytes.remove(at);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = rng.u8(..);
                }
            }
        }
    }
}

/// None for JSON that is valid by the grammar alone: a string that is no Unicode, a number out of range.
fn valid(json: &[u8]) -> Option<Value> {
    serde_json::from_slice::<&RawValue>(json).expect("valid JSON");
    serde_json::from_slice(json).ok()
}

#[test]
fn broken_json_harms_nobody() {
    seeds(1500, |seed, rng| {
        let written = write(rng);
        let mut body = written.body.clone().into_bytes();
        mutate(&mut body, rng);
        if let Some(mut batch) = read(body) {
            let some: Vec<usize> = (0..batch.members()).filter(|_| rng.bool()).collect();
            let part = batch.part(&some).to_bytes();
            if let Some(value) = valid(&part) {
                assert_eq!(value["requests"].as_array().map(Vec::len), Some(some.len()));
            }
        }

        let mut batch = read(written.body.clone()).unwrap();
        let some: Vec<usize> = (0..batch.members().min(20)).collect();
        let server = GraphServer::new(seed, Faults::default());
        let mut part = Vec::from(batch.part(&some).to_bytes());
        let request = Request::post("/")
            .body(ReplayBody::from(part.clone()))
            .unwrap();
        let reply = run(server.oneshot(request)).unwrap().into_body();
        part.clear();
        part.extend_from_slice(&run(reply.collect()).unwrap().to_bytes());
        mutate(&mut part, rng);
        let status = rng.choice([200, 400, 429, 500]).unwrap();
        let head = Response::builder().status(status).body(()).unwrap();
        let head = head.into_parts().0;
        match batch.response(&some, &head, Rope::from(part)) {
            PartResponse::Messages { messages, .. } => {
                for (member, message) in some.iter().zip(&messages) {
                    if let Some(value) = valid(&message.bytes.to_bytes()) {
                        let id = value["id"].as_str().unwrap().to_lowercase();
                        assert_eq!(id, written.members[*member].id.to_lowercase());
                    }
                }
            }
            PartResponse::Failure(whole) => {
                let (code, cause) = (whole.code.as_deref(), &*whole.text);
                for member in some {
                    let why = Explanation::NotExecuted { code, cause };
                    let message = batch.explain(member, &why).unwrap().to_bytes();
                    valid(&message);
                }
            }
            other => panic!("{other:?}"),
        }
    });
}

fn layer() -> BatchSplitterLayer<GraphBatchFormat> {
    BatchSplitterLayer::new(GraphBatchFormat::new())
}

fn post(body: &str) -> Request<ReplayBody> {
    Request::post("https://graph.microsoft.com/v1.0/$batch")
        .header("authorization", "Bearer abc")
        .header("content-type", "application/json")
        .header("content-length", body.len())
        .body(body.to_owned().into())
        .unwrap()
}

/// A response that has come to its end, and its responses as they stand in it.
struct BatchReport {
    head: http::response::Parts,
    body: Bytes,
    stats: BatchStats,
}

impl BatchReport {
    async fn of<B>(response: Response<B>) -> BatchReport
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: std::fmt::Debug,
    {
        let (head, body) = response.into_parts();
        let promised = http_body::Body::size_hint(&body).exact();
        let body = body.collect().await.unwrap().to_bytes();
        assert!(promised.is_none_or(|promised| promised == body.len() as u64));
        if let Some(length) = head.headers.get("content-length") {
            assert_eq!(length.to_str().unwrap(), body.len().to_string());
        }
        let stats = head.extensions.get::<batch_splitter::BatchReport>();
        BatchReport {
            stats: stats.unwrap().stats(),
            head,
            body,
        }
    }

    /// None if it is no response of a batch.
    fn responses(&self) -> Option<Vec<&str>> {
        #[derive(serde::Deserialize)]
        struct Inner<'a> {
            #[serde(borrow)]
            responses: Vec<&'a RawValue>,
        }
        let response: Inner<'_> = serde_json::from_slice(&self.body).ok()?;
        Some(response.responses.iter().map(|one| one.get()).collect())
    }

    /// Ids and statuses, in their order.
    fn statuses(&self) -> Vec<(String, u64)> {
        let responses = self.responses().unwrap();
        let values = responses.iter().map(|one| serde_json::from_str(one));
        values
            .map(|value: Result<Value, _>| value.unwrap())
            .map(|value| {
                let id = value["id"].as_str().unwrap().to_owned();
                (id, value["status"].as_u64().unwrap())
            })
            .collect()
    }
}

#[test]
fn generated_batches_through_the_layer() {
    let cases = std::env::var("EWS_TEST_CASES").map_or(400, |cases| cases.parse().unwrap());
    let ended = std::cell::Cell::new([0; 3]);
    let count = |how: usize| {
        let mut all = ended.get();
        all[how] += 1;
        ended.set(all);
    };
    seeds(cases, |seed, rng| {
        let written = write(rng);
        let faults = faults(rng);
        let server = GraphServer::new(seed, faults);
        // What is on its way cannot know that everything was closed meanwhile.
        let parallel = if faults.busy > 0.0 {
            1
        } else {
            rng.usize(1..5)
        };
        let layer = layer()
            .start_members(rng.usize(1..30))
            .parallel(parallel)
            .seed(seed);
        let responded = run(async {
            let response = layer.layer(server.clone()).oneshot(post(&written.body));
            match response.await {
                Ok(response) => Ok(BatchReport::of(response).await),
                Err(error) => Err(error),
            }
        });
        let whole = faults.lost > 0.0 || faults.outage > 0.0;
        let Ok(merged) = responded else {
            // Nothing but lost parts, and pages that do not say that anything is wrong.
            assert!(whole, "{:?}", responded.err());
            return count(0);
        };
        server.report(|report| {
            assert!(report.most <= 20);
            assert_eq!(report.batches, merged.stats.parts as usize);
        });
        let Some(responses) = merged.responses() else {
            assert!(whole, "{:?}", merged.body);
            return count(1);
        };
        let messages = responses.iter().map(|one| Rope::from((*one).to_owned()));
        let driven = Driven {
            messages: messages.collect(),
            frame: None,
        };
        assert_eq!(driven.messages.len(), written.members.len());
        assert_eq!(merged.head.status, 200);
        assert!(merged.stats.complete);
        check(&written, &driven, &server, faults);
        count(2);
    });
    let [errors, wholes, merged] = ended.get();
    println!("{merged} merged, {wholes} responses of one part, {errors} errors");
    assert!(merged * 10 > (errors + wholes) * 9);
}

/// A server that executes a batch, responds in any order, and does to some of its calls what a test wants.
fn unreliable<F>(
    server: GraphServer,
    calls: Calls,
    change: F,
) -> impl Service<Request<ReplayBody>, Response = Response<Full<Bytes>>, Error = BoxError, Future: Send>
+ Clone
+ Send
+ 'static
where
    F: Fn(usize, Value) -> Option<Value> + Clone + Send + Sync + 'static,
{
    let begun: Arc<Mutex<Option<Instant>>> = Arc::default();
    service_fn(move |request: Request<ReplayBody>| {
        let value: Value = serde_json::from_slice(&request.body().to_bytes()).unwrap();
        let requests = value["requests"].as_array().unwrap().iter();
        let ids = requests.map(|request| request["id"].as_str().unwrap().to_owned());
        let begun = *begun.lock().unwrap().get_or_insert_with(Instant::now);
        let number = {
            let mut calls = calls.lock().unwrap();
            calls.push((begun.elapsed(), ids.collect()));
            calls.len() - 1
        };
        let (server, change) = (server.clone(), change.clone());
        async move {
            let (head, body) = server.oneshot(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            match change(number, serde_json::from_slice(&body)?) {
                Some(value) => {
                    let mut response = Response::from_parts(head, Full::from(value.to_string()));
                    response
                        .headers_mut()
                        .insert("x-number", number.to_string().parse()?);
                    Ok(response)
                }
                None => Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()),
            }
        }
    })
}

/// Calls that a server got: when, and with which ids.
type Calls = Arc<Mutex<Vec<(Duration, Vec<String>)>>>;

fn ids(of: impl IntoIterator<Item = usize>) -> Vec<String> {
    of.into_iter().map(|id| id.to_string()).collect()
}

fn chain(count: usize) -> Written {
    creations(count, |at| match at.checked_sub(1) {
        Some(before) => format!(r#","dependsOn":["{before}"]"#),
        None => String::new(),
    })
}

#[test]
fn a_lost_part_breaks_the_chain() {
    for parallel in [1, 4] {
        let server = GraphServer::new(1, Faults::default());
        let calls = Calls::default();
        let lossy = unreliable(server.clone(), Arc::clone(&calls), |number, response| {
            (number != 1).then_some(response)
        });
        let layer = layer().parallel(parallel);
        let merged = run(async {
            let response = layer.layer(lossy).oneshot(post(&chain(45).body));
            BatchReport::of(response.await.unwrap()).await
        });
        let statuses = merged.statuses();
        assert_eq!(
            statuses
                .iter()
                .map(|one| &one.0)
                .cloned()
                .collect::<Vec<_>>(),
            ids(0..45)
        );
        let of = |from: usize, to: usize| statuses[from..to].iter().map(|(_, status)| *status);
        assert!(of(0, 20).all(|status| (200..300).contains(&status)));
        assert!(of(20, 40).all(|status| status == 500));
        assert!(of(40, 45).all(|status| status == 424));
        let text = std::str::from_utf8(&merged.body).unwrap();
        assert_eq!(text.matches("OutcomeUnknown").count(), 20);
        assert_eq!(text.matches("FailedDependency").count(), 5);
        assert!(
            text.contains("request \\\"39\\\" failed") || text.contains("request 39 failed"),
            "{text}"
        );
        let stats = merged.stats;
        assert_eq!((stats.done, stats.unknown, stats.not_executed), (20, 20, 5));
        assert_eq!(merged.head.headers["x-number"], "0");
        assert!(merged.head.headers.contains_key("content-length"));
        let sent: Vec<_> = calls
            .lock()
            .unwrap()
            .iter()
            .map(|(_, ids)| ids.clone())
            .collect();
        assert_eq!(sent, [ids(0..20), ids(20..40)]);
        server.report(|report| {
            let order: Vec<String> = (0..40).map(|at| format!("/users/{at}")).collect();
            assert_eq!((&report.executed, report.violations.len()), (&order, 0));
        });
    }
}

#[test]
fn a_lost_part_of_reads_is_asked_for_again() {
    let reads = |count: usize| {
        creations(count, |_| String::new())
            .body
            .replace("POST", "GET")
    };
    // In halves, behind those that were not sent yet.
    for parallel in [1, 4] {
        let expected = [20, 20, 20, 10, 10, 10];
        let calls = Calls::default();
        let server = GraphServer::new(2, Faults::default());
        let lossy = unreliable(server, Arc::clone(&calls), |number, response| {
            (number != 1).then_some(response)
        });
        let layer = layer().parallel(parallel);
        let merged = run(async {
            let response = layer.layer(lossy).oneshot(post(&reads(70)));
            BatchReport::of(response.await.unwrap()).await
        });
        let statuses = merged.statuses();
        assert_eq!(
            statuses
                .iter()
                .map(|one| &one.0)
                .cloned()
                .collect::<Vec<_>>(),
            ids(0..70)
        );
        assert!(statuses.iter().all(|(_, status)| *status < 300));
        let calls = calls.lock().unwrap();
        let sizes: Vec<usize> = calls.iter().map(|(_, ids)| ids.len()).collect();
        assert_eq!(sizes, expected);
        assert_eq!((merged.stats.resent, merged.stats.done), (20, 70));
    }
}

#[test]
fn each_inner_throttling_is_waited_for() {
    for parallel in [1, 2] {
        let calls = Calls::default();
        let server = GraphServer::new(3, Faults::default());
        let throttling = unreliable(server, Arc::clone(&calls), |number, mut reply| {
            if number == 0 {
                for response in reply["responses"].as_array_mut().unwrap() {
                    let (status, wait) = match response["id"].as_str() {
                        Some("3") => (429, "2"),
                        Some("7") => (503, "5.5"),
                        _ => continue,
                    };
                    response["status"] = status.into();
                    response["headers"] = serde_json::json!({ "Retry-After": wait });
                }
            }
            Some(reply)
        });
        let layer = layer().parallel(parallel);
        let written = creations(35, |_| String::new());
        let merged = run(async {
            let reply = layer.layer(throttling).oneshot(post(&written.body));
            BatchReport::of(reply.await.unwrap()).await
        });
        let statuses = merged.statuses();
        assert_eq!(
            statuses
                .iter()
                .map(|one| &one.0)
                .cloned()
                .collect::<Vec<_>>(),
            ids(0..35)
        );
        assert!(statuses.iter().all(|(_, status)| *status < 300));
        let calls = calls.lock().unwrap();
        let sent: Vec<_> = calls.iter().map(|(_, ids)| ids.clone()).collect();
        let (throttled, rest) = (ids([3, 7]), ids(20..35));
        match parallel {
            // Alone, but for those that were not sent yet.
            1 => assert_eq!(sent, [ids(0..20), [&*throttled, &rest].concat()]),
            _ => assert_eq!(sent, [ids(0..20), rest, throttled]),
        }
        let (last, _) = calls.last().unwrap();
        let after = Duration::from_millis(5_500);
        assert!(*last >= after && *last < after * 2, "{last:?}");
        assert_eq!((merged.stats.resent, merged.stats.waited), (2, after));
    }
}

/// A server that executes the first requests of a batch, and throttles the others.
fn takes_at_a_time(
    passing: usize,
    inner: Arc<Mutex<Vec<usize>>>,
) -> impl Service<Request<ReplayBody>, Response = Response<Full<Bytes>>, Error = BoxError, Future: Send>
+ Clone
+ Send
+ 'static {
    service_fn(move |request: Request<ReplayBody>| {
        let batch: Value = serde_json::from_slice(&request.body().to_bytes()).unwrap();
        let requests = batch["requests"].as_array().unwrap();
        inner.lock().unwrap().push(requests.len());
        let responses: Vec<Value> = requests
            .iter()
            .enumerate()
            .map(|(at, request)| {
                let (status, headers) = match at < passing {
                    true => (201, serde_json::json!({})),
                    false => (429, serde_json::json!({"Retry-After": "1"})),
                };
                serde_json::json!({"id": request["id"], "status": status, "headers": headers})
            })
            .collect();
        let body = serde_json::json!({ "responses": responses }).to_string();
        async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(Response::new(Full::from(body)))
        }
    })
}

#[test]
fn parts_learn_from_inner_refusals() {
    // Requests that pass at a time, and the most inner requests and the longest time that 200 of them may take.
    for (passing, most, longest) in [(1, 260, 60), (4, 240, 30), (13, 260, 30), (20, 200, 2)] {
        for parallel in [1, 3] {
            let inner = Arc::default();
            let server = takes_at_a_time(passing, Arc::clone(&inner));
            let written = creations(200, |_| String::new());
            let (merged, took) = run(async {
                let began = Instant::now();
                let service = layer().parallel(parallel).layer(server);
                let response = service.oneshot(post(&written.body)).await.unwrap();
                (BatchReport::of(response).await, began.elapsed())
            });
            assert!(merged.statuses().iter().all(|(_, status)| *status == 201));
            let sent: usize = inner.lock().unwrap().iter().sum();
            // Several parts are on their way before the first one says anything.
            let most = most + (parallel - 1) * 40;
            assert!(sent <= most, "{sent} for {passing}, {parallel} at a time");
            assert!(took.as_secs() <= longest, "{took:?} for {passing}");
            println!("{passing} of 20, {parallel} at a time: {sent} inner requests, {took:?}");
        }
    }
}

#[test]
fn ids_that_differ_in_case_alone_go_into_different_parts() {
    let mut written = creations(12, |_| String::new());
    let ids = ["a", "b", "c", "A", "B", "C", "d", "D", "aA", "Aa", "e", "f"];
    for (at, id) in ids.iter().enumerate() {
        let old = format!("\"id\":\"{at}\"");
        written.body = written.body.replace(&old, &format!("\"id\":\"{id}\""));
    }
    for parallel in [1, 4] {
        let server = GraphServer::new(5, Faults::default());
        let merged = run(async {
            let service = layer().parallel(parallel).layer(server.clone());
            BatchReport::of(service.oneshot(post(&written.body)).await.unwrap()).await
        });
        let statuses = merged.statuses();
        let came: Vec<&str> = statuses.iter().map(|(id, _)| &**id).collect();
        assert_eq!(came, ids);
        assert!(statuses.iter().all(|(_, status)| *status < 300));
        server.report(|report| {
            assert_eq!((report.violations.len(), report.executed.len()), (0, 12));
        });
    }
}

#[test]
fn a_failed_batch_with_responses_inside_loses_and_repeats_nothing() {
    // The second batch, or the first one, fails as a whole, and says what became of each.
    for failed in [0, 1] {
        let server = GraphServer::new(6, Faults::default());
        let calls = Arc::new(Mutex::new(0));
        let failing = {
            let (server, calls) = (server.clone(), Arc::clone(&calls));
            service_fn(move |request: Request<ReplayBody>| {
                let number = {
                    let mut calls = calls.lock().unwrap();
                    *calls += 1;
                    *calls - 1
                };
                let server = server.clone();
                async move {
                    let mut response = server.oneshot(request).await?;
                    if number == failed {
                        *response.status_mut() = http::StatusCode::FAILED_DEPENDENCY;
                        let headers = response.headers_mut();
                        headers.insert("retry-after", "7".parse()?);
                    }
                    Ok::<_, BoxError>(response)
                }
            })
        };
        let written = creations(30, |_| String::new());
        let merged = run(async {
            let service = layer().layer(failing);
            BatchReport::of(service.oneshot(post(&written.body)).await.unwrap()).await
        });
        assert!(merged.statuses().iter().all(|(_, status)| *status < 300));
        assert_eq!(merged.head.status, 200);
        assert!(!merged.head.headers.contains_key("retry-after"));
        server.report(|report| assert_eq!(report.executed.len(), 30));
    }
}

#[test]
fn a_page_inside_costs_one_request_alone() {
    let server = GraphServer::new(8, Faults::default());
    let executed = server.clone();
    let broken = service_fn(move |request: Request<ReplayBody>| {
        let server = server.clone();
        async move {
            let reply = server.oneshot(request).await?;
            let body = reply.into_body().collect().await?.to_bytes();
            let body: Value = serde_json::from_slice(&body)?;
            let responses = body["responses"].as_array().unwrap().iter();
            let texts: Vec<String> = responses
                .map(|response| match response["id"] == "11" {
                    true => String::from(
                        r#"{"id":"11","status":503,"body":<!DOCTYPE html><html>Sorry</html>}"#,
                    ),
                    false => response.to_string(),
                })
                .collect();
            let body = format!(r#"{{"responses":[{}]}}"#, texts.join(","));
            Ok::<_, BoxError>(Response::new(Full::<Bytes>::from(body)))
        }
    });
    let written = creations(20, |_| String::new());
    let merged = run(async {
        let service = layer().layer(broken);
        BatchReport::of(service.oneshot(post(&written.body)).await.unwrap()).await
    });
    let stats = merged.stats;
    assert_eq!((stats.done, stats.unknown, stats.parts), (19, 1, 1));
    let statuses = merged.statuses();
    let failed: Vec<_> = statuses
        .iter()
        .filter(|(_, status)| *status >= 300)
        .collect();
    assert_eq!(failed, [&("11".to_owned(), 500)]);
    executed.report(|report| assert_eq!(report.executed.len(), 20));
}

/// How many requests of each mailbox run in a Graph that takes four of one batch at a time.
#[derive(Default)]
struct Running {
    now: HashMap<String, usize>,
    most: usize,
    executed: usize,
}

#[test]
fn batches_and_single_requests_share_the_places_of_a_mailbox() {
    let running = Arc::new(Mutex::new(Running::default()));
    let state = Arc::clone(&running);
    let graph = service_fn(move |request: Request<ReplayBody>| {
        let state = Arc::clone(&state);
        async move {
            let body = request.body().to_bytes();
            let requests: Vec<(String, Value)> = match serde_json::from_slice::<Value>(&body) {
                Ok(batch) => {
                    let requests = batch["requests"].as_array().unwrap().iter();
                    let mailbox = |url: &Value| url.as_str().unwrap()[..8].to_owned();
                    requests
                        .map(|one| (mailbox(&one["url"]), one["id"].clone()))
                        .collect()
                }
                Err(_) => vec![(request.uri().path()[..8].to_owned(), Value::Null)],
            };
            // Four at a time, whatever mailbox they are for.
            for four in requests.chunks(4) {
                {
                    let mut state = state.lock().unwrap();
                    for (mailbox, _) in four {
                        *state.now.entry(mailbox.clone()).or_default() += 1;
                    }
                    state.most = state.most.max(*state.now.values().max().unwrap());
                    state.executed += four.len();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                let mut state = state.lock().unwrap();
                for (mailbox, _) in four {
                    *state.now.get_mut(mailbox).unwrap() -= 1;
                }
            }
            let responses: Vec<Value> = requests
                .iter()
                .map(|(_, id)| serde_json::json!({"id": id, "status": 200}))
                .collect();
            let body = serde_json::json!({ "responses": responses }).to_string();
            Ok::<_, BoxError>(Response::new(Full::<Bytes>::from(body)))
        }
    });
    let ledger = Arc::new(ThrottlingPolicy::graph_outlook().ledger());
    let service = layer()
        .parallel(3)
        .layer(ConcurrencyByPrincipalLayer::new(ledger, GraphCharges::new("app")).layer(graph));
    run(async {
        let mut calls = Vec::new();
        for call in 0..30 {
            let mailbox = |at: usize| format!("/users/{}/messages", (call + at / 10) % 3);
            let request = match call % 3 {
                0 => Request::get(mailbox(0)).body(ReplayBody::empty()).unwrap(),
                _ => {
                    let requests: Vec<String> = (0..30)
                        .map(|at| {
                            format!(r#"{{"id":"{at}","method":"GET","url":"{}"}}"#, mailbox(at))
                        })
                        .collect();
                    post(&format!(r#"{{"requests":[{}]}}"#, requests.join(",")))
                }
            };
            let service = service.clone();
            calls.push(async move {
                let response = service.oneshot(request).await.unwrap();
                response.into_body().collect().await.unwrap();
            });
        }
        futures_util::future::join_all(calls).await;
    });
    let running = running.lock().unwrap();
    assert_eq!((running.executed, running.most), (20 * 30 + 10, 4));
}
