//! A request for each operation that can be cut by its members.

use tower_ews::soap::Operation;

use super::{GUID, Style};

/// How a request of an operation is made, with `m:` and `t:` as prefixes; `#` in a member is its token, `%` is it as a GUID. Members
/// without tags are words of one text.
#[derive(Debug)]
pub struct Case {
    pub operation: &'static str,
    /// Up to the first container.
    pub open: &'static str,
    /// Containers, and kinds of members that take turns in them.
    pub arrays: &'static [(&'static str, &'static [&'static str])],
    /// Behind the last container.
    pub close: &'static str,
    /// Whether the response has lists for all members together.
    pub lists: bool,
}

const ITEM: &[&str] = &["<t:ItemId Id='#' ChangeKey='CQ'/>"];
const ITEMS: &[&str] = &[
    ITEM[0],
    "<t:OccurrenceItemId RecurringMasterId=\"#\" InstanceIndex='1'></t:OccurrenceItemId>",
    "<t:RecurringMasterItemId OccurrenceId='#'/>",
];
const FOLDERS: &[&str] = &[
    "<t:FolderId Id='#'/>",
    "<t:DistinguishedFolderId Id='inbox'><t:Mailbox><t:EmailAddress>#@contoso.com</t:EmailAddress></t:Mailbox></t:DistinguishedFolderId>",
];

const fn case(
    operation: &'static str,
    open: &'static str,
    arrays: &'static [(&'static str, &'static [&'static str])],
    close: &'static str,
) -> Case {
    Case {
        operation,
        open,
        arrays,
        close,
        lists: false,
    }
}

impl Case {
    const fn lists(self) -> Case {
        Case {
            lists: true,
            ..self
        }
    }

    /// A request with `members` members, numbered from `first` on; each array has about the same number.
    pub fn request(&self, style: Style, members: usize) -> String {
        self.request_of(style, members, |number, member| {
            let space = match self.has_words() {
                true => [" ", "\n   ", "\t", "\r\n"],
                false => ["", "\n   ", " <!-- <t:ItemId/> between -->\t", "<?p ?>"],
            };
            format!("{}{member}", space[number % 4])
        })
    }

    fn has_words(&self) -> bool {
        let kinds = self.arrays.iter().flat_map(|(_, kinds)| *kinds);
        kinds.into_iter().any(|kind| !kind.starts_with('<'))
    }

    /// Whether a text of this operation is one that this `messages.xsd` should know.
    pub fn is_in_schema(&self, messages: &str, request: bool, text: &str) -> bool {
        let operation = Operation::by_name(self.operation).unwrap();
        let element = match request {
            true => operation.request_element().into(),
            false => operation.response_element().unwrap(),
        };
        if !messages.contains(&format!("<xs:element name=\"{element}\"")) {
            return false;
        }
        // Of its list, none has elements in it, and older ones have nothing; nor have they apps.
        let has = |name: &str| text.contains(name);
        let older = !messages.contains("name=\"ExtensionIds\"");
        self.operation != "GetAppManifests"
            || !(has(":String>") || older && (has("ExtensionIds>") || has("Apps>")))
    }

    /// As [`Case::request`]; `write` has the last word about each member.
    pub fn request_of(
        &self,
        style: Style,
        members: usize,
        mut write: impl FnMut(usize, String) -> String,
    ) -> String {
        let mut text = self.open.to_owned();
        let each = members.div_ceil(self.arrays.len());
        let mut number = 0;
        for (container, kinds) in self.arrays {
            text.push_str(&format!("<m:{container}>"));
            for _ in 0..each.min(members - number) {
                let token = format!("tok-{number:04}");
                let guid = format!("{GUID}{number:04}");
                let member = kinds[number % kinds.len()].replace('#', &token);
                let member = member.replace('%', &guid);
                text.push_str(&write(number, member));
                number += 1;
            }
            text.push_str(&format!("\n</m:{container}>"));
        }
        text.push_str(self.close);
        style.request(&text)
    }
}

pub const CASES: &[Case] = &[
    case("GetServerTimeZones", "<m:GetServerTimeZones ReturnFullTimeZoneData='true'>", &[("Ids", &["<t:Id>#</t:Id>"])], "</m:GetServerTimeZones>").lists(),
    case(
        "FindFolder",
        "<m:FindFolder Traversal='Shallow'><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape>",
        &[("ParentFolderIds", FOLDERS)],
        "</m:FindFolder>",
    ),
    case(
        "FindItem",
        "<m:FindItem Traversal='Shallow'><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape>\
         <m:IndexedPageItemView MaxEntriesReturned='5' Offset='0' BasePoint='Beginning'/>",
        &[("ParentFolderIds", FOLDERS)],
        "<m:QueryString>a</m:QueryString></m:FindItem>",
    ),
    case(
        "GetFolder",
        "<m:GetFolder><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape>",
        &[("FolderIds", FOLDERS)],
        "</m:GetFolder>",
    ),
    case(
        "UploadItems",
        "<m:UploadItems>",
        &[(
            "Items",
            &[
                "<t:Item CreateAction='UpdateOrCreate'><t:ParentFolderId Id='f'/><t:ItemId Id='#'/><t:Data>QUJD</t:Data></t:Item>",
                "<t:Item CreateAction=\"Update\"><t:ParentFolderId Id='f'></t:ParentFolderId><t:ItemId Id='#'/><t:Data>QUJD</t:Data></t:Item>",
            ],
        )],
        "</m:UploadItems>",
    ),
    case("ExportItems", "<m:ExportItems>", &[("ItemIds", ITEM)], "</m:ExportItems>"),
    case(
        "ConvertId",
        "<m:ConvertId DestinationFormat='HexEntryId'>",
        &[(
            "SourceIds",
            &[
                "<t:AlternateId Format='EwsId' Id='#' Mailbox='a@contoso.com'/>",
                "<t:AlternatePublicFolderId Format='EwsId' FolderId='#'/>",
            ],
        )],
        "</m:ConvertId>",
    ),
    case(
        "CreateFolder",
        "<m:CreateFolder><m:ParentFolderId><t:DistinguishedFolderId Id='inbox'/></m:ParentFolderId>",
        &[(
            "Folders",
            &["<t:Folder><t:DisplayName>#</t:DisplayName></t:Folder>", "<t:TasksFolder><t:DisplayName>#</t:DisplayName></t:TasksFolder>"],
        )],
        "</m:CreateFolder>",
    ),
    case("DeleteFolder", "<m:DeleteFolder DeleteType='HardDelete'>", &[("FolderIds", FOLDERS)], "</m:DeleteFolder>"),
    case(
        "EmptyFolder",
        "<m:EmptyFolder DeleteType='SoftDelete' DeleteSubFolders='false'>",
        &[("FolderIds", FOLDERS)],
        "</m:EmptyFolder>",
    ),
    case(
        "UpdateFolder",
        "<m:UpdateFolder>",
        &[(
            "FolderChanges",
            &[
                "<t:FolderChange><t:FolderId Id='#' ChangeKey='CQ'/><t:Updates><t:SetFolderField><t:FieldURI FieldURI='folder:DisplayName'/>\
                 <t:Folder><t:DisplayName>a</t:DisplayName></t:Folder></t:SetFolderField></t:Updates></t:FolderChange>",
            ],
        )],
        "</m:UpdateFolder>",
    ),
    case(
        "MoveFolder",
        "<m:MoveFolder><m:ToFolderId><t:DistinguishedFolderId Id='inbox'/></m:ToFolderId>",
        &[("FolderIds", FOLDERS)],
        "</m:MoveFolder>",
    ),
    case(
        "CopyFolder",
        "<m:CopyFolder><m:ToFolderId><t:DistinguishedFolderId Id='inbox'/></m:ToFolderId>",
        &[("FolderIds", FOLDERS)],
        "</m:CopyFolder>",
    ),
    case(
        "CreateManagedFolder",
        "<m:CreateManagedFolder>",
        &[("FolderNames", &["<t:FolderName>#</t:FolderName>"])],
        "<m:Mailbox><t:EmailAddress>a@contoso.com</t:EmailAddress></m:Mailbox></m:CreateManagedFolder>",
    ),
    case(
        "GetItem",
        "<m:GetItem><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape>",
        &[("ItemIds", ITEMS)],
        "</m:GetItem>",
    ),
    case(
        "CreateItem",
        "<m:CreateItem MessageDisposition='SaveOnly' SendMeetingInvitations='SendToNone'>\
         <m:SavedItemFolderId><t:DistinguishedFolderId Id='calendar'/></m:SavedItemFolderId>",
        &[(
            "Items",
            &[
                "<t:Message><t:Subject>#</t:Subject><t:Body BodyType='HTML'><![CDATA[</t:Message><m:Items>]]></t:Body></t:Message>",
                "<t:CalendarItem><t:Subject>#</t:Subject></t:CalendarItem>",
                "<t:Task><t:Subject># &lt;&amp;</t:Subject></t:Task>",
            ],
        )],
        "</m:CreateItem>",
    ),
    case("DeleteItem", "<m:DeleteItem DeleteType='HardDelete'>", &[("ItemIds", ITEM)], "</m:DeleteItem>"),
    // Its members name recurring series, so that its parts stay in order.
    case("DeleteItem", "<m:DeleteItem DeleteType='HardDelete'>", &[("ItemIds", ITEMS)], "</m:DeleteItem>"),
    case(
        "UpdateItem",
        "<m:UpdateItem ConflictResolution='AlwaysOverwrite' MessageDisposition='SaveOnly'>",
        &[(
            "ItemChanges",
            &[
                "<t:ItemChange><t:ItemId Id='#' ChangeKey=\"CQ\"/><t:Updates><t:SetItemField><t:FieldURI FieldURI='item:Subject'/>\
                 <t:Message><t:Subject>a</t:Subject></t:Message></t:SetItemField></t:Updates></t:ItemChange>",
                "<t:ItemChange><t:OccurrenceItemId RecurringMasterId='#' InstanceIndex='2'/><t:Updates><t:DeleteItemField>\
                 <t:FieldURI FieldURI='item:Subject'/></t:DeleteItemField></t:Updates></t:ItemChange>",
            ],
        )],
        "</m:UpdateItem>",
    ),
    case(
        "SendItem",
        "<m:SendItem SaveItemToFolder='true'>",
        &[("ItemIds", ITEM)],
        "<m:SavedItemFolderId><t:DistinguishedFolderId Id='sentitems'/></m:SavedItemFolderId></m:SendItem>",
    ),
    case(
        "MoveItem",
        "<m:MoveItem><m:ToFolderId><t:DistinguishedFolderId Id='inbox'/></m:ToFolderId>",
        &[("ItemIds", ITEMS)],
        "<m:ReturnNewItemIds>true</m:ReturnNewItemIds></m:MoveItem>",
    ),
    case(
        "CopyItem",
        "<m:CopyItem><m:ToFolderId><t:DistinguishedFolderId Id='inbox'/></m:ToFolderId>",
        &[("ItemIds", ITEMS)],
        "</m:CopyItem>",
    ),
    case(
        "ArchiveItem",
        "<m:ArchiveItem><m:ArchiveSourceFolderId><t:DistinguishedFolderId Id='inbox'/></m:ArchiveSourceFolderId>",
        &[("ItemIds", ITEMS)],
        "</m:ArchiveItem>",
    ),
    case(
        "CreateAttachment",
        "<m:CreateAttachment><m:ParentItemId Id='parent' ChangeKey='first'/>",
        &[(
            "Attachments",
            &[
                "<t:FileAttachment><t:Name>#</t:Name><t:Content>QUJD</t:Content></t:FileAttachment>",
                "<t:ItemAttachment><t:Name>#</t:Name><t:Message><t:Subject>a</t:Subject></t:Message></t:ItemAttachment>",
            ],
        )],
        "</m:CreateAttachment>",
    ),
    case(
        "DeleteAttachment",
        "<m:DeleteAttachment>",
        &[("AttachmentIds", &["<t:AttachmentId Id='#'/>"])],
        "</m:DeleteAttachment>",
    ),
    case(
        "GetAttachment",
        "<m:GetAttachment><m:AttachmentShape><t:IncludeMimeContent>false</t:IncludeMimeContent></m:AttachmentShape>",
        &[("AttachmentIds", &["<t:AttachmentId Id='#'/>"])],
        "</m:GetAttachment>",
    ),
    case(
        "GetClientAccessToken",
        "<m:GetClientAccessToken>",
        &[("TokenRequests", &["<t:TokenRequest><t:Id>#</t:Id><t:TokenType>CallerIdentity</t:TokenType></t:TokenRequest>"])],
        "</m:GetClientAccessToken>",
    ),
    case(
        "GetDelegate",
        "<m:GetDelegate IncludePermissions='true'><m:Mailbox><t:EmailAddress>a@contoso.com</t:EmailAddress></m:Mailbox>",
        &[("UserIds", &["<t:UserId><t:PrimarySmtpAddress>#@contoso.com</t:PrimarySmtpAddress></t:UserId>"])],
        "</m:GetDelegate>",
    ),
    case(
        "AddDelegate",
        "<m:AddDelegate><m:Mailbox><t:EmailAddress>a@contoso.com</t:EmailAddress></m:Mailbox>",
        &[(
            "DelegateUsers",
            &["<t:DelegateUser><t:UserId><t:PrimarySmtpAddress>#@contoso.com</t:PrimarySmtpAddress></t:UserId></t:DelegateUser>"],
        )],
        "<m:DeliverMeetingRequests>DelegatesOnly</m:DeliverMeetingRequests></m:AddDelegate>",
    ),
    case(
        "RemoveDelegate",
        "<m:RemoveDelegate><m:Mailbox><t:EmailAddress>a@contoso.com</t:EmailAddress></m:Mailbox>",
        &[("UserIds", &["<t:UserId><t:PrimarySmtpAddress>#@contoso.com</t:PrimarySmtpAddress></t:UserId>"])],
        "</m:RemoveDelegate>",
    ),
    case(
        "UpdateDelegate",
        "<m:UpdateDelegate><m:Mailbox><t:EmailAddress>a@contoso.com</t:EmailAddress></m:Mailbox>",
        &[(
            "DelegateUsers",
            &["<t:DelegateUser><t:UserId><t:PrimarySmtpAddress>#@contoso.com</t:PrimarySmtpAddress></t:UserId></t:DelegateUser>"],
        )],
        "<m:DeliverMeetingRequests>NoForward</m:DeliverMeetingRequests></m:UpdateDelegate>",
    ),
    case(
        "GetUserAvailability",
        "<m:GetUserAvailabilityRequest>",
        &[(
            "MailboxDataArray",
            &["<t:MailboxData><t:Email><t:Address>#@contoso.com</t:Address></t:Email><t:AttendeeType>Required</t:AttendeeType></t:MailboxData>"],
        )],
        "<t:FreeBusyViewOptions><t:TimeWindow><t:StartTime>2026-02-01T00:00:00</t:StartTime><t:EndTime>2026-02-02T00:00:00</t:EndTime>\
         </t:TimeWindow></t:FreeBusyViewOptions></m:GetUserAvailabilityRequest>",
    ),
    case(
        "GetMailTips",
        "<m:GetMailTips><m:SendingAs><t:EmailAddress>a@contoso.com</t:EmailAddress></m:SendingAs>",
        &[("Recipients", &["<t:Mailbox><t:Name>#</t:Name><t:EmailAddress>#@contoso.com</t:EmailAddress></t:Mailbox>"])],
        "<m:MailTipsRequested>All</m:MailTipsRequested></m:GetMailTips>",
    ),
    case(
        "GetSharingMetadata",
        "<m:GetSharingMetadata><m:IdOfFolderToShare Id='f'/><m:SenderSmtpAddress>a@contoso.com</m:SenderSmtpAddress>",
        &[("Recipients", &["<t:SmtpAddress>#@contoso.com</t:SmtpAddress>"])],
        "</m:GetSharingMetadata>",
    )
    .lists(),
    case(
        "ApplyConversationAction",
        "<m:ApplyConversationAction>",
        &[(
            "ConversationActions",
            &[
                "<t:ConversationAction><t:Action>Delete</t:Action><t:ConversationId Id='#'/></t:ConversationAction>",
                "<t:ConversationAction><t:Action>Move</t:Action><t:ConversationId Id='#'/></t:ConversationAction>",
            ],
        )],
        "</m:ApplyConversationAction>",
    ),
    case(
        "GetConversationItems",
        "<m:GetConversationItems><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape>\
         <m:FoldersToIgnore><t:DistinguishedFolderId Id='drafts'/></m:FoldersToIgnore>",
        &[("Conversations", &["<t:Conversation><t:ConversationId Id='#'/></t:Conversation>"])],
        "</m:GetConversationItems>",
    ),
    case(
        "GetNonIndexableItemStatistics",
        "<m:GetNonIndexableItemStatistics>",
        &[("Mailboxes", &["<t:LegacyDN>/o=x/cn=#</t:LegacyDN>"])],
        "<m:SearchArchiveOnly>false</m:SearchArchiveOnly></m:GetNonIndexableItemStatistics>",
    )
    .lists(),
    case(
        "MarkAllItemsAsRead",
        "<m:MarkAllItemsAsRead><m:ReadFlag>true</m:ReadFlag><m:SuppressReadReceipts>true</m:SuppressReadReceipts>",
        &[("FolderIds", FOLDERS)],
        "</m:MarkAllItemsAsRead>",
    ),
    case("MarkAsJunk", "<m:MarkAsJunk IsJunk='true' MoveItem='true'>", &[("ItemIds", ITEMS)], "</m:MarkAsJunk>"),
    case("ReportMessage", "<m:ReportMessage ReportAction='Junk'>", &[("ItemIds", ITEMS)], "</m:ReportMessage>"),
    case("GetImItems", "<m:GetImItems>", &[("ContactIds", ITEMS), ("GroupIds", ITEMS)], "</m:GetImItems>").lists(),
    case(
        "PerformReminderAction",
        "<m:PerformReminderAction>",
        &[(
            "ReminderItemActions",
            &["<t:ReminderItemAction><t:ActionType>Dismiss</t:ActionType><t:ItemId Id='#'/></t:ReminderItemAction>"],
        )],
        "</m:PerformReminderAction>",
    )
    .lists(),
    case(
        "GetAppManifests",
        "<m:GetAppManifests><m:ApiVersionSupported>1.1</m:ApiVersionSupported><m:SchemaVersionSupported>1.1</m:SchemaVersionSupported>\
         <m:IncludeAllInstalledAddIns> false </m:IncludeAllInstalledAddIns><m:IncludeManifestData>true</m:IncludeManifestData>\
         <m:IncludeCustomAppsData>1</m:IncludeCustomAppsData>",
        &[("ExtensionIds", &["%"])],
        "<m:AddIns>\n</m:AddIns></m:GetAppManifests>",
    )
    .lists(),
    case(
        "GetAppManifests",
        "<m:GetAppManifests><m:IncludeAllInstalledAddIns>0</m:IncludeAllInstalledAddIns>",
        &[("ExtensionIds", &["%"])],
        "<m:AddIns/></m:GetAppManifests>",
    )
    .lists(),
    case(
        "GetAppManifests",
        "<m:GetAppManifests>",
        &[("ExtensionIds", &["<t:String>%</t:String>", "<t:String> # </t:String>"])],
        "</m:GetAppManifests>",
    )
    .lists(),
    case(
        "SetClientExtension",
        "<m:SetClientExtension>",
        &[("Actions", &["<t:Action ActionId='Uninstall' ExtensionId='#'/>"])],
        "</m:SetClientExtension>",
    ),
];

/// The request of an operation.
pub fn case_of(operation: &str) -> &'static Case {
    CASES
        .iter()
        .find(|case| case.operation == operation)
        .unwrap()
}
