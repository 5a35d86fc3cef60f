//! What is decided when a call arrives: who calls, whether it suffers a fault, and whether it may
//! run.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Response, StatusCode, request};

use super::account::{Account, AccountRefusal, authenticate};
use super::affinity::{Route, prefers};
use super::autodiscover;
use super::body::{Body, ConnectionLost, respond};
use super::budget::{Payer, Refusal};
use super::engine::{Engine, InFlight, State};
use super::execution::Execution;
use super::failure::Failure;
use super::faults::Fault;
use super::mailbox::Store;
use super::operation::{Operation, OperationResponse, touched};
use super::policy::BusyResponse;
use super::reply::{PAGE_503, Reply, common_headers};
use super::report::Call;
use super::soap::{self, Request};

/// The back-off of a refused synchronisation call (the recorded response says so), and of other calls
/// that have a limit of their own.
const KIND_BACK_OFF: Duration = Duration::from_secs(5);

/// What becomes of a call that has arrived.
pub(super) enum Arrival {
    Response(Box<Response<Body>>),
    Lost(ConnectionLost),
    Execute(Box<Execution>),
}

/// A call that is executed.
struct Admitted<'a> {
    caller: &'a Account,
    operation: Operation,
    payers: Vec<Payer>,
}

/// Why a call is not executed.
enum Refused {
    Reply(Box<Reply>),
    Lost(ConnectionLost),
}

/// What is known of a call before anything is decided.
struct Facts<'a> {
    request: &'a Result<Request, Failure>,
    operation: Option<Operation>,
    members: usize,
    /// The operation's name, as far as there is one.
    name: &'a str,
    caller: Option<&'a Account>,
    /// The impersonated mailbox; the inner `None` when there is none of that name.
    target: Option<Option<usize>>,
    touched: Vec<usize>,
    effective: Option<usize>,
    /// It belongs to a group of subscriptions, which have one anchor.
    grouped: bool,
    /// The addresses of all mailboxes concerned, the impersonated one first.
    mailboxes: Vec<String>,
}

impl From<Reply> for Refused {
    fn from(reply: Reply) -> Self {
        Refused::Reply(Box::new(reply))
    }
}

impl Engine {
    pub(super) fn arrive(
        self: &Arc<Self>,
        head: &request::Parts,
        body: Result<Bytes, StatusCode>,
    ) -> Arrival {
        let too_large = || Failure::new("ErrorRequestStreamTooBig", "The request is too large.");
        let parsed = body.as_ref().map_err(|_| too_large());
        let parsed = parsed.and_then(|bytes| soap::read(bytes));
        let now = self.now();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.number += 1;
        let number = state.number;
        let mut headers = common_headers(head, state);
        let facts = self.facts(head, &parsed, state);
        state
            .counters
            .record(self.record(head, &facts, number, now));

        let injected = state
            .faults
            .draw(number, facts.name, &facts.mailboxes, &mut state.rng);
        let decision = self.decide(head, body.err(), &facts, injected.as_ref(), state);
        let befell = injected
            .as_ref()
            .filter(|fault| fault.befalls_execution() == decision.is_ok());
        if let Some(fault) = befell.filter(|fault| !fault.befalls_members()) {
            state.counters.fault(fault.name());
        }
        let admitted = match decision {
            Ok(admitted) => admitted,
            Err(refused) => return self.refuse(refused, befell, number, now, headers, state),
        };
        let (caller, effective) = (admitted.caller.clone(), facts.effective);
        let (operation, payers) = (admitted.operation, admitted.payers);
        let route = enter(head, operation, effective, &mut headers, state);
        drop(guard);
        let in_flight = InFlight::new(self.clone(), payers, operation.kind());
        let Ok(request) = parsed else {
            return Arrival::Lost(ConnectionLost::reset());
        };
        Arrival::Execute(Box::new(Execution {
            number,
            operation,
            request,
            caller,
            effective,
            route,
            in_flight,
            fault: injected,
            headers,
        }))
    }

    /// Whether the call is executed, in the order in which the server looks.
    fn decide<'a>(
        &self,
        head: &request::Parts,
        unreadable: Option<StatusCode>,
        facts: &Facts<'a>,
        injected: Option<&Fault>,
        state: &mut State,
    ) -> Result<Admitted<'a>, Refused> {
        let caller = self.admit_unread(head, unreadable, facts, injected, state)?;
        self.answer_autodiscover(facts, state)?;
        let operation = self.admit(caller, facts, injected)?;
        self.refuse_disabled(caller, operation, facts, state)?;
        let payers = self.charge(caller, operation, facts, state)?;
        Ok(Admitted {
            caller,
            operation,
            payers,
        })
    }

    /// Records a call that is not executed, and responds to it.
    fn refuse(
        &self,
        refused: Refused,
        befell: Option<&Fault>,
        number: u64,
        now: tokio::time::Instant,
        mut headers: HeaderMap,
        state: &mut State,
    ) -> Arrival {
        let call = state.counters.call(number);
        let reply = match refused {
            Refused::Lost(error) => {
                if let (Some(call), Some(injected)) = (call, befell) {
                    injected.name().clone_into(&mut call.outcome);
                }
                return Arrival::Lost(error);
            }
            Refused::Reply(reply) => reply,
        };
        if let Some(call) = call {
            call.status = Some(reply.status);
            call.responded = Some(self.since_start(now + self.real(self.policy.latency)));
            call.outcome = match befell {
                Some(injected) => injected.name().to_owned(),
                None => reply.outcome,
            };
        }
        headers.extend(reply.headers);
        let body = Body::whole(reply.body, None);
        Arrival::Response(Box::new(respond(reply.status, headers, body)))
    }

    fn facts<'a>(
        &'a self,
        head: &request::Parts,
        request: &'a Result<Request, Failure>,
        state: &mut State,
    ) -> Facts<'a> {
        let caller = authenticate(&head.headers, &self.accounts, self.anonymous.as_deref());
        let own = caller.and_then(|caller| state.store.find(caller.name()));
        let mut facts = Facts {
            request,
            operation: None,
            members: 0,
            name: "",
            caller,
            target: None,
            touched: Vec::new(),
            effective: own,
            grouped: prefers(&head.headers),
            mailboxes: Vec::new(),
        };
        let Ok(request) = request else { return facts };
        facts.operation = Operation::of(&request.operation);
        facts.name = facts
            .operation
            .map_or(request.operation.name.as_str(), |operation| {
                operation.name()
            });
        facts.members = facts
            .operation
            .and_then(|operation| operation.members(&request.operation))
            .map_or(0, |members| members.len());
        facts.target = request
            .impersonated
            .as_ref()
            .map(|name| state.store.find(name));
        facts.touched = touched(&request.operation, &mut state.store);
        facts.effective = facts.target.unwrap_or(own);
        let mut concerned: Vec<usize> = facts.target.flatten().into_iter().collect();
        concerned.extend(
            facts
                .touched
                .iter()
                .filter(|index| facts.target != Some(Some(**index))),
        );
        if concerned.is_empty() {
            concerned.extend(facts.effective);
        }
        facts.mailboxes = concerned
            .iter()
            .filter_map(|index| state.store.get(*index))
            .map(|mailbox| mailbox.address.clone())
            .collect();
        facts
    }

    fn record(
        &self,
        head: &request::Parts,
        facts: &Facts<'_>,
        number: u64,
        now: tokio::time::Instant,
    ) -> Call {
        let text = |name: &str| {
            head.headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        Call {
            number,
            at: self.since_start(now),
            responded: None,
            operation: facts.name.to_owned(),
            members: facts.members,
            executed: 0,
            throttled: 0,
            payers: Vec::new(),
            mailboxes: facts.mailboxes.clone(),
            anchor: text("x-anchormailbox"),
            client_request_id: text("client-request-id"),
            user_agent: text("user-agent"),
            status: None,
            outcome: String::new(),
        }
    }

    /// What is decided without the body: lost connections, pages, a full server, credentials.
    fn admit_unread<'a>(
        &self,
        head: &request::Parts,
        unreadable: Option<StatusCode>,
        facts: &Facts<'a>,
        injected: Option<&Fault>,
        state: &mut State,
    ) -> Result<&'a Account, Refused> {
        if let Some(Fault::Refused) = injected {
            return Err(Refused::Lost(ConnectionLost::refused()));
        }
        state.counters.report.calls += 1;
        if let Some(refused) = Self::injected_before(injected) {
            return Err(refused);
        }
        if self
            .policy
            .server_calls
            .is_some_and(|limit| state.present >= limit)
        {
            state.counters.throttled("503");
            let mut reply = Reply::new(StatusCode::SERVICE_UNAVAILABLE, "", "503");
            if let Some(wait) = self.policy.retry_after {
                let seconds = self.real(wait).as_millis().div_ceil(1000).max(1);
                reply = reply.with(RETRY_AFTER, u64::try_from(seconds).unwrap_or(u64::MAX));
            }
            return Err(reply.into());
        }
        let refusal = |caller: &&Account| state.refused.get(caller.name()).copied();
        if facts.caller.as_ref().and_then(refusal) == Some(AccountRefusal::Locked) {
            let locked = StatusCode::from_u16(456).unwrap_or(StatusCode::UNAUTHORIZED);
            return Err(Reply::new(locked, "", "456").into());
        }
        let works = |caller: &&Account| refusal(caller) != Some(AccountRefusal::WrongPassword);
        let Some(caller) = facts.caller.filter(works) else {
            return Err(Reply::new(StatusCode::UNAUTHORIZED, "", "401")
                .with(
                    WWW_AUTHENTICATE,
                    HeaderValue::from_static("Basic realm=\"simulator\""),
                )
                .with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
                .into());
        };
        if let Some(status) = unreadable {
            state.counters.violation("message size");
            return Err(Reply::new(status, "", status.as_str()).into());
        }
        if head.method != Method::POST {
            return Err(Reply::new(StatusCode::METHOD_NOT_ALLOWED, "", "405").into());
        }
        Ok(caller)
    }

    /// A call to Autodiscover has its response at once.
    fn answer_autodiscover(&self, facts: &Facts<'_>, state: &mut State) -> Result<(), Refused> {
        let Ok(request) = facts.request else {
            return Ok(());
        };
        let (store, affinity) = (&mut state.store, &state.affinity);
        match autodiscover::respond(&request.operation, store, affinity, &self.policy) {
            Some(response) => Err(Reply::xml(StatusCode::OK, response, "executed").into()),
            None => Ok(()),
        }
    }

    /// What an account that is disabled is told.
    fn refuse_disabled(
        &self,
        caller: &Account,
        operation: Operation,
        facts: &Facts<'_>,
        state: &State,
    ) -> Result<(), Refused> {
        if state.refused.get(caller.name()) != Some(&AccountRefusal::Disabled) {
            return Ok(());
        }
        let failure = Failure::new("ErrorAccountDisabled", "The account is disabled.");
        Err(self.all_members(operation, facts, failure).into())
    }

    /// The faults that befall a call before anything of it is looked at.
    fn injected_before(injected: Option<&Fault>) -> Option<Refused> {
        let reply = match injected? {
            Fault::ResetBefore => return Some(Refused::Lost(ConnectionLost::reset())),
            Fault::Page503 => Reply::new(StatusCode::SERVICE_UNAVAILABLE, PAGE_503, "").with(
                CONTENT_TYPE,
                HeaderValue::from_static("text/html; charset=utf-8"),
            ),
            Fault::Response {
                status,
                headers,
                body,
            } => Reply {
                headers: headers.clone(),
                ..Reply::new(*status, body.clone(), "")
            },
            _ => return None,
        };
        Some(reply.into())
    }

    /// What is decided by the request: whether it is valid and allowed, and the faults that speak
    /// SOAP.
    fn admit(
        &self,
        caller: &Account,
        facts: &Facts<'_>,
        injected: Option<&Fault>,
    ) -> Result<Operation, Refused> {
        if let Err(failure) = facts.request {
            return Err(Reply::fault(failure).into());
        }
        let Some(operation) = facts.operation.filter(|_| facts.members > 0) else {
            let text = format!(
                "The request failed schema validation: {:?} is no operation with members that this server knows.",
                facts.name
            );
            return Err(Reply::fault(&Failure::new("ErrorSchemaValidation", text)).into());
        };
        if facts.target.is_some() && !caller.may_impersonate() {
            let text = "The account does not have permission to impersonate the requested user.";
            return Err(Reply::fault(&Failure::new("ErrorImpersonateUserDenied", text)).into());
        }
        if facts.target == Some(None) {
            return Err(Reply::fault(&Failure::no_mailbox()).into());
        }
        let all = |failure| Err(self.all_members(operation, facts, failure).into());
        match injected {
            Some(Fault::ServerBusy { back_off }) => {
                Err(Reply::fault(&Failure::busy(*back_off)).into())
            }
            Some(Fault::ServerBusyMessages { back_off }) => all(Failure::busy(*back_off)),
            Some(Fault::InnerServerBusy) => all(Failure::inner_busy()),
            Some(Fault::Code(code)) => all(Failure::new(
                code.clone(),
                "The operation failed, as this server was told to say.",
            )),
            _ => Ok(operation),
        }
    }

    /// HTTP 200 with one failure for every member.
    fn all_members(&self, operation: Operation, facts: &Facts<'_>, failure: Failure) -> Reply {
        let outcome = failure.code.clone();
        let response = OperationResponse::all(failure, facts.members);
        let text = soap::envelope(&self.policy, &operation.response(&response));
        Reply::xml(StatusCode::OK, text, &outcome)
    }

    /// What is decided by the budgets. The payers of a call that may run are charged.
    fn charge(
        &self,
        caller: &Account,
        operation: Operation,
        facts: &Facts<'_>,
        state: &mut State,
    ) -> Result<Vec<Payer>, Refused> {
        let number = state.number;
        let payers = self.payers(caller, facts, &state.store);
        if let Some(call) = state.counters.call(number) {
            call.payers.clone_from(&payers);
            let anchor = call.anchor.as_deref().map(str::to_lowercase);
            let grouped = facts.grouped && operation.is_of_subscriptions();
            if facts.target.is_some() && !grouped && anchor.as_ref() != facts.mailboxes.first() {
                state.counters.report.anchor_violations += 1;
            }
        }
        let now = self.policy_time(self.now());
        let refusal = match state
            .budgets
            .arrive(&self.policy, &payers, operation.kind(), now)
        {
            Ok(()) => return Ok(payers),
            Err(refusal) => refusal,
        };
        Err(self.over_budget(operation, facts, refusal, state).into())
    }

    /// The response to a call that some budget has no room for.
    fn over_budget(
        &self,
        operation: Operation,
        facts: &Facts<'_>,
        refusal: Refusal,
        state: &mut State,
    ) -> Reply {
        state.counters.violation(refusal.parameter());
        let wait = match refusal {
            Refusal::Connections(limit) => {
                state.counters.report.connection_violations += 1;
                state.counters.throttled("ErrorExceededConnectionCount");
                return Reply::fault(&Failure::connections("MaxConcurrency", limit));
            }
            Refusal::Hanging(limit) => {
                state.counters.throttled("ErrorExceededConnectionCount");
                return Reply::fault(&Failure::connections("HangingConnectionLimit", limit));
            }
            Refusal::Syncs(limit) | Refusal::Discoveries(limit) => {
                state.counters.throttled("ErrorServerBusy");
                let wait = self.real(KIND_BACK_OFF);
                let failure = Failure::too_many(refusal.parameter(), limit, wait);
                return self.all_members(operation, facts, failure);
            }
            Refusal::Busy(wait) => {
                state.counters.report.calls_during_backoff += 1;
                wait
            }
            Refusal::Time(_, wait) | Refusal::Spacing(wait) => wait,
        };
        state.counters.throttled("ErrorServerBusy");
        let failure = Failure::busy(Some(self.real(wait)));
        let as_fault = match self.policy.busy_response {
            BusyResponse::Fault => true,
            BusyResponse::Messages => false,
            BusyResponse::Either => state.rng.bool(),
        };
        match as_fault {
            true => Reply::fault(&failure),
            false => self.all_members(operation, facts, failure),
        }
    }

    /// Who is charged: the caller, or the impersonated mailbox's copy, or both when the call leaves
    /// that mailbox.
    fn payers(&self, caller: &Account, facts: &Facts<'_>, store: &Store) -> Vec<Payer> {
        let account = Payer::Account(caller.name().to_owned());
        let target = facts.target.flatten();
        let Some(mailbox) = target.and_then(|target| store.get(target)) else {
            return vec![account];
        };
        let copy = match self.policy.impersonation_copy {
            true => Payer::Copy(mailbox.address.clone()),
            false => Payer::Account(mailbox.address.clone()),
        };
        if copy != account && facts.touched.iter().any(|index| Some(*index) != target) {
            vec![copy, account]
        } else {
            vec![copy]
        }
    }
}

/// Counts a call that is executed, and finds the server that does it. Sets the headers that its response has in any case.
fn enter(
    head: &request::Parts,
    operation: Operation,
    effective: Option<usize>,
    headers: &mut HeaderMap,
    state: &mut State,
) -> Route {
    state.present += 1;
    let peak = &mut state.counters.report.peak_server;
    *peak = state.present.max(*peak);
    let route = state.affinity.route(
        &head.headers,
        operation.is_of_subscriptions(),
        |address| state.store.index(address),
        effective,
        &mut state.counters,
    );
    if let Some(cookie) = state.affinity.set_cookie(&route) {
        headers.insert(SET_COOKIE, cookie);
    }
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/xml; charset=utf-8"),
    );
    headers.insert("x-ewshandler", HeaderValue::from_static(operation.name()));
    route
}
