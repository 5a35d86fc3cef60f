//! The slowest single calls.

use crate::record::{Record, clip};

const MOST: usize = 10;

#[derive(Debug)]
pub(crate) struct Slow {
    /// Microseconds.
    pub(crate) duration: u64,
    pub(crate) time: String,
    pub(crate) operation: String,
    pub(crate) account: String,
    pub(crate) outcome: String,
    /// Of the last attempt.
    pub(crate) request_id: String,
}

/// The slowest of all, the slowest first.
#[derive(Debug, Default)]
pub(crate) struct Slowest(pub(crate) Vec<Slow>);

impl Slowest {
    pub(crate) fn add(&mut self, duration: u64, record: &Record<'_>) {
        let full = self.0.len() == MOST;
        if full && self.0.last().is_some_and(|last| last.duration >= duration) {
            return;
        }
        let id = record.attempts().iter().rev().find_map(|attempt| {
            attempt
                .request_id
                .as_deref()
                .or(attempt.client_request_id.as_deref())
        });
        let slow = Slow {
            duration,
            time: clip(&record.time, 40).into_owned(),
            operation: clip(record.operation(), 60).into_owned(),
            account: clip(record.account(), 100).into_owned(),
            outcome: match record.code.as_deref() {
                Some(code) => clip(code, 60).into_owned(),
                None => clip(&record.outcome, 60).into_owned(),
            },
            request_id: clip(id.unwrap_or(""), 80).into_owned(),
        };
        let place = self.0.partition_point(|other| other.duration >= duration);
        self.0.insert(place, slow);
        self.0.truncate(MOST);
    }
}
