//! The response future: the permit, then the inner service's readiness, then the call.

use std::fmt;
use std::future::Future;
use std::mem;
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
use crate::ledger::{Acquire, Deadline, Draw, Permit};
use crate::trail::CallTrail;

/// The response future of [`ConcurrencyByPrincipal`](super::ConcurrencyByPrincipal).
#[pin_project]
#[must_use = "futures do nothing unless they are polled"]
pub struct ResponseFuture<S, ReqB>
where
    S: Service<Request<ReqB>>,
{
    /// The clone to call, and what to call it with.
    pub(super) call: Option<(S, Request<ReqB>)>,
    /// Vacant at first. None once it was handed on.
    pub(super) permit: Option<Permit>,
    pub(super) release_on_headers: bool,
    #[pin]
    pub(super) step: Step<S::Future>,
}

#[pin_project(project = StepProj)]
pub(super) enum Step<F> {
    New(Draw),
    Waiting { acquire: Acquire, since: Instant },
    Ready,
    Calling(#[pin] F),
}

/// What a request's extensions tell the ledger.
#[inline]
pub(super) fn deadline_and_place(extensions: &Extensions) -> (Option<Instant>, Option<u64>) {
    if extensions.is_empty() {
        return (None, None);
    }
    let deadline = extensions.get::<Deadline>().map(|deadline| deadline.0);
    let place = CallTrail::of(extensions).and_then(CallTrail::place);
    (deadline, place)
}

/// Takes down what the call was charged for.
fn note<ReqB>(request: &Request<ReqB>, permit: &Permit, since: Option<Instant>) {
    if request.extensions().is_empty() {
        return;
    }
    if let Some(trail) = CallTrail::of(request.extensions()) {
        let queued = since.map(|since| since.elapsed()).unwrap_or_default();
        trail.record_charge(permit.receipt(), queued);
    }
}

/// Takes down that the call waits since then, or has waited in vain.
fn note_wait<ReqB>(request: &Request<ReqB>, since: Instant, in_vain: bool) {
    let trail = CallTrail::of(request.extensions()).filter(|trail| trail.is_wanted());
    if let Some(trail) = trail {
        trail.record(|attempt| {
            attempt.waiting_since = (!in_vain).then_some(since);
            if in_vain {
                attempt.queued = since.elapsed();
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
                StepProj::New(draw) => {
                    let (Some(permit), Some((_, request))) = (&mut *this.permit, &this.call) else {
                        return Poll::Pending;
                    };
                    // Without allocation and clock if the permit is there: `benches/overhead` watches it.
                    if permit.fill(draw) {
                        note(request, permit, None);
                        ready!(call(this.call, this.step.as_mut(), cx))?;
                    } else {
                        let acquire = Arc::clone(permit.ledger()).acquire(mem::take(draw));
                        let since = Instant::now();
                        note_wait(request, since, false);
                        this.step.set(Step::Waiting { acquire, since });
                    }
                }
                StepProj::Waiting { acquire, since } => {
                    let acquired = ready!(acquire.as_mut().poll(cx));
                    if let (Err(_), Some((_, request))) = (&acquired, &*this.call) {
                        note_wait(request, *since, true);
                    }
                    let permit = acquired?;
                    if let Some((_, request)) = this.call {
                        note(request, &permit, Some(*since));
                    }
                    *this.permit = Some(permit);
                    ready!(call(this.call, this.step.as_mut(), cx))?;
                }
                StepProj::Ready => ready!(call(this.call, this.step.as_mut(), cx))?,
                StepProj::Calling(future) => {
                    let response = match ready!(future.poll(cx)) {
                        Ok(response) => response,
                        Err(error) => {
                            // Now, not when the caller drops this future.
                            *this.permit = None;
                            return Poll::Ready(Err(error.into()));
                        }
                    };
                    let mut permit = this.permit.take();
                    if *this.release_on_headers {
                        if let Some(permit) = permit.take() {
                            permit.complete();
                        }
                    }
                    return Poll::Ready(Ok(response.map(|body| PermitBody::new(body, permit))));
                }
            }
        }
    }
}

/// Calls the inner service once it is ready.
#[inline]
fn call<S, ReqB>(
    call: &mut Option<(S, Request<ReqB>)>,
    mut step: Pin<&mut Step<S::Future>>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), BoxError>>
where
    S: Service<Request<ReqB>>,
    S::Error: Into<BoxError>,
{
    if let Some((inner, _)) = call {
        match inner.poll_ready(cx) {
            Poll::Ready(ready) => ready.map_err(Into::into)?,
            Poll::Pending => {
                step.set(Step::Ready);
                return Poll::Pending;
            }
        }
    }
    let Some((mut inner, request)) = call.take() else {
        return Poll::Pending;
    };
    step.set(Step::Calling(inner.call(request)));
    Poll::Ready(Ok(()))
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
