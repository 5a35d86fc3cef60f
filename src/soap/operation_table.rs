//! The operation table: every EWS operation that is publicly known, sorted by name.
//!
//! Sources: the WSDL of Exchange Server Subscription Edition, the three public generations of messages.xsd, Microsoft's
//! reference pages and the EWS Managed API. Idempotence and splitting are derived where no source says so.
use Idempotence as I;
use PerMember as P;
use ResponseShape as H;
use Split as S;

use super::operation::{BatchArray, Idempotence, Namespace, PerMember, ResponseShape, Split};

pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) request: &'static str,
    pub(super) idempotence: Idempotence,
    pub(super) split: Split,
    pub(super) per_member: PerMember,
    pub(super) shape: ResponseShape,
    pub(super) impersonation: bool,
    pub(super) response: Element,
    pub(super) entry: Element,
    pub(super) arrays: &'static [BatchArray],
}

/// The name of an element of an answer.
#[derive(Clone, Copy)]
pub(super) enum Element {
    /// The operation's name and the usual ending.
    Usual,
    Is(&'static str),
    /// There is none, or no public source names it.
    Unknown,
}

/// Takes an array, answers with one entry per member.
const fn batch(
    name: &'static str,
    idempotence: Idempotence,
    split: Split,
    arrays: &'static [BatchArray],
) -> Row {
    Row {
        split,
        arrays,
        per_member: PerMember::Yes,
        ..one(name, idempotence)
    }
}

/// Answers with a list of one entry.
const fn one(name: &'static str, idempotence: Idempotence) -> Row {
    Row {
        name,
        request: name,
        idempotence,
        split: Split::NotApplicable,
        per_member: PerMember::NotApplicable,
        shape: ResponseShape::ResponseMessages,
        impersonation: true,
        response: Element::Usual,
        entry: Element::Usual,
        arrays: &[],
    }
}

/// Answers with an element that carries class and code itself.
const fn own(name: &'static str, idempotence: Idempotence) -> Row {
    one(name, idempotence).shape(ResponseShape::Itself, PerMember::NotApplicable)
}

impl Row {
    const fn answers(self, per_member: PerMember) -> Row {
        Row { per_member, ..self }
    }
    const fn shape(self, shape: ResponseShape, per_member: PerMember) -> Row {
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
        I::Converges,
        S::SafeSequential,
        &[types("DelegateUsers", DELEGATE_USER)],
    )
    .shape(H::ItselfAndEntries, P::OwnShape)
    .entry(Element::Is("DelegateUserResponseMessageType")),
    own("AddDistributionGroupToImList", I::No),
    own("AddEntityFeedback", I::No).bare(),
    own("AddImContactToGroup", I::No),
    own("AddImGroup", I::No),
    own("AddNewImContactToGroup", I::No),
    own("AddNewTelUriContactToGroup", I::No),
    own("AddTag", I::No),
    batch(
        "ApplyConversationAction",
        I::Depends,
        S::SafeSequential,
        &[types("ConversationActions", &["ConversationAction"])],
    ),
    batch(
        "ArchiveItem",
        I::Converges,
        S::Safe,
        &[types("ItemIds", ITEM_IDS)],
    ),
    batch(
        "ConvertId",
        I::Read,
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
        I::No,
        S::SafeSequential,
        &[types("FolderIds", FOLDER_IDS)],
    ),
    batch("CopyItem", I::No, S::Safe, &[types("ItemIds", ITEM_IDS)]),
    batch(
        "CreateAttachment",
        I::No,
        S::SafeSequential,
        &[types(
            "Attachments",
            &["ItemAttachment", "FileAttachment", "ReferenceAttachment"],
        )],
    ),
    batch(
        "CreateFolder",
        I::No,
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
        I::No,
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
        I::Converges,
        S::Safe,
        &[types("FolderNames", &["FolderName"])],
    ),
    own("CreateMeetingInstance", I::No)
        .bare()
        .request("CreateMeetingInstanceRequest"),
    own("CreateMeetingSpace", I::No)
        .bare()
        .response(Element::Is("CreateMeetingSpaceResponseMessage")),
    one("CreateOrUpdateFocusedOtherOverride", I::No)
        .bare()
        .entry(Element::Unknown),
    one("CreateUserConfiguration", I::No),
    batch(
        "DeleteAttachment",
        I::Converges,
        S::SafeSequential,
        &[types("AttachmentIds", ATTACHMENT_ID)],
    ),
    one("DeleteFocusedOtherOverride", I::Converges)
        .bare()
        .entry(Element::Unknown),
    batch(
        "DeleteFolder",
        I::Converges,
        S::SafeSequential,
        &[types("FolderIds", FOLDER_IDS)],
    ),
    batch(
        "DeleteItem",
        I::Converges,
        S::SafeUnlessOccurrences,
        &[types("ItemIds", ITEM_IDS)],
    ),
    own("DeleteMeetingInstance", I::Converges)
        .bare()
        .request("DeleteMeetingInstanceRequest"),
    own("DeleteMeetingSpace", I::Converges)
        .bare()
        .response(Element::Is("DeleteMeetingSpaceResponseMessage")),
    own("DeleteSearchSuggestion", I::Converges).bare(),
    one("DeleteUserConfiguration", I::Converges),
    own("DisableApp", I::Converges),
    own("DisconnectPhoneCall", I::Converges),
    batch(
        "EmptyFolder",
        I::No,
        S::Safe,
        &[types("FolderIds", FOLDER_IDS)],
    ),
    own("EndInstantSearchSession", I::Converges)
        .shape(H::Other, P::NotApplicable)
        .bare()
        .response(Element::Unknown),
    own("EndSearchSession", I::Converges).bare(),
    one("ExecuteDiagnosticMethod", I::Unknown)
        .bare()
        .entry(Element::Unknown),
    own("ExecuteSearch", I::Read).bare(),
    one("ExpandDL", I::Read),
    batch(
        "ExportItems",
        I::Read,
        S::Safe,
        &[types("ItemIds", ITEM_ID)],
    ),
    batch("FindAvailableMeetingTimes", I::Read, S::ChangesMeaning, &[])
        .shape(H::Itself, P::No)
        .bare(),
    own("FindConversation", I::Read),
    batch(
        "FindFolder",
        I::Read,
        S::SafeWithCare,
        &[types("ParentFolderIds", FOLDER_IDS)],
    ),
    batch(
        "FindItem",
        I::Read,
        S::SafeWithCare,
        &[types("ParentFolderIds", FOLDER_IDS)],
    ),
    one("FindMailboxStatisticsByKeywords", I::Read).bare(),
    own("FindMeetingSpaceByJoinUrl", I::Read)
        .bare()
        .response(Element::Is("FindMeetingSpaceByJoinUrlResponseMessage")),
    batch("FindMeetingTimeCandidates", I::Read, S::ChangesMeaning, &[])
        .shape(H::Itself, P::No)
        .bare(),
    own("FindMessageTrackingReport", I::Read).bare(),
    own("FindPeople", I::Read),
    own("FindTags", I::Read),
    batch(
        "GetAppManifests",
        I::Read,
        S::SafeWithCare,
        &[types("ExtensionIds", &[])],
    )
    .shape(H::Itself, P::No)
    .bare(),
    own("GetAppMarketplaceUrl", I::Read).bare(),
    batch(
        "GetAttachment",
        I::Read,
        S::Safe,
        &[types("AttachmentIds", ATTACHMENT_ID)],
    ),
    batch(
        "GetClientAccessToken",
        I::Read,
        S::Safe,
        &[types("TokenRequests", &["TokenRequest"])],
    )
    .bare(),
    own("GetClientExtension", I::Read).bare(),
    batch(
        "GetConversationItems",
        I::Read,
        S::SafeWithCare,
        &[types("Conversations", &["Conversation"])],
    ),
    batch(
        "GetDelegate",
        I::Read,
        S::Safe,
        &[types("UserIds", USER_ID)],
    )
    .shape(H::ItselfAndEntries, P::OwnShape)
    .entry(Element::Is("DelegateUserResponseMessageType")),
    own("GetDiscoverySearchConfiguration", I::Read).bare(),
    one("GetEvents", I::No),
    one("GetFocusedOtherOverrides", I::Read)
        .bare()
        .entry(Element::Unknown),
    batch(
        "GetFolder",
        I::Read,
        S::Safe,
        &[types("FolderIds", FOLDER_IDS)],
    ),
    own("GetHoldOnMailboxes", I::Read).bare(),
    own("GetImItemList", I::Read),
    batch(
        "GetImItems",
        I::Read,
        S::SafeWithCare,
        &[types("ContactIds", ITEM_IDS), types("GroupIds", ITEM_IDS)],
    )
    .shape(H::Itself, P::No),
    own("GetInboxRules", I::Read),
    batch("GetItem", I::Read, S::Safe, &[types("ItemIds", ITEM_IDS)]),
    own("GetLastPrivateCatalogUpdate", I::Read).bare(),
    batch(
        "GetMailTips",
        I::Read,
        S::Safe,
        &[types("Recipients", &["Mailbox"])],
    )
    .shape(H::ItselfAndEntries, P::OwnShape)
    .bare()
    .entry(Element::Is("MailTipsResponseMessageType")),
    own("GetMeetingInstance", I::Read)
        .bare()
        .request("GetMeetingInstanceRequest"),
    own("GetMeetingSpace", I::Read)
        .bare()
        .response(Element::Is("GetMeetingSpaceResponseMessage")),
    own("GetMessageTrackingReport", I::Read).bare(),
    batch(
        "GetNonIndexableItemDetails",
        I::Read,
        S::ChangesMeaning,
        &[types("Mailboxes", LEGACY_DN)],
    )
    .shape(H::Itself, P::No)
    .bare(),
    batch(
        "GetNonIndexableItemStatistics",
        I::Read,
        S::SafeWithCare,
        &[types("Mailboxes", LEGACY_DN)],
    )
    .shape(H::Itself, P::No)
    .bare(),
    own("GetOMEConfiguration", I::Read).bare(),
    own("GetPasswordExpirationDate", I::Read).bare(),
    own("GetPersona", I::Read).response(Element::Is("GetPersonaResponseMessage")),
    own("GetPhoneCallInformation", I::Read),
    own("GetPrivateCatalogAddIns", I::Read).bare(),
    own("GetReminders", I::Read).bare(),
    own("GetRoomLists", I::Read),
    own("GetRooms", I::Read),
    own("GetSearchSuggestions", I::Read).bare(),
    own("GetSearchableMailboxes", I::Read).bare(),
    batch(
        "GetServerTimeZones",
        I::Read,
        S::SafeWithCare,
        &[types("Ids", &["Id"])],
    )
    .answers(P::No)
    .bare(),
    batch(
        "GetServiceConfiguration",
        I::Read,
        S::SafeWithCare,
        &[messages("RequestedConfiguration", &["ConfigurationName"])],
    )
    .shape(H::ItselfAndEntries, P::OwnShape)
    .entry(Element::Is("ServiceConfigurationResponseMessageType")),
    own("GetSharingFolder", I::Read).bare(),
    batch(
        "GetSharingMetadata",
        I::Read,
        S::SafeWithCare,
        &[types("Recipients", &["SmtpAddress"])],
    )
    .shape(H::Itself, P::No)
    .bare(),
    one("GetSpecificUserConfiguration", I::Read),
    batch(
        "GetStreamingEvents",
        I::No,
        S::ChangesMeaning,
        &[types("SubscriptionIds", &["SubscriptionId"])],
    )
    .answers(P::No),
    batch(
        "GetUserAvailability",
        I::Read,
        S::SafeUnlessSuggestions,
        &[types("MailboxDataArray", &["MailboxData"])],
    )
    .shape(H::FreeBusy, P::OwnShape)
    .request("GetUserAvailabilityRequest")
    .entry(Element::Is("FreeBusyResponse")),
    one("GetUserConfiguration", I::Read),
    own("GetUserOofSettings", I::Read)
        .shape(H::SingleMessage, P::NotApplicable)
        .request("GetUserOofSettingsRequest")
        .entry(Element::Is("ResponseMessage")),
    own("GetUserPhoto", I::Read).bare(),
    own("GetUserRetentionPolicyTags", I::Read).bare(),
    own("HideTag", I::Converges),
    own("InstallApp", I::Converges),
    batch(
        "MarkAllItemsAsRead",
        I::No,
        S::Safe,
        &[types("FolderIds", FOLDER_IDS)],
    ),
    batch(
        "MarkAsJunk",
        I::Converges,
        S::SafeSequential,
        &[types("ItemIds", ITEM_IDS)],
    ),
    batch(
        "MoveFolder",
        I::Converges,
        S::SafeSequential,
        &[types("FolderIds", FOLDER_IDS)],
    ),
    batch(
        "MoveItem",
        I::Converges,
        S::Safe,
        &[types("ItemIds", ITEM_IDS)],
    ),
    own("PerformInstantSearch", I::No).bare(),
    batch(
        "PerformReminderAction",
        I::Converges,
        S::SafeSequential,
        &[types("ReminderItemActions", &["ReminderItemAction"])],
    )
    .shape(H::Itself, P::No)
    .bare(),
    own("PlayOnPhone", I::No),
    own("RefreshSharingFolder", I::Converges).bare(),
    own("RegisterConsent", I::No).bare(),
    own("RemoveContactFromImList", I::Converges),
    batch(
        "RemoveDelegate",
        I::Converges,
        S::SafeSequential,
        &[types("UserIds", USER_ID)],
    )
    .shape(H::ItselfAndEntries, P::OwnShape)
    .entry(Element::Is("DelegateUserResponseMessageType")),
    own("RemoveDistributionGroupFromImList", I::Converges),
    own("RemoveImContactFromGroup", I::Converges),
    own("RemoveImGroup", I::Converges),
    batch(
        "ReportMessage",
        I::No,
        S::SafeSequential,
        &[types("ItemIds", ITEM_IDS)],
    ),
    one("ResolveNames", I::Read),
    batch(
        "SearchMailboxes",
        I::Read,
        S::ChangesMeaning,
        &[types("SearchQueries", &["MailboxQuery"])],
    )
    .answers(P::No)
    .bare(),
    batch(
        "SendItem",
        I::No,
        S::SafeSequential,
        &[types("ItemIds", ITEM_IDS)],
    ),
    own("SendNotification", I::NotApplicable)
        .shape(H::Other, P::NotApplicable)
        .bare()
        .response(Element::Unknown),
    batch(
        "SetClientExtension",
        I::Converges,
        S::SafeSequential,
        &[types("Actions", &["Action"])],
    )
    .bare(),
    batch(
        "SetHoldOnMailboxes",
        I::Converges,
        S::ChangesMeaning,
        &[types("Mailboxes", &["String"])],
    )
    .shape(H::Itself, P::No)
    .bare(),
    own("SetImGroup", I::Converges),
    own("SetImListMigrationCompleted", I::Converges),
    own("SetOMEConfiguration", I::Converges).bare(),
    own("SetTeamMailbox", I::Converges).bare(),
    own("SetUserOofSettings", I::Converges)
        .shape(H::SingleMessage, P::NotApplicable)
        .request("SetUserOofSettingsRequest")
        .entry(Element::Is("ResponseMessage")),
    one("SetUserPhoto", I::Converges)
        .bare()
        .entry(Element::Unknown),
    own("StartSearchSession", I::Converges).bare(),
    one("Subscribe", I::No),
    one("SyncFolderHierarchy", I::Read),
    one("SyncFolderItems", I::Read),
    own("UninstallApp", I::Converges),
    own("UnpinTeamMailbox", I::Converges).bare(),
    one("Unsubscribe", I::Converges),
    batch(
        "UpdateDelegate",
        I::Converges,
        S::SafeSequential,
        &[types("DelegateUsers", DELEGATE_USER)],
    )
    .shape(H::ItselfAndEntries, P::OwnShape)
    .entry(Element::Is("DelegateUserResponseMessageType")),
    batch(
        "UpdateFolder",
        I::Converges,
        S::SafeSequential,
        &[types("FolderChanges", &["FolderChange"])],
    ),
    batch(
        "UpdateInboxRules",
        I::No,
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
        I::Converges,
        S::SafeSequential,
        &[types("ItemChanges", &["ItemChange"])],
    ),
    one("UpdateItemInRecoverableItems", I::No),
    own("UpdateMeetingInstance", I::Converges)
        .bare()
        .request("UpdateMeetingInstanceRequest"),
    own("UpdateMeetingSpace", I::Converges)
        .bare()
        .response(Element::Is("UpdateMeetingSpaceResponseMessage")),
    one("UpdateUserConfiguration", I::Converges),
    batch(
        "UploadItems",
        I::Depends,
        S::SafeSequential,
        &[types("Items", &["Item"])],
    ),
];
