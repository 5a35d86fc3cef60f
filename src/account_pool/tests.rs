//! Tests of the pool against a scripted server, for an API that is not EWS.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, ServiceExt};

use super::*;
use crate::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use crate::extensions::{Caller, Deadline, Priority};
use crate::ledger::{AdmissionSlot, Ledger, Limit, LocalLedger, Signal};
use crate::principal::{Budget, Charge, Charges, Principal};

const CALL: Duration = Duration::from_millis(100);

/// Each account may have two mailboxes open, and four calls under way.
fn ledger() -> Arc<dyn Ledger> {
    let open = Limit::Distinct {
        limit: 2,
        idle: Duration::from_secs(300),
    };
    let ledger = LocalLedger::builder()
        .budget(Budget::Concurrency, Limit::InFlight(4))
        .budget(Budget::OpenMailboxes, open);
    Arc::new(ledger.build())
}

/// The caller pays, and opens the mailbox that the request is for.
fn charges(request: &Request<String>) -> Charges {
    let caller = request.extensions().get().map(Caller::name);
    let account = Principal::account(caller.unwrap_or_default());
    let mut charges = Charges::from(Charge::new(account.clone(), Budget::Concurrency, 1));
    if !request.body().is_empty() {
        let mailbox = Principal::mailbox(request.body());
        charges.push(Charge::of_value(account, Budget::OpenMailboxes, mailbox));
    }
    charges
}

/// Who called for which mailbox, and with what.
type Seen = (String, String, Option<HeaderValue>);

#[derive(Clone, Debug, Default)]
struct Server {
    calls: Arc<Mutex<Vec<Seen>>>,
    /// What accounts are told instead of a success.
    refuses: Arc<Mutex<HashMap<String, StatusCode>>>,
    /// The only authorization that is taken, if there is one.
    takes: Arc<Mutex<Option<HeaderValue>>>,
}

type Client = BoxCloneSyncService<Request<String>, Response<Full<Bytes>>, BoxError>;

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request: Request<String>| {
            let server = server.clone();
            async move { Ok(server.respond(request).await) }
        }))
    }

    async fn respond(&self, request: Request<String>) -> Response<Full<Bytes>> {
        let caller = request.extensions().get::<Caller>().unwrap();
        let name = caller.name().to_owned();
        let authorization = request.headers().get("authorization").cloned();
        let call = (name.clone(), request.body().clone(), authorization.clone());
        self.calls.lock().push(call);
        sleep(CALL).await;
        let refused = self.refuses.lock().get(&name).copied();
        let taken = self.takes.lock().clone();
        let status = match (refused, taken) {
            (Some(status), _) => status,
            (None, taken) if taken.is_some() && taken != authorization => StatusCode::UNAUTHORIZED,
            _ => StatusCode::OK,
        };
        let mut response = Response::new(Full::from(name));
        *response.status_mut() = status;
        response
    }

    fn callers(&self) -> Vec<String> {
        let calls = self.calls.lock();
        calls.iter().map(|(caller, ..)| caller.clone()).collect()
    }
}

fn pool(
    accounts: &[&str],
    ledger: &Arc<dyn Ledger>,
) -> AccountPoolLayer<fn(&Request<String>) -> Charges> {
    let pool = AccountPoolLayer::http(Arc::clone(ledger), charges as fn(&_) -> _);
    let accounts = accounts.iter().map(|name| Account::new(name));
    accounts.fold(pool, AccountPoolLayer::account)
}

fn call(mailbox: &str) -> Request<String> {
    Request::new(mailbox.to_owned())
}

/// Makes the call, reads its response and says who made it.
fn ask<S, B>(
    service: &S,
    request: Request<String>,
) -> impl Future<Output = Result<(u16, String), BoxError>> + use<S, B>
where
    S: tower::Service<Request<String>, Response = Response<B>, Error = BoxError> + Clone,
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let call = service.clone().oneshot(request);
    async move {
        let response = call.await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Ok((status, String::from_utf8(body.to_vec()).unwrap()))
    }
}

#[tokio::test(start_paused = true)]
async fn calls_go_to_the_least_loaded_account_and_then_wait_for_any() {
    let (server, ledger) = (Server::default(), ledger());
    let service = pool(&["a", "b"], &ledger).layer(server.client());
    let start = Instant::now();
    let calls = (0..16).map(|_| tokio::spawn(ask(&service, call(""))));
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap().0, 200);
    }
    // Two accounts with four places each.
    assert_eq!(start.elapsed(), 2 * CALL);
    let callers = server.callers();
    let of_a = callers.iter().filter(|caller| *caller == "a").count();
    assert_eq!((callers.len(), of_a), (16, 8));
    // Evenly from the beginning.
    let of_a = callers[..4].iter().filter(|caller| *caller == "a").count();
    assert_eq!(of_a, 2);
    let snapshot = ledger.snapshot();
    assert_eq!(snapshot.queued, 0);
    assert!(
        snapshot
            .principals
            .iter()
            .all(|one| one.budgets.iter().all(|one| one.held == 0))
    );
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_stays_with_the_account_that_has_it_open() {
    let (server, ledger) = (Server::default(), ledger());
    let layer = pool(&["a", "b"], &ledger);
    let service = layer.layer(server.client());
    // Four mailboxes at a time, though eight calls of each are offered at once.
    let mailboxes = ["amy", "bob", "carl", "dora", "eve", "fred"];
    let calls = (0..8).flat_map(|_| mailboxes);
    let calls = calls.map(|mailbox| tokio::spawn(ask(&service, call(mailbox))));
    let start = Instant::now();
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap().0, 200);
    }
    let mut of_mailbox: HashMap<String, Vec<String>> = HashMap::new();
    for (caller, mailbox, _) in server.calls.lock().iter() {
        of_mailbox
            .entry(mailbox.clone())
            .or_default()
            .push(caller.clone());
    }
    for (mailbox, callers) in of_mailbox {
        assert_eq!(callers.len(), 8);
        assert!(
            callers.iter().all(|caller| *caller == callers[0]),
            "{mailbox}: {callers:?}"
        );
    }
    // The last two are opened once the first have been idle for five minutes.
    let took = start.elapsed();
    assert!(
        took > Duration::from_secs(300) && took < Duration::from_secs(302),
        "{took:?}"
    );
    let open: Vec<usize> = layer.snapshot().iter().map(|one| one.mailboxes).collect();
    assert_eq!(open, [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_too_long_for_its_account_spills_over() {
    let (server, ledger) = (Server::default(), ledger());
    let service = pool(&["a", "b"], &ledger)
        .spill_over(Duration::from_secs(30))
        .layer(server.client());
    let slot = AdmissionSlot::new();
    let mut first = call("amy");
    first.extensions_mut().insert(slot.clone());
    let (_, home) = ask(&service, first).await.unwrap();
    // Its account is locked out.
    let until = Instant::now() + Duration::from_secs(120);
    ledger.report(&slot.admission().unwrap(), Signal::Busy { until });
    let start = Instant::now();
    let (_, other) = ask(&service, call("amy")).await.unwrap();
    assert_ne!(home, other);
    assert_eq!(start.elapsed(), Duration::from_secs(30) + CALL);
    // The other one has it open now, and does not wait.
    let (_, again) = ask(&service, call("amy")).await.unwrap();
    assert_eq!(
        (again, start.elapsed()),
        (other.clone(), Duration::from_secs(30) + 2 * CALL)
    );
    // A call that cannot wait so long asks the other account at once.
    let (_, of_bob) = ask(&service, call("bob")).await.unwrap();
    assert_eq!(of_bob, other);
    let mut bounded = call("amy");
    bounded
        .extensions_mut()
        .insert(Deadline::within(Duration::from_secs(20)));
    assert_eq!(ask(&service, bounded).await.unwrap().0, 200);
    assert_eq!(ledger.snapshot().queued, 0);
}

#[tokio::test(start_paused = true)]
async fn an_account_whose_credentials_are_refused_gets_fresh_ones_once() {
    let (server, ledger) = (Server::default(), ledger());
    let good = HeaderValue::from_static("Bearer 2");
    *server.takes.lock() = Some(good.clone());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&asked);
    let account = Account::new("a").credentials(move |request| {
        let rejected = request.rejected().cloned();
        tell.lock().push(rejected.clone());
        let token = if rejected.is_some() {
            "Bearer 2"
        } else {
            "Bearer 1"
        };
        std::future::ready(Ok(HeaderValue::from_static(token)))
    });
    let layer = pool(&[], &ledger).account(account);
    let service = layer.layer(server.client());
    assert_eq!(ask(&service, call("amy")).await.unwrap().0, 200);
    let expected = [None, Some(HeaderValue::from_static("Bearer 1"))];
    assert_eq!(*asked.lock(), expected);
    assert!(layer.snapshot()[0].left_out.is_none());
    let sent = server.calls.lock()[1].2.clone().unwrap();
    assert!(sent == good && sent.is_sensitive());

    // Fresh ones are refused, too.
    *server.takes.lock() = Some(HeaderValue::from_static("Bearer 3"));
    assert_eq!(ask(&service, call("amy")).await.unwrap().0, 401);
    assert_eq!(server.calls.lock().len(), 4);
    let left_out = layer.snapshot()[0].left_out.clone().unwrap();
    assert_eq!(*left_out.reason(), LeftOutReason::Refused);
    // Nobody is asked for a minute, then once.
    let error = ask(&service, call("amy")).await.unwrap_err();
    let text =
        "no account of the pool can make the call: a (credentials refused, asked again in 59.8 s)";
    assert!(error.is::<NoAccount>());
    assert!(error.to_string().starts_with(&text[..70]), "{error}");
    *server.takes.lock() = Some(HeaderValue::from_static("Bearer 1"));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(ask(&service, call("amy")).await.unwrap().0, 200);
    assert!(layer.snapshot()[0].left_out.is_none());
    assert_eq!(server.calls.lock().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn the_attempt_moves_on_and_holds_nothing_of_the_account_before() {
    for status in [401, 456] {
        let (server, ledger) = (Server::default(), ledger());
        let status = StatusCode::from_u16(status).unwrap();
        server.refuses.lock().insert("a".into(), status);
        let layer = pool(&["a", "b"], &ledger);
        let charged = ConcurrencyByPrincipalLayer::new(Arc::clone(&ledger), charges);
        let service = layer.layer(charged.layer(server.client()));
        for _ in 0..20 {
            let (status, caller) = ask(&service, call("amy")).await.unwrap();
            assert_eq!((status, &*caller), (200, "b"));
        }
        let asked = server.callers();
        assert!(
            asked.iter().filter(|caller| *caller == "a").count() <= 1,
            "{asked:?}"
        );
        let held = ledger.snapshot().principals;
        let held = held.iter().flat_map(|one| &one.budgets);
        let held = held.filter(|one| one.budget == Budget::Concurrency);
        assert!(held.map(|one| one.held).all(|held| held == 0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_without_credentials_is_left_out_and_nothing_is_sent() {
    let (server, ledger) = (Server::default(), ledger());
    let broken = Account::new("a").credentials(async |_| Err("the vault is sealed".into()));
    let layer = pool(&[], &ledger).account(broken.clone());
    let service = layer.layer(server.client());
    let error = ask(&service, call("amy")).await.unwrap_err();
    assert_eq!(
        std::error::Error::source(&*error).unwrap().to_string(),
        "the vault is sealed"
    );
    assert!(server.callers().is_empty());
    let failure = crate::retry::Failure::of(&*error);
    assert_eq!(failure, crate::retry::Failure::NotSent);

    let service = pool(&["b"], &ledger).account(broken).layer(server.client());
    for _ in 0..3 {
        assert_eq!(ask(&service, call("amy")).await.unwrap().1, "b");
    }
    // A hook that hangs ends with the deadline.
    let hangs = Account::new("c").credentials(async |_| std::future::pending().await);
    let service = pool(&[], &ledger).account(hangs).layer(server.client());
    let mut bounded = call("bob");
    bounded.extensions_mut().insert(Deadline::within(CALL));
    let error = ask(&service, bounded).await.unwrap_err();
    assert!(error.is::<crate::errors::DeadlineElapsed>(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_named_makes_the_call_and_strangers_pass() {
    let (server, ledger) = (Server::default(), ledger());
    let service = pool(&["a", "b"], &ledger).layer(server.client());
    for name in ["b", "b", "b", "stranger"] {
        let mut named = call("amy");
        named.extensions_mut().insert(Caller::new(name));
        assert_eq!(ask(&service, named).await.unwrap().1, name);
    }
    let of_stranger = ledger.snapshot().principals;
    let stranger = Principal::account("stranger");
    assert!(of_stranger.iter().all(|one| one.principal != stranger));
}

#[tokio::test(start_paused = true)]
async fn the_pool_alone_holds_the_permit_until_the_body_has_ended() {
    let ledger: Arc<dyn Ledger> = Arc::new(LocalLedger::in_flight(1));
    let server = Server::default();
    let layer = pool(&["a"], &ledger);
    let service = layer.layer(server.client());
    let response = service.clone().oneshot(call("")).await.unwrap();
    assert_eq!(layer.snapshot()[0].in_flight, 1);
    let next = tokio::spawn(ask(&service, call("")));
    sleep(Duration::from_secs(5)).await;
    assert!(!next.is_finished());
    drop(response);
    assert_eq!(next.await.unwrap().unwrap().0, 200);
    assert_eq!(layer.snapshot()[0].in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_given_up_leave_nothing() {
    let (server, ledger) = (Server::default(), ledger());
    let layer = pool(&["a", "b"], &ledger);
    let service = layer.layer(server.client());
    let mut rng = fastrand::Rng::with_seed(7);
    let mut calls = Vec::new();
    for number in 0..400 {
        let mut request = call(["amy", "bob", "carl", "dora", "eve"][number % 5]);
        let urgent = [Priority::Interactive, Priority::Normal, Priority::Bulk];
        request.extensions_mut().insert(urgent[rng.usize(..3)]);
        let patience = Duration::from_millis(rng.u64(0..3_000));
        let call = tokio::time::timeout(patience, ask(&service, request));
        calls.push(tokio::spawn(call));
    }
    for call in calls {
        let _ = call.await.unwrap();
    }
    assert!(layer.snapshot().iter().all(|one| one.in_flight == 0));
    assert_eq!(ledger.snapshot().queued, 0);
    sleep(Duration::from_secs(600)).await;
    for mailbox in ["fay", "gus", "hal", "ida"] {
        let start = Instant::now();
        ask(&service, call(mailbox)).await.unwrap();
        assert_eq!(start.elapsed(), CALL);
    }
}

/// A pool with one account, whose hook keeps its token and fetches another one when that was rejected. Returns how often it did.
fn refreshing(server: &Server, fails: bool) -> (impl Fn() -> usize, Client) {
    let fetched = Arc::new(Mutex::new(0));
    let count = Arc::clone(&fetched);
    let hook = move |request: CredentialsRequest| {
        let count = Arc::clone(&count);
        async move {
            if request.rejected().is_some() {
                *count.lock() += 1;
                sleep(10 * CALL).await;
                if fails {
                    return Err("the token service is down".into());
                }
            }
            let number = *count.lock();
            Ok(HeaderValue::try_from(format!("token {number}")).unwrap())
        }
    };
    let by_caller = |request: &Request<String>| {
        let caller = request.extensions().get().map(Caller::name);
        Principal::new(caller.unwrap_or_default())
    };
    let pool = AccountPoolLayer::in_flight(100, by_caller)
        .account(Account::new("a").credentials(hook))
        .layer(server.client());
    let service = tower::ServiceExt::<Request<String>>::map_response(pool, |response| {
        response.map(|_| Full::default())
    });
    (move || *fetched.lock(), BoxCloneSyncService::new(service))
}

#[tokio::test(start_paused = true)]
async fn a_token_that_has_expired_is_fetched_once_for_all_calls() {
    let server = Server::default();
    let (fetched, service) = refreshing(&server, false);
    for round in 1..=3 {
        *server.takes.lock() = Some(HeaderValue::try_from(format!("token {round}")).unwrap());
        let start = Instant::now();
        let calls = (0..100).map(|_| tokio::spawn(ask(&service, call(""))));
        for call in calls.collect::<Vec<_>>() {
            assert_eq!(call.await.unwrap().unwrap().0, 200);
        }
        assert_eq!(fetched(), round);
        // A call, the token, and another call.
        assert_eq!(start.elapsed(), 12 * CALL);
    }
    assert_eq!(server.calls.lock().len(), 600);
}

#[tokio::test(start_paused = true)]
async fn a_token_service_that_is_down_is_asked_once() {
    let server = Server::default();
    *server.takes.lock() = Some(HeaderValue::from_static("another"));
    let (fetched, service) = refreshing(&server, true);
    let calls = (0..100).map(|_| tokio::spawn(ask(&service, call(""))));
    for call in calls.collect::<Vec<_>>() {
        let error = call.await.unwrap();
        assert!(error.is_err() || error.is_ok_and(|(status, _)| status == 401));
    }
    assert_eq!((fetched(), server.calls.lock().len()), (1, 100));
}

#[tokio::test(start_paused = true)]
async fn an_account_that_is_reserved_is_used_by_name_alone() {
    let (server, ledger) = (Server::default(), ledger());
    let pool = AccountPoolLayer::http(Arc::clone(&ledger), charges as fn(&_) -> _)
        .account(Account::new("listener").reserved())
        .account(Account::new("a"))
        .account(Account::new("other listener").reserved())
        .account(Account::new("b"));
    let names: Vec<String> = pool
        .snapshot()
        .into_iter()
        .map(|one| one.caller.name().into())
        .collect();
    assert_eq!(names, ["a", "b", "listener", "other listener"]);
    let service = pool.layer(server.client());
    let calls = (0..16).map(|_| tokio::spawn(ask(&service, call(""))));
    for call in calls.collect::<Vec<_>>() {
        let (status, caller) = call.await.unwrap().unwrap();
        assert!(
            status == 200 && (caller == "a" || caller == "b"),
            "{caller}"
        );
    }
    for name in ["other listener", "listener", "b"] {
        let mut request = call("");
        request.extensions_mut().insert(Caller::new(name));
        assert_eq!(
            ask(&service, request).await.unwrap(),
            (200, name.to_owned())
        );
    }
    // Nobody else helps out.
    server.refuses.lock().extend([
        ("a".to_owned(), StatusCode::UNAUTHORIZED),
        ("b".to_owned(), StatusCode::UNAUTHORIZED),
    ]);
    assert_eq!(ask(&service, call("")).await.unwrap().0, 401);

    let service = AccountPoolLayer::http(ledger, charges as fn(&_) -> _)
        .account(Account::new("listener").reserved())
        .layer(server.client());
    let error = ask(&service, call("")).await.unwrap_err();
    assert!(error.is::<NoAccount>(), "{error}");
}

/// The hook does not keep what it has fetched.
#[tokio::test(start_paused = true)]
async fn a_token_that_was_fetched_and_has_expired_is_fetched_again() {
    let server = Server::default();
    let takes = |number: usize| {
        let token = HeaderValue::try_from(format!("token {number}")).unwrap();
        *server.takes.lock() = Some(token);
    };
    let fetched = Arc::new(Mutex::new(0));
    let count = Arc::clone(&fetched);
    let account = Account::new("a").credentials(move |request| {
        let mut number = count.lock();
        *number += usize::from(request.rejected().is_some());
        let number = request.rejected().map_or(0, |_| *number);
        std::future::ready(Ok(HeaderValue::try_from(format!("token {number}")).unwrap()))
    });
    let by_name = |_: &Request<String>| Principal::new("contoso");
    let service = AccountPoolLayer::in_flight(10, by_name)
        .account(account)
        .layer(server.client());
    for number in 1..4 {
        takes(number);
        // The first one finds out.
        let _ = ask(&service, call("")).await;
        sleep(Duration::from_secs(61)).await;
        for _ in 0..10 {
            assert_eq!(ask(&service, call("")).await.unwrap().0, 200, "{number}");
        }
        assert_eq!(*fetched.lock(), number);
    }
}

/// A server that is busy has not looked at the credentials.
#[tokio::test(start_paused = true)]
async fn an_account_that_is_asked_of_a_busy_server_stays_left_out() {
    let (server, ledger) = (Server::default(), ledger());
    let layer = pool(&["a"], &ledger);
    let service = layer.layer(server.client());
    let unavailable = [
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::BAD_GATEWAY,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    for status in [StatusCode::UNAUTHORIZED].into_iter().chain(unavailable) {
        server.refuses.lock().insert("a".into(), status);
        let (told, _) = ask(&service, call("amy")).await.unwrap();
        assert_eq!(told, status.as_u16());
        let left_out = layer.snapshot()[0].left_out.clone();
        assert_eq!(*left_out.unwrap().reason(), LeftOutReason::Refused);
        assert!(ask(&service, call("amy")).await.is_err());
        sleep(Duration::from_secs(61)).await;
    }
    server.refuses.lock().clear();
    assert_eq!(ask(&service, call("amy")).await.unwrap().0, 200);
    assert!(layer.snapshot()[0].left_out.is_none());
}

/// It keeps what it has of the account until then, and the account out of use for a while.
#[tokio::test(start_paused = true)]
async fn a_token_service_that_does_not_respond_is_waited_for_for_a_minute() {
    let server = Server::default();
    let by_caller = |request: &Request<String>| {
        let caller = request.extensions().get().map(Caller::name);
        Principal::new(caller.unwrap_or_default())
    };
    let token = || async { Ok(HeaderValue::from_static("token")) };
    let layer = AccountPoolLayer::in_flight(2, by_caller)
        .account(Account::new("a").credentials(|_| std::future::pending()))
        .account(Account::new("b").credentials(move |_| token()));
    let service = layer.clone().layer(server.client());
    let start = Instant::now();
    let calls = (0..6).map(|_| tokio::spawn(ask(&service, call(""))));
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap(), (200, "b".to_owned()));
    }
    assert_eq!(start.elapsed(), Duration::from_secs(60) + CALL);
    let accounts = layer.snapshot();
    let left_out = accounts[0].left_out.as_ref().unwrap();
    assert_eq!(*left_out.reason(), LeftOutReason::NoCredentials);
    // Alone, it ends the call.
    let alone = AccountPoolLayer::in_flight(2, by_caller)
        .account(Account::new("a").credentials(|_| std::future::pending()));
    let error = ask(&alone.layer(server.client()), call(""))
        .await
        .unwrap_err();
    assert!(error.is::<NoAccount>());
    let source = error.source().unwrap().to_string();
    assert!(
        source.contains("no credentials came within 1 min"),
        "{source}"
    );
}
