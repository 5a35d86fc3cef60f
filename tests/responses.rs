//! What becomes of a call for each kind of response: alone, in a batch of 20, in one of 1,000. The whole stack, virtual time.

#[path = "responses/access.rs"]
mod access;
#[path = "responses/cases.rs"]
mod cases;
#[path = "responses/collected.rs"]
mod collected;
#[path = "responses/culprits.rs"]
mod culprits;
#[path = "responses/deadline.rs"]
mod deadline;
#[path = "responses/graph.rs"]
mod graph;
#[path = "responses/lost_writes.rs"]
mod lost_writes;
#[path = "responses/members.rs"]
mod members;
#[path = "responses/neighbours.rs"]
mod neighbours;
#[path = "responses/odd_servers.rs"]
mod odd_servers;
#[path = "responses/page.rs"]
mod page;
#[path = "responses/random.rs"]
mod random;
#[path = "responses/server.rs"]
mod server;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use server::{Ask, Outcome, Reply, envelope, fault, good, messages, request, send};
use tower::{Layer, ServiceExt};
use tower_ews::batch_splitter::{BatchSplitterLayer, EwsBatchFormat};
use tower_ews::server_busy_backoff::{AccessDenied, ServerBusyBackoffLayer};

/// What a kind of response is worth: how often it is asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worth {
    /// It is final, and speaks for all.
    Final,
    /// It is final for what was asked, and smaller parts find out what is to blame.
    FinalForPart,
    /// One more time.
    Once,
    /// A few seconds.
    Seconds,
    /// Half a minute.
    Minutes,
    /// Two more times, each for as long as an attempt may take.
    Hangs,
    /// Until the deadline of 15 minutes.
    UntilDeadline,
}

impl Worth {
    /// The most requests for one call that is not split.
    fn requests(self) -> usize {
        match self {
            Self::Final | Self::FinalForPart => 1,
            Self::Once => 2,
            Self::Seconds => 4,
            Self::Minutes => 7,
            Self::Hangs => 3,
            Self::UntilDeadline => 90,
        }
    }

    /// The most requests for a batch, if the server goes on to respond like this.
    fn requests_of_batch(self) -> usize {
        match self {
            Self::FinalForPart | Self::Hangs => 5,
            Self::Once | Self::Seconds => 6,
            // In order, the first member has all its tries before two others fail.
            Self::Minutes => 11,
            Self::Final | Self::UntilDeadline => self.requests(),
        }
    }

    fn time(self) -> Duration {
        Duration::from_secs(match self {
            Self::Final | Self::FinalForPart => 1,
            Self::Once | Self::Seconds => 8,
            Self::Minutes => 50,
            Self::Hangs => 510,
            Self::UntilDeadline => 901,
        })
    }
}

use Worth::{Final, FinalForPart, Hangs, Minutes, Once, Seconds, UntilDeadline};

/// A kind of response: what it is worth to a read, and whether what it responds to may have been executed.
struct Row {
    name: &'static str,
    worth: Worth,
    executed: bool,
    response: fn(&Ask) -> Reply,
}

const fn row(name: &'static str, worth: Worth, executed: bool, response: fn(&Ask) -> Reply) -> Row {
    Row {
        name,
        worth,
        executed,
        response,
    }
}

const HTML: &str = "text/html";

fn rows() -> Vec<Row> {
    vec![
        row("400", FinalForPart, false, |_| Reply::status(400)),
        row("401", Final, false, |_| Reply::status(401)),
        row("403", Final, false, |_| Reply::status(403)),
        row("404", FinalForPart, false, |_| Reply::status(404)),
        row("405", Final, false, |_| Reply::status(405)),
        row("406", FinalForPart, false, |_| Reply::status(406)),
        row("408", Minutes, false, |_| Reply::status(408)),
        row("413", FinalForPart, false, |_| Reply::status(413)),
        row("418", FinalForPart, false, |_| Reply::status(418)),
        row("425", Minutes, false, |_| Reply::status(425)),
        row("429", UntilDeadline, false, |_| Reply::status(429)),
        row("429, a millisecond", UntilDeadline, false, |_| {
            Reply::status(429).with("retry-after-ms", "1")
        }),
        row("440", Final, false, |_| Reply::status(440)),
        row("456", Final, false, |_| Reply::status(456)),
        row("500, a page", Minutes, true, |_| {
            Reply::page(500, HTML, "<html><title>Runtime Error</title></html>")
        }),
        row("500, JSON", Minutes, true, |_| {
            Reply::page(500, "application/json", r#"{"error":"x"}"#)
        }),
        row("501", Final, false, |_| Reply::status(501)),
        row("502", Minutes, true, |_| Reply::status(502)),
        row("503", UntilDeadline, false, |_| Reply::status(503)),
        row("503, 30 s", UntilDeadline, false, |_| {
            Reply::status(503).with("retry-after", "30")
        }),
        row("504", Minutes, true, |_| Reply::status(504)),
        row("505", Final, false, |_| Reply::status(505)),
        row("507", FinalForPart, false, |_| Reply::status(507)),
        row("508", FinalForPart, false, |_| Reply::status(508)),
        row("509", Minutes, true, |_| Reply::status(509)),
        row("511", Final, false, |_| Reply::status(511)),
        row("520", Minutes, true, |_| Reply::status(520)),
        row("a redirect to a log-in page", Final, false, |_| {
            Reply::status(302).with("location", "/owa/auth/logon.aspx")
        }),
        row("a redirect to another server", Final, false, |_| {
            Reply::status(302).with("location", "https://new.contoso.com/EWS/Exchange.asmx")
        }),
        row("a coding that nobody asked for", FinalForPart, true, |_| {
            Reply::xml(200, envelope("")).with("content-encoding", "br")
        }),
        row("nothing", Minutes, true, |_| Reply::xml(200, "")),
        row("a byte order mark", Minutes, true, |_| {
            Reply::xml(200, "\u{feff}")
        }),
        row("an empty SOAP body", Minutes, true, |_| {
            Reply::xml(200, envelope(""))
        }),
        row("a response without messages", Minutes, true, |ask| {
            let operation = &ask.operation;
            let list = format!(
                "<m:{operation}Response><m:ResponseMessages></m:ResponseMessages></m:{operation}Response>"
            );
            Reply::xml(200, envelope(&list))
        }),
        row("a response element alone", Minutes, true, |ask| {
            Reply::xml(200, envelope(&format!("<m:{}Response/>", ask.operation)))
        }),
        row("a response that breaks off", Minutes, true, |_| {
            Reply::Cut(envelope("")[..200].to_owned())
        }),
        row("half a response", Minutes, true, |_| {
            Reply::xml(200, &envelope("")[..200])
        }),
        row("a reset", Minutes, true, |_| Reply::Reset),
        row("a refused connection", UntilDeadline, false, |_| {
            Reply::Refused
        }),
        row("a hanging connection", Hangs, true, |_| Reply::Hang),
        row("a response that stalls", Hangs, true, |_| {
            Reply::Stall(envelope("")[..200].to_owned())
        }),
        row(
            "a response that stalls at its beginning",
            Hangs,
            true,
            |_| Reply::Stall(String::new()),
        ),
        row(
            "a response that stalls at its end",
            Hangs,
            true,
            |ask| match good(ask) {
                Reply::Response { body, .. } => Reply::Stall(body[..body.len() - 9].to_owned()),
                other => other,
            },
        ),
        row("fault ErrorServerBusy", UntilDeadline, false, |_| {
            Reply::xml(500, fault("ErrorServerBusy", ""))
        }),
        row("fault ErrorInternalServerError", Once, true, |_| {
            Reply::xml(500, fault("ErrorInternalServerError", ""))
        }),
        row("fault ErrorTimeoutExpired", Once, true, |_| {
            Reply::xml(500, fault("ErrorTimeoutExpired", ""))
        }),
        row("fault ErrorMailboxStoreUnavailable", Minutes, true, |_| {
            Reply::xml(500, fault("ErrorMailboxStoreUnavailable", ""))
        }),
        row(
            "fault ErrorConnectionFailedTransientError",
            Seconds,
            true,
            |_| Reply::xml(500, fault("ErrorConnectionFailedTransientError", "")),
        ),
        row("fault ErrorMailboxMoveInProgress", Once, false, |_| {
            Reply::xml(500, fault("ErrorMailboxMoveInProgress", ""))
        }),
        row("fault ErrorSchemaValidation", FinalForPart, false, |_| {
            Reply::xml(500, fault("ErrorSchemaValidation", ""))
        }),
        row("fault ErrorWrongServerVersion", FinalForPart, false, |_| {
            Reply::xml(500, fault("ErrorWrongServerVersion", ""))
        }),
        row("fault ErrorImpersonateUserDenied", Final, false, |_| {
            Reply::xml(500, fault("ErrorImpersonateUserDenied", ""))
        }),
        row(
            "fault ErrorInvalidExchangeImpersonationHeaderData",
            Final,
            false,
            |_| {
                Reply::xml(
                    500,
                    fault("ErrorInvalidExchangeImpersonationHeaderData", ""),
                )
            },
        ),
        row("fault ErrorOfNextYear", Minutes, true, |_| {
            Reply::xml(500, fault("ErrorOfNextYear", ""))
        }),
        row("fault ErrorOfNextYear, 200", FinalForPart, true, |_| {
            Reply::xml(200, fault("ErrorOfNextYear", ""))
        }),
        row("fault ErrorOfNextYear, 503", UntilDeadline, false, |_| {
            Reply::xml(503, fault("ErrorOfNextYear", ""))
        }),
        row(
            "fault ErrorNextYearServerBusy",
            UntilDeadline,
            false,
            |_| Reply::xml(500, fault("ErrorNextYearServerBusy", "")),
        ),
        row("fault ErrorSendAsDenied", FinalForPart, true, |_| {
            Reply::xml(500, fault("ErrorSendAsDenied", ""))
        }),
        row("each ErrorServerBusy", UntilDeadline, false, |ask| {
            messages(ask, |_| "ErrorServerBusy".to_owned())
        }),
        row("each ErrorInternalServerError", Once, true, |ask| {
            messages(ask, |_| "ErrorInternalServerError".to_owned())
        }),
        row("each ErrorMailboxStoreUnavailable", Minutes, true, |ask| {
            messages(ask, |_| "ErrorMailboxStoreUnavailable".to_owned())
        }),
    ]
}

fn describe(row: &Row, outcome: &Outcome) -> String {
    let Outcome {
        took,
        status,
        error,
        unknown,
        ..
    } = outcome;
    let start: String = outcome.body.chars().take(300).collect();
    let sizes: Vec<_> = outcome.asks.iter().map(|ask| ask.ids.len()).collect();
    format!(
        "{}: {} requests {sizes:?}, {took:?}, status {status:?}, unknown {unknown}, error {error:?}, body {start:?}",
        row.name,
        outcome.requests()
    )
}

#[tokio::test(start_paused = true)]
async fn a_read_gets_what_can_be_had() {
    let mut wrong = Vec::new();
    for row in rows() {
        for members in [1, 20, 1000] {
            let outcome = send(request("GetItem", members), None, row.response).await;
            let case = format!("GetItem of {members}, {}", describe(&row, &outcome));
            println!("{case}");
            let (requests, time) = match members {
                1 => (row.worth.requests(), row.worth.time()),
                _ => (row.worth.requests_of_batch(), row.worth.time()),
            };
            // A read is never in doubt.
            if outcome.requests() > requests || outcome.took > time || outcome.unknown > 0 {
                wrong.push(case);
            } else if outcome.error.contains("may have") || outcome.body.contains("not known") {
                wrong.push(format!("a read in doubt: {case}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{:#?}", wrong);
}

#[tokio::test(start_paused = true)]
async fn a_write_is_done_once_at_most() {
    let mut wrong = Vec::new();
    for row in rows() {
        for members in [1, 20, 1000] {
            let outcome = send(request("CreateItem", members), None, row.response).await;
            let case = format!("CreateItem of {members}, {}", describe(&row, &outcome));
            println!("{case}");
            let mut times = std::collections::HashMap::new();
            for ask in &outcome.asks {
                for id in &ask.ids {
                    *times.entry(id.clone()).or_insert(0) += 1;
                }
            }
            let twice = times.values().any(|times| *times > 1);
            let sent: usize = times.len();
            if row.executed {
                // At most one part and one small one.
                if twice || sent > 51 || outcome.requests() > 2 {
                    wrong.push(case.clone());
                }
                let says = outcome.error.contains("may have")
                    || outcome.body.contains("not known")
                    || outcome.unknown > 0
                    || outcome.refused_in_doubt
                    || outcome.status.is_some_and(|status| status >= 500)
                    || outcome.body.contains("ErrorInternalServerError")
                    || outcome.body.contains("ErrorMailboxStoreUnavailable");
                if !says {
                    wrong.push(format!("no doubt: {case}"));
                }
            } else if outcome.requests() > row.worth.requests_of_batch().max(row.worth.requests()) {
                wrong.push(case);
            }
        }
    }
    assert!(wrong.is_empty(), "{:#?}", wrong);
}

/// One member of a batch is to blame: its neighbours have what they asked for, within a minute.
#[tokio::test(start_paused = true)]
async fn one_bad_member_costs_itself_alone() {
    let mut wrong = Vec::new();
    for row in rows() {
        let by_part = !row.name.starts_with("each") && row.worth != Final;
        if !by_part || [Hangs, UntilDeadline].contains(&row.worth) {
            continue;
        }
        for operation in ["GetItem", "CreateItem"] {
            if operation == "CreateItem" && row.executed {
                continue;
            }
            for (members, culprit) in [
                (20, 7),
                (20, 0),
                (20, 19),
                (1000, 7),
                (1000, 0),
                (1000, 555),
            ] {
                let bad = format!("ID{culprit:04}");
                let response = row.response;
                let outcome = send(request(operation, members), None, move |ask| {
                    match ask.ids.contains(&bad) {
                        true => response(ask),
                        false => good(ask),
                    }
                })
                .await;
                let case = format!(
                    "{operation} of {members}, bad {culprit}, {}",
                    describe(&row, &outcome)
                );
                println!("{case}");
                let parts = if members == 20 { 0 } else { 30 };
                let bound = parts + 30 + row.worth.requests();
                if outcome.done() != members - 1
                    || outcome.took > Duration::from_secs(60)
                    || outcome.requests() > bound
                {
                    wrong.push(format!("{} done: {case}", outcome.done()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{:#?}", wrong);
}

/// The server's last word is the caller's, and the deadline is one.
#[tokio::test(start_paused = true)]
async fn one_deadline_bounds_everything() {
    let mut wrong = Vec::new();
    for row in rows() {
        for (operation, members) in [
            ("GetItem", 1),
            ("GetItem", 2),
            ("GetItem", 300),
            ("CreateItem", 2),
        ] {
            let deadline = Duration::from_secs(60);
            let outcome = send(request(operation, members), Some(deadline), row.response).await;
            let case = format!("{operation} of {members}, {}", describe(&row, &outcome));
            println!("{case}");
            if outcome.took > deadline + Duration::from_millis(1) {
                wrong.push(case.clone());
            }
            // The server's word is the last one.
            let status = outcome.status.map(|status| status.to_string());
            let throttled = row.name.starts_with("503") || row.name.starts_with("429");
            if throttled && status.as_deref() != row.name.get(..3) {
                wrong.push(format!("not the server's word: {case}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{:#?}", wrong);
}

/// A mail server that is not there for ten seconds leaves one part in doubt, and perhaps one mail more.
#[tokio::test(start_paused = true)]
async fn an_outage_leaves_little_in_doubt() {
    for outage in [
        || Reply::Reset,
        || Reply::status(502),
        || Reply::status(504),
    ] {
        let outcome = send(request("CreateItem", 10_000), None, move |ask| {
            let away = ask.number >= 3 && ask.at < Duration::from_secs(10);
            match away {
                true => outage(),
                false => good(ask),
            }
        })
        .await;
        let lost = outcome.unknown;
        assert!(lost <= 51, "{lost} of 10,000 in doubt");
        assert_eq!(outcome.done() + lost, 10_000, "{}", outcome.requests());
    }
}

/// A job does not ask ten thousand times what was refused once.
#[tokio::test(start_paused = true)]
async fn who_is_refused_is_remembered() {
    let asks = Arc::new(Mutex::new(Vec::new()));
    let stack = server::stack(Arc::clone(&asks), |_| Reply::status(403));
    let mut denied = 0;
    for call in 0..10_000 {
        let request =
            server::impersonating(request("GetItem", 1), &format!("user{call}@contoso.com"));
        match stack.clone().oneshot(request).await {
            Ok(response) => {
                assert_eq!(response.status(), 403);
                assert!(response.extensions().get::<AccessDenied>().is_some());
            }
            Err(error) => {
                let error: &AccessDenied = error.downcast_ref().expect("denied");
                assert_eq!(error.status(), 403);
                denied += 1;
            }
        }
    }
    assert_eq!((asks.lock().unwrap().len(), denied), (3, 9_997));
}

/// One mailbox of a batch is refused, and the others have what they asked for.
#[tokio::test(start_paused = true)]
async fn a_403_speaks_for_one_mailbox() {
    let body: String = (0..20)
        .map(|mailbox| {
            format!(
                r#"<t:DistinguishedFolderId Id="inbox"><t:Mailbox><t:EmailAddress>ID{mailbox:04}@contoso.com</t:EmailAddress></t:Mailbox></t:DistinguishedFolderId>"#
            )
        })
        .collect();
    let request = server::soap(&format!(
        "<m:GetFolder><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape><m:FolderIds>{body}</m:FolderIds></m:GetFolder>"
    ));
    let outcome = send(request, None, |ask| {
        match ask.ids.contains(&"ID0007".to_owned()) {
            true => Reply::status(403),
            false => good(ask),
        }
    })
    .await;
    assert_eq!(outcome.done(), 19, "{outcome:?}");
    assert!(outcome.requests() <= 12, "{outcome:?}");
}

/// Exchange marks what it has cut short, and calls it a success.
#[tokio::test(start_paused = true)]
async fn a_truncated_export_is_no_success() {
    const MARK: &str = "=== Truncated Data ===";
    fn exported(ask: &Ask, in_data: bool) -> Reply {
        let entry = |id: &String| {
            let mark = if in_data && id == "ID0003" { MARK } else { "" };
            format!(
                r#"<m:ExportItemsResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode><m:ItemId Id="{id}"/><m:Data>AQAAAAgAAAA={mark}</m:Data></m:ExportItemsResponseMessage>"#
            )
        };
        let entries: String = ask.ids.iter().map(entry).collect();
        let whole = envelope(&format!(
            "<m:ExportItemsResponse><m:ResponseMessages>{entries}</m:ResponseMessages></m:ExportItemsResponse>"
        ));
        let behind = ask.ids.contains(&"ID0003".to_owned()) && !in_data;
        Reply::xml(200, if behind { whole + MARK } else { whole })
    }
    for in_data in [true, false] {
        for members in [1, 10, 100] {
            let first = if members == 1 { 3 } else { 0 };
            let ids: String = (first..first + members)
                .map(|id| format!(r#"<t:ItemId Id="ID{id:04}"/>"#))
                .collect();
            let request = server::soap(&format!(
                "<m:ExportItems><m:ItemIds>{ids}</m:ItemIds></m:ExportItems>"
            ));
            let outcome = send(request, None, move |ask| exported(ask, in_data)).await;
            let case = format!("{in_data}, {members}: {outcome:?}");
            assert_eq!(outcome.done(), members - 1, "{case}");
            assert!(!outcome.body.contains("Truncated"), "{case}");
            assert!(outcome.requests() > 1 && outcome.requests() <= 30, "{case}");
            assert!(outcome.took < Duration::from_secs(60), "{case}");
            match members {
                1 => assert!(outcome.error.contains("incomplete"), "{case}"),
                _ => assert!(outcome.body.contains(r#"ResponseClass="Error""#), "{case}"),
            }
        }
    }
}

/// A server compresses what nobody asked it to compress.
#[tokio::test(start_paused = true)]
async fn compressed_responses_are_understood() {
    const BACK_OFF: &str = r#"<t:MessageXml xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"><t:Value Name="BackOffMilliseconds">7000</t:Value></t:MessageXml>"#;
    for coding in ["gzip", "deflate", "bare deflate"] {
        for operation in ["GetItem", "CreateItem"] {
            for members in [1, 20] {
                for whole in [true, false] {
                    let outcome = send(request(operation, members), None, move |ask| {
                        let busy = match whole {
                            true => Reply::xml(500, fault("ErrorServerBusy", BACK_OFF)),
                            false => messages(ask, |_| "ErrorServerBusy".to_owned()),
                        };
                        let response = if ask.number == 0 { busy } else { good(ask) };
                        response.with("content-encoding", coding)
                    })
                    .await;
                    let case = format!("{coding}, {operation} of {members}, {whole}: {outcome:?}");
                    assert_eq!(outcome.requests(), 2, "{case}");
                    let waited = Duration::from_secs(if whole { 7 } else { 0 });
                    assert!(outcome.took >= waited, "{case}");
                    // The caller did not ask for it, so it gets plain bytes.
                    assert_eq!(outcome.done(), members, "{case}");
                }
            }
        }
    }
}

/// A layer alone, over a client that decompresses nothing.
#[tokio::test(start_paused = true)]
async fn each_reading_layer_understands_compressed_responses_alone() {
    for coding in ["gzip", "bare deflate"] {
        each_reading_layer_understands(coding).await;
    }
}

async fn each_reading_layer_understands(coding: &'static str) {
    let asks = Arc::new(Mutex::new(Vec::new()));
    let busy_once = move |ask: &Ask| {
        let reply = match ask.number {
            0 => messages(ask, |_| "ErrorServerBusy".to_owned()),
            _ => good(ask),
        };
        reply.with("content-encoding", coding)
    };
    let request = |members| request("GetItem", members).map(server::replay);

    let alone = ServerBusyBackoffLayer::ews().layer(server::client(Arc::clone(&asks), busy_once));
    let response = alone.oneshot(request(1)).await.unwrap();
    assert_eq!(std::mem::take(&mut *asks.lock().unwrap()).len(), 2);
    // What passes through stays as the server sent it.
    let name = coding.trim_start_matches("bare ");
    assert_eq!(response.headers()["content-encoding"], name);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.starts_with(&[0x1f, 0x8b]), coding == "gzip");
    assert!(!body.starts_with(b"<"), "{coding}");

    let alone = BatchSplitterLayer::new(EwsBatchFormat::new());
    let alone = alone.layer(server::client(Arc::clone(&asks), busy_once));
    let response = alone.oneshot(request(20)).await.unwrap();
    assert!(!response.headers().contains_key("content-encoding"));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body);
    assert_eq!(body.matches(">NoError<").count(), 20);
    assert_eq!(asks.lock().unwrap().len(), 2);
}

/// Whoever asks for a coding by itself gets it as the server sends it.
#[tokio::test(start_paused = true)]
async fn an_accept_encoding_of_the_caller_stays() {
    let asks = Arc::new(Mutex::new(Vec::new()));
    let stack = server::stack(asks, |ask| good(ask).with("content-encoding", "gzip"));
    for (asked, plain) in [
        (None, true),
        (Some("gzip"), false),
        (Some("identity"), false),
    ] {
        let mut request = request("GetItem", 1);
        if let Some(asked) = asked {
            request
                .headers_mut()
                .insert("accept-encoding", asked.parse().unwrap());
        }
        let response = stack.clone().oneshot(request).await.unwrap();
        let coded = response.headers().contains_key("content-encoding");
        assert_eq!(coded, !plain, "{asked:?}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.starts_with(&[0x1f, 0x8b]), !plain, "{asked:?}");
    }
}

/// A member that is busy for good holds up nobody.
#[tokio::test(start_paused = true)]
async fn one_busy_member_holds_up_nobody() {
    for operation in ["GetItem", "CreateItem"] {
        for (members, busy) in [(20, vec![7]), (1000, vec![7]), (1000, vec![0, 555, 999])] {
            let busy: Vec<String> = busy.iter().map(|id| format!("ID{id:04}")).collect();
            let count = busy.len();
            let outcome = send(request(operation, members), None, move |ask| {
                messages(ask, |id| match busy.iter().any(|busy| busy == id) {
                    true => "ErrorServerBusy".to_owned(),
                    false => "NoError".to_owned(),
                })
            })
            .await;
            let case = format!("{operation} of {members}: {} requests", outcome.requests());
            assert_eq!(outcome.done(), members - count, "{case}");
            assert!(outcome.requests() <= 150 && outcome.unknown == 0, "{case}");
        }
    }
}

/// A server that goes silent in the middle of a batch: before the head of a response, behind it, or behind its first messages.
#[tokio::test(start_paused = true)]
async fn a_batch_whose_server_goes_silent_ends_in_minutes() {
    fn begun(ask: &Ask) -> Reply {
        let Reply::Response { body, .. } = good(ask) else {
            return Reply::Hang;
        };
        // Behind the first message, or in it.
        let end = body
            .find("ResponseMessage>")
            .map_or(body.len(), |end| end + 16);
        Reply::Stall(body[..end].to_owned())
    }
    for (what, silent) in [
        ("no head", (|_| Reply::Hang) as fn(&Ask) -> Reply),
        ("no body", |_| Reply::Stall(String::new())),
        ("a message", begun),
    ] {
        for (operation, members) in [("GetItem", 1000), ("CreateItem", 1000)] {
            let outcome = send(request(operation, members), None, move |ask| {
                if ask.number < 2 {
                    good(ask)
                } else {
                    silent(ask)
                }
            })
            .await;
            let case = format!(
                "{what}, {operation}: {} requests, {:?}, {} done, {} unknown",
                outcome.requests(),
                outcome.took,
                outcome.done(),
                outcome.unknown
            );
            println!("{case}");
            let done: usize = outcome.asks[..2].iter().map(|ask| ask.ids.len()).sum();
            assert_eq!(outcome.done(), done, "{case}");
            let most = if operation == "GetItem" { 2 + 5 } else { 2 + 2 };
            assert!(outcome.requests() <= most, "{case}");
            assert!(outcome.took < Duration::from_secs(510), "{case}");
            let doubt = if operation == "GetItem" { 0 } else { 51 };
            assert!(outcome.unknown <= doubt, "{case}");
        }
        // One member is to blame.
        for members in [20, 1000] {
            let outcome = send(request("GetItem", members), None, move |ask| {
                match ask.ids.contains(&"ID0007".to_owned()) {
                    true => silent(ask),
                    false => good(ask),
                }
            })
            .await;
            let case = format!("{what}, {members}: {} requests", outcome.requests());
            println!("{case}, {:?}", outcome.took);
            assert_eq!(outcome.done(), members - 1, "{case}");
            assert!(outcome.requests() <= 40, "{case}");
            assert!(outcome.took <= Duration::from_secs(1010), "{case}");
        }
    }
}

/// What was away for a while in the middle of a batch is waited for.
#[tokio::test(start_paused = true)]
async fn an_outage_in_the_middle_of_a_read_loses_nothing() {
    for seconds in [2, 10, 30] {
        for outage in [
            || Reply::Reset,
            || Reply::status(502),
            || Reply::page(200, HTML, "<html>Sign in</html>"),
            || Reply::xml(500, fault("ErrorInternalServerError", "")),
        ] {
            let outcome = send(request("GetItem", 1000), None, move |ask| {
                let away = ask.number >= 2 && ask.at < Duration::from_secs(seconds);
                if away { outage() } else { good(ask) }
            })
            .await;
            let case = format!("{seconds} s: {} requests", outcome.requests());
            // What refuses for good is not tried for long: a few members may be.
            let refused = matches!(outage(), Reply::Response { status: 200, .. });
            let done = outcome.done();
            assert!(
                done == 1000 || refused && done >= 997,
                "{done}, {case}, {}",
                outcome.error
            );
            assert!(outcome.requests() <= 60, "{case}");
            assert!(outcome.took <= Duration::from_secs(seconds + 60), "{case}");
        }
    }
}

/// A server that cannot take large parts leaves little in doubt.
#[tokio::test(start_paused = true)]
async fn parts_that_are_lost_for_their_size_leave_little_in_doubt() {
    for largest in [30, 1] {
        let outcome = send(request("CreateItem", 1000), None, move |ask| {
            if ask.ids.len() > largest {
                Reply::Reset
            } else {
                good(ask)
            }
        })
        .await;
        let case = format!("{largest}: {} requests", outcome.requests());
        assert_eq!(outcome.done() + outcome.unknown, 1000, "{case}");
        assert!(
            outcome.unknown <= 350,
            "{} in doubt, {case}",
            outcome.unknown
        );
    }
}

/// A client that does not get ready was sent nothing.
#[tokio::test(start_paused = true)]
async fn a_client_that_is_never_ready_was_sent_nothing() {
    #[derive(Clone)]
    struct Never;
    impl tower::Service<http::Request<tower_ews::body::ReplayBody>> for Never {
        type Response = http::Response<http_body_util::Full<bytes::Bytes>>;
        type Error = tower::BoxError;
        type Future = std::future::Pending<Result<Self::Response, Self::Error>>;
        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Self::Error>> {
            std::task::Poll::Pending
        }
        fn call(&mut self, _: http::Request<tower_ews::body::ReplayBody>) -> Self::Future {
            unreachable!("it is not ready")
        }
    }
    let stack = tower_ews::EwsStack::new(tower_ews::policy::ThrottlingPolicy::exchange_online());
    for members in [1, 300] {
        let mut request = request("CreateItem", members);
        let deadline = tower_ews::extensions::Deadline::within(Duration::from_secs(5));
        request.extensions_mut().insert(deadline);
        let error = stack.service(Never).oneshot(request).await.unwrap_err();
        let failure = tower_ews::server_busy_backoff::Failure::of(&*error);
        assert_eq!(
            failure,
            tower_ews::server_busy_backoff::Failure::NotSent,
            "{members}: {error:?}"
        );
    }
}

/// Two of three attendees have no free/busy, and never will: a few requests, and the third one has its own.
#[tokio::test(start_paused = true)]
async fn free_busy_that_never_comes_is_not_asked_for_long() {
    fn attendee(id: &str, code: &str) -> String {
        let (class, view) = match code {
            "NoError" => (
                "Success",
                "<m:FreeBusyView><t:FreeBusyViewType>None</t:FreeBusyViewType></m:FreeBusyView>",
            ),
            _ => ("Error", ""),
        };
        format!(
            r#"<m:FreeBusyResponse><m:ResponseMessage ResponseClass="{class}"><m:MessageText>{id}</m:MessageText><m:ResponseCode>{code}</m:ResponseCode></m:ResponseMessage>{view}</m:FreeBusyResponse>"#
        )
    }
    let attendees: String = (0..3)
        .map(|id| {
            format!(
                "<t:MailboxData><t:Email><t:Address>ID{id:04}@contoso.com</t:Address></t:Email><t:AttendeeType>Required</t:AttendeeType></t:MailboxData>"
            )
        })
        .collect();
    let body = format!(
        "<m:GetUserAvailabilityRequest><m:MailboxDataArray>{attendees}</m:MailboxDataArray></m:GetUserAvailabilityRequest>"
    );
    for code in [
        "ErrorFreeBusyGenerationFailed",
        "ErrorProxyRequestProcessingFailed",
        "ErrorServiceDiscoveryFailed",
        "ErrorAutoDiscoverFailed",
        "ErrorMailboxLogonFailed",
        "ErrorMailRecipientNotFound",
        "ErrorInternalServerError",
    ] {
        let outcome = send(server::soap(&body), None, move |ask| {
            let each: String = ask
                .ids
                .iter()
                .map(|id| attendee(id, if id == "ID0001" { "NoError" } else { code }))
                .collect();
            let array = format!("<m:FreeBusyResponseArray>{each}</m:FreeBusyResponseArray>");
            Reply::xml(
                200,
                envelope(&format!(
                    "<m:GetUserAvailabilityResponse>{array}</m:GetUserAvailabilityResponse>"
                )),
            )
        })
        .await;
        let case = format!("{code}: {}, {outcome:?}", outcome.requests());
        println!(
            "{code}: {} requests, {:?}",
            outcome.requests(),
            outcome.took
        );
        assert_eq!(outcome.done(), 1, "{case}");
        assert_eq!(outcome.body.matches(code).count(), 2, "{case}");
        assert!(outcome.requests() <= 4, "{case}");
        assert!(outcome.took <= Duration::from_secs(8), "{case}");
    }
}

/// A ConvertId that the server responds to with an error for all ids, for good, ends soon: one of a hundred ids and one of one.
#[tokio::test(start_paused = true)]
async fn a_conversion_that_always_fails_ends() {
    for members in [1, 100, 1000] {
        for whole in [false, true] {
            let ids: String = (0..members)
                .map(|id| {
                    format!(r#"<t:AlternateId Format="EwsId" Id="ID{id:04}" Mailbox="amy@contoso.com"/>"#)
                })
                .collect();
            let request = server::soap(&format!(
                r#"<m:ConvertId DestinationFormat="OwaId"><m:SourceIds>{ids}</m:SourceIds></m:ConvertId>"#
            ));
            let outcome = send(request, None, move |ask| match whole {
                true => Reply::xml(500, fault("ErrorInternalServerError", "")),
                false => messages(ask, |_| "ErrorInternalServerError".to_owned()),
            })
            .await;
            let case = format!("{members}, {whole}: {} requests", outcome.requests());
            println!("{case}, {:?}", outcome.took);
            let errors = outcome.body.matches(r#"ResponseClass="Error""#).count();
            let is_fault = outcome.status == Some(500);
            assert!(errors == members || is_fault, "{case}: {errors}");
            let said = outcome.body.matches("ErrorInternalServerError").count();
            // Those that were not sent say so.
            let unsent = outcome.body.matches("was not executed").count();
            assert!(is_fault || said + unsent >= members, "{case}: {said}");
            assert!(outcome.unknown == 0 && !outcome.refused_in_doubt, "{case}");
            let most = match members {
                1 => Once.requests(),
                _ => Once.requests_of_batch() + members / 100,
            };
            assert!(outcome.requests() <= most, "{case}");
            assert!(outcome.took <= Once.time(), "{case}: {:?}", outcome.took);
        }
    }
}
