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

fn find(folder: &str) -> Request<ReplayBody> {
    request(&format!(
        r#"<m:FindItem Traversal="Shallow"><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape><m:ParentFolderIds><t:DistinguishedFolderId Id="{folder}"/></m:ParentFolderIds></m:FindItem>"#
    ))
}

/// Puts so many more items into a folder, past the client.
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

#[tokio::test(start_paused = true)]
async fn small_folders_side_by_side_and_then_one_that_has_grown() {
    let server = Policy::exchange_online().with(|policy| {
        policy.jitter = 0.0;
        policy.max_burst = None;
        policy.latency = Duration::ZERO;
        policy.member_time = CALL;
    });
    let exchange = Exchange::builder().policy(server).seed(1).build();
    for folder in FOLDERS {
        fill(&exchange, folder, 10).await;
    }
    let stack =
        EwsStack::new(ThrottlingPolicy::exchange_online()).caller(Caller::new("svc@contoso.com"));
    let service = stack.service(exchange.clone());
    // Ten at a time, `rounds` times each folder. Returns how long it took.
    let job = async |rounds: usize| {
        let start = Instant::now();
        let calls = (0..rounds).flat_map(|_| FOLDERS).map(|folder| {
            let service = service.clone();
            async move {
                let response = service.oneshot(find(folder)).await.unwrap();
                let status = response.status();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                let body = String::from_utf8_lossy(&body).into_owned();
                let well = status.is_success() && body.contains("<m:ResponseCode>NoError");
                assert!(well, "{folder}: {status} {body}");
            }
        });
        stream::iter(calls)
            .buffer_unordered(10)
            .collect::<Vec<()>>()
            .await;
        start.elapsed()
    };
    let refused = || {
        let report = exchange.report();
        report
            .throttled
            .get("EWSFindCountLimit")
            .copied()
            .unwrap_or(0)
    };

    let first = job(1).await;
    let known = job(40).await;
    println!("five that are not known: {first:?}; 200 that are: {known:?}");
    assert!(first >= CALL * 5 && first < CALL * 7, "{first:?}");
    assert!(known >= CALL * 20 && known < CALL * 22, "{known:?}");
    assert_eq!(refused(), 0);

    for _ in 0..10 {
        // The server gives each call a minute.
        fill(&exchange, "tasks", 89).await;
    }
    let grown = job(40).await;
    println!(
        "200 with one that has grown: {grown:?}, refused: {}",
        refused()
    );
    // That one draws 1,000 rows now, and runs alone.
    assert!((1..=2).contains(&refused()), "{}", refused());
    assert!(grown < CALL * 90, "{grown:?}");
    let before = refused();
    let known = job(4).await;
    println!("20 with one that is known to be large: {known:?}");
    assert_eq!(refused(), before);
}
