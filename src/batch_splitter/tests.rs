//! Tests of the whole layer, in virtual time. This file holds a format of lines, and a server that responds as it is told.

mod lost;
mod outcomes;
mod random;
mod responses;
mod sizes;
mod streams;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service, ServiceExt};

use super::*;
use crate::body::ReplayBody;
use crate::body::rope::Rope;
use crate::extensions::Deadline;
use crate::ledger::{AcquireRequest, AdmissionSlot, LocalLedger, Permit};
use crate::principal::Principal;
use crate::trail::{CallTrail, PartOfBatch, RetryAttempt};

/// Members are the lines of a body that begins with `BATCH` and ends with `END`. A response has a line for each of them:
/// its number, and a word that says its outcome.
#[derive(Clone)]
struct Lines {
    order: Order,
    idempotency: Idempotency,
    /// Members that are joined with the next one.
    joined: Vec<usize>,
    needs: BTreeMap<usize, Vec<usize>>,
    /// The number of groups; members belong to them in turn.
    groups: Option<u64>,
    max_members: usize,
    explains: bool,
    separator: &'static str,
}

impl Lines {
    fn new(order: Order, idempotency: Idempotency) -> Self {
        Self {
            order,
            idempotency,
            joined: Vec::new(),
            needs: BTreeMap::new(),
            groups: None,
            max_members: usize::MAX,
            explains: true,
            separator: "",
        }
    }

    fn writes() -> Self {
        Self::new(Order::Kept, Idempotency::NonIdempotent)
    }

    fn reads() -> Self {
        Self::new(Order::Free, Idempotency::Safe)
    }
}

struct LinesBatch {
    format: Lines,
    members: Vec<Bytes>,
}

impl BatchFormat for Lines {
    type Batch = LinesBatch;

    fn batch(&self, request: &Request<ReplayBody>) -> Option<LinesBatch> {
        let body = request.body().to_bytes();
        let body = body
            .strip_prefix(b"BATCH\n")
            .and_then(|rest| rest.strip_suffix(b"END\n"))
            .map(|lines| body.slice_ref(lines))?;
        let members = body.split_inclusive(|byte| *byte == b'\n');
        Some(LinesBatch {
            format: self.clone(),
            members: members.map(|member| body.slice_ref(member)).collect(),
        })
    }
}

impl Batch for LinesBatch {
    fn operation(&self) -> &str {
        "Lines"
    }

    fn sizing_key(&self) -> &str {
        "Lines"
    }

    fn members(&self) -> usize {
        self.members.len()
    }

    fn member_bytes(&self, member: usize) -> u64 {
        self.members[member].len() as u64
    }

    fn shared_bytes(&self) -> u64 {
        10
    }

    fn order(&self) -> Order {
        self.format.order
    }

    fn idempotency(&self) -> Idempotency {
        self.format.idempotency
    }

    fn max_members(&self) -> usize {
        self.format.max_members
    }

    fn joined(&self, member: usize) -> bool {
        self.format.joined.contains(&member)
    }

    fn group(&self, member: usize) -> Option<u64> {
        self.format.groups.map(|groups| member as u64 % groups)
    }

    fn needs(&self, member: usize) -> &[usize] {
        self.format.needs.get(&member).map_or(&[], Vec::as_slice)
    }

    fn separator(&self) -> &'static str {
        self.format.separator
    }

    fn part(&mut self, members: &[usize]) -> ReplayBody {
        assert!(members.is_sorted() && !members.is_empty());
        let lines = members.iter().map(|member| self.members[*member].clone());
        let begin = std::iter::once(Bytes::from("BATCH\n"));
        ReplayBody::from_pieces(begin.chain(lines).chain([Bytes::from("END\n")]))
    }

    fn response(&mut self, members: &[usize], head: &response::Parts, body: Rope) -> PartResponse {
        let body = body.to_bytes();
        let text = std::str::from_utf8(&body).unwrap();
        let whole = |outcome, too_large| {
            PartResponse::Failure(PartFailure {
                outcome,
                too_large,
                message: text.contains("each").then(|| "server's own\n".into()),
                code: Some("ErrorWhole".into()),
                text: "a fault".into(),
            })
        };
        if let Some(list) = text.strip_prefix("LISTS\n") {
            let lists = list.split('|').map(|list| Rope::from(list.to_owned()));
            return PartResponse::Lists {
                frame: vec!["LISTS\n".into(), "|".into(), "".into()],
                lists: lists.collect(),
            };
        }
        let Some(text) = text
            .strip_prefix("RESPONSE\n")
            .and_then(|t| t.strip_suffix("END\n"))
        else {
            let mut words = text.split_whitespace();
            let retry_after =
                |word: Option<&str>| word.map(|ms| Duration::from_millis(ms.parse().unwrap()));
            assert_eq!(words.next(), Some("FAULT"), "{head:?}");
            return match words.next().unwrap() {
                "failed" => whole(PartOutcome::Failed, false),
                "forall" => whole(PartOutcome::FailedForAll, false),
                "again" => whole(PartOutcome::retry(retry_after(words.next())), false),
                "repeat" => whole(PartOutcome::Retry(Retry::new(None).maybe_executed()), false),
                "large" => whole(PartOutcome::retry(None), true),
                _ => whole(PartOutcome::Unknown, false),
            };
        };
        let separator = if self.format.separator.is_empty() {
            "\n"
        } else {
            self.format.separator
        };
        let messages: Vec<Message> = text
            .split_inclusive(separator)
            .map(|line| {
                let bytes = line.strip_suffix(self.format.separator).unwrap_or(line);
                let mut words = line.split_whitespace().skip(1);
                let outcome = match words.next().unwrap().trim_end_matches(separator) {
                    "ok" => MemberOutcome::Done,
                    "failed" => MemberOutcome::Failed,
                    "stopped" => MemberOutcome::Stopped,
                    "maybe" => MemberOutcome::Retry(Retry::new(None).maybe_executed()),
                    "busy" => MemberOutcome::retry(
                        words
                            .next()
                            .map(|ms| Duration::from_millis(ms.parse().unwrap())),
                    ),
                    other => panic!("{other}"),
                };
                Message::new(body.slice_ref(bytes.as_bytes()), outcome)
            })
            .collect();
        for (member, message) in members.iter().zip(&messages) {
            let text = message.bytes.to_bytes();
            assert!(
                text.starts_with(format!("{member} ").as_bytes()),
                "{member}: {text:?}"
            );
        }
        PartResponse::Messages {
            frame: ("RESPONSE\n".into(), "END\n".into()),
            messages,
        }
    }

    fn explain(&mut self, member: usize, why: &Explanation<'_>) -> Option<Rope> {
        let what = match why {
            Explanation::OutcomeUnknown { .. } => "unknown".to_owned(),
            Explanation::NotExecuted { code, .. } => format!("unsent {}", code.unwrap_or("-")),
            Explanation::DependencyFailed { member } => format!("needs {member}"),
        };
        self.format
            .explains
            .then(|| format!("{member} {what}\n").into())
    }
}

/// What the server does with one call.
struct Reply {
    after: Duration,
    what: What,
}

enum What {
    /// The response's body.
    Response(String),
    /// It breaks off in the middle of the response.
    Cut,
    Error(BoxError),
}

impl Reply {
    fn after(mut self, millis: u64) -> Self {
        self.after = Duration::from_millis(millis);
        self
    }
}

fn text(body: impl Into<String>) -> Reply {
    Reply {
        after: Duration::ZERO,
        what: What::Response(body.into()),
    }
}

fn error(kind: std::io::ErrorKind) -> Reply {
    let error = std::io::Error::from(kind);
    Reply {
        after: Duration::ZERO,
        what: What::Error(error.into()),
    }
}

fn reset() -> Reply {
    error(std::io::ErrorKind::ConnectionReset)
}

fn refused() -> Reply {
    error(std::io::ErrorKind::ConnectionRefused)
}

/// One call, as the server sees it.
#[derive(Clone)]
struct Call {
    number: usize,
    /// How many calls run at the same time, this one among them.
    running: usize,
    members: Vec<usize>,
    at: Duration,
    resend: bool,
    deadline: Option<Instant>,
    part_of_batch: bool,
    trail: CallTrail,
    slot: AdmissionSlot,
}

impl Call {
    /// Each member gets what `outcome` says.
    fn each(&self, outcome: impl Fn(usize) -> String) -> Reply {
        let lines = self
            .members
            .iter()
            .map(|member| format!("{member} {}\n", outcome(*member)));
        text(format!("RESPONSE\n{}END\n", lines.collect::<String>()))
    }

    fn ok(&self) -> Reply {
        self.each(|_| "ok".to_owned())
    }
}

type Script = dyn FnMut(&Call) -> Reply + Send;

#[derive(Clone)]
struct Server(Arc<Mutex<Inner>>);

struct Inner {
    begin: Instant,
    calls: Vec<Call>,
    running: usize,
    peak: usize,
    script: Box<Script>,
}

impl Server {
    fn new(script: impl FnMut(&Call) -> Reply + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            begin: Instant::now(),
            calls: Vec::new(),
            running: 0,
            peak: 0,
            script: Box::new(script),
        })))
    }

    fn calls(&self) -> Vec<Call> {
        self.0.lock().calls.clone()
    }

    /// The members of each call.
    fn parts(&self) -> Vec<Vec<usize>> {
        self.calls().into_iter().map(|call| call.members).collect()
    }

    fn lengths(&self) -> Vec<usize> {
        self.calls().iter().map(|call| call.members.len()).collect()
    }

    fn running(&self) -> usize {
        self.0.lock().running
    }

    fn peak(&self) -> usize {
        self.0.lock().peak
    }
}

/// Counts a call as long as its response is not read to the end.
struct Running(Server);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.lock().running -= 1;
    }
}

impl Service<Request<ReplayBody>> for Server {
    type Response = Response<ServerBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReplayBody>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            assert!(!request.headers().contains_key("content-length"));
            assert!(!request.headers().contains_key("accept-encoding"));
            assert_eq!(request.headers()["authorization"], "Basic x");
            let body = request.body().to_bytes();
            let body = std::str::from_utf8(&body).unwrap();
            let lines = body
                .strip_prefix("BATCH\n")
                .unwrap()
                .strip_suffix("END\n")
                .unwrap();
            let member = |line: &str| line.split_whitespace().next().unwrap().parse().unwrap();
            let members = lines.lines().map(member).collect();
            let (reply, running) = {
                let mut inner = server.0.lock();
                inner.running += 1;
                inner.peak = inner.peak.max(inner.running);
                let call = Call {
                    number: inner.calls.len(),
                    running: inner.running,
                    members,
                    at: inner.begin.elapsed(),
                    resend: request.extensions().get::<RetryAttempt>().is_some(),
                    deadline: request.extensions().get().map(|Deadline(at)| *at),
                    part_of_batch: request.extensions().get::<PartOfBatch>().is_some(),
                    trail: CallTrail::of(request.extensions())
                        .cloned()
                        .unwrap_or_default(),
                    slot: request.extensions().get::<AdmissionSlot>().unwrap().clone(),
                };
                let reply = (inner.script)(&call);
                inner.calls.push(call);
                (reply, Running(server.clone()))
            };
            tokio::time::sleep(reply.after).await;
            let (text, cut) = match reply.what {
                What::Response(text) => (text, false),
                What::Cut => ("RESPONSE\n".to_owned(), true),
                What::Error(error) => return Err(error),
            };
            let response = Response::builder()
                .status(if text.starts_with("FAULT") { 500 } else { 200 })
                .header("content-length", text.len())
                .header("transfer-encoding", "chunked")
                .header("x-call", server.calls().len());
            // Pieces that are cut at odd places.
            let pieces = text.as_bytes().chunks(7).rev().map(Bytes::copy_from_slice);
            let pieces = pieces.collect();
            Ok(response
                .body(ServerBody {
                    pieces,
                    cut,
                    running: Some(running),
                })
                .unwrap())
        })
    }
}

struct ServerBody {
    pieces: Vec<Bytes>,
    cut: bool,
    running: Option<Running>,
}

impl Body for ServerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(match self.pieces.pop() {
            Some(piece) => Some(Ok(Frame::data(piece))),
            None if self.cut => Some(Err("cut off".into())),
            None => {
                self.running = None;
                None
            }
        })
    }
}

fn batch(members: usize) -> Request<ReplayBody> {
    let lines: String = (0..members)
        .map(|member| format!("{member} payload\n"))
        .collect();
    Request::post("https://mail.contoso.com/lines")
        .header("content-length", "7")
        .header("accept-encoding", "gzip")
        .header("authorization", "Basic x")
        .body(ReplayBody::from(format!("BATCH\n{lines}END\n")))
        .unwrap()
}

fn layer(format: Lines) -> BatchSplitterLayer<Lines> {
    BatchSplitterLayer::new(format).start_members(10).seed(1)
}

type Sent = Result<Response<MergedBody<ServerBody>>, BoxError>;

async fn send(layer: &BatchSplitterLayer<Lines>, server: &Server, members: usize) -> Sent {
    layer
        .layer(server.clone())
        .oneshot(traced(batch(members)))
        .await
}

/// A request whose caller wants to know what happens to it.
fn traced(mut request: Request<ReplayBody>) -> Request<ReplayBody> {
    request.extensions_mut().insert(CallTrail::new());
    request
}

/// The lines of a response, without its frame.
async fn lines(response: Response<MergedBody<ServerBody>>) -> Vec<String> {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let body = body
        .strip_prefix("RESPONSE\n")
        .and_then(|body| body.strip_suffix("END\n"));
    body.expect("a response")
        .lines()
        .map(str::to_owned)
        .collect()
}

/// What each member gets, as if `outcome` were its message.
fn expected(members: usize, outcome: impl Fn(usize) -> String) -> Vec<String> {
    (0..members)
        .map(|member| format!("{member} {}", outcome(member)))
        .collect()
}

fn ok(members: usize) -> Vec<String> {
    expected(members, |_| "ok".to_owned())
}

fn stats<B>(response: &Response<B>) -> BatchStats {
    response
        .extensions()
        .get::<BatchReport>()
        .expect("stats")
        .stats()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
