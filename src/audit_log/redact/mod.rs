//! [`Redaction`]: what must not reach a sink. A stand-in with the methods that the layer calls.

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, SET_COOKIE};
use http::{HeaderName, HeaderValue, Uri};

/// Removes secrets.
///
/// ```
/// use tower_ews::audit_log::Redaction;
///
/// let redaction = Redaction::default();
/// assert_eq!(&*redaction.mailbox("amy@contoso.com"), "amy@contoso.com");
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Redaction {}

impl Redaction {
    /// A header's value.
    pub fn header(&self, name: &HeaderName, value: &HeaderValue) -> Box<str> {
        if [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, SET_COOKIE].contains(name) {
            return "[redacted]".into();
        }
        String::from_utf8_lossy(value.as_bytes()).into()
    }

    /// What was kept of a body of `total` bytes.
    pub fn body(&self, _: Option<&str>, pieces: &[Bytes], _total: u64, _truncated: bool) -> Bytes {
        match pieces {
            [piece] => piece.clone(),
            pieces => pieces
                .iter()
                .fold(BytesMut::new(), |mut all, piece| {
                    all.extend_from_slice(piece);
                    all
                })
                .freeze(),
        }
    }

    /// The path and query of a URL.
    pub fn url(&self, uri: &Uri) -> Box<str> {
        uri.path().into()
    }

    /// The text of an error.
    pub fn text(&self, text: &str) -> Box<str> {
        text.into()
    }

    /// A mailbox or account.
    pub fn mailbox(&self, name: &str) -> Box<str> {
        name.into()
    }
}
