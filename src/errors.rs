//! Errors that say what became of a call. The layers that return them re-export them.

mod no_account;

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;
use tower::BoxError;

pub use self::no_account::{LeftOut, LeftOutReason, NoAccount};
use crate::extensions::{Caller, Deadline};
use crate::seconds::Seconds;

/// An error of [`ServerBusyBackoff`](crate::server_busy_backoff::ServerBusyBackoff) itself. Other errors are those of the
/// inner service, boxed.
///
/// ```
/// use tower_ews::server_busy_backoff::BackoffError;
///
/// fn must_check_before_retrying(error: &tower::BoxError) -> bool {
///     matches!(
///         error.downcast_ref(),
///         Some(BackoffError::OutcomeUnknown { .. })
///     )
/// }
///
/// assert!(!must_check_before_retrying(&"some other error".into()));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackoffError {
    /// The request may have been executed, but no complete response came, and a second execution could do harm.
    ///
    /// Also the error of a response body that breaks off, if the operation is not safe.
    #[error(
        "outcome unknown: no complete response to {operation} came (attempt {attempts}), and the server may have \
         executed it: check before sending it again"
    )]
    OutcomeUnknown {
        /// The operation that was sent.
        operation: Box<str>,
        /// The number of attempts, the last one included.
        attempts: u32,
        /// The error of the last attempt.
        source: BoxError,
    },
    /// The deadline of the call passed before the server sent a response that could be handed on. The call has changed
    /// nothing on the server.
    #[error(
        "no response to {operation} before its deadline, after {attempts} attempts: \
         allow more time, or see the source for the cause"
    )]
    DeadlinePassed {
        /// The operation.
        operation: Box<str>,
        /// The number of attempts.
        attempts: u32,
        /// The error of the last attempt.
        source: BoxError,
    },
    /// No attempt got a complete response, and another one would hardly get one. The call has changed nothing on the
    /// server.
    #[error(
        "no response to {operation} in {attempts} attempts: the server or the way to it fails, see the source for how"
    )]
    RetriesExhausted {
        /// The operation.
        operation: Box<str>,
        /// The number of attempts.
        attempts: u32,
        /// The error of the last attempt.
        source: BoxError,
    },
    /// Nothing was sent. The server had asked for a pause that is longer than the call may wait
    /// ([`AcquireError`](crate::ledger::AcquireError)), or the deadline had passed before the call was made
    /// ([`DeadlineElapsed`]).
    #[error(
        "{operation} was not sent{}: see the source for the cause",
        closed_for(*at, *closed_until)
    )]
    NotSent {
        /// The operation.
        operation: Box<str>,
        /// When the call ended.
        at: Instant,
        /// When the gate opens that held the call back, if that is known.
        closed_until: Option<Instant>,
        /// What held the call back.
        source: BoxError,
    },
}

/// The part of an error text that says how long a gate stays closed.
fn closed_for(at: Instant, until: Option<Instant>) -> String {
    until.map_or_else(String::new, |until| {
        let wait = Seconds(until.saturating_duration_since(at));
        format!(", since the server asks to wait {wait}")
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
#[error("not sent: {}: allow more time", too_late(*late))]
pub struct DeadlineElapsed {
    late: Duration,
}

/// When the deadline passed: before the call was made, or while it waited for something else than its turn, such as credentials.
fn too_late(late: Duration) -> String {
    match late.is_zero() {
        true => "the deadline passed while the call waited to be sent".to_owned(),
        false => format!(
            "the deadline had passed {} before the call was made",
            Seconds(late)
        ),
    }
}

impl DeadlineElapsed {
    /// Returns the error of a call whose deadline has passed. Without a deadline it does not read the clock.
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

    /// Returns the error of a call whose deadline passes now, or has passed.
    pub(crate) fn at(deadline: Deadline) -> Self {
        let late = Instant::now().saturating_duration_since(deadline.0);
        Self { late }
    }

    /// Returns how late the call was made. Zero if the deadline passed while it waited to be sent.
    pub fn late(&self) -> Duration {
        self.late
    }
}

/// An attempt was in flight when the deadline of its call passed.
#[derive(Debug, thiserror::Error)]
#[error("no response came before the deadline of the call")]
pub(crate) struct NoResponseInTime;

/// An attempt took longer than one may.
#[derive(Debug, thiserror::Error)]
#[error("{} within {}, so the attempt was given up", progress(*status), Seconds(*timeout))]
pub(crate) struct AttemptTimedOut {
    pub(crate) timeout: Duration,
    /// The status of the response, if it had begun.
    pub(crate) status: Option<StatusCode>,
}

fn progress(status: Option<StatusCode>) -> String {
    match status {
        None => String::from("no response came"),
        Some(status) => format!(
            "a response (HTTP {}) began and did not end",
            status.as_u16()
        ),
    }
}

/// Nothing more came of a response that had begun.
#[derive(Debug, thiserror::Error)]
#[error("the response stalled: no data came for {}", Seconds(*.0))]
pub(crate) struct Stalled(pub(crate) Duration);

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
#[error("the credentials of {} could not be fetched, so this attempt was not sent", caller.name())]
pub struct CredentialsError {
    caller: Caller,
    source: BoxError,
}

impl CredentialsError {
    /// Creates the error of a layer that puts on credentials: they could not be fetched because of `source`.
    pub fn new(caller: Caller, source: impl Into<BoxError>) -> Self {
        let source = source.into();
        Self { caller, source }
    }

    /// Returns the account whose credentials they are.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

/// The journal of a job cannot be written, so that a call was not sent.
///
/// ```
/// use tower_ews::job::JournalError;
///
/// fn is_disk_full(error: &JournalError) -> bool {
///     error.kind() == std::io::ErrorKind::StorageFull
/// }
/// # let _ = is_disk_full;
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[error("the journal cannot be written, so the call was not sent: {0}")]
pub struct JournalError(Arc<std::io::Error>);

impl JournalError {
    pub(crate) fn new(error: std::io::Error) -> Self {
        Self(Arc::new(error))
    }

    /// Returns what kind of error the writer gave. [`AlreadyExists`](std::io::ErrorKind::AlreadyExists): another call has the key.
    pub fn kind(&self) -> std::io::ErrorKind {
        self.0.kind()
    }
}

/// Whom a server refuses access.
///
/// ```
/// use tower_ews::server_busy_backoff::AccessScope;
///
/// assert_ne!(AccessScope::Caller, AccessScope::Credential);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessScope {
    /// Everybody who asks for this mailbox, as far as one can tell. Others are asked for.
    Mailbox(Box<str>),
    /// The account, the program (its application id or `User-Agent`) or the tenant: three mailboxes in a row were refused.
    Caller,
    /// A user name and password, or a token.
    Credential,
}

/// A server refuses access, whatever is asked for. It is in the extensions of the response that said so, and is the error of
/// later calls that are not sent because of it.
///
/// ```
/// use http::{Request, Response, StatusCode};
/// use tower::{Layer, Service, ServiceExt};
/// use tower_ews::body::ReplayBody;
/// use tower_ews::server_busy_backoff::{AccessDenied, AccessScope, ServerBusyBackoffLayer};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let server = tower::service_fn(async |_: Request<ReplayBody>| {
///     let mut response = Response::new(String::new());
///     *response.status_mut() = StatusCode::FORBIDDEN;
///     Ok::<_, std::convert::Infallible>(response)
/// });
/// let mut ews = ServerBusyBackoffLayer::ews().layer(server);
/// let request = || {
///     Request::post("https://mail.contoso.com/EWS/Exchange.asmx").body(ReplayBody::from(
///         r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
///              <GetFolder xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"/>
///            </s:Body></s:Envelope>"#,
///     ))
/// };
/// let first = ews.ready().await.unwrap().call(request().unwrap()).await.unwrap();
/// assert!(first.extensions().get::<AccessDenied>().is_some());
/// // This one is not sent.
/// let error = ews.ready().await.unwrap().call(request().unwrap()).await.unwrap_err();
/// let denied: &AccessDenied = error.downcast_ref().unwrap();
/// assert_eq!(denied.status(), 403);
/// assert!(denied.to_string().contains("an administrator"));
/// # });
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("access denied (HTTP {}) {}", status.as_u16(), advice(scope, *again_in))]
pub struct AccessDenied {
    status: StatusCode,
    scope: AccessScope,
    again_in: Duration,
}

/// What can be done about it. Exchange Online: message centre MC1015893 and MC1191578, `Set-OrganizationConfig`.
fn advice(scope: &AccessScope, again_in: Duration) -> String {
    let what = match scope {
        AccessScope::Mailbox(mailbox) => {
            let whose = match &**mailbox {
                "" => String::from("to the mailbox"),
                mailbox => format!("to the mailbox {mailbox}"),
            };
            format!(
                "{whose}: an administrator can look at its licence (kiosk and frontline licences have no EWS) and at EwsEnabled of \
                 Set-CASMailbox"
            )
        }
        AccessScope::Caller => String::from(
            "to every mailbox that was tried: until EWS ends in Exchange Online on 1 April 2027, an administrator can set \
             EwsEnabled, EwsAllowedAppIDs and EwsAllowList of Set-OrganizationConfig, which takes up to a day",
        ),
        AccessScope::Credential => {
            String::from("with these credentials: new ones are tried at once")
        }
    };
    match again_in.is_zero() {
        true => what,
        false => format!("{what}. Nothing like it is sent for {}", Seconds(again_in)),
    }
}

impl AccessDenied {
    pub(crate) fn new(status: StatusCode, scope: AccessScope, again_in: Duration) -> Self {
        Self {
            status,
            scope,
            again_in,
        }
    }

    /// Returns the status of the response: 403, or 401 for credentials.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns whom it is about.
    pub fn scope(&self) -> &AccessScope {
        &self.scope
    }

    /// Returns how long the layer sends nothing like it. Zero if it goes on to send.
    pub fn again_in(&self) -> Duration {
        self.again_in
    }
}

/// A body ended, but what it holds is incomplete.
#[derive(Debug, thiserror::Error)]
#[error("the response is incomplete")]
pub(crate) struct CutShort;

/// A body is compressed in a way that its request did not ask for, and that is not read here.
#[derive(Debug, thiserror::Error)]
#[error(
    "the response is compressed in a way that was not asked for and cannot be read: put a layer that decompresses it \
     around the client"
)]
pub(crate) struct UnknownCoding;

/// Describes an error and its sources in one line.
pub(crate) fn describe(error: &(dyn StdError + 'static)) -> Box<str> {
    const MAX_LEN: usize = 1000;
    let mut text = error.to_string();
    let mut next: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        // Many errors repeat their source.
        if !text.contains(&more) {
            // Writing to a string does not fail.
            let _ = write!(text, ": {more}");
        }
        if text.len() > MAX_LEN {
            break;
        }
        next = source.source();
    }
    if text.len() > MAX_LEN {
        let end = (0..=MAX_LEN).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_for_people() {
        let at = Instant::now();
        let not_sent = |closed_until| {
            BackoffError::NotSent {
                operation: "CreateItem".into(),
                at,
                closed_until,
                source: "closed".into(),
            }
            .to_string()
        };
        let cause = "see the source for the cause";
        assert_eq!(not_sent(None), format!("CreateItem was not sent: {cause}"));
        assert_eq!(
            not_sent(Some(at + Duration::from_nanos(2_400_000_123))),
            format!("CreateItem was not sent, since the server asks to wait 2.4 s: {cause}")
        );
        let late = Duration::from_nanos(2_400_000_123);
        let elapsed = DeadlineElapsed { late }.to_string();
        assert!(elapsed.contains("passed 2.4 s before"), "{elapsed}");
    }
}
