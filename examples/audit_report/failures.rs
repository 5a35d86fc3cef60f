//! What failed, in words that can be pasted into a support case.

use std::fmt::Write as _;

use hashbrown::HashMap;
use jiff::Timestamp;

use crate::record::{Attempt, Outcome, Record, clip};
use crate::tally::OTHERS;

/// How many codes are told apart, and how many failures of each are kept: the latest.
const CODES: usize = 200;
pub(crate) const LATEST: usize = 5;

/// The attempts of one call that are written out: the last ones.
const ATTEMPTS: usize = 6;
const VALUE: usize = 300;

/// The failures of one code.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) count: u64,
    /// Of those, how many may have been executed.
    pub(crate) unknown: u64,
    pub(crate) latest: Vec<Case>,
}

/// One failure.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) time: Timestamp,
    pub(crate) title: String,
    /// The text to copy.
    pub(crate) text: String,
}

/// All failures, by code.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    groups: HashMap<Box<str>, Group>,
}

impl Failures {
    pub(crate) fn add(&mut self, time: Timestamp, record: &Record<'_>) {
        let code = code(record);
        let known = self.groups.len() < CODES || self.groups.contains_key(&*code);
        let code: &str = if known { &code } else { OTHERS };
        let group = self.groups.entry(code.into()).or_default();
        group.count += 1;
        group.unknown += u64::from(record.outcome() == Outcome::Unknown);
        let full = group.latest.len() == LATEST;
        if full && group.latest.last().is_some_and(|oldest| oldest.time > time) {
            return;
        }
        let place = group.latest.partition_point(|case| case.time > time);
        let case = Case {
            time,
            title: format!(
                "{} · {} · {}",
                clip(&record.time, 40),
                clip(record.operation(), 60),
                clip(record.account(), 100)
            ),
            text: text(record),
        };
        group.latest.insert(place, case);
        group.latest.truncate(LATEST);
    }

    /// The most frequent first.
    pub(crate) fn by_count(&self) -> Vec<(&str, &Group)> {
        let mut groups: Vec<_> = self
            .groups
            .iter()
            .map(|(code, group)| (&**code, group))
            .collect();
        groups.sort_by(|(code, a), (other, b)| b.count.cmp(&a.count).then(code.cmp(other)));
        groups
    }
}

/// What a failure is filed under: the code that the server gave, else the kind of the error, else the status.
fn code(record: &Record<'_>) -> Box<str> {
    let named = record.code.as_deref().or(record.error_type.as_deref());
    match (named.filter(|name| !name.is_empty()), record.status) {
        (Some(name), _) => clip(name, 100).into(),
        (None, Some(status)) => format!("HTTP {status}").into(),
        (None, None) => clip(&record.outcome, 100).into(),
    }
}

fn text(record: &Record<'_>) -> String {
    let mut text = String::with_capacity(1024);
    let mut line = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let _ = writeln!(text, "{name:<20}{}", clip(value, VALUE));
        }
    };
    line("Time", Some(&record.time));
    let mut operation = record.operation().to_owned();
    if let Some(members) = record.members.filter(|members| *members > 0) {
        let plural = if members == 1 { "" } else { "s" };
        // A String takes all that is written to it, here and below.
        let _ = write!(operation, ", {members} member{plural}");
    }
    if let Some(parts) = record.parts.filter(|parts| *parts > 1) {
        let _ = write!(operation, " in {parts} parts");
    }
    line("Operation", Some(&operation));
    let mut outcome = record.outcome.to_string();
    if let Some(code) = record.code.as_deref() {
        outcome = format!("{outcome}, {code}");
    }
    if let Some(status) = record.status {
        outcome = format!("{outcome}, HTTP {status}");
    }
    line("Outcome", Some(&outcome));
    let url = match (record.server.as_deref(), record.path.as_deref()) {
        (Some(server), path) => Some(format!("{server}{}", path.unwrap_or(""))),
        (None, path) => path.map(str::to_owned),
    };
    line("Server", url.as_deref());
    line("Account", Some(record.account()));
    let mailbox = match (record.mailbox.as_deref(), record.access.as_deref()) {
        (Some(mailbox), Some(access)) => Some(format!("{mailbox} ({access})")),
        (mailbox, _) => mailbox.map(str::to_owned),
    };
    line("Mailbox", mailbox.as_deref());
    line("User-Agent", record.user_agent.as_deref());
    if let Some(ms) = record.duration_ms {
        line("Duration", Some(&format!("{ms:.0} ms")));
    }
    for (level, error) in record.error.iter().flatten().take(8).enumerate() {
        line(
            if level == 0 { "Error" } else { "  caused by" },
            Some(error),
        );
    }
    let attempts = record.attempts();
    let skipped = attempts.len().saturating_sub(ATTEMPTS);
    if skipped > 0 {
        let earlier = record.all_attempts() - (attempts.len() - skipped) as u64;
        line("", Some(&format!("({earlier} earlier attempts left out)")));
    }
    let earlier = record.all_attempts() - attempts.len() as u64;
    for (attempt, number) in attempts.iter().zip(earlier + 1..).skip(skipped) {
        let title = format!("Attempt {number} of {}", record.all_attempts());
        line(&title, Some(&summary(attempt)));
        line("  client-request-id", attempt.client_request_id.as_deref());
        line("  request-id", attempt.request_id.as_deref());
        line("  X-FEServer", attempt.fe_server.as_deref());
        line("  X-BEServer", attempt.be_server.as_deref());
        line("  X-DiagInfo", attempt.diag_info.as_deref());
    }
    text.truncate(text.trim_end().len());
    text
}

fn summary(attempt: &Attempt<'_>) -> String {
    let mut words = Vec::new();
    if let Some(status) = attempt.status {
        words.push(format!("HTTP {status}"));
    } else {
        words.push("no response".to_owned());
    }
    words.extend(attempt.signal.as_deref().map(str::to_owned));
    words.extend(attempt.part.map(|part| format!("part {part}")));
    words.extend(
        attempt
            .started_ms
            .map(|ms| format!("begun after {ms:.0} ms")),
    );
    words.extend(attempt.total_ms.map(|ms| format!("took {ms:.0} ms")));
    if attempt.resend == Some(true) {
        words.push("sent again although the last may have been executed".to_owned());
    }
    words.join(", ")
}
