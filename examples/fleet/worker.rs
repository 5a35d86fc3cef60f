//! A worker: creates the items whose numbers come on stdin, and says on stdout which ones are done.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::Semaphore;
use tower::{BoxError, Layer, ServiceExt};
use tower_ews::EwsStack;
use tower_ews::extensions::Caller;
use tower_ews::ledger::redis::RedisServer;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::Budget;
use tower_ews::simulator::{DEFAULT_ACCOUNT, DEFAULT_PASSWORD};

use crate::args::Work;

/// Calls that wait for a permit at a time: enough to use up any share.
const AT_ONCE: usize = 64;

/// The subject of an item.
pub(crate) fn subject(number: usize) -> String {
    format!("item {number}")
}

fn request(exchange: &str, number: usize) -> Result<Request<Full<Bytes>>, BoxError> {
    use base64::Engine as _;
    let body = format!(
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
         xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types' \
         xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages'><s:Body>\
         <m:CreateItem MessageDisposition='SaveOnly'><m:Items><t:Message><t:Subject>{}</t:Subject></t:Message></m:Items>\
         </m:CreateItem></s:Body></s:Envelope>",
        subject(number)
    );
    let password = format!("{DEFAULT_ACCOUNT}:{DEFAULT_PASSWORD}");
    let basic = base64::engine::general_purpose::STANDARD.encode(password);
    Ok(Request::post(exchange)
        .header("content-type", "text/xml; charset=utf-8")
        .header("authorization", format!("Basic {basic}"))
        .body(Full::from(body))?)
}

pub(crate) async fn run(work: Work) -> Result<(), BoxError> {
    let mut policy = ThrottlingPolicy::exchange_online();
    policy.set_in_flight(Budget::Concurrency, work.limit)?;
    let redis = RedisServer::new(redis::Client::open(work.redis)?);
    // A short lease: what a killed worker had is soon back.
    let ledger = policy
        .redis_ledger()
        .prefix(work.prefix)
        .lease(Duration::from_secs(3))
        .build(redis);
    let client = Client::builder(TokioExecutor::new()).build_http();
    let service = EwsStack::new(policy)
        .caller(Caller::new(DEFAULT_ACCOUNT))
        .ledger(Arc::new(ledger))
        .layer(client);

    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut numbers = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = numbers.next_line().await? {
        let number: usize = line.parse()?;
        let place = Arc::clone(&places).acquire_owned().await?;
        let request = request(&work.exchange, number)?;
        let service = service.clone();
        tokio::spawn(async move {
            let created = async {
                let response = service.oneshot(request).await?;
                let body = response.into_body().collect().await?.to_bytes();
                let created = body.windows(7).any(|text| text == b"NoError");
                Ok::<_, BoxError>(created)
            };
            match created.await {
                Ok(true) => println!("done {number}"),
                Ok(false) => println!("failed {number}"),
                Err(error) => println!("failed {number} {error}"),
            }
            drop(place);
        });
    }
    // The last ones.
    let _all = places.acquire_many(u32::try_from(AT_ONCE)?).await?;
    Ok(())
}
