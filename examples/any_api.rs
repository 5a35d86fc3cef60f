//! The layers around a JSON API that has nothing to do with Exchange: each tenant may have three requests at a time and twenty
//! a second, and a tenant over its quota gets a 403 with the time of the reset. Asserts what it shows, and ends by itself.
//!
//! ```text
//! cargo run --example any_api
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use http::{Request, Response, StatusCode, response};
use http_body_util::BodyExt;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_ews::ServiceBuilderExt;
use tower_ews::audit_log::MemorySink;
use tower_ews::ledger::{Limit, LocalLedger};
use tower_ews::principal::{Budget, Charge, Charges, Principal};
use tower_ews::server_busy_backoff::*;

/// Knows the API's own refusal: a 403 with the Unix time at which the quota is full again.
struct Quota;

impl<B> Classify<B> for Quota {
    fn response(&self, _: &RequestClass, head: &response::Parts) -> ClassifiedResponse {
        let reset = head.headers.get("x-quota-reset");
        let reset = reset.and_then(|at| at.to_str().ok()?.parse().ok());
        let (StatusCode::FORBIDDEN, Some(reset)) = (head.status, reset) else {
            return ClassifiedResponse::by_status(head);
        };
        let now = UNIX_EPOCH.elapsed().unwrap_or_default();
        let refusal = Refusal::new("quota").scope(RefusalScope::Principal);
        let wait = Duration::from_secs(reset).saturating_sub(now);
        refusal.retry_after(Some(wait)).into()
    }
}

/// Each request draws on two budgets of its tenant.
fn charges(request: &Request<String>) -> Charges {
    let tenant = Principal::new(request.uri().path());
    let charge = |budget| Charge::new(tenant.clone(), budget, 1);
    [Budget::Concurrency, Budget::Requests]
        .map(charge)
        .into_iter()
        .collect()
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let ledger = LocalLedger::builder()
        .budget(Budget::Concurrency, Limit::InFlight(3))
        .budget(
            Budget::Requests,
            Limit::per_window(20, Duration::from_secs(1)),
        );
    let (ledger, log, api) = (
        Arc::new(ledger.build()),
        MemorySink::new(),
        Arc::<Api>::default(),
    );
    let server = Arc::clone(&api);
    let client = ServiceBuilder::new()
        .audit_log(log.clone())
        .server_busy_backoff_with_ledger(ledger.clone(), Quota)
        .concurrency_by_principal_with_ledger(ledger, charges)
        .client_request_id()
        .service(service_fn(move |request| {
            Arc::clone(&server).respond(request)
        }));

    let begun = Instant::now();
    let calls = (0..120).map(async |n| {
        let request = Request::post(format!("https://api.invalid/tenant{}", n % 3));
        let request = request.body(r#"{"name":"order"}"#.to_owned())?;
        let response = client.clone().oneshot(request).await?;
        assert_eq!(response.status(), 201);
        // The end of the body is the end of the call: then the next one of the tenant may run.
        response.into_body().collect().await
    });
    futures_util::future::try_join_all(calls).await?;
    let (took, tenants) = (begun.elapsed(), api.0.lock().expect("the tenants"));
    let records = log.records();
    let refused = records
        .iter()
        .filter(|record| record.signal.as_deref() == Some("quota"));
    println!(
        "120 calls in {:.1} s, of which {} met a 403; {tenants:?}",
        took.as_secs_f64(),
        refused.count()
    );
    // Twenty at once and twenty a second make the 40 requests of each tenant.
    assert!(took >= Duration::from_secs(1), "too fast for the rate");
    assert_eq!((records.len(), tenants.len()), (120, 3));
    assert!(
        tenants.values().all(|tenant| tenant.done == 40
            && tenant.peak <= 3
            && (1..=4).contains(&tenant.refused))
    );
    Ok(())
}

/// The server: after 30 requests of a tenant it refuses the next ones until the end of the next second.
#[derive(Default)]
struct Api(Mutex<HashMap<String, Tenant>>);

#[derive(Debug, Default)]
struct Tenant {
    in_flight: u32,
    peak: u32,
    done: u32,
    refused: u32,
    reset: Option<u64>,
}

impl Api {
    async fn respond(
        self: Arc<Self>,
        request: Request<String>,
    ) -> Result<Response<String>, BoxError> {
        let tenant = |change: &dyn Fn(&mut Tenant) -> Option<u64>| {
            let mut tenants = self.0.lock().expect("the tenants");
            change(tenants.entry(request.uri().path().to_owned()).or_default())
        };
        let refused = tenant(&|tenant| {
            let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
            if tenant.done + tenant.in_flight == 30 && tenant.reset.is_none() {
                tenant.reset = Some(now + 2);
            }
            let refused = tenant.reset.filter(|reset| now < *reset);
            tenant.refused += u32::from(refused.is_some());
            tenant.in_flight += u32::from(refused.is_none());
            tenant.peak = tenant.peak.max(tenant.in_flight);
            refused
        });
        if let Some(reset) = refused {
            let response = Response::builder()
                .status(403)
                .header("x-quota-reset", reset);
            return Ok(response.body(r#"{"error":"quota"}"#.to_owned())?);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        tenant(&|tenant| {
            (tenant.in_flight, tenant.done) = (tenant.in_flight - 1, tenant.done + 1);
            None
        });
        Ok(Response::builder().status(201).body("{}".to_owned())?)
    }
}
