//! The operations that the server knows: their names and their members.

use super::super::budget::CallKind;
use super::super::xml::{Element, Ns};

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
    SearchMailboxes,
    Subscribe,
    Unsubscribe,
    GetEvents,
    GetStreamingEvents,
}

use Operation::*;

/// Every operation, its name, and the array that holds its members; an operation without one is its
/// own member.
const ALL: [(Operation, &str, &str); 40] = [
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
    (SearchMailboxes, "SearchMailboxes", ""),
    (Subscribe, "Subscribe", ""),
    (Unsubscribe, "Unsubscribe", ""),
    (GetEvents, "GetEvents", ""),
    (GetStreamingEvents, "GetStreamingEvents", ""),
];

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

    pub(in super::super) fn kind(self) -> CallKind {
        match self {
            SyncFolderItems | SyncFolderHierarchy => CallKind::Sync,
            GetStreamingEvents => CallKind::Hanging,
            SearchMailboxes => CallKind::Discovery,
            _ => CallKind::Plain,
        }
    }

    /// Whether it is one of the four that a server's cookie is for.
    pub(in super::super) fn is_of_subscriptions(self) -> bool {
        matches!(
            self,
            Subscribe | Unsubscribe | GetEvents | GetStreamingEvents
        )
    }

    /// Whether its members hold rows in memory while they are executed.
    pub(in super::super) fn finds(self) -> bool {
        matches!(self, FindItem | FindFolder)
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
                | SearchMailboxes
                | Subscribe
                | Unsubscribe
                | GetEvents
                | GetStreamingEvents
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
                | SearchMailboxes
                | Subscribe
                | Unsubscribe
                | GetEvents
                | GetStreamingEvents
        );
        let members: Vec<&Element> = match array {
            Some(array) => array.children().collect(),
            None if optional => vec![element],
            None => return None,
        };
        (!members.is_empty()).then_some(members)
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
}
