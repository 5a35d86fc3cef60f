//! One batch from its first part to its last: what is sent when, and what follows from each answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};
use http::{Request, Response, request};
use http_body::Body;
use tokio::time::{Instant, Sleep};
use tower::BoxError;
use tower_service::Service;

use super::body::Source;
use super::config::Shared;
use super::errors::BatchError;
use super::format::{Batch, BatchFormat, Idempotency, Order};
use super::merge::Merge;
use super::part::{self, Answer, Returned};
use super::plan::{Bounds, Next, PartError, Plan};
use super::report::BatchReport;
use crate::body::ReplayBody;
use crate::extensions::Deadline;
use crate::ledger::AdmissionSlot;
use crate::trail::CallTrail;

type InFlight = FuturesUnordered<Pin<Box<dyn Future<Output = Returned> + Send>>>;

/// One batch.
pub(super) struct Job<S, F: BatchFormat> {
    service: S,
    shared: Arc<Shared<F>>,
    pub(super) batch: F::Batch,
    pub(super) key: Box<str>,
    head: request::Parts,
    trail: Option<CallTrail>,
    /// The place in the queue of the call's first part: later parts are no new calls, and what the first has opened is still open.
    pub(super) ticket: Option<u64>,
    pub(super) plan: Plan,
    pub(super) merge: Merge,
    in_flight: InFlight,
    /// No part is begun before that.
    pause: Option<Pin<Box<Sleep>>>,
    /// Since when there is a pause.
    paused_since: Option<Instant>,
    /// How long the next part was held back.
    held_back: Duration,
    pub(super) deadline: Option<Instant>,
    /// Since when nothing was achieved.
    pub(super) stalled: Option<Instant>,
    /// How many waits without a hint there were since then.
    pub(super) hintless: u32,
    pub(super) rng: fastrand::Rng,
    /// The rest of the batch is not sent any more.
    pub(super) stopped: Option<Arc<PartError>>,
    /// What the answer is if no part gives messages.
    pub(super) verdict: Option<Verdict>,
    /// The last refusal that was to be sent again.
    pub(super) refusal: Option<Verdict>,
    pub(super) report: BatchReport,
}

/// An answer or error of one part that can be the batch's.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) ending: Ending,
    /// Members may have been executed.
    pub(super) unknown: bool,
    /// It does not say itself that anything is wrong.
    pub(super) looks_good: bool,
}

/// How a batch ends, or begins to.
#[derive(Debug)]
pub(super) enum Ending {
    /// With what its parts gave.
    BatchReport(Box<http::response::Parts>),
    /// With the answer of one part.
    PartFailure(Box<Answer>),
    Error(BoxError),
}

impl<S, F, B> Job<S, F>
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    F: BatchFormat,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(
        service: S,
        shared: Arc<Shared<F>>,
        batch: F::Batch,
        request: Request<ReplayBody>,
    ) -> Self {
        let (head, _) = request.into_parts();
        let deadline = head.extensions.get::<Deadline>().map(|deadline| deadline.0);
        let trail = CallTrail::of(&head.extensions).cloned();
        let members = batch.members();
        Self {
            service,
            plan: Plan::new(&batch),
            merge: Merge::new(members, batch.separator()),
            key: batch.sizing_key().into(),
            batch,
            head: part::shared_head(head),
            trail,
            ticket: None,
            in_flight: FuturesUnordered::new(),
            pause: None,
            paused_since: None,
            held_back: Duration::ZERO,
            deadline,
            stalled: None,
            hintless: 0,
            rng: shared.jitter.rng(),
            shared,
            stopped: None,
            verdict: None,
            refusal: None,
            report: BatchReport::new(members),
        }
    }

    pub(super) fn shared(&self) -> &Shared<F> {
        &self.shared
    }

    /// Whether the answer is handed out before all of it is there.
    fn streams(&self) -> bool {
        self.batch.idempotency() == Idempotency::Safe
    }

    /// Drives the batch to where its answer begins.
    pub(super) fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        while !(self.plan.is_complete() || self.streams() && self.merge.streams()) {
            if self.poll_progress(cx).is_pending() {
                return Poll::Pending;
            }
        }
        if self.plan.is_complete() {
            self.report.complete();
        }
        let incomplete = self.merge.missing() > 0 && self.streams();
        let any = self.merge.has_envelope();
        if any && !incomplete {
            if let Some(head) = self.merge.take_head(&self.plan) {
                return Poll::Ready(Ending::BatchReport(Box::new(head)));
            }
        }
        // Nobody would notice that what other parts gave is not in it.
        let verdict = self.verdict.take();
        Poll::Ready(
            match verdict.filter(|verdict| !(any && verdict.looks_good)) {
                Some(verdict) => verdict.ending,
                None => Ending::Error(self.incomplete()),
            },
        )
    }

    /// Whether the reader has something to take before anything more is needed.
    fn has_unread(&self) -> bool {
        let can_give = self.streams() && self.merge.streams();
        can_give && self.merge.given() < self.plan.first_open()
    }

    fn incomplete(&self) -> BoxError {
        let operation = self.batch.operation().into();
        let cause = self.report.cause();
        match self.plan.parts() {
            0 => BatchError::NotBegun { operation, cause },
            _ => BatchError::Incomplete {
                operation,
                missing: self.merge.missing(),
                cause,
            },
        }
        .into()
    }

    /// Ready when something has changed, or all members are settled.
    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Poll::Ready(Some(returned)) = Pin::new(&mut self.in_flight).poll_next(cx) {
            self.returned(returned);
            return Poll::Ready(());
        }
        if self.plan.is_complete() {
            self.report.complete();
            return Poll::Ready(());
        }
        if self.begin_parts(cx) {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Begins parts, if there is room for them. True if something is to be polled (again).
    fn begin_parts(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(why) = self.stopped.clone() {
            // A part that was lost meanwhile says more than the refusal of all.
            self.last_refusal();
            let waiting = self.plan.waiting();
            return self.give_up(&waiting, &why) > 0;
        }
        let at_once = match self.batch.order() {
            Order::Free => self.shared.config.parallel,
            Order::Kept => 1,
        };
        if self.in_flight.len() >= at_once || self.plan.nothing_waits() {
            return false;
        }
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.pause = None;
            let paused = self.paused_since.take().map(|since| since.elapsed());
            self.held_back = paused.unwrap_or_default();
        }
        if self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
        {
            let why = PartError {
                text: "the deadline of the call has passed".into(),
                ..PartError::default()
            };
            self.last_refusal();
            let waiting = self.plan.waiting();
            return self.give_up(&waiting, &Arc::new(why)) > 0;
        }
        match self.next_part(at_once) {
            Next::Part(members) => {
                self.begin(members);
                true
            }
            Next::Doomed(doomed) => {
                for (member, need) in doomed {
                    self.doomed(member, need);
                }
                true
            }
            Next::Nothing if self.in_flight.is_empty() && !self.has_unread() => {
                let why = PartError {
                    text: "members need each other in a circle".into(),
                    ..PartError::default()
                };
                let waiting = self.plan.waiting();
                self.give_up(&waiting, &Arc::new(why)) > 0
            }
            Next::Nothing => false,
        }
    }

    fn next_part(&mut self, at_once: usize) -> Next {
        let config = &self.shared.config;
        let size = self.shared.sizing.members(&self.key, config);
        let members = size.min(self.batch.max_members()).max(1);
        let mut bounds = Bounds {
            members,
            bytes: config.max_bytes,
            end: usize::MAX,
            patient: !self.in_flight.is_empty() || self.has_unread(),
        };
        if self.streams() && !self.plan.is_by_group() {
            // What the reader has not taken yet, and what cannot be handed out yet, has to be kept.
            let ahead = members.saturating_mul(at_once.saturating_add(1));
            let from = match self.merge.streams() {
                true => self.merge.given(),
                false => self.plan.first_open(),
            };
            bounds.end = from.saturating_add(ahead);
        }
        let next = self.plan.next(&self.batch, bounds);
        if next == Next::Nothing && self.in_flight.is_empty() && !self.has_unread() {
            bounds.end = usize::MAX;
            return self.plan.next(&self.batch, bounds);
        }
        next
    }

    fn begin(&mut self, members: Vec<usize>) {
        let number = self.plan.parts().saturating_sub(1);
        let body = self.batch.part(&members);
        let mut again = 0;
        let mut maybe = false;
        for &member in &members {
            if let Some(member) = self.plan.member(member) {
                again += usize::from(member.last.is_some());
                maybe |= member.maybe;
            }
        }
        self.report.sent(again);
        self.stalled.get_or_insert_with(Instant::now);
        let held_back = std::mem::take(&mut self.held_back);
        let trail = self.trail.as_ref();
        let trail = trail.map(|trail| trail.part(number, maybe).held_back(held_back));
        let slot = AdmissionSlot::new();
        let can_shrink = !self.plan.is_one_piece(&self.batch, &members);
        let request = part::request(
            &self.head,
            body,
            trail.as_ref(),
            &slot,
            self.ticket,
            number == 0,
            can_shrink,
        );
        tracing::debug!(
            operation = self.batch.operation(),
            part = number,
            members = members.len(),
            again,
            "sending a part"
        );
        let sending = part::send(
            self.service.clone(),
            request,
            self.shared.config.max_response,
        );
        self.in_flight.push(Box::pin(async move {
            let began = Instant::now();
            let outcome = sending.await;
            if let Some(trail) = trail {
                trail.record(|attempt| {
                    attempt.started.get_or_insert(began);
                    attempt.ended.get_or_insert_with(Instant::now);
                });
            }
            Returned {
                members,
                outcome,
                slot,
                began,
            }
        }));
    }

    /// No part is begun before `until`.
    pub(super) fn pause_until(&mut self, until: Instant) {
        let pause = self.pause.as_ref().map(|pause| pause.deadline());
        if pause.is_none_or(|pause| pause < until) {
            self.report.waits(Instant::now(), until);
            self.paused_since.get_or_insert_with(Instant::now);
            self.pause = Some(Box::pin(tokio::time::sleep_until(until)));
        }
    }

    /// The end of a wait that begins now, if it is worth to wait so long.
    pub(super) fn in_time(&self, wait: Duration) -> Option<Instant> {
        let until = Instant::now().checked_add(wait)?;
        let stalled = self.stalled.unwrap_or_else(Instant::now);
        let stall_timeout = stalled.checked_add(self.shared.config.stall_timeout);
        let in_time = self.deadline.is_none_or(|deadline| until <= deadline);
        (in_time && stall_timeout.is_none_or(|stall_timeout| until <= stall_timeout))
            .then_some(until)
    }
}

impl<S, F, B> Source for Job<S, F>
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    F: BatchFormat,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        loop {
            // One part at a time is sent only when the reader waits for it: it may make other calls while it has enough to
            // read, and a part on its way would hold what they need. Several ones go on meanwhile.
            let ahead = self.shared.config.parallel > 1 && self.batch.order() == Order::Free;
            if ahead && !self.plan.is_complete() {
                while self.begin_parts(cx) {}
            }
            while let Poll::Ready(Some(returned)) = Pin::new(&mut self.in_flight).poll_next(cx) {
                self.returned(returned);
            }
            if self.plan.is_complete() {
                self.report.complete();
            }
            if self.merge.missing() > 0 && self.streams() {
                return Poll::Ready(Some(Err(self.incomplete())));
            }
            if let Some(bytes) = self.merge.next(&self.plan) {
                return Poll::Ready(Some(Ok(bytes)));
            }
            if self.merge.is_at_end() {
                return Poll::Ready(None);
            }
            if self.poll_progress(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn is_at_end(&self) -> bool {
        self.merge.is_at_end()
    }

    fn left(&self) -> Option<u64> {
        self.merge.left(&self.plan)
    }
}

impl<S, F: BatchFormat> std::fmt::Debug for Job<S, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("operation", &self.batch.operation())
            .field("in_flight", &self.in_flight.len())
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}
