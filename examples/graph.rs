//! Microsoft Graph through the layers: a batch of 180 messages, their delta, and an upload in ranges.
//!
//! ```text
//! cargo run --example graph
//! ```
//!
//! It brings its own small Graph (`tower_ews::simulator::Graph`) on a loopback socket, which allows less than the documents
//! say and does not tell. Asserts what it shows, and ends by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tower_ews::ServiceBuilderExt;
use tower_ews::batch_splitter::GraphBatchFormat;
use tower_ews::body::ReplayBody;
use tower_ews::ledger::Ledger;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::server_busy_backoff::HttpClassifier;
use tower_ews::simulator::{Graph, GraphPolicy};

const MAILBOXES: [&str; 3] = ["amy@contoso.com", "bob@contoso.com", "eve@contoso.com"];
const EACH: usize = 60;
const FILE: usize = 1_000_000;
const RANGE: usize = 300_000;

/// A client of Graph, and where the API is.
#[derive(Clone)]
struct Api {
    client: BoxCloneSyncService<Request<Full<Bytes>>, (StatusCode, Value), BoxError>,
    base: String,
}

/// The status and the whole body of a response.
async fn whole<B>(response: Response<B>) -> Result<(StatusCode, Value), BoxError>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(Into::into)?.to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok((head.status, body))
}

impl Api {
    /// The layers around hyper-util's client, with the limits that Microsoft's documents have.
    fn new(base: String) -> Self {
        let policy = ThrottlingPolicy::graph_outlook();
        let ledger: Arc<dyn Ledger> = Arc::new(policy.ledger());
        let client = ServiceBuilder::new()
            .map_request(|request: Request<Full<Bytes>>| request)
            .buffer_request(policy.max_request)
            .batch_splitter(GraphBatchFormat::new())
            .server_busy_backoff_with_ledger(Arc::clone(&ledger), HttpClassifier)
            .concurrency_by_principal_with_ledger(ledger, policy.graph_charges("app"))
            .client_request_id()
            .service(Client::builder(TokioExecutor::new()).build_http::<ReplayBody>());
        let client = client.map_err(BoxError::from).and_then(whole);
        let client = BoxCloneSyncService::new(client);
        Self { client, base }
    }

    /// `url` is a link of an earlier response, or a path of the API.
    async fn send(&self, method: Method, url: &str, body: Value) -> Result<Value, BoxError> {
        let url = match url.starts_with('/') {
            true => format!("{}/v1.0{url}", self.base),
            false => url.to_owned(),
        };
        let request = Request::builder().method(method).uri(url);
        let request = request.header("authorization", "Bearer app");
        let request = request.header("content-type", "application/json");
        let body = Full::from(body.to_string());
        let (status, body) = self.client.clone().oneshot(request.body(body)?).await?;
        match status.is_success() {
            true => Ok(body),
            false => Err(format!("{status}: {body}").into()),
        }
    }

    /// Creates messages in all mailboxes by one batch. Graph takes twenty requests at a time: the layer cuts it.
    async fn create(&self) -> Result<(), BoxError> {
        let requests: Vec<Value> = (0..MAILBOXES.len() * EACH)
            .map(|n| {
                let mailbox = MAILBOXES[n % MAILBOXES.len()];
                let body = json!({ "subject": format!("message {n}") });
                let headers = json!({"Content-Type": "application/json"});
                let url = format!("/users/{mailbox}/messages");
                json!({"id": n.to_string(), "method": "POST", "url": url, "headers": headers, "body": body})
            })
            .collect();
        let batch = json!({ "requests": requests });
        let response = self.send(Method::POST, "/$batch", batch).await?;
        let responses = response["responses"].as_array().ok_or("no responses")?;
        assert_eq!(responses.len(), MAILBOXES.len() * EACH);
        assert!(responses.iter().all(|response| response["status"] == 201));
        Ok(())
    }

    /// Follows a delta to its end. Returns the messages and the link for the next time.
    async fn delta(&self, mut link: String) -> Result<(Vec<Value>, String), BoxError> {
        let mut messages = Vec::new();
        loop {
            let mut page = self.send(Method::GET, &link, Value::Null).await?;
            messages.extend(
                page["value"]
                    .as_array_mut()
                    .into_iter()
                    .flatten()
                    .map(Value::take),
            );
            match (
                page["@odata.nextLink"].as_str(),
                page["@odata.deltaLink"].as_str(),
            ) {
                (Some(next), _) => link = next.to_owned(),
                (None, Some(done)) => return Ok((messages, done.to_owned())),
                (None, None) => return Err("a page without a link".into()),
            }
        }
    }

    /// Attaches a file. The upload URL is a secret of its own: no token goes there.
    async fn upload(&self, mailbox: &str, message: &str) -> Result<(), BoxError> {
        let item =
            json!({"AttachmentItem": {"attachmentType": "file", "name": mailbox, "size": FILE}});
        let url = format!("/users/{mailbox}/messages/{message}/attachments/createUploadSession");
        let session = self.send(Method::POST, &url, item).await?;
        let url = session["uploadUrl"].as_str().ok_or("no uploadUrl")?;
        let file = Bytes::from(vec![7; FILE]);
        let mut next = 0;
        while next < FILE {
            let end = (next + RANGE).min(FILE);
            let range = format!("bytes {next}-{}/{FILE}", end - 1);
            let request = Request::put(url).header("content-range", range);
            let request = request.body(Full::new(file.slice(next..end)))?;
            let (status, body) = self.client.clone().oneshot(request).await?;
            assert!(status.is_success(), "{status}: {body}");
            next = end;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let graph = Graph::new(GraphPolicy::outlook().with(|policy| {
        policy.requests = (50, Duration::from_secs(2));
        policy.request_time = Duration::from_millis(10);
    }));
    let server = graph.serve_on_loopback().await?;
    let api = Api::new(format!("http://{}", server.local_addr()));
    let begun = Instant::now();

    api.create().await?;
    println!(
        "180 messages by one batch: {:.1} s",
        begun.elapsed().as_secs_f64()
    );

    let mailboxes = MAILBOXES.map(async |mailbox| {
        let first = format!("/users/{mailbox}/mailFolders/inbox/messages/delta");
        let (messages, link) = api.delta(first).await?;
        assert_eq!(messages.len(), EACH);
        let id = messages[0]["id"].as_str().ok_or("no id")?;
        api.upload(mailbox, id).await?;
        let url = format!("/users/{mailbox}/messages/{id}");
        api.send(Method::DELETE, &url, Value::Null).await?;
        let (changes, _) = api.delta(link).await?;
        assert_eq!(changes.len(), 1);
        assert!(changes[0]["@removed"].is_object());
        Ok::<_, BoxError>(())
    });
    try_join_all(mailboxes).await?;

    let report = graph.report();
    println!(
        "{} requests in {:.1} s, {} throttled, {} at a time in a mailbox",
        report.requests,
        begun.elapsed().as_secs_f64(),
        report.throttled,
        report.peak_in_flight
    );
    assert_eq!(report.created.len(), MAILBOXES.len() * EACH);
    assert!(
        report.created.values().all(|times| *times == 1),
        "created twice"
    );
    assert!(
        MAILBOXES
            .iter()
            .all(|mailbox| report.attached[*mailbox] == FILE as u64)
    );
    assert_eq!(report.refused, 0);
    assert!(report.throttled > 0, "the hidden limit was never met");
    Ok(())
}
