//! The attempts of one call, and what is decided after each.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, response};
use http_body::Body;
use tokio::time::Instant;
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use super::RetryInfo;
use super::classify::{Classify, Idempotency, Outcome, Refusal, RequestClass};
use super::config::Shared;
use super::examine::{Examined, Refused, Scan, examine, keep};
use super::gate::{self, Gates};
use super::peek::{PeekBody, Prefix, Rest, Tail};
use super::report::{Listener, Reporter};
use crate::errors::{BackoffError, CredentialsError, DeadlineElapsed};
use crate::extensions::Deadline;
use crate::ledger::{
    AcquireError, AcquireRequest, Admission, AdmissionSlot, Ledger, Permit, Requeue, Signal,
};
use crate::retry::Failure;
use crate::trail::{CallTrail, CanShrink, RetryAttempt};

/// The least wait after a refusal without a hint, where the ledger does the waiting.
const LEAST_WAIT: Duration = Duration::from_millis(10);

type Answered<ResB> = Response<PeekBody<ResB>>;

pub(super) fn run<S, C, B, ResB>(
    mut inner: S,
    request: Request<B>,
    shared: Arc<Shared<C>>,
) -> impl Future<Output = Result<Answered<ResB>, BoxError>>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    S::Error: Into<BoxError>,
    C: Classify<B>,
    B: Clone,
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError>,
{
    let config = &shared.config;
    let given = request.extensions().get::<Deadline>().copied();
    let deadline = given.unwrap_or_else(|| Deadline::within(config.deadline));
    let trail = CallTrail::of(request.extensions()).cloned();
    let given_slot = request.extensions().get::<AdmissionSlot>().cloned();
    let own_slot = given_slot.is_none() && config.ledger.is_some();
    let slot = given_slot.or_else(|| own_slot.then(AdmissionSlot::new));
    let mut state = State {
        call: shared.classifier.request(&request),
        can_shrink: request.extensions().get::<CanShrink>().is_some(),
        deadline: deadline.0,
        own_deadline: given.is_none(),
        slot,
        own_slot,
        requeue: Requeue::new(),
        exceeded: None,
        attempts: 0,
        backed_off: Duration::ZERO,
        hintless: 0,
        counted: 0,
        maybe_executed: false,
        repeated: false,
        retry_after: None,
        signal: None,
        kept: None,
        gate: None,
        not_held: false,
        own_ticket: None,
        rng: None,
    };
    // What it captures is not moved once more, as the arguments of an async function are.
    async move {
        let config = &shared.config;
        let gates = &config.gates;
        if let Some(elapsed) = DeadlineElapsed::of(given) {
            return Err(state.not_sent(elapsed.into(), None));
        }
        let mut pause = Duration::ZERO;

        loop {
            // What was not sent yet queues in its first attempt. What was refused backs off between two.
            let first = match state.attempts {
                0 => trail.as_ref().map(CallTrail::begin_attempt),
                _ => None,
            };
            // Held until the response has been judged.
            let mut pass = None;
            if gates.are_used() {
                let ask = state.ask(&*shared.classifier, &request);
                // Boxed, so that the future of a call stays small that meets no gate.
                match Box::pin(state.pass_gates(gates, ask, first.as_ref())).await {
                    Ok((permit, backed_off)) => {
                        pass = Some(permit);
                        pause = pause.saturating_add(backed_off);
                    }
                    Err(error) => return state.after_gates(error),
                }
            }

            state.attempts = state.attempts.saturating_add(1);
            state.repeated = state.maybe_executed;
            let trail = first.or_else(|| trail.as_ref().map(CallTrail::begin_attempt));
            if let Some(trail) = &trail {
                trail.record(|attempt| {
                    attempt.backed_off = attempt.backed_off.saturating_add(pause);
                    // A layer above may know of an execution, too.
                    attempt.resend |= state.maybe_executed;
                });
            }
            state.begin_attempt();

            let ready: Result<_, BoxError> = inner.ready().await.map_err(Into::into);
            let begun = ready.is_ok();
            let answered = match ready {
                Ok(inner) => {
                    let attempt = state.attempt(&request, trail.as_ref());
                    inner.call(attempt).await.map_err(Into::into)
                }
                Err(error) => Err(error),
            };
            let refused = match answered {
                Err(error) if begun => Err((error, Came::Sent)),
                Err(error) => Err((error, Came::NotReady)),
                Ok(answer) => {
                    if let Some(trail) = &trail {
                        trail.record(|attempt| {
                            attempt.status = Some(answer.status());
                            attempt.responded.get_or_insert_with(Instant::now);
                        });
                    }
                    let (head, body) = answer.into_parts();
                    let said = shared.classifier.answer(&state.call, &head);
                    if said.refusal.is_none() && said.reader.is_none() {
                        let rest = Rest::Untouched(body);
                        accepted(pass);
                        return Ok(state.pass_on(head, Prefix::default(), rest, None));
                    }
                    let ledger = config.ledger.as_ref();
                    let admission = ledger.and_then(|ledger| state.admission(ledger));
                    let watched = admission.as_ref().filter(|a| a.is_watched()).cloned();
                    let listener = match ledger.map(Arc::clone).zip(admission) {
                        Some((ledger, admission)) => Some(Listener::Ledger(ledger, admission)),
                        None => pass.as_ref().map(|pass| {
                            Listener::Gates(Arc::clone(gates), pass.admission().clone())
                        }),
                    };
                    let mut reporter = Reporter::new(listener, state.fallback(&shared));
                    if said.refusal.is_some() {
                        reporter.listen_with(|| state.gates_of(&shared, &request));
                    }
                    let bounds = (config.max_prefix, config.max_buffered);
                    // Boxed, as is what follows a refusal, so that the future of a plain answer stays small.
                    let examined = examine(&state.call, said, body, reporter, bounds);
                    match Box::pin(examined).await {
                        Ok(Examined::PassOn(prefix, rest, mut scan)) => {
                            if let Some((_, reporter)) = &mut scan {
                                if reporter.reason().is_some() || !matches!(rest, Rest::Ended) {
                                    reporter.listen_with(|| state.gates_of(&shared, &request));
                                }
                            }
                            let signal = scan.as_ref().and_then(|(_, reporter)| reporter.reason());
                            note(trail.as_ref(), signal);
                            if signal.is_none() {
                                // Others wait for this response, but not for the end of a long body.
                                if let (Some(ledger), Some(admission)) = (ledger, watched) {
                                    ledger.report(&admission, Signal::Accepted);
                                }
                                accepted(pass);
                            }
                            return Ok(state.pass_on(head, prefix, rest, scan));
                        }
                        Ok(Examined::Refused(mut refused)) => {
                            refused
                                .reporter
                                .listen_with(|| state.gates_of(&shared, &request));
                            Ok((head, refused))
                        }
                        Err(error) => Err((error, Came::Answered)),
                    }
                }
            };

            // Reported, if it was refused: the next call that waits at the gate sees that.
            drop(pass);

            let (until, held) = match refused {
                Err((error, came)) => {
                    let fallback = state.fallback(&shared);
                    let next = state.after_error(error, came, &*shared.classifier, fallback);
                    note(trail.as_ref(), state.signal.as_deref());
                    over(trail.as_ref());
                    match next {
                        Ok(until) => (until, false),
                        Err(end) => return end,
                    }
                }
                Ok((head, refused)) => {
                    let next = state.after_refusal(&refused);
                    note(trail.as_ref(), state.signal.as_deref());
                    let (until, held) = match next {
                        Ok(next) => next,
                        Err(tried) => {
                            let scan = refused.reader.map(|reader| (reader, refused.reporter));
                            let tried = Some(tried);
                            return Ok(state.answer(
                                head,
                                refused.prefix,
                                refused.rest,
                                scan,
                                tried,
                            ));
                        }
                    };
                    let kept = keep(head, refused.prefix, refused.rest, config.max_buffered);
                    state.kept = Box::pin(kept).await.map(Box::new);
                    over(trail.as_ref());
                    (until, held)
                }
            };
            // Nothing of the attempt is held from here on, its permit least of all.
            let begin = Instant::now();
            tracing::debug!(
                operation = &*state.call.operation,
                signal = state.signal.as_deref(),
                attempts = state.attempts,
                wait = ?until.saturating_duration_since(begin),
                held_by_gate = held,
                "backing off"
            );
            pause = Duration::ZERO;
            if !held {
                tokio::time::sleep_until(until).await;
                pause = begin.elapsed();
                state.backed_off = state.backed_off.saturating_add(pause);
            }
        }
    }
}

/// How far an attempt had come when it failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Came {
    /// Nothing was sent.
    NotReady,
    Sent,
    /// A part of the answer had come.
    Answered,
}

/// What one call remembers of its attempts.
struct State {
    call: RequestClass,
    /// Whoever sent it can send less at a time, so that a doubtful end is theirs.
    can_shrink: bool,
    deadline: Instant,
    /// The request does not say it itself.
    own_deadline: bool,
    /// Where what an attempt was charged is told, if anybody wants to know.
    slot: Option<AdmissionSlot>,
    /// The request does not have it itself.
    own_slot: bool,
    /// How the next attempt asks for its permit.
    requeue: Requeue,
    /// When the first of the last refusals came that only say that too much was drawn on a budget.
    exceeded: Option<Instant>,
    attempts: u32,
    backed_off: Duration,
    /// How many waits had no hint.
    hintless: u32,
    /// How many refusals were of a kind that is resent a few times only.
    counted: u32,
    /// Some attempt may have been executed.
    maybe_executed: bool,
    /// Some attempt before the last one may have been executed.
    repeated: bool,
    /// What the last refusal asked for.
    retry_after: Option<Duration>,
    signal: Option<Box<str>>,
    /// The server's last answer.
    kept: Option<Box<(response::Parts, Prefix)>>,
    /// Until when a gate was to hold the attempt back, the ledger's or the layer's own.
    gate: Option<Instant>,
    /// It came back before that: the ledger holds nothing back.
    not_held: bool,
    /// The place in the queue at the layer's own gates.
    own_ticket: Option<u64>,
    /// Made when the first wait is drawn.
    rng: Option<fastrand::Rng>,
}

impl State {
    /// The request of the next attempt.
    fn attempt<B: Clone>(&self, request: &Request<B>, trail: Option<&CallTrail>) -> Request<B> {
        let mut attempt = request.clone();
        let extensions = attempt.extensions_mut();
        if self.own_deadline {
            extensions.insert(Deadline(self.deadline));
        }
        if let Some(trail) = trail {
            extensions.insert(trail.clone());
        }
        if let Some(slot) = self.slot.as_ref().filter(|_| self.own_slot) {
            extensions.insert(slot.clone());
        }
        if self.attempts > 1 {
            extensions.insert(self.requeue);
            extensions.insert(RetryAttempt);
        }
        attempt
    }

    /// Another attempt has the place in the queue of the one before.
    fn begin_attempt(&mut self) {
        if self.attempts == 1 {
            return;
        }
        if let Some(slot) = &self.slot {
            self.requeue.ticket = slot.ticket().or(self.requeue.ticket);
            slot.begin_attempt();
        }
    }

    /// What the attempt was charged to `ledger`.
    fn admission(&self, ledger: &Arc<dyn Ledger>) -> Option<Admission> {
        self.slot.as_ref()?.admission_of(ledger)
    }

    /// What the attempt asks the layer's own gates for.
    fn ask<B>(&self, classifier: &impl Classify<B>, request: &Request<B>) -> AcquireRequest {
        gate::ask(classifier, request, self.deadline, self.own_ticket)
    }

    /// Waits at the layer's own gates. Returns for how long the call backed off there, if it was sent before. Else it is in the
    /// queue of its first attempt.
    async fn pass_gates(
        &mut self,
        gates: &Gates,
        ask: AcquireRequest,
        first: Option<&CallTrail>,
    ) -> Result<(Permit, Duration), AcquireError> {
        let begin = Instant::now();
        if let Some(first) = first {
            first.record(|attempt| attempt.waiting_since = Some(begin));
        }
        let passed = gates.pass(ask).await;
        let waited = begin.elapsed();
        if let Some(first) = first {
            first.record(|attempt| {
                attempt.waiting_since = None;
                attempt.queued = waited;
            });
        }
        let permit = passed?;
        self.own_ticket = Some(permit.admission().ticket());
        let backed_off = match self.attempts {
            0 => Duration::ZERO,
            _ => waited,
        };
        self.backed_off = self.backed_off.saturating_add(backed_off);
        Ok((permit, backed_off))
    }

    /// The layer's own gates, for an attempt that has no permit since nothing had been refused before. Its name is not made
    /// sooner than something is.
    fn gates_of<B, C: Classify<B>>(&self, shared: &Shared<C>, request: &Request<B>) -> Listener {
        let ask = self.ask(&*shared.classifier, request);
        Listener::Gates(Arc::clone(&shared.config.gates), gate::untested(ask))
    }

    /// How long a call waits that drew too much on a budget, where a ledger lowers the limit: hardly at first, since places come
    /// free while it waits in the queue. The wait grows with the time that nothing else came.
    fn wait_exceeded(&mut self, now: Instant) -> Duration {
        let first = *self.exceeded.get_or_insert(now);
        ((now - first) / 8).max(LEAST_WAIT)
    }

    /// The wait after the last attempt, if the server gives no hint.
    fn fallback<C>(&mut self, shared: &Shared<C>) -> Duration {
        let rng = self.rng.get_or_insert_with(|| shared.rng());
        shared.config.backoff.wait(self.hintless, rng)
    }

    /// The end of a wait that begins now, if that is not past the deadline.
    fn in_time(&self, wait: Duration) -> Option<Instant> {
        let until = Instant::now().checked_add(wait)?;
        (until <= self.deadline).then_some(until)
    }

    fn may_resend(&mut self, refusal: &Refusal) -> bool {
        let once = self.can_shrink || self.call.idempotency == Idempotency::NonIdempotent;
        if refusal.outcome == Outcome::Unknown && once {
            return false;
        }
        match refusal.resends {
            Some(at_most) if self.counted >= at_most => false,
            Some(_) => {
                self.counted += 1;
                true
            }
            None => true,
        }
    }

    /// Until when to wait after an error, or how the call ends.
    fn after_error<B, ResB>(
        &mut self,
        error: BoxError,
        came: Came,
        classifier: &impl Classify<B>,
        fallback: Duration,
    ) -> Result<Instant, Result<Answered<ResB>, BoxError>> {
        if came != Came::Answered && refused_by_ledger(&*error) {
            return Err(self.end_with(error));
        }
        self.maybe_executed |= came == Came::Answered;
        let failure = match (classifier.error(&self.call, &*error), came) {
            (Failure::NotSent, Came::Answered) => Failure::Lost,
            (Failure::Lost, Came::NotReady) => Failure::NotSent,
            (failure, _) => failure,
        };
        let signal = match failure {
            Failure::Permanent => return Err(Err(self.failed(error))),
            Failure::NotSent => "not sent",
            Failure::Lost => "answer lost",
        };
        self.signal = Some(signal.into());
        if failure == Failure::Lost {
            // An earlier answer is not the last word any more.
            self.kept = None;
            self.maybe_executed = true;
            if self.can_shrink || self.call.idempotency == Idempotency::NonIdempotent {
                return Err(Err(self.failed(error)));
            }
        }
        let Some(until) = self.in_time(fallback) else {
            return Err(self.end_at_deadline(error));
        };
        self.hintless += 1;
        Ok(until)
    }

    /// Until when to wait after a refusal, and whether a gate does the waiting; or what to tell with the refusal, as the
    /// call's answer.
    fn after_refusal<ResB>(
        &mut self,
        refused: &Refused<ResB>,
    ) -> Result<(Instant, bool), RetryInfo> {
        let refusal = &refused.refusal;
        self.signal = Some((*refusal.reason).into());
        self.retry_after = refusal.hint;
        self.maybe_executed |= refusal.outcome == Outcome::Unknown;
        if !self.may_resend(refusal) {
            return Err(self.tried(false, true));
        }
        let now = Instant::now();
        if refused.reporter.limits(refusal) {
            let wait = self.wait_exceeded(now);
            let Some(until) = self.in_time(wait) else {
                return Err(self.tried(true, true));
            };
            return Ok(self.hold(Some(until), until, now));
        }
        self.exceeded = None;
        let Some(until) = self.in_time(refused.reporter.wait(refusal)) else {
            return Err(self.tried(true, true));
        };
        if refusal.hint.is_none_or(|hint| hint.is_zero()) {
            self.hintless += 1;
        }
        Ok(self.hold(refused.reporter.gate(refusal.scope), until, now))
    }

    /// A gate holds the resend back together with all other calls, until then at least. Should a ledger not do so, it must not
    /// become a hot loop.
    fn hold(&mut self, gate: Option<Instant>, until: Instant, now: Instant) -> (Instant, bool) {
        self.not_held |= self.gate.is_some_and(|gate| now < gate);
        self.gate = gate;
        self.requeue.not_before = gate;
        (until, gate.is_some() && !self.not_held)
    }

    fn tried(&self, gave_up: bool, refused: bool) -> RetryInfo {
        let doubtful = self.call.idempotency != Idempotency::Safe;
        RetryInfo {
            attempts: self.attempts,
            backed_off: self.backed_off,
            retry_after: self.retry_after,
            signal: self.signal.clone(),
            gave_up,
            outcome_unknown: doubtful && refused && self.maybe_executed,
            maybe_repeated: doubtful && self.repeated,
        }
    }

    /// An answer that was not refused.
    fn pass_on<ResB>(
        &mut self,
        head: response::Parts,
        prefix: Prefix,
        rest: Rest<ResB>,
        scan: Option<Scan>,
    ) -> Answered<ResB> {
        let tried = (self.attempts > 1).then(|| self.tried(false, false));
        self.answer(head, prefix, rest, scan, tried)
    }

    fn answer<ResB>(
        &self,
        mut head: response::Parts,
        prefix: Prefix,
        rest: Rest<ResB>,
        scan: Option<Scan>,
        tried: Option<RetryInfo>,
    ) -> Answered<ResB> {
        let mut tail = Tail::default();
        if let (Some(scan), false) = (scan, matches!(rest, Rest::Ended)) {
            if self.call.idempotency != Idempotency::Safe {
                tail.unknown = Some((self.call.operation.clone(), self.attempts));
            }
            tail.scan = Some(scan).filter(|(_, reporter)| reporter.listens());
        }
        if let Some(tried) = tried {
            head.extensions.insert(tried);
        }
        Response::from_parts(head, PeekBody::new(prefix, rest).with_tail(tail))
    }

    /// The error of a call that ends with `error`.
    fn failed(&self, error: BoxError) -> BoxError {
        if self.maybe_executed && self.call.idempotency != Idempotency::Safe {
            return BackoffError::OutcomeUnknown {
                operation: (*self.call.operation).into(),
                attempts: self.attempts,
                source: error,
            }
            .into();
        }
        error
    }

    /// The end of a call that the layer's own gates do not let through in time.
    fn after_gates<ResB>(&mut self, error: AcquireError) -> Result<Answered<ResB>, BoxError> {
        let opens_in = match &error {
            AcquireError::GateTooLate { wait, .. } => Some(*wait),
            _ => None,
        };
        match self.attempts {
            0 => Err(self.not_sent(error.into(), opens_in)),
            _ => self.end_with(error.into()),
        }
    }

    /// The error of a call of which nothing was sent.
    fn not_sent(&self, source: BoxError, opens_in: Option<Duration>) -> BoxError {
        let at = Instant::now();
        BackoffError::NotSent {
            operation: (*self.call.operation).into(),
            at,
            closed_until: opens_in.and_then(|wait| at.checked_add(wait)),
            source,
        }
        .into()
    }

    /// The end of a call that cannot be sent again: the server's last answer, or `error`.
    fn end_with<ResB>(&mut self, error: BoxError) -> Result<Answered<ResB>, BoxError> {
        match self.kept.take() {
            Some(kept) => {
                let (head, prefix) = *kept;
                let tried = self.tried(true, true);
                Ok(self.answer(head, prefix, Rest::Ended, None, Some(tried)))
            }
            None => Err(self.failed(error)),
        }
    }

    fn end_at_deadline<ResB>(&mut self, error: BoxError) -> Result<Answered<ResB>, BoxError> {
        if self.maybe_executed && self.call.idempotency != Idempotency::Safe {
            return self.end_with(error);
        }
        let error = BackoffError::DeadlinePassed {
            operation: (*self.call.operation).into(),
            attempts: self.attempts,
            source: error,
        };
        self.end_with(error.into())
    }
}

/// Lets one more of the calls go that wait at the layer's own gates.
fn accepted(pass: Option<Permit>) {
    if let Some(pass) = pass {
        pass.complete();
    }
}

fn note(trail: Option<&CallTrail>, signal: Option<&str>) {
    if let (Some(trail), Some(signal)) = (trail, signal) {
        trail.record(|attempt| attempt.signal = Some(signal.into()));
    }
}

/// Takes down that nothing is left of an attempt.
fn over(trail: Option<&CallTrail>) {
    if let Some(trail) = trail {
        trail.record(|attempt| attempt.ended = Some(Instant::now()));
    }
}

fn refused_by_ledger(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<AcquireError>()
            || error.is::<DeadlineElapsed>()
            || error.is::<CredentialsError>()
        {
            return true;
        }
        next = error.source();
    }
    false
}
