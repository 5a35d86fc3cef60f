//! A job under a busy budget that nobody tells, killed in the middle: with what the ledger had learnt the next process is not locked out
//! again. In virtual time against the simulator.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::ServiceExt;
use tower_ews::EwsStack;
use tower_ews::extensions::Caller;
use tower_ews::ledger::{Learnt, LocalLedger};
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::simulator::{Exchange, Policy};

const READ: &str = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Body><GetFolder><FolderShape><t:BaseShape>IdOnly</t:BaseShape></FolderShape><FolderIds><t:DistinguishedFolderId Id="inbox"/></FolderIds></GetFolder></s:Body></s:Envelope>"#;

const CREDENTIALS: &str = "Basic c3ZjQGNvbnRvc28uY29tOnNlY3JldA==";

/// Execution time in milliseconds: what a call takes, and what the server allows. The client's policy believes in four times as much.
const CALL: u64 = 2_000;
const BURST: u32 = 200_000;
const CUTOFF: u32 = 200_000;
const PER_HOUR: u32 = 900_000;

fn exchange() -> Exchange {
    let policy = Policy::exchange_online().with(|policy| {
        policy.latency = Duration::ZERO;
        policy.member_time = Duration::from_millis(CALL);
        policy.max_burst = Some(BURST.into());
        policy.cutoff_balance = CUTOFF.into();
        policy.recharge_rate = PER_HOUR.into();
    });
    Exchange::builder().policy(policy).build()
}

fn policy() -> ThrottlingPolicy {
    let a_week = Duration::from_secs(7 * 86_400);
    let mut policy = ThrottlingPolicy::exchange_online();
    (policy.deadline, policy.max_wait) = (a_week, a_week);
    policy
        .set_busy_time(BURST * 4, PER_HOUR * 4, CUTOFF * 4)
        .unwrap();
    policy
}

/// Offers calls all at once, until so many have ended, and says what the server locked out meanwhile.
async fn run(exchange: &Exchange, ledger: &Arc<LocalLedger>, calls: usize, until: usize) -> u64 {
    let before = exchange.report().lockouts;
    let ews = EwsStack::new(policy())
        .caller(Caller::new("svc@contoso.com"))
        .ledger(ledger.clone())
        .service(exchange.clone());
    let mut running = JoinSet::new();
    for _ in 0..calls {
        let ews = ews.clone();
        running.spawn(async move {
            let request = Request::post("https://outlook.office365.com/EWS/Exchange.asmx")
                .header("content-type", "text/xml; charset=utf-8")
                .header("authorization", CREDENTIALS)
                .body(String::from(READ))
                .unwrap();
            let response = ews.oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            response.into_body().collect().await.unwrap();
        });
    }
    for _ in 0..until {
        running.join_next().await.unwrap().unwrap();
    }
    // The process is killed here, with what is in flight.
    running.shutdown().await;
    exchange.report().lockouts - before
}

async fn killed_in_the_middle(saved: bool) -> (u64, u64, Duration) {
    let exchange = exchange();
    let ledger = || Arc::new(policy().ledger());
    let first = ledger();
    let before = run(&exchange, &first, 2_000, 1_200).await;
    // As it is written to a file.
    let learnt = serde_json::to_string(&first.export()).unwrap();
    let second = ledger();
    if saved {
        let learnt: Learnt = serde_json::from_str(&learnt).unwrap();
        second.import(&learnt);
    }
    let start = Instant::now();
    let after = run(&exchange, &second, 800, 800).await;
    (before, after, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_restart_with_what_was_learnt_meets_no_second_lock_out() {
    let (before, after, took) = killed_in_the_middle(true).await;
    println!("locked out {before} times, then {after}, {took:?}");
    assert!((1..=3).contains(&before), "{before}");
    assert_eq!(after, 0);
    // The rest of the work, at what comes back in an hour.
    let least = 800.0 * CALL as f64 / f64::from(PER_HOUR) * 3600.0;
    assert!(took.as_secs_f64() < 1.1 * least, "{took:?} of {least}");

    let (_, after, took) = killed_in_the_middle(false).await;
    println!("without: {after}, {took:?}");
    assert!(after > 0);
}
