//! Running a job: its calls, the callers that give up, the client that is killed and started again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tower::{BoxError, ServiceExt};
use tower_ews::body::ReplayBody;
use tower_ews::extensions::Priority;

use super::client::{Client, REFUSED_BY, Server, TakenUp, Who};
use super::ews::{self, Verdict, verdict};
use super::scenarios::{Call, Scenario, Work};

/// What the server counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) calls: u64,
    pub(super) throttled: u64,
    /// Items that are not there, and those that are there more than once, where each is to be there once.
    pub(super) lost_and_twice: Option<(u64, u64)>,
}

/// A server that a job can be run against.
pub(super) struct Ready {
    pub(super) server: Server,
    pub(super) counts: Box<dyn Fn() -> Counts>,
}

/// How a job went.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) took: Duration,
    pub(super) counts: Counts,
    pub(super) caller_errors: u64,
    /// How long calls of a person waited, sorted.
    waits: Vec<Duration>,
}

impl Outcome {
    /// How long one of a person's calls waited, by its place among all.
    pub(super) fn wait(&self, share: f64) -> Option<Duration> {
        let last = self.waits.len().checked_sub(1)?;
        self.waits.get((last as f64 * share) as usize).copied()
    }
}

/// What a caller was told.
#[derive(Clone, Copy, Debug)]
struct Told {
    well: bool,
    /// From when the call was offered.
    took: Duration,
}

/// Runs a job in virtual time.
pub(super) fn run(scenario: &Scenario, who: Who, seed: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let ready = scenario.server.ready(scenario.accounts, seed).await;
        let job = Job {
            calls: scenario.calls.clone(),
            told: Arc::new(Mutex::new(vec![None; scenario.calls.len()])),
            start: Instant::now(),
            at_once: scenario.at_once,
            deadline: scenario.deadline(),
        };
        if let Some(killed) = scenario.killed_at {
            let client = who.client(scenario, &ready.server, seed);
            let calls = job.begin(&client);
            sleep(killed).await;
            drop((calls, client));
        }
        let client = who.client(scenario, &ready.server, seed);
        let mut calls = job.begin(&client);
        while let Some(call) = calls.join_next().await {
            call.expect("a call");
        }
        let told = job.told.lock().expect("what was told");
        let people = scenario.calls.iter().zip(told.iter());
        let people = people.filter(|(call, _)| call.of_a_person);
        let waited = |(call, told): (&Call, &Option<Told>)| {
            Some(told.as_ref()?.took.saturating_sub(call.lasts))
        };
        let mut waits: Vec<Duration> = people.filter_map(waited).collect();
        waits.sort();
        Outcome {
            took: job.start.elapsed(),
            counts: (ready.counts)(),
            caller_errors: told.iter().flatten().filter(|told| !told.well).count() as u64,
            waits,
        }
    })
}

struct Job {
    calls: Arc<[Call]>,
    told: Arc<Mutex<Vec<Option<Told>>>>,
    start: Instant,
    at_once: usize,
    deadline: Duration,
}

impl Job {
    /// Offers all calls whose callers were told nothing yet.
    fn begin(&self, client: &Client) -> JoinSet<()> {
        let room = Arc::new(Semaphore::new(self.at_once.min(Semaphore::MAX_PERMITS)));
        let mut begun = JoinSet::new();
        let open = self.told.lock().expect("what was told");
        for at in (0..open.len()).filter(|at| open[*at].is_none()) {
            let (calls, told) = (Arc::clone(&self.calls), Arc::clone(&self.told));
            let (client, room) = (client.clone(), Arc::clone(&room));
            let (start, deadline) = (self.start, self.deadline);
            begun.spawn(async move {
                let call = &calls[at];
                let due = start + call.at;
                sleep_until(due).await;
                let offered = Instant::now().max(due);
                let _room = room.acquire().await;
                let well = tokio::time::timeout(deadline, call.run(&client)).await;
                told.lock().expect("what was told")[at] = Some(Told {
                    well: well.unwrap_or(false),
                    took: offered.elapsed(),
                });
            });
        }
        begun
    }
}

impl Call {
    /// Returns whether it went well for its caller.
    async fn run(&self, client: &Client) -> bool {
        match &self.work {
            Work::Once(body) => self.once(client, body.clone()).await,
            Work::Pages { mailbox, size } => {
                let mut offset = 0;
                loop {
                    let page = ews::find_items("inbox", Some(mailbox), Some((offset, *size)));
                    let response = self.send(client, ews::envelope(None, &page)).await;
                    let Some(response) = response.ok().filter(is_well) else {
                        return false;
                    };
                    match ews::next_page(response.body()) {
                        None => return true,
                        Some(next) => offset = next,
                    }
                }
            }
        }
    }

    async fn once(&self, client: &Client, body: Bytes) -> bool {
        let Some(patience) = self.gives_up else {
            let response = self.send(client, body).await;
            return response.is_ok_and(|response| is_well(&response));
        };
        let taken_up = TakenUp::default();
        let mut request = self.request(body);
        request.extensions_mut().insert(taken_up.clone());
        let gives_up = async {
            taken_up.0.notified().await;
            sleep(patience.saturating_sub(REFUSED_BY)).await;
        };
        tokio::select! {
            response = client.clone().oneshot(request) => response.is_ok_and(|response| is_well(&response)),
            () = gives_up => true,
        }
    }

    async fn send(&self, client: &Client, body: Bytes) -> Result<Response<Bytes>, BoxError> {
        client.clone().oneshot(self.request(body)).await
    }

    fn request(&self, body: Bytes) -> Request<ReplayBody> {
        let priority = match self.of_a_person {
            true => Priority::Interactive,
            false => Priority::Normal,
        };
        let request = Request::post(&*self.uri)
            .header("content-type", "text/xml; charset=utf-8")
            .extension(priority);
        request.body(ReplayBody::from(body)).expect("a request")
    }
}

fn is_well(response: &Response<Bytes>) -> bool {
    verdict(response) == Verdict::Done
}
