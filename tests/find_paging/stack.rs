//! Inside the stack, against the simulated server: off by default, and each page waits out the server's limits by itself.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;
use tower_ews::audit_log::{AuditLogLayer, MemorySink};
use tower_ews::body::ReplayBody;
use tower_ews::extensions::Caller;
use tower_ews::find_paging::{Paging, PagingReport};
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::simulator::{Exchange, Fault, Faults};
use tower_ews::{EwsService, EwsStack};

use super::server::reply;
use crate::envelope;
use crate::schema::{complaint, schemas};

const FOLDER: &str = "<t:DistinguishedFolderId Id=\"inbox\"/>";

fn call(body: &str) -> Request<Full<Bytes>> {
    Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
        .header("content-type", "text/xml; charset=utf-8")
        .header("authorization", "Basic c3ZjQGNvbnRvc28uY29tOnNlY3JldA==")
        .body(Full::from(body.to_owned()))
        .unwrap()
}

fn stack() -> EwsStack {
    EwsStack::new(ThrottlingPolicy::exchange_online()).caller(Caller::new("svc@contoso.com"))
}

async fn ask<S: tower_ews::stack::EwsClient>(
    ews: &EwsService<S>,
    body: &str,
) -> (String, Option<PagingReport>) {
    let response = ews.clone().oneshot(call(body)).await.unwrap();
    let report = response.extensions().get().cloned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (String::from_utf8(body.to_vec()).unwrap(), report)
}

async fn fill<S: tower_ews::stack::EwsClient>(ews: &EwsService<S>, items: usize) {
    let items: String = (0..items)
        .map(|item| format!("<t:Message><t:Subject>{item}</t:Subject></t:Message>"))
        .collect();
    let body = envelope(&format!(
        "<m:CreateItem MessageDisposition=\"SaveOnly\"><m:SavedItemFolderId>{FOLDER}</m:SavedItemFolderId><m:Items>{items}</m:Items></m:CreateItem>"
    ));
    ask(ews, &body).await;
}

fn find() -> String {
    envelope(&format!(
        "<m:FindItem Traversal=\"Shallow\"><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape><m:ParentFolderIds>{FOLDER}</m:ParentFolderIds></m:FindItem>"
    ))
}

fn sync() -> String {
    envelope(&format!(
        "<m:SyncFolderItems><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape><m:SyncFolderId>{FOLDER}</m:SyncFolderId><m:MaxChangesReturned>512</m:MaxChangesReturned></m:SyncFolderItems>"
    ))
}

#[tokio::test(start_paused = true)]
async fn a_large_folder_in_one_response() {
    let exchange = Exchange::builder().build();
    let plain = stack().service(exchange.clone());
    fill(&plain, 2300).await;

    // Off by default: the server gives no more than 1,000.
    let (body, report) = ask(&plain, &find()).await;
    assert_eq!(reply(&body).messages[0].len(), 1000);
    assert!(report.is_none());

    // On request of a single call.
    let mut single = call(&find());
    single.extensions_mut().insert(Paging::all_pages());
    let response = plain.clone().oneshot(single).await.unwrap();
    let report: PagingReport = response.extensions().get().cloned().unwrap();
    response.into_body().collect().await.unwrap();
    assert_eq!(report.entries(), 2300);

    let followed = stack().find_paging(|paging| paging.default_paging(Paging::all_pages()));
    let followed = followed.service(exchange.clone());
    let (body, report) = ask(&followed, &find()).await;
    let mut ids = reply(&body).messages.remove(0);
    assert_eq!(ids.len(), 2300);
    assert_eq!(report.unwrap().pages(), 3);
    let (synchronised, report) = ask(&followed, &sync()).await;
    assert_eq!(reply(&synchronised).messages[0].len(), 2300);
    assert_eq!(report.unwrap().pages(), 5);
    for schema in schemas() {
        let texts = [body.clone(), synchronised.clone()];
        assert_eq!(complaint("find_paging_stack", &schema, &texts), None);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 2300);
    assert_eq!(exchange.report().throttled_total(), 0);
}

#[tokio::test(start_paused = true)]
async fn each_page_waits_out_a_busy_server_by_itself() {
    let exchange = Exchange::builder()
        .seed(3)
        .faults(Faults::none().rate_on("FindItem", Fault::ServerBusy { back_off: None }, 0.5))
        .build();
    let sink = MemorySink::new();
    let ews = stack()
        .audit_log(AuditLogLayer::new(sink.clone()))
        .find_paging(|paging| paging.default_paging(Paging::all_pages()).page_size(100))
        .service(exchange.clone());
    fill(&ews, 950).await;
    let (body, report) = ask(&ews, &find()).await;
    assert_eq!(reply(&body).messages[0].len(), 950);
    assert_eq!(report.unwrap().pages(), 10);
    // One record of the call, with the attempts of all pages.
    let records = sink.records();
    assert_eq!(records.len(), 2);
    assert!(records[1].attempts.len() > 10);
    assert_eq!(records[1].parts, Some(10));
}

/// The service of a stack is one type, whether it pages or not.
#[tokio::test(start_paused = true)]
async fn a_view_alone_is_added_without_following() {
    // What it echoes is no response to FindItem.
    let echo = tower::service_fn(async |request: Request<ReplayBody>| {
        let mut response = http::Response::new(request.into_body());
        *response.status_mut() = http::StatusCode::BAD_REQUEST;
        Ok::<_, std::convert::Infallible>(response)
    });
    let plain = stack().service(echo);
    let viewed = stack().find_paging(|paging| paging).service(echo);
    let services = [(plain, false), (viewed, true)];
    for (service, has_view) in services {
        let (body, _) = ask(&service, &find()).await;
        assert_eq!(body.contains("IndexedPageItemView"), has_view);
    }
}
