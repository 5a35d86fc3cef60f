//! The response or error of one part that ends the batch if no part gives messages.

use tower::BoxError;

use crate::body::collected::CollectedResponse;

/// A response or error that could end the batch.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) result: Result<Box<CollectedResponse>, BoxError>,
    /// Whether members of its part may have been executed.
    pub(super) maybe_executed: bool,
    /// Whether it does not say by itself that anything is wrong.
    pub(super) looks_good: bool,
    /// Whether the server has not seen the part, so that this is not its word.
    pub(super) unsent: bool,
}

impl Candidate {
    pub(super) fn error(error: BoxError, maybe_executed: bool) -> Self {
        Self {
            result: Err(error),
            maybe_executed,
            looks_good: false,
            unsent: false,
        }
    }

    pub(super) fn unsent(error: BoxError) -> Self {
        Self {
            unsent: true,
            ..Self::error(error, false)
        }
    }
}

/// Chooses among the failures of parts.
///
/// The first final one counts. But a batch that changes something must not end with a refusal if any of its members may
/// have been executed: there, a failure that leaves that open goes before one that does not.
#[derive(Debug)]
pub(super) struct Fallback {
    /// Whether it matters that members may have been executed.
    doubt_matters: bool,
    chosen: Option<Candidate>,
    /// The failure of members that are sent again.
    retried: Option<Candidate>,
    /// Some part gave messages, so that no failure ends the batch.
    is_obsolete: bool,
}

impl Fallback {
    pub(super) fn new(doubt_matters: bool) -> Self {
        Self {
            doubt_matters,
            chosen: None,
            retried: None,
            is_obsolete: false,
        }
    }

    /// Adds the failure of members that are sent again. It counts if they are given up.
    pub(super) fn retry(&mut self, candidate: Candidate) {
        let doubt_matters = self.doubt_matters;
        match &self.retried {
            Some(known) if doubt_matters && known.maybe_executed != candidate.maybe_executed => {
                if candidate.maybe_executed {
                    self.retried = Some(candidate);
                }
            }
            // The server's last word says more, and so does one that says what is wrong.
            Some(known) if candidate.unsent && !known.unsent => {}
            Some(known) if candidate.looks_good && !known.looks_good => {}
            _ => self.retried = Some(candidate),
        }
    }

    /// Adds the failure of members that are not sent again.
    pub(super) fn conclude(&mut self, candidate: Candidate) {
        let doubt_matters = self.doubt_matters;
        let in_doubt = self
            .retried
            .take_if(|retried| doubt_matters && retried.maybe_executed);
        for candidate in in_doubt.into_iter().chain([candidate]) {
            let brings_doubt = doubt_matters && candidate.maybe_executed;
            match &self.chosen {
                Some(known) if doubt_matters && known.maybe_executed => {}
                Some(known) if !brings_doubt && (candidate.looks_good || !known.looks_good) => {}
                _ => self.chosen = Some(candidate),
            }
        }
    }

    /// Nothing is sent again any more: the last failure that was retried becomes final.
    pub(super) fn end_retries(&mut self) {
        if let Some(candidate) = self.retried.take() {
            self.conclude(candidate);
        }
    }

    /// Forgets all failures, past and future, because a part gave messages.
    pub(super) fn forget(&mut self) {
        self.is_obsolete = true;
    }

    /// Whether a part gave messages.
    pub(super) fn is_obsolete(&self) -> bool {
        self.is_obsolete
    }

    /// Returns what ends the batch.
    pub(super) fn take(&mut self) -> Option<Candidate> {
        self.chosen.take().filter(|_| !self.is_obsolete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens to a part: it is retried or not, and may have been executed or not.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Event {
        Retry(&'static str, bool),
        Conclude(&'static str, bool),
        EndRetries,
        Forget,
    }

    fn ends_with(doubt_matters: bool, events: &[Event]) -> Option<String> {
        let mut fallback = Fallback::new(doubt_matters);
        for event in events {
            match *event {
                Event::Retry(name, maybe) => fallback.retry(Candidate::error(name.into(), maybe)),
                Event::Conclude(name, maybe) => {
                    fallback.conclude(Candidate::error(name.into(), maybe));
                }
                Event::EndRetries => fallback.end_retries(),
                Event::Forget => fallback.forget(),
            }
        }
        let chosen = fallback.take()?;
        Some(chosen.result.unwrap_err().to_string())
    }

    /// A response that was cut off looks good, and may have been executed all the same.
    #[test]
    fn a_refused_connection_does_not_hide_what_looked_good() {
        let mut fallback = Fallback::new(true);
        fallback.retry(Candidate::unsent("connection refused".into()));
        fallback.retry(Candidate {
            looks_good: true,
            ..Candidate::error("cut off".into(), true)
        });
        fallback.conclude(Candidate::error("456".into(), false));
        let chosen = fallback.take().unwrap();
        assert_eq!(chosen.result.unwrap_err().to_string(), "cut off");
    }

    /// Of failures that are retried the last counts, but a refusal says more than what looks good and is incomplete.
    #[test]
    fn a_refusal_says_more_than_what_looked_good() {
        let good = |name: &str| Candidate {
            looks_good: true,
            ..Candidate::error(name.into(), false)
        };
        let refused = |name: &str| Candidate::error(name.into(), false);
        for (first, second, expected) in [
            (refused("refused"), good("odd"), "refused"),
            (good("odd"), refused("refused"), "refused"),
            (good("odd"), good("odder"), "odder"),
            (refused("refused"), refused("again"), "again"),
        ] {
            let mut fallback = Fallback::new(false);
            fallback.retry(first);
            fallback.retry(second);
            fallback.end_retries();
            let chosen = fallback.take().unwrap().result.unwrap_err();
            assert_eq!(chosen.to_string(), expected);
        }
    }

    #[test]
    fn the_first_failure_counts_unless_a_later_one_is_in_doubt() {
        use Event::{Conclude, EndRetries, Forget, Retry};
        let (no, maybe) = (false, true);
        // What ends a batch that changes something, and one that only reads.
        let cases: &[(&[Event], Option<&str>, Option<&str>)] = &[
            (&[], None, None),
            (&[EndRetries], None, None),
            (&[Retry("a", maybe)], None, None),
            (
                &[Conclude("a", no), Conclude("b", no)],
                Some("a"),
                Some("a"),
            ),
            (
                &[Conclude("a", maybe), Conclude("b", maybe)],
                Some("a"),
                Some("a"),
            ),
            (
                &[Conclude("a", maybe), Conclude("b", no)],
                Some("a"),
                Some("a"),
            ),
            (
                &[Conclude("a", no), Conclude("b", maybe)],
                Some("b"),
                Some("a"),
            ),
            // Of retried ones the last counts, unless an earlier one is in doubt.
            (
                &[Retry("a", no), Retry("b", no), EndRetries],
                Some("b"),
                Some("b"),
            ),
            (
                &[Retry("a", no), Retry("b", maybe), EndRetries],
                Some("b"),
                Some("b"),
            ),
            (
                &[Retry("a", maybe), Retry("b", no), EndRetries],
                Some("a"),
                Some("b"),
            ),
            (
                &[Retry("a", maybe), Retry("b", maybe), EndRetries],
                Some("b"),
                Some("b"),
            ),
            // A later failure does not hide that an earlier attempt may have been executed.
            (
                &[Retry("a", maybe), Conclude("b", no)],
                Some("a"),
                Some("b"),
            ),
            (
                &[Retry("a", maybe), Conclude("b", maybe)],
                Some("a"),
                Some("b"),
            ),
            (&[Retry("a", no), Conclude("b", no)], Some("b"), Some("b")),
            (
                &[Retry("a", no), Conclude("b", no), EndRetries],
                Some("b"),
                Some("b"),
            ),
            (
                &[Conclude("a", no), Retry("b", maybe), EndRetries],
                Some("b"),
                Some("a"),
            ),
            (
                &[Conclude("a", no), Retry("b", no), EndRetries],
                Some("a"),
                Some("a"),
            ),
            (
                &[Conclude("a", no), Retry("b", maybe), Conclude("c", no)],
                Some("b"),
                Some("a"),
            ),
            (
                &[Conclude("a", maybe), Retry("b", no), EndRetries],
                Some("a"),
                Some("a"),
            ),
            // Messages go before every failure.
            (&[Conclude("a", maybe), Forget], None, None),
            (&[Forget, Conclude("a", maybe)], None, None),
            (&[Retry("a", maybe), Forget, EndRetries], None, None),
        ];
        for (events, changing, reading) in cases {
            assert_eq!(
                ends_with(true, events).as_deref(),
                *changing,
                "{events:?}, changing"
            );
            assert_eq!(
                ends_with(false, events).as_deref(),
                *reading,
                "{events:?}, reading"
            );
        }
    }
}
