//! [`Calls`]: the calls for the pages of one request, one after another.

use std::sync::Arc;

use bytes::Bytes;
use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, Request, StatusCode, request, response};
use tokio::time::Instant;
use tower::{BoxError, ServiceExt};

use super::config::Shared;
use super::errors::{NextPage, PageFailure, PagingError};
use super::report::PagingReport;
use crate::body::ReplayBody;
use crate::body::client::Client;
use crate::body::collected::{CollectError, CollectedResponse, collect, remove_body_headers};
use crate::errors::{CutShort, DeadlineElapsed};
use crate::extensions::Deadline;
use crate::ledger::{AdmissionSlot, Requeue};
use crate::retry::retries_of_loss;
use crate::soap::page_response::PageResponse;
use crate::soap::{OutlineError, ResponseCode, SoapResponse};
use crate::trail::{CallTrail, RetryAttempt};

/// What the calls for all pages of a request have in common.
pub(super) struct Calls {
    client: Client,
    operation: Box<str>,
    /// The body of the request.
    pub(super) body: Bytes,
    pub(super) report: PagingReport,
    shared: Arc<Shared>,
    head: request::Parts,
    deadline: Option<Deadline>,
    trail: Option<CallTrail>,
    /// The ticket of the first page in the ledger's queue: later pages are no new calls.
    ticket: Option<u64>,
    sent: u32,
    rng: fastrand::Rng,
}

/// A response that was read to its end.
pub(super) struct Fetched<P> {
    pub(super) head: response::Parts,
    pub(super) bytes: Bytes,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) page: PageResponse<P>,
}

/// Reads what a response body is.
type Read<P> = fn(&[u8]) -> Result<PageResponse<P>, OutlineError>;

impl Calls {
    pub(super) fn new(client: Client, shared: Arc<Shared>, request: Request<ReplayBody>) -> Self {
        let (mut head, body) = request.into_parts();
        let outline = body.outline();
        let operation = outline.map_or("", |outline| outline.operation_name());
        remove_body_headers(&mut head.headers);
        // Compressed responses cannot be merged.
        head.headers.remove(ACCEPT_ENCODING);
        Self {
            client,
            operation: operation.into(),
            body: body.to_bytes(),
            report: PagingReport::default(),
            deadline: head.extensions.get().copied(),
            trail: CallTrail::of(&head.extensions).cloned(),
            head,
            ticket: None,
            sent: 0,
            rng: shared.jitter.rng(),
            shared,
        }
    }

    /// Returns how many bytes of a synchronisation are collected.
    pub(super) fn max_sync(&self) -> u64 {
        self.shared.config.max_sync
    }

    /// Returns the error of a page that did not come.
    pub(super) fn error(&self, next: NextPage, cause: PageFailure) -> PagingError {
        PagingError {
            operation: self.operation.clone(),
            next,
            cause,
        }
    }

    /// Waits before a page is asked for again, as it was asked for `earlier` times.
    pub(super) async fn wait(&mut self, earlier: u32) {
        let wait = self.shared.config.backoff.wait(earlier, &mut self.rng);
        let waiting = tokio::time::sleep(wait);
        match self.deadline {
            // The next call says that it is too late.
            Some(deadline) => drop(deadline.bound(waiting).await),
            None => waiting.await,
        }
    }

    /// Asks for a page, again if its response breaks off: nothing is changed by that.
    pub(super) async fn fetch<P>(
        &mut self,
        body: ReplayBody,
        read: Read<P>,
    ) -> Result<Fetched<P>, PageFailure> {
        let mut tries = 0;
        loop {
            let broken = match self.send(body.rewind(), tries > 0).await? {
                Ok(response) => match fetched(response, read) {
                    Ok(fetched) => return Ok(fetched),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            tries += 1;
            if tries > retries_of_loss(&*broken) {
                let source = broken;
                return Err(PageFailure::Incomplete { tries, source });
            }
            self.wait(tries - 1).await;
        }
    }

    /// Sends one request, and reads the response at once, so that whatever is held for it is released. The inner error is
    /// that of a response that broke off.
    async fn send(
        &mut self,
        body: ReplayBody,
        again: bool,
    ) -> Result<Result<CollectedResponse, BoxError>, PageFailure> {
        if let Some(late) = DeadlineElapsed::of(self.deadline) {
            return Err(PageFailure::Call(late.into()));
        }
        let stalled = Deadline::within(self.shared.config.stall_timeout);
        let deadline = self.deadline.map_or(stalled, |call| call.min(stalled));
        let slot = AdmissionSlot::new();
        let trail = self
            .trail
            .as_ref()
            .map(|trail| trail.part(self.sent, again));
        let request = self.request(body, trail.as_ref(), &slot, deadline);
        self.sent = self.sent.saturating_add(1);
        let began = Instant::now();
        let (client, max_page) = (self.client.clone(), self.shared.config.max_page);
        let responded = |status: StatusCode| {
            if let Some(trail) = &trail {
                trail.record(|attempt| {
                    attempt.status.get_or_insert(status);
                    attempt.responded.get_or_insert_with(Instant::now);
                });
            }
        };
        let calling = async {
            let response = client.oneshot(request).await;
            let response = response.map_err(PageFailure::Call)?;
            responded(response.status());
            match collect(response, max_page).await {
                Ok(response) => Ok(Ok(response)),
                Err(CollectError::Lost(error)) => Ok(Err(error)),
                Err(CollectError::TooLong) => Err(PageFailure::TooLong { max_page }),
            }
        };
        let result = deadline.bound(calling).await;
        if let Some(trail) = &trail {
            trail.record(|attempt| {
                attempt.started.get_or_insert(began);
                attempt.ended.get_or_insert_with(Instant::now);
            });
        }
        self.ticket = self.ticket.or_else(|| slot.ticket());
        result.unwrap_or(Err(PageFailure::TimedOut))
    }

    fn request(
        &self,
        body: ReplayBody,
        trail: Option<&CallTrail>,
        slot: &AdmissionSlot,
        deadline: Deadline,
    ) -> Request<ReplayBody> {
        let mut request = Request::from_parts(self.head.clone(), body);
        let extensions = request.extensions_mut();
        if let Some(trail) = trail {
            extensions.insert(trail.clone());
        }
        extensions.insert(slot.clone());
        if let Some(ticket) = self.ticket {
            extensions.insert(Requeue::new().ticket(ticket));
        }
        if self.sent > 0 {
            extensions.insert(RetryAttempt);
        }
        extensions.insert(deadline);
        request
    }
}

/// Whether nothing came, or no more than the declaration of a document.
fn has_no_element(bytes: &[u8]) -> bool {
    SoapResponse::parse(bytes).is_ok_and(|response| response.is_soap.is_none())
}

/// Reads a response. One that ends before its envelope does is an error.
fn fetched<P>(response: CollectedResponse, read: Read<P>) -> Result<Fetched<P>, BoxError> {
    let CollectedResponse {
        head,
        body,
        trailers,
    } = response;
    let bytes = body.to_bytes();
    let page = match (head.status, read(&bytes)) {
        (StatusCode::OK, Ok(page)) => page,
        (StatusCode::OK, Err(OutlineError::Truncated { .. })) => return Err(CutShort.into()),
        (StatusCode::OK, Err(_)) if has_no_element(&bytes) => return Err(CutShort.into()),
        _ => PageResponse::Other,
    };
    Ok(Fetched {
        head,
        bytes,
        trailers,
        page,
    })
}

impl<P> Fetched<P> {
    /// Why this is no page.
    pub(super) fn failure(&self) -> PageFailure {
        let response = SoapResponse::parse(&self.bytes).unwrap_or_default();
        let mut messages = response.messages.into_iter();
        let message = messages.find(|message| message.code != ResponseCode::NO_ERROR);
        let (code, text) = match message {
            Some(message) => (message.code, message.text),
            None => (ResponseCode::from_text(""), Box::default()),
        };
        let status = self.head.status;
        PageFailure::NotAPage { status, code, text }
    }
}
