//! The rows: each layer, and what is measured beside it.

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::{Ready, poll_fn, ready};
use std::hint::black_box;
use std::pin::pin;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use tokio::runtime::Runtime;
use tower::retry::{Policy, RetryLayer};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_ews::EwsStack;
use tower_ews::account_pool::{Account, AccountPoolLayer};
use tower_ews::anchor_headers::{AnchorHeadersLayer, EwsAnchor};
use tower_ews::audit_log::AuditLogLayer;
use tower_ews::body::ReplayBody;
use tower_ews::client_request_id::ClientRequestIdLayer;
use tower_ews::concurrency_by_principal::{ConcurrencyByPrincipal, ConcurrencyByPrincipalLayer};
use tower_ews::extensions::Caller;
use tower_ews::http_span::HttpSpanLayer;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::Principal;
use tower_ews::server_busy_backoff::ServerBusyBackoffLayer;
use tower_ews::soap::Outline;
use tower_http::metrics::InFlightRequestsLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::set_header::SetRequestHeaderLayer;
use tower_http::trace::TraceLayer;
use tracing::Dispatch;

use super::bare::{Bare, OneTurn, REQUEST, call, request, request_of, send, tenant};
use super::by_hand::{ByHand, Tuned};
use super::harness::{Case, Group, Net};
use super::null_json::{json_sink, json_subscriber};

/// All groups by name. Each is made when its turn comes: some hold a million permits.
pub(super) const ALL: [(&str, MakeGroup); 10] = [
    ("one_principal", one_principal),
    ("many_principals", many_principals),
    ("live_principals", live_principals),
    ("contended", contended),
    ("account_pool", account_pool),
    ("server_busy_backoff", server_busy_backoff),
    ("client_request_id", client_request_id),
    ("http_span", http_span),
    ("anchor_headers", anchor_headers),
    ("stack", stack),
];

type MakeGroup = fn() -> Group;

const CALLS: usize = 2_000;
const LIMIT: u32 = 27;
const BY_HAND: &str =
    "by hand: DashMap<String, Arc<Semaphore>>, an async block, permit in the body";
const TUNED: &str = "the same by hand, with a future of its own instead of an async block";

type ByTenant = fn(&Request<Full<Bytes>>) -> Option<Principal>;

fn by_tenant(request: &Request<Full<Bytes>>) -> Option<Principal> {
    tenant(request).map(Principal::new)
}

fn by_principal<S>(inner: S) -> ConcurrencyByPrincipal<S, ByTenant> {
    ConcurrencyByPrincipalLayer::in_flight(LIMIT, by_tenant as ByTenant).layer(inner)
}

/// Calls of several tenants in turn.
fn in_turn<S, R>(mut service: S, tenants: usize) -> impl FnMut(usize) + 'static
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>> + 'static,
    S::Error: Debug,
    R: Body,
    R::Error: Debug,
{
    let mut next = 0;
    move |calls| {
        for _ in 0..calls {
            call(&mut service, request_of(black_box(next)));
            next = (next + 1) % tenants;
        }
    }
}

fn net(case: Case, bare: Case) -> Net {
    Net {
        case,
        bare: Some(bare),
    }
}

fn one_principal() -> Group {
    let mut group = Group::new(CALLS);
    let bare = group.case(in_turn(Bare::new(), 1));
    let ours = group.case(in_turn(by_principal(Bare::new()), 1));
    let by_hand = group.case(in_turn(ByHand::new(Bare::new(), LIMIT as usize), 1));
    let (in_flight, _counter) = InFlightRequestsLayer::pair();
    let tower = ServiceBuilder::new()
        .layer(in_flight)
        .concurrency_limit(LIMIT as usize)
        .service(Bare::new());
    let tower = group.case(in_turn(tower, 1));
    let name = "concurrency_by_principal/1";
    group.row(
        name,
        BY_HAND,
        net(ours, bare),
        vec![net(by_hand, bare)],
        1.0,
    );
    let tuned = group.case(in_turn(Tuned::new(Bare::new(), LIMIT as usize), 1));
    group.row(
        "concurrency_by_principal/vs_tuned",
        TUNED,
        net(ours, bare),
        vec![net(tuned, bare)],
        None,
    );
    group.row(
        "concurrency_by_principal/vs_tower",
        "tower ConcurrencyLimit + tower-http InFlightRequests: one limit, no key",
        net(ours, bare),
        vec![net(tower, bare)],
        None,
    );
    group
}

fn many_principals() -> Group {
    let mut group = Group::new(CALLS);
    let mut first = None;
    for (tenants, name) in [
        (1, ""),
        (1_000, "concurrency_by_principal/1000"),
        (1_000_000, "concurrency_by_principal/1000000"),
    ] {
        let bare = group.case(in_turn(Bare::new(), tenants));
        let ours = net(
            group.case(in_turn(by_principal(Bare::new()), tenants)),
            bare,
        );
        let Some(first) = first else {
            first = Some(ours);
            continue;
        };
        let mut by_hand = in_turn(ByHand::new(Bare::new(), LIMIT as usize), tenants);
        by_hand(tenants);
        let by_hand = group.case(by_hand);
        group.row(name, BY_HAND, ours, vec![net(by_hand, bare)], None);
        if tenants == 1_000_000 {
            let name = "concurrency_by_principal/1000000 to /1";
            group.row(name, "itself with one principal", ours, vec![first], 1.3);
            group.rows.last_mut().expect("a row").in_file = false;
        }
    }
    group
}

/// Calls of tenants that each have another call in flight, in random order.
fn live<S, R>(mut service: S, tenants: usize) -> impl FnMut(usize) + 'static
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>> + 'static,
    S::Error: Debug,
    R: Body + 'static,
    R::Error: Debug,
{
    let held: Vec<R> = (0..tenants)
        .map(|tenant| send(&mut service, request_of(tenant)))
        .collect();
    let mut random = fastrand::Rng::with_seed(7);
    move |calls| {
        for _ in 0..calls {
            call(&mut service, request_of(random.usize(..tenants)));
        }
        black_box(&held);
    }
}

fn live_principals() -> Group {
    const TENANTS: usize = 1_000_000;
    let mut group = Group::new(CALLS);
    let bare = group.case(live(Bare::new(), TENANTS));
    let ours = group.case(live(by_principal(Bare::new()), TENANTS));
    let by_hand = group.case(live(ByHand::new(Bare::new(), LIMIT as usize), TENANTS));
    let name = "concurrency_by_principal/1000000_live";
    group.row(
        name,
        BY_HAND,
        net(ours, bare),
        vec![net(by_hand, bare)],
        None,
    );
    group
}

/// Calls of a thousand tasks for one tenant.
fn of_tasks<S, R>(service: S) -> impl FnMut(usize) + 'static
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Debug + Send,
    S::Future: Send,
    R: Body + Send,
    R::Error: Debug,
{
    const TASKS: usize = 1_000;
    let runtime = runtime();
    move |calls| {
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..TASKS {
                let mut service = service.clone();
                tasks.spawn(async move {
                    for _ in 0..calls / TASKS {
                        let request = request_of(black_box(0));
                        let ready = service.ready().await.expect("ready");
                        let response = ready.call(request).await.expect("a response");
                        let mut body = pin!(response.into_body());
                        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                            drop(black_box(frame.expect("a frame")));
                        }
                    }
                });
            }
            while tasks.join_next().await.is_some() {}
        });
    }
}

/// A runtime of one thread.
pub(super) fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().expect("a runtime")
}

fn contended() -> Group {
    let mut group = Group::new(16_000);
    let service = OneTurn(Bare::new());
    let bare = group.case(of_tasks(service.clone()));
    let ours = group.case(of_tasks(by_principal(service.clone())));
    let by_hand = group.case(of_tasks(ByHand::new(service, LIMIT as usize)));
    let name = "concurrency_by_principal/contended";
    group.row(
        name,
        BY_HAND,
        net(ours, bare),
        vec![net(by_hand, bare)],
        None,
    );
    group
}

/// Calls with that body.
fn with_body<S, B, R>(mut service: S, body: B) -> impl FnMut(usize) + 'static
where
    S: Service<Request<B>, Response = Response<R>> + 'static,
    S::Error: Debug,
    B: Clone + 'static,
    R: Body,
    R::Error: Debug,
{
    move |calls| {
        for _ in 0..calls {
            call(&mut service, request(body.clone()));
        }
    }
}

/// Calls with that subscriber.
fn heard_by(
    subscriber: Dispatch,
    mut calls: impl FnMut(usize) + 'static,
) -> impl FnMut(usize) + 'static {
    move |count| tracing::dispatcher::with_default(&subscriber, || calls(count))
}

/// A body whose outline is known, as it is once another layer has asked for it.
fn outlined() -> ReplayBody {
    let body = ReplayBody::from(REQUEST.clone());
    body.outline().expect("an outline");
    body.targets();
    body
}

/// Sends a copy again while the server is busy, three times at most.
#[derive(Clone)]
struct WhileBusy(u32);

type Responded = Result<Response<Full<Bytes>>, Infallible>;

impl<B: Clone> Policy<Request<B>, Response<Full<Bytes>>, Infallible> for WhileBusy {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request<B>, result: &mut Responded) -> Option<Ready<()>> {
        let busy = result
            .as_ref()
            .is_ok_and(|response| response.status() == StatusCode::SERVICE_UNAVAILABLE);
        self.0 = self.0.checked_sub(u32::from(busy))?;
        busy.then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }
}

/// The account of each call is picked of four, beside a call of one account.
fn account_pool() -> Group {
    let credentials = HeaderValue::from_static("Bearer 0123456789abcdef");
    let by_caller = |request: &Request<Full<Bytes>>| {
        let caller = request.extensions().get::<Caller>();
        caller.map(|caller| Principal::account(caller.name()))
    };
    let mut pool = AccountPoolLayer::in_flight(LIMIT, by_caller);
    for account in ["svc1", "svc2", "svc3", "svc4"] {
        pool = pool.account(Account::new(account).authorization(credentials.clone()));
    }
    let one = ServiceBuilder::new()
        .layer(SetRequestHeaderLayer::overriding(
            AUTHORIZATION,
            credentials,
        ))
        .layer(ConcurrencyByPrincipalLayer::in_flight(
            LIMIT,
            |_: &Request<Full<Bytes>>| Some(Principal::account("svc1")),
        ))
        .service(Bare::new());
    let mut group = Group::new(CALLS);
    let bare = group.case(in_turn(Bare::new(), 1));
    let ours = group.case(in_turn(pool.layer(Bare::new()), 1));
    let one = group.case(in_turn(one, 1));
    group.row(
        "account_pool/4",
        "ConcurrencyByPrincipal + SetRequestHeader: one account",
        net(ours, bare),
        vec![net(one, bare)],
        None,
    );
    group
}

fn server_busy_backoff() -> Group {
    let mut group = Group::new(CALLS);
    let full = Full::new(REQUEST.clone());
    let bare = group.case(with_body(Bare::new(), outlined()));
    let ours = ServerBusyBackoffLayer::ews().layer(Bare::new());
    let ours = group.case(with_body(ours, outlined()));
    let bare_full = group.case(with_body(Bare::new(), full.clone()));
    let retry = RetryLayer::new(WhileBusy(3)).layer(Bare::new());
    let retry = group.case(with_body(retry, full));
    group.row(
        "server_busy_backoff",
        "tower Retry, Full<Bytes> cloned; it reads no response (ours: 2 KB)",
        net(ours, bare),
        vec![net(retry, bare_full)],
        None,
    );
    group
}

fn client_request_id() -> Group {
    let mut group = Group::new(CALLS);
    let full = Full::new(REQUEST.clone());
    let bare = group.case(with_body(Bare::new(), full.clone()));
    let ours = ClientRequestIdLayer::new().layer(Bare::new());
    let ours = group.case(with_body(ours, full.clone()));
    let name = HeaderName::from_static("client-request-id");
    let theirs = ServiceBuilder::new()
        .layer(SetRequestIdLayer::new(name.clone(), MakeRequestUuid))
        .layer(PropagateRequestIdLayer::new(name))
        .service(Bare::new());
    let theirs = group.case(with_body(theirs, full));
    group.row(
        "client_request_id",
        "tower-http SetRequestId + PropagateRequestId, MakeRequestUuid",
        net(ours, bare),
        vec![net(theirs, bare)],
        0.6,
    );
    group
}

const X_ANCHOR_MAILBOX: HeaderName = HeaderName::from_static("x-anchormailbox");

/// The impersonated mailbox, of an outline that is known.
fn impersonated(request: &Request<ReplayBody>) -> Option<HeaderValue> {
    let sid = request.body().outline().ok()?.impersonation().first()?;
    HeaderValue::from_str(&sid.value).ok()
}

/// With a subscriber that writes spans, and with none, as in most programs most of the time.
fn http_span() -> Group {
    let mut group = Group::new(CALLS);
    let full = Full::new(REQUEST.clone());
    let ours = || with_body(HttpSpanLayer::new().layer(Bare::new()), full.clone());
    let theirs = || with_body(TraceLayer::new_for_http().layer(Bare::new()), full.clone());
    let bare = group.case(with_body(Bare::new(), full.clone()));
    let heard = group.case(heard_by(json_subscriber(), ours()));
    let unheard = group.case(ours());
    let peer_heard = group.case(heard_by(json_subscriber(), theirs()));
    let peer_unheard = group.case(theirs());
    group.row(
        "http_span",
        "tower-http Trace, its spans and events; both to a JSON subscriber",
        net(heard, bare),
        vec![net(peer_heard, bare)],
        1.0,
    );
    group.row(
        "http_span/unheard",
        "tower-http Trace; no subscriber",
        net(unheard, bare),
        vec![net(peer_unheard, bare)],
        None,
    );
    group
}

fn anchor_headers() -> Group {
    let mut group = Group::new(CALLS);
    let bare = group.case(with_body(Bare::new(), outlined()));
    let ours = AnchorHeadersLayer::new(EwsAnchor::new()).layer(Bare::new());
    let ours = group.case(with_body(ours, outlined()));
    let theirs = SetRequestHeaderLayer::if_not_present(X_ANCHOR_MAILBOX, impersonated);
    let theirs = group.case(with_body(theirs.layer(Bare::new()), outlined()));
    group.row(
        "anchor_headers",
        "tower-http SetRequestHeader, its value from the same outline",
        net(ours, bare),
        vec![net(theirs, bare)],
        1.0,
    );
    group
}

fn stack() -> Group {
    let mut group = Group::new(CALLS);
    let full = Full::new(REQUEST.clone());
    let bare = group.case(with_body(Bare::new(), full.clone()));
    let stack =
        EwsStack::new(ThrottlingPolicy::exchange_online()).caller(Caller::new("svc@contoso.com"));
    let log = AuditLogLayer::new(json_sink().expect("a sink"));
    let six = stack.clone().audit_log(log).service(Bare::new());
    let six = group.case(with_body(six, full.clone()));
    let unlogged = group.case(with_body(stack.service(Bare::new()), full.clone()));
    let name = HeaderName::from_static("client-request-id");
    let amy = HeaderValue::from_static("amy.jones@contoso.com");
    // What there is for each of the six but BatchSplitter.
    let four = || {
        ServiceBuilder::new()
            .layer(RetryLayer::new(WhileBusy(3)))
            .concurrency_limit(LIMIT as usize)
            .layer(SetRequestHeaderLayer::if_not_present(
                X_ANCHOR_MAILBOX,
                amy.clone(),
            ))
            .layer(SetRequestIdLayer::new(name.clone(), MakeRequestUuid))
            .layer(PropagateRequestIdLayer::new(name.clone()))
            .service(Bare::new())
    };
    let five = with_body(TraceLayer::new_for_http().layer(four()), full.clone());
    let five = group.case(heard_by(json_subscriber(), five));
    let four = group.case(with_body(four(), full));
    let outline = group.case(|calls| {
        for _ in 0..calls {
            drop(black_box(Outline::parse(black_box(&REQUEST))));
        }
    });
    let outline = Net {
        case: outline,
        bare: None,
    };
    group.row(
        "stack",
        "Trace, Retry, ConcurrencyLimit, SetRequestHeader, Set- + PropagateRequestId; plus one outline scan; both log JSON",
        net(six, bare),
        vec![net(five, bare), outline],
        1.0,
    );
    group.row(
        "stack/without_audit_log",
        "the same without Trace; it reads no response",
        net(unlogged, bare),
        vec![net(four, bare), outline],
        None,
    );
    group
}
