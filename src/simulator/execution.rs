//! What happens to a call that is executed: its members in turn, the time that they take, and what
//! ends the batch early.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use tokio::time::Instant;

use super::account::Account;
use super::affinity::Route;
use super::body::{Body, ConnectionLost, respond};
use super::engine::{Engine, InFlight, State, later, scaled};
use super::failure::Failure;
use super::faults::Fault;
use super::operation::{Context, Operation, OperationResponse, Scratch};
use super::policy::BatchCut;
use super::soap::{self, Request};
use super::stream::{Stream, Trouble};
use super::xml::Element;

/// A call that the server executes.
pub(super) struct Execution {
    pub(super) number: u64,
    pub(super) operation: Operation,
    pub(super) request: Request,
    pub(super) caller: Account,
    pub(super) effective: Option<usize>,
    pub(super) route: Route,
    pub(super) in_flight: InFlight,
    pub(super) fault: Option<Fault>,
    pub(super) headers: HeaderMap,
}

/// What is known of a batch while its members are executed.
struct Progress {
    response: OperationResponse,
    scratch: Scratch,
    /// When the member that is executed now is done, as planned: timers are late, and their
    /// lateness is not to add up.
    due: Instant,
    /// Policy time that the members took.
    spent: Duration,
    executed: usize,
    /// What the whole batch depends on was checked.
    prepared: bool,
    /// A fault on demand has hit a member.
    hit: bool,
    /// The time of the batch was up.
    cut: bool,
}

impl Progress {
    /// The member that ran last and all after it have timed out.
    fn time_out_rest(&mut self, members: usize) {
        let done = &mut self.response.members;
        done.pop();
        done.resize_with(members, || Err(Failure::timed_out()));
    }
}

/// What is decided of a member before it is executed.
enum Turn {
    Refused(Failure),
    /// After a delay, for this time.
    Runs(Duration, Duration),
}

impl Engine {
    pub(super) async fn execute(
        self: Arc<Self>,
        mut execution: Execution,
        due: Instant,
    ) -> Result<Response<Body>, ConnectionLost> {
        let _thread = match &self.threads {
            Some(threads) => threads.acquire().await.ok(),
            None => None,
        };
        let mut progress = Progress {
            response: OperationResponse::default(),
            scratch: Scratch::default(),
            due: match self.threads {
                Some(_) => due.max(self.now()),
                None => due,
            },
            spent: Duration::ZERO,
            executed: 0,
            prepared: false,
            hit: false,
            cut: false,
        };
        self.run(&mut execution, &mut progress).await;
        self.close(execution, progress)
    }

    /// Executes the members one after another.
    async fn run(&self, execution: &mut Execution, progress: &mut Progress) {
        // The members are parts of the request, and a context borrows the rest of the call.
        let request = std::mem::replace(
            &mut execution.request.operation,
            Element::types("Nothing", ""),
        );
        let members = execution.operation.members(&request).unwrap_or_default();
        let timed = matches!(execution.fault, Some(Fault::TimeoutExpired));
        let stop = match timed {
            true => members.len().div_ceil(2),
            false => members.len(),
        };
        let limit = self
            .policy
            .batch_limit
            .filter(|_| members.len() > 1)
            .unwrap_or(Duration::MAX);
        for (index, member) in members.iter().take(stop).enumerate() {
            let (delay, time) = match self.turn(execution, progress, &request, index) {
                Turn::Refused(failure) => {
                    progress.response.members.push(Err(failure));
                    continue;
                }
                Turn::Runs(delay, time) => (delay, time),
            };
            let time = self.spend(progress, limit, delay, time);
            // A search has its rows in memory while it runs; anything else is done at its end.
            let finds = execution.operation.finds();
            if !finds {
                self.pause_until(progress.due).await;
            }
            let stopped = self.execute_member(execution, progress, &request, (index, member), time);
            if finds {
                self.pause_until(progress.due).await;
            }
            if progress.cut || progress.response.batch_error.is_some() {
                break;
            }
            if stopped {
                self.stop(progress, members.len());
                break;
            }
        }
        if progress.cut {
            progress.time_out_rest(members.len());
        }
        if timed || (progress.cut && self.policy.batch_cut == BatchCut::AllTimedOut) {
            progress.response = OperationResponse::all(Failure::timed_out(), members.len());
        }
        let mut guard = self.state.lock();
        let now = self.policy_time(self.now());
        let took = Duration::ZERO;
        let mut context = self.context(&mut guard, execution, &mut progress.scratch, now, took);
        progress.response.trailer = context.finish(&request);
    }

    /// Counts the time of a member, and notes if the batch is cut in it. Returns how long the member runs.
    fn spend(
        &self,
        progress: &mut Progress,
        limit: Duration,
        delay: Duration,
        time: Duration,
    ) -> Duration {
        let left = limit.saturating_sub(progress.spent);
        progress.cut = delay + time > left;
        let delay = delay.min(left);
        let time = time.min(left - delay);
        progress.spent += delay + time;
        progress.due = later(progress.due, self.real(delay + time));
        time
    }

    /// Executes one member, which took this time, and returns whether it stops the batch.
    fn execute_member(
        &self,
        execution: &mut Execution,
        progress: &mut Progress,
        request: &Element,
        (index, member): (usize, &Element),
        time: Duration,
    ) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let now = self.policy_time(self.now());
        let payers = &execution.in_flight.payers;
        let locked_out = state.budgets.execute(&self.policy, payers, time, now);
        state.counters.report.lockouts += locked_out;
        let failure = match &execution.fault {
            Some(Fault::MemberCode { member, code }) if *member == index => Some(Failure::new(
                code.clone(),
                "This member failed, as this server was told to say.",
            )),
            _ => None,
        };
        let mut context = self.context(state, execution, &mut progress.scratch, now, time);
        if !std::mem::replace(&mut progress.prepared, true) {
            if let Err(failure) = context.prepare(request) {
                progress.response.batch_error = Some(failure);
                return false;
            }
        }
        let outcome = match failure {
            Some(failure) => {
                progress.hit = true;
                Err(failure)
            }
            None => context.execute(request, member),
        };
        if outcome.is_ok() {
            progress.executed += 1;
            state.counters.executed(execution.operation.name());
        }
        let stops =
            execution.operation.stops() && outcome.as_ref().is_err_and(Failure::stops_batch);
        progress.response.members.push(outcome);
        stops
    }

    /// The members after one that stopped the batch.
    fn stop(&self, progress: &mut Progress, members: usize) {
        let rest = members - progress.response.members.len();
        self.state.lock().counters.report.stopped_members += rest as u64;
        let rest = std::iter::repeat_n(Err(Failure::stopped()), rest);
        progress.response.members.extend(rest);
    }

    /// Whether the member's turn comes, and how long it takes.
    fn turn(
        &self,
        execution: &Execution,
        progress: &mut Progress,
        request: &Element,
        index: usize,
    ) -> Turn {
        let mut state = self.state.lock();
        let now = self.policy_time(self.now());
        if let Some(wait) = state
            .budgets
            .locked(&self.policy, &execution.in_flight.payers, now)
        {
            state.counters.throttled("ErrorServerBusy");
            return Turn::Refused(Failure::busy(Some(self.real(wait))));
        }
        if let Some(Fault::ThrottledMembers { share, back_off }) = &execution.fault {
            if state.rng.f64() < *share {
                progress.hit = true;
                return Turn::Refused(Failure::busy(*back_off));
            }
        }
        let swing = 1.0 + self.policy.jitter * (2.0 * state.rng.f64() - 1.0);
        let time = match &execution.fault {
            Some(Fault::SlowMembers { time }) => *time,
            _ => self
                .policy
                .member_times
                .get(execution.operation.name())
                .copied()
                .unwrap_or(self.policy.member_time),
        };
        let searches = request.child("QueryString").is_some();
        let longest = self.policy.fast_search_timeout.filter(|_| searches);
        let time = scaled(time, swing).min(longest.unwrap_or(Duration::MAX));
        Turn::Runs(self.delay(execution, &mut state, index, now), time)
    }

    /// How long a member is held up: after the first one for the budgets of its payers, and for
    /// the server's load.
    fn delay(
        &self,
        execution: &Execution,
        state: &mut State,
        index: usize,
        now: Duration,
    ) -> Duration {
        let payers = &execution.in_flight.payers;
        let held_up = state.budgets.delay(&self.policy, payers, now);
        if let Some((parameter, _)) = held_up {
            state.counters.violation(parameter);
        }
        let held_up = held_up.filter(|_| index > 0);
        let load = 100.0 * f64::from(state.present) / f64::from(self.policy.cpu_calls.max(1));
        let busy = self.policy.cpu_start_percent.map_or(0.0, |start| {
            let start = f64::from(start.min(99));
            ((load - start) / (100.0 - start)).clamp(0.0, 1.0)
        });
        let delay = held_up.map_or(Duration::ZERO, |(_, delay)| delay);
        let delay = delay + self.policy.cpu_delay.mul_f64(busy);
        state.counters.report.delayed_members += u64::from(!delay.is_zero());
        delay
    }

    fn context<'a>(
        &'a self,
        state: &'a mut State,
        execution: &'a mut Execution,
        scratch: &'a mut Scratch,
        now: Duration,
        took: Duration,
    ) -> Context<'a> {
        Context {
            policy: &self.policy,
            store: &mut state.store,
            budgets: &mut state.budgets,
            subscriptions: &mut state.subscriptions,
            affinity: &state.affinity,
            server: execution.route.server,
            cookie: execution.route.cookie,
            counters: &mut state.counters,
            caller: &execution.caller,
            effective: execution.effective,
            payers: &execution.in_flight.payers,
            old_version: execution.request.old_version,
            now,
            speed: self.speed,
            took,
            rows: &mut execution.in_flight.rows,
            scratch,
            operation: execution.operation,
        }
    }

    /// What befalls a stream, and when.
    fn trouble(&self, fault: Option<&Fault>) -> Option<Trouble> {
        let (within, silent) = match fault? {
            Fault::StreamReset { within } => (*within, false),
            Fault::StreamSilent { within } => (*within, true),
            _ => return None,
        };
        let after = scaled(within, self.state.lock().rng.f64());
        Some(Trouble {
            at: later(self.now(), self.real(after)),
            silent,
        })
    }

    /// Counts what was done, and what the client was told: nothing if the connection was lost.
    fn count(
        &self,
        execution: &Execution,
        progress: &Progress,
        throttled: usize,
        status: Option<StatusCode>,
    ) {
        let mut state = self.state.lock();
        let responded = self.since_start(self.now());
        let fault = execution
            .fault
            .as_ref()
            .filter(|fault| progress.hit || !fault.befalls_members());
        if let Some(fault) = fault.filter(|fault| fault.befalls_members()) {
            state.counters.fault(fault.name());
        }
        state.counters.report.throttled_members += throttled as u64;
        state.counters.report.cut_batches += u64::from(progress.cut);
        if let Some(call) = state.counters.call(execution.number) {
            call.responded = Some(responded);
            call.status = status;
            call.executed = progress.executed;
            call.throttled = throttled;
            call.outcome = match (fault, progress.cut) {
                (Some(fault), _) => fault.name(),
                (None, true) => "batch_limit",
                (None, false) => "executed",
            }
            .to_owned();
        }
    }

    /// Responds with what was done, and counts it.
    fn close(
        self: &Arc<Self>,
        execution: Execution,
        progress: Progress,
    ) -> Result<Response<Body>, ConnectionLost> {
        let response = &progress.response;
        let cut = progress.cut.then_some(self.policy.batch_cut);
        let lost = matches!(execution.fault, Some(Fault::ResetAfter))
            || cut == Some(BatchCut::ConnectionLost);
        let (status, text) = match cut {
            Some(BatchCut::Fault) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                Failure::timed_out().fault(),
            ),
            _ => (
                StatusCode::OK,
                soap::envelope(&self.policy, &execution.operation.response(response)),
            ),
        };
        let throttled = response
            .members
            .iter()
            .filter(|outcome| outcome.as_ref().is_err_and(Failure::throttled))
            .count();
        self.count(&execution, &progress, throttled, (!lost).then_some(status));
        let in_flight = Some(execution.in_flight);
        let stream = progress.scratch.hanging.map(|hanging| {
            let ends = later(self.now(), self.real(hanging.lasts));
            let trouble = self.trouble(execution.fault.as_ref());
            Stream::new(self.clone(), hanging.ids, hanging.number, ends, trouble)
        });
        let body = match execution.fault {
            _ if lost => return Err(ConnectionLost::reset()),
            Some(Fault::CutBody) => Body::whole(text, in_flight).cut(),
            Some(Fault::SlowBody { frames, pause }) => {
                Body::whole(text, in_flight).slow(frames, self.real(pause))
            }
            Some(Fault::WrongXml) => {
                let half = Bytes::from(text);
                Body::whole(half.slice(..half.len() / 2), in_flight)
            }
            _ => Body::whole(text, in_flight),
        };
        let body = match stream {
            Some(stream) => body.hanging(stream),
            None => body,
        };
        Ok(respond(status, execution.headers, body))
    }
}
