//! Subscriptions: kept from Subscribe to Unsubscribe, in virtual time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tower::util::BoxCloneService;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};

use crate::body::ReplayBody;
use crate::concurrency_by_principal::{ConcurrencyByPrincipalLayer, PermitBody};
use crate::extensions::Caller;
use crate::ledger::{Leases, Ledger, Limit, LocalLedger};
use crate::principal::{Budget, BudgetRule, ChargeRule, EwsCharges, Payer};

type Body = UnsyncBoxBody<Bytes, BoxError>;

const OK: &str = "<m:ResponseCode>NoError</m:ResponseCode>";

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

fn envelope(inner: &str) -> String {
    let namespace = "http://schemas.microsoft.com/exchange/services/2006";
    format!(
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' xmlns:m='{namespace}/messages' \
         xmlns:t='{namespace}/types'><s:Body>{inner}</s:Body></s:Envelope>"
    )
}

fn subscribe(timeout: u32) -> String {
    format!(
        "<m:Subscribe><m:PullSubscriptionRequest><t:Timeout>{timeout}</t:Timeout></m:PullSubscriptionRequest></m:Subscribe>"
    )
}

fn named(operation: &str, id: &str) -> String {
    format!("<m:{operation}><m:SubscriptionId>{id}</m:SubscriptionId></m:{operation}>")
}

fn message(operation: &str, inner: &str) -> String {
    format!(
        "<m:{operation}Response><m:ResponseMessages><m:{operation}ResponseMessage>{inner}\
         </m:{operation}ResponseMessage></m:ResponseMessages></m:{operation}Response>"
    )
}

fn subscribed(id: &str) -> String {
    message(
        "Subscribe",
        &format!("{OK}<m:SubscriptionId>{id}</m:SubscriptionId>"),
    )
}

fn failed(operation: &str, code: &str) -> String {
    message(
        operation,
        &format!("<m:ResponseCode>{code}</m:ResponseCode>"),
    )
}

/// A client of one account that may have one subscription, and what the server says next.
struct Client {
    service: BoxCloneService<Request<ReplayBody>, Response<PermitBody<Body>>, BoxError>,
    says: Arc<Mutex<String>>,
    ledger: Arc<LocalLedger>,
    leases: Arc<Leases>,
}

impl Client {
    fn new(wrap: impl Fn(String) -> Body + Clone + Send + 'static) -> Self {
        let ledger = LocalLedger::builder()
            .budget(Budget::Concurrency, Limit::InFlight(4))
            .budget(Budget::Subscriptions, Limit::InFlight(1))
            .max_wait(minutes(1440))
            .build();
        let ledger = Arc::new(ledger);
        let subscribes = ChargeRule::Only(vec!["Subscribe".to_owned()]);
        let charges = EwsCharges::new([
            BudgetRule::new(Budget::Concurrency, Payer::Effective, ChargeRule::Calls),
            BudgetRule::new(Budget::Subscriptions, Payer::Effective, subscribes),
        ]);
        let charges = charges.caller(Caller::new("svc"));
        let layer = ConcurrencyByPrincipalLayer::new(ledger.clone(), charges);
        let leases = Arc::clone(&layer.leases);
        let says = Arc::new(Mutex::new(String::new()));
        let server = service_fn({
            let says = says.clone();
            move |_: Request<ReplayBody>| {
                let body = wrap(says.lock().clone());
                async move {
                    sleep(Duration::from_secs(1)).await;
                    Ok::<_, Infallible>(Response::new(body))
                }
            }
        });
        let service = ServiceBuilder::new().layer(layer).service(server);
        Self {
            service: BoxCloneService::new(service),
            says,
            ledger,
            leases,
        }
    }

    fn whole() -> Self {
        Self::new(|text| {
            Full::from(text)
                .map_err(|never| match never {})
                .boxed_unsync()
        })
    }

    fn call(
        &self,
        request: &str,
        says: &str,
    ) -> impl Future<Output = Result<Response<PermitBody<Body>>, BoxError>> + Send + 'static {
        *self.says.lock() = envelope(says);
        let request = Request::new(ReplayBody::from(envelope(request)));
        self.service.clone().oneshot(request)
    }

    /// Calls, and reads the response to its end.
    async fn send(&self, request: &str, says: &str) {
        let response = self.call(request, says).await.unwrap();
        response.into_body().collect().await.unwrap();
    }

    /// How many subscriptions the ledger counts.
    fn held(&self) -> u32 {
        let snapshot = self.ledger.snapshot();
        let budgets = snapshot.principals.iter().flat_map(|one| &one.budgets);
        let of_subscriptions = budgets.filter(|one| one.budget == Budget::Subscriptions);
        of_subscriptions.map(|one| one.held).sum()
    }

    /// Subscribes while another subscription lasts. Returns when it got its place.
    fn next(&self) -> tokio::task::JoinHandle<Instant> {
        let waiting = self.call(&subscribe(1), &subscribed("next"));
        tokio::spawn(async move {
            waiting.await.unwrap();
            Instant::now() - Duration::from_secs(1)
        })
    }

    async fn nothing_left(self) {
        sleep(minutes(2 * 1440)).await;
        assert_eq!((self.held(), self.leases.kept()), (0, (0, false)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_lasts_until_it_is_ended() {
    let client = Client::whole();
    client.send(&subscribe(10), &subscribed("A")).await;
    assert_eq!(client.held(), 1);
    let next = client.next();
    sleep(minutes(5)).await;
    // That of another one changes nothing, nor does one that fails.
    client
        .send(&named("Unsubscribe", "B"), &message("Unsubscribe", OK))
        .await;
    client
        .send(
            &named("Unsubscribe", "A"),
            &failed("Unsubscribe", "ErrorServerBusy"),
        )
        .await;
    assert!(!next.is_finished());
    client
        .send(&named("Unsubscribe", "A"), &message("Unsubscribe", OK))
        .await;
    let ended = Instant::now();
    *client.says.lock() = envelope(&subscribed("next"));
    assert_eq!(next.await.unwrap(), ended);
    client.nothing_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_expires_after_its_last_use() {
    let client = Client::whole();
    client.send(&subscribe(10), &subscribed("A")).await;
    let next = client.next();
    sleep(minutes(9)).await;
    client
        .send(&named("GetEvents", "A"), &message("GetEvents", OK))
        .await;
    let used = Instant::now();
    *client.says.lock() = envelope(&subscribed("next"));
    assert_eq!(next.await.unwrap(), used + minutes(10));
    client.nothing_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_lost_makes_room() {
    for code in [
        "ErrorSubscriptionNotFound",
        "ErrorExpiredSubscription",
        "ErrorInvalidSubscription",
        "ErrorReadEventsFailed",
    ] {
        for operation in ["GetEvents", "Unsubscribe"] {
            let client = Client::whole();
            client.send(&subscribe(1440), &subscribed("A")).await;
            client
                .send(&named(operation, "A"), &failed(operation, code))
                .await;
            assert_eq!(client.held(), 0, "{operation} {code}");
            client.nothing_left().await;
        }
    }
    let client = Client::whole();
    client.send(&subscribe(1440), &subscribed("A")).await;
    let events = "<m:GetStreamingEvents><m:SubscriptionIds><t:SubscriptionId>A</t:SubscriptionId>\
                  <t:SubscriptionId>B</t:SubscriptionId></m:SubscriptionIds></m:GetStreamingEvents>";
    let lost = "<m:ResponseCode>ErrorInvalidSubscription</m:ResponseCode>\
                <m:ErrorSubscriptionIds><m:SubscriptionId>B</m:SubscriptionId></m:ErrorSubscriptionIds>";
    client
        .send(events, &message("GetStreamingEvents", lost))
        .await;
    assert_eq!(client.held(), 1);
    let lost = lost.replace(">B<", ">A<");
    client
        .send(events, &message("GetStreamingEvents", &lost))
        .await;
    assert_eq!(client.held(), 0);
    client.nothing_left().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_never_created_is_not_kept() {
    let client = Client::whole();
    let start = Instant::now();
    let too_many = failed("Subscribe", "ErrorExceededSubscriptionCount");
    client.send(&subscribe(10), &too_many).await;
    assert_eq!(client.held(), 0);
    let took = start.elapsed();
    client.send(&subscribe(10), "<html/>").await;
    assert_eq!(client.held(), 0);
    // The ledger was told: the next one waits until it may be tried.
    assert!(start.elapsed() > took * 2, "{took:?}");
    // Given up before the response, and before its end.
    let waiting = client.call(&subscribe(10), &subscribed("A"));
    let waiting = tokio::spawn(waiting);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(client.held(), 1);
    waiting.abort();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(client.held(), 0);
    drop(client.call(&subscribe(10), &subscribed("A")).await.unwrap());
    assert_eq!(client.held(), 0);
    client.nothing_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_response_in_pieces_and_one_that_breaks_off() {
    let client = Client::new(|text| {
        let pieces: Vec<_> = text
            .as_bytes()
            .chunks(7)
            .map(Bytes::copy_from_slice)
            .collect();
        let frames = pieces
            .into_iter()
            .map(|piece| Ok::<_, BoxError>(Frame::data(piece)));
        StreamBody::new(stream::iter(frames)).boxed_unsync()
    });
    client.send(&subscribe(10), &subscribed("A")).await;
    assert_eq!(client.held(), 1);
    client.nothing_left().await;

    let client = Client::new(|text| {
        let piece = Bytes::from(text);
        let frames = [Ok(Frame::data(piece)), Err(BoxError::from("reset"))];
        StreamBody::new(stream::iter(frames)).boxed_unsync()
    });
    let response = client.call(&subscribe(10), &subscribed("A")).await.unwrap();
    response.into_body().collect().await.unwrap_err();
    assert_eq!(client.held(), 0);
    client.nothing_left().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_id_again_takes_one_place() {
    let client = Client::whole();
    client.send(&subscribe(10), &subscribed("A")).await;
    client
        .ledger
        .set_limit(
            &crate::principal::Principal::account("svc"),
            Budget::Subscriptions,
            9,
        )
        .unwrap();
    client.send(&subscribe(10), &subscribed("A")).await;
    assert_eq!((client.held(), client.leases.kept().0), (1, 1));
    client
        .ledger
        .set_limit(
            &crate::principal::Principal::account("svc"),
            Budget::Subscriptions,
            None,
        )
        .unwrap();
    client.nothing_left().await;
}
