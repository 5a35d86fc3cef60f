//! [`Notification`]: what a listener is told.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;
use tower::BoxError;

use crate::ledger::AcquireError;
use crate::principal::Budget;
use crate::retry::Failure;
use crate::soap::notifications::ItemEvent;
use crate::soap::{CodeClass, ResponseCode};

/// What [`Notifications`](super::Notifications) yields.
///
/// ```
/// use tower_ews::streaming::Notification;
///
/// fn handle(notification: Notification) {
///     match notification {
///         Notification::Item { mailbox, event } => println!("{mailbox}: {:?} {}", event.kind, event.id),
///         // Synchronise the mailbox, from the state of its last synchronisation.
///         Notification::Gap { mailbox, .. } => println!("{mailbox}: synchronise"),
///         Notification::Lost { mailbox, error } => println!("{mailbox}: {error}"),
///         Notification::Starved { budget } => println!("no room in {budget}"),
///         _ => {}
///     }
/// }
/// # let _ = handle;
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Notification {
    /// Something has happened in a mailbox.
    Item {
        /// The mailbox, as it was given.
        mailbox: Arc<str>,
        /// What has happened.
        event: ItemEvent,
    },
    /// The mailbox is listened to from now on, but what has happened in it before may not have been told: synchronise it.
    ///
    /// It comes once for each mailbox at the start, so that the first synchronisation is no special case, and then whenever
    /// events may have got lost.
    Gap {
        /// The mailbox.
        mailbox: Arc<str>,
        /// All that has happened before was told. At the start: when listening began.
        ///
        /// By the clock of this process, and conservative by one message of the stream. Where more events waited at the server
        /// than it sends in one message (50), some of them may be older.
        since: Instant,
    },
    /// The mailbox is not listened to any more: the server refuses it for good, or has refused it 100 times in a row.
    Lost {
        /// The mailbox.
        mailbox: Arc<str>,
        /// Why.
        error: SubscriptionError,
    },
    /// The server has no room for a subscription or a connection. It is tried again, and this is told once until it has room.
    Starved {
        /// [`Budget::Subscriptions`] or [`Budget::HangingConnections`], or the one that calls wait for in the ledger.
        budget: Budget,
    },
}

impl Notification {
    pub(super) fn mailbox(&self) -> Option<&Arc<str>> {
        match self {
            Self::Item { mailbox, .. } | Self::Gap { mailbox, .. } | Self::Lost { mailbox, .. } => {
                Some(mailbox)
            }
            Self::Starved { .. } => None,
        }
    }
}

/// Why a mailbox cannot be subscribed to.
///
/// ```
/// use tower_ews::soap::ResponseCode;
/// use tower_ews::streaming::SubscriptionError;
///
/// let error = SubscriptionError::Refused {
///     code: ResponseCode::from_text("ErrorNonExistentMailbox"),
///     retry_after: None,
/// };
/// assert_eq!(error.to_string(), "the server refuses the subscription: ErrorNonExistentMailbox");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscriptionError {
    /// The server has refused it.
    #[error("the server refuses the subscription: {}", code.as_str())]
    Refused {
        /// Its response code.
        code: ResponseCode,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// A response that is no SOAP.
    #[error("the server responds with HTTP status {status} and no SOAP message")]
    Status {
        /// Its status.
        status: StatusCode,
    },
    /// A successful response that says nothing of a subscription.
    #[error("the server's response cannot be read")]
    Unreadable,
    /// No response.
    #[error("no response from the server: see the source for the cause")]
    NoResponse(#[source] BoxError),
    /// Nobody knows which server has the mailbox.
    #[error("the server of the mailbox was not found: see the source for the cause")]
    NotLocated(#[source] BoxError),
}

const REPLACED: &str = "ErrorNewEventStreamConnectionOpened";

/// What follows from an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Try again, later and later.
    Retry,
    /// The same, and the budget has no room.
    Starved(Budget),
    /// Look for the mailbox's server anew.
    Relocate,
    /// The subscription is gone.
    Resubscribe,
    /// Waiting changes nothing.
    GiveUp,
}

impl SubscriptionError {
    pub(super) fn advice(&self) -> Advice {
        match self {
            Self::Refused { code, .. } => of_code(code),
            Self::Status { status } => match status.as_u16() {
                401 | 403 | 404 | 405 | 410 | 456 => Advice::GiveUp,
                _ => Advice::Retry,
            },
            Self::NoResponse(error) => waited_for(&**error).map_or(Advice::Retry, Advice::Starved),
            Self::Unreadable | Self::NotLocated(_) => Advice::Retry,
        }
    }

    /// Whether the subscription is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.advice() == Advice::Resubscribe
    }

    /// Whether another connection was opened for the subscriptions. They live on (reference page of ResponseCode).
    pub(super) fn is_replaced(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code.as_str() == REPLACED)
    }

    /// Whether the server may have done what it was asked for.
    pub(super) fn may_be_executed(&self) -> bool {
        match self {
            Self::NoResponse(error) => Failure::of(&**error) != Failure::NotSent,
            Self::Unreadable => true,
            Self::Refused { .. } | Self::Status { .. } | Self::NotLocated(_) => false,
        }
    }

    pub(super) fn retry_after(&self) -> Duration {
        match self {
            Self::Refused { retry_after, .. } => retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        }
    }
}

fn of_code(code: &ResponseCode) -> Advice {
    if code.as_str() == REPLACED {
        return Advice::Retry;
    }
    match code.class() {
        CodeClass::ThrottleSubscriptionCount => Advice::Starved(Budget::Subscriptions),
        CodeClass::ThrottleConnectionCount => Advice::Starved(Budget::HangingConnections),
        CodeClass::ResubscribeOrResync => Advice::Resubscribe,
        CodeClass::RerouteOrFix => Advice::Relocate,
        CodeClass::Permanent => Advice::GiveUp,
        _ => Advice::Retry,
    }
}

/// The budget of which the ledger had no room for a call, so that it was not sent.
fn waited_for(error: &(dyn std::error::Error + 'static)) -> Option<Budget> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(AcquireError::TimedOut { contended, .. }) = error.downcast_ref() {
            return contended.budget();
        }
        next = error.source();
    }
    None
}
