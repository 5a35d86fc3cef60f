//! One call at the server from end to end: latency, arrival, execution, response.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode, request};

use super::arrival::Arrival;
use super::body::{Body, ConnectionLost};
use super::engine::{Engine, later};

impl Engine {
    /// Responds to one call whose body has been read, or could not be.
    pub(super) async fn handle(
        self: Arc<Self>,
        head: request::Parts,
        body: Result<Bytes, StatusCode>,
    ) -> Result<Response<Body>, ConnectionLost> {
        let due = later(self.now(), self.real(self.policy.latency));
        let arrival = self.arrive(&head, body);
        self.pause_until(due).await;
        match arrival {
            Arrival::Response(response) => Ok(*response),
            Arrival::Lost(error) => Err(error),
            Arrival::Execute(execution) => self.execute(*execution, due).await,
        }
    }
}
