//! The simulated Microsoft Graph as the server of a job.

use tower_ews::simulator::{Graph, GraphPolicy};

use super::client;
use super::job::{Counts, Ready};

/// A server with these limits.
pub(super) fn ready(policy: GraphPolicy) -> Ready {
    let graph = Graph::new(policy);
    let counted = graph.clone();
    Ready {
        server: client::server(graph),
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
