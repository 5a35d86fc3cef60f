//! Tests of the ledger, in virtual time.

mod gates;
mod learnt;
mod lock_outs;
mod log;
mod order;
mod outside;
mod priorities;
mod random;
mod reports;
mod scale;
mod split;
mod threads;
mod time;
mod uneven;
mod unpolled;
mod values;
mod windows;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::uri::Authority;
use tokio::time::{Instant, sleep};

use super::*;
use crate::ledger::{Acquire, AcquireError, Limit, Permit};
use crate::principal::{Budget, Charge, Charges, Principal};

pub(super) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(super) fn of(name: &str) -> Principal {
    Principal::new(name)
}

pub(super) fn ledger(limit: u32) -> Arc<LocalLedger> {
    Arc::new(LocalLedger::in_flight(limit))
}

pub(super) fn draw(name: &str) -> AcquireRequest {
    AcquireRequest::new(of(name))
}

pub(super) fn weighted(name: &str, amount: u32) -> AcquireRequest {
    AcquireRequest::new(Charge::new(of(name), Budget::Concurrency, amount))
}

pub(super) fn opens(account: &str, mailbox: &str) -> AcquireRequest {
    let account = of(account);
    let charges = [
        Charge::new(account.clone(), Budget::Concurrency, 1),
        Charge::of_value(account, Budget::OpenMailboxes, Principal::mailbox(mailbox)),
    ];
    AcquireRequest::new(charges.into_iter().collect::<Charges>())
}

pub(super) fn delegate(limit: u32, max_overtake: Duration) -> Arc<LocalLedger> {
    let open = Limit::Distinct {
        limit,
        idle: secs(300),
    };
    Arc::new(
        LocalLedger::builder()
            .budget(Budget::Concurrency, Limit::InFlight(27))
            .budget(Budget::OpenMailboxes, open)
            .max_overtake(max_overtake)
            .max_wait(secs(24 * 3600))
            .build(),
    )
}

/// Runs one call of `time` and notes when it began.
pub(super) fn call(
    ledger: &Arc<LocalLedger>,
    draw: AcquireRequest,
    time: Duration,
) -> tokio::task::JoinHandle<Result<Instant, AcquireError>> {
    let ledger = ledger.clone();
    tokio::spawn(async move {
        let permit = ledger.acquire(draw).await?;
        let began = Instant::now();
        sleep(time).await;
        permit.complete();
        Ok(began)
    })
}

/// A call on several budgets of several principals.
pub(super) fn several(
    charges: impl IntoIterator<Item = (&'static str, Budget, u32)>,
) -> AcquireRequest {
    let charges = charges.into_iter();
    let charges: Charges = charges
        .map(|(name, budget, amount)| Charge::new(of(name), budget, amount))
        .collect();
    AcquireRequest::new(charges)
}

pub(super) fn host() -> Authority {
    Authority::from_static("outlook.contoso.com")
}

pub(super) fn try_now(ledger: &Arc<LocalLedger>, request: &AcquireRequest) -> Option<Permit> {
    Permit::try_acquire(ledger.clone(), request)
}

/// Polls a call once, by a waker that nobody listens to.
pub(super) fn poll_once(acquire: &mut Acquire) -> Poll<Result<Permit, AcquireError>> {
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(acquire).poll(&mut cx)
}

/// A call that stands in the queue and is not polled any more.
pub(super) fn parked(ledger: &Arc<LocalLedger>, request: AcquireRequest) -> Acquire {
    let mut acquire = ledger.clone().acquire(request);
    assert!(poll_once(&mut acquire).is_pending());
    acquire
}

/// The last moment that a clock can name.
pub(super) fn end_of_time() -> Instant {
    let mut end = Instant::now();
    let mut step = Duration::MAX;
    while !step.is_zero() {
        match end.checked_add(step) {
            Some(later) => end = later,
            None => step /= 2,
        }
    }
    end
}

pub(super) async fn nothing_left(ledger: &LocalLedger) {
    // What only time keeps goes with time.
    sleep(secs(3600)).await;
    nothing_left_now(ledger);
}

pub(super) fn nothing_left_now(ledger: &LocalLedger) {
    let snapshot = ledger.snapshot();
    assert_eq!(snapshot.queued, 0);
    assert!(snapshot.principals.is_empty(), "{snapshot:?}");
    assert!(snapshot.gated_endpoints.is_empty(), "{snapshot:?}");
    let left = ledger.state.lock().left();
    assert!(left.principals <= 1, "the spare one: {left:?}");
    assert!(left.room <= 2048, "{left:?}");
    assert_eq!((left.waiters, left.lists, left.endpoints), (0, 0, 0));
    assert_eq!((left.alarms, left.work, left.misses), (0, 0, 0));
}
