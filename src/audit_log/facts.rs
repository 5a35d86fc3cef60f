//! [`Facts`]: what requests and answers are about; [`HttpFacts`] for any HTTP API.

use std::any::Any;
use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request, StatusCode};
use http_body::Body;
use http_body_util::Full;
use smallvec::{SmallVec, smallvec};

use crate::body::ReplayBody;
use crate::extensions::Caller;
use crate::principal::Access;

/// Tells what a call is about: from its request, and through an [`ResponseInspector`] from its answer.
///
/// Asked only at levels above [`Off`](super::Level::Off), or when levels of principals or operations are set.
///
/// ```
/// use http::Request;
/// use tower_ews::audit_log::{Facts, RequestFacts};
///
/// /// Names operations by the first segment of the path.
/// struct ByPath;
///
/// impl<B> Facts<B> for ByPath {
///     fn request(&self, request: &Request<B>) -> RequestFacts {
///         let mut facts = RequestFacts::default();
///         facts.operation = request.uri().path().split('/').nth(1).map(|name| name.to_owned().into());
///         facts
///     }
/// }
///
/// let facts = ByPath.request(&Request::get("/users/amy").body(()).unwrap());
/// assert_eq!(facts.operation.as_deref(), Some("users"));
/// ```
pub trait Facts<B>: Send + Sync + 'static {
    /// What the request is about.
    fn request(&self, request: &Request<B>) -> RequestFacts;

    /// The request body's bytes, where they can be had without reading it and without copying them. The layer never wraps or reads a
    /// request's body, so at level [`Full`](super::Level::Full) this is all there is of it. Default: none.
    fn pieces(&self, request: &Request<B>) -> Option<SmallVec<[Bytes; 1]>> {
        let _ = request;
        None
    }
}

/// What a request is about. All of it may be unknown.
///
/// See [`Facts`] for an example.
#[derive(Default)]
#[non_exhaustive]
pub struct RequestFacts {
    /// What is to be done; few different ones.
    pub operation: Option<Cow<'static, str>>,
    /// How many members a batch has.
    pub members: Option<u64>,
    /// The authenticated account.
    pub caller: Option<Box<str>>,
    /// The mailbox that it works on.
    pub mailbox: Option<Box<str>>,
    /// How it reaches that.
    pub access: Option<Access>,
    /// Bytes of the request's body.
    pub bytes: Option<u64>,
    /// Reads the answer. Without one the status alone tells how the call ended: 400 and above is a failure.
    pub reader: Option<Box<dyn ResponseInspector>>,
    /// The request's body, whose outline other layers need not find again.
    pub(super) body: Option<ReplayBody>,
}

impl std::fmt::Debug for RequestFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestFacts")
            .field("operation", &self.operation)
            .field("members", &self.members)
            .field("mailbox", &self.mailbox)
            .finish_non_exhaustive()
    }
}

/// Reads one answer as it passes.
///
/// ```
/// use http::{HeaderMap, StatusCode};
/// use tower_ews::audit_log::{ResponseFacts, ResponseInspector};
///
/// /// An API whose answers begin with `OK` or a word that says what went wrong.
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
///     fn end(&mut self, _whole: bool) -> ResponseFacts {
///         let mut facts = ResponseFacts::default();
///         facts.failed = !self.0.starts_with(b"OK");
///         facts
///     }
/// }
///
/// let mut reader = FirstWord::default();
/// reader.read(b"OK then");
/// assert!(!reader.end(true).failed);
/// ```
pub trait ResponseInspector: Send + Sync {
    /// Looks at the head, and says whether the body is to be read too. A compressed body is never handed over.
    fn head(&mut self, status: StatusCode, headers: &HeaderMap) -> bool;

    /// Looks at the next bytes of the body, in pieces of any size.
    fn read(&mut self, bytes: &[u8]);

    /// What is known. `whole` says whether all of the body was handed over.
    fn end(&mut self, whole: bool) -> ResponseFacts;
}

/// What an answer says.
///
/// See [`ResponseInspector`] for an example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseFacts {
    /// The code that counts.
    pub code: Option<Cow<'static, str>>,
    /// It says that the call failed, or some of its members did.
    pub failed: bool,
    /// What is wrong with the answer itself.
    pub error: Option<Box<str>>,
}

/// The facts of any HTTP API: the [`Caller`] of the request's extensions, and the size of its body.
///
/// Bytes of a request body are kept if it is a [`ReplayBody`], a `Full<Bytes>` or a `String`.
///
/// ```
/// use http::Request;
/// use tower_ews::audit_log::{Facts, HttpFacts};
///
/// let request = Request::new(String::from("hello"));
/// assert_eq!(HttpFacts.request(&request).bytes, Some(5));
/// assert_eq!(HttpFacts.pieces(&request).unwrap()[0], "hello");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpFacts;

impl<B: Body + 'static> Facts<B> for HttpFacts {
    fn request(&self, request: &Request<B>) -> RequestFacts {
        let caller = request.extensions().get::<Caller>();
        RequestFacts {
            caller: caller.map(|caller| caller.name().into()),
            bytes: size(request),
            ..RequestFacts::default()
        }
    }

    fn pieces(&self, request: &Request<B>) -> Option<SmallVec<[Bytes; 1]>> {
        pieces(request.body())
    }
}

/// How large the body is, if it or its header says so.
pub(super) fn size<B: Body>(request: &Request<B>) -> Option<u64> {
    request.body().size_hint().exact().or_else(|| {
        let length = request.headers().get(CONTENT_LENGTH)?;
        length.to_str().ok()?.trim().parse().ok()
    })
}

/// The bytes of the bodies that show them.
pub(super) fn pieces<B: 'static>(body: &B) -> Option<SmallVec<[Bytes; 1]>> {
    let body: &dyn Any = body;
    if let Some(body) = body.downcast_ref::<ReplayBody>() {
        return Some(body.pieces().iter().cloned().collect());
    }
    if let Some(text) = body.downcast_ref::<String>() {
        return Some(smallvec![Bytes::copy_from_slice(text.as_bytes())]);
    }
    let full = body.downcast_ref::<Full<Bytes>>()?;
    // A `Full` shows its bytes to whoever polls it, and it is ready at once.
    let mut full = full.clone();
    let mut cx = Context::from_waker(Waker::noop());
    match Pin::new(&mut full).poll_frame(&mut cx) {
        Poll::Ready(Some(Ok(frame))) => Some(frame.into_data().into_iter().collect()),
        _ => Some(SmallVec::new()),
    }
}
