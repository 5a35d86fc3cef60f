//! The simulated Microsoft Graph as the server of a job.

use http::{HeaderValue, Request};
use tower::ServiceExt;
use tower_ews::body::ReplayBody;
use tower_ews::simulator::{Graph, GraphPolicy};

use super::client;
use super::job::{Counts, Ready};

/// A server with these limits.
pub(super) fn ready(policy: GraphPolicy) -> Ready {
    let graph = Graph::new(policy);
    let counted = graph.clone();
    let application = HeaderValue::from_static("Bearer app");
    let authorized = graph.map_request(move |mut request: Request<ReplayBody>| {
        let headers = request.headers_mut();
        headers.insert("authorization", application.clone());
        request
    });
    Ready {
        server: client::server(authorized),
        counts: Box::new(move || {
            let report = counted.report();
            Counts {
                calls: report.requests,
                throttled: report.throttled,
                lost_and_twice: None,
            }
        }),
    }
}
