//! How long whole jobs take beside the least time that the server's numbers allow, in virtual time.
//!
//! `cargo bench --bench goodput` prints a table and writes `target/bench/goodput.json`; `-- --quick` runs smaller jobs. Rows by
//! their names run alone, and write no file: `-- b_delegate`. `-- --chart` draws `docs/goodput.svg`, too.
//!
//! - A job is what a caller offers at once, and each row says how much that is. It ends when the last call has ended, well or not.
//! - `least_s` is computed in `oracle.rs` from the numbers of the server, which no client is told.
//! - The peers do the same job against the same server: `bare` is the client alone; `tower` is `ConcurrencyLimit` with the
//!   documented number, and `Retry` with exponential back-off around it; `pool` is what the best client elsewhere does: one pool of
//!   connections for each account, which shrinks on refusals, and one back-off for all of its calls.
//! - `throttled` counts the server's refusals, `calls` the requests that it got, `caller_errors` the calls that did not end well
//!   for their caller. A peer that is fast with errors has not done the job.
//! - Everything random comes from one seed, `EWS_TEST_SEED`.

mod accounts;
mod chart;
mod client;
mod ews;
mod graph;
mod job;
mod oracle;
mod pool;
#[path = "../overhead/results.rs"]
mod results;
mod scenarios;
mod tower_stack;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, io};

use serde::Serialize;

use self::client::Who;
use self::job::Outcome;
use self::results::round;
use self::scenarios::{Scenario, Size};

/// A row of the file.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    /// What is offered at once.
    offers: String,
    /// What the server allows, and the client is not told.
    hidden: String,
    deadline_s: f64,
    least_s: f64,
    ours_s: f64,
    ratio: f64,
    /// The most that the ratio may be.
    goal: f64,
    throttled: u64,
    calls: u64,
    caller_errors: u64,
    /// Items that the job was to create and did not, and those that it created more than once.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_and_twice: Option<(u64, u64)>,
    /// How long calls of a person waited beside those of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_p50_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_p99_s: Option<f64>,
    bare: Peer,
    tower: Peer,
    pool: Peer,
}

/// What another client made of the job.
#[derive(Serialize)]
struct Peer {
    s: f64,
    ratio: f64,
    throttled: u64,
    calls: u64,
    caller_errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_p50_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_p99_s: Option<f64>,
}

fn main() -> io::Result<()> {
    let quick = env::args().any(|argument| argument == "--quick");
    let names: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let seed = env::var("EWS_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(1);
    println!("EWS_TEST_SEED={seed}");
    let size = match quick {
        true => Size::Quick,
        false => Size::Full,
    };
    let scenarios = scenarios::all(size);
    let is_wanted =
        |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| name == scenario.name);
    let wanted: Vec<&Scenario> = scenarios.iter().filter(is_wanted).collect();
    print_head();
    let rows = measure(&wanted, seed);
    if !names.is_empty() {
        return Ok(());
    }
    if env::args().any(|argument| argument == "--chart") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/goodput.svg");
        chart::draw(&rows, &path).map_err(|error| io::Error::other(error.to_string()))?;
    }
    results::write("goodput", &rows)
}

/// Runs each job with each client, several at a time: their clocks are virtual, so that none disturbs another.
fn measure(scenarios: &[&Scenario], seed: u64) -> Vec<Row> {
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(scenario) = scenarios.get(at) else {
                        return;
                    };
                    let outcomes = Who::ALL.map(|who| job::run(scenario, who, seed));
                    let row = Row::new(scenario, &outcomes);
                    row.print();
                    rows.lock().expect("rows").push((at, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("rows");
    rows.sort_by_key(|(at, _)| *at);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn seconds(time: Duration) -> f64 {
    round(time.as_secs_f64())
}

impl Row {
    fn new(scenario: &Scenario, outcomes: &[Outcome; 4]) -> Self {
        let least = scenario.least.as_secs_f64();
        let [ours, bare, tower, pool] = outcomes;
        let peer = |outcome: &Outcome| Peer {
            s: seconds(outcome.took),
            ratio: round(outcome.took.as_secs_f64() / least),
            throttled: outcome.counts.throttled,
            calls: outcome.counts.calls,
            caller_errors: outcome.caller_errors,
            wait_p50_s: outcome.wait(0.5).map(seconds),
            wait_p99_s: outcome.wait(0.99).map(seconds),
        };
        Self {
            name: scenario.name,
            offers: scenario.offers.clone(),
            hidden: scenario.hidden.clone(),
            deadline_s: seconds(scenario.deadline()),
            least_s: round(least),
            ours_s: seconds(ours.took),
            ratio: round(ours.took.as_secs_f64() / least),
            goal: scenario.goal,
            throttled: ours.counts.throttled,
            calls: ours.counts.calls,
            caller_errors: ours.caller_errors,
            lost_and_twice: ours.counts.lost_and_twice,
            wait_p50_s: ours.wait(0.5).map(seconds),
            wait_p99_s: ours.wait(0.99).map(seconds),
            bare: peer(bare),
            tower: peer(tower),
            pool: peer(pool),
        }
    }

    fn print(&self) {
        let peer = |peer: &Peer| {
            format!(
                "{:>10.1} {:>8} {:>8}",
                peer.s, peer.throttled, peer.caller_errors
            )
        };
        let whole = self.lost_and_twice.is_none_or(|both| both == (0, 0));
        let verdict = match self.ratio <= self.goal && self.caller_errors == 0 && whole {
            true => "met",
            false => "NOT MET",
        };
        println!(
            "{:<18} {:>10.1} {:>10.1} {:>7.3} {:>5.2} {:<7} {:>8} {:>8} {:>7} |{} |{} |{}",
            self.name,
            self.least_s,
            self.ours_s,
            self.ratio,
            self.goal,
            verdict,
            self.throttled,
            self.calls,
            self.caller_errors,
            peer(&self.bare),
            peer(&self.tower),
            peer(&self.pool),
        );
        if let Some((lost, twice)) = self.lost_and_twice {
            println!("{:<18} items: {lost} lost, {twice} created twice", "");
        }
        if let (Some(p50), Some(p99)) = (self.wait_p50_s, self.wait_p99_s) {
            println!(
                "{:<18} waits of a person: {p50} s at p50, {p99} s at p99",
                ""
            );
        }
    }
}

fn print_head() {
    let peer = |name| format!("{name:>10} {:>8} {:>8}", "refused", "errors");
    println!(
        "{:<18} {:>10} {:>10} {:>7} {:>5} {:<7} {:>8} {:>8} {:>7} |{} |{} |{}",
        "seconds",
        "least",
        "ours",
        "ratio",
        "goal",
        "",
        "refused",
        "calls",
        "errors",
        peer("bare"),
        peer("tower"),
        peer("pool"),
    );
}
