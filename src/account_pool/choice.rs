//! [`Choice`]: finds the account of one attempt, and waits for its permit.

use std::sync::Arc;

use http::Request;
use tokio::time::{Instant, timeout};
use tower::BoxError;

use super::homes::{Found, HomeLookup, Numbers, Seeker};
use super::shared::{Shared, Visit};
use crate::errors::DeadlineElapsed;
use crate::extensions::{Deadline, Priority};
use crate::ledger::{AcquireAny, AcquireError, AcquireRequest, AdmissionSlot, Permit, Requeue};
use crate::principal::{Charge, Charges, MakeCharges, Principal};
use crate::trail::CallTrail;

/// What was found.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) number: usize,
    pub(super) permit: Permit,
    pub(super) visit: Option<Visit>,
}

/// The search for an account.
pub(super) struct Choice<'a, M> {
    shared: &'a Shared<M>,
    /// What each candidate is charged.
    charges: Vec<(usize, Charges)>,
    /// What an account can have open.
    value: Option<Principal>,
    priority: Priority,
    deadline: Option<Deadline>,
    requeue: Requeue,
    /// Whether a layer further out sends the call again: the account of its mailbox may be the one that has refused it.
    was_sent: bool,
    endpoint: Option<http::uri::Authority>,
}

impl<'a, M> Choice<'a, M> {
    /// Asks what the call costs with each of the candidates. `ticket` is the place in the queue of an account that did not work.
    pub(super) fn new<B>(
        shared: &'a Shared<M>,
        request: &mut Request<B>,
        candidates: &[usize],
        ticket: Option<u64>,
    ) -> Self
    where
        M: MakeCharges<B>,
    {
        let mut charges: Vec<(usize, Charges)> = Vec::with_capacity(candidates.len());
        for number in candidates {
            let Some(member) = shared.members.get(*number) else {
                continue;
            };
            request.extensions_mut().insert(member.caller().clone());
            charges.push((*number, shared.make_charges.make_charges(request)));
        }
        let all = charges.iter().flat_map(|(_, charges)| charges.iter());
        let value = all.filter_map(Charge::value).next().cloned();
        let extensions = request.extensions();
        let mut requeue: Requeue = extensions.get().copied().unwrap_or_default();
        let was_sent = requeue.ticket.is_some();
        requeue.ticket = ticket.or(requeue.ticket);
        if charges.len() > 1 {
            // It holds for the account that refused the call, and the ledger knows that one.
            requeue.not_before = None;
        }
        Self {
            shared,
            value: value.filter(|_| !shared.stay.is_zero()),
            priority: extensions.get().copied().unwrap_or_default(),
            deadline: extensions.get().copied(),
            requeue,
            was_sent,
            endpoint: request.uri().authority().cloned(),
            charges,
        }
    }

    /// Waits for an account.
    pub(super) async fn find<B>(mut self, request: &mut Request<B>) -> Result<Chosen, BoxError> {
        if let Some(elapsed) = DeadlineElapsed::of(self.deadline) {
            return Err(elapsed.into());
        }
        let mut wait = Waiting::new(request);
        let (home, seeker, ticket) = self.home(&mut wait).await?;
        self.requeue.ticket = self.requeue.ticket.or(ticket);
        let (first, later) = self.order(&home);

        let mut any = AcquireAny::new(Arc::clone(&self.shared.ledger));
        let at_once = any.offer(first.iter().filter_map(|number| self.ask(*number)));
        let acquired = match at_once {
            Some(acquired) => Ok(acquired),
            None => {
                wait.begin();
                self.wait(any, &later).await
            }
        };
        let (number, permit) = acquired?;
        wait.end(&permit);
        let refused = self.was_sent && !home.contains(&number);
        let state = &self.shared.state;
        let visit = self
            .value
            .map(|value| Visit::begin(state, value, number, refused));
        // The calls that wait for what this one has found look it up now.
        if let Some(seeker) = seeker {
            seeker.found(permit.admission().ticket());
        }
        Ok(Chosen {
            number,
            permit,
            visit,
        })
    }

    /// The accounts that have the mailbox open, and the ticket of the call that has opened it, if it was waited for. No
    /// account, if this call looks for one.
    async fn home(&self, wait: &mut Waiting) -> Result<(Numbers, Option<Seeker>, Found), BoxError> {
        let mut found = None;
        let Some(value) = &self.value else {
            return Ok((Numbers::new(), None, found));
        };
        let is_candidate = |number| self.charges.iter().any(|(known, _)| *known == number);
        loop {
            let found_home = {
                let mut homes = self.shared.state.homes.lock();
                let (stay, now) = (self.shared.stay, Instant::now());
                homes.look_up(value, self.priority, is_candidate, stay, now)
            };
            let mut sought = match found_home {
                HomeLookup::Home(home) => return Ok((home, None, found)),
                HomeLookup::Anywhere(seeker) => return Ok((Numbers::new(), Some(seeker), found)),
                HomeLookup::Sought(sought) => sought,
            };
            wait.begin();
            // An error says that the other call has gone.
            let done = sought.changed();
            if let Some(deadline) = self.deadline {
                let done = deadline.bound(done).await;
                if done.is_none() {
                    return Err(DeadlineElapsed::at(deadline).into());
                }
            } else {
                let _ = done.await;
            }
            found = *sought.borrow();
        }
    }

    /// Whom to ask now, in this order, and whom to ask as well if that takes too long.
    fn order(&self, home: &[usize]) -> (Numbers, Numbers) {
        let mut first: Numbers = home.into();
        self.shared.order(&mut first);
        let others = self.charges.iter().map(|(number, _)| *number);
        let mut later: Numbers = others.filter(|number| !home.contains(number)).collect();
        self.shared.order(&mut later);
        if self.was_sent || first.is_empty() {
            first.append(&mut later);
        }
        let mut all = self.charges.iter().map(|(_, charges)| charges);
        let one = all.next();
        if all.all(|charges| Some(charges) == one) {
            // Somebody else pays, whichever account calls.
            first.truncate(1);
            later.clear();
        }
        (first, later)
    }

    fn ask(&self, number: usize) -> Option<(usize, AcquireRequest)> {
        let mut charges = self.charges.iter();
        let (_, charges) = charges.find(|(known, _)| *known == number)?;
        let request = AcquireRequest::of_call(
            charges.clone(),
            self.endpoint.clone(),
            self.deadline.map(|deadline| deadline.0),
            self.requeue,
            self.priority,
        );
        Some((number, request))
    }

    async fn wait(
        &self,
        mut any: AcquireAny,
        later: &[usize],
    ) -> Result<(usize, Permit), AcquireError> {
        if later.is_empty() {
            return any.await;
        }
        // If the account of its mailbox cannot make the call in time, the others are asked at once.
        if let Ok(Ok(acquired)) = timeout(self.shared.spill_over, &mut any).await {
            return Ok(acquired);
        }
        match any.offer(later.iter().filter_map(|number| self.ask(*number))) {
            Some(acquired) => Ok(acquired),
            None => any.await,
        }
    }
}

/// Tells whoever asks that the attempt waits, and for how long it did.
struct Waiting {
    slot: Option<AdmissionSlot>,
    trail: Option<CallTrail>,
    since: Option<Instant>,
}

impl Waiting {
    fn new<B>(request: &Request<B>) -> Self {
        Self {
            slot: request.extensions().get().cloned(),
            trail: CallTrail::of(request.extensions()).cloned(),
            since: None,
        }
    }

    fn begin(&mut self) {
        if self.since.is_some() {
            return;
        }
        let since = *self.since.insert(Instant::now());
        if let Some(slot) = &self.slot {
            slot.wait();
        }
        if let Some(trail) = &self.trail {
            trail.record(|attempt| attempt.waiting_since = Some(since));
        }
    }

    fn end(&mut self, permit: &Permit) {
        if let Some(slot) = &self.slot {
            slot.fill(permit);
        }
        let admission = permit.admission().clone();
        if let Some(trail) = &self.trail {
            trail.record(|attempt| attempt.admission = Some(admission));
        }
        self.stop();
    }

    fn stop(&mut self) {
        let Some((trail, since)) = self.trail.as_ref().zip(self.since.take()) else {
            return;
        };
        trail.record(|attempt| {
            attempt.waiting_since = None;
            attempt.queued = attempt.queued.saturating_add(since.elapsed());
        });
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.stop();
    }
}
