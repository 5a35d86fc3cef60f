//! [`ReplayBody`]: a request body that can be sent again.
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use smallvec::{SmallVec, smallvec};

#[cfg(feature = "ews")]
use super::outline::LazyOutline;
use super::rope::{Rope, join};
#[cfg(feature = "ews")]
use crate::soap::sent::Sent;
#[cfg(feature = "ews")]
use crate::soap::{Outline, OutlineError, Targets};

/// A request body as a rope of [`Bytes`]: a clone shares them, its length is known, and it can be
/// sent again.
///
/// As a [`Body`] it gives one frame per piece and never fails. With the feature `ews` it has an
/// outline (`ReplayBody::outline`), which is parsed once for all clones, when the first layer asks
/// for it.
///
/// A clone of a body that was partly read goes on where that one stood; [`ReplayBody::rewind`]
/// starts anew.
///
/// ```
/// use http_body::Body;
/// use tower_ews::body::ReplayBody;
///
/// let body = ReplayBody::from("hello");
/// assert_eq!(body.len(), 5);
/// assert_eq!(body.size_hint().exact(), Some(5));
///
/// let rope = ReplayBody::from_pieces(["he".into(), "llo".into()]);
/// assert_eq!(rope.to_bytes(), "hello");
/// assert_eq!(format!("{rope:?}"), "ReplayBody { len: 5, pieces: 2 }");
/// ```
#[derive(Clone)]
pub struct ReplayBody {
    shared: Arc<Shared>,
    /// The next piece to be read.
    next: usize,
    /// Bytes that were not read yet.
    left: u64,
}

struct Shared {
    pieces: SmallVec<[Bytes; 1]>,
    len: u64,
    #[cfg(feature = "ews")]
    outline: LazyOutline,
}

impl ReplayBody {
    /// A body of one piece.
    pub fn new(bytes: impl Into<Bytes>) -> ReplayBody {
        ReplayBody::of(smallvec![bytes.into()])
    }

    /// A body of several pieces, none of which is copied. Empty ones are left out.
    pub fn from_pieces(pieces: impl IntoIterator<Item = Bytes>) -> ReplayBody {
        ReplayBody::of(pieces.into_iter().collect())
    }

    /// The whole body as a rope, uncopied.
    pub fn rope(&self) -> Rope {
        self.shared.pieces.iter().cloned().collect()
    }

    /// A body of no bytes.
    pub fn empty() -> ReplayBody {
        ReplayBody::of(SmallVec::new())
    }

    fn of(mut pieces: SmallVec<[Bytes; 1]>) -> ReplayBody {
        pieces.retain(|piece| !piece.is_empty());
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        let shared = Shared {
            pieces,
            len,
            #[cfg(feature = "ews")]
            outline: LazyOutline::default(),
        };
        ReplayBody {
            shared: Arc::new(shared),
            next: 0,
            left: len,
        }
    }

    /// Bytes in the whole body, read or not.
    pub fn len(&self) -> u64 {
        self.shared.len
    }

    /// Whether the whole body has no bytes.
    pub fn is_empty(&self) -> bool {
        self.shared.len == 0
    }

    /// The pieces of the whole body.
    pub fn pieces(&self) -> &[Bytes] {
        &self.shared.pieces
    }

    /// The whole body in one piece: a shared one if it has one, else a copy.
    pub fn to_bytes(&self) -> Bytes {
        join(&self.shared.pieces)
    }

    /// The body from its beginning, even where this one was read already.
    #[must_use = "the body itself stays where it is"]
    pub fn rewind(&self) -> ReplayBody {
        ReplayBody {
            shared: Arc::clone(&self.shared),
            next: 0,
            left: self.shared.len,
        }
    }

    fn rest(&self) -> Bytes {
        join(self.shared.pieces.get(self.next..).unwrap_or_default())
    }
}

/// What EWS-aware layers ask about the body.
#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
impl ReplayBody {
    /// Creates a body whose outline is known already. It has to be the outline of exactly these
    /// bytes.
    pub(crate) fn with_outline(rope: Rope, outline: Outline) -> ReplayBody {
        let mut body = ReplayBody::from(rope);
        if let Some(shared) = Arc::get_mut(&mut body.shared) {
            shared.outline = LazyOutline::known(outline);
        }
        body
    }

    /// Returns the outline of the whole body.
    ///
    /// It is parsed at the first call and kept for all clones. A body of several pieces is copied
    /// for it, which lasts no longer than that call.
    ///
    /// # Errors
    ///
    /// Why the body has none; see [`Outline::parse`].
    pub fn outline(&self) -> Result<&Outline, &OutlineError> {
        self.shared.outline.outline(|| self.to_bytes())
    }

    /// Returns the mailboxes that the body touches, or `None` if it has no outline.
    ///
    /// They are found at the first call and kept for all clones, as the outline is.
    pub fn targets(&self) -> Option<&Targets> {
        self.shared.outline.targets(|| self.to_bytes())
    }

    /// Returns what the body asks the server to send, or `None` if it has no outline.
    pub(crate) fn sent(&self) -> Option<Sent> {
        self.shared.outline.sent(|| self.to_bytes())
    }
}

impl Body for ReplayBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(piece) = self.shared.pieces.get(self.next).cloned() else {
            return Poll::Ready(None);
        };
        self.next += 1;
        self.left = self.left.saturating_sub(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Default for ReplayBody {
    fn default() -> ReplayBody {
        ReplayBody::empty()
    }
}

/// Lengths alone: a body can hold passwords.
impl fmt::Debug for ReplayBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody")
            .field("len", &self.len())
            .field("pieces", &self.pieces().len())
            .finish()
    }
}

impl From<Rope> for ReplayBody {
    fn from(rope: Rope) -> ReplayBody {
        ReplayBody::from_pieces(rope)
    }
}

impl From<Bytes> for ReplayBody {
    fn from(bytes: Bytes) -> ReplayBody {
        ReplayBody::new(bytes)
    }
}

impl From<Vec<u8>> for ReplayBody {
    fn from(bytes: Vec<u8>) -> ReplayBody {
        ReplayBody::new(bytes)
    }
}

impl From<String> for ReplayBody {
    fn from(text: String) -> ReplayBody {
        ReplayBody::new(text)
    }
}

impl From<&'static str> for ReplayBody {
    fn from(text: &'static str) -> ReplayBody {
        ReplayBody::new(text)
    }
}

impl From<()> for ReplayBody {
    fn from((): ()) -> ReplayBody {
        ReplayBody::empty()
    }
}

/// What was not read yet; a body of several pieces is copied into one.
impl From<ReplayBody> for Full<Bytes> {
    fn from(body: ReplayBody) -> Full<Bytes> {
        Full::new(body.rest())
    }
}

/// What was not read yet. In one piece it is a body that reqwest itself can send again; in several
/// it is streamed, uncopied.
#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
impl From<ReplayBody> for reqwest::Body {
    fn from(body: ReplayBody) -> reqwest::Body {
        match body.shared.pieces.get(body.next..) {
            None | Some([]) => reqwest::Body::from(Bytes::new()),
            Some([piece]) => reqwest::Body::from(piece.clone()),
            Some(_) => reqwest::Body::wrap(body),
        }
    }
}
