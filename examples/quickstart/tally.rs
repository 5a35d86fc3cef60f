//! What came of the runs, counted and printed.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::job::{Job, Outcome, Told};

/// One run in numbers.
#[derive(Debug, Serialize)]
pub(crate) struct Tally {
    /// Asked for.
    pub(crate) items: usize,
    /// There at the end.
    pub(crate) created: usize,
    /// The caller believes that they are there, or was told nothing, and they are not.
    pub(crate) lost: usize,
    /// There more than once.
    pub(crate) duplicated: usize,
    /// The caller was told an error.
    pub(crate) caller_errors: usize,
    /// One that leaves open whether the event was created.
    pub(crate) unknown: usize,
    /// Responses by which the server held the caller back.
    pub(crate) throttled: u64,
    /// Requests sent.
    pub(crate) calls: u64,
    /// Requests that batches were cut into.
    pub(crate) parts: u64,
    /// Items that were sent more than once, since the server had not executed them.
    pub(crate) resent: u64,
    /// The most requests at the same time that one payer (an account, or a mailbox's impersonation copy) was charged.
    pub(crate) peak_in_flight: u32,
    pub(crate) seconds: f64,
    /// The caller's errors by what they said.
    #[serde(skip)]
    errors: BTreeMap<String, usize>,
}

impl Tally {
    /// Compares what the caller was told with what is there: `found` says how often a subject is.
    pub(crate) fn new(job: &Job, outcome: &Outcome, found: impl Fn(&str) -> u64) -> Self {
        let mut tally = Self {
            items: job.items,
            created: 0,
            lost: 0,
            duplicated: 0,
            caller_errors: 0,
            unknown: 0,
            throttled: outcome.effort.throttled,
            calls: outcome.effort.calls,
            parts: outcome.effort.parts,
            resent: outcome.effort.resent,
            peak_in_flight: 0,
            seconds: (outcome.took.as_secs_f64() * 1000.0).round() / 1000.0,
            errors: BTreeMap::new(),
        };
        for (number, told) in outcome.told.iter().enumerate() {
            let times = found(&job.subject(number));
            tally.created += usize::from(times > 0);
            tally.duplicated += usize::from(times > 1);
            match told {
                Some(Told::Failed { why, unknown }) => {
                    tally.caller_errors += 1;
                    tally.unknown += usize::from(*unknown);
                    *tally.errors.entry(why.clone()).or_default() += 1;
                }
                Some(Told::Created) | None => tally.lost += usize::from(times == 0),
            }
        }
        tally
    }

    /// Nothing is lost, and nothing is there twice.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0
    }
}

/// The runs side by side.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) bare: Option<Tally>,
    pub(crate) stack: Tally,
}

impl Results {
    pub(crate) fn json(&self) -> String {
        // Numbers under fixed keys: there is nothing that could fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A row of the table: its title, and where its number is.
type Row = (&'static str, fn(&Tally) -> String);

const ROWS: &[Row] = &[
    ("items asked", |run| grouped(run.items)),
    ("created", |run| grouped(run.created)),
    ("lost", |run| grouped(run.lost)),
    ("duplicated", |run| grouped(run.duplicated)),
    ("errors the caller saw", |run| grouped(run.caller_errors)),
    ("  with unknown outcome", |run| grouped(run.unknown)),
    ("throttled responses", |run| grouped(run.throttled)),
    ("calls", |run| grouped(run.calls)),
    ("parts of batches", |run| grouped(run.parts)),
    ("items sent again", |run| grouped(run.resent)),
    ("peak in flight per payer", |run| {
        grouped(run.peak_in_flight)
    }),
    ("seconds", |run| format!("{:.1}", run.seconds)),
];

const COLUMNS: &str = "\
bare: every call sent as it comes, what fails has failed. EwsStack: the same calls through the layers. Both as the
server counted them. Lost: the caller was told that it is there, or nothing, and it is not. An error with unknown
outcome is neither: the caller is told to look. A payer is the account, or the impersonation copy of a mailbox.
Throttled responses are counted by event, of which one call has many.";

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs: Vec<_> = self.bare.iter().map(|run| ("bare", run)).collect();
        let runs = [runs, vec![("EwsStack", &self.stack)]].concat();
        write!(f, "\n{:<26}", "")?;
        for (name, _) in &runs {
            write!(f, "{name:>12}")?;
        }
        for (title, number) in ROWS {
            write!(f, "\n{title:<26}")?;
            for (_, run) in &runs {
                write!(f, "{:>12}", number(run))?;
            }
        }
        writeln!(f, "\n")?;
        if self.bare.is_some() {
            writeln!(f, "{COLUMNS}")?;
        }
        for (name, run) in &runs {
            if !run.errors.is_empty() {
                let mut errors: Vec<_> = run.errors.iter().collect();
                errors.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
                let errors: Vec<_> = errors
                    .into_iter()
                    .map(|(error, times)| format!("{error} {}", grouped(*times)))
                    .collect();
                writeln!(f, "Errors, {name}: {}.", errors.join(", "))?;
            }
        }
        Ok(())
    }
}

/// With commas between the thousands.
pub(crate) fn grouped(number: impl ToString) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
