//! One part on its way: the request, and the complete response to it.

use http::header::ACCEPT_ENCODING;
use http::{Request, request};
use tokio::time::Instant;
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use crate::body::ReplayBody;
use crate::body::client::Client;
use crate::body::collected::{CollectError, CollectedResponse, collect, remove_body_headers};
use crate::errors::{AccessDenied, CredentialsError};
use crate::retry::Failure;
use crate::trail::CallTrail;

/// How the exchange with the server ended.
#[derive(Debug)]
pub(super) enum SendResult {
    Response(Box<CollectedResponse>),
    /// Nothing was sent, and it is worth another try.
    NotSent(BoxError),
    /// Nothing was sent, and nothing will be.
    Unsendable(BoxError),
    /// The connection or the response was lost, so that the part may have been executed.
    Lost(BoxError),
    /// An error of a kind that is not known: the part may have been executed.
    Unclassified(BoxError),
    /// The response is longer than is accepted.
    TooLong,
    /// The time of the call was over before the response was complete.
    TooLate,
}

/// Returns what the requests of all parts have in common.
pub(super) fn shared_head(mut head: request::Parts) -> request::Parts {
    remove_body_headers(&mut head.headers);
    // Compressed responses cannot be merged.
    head.headers.remove(ACCEPT_ENCODING);
    head
}

/// Sends a part, and reads its response at once, so that whatever is held for it is released.
pub(super) async fn send(
    mut client: Client,
    request: Request<ReplayBody>,
    max_response: u64,
) -> SendResult {
    let trail = CallTrail::of(request.extensions()).cloned();
    let calling = match client.ready().await {
        Ok(client) => client.call(request),
        Err(error) => {
            return match Failure::of(&*error) {
                Failure::Permanent => SendResult::Unsendable(error),
                Failure::NotSent | Failure::Lost => SendResult::NotSent(error),
            };
        }
    };
    let response = match calling.await {
        Ok(response) => response,
        Err(error) => {
            return match Failure::of(&*error) {
                // Who could not fetch them knows best what is worth another try.
                Failure::NotSent
                    if error.is::<CredentialsError>() || error.is::<AccessDenied>() =>
                {
                    SendResult::Unsendable(error)
                }
                Failure::NotSent => SendResult::NotSent(error),
                Failure::Lost => SendResult::Lost(error),
                Failure::Permanent => SendResult::Unclassified(error),
            };
        }
    };
    if let Some(trail) = trail {
        let status = response.status();
        trail.record(|attempt| {
            attempt.status.get_or_insert(status);
            attempt.responded.get_or_insert_with(Instant::now);
        });
    }
    match collect(response, max_response).await {
        Ok(response) => SendResult::Response(Box::new(response)),
        // A response had begun, whatever the error proves.
        Err(CollectError::Lost(error)) => SendResult::Lost(error),
        Err(CollectError::TooLong) => SendResult::TooLong,
    }
}
