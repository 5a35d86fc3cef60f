//! A job that the server locks out again and again, with and without a ledger that ServerBusyBackoff knows, in virtual time.
//!
//! `cargo test --test lock_outs -- --nocapture` prints a row for each stack.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, ServiceExt};
use tower_ews::body::ReplayBody;
use tower_ews::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use tower_ews::extensions::Deadline;
use tower_ews::ledger::Ledger;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::server_busy_backoff::ServerBusyBackoffLayer;
use tower_ews::simulator::{Exchange, Policy, Report};

const CALLS: usize = 400;
const TIME: Duration = Duration::from_secs(6 * 3600);
const A_DAY: Duration = Duration::from_secs(86_400);

/// Who knows of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Nobody,
    ConcurrencyAlone,
    Both,
}

/// Calls that end with their response body read.
type Client = BoxCloneSyncService<Request<ReplayBody>, bool, BoxError>;

fn client(exchange: &Exchange, known: Known) -> Client {
    let mut policy = ThrottlingPolicy::exchange_online();
    policy.max_wait = A_DAY;
    let ledger: Arc<dyn Ledger> = Arc::new(policy.ledger());
    let backoff = ServerBusyBackoffLayer::ews().seed(1);
    let charged = ConcurrencyByPrincipalLayer::new(ledger.clone(), policy.charges());
    match known {
        Known::Nobody => read(backoff.layer(exchange.clone())),
        Known::ConcurrencyAlone => read(backoff.layer(charged.layer(exchange.clone()))),
        Known::Both => {
            let backoff = backoff.ledger(ledger);
            read(backoff.layer(charged.layer(exchange.clone())))
        }
    }
}

/// Whether `service` says that the item was created.
fn read<S, B>(service: S) -> Client
where
    S: tower::Service<Request<ReplayBody>, Response = http::Response<B>, Error = BoxError>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: http_body::Body<Error: Into<BoxError>> + Send + 'static,
    B::Data: Send,
{
    let service = service.and_then(|response: http::Response<B>| async move {
        let body = response.into_body().collect().await.map_err(Into::into)?;
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(text.contains("ResponseClass=\"Success\""))
    });
    BoxCloneSyncService::new(service)
}

fn create(n: usize) -> Request<ReplayBody> {
    let body = format!(
        r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Header><t:ExchangeImpersonation><t:ConnectingSID><t:PrimarySmtpAddress>amy@contoso.com</t:PrimarySmtpAddress></t:ConnectingSID></t:ExchangeImpersonation></s:Header><s:Body><m:CreateItem SendMeetingInvitations="SendToNone"><m:SavedItemFolderId><t:DistinguishedFolderId Id="calendar"/></m:SavedItemFolderId><m:Items><t:CalendarItem><t:Subject>event {n}</t:Subject></t:CalendarItem></m:Items></m:CreateItem></s:Body></s:Envelope>"#
    );
    let mut request = Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
        .header("content-type", "text/xml; charset=utf-8")
        .header("authorization", "Basic c3ZjQGNvbnRvc28uY29tOnNlY3JldA==")
        .body(ReplayBody::from(body))
        .unwrap();
    request.extensions_mut().insert(Deadline::within(A_DAY));
    request
}

/// What the server saw in [`TIME`] of [`CALLS`] calls of half a minute each, all made at once.
async fn job(known: Known) -> (usize, Report) {
    let policy = Policy::exchange_online().with(|policy| {
        policy.member_time = Duration::from_secs(30);
    });
    let exchange = Exchange::builder().policy(policy).seed(1).build();
    let client = client(&exchange, known);
    let calls: Vec<_> = (0..CALLS)
        .map(|n| tokio::spawn(client.clone().oneshot(create(n))))
        .collect();
    tokio::time::sleep(TIME).await;
    let mut done = 0;
    for call in calls {
        if call.is_finished() {
            assert!(call.await.unwrap().unwrap(), "each call has time enough");
            done += 1;
        } else {
            call.abort();
        }
    }
    let report = exchange.report();
    println!(
        "{known:?}: {done} of {CALLS} done, {} lock-outs, {} calls during one, throttled {:?}",
        report.lockouts, report.calls_during_backoff, report.throttled
    );
    assert!(report.created_twice().is_empty());
    (done, report)
}

#[tokio::test(start_paused = true)]
async fn a_locked_out_job_goes_on_whoever_knows_of_the_ledger() {
    let (with_both, _) = job(Known::Both).await;
    for (known, queued) in [
        (Known::Nobody, 0),
        // They wait for a permit further in when the first lock-out comes, and are sent into it once each.
        (Known::ConcurrencyAlone, CALLS as u64),
    ] {
        let (done, report) = job(known).await;
        assert!(done * 100 >= with_both * 95, "{done} and {with_both}");
        let busy = report.throttled["ErrorServerBusy"];
        assert!(busy <= queued + 5 * report.lockouts, "{busy}");
    }
}
