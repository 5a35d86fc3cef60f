//! What happened to one call, as each layer recorded it.
//!
//! To observe a call, put a [`CallTrail`] into the extensions of its request and keep a clone. Without
//! one the layers record nothing. No layer decides anything by a trail, so a call takes the same
//! course with and without one. What layers need of each other travels in other extensions, such as
//! [`RetryAttempt`].
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
//!
//! # Bounds
//!
//! A trail lists the first 64 attempts of a call, the 448 later ones that ended last, and those that
//! are under way (512 at most; when there are more, the oldest one counts as over). The others are
//! summed up in [`LeftOut`]. A call of any number of attempts therefore keeps less than a megabyte,
//! and each write costs the same. An attempt is over when its [`ended`](Attempt::ended) is written,
//! or when the next attempt of its part begins. What is written to an attempt after it was left out
//! is lost.

mod attempt;
mod left_out;
mod log;

use std::sync::Arc;
use std::time::Duration;

use http::Extensions;
use parking_lot::Mutex;

pub use self::attempt::Attempt;
pub(crate) use self::attempt::{Times, whole_micros};
pub use self::left_out::LeftOut;
pub(crate) use self::log::{ListedAttempt, TrailSnapshot};
use self::log::{Log, View};

/// Records what each layer did with a call. Clones share what they record.
///
/// The clone that a layer finds in a request's extensions writes to that request's attempt. The [module docs](self) state the
/// bounds.
///
/// ```
/// use http::Request;
/// use tower_ews::trail::CallTrail;
///
/// let trail = CallTrail::new();
/// let mut request = Request::new(());
/// request.extensions_mut().insert(trail.clone());
///
/// // Each layer does so when it sends the request.
/// let attempt = CallTrail::of(request.extensions()).unwrap().begin_attempt();
/// attempt.record(|attempt| attempt.status = Some(http::StatusCode::OK));
/// assert_eq!(trail.attempts()[0].status, Some(http::StatusCode::OK));
/// ```
#[derive(Clone, Debug, Default)]
pub struct CallTrail {
    log: Arc<Mutex<Log>>,
    /// The attempt or the part that this clone stands for. None for the whole call.
    view: Option<Arc<View>>,
}

/// A request extension: the request was sent before, or is not the first part of a batch, so it needs an id of its own.
///
/// Layers that send a request again insert it, as [`ServerBusyBackoff`](crate::server_busy_backoff) and
/// [`BatchSplitter`](crate::batch_splitter) do, and `FindPaging` for later pages. [`ClientRequestId`](crate::client_request_id) reads
/// it, and [`AuditLog`](crate::audit_log) warns of it.
///
/// ```
/// use tower_ews::trail::RetryAttempt;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(RetryAttempt);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryAttempt;

/// A request extension: how often the same request was sent before. [`ServerBusyBackoff`](crate::server_busy_backoff) inserts it
/// with [`RetryAttempt`], and [`HttpSpan`](crate::http_span) shows it.
///
/// ```
/// use tower_ews::trail::ResendCount;
///
/// assert_eq!(ResendCount::new(2).get(), 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResendCount(u32);

impl ResendCount {
    /// Creates the extension of a request that was sent so often before.
    pub fn new(count: u32) -> Self {
        Self(count)
    }

    /// Returns how often.
    pub fn get(&self) -> u32 {
        self.0
    }
}

/// A request extension: the request is a part of a batch, whose sender can send smaller parts, and counts what fails.
///
/// A layer that sends requests again only waits for the end of a throttling, and for a server that cannot be reached.
/// Every other failure it passes on at once: the part may have been too large for the server, or one member of it may be
/// to blame, and nobody is to count the same failure twice.
///
/// ```
/// use tower_ews::trail::PartOfBatch;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(PartOfBatch);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartOfBatch;

impl CallTrail {
    /// Creates an empty trail.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the trail in a request's (or response's) extensions.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get::<Self>()
    }

    fn with(&self, view: Arc<View>) -> Self {
        Self {
            log: Arc::clone(&self.log),
            view: Some(view),
        }
    }

    /// Begins a new attempt. Returns a clone that writes to it, for the extensions of the request that is sent.
    ///
    /// The attempts of one part, or of a call that is sent whole, follow each other.
    pub fn begin_attempt(&self) -> Self {
        self.with(self.log.lock().begin(self.view.as_ref()))
    }

    /// Returns a clone for one part of a batch: its attempts say to which part they belong. Parts can be on their way at the
    /// same time.
    ///
    /// `number` is the part's, a new one each time that something is sent; `resend` says whether members of it may have been
    /// executed before ([`Attempt::resend`]).
    ///
    /// ```
    /// use tower_ews::trail::CallTrail;
    ///
    /// let trail = CallTrail::new();
    /// let (one, other) = (trail.part(0, false), trail.part(1, false));
    /// other.begin_attempt();
    /// one.begin_attempt();
    /// let parts: Vec<_> = trail.attempts().iter().map(|attempt| attempt.part).collect();
    /// assert_eq!(parts, [Some(1), Some(0)]);
    /// ```
    pub fn part(&self, number: u32, resend: bool) -> Self {
        self.with(Arc::new(View::part(self.view.clone(), number, resend)))
    }

    /// Sets how long a part was held back before it was sent. Before anything is written to it.
    pub(crate) fn held_back(mut self, time: Duration) -> Self {
        if let Some(view) = self.view.as_mut().and_then(Arc::get_mut) {
            view.backed_off = time;
        }
        self
    }

    /// Writes to this clone's attempt: the one that [`begin_attempt`](Self::begin_attempt) made, else the last one of the part,
    /// or the first one of the call. Begins one if there is none.
    pub fn record(&self, write: impl FnOnce(&mut Attempt)) {
        let mut log = self.log.lock();
        let number = log.here(self.view.as_ref());
        log.write(number, write);
    }

    /// Writes the id that is sent to this clone's attempt, or to a new one if this one has been sent: a retry layer that knows no
    /// trail is above. Returns the clone that writes to that attempt.
    pub(crate) fn record_id(&self, id: Option<&str>) -> Self {
        let mut log = self.log.lock();
        let mut view = self.view.clone();
        let mut number = log.here(view.as_ref());
        let sent = |attempt: &Attempt| attempt.client_request_id.is_some();
        if log.get(number).is_none_or(sent) {
            let begun = view.insert(log.begin(self.view.as_ref()));
            number = log.here(Some(begun));
        }
        log.write(number, |attempt| {
            attempt.client_request_id = id.map(Into::into)
        });
        Self {
            log: Arc::clone(&self.log),
            view,
        }
    }

    /// Returns the attempts of the call so far, in order, without those that are [left out](Self::left_out).
    pub fn attempts(&self) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        self.log
            .lock()
            .each(None, |attempt| attempts.push(attempt.clone()));
        attempts
    }

    /// Returns the sums of the attempts that are not listed any more.
    ///
    /// ```
    /// use tower_ews::trail::CallTrail;
    ///
    /// let trail = CallTrail::new();
    /// trail.begin_attempt();
    /// assert_eq!(trail.left_out().attempts, 0);
    /// ```
    pub fn left_out(&self) -> LeftOut {
        let log = self.log.lock();
        log.left_out(None, LeftOut::clone).unwrap_or_default()
    }

    /// Calls `read` with each listed attempt that was begun through this clone, in order.
    pub(crate) fn each(&self, read: impl FnMut(&Attempt)) {
        self.log.lock().each(self.view.as_ref(), read);
    }

    /// Reads the sums of the attempts that were begun through this clone and are not listed any more, if there are any.
    pub(crate) fn sums<T>(&self, read: impl FnOnce(&LeftOut) -> T) -> Option<T> {
        self.log.lock().left_out(self.view.as_ref(), read)
    }

    /// Returns all that happened to what was begun through this clone.
    pub(crate) fn read_all(&self) -> TrailSnapshot {
        self.log.lock().read_all(self.view.as_ref())
    }
}

#[cfg(test)]
mod tests;
