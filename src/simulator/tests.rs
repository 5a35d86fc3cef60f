//! Tests of the whole server, in virtual time.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use ::http::{HeaderMap, Request, Response, StatusCode};
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;
use tower::ServiceExt;

use super::*;

mod affinity;
mod batches;
mod limits;
mod round_trips;

const AUTH: &str = "Basic c3ZjQGNvbnRvc28uY29tOnNlY3JldA==";

fn envelope(header: &str, body: &str) -> String {
    format!(
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
         xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types' \
         xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages'>\
         <s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"
    )
}

fn impersonate(mailbox: &str) -> String {
    format!(
        "<t:ExchangeImpersonation><t:ConnectingSID><t:SmtpAddress>{mailbox}</t:SmtpAddress></t:ConnectingSID>\
         </t:ExchangeImpersonation>"
    )
}

fn folder(id: &str, mailbox: &str) -> String {
    let mailbox = match mailbox {
        "" => String::new(),
        _ => format!("<t:Mailbox><t:EmailAddress>{mailbox}</t:EmailAddress></t:Mailbox>"),
    };
    format!("<t:DistinguishedFolderId Id='{id}'>{mailbox}</t:DistinguishedFolderId>")
}

fn create(mailbox: &str, subjects: &[&str]) -> String {
    let items: String = subjects
        .iter()
        .map(|subject| format!("<t:CalendarItem><t:Subject>{subject}</t:Subject></t:CalendarItem>"))
        .collect();
    format!(
        "<m:CreateItem SendMeetingInvitations='SendToNone'><m:SavedItemFolderId>{}</m:SavedItemFolderId>\
         <m:Items>{items}</m:Items></m:CreateItem>",
        folder("calendar", mailbox)
    )
}

fn get_folder(mailbox: &str) -> String {
    format!(
        "<m:GetFolder><m:FolderShape><t:BaseShape>AllProperties</t:BaseShape></m:FolderShape>\
         <m:FolderIds>{}</m:FolderIds></m:GetFolder>",
        folder("calendar", mailbox)
    )
}

fn find(mailbox: &str, view: &str, rest: &str) -> String {
    format!(
        "<m:FindItem Traversal='Shallow'><m:ItemShape><t:BaseShape>Default</t:BaseShape></m:ItemShape>{view}{rest}\
         <m:ParentFolderIds>{}</m:ParentFolderIds></m:FindItem>",
        folder("calendar", mailbox)
    )
}

fn request(text: String) -> Request<Full<Bytes>> {
    Request::post("/EWS/Exchange.asmx")
        .header("authorization", AUTH)
        .body(Full::from(text))
        .unwrap()
}

async fn send(exchange: &Exchange, text: String) -> Result<Response<Body>, ConnectionLost> {
    exchange.clone().oneshot(request(text)).await
}

async fn text_of(response: Response<Body>) -> String {
    String::from_utf8(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .to_vec(),
    )
    .unwrap()
}

/// The status and the whole text of a response.
async fn ask(exchange: &Exchange, header: &str, body: &str) -> (u16, String) {
    let response = send(exchange, envelope(header, body)).await.unwrap();
    (response.status().as_u16(), text_of(response).await)
}

/// The response codes of a response or a fault, in order.
fn codes(text: &str) -> Vec<&str> {
    let opening = ["<m:ResponseCode", "<e:ResponseCode"];
    text.match_indices("ResponseCode")
        .filter(|(at, _)| opening.iter().any(|tag| text[..*at].ends_with(&tag[..3])))
        .filter_map(|(at, _)| text[at..].split_once('>')?.1.split('<').next())
        .collect()
}

fn attribute<'a>(text: &'a str, name: &str) -> &'a str {
    text.split_once(&format!(" {name}=\""))
        .and_then(|(_, rest)| rest.split('"').next())
        .unwrap()
}

fn back_off(text: &str) -> Option<u64> {
    text.split_once("\"BackOffMilliseconds\">")?
        .1
        .split('<')
        .next()?
        .parse()
        .ok()
}

fn quick() -> Exchange {
    Exchange::builder().policy(Policy::unlimited()).build()
}

#[tokio::test(start_paused = true)]
async fn an_item_lives_its_life() {
    let exchange = quick();
    let a = "a@contoso.com";
    let (status, text) = ask(&exchange, "", &create(a, &["one", "two &amp; three"])).await;
    assert_eq!((status, codes(&text)), (200, vec!["NoError", "NoError"]));
    let (id, key) = (
        attribute(&text, "Id").to_owned(),
        attribute(&text, "ChangeKey").to_owned(),
    );
    let get = |id: &str| {
        format!(
            "<m:GetItem><m:ItemShape><t:BaseShape>AllProperties</t:BaseShape></m:ItemShape>\
             <m:ItemIds><t:ItemId Id='{id}'/></m:ItemIds></m:GetItem>"
        )
    };
    let (_, text) = ask(&exchange, "", &get(&id)).await;
    assert!(text.contains("<t:Subject>one</t:Subject>"), "{text}");
    assert!(text.contains("<t:UID>"), "{text}");

    // Updates want the current change key.
    let update = |key: &str, resolution: &str, subject: &str| {
        format!(
            "<m:UpdateItem ConflictResolution='{resolution}' SendMeetingInvitationsOrCancellations='SendToNone'>\
             <m:ItemChanges><t:ItemChange><t:ItemId Id='{id}'{key}/><t:Updates><t:SetItemField>\
             <t:FieldURI FieldURI='item:Subject'/><t:CalendarItem><t:Subject>{subject}</t:Subject></t:CalendarItem>\
             </t:SetItemField></t:Updates></t:ItemChange></m:ItemChanges></m:UpdateItem>"
        )
    };
    let with_key = format!(" ChangeKey='{key}'");
    let (_, text) = ask(&exchange, "", &update("", "AutoResolve", "x")).await;
    assert_eq!(codes(&text), ["ErrorChangeKeyRequiredForWriteOperations"]);
    let (_, text) = ask(&exchange, "", &update(&with_key, "AutoResolve", "changed")).await;
    assert_eq!(codes(&text), ["NoError"]);
    let (_, text) = ask(&exchange, "", &update(&with_key, "AutoResolve", "x")).await;
    assert_eq!(codes(&text), ["ErrorIrresolvableConflict"]);
    let (_, text) = ask(&exchange, "", &update("", "AlwaysOverwrite", "final")).await;
    assert_eq!(codes(&text), ["NoError"]);
    assert_eq!(exchange.items(a)[0].subject, "final");

    // A moved item has a new id, and the old one is gone.
    let relocate = |operation: &str, id: &str| {
        format!(
            "<m:{operation}><m:ToFolderId>{}</m:ToFolderId><m:ItemIds><t:ItemId Id='{id}'/></m:ItemIds></m:{operation}>",
            folder("inbox", a)
        )
    };
    let (_, text) = ask(&exchange, "", &relocate("MoveItem", &id)).await;
    assert_eq!(codes(&text), ["NoError"]);
    let moved = attribute(&text, "Id").to_owned();
    assert_ne!(moved, id);
    let (_, text) = ask(&exchange, "", &relocate("CopyItem", &id)).await;
    assert_eq!(codes(&text), ["ErrorItemNotFound"]);
    let (_, text) = ask(&exchange, "", &relocate("CopyItem", &moved)).await;
    assert_eq!(codes(&text), ["NoError"]);
    assert_eq!(exchange.items(a).len(), 3);

    let delete = |id: &str, attributes: &str| {
        format!(
            "<m:DeleteItem DeleteType='HardDelete'{attributes}><m:ItemIds><t:ItemId Id='{id}'/></m:ItemIds></m:DeleteItem>"
        )
    };
    let (_, text) = ask(&exchange, "", &delete(&moved, "")).await;
    assert_eq!(codes(&text), ["ErrorSendMeetingCancellationsRequired"]);
    let (_, text) = ask(
        &exchange,
        "",
        &delete(&moved, " SendMeetingCancellations='SendToNone'"),
    )
    .await;
    assert_eq!(codes(&text), ["NoError"]);
    let (_, text) = ask(&exchange, "", &get(&moved)).await;
    assert_eq!(codes(&text), ["ErrorItemNotFound"]);
    let (_, text) = ask(&exchange, "", &get("AAMk")).await;
    assert_eq!(codes(&text), ["ErrorInvalidIdMalformed"]);

    let report = exchange.report();
    assert_eq!(report.items_created, 2);
    assert!(report.created_twice().is_empty());
    assert!(report.lost(["one", "two & three"]).is_empty());
    assert_eq!(
        report.existing,
        [("final".to_owned(), 1), ("two & three".to_owned(), 1)].into()
    );
}

#[tokio::test(start_paused = true)]
async fn messages_are_sent_once() {
    let exchange = quick();
    let message = |disposition: &str| {
        format!(
            "<m:CreateItem{disposition}><m:Items><t:Message><t:Subject>hello</t:Subject></t:Message></m:Items></m:CreateItem>"
        )
    };
    let (_, text) = ask(&exchange, "", &message("")).await;
    assert_eq!(codes(&text), ["ErrorMessageDispositionRequired"]);
    let (_, text) = ask(&exchange, "", &message(" MessageDisposition='SendOnly'")).await;
    assert!(text.contains("<m:Items/>"));
    assert_eq!(exchange.items(DEFAULT_ACCOUNT), []);
    let (_, text) = ask(&exchange, "", &message(" MessageDisposition='SaveOnly'")).await;
    assert_eq!(exchange.items(DEFAULT_ACCOUNT)[0].folder, "Drafts");
    let draft = format!(
        "<m:SendItem SaveItemToFolder='true'><m:ItemIds><t:ItemId Id='{}' ChangeKey='{}'/></m:ItemIds></m:SendItem>",
        attribute(&text, "Id"),
        attribute(&text, "ChangeKey")
    );
    let (_, text) = ask(&exchange, "", &draft).await;
    assert_eq!(codes(&text), ["NoError"]);
    let (_, text) = ask(&exchange, "", &draft).await;
    assert_eq!(codes(&text), ["ErrorItemNotFound"]);
    assert_eq!(exchange.items(DEFAULT_ACCOUNT)[0].folder, "Sent Items");
    let report = exchange.report();
    assert_eq!(report.sent["hello"], 2);
    assert_eq!(report.created_twice(), [("hello", 2)]);
}

#[tokio::test(start_paused = true)]
async fn folders() {
    let exchange = quick();
    let make = format!(
        "<m:CreateFolder><m:ParentFolderId>{}</m:ParentFolderId><m:Folders><t:Folder>\
         <t:DisplayName>Archive</t:DisplayName></t:Folder></m:Folders></m:CreateFolder>",
        folder("inbox", "")
    );
    let (_, text) = ask(&exchange, "", &make).await;
    assert_eq!(codes(&text), ["NoError"]);
    let id = attribute(&text, "Id").to_owned();
    let (_, text) = ask(&exchange, "", &make).await;
    assert_eq!(codes(&text), ["ErrorFolderExists"]);
    let list = |traversal: &str| {
        format!(
            "<m:FindFolder Traversal='{traversal}'><m:FolderShape><t:BaseShape>Default</t:BaseShape></m:FolderShape>\
             <m:ParentFolderIds>{}</m:ParentFolderIds></m:FindFolder>",
            folder("msgfolderroot", "")
        )
    };
    let (_, shallow) = ask(&exchange, "", &list("Shallow")).await;
    assert!(!shallow.contains("Archive"));
    let (_, deep) = ask(&exchange, "", &list("Deep")).await;
    assert!(deep.contains("Archive"));
    let delete = |id: &str| {
        format!(
            "<m:DeleteFolder DeleteType='HardDelete'><m:FolderIds>{id}</m:FolderIds></m:DeleteFolder>"
        )
    };
    let (_, text) = ask(&exchange, "", &delete(&format!("<t:FolderId Id='{id}'/>"))).await;
    assert_eq!(codes(&text), ["NoError"]);
    let (_, text) = ask(&exchange, "", &delete(&folder("inbox", ""))).await;
    assert_eq!(codes(&text), ["ErrorDeleteDistinguishedFolder"]);
    let (_, text) = ask(&exchange, "", &delete(&format!("<t:FolderId Id='{id}'/>"))).await;
    assert_eq!(codes(&text), ["ErrorFolderNotFound"]);
}

#[tokio::test(start_paused = true)]
async fn pages_and_views() {
    let exchange = quick();
    let a = "a@contoso.com";
    let item = |n: u32| {
        format!(
            "<t:CalendarItem><t:Subject>{n}</t:Subject><t:Start>2026-02-{:02}T10:00:00Z</t:Start>\
             <t:End>2026-02-{:02}T11:00:00Z</t:End></t:CalendarItem>",
            n + 1,
            n + 1
        )
    };
    let items: String = (0..5).map(item).collect();
    let text = format!(
        "<m:CreateItem SendMeetingInvitations='SendToNone'><m:SavedItemFolderId>{}</m:SavedItemFolderId>\
         <m:Items>{items}</m:Items></m:CreateItem>",
        folder("calendar", a)
    );
    ask(&exchange, "", &text).await;
    let page = |offset: u32| {
        format!(
            "<m:IndexedPageItemView MaxEntriesReturned='2' Offset='{offset}' BasePoint='Beginning'/>"
        )
    };
    let (_, text) = ask(&exchange, "", &find(a, &page(2), "")).await;
    assert_eq!(attribute(&text, "IndexedPagingOffset"), "4");
    assert_eq!(attribute(&text, "TotalItemsInView"), "5");
    assert_eq!(attribute(&text, "IncludesLastItemInRange"), "false");
    assert!(
        text.contains("<t:Subject>2<")
            && text.contains("<t:Subject>3<")
            && !text.contains("<t:Subject>4<")
    );
    let (_, text) = ask(&exchange, "", &find(a, &page(4), "")).await;
    assert_eq!(attribute(&text, "IncludesLastItemInRange"), "true");
    let view = "<m:CalendarView StartDate='2026-02-02T00:00:00Z' EndDate='2026-02-04T00:00:00Z'/>";
    let (_, text) = ask(&exchange, "", &find(a, view, "")).await;
    assert_eq!(text.matches("<t:CalendarItem>").count(), 2);
    let order = "<m:SortOrder><t:FieldOrder Order='Descending'><t:FieldURI FieldURI='item:Subject'/></t:FieldOrder></m:SortOrder>";
    let (_, text) = ask(&exchange, "", &find(a, "", order)).await;
    assert!(text.find("<t:Subject>4<") < text.find("<t:Subject>0<"));
}

#[tokio::test(start_paused = true)]
async fn synchronisation_tells_what_changed() {
    let exchange = quick();
    let sync = |state: &str| {
        format!(
            "<m:SyncFolderItems><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape>\
             <m:SyncFolderId>{}</m:SyncFolderId>{state}<m:MaxChangesReturned>2</m:MaxChangesReturned></m:SyncFolderItems>",
            folder("calendar", "")
        )
    };
    let state_of = |text: &str| {
        let state = text
            .split("<m:SyncState>")
            .nth(1)
            .unwrap()
            .split('<')
            .next()
            .unwrap();
        format!("<m:SyncState>{state}</m:SyncState>")
    };
    let (_, created) = ask(&exchange, "", &create("", &["1", "2", "3"])).await;
    let (_, text) = ask(&exchange, "", &sync("")).await;
    assert_eq!(text.matches("<t:Create>").count(), 2);
    assert!(text.contains("<m:IncludesLastItemInRange>false<"));
    let (_, text) = ask(&exchange, "", &sync(&state_of(&text))).await;
    assert_eq!(text.matches("<t:Create>").count(), 1);
    assert!(text.contains("<m:IncludesLastItemInRange>true<"));
    let delete = format!(
        "<m:DeleteItem DeleteType='HardDelete' SendMeetingCancellations='SendToNone'><m:ItemIds><t:ItemId Id='{}'/></m:ItemIds></m:DeleteItem>",
        attribute(&created, "Id")
    );
    ask(&exchange, "", &delete).await;
    let (_, text) = ask(&exchange, "", &sync(&state_of(&text))).await;
    assert_eq!(
        (
            text.matches("<t:Create>").count(),
            text.matches("<t:Delete>").count()
        ),
        (0, 1)
    );
    let (_, text) = ask(
        &exchange,
        "",
        &sync("<m:SyncState>bm9uc2Vuc2U=</m:SyncState>"),
    )
    .await;
    assert_eq!(codes(&text), ["ErrorInvalidSyncStateData"]);
    let hierarchy = "<m:SyncFolderHierarchy><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape></m:SyncFolderHierarchy>";
    let (_, text) = ask(&exchange, "", hierarchy).await;
    assert_eq!(text.matches("<t:Create>").count(), 14);
}

#[tokio::test(start_paused = true)]
async fn who_may_do_what() {
    let exchange = Exchange::builder()
        .policy(Policy::unlimited())
        .mailboxes(["a@contoso.com", "b@contoso.com"])
        .alias("S-1-5-21", "a@contoso.com")
        .with_account(
            Account::new("svc@contoso.com")
                .password("secret")
                .delegate_for(["a@contoso.com"]),
        )
        .build();
    let (_, text) = ask(&exchange, "", &get_folder("a@contoso.com")).await;
    assert_eq!(codes(&text), ["NoError"]);
    let (_, text) = ask(&exchange, "", &get_folder("b@contoso.com")).await;
    assert_eq!(codes(&text), ["ErrorAccessDenied"]);
    let (_, text) = ask(&exchange, "", &get_folder("c@contoso.com")).await;
    assert_eq!(codes(&text), ["ErrorNonExistentMailbox"]);
    let (status, text) = ask(&exchange, &impersonate("c@contoso.com"), &get_folder("")).await;
    assert_eq!(
        (status, codes(&text)),
        (500, vec!["ErrorNonExistentMailbox"])
    );
    let sid = "<t:ExchangeImpersonation><t:ConnectingSID><t:SID>S-1-5-21</t:SID></t:ConnectingSID></t:ExchangeImpersonation>";
    let (_, text) = ask(&exchange, sid, &get_folder("")).await;
    assert_eq!(codes(&text), ["NoError"]);

    let response = exchange
        .clone()
        .oneshot(
            Request::post("/")
                .body(Full::<Bytes>::from(envelope("", &get_folder(""))))
                .unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        response
            .headers()
            .get_all("www-authenticate")
            .iter()
            .count(),
        2
    );

    let reader = Exchange::builder()
        .with_account(
            Account::new("svc@contoso.com")
                .password("secret")
                .impersonates(false),
        )
        .build();
    let (status, text) = ask(&reader, &impersonate("a@contoso.com"), &get_folder("")).await;
    assert_eq!(
        (status, codes(&text)),
        (500, vec!["ErrorImpersonateUserDenied"])
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_is_a_fault() {
    let exchange = quick();
    for body in [
        "<m:Teleport/>",
        "<m:GetItem/>",
        "<m:GetItem><m:ItemIds/></m:GetItem>",
        "<GetFolder/>",
    ] {
        let (status, text) = ask(&exchange, "", body).await;
        assert_eq!(
            (status, codes(&text)),
            (500, vec!["ErrorSchemaValidation"]),
            "{body}"
        );
    }
    let response = send(&exchange, "<!DOCTYPE a><a/>".to_owned())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test(start_paused = true)]
async fn a_call_is_in_flight_until_its_body_is_read() {
    let mut policy = Policy::unlimited();
    policy.max_concurrency = Some(2);
    let exchange = Exchange::builder().policy(policy).build();
    let payer = Payer::Account(DEFAULT_ACCOUNT.to_owned());
    let first = send(&exchange, envelope("", &get_folder("")))
        .await
        .unwrap();
    let second = send(&exchange, envelope("", &get_folder("")))
        .await
        .unwrap();
    assert_eq!(exchange.in_flight(&payer), 2);
    let (status, text) = ask(&exchange, "", &get_folder("")).await;
    assert_eq!(
        (status, codes(&text)),
        (500, vec!["ErrorExceededConnectionCount"])
    );
    // The last frame ends the call, even while the body is still held.
    let mut body = first.into_body();
    body.frame().await.unwrap().unwrap();
    assert!(body.is_end_stream());
    assert_eq!(exchange.in_flight(&payer), 1);
    // And so does dropping it unread.
    drop(second);
    assert_eq!(exchange.in_flight(&payer), 0);
    let report = exchange.report();
    assert_eq!(
        (report.connection_violations, report.peak_in_flight[&payer]),
        (1, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn charges_follow_the_rules() {
    let exchange = Exchange::builder()
        .policy(Policy::unlimited())
        .account("x@contoso.com", "x")
        .account("svc@contoso.com", "secret")
        .build();
    let payers = |exchange: &Exchange| exchange.calls().last().unwrap().payers.clone();
    let account = Payer::Account("svc@contoso.com".to_owned());
    let copy = Payer::Copy("a@contoso.com".to_owned());
    ask(&exchange, "", &get_folder("b@contoso.com")).await;
    assert_eq!(payers(&exchange), std::slice::from_ref(&account));
    ask(&exchange, &impersonate("A@contoso.com"), &get_folder("")).await;
    assert_eq!(payers(&exchange), std::slice::from_ref(&copy));
    ask(
        &exchange,
        &impersonate("a@contoso.com"),
        &get_folder("a@contoso.com"),
    )
    .await;
    assert_eq!(payers(&exchange), std::slice::from_ref(&copy));
    ask(
        &exchange,
        &impersonate("a@contoso.com"),
        &get_folder("b@contoso.com"),
    )
    .await;
    assert_eq!(payers(&exchange), [copy.clone(), account.clone()]);
    // By the id of an item alone.
    let (_, text) = ask(&exchange, "", &create("b@contoso.com", &["x"])).await;
    let get = format!(
        "<m:GetItem><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape><m:ItemIds><t:ItemId Id='{}'/></m:ItemIds></m:GetItem>",
        attribute(&text, "Id")
    );
    ask(&exchange, &impersonate("a@contoso.com"), &get).await;
    assert_eq!(payers(&exchange), [copy, account]);
    assert_eq!(
        exchange.calls().last().unwrap().mailboxes,
        ["a@contoso.com", "b@contoso.com"]
    );
    assert_eq!(exchange.report().anchor_violations, 4);
}

#[tokio::test(start_paused = true)]
async fn service_accounts_share_the_copy() {
    let mut policy = Policy::exchange_online();
    policy.max_concurrency = Some(1);
    let exchange = Exchange::builder()
        .policy(policy)
        .account("x@contoso.com", "x")
        .account("svc@contoso.com", "secret")
        .build();
    let text = envelope(&impersonate("a@contoso.com"), &get_folder(""));
    let other = Request::post("/")
        .header("authorization", "Bearer x")
        .body(Full::<Bytes>::from(text.clone()))
        .unwrap();
    let (one, two) = tokio::join!(send(&exchange, text), exchange.clone().oneshot(other));
    assert_eq!(one.unwrap().status(), StatusCode::OK);
    assert_eq!(two.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test(start_paused = true)]
async fn the_busy_budget_locks_out() {
    let mut policy = Policy::laptop();
    policy.busy_response = BusyResponse::Fault;
    policy.jitter = 0.0;
    let exchange = Exchange::builder().policy(policy).build();
    // One batch overdraws the budget: its last members come back throttled.
    let subjects: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
    let (status, text) = ask(&exchange, "", &create("", &subjects)).await;
    assert_eq!(status, 200);
    let codes_of = codes(&text);
    let done = codes_of.iter().filter(|code| **code == "NoError").count();
    assert!(done > 10 && done < 60, "{done}");
    assert!(
        codes_of[done..]
            .iter()
            .all(|code| *code == "ErrorServerBusy")
    );
    assert_eq!(exchange.items(DEFAULT_ACCOUNT).len(), done);
    // So do the calls after it, whose back-off grows by what they cost.
    let (status, text) = ask(&exchange, "", &get_folder("")).await;
    assert_eq!((status, codes(&text)), (500, vec!["ErrorServerBusy"]));
    let wait = back_off(&text).unwrap();
    let (_, text) = ask(&exchange, "", &get_folder("")).await;
    assert!(back_off(&text).unwrap() > wait);
    // Another payer is not concerned.
    let (status, _) = ask(&exchange, &impersonate("a@contoso.com"), &get_folder("")).await;
    assert_eq!(status, 200);
    tokio::time::sleep(Duration::from_millis(back_off(&text).unwrap())).await;
    let (status, _) = ask(&exchange, "", &get_folder("")).await;
    assert_eq!(status, 200);
    let report = exchange.report();
    assert_eq!((report.calls_during_backoff, report.lockouts), (2, 1));
    assert_eq!(report.throttled["ErrorServerBusy"], 2 + (60 - done as u64));
}

#[tokio::test(start_paused = true)]
async fn a_hint_that_is_obeyed_at_any_speed_suffices() {
    for (speed, seed) in [(1.0, 1), (7.0, 2), (60.0, 3), (1000.0, 4)] {
        let mut policy = Policy::laptop();
        // Timers have whole milliseconds: calls shorter than one would leave the budget time to
        // recharge.
        policy.member_time = policy.member_time.mul_f64(speed);
        let exchange = Exchange::builder()
            .policy(policy)
            .speed(speed)
            .seed(seed)
            .build();
        let started = Instant::now();
        for _ in 0..200 {
            let (_, text) = ask(&exchange, "", &get_folder("")).await;
            if let Some(wait) = back_off(&text) {
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
        }
        let report = exchange.report();
        assert!(report.lockouts > 1, "{speed}: {report:?}");
        // One call runs into each lock-out (the last may have begun with the last call), and none
        // into it twice.
        let met = report.calls_during_backoff;
        assert!(
            (report.lockouts - 1..=report.lockouts).contains(&met),
            "{speed}: {report:?}"
        );
        assert!(started.elapsed() > Duration::from_secs(1).div_f64(speed));
    }
}

#[tokio::test(start_paused = true)]
async fn sixteen_mailboxes_are_open() {
    let exchange = Exchange::builder().build();
    let mailbox = |n: u32| format!("m{n}@contoso.com");
    for n in 0..16 {
        let (_, text) = ask(&exchange, "", &create(&mailbox(n), &["x"])).await;
        assert_eq!(codes(&text), ["NoError"]);
    }
    let (status, text) = ask(&exchange, "", &create(&mailbox(16), &["x", "y"])).await;
    assert_eq!(
        (status, codes(&text)),
        (200, vec!["ErrorTooManyObjectsOpened"; 2])
    );
    // Reads, impersonation and open mailboxes go on.
    let (_, text) = ask(&exchange, "", &get_folder(&mailbox(16))).await;
    assert_eq!(codes(&text), ["NoError"]);
    let (_, text) = ask(&exchange, &impersonate(&mailbox(16)), &create("", &["x"])).await;
    assert_eq!(codes(&text), ["NoError"]);
    let (_, text) = ask(&exchange, "", &create(&mailbox(3), &["x"])).await;
    assert_eq!(codes(&text), ["NoError"]);
    tokio::time::sleep(Duration::from_secs(300)).await;
    let (_, text) = ask(&exchange, "", &create(&mailbox(16), &["x"])).await;
    assert_eq!(codes(&text), ["NoError"]);
    assert_eq!(exchange.report().open_mailbox_violations, 2);
}

#[tokio::test(start_paused = true)]
async fn a_full_server_responds_with_503() {
    let mut policy = Policy::exchange_online();
    policy.server_calls = Some(2);
    policy.server_threads = Some(1);
    policy.jitter = 0.0;
    let exchange = Exchange::builder().policy(policy).build();
    let started = Instant::now();
    let call = || send(&exchange, envelope("", &get_folder("")));
    let (one, two, three) = tokio::join!(call(), call(), call());
    // One thread: the second waits for the first.
    assert_eq!(started.elapsed(), Duration::from_millis(20 + 80 + 80));
    assert_eq!(
        (one.unwrap().status(), two.unwrap().status()),
        (StatusCode::OK, StatusCode::OK)
    );
    let three = three.unwrap();
    assert_eq!(three.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(three.headers()["retry-after"], "30");
    let report = exchange.report();
    assert_eq!((report.throttled["503"], report.peak_server), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn searches_hold_rows() {
    let mut policy = Policy::unlimited();
    policy.find_count = Some(5);
    policy.find_count_filtered = Some(2);
    let exchange = Exchange::builder().policy(policy).build();
    ask(&exchange, "", &create("", &["1", "2", "3", "4"])).await;
    let page = "<m:IndexedPageItemView MaxEntriesReturned='4' Offset='0' BasePoint='Beginning'/>";
    // The first response is not read: its four rows stay in memory.
    let held = send(&exchange, envelope("", &find("", page, "")))
        .await
        .unwrap();
    let (_, text) = ask(&exchange, "", &find("", page, "")).await;
    assert_eq!(text.matches("<t:CalendarItem>").count(), 1, "a short page");
    assert_eq!(attribute(&text, "IncludesLastItemInRange"), "false");
    let (_, text) = ask(&exchange, "", &find("", "", "")).await;
    assert_eq!(codes(&text), ["ErrorExceededFindCountLimit"]);
    let (_, text) = ask(
        &exchange,
        "<t:RequestServerVersion Version='Exchange2010'/>",
        &find("", page, ""),
    )
    .await;
    assert_eq!(codes(&text), ["ErrorServerBusy"]);
    drop(held);
    let (_, text) = ask(&exchange, "", &find("", page, "")).await;
    assert_eq!(text.matches("<t:CalendarItem>").count(), 4);
    let filter =
        "<m:Restriction><t:Exists><t:FieldURI FieldURI='item:Subject'/></t:Exists></m:Restriction>";
    let (_, text) = ask(&exchange, "", &find("", page, filter)).await;
    assert_eq!(text.matches("<t:CalendarItem>").count(), 2);
    assert_eq!(exchange.report().throttled["EWSFindCountLimit"], 4);
}

#[tokio::test(start_paused = true)]
async fn five_synchronisations_at_a_time() {
    let mut policy = Policy::exchange_online();
    policy.concurrent_sync_calls = Some(1);
    let exchange = Exchange::builder().policy(policy).build();
    let hierarchy = "<m:SyncFolderHierarchy><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape></m:SyncFolderHierarchy>";
    let ((_, one), (status, two)) =
        tokio::join!(ask(&exchange, "", hierarchy), ask(&exchange, "", hierarchy));
    assert_eq!(codes(&one), ["NoError"]);
    assert_eq!((status, codes(&two)), (200, vec!["ErrorServerBusy"]));
    assert_eq!(back_off(&two), Some(5_000));
}

#[tokio::test(start_paused = true)]
async fn every_fault_is_what_it_says() {
    let kind = |error: &ConnectionLost| {
        error
            .source()
            .unwrap()
            .downcast_ref::<io::Error>()
            .unwrap()
            .kind()
    };
    let exchange = quick();
    let call = || send(&exchange, envelope("", &create("", &["x"])));
    let created = || exchange.report().items_created;

    exchange.inject(Fault::Refused);
    let error = call().await.unwrap_err();
    assert_eq!(
        (kind(&error), exchange.report().calls),
        (io::ErrorKind::ConnectionRefused, 0)
    );
    exchange.inject(Fault::ResetBefore);
    let error = call().await.unwrap_err();
    assert_eq!(
        (kind(&error), created()),
        (io::ErrorKind::ConnectionReset, 0)
    );
    exchange.inject(Fault::ResetAfter);
    let error = call().await.unwrap_err();
    assert_eq!(
        (kind(&error), created()),
        (io::ErrorKind::ConnectionReset, 1)
    );
    exchange.inject(Fault::CutBody);
    let error = call()
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap_err();
    assert_eq!((kind(&error), created()), (io::ErrorKind::UnexpectedEof, 2));
    exchange.inject(Fault::SlowBody {
        frames: 4,
        pause: Duration::from_secs(3),
    });
    let started = Instant::now();
    let text = text_of(call().await.unwrap()).await;
    assert_eq!(
        (codes(&text), started.elapsed()),
        (vec!["NoError"], Duration::from_secs(12))
    );
    exchange.inject(Fault::Page503);
    let response = call().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!response.headers().contains_key("retry-after"));
    assert!(text_of(response).await.contains("<html>"));
    exchange.inject(Fault::WrongXml);
    let response = call().await.unwrap();
    assert_eq!((response.status(), created()), (StatusCode::OK, 4));
    assert!(!text_of(response).await.contains("</s:Envelope>"));
    exchange.inject(Fault::ServerBusy {
        back_off: Some(Duration::from_millis(1234)),
    });
    let response = call().await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(back_off(&text_of(response).await), Some(1234));
    exchange.inject(Fault::ServerBusyMessages { back_off: None });
    let text = text_of(call().await.unwrap()).await;
    assert_eq!(
        (codes(&text), back_off(&text)),
        (vec!["ErrorServerBusy"], None)
    );
    exchange.inject(Fault::InnerServerBusy);
    let text = text_of(call().await.unwrap()).await;
    assert!(text.contains("<t:Value Name=\"InnerErrorResponseCode\">ErrorServerBusy</t:Value>"));
    exchange.inject(Fault::Code("ErrorMailboxStoreUnavailable".to_owned()));
    let text = text_of(call().await.unwrap()).await;
    assert_eq!(codes(&text), ["ErrorMailboxStoreUnavailable"]);
    exchange.respond_next(StatusCode::IM_A_TEAPOT, HeaderMap::new(), "short and stout");
    let response = call().await.unwrap();
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(
        (text_of(response).await.as_str(), created()),
        ("short and stout", 4)
    );
    exchange.inject(Fault::TimeoutExpired);
    let (_, text) = ask(&exchange, "", &create("", &["x", "y", "z"])).await;
    assert_eq!(
        (codes(&text), created()),
        (vec!["ErrorTimeoutExpired"; 3], 6)
    );
    let report = exchange.report();
    assert_eq!(report.faults.len(), 13);
    assert!(report.throttled.is_empty());
    assert_eq!(
        exchange.in_flight(&Payer::Account(DEFAULT_ACCOUNT.to_owned())),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_call_is_executed_all_the_same() {
    let exchange = Exchange::builder().build();
    let payer = Payer::Account(DEFAULT_ACCOUNT.to_owned());
    let call = send(&exchange, envelope("", &create("", &["x"])));
    assert!(
        tokio::time::timeout(Duration::from_millis(30), call)
            .await
            .is_err()
    );
    assert_eq!(
        (exchange.in_flight(&payer), exchange.report().items_created),
        (1, 0)
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = exchange.report();
    assert_eq!(
        (
            exchange.in_flight(&payer),
            report.items_created,
            report.abandoned
        ),
        (0, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn calls_are_recorded_and_ids_echoed() {
    let exchange = Exchange::builder().anonymous("svc@contoso.com").build();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let request = Request::post("/EWS/Exchange.asmx")
        .header("client-request-id", "abc")
        .header("return-client-request-id", "true")
        .header("x-anchormailbox", "a@contoso.com")
        .body(Full::<Bytes>::from(envelope(
            &impersonate("a@contoso.com"),
            &get_folder(""),
        )))
        .unwrap();
    let response = exchange.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["client-request-id"], "abc");
    assert!(response.headers().contains_key("request-id"));
    let calls = exchange.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(
        (calls[0].at, calls[0].outcome.as_str()),
        (Duration::ZERO, "executed")
    );
    assert!(calls[0].responded.unwrap() > Duration::from_millis(70));
    assert_eq!(exchange.report().anchor_violations, 0);
    exchange.reset_report();
    assert_eq!(exchange.report().calls, 0);
    ask(&exchange, "", &get_folder("")).await;
    assert_eq!(exchange.calls()[0].number, 2);
    assert_eq!(exchange.calls()[0].outcome, "executed");
}

async fn a_mixed_job(seed: u64) -> (Report, Vec<Call>) {
    let exchange = Exchange::builder()
        .policy(Policy::laptop())
        .faults(Faults::mixed(0.2))
        .seed(seed)
        .build();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..6 {
        let exchange = exchange.clone();
        tasks.spawn(async move {
            for n in 0..50 {
                let subject = format!("{worker}/{n}");
                let text = envelope("", &create(&format!("m{n}@contoso.com"), &[&subject]));
                if let Ok(response) = send(&exchange, text).await {
                    let _ = response.into_body().collect().await;
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    (exchange.report(), exchange.calls())
}

#[tokio::test(start_paused = true)]
async fn one_seed_one_report() {
    let (first, first_calls) = a_mixed_job(5).await;
    let (second, second_calls) = a_mixed_job(5).await;
    assert_eq!(first, second);
    let when = |calls: Vec<Call>| {
        calls
            .into_iter()
            .map(|call| (call.at, call.outcome))
            .collect::<Vec<_>>()
    };
    assert_eq!(when(first_calls), when(second_calls));
    assert!(
        first.throttled_total() > 0 && first.faults.len() > 5,
        "{first:?}"
    );
    assert_ne!(first, a_mixed_job(6).await.0);
}

#[tokio::test(start_paused = true)]
async fn thousands_of_mailboxes_take_no_time() {
    let exchange = quick();
    let started = Instant::now();
    for n in 0..3_000 {
        ask(&exchange, "", &create(&format!("m{n}@contoso.com"), &["x"])).await;
    }
    assert_eq!(exchange.report().created["x"], 3_000);
    // None waits for another.
    assert_eq!(started.elapsed(), Duration::ZERO);
}

proptest::proptest! {
    #[test]
    fn no_request_makes_it_panic(cut in 0_usize..700, garbage in "\\PC{0,20}") {
        let text = envelope(&impersonate("a@contoso.com"), &create("b@contoso.com", &["x"]));
        let cut = (0..=cut.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let text = format!("{}{garbage}{}", &text[..cut], &text[cut..]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let exchange = Exchange::builder().policy(Policy::unlimited()).build();
            let response = send(&exchange, text).await.unwrap();
            proptest::prop_assert!(matches!(response.status().as_u16(), 200 | 500));
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn absurd_settings_do_not_panic() {
    for speed in [f64::NAN, -1.0, 0.0, 1e-300, 1e300, f64::INFINITY] {
        let mut policy = Policy::laptop();
        policy.member_time = Duration::ZERO;
        policy.latency = Duration::ZERO;
        policy.lockout = Duration::MAX;
        policy.open_mailbox_idle = Duration::MAX;
        policy.jitter = f64::INFINITY;
        policy.max_burst = Some(0);
        policy.cutoff_balance = 0;
        policy.retry_after = Some(Duration::MAX);
        policy.server_calls = Some(1);
        let exchange = Exchange::builder().policy(policy).speed(speed).build();
        for _ in 0..2 {
            let held = send(
                &exchange,
                envelope("", &create("a@contoso.com", &["x", "y"])),
            )
            .await;
            assert_eq!(ask(&exchange, "", &get_folder("")).await.0, 503, "{speed}");
            drop(held);
        }
        exchange.inject(Fault::SlowBody {
            frames: 0,
            pause: Duration::ZERO,
        });
        ask(&exchange, "", &get_folder("")).await;
    }
}

#[test]
fn it_can_be_shared() {
    fn shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    let exchange = quick();
    shared(&exchange);
    let service = tower::util::BoxCloneSyncService::<Request<Full<Bytes>>, _, _>::new(exchange);
    shared(&service);
}
