//! Response codes: what each one asks for, and whether the member that it stands for was executed.
use std::fmt;

use super::code_class::by_name;
pub use super::code_class::{CodeClass, Outcome};
use super::code_table::TABLE;
use super::find::same;

/// A response code, such as `ErrorServerBusy`. One that the table does not know keeps its text.
///
/// ```
/// use tower_ews::soap::code::{CodeClass, Outcome, ResponseCode};
///
/// let code = ResponseCode::from_text("  ErrorServerBusy\n");
/// assert_eq!(code, ResponseCode::SERVER_BUSY);
/// assert_eq!(code.class(), CodeClass::ThrottleServerBusy);
/// assert_eq!(code.outcome(), Outcome::NotExecuted);
///
/// let news = ResponseCode::from_text("ErrorOfNextYear");
/// assert_eq!(news.as_str(), "ErrorOfNextYear");
/// assert_eq!(news.class(), CodeClass::Unknown);
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ResponseCode(Repr);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Known(u16),
    Unknown(Box<str>),
}

/// Finds a row at compile time, so that a misspelt constant does not compile.
const fn find(code: &str) -> ResponseCode {
    let mut index = 0;
    while index < TABLE.len() {
        if same(TABLE[index].0.as_bytes(), code.as_bytes()) {
            return ResponseCode(Repr::Known(index as u16));
        }
        index += 1;
    }
    panic!("no such code")
}

macro_rules! codes {
    ($($constant:ident = $code:literal,)*) => {
        impl ResponseCode {
            $(
                #[doc = concat!("`", $code, "`")]
                pub const $constant: ResponseCode = const { find($code) };
            )*
        }
    };
}

codes! {
    NO_ERROR = "NoError",
    ACCESS_DENIED = "ErrorAccessDenied",
    BATCH_PROCESSING_STOPPED = "ErrorBatchProcessingStopped",
    EXCEEDED_CONNECTION_COUNT = "ErrorExceededConnectionCount",
    EXCEEDED_FIND_COUNT_LIMIT = "ErrorExceededFindCountLimit",
    EXCEEDED_SUBSCRIPTION_COUNT = "ErrorExceededSubscriptionCount",
    FOLDER_EXISTS = "ErrorFolderExists",
    FOLDER_NOT_FOUND = "ErrorFolderNotFound",
    IMPERSONATE_USER_DENIED = "ErrorImpersonateUserDenied",
    INTERNAL_SERVER_ERROR = "ErrorInternalServerError",
    INTERNAL_SERVER_TRANSIENT_ERROR = "ErrorInternalServerTransientError",
    INVALID_SERVER_VERSION = "ErrorInvalidServerVersion",
    ITEM_NOT_FOUND = "ErrorItemNotFound",
    NON_PRIMARY_SMTP_ADDRESS = "ErrorNonPrimarySmtpAddress",
    SCHEMA_VALIDATION = "ErrorSchemaValidation",
    SERVER_BUSY = "ErrorServerBusy",
    SUBSCRIPTION_NOT_FOUND = "ErrorSubscriptionNotFound",
    TIMEOUT_EXPIRED = "ErrorTimeoutExpired",
    TOO_MANY_OBJECTS_OPENED = "ErrorTooManyObjectsOpened",
}

impl ResponseCode {
    /// Reads a code, without the white space around it. Every text is a code.
    pub fn from_text(text: &str) -> ResponseCode {
        let text = text.trim();
        // So that reading it off a good response costs no search.
        if text == Self::NO_ERROR.as_str() {
            return Self::NO_ERROR;
        }
        let known = TABLE.binary_search_by(|row| row.0.cmp(text)).ok();
        ResponseCode(match known.and_then(|index| u16::try_from(index).ok()) {
            Some(index) => Repr::Known(index),
            None => Repr::Unknown(text.into()),
        })
    }

    /// All codes of the table, by name: 533, from three public schema generations, the reference
    /// page and the field.
    pub fn all() -> impl Iterator<Item = ResponseCode> {
        (0..TABLE.len() as u16).map(|index| ResponseCode(Repr::Known(index)))
    }

    fn row(&self) -> Option<&'static (&'static str, (CodeClass, Outcome))> {
        match &self.0 {
            Repr::Known(index) => TABLE.get(usize::from(*index)),
            Repr::Unknown(_) => None,
        }
    }

    /// The code as it stands on the wire.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Known(_) => self.row().map_or("", |row| row.0),
            Repr::Unknown(text) => text,
        }
    }

    /// Whether the table has it.
    pub fn is_known(&self) -> bool {
        matches!(self.0, Repr::Known(_))
    }

    /// What it asks of the caller.
    ///
    /// A code that the table does not have is judged by its name if that says that the server is busy
    /// (`...ServerBusy`, `...Throttled`) or that the condition passes (`...TransientError`, `...TimedOut`,
    /// `...Unavailable` and the like). It is [`CodeClass::Unknown`] otherwise.
    pub fn class(&self) -> CodeClass {
        self.kind().0
    }

    /// Whether its member was executed; [`Outcome::Unknown`] if the table does not have it, unless its name says that
    /// the server was busy.
    pub fn outcome(&self) -> Outcome {
        self.kind().1
    }

    fn kind(&self) -> (CodeClass, Outcome) {
        self.row()
            .map_or_else(|| by_name(self.as_str()), |row| row.1)
    }
}

impl fmt::Debug for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_whole() {
        assert_eq!(TABLE.len(), 533);
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        for code in ResponseCode::all() {
            assert_eq!(ResponseCode::from_text(&format!("\n {code}\t")), code);
            assert_ne!(code.class(), CodeClass::Unknown);
            assert!(code.is_known());
        }
        assert!(!ResponseCode::from_text("ErrorOfTomorrow").is_known());
    }

    #[test]
    fn counts_by_column() {
        use {CodeClass as C, Outcome as O};
        let class = |class| {
            ResponseCode::all()
                .filter(|code| code.class() == class)
                .count()
        };
        let expected = [
            (C::Success, 1),
            (C::SuccessWithWarning, 1),
            (C::ThrottleConnectionCount, 1),
            (C::ThrottleServerBusy, 1),
            (C::ThrottleFindCount, 1),
            (C::ThrottleSubscriptionCount, 2),
            (C::ThrottleTooManyObjects, 1),
            (C::ThrottleSubmission, 6),
            (C::TransientRetryLater, 43),
            (C::InspectInner, 1),
            (C::NotProcessed, 1),
            (C::RefreshThenRetry, 4),
            (C::ResubscribeOrResync, 12),
            (C::RerouteOrFix, 14),
            (C::Permanent, 444),
        ];
        for (which, count) in expected {
            assert_eq!(class(which), count, "{which:?}");
        }
        let outcome = |outcome| {
            ResponseCode::all()
                .filter(|code| code.outcome() == outcome)
                .count()
        };
        let expected = [
            (O::Executed, 2),
            (O::NotExecuted, 462),
            (O::PartlyExecuted, 5),
            (O::NotApplicableRead, 19),
            (O::NotApplicable, 13),
            (O::Unknown, 32),
        ];
        for (which, count) in expected {
            assert_eq!(outcome(which), count, "{which:?}");
        }
    }

    #[test]
    fn special_codes() {
        assert_eq!(ResponseCode::TIMEOUT_EXPIRED.outcome(), Outcome::Unknown);
        assert_eq!(
            ResponseCode::BATCH_PROCESSING_STOPPED.class(),
            CodeClass::NotProcessed
        );
        let unknown = ResponseCode::from_text("errorserverbusy");
        assert!(!unknown.is_known());
        assert_eq!(
            (unknown.as_str(), unknown.outcome()),
            ("errorserverbusy", Outcome::Unknown)
        );
        assert_eq!(ResponseCode::from_text("").as_str(), "");
    }

    #[test]
    fn unknown_codes_are_judged_by_their_names() {
        use {CodeClass as C, Outcome as O};
        let busy = (C::ThrottleServerBusy, O::NotExecuted);
        let passes = (C::TransientRetryLater, O::Unknown);
        let unknown = (C::Unknown, O::Unknown);
        let cases = [
            ("ErrorMailboxServerBusy", busy),
            ("ErrorTenantThrottled", busy),
            ("ErrorStoreTransientError", passes),
            ("ErrorTransientStoreFailure", passes),
            ("ErrorSearchTimedOut", passes),
            ("ErrorArchiveTimeout", passes),
            ("ErrorArchiveTimeoutExpired", passes),
            ("ErrorGroupServiceUnavailable", passes),
            ("ErrorArchiveConnectionFailed", passes),
            ("ErrorArchiveMoveInProgress", passes),
            ("ErrorDatabaseFailover", passes),
            ("ErrorArchiveInsufficientResources", passes),
            // These say nothing of the server.
            ("ErrorCalendarBusy", unknown),
            ("ErrorInvalidTimeout", unknown),
            ("ErrorOfNextYear", unknown),
            ("", unknown),
        ];
        for (text, kind) in cases {
            let code = ResponseCode::from_text(text);
            assert!(!code.is_known());
            assert_eq!((code.class(), code.outcome()), kind, "{text}");
        }
    }
}
