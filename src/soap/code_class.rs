//! What a response code means: the class of its error, and whether its member was executed.

/// What a response code asks of the caller.
///
/// "ews-throttling-in-exchange", Tables 3 and 4, and the reference page of ResponseCode are the
/// sources; where they give no advice, the class is [`CodeClass::Permanent`].
///
/// ```
/// use tower_ews::soap::{CodeClass, ResponseCode};
///
/// let code = ResponseCode::from_text("ErrorExceededConnectionCount");
/// assert_eq!(code.class(), CodeClass::ThrottleConnectionCount);
/// assert!(code.class().is_throttle());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CodeClass {
    /// `NoError`.
    Success,
    /// A good response with a remark.
    SuccessWithWarning,
    /// Too many calls at once (EWSMaxConcurrency, HangingConnectionLimit): fewer, now.
    ThrottleConnectionCount,
    /// Wait as long as `BackOffMilliseconds` says.
    ThrottleServerBusy,
    /// Too many found rows in memory (EWSFindCountLimit).
    ThrottleFindCount,
    /// Too many subscriptions (EWSMaxSubscriptions).
    ThrottleSubscriptionCount,
    /// Too many mailboxes open.
    ThrottleTooManyObjects,
    /// A sending limit, of hours or a day.
    ThrottleSubmission,
    /// Transient: retry later.
    TransientRetryLater,
    /// `ErrorInternalServerError`: the inner code tells.
    InspectInner,
    /// `ErrorBatchProcessingStopped`: an earlier member of the batch stopped this one.
    NotProcessed,
    /// Fetch the item again for its change key, then try again.
    RefreshThenRetry,
    /// A new subscription or a new synchronisation.
    ResubscribeOrResync,
    /// Another server, another address or another version.
    RerouteOrFix,
    /// Trying again changes nothing.
    Permanent,
    /// Not in the table, and its name tells nothing.
    Unknown,
}

impl CodeClass {
    /// The server is holding the caller back.
    pub const fn is_throttle(self) -> bool {
        matches!(
            self,
            CodeClass::ThrottleConnectionCount
                | CodeClass::ThrottleServerBusy
                | CodeClass::ThrottleFindCount
                | CodeClass::ThrottleSubscriptionCount
                | CodeClass::ThrottleTooManyObjects
                | CodeClass::ThrottleSubmission
        )
    }
}

/// Whether the member that a code stands for was executed.
///
/// ```
/// use tower_ews::soap::{Outcome, ResponseCode};
///
/// assert_eq!(ResponseCode::SERVER_BUSY.outcome(), Outcome::NotExecuted);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Yes.
    Executed,
    /// No: any operation may be sent again.
    NotExecuted,
    /// A part of it was.
    PartlyExecuted,
    /// The code belongs to operations that only read.
    NotApplicableRead,
    /// The question makes no sense (subscriptions, sync states).
    NotApplicable,
    /// Not known.
    Unknown,
}

/// Judges a code that the table does not have by its name.
///
/// The names are those of its neighbours in the table. A refusal by throttling comes before anything is done; of the rest
/// nothing is known.
pub(super) fn by_name(code: &str) -> (CodeClass, Outcome) {
    const PASSES: [&str; 8] = [
        "Timeout",
        "TimedOut",
        "TimeoutExpired",
        "Unavailable",
        "ConnectionFailed",
        "MoveInProgress",
        "Failover",
        "InsufficientResources",
    ];
    if code.starts_with("ErrorInvalid") {
        (CodeClass::Unknown, Outcome::Unknown)
    } else if code.ends_with("ServerBusy") || code.contains("Throttl") {
        (CodeClass::ThrottleServerBusy, Outcome::NotExecuted)
    } else if code.contains("Transient") || PASSES.iter().any(|end| code.ends_with(end)) {
        (CodeClass::TransientRetryLater, Outcome::Unknown)
    } else {
        (CodeClass::Unknown, Outcome::Unknown)
    }
}
