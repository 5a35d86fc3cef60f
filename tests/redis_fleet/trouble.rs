//! Processes that die, and a Redis that is not there.

use std::error::Error as _;
use std::sync::Arc;

use tokio::time::{Instant, sleep};
use tower_ews::ledger::redis::{StoreError, WhenUnavailable};
use tower_ews::ledger::{AcquireError, Ledger, Permit};

use super::fake::Fake;
use super::job::{acquire, in_flight, ms, process, svc};

fn unavailable(error: &AcquireError) -> &StoreError {
    let AcquireError::Unavailable { source } = error else {
        panic!("{error}")
    };
    assert!(error.source().is_some());
    source.downcast_ref().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_process_had_is_back_within_a_lease() {
    let fake = Fake::new(1);
    let way = fake.fork();
    let [killed, other] = [&way, &fake].map(|way| process(way, &in_flight(4)));
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(acquire(&killed, svc()).await.unwrap());
    }
    way.cut();
    let begin = Instant::now();
    drop(acquire(&other, svc()).await.unwrap());
    let mut permits = Vec::new();
    for _ in 0..4 {
        permits.push(acquire(&other, svc()).await.unwrap());
    }
    assert!(begin.elapsed() < ms(10_100), "{:?}", begin.elapsed());
    assert!(begin.elapsed() > ms(6_000), "{:?}", begin.elapsed());
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_gives_all_back_at_once() {
    let fake = Fake::new(1);
    let ledger = process(&fake, &in_flight(4));
    drop(acquire(&ledger, svc()).await.unwrap());
    drop(ledger);
    sleep(ms(10)).await;
    assert_eq!(fake.fields(), []);
}

#[tokio::test(start_paused = true)]
async fn without_redis_calls_go_on_for_a_lease_and_then_wait_or_fail_or_share() {
    for choice in [
        WhenUnavailable::Wait,
        WhenUnavailable::FailFast,
        WhenUnavailable::LocalShare,
    ] {
        let fake = Fake::new(1);
        let builder = in_flight(8).when_unavailable(choice);
        let [one, other] = [(); 2].map(|()| process(&fake, &builder));
        let others = acquire(&other, svc()).await.unwrap();
        let keeps = acquire(&one, svc()).await.unwrap();
        drop([
            acquire(&one, svc()).await.unwrap(),
            acquire(&one, svc()).await.unwrap(),
        ]);
        fake.set_down(true);
        // What is lent is good for a while.
        assert!(Permit::try_acquire(one.clone(), &svc()).is_some());
        sleep(ms(12_000)).await;
        let more = acquire(&one, svc().with_deadline(Instant::now() + ms(500))).await;
        match choice {
            WhenUnavailable::Wait => {
                let error = more.unwrap_err();
                assert!(matches!(error, AcquireError::TimedOut { .. }), "{error}");
            }
            WhenUnavailable::FailFast => {
                let error = more.unwrap_err();
                assert!(
                    matches!(unavailable(&error), StoreError::TimedOut(_)),
                    "{error}"
                );
            }
            _ => {
                // Half of the limit: there are two.
                let mut permits = vec![more.unwrap()];
                while let Some(permit) = Permit::try_acquire(one.clone(), &svc()) {
                    permits.push(permit);
                }
                assert!(permits.len() <= 3, "{}", permits.len());
            }
        }
        fake.set_down(false);
        // A request that was lost is given up, and the next one says what is held.
        sleep(ms(6_000)).await;
        let begin = Instant::now();
        let mut permits = vec![keeps, others];
        for number in 0..6 {
            let ledger = if number % 2 == 0 { &one } else { &other };
            let permit = loop {
                match acquire(ledger, svc()).await {
                    Ok(permit) => break permit,
                    // Fails fast until it has been asked again.
                    Err(error) => assert!(matches!(unavailable(&error), StoreError::TimedOut(_))),
                }
                sleep(ms(100)).await;
            };
            permits.push(permit);
        }
        assert!(
            begin.elapsed() < ms(5_000),
            "{choice:?} {:?}",
            begin.elapsed()
        );
        for ledger in [&one, &other] {
            let late = svc().with_deadline(Instant::now() + ms(100));
            assert!(acquire(ledger, late).await.is_err());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_flush_the_limit_holds_again_once_all_have_renewed() {
    let fake = Fake::new(1);
    let ledgers = [(); 3].map(|()| process(&fake, &in_flight(9)));
    let mut held = Vec::new();
    for number in 0..9 {
        held.push(acquire(&ledgers[number % 3], svc()).await.unwrap());
    }
    fake.flush();
    sleep(ms(4_000)).await;
    // All have renewed: nothing is lent twice.
    for ledger in &ledgers {
        let late = svc().with_deadline(Instant::now() + ms(100));
        assert!(acquire(ledger, late).await.is_err());
    }
    drop(held);
    let mut held = Vec::new();
    for number in 0..9 {
        held.push(acquire(&ledgers[number % 3], svc()).await.unwrap());
    }
    assert!(
        acquire(&ledgers[0], svc().with_deadline(Instant::now() + ms(100)))
            .await
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn another_layout_is_refused() {
    let fake = Fake::new(1);
    fake.set_field("tower-ews:{account:svc}", "layout", "1");
    let ledger = process(&fake, &in_flight(9));
    let error = acquire(&ledger, svc()).await.unwrap_err();
    let StoreError::Layout { found } = unavailable(&error) else {
        panic!("{error}")
    };
    assert_eq!(found, "1");
}

#[test]
fn nothing_is_lent_once_the_runtime_has_ended() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    let ledger = runtime().block_on(async {
        let ledger = process(&Fake::new(1), &in_flight(4));
        drop(acquire(&ledger, svc()).await.unwrap());
        ledger
    });
    runtime().block_on(async {
        assert!(Permit::try_acquire(ledger.clone(), &svc()).is_none());
        let error = acquire(&ledger, svc()).await.unwrap_err();
        assert!(matches!(unavailable(&error), StoreError::Ended));
        assert_eq!(Arc::clone(&ledger).snapshot().queued, 0);
    });
}
