//! Errors that say what became of a call; the layers that make them hand them out.

use std::time::Duration;

use tokio::time::Instant;
use tower::BoxError;

use crate::extensions::{Caller, Deadline};

/// An error of [`ServerBusyBackoff`](crate::server_busy_backoff::ServerBusyBackoff) itself. Other errors are the inner service's own, boxed.
///
/// ```
/// use tower_ews::server_busy_backoff::BackoffError;
///
/// fn must_look_before_resending(error: &tower::BoxError) -> bool {
///     matches!(
///         error.downcast_ref(),
///         Some(BackoffError::OutcomeUnknown { .. })
///     )
/// }
///
/// assert!(!must_look_before_resending(&"some other error".into()));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackoffError {
    /// The request was sent, no (whole) answer came back, and sending it again could do its work twice.
    ///
    /// Also the error of a response body that breaks off, when the operation is not idempotent.
    #[error(
        "outcome unknown: {operation} was sent, but its answer was lost (attempt {attempts}): \
         the server may have executed it; look before sending it again"
    )]
    OutcomeUnknown {
        /// What was sent.
        operation: Box<str>,
        /// How often, the last one included.
        attempts: u32,
        /// What happened to the connection.
        source: BoxError,
    },
    /// The call's deadline came before the server gave an answer that could be handed over. The call has changed
    /// nothing on the server.
    #[error(
        "no answer to {operation} before its deadline, after {attempts} attempts: \
         allow a longer one, or see the source for what stands in the way"
    )]
    DeadlinePassed {
        /// What was to be done.
        operation: Box<str>,
        /// How often it was tried.
        attempts: u32,
        /// How the last attempt failed.
        source: BoxError,
    },
    /// Nothing was sent. The server had asked for a pause that is longer than the call may wait
    /// ([`AcquireError`](crate::ledger::AcquireError)), or the call's deadline had passed before the call was made
    /// ([`DeadlineElapsed`]).
    #[error(
        "nothing of {operation} was sent{}: see the source for what held it back",
        closed_for(*at, *closed_until)
    )]
    NotSent {
        /// What was to be done.
        operation: Box<str>,
        /// When the call ended.
        at: Instant,
        /// When the gate opens that held the call back, if that is known.
        closed_until: Option<Instant>,
        /// What held the call back.
        source: BoxError,
    },
}

/// The part of a text that says how long a gate stays closed.
fn closed_for(at: Instant, until: Option<Instant>) -> String {
    until.map_or_else(String::new, |until| {
        let time = until.saturating_duration_since(at);
        format!(", the server asks to wait {time:?} more")
    })
}

/// The deadline of a call had passed before anything was sent.
///
/// ```
/// use std::time::Duration;
/// use tower::{Layer, ServiceExt};
/// use tower_ews::concurrency_by_principal::{ConcurrencyByPrincipalLayer, DeadlineElapsed};
/// use tower_ews::extensions::Deadline;
/// use tower_ews::principal::Principal;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let client = tower::service_fn(|_: http::Request<()>| async {
///     Ok::<_, tower::BoxError>(http::Response::new(String::new()))
/// });
/// let who = |_: &http::Request<()>| Principal::new("contoso");
/// let service = ConcurrencyByPrincipalLayer::in_flight(4, who).layer(client);
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(Deadline::within(Duration::from_secs(1)));
/// tokio::time::sleep(Duration::from_secs(3)).await;
/// let error = service.oneshot(request).await.unwrap_err();
/// let elapsed: &DeadlineElapsed = error.downcast_ref().unwrap();
/// assert_eq!(elapsed.late(), Duration::from_secs(2));
/// # });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the call's deadline had passed {late:?} before it was made, nothing was sent: allow a longer one"
)]
pub struct DeadlineElapsed {
    late: Duration,
}

impl DeadlineElapsed {
    /// Returns the error of a call that has this deadline, if that has passed. Without a deadline it takes no clock.
    // On the hot path: watched by `benches/overhead`, `concurrency_by_principal/1`.
    #[inline]
    pub(crate) fn of(deadline: Option<Deadline>) -> Option<Self> {
        deadline.and_then(Self::by_clock)
    }

    #[inline(never)]
    fn by_clock(deadline: Deadline) -> Option<Self> {
        let late = Instant::now().saturating_duration_since(deadline.0);
        (!late.is_zero()).then_some(Self { late })
    }

    /// Returns how late the call was made.
    pub fn late(&self) -> Duration {
        self.late
    }
}

/// The credentials of an attempt could not be fetched. The attempt was not sent.
///
/// ```
/// use http::{Request, Response};
/// use tower::ServiceExt;
/// use tower_ews::EwsStack;
/// use tower_ews::body::ReplayBody;
/// use tower_ews::policy::ThrottlingPolicy;
/// use tower_ews::stack::CredentialsError;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// # let client = tower::service_fn(async |_: Request<ReplayBody>| {
/// #     Ok::<_, std::convert::Infallible>(Response::new(String::new()))
/// # });
/// let ews = EwsStack::new(ThrottlingPolicy::exchange_online())
///     .credentials(async |_| Err("the secret has expired".into()))
///     .service(client);
/// let error = ews.oneshot(Request::new(String::from("<s:Envelope/>"))).await.unwrap_err();
/// assert!(error.is::<CredentialsError>());
/// # });
/// ```
#[derive(Debug, thiserror::Error)]
#[error("the credentials of {} could not be fetched, nothing was sent", caller.name())]
pub struct CredentialsError {
    caller: Caller,
    source: BoxError,
}

impl CredentialsError {
    pub(crate) fn new(caller: Caller, source: BoxError) -> Self {
        Self { caller, source }
    }

    /// Returns the account whose credentials they are.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

/// The body ended, but what it holds has no end.
#[derive(Debug, thiserror::Error)]
#[error("the answer is cut short")]
pub(crate) struct CutShort;
