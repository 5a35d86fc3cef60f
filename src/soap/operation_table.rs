//! The operation table: every EWS operation that is publicly known, sorted by name.
//!
//! Sources: the WSDL of Exchange Server Subscription Edition, the three public generations of
//! messages.xsd, Microsoft's reference pages and the EWS Managed API. Idempotency and
//! splitting are inferred where no source says so.
use OperationIdempotency as I;
use PerMember as P;
use ResponseLayout as H;
use Split as S;

use super::operation_facts::{
    BatchArray, Namespace, OperationIdempotency, PerMember, ResponseLayout, Split,
};

pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) request: &'static str,
    pub(super) idempotency: OperationIdempotency,
    pub(super) split: Split,
    pub(super) per_member: PerMember,
    pub(super) shape: ResponseLayout,
    pub(super) impersonation: bool,
    pub(super) response: Element,
    pub(super) entry: Element,
    pub(super) arrays: &'static [BatchArray],
}

/// The name of an element of a response.
#[derive(Clone, Copy)]
pub(super) enum Element {
    /// The operation's name and the usual ending.
    Usual,
    Is(&'static str),
    /// There is none, or no public source names it.
    Unknown,
}

/// Takes an array, responds with one entry per member.
const fn batch(
    name: &'static str,
    idempotency: OperationIdempotency,
    split: Split,
    arrays: &'static [BatchArray],
) -> Row {
    Row {
        split,
        arrays,
        per_member: PerMember::Yes,
        ..one(name, idempotency)
    }
}

/// Responds with a list of one entry.
const fn one(name: &'static str, idempotency: OperationIdempotency) -> Row {
    Row {
        name,
        request: name,
        idempotency,
        split: Split::NotApplicable,
        per_member: PerMember::NotApplicable,
        shape: ResponseLayout::ResponseMessages,
        impersonation: true,
        response: Element::Usual,
        entry: Element::Usual,
        arrays: &[],
    }
}

/// Responds with an element that carries class and code itself.
const fn own(name: &'static str, idempotency: OperationIdempotency) -> Row {
    one(name, idempotency).shape(ResponseLayout::Itself, PerMember::NotApplicable)
}

impl Row {
    const fn responds(self, per_member: PerMember) -> Row {
        Row { per_member, ..self }
    }
    const fn shape(self, shape: ResponseLayout, per_member: PerMember) -> Row {
        Row {
            shape,
            per_member,
            entry: Element::Unknown,
            ..self
        }
    }
    /// The WSDL declares no impersonation header, or does not know the operation.
    const fn bare(self) -> Row {
        Row {
            impersonation: false,
            ..self
        }
    }
    const fn request(self, request: &'static str) -> Row {
        Row { request, ..self }
    }
    const fn response(self, response: Element) -> Row {
        Row { response, ..self }
    }
    const fn entry(self, entry: Element) -> Row {
        Row { entry, ..self }
    }
}

const fn types(container: &'static str, members: &'static [&'static str]) -> BatchArray {
    BatchArray {
        container,
        members,
        member_namespace: Namespace::Types,
    }
}

const fn messages(container: &'static str, members: &'static [&'static str]) -> BatchArray {
    BatchArray {
        container,
        members,
        member_namespace: Namespace::Messages,
    }
}

const FOLDER_IDS: &[&str] = &["FolderId", "DistinguishedFolderId"];
const ITEM_IDS: &[&str] = &[
    "ItemId",
    "OccurrenceItemId",
    "RecurringMasterItemId",
    "RecurringMasterItemIdRanges",
];
const ITEM_ID: &[&str] = &["ItemId"];
const ATTACHMENT_ID: &[&str] = &["AttachmentId"];
const USER_ID: &[&str] = &["UserId"];
const DELEGATE_USER: &[&str] = &["DelegateUser"];
const FOLDERS: &[&str] = &[
    "Folder",
    "CalendarFolder",
    "ContactsFolder",
    "SearchFolder",
    "TasksFolder",
];
const LEGACY_DN: &[&str] = &["LegacyDN"];

pub(super) static TABLE: [Row; 138] = [
    batch(
        "AddDelegate",
        I::Idempotent,
        S::SafeSequential,
        &[types("DelegateUsers", DELEGATE_USER)],
    )
    .shape(H::ItselfAndEntries, P::OwnLayout)
    .entry(Element::Is("DelegateUserResponseMessageType")),
    own("AddDistributionGroupToImList", I::NonIdempotent),
    own("AddEntityFeedback", I::NonIdempotent).bare(),
    own("AddImContactToGroup", I::NonIdempotent),
    own("AddImGroup", I::NonIdempotent),
    own("AddNewImContactToGroup", I::NonIdempotent),
    own("AddNewTelUriContactToGroup", I::NonIdempotent),
    own("AddTag", I::NonIdempotent),
    batch(
        "ApplyConversationAction",
        I::PerMember,
        S::SafeSequential,
        &[types("ConversationActions", &["ConversationAction"])],
    ),
    batch(
        "ArchiveItem",
        I::Idempotent,
        S::Safe,
        &[types("ItemIds", ITEM_IDS)],
    ),
    batch(
        "ConvertId",
        I::Safe,
        S::Safe,
        &[types(
            "SourceIds",
            &[
                "AlternateId",
                "AlternatePublicFolderId",
                "AlternatePublicFolderItemId",
            ],
        )],
    ),
    batch(
        "CopyFolder",
        I::NonIdempotent,
        S::SafeSequential,
        &[types("FolderIds", FOLDER_IDS)],
    ),
    batch(
        "CopyItem",
        I::NonIdempotent,
        S::Safe,
        &[types("ItemIds", ITEM_IDS)],
    ),
    batch(
        "CreateAttachment",
        I::NonIdempotent,
        S::SafeSequential,
        &[types(
            "Attachments",
            &["ItemAttachment", "FileAttachment", "ReferenceAttachment"],
        )],
    ),
    batch(
        "CreateFolder",
        I::NonIdempotent,
        S::SafeSequential,
        &[types("Folders", FOLDERS)],
    ),
    batch(
        "CreateFolderPath",
        I::Unknown,
        S::ChangesMeaning,
        &[types("RelativeFolderPath", FOLDERS)],
    ),
    batch(
        "CreateItem",
        I::NonIdempotent,
        S::SafeSequential,
        &[types(
            "Items",
            &[
                "Item",
                "Message",
                "SharingMessage",
                "CalendarItem",
                "Contact",
                "DistributionList",
                "MeetingMessage",
                "MeetingRequest",
                "MeetingResponse",
                "MeetingCancellation",
                "Task",
                "PostItem",
                "ReplyToItem",
                "ForwardItem",
                "ReplyAllToItem",
                "AcceptItem",
                "TentativelyAcceptItem",
                "DeclineItem",
                "CancelCalendarItem",
                "RemoveItem",
                "SuppressReadReceipt",
                "PostReplyItem",
                "AcceptSharingInvitation",
                "RoleMember",
                "Network",
                "Person",
            ],
        )],
    ),
    batch(
        "CreateManagedFolder",
        I::Idempotent,
        S::Safe,
        &[types("FolderNames", &["FolderName"])],
    ),
    own("CreateMeetingInstance", I::NonIdempotent)
        .bare()
        .request("CreateMeetingInstanceRequest"),
    own("CreateMeetingSpace", I::NonIdempotent)
        .bare()
        .response(Element::Is("CreateMeetingSpaceResponseMessage")),
    one("CreateOrUpdateFocusedOtherOverride", I::NonIdempotent)
        .bare()
        .entry(Element::Unknown),
    one("CreateUserConfiguration", I::NonIdempotent),
    batch(
        "DeleteAttachment",
        I::Idempotent,
        S::SafeSequential,
        &[types("AttachmentIds", ATTACHMENT_ID)],
    ),
    one("DeleteFocusedOtherOverride", I::Idempotent)
        .bare()
        .entry(Element::Unknown),
    batch(
        "DeleteFolder",
        I::Idempotent,
        S::SafeSequential,
        &[types("FolderIds", FOLDER_IDS)],
    ),
    batch(
        "DeleteItem",
        I::Idempotent,
        S::SafeUnlessOccurrences,
        &[types("ItemIds", ITEM_IDS)],
    ),
    own("DeleteMeetingInstance", I::Idempotent)
        .bare()
        .request("DeleteMeetingInstanceRequest"),
    own("DeleteMeetingSpace", I::Idempotent)
        .bare()
        .response(Element::Is("DeleteMeetingSpaceResponseMessage")),
    own("DeleteSearchSuggestion", I::Idempotent).bare(),
    one("DeleteUserConfiguration", I::Idempotent),
    own("DisableApp", I::Idempotent),
    own("DisconnectPhoneCall", I::Idempotent),
    batch(
        "EmptyFolder",
        I::NonIdempotent,
        S::Safe,
        &[types("FolderIds", FOLDER_IDS)],
    ),
    own("EndInstantSearchSession", I::Idempotent)
        .shape(H::Other, P::NotApplicable)
        .bare()
        .response(Element::Unknown),
    own("EndSearchSession", I::Idempotent).bare(),
    one("ExecuteDiagnosticMethod", I::Unknown)
        .bare()
        .entry(Element::Unknown),
    own("ExecuteSearch", I::Safe).bare(),
    one("ExpandDL", I::Safe),
    batch(
        "ExportItems",
        I::Safe,
        S::Safe,
        &[types("ItemIds", ITEM_ID)],
    ),
    batch("FindAvailableMeetingTimes", I::Safe, S::ChangesMeaning, &[])
        .shape(H::Itself, P::No)
        .bare(),
    own("FindConversation", I::Safe),
    batch(
        "FindFolder",
        I::Safe,
        S::SafeWithCare,
        &[types("ParentFolderIds", FOLDER_IDS)],
    ),
    batch(
        "FindItem",
        I::Safe,
        S::SafeWithCare,
        &[types("ParentFolderIds", FOLDER_IDS)],
    ),
    one("FindMailboxStatisticsByKeywords", I::Safe).bare(),
    own("FindMeetingSpaceByJoinUrl", I::Safe)
        .bare()
        .response(Element::Is("FindMeetingSpaceByJoinUrlResponseMessage")),
    batch("FindMeetingTimeCandidates", I::Safe, S::ChangesMeaning, &[])
        .shape(H::Itself, P::No)
        .bare(),
    own("FindMessageTrackingReport", I::Safe).bare(),
    own("FindPeople", I::Safe),
    own("FindTags", I::Safe),
    batch(
        "GetAppManifests",
        I::Safe,
        S::SafeWithCare,
        &[types("ExtensionIds", &[])],
    )
    .shape(H::Itself, P::No)
    .bare(),
    own("GetAppMarketplaceUrl", I::Safe).bare(),
    batch(
        "GetAttachment",
        I::Safe,
        S::Safe,
        &[types("AttachmentIds", ATTACHMENT_ID)],
    ),
    batch(
        "GetClientAccessToken",
        I::Safe,
        S::Safe,
        &[types("TokenRequests", &["TokenRequest"])],
    )
    .bare(),
    own("GetClientExtension", I::Safe).bare(),
    batch(
        "GetConversationItems",
        I::Safe,
        S::SafeWithCare,
        &[types("Conversations", &["Conversation"])],
    ),
    batch(
        "GetDelegate",
        I::Safe,
        S::Safe,
        &[types("UserIds", USER_ID)],
    )
    .shape(H::ItselfAndEntries, P::OwnLayout)
    .entry(Element::Is("DelegateUserResponseMessageType")),
    own("GetDiscoverySearchConfiguration", I::Safe).bare(),
    one("GetEvents", I::NonIdempotent),
    one("GetFocusedOtherOverrides", I::Safe)
        .bare()
        .entry(Element::Unknown),
    batch(
        "GetFolder",
        I::Safe,
        S::Safe,
        &[types("FolderIds", FOLDER_IDS)],
    ),
    own("GetHoldOnMailboxes", I::Safe).bare(),
    own("GetImItemList", I::Safe),
    batch(
        "GetImItems",
        I::Safe,
        S::SafeWithCare,
        &[types("ContactIds", ITEM_IDS), types("GroupIds", ITEM_IDS)],
    )
    .shape(H::Itself, P::No),
    own("GetInboxRules", I::Safe),
    batch("GetItem", I::Safe, S::Safe, &[types("ItemIds", ITEM_IDS)]),
    own("GetLastPrivateCatalogUpdate", I::Safe).bare(),
    batch(
        "GetMailTips",
        I::Safe,
        S::Safe,
        &[types("Recipients", &["Mailbox"])],
    )
    .shape(H::ItselfAndEntries, P::OwnLayout)
    .bare()
    .entry(Element::Is("MailTipsResponseMessageType")),
    own("GetMeetingInstance", I::Safe)
        .bare()
        .request("GetMeetingInstanceRequest"),
    own("GetMeetingSpace", I::Safe)
        .bare()
        .response(Element::Is("GetMeetingSpaceResponseMessage")),
    own("GetMessageTrackingReport", I::Safe).bare(),
    batch(
        "GetNonIndexableItemDetails",
        I::Safe,
        S::ChangesMeaning,
        &[types("Mailboxes", LEGACY_DN)],
    )
    .shape(H::Itself, P::No)
    .bare(),
    batch(
        "GetNonIndexableItemStatistics",
        I::Safe,
        S::SafeWithCare,
        &[types("Mailboxes", LEGACY_DN)],
    )
    .shape(H::Itself, P::No)
    .bare(),
    own("GetOMEConfiguration", I::Safe).bare(),
    own("GetPasswordExpirationDate", I::Safe).bare(),
    own("GetPersona", I::Safe).response(Element::Is("GetPersonaResponseMessage")),
    own("GetPhoneCallInformation", I::Safe),
    own("GetPrivateCatalogAddIns", I::Safe).bare(),
    own("GetReminders", I::Safe).bare(),
    own("GetRoomLists", I::Safe),
    own("GetRooms", I::Safe),
    own("GetSearchSuggestions", I::Safe).bare(),
    own("GetSearchableMailboxes", I::Safe).bare(),
    batch(
        "GetServerTimeZones",
        I::Safe,
        S::SafeWithCare,
        &[types("Ids", &["Id"])],
    )
    .responds(P::No)
    .bare(),
    batch(
        "GetServiceConfiguration",
        I::Safe,
        S::SafeWithCare,
        &[messages("RequestedConfiguration", &["ConfigurationName"])],
    )
    .shape(H::ItselfAndEntries, P::OwnLayout)
    .entry(Element::Is("ServiceConfigurationResponseMessageType")),
    own("GetSharingFolder", I::Safe).bare(),
    batch(
        "GetSharingMetadata",
        I::Safe,
        S::SafeWithCare,
        &[types("Recipients", &["SmtpAddress"])],
    )
    .shape(H::Itself, P::No)
    .bare(),
    one("GetSpecificUserConfiguration", I::Safe),
    batch(
        "GetStreamingEvents",
        I::NonIdempotent,
        S::ChangesMeaning,
        &[types("SubscriptionIds", &["SubscriptionId"])],
    )
    .responds(P::No),
    batch(
        "GetUserAvailability",
        I::Safe,
        S::SafeUnlessSuggestions,
        &[types("MailboxDataArray", &["MailboxData"])],
    )
    .shape(H::FreeBusy, P::OwnLayout)
    .request("GetUserAvailabilityRequest")
    .entry(Element::Is("FreeBusyResponse")),
    one("GetUserConfiguration", I::Safe),
    own("GetUserOofSettings", I::Safe)
        .shape(H::SingleMessage, P::NotApplicable)
        .request("GetUserOofSettingsRequest")
        .entry(Element::Is("ResponseMessage")),
    own("GetUserPhoto", I::Safe).bare(),
    own("GetUserRetentionPolicyTags", I::Safe).bare(),
    own("HideTag", I::Idempotent),
    own("InstallApp", I::Idempotent),
    batch(
        "MarkAllItemsAsRead",
        I::NonIdempotent,
        S::Safe,
        &[types("FolderIds", FOLDER_IDS)],
    ),
    batch(
        "MarkAsJunk",
        I::Idempotent,
        S::SafeSequential,
        &[types("ItemIds", ITEM_IDS)],
    ),
    batch(
        "MoveFolder",
        I::Idempotent,
        S::SafeSequential,
        &[types("FolderIds", FOLDER_IDS)],
    ),
    batch(
        "MoveItem",
        I::Idempotent,
        S::Safe,
        &[types("ItemIds", ITEM_IDS)],
    ),
    own("PerformInstantSearch", I::NonIdempotent).bare(),
    batch(
        "PerformReminderAction",
        I::Idempotent,
        S::SafeSequential,
        &[types("ReminderItemActions", &["ReminderItemAction"])],
    )
    .shape(H::Itself, P::No)
    .bare(),
    own("PlayOnPhone", I::NonIdempotent),
    own("RefreshSharingFolder", I::Idempotent).bare(),
    own("RegisterConsent", I::NonIdempotent).bare(),
    own("RemoveContactFromImList", I::Idempotent),
    batch(
        "RemoveDelegate",
        I::Idempotent,
        S::SafeSequential,
        &[types("UserIds", USER_ID)],
    )
    .shape(H::ItselfAndEntries, P::OwnLayout)
    .entry(Element::Is("DelegateUserResponseMessageType")),
    own("RemoveDistributionGroupFromImList", I::Idempotent),
    own("RemoveImContactFromGroup", I::Idempotent),
    own("RemoveImGroup", I::Idempotent),
    batch(
        "ReportMessage",
        I::NonIdempotent,
        S::SafeSequential,
        &[types("ItemIds", ITEM_IDS)],
    ),
    one("ResolveNames", I::Safe),
    batch(
        "SearchMailboxes",
        I::Safe,
        S::ChangesMeaning,
        &[types("SearchQueries", &["MailboxQuery"])],
    )
    .responds(P::No)
    .bare(),
    batch(
        "SendItem",
        I::NonIdempotent,
        S::SafeSequential,
        &[types("ItemIds", ITEM_IDS)],
    ),
    own("SendNotification", I::NotApplicable)
        .shape(H::Other, P::NotApplicable)
        .bare()
        .response(Element::Unknown),
    batch(
        "SetClientExtension",
        I::Idempotent,
        S::SafeSequential,
        &[types("Actions", &["Action"])],
    )
    .bare(),
    batch(
        "SetHoldOnMailboxes",
        I::Idempotent,
        S::ChangesMeaning,
        &[types("Mailboxes", &["String"])],
    )
    .shape(H::Itself, P::No)
    .bare(),
    own("SetImGroup", I::Idempotent),
    own("SetImListMigrationCompleted", I::Idempotent),
    own("SetOMEConfiguration", I::Idempotent).bare(),
    own("SetTeamMailbox", I::Idempotent).bare(),
    own("SetUserOofSettings", I::Idempotent)
        .shape(H::SingleMessage, P::NotApplicable)
        .request("SetUserOofSettingsRequest")
        .entry(Element::Is("ResponseMessage")),
    one("SetUserPhoto", I::Idempotent)
        .bare()
        .entry(Element::Unknown),
    own("StartSearchSession", I::Idempotent).bare(),
    one("Subscribe", I::NonIdempotent),
    one("SyncFolderHierarchy", I::Safe),
    one("SyncFolderItems", I::Safe),
    own("UninstallApp", I::Idempotent),
    own("UnpinTeamMailbox", I::Idempotent).bare(),
    one("Unsubscribe", I::Idempotent),
    batch(
        "UpdateDelegate",
        I::Idempotent,
        S::SafeSequential,
        &[types("DelegateUsers", DELEGATE_USER)],
    )
    .shape(H::ItselfAndEntries, P::OwnLayout)
    .entry(Element::Is("DelegateUserResponseMessageType")),
    batch(
        "UpdateFolder",
        I::Idempotent,
        S::SafeSequential,
        &[types("FolderChanges", &["FolderChange"])],
    ),
    batch(
        "UpdateInboxRules",
        I::NonIdempotent,
        S::ChangesMeaning,
        &[types(
            "Operations",
            &[
                "CreateRuleOperation",
                "SetRuleOperation",
                "DeleteRuleOperation",
            ],
        )],
    )
    .shape(H::Itself, P::No),
    batch(
        "UpdateItem",
        I::Idempotent,
        S::SafeSequential,
        &[types("ItemChanges", &["ItemChange"])],
    ),
    one("UpdateItemInRecoverableItems", I::NonIdempotent),
    own("UpdateMeetingInstance", I::Idempotent)
        .bare()
        .request("UpdateMeetingInstanceRequest"),
    own("UpdateMeetingSpace", I::Idempotent)
        .bare()
        .response(Element::Is("UpdateMeetingSpaceResponseMessage")),
    one("UpdateUserConfiguration", I::Idempotent),
    batch(
        "UploadItems",
        I::PerMember,
        S::SafeSequential,
        &[types("Items", &["Item"])],
    ),
];
