//! How long what a response code tells of usually lasts.
use super::code::ResponseCode;
use super::code_class::CodeClass;
use RecoveryTime::{Hours, Minutes, Seconds};

/// How long the condition that a response code tells of usually lasts, where waiting cures it.
///
/// An order of magnitude, from what Microsoft's documents say of the code, or else from what its condition is. It says
/// how often it is worth to ask again, and at which intervals. It is no promise of the server: `BackOffMilliseconds` and
/// `Retry-After` go before it.
///
/// ```
/// use tower_ews::soap::{RecoveryTime, ResponseCode};
///
/// let time = |code| ResponseCode::from_text(code).recovery_time();
/// assert_eq!(time("ErrorInternalServerTransientError"), Some(RecoveryTime::Seconds));
/// assert_eq!(time("ErrorMailboxMoveInProgress"), Some(RecoveryTime::Hours));
/// assert_eq!(time("ErrorItemNotFound"), None);
/// // By its name, as the table does not know it.
/// assert_eq!(time("ErrorGroupServiceUnavailable"), Some(RecoveryTime::Minutes));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RecoveryTime {
    /// Less than a minute: one call failed, or ran into another one.
    Seconds,
    /// Less than an hour: something restarts, fails over, is overloaded, or a budget fills up again.
    Minutes,
    /// Longer than a call should wait: a mailbox is moved, a quota of a day is used up, or somebody has to correct a
    /// configuration.
    Hours,
}

/// The transient codes, sorted. `code_table` has the sources of their classes. Where the reference page of ResponseCode
/// or another document tells of the time, the row says so; the other rows follow from the condition.
static TABLE: [(&str, RecoveryTime); 43] = [
    // One query failed; the next one finds another domain controller.
    ("ErrorADOperation", Seconds),
    // ResponseCode: try again later.
    ("ErrorADUnavailable", Minutes),
    ("ErrorArchiveMailboxSearchFailed", Seconds),
    // Free/busy: what the server finds out about an attendee's server stays as it is.
    ("ErrorAutoDiscoverFailed", Hours),
    // The mailbox's server is down, or its network is.
    ("ErrorConnectionFailed", Minutes),
    // Seen with "This connection to Store is dead": the next call makes a new one.
    ("ErrorConnectionFailedTransientError", Seconds),
    ("ErrorDataSourceOperation", Seconds),
    // One call to another server failed.
    ("ErrorExportRemoteArchiveItemsFailed", Seconds),
    ("ErrorFindRemoteArchiveFolderFailed", Seconds),
    // Of one attendee, whose mailbox or rights are at fault.
    ("ErrorFreeBusyGenerationFailed", Hours),
    ("ErrorGetRemoteArchiveFolderFailed", Seconds),
    ("ErrorGetRemoteArchiveItemFailed", Seconds),
    ("ErrorInstantSearchFailed", Seconds),
    ("ErrorInstantSearchTimeout", Seconds),
    // ResponseCode: the mailbox server is overloaded, try again later.
    ("ErrorInsufficientResources", Minutes),
    // ResponseCode: transient, try again later.
    ("ErrorInternalServerTransientError", Seconds),
    ("ErrorLocationServicesRequestFailed", Seconds),
    ("ErrorLocationServicesRequestTimedOut", Seconds),
    // ResponseCode: typically a configuration error.
    ("ErrorLogonAsNetworkServiceFailed", Hours),
    // Another copy of the database has to be mounted, and clients be routed to it.
    ("ErrorMailboxFailover", Minutes),
    // Free/busy, of one attendee.
    ("ErrorMailboxLogonFailed", Hours),
    // A move lasts as long as its gigabytes need, and where the mailbox is elsewhere already, no wait cures it.
    ("ErrorMailboxMoveInProgress", Hours),
    // ResponseCode: the store is stopping, offline, overloaded or paused.
    ("ErrorMailboxStoreUnavailable", Minutes),
    ("ErrorMeetingSuggestionGenerationFailed", Seconds),
    // ResponseCode: the tracking service is down or busy.
    ("ErrorMessageTrackingTransientError", Minutes),
    ("ErrorNoPublicFolderServerAvailable", Minutes),
    ("ErrorNoRespondingCASInDestinationSite", Minutes),
    ("ErrorNotEnoughMemory", Minutes),
    ("ErrorParsingXMLResponse", Seconds),
    // Free/busy: the call to an attendee's server failed.
    ("ErrorProxyRequestProcessingFailed", Hours),
    // The directory does not say where the mailbox's server is.
    ("ErrorProxyServiceDiscoveryFailed", Hours),
    ("ErrorProxySoapException", Seconds),
    ("ErrorPublicFolderMailboxDiscoveryFailed", Minutes),
    ("ErrorPublicFolderRequestProcessingFailed", Minutes),
    // The copy of the folder is brought up to date by the next synchronisation.
    ("ErrorPublicFolderSyncException", Minutes),
    // Free/busy, of one attendee.
    ("ErrorServiceDiscoveryFailed", Hours),
    ("ErrorServiceUnavailable", Minutes),
    ("ErrorSharingSynchronizationFailed", Minutes),
    // ResponseCode: submit the request at a later time.
    ("ErrorTeamMailboxErrorUnknown", Minutes),
    // "EWS throttling in Exchange": a batch has one minute; a smaller one fits into it.
    ("ErrorTimeoutExpired", Seconds),
    ("ErrorUMServerUnavailable", Minutes),
    ("ErrorUnifiedGroupMailboxUpdateDelayed", Minutes),
    ("ErrorWin32InteropError", Seconds),
];

impl ResponseCode {
    /// How long its condition usually lasts; `None` if waiting does not cure it.
    ///
    /// A code that the table does not have is judged by its name, as its [`class`](Self::class) is. The code that counts
    /// is the inner one of an `ErrorInternalServerError`, if there is one.
    pub fn recovery_time(&self) -> Option<RecoveryTime> {
        match self.class() {
            CodeClass::TransientRetryLater => {
                let code = self.as_str();
                let row = TABLE.binary_search_by(|row| row.0.cmp(code)).ok();
                let known = row.and_then(|row| TABLE.get(row)).map(|row| row.1);
                Some(known.unwrap_or_else(|| by_name(code)))
            }
            // When another call of the same account ends.
            CodeClass::ThrottleConnectionCount | CodeClass::ThrottleFindCount => Some(Seconds),
            // "EWS throttling in Exchange": BackOffMilliseconds of up to five minutes were seen.
            CodeClass::ThrottleServerBusy => Some(Minutes),
            // Mailboxes close when they are idle for some five minutes.
            CodeClass::ThrottleTooManyObjects => Some(Minutes),
            // Subscriptions expire after up to a day, and sending quotas are those of a day.
            CodeClass::ThrottleSubscriptionCount | CodeClass::ThrottleSubmission => Some(Hours),
            CodeClass::InspectInner | CodeClass::NotProcessed => Some(Seconds),
            CodeClass::Success
            | CodeClass::SuccessWithWarning
            | CodeClass::RefreshThenRetry
            | CodeClass::ResubscribeOrResync
            | CodeClass::RerouteOrFix
            | CodeClass::Permanent
            | CodeClass::Unknown => None,
        }
    }
}

/// A transient code that is in no table.
fn by_name(code: &str) -> RecoveryTime {
    let has = |part| code.contains(part);
    if has("MoveInProgress") || has("Discovery") || has("Configuration") {
        Hours
    } else if has("Transient") || has("Timeout") || has("TimedOut") {
        Seconds
    } else {
        Minutes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transient_code_has_a_row_and_no_other() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        let transient: Vec<ResponseCode> = ResponseCode::all()
            .filter(|code| code.class() == CodeClass::TransientRetryLater)
            .collect();
        let rows: Vec<&str> = TABLE.iter().map(|row| row.0).collect();
        let codes: Vec<&str> = transient.iter().map(ResponseCode::as_str).collect();
        assert_eq!(rows, codes);
    }

    #[test]
    fn waiting_cures_what_its_class_says() {
        for code in ResponseCode::all() {
            let cured = code.class().is_throttle()
                || matches!(
                    code.class(),
                    CodeClass::TransientRetryLater
                        | CodeClass::InspectInner
                        | CodeClass::NotProcessed
                );
            assert_eq!(code.recovery_time().is_some(), cured, "{code}");
        }
    }

    #[test]
    fn times() {
        let cases = [
            ("ErrorServerBusy", Some(Minutes)),
            ("ErrorExceededConnectionCount", Some(Seconds)),
            ("ErrorExceededFindCountLimit", Some(Seconds)),
            ("ErrorTooManyObjectsOpened", Some(Minutes)),
            ("ErrorExceededSubscriptionCount", Some(Hours)),
            ("ErrorSubmissionQuotaExceeded", Some(Hours)),
            ("ErrorInternalServerError", Some(Seconds)),
            ("ErrorMailboxMoveInProgress", Some(Hours)),
            ("ErrorLogonAsNetworkServiceFailed", Some(Hours)),
            ("ErrorFreeBusyGenerationFailed", Some(Hours)),
            ("ErrorMailboxFailover", Some(Minutes)),
            ("ErrorTimeoutExpired", Some(Seconds)),
            ("ErrorAccessDenied", None),
            ("NoError", None),
            // By their names.
            ("ErrorArchiveMoveInProgress", Some(Hours)),
            ("ErrorGroupServiceUnavailable", Some(Minutes)),
            ("ErrorSearchTransientError", Some(Seconds)),
            ("ErrorSearchTimedOut", Some(Seconds)),
            ("ErrorGroupServerBusy", Some(Minutes)),
            ("ErrorOfNextYear", None),
            ("", None),
        ];
        for (code, time) in cases {
            assert_eq!(
                ResponseCode::from_text(code).recovery_time(),
                time,
                "{code}"
            );
        }
    }
}
