//! A gateway: a reverse proxy that puts the whole stack in front of an Exchange, for EWS clients that cannot be changed.
//!
//! ```text
//! cargo run --release --features https --example gateway -- --upstream https://mail.contoso.com
//! ```
//!
//! Clients are pointed at `http://127.0.0.1:8080/EWS/Exchange.asmx`, and authenticate as before. A browser shows at
//! `http://127.0.0.1:8080/` what runs, what waits and why. Without `--upstream` it brings a simulated Exchange. `--help` tells the rest.

mod args;
mod credentials;
mod first_try;
mod headers;
mod listen;
mod monitor;
mod page;
mod proxy;
mod reply;
mod running;
mod settle;
mod stacks;
mod status;
mod upload;
mod writes;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use tower_ews::audit_log::{AuditLogLayer, JsonLinesSink, Rotation};
use tower_ews::http_client::HttpsClient;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::simulator::{Exchange, Policy, Server};

use args::Args;
use listen::Listen;
use monitor::Monitor;
use page::Page;
use proxy::Proxy;
use stacks::Stacks;

/// Of the histograms of times, in seconds.
const BUCKETS: [f64; 12] = [
    0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 90.0, 300.0,
];

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("gateway: {error}; --help tells what there is");
            return ExitCode::from(2);
        }
    };
    match run(args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("gateway: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all calls had ended when it stopped.
async fn run(args: Args) -> Result<bool, String> {
    let as_text = |error: std::io::Error| error.to_string();
    let metrics = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| error.to_string())?;
    tokio::spawn(keep_up(metrics.clone()));
    let (file, _guard) = match &args.audit {
        None => (None, None),
        Some(path) => {
            let opened = JsonLinesSink::builder().file(path, Rotation::new());
            let (sink, guard) =
                opened.map_err(|error| format!("--audit {}: {error}", path.display()))?;
            (Some(sink), Some(guard))
        }
    };
    let monitor = Arc::new(Monitor::new(file));
    let (upstream, _simulator) = upstream(&args).await?;
    let client: HttpsClient = proxy::client(HttpsClient::builder())
        .build()
        .map_err(as_text)?;
    let audit = AuditLogLayer::new(Arc::clone(&monitor));
    let stacks = Stacks::new(policy(&args)?, client, audit);
    let proxy = Arc::new(Proxy::new(&args, upstream, stacks).map_err(as_text)?);

    let tls = args
        .tls
        .as_ref()
        .map(|(certificates, key)| (&**certificates, &**key));
    let listen = Listen::new(tls, args.max_connections, args.read_timeout)?;
    // Before anybody is told that there is something to send signals to.
    let signals = Signals::new().map_err(as_text)?;
    let (stop, stopped) = watch::channel(false);
    let page = Page::new(Arc::clone(&proxy), monitor, metrics, stopped.clone());
    let serving = serve(&args, &listen, &proxy, Arc::new(page), &stopped).await?;

    until_terminated(signals, &args, &proxy, &listen).await;
    tracing::info!("finishing what is under way");
    let _ = stop.send(true);
    let drained = timeout(args.drain, async {
        for task in serving {
            let _ = task.await;
        }
    });
    Ok(drained.await.is_ok())
}

/// Binds what clients reach, and the page, and says where they are.
async fn serve(
    args: &Args,
    listen: &Listen,
    proxy: &Arc<Proxy>,
    page: Arc<Page>,
    stopped: &watch::Receiver<bool>,
) -> Result<Vec<JoinHandle<()>>, String> {
    let bind = async |address| {
        let bound = TcpListener::bind(address).await;
        let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
        bound.map_err(|error| format!("{address}: {error}"))
    };
    let (address, clients) = bind(args.listen).await?;
    let scheme = if args.tls.is_some() { "https" } else { "http" };
    let beside = args.admin.is_none().then(|| Arc::clone(&page));
    let router = page::clients(Arc::clone(proxy), beside);
    let clients = listen.clone().serve(clients, router, stopped.clone());
    let mut serving = vec![tokio::spawn(clients)];
    let mut page_at = format!("{scheme}://{address}/");
    if let Some(admin) = args.admin {
        let (address, listener) = bind(admin).await?;
        page_at = format!("http://{address}/");
        let plain = Listen::new(None, 100, args.read_timeout)?;
        serving.push(tokio::spawn(plain.serve(
            listener,
            page::admin(page),
            stopped.clone(),
        )));
    }
    let at = format!(
        "{scheme}://{address}/EWS/Exchange.asmx -> {}\npage at {page_at}\n",
        proxy.upstream
    );
    // `println!` would panic where nobody reads it, or nobody but the first line.
    let _ = std::io::stdout().write_all(at.as_bytes());
    Ok(serving)
}

/// Sums up what was measured: else it would be kept one by one until somebody asks for the metrics.
async fn keep_up(metrics: PrometheusHandle) {
    let mut ticks = interval(Duration::from_secs(5));
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Reads policy and certificates again on SIGHUP, and returns on SIGTERM or SIGINT.
async fn until_terminated(mut signals: Signals, args: &Args, proxy: &Proxy, listen: &Listen) {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hangup.recv() => {}
        }
        let reloaded = policy(args).and_then(|policy| {
            listen.reload()?;
            let name = policy.name.clone();
            proxy.stacks.replace(policy);
            Ok(name)
        });
        match reloaded {
            Ok(policy) => tracing::info!(policy, "read the policy again"),
            Err(error) => tracing::error!(error, "the policy stays as it was"),
        }
    }
}

fn policy(args: &Args) -> Result<ThrottlingPolicy, String> {
    Ok(stacks::policy(&args.policy)?.faster(args.speed))
}

/// The server: the one that was named, or a simulated one on a port of its own.
async fn upstream(args: &Args) -> Result<(Uri, Option<Server>), String> {
    if let Some(upstream) = &args.upstream {
        return Ok((upstream.clone(), None));
    }
    let policy = Policy::named(&args.simulate)
        .ok_or_else(|| format!("--simulate is one of {}", Policy::NAMES.join(", ")))?;
    let mut exchange = Exchange::builder().policy(policy).speed(args.speed);
    for account in ["svc@contoso.com", "amy@contoso.com", "bob@contoso.com"] {
        exchange = exchange.account(account, "secret");
    }
    let exchange = exchange.autocreate(true).build();
    let server = exchange
        .serve_on_loopback()
        .await
        .map_err(|error| error.to_string())?;
    let url = format!("http://{}/", server.local_addr());
    Ok((
        url.parse()
            .map_err(|error: http::uri::InvalidUri| error.to_string())?,
        Some(server),
    ))
}
