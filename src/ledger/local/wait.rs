//! [`Waiting`]: the future of a call that waits in a [`LocalLedger`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use pin_project::{pin_project, pinned_drop};
use tokio::time::{Instant, Sleep, sleep_until};

use super::LocalLedger;
use super::clock::after;
use super::keeper;
use super::meter::Position;
use super::queue::Look;
use super::schedule::Join;
use crate::ledger::{AcquireError, AcquireRequest, Contended, Permit, unread};
use crate::seconds::Seconds;

/// Of a call that waits longer than this the log is told.
const SILENT: Duration = Duration::from_secs(30);

#[pin_project(PinnedDrop)]
pub(super) struct Waiting {
    ledger: Arc<LocalLedger>,
    step: Step,
    #[pin]
    sleep: Option<Sleep>,
}

enum Step {
    New(AcquireRequest),
    Queued(Queued),
    Done,
}

#[derive(Clone, Copy)]
struct Queued {
    position: Position,
    since: Instant,
    deadline: Instant,
    warned: bool,
}

/// A call in the queue, and what came of the first look at it.
type Joined = (Queued, (Look, Option<Instant>));

impl Waiting {
    pub(super) fn new(ledger: Arc<LocalLedger>, request: AcquireRequest) -> Self {
        Self {
            ledger,
            step: Step::New(request),
            sleep: None,
        }
    }
}

impl Queued {
    /// Why the call leaves the queue, if it has to.
    fn refusal(
        &self,
        contended: &Contended,
        until: Option<Instant>,
        gate: Option<Instant>,
        now: Instant,
    ) -> Option<AcquireError> {
        let gate = match contended {
            Contended::Time => until,
            _ => gate,
        };
        // A gate that opens too late is known now: waiting for it gains nothing.
        if let Some(gate) = gate.filter(|gate| *gate > self.deadline) {
            return Some(AcquireError::GateTooLate {
                wait: gate - now,
                contended: contended.clone(),
            });
        }
        (self.deadline <= now).then(|| AcquireError::TimedOut {
            waited: now - self.since,
            contended: contended.clone(),
        })
    }

    /// When to look again at the latest.
    fn wake(&self, until: Option<Instant>) -> Instant {
        let silent = (!self.warned).then(|| after(self.since, SILENT));
        let until = until.into_iter().chain(silent);
        until.fold(self.deadline, Instant::min)
    }
}

impl LocalLedger {
    /// Puts a call into the queue and looks at it, under one lock. The result of one that need not wait is the error.
    fn join(
        self: &Arc<Self>,
        request: AcquireRequest,
        since: Instant,
        waker: &Waker,
    ) -> Result<Joined, Result<Permit, AcquireError>> {
        let bound = after(since, self.config.max_wait);
        let deadline = request.deadline().map_or(bound, |given| given.min(bound));
        if let Some(error) = self.config.refusal(request.charges()) {
            return Err(Err(error));
        }
        let (join, keep) = self.with(|state, config| {
            let join = match state.join(request, since, config) {
                Join::Admitted(admission) => Err(Ok(admission)),
                Join::Full(queued) => Err(Err(AcquireError::QueueFull { queued })),
                Join::Waits(position) => {
                    let queued = Queued {
                        position,
                        since,
                        deadline,
                        warned: false,
                    };
                    Ok((queued, state.look_once(position, waker, since)))
                }
            };
            (join, state.wants_keeper(since))
        });
        if keep {
            keeper::start(self);
        }
        join.map_err(|ended| ended.map(|admission| Permit::new(self.clone(), admission)))
    }

    /// Looks at a call in the queue. It may have taken back what others did not pick up: more calls wait then, and may need a keeper.
    fn look(
        self: &Arc<Self>,
        position: Position,
        waker: &Waker,
        now: Instant,
    ) -> (Look, Option<Instant>) {
        let (look, keep) = self.with(|state, config| {
            let look = state.look(position, waker, now, config);
            (look, state.wants_keeper(now))
        });
        if keep {
            keeper::start(self);
        }
        look
    }

    /// Tells the log that calls wait for long, and what holds them back, unless it was told of the same thing lately.
    fn warn(&self, contended: &Contended, now: Instant) {
        let principal = contended.principal();
        let unread = principal.map_or(0, |principal| unread::of_hash(principal.hash64()));
        let told = self.with(|state, _| {
            let usage = state.usage(contended, now);
            let unread = unread.min(usage.as_ref().map_or(u32::MAX, |usage| usage.held));
            let queue = &mut state.queue;
            let tells = queue.tell(contended, unread > 0, now);
            tells.then(|| (usage, unread, queue.count(contended)))
        });
        let Some((usage, unread, waiting)) = told else {
            return;
        };
        let full = usage
            .as_ref()
            .is_some_and(|usage| usage.held >= usage.limit);
        let why = match unread {
            0 if full => {
                "calls wait in the ledger for those that run: if none of these ends, two layers acquire from it for one call"
            }
            0 => "calls wait in the ledger",
            _ => {
                "calls wait in the ledger for responses whose bodies are not read: read them to their end, or drop them"
            }
        };
        tracing::warn!(
            waited = %Seconds(SILENT),
            contended = %contended,
            principal = principal.map(tracing::field::display),
            budget = contended.budget().map(tracing::field::debug),
            waiting,
            held = usage.as_ref().map(|usage| usage.held),
            limit = usage.as_ref().map(|usage| usage.limit),
            unread,
            "{why}"
        );
    }
}

/// Sleeps until `wake`, with the timer that is there.
fn poll_sleep(mut sleep: Pin<&mut Option<Sleep>>, wake: Instant, cx: &mut Context<'_>) -> Poll<()> {
    match sleep.as_mut().as_pin_mut() {
        Some(sleep) if sleep.deadline() == wake => {}
        Some(sleep) => sleep.reset(wake),
        None => sleep.set(Some(sleep_until(wake))),
    }
    sleep
        .as_pin_mut()
        .map_or(Poll::Pending, |sleep| sleep.poll(cx))
}

impl Future for Waiting {
    type Output = Result<Permit, AcquireError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // On the hot path of calls that wait: one look at the clock, one lock. Watched by `benches/overhead`, `contended`.
        let mut joined = None;
        let mut now = Instant::now();
        if let Step::New(request) = this.step {
            let request = request.clone();
            *this.step = Step::Done;
            match this.ledger.join(request, now, cx.waker()) {
                Ok((queued, look)) => {
                    *this.step = Step::Queued(queued);
                    joined = Some(look);
                }
                Err(ended) => return Poll::Ready(ended),
            }
        }
        loop {
            let Step::Queued(queued) = this.step else {
                debug_assert!(false, "polled after it was done");
                return Poll::Pending;
            };
            let position = queued.position;
            let look = joined.take().unwrap_or_else(|| {
                now = Instant::now();
                this.ledger.look(position, cx.waker(), now)
            });
            let (contended, until, gate) = match look {
                (Look::Admitted(admission), _) => {
                    *this.step = Step::Done;
                    return Poll::Ready(Ok(Permit::new(this.ledger.clone(), admission)));
                }
                (Look::Waits { contended, until }, gate) => (contended, until, gate),
                (Look::Absent, _) => {
                    debug_assert!(false, "a call that waits is not in the queue");
                    *this.step = Step::Done;
                    return Poll::Ready(Err(AcquireError::unavailable("the queue lost the call")));
                }
            };
            if let Some(error) = queued.refusal(&contended, until, gate, now) {
                *this.step = Step::Done;
                this.ledger
                    .with(|state, config| state.leave(position, now, config));
                return Poll::Ready(Err(error));
            }
            if !queued.warned && after(queued.since, SILENT) <= now {
                queued.warned = true;
                this.ledger.warn(&contended, now);
            }
            let wake = queued.wake(until);
            ready!(poll_sleep(this.sleep.as_mut(), wake, cx));
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Waiting {
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        if let Step::Queued(queued) = *this.step {
            let now = Instant::now();
            this.ledger
                .with(|state, config| state.leave(queued.position, now, config));
        }
    }
}
