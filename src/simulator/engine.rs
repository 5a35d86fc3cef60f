//! What happens to a call between its arrival and its answer.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, request};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use super::account::Account;
use super::arrival::Arrival;
use super::body::{Body, ConnectionLost};
use super::budget::{Budgets, Payer};
use super::faults::{Fault, Faults};
use super::mailbox::Store;
use super::operation::{Context, Operation};
use super::policy::Policy;
use super::report::Counters;
use super::soap::{self, Failure, Request};

/// The server.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) policy: Policy,
    pub(super) speed: f64,
    pub(super) accounts: Vec<Account>,
    pub(super) anonymous: Option<String>,
    pub(super) threads: Option<Semaphore>,
    pub(super) epoch: OnceLock<Instant>,
    pub(super) state: Mutex<State>,
}

/// All that changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) store: Store,
    pub(super) budgets: Budgets,
    pub(super) faults: Faults,
    pub(super) counters: Counters,
    pub(super) rng: fastrand::Rng,
    /// Calls at the server, queue included.
    pub(super) present: u32,
    pub(super) number: u64,
}

/// A call's place at the server. It leaves when this is dropped.
#[derive(Debug)]
pub(super) struct InFlight {
    engine: Arc<Engine>,
    payers: Vec<Payer>,
    sync: bool,
    rows: u32,
}

impl InFlight {
    /// The place of a call that the budgets have let in.
    pub(super) fn new(engine: Arc<Engine>, payers: Vec<Payer>, sync: bool) -> Self {
        Self {
            engine,
            payers,
            sync,
            rows: 0,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.engine.state.lock();
        state.present = state.present.saturating_sub(1);
        state.budgets.leave(&self.payers, self.sync, self.rows);
    }
}

/// A call that the server executes.
pub(super) struct Execution {
    pub(super) number: u64,
    pub(super) operation: Operation,
    pub(super) request: Request,
    pub(super) caller: Account,
    pub(super) effective: Option<usize>,
    pub(super) place: InFlight,
    pub(super) fault: Option<Fault>,
    pub(super) headers: HeaderMap,
}

impl Engine {
    /// Answers one call whose body has been read, or could not be.
    pub(super) async fn handle(
        self: Arc<Self>,
        head: request::Parts,
        body: Result<Bytes, StatusCode>,
    ) -> Result<Response<Body>, ConnectionLost> {
        let due = later(self.now(), self.real(self.policy.latency));
        let arrival = self.arrive(&head, body);
        self.pause_until(due).await;
        match arrival {
            Arrival::Answer(answer) => Ok(*answer),
            Arrival::Lost(error) => Err(error),
            Arrival::Execute(execution) => self.execute(*execution, due).await,
        }
    }

    async fn execute(
        self: Arc<Self>,
        mut execution: Execution,
        // When it begins, as planned: timers are late, and their lateness is not to add up.
        mut due: Instant,
    ) -> Result<Response<Body>, ConnectionLost> {
        let _thread = match &self.threads {
            Some(threads) => threads.acquire().await.ok(),
            None => None,
        };
        let operation = execution.operation;
        let members = operation
            .members(&execution.request.operation)
            .unwrap_or_default();
        let stop = match execution.fault {
            Some(Fault::TimeoutExpired) => members.len().div_ceil(2),
            _ => members.len(),
        };
        let mut answers = Vec::with_capacity(members.len());
        if self.threads.is_some() {
            due = due.max(self.now());
        }
        for (index, member) in members.iter().take(stop).enumerate() {
            let time = {
                let mut state = self.state.lock();
                let now = self.policy_time(self.now());
                if let Some(wait) = state
                    .budgets
                    .locked(&self.policy, &execution.place.payers, now)
                {
                    state.counters.throttled("ErrorServerBusy");
                    answers.push(Err(Failure::busy(Some(self.real(wait)))));
                    continue;
                }
                let swing = 1.0 + self.policy.jitter * (2.0 * state.rng.f64() - 1.0);
                scaled(self.policy.member_time, swing)
            };
            due = later(due, self.real(time));
            self.pause_until(due).await;
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let now = self.policy_time(self.now());
            let locked_out =
                state
                    .budgets
                    .execute(&self.policy, &execution.place.payers, time, now);
            state.counters.report.lockouts += locked_out;
            let mut context = Context {
                policy: &self.policy,
                store: &mut state.store,
                budgets: &mut state.budgets,
                counters: &mut state.counters,
                caller: &execution.caller,
                effective: execution.effective,
                payers: &execution.place.payers,
                old_version: execution.request.old_version,
                now,
                rows: &mut execution.place.rows,
                operation,
            };
            if index == 0 {
                if let Err(failure) = context.prepare(&execution.request.operation) {
                    answers.push(Err(failure));
                    break;
                }
            }
            let answer = context.execute(&execution.request.operation, member);
            if answer.is_ok() {
                state.counters.executed(operation.name());
            }
            answers.push(answer);
        }
        if let Some(Fault::TimeoutExpired) = execution.fault {
            let failure = Failure::new(
                "ErrorTimeoutExpired",
                "The operation did not complete in the time allowed.",
            );
            answers = vec![Err(failure); members.len()];
        }
        let text = soap::envelope(&self.policy, &operation.response(&answers));
        let lost = matches!(execution.fault, Some(Fault::ResetAfter));
        {
            let mut state = self.state.lock();
            let answered = self.since_start(self.now());
            if let Some(call) = state.counters.call(execution.number) {
                call.answered = Some(answered);
                call.status = (!lost).then_some(StatusCode::OK);
                call.outcome = execution
                    .fault
                    .as_ref()
                    .map_or("executed", Fault::name)
                    .to_owned();
            }
        }
        let place = Some(execution.place);
        let body = match execution.fault {
            Some(Fault::ResetAfter) => return Err(ConnectionLost::reset()),
            Some(Fault::CutBody) => Body::whole(text, place).cut(),
            Some(Fault::SlowBody { frames, pause }) => {
                Body::whole(text, place).slow(frames, self.real(pause))
            }
            Some(Fault::WrongXml) => {
                let half = Bytes::from(text);
                Body::whole(half.slice(..half.len() / 2), place)
            }
            _ => Body::whole(text, place),
        };
        Ok(respond(StatusCode::OK, execution.headers, body))
    }

    pub(super) fn now(&self) -> Instant {
        let now = Instant::now();
        now.max(*self.epoch.get_or_init(|| now))
    }

    pub(super) fn since_start(&self, at: Instant) -> Duration {
        self.epoch
            .get()
            .map_or(Duration::ZERO, |epoch| at.saturating_duration_since(*epoch))
    }

    /// Policy time since the start.
    pub(super) fn policy_time(&self, at: Instant) -> Duration {
        scaled(self.since_start(at), self.speed)
    }

    /// A time of the policy as it is lived.
    pub(super) fn real(&self, time: Duration) -> Duration {
        scaled(time, 1.0 / self.speed)
    }

    async fn pause_until(&self, due: Instant) {
        if due > Instant::now() {
            sleep_until(due).await;
        }
    }
}

pub(super) fn respond(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// No time is longer than this, whatever a policy says: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

fn scaled(time: Duration, factor: f64) -> Duration {
    // Rounded, so that whole milliseconds stay whole under a speed that divides them.
    let nanos = (time.min(LONGEST).as_secs_f64() * factor.max(0.0) * 1e9).round();
    Duration::try_from_secs_f64(nanos / 1e9)
        .unwrap_or(LONGEST)
        .min(LONGEST)
}

fn later(at: Instant, time: Duration) -> Instant {
    at.checked_add(time).unwrap_or(at)
}
