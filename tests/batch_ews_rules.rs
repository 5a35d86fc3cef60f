//! Rules of single EWS operations when their batches are split, and what is said of responses that are none.

mod batch_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response, response};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_ews::batch_splitter::{
    Batch, BatchFormat, BatchReport, BatchSplitterLayer, EwsBatch, EwsBatchFormat, Explanation,
    MemberOutcome, Message, Order, PartFailure, PartOutcome, PartResponse,
};
use tower_ews::body::{ReplayBody, Rope};

use self::batch_server::requests::case_of;
use self::batch_server::{Fortune, Seen, Style, one_error, reply};

fn batch(request: String) -> EwsBatch {
    let request = Request::new(request.into());
    EwsBatchFormat::new().batch(&request).unwrap()
}

fn stopping(operation: &str, members: usize) -> EwsBatch {
    let request = case_of(operation).request(Style::Usual, members);
    let format = EwsBatchFormat::new().stop_after_error(true);
    format.batch(&Request::new(request.into())).unwrap()
}

fn head(status: u16) -> response::Parts {
    let response = Response::builder().status(status).body(()).unwrap();
    response.into_parts().0
}

fn text(rope: &Rope) -> String {
    String::from_utf8(rope.to_bytes().to_vec()).unwrap()
}

/// Sends a part, whose members have these fortunes. Returns what the server saw.
fn send(
    batch: &mut EwsBatch,
    members: &[usize],
    fortune: impl Fn(usize) -> Fortune,
) -> (Seen, Vec<Message>) {
    let seen = Seen::read(&batch.part(members).to_bytes());
    let body = reply(&seen, Style::Usual, |member| fortune(member.number()));
    match batch.response(members, &head(200), Rope::from(body)) {
        PartResponse::Messages { messages, .. } => (seen, messages),
        other => panic!("{other:?}"),
    }
}

fn outcomes(messages: &[Message]) -> Vec<MemberOutcome> {
    messages.iter().map(|message| message.outcome).collect()
}

fn failure(batch: &mut EwsBatch, members: &[usize], status: u16, body: &str) -> PartFailure {
    batch.part(members);
    match batch.response(members, &head(status), Rope::from(body.to_owned())) {
        PartResponse::Failure(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_conflict_that_was_asked_for_stays_one() {
    // The resolution, and the change key that the second change of the item has in a later part.
    for (resolution, expected) in [
        ("NeverOverwrite", "CQ"),
        ("AutoResolve", "new-tok-0000"),
        ("AlwaysOverwrite", "new-tok-0000"),
    ] {
        let request = case_of("UpdateItem")
            .request_of(Style::Usual, 6, |number, member| match number {
                0 | 4 => member.replace(&format!("tok-{number:04}"), "tok-0000"),
                _ => member,
            })
            .replace("AlwaysOverwrite", resolution);
        let mut batch = batch(request);
        send(&mut batch, &[0, 1], |_| Fortune::Done);
        let (seen, _) = send(&mut batch, &[3, 4], |_| Fortune::Done);
        let key = seen.members[1].change_key.as_deref();
        assert_eq!(key, Some(expected), "{resolution}");
    }
}

#[test]
fn an_occurrence_says_nothing_about_the_change_key_of_its_master() {
    let change = |id: &str| {
        format!(
            "<t:ItemChange>{id}<t:Updates><t:DeleteItemField><t:FieldURI FieldURI='item:Subject'/>\
             </t:DeleteItemField></t:Updates></t:ItemChange>"
        )
    };
    let master = change("<t:ItemId Id='tok-0000' ChangeKey='CQ'/>");
    let occurrence = change("<t:OccurrenceItemId RecurringMasterId='tok-0000' InstanceIndex='2'/>");
    let request = format!(
        "<m:UpdateItem ConflictResolution='AutoResolve'><m:ItemChanges>{occurrence}{master}</m:ItemChanges></m:UpdateItem>"
    );
    let mut batch = batch(Style::Usual.request(&request));
    send(&mut batch, &[0], |_| Fortune::Done);
    let (seen, _) = send(&mut batch, &[1], |_| Fortune::Done);
    assert_eq!(seen.members[0].change_key.as_deref(), Some("CQ"));
}

/// Delegates, of which these receive copies of meeting messages.
fn delegates(operation: &str, count: usize, receivers: &[usize]) -> EwsBatch {
    let delegates: String = (0..count)
        .map(|number| {
            let receives = receivers.contains(&number);
            format!(
                "<t:DelegateUser><t:UserId><t:PrimarySmtpAddress>tok-{number:04}@contoso.com</t:PrimarySmtpAddress>\
                 </t:UserId><t:ReceiveCopiesOfMeetingMessages> {receives}\n</t:ReceiveCopiesOfMeetingMessages>\
                 </t:DelegateUser>"
            )
        })
        .collect();
    batch(Style::Usual.request(&format!(
        "<m:{operation}><m:Mailbox><t:EmailAddress>a@contoso.com</t:EmailAddress></m:Mailbox>\
         <m:DelegateUsers>{delegates}</m:DelegateUsers>\
         <m:DeliverMeetingRequests>DelegatesOnly</m:DeliverMeetingRequests></m:{operation}>"
    )))
}

#[test]
fn meeting_requests_are_delivered_once_somebody_is_there_to_receive_them() {
    // Who receives copies, which part does nothing, and which parts say how meeting requests are delivered.
    let cases: [(&[usize], usize, [bool; 3]); 6] = [
        (&[], 9, [true, false, false]),
        (&[0], 9, [true, false, false]),
        (&[3, 5], 9, [false, true, false]),
        (&[4], 9, [false, false, true]),
        (&[2], 1, [false, true, true]),
        (&[], 0, [true, true, false]),
    ];
    for operation in ["AddDelegate", "UpdateDelegate"] {
        for (receivers, idle, expected) in cases {
            let mut batch = delegates(operation, 6, receivers);
            let mut said = Vec::new();
            for part in 0..3 {
                let (seen, _) = send(&mut batch, &[2 * part, 2 * part + 1], |_| {
                    match part == idle {
                        true => Fortune::error("ErrorDelegateNoUser"),
                        false => Fortune::Done,
                    }
                });
                let mut children = seen.children.iter();
                said.push(children.any(|child| child == "DeliverMeetingRequests"));
            }
            assert_eq!(said, expected, "{operation} {receivers:?} {idle}");
        }
    }
}

#[test]
fn by_default_a_stopped_batch_goes_on() {
    let mut batch = batch(case_of("CreateItem").request(Style::Usual, 6));
    let fortune = |number| match number {
        0 => Fortune::Done,
        1 => Fortune::error("ErrorAccessDenied"),
        _ => Fortune::STOPPED,
    };
    let (_, messages) = send(&mut batch, &[0, 1, 2], fortune);
    assert_eq!(
        outcomes(&messages),
        [
            MemberOutcome::Done,
            MemberOutcome::Failed,
            MemberOutcome::Stopped
        ]
    );
    assert!((0..6).all(|member| batch.needs(member).is_empty()));
    assert_eq!(batch_order(EwsBatchFormat::new(), "GetItem"), Order::Free);
}

fn batch_order(format: EwsBatchFormat, operation: &str) -> Order {
    let request = case_of(operation).request(Style::Usual, 6);
    format.batch(&Request::new(request.into())).unwrap().order()
}

#[test]
fn a_stopping_error_stops_later_parts_on_request() {
    use MemberOutcome::{Done, Failed};
    let format = EwsBatchFormat::new().stop_after_error(true);
    assert_eq!(batch_order(format, "CreateItem"), Order::Kept);
    assert_eq!(batch_order(format, "GetItem"), Order::Kept);

    // The server has stopped by itself; the last member of a part with a code that stops; a code that nobody knows, behind
    // which the server has stopped.
    let known: fn(usize) -> Fortune = |number| match number {
        0 => Fortune::Done,
        1 => Fortune::error("ErrorAccessDenied"),
        _ => Fortune::STOPPED,
    };
    let last: fn(usize) -> Fortune = |number| match number {
        2 => Fortune::error("ErrorQuotaExceeded"),
        _ => Fortune::Done,
    };
    let unheard: fn(usize) -> Fortune = |number| match number {
        0 => Fortune::error("ErrorOfNextYear"),
        _ => Fortune::STOPPED,
    };
    for (fortune, expected, stopper) in [
        (known, [Done, Failed, Failed], 1),
        (last, [Done, Done, Failed], 2),
        (unheard, [Failed; 3], 0),
    ] {
        let mut batch = stopping("CreateItem", 6);
        let (_, messages) = send(&mut batch, &[0, 1, 2], fortune);
        assert_eq!(outcomes(&messages), expected);
        for member in 0..6 {
            let needs: &[usize] = if member > stopper { &[stopper] } else { &[] };
            assert_eq!(batch.needs(member), needs, "{member} after {stopper}");
        }
        let why = Explanation::DependencyFailed { member: stopper };
        let message = text(&batch.explain(5, &why).unwrap());
        assert!(message.contains("ErrorBatchProcessingStopped"), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_behind_what_stopped_the_batch() {
    for (stop, expected) in [(false, 3), (true, 2)] {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let server = service_fn(move |request: Request<ReplayBody>| {
            count.fetch_add(1, Ordering::Relaxed);
            let seen = Seen::read(&request.body().to_bytes());
            let body = reply(&seen, Style::Usual, |member| match member.number() {
                3 => Fortune::error("ErrorAccessDenied"),
                _ => Fortune::Done,
            });
            std::future::ready(Ok::<_, BoxError>(Response::new(Full::<Bytes>::from(body))))
        });
        let layer = BatchSplitterLayer::new(EwsBatchFormat::new().stop_after_error(stop));
        let service = layer.max_members(2).parallel(3).layer(server);
        let request = case_of("GetItem").request(Style::Usual, 6);
        let response = service.oneshot(Request::new(request.into())).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert_eq!(sent.load(Ordering::Relaxed), expected);
        let undone = body.matches(">ErrorBatchProcessingStopped<").count();
        assert_eq!(undone, if stop { 2 } else { 0 }, "{body}");
        assert_eq!(body.matches(">ErrorAccessDenied<").count(), 1);
        assert_eq!(body.matches("<m:GetItemResponseMessage").count(), 6);
    }
}

/// `ErrorMoveCopyFailed` can come after the item was created. It is no code that stops a batch, so that the others are
/// created, at once, with and without the setting.
#[tokio::test(start_paused = true)]
async fn what_may_have_been_created_though_it_failed_is_told_and_stops_nobody() {
    for (operation, code, stop, unknown, requests) in [
        ("CreateItem", "ErrorMoveCopyFailed", false, 4, 5),
        ("CreateItem", "ErrorMoveCopyFailed", true, 4, 5),
        ("CreateItem", "ErrorItemPropertyRequestFailed", true, 4, 5),
        ("CreateItem", "ErrorItemNotFound", false, 0, 5),
        ("DeleteItem", "ErrorMoveCopyFailed", false, 0, 5),
        ("GetItem", "ErrorMoveCopyFailed", false, 0, 5),
        // The same of a code that stops it.
        ("CreateItem", "ErrorAccessDenied", true, 0, 1),
    ] {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let server = service_fn(move |request: Request<ReplayBody>| {
            count.fetch_add(1, Ordering::Relaxed);
            let seen = Seen::read(&request.body().to_bytes());
            let body = reply(&seen, Style::Usual, |member| match member.number() {
                0..4 => Fortune::error(code),
                _ => Fortune::Done,
            });
            std::future::ready(Ok::<_, BoxError>(Response::new(Full::<Bytes>::from(body))))
        });
        let layer = BatchSplitterLayer::new(EwsBatchFormat::new().stop_after_error(stop));
        let service = layer.max_members(2).layer(server);
        let request = case_of(operation).request(Style::Usual, 10);
        let begin = Instant::now();
        let response = service.oneshot(Request::new(request.into())).await.unwrap();
        let report: BatchReport = response.extensions().get().cloned().unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let what = format!("{operation}, {code}, {stop}");
        assert_eq!(sent.load(Ordering::Relaxed), requests, "{what}");
        assert!(begin.elapsed().is_zero(), "{what}");
        // In the server's own words.
        let own = body.matches(&*format!(">{code}<")).count();
        let done = body.matches(">NoError<").count();
        assert_eq!(
            (own, done),
            if requests == 1 { (2, 0) } else { (4, 6) },
            "{what}"
        );
        let stats = report.stats();
        assert_eq!((stats.unknown, stats.done), (unknown, done), "{what}");
    }
}

#[test]
fn what_stops_nothing_on_request() {
    // An error of one member, and a throttled one with what was left undone behind it.
    let own: fn(usize) -> Fortune = |number| match number {
        1 => Fortune::error("ErrorItemNotFound"),
        _ => Fortune::Done,
    };
    let busy: fn(usize) -> Fortune = |number| match number {
        0 => Fortune::Done,
        1 => Fortune::busy(5),
        _ => Fortune::STOPPED,
    };
    for (fortune, again) in [(own, 0), (busy, 2)] {
        let mut batch = stopping("GetItem", 6);
        let (_, messages) = send(&mut batch, &[0, 1, 2], fortune);
        let outcomes = outcomes(&messages);
        let retried = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, MemberOutcome::Retry(_)));
        assert_eq!(retried.count(), again);
        assert!((0..6).all(|member| batch.needs(member).is_empty()));
    }
}

#[test]
fn one_error_for_all_does_not_stop_before_it_is_known_whose_it_is() {
    let mut batch = stopping("CreateItem", 6);
    let seen = Seen::read(&batch.part(&[0, 1, 2]).to_bytes());
    let body = one_error(&seen, Style::Usual, "ErrorAccessDenied");
    let failure = failure(&mut batch, &[0, 1, 2], 200, &body);
    assert_eq!(failure.outcome, PartOutcome::Failed);
    assert!(batch.needs(5).is_empty());
    send(&mut batch, &[0], |_| Fortune::error("ErrorAccessDenied"));
    assert_eq!(batch.needs(1), [0]);
}

#[test]
fn pages_are_quoted() {
    let page = "<!DOCTYPE html>\r\n<html><head><title>Sign in</title><script>var secret = 1;</script>\
                </head><body>to your account</body></html>";
    let json = r#"{"error":"no"}"#;
    for (status, body, expected) in [
        (
            200,
            page,
            "the response is no SOAP: \"Sign in to your account\"",
        ),
        (
            500,
            page,
            "the server responded with HTTP 500: \"Sign in to your account\"",
        ),
        (
            403,
            json,
            "the server responded with HTTP 403: \"{\"error\":\"no\"}\"",
        ),
        (503, "", "the server responded with HTTP 503"),
        (200, "", "the response is no SOAP"),
        (502, "<br/>", "the server responded with HTTP 502"),
    ] {
        let mut batch = batch(case_of("GetItem").request(Style::Usual, 6));
        let failure = failure(&mut batch, &[0, 1], status, body);
        assert_eq!(&*failure.text, expected, "{status} {body}");
    }
    let mut batch = batch(case_of("GetItem").request(Style::Usual, 6));
    let long = "word ".repeat(1 << 20);
    let text = failure(&mut batch, &[0, 1], 500, &long).text;
    assert!(
        text.chars().count() < 180 && text.ends_with("\u{2026}\""),
        "{text}"
    );
    // What is SOAP may be somebody's mail.
    let soap = Style::Usual.envelope("<m:GetItemResponse><m:X>private</m:X></m:GetItemResponse>");
    let text = failure(&mut batch, &[0, 1], 500, &soap).text;
    assert_eq!(&*text, "the server responded with HTTP 500");
}
