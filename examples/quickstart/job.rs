//! The job: calls with a batch of events each, round robin over the mailboxes.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use indicatif::ProgressBar;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::{BoxError, Service, ServiceExt};
use tower_ews::batch_splitter::{BatchReport, BatchStats};
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::Budget;
use tower_ews::server_busy_backoff::{BackoffError, RetryInfo};
use tower_ews::soap::{self, ResponseCode};
use tower_ews::trail::CallTrail;

use crate::args::{Access, Args, Usage};
use crate::ews;

/// The most connections of either run. Each is two file descriptors here, where client and server are one process, and
/// on some systems a process has 256 of them.
pub(crate) const CONNECTIONS: usize = 100;

/// What is to be done, and where.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) url: Uri,
    pub(crate) authorization: HeaderValue,
    pub(crate) access: Access,
    pub(crate) mailboxes: Vec<String>,
    pub(crate) items: usize,
    /// Events in one call.
    pub(crate) batch: usize,
    /// Subjects begin with it.
    pub(crate) name: String,
}

/// What the caller was told about one event.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Created,
    Failed {
        /// A code or a few words.
        why: String,
        /// It may have been created all the same.
        unknown: bool,
    },
}

/// What one call took, as its trail tells. A bare client leaves no trail.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Effort {
    pub(crate) calls: u64,
    pub(crate) throttled: u64,
    /// Requests that batches were cut into.
    pub(crate) parts: u64,
    /// Events that were in more than one of them.
    pub(crate) resent: u64,
}

/// How the job went for its caller.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// By number of the event; `None` if the caller was told nothing at all.
    pub(crate) told: Vec<Option<Told>>,
    pub(crate) effort: Effort,
    pub(crate) took: Duration,
}

impl Job {
    /// The job that was asked for; its name is unlike that of any other run.
    pub(crate) fn new(
        args: &Args,
        url: Uri,
        authorization: HeaderValue,
        mailboxes: Vec<String>,
    ) -> Self {
        let run = uuid::Uuid::new_v4().simple().to_string();
        Self {
            url,
            authorization,
            access: args.access,
            mailboxes,
            items: args.items,
            batch: args.batch,
            name: format!("quickstart {}", run.get(..8).unwrap_or(&run)),
        }
    }

    pub(crate) fn subject(&self, number: usize) -> String {
        format!("{} #{number:06}", self.name)
    }

    pub(crate) fn post(&self, soap: String) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::from(soap));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.url.clone();
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, self.authorization.clone());
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/xml; charset=utf-8"),
        );
        request
    }

    /// The policy for this job: a batch of work is in no hurry, as somebody who waits for a page would be, and
    /// impersonation, where each mailbox has a budget of its own, must not open more connections than there can be.
    pub(crate) fn policy(
        &self,
        asked: &ThrottlingPolicy,
        speed: f64,
    ) -> Result<ThrottlingPolicy, Usage> {
        let day = Duration::from_secs(86_400);
        let mut policy = asked.clone();
        policy.deadline = day;
        policy.max_wait = day;
        policy.max_queued = policy.max_queued.max(self.items);
        if self.access == Access::Impersonation {
            let each = u32::try_from(CONNECTIONS / self.mailboxes.len().max(1)).unwrap_or(u32::MAX);
            let limit = policy.in_flight(Budget::Concurrency).unwrap_or(each);
            policy
                .set_in_flight(Budget::Concurrency, limit.min(each.max(1)))
                .map_err(|error| Usage(format!("--policy: {error}")))?;
        }
        Ok(policy.faster(speed))
    }

    /// The batches with their mailboxes: the first one of each mailbox, then the second one of each.
    fn batches(&self) -> Vec<(&str, Vec<usize>)> {
        let mailboxes = self.mailboxes.len();
        let mut batches = Vec::new();
        for (at, mailbox) in self.mailboxes.iter().enumerate() {
            let numbers: Vec<_> = (at..self.items).step_by(mailboxes.max(1)).collect();
            let chunks = numbers.chunks(self.batch).enumerate();
            batches.extend(chunks.map(|(turn, batch)| (turn, mailbox.as_str(), batch.to_vec())));
        }
        batches.sort_by_key(|(turn, ..)| *turn);
        let batches = batches.into_iter();
        batches
            .map(|(_, mailbox, batch)| (mailbox, batch))
            .collect()
    }

    /// Makes all calls at once, or as many of them at once as `at_once` says.
    pub(crate) async fn run<S, B>(
        &self,
        service: S,
        at_once: Option<usize>,
        bar: &ProgressBar,
    ) -> Outcome
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let started = Instant::now();
        let places = at_once.map(|calls| Arc::new(Semaphore::new(calls)));
        let mut calls = JoinSet::new();
        for (mailbox, numbers) in self.batches() {
            let subjects: Vec<_> = numbers.iter().map(|number| self.subject(*number)).collect();
            let mut request = self.post(ews::create_item(self.access, mailbox, &subjects));
            let trail = CallTrail::new();
            request.extensions_mut().insert(trail.clone());
            let (service, places) = (service.clone(), places.clone());
            calls.spawn(async move {
                let _place = match &places {
                    Some(places) => places.acquire().await.ok(),
                    None => None,
                };
                let (told, merged) = create(service, request, numbers.len()).await;
                (numbers, told, Effort::of(&trail, merged))
            });
        }
        let mut outcome = Outcome {
            told: vec![None; self.items],
            effort: Effort::default(),
            took: Duration::ZERO,
        };
        while let Some(ended) = calls.join_next().await {
            if let Ok((numbers, told, effort)) = ended {
                bar.inc(numbers.len() as u64);
                for (number, told) in numbers.into_iter().zip(told) {
                    outcome.told[number] = Some(told);
                }
                outcome.effort.add(effort);
            }
        }
        outcome.took = started.elapsed();
        outcome
    }
}

/// What the caller is told about each of the `count` events of a request, and what became of it as a batch.
async fn create<S, B>(
    service: S,
    request: Request<Full<Bytes>>,
    count: usize,
) -> (Vec<Told>, Option<BatchStats>)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let all = |told: Told| vec![told; count];
    let response = match service.oneshot(request).await {
        Ok(response) => response,
        Err(error) => return (all(failed_call(error.into().as_ref())), None),
    };
    let (head, body) = response.into_parts();
    let body = body.collect().await;
    let merged = head.extensions.get::<BatchReport>().map(BatchReport::stats);
    let failed = |why: String, unknown: bool| {
        let tried: Option<&RetryInfo> = head.extensions.get();
        Told::Failed {
            why,
            unknown: unknown || tried.is_some_and(|tried| tried.outcome_unknown),
        }
    };
    let reply = match body {
        Ok(body) => ews::read(&body.to_bytes()),
        Err(_) if head.status == StatusCode::OK => {
            return (all(failed("reply cut short".to_owned(), true)), merged);
        }
        Err(_) => Err(ews::Unreadable),
    };
    let told = |message: &ews::Message| {
        if head.status == StatusCode::OK && message.success {
            return Told::Created;
        }
        let outcome = ResponseCode::from_text(&message.code).outcome();
        failed(message.code.clone(), outcome != soap::Outcome::NotExecuted)
    };
    let told = match reply {
        Ok(reply) => match &*reply.messages {
            // One error for all.
            [message] if !message.success => all(told(message)),
            messages if messages.len() == count => messages.iter().map(told).collect(),
            messages => {
                let why = format!("{} messages for {count} events", messages.len());
                all(failed(why, true))
            }
        },
        Err(ews::Unreadable) if head.status == StatusCode::OK => {
            all(failed("unreadable reply".to_owned(), true))
        }
        Err(ews::Unreadable) => {
            let executed =
                head.status.is_server_error() && head.status != StatusCode::SERVICE_UNAVAILABLE;
            all(failed(format!("HTTP {}", head.status.as_u16()), executed))
        }
    };
    (told, merged)
}

fn failed_call(error: &(dyn Error + 'static)) -> Told {
    let failed = |why: &str, unknown| Told::Failed {
        why: why.to_owned(),
        unknown,
    };
    if let Some(error) = error.downcast_ref::<BackoffError>() {
        return match error {
            BackoffError::OutcomeUnknown { .. } => failed("outcome unknown", true),
            error => failed(&error.to_string(), false),
        };
    }
    if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
        return if error.is_connect() {
            failed("no connection", false)
        } else {
            failed("connection lost", true)
        };
    }
    failed(&error.to_string(), false)
}

impl Effort {
    fn of(trail: &CallTrail, merged: Option<BatchStats>) -> Self {
        let mut effort = Self::default();
        if let Some(merged) = merged {
            effort.parts = u64::from(merged.parts);
            effort.resent = merged.resent as u64;
        }
        for attempt in trail.attempts() {
            if attempt.admission.is_none() {
                continue;
            }
            effort.calls += 1;
            effort.throttled += u64::from(attempt.signal.as_deref().is_some_and(is_throttle));
        }
        let left_out = trail.left_out();
        effort.calls += left_out.admitted;
        for (signal, attempts) in &left_out.signals {
            effort.throttled += if is_throttle(signal) { *attempts } else { 0 };
        }
        effort
    }

    fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.throttled += other.throttled;
        self.parts += other.parts;
        self.resent += other.resent;
    }
}

fn is_throttle(signal: &str) -> bool {
    matches!(signal, "503" | "429") || ResponseCode::from_text(signal).class().is_throttle()
}
