//! [`Lease`]: what a call draws on a budget for longer than the call lasts.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::budget::Budget;
use super::charges::Charges;

/// Says what a call that waits draws by what is known now. None: what it was said to.
pub(crate) type Estimate = Arc<dyn Fn(&Charges) -> Option<Charges> + Send + Sync>;

/// What [`MakeCharges::lease`](super::MakeCharges::lease) returns for a call that begins, uses or ends something that outlasts calls, or
/// whose response tells what later calls cost ([`of_nothing`](Self::of_nothing)).
///
/// EWS subscriptions are one: what Subscribe draws on [`Budget::Subscriptions`] is drawn until Unsubscribe, or until the
/// subscription expires. The layer that holds the call's permit passes the response's bytes to the [`ReadLease`], and keeps the
/// charges on the budget under the id that it names.
///
/// ```
/// use std::time::Duration;
/// use tower_ews::principal::{Budget, Lease, LeaseChange, ReadLease};
///
/// /// Graph's POST /subscriptions, whose id the caller has chosen.
/// struct Subscribed(&'static str);
///
/// impl ReadLease for Subscribed {
///     fn read(&mut self, _: &[u8]) {}
///
///     fn end(&mut self) -> LeaseChange {
///         LeaseChange::Begin { id: self.0.into(), lasts: Duration::from_secs(3 * 86_400) }
///     }
/// }
///
/// let lease = Lease::new(Budget::Subscriptions, Subscribed("s1"));
/// assert_eq!(lease.budget(), Some(Budget::Subscriptions));
/// ```
pub struct Lease {
    budget: Option<Budget>,
    reader: Box<dyn ReadLease>,
    estimate: Option<Estimate>,
}

impl Lease {
    /// A lease of what the call draws on `budget`. `reader` reads the response.
    pub fn new(budget: Budget, reader: impl ReadLease + 'static) -> Self {
        Self {
            budget: Some(budget),
            reader: Box::new(reader),
            estimate: None,
        }
    }

    /// A lease that keeps nothing: `reader` only hears what the response says, so that later calls can be charged by it.
    pub fn of_nothing(reader: impl ReadLease + 'static) -> Self {
        Self {
            budget: None,
            reader: Box::new(reader),
            estimate: None,
        }
    }

    /// The call's charges are a guess, which `estimate` makes again while the call waits.
    #[cfg(feature = "ews")]
    pub(super) fn with_estimate(mut self, estimate: Estimate) -> Self {
        self.estimate = Some(estimate);
        self
    }

    pub(crate) fn estimate(&self) -> Option<&Estimate> {
        self.estimate.as_ref()
    }

    /// The budget whose charges last longer, if one's do.
    pub fn budget(&self) -> Option<Budget> {
        self.budget
    }

    pub(crate) fn reader(&mut self) -> &mut dyn ReadLease {
        &mut *self.reader
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

/// Reads in the response of a call what becomes of a [`Lease`].
///
/// ```
/// use std::time::Duration;
/// use tower_ews::principal::{LeaseChange, ReadLease};
///
/// /// The id of an upload session is the whole body of the response.
/// #[derive(Default)]
/// struct Session(Vec<u8>);
///
/// impl ReadLease for Session {
///     fn read(&mut self, bytes: &[u8]) {
///         self.0.extend_from_slice(bytes);
///     }
///
///     fn end(&mut self) -> LeaseChange {
///         match std::str::from_utf8(&self.0) {
///             Ok(id) => LeaseChange::Begin { id: id.into(), lasts: Duration::from_secs(3_600) },
///             Err(_) => LeaseChange::None,
///         }
///     }
/// }
///
/// let mut session = Session::default();
/// session.read(b"session");
/// session.read(b"-1");
/// assert!(matches!(session.end(), LeaseChange::Begin { id, .. } if &*id == "session-1"));
/// ```
pub trait ReadLease: Send + Sync {
    /// Takes in the next bytes of the response body.
    fn read(&mut self, bytes: &[u8]);

    /// Says what the response means. Called once, when the body has ended; not if it broke off or was dropped.
    fn end(&mut self) -> LeaseChange;
}

/// What a response means for leases.
///
/// ```
/// use tower_ews::principal::LeaseChange;
///
/// let change = LeaseChange::End(vec!["AAAA".into()]);
/// assert_ne!(change, LeaseChange::None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseChange {
    /// Nothing.
    None,
    /// The server has no room for it: the budget is exceeded.
    Refused,
    /// It has begun.
    Begin {
        /// What it is known by.
        id: Box<str>,
        /// How long it lasts after its last use.
        lasts: Duration,
    },
    /// These were used.
    Renew(Vec<Box<str>>),
    /// These have ended, or are lost.
    End(Vec<Box<str>>),
}
