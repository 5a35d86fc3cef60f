//! [`NoAccount`]: no account of a pool can make a call, and why each is left out.

use std::fmt;
use std::time::Duration;

use tower::BoxError;

use crate::extensions::Caller;
use crate::seconds::Seconds;

/// No account of a pool can make a call. The call was not sent.
///
/// Accounts that are locked out or have no room are waited for. This error says that there is nothing to wait for: each account
/// was refused by the server, or has no credentials, and none is asked again yet.
///
/// ```
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_ews::account_pool::{Account, AccountPoolLayer, LeftOutReason, NoAccount};
/// use tower_ews::extensions::Caller;
/// use tower_ews::principal::Principal;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let client = service_fn(async |_: Request<()>| {
///     Ok::<_, std::convert::Infallible>(Response::new(String::new()))
/// });
/// let by_key = |request: &Request<()>| {
///     request.extensions().get::<Caller>().map(|caller| Principal::new(caller.name()))
/// };
/// let pool = AccountPoolLayer::in_flight(4, by_key)
///     .account(Account::new("key1").credentials(async |_| Err("the vault is sealed".into())))
///     .layer(client);
///
/// let error = pool.oneshot(Request::new(())).await.unwrap_err();
/// let error: &NoAccount = error.downcast_ref().unwrap();
/// assert_eq!(error.left_out()[0].caller().name(), "key1");
/// assert_eq!(*error.left_out()[0].reason(), LeftOutReason::NoCredentials);
/// # });
/// ```
#[derive(Debug, thiserror::Error)]
#[error("no account of the pool can make the call: {}", list(left_out))]
pub struct NoAccount {
    left_out: Box<[LeftOut]>,
    /// Why the last of them has no credentials.
    source: Option<BoxError>,
}

impl NoAccount {
    pub(crate) fn new(left_out: impl Into<Box<[LeftOut]>>, source: Option<BoxError>) -> Self {
        let left_out = left_out.into();
        Self { left_out, source }
    }

    /// Returns the accounts, and why each is left out.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }
}

fn list(left_out: &[LeftOut]) -> String {
    let texts: Vec<String> = left_out.iter().map(LeftOut::to_string).collect();
    texts.join(", ")
}

/// An account that a pool leaves out, why, and for how long still.
///
/// ```
/// use tower_ews::account_pool::{LeftOut, LeftOutReason, NoAccount};
///
/// /// Who has to be told which password is wrong.
/// fn wrong_passwords(error: &NoAccount) -> impl Iterator<Item = &str> {
///     let is_wrong = |left_out: &&LeftOut| *left_out.reason() == LeftOutReason::Refused;
///     error.left_out().iter().filter(is_wrong).map(|left_out| left_out.caller().name())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct LeftOut {
    caller: Caller,
    reason: LeftOutReason,
    again_in: Duration,
}

impl LeftOut {
    pub(crate) fn new(caller: Caller, reason: LeftOutReason, again_in: Duration) -> Self {
        Self {
            caller,
            reason,
            again_in,
        }
    }

    /// Returns the account.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Returns why it is left out.
    pub fn reason(&self) -> &LeftOutReason {
        &self.reason
    }

    /// Returns in what time one call asks whether the account works again.
    pub fn again_in(&self) -> Duration {
        self.again_in
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, reason) = (self.caller.name(), self.reason);
        let again_in = Seconds(self.again_in);
        write!(f, "{name} ({reason}, asked again in {again_in})")
    }
}

/// Why a pool leaves an account out.
///
/// ```
/// use tower_ews::account_pool::LeftOutReason;
///
/// assert_eq!(LeftOutReason::Disabled.to_string(), "disabled");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeftOutReason {
    /// The server refuses its password or token, fresh ones included.
    Refused,
    /// The server says that its password has expired or must be changed.
    PasswordExpired,
    /// The server says that it is locked (HTTP 456).
    Locked,
    /// The server says that it is disabled or suspended.
    Disabled,
    /// Its credentials could not be fetched.
    NoCredentials,
}

impl fmt::Display for LeftOutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "credentials refused",
            Self::PasswordExpired => "password expired",
            Self::Locked => "locked",
            Self::Disabled => "disabled",
            Self::NoCredentials => "no credentials",
        })
    }
}
