//! [`run`]: sends the request of one call, has [`CallState`] decide what follows, and waits.

use std::error::Error as StdError;
use std::future::Future;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, response};
use http_body::Body;
use tokio::time::Instant;
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use super::classify::{Classify, Idempotency, Refusal, RefusalScope};
use super::config::Shared;
use super::decide::{CallState, Ending, FailurePhase, HeldBy, Wait, Waits};
use super::endpoint::endpoint_of;
use super::examine::{Examined, RefusedResponse, examine, keep};
use super::gate::{acquire_request, untested};
use super::peek::{PeekBody, Prefix, Rest, Scan, Tail};
use super::report::{Listener, Reporter, report_rate_limit};
use super::retry_budget::Retry;
use crate::errors::{AccessDenied, CredentialsError, DeadlineElapsed, NoResponseInTime};
use crate::extensions::Deadline;
use crate::ledger::{AcquireError, AcquireRequest, AdmissionSlot, Permit, Requeue};
use crate::retry::{Connection, Failure, RetryInfo};
use crate::trail::{Attempt as TrailAttempt, CallTrail, PartOfBatch, RetryAttempt};

/// What a call ends with.
pub(super) type CallResult<ResB> = Result<Response<PeekBody<ResB>>, BoxError>;

/// One call: what its attempts need, and what they have left behind.
struct Attempts<S, C, B> {
    inner: S,
    request: Request<B>,
    shared: Arc<Shared<C>>,
    state: CallState,
    /// The deadline that the request came with.
    given_deadline: Option<Deadline>,
    trail: Option<CallTrail>,
    slot: Slot,
    /// The ticket of the last attempt in the queue of the ledger.
    ledger_ticket: Option<u64>,
    /// The same for the queue of the layer's own gates.
    gate_ticket: Option<u64>,
    /// The wait before the next attempt.
    pause: Duration,
    /// Created when the first wait is drawn.
    rng: Option<fastrand::Rng>,
    /// The last refusal.
    kept: Option<Box<(response::Parts, Prefix)>>,
}

/// Where the admission of an attempt is told.
enum Slot {
    /// Nobody wants to know.
    None,
    /// The request came with it.
    Given(AdmissionSlot),
    /// Created by this layer.
    Own(AdmissionSlot),
}

impl Slot {
    fn get(&self) -> Option<&AdmissionSlot> {
        match self {
            Self::None => None,
            Self::Given(slot) | Self::Own(slot) => Some(slot),
        }
    }
}

/// What an attempt holds until its response has been examined.
struct Attempt {
    trail: Option<CallTrail>,
    /// The permit of the layer's own gates.
    permit: Option<Permit>,
    connection: Option<Connection>,
}

impl Attempt {
    fn record(&self, write: impl FnOnce(&mut TrailAttempt)) {
        if let Some(trail) = &self.trail {
            trail.record(write);
        }
    }

    /// Records what the response or the error said.
    fn record_signal(&self, signal: Option<&str>) {
        if let Some(signal) = signal {
            self.record(|attempt| attempt.signal = Some(signal.into()));
        }
    }

    /// Records that nothing is left of the attempt.
    fn record_end(&self) {
        self.record(|attempt| attempt.ended = Some(Instant::now()));
    }

    /// Lets another call pass the layer's own gates.
    fn accepted(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.complete();
        }
    }
}

/// What a response is after its beginning was examined.
enum Judged<ResB: Body> {
    Accepted(Response<PeekBody<ResB>>),
    Refused(response::Parts, RefusedResponse<ResB>),
    /// The body broke off.
    Failed(BoxError),
}

/// Sends `request` until a response is handed on or the call ends.
pub(super) fn run<S, C, B, ResB>(
    inner: S,
    request: Request<B>,
    shared: Arc<Shared<C>>,
) -> impl Future<Output = CallResult<ResB>>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    S::Error: Into<BoxError>,
    C: Classify<B>,
    B: Clone,
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError>,
{
    let mut call = Attempts::new(inner, request, shared);
    // What the block captures is not moved once more, as the arguments of an async function are.
    async move {
        if let Some(elapsed) = DeadlineElapsed::of(call.given_deadline) {
            return call.not_admitted(elapsed.into());
        }
        call.check_access()?;
        loop {
            let mut attempt = match call.begin_attempt().await {
                Ok(attempt) => attempt,
                Err(error) => return call.not_admitted(error.into()),
            };
            let next = match call.send(&mut attempt).await {
                Err((error, phase)) => call.after_failure(attempt, error, phase),
                Ok(response) => match call.judge(response, &mut attempt).await {
                    Judged::Accepted(response) => return Ok(response),
                    Judged::Failed(error) => call.after_failure(attempt, error, FailurePhase::Body),
                    Judged::Refused(head, refused) => {
                        // Boxed, so that the future of a call that is not refused stays small.
                        Box::pin(call.after_refusal(attempt, head, refused)).await
                    }
                },
            };
            match next {
                Ok(wait) => call.wait(wait).await,
                Err(end) => return end,
            }
        }
    }
}

impl<S, C, B> Attempts<S, C, B>
where
    C: Classify<B>,
    B: Clone,
{
    fn new(inner: S, request: Request<B>, shared: Arc<Shared<C>>) -> Self {
        let extensions = request.extensions();
        let given_deadline = extensions.get::<Deadline>().copied();
        let deadline = given_deadline.unwrap_or_else(|| Deadline::within(shared.config.deadline));
        let slot = match extensions.get::<AdmissionSlot>() {
            Some(slot) => Slot::Given(slot.clone()),
            None if shared.config.ledger.is_some() => Slot::Own(AdmissionSlot::new()),
            None => Slot::None,
        };
        Self {
            state: CallState::new(
                shared.classifier.request(&request),
                extensions.get::<PartOfBatch>().is_some(),
                deadline.0,
            ),
            given_deadline,
            trail: CallTrail::of(extensions).cloned(),
            slot,
            ledger_ticket: None,
            gate_ticket: None,
            pause: Duration::ZERO,
            rng: None,
            kept: None,
            inner,
            request,
            shared,
        }
    }

    /// Passes the layer's own gates, and begins an attempt.
    async fn begin_attempt(&mut self) -> Result<Attempt, AcquireError> {
        // A call that was not sent yet queues in its first attempt. One that was refused backs off between two.
        let first = match self.state.attempt_count() {
            0 => self.trail.as_ref().map(CallTrail::begin_attempt),
            _ => None,
        };
        let mut permit = None;
        if self.shared.config.gates.are_used() {
            // Boxed, so that the future of a call that meets no gate stays small.
            permit = Some(Box::pin(self.pass_gates(first.clone())).await?);
        }

        self.state.begin_attempt();
        let trail = first.or_else(|| self.trail.as_ref().map(CallTrail::begin_attempt));
        let attempt = Attempt {
            trail,
            permit,
            connection: None,
        };
        let pause = std::mem::take(&mut self.pause);
        attempt.record(|attempt| {
            attempt.backed_off = attempt.backed_off.saturating_add(pause);
            // A layer further out may know of an execution, too.
            attempt.resend |= self.state.maybe_repeated();
        });
        if self.state.attempt_count() > 1 {
            if let Some(slot) = self.slot.get() {
                // A retry keeps the ticket of the attempt before.
                self.ledger_ticket = slot.ticket().or(self.ledger_ticket);
                slot.begin_attempt();
            }
        }
        Ok(attempt)
    }

    /// Waits at the layer's own gates. `first` is the attempt that waits there, if the call was not sent yet: then it does
    /// not back off but queue.
    async fn pass_gates(&mut self, first: Option<CallTrail>) -> Result<Permit, AcquireError> {
        let begin = Instant::now();
        let first = Attempt {
            trail: first,
            permit: None,
            connection: None,
        };
        first.record(|attempt| attempt.waiting_since = Some(begin));
        let passed = self.shared.config.gates.pass(self.acquire_request());
        let passed = passed.await;
        let waited = begin.elapsed();
        first.record(|attempt| {
            attempt.waiting_since = None;
            attempt.queued = waited;
        });
        let permit = passed?;
        self.gate_ticket = Some(permit.admission().ticket());
        if self.state.attempt_count() > 0 {
            self.add_pause(waited);
        }
        Ok(permit)
    }

    /// Fails if the server has refused the same access a short time ago.
    fn check_access(&self) -> Result<(), AccessDenied> {
        let memory = &self.shared.config.access;
        if !memory.is_used() {
            return Ok(());
        }
        match self.shared.classifier.access(&self.request) {
            Some(access) => {
                let asked = memory.asked(&self.request, access);
                memory.check(&asked, Instant::now())
            }
            None => Ok(()),
        }
    }

    /// Remembers that the server has refused access, or granted it.
    fn note_access(&self, head: &mut response::Parts) {
        let memory = &self.shared.config.access;
        let refused = matches!(
            head.status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        );
        let granted = memory.is_used() && head.status.is_success();
        if !refused && !granted {
            return;
        }
        let Some(access) = self.shared.classifier.access(&self.request) else {
            return;
        };
        let asked = memory.asked(&self.request, access);
        match refused {
            true => {
                let denied = memory.refused(&asked, head.status, Instant::now());
                head.extensions.insert(denied);
            }
            false => memory.granted(&asked),
        }
    }

    /// Sends the request once.
    async fn send<ResB>(
        &mut self,
        attempt: &mut Attempt,
    ) -> Result<Response<ResB>, (BoxError, FailurePhase)>
    where
        S: Service<Request<B>, Response = Response<ResB>>,
        S::Error: Into<BoxError>,
    {
        let deadline = Deadline(self.state.deadline());
        match deadline.bound(self.inner.ready()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err((error.into(), FailurePhase::Ready)),
            None => return Err((DeadlineElapsed::at(deadline).into(), FailurePhase::Ready)),
        }
        let mut request = self.request_of(attempt);
        attempt.connection = Some(Connection::of(&mut request));
        match deadline.bound(self.inner.call(request)).await {
            Some(sent) => sent.map_err(|error| (error.into(), FailurePhase::Call)),
            None => Err((NoResponseInTime.into(), FailurePhase::Call)),
        }
    }

    /// Returns the request that this attempt sends.
    fn request_of(&self, attempt: &Attempt) -> Request<B> {
        let mut request = self.request.clone();
        let extensions = request.extensions_mut();
        if self.given_deadline.is_none() {
            extensions.insert(Deadline(self.state.deadline()));
        }
        if let Some(trail) = &attempt.trail {
            extensions.insert(trail.clone());
        }
        if let Slot::Own(slot) = &self.slot {
            extensions.insert(slot.clone());
        }
        if self.state.attempt_count() > 1 {
            let requeue = Requeue::new().ticket(self.ledger_ticket);
            extensions.insert(requeue.not_before(self.state.held_until()));
            extensions.insert(RetryAttempt);
        }
        request
    }

    /// Classifies a response by its head and, if need be, by the beginning of its body.
    async fn judge<ResB>(&mut self, response: Response<ResB>, attempt: &mut Attempt) -> Judged<ResB>
    where
        ResB: Body<Data = Bytes>,
        ResB::Error: Into<BoxError>,
    {
        attempt.record(|attempt| {
            attempt.status = Some(response.status());
            attempt.responded.get_or_insert_with(Instant::now);
        });
        let (mut head, body) = response.into_parts();
        self.note_access(&mut head);
        if let (Some(ledger), Some(slot)) = (&self.shared.config.ledger, self.slot.get()) {
            report_rate_limit(ledger, slot, &head.headers);
        }
        let classified = self.shared.classifier.response(self.state.class(), &head);
        if classified.compressed {
            let warnings = &self.shared.config.warnings;
            warnings.compressed(&self.state.class().operation);
        }
        let examined = match (classified.refusal, classified.body_classifier) {
            (None, None) => {
                attempt.accepted();
                let rest = Rest::Untouched(body);
                return Judged::Accepted(self.hand_on(
                    head,
                    Prefix::default(),
                    rest,
                    None,
                    self.state.accept(),
                ));
            }
            (Some(refusal), None) => {
                let reporter = self.reporter(attempt, Some(&refusal));
                Examined::Refused(RefusedResponse::untouched(refusal, body, reporter))
            }
            (by_head, Some(classifier)) => {
                let reporter = self.reporter(attempt, by_head.as_ref());
                let limits = self.shared.config.read_limits;
                let class = self.state.class();
                let deadline = Deadline(self.state.deadline());
                let examined =
                    examine(class, by_head, classifier, body, reporter, limits, deadline);
                // Boxed, so that the future of a response that is not examined stays small.
                match Box::pin(examined).await {
                    Ok(examined) => examined,
                    Err(error) => return Judged::Failed(error),
                }
            }
        };
        match examined {
            Examined::Accepted(prefix, rest, scan) => {
                Judged::Accepted(self.accept(attempt, head, prefix, rest, scan))
            }
            Examined::Refused(mut refused) => {
                // One server of several is overloaded, and a new connection can lead to another one.
                let overloaded = refused.refusal.scope == RefusalScope::Endpoint;
                if let Some(connection) = attempt.connection.take_if(|_| overloaded) {
                    connection.leave();
                }
                refused.reporter.listen_with(|| self.own_gates());
                refused.reporter.report_unspent(&refused.refusal);
                self.warn_of(&refused.reporter);
                Judged::Refused(head, refused)
            }
        }
    }

    /// Returns who reports what a response says. `by_head` is the refusal that its head told.
    fn reporter(&mut self, attempt: &Attempt, by_head: Option<&Refusal>) -> Reporter {
        let ledger = self.shared.config.ledger.as_ref();
        let charged = ledger.and_then(|ledger| {
            let admission = self.slot.get()?.admission_of(ledger)?;
            Some(Listener::Ledger(Arc::clone(ledger), admission))
        });
        let listener = charged.or_else(|| {
            let permit = attempt.permit.as_ref()?;
            let gates = Arc::clone(&self.shared.config.gates);
            Some(Listener::Gates(gates, permit.admission().clone()))
        });
        let mut reporter = Reporter::new(listener, self.waits());
        if let Some(refusal) = by_head {
            reporter.listen_with(|| self.own_gates());
            reporter.report(refusal);
        }
        reporter
    }

    /// Warns of a wait of the server that no ledger hears of.
    fn warn_of(&self, reporter: &Reporter) {
        let config = &self.shared.config;
        if reporter.server_waits() && config.ledger.is_none() {
            config.warnings.no_ledger(&self.state.class().operation);
        }
    }

    /// The layer's own gates, for an attempt that had no permit since no gate was closed before.
    fn own_gates(&self) -> Listener {
        let gates = Arc::clone(&self.shared.config.gates);
        Listener::Gates(gates, untested(self.acquire_request()))
    }

    /// What the layer's own gates are asked for.
    fn acquire_request(&self) -> AcquireRequest {
        acquire_request(
            &*self.shared.classifier,
            &self.request,
            self.state.deadline(),
            self.gate_ticket,
        )
    }

    /// Returns the waits that can follow this attempt.
    fn waits(&mut self) -> Waits {
        let rng = self.rng.get_or_insert_with(|| self.shared.rng());
        self.state.waits(self.shared.config.backoff, rng)
    }

    /// Returns what a retry draws that nobody holds back.
    fn retry(&self) -> Retry {
        let endpoint = endpoint_of(&self.request);
        let principal = self.shared.classifier.principal(&self.request);
        self.shared.config.retry_budget.retry(endpoint, principal)
    }

    /// Returns the response that is handed on. Members of it may be refused.
    fn accept<ResB>(
        &self,
        attempt: &mut Attempt,
        head: response::Parts,
        prefix: Prefix,
        rest: Rest<ResB>,
        mut scan: Scan,
    ) -> Response<PeekBody<ResB>>
    where
        ResB: Body<Data = Bytes>,
        ResB::Error: Into<BoxError>,
    {
        let reporter = &mut scan.reporter;
        if reporter.reason().is_some() || !matches!(rest, Rest::Ended) {
            reporter.listen_with(|| self.own_gates());
        }
        attempt.record_signal(reporter.reason());
        self.warn_of(&scan.reporter);
        let reporter = &scan.reporter;
        if reporter.reason().is_none() {
            // Other calls wait for this response, but not for the end of a long body.
            reporter.report_accepted();
            attempt.accepted();
        }
        self.hand_on(head, prefix, rest, Some(scan), self.state.accept())
    }

    /// Decides what follows an error.
    fn after_failure<ResB>(
        &mut self,
        attempt: Attempt,
        error: BoxError,
        phase: FailurePhase,
    ) -> Result<Wait, CallResult<ResB>>
    where
        ResB: Body<Data = Bytes>,
        ResB::Error: Into<BoxError>,
    {
        if phase != FailurePhase::Body {
            if says::<CredentialsError>(&*error) {
                self.state.take_back_retry();
                attempt.record_end();
                let ending = self.state.after_no_credentials();
                return Err(self.end(ending, error));
            }
            if says::<AcquireError>(&*error) || says::<DeadlineElapsed>(&*error) {
                self.state.take_back_retry();
                attempt.record_end();
                return Err(self.not_admitted(error));
            }
        }
        if says::<NoResponseInTime>(&*error) {
            let ending = self.state.after_no_response();
            attempt.record_signal(self.state.signal());
            attempt.record_end();
            return Err(self.end(ending, error));
        }
        let failure = self.shared.classifier.error(self.state.class(), &*error);
        attempt.record_signal(phase.signal(failure));
        attempt.record_end();
        let retry = self.retry();
        let drawn = self.waits().drawn.max(retry.wait(Instant::now()));
        let decided = self
            .state
            .after_failure(failure, phase, drawn, Instant::now());
        // One or two can be connections that were closed just then.
        if decided.is_ok() && failure == Failure::NotSent && self.state.attempt_count() > 2 {
            let operation = &self.state.class().operation;
            self.shared.config.warnings.not_sent(operation, &*error);
        }
        if decided.is_ok() {
            retry.take(Instant::now());
        }
        decided.map_err(|ending| self.end(ending, error))
    }

    /// Decides what follows a refusal, and keeps it if the request is sent again: then nothing of the attempt is held any
    /// more, its permit least of all.
    async fn after_refusal<ResB>(
        &mut self,
        mut attempt: Attempt,
        head: response::Parts,
        refused: RefusedResponse<ResB>,
    ) -> Result<Wait, CallResult<ResB>>
    where
        ResB: Body<Data = Bytes>,
        ResB::Error: Into<BoxError>,
    {
        let RefusedResponse {
            refusal,
            prefix,
            rest,
            classifier,
            reporter,
        } = refused;
        // The refusal was reported, so the next call at the gate knows it.
        attempt.permit = None;
        attempt.record_signal(Some(&refusal.reason));
        let (held_by, mut waits) = (reporter.held_by(&refusal), reporter.waits());
        let is_held = held_by != HeldBy::Nobody || refusal.server_wait().is_some();
        let retry = (!is_held).then(|| self.retry());
        if let Some(retry) = &retry {
            waits.drawn = waits.drawn.max(retry.wait(Instant::now()));
        }
        let decided = self
            .state
            .after_refusal(&refusal, held_by, waits, Instant::now());
        match decided {
            Ok(wait) => {
                if let Some(retry) = retry {
                    retry.take(Instant::now());
                }
                let max_buffered = self.shared.config.read_limits.max_buffered;
                let deadline = Deadline(self.state.deadline());
                let kept = keep(head, prefix, rest, max_buffered, deadline).await;
                self.kept = kept.map(Box::new);
                attempt.record_end();
                Ok(wait)
            }
            Err(info) => {
                let scan = classifier.map(|classifier| Scan {
                    classifier,
                    reporter,
                });
                Err(Ok(self.hand_on(head, prefix, rest, scan, Some(info))))
            }
        }
    }

    /// Ends a call that a ledger or a gate did not let through in time.
    fn not_admitted<ResB>(&mut self, error: BoxError) -> CallResult<ResB>
    where
        ResB: Body<Data = Bytes>,
        ResB::Error: Into<BoxError>,
    {
        let opens_in = match error.downcast_ref() {
            Some(AcquireError::GateTooLate { wait, .. }) => Some(*wait),
            _ => None,
        };
        let now = Instant::now();
        let ending = self.state.after_not_admitted(opens_in, now);
        self.end(ending, error)
    }

    /// Ends the call with the refusal that was kept, if it counts, else with an error.
    fn end<ResB>(&mut self, ending: Ending, error: BoxError) -> CallResult<ResB>
    where
        ResB: Body<Data = Bytes>,
        ResB::Error: Into<BoxError>,
    {
        match ending.kept_response.zip(self.kept.take()) {
            Some((info, kept)) => {
                let (head, prefix) = *kept;
                Ok(self.hand_on(head, prefix, Rest::Ended, None, Some(info)))
            }
            None => Err(self.state.error(ending.error, error, Instant::now())),
        }
    }

    /// Returns a response to the caller, with the attempts that it took.
    fn hand_on<ResB>(
        &self,
        mut head: response::Parts,
        prefix: Prefix,
        rest: Rest<ResB>,
        scan: Option<Scan>,
        info: Option<RetryInfo>,
    ) -> Response<PeekBody<ResB>>
    where
        ResB: Body<Data = Bytes>,
        ResB::Error: Into<BoxError>,
    {
        let mut tail = Tail {
            streams: self.state.class().streaming,
            ..Tail::default()
        };
        if let (Some(scan), false) = (scan, matches!(rest, Rest::Ended)) {
            let class = self.state.class();
            if class.idempotency != Idempotency::Safe {
                tail.unless_complete = Some((class.operation.clone(), self.state.attempt_count()));
            }
            tail.scan = Some(scan);
        }
        if let Some(info) = info {
            head.extensions.insert(info);
        }
        Response::from_parts(head, PeekBody::new(prefix, rest).with_tail(tail))
    }

    /// Waits before the next attempt, unless a gate or a ledger holds it back.
    async fn wait(&mut self, wait: Wait) {
        let begin = Instant::now();
        tracing::debug!(
            operation = &*self.state.class().operation,
            signal = self.state.signal(),
            attempts = self.state.attempt_count(),
            wait = ?wait.until.saturating_duration_since(begin),
            held_by_gate = wait.held,
            "backing off"
        );
        if !wait.held {
            tokio::time::sleep_until(wait.until).await;
            self.add_pause(begin.elapsed());
        }
    }

    fn add_pause(&mut self, waited: Duration) {
        self.pause = self.pause.saturating_add(waited);
        self.state.add_wait(waited);
    }
}

/// Whether the error, or one of its sources, is of that type: something further in says that the request was not sent.
fn says<E: StdError + 'static>(error: &(dyn StdError + 'static)) -> bool {
    iter::successors(Some(error), |&error| error.source()).any(|error| error.is::<E>())
}
