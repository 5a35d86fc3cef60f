//! What the best client elsewhere does: a pool of connections for each account, which shrinks when the server refuses one, and one
//! back-off for all calls of the account.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceExt};
use tower_ews::body::ReplayBody;

use super::client::Client;
use super::ews::{Verdict, verdict};

/// What it waits if the server does not say how long.
const WAIT: Duration = Duration::from_secs(10);
/// No call waits longer than this in all.
const LONGEST: Duration = Duration::from_secs(3600);

pub(super) struct Pool {
    inner: Client,
    connections: Semaphore,
    state: Mutex<State>,
}

struct State {
    size: usize,
    /// The back-off of all calls.
    until: Instant,
}

impl Pool {
    pub(super) fn client(inner: Client, size: usize) -> Client {
        let pool = Arc::new(Self {
            inner,
            connections: Semaphore::new(size),
            state: Mutex::new(State {
                size,
                until: Instant::now(),
            }),
        });
        BoxCloneSyncService::new(tower::service_fn(move |request| {
            let pool = Arc::clone(&pool);
            async move { pool.send(request).await }
        }))
    }

    async fn send(&self, request: Request<ReplayBody>) -> Result<Response<Bytes>, BoxError> {
        let mut waited = Duration::ZERO;
        loop {
            let connection = self.connections.acquire().await?;
            let until = self.state.lock().expect("a pool").until;
            if until > Instant::now() {
                drop(connection);
                sleep_until(until).await;
                continue;
            }
            let response = self.inner.clone().oneshot(request.clone()).await?;
            let Verdict::Refused {
                back_off,
                connections,
            } = verdict(&response)
            else {
                return Ok(response);
            };
            let wait = back_off.unwrap_or(WAIT);
            waited += wait;
            let mut state = self.state.lock().expect("a pool");
            state.until = state.until.max(Instant::now() + wait);
            if connections && state.size > 1 {
                state.size -= 1;
                connection.forget();
            }
            if waited > LONGEST {
                return Ok(response);
            }
        }
    }
}
