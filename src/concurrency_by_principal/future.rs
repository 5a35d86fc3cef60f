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
use crate::ledger::{Acquire, Deadline, Draw, Ledger, Permit};
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
    pub(super) permit: Option<Permit>,
    pub(super) release_on_headers: bool,
    #[pin]
    pub(super) step: Step<S::Future>,
}

#[pin_project(project = StepProj)]
pub(super) enum Step<F> {
    New(Option<(Arc<dyn Ledger>, Charges)>),
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
    if let Some(trail) = CallTrail::of(request.extensions()) {
        let queued = since.map(|since| since.elapsed()).unwrap_or_default();
        trail.record(|attempt| {
            attempt.receipt = Some(permit.receipt().clone());
            attempt.queued = queued;
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
                StepProj::New(start) => {
                    let (Some((ledger, charges)), Some((_, request))) = (start.take(), &this.call)
                    else {
                        return Poll::Pending;
                    };
                    let draw = draw(request, charges);
                    // Without allocation and clock if the permit is there: `benches/overhead` watches it.
                    match Arc::clone(&ledger).try_acquire(draw) {
                        Ok(permit) => {
                            note(request, this.permit.insert(permit), None);
                            this.step.set(Step::Ready);
                        }
                        Err(draw) => this.step.set(Step::Waiting {
                            acquire: ledger.acquire(draw),
                            since: Instant::now(),
                        }),
                    }
                }
                StepProj::Waiting { acquire, since } => {
                    let permit = ready!(acquire.as_mut().poll(cx))?;
                    if let Some((_, request)) = this.call {
                        note(request, &permit, Some(*since));
                    }
                    *this.permit = Some(permit);
                    this.step.set(Step::Ready);
                }
                StepProj::Ready => {
                    if let Some((inner, _)) = this.call {
                        ready!(inner.poll_ready(cx)).map_err(Into::into)?;
                    }
                    let Some((mut inner, request)) = this.call.take() else {
                        return Poll::Pending;
                    };
                    let calling = inner.call(request);
                    this.step.set(Step::Calling(calling));
                }
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
