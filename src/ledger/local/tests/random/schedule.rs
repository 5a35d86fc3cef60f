//! [`Schedule`]: calls that come, wait, run, end and are given up at random.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use super::super::*;
use super::model::{Model, Waits, text};
use crate::extensions::Priority;
use crate::ledger::Contended;
use crate::ledger::local::queue::Stands;

const SUBSCRIPTIONS: Budget = Budget::Custom(1);
const UNLIMITED: Budget = Budget::Custom(2);
/// Behind whatever else there is: calls are told apart by their deadlines.
const FAR: Duration = Duration::from_secs(86_400);

pub(super) struct Schedule {
    rng: fastrand::Rng,
    ledger: Arc<LocalLedger>,
    model: Model,
    max_overtake: Duration,
    /// Whether calls have priorities.
    urgent: bool,
    policy: Vec<(Budget, Limit)>,
    signals: bool,
    tells: bool,
    principals: usize,
    begin: Instant,
    calls: u64,
    waiting: Vec<Call>,
    /// Admitted just now, and not looked at yet.
    fresh: Vec<Fresh>,
    held: Vec<(Permit, AcquireRequest)>,
    kept: Vec<Permit>,
    /// What has ended, and whom its reports speak for.
    ended: Vec<(Admission, AcquireRequest)>,
    grants: u64,
    /// The latest admission that was looked at.
    newest: u64,
}

/// A call in the queue.
struct Call {
    acquire: Acquire,
    request: AcquireRequest,
    woken: Arc<Woken>,
    /// Whether it is polled when it is woken.
    lively: bool,
    /// Whether it was polled each time that it was woken.
    always_lively: bool,
    since: Instant,
    last_poll: Instant,
    /// The number of the last admission when it joined.
    joined_after: u64,
}

/// A call that was admitted.
struct Fresh {
    permit: Permit,
    request: AcquireRequest,
    since: Instant,
    last_poll: Instant,
    joined_after: u64,
    always_lively: bool,
}

impl Fresh {
    fn sequence(&self) -> u64 {
        self.permit.admission().sequence()
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Schedule {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let open = Limit::Distinct {
            limit: rng.u32(1..5),
            idle: secs(rng.u64(1..20)),
        };
        let policy = vec![
            (Budget::Concurrency, Limit::InFlight(rng.u32(1..6))),
            (Budget::FindCount, Limit::InFlight(100)),
            (SUBSCRIPTIONS, Limit::InFlight(rng.u32(1..4))),
            (Budget::OpenMailboxes, open),
            (
                Budget::Requests,
                Limit::PerWindow {
                    limit: rng.u32(1..10),
                    refill: rng.u32(1..10),
                    period: Duration::from_millis(rng.u64(100..20_000)),
                },
            ),
        ];
        let max_overtake = secs(rng.u64(1..60));
        let mut builder = LocalLedger::builder()
            .max_overtake(max_overtake)
            .max_wait(FAR * 10);
        for (budget, limit) in &policy {
            builder = builder.budget(*budget, *limit);
        }
        let mut model = Model::new(&policy, max_overtake);
        if rng.u8(..3) == 0 {
            let budgets = [
                (Budget::Concurrency, 3),
                (Budget::FindCount, 30),
                (Budget::Requests, 4),
            ];
            for (budget, most) in budgets {
                let reserve = rng.u32(1..=most);
                builder = builder.reserve(budget, reserve);
                model.reserves.insert(budget, reserve);
            }
        }
        Self {
            ledger: Arc::new(builder.build()),
            model,
            max_overtake,
            urgent: rng.bool(),
            policy,
            signals: rng.bool(),
            tells: std::env::var_os("EWS_TEST_SEED").is_some(),
            principals: rng.usize(1..4),
            rng,
            begin: Instant::now(),
            calls: 0,
            waiting: Vec::new(),
            fresh: Vec::new(),
            held: Vec::new(),
            kept: Vec::new(),
            ended: Vec::new(),
            grants: 0,
            newest: 0,
        }
    }

    /// Runs it to its end. Returns the number of permits that were granted.
    pub(super) async fn run(mut self) -> u64 {
        self.tell(|| format!("{:?}", self.ledger));
        let steps = self.rng.usize(50..400);
        for _ in 0..steps {
            match self.rng.u8(..100) {
                0..36 => self.ask(),
                36..66 => self.end(),
                66..71 => self.give_up(),
                71..76 => self.change_mind(),
                76..79 => self.set_limit(),
                79..81 => self.close_gate(),
                81..83 => self.report_late(),
                83..85 => drop(self.kept.pop().map(|kept| self.release_part(kept, None))),
                _ => {
                    let longest = [100, 1_000, 3_000, 30_000][self.rng.usize(..4)];
                    let time = Duration::from_millis(self.rng.u64(..longest));
                    self.pass(time).await;
                }
            }
            self.come_to_rest().await;
        }
        self.finish().await
    }

    /// Everything ends, and nothing is left.
    async fn finish(mut self) -> u64 {
        for at in (0..self.waiting.len()).rev() {
            if !self.waiting[at].lively {
                let call = self.waiting.swap_remove(at);
                self.model.left(&call.request, call.since);
            }
        }
        for name in 0..self.principals {
            for (budget, _) in self.policy.clone() {
                self.set(name, budget, None);
            }
        }
        let start = Instant::now();
        loop {
            while let Some(permit) = self.kept.pop() {
                self.release_part(permit, None);
            }
            self.come_to_rest().await;
            while !self.held.is_empty() {
                self.end_one(0, End::Complete);
                self.come_to_rest().await;
            }
            if self.waiting.is_empty() {
                break;
            }
            // A slow bucket takes half an hour for all that wait for it.
            assert!(
                start.elapsed() < secs(4 * 3_600),
                "{:?}",
                self.ledger.snapshot()
            );
            self.pass(secs(1)).await;
        }
        self.pass(secs(3600)).await;
        nothing_left_now(&self.ledger);
        self.grants
    }

    /// Tells what happens, where one schedule is run again.
    fn tell(&self, what: impl FnOnce() -> String) {
        if self.tells {
            println!("{:?}: {}", self.begin.elapsed(), what());
        }
    }

    async fn pass(&mut self, time: Duration) {
        tokio::time::advance(time).await;
        self.yield_now().await;
    }

    fn name(&self, n: usize) -> Principal {
        of(["a", "b", "c"][n])
    }

    fn request(&mut self) -> AcquireRequest {
        let mut charges = Charges::new();
        for _ in 0..[1, 1, 1, 2, 4][self.rng.usize(..5)] {
            let who = self.rng.usize(..self.principals);
            let who = self.name(who);
            let amounts = match self.rng.u8(..13) {
                0..5 => (Budget::Concurrency, 1),
                5 => (Budget::Concurrency, self.rng.u32(1..8)),
                6 => (Budget::FindCount, self.rng.u32(1..250)),
                7 => (SUBSCRIPTIONS, 1),
                8 => (UNLIMITED, 1),
                10..13 => (Budget::Requests, self.rng.u32(0..5)),
                _ => {
                    let value = Principal::mailbox(["u", "v", "w", "x", "y"][self.rng.usize(..5)]);
                    charges.push(Charge::of_value(who, Budget::OpenMailboxes, value));
                    continue;
                }
            };
            charges.push(Charge::new(who, amounts.0, amounts.1));
        }
        self.calls += 1;
        let tell_apart = Duration::from_nanos(self.calls);
        let deadline = match self.rng.u8(..8) {
            0 => Instant::now() + Duration::from_millis(self.rng.u64(1..20_000)) + tell_apart,
            _ => self.begin + FAR + tell_apart,
        };
        let endpoint = (self.rng.u8(..4) == 0).then(host);
        let ticket = match self.rng.u8(..16) {
            0 => self.ended.last().map(|(admission, _)| admission.ticket()),
            1 => Some([0, 1, u64::MAX][self.rng.usize(..3)]),
            _ => None,
        };
        let not_before = (self.rng.u8(..12) == 0)
            .then(|| Instant::now() + Duration::from_millis(self.rng.u64(..10_000)));
        let priority = match self.rng.u8(..if self.urgent { 4 } else { 1 }) {
            0 | 1 => Priority::Normal,
            2 => Priority::Interactive,
            _ => Priority::Bulk,
        };
        AcquireRequest::new(charges)
            .with_priority(priority)
            .with_endpoint(endpoint)
            .with_deadline(deadline)
            .with_ticket(ticket)
            .with_not_before(not_before)
    }

    fn ask(&mut self) {
        if self.waiting.len() > 30 {
            return;
        }
        let request = self.request();
        let now = Instant::now();
        self.tell(|| format!("asks: {}", text(&request)));
        if self.rng.bool() {
            if let Some(permit) = try_now(&self.ledger, &request) {
                self.fresh.push(Fresh {
                    joined_after: permit.admission().sequence(),
                    permit,
                    request,
                    since: now,
                    last_poll: now,
                    always_lively: true,
                });
                return;
            }
        }
        let acquire = self.ledger.clone().acquire(request.clone());
        self.waiting.push(Call {
            acquire,
            request,
            woken: Arc::new(Woken(AtomicBool::new(true))),
            lively: true,
            always_lively: true,
            since: now,
            last_poll: now,
            joined_after: self.ledger.state.lock().last(),
        });
        let at = self.waiting.len() - 1;
        self.poll(at);
        // What has come up by then was done before it joined.
        if let Some(call) = self.waiting.get_mut(at) {
            call.joined_after = self.ledger.state.lock().last();
        }
    }

    /// Looks at what was admitted, in that order.
    fn look_at_fresh(&mut self) {
        self.fresh
            .sort_by_key(|fresh| std::cmp::Reverse(fresh.sequence()));
        let calls = match self.fresh.is_empty() {
            true => Vec::new(),
            false => self.ledger.state.lock().queue.calls(),
        };
        while let Some(fresh) = self.fresh.pop() {
            self.grants += 1;
            self.tell(|| {
                let admission = fresh.permit.admission();
                let (ticket, sequence) = (admission.ticket(), admission.sequence());
                format!("{ticket} granted as {sequence}: {}", text(&fresh.request))
            });
            let unclaimed = calls.iter().filter(|(_, _, stands)| {
                matches!(stands, Stands::Admitted(sequence) if *sequence < fresh.sequence())
            });
            let unclaimed: Vec<_> = unclaimed.map(|(_, request, _)| request).collect();
            let late = fresh.sequence() < self.newest;
            self.newest = self.newest.max(fresh.sequence());
            self.model
                .admitted(&fresh.request, fresh.last_poll, &unclaimed, late);
            self.check_order(&fresh, &calls);
            self.held.push((fresh.permit, fresh.request));
        }
    }

    /// No older call of the same single budget was admitted later or waits still, if it was polled whenever it was woken.
    fn check_order(&self, fresh: &Fresh, calls: &[Waits]) {
        let Some(key) = single(&fresh.request) else {
            return;
        };
        let (ticket, sequence) = (fresh.permit.admission().ticket(), fresh.sequence());
        // One that more urgent ones have overtaken for too long may go before anybody else.
        if self.urgent && fresh.since + self.max_overtake <= Instant::now() {
            return;
        }
        let is_rival = |request: &AcquireRequest, always_lively: bool, joined_after: u64| {
            let as_urgent = request.priority() <= fresh.request.priority();
            let same = single(request).as_ref() == Some(&key);
            always_lively && joined_after < sequence && same && as_urgent
        };
        for later in &self.fresh {
            let is_rival = is_rival(&later.request, later.always_lively, later.joined_after);
            let overtaken = is_rival && later.permit.admission().ticket() < ticket;
            assert!(!overtaken, "{} was overtaken", text(&later.request));
        }
        for rival in &self.waiting {
            if !is_rival(&rival.request, rival.always_lively, rival.joined_after) {
                continue;
            }
            let deadline = rival.request.deadline();
            let overtaken = calls.iter().any(|(older, request, stands)| {
                request.deadline() == deadline
                    && older.ticket < ticket
                    && matches!(stands, Stands::In(_))
            });
            assert!(!overtaken, "{} was overtaken", text(&rival.request));
        }
    }

    fn poll(&mut self, at: usize) {
        let call = &mut self.waiting[at];
        call.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(call.woken.clone());
        let mut cx = Context::from_waker(&waker);
        let polled = Pin::new(&mut call.acquire).poll(&mut cx);
        let last_poll = std::mem::replace(&mut call.last_poll, Instant::now());
        let Poll::Ready(done) = polled else { return };
        let call = self.waiting.swap_remove(at);
        self.model.left(&call.request, call.since);
        match done {
            Ok(permit) => self.fresh.push(Fresh {
                permit,
                request: call.request,
                since: call.since,
                last_poll,
                joined_after: call.joined_after,
                always_lively: call.always_lively,
            }),
            Err(error) => {
                // Only what it asked for itself ends a wait here.
                let deadline = call.request.deadline().unwrap();
                assert!(deadline < self.begin + FAR, "{error}");
                match error {
                    AcquireError::TimedOut { .. } => assert!(deadline <= Instant::now()),
                    AcquireError::GateTooLate { wait, .. } => {
                        assert!(Instant::now() + wait > deadline);
                    }
                    other => panic!("{other}"),
                }
            }
        }
    }

    fn poll_woken(&mut self) {
        let ready = |call: &Call| call.lively && call.woken.0.load(Ordering::Relaxed);
        let mut polls = 0;
        while let Some(at) = self.waiting.iter().position(ready) {
            self.poll(at);
            polls += 1;
            assert!(polls < 10_000, "calls wake each other for ever");
        }
        self.look_at_fresh();
    }

    /// Polls whoever is woken until nobody is. What is left of one operation is gone on with by others.
    async fn come_to_rest(&mut self) {
        let mut rounds = 0;
        loop {
            self.poll_woken();
            if self.ledger.state.lock().left().work == 0 {
                break;
            }
            self.yield_now().await;
            rounds += 1;
            assert!(rounds < 20, "there is always something left to do: {}", {
                let state = self.ledger.state.lock();
                let calls = state
                    .queue
                    .calls()
                    .into_iter()
                    .map(|(t, r, s)| format!("{t:?} {} {s:?}\n", text(&r)));
                calls.collect::<String>() + &format!("{:?}", state.agenda)
            });
        }
        self.check();
    }

    async fn yield_now(&self) {
        // The keeper looks, and is told again.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }

    fn check(&mut self) {
        let known: HashMap<_, _> = self
            .waiting
            .iter()
            .map(|call| (call.request.deadline(), (call.since, call.lively)))
            .collect();
        let calls = {
            let state = self.ledger.state.lock();
            state.queue.calls()
        };
        assert_eq!(calls.len(), self.waiting.len());
        let snapshot = self.ledger.snapshot().principals.into_iter();
        let in_buckets = snapshot.flat_map(|one| {
            let used = one.budgets.into_iter();
            used.map(move |used| {
                (
                    (one.principal.clone(), used.budget),
                    (used.held, used.limit),
                )
            })
        });
        let in_buckets = in_buckets.collect();
        self.model.check(
            &calls,
            |request| known[&request.deadline()].0,
            |request| known[&request.deadline()].1,
            &in_buckets,
        );
    }

    fn end(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.held.len());
        if self.rng.u8(..8) == 0 {
            if let Some(kept) = self.held[at].0.split(SUBSCRIPTIONS) {
                self.kept.push(kept);
                return;
            }
        }
        if self.rng.u8(..4) == 0 {
            let signal = self.signal();
            let (permit, request) = &self.held[at];
            self.tell(|| format!("{} reports {signal:?}", permit.admission().ticket()));
            permit.report(signal);
            self.model.reported(request, signal);
            if self.rng.bool() {
                return;
            }
        }
        let ends = [End::Complete, End::Dropped, End::NotSent, End::NoResponse];
        let end = ends[self.rng.usize(..4)];
        self.end_one(at, end);
    }

    fn end_one(&mut self, at: usize, end: End) {
        let (mut permit, request) = self.held.swap_remove(at);
        permit.set_end(end);
        self.release_part(permit, Some((request, end)));
    }

    fn release_part(&mut self, permit: Permit, call: Option<(AcquireRequest, End)>) {
        let (call, end) = call.map_or((None, End::Dropped), |(call, end)| (Some(call), end));
        let admission = permit.admission().clone();
        self.tell(|| format!("{} ends: {end:?}", admission.ticket()));
        self.model.released(&admission, end, call.as_ref());
        drop(permit);
        let speaks_for = call.unwrap_or_else(|| admission.request().clone());
        self.ended.push((admission, speaks_for));
    }

    fn signal(&mut self) -> Signal {
        let until = Instant::now() + Duration::from_millis(self.rng.u64(..8_000));
        let amount = self.rng.u32(..6);
        match self.rng.u8(..if self.signals { 10 } else { 3 }) {
            0 => Signal::Busy { until },
            8 => Signal::Spent {
                budget: Budget::Requests,
                amount,
            },
            9 => Signal::Remaining {
                budget: Budget::Requests,
                amount,
                until,
            },
            3 => Signal::EndpointBusy { until },
            4 | 5 => Signal::Exceeded(Budget::Concurrency),
            6 => Signal::Exceeded(Budget::OpenMailboxes),
            7 => Signal::Exceeded(Budget::FindCount),
            _ => Signal::Accepted,
        }
    }

    fn report_late(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.ended.len());
        let signal = self.signal();
        let (admission, speaks_for) = &self.ended[at];
        self.tell(|| format!("{} reports late {signal:?}", admission.ticket()));
        self.ledger.report(admission, signal);
        self.model.reported(speaks_for, signal);
    }

    fn give_up(&mut self) {
        if !self.waiting.is_empty() {
            let at = self.rng.usize(..self.waiting.len());
            self.tell(|| format!("given up: {}", text(&self.waiting[at].request)));
            let call = self.waiting.swap_remove(at);
            self.model.left(&call.request, call.since);
        }
    }

    /// A call is not polled any more for some time, or is again.
    fn change_mind(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.waiting.len());
        let call = &mut self.waiting[at];
        call.lively = !call.lively;
        call.always_lively = false;
        let (lively, request) = (call.lively, call.request.clone());
        self.tell(|| format!("lively: {lively}: {}", text(&request)));
        if self.waiting[at].lively {
            self.poll(at);
        }
    }

    fn set_limit(&mut self) {
        let name = self.rng.usize(..self.principals);
        let (budget, limit) = self.policy[self.rng.usize(..self.policy.len())];
        let number = match self.rng.u8(..3) {
            0 => None,
            _ => Some(self.rng.u32(..limit.number() * 2).max(1)),
        };
        self.set(name, budget, number);
    }

    fn set(&mut self, name: usize, budget: Budget, number: Option<u32>) {
        let name = self.name(name);
        self.tell(|| format!("limit {number:?} of {name} {budget:?}"));
        self.ledger.set_limit(&name, budget, number).unwrap();
        self.model.set_limit((name, budget), number);
    }

    fn close_gate(&mut self) {
        let until = Instant::now() + Duration::from_millis(self.rng.u64(..8_000));
        if self.rng.u8(..3) == 0 {
            self.tell(|| format!("endpoint closed for {:?}", until - Instant::now()));
            self.ledger.close_endpoint_gate(&host(), until);
            self.model.close(Contended::Endpoint(host()), until);
        } else {
            let name = self.rng.usize(..self.principals);
            let name = self.name(name);
            self.tell(|| format!("{name} closed for {:?}", until - Instant::now()));
            self.ledger.close_gate(&name, until);
            self.model.close(Contended::Gate(name), until);
        }
    }
}

/// The budget of a call that draws on that one only, and waits for nothing else.
fn single(request: &AcquireRequest) -> Option<(Principal, Budget)> {
    let is_plain = request.charges().len() == 1
        && request.charges()[0].value().is_none()
        && request.endpoint().is_none()
        && request.not_before().is_none();
    let charge = request.charges().first().filter(|_| is_plain)?;
    Some((charge.principal().clone(), charge.budget()))
}
