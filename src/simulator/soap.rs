//! SOAP as the server reads and writes it: the request's header facts, answers, faults.

use std::fmt::Write as _;
use std::time::Duration;

use super::policy::Policy;
use super::xml::{self, Element, MESSAGES_NS, Ns, SOAP_NS, TYPES_NS, XmlError, escaped};

pub(super) const BUSY_TEXT: &str =
    "The server cannot service this request right now. Try again later.";

/// What the header and the body of a request say.
#[derive(Debug)]
pub(super) struct Request {
    /// `RequestServerVersion` is Exchange 2010 or older.
    pub(super) old_version: bool,
    /// Whom the caller impersonates, as it stands in the header.
    pub(super) impersonated: Option<String>,
    pub(super) operation: Element,
}

/// An error of one member, or of a whole call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) text: String,
    /// `MessageXml`: names and values.
    pub(super) values: Vec<(&'static str, String)>,
}

impl Failure {
    pub(super) fn new(code: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            text: text.into(),
            values: Vec::new(),
        }
    }

    /// `ErrorServerBusy`; the hint is real time.
    pub(super) fn busy(hint: Option<Duration>) -> Self {
        let values = hint.map(|hint| ("BackOffMilliseconds", milliseconds_up(hint).to_string()));
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

    pub(super) fn connections(limit: u32) -> Self {
        Self {
            values: vec![
                ("Policy", "MaxConcurrency".to_owned()),
                ("MaxConcurrencyLimit", limit.to_string()),
                ("ErrorMessage", over_budget("MaxConcurrency", limit, 0)),
            ],
            ..Self::new(
                "ErrorExceededConnectionCount",
                "You have exceeded the available concurrent connections for your account.  Try again once your \
                 other requests have completed.",
            )
        }
    }

    /// `ErrorServerBusy` of `ConcurrentSyncCalls`; the hint is real time.
    pub(super) fn syncs(limit: u32, hint: Duration) -> Self {
        let mut failure = Self::busy(Some(hint));
        failure.text = format!(
            "{BUSY_TEXT}, {}",
            over_budget("ConcurrentSyncCalls", limit, milliseconds_up(hint))
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

    /// `ResponseClass` of its message.
    pub(super) fn class(&self) -> &'static str {
        match self.code.as_str() {
            "ErrorBatchProcessingStopped" => "Warning",
            _ => "Error",
        }
    }

    /// Whether the members after the one that failed so are left undone (the reference page of `ResponseCode`, on
    /// `ErrorBatchProcessingStopped`; its list is one of examples).
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
            "ErrorServerBusy" | "ErrorTooManyObjectsOpened" | "ErrorExceededFindCountLimit"
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

/// A whole envelope around the operation's response element.
pub(super) fn envelope(policy: &Policy, response: &str) -> String {
    let [major, minor, build, revision] = policy.build;
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><s:Envelope xmlns:s=\"{SOAP_NS}\"><s:Header>\
         <h:ServerVersionInfo MajorVersion=\"{major}\" MinorVersion=\"{minor}\" MajorBuildNumber=\"{build}\" \
         MinorBuildNumber=\"{revision}\" Version=\"{}\" xmlns:h=\"{TYPES_NS}\"/></s:Header>\
         <s:Body xmlns:m=\"{MESSAGES_NS}\" xmlns:t=\"{TYPES_NS}\">{response}</s:Body></s:Envelope>",
        policy.version
    )
}

/// Reads a request.
pub(super) fn read(bytes: &[u8]) -> Result<Request, Failure> {
    let invalid = |what: &str| {
        Failure::new(
            "ErrorSchemaValidation",
            format!("The request failed schema validation: {what}"),
        )
    };
    let root = xml::parse(bytes).map_err(|error: XmlError| invalid(&error.to_string()))?;
    if !root.is(Ns::Soap, "Envelope") {
        return Err(invalid("the root is no SOAP envelope"));
    }
    let section = |name| root.children().find(|child| child.is(Ns::Soap, name));
    let operation = section("Body")
        .and_then(|body| body.children().next())
        .ok_or_else(|| invalid("the envelope has no body"))?
        .clone();
    let header = section("Header");
    let version = header
        .and_then(|header| header.child("RequestServerVersion"))
        .and_then(|version| version.attribute("Version"))
        .unwrap_or_default();
    let impersonated = match header.and_then(|header| header.child("ExchangeImpersonation")) {
        None => None,
        Some(header) => Some(
            header
                .child("ConnectingSID")
                .and_then(|sid| sid.children().next())
                .map(Element::text)
                .filter(|name| !name.is_empty())
                .ok_or_else(|| invalid("ExchangeImpersonation names nobody"))?,
        ),
    };
    Ok(Request {
        old_version: matches!(
            version,
            "Exchange2007" | "Exchange2007_SP1" | "Exchange2010"
        ),
        impersonated,
        operation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_header() {
        let request = read(
            format!(
                "<S:Envelope xmlns:S='{SOAP_NS}' xmlns:q='{TYPES_NS}'><S:Header><q:RequestServerVersion Version='Exchange2010'/>\
                 <q:ExchangeImpersonation><q:ConnectingSID><q:PrimarySmtpAddress> a@contoso.com </q:PrimarySmtpAddress>\
                 </q:ConnectingSID></q:ExchangeImpersonation></S:Header>\
                 <S:Body><GetItem xmlns='{MESSAGES_NS}'/></S:Body></S:Envelope>"
            )
            .as_bytes(),
        )
        .unwrap();
        assert!(request.old_version);
        assert_eq!(request.impersonated.as_deref(), Some("a@contoso.com"));
        assert!(request.operation.is(Ns::Messages, "GetItem"));
    }

    #[test]
    fn refuses_what_is_no_request() {
        for text in [
            "",
            "<a/>",
            &format!("<S:Envelope xmlns:S='{SOAP_NS}'><S:Body/></S:Envelope>"),
        ] {
            assert_eq!(
                read(text.as_bytes()).unwrap_err().code,
                "ErrorSchemaValidation",
                "{text}"
            );
        }
    }

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
