//! The states in which calls wait, and the operations that are timed in each.

use std::io;
use std::time::Duration;

use tokio::time::Instant;
use tower_ews::ledger::{AcquireRequest, Limit, LocalLedger};
use tower_ews::principal::{Budget, Charge, Charges, Principal};

use crate::crowd::Crowd;

/// Calls of one account at a time, where no mailboxes count.
const IN_FLIGHT: u32 = 256;
/// Mailboxes that one account may have open.
const OPEN: u32 = 16;
/// How long a mailbox stays open after its last call. Short, so that the samples age nobody.
const IDLE: Duration = Duration::from_millis(10);
/// How long the gate is closed.
const GATE: Duration = Duration::from_secs(20);
const MAX_OVERTAKE: Duration = Duration::from_secs(300);
const YEAR: Duration = Duration::from_secs(365 * 86_400);
/// Single operations of each kind.
const SAMPLES: usize = 200;

/// What keeps the calls waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// All permits are held.
    Plain,
    /// The gate of the account is closed. Grants are those after it has opened.
    Gated,
    /// All mailboxes are open, and the calls have been overtaken for too long.
    Aged,
    /// All mailboxes are open, and the calls need one more, all the same.
    MailboxesFullSame,
    /// All mailboxes are open, and the calls need one more, each another.
    MailboxesFullEach,
}

pub(super) const STATES: [State; 5] = [
    State::Plain,
    State::Gated,
    State::Aged,
    State::MailboxesFullSame,
    State::MailboxesFullEach,
];

pub(super) const OPERATIONS: [&str; 6] = [
    "enqueue", "cancel", "time_out", "release", "grant", "drop_all",
];

/// What the operations took in one state.
pub(super) struct Measured {
    /// By the places of [`OPERATIONS`].
    pub(super) times: [Vec<Duration>; OPERATIONS.len()],
    /// Memory that each of the waiting calls takes.
    pub(super) bytes: f64,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gated => "gated",
            Self::Aged => "aged",
            Self::MailboxesFullSame => "mailboxes_full_same",
            Self::MailboxesFullEach => "mailboxes_full_each",
        }
    }

    fn ledger(self, calls: usize) -> LocalLedger {
        let builder = LocalLedger::builder()
            .max_queued(calls)
            .max_wait(YEAR)
            .max_overtake(MAX_OVERTAKE)
            .budget(Budget::Concurrency, Limit::InFlight(IN_FLIGHT));
        let mailboxes = Limit::Distinct {
            limit: OPEN,
            idle: IDLE,
        };
        match self {
            Self::Plain | Self::Gated => builder.build(),
            _ => builder.budget(Budget::OpenMailboxes, mailboxes).build(),
        }
    }

    /// What the call with that number asks for.
    fn request(self, account: &Principal, number: usize) -> AcquireRequest {
        let mailbox = match self {
            Self::Plain | Self::Gated => None,
            Self::MailboxesFullSame => Some("one-more@contoso.com".to_owned()),
            Self::Aged | Self::MailboxesFullEach => Some(format!("user{number:07}@contoso.com")),
        };
        charged(account, mailbox.as_deref())
    }
}

fn charged(account: &Principal, mailbox: Option<&str>) -> AcquireRequest {
    let mailbox = mailbox.map(Principal::mailbox);
    let call = Charge::new(account.clone(), Budget::Concurrency, 1);
    let opens =
        mailbox.map(|mailbox| Charge::of_value(account.clone(), Budget::OpenMailboxes, mailbox));
    let charges: Charges = [Some(call), opens].into_iter().flatten().collect();
    AcquireRequest::new(charges)
}

/// Times each operation with `calls` calls waiting.
pub(super) fn measure(state: State, calls: usize) -> io::Result<Measured> {
    let room = calls + 2 * SAMPLES + IN_FLIGHT as usize;
    let account = Principal::account("svc@contoso.com");
    let crowd = Crowd::new(state.ledger(room), room)?;
    let mut run = Run {
        state,
        account,
        crowd,
        next: 0,
        random: fastrand::Rng::with_seed(0x05ca1e),
    };
    let bytes = run.fill(calls);
    let (cancel, enqueue) = run.cancels_and_enqueues();
    let mut release = run.open_gate();
    let time_out = run.time_outs();
    let (opened, grant) = run.releases_and_grants();
    release.extend(opened);
    let left = u32::try_from(run.crowd.waiting()).unwrap_or(u32::MAX);
    let all = run.crowd.enter(Crowd::drop_all);
    let drop_all = vec![all / left.max(1)];
    Ok(Measured {
        times: [enqueue, cancel, time_out, release, grant, drop_all],
        bytes,
    })
}

struct Run {
    state: State,
    account: Principal,
    crowd: Crowd,
    /// The number of the next call.
    next: usize,
    random: fastrand::Rng,
}

impl Run {
    fn request(&mut self) -> AcquireRequest {
        self.next += 1;
        self.state.request(&self.account, self.next)
    }

    /// One more call that waits.
    fn enqueue(&mut self, request: AcquireRequest) -> Option<(usize, Duration)> {
        self.crowd.enter(|crowd| crowd.enqueue(request))
    }

    fn settle(&mut self) {
        self.crowd.enter(Crowd::settle);
    }

    fn advance(&mut self, time: Duration) {
        self.crowd.advance(time);
    }

    /// Makes the state. Returns the memory that each waiting call takes.
    fn fill(&mut self, calls: usize) -> f64 {
        let account = self.account.clone();
        match self.state {
            State::Plain | State::Gated => {
                let one = charged(&account, None);
                self.crowd
                    .enter(|crowd| (0..IN_FLIGHT).for_each(|_| crowd.hold(&one)));
            }
            _ => (0..OPEN).for_each(|number| {
                let one = charged(&account, Some(&format!("open{number}@contoso.com")));
                self.crowd.enter(|crowd| crowd.hold(&one));
            }),
        }
        if self.state == State::Gated {
            self.crowd.enter(|crowd| {
                let until = Instant::now() + GATE;
                crowd.ledger().close_gate(&account, until);
            });
        }
        let info = allocation_counter::measure(|| {
            for _ in 0..calls {
                let request = self.request();
                self.enqueue(request);
            }
        });
        if self.state == State::Aged {
            self.advance(MAX_OVERTAKE + Duration::from_secs(1));
        }
        self.settle();
        info.bytes_current as f64 / self.crowd.waiting().max(1) as f64
    }

    fn cancels_and_enqueues(&mut self) -> (Vec<Duration>, Vec<Duration>) {
        let (mut cancels, mut enqueues) = (Vec::new(), Vec::new());
        for sample in 0..SAMPLES {
            let room = self.next;
            // Each fourth time it is one of the first.
            let at = match sample % 4 {
                0 => sample,
                _ => self.random.usize(..room),
            };
            let cancelled = self.crowd.enter(|crowd| {
                let call = crowd.near(at)?;
                crowd.cancel(call)
            });
            cancels.extend(cancelled);
            self.settle();
            let request = self.request();
            enqueues.extend(self.enqueue(request).map(|(_, took)| took));
            self.settle();
        }
        (cancels, enqueues)
    }

    fn time_outs(&mut self) -> Vec<Duration> {
        let mut times = Vec::new();
        for sample in 0..SAMPLES {
            let request = self.request();
            let now = self.crowd.enter(|_| Instant::now());
            let request = request.with_deadline(now + Duration::from_millis(1));
            // In turns the first and the last of the queue.
            let request = request.with_ticket((sample % 2 == 0).then_some(1));
            let queued = self.enqueue(request);
            self.settle();
            self.advance(Duration::from_millis(2));
            let took = queued.and_then(|(call, _)| self.crowd.enter(|crowd| crowd.time_out(call)));
            times.extend(took);
            self.settle();
        }
        times
    }

    /// Where the gate is closed: releases behind it, then it opens.
    fn open_gate(&mut self) -> Vec<Duration> {
        let mut releases = Vec::new();
        if self.state == State::Gated {
            for _ in 0..SAMPLES {
                releases.extend(self.crowd.enter(Crowd::release));
                self.settle();
            }
            self.advance(GATE);
            self.settle();
        }
        releases
    }

    fn releases_and_grants(&mut self) -> (Vec<Duration>, Vec<Duration>) {
        let (mut releases, mut grants) = (Vec::new(), Vec::new());
        for _ in 0..SAMPLES {
            let release = self.crowd.enter(Crowd::release);
            releases.extend(release);
            let mut grant = self.crowd.enter(Crowd::grant);
            if grant.is_none() {
                // The mailbox has to close first.
                self.advance(IDLE);
                grant = self.crowd.enter(Crowd::grant);
            }
            grants.extend(release.zip(grant).map(|(release, grant)| release + grant));
            self.settle();
            let request = self.request();
            self.enqueue(request);
            self.settle();
        }
        (releases, grants)
    }
}
