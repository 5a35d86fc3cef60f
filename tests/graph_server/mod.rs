//! A Microsoft Graph that takes JSON batches, and takes offence at what Graph would refuse.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::{BoxError, Service};

/// How likely what goes wrong, from 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// A request is throttled.
    pub(crate) throttled: f64,
    /// A request is refused for good.
    pub(crate) refused: f64,
    /// A request ends in a 5xx that leaves open whether it was executed.
    pub(crate) open: f64,
    /// A response is not there.
    pub(crate) missing: f64,
    /// A response is there twice, or with an id that nobody asked for.
    pub(crate) stray: f64,
    /// A response is no JSON.
    pub(crate) page: f64,
    /// The batch is executed and gets a response, with a status of an error.
    pub(crate) outer: f64,
    /// The batch is throttled as a whole.
    pub(crate) busy: f64,
    /// The batch ends in a 5xx, or in a page, and may have been executed.
    pub(crate) outage: f64,
    /// The connection breaks, before the batch is executed or after it.
    pub(crate) lost: f64,
}

/// What the server saw.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) batches: usize,
    /// The largest one.
    pub(crate) most: usize,
    /// Urls, in the order of their execution.
    pub(crate) executed: Vec<String>,
    /// The response to each url, the last one last.
    pub(crate) said: HashMap<String, Vec<String>>,
    /// Responses of 429, 503 or 509.
    pub(crate) throttled: usize,
    /// Batches in which each request but the first depends on the one before.
    pub(crate) sequential: usize,
    /// What Graph would have refused, and what came too early.
    pub(crate) violations: Vec<String>,
}

/// The requests of a batch have to have different urls.
#[derive(Clone, Debug)]
pub(crate) struct GraphServer {
    faults: Faults,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    report: Report,
    /// Until when each url is throttled.
    closed: HashMap<String, Instant>,
    /// Until when everything is.
    all_closed: Option<Instant>,
}

enum Outcome {
    Reply(u16, Option<String>, Bytes),
    Lost,
}

impl GraphServer {
    pub(crate) fn new(seed: u64, faults: Faults) -> GraphServer {
        let state = State {
            rng: fastrand::Rng::with_seed(seed),
            report: Report::default(),
            closed: HashMap::new(),
            all_closed: None,
        };
        GraphServer {
            faults,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// What it saw until now.
    pub(crate) fn report<T>(&self, read: impl FnOnce(&Report) -> T) -> T {
        read(&self.state.lock().unwrap().report)
    }
}

impl<B> Service<Request<B>> for GraphServer
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Debug,
{
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let time = server.state.lock().unwrap().rng.u64(20..400);
            tokio::time::sleep(Duration::from_millis(time)).await;
            let outcome = server.state.lock().unwrap().batch(&body, server.faults);
            match outcome {
                Outcome::Reply(status, retry_after, body) => {
                    let mut response = Response::builder().status(status);
                    if let Some(retry_after) = retry_after {
                        response = response.header("retry-after", retry_after);
                    }
                    Ok(response.body(Full::new(body)).unwrap())
                }
                Outcome::Lost => Err("connection reset".into()),
            }
        })
    }
}

impl State {
    fn chance(&mut self, of: f64) -> bool {
        self.rng.f64() < of
    }

    fn violation(&mut self, text: String) -> Outcome {
        let error = json!({"error": {"code": "BadRequest", "message": text}}).to_string();
        self.report.violations.push(text);
        Outcome::Reply(400, None, error.into())
    }

    fn batch(&mut self, body: &[u8], faults: Faults) -> Outcome {
        self.report.batches += 1;
        let batch: Value = match serde_json::from_slice(body) {
            Ok(batch) => batch,
            Err(error) => return self.violation(format!("no JSON: {error}")),
        };
        let Some(requests) = batch["requests"].as_array() else {
            return self.violation("no requests".into());
        };
        self.report.most = self.report.most.max(requests.len());
        if requests.is_empty() || requests.len() > 20 {
            return self.violation(format!("{} requests", requests.len()));
        }
        if let Err(what) = is_well_formed(requests) {
            return self.violation(what);
        }
        let follows = |pair: &[Value]| pair[1]["dependsOn"] == json!([pair[0]["id"]]);
        let sequential = requests[0].get("dependsOn").is_none() && requests.windows(2).all(follows);
        self.report.sequential += usize::from(sequential);
        let now = Instant::now();
        if self.all_closed.is_some_and(|until| now < until) {
            self.report.violations.push("too early for anything".into());
        }
        if self.chance(faults.busy) {
            let (retry_after, until) = self.retry_after();
            self.all_closed = Some(until);
            let status = self.rng.choice([429, 503]).unwrap();
            let error = r#"{"error":{"code":"TooManyRequests","message":"busy"}}"#;
            return Outcome::Reply(status, Some(retry_after), error.into());
        }
        let lost = self.chance(faults.lost);
        let outage = self.chance(faults.outage);
        if !((lost || outage) && self.rng.bool()) {
            let before = self.closed.clone();
            let response = self.execute(requests, faults);
            if !(lost || outage) {
                let outer = memchr::memmem::find(&response, b"\"id\"").is_some();
                let status = match outer && self.chance(faults.outer) {
                    true => self.rng.choice([400, 403, 424, 500, 502, 504]).unwrap(),
                    false => 200,
                };
                return Outcome::Reply(status, None, response);
            }
            // The client was not told.
            self.closed = before;
        }
        if lost {
            return Outcome::Lost;
        }
        let status = self.rng.choice([200, 500, 502, 504]).unwrap();
        Outcome::Reply(status, None, "<html>sorry</html>".into())
    }

    /// A `Retry-After` in one of its forms, and until when it is meant.
    fn retry_after(&mut self) -> (String, Instant) {
        let millis = self.rng.u64(1..20) * 250;
        let until = Instant::now() + Duration::from_millis(millis);
        (format!("{}", millis as f64 / 1000.0), until)
    }

    fn execute(&mut self, requests: &[Value], faults: Faults) -> Bytes {
        let mut succeeded: HashMap<String, bool> = HashMap::new();
        let mut responses = Vec::new();
        for request in requests {
            let id = request["id"].as_str().unwrap();
            let url = request["url"].as_str().unwrap().to_owned();
            let needs = request["dependsOn"].as_array();
            let may_run = needs.is_none_or(|needs| {
                needs
                    .iter()
                    .all(|need| succeeded[&need.as_str().unwrap().to_lowercase()])
            });
            let mut headers = json!({"Content-Type": "application/json"});
            let status = if !may_run {
                424
            } else {
                if (self.closed.get(&url)).is_some_and(|until| Instant::now() < *until) {
                    self.report.violations.push(format!("{url} is too early"));
                }
                self.one(&url, &mut headers, faults)
            };
            succeeded.insert(id.to_lowercase(), (200..300).contains(&status));
            let response = json!({"id": id, "status": status, "headers": headers, "body": {"of": url, "n": self.rng.u32(..)}});
            let response = match self.rng.bool() {
                true => format!("{response:#}"),
                false => response.to_string(),
            };
            if self.chance(faults.missing) {
                self.closed.remove(&url);
                continue;
            }
            if self.chance(faults.page) {
                self.closed.remove(&url);
                let body = self
                    .rng
                    .choice(["<html>{},{\"a\":[</html>", "Sorry", "{\"x\":}"]);
                let id = Value::from(id);
                responses.push(format!(
                    "{{\"id\":{id},\"status\":{status},\"body\":{}}}",
                    body.unwrap()
                ));
                continue;
            }
            if self.chance(faults.stray) {
                self.closed.remove(&url);
                // What is no object hides what follows a page.
                let kinds = if faults.page > 0.0 { 4 } else { 5 };
                let stray = match self.rng.u8(..kinds) {
                    0 => response.clone(),
                    1 => json!({"id": id, "status": 200, "body": "another"}).to_string(),
                    2 => json!({"id": "nobody", "status": 200}).to_string(),
                    3 => json!({"status": 200}).to_string(),
                    _ => "null".to_owned(),
                };
                responses.push(stray);
            }
            self.report
                .said
                .entry(url)
                .or_default()
                .push(response.clone());
            responses.push(response);
        }
        self.rng.shuffle(&mut responses);
        let separator = self.rng.choice([",", " ,\n"]).unwrap();
        format!(
            "{{\"@odata.context\":\"[]\",\"responses\": [{} ]}}",
            responses.join(separator)
        )
        .into()
    }

    fn one(&mut self, url: &str, headers: &mut Value, faults: Faults) -> u16 {
        if self.chance(faults.throttled) {
            self.report.throttled += 1;
            let (retry_after, until) = self.retry_after();
            self.closed.insert(url.to_owned(), until);
            let name = self.rng.choice(["Retry-After", "retry-after"]).unwrap();
            headers[name] = retry_after.into();
            return self.rng.choice([429, 429, 503, 509]).unwrap();
        }
        if self.chance(faults.refused) {
            return self.rng.choice([400, 404, 409]).unwrap();
        }
        let open = self.chance(faults.open);
        if !(open && self.rng.bool()) {
            self.report.executed.push(url.to_owned());
        }
        match open {
            true => self.rng.choice([500, 502, 504]).unwrap(),
            false => self.rng.choice([200, 201, 204]).unwrap(),
        }
    }
}

fn is_well_formed(requests: &[Value]) -> Result<(), String> {
    let mut ids: Vec<String> = Vec::new();
    for request in requests {
        for name in ["id", "method", "url"] {
            if !request[name].is_string() {
                return Err(format!("{name} of {request}"));
            }
        }
        if let Some(needs) = request.get("dependsOn") {
            let known = |need: &Value| {
                need.as_str()
                    .is_some_and(|need| ids.contains(&need.to_lowercase()))
            };
            if !needs
                .as_array()
                .is_some_and(|needs| needs.iter().all(known))
            {
                return Err(format!("Invalid dependency for {request}"));
            }
        }
        let id = request["id"].as_str().unwrap_or_default().to_lowercase();
        if ids.contains(&id) {
            return Err(format!("id {id} twice"));
        }
        ids.push(id);
    }
    Ok(())
}
