//! The way of a request through the gateway.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use http_body_util::{BodyExt, BodyStream, LengthLimitError, Limited, StreamBody};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_ews::body::{BufferRequestLayer, ReplayBody};
use tower_ews::extensions::Deadline;
use tower_ews::http_client::HttpsClient;
use tower_ews::soap::{ResponseCode, Split};

use crate::args::Args;
use crate::credentials::{Client, Credentials, Identity};
use crate::first_try::FirstTries;
use crate::headers::{self, Challenges};
use crate::reply;
use crate::running::Running;
use crate::settle::{self, Settled};
use crate::stacks::Stacks;
use crate::upload::{Room, Upload};

/// Requests without credentials at a time. They only ask how to authenticate, and are charged to nobody.
const UNAUTHENTICATED: usize = 32;

/// Responses to calls that change something are read up to this size before they are handed on.
const LARGEST_SETTLED: usize = 8 << 20;

const ONLY_PASSED_ON: &str = "this gateway passes on Basic and Bearer credentials. NTLM, Negotiate and Kerberos authenticate a \
    connection, and the connections to the server are shared by all clients here";

/// A reverse proxy with the stack in it.
pub(crate) struct Proxy {
    pub(crate) upstream: Uri,
    pub(crate) stacks: Stacks,
    pub(crate) running: Running,
    /// For requests that the stack has no part in.
    bare: HttpsClient<Body>,
    credentials: Credentials,
    first_tries: FirstTries,
    unauthenticated: Semaphore,
    room: Arc<Room>,
    deadline: Duration,
    upload_timeout: Duration,
    settles: bool,
}

impl Proxy {
    pub(crate) fn new(args: &Args, upstream: Uri, stacks: Stacks) -> std::io::Result<Self> {
        Ok(Self {
            upstream,
            stacks,
            running: Running::default(),
            bare: client(HttpsClient::builder()).build()?,
            credentials: Credentials::default(),
            first_tries: FirstTries::default(),
            unauthenticated: Semaphore::new(UNAUTHENTICATED),
            room: Room::new(args.max_buffered),
            deadline: args.deadline,
            upload_timeout: args.upload_timeout,
            settles: !args.keep_busy_members,
        })
    }

    pub(crate) async fn handle(self: Arc<Self>, mut request: Request<Body>) -> Response<Body> {
        if ![Method::POST, Method::GET, Method::HEAD].contains(request.method()) {
            let mut response = reply::text(
                StatusCode::METHOD_NOT_ALLOWED,
                "POST, GET and HEAD are passed on",
            );
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("POST, GET, HEAD"));
            return response;
        }
        let Some(uri) = self.target(request.uri()) else {
            return reply::text(
                StatusCode::NOT_FOUND,
                "only /EWS/ and /autodiscover/ are passed on",
            );
        };
        let client = self.credentials.read(request.headers());
        headers::prepare_request(request.headers_mut());
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        let until = Instant::now() + self.deadline;
        // Until the response begins: so long the stack may send the request again.
        let held = self.room.begin();
        let mut request =
            request.map(|body| Upload::new(body, held.clone(), self.upload_timeout, until));
        request.extensions_mut().clear();
        let response = match client {
            Client::Identified(identity) => self.through_stack(request, identity, until).await,
            Client::Unauthenticated => self.unauthenticated(request, until).await,
            Client::OtherScheme(scheme) => {
                return reply::unauthorized(format!(
                    "the scheme {scheme:?} cannot be used here: {ONLY_PASSED_ON}"
                ));
            }
            Client::Ambiguous => {
                return reply::text(
                    StatusCode::BAD_REQUEST,
                    "send one Authorization header, not several",
                );
            }
        };
        finish(response)
    }

    /// The URL at the server. Whatever host a client names, this gateway has one server.
    fn target(&self, uri: &Uri) -> Option<Uri> {
        let path = uri.path_and_query()?;
        let lower = path.path().to_ascii_lowercase();
        let passed = ["/ews/", "/autodiscover/"]
            .iter()
            .any(|prefix| lower.starts_with(prefix));
        // A server may read dots and backslashes as a way to another folder.
        let plain = !["..", "\\", "%2e", "%2f", "%5c"]
            .iter()
            .any(|odd| lower.contains(odd));
        (passed && plain)
            .then(|| at(&self.upstream, path.clone()))
            .flatten()
    }

    async fn through_stack(
        &self,
        request: Request<Upload<Body>>,
        identity: Identity,
        until: Instant,
    ) -> Response<Body> {
        let stack = self.stacks.current();
        let is_soap = request.method() == Method::POST;
        let buffered = BufferRequestLayer::new(stack.policy.max_request);
        let call = buffered.layer(service_fn(|request: Request<ReplayBody>| {
            self.call(request, &identity, until)
        }));
        match call.oneshot(request).await {
            Ok(response) => response,
            Err(error) if is_soap => reply::of_error(&error),
            Err(error) => reply::without_fault(reply::of_error(&error), &error),
        }
    }

    async fn call(
        &self,
        mut request: Request<ReplayBody>,
        identity: &Identity,
        until: Instant,
    ) -> Result<Response<Body>, BoxError> {
        let outline = request.body().outline().ok();
        let operation = outline.and_then(|outline| outline.operation());
        let members = outline
            .and_then(|outline| outline.array())
            .map_or(1, |array| array.members().len());
        let what = operation.map_or("other", |operation| operation.name());
        let _running = self.running.begin(&identity.caller, what, members);
        let changes = operation.is_some_and(|operation| {
            !operation.is_read() && operation.split() != Split::ChangesMeaning
        });
        // IIS wants one, also of an empty body.
        let length = request.body().len();
        request.headers_mut().insert(CONTENT_LENGTH, length.into());
        request.extensions_mut().insert(identity.caller.clone());

        // The wait for one's turn counts: clients do not wait longer.
        let turn = self.first_tries.turn(identity.credential).await?;
        let stack = self.stacks.current();
        let until = until.min(Instant::now() + stack.policy.deadline);
        request.extensions_mut().insert(Deadline(until));
        let response = stack.service.clone().oneshot(request).await;
        match &response {
            Ok(response) => turn.responded(response.status()),
            // Nothing came of the server that speaks of the credential.
            Err(_) => drop(turn),
        }
        let response = response?.map(Body::new);
        Ok(match changes && self.settles {
            true => settled(response).await,
            false => response,
        })
    }

    /// Passes on a request without credentials, past the stack: it waits for nobody, and nobody for it.
    async fn unauthenticated(
        &self,
        mut request: Request<Upload<Body>>,
        until: Instant,
    ) -> Response<Body> {
        let max = self.stacks.current().policy.max_request;
        if request.body().size_hint().lower() > max {
            return reply::too_large(max);
        }
        let Ok(_place) = self.unauthenticated.try_acquire() else {
            let mut response = reply::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests without credentials at a time",
            );
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
            return response;
        };
        if request.body().is_end_stream() && request.method() == Method::POST {
            request.headers_mut().insert(CONTENT_LENGTH, 0.into());
        }
        let limit = usize::try_from(max).unwrap_or(usize::MAX);
        let request = request.map(|body| Body::new(Limited::new(body, limit)));
        match timeout_at(until, self.bare.clone().oneshot(request)).await {
            Ok(Ok(response)) => response.map(Body::new),
            Ok(Err(error)) if reply::chain(&error).any(|cause| cause.is::<LengthLimitError>()) => {
                reply::too_large(max)
            }
            Ok(Err(error)) => reply::refused_upload(&error).unwrap_or_else(|| {
                let text = format!("the server cannot be reached: {error}");
                reply::text(StatusCode::BAD_GATEWAY, text)
            }),
            Err(_) => reply::text(
                StatusCode::GATEWAY_TIMEOUT,
                "the server has not responded in time",
            ),
        }
    }
}

/// What both clients are built with.
pub(crate) fn client(
    builder: tower_ews::http_client::HttpsClientBuilder,
) -> tower_ews::http_client::HttpsClientBuilder {
    builder.allow_http()
}

fn at(upstream: &Uri, path: PathAndQuery) -> Option<Uri> {
    Uri::builder()
        .scheme(upstream.scheme().cloned().unwrap_or(Scheme::HTTPS))
        .authority(upstream.authority()?.clone())
        .path_and_query(path)
        .build()
        .ok()
}

/// Makes the server's response this gateway's.
fn finish(mut response: Response<Body>) -> Response<Body> {
    *response.version_mut() = Version::HTTP_11;
    headers::prepare_response(response.headers_mut());
    let challenges = headers::keep_usable_challenges(response.headers_mut());
    if response.status() == StatusCode::UNAUTHORIZED && challenges == Challenges::AllRemoved {
        return reply::text(
            StatusCode::NOT_IMPLEMENTED,
            format!(
                "the server offers no scheme that can be used here: {ONLY_PASSED_ON}. Switch on Basic (over TLS) or OAuth there"
            ),
        );
    }
    response
}

/// Reads the response to a call that changes something, and gives members that the server was too busy for their final word.
async fn settled(response: Response<Body>) -> Response<Body> {
    let is_xml = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    if !is_xml.is_some_and(|value| value.contains("xml")) {
        return response;
    }
    let (head, mut body) = response.into_parts();
    let mut frames = Vec::new();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            let text = "the response broke off, and the call may have been executed: look before you send it again";
            return in_doubt(text);
        };
        size += frame.data_ref().map_or(0, Bytes::len);
        frames.push(frame);
        if size > LARGEST_SETTLED {
            let read = stream::iter(frames.into_iter().map(Ok));
            let rest = read.chain(BodyStream::new(body));
            return Response::from_parts(head, Body::new(StreamBody::new(rest)));
        }
    }
    let mut whole = Vec::with_capacity(size);
    for data in frames.iter().filter_map(|frame| frame.data_ref()) {
        whole.extend_from_slice(data);
    }
    match settle::settle(&whole) {
        Settled::Unchanged => Response::from_parts(head, whole.into()),
        Settled::Body(body) => Response::from_parts(head, body.into()),
        Settled::InDoubt(code) => {
            let text = format!(
                "{code}: the call may have been executed or not, look before you send it again"
            );
            in_doubt(&text)
        }
    }
}

fn in_doubt(text: &str) -> Response<Body> {
    let code = ResponseCode::INTERNAL_SERVER_ERROR;
    reply::fault(StatusCode::INTERNAL_SERVER_ERROR, code.as_str(), text, None)
}
