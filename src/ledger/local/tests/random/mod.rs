//! Random schedules, checked against a plain model after each step.
//!
//! `EWS_TEST_SEED` runs one schedule again, `EWS_TEST_ROUNDS` sets how many there are. About 100,000 make ten million grants.

mod model;
mod schedule;

use self::schedule::Schedule;

/// Schedules that once failed.
///
/// A wait on an unlimited budget that nobody looked at, calls of more values than the limit that gave places to each other for
/// ever, values that were taken for open when they were only kept, refused or closed by now, a call whose value was opened by the
/// probe of its gate, a call that was never sent and gave back to a bucket what had come back already, and a server's bucket that is
/// smaller than the configured one.
const FAILED: [u64; 27] = [
    16044127904759043964,
    56577893636002688,
    4363522794267366254,
    5806256691473282788,
    7007106623531559529,
    7970012662812292362,
    11817987189077375162,
    12922977423174922194,
    17607615552853636001,
    18360461500892889219,
    17313628556811192918,
    2028094545525168988,
    9688635827197684953,
    5635344138148334490,
    1284223169466311053,
    6833035078686945315,
    7177560267377039158,
    6191901953309197494,
    11939306617224321222,
    13177463359590538219,
    11370648706565540093,
    6881417411786912446,
    10014172734702584512,
    8579038432702640145,
    3950654188085930300,
    6324217258143036953,
    7728075081955536313,
];

/// This number of schedules shares a runtime: its timers reach two years, and each schedule takes hours.
const ON_ONE_CLOCK: u64 = 500;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Tells which schedule it was that failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("EWS_TEST_SEED={}", self.0);
        }
    }
}

fn run(seeds: impl Iterator<Item = u64>) -> u64 {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut grants = 0;
        for seed in seeds {
            let seed = Seed(seed);
            grants += Schedule::new(seed.0).run().await;
        }
        grants
    })
}

#[test]
fn random_schedules_keep_every_promise() {
    if let Some(seed) = number("EWS_TEST_SEED") {
        println!("{} grants", run(std::iter::once(seed)));
        return;
    }
    let mut grants = run(FAILED.into_iter());
    // The same in each run, unless more are asked for: what is found among those is a find, and not a flake.
    let asked = number("EWS_TEST_ROUNDS");
    let first = asked.map_or(1, |_| fastrand::u64(..));
    let rounds = asked.unwrap_or(200);
    println!("{rounds} schedules from EWS_TEST_SEED={first}");
    for round in (0..rounds).step_by(ON_ONE_CLOCK as usize) {
        let seeds = round..rounds.min(round + ON_ONE_CLOCK);
        grants += run(seeds.map(|n| first.wrapping_add(n)));
    }
    println!("{grants} grants");
    assert!(grants >= rounds * 20);
}
