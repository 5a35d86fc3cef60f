//! [`EwsBody`]: the response body of the stack.

use std::fmt;

use bytes::Bytes;
use http_body::Body;
use pin_project::pin_project;

use crate::account_pool::PoolBody;
use crate::audit_log::AuditBody;
use crate::batch_splitter::MergedBody;
use crate::body::inflate_body::InflateBody;
use crate::concurrency_by_principal::PermitBody;
use crate::find_paging::PagedBody;
use crate::server_busy_backoff::PeekBody;

/// The body below the audit log.
pub(super) type Unlogged<B> = PagedBody<MergedBody<PeekBody<PoolBody<PermitBody<InflateBody<B>>>>>>;

type Inner<B> = AuditBody<Unlogged<B>>;

/// The response body of [`EwsService`](super::EwsService): the client's, or the one response that the parts of a batch make.
///
/// It holds the permits of its call until its end was read or it is dropped: see
/// [`concurrency_by_principal`](crate::concurrency_by_principal). The stack reads the first 64 KiB of a response itself, so a
/// shorter one holds no permit any more. The body of a batch that only reads sends the parts that are
/// left while it is read.
///
/// # Errors
///
/// The client's, and those of [`EwsStack`](super::EwsStack).
///
/// ```
/// use http_body::Body;
/// use http_body_util::BodyExt;
/// use tower::BoxError;
/// use tower_ews::stack::EwsBody;
///
/// async fn text<B>(response: http::Response<EwsBody<B>>) -> Result<String, BoxError>
/// where
///     B: Body<Data = bytes::Bytes, Error: Into<BoxError>>,
/// {
///     let bytes = response.into_body().collect().await?.to_bytes();
///     Ok(String::from_utf8(bytes.into())?)
/// }
/// ```
#[pin_project]
#[must_use = "bodies do nothing unless they are polled"]
pub struct EwsBody<B: Body<Data = Bytes>>(#[pin] Inner<B>);

impl<B: Body<Data = Bytes>> EwsBody<B> {
    pub(super) fn new(inner: Inner<B>) -> Self {
        Self(inner)
    }
}

body_of_inner!(EwsBody, Body<Data = Bytes>);

impl<B: Body<Data = Bytes>> fmt::Debug for EwsBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EwsBody").field(&self.0).finish()
    }
}
