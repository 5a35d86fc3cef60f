//! The Redis ledger against a real server: one that each test starts for itself, on a Unix socket in a folder of its own.

#[path = "redis_server/server.rs"]
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use server::Server;
use tokio::time::sleep;
use tower_ews::extensions::Priority;
use tower_ews::ledger::redis::{
    RedisConnect, RedisLedger, RedisLedgerBuilder, RedisServer, StoreError, WhenUnavailable,
};
use tower_ews::ledger::{AcquireError, AcquireRequest, Ledger, Limit, Permit, Signal};
use tower_ews::principal::{Budget, Charge, Principal};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn in_flight(limit: u32) -> RedisLedgerBuilder {
    let builder = RedisLedger::builder().lease(ms(1_500));
    builder.budget(Budget::Concurrency, Limit::InFlight(limit))
}

fn svc() -> AcquireRequest {
    AcquireRequest::new(Principal::account("svc"))
}

fn within(time: Duration) -> AcquireRequest {
    svc().with_deadline(tokio::time::Instant::now() + time)
}

async fn acquire(
    ledger: &Arc<RedisLedger>,
    request: AcquireRequest,
) -> Result<Permit, AcquireError> {
    Permit::acquire(Arc::clone(ledger) as Arc<dyn Ledger>, request).await
}

fn process(server: &Server, builder: &RedisLedgerBuilder) -> Arc<RedisLedger> {
    Arc::new(builder.clone().build(RedisServer::new(server.client())))
}

#[tokio::test]
async fn processes_share_a_limit_and_leave_nothing() {
    let Some(server) = Server::start() else {
        return;
    };
    for (limit, processes, calls) in [(27_u32, 4_u32, 400_u32), (3, 10, 12), (5, 10, 20)] {
        let (now, peak) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let begin = Instant::now();
        let mut jobs = Vec::new();
        for _ in 0..processes {
            let ledger = process(&server, &in_flight(limit));
            for _ in 0..calls {
                let (ledger, now, peak) =
                    (Arc::clone(&ledger), Arc::clone(&now), Arc::clone(&peak));
                jobs.push(tokio::spawn(async move {
                    let permit = acquire(&ledger, svc()).await.unwrap();
                    peak.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
                    sleep(ms(20)).await;
                    now.fetch_sub(1, Relaxed);
                    permit.complete();
                }));
            }
        }
        for job in jobs {
            job.await.unwrap();
        }
        let least = ms(20) * (calls * processes).div_ceil(limit);
        println!(
            "limit {limit}, {processes} processes: {:?}, least {least:?}",
            begin.elapsed()
        );
        assert!(peak.load(Relaxed) <= limit, "{peak:?}");
    }
    sleep(ms(500)).await;
    assert_eq!(server.keys().await, 0);
}

#[tokio::test]
async fn each_kind_of_limit_is_shared() {
    let Some(server) = Server::start() else {
        return;
    };
    let open = Limit::Distinct {
        limit: 1,
        idle: ms(400),
    };
    let builder = in_flight(2)
        .budget(Budget::OpenMailboxes, open)
        .budget(Budget::MessageRate, Limit::per_window(10, ms(1_000)));
    let [one, other] = [(); 2].map(|()| process(&server, &builder));
    let of = |budget, amount| {
        AcquireRequest::new(Charge::new(Principal::account("svc"), budget, amount))
    };
    let mailbox = |name: &str| {
        let value = Principal::mailbox(name);
        AcquireRequest::new(Charge::of_value(
            Principal::account("svc"),
            Budget::OpenMailboxes,
            value,
        ))
    };
    let late =
        |request: AcquireRequest| request.with_deadline(tokio::time::Instant::now() + ms(100));
    // Values.
    let held = acquire(&one, mailbox("a")).await.unwrap();
    drop(acquire(&other, late(mailbox("a"))).await.unwrap());
    assert!(acquire(&other, late(mailbox("b"))).await.is_err());
    drop(held);
    drop(acquire(&other, mailbox("b")).await.unwrap());
    // Buckets.
    let begin = Instant::now();
    for ledger in [&one, &other, &one] {
        acquire(ledger, of(Budget::MessageRate, 5))
            .await
            .unwrap()
            .complete();
    }
    assert!(begin.elapsed() >= ms(450), "{:?}", begin.elapsed());
    // Gates.
    let permit = acquire(&one, svc()).await.unwrap();
    permit.report(Signal::Busy {
        until: tokio::time::Instant::now() + ms(700),
    });
    sleep(ms(50)).await;
    assert!(acquire(&other, within(ms(100))).await.is_err());
    // And an amount above the limit, once nothing else is held.
    drop(permit);
    sleep(ms(700)).await;
    drop(acquire(&other, of(Budget::Concurrency, 7)).await.unwrap());
}

#[tokio::test]
async fn a_server_that_is_killed_and_started_again_forgets_and_is_told() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let [one, other] = [(); 2].map(|()| process(&server, &in_flight(4)));
    let mut held = Vec::new();
    for ledger in [&one, &other, &one, &other] {
        held.push(acquire(ledger, svc()).await.unwrap());
    }
    server.restart();
    sleep(ms(1_500)).await;
    for ledger in [&one, &other] {
        assert!(acquire(ledger, within(ms(50))).await.is_err());
    }
    held.pop();
    held.push(acquire(&one, within(ms(1_000))).await.unwrap());
}

#[tokio::test]
async fn a_server_that_stands_still_is_waited_for_or_not() {
    let Some(server) = Server::start() else {
        return;
    };
    let choices = [
        WhenUnavailable::Wait,
        WhenUnavailable::FailFast,
        WhenUnavailable::LocalShare,
    ];
    let ledgers = choices.map(|choice| {
        let prefix = format!("{choice:?}");
        process(
            &server,
            &in_flight(4).when_unavailable(choice).prefix(prefix),
        )
    });
    for ledger in &ledgers {
        drop(acquire(ledger, svc()).await.unwrap());
    }
    server.signal("STOP");
    sleep(ms(2_500)).await;
    let [wait, fail, local] = &ledgers;
    let waits = tokio::spawn(acquire_soon(wait.clone(), ms(10_000)));
    let error = acquire(fail, within(ms(5_000))).await.unwrap_err();
    let AcquireError::Unavailable { source } = &error else {
        panic!("{error}")
    };
    assert!(source.is::<StoreError>());
    drop(acquire(local, within(ms(100))).await.unwrap());
    assert!(!waits.is_finished());
    server.signal("CONT");
    drop(waits.await.unwrap().unwrap());
    let begin = Instant::now();
    while let Err(error) = acquire(fail, within(ms(5_000))).await {
        assert!(matches!(error, AcquireError::Unavailable { .. }));
        assert!(begin.elapsed() < ms(5_000));
        sleep(ms(50)).await;
    }
}

async fn acquire_soon(ledger: Arc<RedisLedger>, time: Duration) -> Result<Permit, AcquireError> {
    acquire(&ledger, within(time)).await
}

#[tokio::test]
async fn a_server_without_memory_lends_nothing_and_then_does() {
    let Some(server) = Server::start() else {
        return;
    };
    server
        .command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
        .await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let ledger = process(
        &server,
        &in_flight(4).when_unavailable(WhenUnavailable::FailFast),
    );
    let error = acquire(&ledger, within(ms(5_000))).await.unwrap_err();
    assert!(error.to_string().contains("OOM"), "{error}");
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let begin = Instant::now();
    while acquire(&ledger, within(ms(1_000))).await.is_err() {
        assert!(begin.elapsed() < ms(5_000));
        sleep(ms(20)).await;
    }
}

#[tokio::test]
async fn a_replica_that_is_promoted_goes_on() {
    let Some(first) = Server::start() else { return };
    let Some(second) = Server::start_with(&["--replicaof", "127.0.0.1", &first.port().to_string()])
    else {
        return;
    };
    // What a name would do that is moved to another server.
    #[derive(Debug)]
    struct Name(parking_lot::Mutex<Arc<RedisServer>>);
    #[derive(Debug, Clone)]
    struct Names(Arc<Name>);
    impl RedisConnect for Names {
        fn command(
            &self,
            command: redis::Cmd,
        ) -> tower_ews::ledger::redis::RedisFuture<redis::Value> {
            self.0.0.lock().command(command)
        }
        fn subscribe(
            &self,
            channels: Vec<String>,
        ) -> tower_ews::ledger::redis::RedisFuture<tower_ews::ledger::redis::Messages> {
            self.0.0.lock().subscribe(channels)
        }
    }
    let name = Arc::new(Name(parking_lot::Mutex::new(Arc::new(RedisServer::new(
        first.client(),
    )))));
    let [one, other] = [(); 2].map(|()| Arc::new(in_flight(4).build(Names(Arc::clone(&name)))));
    let mut held = Vec::new();
    for ledger in [&one, &other, &one, &other] {
        held.push(acquire(ledger, svc()).await.unwrap());
    }
    sleep(ms(1_000)).await;
    drop(first);
    second.command(&["REPLICAOF", "NO", "ONE"]).await;
    *name.0.lock() = Arc::new(RedisServer::new(second.client()));
    sleep(ms(1_500)).await;
    for ledger in [&one, &other] {
        assert!(acquire(ledger, within(ms(50))).await.is_err());
    }
    held.pop();
    held.push(acquire(&one, within(ms(1_500))).await.unwrap());
}

#[tokio::test]
async fn a_user_with_the_documented_commands_can_do_all_and_one_without_is_told() {
    let Some(server) = Server::start() else {
        return;
    };
    let commands = "+evalsha +eval +time +hgetall +hset +hdel +del +pexpire +publish +subscribe \
                    +unsubscribe +hello +client +select +ping";
    let mut words = vec!["ACL", "SETUSER", "fleet", "on", ">secret", "resetchannels"];
    words.extend(["~tower-ews:*", "&tower-ews:*"]);
    words.extend(commands.split_whitespace());
    server.command(&words).await;
    let user = |name: &str| {
        let url = format!("redis://{name}:secret@127.0.0.1:{}", server.port());
        let client = redis::Client::open(url).unwrap();
        let builder = in_flight(1).when_unavailable(WhenUnavailable::FailFast);
        Arc::new(builder.build(RedisServer::new(client)))
    };
    let [one, other] = [(); 2].map(|()| user("fleet"));
    let held = acquire(&one, svc()).await.unwrap();
    let waits = tokio::spawn(acquire_soon(other.clone(), ms(5_000)));
    sleep(ms(200)).await;
    // The message arrives: without it, it would be half a second until the next request.
    let begin = Instant::now();
    drop(held);
    drop(waits.await.unwrap().unwrap());
    assert!(begin.elapsed() < ms(400), "{:?}", begin.elapsed());
    let denied = server.command(&["ACL", "LOG"]).await;
    assert_eq!(denied, redis::Value::Array(Vec::new()));
    let less = [
        "ACL", "SETUSER", "less", "on", ">secret", "~other:*", "+@all",
    ];
    server.command(&less).await;
    let error = acquire(&user("less"), within(ms(5_000))).await.unwrap_err();
    let text = error.to_string().to_lowercase();
    assert!(text.contains("permission"), "{error}");
}

#[tokio::test]
async fn an_urgent_call_goes_before_the_bulk_of_another_process() {
    let Some(server) = Server::start() else {
        return;
    };
    let [bulk, urgent] = [(); 2].map(|()| process(&server, &in_flight(3)));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let bulk = Arc::clone(&bulk);
        calls.spawn(async move {
            loop {
                let request = svc().with_priority(Priority::Bulk);
                let permit = acquire(&bulk, request).await.unwrap();
                sleep(ms(100)).await;
                permit.complete();
            }
        });
    }
    sleep(ms(500)).await;
    for _ in 0..5 {
        let request = within(ms(1_000)).with_priority(Priority::Interactive);
        drop(acquire(&urgent, request).await.unwrap());
        sleep(ms(100)).await;
    }
}

#[tokio::test]
async fn another_layout_is_refused() {
    let Some(server) = Server::start() else {
        return;
    };
    server
        .command(&["HSET", "tower-ews:{account:svc}", "layout", "7"])
        .await;
    let error = acquire(&process(&server, &in_flight(4)), svc())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("layout 7"), "{error}");
}
