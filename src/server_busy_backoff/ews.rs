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
    About, Answer, Call, Classify, Executed, ReadAnswer, Reading, Refusal, Resend,
    caller_or_authority,
};
use crate::body::{ReplayBody, encoding};
use crate::errors::CutShort;
use crate::principal::Principal;
use crate::soap::verdict::Verdict;
use crate::soap::{
    AnswerMessage, AnswerScanner, CodeClass, Idempotence, Operation, ResponseCode, ScanError,
    SidKind,
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
/// use tower_ews::server_busy_backoff::{Classify, EwsClassifier, Resend};
///
/// let body = ReplayBody::from(
///     r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
///          <GetFolder xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"/>
///        </s:Body></s:Envelope>"#,
/// );
/// let call = EwsClassifier.request(&Request::new(body));
/// assert_eq!(call.operation, "GetFolder");
/// assert_eq!(call.resend, Resend::Freely);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct EwsClassifier;

impl Classify<ReplayBody> for EwsClassifier {
    fn request(&self, request: &Request<ReplayBody>) -> Call {
        call(request.body())
    }

    fn answer(&self, _: &Call, head: &response::Parts) -> Answer {
        answer(head)
    }

    fn principal(&self, request: &Request<ReplayBody>) -> Principal {
        impersonated(request.body()).unwrap_or_else(|| caller_or_authority(request))
    }
}

impl Classify<Full<Bytes>> for EwsClassifier {
    fn request(&self, request: &Request<Full<Bytes>>) -> Call {
        call(&replay(request.body()))
    }

    fn answer(&self, _: &Call, head: &response::Parts) -> Answer {
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

fn call(body: &ReplayBody) -> Call {
    let Ok(outline) = body.outline() else {
        return Call::new("an unreadable request", Resend::IfNotExecuted);
    };
    let Some(operation) = outline.operation() else {
        let name = outline.operation_name().to_owned();
        return Call::new(name, Resend::IfNotExecuted);
    };
    let resend = match operation.idempotence() {
        Idempotence::Read => Resend::Freely,
        Idempotence::Converges | Idempotence::Depends => {
            match outline.idempotence(|| body.to_bytes()) {
                Idempotence::Converges => Resend::Converges,
                _ => Resend::IfNotExecuted,
            }
        }
        _ => Resend::IfNotExecuted,
    };
    let mut call = Call::new(operation.name(), resend);
    call.streaming = operation == Operation::GET_STREAMING_EVENTS;
    call
}

fn answer(head: &response::Parts) -> Answer {
    let mut answer = Answer::by_status(head);
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
    scanner: AnswerScanner,
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

impl ReadAnswer for EwsReader {
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
    fn take(&mut self, message: &AnswerMessage, found: &mut dyn FnMut(&Refusal)) {
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

fn judge(message: &AnswerMessage) -> Judgement {
    let (code, unknown, session_limit) = match message.verdict() {
        Verdict::Settled => return Judgement::Settled,
        Verdict::Stopped => return Judgement::Stopped,
        Verdict::Refused {
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
        CodeClass::ThrottleServerBusy => refusal.about(About::Principal),
        CodeClass::ThrottleConnectionCount => refusal.about(About::Connections),
        CodeClass::ThrottleFindCount => refusal.about(About::Found),
        CodeClass::ThrottleTooManyObjects => refusal.about(About::OpenMailboxes),
        _ if session_limit => refusal.about(About::OpenMailboxes),
        CodeClass::InspectInner => refusal.resends(1),
        _ if *code == ResponseCode::TIMEOUT_EXPIRED => refusal.resends(1),
        // "Mailbox server is overloaded": as good as busy.
        _ if code.as_str() == "ErrorInsufficientResources" => refusal.about(About::Principal),
        _ => refusal,
    })
}

fn reason(code: &ResponseCode) -> Cow<'static, str> {
    code.as_str().to_owned().into()
}

/// Both of two refused members: the more far-reaching one gives the name, the longer hint counts, and a doubt stays a doubt.
fn merge(one: Refusal, other: Refusal) -> Refusal {
    let hint = one.hint.max(other.hint);
    let unknown = [one.executed, other.executed].contains(&Executed::Unknown);
    let resends = match (one.resends, other.resends) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let mut both = if reach(other.about) > reach(one.about) {
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

fn reach(about: About) -> u8 {
    match about {
        About::Call => 0,
        About::Found => 1,
        About::Connections => 2,
        About::OpenMailboxes => 3,
        About::Principal => 4,
        About::Endpoint => 5,
    }
}
