//! The states in which calls wait, and the operations that are timed in each.

use std::io;
use std::time::Duration;

use tokio::time::Instant;
use tower_ews::ledger::{AcquireRequest, Limit, LocalLedger};
use tower_ews::principal::{Budget, Charge, Charges, Principal};

use crate::crowd::{Crowd, Queue, Rest};

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
/// Samples of what makes room for another call.
const GRANTS: usize = 100;

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
    /// The bucket is empty. A call comes back to it each [`IDLE`].
    BucketEmpty,
    /// So much was drawn within half of [`IDLE`] that no more may be. What a call drew comes back that long after its end.
    WindowEmpty,
}

pub(super) const STATES: [State; 7] = [
    State::Plain,
    State::Gated,
    State::Aged,
    State::MailboxesFullSame,
    State::MailboxesFullEach,
    State::BucketEmpty,
    State::WindowEmpty,
];

pub(super) const OPERATIONS: [&str; 7] = [
    "enqueue", "cancel", "time_out", "release", "grant", "rest", "drop_all",
];

/// What the operations took in one state.
pub(super) struct Measured {
    /// By the places of [`OPERATIONS`].
    pub(super) times: [Vec<Duration>; OPERATIONS.len()],
    /// The longest poll in `rest`.
    pub(super) longest: Duration,
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
            Self::BucketEmpty => "bucket_empty",
            Self::WindowEmpty => "window_empty",
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
            Self::BucketEmpty => {
                let bucket = Limit::PerWindow {
                    limit: OPEN,
                    refill: 1,
                    period: IDLE,
                };
                builder.budget(Budget::Requests, bucket).build()
            }
            Self::WindowEmpty => {
                let window = Limit::Sliding {
                    limit: OPEN,
                    period: IDLE / 2,
                };
                builder.budget(Budget::Requests, window).build()
            }
            _ => builder.budget(Budget::OpenMailboxes, mailboxes).build(),
        }
    }

    /// What the call with that number asks for.
    fn request(self, account: &Principal, number: usize) -> AcquireRequest {
        let mailbox = match self {
            Self::BucketEmpty | Self::WindowEmpty => return drawing(account),
            Self::Plain | Self::Gated => None,
            Self::MailboxesFullSame => Some("one-more@contoso.com".to_owned()),
            Self::Aged | Self::MailboxesFullEach => Some(format!("user{number:07}@contoso.com")),
        };
        charged(account, mailbox.as_deref())
    }
}

fn drawing(account: &Principal) -> AcquireRequest {
    let budgets = [Budget::Concurrency, Budget::Requests];
    let charges = budgets.map(|budget| Charge::new(account.clone(), budget, 1));
    AcquireRequest::new(charges.into_iter().collect::<Charges>())
}

fn charged(account: &Principal, mailbox: Option<&str>) -> AcquireRequest {
    let mailbox = mailbox.map(Principal::mailbox);
    let call = Charge::new(account.clone(), Budget::Concurrency, 1);
    let opens =
        mailbox.map(|mailbox| Charge::of_value(account.clone(), Budget::OpenMailboxes, mailbox));
    let charges: Charges = [Some(call), opens].into_iter().flatten().collect();
    AcquireRequest::new(charges)
}

/// Times each operation with `calls` calls waiting in each ledger, and `all` in all.
pub(super) fn measure(state: State, calls: usize, all: usize) -> io::Result<Measured> {
    let room = calls + SAMPLES + IN_FLIGHT as usize;
    let queues = all.div_ceil(calls);
    let ledgers = (0..queues).map(|_| state.ledger(room));
    let mut run = Run {
        state,
        account: Principal::account("svc@contoso.com"),
        crowd: Crowd::new(ledgers, room)?,
        queues,
        next: 0,
        random: fastrand::Rng::with_seed(0x05ca1e),
    };
    let bytes = run.fill(calls);
    let (cancel, enqueue) = run.cancels_and_enqueues(calls);
    let mut release = run.open_gate();
    let time_out = run.time_outs();
    run.crowd.take_rest();
    let (opened, grant) = run.releases_and_grants();
    release.extend(opened);
    run.grant_others();
    let Rest { all: rest, longest } = run.crowd.take_rest();
    let drop_all = run.crowd.drop_all();
    let rest = vec![each(rest, queues * calls)];
    Ok(Measured {
        times: [enqueue, cancel, time_out, release, grant, rest, drop_all],
        longest,
        bytes,
    })
}

/// What is due to one of several calls.
fn each(time: Duration, calls: usize) -> Duration {
    time / u32::try_from(calls.max(1)).unwrap_or(u32::MAX)
}

struct Run {
    state: State,
    account: Principal,
    crowd: Crowd,
    queues: usize,
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
    fn enqueue(&mut self, queue: usize, request: AcquireRequest) -> Option<(usize, Duration)> {
        self.crowd.at(queue, |queue| queue.enqueue(request))
    }

    /// Makes the state. Returns the memory that each waiting call takes.
    fn fill(&mut self, calls: usize) -> f64 {
        let until = self.crowd.at(0, |_| Instant::now() + GATE);
        for queue in 0..self.queues {
            let (state, account) = (self.state, &self.account);
            self.crowd.at(queue, |queue| {
                match state {
                    State::Plain | State::Gated => {
                        let one = charged(account, None);
                        (0..IN_FLIGHT).for_each(|_| queue.hold(&one));
                    }
                    State::BucketEmpty | State::WindowEmpty => {
                        let one = drawing(account);
                        (0..OPEN).for_each(|_| queue.hold(&one));
                    }
                    _ => (0..OPEN).for_each(|number| {
                        let mailbox = format!("open{number}@contoso.com");
                        queue.hold(&charged(account, Some(&mailbox)));
                    }),
                }
                if state == State::Gated {
                    queue.ledger().close_gate(account, until);
                }
            });
        }
        let info = allocation_counter::measure(|| {
            for queue in 0..self.queues {
                for _ in 0..calls {
                    let request = self.request();
                    self.enqueue(queue, request);
                }
            }
        });
        if self.state == State::Aged {
            self.crowd.advance(MAX_OVERTAKE + Duration::from_secs(1));
        }
        self.crowd.settle();
        info.bytes_current as f64 / self.crowd.waiting().max(1) as f64
    }

    /// Another of the calls of one ledger is given up, and one comes. What both took.
    fn replace(&mut self, queue: usize, at: usize) -> (Option<Duration>, Option<Duration>) {
        let cancelled = self.crowd.at(queue, |queue| {
            let call = queue.near(at)?;
            queue.cancel(call)
        });
        self.crowd.settle();
        let request = self.request();
        let queued = self.enqueue(queue, request);
        self.crowd.settle();
        (cancelled, queued.map(|(_, took)| took))
    }

    fn cancels_and_enqueues(&mut self, calls: usize) -> (Vec<Duration>, Vec<Duration>) {
        let (mut cancels, mut enqueues) = (Vec::new(), Vec::new());
        for sample in 0..SAMPLES {
            // Each fourth time it is one of the first.
            let at = match sample % 4 {
                0 => sample,
                _ => self.random.usize(..calls),
            };
            // What belongs to the ledger is in the cache after one call, what belongs to the next call is not.
            let before = self.random.usize(..calls);
            self.replace(sample, before);
            let (cancelled, queued) = self.replace(sample, at);
            cancels.extend(cancelled);
            enqueues.extend(queued);
        }
        (cancels, enqueues)
    }

    fn time_outs(&mut self) -> Vec<Duration> {
        let mut times = Vec::new();
        for sample in 0..SAMPLES {
            let request = self.request();
            let now = self.crowd.at(0, |_| Instant::now());
            let request = request.with_deadline(now + Duration::from_millis(1));
            // In turns the first and the last of the queue.
            let request = request.with_ticket((sample % 2 == 0).then_some(1));
            let queued = self.enqueue(sample, request);
            self.crowd.settle();
            self.crowd.advance(Duration::from_millis(2));
            let time_out = |queue: &mut Queue| queue.time_out(queued?.0);
            times.extend(self.crowd.at(sample, time_out));
            self.crowd.settle();
        }
        times
    }

    /// Where the gate is closed: releases behind it, then it opens.
    fn open_gate(&mut self) -> Vec<Duration> {
        let mut releases = Vec::new();
        if self.state == State::Gated {
            for sample in 0..GRANTS * self.queues {
                let release = self.crowd.at(sample, Queue::release);
                if sample % self.queues == 0 {
                    releases.extend(release);
                }
                self.crowd.settle();
            }
            self.crowd.advance(GATE);
            self.crowd.settle();
        }
        releases
    }

    fn releases_and_grants(&mut self) -> (Vec<Duration>, Vec<Duration>) {
        let (mut releases, mut grants) = (Vec::new(), Vec::new());
        for _ in 0..GRANTS {
            let release = self.crowd.at(0, Queue::release);
            releases.extend(release);
            let mut grant = self.crowd.grant(0);
            if grant.is_none() {
                // The mailbox has to close first, or something has to come back to the bucket.
                self.crowd.advance(IDLE);
                grant = self.crowd.grant(0);
            }
            grants.extend(release.zip(grant).map(|(release, grant)| release + grant));
            self.crowd.settle();
            let request = self.request();
            self.enqueue(0, request);
            self.crowd.settle();
        }
        (releases, grants)
    }

    /// In the other ledgers the way is made free as well, so that in all the same is left to do as in one.
    fn grant_others(&mut self) {
        // A gate that has opened lets all pass only after a while.
        let grants = match self.state {
            State::Gated => GRANTS,
            _ => 1,
        };
        for _ in 0..grants {
            for queue in 1..self.queues {
                self.crowd.at(queue, Queue::release);
            }
            self.crowd.advance(IDLE);
            self.crowd.settle();
        }
    }
}
