//! What follows from messages, faults and HTTP statuses.
use std::time::Duration;

use http::response;

use crate::batch_splitter::format::{Idempotency, MemberOutcome, PartFailure, PartOutcome, Retry};
use crate::retry::{MAX_LOSS_RETRIES, StatusMeaning, is_error_page, retry_after};
use crate::soap::member_status::MemberStatus;
use crate::soap::{Outcome, ResponseClass, ResponseMessage};

/// What matters of a part that was sent for what follows from its response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) members: usize,
    pub(super) idempotency: Idempotency,
    /// Whether the batch touches several mailboxes.
    pub(super) mixed: bool,
}

impl Sent {
    fn only_reads(self) -> bool {
        self.idempotency == Idempotency::Safe
    }

    /// Returns what follows for one member from its own message, except that [`MemberOutcome::Stopped`] depends on the member
    /// that stopped it.
    pub(super) fn outcome(self, message: &ResponseMessage) -> MemberOutcome {
        match message.member_status() {
            MemberStatus::Settled if message.class == ResponseClass::Error => MemberOutcome::Failed,
            MemberStatus::Settled => MemberOutcome::Done,
            MemberStatus::Stopped => MemberOutcome::Stopped,
            MemberStatus::Refused {
                unknown,
                max_retries,
                ..
            } => {
                if unknown && self.idempotency == Idempotency::NonIdempotent {
                    return MemberOutcome::Unknown;
                }
                let mut retry = Retry::new(message.back_off);
                retry.max_retries = max_retries;
                retry.maybe_executed = unknown && !self.only_reads();
                MemberOutcome::Retry(retry)
            }
        }
    }

    /// Whether a member may have been executed though its message says that it failed for good, and must not be executed twice.
    pub(super) fn leaves_doubt(self, message: &ResponseMessage) -> bool {
        let failed = self.outcome(message) == MemberOutcome::Failed;
        let unknown = message.effective_code().outcome() == Outcome::Unknown;
        failed && unknown && self.idempotency == Idempotency::NonIdempotent
    }

    /// Returns what follows for each member, in their order.
    pub(super) fn outcomes(self, messages: &[&ResponseMessage]) -> Vec<MemberOutcome> {
        // What stopped the members that follow.
        let mut stopper = MemberOutcome::Stopped;
        let mut outcomes = Vec::with_capacity(messages.len());
        for message in messages {
            let outcome = match self.outcome(message) {
                // It is worth sending again if what stopped it is.
                MemberOutcome::Stopped => match stopper {
                    MemberOutcome::Retry(retry) => MemberOutcome::retry(retry.retry_after),
                    _ => MemberOutcome::Stopped,
                },
                outcome => {
                    if outcome != MemberOutcome::Done {
                        stopper = outcome;
                    }
                    outcome
                }
            };
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Returns what follows for all members from one message about all of them: a fault, or an error.
    pub(super) fn by_message(
        self,
        message: &ResponseMessage,
        head: &response::Parts,
    ) -> PartFailure {
        let code = message.effective_code();
        let retry_after = message.back_off.max(retry_after(&head.headers));
        let too_large = self.members > 1 && code.asks_for_less();
        let outcome = match message.member_status() {
            MemberStatus::Refused {
                unknown: false,
                max_retries,
                ..
            } => {
                let mut retry = Retry::new(retry_after);
                retry.max_retries = max_retries;
                PartOutcome::Retry(retry)
            }
            MemberStatus::Refused { max_retries, .. } => {
                self.without_proof(retry_after, max_retries.unwrap_or(MAX_LOSS_RETRIES))
            }
            // Nobody says by what, and nothing has changed since.
            MemberStatus::Stopped => PartOutcome::Failed,
            MemberStatus::Settled => match code.outcome() {
                _ if message.is_fault && code.is_about_the_caller() => PartOutcome::FailedForAll,
                Outcome::NotExecuted => PartOutcome::Failed,
                _ if self.only_reads() => PartOutcome::Failed,
                _ => PartOutcome::Unknown,
            },
        };
        let text = match (message.text.trim(), message.code.as_str()) {
            ("", "") => "the server responded with a fault that says nothing".to_owned(),
            ("", code) => format!("the server responded with {code}"),
            (text, "") => text.to_owned(),
            (text, code) => format!("{code}: {text}"),
        };
        PartFailure {
            too_large,
            code: Some(code.as_str())
                .filter(|code| !code.is_empty())
                .map(Into::into),
            ..PartFailure::new(outcome, text)
        }
    }

    /// Returns what follows from a fault. One whose code is not understood is worth as much as its status, and may say how long to
    /// wait.
    pub(super) fn by_fault(self, fault: &ResponseMessage, head: &response::Parts) -> PartFailure {
        let by_message = self.by_message(fault, head);
        let by_status = match fault.is_understood() {
            true => None,
            false => self.by_status(head),
        };
        let Some(mut by_status) = by_status else {
            return by_message;
        };
        if let PartOutcome::Retry(retry) = &mut by_status.outcome {
            retry.retry_after = retry.retry_after.max(fault.back_off);
        }
        PartFailure {
            code: by_message.code,
            text: by_message.text,
            ..by_status
        }
    }

    /// Returns what follows from a response by its status alone, or `None` for a success.
    pub(super) fn by_status(self, head: &response::Parts) -> Option<PartFailure> {
        let status = head.status.as_u16();
        let retry_after = retry_after(&head.headers);
        let not_executed = Retry::new(retry_after).max_retries(MAX_LOSS_RETRIES);
        let without_proof = self.without_proof(retry_after, MAX_LOSS_RETRIES);
        let several = self.members > 1;
        let (outcome, too_large) = match StatusMeaning::of(head.status) {
            StatusMeaning::Success => return None,
            // Refused before the server looked at it.
            StatusMeaning::Throttled => (PartOutcome::retry(retry_after), false),
            StatusMeaning::TooLarge => (PartOutcome::Failed, several),
            StatusMeaning::TooEarly => (PartOutcome::Retry(not_executed), status == 408 && several),
            // It can speak of one mailbox.
            StatusMeaning::OfCaller if status == 403 && self.mixed => (PartOutcome::Failed, false),
            // IIS says with 404 that a request is too large, too (404.13).
            StatusMeaning::OfRequest => (PartOutcome::Failed, false),
            // It does not say how far it got.
            StatusMeaning::Redirect if is_error_page(&head.headers) => (without_proof, false),
            StatusMeaning::OfCaller | StatusMeaning::Redirect | StatusMeaning::Unable => {
                (PartOutcome::FailedForAll, false)
            }
            // Most of its values are permanent.
            StatusMeaning::Unclear
                if status == 500 && head.headers.contains_key("x-caserrorcode") =>
            {
                (self.without_proof(retry_after, 1), false)
            }
            // One member may cause a crash, and their number a time-out: fewer at a time find out.
            StatusMeaning::Unclear => (without_proof, several),
        };
        Some(PartFailure {
            too_large,
            ..PartFailure::new(outcome, format!("the server responded with HTTP {status}"))
        })
    }

    /// Returns what follows if nothing proves that the part was not executed.
    fn without_proof(self, retry_after: Option<Duration>, max_retries: u32) -> PartOutcome {
        let retry = Retry::new(retry_after).max_retries(max_retries);
        match self.idempotency {
            Idempotency::NonIdempotent => PartOutcome::Unknown,
            Idempotency::Idempotent => PartOutcome::Retry(retry.maybe_executed()),
            Idempotency::Safe => PartOutcome::Retry(retry),
        }
    }

    /// Returns what follows from a response whose messages are not known to be those of the members: perhaps it is not the one to
    /// this request. So it is asked for once more, where that does no harm.
    pub(super) fn unattributed(self, text: String) -> PartFailure {
        PartFailure::new(self.without_proof(None, 1), text)
    }

    /// Returns what follows from a response that does not tell what it says of each member. A read is tried again with
    /// fewer members, down to one. Anything else was most likely executed.
    pub(super) fn unreadable(self, text: String) -> PartFailure {
        if !self.only_reads() {
            return PartFailure::new(PartOutcome::Unknown, text);
        }
        PartFailure::new(PartOutcome::Failed, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soap::ResponseCode;

    const SENT: Sent = Sent {
        members: 2,
        idempotency: Idempotency::Safe,
        mixed: false,
    };

    #[test]
    fn what_a_status_alone_says_of_a_part() {
        let failure = |sent: Sent, status: u16, header: Option<(&str, &str)>| {
            let mut response = http::Response::builder().status(status);
            if let Some((name, value)) = header {
                response = response.header(name, value);
            }
            let (head, ()) = response.body(()).unwrap().into_parts();
            let failure = sent.by_status(&head)?;
            Some((failure.outcome, failure.too_large))
        };
        let single = Sent { members: 1, ..SENT };
        let mixed = Sent {
            mixed: true,
            ..SENT
        };
        let again = |max_retries| PartOutcome::Retry(Retry::new(None).max_retries(max_retries));
        let error_page = Some(("location", "/owa/auth/GenericErrorPage.htm?code=500"));
        for (sent, status, header, expected) in [
            (SENT, 200, None, None),
            (SENT, 503, None, Some((PartOutcome::retry(None), false))),
            (SENT, 413, None, Some((PartOutcome::Failed, true))),
            (single, 413, None, Some((PartOutcome::Failed, false))),
            (SENT, 408, None, Some((again(MAX_LOSS_RETRIES), true))),
            (single, 408, None, Some((again(MAX_LOSS_RETRIES), false))),
            (SENT, 425, None, Some((again(MAX_LOSS_RETRIES), false))),
            // Of one mailbox of several, or of the caller.
            (mixed, 403, None, Some((PartOutcome::Failed, false))),
            (SENT, 403, None, Some((PartOutcome::FailedForAll, false))),
            (mixed, 401, None, Some((PartOutcome::FailedForAll, false))),
            (SENT, 404, None, Some((PartOutcome::Failed, false))),
            (SENT, 302, None, Some((PartOutcome::FailedForAll, false))),
            (
                SENT,
                302,
                error_page,
                Some((again(MAX_LOSS_RETRIES), false)),
            ),
            (SENT, 500, None, Some((again(MAX_LOSS_RETRIES), true))),
            (single, 500, None, Some((again(MAX_LOSS_RETRIES), false))),
            (
                SENT,
                500,
                Some(("x-caserrorcode", "x")),
                Some((again(1), false)),
            ),
            (
                SENT,
                502,
                Some(("x-caserrorcode", "x")),
                Some((again(MAX_LOSS_RETRIES), true)),
            ),
        ] {
            let case = format!("{sent:?}, {status}, {header:?}");
            assert_eq!(failure(sent, status, header), expected, "{case}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_asked_for_again_where_that_does_no_harm() {
        for (idempotency, unreadable, unattributed) in [
            (
                Idempotency::Safe,
                PartOutcome::Failed,
                PartOutcome::Retry(Retry::new(None).max_retries(1)),
            ),
            (
                Idempotency::Idempotent,
                PartOutcome::Unknown,
                PartOutcome::Retry(Retry::new(None).max_retries(1).maybe_executed()),
            ),
            (
                Idempotency::NonIdempotent,
                PartOutcome::Unknown,
                PartOutcome::Unknown,
            ),
        ] {
            let sent = Sent {
                idempotency,
                ..SENT
            };
            assert_eq!(sent.unreadable(String::new()).outcome, unreadable);
            assert_eq!(sent.unattributed(String::new()).outcome, unattributed);
        }
    }

    fn message(code: &str) -> ResponseMessage {
        ResponseMessage {
            class: match code {
                "NoError" => ResponseClass::Success,
                _ => ResponseClass::Error,
            },
            code: ResponseCode::from_text(code),
            inner_code: None,
            back_off: None,
            max_concurrency: None,
            text: "".into(),
            range: 0..0,
            is_fault: false,
            is_entry: true,
        }
    }

    #[test]
    fn what_a_message_leaves_open_counts_by_what_a_second_time_does() {
        let transient = message("ErrorInternalServerTransientError");
        let failed = message("ErrorItemPropertyRequestFailed");
        for (idempotency, maybe_executed, leaves_doubt) in [
            (Idempotency::Safe, Some(false), false),
            (Idempotency::Idempotent, Some(true), false),
            (Idempotency::NonIdempotent, None, true),
        ] {
            let sent = Sent {
                idempotency,
                ..SENT
            };
            let found = match sent.outcome(&transient) {
                MemberOutcome::Retry(retry) => Some(retry.maybe_executed),
                MemberOutcome::Unknown => None,
                other => panic!("{other:?}"),
            };
            assert_eq!(found, maybe_executed, "{idempotency:?}");
            assert_eq!(sent.outcome(&failed), MemberOutcome::Failed);
            assert_eq!(sent.leaves_doubt(&failed), leaves_doubt, "{idempotency:?}");
        }
    }

    #[test]
    fn what_was_stopped_follows_the_last_that_was_not_done() {
        let (busy, done) = (message("ErrorServerBusy"), message("NoError"));
        let (gone, stopped) = (
            message("ErrorItemNotFound"),
            message("ErrorBatchProcessingStopped"),
        );
        let again = MemberOutcome::retry(None);
        for (messages, last) in [
            ([&gone, &busy, &stopped], again),
            ([&busy, &done, &stopped], again),
            ([&busy, &gone, &stopped], MemberOutcome::Stopped),
            ([&busy, &stopped, &stopped], again),
            ([&done, &done, &stopped], MemberOutcome::Stopped),
        ] {
            let outcomes = SENT.outcomes(&messages);
            assert_eq!(outcomes.last(), Some(&last), "{messages:?}");
        }
    }

    #[test]
    fn what_one_message_says_of_a_whole_part() {
        let (head, ()) = http::Response::builder()
            .header("retry-after", "5")
            .body(())
            .unwrap()
            .into_parts();
        let mut busy = message("ErrorServerBusy");
        for (back_off, retry_after) in [(None, 5), (Some(2), 5), (Some(9), 9)] {
            busy.back_off = back_off.map(Duration::from_secs);
            let failure = SENT.by_message(&busy, &head);
            let retry_after = Some(Duration::from_secs(retry_after));
            // The longer of both.
            assert_eq!(failure.outcome, PartOutcome::retry(retry_after));
        }
        for (members, too_large) in [(2, true), (1, false)] {
            let failure =
                Sent { members, ..SENT }.by_message(&message("ErrorTimeoutExpired"), &head);
            assert_eq!(failure.too_large, too_large, "{members}");
        }
        let fault = |code| ResponseMessage {
            is_fault: true,
            ..message(code)
        };
        let writes = Sent {
            idempotency: Idempotency::Idempotent,
            ..SENT
        };
        for (sent, message, outcome) in [
            // A member's own message says nothing of the others.
            (SENT, message("ErrorAccountDisabled"), PartOutcome::Failed),
            (
                SENT,
                fault("ErrorAccountDisabled"),
                PartOutcome::FailedForAll,
            ),
            (SENT, fault("ErrorItemNotFound"), PartOutcome::Failed),
            (
                SENT,
                fault("ErrorItemPropertyRequestFailed"),
                PartOutcome::Failed,
            ),
            (
                writes,
                fault("ErrorItemPropertyRequestFailed"),
                PartOutcome::Unknown,
            ),
        ] {
            assert_eq!(
                sent.by_message(&message, &head).outcome,
                outcome,
                "{message:?}"
            );
        }
    }
}
