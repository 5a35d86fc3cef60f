//! [`GraphReport`]: what the simulated Graph saw.

use std::collections::BTreeMap;

/// What a [`Graph`](super::Graph) saw so far.
///
/// ```
/// use tower_ews::simulator::{Graph, GraphPolicy};
///
/// let graph = Graph::new(GraphPolicy::outlook());
/// assert_eq!(graph.report().throttled, 0);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GraphReport {
    /// Requests, those in batches among them; a batch is none itself.
    pub requests: u64,
    /// Of those, how many got 429.
    pub throttled: u64,
    /// Of those, how many got another status of 400 or above.
    pub refused: u64,
    /// Batches.
    pub batches: u64,
    /// The most requests of one application in one mailbox that were in flight at the same time.
    pub peak_in_flight: u32,
    /// How many messages were created, by subject.
    pub created: BTreeMap<String, u64>,
    /// Attachments whose upload has ended, by name: their bytes.
    pub attached: BTreeMap<String, u64>,
}
