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
    is_reserved: bool,
}

impl Account {
    /// Creates an account without credentials: the request keeps those that it has, or a layer further in puts them on by the
    /// [`Caller`] of the request.
    pub fn new(name: &str) -> Self {
        Self {
            caller: Caller::new(name),
            credentials: None,
            is_reserved: false,
        }
    }

    /// Asks `fetch` for the `Authorization` of each attempt, after all waits, just before it is sent. It replaces a header that is
    /// there, and is marked as [sensitive](HeaderValue::set_sensitive).
    ///
    /// `fetch` is called once for each attempt, so it should keep tokens that are still good; the permit of the attempt is held
    /// meanwhile. After an HTTP 401 it is called once more, with the value that was [rejected](CredentialsRequest::rejected): once
    /// for all attempts that were refused with that value, which wait for what it returns. An error leaves the account out, and the attempt moves to another one. A hook that is not done by the call's deadline is
    /// dropped; one that is not done within a minute has no credentials.
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

    /// Keeps the account for calls that name it as their [`Caller`]. Default: it also makes those that name nobody.
    ///
    /// So the accounts that listen to mailboxes are not those that process what has happened in them:
    ///
    /// ```
    /// # #[cfg(feature = "simulator")]
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), tower::BoxError> {
    /// use futures_util::StreamExt;
    /// use http::{HeaderValue, Request};
    /// use tower::ServiceExt;
    /// use tower_ews::EwsStack;
    /// use tower_ews::account_pool::Account;
    /// use tower_ews::body::ReplayBody;
    /// use tower_ews::extensions::Caller;
    /// use tower_ews::policy::ThrottlingPolicy;
    /// use tower_ews::simulator::{Exchange, Payer};
    /// use tower_ews::streaming::{Notification, Subscriptions};
    ///
    /// // Stands for an HTTP client. The passwords are "listens" and "works".
    /// let exchange = Exchange::builder()
    ///     .account("listener@contoso.com", "listens")
    ///     .account("worker@contoso.com", "works")
    ///     .build();
    /// let listener = HeaderValue::from_static("Basic bGlzdGVuZXJAY29udG9zby5jb206bGlzdGVucw==");
    /// let worker = HeaderValue::from_static("Basic d29ya2VyQGNvbnRvc28uY29tOndvcmtz");
    /// let ews = EwsStack::new(ThrottlingPolicy::exchange_online())
    ///     .accounts([
    ///         Account::new("listener@contoso.com").authorization(listener).reserved(),
    ///         Account::new("worker@contoso.com").authorization(worker),
    ///     ])
    ///     .service(exchange.clone());
    ///
    /// let endpoint: http::Uri = "https://mail.contoso.com/EWS/Exchange.asmx".parse()?;
    /// let mut notifications = Subscriptions::new(endpoint.clone())
    ///     .caller(Caller::new("listener@contoso.com"))
    ///     .listen(ews.clone(), ["amy@contoso.com"]);
    /// while let Some(notification) = notifications.next().await {
    ///     match notification {
    ///         Notification::Gap { mailbox, .. } => drop(exchange.deliver(&mailbox, "news")),
    ///         Notification::Item { event, .. } => {
    ///             let get_item = format!(
    ///                 "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
    ///                  xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types' \
    ///                  xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages'><s:Body><m:GetItem>\
    ///                  <m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape>\
    ///                  <m:ItemIds><t:ItemId Id='{}'/></m:ItemIds></m:GetItem></s:Body></s:Envelope>",
    ///                 event.id
    ///             );
    ///             let request = Request::post(endpoint.clone()).header("content-type", "text/xml");
    ///             let response = ews.clone().oneshot(request.body(ReplayBody::from(get_item))?).await?;
    ///             assert!(response.status().is_success());
    ///             break;
    ///         }
    ///         other => panic!("{other:?}"),
    ///     }
    /// }
    /// let calls = exchange.calls();
    /// let payer = |operation: &str| {
    ///     let call = calls.iter().find(|call| call.operation == operation);
    ///     call.map(|call| call.payers.clone())
    /// };
    /// let account = |name: &str| Some(vec![Payer::Account(name.to_owned())]);
    /// assert_eq!(payer("GetStreamingEvents"), account("listener@contoso.com"));
    /// assert_eq!(payer("GetItem"), account("worker@contoso.com"));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "simulator"))]
    /// # fn main() {}
    /// ```
    pub fn reserved(mut self) -> Self {
        self.is_reserved = true;
        self
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    pub(super) fn is_reserved(&self) -> bool {
        self.is_reserved
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
