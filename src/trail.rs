//! What happened to one call, written down by each layer on its way.
//!
//! Whoever wants to know puts a [`CallTrail`] in the request's extensions and keeps a clone. Without one the layers
//! write nothing down.
//!
//! ```
//! use tower_ews::trail::CallTrail;
//!
//! let trail = CallTrail::new();
//! let mut request = http::Request::new(());
//! request.extensions_mut().insert(trail.clone());
//! // ... a layer that the request comes through:
//! if let Some(trail) = CallTrail::of(request.extensions()) {
//!     trail.record(|attempt| attempt.client_request_id = Some("b7a3...".into()));
//! }
//! // ... and its caller, afterwards:
//! assert_eq!(trail.attempts().len(), 1);
//! ```

use std::sync::Arc;
use std::time::Duration;

use http::{Extensions, StatusCode};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::ledger::Receipt;

/// Takes down what each layer did with a call. Clones share what they take down.
///
/// The clone that a layer finds in a request's extensions writes to that request's attempt.
#[derive(Clone, Debug, Default)]
pub struct CallTrail {
    attempts: Arc<Mutex<Attempts>>,
    current: usize,
    /// Made by a layer for what a call is charged, with nobody to read the rest.
    for_receipts: bool,
}

/// Most calls take one attempt.
type Attempts = SmallVec<[Attempt; 1]>;

/// A request extension: the request was sent before, or is not the first part of a call, so it needs an id of its own.
///
/// Layers that send a request again put it there; a [`CallTrail`] tells as much.
///
/// ```
/// use tower_ews::trail::Resend;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(Resend);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resend;

/// One attempt of a call: what was sent once.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Attempt {
    /// When the attempt began, before any queue.
    pub started: Option<Instant>,
    /// How long the call backed off before this attempt, outside the ledger's queue.
    pub backed_off: Duration,
    /// How long it waited for its permit, gates included.
    pub queued: Duration,
    /// What it was charged for, and its place in line.
    pub receipt: Option<Receipt>,
    /// `client-request-id` of the attempt.
    pub client_request_id: Option<Box<str>>,
    /// `request-id` of the answer.
    pub request_id: Option<Box<str>>,
    /// `client-request-id` of the answer, where it is not the one that was sent.
    pub different_echo: Option<Box<str>>,
    /// `X-FEServer` of the answer.
    pub fe_server: Option<Box<str>>,
    /// `X-BEServer` of the answer, or another header that names the back end.
    pub be_server: Option<Box<str>>,
    /// `X-DiagInfo` of the answer.
    pub diag_info: Option<Box<str>>,
    /// The answer's status.
    pub status: Option<StatusCode>,
    /// What the answer or error told, in a few words such as `ErrorServerBusy`.
    pub signal: Option<Box<str>>,
    /// Whether an earlier attempt of this call may have been executed: "not found" or "exists" can mean success.
    pub resend: bool,
}

impl CallTrail {
    /// An empty trail.
    pub fn new() -> Self {
        Self::default()
    }

    /// A trail that nobody reads but the layer that makes it, to learn what each attempt is charged.
    pub(crate) fn for_receipts() -> Self {
        Self {
            for_receipts: true,
            ..Self::default()
        }
    }

    /// Whether somebody wants to know more than what the call was charged.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.for_receipts
    }

    /// The trail in a request's (or response's) extensions.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get::<Self>()
    }

    /// A clone that writes to a new attempt, for the extensions of the request that is sent.
    pub fn begin_attempt(&self) -> Self {
        let mut attempts = self.attempts.lock();
        attempts.push(Attempt {
            started: self.is_wanted().then(Instant::now),
            ..Attempt::default()
        });
        Self {
            attempts: Arc::clone(&self.attempts),
            current: attempts.len() - 1,
            for_receipts: self.for_receipts,
        }
    }

    /// Writes to this clone's attempt, the first one unless [`begin_attempt`](Self::begin_attempt) made it.
    pub fn record<T>(&self, write: impl FnOnce(&mut Attempt) -> T) -> T {
        let mut attempts = self.attempts.lock();
        if attempts.len() <= self.current {
            attempts.resize_with(self.current + 1, Attempt::default);
        }
        write(&mut attempts[self.current])
    }

    /// Writes the caller's own id to this attempt, unless an attempt of the call has an id already.
    pub(crate) fn record_first_id(&self, id: &str) -> bool {
        // One lock: parts of a call that leave at the same time share the trail, and only one of them gets the id.
        let mut attempts = self.attempts.lock();
        if attempts
            .iter()
            .any(|attempt| attempt.client_request_id.is_some())
        {
            return false;
        }
        if attempts.len() <= self.current {
            attempts.resize_with(self.current + 1, Attempt::default);
        }
        if let Some(attempt) = attempts.get_mut(self.current) {
            attempt.client_request_id = Some(id.into());
        }
        true
    }

    /// Writes an id to this attempt, or to a new one if this one has been sent: a retry layer that knows no trail is
    /// above. Returns the clone that writes to that attempt.
    pub(crate) fn record_new_id(&self, id: Option<&str>) -> Self {
        let sent = self.record(|attempt| attempt.client_request_id.is_some());
        let trail = if sent {
            self.begin_attempt()
        } else {
            self.clone()
        };
        trail.record(|attempt| attempt.client_request_id = id.map(Into::into));
        trail
    }

    /// What this clone's attempt was charged for.
    pub fn receipt(&self) -> Option<Receipt> {
        self.attempts
            .lock()
            .get(self.current)
            .and_then(|attempt| attempt.receipt.clone())
    }

    /// The place in line that the call's last permit had.
    pub fn place(&self) -> Option<u64> {
        self.attempts
            .lock()
            .iter()
            .rev()
            .find_map(|attempt| attempt.receipt.as_ref().map(|receipt| receipt.place))
    }

    /// All attempts so far, in order.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts.lock().to_vec()
    }
}
