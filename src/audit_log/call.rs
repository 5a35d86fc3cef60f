//! [`Call`]: a call under way, with what is known of it so far.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body::Body;
use tokio::time::Instant;
use tracing::Span;

use super::capture::Capture;
use super::facts::{Facts, ResponseInspector};
use super::failed::Failed;
use super::levels::{Level, Levels};
use super::request::RequestState;
use super::server_ids::ServerIds;
use super::shared::{Shared, guarded};
use crate::body::encoding;
use crate::principal::Principal;
use crate::trail::{CallTrail, RetryAttempt};

/// One call. Dropping it makes its record (`assemble`), so that there is one however the call ends.
pub(super) struct Call {
    pub(super) shared: Arc<Shared>,
    pub(super) levels: Levels,
    pub(super) time: SystemTime,
    pub(super) begin: Instant,
    pub(super) trail: CallTrail,
    /// In the caller's span; what happens further in, and the record, happen in this one.
    pub(super) span: Span,
    pub(super) request: RequestState,
    pub(super) response: Option<ResponseState>,
    pub(super) end: End,
}

/// A call that is recorded, or none.
///
/// The drop of none is one comparison, inlined: that of an `Option<Box<Call>>` is a call of all
/// there is to drop in a `Call`.
pub(super) struct Recorded(ManuallyDrop<Option<Box<Call>>>);

impl Recorded {
    #[inline]
    pub(super) fn new(call: Option<Box<Call>>) -> Self {
        Self(ManuallyDrop::new(call))
    }
}

impl Deref for Recorded {
    type Target = Option<Box<Call>>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Recorded {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for Recorded {
    #[inline]
    fn drop(&mut self) {
        if self.is_some() {
            abandon(self);
        }
    }
}

// Makes the record.
#[cold]
#[inline(never)]
fn abandon(recorded: &mut Recorded) {
    recorded.take();
}

/// The response of one call.
pub(super) struct ResponseState {
    pub(super) received: Instant,
    pub(super) status: StatusCode,
    pub(super) headers: Option<HeaderMap>,
    pub(super) ids: Option<Box<ServerIds>>,
    pub(super) inspector: Option<Box<dyn ResponseInspector>>,
    pub(super) bytes: u64,
    /// Whether the inspector was shown every byte so far.
    pub(super) inspected: bool,
    pub(super) body: Option<Capture>,
}

/// How far the call got.
pub(super) enum End {
    /// The caller dropped it.
    Abandoned,
    Completed,
    Failed(Failed),
}

impl Call {
    /// Returns the call that begins with this request, if it is to be recorded. Puts a trail into
    /// its extensions.
    pub(super) fn begin<B: Body + 'static>(
        shared: &Arc<Shared>,
        facts: &Arc<impl Facts>,
        head: &mut Parts,
        body: &B,
    ) -> Option<Box<Self>> {
        let look = shared.control.look();
        // The facts are somebody else's code.
        let begun = guarded(|| RequestState::begin(shared, facts, head, body, look));
        let Some(begun) = begun else {
            shared.control.lost.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let (levels, span, request) = begun?;
        if head.extensions.get::<RetryAttempt>().is_some() {
            shared.control.warn_of_retries();
        }
        let trail = match CallTrail::of(&head.extensions) {
            Some(trail) => trail.clone(),
            None => {
                let trail = CallTrail::new();
                head.extensions.insert(trail.clone());
                trail
            }
        };
        Some(Box::new(Self {
            span,
            shared: Arc::clone(shared),
            levels,
            time: SystemTime::now(),
            begin: Instant::now(),
            trail,
            request,
            response: None,
            end: End::Abandoned,
        }))
    }

    /// Notes the head of the response.
    pub(super) fn respond(&mut self, status: StatusCode, headers: &HeaderMap) {
        let level = self.settle();
        let compressed = encoding(headers).is_some();
        let mut inspector = self.request.known.lock().facts.inspector.take();
        let reads = guarded(|| {
            inspector
                .as_mut()
                .is_some_and(|inspector| inspector.head(status, headers))
        });
        let full = level >= Level::Full;
        self.response = Some(ResponseState {
            received: Instant::now(),
            status,
            headers: (level >= Level::Headers).then(|| headers.clone()),
            ids: ServerIds::unless_recorded(&self.trail, headers),
            inspected: reads == Some(true) && !compressed,
            inspector: inspector.filter(|_| reads.is_some()),
            bytes: 0,
            body: full.then(|| Capture::new(headers, self.shared.body_limit)),
        });
    }

    /// Notes bytes of the response that have passed: those of `frame`, or a part of one.
    pub(super) fn pass(&mut self, bytes: &[u8], frame: Option<&Bytes>) {
        let Some(response) = &mut self.response else {
            return;
        };
        response.bytes = response.bytes.saturating_add(bytes.len() as u64);
        if let (true, Some(inspector)) = (response.inspected, &mut response.inspector) {
            if guarded(|| inspector.read(bytes)).is_none() {
                response.inspected = false;
                response.inspector = None;
            }
        }
        if let Some(body) = &mut response.body {
            body.keep(bytes, frame);
        }
    }

    /// Notes bytes of the response that have passed and could not be looked at.
    pub(super) fn pass_unseen(&mut self, bytes: usize) {
        if let (Some(response), true) = (&mut self.response, bytes > 0) {
            response.bytes = response.bytes.saturating_add(bytes as u64);
            response.inspected = false;
            if let Some(body) = &mut response.body {
                body.skip(bytes as u64);
            }
        }
    }

    /// Notes that the response was read to its end.
    pub(super) fn complete(&mut self) {
        self.end = End::Completed;
    }

    /// Ends the call with an error of its own, or of the body of its response.
    pub(super) fn fail(mut self: Box<Self>, error: &(dyn std::error::Error + 'static)) {
        let failed = guarded(|| Failed::new(error, &self.shared.redaction));
        self.end = End::Failed(failed.unwrap_or_default());
    }

    /// Returns the level of the call. It is settled once it is known whom the call concerns.
    pub(super) fn settle(&mut self) -> Level {
        self.request.see_unbuffered();
        let level = match self.levels.is_open() {
            true => self.settle_level(),
            false => self.levels.at_most,
        };
        self.request.settle(level);
        level
    }

    fn settle_level(&mut self) -> Level {
        let mut charged: Vec<Principal> = Vec::new();
        self.trail.each(|attempt| {
            let admission = attempt.admission.iter();
            for charge in admission.flat_map(|admission| admission.charges().iter()) {
                // Charges of one principal stand together, and those of the next attempt are the
                // same as a rule.
                if charged.last() != Some(charge.principal()) {
                    charged.push(charge.principal().clone());
                }
            }
        });
        self.trail
            .sums(|sums| charged.extend(sums.principals.iter().cloned()));
        let facts = &self.request.known.lock().facts;
        self.levels.name(facts.operation.as_deref());
        let caller = facts.caller.iter().map(|caller| caller.name());
        let named = caller.chain(facts.mailbox.as_deref());
        let charged = charged.iter().map(|principal| principal.name());
        self.levels.settle(named.chain(charged))
    }
}
