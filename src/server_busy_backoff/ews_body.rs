//! [`EwsBody`]: reads the faults and response messages of a response of Exchange Web Services.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use http::StatusCode;
use tower::BoxError;

use super::classify::{BodyClassifier, Outcome, Reading, Refusal, RefusalScope, RequestClass};
use crate::body::inflate::Inflate;
use crate::errors::CutShort;
use crate::principal::Budget;
use crate::soap::member_status::MemberStatus;
use crate::soap::truncation::TruncationMark;
use crate::soap::{
    CodeClass, Operation, ResponseClass, ResponseCode, ResponseMessage, ResponseScanner, ScanError,
    policy_part,
};

/// What is said of a success that is no SOAP, such as a log-in page: it is handed on as it is.
pub(super) fn no_soap() -> Refusal {
    Refusal::new("no SOAP").outcome_unknown().max_retries(0)
}

/// How much of a compressed body is read for refusals, decompressed. Larger ones are handed on unread.
pub(super) const MAX_INFLATED: u64 = 64 * 1024 * 1024;

/// Reads a compressed body. Its bytes go on to the caller as they came.
pub(super) struct Compressed {
    inflate: Inflate,
    body: EwsBody,
    /// Why nothing more is read.
    broken: Option<io::Error>,
}

impl Compressed {
    pub(super) fn new(inflate: Inflate, body: EwsBody) -> Self {
        Self {
            inflate,
            body,
            broken: None,
        }
    }
}

impl BodyClassifier for Compressed {
    fn read(&mut self, bytes: &[u8], found: &mut dyn FnMut(&Refusal)) {
        if self.broken.is_none() {
            let body = &mut self.body;
            let inflated = self.inflate.push(bytes, |bytes| body.read(bytes, found));
            self.broken = inflated.err();
        }
    }

    fn so_far(&self) -> Reading {
        self.body.so_far()
    }

    fn end(&mut self) -> Result<(), BoxError> {
        let body = &mut self.body;
        let ended = match self.broken.take() {
            Some(error) => Err(error),
            None => self.inflate.finish(|bytes| body.read(bytes, &mut |_| {})),
        };
        match ended {
            Ok(()) => body.end(),
            // It was not read to its end.
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Ok(()),
            Err(_) => Err(CutShort.into()),
        }
    }
}

/// Reads faults and response messages.
#[derive(Default)]
pub(super) struct EwsBody {
    scanner: ResponseScanner,
    /// What the head of the response said.
    by_head: Option<Refusal>,
    findings: Findings,
    /// Whether its status says that the request was not executed.
    is_client_error: bool,
    /// Whether the body is incomplete if it says nothing.
    expects_messages: bool,
    /// Of the operation whose responses can have it.
    truncation: Option<TruncationMark>,
}

#[derive(Default)]
struct Findings {
    /// Some message is no refusal: its member was executed, or no wait can cure its error.
    settled: bool,
    /// All refusals in one.
    refusal: Option<Refusal>,
    is_fault: bool,
    /// A fault that does not say that nothing was executed.
    in_doubt: Option<Doubt>,
    malformed: bool,
    /// It may be SOAP, but cannot be read: another character encoding, a DTD.
    unreadable: bool,
}

struct Doubt {
    code: ResponseCode,
    /// Whether the code is understood.
    understood: bool,
    back_off: Option<Duration>,
}

impl BodyClassifier for EwsBody {
    fn read(&mut self, bytes: &[u8], found: &mut dyn FnMut(&Refusal)) {
        let findings = &mut self.findings;
        let doubted = findings.in_doubt.is_some();
        if let Some(truncation) = &mut self.truncation {
            truncation.read(bytes);
        }
        let scanned = self.scanner.push(bytes, &mut |message| {
            findings.take(&message, found);
        });
        match scanned {
            Ok(()) => {}
            Err(ScanError::Malformed { .. } | ScanError::Unbalanced { .. }) => {
                findings.malformed = true
            }
            Err(_) => findings.unreadable = true,
        }
        // The head said nothing of this wait.
        let back_off = findings.in_doubt.as_ref().and_then(|doubt| doubt.back_off);
        if let (false, Some(_), Reading::Refused(refusal)) = (doubted, back_off, self.in_doubt()) {
            found(&refusal);
        }
    }

    fn so_far(&self) -> Reading {
        let findings = &self.findings;
        match &findings.refusal {
            _ if findings.malformed => {
                let refusal = Refusal::new("malformed response").outcome_unknown();
                Reading::Refused(refusal.max_retries(1))
            }
            _ if findings.settled => Reading::Final,
            None if findings.in_doubt.is_some() => self.in_doubt(),
            Some(refusal) => Reading::Refused(refusal.clone()),
            None if self.expects_messages && self.is_no_soap() => Reading::Refused(no_soap()),
            // Members were stopped, but none that stopped them was seen.
            None if self.scanner.messages() > 0 => Reading::Final,
            None => Reading::Open,
        }
    }

    fn end(&mut self) -> Result<(), BoxError> {
        let truncation = self.truncation.as_ref();
        if truncation.is_some_and(TruncationMark::is_found) {
            return Err(CutShort.into());
        }
        match self.scanner.finish() {
            // A fault is complete without the end of its envelope.
            Err(ScanError::Truncated { .. }) if !self.findings.is_fault => Err(CutShort.into()),
            Ok(()) if self.expects_messages && self.scanner.says_nothing() => Err(CutShort.into()),
            _ => Ok(()),
        }
    }
}

impl EwsBody {
    /// Creates the reader of a response to a request of that class. `by_head` is the refusal that its head told.
    pub(super) fn new(class: &RequestClass, status: StatusCode, by_head: Option<Refusal>) -> Self {
        let is_export = class.operation == Operation::EXPORT_ITEMS.name();
        Self {
            by_head,
            is_client_error: status.is_client_error(),
            expects_messages: class.expects_soap && status.is_success(),
            truncation: is_export.then(TruncationMark::default),
            ..Self::default()
        }
    }

    /// Whether it is no SOAP, or none that can be read.
    fn is_no_soap(&self) -> bool {
        let unread = self.findings.unreadable && self.scanner.messages() == 0;
        unread || self.scanner.is_soap() == Some(false)
    }

    /// What a fault means that does not say that nothing was executed. One whose code is not understood is worth as much as its
    /// status, and may say how long to wait.
    fn in_doubt(&self) -> Reading {
        let Some(doubt) = &self.findings.in_doubt else {
            return Reading::Open;
        };
        let code = reason(&doubt.code);
        Reading::Refused(match &self.by_head {
            Some(by_head) if !doubt.understood => Refusal {
                reason: code,
                retry_after: by_head.retry_after.max(doubt.back_off),
                ..by_head.clone()
            },
            None if !doubt.understood && self.is_client_error => return Reading::Final,
            _ => Refusal::new(code).outcome_unknown().max_retries(0),
        })
    }
}

impl Findings {
    fn take(&mut self, message: &ResponseMessage, found: &mut dyn FnMut(&Refusal)) {
        self.is_fault |= message.is_fault;
        match judge(message) {
            Judgement::Settled if leaves_doubt(message) => {
                self.in_doubt = Some(Doubt {
                    code: message.effective_code().clone(),
                    understood: message.is_understood(),
                    back_off: message.back_off,
                });
            }
            Judgement::Settled => self.settled = true,
            Judgement::Stopped => {}
            Judgement::Refused(refusal) => {
                found(&refusal);
                self.refusal = Some(match self.refusal.take() {
                    Some(earlier) => merge(earlier, refusal),
                    None => refusal,
                });
            }
        }
    }
}

/// Whether a fault that no wait cures leaves open what was executed. What a message says of its member is for the caller.
fn leaves_doubt(message: &ResponseMessage) -> bool {
    let code = message.effective_code();
    message.is_fault
        && !code.is_about_the_caller()
        && code.outcome() != crate::soap::Outcome::NotExecuted
}

enum Judgement {
    Settled,
    /// Not executed, because another member stopped the batch.
    Stopped,
    Refused(Refusal),
}

fn judge(message: &ResponseMessage) -> Judgement {
    let effective = message.effective_code();
    let failed = message.class == ResponseClass::Error;
    let moved = failed && effective.names_another_server();
    let (code, unknown, session_limit, max_retries) = match message.member_status() {
        MemberStatus::Settled if moved => {
            let mut refusal = Refusal::new(reason(effective)).max_retries(0).moved(None);
            refusal.of_members = message.is_entry;
            return Judgement::Refused(refusal);
        }
        MemberStatus::Settled
            if message.is_fault && *effective == ResponseCode::IMPERSONATE_USER_DENIED =>
        {
            let mut refusal = Refusal::new(reason(effective)).max_retries(0);
            refusal.about_caller = true;
            return Judgement::Refused(refusal);
        }
        MemberStatus::Settled => return Judgement::Settled,
        MemberStatus::Stopped => return Judgement::Stopped,
        MemberStatus::Refused {
            code,
            unknown,
            session_limit,
            max_retries,
        } => (code, unknown, session_limit, max_retries),
    };
    let mut refusal = Refusal::new(reason(code)).retry_after(message.back_off);
    refusal.max_retries = max_retries;
    refusal.of_members = message.is_entry;
    refusal.moved = moved.then_some(None);
    refusal.limit = named_limit(message, code);
    if unknown {
        refusal = refusal.outcome_unknown();
    }
    Judgement::Refused(match code.class() {
        CodeClass::ThrottleServerBusy => refusal.scope(RefusalScope::Principal),
        CodeClass::ThrottleConnectionCount => refusal.scope(RefusalScope::Concurrency),
        CodeClass::ThrottleFindCount => refusal.scope(RefusalScope::FindCount),
        CodeClass::ThrottleTooManyObjects => refusal.scope(RefusalScope::OpenMailboxes),
        _ if session_limit => refusal.scope(RefusalScope::OpenMailboxes),
        // "Mailbox server is overloaded" means busy.
        _ if code.as_str() == "ErrorInsufficientResources" => {
            refusal.scope(RefusalScope::Principal)
        }
        _ => refusal,
    })
}

/// The limit of what is in flight whose number comes with a refusal.
fn named_limit(message: &ResponseMessage, code: &ResponseCode) -> Option<(Budget, u32)> {
    if let (CodeClass::ThrottleConnectionCount, Some(number)) =
        (code.class(), message.max_concurrency)
    {
        return Some((Budget::Concurrency, number));
    }
    let (part, number) = policy_part(&message.text)?;
    let budget = match part {
        "ConcurrentSyncCalls" => Budget::SyncCalls,
        "EWSMaxConcurrency" => Budget::Concurrency,
        "HangingConnectionLimit" => Budget::HangingConnections,
        "EWSFindCountLimit" => Budget::FindCount,
        "DiscoveryMaxConcurrency" => Budget::Discovery,
        _ => return None,
    };
    Some((budget, number))
}

fn reason(code: &ResponseCode) -> Cow<'static, str> {
    code.as_str().to_owned().into()
}

/// Merges the refusals of two members: the name of the wider scope, the longer wait, the smaller number of retries. An
/// unknown outcome stays unknown.
fn merge(one: Refusal, other: Refusal) -> Refusal {
    let retry_after = one.retry_after.max(other.retry_after);
    let of_members = one.of_members && other.of_members;
    let moved = one.moved.clone().and(other.moved.clone());
    let limit = one.limit.or(other.limit);
    let unknown = [one.outcome, other.outcome].contains(&Outcome::Unknown);
    let max_retries = match (one.max_retries, other.max_retries) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let mut merged = if reach(other.scope) > reach(one.scope) {
        other
    } else {
        one
    };
    if unknown {
        merged = merged.outcome_unknown();
    }
    merged.of_members = of_members;
    merged.moved = moved;
    merged.limit = limit;
    merged.retry_after = retry_after;
    merged.max_retries = max_retries;
    merged
}

/// How many others a refusal of this scope concerns, as a rank.
fn reach(scope: RefusalScope) -> u8 {
    match scope {
        RefusalScope::Call => 0,
        RefusalScope::FindCount => 1,
        RefusalScope::Concurrency => 2,
        RefusalScope::OpenMailboxes => 3,
        RefusalScope::Principal => 4,
        RefusalScope::Endpoint => 5,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::header::CONTENT_ENCODING;
    use http::{HeaderMap, HeaderValue};

    use super::*;

    #[test]
    fn the_refusal_of_two_members_is_named_after_the_wider_scope() {
        use RefusalScope::{Call, Concurrency, Endpoint, FindCount, OpenMailboxes, Principal};
        let scopes = [
            Call,
            FindCount,
            Concurrency,
            OpenMailboxes,
            Principal,
            Endpoint,
        ];
        let refusal = |rank: usize| Refusal::new(format!("{rank}")).scope(scopes[rank]);
        for one in 0..scopes.len() {
            for other in 0..scopes.len() {
                let merged = merge(refusal(one), refusal(other));
                let wider = one.max(other);
                assert_eq!(merged.scope, scopes[wider]);
                assert_eq!(merged.reason, wider.to_string());
            }
        }
        // Of two that reach as far the first one counts.
        let merged = merge(Refusal::new("one"), Refusal::new("other"));
        assert_eq!(merged.reason, "one");
    }

    #[test]
    fn the_refusal_of_two_members_is_of_members_if_both_are() {
        for (one, other) in [(false, false), (false, true), (true, false), (true, true)] {
            let refusal = |of_members| {
                let mut refusal = Refusal::new("busy");
                refusal.of_members = of_members;
                refusal
            };
            let merged = merge(refusal(one), refusal(other));
            assert_eq!(merged.of_members, one && other);
        }
    }

    fn envelope(content: &str) -> String {
        format!(
            r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
            xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"
            ><s:Body>{content}</s:Body></s:Envelope>"#
        )
    }

    fn read(body: &mut impl BodyClassifier, text: &[u8]) {
        body.read(text, &mut |_| {});
    }

    #[test]
    fn a_fault_is_complete_without_the_end_of_its_envelope() {
        let fault = "<s:Fault><faultcode>s:Client</faultcode><faultstring>No.</faultstring>\
                     <detail/></s:Fault>";
        let messages = r#"<m:GetItemResponse><m:ResponseMessages><m:GetItemResponseMessage
            ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode
            ></m:GetItemResponseMessage></m:ResponseMessages></m:GetItemResponse>"#;
        for (content, is_complete) in [(fault, true), (messages, false)] {
            let mut body = EwsBody::default();
            let whole = envelope(content);
            read(
                &mut body,
                whole.trim_end_matches("</s:Envelope>").as_bytes(),
            );
            assert_eq!(body.end().is_ok(), is_complete, "{content}");
        }
    }

    #[test]
    fn members_that_were_stopped_by_none_that_was_seen_leave_nothing_to_wait_for() {
        let mut body = EwsBody::default();
        assert!(matches!(body.so_far(), Reading::Open));
        let stopped = r#"<m:GetItemResponse><m:ResponseMessages><m:GetItemResponseMessage
            ResponseClass="Warning"><m:ResponseCode>ErrorBatchProcessingStopped</m:ResponseCode
            ></m:GetItemResponseMessage></m:ResponseMessages></m:GetItemResponse>"#;
        read(&mut body, envelope(stopped).as_bytes());
        assert!(matches!(body.so_far(), Reading::Final));
    }

    #[test]
    fn a_compressed_body_may_be_too_large_to_read_but_not_cut_short() {
        let text = envelope("<m:GetItemResponse/>");
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        let gzip = encoder.finish().unwrap();
        let headers = [(CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
        let headers: HeaderMap = headers.into_iter().collect();
        for (max, bytes, is_accepted) in [
            (1_000, gzip.len(), true),
            (10, gzip.len(), true),
            (1_000, gzip.len() - 1, false),
        ] {
            let inflate = Inflate::of(&headers, max).unwrap();
            let mut body = Compressed::new(inflate, EwsBody::default());
            read(&mut body, &gzip[..bytes]);
            assert_eq!(body.end().is_ok(), is_accepted, "{max}, {bytes}");
        }
    }
}
