//! The server that a request goes to.

use http::Request;
use http::uri::Authority;

/// Stands for the server of all requests whose URI names none.
pub(super) const UNNAMED: &str = "unnamed-server";

/// Returns the server that a request goes to.
pub(super) fn endpoint_of<B>(request: &Request<B>) -> Authority {
    let endpoint = request.uri().authority().cloned();
    endpoint.unwrap_or_else(|| Authority::from_static(UNNAMED))
}
