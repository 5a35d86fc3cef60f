//! Searches without a page through the stack, in virtual time against the simulated server: small folders run beside each other once
//! one response has told how small they are, and a folder that has grown since costs its caller nothing but time.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::ServiceExt;
use tower_ews::EwsStack;
use tower_ews::body::ReplayBody;
use tower_ews::extensions::Caller;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::simulator::{Exchange, Policy};
use tower_ews::stack::EwsService;

const FOLDERS: [&str; 5] = ["inbox", "drafts", "calendar", "contacts", "tasks"];
const CALL: Duration = Duration::from_millis(100);

fn request(operation: &str) -> Request<ReplayBody> {
    let body = format!(
        r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Header><t:RequestServerVersion Version="Exchange2016"/></s:Header><s:Body>{operation}</s:Body></s:Envelope>"#
    );
    Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
        .header("content-type", "text/xml; charset=utf-8")
        .header("authorization", "Basic c3ZjQGNvbnRvc28uY29tOnNlY3JldA==")
        .body(ReplayBody::from(body))
        .unwrap()
}

/// A search of a folder. Other spaces make it one that was not made before.
fn find(folder: &str, spaces: usize) -> Request<ReplayBody> {
    let spaces = " ".repeat(spaces);
    request(&format!(
        r#"<m:FindItem Traversal="Shallow"><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape>{spaces}<m:ParentFolderIds><t:DistinguishedFolderId Id="{folder}"/></m:ParentFolderIds></m:FindItem>"#
    ))
}

/// Puts more items into a folder, past the client.
async fn fill(exchange: &Exchange, folder: &str, items: usize) {
    let items = "<t:Message/>".repeat(items);
    let create = request(&format!(
        r#"<m:CreateItem MessageDisposition="SaveOnly"><m:SavedItemFolderId><t:DistinguishedFolderId Id="{folder}"/></m:SavedItemFolderId><m:Items>{items}</m:Items></m:CreateItem>"#
    ));
    let response = exchange.clone().oneshot(create).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body);
    assert!(!body.contains("ResponseClass=\"Error\""), "{body}");
}

/// A server with ten items in each folder, whose calls last [`CALL`].
async fn server() -> Exchange {
    let policy = Policy::exchange_online().with(|policy| {
        policy.jitter = 0.0;
        policy.max_burst = None;
        policy.latency = Duration::ZERO;
        policy.member_time = CALL;
    });
    let exchange = Exchange::builder().policy(policy).seed(1).build();
    for folder in FOLDERS {
        fill(&exchange, folder, 10).await;
    }
    exchange
}

/// Now there are 900 tasks. The server gives each call a minute.
async fn grow(exchange: &Exchange) {
    for _ in 0..10 {
        fill(exchange, "tasks", 89).await;
    }
}

fn stack(exchange: &Exchange) -> EwsService<Exchange> {
    let caller = Caller::new("svc@contoso.com");
    let stack = EwsStack::new(ThrottlingPolicy::exchange_online()).caller(caller);
    stack.service(exchange.clone())
}

/// Searches, a number of them at a time. Each ends well. Returns how long all of them took.
async fn job(
    service: &EwsService<Exchange>,
    at_a_time: usize,
    searches: impl IntoIterator<Item = Request<ReplayBody>>,
) -> Duration {
    let start = Instant::now();
    let calls = searches.into_iter().map(|search| async {
        let response = service.clone().oneshot(search).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body);
        let well = status.is_success() && body.contains("<m:ResponseCode>NoError");
        assert!(well, "{status} {body}");
    });
    let calls = stream::iter(calls).buffer_unordered(at_a_time);
    calls.collect::<Vec<()>>().await;
    start.elapsed()
}

/// Each folder a number of times.
fn each(rounds: usize) -> impl Iterator<Item = Request<ReplayBody>> {
    (0..rounds)
        .flat_map(|_| FOLDERS)
        .map(|folder| find(folder, 0))
}

fn refused(exchange: &Exchange) -> u64 {
    let throttled = exchange.report().throttled;
    throttled.get("EWSFindCountLimit").copied().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn small_folders_side_by_side_and_then_one_that_has_grown() {
    let exchange = server().await;
    let service = stack(&exchange);
    let first = job(&service, 10, each(1)).await;
    let known = job(&service, 10, each(40)).await;
    println!("five that are not known: {first:?}; 200 that are: {known:?}");
    assert_eq!(first, CALL);
    assert!(known >= CALL * 20 && known < CALL * 22, "{known:?}");
    assert_eq!(refused(&exchange), 0);

    grow(&exchange).await;
    let grown = job(&service, 10, each(40)).await;
    let refusals = refused(&exchange);
    println!("200 with one that has grown: {grown:?}, {refusals} refused");
    // That one draws 1,000 rows from then on, and runs alone.
    assert!((1..=2).contains(&refusals), "{refusals}");
    assert!(grown < CALL * 90, "{grown:?}");
    let known = job(&service, 10, each(4)).await;
    println!("20 with one that is known to be large: {known:?}");
    assert_eq!(refused(&exchange), refusals);
}

#[tokio::test(start_paused = true)]
async fn many_large_folders_after_small_ones() {
    let exchange = server().await;
    let service = stack(&exchange);
    job(&service, 10, each(4)).await;
    grow(&exchange).await;
    // Each of them is expected to be as small as the others were.
    let large = (1..=60).map(|spaces| find("tasks", spaces));
    let took = job(&service, 27, large).await;
    let refusals = refused(&exchange);
    println!("60 large ones: {took:?}, {refusals} refused");
    // No more than were on their way at the first refusal.
    assert!((1..=27).contains(&refusals), "{refusals}");
    assert!(took < CALL * 120, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_knows_nothing_yet() {
    let exchange = server().await;
    fill(&exchange, "drafts", 190).await;
    grow(&exchange).await;
    // Ten begin. The others draw what is known by then: 27 at a time, then 2 of 200 rows (twice what similar ones found), then 1 of 900.
    // More than the first ten are never refused.
    for (folder, rounds) in [("inbox", 9), ("drafts", 110), ("tasks", 210)] {
        let (service, before) = (stack(&exchange), refused(&exchange));
        let took = job(&service, 200, (1..=200).map(|spaces| find(folder, spaces))).await;
        let refusals = refused(&exchange) - before;
        println!("200 searches of {folder}: {took:?}, {refusals} refused");
        assert!(took <= CALL * rounds, "{took:?}");
        assert!(refusals < 10, "{refusals}");
    }
}
