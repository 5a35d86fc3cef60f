//! [`Failed`]: the error that a call ended in, as its record shows it.

use std::error::Error as StdError;
use std::io;

use super::record::Outcome;
use super::redact::Redaction;
use super::text::truncated;
use crate::body::BufferRequestError;
use crate::errors::{AccessDenied, BackoffError, CredentialsError, DeadlineElapsed};
use crate::ledger::AcquireError;
use crate::retry::Failure;

/// Sources of an error that are recorded.
const MAX_SOURCES: usize = 16;

/// An error that a call or its body ended in.
pub(super) struct Failed {
    pub(super) outcome: Outcome,
    /// `error.type`
    pub(super) kind: Box<str>,
    /// The error and its sources, redacted.
    pub(super) chain: Vec<Box<str>>,
}

impl Default for Failed {
    fn default() -> Self {
        Self {
            outcome: Outcome::Error,
            kind: OTHER.into(),
            chain: Vec::new(),
        }
    }
}

/// OpenTelemetry's word for an error without a name.
const OTHER: &str = "_OTHER";

impl Failed {
    pub(super) fn new(error: &(dyn StdError + 'static), redaction: &Redaction) -> Self {
        let mut chain = Vec::new();
        let mut kind = None;
        let mut unsent = false;
        let mut was_tried = false;
        let mut next = Some(error);
        while let Some(error) = next.filter(|_| chain.len() < MAX_SOURCES) {
            kind = kind.or_else(|| name(error));
            unsent |= error.is::<BufferRequestError>();
            was_tried |= matches!(
                error.downcast_ref(),
                Some(BackoffError::DeadlinePassed { .. } | BackoffError::RetriesExhausted { .. })
            );
            chain.push(truncated(redaction.text(&error.to_string())));
            next = error.source();
        }
        let outcome = match Failure::of(error) {
            // It changed nothing, but attempts were made.
            Failure::NotSent if was_tried => Outcome::Error,
            Failure::NotSent => Outcome::NotSent,
            // The connection that was lost may be that of the upload.
            Failure::Lost | Failure::Permanent if unsent => Outcome::NotSent,
            Failure::Lost => Outcome::Unknown,
            Failure::Permanent => Outcome::Error,
        };
        Self {
            outcome,
            kind: kind.unwrap_or_else(|| OTHER.into()),
            chain,
        }
    }
}

/// The name of an error that is known by name.
fn name(error: &(dyn StdError + 'static)) -> Option<Box<str>> {
    if let Some(error) = error.downcast_ref::<AcquireError>() {
        return Some(
            match error {
                AcquireError::QueueFull { .. } => "queue_full",
                AcquireError::TimedOut { .. } => "queue_timeout",
                AcquireError::GateTooLate { .. } => "gate_too_late",
                AcquireError::ZeroLimit => "zero_limit",
                AcquireError::DuplicateBudget { .. } => "duplicate_budget",
                AcquireError::Unavailable { .. } => "ledger_unavailable",
            }
            .into(),
        );
    }
    if error.is::<CredentialsError>() {
        return Some("credentials".into());
    }
    if error.is::<AccessDenied>() {
        return Some("access_denied".into());
    }
    if let Some(error) = error.downcast_ref::<BackoffError>() {
        let name = match error {
            BackoffError::OutcomeUnknown { .. } => "outcome_unknown",
            BackoffError::DeadlinePassed { .. } => "deadline_passed",
            BackoffError::RetriesExhausted { .. } => "retries_exhausted",
            // Its source has the name of what held the call back.
            BackoffError::NotSent { .. } => return None,
        };
        return Some(name.into());
    }
    if error.is::<DeadlineElapsed>() {
        return Some("deadline_passed".into());
    }
    if error.is::<BufferRequestError>() {
        return Some("request_body".into());
    }
    if error.is::<tower::timeout::error::Elapsed>() || error.is::<tokio::time::error::Elapsed>() {
        return Some("timeout".into());
    }
    let error = error.downcast_ref::<io::Error>()?;
    // One that wraps another says no more than that.
    (error.kind() != io::ErrorKind::Other).then(|| format!("{:?}", error.kind()).into())
}
