//! The audit log from end to end: no secret gets into a log, and a log in trouble gets into nobody's way.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::{self, Debug, Write as _};
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use metrics_util::debugging::DebuggingRecorder;
use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_ews::EwsStack;
use tower_ews::audit_log::{
    AuditLogLayer, EwsFacts, JsonLinesSink, Level, MemorySink, MetricsSink, Overflow, Record,
    Redaction, Scope, Sink, TracingSink,
};
use tower_ews::body::ReplayBody;
use tower_ews::extensions::Caller;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::simulator::{Account, Exchange, Policy};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

/// The secret: no four letters of it stand anywhere else.
const CANARY: &str = "Q8ZJX4VKW7QY9ZXJ";

/// What an account is asked for, as `base64(svc@contoso.com:CANARY)` and with the canary as a token's signature.
const BASIC: &str = "Basic c3ZjQGNvbnRvc28uY29tOlE4WkpYNFZLVzdRWTlaWEo=";
const ENCODED: &str = "OlE4WkpYNFZLVzdRWTlaWEo";
const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwcyJ9.Q8ZJX4VKW7QY9ZXJ";

const KEY: [u8; 16] = *b"a key of a test.";

type AnyBody = BoxBody<Bytes, BoxError>;

fn envelope(header: &str, body: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Header><t:RequestServerVersion Version="Exchange2013_SP1"/>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"#
    )
}

fn impersonate(mailbox: &str) -> String {
    format!(
        "<t:ExchangeImpersonation><t:ConnectingSID><t:PrimarySmtpAddress>{mailbox}</t:PrimarySmtpAddress></t:ConnectingSID></t:ExchangeImpersonation>"
    )
}

/// Creates one task, without any harm.
fn create(header: &str) -> String {
    envelope(
        header,
        "<m:CreateItem><m:Items><t:Task><t:Subject>Tea</t:Subject></t:Task></m:Items></m:CreateItem>",
    )
}

fn soap_response(inside: &str) -> String {
    envelope(
        "",
        &format!(
            r#"<m:CreateItemResponse><m:ResponseMessages><m:CreateItemResponseMessage ResponseClass="Error">{inside}</m:CreateItemResponseMessage></m:ResponseMessages></m:CreateItemResponse>"#
        ),
    )
}

/// An error with a source, as HTTP clients have them.
#[derive(Debug)]
struct Chain(String, Option<Box<Chain>>);

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Chain {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.1.as_ref().map(|error| error.as_ref() as _)
    }
}

/// What the client gets, and responses.
#[derive(Clone)]
struct Place {
    name: String,
    uri: String,
    request_headers: Vec<(&'static str, String)>,
    request: String,
    status: u16,
    response_headers: Vec<(&'static str, String)>,
    /// `None`: the simulator responses.
    response: Option<Vec<String>>,
    /// Errors from the outside inwards: of the call, and of the body behind its frames.
    call_error: Vec<String>,
    body_error: Option<String>,
    body_limit: usize,
    pseudonyms: bool,
    /// What shows in the fullest log that the place was looked at.
    shown: &'static str,
}

impl Place {
    fn new(name: impl Into<String>) -> Self {
        Place {
            name: name.into(),
            uri: "https://mail.contoso.com/EWS/Exchange.asmx".into(),
            request_headers: vec![
                ("content-type", "text/xml; charset=utf-8".into()),
                ("authorization", BASIC.into()),
            ],
            request: create(&impersonate("amy@contoso.com")),
            status: 200,
            response_headers: vec![("content-type", "text/xml; charset=utf-8".into())],
            response: None,
            call_error: Vec::new(),
            body_error: None,
            body_limit: AuditLogLayer::DEFAULT_BODY_LIMIT,
            pseudonyms: false,
            shown: "REDACTED",
        }
    }

    fn asks(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.request_headers.retain(|(other, _)| *other != name);
        self.request_headers.push((name, value.into()));
        self
    }

    fn tells(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.response_headers.retain(|(other, _)| *other != name);
        self.response_headers.push((name, value.into()));
        self.response
            .get_or_insert_with(|| vec![soap_response("<m:ResponseCode>NoError</m:ResponseCode>")]);
        self
    }

    fn request(mut self, body: impl Into<String>) -> Self {
        self.request = body.into();
        self
    }

    fn responds_with(mut self, body: impl Into<String>) -> Self {
        self.response = Some(vec![body.into()]);
        self
    }

    fn uri(mut self, uri: impl Into<String>) -> Self {
        self.uri = uri.into();
        self
    }

    fn shown(mut self, shown: &'static str) -> Self {
        self.shown = shown;
        self
    }

    fn pseudonyms(mut self) -> Self {
        self.pseudonyms = true;
        self.shown = "mbx-";
        self
    }

    fn fails(mut self, chain: &[&str]) -> Self {
        self.call_error = chain.iter().map(ToString::to_string).collect();
        self
    }

    fn make(&self) -> Request<Full<Bytes>> {
        let mut request = Request::post(&self.uri)
            .body(Full::from(self.request.clone()))
            .unwrap();
        for (name, value) in &self.request_headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request
                .headers_mut()
                .append(HeaderName::from_static(name), value);
        }
        request
    }

    /// What the network does with it; `None` if it is for the simulator.
    fn network(&self) -> Option<Result<Response<AnyBody>, BoxError>> {
        let mut error = None;
        for text in self.call_error.iter().rev() {
            error = Some(Box::new(Chain(text.clone(), error)));
        }
        if let Some(error) = error {
            return Some(Err(error));
        }
        let frames = self.response.clone()?.into_iter().map(Bytes::from);
        let frames: Vec<Result<_, BoxError>> = frames
            .map(|frame| Ok(Frame::data(frame)))
            .chain(self.body_error.clone().map(|error| Err(error.into())))
            .collect();
        let body = StreamBody::new(stream::iter(frames));
        let mut response = Response::new(BodyExt::boxed(body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap();
        for (name, value) in &self.response_headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            response
                .headers_mut()
                .append(HeaderName::from_static(name), value);
        }
        Some(Ok(response))
    }
}

fn token_response(token: &str) -> String {
    envelope(
        "",
        &format!(
            r#"<m:GetClientAccessTokenResponse><m:ResponseMessages><m:GetClientAccessTokenResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode><m:Token><t:Id>1</t:Id><t:TokenType>ExtensionCallback</t:TokenType><t:TokenValue>{token}</t:TokenValue><t:TTL>480</t:TTL></m:Token></m:GetClientAccessTokenResponseMessage></m:ResponseMessages></m:GetClientAccessTokenResponse>"#
        ),
    )
}

fn username_token() -> String {
    format!(
        r#"<wsse:Security xmlns:wsse="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"><wsse:UsernameToken><wsse:Username>svc</wsse:Username><wsse:Password Type="PasswordText">{CANARY}</wsse:Password><wsse:Nonce>{CANARY}</wsse:Nonce></wsse:UsernameToken></wsse:Security>"#
    )
}

fn places() -> Vec<Place> {
    let password = format!("<t:Password>{CANARY}</t:Password>");
    let headers = Place::new;
    let message = |text: &str| {
        soap_response(&format!(
            "<m:MessageText>{text}</m:MessageText><m:ResponseCode>ErrorItemNotFound</m:ResponseCode>"
        ))
    };
    let mut places = vec![
        headers("Basic").shown("Basic REDACTED"),
        headers("Bearer")
            .asks("authorization", format!("Bearer {JWT}"))
            .shown("Bearer REDACTED"),
        headers("no scheme").asks("authorization", CANARY),
        headers("proxy").asks("proxy-authorization", format!("Negotiate {CANARY}=")),
        headers("api key").asks("x-api-key", CANARY),
        headers("subscription key").asks("ocp-apim-subscription-key", CANARY),
        headers("function key").asks("x-functions-key", CANARY),
        headers("signature").asks("signature", format!("keyId=\"a\", signature=\"{CANARY}\"")),
        headers("security context").asks("x-serializedsecuritycontext", CANARY),
        headers("token").asks("x-ms-token-aad-access-token", CANARY),
        headers("guard of the web client").asks("x-owa-canary", CANARY),
        headers("on behalf of").asks("x-user-authorization", format!("Bearer {JWT}")),
        headers("cookie")
            .asks("cookie", format!("exchangecookie={CANARY}; X-BEResource={CANARY}"))
            .shown("exchangecookie=REDACTED"),
        headers("referer").asks("referer", format!("https://svc:{CANARY}@proxy.contoso.com/")),
        headers("user agent").asks("user-agent", format!("tool/1 (https://svc:{CANARY}@contoso.com)")),
        headers("id of the caller").asks("client-request-id", format!("Bearer {CANARY}")),
        headers("id of the caller, a token").asks("client-request-id", JWT),
        headers("set-cookie")
            .tells("set-cookie", format!("X-BackEndCookie={CANARY}; path=/; secure; HttpOnly"))
            .shown("X-BackEndCookie=REDACTED"),
        headers("redirect")
            .tells("location", format!("https://login.contoso.com/?code={CANARY}&state=7&sig={CANARY}"))
            .shown("login.contoso.com"),
        headers("redirect, fragment").tells("location", format!("https://localhost/#access_token={CANARY}")),
        headers("challenge").tells("www-authenticate", format!("Negotiate {CANARY}==")),
        headers("challenge, NTLM").tells("www-authenticate", format!("NTLM {CANARY}")),
        headers("authentication-info").tells("authentication-info", format!("nextnonce=\"{CANARY}\"")),
        headers("diagnosis").tells("x-diaginfo", format!("AM6PR01; token={CANARY}")),
        headers("request id").tells("request-id", format!("Bearer {CANARY}")),
        headers("front end").tells("x-feserver", format!("https://svc:{CANARY}@am6/")),
        headers("back end").tells("x-calculatedbetarget", format!("password={CANARY}")),
        headers("new token").tells("x-access-token", CANARY),
        headers("userinfo")
            .uri(format!("https://svc:{CANARY}@mail.contoso.com/EWS/Exchange.asmx"))
            .shown("mail.contoso.com"),
        headers("query").uri(format!(
            "https://mail.contoso.com/EWS/Exchange.asmx?access_token={CANARY}&a=b"
        )),
        headers("query, encoded").uri(format!(
            "https://mail.contoso.com/EWS/Exchange.asmx?next=https%3A%2F%2Fa%2F%3Fapi_key%3D{CANARY}"
        )),
        headers("UsernameToken").request(create(&username_token())),
        headers("BinarySecurityToken").request(create(&format!(
            r#"<o:BinarySecurityToken xmlns:o="urn:o">{CANARY}</o:BinarySecurityToken>"#
        ))),
        headers("SerializedSecurityContext").request(create(&format!(
            "<t:SerializedSecurityContext><t:UserSid>{CANARY}</t:UserSid></t:SerializedSecurityContext>"
        ))),
        headers("t:Password").request(envelope("", &format!("<m:SetUser>{password}</m:SetUser>"))),
        headers("attribute").request(envelope("", &format!("<m:SetUser Password='{CANARY}'/>"))),
        headers("CDATA").request(envelope("", &format!("<m:SetUser><t:NewPassword><![CDATA[{CANARY}]]></t:NewPassword></m:SetUser>"))),
        headers("entity").request(format!(
            r#"<!DOCTYPE a [<!ENTITY p "{CANARY}">]>{}"#,
            create("")
        )),
        headers("shared folder").request(create(&format!(
            "<m:EncryptedSharedFolderDataCollection><t:EncryptedSharedFolderData><t:Data>{CANARY}</t:Data></t:EncryptedSharedFolderData></m:EncryptedSharedFolderDataCollection>"
        ))),
        headers("comment").request(create(&format!("<!-- {password} -->"))),
        headers("JSON").asks("content-type", "application/json").request(format!(
            r#"{{"client":"a","client_secret":"{CANARY}","deep":{{"accessToken":["{CANARY}"]}}}}"#
        )),
        headers("form")
            .asks("content-type", "application/x-www-form-urlencoded")
            .request(format!("grant_type=password&username=svc&password={CANARY}&assertion={CANARY}")),
        headers("multipart")
            .asks("content-type", "multipart/form-data; boundary=b")
            .request(format!("--b\r\n\r\n{CANARY}\r\n--b--")),
        headers("UTF-16")
            .asks("content-type", "text/xml; charset=utf-16")
            .request(format!("<Password>{CANARY}</Password>")),
        headers("compressed")
            .asks("content-encoding", "gzip")
            .request(format!("\u{1f}{CANARY}"))
            .shown("gzip"),
        headers("client access token").responds_with(token_response(CANARY)),
        headers("JSON response")
            .tells("content-type", "application/json")
            .responds_with(format!(r#"{{"token_type":"Bearer","access_token":"{CANARY}","refresh_token":"{CANARY}"}}"#)),
        headers("HTML response").tells("content-type", "text/html").responds_with(format!(
            r#"<html><form><input name="password" value="{CANARY}"></form></html>"#
        )),
        headers("text response")
            .tells("content-type", "text/plain")
            .responds_with(format!("cannot log in with password={CANARY}")),
        headers("MessageText").responds_with(message(&format!("Authorization: Bearer {CANARY} was refused"))),
        headers("MessageText, escaped").responds_with(message(&format!("&lt;Password&gt;{CANARY}&lt;/Password&gt;"))),
        headers("response code").responds_with(soap_response(&format!(
            "<m:ResponseCode>Bearer {CANARY}</m:ResponseCode>"
        ))),
        headers("fault").responds_with(envelope("", &format!(
            "<s:Fault><faultcode>s:Client</faultcode><faultstring>Bearer {CANARY} is not valid</faultstring></s:Fault>"
        ))),
        headers("call").fails(&[&format!("error sending request for url (https://svc:{CANARY}@mail.contoso.com/)")]),
        headers("source of the call").fails(&[
            "connection error",
            "a proxy",
            &format!("CONNECT failed with Proxy-Authorization: Basic {CANARY}"),
        ]),
        headers("anchor").asks("x-anchormailbox", format!("{CANARY}@contoso.com")).pseudonyms(),
        headers("mailbox")
            .request(create(&impersonate(&format!("{CANARY}@contoso.com"))))
            .pseudonyms(),
        headers("mailbox in an error").fails(&[&format!("no mailbox {CANARY}@contoso.com")]).pseudonyms(),
        headers("mailbox in a path")
            .uri(format!("https://mail.contoso.com/users/{CANARY}@contoso.com?to={CANARY}%40contoso.com"))
            .pseudonyms(),
        headers("mailbox in a response").responds_with(message(&format!("{CANARY}@contoso.com is over its quota"))).pseudonyms(),
    ];
    let mut lost = Place::new("body's error").responds_with("<a/>");
    lost.body_error = Some(format!("stream of Bearer {CANARY} was reset"));
    places.push(lost);
    let unauthorized = Place::new("challenge of a refusal").tells(
        "www-authenticate",
        format!("Bearer client_id=\"a\", Negotiate {CANARY}"),
    );
    places.push(Place {
        status: 401,
        ..unauthorized
    });
    // Between any two bytes of the secret, in two frames, and cut off by the limit.
    for at in 0..=CANARY.len() {
        let text = message(&format!("x {password}"));
        let cut = text.find(CANARY).unwrap() + at;
        let (first, second) = text.split_at(cut);
        let mut straddling = Place::new(format!("straddling {at}"));
        straddling.response = Some(vec![first.into(), second.into()]);
        places.push(straddling);
        let mut limited = Place::new(format!("cut {at}"))
            .responds_with(&*text)
            .request(&*text);
        limited.body_limit = cut;
        places.push(limited);
        let mut limited = Place::new(format!("cut token {at}")).responds_with(token_response(JWT));
        limited.body_limit = token_response(JWT).find(JWT).unwrap() + 1 + at;
        places.push(limited);
    }
    places
}

/// What a subscriber is told, in full.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<String>>);

impl Visit for Told {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0.lock(), "{}={value:?} ", field.name());
    }
}

impl Subscriber for Told {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        span.record(&mut self.clone());
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut self.clone());
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let _ = write!(self.0.lock(), "{} {} ", metadata.level(), metadata.target());
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// A writer into memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Around {
    Client,
    Stack,
}

/// What all sinks show of one call, by sink.
fn logs(place: &Place, level: Level, around: Around) -> BTreeMap<&'static str, String> {
    let memory = MemorySink::new();
    let lines = Lines::default();
    let (json, guard) = JsonLinesSink::builder().writer(lines.clone()).unwrap();
    let told = Told::default();
    let recorder = DebuggingRecorder::new();
    let mut debugged = String::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let call = || {
        tracing::subscriber::with_default(told.clone(), || {
            let sink = (
                (memory.clone(), json.clone()),
                (TracingSink::new(), MetricsSink::new()),
            );
            let exchange = Exchange::builder()
                .policy(Policy::laptop())
                .with_account(Account::new("svc@contoso.com").password(CANARY).token(JWT))
                .build();
            let network = place.clone();
            let client = service_fn(move |request: Request<ReplayBody>| {
                let scripted = network.network();
                let exchange = exchange.clone();
                async move {
                    if let Some(response) = scripted {
                        return response;
                    }
                    let response = exchange.oneshot(request).await?;
                    Ok(response.map(|body| body.map_err(BoxError::from).boxed()))
                }
            });
            let mut redaction = Redaction::new();
            if place.pseudonyms {
                redaction = redaction.pseudonyms(KEY);
            }
            runtime.block_on(async {
                let request = place.make();
                match around {
                    Around::Client => {
                        let layer = AuditLogLayer::new(sink)
                            .facts(EwsFacts::new().caller(Caller::new("svc@contoso.com")))
                            .level(level)
                            .body_limit(place.body_limit)
                            .redact(redaction);
                        let client = client.map_request(|request: Request<Full<Bytes>>| {
                            let (head, body) = request.into_parts();
                            let mut body = body;
                            let bytes = futures_util::FutureExt::now_or_never(body.frame())
                                .flatten()
                                .map(|frame| frame.unwrap().into_data().unwrap());
                            Request::from_parts(head, ReplayBody::from(bytes.unwrap_or_default()))
                        });
                        let service = layer.layer(client);
                        let _ = write!(debugged, "{layer:?} {:?} {service:?}", layer.handle());
                        read(service, request, &mut debugged).await;
                    }
                    Around::Stack => {
                        let layer = AuditLogLayer::new(sink)
                            .level(level)
                            .body_limit(place.body_limit)
                            .redact(redaction);
                        let stack = EwsStack::new(ThrottlingPolicy::exchange_online())
                            .caller(Caller::new("svc@contoso.com"))
                            .audit_log(layer);
                        let service = stack.service(client);
                        let handle = stack.audit_handle();
                        let _ = write!(debugged, "{stack:?} {handle:?} {service:?}");
                        read(service, request, &mut debugged).await;
                    }
                }
            });
        });
    };
    metrics::with_local_recorder(&recorder, call);
    let _ = write!(debugged, "{memory:?} {json:?} {guard:?}");
    drop(guard);
    assert_eq!(memory.seen(), 1);
    BTreeMap::from([
        ("memory", format!("{:#?}", memory.records())),
        ("json", lines.text()),
        ("tracing", told.0.lock().clone()),
        (
            "metrics",
            format!("{:?}", recorder.snapshotter().snapshot().into_vec()),
        ),
        ("debug", debugged),
    ])
}

async fn read<S, B>(service: S, request: Request<Full<Bytes>>, debugged: &mut String)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError>,
    S::Future: Debug,
    B: Body + Debug,
{
    let mut service = service;
    let calling = service.ready().await.unwrap().call(request);
    let _ = write!(debugged, "{calling:?}");
    if let Ok(response) = calling.await {
        let body = response.into_body();
        let _ = write!(debugged, "{body:?}");
        let _ = body.collect().await;
    }
}

/// Where `text` shows four letters of the secret, in whatever case, or of its base64.
fn leak(text: &str) -> Option<usize> {
    let upper = text.to_ascii_uppercase();
    let shows = |text: &str, secret: &str| {
        let pieces = (0..=secret.len() - 4).map(|at| &secret[at..at + 4]);
        pieces.filter_map(|piece| text.find(piece)).next()
    };
    shows(&upper, CANARY).or_else(|| shows(text, ENCODED))
}

#[test]
fn no_sink_shows_a_secret() {
    let places = places();
    assert!(places.len() >= 70, "{}", places.len());
    let mut wrong = Vec::new();
    for place in &places {
        for around in [Around::Client, Around::Stack] {
            for level in [Level::Summary, Level::Headers, Level::Full] {
                let case = format!("{}, {level:?}, {around:?}", place.name);
                let logs = logs(place, level, around);
                for (sink, text) in &logs {
                    assert!(!text.is_empty(), "{sink} of {case}");
                    if let Some(at) = leak(text) {
                        let near = &text[at.saturating_sub(90)..(at + 40).min(text.len())];
                        wrong.push(format!("{sink} of {case}: ...{near:?}"));
                    }
                }
                let line: Value = serde_json::from_str(&logs["json"]).unwrap();
                assert_eq!(line["schema"], 1, "{case}");
                if level == Level::Full && !logs["json"].contains(place.shown) {
                    wrong.push(format!("{case} does not show {}: {line}", place.shown));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} in all:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Events of the whole process that speak of the audit log itself.
fn alarms() -> &'static Told {
    static ALARMS: OnceLock<Told> = OnceLock::new();
    ALARMS.get_or_init(|| {
        let told = Told::default();
        tracing::subscriber::set_global_default(told.clone()).unwrap();
        told
    })
}

/// Makes so many calls through a layer with this sink: each has to be response, and soon.
fn calls(sink: impl Sink, calls: usize) -> tower_ews::audit_log::AuditHandle {
    let layer = AuditLogLayer::new(sink).level(Level::Full);
    let handle = layer.handle();
    let service = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, BoxError>(Response::new(Full::<Bytes>::from("a response")))
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        for _ in 0..calls {
            let response = service.clone().oneshot(Request::new(Full::from("a call")));
            let body = response.await.unwrap().into_body();
            assert_eq!(body.collect().await.unwrap().to_bytes(), "a response");
        }
    });
    handle
}

/// A writer that hangs until it is let go.
#[derive(Clone, Default)]
struct Hanging {
    gate: Arc<(Mutex<bool>, Condvar)>,
    lines: Lines,
}

impl Hanging {
    fn let_go(&self) {
        *self.gate.0.lock() = true;
        self.gate.1.notify_all();
    }
}

impl Write for Hanging {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut open = self.gate.0.lock();
        while !*open {
            self.gate.1.wait(&mut open);
        }
        self.lines.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn calls_go_on_while_the_writer_hangs() {
    let alarms = alarms();
    let writer = Hanging::default();
    let (sink, guard) = JsonLinesSink::builder()
        .capacity(20_000)
        .writer(writer.clone())
        .unwrap();
    let handle = calls(sink.clone(), 1_000);
    let lost = sink.lost();
    let debugged = format!("{guard:?} {sink:?} {handle:?}");
    let told = alarms.0.lock().contains("is written too slowly");
    // What panics before would wait for the writer for ever.
    writer.let_go();
    drop(guard);
    // The layer has done its part.
    assert_eq!((handle.recorded(), handle.lost()), (1_000, 0));
    assert!(lost > 800, "{lost}");
    assert!(told);
    // Lines that wait are nothing to be printed.
    assert!(debugged.len() < 400, "{} bytes", debugged.len());
    let kept = writer.lines.text().lines().count() as u64;
    assert!(kept > 0);
    assert_eq!(kept + sink.lost(), 1_000);
}

/// Panics at each second record.
#[derive(Default)]
struct Panicking(AtomicUsize);

impl Sink for Panicking {
    fn record(&self, _: &Record) {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        assert!(number % 2 == 0, "a sink in trouble");
    }
}

#[test]
fn calls_go_on_when_the_sink_panics() {
    let handle = calls(Panicking::default(), 100);
    assert_eq!((handle.recorded(), handle.lost()), (50, 50));
    assert!(format!("{handle:?}").contains("lost: 50"));
}

/// Of two sinks the second one has all records, whatever the first one does.
#[test]
fn one_sink_in_trouble_costs_the_other_nothing() {
    let memory = MemorySink::new();
    let handle = calls((Panicking::default(), memory.clone()), 100);
    assert_eq!(memory.seen(), 100);
    assert_eq!((handle.recorded(), handle.lost()), (50, 50));
    let memory = MemorySink::new();
    let handle = calls((memory.clone(), Panicking::default()), 100);
    assert_eq!(memory.seen(), 100);
    assert_eq!((handle.recorded(), handle.lost()), (50, 50));
}

#[test]
fn calls_go_on_when_the_writer_panics() {
    struct Breaking;
    impl Write for Breaking {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            panic!("a writer in trouble")
        }
        fn flush(&mut self) -> io::Result<()> {
            panic!("a writer in trouble")
        }
    }
    let alarms = alarms();
    let (sink, guard) = JsonLinesSink::builder().writer(Breaking).unwrap();
    let handle = calls(sink.clone(), 100);
    drop(guard);
    assert_eq!((handle.recorded(), handle.lost()), (100, 0));
    assert_eq!(sink.lost(), 100);
    let told = alarms.0.lock();
    assert!(told.contains("cannot be written") && told.contains("the writer panicked"));
}

#[cfg(target_os = "linux")]
#[test]
fn calls_go_on_when_the_disk_is_full() {
    let alarms = alarms();
    let full = std::fs::File::options().write(true).open("/dev/full");
    let (sink, guard) = JsonLinesSink::builder().writer(full.unwrap()).unwrap();
    let handle = calls(sink.clone(), 100);
    drop(guard);
    assert_eq!((handle.recorded(), handle.lost()), (100, 0));
    assert_eq!(sink.lost(), 100);
    let told = alarms.0.lock();
    assert!(told.contains("ERROR tower_ews::audit") && told.contains("No space left"));
}

#[test]
fn records_after_the_guard_was_dropped_are_told_of_once() {
    let alarms = alarms();
    let told = || alarms.0.lock().matches("keep the guard").count();
    let before = told();
    let (sink, guard) = JsonLinesSink::builder().writer(io::sink()).unwrap();
    let handle = calls(sink.clone(), 3);
    drop(guard);
    assert_eq!((told() - before, sink.lost()), (0, 0));
    calls(sink.clone(), 3);
    assert_eq!((told() - before, sink.lost()), (1, 3));
    drop(handle);
}

fn level_of(line: &Value) -> Level {
    match (line.get("request_headers"), line.get("request_body")) {
        (None, None) => Level::Summary,
        (Some(_), None) => Level::Headers,
        _ => Level::Full,
    }
}

/// Support asks for all there is of one mailbox: nobody restarts anything, and tomorrow it is over by itself.
#[tokio::test(start_paused = true)]
async fn more_detail_for_one_mailbox_while_the_stack_runs() {
    let exchange = Exchange::builder()
        .policy(Policy::unlimited())
        .with_account(Account::new("svc@contoso.com").password(CANARY).token(JWT))
        .build();
    let lines = Lines::default();
    let (sink, guard) = JsonLinesSink::builder()
        .overflow(Overflow::Block)
        .writer(lines.clone())
        .unwrap();
    let stack = EwsStack::new(ThrottlingPolicy::exchange_online())
        .caller(Caller::new("svc@contoso.com"))
        .audit_log(AuditLogLayer::new(sink.clone()));
    let handle = stack.audit_handle();
    let service = stack.service(exchange);
    let levels = async || {
        lines.0.lock().clear();
        for mailbox in ["amy@contoso.com", "bob@contoso.com"] {
            let mut request = Place::new("call").make();
            *request.body_mut() = Full::from(create(&impersonate(mailbox)));
            let response = service.clone().oneshot(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(String::from_utf8_lossy(&body).contains("NoError"));
        }
        sink.flush();
        let text = lines.text();
        assert_eq!(leak(&text), None);
        let seen = text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(
                (&line["outcome"], &line["code"]),
                (&"ok".into(), &"NoError".into())
            );
            let mailbox = line["mailbox"].as_str().unwrap().to_owned();
            let level = level_of(&line);
            if level == Level::Full {
                let sent = line["request_body"]["text"].as_str().unwrap();
                assert!(sent.contains("<t:Subject>Tea</t:Subject>"));
                assert_eq!(line["request_headers"]["authorization"], "Basic REDACTED");
            }
            (mailbox, level)
        });
        seen.collect::<Vec<_>>()
    };
    let both = |amy, bob| {
        vec![
            ("amy@contoso.com".to_owned(), amy),
            ("bob@contoso.com".to_owned(), bob),
        ]
    };

    assert_eq!(levels().await, both(Level::Summary, Level::Summary));
    let until = Instant::now() + Duration::from_secs(86_400);
    handle.set_until(Scope::Principal("Amy@Contoso.com"), Level::Full, until);
    assert_eq!(levels().await, both(Level::Full, Level::Summary));
    // With the log off for everybody else.
    handle.set(Scope::All, Level::Off);
    let alone = levels().await;
    assert_eq!(alone, both(Level::Full, Level::Off)[..1]);
    handle.set(Scope::All, Level::Summary);
    tokio::time::sleep_until(until - Duration::from_secs(60)).await;
    assert_eq!(levels().await, both(Level::Full, Level::Summary));
    tokio::time::sleep_until(until).await;
    assert_eq!(levels().await, both(Level::Summary, Level::Summary));
    // Clones of the handle, and services that were made before, act together.
    handle
        .clone()
        .set(Scope::Operation("CreateItem"), Level::Headers);
    assert_eq!(levels().await, both(Level::Headers, Level::Headers));
    handle.clear(Scope::Operation("CreateItem"));
    assert_eq!(levels().await, both(Level::Summary, Level::Summary));
    drop(guard);
    assert_eq!((handle.lost(), sink.lost()), (0, 0));
}
