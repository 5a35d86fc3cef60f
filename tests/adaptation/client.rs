//! The clients that are measured. All that this suite needs of the ledger and its policy is here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_ews::EwsStack;
use tower_ews::body::ReplayBody;
use tower_ews::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use tower_ews::extensions::Caller;
use tower_ews::ledger::{Ledger, Limit};
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::Budget;
use tower_ews::server_busy_backoff::ServerBusyBackoffLayer;

use super::server::Server;

/// A client of the scripted server, ours or one that knows everything.
pub(crate) type Client =
    BoxCloneSyncService<Request<ReplayBody>, Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError>;

/// What our client's policy says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// Calls at a time.
    pub(crate) calls: u32,
    /// How long a mailbox stays open after its last call.
    pub(crate) idle: Duration,
}

impl Known {
    fn policy(self) -> ThrottlingPolicy {
        let mut policy = ThrottlingPolicy::exchange_online();
        policy
            .set_in_flight(Budget::Concurrency, self.calls)
            .unwrap();
        for row in &mut policy.budgets {
            if let Limit::Distinct { idle, .. } = &mut row.limit {
                *idle = self.idle;
            }
        }
        // A job is to end, however slowly: its time is what is measured.
        policy.deadline = Duration::from_secs(86_400);
        policy.max_wait = policy.deadline;
        policy
    }
}

fn caller() -> Caller {
    Caller::new("svc@contoso.com")
}

/// The layers that adapt, with a seed for what they draw.
pub(crate) fn layers(known: Known, server: Server, seed: u64) -> Client {
    let policy = known.policy();
    let ledger: Arc<dyn Ledger> = Arc::new(policy.ledger());
    let charges = policy.charges().caller(caller());
    let charged = ConcurrencyByPrincipalLayer::new(Arc::clone(&ledger), charges).layer(server);
    let backoff = ServerBusyBackoffLayer::ews()
        .ledger(ledger)
        .deadline(policy.deadline)
        .backoff(policy.backoff_base, policy.backoff_cap)
        .seed(seed);
    boxed(backoff.layer(charged))
}

/// The whole stack, which cuts a batch into parts of a given size.
pub(crate) fn stack(known: Known, server: Server, members: usize) -> Client {
    let stack = EwsStack::new(known.policy())
        .caller(caller())
        .batches(|batches| {
            let batches = batches.start_members(members).max_members(members);
            batches.parallel(known.calls as usize)
        });
    boxed(stack.layer(server))
}

/// Makes one type of all clients.
pub(crate) fn boxed<S, B>(service: S) -> Client
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let service = service.map_err(Into::into);
    BoxCloneSyncService::new(
        service
            .map_response(|response| response.map(|body| body.map_err(Into::into).boxed_unsync())),
    )
}
