//! [`JournalLayer`]: notes the calls of a job when they are sent.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Request;
use pin_project::pin_project;
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use super::journal::{Journal, Mark};
use crate::errors::JournalError;

/// Applies [`JournalService`] to a client. Made by [`Journal::layer`].
///
/// ```
/// use tower::Layer;
/// use tower_ews::job::Journal;
///
/// let client = tower::service_fn(async |_: http::Request<String>| {
///     Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
/// });
/// let journal = Journal::new(Vec::new());
/// let client = journal.layer().layer(client);
/// # let _ = client;
/// ```
#[derive(Clone, Debug)]
#[must_use = "layers do nothing until they are applied to a service"]
pub struct JournalLayer(());

impl Journal {
    /// Returns the layer that notes calls when they are sent. It belongs beneath all layers that wait or send again: next to the
    /// client. Without it a call counts as begun as soon as the job offers it, so that more is in doubt after an interruption.
    pub fn layer(&self) -> JournalLayer {
        self.add_layer();
        JournalLayer(())
    }
}

impl<S> Layer<S> for JournalLayer {
    type Service = JournalService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        JournalService { inner }
    }
}

/// Writes a call of a [`Job`](super::Job) to its journal before it is sent for the first time. Other calls pass untouched.
///
/// A call that cannot be written is not sent, and ends with a [`JournalError`].
///
/// ```
/// use tower_ews::job::{Journal, JournalService};
///
/// let client = tower::service_fn(async |_: http::Request<String>| {
///     Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
/// });
/// let client = JournalService::new(client, &Journal::new(Vec::new()));
/// # let _ = client;
/// ```
#[derive(Clone, Debug)]
#[must_use = "services do nothing until they are called"]
pub struct JournalService<S> {
    inner: S,
}

impl<S> JournalService<S> {
    /// Creates a new service around `inner` for the calls of `journal`, as [`Journal::layer`] does.
    pub fn new(inner: S, journal: &Journal) -> Self {
        journal.add_layer();
        Self { inner }
    }

    inner_accessors!();
}

impl<S, B> Service<Request<B>> for JournalService<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = JournalFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mark: Option<&Mark> = request.extensions().get();
        JournalFuture(match mark.map(Mark::begin) {
            Some(Err(error)) => Step::NotWritten(Some(error)),
            Some(Ok(())) | None => Step::Sent(self.inner.call(request)),
        })
    }
}

/// The response future of [`JournalService`].
#[pin_project]
#[must_use = "futures do nothing unless they are polled"]
#[derive(Debug)]
pub struct JournalFuture<F>(#[pin] Step<F>);

#[pin_project(project = StepProject)]
#[derive(Debug)]
enum Step<F> {
    NotWritten(Option<JournalError>),
    Sent(#[pin] F),
}

impl<F, T, E> Future for JournalFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StepProject::Sent(call) => call.poll(cx).map_err(Into::into),
            StepProject::NotWritten(error) => match error.take() {
                Some(error) => Poll::Ready(Err(error.into())),
                None => Poll::Pending,
            },
        }
    }
}
