//! Cases at random: any scenario, with any numbers.

use std::time::Duration;

use super::case::Case;
use super::client::Known;
use super::jobs::{GivenUp, Job};
use super::script::{Bodies, Other, RunsOn, Script};

/// The case of that seed.
pub(crate) fn case(seed: u64) -> Case {
    let rng = &mut fastrand::Rng::with_seed(seed);
    let known = Known {
        calls: if rng.u8(0..3) == 0 { 10 } else { 27 },
        idle: Duration::from_secs(rng.u64(2..=300)),
    };
    let mut script = Script::new(rng.u32(1..=known.calls));
    script.seed = seed;
    script.jitter = rng.u64(0..=20);
    let shortest = rng.u64(20..=200);
    let longest = shortest + rng.u64(0..=shortest);
    script.service = (
        Duration::from_millis(shortest),
        Duration::from_millis(longest),
    );
    script.bodies = match rng.u8(0..4) {
        0 => Bodies::Silent,
        _ => Bodies::Told,
    };
    let (calls, mut given_up) = (rng.usize(200..=1_000), GivenUp::Nobody);
    let mut job = None;
    let some_time = |rng: &mut fastrand::Rng| Duration::from_millis(rng.u64(500..=30_000));
    match rng.u8(0..6) {
        0 => {
            let ends = some_time(rng).as_millis() as u64;
            let old = 0..rng.u32(1..=script.places);
            let all_at_once = rng.bool();
            let mut end = || if all_at_once { ends } else { rng.u64(0..=ends) };
            script.old_calls = old.map(|_| Duration::from_millis(end())).collect();
        }
        1 => {
            if rng.bool() {
                script.given_up = RunsOn::For(some_time(rng));
            }
            given_up = match rng.bool() {
                true => GivenUp::First(rng.usize(1..=10)),
                false => GivenUp::Tenth,
            };
        }
        2 => {
            script.closed_for = some_time(rng) * 10;
            let streams = rng.usize(1..=10);
            let apart = Duration::from_millis(rng.u64(0..=5_000));
            script.streams = streams as u32;
            job = Some(Job::Streams { streams, apart });
        }
        3 => {
            script.mailboxes = Some((rng.usize(2..=16), known.idle));
            job = Some(Job::Mailboxes {
                mailboxes: rng.usize(17..=60),
                calls: rng.usize(1..=20),
                in_turn: rng.bool(),
            });
        }
        4 => {
            script.other = Some(Other {
                places: rng.u32(1..=script.places),
                period: some_time(rng),
            });
        }
        _ => {}
    }
    Case {
        scenario: "random",
        known,
        script,
        job: job.unwrap_or(Job::Calls { calls, given_up }),
    }
}
