//! What one writes by hand for a limit by key: a map of semaphores, and a guard in the response body. Twice:
//!
//! - [`ByHand`] as such layers are written: the call is an async block in a box.
//! - [`Tuned`] as far as it can be taken: a future of its own, with no allocation for a permit that is there.
//!
//! Both look a known key up without allocating, and never forget one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use dashmap::DashMap;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tower::{BoxError, Service, ServiceExt};

use super::bare::tenant;

/// A semaphore for each key.
#[derive(Clone)]
struct Semaphores {
    by_key: Arc<DashMap<String, Arc<Semaphore>>>,
    limit: usize,
}

impl Semaphores {
    fn new(limit: usize) -> Self {
        let by_key = Arc::default();
        Self { by_key, limit }
    }

    fn get(&self, key: &str) -> Arc<Semaphore> {
        if let Some(known) = self.by_key.get(key) {
            return Arc::clone(&known);
        }
        let new = || Arc::new(Semaphore::new(self.limit));
        let entry = self.by_key.entry(key.to_owned());
        Arc::clone(&entry.or_insert_with(new))
    }
}

#[derive(Clone)]
pub(super) struct ByHand<S> {
    inner: S,
    semaphores: Semaphores,
}

impl<S> ByHand<S> {
    pub(super) fn new(inner: S, limit: usize) -> Self {
        let semaphores = Semaphores::new(limit);
        Self { inner, semaphores }
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for ByHand<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    ReqB: Send + 'static,
{
    type Response = Response<GuardBody<ResB>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let semaphore = self.semaphores.get(tenant(&request).unwrap_or_default());
        let mut inner = self.inner.clone();
        Box::pin(async move {
            let permit = Some(semaphore.acquire_owned().await?);
            let inner = inner.ready().await.map_err(Into::into)?;
            let response = inner.call(request).await.map_err(Into::into)?;
            Ok(response.map(|inner| GuardBody { inner, permit }))
        })
    }
}

#[derive(Clone)]
pub(super) struct Tuned<S> {
    inner: S,
    semaphores: Semaphores,
}

impl<S> Tuned<S> {
    pub(super) fn new(inner: S, limit: usize) -> Self {
        let semaphores = Semaphores::new(limit);
        Self { inner, semaphores }
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Tuned<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = Response<GuardBody<ResB>>;
    type Error = BoxError;
    type Future = TunedFuture<S, ReqB>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let semaphore = self.semaphores.get(tenant(&request).unwrap_or_default());
        let (step, permit) = match Arc::clone(&semaphore).try_acquire_owned() {
            Ok(permit) => (Step::Ready, Some(permit)),
            Err(_) => (Step::Waiting(Box::pin(semaphore.acquire_owned())), None),
        };
        TunedFuture {
            call: Some((self.inner.clone(), request)),
            permit,
            step,
        }
    }
}

type Acquire = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

#[pin_project]
pub(super) struct TunedFuture<S: Service<Request<B>>, B> {
    call: Option<(S, Request<B>)>,
    permit: Option<OwnedSemaphorePermit>,
    #[pin]
    step: Step<S::Future>,
}

#[pin_project(project = StepProj)]
enum Step<F> {
    Waiting(Acquire),
    Ready,
    Calling(#[pin] F),
}

impl<S, ReqB, ResB> Future for TunedFuture<S, ReqB>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response<GuardBody<ResB>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.step.as_mut().project() {
                StepProj::Waiting(acquire) => {
                    *this.permit = Some(ready!(acquire.as_mut().poll(cx))?);
                    this.step.set(Step::Ready);
                }
                StepProj::Ready => {
                    if let Some((inner, _)) = this.call {
                        ready!(inner.poll_ready(cx)).map_err(Into::into)?;
                    }
                    let (mut inner, request) = this.call.take().expect("called once");
                    this.step.set(Step::Calling(inner.call(request)));
                }
                StepProj::Calling(future) => {
                    let response = ready!(future.poll(cx)).map_err(Into::into)?;
                    let permit = this.permit.take();
                    let response = response.map(|inner| GuardBody { inner, permit });
                    return Poll::Ready(Ok(response));
                }
            }
        }
    }
}

#[pin_project]
pub(super) struct GuardBody<B> {
    #[pin]
    inner: B,
    permit: Option<OwnedSemaphorePermit>,
}

impl<B: Body> Body for GuardBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if frame.is_none() {
            *this.permit = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
