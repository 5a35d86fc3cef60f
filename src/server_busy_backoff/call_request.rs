//! [`CallRequest`]: the request of one call, and who may hold it back: the memory of refused access, closed gates, and the
//! budget of retries.

use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::{Request, StatusCode, response};
use tokio::time::Instant;

use super::classify::{Classify, Refusal, RequestClass};
use super::config::{Config, Shared};
use super::endpoint::endpoint_of;
use super::gate::{acquire_request, untested};
use super::moved::MailboxMoved;
use super::report::Listener;
use super::retry_budget::Retry;
use crate::errors::{AccessDenied, DeadlineElapsed};
use crate::extensions::{Caller, Deadline};
use crate::ledger::{AcquireError, AcquireRequest, AdmissionSlot, Permit, Requeue};
#[cfg(feature = "ews")]
use crate::retry::CredentialsChanged;
use crate::retry::denials::Leave;
use crate::trail::{CallTrail, ResendCount, RetryAttempt};

/// What each attempt of one call sends, and what was learnt of its place in queues.
pub(super) struct CallRequest<C, B> {
    request: Request<B>,
    shared: Arc<Shared<C>>,
    /// The deadline that the request came with.
    given_deadline: Option<Deadline>,
    deadline: Deadline,
    /// Where the admission of an attempt is told.
    slot: AdmissionSlot,
    /// The request came without a slot.
    owns_slot: bool,
    /// The ticket of the last attempt in the queue of the ledger.
    ledger_ticket: Option<u64>,
    /// The same for the queue of the layer's own gates.
    gate_ticket: Option<u64>,
    /// The hook was asked for another endpoint.
    asked_for_endpoint: bool,
    /// It is sent to see whether a refusal of access still stands.
    is_probe: bool,
}

impl<C, B> CallRequest<C, B>
where
    C: Classify<B>,
    B: Clone,
{
    pub(super) fn new(request: Request<B>, shared: Arc<Shared<C>>) -> Self {
        let given_deadline = request.extensions().get::<Deadline>().copied();
        let deadline = given_deadline.unwrap_or_else(|| Deadline::within(shared.config.deadline));
        let given_slot = request.extensions().get::<AdmissionSlot>();
        Self {
            given_deadline,
            deadline,
            owns_slot: given_slot.is_none(),
            slot: given_slot.cloned().unwrap_or_default(),
            ledger_ticket: None,
            gate_ticket: None,
            asked_for_endpoint: false,
            is_probe: false,
            request,
            shared,
        }
    }

    pub(super) fn get(&self) -> &Request<B> {
        &self.request
    }

    pub(super) fn config(&self) -> &Config {
        &self.shared.config
    }

    pub(super) fn classifier(&self) -> &C {
        &self.shared.classifier
    }

    pub(super) fn rng(&self) -> fastrand::Rng {
        self.shared.rng()
    }

    pub(super) fn slot(&self) -> &AdmissionSlot {
        &self.slot
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline.0
    }

    /// Fails if the deadline that the request came with has passed.
    pub(super) fn check_deadline(&self) -> Result<(), DeadlineElapsed> {
        DeadlineElapsed::of(self.given_deadline).map_or(Ok(()), Err)
    }

    /// Fails if the server has refused the same access a short time ago.
    pub(super) fn check_access(&mut self) -> Result<(), AccessDenied> {
        let (access, credentials) = (&self.shared.config.access, &self.shared.config.credentials);
        if self.is_probe || !(access.is_used() || credentials.is_used()) {
            return Ok(());
        }
        let Some(asks) = self.classifier().access(&self.request) else {
            return Ok(());
        };
        let now = Instant::now();
        let credential = credentials.of(&self.request);
        let by_credential = credential.map(|credential| credentials.check(credential, now));
        let asked = access.asked(&self.request, asks);
        let by_access = asked.map(|asked| access.check(&asked, now));
        for leave in [by_credential, by_access].into_iter().flatten() {
            self.is_probe |= leave? == Leave::Probe;
        }
        Ok(())
    }

    /// Remembers that the server has refused access, or granted it, to an attempt that was sent at `sent`.
    pub(super) fn note_access(&self, head: &mut response::Parts, sent: Instant) {
        // Who has put on other credentials knows.
        if head.extensions.get::<AccessDenied>().is_some() {
            return;
        }
        let (access, credentials) = (&self.config().access, &self.config().credentials);
        let asks = || self.classifier().access(&self.request);
        match head.status {
            StatusCode::UNAUTHORIZED if asks().is_some() => {
                let credential = credentials.of(&self.request);
                let denied = credentials.refused(credential, sent, Instant::now());
                head.extensions.insert(denied);
            }
            StatusCode::FORBIDDEN => {
                let asked = asks().and_then(|asks| access.asked(&self.request, asks));
                if let Some(asked) = asked {
                    let denied = access.refused(&asked, sent, Instant::now());
                    head.extensions.insert(denied);
                }
            }
            status if status.is_success() => {
                if let Some(credential) = credentials.of(&self.request) {
                    credentials.granted(credential);
                }
                let asks = access.is_used().then(asks).flatten();
                if let Some(asked) = asks.and_then(|asks| access.asked(&self.request, asks)) {
                    access.granted(&asked);
                }
            }
            _ => {}
        }
    }

    /// Returns what a 401 means after which there are other credentials: the next attempt has them.
    pub(super) fn credentials_changed(&self, head: &mut response::Parts) -> Option<Refusal> {
        #[cfg(feature = "ews")]
        if head.extensions.remove::<CredentialsChanged>().is_some() {
            let mut refusal = Refusal::new(head.status.as_str().to_owned()).max_retries(1);
            refusal.about_caller = true;
            return Some(refusal);
        }
        let _ = head;
        None
    }

    /// Remembers that the server has let in whoever the request impersonates.
    pub(super) fn note_granted(&self, class: &RequestClass) {
        if let Some(who) = class.impersonates {
            self.config().granted.note(self.impersonation(who));
        }
    }

    /// Returns whether the server has let it in before.
    pub(super) fn was_granted(&self, class: &RequestClass) -> bool {
        class
            .impersonates
            .is_some_and(|who| self.config().granted.knows(self.impersonation(who)))
    }

    /// Returns what is remembered of the account that impersonates `who`.
    fn impersonation(&self, who: u64) -> u64 {
        let account = self.request.extensions().get::<Caller>().map(Caller::name);
        let endpoint = endpoint_of(&self.request);
        self.config().granted.key((endpoint.as_str(), account, who))
    }

    /// Returns what to tell of a refusal that names another server than the one that the request was sent to.
    pub(super) fn moved(&self, refusal: &Refusal) -> Option<MailboxMoved> {
        let location = refusal.moved.as_ref()?;
        let endpoint = self.request.uri();
        let location = location.as_deref();
        if location.is_some_and(|location| location.authority() == endpoint.authority()) {
            return None;
        }
        let access = self.classifier().access(&self.request);
        Some(MailboxMoved {
            reason: (*refusal.reason).into(),
            mailbox: access.and_then(|access| access.mailbox),
            caller: self.request.extensions().get::<Caller>().cloned(),
            endpoint: endpoint.clone(),
            location: location.cloned(),
        })
    }

    /// Returns whether the caller can be asked where the mailbox is. It is asked once for each call.
    pub(super) fn can_move(&self) -> bool {
        self.config().find_endpoint.is_some() && !self.asked_for_endpoint
    }

    /// Asks the caller where the mailbox is, and has further attempts go there. Returns whether it knew.
    pub(super) async fn move_on(&mut self, moved: MailboxMoved) -> bool {
        self.asked_for_endpoint = true;
        let Some(find) = &self.shared.config.find_endpoint else {
            return false;
        };
        let found = self.deadline.bound(find.find(moved)).await.flatten();
        let Some(endpoint) = found.filter(|endpoint| endpoint.authority().is_some()) else {
            return false;
        };
        *self.request.uri_mut() = endpoint;
        self.request.headers_mut().remove(HOST);
        true
    }

    /// Waits at the layer's own gates. Returns how long, too. `first` is the attempt that waits there, if the call was not sent
    /// yet: then it does not back off but queue.
    pub(super) async fn pass_gates(
        &mut self,
        first: Option<CallTrail>,
    ) -> Result<(Permit, Duration), AcquireError> {
        let begin = Instant::now();
        if let Some(first) = &first {
            first.record(|attempt| attempt.waiting_since = Some(begin));
        }
        let passed = self.config().gates.pass(self.acquire_request());
        let passed = passed.await;
        let waited = begin.elapsed();
        if let Some(first) = &first {
            first.record(|attempt| {
                attempt.waiting_since = None;
                attempt.queued = waited;
            });
        }
        let permit = passed?;
        self.gate_ticket = Some(permit.admission().ticket());
        Ok((permit, waited))
    }

    /// What the layer's own gates are asked for.
    fn acquire_request(&self) -> AcquireRequest {
        acquire_request(
            self.classifier(),
            &self.request,
            self.deadline.0,
            self.gate_ticket,
        )
    }

    /// Returns who is told of a refusal: the ledger that the attempt was charged to, or the gates that gave it `permit`.
    pub(super) fn listener(&self, permit: Option<&Permit>) -> Option<Listener> {
        let ledger = self.config().ledger.as_ref();
        let charged = ledger.and_then(|ledger| {
            let admission = self.slot.admission_of(ledger)?;
            Some(Listener::Ledger(Arc::clone(ledger), admission))
        });
        charged.or_else(|| {
            let gates = Arc::clone(&self.config().gates);
            Some(Listener::Gates(gates, permit?.admission().clone()))
        })
    }

    /// The layer's own gates, for an attempt that had no permit since no gate was closed before.
    pub(super) fn own_gates(&self) -> Listener {
        let gates = Arc::clone(&self.config().gates);
        Listener::Gates(gates, untested(self.acquire_request()))
    }

    /// Returns what a retry draws that nobody holds back.
    pub(super) fn retry(&self) -> Retry {
        let principal = self.classifier().principal(&self.request);
        let budget = &self.config().retry_budget;
        budget.retry(endpoint_of(&self.request), principal)
    }

    /// Begins an attempt after the first one. It keeps the ticket of the one before.
    pub(super) fn begin_retry(&mut self) {
        self.ledger_ticket = self.slot.ticket().or(self.ledger_ticket);
        self.slot.begin_attempt();
    }

    /// Returns the request of the first attempt.
    pub(super) fn first(&self, trail: Option<&CallTrail>) -> Request<B> {
        let mut request = self.request.clone();
        let extensions = request.extensions_mut();
        if self.given_deadline.is_none() {
            extensions.insert(self.deadline);
        }
        if let Some(trail) = trail {
            extensions.insert(trail.clone());
        }
        if self.owns_slot {
            extensions.insert(self.slot.clone());
        }
        request
    }

    /// Returns the request of an attempt after `sent_before` others, which a ledger holds back until `held_until`.
    pub(super) fn again(
        &self,
        trail: Option<&CallTrail>,
        held_until: Option<Instant>,
        sent_before: u32,
    ) -> Request<B> {
        let mut request = self.first(trail);
        let requeue = Requeue::new().ticket(self.ledger_ticket);
        let extensions = request.extensions_mut();
        extensions.insert(requeue.not_before(held_until));
        extensions.insert(RetryAttempt);
        extensions.insert(ResendCount::new(sent_before));
        request
    }
}
