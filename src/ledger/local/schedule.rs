//! Who goes next: [`State`] works off what a change has brought up.
//!
//! A waiting call holds nothing and stands in one list. Only the heads of lists are looked at: each is admitted, moves to the list
//! of what holds it back now, or stays, and then so do those behind it. The work under one lock is bounded: what is left is gone on with by
//! the next operation, and the calls at the head of the list are woken to see to it.

use std::task::Waker;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::agenda::Work;
use super::blocked::{Blocked, by_principal};
use super::clock::{Clock, after};
use super::config::Config;
use super::meter::{Position, Stage};
use super::queue::{CLAIM, Look};
use super::state::State;
use crate::ledger::{AcquireRequest, Admission, Contended, End};
use crate::principal::Principal;

/// How many waiting calls are looked at in one operation.
const LOOKS: usize = 64;

/// How many calls may wait for a place in flight while others that came later wait for the same bucket.
///
/// What is in flight and what is in a bucket run out in turns, with each call where a call's cost is known after the fact. All that wait
/// would go from one list to the other and back each time.
const SCOUTS: usize = 8;

/// How many turns of one list in a row may be missed before whoever is polled first takes the next one.
const MISSES: u32 = 64;

/// How long a turn is held for its call, after some in a row that were missed there. Half as long each time: calls that are not
/// polled cost those behind them two seconds in all, and these keep their order meanwhile.
fn hold(misses: u32) -> Duration {
    (CLAIM / (1 << misses.min(10))).max(Duration::from_millis(1))
}

/// What comes of a call that asks for a permit.
#[derive(Debug)]
pub(super) enum Join {
    Admitted(Admission),
    Waits(Position),
    /// The number of calls that wait already.
    Full(usize),
}

/// What came of a look at a waiting call.
#[derive(Debug)]
enum WaiterTurn {
    /// Admitted, or moved to another list.
    Left,
    /// Held back by the same thing still.
    Stays(Option<Instant>),
}

/// Where a call that was looked at may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moves {
    All,
    /// The head of a list stays there while the principal's gate is closed: all behind it would have to go with it.
    NotToGate,
}

/// Whether `at` is a list of the principal whose gate is `gate`.
fn is_behind(gate: &Contended, at: &Contended) -> bool {
    matches!((gate, at), (Contended::Gate(one), Contended::Budget(other, _)) if one == other)
}

impl State {
    /// Works off what has come up. Each way into the state that changes something ends with it.
    pub(super) fn settle(&mut self, clock: &mut Clock, config: &Config) {
        self.take_back_overdue(clock, config);
        // Many gates may open at the same time. What is due still is the keeper's, or of the calls at the heads of the lists.
        for _ in 0..LOOKS {
            let Some(contended) = self.alarm_due(clock) else {
                break;
            };
            self.look_again(&contended);
        }
        let mut looks = LOOKS;
        while let Some(work) = self.agenda.work.pop_front() {
            #[cfg(test)]
            {
                self.agenda.looked += 1;
            }
            let done = match &work {
                Work::Principal(principal) => {
                    self.pump_principal(principal, &mut looks, clock, config)
                }
                Work::Endpoint(authority) => {
                    let contended = Contended::Endpoint(authority.clone());
                    self.pump(&[contended], &mut looks, clock, config)
                }
                Work::Value(contended, value) => {
                    self.pump_value(contended, value, &mut looks, clock, config)
                }
            };
            // Behind what else has come up: one long list holds up nobody else's.
            if !done {
                self.agenda.work.push_back(work);
                return;
            }
        }
    }

    /// Takes back what was not picked up in time, in portions: what is due still is the keeper's, or of the calls at the heads of the lists.
    fn take_back_overdue(&mut self, clock: &mut Clock, config: &Config) {
        if self.queue.is_empty() {
            return;
        }
        let now = clock.now();
        for _ in 0..LOOKS {
            let Some(due) = self.queue.pop_unclaimed(now) else {
                return;
            };
            if let Some(admission) = self.queue.revoke(due) {
                self.agenda.missed(&admission, &self.queue);
                self.give_back(&admission, End::NotSent, clock, config);
                self.tidy_all(admission.charges(), clock);
            }
        }
    }

    /// A list that has to be looked at by now, if there is one.
    fn alarm_due(&mut self, clock: &mut Clock) -> Option<Contended> {
        match self.queue.is_empty() {
            true => None,
            false => self.queue.alarm_due(clock.now()),
        }
    }

    /// Whether a keeper has to be started. The first calls of a list see to it themselves, if they are polled: only with more
    /// than those is one needed.
    pub(super) fn wants_keeper(&mut self, now: Instant) -> bool {
        let wants = self.keeper.is_none() && !self.queue.is_short();
        if wants {
            self.keeper = Some(now);
        }
        wants
    }

    /// Does what is due. Returns when the keeper has to look again, if it is needed still.
    pub(super) fn keep(&mut self, now: Instant, config: &Config) -> Option<Instant> {
        self.settle(&mut Clock::at(now), config);
        let next = match self.agenda.work.is_empty() {
            true => self.queue.next_look(now),
            false => now,
        };
        self.keeper = (!self.queue.is_empty()).then_some(next);
        self.keeper
    }

    /// Whether the keeper has to look sooner than it would.
    pub(super) fn hurries_keeper(&mut self) -> bool {
        let Some(until) = self.keeper else {
            return false;
        };
        if !self.agenda.work.is_empty() {
            return true;
        }
        let sooner = self.queue.next_alarm().filter(|next| *next < until);
        // It is told once.
        self.keeper = sooner.or(self.keeper);
        sooner.is_some()
    }

    fn wake_for_rest(&mut self, contended: &Contended) {
        self.queue.wake_first(contended);
    }

    fn pump_principal(
        &mut self,
        principal: &Principal,
        looks: &mut usize,
        clock: &mut Clock,
        config: &Config,
    ) -> bool {
        let lists = self.lists_of(principal);
        for list in lists.iter().filter(|list| config.waits_for_value(list)) {
            self.make_room_for_aged(list, clock, config);
        }
        self.pump(&lists, looks, clock, config)
    }

    /// Admits what can be admitted at the heads of these lists, the call that came first before the others. Returns false if
    /// there is more to do than one operation may.
    fn pump(
        &mut self,
        lists: &[Contended],
        looks: &mut usize,
        clock: &mut Clock,
        config: &Config,
    ) -> bool {
        for list in lists {
            self.promote_overtaken(list, clock, config);
        }
        let mut stays: SmallVec<[bool; 4]> = SmallVec::from_elem(false, lists.len());
        loop {
            let heads = lists.iter().enumerate().filter(|(at, _)| !stays[*at]);
            let first = heads
                .filter_map(|(at, list)| Some((self.queue.first(list)?, at)))
                .min();
            let Some((position, at)) = first else {
                return true;
            };
            if *looks == 0 {
                self.wake_for_rest(&lists[at]);
                return false;
            }
            *looks -= 1;
            let turn = self.try_waiter(position, &lists[at], Moves::NotToGate, clock, config);
            if let WaiterTurn::Stays(until) = turn {
                stays[at] = true;
                self.arm(&lists[at], until, clock, config);
            }
        }
    }

    /// A call that more urgent ones have overtaken for too long is among them from now on, one at a time.
    fn promote_overtaken(&mut self, list: &Contended, clock: &mut Clock, config: &Config) {
        let Some((position, since)) = self.queue.overtaken(list) else {
            return;
        };
        let now = clock.now();
        let request = self.queue.request(position).cloned();
        let Some(request) = request.filter(|_| config.is_aged(since, now)) else {
            return;
        };
        let blocked = Blocked {
            contended: list.clone(),
            until: None,
            value: self.queue.value(position).cloned(),
        };
        self.agenda.not_starved(position);
        self.unpark(&request, position, false);
        let position = self.queue.promote(position, list, now);
        self.park(&request, position, blocked, clock, config);
    }

    /// Looks at the calls that need `value`. Each leaves the list, or it is the last one that is looked at. Returns false if there
    /// is more to do than one operation may.
    fn pump_value(
        &mut self,
        contended: &Contended,
        value: &Principal,
        looks: &mut usize,
        clock: &mut Clock,
        config: &Config,
    ) -> bool {
        while let Some(position) = self.queue.first_of(contended, value) {
            if *looks == 0 {
                self.wake_for_rest(contended);
                return false;
            }
            *looks -= 1;
            // Behind a closed gate it goes to those that wait there: nobody would look at it here once the gate opens.
            if let WaiterTurn::Stays(_) =
                self.try_waiter(position, contended, Moves::All, clock, config)
            {
                break;
            }
        }
        self.agenda
            .values
            .remove(&(contended.clone(), value.clone()));
        true
    }

    /// Admits the call at `position` of the list `at`, or moves it to where it belongs now.
    fn try_waiter(
        &mut self,
        position: Position,
        at: &Contended,
        moves: Moves,
        clock: &mut Clock,
        config: &Config,
    ) -> WaiterTurn {
        #[cfg(test)]
        {
            self.agenda.looked += 1;
        }
        let Some(request) = self.queue.request_now(position) else {
            debug_assert!(false, "a list names a call that does not wait");
            return WaiterTurn::Stays(None);
        };
        match self.blocked(&request, position, clock, config) {
            Some(blocked)
                if blocked.contended == *at
                    && blocked.value.is_some()
                    && blocked.value.as_ref() != self.queue.value(position) =>
            {
                // It has what it needed first, and needs another value now: it holds up nobody who needs the first.
                self.queue.unpark(position);
                self.queue.park(position, blocked.contended, blocked.value);
            }
            Some(blocked)
                if blocked.contended == *at
                    || moves == Moves::NotToGate && is_behind(&blocked.contended, at)
                    || self.sends_no_more(at, &blocked.contended, config) =>
            {
                return WaiterTurn::Stays(blocked.until);
            }
            Some(blocked) => {
                let fills = config.stage(&blocked.contended) == Some(Stage::Windows);
                self.unpark(&request, position, false);
                self.park(&request, position, blocked, clock, config);
                if fills {
                    // Nobody overtakes it there, and it may take hours: others are not to wait with it.
                    self.agenda.not_starved(position);
                } else if self.agenda.is_starved(position) {
                    self.agenda.look_past_starved();
                } else if request.charges().len() > 1
                    && !self.agenda.has_starved()
                    && self.is_aged(position, clock, config)
                {
                    self.agenda.starve(position, &request, config);
                }
            }
            // The first that is polled goes. Those that come too late stand where they stood.
            None if self.agenda.misses(at) >= MISSES => {
                self.unpark(&request, position, false);
                self.agenda.not_starved(position);
                self.queue.call_out(position);
            }
            None => self.admit_waiter(request, position, at, clock, config),
        }
        WaiterTurn::Left
    }

    /// Admits the call at `position` of the list `at`, and holds its admission for it.
    fn admit_waiter(
        &mut self,
        request: AcquireRequest,
        position: Position,
        at: &Contended,
        clock: &mut Clock,
        config: &Config,
    ) {
        let hold = hold(self.agenda.misses(at));
        self.unpark(&request, position, true);
        self.agenda.not_starved(position);
        // The queue's own is dropped first: nobody shares it then, and it is not copied.
        drop(self.queue.take_request(position));
        let admission = self.admit(request, position, clock, config);
        for (principal, _) in by_principal(admission.charges()).skip(1) {
            // Those that wait there watch whether it is picked up.
            self.agenda.principal(principal);
        }
        self.queue.hand_over(position, admission, clock.now(), hold);
    }

    /// Whether the head of the list `at` of a bucket stays there though it waits for a place in flight: enough others do. It is looked at
    /// with each change of its principal.
    fn sends_no_more(&self, at: &Contended, to: &Contended, config: &Config) -> bool {
        config.stage(at) == Some(Stage::Windows)
            && config.stage(to) == Some(Stage::Amounts)
            && at.principal() == to.principal()
            && self.queue.count(to) >= SCOUTS
    }

    fn is_aged(&self, position: Position, clock: &mut Clock, config: &Config) -> bool {
        self.queue
            .since(position)
            .is_some_and(|since| config.is_aged(since, clock.now()))
    }

    /// Puts a call into the list of what holds it back.
    fn park(
        &mut self,
        request: &AcquireRequest,
        position: Position,
        blocked: Blocked,
        clock: &mut Clock,
        config: &Config,
    ) {
        let Blocked {
            contended,
            until,
            value,
        } = blocked;
        self.queue.park(position, contended.clone(), value);
        self.parked(request, position, &contended, clock, config);
        self.arm_one(position, &contended, until, clock, config);
    }

    fn arm_one(
        &mut self,
        position: Position,
        contended: &Contended,
        until: Option<Instant>,
        clock: &mut Clock,
        config: &Config,
    ) {
        match (contended, until) {
            (Contended::Time, Some(until)) => self.queue.look_at(position, until),
            _ => self.arm(contended, until, clock, config),
        }
    }

    fn unpark(&mut self, request: &AcquireRequest, position: Position, keep_places: bool) {
        if let Some(contended) = self.queue.unpark(position) {
            if !self.queue.has(&contended) {
                self.agenda.emptied(&contended);
            }
            self.unparked(request, position, &contended, keep_places);
        }
    }

    /// Gives the first calls of a list the time at which they look again.
    fn arm(
        &mut self,
        contended: &Contended,
        until: Option<Instant>,
        clock: &mut Clock,
        config: &Config,
    ) {
        // Those that wait for a value can age, and then room is made for them.
        let ages = config.waits_for_value(contended);
        if !ages && until.is_none() && !self.queue.is_short() {
            return;
        }
        let first = self.queue.first(contended).filter(|_| ages);
        let since = first.and_then(|first| self.queue.since(first));
        let aged = since
            .map(|since| after(since, config.max_overtake))
            .filter(|aged| *aged > clock.now());
        let until = [until, aged].into_iter().flatten().min();
        self.queue.arm(contended, until);
    }

    /// Adds a new call to the queue, or admits it at once.
    pub(super) fn join(&mut self, request: AcquireRequest, now: Instant, config: &Config) -> Join {
        let mut clock = Clock::at(now);
        self.sweep_for(&request, &mut clock);
        self.settle(&mut clock, config);
        let ticket = self.ticket(&request);
        let position = Position {
            priority: request.priority(),
            ticket,
            key: self.queue.next_key(),
        };
        match self.blocked(&request, position, &mut clock, config) {
            None => {
                self.came(ticket);
                let admission = self.admit(request, position, &mut clock, config);
                self.settle(&mut clock, config);
                Join::Admitted(admission)
            }
            Some(_) if self.queue.len() >= config.max_queued => {
                self.tidy_all(request.charges(), &mut clock);
                Join::Full(self.queue.len())
            }
            Some(blocked) => {
                self.came(ticket);
                let contended = blocked.contended.clone();
                self.queue.join(request.clone(), position, now);
                self.park(&request, position, blocked, &mut clock, config);
                // It may stand behind a head whose time has come just now; what is in flight comes back by itself.
                if config.stage(&contended) != Some(Stage::Amounts) {
                    self.look_again(&contended);
                }
                self.settle(&mut clock, config);
                Join::Waits(position)
            }
        }
    }

    /// What holds calls back there may have ended by time.
    fn look_again(&mut self, contended: &Contended) {
        match contended {
            Contended::Endpoint(authority) => self.agenda.endpoint(authority),
            Contended::Gate(principal) | Contended::Budget(principal, _) => {
                self.agenda.principal(principal);
            }
            Contended::Time => {}
        }
    }

    /// What has become of the call at `position`, and when the gate opens that it waits for. Looks again at its list when its time
    /// has come.
    pub(super) fn look(
        &mut self,
        position: Position,
        waker: &Waker,
        now: Instant,
        config: &Config,
    ) -> (Look, Option<Instant>) {
        let mut clock = Clock::at(now);
        let position = self.queue.current(position);
        // Before it could be taken back: a call that is late still has its turn.
        if let Some(admission) = self.queue.claim(position) {
            self.agenda.picked_up(&admission);
            self.settle(&mut clock, config);
            return (Look::Admitted(admission), None);
        }
        let due = match self.queue.waits_for(position) {
            Some((contended, Some(until))) if until <= now => Some(contended.clone()),
            _ => None,
        };
        if let Some(contended) = due {
            // Timers that were set for it are set anew where they are needed still.
            self.queue.disarm(position);
            match contended {
                Contended::Time => {
                    self.try_waiter(position, &Contended::Time, Moves::All, &mut clock, config);
                }
                other => self.look_again(&other),
            }
        }
        self.settle(&mut clock, config);
        let look = match self.queue.look(position, waker) {
            Look::Absent => self.rejoin(position, waker, &mut clock, config),
            Look::Admitted(admission) => {
                self.agenda.picked_up(&admission);
                Look::Admitted(admission)
            }
            look @ Look::Waits { .. } => look,
        };
        self.with_gate(look, now)
    }

    /// What has become of a call that has joined just now.
    pub(super) fn look_once(
        &mut self,
        position: Position,
        waker: &Waker,
        now: Instant,
    ) -> (Look, Option<Instant>) {
        let look = self.queue.look(position, waker);
        self.with_gate(look, now)
    }

    fn with_gate(&mut self, look: Look, now: Instant) -> (Look, Option<Instant>) {
        let gate = match &look {
            Look::Waits { contended, .. } => self.gate_until(contended, now),
            Look::Admitted(_) | Look::Absent => None,
        };
        (look, gate)
    }

    /// The call was away when it was admitted: it asks again, with its old place.
    fn rejoin(
        &mut self,
        position: Position,
        waker: &Waker,
        clock: &mut Clock,
        config: &Config,
    ) -> Look {
        let Some(request) = self.queue.request(position).cloned() else {
            debug_assert!(false, "a call that waits is not in the queue");
            return Look::Absent;
        };
        match self.blocked(&request, position, clock, config) {
            None => {
                self.queue.remove(position);
                let admission = self.admit(request, position, clock, config);
                self.agenda.picked_up(&admission);
                self.settle(clock, config);
                Look::Admitted(admission)
            }
            Some(blocked) => {
                self.park(&request, position, blocked, clock, config);
                self.settle(clock, config);
                self.queue.look(position, waker)
            }
        }
    }

    /// Takes a call out of the queue, or gives back what it was admitted to meanwhile.
    pub(super) fn leave(&mut self, position: Position, now: Instant, config: &Config) {
        let position = self.queue.current(position);
        let Some(request) = self.queue.request(position).cloned() else {
            return;
        };
        let mut clock = Clock::at(now);
        let contended = self.queue.waits_for(position).map(|(c, _)| c.clone());
        self.agenda.not_starved(position);
        self.unpark(&request, position, false);
        match self.queue.remove(position) {
            Some(admission) => self.release(&admission, End::NotSent, config),
            None => {
                if let Some(contended) = contended {
                    self.look_again(&contended);
                }
                self.settle(&mut clock, config);
                self.tidy_all(request.charges(), &mut clock);
            }
        }
    }
}
