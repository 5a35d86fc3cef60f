//! Which mailboxes a request touches, operation by operation.
use tower_ews::soap::{Outline, Targets};

const ID_A: &str = "AAMkADg1OWUwODcyLTg4M2MtNDAyMS05YjI0LTI5ZGM5OTU4Njk3YwAuAAAA";
const GUID_A: &str = "859e0872-883c-4021-9b24-29dc9958697c";
const ID_B: &str =
    "AQMkADRiZGNhMWIxLWIwOGMtNDQAZjktODk3OS0zZWIxODJjNmI4NWYALgAAA8ZmIFRjoG9PpiagjztHaIcB";
const GUID_B: &str = "4bdca1b1-b08c-44f9-8979-3eb182c6b85f";

fn targets(inner: &str) -> Targets {
    let inner = inner.replace("ID_A", ID_A).replace("ID_B", ID_B);
    let body = format!(
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
         xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages' \
         xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types'><s:Body>{inner}</s:Body></s:Envelope>"
    );
    Outline::parse(body.as_bytes())
        .unwrap()
        .targets(body.as_bytes())
}

#[test]
fn explicit_mailboxes() {
    let folder = "<t:DistinguishedFolderId Id='inbox'><t:Mailbox><t:EmailAddress>a@x.de</t:EmailAddress>\
                  <t:RoutingType>SMTP</t:RoutingType></t:Mailbox></t:DistinguishedFolderId>";
    let cases: &[(String, &[&str])] = &[
        (format!("<m:GetFolder><m:FolderIds>{folder}</m:FolderIds></m:GetFolder>"), &["a@x.de"]),
        (format!("<m:FindItem><m:ParentFolderIds>{folder}{folder}</m:ParentFolderIds></m:FindItem>"), &["a@x.de"]),
        (
            format!(
                "<m:CreateItem><m:SavedItemFolderId>{folder}</m:SavedItemFolderId><m:Items><t:Message><t:ToRecipients><t:Mailbox>\
                 <t:EmailAddress>no@x.de</t:EmailAddress></t:Mailbox></t:ToRecipients></t:Message></m:Items></m:CreateItem>"
            ),
            &["a@x.de"],
        ),
        (
            format!("<m:Subscribe><m:PullSubscriptionRequest><t:FolderIds>{folder}</t:FolderIds></m:PullSubscriptionRequest></m:Subscribe>"),
            &["a@x.de"],
        ),
        (format!("<m:SyncFolderItems><m:SyncFolderId>{folder}</m:SyncFolderId></m:SyncFolderItems>"), &["a@x.de"]),
        (
            "<m:GetDelegate><m:Mailbox><t:EmailAddress> A@x.de </t:EmailAddress></m:Mailbox><m:UserIds><t:UserId>\
             <t:PrimarySmtpAddress>no@x.de</t:PrimarySmtpAddress></t:UserId></m:UserIds></m:GetDelegate>"
                .into(),
            &["A@x.de"],
        ),
        (
            "<m:GetUserAvailabilityRequest><m:MailboxDataArray><t:MailboxData><t:Email><t:Address>a@x.de</t:Address></t:Email>\
             </t:MailboxData><t:MailboxData><t:Email><t:Address>A@X.DE</t:Address></t:Email></t:MailboxData><t:MailboxData>\
             <t:Email><t:Address>b@x.de</t:Address></t:Email></t:MailboxData></m:MailboxDataArray></m:GetUserAvailabilityRequest>"
                .into(),
            &["a@x.de", "b@x.de"],
        ),
        (
            "<m:SetUserOofSettingsRequest><t:Mailbox><t:Address>a@x.de</t:Address></t:Mailbox></m:SetUserOofSettingsRequest>".into(),
            &["a@x.de"],
        ),
        ("<m:GetInboxRules><m:MailboxSmtpAddress>a@x.de</m:MailboxSmtpAddress></m:GetInboxRules>".into(), &["a@x.de"]),
        (
            "<m:ConvertId><m:SourceIds><t:AlternateId Mailbox='o&apos;a@x.de' Format='OwaId' Id='ID_A'/></m:SourceIds></m:ConvertId>".into(),
            &["o'a@x.de"],
        ),
        (
            "<m:GetMailTips><m:SendingAs><t:EmailAddress>a@x.de</t:EmailAddress></m:SendingAs><m:Recipients><t:Mailbox>\
             <t:EmailAddress>no@x.de</t:EmailAddress></t:Mailbox></m:Recipients></m:GetMailTips>"
                .into(),
            &["a@x.de"],
        ),
        ("<m:GetUserPhoto><m:Email>a@x.de</m:Email></m:GetUserPhoto>".into(), &["a@x.de"]),
        (
            "<m:SetHoldOnMailboxes><m:Mailboxes><t:String>a@x.de</t:String></m:Mailboxes></m:SetHoldOnMailboxes>".into(),
            &["a@x.de"],
        ),
        (
            "<m:SearchMailboxes><m:SearchQueries><t:MailboxQuery><t:MailboxSearchScopes><t:MailboxSearchScope>\
             <t:Mailbox>/o=x/cn=a</t:Mailbox></t:MailboxSearchScope></t:MailboxSearchScopes></t:MailboxQuery></m:SearchQueries>\
             </m:SearchMailboxes>"
                .into(),
            &["/o=x/cn=a"],
        ),
        // People who are only mentioned.
        ("<m:ExpandDL><m:Mailbox><t:EmailAddress>no@x.de</t:EmailAddress></m:Mailbox></m:ExpandDL>".into(), &[]),
        ("<m:ResolveNames><m:UnresolvedEntry>no@x.de</m:UnresolvedEntry></m:ResolveNames>".into(), &[]),
        ("<m:GetRooms><m:RoomList><t:EmailAddress>no@x.de</t:EmailAddress></m:RoomList></m:GetRooms>".into(), &[]),
    ];
    for (inner, expected) in cases {
        let found = targets(inner).mailboxes;
        let found: Vec<&str> = found.iter().map(|mailbox| &**mailbox).collect();
        assert_eq!(found, *expected, "{inner}");
    }
}

#[test]
fn mailboxes_inside_ids() {
    let cases: &[(&str, &[&str])] = &[
        (
            "<m:GetItem><m:ItemIds><t:ItemId Id='ID_A'/><t:ItemId Id='ID_B'/><t:ItemId Id='ID_A'/></m:ItemIds></m:GetItem>",
            &[GUID_A, GUID_B],
        ),
        (
            "<m:GetItem><m:ItemIds><t:OccurrenceItemId RecurringMasterId='ID_B'/></m:ItemIds></m:GetItem>",
            &[GUID_B],
        ),
        (
            "<m:GetItem><m:ItemIds><t:RecurringMasterItemId OccurrenceId='ID_B'/></m:ItemIds></m:GetItem>",
            &[GUID_B],
        ),
        (
            "<m:UpdateItem><m:ItemChanges><t:ItemChange><t:ItemId Id='ID_A'/><t:Updates><t:SetItemField><t:Message><t:ItemId Id='ID_B'/>\
             </t:Message></t:SetItemField></t:Updates></t:ItemChange></m:ItemChanges></m:UpdateItem>",
            &[GUID_A],
        ),
        (
            "<m:UpdateFolder><m:FolderChanges><t:FolderChange><t:FolderId Id='ID_A'/><t:Updates/></t:FolderChange></m:FolderChanges>\
             </m:UpdateFolder>",
            &[GUID_A],
        ),
        (
            "<m:UploadItems><m:Items><t:Item><t:ParentFolderId Id='ID_A'/><t:Data>eA==</t:Data></t:Item></m:Items></m:UploadItems>",
            &[GUID_A],
        ),
        (
            "<m:CreateItem><m:Items><t:ReplyToItem><t:ReferenceItemId Id='ID_A'/><t:NewBodyContent>x</t:NewBodyContent></t:ReplyToItem>\
             <t:Message><t:ItemId Id='ID_B'/></t:Message></m:Items></m:CreateItem>",
            &[GUID_A],
        ),
        (
            "<m:CreateAttachment><m:ParentItemId Id='ID_A'/><m:Attachments/></m:CreateAttachment>",
            &[GUID_A],
        ),
        (
            "<m:GetAttachment><m:AttachmentIds><t:AttachmentId Id='ID_B'/></m:AttachmentIds></m:GetAttachment>",
            &[GUID_B],
        ),
        (
            "<m:MoveItem><m:ToFolderId><t:FolderId Id='ID_B'/></m:ToFolderId><m:ItemIds><t:ItemId Id='ID_A'/></m:ItemIds></m:MoveItem>",
            &[GUID_B, GUID_A],
        ),
        (
            "<m:GetConversationItems><m:Conversations><t:Conversation><t:ConversationId Id='ID_A'/></t:Conversation></m:Conversations>\
             </m:GetConversationItems>",
            &[GUID_A],
        ),
        (
            "<m:ConvertId><m:SourceIds><t:AlternateId Format='EwsId' Id='ID_A'/></m:SourceIds></m:ConvertId>",
            &[GUID_A],
        ),
        (
            "<m:Frobnicate><m:Ids><t:ItemId Id='ID_A'/></m:Ids></m:Frobnicate>",
            &[GUID_A],
        ),
        (
            "<m:GetItem><m:ItemIds><t:ItemId Id='AAMkADE='/><x:ItemId xmlns:x='y' Id='ID_A'/></m:ItemIds></m:GetItem>",
            &[],
        ),
    ];
    for (inner, expected) in cases {
        let found: Vec<String> = targets(inner)
            .guids
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, *expected, "{inner}");
    }
}

#[test]
fn weight_of_a_find() {
    let find = targets(
        "<m:FindItem Traversal='Shallow'><m:ItemShape/><m:IndexedPageItemView MaxEntriesReturned='100' Offset='0' BasePoint='Beginning'/>\
         <m:Restriction><t:IsEqualTo/></m:Restriction><m:ParentFolderIds><t:FolderId Id='1'/><t:DistinguishedFolderId Id='inbox'/>\
         </m:ParentFolderIds></m:FindItem>",
    );
    assert_eq!(
        (find.page_size, find.folders, find.has_restriction),
        (Some(100), 2, true)
    );
    let find = targets(
        "<m:FindFolder><m:FractionalPageFolderView MaxEntriesReturned=' 7 '/><m:ParentFolderIds><t:FolderId Id='1'/></m:ParentFolderIds>\
         </m:FindFolder>",
    );
    assert_eq!(
        (find.page_size, find.folders, find.has_restriction),
        (Some(7), 1, false)
    );
    let calendar = targets(
        "<m:FindItem><m:CalendarView StartDate='x' MaxEntriesReturned='many'/></m:FindItem>",
    );
    assert_eq!((calendar.page_size, calendar.folders), (None, 0));
    let query = targets("<m:FindItem><m:QueryString>from:a</m:QueryString></m:FindItem>");
    assert!(query.has_restriction);
}

#[test]
fn another_body_does_no_harm() {
    let body =
        b"<Envelope xmlns='http://schemas.xmlsoap.org/soap/envelope/'><Body><a/></Body></Envelope>";
    let outline = Outline::parse(body).unwrap();
    for other in [&b""[..], b"<", b"<a/>", b"{}", &body[..40]] {
        assert_eq!(outline.targets(other), Targets::default());
    }
}
