//! Values, buckets, gates, what was learnt, and permits that are split.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower_ews::ledger::redis::RedisLedger;
use tower_ews::ledger::{AcquireError, AcquireRequest, Ledger, Limit, Permit, Signal};
use tower_ews::principal::{Budget, Charge, Charges, Principal};

use super::fake::Fake;
use super::job::{acquire, in_flight, ms, process, svc};

const SECOND: Duration = Duration::from_secs(1);

fn mailbox(name: &str) -> AcquireRequest {
    let value = Principal::mailbox(name);
    AcquireRequest::new(Charge::of_value(
        Principal::account("svc"),
        Budget::OpenMailboxes,
        value,
    ))
}

async fn soon(ledger: &Arc<RedisLedger>, request: AcquireRequest) -> Result<Permit, AcquireError> {
    acquire(ledger, request.with_deadline(Instant::now() + ms(50))).await
}

#[tokio::test(start_paused = true)]
async fn an_open_mailbox_costs_the_others_nothing() {
    let fake = Fake::new(1);
    let limit = Limit::Distinct {
        limit: 2,
        idle: 60 * SECOND,
    };
    let builder = RedisLedger::builder().budget(Budget::OpenMailboxes, limit);
    let [one, other] = [(); 2].map(|()| process(&fake, &builder));
    let held = soon(&one, mailbox("a")).await.unwrap();
    drop(soon(&one, mailbox("b")).await.unwrap());
    // Both are open, to everybody.
    for name in ["a", "b", "a"] {
        drop(soon(&other, mailbox(name)).await.unwrap());
    }
    assert!(soon(&other, mailbox("c")).await.is_err());
    // The place of the second one is free once it has not been used for a minute.
    let begin = Instant::now();
    drop(acquire(&other, mailbox("c")).await.unwrap());
    let waited = begin.elapsed();
    assert!(waited > 55 * SECOND && waited < 75 * SECOND, "{waited:?}");
    assert!(soon(&one, mailbox("b")).await.is_err());
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_waits_for_a_mailbox_gets_one_in_the_end() {
    let fake = Fake::new(1);
    let limit = Limit::Distinct {
        limit: 1,
        idle: 10 * SECOND,
    };
    let builder = RedisLedger::builder()
        .budget(Budget::OpenMailboxes, limit)
        .max_overtake(30 * SECOND);
    let [one, other] = [(); 2].map(|()| process(&fake, &builder));
    let busy = tokio::spawn(async move {
        loop {
            let permit = acquire(&one, mailbox("a")).await.unwrap();
            sleep(ms(500)).await;
            drop(permit);
        }
    });
    sleep(SECOND).await;
    let begin = Instant::now();
    let permit = acquire(&other, mailbox("b")).await.unwrap();
    let waited = begin.elapsed();
    assert!(waited > 30 * SECOND && waited < 80 * SECOND, "{waited:?}");
    drop(permit);
    busy.abort();
}

#[tokio::test(start_paused = true)]
async fn a_bucket_is_shared_and_so_is_its_debt() {
    let fake = Fake::new(1);
    let limit = Limit::per_window(30, 60 * SECOND);
    let builder = RedisLedger::builder().budget(Budget::MessageRate, limit);
    let message = || {
        let svc = Principal::account("svc");
        AcquireRequest::new(Charge::new(svc, Budget::MessageRate, 1))
    };
    let ledgers = [(); 3].map(|()| process(&fake, &builder));
    let begin = Instant::now();
    let sent = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut jobs = Vec::new();
    for number in 0..120 {
        let (ledger, sent) = (Arc::clone(&ledgers[number % 3]), Arc::clone(&sent));
        jobs.push(tokio::spawn(async move {
            acquire(&ledger, message()).await.unwrap().complete();
            sent.lock().push(begin.elapsed());
        }));
    }
    for job in jobs {
        job.await.unwrap();
    }
    let sent = sent.lock().clone();
    // One that is full, and one each two seconds.
    for (first, from) in sent.iter().enumerate() {
        for (last, to) in sent.iter().enumerate().skip(first) {
            let most = 30.0 + (*to - *from).as_secs_f64() / 2.0;
            assert!(
                (last - first + 1) as f64 <= most + 1.0,
                "{from:?} to {to:?}"
            );
        }
    }
    let took = begin.elapsed();
    assert!(took >= 179 * SECOND && took < 190 * SECOND, "{took:?}");
    println!("{took:?}, {} commands", fake.calls());
    // What one spends is missing elsewhere.
    sleep(600 * SECOND).await;
    let permit = acquire(&ledgers[0], message()).await.unwrap();
    permit.report(Signal::Spent {
        budget: Budget::MessageRate,
        amount: 40,
    });
    drop(permit);
    sleep(ms(20)).await;
    let begin = Instant::now();
    acquire(&ledgers[1], message()).await.unwrap().complete();
    let waited = begin.elapsed();
    assert!(waited > 18 * SECOND && waited < 30 * SECOND, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_gate_closes_for_all() {
    let fake = Fake::new(1);
    let [one, other] = [(); 2].map(|()| process(&fake, &in_flight(8)));
    let at = |to: &str| svc().with_endpoint(to.parse::<http::uri::Authority>().unwrap());
    let permit = acquire(&one, at("x")).await.unwrap();
    drop(acquire(&other, at("x")).await.unwrap());
    permit.report(Signal::Busy {
        until: Instant::now() + 5 * SECOND,
    });
    sleep(ms(20)).await;
    assert!(matches!(
        soon(&other, at("x")).await,
        Err(AcquireError::GateTooLate { .. })
    ));
    // Somebody who comes later finds it closed.
    let third = process(&fake, &in_flight(8));
    assert!(soon(&third, at("x")).await.is_err());
    drop(permit);
    let begin = Instant::now();
    acquire(&third, at("x")).await.unwrap().complete();
    assert!(begin.elapsed() > 4 * SECOND && begin.elapsed() < 6 * SECOND);
    // An endpoint's too.
    let permit = acquire(&one, at("x")).await.unwrap();
    permit.report(Signal::EndpointBusy {
        until: Instant::now() + 5 * SECOND,
    });
    sleep(ms(20)).await;
    assert!(matches!(
        soon(&other, at("x")).await,
        Err(AcquireError::GateTooLate { .. })
    ));
    drop(soon(&other, at("y")).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_one_learns_all_know() {
    let fake = Fake::new(1);
    let [one, other] = [(); 2].map(|()| process(&fake, &in_flight(8)));
    let mut permits = Vec::new();
    for number in 0..8 {
        let ledger = if number % 2 == 0 { &one } else { &other };
        permits.push(acquire(ledger, svc()).await.unwrap());
    }
    // The server takes five.
    for permit in permits.drain(5..) {
        permit.report(Signal::Exceeded(Budget::Concurrency));
    }
    sleep(ms(10)).await;
    for ledger in [&one, &other] {
        assert!(soon(ledger, svc()).await.is_err());
    }
    // After a while more is tried, and in the end all of it.
    let begin = Instant::now();
    for _ in 0..3 {
        permits.push(acquire(&other, svc()).await.unwrap());
    }
    assert!(begin.elapsed() < 10 * SECOND, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_split() {
    let fake = Fake::new(1);
    let kept = Budget::Custom(1);
    let builder = in_flight(1).budget(kept, Limit::InFlight(2));
    let [one, other] = [(); 2].map(|()| process(&fake, &builder));
    let svc = Principal::account("svc");
    let charges: Charges = [
        Charge::new(svc.clone(), Budget::Concurrency, 1),
        Charge::new(svc, kept, 2),
    ]
    .into_iter()
    .collect();
    let request = AcquireRequest::new(charges);
    let mut call = acquire(&one, request.clone()).await.unwrap();
    let subscription = call.split(kept).unwrap();
    call.complete();
    sleep(ms(30_000)).await;
    assert!(soon(&other, request.clone()).await.is_err());
    drop(subscription);
    sleep(ms(20)).await;
    drop(soon(&other, request).await.unwrap());
    assert_eq!(one.snapshot().queued, 0);
}
