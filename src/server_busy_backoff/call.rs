//! [`run`]: makes the attempts of one call, has [`CallState`] decide what follows each, and waits.

mod after;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, response};
use http_body::Body;
use tokio::time::Instant;
use tower::BoxError;
use tower_service::Service;

use super::attempt::Attempt;
use super::attempt_time::AttemptTime;
use super::call_request::CallRequest;
use super::classify::{ClassifiedResponse, Classify, Idempotency, Refusal, RefusalScope};
use super::config::Shared;
use super::decide::{CallState, Ending, FailurePhase, Wait, Waits};
use super::examine::{Broken, Examined, RefusedResponse, examine};
use super::peek::{PeekBody, Prefix, Rest, Scan, Tail};
use super::report::{Reporter, report_rate_limit};
use crate::errors::UnknownCoding;
use crate::ledger::AcquireError;
use crate::retry::RetryInfo;
use crate::seconds::Seconds;
use crate::trail::{CallTrail, PartOfBatch};

/// What a call ends with.
pub(super) type CallResult<ResB> = Result<Response<PeekBody<ResB>>, BoxError>;

/// One call: what its attempts need, and what they have left behind.
struct Call<S, C, B> {
    inner: S,
    request: CallRequest<C, B>,
    state: CallState,
    trail: Option<CallTrail>,
    /// The wait before the next attempt.
    pause: Duration,
    /// Created when the first wait is drawn.
    rng: Option<fastrand::Rng>,
    /// The last refusal.
    kept: Option<Box<(response::Parts, Prefix)>>,
}

/// What a response is after its beginning was examined.
enum Judged<ResB: Body> {
    Accepted(Response<PeekBody<ResB>>),
    Refused(response::Parts, RefusedResponse<ResB>),
    /// The body broke off, or took too long.
    Failed(BoxError, FailurePhase),
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
    let mut call = Call::new(inner, request, shared);
    // What the block captures is not moved once more, as the arguments of an async function are.
    async move {
        if let Err(elapsed) = call.request.check_deadline() {
            return call.not_admitted(elapsed.into());
        }
        call.request.check_access()?;
        loop {
            let mut attempt = match call.begin_attempt().await {
                Ok(attempt) => attempt,
                Err(error) => return call.not_admitted(error.into()),
            };
            let request = call.request_of(&attempt);
            let (inner, holder) = (&mut call.inner, &mut call.request);
            let sent = attempt.send(inner, request, || holder.check_access());
            let next = match sent.await {
                Err((error, phase)) => call.after_failure(attempt, error, phase),
                Ok(response) => match call.judge(response, &mut attempt).await {
                    Judged::Accepted(response) => return Ok(response),
                    Judged::Failed(error, phase) => call.after_failure(attempt, error, phase),
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

impl<S, C, B> Call<S, C, B>
where
    C: Classify<B>,
    B: Clone,
{
    fn new(inner: S, request: Request<B>, shared: Arc<Shared<C>>) -> Self {
        let class = shared.classifier.request(&request);
        let is_part = request.extensions().get::<PartOfBatch>().is_some();
        let request = CallRequest::new(request, shared);
        Self {
            state: CallState::new(class, is_part, request.deadline()),
            trail: CallTrail::of(request.get().extensions()).cloned(),
            pause: Duration::ZERO,
            rng: None,
            kept: None,
            inner,
            request,
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
        if self.request.config().gates.are_used() {
            // Boxed, so that the future of a call that meets no gate stays small.
            let passed = Box::pin(self.request.pass_gates(first.clone())).await?;
            let waited = permit.insert(passed).1;
            if self.state.attempt_count() > 0 {
                self.add_pause(waited);
            }
        }

        self.state.begin_attempt();
        let trail = first.or_else(|| self.trail.as_ref().map(CallTrail::begin_attempt));
        if self.state.attempt_count() > 1 {
            self.request.begin_retry();
        }
        let time = AttemptTime::begin(
            self.state.class(),
            self.request.config().attempt_timeout,
            self.state.deadline(),
            self.request.slot().clone(),
        );
        let attempt = Attempt::new(trail, permit.map(|(permit, _)| permit), time);
        let pause = std::mem::take(&mut self.pause);
        attempt.record(|attempt| {
            attempt.backed_off = attempt.backed_off.saturating_add(pause);
            // A layer further out may know of an execution, too.
            attempt.resend |= self.state.maybe_repeated();
        });
        Ok(attempt)
    }

    /// Returns the request that this attempt sends.
    fn request_of(&self, attempt: &Attempt) -> Request<B> {
        match self.state.attempt_count() {
            ..=1 => self.request.first(attempt.trail()),
            count => {
                let held_until = self.state.held_until();
                self.request.again(attempt.trail(), held_until, count - 1)
            }
        }
    }

    /// Classifies a response by its head and, if need be, by the beginning of its body.
    async fn judge<ResB>(&mut self, response: Response<ResB>, attempt: &mut Attempt) -> Judged<ResB>
    where
        ResB: Body<Data = Bytes>,
        ResB::Error: Into<BoxError>,
    {
        let (mut head, body) = response.into_parts();
        let classified = self.classify(&mut head, attempt);
        if classified.is_lost && !self.state.is_part() {
            return Judged::Failed(UnknownCoding.into(), FailurePhase::Coding);
        }
        let (by_head, classifier) = match (classified.refusal, classified.body_classifier) {
            (None, None) => {
                attempt.accepted();
                let (prefix, rest) = (Prefix::default(), Rest::Untouched(body));
                let info = self.state.accept();
                return Judged::Accepted(self.hand_on(head, prefix, rest, None, info));
            }
            (Some(refusal), None) => {
                let reporter = self.reporter(attempt, Some(&refusal));
                let refused = RefusedResponse::untouched(refusal, body, reporter);
                return self.report_refusal(head, refused, attempt);
            }
            (by_head, Some(classifier)) => (by_head, classifier),
        };
        let reporter = self.reporter(attempt, by_head.as_ref());
        let limits = self.request.config().read_limits;
        let class = self.state.class();
        let end = attempt.time().end();
        let examined = examine(class, by_head, classifier, body, reporter, limits, end);
        // Boxed, so that the future of a response that is not examined stays small.
        match Box::pin(examined).await {
            Ok(Examined::Accepted(prefix, rest, scan)) => {
                Judged::Accepted(self.accept(attempt, head, prefix, rest, scan))
            }
            Ok(Examined::Refused(refused)) => self.report_refusal(head, refused, attempt),
            Err(Broken::Off(error)) => Judged::Failed(error, FailurePhase::Body),
            Err(Broken::TooSlow) => {
                attempt.leave_connection();
                let (error, phase) = attempt.time().over(Some(head.status));
                Judged::Failed(error, phase)
            }
        }
    }

    /// Classifies a response by its head, and notes what that says beside.
    fn classify(&self, head: &mut response::Parts, attempt: &Attempt) -> ClassifiedResponse {
        attempt.record(|attempt| {
            attempt.status = Some(head.status);
            attempt.responded.get_or_insert_with(Instant::now);
        });
        self.request.note_access(head, attempt.time().sent());
        let config = self.request.config();
        if let Some(ledger) = &config.ledger {
            report_rate_limit(ledger, self.request.slot(), &head.headers);
        }
        let class = self.state.class();
        let classified = match self.request.credentials_changed(head) {
            Some(refusal) => refusal.into(),
            None => self.request.classifier().response(class, head),
        };
        if classified.compressed {
            config.warnings.compressed(&class.operation);
        }
        classified
    }

    /// Tells whoever listens that the response is a refusal.
    fn report_refusal<ResB: Body>(
        &self,
        head: response::Parts,
        mut refused: RefusedResponse<ResB>,
        attempt: &mut Attempt,
    ) -> Judged<ResB> {
        // One server of several is overloaded, and a new connection can lead to another one.
        if refused.refusal.scope == RefusalScope::Endpoint {
            attempt.leave_connection();
        }
        refused.reporter.listen_with(|| self.request.own_gates());
        refused.reporter.report_unspent(&refused.refusal);
        self.warn_of(&refused.reporter);
        Judged::Refused(head, refused)
    }

    /// Returns who reports what a response says. `by_head` is the refusal that its head told.
    fn reporter(&mut self, attempt: &Attempt, by_head: Option<&Refusal>) -> Reporter {
        let listener = self.request.listener(attempt.permit());
        let mut reporter = Reporter::new(listener, self.waits());
        if let Some(refusal) = by_head {
            reporter.listen_with(|| self.request.own_gates());
            reporter.report(refusal);
        }
        reporter
    }

    /// Warns of a wait of the server that no ledger hears of.
    fn warn_of(&self, reporter: &Reporter) {
        let config = &self.request.config();
        if reporter.server_waits() && config.ledger.is_none() {
            config.warnings.no_ledger(&self.state.class().operation);
        }
    }

    /// Returns the waits that can follow this attempt.
    fn waits(&mut self) -> Waits {
        let rng = self.rng.get_or_insert_with(|| self.request.rng());
        self.state
            .waits(self.request.config().backoff, rng, Instant::now())
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
            reporter.listen_with(|| self.request.own_gates());
        }
        attempt.record_signal(reporter.reason());
        self.warn_of(&scan.reporter);
        let reporter = &scan.reporter;
        if reporter.reason().is_none() {
            // Other calls wait for this response, but not for the end of a long body.
            reporter.report_accepted();
            attempt.accepted();
            if head.status.is_success() {
                self.request.note_granted(self.state.class());
            }
        }
        self.hand_on(head, prefix, rest, Some(scan), self.state.accept())
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
            wait = %Seconds(wait.until.saturating_duration_since(begin)),
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
