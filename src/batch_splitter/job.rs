//! Drives one batch: owns the futures of its parts and its timer, and does what [`Progress`] decides.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};
use http::{Request, Response, request};
use tokio::time::{Instant, Sleep};
use tower::BoxError;

use super::body::{JoinedBody, Source};
use super::format::Batch;
use super::part::{self, SendResult};
use super::part_end::PartEnd;
use super::progress::{Output, Part, Progress, Step};
use super::shared::Shared;
use crate::body::ReplayBody;
use crate::body::client::Client;
use crate::extensions::Deadline;
use crate::ledger::{AdmissionSlot, Requeue};
use crate::trail::{CallTrail, PartOfBatch, RetryAttempt};

/// One batch on its way.
pub(super) struct Job<B> {
    client: Client,
    progress: Progress<B>,
    max_response: u64,
    /// What the requests of all parts have in common.
    head: request::Parts,
    trail: Option<CallTrail>,
    /// The ticket of the call's first part in the ledger's queue: later parts are no new calls.
    ticket: Option<u64>,
    in_flight: FuturesUnordered<Pin<Box<dyn Future<Output = SentPart> + Send>>>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// A part that has come back.
struct SentPart {
    end: PartEnd,
    /// What its last attempt was charged, and when.
    slot: AdmissionSlot,
}

impl<B: Batch> Job<B> {
    pub(super) fn new(
        client: Client,
        shared: Arc<Shared>,
        batch: B,
        request: Request<ReplayBody>,
    ) -> Self {
        let (head, _) = request.into_parts();
        let deadline = head.extensions.get::<Deadline>().map(|deadline| deadline.0);
        Self {
            client,
            max_response: shared.config.max_response,
            progress: Progress::new(batch, shared, deadline),
            trail: CallTrail::of(&head.extensions).cloned(),
            head: part::shared_head(head),
            ticket: None,
            in_flight: FuturesUnordered::new(),
            timer: None,
        }
    }

    /// Drives the batch until its response begins. The body drives it to its end.
    pub(super) async fn respond(mut self) -> Result<Response<JoinedBody>, BoxError> {
        let output = poll_fn(|cx| self.poll_output(cx)).await;
        let report = self.progress.report().clone();
        let mut response = match output {
            Output::Head(head) => Response::from_parts(*head, JoinedBody::merged(self)),
            Output::OnePart(response) => {
                let body = JoinedBody::one_part(response.body, response.trailers);
                Response::from_parts(response.head, body)
            }
            Output::Error(error) => return Err(error),
            // No body comes before its head.
            Output::Bytes(_) | Output::End => return Err("a body without a head".into()),
        };
        response.extensions_mut().insert(report);
        Ok(response)
    }

    /// Does what is to be done until there is something to hand out.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Output> {
        loop {
            while let Poll::Ready(Some(sent)) = Pin::new(&mut self.in_flight).poll_next(cx) {
                self.ticket = self.ticket.or_else(|| sent.slot.ticket());
                self.progress.part_ended(sent.end, Instant::now());
            }
            match self.progress.step(Instant::now()) {
                Step::Send(part) => self.send(part),
                Step::HandOut(output) => return Poll::Ready(output),
                Step::Wait(None) => {
                    self.timer = None;
                    return Poll::Pending;
                }
                Step::Wait(Some(until)) => {
                    let timer = self
                        .timer
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
                    if timer.deadline() != until {
                        timer.as_mut().reset(until);
                    }
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.timer = None;
                }
            }
        }
    }

    fn send(&mut self, part: Part) {
        tracing::debug!(
            operation = self.progress.operation(),
            part = part.number,
            members = part.members.len(),
            again = part.resent,
            "sending a part"
        );
        let trail = self.trail.as_ref().map(|trail| {
            let trail = trail.part(part.number, part.maybe_executed);
            trail.held_back(part.held_back)
        });
        let slot = AdmissionSlot::new();
        let (number, members) = (part.number, part.members.clone());
        let deadline = part.deadline.map(Deadline);
        let request = self.request(part, trail.as_ref(), &slot);
        let sending = part::send(self.client.clone(), request, self.max_response);
        self.in_flight.push(Box::pin(async move {
            let began = Instant::now();
            let result = match deadline {
                Some(deadline) => deadline.bound(sending).await,
                None => Some(sending.await),
            };
            let result = result.unwrap_or(SendResult::TooLate);
            if let Some(trail) = trail {
                trail.record(|attempt| {
                    attempt.started.get_or_insert(began);
                    attempt.ended.get_or_insert_with(Instant::now);
                });
            }
            // Without the time that it was queued.
            let since = slot.since().map_or(began, |since| since.max(began));
            let end = PartEnd {
                number,
                members,
                result,
                took: since.elapsed(),
            };
            SentPart { end, slot }
        }));
    }

    fn request(
        &self,
        part: Part,
        trail: Option<&CallTrail>,
        slot: &AdmissionSlot,
    ) -> Request<ReplayBody> {
        let mut request = Request::from_parts(self.head.clone(), part.body);
        let extensions = request.extensions_mut();
        if let Some(trail) = trail {
            extensions.insert(trail.clone());
        }
        extensions.insert(slot.clone());
        if let Some(ticket) = self.ticket {
            extensions.insert(Requeue::new().ticket(ticket));
        }
        if part.number > 0 {
            extensions.insert(RetryAttempt);
        }
        if let Some(deadline) = part.deadline {
            extensions.insert(Deadline(deadline));
        }
        extensions.insert(PartOfBatch);
        request
    }
}

impl<B: Batch> Source for Job<B> {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        self.poll_output(cx).map(|output| match output {
            Output::Bytes(bytes) => Some(Ok(bytes)),
            Output::Error(error) => Some(Err(error)),
            // The head was handed out before.
            Output::Head(_) | Output::OnePart(_) | Output::End => None,
        })
    }

    fn is_at_end(&self) -> bool {
        self.progress.is_at_end()
    }

    fn bytes_left(&self) -> Option<u64> {
        self.progress.bytes_left()
    }
}
