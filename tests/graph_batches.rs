//! Graph's batches as a format: generated ones, against a server that is as strict as Graph and as moody.
#![cfg(feature = "graph")]

mod graph_server;

use std::collections::HashMap;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::Value;
use serde_json::value::RawValue;
use tower::ServiceExt;
use tower_ews::batch_splitter::{
    Batch, BatchFormat, Explanation, Fate, GraphBatch, GraphBatchFormat, PartAnswer, Repeat,
    WholeFate,
};
use tower_ews::body::ReplayBody;
use tower_ews::rope::Rope;

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
        let answer = server.clone().oneshot(request).await;
        let (head, body) = match answer {
            Ok(answer) => answer.into_parts(),
            Err(_) if batch.repeat() == Repeat::Freely && round < 1000 => continue,
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
        match batch.answer(&part, &head, rope) {
            PartAnswer::Messages {
                frame: around,
                messages,
            } => {
                assert_eq!(messages.len(), part.len());
                frame.get_or_insert(around);
                for (member, message) in part.iter().zip(messages) {
                    states[*member] = match message.fate {
                        Fate::Again { hint } if round < 1000 => {
                            wait = wait.max(hint.unwrap_or_default());
                            State::Waiting
                        }
                        fate => State::Settled(message.bytes, fate == Fate::Done),
                    };
                }
            }
            PartAnswer::Whole(whole) => {
                let cause = &*whole.text;
                let code = whole.code.as_deref();
                match whole.fate {
                    WholeFate::Again { hint } if round < 1000 => {
                        wait = hint.unwrap_or_default();
                    }
                    WholeFate::Unknown => settle(batch, &Explanation::OutcomeUnknown { cause }),
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

/// None for JSON with a string that is valid by the grammar but no Unicode.
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
        let answer = run(server.oneshot(request)).unwrap().into_body();
        part.clear();
        part.extend_from_slice(&run(answer.collect()).unwrap().to_bytes());
        mutate(&mut part, rng);
        let status = rng.choice([200, 400, 429, 500]).unwrap();
        let head = Response::builder().status(status).body(()).unwrap();
        let head = head.into_parts().0;
        match batch.answer(&some, &head, Rope::from(part)) {
            PartAnswer::Messages { messages, .. } => {
                for (member, message) in some.iter().zip(&messages) {
                    if let Some(value) = valid(&message.bytes.to_bytes()) {
                        let id = value["id"].as_str().unwrap().to_lowercase();
                        assert_eq!(id, written.members[*member].id.to_lowercase());
                    }
                }
            }
            PartAnswer::Whole(whole) => {
                let (code, cause) = (whole.code.as_deref(), &*whole.text);
                for member in some {
                    let why = Explanation::NotExecuted { code, cause };
                    let message = batch.explain(member, &why).unwrap().to_bytes();
                    serde_json::from_slice::<Value>(&message).expect("valid JSON");
                }
            }
            other => panic!("{other:?}"),
        }
    });
}
