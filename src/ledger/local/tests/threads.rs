//! Real threads, in real time.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];
const BUDGETS: [Budget; 2] = [Budget::Concurrency, Budget::SyncCalls];

/// Charges on some of three principals and two budgets, with where they are counted.
fn charges(rng: &mut fastrand::Rng) -> Vec<(usize, &'static str, Budget)> {
    let mut all: Vec<_> = (0..6).collect();
    rng.shuffle(&mut all);
    all.truncate([1, 1, 1, 2, 3][rng.usize(..5)]);
    all.into_iter()
        .map(|at| (at, NAMES[at / 2], BUDGETS[at % 2]))
        .collect()
}

/// No limit is exceeded, no wake-up is lost, whoever gives up at whatever moment, and however limits change.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_share_a_ledger() {
    const MOST: u32 = 4;
    let seed = std::env::var("EWS_TEST_SEED").ok();
    let seed = seed
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("EWS_TEST_SEED={seed}");
    let ledger = Arc::new(
        LocalLedger::builder()
            .budget(BUDGETS[0], Limit::InFlight(3))
            .budget(BUDGETS[1], Limit::InFlight(2))
            .build(),
    );
    let held: Arc<[AtomicU32; 6]> = Arc::default();
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let (ledger, held) = (ledger.clone(), held.clone());
            tokio::spawn(async move {
                let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(n));
                for _ in 0..500 {
                    let of_call = charges(&mut rng);
                    let request =
                        several(of_call.iter().map(|(_, name, budget)| (*name, *budget, 1)));
                    let mut acquire = ledger.clone().acquire(request);
                    match rng.u8(..8) {
                        0 => {
                            // Cancelled while it waits, or just when it was granted.
                            let stall_timeout = Duration::from_micros(rng.u64(..50));
                            drop(tokio::time::timeout(stall_timeout, acquire).await);
                            continue;
                        }
                        1 => {
                            // Parked, and then polled again or not.
                            if poll_once(&mut acquire).is_ready() {
                                continue;
                            }
                            for _ in 0..rng.u8(..4) {
                                tokio::task::yield_now().await;
                            }
                            if rng.bool() {
                                continue;
                            }
                        }
                        2 => {
                            let (_, name, budget) = of_call[0];
                            let number = [None, Some(1), Some(MOST)][rng.usize(..3)];
                            ledger.set_limit(&of(name), budget, number).unwrap();
                        }
                        _ => {}
                    }
                    let permit = acquire.await.unwrap();
                    for (at, ..) in &of_call {
                        let others = held[*at].fetch_add(1, SeqCst);
                        assert!(others < MOST, "{others} besides this one");
                    }
                    if rng.u8(..8) == 0 {
                        tokio::task::yield_now().await;
                    }
                    for (at, ..) in &of_call {
                        held[*at].fetch_sub(1, SeqCst);
                    }
                    permit.complete();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for (name, budget) in NAMES
        .iter()
        .flat_map(|name| BUDGETS.map(|budget| (name, budget)))
    {
        ledger.set_limit(&of(name), budget, None).unwrap();
    }
    nothing_left_now(&ledger);
}
