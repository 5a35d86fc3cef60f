//! What the server saw: counters, and the record of every call.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use http::StatusCode;

use super::budget::Payer;

/// The server remembers this many calls; older ones are forgotten.
const MOST_CALLS: usize = 200_000;

/// One call, as the server saw it.
///
/// ```
/// use tower_ews::simulator::Exchange;
/// let exchange = Exchange::builder().build();
/// assert!(exchange.calls().iter().all(|call| call.outcome == "executed"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// Its number, from 1.
    pub number: u64,
    /// When it arrived: real time (of the tokio clock) since the exchange's first call.
    pub at: Duration,
    /// When its response was ready, same clock; `None` while it runs.
    pub responded: Option<Duration>,
    /// The operation, empty when the request was not understood so far.
    pub operation: String,
    /// Number of its members.
    pub members: usize,
    /// How many of them were executed, as far as that is known by now.
    pub executed: usize,
    /// How many of them came back throttled, in a call that was executed.
    pub throttled: usize,
    /// Who was charged; empty when it was refused before that.
    pub payers: Vec<Payer>,
    /// The mailboxes that it touches: the impersonated one, explicit ones, those of ids.
    pub mailboxes: Vec<String>,
    /// `X-AnchorMailbox`.
    pub anchor: Option<String>,
    /// `client-request-id`.
    pub client_request_id: Option<String>,
    /// `User-Agent`.
    pub user_agent: Option<String>,
    /// Status of the response; `None` while it runs and when the connection was lost.
    pub status: Option<StatusCode>,
    /// What became of it: `executed`, `batch_limit` when it was cut there, the code of a refusal
    /// (`ErrorServerBusy`, `503`, `401`, ...), or the name of a fault on demand.
    pub outcome: String,
}

/// What the server counted since its start or the last reset.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let exchange = tower_ews::simulator::Exchange::builder().build();
/// let report = exchange.report();
/// assert_eq!(report.calls, 0);
/// assert_eq!(report.lost(["never created"]), ["never created"]);
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Requests received; a refused connection is none.
    pub calls: u64,
    /// Members executed, by operation.
    pub executed: BTreeMap<String, u64>,
    /// Throttled responses by kind: `503`, `ErrorServerBusy`, `ErrorExceededConnectionCount`,
    /// `ErrorExceededSubscriptionCount`, `ErrorTooManyObjectsOpened`,
    /// `ErrorSubmissionQuotaExceeded` (per member), `EWSFindCountLimit` (per member).
    /// Faults on demand are not among them.
    pub throttled: BTreeMap<String, u64>,
    /// The most calls in flight at once, by payer.
    pub peak_in_flight: BTreeMap<Payer, u32>,
    /// The most GetStreamingEvents that hung at once, by payer.
    pub peak_hanging: BTreeMap<Payer, u32>,
    /// The most subscriptions that one GetStreamingEvents named.
    pub most_stream_ids: usize,
    /// Calls with a cookie that was set for another anchor, or with which a subscription that they name was not made.
    pub foreign_cookies: u64,
    /// The most calls that the server had at once.
    pub peak_server: u32,
    /// Calls that came while their payer was locked out.
    pub calls_during_backoff: u64,
    /// Lock-outs begun.
    pub lockouts: u64,
    /// Calls refused because their payer had too many in flight.
    pub connection_violations: u64,
    /// Members refused because their account had too many mailboxes open.
    pub open_mailbox_violations: u64,
    /// Impersonating calls whose `X-AnchorMailbox` is missing or names another mailbox, but for those of a group of
    /// subscriptions.
    pub anchor_violations: u64,
    /// What went over a parameter, by its name (`EWSMaxConcurrency`, `MessageRateLimit`, ...):
    /// calls, members, messages. `open mailboxes` and `spacing` have no parameter.
    pub violations: BTreeMap<String, u64>,
    /// Members that were held up before they were executed.
    pub delayed_members: u64,
    /// Faults on demand that happened, by [`Fault::name`](super::Fault::name).
    pub faults: BTreeMap<String, u64>,
    /// Calls whose client went away before the response.
    pub abandoned: u64,
    /// Calls cut at the time limit of a batch.
    pub cut_batches: u64,
    /// Members that were not executed since an earlier one stopped the batch.
    pub stopped_members: u64,
    /// Members that came back throttled, not executed, in calls that were: in a lock-out, for too
    /// many open mailboxes, for the rows of a search, or on demand.
    pub throttled_members: u64,
    /// What was done by the operations that change something: by operation, then by what it was
    /// done to, with how often. An item stands here with its subject (before an update), an
    /// attachment and a folder with its name, a delegate with the address; what has none of these
    /// is not here.
    pub done: BTreeMap<String, BTreeMap<String, u64>>,
    /// Items created by CreateItem, those that were only sent among them.
    pub items_created: u64,
    /// The same by subject. Items without a subject are not here.
    pub created: BTreeMap<String, u64>,
    /// Items sent, by subject.
    pub sent: BTreeMap<String, u64>,
    /// Items that exist now, by subject.
    pub existing: BTreeMap<String, u64>,
}

impl Report {
    /// The subjects that were created more than once, with how often.
    pub fn created_twice(&self) -> Vec<(&str, u64)> {
        twice(&self.created)
    }

    /// The subjects that were sent more than once, with how often.
    pub fn sent_twice(&self) -> Vec<(&str, u64)> {
        twice(&self.sent)
    }

    /// Which of the expected subjects were never created.
    pub fn lost<S: AsRef<str>>(&self, expected: impl IntoIterator<Item = S>) -> Vec<S> {
        expected
            .into_iter()
            .filter(|subject| !self.created.contains_key(subject.as_ref()))
            .collect()
    }

    /// What this operation was done to more than once, with how often.
    pub fn done_twice(&self, operation: &str) -> Vec<(&str, u64)> {
        self.done.get(operation).map(twice).unwrap_or_default()
    }

    /// Which of the expected were never the object of this operation.
    pub fn not_done<S: AsRef<str>>(
        &self,
        operation: &str,
        expected: impl IntoIterator<Item = S>,
    ) -> Vec<S> {
        let done = self.done.get(operation);
        expected
            .into_iter()
            .filter(|marker| done.is_none_or(|done| !done.contains_key(marker.as_ref())))
            .collect()
    }

    /// All throttled responses together.
    pub fn throttled_total(&self) -> u64 {
        self.throttled.values().sum()
    }

    /// The highest peak of any payer.
    pub fn peak(&self) -> u32 {
        self.peak_in_flight.values().copied().max().unwrap_or(0)
    }
}

fn twice(counts: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    counts
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|(subject, count)| (subject.as_str(), *count))
        .collect()
}

/// The counters behind the report, and the calls.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) report: Report,
    calls: VecDeque<Call>,
}

impl Counters {
    pub(super) fn throttled(&mut self, kind: &str) {
        count(&mut self.report.throttled, kind);
    }

    pub(super) fn violation(&mut self, parameter: &str) {
        count(&mut self.report.violations, parameter);
    }

    pub(super) fn executed(&mut self, operation: &str) {
        count(&mut self.report.executed, operation);
    }

    pub(super) fn fault(&mut self, name: &str) {
        count(&mut self.report.faults, name);
    }

    pub(super) fn done(&mut self, operation: &str, marker: &str) {
        if marker.is_empty() {
            return;
        }
        match self.report.done.get_mut(operation) {
            Some(done) => count(done, marker),
            None => {
                let done = BTreeMap::from([(marker.to_owned(), 1)]);
                self.report.done.insert(operation.to_owned(), done);
            }
        }
    }

    pub(super) fn created(&mut self, subject: &str, sent: bool) {
        self.report.items_created += 1;
        if !subject.is_empty() {
            count(&mut self.report.created, subject);
        }
        if sent {
            self.sent(subject);
        }
    }

    pub(super) fn sent(&mut self, subject: &str) {
        if !subject.is_empty() {
            count(&mut self.report.sent, subject);
        }
    }

    pub(super) fn record(&mut self, call: Call) {
        if self.calls.len() >= MOST_CALLS {
            self.calls.pop_front();
        }
        self.calls.push_back(call);
    }

    /// The record of a call, unless it is forgotten.
    pub(super) fn call(&mut self, number: u64) -> Option<&mut Call> {
        let first = self.calls.front()?.number;
        self.calls
            .get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.iter().cloned().collect()
    }

    pub(super) fn reset(&mut self) {
        self.report = Report::default();
        self.calls.clear();
    }
}

fn count(counts: &mut BTreeMap<String, u64>, key: &str) {
    match counts.get_mut(key) {
        Some(count) => *count += 1,
        None => {
            counts.insert(key.to_owned(), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_twice() {
        let mut counters = Counters::default();
        counters.created("a", false);
        counters.created("b", true);
        counters.created("b", false);
        counters.created("", false);
        assert_eq!(counters.report.items_created, 4);
        assert_eq!(counters.report.created_twice(), [("b", 2)]);
        assert!(counters.report.sent_twice().is_empty());
        assert_eq!(counters.report.lost(["a", "c"]), ["c"]);
        for marker in ["a", "b", "b", ""] {
            counters.done("CopyItem", marker);
        }
        assert_eq!(counters.report.done_twice("CopyItem"), [("b", 2)]);
        assert!(counters.report.done_twice("MoveItem").is_empty());
        assert_eq!(counters.report.not_done("CopyItem", ["a", "c"]), ["c"]);
        assert_eq!(counters.report.not_done("MoveItem", ["a"]), ["a"]);
    }
}
