//! What one writes with tower alone: `ConcurrencyLimit`, and `Retry` with exponential back-off around it.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tower::limit::ConcurrencyLimitLayer;
use tower::retry::backoff::{Backoff, ExponentialBackoff, ExponentialBackoffMaker, MakeBackoff};
use tower::retry::{Policy, RetryLayer};
use tower::util::BoxCloneSyncService;
use tower::util::rng::Rng;
use tower::{BoxError, ServiceBuilder};
use tower_ews::body::ReplayBody;

use super::client::Client;
use super::ews::{Verdict, verdict};

/// Tries of one call.
const TRIES: usize = 10;
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

pub(super) fn client(inner: Client, concurrency: usize, seed: u64) -> Client {
    let maker =
        ExponentialBackoffMaker::new(FIRST, LONGEST, 1.0, Seeded(fastrand::Rng::with_seed(seed)));
    let mut maker = maker.expect("a back-off");
    let retry = Exponential {
        left: TRIES - 1,
        backoff: maker.make_backoff(),
    };
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(retry))
        .layer(ConcurrencyLimitLayer::new(concurrency))
        .service(inner);
    BoxCloneSyncService::new(service)
}

#[derive(Clone)]
struct Seeded(fastrand::Rng);

impl Rng for Seeded {
    fn next_u64(&mut self) -> u64 {
        self.0.u64(..)
    }
}

#[derive(Clone)]
struct Exponential {
    left: usize,
    backoff: ExponentialBackoff<Seeded>,
}

impl Policy<Request<ReplayBody>, Response<Bytes>, BoxError> for Exponential {
    type Future = tokio::time::Sleep;

    fn retry(
        &mut self,
        _: &mut Request<ReplayBody>,
        result: &mut Result<Response<Bytes>, BoxError>,
    ) -> Option<Self::Future> {
        let refused = match result {
            Ok(response) => matches!(verdict(response), Verdict::Refused { .. }),
            Err(_) => true,
        };
        self.left = self.left.checked_sub(1).filter(|_| refused)?;
        Some(self.backoff.next_backoff())
    }

    fn clone_request(&mut self, request: &Request<ReplayBody>) -> Option<Request<ReplayBody>> {
        Some(request.clone())
    }
}
