//! Layers that are put together in a way that cannot work as meant: one warning each, or an error, that names the cure.
//!
//! Each warning is logged once in a process, so each has one test here, and no other test of this file meets it.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex};

use http::{HeaderValue, Request, Response};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_ews::account_pool::{Account, AccountPoolLayer};
use tower_ews::body::ReplayBody;
use tower_ews::client_request_id::ClientRequestIdLayer;
use tower_ews::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use tower_ews::extensions::Caller;
use tower_ews::ledger::{AcquireError, Ledger, LocalLedger};
use tower_ews::policy::{SetLimitError, ThrottlingPolicy};
use tower_ews::principal::{Budget, Principal};
use tower_ews::server_busy_backoff::ServerBusyBackoffLayer;
use tower_ews::{EwsStack, ServiceBuilderExt};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Keeps the texts of warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    fn told(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!("{}: {value:?} ", field.name());
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target() == "tower_ews::wiring"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

const FAULT: &str = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>a:ErrorServerBusy</faultcode><faultstring>Later.</faultstring><detail><ResponseCode>ErrorServerBusy</ResponseCode></detail></s:Fault></s:Body></s:Envelope>"#;
const GOOD: &str = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><m:GetFolderResponse xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><m:ResponseMessages><m:GetFolderResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode></m:GetFolderResponseMessage></m:ResponseMessages></m:GetFolderResponse></s:Body></s:Envelope>"#;

/// A server that is busy when it is called first, and every second time from then on.
fn server() -> impl tower::Service<
    Request<ReplayBody>,
    Response = Response<String>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send {
    let calls = Arc::new(Mutex::new(0));
    service_fn(move |_: Request<ReplayBody>| {
        let mut calls = calls.lock().unwrap();
        *calls += 1;
        let busy = *calls % 2 == 1;
        let (status, body) = if busy { (500, FAULT) } else { (200, GOOD) };
        let response = Response::builder()
            .status(status)
            .header("content-type", "text/xml");
        std::future::ready(Ok(response.body(body.to_owned()).unwrap()))
    })
}

fn request() -> Request<ReplayBody> {
    Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
        .header("authorization", "Bearer canary-one")
        .body("<s:Envelope/>".into())
        .unwrap()
}

fn who(_: &Request<ReplayBody>) -> Principal {
    Principal::account("svc")
}

fn ledger() -> Arc<dyn Ledger> {
    Arc::new(LocalLedger::in_flight(4))
}

/// What is logged while `run` runs, in virtual time.
fn warnings(run: impl AsyncFnOnce()) -> Vec<String> {
    let warnings = Warnings::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let listener = tracing::Dispatch::new(warnings.clone());
    // While there is one listener alone, an event that another thread is the first to come to never reaches anybody.
    let _silent = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    tracing::dispatcher::with_default(&listener, || runtime.block_on(run()));
    warnings.told()
}

#[track_caller]
fn assert_once(warnings: &[String], cure: &str) {
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains(cure), "{warnings:?}");
    assert!(!warnings[0].contains("canary"), "{warnings:?}");
}

#[test]
fn calls_of_several_accounts_without_a_caller() {
    let told = warnings(async || {
        let ews = EwsStack::new(ThrottlingPolicy::exchange_online()).service(server());
        let call = async |token: &str, caller: Option<Caller>| {
            let mut request = request();
            let headers = request.headers_mut();
            headers.insert("authorization", token.parse().unwrap());
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            ews.clone().oneshot(request).await.unwrap();
        };
        // One account, and another one that says who it is.
        call("Bearer canary-one", None).await;
        call("Bearer canary-one", None).await;
        call("Bearer canary-two", Some(Caller::new("two"))).await;
    });
    assert_eq!(told, [""; 0]);
    let told = warnings(async || {
        // A stack that has a name for its one account, whose tokens change.
        let named = EwsStack::new(ThrottlingPolicy::exchange_online()).caller(Caller::new("svc"));
        let unnamed = EwsStack::new(ThrottlingPolicy::exchange_online());
        for (stack, tokens) in [(named, ["a", "b", "c"]), (unnamed, ["a", "b", "c"])] {
            let ews = stack.service(server());
            for token in tokens {
                let mut request = request();
                let token = format!("Bearer canary-{token}");
                let headers = request.headers_mut();
                headers.insert("authorization", token.parse().unwrap());
                ews.clone().oneshot(request).await.unwrap();
            }
        }
    });
    assert_once(&told, "tower_ews::extensions::Caller");
}

#[test]
fn two_layers_with_different_ledgers() {
    let told = warnings(async || {
        let service = ServiceBuilder::new()
            .layer(ServerBusyBackoffLayer::ews().ledger(ledger()))
            .layer(ConcurrencyByPrincipalLayer::new(ledger(), who))
            .service(server());
        service.clone().oneshot(request()).await.unwrap();
        service.oneshot(request()).await.unwrap();
    });
    assert_once(&told, "ConcurrencyByPrincipalLayer::new");
}

#[test]
fn a_pool_with_a_ledger_of_its_own() {
    let told = warnings(async || {
        let service = ServiceBuilder::new()
            .layer(AccountPoolLayer::ews(ledger(), who).account(Account::new("svc")))
            .layer(ConcurrencyByPrincipalLayer::new(ledger(), who))
            .service(server());
        service.clone().oneshot(request()).await.unwrap();
        service.oneshot(request()).await.unwrap();
    });
    assert_once(&told, "`AccountPoolLayer::ews`");
}

#[test]
fn a_ledger_that_nobody_acquires_from() {
    let told = warnings(async || {
        let service = ServerBusyBackoffLayer::ews()
            .ledger(ledger())
            .layer(server());
        service.clone().oneshot(request()).await.unwrap();
        service.oneshot(request()).await.unwrap();
    });
    assert_once(&told, "put `ConcurrencyByPrincipal`");
}

#[test]
fn one_id_for_all_attempts() {
    let told = warnings(async || {
        let service = ServiceBuilder::new()
            .layer(ClientRequestIdLayer::new())
            .layer(ServerBusyBackoffLayer::ews())
            .service(server());
        service.clone().oneshot(request()).await.unwrap();
        service.oneshot(request()).await.unwrap();
    });
    assert_once(&told, "put `ClientRequestId` inside");
}

#[test]
fn an_id_of_another_tower_http() {
    let told = warnings(async || {
        let service = ServiceBuilder::new().client_request_id().service(server());
        for _ in 0..2 {
            let mut request = request();
            let headers = request.headers_mut();
            headers.insert("x-request-id", HeaderValue::from_static("canary"));
            service.clone().oneshot(request).await.unwrap();
        }
    });
    assert_once(&told, "use the same version of tower-http");
}

#[test]
fn statuses_alone_of_an_ews_server() {
    let told = warnings(async || {
        let service = ServerBusyBackoffLayer::http().layer(server());
        // The fault comes with a 500, which is handed on.
        for status in [500, 200, 500] {
            let response = service.clone().oneshot(request()).await.unwrap();
            assert_eq!(response.status(), status);
        }
        let mut graph = request();
        *graph.uri_mut() = "https://graph.microsoft.com/v1.0/me".parse().unwrap();
        service.oneshot(graph).await.unwrap();
    });
    assert_once(&told, "`EwsClassifier`");
}

#[test]
fn a_stack_for_each_call() {
    let told = warnings(async || {
        for _ in 0..250 {
            let stack = EwsStack::new(ThrottlingPolicy::exchange_online());
            let ews = stack.caller(Caller::new("svc")).service(server());
            ews.oneshot(request()).await.unwrap();
        }
    });
    assert_once(&told, "make one `EwsStack`");
}

#[test]
fn a_stack_for_ews_with_the_numbers_of_graph() {
    let told = warnings(async || {
        for _ in 0..2 {
            let stack = EwsStack::new(ThrottlingPolicy::graph_outlook());
            let ews = stack.caller(Caller::new("svc")).service(server());
            ews.oneshot(request()).await.unwrap();
        }
    });
    assert_once(&told, "use a preset of Exchange");
}

#[test]
fn layers_that_are_wired_well_say_nothing() {
    let told = warnings(async || {
        let ledger = ledger();
        let service = ServiceBuilder::new()
            // An id of the caller's own, whose attempts have others.
            .client_request_id()
            .server_busy_backoff_with_ledger(
                ledger.clone(),
                tower_ews::server_busy_backoff::EwsClassifier,
            )
            .concurrency_by_principal_with_ledger(ledger, who)
            .client_request_id()
            .service(server());
        service.clone().oneshot(request()).await.unwrap();
        let stack = EwsStack::new(ThrottlingPolicy::exchange_online());
        stack.service(server()).oneshot(request()).await.unwrap();
    });
    assert_eq!(told, [""; 0]);
}

#[tokio::test]
async fn a_limit_of_zero_is_an_error_and_no_call_that_waits_for_ever() {
    let service = ServiceBuilder::new()
        .concurrency_by_principal(0, who)
        .service(server());
    let error = service.oneshot(request()).await.unwrap_err();
    assert!(
        matches!(error.downcast_ref(), Some(AcquireError::ZeroLimit)),
        "{error:?}"
    );
    assert!(error.to_string().contains("allow at least 1"), "{error}");
}

#[test]
fn a_limit_of_a_policy_that_cannot_be_set_is_an_error() {
    let mut policy = ThrottlingPolicy::exchange_2019();
    let before = policy.clone();
    // Nothing says what draws on it.
    let budget = Budget::Custom(1);
    let missing = policy.set_in_flight(budget, 5).unwrap_err();
    assert_eq!(missing, SetLimitError::NoRule { budget });
    // It counts values, not what is in flight.
    assert!(policy.set_in_flight(Budget::OpenMailboxes, 5).is_err());
    let zero = policy.set_in_flight(Budget::Concurrency, 0).unwrap_err();
    assert_eq!(
        zero,
        SetLimitError::Zero {
            budget: Budget::Concurrency
        }
    );
    assert_eq!(policy, before);
    policy.set_in_flight(Budget::Concurrency, 5).unwrap();
    assert_eq!(policy.in_flight(Budget::Concurrency), Some(5));
}
