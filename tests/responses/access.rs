//! Refused credentials and refused mailboxes: many calls at once, mishaps, and tokens that are out of date.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceExt};
use tower_ews::body::ReplayBody;
use tower_ews::extensions::Caller;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::server_busy_backoff::{AccessDenied, AccessScope};
use tower_ews::{EwsService, EwsStack};

use super::server::{Ask, Reply, Server, good, impersonating, replay, request, respond};

/// What came with each request, and when.
type Seen = Arc<Mutex<Vec<(String, Duration)>>>;

/// A server that looks at the credentials.
fn server(seen: &Seen, status: impl Fn(&str, usize) -> u16 + Send + Sync + 'static) -> Server {
    let (seen, status, begin) = (Arc::clone(seen), Arc::new(status), Instant::now());
    BoxCloneSyncService::new(tower::service_fn(move |request: Request<ReplayBody>| {
        let value = request.headers().get(AUTHORIZATION);
        let value = value.map_or("", |value| value.to_str().unwrap()).to_owned();
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push((value.clone(), begin.elapsed()));
            seen.len() - 1
        };
        let body = request.into_body().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let ids = text
            .match_indices("ID0")
            .map(|(at, _)| text[at..at + 6].to_owned());
        let operation = if text.contains("m:GetItem") {
            "GetItem"
        } else {
            "CreateItem"
        };
        let ask = Ask {
            operation: operation.to_owned(),
            ids: ids.collect(),
            number,
            at: begin.elapsed(),
        };
        let response = match status(&value, number) {
            200 if text.is_empty() => Reply::page(200, "image/jpeg", "a photo"),
            200 => good(&ask),
            status => Reply::status(status),
        };
        async move { respond(response).await }
    }))
}

fn stack() -> EwsStack {
    EwsStack::new(ThrottlingPolicy::exchange_online()).caller(Caller::new("svc@contoso.com"))
}

fn with(mut request: Request<Full<Bytes>>, authorization: &'static str) -> Request<Full<Bytes>> {
    let value = HeaderValue::from_static(authorization);
    request.headers_mut().insert(AUTHORIZATION, value);
    request
}

/// The status, or the scope of the refusal because of which nothing was sent.
async fn call(
    service: &EwsService<Server>,
    request: Request<Full<Bytes>>,
) -> Result<u16, AccessScope> {
    let sent: Result<Response<_>, BoxError> = service.clone().oneshot(request).await;
    match sent {
        Ok(response) => Ok(response.status().as_u16()),
        Err(error) => {
            let denied: &AccessDenied = error.downcast_ref().expect("denied");
            Err(denied.scope().clone())
        }
    }
}

const WRONG: &str = "Basic d3Jvbmc6cGFzc3dvcmQ=";
const RIGHT: &str = "Basic cmlnaHQ6cGFzc3dvcmQ=";

/// Whoever puts it on: a thousand calls at once do not lock an account, and later ones ask ever more seldom.
#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_tried_by_those_calls_alone_that_are_on_their_way() {
    for by_hook in [true, false] {
        for (calls, members) in [(1_000, 1), (100, 200)] {
            let seen = Seen::default();
            let stack = match by_hook {
                true => stack().credentials(async |_| Ok(HeaderValue::from_static(WRONG))),
                false => stack(),
            };
            let service = stack.service(server(&seen, |_, _| 401));
            let request = || with(request("GetItem", members), WRONG);
            let at_once = join_all((0..calls).map(|_| call(&service, request()))).await;
            let told = at_once.iter().filter(|end| **end == Ok(401)).count();
            let unsent = Err(AccessScope::Credential);
            let held = at_once.iter().filter(|end| **end == unsent).count();
            let case = format!("{by_hook}, {members}: {told} told, {held} held back");
            // The concurrency that the policy has.
            let requests = seen.lock().unwrap().len();
            assert!((1..=27).contains(&requests), "{case}: {requests} requests");
            assert_eq!(told + held, calls, "{case}");
            // Those that were on their way together count as one.
            tokio::time::sleep(Duration::from_secs(59)).await;
            assert_eq!(call(&service, request()).await, unsent, "{case}");
            for _ in 0..24 * 12 {
                let _ = call(&service, request()).await;
                tokio::time::sleep(Duration::from_secs(5 * 60)).await;
            }
            let later = seen.lock().unwrap().len() - requests;
            assert!((22..=30).contains(&later), "{case}: {later} later");
            if !by_hook {
                let request = with(super::server::request("GetItem", 1), RIGHT);
                assert_eq!(call(&service, request).await, Ok(401), "{case}");
            }
        }
    }
}

/// Mailboxes that are refused, all at once.
#[tokio::test(start_paused = true)]
async fn a_403_is_heard_by_those_that_wait() {
    let seen = Seen::default();
    let service = stack().service(server(&seen, |_, _| 403));
    let one = |user| impersonating(request("GetItem", 1), &format!("user{user}@contoso.com"));
    // The stack lets 27 calls of a mailbox run, and any number of mailboxes.
    let same = join_all((0..1_000).map(|_| call(&service, one(0)))).await;
    let requests = seen.lock().unwrap().len();
    assert!(requests <= 27, "{requests}");
    assert!(same.contains(&Err(AccessScope::Mailbox("user0@contoso.com".into()))));
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(call(&service, one(0)).await, Ok(403));
}

/// One 401 among good responses is a mishap, two in a row are not.
#[tokio::test(start_paused = true)]
async fn a_stray_401_holds_back_nobody() {
    for by_hook in [true, false] {
        let seen = Seen::default();
        let stack = match by_hook {
            true => stack().credentials(async |_| Ok(HeaderValue::from_static(RIGHT))),
            false => stack(),
        };
        let service = stack.service(server(&seen, |_, number| match number {
            3 | 5 | 7.. => 401,
            _ => 200,
        }));
        let mut ends = Vec::new();
        for _ in 0..12 {
            ends.push(call(&service, with(request("GetItem", 1), RIGHT)).await);
        }
        let mut expected = vec![Ok(200); 7];
        (expected[3], expected[5]) = (Ok(401), Ok(401));
        expected.extend([Ok(401), Ok(401)]);
        expected.extend(vec![Err(AccessScope::Credential); 3]);
        assert_eq!(ends, expected, "{by_hook}");
    }
}

/// A token is out of date before its time: what the hook has then is tried at once, for parts and for writes, too.
#[tokio::test(start_paused = true)]
async fn a_401_is_followed_by_one_more_attempt_if_the_hook_has_other_credentials() {
    for (operation, members) in [
        ("GetItem", 1),
        ("GetItem", 200),
        ("CreateItem", 1),
        ("CreateItem", 120),
    ] {
        for renewed in [true, false] {
            let seen = Seen::default();
            let is_good = move |value: &str, number| match value {
                "Bearer 1" if number == 0 => 401,
                "Bearer 2" if renewed => 200,
                _ => 401,
            };
            let asked = Arc::new(Mutex::new(0));
            let stack = stack().credentials(move |_| {
                *asked.lock().unwrap() += 1;
                let token = (*asked.lock().unwrap()).min(2);
                async move { Ok(HeaderValue::try_from(format!("Bearer {token}")).unwrap()) }
            });
            let service = stack.service(server(&seen, is_good));
            let end = call(&service, request(operation, members)).await;
            let case = format!("{operation} of {members}, {renewed}");
            let expected = if renewed { 200 } else { 401 };
            assert_eq!(end, Ok(expected), "{case}");
            let seen = seen.lock().unwrap();
            let values: Vec<&str> = seen.iter().map(|(value, _)| &**value).collect();
            assert_eq!(values[..2], ["Bearer 1", "Bearer 2"], "{case}");
            assert!(renewed || values.len() == 2, "{case}: {values:?}");
        }
    }
}

/// A photo has the same password.
#[tokio::test(start_paused = true)]
async fn what_is_no_soap_is_held_back_by_its_credentials_alone() {
    let seen = Seen::default();
    let service = stack().service(server(&seen, |value, _| match value {
        WRONG => 401,
        RIGHT => 403,
        _ => 200,
    }));
    let photo = |authorization| {
        let request = Request::get("https://mail.contoso.com/EWS/Exchange.asmx/s/GetUserPhoto");
        with(request.body(Full::default()).unwrap(), authorization)
    };
    assert_eq!(call(&service, photo(WRONG)).await, Ok(401));
    let held = Err(AccessScope::Credential);
    assert_eq!(call(&service, photo(WRONG)).await, held);
    assert_eq!(
        call(&service, with(request("GetItem", 1), WRONG)).await,
        held
    );
    // A 403 speaks of the photo.
    for _ in 0..9 {
        assert_eq!(call(&service, photo(RIGHT)).await, Ok(403));
    }
    assert_eq!(call(&service, photo("Bearer x")).await, Ok(200));
    assert_eq!(seen.lock().unwrap().len(), 11);
    // The same through the layer alone.
    let layer = tower_ews::server_busy_backoff::ServerBusyBackoffLayer::ews();
    let alone = tower::Layer::layer(&layer, server(&seen, |_, _| 401));
    let first = alone.clone().oneshot(photo(WRONG).map(replay)).await;
    assert_eq!(first.unwrap().status(), 401);
    let error = alone.oneshot(photo(WRONG).map(replay)).await.err().unwrap();
    assert!(error.is::<AccessDenied>());
}
