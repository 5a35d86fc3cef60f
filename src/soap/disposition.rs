//! [`Disposition`]: what the attributes of a request ask to be sent.
use super::operation::Operation;
use super::outline_error::OutlineError;
use super::xml::{Reader, Start};

/// Which kinds of items a request asks the server to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Disposition {
    pub(super) messages: bool,
    pub(super) meetings: bool,
}

impl Disposition {
    /// Reads it off the operation's start tag. What cannot be read asks for nothing.
    pub(super) fn of<'a>(
        operation: Option<Operation>,
        reader: &Reader<'a>,
        start: &Start<'a>,
    ) -> Self {
        let meetings = match operation {
            Some(Operation::SEND_ITEM) => {
                return Self {
                    messages: true,
                    meetings: false,
                };
            }
            Some(Operation::CREATE_ITEM) => "SendMeetingInvitations",
            Some(Operation::UPDATE_ITEM) => "SendMeetingInvitationsOrCancellations",
            Some(Operation::DELETE_ITEM) => "SendMeetingCancellations",
            _ => return Self::default(),
        };
        Self::of_attributes(reader, start, meetings).unwrap_or_default()
    }

    fn of_attributes<'a>(
        reader: &Reader<'a>,
        start: &Start<'a>,
        meetings: &str,
    ) -> Result<Self, OutlineError> {
        let meetings = reader.value(start, meetings)?;
        let messages = reader.value(start, "MessageDisposition")?;
        Ok(Self {
            messages: matches!(messages.as_deref(), Some("SendOnly" | "SendAndSaveCopy")),
            meetings: meetings.is_some_and(|value| &*value != "SendToNone"),
        })
    }

    pub(super) fn sends_none(self) -> bool {
        !self.messages && !self.meetings
    }
}
