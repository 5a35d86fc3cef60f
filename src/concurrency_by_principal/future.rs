//! The response future: the permit, then the inner service's readiness, then the call.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Extensions, Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tokio::time::Instant;
use tower::BoxError;
use tower_service::Service;

use super::PermitBody;
use super::followed::Followed;
use crate::errors::DeadlineElapsed;
use crate::extensions::{Deadline, Priority};
use crate::ledger::{Acquire, AcquireRequest, AdmissionSlot, End, Ledger, Permit, Requeue};
use crate::principal::{Charges, Estimate};
use crate::retry::Failure;
use crate::trail::CallTrail;

/// The response future of [`ConcurrencyByPrincipal`](super::ConcurrencyByPrincipal).
#[pin_project(project = ResponseFutureProj)]
#[must_use = "futures do nothing unless they are polled"]
pub struct ResponseFuture<S, ReqB>
where
    S: Service<Request<ReqB>>,
{
    /// The clone of the inner service to call.
    pub(super) inner: S,
    /// None once it was sent.
    pub(super) request: Option<Request<ReqB>>,
    /// The ledger to acquire from. None once it was asked.
    pub(super) ledger: Option<Arc<dyn Ledger>>,
    // Dropped before the permit: the connection is closed, and the time reported, before the next call is admitted.
    #[pin]
    pub(super) step: Step<S::Future>,
    pub(super) followed: Option<Box<Followed>>,
    /// None before it is acquired, and once it was handed on.
    pub(super) permit: Option<Permit>,
    pub(super) release_on_headers: bool,
}

#[pin_project(project = StepProj)]
pub(super) enum Step<F> {
    New(Option<AcquireRequest>),
    Waiting { acquire: Acquire, since: Instant },
    Ready,
    Calling(#[pin] F),
}

/// Makes the request of a call to its ledger.
#[inline]
pub(super) fn ask<B>(
    charges: Charges,
    estimate: Option<Estimate>,
    request: &Request<B>,
) -> AcquireRequest {
    let endpoint = request.uri().authority().cloned();
    let extensions = request.extensions();
    let ask = if extensions.is_empty() {
        AcquireRequest::of_call(charges, endpoint, None, Requeue::new(), Priority::default())
    } else {
        let deadline = extensions.get::<Deadline>().map(|deadline| deadline.0);
        let requeue = extensions.get::<Requeue>().copied().unwrap_or_default();
        let priority = extensions.get::<Priority>().copied().unwrap_or_default();
        AcquireRequest::of_call(charges, endpoint, deadline, requeue, priority)
    };
    match estimate {
        Some(estimate) => ask.with_estimate(estimate),
        None => ask,
    }
}

/// Marks that nothing was sent with the permit yet.
#[inline]
fn unsent(mut permit: Permit) -> Permit {
    permit.set_end(End::NotSent);
    permit
}

/// Fills the slot and the trail of the call, if it has them, with what it was charged.
#[cold]
fn tell(extensions: &Extensions, permit: &Permit, since: Option<Instant>) {
    if let Some(slot) = extensions.get::<AdmissionSlot>() {
        slot.fill(permit);
    }
    if let Some(trail) = CallTrail::of(extensions) {
        let queued = since.map(|since| since.elapsed()).unwrap_or_default();
        trail.record(|attempt| {
            attempt.admission = Some(permit.admission().clone());
            attempt.queued = attempt.queued.saturating_add(queued);
            attempt.waiting_since = None;
        });
    }
}

/// Records that the call waits since then, or that it waited and got no permit.
fn note_wait<ReqB>(request: &Request<ReqB>, since: Instant, refused: bool) {
    if let Some(slot) = request.extensions().get::<AdmissionSlot>() {
        slot.wait();
    }
    if let Some(trail) = CallTrail::of(request.extensions()) {
        trail.record(|attempt| {
            attempt.waiting_since = (!refused).then_some(since);
            if refused {
                attempt.queued = attempt.queued.saturating_add(since.elapsed());
            }
        });
    }
}

impl<S, ReqB, ResB> Future for ResponseFuture<S, ReqB>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    S::Error: Into<BoxError>,
    ResB: Body,
{
    type Output = Result<Response<PermitBody<ResB>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.step.as_mut().project() {
                StepProj::New(asked) => {
                    let asked = this.ledger.take().zip(asked.take());
                    let (Some((ledger, asked)), Some(request)) = (asked, &*this.request) else {
                        return Poll::Pending;
                    };
                    if let Some(elapsed) = DeadlineElapsed::of(asked.deadline().map(Deadline)) {
                        return Poll::Ready(Err(elapsed.into()));
                    }
                    // Without a clock if the permit is there and no deadline was given: `benches/overhead` watches it.
                    match ledger.try_acquire(asked) {
                        Ok(admission) => {
                            let permit = this.permit.insert(unsent(Permit::new(ledger, admission)));
                            let extensions = request.extensions();
                            if !extensions.is_empty() {
                                tell(extensions, permit, None);
                            }
                            ready!(this.call(cx))?;
                        }
                        Err(asked) => {
                            let acquire = ledger.acquire(asked);
                            let since = Instant::now();
                            note_wait(request, since, false);
                            this.step.set(Step::Waiting { acquire, since });
                        }
                    }
                }
                StepProj::Waiting { acquire, since } => {
                    let acquired = ready!(acquire.as_mut().poll(cx));
                    if let (Err(_), Some(request)) = (&acquired, &*this.request) {
                        note_wait(request, *since, true);
                    }
                    let permit = this.permit.insert(unsent(acquired?));
                    if let Some(request) = this.request {
                        tell(request.extensions(), permit, Some(*since));
                    }
                    ready!(this.call(cx))?;
                }
                StepProj::Ready => ready!(this.call(cx))?,
                StepProj::Calling(future) => {
                    return Poll::Ready(match ready!(future.poll(cx)) {
                        Ok(response) => Ok(this.responded(response)),
                        Err(error) => Err(this.failed(error.into())),
                    });
                }
            }
        }
    }
}

impl<S, ReqB> ResponseFutureProj<'_, S, ReqB>
where
    S: Service<Request<ReqB>>,
    S::Error: Into<BoxError>,
{
    /// Calls the inner service once it is ready.
    #[inline]
    fn call(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if let Some(request) = self.request {
            match self.inner.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    // Now, not when the caller drops this future.
                    *self.permit = None;
                    return Poll::Ready(Err(error.into()));
                }
                Poll::Pending => {
                    // Whoever polls at the deadline hears that nothing was sent.
                    let deadline = request.extensions().get::<Deadline>();
                    if let Some(deadline) = deadline.filter(|deadline| deadline.0 <= Instant::now())
                    {
                        *self.permit = None;
                        return Poll::Ready(Err(DeadlineElapsed::at(*deadline).into()));
                    }
                    if let Some(slot) = request.extensions().get::<AdmissionSlot>() {
                        slot.wait();
                    }
                    self.step.set(Step::Ready);
                    return Poll::Pending;
                }
            }
            // It waited for the service, so it begins only now.
            if matches!(&*self.step, Step::Ready) {
                if let Some(slot) = request.extensions().get::<AdmissionSlot>() {
                    slot.resume();
                }
            }
        }
        if let Some(permit) = self.permit {
            // Until a response has come: the server may be at work on it.
            permit.set_end(End::NoResponse);
            if let Some(followed) = self.followed {
                followed.sent(permit);
            }
        }
        // Taken where it is sent: it is not moved in between.
        match self.request.take() {
            Some(request) => self.step.set(Step::Calling(self.inner.call(request))),
            None => return Poll::Pending,
        }
        Poll::Ready(Ok(()))
    }

    /// Hands the permit on to the response's body.
    #[inline]
    fn responded<ResB: Body>(&mut self, response: Response<ResB>) -> Response<PermitBody<ResB>> {
        let mut permit = self.permit.take();
        if let Some(permit) = &mut permit {
            permit.set_responded();
            if self.followed.is_some() {
                Followed::responded(self.followed, permit);
            }
        }
        if *self.release_on_headers {
            if let Some(permit) = permit.take() {
                permit.complete();
            }
        }
        response.map(|body| PermitBody::new(body, permit, self.followed.take()))
    }

    /// Gives the permit back now, not when the caller drops this future.
    fn failed(&mut self, error: BoxError) -> BoxError {
        if Failure::of(&*error) == Failure::NotSent {
            if let Some(permit) = self.permit {
                permit.set_end(End::NotSent);
            }
            if let Some(followed) = self.followed {
                followed.unsent();
            }
        }
        *self.followed = None;
        *self.permit = None;
        error
    }
}

impl<S, ReqB> fmt::Debug for ResponseFuture<S, ReqB>
where
    S: Service<Request<ReqB>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("permit", &self.permit)
            .finish_non_exhaustive()
    }
}
