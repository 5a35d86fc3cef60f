//! The operations that the server knows: their names, their members, and the shapes of their answers.

use std::fmt::Write as _;

use super::super::soap::Failure;
use super::super::xml::{Element, Ns};
use super::Outcome;

/// An operation of the simulated server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Operation {
    GetFolder,
    FindFolder,
    CreateFolder,
    UpdateFolder,
    DeleteFolder,
    MoveFolder,
    CopyFolder,
    EmptyFolder,
    MarkAllItemsAsRead,
    FindItem,
    GetItem,
    CreateItem,
    UpdateItem,
    DeleteItem,
    SendItem,
    MoveItem,
    CopyItem,
    ArchiveItem,
    MarkAsJunk,
    CreateAttachment,
    GetAttachment,
    DeleteAttachment,
    ExportItems,
    UploadItems,
    SyncFolderItems,
    SyncFolderHierarchy,
    ConvertId,
    ResolveNames,
    GetServerTimeZones,
    GetUserAvailability,
    GetMailTips,
    GetDelegate,
    AddDelegate,
    UpdateDelegate,
    RemoveDelegate,
}

use Operation::*;

/// Every operation, its name, and the array that holds its members; an operation without one is its own member.
const ALL: [(Operation, &str, &str); 35] = [
    (GetFolder, "GetFolder", "FolderIds"),
    (FindFolder, "FindFolder", "ParentFolderIds"),
    (CreateFolder, "CreateFolder", "Folders"),
    (UpdateFolder, "UpdateFolder", "FolderChanges"),
    (DeleteFolder, "DeleteFolder", "FolderIds"),
    (MoveFolder, "MoveFolder", "FolderIds"),
    (CopyFolder, "CopyFolder", "FolderIds"),
    (EmptyFolder, "EmptyFolder", "FolderIds"),
    (MarkAllItemsAsRead, "MarkAllItemsAsRead", "FolderIds"),
    (FindItem, "FindItem", "ParentFolderIds"),
    (GetItem, "GetItem", "ItemIds"),
    (CreateItem, "CreateItem", "Items"),
    (UpdateItem, "UpdateItem", "ItemChanges"),
    (DeleteItem, "DeleteItem", "ItemIds"),
    (SendItem, "SendItem", "ItemIds"),
    (MoveItem, "MoveItem", "ItemIds"),
    (CopyItem, "CopyItem", "ItemIds"),
    (ArchiveItem, "ArchiveItem", "ItemIds"),
    (MarkAsJunk, "MarkAsJunk", "ItemIds"),
    (CreateAttachment, "CreateAttachment", "Attachments"),
    (GetAttachment, "GetAttachment", "AttachmentIds"),
    (DeleteAttachment, "DeleteAttachment", "AttachmentIds"),
    (ExportItems, "ExportItems", "ItemIds"),
    (UploadItems, "UploadItems", "Items"),
    (SyncFolderItems, "SyncFolderItems", ""),
    (SyncFolderHierarchy, "SyncFolderHierarchy", ""),
    (ConvertId, "ConvertId", "SourceIds"),
    (ResolveNames, "ResolveNames", ""),
    (GetServerTimeZones, "GetServerTimeZones", ""),
    (
        GetUserAvailability,
        "GetUserAvailability",
        "MailboxDataArray",
    ),
    (GetMailTips, "GetMailTips", "Recipients"),
    (GetDelegate, "GetDelegate", "UserIds"),
    (AddDelegate, "AddDelegate", "DelegateUsers"),
    (UpdateDelegate, "UpdateDelegate", "DelegateUsers"),
    (RemoveDelegate, "RemoveDelegate", "UserIds"),
];

/// What an operation answers.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Answer {
    /// One for each member.
    pub(in super::super) members: Vec<Outcome>,
    /// An error of the whole batch, which is then its only message.
    pub(in super::super) whole: Option<Failure>,
    /// What stands after the messages.
    pub(in super::super) tail: String,
}

impl Answer {
    /// The same failure for each of so many members.
    pub(in super::super) fn all(failure: Failure, members: usize) -> Self {
        Self {
            members: vec![Err(failure); members],
            ..Self::default()
        }
    }
}

/// How the messages of the members stand in an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `ResponseMessages` with one message for each.
    Messages,
    /// The same, in an answer that is a message itself.
    Inner(&'static str),
    /// `FreeBusyResponseArray`, in which the payload stands beside the message.
    FreeBusy,
}

impl Operation {
    /// The operation of a request element.
    pub(in super::super) fn of(element: &Element) -> Option<Self> {
        let name = match element.name.as_str() {
            "GetUserAvailabilityRequest" => "GetUserAvailability",
            name => name,
        };
        ALL.iter()
            .find(|(_, known, _)| element.ns == Ns::Messages && *known == name)
            .map(|(operation, ..)| *operation)
    }

    fn row(self) -> Option<&'static (Operation, &'static str, &'static str)> {
        ALL.iter().find(|(operation, ..)| *operation == self)
    }

    pub(in super::super) fn name(self) -> &'static str {
        self.row().map_or("", |(_, name, _)| name)
    }

    pub(in super::super) fn is_sync(self) -> bool {
        matches!(self, SyncFolderItems | SyncFolderHierarchy)
    }

    /// Whether some failures of a member leave the members after it undone.
    pub(in super::super) fn stops(self) -> bool {
        self != GetUserAvailability
    }

    pub(super) fn writes(self) -> bool {
        !matches!(
            self,
            GetFolder
                | FindFolder
                | FindItem
                | GetItem
                | GetAttachment
                | ExportItems
                | SyncFolderItems
                | SyncFolderHierarchy
                | ConvertId
                | ResolveNames
                | GetServerTimeZones
                | GetUserAvailability
                | GetMailTips
                | GetDelegate
        )
    }

    /// The members of the request's array; `None` when it should have some and has none.
    pub(in super::super) fn members(self, element: &Element) -> Option<Vec<&Element>> {
        let (_, _, array) = self.row()?;
        let array = element.child(array).filter(|_| !array.is_empty());
        let optional = matches!(
            self,
            SyncFolderItems
                | SyncFolderHierarchy
                | ResolveNames
                | GetServerTimeZones
                | GetDelegate
                | UpdateDelegate
        );
        let members: Vec<&Element> = match array {
            Some(array) => array.children().collect(),
            None if optional => vec![element],
            None => return None,
        };
        (!members.is_empty()).then_some(members)
    }

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
    pub(in super::super) fn response(self, answer: &Answer) -> String {
        let name = self.name();
        let layout = self.layout();
        let whole: Vec<Outcome> = answer.whole.iter().cloned().map(Err).collect();
        let entries = if whole.is_empty() {
            &answer.members
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
                if let Some(failure) = &answer.whole {
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
        let _ = write!(out, "{}</m:{name}Response>", answer.tail);
        out
    }

    fn message(self, entry: &str, outcome: &Outcome, out: &mut String) {
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
    fn every_operation_has_one_row() {
        for (operation, name, _) in ALL {
            assert_eq!(operation.name(), name);
            assert_eq!(ALL.iter().filter(|(_, other, _)| *other == name).count(), 1);
        }
    }

    #[test]
    fn a_failure_of_the_whole_batch_is_its_only_message() {
        let failure = Failure::new("ErrorFolderNotFound", "x");
        for (operation, entry) in [
            (CopyItem, "<m:CopyItemResponseMessage "),
            (GetMailTips, "<m:GetMailTipsResponse "),
        ] {
            let text = operation.response(&Answer {
                whole: Some(failure.clone()),
                ..Answer::all(failure.clone(), 3)
            });
            assert_eq!(text.matches("<m:ResponseCode>").count(), 1, "{text}");
            assert!(text.contains(entry), "{text}");
        }
    }
}
