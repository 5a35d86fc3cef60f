//! Priorities and age between processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tower_ews::extensions::Priority::{self, Bulk, Interactive, Normal};
use tower_ews::ledger::redis::RedisLedger;
use tower_ews::ledger::{AcquireRequest, Limit, Permit};
use tower_ews::principal::{Budget, Charge, Principal};

use super::fake::Fake;
use super::job::{acquire, in_flight, ms, process, svc};

const SECOND: Duration = Duration::from_secs(1);

/// Calls of `priority` without end, `at_once` at a time. Counts those that are let in.
fn flood(
    ledger: &Arc<RedisLedger>,
    priority: Priority,
    at_once: u32,
    each: Duration,
) -> (JoinSet<()>, Arc<AtomicU32>) {
    let (mut calls, admitted) = (JoinSet::new(), Arc::new(AtomicU32::new(0)));
    for _ in 0..at_once {
        let (ledger, admitted) = (Arc::clone(ledger), Arc::clone(&admitted));
        calls.spawn(async move {
            loop {
                let permit = acquire(&ledger, svc().with_priority(priority)).await;
                admitted.fetch_add(1, Relaxed);
                sleep(each).await;
                permit.unwrap().complete();
            }
        });
    }
    (calls, admitted)
}

fn call(ledger: &Arc<RedisLedger>, request: AcquireRequest) -> JoinHandle<(Permit, Instant)> {
    let ledger = Arc::clone(ledger);
    tokio::spawn(async move {
        let permit = acquire(&ledger, request).await.unwrap();
        (permit, Instant::now())
    })
}

#[tokio::test(start_paused = true)]
async fn an_urgent_call_goes_before_the_bulk_of_other_processes() {
    for (limit, processes) in [(27, 3), (3, 10), (1, 2)] {
        let fake = Fake::new(1);
        let builder = in_flight(limit);
        let mut floods = Vec::new();
        for _ in 0..processes {
            let ledger = process(&fake, &builder);
            floods.push(flood(&ledger, Bulk, 50, ms(400)));
        }
        sleep(5 * SECOND).await;
        let urgent = process(&fake, &builder);
        let mut longest = Duration::ZERO;
        for number in 0..20 {
            sleep(ms(370)).await;
            let begin = Instant::now();
            let request = svc().with_priority(if number % 2 == 0 { Interactive } else { Normal });
            let permit = acquire(&urgent, request).await.unwrap();
            longest = longest.max(begin.elapsed());
            sleep(ms(100)).await;
            drop(permit);
        }
        println!("limit {limit}, {processes} processes: {longest:?} at most");
        assert!(longest <= SECOND, "{longest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn within_a_second_the_more_urgent_process_has_all_and_the_others_share_the_rest() {
    let fake = Fake::new(1);
    let builder = in_flight(12);
    let [bulk, normal, urgent] = [(); 3].map(|()| process(&fake, &builder));
    let (_bulks, bulk) = flood(&bulk, Bulk, 60, ms(200));
    let (_normals, normal) = flood(&normal, Normal, 60, ms(200));
    sleep(3 * SECOND).await;
    let counts = || [&bulk, &normal].map(|count| count.swap(0, Relaxed));
    // What is more urgent has it all.
    counts();
    sleep(10 * SECOND).await;
    let [late, rest] = counts();
    assert!(late <= 30 && rest >= 570, "{late} {rest}");
    // More urgent calls want a third of it.
    let (few, _) = flood(&urgent, Interactive, 4, ms(200));
    sleep(SECOND).await;
    counts();
    sleep(10 * SECOND).await;
    let [late, rest] = counts();
    assert!(late <= 30, "{late}");
    assert!((340..=420).contains(&rest), "{rest}");
    // And then all of it.
    let (many, _) = flood(&urgent, Interactive, 40, ms(200));
    sleep(SECOND).await;
    counts();
    sleep(10 * SECOND).await;
    let [late, rest] = counts();
    assert!(late + rest <= 30, "{late} {rest}");
    drop((few, many));
    sleep(SECOND).await;
    counts();
    sleep(10 * SECOND).await;
    let [late, rest] = counts();
    assert!(late <= 30 && rest >= 570, "{late} {rest}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_other_processes_overtake_has_its_turn() {
    for limit in [1, 12] {
        let fake = Fake::new(1);
        let builder = in_flight(limit).max_overtake(60 * SECOND);
        let [urgent, bulk] = [(); 2].map(|()| process(&fake, &builder));
        let _urgent = flood(&urgent, Interactive, 60, ms(200));
        sleep(SECOND).await;
        let begin = Instant::now();
        let mut calls = Vec::new();
        for _ in 0..3 {
            calls.push(call(&bulk, svc().with_priority(Bulk)));
            sleep(ms(10)).await;
        }
        for (turn, call) in (1..).zip(calls) {
            let (permit, admitted) = call.await.unwrap();
            drop(permit);
            let waited = admitted - begin;
            println!("limit {limit}: {waited:?}");
            assert!(waited <= turn * 62 * SECOND, "{waited:?}");
            // Where one runs at a time: several places that get free at once may let in the next ones sooner.
            assert!(limit > 1 || waited >= turn * 60 * SECOND, "{waited:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_opens_for_the_more_urgent_process_first() {
    let fake = Fake::new(1);
    let limit = Limit::Distinct {
        limit: 1,
        idle: 10 * SECOND,
    };
    let builder = RedisLedger::builder().budget(Budget::OpenMailboxes, limit);
    let [one, other, urgent] = [(); 3].map(|()| process(&fake, &builder));
    let mailbox = |name: &str, priority| {
        let value = Principal::mailbox(name);
        let svc = Principal::account("svc");
        AcquireRequest::new(Charge::of_value(svc, Budget::OpenMailboxes, value))
            .with_priority(priority)
    };
    drop(acquire(&one, mailbox("a", Bulk)).await.unwrap());
    let bulk = call(&other, mailbox("b", Bulk));
    sleep(SECOND).await;
    let (_, first) = call(&urgent, mailbox("c", Interactive)).await.unwrap();
    assert!(!bulk.is_finished());
    let (_, later) = bulk.await.unwrap();
    assert!(first < later);
}
