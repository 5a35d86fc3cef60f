//! What a message says of its member: done, not started, or refused.
use super::code::{CodeClass, Outcome, ResponseCode};
use super::message::{ResponseClass, ResponseMessage};
use super::recovery_time::RecoveryTime;

/// Names the mailbox sessions that ran out; it stands in the text of several codes.
const SESSION_LIMIT: &str = "MapiExceptionSessionLimit";

/// What a message says of its member.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MemberStatus<'a> {
    /// It was executed, or no waiting cures it.
    Settled,
    /// Not begun, because of another member.
    Stopped,
    /// Waiting may cure it.
    Refused {
        /// The code that counts: the inner one, where there is one.
        code: &'a ResponseCode,
        /// It may have been executed all the same.
        unknown: bool,
        /// Too many mailboxes are open.
        session_limit: bool,
        /// How often it is worth another try. None for throttling, which ends.
        max_retries: Option<u32>,
    },
}

impl ResponseMessage {
    /// The code that counts: `ErrorInternalServerError` means what its inner code says.
    pub(crate) fn effective_code(&self) -> &ResponseCode {
        match (self.code.class(), &self.inner_code) {
            (CodeClass::InspectInner, Some(inner)) => inner,
            _ => &self.code,
        }
    }

    /// Whether it says more than the status of its response: its code is in the table, or its name tells.
    pub(crate) fn is_understood(&self) -> bool {
        let code = self.effective_code();
        code.is_known() || code.class() != CodeClass::Unknown
    }

    /// What it says of its member. A subscription quota and a sending quota are settled: nothing
    /// but another call, or a day, cures them.
    pub(crate) fn member_status(&self) -> MemberStatus<'_> {
        if self.class == ResponseClass::Success {
            return MemberStatus::Settled;
        }
        let code = self.effective_code();
        let session_limit = self.text.contains(SESSION_LIMIT);
        let refused = |unknown| MemberStatus::Refused {
            code,
            unknown,
            session_limit,
            max_retries: code.max_retries().filter(|_| !session_limit),
        };
        match code.class() {
            CodeClass::ThrottleServerBusy
            | CodeClass::ThrottleConnectionCount
            | CodeClass::ThrottleFindCount
            | CodeClass::ThrottleTooManyObjects => refused(false),
            CodeClass::NotProcessed => MemberStatus::Stopped,
            _ if session_limit => refused(code.outcome() != Outcome::NotExecuted),
            CodeClass::TransientRetryLater => match code.outcome() {
                Outcome::NotExecuted => refused(false),
                Outcome::PartlyExecuted => MemberStatus::Settled,
                _ => refused(true),
            },
            CodeClass::InspectInner => refused(true),
            _ => MemberStatus::Settled,
        }
    }
}

impl ResponseCode {
    /// How often a request is worth another try after this code. None for throttling, which ends.
    fn max_retries(&self) -> Option<u32> {
        match self.class() {
            CodeClass::ThrottleServerBusy
            | CodeClass::ThrottleConnectionCount
            | CodeClass::ThrottleFindCount
            | CodeClass::ThrottleTooManyObjects => None,
            // Nobody knows what it stands for, and the second needs a smaller request.
            CodeClass::InspectInner => Some(1),
            _ if *self == Self::TIMEOUT_EXPIRED => Some(1),
            _ => Some(match self.recovery_time()? {
                RecoveryTime::Seconds => 3,
                // The waits grow to half a minute.
                RecoveryTime::Minutes => 6,
                RecoveryTime::Hours => 1,
            }),
        }
    }

    /// Whether a smaller request, or one for less, is what it asks for.
    pub(crate) fn asks_for_less(&self) -> bool {
        matches!(
            self.as_str(),
            "ErrorTimeoutExpired"
                | "ErrorExceededFindCountLimit"
                | "ErrorMailboxDataArrayTooBig"
                | "ErrorRequestStreamTooBig"
        )
    }

    /// Whether another server has the mailbox, so that Autodiscover has to be asked for its endpoint. `ErrorProxyRequestNotAllowed`
    /// can mean that as well, but more often an error of the configuration, so it is none of them.
    pub(crate) fn names_another_server(&self) -> bool {
        matches!(
            self.as_str(),
            "ErrorCrossSiteRequest"
                | "ErrorMailboxMoveInProgress"
                | "ErrorWrongServerVersion"
                | "ErrorWrongServerVersionDelegate"
        )
    }

    /// Whether Exchange leaves the members undone that follow one that failed with it ([`Self::BATCH_PROCESSING_STOPPED`] in
    /// the reference of ResponseCode, which calls its list examples).
    pub(crate) fn stops_a_batch(&self) -> bool {
        matches!(
            self.as_str(),
            "ErrorAccessDenied"
                | "ErrorAccountDisabled"
                | "ErrorADUnavailable"
                | "ErrorADOperation"
                | "ErrorConnectionFailed"
                | "ErrorInsufficientResources"
                | "ErrorMailboxMoveInProgress"
                | "ErrorMailboxStoreUnavailable"
                | "ErrorPasswordChangeRequired"
                | "ErrorPasswordExpired"
                | "ErrorQuotaExceeded"
        )
    }

    /// Whether, as the code of a fault, it speaks of who calls and how, so that any other request
    /// fares no better.
    pub(crate) fn is_about_the_caller(&self) -> bool {
        let impersonation = memchr::memmem::find(self.as_str().as_bytes(), b"mpersonat").is_some();
        impersonation
            || matches!(
                self.as_str(),
                "ErrorAccountDisabled"
                    | "ErrorAccountSuspend"
                    | "ErrorCallerIsInvalidADAccount"
                    | "ErrorInvalidServerVersion"
                    | "ErrorPasswordExpired"
                    | "ErrorTokenSerializationDenied"
            )
    }
}
