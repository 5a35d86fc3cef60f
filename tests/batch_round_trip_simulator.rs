//! Round trips through the simulator, in virtual time: of two servers with the same past, one is sent a batch as it is, and the
//! other one through the splitter. The responses say the same, and both servers hold the same in the end.

mod batch_server;

use std::collections::BTreeSet;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};
use tower_ews::batch_splitter::{BatchReport, BatchSplitterLayer, BatchStats, EwsBatchFormat};
use tower_ews::body::ReplayBody;
use tower_ews::simulator::{Exchange, Fault, Faults, Policy};
use tower_ews::soap::{Operation, SoapResponse, Split};

use self::batch_server::service::{chopped, meaning};
use self::batch_server::{MESSAGES, TYPES};

const A: &str = "a@contoso.com";
const MEMBERS: usize = 12;

fn random() -> fastrand::Rng {
    let seed = std::env::var("EWS_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    eprintln!("EWS_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

fn post(body: ReplayBody) -> Request<ReplayBody> {
    Request::post("/EWS/Exchange.asmx")
        .header("authorization", "Bearer secret")
        .header("content-type", "text/xml; charset=utf-8")
        .body(body)
        .unwrap()
}

fn envelope(body: &str) -> String {
    format!(
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' xmlns:t='{TYPES}' xmlns:m='{MESSAGES}'>\
         <s:Body>{body}</s:Body></s:Envelope>"
    )
}

/// Sends a request as it is.
async fn ask(exchange: &Exchange, body: &str) -> String {
    let request = post(envelope(body).into());
    let response = exchange.clone().oneshot(request).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Sends a request through the splitter.
async fn ask_split(
    exchange: &Exchange,
    layer: BatchSplitterLayer<EwsBatchFormat>,
    body: &str,
    random: &mut fastrand::Rng,
) -> (String, BatchStats) {
    let body = chopped(envelope(body).as_bytes(), random);
    let request = post(ReplayBody::from_pieces(body));
    let response = layer.layer(exchange.clone()).oneshot(request);
    let response = response.await.unwrap();
    let merged: BatchReport = response.extensions().get().cloned().unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    (text, merged.stats())
}

/// Ids of elements of a name, with their change keys.
fn ids(text: &str, element: &str) -> Vec<(String, String)> {
    let begin = format!("<t:{element} ");
    let tags = text.split(&begin).skip(1);
    tags.map(|tag| {
        let value = |name: &str| {
            let value = tag.split_once(&format!("{name}=\"")).map(|(_, rest)| rest);
            value.unwrap().split('"').next().unwrap().to_owned()
        };
        (value("Id"), value("ChangeKey"))
    })
    .collect()
}

fn folder(id: &str) -> String {
    format!(
        "<t:DistinguishedFolderId Id='{id}'><t:Mailbox><t:EmailAddress>{A}</t:EmailAddress></t:Mailbox></t:DistinguishedFolderId>"
    )
}

/// One text for each member.
fn each(write: impl Fn(usize) -> String) -> String {
    (0..MEMBERS).map(write).collect()
}

/// Items in a folder, as ids; the one in the middle is of no item.
async fn items(exchange: &Exchange, folder_id: &str) -> Vec<String> {
    let all = each(|n| {
        format!("<t:Message><t:Subject>item {n}</t:Subject><t:IsRead>false</t:IsRead></t:Message>")
    });
    let create = format!(
        "<m:CreateItem MessageDisposition='SaveOnly'><m:SavedItemFolderId>{}</m:SavedItemFolderId><m:Items>{all}</m:Items></m:CreateItem>",
        folder(folder_id)
    );
    let created = ids(&ask(exchange, &create).await, "ItemId");
    with_a_wrong_one(&created, "ItemId")
}

fn with_a_wrong_one(all: &[(String, String)], element: &str) -> Vec<String> {
    assert_eq!(all.len(), MEMBERS);
    let mut tags: Vec<String> = all
        .iter()
        .map(|(id, key)| format!("<t:{element} Id='{id}' ChangeKey='{key}'/>"))
        .collect();
    // Of what is there no more, as far as anybody can tell.
    tags[5] = format!("<t:{element} Id='AAMkNowhere' ChangeKey='AQ=='/>");
    tags
}

/// Folders with a message in each; the one in the middle is none.
async fn folders(exchange: &Exchange) -> Vec<String> {
    let all = each(|n| format!("<t:Folder><t:DisplayName>folder {n}</t:DisplayName></t:Folder>"));
    let create = format!(
        "<m:CreateFolder><m:ParentFolderId>{}</m:ParentFolderId><m:Folders>{all}</m:Folders></m:CreateFolder>",
        folder("inbox")
    );
    let created = ids(&ask(exchange, &create).await, "FolderId");
    for (n, (id, _)) in created.iter().enumerate() {
        let create = format!(
            "<m:CreateItem MessageDisposition='SaveOnly'><m:SavedItemFolderId><t:FolderId Id='{id}'/></m:SavedItemFolderId>\
             <m:Items><t:Message><t:Subject>in folder {n}</t:Subject><t:IsRead>false</t:IsRead></t:Message></m:Items></m:CreateItem>"
        );
        ask(exchange, &create).await;
    }
    with_a_wrong_one(&created, "FolderId")
}

/// An item with attachments; gives the item and its attachments.
async fn attachments(exchange: &Exchange) -> (String, Vec<String>) {
    let item = items(exchange, "drafts").await.remove(0);
    let files = each(|n| {
        format!(
            "<t:FileAttachment><t:Name>file {n}</t:Name><t:Content>aGk=</t:Content></t:FileAttachment>"
        )
    });
    let parent = item.replace("<t:ItemId", "<m:ParentItemId");
    let create = format!(
        "<m:CreateAttachment>{parent}<m:Attachments>{files}</m:Attachments></m:CreateAttachment>"
    );
    let created = ask(exchange, &create).await;
    let mut all: Vec<String> = created
        .split("<t:AttachmentId Id=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .map(|id| format!("<t:AttachmentId Id='{id}'/>"))
        .collect();
    assert_eq!(all.len(), MEMBERS);
    all[5] = "<t:AttachmentId Id='AAMkNowhere'/>".to_owned();
    (item, all)
}

fn delegates(operation: &str, inside: &str) -> String {
    format!(
        "<m:{operation}><m:Mailbox><t:EmailAddress>{A}</t:EmailAddress></m:Mailbox>{inside}</m:{operation}>"
    )
}

/// The users, one of whom is no delegate, and one who is the owner.
fn users(write: impl Fn(&str) -> String) -> String {
    each(|n| {
        let user = match n {
            5 => A.to_owned(),
            n => format!("user{n}@contoso.com"),
        };
        write(&format!(
            "<t:UserId><t:PrimarySmtpAddress>{user}</t:PrimarySmtpAddress></t:UserId>"
        ))
    })
}

fn delegate(level: &str) -> String {
    users(|user| {
        format!(
            "<t:DelegateUser>{user}<t:DelegatePermissions><t:CalendarFolderPermissionLevel>{level}\
             </t:CalendarFolderPermissionLevel></t:DelegatePermissions></t:DelegateUser>"
        )
    })
}

/// A batch of this operation, of what it needs and what was made for it.
/// `in_turn` if it may hold what depends on the order of its members.
async fn batch(exchange: &Exchange, operation: &str, in_turn: bool) -> String {
    const SHAPE: &str = "<m:ItemShape><t:BaseShape>AllProperties</t:BaseShape></m:ItemShape>";
    const FOLDER_SHAPE: &str =
        "<m:FolderShape><t:BaseShape>AllProperties</t:BaseShape></m:FolderShape>";
    let of_items = async |open: &str, from: &str| {
        let ids = items(exchange, from).await.concat();
        format!("<m:{operation}{open}<m:ItemIds>{ids}</m:ItemIds></m:{operation}>")
    };
    let of_folders = async |open: &str| {
        let ids = folders(exchange).await.concat();
        format!("<m:{operation}{open}<m:FolderIds>{ids}</m:FolderIds></m:{operation}>")
    };
    let to = format!("<m:ToFolderId>{}</m:ToFolderId>", folder("contacts"));
    match operation {
        "GetItem" => of_items(&format!(">{SHAPE}"), "drafts").await,
        "DeleteItem" => of_items(" DeleteType='MoveToDeletedItems'>", "drafts").await,
        "MoveItem" | "CopyItem" => of_items(&format!(">{to}"), "drafts").await,
        "ExportItems" => of_items(">", "drafts").await,
        "MarkAsJunk" => of_items(" IsJunk='true' MoveItem='true'>", "inbox").await,
        "SendItem" => of_items(" SaveItemToFolder='true'>", "drafts").await,
        "ArchiveItem" => {
            let source = folder("inbox");
            let source = format!("><m:ArchiveSourceFolderId>{source}</m:ArchiveSourceFolderId>");
            of_items(&source, "inbox").await
        }
        "GetFolder" => of_folders(&format!(">{FOLDER_SHAPE}")).await,
        "DeleteFolder" => of_folders(" DeleteType='HardDelete'>").await,
        "EmptyFolder" => of_folders(" DeleteType='HardDelete' DeleteSubFolders='false'>").await,
        "MoveFolder" | "CopyFolder" => of_folders(&format!(">{to}")).await,
        "MarkAllItemsAsRead" => of_folders(
            "><m:ReadFlag>true</m:ReadFlag><m:SuppressReadReceipts>true</m:SuppressReadReceipts>",
        )
        .await,
        "FindItem" | "FindFolder" => {
            let shape = match operation {
                "FindItem" => SHAPE,
                _ => FOLDER_SHAPE,
            };
            let ids = folders(exchange).await.concat();
            format!(
                "<m:{operation} Traversal='Shallow'>{shape}<m:ParentFolderIds>{ids}</m:ParentFolderIds></m:{operation}>"
            )
        }
        "CreateItem" => {
            let all = each(|n| match n {
                // Needs to be told about invitations.
                5 => format!("<t:CalendarItem><t:Subject>new {n}</t:Subject></t:CalendarItem>"),
                n if n % 2 == 0 => format!("<t:Message><t:Subject>new {n}</t:Subject></t:Message>"),
                n => format!("<t:Contact><t:Subject>new {n}</t:Subject></t:Contact>"),
            });
            format!(
                "<m:CreateItem MessageDisposition='SaveOnly'><m:SavedItemFolderId>{}</m:SavedItemFolderId>\
                 <m:Items>{all}</m:Items></m:CreateItem>",
                folder("drafts")
            )
        }
        "UpdateItem" => {
            let all: String = items(exchange, "drafts").await.into_iter().enumerate().map(|(n, id)| {
                format!(
                    "<t:ItemChange>{id}<t:Updates><t:SetItemField><t:FieldURI FieldURI='item:Subject'/>\
                     <t:Message><t:Subject>updated {n}</t:Subject></t:Message></t:SetItemField></t:Updates></t:ItemChange>"
                )
            }).collect();
            format!(
                "<m:UpdateItem ConflictResolution='AutoResolve' MessageDisposition='SaveOnly'>\
                 <m:ItemChanges>{all}</m:ItemChanges></m:UpdateItem>"
            )
        }
        "UpdateFolder" => {
            let all: String = folders(exchange).await.into_iter().enumerate().map(|(n, id)| {
                format!(
                    "<t:FolderChange>{id}<t:Updates><t:SetFolderField><t:FieldURI FieldURI='folder:DisplayName'/>\
                     <t:Folder><t:DisplayName>renamed {n}</t:DisplayName></t:Folder></t:SetFolderField></t:Updates></t:FolderChange>"
                )
            }).collect();
            format!("<m:UpdateFolder><m:FolderChanges>{all}</m:FolderChanges></m:UpdateFolder>")
        }
        "CreateFolder" => {
            // Two of the same name: the second one exists.
            let all = each(|n| {
                let name = if n == 9 && in_turn { 2 } else { n };
                format!("<t:Folder><t:DisplayName>new {name}</t:DisplayName></t:Folder>")
            });
            format!(
                "<m:CreateFolder><m:ParentFolderId>{}</m:ParentFolderId><m:Folders>{all}</m:Folders></m:CreateFolder>",
                folder("inbox")
            )
        }
        "CreateAttachment" => {
            let item = items(exchange, "drafts").await.remove(3);
            let parent = item.replace("<t:ItemId", "<m:ParentItemId");
            let all = each(|n| {
                format!(
                    "<t:FileAttachment><t:Name>new {n}</t:Name><t:Content>aGk=</t:Content></t:FileAttachment>"
                )
            });
            format!(
                "<m:CreateAttachment>{parent}<m:Attachments>{all}</m:Attachments></m:CreateAttachment>"
            )
        }
        "GetAttachment" | "DeleteAttachment" => {
            let (_, ids) = attachments(exchange).await;
            let ids = ids.concat();
            format!("<m:{operation}><m:AttachmentIds>{ids}</m:AttachmentIds></m:{operation}>")
        }
        "UploadItems" => {
            let ids = items(exchange, "drafts").await;
            let text = ask(
                exchange,
                &format!(
                    "<m:GetFolder>{FOLDER_SHAPE}<m:FolderIds>{}</m:FolderIds></m:GetFolder>",
                    folder("inbox")
                ),
            )
            .await;
            let (parent, _) = ids_of_first(&text);
            let all = each(|n| {
                let (action, id) = match n % 3 {
                    0 => ("CreateNew", ""),
                    1 => ("Update", &*ids[n]),
                    _ => ("UpdateOrCreate", &*ids[n]),
                };
                let data = ["b25l", "dHdv", "dGhyZWU=", "?"][n % 4];
                format!(
                    "<t:Item CreateAction='{action}'><t:ParentFolderId Id='{parent}'/>{id}<t:Data>{data}</t:Data></t:Item>"
                )
            });
            format!("<m:UploadItems><m:Items>{all}</m:Items></m:UploadItems>")
        }
        "ConvertId" => {
            let ids = items(exchange, "drafts").await;
            let all: String = ids
                .iter()
                .map(|id| {
                    let id = id.split('\'').nth(1).unwrap();
                    format!("<t:AlternateId Format='EwsId' Id='{id}' Mailbox='{A}'/>")
                })
                .collect();
            format!(
                "<m:ConvertId DestinationFormat='HexEntryId'><m:SourceIds>{all}</m:SourceIds></m:ConvertId>"
            )
        }
        "GetServerTimeZones" => {
            let zones = [
                "Tokyo Standard Time",
                "UTC",
                "Nowhere",
                "W. Europe Standard Time",
                "Pacific Standard Time",
            ];
            let all: String = zones
                .iter()
                .map(|zone| format!("<t:Id>{zone}</t:Id>"))
                .collect();
            format!(
                "<m:GetServerTimeZones ReturnFullTimeZoneData='true'><m:Ids>{all}</m:Ids></m:GetServerTimeZones>"
            )
        }
        "GetUserAvailability" => {
            items(exchange, "calendar").await;
            let all = each(|n| {
                let who = if n == 5 {
                    "nobody".to_owned()
                } else {
                    format!("user{n}@contoso.com")
                };
                format!(
                    "<t:MailboxData><t:Email><t:Address>{who}</t:Address></t:Email><t:AttendeeType>Required</t:AttendeeType></t:MailboxData>"
                )
            });
            format!(
                "<m:GetUserAvailabilityRequest><m:MailboxDataArray>{all}</m:MailboxDataArray><t:FreeBusyViewOptions><t:TimeWindow>\
                 <t:StartTime>2026-02-01T00:00:00</t:StartTime><t:EndTime>2026-02-20T00:00:00</t:EndTime></t:TimeWindow>\
                 </t:FreeBusyViewOptions></m:GetUserAvailabilityRequest>"
            )
        }
        "GetMailTips" => {
            let all = each(|n| {
                let who = if n == 5 {
                    "nobody".to_owned()
                } else {
                    format!("User{n}@contoso.com")
                };
                format!("<t:Mailbox><t:EmailAddress>{who}</t:EmailAddress></t:Mailbox>")
            });
            format!(
                "<m:GetMailTips><m:SendingAs><t:EmailAddress>{A}</t:EmailAddress></m:SendingAs><m:Recipients>{all}</m:Recipients>\
                 <m:MailTipsRequested>All</m:MailTipsRequested></m:GetMailTips>"
            )
        }
        "AddDelegate" => delegates(
            operation,
            &format!(
                "<m:DelegateUsers>{}</m:DelegateUsers><m:DeliverMeetingRequests>NoForward</m:DeliverMeetingRequests>",
                delegate("Editor")
            ),
        ),
        "UpdateDelegate" | "RemoveDelegate" | "GetDelegate" => {
            let add = format!("<m:DelegateUsers>{}</m:DelegateUsers>", delegate("Author"));
            ask(exchange, &delegates("AddDelegate", &add)).await;
            let inside = match operation {
                "UpdateDelegate" => {
                    format!("<m:DelegateUsers>{}</m:DelegateUsers>", delegate("Editor"))
                }
                _ => format!("<m:UserIds>{}</m:UserIds>", users(str::to_owned)),
            };
            delegates(operation, &inside)
        }
        other => panic!("no batch of {other}"),
    }
}

fn ids_of_first(text: &str) -> (String, String) {
    ids(text, "FolderId").remove(0)
}

/// What the simulator does not know, and what is never cut.
const UNKNOWN: &[&str] = &[
    "ApplyConversationAction",
    "CreateManagedFolder",
    "GetAppManifests",
    "GetClientAccessToken",
    "GetConversationItems",
    "GetImItems",
    "GetNonIndexableItemStatistics",
    "GetServiceConfiguration",
    "GetSharingMetadata",
    "PerformReminderAction",
    "ReportMessage",
    "SetClientExtension",
];

/// A server with mailboxes.
fn exchange(faults: Faults) -> Exchange {
    Exchange::builder()
        .policy(Policy::unlimited())
        .mailbox(A)
        .mailboxes((0..MEMBERS).map(|n| format!("user{n}@contoso.com")))
        .faults(faults)
        .seed(11)
        .build()
}

/// What a response says, without what differs when things are done at other times.
fn said(text: &str) -> Vec<String> {
    const IDS: [&str; 5] = [
        "Id",
        "ChangeKey",
        "RootItemId",
        "RootItemChangeKey",
        "BackOff",
    ];
    let blank = |line: String| {
        IDS.iter().fold(line, |line, name| {
            let name = format!(" {{}}{name}=\"");
            match line.split_once(&name) {
                Some((before, rest)) => {
                    let rest = rest.split_once('"').map_or("", |(_, rest)| rest);
                    format!("{before}{name}\"{rest}")
                }
                None => line,
            }
        })
    };
    meaning(text).into_iter().map(blank).collect()
}

/// What stands before the first time zone, and the zones in order.
fn zones(text: &str) -> (Vec<String>, BTreeSet<Vec<String>>) {
    let lines = meaning(text);
    let mut blocks = lines.chunk_by(|_, line| !line.contains("}TimeZoneDefinition "));
    let head = blocks.next().unwrap().to_vec();
    (head, blocks.map(<[String]>::to_vec).collect())
}

/// What a server did, and what it holds.
fn state(exchange: &Exchange) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut report = exchange.report();
    // It has no members here: each request counts as one.
    report.executed.remove("GetServerTimeZones");
    let items: BTreeSet<_> = (0..MEMBERS)
        .map(|n| format!("user{n}@contoso.com"))
        .chain([A.to_owned()])
        .flat_map(|mailbox| exchange.items(&mailbox))
        .map(|item| (item.kind, item.subject, item.folder))
        .collect();
    (
        report.executed,
        report.done,
        report.created,
        report.sent,
        report.existing,
        items,
    )
}

#[test]
fn what_the_simulator_does_not_know_is_known() {
    let known = Operation::all().filter(|operation| UNKNOWN.contains(&operation.name()));
    assert_eq!(known.count(), UNKNOWN.len());
}

#[tokio::test(start_paused = true)]
async fn two_servers_end_up_the_same() {
    let mut random = random();
    let (mut operations, mut rounds, mut parts, mut resent) = (0, 0, 0, 0);
    for operation in Operation::all() {
        let cut = !matches!(
            operation.split(),
            Split::ChangesMeaning | Split::NotApplicable
        );
        let name = operation.name();
        if !cut || UNKNOWN.contains(&name) {
            continue;
        }
        operations += 1;
        let mut resent_here = 0;
        for (throttled, parallel) in [(false, 1), (false, 3), (true, 1), (true, 3)] {
            let back_off = random.bool().then_some(Duration::from_millis(700));
            let fault = Fault::ThrottledMembers {
                share: 0.4,
                back_off,
            };
            let faults = match throttled {
                true => Faults::none().rate_on(name, fault, 1.0),
                false => Faults::none(),
            };
            let (one, other) = (exchange(Faults::none()), exchange(faults));
            let request = batch(&one, name, !throttled).await;
            assert_eq!(batch(&other, name, !throttled).await, request);
            let whole = ask(&one, &request).await;
            let layer = BatchSplitterLayer::new(EwsBatchFormat::new())
                .start_members(random.usize(1..5))
                .max_members(5)
                .parallel(parallel);
            let (merged, stats) = ask_split(&other, layer, &request, &mut random).await;

            let about = format!("{name}, throttled {throttled}, {parallel} at a time");
            if name == "GetServerTimeZones" {
                // The exception: the server has an order of its own for them, of a part as of the whole.
                assert_eq!(zones(&merged), zones(&whole), "{about}");
            } else {
                assert_eq!(said(&merged), said(&whole), "{about}");
                if !throttled && (parallel == 1 || operation.split() == Split::SafeSequential) {
                    assert_eq!(meaning(&merged), meaning(&whole), "{about}");
                }
            }
            let read = SoapResponse::parse(whole.as_bytes()).unwrap();
            let entries: Vec<_> = read.entries().collect();
            let failed = entries
                .iter()
                .filter(|entry| entry.code.as_str() != "NoError");
            let fine = match name {
                "GetServerTimeZones" | "GetMailTips" | "CreateAttachment" => true,
                "CreateFolder" => throttled,
                _ => false,
            };
            assert_eq!(failed.count() == 0, fine, "{about}: {whole}");
            assert_eq!(state(&one), state(&other), "{about}");
            let calls = other.calls();
            let calls = calls.iter().filter(|call| call.operation == name).count();
            assert!(calls >= stats.parts as usize && stats.parts > 1, "{about}");
            assert_eq!((stats.unknown, stats.not_executed), (0, 0));
            let again = other.report().throttled_members as usize;
            assert!(
                stats.resent == again || name == "GetServerTimeZones",
                "{about}"
            );
            resent_here += again;
            parts += stats.parts;
            rounds += 1;
        }
        // Time zones have so few parts that all may be lucky.
        assert!(resent_here > 0 || name == "GetServerTimeZones", "{name}");
        resent += resent_here;
    }
    assert_eq!(operations, 32);
    println!(
        "{rounds} round trips of {operations} operations, {parts} parts, {resent} members sent again"
    );
}
