//! Every kind of response of the simulator against Exchange's own schema.
//!
//! Needs `xmllint` and the schema files: `EWS_XSD_DIR` names a folder with an `envelope.xsd` that
//! imports `messages.xsd`, `types.xsd` and a SOAP 1.1 envelope, or a folder with one such folder
//! for each version of Exchange. Without it the test says that it skips.

mod schema;

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;
use tower_ews::simulator::{Exchange, Fault, Policy};

use self::schema::{complaint, schemas};

async fn ask(exchange: &Exchange, body: &str) -> String {
    let text = format!(
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
         xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types' \
         xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages'><s:Body>{body}</s:Body></s:Envelope>"
    );
    let request = Request::post("/EWS/Exchange.asmx")
        .body(Full::<Bytes>::from(text))
        .unwrap();
    let response = exchange.clone().oneshot(request).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn id_of(response: &str, element: &str) -> String {
    let at = response.find(&format!("<t:{element} ")).expect("an id");
    response[at..].split_once("/>").unwrap().0.to_owned() + "/>"
}

const SHAPE: &str = "<m:ItemShape><t:BaseShape>AllProperties</t:BaseShape></m:ItemShape>";
const FOLDER_SHAPE: &str =
    "<m:FolderShape><t:BaseShape>AllProperties</t:BaseShape></m:FolderShape>";
const CALENDAR: &str = "<t:DistinguishedFolderId Id='calendar'/>";

#[tokio::test(start_paused = true)]
async fn responses_are_valid() {
    let schemas = schemas();
    if schemas.is_empty() {
        return;
    }
    let mut policy = Policy::laptop();
    policy.max_burst = None;
    let exchange = Exchange::builder()
        .policy(policy)
        .anonymous("svc@contoso.com")
        .build();
    let mut responses: Vec<(String, String)> = Vec::new();

    let create = "<m:CreateItem MessageDisposition='SaveOnly' SendMeetingInvitations='SendToNone'><m:Items>\
        <t:CalendarItem><t:Subject>a &lt; b</t:Subject><t:Body BodyType='Text'>text</t:Body>\
        <t:ReminderMinutesBeforeStart>15</t:ReminderMinutesBeforeStart>\
        <t:ExtendedProperty><t:ExtendedFieldURI PropertyTag='0x3001' PropertyType='String'/><t:Value>v</t:Value></t:ExtendedProperty>\
        <t:Start>2026-03-01T10:00:00Z</t:Start><t:End>2026-03-01T11:00:00Z</t:End><t:Location>here</t:Location>\
        <t:RequiredAttendees><t:Attendee><t:Mailbox><t:EmailAddress>b@contoso.com</t:EmailAddress></t:Mailbox></t:Attendee></t:RequiredAttendees>\
        </t:CalendarItem>\
        <t:Message><t:Subject>mail</t:Subject><t:Body BodyType='HTML'>&lt;p&gt;</t:Body><t:Categories><t:String>x</t:String></t:Categories>\
        <t:ToRecipients><t:Mailbox><t:EmailAddress>b@contoso.com</t:EmailAddress></t:Mailbox></t:ToRecipients></t:Message>\
        <t:Contact><t:FileAs>A, B</t:FileAs><t:GivenName>B</t:GivenName>\
        <t:EmailAddresses><t:Entry Key='EmailAddress1'>b@contoso.com</t:Entry></t:EmailAddresses><t:Surname>A</t:Surname></t:Contact>\
        <t:Task><t:Subject>do</t:Subject><t:DueDate>2026-03-01T00:00:00Z</t:DueDate></t:Task>\
        <t:PostItem><t:Subject>post</t:Subject></t:PostItem>\
        </m:Items></m:CreateItem>";
    let created = ask(&exchange, create).await;
    assert_eq!(created.matches(">NoError<").count(), 5, "{created}");
    let ids: String = created
        .split("<t:ItemId ")
        .skip(1)
        .map(|rest| format!("<t:ItemId {}/>", rest.split_once("/>").unwrap().0))
        .collect();
    let first = id_of(&created, "ItemId");
    let second = id_of(created.split_once("<t:Message>").unwrap().1, "ItemId");
    responses.push(("CreateItem".to_owned(), created));

    let folder = ask(
        &exchange,
        "<m:CreateFolder><m:ParentFolderId><t:DistinguishedFolderId Id='inbox'/></m:ParentFolderId>\
         <m:Folders><t:TasksFolder><t:DisplayName>x</t:DisplayName></t:TasksFolder></m:Folders></m:CreateFolder>",
    )
    .await;
    let folder_id = id_of(&folder, "FolderId");
    responses.push(("CreateFolder".to_owned(), folder));

    let bare = |id: &str| format!("{}/>", id.split(" ChangeKey").next().unwrap());
    let attached = ask(
        &exchange,
        &format!(
            "<m:CreateAttachment>{}<m:Attachments><t:FileAttachment><t:Name>f</t:Name><t:ContentType>text/plain</t:ContentType>\
             <t:IsInline>false</t:IsInline><t:Content>aGk=</t:Content></t:FileAttachment><t:ItemAttachment><t:Name>i</t:Name>\
             <t:Message><t:Subject>inner</t:Subject></t:Message></t:ItemAttachment></m:Attachments></m:CreateAttachment>",
            bare(&first).replace("t:ItemId", "m:ParentItemId")
        ),
    )
    .await;
    assert_eq!(attached.matches(">NoError<").count(), 2, "{attached}");
    let attachments: String = attached
        .split("<t:AttachmentId ")
        .skip(1)
        .map(|rest| format!("<t:AttachmentId {}/>", rest.split_once(" Root").unwrap().0))
        .collect();
    responses.push(("CreateAttachment".to_owned(), attached));
    let export = ask(
        &exchange,
        &format!("<m:ExportItems><m:ItemIds>{ids}</m:ItemIds></m:ExportItems>"),
    )
    .await;
    let data = export.split("<m:Data>").nth(1).unwrap();
    let data = data.split('<').next().unwrap().to_owned();
    responses.push(("ExportItems".to_owned(), export));
    let moving = ask(
        &exchange,
        "<m:CreateFolder><m:ParentFolderId><t:DistinguishedFolderId Id='inbox'/></m:ParentFolderId>\
         <m:Folders><t:Folder><t:DisplayName>moving</t:DisplayName></t:Folder></m:Folders></m:CreateFolder>",
    )
    .await;
    let moving = id_of(&moving, "FolderId");
    let delegates = |operation: &str, inside: &str| {
        format!(
            "<m:{operation}><m:Mailbox><t:EmailAddress>svc@contoso.com</t:EmailAddress></m:Mailbox>{inside}</m:{operation}>"
        )
    };
    let user = "<t:UserId><t:PrimarySmtpAddress>b@contoso.com</t:PrimarySmtpAddress></t:UserId>";
    let delegate = format!(
        "<m:DelegateUsers><t:DelegateUser>{user}<t:DelegatePermissions>\
         <t:CalendarFolderPermissionLevel>Author</t:CalendarFolderPermissionLevel></t:DelegatePermissions>\
         <t:ReceiveCopiesOfMeetingMessages>true</t:ReceiveCopiesOfMeetingMessages><t:ViewPrivateItems>false</t:ViewPrivateItems>\
         </t:DelegateUser></m:DelegateUsers>"
    );

    let post = "<m:CreateItem><m:Items><t:PostItem><t:Subject>p</t:Subject></t:PostItem></m:Items></m:CreateItem>";
    let junk = ask(&exchange, post).await;
    let old = ask(&exchange, post).await;

    let subscribe = |kind: &str, time: &str| {
        format!(
            "<m:Subscribe><m:{kind}SubscriptionRequest><t:FolderIds>{CALENDAR}</t:FolderIds><t:EventTypes>\
             <t:EventType>CreatedEvent</t:EventType></t:EventTypes>{time}</m:{kind}SubscriptionRequest></m:Subscribe>"
        )
    };
    let subscription = |text: &str| {
        let (_, rest) = text.split_once("<m:SubscriptionId>").unwrap();
        rest.split('<').next().unwrap().to_owned()
    };
    let pull = ask(&exchange, &subscribe("Pull", "<t:Timeout>10</t:Timeout>")).await;
    let of_pull = subscription(&pull);
    let of_pull = format!("<m:SubscriptionId>{of_pull}</m:SubscriptionId>");
    let streaming = ask(&exchange, &subscribe("Streaming", "")).await;
    let of_stream = subscription(&streaming);
    responses.extend([pull, streaming].map(|text| ("Subscribe".to_owned(), text)));
    let stream = |id: &str| {
        format!(
            "<m:GetStreamingEvents><m:SubscriptionIds><t:SubscriptionId>{id}</t:SubscriptionId></m:SubscriptionIds>\
             <m:ConnectionTimeout>1</m:ConnectionTimeout></m:GetStreamingEvents>"
        )
    };
    ask(&exchange, create).await;
    let hanging = ask(&exchange, &stream(&of_stream)).await;
    let envelopes = hanging.split_inclusive("</s:Envelope>");
    responses.extend(envelopes.map(|text| ("GetStreamingEvents".to_owned(), text.to_owned())));
    let search = "<m:SearchMailboxes><m:SearchQueries><t:MailboxQuery><t:Query>b</t:Query><t:MailboxSearchScopes>\
        <t:MailboxSearchScope><t:Mailbox>svc@contoso.com</t:Mailbox><t:SearchScope>All</t:SearchScope></t:MailboxSearchScope>\
        </t:MailboxSearchScopes></t:MailboxQuery></m:SearchQueries><m:ResultType>StatisticsOnly</m:ResultType></m:SearchMailboxes>";

    let every = ["calendar", "contacts", "drafts", "inbox", "tasks"];
    let every: String = every
        .iter()
        .map(|id| format!("<t:DistinguishedFolderId Id='{id}'/>"))
        .collect();
    let hour =
        "<t:StartTime>2026-02-01T00:00:00</t:StartTime><t:EndTime>2026-04-01T00:00:00</t:EndTime>";
    let requests = [
        format!("<m:GetItem>{SHAPE}<m:ItemIds>{ids}</m:ItemIds></m:GetItem>"),
        format!("<m:GetItem>{SHAPE}<m:ItemIds><t:ItemId Id='x'/></m:ItemIds></m:GetItem>"),
        format!("<m:FindItem Traversal='Shallow'>{SHAPE}<m:ParentFolderIds>{every}</m:ParentFolderIds></m:FindItem>"),
        format!(
            "<m:FindItem Traversal='Shallow'>{SHAPE}<m:IndexedPageItemView MaxEntriesReturned='1' Offset='0' \
             BasePoint='Beginning'/><m:ParentFolderIds>{CALENDAR}</m:ParentFolderIds></m:FindItem>"
        ),
        format!(
            "<m:FindItem Traversal='Shallow'>{SHAPE}<m:CalendarView StartDate='2026-01-01T00:00:00Z' \
             EndDate='2027-01-01T00:00:00Z'/><m:ParentFolderIds>{CALENDAR}</m:ParentFolderIds></m:FindItem>"
        ),
        format!("<m:GetFolder>{FOLDER_SHAPE}<m:FolderIds>{every}<t:FolderId Id='x'/></m:FolderIds></m:GetFolder>"),
        format!(
            "<m:FindFolder Traversal='Deep'>{FOLDER_SHAPE}<m:ParentFolderIds><t:DistinguishedFolderId Id='root'/>\
             </m:ParentFolderIds></m:FindFolder>"
        ),
        format!(
            "<m:UpdateItem ConflictResolution='AlwaysOverwrite' MessageDisposition='SaveOnly' \
             SendMeetingInvitationsOrCancellations='SendToNone'><m:ItemChanges><t:ItemChange>{first}<t:Updates>\
             <t:SetItemField><t:FieldURI FieldURI='item:Subject'/><t:CalendarItem><t:Subject>new</t:Subject>\
             </t:CalendarItem></t:SetItemField></t:Updates></t:ItemChange></m:ItemChanges></m:UpdateItem>"
        ),
        format!("<m:CopyItem><m:ToFolderId>{folder_id}</m:ToFolderId><m:ItemIds>{ids}</m:ItemIds></m:CopyItem>"),
        format!("<m:SendItem SaveItemToFolder='false'><m:ItemIds>{second}</m:ItemIds></m:SendItem>"),
        format!(
            "<m:SyncFolderItems>{SHAPE}<m:SyncFolderId>{folder_id}</m:SyncFolderId>\
             <m:MaxChangesReturned>10</m:MaxChangesReturned></m:SyncFolderItems>"
        ),
        format!("<m:SyncFolderHierarchy>{FOLDER_SHAPE}</m:SyncFolderHierarchy>"),
        format!("<m:GetAttachment><m:AttachmentIds>{attachments}</m:AttachmentIds></m:GetAttachment>"),
        format!("<m:DeleteAttachment><m:AttachmentIds>{attachments}</m:AttachmentIds></m:DeleteAttachment>"),
        format!(
            "<m:UploadItems><m:Items><t:Item CreateAction='CreateNew'>{}<t:Data>{data}</t:Data></t:Item><t:Item \
             CreateAction='UpdateOrCreate'>{}{second}<t:Data>eA==</t:Data></t:Item></m:Items></m:UploadItems>",
            folder_id.replace("t:FolderId", "t:ParentFolderId"),
            folder_id.replace("t:FolderId", "t:ParentFolderId")
        ),
        format!("<m:GetItem>{SHAPE}<m:ItemIds>{ids}</m:ItemIds></m:GetItem>"),
        format!(
            "<m:UpdateFolder><m:FolderChanges><t:FolderChange>{moving}<t:Updates><t:SetFolderField>\
             <t:FieldURI FieldURI='folder:DisplayName'/><t:Folder><t:DisplayName>moved</t:DisplayName></t:Folder>\
             </t:SetFolderField></t:Updates></t:FolderChange></m:FolderChanges></m:UpdateFolder>"
        ),
        format!(
            "<m:MoveFolder><m:ToFolderId><t:DistinguishedFolderId Id='drafts'/></m:ToFolderId>\
             <m:FolderIds>{moving}</m:FolderIds></m:MoveFolder>"
        ),
        format!(
            "<m:CopyFolder><m:ToFolderId><t:DistinguishedFolderId Id='inbox'/></m:ToFolderId>\
             <m:FolderIds>{moving}</m:FolderIds></m:CopyFolder>"
        ),
        "<m:MarkAllItemsAsRead><m:ReadFlag>true</m:ReadFlag><m:SuppressReadReceipts>true</m:SuppressReadReceipts>\
         <m:FolderIds><t:DistinguishedFolderId Id='inbox'/></m:FolderIds></m:MarkAllItemsAsRead>"
            .to_owned(),
        delegates("AddDelegate", &delegate),
        delegates("UpdateDelegate", &delegate),
        delegates("GetDelegate IncludePermissions='true'", "").replace("</m:GetDelegate IncludePermissions='true'>", "</m:GetDelegate>"),
        delegates("RemoveDelegate", &format!("<m:UserIds>{user}</m:UserIds>")),
        delegates("UpdateDelegate", &delegate.replace("b@contoso.com", "c@contoso.com")),
        delegates("AddDelegate", &delegate).replace("svc@contoso.com", "nobody"),
        "<m:GetMailTips><m:SendingAs><t:EmailAddress>svc@contoso.com</t:EmailAddress></m:SendingAs><m:Recipients><t:Mailbox>\
         <t:EmailAddress>b@contoso.com</t:EmailAddress></t:Mailbox></m:Recipients><m:MailTipsRequested>All</m:MailTipsRequested>\
         </m:GetMailTips>"
            .to_owned(),
        format!(
            "<m:CopyItem><m:ToFolderId><t:DistinguishedFolderId Id='nowhere'/></m:ToFolderId><m:ItemIds>{ids}</m:ItemIds></m:CopyItem>"
        ),
        format!("<m:DeleteFolder DeleteType='HardDelete'><m:FolderIds>{folder_id}</m:FolderIds></m:DeleteFolder>"),
        "<m:EmptyFolder DeleteType='SoftDelete' DeleteSubFolders='true'><m:FolderIds><t:DistinguishedFolderId Id='sentitems'/>\
         </m:FolderIds></m:EmptyFolder>"
            .to_owned(),
        format!(
            "<m:MarkAsJunk IsJunk='true' MoveItem='true'><m:ItemIds>{}</m:ItemIds></m:MarkAsJunk>",
            id_of(&junk, "ItemId")
        ),
        format!(
            "<m:ArchiveItem><m:ArchiveSourceFolderId><t:DistinguishedFolderId Id='inbox'/></m:ArchiveSourceFolderId>\
             <m:ItemIds>{}</m:ItemIds></m:ArchiveItem>",
            id_of(&old, "ItemId")
        ),
        format!("<m:MoveItem><m:ToFolderId>{folder_id}</m:ToFolderId><m:ItemIds>{ids}</m:ItemIds></m:MoveItem>"),
        format!(
            "<m:DeleteItem DeleteType='HardDelete' SendMeetingCancellations='SendToNone'><m:ItemIds>{ids}</m:ItemIds></m:DeleteItem>"
        ),
        "<m:ResolveNames ReturnFullContactData='false'><m:UnresolvedEntry>svc</m:UnresolvedEntry></m:ResolveNames>".to_owned(),
        "<m:ResolveNames ReturnFullContactData='false'><m:UnresolvedEntry>zzz</m:UnresolvedEntry></m:ResolveNames>".to_owned(),
        "<m:GetServerTimeZones ReturnFullTimeZoneData='true'/>".to_owned(),
        "<m:GetServerTimeZones ReturnFullTimeZoneData='false'/>".to_owned(),
        format!(
            "<m:GetUserAvailabilityRequest><m:MailboxDataArray><t:MailboxData><t:Email><t:Address>svc@contoso.com</t:Address>\
             </t:Email><t:AttendeeType>Required</t:AttendeeType></t:MailboxData><t:MailboxData><t:Email><t:Address>nobody</t:Address>\
             </t:Email><t:AttendeeType>Required</t:AttendeeType></t:MailboxData></m:MailboxDataArray>\
             <t:FreeBusyViewOptions><t:TimeWindow>{hour}</t:TimeWindow></t:FreeBusyViewOptions></m:GetUserAvailabilityRequest>"
        ),
        format!(
            "<m:ConvertId DestinationFormat='HexEntryId'><m:SourceIds><t:AlternateId Format='EwsId' {} Mailbox='a@contoso.com'/>\
             <t:AlternateId Format='EwsId' Id='DUMMY' Mailbox='DUMMY'/></m:SourceIds></m:ConvertId>",
            &first["<t:ItemId ".len()..first.find(" ChangeKey").unwrap()]
        ),
        "<m:Unknown/>".to_owned(),
        format!("<m:GetEvents>{of_pull}<m:Watermark>AAAAAAAAAAA=</m:Watermark></m:GetEvents>"),
        format!("<m:GetEvents>{of_pull}<m:Watermark>AAAAAAAAAAA=</m:Watermark></m:GetEvents>"),
        format!("<m:Unsubscribe>{of_pull}</m:Unsubscribe>"),
        stream("none"),
        search.to_owned(),
    ];
    for (number, request) in requests.iter().enumerate() {
        let response = ask(&exchange, request).await;
        // Only those that ask for something wrong fail as a whole.
        let wrong = [
            "Id='x'/></m:ItemIds>",
            "<m:MoveItem>",
            ">zzz<",
            "Id='nowhere'",
            ">nobody</t:EmailAddress></m:Mailbox>",
            "<m:Unknown/>",
            ">none<",
        ];
        let fails = wrong.iter().any(|wrong| request.contains(wrong));
        assert_eq!(
            !response.contains(">NoError<"),
            fails,
            "{number}: {request}\n{response}"
        );
        responses.push((request.clone(), response));
    }
    // Every operation's error entries, and every refusal.
    let back_off = Some(Duration::from_secs(5));
    for request in &requests {
        for fault in [
            Fault::ServerBusyMessages { back_off },
            Fault::InnerServerBusy,
            Fault::Code("ErrorMailboxStoreUnavailable".to_owned()),
            Fault::TimeoutExpired,
            Fault::ServerBusy { back_off },
            Fault::ThrottledMembers {
                share: 0.5,
                back_off,
            },
            Fault::MemberCode {
                member: 0,
                code: "ErrorQuotaExceeded".to_owned(),
            },
            Fault::SlowMembers {
                time: Duration::from_secs(45),
            },
        ] {
            let name = fault.name();
            exchange.inject(fault);
            responses.push((format!("{name}: {request}"), ask(&exchange, request).await));
        }
    }
    let mut limited = Policy::laptop();
    limited.max_concurrency = Some(0);
    let limited = Exchange::builder()
        .policy(limited)
        .anonymous("svc@contoso.com")
        .build();
    responses.push((
        "connections".to_owned(),
        ask(&limited, "<m:GetServerTimeZones/>").await,
    ));

    let texts: Vec<String> = responses
        .iter()
        .map(|(_, response)| response.clone())
        .collect();
    // It would see an error if there was one.
    let wrong = texts[0].replacen("<m:ResponseCode>NoError", "<m:ResponseCode>NoSuchCode", 1);
    for schema in &schemas {
        assert!(complaint("simulator_schema", schema, std::slice::from_ref(&wrong)).is_some());
        if let Some(complaint) = complaint("simulator_schema", schema, &texts) {
            for (number, (request, _)) in responses.iter().enumerate() {
                println!("{number}.xml is the response to {request}");
            }
            panic!("{complaint}");
        }
        println!("{} responses keep {}", responses.len(), schema.display());
    }
}
