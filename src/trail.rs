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

use crate::ledger::Admission;

/// Takes down what each layer did with a call. Clones share what they take down.
///
/// The clone that a layer finds in a request's extensions writes to that request's attempt.
#[derive(Clone, Debug, Default)]
pub struct CallTrail {
    attempts: Arc<Mutex<Attempts>>,
    /// The attempt that this clone writes to. Without one: the first one of the call, the last one of the part.
    current: Option<usize>,
    part: Option<Part>,
}

/// The part of a batch that a clone belongs to.
#[derive(Clone, Copy, Debug)]
struct Part {
    number: u32,
    resend: bool,
    /// How long the part was held back before its first attempt.
    backed_off: Duration,
}

/// Most calls take one attempt.
type Attempts = SmallVec<[Attempt; 1]>;

/// A request extension: the request was sent before, or is not the first part of a call, so it needs an id of its own.
///
/// Layers that send a request again put it there; a [`CallTrail`] tells as much.
///
/// ```
/// use tower_ews::trail::RetryAttempt;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(RetryAttempt);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryAttempt;

/// A request extension: whoever sent the request can send less at a time.
///
/// A layer that sends again what it may hands over a lost answer, or one that leaves open whether the request was executed: it may have
/// been too much for the server, and would be once more.
///
/// ```
/// use tower_ews::trail::CanShrink;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(CanShrink);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CanShrink;

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
    /// Since when it waits for its permit. None once it has one or was refused one.
    pub waiting_since: Option<Instant>,
    /// When the head of its answer came.
    pub answered: Option<Instant>,
    /// When it was over: it failed, or the layer that sends it again or puts its answer together had read (or dropped) the body. None
    /// while it is on its way, and where the caller of the call reads the body.
    pub ended: Option<Instant>,
    /// What it was charged for.
    pub admission: Option<Admission>,
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
    /// The part of a batch that was sent, in the order in which parts were begun, from 0. None if the call was sent whole.
    pub part: Option<u32>,
    /// Whether an earlier attempt of this call may have been executed: "not found" or "exists" can mean success.
    pub resend: bool,
}

impl CallTrail {
    /// An empty trail.
    pub fn new() -> Self {
        Self::default()
    }

    /// The trail in a request's (or response's) extensions.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get::<Self>()
    }

    /// A clone that writes to a new attempt, for the extensions of the request that is sent.
    pub fn begin_attempt(&self) -> Self {
        let mut attempts = self.attempts.lock();
        let attempt = self.attempt(&attempts);
        attempts.push(attempt);
        Self {
            attempts: Arc::clone(&self.attempts),
            current: Some(attempts.len() - 1),
            part: self.part,
        }
    }

    /// A clone for one part of a batch: its attempts say which part they belong to, and it sees no other ones. Parts can be on their
    /// way at the same time.
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
        Self {
            attempts: Arc::clone(&self.attempts),
            current: None,
            part: Some(Part {
                number,
                resend,
                backed_off: Duration::ZERO,
            }),
        }
    }

    /// The same for a part that was held back for so long before it was sent.
    pub(crate) fn held_back(mut self, time: Duration) -> Self {
        if let Some(part) = &mut self.part {
            part.backed_off = time;
        }
        self
    }

    fn number(&self) -> Option<u32> {
        self.part.map(|part| part.number)
    }

    /// A new attempt of this clone's part, after these.
    fn attempt(&self, attempts: &[Attempt]) -> Attempt {
        let first = |part: &Part| {
            let number = Some(part.number);
            attempts.iter().rev().all(|attempt| attempt.part != number)
        };
        let held_back = self.part.filter(|part| !part.backed_off.is_zero());
        Attempt {
            started: Some(Instant::now()),
            backed_off: held_back
                .filter(first)
                .map_or(Duration::ZERO, |part| part.backed_off),
            part: self.number(),
            resend: self.part.is_some_and(|part| part.resend),
            ..Attempt::default()
        }
    }

    /// Where this clone's attempt is, if it has one.
    fn find(&self, attempts: &[Attempt]) -> Option<usize> {
        self.current.or_else(|| {
            let Some(part) = self.part else {
                return attempts.iter().position(|attempt| attempt.part.is_none());
            };
            // A part's attempts are among the last ones of a call with many.
            attempts
                .iter()
                .rposition(|attempt| attempt.part == Some(part.number))
        })
    }

    /// This clone's attempt, a new one if it has none.
    fn here<'a>(&self, attempts: &'a mut Attempts) -> &'a mut Attempt {
        let at = self.find(attempts).unwrap_or_else(|| {
            // It began before somebody wrote to it, nobody knows when.
            let attempt = Attempt {
                started: None,
                ..self.attempt(attempts)
            };
            attempts.push(attempt);
            attempts.len() - 1
        });
        &mut attempts[at]
    }

    /// Writes to this clone's attempt, the first one unless [`begin_attempt`](Self::begin_attempt) made it.
    pub fn record<T>(&self, write: impl FnOnce(&mut Attempt) -> T) -> T {
        write(self.here(&mut self.attempts.lock()))
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
        self.here(&mut attempts).client_request_id = Some(id.into());
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
    pub fn admission(&self) -> Option<Admission> {
        let attempts = self.attempts.lock();
        let at = self.find(&attempts)?;
        attempts.get(at)?.admission.clone()
    }

    /// Calls `read` with each attempt that belongs to this clone's request, in order: those of the call, or of its part, from the one
    /// on that this clone writes to.
    pub(crate) fn each(&self, mut read: impl FnMut(&Attempt)) {
        let attempts = self.attempts.lock();
        let from = self.current.unwrap_or(0);
        let number = self.number();
        attempts
            .iter()
            .skip(from)
            .filter(|attempt| number.is_none() || attempt.part == number)
            .for_each(&mut read);
    }

    /// All attempts so far, in order.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts.lock().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::AcquireRequest;
    use crate::principal::Principal;

    fn charge(trail: &CallTrail, ticket: u64) {
        let request = AcquireRequest::new(Principal::new("x"));
        trail.record(|attempt| attempt.admission = Some(Admission::new(request, ticket, 0)));
    }

    fn parts(trail: &CallTrail) -> Vec<(Option<u32>, bool)> {
        let attempts = trail.attempts();
        attempts
            .iter()
            .map(|attempt| (attempt.part, attempt.resend))
            .collect()
    }

    #[test]
    fn parts_see_their_own_attempts_alone() {
        let trail = CallTrail::new();
        let (one, other) = (trail.part(0, false), trail.part(1, true));
        let first = one.begin_attempt();
        charge(&other.begin_attempt(), 7);
        let ticket = |trail: &CallTrail| trail.admission().map(|admission| admission.ticket());
        assert_eq!(
            (ticket(&one), ticket(&other), ticket(&trail)),
            (None, Some(7), None)
        );
        charge(&first, 5);
        charge(&other.begin_attempt(), 9);
        assert_eq!(
            (ticket(&one), ticket(&first), ticket(&other)),
            (Some(5), Some(5), Some(9))
        );
        assert_eq!(ticket(&trail), None);
        let expected = [(Some(0), false), (Some(1), true), (Some(1), true)];
        assert_eq!(parts(&trail), expected);
    }

    #[test]
    fn the_first_attempt_of_a_part_tells_how_long_it_was_held_back() {
        let trail = CallTrail::new();
        let part = trail.part(0, false).held_back(Duration::from_secs(3));
        part.begin_attempt();
        part.begin_attempt();
        trail.part(1, false).begin_attempt();
        let held: Vec<_> = trail.attempts().iter().map(|a| a.backed_off).collect();
        assert_eq!(
            held,
            [Duration::from_secs(3), Duration::ZERO, Duration::ZERO]
        );
        let mut own = 0;
        part.each(|attempt| own += usize::from(attempt.part == Some(0)));
        let mut all = 0;
        trail.each(|_| all += 1);
        assert_eq!((own, all), (2, 3));
    }

    #[test]
    fn a_part_without_an_attempt_gets_one_when_it_is_written_to() {
        let trail = CallTrail::new();
        let part = trail.part(3, true);
        assert!(part.admission().is_none());
        charge(&part, 1);
        charge(&part, 2);
        assert_eq!(parts(&trail), [(Some(3), true)]);
        assert_eq!(part.clone().admission().map(|a| a.ticket()), Some(2));
        // Only one of the parts gets the caller's id.
        assert!(part.record_first_id("a"));
        assert!(!trail.part(4, false).record_first_id("b"));
        trail.record(|attempt| attempt.signal = Some("whole".into()));
        assert_eq!(parts(&trail), [(Some(3), true), (None, false)]);
    }
}
