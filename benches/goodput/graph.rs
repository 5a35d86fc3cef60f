//! A small Microsoft Graph: requests at a time, requests within ten minutes, and uploaded bytes within five, for each mailbox of one
//! application.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::{Instant, sleep};
use tower_ews::body::ReplayBody;

use super::client;
use super::job::{Counts, Ready};

/// What it allows (Outlook service limits of Microsoft Graph).
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) at_a_time: u32,
    pub(super) requests: (usize, Duration),
    pub(super) bytes: (usize, Duration),
    /// How long a request takes.
    pub(super) lasts: Duration,
}

impl Limits {
    pub(super) fn documented() -> Self {
        Self {
            at_a_time: 4,
            requests: (10_000, Duration::from_secs(600)),
            bytes: (150_000_000, Duration::from_secs(300)),
            lasts: Duration::from_millis(100),
        }
    }
}

#[derive(Debug)]
struct Graph {
    limits: Limits,
    mailboxes: Mutex<HashMap<String, Mailbox>>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Mailbox {
    in_flight: u32,
    requests: Window,
    bytes: Window,
}

/// Amounts that count for one period.
#[derive(Debug, Default)]
struct Window {
    used: VecDeque<(Instant, usize)>,
    sum: usize,
}

impl Window {
    /// How long it takes until there is room for this amount.
    fn wait(&mut self, amount: usize, (number, period): (usize, Duration)) -> Duration {
        let now = Instant::now();
        while let Some((at, amount)) = self.used.front() {
            if *at + period > now {
                break;
            }
            self.sum -= amount;
            self.used.pop_front();
        }
        let mut sum = self.sum;
        for (at, used) in &self.used {
            if sum + amount <= number {
                break;
            }
            sum -= used;
            if sum + amount <= number {
                return *at + period - now;
            }
        }
        Duration::ZERO
    }

    fn add(&mut self, amount: usize) {
        self.sum += amount;
        self.used.push_back((Instant::now(), amount));
    }
}

/// Gives a place back, whatever becomes of the caller.
struct InFlight(Arc<Graph>, String);

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut mailboxes = self.0.mailboxes.lock().expect("the mailboxes");
        mailboxes.entry(self.1.clone()).or_default().in_flight -= 1;
    }
}

impl Graph {
    /// Admits a request, or says in how long it may come again.
    fn arrive(self: &Arc<Self>, mailbox: &str, bytes: usize) -> Result<InFlight, Duration> {
        let mut mailboxes = self.mailboxes.lock().expect("the mailboxes");
        let state = mailboxes.entry(mailbox.to_owned()).or_default();
        if state.in_flight >= self.limits.at_a_time {
            return Err(Duration::from_secs(1));
        }
        let wait = state.requests.wait(1, self.limits.requests);
        let wait = wait.max(state.bytes.wait(bytes, self.limits.bytes));
        if !wait.is_zero() {
            return Err(wait);
        }
        state.requests.add(1);
        state.bytes.add(bytes);
        state.in_flight += 1;
        Ok(InFlight(Arc::clone(self), mailbox.to_owned()))
    }
}

/// A server with these limits.
pub(super) fn ready(limits: Limits) -> Ready {
    let graph = Arc::new(Graph {
        limits,
        mailboxes: Mutex::default(),
        counts: Mutex::default(),
    });
    let counted = Arc::clone(&graph);
    let service = tower::service_fn(move |request: Request<ReplayBody>| {
        let graph = Arc::clone(&graph);
        async move {
            let mailbox = request.uri().path().split('/').nth(3).unwrap_or_default();
            let bytes = request.body().to_bytes().len();
            graph.counts.lock().expect("the counts").calls += 1;
            let mut response = Response::new(Full::<Bytes>::default());
            match graph.arrive(mailbox, bytes) {
                // The server runs on what its client has given up.
                Ok(place) => {
                    let lasts = graph.limits.lasts;
                    let run = tokio::spawn(async move {
                        sleep(lasts).await;
                        drop(place);
                    });
                    let _ = run.await;
                }
                Err(wait) => {
                    graph.counts.lock().expect("the counts").throttled += 1;
                    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                    let seconds = wait.as_millis().div_ceil(1000) as u64;
                    response.headers_mut().insert("retry-after", seconds.into());
                }
            }
            Ok::<_, Infallible>(response)
        }
    });
    Ready {
        server: client::server(service),
        counts: Box::new(move || *counted.counts.lock().expect("the counts")),
    }
}
