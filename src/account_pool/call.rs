//! [`Call`]: one attempt, with one account after the other until one of them works.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Extensions, Request, Response};
use http_body::Body;
use tokio::time::{Instant, timeout};
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use super::account::Fetch;
use super::body::{Held, PoolBody, Pooled};
use super::choice::{Choice, Chosen};
use super::homes::Numbers;
use super::member::{Claim, InFlight, Member};
use super::refusal::{BodyReader, Refusal, by_head, tells_of_account};
use super::shared::{Shared, Visit};
use crate::errors::{DeadlineElapsed, LeftOut, LeftOutReason, NoAccount};
use crate::extensions::Deadline;
use crate::ledger::{AcquiredPermit, AdmissionSlot, End, Permit};
use crate::principal::MakeCharges;
use crate::retry::Failure;
use crate::seconds::Seconds;

/// How much of a refusal is kept that may be the last word, and how long it may take.
const MAX_KEPT: usize = 64 * 1024;
const KEPT_BY: Duration = Duration::from_secs(5);

pub(super) struct Call<S, B, M, ResB: Body> {
    inner: S,
    request: Request<B>,
    shared: Arc<Shared<M>>,
    /// The accounts that did not work for this attempt.
    refused: Numbers,
    /// Those of them that are left out once another account works.
    suspects: Vec<(usize, LeftOutReason, Claim)>,
    /// An account that has fresh credentials, since its last ones were refused.
    renewed: Option<Renewed>,
    /// The place in the queue of the account before.
    ticket: Option<u64>,
    /// What the last refusal said.
    last: Option<Last<ResB>>,
}

/// Fresh credentials of an account.
struct Renewed {
    number: usize,
    value: HeaderValue,
    claim: Claim,
}

/// What the hook of an account has given.
enum Fetched {
    /// It has no hook.
    None,
    Value(HeaderValue),
    LeftOut,
}

/// How an attempt with an account ended that is not used.
enum Last<ResB: Body> {
    Response(Response<Pooled<ResB>>),
    NoCredentials(BoxError),
}

/// An account that has its permit.
struct Turn {
    number: usize,
    member: Arc<Member>,
    claim: Claim,
    in_flight: InFlight,
    visit: Option<Visit>,
}

impl<S, B, M, ResB> Call<S, B, M, ResB>
where
    S: Service<Request<B>, Response = Response<ResB>> + Clone,
    S::Error: Into<BoxError>,
    M: MakeCharges<B>,
    B: Clone,
    ResB: Body<Data = Bytes>,
{
    pub(super) fn new(inner: S, request: Request<B>, shared: Arc<Shared<M>>) -> Self {
        Self {
            inner,
            request,
            shared,
            refused: Numbers::new(),
            suspects: Vec::new(),
            renewed: None,
            ticket: None,
            last: None,
        }
    }

    /// Makes the attempt with one of those accounts.
    pub(super) async fn run(
        mut self,
        accounts: Range<usize>,
    ) -> Result<Response<PoolBody<ResB>>, BoxError> {
        loop {
            let candidates = self.candidates(accounts.clone());
            if candidates.is_empty() {
                return self.give_up(accounts);
            }
            let ticket = self.ticket;
            let choice = Choice::new(&self.shared, &mut self.request, &candidates, ticket);
            let Chosen {
                number,
                mut permit,
                visit,
            } = choice.find(&mut self.request).await?;
            permit.set_end(End::NotSent);
            self.ticket = Some(permit.admission().ticket());
            let Some(member) = self.shared.members.get(number).cloned() else {
                continue;
            };
            let claim = match &self.renewed {
                Some(renewed) => renewed.claim,
                None => member.claim(Instant::now()),
            };
            if claim == Claim::LeftOut {
                // Since it was waited for.
                continue;
            }
            let turn = Turn {
                number,
                in_flight: InFlight::of(&member),
                member,
                claim,
                visit,
            };
            if let Some(response) = self.attempt(turn, permit).await? {
                return Ok(response);
            }
        }
    }

    /// The accounts that may make the attempt now.
    fn candidates(&self, accounts: Range<usize>) -> Numbers {
        if let Some(renewed) = &self.renewed {
            return Numbers::from_slice(&[renewed.number]);
        }
        let left = accounts.filter(|number| !self.refused.contains(number));
        self.shared.available(left, Instant::now())
    }

    /// Sends the request with an account. None if it did not work, and nothing was executed.
    async fn attempt(
        &mut self,
        turn: Turn,
        permit: Permit,
    ) -> Result<Option<Response<PoolBody<ResB>>>, BoxError> {
        let renewed = self.renewed.take().map(|renewed| renewed.value);
        let is_renewed = renewed.is_some();
        let value = match renewed {
            Some(value) => Some(value),
            None => match self.fetch(&turn, None).await? {
                Fetched::None => None,
                Fetched::Value(value) => Some(value),
                Fetched::LeftOut => return Ok(None),
            },
        };
        let (response, acquired) = self.send(&turn, permit, value.as_ref()).await?;
        let (head, body) = response.into_parts();
        let mut body = Pooled::new(body);
        let refusal = match by_head(head.status) {
            Some(refusal) => Some(refusal),
            None => match BodyReader::of(self.shared.api, head.status) {
                Some(reader) => read(reader, &mut body).await,
                None => None,
            },
        };
        let Some(refusal) = refusal else {
            if tells_of_account(head.status) {
                self.works(&turn);
            }
            let mut permit = acquired.take();
            if let Some(permit) = &mut permit {
                permit.set_responded();
            }
            let held = Held {
                permit,
                in_flight: turn.in_flight,
                visit: turn.visit,
            };
            let response = Response::from_parts(head, body);
            return Ok(Some(response.map(|body| PoolBody::pooled(body, held))));
        };
        // Nothing is held while another account is asked.
        drop(acquired.take());
        body.let_go(MAX_KEPT, KEPT_BY).await;
        self.last = Some(Last::Response(Response::from_parts(head, body)));
        match (refusal, value) {
            (Refusal::Account(LeftOutReason::Refused), Some(value)) if !is_renewed => {
                self.renew(&turn, value).await?;
            }
            _ => self.leave_out(&turn, refusal),
        }
        Ok(None)
    }

    /// Sends the request in the name of an account. Its permit is where the layer further in has not taken it from.
    fn send(
        &self,
        turn: &Turn,
        permit: Permit,
        value: Option<&HeaderValue>,
    ) -> impl Future<Output = Result<(Response<ResB>, AcquiredPermit), BoxError>> + use<S, B, M, ResB>
    {
        let mut request = self.request.clone();
        if let Some(value) = value {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        let extensions = request.extensions_mut();
        extensions.insert(turn.member.caller().clone());
        let acquired = send_with(extensions, permit);
        let inner = self.inner.clone();
        async move {
            let error = match respond(inner, request).await {
                Ok(response) => return Ok((response, acquired)),
                Err(error) => error,
            };
            let permit = acquired.take();
            if let (Some(mut permit), Failure::NotSent) = (permit, Failure::of(&*error)) {
                permit.set_end(End::NotSent);
            }
            Err(error)
        }
    }

    /// Asks for fresh credentials of an account whose last ones were refused.
    async fn renew(&mut self, turn: &Turn, rejected: HeaderValue) -> Result<(), DeadlineElapsed> {
        match self.fetch(turn, Some(rejected.clone())).await? {
            Fetched::Value(value) if value != rejected => {
                self.renewed = Some(Renewed {
                    number: turn.number,
                    value,
                    claim: turn.claim,
                });
            }
            // What was refused is not sent once more.
            Fetched::Value(_) | Fetched::None => {
                self.leave_out(turn, Refusal::Account(LeftOutReason::Refused));
            }
            Fetched::LeftOut => {}
        }
        Ok(())
    }

    /// Fetches the credentials of an account. It is left out if there are none to be had.
    async fn fetch(
        &mut self,
        turn: &Turn,
        rejected: Option<HeaderValue>,
    ) -> Result<Fetched, DeadlineElapsed> {
        let Some(fetch) = turn.member.fetch(rejected, turn.claim) else {
            return Ok(Fetched::None);
        };
        let extensions = self.request.extensions();
        let (deadline, slot) = (extensions.get().copied(), extensions.get().cloned());
        match authorization(fetch, deadline, slot).await? {
            Ok(value) => Ok(Fetched::Value(value)),
            Err(error) => {
                self.leave_out(turn, Refusal::Account(LeftOutReason::NoCredentials));
                self.last = Some(Last::NoCredentials(error));
                Ok(Fetched::LeftOut)
            }
        }
    }

    fn leave_out(&mut self, turn: &Turn, refusal: Refusal) {
        self.refused.push(turn.number);
        match refusal {
            Refusal::Account(reason) => {
                turn.member.leave_out(reason, turn.claim, Instant::now());
            }
            Refusal::AccountOrMailbox(reason) => {
                let mailbox = turn.visit.as_ref().map(Visit::value);
                turn.member
                    .suspect(reason, mailbox, turn.claim, Instant::now());
                self.suspects.push((turn.number, reason, turn.claim));
            }
        }
    }

    /// This account works, so those that did not are to blame themselves.
    fn works(&mut self, turn: &Turn) {
        turn.member.works(turn.claim);
        for (number, reason, claim) in self.suspects.drain(..) {
            if let Some(member) = self.shared.members.get(number) {
                member.leave_out(reason, claim, Instant::now());
            }
        }
    }

    /// Ends the attempt when no account is left.
    fn give_up(self, accounts: Range<usize>) -> Result<Response<PoolBody<ResB>>, BoxError> {
        let source = match self.last {
            Some(Last::Response(response)) => return Ok(response.map(PoolBody::released)),
            Some(Last::NoCredentials(error)) => Some(error),
            None => None,
        };
        let now = Instant::now();
        let members = self.shared.members.get(accounts).unwrap_or_default();
        let left_out: Vec<LeftOut> = members.iter().filter_map(|one| one.left_out(now)).collect();
        Err(NoAccount::new(left_out, source).into())
    }
}

/// Puts the permit into the request, for the layer further in that takes permits over, if there is one.
fn send_with(extensions: &mut Extensions, mut permit: Permit) -> AcquiredPermit {
    // Until a response has come: the server may be at work on it.
    permit.set_end(End::NoResponse);
    let acquired = AcquiredPermit::new(permit);
    extensions.insert(acquired.clone());
    acquired
}

/// A token service answers within seconds: other accounts do not wait for one that is silent.
const FETCH_TIME: Duration = Duration::from_secs(60);

/// Fetches credentials until the call's deadline, for a minute at most.
async fn authorization(
    fetch: Fetch,
    deadline: Option<Deadline>,
    slot: Option<AdmissionSlot>,
) -> Result<Result<HeaderValue, BoxError>, DeadlineElapsed> {
    if let Some(slot) = &slot {
        slot.wait();
    }
    let fetch = async {
        let late = |_| Err(format!("no credentials came within {}", Seconds(FETCH_TIME)).into());
        timeout(FETCH_TIME, fetch).await.unwrap_or_else(late)
    };
    let fetched = match deadline {
        None => fetch.await,
        Some(deadline) => {
            let fetched = deadline.bound(fetch).await;
            fetched.ok_or_else(|| DeadlineElapsed::at(deadline))?
        }
    };
    if let Some(slot) = &slot {
        slot.resume();
    }
    Ok(fetched.map(|mut value| {
        value.set_sensitive(true);
        value
    }))
}

async fn respond<S, B>(mut inner: S, request: Request<B>) -> Result<S::Response, BoxError>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    let ready = inner.ready().await.map_err(Into::into)?;
    ready.call(request).await.map_err(Into::into)
}

/// Reads as much of a body as it takes to know whether it tells of the account.
async fn read<ResB: Body<Data = Bytes>>(
    mut reader: BodyReader,
    body: &mut Pooled<ResB>,
) -> Option<Refusal> {
    while let Some(data) = body.look_ahead().await {
        if !reader.push(&data) {
            break;
        }
    }
    reader.end()
}
