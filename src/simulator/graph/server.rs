//! [`Graph`]: the server as a tower service and on a socket.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{HeaderMap, Method, Request, Response, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_service::Service;

use super::limits::Limits;
use super::mailbox::Mailbox;
use super::policy::GraphPolicy;
use super::reply::Reply;
use super::report::GraphReport;
use super::request::{Resource, Wanted};
use crate::simulator::body::ConnectionLost;
use crate::simulator::http::{Server, serve};

type Outcome = Result<Response<Full<Bytes>>, ConnectionLost>;

/// How many requests of a batch run at the same time, whatever mailboxes they are for (microsoft-graph-docs, pull
/// 20833).
const AT_A_TIME_IN_BATCH: usize = 4;

/// A simulated Microsoft Graph. Clones are handles of the same one.
///
/// ```
/// use http::Request;
/// use tower::ServiceExt;
/// use tower_ews::simulator::{Graph, GraphPolicy};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
/// let graph = Graph::new(GraphPolicy::outlook());
/// let create = Request::post("https://graph.microsoft.com/v1.0/users/amy@contoso.com/messages")
///     .header("authorization", "Bearer my-application")
///     .body(r#"{"subject":"Stand-up"}"#.to_owned())?;
/// let response = graph.clone().oneshot(create).await?;
/// assert_eq!(response.status(), 201);
/// assert_eq!(graph.report().created["Stand-up"], 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Graph {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    policy: GraphPolicy,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    mailboxes: HashMap<String, Mailbox>,
    /// By application and mailbox.
    limits: HashMap<(String, String), Limits>,
    report: GraphReport,
}

/// Counts a request as in flight until it is dropped.
struct InFlight {
    shared: Arc<Shared>,
    key: (String, String),
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if let Some(limits) = state.limits.get_mut(&self.key) {
            limits.leave();
        }
    }
}

impl Graph {
    /// Creates a server with empty mailboxes. Any name of a mailbox is one.
    pub fn new(policy: GraphPolicy) -> Self {
        let state = Mutex::default();
        Self {
            shared: Arc::new(Shared { policy, state }),
        }
    }

    /// What it saw so far.
    pub fn report(&self) -> GraphReport {
        self.shared.state.lock().report.clone()
    }

    /// Binds a port of the loopback interface and serves it until the handle is dropped.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub async fn serve_on_loopback(&self) -> io::Result<Server> {
        serve(
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
            self.clone(),
        )
    }
}

impl<B> Service<Request<B>> for Graph
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Full<Bytes>>;
    type Error = ConnectionLost;
    type Future = GraphFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectionLost>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> GraphFuture {
        let shared = Arc::clone(&self.shared);
        GraphFuture(Box::pin(async move {
            let (head, body) = request.into_parts();
            // A client that breaks off is owed no response.
            let body = body.collect().await.map_err(|_| ConnectionLost::reset())?;
            let url = head.uri.path_and_query().map_or("/", |url| url.as_str());
            let (body, base) = (body.to_bytes(), base(&head.uri, &head.headers));
            let mut wanted = Wanted::new(head.method, url, body, base);
            wanted.range = text(&head.headers, header::CONTENT_RANGE).map(str::to_owned);
            let application = application(&head.headers);
            // It goes on with what its client has given up.
            let run = tokio::spawn(shared.respond(application, wanted));
            let reply = run.await.map_err(|_| ConnectionLost::reset())?;
            Ok(reply.http())
        }))
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Where the client found the server.
fn base(uri: &http::Uri, headers: &HeaderMap) -> String {
    let host = uri.authority().map(|host| host.as_str());
    let host = host.or_else(|| text(headers, header::HOST));
    let scheme = uri.scheme_str().unwrap_or("http");
    format!("{scheme}://{}", host.unwrap_or("graph.microsoft.com"))
}

fn application(headers: &HeaderMap) -> Option<String> {
    let token = text(headers, header::AUTHORIZATION)?.strip_prefix("Bearer ")?;
    Some(token.trim().to_owned())
}

impl Shared {
    async fn respond(self: Arc<Self>, application: Option<String>, wanted: Wanted) -> Reply {
        // The URL of an upload is a secret of its own.
        let upload = matches!(wanted.target(), Some((_, Resource::Upload(..))));
        let application = match application {
            None if upload => String::new(),
            None => {
                return Reply::error(401, "InvalidAuthenticationToken", "Access token is empty.");
            }
            Some(application) => application,
        };
        match wanted.is_batch() {
            true => self.batch(&application, &wanted).await,
            false => self.one(&application, wanted).await,
        }
    }

    async fn one(self: Arc<Self>, application: &str, wanted: Wanted) -> Reply {
        let reply = self.run(application, wanted).await;
        let report = &mut self.state.lock().report;
        report.requests += 1;
        report.throttled += u64::from(reply.status == 429);
        report.refused += u64::from(reply.status >= 400 && reply.status != 429);
        reply
    }

    async fn run(self: &Arc<Self>, application: &str, wanted: Wanted) -> Reply {
        let Some((mailbox, resource)) = wanted.target() else {
            return Reply::bad_request("Resource not found for the segment.");
        };
        let key = (application.to_owned(), mailbox.clone());
        let place = {
            let state = &mut *self.state.lock();
            let limits = state.limits.entry(key.clone()).or_default();
            match limits.enter(&self.policy, wanted.upload()) {
                Err(wait) => return Reply::throttled(wait),
                Ok(in_flight) => {
                    let peak = &mut state.report.peak_in_flight;
                    *peak = in_flight.max(*peak);
                }
            }
            let shared = Arc::clone(self);
            InFlight { shared, key }
        };
        tokio::time::sleep(self.policy.request_time).await;
        let reply = {
            let state = &mut *self.state.lock();
            let page = self.policy.page;
            let stored = state.mailboxes.entry(mailbox.clone()).or_default();
            stored.execute(&mailbox, &resource, &wanted, page, &mut state.report)
        };
        drop(place);
        reply
    }

    async fn batch(self: Arc<Self>, application: &str, wanted: &Wanted) -> Reply {
        self.state.lock().report.batches += 1;
        let mut waiting = match members(wanted, self.policy.batch) {
            Ok(members) => members,
            Err(refusal) => return refusal,
        };
        let mut running = FuturesUnordered::new();
        let mut succeeded: BTreeMap<String, bool> = BTreeMap::new();
        let mut responses = Vec::new();
        loop {
            let mut later = Vec::new();
            for member in waiting {
                let needs: Option<Vec<bool>> = member
                    .needs
                    .iter()
                    .map(|id| succeeded.get(id).copied())
                    .collect();
                match needs {
                    Some(needs) if needs.contains(&false) => {
                        succeeded.insert(member.id.to_lowercase(), false);
                        let message = "A request that this one depends on has failed.";
                        let reply = Reply::error(424, "FailedDependency", message);
                        responses.push(reply.in_batch(&member.id));
                    }
                    Some(_) if running.len() < AT_A_TIME_IN_BATCH => {
                        let one = Arc::clone(&self).one(application, member.wanted);
                        let id = member.id;
                        running.push(async move { (id, one.await) });
                    }
                    _ => later.push(member),
                }
            }
            waiting = later;
            let Some((id, reply)) = running.next().await else {
                break;
            };
            succeeded.insert(id.to_lowercase(), reply.status < 400);
            responses.push(reply.in_batch(&id));
        }
        Reply::new(200, json!({ "responses": responses }))
    }
}

/// One request of a batch.
struct Member {
    id: String,
    needs: Vec<String>,
    wanted: Wanted,
}

/// The requests of a batch, each of which depends on earlier ones alone.
fn members(batch: &Wanted, most: usize) -> Result<Vec<Member>, Reply> {
    let body: Value = serde_json::from_slice(&batch.body)
        .map_err(|_| Reply::bad_request("Unable to read JSON request payload."))?;
    let requests = body["requests"].as_array().map_or(&[][..], Vec::as_slice);
    if requests.is_empty() || requests.len() > most {
        let message = format!("A batch has 1 to {most} requests.");
        return Err(Reply::bad_request(&message));
    }
    let mut members: Vec<Member> = Vec::new();
    for request in requests {
        let member = member(request, &batch.base);
        let member = member.ok_or_else(|| Reply::bad_request("Invalid batch request."))?;
        let known = |id: &String| members.iter().any(|member| member.id.to_lowercase() == *id);
        if known(&member.id.to_lowercase()) || !member.needs.iter().all(known) {
            return Err(Reply::bad_request("Invalid id or dependency."));
        }
        members.push(member);
    }
    Ok(members)
}

fn member(request: &Value, base: &str) -> Option<Member> {
    let method = Method::from_bytes(request["method"].as_str()?.as_bytes()).ok()?;
    let body = match &request["body"] {
        Value::Null => Bytes::new(),
        body => body.to_string().into(),
    };
    let needs = request["dependsOn"].as_array();
    let needs = needs.map_or(&[][..], Vec::as_slice).iter();
    let needs = needs.map(|id| Some(id.as_str()?.to_lowercase()));
    Some(Member {
        id: request["id"].as_str()?.to_owned(),
        needs: needs.collect::<Option<_>>()?,
        wanted: Wanted::new(method, request["url"].as_str()?, body, base.to_owned()),
    })
}

/// Response future of [`Graph`]. When it is dropped after the request was read, the server goes on all the same.
#[must_use = "futures do nothing unless they are polled"]
pub struct GraphFuture(Pin<Box<dyn Future<Output = Outcome> + Send>>);

impl Future for GraphFuture {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for GraphFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphFuture").finish_non_exhaustive()
    }
}
