//! The response future: the permit, then the inner service's readiness, then the call.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tokio::time::Instant;
use tower::BoxError;
use tower_service::Service;

use super::PermitBody;
use crate::ledger::{Acquire, Deadline, Draw, Permit};
use crate::principal::Charges;
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
    New(Option<Charges>),
    Waiting { acquire: Acquire, since: Instant },
    Ready,
    Calling(#[pin] F),
}

/// What the call asks the ledger for.
#[inline]
fn draw<ReqB>(request: &Request<ReqB>, charges: Charges) -> Draw {
    let mut draw = Draw::new(charges);
    draw.endpoint = request.uri().authority().cloned();
    let extensions = request.extensions();
    if !extensions.is_empty() {
        draw.deadline = extensions.get::<Deadline>().map(|deadline| deadline.0);
        draw.place = CallTrail::of(extensions).and_then(CallTrail::place);
    }
    draw
}

/// Takes down what the call was charged for.
fn note<ReqB>(request: &Request<ReqB>, permit: &Permit, since: Option<Instant>) {
    if request.extensions().is_empty() {
        return;
    }
    if let Some(trail) = CallTrail::of(request.extensions()) {
        let queued = since.map(|since| since.elapsed()).unwrap_or_default();
        let receipt = permit.receipt();
        trail.record(|attempt| {
            attempt.receipt = receipt;
            attempt.queued = queued;
            attempt.waiting_since = None;
        });
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
                StepProj::New(charges) => {
                    let (Some(permit), Some((_, request)), Some(charges)) =
                        (&mut *this.permit, &this.call, charges.take())
                    else {
                        return Poll::Pending;
                    };
                    // Without allocation and clock if the permit is there: `benches/overhead` watches it.
                    match permit.fill(draw(request, charges)) {
                        Ok(()) => {
                            note(request, permit, None);
                            ready!(call(this.call, this.step.as_mut(), cx))?;
                        }
                        Err(draw) => {
                            let acquire = Arc::clone(permit.ledger()).acquire(draw);
                            let since = Instant::now();
                            note_wait(request, since, false);
                            this.step.set(Step::Waiting { acquire, since });
                        }
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
