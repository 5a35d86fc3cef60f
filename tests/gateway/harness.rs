//! Starts the gateway as a process, talks to it, and stands in for the server behind it.

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use tokio::net::TcpListener;

/// A gateway that is killed when this is dropped.
pub(crate) struct Gateway {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
}

impl Gateway {
    /// The program, listening on `port` of the loopback interface; 0 is any.
    pub(crate) fn command(upstream: &str, port: u16) -> Command {
        let test = std::env::current_exe().expect("the test is a file");
        let built = test
            .ancestors()
            .nth(2)
            .map(|profile| profile.join("examples/gateway"));
        let built = built.filter(|file| file.exists());
        let built = built.expect("run `cargo build --features https --example gateway` first");
        let mut command = Command::new(built);
        command
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(["--upstream", upstream])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    pub(crate) fn start(upstream: &str, more: &[&str]) -> Self {
        let mut child = Self::command(upstream, 0)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the gateway starts");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        out.read_line(&mut line)
            .expect("the gateway says where it listens");
        let address = line
            .split("//")
            .nth(1)
            .and_then(|rest| rest.split('/').next());
        let address = address.and_then(|text| text.parse().ok());
        Self {
            child,
            address: address.unwrap_or_else(|| panic!("{line:?}")),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/EWS/Exchange.asmx", self.address)
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status();
        assert!(kill.expect("kill runs").success());
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < until, "the gateway does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn status(&self) -> serde_json::Value {
        let (_, _, text) = send(
            Request::get(format!("http://{}/status.json", self.address)),
            "",
        )
        .await;
        serde_json::from_str(&text).expect("JSON")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) type Http = Client<HttpConnector, Full<Bytes>>;

pub(crate) fn http() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// One request over a connection of its own.
pub(crate) async fn send(
    request: request::Builder,
    body: impl Into<Bytes>,
) -> (StatusCode, HeaderMap, String) {
    let request = request.body(Full::new(body.into())).expect("a request");
    let response = http().request(request).await.expect("a response");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    (
        head.status,
        head.headers,
        String::from_utf8_lossy(&body).into_owned(),
    )
}

/// The call of an account.
pub(crate) async fn call(
    gateway: &Gateway,
    user: &str,
    soap: String,
) -> (StatusCode, HeaderMap, String) {
    let request = Request::post(gateway.url())
        .header("content-type", "text/xml; charset=utf-8")
        .header("authorization", basic(user, "secret"));
    send(request, soap).await
}

pub(crate) fn envelope(operation: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:t=\"http://schemas.microsoft.com/exchange/services/2006/types\" \
         xmlns:m=\"http://schemas.microsoft.com/exchange/services/2006/messages\"><s:Body>{operation}</s:Body></s:Envelope>"
    )
}

pub(crate) fn create(subjects: &[&str]) -> String {
    let items = subjects
        .iter()
        .map(|subject| format!("<t:Message><t:Subject>{subject}</t:Subject></t:Message>"));
    let items: String = items.collect();
    envelope(&format!(
        "<m:CreateItem MessageDisposition=\"SaveOnly\"><m:Items>{items}</m:Items></m:CreateItem>"
    ))
}

pub(crate) fn get_inbox() -> String {
    envelope(
        "<m:GetFolder><m:FolderShape><t:BaseShape>Default</t:BaseShape></m:FolderShape><m:FolderIds>\
         <t:DistinguishedFolderId Id=\"inbox\"/></m:FolderIds></m:GetFolder>",
    )
}

/// The response to a CreateItem whose members have these codes.
pub(crate) fn created(codes: &[&str]) -> String {
    let members = codes.iter().map(|code| {
        let class = if *code == "NoError" { "Success" } else { "Error" };
        format!(
            "<m:CreateItemResponseMessage ResponseClass=\"{class}\"><m:ResponseCode>{code}</m:ResponseCode><m:Items/>\
             </m:CreateItemResponseMessage>"
        )
    });
    let members: String = members.collect();
    envelope(&format!(
        "<m:CreateItemResponse><m:ResponseMessages>{members}</m:ResponseMessages></m:CreateItemResponse>"
    ))
}

pub(crate) fn xml(status: u16, body: String) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", "text/xml; charset=utf-8")
        .body(Body::from(body))
        .expect("a response")
}

/// A server that a test has written.
pub(crate) struct Upstream {
    pub(crate) url: String,
    /// The heads and bodies of all requests that were complete.
    pub(crate) seen: Arc<Mutex<Vec<(request::Parts, String)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Upstream {
    pub(crate) async fn start<F, Fut>(respond: F) -> Self
    where
        F: Fn(request::Parts, String) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen: Arc<Mutex<Vec<_>>> = Arc::default();
        let sees = Arc::clone(&seen);
        let router = Router::new().fallback(move |request: Request<Body>| {
            let (respond, sees) = (respond.clone(), Arc::clone(&sees));
            async move {
                let (head, body) = request.into_parts();
                let body = match body.collect().await {
                    Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
                    Err(_) => return Ok::<_, Infallible>(xml(400, String::new())),
                };
                sees.lock().push((head.clone(), body.clone()));
                Ok(respond(head, body).await)
            }
        });
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self {
            url: format!("http://{address}"),
            seen,
            task,
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.lock().len()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A file that is gone when this is dropped.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str, content: &[u8]) -> Self {
        let file = format!("tower-ews-gateway-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, content).expect("a file");
        Self(path)
    }

    pub(crate) fn write(&self, content: &str) {
        std::fs::write(&self.0, content).expect("a file");
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Asks until it is so, for ten seconds.
pub(crate) async fn until<F: AsyncFnMut() -> bool>(what: &str, mut is: F) {
    for _ in 0..500 {
        if is().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within ten seconds: {what}");
}
