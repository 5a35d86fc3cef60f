//! A server that responds as a test says, behind the whole stack.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceExt};
use tower_ews::batch_splitter::BatchReport;
use tower_ews::body::ReplayBody;
use tower_ews::extensions::{Caller, Deadline};
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::server_busy_backoff::RetryInfo;
use tower_ews::{EwsService, EwsStack};

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

pub(crate) type Server = BoxCloneSyncService<Request<ReplayBody>, Response<Body>, BoxError>;

/// One request, as the server sees it.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) operation: String,
    pub(crate) ids: Vec<String>,
    /// How many requests came before.
    pub(crate) number: usize,
    /// Since the first request.
    pub(crate) at: Duration,
}

/// What the server does with it.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Response {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    Reset,
    Refused,
    /// Nothing comes.
    Hang,
    /// A response that breaks off.
    Cut(String),
    /// A response of which nothing more comes.
    Stall(String),
}

impl Reply {
    pub(crate) fn xml(status: u16, body: impl Into<String>) -> Self {
        Self::page(status, "text/xml; charset=utf-8", body)
    }

    pub(crate) fn page(status: u16, kind: &str, body: impl Into<String>) -> Self {
        Self::Response {
            status,
            headers: vec![("content-type", kind.to_owned())],
            body: body.into(),
        }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::Response {
            status,
            headers: Vec::new(),
            body: String::new(),
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Response { headers, .. } = &mut self {
            headers.push((name, value.to_owned()));
        }
        self
    }
}

const HEAD: &str = r#"<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages">"#;

pub(crate) fn envelope(body: &str) -> String {
    format!("{HEAD}<s:Body>{body}</s:Body></s:Envelope>")
}

/// A fault with a code and what stands in its `MessageXml`.
pub(crate) fn fault(code: &str, message_xml: &str) -> String {
    envelope(&format!(
        r#"<s:Fault><faultcode>a:{code}</faultcode><faultstring>{code} it is.</faultstring><detail><e:ResponseCode xmlns:e="http://schemas.microsoft.com/exchange/services/2006/errors">{code}</e:ResponseCode>{message_xml}</detail></s:Fault>"#
    ))
}

/// One message, as a member with this id gets it.
pub(crate) fn message(operation: &str, id: &str, code: &str) -> String {
    let class = if code == "NoError" {
        "Success"
    } else {
        "Error"
    };
    let content = match code {
        "NoError" if operation == "GetFolder" => format!(
            r#"<m:Folders><t:Folder><t:FolderId Id="{id}" ChangeKey="c"/></t:Folder></m:Folders>"#
        ),
        "NoError" => format!(
            r#"<m:Items><t:Message><t:ItemId Id="{id}" ChangeKey="c"/></t:Message></m:Items>"#
        ),
        _ => format!(r#"<m:MessageText>{code} it is.</m:MessageText>"#),
    };
    let (code_first, content) = match code {
        "NoError" => ("", content),
        _ => (&*content, String::from("<m:Items/>")),
    };
    format!(
        r#"<m:{operation}ResponseMessage ResponseClass="{class}">{code_first}<m:ResponseCode>{code}</m:ResponseCode>{content}</m:{operation}ResponseMessage>"#
    )
}

/// A response with a message for each member.
pub(crate) fn messages(ask: &Ask, code: impl Fn(&str) -> String) -> Reply {
    let operation = &ask.operation;
    let each: String = ask
        .ids
        .iter()
        .map(|id| message(operation, id, &code(id)))
        .collect();
    Reply::xml(
        200,
        envelope(&format!(
            "<m:{operation}Response><m:ResponseMessages>{each}</m:ResponseMessages></m:{operation}Response>"
        )),
    )
}

pub(crate) fn good(ask: &Ask) -> Reply {
    messages(ask, |_| "NoError".to_owned())
}

/// A request with members that are named `ID0000` and so on.
pub(crate) fn request(operation: &str, members: usize) -> Request<Full<Bytes>> {
    let ids = (0..members).map(|member| format!("ID{member:04}"));
    let body = match operation {
        "GetItem" => {
            let ids: String = ids.map(|id| format!(r#"<t:ItemId Id="{id}"/>"#)).collect();
            format!(
                "<m:GetItem><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape><m:ItemIds>{ids}</m:ItemIds></m:GetItem>"
            )
        }
        "CreateItem" => {
            let items: String = ids
                .map(|id| format!("<t:Message><t:Subject>{id}</t:Subject></t:Message>"))
                .collect();
            format!(
                r#"<m:CreateItem MessageDisposition="SaveOnly"><m:Items>{items}</m:Items></m:CreateItem>"#
            )
        }
        other => panic!("{other}"),
    };
    soap(&body)
}

pub(crate) fn soap(body: &str) -> Request<Full<Bytes>> {
    Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
        .header("content-type", "text/xml; charset=utf-8")
        .body(Full::from(format!(
            "{HEAD}<s:Header/><s:Body>{body}</s:Body></s:Envelope>"
        )))
        .unwrap()
}

/// The same request, on behalf of a mailbox.
pub(crate) fn impersonating(request: Request<Full<Bytes>>, mailbox: &str) -> Request<Full<Bytes>> {
    request.map(|body| {
        let text = String::from_utf8(replay(body).to_bytes().to_vec()).unwrap();
        let header = format!(
            "<s:Header><t:ExchangeImpersonation><t:ConnectingSID><t:PrimarySmtpAddress>{mailbox}</t:PrimarySmtpAddress></t:ConnectingSID></t:ExchangeImpersonation></s:Header>"
        );
        Full::from(text.replace("<s:Header/>", &header))
    })
}

/// What a call came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The requests that the server got.
    pub(crate) asks: Vec<Ask>,
    /// The time that the call took.
    pub(crate) took: Duration,
    /// The status of the response, if there was one.
    pub(crate) status: Option<u16>,
    pub(crate) body: String,
    /// The error and its sources, if there was one.
    pub(crate) error: String,
    /// The members in doubt, as the batch's report counts them.
    pub(crate) unknown: usize,
    /// Whether the response says that the call may have been executed.
    pub(crate) refused_in_doubt: bool,
}

impl Outcome {
    pub(crate) fn requests(&self) -> usize {
        self.asks.len()
    }

    /// Whether the caller is told that something may have been executed.
    pub(crate) fn says_unknown(&self) -> bool {
        let codes = ["ErrorInternalServerError<", "ErrorMailboxStoreUnavailable<"];
        self.unknown > 0
            || self.refused_in_doubt
            || self.error.contains("may have")
            || codes.iter().any(|code| self.body.contains(code))
    }

    /// How many members were done.
    pub(crate) fn done(&self) -> usize {
        self.body.matches(">NoError<").count()
    }
}

/// The whole stack over a server that responds like this.
pub(crate) fn stack(
    asks: Arc<Mutex<Vec<Ask>>>,
    response: impl Fn(&Ask) -> Reply + Send + Sync + 'static,
) -> EwsService<Server> {
    EwsStack::new(ThrottlingPolicy::exchange_online())
        .caller(Caller::new("svc@contoso.com"))
        .service(client(asks, response))
}

pub(crate) fn replay(body: Full<Bytes>) -> ReplayBody {
    let bytes = body.collect().now_or_never().unwrap().unwrap().to_bytes();
    ReplayBody::from(bytes)
}

/// The client of a server that responds like this.
pub(crate) fn client(
    asks: Arc<Mutex<Vec<Ask>>>,
    response: impl Fn(&Ask) -> Reply + Send + Sync + 'static,
) -> Server {
    let begin = Instant::now();
    let response = Arc::new(response);
    let server = tower::service_fn(move |request: Request<ReplayBody>| {
        let asks = Arc::clone(&asks);
        let response = Arc::clone(&response);
        async move {
            let body = request.into_body().to_bytes();
            let ask = {
                let mut asks = asks.lock().unwrap();
                let ask = read(std::str::from_utf8(&body).unwrap(), asks.len(), begin);
                asks.push(ask.clone());
                ask
            };
            respond(response(&ask)).await
        }
    });
    BoxCloneSyncService::new(server)
}

fn seed() -> u64 {
    let seed = std::env::var("EWS_TEST_SEED");
    seed.ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// Sends one call through the whole stack, in virtual time.
pub(crate) async fn send(
    request: Request<Full<Bytes>>,
    deadline: Option<Duration>,
    reply: impl Fn(&Ask) -> Reply + Send + Sync + 'static,
) -> Outcome {
    let asks = Arc::new(Mutex::new(Vec::new()));
    let begin = Instant::now();
    // What the stack draws is the same in each run: waits, and the members that are tried first.
    fastrand::seed(seed());
    let stack = stack(Arc::clone(&asks), reply);
    let mut request = request;
    if let Some(deadline) = deadline {
        request.extensions_mut().insert(Deadline::within(deadline));
    }
    let mut outcome = Outcome::default();
    let result = async {
        let response = stack.oneshot(request).await?;
        outcome.status = Some(response.status().as_u16());
        let report: Option<BatchReport> = response.extensions().get().cloned();
        let info: Option<&RetryInfo> = response.extensions().get();
        let in_doubt = info.is_some_and(|info| info.outcome_unknown);
        if report.is_none() {
            outcome.took = begin.elapsed();
        }
        // What passes through has no deadline but that of its reader.
        let body = response.into_body().collect();
        let body = tokio::time::timeout(Duration::from_secs(86_400), body).await;
        let body = body??.to_bytes();
        outcome.body = String::from_utf8_lossy(&body).into_owned();
        outcome.unknown = report.map_or(0, |report| report.stats().unknown);
        outcome.refused_in_doubt = in_doubt;
        Ok::<_, BoxError>(())
    }
    .await;
    if let Err(error) = result {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
        while let Some(error) = next {
            outcome.error = format!("{}{error}; ", outcome.error);
            next = error.source();
        }
    }
    if outcome.took.is_zero() {
        outcome.took = begin.elapsed();
    }
    outcome.asks = std::mem::take(&mut asks.lock().unwrap());
    outcome
}

fn read(body: &str, number: usize, begin: Instant) -> Ask {
    let (_, after) = body.split_once("<s:Body><m:").unwrap();
    let end = after.find([' ', '>', '/']).unwrap();
    let ids = after.match_indices("ID").filter_map(|(at, _)| {
        let id = after.get(at..at + 6)?;
        id[2..]
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| id.to_owned())
    });
    Ask {
        operation: after[..end].to_owned(),
        ids: ids.collect(),
        number,
        at: begin.elapsed(),
    }
}

fn compressed(coding: &str, body: &[u8]) -> Vec<u8> {
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use std::io::Write;

    let level = flate2::Compression::default();
    match coding {
        "gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        // Without zlib's header, as many servers send it.
        "bare deflate" => {
            let mut encoder = DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        // What nobody here can read.
        "br" | "zstd" | "gzip, br" => body.to_vec(),
        other => panic!("{other}"),
    }
}

pub(crate) async fn respond(reply: Reply) -> Result<Response<Body>, BoxError> {
    // A round trip.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let kind = |kind| BoxError::from(std::io::Error::from(kind));
    let begun = |text: String, rest: Option<BoxError>| {
        let first = Ok::<_, BoxError>(Frame::data(Bytes::from(text)));
        let rest = rest.map(Err);
        let stalls = rest.is_none();
        let frames = futures_util::stream::iter([Some(first), rest].into_iter().flatten());
        let pending = futures_util::stream::pending();
        let body = match stalls {
            true => StreamBody::new(futures_util::StreamExt::chain(frames, pending)).boxed_unsync(),
            false => StreamBody::new(frames).boxed_unsync(),
        };
        Response::builder()
            .header("content-type", "text/xml; charset=utf-8")
            .body(body)
            .unwrap()
    };
    Ok(match reply {
        Reply::Response {
            status,
            headers,
            body,
        } => {
            let mut response = Response::builder().status(status);
            let mut body = body.into_bytes();
            for (name, value) in headers {
                let mut value = &*value;
                if name == "content-encoding" {
                    body = compressed(value, &body);
                    value = value.trim_start_matches("bare ");
                }
                response = response.header(name, value);
            }
            let body = Full::from(body).map_err(|never| match never {});
            response.body(body.boxed_unsync()).unwrap()
        }
        Reply::Reset => return Err(kind(std::io::ErrorKind::ConnectionReset)),
        Reply::Refused => return Err(kind(std::io::ErrorKind::ConnectionRefused)),
        Reply::Hang => std::future::pending().await,
        Reply::Cut(text) => begun(text, Some(kind(std::io::ErrorKind::ConnectionReset))),
        Reply::Stall(text) => begun(text, None),
    })
}
