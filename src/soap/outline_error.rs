//! [`OutlineError`]: why a body has no outline.

/// Why a body has no outline. It can go to the server all the same, as it is.
///
/// ```
/// use tower_ews::soap::{Outline, OutlineError};
///
/// let error = Outline::parse(b"<!DOCTYPE x><x/>").unwrap_err();
/// assert_eq!(error, OutlineError::Dtd { at: 0 });
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutlineError {
    /// A document type declaration: it can hide anything, and no EWS request has one.
    #[error("document type declaration at byte {at}: remove it, EWS requests have none")]
    Dtd {
        /// Offset of the declaration.
        at: usize,
    },
    /// Not UTF-8.
    #[error("the body is in {name}: send UTF-8")]
    Encoding {
        /// The encoding, as declared or as its first bytes show.
        name: Box<str>,
    },
    /// Content after the end of the envelope.
    #[error("content after the envelope at byte {at}: send one envelope per request")]
    SecondRoot {
        /// Offset of it.
        at: usize,
    },
    /// More than one element in the SOAP body.
    #[error("a second operation at byte {at}: send one operation per request")]
    SecondOperation {
        /// Offset of the second one.
        at: usize,
    },
    /// An end tag that closes nothing, or not what is open.
    #[error("the end tag at byte {at} does not match: check the nesting")]
    Unbalanced {
        /// Offset of the end tag.
        at: usize,
    },
    /// The body ends too early.
    #[error("the body ends at byte {at} with an unclosed element: was it cut off?")]
    Truncated {
        /// Length of the body.
        at: usize,
    },
    /// Not XML.
    #[error("malformed markup at byte {at}")]
    Malformed {
        /// Offset of the markup.
        at: usize,
    },
    /// XML, but no SOAP request; or no XML at all, such as a compressed body.
    #[error("not a SOAP request: expected {expected} at byte {at}")]
    NotSoap {
        /// What should have been there.
        expected: &'static str,
        /// Offset where it is missing.
        at: usize,
    },
    /// An entity that XML does not define, in a value that had to be read.
    #[error(
        "undefined entity in the text at byte {at}: only the five predefined ones and character references are known"
    )]
    Entity {
        /// Offset of the text or of its tag.
        at: usize,
    },
    /// A value that had to be read is not UTF-8.
    #[error("invalid UTF-8 at byte {at}")]
    InvalidUtf8 {
        /// Offset of the first wrong byte.
        at: usize,
    },
    /// More than 1,024 elements inside each other, or namespaces declared at the same time.
    #[error("elements or namespaces nested too deeply at byte {at}: at most 1024 levels are read")]
    TooDeep {
        /// Offset of the innermost one.
        at: usize,
    },
    /// 4 GiB or more.
    #[error("a body of {len} bytes is too large")]
    TooLarge {
        /// Length of the body.
        len: usize,
    },
}
