//! What an operation looks at while many calls wait: counted, so that no machine is too slow for it.

use std::task::{Context, Poll, Waker};

use tokio::runtime::Runtime;

use super::*;
use crate::principal::counted;

/// How many calls wait.
const MANY: usize = 20_000;
/// The most that one operation may look at: the bound of the schedule, with the lists that are taken up for it, and twice for a
/// call that is polled when its timer is due.
const LOOKS: usize = 150;
/// The most comparisons and hashes of principals of one operation: some for each look.
const STEPS: u64 = 5_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crowded {
    Plain,
    Gated,
    Aged,
    /// All mailboxes are open, and all need the same one more.
    FullSame,
    /// All mailboxes are open, and each needs another.
    FullEach,
    /// The bucket is empty, and all places are held.
    Empty,
}

const STATES: [Crowded; 6] = [
    Crowded::Plain,
    Crowded::Gated,
    Crowded::Aged,
    Crowded::FullSame,
    Crowded::FullEach,
    Crowded::Empty,
];

/// A ledger whose calls are polled by hand.
struct Crowd {
    runtime: Runtime,
    ledger: Arc<LocalLedger>,
    calls: Vec<Option<Acquire>>,
    held: Vec<Permit>,
}

/// What operations came to at the most.
#[derive(Debug, Default)]
struct Most {
    looks: usize,
    steps: u64,
}

impl Crowded {
    fn request(self, number: usize) -> AcquireRequest {
        match self {
            Self::Plain | Self::Gated => draw("svc"),
            Self::Empty => several([
                ("svc", Budget::Concurrency, 1),
                ("svc", Budget::Requests, 1),
            ]),
            Self::FullSame => opens("svc", "one-more@contoso.com"),
            Self::Aged | Self::FullEach => opens("svc", &format!("user{number}@contoso.com")),
        }
    }
}

impl Crowd {
    fn new(state: Crowded) -> Self {
        let mut ledger = LocalLedger::builder()
            .budget(Budget::Concurrency, Limit::InFlight(27))
            .max_wait(secs(24 * 3600));
        if state == Crowded::Empty {
            ledger = ledger.budget(Budget::Requests, Limit::per_window(27, secs(27)));
        } else if !matches!(state, Crowded::Plain | Crowded::Gated) {
            let open = Limit::Distinct {
                limit: 16,
                idle: secs(1),
            };
            ledger = ledger.budget(Budget::OpenMailboxes, open);
        }
        let mut crowd = Self::empty(ledger.build());
        crowd.fill(state);
        crowd
    }

    fn empty(ledger: LocalLedger) -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        Self {
            runtime,
            ledger: Arc::new(ledger),
            calls: Vec::new(),
            held: Vec::new(),
        }
    }

    fn fill(&mut self, state: Crowded) {
        let entered = self.runtime.enter();
        let (held, account) = match state {
            Crowded::Plain | Crowded::Gated | Crowded::Empty => (27, of("svc")),
            _ => (16, Principal::account("svc")),
        };
        for number in 0..held {
            let request = match state {
                Crowded::Plain | Crowded::Gated => draw("svc"),
                Crowded::Empty => state.request(number),
                _ => opens("svc", &format!("open{number}@contoso.com")),
            };
            let permit = Permit::try_acquire(self.ledger.clone(), &request);
            self.held.push(permit.expect("a free permit"));
        }
        if state == Crowded::Gated {
            self.ledger.close_gate(&account, Instant::now() + secs(60));
        }
        drop(entered);
        for number in 0..MANY {
            self.enqueue(state.request(number));
        }
        if state == Crowded::Aged {
            self.advance(301);
        }
        self.go_on();
    }

    fn advance(&self, seconds: u64) {
        self.runtime.block_on(tokio::time::advance(secs(seconds)));
    }

    fn enqueue(&mut self, request: AcquireRequest) {
        self.calls.push(Some(self.ledger.clone().acquire(request)));
        let _granted = self.poll(self.calls.len() - 1);
    }

    /// Polls a call. What it was granted is held.
    fn poll(&mut self, call: usize) -> bool {
        let _entered = self.runtime.enter();
        let Some(waiting) = &mut self.calls[call] else {
            return false;
        };
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(out) = waiting.as_mut().poll(&mut context) else {
            return false;
        };
        self.calls[call] = None;
        self.held.extend(out.ok());
        true
    }

    fn looked_and_left(&self) -> (usize, usize) {
        self.ledger.state.lock().agenda.looked_and_left()
    }

    /// Does what is left to do, as the calls would that were woken for it. Never is there much work in store.
    fn go_on(&mut self) {
        for _ in 0..MANY {
            let (_, left) = self.looked_and_left();
            assert!(left <= 20, "{left} in store");
            if left == 0 {
                return;
            }
            let last = self.calls.iter().rposition(Option::is_some);
            let most = self.counted(|crowd| {
                crowd.poll(last.expect("a call that waits"));
            });
            most.check("going on");
        }
        panic!("it never ends");
    }

    fn counted(&mut self, operation: impl FnOnce(&mut Self)) -> Most {
        let (before, _) = self.looked_and_left();
        let (steps, ()) = counted::during(|| operation(self));
        let (after, _) = self.looked_and_left();
        Most {
            looks: after - before,
            steps,
        }
    }

    fn cancel(&mut self, call: usize) {
        let _entered = self.runtime.enter();
        self.calls[call] = None;
    }

    fn release(&mut self) {
        let _entered = self.runtime.enter();
        let permit = self.held.pop().expect("a permit that is held");
        permit.complete();
    }
}

impl Most {
    fn check(&self, operation: &str) {
        let met = self.looks <= LOOKS && self.steps <= STEPS;
        assert!(met, "{operation}: {self:?}");
    }
}

#[test]
fn no_operation_looks_at_more_because_more_wait() {
    for state in STATES {
        let mut crowd = Crowd::new(state);
        for number in 0..200 {
            let call = match number % 2 {
                0 => number,
                _ => number * 97,
            };
            let most = crowd.counted(|crowd| crowd.cancel(call));
            most.check(&format!("a cancel, {state:?}"));
            crowd.go_on();
            let request = state.request(MANY + number);
            let most = crowd.counted(|crowd| crowd.enqueue(request));
            most.check(&format!("an enqueue, {state:?}"));
            crowd.go_on();
        }
        if state == Crowded::Gated {
            crowd.advance(60);
        }
        for _ in 0..10 {
            let most = crowd.counted(Crowd::release);
            most.check(&format!("a release, {state:?}"));
            // The mailbox closes, and the first in the queue see it.
            crowd.advance(1);
            for call in 0..300 {
                let most = crowd.counted(|crowd| {
                    crowd.poll(call);
                });
                most.check(&format!("a look, {state:?}"));
            }
            crowd.go_on();
        }
    }
}

#[test]
fn a_mailbox_that_opens_is_looked_at_once_for_each_call_that_waits_for_it() {
    let mut crowd = Crowd::new(Crowded::FullSame);
    let (before, _) = crowd.looked_and_left();
    crowd.counted(Crowd::release).check("a release");
    crowd.advance(1);
    let poll = |crowd: &mut Crowd| {
        crowd.poll(0);
    };
    crowd.counted(poll).check("a poll");
    crowd.go_on();
    let (after, _) = crowd.looked_and_left();
    // Each is looked at once when it goes on, and with each portion the heads of the lists are.
    assert!(after - before <= 2 * MANY, "{}", after - before);
    assert!(after - before >= MANY, "they have not gone on");
}

/// Many principals have learnt a limit at the same time, and a month later all of that has passed.
#[test]
fn what_passes_for_many_at_the_same_time_is_forgotten_in_portions() {
    let mut crowd = Crowd::empty(LocalLedger::in_flight(27));
    let entered = crowd.runtime.enter();
    for number in 0..MANY {
        let permit = try_now(&crowd.ledger, &draw(&number.to_string())).expect("a free permit");
        permit.report(Signal::Exceeded(Budget::Concurrency));
    }
    drop(entered);
    crowd.advance(30 * 86_400);
    let forgets = |crowd: &mut Crowd, operation: &str, run: &mut dyn FnMut(&mut Crowd)| {
        let before = crowd.ledger.state.lock().left();
        crowd.counted(run).check(operation);
        let after = crowd.ledger.state.lock().left();
        let forgotten = before.expiries - after.expiries;
        assert!(forgotten <= 64, "{operation} forgets {forgotten}");
        after.expiries
    };
    // What is not forgotten yet holds nobody back.
    let request = draw(&(MANY - 1).to_string());
    forgets(&mut crowd, "a call", &mut |crowd| {
        crowd.enqueue(request.clone())
    });
    for _ in 1..27 {
        forgets(&mut crowd, "another", &mut |crowd| {
            crowd.enqueue(request.clone())
        });
    }
    assert_eq!(crowd.held.len(), 27);
    let mut operations = 0;
    while forgets(&mut crowd, "a release", &mut Crowd::release) > 0 {
        forgets(&mut crowd, "a call", &mut |crowd| {
            crowd.enqueue(request.clone())
        });
        operations += 1;
        assert!(operations < MANY / 64, "it is not worked off");
    }
    crowd.held.clear();
    let left = crowd.ledger.state.lock().left();
    assert!(left.principals <= 1 && left.room <= 2048, "{left:?}");
}

/// A snapshot looks at all that is there, but what has passed is not there any more.
#[test]
fn a_snapshot_forgets_all_that_has_passed() {
    let crowd = Crowd::empty(LocalLedger::in_flight(27));
    let entered = crowd.runtime.enter();
    for number in 0..MANY {
        let until = Instant::now() + secs(1);
        crowd.ledger.close_gate(&of(&number.to_string()), until);
    }
    drop(entered);
    crowd.advance(3600);
    let _entered = crowd.runtime.enter();
    nothing_left_now(&crowd.ledger);
    assert_eq!(crowd.ledger.state.lock().left().principals, 0);
}

#[test]
fn a_raised_limit_hands_out_in_portions() {
    let mut crowd = Crowd::new(Crowded::Plain);
    let most = crowd.counted(|crowd| {
        let raised = crowd
            .ledger
            .set_limit(&of("svc"), Budget::Concurrency, 10_000);
        raised.expect("a budget that is kept");
    });
    most.check("a raised limit");
    crowd.go_on();
    assert_eq!(
        crowd.ledger.snapshot().principals[0].budgets[0].held,
        10_000
    );
}

/// How many places are held, and how many admissions are remembered until they are picked up.
fn held_and_remembered(crowd: &Crowd) -> (usize, usize) {
    let state = crowd.ledger.state.lock();
    let held = state.snapshot(Instant::now()).principals[0].budgets[0].held;
    (held as usize, state.left().alarms)
}

/// What the keeper does when its time has come.
fn keep(crowd: &mut Crowd) {
    let _entered = crowd.runtime.enter();
    let ledger = &crowd.ledger;
    let _next = ledger.with(|state, config| state.keep(Instant::now(), config));
}

/// A crowd of which 10,000 calls are admitted at the same time.
fn admitted_at_once() -> Crowd {
    let mut crowd = Crowd::new(Crowded::Plain);
    let entered = crowd.runtime.enter();
    let raised = crowd
        .ledger
        .set_limit(&of("svc"), Budget::Concurrency, 10_000);
    raised.expect("a budget that is kept");
    drop(entered);
    crowd.go_on();
    assert_eq!(held_and_remembered(&crowd).0, 10_000);
    crowd
}

/// None is polled for a second: all are due together. A call that joins takes a portion before and after it has.
#[test]
fn what_many_did_not_pick_up_is_taken_back_in_portions() {
    let mut crowd = admitted_at_once();
    crowd.advance(1);
    let operations: [&mut dyn FnMut(&mut Crowd); 4] = [
        &mut |crowd| crowd.enqueue(draw("svc")),
        &mut |crowd| crowd.cancel(MANY - 1),
        &mut Crowd::release,
        &mut |crowd| {
            crowd.poll(MANY - 2);
        },
    ];
    for operation in operations {
        let (before, _) = held_and_remembered(&crowd);
        crowd.counted(operation).check("an operation");
        let (after, _) = held_and_remembered(&crowd);
        let taken_back = before - after;
        assert!(
            (1..=2 * 64 + 1).contains(&taken_back),
            "{taken_back} at once"
        );
    }
    // The keeper does the rest, and those that are not polled at all hold up nobody.
    let mut operations = 0;
    while !crowd.poll(MANY) {
        crowd.counted(keep).check("the keeper");
        operations += 1;
        assert!(operations <= 2 * MANY / 64, "the last call does not go on");
    }
}

/// The first one alone is not: those behind it are picked up, and remembered until it is.
#[test]
fn what_many_picked_up_is_not_looked_through_at_once() {
    let mut crowd = admitted_at_once();
    for call in 1..9_973 {
        assert!(crowd.poll(call));
    }
    let (_, remembered) = held_and_remembered(&crowd);
    assert!(remembered > 9_000, "{remembered}");
    assert!(crowd.poll(0));
    let mut before = held_and_remembered(&crowd).1;
    while before > 1 {
        crowd.enqueue(draw("svc"));
        let (_, after) = held_and_remembered(&crowd);
        assert!(after < before && before - after <= 128, "{before}, {after}");
        before = after;
    }
}
