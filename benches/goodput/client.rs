//! The client that all jobs begin with, and whose layers stand around it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_ews::EwsStack;
use tower_ews::body::ReplayBody;
use tower_ews::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use tower_ews::extensions::Caller;
use tower_ews::ledger::Ledger;
use tower_ews::server_busy_backoff::ServerBusyBackoffLayer;
use tower_ews::simulator::DEFAULT_ACCOUNT;

use super::pool::Pool;
use super::scenarios::{Api, Scenario};
use super::tower_stack;

/// A client whose responses are whole. One type for all.
pub(super) type Client = BoxCloneSyncService<Request<ReplayBody>, Response<Bytes>, BoxError>;

/// Whose client does the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Ours,
    Bare,
    Tower,
    Pool,
}

impl Who {
    pub(super) const ALL: [Self; 4] = [Self::Ours, Self::Bare, Self::Tower, Self::Pool];

    /// The client, around what leads to the server.
    pub(super) fn client(self, scenario: &Scenario, server: &Server, seed: u64) -> Client {
        let known = scenario.known_concurrency();
        let mapped = match scenario.accounts {
            Some(accounts) if self != Self::Ours => accounts.map(server.clone()),
            _ => server.clone(),
        };
        let server = &mapped;
        match self {
            Self::Bare => whole(server.clone()),
            Self::Tower => tower_stack::client(whole(server.clone()), known, seed),
            Self::Pool => Pool::client(whole(server.clone()), known),
            Self::Ours => ours(scenario, server, seed),
        }
    }
}

fn ours(scenario: &Scenario, server: &Server, seed: u64) -> Client {
    let policy = scenario.policy.clone();
    if scenario.api == Api::Ews {
        let stack = EwsStack::new(policy);
        let stack = match scenario.accounts {
            Some(accounts) => stack.accounts(accounts.pool()),
            None => stack.caller(Caller::new(DEFAULT_ACCOUNT)),
        };
        return whole(stack.service(server.clone()));
    }
    let ledger: Arc<dyn Ledger> = Arc::new(policy.ledger());
    let backoff = ServerBusyBackoffLayer::http()
        .ledger(Arc::clone(&ledger))
        .deadline(policy.deadline)
        .backoff(policy.backoff_base, policy.backoff_cap)
        .seed(seed);
    let charged = ConcurrencyByPrincipalLayer::new(ledger, policy.graph_charges("app"));
    whole(backoff.layer(charged.layer(server.clone())))
}

/// Tells the caller that the server has taken its call up: the response has not come as soon as a refusal would have.
#[derive(Clone, Debug, Default)]
pub(super) struct TakenUp(pub(super) Arc<Notify>);

/// Longer than a refusal takes.
pub(super) const REFUSED_BY: Duration = Duration::from_millis(50);

/// What leads to the server: the innermost service of every client.
pub(super) type Server = BoxCloneSyncService<Request<ReplayBody>, Response<WireBody>, BoxError>;

pub(super) type WireBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// Makes one type of all servers.
pub(super) fn server<S, B>(service: S) -> Server
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let service = service
        .map_err(Into::into)
        .map_response(|response: Response<B>| {
            response.map(|body| body.map_err(Into::into).boxed_unsync())
        });
    let service = tower::service_fn(move |request: Request<ReplayBody>| {
        let taken_up = request.extensions().get::<TakenUp>().cloned();
        let mut response = Box::pin(service.clone().oneshot(request));
        async move {
            let Some(taken_up) = taken_up else {
                return response.await;
            };
            tokio::select! {
                response = &mut response => return response,
                () = tokio::time::sleep(REFUSED_BY) => taken_up.0.notify_one(),
            }
            response.await
        }
    });
    BoxCloneSyncService::new(service)
}

/// Reads each response to its end.
fn whole<S, B>(service: S) -> Client
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    BoxCloneSyncService::new(
        service
            .map_err(Into::into)
            .and_then(async |response: Response<B>| {
                let (head, body) = response.into_parts();
                let body = body.collect().await.map_err(Into::into)?.to_bytes();
                Ok(Response::from_parts(head, body))
            }),
    )
}
