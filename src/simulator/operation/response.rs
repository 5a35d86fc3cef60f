//! What an operation responds with, as XML.

use std::fmt::Write as _;

use super::super::failure::Failure;
use super::catalog::Operation::{self, *};

/// What one member comes to: the content of its response message, or its failure.
pub(super) type MemberResult = Result<String, Failure>;

/// What an operation responds with.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct OperationResponse {
    /// One for each member.
    pub(in super::super) members: Vec<MemberResult>,
    /// An error of the whole batch, which is then its only message.
    pub(in super::super) batch_error: Option<Failure>,
    /// What stands after the messages.
    pub(in super::super) trailer: String,
}

impl OperationResponse {
    /// The same failure for each of several members.
    pub(in super::super) fn all(failure: Failure, members: usize) -> Self {
        Self {
            members: vec![Err(failure); members],
            ..Self::default()
        }
    }
}

/// How the messages of the members stand in a response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `ResponseMessages` with one message for each.
    Messages,
    /// The same, in a response that is a message itself.
    Inner(&'static str),
    /// `FreeBusyResponseArray`, in which the payload stands beside the message.
    FreeBusy,
}

impl Operation {
    fn layout(self) -> Layout {
        match self {
            GetUserAvailability => Layout::FreeBusy,
            GetMailTips => Layout::Inner("MailTipsResponseMessageType"),
            GetDelegate | AddDelegate | UpdateDelegate | RemoveDelegate => {
                Layout::Inner("DelegateUserResponseMessageType")
            }
            _ => Layout::Messages,
        }
    }

    /// What stands in a response message in error after the error itself.
    fn nothing(self) -> &'static str {
        match self {
            GetItem | CreateItem | MoveItem | CopyItem | UpdateItem | ArchiveItem => "<m:Items/>",
            GetFolder | CreateFolder | UpdateFolder | MoveFolder | CopyFolder => "<m:Folders/>",
            CreateAttachment | GetAttachment => "<m:Attachments/>",
            GetServerTimeZones => "<m:TimeZoneDefinitions/>",
            _ => "",
        }
    }

    /// The whole response element.
    pub(in super::super) fn response(self, response: &OperationResponse) -> String {
        let name = self.name();
        let layout = self.layout();
        let whole: Vec<MemberResult> = response.batch_error.iter().cloned().map(Err).collect();
        let entries = if whole.is_empty() {
            &response.members
        } else {
            &whole
        };
        let mut out = String::new();
        let (array, entry) = match layout {
            Layout::Messages => {
                let _ = write!(out, "<m:{name}Response>");
                ("ResponseMessages", format!("{name}ResponseMessage"))
            }
            Layout::FreeBusy => {
                let _ = write!(out, "<m:{name}Response>");
                ("FreeBusyResponseArray", "ResponseMessage".to_owned())
            }
            Layout::Inner(entry) => {
                if let Some(failure) = &response.batch_error {
                    let _ = write!(out, "<m:{name}Response ResponseClass=\"Error\">");
                    failure.message(&mut out);
                    let _ = write!(out, "</m:{name}Response>");
                    return out;
                }
                let _ = write!(
                    out,
                    "<m:{name}Response ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode>"
                );
                ("ResponseMessages", entry.to_owned())
            }
        };
        let mut messages = String::new();
        for outcome in entries {
            self.message(&entry, outcome, &mut messages);
        }
        // An inner array is left out when it has nothing, as for a mailbox without delegates.
        if !messages.is_empty() {
            let _ = write!(out, "<m:{array}>{messages}</m:{array}>");
        }
        let _ = write!(out, "{}</m:{name}Response>", response.trailer);
        out
    }

    fn message(self, entry: &str, outcome: &MemberResult, out: &mut String) {
        let beside = self.layout() == Layout::FreeBusy;
        if beside {
            out.push_str("<m:FreeBusyResponse>");
        }
        match outcome {
            // A request for all delegates is one member with several messages, or none.
            Ok(payload) if self == GetDelegate => out.push_str(payload),
            Ok(payload) => {
                let _ = write!(
                    out,
                    "<m:{entry} ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode>"
                );
                if beside {
                    let _ = write!(out, "</m:{entry}>{payload}");
                } else {
                    let _ = write!(out, "{payload}</m:{entry}>");
                }
            }
            Err(failure) => {
                let class = failure.class();
                let _ = write!(out, "<m:{entry} ResponseClass=\"{class}\">");
                failure.message(out);
                let _ = write!(out, "{}</m:{entry}>", self.nothing());
            }
        }
        if beside {
            out.push_str("</m:FreeBusyResponse>");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_the_whole_batch_is_its_only_message() {
        let failure = Failure::new("ErrorFolderNotFound", "x");
        for (operation, entry) in [
            (CopyItem, "<m:CopyItemResponseMessage "),
            (GetMailTips, "<m:GetMailTipsResponse "),
        ] {
            let text = operation.response(&OperationResponse {
                batch_error: Some(failure.clone()),
                ..OperationResponse::all(failure.clone(), 3)
            });
            assert_eq!(text.matches("<m:ResponseCode>").count(), 1, "{text}");
            assert!(text.contains(entry), "{text}");
        }
    }
}
