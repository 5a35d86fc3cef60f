//! [`AttemptTime`]: how long one attempt may take.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep_until};
use tower::BoxError;

use super::classify::RequestClass;
use super::decide::FailurePhase;
use crate::errors::{AttemptTimedOut, NoResponseInTime};
use crate::extensions::Deadline;
use crate::ledger::AdmissionSlot;

/// The bytes of a request body that have a second more: a line of 1 Mbit/s.
const BYTES_PER_SECOND: u64 = 128 * 1024;

/// The time of one attempt, within the deadline of its call.
#[derive(Clone, Debug)]
pub(super) struct AttemptTime {
    began: Instant,
    /// None if the deadline is the only bound.
    timeout: Option<Duration>,
    deadline: Instant,
    /// Tells when the attempt was sent. It can wait before that.
    slot: AdmissionSlot,
}

impl AttemptTime {
    /// Creates the time of an attempt that begins now.
    pub(super) fn begin(
        class: &RequestClass,
        timeout: Duration,
        deadline: Instant,
        slot: AdmissionSlot,
    ) -> Self {
        let upload = Duration::from_secs(class.upload / BYTES_PER_SECOND);
        Self {
            began: Instant::now(),
            // A stream of notifications lasts for minutes.
            timeout: (!class.streaming).then(|| timeout.saturating_add(upload)),
            deadline,
            slot,
        }
    }

    /// Returns the deadline of the call.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline(self.deadline)
    }

    /// Returns when the attempt has to be over. An attempt that still waits to be sent has all of its time before it.
    pub(super) fn end(&self) -> Instant {
        let Some(timeout) = self.timeout else {
            return self.deadline;
        };
        let since = match self.is_waiting() {
            true => Instant::now(),
            false => self.sent(),
        };
        let end = since.checked_add(timeout).unwrap_or(self.deadline);
        end.min(self.deadline)
    }

    /// Returns whether the attempt waits further in, and was not sent yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.slot.is_waiting()
    }

    /// Returns when the attempt was sent, as far as that is known.
    pub(super) fn sent(&self) -> Instant {
        self.slot.since().unwrap_or(self.began).max(self.began)
    }

    /// Runs `future` as long as the attempt may take. A future that ends at once, or at the end by itself, ends as it does.
    pub(super) async fn bound<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        // Most futures in tests, and calls that are refused at once, need no timer.
        let mut timer = None;
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(output) = future.as_mut().poll(cx) {
                    return Poll::Ready(Some(output));
                }
                let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(self.end())));
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                // It may have been sent later than it was when the timer was set.
                let end = self.end();
                if end <= Instant::now() {
                    return Poll::Ready(None);
                }
                timer.as_mut().reset(end);
            }
        })
        .await
    }

    /// Returns the error of an attempt whose time is over, and whether it was its own or that of the call. `status` is that
    /// of its response, if it had begun.
    pub(super) fn over(&self, status: Option<StatusCode>) -> (BoxError, FailurePhase) {
        match self.timeout {
            Some(timeout) if self.deadline > Instant::now() => {
                let error = AttemptTimedOut { timeout, status };
                (error.into(), FailurePhase::TimedOut)
            }
            _ => (NoResponseInTime.into(), FailurePhase::Deadline),
        }
    }
}
