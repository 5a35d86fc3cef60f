//! What replaces each EWS operation in Microsoft Graph.
//!
//! From Microsoft's own list of mappings ("Exchange Web Services (EWS) to Microsoft Graph API mappings") where it names the
//! operation, else from the reference of Graph. A row that neither states is marked as uncertain: check it before you plan on it.

/// How well Graph does what the operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Coverage {
    /// A call of Graph v1.0 does it.
    Direct,
    /// Another way of doing it, or some of it.
    Partly,
    /// Only where Microsoft promises nothing yet: Graph beta, or a preview beside Graph.
    Preview,
    /// Nothing does it.
    Missing,
}

impl Coverage {
    pub(crate) const ALL: [Coverage; 4] =
        [Self::Direct, Self::Partly, Self::Preview, Self::Missing];

    /// As the report names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "Graph v1.0",
            Self::Partly => "in part",
            Self::Preview => "preview only",
            Self::Missing => "no equivalent",
        }
    }
}

/// One operation's way to Graph.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replacement {
    pub(crate) operation: &'static str,
    pub(crate) coverage: Coverage,
    /// Neither Microsoft's list nor its reference says so.
    pub(crate) uncertain: bool,
    /// The call; empty if there is none.
    pub(crate) call: &'static str,
    /// What is different.
    pub(crate) note: &'static str,
}

/// The row of this operation.
pub(crate) fn replacement(operation: &str) -> Option<&'static Replacement> {
    REPLACEMENTS.iter().find(|row| row.operation == operation)
}

const fn row(
    operation: &'static str,
    coverage: Coverage,
    call: &'static str,
    note: &'static str,
) -> Replacement {
    Replacement {
        operation,
        coverage,
        uncertain: false,
        call,
        note,
    }
}

const fn unsure(
    operation: &'static str,
    coverage: Coverage,
    call: &'static str,
    note: &'static str,
) -> Replacement {
    Replacement {
        uncertain: true,
        ..row(operation, coverage, call, note)
    }
}

const IM_LIST: &str = "The unified contact store of Skype for Business has no successor";
const MEETING_SPACE: &str = "Undocumented in EWS; online meetings are the nearest thing";
const SEARCH_SESSION: &str = "Undocumented in EWS; Graph's search has no sessions";
const CATALOG: &str = "Add-ins are deployed in the Microsoft 365 admin center";
const EDISCOVERY: &str = "Purview eDiscovery: cases instead of single calls";
const SHARING: &str = "Share through calendarPermissions instead of a sharing folder";
const OVERRIDES: &str = "Focused Inbox, by sender";
const MEETING_TIMES: &str = "Suggestions come with a confidence and a reason";

/// One row for each operation that the crate knows, by name.
#[rustfmt::skip]
pub(crate) const REPLACEMENTS: &[Replacement] = {
    use Coverage::{Direct, Missing, Partly, Preview};
    &[
        unsure("AddDelegate", Partly, "POST /users/{id}/calendar/calendarPermissions", "Calendar only; other folders and Send on Behalf: Exchange Online Admin API (preview)"),
        unsure("AddDistributionGroupToImList", Missing, "", IM_LIST),
        unsure("AddEntityFeedback", Missing, "", "Undocumented telemetry"),
        unsure("AddImContactToGroup", Missing, "", IM_LIST),
        unsure("AddImGroup", Missing, "", IM_LIST),
        unsure("AddNewImContactToGroup", Missing, "", IM_LIST),
        unsure("AddNewTelUriContactToGroup", Missing, "", IM_LIST),
        unsure("AddTag", Missing, "", "Undocumented in EWS"),
        unsure("ApplyConversationAction", Partly, "PATCH, POST …/move or DELETE on each message of the conversation", "No action on a whole conversation; what is to hold for later mail: messageRules"),
        unsure("ArchiveItem", Partly, "POST /users/{id}/messages/{id}/move (destinationId: archive)", "Moves to the Archive folder; the archive mailbox itself is reached in beta only"),
        row("ConvertId", Direct, "POST /users/{id}/translateExchangeIds", "Up to 1,000 ids a call"),
        row("CopyFolder", Direct, "POST /users/{id}/mailFolders/{id}/copy", "Mail folders only"),
        row("CopyItem", Direct, "POST /users/{id}/messages/{id}/copy", "Messages only; one each: put 20 in a $batch"),
        row("CreateAttachment", Direct, "POST …/messages/{id}/attachments or …/events/{id}/attachments", "From 3 MB on: createUploadSession"),
        row("CreateFolder", Direct, "POST /users/{id}/mailFolders (also /calendars, /contactFolders)", "A call for each kind of folder"),
        row("CreateFolderPath", Partly, "POST /users/{id}/mailFolders/{id}/childFolders", "One call for each level of the path"),
        row("CreateItem", Direct, "POST /users/{id}/messages, /sendMail, /events, /contacts, /todo/lists/{id}/tasks", "A call for each kind of item; one each: put 20 in a $batch"),
        unsure("CreateManagedFolder", Missing, "", "Retired with messaging records management 1.0"),
        unsure("CreateMeetingInstance", Partly, "POST /users/{id}/onlineMeetings", MEETING_SPACE),
        unsure("CreateMeetingSpace", Partly, "POST /users/{id}/onlineMeetings", MEETING_SPACE),
        row("CreateOrUpdateFocusedOtherOverride", Direct, "POST /users/{id}/inferenceClassification/overrides", OVERRIDES),
        row("CreateUserConfiguration", Preview, "POST /beta/users/{id}/mailFolders/{id}/userConfigurations", "Or an open extension in v1.0, if only your own code reads it"),
        row("DeleteAttachment", Direct, "DELETE …/messages/{id}/attachments/{id}", ""),
        row("DeleteFocusedOtherOverride", Direct, "DELETE /users/{id}/inferenceClassification/overrides/{id}", OVERRIDES),
        row("DeleteFolder", Direct, "DELETE /users/{id}/mailFolders/{id}", "To Deleted Items; for good: permanentDelete"),
        row("DeleteItem", Direct, "DELETE /users/{id}/messages/{id} (events, contacts, tasks alike)", "To Deleted Items or Recoverable Items; for good: permanentDelete; a meeting: cancel"),
        unsure("DeleteMeetingInstance", Partly, "DELETE /users/{id}/onlineMeetings/{id}", MEETING_SPACE),
        unsure("DeleteMeetingSpace", Partly, "DELETE /users/{id}/onlineMeetings/{id}", MEETING_SPACE),
        unsure("DeleteSearchSuggestion", Missing, "", SEARCH_SESSION),
        row("DeleteUserConfiguration", Preview, "DELETE /beta/users/{id}/mailFolders/{id}/userConfigurations/{id}", ""),
        unsure("DisableApp", Missing, "", CATALOG),
        unsure("DisconnectPhoneCall", Missing, "", "Retired with Unified Messaging"),
        unsure("EmptyFolder", Partly, "DELETE on each message, 20 in a $batch", "No call empties a folder"),
        unsure("EndInstantSearchSession", Missing, "", SEARCH_SESSION),
        unsure("EndSearchSession", Missing, "", SEARCH_SESSION),
        unsure("ExecuteDiagnosticMethod", Missing, "", "Microsoft's own diagnostics"),
        unsure("ExecuteSearch", Partly, "POST /search/query", SEARCH_SESSION),
        unsure("ExpandDL", Direct, "GET /groups/{id}/members (all levels: transitiveMembers)", "Dynamic distribution groups: Exchange Online Admin API (preview)"),
        row("ExportItems", Direct, "POST /admin/exchange/mailboxes/{id}/exportItems", "Up to 20 items a call; not for backups, says Microsoft"),
        row("FindAvailableMeetingTimes", Direct, "POST /users/{id}/findMeetingTimes", MEETING_TIMES),
        unsure("FindConversation", Partly, "GET /users/{id}/messages?$filter=conversationId eq '…'", "Conversations are not listed: group the messages by conversationId"),
        row("FindFolder", Direct, "GET /users/{id}/mailFolders (also /calendars, /contactFolders)", "Children: childFolders; all levels: delta; no public folders"),
        row("FindItem", Direct, "GET /users/{id}/messages (also /calendarView, /events, /contacts) with $filter, $search, $select", "Pages by @odata.nextLink; no public folders"),
        unsure("FindMailboxStatisticsByKeywords", Partly, "POST /security/cases/ediscoveryCases/{id}/searches/{id}/estimateStatistics", EDISCOVERY),
        unsure("FindMeetingSpaceByJoinUrl", Partly, "GET /users/{id}/onlineMeetings?$filter=JoinWebUrl eq '…'", MEETING_SPACE),
        unsure("FindMeetingTimeCandidates", Direct, "POST /users/{id}/findMeetingTimes", MEETING_TIMES),
        unsure("FindMessageTrackingReport", Preview, "GET /beta/admin/exchange/tracing/messageTraces", "Message trace, for administrators"),
        unsure("FindPeople", Partly, "GET /users/{id}/people, /users?$search=…, /users/{id}/contacts", "No address lists; a person's own contacts and the directory are two calls"),
        unsure("FindTags", Missing, "", "Undocumented in EWS"),
        unsure("GetAppManifests", Missing, "", CATALOG),
        unsure("GetAppMarketplaceUrl", Missing, "", CATALOG),
        row("GetAttachment", Direct, "GET …/messages/{id}/attachments/{id}/$value", ""),
        unsure("GetClientAccessToken", Missing, "", "Microsoft Entra ID gives out tokens; nested app authentication for add-ins"),
        unsure("GetClientExtension", Missing, "", CATALOG),
        unsure("GetConversationItems", Partly, "GET /users/{id}/messages?$filter=conversationId eq '…'", "No tree of replies: build it from the headers"),
        unsure("GetDelegate", Partly, "GET /users/{id}/calendar/calendarPermissions", "Calendar only; who gets meeting requests: mailboxSettings; other folders: Exchange Online Admin API (preview)"),
        unsure("GetDiscoverySearchConfiguration", Partly, "GET /security/cases/ediscoveryCases/{id}/searches", EDISCOVERY),
        row("GetEvents", Partly, "GET /users/{id}/mailFolders/{id}/messages/delta", "No pull subscriptions: ask for the delta, or subscribe to change notifications"),
        row("GetFocusedOtherOverrides", Direct, "GET /users/{id}/inferenceClassification/overrides", OVERRIDES),
        row("GetFolder", Direct, "GET /users/{id}/mailFolders/{id or well-known name}", ""),
        unsure("GetHoldOnMailboxes", Partly, "GET /security/cases/ediscoveryCases/{id}/legalHolds", EDISCOVERY),
        unsure("GetImItemList", Missing, "", IM_LIST),
        unsure("GetImItems", Missing, "", IM_LIST),
        row("GetInboxRules", Direct, "GET /users/{id}/mailFolders/inbox/messageRules", ""),
        row("GetItem", Direct, "GET /users/{id}/messages/{id} (MIME: …/$value; events, contacts alike)", "MAPI properties: $expand=singleValueExtendedProperties"),
        unsure("GetLastPrivateCatalogUpdate", Missing, "", CATALOG),
        row("GetMailTips", Direct, "POST /users/{id}/getMailTips", ""),
        unsure("GetMeetingInstance", Partly, "GET /users/{id}/onlineMeetings/{id}", MEETING_SPACE),
        unsure("GetMeetingSpace", Partly, "GET /users/{id}/onlineMeetings/{id}", MEETING_SPACE),
        unsure("GetMessageTrackingReport", Preview, "GET /beta/admin/exchange/tracing/messageTraces/{id}/getDetailsByRecipient(…)", "Message trace, for administrators"),
        unsure("GetNonIndexableItemDetails", Missing, "", EDISCOVERY),
        unsure("GetNonIndexableItemStatistics", Partly, "POST /security/cases/ediscoveryCases/{id}/searches/{id}/estimateStatistics", EDISCOVERY),
        unsure("GetOMEConfiguration", Missing, "", "Exchange Online PowerShell: Get-OMEConfiguration"),
        row("GetPasswordExpirationDate", Partly, "GET /users/{id}?$select=lastPasswordChangeDateTime,passwordPolicies", "Add the domain's passwordValidityPeriodInDays yourself"),
        unsure("GetPersona", Partly, "GET /users/{id}/people/{id} or /contacts/{id}", "No merged personas"),
        unsure("GetPhoneCallInformation", Missing, "", "Retired with Unified Messaging"),
        unsure("GetPrivateCatalogAddIns", Missing, "", CATALOG),
        row("GetReminders", Direct, "GET /users/{id}/reminderView(startDateTime='…',endDateTime='…')", "Events only, no tasks"),
        row("GetRoomLists", Direct, "GET /places/microsoft.graph.roomlist", ""),
        row("GetRooms", Direct, "GET /places/{room list}/microsoft.graph.roomlist/rooms", ""),
        unsure("GetSearchSuggestions", Missing, "", SEARCH_SESSION),
        unsure("GetSearchableMailboxes", Partly, "GET /users with eDiscovery's custodians and sources", EDISCOVERY),
        row("GetServerTimeZones", Direct, "GET /users/{id}/outlook/supportedTimeZones", "Names, without their rules"),
        unsure("GetServiceConfiguration", Partly, "POST /users/{id}/getMailTips; protection rules: none", "Limits and MailTips settings: Exchange Online Admin API (preview)"),
        unsure("GetSharingFolder", Partly, "GET /users/{id}/calendars", SHARING),
        unsure("GetSharingMetadata", Missing, "", SHARING),
        unsure("GetSpecificUserConfiguration", Preview, "GET /beta/users/{id}/mailFolders/{id}/userConfigurations/{id}", ""),
        row("GetStreamingEvents", Partly, "POST /subscriptions (webhook, Event Hubs or Event Grid)", "Nothing streams: give a URL that Graph can reach, renew within 7 days"),
        row("GetUserAvailability", Direct, "POST /users/{id}/calendar/getSchedule", "Suggested times: findMeetingTimes"),
        row("GetUserConfiguration", Preview, "GET /beta/users/{id}/mailFolders/{id}/userConfigurations/{id}", "Categories in v1.0: outlook/masterCategories"),
        row("GetUserOofSettings", Direct, "GET /users/{id}/mailboxSettings/automaticRepliesSetting", ""),
        row("GetUserPhoto", Direct, "GET /users/{id}/photo/$value", ""),
        unsure("GetUserRetentionPolicyTags", Missing, "", "Purview's retention labels are not personal tags; Exchange Online PowerShell"),
        unsure("HideTag", Missing, "", "Undocumented in EWS"),
        unsure("InstallApp", Missing, "", CATALOG),
        unsure("MarkAllItemsAsRead", Partly, "PATCH isRead on each message, 20 in a $batch", "No call for a whole folder"),
        unsure("MarkAsJunk", Preview, "POST /beta/users/{id}/messages/{id}/markAsJunk", "v1.0: move to junkemail, which blocks no sender"),
        row("MoveFolder", Direct, "POST /users/{id}/mailFolders/{id}/move", "Within the mailbox, mail folders only"),
        row("MoveItem", Direct, "POST /users/{id}/messages/{id}/move", "Within the mailbox; contacts and events do not move"),
        unsure("PerformInstantSearch", Partly, "GET /users/{id}/messages?$search=…", SEARCH_SESSION),
        row("PerformReminderAction", Direct, "POST /users/{id}/events/{id}/dismissReminder or /snoozeReminder", ""),
        unsure("PlayOnPhone", Missing, "", "Retired with Unified Messaging"),
        unsure("RefreshSharingFolder", Missing, "", SHARING),
        unsure("RegisterConsent", Missing, "", CATALOG),
        unsure("RemoveContactFromImList", Missing, "", IM_LIST),
        unsure("RemoveDelegate", Partly, "DELETE /users/{id}/calendar/calendarPermissions/{id}", "Calendar only; other folders and Send on Behalf: Exchange Online Admin API (preview)"),
        unsure("RemoveDistributionGroupFromImList", Missing, "", IM_LIST),
        unsure("RemoveImContactFromGroup", Missing, "", IM_LIST),
        unsure("RemoveImGroup", Missing, "", IM_LIST),
        unsure("ReportMessage", Preview, "POST /beta/security/threatSubmission/emailThreats", "Or the beta call reportMessage"),
        row("ResolveNames", Partly, "GET /users/{id}/people?$search=… or /users?$filter=startswith(…)", "By relevance instead of a unique resolution; contacts are another call"),
        unsure("SearchMailboxes", Partly, "POST /security/cases/ediscoveryCases/{id}/searches", EDISCOVERY),
        row("SendItem", Direct, "POST /users/{id}/messages/{id}/send or /users/{id}/sendMail", ""),
        row("SendNotification", Partly, "Change notifications to your URL (POST /subscriptions)", "The server's call to you; other content, and a validation handshake"),
        unsure("SetClientExtension", Missing, "", CATALOG),
        unsure("SetHoldOnMailboxes", Partly, "POST /security/cases/ediscoveryCases/{id}/legalHolds", EDISCOVERY),
        unsure("SetImGroup", Missing, "", IM_LIST),
        unsure("SetImListMigrationCompleted", Missing, "", IM_LIST),
        unsure("SetOMEConfiguration", Missing, "", "Exchange Online PowerShell: Set-OMEConfiguration"),
        unsure("SetTeamMailbox", Missing, "", "Site mailboxes are retired"),
        row("SetUserOofSettings", Direct, "PATCH /users/{id}/mailboxSettings", ""),
        row("SetUserPhoto", Direct, "PUT /users/{id}/photo/$value", ""),
        unsure("StartSearchSession", Missing, "", SEARCH_SESSION),
        row("Subscribe", Partly, "POST /subscriptions (change notifications)", "Push only, to a URL that Graph can reach; one folder or mailbox each; pull: delta"),
        row("SyncFolderHierarchy", Direct, "GET /users/{id}/mailFolders/delta", "Mail folders; calendars and contact folders: list them"),
        row("SyncFolderItems", Direct, "GET /users/{id}/mailFolders/{id}/messages/delta (also calendarView, contacts)", "Calendars within a time window only"),
        unsure("UninstallApp", Missing, "", CATALOG),
        unsure("UnpinTeamMailbox", Missing, "", "Site mailboxes are retired"),
        row("Unsubscribe", Direct, "DELETE /subscriptions/{id}", "Or let it expire"),
        unsure("UpdateDelegate", Partly, "PATCH /users/{id}/calendar/calendarPermissions/{id}", "Calendar only; other folders and Send on Behalf: Exchange Online Admin API (preview)"),
        row("UpdateFolder", Direct, "PATCH /users/{id}/mailFolders/{id}", "Name only; folder permissions: Exchange Online Admin API (preview)"),
        row("UpdateInboxRules", Direct, "POST, PATCH, DELETE /users/{id}/mailFolders/inbox/messageRules", "One rule each"),
        row("UpdateItem", Direct, "PATCH /users/{id}/messages/{id} (events, contacts, tasks alike)", "One each: put 20 in a $batch; If-Match instead of ChangeKey"),
        unsure("UpdateItemInRecoverableItems", Missing, "", "Recoverable Items can be read, not changed"),
        unsure("UpdateMeetingInstance", Partly, "PATCH /users/{id}/onlineMeetings/{id}", MEETING_SPACE),
        unsure("UpdateMeetingSpace", Partly, "PATCH /users/{id}/onlineMeetings/{id}", MEETING_SPACE),
        row("UpdateUserConfiguration", Preview, "PATCH /beta/users/{id}/mailFolders/{id}/userConfigurations/{id}", ""),
        row("UploadItems", Direct, "POST /admin/exchange/mailboxes/{id}/createImportSession, then POST to its URL", "One item each, from exportItems or as FastTransfer stream"),
    ]
};
