//! Every shape of response that Exchange is known to give, with what is to be made of it.

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    /// Nothing that this layer could cure.
    PassOn,
    /// Not executed: sent again, whatever it is.
    NotExecuted,
    /// Perhaps executed: sent again if that does no harm.
    Unknown,
    /// Perhaps executed: handed on.
    NoSoap,
}
use Expected::{NoSoap, NotExecuted, PassOn, Unknown};

#[derive(Clone, Copy, Debug, PartialEq)]
enum To {
    Nobody,
    Principal,
    Endpoint,
    Connections,
    Found,
    Mailboxes,
}

struct Row {
    name: &'static str,
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
    expected: Expected,
    retry_after: Option<u64>,
    to: To,
}

fn row(
    name: &'static str,
    status: u16,
    body: impl Into<String>,
    expected: Expected,
    retry_after: Option<u64>,
    to: To,
) -> Row {
    Row {
        name,
        status,
        headers: vec![XML],
        body: body.into(),
        expected,
        retry_after,
        to,
    }
}

impl Row {
    fn headers(mut self, headers: &[(&'static str, &'static str)]) -> Self {
        self.headers = headers.to_vec();
        self
    }
}

/// The shapes that are known from servers or their documents.
fn known_shapes() -> Vec<Row> {
    let errors = r#"xmlns:e="http://schemas.microsoft.com/exchange/services/2006/errors""#;
    let html =
        "<!DOCTYPE html>\n<html><head><title>Sorry</title></head><body><p>Later.<br></body></html>";
    let inner = |code: &str| {
        format!(
            r#"<m:MessageXml><t:Value Name="InnerErrorMessageText">inner</t:Value
            ><t:Value Name="InnerErrorResponseCode">{code}</t:Value></m:MessageXml>"#
        )
    };
    let session_limit = messages("FindItem", &[("Error", "ErrorTooManyObjectsOpened", "")])
        .replace(
            "text",
            "Cannot open mailbox. Inner: [MapiExceptionSessionLimit] maiboxGuid=1",
        );
    let stream = |status: &str| {
        messages(
            "GetStreamingEvents",
            &[(
                "Success",
                "NoError",
                &format!("<m:ConnectionStatus>{status}</m:ConnectionStatus>"),
            )],
        )
    };
    vec![
        row("fault, busy, with back-off", 500, busy_fault("297749"), NotExecuted, Some(297_749), To::Principal),
        row("fault, busy, no back-off", 500, fault("ErrorServerBusy", ""), NotExecuted, None, To::Principal),
        row(
            "fault, busy, MessageXml in the errors namespace",
            500,
            fault(
                "ErrorServerBusy",
                &format!(r#"<e:MessageXml {errors}><e:Value Name="BackOffMilliseconds">60000</e:Value></e:MessageXml>"#),
            ),
            NotExecuted,
            Some(60_000),
            To::Principal,
        ),
        row(
            "fault, busy, white space",
            500,
            busy_fault("\n\t 297749 \n").replace(">ErrorServerBusy<", ">\r\n   ErrorServerBusy\n <"),
            NotExecuted,
            Some(297_749),
            To::Principal,
        ),
        row(
            "fault, busy, SOAP 1.2 namespace",
            500,
            busy_fault("60000").replace(
                "http://schemas.xmlsoap.org/soap/envelope/",
                "http://www.w3.org/2003/05/soap-envelope",
            ),
            NotExecuted,
            Some(60_000),
            To::Principal,
        )
        .headers(&[("content-type", "application/soap+xml; charset=utf-8")]),
        row("fault, too many connections", 500, fault("ErrorExceededConnectionCount", ""), NotExecuted, None, To::Connections),
        row("fault, server version", 500, fault("ErrorInvalidServerVersion", ""), PassOn, None, To::Nobody),
        row(
            "one message, busy",
            200,
            messages("SyncFolderItems", &[("Error", "ErrorServerBusy", &back_off("5000"))]),
            NotExecuted,
            Some(5_000),
            To::Principal,
        ),
        row(
            "three messages, two of them busy",
            200,
            messages(
                "GetItem",
                &[
                    ("Success", "NoError", "<m:Items/>"),
                    ("Error", "ErrorServerBusy", &back_off("10000")),
                    ("Error", "ErrorServerBusy", &back_off("12000")),
                ],
            ),
            PassOn,
            Some(12_000),
            To::Principal,
        ),
        row(
            "inner code busy",
            200,
            messages("DeleteItem", &[("Error", "ErrorInternalServerError", &inner("ErrorServerBusy"))]),
            NotExecuted,
            None,
            To::Principal,
        ),
        row(
            "inner code permanent",
            200,
            messages("DeleteItem", &[("Error", "ErrorInternalServerError", &inner("ErrorQuotaExceededOnDelete"))]),
            PassOn,
            None,
            To::Nobody,
        ),
        row(
            "first folder found, second mailbox not opened",
            200,
            session_limit.replace(
                "<m:FindItemResponseMessage ResponseClass=\"Error\">",
                "<m:FindItemResponseMessage ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode\
                 ></m:FindItemResponseMessage><m:FindItemResponseMessage ResponseClass=\"Error\">",
            ),
            PassOn,
            None,
            To::Mailboxes,
        ),
        row(
            "too many rows",
            200,
            messages("FindItem", &[("Error", "ErrorExceededFindCountLimit", "")]),
            NotExecuted,
            None,
            To::Found,
        ),
        row(
            "short page",
            200,
            messages(
                "FindItem",
                &[("Success", "NoError", r#"<m:RootFolder IncludesLastItemInRange="false"/>"#)],
            ),
            PassOn,
            None,
            To::Nobody,
        ),
        row(
            "too many subscriptions",
            200,
            messages("Subscribe", &[("Error", "ErrorExceededSubscriptionCount", "")]),
            PassOn,
            None,
            To::Nobody,
        ),
        row(
            "batch stopped by an overloaded server, first item served",
            200,
            messages(
                "GetItem",
                &[
                    ("Success", "NoError", ""),
                    ("Error", "ErrorInsufficientResources", ""),
                    ("Warning", "ErrorBatchProcessingStopped", ""),
                    ("Warning", "ErrorBatchProcessingStopped", ""),
                ],
            ),
            PassOn,
            None,
            To::Principal,
        ),
        row(
            "batch stopped by a denied access",
            200,
            messages(
                "CreateItem",
                &[
                    ("Error", "ErrorAccessDenied", ""),
                    ("Warning", "ErrorBatchProcessingStopped", ""),
                ],
            ),
            PassOn,
            None,
            To::Nobody,
        ),
        row(
            "one error for the whole batch",
            200,
            messages("CreateItem", &[("Error", "ErrorSavedItemFolderNotFound", "")]),
            PassOn,
            None,
            To::Nobody,
        ),
        row(
            "timed out",
            200,
            messages("GetItem", &[("Error", "ErrorTimeoutExpired", "")]),
            Unknown,
            None,
            To::Nobody,
        ),
        row(
            "free/busy of two, one failed",
            200,
            envelope(&format!(
                r#"<m:GetUserAvailabilityResponse {M}><m:FreeBusyResponseArray>
                <m:FreeBusyResponse><m:ResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode
                ></m:ResponseMessage></m:FreeBusyResponse>
                <m:FreeBusyResponse><m:ResponseMessage ResponseClass="Error"><m:ResponseCode
                >ErrorMailboxLogonFailed</m:ResponseCode></m:ResponseMessage></m:FreeBusyResponse>
                </m:FreeBusyResponseArray></m:GetUserAvailabilityResponse>"#
            )),
            PassOn,
            None,
            To::Nobody,
        ),
        row(
            "dead connection to the store",
            200,
            messages("GetFolder", &[("Error", "ErrorConnectionFailedTransientError", "")]),
            Unknown,
            None,
            To::Nobody,
        ),
        row(
            "subscriptions gone",
            200,
            messages(
                "GetStreamingEvents",
                &[("Error", "ErrorSubscriptionNotFound", "<m:ErrorSubscriptionIds/>")],
            ),
            PassOn,
            None,
            To::Nobody,
        ),
        row("fault with a success status", 200, fault("ErrorAccessDenied", ""), PassOn, None, To::Nobody),
        row("503 page", 503, html, NotExecuted, None, To::Endpoint)
            .headers(&[("content-type", "text/html; charset=us-ascii"), ("connection", "close")]),
        row("503 with Retry-After", 503, "", NotExecuted, Some(30_000), To::Endpoint)
            .headers(&[("content-type", "text/html"), ("retry-after", "30")]),
        row("503 and nothing else", 503, "", NotExecuted, None, To::Endpoint).headers(&[("content-length", "0")]),
        row("401 of OAuth", 401, "", PassOn, None, To::Nobody)
            .headers(&[("x-ms-diagnostics", "2000008;reason=\"no\""), ("www-authenticate", "Bearer")]),
        row("401 challenge", 401, "", PassOn, None, To::Nobody).headers(&[("www-authenticate", "Negotiate")]),
        row("403 of a blocked tenant", 403, "", PassOn, None, To::Nobody).headers(&[("retry-after", "5")]),
        row("403 of another API", 403, r#"{"error":{"code":"ErrorServerBusy"}}"#, PassOn, None, To::Nobody)
            .headers(&[("content-type", "application/json")]),
        row("429", 429, r#"{"error":{"code":"ApplicationThrottled"}}"#, NotExecuted, Some(10_000), To::Principal)
            .headers(&[("content-type", "application/json"), ("retry-after", "10")]),
        row("500 page", 500, html, Unknown, None, To::Nobody).headers(&[("content-type", "text/html")]),
        row("500 of the front end", 500, "", Unknown, None, To::Nobody).headers(&[("x-caserrorcode", "CAS error: X")]),
        row("302 to the error page", 302, "", Unknown, None, To::Nobody)
            .headers(&[("location", "/ews/GenericErrorPage.htm?aspxerrorpath=/ews/exchange.asmx")]),
        row("456 of a locked account", 456, "", PassOn, None, To::Nobody).headers(&[("retry-after", "5")]),
        row("413", 413, html, PassOn, None, To::Nobody).headers(&[("content-type", "text/html")]),
        row("stream of envelopes", 200, stream("OK") + &stream("Closed"), PassOn, None, To::Nobody),
    ]
}

/// What else may come.
fn more_shapes() -> Vec<Row> {
    let plain = |retry_after| busy_fault("1500").replace("1500", retry_after);
    let all = |code| messages("CreateItem", &[("Error", code, ""), ("Error", code, "")]);
    vec![
        row(
            "wait of 0",
            500,
            plain("0"),
            NotExecuted,
            None,
            To::Principal,
        ),
        row(
            "wait below 0",
            500,
            plain("-5"),
            NotExecuted,
            None,
            To::Principal,
        ),
        row(
            "wait that is no number",
            500,
            plain("soon"),
            NotExecuted,
            None,
            To::Principal,
        ),
        row(
            "wait that is empty",
            500,
            plain(""),
            NotExecuted,
            None,
            To::Principal,
        ),
        row(
            "wait with decimals",
            500,
            plain("1500.0"),
            NotExecuted,
            Some(1_500),
            To::Principal,
        ),
        row(
            "wait in a later Value",
            200,
            messages(
                "GetItem",
                &[(
                    "Error",
                    "ErrorServerBusy",
                    r#"<m:MessageXml><t:Value Name="Policy">x</t:Value><t:Value Name="BackOffMilliseconds">700</t:Value></m:MessageXml>"#,
                )],
            ),
            NotExecuted,
            Some(700),
            To::Principal,
        ),
        row(
            "busy fault with a success status",
            200,
            busy_fault("250"),
            NotExecuted,
            Some(250),
            To::Principal,
        ),
        row(
            "unknown code",
            200,
            all("ErrorOfTheFuture"),
            PassOn,
            None,
            To::Nobody,
        ),
        row(
            "all members busy",
            200,
            all("ErrorServerBusy"),
            NotExecuted,
            None,
            To::Principal,
        ),
        row(
            "all members timed out",
            200,
            all("ErrorTimeoutExpired"),
            Unknown,
            None,
            To::Nobody,
        ),
        row(
            "failing over",
            200,
            all("ErrorMailboxFailover"),
            Unknown,
            None,
            To::Nobody,
        ),
        row(
            "partly applied",
            200,
            all("ErrorPublicFolderSyncException"),
            PassOn,
            None,
            To::Nobody,
        ),
        row(
            "sending quota",
            200,
            all("ErrorSubmissionQuotaExceeded"),
            PassOn,
            None,
            To::Nobody,
        ),
        row(
            "stale item",
            200,
            all("ErrorStaleObject"),
            PassOn,
            None,
            To::Nobody,
        ),
        row(
            "internal error without inner code",
            200,
            all("ErrorInternalServerError"),
            Unknown,
            None,
            To::Nobody,
        ),
        row(
            "one not executed, one perhaps",
            200,
            messages(
                "CreateItem",
                &[
                    ("Error", "ErrorServerBusy", ""),
                    ("Error", "ErrorTimeoutExpired", ""),
                ],
            ),
            Unknown,
            None,
            To::Principal,
        ),
        row(
            "batch stopped before anything was done",
            200,
            messages(
                "CreateItem",
                &[
                    ("Error", "ErrorInsufficientResources", ""),
                    ("Warning", "ErrorBatchProcessingStopped", ""),
                ],
            ),
            NotExecuted,
            None,
            To::Principal,
        ),
        row(
            "session limit named in the text alone",
            200,
            all("ErrorAccessDenied").replace("text", "MapiExceptionSessionLimit: x"),
            NotExecuted,
            None,
            To::Mailboxes,
        ),
        row(
            "session limit in the text of a code that leaves a doubt",
            200,
            all("ErrorMailboxStoreUnavailable").replace("text", "MapiExceptionSessionLimit: x"),
            Unknown,
            None,
            To::Mailboxes,
        ),
        row(
            "no connection to the mailbox",
            200,
            all("ErrorConnectionFailed"),
            Unknown,
            None,
            To::Nobody,
        ),
        row(
            "no connection to the mailbox, as inner code",
            200,
            messages(
                "CreateItem",
                &[(
                    "Error",
                    "ErrorInternalServerError",
                    r#"<m:MessageXml><t:Value Name="InnerErrorResponseCode">ErrorConnectionFailed</t:Value></m:MessageXml>"#,
                )],
            ),
            Unknown,
            None,
            To::Nobody,
        ),
        row(
            "no store",
            500,
            fault("ErrorMailboxStoreUnavailable", ""),
            Unknown,
            None,
            To::Nobody,
        ),
        row(
            "mailbox on its way to another server",
            200,
            all("ErrorMailboxMoveInProgress"),
            NotExecuted,
            None,
            To::Nobody,
        ),
        row(
            "failed for good, perhaps after the meeting response was sent",
            200,
            all("ErrorMoveCopyFailed"),
            PassOn,
            None,
            To::Nobody,
        ),
        row(
            "failed for good, perhaps after the item was saved",
            200,
            all("ErrorItemPropertyRequestFailed"),
            PassOn,
            None,
            To::Nobody,
        ),
        row(
            "schema error",
            500,
            fault("ErrorSchemaValidation", ""),
            PassOn,
            None,
            To::Nobody,
        ),
        row(
            "impersonation denied",
            500,
            fault("ErrorImpersonateUserDenied", ""),
            PassOn,
            None,
            To::Nobody,
        ),
        row(
            "Retry-After and a longer fault",
            503,
            busy_fault("60000"),
            NotExecuted,
            Some(60_000),
            To::Principal,
        )
        .headers(&[XML, ("retry-after", "30")]),
        row(
            "a fault and a longer Retry-After",
            503,
            busy_fault("6000"),
            NotExecuted,
            Some(30_000),
            To::Principal,
        )
        .headers(&[XML, ("retry-after", "30")]),
        row(
            "503 with an HTTP-date",
            503,
            "",
            NotExecuted,
            Some(90_000),
            To::Endpoint,
        )
        .headers(&[
            ("date", "Tue, 06 Oct 2026 10:00:00 GMT"),
            ("retry-after", "Tue, 06 Oct 2026 10:01:30 GMT"),
        ]),
        row(
            "429 with decimals",
            429,
            "",
            NotExecuted,
            Some(2_500),
            To::Principal,
        )
        .headers(&[("retry-after", "2.5")]),
        row(
            "503 with a broken Retry-After",
            503,
            "",
            NotExecuted,
            None,
            To::Endpoint,
        )
        .headers(&[("retry-after", "soon")]),
        row(
            "a fault that cannot be decompressed",
            500,
            busy_fault("1500"),
            Unknown,
            None,
            To::Nobody,
        )
        .headers(&[XML, ("content-encoding", "br")]),
        row(
            "compressed 503",
            503,
            "\u{1f}\u{8b}",
            NotExecuted,
            Some(3_000),
            To::Endpoint,
        )
        .headers(&[XML, ("content-encoding", "gzip"), ("retry-after", "3")]),
        row("empty 500", 500, "", Unknown, None, To::Nobody).headers(&[]),
        row(
            "502 of a proxy",
            502,
            "Bad Gateway",
            Unknown,
            None,
            To::Nobody,
        )
        .headers(&[]),
        row("another redirect", 302, "", PassOn, None, To::Nobody)
            .headers(&[("location", "/owa/")]),
        row(
            "malformed response",
            200,
            "<s:Envelope><s:Body></s:Nonsense>",
            Unknown,
            None,
            To::Nobody,
        ),
        row(
            "a page with a success status",
            200,
            "<html><br></html>",
            NoSoap,
            None,
            To::Nobody,
        ),
        row(
            "JSON with a success status",
            200,
            r#"{"a":"ErrorServerBusy"}"#,
            NoSoap,
            None,
            To::Nobody,
        )
        .headers(&[("content-type", "application/json")]),
        row(
            "a fault that somebody mailed",
            200,
            {
                let mail = busy_fault("9").replace('<', "&lt;");
                messages(
                    "GetItem",
                    &[("Success", "NoError", &format!("<t:Body>{mail}</t:Body>"))],
                )
            },
            PassOn,
            None,
            To::Nobody,
        ),
    ]
}

fn expected_signal(row: &Row, begin: Instant) -> Option<(To, Option<Instant>)> {
    (row.to != To::Nobody).then(|| {
        (
            row.to,
            row.retry_after
                .map(|retry_after| begin + with_margin(millis(retry_after))),
        )
    })
}

#[tokio::test(start_paused = true)]
async fn every_shape_is_understood() {
    let shapes: Vec<Row> = known_shapes().into_iter().chain(more_shapes()).collect();
    assert_eq!(known_shapes().len(), 37);
    for row in &shapes {
        for (operation, may_repeat) in [("CreateItem", false), ("GetItem", true)] {
            let name = format!("{operation}: {}", row.name);
            let resent = match row.expected {
                PassOn | NoSoap => false,
                NotExecuted => true,
                Unknown => may_repeat,
            };

            // Each call waits by itself.
            let log = Log::new();
            let server = Server::new(&log)
                .respond(row.status, &row.headers, &row.body)
                .xml(200, &success());
            let response = send(
                ServerBusyBackoffLayer::ews().seed(1),
                &server,
                ews(operation),
            )
            .await;
            let response = response.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            let calls = log.calls();
            assert_eq!(calls.len(), 1 + usize::from(resent), "{name}");
            if resent {
                let wait = calls[1] - calls[0];
                match row.retry_after {
                    Some(retry_after) => {
                        assert_eq!(wait, with_margin(millis(retry_after)), "{name}")
                    }
                    None => assert!(wait <= millis(500) && wait >= millis(1), "{name}: {wait:?}"),
                }
                let info = info(&response).clone();
                assert_eq!(
                    (info.attempts, info.backed_off, info.gave_up),
                    (2, wait, false),
                    "{name}"
                );
                assert!(info.signal.is_some(), "{name}");
                assert_eq!(text(response).await, success(), "{name}");
            } else {
                let unknown = matches!(row.expected, Unknown | NoSoap) && !may_repeat;
                let told = response
                    .extensions()
                    .get()
                    .is_some_and(|info: &RetryInfo| info.outcome_unknown);
                assert_eq!(told, unknown, "{name}");
                assert_eq!(response.status().as_u16(), row.status, "{name}");
                assert_eq!(text(response).await, row.body, "{name}");
            }

            // A ledger is told.
            let log = Log::new();
            let begin = Instant::now();
            let server = Server::new(&log)
                .charged()
                .respond(row.status, &row.headers, &row.body)
                .xml(200, &success());
            let layer = ServerBusyBackoffLayer::ews().ledger(recorder(&log)).seed(1);
            send(layer, &server, ews(operation)).await.unwrap();
            let signals = log.signals();
            let mut signals = signals.iter().rev();
            let last = signals.find(|signal| !matches!(signal, Signal::Limit { .. }));
            let last = last.map(|signal| match *signal {
                Signal::Busy { until } => (To::Principal, Some(until)),
                Signal::EndpointBusy { until } => (To::Endpoint, Some(until)),
                Signal::Exceeded(Budget::Concurrency) => (To::Connections, None),
                Signal::Exceeded(Budget::FindCount) => (To::Found, None),
                Signal::Exceeded(Budget::OpenMailboxes) => (To::Mailboxes, None),
                Signal::Exceeded(other) => panic!("{name}: no response names {other:?}"),
                Signal::Limit { .. } => unreachable!("left out"),
                Signal::Accepted => panic!("{name}: no call here tests a gate"),
                Signal::Spent { .. } | Signal::Unspent { .. } | Signal::Remaining { .. } => {
                    panic!("{name}: no response says what it cost")
                }
            });
            match (last, expected_signal(row, begin)) {
                // Where the server sets no wait, the gate is closed for a drawn one.
                (Some((to, Some(until))), Some((expected, None))) => {
                    assert_eq!(to, expected, "{name}");
                    assert!(until > begin && until <= begin + millis(500), "{name}");
                }
                // The wait in the body is reported besides the one in the head.
                (Some((to, Some(_))), Some((expected, Some(_)))) if row.status == 503 => {
                    assert_eq!(to, expected, "{name}");
                }
                (last, expected) => assert_eq!(last, expected, "{name}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_number_that_the_server_names_is_told() {
    let limit = r#"<t:MessageXml><t:Value Name="MaxConcurrencyLimit">13</t:Value></t:MessageXml>"#;
    let text = "This operation exceeds the throttling budget for policy part 'ConcurrentSyncCalls', policy value '5',  \
                Budget type: 'Ews'.  Suggested backoff time 5000 ms.";
    let said = |code, text: &str| {
        let body = messages("SyncFolderItems", &[("Error", code, "")]);
        body.replace(">text<", &format!(">{text}<"))
    };
    let other = text.replace("ConcurrentSyncCalls", "Something");
    for (status, body, expected) in [
        (
            500,
            fault("ErrorExceededConnectionCount", limit),
            Some((Budget::Concurrency, 13)),
        ),
        (500, fault("ErrorExceededConnectionCount", ""), None),
        // A number that belongs to another refusal.
        (500, fault("ErrorServerBusy", limit), None),
        (
            200,
            said("ErrorServerBusy", text),
            Some((Budget::SyncCalls, 5)),
        ),
        (200, said("ErrorServerBusy", &other), None),
        (200, said("ErrorFolderNotFound", text), None),
    ] {
        let log = Log::new();
        let server = Server::new(&log)
            .charged()
            .respond(status, &[XML], &body)
            .xml(200, &success());
        let layer = ServerBusyBackoffLayer::ews().ledger(recorder(&log)).seed(1);
        send(layer, &server, ews("SyncFolderItems")).await.unwrap();
        let named = log.signals().iter().find_map(|signal| match *signal {
            Signal::Limit { budget, number } => Some((budget, number)),
            _ => None,
        });
        assert_eq!(named, expected, "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_be_sent_twice() {
    let updates = |settings: &str, change: &str| {
        let body = envelope(&format!(
            "<m:UpdateItem {M} {T} {settings}><m:ItemChanges><t:ItemChange><t:ItemId Id='x'/><t:Updates>{change}</t:Updates></t:ItemChange></m:ItemChanges></m:UpdateItem>"
        ));
        Request::new(ReplayBody::from(body))
    };
    let upload = |action: &str, id: &str| {
        let body = envelope(&format!(
            "<m:UploadItems {M} {T}><m:Items><t:Item CreateAction='{action}'><t:ParentFolderId Id='f'/>{id}<t:Data>QUJD</t:Data></t:Item></m:Items></m:UploadItems>"
        ));
        Request::new(ReplayBody::from(body))
    };
    let plain = |method: &str, body: &'static str| {
        let request = Request::builder().method(method);
        request.body(ReplayBody::from(body)).unwrap()
    };
    let set = "<t:SetItemField><t:Body>SendOnly by mail</t:Body></t:SetItemField>";
    let save = "MessageDisposition='SaveOnly' SendMeetingInvitationsOrCancellations='SendToNone'";
    for (request, resend, streaming) in [
        (ews("GetItem"), Idempotency::Safe, false),
        (ews("SyncFolderItems"), Idempotency::Safe, false),
        (ews("DeleteItem"), Idempotency::Idempotent, false),
        (ews("MoveItem"), Idempotency::Idempotent, false),
        (ews("CreateItem"), Idempotency::NonIdempotent, false),
        (ews("SendItem"), Idempotency::NonIdempotent, false),
        (ews("UploadItems"), Idempotency::NonIdempotent, false),
        (
            upload("Update", "<t:ItemId Id='i'/>"),
            Idempotency::Idempotent,
            false,
        ),
        (upload("Update", ""), Idempotency::NonIdempotent, false),
        (
            upload("UpdateOrCreate", "<t:ItemId Id='i'/>"),
            Idempotency::NonIdempotent,
            false,
        ),
        (upload("CreateNew", ""), Idempotency::NonIdempotent, false),
        (ews("EmptyFolder"), Idempotency::NonIdempotent, false),
        (ews("MarkAllItemsAsRead"), Idempotency::NonIdempotent, false),
        (ews("CopyFolder"), Idempotency::NonIdempotent, false),
        (ews("ReportMessage"), Idempotency::NonIdempotent, false),
        (ews("MoveFolder"), Idempotency::Idempotent, false),
        (ews("MarkAsJunk"), Idempotency::Idempotent, false),
        (ews("GetEvents"), Idempotency::NonIdempotent, false),
        (ews("GetStreamingEvents"), Idempotency::NonIdempotent, true),
        (ews("FutureItem"), Idempotency::NonIdempotent, false),
        (plain("POST", "<broken"), Idempotency::NonIdempotent, false),
        (plain("POST", ""), Idempotency::NonIdempotent, false),
        (plain("PATCH", "{}"), Idempotency::NonIdempotent, false),
        (plain("GET", ""), Idempotency::Safe, false),
        (plain("OPTIONS", ""), Idempotency::Safe, false),
        (plain("PUT", "{}"), Idempotency::Idempotent, false),
        (plain("DELETE", ""), Idempotency::Idempotent, false),
        (updates("", set), Idempotency::Idempotent, false),
        (updates(save, set), Idempotency::Idempotent, false),
        (
            updates("MessageDisposition = \"SendOnly\"", set),
            Idempotency::NonIdempotent,
            false,
        ),
        (
            updates("MessageDisposition='SendAndSaveCopy'", set),
            Idempotency::NonIdempotent,
            false,
        ),
        (
            updates(
                "SendMeetingInvitationsOrCancellations='SendToChangedAndSaveCopy'",
                set,
            ),
            Idempotency::NonIdempotent,
            false,
        ),
        (
            updates("SendMeetingInvitationsOrCancellations='SendOnlyToAll'", set),
            Idempotency::NonIdempotent,
            false,
        ),
        (
            updates(save, "<t:AppendToItemField/>"),
            Idempotency::NonIdempotent,
            false,
        ),
    ] {
        let call = EwsClassifier.request(&request);
        assert_eq!(
            (call.idempotency, call.streaming),
            (resend, streaming),
            "{}",
            call.operation
        );
        let full = request.map(http_body_util::Full::<Bytes>::from);
        assert_eq!(EwsClassifier.request(&full), call);
    }
}

/// A fault whose code is not understood is worth as much as its status, and what it leaves open is said beside it.
#[tokio::test(start_paused = true)]
async fn a_fault_of_an_unknown_code_is_worth_its_status() {
    /// The code, the status, the number of requests, and whether the outcome of a CreateItem is known.
    type Row = (&'static str, u16, usize, bool);
    let table: [Row; 6] = [
        ("ErrorOfNextYear", 500, 7, false),
        ("ErrorOfNextYear", 200, 1, false),
        ("ErrorNextYearServerBusy", 500, 2, true),
        ("ErrorSendAsDenied", 500, 1, false),
        ("ErrorSchemaValidation", 500, 1, true),
        ("ErrorSchemaValidation", 503, 1, true),
    ];
    for (code, status, requests, known) in table {
        for operation in ["GetItem", "CreateItem"] {
            let log = Log::new();
            let mut server = Server::new(&log);
            let busy = requests == 2;
            for _ in 0..requests {
                server = server.xml(status, &fault(code, ""));
            }
            if busy {
                server.script.lock().pop_back();
                server = server.xml(200, &success());
            }
            let sent = send(ServerBusyBackoffLayer::ews(), &server, ews(operation));
            let response = sent.await.unwrap();
            let case = format!("{code} {status} {operation}");
            let last = if busy { 200 } else { status };
            assert_eq!(response.status().as_u16(), last, "{case}");
            let is_read = operation == "GetItem";
            let sent = if is_read || known { requests } else { 1 };
            assert_eq!(log.calls().len(), sent, "{case}");
            let info: Option<&RetryInfo> = response.extensions().get();
            let in_doubt = info.is_some_and(|info| info.outcome_unknown);
            assert_eq!(in_doubt, !is_read && !known, "{case}");
            let said = info.and_then(|info| info.signal.as_deref());
            assert!(said.is_none_or(|said| said == code), "{case}: {said:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_element_alone_is_no_success() {
    for body in [
        "<m:GetItemResponse/>",
        "<m:GetItemResponse></m:GetItemResponse>",
        "<m:GetItemResponse> \n</m:GetItemResponse>",
    ] {
        let alone = envelope(&body.replacen("Response", &format!("Response {M}"), 1));
        let log = Log::new();
        let server = Server::new(&log).xml(200, &alone).xml(200, &success());
        let response = send(ServerBusyBackoffLayer::ews(), &server, ews("GetItem"))
            .await
            .unwrap();
        assert_eq!(text(response).await, success(), "{body}");
        let log = Log::new();
        let server = Server::new(&log).xml(200, &alone);
        let error = send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem"))
            .await
            .unwrap_err();
        assert!(error.to_string().starts_with("outcome unknown"), "{error}");
    }
    // Whatever stands in it, or on it, says something.
    for body in [
        r#"<m:R ResponseClass="Success"/>"#,
        "<m:R><m:Settings/></m:R>",
    ] {
        let whole = envelope(&body.replacen("m:R", &format!("m:R {M}"), 1));
        let log = Log::new();
        let server = Server::new(&log).xml(200, &whole);
        let response = send(
            ServerBusyBackoffLayer::ews(),
            &server,
            ews("GetUserOofSettings"),
        )
        .await
        .unwrap();
        assert_eq!(text(response).await, whole);
    }
}

/// What is compressed in a way that nobody asked for is no success: a write's outcome is unknown, a read failed. Whoever asked for
/// it gets it.
#[tokio::test(start_paused = true)]
async fn a_coding_that_nobody_asked_for_is_no_success() {
    let log = Log::new();
    for coding in ["br", "zstd", "gzip, br"] {
        for (operation, write) in [("GetItem", false), ("CreateItem", true)] {
            for asked in [false, true] {
                let headers = [XML, ("content-encoding", coding)];
                let server = Server::new(&log).respond(200, &headers, "x");
                let mut request = ews(operation);
                if asked {
                    let value = ::http::HeaderValue::from_static("br, zstd");
                    request.headers_mut().insert("accept-encoding", value);
                }
                let result = send(ServerBusyBackoffLayer::ews(), &server, request).await;
                let case = format!("{coding}, {operation}, {asked}");
                assert_eq!(result.is_ok(), asked, "{case}");
                let Err(error) = result else {
                    continue;
                };
                let unknown = matches!(
                    error.downcast_ref().unwrap(),
                    BackoffError::OutcomeUnknown { .. }
                );
                assert_eq!(unknown, write, "{case}: {error:?}");
                let failure = if write {
                    Failure::Lost
                } else {
                    Failure::NotSent
                };
                assert_eq!(Failure::of(&*error), failure, "{case}");
                let source = error.source().unwrap().to_string();
                assert!(source.contains("compressed"), "{case}: {source}");
            }
        }
    }
}

/// A success in an encoding that is not read is handed on, and a write is told that it is in doubt.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_no_success() {
    let log = Log::new();
    for body in ["\0\0\0\0", "\0", "<\0s", "<?xml version='1.0'?>\0"] {
        for (operation, write) in [("GetItem", false), ("CreateItem", true)] {
            let server = Server::new(&log).respond(200, &[XML], body);
            let response = send(ServerBusyBackoffLayer::ews(), &server, ews(operation)).await;
            let response = response.unwrap();
            let info: Option<&RetryInfo> = response.extensions().get();
            let doubt = info.is_some_and(|info| info.outcome_unknown);
            assert_eq!(doubt, write, "{body:?}, {operation}");
        }
    }
}
