//! What callers put into a request's extensions: who calls, until when, and how urgent it is.
//!
//! ```
//! use std::time::Duration;
//! use tower_ews::extensions::{Caller, Deadline, Priority};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let mut request = http::Request::new(String::from("<s:Envelope>...</s:Envelope>"));
//! request.extensions_mut().insert(Caller::new("svc@contoso.com"));
//! request.extensions_mut().insert(Deadline::within(Duration::from_secs(60)));
//! request.extensions_mut().insert(Priority::Interactive);
//! # });
//! ```
//!
//! What layers tell each other, and what they tell the caller, belongs to the layer or the ledger that it comes from: the
//! [crate's page](crate#how-layers-talk-to-each-other) has the table.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

/// A request extension: the authenticated account of a call. It is not in the SOAP text.
///
/// ```
/// use tower_ews::extensions::Caller;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(Caller::new("Svc@Contoso.com"));
/// assert_eq!(request.extensions().get::<Caller>().unwrap().name(), "svc@contoso.com");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(Arc<str>);

impl Caller {
    /// Creates the account named `name`. The case of ASCII letters makes no difference.
    pub fn new(name: &str) -> Self {
        Self(name.to_ascii_lowercase().into())
    }

    /// Returns its name, in lower case.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// A request extension: when a call, all its waits and attempts included, is to end.
///
/// ```
/// use std::time::Duration;
/// use tower_ews::extensions::Deadline;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(Deadline::within(Duration::from_secs(60)));
/// # });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

/// A request extension: how urgent a call is. It orders the calls that wait for the same thing.
///
/// The more urgent call goes first, whenever it came. A less urgent one is not overtaken for ever: once
/// [`max_overtake`](crate::ledger::LocalLedgerBuilder::max_overtake) has passed, the first of them goes next, and so again each time.
/// [`reserve`](crate::ledger::LocalLedgerBuilder::reserve) keeps permits free for interactive calls.
///
/// ```
/// use tower_ews::extensions::Priority;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(Priority::Bulk);
/// assert!(Priority::Interactive < Priority::default());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Priority {
    /// Somebody waits for the response.
    Interactive,
    /// The default.
    #[default]
    Normal,
    /// A job that has time: a migration, a backup.
    Bulk,
}

impl Deadline {
    /// Creates a deadline that is `time` from now.
    pub fn within(time: Duration) -> Self {
        let now = Instant::now();
        // An absurdly long bound is a year, as tokio's own timers do it.
        Self(
            now.checked_add(time)
                .unwrap_or(now + Duration::from_secs(365 * 86_400)),
        )
    }

    /// Runs `future` until the deadline. A future that ends at once, or at the deadline by itself, ends as it does.
    pub(crate) async fn bound<F: Future>(self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        // Most futures in tests, and calls that are refused at once, need no timer.
        let mut timer = None;
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(self.0)));
            timer.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}
