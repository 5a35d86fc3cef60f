//! Shares of what is in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower_ews::ledger::redis::RedisLedger;
use tower_ews::ledger::{AcquireRequest, Ledger, Limit, Permit};
use tower_ews::principal::{Budget, Charge, Charges, Principal};

use super::fake::{Fake, Weather};
use super::job::{Server, acquire, in_flight, ms, process, svc};

/// What came of a job.
struct Done {
    time: Duration,
    peak: u32,
    /// What each process got done in the first half of the least time.
    early: Vec<u32>,
    commands: f64,
}

/// Each process has a number of calls to make, all at once.
async fn run(limit: u32, processes: u32, calls: u32, each: Duration) -> Done {
    let (fake, server) = (Fake::new(1), Server::default());
    let least = each * (calls * processes).div_ceil(limit);
    let begin = Instant::now();
    let mut jobs = Vec::new();
    let mut early = Vec::new();
    for _ in 0..processes {
        let ledger = process(&fake, &in_flight(limit));
        let count = Arc::new(AtomicU32::new(0));
        early.push(Arc::clone(&count));
        for _ in 0..calls {
            let (ledger, server, count) = (Arc::clone(&ledger), server.clone(), count.clone());
            jobs.push(tokio::spawn(async move {
                let permit = acquire(&ledger, svc()).await.unwrap();
                let running = server.begin(ledger.process(), &permit);
                sleep(each).await;
                drop(running);
                permit.complete();
                if begin.elapsed() < least / 2 {
                    count.fetch_add(1, Relaxed);
                }
            }));
        }
    }
    for job in jobs {
        job.await.unwrap();
    }
    let done = Done {
        time: begin.elapsed(),
        peak: server.peak(&Principal::account("svc"), Budget::Concurrency),
        early: early.iter().map(|count| count.load(Relaxed)).collect(),
        commands: fake.calls() as f64 / f64::from(calls * processes),
    };
    println!(
        "limit {limit}, {processes} processes: {:.3} of the least time, peak {}, {:.3} commands a call, early {:?}",
        done.time.as_secs_f64() / least.as_secs_f64(),
        done.peak,
        done.commands,
        done.early,
    );
    sleep(ms(30_000)).await;
    assert_eq!(
        fake.fields(),
        [],
        "a process with nothing to do holds nothing"
    );
    done
}

#[tokio::test(start_paused = true)]
async fn one_call_is_let_in_and_the_next_ones_ask_nobody() {
    let fake = Fake::new(1);
    let ledger = process(&fake, &in_flight(27));
    let begin = Instant::now();
    drop(acquire(&ledger, svc()).await.unwrap());
    assert!(begin.elapsed() < ms(6), "{:?}", begin.elapsed());
    let before = fake.calls();
    let mut permits = Vec::new();
    for _ in 0..27 {
        permits.extend(Permit::try_acquire(ledger.clone(), &svc()));
    }
    assert_eq!(permits.len(), 27);
    assert!(Permit::try_acquire(ledger.clone(), &svc()).is_none());
    drop(permits);
    assert_eq!(fake.calls(), before);
    // One with nothing to do holds nothing.
    sleep(ms(10_000)).await;
    assert_eq!(fake.fields(), []);
    assert!(ledger.snapshot().principals.is_empty());
}

#[tokio::test(start_paused = true)]
async fn several_processes_share_a_limit_evenly() {
    for (limit, processes, calls) in [
        (27, 4, 500),
        (3, 10, 60),
        (5, 10, 60),
        (27, 1, 500),
        (16, 3, 300),
        (1, 4, 60),
    ] {
        let done = run(limit, processes, calls, ms(200)).await;
        assert!(done.peak <= limit);
        let fair = done.early.iter().sum::<u32>() / processes;
        assert!(
            done.early.iter().all(|count| *count >= fair / 2),
            "{:?}",
            done.early
        );
        let least = ms(200) * (calls * processes).div_ceil(limit);
        assert!(
            done.time <= least.mul_f64(1.05),
            "{:?} of {least:?}",
            done.time
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_waits_is_seen_by_one_that_has_to_spare() {
    let fake = Fake::new(1);
    let [one, other] = [(); 2].map(|()| process(&fake, &in_flight(8)));
    // One has all of it, and uses one.
    let held = acquire(&one, svc()).await.unwrap();
    let begin = Instant::now();
    let mut permits = Vec::new();
    for _ in 0..7 {
        permits.push(acquire(&other, svc()).await.unwrap());
    }
    assert!(begin.elapsed() < ms(60), "{:?}", begin.elapsed());
    // And the last one once it is given back.
    let begin = Instant::now();
    let waits = tokio::spawn({
        let other = Arc::clone(&other);
        async move { acquire(&other, svc()).await.unwrap() }
    });
    sleep(ms(1_000)).await;
    assert!(!waits.is_finished());
    drop(held);
    permits.push(waits.await.unwrap());
    assert!(begin.elapsed() < ms(1_010), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn weighted_and_crossed_charges_are_taken_all_or_nothing() {
    let rows = |rows| Charge::new(Principal::account("svc"), Budget::FindCount, rows);
    let one = |principal: &str, budget| Charge::new(Principal::account(principal), budget, 1);
    let kinds: [Charges; 5] = [
        [one("svc", Budget::Concurrency), rows(400)]
            .into_iter()
            .collect(),
        [one("svc", Budget::Concurrency), rows(2_000)]
            .into_iter()
            .collect(),
        [
            one("svc", Budget::Concurrency),
            one("svc", Budget::SyncCalls),
        ]
        .into_iter()
        .collect(),
        [
            one("svc", Budget::Concurrency),
            one("other", Budget::Concurrency),
        ]
        .into_iter()
        .collect(),
        [
            one("other", Budget::Concurrency),
            one("svc", Budget::Concurrency),
        ]
        .into_iter()
        .collect(),
    ];
    let builder = RedisLedger::builder()
        .budget(Budget::Concurrency, Limit::InFlight(4))
        .budget(Budget::SyncCalls, Limit::InFlight(1))
        .budget(Budget::FindCount, Limit::InFlight(1_000));
    let (fake, server) = (Fake::new(1), Server::default());
    let begin = Instant::now();
    let mut jobs = Vec::new();
    for _ in 0..4 {
        let ledger = process(&fake, &builder);
        for number in 0..100 {
            let (ledger, server) = (Arc::clone(&ledger), server.clone());
            let request = AcquireRequest::new(kinds[number % kinds.len()].clone());
            jobs.push(tokio::spawn(async move {
                let permit = acquire(&ledger, request).await.unwrap();
                let running = server.begin(ledger.process(), &permit);
                sleep(ms(50)).await;
                drop(running);
            }));
        }
    }
    for job in jobs {
        job.await.unwrap();
    }
    let svc = Principal::account("svc");
    assert!(server.peak(&svc, Budget::Concurrency) <= 4);
    assert_eq!(server.peak(&svc, Budget::SyncCalls), 1);
    // Only a call of more than there is goes above it, and alone.
    assert_eq!(server.peak(&svc, Budget::FindCount), 2_000);
    // 80 calls that are alone on their budget, and 80 that sync, one after the other.
    println!("{:?}, {} commands", begin.elapsed(), fake.calls());
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_freed_share_reaches_a_waiter_within_three_round_trips() {
    let fake = Fake::new(1);
    // There and back: 30 ms on average.
    fake.set_weather(Weather {
        one_way: ms(20),
        lost: 0,
        late: 0,
    });
    let ledgers = [(); 2].map(|()| process(&fake, &in_flight(1)));
    let mut held = acquire(&ledgers[0], svc()).await.unwrap();
    let mut times = Vec::new();
    for number in 1..60 {
        let next = Arc::clone(&ledgers[number % 2]);
        let waits =
            tokio::spawn(async move { (acquire(&next, svc()).await.unwrap(), Instant::now()) });
        sleep(ms(300)).await;
        let released = Instant::now();
        drop(held);
        let (permit, admitted) = waits.await.unwrap();
        times.push(admitted - released);
        held = permit;
    }
    times.sort();
    println!(
        "{:?} at p50, {:?} at most",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    assert!(times[times.len() / 2] <= ms(90));
}
