//! [`Facts`]: what requests and responses are about; [`HttpFacts`] for any HTTP API.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body::Body;
use http_body_util::Full;

use crate::body::ReplayBody;
use crate::extensions::Caller;
use crate::principal::Access;

/// Tells what a call is about: from its request, and through a [`ResponseInspector`] from its
/// response.
///
/// Called only at levels above [`Off`](super::Level::Off), or when levels of principals or
/// operations are set.
///
/// ```
/// use http::Request;
/// use http::request::Parts;
/// use tower_ews::audit_log::{Facts, RequestFacts};
/// use tower_ews::body::ReplayBody;
///
/// /// Names operations by the first segment of the path, and counts lines.
/// struct ByPath;
///
/// impl Facts for ByPath {
///     fn request(&self, head: &Parts) -> RequestFacts {
///         let mut facts = RequestFacts::new();
///         facts.operation = head.uri.path().split('/').nth(1).map(|name| name.to_owned().into());
///         facts
///     }
///
///     fn body(&self, body: &ReplayBody, facts: &mut RequestFacts) {
///         let lines = body.to_bytes().split(|byte| *byte == b'\n').count();
///         facts.members = Some(lines as u64);
///     }
/// }
///
/// let (head, _) = Request::get("/users/amy").body(()).unwrap().into_parts();
/// let mut facts = ByPath.request(&head);
/// ByPath.body(&"a\nb".into(), &mut facts);
/// assert_eq!((facts.operation.as_deref(), facts.members), (Some("users"), Some(2)));
/// ```
pub trait Facts: Send + Sync + 'static {
    /// Returns what the head of the request tells. Called when the call begins.
    fn request(&self, head: &Parts) -> RequestFacts;

    /// Adds what the body of the request tells. Does nothing by default.
    ///
    /// Called once the whole body is there: when the call begins if it is a [`ReplayBody`], else
    /// when a [`BufferRequest`](crate::body::BufferRequest) further in has read it. Without one, a
    /// `Full<Bytes>` and a `String` are looked at too; a body that streams to the server never is.
    fn body(&self, body: &ReplayBody, facts: &mut RequestFacts) {
        let _ = (body, facts);
    }

    /// Returns whether [`body`](Self::body) looks at the body. By default it does.
    fn reads_body(&self) -> bool {
        true
    }
}

/// What a request is about. All of it may be unknown.
///
/// ```
/// use tower_ews::audit_log::RequestFacts;
///
/// let mut facts = RequestFacts::default();
/// facts.operation = Some("GetItem".into());
/// facts.members = Some(20);
/// ```
#[derive(Default)]
#[non_exhaustive]
pub struct RequestFacts {
    /// The name of the operation; low in cardinality.
    pub operation: Option<Cow<'static, str>>,
    /// The number of members of a batch.
    pub members: Option<u64>,
    /// The authenticated account.
    pub caller: Option<Caller>,
    /// The target mailbox.
    pub mailbox: Option<Box<str>>,
    /// How the call reaches the mailbox.
    pub access: Option<Access>,
    /// Reads the response. Without one the status alone tells how the call ended: 400 and above is
    /// a failure.
    pub inspector: Option<Box<dyn ResponseInspector>>,
}

impl RequestFacts {
    /// Creates facts in which everything is unknown.
    pub fn new() -> Self {
        Self::default()
    }
}

impl fmt::Debug for RequestFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestFacts")
            .field("operation", &self.operation)
            .field("members", &self.members)
            .field("caller", &self.caller)
            .field("mailbox", &self.mailbox)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// Reads one response as it passes.
///
/// ```
/// use http::{HeaderMap, StatusCode};
/// use tower_ews::audit_log::{ResponseFacts, ResponseInspector};
///
/// /// An API whose responses begin with `OK` or with a word for what went wrong.
/// #[derive(Default)]
/// struct FirstWord(Vec<u8>);
///
/// impl ResponseInspector for FirstWord {
///     fn head(&mut self, status: StatusCode, _: &HeaderMap) -> bool {
///         status.is_success()
///     }
///
///     fn read(&mut self, bytes: &[u8]) {
///         self.0.extend(bytes.iter().take(20 - self.0.len().min(20)));
///     }
///
///     fn end(&mut self, _complete: bool) -> ResponseFacts {
///         let mut facts = ResponseFacts::new();
///         facts.failed = !self.0.starts_with(b"OK");
///         facts
///     }
/// }
///
/// let mut inspector = FirstWord::default();
/// inspector.read(b"OK then");
/// assert!(!inspector.end(true).failed);
/// ```
pub trait ResponseInspector: Send + Sync {
    /// Looks at the head. Returns whether to read the body too. A compressed body is never read.
    fn head(&mut self, status: StatusCode, headers: &HeaderMap) -> bool;

    /// Looks at the next bytes of the body, in pieces of any size.
    fn read(&mut self, bytes: &[u8]);

    /// Returns what is known. `complete` says whether the whole body was read.
    fn end(&mut self, complete: bool) -> ResponseFacts;
}

/// What a response says.
///
/// ```
/// use tower_ews::audit_log::ResponseFacts;
///
/// let mut facts = ResponseFacts::default();
/// facts.code = Some("ErrorServerBusy".into());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseFacts {
    /// The code that counts.
    pub code: Option<Cow<'static, str>>,
    /// Whether the call failed, or some of its members did.
    pub failed: bool,
    /// What is wrong with the response itself.
    pub error: Option<Box<str>>,
}

impl ResponseFacts {
    /// Creates the facts of a success without a code.
    pub fn new() -> Self {
        Self::default()
    }
}

/// The facts of any HTTP API: the [`Caller`] of the request's extensions.
///
/// ```
/// use http::Request;
/// use tower_ews::audit_log::{Facts, HttpFacts};
/// use tower_ews::extensions::Caller;
///
/// let request = Request::get("/").extension(Caller::new("svc@contoso.com")).body(()).unwrap();
/// let facts = HttpFacts.request(&request.into_parts().0);
/// assert_eq!(facts.caller, Some(Caller::new("svc@contoso.com")));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpFacts;

impl Facts for HttpFacts {
    fn request(&self, head: &Parts) -> RequestFacts {
        RequestFacts {
            caller: head.extensions.get().cloned(),
            ..RequestFacts::default()
        }
    }

    fn reads_body(&self) -> bool {
        false
    }
}

/// Returns the size of the body, if it or its header says so.
pub(super) fn size<B: Body>(head: &Parts, body: &B) -> Option<u64> {
    body.size_hint().exact().or_else(|| {
        let length = head.headers.get(CONTENT_LENGTH)?;
        length.to_str().ok()?.trim().parse().ok()
    })
}

/// Returns the body, if it is one that can be sent again.
pub(super) fn replayed<B: 'static>(body: &B) -> Option<ReplayBody> {
    (body as &dyn Any).downcast_ref().map(ReplayBody::rewind)
}

/// Returns the body, if its bytes can be had without reading it.
pub(super) fn in_memory<B: 'static>(body: &B) -> Option<ReplayBody> {
    let body: &dyn Any = body;
    if let Some(text) = body.downcast_ref::<String>() {
        return Some(text.clone().into());
    }
    // A `Full` shows its bytes to whoever polls it, and it is ready at once.
    let mut full = body.downcast_ref::<Full<Bytes>>()?.clone();
    let mut cx = Context::from_waker(Waker::noop());
    Some(match Pin::new(&mut full).poll_frame(&mut cx) {
        Poll::Ready(Some(Ok(frame))) => ReplayBody::from_pieces(frame.into_data()),
        _ => ReplayBody::empty(),
    })
}
