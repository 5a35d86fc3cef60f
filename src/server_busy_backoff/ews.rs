//! What the answers of Exchange Web Services mean.

use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, Request, StatusCode, response};
use http_body::Body;
use http_body_util::Full;
use memchr::memmem;
use tower::BoxError;

use super::classify::{
    BodyClassifier, ClassifiedResponse, Classify, Idempotency, Outcome, Reading, Refusal,
    RefusalScope, RequestClass, caller_or_authority,
};
use crate::body::{ReplayBody, encoding};
use crate::errors::CutShort;
use crate::principal::Principal;
use crate::soap::member_status::MemberStatus;
use crate::soap::{
    CodeClass, Operation, OperationIdempotency, ResponseCode, ResponseMessage, ResponseScanner,
    ScanError, SidKind,
};

/// Exchange Web Services: reads the operation from the request, and faults and response messages from the answer.
///
/// Takes [`ReplayBody`], whose outline it shares with the other layers, and `Full<Bytes>`, which it reads by itself. A request that
/// it cannot read is sent all the same, and counts as not idempotent.
///
/// What is special:
/// - `ErrorInternalServerError` means what its inner code says; without one, and for `ErrorTimeoutExpired` (a smaller batch is needed),
///   an idempotent request is sent again once.
/// - UpdateItem converges unless it appends to a field or sends mail.
/// - UploadItems converges if each of its items is an `Update` with an `ItemId`.
/// - GetStreamingEvents is handed over after its first message.
/// - A subscription quota and a sending quota are not waited for: nothing but another call, or a day, cures them.
/// - The impersonated mailbox is locked out, and without impersonation the calling account: see [`Classify::principal`].
///
/// ```
/// use http::Request;
/// use tower_ews::body::ReplayBody;
/// use tower_ews::server_busy_backoff::{Classify, EwsClassifier, Idempotency};
///
/// let body = ReplayBody::from(
///     r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
///          <GetFolder xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"/>
///        </s:Body></s:Envelope>"#,
/// );
/// let call = EwsClassifier.request(&Request::new(body));
/// assert_eq!(call.operation, "GetFolder");
/// assert_eq!(call.idempotency, Idempotency::Safe);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct EwsClassifier;

impl Classify<ReplayBody> for EwsClassifier {
    fn request(&self, request: &Request<ReplayBody>) -> RequestClass {
        call(request.body())
    }

    fn answer(&self, _: &RequestClass, head: &response::Parts) -> ClassifiedResponse {
        answer(head)
    }

    fn principal(&self, request: &Request<ReplayBody>) -> Principal {
        impersonated(request.body()).unwrap_or_else(|| caller_or_authority(request))
    }
}

impl Classify<Full<Bytes>> for EwsClassifier {
    fn request(&self, request: &Request<Full<Bytes>>) -> RequestClass {
        call(&replay(request.body()))
    }

    fn answer(&self, _: &RequestClass, head: &response::Parts) -> ClassifiedResponse {
        answer(head)
    }

    fn principal(&self, request: &Request<Full<Bytes>>) -> Principal {
        impersonated(&replay(request.body())).unwrap_or_else(|| caller_or_authority(request))
    }
}

/// A `Full` shows its bytes to whoever polls it, and it is ready at once.
fn replay(body: &Full<Bytes>) -> ReplayBody {
    let mut body = body.clone();
    let mut cx = Context::from_waker(Waker::noop());
    let bytes = match Pin::new(&mut body).poll_frame(&mut cx) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        _ => Bytes::new(),
    };
    ReplayBody::from(bytes)
}

/// The mailbox in whose owner's name a request works. Its copy of the owner's budgets is charged.
fn impersonated(body: &ReplayBody) -> Option<Principal> {
    // Some clients name it in several ways, not always in the same order.
    const BEST: [SidKind; 3] = [
        SidKind::PrimarySmtpAddress,
        SidKind::SmtpAddress,
        SidKind::PrincipalName,
    ];
    let rank = |kind| BEST.iter().position(|best| *best == kind);
    let all = body.outline().ok()?.impersonation();
    let sid = all
        .iter()
        .min_by_key(|sid| rank(sid.kind).unwrap_or(BEST.len()))?;
    Some(Principal::impersonation(&sid.value))
}

fn call(body: &ReplayBody) -> RequestClass {
    let Ok(outline) = body.outline() else {
        return RequestClass::new("an unreadable request", Idempotency::NonIdempotent);
    };
    let Some(operation) = outline.operation() else {
        let name = outline.operation_name().to_owned();
        return RequestClass::new(name, Idempotency::NonIdempotent);
    };
    let resend = match operation.idempotency() {
        OperationIdempotency::Safe => Idempotency::Safe,
        OperationIdempotency::Idempotent | OperationIdempotency::PerMember => {
            match outline.idempotency(|| body.to_bytes()) {
                OperationIdempotency::Idempotent => Idempotency::Idempotent,
                _ => Idempotency::NonIdempotent,
            }
        }
        _ => Idempotency::NonIdempotent,
    };
    let mut call = RequestClass::new(operation.name(), resend);
    call.streaming = operation == Operation::GET_STREAMING_EVENTS;
    call
}

fn answer(head: &response::Parts) -> ClassifiedResponse {
    let mut answer = ClassifiedResponse::by_status(head);
    let unknown = |reason: &'static str| Some(Refusal::new(reason).outcome_unknown());
    if answer.refusal.is_none() {
        answer.refusal = match head.status.as_u16() {
            // Its value is not documented, and is permanent more often than not.
            500 if head.headers.contains_key("x-caserrorcode") => {
                unknown("X-CasErrorCode").map(|refusal| refusal.resends(1))
            }
            500 if encoding(&head.headers).is_none() => unknown("500"),
            502 => unknown("502"),
            504 => unknown("504"),
            302 if is_error_page(&head.headers) => unknown("302 to the generic error page"),
            200..=299 => None,
            _ => return answer,
        };
    }
    // A page of text that says no more than the status is not worth reading.
    let by_body = match head.status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some(false),
        StatusCode::INTERNAL_SERVER_ERROR => Some(true),
        status => status.is_success().then_some(true),
    };
    if by_body.is_some_and(|unless_told| is_xml(&head.headers, unless_told))
        && encoding(&head.headers).is_none()
    {
        answer.reader = Some(Box::new(EwsReader::default()));
    }
    answer
}

fn is_xml(headers: &HeaderMap, unless_told: bool) -> bool {
    headers.get(CONTENT_TYPE).map_or(unless_told, |value| {
        let mut threes = value.as_bytes().windows(3);
        threes.any(|three| three.eq_ignore_ascii_case(b"xml"))
    })
}

fn is_error_page(headers: &HeaderMap) -> bool {
    headers.get(LOCATION).is_some_and(|location| {
        let location = location.as_bytes().to_ascii_lowercase();
        memmem::find(&location, b"/genericerrorpage.htm").is_some()
    })
}

/// Reads faults and response messages.
#[derive(Default)]
struct EwsReader {
    scanner: ResponseScanner,
    findings: Findings,
}

#[derive(Default)]
struct Findings {
    /// Some message is not refused: it was executed, or cannot be cured.
    settled: bool,
    refused: Option<Refusal>,
    is_fault: bool,
    malformed: bool,
}

impl BodyClassifier for EwsReader {
    fn read(&mut self, bytes: &[u8], found: &mut dyn FnMut(&Refusal)) {
        let findings = &mut self.findings;
        let scanned = self.scanner.push(bytes, &mut |message| {
            findings.take(&message, found);
        });
        if let Err(ScanError::Malformed { .. } | ScanError::Unbalanced { .. }) = scanned {
            findings.malformed = true;
        }
    }

    fn so_far(&self) -> Reading {
        let findings = &self.findings;
        match &findings.refused {
            _ if findings.malformed => {
                let refusal = Refusal::new("malformed answer").outcome_unknown();
                Reading::Refused(refusal.resends(1))
            }
            _ if findings.settled => Reading::Final,
            Some(refusal) => Reading::Refused(refusal.clone()),
            // Members that were stopped, but nothing that stopped them.
            None if self.scanner.messages() > 0 => Reading::Final,
            None => Reading::Open,
        }
    }

    fn end(&mut self) -> Result<(), BoxError> {
        match self.scanner.finish() {
            // A fault says all there is to say.
            Err(ScanError::Truncated { .. }) if !self.findings.is_fault => Err(CutShort.into()),
            _ => Ok(()),
        }
    }
}

impl Findings {
    fn take(&mut self, message: &ResponseMessage, found: &mut dyn FnMut(&Refusal)) {
        self.is_fault |= message.is_fault;
        match judge(message) {
            Judgement::Settled => self.settled = true,
            Judgement::Stopped => {}
            Judgement::Refused(refusal) => {
                found(&refusal);
                self.refused = Some(match self.refused.take() {
                    Some(earlier) => merge(earlier, refusal),
                    None => refusal,
                });
            }
        }
    }
}

enum Judgement {
    Settled,
    /// Not begun, because of another member.
    Stopped,
    Refused(Refusal),
}

fn judge(message: &ResponseMessage) -> Judgement {
    let (code, unknown, session_limit) = match message.member_status() {
        MemberStatus::Settled => return Judgement::Settled,
        MemberStatus::Stopped => return Judgement::Stopped,
        MemberStatus::Refused {
            code,
            unknown,
            session_limit,
        } => (code, unknown, session_limit),
    };
    let mut refusal = Refusal::new(reason(code)).hint(message.back_off);
    if unknown {
        refusal = refusal.outcome_unknown();
    }
    Judgement::Refused(match code.class() {
        CodeClass::ThrottleServerBusy => refusal.scope(RefusalScope::Principal),
        CodeClass::ThrottleConnectionCount => refusal.scope(RefusalScope::Connections),
        CodeClass::ThrottleFindCount => refusal.scope(RefusalScope::Found),
        CodeClass::ThrottleTooManyObjects => refusal.scope(RefusalScope::OpenMailboxes),
        _ if session_limit => refusal.scope(RefusalScope::OpenMailboxes),
        CodeClass::InspectInner => refusal.resends(1),
        _ if *code == ResponseCode::TIMEOUT_EXPIRED => refusal.resends(1),
        // "Mailbox server is overloaded": as good as busy.
        _ if code.as_str() == "ErrorInsufficientResources" => {
            refusal.scope(RefusalScope::Principal)
        }
        _ => refusal,
    })
}

fn reason(code: &ResponseCode) -> Cow<'static, str> {
    code.as_str().to_owned().into()
}

/// Both of two refused members: the more far-reaching one gives the name, the longer hint counts, and a doubt stays a doubt.
fn merge(one: Refusal, other: Refusal) -> Refusal {
    let hint = one.hint.max(other.hint);
    let unknown = [one.outcome, other.outcome].contains(&Outcome::Unknown);
    let resends = match (one.resends, other.resends) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let mut both = if reach(other.scope) > reach(one.scope) {
        other
    } else {
        one
    };
    if unknown {
        both = both.outcome_unknown();
    }
    both.hint = hint;
    both.resends = resends;
    both
}

fn reach(scope: RefusalScope) -> u8 {
    match scope {
        RefusalScope::Call => 0,
        RefusalScope::Found => 1,
        RefusalScope::Connections => 2,
        RefusalScope::OpenMailboxes => 3,
        RefusalScope::Principal => 4,
        RefusalScope::Endpoint => 5,
    }
}
