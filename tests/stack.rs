//! The whole stack against the simulated server, in virtual time: with the policy's own ledger, and where no time is asserted with a
//! remote one, too.

mod remote_ledger;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use remote_ledger::{Kind, with_each_ledger};
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, ServiceExt};
use tower_ews::audit_log::{AuditLogLayer, Level, MemorySink, Scope};
use tower_ews::body::ReplayBody;
use tower_ews::extensions::{Caller, Deadline};
use tower_ews::ledger::PrincipalSnapshot;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::Budget;
use tower_ews::server_busy_backoff::{BackoffError, Failure, MailboxMoved, RetryInfo};
use tower_ews::simulator::{Account, Exchange, Fault, Faults, Policy};
use tower_ews::soap::ResponseCode;
use tower_ews::stack::{CredentialsError, EwsClient, busy_for, fault_of, status_of};
use tower_ews::{EwsService, EwsStack};

const AUTHORIZATION: &str = "Basic c3ZjQGNvbnRvc28uY29tOnNlY3JldA==";

#[derive(Clone, Copy)]
enum Access {
    Delegate,
    Impersonation,
}

fn envelope(header: &str, body: &str) -> Request<Full<Bytes>> {
    let text = format!(
        r#"<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Header><t:RequestServerVersion Version="Exchange2013_SP1"/>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"#
    );
    Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
        .header("content-type", "text/xml; charset=utf-8")
        .header("authorization", AUTHORIZATION)
        .body(Full::from(text))
        .unwrap()
}

fn impersonate(mailbox: &str) -> String {
    format!(
        "<t:ExchangeImpersonation><t:ConnectingSID><t:PrimarySmtpAddress>{mailbox}</t:PrimarySmtpAddress></t:ConnectingSID></t:ExchangeImpersonation>"
    )
}

fn create(access: Access, mailbox: &str, subject: &str) -> Request<Full<Bytes>> {
    let (header, owner) = match access {
        Access::Delegate => (
            String::new(),
            format!("<t:Mailbox><t:EmailAddress>{mailbox}</t:EmailAddress></t:Mailbox>"),
        ),
        Access::Impersonation => (impersonate(mailbox), String::new()),
    };
    let body = format!(
        r#"<m:CreateItem SendMeetingInvitations="SendToNone"><m:SavedItemFolderId><t:DistinguishedFolderId Id="calendar">{owner}</t:DistinguishedFolderId></m:SavedItemFolderId><m:Items><t:CalendarItem><t:Subject>{subject}</t:Subject><t:Start>2026-01-08T10:00:00Z</t:Start><t:End>2026-01-08T11:00:00Z</t:End></t:CalendarItem></m:Items></m:CreateItem>"#
    );
    envelope(&header, &body)
}

/// One request with an event for each subject.
fn batch(subjects: &[&str]) -> Request<Full<Bytes>> {
    let items: String = subjects
        .iter()
        .map(|subject| format!("<t:CalendarItem><t:Subject>{subject}</t:Subject></t:CalendarItem>"))
        .collect();
    let body = format!(
        r#"<m:CreateItem SendMeetingInvitations="SendToNone"><m:Items>{items}</m:Items></m:CreateItem>"#
    );
    envelope("", &body)
}

fn patient(mut policy: ThrottlingPolicy) -> ThrottlingPolicy {
    policy.deadline = Duration::from_secs(86_400);
    policy.max_wait = policy.deadline;
    policy
}

fn stack(exchange: &Exchange, policy: ThrottlingPolicy) -> EwsService<Exchange> {
    stack_of(Kind::Local, exchange, policy)
}

fn stack_of(kind: Kind, exchange: &Exchange, policy: ThrottlingPolicy) -> EwsService<Exchange> {
    kind.stack(policy)
        .caller(Caller::new("svc@contoso.com"))
        .layer(exchange.clone())
}

/// What became of one call, as its caller sees it.
#[derive(Debug, PartialEq)]
enum Seen {
    Created,
    Refused(String),
    Failed(String),
}

async fn send(service: EwsService<Exchange>, request: Request<Full<Bytes>>) -> Seen {
    let response = async {
        let response = service.oneshot(request).await?;
        let status = response.status();
        let tried = response.extensions().get::<RetryInfo>();
        let unknown = tried.is_some_and(|tried| tried.outcome_unknown);
        let body = response.into_body().collect().await?.to_bytes();
        Ok::<_, BoxError>((status, unknown, String::from_utf8_lossy(&body).into_owned()))
    };
    match response.await {
        Ok((StatusCode::OK, _, body)) if body.contains("ResponseClass=\"Success\"") => {
            Seen::Created
        }
        Ok((_, true, body)) => Seen::Failed(format!("outcome unknown: {body}")),
        Ok((status, false, body)) => Seen::Refused(format!("{status} {body}")),
        Err(error) => Seen::Failed(error.to_string()),
    }
}

struct Ran {
    seconds: f64,
    refused: Vec<String>,
    failed: Vec<String>,
}

/// `items` events round robin over `mailboxes`, all asked for at once.
async fn job(
    service: &EwsService<Exchange>,
    access: Access,
    items: usize,
    mailboxes: usize,
) -> Ran {
    let start = Instant::now();
    let calls: Vec<_> = (0..items)
        .map(|item| {
            let mailbox = format!("user{:03}@contoso.com", item % mailboxes);
            let request = create(access, &mailbox, &format!("event {item}"));
            tokio::spawn(send(service.clone(), request))
        })
        .collect();
    let (mut refused, mut failed) = (Vec::new(), Vec::new());
    for call in calls {
        match call.await.unwrap() {
            Seen::Created => {}
            Seen::Refused(response) => refused.push(response),
            Seen::Failed(error) => failed.push(error),
        }
    }
    Ran {
        seconds: start.elapsed().as_secs_f64(),
        refused,
        failed,
    }
}

fn subjects(items: usize) -> Vec<String> {
    (0..items).map(|item| format!("event {item}")).collect()
}

fn assert_whole(exchange: &Exchange, ran: &Ran, items: usize) {
    let report = exchange.report();
    assert_eq!(ran.refused, [""; 0]);
    assert_eq!(ran.failed, [""; 0]);
    assert!(report.lost(subjects(items)).is_empty());
    assert!(report.created_twice().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_delegate_job_runs_to_its_end_as_fast_as_sixteen_open_mailboxes_allow() {
    let mut policy = Policy::exchange_online();
    policy.max_burst = None;
    policy.latency = Duration::ZERO;
    policy.member_time = Duration::from_secs(1);
    policy.jitter = 0.0;
    let exchange = Exchange::builder().policy(policy).seed(1).build();
    let service = stack(&exchange, patient(ThrottlingPolicy::exchange_online()));
    let ran = job(&service, Access::Delegate, 4_800, 48).await;
    assert_whole(&exchange, &ran, 4_800);
    let report = exchange.report();
    // Three groups of 16 mailboxes, 27 calls of one second at a time, and 300 s between two groups.
    let least = 2.0 * 300.0 + 3.0 * (1_600.0_f64 / 27.0);
    println!(
        "{:.0} s, at least {least:.0} s, {} throttled responses",
        ran.seconds,
        report.throttled_total()
    );
    assert!(ran.seconds <= least * 1.1);
    assert_eq!(report.open_mailbox_violations, 0);
    assert!(report.peak() <= 27);
}

async fn an_impersonation_job_survives_hidden_budgets(kind: Kind) {
    // Numbers that the client does not know, and could not.
    let mut policy = Policy::exchange_online();
    policy.max_concurrency = Some(3);
    policy.max_burst = Some(4_000);
    policy.cutoff_balance = 4_000;
    policy.recharge_rate = 360_000;
    policy.lockout = Duration::from_secs(30);
    let exchange = Exchange::builder().policy(policy).seed(2).build();
    let service = stack_of(
        kind,
        &exchange,
        patient(ThrottlingPolicy::exchange_online()),
    );
    let ran = job(&service, Access::Impersonation, 2_400, 12).await;
    assert_whole(&exchange, &ran, 2_400);
    let report = exchange.report();
    // What was in flight when a lock-out began comes too late, and nothing else does.
    if kind == Kind::Local {
        assert!(report.calls_during_backoff <= 3 * report.lockouts);
    }
    println!(
        "{:.0} s, throttled {:?}, {} lock-outs, {} calls during one",
        ran.seconds, report.throttled, report.lockouts, report.calls_during_backoff
    );
}

async fn with_faults_nothing_is_lost_or_doubled_and_every_error_is_an_unknown_outcome(kind: Kind) {
    let seed: u64 = std::env::var("EWS_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    for (n, access) in [Access::Delegate, Access::Impersonation]
        .into_iter()
        .enumerate()
    {
        println!("EWS_TEST_SEED={seed}");
        let exchange = Exchange::builder()
            .seed(seed.wrapping_add(n as u64))
            .faults(Faults::mixed(0.2))
            .build();
        let service = stack_of(
            kind,
            &exchange,
            patient(ThrottlingPolicy::exchange_online()),
        );
        let ran = job(&service, access, 1_000, 24).await;
        assert_eq!(ran.refused, [""; 0]);
        for error in &ran.failed {
            assert!(error.contains("unknown"), "{error}");
        }
        let report = exchange.report();
        assert!(report.created_twice().is_empty());
        let lost = report.lost(subjects(1_000)).len();
        // What is not there was reported as a failure.
        assert!(lost <= ran.failed.len());
        println!(
            "{} failed, {lost} not created, faults {:?}",
            ran.failed.len(),
            report.faults
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_of_five_minutes_holds_back_one_principal_and_nobody_else() {
    let exchange = Exchange::builder().build();
    let service = stack(&exchange, patient(ThrottlingPolicy::exchange_online()));
    // The first call meets a lock-out of five minutes.
    exchange.inject(Fault::ServerBusy {
        back_off: Some(Duration::from_secs(300)),
    });
    let amy = |n: usize| {
        create(
            Access::Impersonation,
            "amy@contoso.com",
            &format!("amy {n}"),
        )
    };
    let first = tokio::spawn(send(service.clone(), amy(0)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let locked_out: Vec<_> = (1..20)
        .map(|n| tokio::spawn(send(service.clone(), amy(n))))
        .collect();
    let bob = create(Access::Impersonation, "bob@contoso.com", "bob");
    let begin = Instant::now();
    assert_eq!(send(service.clone(), bob).await, Seen::Created);
    let took = begin.elapsed();
    assert_eq!(first.await.unwrap(), Seen::Created);
    for call in locked_out {
        assert_eq!(call.await.unwrap(), Seen::Created);
    }
    let calls = exchange.calls();
    let amys: Vec<_> = calls
        .iter()
        .filter(|call| call.mailboxes.iter().any(|mailbox| mailbox.contains("amy")))
        .collect();
    assert_eq!(amys.len(), 21, "20 items, one of them sent twice");
    // Bob's call was not delayed by a millisecond: it arrived when it was made, and took what the server took.
    let bobs = calls
        .iter()
        .find(|call| call.mailboxes.iter().any(|mailbox| mailbox.contains("bob")));
    let bobs = bobs.unwrap();
    assert_eq!(bobs.at, Duration::from_secs(1));
    assert_eq!(bobs.responded.unwrap() - bobs.at, took);
    let opened = amys[0].responded.unwrap() + Duration::from_secs(300);
    assert!(amys[1..].iter().all(|call| call.at >= opened));
    // One probe first: nobody else before its response.
    let probe = amys[1].responded.unwrap();
    assert!(amys[2..].iter().all(|call| call.at >= probe));
}

async fn the_stack_is_clone_send_sync_and_can_be_boxed(kind: Kind) {
    fn check<T: Clone + Send + Sync + 'static>(_: &T) {}
    let exchange = Exchange::builder().build();
    let service = stack_of(kind, &exchange, ThrottlingPolicy::exchange_online());
    check(&service);
    let boxed: BoxCloneSyncService<Request<Full<Bytes>>, _, BoxError> =
        BoxCloneSyncService::new(service);
    check(&boxed);
    let request = create(Access::Delegate, "amy@contoso.com", "boxed");
    let response = boxed.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_stack_without_a_policy_of_its_own_learns_the_servers_limit() {
    let mut server = Policy::exchange_online();
    server.max_concurrency = Some(5);
    server.max_burst = None;
    let exchange = Exchange::builder().policy(server).seed(3).build();
    let stack = EwsStack::new(patient(ThrottlingPolicy::exchange_online()));
    let ledger = stack.shared_ledger().clone();
    let service = stack.layer(exchange.clone());
    let ran = job(&service, Access::Impersonation, 2_000, 1).await;
    assert_whole(&exchange, &ran, 2_000);
    let throttled = exchange.report().throttled_total();
    println!("{throttled} of 2000 throttled");
    // 22 at first, then one in a hundred at most.
    assert!(throttled <= 22 + 20, "{throttled}");
    let snapshot = ledger.snapshot();
    let limit = snapshot.principals[0]
        .budgets
        .iter()
        .find(|budget| budget.budget == Budget::Concurrency);
    assert!(limit.unwrap().limit <= 6);
}

/// Servers that allow less than the client's policy says: the job ends all the same, and few calls are refused.
async fn a_policy_that_is_wrong_costs_little(kind: Kind) {
    if kind == Kind::Redis {
        // A fleet finds limits by another, simpler rule, which has not been measured.
        return;
    }
    let fewer_mailboxes = Policy::exchange_online().with(|policy| {
        policy.open_mailboxes = Some(10);
        policy.open_mailbox_idle = Duration::from_secs(420);
    });
    let few_threads = Policy::exchange_online().with(|policy| {
        policy.server_calls = Some(12);
        policy.server_threads = Some(6);
    });
    let slow = Policy::exchange_online().with(|policy| {
        policy.max_concurrency = Some(2);
        policy.member_time = Duration::from_secs(5);
    });
    for (name, server, access, mailboxes) in [
        (
            "10 mailboxes open for 7 minutes",
            fewer_mailboxes,
            Access::Delegate,
            40,
        ),
        (
            "12 calls at the server, then 503",
            few_threads,
            Access::Impersonation,
            20,
        ),
        ("2 calls of 5 s", slow, Access::Delegate, 4),
    ] {
        let exchange = Exchange::builder().policy(server).seed(4).build();
        let service = stack_of(
            kind,
            &exchange,
            patient(ThrottlingPolicy::exchange_online()),
        );
        let ran = job(&service, access, 1_200, mailboxes).await;
        assert_whole(&exchange, &ran, 1_200);
        let report = exchange.report();
        println!(
            "{name}: {:.0} s, throttled {:?}",
            ran.seconds, report.throttled
        );
    }
}

/// Two processes that know nothing of each other, on one account.
async fn two_processes_share_an_account(kind: Kind) {
    let exchange = Exchange::builder().seed(5).build();
    let one = stack_of(
        kind,
        &exchange,
        patient(ThrottlingPolicy::exchange_online()),
    );
    let two = stack_of(
        kind,
        &exchange,
        patient(ThrottlingPolicy::exchange_online()),
    );
    let (ran, also) = tokio::join!(
        job(&one, Access::Delegate, 2_000, 8),
        job(&two, Access::Delegate, 2_000, 8)
    );
    assert_eq!((ran.refused, also.refused), (Vec::new(), Vec::new()));
    assert_eq!((ran.failed, also.failed), (Vec::new(), Vec::new()));
    let report = exchange.report();
    assert_eq!(report.items_created, 4_000);
    println!("{:.0} s, throttled {:?}", ran.seconds, report.throttled);
}

/// After a lock-out, a good response with a long body lets the others go before that body has ended.
#[tokio::test(start_paused = true)]
async fn the_first_call_after_a_lock_out_need_not_be_read_to_its_end() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    type Frames = futures_util::stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>;
    let client = tower::service_fn(|_: Request<ReplayBody>| async {
        let fault = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>a:ErrorServerBusy</faultcode><faultstring>Later.</faultstring><detail><ResponseCode>ErrorServerBusy</ResponseCode><MessageXml><Value Name="BackOffMilliseconds">10000</Value></MessageXml></detail></s:Fault></s:Body></s:Envelope>"#;
        let begin = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><m:GetItemResponse xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><m:ResponseMessages><m:GetItemResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode></m:GetItemResponseMessage>"#;
        let data = |text: &str| Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes())));
        let (status, frames): (_, Frames) = match CALLS.fetch_add(1, Ordering::Relaxed) {
            0 => (500, stream::iter([data(fault)]).boxed()),
            // Longer than the prefix that is read before a response is handed over, and never at its end.
            1 => {
                let long = [data(begin), data(&" ".repeat(100_000))];
                (200, stream::iter(long).chain(stream::pending()).boxed())
            }
            _ => (
                200,
                stream::iter([data(begin)]).chain(stream::pending()).boxed(),
            ),
        };
        let response = Response::builder()
            .status(status)
            .header("content-type", "text/xml");
        Ok::<_, Infallible>(response.body(StreamBody::new(frames)).unwrap())
    });
    let service = EwsStack::new(ThrottlingPolicy::exchange_online()).layer(client);
    let get = r#"<m:GetItem><m:ItemShape/><m:ItemIds><t:ItemId Id="A"/></m:ItemIds></m:GetItem>"#;
    let start = Instant::now();
    let _long = service.clone().oneshot(envelope("", get)).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    let next = tokio::spawn(service.oneshot(envelope("", get)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(CALLS.load(Ordering::Relaxed), 3);
    next.abort();
}

#[tokio::test(start_paused = true)]
async fn a_deadline_in_the_past_sends_nothing() {
    let exchange = Exchange::builder().build();
    let service = stack(&exchange, ThrottlingPolicy::exchange_online());
    let mut request = create(Access::Impersonation, "amy@contoso.com", "late");
    request
        .extensions_mut()
        .insert(Deadline::within(Duration::from_secs(1)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let error = service.oneshot(request).await.unwrap_err();
    assert!(
        matches!(error.downcast_ref(), Some(BackoffError::NotSent { .. })),
        "{error:?}"
    );
    assert_eq!(exchange.report().calls, 0);
}

with_each_ledger!(
    an_impersonation_job_survives_hidden_budgets,
    with_faults_nothing_is_lost_or_doubled_and_every_error_is_an_unknown_outcome,
    the_stack_is_clone_send_sync_and_can_be_boxed,
    a_policy_that_is_wrong_costs_little,
    two_processes_share_an_account,
);

/// Type-checks only: the client may take the stack's own body.
#[allow(dead_code)]
fn takes_a_client_of_replay_bodies<C>(client: C) -> EwsService<C>
where
    C: EwsClient,
{
    EwsStack::new(ThrottlingPolicy::exchange_se()).layer(client)
}

/// A token that is good for an hour, put on by the hook of the stack: each attempt has one that was fetched after its wait.
#[tokio::test(start_paused = true)]
async fn credentials_are_fetched_once_for_each_attempt_and_after_its_wait() {
    let start = Instant::now();
    let exchange = Exchange::builder()
        .with_account(Account::new("svc@contoso.com").password("secret"))
        .build();
    let fetched = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&fetched);
    let stack = EwsStack::new(patient(ThrottlingPolicy::exchange_online()))
        .caller(Caller::new("svc@contoso.com"))
        .credentials(move |caller| {
            log.lock()
                .unwrap()
                .push((caller.name().to_owned(), start.elapsed()));
            // Fetching takes time, too.
            async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(HeaderValue::from_static(AUTHORIZATION))
            }
        });
    let sent = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sent);
    let client = exchange
        .clone()
        .map_request(move |request: Request<ReplayBody>| {
            let value = request.headers()["authorization"].clone();
            seen.lock()
                .unwrap()
                .push((value.is_sensitive(), value == AUTHORIZATION));
            request
        });
    exchange.inject(Fault::ServerBusy {
        back_off: Some(Duration::from_secs(3600)),
    });
    let mut request = create(Access::Impersonation, "amy@contoso.com", "late");
    // One that is out of date by now.
    let old = HeaderValue::from_static("Bearer old");
    request.headers_mut().insert("authorization", old);
    request
        .extensions_mut()
        .insert(Caller::new("other@contoso.com"));
    let response = stack.service(client).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    drop(response);
    let fetched = fetched.lock().unwrap().clone();
    assert_eq!(fetched.len(), 2);
    assert!(fetched.iter().all(|(name, _)| name == "other@contoso.com"));
    assert_eq!(fetched[0].1, Duration::ZERO);
    assert!(fetched[1].1 >= Duration::from_secs(3600), "{fetched:?}");
    assert_eq!(*sent.lock().unwrap(), [(true, true), (true, true)]);
}

#[tokio::test(start_paused = true)]
async fn without_credentials_nothing_is_sent_and_nothing_is_held() {
    let exchange = Exchange::builder().build();
    let stack = EwsStack::new(ThrottlingPolicy::exchange_online())
        .credentials(async |_| Err("the secret has expired".into()));
    let service = stack.service(exchange.clone());
    for request in [
        create(Access::Impersonation, "amy@contoso.com", "one"),
        batch(&["one", "two", "three"]),
    ] {
        let begin = Instant::now();
        let error = service.clone().oneshot(request).await.unwrap_err();
        let missing: &CredentialsError = error.downcast_ref().unwrap();
        assert_eq!(missing.caller().name(), "the calling account");
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert_eq!(Failure::of(&*error), Failure::NotSent);
        assert_eq!(status_of(&error), StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(exchange.report().calls, 0);
    let snapshot = stack.shared_ledger().snapshot();
    let held = |principal: &PrincipalSnapshot| principal.budgets.iter().any(|b| b.held > 0);
    assert!(!snapshot.principals.iter().any(held), "{snapshot:?}");
}

/// Whatever the server said before: its 503 would hide why the call ended.
#[tokio::test(start_paused = true)]
async fn credentials_that_cannot_be_fetched_again_end_the_call_with_their_error() {
    let exchange = Exchange::builder().build();
    exchange.inject(Fault::ServerBusy {
        back_off: Some(Duration::from_secs(5)),
    });
    let fetched = Arc::new(Mutex::new(0));
    let sink = MemorySink::new();
    let stack = EwsStack::new(ThrottlingPolicy::exchange_online())
        .audit_log(AuditLogLayer::new(sink.clone()))
        .credentials(move |_| {
            *fetched.lock().unwrap() += 1;
            let value = match *fetched.lock().unwrap() {
                1 => Ok(HeaderValue::from_static(AUTHORIZATION)),
                _ => Err("the secret has expired".into()),
            };
            async { value }
        });
    let request = create(Access::Impersonation, "amy@contoso.com", "one");
    let error = stack.service(exchange.clone()).oneshot(request).await;
    let error = error.unwrap_err();
    assert!(error.is::<CredentialsError>(), "{error}");
    assert_eq!(exchange.report().calls, 1);
    assert!(format!("{:?}", sink.records()[0].error).contains("the secret has expired"));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_bounds_the_wait_for_credentials() {
    let exchange = Exchange::builder().build();
    for takes in [Duration::from_secs(100), Duration::MAX] {
        let stack =
            EwsStack::new(ThrottlingPolicy::exchange_online()).credentials(move |_| async move {
                tokio::time::sleep(takes).await;
                Ok(HeaderValue::from_static(AUTHORIZATION))
            });
        let mut request = create(Access::Impersonation, "amy@contoso.com", "one");
        let deadline = Deadline::within(Duration::from_secs(60));
        request.extensions_mut().insert(deadline);
        let begin = Instant::now();
        let error = stack.service(exchange.clone()).oneshot(request).await;
        let error = error.unwrap_err();
        assert_eq!(begin.elapsed().as_secs(), 60);
        assert_eq!(Failure::of(&*error), Failure::NotSent, "{error}");
        assert_eq!(status_of(&error), StatusCode::GATEWAY_TIMEOUT);
        let text = error.to_string();
        assert!(text.contains("passed while the call waited"), "{text}");
        let snapshot = stack.shared_ledger().snapshot();
        let held = |principal: &PrincipalSnapshot| principal.budgets.iter().any(|b| b.held > 0);
        assert!(!snapshot.principals.iter().any(held), "{snapshot:?}");
    }
    assert_eq!(exchange.report().calls, 0);
}

/// What an attempt waits for before it is sent is no time of its own.
#[tokio::test(start_paused = true)]
async fn slow_credentials_take_no_time_of_the_attempt() {
    let exchange = Exchange::builder().build();
    let stack = EwsStack::new(ThrottlingPolicy::exchange_online()).credentials(async |_| {
        tokio::time::sleep(Duration::from_secs(300)).await;
        Ok(HeaderValue::from_static(AUTHORIZATION))
    });
    let request = create(Access::Impersonation, "amy@contoso.com", "one");
    let seen = send(stack.service(exchange.clone()), request).await;
    assert_eq!(seen, Seen::Created);
    assert_eq!(exchange.report().calls, 1);
}

/// A mailbox that has moved is found by the caller's hook, for each part of a batch.
#[tokio::test(start_paused = true)]
async fn a_mailbox_that_has_moved_is_found() {
    let exchange = Exchange::builder().build();
    let client = {
        let exchange = exchange.clone();
        tower::service_fn(move |request: Request<ReplayBody>| {
            let exchange = exchange.clone();
            async move {
                if request.uri().host() == Some("new.contoso.com") {
                    let response = exchange.oneshot(request).await?;
                    let body = response.map(|body| body.map_err(BoxError::from).boxed_unsync());
                    return Ok::<_, BoxError>(body);
                }
                let fault = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>a:ErrorCrossSiteRequest</faultcode><faultstring>Elsewhere.</faultstring><detail><e:ResponseCode xmlns:e="http://schemas.microsoft.com/exchange/services/2006/errors">ErrorCrossSiteRequest</e:ResponseCode></detail></s:Fault></s:Body></s:Envelope>"#;
                let body = Full::from(fault).map_err(BoxError::from).boxed_unsync();
                let response = Response::builder().status(500);
                Ok(response.header("content-type", "text/xml").body(body)?)
            }
        })
    };
    let asked = Arc::new(Mutex::new(Vec::new()));
    let ask = Arc::clone(&asked);
    let stack = EwsStack::new(ThrottlingPolicy::exchange_online())
        .batches(|batches| batches.max_members(2))
        .find_endpoint(move |moved: MailboxMoved| {
            ask.lock().unwrap().push(moved.reason);
            async { "https://new.contoso.com/EWS/Exchange.asmx".parse().ok() }
        });
    let service = stack.service(BoxCloneSyncService::new(client));
    let response = service.oneshot(batch(&["a", "b", "c", "d"])).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body);
    assert_eq!(body.matches(">NoError<").count(), 4, "{body}");
    assert_eq!(exchange.report().items_created, 4);
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 2);
    assert!(
        asked
            .iter()
            .all(|reason| &**reason == "ErrorCrossSiteRequest")
    );
}

/// The audit log is inside, and off until it is switched on.
#[tokio::test(start_paused = true)]
async fn the_audit_log_is_switched_on_and_off_while_calls_go_on() {
    let exchange = Exchange::builder().build();
    let sink = MemorySink::new();
    let stack = EwsStack::new(ThrottlingPolicy::exchange_online())
        .caller(Caller::new("svc@contoso.com"))
        .audit_log(AuditLogLayer::new(sink.clone()).level(Level::Off));
    let handle = stack.audit_handle();
    let service = stack.service(exchange);
    let call = async |number: usize| {
        let request = create(
            Access::Impersonation,
            "amy@contoso.com",
            &number.to_string(),
        );
        assert_eq!(send(service.clone(), request).await, Seen::Created);
    };
    call(1).await;
    assert_eq!(sink.records().len(), 0);
    handle.set(Scope::All, Level::Summary);
    call(2).await;
    handle.set(Scope::All, Level::Off);
    call(3).await;
    let records = sink.records();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].operation.as_deref(), Some("CreateItem"));
    assert_eq!(records[0].mailbox.as_deref(), Some("amy@contoso.com"));
    assert_eq!(records[0].caller.as_deref(), Some("svc@contoso.com"));
}

/// What a gateway tells its own caller: how long the server is busy, whether the call ended with its response or with an error.
#[tokio::test(start_paused = true)]
async fn how_long_the_server_of_a_failed_call_is_busy() {
    let exchange = Exchange::builder().build();
    let mut policy = ThrottlingPolicy::exchange_online();
    policy.deadline = Duration::from_secs(60);
    policy.max_wait = policy.deadline;
    let service = stack(&exchange, policy);
    exchange.inject(Fault::ServerBusy {
        back_off: Some(Duration::from_secs(300)),
    });
    let call = |subject| create(Access::Impersonation, "amy@contoso.com", subject);
    let refused = service.clone().oneshot(call("refused")).await.unwrap();
    let info: &RetryInfo = refused.extensions().get().unwrap();
    assert!(info.gave_up);
    assert_eq!(info.retry_after, Some(Duration::from_secs(300)));

    tokio::time::sleep(Duration::from_secs(100)).await;
    let error = service.oneshot(call("held back")).await.unwrap_err();
    let left = busy_for(&error).unwrap();
    assert!(
        left <= Duration::from_secs(203) && left > Duration::from_secs(190),
        "{left:?}"
    );
    assert_eq!(status_of(&error), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(fault_of(&error), ResponseCode::SERVER_BUSY);
}

#[tokio::test]
async fn the_client_can_be_reached_and_taken_out() {
    let stack = EwsStack::new(ThrottlingPolicy::exchange_online());
    let mut service = stack.service(Exchange::builder().build());
    assert_eq!(service.get_ref().report().calls, 0);
    assert_eq!(service.get_mut().report().calls, 0);
    assert_eq!(service.into_inner().report().calls, 0);
}
