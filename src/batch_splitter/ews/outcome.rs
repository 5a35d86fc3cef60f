//! What follows from messages, faults and HTTP statuses.
use std::time::Duration;

use http::header::LOCATION;
use http::response;
use memchr::memmem;

use crate::batch_splitter::format::{Idempotency, MemberOutcome, PartFailure, PartOutcome};
use crate::retry::retry_after;
use crate::soap::member_status::MemberStatus;
use crate::soap::{Outcome, ResponseClass, ResponseMessage};

/// A part, as far as it matters for what follows from its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) members: usize,
    pub(super) idempotency: Idempotency,
}

impl Sent {
    fn only_reads(self) -> bool {
        self.idempotency == Idempotency::Safe
    }

    /// What follows for one member from its own message, but for [`MemberOutcome::Stopped`], which the member that stopped it decides.
    pub(super) fn fate(self, message: &ResponseMessage) -> MemberOutcome {
        match message.member_status() {
            MemberStatus::Settled if message.class == ResponseClass::Error => MemberOutcome::Failed,
            MemberStatus::Settled => MemberOutcome::Done,
            MemberStatus::Stopped => MemberOutcome::Stopped,
            MemberStatus::Refused { unknown, .. } => {
                let hint = message.back_off;
                match self.idempotency {
                    Idempotency::NonIdempotent if unknown => MemberOutcome::Failed,
                    Idempotency::Idempotent if unknown => MemberOutcome::Repeat { hint },
                    _ => MemberOutcome::Again { hint },
                }
            }
        }
    }

    /// What follows for each member, in their order.
    pub(super) fn fates(self, messages: &[&ResponseMessage]) -> Vec<MemberOutcome> {
        // What stopped the members that follow.
        let mut stopper = MemberOutcome::Stopped;
        let mut fates = Vec::with_capacity(messages.len());
        for message in messages {
            let fate = match self.fate(message) {
                // It is worth as much to send it again as what stopped it.
                MemberOutcome::Stopped => match stopper {
                    MemberOutcome::Again { hint } | MemberOutcome::Repeat { hint } => {
                        MemberOutcome::Again { hint }
                    }
                    _ => MemberOutcome::Stopped,
                },
                fate => {
                    if fate != MemberOutcome::Done {
                        stopper = fate;
                    }
                    fate
                }
            };
            fates.push(fate);
        }
        fates
    }

    /// What follows for a member that has several messages.
    pub(super) fn together(self, fates: &[MemberOutcome]) -> MemberOutcome {
        let gravity = |fate: &MemberOutcome| match fate {
            MemberOutcome::Done => 0,
            MemberOutcome::Stopped => 1,
            MemberOutcome::Again { .. } | MemberOutcome::Repeat { .. } => 2,
            MemberOutcome::Failed => 3,
        };
        let worst = fates.iter().copied().max_by_key(gravity);
        let begun = fates.contains(&MemberOutcome::Done) && !self.only_reads();
        match worst {
            // A part of it was done.
            Some(
                MemberOutcome::Again { .. } | MemberOutcome::Repeat { .. } | MemberOutcome::Stopped,
            ) if begun => MemberOutcome::Failed,
            worst => worst.unwrap_or(MemberOutcome::Failed),
        }
    }

    /// What follows for all members from one message that speaks of them all: a fault, or an error.
    pub(super) fn by_message(
        self,
        message: &ResponseMessage,
        head: &response::Parts,
    ) -> PartFailure {
        let code = message.effective_code();
        let hint = message.back_off.max(retry_after(&head.headers));
        let again = PartOutcome::Again { hint };
        let mut too_large = code.asks_for_less();
        let fate = match message.member_status() {
            MemberStatus::Refused { unknown: false, .. } => again,
            MemberStatus::Refused { .. } => self.unless_written(hint),
            // By what is not said, and nothing has changed since.
            MemberStatus::Stopped => PartOutcome::Failed,
            MemberStatus::Settled if too_large && self.members > 1 => again,
            MemberStatus::Settled => {
                too_large = false;
                match code.outcome() {
                    _ if message.is_fault && code.is_about_the_caller() => {
                        PartOutcome::FailedForAll
                    }
                    Outcome::NotExecuted => PartOutcome::Failed,
                    _ if self.only_reads() => PartOutcome::Failed,
                    _ => PartOutcome::Unknown,
                }
            }
        };
        let text = match (message.text.trim(), message.code.as_str()) {
            ("", "") => "the server answered with a fault that says nothing".to_owned(),
            ("", code) => format!("the server answered {code}"),
            (text, "") => text.to_owned(),
            (text, code) => format!("{code}: {text}"),
        };
        PartFailure {
            fate,
            too_large,
            message: None,
            code: Some(code.as_str())
                .filter(|code| !code.is_empty())
                .map(Into::into),
            text: text.into(),
        }
    }

    /// What follows from an answer of which only the status says something. None for a success.
    pub(super) fn by_status(self, head: &response::Parts) -> Option<PartFailure> {
        let status = head.status.as_u16();
        let hint = retry_after(&head.headers);
        let again = PartOutcome::Again { hint };
        let (fate, too_large) = match status {
            200..=299 => return None,
            // Refused before the server looked at it.
            429 | 503 => (again, false),
            // A single member does not get smaller.
            413 if self.members > 1 => (again, true),
            413 => (PartOutcome::Failed, false),
            // The request did not come through in time.
            408 => (again, self.members > 1),
            401 | 403..=407 | 410 | 456 => (PartOutcome::FailedForAll, false),
            400..=499 => (PartOutcome::Failed, false),
            // Nobody says how far it got.
            302 if to_error_page(head) => (self.unless_written(hint), false),
            // To a page to log in, or to another server.
            300..=399 => (PartOutcome::FailedForAll, false),
            // A crash may have one member as its cause, and a time-out their number: fewer at a time find out.
            _ => (self.unless_written(hint), self.members > 1),
        };
        Some(PartFailure {
            fate,
            too_large,
            message: None,
            code: None,
            text: format!("the server answered HTTP {status}").into(),
        })
    }

    fn unless_written(self, hint: Option<Duration>) -> PartOutcome {
        match self.idempotency {
            Idempotency::NonIdempotent => PartOutcome::Unknown,
            Idempotency::Idempotent => PartOutcome::Repeat { hint },
            Idempotency::Safe => PartOutcome::Again { hint },
        }
    }

    /// An answer that came, and of which it cannot be told what it says of each member. A read is tried again with fewer members, which
    /// ends at one; anything else was most likely executed.
    pub(super) fn unreadable(self, text: String) -> PartFailure {
        let again = self.only_reads() && self.members > 1;
        PartFailure {
            fate: match again {
                true => PartOutcome::Again {
                    hint: None::<Duration>,
                },
                false if self.only_reads() => PartOutcome::Failed,
                false => PartOutcome::Unknown,
            },
            too_large: again,
            message: None,
            code: None,
            text: text.into(),
        }
    }
}

/// Where IIS sends who met an error that it does not want to show.
fn to_error_page(head: &response::Parts) -> bool {
    head.headers.get(LOCATION).is_some_and(|location| {
        let location = location.as_bytes().to_ascii_lowercase();
        memmem::find(&location, b"/genericerrorpage.htm").is_some()
    })
}
