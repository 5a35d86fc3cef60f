//! How long whole jobs take where the server's limits are not what the client's policy says: end to end, in virtual time,
//! against the least time that a client needs that knows everything.
//!
//! `cargo test --test adaptation -- --nocapture table` prints a row for each case. `EWS_TEST_SEED` sets the seed of the first
//! case of each scenario. It is that of the first random case, too, and `EWS_TEST_CASES` sets their number.

mod adaptation {
    pub(crate) mod body;
    pub(crate) mod case;
    pub(crate) mod client;
    pub(crate) mod jobs;
    pub(crate) mod omniscient;
    pub(crate) mod oracle;
    pub(crate) mod random;
    pub(crate) mod scenarios;
    pub(crate) mod script;
    pub(crate) mod server;
    pub(crate) mod soap;
}

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, OnceLock};

use adaptation::case::{Case, Row, Who, head};
use adaptation::random;
use adaptation::scenarios::{SCENARIOS, Scenario};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn cases(scenario: Scenario) -> Vec<Case> {
    let seed = number("EWS_TEST_SEED").unwrap_or(1);
    let mut cases = scenario.cases();
    for (n, case) in cases.iter_mut().enumerate() {
        case.script.seed = seed.wrapping_add(n as u64);
    }
    cases
}

/// Runs cases, several at a time.
fn run(cases: &[Case], who: Who) -> Vec<Row> {
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(at) else { return };
                    let row = case.run(who);
                    rows.lock().unwrap().push((at, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by_key(|(at, _)| *at);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// What our client makes of a scenario. Each is run once for all tests.
fn rows(scenario: Scenario) -> &'static [Row] {
    static ROWS: [OnceLock<Vec<Row>>; SCENARIOS.len()] =
        [const { OnceLock::new() }; SCENARIOS.len()];
    ROWS[scenario as usize].get_or_init(|| run(&cases(scenario), Who::Ours))
}

fn print<'a>(rows: impl IntoIterator<Item = &'a Row>) {
    for row in rows {
        println!("{row}");
    }
}

fn assert_fast(rows: &[Row]) {
    print(rows);
    let slow: Vec<_> = rows.iter().filter(|row| !row.is_fast()).collect();
    assert!(slow.is_empty(), "{} of {}", slow.len(), rows.len());
}

/// The least times are right: a client that knows the script needs them, and hardly more.
fn assert_can_be_had(rows: &[Row]) {
    for row in rows {
        assert_eq!(row.counts.refused, 0, "{row}");
        assert!((0.98..=1.1).contains(&row.ratio()), "{row}");
    }
}

#[test]
fn table() {
    println!("{}", head());
    for scenario in SCENARIOS {
        print(rows(scenario));
    }
}

#[test]
fn the_least_times_can_be_had() {
    for scenario in SCENARIOS {
        assert_can_be_had(&run(&cases(scenario), Who::Omniscient));
    }
}

#[test]
fn a_lower_limit_is_found_fast() {
    assert_fast(rows(Scenario::Limit));
}

#[test]
fn a_large_job_is_fast() {
    assert_fast(rows(Scenario::Large));
}

#[test]
fn a_client_that_was_killed_is_fast_again() {
    assert_fast(rows(Scenario::Restart));
}

#[test]
fn calls_that_are_given_up_slow_others_down_for_their_time_alone() {
    assert_fast(rows(Scenario::GivenUp));
}

#[test]
fn streams_come_back_fast() {
    assert_fast(rows(Scenario::Streams));
}

#[test]
fn an_overload_is_forgotten() {
    assert_fast(rows(Scenario::Overload));
}

#[test]
fn mailboxes_are_opened_fast() {
    assert_fast(rows(Scenario::Mailboxes));
}

#[test]
fn what_another_client_leaves_is_used() {
    assert_fast(rows(Scenario::Neighbour));
}

#[test]
fn bodies_that_do_not_tell_their_end_count_as_good() {
    assert_fast(rows(Scenario::Bodies));
}

fn random_cases() -> &'static [Case] {
    static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
        let first = number("EWS_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
        let cases = number("EWS_TEST_CASES").unwrap_or(12);
        println!("EWS_TEST_SEED={first} EWS_TEST_CASES={cases}");
        let seeds = (0..cases).map(|n| first.wrapping_add(n));
        seeds.map(random::case).collect()
    });
    &CASES
}

fn random_rows() -> &'static [Row] {
    static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| run(random_cases(), Who::Ours));
    &ROWS
}

/// Nothing is lost, and nothing done twice.
#[test]
fn any_server() {
    assert_can_be_had(&run(random_cases(), Who::Omniscient));
    print(random_rows());
}

/// None is slow, and one in a thousand may be slower than the scenarios, but for what no client can know.
#[test]
fn any_server_fast() {
    let rows = random_rows();
    let slow: Vec<_> = rows.iter().filter(|row| !row.is_fast_enough()).collect();
    print(slow.iter().copied());
    assert!(slow.is_empty(), "{} of {}", slow.len(), rows.len());
    let late: Vec<_> = rows.iter().filter(|row| !row.is_as_fast()).collect();
    print(late.iter().copied());
    let most = rows.len().div_ceil(1_000);
    assert!(late.len() <= most, "{} of {}", late.len(), rows.len());
}
