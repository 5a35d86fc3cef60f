//! The JSON batches of Microsoft Graph: [`GraphBatchFormat`].

mod batch;
mod json;
mod member;
mod read;
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
/// Graph takes 20 requests at a time (microsoft-graph-docs, "json-batching"). A smaller batch goes out as it is; it is a batch
/// of this format too, so that those of its requests that come back throttled are sent again, and they alone. A part is made of
/// the caller's own bytes, whatever else stands in the object beside `requests`. A request body of several pieces is joined
/// once to be read.
///
/// `dependsOn` is kept: a request is sent in the part of the one that it depends on, or later, when that one has succeeded. Then the
/// id of that one is cut out of its `dependsOn`, because Graph refuses a batch that names a request outside of it. Nothing else
/// of a request is changed. Graph wants a batch to be sequential from its first request to its last, or not at all: so are the parts
/// if the batch was.
///
/// # What goes through untouched
///
/// Everything else, and each batch of which the server itself has to say what is wrong with it, or that could mean something else in
/// parts:
///
/// - fewer than two requests, JSON that is broken or has a property twice, a compressed body;
/// - a request without `id`, `method` or `url`, ids that are equal (Graph does not tell upper case from lower case), a `dependsOn` that
///   names an unknown request, itself, or a later one;
/// - what OData allows beyond Graph: atomicity groups, `if`, references to the result of another request (`$id`), answers that are not
///   JSON or that come later (`Prefer: respond-async`).
///
/// # Answers
///
/// Answers are found by their `id`, in whatever order they come, and stay as they are. What stands beside `responses` in the first
/// part's answer stays. Of a single request,
///
/// - 429, 503 and 509 (Graph's bandwidth limit) mean that it was not executed: it is sent again, no earlier than its own
///   `Retry-After` says, or else that of the whole answer;
/// - 424 means the same if what it depends on is sent again, else it has failed;
/// - 408, 500, 502 and 504, or no answer at all, say nothing about what was done: a `GET` is sent again, three times at most;
///   anything else is not;
/// - everything else that is not 2xx or 3xx has failed for good.
///
/// An answer whose id was not asked for belongs to nobody; one that is there twice, with different content, counts as none.
///
/// A whole answer is judged likewise; 413 and 504 ask for smaller parts. After a lost connection a part of `GET`s alone is sent again as it
/// is. `PUT` and `DELETE` come to the same when they are repeated, but can then answer 404 or 412. `PATCH` does not count as
/// such: an update can notify people each time.
///
/// # Answers of our own
///
/// Where the server gave no answer for a request, it gets one in Graph's shape, with an `error` of this `code`:
///
/// | status | code | meaning |
/// | --- | --- | --- |
/// | 500 | `OutcomeUnknown` | it was sent, and nobody knows what became of it. Not 504: Graph's SDKs repeat on that |
/// | 503 | `NotExecuted`, or the code of the refusal | it was not executed |
/// | 424 | `FailedDependency` | a request that it depends on failed |
///
/// If the whole part was refused, its requests get the status, the `Retry-After` and the error of that refusal instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct GraphBatchFormat;

impl GraphBatchFormat {
    /// The format as Microsoft Graph documents it.
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

/// Whether these are the headers of a request that is JSON and is answered with JSON, there and then.
fn is_json(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, wanted: &[&str]| {
        let mut values = headers.get_all(name).iter().peekable();
        // No header, no restriction.
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
