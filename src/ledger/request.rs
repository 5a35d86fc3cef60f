//! What a call asks a ledger for, and what it was given: [`AcquireRequest`] and [`Admission`].

use std::fmt;

use http::uri::Authority;
use tokio::time::Instant;
use triomphe::Arc;

use crate::extensions::Priority;
use crate::principal::{Budget, Charge, Charges, Estimate};

/// What a call asks a ledger for.
///
/// Cheap to clone: a queue that keeps it, and the [`Admission`] that comes of it, share it.
///
/// ```
/// use std::time::Duration;
/// use tokio::time::Instant;
/// use tower_ews::ledger::AcquireRequest;
/// use tower_ews::principal::Principal;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let request = AcquireRequest::new(Principal::new("contoso"))
///     .with_deadline(Instant::now() + Duration::from_secs(30));
/// assert_eq!(request.charges().len(), 1);
/// # });
/// ```
#[derive(Clone, Default)]
pub struct AcquireRequest(Arc<Inner>);

#[derive(Clone, Default)]
struct Inner {
    charges: Charges,
    endpoint: Option<Authority>,
    admitted: Admitted,
    wishes: Option<Box<Wishes>>,
}

/// What a call asks for besides. Most do not, and each new call writes and copies an [`Inner`]: watched by `benches/overhead`,
/// `concurrency_by_principal/1`.
#[derive(Clone, Default)]
struct Wishes {
    estimate: Option<Estimate>,
    deadline: Option<Instant>,
    ticket: Option<u64>,
    not_before: Option<Instant>,
    priority: Priority,
    /// The request of the whole call, once charges were split off.
    whole: Option<AcquireRequest>,
}

/// What an admission adds to its request. In the same place, so that a permit is small: it is moved about into the
/// response future, into the body, and with both.
#[derive(Clone, Copy, Debug, Default)]
struct Admitted {
    ticket: u64,
    sequence: u64,
    watched: bool,
    split_off: bool,
}

impl AcquireRequest {
    /// Asks for `charges`.
    pub fn new(charges: impl Into<Charges>) -> Self {
        Self(Arc::new(Inner {
            charges: charges.into(),
            ..Inner::default()
        }))
    }

    // On the hot path: written once, where it stays. Watched by `benches/overhead`, `concurrency_by_principal/1`.
    #[inline]
    pub(crate) fn of_call(
        charges: Charges,
        endpoint: Option<Authority>,
        deadline: Option<Instant>,
        requeue: Requeue,
        priority: Priority,
    ) -> Self {
        let Requeue { ticket, not_before } = requeue;
        let some = deadline.is_some() || ticket.is_some() || not_before.is_some();
        let wishes = (some || priority != Priority::default()).then(|| {
            Box::new(Wishes {
                deadline,
                ticket,
                not_before,
                priority,
                ..Wishes::default()
            })
        });
        Self(Arc::new(Inner {
            charges,
            endpoint,
            admitted: Admitted::default(),
            wishes,
        }))
    }

    fn change(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    fn wish(self, wish: impl FnOnce(&mut Wishes)) -> Self {
        self.change(|inner| wish(inner.wishes.get_or_insert_default()))
    }

    fn wishes(&self) -> Option<&Wishes> {
        self.0.wishes.as_deref()
    }

    /// Sets where the call goes to: a closed gate of that endpoint holds it back.
    #[must_use]
    pub fn with_endpoint(self, endpoint: impl Into<Option<Authority>>) -> Self {
        let endpoint = endpoint.into();
        self.change(|inner| inner.endpoint = endpoint)
    }

    /// Sets when waiting is no use any more. A ledger has a bound of its own besides.
    #[must_use]
    pub fn with_deadline(self, deadline: impl Into<Option<Instant>>) -> Self {
        let deadline = deadline.into();
        self.wish(|wishes| wishes.deadline = deadline)
    }

    /// Sets the place in the queue that an earlier attempt of the same call had ([`Admission::ticket`]).
    #[must_use]
    pub fn with_ticket(self, ticket: impl Into<Option<u64>>) -> Self {
        let ticket = ticket.into();
        self.wish(|wishes| wishes.ticket = ticket)
    }

    /// Sets the time before which the call is not to be admitted, whatever the gates say.
    ///
    /// A call that is sent again after a refusal says here when the server allows it. So it does not depend on the ledger having
    /// heard of the refusal.
    #[must_use]
    pub fn with_not_before(self, not_before: impl Into<Option<Instant>>) -> Self {
        let not_before = not_before.into();
        self.wish(|wishes| wishes.not_before = not_before)
    }

    /// Sets how urgent the call is. Default: [`Priority::Normal`].
    #[must_use]
    pub fn with_priority(self, priority: Priority) -> Self {
        self.wish(|wishes| wishes.priority = priority)
    }

    #[cfg(feature = "redis")]
    pub(super) fn with_charges(self, charges: Charges) -> Self {
        self.change(|inner| {
            inner.charges = charges;
            if let Some(wishes) = &mut inner.wishes {
                wishes.estimate = None;
            }
        })
    }

    /// Its charges are a guess: the call waits for what is known when its turn has come.
    pub(crate) fn with_estimate(self, estimate: Estimate) -> Self {
        self.wish(|wishes| wishes.estimate = Some(estimate))
    }

    /// The same with the charges that are known now, if they are others.
    pub(super) fn estimated(&self) -> Option<Self> {
        let charges = self.wishes()?.estimate.as_ref()?(&self.0.charges)?;
        Some(self.clone().change(|inner| inner.charges = charges))
    }

    fn whole(&self) -> Option<&Self> {
        self.wishes()?.whole.as_ref()
    }

    /// What to acquire: every charge, or none.
    pub fn charges(&self) -> &Charges {
        &self.0.charges
    }

    /// Where the call goes to.
    pub fn endpoint(&self) -> Option<&Authority> {
        self.0.endpoint.as_ref()
    }

    /// When waiting is no use any more.
    pub fn deadline(&self) -> Option<Instant> {
        self.wishes()?.deadline
    }

    /// The place in the queue of an earlier attempt.
    pub fn ticket(&self) -> Option<u64> {
        self.wishes()?.ticket
    }

    /// The time before which the call is not to be admitted.
    pub fn not_before(&self) -> Option<Instant> {
        self.wishes()?.not_before
    }

    /// How urgent the call is.
    pub fn priority(&self) -> Priority {
        self.wishes()
            .map_or(Priority::default(), |wishes| wishes.priority)
    }
}

impl fmt::Debug for AcquireRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquireRequest")
            .field("charges", &self.0.charges)
            .field("endpoint", &self.0.endpoint)
            .field("deadline", &self.deadline())
            .field("ticket", &self.ticket())
            .field("not_before", &self.not_before())
            .field("priority", &self.priority())
            .finish()
    }
}

/// What a ledger has admitted: which charges were acquired, and in what order.
///
/// A [`Permit`](super::Permit) carries it, so nothing has to be looked up to know what a permit stands for. It says what *was*
/// acquired: reports about it are accepted after its permit was released as well.
///
/// ```
/// use tower_ews::ledger::{AcquireRequest, Admission};
/// use tower_ews::principal::Principal;
///
/// // How a ledger makes one: for its fifth caller, and its seventh admission.
/// let request = AcquireRequest::new(Principal::new("contoso"));
/// let admission = Admission::new(request, 5, 7);
/// assert_eq!(admission.charges()[0].principal().name(), "contoso");
/// assert_eq!((admission.ticket(), admission.sequence()), (5, 7));
/// ```
#[derive(Clone)]
pub struct Admission(AcquireRequest);

impl Admission {
    /// The admission of `request` with its place in the queue and its number among the admissions.
    ///
    /// A smaller `ticket` came first; a later admission has a larger `sequence`.
    // On the hot path, where nobody shares the request: watched by `benches/overhead`, `concurrency_by_principal/1`.
    #[inline]
    pub fn new(request: AcquireRequest, ticket: u64, sequence: u64) -> Self {
        Self(request.change(|inner| {
            inner.admitted = Admitted {
                ticket,
                sequence,
                ..Admitted::default()
            };
        }))
    }

    fn admitted(&self) -> &Admitted {
        &self.0.0.admitted
    }

    /// Says that the ledger wants to hear of a good response as soon as its head has been judged, with
    /// [`Signal::Accepted`](super::Signal::Accepted). Default: it does not, its end is enough.
    #[must_use]
    pub fn watched(self, watched: bool) -> Self {
        Self(self.0.change(|inner| inner.admitted.watched = watched))
    }

    /// Whether the ledger wants [`Signal::Accepted`](super::Signal::Accepted) reported: the call tests a gate that has just
    /// opened, or a limit.
    pub fn is_watched(&self) -> bool {
        self.admitted().watched
    }

    /// The charges that were acquired.
    pub fn charges(&self) -> &Charges {
        self.0.charges()
    }

    /// Where the call goes to.
    pub fn endpoint(&self) -> Option<&Authority> {
        self.0.endpoint()
    }

    /// The request that was admitted.
    pub fn request(&self) -> &AcquireRequest {
        &self.0
    }

    /// The call's place in the queue: smaller came first. The next attempt of the call asks with it again.
    pub fn ticket(&self) -> u64 {
        self.admitted().ticket
    }

    /// The number of this admission: later ones have larger numbers.
    pub fn sequence(&self) -> u64 {
        self.admitted().sequence
    }

    /// Whether this was split off another admission, which stands for the call.
    pub fn is_split_off(&self) -> bool {
        self.admitted().split_off
    }

    /// The charges of the whole call for the part that stands for it, whatever was split off. None for what was split off.
    pub(crate) fn call_charges(&self) -> &[Charge] {
        match self.0.whole() {
            _ if self.is_split_off() => &[],
            Some(whole) => whole.charges(),
            None => self.charges(),
        }
    }

    /// Who is told that the server was busy: those that pay for the call, or for what was split off.
    #[cfg(feature = "redis")]
    pub(super) fn charged(&self) -> impl Iterator<Item = &crate::principal::Principal> {
        let charged = match self.is_split_off() {
            true => self.charges(),
            false => self.call_charges(),
        };
        let mut last = None;
        let principals = charged.iter().map(Charge::principal);
        principals.filter(move |principal| last.replace(*principal) != Some(*principal))
    }

    /// Whether it is a part of what was admitted.
    #[inline]
    pub(crate) fn is_divided(&self) -> bool {
        self.0.whole().is_some()
    }

    /// Divides it into what stays with the call and the charges on `budget`. None if there are no such charges.
    pub fn split(&self, budget: Budget) -> Option<(Self, Self)> {
        let of_budget = |charge: &&Charge| charge.budget() == budget;
        let taken: Charges = self.charges().iter().filter(of_budget).cloned().collect();
        if taken.is_empty() {
            return None;
        }
        let rest: Charges = self
            .charges()
            .iter()
            .filter(|charge| !of_budget(charge))
            .cloned()
            .collect();
        let with = |charges: Charges, split_off: bool| {
            let whole = self.0.whole().unwrap_or(&self.0).clone();
            Self(self.0.clone().change(|inner| {
                inner.charges = charges;
                inner.admitted.split_off = split_off;
                inner.wishes.get_or_insert_default().whole = Some(whole);
            }))
        };
        Some((with(rest, self.is_split_off()), with(taken, true)))
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("charges", self.charges())
            .field("endpoint", &self.endpoint())
            .field("ticket", &self.ticket())
            .field("sequence", &self.sequence())
            .field("watched", &self.is_watched())
            .field("split_off", &self.is_split_off())
            .finish()
    }
}

/// A request extension: how a call that is sent again asks for its permit.
///
/// ```
/// use tower_ews::ledger::Requeue;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(Requeue::new().ticket(7));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Requeue {
    /// The place in the queue that an earlier attempt of the call had.
    pub ticket: Option<u64>,
    /// The time before which it is not to be admitted.
    pub not_before: Option<Instant>,
}

impl Requeue {
    /// Asks for nothing special.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the place in the queue.
    #[must_use]
    pub fn ticket(mut self, ticket: impl Into<Option<u64>>) -> Self {
        self.ticket = ticket.into();
        self
    }

    /// Sets the time before which the call is not to be admitted.
    #[must_use]
    pub fn not_before(mut self, not_before: impl Into<Option<Instant>>) -> Self {
        self.not_before = not_before.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::principal::Principal;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_sent_again_asks_for_its_place_and_its_time() {
        let then = Instant::now() + Duration::from_secs(5);
        let requeue = Requeue::new().ticket(7).not_before(then);
        let request = AcquireRequest::of_call(Charges::new(), None, None, requeue, Priority::Bulk);
        assert_eq!(
            (request.ticket(), request.not_before()),
            (Some(7), Some(then))
        );
        assert_eq!(request.priority(), Priority::Bulk);
        let first = AcquireRequest::of_call(
            Charges::new(),
            None,
            None,
            Requeue::new(),
            Priority::Interactive,
        );
        assert_eq!(first.priority(), Priority::Interactive);
    }

    #[test]
    fn what_is_printed_says_who_is_charged() {
        let request = AcquireRequest::new(Principal::account("Amy")).with_ticket(7);
        let admission = Admission::new(request.clone(), 7, 9);
        for (printed, number) in [
            (format!("{request:?}"), "ticket: Some(7)"),
            (format!("{admission:?}"), "sequence: 9"),
        ] {
            let told = printed.contains("Account(amy)") && printed.contains(number);
            assert!(told, "{printed}");
        }
    }

    #[cfg(feature = "redis")]
    #[test]
    fn other_charges_leave_what_else_the_call_wishes() {
        let request = AcquireRequest::new(Principal::account("Amy")).with_ticket(7);
        let bo = AcquireRequest::new(Principal::account("Bo"));
        let other = request.with_charges(bo.charges().clone());
        assert_eq!(other.ticket(), Some(7));
        assert_eq!(other.charges()[0].principal(), &Principal::account("Bo"));
    }
}
