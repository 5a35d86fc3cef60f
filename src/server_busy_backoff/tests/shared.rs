//! What calls share beside gates: the budget of retries, and what is remembered of refused access.

use super::*;
use crate::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use crate::errors::{AccessDenied, AccessScope};
use crate::extensions::Caller;
use crate::ledger::LocalLedger;
use crate::trail::RetryAttempt;

type Headers = &'static [(&'static str, &'static str)];

/// Sends requests at the same time, each of which is refused once. Returns when they were sent again.
async fn retries_after(refusals: impl IntoIterator<Item = (u16, Headers)>) -> Vec<Duration> {
    let log = Log::new();
    let mut server = Server::new(&log);
    let mut calls = 0;
    for (status, headers) in refusals {
        server = server.respond(status, headers, "");
        calls += 1;
    }
    for _ in 0..calls {
        server = server.respond(200, &[], "");
    }
    let layer = ServerBusyBackoffLayer::http().backoff(millis(1), millis(1));
    let service = layer.layer(server);
    let request = || {
        Request::get("https://contoso.com/")
            .body(ReplayBody::empty())
            .unwrap()
    };
    let sent: Vec<_> = (0..calls)
        .map(|_| tokio::spawn(service.clone().oneshot(request())))
        .collect();
    for call in sent {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    log.calls().split_off(calls)
}

#[tokio::test(start_paused = true)]
async fn only_retries_that_nobody_holds_back_draw_on_the_budget() {
    let unheld = (502, &[] as Headers);
    let drawn = retries_after([unheld; 30]).await;
    assert!(drawn[..20].iter().all(|at| *at < millis(500)), "{drawn:?}");
    assert!(drawn[29] >= millis(5_000), "{drawn:?}");
    // The server has said when, or a gate holds them back: the others have all of the budget.
    for held in [(502, &[("retry-after", "1")] as Headers), (429, &[])] {
        let refusals = [held; 30].into_iter().chain([unheld; 20]);
        let sent = retries_after(refusals).await;
        let at_once = sent.iter().filter(|at| **at < millis(500)).count();
        assert!(at_once >= 20, "{held:?}: {sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_waits_the_longer_one_counts() {
    for (head, body, expected) in [("30", "10000", 30), ("10", "30000", 30)] {
        let log = Log::new();
        let headers = [XML, ("retry-after", head)];
        let server = Server::new(&log)
            .respond(503, &headers, &busy_fault(body))
            .xml(200, &success());
        let response = send(ServerBusyBackoffLayer::ews(), &server, ews("GetItem"))
            .await
            .unwrap();
        let expected = Duration::from_secs(expected);
        assert_eq!(info(&response).retry_after, Some(expected), "{head} {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_retries_are_marked_and_have_a_ticket() {
    let log = Log::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut server = Server::new(&log).charged();
    for body in [busy_fault("1000"), busy_fault("1000"), success()] {
        let status = if body == success() { 200 } else { 500 };
        let response = http_response(status, &[XML], TestBody::new(&log, [body]));
        let seen = Arc::clone(&seen);
        server = server.step(move |request| async move {
            let extensions = request.extensions();
            let ticket = extensions.get::<Requeue>().map(|requeue| requeue.ticket);
            let marked = extensions.get::<RetryAttempt>().is_some();
            seen.lock().push((marked, ticket));
            Ok(response)
        });
    }
    let layer = ServerBusyBackoffLayer::ews().ledger(recorder(&log));
    send(layer, &server, ews("GetItem")).await.unwrap();
    let again = (true, Some(Some(7)));
    assert_eq!(*seen.lock(), [(false, None), again, again]);
}

fn of_mailbox(mailbox: &str) -> Request<ReplayBody> {
    let body = envelope(&format!(
        "<m:GetFolder {M} {T}><m:FolderIds><t:DistinguishedFolderId Id=\"inbox\"><t:Mailbox>\
         <t:EmailAddress>{mailbox}</t:EmailAddress></t:Mailbox></t:DistinguishedFolderId></m:FolderIds></m:GetFolder>"
    ));
    let mut request = ews("GetFolder");
    *request.body_mut() = ReplayBody::from(body);
    request.extensions_mut().insert(Caller::new("svc"));
    request
}

#[tokio::test(start_paused = true)]
async fn only_a_success_shows_that_an_account_has_access() {
    for (status, scope) in [
        (200, AccessScope::Mailbox("dan@contoso.com".into())),
        (404, AccessScope::Caller),
    ] {
        let log = Log::new();
        let server = Server::new(&log)
            .respond(403, &[], "")
            .respond(403, &[], "")
            .xml(status, &success())
            .respond(403, &[], "");
        let service = ServerBusyBackoffLayer::ews().layer(server);
        for mailbox in ["amy@contoso.com", "bob@contoso.com", "cid@contoso.com"] {
            let call = service.clone().oneshot(of_mailbox(mailbox));
            call.await.unwrap();
        }
        let call = service.clone().oneshot(of_mailbox("dan@contoso.com"));
        let response = call.await.unwrap();
        let denied: &AccessDenied = response.extensions().get().unwrap();
        assert_eq!(*denied.scope(), scope);
    }
}

#[tokio::test(start_paused = true)]
async fn a_401_is_remembered_where_the_credentials_are_known() {
    let log = Log::new();
    let server = Server::new(&log)
        .respond(401, &[], "")
        .respond(401, &[], "");
    let ews_call = send(ServerBusyBackoffLayer::ews(), &server, ews("GetItem"));
    let response = ews_call.await.unwrap();
    assert!(response.extensions().get::<AccessDenied>().is_some());
    let plain = send(ServerBusyBackoffLayer::http(), &server, ews("GetItem"));
    let response = plain.await.unwrap();
    assert!(response.extensions().get::<AccessDenied>().is_none());
}

/// The layer's gates learn how many calls an endpoint takes, as a ledger does.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_several_calls_have_overloaded_gets_fewer_at_a_time() {
    const CALLS: usize = 60;
    let log = Log::new();
    let mut server = Server::new(&log).respond(503, &[("retry-after", "10")], "");
    for _ in 0..CALLS + 20 {
        let log = log.clone();
        server = server.step(move |_| async move {
            let begun = elapsed().as_secs();
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(match begun {
                13 => http_response(503, &[("retry-after", "10")], TestBody::new(&log, [""])),
                _ => http_response(200, &[XML], TestBody::new(&log, [success()])),
            })
        });
    }
    let service = ServerBusyBackoffLayer::ews().layer(server);
    let first = tokio::spawn(service.clone().oneshot(ews("GetItem")));
    tokio::time::sleep(millis(1)).await;
    let others: Vec<_> = (0..CALLS)
        .map(|_| tokio::spawn(service.clone().oneshot(ews("GetItem"))))
        .collect();
    for call in others.into_iter().chain([first]) {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    let sent: Vec<_> = log.calls().iter().map(Duration::as_secs).collect();
    let at = |second: u64| sent.iter().filter(|sent| **sent == second).count();
    // Twice as many each second, until eight are refused. As many again would be, so there are fewer.
    assert_eq!([10, 11, 12, 13].map(at), [1, 2, 4, 8], "{sent:?}");
    assert_eq!([24, 25, 26].map(at), [1, 2, 4], "{sent:?}");
    assert!(at(27) < 8 && at(28) < 8, "{sent:?}");
}

/// What is kept of a refusal is read after its gate has heard of it.
#[tokio::test(start_paused = true)]
async fn the_next_call_at_a_gate_does_not_wait_for_the_page_of_a_refusal() {
    let log = Log::new();
    let page = TestBody::new(&log, ["<html>"]).endless();
    let endless = http_response(502, &[], page);
    let server = Server::new(&log)
        .respond(429, &[("retry-after", "10")], "")
        .step(move |_| async move { Ok(endless) })
        .respond(200, &[], "")
        .respond(200, &[], "");
    let layer = ServerBusyBackoffLayer::http().backoff(millis(1), millis(1));
    let service = layer.layer(server);
    let get = || {
        let request = Request::get("https://contoso.com/");
        request.body(ReplayBody::empty()).unwrap()
    };
    let first = tokio::spawn(service.clone().oneshot(get()));
    tokio::time::sleep(millis(1)).await;
    let next = tokio::spawn(service.clone().oneshot(get()));
    for call in [first, next] {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    let calls = log.calls();
    assert_eq!(calls[1], calls[2], "{calls:?}");
}

/// The wait in the queue of a ledger is no wait of the call itself.
#[tokio::test(start_paused = true)]
async fn a_ledger_that_lowers_its_limit_holds_a_retry_back() {
    let log = Log::new();
    let ledger = Arc::new(LocalLedger::in_flight(4));
    let server = Server::new(&log)
        .xml(500, &fault("ErrorExceededConnectionCount", ""))
        .xml(200, &success());
    let principal = |_: &Request<ReplayBody>| Some(Principal::new("svc"));
    let charged = ConcurrencyByPrincipalLayer::new(ledger.clone(), principal);
    let layer = ServerBusyBackoffLayer::ews().ledger(ledger);
    let service = layer.layer(charged.layer(server));
    let response = service.oneshot(ews("GetItem")).await.unwrap();
    let info: &RetryInfo = response.extensions().get().unwrap();
    assert_eq!((info.attempts, info.backed_off), (2, Duration::ZERO));
}
