//! The future of a call that waits in a [`LocalLedger`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::{pin_project, pinned_drop};
use tokio::time::{Instant, Sleep, sleep_until};

use super::LocalLedger;
use super::words::{Block, Join, Look, Position};
use crate::ledger::{AcquireError, Draw, Permit};
use crate::principal::Principal;

#[pin_project(PinnedDrop)]
pub(super) struct Waiting {
    ledger: Arc<LocalLedger>,
    step: Step,
    #[pin]
    sleep: Option<Sleep>,
}

enum Step {
    New(Draw),
    Line {
        position: Position,
        since: Instant,
        deadline: Instant,
    },
    Done,
}

impl Waiting {
    pub(super) fn new(ledger: Arc<LocalLedger>, draw: Draw) -> Self {
        Self {
            ledger,
            step: Step::New(draw),
            sleep: None,
        }
    }
}

/// Why a call leaves the line.
fn refusal(block: &Block, gate: Option<Instant>, since: Instant, now: Instant) -> AcquireError {
    let principal = match block {
        Block::Gate(principal) | Block::Budget(principal, _) | Block::Place(principal, _) => {
            principal.clone()
        }
        Block::Endpoint(authority) => Principal::new(authority.as_str()),
    };
    match gate {
        Some(until) => AcquireError::GateTooLate {
            wait: until - now,
            principal,
        },
        None => AcquireError::TimedOut {
            waited: now - since,
            principal,
        },
    }
}

impl Future for Waiting {
    type Output = Result<Permit, AcquireError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let now = Instant::now();
        if let Step::New(_) = this.step {
            let Step::New(draw) = std::mem::replace(this.step, Step::Done) else {
                return Poll::Pending;
            };
            let bound = now + this.ledger.config.max_wait;
            let deadline = draw.deadline.map_or(bound, |deadline| deadline.min(bound));
            match this
                .ledger
                .with(|state, config| state.join(draw, now, config))
            {
                Join::Granted(grant) => {
                    return Poll::Ready(Ok(Permit::new(this.ledger.clone(), grant)));
                }
                Join::Full(queued) => {
                    return Poll::Ready(Err(AcquireError::QueueFull { queued }));
                }
                Join::Waits(position) => {
                    *this.step = Step::Line {
                        position,
                        since: now,
                        deadline,
                    };
                }
            }
        }
        loop {
            let Step::Line {
                position,
                since,
                deadline,
            } = *this.step
            else {
                return Poll::Pending;
            };
            let now = Instant::now();
            let look = this
                .ledger
                .with(|state, config| state.look(position, cx.waker(), now, config));
            let (block, until, gate) = match look {
                Look::Granted(grant) => {
                    *this.step = Step::Done;
                    return Poll::Ready(Ok(Permit::new(this.ledger.clone(), grant)));
                }
                Look::Waits { block, until, gate } => (block, until, gate),
                Look::Gone => return Poll::Pending,
            };
            // A gate that opens too late is known now: waiting for it would be in vain.
            let too_late = gate.filter(|gate| *gate > deadline);
            if too_late.is_some() || deadline <= now {
                *this.step = Step::Done;
                this.ledger
                    .with(|state, config| state.leave(position, now, config));
                return Poll::Ready(Err(refusal(&block, too_late, since, now)));
            }
            let wake = until.map_or(deadline, |until| until.min(deadline));
            match this.sleep.as_mut().as_pin_mut() {
                Some(sleep) if sleep.deadline() == wake => {}
                Some(sleep) => sleep.reset(wake),
                None => this.sleep.set(Some(sleep_until(wake))),
            }
            let slept = this.sleep.as_mut().as_pin_mut();
            if slept.is_none_or(|sleep| sleep.poll(cx).is_pending()) {
                return Poll::Pending;
            }
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Waiting {
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        if let Step::Line { position, .. } = *this.step {
            let now = Instant::now();
            this.ledger
                .with(|state, config| state.leave(position, now, config));
        }
    }
}
