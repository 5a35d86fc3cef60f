//! Sets `X-AnchorMailbox`, so that the front end routes a call to the right server at once.
//!
//! [`AnchorHeaders`] sets `X-AnchorMailbox` to the mailbox that a call is for and, for public folders,
//! `X-PublicFolderMailbox`. Without it a call that impersonates takes twice as long and fails with 500 or 503 at times. The
//! mailbox comes from the first of these that has one:
//!
//! 1. the header itself, where the caller has set it: it is left as it is, in whatever form;
//! 2. an [`AnchorMailbox`] in the request's extensions;
//! 3. the finder, a [`FindAnchor`]. [`EwsAnchor`] looks at the impersonation header, then for an explicit mailbox in
//!    the body; a closure does it for any other API;
//! 4. the configured [default](AnchorHeadersLayer::default_mailbox).
//!
//! ```
//! use http::{HeaderMap, Request};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_ews::anchor_headers::{AnchorHeadersLayer, EwsAnchor};
//! use tower_ews::body::ReplayBody;
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! // Stands for an HTTP client. It returns the headers that it was sent.
//! let client = service_fn(|request: Request<ReplayBody>| async move {
//!     Ok::<HeaderMap, tower::BoxError>(request.headers().clone())
//! });
//!
//! let service = ServiceBuilder::new()
//!     .layer(AnchorHeadersLayer::new(EwsAnchor::new()))
//!     .service(client);
//!
//! let body = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
//!     xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types">
//!   <s:Header><t:ExchangeImpersonation><t:ConnectingSID>
//!     <t:PrimarySmtpAddress>amy@contoso.com</t:PrimarySmtpAddress>
//!   </t:ConnectingSID></t:ExchangeImpersonation></s:Header>
//!   <s:Body><GetItem xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"/></s:Body>
//! </s:Envelope>"#;
//! let sent = service.oneshot(Request::new(ReplayBody::from(body))).await.unwrap();
//! assert_eq!(sent["x-anchormailbox"], "amy@contoso.com");
//! # });
//! ```
//!
//! # What is sent
//!
//! Only bare SMTP addresses are sent. A user principal name or a SID is not one, even if it looks like one, unless
//! [`EwsAnchor::map_principal`] maps it. A legacy DN, a GUID or an address with letters beyond ASCII is skipped: no header can
//! carry it, and the call works without. A mailbox with control characters, which would end the header and begin another one,
//! ends the call with an [`AnchorError`] before anything is sent. A body that cannot be read (compressed, malformed, not SOAP)
//! has no mailbox.
//!
//! Those whose free/busy times `GetUserAvailability` asks for are no anchor: the first of them can belong to another
//! organization.
//!
//! # Subscriptions
//!
//! Calls of one group of subscriptions must all have the same anchor. That is not the mailbox that each of them impersonates.
//! So [`EwsAnchor`] finds nothing for `Subscribe`, `GetEvents`, `GetStreamingEvents` and `Unsubscribe`: the caller's header,
//! the extension or the default decides. An [`AffinityGroup`] in the extensions of all calls of a group sets the rest as well:
//! `X-PreferServerAffinity`, and the cookie that keeps the group with one server.

#[cfg(feature = "ews")]
use std::fmt;
use std::future::Future;
use std::pin::Pin;
#[cfg(feature = "ews")]
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use http::header::{Entry, HeaderName, HeaderValue};
use pin_project::pin_project;
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use crate::address::is_bare_address;
pub use crate::affinity::AffinityGroup;
#[cfg(feature = "ews")]
use crate::body::ReplayBody;
#[cfg(feature = "ews")]
use crate::soap::{ConnectingSid, Operation, SidKind};

const X_ANCHOR_MAILBOX: HeaderName = HeaderName::from_static("x-anchormailbox");
const X_PUBLIC_FOLDER_MAILBOX: HeaderName = HeaderName::from_static("x-publicfoldermailbox");

/// A request extension: the mailbox that a call is routed to, a bare SMTP address. It takes precedence over the body.
///
/// Set other forms (`AAD-SMTP:...`, `Oid:...@...`) as a header.
///
/// ```
/// use tower_ews::anchor_headers::AnchorMailbox;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(AnchorMailbox::new("amy@contoso.com")?);
///
/// assert!(AnchorMailbox::new("amy@contoso.com\r\nX-Other: 1").is_err());
/// assert!(AnchorMailbox::new("/o=Contoso/cn=Recipients/cn=amy").is_err());
/// # Ok::<(), tower_ews::anchor_headers::AnchorError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AnchorMailbox(HeaderValue);

impl AnchorMailbox {
    /// Creates the mailbox with that address.
    ///
    /// # Errors
    ///
    /// [`AnchorError`] if it is not a bare SMTP address in ASCII, without white space around it.
    pub fn new(address: &str) -> Result<Self, AnchorError> {
        bare_address(address).map(Self)
    }

    /// Returns the address.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// A request extension: the public folder mailbox of a call, sent as `X-PublicFolderMailbox`.
///
/// A call on the hierarchy needs the `guid@domain` of Autodiscover's `InternalRpcClientServer` here, and the address of
/// `PublicFolderInformation` as its [`AnchorMailbox`]. A call on the content needs the content mailbox as both.
///
/// ```
/// use tower_ews::anchor_headers::{AnchorMailbox, PublicFolderMailbox};
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(AnchorMailbox::new("folders@contoso.com")?);
/// request.extensions_mut().insert(PublicFolderMailbox::new("folders@contoso.com")?);
/// # Ok::<(), tower_ews::anchor_headers::AnchorError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublicFolderMailbox(HeaderValue);

impl PublicFolderMailbox {
    /// Creates the public folder mailbox with that address, or with that `guid@domain`.
    ///
    /// # Errors
    ///
    /// Those of [`AnchorMailbox::new`].
    pub fn new(address: &str) -> Result<Self, AnchorError> {
        bare_address(address).map(Self)
    }

    /// Returns the address.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// Why a mailbox cannot be an anchor. Nothing was sent.
///
/// ```
/// use tower_ews::anchor_headers::{AnchorError, AnchorMailbox};
///
/// let error = AnchorMailbox::new("amy@contoso.com\n").unwrap_err();
/// assert!(matches!(error, AnchorError::ControlCharacter { .. }));
/// // Error texts show such a mailbox escaped, and its first 64 characters at most.
/// assert!(!error.to_string().contains('\n'));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnchorError {
    /// It has control characters: it would end the header, and begin another one.
    #[error("the mailbox {mailbox:?} has control characters: no header can carry it")]
    ControlCharacter {
        /// Its first 64 characters.
        mailbox: Box<str>,
    },
    /// It has letters that a header cannot carry.
    #[error("the mailbox {mailbox:?} is not ASCII: set `X-AnchorMailbox` to another address of it")]
    NotAscii {
        /// Its first 64 characters.
        mailbox: Box<str>,
    },
    /// It is not a bare SMTP address.
    #[error("the mailbox {mailbox:?} is not a bare SMTP address such as amy@contoso.com")]
    NotSmtp {
        /// Its first 64 characters.
        mailbox: Box<str>,
    },
}

fn bare_address(address: &str) -> Result<HeaderValue, AnchorError> {
    let bare = is_bare_address(address);
    match bare.then(|| HeaderValue::from_str(address)) {
        Some(Ok(value)) => Ok(value),
        _ => Err(unusable(address)),
    }
}

#[cold]
fn unusable(address: &str) -> AnchorError {
    let mailbox = address.chars().take(64).collect();
    if address.chars().any(char::is_control) {
        AnchorError::ControlCharacter { mailbox }
    } else if !address.is_ascii() {
        AnchorError::NotAscii { mailbox }
    } else {
        AnchorError::NotSmtp { mailbox }
    }
}

/// Finds the mailbox that a request is for.
///
/// Implemented by [`EwsAnchor`] for EWS, and by every closure of the same form.
///
/// ```
/// use http::Request;
/// use tower_ews::anchor_headers::{AnchorMailbox, FindAnchor};
///
/// // Of Microsoft Graph's URLs: /v1.0/users/{address}/...
/// let by_path = |request: &Request<()>| match request.uri().path().split('/').nth(3) {
///     Some(user) => Ok(AnchorMailbox::new(user).ok()),
///     None => Ok(None),
/// };
///
/// let request = Request::get("/v1.0/users/amy@contoso.com/messages").body(()).unwrap();
/// let anchor = by_path.find_anchor(&request)?.unwrap();
/// assert_eq!(anchor.as_str(), "amy@contoso.com");
/// # Ok::<(), tower_ews::anchor_headers::AnchorError>(())
/// ```
pub trait FindAnchor<B> {
    /// Returns the mailbox of `request`. Without one the configured default is used.
    ///
    /// # Errors
    ///
    /// An [`AnchorError`] keeps the request from being sent.
    fn find_anchor(&self, request: &Request<B>) -> Result<Option<AnchorMailbox>, AnchorError>;
}

impl<B, F> FindAnchor<B> for F
where
    F: Fn(&Request<B>) -> Result<Option<AnchorMailbox>, AnchorError>,
{
    fn find_anchor(&self, request: &Request<B>) -> Result<Option<AnchorMailbox>, AnchorError> {
        self(request)
    }
}

#[cfg(feature = "ews")]
type MapPrincipal = dyn Fn(SidKind, &str) -> Option<String> + Send + Sync;

/// Finds the mailbox of an EWS request: the impersonated one, else one that the body names.
///
/// The first of several mailboxes in the body counts. The four subscription operations have none (see the
/// [module docs](self#subscriptions)), and neither has `GetUserAvailability`, which names attendees.
///
/// ```
/// use tower_ews::anchor_headers::EwsAnchor;
/// use tower_ews::soap::SidKind;
///
/// // Here every user principal name is an address, too.
/// let find = EwsAnchor::new().map_principal(|kind, name| match kind {
///     SidKind::PrincipalName => Some(name.to_owned()),
///     _ => None,
/// });
/// # let _ = find;
/// ```
#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
#[derive(Clone, Default)]
pub struct EwsAnchor {
    map_principal: Option<Arc<MapPrincipal>>,
}

#[cfg(feature = "ews")]
impl EwsAnchor {
    /// Creates a finder that takes SMTP addresses only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks `map` for the SMTP address of an impersonated user who is named by `PrincipalName` or by `SID` alone.
    ///
    /// It is called for each such request, and should look into memory only.
    pub fn map_principal<F>(mut self, map: F) -> Self
    where
        F: Fn(SidKind, &str) -> Option<String> + Send + Sync + 'static,
    {
        self.map_principal = Some(Arc::new(map));
        self
    }
}

#[cfg(feature = "ews")]
impl fmt::Debug for EwsAnchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EwsAnchor")
            .field("map_principal", &self.map_principal.is_some())
            .finish()
    }
}

#[cfg(feature = "ews")]
impl FindAnchor<ReplayBody> for EwsAnchor {
    fn find_anchor(
        &self,
        request: &Request<ReplayBody>,
    ) -> Result<Option<AnchorMailbox>, AnchorError> {
        let body = request.body();
        let Ok(outline) = body.outline() else {
            return Ok(None);
        };
        if let Some(
            Operation::SUBSCRIBE
            | Operation::UNSUBSCRIBE
            | Operation::GET_EVENTS
            | Operation::GET_STREAMING_EVENTS,
        ) = outline.operation()
        {
            return Ok(None);
        }
        // On the path of each call: `benches/overhead`, `anchor_headers`.
        if let Some(address) = outline
            .impersonation()
            .first()
            .and_then(ConnectingSid::address)
        {
            if let Ok(value) = HeaderValue::from_str(address) {
                return Ok(Some(AnchorMailbox(value)));
            }
        }
        // Clients send several names of one user; the address is not always the first.
        let sids = outline.impersonation().iter();
        let is_address = |sid: &&ConnectingSid| {
            matches!(sid.kind, SidKind::PrimarySmtpAddress | SidKind::SmtpAddress)
        };
        match first(sids.clone().filter(is_address).map(|sid| &*sid.value)) {
            Ok(None) => {}
            found => return found,
        }
        if let Some(map) = &self.map_principal {
            let names = sids.filter(|sid| !is_address(sid));
            match first(names.filter_map(|sid| map(sid.kind, &sid.value))) {
                Ok(None) => {}
                found => return found,
            }
        }
        // It names attendees, not the mailbox that the call is for.
        if outline.operation() == Some(Operation::GET_USER_AVAILABILITY) {
            return Ok(None);
        }
        match body.targets() {
            Some(targets) => first(targets.mailboxes.iter()),
            None => Ok(None),
        }
    }
}

/// Returns the first that a header can carry. One that would break the header is an error.
#[cfg(feature = "ews")]
fn first(
    addresses: impl Iterator<Item = impl AsRef<str>>,
) -> Result<Option<AnchorMailbox>, AnchorError> {
    for address in addresses {
        match AnchorMailbox::new(address.as_ref()) {
            Ok(anchor) => return Ok(Some(anchor)),
            Err(AnchorError::NotSmtp { .. } | AnchorError::NotAscii { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Layer that applies [`AnchorHeaders`]. The [module docs](self) have an example with a service.
///
/// ```
/// use http::Request;
/// use tower_ews::anchor_headers::{AnchorHeadersLayer, AnchorMailbox, EwsAnchor};
/// use tower_ews::body::ReplayBody;
///
/// // EWS.
/// let _layer = AnchorHeadersLayer::new(EwsAnchor::new());
///
/// // Another API: the mailbox is a part of the path.
/// let _layer = AnchorHeadersLayer::new(|request: &Request<ReplayBody>| {
///     request.uri().path().split('/').nth(3).map(AnchorMailbox::new).transpose()
/// });
/// ```
#[derive(Clone, Debug)]
#[must_use = "layers do nothing until they are applied to a service"]
pub struct AnchorHeadersLayer<F> {
    find: F,
    default: Option<AnchorMailbox>,
}

impl<F> AnchorHeadersLayer<F> {
    /// Creates a new layer that finds mailboxes with `find`: [`EwsAnchor`], or a closure.
    pub const fn new(find: F) -> Self {
        Self {
            find,
            default: None,
        }
    }

    /// Sets the mailbox of requests that name none, often that of the calling account. Default: none, and no header then.
    pub fn default_mailbox(mut self, mailbox: impl Into<Option<AnchorMailbox>>) -> Self {
        self.default = mailbox.into();
        self
    }
}

impl<S, F: Clone> Layer<S> for AnchorHeadersLayer<F> {
    type Service = AnchorHeaders<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        AnchorHeaders {
            inner,
            find: self.find.clone(),
            default: self.default.clone(),
        }
    }
}

/// Sets `X-AnchorMailbox` and `X-PublicFolderMailbox` on requests.
///
/// Its error is a [`BoxError`]: the inner service's, or an [`AnchorError`]. See the [module docs](self) for an example.
#[derive(Clone, Debug)]
#[must_use = "services do nothing until they are called"]
pub struct AnchorHeaders<S, F> {
    inner: S,
    find: F,
    default: Option<AnchorMailbox>,
}

impl<S, F> AnchorHeaders<S, F> {
    /// Creates a new service around `inner` that finds mailboxes with `find`, without a default.
    pub const fn new(inner: S, find: F) -> Self {
        Self {
            inner,
            find,
            default: None,
        }
    }

    inner_accessors!();

    fn set_headers<B>(&self, request: &mut Request<B>) -> Result<(), AnchorError>
    where
        F: FindAnchor<B>,
    {
        if let Some(group) = request.extensions().get::<AffinityGroup>().cloned() {
            group.set_headers(request.headers_mut());
        }
        // Found before it is known to be wanted: one look into the headers less, `benches/overhead`, `anchor_headers`.
        let anchor = match request.extensions().get::<AnchorMailbox>() {
            Some(anchor) => Ok(Some(anchor.clone())),
            None => self.find.find_anchor(request),
        };
        if let Entry::Vacant(entry) = request.headers_mut().entry(X_ANCHOR_MAILBOX) {
            if let Some(AnchorMailbox(value)) = anchor?.or_else(|| self.default.clone()) {
                entry.insert(value);
            }
        }
        if let Some(PublicFolderMailbox(value)) = request.extensions().get() {
            if !request.headers().contains_key(X_PUBLIC_FOLDER_MAILBOX) {
                let value = value.clone();
                request.headers_mut().insert(X_PUBLIC_FOLDER_MAILBOX, value);
            }
        }
        Ok(())
    }
}

impl<S, F, B> Service<Request<B>> for AnchorHeaders<S, F>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
    F: FindAnchor<B>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        ResponseFuture(match self.set_headers(&mut request) {
            Ok(()) => Outcome::Sent(self.inner.call(request)),
            Err(error) => Outcome::Refused(error),
        })
    }
}

/// Response future of [`AnchorHeaders`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless they are polled"]
pub struct ResponseFuture<F>(#[pin] Outcome<F>);

#[pin_project(project = OutcomeProjection)]
#[derive(Debug)]
enum Outcome<F> {
    Sent(#[pin] F),
    Refused(AnchorError),
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<BoxError>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            OutcomeProjection::Sent(inner) => inner.poll(cx).map_err(Into::into),
            OutcomeProjection::Refused(error) => Poll::Ready(Err(error.clone().into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::HeaderMap;
    use tower::{ServiceExt, service_fn};

    use super::*;

    const SUBSCRIPTIONS: [&str; 4] = [
        "Subscribe",
        "GetEvents",
        "GetStreamingEvents",
        "Unsubscribe",
    ];

    fn envelope(operation: &str, sids: &[(&str, &str)], mailboxes: &[&str]) -> String {
        let escape = |text: &str| -> String {
            let escaped = text.chars().map(|c| match c {
                c if c.is_ascii_alphanumeric() || " @.-/=".contains(c) => c.to_string(),
                c => format!("&#{};", u32::from(c)),
            });
            escaped.collect()
        };
        let sids: String = sids
            .iter()
            .map(|(kind, value)| format!("<t:{kind}>{}</t:{kind}>", escape(value)))
            .collect();
        let header = match &*sids {
            "" => String::new(),
            sids => format!(
                "<s:Header><t:ExchangeImpersonation><t:ConnectingSID>{sids}</t:ConnectingSID>\
                 </t:ExchangeImpersonation></s:Header>"
            ),
        };
        let folders: String = mailboxes
            .iter()
            .map(|mailbox| {
                format!(
                    "<t:DistinguishedFolderId Id='inbox'><t:Mailbox><t:EmailAddress>{}\
                     </t:EmailAddress></t:Mailbox></t:DistinguishedFolderId>",
                    escape(mailbox)
                )
            })
            .collect();
        format!(
            "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
             xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages' \
             xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types'>{header}<s:Body>\
             <m:{operation}><m:FolderIds>{folders}</m:FolderIds></m:{operation}></s:Body></s:Envelope>"
        )
    }

    fn request(operation: &str, sids: &[(&str, &str)], mailboxes: &[&str]) -> Request<ReplayBody> {
        Request::new(envelope(operation, sids, mailboxes).into())
    }

    fn impersonating(user: &str) -> Request<ReplayBody> {
        request("GetFolder", &[("PrimarySmtpAddress", user)], &[])
    }

    #[tokio::test]
    async fn a_group_has_one_anchor_whomever_its_calls_impersonate() {
        let client = service_fn(|request: Request<ReplayBody>| async move {
            Ok::<_, Infallible>(request.headers().clone())
        });
        let service = AnchorHeadersLayer::new(EwsAnchor::new()).layer(client);
        let group = AffinityGroup::new("alfred@contoso.com");
        let mut set_cookie = HeaderMap::new();
        set_cookie.insert(
            "set-cookie",
            "X-BackEndOverrideCookie=be~1".parse().unwrap(),
        );
        group.learn(&set_cookie);
        for operation in SUBSCRIPTIONS.into_iter().chain(["GetFolder"]) {
            let sids = [("PrimarySmtpAddress", "sadie@contoso.com")];
            let mut call = request(operation, &sids, &[]);
            call.extensions_mut().insert(group.clone());
            let sent = service.clone().oneshot(call).await.unwrap();
            assert_eq!(sent["x-anchormailbox"], "alfred@contoso.com");
            assert_eq!(sent["x-preferserveraffinity"], "true");
            assert_eq!(sent["cookie"], "X-BackEndOverrideCookie=be~1");
        }
    }

    fn address(text: &str) -> AnchorMailbox {
        AnchorMailbox::new(text).unwrap()
    }

    /// The headers that a layer sends, or its error.
    async fn send<F, B>(
        layer: &AnchorHeadersLayer<F>,
        request: Request<B>,
    ) -> Result<HeaderMap, AnchorError>
    where
        F: FindAnchor<B> + Clone,
    {
        let calls = AtomicUsize::new(0);
        let client = service_fn(|request: Request<B>| {
            calls.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok::<_, Infallible>(request.headers().clone()))
        });
        match layer.layer(client).oneshot(request).await {
            Ok(headers) => Ok(headers),
            Err(error) => {
                assert_eq!(calls.load(Ordering::Relaxed), 0, "nothing is sent");
                Err(*error.downcast().unwrap())
            }
        }
    }

    async fn anchor(request: Request<ReplayBody>) -> Result<Option<String>, AnchorError> {
        let upn = |kind, name: &str| {
            (kind == SidKind::PrincipalName && name.starts_with("map."))
                .then(|| name.replace("map.", ""))
        };
        let layer = AnchorHeadersLayer::new(EwsAnchor::new().map_principal(upn))
            .default_mailbox(address("default@contoso.com"));
        let headers = send(&layer, request).await?;
        assert!(headers.get_all(X_ANCHOR_MAILBOX).iter().count() <= 1);
        let anchor = headers.get(X_ANCHOR_MAILBOX);
        Ok(anchor.map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn addresses() {
        let long_host = format!("amy@{}", "c".repeat(255));
        for good in [
            "amy@contoso.com",
            "a@b",
            "amy.o'neil+tag/1=x@mail.contoso.co.uk",
            "9362c853-fa03-45d1-9d7c-ef09db45f783@contoso.com",
            &long_host,
        ] {
            assert_eq!(address(good).as_str(), good);
            assert_eq!(PublicFolderMailbox::new(good).unwrap().as_str(), good);
        }
        let too_long = "a".repeat(crate::address::MAX_ADDRESS) + "@b";
        for other in [
            "",
            "amy",
            "@",
            "@contoso.com",
            "amy@",
            "amy@@contoso.com",
            "amy@contoso@com",
            " amy@contoso.com",
            "amy jones@contoso.com",
            "<amy@contoso.com>",
            "Amy <amy@contoso.com>",
            "amy@contoso.com,bob@contoso.com",
            "amy@contoso.com;bob@contoso.com",
            "SMTP:amy@contoso.com",
            "AAD-SMTP:amy@contoso.com",
            "\"amy\"@contoso.com",
            "/o=Contoso/cn=Recipients/cn=amy",
            "/o=Contoso/cn=amy@contoso.com",
            "S-1-5-21-1004336348-1177238915-682003330-512",
            &too_long,
        ] {
            let error = AnchorMailbox::new(other).unwrap_err();
            assert!(matches!(error, AnchorError::NotSmtp { .. }), "{other:?}");
        }
        for control in [
            "a@b\r\nX: y",
            "a@b\n",
            "\ra@b",
            "a\0@b",
            "a@b\t",
            "a@b\x7f",
            "a@b\u{85}",
            "caf\u{e9}@b\r\nX: y",
            "a b\n@c",
        ] {
            let error = AnchorMailbox::new(control).unwrap_err();
            assert!(
                matches!(error, AnchorError::ControlCharacter { .. }),
                "{control:?}"
            );
            assert!(!error.to_string().chars().any(char::is_control));
        }
        for letters in [
            "jos\u{e9}@contoso.com",
            "amy@b\u{fc}cher.example",
            "\u{feff}a@b",
        ] {
            let error = AnchorMailbox::new(letters).unwrap_err();
            assert!(matches!(error, AnchorError::NotAscii { .. }), "{letters:?}");
        }
        let huge = AnchorMailbox::new(&"\u{e9}".repeat(1_000_000)).unwrap_err();
        assert!(huge.to_string().len() < 400);
    }

    #[tokio::test]
    async fn where_the_anchor_comes_from() {
        const AMY: &str = "amy@contoso.com";
        const BOB: &str = "bob@contoso.com";
        const JOSE: &str = "jos\u{e9}@contoso.com";
        const DEFAULT: &str = "default@contoso.com";
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str);
        let cases: [Case<'_>; 22] = [
            // The impersonated user comes before the mailbox in the body, and both before the default.
            (&[("PrimarySmtpAddress", AMY)], &[BOB], AMY),
            (&[("SmtpAddress", AMY)], &[BOB], AMY),
            (&[], &[BOB, AMY], BOB),
            (&[], &[], DEFAULT),
            // White space around it is not part of it.
            (&[("PrimarySmtpAddress", "  amy@contoso.com ")], &[], AMY),
            // Several names of one user.
            (
                &[("PrincipalName", BOB), ("PrimarySmtpAddress", AMY)],
                &[],
                AMY,
            ),
            (&[("SID", "S-1-5-21-1"), ("SmtpAddress", AMY)], &[], AMY),
            (
                &[
                    ("PrincipalName", "map.bob@contoso.com"),
                    ("SmtpAddress", AMY),
                ],
                &[],
                AMY,
            ),
            // Names that are not addresses, unless mapped.
            (&[("PrincipalName", AMY)], &[], DEFAULT),
            (&[("PrincipalName", AMY)], &[BOB], BOB),
            (&[("PrincipalName", "map.amy@contoso.com")], &[BOB], AMY),
            (&[("PrincipalName", "map.amy")], &[BOB], BOB),
            (&[("SID", "S-1-5-21-1")], &[], DEFAULT),
            // What is not an address is skipped.
            (&[("PrimarySmtpAddress", "")], &[], DEFAULT),
            (&[("PrimarySmtpAddress", "Amy Jones")], &[BOB], BOB),
            (&[], &["/o=Contoso/cn=Recipients/cn=amy", BOB], BOB),
            (&[], &["amy"], DEFAULT),
            // Neither is what no header can carry.
            (&[("PrimarySmtpAddress", JOSE)], &[], DEFAULT),
            (&[("SmtpAddress", JOSE)], &[BOB], BOB),
            (
                &[("PrimarySmtpAddress", JOSE), ("SmtpAddress", AMY)],
                &[],
                AMY,
            ),
            (
                &[("PrincipalName", "map.jos\u{e9}@contoso.com")],
                &[BOB],
                BOB,
            ),
            (&[], &[JOSE, BOB], BOB),
        ];
        for (sids, mailboxes, expected) in cases {
            let found = anchor(request("GetFolder", sids, mailboxes)).await.unwrap();
            assert_eq!(found.as_deref(), Some(expected), "{sids:?} {mailboxes:?}");
        }
    }

    #[tokio::test]
    async fn the_extension_comes_before_the_body() {
        let mut request = impersonating("amy@contoso.com");
        let extension = address("folders@contoso.com");
        request.extensions_mut().insert(extension);
        let found = anchor(request).await.unwrap();
        assert_eq!(found.as_deref(), Some("folders@contoso.com"));
    }

    #[tokio::test]
    async fn the_callers_header_stays_in_any_form() {
        for value in [
            "bob@contoso.com",
            "AAD-SMTP:bob@contoso.com",
            "Oid:1@2",
            "DUMMY",
            "",
        ] {
            // Not even an extension or a mailbox that is refused makes a difference.
            let mut request = impersonating("a@b\r\nX: y");
            let headers = request.headers_mut();
            headers.insert(X_ANCHOR_MAILBOX, HeaderValue::from_static(value));
            request.extensions_mut().insert(address("amy@contoso.com"));
            let found = anchor(request).await.unwrap();
            assert_eq!(found.as_deref(), Some(value));
        }
    }

    #[tokio::test]
    async fn a_mailbox_that_breaks_the_header_is_never_sent() {
        for bad in ["a@b\r\nX: y", "a\n@b", "a@b\u{85}c", "jos\u{e9}\n@b"] {
            let upn = format!("map.{bad}");
            for request in [
                impersonating(bad),
                request("GetFolder", &[], &[bad]),
                request("GetFolder", &[("PrincipalName", &upn)], &[]),
            ] {
                let error = anchor(request).await.unwrap_err();
                assert_eq!(error, AnchorMailbox::new(bad).unwrap_err());
            }
        }
    }

    #[tokio::test]
    async fn a_mailbox_that_makes_no_header_is_sent_without_one() {
        let layer = AnchorHeadersLayer::new(EwsAnchor::new());
        for address in ["jos\u{e9}@contoso.com", "amy@b\u{fc}cher.example"] {
            for request in [
                impersonating(address),
                request("GetFolder", &[], &[address]),
            ] {
                let headers = send(&layer, request).await.unwrap();
                assert!(headers.is_empty(), "{address}: {headers:?}");
            }
        }
    }

    #[tokio::test]
    async fn attendees_are_no_anchor() {
        let attendees = |sids: &str| {
            let attendee = |address: &str| {
                format!(
                    "<t:MailboxData><t:Email><t:Address>{address}</t:Address></t:Email>\
                     <t:AttendeeType>Required</t:AttendeeType></t:MailboxData>"
                )
            };
            let attendees = attendee("guest@fabrikam.com") + &attendee("bob@contoso.com");
            let body = envelope("GetUserAvailabilityRequest", &[], &[])
                .replace("<s:Body>", &format!("{sids}<s:Body>"));
            let from = body.find("<m:FolderIds>").unwrap();
            let to = body.find("</m:GetUserAvailabilityRequest>").unwrap();
            let array = format!("<m:MailboxDataArray>{attendees}</m:MailboxDataArray>");
            Request::new(ReplayBody::from(
                [&body[..from], &array, &body[to..]].concat(),
            ))
        };
        let outline = attendees("");
        let outline = outline.body().outline().unwrap();
        assert_eq!(outline.operation(), Some(Operation::GET_USER_AVAILABILITY));
        let found = anchor(attendees("")).await.unwrap();
        assert_eq!(found.as_deref(), Some("default@contoso.com"));
        let amy = "<s:Header><t:ExchangeImpersonation><t:ConnectingSID><t:SmtpAddress>amy@contoso.com\
                   </t:SmtpAddress></t:ConnectingSID></t:ExchangeImpersonation></s:Header>";
        let found = anchor(attendees(amy)).await.unwrap();
        assert_eq!(found.as_deref(), Some("amy@contoso.com"));
    }

    #[tokio::test]
    async fn subscriptions_take_no_anchor_from_the_body() {
        for operation in SUBSCRIPTIONS {
            let sids = [("PrimarySmtpAddress", "amy@contoso.com")];
            let build = || request(operation, &sids, &["bob@contoso.com"]);
            assert!(build().body().outline().unwrap().operation().is_some());

            let found = anchor(build()).await.unwrap();
            assert_eq!(found.as_deref(), Some("default@contoso.com"), "{operation}");

            let layer = AnchorHeadersLayer::new(EwsAnchor::new());
            let headers = send(&layer, build()).await.unwrap();
            assert!(headers.is_empty(), "{operation}");

            let mut grouped = build();
            grouped
                .extensions_mut()
                .insert(address("group@contoso.com"));
            let found = anchor(grouped).await.unwrap();
            assert_eq!(found.as_deref(), Some("group@contoso.com"), "{operation}");

            // A mailbox that nobody asks for is not refused either.
            let odd = request(operation, &[("SmtpAddress", "a@b\r\n.c")], &[]);
            assert!(anchor(odd).await.is_ok(), "{operation}");
        }
    }

    #[tokio::test]
    async fn unreadable_bodies_have_no_anchor() {
        let sound = envelope("GetFolder", &[("SmtpAddress", "amy@contoso.com")], &[]);
        let mut dtd = String::from("<!DOCTYPE s:Envelope>");
        dtd.push_str(&sound);
        for body in [
            ReplayBody::empty(),
            ReplayBody::from("{\"json\": true}"),
            ReplayBody::from(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03".to_vec()),
            ReplayBody::from(sound[..sound.len() - 5].to_owned()),
            ReplayBody::from(dtd),
        ] {
            assert!(body.outline().is_err());
            let layer = AnchorHeadersLayer::new(EwsAnchor::new());
            let headers = send(&layer, Request::new(body)).await.unwrap();
            assert!(headers.is_empty());
        }
    }

    #[tokio::test]
    async fn public_folders() {
        let layer = AnchorHeadersLayer::new(EwsAnchor::new());
        let mut request = impersonating("amy@contoso.com");
        let extensions = request.extensions_mut();
        extensions.insert(address("folders@contoso.com"));
        extensions.insert(PublicFolderMailbox::new("1a2b@contoso.com").unwrap());
        let headers = send(&layer, request).await.unwrap();
        assert_eq!(headers["x-anchormailbox"], "folders@contoso.com");
        assert_eq!(headers["x-publicfoldermailbox"], "1a2b@contoso.com");

        let mut own = impersonating("amy@contoso.com");
        let value = HeaderValue::from_static("own");
        own.headers_mut().insert("x-publicfoldermailbox", value);
        let extension = PublicFolderMailbox::new("1a2b@contoso.com").unwrap();
        own.extensions_mut().insert(extension);
        let headers = send(&layer, own).await.unwrap();
        assert_eq!(headers["x-publicfoldermailbox"], "own");

        let headers = send(&layer, impersonating("amy@contoso.com"))
            .await
            .unwrap();
        assert!(!headers.contains_key("x-publicfoldermailbox"));
    }

    #[tokio::test]
    async fn another_api_brings_a_closure() {
        let by_header = |request: &Request<&'static str>| match request.headers().get("x-user") {
            Some(user) => AnchorMailbox::new(user.to_str().unwrap_or_default()).map(Some),
            None => Ok(None),
        };
        let layer = AnchorHeadersLayer::new(by_header);
        let request = |user: &str| {
            Request::builder()
                .header("x-user", user)
                .body("{}")
                .unwrap()
        };
        let headers = send(&layer, request("amy@contoso.com")).await.unwrap();
        assert_eq!(headers["x-anchormailbox"], "amy@contoso.com");
        let error = send(&layer, request("amy")).await.unwrap_err();
        assert!(matches!(error, AnchorError::NotSmtp { .. }));
        let headers = send(&layer, Request::new("{}")).await.unwrap();
        assert!(headers.is_empty());
    }

    #[tokio::test]
    async fn the_clients_own_error_comes_back() {
        let client = service_fn(|_: Request<ReplayBody>| async {
            Err::<(), _>(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
        });
        let service = AnchorHeaders::new(client, EwsAnchor::new());
        let error = service
            .oneshot(Request::new(ReplayBody::empty()))
            .await
            .unwrap_err();
        let error = error.downcast::<std::io::Error>().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn readiness_is_the_inner_services() {
        let (mock, mut handle) = tower_test::mock::pair::<Request<ReplayBody>, ()>();
        handle.allow(0);
        let service = AnchorHeaders::new(mock, EwsAnchor::new());
        let mut service = tokio_test::task::spawn(service);
        let mut poll =
            || service.enter(|cx, mut service| Service::poll_ready(&mut *service, cx).is_ready());
        assert!(!poll());
        handle.allow(1);
        assert!(poll());
    }

    #[tokio::test]
    async fn debug_and_errors_print_no_credentials() {
        let layer = AnchorHeadersLayer::new(EwsAnchor::new().map_principal(|_, _| None));
        let mut request = impersonating("a@b\r\nX: y");
        let value = HeaderValue::from_static("Basic canary");
        request.headers_mut().insert("authorization", value);
        let service = layer.layer(service_fn(|_: Request<ReplayBody>| async {
            Ok::<_, Infallible>(())
        }));
        let text = format!("{service:?} {layer:?}");
        let error = service.oneshot(request).await.unwrap_err();
        assert!(!format!("{text} {error} {error:?}").contains("canary"));
    }
}
