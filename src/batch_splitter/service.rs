//! The service, and its response future.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tower::BoxError;
use tower::util::Oneshot;
use tower_service::Service;

use super::body::MergedBody;
use super::config::Shared;
use super::drive::{Ending, Job};
use super::format::{Batch, BatchFormat};
use crate::body::ReplayBody;

/// Cuts a batch into parts that a server can take, and makes one answer of theirs. See the [module](super).
#[must_use = "a service does nothing until it is called"]
pub struct BatchSplitter<S, F> {
    inner: S,
    shared: Arc<Shared<F>>,
    always_ready: bool,
}

impl<S, F> BatchSplitter<S, F> {
    pub(super) fn new(inner: S, shared: Arc<Shared<F>>) -> Self {
        Self {
            inner,
            shared,
            always_ready: false,
        }
    }

    /// Says that the service inside is always ready, so that what goes through untouched needs no clone of it: `benches/overhead`,
    /// `stack`.
    #[cfg(feature = "ews")]
    pub(crate) fn inner_is_always_ready(mut self) -> Self {
        self.always_ready = true;
        self
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside, to be changed.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, F> Clone for BatchSplitter<S, F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
            always_ready: self.always_ready,
        }
    }
}

impl<S, F> fmt::Debug for BatchSplitter<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The inner service may hold credentials.
        f.debug_struct("BatchSplitter")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl<S, F, B> Service<Request<ReplayBody>> for BatchSplitter<S, F>
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    F: BatchFormat,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<MergedBody<B>>;
    type Error = BoxError;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // A clone of the inner service is made ready for each part: what an idle clone reserves here would be missing
        // elsewhere.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReplayBody>) -> Self::Future {
        let batch = self.shared.format.batch(&request);
        ResponseFuture(match batch.filter(|batch| batch.members() > 1) {
            None if self.always_ready => Step::Called(self.inner.call(request)),
            None => Step::Untouched(Oneshot::new(self.inner.clone(), request)),
            Some(batch) => {
                let shared = Arc::clone(&self.shared);
                let job = Job::new(self.inner.clone(), shared, batch, request);
                Step::Split(Box::pin(split(job)))
            }
        })
    }
}

async fn split<S, F, B>(mut job: Job<S, F>) -> Result<Response<MergedBody<B>>, BoxError>
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    F: BatchFormat,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let ending = poll_fn(|cx| job.poll_ending(cx)).await;
    let report = job.report.clone();
    let mut answer = match ending {
        Ending::BatchReport(head) => Response::from_parts(*head, MergedBody::merged(job)),
        Ending::PartFailure(answer) => {
            let body = MergedBody::whole(answer.body, answer.trailers);
            Response::from_parts(answer.head, body)
        }
        Ending::Error(error) => return Err(error),
    };
    answer.extensions_mut().insert(report);
    Ok(answer)
}

/// The parts of one batch, or a call that is no batch.
///
/// # Cancellation
///
/// Dropping it drops the parts that are on their way, and the waits. Nothing goes on in the background. Parts that were
/// on their way may have been executed, those before them were; a [`CallTrail`](crate::trail::CallTrail) in the request's
/// extensions tells how far it got.
#[must_use = "futures do nothing unless polled"]
#[pin_project]
pub struct ResponseFuture<S: Service<Request<ReplayBody>>, B>(#[pin] Step<S, B>);

type Splitting<B> = Pin<Box<dyn Future<Output = Result<Response<MergedBody<B>>, BoxError>> + Send>>;

#[pin_project(project = StepProject)]
#[expect(
    clippy::large_enum_variant,
    reason = "what goes through untouched is not to pay for a box"
)]
enum Step<S: Service<Request<ReplayBody>>, B> {
    Untouched(#[pin] Oneshot<S, Request<ReplayBody>>),
    Called(#[pin] S::Future),
    Split(Splitting<B>),
}

impl<S, B> Future for ResponseFuture<S, B>
where
    S: Service<Request<ReplayBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response<MergedBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StepProject::Untouched(calling) => {
                let answer = ready!(calling.poll(cx)).map_err(Into::into)?;
                Poll::Ready(Ok(answer.map(MergedBody::untouched)))
            }
            StepProject::Called(calling) => {
                let answer = ready!(calling.poll(cx)).map_err(Into::into)?;
                Poll::Ready(Ok(answer.map(MergedBody::untouched)))
            }
            StepProject::Split(splitting) => splitting.as_mut().poll(cx),
        }
    }
}

impl<S: Service<Request<ReplayBody>>, B> fmt::Debug for ResponseFuture<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("split", &matches!(self.0, Step::Split(_)))
            .finish()
    }
}
