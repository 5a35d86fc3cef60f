//! The errors that the server responds with, as messages and as faults.

use std::fmt::Write as _;
use std::time::Duration;

use super::xml::{SOAP_NS, TYPES_NS, escaped};

pub(super) const BUSY_TEXT: &str =
    "The server cannot service this request right now. Try again later.";

/// An error of one member, or of a whole call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) text: String,
    /// `MessageXml`: names and values.
    pub(super) values: Vec<(&'static str, String)>,
    /// What stands after the error in its response message.
    pub(super) payload: String,
}

impl Failure {
    pub(super) fn new(code: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            text: text.into(),
            values: Vec::new(),
            payload: String::new(),
        }
    }

    /// `ErrorServerBusy`;  back-off is real time.
    pub(super) fn busy(back_off: Option<Duration>) -> Self {
        let values =
            back_off.map(|back_off| ("BackOffMilliseconds", milliseconds_up(back_off).to_string()));
        Self {
            values: values.into_iter().collect(),
            ..Self::new("ErrorServerBusy", BUSY_TEXT)
        }
    }

    /// `ErrorInternalServerError` around an `ErrorServerBusy`.
    pub(super) fn inner_busy() -> Self {
        Self {
            values: vec![
                ("InnerErrorMessageText", BUSY_TEXT.to_owned()),
                ("InnerErrorResponseCode", "ErrorServerBusy".to_owned()),
                ("InnerErrorDescriptiveLinkKey", "0".to_owned()),
            ],
            ..Self::new(
                "ErrorInternalServerError",
                "An internal server error occurred. The operation failed.",
            )
        }
    }

    /// `ErrorExceededConnectionCount` of `MaxConcurrency` or `HangingConnectionLimit`.
    pub(super) fn connections(part: &str, limit: u32) -> Self {
        let mut values = vec![("Policy", part.to_owned())];
        if part == "MaxConcurrency" {
            values.push(("MaxConcurrencyLimit", limit.to_string()));
        }
        values.push(("ErrorMessage", over_budget(part, limit, 0)));
        Self {
            values,
            ..Self::new(
                "ErrorExceededConnectionCount",
                "You have exceeded the available concurrent connections for your account.  Try again once your \
                 other requests have completed.",
            )
        }
    }

    /// `ErrorServerBusy` of a limit on some calls at a time;  back-off is real time.
    pub(super) fn too_many(part: &str, limit: u32, back_off: Duration) -> Self {
        let mut failure = Self::busy(Some(back_off));
        failure.text = format!(
            "{BUSY_TEXT}, {}",
            over_budget(part, limit, milliseconds_up(back_off))
        );
        failure
    }

    /// Not executed, because an earlier member stopped the batch.
    pub(super) fn stopped() -> Self {
        Self::new(
            "ErrorBatchProcessingStopped",
            "Batch processing stopped at an earlier error: this member was not processed.",
        )
    }

    /// The time of a batch was up.
    pub(super) fn timed_out() -> Self {
        Self::new(
            "ErrorTimeoutExpired",
            "The operation did not complete in the time allowed.",
        )
    }

    /// Too many recipients within a day.
    pub(super) fn submission_quota() -> Self {
        Self::new(
            "ErrorSubmissionQuotaExceeded",
            "The message cannot be sent: the sending quota of the account is used up for now.",
        )
    }

    /// Nobody has this address.
    pub(super) fn no_mailbox() -> Self {
        Self::new(
            "ErrorNonExistentMailbox",
            "The SMTP address has no mailbox associated with it.",
        )
    }

    /// An id that is none.
    pub(super) fn malformed_id() -> Self {
        Self::new("ErrorInvalidIdMalformed", "Id is malformed.")
    }

    /// `ResponseClass` of its message.
    pub(super) fn class(&self) -> &'static str {
        match self.code.as_str() {
            "ErrorBatchProcessingStopped" => "Warning",
            _ => "Error",
        }
    }

    /// Whether the members after the one that failed so are left undone (the reference page of
    /// `ResponseCode`, on `ErrorBatchProcessingStopped`; its list is one of examples).
    pub(super) fn stops_batch(&self) -> bool {
        matches!(
            self.code.as_str(),
            "ErrorAccessDenied"
                | "ErrorAccountDisabled"
                | "ErrorADUnavailable"
                | "ErrorADOperation"
                | "ErrorConnectionFailed"
                | "ErrorMailboxStoreUnavailable"
                | "ErrorMailboxMoveInProgress"
                | "ErrorPasswordChangeRequired"
                | "ErrorPasswordExpired"
                | "ErrorQuotaExceeded"
                | "ErrorInsufficientResources"
        )
    }

    /// Whether a member that failed so was refused for lack of some budget, not executed.
    pub(super) fn throttled(&self) -> bool {
        matches!(
            self.code.as_str(),
            "ErrorServerBusy"
                | "ErrorTooManyObjectsOpened"
                | "ErrorExceededFindCountLimit"
                | "ErrorExceededSubscriptionCount"
                | "ErrorSubmissionQuotaExceeded"
        )
    }

    fn message_xml(&self, prefix: &str, out: &mut String) {
        if self.values.is_empty() {
            return;
        }
        let _ = write!(out, "<{prefix}:MessageXml>");
        for (name, value) in &self.values {
            let _ = write!(out, "<t:Value Name=\"{name}\">{}</t:Value>", escaped(value));
        }
        let _ = write!(out, "</{prefix}:MessageXml>");
    }

    /// As the children of a response message, in the schema's order.
    pub(super) fn message(&self, out: &mut String) {
        let _ = write!(
            out,
            "<m:MessageText>{}</m:MessageText><m:ResponseCode>{}</m:ResponseCode>\
             <m:DescriptiveLinkKey>0</m:DescriptiveLinkKey>",
            escaped(&self.text),
            escaped(&self.code)
        );
        self.message_xml("m", out);
        out.push_str(&self.payload);
    }

    /// As a whole envelope with a fault.
    pub(super) fn fault(&self) -> String {
        let (code, text) = (escaped(&self.code), escaped(&self.text));
        let mut detail = String::new();
        self.message_xml("t", &mut detail);
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><s:Envelope xmlns:s=\"{SOAP_NS}\"><s:Body><s:Fault>\
             <faultcode xmlns:a=\"{TYPES_NS}\">a:{code}</faultcode>\
             <faultstring xml:lang=\"en-US\">{text}</faultstring><detail>\
             <e:ResponseCode xmlns:e=\"{ERRORS_NS}\">{code}</e:ResponseCode>\
             <e:Message xmlns:e=\"{ERRORS_NS}\">{text}</e:Message>{}</detail></s:Fault></s:Body></s:Envelope>",
            detail.replacen(
                "<t:MessageXml>",
                &format!("<t:MessageXml xmlns:t=\"{TYPES_NS}\">"),
                1
            )
        )
    }
}

const ERRORS_NS: &str = "http://schemas.microsoft.com/exchange/services/2006/errors";

fn over_budget(part: &str, limit: u32, back_off: u128) -> String {
    format!(
        "This operation exceeds the throttling budget for policy part '{part}', policy value '{limit}',  \
         Budget type: 'Ews'.  Suggested backoff time {back_off} ms."
    )
}

/// Whole milliseconds, rounded up: a client that waits for them is not early.
fn milliseconds_up(time: Duration) -> u128 {
    time.as_nanos().div_ceil(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_never_rounded_down() {
        let failure = Failure::busy(Some(Duration::from_micros(1_001)));
        assert_eq!(failure.values, [("BackOffMilliseconds", "2".to_owned())]);
        assert!(
            failure
                .fault()
                .contains("<t:Value Name=\"BackOffMilliseconds\">2</t:Value>")
        );
    }
}
