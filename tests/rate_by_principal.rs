//! A rate for each principal, as a user adds it: beside `governor`'s keyed limiter, and fed by the responses.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use governor::clock::FakeRelativeClock;
use governor::{Quota, RateLimiter};
use http::{Request, Response};
use tokio::time::{Instant, advance};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_ews::ServiceBuilderExt;
use tower_ews::ledger::{Ledger, Limit, LocalLedger};
use tower_ews::principal::{Budget, Principal};
use tower_ews::server_busy_backoff::HttpClassifier;

const TICK: Duration = Duration::from_millis(1);

fn by_path<B>(request: &Request<B>) -> Principal {
    Principal::new(request.uri().path())
}

fn seed() -> u64 {
    let given = std::env::var("EWS_TEST_SEED").ok();
    let seed = given
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("EWS_TEST_SEED={seed}");
    seed
}

/// Lets the tasks run that are awake.
async fn rest() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

/// Calls come at random, most of them in bursts, and wait. At each millisecond as many have been sent of each key as with a queue
/// before `governor`.
#[tokio::test(start_paused = true)]
async fn lets_through_what_governor_lets_through() {
    let mut rng = fastrand::Rng::with_seed(seed());
    for _ in 0..20 {
        let number = [1, 2, 5, 10, 50][rng.usize(..5)];
        // In whole milliseconds, as timers are.
        let each = Duration::from_millis(rng.u64(1..50));
        let sent: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let service = ServiceBuilder::new()
            .rate_by_principal(number, each * number, by_path)
            .service(service_fn({
                let sent = Arc::clone(&sent);
                move |request: Request<()>| {
                    let path = request.uri().path().to_owned();
                    *sent.lock().unwrap().entry(path).or_default() += 1;
                    std::future::ready(Ok::<_, Infallible>(Response::new(String::new())))
                }
            }));
        let clock = FakeRelativeClock::default();
        let quota = Quota::with_period(each).unwrap();
        let quota = quota.allow_burst(NonZeroU32::new(number).unwrap());
        let governor = RateLimiter::hashmap_with_clock(quota, clock.clone());
        let mut queues: HashMap<String, VecDeque<()>> = HashMap::new();
        let mut passed: HashMap<String, usize> = HashMap::new();

        for _ in 0..1_000 {
            if rng.u8(..20) == 0 {
                let key = format!("/{}", rng.u8(..4));
                for _ in 0..rng.u32(1..=2 * number) {
                    let request = Request::get(&key).body(()).unwrap();
                    tokio::spawn(service.clone().oneshot(request));
                    queues.entry(key.clone()).or_default().push_back(());
                }
            }
            rest().await;
            for (key, queue) in &mut queues {
                while !queue.is_empty() && governor.check_key(key).is_ok() {
                    queue.pop_front();
                    *passed.entry(key.clone()).or_default() += 1;
                }
            }
            assert_eq!(
                *sent.lock().unwrap(),
                passed,
                "{number} in {:?}",
                each * number
            );
            advance(TICK).await;
            clock.advance(TICK);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_responses_say_is_left_is_kept_to() {
    let requests = Limit::per_window(1_000, Duration::from_secs(1));
    let ledger = LocalLedger::builder()
        .budget(Budget::Requests, requests)
        .build();
    let ledger: Arc<dyn Ledger> = Arc::new(ledger);
    // Three requests in each minute, which the client is not told otherwise.
    let window = Arc::new(Mutex::new((Instant::now(), 3_u32)));
    let refused = Arc::new(Mutex::new(0));
    let server = service_fn({
        let (window, refused) = (Arc::clone(&window), Arc::clone(&refused));
        move |_: Request<String>| {
            let mut window = window.lock().unwrap();
            if window.0.elapsed() >= Duration::from_secs(60) {
                *window = (Instant::now(), 3);
            }
            let reset = Duration::from_secs(60) - window.0.elapsed();
            let response = Response::builder();
            let response = match window.1 {
                0 => {
                    *refused.lock().unwrap() += 1;
                    response.status(429)
                }
                _ => response.status(200),
            };
            window.1 = window.1.saturating_sub(1);
            let response = response
                .header("x-ratelimit-remaining", window.1)
                .header("x-ratelimit-reset", reset.as_secs_f64().ceil().to_string())
                .body(String::new())
                .unwrap();
            std::future::ready(Ok::<_, tower::BoxError>(response))
        }
    });
    let mut service = ServiceBuilder::new()
        .server_busy_backoff_with_ledger(Arc::clone(&ledger), HttpClassifier)
        .rate_by_principal_with_ledger(Arc::clone(&ledger), by_path)
        .service(server);
    let begin = Instant::now();
    for _ in 0..10 {
        let request = Request::get("/amy").body(String::new()).unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status(), 200);
    }
    assert_eq!(begin.elapsed().as_secs(), 180);
    assert_eq!(*refused.lock().unwrap(), 0);
}
