//! One case: a server, a policy and a job; and what running it gives.

use std::fmt;
use std::time::Duration;

use super::client::{self, Known};
use super::jobs::{GivenUp, Job};
use super::omniscient::Omniscient;
use super::oracle;
use super::script::{Bodies, RunsOn, Script};
use super::server::{Counts, Server};

/// Slower than this many times the least time is too slow.
const SLOWEST: f64 = 1.2;
/// The same where another client comes and goes within this many round trips. What it leaves is found by a try and by the calls that
/// follow it: two round trips at the least, each time.
const SLOWEST_BESIDE_HASTE: f64 = 1.25;
const HASTE: u32 = 10;
/// The same for a case at random. Of 10,000 one needs more than the scenarios: a higher level is tried after a third of the time that
/// the one before has lasted, and some job waits for nothing but that.
const SLOWEST_OF_ALL: f64 = 4.0 / 3.0;

/// A job that has not ended this long after the least time is not waited for.
const STALL_TIMEOUT: Duration = Duration::from_secs(2 * 3_600);

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) scenario: &'static str,
    pub(crate) known: Known,
    pub(crate) script: Script,
    pub(crate) job: Job,
}

/// Whose client does the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Ours,
    Omniscient,
}

/// What was measured: one row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) least: Duration,
    /// None if the job did not end.
    pub(crate) took: Option<Duration>,
    pub(crate) counts: Counts,
}

impl Case {
    /// Runs the job in virtual time. Panics if something was lost or done twice.
    pub(crate) fn run(&self, who: Who) -> Row {
        let least = oracle::least(&self.script, &self.job);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let (took, counts) = runtime.block_on(async {
            let mut script = self.script.clone();
            if who == Who::Omniscient {
                // No client can know which of its calls meet them.
                script.overloaded.clear();
            }
            let server = Server::new(script);
            let job = self.job_of(who, &server);
            let stall_timeout = least + STALL_TIMEOUT + self.pause();
            let took = tokio::time::timeout(stall_timeout, job).await;
            (took.ok(), server.counts())
        });
        let row = Row {
            case: self.clone(),
            least,
            took,
            counts,
        };
        row.assert_whole();
        row
    }

    async fn job_of(&self, who: Who, server: &Server) -> Duration {
        match who {
            Who::Omniscient => {
                let client = client::boxed(Omniscient::new(server.clone()));
                self.job.run_knowingly(&client, server).await
            }
            Who::Ours => {
                let (known, seed) = (self.known, self.script.seed);
                let client = match self.job {
                    Job::Batch { members, .. } => client::stack(known, server.clone(), members),
                    _ => client::layers(known, server.clone(), seed),
                };
                self.job.run(&client, server).await
            }
        }
    }

    fn pause(&self) -> Duration {
        match self.job {
            Job::AfterPause { pause, .. } => pause,
            _ => Duration::ZERO,
        }
    }
}

impl Row {
    /// Nothing is lost and nothing done twice.
    fn assert_whole(&self) {
        let case = &self.case;
        let done = &self.counts.done;
        if let Some((item, _)) = done.iter().find(|(_, times)| **times > 1) {
            panic!("item {item} was done twice: {case}");
        }
        let lost = self.took.is_some() && done.len() != case.job.items();
        assert!(!lost, "only {} items were done: {case}", done.len());
    }

    /// How many times the least time it took. Endless, if it did not end.
    pub(crate) fn ratio(&self) -> f64 {
        let took = self.took.map(|took| took.as_secs_f64());
        took.map_or(f64::INFINITY, |took| took / self.least.as_secs_f64())
    }

    /// The one place that says how fast a job has to be.
    pub(crate) fn is_fast(&self) -> bool {
        let script = &self.case.script;
        let haste = script.longest_round() * HASTE;
        let times = match script.other {
            Some(other) if other.period < haste => SLOWEST_BESIDE_HASTE,
            _ => SLOWEST,
        };
        self.ratio() <= times
    }

    /// The same for a case at random, which may have on top what no client can know.
    pub(crate) fn is_fast_enough(&self) -> bool {
        self.is_within(SLOWEST_OF_ALL)
    }

    /// Whether it is as fast as the scenarios.
    pub(crate) fn is_as_fast(&self) -> bool {
        self.is_within(SLOWEST)
    }

    fn is_within(&self, times: f64) -> bool {
        let bound = self.least.mul_f64(times) + self.case.on_top();
        self.took.is_some_and(|took| took <= bound)
    }
}

impl Case {
    /// What a job may take longer, whatever is known of the server.
    fn on_top(&self) -> Duration {
        let script = &self.script;
        // A job that is not done when the other client comes back may have to wait until it is gone again.
        let other = script.other.map_or(Duration::ZERO, |other| other.period);
        // The best client works through one mailbox after another. First come, first served is to all in turn, so that none closes
        // before the last calls.
        let in_turn = match self.job {
            Job::Mailboxes { in_turn: true, .. } => {
                script.longest_round() * self.job.items() as u32 / script.places
            }
            _ => Duration::ZERO,
        };
        other + in_turn
    }
}

/// The head of the table.
pub(crate) fn head() -> String {
    format!(
        "{:<10} {:<102} {:>20} {:>8} {:>8} {:>6} {:>7} {:>6} {:>4}",
        "scenario", "parameters", "seed", "least_s", "ours_s", "ratio", "refused", "calls", "most"
    )
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        let took = self.took.map_or("never".to_owned(), |took| {
            format!("{:.3}", took.as_secs_f64())
        });
        write!(
            f,
            "{:<10} {:<102} {:>20} {:>8.3} {took:>8} {:>6.2} {:>7} {:>6} {:>4}",
            self.case.scenario,
            self.case.parameters(),
            self.case.script.seed,
            self.least.as_secs_f64(),
            self.ratio(),
            counts.refused,
            counts.done.len(),
            counts.most_calls.max(counts.most_streams),
        )
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parameters, seed) = (self.parameters(), self.script.seed);
        write!(f, "{}: {parameters}, seed {seed}", self.scenario)
    }
}

impl Case {
    fn parameters(&self) -> String {
        let script = &self.script;
        let (shortest, longest) = (script.service.0.as_millis(), script.service.1.as_millis());
        let mut service = format!("{shortest}");
        if longest > shortest {
            service += &format!("..{longest}");
        }
        let mut parts = vec![format!("{} of {}", script.places, self.known.calls)];
        match self.job {
            Job::Calls { calls, .. } => parts.push(format!("{calls} calls of {service} ms")),
            Job::Batch { items, members } => {
                parts.push(format!("{items} items, {members} in {service} ms"));
            }
            Job::Streams { streams, apart } => {
                let held = script.closed_for;
                parts.push(format!("{streams} streams, {apart:?} apart, held {held:?}"));
            }
            Job::AfterPause { pause, calls } => {
                let hours = pause.as_secs() / 3_600;
                let overloaded = &script.overloaded;
                parts.push(format!(
                    "503 to {overloaded:?}, {hours} h, {calls} calls of {service} ms"
                ));
            }
            Job::Mailboxes {
                mailboxes,
                calls,
                in_turn,
            } => {
                let order = if in_turn { "in turn" } else { "one by one" };
                parts.push(format!(
                    "{mailboxes} mailboxes {order}, {calls} calls of {service} ms"
                ));
            }
        }
        parts.push(format!("jitter {} ms", script.jitter));
        if let (Some(first), Some(last)) =
            (script.old_calls.iter().min(), script.old_calls.iter().max())
        {
            let old = script.old_calls.len();
            parts.push(format!("{old} old calls until {first:?}..{last:?}"));
        }
        let runs_on = match script.given_up {
            RunsOn::ToItsEnd => "to their end".to_owned(),
            RunsOn::For(time) => format!("for {time:?}"),
        };
        match self.job {
            Job::Calls {
                given_up: GivenUp::First(calls),
                ..
            } => parts.push(format!("{calls} given up, run on {runs_on}")),
            Job::Calls {
                given_up: GivenUp::Tenth,
                ..
            } => parts.push(format!("a tenth given up, run on {runs_on}")),
            _ => {}
        }
        if let Some((most, idle)) = script.mailboxes {
            parts.push(format!("{most} open for {idle:?}"));
        }
        if let Some(other) = script.other {
            let period = other.period;
            parts.push(format!("{} taken every other {period:?}", other.places));
        }
        if script.bodies != Bodies::Told {
            parts.push(format!("{:?}", script.bodies));
        }
        parts.join(", ")
    }
}
