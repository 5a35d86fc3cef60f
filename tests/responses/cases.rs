//! Batches as clients met them in the field, with what is right.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};
use tower_ews::batch_splitter::{BatchReport, BatchSplitterLayer, EwsBatchFormat};

use super::server::{
    Ask, Outcome, Reply, client, envelope, fault, good, messages, replay, request, send, soap,
};

const MINUTE: Duration = Duration::from_secs(60);

fn of(operation: &str, members: impl Fn(usize) -> String, count: usize, array: &str) -> String {
    let members: String = (0..count).map(members).collect();
    format!("<m:{operation}><m:{array}>{members}</m:{array}></m:{operation}>")
}

fn attachment_ids(count: usize) -> String {
    let id = |at: usize| format!(r#"<t:AttachmentId Id="ID{at:04}"/>"#);
    of("GetAttachment", id, count, "AttachmentIds")
}

/// Whether the seventh is asked for.
fn has_seventh(ask: &Ask) -> bool {
    ask.ids.iter().any(|id| id == "ID0007")
}

/// All but one of 20 are delivered, within a minute, and it has an error of its own.
fn one_of_twenty(outcome: &Outcome, what: &str) {
    assert_eq!(outcome.done(), 19, "{what}: {}", outcome.body);
    assert!(outcome.took < MINUTE, "{what}: {:?}", outcome.took);
    assert_eq!(
        outcome.body.matches("ResponseClass=\"Error\"").count(),
        1,
        "{what}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_fault_or_a_page_whenever_one_is_asked_for() {
    let refused = |response: fn() -> Reply| {
        move |ask: &Ask| match has_seventh(ask) {
            true => response(),
            false => good(ask),
        }
    };
    let faults: fn() -> Reply = || Reply::xml(500, fault("ErrorInternalServerError", ""));
    let page: fn() -> Reply = || Reply::page(500, "text/html", "<html>Runtime Error</html>");
    for (what, response) in [("a fault", faults), ("a page", page)] {
        let outcome = send(soap(&attachment_ids(20)), None, refused(response)).await;
        one_of_twenty(&outcome, what);
        let outcome = send(request("GetItem", 20), None, refused(response)).await;
        one_of_twenty(&outcome, what);
    }
}

#[tokio::test(start_paused = true)]
async fn one_entry_that_is_always_an_internal_error() {
    let id = |at: usize| format!(r#"<t:ItemChange><t:ItemId Id="ID{at:04}"/></t:ItemChange>"#);
    let updates = of("UpdateItem", id, 20, "ItemChanges");
    for call in [request("GetItem", 20), soap(&updates)] {
        let outcome = send(call, None, |ask| {
            messages(ask, |id| match id {
                "ID0007" => "ErrorInternalServerError".to_owned(),
                _ => "NoError".to_owned(),
            })
        })
        .await;
        one_of_twenty(&outcome, "an entry");
        let asked = outcome.asks.iter().filter(|ask| has_seventh(ask)).count();
        // As often as a single call is sent.
        assert_eq!(asked, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn what_refuses_all_is_recognised_at_once() {
    let login = || {
        Reply::page(
            200,
            "text/html",
            "<html><title>Sign in</title><body>to your account</body></html>",
        )
    };
    let outcome = send(request("GetItem", 1000), None, move |_| login()).await;
    assert!(outcome.requests() <= 11, "{}", outcome.requests());
    assert!(
        outcome.error.contains("Sign in to your account"),
        "{}",
        outcome.error
    );
    let timeout: fn(&Ask) -> Reply = |_| Reply::status(440);
    let header: fn(&Ask) -> Reply = |_| {
        Reply::xml(
            500,
            fault("ErrorInvalidExchangeImpersonationHeaderData", ""),
        )
    };
    for response in [timeout, header] {
        let outcome = send(request("CreateItem", 1000), None, response).await;
        assert_eq!((outcome.requests(), outcome.unknown), (1, 0));
    }
    // Nothing, and an empty body, are asked for again, a bounded number of times.
    let id = |at: usize| format!(r#"<t:FolderId Id="ID{at:04}"/>"#);
    let find = of("FindFolder", id, 2, "ParentFolderIds");
    let nothing: fn(&Ask) -> Reply = |_| Reply::xml(200, "");
    let empty: fn(&Ask) -> Reply = |_| Reply::xml(200, envelope(""));
    let other: fn(&Ask) -> Reply = |_| Reply::page(500, "text/html", "<html>No EWS here</html>");
    for response in [nothing, empty, other] {
        let outcome = send(soap(&find), None, response).await;
        assert!(outcome.done() == 0 && outcome.requests() > 1);
        assert!(
            outcome.requests() <= 12 && outcome.took < 2 * MINUTE,
            "{outcome:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_507_for_more_than_three() {
    let attachment =
        |at: usize| format!("<t:FileAttachment><t:Name>ID{at:04}</t:Name></t:FileAttachment>");
    let attachments: String = (0..10).map(attachment).collect();
    let body = format!(
        r#"<m:CreateAttachment><m:ParentItemId Id="P"/><m:Attachments>{attachments}</m:Attachments></m:CreateAttachment>"#
    );
    let outcome = send(soap(&body), None, |ask| match ask.ids.len() {
        0..=3 => good(ask),
        _ => Reply::status(507),
    })
    .await;
    assert_eq!(
        (outcome.done(), outcome.unknown),
        (10, 0),
        "{}",
        outcome.body
    );
}

/// The splitter alone, with a limit of 1 MiB for the response to a part.
#[tokio::test(start_paused = true)]
async fn one_message_that_is_longer_than_a_response_may_be() {
    let client = client(Default::default(), |ask| {
        let text = |id: &str| {
            if id == "ID0001" {
                "x".repeat(2 << 20)
            } else {
                String::new()
            }
        };
        let each = ask.ids.iter().map(|id| {
            format!(
                r#"<m:GetItemResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode><m:Items><t:Message><t:MimeContent>{}</t:MimeContent></t:Message></m:Items></m:GetItemResponseMessage>"#,
                text(id)
            )
        });
        let each: String = each.collect();
        Reply::xml(
            200,
            envelope(&format!(
                "<m:GetItemResponse><m:ResponseMessages>{each}</m:ResponseMessages></m:GetItemResponse>"
            )),
        )
    });
    let layer = BatchSplitterLayer::new(EwsBatchFormat::new()).max_response(1 << 20);
    let call = request("GetItem", 10).map(|body: Full<_>| replay(body));
    let response = layer.layer(client).oneshot(call).await.unwrap();
    let report: BatchReport = response.extensions().get().cloned().unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert_eq!(body.matches(">NoError<").count(), 9);
    assert!(body.contains("the limit that max_response sets"), "{body}");
    assert!(!body.contains("not known"), "{body}");
    let stats = report.stats();
    assert_eq!((stats.done, stats.unknown, stats.not_executed), (9, 0, 1));
}

fn good_body(ask: &Ask) -> String {
    match good(ask) {
        Reply::Response { body, .. } => body,
        other => panic!("{other:?}"),
    }
}

/// A status that refuses, around the messages of all members: what was done is not done again, alone or in a batch.
#[tokio::test(start_paused = true)]
async fn messages_count_whatever_the_status_says() {
    for status in [400, 500, 503] {
        for operation in ["GetItem", "CreateItem"] {
            for members in [1, 20, 300] {
                let outcome = send(request(operation, members), None, move |ask| {
                    Reply::xml(status, good_body(ask))
                })
                .await;
                let case = format!("{status}, {operation} of {members}: {outcome:?}");
                assert_eq!((outcome.done(), outcome.unknown), (members, 0), "{case}");
                assert!(outcome.requests() <= 6, "{case}");
                let sent: usize = outcome.asks.iter().map(|ask| ask.ids.len()).sum();
                assert_eq!(sent, members, "{case}");
                // A single call's response is handed on as it is.
                let told = if members == 1 { status } else { 200 };
                assert_eq!(outcome.status, Some(told), "{case}");
            }
        }
    }
    // One of them is busy, and only that one is sent again.
    for operation in ["GetItem", "CreateItem"] {
        let outcome = send(request(operation, 20), None, move |ask| {
            let busy = messages(ask, |id| match id {
                "ID0000" if ask.number == 0 => "ErrorServerBusy".to_owned(),
                _ => "NoError".to_owned(),
            });
            match busy {
                Reply::Response { body, .. } => Reply::xml(500, body),
                other => other,
            }
        })
        .await;
        let sizes: Vec<usize> = outcome.asks.iter().map(|ask| ask.ids.len()).collect();
        assert_eq!((outcome.done(), outcome.unknown), (20, 0), "{outcome:?}");
        assert_eq!(sizes, [20, 1], "{outcome:?}");
    }
}

/// Messages of success in a response that is not one to its part: they are nobody's, and never the response to all.
#[tokio::test(start_paused = true)]
async fn what_says_two_things_at_once_is_no_response_to_all() {
    let fault_behind: fn(&Ask) -> Reply = |ask| {
        let fault =
            "<s:Fault><faultcode>s:Server</faultcode><faultstring>x</faultstring></s:Fault>";
        Reply::xml(
            200,
            good_body(ask).replace("</s:Body>", &format!("{fault}</s:Body>")),
        )
    };
    let too_few: fn(&Ask) -> Reply = |ask| match ask.ids.len() {
        0 | 1 => Reply::xml(500, envelope("")),
        _ => {
            let mut ask = ask.clone();
            ask.ids.pop();
            Reply::xml(500, good_body(&ask))
        }
    };
    for (name, response) in [("a fault behind", fault_behind), ("too few, 500", too_few)] {
        for operation in ["GetItem", "CreateItem"] {
            for members in [20, 300] {
                let outcome = send(request(operation, members), None, response).await;
                let case = format!("{name}, {operation} of {members}: {outcome:?}");
                // What came to one member alone is its own, and what has an error's status is no success.
                let is_error = outcome.status.is_none_or(|status| status >= 400);
                assert!(outcome.done() <= 3 || is_error, "{case}");
                assert!(outcome.requests() <= 11 && outcome.took < MINUTE, "{case}");
                let sent: usize = outcome.asks.iter().map(|ask| ask.ids.len()).sum();
                if operation == "CreateItem" {
                    assert!(outcome.says_unknown() && sent <= 51, "{case}");
                } else {
                    assert_eq!(outcome.unknown, 0, "{case}");
                }
            }
        }
    }
}

/// An element that is no message is nobody's message, whatever stands in it.
#[tokio::test(start_paused = true)]
async fn a_list_in_a_list_is_not_the_message_of_each_member() {
    for members in [20, 300] {
        let outcome = send(request("GetItem", members), None, |ask| {
            let (begin, end) = ("<m:ResponseMessages>", "</m:ResponseMessages>");
            let body = good_body(ask).replace(begin, &begin.repeat(2));
            Reply::xml(200, body.replace(end, &end.repeat(2)))
        })
        .await;
        let case = format!("{members}: {} requests", outcome.requests());
        assert!(outcome.done() <= members, "{} done, {case}", outcome.done());
        for member in 0..members {
            let id = format!("\"ID{member:04}\"");
            assert!(outcome.body.matches(&id).count() <= 1, "{id}, {case}");
        }
    }
}

/// A fault means the same alone and in a batch, whatever its status, and its wait counts without a code that is known.
#[tokio::test(start_paused = true)]
async fn a_fault_says_the_same_alone_and_in_a_batch() {
    let text = "ErrorServerBusy it is. Suggested backoff time 7000 ms.";
    let busy = fault("ErrorServerBusy", "").replace("ErrorServerBusy it is.", text);
    let no_code = envelope(&format!(
        "<s:Fault><faultcode>s:Server</faultcode><faultstring>{text}</faultstring></s:Fault>"
    ));
    for (status, body, operations) in [
        (400, &busy, &["GetItem", "CreateItem"][..]),
        (500, &busy, &["GetItem", "CreateItem"]),
        (503, &no_code, &["GetItem", "CreateItem"]),
        (500, &no_code, &["GetItem"]),
    ] {
        for operation in operations {
            for members in [1, 20] {
                let body = body.clone();
                let outcome = send(request(operation, members), None, move |ask| {
                    match ask.number {
                        0 => Reply::xml(status, body.clone()),
                        _ => good(ask),
                    }
                })
                .await;
                let case = format!("{status}, {operation} of {members}: {outcome:?}");
                assert_eq!((outcome.done(), outcome.unknown), (members, 0), "{case}");
                assert!(outcome.took >= Duration::from_secs(7), "{case}");
                assert!(outcome.took < Duration::from_secs(12), "{case}");
            }
        }
    }
    // Refused for what was asked, in words that nobody knows.
    for members in [1, 20] {
        let unknown: fn(&Ask) -> Reply = |_| Reply::xml(400, fault("ErrorOfNextYear", ""));
        let outcome = send(request("CreateItem", members), None, unknown).await;
        assert!(
            !outcome.says_unknown() && outcome.requests() <= 5,
            "{outcome:?}"
        );
    }
}

/// A list of waits: the longest one counts, in a response and inside of a Graph batch.
#[tokio::test(start_paused = true)]
async fn the_longest_of_several_waits() {
    for waits in ["30,120", "0,120", "30, 120", "120,30"] {
        for status in [429, 503] {
            for (operation, members) in [("GetItem", 1), ("CreateItem", 20)] {
                let outcome = send(request(operation, members), None, move |ask| {
                    match ask.number {
                        0 => Reply::status(status).with("retry-after", waits),
                        _ => good(ask),
                    }
                })
                .await;
                let case = format!("{waits}, {status}, {operation}: {outcome:?}");
                assert_eq!((outcome.requests(), outcome.done()), (2, members), "{case}");
                assert!(outcome.took >= Duration::from_secs(120), "{case}");
                assert!(outcome.took < Duration::from_secs(125), "{case}");
            }
        }
    }
}

/// Any status, with nothing or a page behind it: a bounded number of requests, and nothing is done twice that may have been done.
#[tokio::test(start_paused = true)]
async fn any_status_is_bounded() {
    let others = [600, 605, 700, 999];
    let mut wrong = Vec::new();
    for status in (200..600).chain(others) {
        for page in ["", "<html><title>Moved</title></html>"] {
            let response = move |_: &Ask| match page {
                "" => Reply::status(status),
                page => Reply::page(status, "text/html", page),
            };
            for (operation, members) in [("GetItem", 1), ("GetItem", 20), ("CreateItem", 20)] {
                let outcome = send(request(operation, members), None, response).await;
                let case = format!(
                    "{status} {page:?}, {operation} of {members}: {} requests, {:?}, {} unknown, {:?}, {}",
                    outcome.requests(),
                    outcome.took,
                    outcome.unknown,
                    outcome.status,
                    outcome.error
                );
                let throttled = [429, 503].contains(&status);
                let (most, longest) = match throttled {
                    true => (90, Duration::from_secs(901)),
                    false => (11, 3 * MINUTE),
                };
                let bounded = outcome.requests() <= most && outcome.took <= longest;
                // A page is handed on as what it is.
                let told = outcome
                    .status
                    .is_some_and(|told| told != 200 || status == 200)
                    || !outcome.error.is_empty();
                // What is certain not to have been executed.
                let again = throttled
                    || [506, 507, 508, 510].contains(&status)
                    || (400..500).contains(&status);
                let mut asked = outcome
                    .asks
                    .iter()
                    .flat_map(|ask| &ask.ids)
                    .collect::<Vec<_>>();
                asked.sort_unstable();
                let twice = asked.windows(2).any(|pair| pair[0] == pair[1]);
                let doubled = operation == "CreateItem" && twice && !again;
                if !bounded || !told || doubled || operation == "GetItem" && outcome.unknown > 0 {
                    wrong.push(case);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is no SOAP goes by its method: a photo, or another API through the layer for plain HTTP.
#[tokio::test(start_paused = true)]
async fn a_photo_is_asked_for_again() {
    let photo = || {
        let request =
            http::Request::get("https://mail.contoso.com/EWS/Exchange.asmx/s/GetUserPhoto");
        request.body(replay(Full::default())).unwrap()
    };
    let failures: [fn() -> Reply; 9] = [
        || Reply::Reset,
        || Reply::status(500),
        || Reply::status(502),
        || Reply::status(504),
        || Reply::status(408),
        || Reply::status(509),
        || Reply::status(504).with("retry-after", "2"),
        || Reply::status(500).with("retry-after", "2"),
        || Reply::status(502).with("retry-after", "2"),
    ];
    for (at, failure) in failures.into_iter().enumerate() {
        for ends in [true, false] {
            let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let counted = std::sync::Arc::clone(&count);
            let server = tower::service_fn(move |_: http::Request<tower_ews::body::ReplayBody>| {
                let number = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                super::server::respond(match ends && number == 2 {
                    true => Reply::page(200, "image/jpeg", "a photo"),
                    false => failure(),
                })
            });
            let begin = tokio::time::Instant::now();
            let plain = tower_ews::server_busy_backoff::ServerBusyBackoffLayer::http()
                .layer(server.clone());
            let result = plain.oneshot(photo()).await;
            let status = result.map(|response| response.status().as_u16());
            let requests = count.swap(0, std::sync::atomic::Ordering::Relaxed);
            let case = format!(
                "{at}, {ends}: {status:?}, {requests}, {:?}",
                begin.elapsed()
            );
            assert_eq!(requests, if ends { 3 } else { 7 }, "{case}");
            assert_eq!(status.is_ok_and(|status| status == 200), ends, "{case}");
            assert!(begin.elapsed() < MINUTE, "{case}");
            let ews = tower_ews::server_busy_backoff::ServerBusyBackoffLayer::ews().layer(server);
            let result = ews.oneshot(photo()).await;
            if let Err(error) = &result {
                assert!(!error.to_string().contains("may have"), "{error}");
            }
            let requests = count.load(std::sync::atomic::Ordering::Relaxed);
            assert_eq!(requests, if ends { 3 } else { 7 }, "{case}");
        }
    }
}
