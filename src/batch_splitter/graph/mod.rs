//! [`GraphBatchFormat`]: the JSON batches of Microsoft Graph.

mod batch;
mod json;
mod lenient;
mod member;
mod outcome;
mod part_response;
mod size;
#[cfg(test)]
mod tests;

use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName};
use http::{HeaderMap, Method, Request};

use super::format::BatchFormat;
use crate::body::{ReplayBody, encoding};

pub use self::batch::GraphBatch;

/// Microsoft Graph's JSON batches: a `POST` of `{"requests":[...]}` to a path that ends in `/$batch`.
///
/// ```
/// use http::Request;
/// use tower_ews::batch_splitter::{Batch, BatchFormat, GraphBatchFormat};
///
/// let requests: Vec<String> = (1..=50)
///     .map(|id| format!(r#"{{"id":"{id}","method":"GET","url":"/users/{id}"}}"#))
///     .collect();
/// let request = Request::post("https://graph.microsoft.com/v1.0/$batch")
///     .header("content-type", "application/json")
///     .body(format!(r#"{{"requests":[{}]}}"#, requests.join(",")).into())
///     .unwrap();
///
/// let mut batch = GraphBatchFormat::new().batch(&request).unwrap();
/// assert_eq!((batch.members(), batch.max_members()), (50, 20));
/// let part = batch.part(&[7, 48]).to_bytes();
/// assert_eq!(
///     part,
///     r#"{"requests":[{"id":"8","method":"GET","url":"/users/8"},{"id":"49","method":"GET","url":"/users/49"}]}"#
/// );
/// ```
///
/// # Parts
///
/// Graph accepts 20 requests in one batch (microsoft-graph-docs, "json-batching"). A smaller batch is sent as it is, but counts
/// as a batch too: those of its requests that come back throttled are sent again, and only those. A part consists of the
/// caller's own bytes, including everything beside `requests`. A request body of several pieces is joined once to be read.
///
/// `dependsOn` is kept: a request is sent in the part of the one that it depends on, or later, when that one has succeeded.
/// In the latter case the id is removed from `dependsOn`, because Graph refuses a batch that names a request outside of it.
/// Nothing else of a request is changed. Graph accepts batches that are sequential from the first request to the last, or
/// not at all. Parts of a sequential batch are sequential, too.
///
/// Graph compares ids without regard to case. Requests whose ids differ in nothing else go into different parts.
///
/// Graph executes as many requests as it has room for (four concurrent ones in one mailbox) and throttles the others. Parts shrink to
/// as many as were not throttled, and try one more from time to time. How many a batch in flight draws on is said by
/// [`GraphCharges`](crate::principal::GraphCharges).
///
/// # What is forwarded unchanged
///
/// Everything else, and each batch that the server has to reject itself or whose meaning would change if it were split:
///
/// - fewer than two requests, JSON that is broken or has a property twice, a compressed body;
/// - a request without `id`, `method` or `url`, equal ids, a `dependsOn` that names an unknown request, itself, a later one,
///   or two in another case than theirs;
/// - what OData allows beyond Graph: atomicity groups, `if`, references to the result of another request (`$id`), responses
///   that are not JSON or that come later (`Prefer: respond-async`).
///
/// # Responses
///
/// Responses are found by their `id`, in any order, and stay as they are. The merged response keeps what stands beside
/// `responses` in the first part's. For a single request,
///
/// - 429, 503 and 509 (Graph's bandwidth limit) mean that it was not executed: it is sent again, no earlier than its own
///   `Retry-After` says, or else that of the whole response;
/// - 408 and 425 mean the same, but it is sent again six times at most;
/// - 424 means that it is sent again with the request that it depends on, if that one is, and a failure otherwise;
/// - other 5xx, or no response that can be read, do not say whether it was executed: a `GET`, `PUT` or `DELETE` is sent again, six
///   times at most, and the outcome of anything else is unknown. 501, 505 to 508, 510 and 511 are no such status: nothing
///   was executed;
/// - everything else that is not 2xx or 3xx is a final failure.
///
/// A response with an id that was not sent is ignored; two responses with one id and different content count as none.
///
/// Each response that can be read counts, whatever surrounds it: if the batch as a whole has the status of an error, if a gateway
/// has put a page where JSON should be, or if the end is missing. What cannot be read costs its own request alone. The merged
/// response then has the status 200.
///
/// An `@odata.nextLink` says where the server has put more responses. It is not followed: nobody has seen Graph send one for a
/// batch that is not asynchronous, and such batches are forwarded unchanged. A request without a response is told the link in
/// its `OutcomeUnknown`, unless it can be sent again.
///
/// The status of a whole response without any is judged likewise; 413 and 507 make parts smaller, and so does a 5xx. After a
/// lost connection a part of `GET`s alone is sent again. `PUT` and `DELETE` have the same effect when they are repeated, but can
/// then respond with 404 or 412. `PATCH` does not count as idempotent: an update can notify people each time.
///
/// # Responses of this crate
///
/// A request without a response of the server's gets one in Graph's format, with an `error` of this `code`:
///
/// | status | code | meaning |
/// | --- | --- | --- |
/// | 500 | `OutcomeUnknown` | it was sent, and may have been executed. Not 504: Graph's SDKs retry after that |
/// | 503 | `NotExecuted`, or the code of the refusal | it was not executed |
/// | 424 | `FailedDependency` | a request that it depends on failed |
///
/// If the whole part was refused, its requests get the status, the `Retry-After` and the error of that refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct GraphBatchFormat;

impl GraphBatchFormat {
    /// Creates the format as Microsoft Graph documents it.
    pub fn new() -> GraphBatchFormat {
        GraphBatchFormat
    }
}

impl BatchFormat for GraphBatchFormat {
    type Batch = GraphBatch;

    fn batch(&self, request: &Request<ReplayBody>) -> Option<GraphBatch> {
        let uri = request.uri();
        let path = uri.path();
        let for_batches = path.ends_with("/$batch") || path.ends_with("/%24batch");
        if request.method() != Method::POST || !for_batches || !is_json(request.headers()) {
            return None;
        }
        let host = uri.host().or_else(|| {
            let host = request.headers().get(HOST)?;
            host.to_str().ok()
        });
        let sizing_key = format!("{}{path}", host.unwrap_or_default());
        GraphBatch::read(request.body().to_bytes(), sizing_key.into())
    }
}

/// Whether these are the headers of a JSON request whose response is JSON and comes at once.
fn is_json(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, wanted: &[&str]| {
        let mut values = headers.get_all(name).iter().peekable();
        // Without the header there is no restriction.
        values.peek().is_none()
            || values.any(|value| {
                let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
                wanted.iter().any(|wanted| value.contains(wanted))
            })
    };
    let prefer = headers.get_all(HeaderName::from_static("prefer"));
    let later = prefer.iter().any(|value| {
        let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
        value.contains("respond-async")
    });
    encoding(headers).is_none()
        && !later
        && has(CONTENT_TYPE, &["json"])
        && has(ACCEPT, &["json", "*/*", "application/*"])
}
