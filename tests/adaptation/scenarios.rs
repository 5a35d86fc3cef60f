//! The cases, scenario by scenario.

use std::time::Duration;

use super::case::Case;
use super::client::Known;
use super::jobs::{GivenUp, Job};
use super::script::{Bodies, Other, RunsOn, Script};

const KNOWN: Known = Known {
    calls: 27,
    idle: Duration::from_secs(300),
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const FIXED: (Duration, Duration) = (ms(100), ms(100));
const VARIED: (Duration, Duration) = (ms(50), ms(150));

fn calls(calls: usize) -> Job {
    let given_up = GivenUp::Nobody;
    Job::Calls { calls, given_up }
}

fn case(scenario: &'static str, script: Script, job: Job) -> Case {
    Case {
        scenario,
        known: KNOWN,
        script,
        job,
    }
}

/// What can be otherwise than the policy says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scenario {
    Limit,
    Large,
    Restart,
    GivenUp,
    Streams,
    Overload,
    Mailboxes,
    Neighbour,
    Bodies,
}

pub(crate) const SCENARIOS: [Scenario; 9] = [
    Scenario::Limit,
    Scenario::Large,
    Scenario::Restart,
    Scenario::GivenUp,
    Scenario::Streams,
    Scenario::Overload,
    Scenario::Mailboxes,
    Scenario::Neighbour,
    Scenario::Bodies,
];

impl Scenario {
    /// Its cases, without their seeds.
    pub(crate) fn cases(self) -> Vec<Case> {
        match self {
            Self::Limit => limit(),
            Self::Large => large(),
            Self::Restart => restart(),
            Self::GivenUp => given_up(),
            Self::Streams => streams(),
            Self::Overload => overload(),
            Self::Mailboxes => mailboxes(),
            Self::Neighbour => neighbour(),
            Self::Bodies => bodies(),
        }
    }
}

/// The server takes fewer calls than the policy says.
fn limit() -> Vec<Case> {
    let mut cases = Vec::new();
    for places in [13, 5, 20, 2] {
        for jitter in [0, 1, 5, 20] {
            for service in [FIXED, VARIED] {
                let mut script = Script::new(places);
                (script.jitter, script.service) = (jitter, service);
                let case = case("a limit", script, calls(270));
                // The first one with more than one seed.
                let seeds = if places == 13 { 3 } else { 1 };
                cases.extend(std::iter::repeat_n(case, seeds));
            }
        }
    }
    cases
}

/// The same for a large job, as one batch and as calls.
fn large() -> Vec<Case> {
    let batch = Job::Batch {
        items: 2_400,
        members: 10,
    };
    let mut cases = Vec::new();
    for jitter in [0, 5, 20] {
        for job in [batch, calls(2_400)] {
            let mut script = Script::new(13);
            script.jitter = jitter;
            cases.push(case("b large", script, job));
        }
    }
    cases
}

/// A client was killed, and its calls still run when it is back.
fn restart() -> Vec<Case> {
    let mut cases = Vec::new();
    for (places, old) in [(13, 13), (13, 10), (27, 27), (27, 20)] {
        for end in [1, 10, 30] {
            for spread in [false, true] {
                let mut script = Script::new(places);
                script.jitter = 5;
                let ends = |n| match spread {
                    true => ms(end * 1_000 * n / old),
                    false => secs(end),
                };
                script.old_calls = (1..=old).map(ends).collect();
                cases.push(case("c restart", script, calls(270)));
            }
        }
    }
    cases
}

/// Calls are given up, and the server runs them on.
fn given_up() -> Vec<Case> {
    let mut cases = Vec::new();
    for runs_on in [1, 3, 10] {
        for (given_up, service, jitter) in [
            (GivenUp::First(10), FIXED, 5),
            (GivenUp::First(10), (ms(100), ms(300)), 5),
            (GivenUp::Tenth, FIXED, 5),
        ] {
            let mut script = Script::new(27);
            (script.jitter, script.service) = (jitter, service);
            script.given_up = RunsOn::For(secs(runs_on));
            let calls = 1_000;
            cases.push(case("d given up", script, Job::Calls { calls, given_up }));
        }
    }
    // To their end, which is far.
    for given_up in [GivenUp::First(10), GivenUp::Tenth] {
        let mut script = Script::new(27);
        (script.jitter, script.service) = (5, (secs(1), secs(3)));
        let calls = 270;
        cases.push(case("d given up", script, Job::Calls { calls, given_up }));
    }
    cases
}

/// Streams close, and the server holds their places on.
fn streams() -> Vec<Case> {
    let mut cases = Vec::new();
    for held in [30, 60, 300] {
        for apart in [secs(0), secs(2)] {
            let mut script = Script::new(27);
            (script.jitter, script.closed_for) = (5, secs(held));
            let streams = 10;
            cases.push(case("e streams", script, Job::Streams { streams, apart }));
        }
    }
    cases
}

/// The server was overloaded once, long ago.
fn overload() -> Vec<Case> {
    let mut cases = Vec::new();
    for pause in [secs(30 * 86_400), secs(3_600)] {
        for overloaded in [vec![0, 1], vec![0, 35]] {
            for jitter in [0, 1] {
                let mut script = Script::new(27);
                (script.jitter, script.service) = (jitter, (ms(5), ms(5)));
                script.overloaded = overloaded.clone();
                let calls = 200;
                cases.push(case("f overload", script, Job::AfterPause { pause, calls }));
            }
        }
    }
    cases
}

/// The server opens fewer mailboxes than the policy says.
fn mailboxes() -> Vec<Case> {
    let mut cases = Vec::new();
    for idle in [5, 300] {
        for (open, in_turn) in [(10, false), (10, true), (5, false), (13, true)] {
            let mut script = Script::new(27);
            (script.jitter, script.mailboxes) = (5, Some((open, secs(idle))));
            let job = Job::Mailboxes {
                mailboxes: 60,
                calls: 10,
                in_turn,
            };
            let mut case = case("g mailbox", script, job);
            case.known.idle = secs(idle);
            cases.push(case);
        }
    }
    cases
}

/// Another client on the account comes and goes.
fn neighbour() -> Vec<Case> {
    let mut cases = Vec::new();
    for places in [14, 24, 27] {
        // As many calls as see it leave, and come back if it is not away for long.
        for (period, many) in [(1, 900), (3, 1_400), (10, 1_800)] {
            let mut script = Script::new(27);
            script.jitter = 5;
            let period = secs(period);
            script.other = Some(Other { places, period });
            let many = if places < 27 { many } else { 600 };
            cases.push(case("h other", script, calls(many)));
        }
    }
    cases
}

/// Bodies do not say that they have ended before somebody asks.
fn bodies() -> Vec<Case> {
    let mut cases = Vec::new();
    for (bodies, places, old) in [
        (Bodies::Silent, 13, 0),
        (Bodies::Silent, 5, 0),
        // Where places come free, good responses alone can tell.
        (Bodies::Silent, 27, 20),
        (Bodies::SilentAndLong, 13, 0),
    ] {
        let mut script = Script::new(places);
        (script.jitter, script.bodies) = (5, bodies);
        script.old_calls = vec![secs(1); old];
        cases.push(case("i bodies", script, calls(270)));
    }
    cases
}
