//! [`Account`]: one account of a pool, with the hook that fetches its credentials.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::HeaderValue;
use tower::BoxError;

use crate::extensions::Caller;

pub(super) type Fetch = Pin<Box<dyn Future<Output = Result<HeaderValue, BoxError>> + Send>>;

type Credentials = Arc<dyn Fn(CredentialsRequest) -> Fetch + Send + Sync>;

/// One account of a pool.
///
/// ```
/// use http::HeaderValue;
/// use tower_ews::account_pool::Account;
///
/// # async fn token_of(account: &str, fresh: bool) -> Result<String, tower::BoxError> { Ok(account.into()) }
/// let account = Account::new("svc1@contoso.com").credentials(async |request| {
///     // A token that the server has refused is not taken from the cache again.
///     let fresh = request.rejected().is_some();
///     let token = token_of(request.caller().name(), fresh).await?;
///     Ok(HeaderValue::try_from(format!("Bearer {token}"))?)
/// });
/// # let _ = account;
/// ```
#[derive(Clone)]
#[must_use = "an account does nothing until it is given to a pool"]
pub struct Account {
    caller: Caller,
    credentials: Option<Credentials>,
}

impl Account {
    /// Creates an account without credentials: the request keeps those that it has, or a layer further in puts them on by the
    /// [`Caller`] of the request.
    pub fn new(name: &str) -> Self {
        Self {
            caller: Caller::new(name),
            credentials: None,
        }
    }

    /// Asks `fetch` for the `Authorization` of each attempt, after all waits, just before it is sent. It replaces a header that is
    /// there, and is marked as [sensitive](HeaderValue::set_sensitive).
    ///
    /// `fetch` is called once for each attempt, so it should keep tokens that are still good; the permit of the attempt is held
    /// meanwhile. After an HTTP 401 it is called once more, with the value that was [rejected](CredentialsRequest::rejected). An
    /// error leaves the account out, and the attempt moves to another one. A hook that is not done by the call's deadline is
    /// dropped.
    pub fn credentials<F, Fut>(mut self, fetch: F) -> Self
    where
        F: Fn(CredentialsRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<HeaderValue, BoxError>> + Send + 'static,
    {
        self.credentials = Some(Arc::new(move |request| Box::pin(fetch(request))));
        self
    }

    /// Sets an `Authorization` that never changes: a password or a key.
    pub fn authorization(self, value: HeaderValue) -> Self {
        self.credentials(move |_| std::future::ready(Ok(value.clone())))
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Begins to fetch the credentials, if it has any.
    pub(super) fn fetch(&self, rejected: Option<HeaderValue>) -> Option<Fetch> {
        let request = CredentialsRequest {
            caller: self.caller.clone(),
            rejected,
        };
        self.credentials.as_ref().map(|fetch| fetch(request))
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("caller", &self.caller)
            .field("credentials", &self.credentials.is_some())
            .finish()
    }
}

/// What the hook of an [`Account`] is asked.
///
/// ```
/// use tower_ews::account_pool::CredentialsRequest;
///
/// fn may_be_cached(request: &CredentialsRequest) -> bool {
///     request.rejected().is_none()
/// }
/// ```
#[derive(Clone, Debug)]
pub struct CredentialsRequest {
    caller: Caller,
    rejected: Option<HeaderValue>,
}

impl CredentialsRequest {
    /// Returns the account.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Returns the value that the server has just refused with HTTP 401. None for the first request of an attempt.
    pub fn rejected(&self) -> Option<&HeaderValue> {
        self.rejected.as_ref()
    }
}
