//! Any policy, any job, any cancellation: as long as the policy is true the server never sees a budget exceeded, and everything
//! finishes.
//!
//! `EWS_TEST_CASES` sets the number of cases, `EWS_TEST_SEED` the seed of the first one: a case that fails names its own.

mod policy_properties {
    pub(crate) mod job;
    pub(crate) mod policies;
}

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use policy_properties::job::{Ended, Job};
use policy_properties::policies::Policies;
use tower_ews::EwsStack;
use tower_ews::extensions::Caller;
use tower_ews::ledger::Snapshot;
use tower_ews::simulator::{DEFAULT_ACCOUNT, Exchange, Report};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What became of a case.
struct Case {
    policies: Policies,
    ended: Vec<Ended>,
    report: Report,
    left: Snapshot,
}

/// Runs the case of a seed. Whether callers may drop calls that the server has, and whether the client's numbers are the server's.
fn run(seed: u64, drops_sent: bool, is_true: bool) -> Case {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut policies = Policies::random(&mut rng);
        if !is_true {
            policies.mistake(&mut rng);
        }
        let exchange = Exchange::builder()
            .policy(policies.server.clone())
            .anonymous(DEFAULT_ACCOUNT)
            .seed(seed)
            .build();
        let job = Job::random(&mut rng, &policies, drops_sent);
        job.prepare(&exchange).await;
        exchange.reset_report();
        // What the preparation has used is forgotten by then.
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        let stack = EwsStack::new(policies.client.clone()).caller(Caller::new(DEFAULT_ACCOUNT));
        let ended = job.run(&stack, &exchange).await;
        let report = exchange.report();
        // What it keeps of limits that it has learnt is gone after a while, too.
        tokio::time::sleep(Duration::from_secs(300 * 86_400)).await;
        Case {
            policies,
            ended,
            report,
            left: stack.shared_ledger().snapshot(),
        }
    })
}

/// Runs cases, several at a time, and names the seed of one that fails.
fn cases(check: impl Fn(u64) + Sync) {
    let cases = number("EWS_TEST_CASES").unwrap_or(40);
    let first = number("EWS_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("EWS_TEST_SEED={first} EWS_TEST_CASES={cases}");
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let case = next.fetch_add(1, Ordering::Relaxed);
                    if case >= cases {
                        return;
                    }
                    let seed = first.wrapping_add(case);
                    let check = std::panic::AssertUnwindSafe(|| check(seed));
                    if let Err(panic) = std::panic::catch_unwind(check) {
                        eprintln!("EWS_TEST_SEED={seed} EWS_TEST_CASES=1 shows it");
                        next.store(u64::MAX / 2, Ordering::Relaxed);
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
}

/// Every call that nobody dropped ended well, and the ledger keeps nothing of any.
fn assert_finished(case: &Case) {
    let policies = &case.policies;
    let failed = case.ended.iter().filter_map(|ended| match ended {
        Ended::Failed(why) => Some(why),
        Ended::Well | Ended::Dropped => None,
    });
    let failed: Vec<_> = failed.collect();
    assert!(failed.is_empty(), "{failed:#?}\n{policies:#?}");
    let left = &case.left;
    assert_eq!(
        (left.queued, left.principals.len()),
        (0, 0),
        "{left:#?}\n{policies:#?}"
    );
}

#[test]
fn a_true_policy_is_never_exceeded() {
    cases(|seed| {
        let case = run(seed, false, true);
        assert_finished(&case);
        let report = &case.report;
        assert!(
            report.violations.is_empty(),
            "{:?}\n{:#?}",
            report.violations,
            case.policies
        );
        assert_eq!(report.throttled_total(), 0, "{:?}", report.throttled);
    });
}

/// The server runs on what was dropped, for longer than the client can know: it may refuse calls for that, and nothing is lost.
#[test]
fn whatever_is_dropped_the_rest_finishes() {
    cases(|seed| {
        let case = run(seed, true, true);
        assert_finished(&case);
        let report = &case.report;
        if report.abandoned == 0 {
            assert!(
                report.violations.is_empty(),
                "{:?}\n{:#?}",
                report.violations,
                case.policies
            );
        }
    });
}

/// Callers see nothing of what the client has to find out.
#[test]
fn a_policy_with_other_numbers_finishes() {
    cases(|seed| {
        let case = run(seed, false, false);
        assert_finished(&case);
        let report = &case.report;
        println!("{} of {} refused", report.throttled_total(), report.calls);
    });
}
