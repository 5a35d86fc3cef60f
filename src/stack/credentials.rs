//! [`Authorize`]: what is done to each attempt, next to the client: credentials, and compression.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body;
use pin_project::pin_project;
use tokio::time::{Instant, timeout_at};
use tower::BoxError;
use tower_service::Service;

use super::client::EwsClient;
use crate::body::ReplayBody;
use crate::body::inflate_body::InflateBody;
use crate::errors::{CredentialsError, DeadlineElapsed};
use crate::extensions::{Caller, Deadline};
use crate::ledger::AdmissionSlot;
use crate::principal::EwsCharges;
use crate::retry::{CredentialMemory, CredentialsChanged};

type Fetch = Pin<Box<dyn Future<Output = Result<HeaderValue, BoxError>> + Send>>;

/// What [`EwsStack::credentials`](super::EwsStack::credentials) was given.
#[derive(Clone)]
pub(super) struct Credentials(Arc<dyn Fn(Caller) -> Fetch + Send + Sync>);

/// Whose credentials are put on, and what became of them.
struct Authority {
    credentials: Credentials,
    /// Say whose call it is.
    charges: EwsCharges,
    memory: CredentialMemory,
}

impl Credentials {
    pub(super) fn new<F, Fut>(fetch: F) -> Self
    where
        F: Fn(Caller) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<HeaderValue, BoxError>> + Send + 'static,
    {
        Self(Arc::new(move |caller| Box::pin(fetch(caller))))
    }
}

/// The service below all layers. It stands inside of every wait, so the credentials that it puts on are never older than the
/// attempt. It asks for compressed responses and decompresses them, so that the layers can read them, unless the caller has
/// set an `Accept-Encoding`.
#[derive(Clone)]
pub(super) struct Authorize<S> {
    inner: S,
    authority: Option<Arc<Authority>>,
}

impl<S> Authorize<S> {
    pub(super) fn new(inner: S, credentials: Option<(Credentials, EwsCharges)>) -> Self {
        let authority = credentials.map(|(credentials, charges)| {
            Arc::new(Authority {
                credentials,
                charges,
                memory: CredentialMemory::default(),
            })
        });
        Self { inner, authority }
    }

    pub(super) fn get_ref(&self) -> &S {
        &self.inner
    }

    pub(super) fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    pub(super) fn into_inner(self) -> S {
        self.inner
    }
}

impl<S> fmt::Debug for Authorize<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The inner service may hold credentials.
        f.debug_struct("Authorize")
            .field("credentials", &self.authority.is_some())
            .finish_non_exhaustive()
    }
}

impl<S: EwsClient> Service<Request<ReplayBody>> for Authorize<S> {
    type Response = Response<InflateBody<S::ResponseBody>>;
    type Error = BoxError;
    type Future = AuthorizeFuture<S::Future, S::ResponseBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<ReplayBody>) -> Self::Future {
        let headers = request.headers_mut();
        let inflates = !headers.contains_key(ACCEPT_ENCODING);
        if inflates {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
        }
        let Some(authority) = &self.authority else {
            let step = Step::Called(self.inner.call(request));
            return AuthorizeFuture { step, inflates };
        };
        let caller = authority.charges.caller_or(request.extensions().get());
        let authorizing = Authorizing {
            caller: caller.clone(),
            authority: Arc::clone(authority),
            deadline: request.extensions().get().copied(),
            slot: request.extensions().get().cloned(),
        };
        // The one that is ready makes the call.
        let clone = self.inner.clone();
        let ready = mem::replace(&mut self.inner, clone);
        let step = Step::Authorizing(Box::pin(authorizing.send(ready, request)));
        AuthorizeFuture { step, inflates }
    }
}

/// One attempt that credentials are put on.
struct Authorizing {
    caller: Caller,
    authority: Arc<Authority>,
    deadline: Option<Deadline>,
    slot: Option<AdmissionSlot>,
}

impl Authorizing {
    async fn send<S: EwsClient>(
        self,
        mut ready: S,
        mut request: Request<ReplayBody>,
    ) -> Result<Response<S::ResponseBody>, BoxError> {
        let fetched = self.fetch().await?;
        let mut value =
            fetched.map_err(|source| CredentialsError::new(self.caller.clone(), source))?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value.clone());

        let memory = &self.authority.memory;
        let credential = memory.of(&request);
        let sent = Instant::now();
        if let Some(credential) = credential {
            memory.check(credential, sent)?;
        }
        let mut response = ready.call(request).await.map_err(Into::into)?;
        match (response.status(), credential) {
            (StatusCode::UNAUTHORIZED, _) => {
                let denied = memory.refused(credential, sent, Instant::now());
                response.extensions_mut().insert(denied);
                // A token can be out of date before its time.
                if let Ok(Ok(now)) = self.fetch().await {
                    if now != value {
                        response.extensions_mut().insert(CredentialsChanged);
                    }
                }
            }
            (status, Some(credential)) if status.is_success() => memory.granted(credential),
            _ => {}
        }
        Ok(response)
    }

    /// Asks for credentials. That takes no time of the attempt.
    async fn fetch(&self) -> Result<Result<HeaderValue, BoxError>, DeadlineElapsed> {
        if let Some(slot) = &self.slot {
            slot.wait();
        }
        let value = (self.authority.credentials.0)(self.caller.clone());
        let value = in_time(self.deadline, value).await?;
        if let Some(slot) = &self.slot {
            slot.resume();
        }
        Ok(value)
    }
}

/// Waits for `value` until the call's deadline. Nothing is sent after that.
async fn in_time<T>(
    deadline: Option<Deadline>,
    value: impl Future<Output = T>,
) -> Result<T, DeadlineElapsed> {
    let Some(deadline) = deadline else {
        return Ok(value.await);
    };
    let fetched = timeout_at(deadline.0, value).await;
    match fetched {
        Ok(value) if deadline.0 >= Instant::now() => Ok(value),
        _ => Err(DeadlineElapsed::at(deadline)),
    }
}

/// The response future of [`Authorize`].
#[pin_project]
pub(super) struct AuthorizeFuture<F, B> {
    #[pin]
    step: Step<F, B>,
    /// Whether the response is decompressed.
    inflates: bool,
}

type Sending<B> = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

#[pin_project(project = StepProj)]
enum Step<F, B> {
    Called(#[pin] F),
    Authorizing(Sending<B>),
}

impl<F, B, E> Future for AuthorizeFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<InflateBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match this.step.project() {
            StepProj::Called(call) => ready!(call.poll(cx)).map_err(Into::into)?,
            StepProj::Authorizing(call) => ready!(call.as_mut().poll(cx))?,
        };
        let (mut head, body) = response.into_parts();
        let body = match *this.inflates {
            true => InflateBody::inflated(&mut head, body),
            false => InflateBody::plain(body),
        };
        Poll::Ready(Ok(Response::from_parts(head, body)))
    }
}
