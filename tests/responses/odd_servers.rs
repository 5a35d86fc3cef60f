//! Odd servers, through the stack and through the layers alone: they trickle, refuse mailboxes, send on to each other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::{Instant, sleep};
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_ews::EwsStack;
use tower_ews::batch_splitter::{BatchSplitterLayer, EwsBatchFormat};
use tower_ews::body::ReplayBody;
use tower_ews::extensions::{Caller, Deadline};
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::server_busy_backoff::{
    AccessDenied, AccessScope, BackoffError, Failure, MailboxMoved, ServerBusyBackoffLayer,
};

use super::server::{
    Ask, Reply, envelope, fault, good, impersonating, replay, request, respond, send, soap,
};

fn stack() -> EwsStack {
    EwsStack::new(ThrottlingPolicy::exchange_online()).caller(Caller::new("svc@contoso.com"))
}

fn read(body: &str) -> Ask {
    let (_, after) = body.split_once("<s:Body><m:").unwrap();
    let end = after.find([' ', '>', '/']).unwrap();
    let ids = after
        .match_indices("ID0")
        .map(|(at, _)| after[at..at + 6].to_owned());
    Ask {
        operation: after[..end].to_owned(),
        ids: ids.collect(),
        number: 0,
        at: Duration::ZERO,
    }
}

/// Text that comes in pieces, each after a pause, and nothing behind it.
fn trickle(
    text: &str,
    pause: Duration,
) -> impl http_body::Body<Data = Bytes, Error = BoxError> + use<> {
    let pieces: Vec<Bytes> = text
        .as_bytes()
        .chunks(8)
        .map(Bytes::copy_from_slice)
        .collect();
    let pieces = futures_util::stream::iter(pieces);
    let pieces = futures_util::StreamExt::then(pieces, move |piece| async move {
        sleep(pause).await;
        Ok::<_, BoxError>(Frame::data(piece))
    });
    let end = futures_util::stream::pending();
    StreamBody::new(futures_util::StreamExt::chain(pieces, end))
}

/// A response that comes byte by byte, or as nothing but empty pieces, does not outlast the deadline of its call.
#[tokio::test(start_paused = true)]
async fn what_trickles_ends_at_the_deadline() {
    let minute = Duration::from_secs(60);
    let bodies = [
        (200, envelope("<m:GetItemResponse><m:ResponseMessages>"), 9),
        (200, " ".repeat(100_000), 1),
        (200, String::from("<?xml version='1.0'?>"), 30),
        (200, format!("<!-- {}", "x".repeat(100_000)), 1),
        (500, fault("ErrorInternalServerError", ""), 20),
    ];
    for (status, text, pause) in bodies {
        for (operation, members) in [
            ("GetItem", 1),
            ("CreateItem", 1),
            ("GetItem", 20),
            ("CreateItem", 20),
        ] {
            for layer in ["stack", "backoff", "splitter"] {
                // The splitter alone hands a single call on as it is.
                if layer == "splitter" && members == 1 {
                    continue;
                }
                let text = text.clone();
                let server = service_fn(move |_: Request<ReplayBody>| {
                    let body = trickle(&text, Duration::from_secs(pause));
                    let response = Response::builder()
                        .status(status)
                        .header("content-type", "text/xml");
                    async move { Ok::<_, BoxError>(response.body(body.boxed_unsync()).unwrap()) }
                });
                let mut request = request(operation, members);
                request.extensions_mut().insert(Deadline::within(minute));
                let begin = Instant::now();
                let result = match layer {
                    "stack" => stack()
                        .service(server)
                        .oneshot(request)
                        .await
                        .map(|response| response.status()),
                    "backoff" => {
                        let service = ServerBusyBackoffLayer::ews().layer(server);
                        service
                            .oneshot(request.map(replay))
                            .await
                            .map(|response| response.status())
                    }
                    _ => {
                        let service = BatchSplitterLayer::new(EwsBatchFormat::new()).layer(server);
                        service
                            .oneshot(request.map(replay))
                            .await
                            .map(|response| response.status())
                    }
                };
                let case =
                    format!("{status}, {pause} s, {operation} of {members}, {layer}: {result:?}");
                assert!(begin.elapsed() <= minute, "{case}: {:?}", begin.elapsed());
                // A read changes nothing, and of a write nobody knows; or it is the server's own word.
                match result {
                    Ok(told) => assert_eq!(told, 500, "{case}"),
                    Err(error) => {
                        let is_write = operation == "CreateItem";
                        let failure = if is_write {
                            Failure::Lost
                        } else {
                            Failure::NotSent
                        };
                        assert_eq!(Failure::of(&*error), failure, "{case}");
                        assert!(error.is::<BackoffError>(), "{case}");
                    }
                }
            }
        }
    }
}

/// Jobs over thousands of mailboxes, some or all of which are refused: each is asked for once, and all together a few times.
#[tokio::test(start_paused = true)]
async fn a_job_asks_for_what_is_refused_a_few_times() {
    type Refused = fn(usize) -> bool;
    let (all, every_other, first_two, two_of_three): (Refused, Refused, Refused, Refused) = (
        |_| true,
        |user| user % 2 == 0,
        |user| user < 2,
        |user| user % 3 != 2,
    );
    for (refused, asked, scopes) in [
        (all, 3, [2, 1]),
        (every_other, 2 * 500 + 500, [500, 0]),
        (first_two, 2 * 998 + 2, [2, 0]),
        (two_of_three, 2 * 333 + 667, [667, 0]),
    ] {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let service = stack().service(service_fn(move |request: Request<ReplayBody>| {
            counted.fetch_add(1, Ordering::Relaxed);
            let body = String::from_utf8(request.into_body().to_bytes().to_vec()).unwrap();
            let (_, user) = body.split_once("SmtpAddress>user").unwrap();
            let user = user.split_once('@').unwrap().0.parse().unwrap();
            respond(if refused(user) {
                Reply::status(403)
            } else {
                good(&read(&body))
            })
        }));
        let mut told = BTreeMap::new();
        for user in (0..1000).chain(0..1000) {
            let request = impersonating(request("GetItem", 1), &format!("user{user}@contoso.com"));
            let scope = |denied: &AccessDenied| match denied.scope() {
                AccessScope::Mailbox(_) => "mailbox",
                _ => "caller",
            };
            let told = match service.clone().oneshot(request).await {
                Ok(response) => told.entry(response.extensions().get().map(scope)),
                Err(error) => told.entry(Some(match error.downcast_ref().map(scope).unwrap() {
                    "mailbox" => "mailbox, unsent",
                    _ => "caller, unsent",
                })),
            };
            *told.or_insert(0) += 1;
        }
        assert_eq!(count.load(Ordering::Relaxed), asked, "{told:?}");
        let told_by = |scope| told.get(&Some(scope)).copied().unwrap_or_default();
        assert_eq!([told_by("mailbox"), told_by("caller")], scopes, "{told:?}");
    }
}

/// Refused mailboxes of a batch that names many cost themselves alone, and a refusal of all is recognised.
#[tokio::test(start_paused = true)]
async fn refused_mailboxes_of_a_batch_cost_themselves_alone() {
    let folders: String = (0..40)
        .map(|user| format!(r#"<t:DistinguishedFolderId Id="inbox"><t:Mailbox><t:EmailAddress>ID{user:04}@contoso.com</t:EmailAddress></t:Mailbox></t:DistinguishedFolderId>"#))
        .collect();
    let body = format!(
        "<m:GetFolder><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape><m:FolderIds>{folders}</m:FolderIds></m:GetFolder>"
    );
    for refused in [
        vec![7],
        vec![0, 39],
        vec![3, 7, 8, 9, 30],
        (0..40).collect(),
    ] {
        let ids: Vec<String> = refused.iter().map(|user| format!("ID{user:04}")).collect();
        let outcome = send(soap(&body), None, move |ask| {
            match ask.ids.iter().any(|id| ids.contains(id)) {
                true => Reply::status(403),
                false => good(ask),
            }
        })
        .await;
        let case = format!("{refused:?}: {outcome:?}");
        let all = refused.len() == 40;
        assert_eq!(outcome.done(), 40 - refused.len(), "{case}");
        assert_eq!(outcome.status, Some(if all { 403 } else { 200 }), "{case}");
        assert!(outcome.requests() <= if all { 5 } else { 30 }, "{case}");
        let told = outcome.body.matches("HTTP 403").count();
        assert_eq!(told, if all { 0 } else { refused.len() }, "{case}");
    }
}

/// Servers that send on to each other for ever, hooks that name the same server or none: a few requests, and the caller is told.
#[tokio::test(start_paused = true)]
async fn servers_that_send_on_to_each_other_are_left_soon() {
    type Hook = fn(MailboxMoved) -> Option<Uri>;
    let known: Hook = |_| Some(Uri::from_static("https://b.contoso.com/EWS/Exchange.asmx"));
    let (there, same, none, relative): (Hook, Hook, Hook, Hook) = (
        |moved| moved.location,
        |moved| Some(moved.endpoint),
        |_| None,
        |_| Some(Uri::from_static("/EWS/Exchange.asmx")),
    );
    for (hook, is_there, hosts) in [
        (known, true, &["a", "b"][..]),
        (there, false, &["a", "b"]),
        (same, false, &["a", "a"]),
        (none, false, &["a"]),
        (relative, false, &["a"]),
    ] {
        for operation in ["GetItem", "CreateItem"] {
            for members in [1, 20] {
                let seen = Arc::new(Mutex::new(Vec::new()));
                let asked = Arc::new(AtomicUsize::new(0));
                let (saw, counted) = (Arc::clone(&seen), Arc::clone(&asked));
                let service = stack()
                    .find_endpoint(move |moved| {
                        counted.fetch_add(1, Ordering::Relaxed);
                        let found = hook(moved);
                        async move { found }
                    })
                    .service(service_fn(move |request: Request<ReplayBody>| {
                        let host = request.uri().host().unwrap()[..1].to_owned();
                        saw.lock().unwrap().push(host.clone());
                        let body =
                            String::from_utf8(request.into_body().to_bytes().to_vec()).unwrap();
                        let other = if host == "a" { "b" } else { "a" };
                        let location = format!("https://{other}.contoso.com/EWS/Exchange.asmx");
                        respond(match is_there && host == "b" {
                            true => good(&read(&body)),
                            false => Reply::status(302).with("location", &location),
                        })
                    }));
                let mut request = request(operation, members);
                *request.uri_mut() = Uri::from_static("https://a.contoso.com/EWS/Exchange.asmx");
                let response = service.oneshot(request).await.unwrap();
                let case = format!(
                    "{operation} of {members}, {hosts:?}: {:?}",
                    seen.lock().unwrap()
                );
                assert_eq!(*seen.lock().unwrap(), hosts, "{case}");
                assert_eq!(asked.load(Ordering::Relaxed), 1, "{case}");
                assert_eq!(
                    response.status(),
                    if is_there { 200 } else { 302 },
                    "{case}"
                );
                let told = response.extensions().get::<MailboxMoved>().is_some();
                assert_eq!(told, !is_there, "{case}");
            }
        }
    }
}

/// A stray denial of impersonation is tried once more where it was granted before, in single calls and in each part of a batch; the second
/// one in a row counts.
#[tokio::test(start_paused = true)]
async fn a_stray_denial_of_impersonation_costs_one_more_request() {
    for (operation, members) in [
        ("GetItem", 1),
        ("CreateItem", 1),
        ("GetItem", 20),
        ("CreateItem", 300),
    ] {
        for (mailbox, strays) in [
            ("amy@contoso.com", true),
            ("amy@contoso.com", false),
            ("bob@contoso.com", true),
        ] {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&count);
            let service = stack().service(service_fn(move |request: Request<ReplayBody>| {
                let number = counted.fetch_add(1, Ordering::Relaxed);
                let body = String::from_utf8(request.into_body().to_bytes().to_vec()).unwrap();
                let denied = number > 0 && (!strays || number % 2 == 1);
                respond(match denied {
                    true => Reply::xml(500, fault("ErrorImpersonateUserDenied", "")),
                    false => good(&read(&body)),
                })
            }));
            let first = impersonating(request("GetItem", 1), "amy@contoso.com");
            assert_eq!(service.clone().oneshot(first).await.unwrap().status(), 200);
            let request = impersonating(request(operation, members), mailbox);
            let response = service.oneshot(request).await.unwrap();
            let status = response.status();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let done = String::from_utf8_lossy(&body).matches(">NoError<").count();
            let requests = count.load(Ordering::Relaxed);
            let case = format!(
                "{operation} of {members}, {mailbox}, {strays}: {status}, {done}, {requests}"
            );
            let known = mailbox == "amy@contoso.com";
            assert_eq!(done, if known && strays { members } else { 0 }, "{case}");
            assert_eq!(status, if known && strays { 200 } else { 500 }, "{case}");
            let parts = if members == 300 { 6 } else { 1 };
            let most = match (known, strays) {
                (true, true) => 1 + 2 * parts,
                (true, false) => 1 + 2,
                _ => 1 + 1,
            };
            assert!(requests <= most, "{case}");
        }
    }
}

/// What stands around the members of a batch stands around those of each part, and what counts for a whole request stands in one.
#[tokio::test(start_paused = true)]
async fn what_stands_around_the_members_stays() {
    const TYPES: &str = "http://schemas.microsoft.com/exchange/services/2006/types";
    let own_prefix = format!(
        r#"<m:GetItem><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape><m:ItemIds xmlns:q="{TYPES}"><!-- <q:ItemId Id="no"/> --><q:ItemId Id="ID0000"/> <?p x?><q:ItemId Id='ID0001'></q:ItemId><q:OccurrenceItemId RecurringMasterId="ID0002" InstanceIndex="1"/></m:ItemIds></m:GetItem>"#
    );
    let no_prefix = format!(
        r#"<m:GetItem><m:ItemShape/><m:ItemIds><ItemId xmlns="{TYPES}" Id="ID0000"/><ItemId xmlns="{TYPES}" Id="ID0001"/></m:ItemIds></m:GetItem>"#
    );
    let change = |id: &str| {
        format!(
            r#"<t:ItemChange><t:ItemId Id="{id}" ChangeKey="k"/><t:Updates><t:DeleteItemField><t:FieldURI FieldURI="item:Subject"/></t:DeleteItemField></t:Updates></t:ItemChange>"#
        )
    };
    let changes: String = ["ID0000", "ID0001", "ID0000"]
        .into_iter()
        .map(change)
        .collect();
    let update = |resolution: &str| {
        format!(
            r#"<m:UpdateItem ConflictResolution="{resolution}" MessageDisposition="SaveOnly"><m:SavedItemFolderId><t:DistinguishedFolderId Id="drafts"/></m:SavedItemFolderId><m:ItemChanges>{changes}</m:ItemChanges></m:UpdateItem>"#
        )
    };
    let delegate = |id: usize| {
        format!(
            "<t:DelegateUser><t:UserId><t:PrimarySmtpAddress>ID{id:04}@contoso.com</t:PrimarySmtpAddress></t:UserId></t:DelegateUser>"
        )
    };
    let delegates: String = (0..3).map(delegate).collect();
    let delegates = format!(
        "<m:AddDelegate><m:Mailbox><t:EmailAddress>amy@contoso.com</t:EmailAddress></m:Mailbox><m:DelegateUsers>{delegates}</m:DelegateUsers><m:DeliverMeetingRequests>NoForward</m:DeliverMeetingRequests></m:AddDelegate>"
    );
    let configuration = "<m:GetServiceConfiguration><m:RequestedConfiguration><m:ConfigurationName>MailTips</m:ConfigurationName><m:ConfigurationName>ID0001</m:ConfigurationName></m:RequestedConfiguration></m:GetServiceConfiguration>";
    // How many parts are sent, what stands in each of them, and in how many something else does.
    for (body, parts, each, once, times) in [
        (own_prefix.as_str(), 3, "xmlns:q=", "InstanceIndex=\"1\"", 1),
        (
            &no_prefix,
            2,
            "<m:ItemShape/><m:ItemIds><ItemId xmlns=",
            "ID0001",
            1,
        ),
        (
            &update("NeverOverwrite"),
            3,
            "\"drafts\"",
            "ChangeKey=\"new\"",
            0,
        ),
        (
            &update("AutoResolve"),
            3,
            "\"drafts\"",
            "ChangeKey=\"new\"",
            1,
        ),
        (
            &delegates,
            3,
            "<t:EmailAddress>amy@contoso.com<",
            "NoForward",
            1,
        ),
        (configuration, 1, "MailTips", "ID0001", 1),
    ] {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let saw = Arc::clone(&sent);
        let layer = BatchSplitterLayer::new(EwsBatchFormat::new()).max_members(1);
        let service = layer.layer(service_fn(move |request: Request<ReplayBody>| {
            let body = String::from_utf8(request.into_body().to_bytes().to_vec()).unwrap();
            saw.lock().unwrap().push(body.clone());
            let text = match good(&read(&body)) {
                Reply::Response { body, .. } => {
                    body.replace("ChangeKey=\"c\"", "ChangeKey=\"new\"")
                }
                other => panic!("{other:?}"),
            };
            respond(Reply::xml(200, text))
        }));
        let response = service.oneshot(soap(body).map(replay)).await.unwrap();
        response.into_body().collect().await.unwrap();
        let sent = sent.lock().unwrap();
        assert_eq!(sent.len(), parts, "{sent:#?}");
        assert!(
            sent.iter().all(|part| part.contains(each)),
            "{each}: {sent:#?}"
        );
        let found = sent.iter().filter(|part| part.contains(once)).count();
        assert_eq!(found, times, "{once}: {sent:#?}");
    }
}
