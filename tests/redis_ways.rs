//! The ways to Redis that are not one plain server: TLS, a cluster, and sentinels. Each test starts what it needs, on ports of its own.

#[path = "redis_server/server.rs"]
mod server;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::sentinel::Sentinel;
use redis::{Client, Cmd, RedisResult, TlsCertificates, Value};
use server::Server;
use tokio::time::sleep;
use tower_ews::ledger::redis::{
    Messages, RedisConnect, RedisFuture, RedisLedger, RedisServer, subscribe,
};
use tower_ews::ledger::{AcquireRequest, Ledger, Limit, Permit};
use tower_ews::principal::{Budget, Principal};

const LIMIT: u32 = 3;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn ledger(connect: impl RedisConnect) -> Arc<RedisLedger> {
    let builder = RedisLedger::builder().lease(ms(1_500));
    let builder = builder.budget(Budget::Concurrency, Limit::InFlight(LIMIT));
    Arc::new(builder.build(connect))
}

/// Calls of several principals in both processes: how many of one run at a time, at most.
async fn peak(processes: [Arc<RedisLedger>; 2], principals: u32, calls: u32) -> u32 {
    let mut jobs = Vec::new();
    let peak = Arc::new(AtomicU32::new(0));
    for principal in 0..principals {
        let now = Arc::new(AtomicU32::new(0));
        for ledger in &processes {
            for _ in 0..calls {
                let (ledger, now, peak) = (Arc::clone(ledger), Arc::clone(&now), Arc::clone(&peak));
                jobs.push(tokio::spawn(async move {
                    let ask = AcquireRequest::new(Principal::account(&format!("svc{principal}")));
                    let permit = Permit::acquire(ledger as Arc<dyn Ledger>, ask);
                    let permit = permit.await.unwrap();
                    peak.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
                    sleep(ms(10)).await;
                    now.fetch_sub(1, Relaxed);
                    permit.complete();
                }));
            }
        }
    }
    for job in jobs {
        job.await.unwrap();
    }
    peak.load(Relaxed)
}

/// A permit of each of so many principals.
async fn held(ledger: &Arc<RedisLedger>, principals: u32) -> Vec<Permit> {
    let mut held = Vec::new();
    for principal in 0..principals {
        let ask = AcquireRequest::new(Principal::account(&format!("svc{principal}")));
        let ledger = Arc::clone(ledger) as Arc<dyn Ledger>;
        held.push(Permit::acquire(ledger, ask).await.unwrap());
    }
    held
}

fn free_port() -> u16 {
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    free.local_addr().unwrap().port()
}

#[tokio::test]
async fn over_tls() {
    let pem = |label: &str, der: &[u8]| {
        let text = STANDARD.encode(der);
        let lines: Vec<_> = text
            .as_bytes()
            .chunks(64)
            .map(String::from_utf8_lossy)
            .collect();
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            lines.join("\n")
        )
    };
    let certificate = pem("CERTIFICATE", include_bytes!("http_client/certificate.der"));
    let key = pem("PRIVATE KEY", include_bytes!("http_client/key.der"));
    let folder = std::env::temp_dir().join(format!("tower-ews-{:016x}", fastrand::u64(..)));
    std::fs::create_dir(&folder).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (crt, key) = (file("tls.crt", &certificate), file("tls.key", &key));
    let port = free_port();
    let arguments = [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &crt,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ];
    let started = Server::start_with(&arguments);
    if let Some(server) = &started {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let trusted = TlsCertificates {
            client_tls: None,
            root_cert: Some(certificate.into_bytes()),
        };
        let url = format!("rediss://localhost:{port}");
        let client = Client::build_with_tls(url, trusted).unwrap();
        let process = || ledger(RedisServer::new(client.clone()));
        assert!(peak([process(), process()], 2, 30).await <= LIMIT);
        let held = held(&process(), 1).await;
        assert_eq!(server.keys().await, 1, "it is this server");
        drop(held);
        let strict = Client::open(format!("rediss://localhost:{port}")).unwrap();
        assert!(strict.get_multiplexed_async_connection().await.is_err());
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// The way to a cluster: its connection makes itself anew, and each of its servers passes messages on to all.
struct Cluster<C> {
    commands: C,
    messages: Client,
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> RedisConnect for Cluster<C> {
    fn command(&self, command: Cmd) -> RedisFuture<Value> {
        let mut connection = self.commands.clone();
        Box::pin(async move { connection.req_packed_command(&command).await })
    }

    fn subscribe(&self, channels: Vec<String>) -> RedisFuture<Messages> {
        subscribe(self.messages.clone(), channels)
    }
}

#[tokio::test]
async fn through_a_cluster() {
    let mut servers = Vec::new();
    for _ in 0..3 {
        let bus = free_port().to_string();
        let arguments = ["--cluster-enabled", "yes", "--cluster-port", &bus];
        let Some(server) = Server::start_with(&arguments) else {
            return;
        };
        servers.push((server, bus));
    }
    for (at, (server, _)) in servers.iter().enumerate() {
        let slots = [at * 5_462, (at * 5_462 + 5_461).min(16_383)].map(|slot| slot.to_string());
        let words = ["CLUSTER", "ADDSLOTSRANGE", &slots[0], &slots[1]];
        server.command(&words).await;
        let first = (servers[0].0.port().to_string(), &servers[0].1);
        let words = ["CLUSTER", "MEET", "127.0.0.1", &first.0, first.1];
        server.command(&words).await;
    }
    for (server, _) in &servers {
        let begin = Instant::now();
        loop {
            let info: String =
                redis::from_redis_value(server.command(&["CLUSTER", "INFO"]).await).unwrap();
            if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") {
                break;
            }
            assert!(begin.elapsed() < ms(30_000), "{info}");
            sleep(ms(50)).await;
        }
    }
    let urls = servers
        .iter()
        .map(|(server, _)| format!("redis://127.0.0.1:{}", server.port()));
    let client = ClusterClient::new(urls.clone().collect::<Vec<_>>()).unwrap();
    let mut processes = Vec::new();
    // Each listens to another server.
    for url in urls.take(2) {
        let commands = client.get_async_connection().await.unwrap();
        let messages = Client::open(url).unwrap();
        processes.push(ledger(Cluster { commands, messages }));
    }
    let begin = Instant::now();
    let processes: [_; 2] = processes.try_into().unwrap();
    assert!(peak(processes.clone(), 12, 12).await <= LIMIT);
    // Eight rounds of 10 ms; without messages a process would wait for half a second at a time.
    println!("through a cluster: {:?}", begin.elapsed());
    let held = held(&processes[0], 12).await;
    let mut used = 0;
    for (server, _) in &servers {
        used += usize::from(server.keys().await > 0);
    }
    assert!(used >= 2, "the principals are on several servers");
    drop(held);
}

/// The way to whatever server the sentinels say.
struct Sentinels {
    sentinel: Arc<tokio::sync::Mutex<Sentinel>>,
    connection: Arc<Mutex<Option<MultiplexedConnection>>>,
}

const MASTER: &str = "budgets";

async fn master(sentinel: &tokio::sync::Mutex<Sentinel>) -> RedisResult<Client> {
    sentinel.lock().await.async_master_for(MASTER, None).await
}

impl RedisConnect for Sentinels {
    fn command(&self, command: Cmd) -> RedisFuture<Value> {
        let (sentinel, shared) = (Arc::clone(&self.sentinel), Arc::clone(&self.connection));
        Box::pin(async move {
            let known = shared.lock().clone();
            let mut connection = match known {
                Some(connection) => connection,
                None => {
                    let master = master(&sentinel).await?;
                    let new = master.get_multiplexed_async_connection().await?;
                    shared.lock().get_or_insert(new).clone()
                }
            };
            let response = connection.req_packed_command(&command).await;
            let response = response.and_then(Value::extract_error);
            // A server that does not know the script is the right one, all the same.
            if response
                .as_ref()
                .is_err_and(|error| error.code() != Some("NOSCRIPT"))
            {
                shared.lock().take();
            }
            response
        })
    }

    fn subscribe(&self, channels: Vec<String>) -> RedisFuture<Messages> {
        let sentinel = Arc::clone(&self.sentinel);
        Box::pin(async move { subscribe(master(&sentinel).await?, channels).await })
    }
}

/// A sentinel of one server. It ends with the test.
struct Watch {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Watch {
    fn over(server: &Server) -> Self {
        let folder = std::env::temp_dir().join(format!("tower-ews-{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&folder).unwrap();
        let (port, of) = (free_port(), server.port());
        let settings = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor {MASTER} 127.0.0.1 {of} 1\n\
             sentinel down-after-milliseconds {MASTER} 300\nsentinel failover-timeout {MASTER} 1000\n"
        );
        std::fs::write(folder.join("sentinel.conf"), settings).unwrap();
        let child = Command::new("redis-server")
            .args(["sentinel.conf", "--sentinel"])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            folder,
            port,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn by_sentinels_to_a_replica_that_is_promoted() {
    let Some(first) = Server::start() else {
        return;
    };
    let of = format!("127.0.0.1 {}", first.port());
    let replica = Server::start_with(&["--replicaof", &of]).unwrap();
    let watch = Watch::over(&first);
    let sentinels = || {
        let url = format!("redis://127.0.0.1:{}", watch.port);
        Sentinels {
            sentinel: Arc::new(tokio::sync::Mutex::new(Sentinel::build(vec![url]).unwrap())),
            connection: Arc::default(),
        }
    };
    // Until the sentinel knows the replica.
    let begin = Instant::now();
    let client = Client::open(format!("redis://127.0.0.1:{}", watch.port)).unwrap();
    loop {
        if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
            let mut ask = redis::cmd("SENTINEL");
            ask.arg("REPLICAS").arg(MASTER);
            let known: RedisResult<Vec<Value>> = ask.query_async(&mut connection).await;
            if known.is_ok_and(|known| known.len() == 1) {
                break;
            }
        }
        assert!(
            begin.elapsed() < ms(30_000),
            "the sentinel finds no replica"
        );
        sleep(ms(50)).await;
    }
    let processes = [sentinels(), sentinels()].map(ledger);
    assert!(peak(processes.clone(), 2, 20).await <= LIMIT);
    drop(first);
    // The calls wait until another server is found; what was lent has ended by then, or is said anew.
    let begin = Instant::now();
    assert!(peak(processes.clone(), 2, 20).await <= LIMIT);
    println!(
        "by sentinels: {:?} after the server was killed",
        begin.elapsed()
    );
    assert!(
        replica.keys().await > 0,
        "the replica was promoted, and has the leases"
    );
}
