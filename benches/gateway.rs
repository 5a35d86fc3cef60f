//! What the example `gateway` adds to a call, beside a bare axum proxy in the same run.
//!
//! ```text
//! cargo build --release --features https --example gateway
//! cargo bench --features https --bench gateway
//! ```
//!
//! It prints a table and writes `target/bench/gateway.json`; `-- --quick` takes a few seconds. Both proxies are processes of their own
//! before the same server, which responds at once with 2 KB. Calls go through them in turns, over connections that are kept.
//! `us` is what a call through the gateway takes, `bare_us` through the bare proxy, `direct_us` directly to the server, and
//! `added_us` what the gateway adds to the bare proxy. `bytes` is the memory of the gateway's process for each idle connection.

#[path = "overhead/results.rs"]
mod results;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::BoxError;

use self::results::round;

/// The argument with which this program is the bare proxy.
const BARE: &str = "--bare-proxy";

const PATH: &str = "/EWS/Exchange.asmx";

const GET_FOLDER: &str = "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
    xmlns:t=\"http://schemas.microsoft.com/exchange/services/2006/types\" \
    xmlns:m=\"http://schemas.microsoft.com/exchange/services/2006/messages\"><s:Body><m:GetFolder><m:FolderShape>\
    <t:BaseShape>Default</t:BaseShape></m:FolderShape><m:FolderIds><t:DistinguishedFolderId Id=\"inbox\"/></m:FolderIds>\
    </m:GetFolder></s:Body></s:Envelope>";

type Http<B> = Client<HttpConnector, B>;

fn http<B: http_body::Body<Data = Bytes> + Send>() -> Http<B> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let given: Vec<String> = env::args().skip(1).collect();
    if let Some(at) = given.iter().position(|argument| argument == BARE) {
        return bare_proxy(given.get(at + 1).ok_or("no server")?).await;
    }
    let quick = given.iter().any(|argument| argument == "--quick");
    let server = serve().await?;
    let gateway = Proxy::gateway(server)?;
    let bare = Proxy::bare(server)?;
    let mut file = Vec::new();
    println!(
        "{:<10} {:>9} {:>9} {:>9} {:>9}",
        "us a call", "direct", "bare", "gateway", "added"
    );
    for callers in [1, 16] {
        let (rounds, calls) = if quick { (4, 500) } else { (60, 2_000) };
        let mut times = [(); 3].map(|()| Histogram::<u64>::new(3).expect("three digits"));
        for round in 0..=rounds {
            for (to, times) in [server, gateway.address, bare.address]
                .into_iter()
                .zip(&mut times)
            {
                let taken = load(to, callers, calls / callers).await?;
                // The first round opens the connections.
                if round > 0 {
                    *times += taken;
                }
            }
        }
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let [direct, us, bare] =
                [0, 1, 2].map(|of| times[of].value_at_quantile(share) as f64 / 1000.0);
            let name = format!("{name}/{callers}");
            println!(
                "{name:<10} {direct:>9.0} {bare:>9.0} {us:>9.0} {:>9.0}",
                us - bare
            );
            file.push(json!({
                "name": name, "us": round(us), "bare_us": round(bare), "direct_us": round(direct), "added_us": round(us - bare),
                "ratio": round(us / bare),
            }));
        }
    }
    let idle = if quick { 1_000 } else { 8_000 };
    let bytes = memory_of_idle(&gateway, idle).await?;
    println!("bytes of an idle connection, of {idle}: {bytes:.0}");
    file.push(json!({ "name": "idle", "n": idle, "bytes": round(bytes) }));
    results::write("gateway", &file)?;
    Ok(())
}

/// Several callers, each with several calls, one after another. Times in nanoseconds.
async fn load(to: SocketAddr, callers: usize, calls: usize) -> Result<Histogram<u64>, BoxError> {
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        tasks.spawn(async move {
            let client = http::<Full<Bytes>>();
            let mut times = Histogram::<u64>::new(3)?;
            for call in 0..=calls {
                let request = Request::post(format!("http://{to}{PATH}"))
                    .header("content-type", "text/xml; charset=utf-8")
                    .header("authorization", "Basic c3ZjQGNvbnRvc28uY29tOnNlY3JldA==")
                    .body(Full::from(GET_FOLDER))?;
                let begun = Instant::now();
                let response = client.request(request).await?;
                let status = response.status();
                response.into_body().collect().await?;
                if status != 200 {
                    return Err(format!("HTTP {status} of {to}").into());
                }
                // The first one opens the connection.
                if call > 0 {
                    times.record(begun.elapsed().as_nanos() as u64)?;
                }
            }
            Ok::<_, BoxError>(times)
        });
    }
    let mut all = Histogram::new(3)?;
    while let Some(times) = tasks.join_next().await {
        all += times??;
    }
    Ok(all)
}

/// The server behind both.
async fn serve() -> Result<SocketAddr, BoxError> {
    let folder =
        "<t:Folder><t:FolderId Id=\"AAMkAD\"/><t:DisplayName>Inbox</t:DisplayName></t:Folder>"
            .repeat(24);
    let response = Bytes::from(format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:t=\"t\"><s:Body><m:GetFolderResponse \
         xmlns:m=\"http://schemas.microsoft.com/exchange/services/2006/messages\"><m:ResponseMessages><m:GetFolderResponseMessage \
         ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode><m:Folders>{folder}</m:Folders>\
         </m:GetFolderResponseMessage></m:ResponseMessages></m:GetFolderResponse></s:Body></s:Envelope>"
    ));
    let router = Router::new().fallback(move |request: Request<Body>| {
        let response = response.clone();
        async move {
            let _ = request.into_body().collect().await;
            ([("content-type", "text/xml; charset=utf-8")], response)
        }
    });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// What one writes without this crate.
async fn bare_proxy(server: &str) -> Result<(), BoxError> {
    let server: SocketAddr = server.parse()?;
    let client = http::<Body>();
    let router = Router::new().fallback(move |mut request: Request<Body>| {
        let client = client.clone();
        async move {
            let uri = format!("http://{server}{}", request.uri().path());
            *request.uri_mut() = Uri::try_from(uri).unwrap_or_default();
            request.headers_mut().remove("host");
            client
                .request(request)
                .await
                .map_err(|error| (http::StatusCode::BAD_GATEWAY, error.to_string()))
        }
    });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("http://{}/", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}

/// A proxy in a process of its own, which ends with this.
struct Proxy {
    child: Child,
    address: SocketAddr,
}

impl Proxy {
    fn gateway(server: SocketAddr) -> Result<Self, BoxError> {
        let this = env::current_exe()?;
        let built = this
            .ancestors()
            .nth(2)
            .map(|profile| profile.join("examples/gateway"));
        let built = built.filter(|file| file.exists());
        let built =
            built.ok_or("run `cargo build --release --features https --example gateway` first")?;
        let upstream = format!("http://{server}");
        Self::start(Command::new(built).args(["--listen", "127.0.0.1:0", "--upstream", &upstream]))
    }

    fn bare(server: SocketAddr) -> Result<Self, BoxError> {
        Self::start(Command::new(env::current_exe()?).args([BARE, &server.to_string()]))
    }

    fn start(command: &mut Command) -> Result<Self, BoxError> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no pipe")?).read_line(&mut line)?;
        let address = line
            .split("//")
            .nth(1)
            .and_then(|rest| rest.split('/').next());
        let address = address
            .ok_or_else(|| format!("no address in {line:?}"))?
            .parse()?;
        Ok(Self { child, address })
    }

    /// Bytes of its memory that are in use.
    fn memory(&self) -> Result<f64, BoxError> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line
            .and_then(|line| line.trim().split(' ').next())
            .ok_or("no VmRSS")?;
        Ok(kib.parse::<f64>()? * 1024.0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What each idle connection takes in the gateway.
async fn memory_of_idle(gateway: &Proxy, count: usize) -> Result<f64, BoxError> {
    let before = gateway.memory()?;
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        connections.push(TcpStream::connect(gateway.address).await?);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok((gateway.memory()? - before) / count as f64)
}
