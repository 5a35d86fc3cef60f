//! [`LocateMailboxes`]: which server has which mailbox, by the caller's word or by Autodiscover.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body::Body;
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use crate::body::ReplayBody;
use crate::body::client::{Client, client, read_all};
use crate::extensions::Deadline;
use crate::soap::autodiscover::{UserSettings, get_user_settings, user_settings};

/// Where a mailbox is. Mailboxes of one location can be in one group of subscriptions.
///
/// ```
/// use tower_ews::streaming::Location;
///
/// let location = Location::new("CO1PR06").endpoint("https://mail.contoso.com/EWS/Exchange.asmx".parse()?);
/// assert_ne!(location, Location::new("CO1PR06"));
/// # Ok::<(), http::uri::InvalidUri>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Location {
    pub(super) grouping: Box<str>,
    pub(super) endpoint: Option<Uri>,
}

impl Location {
    /// Creates a location that is named by Autodiscover's `GroupingInformation`, or by any other text that is the same for
    /// mailboxes of the same server.
    pub fn new(grouping: impl Into<Box<str>>) -> Self {
        Self {
            grouping: grouping.into(),
            endpoint: None,
        }
    }

    /// Sets where calls of these mailboxes go: Autodiscover's `ExternalEwsUrl`. By default to the endpoint of the
    /// [`Subscriptions`](super::Subscriptions).
    pub fn endpoint(mut self, endpoint: Uri) -> Self {
        self.endpoint = Some(endpoint);
        self
    }
}

/// The future of [`LocateMailboxes::locate`].
pub type Locations = Pin<Box<dyn Future<Output = Vec<Result<Location, BoxError>>> + Send>>;

/// Finds out where mailboxes are: [`Autodiscover`], or a closure from an address to its [`Location`].
///
/// ```
/// use tower_ews::streaming::{Location, LocateMailboxes};
///
/// // Two sites, by the domain of the address.
/// let by_site = |mailbox: &str| match mailbox.ends_with("@berlin.contoso.com") {
///     true => Location::new("berlin"),
///     false => Location::new("main"),
/// };
/// let _: &dyn LocateMailboxes = &by_site;
/// ```
pub trait LocateMailboxes: Send + Sync {
    /// Returns where each of `mailboxes` is, in their order. `fresh`: what is remembered of them turned out to be wrong.
    ///
    /// An error is tried again, like a subscription, and so is a future that is not done after three minutes. It is called with
    /// up to 90 mailboxes at once.
    fn locate(&self, mailboxes: &[Arc<str>], fresh: bool) -> Locations;
}

impl<F> LocateMailboxes for F
where
    F: Fn(&str) -> Location + Send + Sync,
{
    fn locate(&self, mailboxes: &[Arc<str>], _: bool) -> Locations {
        let found = mailboxes.iter().map(|mailbox| Ok(self(mailbox)));
        Box::pin(ready(found.collect()))
    }
}

/// How long what Autodiscover says is believed.
const BELIEVED: Duration = Duration::from_secs(24 * 3600);
/// How long a call to it may take.
const CALL_TIME: Duration = Duration::from_secs(120);
/// The settings of 90 users are some 60 KB.
const MAX_RESPONSE: usize = 4 * 1024 * 1024;

/// What was found, and when.
type Known = HashMap<Arc<str>, (Instant, Location)>;

/// Asks the Autodiscover service (SOAP, `GetUserSettings`) for `GroupingInformation` and `ExternalEwsUrl`, and remembers them for
/// a day, or until a subscription turns out to be with another server.
///
/// ```
/// use http::{Request, Response};
/// use tower_ews::body::ReplayBody;
/// use tower_ews::streaming::Autodiscover;
///
/// # let client = tower::service_fn(async |_: Request<ReplayBody>| {
/// #     Ok::<_, std::convert::Infallible>(Response::new(String::new()))
/// # });
/// let autodiscover = Autodiscover::new(
///     client,
///     "https://autodiscover-s.outlook.com/autodiscover/autodiscover.svc".parse()?,
/// );
/// # let _ = autodiscover;
/// # Ok::<(), http::uri::InvalidUri>(())
/// ```
pub struct Autodiscover {
    client: Mutex<Client>,
    endpoint: Uri,
    headers: HeaderMap,
    known: Arc<Mutex<Known>>,
}

impl Autodiscover {
    /// Creates one that calls the Autodiscover service at `endpoint` through `service`: the stack, or any client. Redirections
    /// to other servers are not followed.
    pub fn new<S, B>(service: S, endpoint: Uri) -> Self
    where
        S: Service<Request<ReplayBody>, Response = http::Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        Self {
            client: Mutex::new(client(service)),
            endpoint,
            headers: HeaderMap::new(),
            known: Arc::default(),
        }
    }

    /// Sets a header of each call, `Authorization` for example.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Asks for these, all of which are unknown.
    fn ask(&self, mailboxes: Vec<Arc<str>>) -> Locations {
        let users: Vec<&str> = mailboxes.iter().map(|mailbox| &**mailbox).collect();
        let body = get_user_settings(&self.endpoint.to_string(), &users);
        let mut request = Request::new(ReplayBody::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        *request.headers_mut() = self.headers.clone();
        let content = HeaderValue::from_static("text/xml; charset=utf-8");
        request.headers_mut().insert("content-type", content);
        let deadline = Deadline::within(CALL_TIME);
        request.extensions_mut().insert(deadline);
        let client = self.client.lock().clone();
        let scheme = self.endpoint.scheme().cloned();
        let known = Arc::clone(&self.known);
        Box::pin(async move {
            let users = match deadline.bound(call(client, request)).await {
                Some(Ok(users)) => users,
                Some(Err(error)) => return failed(&mailboxes, &error.to_string()),
                None => return failed(&mailboxes, "no response in time"),
            };
            if users.len() != mailboxes.len() {
                return failed(&mailboxes, "the response is not about these mailboxes");
            }
            let now = Instant::now();
            let mut located = Vec::with_capacity(mailboxes.len());
            for (mailbox, user) in mailboxes.into_iter().zip(users) {
                let location = location(user, scheme.as_ref());
                if let Ok(location) = &location {
                    known.lock().insert(mailbox, (now, location.clone()));
                }
                located.push(location);
            }
            located
        })
    }
}

impl LocateMailboxes for Autodiscover {
    fn locate(&self, mailboxes: &[Arc<str>], fresh: bool) -> Locations {
        let mut known = self.known.lock();
        let now = Instant::now();
        let remembered = |mailbox: &Arc<str>| {
            let (at, location) = known.get(mailbox)?;
            (!fresh && now.saturating_duration_since(*at) < BELIEVED).then(|| location.clone())
        };
        let found: Vec<Option<Location>> = mailboxes.iter().map(remembered).collect();
        let unknown = mailboxes.iter().zip(&found);
        let unknown = unknown.filter(|(_, found)| found.is_none());
        let unknown: Vec<Arc<str>> = unknown.map(|(mailbox, _)| Arc::clone(mailbox)).collect();
        unknown
            .iter()
            .for_each(|mailbox| drop(known.remove(mailbox)));
        drop(known);
        let asked = match unknown.is_empty() {
            true => Box::pin(ready(Vec::new())),
            false => self.ask(unknown),
        };
        Box::pin(async move {
            let mut asked = asked.await.into_iter();
            let missing = || Err("the mailbox was not asked for".into());
            let each = found.into_iter().map(|found| match found {
                Some(location) => Ok(location),
                None => asked.next().unwrap_or_else(missing),
            });
            each.collect()
        })
    }
}

impl fmt::Debug for Autodiscover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Autodiscover")
            .field("endpoint", &self.endpoint)
            .field("known", &self.known.lock().len())
            .finish_non_exhaustive()
    }
}

fn failed(mailboxes: &[Arc<str>], text: &str) -> Vec<Result<Location, BoxError>> {
    let each = mailboxes.iter().map(|_| Err(text.into()));
    each.collect()
}

async fn call(client: Client, request: Request<ReplayBody>) -> Result<Vec<UserSettings>, BoxError> {
    let response = client.oneshot(request).await?;
    let status = response.status();
    let body = read_all(response.into_body(), MAX_RESPONSE).await?;
    match user_settings(&body) {
        Some(users) if status.is_success() && !users.is_empty() => Ok(users),
        _ => Err(
            format!("Autodiscover responds with HTTP status {status} and no user settings").into(),
        ),
    }
}

/// A URL of another scheme is not believed: it would send credentials in the open.
fn location(user: UserSettings, scheme: Option<&http::uri::Scheme>) -> Result<Location, BoxError> {
    let Some(grouping) = user.grouping else {
        return Err(format!(
            "Autodiscover says {} and no GroupingInformation",
            user.error
        )
        .into());
    };
    let endpoint = user.ews_url.as_deref().map(str::parse::<Uri>).transpose()?;
    let endpoint = endpoint.filter(|endpoint| endpoint.scheme() == scheme);
    Ok(Location { grouping, endpoint })
}
