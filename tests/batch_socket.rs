//! The splitter alone, without any other layer, over plain clients and real sockets; what goes over the wire is recorded.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_ews::batch_splitter::{BatchReport, BatchSplitterLayer, BatchStats, EwsBatchFormat};
use tower_ews::body::ReplayBody;
use tower_ews::simulator::{Exchange, Fault, Faults, Policy, Server};
use tower_ews::soap::SoapResponse;

const MEMBERS: usize = 60;

/// Hands connections on to a server, and keeps what clients sent in each.
struct Wire {
    address: SocketAddr,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
    _server: Server,
}

/// A request as it stood on the wire.
struct OnTheWire {
    head: String,
    body: Vec<u8>,
}

impl Wire {
    async fn before(exchange: &Exchange) -> Wire {
        let server = exchange.serve_on_loopback().await.unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let wire = Wire {
            address: listener.local_addr().unwrap(),
            sent: Arc::default(),
            _server: server,
        };
        let (sent, to) = (Arc::clone(&wire.sent), wire._server.local_addr());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(hand_on(client, to, Arc::clone(&sent)));
            }
        });
        wire
    }

    fn url(&self) -> String {
        format!("http://{}/EWS/Exchange.asmx", self.address)
    }

    /// Reads what was sent, by the lengths that the heads give: whatever is left over is no request.
    fn requests(&self) -> Vec<OnTheWire> {
        let mut requests = Vec::new();
        for sent in &*self.sent.lock().unwrap() {
            let mut rest = &sent[..];
            while !rest.is_empty() {
                let end = rest.windows(4).position(|window| window == b"\r\n\r\n");
                let (head, behind) = rest.split_at(end.expect("a whole head") + 4);
                let head = String::from_utf8(head.to_vec()).unwrap().to_lowercase();
                assert!(head.starts_with("post "), "{head}");
                assert!(!head.contains("transfer-encoding"), "{head}");
                let lengths: Vec<usize> = head
                    .lines()
                    .filter_map(|line| line.strip_prefix("content-length: "))
                    .map(|length| length.parse().unwrap())
                    .collect();
                assert_eq!(lengths.len(), 1, "{head}");
                let (body, behind) = behind.split_at(lengths[0]);
                let body = body.to_vec();
                assert!(body.ends_with(b"</s:Envelope>"));
                requests.push(OnTheWire { head, body });
                rest = behind;
            }
        }
        requests
    }
}

async fn hand_on(client: TcpStream, to: SocketAddr, sent: Arc<Mutex<Vec<Vec<u8>>>>) {
    let server = TcpStream::connect(to).await.unwrap();
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let place = {
        let mut sent = sent.lock().unwrap();
        sent.push(Vec::new());
        sent.len() - 1
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            sent.lock().unwrap()[place].extend_from_slice(&buffer[..read]);
            if to_server.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    let down = async move {
        // An end without a response reaches the client as what it is.
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

fn envelope(body: &str) -> String {
    format!(
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
         xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types' \
         xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages'><s:Body>{body}</s:Body></s:Envelope>"
    )
}

fn post(wire: &Wire, body: String) -> Request<ReplayBody> {
    // What the caller's body looked like is not what goes over the wire.
    let (one, other) = body.split_at(body.len() / 2);
    let halves = [one, other];
    let halves = halves.map(|half| Bytes::copy_from_slice(half.as_bytes()));
    Request::post(wire.url())
        .header("authorization", "Bearer secret")
        .header("content-type", "text/xml; charset=utf-8")
        .header("transfer-encoding", "chunked")
        .header("accept-encoding", "gzip, deflate")
        .body(ReplayBody::from_pieces(halves))
        .unwrap()
}

fn create() -> String {
    let all: String = (0..MEMBERS)
        .map(|n| format!("<t:Message><t:Subject>item {n:02}</t:Subject></t:Message>"))
        .collect();
    envelope(&format!(
        "<m:CreateItem MessageDisposition='SaveOnly'><m:Items>{all}</m:Items></m:CreateItem>"
    ))
}

fn subjects() -> Vec<String> {
    (0..MEMBERS).map(|n| format!("item {n:02}")).collect()
}

async fn send<S, B>(
    layer: BatchSplitterLayer<EwsBatchFormat>,
    client: S,
    request: Request<ReplayBody>,
) -> (Response<String>, BatchStats)
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let response = layer.layer(client).oneshot(request).await.unwrap();
    let merged: BatchReport = response.extensions().get().cloned().unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    (Response::from_parts(head, text), merged.stats())
}

fn codes(text: &str) -> Vec<String> {
    let response = SoapResponse::parse(text.as_bytes()).unwrap();
    let codes = response
        .entries()
        .map(|entry| entry.code.as_str().to_owned());
    codes.collect()
}

fn layer() -> BatchSplitterLayer<EwsBatchFormat> {
    BatchSplitterLayer::new(EwsBatchFormat::new())
        .start_members(8)
        .max_members(8)
        .backoff(Duration::from_millis(4), Duration::from_millis(20))
}

fn hyper() -> Client<HttpConnector, ReplayBody> {
    Client::builder(TokioExecutor::new()).build_http()
}

#[cfg(feature = "reqwest")]
fn reqwest() -> tower_ews::http_client::ReqwestClient {
    tower_ews::http_client::ReqwestClient::new(reqwest::Client::new())
}

fn exchange(fault: Option<Fault>) -> Exchange {
    let faults = match fault {
        Some(fault) => Faults::none().rate_on("CreateItem", fault, 1.0),
        None => Faults::none(),
    };
    Exchange::builder()
        .policy(Policy::unlimited())
        .faults(faults)
        .seed(5)
        .build()
}

/// Creates items on a server that throttles a third of the members of each call, and gets them again.
async fn throttled_members_come_through<S, B>(client: S, back_off: Option<Duration>)
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let share = 0.3;
    let exchange = exchange(Some(Fault::ThrottledMembers { share, back_off }));
    let wire = Wire::before(&exchange).await;
    let begun = std::time::Instant::now();
    let (response, stats) = send(layer(), client.clone(), post(&wire, create())).await;
    let took = begun.elapsed();

    assert_eq!(response.status(), 200);
    let length = response.headers()["content-length"].to_str().unwrap();
    assert_eq!(length, response.body().len().to_string());
    assert!(!response.headers().contains_key("transfer-encoding"));
    assert_eq!(codes(response.body()), ["NoError"; MEMBERS]);
    let report = exchange.report();
    assert!(report.created_twice().is_empty() && report.lost(subjects()).is_empty());
    assert_eq!(stats.resent, report.throttled_members as usize);
    assert!(stats.resent > 0 && stats.complete);
    assert_eq!(stats.done, MEMBERS);
    // Each wait was its own, and as long as the server asked for.
    let waits = exchange
        .calls()
        .iter()
        .filter(|call| call.throttled > 0)
        .count();
    let back_off = back_off.unwrap_or_default();
    assert!(took >= stats.waited, "{took:?}, {stats:?}");
    let least = back_off * waits as u32;
    assert!(took >= least, "{took:?}, {least:?}");
    // It begins to count a moment after the response.
    assert!(stats.waited >= least.mul_f64(0.9), "{least:?}, {stats:?}");

    // On the wire: whole requests, each with its length, each member as often as it was throttled and once more.
    let requests = wire.requests();
    assert_eq!(requests.len(), stats.parts as usize);
    let mut members = 0;
    for request in &requests {
        assert!(request.head.contains("authorization: bearer secret\r\n"));
        assert!(!request.head.contains("gzip"), "{}", request.head);
        let text = std::str::from_utf8(&request.body).unwrap();
        let here = text.matches("<t:Subject>").count();
        assert!((1..=8).contains(&here));
        members += here;
    }
    assert_eq!(members, MEMBERS + stats.resent);

    // What was created can be read: in parts whose responses come while they are read.
    let ids: String = response
        .body()
        .split("<t:ItemId ")
        .skip(1)
        .map(|rest| format!("<t:ItemId {}/>", rest.split_once("/>").unwrap().0))
        .collect();
    let get = envelope(&format!(
        "<m:GetItem><m:ItemShape><t:BaseShape>AllProperties</t:BaseShape></m:ItemShape><m:ItemIds>{ids}</m:ItemIds></m:GetItem>"
    ));
    for parallel in [1, 3] {
        let layer = layer().parallel(parallel);
        let (response, stats) = send(layer, client.clone(), post(&wire, get.clone())).await;
        let found = response.body().split("<t:Subject>").skip(1);
        let found: Vec<&str> = found.filter_map(|rest| rest.split('<').next()).collect();
        assert_eq!(found, subjects());
        assert_eq!((stats.parts, stats.resent), (8, 0));
    }
    wire.requests();
}

#[tokio::test]
async fn over_hyper_util() {
    throttled_members_come_through(hyper(), Some(Duration::from_millis(15))).await;
    throttled_members_come_through(hyper(), None).await;
}

#[cfg(feature = "reqwest")]
#[tokio::test]
async fn over_reqwest() {
    throttled_members_come_through(reqwest(), Some(Duration::from_millis(15))).await;
    throttled_members_come_through(reqwest(), None).await;
}

/// Makes a paused clock go fifty times as fast as a real one. A clock that is only paused jumps to the next timer whenever all tasks
/// wait, so also while bytes are between two sockets.
async fn fast_clock() {
    let tick = Duration::from_millis(1);
    loop {
        let slept = tokio::task::spawn_blocking(move || std::thread::sleep(tick));
        slept.await.unwrap();
        tokio::time::advance(tick * 50).await;
    }
}

/// A connection that dies after a part was executed: its members are not created again, and the others are created.
#[tokio::test(start_paused = true)]
async fn a_connection_dies() {
    async fn dies<S, B>(client: S)
    where
        S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        for fault in [Fault::ResetAfter, Fault::CutBody] {
            let exchange = exchange(None);
            let wire = Wire::before(&exchange).await;
            exchange.inject(fault.clone());
            let (response, stats) = send(layer(), client.clone(), post(&wire, create())).await;
            assert!(stats.waited >= Duration::from_secs(10), "{stats:?}");
            let codes = codes(response.body());
            assert_eq!(codes[..8], ["ErrorInternalServerError"; 8]);
            assert_eq!(codes[8..], ["NoError"; MEMBERS - 8]);
            assert!(
                response
                    .body()
                    .contains("not known whether this was executed")
            );
            assert_eq!((stats.unknown, stats.done), (8, MEMBERS - 8));
            let report = exchange.report();
            assert!(report.created_twice().is_empty() && report.lost(subjects()).is_empty());

            // What only reads is asked for again, in smaller parts.
            let folders = [
                "inbox",
                "drafts",
                "calendar",
                "contacts",
                "tasks",
                "sentitems",
            ];
            let folders: String = folders
                .iter()
                .map(|id| format!("<t:DistinguishedFolderId Id='{id}'/>"))
                .collect();
            let get = envelope(&format!(
                "<m:GetFolder><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape>\
                 <m:FolderIds>{folders}</m:FolderIds></m:GetFolder>"
            ));
            exchange.inject(fault);
            let (response, stats) = send(layer(), client.clone(), post(&wire, get)).await;
            assert_eq!(self::codes(response.body()), ["NoError"; 6]);
            assert_eq!((stats.parts, stats.resent), (3, 6));
        }
    }
    tokio::spawn(fast_clock());
    dies(hyper()).await;
    #[cfg(feature = "reqwest")]
    dies(reqwest()).await;
}
