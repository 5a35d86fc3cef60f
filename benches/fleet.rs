//! What one budget for several processes costs: acquires of a busy and of a contended principal by one and four ledgers with
//! connections of their own, commands to Redis for each, and how fast a freed share reaches who waits, beside a plain PING and beside
//! a script call for each permit.
//!
//! Starts a `redis-server` of its own, on a Unix socket. Writes `target/bench/fleet.json`. `--quick` measures less.

#[path = "../tests/redis_server/server.rs"]
mod server;

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use server::Server;
use tokio::task::JoinSet;
use tower_ews::ledger::redis::{RedisLedger, RedisServer};
use tower_ews::ledger::{AcquireRequest, Ledger, Limit, LocalLedger, Permit};
use tower_ews::principal::{Budget, Principal};

const LIMIT: u32 = 27;

/// One line of the result.
struct Row {
    name: String,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    /// Commands that Redis executed, for each of what was measured.
    commands: f64,
}

#[tokio::main]
async fn main() {
    let quick = std::env::args().any(|word| word == "--quick");
    let scale = if quick { 1 } else { 10 };
    let Some(server) = Server::start() else {
        return;
    };
    let mut rows = vec![ping(&server, 2_000 * scale).await];
    let round_trip = rows[0].p50_us;
    rows.push(script_each(&server, 1_000 * scale).await);
    let local: Arc<dyn Ledger> = Arc::new(LocalLedger::in_flight(LIMIT));
    rows.push(uncontended("uncontended/local", &local, &server, 50_000 * scale).await);
    let shared: Arc<dyn Ledger> = ledger(&server);
    rows.push(uncontended("uncontended/redis", &shared, &server, 50_000 * scale).await);
    for processes in [1, 4] {
        for (name, tasks) in [("busy", 5), ("contended", 40)] {
            rows.push(calls(&server, name, processes, tasks, 200 * scale).await);
        }
    }
    rows.push(hand_over(&server, 300 * scale).await);

    println!(
        "{:<24} {:>12} {:>10} {:>10} {:>10} {:>12}",
        "", "per second", "p50 us", "p99 us", "commands", "p50 in PINGs"
    );
    let mut json = String::from("[");
    for row in &rows {
        println!(
            "{:<24} {:>12.0} {:>10.1} {:>10.1} {:>10.4} {:>12.2}",
            row.name,
            row.per_second,
            row.p50_us,
            row.p99_us,
            row.commands,
            row.p50_us / round_trip
        );
        let comma = if json.len() > 1 { "," } else { "" };
        let _ = write!(
            json,
            "{comma}{{\"name\":\"{}\",\"per_second\":{:.1},\"p50_us\":{:.2},\"p99_us\":{:.2},\"commands\":{:.4}}}",
            row.name, row.per_second, row.p50_us, row.p99_us, row.commands
        );
    }
    json.push(']');
    std::fs::create_dir_all("target/bench").unwrap();
    std::fs::write("target/bench/fleet.json", json).unwrap();
}

fn ledger(server: &Server) -> Arc<RedisLedger> {
    let builder = RedisLedger::builder().budget(Budget::Concurrency, Limit::InFlight(LIMIT));
    Arc::new(builder.build(RedisServer::new(server.client())))
}

fn svc() -> AcquireRequest {
    AcquireRequest::new(Principal::account("svc"))
}

async fn connection(server: &Server) -> MultiplexedConnection {
    let client = server.client();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// How often scripts and messages were executed so far.
async fn commands(server: &Server) -> u64 {
    let mut connection = connection(server).await;
    let mut info = redis::cmd("INFO");
    let text: String = info
        .arg("commandstats")
        .query_async(&mut connection)
        .await
        .unwrap();
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let calls = line.and_then(|line| line.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    };
    of("cmdstat_evalsha:calls=") + of("cmdstat_eval:calls=")
}

fn row(name: &str, mut times: Vec<Duration>, took: Duration, commands: u64) -> Row {
    times.sort();
    let at = |part: f64| {
        let index = ((times.len() - 1) as f64 * part) as usize;
        times[index].as_secs_f64() * 1e6
    };
    Row {
        name: name.to_owned(),
        per_second: times.len() as f64 / took.as_secs_f64(),
        p50_us: at(0.5),
        p99_us: at(0.99),
        commands: commands as f64 / times.len() as f64,
    }
}

async fn ping(server: &Server, many: u32) -> Row {
    let mut connection = connection(server).await;
    let begin = Instant::now();
    let mut times = Vec::new();
    for _ in 0..many {
        let one = Instant::now();
        let _: String = redis::cmd("PING")
            .query_async(&mut connection)
            .await
            .unwrap();
        times.push(one.elapsed());
    }
    row("ping", times, begin.elapsed(), 0)
}

/// The simplest way: a script call to acquire and one to release.
async fn script_each(server: &Server, many: u32) -> Row {
    let script = redis::Script::new(
        "local held = tonumber(redis.call('GET', KEYS[1]) or '0') + tonumber(ARGV[1]) \
         if held > tonumber(ARGV[2]) then return 0 end \
         redis.call('SET', KEYS[1], held, 'PX', 10000) return 1",
    );
    let mut connection = connection(server).await;
    let before = commands(server).await;
    let begin = Instant::now();
    let mut times = Vec::new();
    for _ in 0..many {
        let one = Instant::now();
        for step in [1, -1] {
            let mut call = script.key("semaphore");
            let call = call.arg(step).arg(LIMIT);
            let _: i32 = call.invoke_async(&mut connection).await.unwrap();
        }
        times.push(one.elapsed());
    }
    let took = begin.elapsed();
    row("script_each", times, took, commands(server).await - before)
}

/// One call after the other, with room to spare. Times are those of a hundred, by a hundred.
async fn uncontended(name: &str, ledger: &Arc<dyn Ledger>, server: &Server, many: u32) -> Row {
    drop(Permit::acquire(Arc::clone(ledger), svc()).await.unwrap());
    let before = commands(server).await;
    let begin = Instant::now();
    let mut times = Vec::new();
    for _ in 0..many / 100 {
        let one = Instant::now();
        for _ in 0..100 {
            let permit = Permit::acquire(Arc::clone(ledger), svc()).await;
            black_box(permit.unwrap()).complete();
        }
        times.push(one.elapsed() / 100);
    }
    let took = begin.elapsed() / 100;
    let commands = commands(server).await - before;
    let mut row = row(name, times, took, commands);
    row.commands /= 100.0;
    row
}

/// Processes with tasks that call again and again, 5 ms each. Times are what a call waits.
async fn calls(server: &Server, name: &str, processes: u32, tasks: u32, each: u32) -> Row {
    let before = commands(server).await;
    let begin = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..processes {
        let ledger: Arc<dyn Ledger> = ledger(server);
        for _ in 0..tasks {
            let ledger = Arc::clone(&ledger);
            running.spawn(async move {
                let mut times = Vec::new();
                for _ in 0..each {
                    let one = Instant::now();
                    let permit = Permit::acquire(Arc::clone(&ledger), svc()).await.unwrap();
                    times.push(one.elapsed());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    permit.complete();
                }
                times
            });
        }
    }
    let times = running.join_all().await.concat();
    let took = begin.elapsed();
    let commands = commands(server).await - before;
    row(&format!("{name}/{processes}"), times, took, commands)
}

/// From a release in one process to the admission in another one.
async fn hand_over(server: &Server, many: u32) -> Row {
    let builder = RedisLedger::builder()
        .prefix("hand-over")
        .budget(Budget::Concurrency, Limit::InFlight(1));
    let ledgers: [Arc<dyn Ledger>; 2] = [(); 2].map(|()| {
        let ledger = builder.clone().build(RedisServer::new(server.client()));
        Arc::new(ledger) as Arc<dyn Ledger>
    });
    let before = commands(server).await;
    let begin = Instant::now();
    let mut times = Vec::new();
    let mut held = Permit::acquire(Arc::clone(&ledgers[0]), svc())
        .await
        .unwrap();
    for number in 1..=many as usize {
        let next = Arc::clone(&ledgers[number % 2]);
        let waits = tokio::spawn(async move {
            let permit = Permit::acquire(next, svc()).await.unwrap();
            (permit, Instant::now())
        });
        tokio::time::sleep(Duration::from_millis(2)).await;
        let released = Instant::now();
        drop(held);
        let (permit, admitted) = waits.await.unwrap();
        times.push(admitted - released);
        held = permit;
    }
    drop(held);
    let took = begin.elapsed();
    row("hand_over", times, took, commands(server).await - before)
}
