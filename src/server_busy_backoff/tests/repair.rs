//! Where sending the same again does not help: mailboxes that have moved, and sporadic refusals of impersonation.

use super::*;
use ::http::Uri;

/// A server that responds by the authority that it is asked by, and writes down each.
fn by_host(log: &Log, hosts: &Arc<Mutex<Vec<String>>>, old: Response<TestBody>) -> Server {
    let seen = Arc::clone(hosts);
    let note = move |request: &Request<ReplayBody>| {
        let host = request.uri().host().unwrap_or_default().to_owned();
        seen.lock().push(host);
    };
    let again = note.clone();
    let new = http_response(200, &[XML], TestBody::new(log, [success()]));
    Server::new(log)
        .step(move |request| async move {
            note(&request);
            Ok(old)
        })
        .step(move |request| async move {
            again(&request);
            Ok(new)
        })
}

fn xml(log: &Log, status: u16, body: String) -> Response<TestBody> {
    http_response(status, &[XML], TestBody::new(log, [body]))
}

fn elsewhere(log: &Log, status: u16, header: (&str, &str)) -> Response<TestBody> {
    http_response(status, &[header], TestBody::new(log, [""; 0]))
}

const THERE: &str = "https://new.contoso.com/EWS/Exchange.asmx";

/// Everything that says so, and the endpoint that it names.
fn moves(log: &Log) -> Vec<(&'static str, Response<TestBody>, Option<Uri>)> {
    let there = || Some(Uri::from_static(THERE));
    let all = |code| {
        let one = ("Error", code, "");
        messages("GetItem", &[one, one])
    };
    vec![
        (
            "ErrorCrossSiteRequest",
            xml(log, 500, fault("ErrorCrossSiteRequest", "")),
            None,
        ),
        (
            "ErrorWrongServerVersion",
            xml(log, 200, all("ErrorWrongServerVersion")),
            None,
        ),
        (
            "ErrorMailboxMoveInProgress",
            xml(log, 500, fault("ErrorMailboxMoveInProgress", "")),
            None,
        ),
        ("302", elsewhere(log, 302, ("location", THERE)), there()),
        ("307", elsewhere(log, 307, ("location", THERE)), there()),
        (
            "451",
            elsewhere(log, 451, ("x-ms-location", THERE)),
            there(),
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_has_moved_is_asked_for_at_its_new_endpoint() {
    for operation in ["GetItem", "CreateItem"] {
        let log = Log::new();
        for (reason, old, location) in moves(&log) {
            let (hosts, asked) = (Arc::default(), Arc::new(Mutex::new(Vec::new())));
            let server = by_host(&log, &hosts, old);
            let ask = Arc::clone(&asked);
            let layer = ServerBusyBackoffLayer::ews().find_endpoint(move |moved| {
                ask.lock().push(moved);
                async { Some(Uri::from_static(THERE)) }
            });
            let mut request = ews(operation);
            request
                .headers_mut()
                .insert("host", "ews.contoso.com".parse().unwrap());
            request
                .extensions_mut()
                .insert(crate::extensions::Caller::new("svc"));
            let begin = Instant::now();
            let response = send(layer, &server, request).await.unwrap();
            assert_eq!(*hosts.lock(), ["ews.contoso.com", "new.contoso.com"]);
            assert!(response.extensions().get::<MailboxMoved>().is_none());
            assert_eq!(info(&response).signal.as_deref(), Some(reason));
            assert!(!info(&response).maybe_repeated);
            assert_eq!(text(response).await, success());
            assert!(begin.elapsed().is_zero(), "{reason}");
            let asked = asked.lock();
            let [moved] = &asked[..] else {
                panic!("{asked:?}")
            };
            assert_eq!((&*moved.reason, &moved.location), (reason, &location));
            assert_eq!(moved.endpoint.host(), Some("ews.contoso.com"));
            let caller = moved.caller.as_ref().map(|caller| caller.name());
            assert_eq!((caller, moved.mailbox.as_deref()), (Some("svc"), Some("")));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_hook_the_response_says_what_to_do() {
    let log = Log::new();
    for (reason, old, _) in moves(&log) {
        if reason == "ErrorMailboxMoveInProgress" {
            // It may be over in a while.
            continue;
        }
        let status = old.status();
        let server = Server::new(&log).step(move |_| async move { Ok(old) });
        let response = send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem"))
            .await
            .unwrap();
        assert_eq!(response.status(), status);
        let moved: &MailboxMoved = response.extensions().get().unwrap();
        let text = moved.to_string();
        assert!(
            text.contains("Autodiscover") && text.contains(reason),
            "{text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_is_asked_once_and_need_not_know() {
    for (found, requests) in [(None, 1), (Some("/relative"), 1), (Some(THERE), 2)] {
        let log = Log::new();
        let wrong = || fault("ErrorWrongServerVersion", "");
        let mut server = Server::new(&log);
        for _ in 0..requests {
            server = server.xml(500, &wrong());
        }
        let asked = Arc::new(Mutex::new(0));
        let count = Arc::clone(&asked);
        let layer = ServerBusyBackoffLayer::ews().find_endpoint(move |_| {
            *count.lock() += 1;
            async move { found.map(Uri::from_static) }
        });
        let response = send(layer, &server, ews("GetItem")).await.unwrap();
        assert!(response.extensions().get::<MailboxMoved>().is_some());
        assert!(!info(&response).gave_up);
        assert_eq!(text(response).await, wrong());
        assert_eq!((log.calls().len(), *asked.lock()), (requests, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_hangs_ends_at_the_deadline_and_holds_nothing() {
    let log = Log::new();
    let server = Server::new(&log).xml(500, &fault("ErrorWrongServerVersion", ""));
    let at_hook = log.clone();
    let layer = ServerBusyBackoffLayer::ews().find_endpoint(move |_| {
        assert!(at_hook.events().contains(&Event::BodyDropped));
        std::future::pending()
    });
    let mut request = ews("GetItem");
    let deadline = Deadline::within(Duration::from_secs(60));
    request.extensions_mut().insert(deadline);
    let response = send(layer, &server, request).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), Instant::now()),
        (500, deadline.0)
    );
    assert!(response.extensions().get::<MailboxMoved>().is_some());
}

#[tokio::test(start_paused = true)]
async fn what_speaks_for_some_or_leads_elsewhere_is_no_move() {
    let log = Log::new();
    let some = [
        ("Error", "ErrorWrongServerVersion", ""),
        ("Success", "NoError", "<m:Items/>"),
    ];
    let same = "https://ews.contoso.com/ews/exchange.asmx";
    let responses = [
        xml(&log, 200, messages("GetItem", &some)),
        elsewhere(&log, 302, ("location", "/owa/auth/logon.aspx")),
        elsewhere(&log, 302, ("location", "https://login.contoso.com/oauth2")),
        elsewhere(&log, 302, ("location", same)),
        elsewhere(&log, 302, ("location", "::")),
        elsewhere(&log, 451, ("location", THERE)),
    ];
    for reply in responses {
        let case = format!("{} {:?}", reply.status(), reply.headers());
        let server = Server::new(&log).step(move |_| async move { Ok(reply) });
        let layer = ServerBusyBackoffLayer::ews().find_endpoint(|_| async { unreachable!() });
        let response = send(layer, &server, ews("GetItem")).await.unwrap();
        let moved: Option<&MailboxMoved> = response.extensions().get();
        assert!(moved.is_none(), "{case}");
    }
}

fn impersonating(operation: &str, mailbox: &str) -> Request<ReplayBody> {
    ews(operation).map(|body| {
        let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        let header = format!(
            "<s:Header><t:ExchangeImpersonation {T}><t:ConnectingSID><t:PrimarySmtpAddress>{mailbox}</t:PrimarySmtpAddress></t:ConnectingSID></t:ExchangeImpersonation></s:Header><s:Body>"
        );
        ReplayBody::from(text.replace("<s:Body>", &header))
    })
}

#[tokio::test(start_paused = true)]
async fn impersonation_that_was_granted_before_is_tried_once_more() {
    let denied = || fault("ErrorImpersonateUserDenied", "");
    for (is_part, operation) in [
        (false, "GetItem"),
        (false, "CreateItem"),
        (true, "CreateItem"),
    ] {
        let log = Log::new();
        let server = Server::new(&log)
            .xml(500, &denied())
            .xml(200, &success())
            // A sporadic refusal, and one that is meant.
            .xml(500, &denied())
            .xml(200, &success())
            .xml(500, &denied())
            .xml(500, &denied())
            .xml(500, &denied());
        let service = ServerBusyBackoffLayer::ews().layer(server);
        let call = async |mailbox: &str| {
            let mut request = impersonating(operation, mailbox);
            if is_part {
                request.extensions_mut().insert(crate::trail::PartOfBatch);
            }
            let response = service.clone().oneshot(request).await.unwrap();
            let attempts = response.extensions().get();
            let attempts = attempts.map_or(1, |info: &RetryInfo| info.attempts);
            let in_doubt = attempts > 1 && info(&response).outcome_unknown;
            assert!(!in_doubt);
            (response.status().as_u16(), attempts)
        };
        // Never let in.
        assert_eq!(call("amy@contoso.com").await, (500, 1));
        assert_eq!(call("amy@contoso.com").await, (200, 1));
        assert_eq!(call("amy@contoso.com").await, (200, 2));
        assert_eq!(call("amy@contoso.com").await, (500, 2));
        // Another one.
        assert_eq!(call("bob@contoso.com").await, (500, 1));
    }
}
